"""Runs are kept: what is finished survives kills, is computed once, and is the same wherever it ran."""

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
import toy_demo  # noqa: E402

from demos import __main__ as commands  # noqa: E402
from demos import command, grid, keys, runs  # noqa: E402
from demos import laboratory as lab  # noqa: E402

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
QUIET = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
# jobs in a script's background ignore Ctrl-C, and so would all that they start
QUIET["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)


def counted(calls):
    def run(config):
        calls.append((config["arm"], config["seed"]))
        return toy_demo.run(config)

    return run


def main(demo, out, *more):
    return lab.main([demo], ["--workers", "1", "--out", str(out), *more])


def rows(out, columns="config, result"):
    with sqlite3.connect(out / runs.FILE) as db:
        found = db.execute(f"select {columns} from runs").fetchall()
    db.close()
    return found


def results(out):
    """(arm, seed) -> the result, without what depends on the process that computed it."""
    kept = {}
    for config, result in rows(out):
        config, result = json.loads(config), json.loads(result)
        assert (config["arm"], config["seed"]) not in kept
        kept[config["arm"], config["seed"]] = (result["error_rate"], result["bits"])
    return kept


def summary(out):
    """The summary without what differs from time to time."""
    return {k: v for k, v in json.loads((out / "toy" / "summary.json").read_text()).items() if k != "effort"}


# what is there is not computed again


def test_only_missing_runs_are_computed(tmp_path, capsys):
    calls = []
    toy = toy_demo.demo(counted(calls))
    assert main(toy, tmp_path, "--seeds", "2") == 0
    assert len(calls) == 4
    first = summary(tmp_path)
    assert main(toy, tmp_path, "--seeds", "2") == 0
    assert len(calls) == 4 and summary(tmp_path) == first
    assert "4 of them kept from before" in capsys.readouterr().out
    assert main(toy, tmp_path, "--seeds", "3") == 0
    assert calls[4:] == [("a", 2002), ("b", 2002)]
    assert main(toy, tmp_path, "--seeds", "3", "--fresh") == 0
    assert len(calls) == 12 and len(rows(tmp_path)) == 6


def test_a_run_that_raised_is_kept_with_its_traceback_and_tried_again(tmp_path):
    broken = [True]

    def run(config):
        if broken and config["seed"] == 2001:
            raise RuntimeError("not today")
        return toy_demo.run(config)

    toy = toy_demo.demo(run)
    assert main(toy, tmp_path) == 1
    errors = [error for (error,) in rows(tmp_path, "error") if error]
    assert len(errors) == 2 and all("RuntimeError: not today" in error for error in errors)
    broken.clear()
    assert main(toy, tmp_path) == 0
    assert rows(tmp_path, "count(*), count(error), count(result)") == [(6, 0, 6)]


def test_a_result_is_never_replaced(tmp_path):
    with runs.Runs(tmp_path / runs.FILE) as kept:
        for outcome in ({"v": 1}, {"v": 2}, {"traceback": "Traceback: late"}):
            kept.add("key", "toy", {}, "data", "code", outcome, 1.0)
        assert kept.results("toy") == {"key": {"v": 1}}


def test_numbers_come_back_to_the_bit(tmp_path):
    values = [0.1, 1e-320, float("inf"), float(np.float32(0.1)), 2**60 + 1, True, None]
    with runs.Runs(tmp_path / runs.FILE) as kept:
        kept.add("key", "toy", {}, "", "", {"values": np.array([0.1]), "mixed": values, "f": np.float32(0.1)}, 0.0)
        back = kept.results("toy")["key"]
    assert back["mixed"] == values and back["values"] == [0.1] and back["f"] == float(np.float32(0.1))


def test_the_key_depends_on_configuration_dataset_and_code():
    key = keys.key_of("toy", {"arm": "a", "seed": 1}, "data", "code")
    assert key == keys.key_of("toy", {"seed": 1, "arm": "a"}, "data", "code")  # not on the order
    others = [
        keys.key_of("tot", {"arm": "a", "seed": 1}, "data", "code"),
        keys.key_of("toy", {"arm": "a", "seed": 2}, "data", "code"),
        keys.key_of("toy", {"arm": "a", "seed": 1}, "date", "code"),
        keys.key_of("toy", {"arm": "a", "seed": 1}, "data", "cod"),
    ]
    assert len({key, *others}) == 5
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
    digest = keys.dataset_digest(x, y)
    changed = x.copy()
    changed[2, 1] = np.nextafter(5, 6)
    assert digest == keys.dataset_digest(x.copy(), y)
    assert len({digest, *(keys.dataset_digest(*d) for d in ((changed, y), (x, y[::-1]), (x.T.copy(), y)))}) == 4


def test_code_that_changes_later_does_not_count_as_that_of_the_runs(tmp_path, monkeypatch):
    """The version is taken when the command starts, before the first of several demos has run."""
    toy, versions = toy_demo.demo(), iter(["old", "new"])
    monkeypatch.setattr(command, "code_version", lambda run: {"code": next(versions)})
    assert main(toy, tmp_path) == 0
    assert set(rows(tmp_path, "code")) == {('{"code": "old"}',)}


@pytest.mark.parametrize("result", [{"v": {1, 2}}, {"v": 1j}, 5])
def test_a_result_that_cannot_be_kept_is_an_error_of_that_run_alone(tmp_path, result):
    def run(config):
        return result if config["seed"] == 2001 else toy_demo.run(config)

    assert main(toy_demo.demo(run), tmp_path) == 1
    assert rows(tmp_path, "count(*), count(error)") == [(6, 2)]
    assert summary(tmp_path)["seeds"] == [2000, 2002]


def test_runs_that_another_process_removes_are_missing_and_said_to_be(tmp_path, capsys):
    def run(config):
        if config["seed"] == 2002 and config["arm"] == "b":
            with sqlite3.connect(tmp_path / runs.FILE) as db:
                db.execute("delete from runs where json_extract(config, '$.seed') = 2000")
            db.close()
        return toy_demo.run(config)

    assert main(toy_demo.demo(run), tmp_path) == 1
    assert "2 runs were removed by another process" in capsys.readouterr().err
    assert summary(tmp_path)["seeds"] == [2001, 2002]


def test_a_mistake_in_one_demos_analysis_leaves_the_others_alone(tmp_path, capsys):
    def broken(runs, settings):
        raise ZeroDivisionError("no arms")

    bad = dataclasses.replace(toy_demo.demo(), name="bad", analyse=broken)
    assert lab.main([bad, toy_demo.demo()], ["--workers", "1", "--out", str(tmp_path)]) == 1
    assert "ZeroDivisionError: no arms" in capsys.readouterr().err
    assert len(rows(tmp_path)) == 12 and summary(tmp_path)["demo"] == "toy"


def test_ctrl_c_during_the_analysis_says_what_is_kept(tmp_path, capsys):
    def interrupted(runs, settings):
        raise KeyboardInterrupt

    assert main(dataclasses.replace(toy_demo.demo(), analyse=interrupted), tmp_path) == 130
    assert "toy: interrupted; 6 of 6 runs are kept in " in capsys.readouterr().err


# kills


def test_a_worker_that_dies_while_idle_is_replaced():
    with grid.worker_processes(1) as (worker,):
        first = worker.submit(os.getpid).result()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: worker.pool._broken)
        assert worker.submit(os.getpid).result() != first


