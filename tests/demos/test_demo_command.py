"""The command line under rough hands: one sentence for what can't be, and nothing saved is lost."""

import csv
import dataclasses
import errno
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
import toy_demo  # noqa: E402
from test_demo_runs import ENVIRONMENT, HERE, ROOT, main, results, rows, summary  # noqa: E402

from demos import __main__ as commands  # noqa: E402
from demos import grid, runs, train_cnn  # noqa: E402
from demos import laboratory as lab  # noqa: E402

posix = pytest.mark.skipif(os.name != "posix", reason="signals, links and devices of POSIX systems")


def shell(line, *command, **environment):
    """Run a line of bash in which "$@" is the command: (exit code of the command, stdout, stderr)."""
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", "bash", sys.executable, *command],
        cwd=HERE,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path, capsys):
    """Three seeds of the toy."""
    assert main(toy_demo.demo(), tmp_path / "a") == 0
    capsys.readouterr()
    return tmp_path / "a"


@pytest.fixture(autouse=True)
def no_claims(monkeypatch):
    monkeypatch.setattr(commands.report, "CLAIMS", [])


def one_sentence(capsys, *words):
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    assert all(word in err for word in words), err


# seeds


def test_the_first_seed_is_in_the_runs_the_summary_and_the_command(tmp_path, capsys):
    assert main(toy_demo.demo(), tmp_path, "--first-seed", "7", "--seeds", "2") == 0
    assert "2 seeds from 7, 4 runs" in capsys.readouterr().out
    found = summary(tmp_path)
    assert found["seeds"] == [7, 8] == found["settings"]["seeds"]
    assert found["command"] == "python -m demos run toy_demo.py --preset quick --seeds 2 --first-seed 7"
    assert {seed for _, seed in results(tmp_path)} == {7, 8}


def test_the_command_asks_for_the_seeds_that_were_asked_for(tmp_path):
    """One of them failed, and is left out; the command that gives the same is that with all three."""
    assert main(toy_demo.demo(arms=["a", "raises"]), tmp_path) == 1
    assert summary(tmp_path)["seeds"] == [2000, 2002]
    assert summary(tmp_path)["command"] == "python -m demos run toy_demo.py --preset quick"


