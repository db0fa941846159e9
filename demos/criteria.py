"""Criteria as data: what is predicted, written down above the plan, and its three verdicts.

    CRITERIA = [
        Less("S=8", "S=N", headline=True),                    # test error, each arm at its best learning rate
        Less("S=8", "S=N", at=0.1),                           # the same at one rate
        Matched("S=8", "S=N"),                                # test NLL at the same train NLL
        Trend({"S=8": 8, "S=32": 32, "S=N": 500}, "test_nll", at=0.1),
        Equivalent("population", "whole test set", margin=0.3),
        Exact("fold_error", below=1e-6, name="folded into the layer before: largest relative change of a logit"),
    ]

    holds      the interval lies where the claim wants it, and p < 0.05 after Holm's correction over all claims
    refuted    the interval lies on the other side, and p is as small
    undecided  neither: too few seeds for an effect of this size, or none at all

With n seeds no p of a difference is below 2 / 2^n, and Holm multiplies the smallest by the number of claims: eight
seeds can decide six claims at most.

Identities (`Exact`) know no chance: they hold or are refuted, and are counted apart. In NOTES the same classes are
measured and printed without a verdict. Both lists are kept when a sweep begins with them: criteria that
are younger than their runs can be told.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from demos import statistics as stats
from demos.results import Arms, At, Results
from demos.statistics import Interval

HOLDS, REFUTED, UNDECIDED = "holds", "refuted", "undecided"
CLAIM, IDENTITY = "claim", "identity"

# metric: its name, and the unit of a difference
METRICS = {
    "own_error": ("test error by their own statistics", "points"),
    "test_error": ("test error", "points"),
    "test_nll": ("test NLL", "nats"),
    "train_nll": ("train NLL", "nats"),
    "valid_error": ("validation error", "points"),
    "window": ("window", "decades"),
    "upper_edge": ("upper edge", "decades"),
    "lower_edge": ("lower edge", "decades"),
    "sensitivity": ("sensitivity", "nats"),
    "regret": ("regret", "nats"),
    "error_of_1_guess": ("expected error of one random rate", "points"),
    "error_of_2_guesses": ("expected error of the best of two random rates", "points"),
    "error_of_4_guesses": ("expected error of the best of four random rates", "points"),
}


@dataclass
class Outcome:
    """A criterion with what was measured."""

    name: str
    measured: float
    ci: Interval | None
    threshold: str  # what was wanted, in words that follow "wanted": "< 0", "interval above 0.5"
    verdict: str
    headline: bool = False
    note: str = ""
    kind: str = CLAIM

    @property
    def passed(self) -> bool:
        return self.verdict == HOLDS


@dataclass(frozen=True)
class Measured:
    """What a criterion finds in the results; side: where its interval lies, 1 where it should, -1 opposite, else 0."""

    value: float
    ci: Interval | None
    p: float
    side: int
    note: str = ""
    unit_form: str = ".2f"

    def words(self) -> str:
        if self.ci is None:
            return f"{self.value:{self.unit_form}}" if math.isfinite(self.value) else self.note
        return stats.interval(self.value, self.ci, self.unit_form, sign="+")


def nothing(*columns: Any) -> Measured:
    """What is measured where a metric is not defined in every seed."""
    defined = np.all(np.isfinite(columns), axis=0)
    return Measured(math.nan, None, math.nan, 0, f"not defined in {np.sum(~defined)} of {len(defined)} seeds")


def side_of(ci: Interval, *, below: float = math.inf, above: float = -math.inf) -> int:
    """1: all of the interval lies below and above these; -1: all of it lies outside; 0: neither, or there is none."""
    low, high = ci
    if not (np.isfinite(low) and np.isfinite(high)):
        return 0
    if above < low and high < below:
        return 1
    return -1 if high < above or below < low else 0


def verdict(side: int, p: float) -> str:
    """p: two-sided, after Holm's correction."""
    return {1: HOLDS, -1: REFUTED}.get(side, UNDECIDED) if p < 0.05 else UNDECIDED


def exactly(true: bool) -> str:
    """The verdict on what knows no chance."""
    return HOLDS if true else REFUTED


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """headline: one of the demo's main claims. name: in place of the one that is made of the arguments."""

    headline: bool = False
    name: str = ""
    kind = CLAIM

    def described(self) -> str:
        return self.name or self.own_name()

    def own_name(self) -> str:
        raise NotImplementedError

    def wanted(self) -> str:
        raise NotImplementedError

    def arms(self) -> Iterable[Arms]:
        """Those that it looks at: a preset without them leaves it out."""
        raise NotImplementedError

    def asks_for(self) -> str:
        """The metric that its arms must have."""
        return getattr(self, "metric", "arm")

    def available(self, results: Results) -> bool:
        return all(results.has(arms, getattr(self, "at", None), self.asks_for()) for arms in self.arms())

    def measure(self, results: Results) -> Measured:
        columns = self.columns(results)
        return self.judged(*columns) if np.isfinite(columns).all() else nothing(*columns)

    def columns(self, results: Results) -> tuple[Any, ...]:
        """What it looks at, one value per seed each."""
        raise NotImplementedError

    def judged(self, *columns: Any) -> Measured:
        raise NotImplementedError

    def where(self, at: At) -> str:
        return {"best": ", each arm at its best lr", None: ""}.get(at, f", at lr {at}")  # type: ignore[arg-type]


