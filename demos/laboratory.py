"""What every demo shares: the command line, the data, the runs, the verdicts, and the files they end up in.

A demo is a module that says what to train and what it predicts, as data:

    CRITERIA = [lab.Less("S=8", "S=N", headline=True), ...]
    DEMO = lab.Demo(name=..., claim=..., presets=..., plan=plan, run=run, criteria=CRITERIA, columns=COLUMNS, plot=plot)

    if __name__ == "__main__":
        raise SystemExit(lab.main([DEMO]))

`main` goes: plan -> the runs that are missing, each kept as it ends -> what they say (results.py) -> verdicts
(criteria.py) -> figures -> summary.json -> report in the terminal.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demos import plots
from demos import statistics as stats
from demos.criteria import (
    CLAIM,
    HOLDS,
    IDENTITY,
    METRICS,
    REFUTED,
    UNDECIDED,
    Criterion,
    Outcome,
    describe,
    judge,
    named,
    side_of,
    verdict,
    written_down,
)
from demos.criteria import Above as Above
from demos.criteria import Below as Below
from demos.criteria import Equivalent as Equivalent
from demos.criteria import Exact as Exact
from demos.criteria import Less as Less
from demos.criteria import Matched as Matched
from demos.criteria import More as More
from demos.criteria import Share as Share
from demos.criteria import Trend as Trend
from demos.criteria import exactly as exactly
from demos.criteria import metric_and_unit as metric_and_unit
from demos.datasets import dataset_facts
from demos.grid import Config, Run, run_grid
from demos.keys import Refused, Terms, Version, differences, digest_of, environment, home, key_of
from demos.output import say, warn, whole
from demos.plots import Picture
from demos.results import At, Results, at_the_edge
from demos.results import best_lr as best_lr
from demos.results import check_grid as check_grid
from demos.results import learned as learned
from demos.results import per_seed as per_seed
from demos.runs import TRACEBACK, Runs, encode
from demos.statistics import Values

FIRST_SEED = 2000  # fresh seeds: smaller ones were used while the demos were designed
Settings = dict[str, Any]


@dataclass
class Analysis:
    """What the runs say: `arms` holds a dict per arm, its label and its metrics, one value per seed."""

    arms: list[dict[str, Any]]
    criteria: list[Outcome]
    table: list[list[str]] = field(default_factory=list)  # the first row is the header
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Demo:
    """One experiment. `run` is a top-level function of a configuration: worker processes import it by name.

    A preset is a dict of settings with "seeds" (how many) and optionally "limits" (what it can't conclude).
    `plan` gets the settings with "seeds" as a list, "dataset" and "preset", and returns a configuration per
    run with "arm" and "seed" at least (`grid` makes most of them).
    `criteria` are what is predicted, `notes` what else is measured, `columns` those of the table. `derive` makes
    metrics of all rates of an arm: {metric: {arm: one value per seed}}. `plot` gets the results and the outcomes and
    returns figures.
    Without `warm_up`, two "steps" of each arm are run to compile the kernels. `sizes` are the parts that a run
    splits the dataset into: a dataset that is too small is refused before anything runs. `check` gets the settings and
    the dataset's x and y, and raises a ValueError where the runs could do nothing with them.
    `analyse`, of a demo whose conclusions are no data: gets {**configuration, **metrics} of each run, in order, and so
    does its `plot`.
    """

    name: str
    claim: str
    presets: dict[str, Settings]
    plan: Callable[[Settings], list[Config]]
    run: Run
    analyse: Callable[[list[dict[str, Any]], Settings], Analysis] | None = None
    plot: Callable[..., list[Picture]] = lambda *_: []
    sizes: dict[str, int] | None = None
    cost: Callable[[Config], float] | None = None
    warm_up: Callable[[], None] | None = None
    check: Callable[[Settings, np.ndarray, np.ndarray], object] | None = None
    criteria: Sequence[Criterion] = ()
    notes: Sequence[Criterion] = ()
    columns: Sequence[Column] = ()
    derive: Callable[[Results], dict[str, dict[str, Values]]] | None = None


def grid(
    settings: Settings, rates: Mapping[str, Iterable[float]], own: Mapping[str, Config] | None = None, **common: Any
) -> list[Config]:
    """A configuration for each seed, each arm, and each of the arm's learning rates; with what is the arm's own."""
    return [
        {"arm": arm, **(own or {}).get(arm, {}), "seed": seed, "lr": lr, "dataset": settings["dataset"], **common}
        for seed in settings["seeds"]
        for arm, lrs in rates.items()
        for lr in lrs
    ]


@dataclass(frozen=True)
class Column:
    """A column of the table: the mean of a metric. form: "interval" adds its 95 % one, "count" is a sum over rates."""

    head: str
    metric: str
    at: At = None
    form: str = "interval"

    def cell(self, results: Results, arm: str) -> str:
        if self.form == "count":
            return str(int(sum(r[self.metric] for r in results.runs if r["arm"] == arm)))
        if not results.has(arm, self.at, self.metric) or not learns(results, arm, self.at):
            return "-"
        if self.metric == "lr":
            return f"{results.rate(arm, self.at):g}"
        values = results.at(self.metric, arm, self.at)
        if not np.isfinite(values).all():
            return "-"
        return stats.mean_interval(values) if self.form == "interval" else f"{values.mean():{self.form}}"


def learns(results: Results, arm: str, at: At) -> bool:
    """Whether the arm has a best rate: it gains half or more of what the best arm gains over guessing."""
    if at != "best":
        return True
    best = min(results.at("test_error", a, "best").mean() for a in results.arms if results.has(a, "best", "test_error"))
    gain = results.chance - float(results.at("test_error", arm, "best").mean())
    return bool(gain > 0 and gain >= (results.chance - best) / 2)


def check_plan(demo: Demo, configs: list[Config]) -> None:
    """ValueError if a headline asks for an arm or a rate that is not planned: before the training, not after it."""
    there = Results(configs, {})
    for criterion in demo.criteria:
        at = getattr(criterion, "at", None)
        for arms in criterion.arms() if criterion.headline else ():
            if not there.has(arms, at):
                where = {"best": " at several learning rates", None: ""}.get(at, f" at lr {at}")
                raise ValueError(f"the preset must have {named(arms)}{where}, for {criterion.described()!r}")


def results_of(demo: Demo, runs: list[dict[str, Any]], settings: Settings) -> Results:
    results = Results(runs, settings)
    results.derived = demo.derive(results) if demo.derive else {}
    return results


def conclude(demo: Demo, runs: list[dict[str, Any]], settings: Settings) -> Analysis:
    """What the runs say: the demo's own analysis, or its criteria, notes and columns."""
    if demo.analyse:
        return demo.analyse(runs, settings)
    results = results_of(demo, runs, settings)
    table = [["arm", *(c.head for c in demo.columns)]]
    table += [[arm, *(c.cell(results, arm) for c in demo.columns)] for arm in results.arms]
    arms = [arm_metrics(results, arm) for arm in results.arms]
    notes = [*describe(demo.notes, results), *at_the_edge(arms, {arm: results.lrs(arm) for arm in results.arms})]
    left_out = [c.described() for c in demo.criteria if not c.available(results)]
    notes += [f"left out, this preset lacks what they look at: {'; '.join(left_out)}"] if left_out else []
    return Analysis(arms, judge(demo.criteria, results), table, notes)


def draw(demo: Demo, runs: list[dict[str, Any]], analysis: Analysis, settings: Settings) -> list[Picture]:
    """Its figures; call it inside of plots.style()."""
    if demo.analyse:
        return demo.plot(runs, analysis, settings)
    return demo.plot(results_of(demo, runs, settings), analysis.criteria)


def arm_metrics(results: Results, arm: str) -> dict[str, Any]:
    """For summary.json: the usual metrics by rate, a value per seed; what was derived; what holds at the best rate."""
    rates = results.lrs(arm)
    usual = [m for m in (*METRICS, "diverged") if m not in results.derived]
    numbers = [m for m in usual if all(results.has(arm, lr, m) for lr in rates or [None])]
    curves = {m: {f"{lr:g}": list(results[m, arm, lr]) for lr in rates} for m in numbers} if rates else {}
    found: dict[str, Any] = {"arm": arm, "best_lr": None, "by_lr": curves}
    if results.has(arm, "best") and learns(results, arm, "best"):
        found["best_lr"] = results.best(arm)
        found |= {f"{m}_at_best_lr": list(results.at(m, arm, "best")) for m in numbers}
    return found | {metric: list(values[arm]) for metric, values in results.derived.items() if arm in values}


# --- what analyses share


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
) -> Outcome:
    """The verdict on the claim that an interval lies below a bound, or above one; p: after Holm's correction.

    p is two-sided unless the note says otherwise. In the outcome's note `details` come before p, and `note` behind it.
    """
    side = f"below {below:g}" if below < math.inf else f"above {above:g}"
    words = f"{details}, Holm p {p:.2g}" if details else f"Holm p {p:.2g}"
    decided = verdict(side_of(ci, below=below, above=above), p)
    note = f"{words}; {note}" if note else words
    return Outcome(name, mean, ci, f"interval {side}, Holm p < 0.05", decided, headline, note)


