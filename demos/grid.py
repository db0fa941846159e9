"""Run a function over a list of configurations, in worker processes or on a cluster, with a progress bar.

Each run uses one thread: many small nets train fastest side by side, and the sum of a matrix product depends in its
last bits on the number of threads, so one thread everywhere makes the results independent of how many workers and
cores there are, and of whose they are.

There is one loop for all: submit a run wherever there is room, wait for whichever ends next, hand its outcome over.
Where there is room are executors of the standard library's kind (concurrent.futures.Executor). By default these are
worker processes, each a pool of its own: when one dies it is known which run it had, and the others go on.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from demos.keys import Refused, Terms, check_terms
from demos.output import explain, no_bar, warn
from demos.runs import TRACEBACK, encode
from tinygrad_bn import get_num_threads, set_num_threads

Config = dict[str, Any]
Run = Callable[[Config], dict[str, Any]]
Done = Callable[[int, dict[str, Any], float], None]  # number of the configuration, outcome, seconds

TRIES = 3  # of a run whose worker dies, before it is given up
# In a row, and no result in between: it is not the runs. At least so many, and each worker as often as a run is tried
DEATHS = 12

# What workers inherit: one thread per library
LIBRARIES = ("TINYGRAD_BN", "OPENBLAS", "MKL", "OMP", "NUMBA")
SETTINGS = dict.fromkeys((f"{name}_NUM_THREADS" for name in LIBRARIES), "1")


def run_grid(
    run: Run,
    configs: Sequence[Config],
    workers: int,
    label: str,
    *,
    executor: Executor | None = None,
    cost: Callable[[Config], float] | None = None,
    warm_up: Callable[[], None] | None = None,
    done: Done | None = None,
    before: int = 0,
    terms: Terms | None = None,
) -> list[dict[str, Any]]:
    """{**config, **run(config)} for each configuration, in their order.

    A run that raises gives {**config, "traceback": ...} and the others go on; so does a run whose worker died TRIES
    times. Where workers die again and again and no run comes back, that is a BrokenExecutor. `done` is called with each
    outcome as soon as it is there. `executor` runs them instead of `workers` processes here. `warm_up` is called first,
    in this process, to fill Numba's cache on disk: otherwise each worker would compile the same kernels. `cost` starts
    the longest runs first, so that no worker is left alone with one at the end. `before`: how many more runs were done
    earlier, for the progress bar. `terms`: the code and the data that a worker must have.

    Refused ends it at once: a worker with other code or data, a run that worker processes can't import, a result with
    names of the configuration.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not configs:
        return []
    workers = min(workers, len(configs))
    order = sorted(range(len(configs)), key=lambda i: -cost(configs[i]) if cost else i)
    results: list[dict[str, Any]] = [{} for _ in configs]
    failed = 0
    started = time.perf_counter()
    with tqdm(total=before + len(configs), initial=before, desc=label, unit="run", disable=no_bar()) as bar:
        no_terminal = bar.disable  # then the bar is quiet, and two lines say what it would

        def finish(i: int, outcome: dict[str, Any], seconds: float) -> None:
            nonlocal failed
            results[i] = {**configs[i], **outcome}
            failed += TRACEBACK in outcome
            if done:
                done(i, outcome, seconds)
            bar.set_postfix_str(f"failed: {failed}, {describe(configs[i])}", refresh=False)
            bar.update()

        if no_terminal:
            kept = f", {before} were there already" if before else ""
            where = f"workers: {workers}" if executor is None else type(executor).__name__
            warn(f"{label}: {len(configs)} runs{kept}, {where}")

        def compile_kernels() -> None:
            if warm_up:
                bar.set_postfix_str("compiling kernels")
                warm_up()
                bar.unpause()  # the time left is estimated without the compilation
                bar.set_postfix_str("first runs")

        if executor is not None:
            run_on([executor] * len(configs), run, configs, order, finish, terms)
        elif workers > 1:
            check_importable(run)
            with worker_processes(workers) as pools:
                with one_starts(pools[0], run, terms):
                    compile_kernels()
                run_on([*pools], run, configs, order, finish, terms)
        else:
            compile_kernels()
            run_here(run, configs, order, finish)
    if no_terminal:
        took = time.perf_counter() - started
        more = f", {failed} failed" if failed else ""
        warn(f"{label}: {len(configs)} runs took {took:.1f} s{more}")
    return results


