"""What every demo shares: the command line, the data, the runs, the verdicts, and the files they end up in.

A demo is a module that says what to train and what to conclude:

    DEMO = lab.Demo(name=..., claim=..., presets=..., plan=plan, run=train, analyse=analyse, plot=plot)

    if __name__ == "__main__":
        raise SystemExit(lab.main([DEMO]))

`main` goes: plan -> the runs that are missing, each kept as it ends -> analyse -> figures -> summary.json -> report
in the terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import math
import os
import platform
import shlex
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demos import INSTALL, plots
from demos.datasets import load_dataset, split
from demos.grid import Config, Run, open_executor, run_grid
from demos.output import say, warn, whole
from demos.plots import Picture
from demos.runs import FILE, Runs, code_version, dataset_digest, key_of

FIRST_SEED = 2000  # fresh seeds: smaller ones were used while the demos were designed
Settings = dict[str, Any]


@dataclass
class Criterion:
    """One prediction, fixed beforehand, and what was measured."""

    name: str
    measured: float
    ci: tuple[float, float] | None
    threshold: str  # what was wanted, in words that follow "wanted": "< 0", "CI above 0.5"
    passed: bool
    headline: bool = False
    note: str = ""


@dataclass
class Analysis:
    """What the runs say: `arms` holds a dict per arm, its label and its metrics, one value per seed."""

    arms: list[dict[str, Any]]
    criteria: list[Criterion]
    table: list[list[str]] = field(default_factory=list)  # the first row is the header
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Demo:
    """One experiment. `run` is a top-level function of a configuration: worker processes import it by name.

    A preset is a dict of settings with "seeds" (how many) and optionally "limits" (what it can't conclude).
    `plan` gets the settings with "seeds" as a list, "dataset" and "preset", and returns a configuration per
    run with "arm" and "seed" at least; `analyse` gets {**configuration, **metrics} of each run, in order, and so
    does `plot`, which returns the figures.
    Without `warm_up`, two "steps" of each arm are run to compile the kernels. `sizes` are the parts that a run
    splits the dataset into: a dataset that is too small is refused before anything runs.
    """

    name: str
    claim: str
    presets: dict[str, Settings]
    plan: Callable[[Settings], list[Config]]
    run: Run
    analyse: Callable[[list[dict[str, Any]], Settings], Analysis]
    plot: Callable[[list[dict[str, Any]], Analysis, Settings], list[Picture]]
    sizes: dict[str, int] | None = None
    cost: Callable[[Config], float] | None = None
    warm_up: Callable[[], None] | None = None


# --- what analyses share


def learned(error: float, chance: float) -> bool:
    """Whether a net has learned something: at most half of the error (in percent) of guessing."""
    return error <= chance / 2


def check_grid(settings: Settings, **needed: Iterable[Any]) -> None:
    """ValueError if a setting lacks a value that the analysis will ask for: before the training, not after it."""
    for name, values in needed.items():
        lacking = [value for value in values if value not in settings[name]]
        if lacking:
            raise ValueError(f"the preset's {name} must contain {lacking[0]}, got {list(settings[name])}")


def per_seed(runs: Iterable[dict[str, Any]], metric: str, *keys: str, **where: Any) -> dict[Any, np.ndarray]:
    """The keys' values, a tuple -> one value of the metric per seed, seeds in order.

    per_seed(runs, "test_error", "arm", "lr", part="net")["BN", 0.1] is of the runs whose part is "net". Runs that
    don't have the metric are left out. Keys that don't tell two runs of a seed apart are a ValueError.
    """
    table: dict[Any, dict[int, Any]] = {}
    for r in sorted(runs, key=lambda r: r["seed"]):
        if metric in r and all(r.get(name) == value for name, value in where.items()):
            column = table.setdefault(tuple(r[key] for key in keys), {})
            if r["seed"] in column:
                raise ValueError(f"keys must tell the runs of a seed apart, got {keys} and several of seed {r['seed']}")
            column[r["seed"]] = r[metric]
    return {key: np.array(list(column.values())) for key, column in table.items()}


def best_lr(runs: Iterable[dict[str, Any]], **where: Any) -> dict[str, float]:
    """Per arm the learning rate with the lowest mean validation error: the test error has no say. Of several the
    lowest."""
    valid = {key: errors.mean() for key, errors in per_seed(runs, "valid_error", "arm", "lr", **where).items()}
    return {arm: min((mean, lr) for (a, lr), mean in valid.items() if a == arm)[1] for arm, _ in valid}


def at_the_edge(arms: Iterable[dict[str, Any]], lrs: Sequence[float]) -> list[str]:
    """A note that names the arms whose "best_lr" is the lowest or highest of lrs; none if there is none.

    Arms without a best rate (not learned, not swept) are left out. Of two rates both are edges: no note.
    """
    edge = (min(lrs), max(lrs)) if len(lrs) > 2 else ()
    there = [f"{arm['arm']} ({arm['best_lr']:g})" for arm in arms if arm.get("best_lr") in edge]
    words = "best learning rate at the edge of the grid, so perhaps not the best there is"
    return [f"{words}: {'; '.join(there)}"] if there else []


def beyond(
    name: str,
    mean: float,
    ci: tuple[float, float],
    p: float,
    *,
    below: float = math.inf,
    above: float = -math.inf,
    details: str = "",
    note: str = "",
    headline: bool = False,
) -> Criterion:
    """The criterion that an interval lies below a bound, or above one, and that p, after Holm's correction, is small.

    p is two-sided unless the note says otherwise: a small one can mean the opposite of the claim, which is then said.
    In the criterion's note `details` come before p, and `note` behind it.
    """
    side = f"below {below:g}" if below < math.inf else f"above {above:g}"
    words = f"{details}, Holm p {p:.2g}" if details else f"Holm p {p:.2g}"
    if p < 0.05 and not above <= mean <= below:
        words += " (two-sided: it is the other way)"
    passed = bool(above < ci[0] and ci[1] < below and p < 0.05)
    note = f"{words}; {note}" if note else words
    return Criterion(name, mean, ci, f"interval {side}, Holm p < 0.05", passed, headline, note)


# --- one demo from plan to figures


@dataclass(frozen=True)
class Means:
    """What runs are made with, and where they are kept."""

    workers: int
    executor: Executor | None
    kept: Runs


def conduct(demo: Demo, settings: Settings, limits: str, code: str, means: Means) -> bool:
    """Run what is missing and write the demo's files; False if a run raised, or nobody could be told. A FAIL verdict is
    a result: True."""
    started, kept = time.perf_counter(), means.kept
    folder = kept.path.parent / demo.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # an old summary beside new runs would mislead
    configs = demo.plan(settings)
    dataset = dataset_digest(*load_dataset(settings["dataset"]))
    keys = [key_of(demo.name, config, dataset, code) for config in configs]
    try:
        before, failed = complete(demo, dict(zip(keys, configs, strict=True)), dataset, code, means)
        there = kept.results(demo.name)
        if failed:
            _report_errors(demo.name, failed, len(configs))
        gone = set(keys) - set(there)
        if len(gone) > len(failed):
            warn(f"{demo.name}: {len(gone) - len(failed)} runs were removed by another process")
        # pairs must stay pairs: a seed goes as a whole
        incomplete = {config["seed"] for key, config in zip(keys, configs, strict=True) if key in gone}
        settings = {**settings, "seeds": [seed for seed in settings["seeds"] if seed not in incomplete]}
        if not settings["seeds"]:
            warn(f"{demo.name}: no seed is complete, nothing to analyse")
            return False
        pairs = zip(keys, configs, strict=True)
        runs = [{**config, **there[key]} for key, config in pairs if config["seed"] not in incomplete]
        analysis = demo.analyse(runs, settings)
        if gone:
            analysis.notes.append(
                f"{len(gone)} runs raised an error or were removed: their seeds are left out in every arm."
            )
        effort = _effort(len(keys), before, kept.seconds(keys), time.perf_counter() - started)
        printed = write_up(demo, settings, limits, effort, runs, analysis, folder)
    except (KeyboardInterrupt, BrokenExecutor) as error:
        why = f"stopped, {error}" if isinstance(error, BrokenExecutor) else str(error) or "interrupted"
        count = len(set(keys) & set(kept.results(demo.name)))
        warn(
            f"{demo.name}: {why}; {count} of {len(set(keys))} runs are kept in {kept.path}, and the same "
            "command goes on from there"
        )
        raise
    return printed and not gone


def complete(
    demo: Demo, configs: dict[str, Config], dataset: str, code: str, means: Means
) -> tuple[int, list[dict[str, Any]]]:
    """Run what is missing of the configurations, by key, and keep it: (how many were there before, what failed)."""
    there = means.kept.results(demo.name)
    missing = [key for key in configs if key not in there]

    def done(i: int, outcome: dict[str, Any], seconds: float) -> None:
        means.kept.add(missing[i], demo.name, configs[missing[i]], dataset, code, outcome, seconds)

    new, before = [configs[key] for key in missing], len(configs) - len(missing)
    warm_up = demo.warm_up or partial(_two_steps_of_each_arm, demo.run, new)
    options: dict[str, Any] = {"executor": means.executor, "cost": demo.cost, "warm_up": warm_up, "code": code}
    runs = run_grid(demo.run, new, means.workers, demo.name, done=done, before=before, **options)
    return before, [run for run in runs if "error" in run]


def write_up(
    demo: Demo,
    settings: Settings,
    limits: str,
    effort: str,
    runs: list[dict[str, Any]],
    analysis: Analysis,
    folder: Path,
) -> bool:
    """Figures, summary.json, and the report in the terminal; False if that could not be printed."""
    folder.mkdir(parents=True, exist_ok=True)  # again: the runs may have taken hours
    with plots.style():
        pictures = demo.plot(runs, analysis, settings)
        files = [path for picture in pictures for path in plots.save(picture, folder)]
    summary = {
        "demo": demo.name,
        "claim": demo.claim,
        "question": inspect.getdoc(sys.modules[demo.run.__module__]),
        "command": _command(demo, settings),
        "preset": settings["preset"],
        "dataset": settings["dataset"],
        "seeds": settings["seeds"],
        "usual_seeds": demo.presets[settings["preset"]]["seeds"],
        "versions": _versions(),
        "settings": settings,
        "effort": effort,
        "arms": analysis.arms,
        "criteria": [asdict(criterion) for criterion in analysis.criteria],
        "table": analysis.table,
        "notes": analysis.notes,
        "limits": limits,
        "figures": [{"name": picture.name, "caption": picture.caption} for picture in pictures],
    }
    write_json(folder / "summary.json", summary)
    said = say(report(demo, analysis, settings, limits, effort))
    names = ", ".join(path.name for path in (*files, folder / "summary.json"))
    return say(f"files in {folder}: {names}\n") and said


def _command(demo: Demo, settings: Settings) -> str:
    """What reproduces the runs."""
    seeds, usual = len(settings["seeds"]), demo.presets[settings["preset"]]["seeds"]
    command = f"python -m demos.{demo.name} --preset {settings['preset']}"
    command += f" --seeds {seeds}" if seeds != usual else ""
    return command + (f" --dataset {settings['dataset']}" if settings["dataset"] != "digits" else "")


def _effort(runs: int, before: int, seconds: float, took: float) -> str:
    kept = f", {before} of them kept from before" if before else ""
    rate = f"; {3600 * runs / seconds:,.0f} runs per hour and core" if seconds else ""
    return f"{runs} runs in {took:.0f} s{kept}{rate}"


def _two_steps_of_each_arm(run: Run, configs: list[Config]) -> None:
    with contextlib.suppress(Exception):  # the run itself will say what is wrong
        for config in {config["arm"]: config for config in configs if "steps" in config}.values():
            run({**config, "steps": 2})


def _report_errors(name: str, failed: list[dict[str, Any]], count: int) -> None:
    by_error: dict[str, list[dict[str, Any]]] = {}
    for run in failed:
        by_error.setdefault(run["error"], []).append(run)
    for error, same in by_error.items():
        config = {key: value for key, value in same[0].items() if key != "error"}
        more = f", and {len(same) - 1} more runs with the same error" if len(same) > 1 else ""
        warn(f"{name}: error in the run {config}{more}:\n{error.rstrip()}")
    warn(f"{name}: {len(failed)} of {count} runs raised an error")


def _versions() -> dict[str, str]:
    import numba

    import tinygrad_bn

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "tinygrad_bn": getattr(tinygrad_bn, "__version__", "unknown"),
    }


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, all of it or nothing: a reader never sees half a file."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, and null for nan and inf, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


# --- the report in the terminal


def report(demo: Demo, analysis: Analysis, settings: Settings, limits: str, effort: str) -> str:
    seeds = settings["seeds"]
    lines = [
        "",
        _colour("1", f"{demo.name}: {demo.claim}"),
        f"preset {settings['preset']}, {settings['dataset']}, {len(seeds)} seeds from {seeds[0]}, {effort}",
        "",
    ]
    if analysis.table:
        lines += [*align(analysis.table), ""]
    lines += [_verdict(criterion) for criterion in analysis.criteria]
    lines += ["", *(f"note: {note}" for note in analysis.notes)]
    if limits:
        lines.append(f"limits: {limits}")
    return "\n".join(lines)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """A plain text table: the first column to the left, numbers to the right, a rule under the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _verdict(criterion: Criterion) -> str:
    word = _colour("32", "PASS") if criterion.passed else _colour("31", "FAIL")
    ci = "" if criterion.ci is None else f" [{criterion.ci[0]:.3g}, {criterion.ci[1]:.3g}]"
    headline = "  * headline" if criterion.headline else ""
    note = f"\n      {criterion.note}" if criterion.note else ""
    measured = f"measured {criterion.measured:.3g}{ci}, wanted {criterion.threshold}"
    return f"{word}  {criterion.name}: {measured}{headline}{note}"


def _colour(code: str, text: str) -> str:
    wanted = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[{code}m{text}\033[0m" if wanted else text


# --- the command line


def main(demos: Sequence[Demo], argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Run the demos; 0 whatever the verdicts, 1 if a run failed, 2 for bad arguments, 130 after Ctrl-C, 143 after
    SIGTERM."""
    demos = [_by_name(demo) for demo in demos]
    parser = argparse.ArgumentParser(
        prog or f"python -m demos.{demos[0].name}", description="\n".join(f"{d.name}: {d.claim}" for d in demos)
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"what the demos need: {INSTALL}; for --executor the extra dask or mpi"
    add_options(parser, demos)
    args = parser.parse_args(argv)
    try:
        x, y = load_dataset(args.dataset)  # a bad dataset is found here and not in every run
        for demo in demos:
            if demo.sizes:
                split(x, y, demo.sizes, seed=0)
    except (OSError, ValueError, TypeError, KeyError) as error:
        warn(f"--dataset {args.dataset}: {error}")
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        runs = Runs(args.out / FILE)
    except (OSError, ValueError) as error:
        warn(f"--out: {error}")
        return 2
    with runs, ExitStack() as stack:
        try:
            executor = stack.enter_context(open_executor(args.executor))
        except (ImportError, OSError, ValueError) as error:
            warn(f"--executor: {error}")
            return 2
        codes = [code_version(demo.run) for demo in demos]  # now: what was imported is what the files hold
        means, good = Means(args.workers, executor, runs), []
        stack.enter_context(_told_to_end())
        try:
            for demo, code in zip(demos, codes, strict=True):
                if args.fresh:
                    runs.forget(demo.name)
                settings, limits = _settings(demo, args)
                try:
                    good.append(conduct(demo, settings, limits, code, means))
                except (sqlite3.Error, BrokenExecutor):
                    raise
                except OSError as error:
                    warn(f"{demo.name}: {error}; its runs are in {runs.path}, and the same command goes on from there")
                    good.append(False)
                except Exception:  # of the analysis or the figures: the runs are kept, and the other demos go on
                    warn(f"{demo.name}: {traceback.format_exc()}")
                    good.append(False)
        except sqlite3.Error as error:
            warn(runs.explain(error))
            return 1
        except BrokenExecutor:
            return 1
        except KeyboardInterrupt as error:
            return 143 if isinstance(error, Terminated) else 130
    out = "" if args.out == parser.get_default("out") else f" --out {shlex.quote(str(args.out))}"
    say(f"one page of all of it: python -m demos report{out}; the terms: docs/experiments.md")
    return 0 if all(good) else 1


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
    parser.add_argument("--seeds", type=_positive, metavar="N", help="default: the preset's number")
    parser.add_argument("--workers", type=_positive, metavar="N", default=_cores(), help="default: the cores")
    parser.add_argument("--dataset", type=_dataset, default="digits", help="digits (default), glyphs or npz:FILE")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("demo_results"), help="default: demo_results")
    parser.add_argument("--fresh", action="store_true", help="first delete the runs that DIR has of these demos")
    parser.add_argument(
        "--executor", default="local", metavar="E", help="local (default), dask://HOST:PORT or mpi: who runs the runs"
    )


def _by_name(demo: Demo) -> Demo:
    """The demo as other processes import it: a script is __main__ here, and something else, or nothing, elsewhere."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if demo.run.__module__ != "__main__" or spec is None:
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
    seeds = list(range(FIRST_SEED, FIRST_SEED + count))
    return {**settings, "preset": args.preset, "dataset": args.dataset, "seeds": seeds}, limits


def _common_presets(demos: Iterable[Demo]) -> list[str]:
    first, *others = (demo.presets for demo in demos)
    return [name for name in first if all(name in presets for presets in others)]


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)  # more is for --workers to say: each one takes about 200 MB


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _dataset(spec: str) -> str:
    if spec not in ("digits", "glyphs") and not (spec.startswith("npz:") and len(spec) > 4):
        raise argparse.ArgumentTypeError(f"must be digits, glyphs or npz:FILE, got {spec!r}")
    return spec
