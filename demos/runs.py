"""Runs are kept: one SQLite file per output folder, a row per run, written as soon as the run has ended.

A run's key is the hash of all that its result depends on: the demo, the configuration, the dataset, and the code with
the machine (keys.py). Starting again computes the keys that are missing. Each row is a transaction of its own: killed
at any moment, what was finished is there, once. A run that raised is kept with its traceback, and is tried again the
next time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from demos.output import warn

FILE = "runs.sqlite"
TRACEBACK = "traceback"  # in the outcome of a run that raised, instead of results
PATIENCE = 30.0  # seconds to wait for another process that has the file locked
AT_A_TIME = 1.0  # seconds, then it is said; SQLite itself waits without a word, and without hearing Ctrl-C
APPLICATION = 0x74676264  # marks the file as ours, in SQLite's header
TABLE = """
create table runs (
    key text primary key,
    demo text not null,
    config text not null,   -- JSON
    dataset text not null,  -- digest
    code text not null,     -- JSON: part -> version or digest (of older files: a digest)
    result text,            -- JSON, or null if the run raised
    error text,             -- its traceback
    seconds real not null,
    finished text not null, -- UTC
    digest text not null    -- of all before
) without rowid
"""
CRITERIA = """
create table if not exists criteria (
    demo text not null,
    digest text not null,
    criteria text not null, -- as they were written down
    first text not null,    -- UTC: when a sweep first began with them
    primary key (demo, digest)
) without rowid
"""
HEADERS = ("demo,seconds,finished,error", "demo\r\n")  # how an export begins; the second of no runs
OLD_COLUMNS = 9  # of files from before there were digests


class Runs:
    """The file. Errors: ValueError for a file that is something else, or damaged; it is left as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=min(AT_A_TIME, PATIENCE), isolation_level=None)
        except sqlite3.Error as error:
            raise ValueError(self._refusal(error)) from None
        try:
            self._do("pragma synchronous = full")
            (owner,), (tables,) = (self._one("pragma application_id"), self._one("select count(*) from sqlite_master"))
            if owner != APPLICATION and tables:
                raise sqlite3.DatabaseError("it belongs to another program")
            if not tables:
                self._do("begin immediate")
                if self._one("select count(*) from sqlite_master") == (0,):  # no other process was faster
                    self._do(TABLE)
                    self._do(f"pragma application_id = {APPLICATION}")
                self._do("commit")
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
        self._columns = len(self._do("select * from runs limit 0").description)
        if self._columns == OLD_COLUMNS:
            return
        for *row, digest in self._do("select * from runs"):
            if digest != _digest(row):
                raise sqlite3.DatabaseError(f"it is damaged: the run {row[0]} is not what was written")

    def _refusal(self, error: Exception) -> str:
        remedy = "wait for it" if _is_locked(error) else "move it away"
        return f"{self.path} can't be used as a file of runs ({_words(error)}): {remedy}, or name another"

    def explain(self, error: sqlite3.Error) -> str:
        """What an error in the middle of the work means for the runs."""
        if not self.path.exists():
            return f"{self.path}: was removed while it was in use ({error}); the same command starts over"
        mended = "once that is over" if _is_locked(error) else "once that is mended"
        return f"{self.path}: {_words(error)}; what it has is kept, and {mended} the same command goes on from there"

    def _one(self, statement: str) -> Any:
        return self._do(statement).fetchone()

    def _do(self, statement: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Execute it; where another process has the file locked, say so and wait for it."""
        end, said = time.monotonic() + PATIENCE, False
        while True:
            try:
                return self._db.execute(statement, tuple(values))
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() > end:
                    raise
            if not said:
                warn(f"{self.path} is in use by another process, waiting for up to {PATIENCE:g} s")
                said = True

    def results(self, demo: str) -> dict[str, dict[str, Any]]:
        """key -> result of every run of the demo that ended well."""
        rows = self._do("select key, result from runs where demo = ? and error is null", (demo,))
        return {key: json.loads(result) for key, result in rows}

    def versions(self, demo: str) -> Counter[str]:
        """The versions of code and machine that the demo's results are of, as they are kept -> how many are."""
        rows = self._do("select code, count(*) from runs where demo = ? and error is null group by code", (demo,))
        return Counter(dict(rows.fetchall()))

    def add(self, key: str, demo: str, config: dict, dataset: str, code: str, outcome: dict, seconds: float) -> None:
        """Keep an outcome; where the run is there already and ended well, nothing changes."""
        error = outcome.get(TRACEBACK)
        now = _now()
        result = None if error else encode(outcome)
        row = [key, demo, encode(config), dataset, code, result, error, float(seconds), now]
        row = [*row, _digest(row)][: self._columns]
        replaced = ("result", "error", "seconds", "finished", "digest")[: self._columns - 5]
        self._do(
            f"insert into runs values ({', '.join('?' * len(row))}) on conflict (key) do update set "
            f"{', '.join(f'{name} = excluded.{name}' for name in replaced)} where runs.error is not null",
            row,
        )

    def register(self, demo: str, digest: str, criteria: str) -> str:
        """Keep what a sweep predicts, before it begins; when one first began with it."""
        self._do(CRITERIA)
        self._do("insert or ignore into criteria values (?, ?, ?, ?)", (demo, digest, criteria, _now()))
        (first,) = self._do("select first from criteria where demo = ? and digest = ?", (demo, digest)).fetchone()
        return str(first)

    def finished_before(self, keys: Iterable[str], moment: str) -> int:
        """How many of these runs ended before that."""
        wanted = set(keys)
        return sum(key in wanted for (key,) in self._do("select key from runs where finished < ?", (moment,)))

    def forget(self, demo: str) -> None:
        """Take out all runs of the demo."""
        self._do("delete from runs where demo = ?", (demo,))

    def seconds(self, keys: Iterable[str]) -> float:
        """What these runs took, one after the other."""
        wanted = set(keys)
        return sum(took for key, took in self._do("select key, seconds from runs") if key in wanted)

    def export(self, file: Any) -> int:
        """Write CSV: a line per run, a column for each setting and for each result that is one value. The number of
        lines."""
        rows = [
            {"demo": demo, "seconds": seconds, "finished": finished, "error": (error or "").strip().rpartition("\n")[2]}
            | {f"config.{name}": value for name, value in json.loads(config).items() if _is_value(value)}
            | {f"result.{name}": value for name, value in json.loads(result or "{}").items() if _is_value(value)}
            for demo, config, result, error, seconds, finished in self._do(
                "select demo, config, result, error, seconds, finished from runs order by demo, finished, key"
            )
        ]
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, list(columns) or ["demo"])
        writer.writeheader()
        writer.writerows(rows)
        return len(rows)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


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
