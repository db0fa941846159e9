"""Nets trained side by side, in threads and in processes, end in the same bits as one after the other."""

import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import parallel_training
import pytest
from ordinary_user import give_up_privileges, is_kept_out

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import data, nn, tensor
from tinygrad_bn.runtime import threads

ROOT = Path(__file__).parents[1]
SEED = 0
COUNT = 8


@pytest.fixture(autouse=True)
def restore():
    before, interval = threads.get_num_threads(), sys.getswitchinterval()
    yield
    threads.set_num_threads(before)
    sys.setswitchinterval(interval)


def side_by_side(*functions, seconds=300):
    """The results of the functions, each in a thread of its own; all of them begin at the same moment."""
    begin = threading.Barrier(len(functions), timeout=seconds)
    with ThreadPoolExecutor(len(functions)) as pool:
        started = [pool.submit(lambda f: (begin.wait(), f())[1], f) for f in functions]
        return [future.result(timeout=seconds) for future in started]


# threads


def test_eight_threads_train_like_one_after_the_other(figure):
    """Two small nets in each, with as many switches between the threads as Python can be made to do."""
    expected = [parallel_training.train(i) for i in range(COUNT + 1)]
    assert len({*expected}) == COUNT + 1
    sys.setswitchinterval(1e-6)
    found = side_by_side(*(lambda i=i: [parallel_training.train(k) for k in (i, i + 1)] for i in range(COUNT)))
    assert found == [expected[i : i + 2] for i in range(COUNT)]
    figure("nets trained in 8 threads with the bits of one after the other (small)", 2 * COUNT)


@pytest.mark.slow
def test_eight_threads_train_large_nets_while_another_sets_the_number_of_threads(monkeypatch, figure):
    """Each of the eight has its arrays worked on by helpers, whose number changes all the time."""
    expected = [parallel_training.train_large(i) for i in range(COUNT)]
    helped, done, number = [], threading.Event(), random.Random(SEED)

    class Pool(ThreadPoolExecutor):
        def submit(self, work):
            return super().submit(lambda: (helped.append(threading.get_ident()), work()))

    def set_numbers():
        while not done.wait(0.001):
            tb.set_num_threads(number.choice([1, 2, 3, 4]))

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Pool)
    tb.set_num_threads(4)
    changing = [threading.Thread(target=set_numbers) for _ in range(2)]
    for thread in changing:
        thread.start()
    try:
        found = side_by_side(*(lambda i=i: parallel_training.train_large(i) for i in range(COUNT)))
    finally:
        done.set()
        for thread in changing:
            thread.join()
    assert found == expected and len({*expected}) == COUNT
    assert len({*helped}) > 1
    figure("nets trained in 8 threads with the bits of one after the other (large)", COUNT)
    figure("helper threads that took part", len({*helped}))


def test_one_net_in_eval_mode_serves_eight_threads():
    tb.manual_seed(SEED)
    net = parallel_training.net(1, 32)
    x = np.random.default_rng(SEED).standard_normal((COUNT, 50, 1, 4, 4)).astype(np.float32)
    with tb.no_grad():
        for images in x:
            net(tensor(images))  # running statistics
        expected = [net.eval()(tensor(images)).data for images in x]
    sys.setswitchinterval(1e-6)

    def answer(i):
        with tb.no_grad():
            return [net(tensor(x[i])).data for _ in range(20)]

    for i, answers in enumerate(side_by_side(*(lambda i=i: answer(i) for i in range(COUNT)))):
        assert all((a == expected[i]).all() for a in answers)


def test_nothing_of_a_thread_leaks_into_another(figure):
    """In each round one of two threads has everything switched off and a hook set, the other has the opposite."""
    both, rounds = threading.Barrier(2, timeout=60), 20

    def look(which):
        net, x, wrong = nn.Sequential(nn.Linear(3, 200), nn.Dropout(0.5)).double(), tensor(np.ones((4, 3))), []
        for k in range(rounds):
            quiet, called = (k + which) % 2 == 0, []
            hooks = [net[0].register_forward_hook(lambda *of: called.append(of))] if quiet else []  # noqa: B023
            hooks += [net[1].register_forward_pre_hook(lambda *of: called.append(of))] if quiet else []  # noqa: B023
            with (tb.no_grad if quiet else tb.enable_grad)(), np.errstate(divide="raise" if quiet else "ignore"):
                net.train(not quiet)
                both.wait()  # both have switched
                y = net(x)
                seen = {
                    "records": (tb.is_grad_enabled(), y.requires_grad),
                    "mode": {m.training for m in net.modules()},
                    "drops": bool((y.data == 0).any()),
                    "hooks": len(called),
                    "warnings": np.geterr()["divide"],
                }
                both.wait()  # both have looked
            for hook in hooks:
                hook.remove()
            expected = {
                "records": (not quiet, not quiet),
                "mode": {not quiet},
                "drops": not quiet,
                "hooks": 2 * quiet,
                "warnings": "raise" if quiet else "ignore",
            }
            wrong += [] if seen == expected else [(k, seen)]
            assert tb.is_grad_enabled() and np.geterr()["divide"] == "warn"
        return wrong

    assert side_by_side(lambda: look(0), lambda: look(1)) == [[], []]
    figure("rounds in which two threads had opposite settings", rounds)


