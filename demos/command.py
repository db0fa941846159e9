"""The command line of the demos: what can be refused is refused before anything runs, or is deleted."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shlex
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demos import INSTALL
from demos.datasets import KINDS, check_sizes, check_spec, download, load_dataset
from demos.grid import open_executor
from demos.keys import Refused, code_version, home
from demos.laboratory import FIRST_SEED, Demo, Means, Planned, Settings, conduct, planned
from demos.output import Parser, explain, say, user_path, warn
from demos.runs import FILE, Runs

MOST_SEEDS, MOST_WORKERS, HIGHEST_SEED = 10_000, 1024, 2**31
NAME = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)  # of a demo: a folder, and a place in the report


def main(demos: Sequence[Demo], argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Run the demos; 0 whatever the verdicts, 1 if a run failed, 2 for bad arguments, 130 after Ctrl-C, 143 after
    SIGTERM."""
    if (
        getattr(sys.modules.get("__mp_main__"), "__name__", "") == "__mp_main__"
    ):  # a worker that imports the script must not begin a sweep
        warn('the script must call lab.main under: if __name__ == "__main__"')
        return 2
    parser = Parser(
        prog or f"python -m demos.{demos[0].name}", description="\n".join(f"{d.name}: {d.claim}" for d in demos)
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"what the demos need: {INSTALL}; for --executor the extra dask or mpi"
    add_options(parser, demos)
    args = parser.parse_args(argv)
    try:
        plans = _plans(demos, args)
    except _Wrong as error:
        warn(str(error))
        return 2
    except KeyboardInterrupt:
        warn("interrupted before any run")
        return 130
    try:
        if args.out.exists() and not args.out.is_dir():
            raise ValueError(f"must be a folder, {args.out} is a file")
        args.out.mkdir(parents=True, exist_ok=True)
        runs = Runs(args.out / FILE)
    except (OSError, ValueError) as error:
        warn(f"--out: {explain(error)}")
        return 2
    with runs, ExitStack() as stack:
        try:
            executor = stack.enter_context(open_executor(args.executor))
        except (ImportError, OSError, ValueError) as error:
            if str(error):  # of several ranks one speaks
                warn(f"--executor: {explain(error)}")
            return 2
        stack.enter_context(_told_to_end())
        try:
            good = [_conduct(plan, Means(args.workers, executor, runs), args.fresh) for plan in plans]
        except sqlite3.Error as error:
            warn(runs.explain(error))
            return 1
        except BrokenExecutor:
            return 1
        except KeyboardInterrupt as error:
            return 143 if isinstance(error, Terminated) else 130
    there = [plan.demo.name for plan in plans if (args.out / plan.demo.name / "summary.json").is_file()]
    if there:
        out = "" if args.out == parser.get_default("out") else f" --out {shlex.quote(str(args.out))}"
        what = "all of it" if all(good) else "what there is"
        say(f"one page of {what}: python -m demos report{out}; the terms: docs/experiments.md")
    return 0 if all(good) else 1


def _conduct(plan: Planned, means: Means, fresh: bool) -> bool:
    """One demo of several: what is wrong with it leaves the others alone."""
    name, path = plan.demo.name, means.kept.path
    try:
        if fresh:
            means.kept.forget(name)
        return conduct(plan, means)
    except (sqlite3.Error, BrokenExecutor):
        raise
    except OSError as error:
        on = "once that is mended, the same command goes on from there"
        warn(f"{name}: {explain(error)}; its runs are in {path}: {on}")
    except Refused:  # and said
        pass
    except Exception:  # of the analysis or the figures: the runs are kept, and the other demos go on
        warn(f"{name}: {traceback.format_exc()}")
    return False


class _Wrong(Exception):
    """An argument that can't be, in words."""


def _plans(demos: Sequence[Demo], args: argparse.Namespace) -> list[Planned]:
    """What is to be done. The versions of the code are taken now: what was imported is what the files hold."""
    names = [demo.name for demo in demos]
    for name in names:
        if not NAME.fullmatch(name):
            raise _Wrong(f"a demo's name must be letters, digits, _ and -, got {name!r}")
        if names.count(name) > 1:
            raise _Wrong(f"the demos must have names of their own, got {name} twice")
    plans = []
    try:
        if args.download:
            download(args.dataset)
        x, y = load_dataset(args.dataset)  # a bad dataset is found here and not in every run
        for demo in demos:
            if demo.sizes:
                check_sizes(args.dataset, demo.sizes)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise _Wrong(f"--dataset {args.dataset}: {explain(error)}") from None
    for demo in demos:
        settings, limits = _settings(demo, args)
        try:
            if demo.check:
                demo.check(settings, x, y)
        except ValueError as error:
            raise _Wrong(f"--dataset {args.dataset}: {demo.name}: {error}") from None
        try:
            demo = _by_name(demo)
            plans.append(planned(demo, settings, limits, code_version(demo.run)))
        except (ValueError, OSError) as error:
            raise _Wrong(f"{demo.name}: {explain(error)}") from None
    return plans


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is running ends as after Ctrl-C."""


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    def terminate(number: int, frame: Any) -> None:
        raise Terminated("terminated")

    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add_options(parser: argparse.ArgumentParser, demos: Sequence[Demo]) -> None:
    parser.add_argument("--preset", choices=_common_presets(demos), default="quick", help="default: quick")
    parser.add_argument("--seeds", type=_seeds, metavar="N", help="default: the preset's number")
    parser.add_argument(
        "--first-seed", type=_first_seed, metavar="N", default=FIRST_SEED, help=f"N, N + 1, ...; default: {FIRST_SEED}"
    )
    parser.add_argument("--workers", type=_workers, metavar="N", default=_cores(), help="default: the cores")
    parser.add_argument("--dataset", type=_dataset, default="digits", help=f"{KINDS}; default: digits")
    parser.add_argument("--download", action="store_true", help="for mnist:DIR: first download what DIR lacks")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", default=Path("demo_results"), help="default: demo_results"
    )
    parser.add_argument("--fresh", action="store_true", help="first delete the runs that DIR has of these demos")
    parser.add_argument(
        "--executor", default="local", metavar="E", help="local (default), dask://HOST:PORT or mpi: who runs the runs"
    )


def _by_name(demo: Demo) -> Demo:
    """The demo as other processes import it: a script is __main__ here, and something else, or nothing, elsewhere."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if home(demo.run).__name__ != "__main__" or spec is None:
        return demo
    return getattr(importlib.import_module(spec.name), "DEMO", demo)


def _settings(demo: Demo, args: argparse.Namespace) -> tuple[Settings, str]:
    settings = dict(demo.presets[args.preset])
    usual, limits = settings["seeds"], settings.pop("limits", "")
    count = args.seeds or usual
    if count != usual:
        only = "Only " if count < usual else ""
        other = f"{only}{count} seeds were run, the preset has {usual}."
        limits = f"{limits.rstrip('.')}. {other}" if limits else other
    seeds = list(range(args.first_seed, args.first_seed + count))
    return {**settings, "preset": args.preset, "dataset": args.dataset, "seeds": seeds}, limits


def _common_presets(demos: Iterable[Demo]) -> list[str]:
    first, *others = (demo.presets for demo in demos)
    return [name for name in first if all(name in presets for presets in others)]


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)  # more is for --workers to say: each one takes about 200 MB


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or (len(text) < 20 and int(text) < least):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r:.60}")
    if len(text) >= 20 or int(text) > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {text:.60}")
    return int(text)


def _seeds(text: str) -> int:
    return _whole(text, 1, MOST_SEEDS)


def _first_seed(text: str) -> int:
    return _whole(text, 0, HIGHEST_SEED)


def _workers(text: str) -> int:
    return _whole(text, 1, MOST_WORKERS)


def _dataset(spec: str) -> str:
    try:
        return check_spec(spec)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("dataset ")) from None