def test_the_command_is_quoted(tmp_path):
    file = tmp_path / "my data; $(x).npz"
    np.savez(file, x=np.eye(20, 3), y=np.arange(20) % 2)
    assert main(toy_demo.demo(), tmp_path, "--dataset", f"npz:{file}") == 0
    assert shlex.split(summary(tmp_path)["command"])[-2:] == ["--dataset", f"npz:{file}"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1000000000"], "--seeds: must be at most 10000, got 1000000000"),
        (["--seeds", "99999999999999999999"], "--seeds: must be at most 10000, got 99999999999999999999"),
        (["--seeds", "٣"], "--seeds: must be a whole number of at least 1"),
        (["--first-seed", "-1"], "--first-seed: must be a whole number of at least 0, got '-1'"),
        (["--first-seed", "9" * 5000], "--first-seed: must be at most"),
        (["--workers", "100000"], "--workers: must be at most 1024, got 100000"),
        (["--out", "~nobody_of_this_name/x"], "--out: must be a path, got '~nobody_of_this_name/x'"),
    ],
)
def test_numbers_and_paths_that_cannot_be(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(toy_demo.demo(), tmp_path / "out", *arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "out").exists()


# what is there is not lost


def test_fresh_deletes_only_when_all_the_rest_is_right(folder, capsys):
    def plan(settings):
        raise ValueError("the preset's lrs must contain 0.1, got []")

    before = rows(folder, "*")
    wrong = [
        (toy_demo.demo(), ["--executor", "ray://x"], "executor must be"),
        (toy_demo.demo(), ["--dataset", "npz:nowhere.npz"], "there is no file"),
        (dataclasses.replace(toy_demo.demo(), plan=plan), [], "toy: the preset's lrs must contain 0.1"),
        (dataclasses.replace(toy_demo.demo(), sizes={"train": 10**6}), [], "1000000 are needed"),
        (
            dataclasses.replace(toy_demo.demo(), check=lambda settings, x, y: split_nothing(x)),
            [],
            "toy: images must be",
        ),
    ]
    for demo, options, words in wrong:
        assert main(demo, folder, "--fresh", *options) == 2
        one_sentence(capsys, words)
    with pytest.raises(SystemExit):
        main(toy_demo.demo(), folder, "--fresh", "--seeds", "99999999999999999999")
    assert rows(folder, "*") == before


def split_nothing(x):
    raise ValueError(f"images must be 8x8 or larger, got {x.shape[1]} features")


def test_fresh_deletes_the_runs_of_this_demo_only(folder):
    other = dataclasses.replace(toy_demo.demo(), name="other")
    assert main(other, folder) == 0
    before = {row for row in rows(folder, "*") if "other" in row}
    finished = dict(rows(folder, "key, finished"))
    time.sleep(1.1)  # of which times are multiples
    assert main(toy_demo.demo(), folder, "--fresh", "--seeds", "1") == 0
    assert {row for row in rows(folder, "*") if "other" in row} == before and len(before) == 6
    (a, b) = [(key, when) for key, when, demo in rows(folder, "key, finished, demo") if demo == "toy"]
    assert finished[a[0]] < a[1] and finished[b[0]] < b[1]


TARGETS = {
    "the runs": "runs.sqlite",
    "a summary": "toy/summary.json",
    "a figure": "toy/toy.svg",
    "notes": "notes.txt",
    "a page of somebody else": "page.html",
    "a table of somebody else": "table.csv",
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("what", TARGETS)
@pytest.mark.parametrize(("command", "option"), [("export", "--csv"), ("report", "--html")])
def test_nothing_else_is_overwritten(folder, capsys, command, option, what, linked):
    if command == "report":
        pytest.importorskip("jinja2", reason="demos extra")
    (folder / "notes.txt").write_text("my notes\n")
    (folder / "page.html").write_text('<!doctype html>\n<html lang="en">\n<title>Mine</title>')
    (folder / "table.csv").write_text("a,b\n1,2\n")
    target = folder / TARGETS[what]
    named = folder / "link" if linked else target
    if linked:
        named.symlink_to(target)
    before = target.read_bytes()
    assert commands.main([command, "--out", str(folder), option, str(named)]) == 2
    one_sentence(capsys, f"{option}: {named} is there and is no ", "not overwritten")
    assert target.read_bytes() == before and named.is_symlink() == linked


@posix
@pytest.mark.parametrize(("command", "option"), [("export", "--csv"), ("report", "--html")])
def test_a_link_is_written_through(folder, tmp_path, command, option):
    if command == "report":
        pytest.importorskip("jinja2", reason="demos extra")
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "file"
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):  # it is made, and then replaced by one of the same kind
        assert commands.main([command, "--out", str(folder), option, str(link)]) == 0
        assert link.is_symlink() and target.stat().st_size > 100
        assert os.listdir(target.parent) == ["file"]


@posix
def test_figures_and_summaries_that_are_links_are_written_through(folder, tmp_path):
    for name in ("toy.svg", "toy.png"):
        shutil.move(folder / "toy" / name, tmp_path / name)
        (folder / "toy" / name).symlink_to(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
    assert main(toy_demo.demo(), folder) == 0
    assert (folder / "toy" / "toy.svg").is_symlink() and b"</svg>" in (tmp_path / "toy.svg").read_bytes()


@posix
def test_devices_and_pipes_are_written_through(folder, tmp_path):
    command = ["-m", "demos", "export", "--out", str(folder), "--csv"]
    code, out, err = shell('"$@"', *command, "/dev/stdout")
    assert code == 0 and len(list(csv.DictReader(out.splitlines()))) == 6 and "6 runs in /dev/stdout" in err
    code, out, err = shell('"$@" >> "$FILE"', *command, "/dev/stdout", FILE=str(tmp_path / "log"))
    assert code == 0 and (tmp_path / "log").read_text().count("toy,") == 6
    assert shell('"$@"', *command, "/dev/null")[0] == 0 and Path("/dev/null").is_char_device()
    code, _, err = shell('"$@"', *command, "/dev/full")
    assert code == 2 and err == "--csv: /dev/full: No space left on device\n"
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert commands.main(["export", "--out", str(folder), "--csv", str(pipe)]) == 0
    reader.join(timeout=20)
    assert read[0].count("toy,") == 6 and pipe.is_fifo()


# nobody reads, or in other letters


@posix
@pytest.mark.parametrize("options", [[], ["-OO"]])
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "demos", "--help"],
        ["-m", "demos", "export", "--help"],
        ["-m", "demos.train_cnn", "--help"],
        ["-m", "toy_demo", "--help"],
    ],
)
def test_help_that_nobody_reads(command, options):
    if not options:
        assert shell('"$@" | true', *options, *command, PYTHONUNBUFFERED="1")[0] in (0, 1)
        assert shell('"$@" > /dev/full', *options, *command)[0] in (0, 1)
    code, out, err = shell('"$@"', *options, *command)
    assert code == 0 and "--" in out and err == ""


