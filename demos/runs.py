"""Runs are kept: one SQLite file per output folder, a row per run, written as soon as the run has ended.

A run's key is the hash of all that its result depends on: the demo, the configuration, the dataset, and the code (the
sources of the package, of demos/datasets.py, demos/training.py and the demo's own file, and the versions of NumPy and
Numba). Starting again computes the keys that are missing. Each row is a transaction of its own: killed at any moment,
what was finished is there, once. A run that raised is kept with its traceback, and is tried again the next time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

import numba
import numpy as np

import tinygrad_bn
from demos import datasets, training

FILE = "runs.sqlite"
PATIENCE = 30.0  # seconds to wait for another process that has the file locked
APPLICATION = 0x74676264  # marks the file as ours, in SQLite's header
TABLE = """
create table runs (
    key text primary key,
    demo text not null,
    config text not null,   -- JSON
    dataset text not null,  -- digest
    code text not null,     -- digest
    result text,            -- JSON, or null if the run raised
    error text,             -- its traceback
    seconds real not null,
    finished text not null, -- UTC
    digest text not null    -- of all before
) without rowid
"""
OLD_COLUMNS = 9  # of files from before there were digests


class Runs:
    """The file. Errors: ValueError for a file that is something else, or damaged; it is left as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise ValueError(self._refusal(error)) from None
        try:
            self._db.execute("pragma synchronous = full")
            (owner,), (tables,) = (self._one("pragma application_id"), self._one("select count(*) from sqlite_master"))
            if owner != APPLICATION and tables:
                raise sqlite3.DatabaseError("it belongs to another program")
            if not tables:
                with self._transaction():
                    if self._one("select count(*) from sqlite_master") == (0,):  # no other process was faster
                        self._db.execute(TABLE)
                        self._db.execute(f"pragma application_id = {APPLICATION}")
            self._check()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from names of a damaged table
            self._db.close()
            raise ValueError(self._refusal(error)) from None

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def _check(self) -> None:
        """Read all of the file: a number that a bad disk has changed must not become a result."""
        (found,) = self._one("pragma quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {found}")
        self._columns = len(self._db.execute("select * from runs limit 0").description)
        if self._columns == OLD_COLUMNS:
            return
        for *row, digest in self._db.execute("select * from runs"):
            if digest != _digest(row):
                raise sqlite3.DatabaseError(f"it is damaged: the run {row[0]} is not what was written")

    def _refusal(self, error: Exception) -> str:
        remedy = "wait for it" if _is_locked(error) else "move it away"
        return f"{self.path} can't be used as a file of runs ({_words(error)}): {remedy}, or name another"

    def explain(self, error: sqlite3.Error) -> str:
        """What an error in the middle of the work means for the runs."""
        if not self.path.exists():
            return f"{self.path}: was removed while it was in use ({error}); the same command starts over"
        return f"{self.path}: {_words(error)}; what it has is kept, and the same command goes on from there"

    def _one(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()

    def _transaction(self) -> Any:
        self._db.execute("begin immediate")
        return self._db

    def results(self, demo: str) -> dict[str, dict[str, Any]]:
        """key -> result of every run of the demo that ended well."""
        rows = self._db.execute("select key, result from runs where demo = ? and error is null", (demo,))
        return {key: json.loads(result) for key, result in rows}

    def add(self, key: str, demo: str, config: dict, dataset: str, code: str, outcome: dict, seconds: float) -> None:
        """Keep an outcome; where the run is there already and ended well, nothing changes."""
        error = outcome.get("error")
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        result = None if error else encode(outcome)
        row = [key, demo, encode(config), dataset, code, result, error, float(seconds), now]
        row = [*row, _digest(row)][: self._columns]
        replaced = ("result", "error", "seconds", "finished", "digest")[: self._columns - 5]
        self._db.execute(
            f"insert into runs values ({', '.join('?' * len(row))}) on conflict (key) do update set "
            f"{', '.join(f'{name} = excluded.{name}' for name in replaced)} where runs.error is not null",
            row,
        )

    def forget(self, demo: str) -> None:
        """Take out all runs of the demo."""
        self._db.execute("delete from runs where demo = ?", (demo,))

    def seconds(self, keys: Iterable[str]) -> float:
        """What these runs took, one after the other."""
        wanted = set(keys)
        return sum(took for key, took in self._db.execute("select key, seconds from runs") if key in wanted)

    def export(self, file: Any) -> int:
        """Write CSV: a line per run, a column for each setting and for each result that is one value. The number of
        lines."""
        rows = [
            {"demo": demo, "seconds": seconds, "finished": finished, "error": (error or "").strip().rpartition("\n")[2]}
            | {f"config.{name}": value for name, value in json.loads(config).items() if _is_value(value)}
            | {f"result.{name}": value for name, value in json.loads(result or "{}").items() if _is_value(value)}
            for demo, config, result, error, seconds, finished in self._db.execute(
                "select demo, config, result, error, seconds, finished from runs order by demo, finished, key"
            )
        ]
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, list(columns) or ["demo"])
        writer.writeheader()
        writer.writerows(rows)
        return len(rows)


def _digest(row: list[Any]) -> str:
    return hashlib.sha256(repr(row).encode()).hexdigest()


def _is_locked(error: Exception) -> bool:
    return "locked" in str(error)  # its code is there from Python 3.11 on


def _words(error: Exception) -> str:
    return f"{error} by another process for {PATIENCE:g} s" if _is_locked(error) else str(error)


def _is_value(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def encode(value: Any) -> str:
    """JSON, with NaN and infinity as Python writes and reads them. Errors: TypeError for what JSON can't hold."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a run must return numbers, strings, lists and dicts, got {type(value).__name__}")


def key_of(demo: str, config: dict[str, Any], dataset: str, code: str) -> str:
    """The hash of all that a result depends on."""
    return hashlib.sha256(json.dumps([demo, config, dataset, code], sort_keys=True).encode()).hexdigest()


def dataset_digest(x: np.ndarray, y: np.ndarray) -> str:
    digest = hashlib.sha256()
    for a in (x, y):
        digest.update(f"{a.dtype} {a.shape} ".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()


def code_version(run: Callable[..., Any]) -> str:
    """The hash of the sources that a run's result may depend on; with those of demos that its own demo imports from."""
    module = sys.modules[run.__module__]
    origins = (v if isinstance(v, ModuleType) else sys.modules.get(str(_origin(v))) for v in vars(module).values())
    others = {str(m.__file__) for m in origins if m is not module and hasattr(m, "DEMO")}
    return _code_version(str(module.__file__), tuple(sorted(others)))


def _origin(value: Any) -> Any:
    """The module that a function or class was defined in."""
    return getattr(value, "__module__", None) if isinstance(value, (type, FunctionType)) else None


@cache
def _code_version(own_file: str, others: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256(f"numpy {np.__version__}, numba {numba.__version__}".encode())
    for file in _sources(Path(own_file), [Path(other) for other in others]):
        digest.update(f"\n{file.name}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(own: Path, others: Iterable[Path]) -> Iterator[Path]:
    yield from sorted(Path(str(tinygrad_bn.__file__)).parent.rglob("*.py"))
    yield from (Path(str(module.__file__)) for module in (datasets, training))
    yield own
    yield from sorted(others)