def equivalent(same: dict[str, Any], p: float) -> str:
    """The verdict of a test of equivalence (statistics.tost), with p after Holm's correction."""
    if same["beyond"] and same["p_beyond"] < 0.05:
        return REFUTED
    return HOLDS if same["equivalent"] and p < 0.05 else UNDECIDED


# --- one demo from plan to figures


@dataclass(frozen=True)
class Means:
    """What runs are made with, and where they are kept."""

    workers: int
    executor: Executor | None
    kept: Runs


@dataclass(frozen=True)
class Planned:
    """A demo with its settings, and what they limit; its runs by key, and what a run of them depends on."""

    demo: Demo
    settings: Settings
    limits: str
    runs: dict[str, Config]
    terms: Terms


def planned(demo: Demo, settings: Settings, limits: str, code: Version) -> Planned:
    """The demo's plan. Errors: ValueError for a preset that its plan can't do with; what load_dataset raises."""
    configs = demo.plan(settings)
    for config in configs:
        if "arm" not in config or "seed" not in config:
            raise ValueError(f"plan must give every run an arm and a seed, got {config}")
    check_plan(demo, configs)
    specs = {config.get("dataset", settings["dataset"]) for config in configs}
    terms = Terms(code, {spec: digest_of(spec) for spec in specs})
    runs, text = {}, encode(code)
    for config in configs:
        digest = terms.datasets[config.get("dataset", settings["dataset"])]
        runs[key_of(demo.name, config, digest, text)] = config
    return Planned(demo, settings, limits, runs, terms)


