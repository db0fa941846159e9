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
    finished text not null  -- UTC
) without rowid
"""


class Runs:
    """The file. Errors: ValueError for a file that is something else, or damaged; it is left as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("pragma synchronous = full")
            (owner,), (tables,) = (self._one("pragma application_id"), self._one("select count(*) from sqlite_master"))
            if owner != APPLICATION and tables:
                raise sqlite3.DatabaseError("it belongs to another program")
            if not tables:
                with self._transaction():
                    if self._one("select count(*) from sqlite_master") == (0,):  # no other process was faster
                        self._db.execute(TABLE)
                        self._db.execute(f"pragma application_id = {APPLICATION}")
            self._one("select count(*) from runs")
        except sqlite3.Error as error:
            raise ValueError(
                f"{path} can't be used as a file of runs ({error}): move it away, or name another"
            ) from None

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

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
        row = (key, demo, encode(config), dataset, code, None if error else encode(outcome), error, seconds, now)
        self._db.execute(
            "insert into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (key) do update set result = "
            "excluded.result, error = excluded.error, seconds = excluded.seconds, finished = excluded.finished "
            "where runs.error is not null",
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
