"""Matrix products: NumPy's BLAS keeps to one thread inside, large ones are split, and no number of threads shows."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.runtime import blas

openblas = pytest.mark.skipif(blas.one_thread.switch is None, reason="NumPy's BLAS is not OpenBLAS")


@pytest.fixture(autouse=True)
def restore():
    before = tb.get_num_threads()
    yield
    tb.set_num_threads(before)


@pytest.fixture
def three():
    """OpenBLAS set to three threads."""
    get, set_ = blas.one_thread.switch
    before = get()
    set_(3)
    yield get
    set_(before)


SHAPES = [(128, 784, 512), (512, 128, 784), (2000, 300, 64), (40, 5000, 60), (3, 4, 5), (0, 4, 5), (4, 0, 5), (1, 1, 1)]


@pytest.mark.parametrize("m, k, n", SHAPES)
def test_product(m, k, n):
    rng = np.random.default_rng(m + k + n)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    results = []
    for threads in (1, 2, 4):
        tb.set_num_threads(threads)
        results.append(blas.product(a.astype("f"), b.astype("f")))
    scale = np.abs(a) @ np.abs(b)
    assert (np.abs(results[0] - a @ b) <= 1e-6 * scale).all() and results[0].dtype == np.float32
    assert all(np.array_equal(r, results[0]) for r in results)
    turned = blas.product(np.asfortranarray(a), b[:, ::-1])
    assert np.allclose(turned, a @ b[:, ::-1], rtol=0, atol=1e-12 * max(1, k))


def test_large_products_are_split(monkeypatch):
    pieces = []
    for_each = blas.for_each
    monkeypatch.setattr(blas, "for_each", lambda task, jobs: (pieces.append(len(jobs)), for_each(task, jobs)))
    blas.product(np.ones((128, 784), "f"), np.ones((784, 512), "f"))
    blas.product(np.ones((60, 100), "f"), np.ones((100, 100), "f"))
    assert pieces == [6]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="mismatch"):
        blas.product(np.ones((512, 512), "f"), np.ones((511, 512), "f"))


@openblas
def test_one_thread_inside_and_as_before_afterwards(three):
    seen = []
    with blas.one_thread:
        seen.append(three())
        with blas.one_thread:
            seen.append(three())
        seen.append(three())
    assert seen == [1, 1, 1] and three() == 3
    with pytest.raises(KeyError), blas.one_thread:
        raise KeyError
    assert three() == 3


@openblas
def test_the_last_python_thread_to_leave_takes_it_back(three):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with blas.one_thread:
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with blas.one_thread:
        thread.start()
        assert inside.wait(20)
    assert three() == 1  # the other one is inside still
    leave.set()
    thread.join()
    assert three() == 3


@openblas
@pytest.mark.parametrize("what", ["linear", "matmul", "conv2d", "whiten"])
def test_ops_multiply_with_one_thread_and_leave_it_as_it_was(three, what, monkeypatch):
    x, images = tb.tensor(np.eye(6), requires_grad=True), tb.tensor(np.ones((2, 3, 5, 5)), requires_grad=True)
    calls = {
        "linear": lambda: tb.nn.functional.linear(x, x),
        "matmul": lambda: x @ x,
        "conv2d": lambda: tb.nn.functional.conv2d(images, tb.tensor(np.ones((4, 3, 3, 3)))),
        "whiten": lambda: tb.nn.functional.decorrelated_batch_norm(x, training=True),
    }
    seen = set()
    enter = type(blas.one_thread).__enter__

    def watched(self):
        enter(self)
        seen.add(three())

    monkeypatch.setattr(type(blas.one_thread), "__enter__", watched)
    y = calls[what]()
    assert seen == {1} and three() == 3
    seen.clear()
    y.sum().backward()
    assert seen == {1} and three() == 3


TRAIN = """
import hashlib, numpy as np, tinygrad_bn as tb
from tinygrad_bn import nn, optim
tb.manual_seed(0)
rng = np.random.default_rng(0)
x, y = rng.standard_normal((128, 784)).astype("f"), rng.integers(0, 10, 128)
net = nn.Sequential(nn.Linear(784, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10))
sgd = optim.SGD(net.parameters(), lr=0.1)
for _ in range(5):
    loss = nn.functional.cross_entropy(net(tb.Tensor(x)), y)
    sgd.zero_grad(); loss.backward(); sgd.step()
print(hashlib.sha256(b"".join(a.tobytes() for a in net.state_dict().values())).hexdigest())
"""


@openblas
def test_training_has_the_same_bits_on_any_number_of_threads():
    digests = set()
    for own, theirs in ((1, 1), (2, 1), (1, 2), (4, 4)):
        threads = {"TINYGRAD_BN_NUM_THREADS": str(own), "OPENBLAS_NUM_THREADS": str(theirs)}
        command = [sys.executable, "-c", TRAIN]
        digests.add(subprocess.run(command, env={**os.environ, **threads}, capture_output=True, check=True).stdout)
    assert len(digests) == 1


@openblas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_was_inside_can_multiply(three):
    held = threading.Event()
    done = threading.Event()

    def other():
        with blas.one_thread, blas.one_thread.lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        with blas.one_thread:
            inside = three()
        os._exit(10 * inside + three())  # 1 inside, 3 as before: the other thread is not here
    done.set()
    thread.join()
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert pid == child and os.waitstatus_to_exitcode(status) == 13