@posix
@pytest.mark.parametrize("command", ["report", "export"])
def test_a_command_that_nobody_reads(folder, command):
    if command == "report":
        pytest.importorskip("jinja2", reason="demos extra")
    arguments = ["-m", "demos", command, "--out", str(folder)]
    file = folder / {"report": "report.html", "export": "runs.csv"}[command]
    for line in ('"$@" | true', '"$@" > /dev/full', '"$@" 2>&1 >&- | true'):
        file.unlink(missing_ok=True)
        shell(line, *arguments)
        assert file.stat().st_size > 100
    file.unlink()
    code, out, err = shell('"$@"', "-OO", *arguments)
    assert (code == 0 or "names what" in err) and file.exists() and str(file) in out


@posix
def test_a_path_of_other_letters_on_a_plain_terminal(tmp_path):
    out = tmp_path / "größe γ"
    code, said, _ = shell('"$@"', "toy_demo.py", "--workers", "1", "--out", str(out), PYTHONIOENCODING="ascii")
    assert code == 0 and "gr\\xf6\\xdfe \\u03b3" in said and (out / "toy" / "summary.json").exists()
    assert shell('"$@"', "-m", "demos", "export", "--out", str(out), PYTHONIOENCODING="ascii:strict")[0] == 0
    code, _, err = shell('"$@"', "-m", "demos", "export", "--out", f"{out}.", PYTHONIOENCODING="ascii:strict")
    assert code == 2 and "\\u03b3" in err


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert lab.main([toy_demo.demo()], ["--workers", "1", "--out=~/x"]) == 0
    assert commands.main(["export", "--out=~/x", "--csv=~/t.csv"]) == 0
    assert (tmp_path / "home" / "x" / runs.FILE).exists() and (tmp_path / "home" / "t.csv").exists()
    assert os.listdir(tmp_path) == ["home"]


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(toy_demo.demo(), tmp_path / "file") == 2
    one_sentence(capsys, f"--out: must be a folder, {tmp_path / 'file'} is a file")


@pytest.mark.parametrize("name", ["../x", "a b", '"><script>', "", "1"])
def test_a_demos_name_must_do_as_a_folder(name, tmp_path, capsys):
    assert main(dataclasses.replace(toy_demo.demo(), name=name), tmp_path / "out") == 2
    one_sentence(capsys, "a demo's name must be letters, digits, _ and -")
    assert not (tmp_path / "out").exists()


# what a run returns


def test_a_metric_may_be_called_error(tmp_path):
    assert main(toy_demo.demo(lambda config: {**toy_demo.run(config), "error": 0.5}), tmp_path) == 0
    assert [json.loads(result)["error"] for _, result in rows(tmp_path)] == [0.5] * 6
    assert rows(tmp_path, "count(error)") == [(0,)]


@pytest.mark.parametrize("name", ["seed", "arm", "lr", "dataset", "traceback"])
def test_a_metric_that_takes_a_settings_name_is_refused_at_the_first_run(name, tmp_path, capsys):
    calls = []

    def run(config):
        calls.append(config)
        return {**toy_demo.run(config), name: 1}

    assert main(toy_demo.demo(run), tmp_path) == 1
    err = capsys.readouterr().err
    assert f"a run must not return {name!r}" in err and "give the result another name; 0 of 6 runs are kept" in err
    assert len(calls) == 1 and "Traceback" not in err and "goes on" not in err and "one page" not in err