def conduct(plan: Planned, means: Means) -> bool:
    """Run what is missing and write the demo's files; False if a run raised, or nobody could be told. A verdict of any
    kind is a result: True."""
    started, kept, demo, settings = time.perf_counter(), means.kept, plan.demo, plan.settings
    folder = kept.path.parent / demo.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # an old summary beside new runs would mislead
    command, since, digest = _command(demo, settings), "", ""
    if demo.criteria:
        text, digest = written_down(demo.criteria, demo.notes)
        since = kept.register(demo.name, digest, text)
    try:
        before, failed = complete(plan, means)
        there = kept.results(demo.name)
        if failed:
            _report_errors(demo.name, failed, len(plan.runs))
        gone = set(plan.runs) - set(there)
        if len(gone) > len(failed):
            warn(f"{demo.name}: {len(gone) - len(failed)} runs were removed by another process")
        # pairs must stay pairs: a seed goes as a whole
        incomplete = {plan.runs[key]["seed"] for key in gone}
        settings = {**settings, "seeds": [seed for seed in settings["seeds"] if seed not in incomplete]}
        if not settings["seeds"]:
            warn(f"{demo.name}: no seed is complete, nothing to analyse")
            return False
        runs = [{**config, **there[key]} for key, config in plan.runs.items() if config["seed"] not in incomplete]
        with plots.style():
            analysis = conclude(demo, runs, settings)
            pictures = draw(demo, runs, analysis, settings)
            if gone:
                analysis.notes.append(
                    f"{len(gone)} runs raised an error or were removed: their seeds are left out in every arm."
                )
            if since:
                analysis.notes.append(
                    _registered(digest, since, kept.finished_before(plan.runs, since), len(plan.runs))
                )
            if demo.sizes:
                analysis.notes.append(f"data: {dataset_facts(settings['dataset'], demo.sizes)}")
            effort = _effort(len(plan.runs), before, kept.seconds(plan.runs), time.perf_counter() - started)
            printed = write_up(demo, settings, plan.limits, effort, analysis, pictures, folder, command)
    except (KeyboardInterrupt, BrokenExecutor, Refused) as error:
        why = str(error) or "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped, {error}"
        count = len(set(plan.runs) & set(kept.results(demo.name)))
        on = "" if isinstance(error, Refused) else ", and the same command goes on from there"
        warn(f"{demo.name}: {why}; {count} of {len(plan.runs)} runs are kept in {kept.path}{on}")
        raise
    return printed and not gone


def complete(plan: Planned, means: Means) -> tuple[int, list[dict[str, Any]]]:
    """Run what is missing, and keep it: (how many were there before, what failed)."""
    demo, code = plan.demo, encode(plan.terms.code)
    there = means.kept.results(demo.name)
    missing = [key for key in plan.runs if key not in there]
    new, before = [plan.runs[key] for key in missing], len(plan.runs) - len(missing)
    if missing:
        _say_what_is_not_used(demo.name, plan.terms.code, means.kept)

    def done(i: int, outcome: dict[str, Any], seconds: float) -> None:
        dataset = plan.terms.datasets[new[i].get("dataset", plan.settings["dataset"])]
        means.kept.add(missing[i], demo.name, new[i], dataset, code, outcome, seconds)

    warm_up = demo.warm_up or partial(_two_steps_of_each_arm, demo.run, new)
    options: dict[str, Any] = {"executor": means.executor, "cost": demo.cost, "warm_up": warm_up, "terms": plan.terms}
    runs = run_grid(demo.run, new, means.workers, demo.name, done=done, before=before, **options)
    return before, [run for run in runs if TRACEBACK in run]


