"""Run a function over a list of configurations, in worker processes, with a progress bar.

Each worker uses one thread: many small nets train fastest side by side, and the sum of a matrix product
depends in its last bits on the number of threads, so one thread everywhere makes the results independent
of how many workers and cores there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from tinygrad_bn import get_num_threads, set_num_threads

Config = dict[str, Any]
Run = Callable[[Config], dict[str, Any]]

# What workers inherit: one thread per library
LIBRARIES = ("TINYGRAD_BN", "OPENBLAS", "MKL", "OMP", "NUMBA")
SETTINGS = dict.fromkeys((f"{name}_NUM_THREADS" for name in LIBRARIES), "1")


def run_grid(
    run: Run,
    configs: Sequence[Config],
    workers: int,
    label: str,
    *,
    cost: Callable[[Config], float] | None = None,
    warm_up: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """{**config, **run(config)} for each configuration, in their order.

    A run that raises gives {**config, "error": traceback} and the others go on. `warm_up` is called first,
    in this process, to fill Numba's cache on disk: otherwise each worker would compile the same kernels.
    `cost` starts the longest runs first, so that no worker is left alone with one at the end.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    workers = min(workers, len(configs))
    order = sorted(range(len(configs)), key=lambda i: -cost(configs[i]) if cost else i)
    results: list[dict[str, Any]] = [{} for _ in configs]
    started = time.perf_counter()
    with tqdm(total=len(configs), desc=label, unit="run", disable=None) as bar:
        no_terminal = bar.disable  # then the bar is quiet, and two lines say what it would

        def done(i: int, outcome: dict[str, Any]) -> None:
            results[i] = {**configs[i], **outcome}
            bar.set_postfix_str(describe(configs[i]), refresh=False)
            bar.update()

        if no_terminal:
            print(f"{label}: {len(configs)} runs, workers: {workers}", file=sys.stderr, flush=True)
        if warm_up:
            bar.set_postfix_str("compiling kernels")
            warm_up()
            bar.reset()  # the time left is estimated without the compilation
            bar.set_postfix_str("first runs")
        if workers > 1:
            _in_pool(run, configs, order, workers, done)
        else:
            _here(run, configs, order, done)
    if no_terminal:
        took = time.perf_counter() - started
        print(f"{label}: {len(configs)} runs took {took:.1f} s", file=sys.stderr, flush=True)
    return results


def describe(config: Config) -> str:
    """The few words that tell one run from the others."""
    lr = f"lr {config['lr']:g}" if "lr" in config else ""
    seed = f"seed {config['seed']}" if "seed" in config else ""
    return ", ".join(part for part in (str(config.get("arm", "")), lr, seed) if part)


def _attempt(run: Run, config: Config) -> dict[str, Any]:
    try:
        return dict(run(config))
    except Exception:
        return {"error": traceback.format_exc()}


def _here(run: Run, configs: Sequence[Config], order: list[int], done: Callable[[int, dict], None]) -> None:
    threads = get_num_threads()
    set_num_threads(1)
    try:
        with threadpool_limits(1):
            for i in order:
                done(i, _attempt(run, configs[i]))
    finally:
        set_num_threads(threads)


def _in_pool(
    run: Run, configs: Sequence[Config], order: list[int], workers: int, done: Callable[[int, dict], None]
) -> None:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # fork is not safe once BLAS and Numba have threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        with _what_workers_inherit():  # workers are created on submit
            futures = {pool.submit(_attempt, run, configs[i]): i for i in order}
        for future in as_completed(futures):
            try:
                done(futures[future], future.result())
            except BrokenProcessPool:
                done(futures[future], {"error": "a worker process died: killed, out of memory or crashed"})
    except BaseException:  # Ctrl-C above all: don't wait for runs that nobody will look at
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    pool.shutdown()


@contextmanager
def _what_workers_inherit() -> Iterator[None]:
    """The settings above, and no SIGINT: Ctrl-C reaches all processes, but only the parent answers."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns when the parent is gone, even if it was killed
        os._exit(1)