def test_a_run_that_workers_cannot_import_is_refused(tmp_path, capsys):
    def run(config):
        return toy_demo.run(config)

    assert main(toy_demo.demo(run), tmp_path, "--workers", "2") == 1
    err = capsys.readouterr().err
    assert "run must be a function at the top of a module" in err and " died" not in err and "Traceback" not in err


# data that changes


def test_data_that_is_replaced_while_workers_start_is_refused(tmp_path, capsys):
    file = tmp_path / "d.npz"

    def write(seed):
        np.savez(file, x=np.random.default_rng(seed).normal(size=(60, 3)), y=np.arange(60) % 2)

    write(0)
    toy = dataclasses.replace(toy_demo.demo(), check=lambda settings, x, y: write(1))  # this process has loaded it
    assert main(toy, tmp_path / "out", "--dataset", f"npz:{file}", "--workers", "2") == 1
    err = capsys.readouterr().err
    assert f"loaded other data from npz:{file} than the sweep began with: was the file replaced" in err
    assert "Traceback" not in err and rows(tmp_path / "out") == []


@pytest.mark.parametrize("features, words", [(8, "square images"), (49, "8x8 or larger, to be halved twice, got 7x7")])
def test_images_that_norm_family_cannot_use_are_refused_before_any_run(features, words, tmp_path, capsys):
    from demos import norm_family

    np.savez(tmp_path / "d.npz", x=np.eye(2000, features), y=np.arange(2000) % 2)
    assert main(norm_family.DEMO, tmp_path / "out", "--dataset", f"npz:{tmp_path / 'd.npz'}") == 2
    one_sentence(capsys, "norm_family: ", words)
    assert not (tmp_path / "out").exists()


def test_a_preset_too_short_to_measure_drift_is_refused_before_any_run(tmp_path, capsys):
    from demos import covariate_shift

    presets = {"quick": {**covariate_shift.PRESETS["quick"], "steps": 40}}
    assert main(dataclasses.replace(covariate_shift.DEMO, presets=presets), tmp_path / "out") == 2
    one_sentence(capsys, "covariate_shift: the preset's steps must be at least 50, got 40")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spec, words", [("npz:~nobody_of_this_name/x", "no home folder"), ("npz:/dev/null", "no file")]
)
def test_data_that_cannot_be_is_one_sentence(spec, words, tmp_path, capsys):
    assert main(toy_demo.demo(), tmp_path / "out", "--dataset", spec) == 2
    one_sentence(capsys, f"--dataset {spec}: ", words)


# words


