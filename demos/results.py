"""What the runs of a demo say, by metric, arm and learning rate: one value per seed, seeds in order.

    results["test_error", "BN", 0.1]           at this rate
    results.at("test_error", "BN", "best")     at the rate with the lowest mean validation error: one look for every arm
    results.at("window", "BN")                 what the demo derived from all rates of an arm
    results.paired("BN", "none")               the difference, seed by seed

So no analysis sorts runs into tables of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from demos import statistics as stats
from demos.statistics import Values

Run = dict[str, Any]
Arms = str | Sequence[str]  # several: a mean over them, seed by seed
At = float | Literal["best"] | None  # None: what has no learning rate


class Results:
    """runs: {**configuration, **metrics} of each. settings: those that the runs were planned with."""

    def __init__(self, runs: list[Run], settings: Mapping[str, Any]) -> None:
        self.runs, self.settings = runs, settings
        self.arms = list(dict.fromkeys(r["arm"] for r in runs))
        self.seeds = sorted({r["seed"] for r in runs})
        self.derived: dict[str, dict[str, Values]] = {}  # metric -> arm -> one value per seed
        self._runs: dict[tuple[str, Any], list[Run]] = {}  # (arm, rate or None) -> seeds in order
        for r in sorted(runs, key=lambda r: r["seed"]):
            self._runs.setdefault((r["arm"], r.get("lr")), []).append(r)
        self._lrs: dict[str, list[float]] = {arm: [] for arm in self.arms}
        for arm, lr in self._runs:
            self._lrs[arm] = sorted([*self._lrs[arm], *([] if lr is None else [lr])])
        self._best: dict[str, float] = {}

    @property
    def chance(self) -> float:
        """The error of guessing, in percent."""
        return float(self.runs[0]["chance"])

    def lrs(self, arm: str) -> list[float]:
        return self._lrs.get(arm, [])

    def __getitem__(self, key: tuple[Any, ...]) -> Values:
        metric, arm, lr = (*key, None)[:3]
        if metric in self.derived:
            return self.derived[metric][arm]
        there = self._runs.get((arm, lr), [])
        if not self._measured(metric, arm, lr):
            raise KeyError(f"no run of {arm!r} at {lr} has {metric!r}")
        if [r["seed"] for r in there] != self.seeds or not all(metric in r for r in there):
            raise ValueError(f"every seed must have one run of {arm!r} at {lr} with {metric!r}, or pairs are none")
        return np.array([r[metric] for r in there])

    def has(self, arms: Arms, at: At = None, metric: str = "arm") -> bool:
        """Whether all of these arms were run, at this rate, and have the metric; the best rate is known of several."""
        return all(self._has(arm, at, metric) for arm in ([arms] if isinstance(arms, str) else arms))

    def _has(self, arm: str, at: At, metric: str) -> bool:
        if metric in self.derived or metric == "arm":
            if arm not in self.derived.get(metric, self.arms):
                return False
            return at is None or (len(self.lrs(arm)) > 1 if at == "best" else at in self.lrs(arm))
        if at == "best":
            return len(self.lrs(arm)) > 1 and all(self._measured(metric, arm, lr) for lr in self.lrs(arm))
        return self._measured(metric, arm, at)

    def _measured(self, metric: str, arm: str, lr: Any) -> bool:
        return any(metric in r for r in self._runs.get((arm, lr), ()))

    def best(self, arm: str) -> float:
        """The rate with the lowest mean validation error: the test error has no say. Of several the lowest."""
        if not self._best:
            self._best = best_lr(self.runs)
        return self._best[arm]

    def rate(self, arm: str, at: At) -> At:
        return self.best(arm) if at == "best" else at

    def at(self, metric: str, arms: Arms, at: At = None) -> Values:
        if not isinstance(arms, str):
            return np.mean([self.at(metric, arm, at) for arm in arms], axis=0)
        if metric in self.derived or at is None:
            return self[metric, arms]
        return self[metric, arms, self.rate(arms, at)]

    def paired(self, a: Arms, b: Arms, metric: str = "test_error", at: At = "best") -> stats.Paired:
        return stats.paired(self.at(metric, a, at), self.at(metric, b, at))

    def matched(self, a: str, b: str, at: At = "best") -> tuple[Values, Values]:
        """Test NLL of both arms where their train NLL is the same: the lowest that both reach in that seed.

        Runs have "fit", a list of (train NLL, test NLL) along the training. Between two of its points log(train NLL)
        is taken for straight. An arm that fits sooner has no advantage here.
        """
        pairs = zip(self.at("fit", a, at), self.at("fit", b, at), strict=True)
        both = np.array([matched(first, second) for first, second in pairs])
        return both[:, 0], both[:, 1]


def matched(first: Any, second: Any) -> tuple[float, float]:
    """The second number of two curves [(train NLL, test NLL), ...] where both first reach the same train NLL."""
    curves = [np.maximum(np.asarray(c, dtype=np.float64), 1e-9) for c in (first, second)]
    level = max(c[:, 0].min() for c in curves)
    a, b = (_first_reached(c, level) for c in curves)
    return a, b


def _first_reached(curve: Values, level: float) -> float:
    i = int(np.flatnonzero(curve[:, 0] <= level)[0])
    if i == 0:
        return float(curve[0, 1])
    (before, y0), (after, y1) = curve[i - 1], curve[i]
    share = np.log(before / level) / np.log(before / after)
    return float(y0 + share * (y1 - y0))


def per_seed(runs: Iterable[Run], metric: str, *keys: str, **where: Any) -> dict[Any, np.ndarray]:
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


def best_lr(runs: Iterable[Run], **where: Any) -> dict[str, float]:
    """Per arm the learning rate with the lowest mean validation error: the test error has no say. Of several the
    lowest."""
    valid = {key: errors.mean() for key, errors in per_seed(runs, "valid_error", "arm", "lr", **where).items()}
    return {arm: min((mean, lr) for (a, lr), mean in valid.items() if a == arm)[1] for arm, _ in valid}


def learned(error: float, chance: float) -> bool:
    """Whether a net has learned something: at most half of the error (in percent) of guessing."""
    return error <= chance / 2


def check_grid(settings: Mapping[str, Any], **needed: Iterable[Any]) -> None:
    """ValueError if a setting lacks a value that the analysis will ask for: before the training, not after it."""
    for name, values in needed.items():
        lacking = [value for value in values if value not in settings[name]]
        if lacking:
            raise ValueError(f"the preset's {name} must contain {lacking[0]}, got {list(settings[name])}")


def at_the_edge(arms: Iterable[Run], lrs: Sequence[float] | Mapping[str, Sequence[float]]) -> list[str]:
    """A note that names the arms whose "best_lr" is the lowest or highest of lrs (or of their own); none without any.

    Arms without a best rate (not learned, not swept) are left out. Of two rates both are edges: no note.
    """
    there = []
    for arm in arms:
        own = lrs[arm["arm"]] if isinstance(lrs, Mapping) else lrs
        if len(own) > 2 and arm.get("best_lr") in (min(own), max(own)):
            there.append(f"{arm['arm']} ({arm['best_lr']:g})")
    words = "best learning rate at the edge of the grid, so perhaps not the best there is"
    return [f"{words}: {'; '.join(there)}"] if there else []