def describe(config: Config) -> str:
    """The few words that tell one run from the others."""
    lr = f"lr {config['lr']:g}" if "lr" in config else ""
    seed = f"seed {config['seed']}" if "seed" in config else ""
    return ", ".join(part for part in (str(config.get("arm", "")), lr, seed) if part)


_one_at_a_time = threading.Lock()  # a worker of a cluster may have several threads, but one random generator


def attempt(run: Run, config: Config, terms: Terms | None = None) -> tuple[dict[str, Any], float]:
    """The outcome of a run, in one thread, as it comes back from JSON, and how many seconds it took.

    Errors: Refused, where the terms are not kept, or the result has names that are taken.
    """
    with _one_at_a_time, threadpool_limits(1):
        threads = get_num_threads()
        set_num_threads(1)
        started = time.perf_counter()
        try:
            if terms:
                check_terms(run, config, terms)
            outcome = json.loads(encode(dict(run(config))))
        except Refused:
            raise
        except Exception:
            return {TRACEBACK: traceback.format_exc()}, time.perf_counter() - started
        finally:
            set_num_threads(threads)
        taken = [name for name in outcome if name in config or name == TRACEBACK]
        if taken:
            whose = "the laboratory's own name" if taken[0] == TRACEBACK else "already the name of a setting of the run"
            raise Refused(f"a run must not return {taken[0]!r}, which is {whose}: give the result another name")
        return outcome, time.perf_counter() - started


def run_here(run: Run, configs: Sequence[Config], order: list[int], finish: Done) -> None:
    for i in order:
        finish(i, *attempt(run, configs[i]))


def run_on(
    room: list[Executor],
    run: Run,
    configs: Sequence[Config],
    order: list[int],
    finish: Done,
    terms: Terms | None = None,
) -> None:
    """Each executor is listed once for every run that it takes at a time."""
    waiting, room = deque(order), list(room)
    running: dict[Future[Any], tuple[int, Executor]] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    tries: Counter[int] = Counter()
    deaths, most = 0, max(DEATHS, TRIES * len(room))
    try:
        while waiting or running:
            while waiting and room:
                i, executor = waiting.popleft(), room.pop()
                future = executor.submit(attempt, run, configs[i], terms)
                running[future] = i, executor
                future.add_done_callback(ended.put)
            future = ended.get()
            i, executor = running.pop(future)
            error = CancelledError() if future.cancelled() else future.exception()
            if error is None:
                deaths = 0
                finish(i, *future.result())
            elif isinstance(error, Refused):
                raise error
            else:  # not the run's own error, which attempt() reports: the worker died, or could not be reached
                tries[i] += 1
                deaths += 1
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                if isinstance(executor, WorkerProcess):
                    why = executor.how_it_ended() or why
                    executor.start_again()
                elif isinstance(error, (BrokenExecutor, CancelledError)):
                    raise BrokenExecutor(f"the executor takes no more runs ({error!r})") from error
                if tries[i] < TRIES:
                    waiting.appendleft(i)
                else:
                    finish(i, {TRACEBACK: f"the worker process died {TRIES} times: killed or crashed ({why})"}, 0.0)
                if deaths >= most:
                    raise BrokenExecutor(f"workers died {deaths} times in a row before any run was done ({why})")
            room.append(executor)
    except BaseException:  # Ctrl-C above all
        for future in running:
            future.cancel()
        raise


MEMORY = "was the memory full? --workers takes fewer, and each needs 200 MB or more"
LIMITS = {  # what a process needs to start, and where it is set
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "the system's limit of open files",
    errno.EAGAIN: "ulimit -u, or memory",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room in /dev/shm",
}


