"""Faults while a sweep runs: full disks, locked and damaged files, folders that vanish, a clock that jumps, no reader.

Each time: one line that names the file and says what is kept, what was there before is there to the bit, and the same
command ends as if nothing had been. Kills are in test_demo_runs.py.
"""

import dataclasses
import errno
import io
import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
resource = pytest.importorskip("resource", reason="limits of POSIX systems")
import toy_demo  # noqa: E402
from test_demo_runs import ENVIRONMENT, HERE, ROOT, main, rows  # noqa: E402
from test_faults import room_for  # noqa: E402

from demos import __main__ as commands  # noqa: E402
from demos import grid, output, runs  # noqa: E402

SEED = 0


def results(out):
    """(arm, seed) -> what does not depend on process and time."""
    kept = {}
    for config, result in rows(out):
        config, result = json.loads(config), json.loads(result)
        kept[config["arm"], config["seed"]] = (result["error_rate"], result["bits"])
    return kept


def summary(out):
    """The summary without time, and without the docstring of the module that the run is from."""
    found = json.loads((out / "toy" / "summary.json").read_text())
    return {name: value for name, value in found.items() if name not in ("effort", "question")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What three seeds give undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert main(toy_demo.demo(), out) == 0
    return results(out), summary(out), (out / runs.FILE).read_bytes()


def one_line(capsys, *words):
    err = capsys.readouterr().err
    assert "Traceback" not in err
    found = [line for line in err.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, err


def temporaries(out):
    return [path.name for path in out.rglob("*.tmp")]


# full disks


def test_a_disk_that_is_full_after_any_number_of_bytes(tmp_path, capsys, whole, figure):
    """What was kept before stays, what fits is added, and later the same command ends as if undisturbed."""
    first = tmp_path / "first"
    assert main(toy_demo.demo(), first, "--seeds", "1") == 0
    before, counts = results(first), []
    for room in (0, 100, 4096, 10_000, len(whole[2]) - 1):
        out = tmp_path / str(room)
        shutil.copytree(first, out)
        capsys.readouterr()
        with room_for(room):
            assert main(toy_demo.demo(), out) == 1
        one_line(capsys, str(out / runs.FILE), "what it has is kept", "the same command goes on")
        assert before.items() <= results(out).items() < whole[0].items() and temporaries(out) == []
        counts.append(len(results(out)))
        assert main(toy_demo.demo(), out) == 0
        assert results(out) == whole[0] and summary(out) == whole[1]
    assert counts[0] == 2 and counts[-1] > 2
    figure("full disks during a sweep, nothing lost", len(counts))


def test_a_disk_that_is_full_when_the_figures_are_drawn(tmp_path, capsys, whole):
    def plot(*arguments):
        pictures = toy_demo.plot(*arguments)
        limit.enter_context(room_for(3000))
        return pictures

    assert main(toy_demo.demo(), tmp_path, "--seeds", "1") == 0
    old = (tmp_path / "toy" / "toy.png").read_bytes()
    with ExitStack() as limit:
        assert main(dataclasses.replace(toy_demo.demo(), plot=plot), tmp_path) == 1
    one_line(capsys, "toy.png", "intact", "its runs are in ", "the same command goes on")
    assert (tmp_path / "toy" / "toy.png").read_bytes() == old and temporaries(tmp_path) == []
    assert results(tmp_path) == whole[0]
    assert main(toy_demo.demo(), tmp_path) == 0
    assert summary(tmp_path) == whole[1]


@pytest.mark.parametrize("pages", [6, 9])
def test_sqlite_says_that_the_disk_is_full(tmp_path, capsys, monkeypatch, whole, pages):
    """ENOSPC itself, of which SQLite makes "database or disk is full"."""
    connect, long = sqlite3.connect, toy_demo.demo(lambda c: {**toy_demo.run(c), "bits": "x" * 8000})

    def small(*arguments, **settings):
        db = connect(*arguments, **settings)
        db.execute(f"pragma max_page_count = {pages}")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        assert main(long, tmp_path) == 1
    one_line(capsys, str(tmp_path / runs.FILE), "full; what it has is kept", "the same command goes on")
    kept = results(tmp_path)
    assert 0 < len(kept) < 6
    assert main(long, tmp_path) == 0
    assert kept.items() <= results(tmp_path).items() and len(results(tmp_path)) == 6


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_full_disk_leaves_the_old_page_and_the_old_table(tmp_path, capsys, command):
    if command == "report":
        pytest.importorskip("jinja2", reason="demos extra")
    assert main(toy_demo.demo(), tmp_path) == 0
    commands.report.CLAIMS, claims = [], commands.report.CLAIMS
    target, option = tmp_path / "target", {"report": "--html", "export": "--csv"}[command]
    try:
        for there in (None, b"demo,seconds,finished,error\r\n" if command == "export" else OLD_PAGE):
            if there:
                target.write_bytes(there)
            capsys.readouterr()
            with room_for(100):
                if command == "report":
                    assert commands.report.main(["toy"], ["--out", str(tmp_path), option, str(target)]) == 2
                else:
                    assert commands.main([command, "--out", str(tmp_path), option, str(target)]) == 2
            one_line(capsys, str(target), "intact" if there else "nothing is there")
            assert (target.read_bytes() if target.exists() else None) == there and temporaries(tmp_path) == []
    finally:
        commands.report.CLAIMS = claims


OLD_PAGE = commands.report.BEGINNINGS[1].encode()

SMALL = """
set -e
mount -t tmpfs -o size=48k none "$1"
"$2" toy_demo.py --workers 1 --out "$1" --seeds 5 && exit 9
test ! -e "$1/toy/summary.json"
mount -o remount,size=2m "$1"
"$2" toy_demo.py --workers 1 --out "$1" --seeds 5
"""


def test_a_small_file_system(tmp_path):
    """The real thing: a tmpfs of 48 kB, then more room. Elsewhere the tests above stand for it."""
    inside = ["unshare", "--map-root-user", "--mount", "bash", "-c"]
    try:
        subprocess.run([*inside, f"mount -t tmpfs none {tmp_path}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system of one's own here: {error}")
    done = subprocess.run(
        [*inside, SMALL, "small", str(tmp_path), sys.executable],
        cwd=HERE,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stderr or "full; what it has is kept" in done.stderr
    assert "Traceback" not in done.stderr and "5 seeds from" in done.stdout


# the runs' file


def test_a_file_cut_off_anywhere_is_refused_and_left_alone(tmp_path, whole, figure):
    path, data, refused = tmp_path / runs.FILE, whole[2], 0
    sizes = [*range(2, 200, 13), *range(511, len(data), 1021), len(data) - 1]
    for size in sizes:
        path.write_bytes(data[:size])
        if not data[size:].strip(b"\0"):  # SQLite reads what is missing of a page as zeros
            assert size >= len(data) - 4096
            continue
        with pytest.raises(ValueError, match="move it away, or name another") as caught:
            runs.Runs(path)
        assert str(path) in str(caught.value) and path.read_bytes() == data[:size], size
        refused += 1
    assert refused > 40
    figure("SQLite files cut off, refused and left alone", refused)


def test_a_changed_file_is_refused_or_gives_the_same_numbers(tmp_path, figure):
    """500 random changes, as of a bad disk: never another number, and what is refused is left alone."""
    path, rng = tmp_path / runs.FILE, random.Random(SEED)
    with runs.Runs(path) as kept:
        for i in range(12):
            outcome = {"traceback": "Traceback: no"} if i == 7 else {"v": rng.random(), "w": [rng.random()] * 40}
            kept.add(f"key {i}", "toy", {"arm": "a", "seed": i}, "data", "code", outcome, 1)
        expected = kept.results("toy")
    data, refused = path.read_bytes(), 0
    for _ in range(500):
        changed = bytearray(data)
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:
            changed[at] ^= 1 << rng.randrange(8)
        else:
            size = rng.choice([1, 4, 100, 4096])
            changed[at : at + size] = rng.randbytes(len(changed[at : at + size]))
        path.write_bytes(changed)
        try:
            with runs.Runs(path) as kept:
                assert kept.results("toy") == expected
        except ValueError as error:
            assert str(path) in str(error) and path.read_bytes() == changed
            refused += 1
    assert len(expected) == 11 and 50 < refused < 500
    figure("SQLite files changed at random: refused; the others gave the same numbers", f"{refused} of 500")


def test_a_file_that_would_be_overwritten_in_use_is_refused(tmp_path):
    """Its list of free pages names a page of the table: all rows can be read, and the next one would destroy some."""
    path = tmp_path / runs.FILE
    with runs.Runs(path) as kept:
        for i in range(40):
            kept.add(f"key {i:02d}", "gone" if i % 2 else "toy", {}, "data", "code", {"v": "x" * 2000}, 1.0)
        kept.forget("gone")
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[32:36], "big") > 2  # SQLite's header: the first page of that list
    data[32:36] = (2).to_bytes(4, "big")  # the table's root
    path.write_bytes(data)
    with pytest.raises(ValueError, match="it is damaged"):
        runs.Runs(path)
    assert path.read_bytes() == data


def test_a_file_from_before_there_were_digests_is_read_and_filled(tmp_path, whole):
    assert main(toy_demo.demo(), tmp_path, "--seeds", "2") == 0
    with sqlite3.connect(tmp_path / runs.FILE) as db:
        db.execute("alter table runs drop column digest") if sqlite3.sqlite_version_info >= (3, 35) else pytest.skip(
            "this SQLite can't drop a column"
        )
    db.close()
    assert main(toy_demo.demo(), tmp_path) == 0
    assert results(tmp_path) == whole[0] and len(rows(tmp_path, "*")[0]) == runs.OLD_COLUMNS


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin " + sys.argv[2])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["exclusive", "immediate"])
def test_a_file_that_another_process_has_locked(tmp_path, capsys, monkeypatch, whole, how):
    """exclusive: it can't even be read; immediate: it can't be written when a run has ended."""
    assert main(toy_demo.demo(), tmp_path, "--seeds", "1") == 0
    path = tmp_path / runs.FILE
    before = path.read_bytes()
    monkeypatch.setattr(runs, "PATIENCE", 0.05)
    command = [sys.executable, "-c", HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            capsys.readouterr()
            assert main(toy_demo.demo(), tmp_path) == (2 if how == "exclusive" else 1)
            words = (
                "wait for it" if how == "exclusive" else "what it has is kept, and once that is over the same command"
            )
            one_line(capsys, str(path), "locked by another process for 0.05 s", words)
            assert path.read_bytes() == before
        finally:
            other.communicate("", timeout=20)
    assert main(toy_demo.demo(), tmp_path) == 0
    assert results(tmp_path) == whole[0]


@pytest.mark.parametrize("what", ["folder", "file", "the demo's folder"])
def test_what_is_removed_in_mid_run(tmp_path, capsys, whole, what):
    out = tmp_path / "out"
    victim = {"folder": out, "file": out / runs.FILE, "the demo's folder": out / "toy"}[what]

    def run(config):
        if config["seed"] == 2001 and victim.exists():
            shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        return toy_demo.run(config)

    (tmp_path / "neighbour").write_text("mine")
    code = main(toy_demo.demo(run), out)
    if what == "the demo's folder":  # it is made again
        assert code == 0
    else:
        assert code == 1
        one_line(capsys, str(out / runs.FILE), "was removed while it was in use", "the same command starts over")
        assert main(toy_demo.demo(), out) == 0
    expected = {**whole[1], "command": summary(out)["command"]}  # the run above is in another file than the toy's
    assert results(out) == whole[0] and summary(out) == expected
    assert (tmp_path / "neighbour").read_text() == "mine"


# the clock


def test_a_clock_that_jumps_changes_no_result(tmp_path, monkeypatch, whole):
    """Back by an hour with every look at it, the bar of progress being shown; files dated in the future."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Calendar:
        @staticmethod
        def now(zone):
            return datetime.fromtimestamp(backwards(), zone)

    looks = itertools.count()

    def backwards():
        return 1.7e9 - 3600 * next(looks)

    assert main(toy_demo.demo(), tmp_path, "--seeds", "1") == 0
    os.utime(tmp_path / runs.FILE, (4e9, 4e9))
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        patch.setattr(time, "time", backwards)
        patch.setattr(time, "perf_counter", backwards)
        patch.setattr("tqdm.std.time", backwards)
        patch.setattr(runs, "datetime", Calendar)
        assert main(toy_demo.demo(), tmp_path) == 0
    assert "6/6" in screen.getvalue() and next(looks) > 20
    assert results(tmp_path) == whole[0] and summary(tmp_path) == whole[1]
    assert main(toy_demo.demo(), tmp_path) == 0
    assert commands.main(["export", "--out", str(tmp_path)]) == 0
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 7


# nobody reads


TRAIN = ["-m", "demos.train_cnn", "--epochs", "1", "--batch", "512", "--norm", "none", "--checkpoint"]
CLOSED = {  # shell's words, exit code of the toy: 1 where the report could not be printed, though it was asked for
    "a reader of stdout who is gone": ("| true", 1),
    "stdout on a full disk": ("> /dev/full", 1),
    "a reader of both who is gone": ("2>&1 | true", 1),
    "both closed": (">&- 2>&-", 0),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_the_files_are_written_though_nobody_reads(tmp_path, whole, kind):
    words, expected = CLOSED[kind]
    line = f'"$0" "$@" {words}; exit ${{PIPESTATUS[0]}}'
    command = [sys.executable, "toy_demo.py", "--workers", "1", "--out", str(tmp_path)]
    environment = {**ENVIRONMENT, "TOY_SLEEP": "0.02"}  # time for the reader to be gone
    done = subprocess.run(
        ["bash", "-c", line, *command], cwd=HERE, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert results(tmp_path) == whole[0] and summary(tmp_path)["criteria"] == whole[1]["criteria"]
    if expected == 1 and "2>" not in words:
        assert done.stderr.count("stdout can't be written") == 1  # though there is more to say


@pytest.mark.slow
def test_a_checkpoint_is_written_though_nobody_reads(tmp_path):
    line = '"$0" "$@" | true; exit ${PIPESTATUS[0]}'
    command = [sys.executable, *TRAIN, str(tmp_path / "run.npz")]
    done = subprocess.run(
        ["bash", "-c", line, *command],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stderr.count("stdout can't be written") == 1
    from tinygrad_bn import load

    assert load(tmp_path / "run.npz")["done"] == 1


@pytest.mark.parametrize("error", [OSError("encoder error -2"), OSError(errno.ENOSPC, "No space left on device")])
def test_an_error_without_a_file_gets_one(tmp_path, error):
    """Pillow's, of a figure that it could not write, has no number either."""
    target = Path(tmp_path, "a.png")
    target.write_bytes(b"old")
    words = f"{error.strerror or error}; what was there before is intact"
    with pytest.raises(OSError, match=words) as caught, output.whole(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert caught.value.filename == str(target) and target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_no_stderr_no_bar(monkeypatch, capsys):
    """And its lines don't go to stdout, where print puts them."""
    monkeypatch.setattr(sys, "stderr", None)
    assert grid.run_grid(toy_demo.run, [{"arm": "a", "seed": 1}], 1, "toy")[0]["arm"] == "a"
    assert capsys.readouterr().out == ""