def test_a_lock_is_said_before_it_is_waited_for(folder, capsys, monkeypatch):
    monkeypatch.setattr(runs, "AT_A_TIME", 0.1)
    with sqlite3.connect(folder / runs.FILE, isolation_level=None, check_same_thread=False) as other:
        other.execute("begin exclusive")
        later = threading.Timer(1.0, lambda: other.execute("commit"))
        later.start()
        assert main(toy_demo.demo(), folder) == 0
        later.join()
    other.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if "in use by another process, waiting" in line]
    assert len(lines) == 1 and str(folder / runs.FILE) in lines[0]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EMFILE, "ulimit -n"), (errno.ENOSPC, "room in /dev/shm"), (errno.EAGAIN, "ulimit -u")],
)
def test_what_a_worker_needs_to_start_is_said(tmp_path, capsys, monkeypatch, number, words):
    def pool(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(grid, "ProcessPoolExecutor", pool)
    assert main(toy_demo.demo(), tmp_path, "--workers", "2") == 1
    err = capsys.readouterr().err
    assert (
        f"a worker process can't be started: {os.strerror(number)} ({words}" in err and "--workers takes fewer)" in err
    )
    assert "once that is mended, the same command goes on" in err and "Traceback" not in err and "Errno" not in err


def test_a_killed_worker_makes_one_think_of_memory():
    configs = [{"arm": "dies", "seed": 1}, {"arm": "a", "seed": 1}]
    died, good = grid.run_grid(toy_demo.run, configs, 2, "toy")
    assert "killed by SIGKILL; was the memory full? --workers takes fewer" in died["traceback"]
    assert "error_rate" in good


def test_a_script_that_starts_itself_in_every_worker_says_so_and_not_twelve_times(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text("import toy_demo\nfrom demos import laboratory as lab\n\n"
                      "raise SystemExit(lab.main([toy_demo.demo()]))\n")  # fmt: skip
    command = [sys.executable, str(script), "--workers", "4", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") < 12
    assert 'must call lab.main under: if __name__ == "__main__"' in done.stderr
    assert "worker processes can't start" in done.stderr and "died" not in done.stderr


def test_a_module_that_workers_cannot_import_is_one_traceback(tmp_path):
    script = tmp_path / "only_here.py"
    text = (HERE / "toy_demo.py").read_text().replace("    import toy_demo\n", "").replace("toy_demo.demo(", "demo(")
    script.write_text(f"if __name__ == '__mp_main__':\n    import not_there\n{text}")
    command = [sys.executable, str(script), "--workers", "4", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("No module named 'not_there'") == 1
    assert "toy: stopped, worker processes can't start (it ended with exit code 1)" in done.stderr


def test_what_the_last_line_promises_is_there(tmp_path, capsys):
    def nothing(config):
        raise RuntimeError("no")

    assert main(toy_demo.demo(nothing), tmp_path) == 1
    assert "one page" not in capsys.readouterr().out
    assert main(toy_demo.demo(arms=["a", "raises"]), tmp_path) == 1
    assert "one page of what there is: python -m demos report" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="no mpiexec: install Open MPI")
def test_several_masters_are_refused(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi extra")
    ranks = ["mpiexec", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable]
    command = [*ranks, str(HERE / "toy_demo.py"), "--executor", "mpi", "--out", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("mpi needs python -m mpi4py.futures") == 1
    assert rows(tmp_path) == []


# the demo that trains a convolutional net


def test_a_batch_of_more_images_than_there_are(capsys):
    assert train_cnn.main(["--batch", "5000"]) == 2
    one_sentence(capsys, "--batch must be at most the number of training images, 1437, got 5000")


@pytest.mark.slow
@posix
def test_ctrl_c_in_training_is_one_line(tmp_path):
    command = [sys.executable, "-m", "demos.train_cnn", "--epochs", "1000", "--checkpoint", str(tmp_path / "run.npz")]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout.readline().startswith("8x8 digits")
        assert process.stdout.readline().startswith("epoch  1")
        while not (tmp_path / "run.npz").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("train_cnn: interrupted; ") and last.endswith("the same command goes on from there")


# --- a demo of one's own, anywhere


def test_a_demo_anywhere_is_run_by_workers_that_import_it(tmp_path):
    """Its name is its own, and it uses a module beside it."""
    (tmp_path / "beside.py").write_text("OFFSET = 0.25\n")
    text = (HERE / "toy_demo.py").read_text().split("if __name__")[0].replace('"b": 1.0', '"b": beside.OFFSET')
    mine = tmp_path / "my_toy.py"
    mine.write_text(f"import beside\n{text}\nDEMO = demo()\n")
    options = ["--workers", "2", "--seeds", "2", "--out", str(tmp_path / "out")]
    code, out, err = shell('"$@"', "-m", "demos", "run", str(mine), *options)
    assert code == 0 and "toy: 4 runs, workers: 2" in err and "Toys are cheap." in out
    found = summary(tmp_path / "out")
    assert found["command"] == "python -m demos run my_toy.py --preset quick --seeds 2"
    a, b = (arm["error_rate"] for arm in found["arms"])
    assert np.subtract(b, a).tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "must be followed by the file of a demo"),
        (["--seeds", "2"], "must be followed by the file of a demo"),
        (["not_there.py"], "must be the .py file of a demo, got not_there.py"),
        (["{}/notes.txt"], "must be the .py file of a demo"),
        (["{}/json.py"], "must have a name of its own, which can be imported; got json.py"),
        (["{}/two words.py"], "must have a name of its own, which can be imported; got two words.py"),
        (["{}/nothing_in_it.py"], "must have a DEMO = lab.Demo(...), got NoneType"),
    ],
)
def test_what_is_no_demo_is_refused(arguments, words, tmp_path, capsys, monkeypatch):
    for name in ("notes.txt", "json.py", "two words.py", "nothing_in_it.py"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert commands.main(["run", *(a.format(tmp_path) for a in arguments)]) == 2
    one_sentence(capsys, words)