def named(arms: Arms) -> str:
    return arms if isinstance(arms, str) else f"mean of ({', '.join(arms)})"


def metric_and_unit(metric: str) -> tuple[str, str]:
    return METRICS.get(metric, (metric.replace("_", " "), ""))


@dataclass(frozen=True)
class Less(Criterion):
    """a - b < bound, seed by seed. Several arms: their mean. bound: 0, or the least difference that would matter."""

    a: Arms
    b: Arms
    metric: str = "test_error"
    at: At = "best"
    bound: float = 0.0

    sign = 1  # More turns it around

    def own_name(self) -> str:
        what, unit = metric_and_unit(self.metric)
        return f"{what} of {named(self.a)} minus {named(self.b)}{f', {unit}' if unit else ''}{self.where(self.at)}"

    def wanted(self) -> str:
        return f"interval {'below' if self.sign > 0 else 'above'} {self.bound:g}, Holm p < 0.05"

    def arms(self) -> Iterable[Arms]:
        return self.a, self.b

    def columns(self, results: Results) -> tuple[Any, ...]:
        return results.at(self.metric, self.a, self.at), results.at(self.metric, self.b, self.at)

    def judged(self, a: Any, b: Any) -> Measured:
        d = stats.paired(a, b)
        p = stats.sign_flip(np.subtract(a, b) - self.bound) if self.bound else d.p
        limit: dict[str, float] = {"below" if self.sign > 0 else "above": self.bound}
        share = d.win_rate if self.sign > 0 else 1 - d.win_rate
        note = f"d_z {d.d_z:.2f}, {'less' if self.sign > 0 else 'more'} in {100 * share:.0f} % of seeds"
        return Measured(d.mean, d.ci, p, side_of(d.ci, **limit), note)


@dataclass(frozen=True)
class More(Less):
    """a - b > bound"""

    sign = -1


@dataclass(frozen=True)
class Matched(Less):
    """Less of the test NLL where both have the same train NLL: what is left once "fits sooner" is taken out."""

    metric: str = "test_nll"

    def own_name(self) -> str:
        return f"test NLL at matched train NLL of {self.a} minus {self.b}, nats{self.where(self.at)}"

    def asks_for(self) -> str:
        return "fit"

    def columns(self, results: Results) -> tuple[Any, ...]:
        return results.matched(str(self.a), str(self.b), self.at)

    def judged(self, a: Any, b: Any) -> Measured:
        found = super().judged(a, b)
        return Measured(found.value, found.ci, found.p, found.side, found.note, ".3f")


@dataclass(frozen=True)
class Equivalent(Criterion):
    """|a - b| < margin: two one-sided tests (TOST). Refuted where the interval lies outside of the margin."""

    a: Arms
    b: Arms
    margin: float
    metric: str = "test_error"
    at: At = "best"

    def own_name(self) -> str:
        what, unit = metric_and_unit(self.metric)
        return f"{what} of {named(self.a)} minus {named(self.b)}, {unit}{self.where(self.at)}"

    def wanted(self) -> str:
        return f"90 % interval within +-{self.margin:g}, TOST, Holm p < 0.05"

    def arms(self) -> Iterable[Arms]:
        return self.a, self.b

    def columns(self, results: Results) -> tuple[Any, ...]:
        return results.at(self.metric, self.a, self.at), results.at(self.metric, self.b, self.at)

    def judged(self, a: Any, b: Any) -> Measured:
        return equivalence(a, b, self.margin)


def equivalence(a: Any, b: Any, margin: float) -> Measured:
    """The measurement behind Equivalent, of any two columns."""
    same, (_, ci) = stats.tost(a, b, margin), stats.mean_ci(np.subtract(a, b))
    low, high = same["ci90"]
    note = f"90 % interval [{low:.2f}, {high:.2f}]"
    if same["beyond"]:
        return Measured(same["mean"], ci, same["p_beyond"], -1, note)
    return Measured(same["mean"], ci, same["p"], 1 if same["equivalent"] else 0, note)


@dataclass(frozen=True)
class Trend(Criterion):
    """The metric rises (or falls) with the number that belongs to each arm: Spearman's rho of each seed's curve."""

    x: Mapping[str, float]
    metric: str = "test_error"
    at: At = "best"
    rising: bool = True

    def own_name(self) -> str:
        arms = list(self.x)
        what = metric_and_unit(self.metric)[0]
        return f"Spearman correlation of {arms[0]} .. {arms[-1]} with {what}{self.where(self.at)}"

    def wanted(self) -> str:
        return f"interval {'above' if self.rising else 'below'} 0, Holm p < 0.05"

    def arms(self) -> Iterable[Arms]:
        return tuple(self.x)

    def columns(self, results: Results) -> tuple[Any, ...]:
        return tuple(results.at(self.metric, arm, self.at) for arm in self.x)

    def judged(self, *columns: Any) -> Measured:
        found = stats.spearman_over_seeds(list(self.x.values()), np.column_stack(columns))
        limit: dict[str, float] = {"above": 0.0} if self.rising else {"below": 0.0}
        return Measured(found.mean, found.ci, found.p, side_of(found.ci, **limit))


