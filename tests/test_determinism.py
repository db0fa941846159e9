"""Same seed, same bits: over repeated runs, processes, and any number of threads, ours and OpenBLAS's.

Nets with every norm are trained on arrays that several threads share (harness/deterministic_training.py). Whatever may
change the order of the work is changed: the number of threads, the order of the chunks, where the data lie in memory.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import deterministic_training as training
import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.runtime import blas

openblas = pytest.mark.skipif(blas.one_thread.switch is None, reason="NumPy's BLAS is not OpenBLAS")


@pytest.fixture(autouse=True)
def restore():
    before = tb.get_num_threads()
    yield
    tb.set_num_threads(before)


def check_shared(name, calls):
    """Several threads had work in all that this net has kernels for."""
    kind, norm = name.split()
    expected = {"blas", "activation"} if kind == "MLP" else {"convolution", "activation", "pooling"}
    if norm != "DecorrelatedBatchNorm":  # it consists of matrix products
        expected = expected | {"norm_kernels"}
    assert {file for file, count in calls.items() if count > 1} >= expected


def trained(name, count, order=None, **options):
    """The digest of a run on so many threads, and how many of them worked. Checks that there was work to share."""
    tb.set_num_threads(count)
    with training.watched(order) as (calls, workers):
        digest = training.train(name, 2, **options)
    check_shared(name, calls)
    return digest, len(workers)


@pytest.mark.slow
@pytest.mark.parametrize("name", training.NETS)
def test_the_same_bits_in_one_process(name):
    """On 1, 2 and 4 threads, with data in other places of the memory, and with the chunks in another order.

    In float64: float32 results hide a sum in another order, sums being float64.
    """
    digest, workers = trained(name, 1, double=True)
    assert workers == 1
    assert trained(name, 2, double=True, offset=1)[0] == digest
    assert trained(name, 4, double=True, offset=5)[0] == digest
    seed = 3
    print("order of the chunks: seed", seed)
    assert trained(name, 1, np.random.default_rng(seed), double=True)[0] == digest


@pytest.mark.slow
def test_helpers_do_some_of_the_work():
    """Else the others would compare one thread with itself. On a busy machine a helper may come too late for a run."""
    assert any(trained("MLP BatchNorm", 2)[1] == 2 for _ in range(50))


@pytest.mark.slow
def test_another_seed_gives_other_bits(monkeypatch):
    """The digests do depend on what is computed."""
    name = "CNN BatchNorm"
    digest, _ = trained(name, 1)
    seed = tb.manual_seed
    monkeypatch.setattr(tb, "manual_seed", lambda n: seed(n + 1))
    assert trained(name, 1)[0] != digest


def in_a_process(ours, theirs, *options):
    """The digests of deterministic_training.py in a process with these numbers of threads; None is the default."""
    root = Path(__file__).parents[1]
    variables = {"TINYGRAD_BN_NUM_THREADS": ours, "OPENBLAS_NUM_THREADS": theirs}
    environment = {key: value for key, value in os.environ.items() if key not in variables}
    environment |= {key: str(value) for key, value in variables.items() if value is not None}
    command = [sys.executable, str(root / "tests" / "harness" / "deterministic_training.py"), *map(str, options)]
    command += ["--openblas", str(theirs)] if theirs else []
    done = subprocess.run(command, env={**environment, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert theirs is None or found["openblas"] == theirs
    assert ours != 1 or found["workers"] == 1
    return found["digests"]


SOME = ["MLP BatchNorm", "MLP DecorrelatedBatchNorm", "CNN GroupNorm"]


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (2, 4)])
def test_the_same_bits_in_another_process(ours, theirs):
    if blas.one_thread.switch is None:
        theirs = None  # another BLAS is left as it is, and its number of threads may show
    assert in_a_process(ours, theirs, "--steps", 2, "--nets", *SOME) == {name: trained(name, 4)[0] for name in SOME}


@pytest.mark.long
@openblas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_all_numbers_of_threads(dtype, figure):
    """Every net, 30 steps, in eleven processes, two of which have the same numbers of threads."""
    options = ["--steps", 30, *(["--double"] if dtype == "float64" else [])]
    numbers = [(1, 1), *itertools.product((1, 2, 4), (1, 2, 4)), (None, None)]
    runs = [in_a_process(ours, theirs, *options) for ours, theirs in numbers]
    different = {name for run in runs for name in training.NETS if run[name] != runs[0][name]}
    figure(
        f"determinism, {dtype}: nets whose bits differ in {len(runs)} processes", f"{len(different)} of {len(runs[0])}"
    )
    assert not different


@pytest.fixture
def theirs():
    """OpenBLAS's own number of threads, to be set; as it was afterwards."""
    get, set_ = blas.one_thread.switch
    before = get()
    yield set_
    set_(before)


