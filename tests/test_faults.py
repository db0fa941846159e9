"""Faults while a checkpoint is saved: a full disk, interrupts, short writes, a clock that jumps.

Each time: the error names the file and says what became of it, and what was there before is there to the byte.
Kills and damaged files are in test_checkpoint.py, damaged files of kernels in test_startup.py, those of the demos in
demos/test_demo_faults.py.
"""

import errno
import io
import os
import random
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb

resource = pytest.importorskip("resource", reason="limits of POSIX systems")
SEED = 0
VALUE = {"x": np.arange(3000.0), "name": "new", "parts": [np.eye(3, dtype=np.float32), 1.5]}


def same(a, b):
    return a.keys() == b.keys() and (a["x"] == b["x"]).all() and (a["parts"][0] == b["parts"][0]).all()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def room_for(size):
    """Files may grow to so many bytes: the system writes what fits, a part, and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, figure):
    """At no place of the file; one byte short as well."""
    path = tmp_path / "run.npz"
    tb.save(path, VALUE)
    size = path.stat().st_size
    tb.save(path, {"x": "old"})
    before = contents(tmp_path)
    sizes = [*range(0, size, 257), size - 1]
    for room in sizes:
        for target, words in ((path, "the file that was there is intact"), (tmp_path / "b", "nothing was saved")):
            with room_for(room), pytest.raises(OSError) as caught:
                tb.save(target, VALUE)
            assert caught.value.errno == errno.EFBIG and caught.value.filename == str(target)
            assert words in str(caught.value) and str(target) in str(caught.value)
            assert contents(tmp_path) == before, room
    with room_for(size):
        tb.save(path, VALUE)
    assert same(tb.load(path), VALUE)
    figure("full disks while a checkpoint was saved, nothing lost", 2 * len(sizes))


class Disk(io.FileIO):
    """Takes a few bytes at a time, and fails after so many."""

    left, most, error = 10**9, 10**9, OSError(errno.ENOSPC, "No space left on device")

    def write(self, data):
        if self.left <= 0:
            raise self.error
        done = super().write(memoryview(data)[: min(self.most, self.left)])
        self.left -= done
        return done


def on(disk, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedWriter(disk(path, mode.replace("b", ""))))


@pytest.mark.parametrize("most", [1, 7, 1000, 4096])
def test_short_writes_are_continued(tmp_path, monkeypatch, most):
    with monkeypatch.context() as patch:
        on(type("Short", (Disk,), {"most": most}), patch)
        tb.save(tmp_path / "a", VALUE)
    tb.save(tmp_path / "b", VALUE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()],
    ids=["ENOSPC", "EIO", "Ctrl-C"],
)
def test_an_error_after_any_number_of_bytes_leaves_the_old_checkpoint(tmp_path, monkeypatch, error, figure):
    path = tmp_path / "run.npz"
    tb.save(path, {"x": "old"})
    before, places = contents(tmp_path), [0, 1, 2, 100, 4095, 4096, 8192, 20_000]
    for left in places:
        with monkeypatch.context() as patch:
            on(type("Failing", (Disk,), {"left": left, "error": error}), patch)
            with pytest.raises(type(error)) as caught:
                tb.save(path, VALUE)
        assert isinstance(error, KeyboardInterrupt) or str(caught.value) == (
            f"[Errno {error.errno}] {error.strerror}; the file that was there is intact: {str(path)!r}"
        )
        assert contents(tmp_path) == before, left
    figure(f"{type(error).__name__} while a checkpoint was written, nothing lost", len(places))


def test_signals_in_the_middle_of_a_save(tmp_path, figure):
    """Ctrl-C at random moments: the old checkpoint or the new one, whole, and no other file."""
    path, rng = tmp_path / "run.npz", random.Random(SEED)
    value = [{"x": np.full(200_000, float(i)), "parts": [np.eye(2)]} for i in range(2)]
    tb.save(path, value[0])
    started = time.perf_counter()
    tb.save(path, value[0])
    usual = time.perf_counter() - started

    saving = False

    def interrupt(number, frame):
        if saving:  # it may come late
            raise KeyboardInterrupt

    interrupted, handler = 0, signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(60):
            try:
                saving = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.02, 1.2) * usual)
                tb.save(path, value[i % 2])
                saving = False
            except KeyboardInterrupt:
                interrupted += 1
            saving = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            found = tb.load(path)
            assert same(found, value[int(found["x"][0])]) and os.listdir(tmp_path) == ["run.npz"], i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 5
    figure("saves interrupted by a signal, nothing lost", interrupted)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zipfile's, of the archive let go
def test_an_interruption_while_an_entry_is_opened_stays_one(tmp_path, monkeypatch):
    """zipfile then complains of the open entry, in place of KeyboardInterrupt."""
    tb.save(tmp_path / "run.npz", {"x": 1})

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zipfile._get_compressor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tb.save(tmp_path / "run.npz", {"x": 2})
    assert tb.load(tmp_path / "run.npz") == {"x": 1} and os.listdir(tmp_path) == ["run.npz"]


def test_signals_that_are_handled_don_t_disturb(tmp_path):
    """EINTR: a system call that a signal interrupts is taken up again."""
    value, seen = {"x": np.arange(1e6), "parts": [np.eye(2)]}, []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        while len(seen) < 20:
            tb.save(tmp_path / "a", value)
            assert same(tb.load(tmp_path / "a"), value)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_removed_in_the_middle_of_a_save(tmp_path, monkeypatch):
    folder, fsync = tmp_path / "runs", os.fsync
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), shutil.rmtree(folder)))
    with pytest.raises(FileNotFoundError, match="nothing was saved") as caught:
        tb.save(folder / "a", VALUE)
    assert caught.value.filename == str(folder / "a") and not folder.exists()


def test_checkpoints_don_t_know_the_time(tmp_path, monkeypatch):
    """The clock says 1970, then 2100, then 1970 again, the file's own times are in the future: the same bytes."""
    path, found = tmp_path / "a", []
    for now in (0.0, 4_102_444_800.0, 1.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "localtime", lambda *at, now=now: time.gmtime(now))
        tb.save(path, VALUE)
        os.utime(path, (now + 1e9, now + 1e9))
        assert same(tb.load(path), VALUE)
        found.append(path.read_bytes())
    assert found[0] == found[1] == found[2]