def _say_what_is_not_used(name: str, code: Version, kept: Runs) -> None:
    """What the version of kept runs differs in: an hour of training should not be repeated without a word."""
    others = kept.versions(name)
    del others[encode(code)]
    if others:
        ((text, _),) = others.most_common(1)
        old = json.loads(text) if text.startswith("{") else {}
        why = differences(code, old) if old else "an older edition of the laboratory"
        which = "another version" if len(others) == 1 else f"{len(others)} other versions"
        most = "" if len(others) == 1 else "; most of them: "
        warn(f"{name}: {sum(others.values())} kept runs are of {which}, and stay as they are{most or ': '}{why}")


def write_up(
    demo: Demo,
    settings: Settings,
    limits: str,
    effort: str,
    analysis: Analysis,
    pictures: list[Picture],
    folder: Path,
    command: str,
) -> bool:
    """Figures, summary.json, and the report in the terminal; False if that could not be printed."""
    folder.mkdir(parents=True, exist_ok=True)  # again: the runs may have taken hours
    files = [path for picture in pictures for path in plots.save(picture, folder)]
    summary = {
        "demo": demo.name,
        "claim": demo.claim,
        "question": inspect.getdoc(home(demo.run)) or "",  # python -OO has none
        "command": command,
        "preset": settings["preset"],
        "dataset": settings["dataset"],
        "seeds": settings["seeds"],
        "usual_seeds": demo.presets[settings["preset"]]["seeds"],
        "versions": _versions(),
        "settings": settings,
        "effort": effort,
        "arms": analysis.arms,
        "criteria": [{**asdict(outcome), "passed": outcome.passed} for outcome in analysis.criteria],
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
    seeds, usual = settings["seeds"], demo.presets[settings["preset"]]["seeds"]
    options = ["--preset", settings["preset"]]
    options += ["--seeds", str(len(seeds))] if len(seeds) != usual else []
    options += ["--first-seed", str(seeds[0])] if seeds[0] != FIRST_SEED else []
    options += ["--dataset", settings["dataset"]] if settings["dataset"] != "digits" else []
    module = home(demo.run)
    file = Path(str(module.__file__))
    of_ours = file.parent == Path(__file__).parent
    return f"python -m demos{f'.{file.stem}' if of_ours else f' run {shlex.quote(file.name)}'} {shlex.join(options)}"


def _registered(digest: str, since: str, older: int, runs: int) -> str:
    when = f"written down by {since}"
    if older:
        return (
            f"criteria {digest[:12]} {when}, after {older} of these {runs} runs had been made: they may have been seen"
        )
    return f"criteria {digest[:12]} {when}, before all of these runs"


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
        by_error.setdefault(run[TRACEBACK], []).append(run)
    for error, same in by_error.items():
        config = {key: value for key, value in same[0].items() if key != TRACEBACK}
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
        "processor": environment()["processor"].partition(",")[0],
        "BLAS": environment()["BLAS"],
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
    for kind in (CLAIM, IDENTITY):
        lines += [_verdict(outcome) for outcome in analysis.criteria if outcome.kind == kind]
    lines += ["", counted(analysis.criteria)]
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


def counted(outcomes: Iterable[Outcome]) -> str:
    """ "claims: 3 hold, 1 refuted, 2 undecided; identities: 4 of 4 hold" """
    outcomes = list(outcomes)
    claims = Counter(o.verdict for o in outcomes if o.kind == CLAIM)
    exact = [o for o in outcomes if o.kind == IDENTITY]
    words = f"claims: {claims[HOLDS]} hold, {claims[REFUTED]} refuted, {claims[UNDECIDED]} undecided"
    return words + (f"; identities: {sum(o.passed for o in exact)} of {len(exact)} hold" if exact else "")


COLOURS = {HOLDS: "32", REFUTED: "31", UNDECIDED: "33"}


def _verdict(outcome: Outcome) -> str:
    word = _colour(COLOURS[outcome.verdict], f"{outcome.verdict:9}")
    ci = "" if outcome.ci is None else f" [{outcome.ci[0]:.3g}, {outcome.ci[1]:.3g}]"
    headline = "  * headline" if outcome.headline else ""
    note = f"\n           {outcome.note}" if outcome.note else ""
    measured = f"measured {outcome.measured:.3g}{ci}, wanted {outcome.threshold}"
    return f"{word}  {outcome.name}: {measured}{headline}{note}"


def _colour(code: str, text: str) -> str:
    wanted = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[{code}m{text}\033[0m" if wanted else text


# --- the command line


def main(demos: Sequence[Demo], argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Run the demos, as the command line says; the exit code. See command.py."""
    from demos import command

    return command.main(demos, argv, prog)
