"""Large arrays on several threads.

A job is cut into chunks, by the shapes alone, so that its result has the same bits on any number of threads. The chunks
are handed out one at a time: the calling thread works as well, takes what the others have not taken yet, and never
waits for a thread that has not started. On a busy machine, where a helper may get no processor for milliseconds, the
caller then simply does the work itself. Kernels and NumPy's products release Python's lock, so plain threads do.

Python threads may train nets of their own side by side, with the bits of one after the other. Processes may be started
by spawn or forkserver at any time, and by fork while no other thread computes: a child has the forking thread alone,
and the locks of all others as they were (Numba's while it compiles, BLAS's while it allocates).

The one switch: set_num_threads(1), or TINYGRAD_BN_NUM_THREADS=1 in the environment, computes everything in the
calling thread. It holds for matrix products, too, where NumPy's BLAS is OpenBLAS (blas.py).
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import numpy as np

from ..checks import check_int

VARIABLE = "TINYGRAD_BN_NUM_THREADS"
CHUNK = 1 << 17  # elements in a piece of work
LARGE = 1 << 20  # elements of an array from which on more threads work: where they wake slowly, it pays from 1 << 21 on


def _available() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get(VARIABLE, "")
    if wanted.isdecimal() and int(wanted) >= 1:
        return int(wanted)
    if wanted:
        message = f"{VARIABLE} must be a whole number >= 1, got {wanted!r}: it is ignored, {cores} threads are used"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return cores


_threads = _available()
_pool: ThreadPoolExecutor | None = None


def set_num_threads(n: int) -> None:
    """How many threads, n >= 1, work on a large array, the calling one included. The result has the same bits with any.

    Errors: TypeError, ValueError for what is not an int >= 1.

    >>> before = tb.get_num_threads()
    >>> tb.set_num_threads(1)  # everything in the calling thread
    >>> tb.get_num_threads()
    1
    >>> tb.set_num_threads(before)
    """
    global _threads, _pool
    _threads, _pool = check_int("n", n, 1), None


def get_num_threads() -> int:
    """How many threads work on a large array: by default the processors that this process may use.

    >>> tb.get_num_threads() >= 1
    True
    """
    return _threads


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child has the pool's object, but not its threads
    os.register_at_fork(after_in_child=_forget_pool)


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """range(count), each index of which stands for size elements, in pieces (first, last) of about CHUNK elements.

    One piece where there are fewer than LARGE elements in all.
    """
    pieces = max(1, min(count, count * size // CHUNK)) if count * size >= LARGE else 1
    return [(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]


def for_each(task: Callable[[Any], Any], chunks: Sequence[Any]) -> None:
    """task(chunk) for each chunk, in any order; a task writes to places of its own."""
    global _pool
    threads, pool = _threads, _pool
    if len(chunks) <= 1 or threads == 1:
        for chunk in chunks:
            task(chunk)
        return
    if pool is None:
        pool = _pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="tinygrad_bn")
    waiting = deque(chunks)  # popleft is atomic
    tasks = [task]  # emptied at the end: a helper holds on to its last work for a moment, and must not to the arrays
    settings = np.geterr()  # NumPy's hold per thread

    def work() -> None:
        try:
            while waiting:
                try:
                    chunk = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                tasks[0](chunk)
        except BaseException:
            waiting.clear()  # the caller's error or a helper's: nobody starts another chunk
            raise

    def work_as_helper() -> None:
        with np.errstate(**settings):
            work()

    helpers: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # no more threads: at the end of the program, or at the system's limit
            helpers += (pool.submit(work_as_helper) for _ in range(min(threads, len(chunks)) - 1))
        work()
    finally:
        waiting.clear()  # Ctrl-C before its own work
        started = [helper for helper in helpers if not helper.cancel()]
        wait(started)
        tasks.clear()
    for helper in started:
        helper.result()  # raises what it raised