@dataclass(frozen=True)
class Below(Criterion):
    """The metric of an arm, or the mean of several, lies below a number."""

    of: Arms
    metric: str
    bound: float
    at: At = None
    sign = 1  # Above turns it around

    def own_name(self) -> str:
        return f"{metric_and_unit(self.metric)[0]} of {named(self.of)}{self.where(self.at)}"

    def wanted(self) -> str:
        return f"interval {'below' if self.sign > 0 else 'above'} {self.bound:g}, Holm p < 0.05"

    def arms(self) -> Iterable[Arms]:
        return (self.of,)

    def columns(self, results: Results) -> tuple[Any, ...]:
        return (results.at(self.metric, self.of, self.at),)

    def judged(self, values: Any) -> Measured:
        mean, ci = stats.mean_ci(values)
        limit: dict[str, float] = {"below" if self.sign > 0 else "above": self.bound}
        return Measured(mean, ci, stats.sign_flip(values - self.bound), side_of(ci, **limit))


@dataclass(frozen=True)
class Above(Below):
    sign = -1


@dataclass(frozen=True)
class Share(Criterion):
    """What share of the difference whole[0] - whole[1] is part[0] - part[1]; Fieller's interval. For notes only."""

    part: tuple[str, str]
    whole: tuple[str, str]
    metric: str = "test_error"
    at: At = "best"

    def own_name(self) -> str:
        (a, b), (c, d) = self.part, self.whole
        return f"{a} minus {b} as a share of {c} minus {d}, {metric_and_unit(self.metric)[0]}{self.where(self.at)}"

    def arms(self) -> Iterable[Arms]:
        return (*self.part, *self.whole)

    def columns(self, results: Results) -> tuple[Any, ...]:
        value = lambda arm: results.at(self.metric, arm, self.at)
        (a, b), (c, d) = self.part, self.whole
        return value(a) - value(b), value(c) - value(d)

    def judged(self, part: Any, whole: Any) -> Measured:
        return Measured(*stats.share(part, whole), math.nan, 0)


@dataclass(frozen=True)
class Exact(Criterion):
    """An identity: the largest value that any run has of the metric, of these arms or of all."""

    metric: str
    below: float
    of: Sequence[str] = ()
    kind = IDENTITY

    def own_name(self) -> str:
        return f"{metric_and_unit(self.metric)[0]}, the largest of all runs"

    def wanted(self) -> str:
        return f"< {self.below:g}"

    def arms(self) -> Iterable[Arms]:
        return self.of

    def available(self, results: Results) -> bool:
        return any(self.metric in r for r in results.runs) and super().available(results)

    def measure(self, results: Results) -> Measured:
        values = [r[self.metric] for r in results.runs if self.metric in r and (not self.of or r["arm"] in self.of)]
        worst = float(np.max(values))  # nan is the worst
        return Measured(worst, None, math.nan, 1 if worst < self.below else -1, unit_form=".3g")


def judge(criteria: Sequence[Criterion], results: Results) -> list[Outcome]:
    """The outcome of each criterion whose arms were run. Holm's correction is over all of the claims together."""
    there = [c for c in criteria if c.available(results)]
    found = [c.measure(results) for c in there]
    claims = [i for i, c in enumerate(there) if c.kind == CLAIM]
    adjusted = dict(zip(claims, stats.holm([found[i].p for i in claims]), strict=True))
    outcomes = []
    for i, (c, m) in enumerate(zip(there, found, strict=True)):
        if c.kind == IDENTITY:
            decided, note = exactly(m.side == 1), m.note
        else:
            decided = verdict(m.side, adjusted[i])
            note = f"{m.note}, Holm p {adjusted[i]:.2g}" if m.note else f"Holm p {adjusted[i]:.2g}"
        outcomes.append(Outcome(c.described(), m.value, m.ci, c.wanted(), decided, c.headline, note, c.kind))
    return outcomes


def describe(notes: Sequence[Criterion], results: Results) -> list[str]:
    """What the notes measure, a sentence each, without a verdict."""
    return [f"{n.described()}: {n.measure(results).words()} (no claim)" for n in notes if n.available(results)]


def written_down(criteria: Sequence[Criterion], notes: Sequence[Criterion]) -> tuple[str, str]:
    """What is predicted, as text, and its digest."""
    text = "\n".join(["criteria", *map(repr, criteria), "notes", *map(repr, notes)])
    return text, hashlib.sha256(text.encode()).hexdigest()
