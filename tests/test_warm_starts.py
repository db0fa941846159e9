"""Same seed, same bits: whether kernels are compiled, read from the cache, or have been called alone before.

A kernel that others call could exist twice, by itself and within their code. The sums of the two copies run in other
orders, and the linker takes for both the one that was loaded first. harness/warm_training.py trains every norm.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import warm_training as training

import tinygrad_bn
from tinygrad_bn.ops import norm_kernels, norms
from tinygrad_bn.runtime import jit

compiled_only = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="without Numba's compiler there are no dispatchers"
)


def digests(cache, *alone):
    """Of every norm's training in a new process, which has called these kernels before."""
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "tests" / "harness" / "warm_training.py"), "--alone", *alone]
    environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kept(cache):
    """The machine code on disk; a name occurs once."""
    return {path.name for path in cache.rglob("*.nbc")}


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """A cache, the digests of the process that started without it, and the machine code that it left there."""
    cache = tmp_path_factory.mktemp("cache")
    found = digests(cache)
    return cache, found, kept(cache)


def check(found, expected):
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_every_norm_was_trained_and_every_run_differs(cold):
    """What is compared depends on the norm and on the dtype."""
    _, found, code = cold
    assert len(found) == 2 * len(training.NORMS) == len(set(found.values()))
    assert code  # it did compile


@pytest.mark.slow
def test_warm(cold):
    cache, expected, code = cold
    check(digests(cache), expected)
    assert kept(cache) == code  # nothing was compiled again


@pytest.mark.slow
def test_warm_after_every_kernel_of_norms_was_called_alone(cold):
    cache, expected, _ = cold
    check(digests(cache, "all"), expected)


@pytest.mark.long
@pytest.mark.parametrize("name", training.KERNELS)
def test_warm_after_one_other_kernel(cold, name):
    cache, expected, _ = cold
    check(digests(cache, name), expected)


@pytest.mark.long
@pytest.mark.parametrize("name", training.KERNELS)
def test_cold_after_one_other_kernel_and_warm_from_what_that_left(cold, name, tmp_path):
    _, expected, _ = cold
    check(digests(tmp_path, name), expected)
    check(digests(tmp_path), expected)


# Without a process: how kernels are compiled


def is_kernel(value):
    return isinstance(value, numba.core.dispatcher.Dispatcher)


def kernels():
    """All of the package's."""
    infos = pkgutil.walk_packages(tinygrad_bn.__path__, "tinygrad_bn.")
    modules = [importlib.import_module(info.name) for info in infos if not info.name.endswith("__main__")]
    return {id(v): v for module in modules for v in vars(module).values() if is_kernel(v)}.values()


def names_of(code):
    """All global names that this code, and the functions defined within it, refer to."""
    return set(code.co_names).union(*(names_of(c) for c in code.co_consts if isinstance(c, type(code))))


def calls(caller):
    """The kernels that this one refers to."""
    known = caller.py_func.__globals__
    return [known[name] for name in sorted(names_of(caller.py_func.__code__)) if is_kernel(known.get(name))]


def outside(callers):
    """(caller, kernel) of each kernel that another calls and that does not become part of its code."""
    return [
        (caller.__name__, callee.__name__)
        for caller in callers
        for callee in calls(caller)
        if not callee.targetoptions.get("forceinline")
    ]


@compiled_only
def test_kernels_that_others_call_become_part_of_them():
    found = {(caller.__name__, callee.__name__) for caller in kernels() for callee in calls(caller)}
    assert found >= {("channel_backward", "channel_sums"), ("channel_normalize", "normalize_run")}  # it looks
    assert outside(kernels()) == []


@jit.kernel
def doubled(x):
    for i in range(x.size):
        x[i] *= 2


@jit.part
def tripled(x):
    for i in range(x.size):
        x[i] *= 3


@jit.kernel
def sextupled(x):
    tripled(x)
    doubled(x)


@compiled_only
def test_a_kernel_that_stays_outside_is_noticed():
    assert outside([doubled, tripled, sextupled]) == [("sextupled", "doubled")]


@compiled_only
def test_every_kernel_of_the_norms_is_called_alone():
    ours = {name for module in (norm_kernels, norms) for name, value in vars(module).items() if is_kernel(value)}
    assert ours == set(training.KERNELS)