def clip():
    p = tb.tensor(np.random.default_rng(0).standard_normal(300_000).astype("f"), requires_grad=True)
    p.grad = p.data.copy()
    return [np.array(nn.utils.clip_grad_norm_([p], 1.0)), p.grad]


def decorrelating(*layers):
    net, rng = nn.Sequential(*layers), np.random.default_rng(0)
    for value in [*(p.data for p in net.parameters()), net[-1].running_mean, net[-1].running_matrix]:
        value[...] = rng.standard_normal(value.shape)
    return net.eval()


def fold():
    net = decorrelating(nn.Linear(300, 300), nn.DecorrelatedBatchNorm1d(300, group_size=300))
    return list(nn.utils.fold_batch_norm(net.double()).state_dict().values())


def whiten_in_eval_mode():
    x = np.random.default_rng(1).standard_normal((4, 600, 5, 5)).astype("f")
    return [decorrelating(nn.DecorrelatedBatchNorm2d(600, group_size=600))(tb.Tensor(x)).data]


def pca(kind, **options):
    x = np.random.default_rng(0).standard_normal((700, 256))
    fitted = kind(**options).fit(x)
    y = fitted.transform(x)
    return [fitted.components_, fitted.scale_, y, fitted.inverse_transform(y)]


def gradients(op, *shapes):
    """The result, and the gradients of all inputs."""
    rng = np.random.default_rng(0)
    inputs = [tb.tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes]
    y = op(*inputs)
    y.backward(rng.standard_normal(y.shape))
    return [y.data, *(t.grad for t in inputs)]


def whiten(x):
    return F.decorrelated_batch_norm(x, training=True, eps=0.1)


MULTIPLYING = {
    "linear": lambda: gradients(F.linear, (331, 333), (50, 333)),
    "matmul of stacks": lambda: gradients(lambda a, b: a @ b, (2, 331, 333), (2, 333, 350)),
    "convolution": lambda: gradients(F.conv2d, (2, 37, 20, 20), (50, 37, 3, 3)),
    "decorrelated batch norm": lambda: gradients(whiten, (333, 300)),
    "clip_grad_norm_": clip,
    "fold_batch_norm": fold,
    "decorrelated batch norm in eval mode": whiten_in_eval_mode,
    "PCAWhitening": lambda: pca(tb.preprocessing.PCAWhitening),
    "ZCAWhitening": lambda: pca(tb.preprocessing.ZCAWhitening, eps=0.1),
}


@openblas
@pytest.mark.parametrize("name", MULTIPLYING)
def test_what_openblas_computes_has_the_same_bits(name, theirs):
    """Products, and sums of squares, eigenvectors and the like, in sizes for which OpenBLAS's threads do show."""
    results = []
    for n in (1, 2, 3):
        theirs(n)
        results.append(MULTIPLYING[name]())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["rms", "instance"])
def test_bits_do_not_depend_on_where_arrays_lie(norm):
    """A loop that sums and writes takes another order of addition where arrays lie close to each other."""
    if norm == "rms":
        op, shapes = lambda x, w: F.rms_norm(x, 5, w), [(3, 5), (5,)]
    else:
        op, shapes = lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [(2, 3, 4), (3,), (3,)]
    rng, seen = np.random.default_rng(7), set()
    arrays = [rng.standard_normal(shape) for shape in shapes]
    dy = np.random.default_rng(1).standard_normal(shapes[0])
    for _ in range(3000):
        args = [tb.Tensor(a.copy(), requires_grad=True) for a in arrays]
        y = op(*args)
        y.backward(dy, retain_graph=True)
        gradients = tb.grad(y, args, dy, create_graph=True)  # many small arrays, so that the next ones lie elsewhere
        seconds = tb.grad(sum((g * g).sum() for g in gradients), args, allow_unused=True)
        seen.add(b"".join(a.tobytes() for a in (y.data, *(t.grad for t in args), *seconds) if a is not None))
    assert len(seen) == 1