def start(out, *more, sleep="0.05", workers="2"):
    command = [sys.executable, str(HERE / "toy_demo.py"), "--workers", workers, "--out", str(out), *more]
    return subprocess.Popen(command, cwd=HERE, env={**ENVIRONMENT, "TOY_SLEEP": sleep}, **QUIET)


def test_nothing_finished_is_lost_by_a_kill_and_nothing_counts_twice(tmp_path):
    """SIGKILL to the whole group, at random moments after so many runs; in the end all is as if nothing had been."""
    assert main(toy_demo.demo(sleep=0.05), tmp_path / "whole", "--seeds", "20") == 0
    out, moments, seen = tmp_path / "killed", random.Random(5), {}
    for least in (1, 3, 7, 11, 16, 20):
        process = start(out, "--seeds", "20", workers="1")
        wait_for(lambda least=least: len(there(out)) >= least, process)
        time.sleep(moments.uniform(0, 0.06))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept = results(out)
        assert seen.items() <= kept.items() and least <= len(kept) < 40
        seen = kept
    process = start(out, "--seeds", "20", workers="1")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert results(out) == results(tmp_path / "whole")
    assert summary(out) == summary(tmp_path / "whole")


def there(out):
    """The rows so far; none where the file or its table is not there yet."""
    try:
        return rows(out) if (out / runs.FILE).exists() else []
    except sqlite3.OperationalError:
        return []


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "--seeds", "20", sleep="0.1")
    wait_for(lambda: len(there(tmp_path)) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out == ""
    kept = len(results(tmp_path))
    assert 3 <= kept < 40 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"toy: interrupted; {kept} of 40 runs are kept in ")
    assert last.endswith("the same command goes on from there")


