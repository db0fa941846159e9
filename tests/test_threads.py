"""Work on several threads: every chunk once, errors reach the caller, and the same bits on any number of threads."""

import itertools
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import tensor
from tinygrad_bn.runtime import threads


@pytest.fixture(autouse=True)
def restore():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_chunk_is_done_once(n):
    threads.set_num_threads(n)
    done = []
    threads.for_each(done.append, list(range(100)))
    assert sorted(done) == list(range(100))


def test_chunks_run_side_by_side():
    threads.set_num_threads(2)
    barrier = threading.Barrier(2, timeout=20)  # passes only if two threads are there at the same time
    threads.for_each(lambda _: barrier.wait(), [0, 1])


def test_the_caller_does_not_wait_for_a_thread_that_never_starts():
    threads.set_num_threads(2)
    free = threading.Event()
    threads.for_each(lambda _: None, [0, 1])  # the pool exists now
    threads._pool.submit(free.wait)  # its only thread is busy
    done = []
    threads.for_each(done.append, [1, 2, 3])
    assert done == [1, 2, 3] and not free.is_set()
    free.set()


@pytest.mark.parametrize("the_caller_fails", [True, False], ids=["caller", "helper"])
def test_an_error_reaches_the_caller_and_ends_the_work(the_caller_fails):
    threads.set_num_threads(2)
    done, caller, failed = [], threading.current_thread(), threading.Event()
    both = threading.Barrier(2, timeout=20)

    def task(k):
        if k < 2:
            both.wait()  # one of the first two chunks each
            if (threading.current_thread() is caller) == the_caller_fails:
                failed.set()
                raise ValueError("one of the first two")
        assert failed.wait(20)
        time.sleep(0.001)
        done.append(k)

    with pytest.raises(ValueError, match="one of the first two"):
        threads.for_each(task, list(range(1000)))
    assert len(done) < 100
    threads.for_each(done.append, [-1, -2])  # the threads still work
    assert {-1, -2} <= set(done)


def test_nobody_is_at_work_when_it_returns_even_after_an_error():
    threads.set_num_threads(4)
    entered, running = threading.Barrier(4, timeout=20), []

    def task(k):
        entered.wait()  # all four are in
        if k == 0:
            raise ValueError("one of them")
        running.append(k)
        time.sleep(0.1)
        running.remove(k)

    with pytest.raises(ValueError, match="one of them"):
        threads.for_each(task, list(range(4)))
    assert running == []


def test_helpers_keep_nothing_alive(monkeypatch):
    """A thread of the pool holds on to its last work for a while, here for good."""
    threads.set_num_threads(2)
    pool, kept = ThreadPoolExecutor(1), []
    monkeypatch.setattr(threads, "_pool", pool)
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda work: (kept.append(work), submit(work))[1])
    held, barrier = np.empty(10), threading.Barrier(2, timeout=20)
    alone = sys.getrefcount(held)
    threads.for_each(lambda k, held=held: (held.fill(k), barrier.wait()), [0, 1])
    assert kept and sys.getrefcount(held) == alone


def test_helpers_have_the_callers_settings_for_warnings():
    threads.set_num_threads(2)
    barrier, x = threading.Barrier(2, timeout=20), np.full(3, np.inf)

    def task(_):
        barrier.wait()
        return x - x

    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
        threads.for_each(task, [0, 1])
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("error")
        threads.for_each(task, [0, 1])


AT_THE_END = """
import threading, time, numpy as np, tinygrad_bn as tb
tb.set_num_threads(2)
x = tb.tensor(np.ones((2048, 1024), "f"), requires_grad=True)
def late():
    threading.main_thread().join()
    x.clip(0, 2).sum()
    tb.nn.functional.relu(x).sum().backward()
    print(x.grad.sum())
threading.Thread(target=late).start()
"""


def test_a_thread_that_outlives_the_main_one_can_go_on():
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=120)
    assert done.stdout and float(done.stdout) == 2048 * 1024, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_threads_of_its_own():
    threads.set_num_threads(2)
    threads.for_each(lambda _: time.sleep(0.01), [0, 1])
    pid = os.fork()
    if pid == 0:
        barrier = threading.Barrier(2, timeout=20)
        try:
            threads.for_each(lambda _: barrier.wait(), [0, 1])
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_spans_cover_the_range_without_gaps():
    for count, size in ((0, 5), (1, 10**9), (7, 1), (1000, 1000), (9, threads.CHUNK), (10**6, 1), (2 * 10**6, 1)):
        spans = threads.spans(count, size)
        assert spans[0][0] == 0 and spans[-1][1] == count
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        assert len(spans) == 1 or count * size // len(spans) >= threads.CHUNK
        assert (len(spans) > 1) == (count > 1 and count * size >= threads.LARGE)