def test_seeds_and_shuffles_are_each_threads_own():
    """Eight threads that draw in turns, number by number, draw what they draw alone."""

    def draw(i, wait):
        tb.manual_seed(i)
        loader = data.DataLoader(np.arange(20.0), batch_size=4, shuffle=True)
        drawn = []
        for (batch,) in loader:
            wait()
            mask = F.dropout(tensor(np.ones(30)), 0.5).data
            wait()
            drawn += [batch, mask, nn.Linear(2, 2).weight.data.copy()]
        return hashlib.sha256(b"".join(a.tobytes() for a in drawn)).hexdigest()

    expected = [draw(i, lambda: None) for i in range(COUNT)]
    turn = threading.Barrier(COUNT, timeout=60)
    assert side_by_side(*(lambda i=i: draw(i, turn.wait) for i in range(COUNT))) == expected
    assert len({*expected}) == COUNT


def test_a_gradient_that_fails_in_a_thread_leaves_the_others_alone():
    expected = parallel_training.train(0)

    def fails():
        with pytest.raises(RuntimeError, match="freed"), tb.no_grad():
            with tb.enable_grad():
                y = tensor(np.ones(3), requires_grad=True).sum()
            y.backward()
            y.backward()
        return tb.is_grad_enabled()

    results = side_by_side(*[fails, lambda: parallel_training.train(0)] * 4)
    assert results == [True, expected] * 4


# processes


METHODS = [m for m in ("fork", "forkserver", "spawn") if m in multiprocessing.get_all_start_methods()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_workers_have_the_parents_bits(method, figure):
    """In the parent kernels have run, helper threads and OpenBLAS's own threads exist and are idle."""
    numbers = [0, 1, 3]
    expected = [parallel_training.in_a_worker(i) for i in numbers]
    np.ones((600, 600)) @ np.ones((600, 600))
    assert threads._pool is not None
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = [pool.apply_async(parallel_training.in_a_worker, (i,)) for i in numbers]
        assert [result.get(timeout=300) for result in found] == expected
    assert parallel_training.in_a_worker(0) == expected[0]  # and the parent goes on
    figure(f"trainings in workers by {method} with the parent's bits", 2 * len(numbers))


@pytest.mark.slow
@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_a_thread_and_a_fork_of_a_fork(figure):
    """The child has the thread that forked alone, be it the main one or not; its children likewise."""
    expected = parallel_training.in_a_worker(0)

    def fork(generations):
        """The number of descendants that found the same bits."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            count = 0
            try:
                count += parallel_training.in_a_worker(0) == expected
                count += fork(generations - 1) if generations > 1 else 0
            finally:
                os.write(writing, bytes([count]))
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            count = pipe.read()[0]
        os.waitpid(child, 0)
        return count

    assert fork(2) == 2
    assert side_by_side(lambda: fork(2)) == [2]
    figure("trainings in forks of forks and of threads with the parent's bits", 4)


# an installation that can't be written


STEP = """
import os, sys, tempfile
tempfile.tempdir = "/nowhere"  # no folder for temporary files either
import tinygrad_bn as tb
assert os.path.dirname(tb.__file__) == sys.argv[1], tb.__file__
sys.path.insert(0, sys.argv[2])
import parallel_training
print(parallel_training.train(0, steps=1))
"""
HOMES = {
    "in a folder that can't be written": {"HOME": "{}/nowhere", "XDG_CACHE_HOME": "{}/nowhere"},
    "a file": {"HOME": "{}/README", "XDG_CACHE_HOME": "{}/README"},
    "not named": {},
}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
@pytest.mark.parametrize(
    "kind", [next(iter(HOMES)), *(pytest.param(k, marks=pytest.mark.long) for k in list(HOMES)[1:])]
)
def test_a_read_only_installation_without_a_home_trains(tmp_path, kind):
    """Kernels are compiled for the process alone; nothing is written, and the bits are the same."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "tinygrad_bn", site / "tinygrad_bn", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "README").write_text("a file\n")
    for path in [site, *site.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if not is_kept_out(site):
        pytest.skip("permissions don't hold here")
    before = sorted(site.rglob("*"))
    taken = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "PYTHON", "HOME", "TMP"))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", STEP, str(site / "tinygrad_bn"), str(ROOT / "tests" / "harness")],
            env={**taken, "PYTHONPATH": str(site), **{k: v.format(site) for k, v in HOMES[kind].items()}},
            cwd=site,
            preexec_fn=give_up_privileges,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == parallel_training.train(0, steps=1) and done.stderr == ""
        assert sorted(site.rglob("*")) == before
    finally:
        for path in [site, *site.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