class WorkerProcess(Executor):
    """One process, which can be started again after it has died."""

    process: Any = None  # as multiprocessing knows it

    def __init__(self) -> None:
        self.start_again()

    def start_again(self) -> None:
        self.process = None
        context = multiprocessing.get_context("spawn")  # fork is not safe once BLAS and Numba have threads
        with said_what_it_needs():
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        others = set(multiprocessing.active_children())
        with what_workers_inherit(), said_what_it_needs():  # the process is created by the first submit
            try:
                future = self.pool.submit(fn, *args, **kwargs)
            except BrokenExecutor:  # it died while it had nothing to do
                self.start_again()
                future = self.pool.submit(fn, *args, **kwargs)
        if self.process is None:
            self.process = next(iter(set(multiprocessing.active_children()) - others), None)
        return future

    def how_it_ended(self) -> str:
        """By which signal or with which exit code the process died, as far as that is known."""
        end, code = time.monotonic() + 1, None
        while self.process is not None and code is None and time.monotonic() < end:  # the pool, too, waits for it
            self.process.join(0.05)
            code = self.process.exitcode
        if code is None:
            return ""
        if code >= 0:
            return f"it ended with exit code {code}"
        name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
        return f"killed by {name}; {MEMORY}" if name == "SIGKILL" else f"killed by {name}"


@contextmanager
def said_what_it_needs() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        limit = LIMITS.get(error.errno or 0)
        hint = f" ({limit}; --workers takes fewer)" if limit else ""
        raise OSError(error.errno, f"a worker process can't be started: {explain(error)}{hint}") from error


def check_importable(run: Run) -> None:
    """Refused for what can't be sent to another process: a function inside of another, a lambda."""
    try:
        ForkingPickler.dumps(run)
    except Exception as error:
        name = getattr(run, "__qualname__", repr(run))
        raise Refused(
            f"run must be a function at the top of a module, for workers to import, got {name}: {error}"
        ) from None


@contextmanager
def one_starts(worker: Executor, run: Run, terms: Terms | None) -> Iterator[None]:
    """While the with block runs, one worker starts and imports the run. What is wrong with all of them is said once."""
    future = worker.submit(_ready, run, terms)
    yield
    try:
        future.result()
    except BrokenExecutor as error:
        how = isinstance(worker, WorkerProcess) and worker.how_it_ended()
        raise BrokenExecutor(
            f"worker processes can't start ({how or error}); what the first one said is above"
        ) from error


def _ready(run: Run, terms: Terms | None) -> None:
    if terms:
        check_terms(run, {}, terms)


@contextmanager
def worker_processes(count: int) -> Iterator[list[WorkerProcess]]:
    others = set(multiprocessing.active_children())
    workers: list[WorkerProcess] = []
    try:
        workers += [WorkerProcess() for _ in range(count)]
        yield workers
    except BaseException:  # don't wait for runs that nobody will look at
        for worker in workers:
            worker.pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    for worker in workers:
        worker.pool.shutdown()


@contextmanager
def what_workers_inherit() -> Iterator[None]:
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


@contextmanager
def open_executor(name: str) -> Iterator[Executor | None]:
    """None for "local"; a Dask cluster's for "dask://HOST:PORT"; MPI's for "mpi" (under python -m mpi4py.futures)."""
    if name == "local":
        yield None
    elif name == "mpi":
        try:
            from mpi4py import MPI
            from mpi4py.futures import MPIPoolExecutor
        except ImportError as error:
            raise ImportError(f"--executor mpi needs mpi4py and an MPI: pip install -e '.[mpi]' ({error})") from error
        start = "mpiexec -n RANKS python -m mpi4py.futures -m demos.NAME --executor mpi"
        if MPI.COMM_WORLD.Get_size() < 2:  # MPI would start processes of its own, one after the other
            raise ValueError(f"mpi needs at least two ranks, got one: {start}")
        if "mpi4py.futures" not in sys.orig_argv:  # every rank is here, and would run everything into one folder
            words = f"mpi needs python -m mpi4py.futures, which makes the other ranks workers: {start}"
            raise ValueError(words if MPI.COMM_WORLD.Get_rank() == 0 else "")
        with MPIPoolExecutor() as executor:
            yield executor
    elif name.startswith("dask://"):
        try:
            from distributed import Client
        except ImportError as error:
            raise ImportError(f"--executor dask needs Dask: pip install -e '.[dask]' ({error})") from error
        with Client(name.replace("dask://", "tcp://"), timeout=10) as client:
            yield client.get_executor()
    else:
        raise ValueError(f"executor must be local, mpi or dask://HOST:PORT, got {name!r}")