NORMS = {
    "batch norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "batch norm of images": lambda x, w, b: F.batch_norm(x.reshape(-1, 64, 4, 4), None, None, w[:64], b[:64], True),
    "ghost batch norm": lambda x, w, b: F.ghost_batch_norm(x, 600, None, None, w, b, True),
    "layer norm": lambda x, w, b: F.layer_norm(x, 1024, w, b),
    "group norm": lambda x, w, b: F.group_norm(x.reshape(-1, 64, 16), 8, w[:64], b[:64]),
    "convolution": lambda x, w, b: F.conv2d(x.reshape(-1, 16, 8, 8), w[:864].reshape(6, 16, 3, 3), b[:6], padding=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_the_same_bits_on_any_number_of_threads(name):
    """On arrays that are large enough to be shared out; the first two also equal the formula."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1536, 1024)) * 2 + 3).astype(np.float32)
    w, b, dy = rng.standard_normal((3, 1024)).astype(np.float32)
    results = []
    for n in (1, 2, 4):
        threads.set_num_threads(n)
        args = [tensor(a, requires_grad=True) for a in (x, w, b)]
        y = NORMS[name](*args)
        y.backward(np.resize(dy, y.shape))
        results.append([y.data, *(a.grad for a in args)])
    for other in results[1:]:
        for a, c in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, c)
    if name == "batch norm":
        exact = (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(x.var(axis=0, dtype=np.float64) + 1e-5) * w + b
        np.testing.assert_allclose(results[0][0], exact, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_large_batch_norm_equals_the_small_one():
    """The pieces of a large array, and a single call for each eight of its channels, compute the same function."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 12_000, 96))
    w, b = rng.standard_normal((2, 96))

    def value_and_gradients(columns):
        args = [tensor(a, requires_grad=True) for a in (x[:, columns], w[columns], b[columns])]
        y = F.batch_norm(args[0], None, None, args[1], args[2], True)
        y.backward(np.ascontiguousarray(dy[:, columns]))
        return [y.data, *(a.grad for a in args)]

    whole = value_and_gradients(slice(None))
    parts = [value_and_gradients(slice(c, c + 8)) for c in range(0, 96, 8)]
    assert x.size >= threads.LARGE > x[:, :8].size
    for large, small in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(large, np.concatenate(small, axis=-1), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_large_batch_norm_of_float32_whose_squares_are_no_float32():
    """In two of the channels; each beside its formula in float64, with eps = 0."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 12_000, 96)) + 1
    x[:, 5] *= 1e-30
    x[:, 7] *= 1e30
    dy[:, 5] *= 1e-10  # so that dx is a float32
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    t = tensor(x, requires_grad=True)
    y = F.batch_norm(t, None, None, training=True, eps=0.0)
    y.backward(dy)
    d = x - x.mean(axis=0, dtype=np.float64)
    std = np.sqrt((d * d).mean(axis=0))
    x_hat, g = d / std, dy.astype(np.float64)
    dx = (g - g.mean(axis=0) - x_hat * (g * x_hat).mean(axis=0)) / std
    np.testing.assert_allclose(y.data, x_hat, rtol=0, atol=5e-6)
    assert (abs(t.grad - dx).max(axis=0) <= 5e-6 * abs(dx).max(axis=0)).all()


IMAGE_OPS = {  # each image by itself
    "convolution": (lambda x, w: F.conv2d(x, w, padding=1), (24, 16, 32, 32), (8, 16, 3, 3)),
    "depthwise convolution": (lambda x, w: F.conv2d(x, w, groups=16), (80, 16, 32, 32), (16, 1, 3, 3)),
    "max pooling": (lambda x, w: F.max_pool2d(x, 2) * w, (80, 16, 32, 32), (1,)),
    "ReLU": (lambda x, w: F.relu(x) * w, (80, 16, 32, 32), (1,)),
    "sigmoid": (lambda x, w: F.sigmoid(x) * w, (80, 16, 32, 32), (1,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_OPS)
def test_large_batches_equal_the_images_one_by_one(name):
    op, shape, weights = IMAGE_OPS[name]
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal(weights)
    dy = rng.standard_normal((len(x), *op(tensor(x[:1]), tensor(w)).shape[1:]))

    def value_and_gradients(images):
        args = [tensor(x[images], requires_grad=True), tensor(w, requires_grad=True)]
        y = op(*args)
        y.backward(dy[images])
        return [y.data, *(a.grad for a in args)]

    y, dx, dw = value_and_gradients(slice(None))
    parts = [value_and_gradients(slice(n, n + 1)) for n in range(len(x))]
    for large, small in ((y, [p[0] for p in parts]), (dx, [p[1] for p in parts])):
        np.testing.assert_allclose(large, np.concatenate(small), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dw, sum(p[2] for p in parts), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5", " 2"])
def test_a_wrong_variable_is_said_and_ignored(value, monkeypatch):
    monkeypatch.setenv("TINYGRAD_BN_NUM_THREADS", value)
    with pytest.warns(RuntimeWarning, match=f"TINYGRAD_BN_NUM_THREADS must be .*{value!r}"):
        assert threads._available() >= 1


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("", None)])
def test_a_good_variable_and_an_empty_one_are_taken_in_silence(value, expected, monkeypatch):
    monkeypatch.delenv("TINYGRAD_BN_NUM_THREADS", raising=False)
    usual = threads._available()
    monkeypatch.setenv("TINYGRAD_BN_NUM_THREADS", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert threads._available() == (expected or usual)


@pytest.mark.parametrize("n", [0, -1, 1.0, True])
def test_the_number_of_threads_is_a_positive_int(n):
    with pytest.raises((TypeError, ValueError), match="n must be"):
        tb.set_num_threads(n)