def test_two_processes_may_fill_one_file(tmp_path):
    both = [start(tmp_path, "--seeds", "6", workers="1") for _ in range(2)]
    for process in both:
        assert process.wait(timeout=60) == 0, process.stderr.read()
        process.communicate()
    assert len(results(tmp_path)) == 12


def wait_for(condition, *processes, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.02)


# files that are something else


@pytest.mark.parametrize("kind", ["text", "truncated", "foreign", "folder"])
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path, capsys, kind):
    path = tmp_path / runs.FILE
    if kind == "text":
        path.write_text("these are my notes, not a database\n" * 50)
    elif kind == "folder":
        path.mkdir()
    else:
        assert main(toy_demo.demo(), tmp_path) == 0
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        else:
            path.unlink()
            with sqlite3.connect(path) as db:
                db.execute("create table runs (recipe text)")
            db.close()
    before = path.read_bytes() if path.is_file() else None
    capsys.readouterr()
    assert main(toy_demo.demo(), tmp_path) == 2
    assert f"{path} can't be used as a file of runs" in capsys.readouterr().err
    assert (path.read_bytes() if path.is_file() else None) == before


# CSV


def test_export_has_a_line_per_run(tmp_path, capsys):
    assert main(toy_demo.demo(arms=["a", "raises"]), tmp_path) == 1
    assert commands.main(["export", "--out", str(tmp_path)]) == 0
    assert "6 runs in " in capsys.readouterr().out
    with (tmp_path / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 and {line["demo"] for line in lines} == {"toy"}
    one = next(line for line in lines if line["config.arm"] == "a" and line["config.seed"] == "2001")
    assert float(one["result.error_rate"]) == toy_demo.run({"arm": "a", "seed": 2001})["error_rate"]
    assert [line["error"] for line in lines if line["error"]] == ["RuntimeError: the net caught fire"]
    assert commands.main(["export", "--out", str(tmp_path / "nowhere")]) == 2


# other executors


def test_bad_executors_are_refused_before_anything_runs(tmp_path, capsys):
    for name, words in [
        ("ray://x", "must be local, mpi or dask://HOST:PORT"),
        (f"dask://127.0.0.1:{free_port()}", "--executor:"),
    ]:
        assert main(toy_demo.demo(), tmp_path, "--executor", name) == 2
        assert words in capsys.readouterr().err
    assert rows(tmp_path) == []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_an_executor_that_breaks_is_an_error_and_not_a_loop():
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

    with ProcessPoolExecutor(1) as pool, pytest.raises(BrokenExecutor, match="terminated abruptly"):
        grid.run_grid(toy_demo.run, [{"arm": "dies", "seed": 1}], 1, "toy", executor=pool)


def test_a_dask_cluster_gives_the_same_bits_though_a_worker_is_killed(tmp_path):
    pytest.importorskip("distributed", reason="dask extra")
    assert main(toy_demo.demo(sleep=0.1), tmp_path / "local", "--seeds", "30") == 0
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    common = {"env": ENVIRONMENT, "cwd": tmp_path, "start_new_session": True, "stderr": subprocess.DEVNULL}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    scheduler = subprocess.Popen([*scheduler, "--no-dashboard", "--no-show"], **common)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    worker += ["--no-nanny", "--memory-limit", "0", "--local-directory", str(tmp_path)]
    workers = [subprocess.Popen([*worker, "--name", str(i)], **common) for i in range(2)]
    sweep = None
    try:
        wait_for(lambda: listens(port), scheduler)
        sweep = start(tmp_path / "dask", "--seeds", "30", "--executor", f"dask://127.0.0.1:{port}", sleep="0.1")
        wait_for(lambda: len({json.loads(result)["pid"] for _, result in there(tmp_path / "dask")}) == 2, sweep)
        os.killpg(workers[0].pid, signal.SIGKILL)
        assert len(rows(tmp_path / "dask")) < 60  # in the middle
        _, err = sweep.communicate(timeout=120)
        assert sweep.returncode == 0, err
    finally:
        for process in (*workers, scheduler, *([sweep] if sweep else [])):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert results(tmp_path / "dask") == results(tmp_path / "local")
    processes = {json.loads(result)["pid"] for _, result in rows(tmp_path / "dask")}
    assert len(processes) == 2 and os.getpid() not in processes


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="no mpiexec: install Open MPI")
def test_mpi_with_one_rank_is_refused_before_anything_runs(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi extra")
    command = [sys.executable, str(HERE / "toy_demo.py"), "--executor", "mpi", "--out", str(tmp_path)]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2 and "at least two ranks, got one: mpiexec -n RANKS" in process.stderr
    assert rows(tmp_path) == []


@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="no mpiexec: install Open MPI")
def test_mpi_gives_the_same_bits(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi extra")
    assert main(toy_demo.demo(sleep=0.3), tmp_path / "local", "--seeds", "4") == 0
    three = ["mpiexec", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]
    process = subprocess.run(
        [*three, str(HERE / "toy_demo.py"), "--seeds", "4", "--executor", "mpi", "--out", str(tmp_path / "mpi")],
        env={**ENVIRONMENT, "TOY_SLEEP": "0.3"},  # time for both workers to get some
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "mpi") == results(tmp_path / "local")
    processes = {json.loads(result)["pid"] for _, result in rows(tmp_path / "mpi")}
    assert os.getpid() not in processes and len(processes) == 2


def test_criteria_that_are_younger_than_their_runs_are_told(tmp_path, capsys, monkeypatch):
    """The same criteria again are as old as they were; another threshold is new, and the runs are older."""
    clock = iter(f"2030-01-01T00:00:{second:02d}+00:00" for second in range(60))
    monkeypatch.setattr(runs, "_now", lambda: next(clock))
    plain = dataclasses.replace(toy_demo.demo(), analyse=None, plot=lambda results, outcomes: [])
    first = dataclasses.replace(plain, criteria=[lab.Less("a", "b", "error_rate", at=0.1, headline=True)])
    other = dataclasses.replace(plain, criteria=[lab.Less("a", "b", "error_rate", at=0.1, bound=-0.5, headline=True)])

    def note(demo):
        assert main(demo, tmp_path) == 0
        capsys.readouterr()
        (found,) = [n for n in summary(tmp_path)["notes"] if n.startswith("criteria")]
        return found

    began = note(first)
    assert began.endswith("written down by 2030-01-01T00:00:00+00:00, before all of these runs")
    assert note(first) == began
    changed = note(other)
    assert changed.split()[1] != began.split()[1]
    assert changed.endswith("after 6 of these 6 runs had been made: they may have been seen")
    assert note(first) == began
