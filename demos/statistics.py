"""Paired statistics: the same seeds in every arm, one value per seed, and the difference is what counts.

A demo compares two arms seed by seed: what both have in common (data, initialization, batch order) cancels.
One seed has no interval: it is nan, and nan passes no criterion (those on a point estimate alone can pass). Where all
values are equal the interval is a point, and the t-test, which would be certain after two seeds, gives way to the exact
sign test: p = 2 / 2^n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Values = NDArray[np.float64]
Interval = tuple[float, float]
Alternative = Literal["two-sided", "greater"]


@dataclass(frozen=True)
class Paired:
    """What n paired differences a - b say. With errors or losses, below 0 means that a is better."""

    n: int
    mean: float
    ci: Interval  # 95 % t-interval
    bootstrap_ci: Interval  # 95 %, bias-corrected and accelerated: no normality assumed
    d_z: float  # effect size: mean / standard deviation of the differences; nan where all are equal
    win_rate: float  # share of pairs with a below b, ties count half
    p: float  # paired t-test, two-sided unless asked for otherwise; sign test where all differences are equal

    def interval(self, form: str = ".2f") -> str:
        """ "+0.52 [0.25, 0.79]" """
        return interval(self.mean, self.ci, form, sign="+")

    def details(self, below: str = "", above: str = "") -> str:
        """What stands beside a mean and its interval. below or above: the word for a seed's a < b, or a > b."""
        low, high = self.bootstrap_ci
        share = self.win_rate if below else 1 - self.win_rate
        return (
            f"bootstrap [{low:.2f}, {high:.2f}], d_z {self.d_z:.2f}, {below or above} in {100 * share:.0f} % of seeds"
        )


def points(d: Paired) -> str:
    """A paired difference of errors in percent, in words."""
    return f"{d.interval()} points, {d.details('better')}"


def interval(mean: float, ci: Interval, form: str = ".2f", sign: str = "") -> str:
    """ "3.38 [3.10, 3.67]"; sign "+" is for differences."""
    return f"{mean:{sign}{form}} [{ci[0]:{form}}, {ci[1]:{form}}]"


def mean_interval(values: ArrayLike, form: str = ".2f") -> str:
    """The mean of one value per seed and its 95 % t-interval."""
    return interval(*mean_ci(values), form)


class Trend(NamedTuple):
    """Spearman's rho of each seed's curve, their mean, its 95 % t-interval and the p-value of "no trend"."""

    rhos: Values
    mean: float
    ci: Interval
    p: float


def paired(a: ArrayLike, b: ArrayLike, alternative: Alternative = "two-sided") -> Paired:
    """The statistics of a - b, where a[i] and b[i] come from the same seed.

    p is of "the mean difference is 0", two-sided; with alternative="greater" it is one-sided, of "the mean difference
    is at most 0": small only where a - b lies above 0.
    """
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {get_args(Alternative)}, got {alternative!r}")
    d = _differences(a, b)
    mean, ci = mean_ci(d)
    win_rate = float(np.mean(d < 0) + np.mean(d == 0) / 2)
    if len(d) == 1:
        nan = float("nan")
        return Paired(1, mean, ci, (nan, nan), nan, win_rate, nan)
    if np.ptp(d) == 0:
        return Paired(len(d), mean, ci, ci, float("nan"), win_rate, _p_value(d, alternative))
    rng = np.random.default_rng(0)  # the same data give the same interval
    bootstrap = stats.bootstrap((d,), np.mean, method="BCa", random_state=rng).confidence_interval
    return Paired(
        n=len(d),
        mean=mean,
        ci=ci,
        bootstrap_ci=(float(bootstrap.low), float(bootstrap.high)),
        d_z=float(mean / d.std(ddof=1)),
        win_rate=win_rate,
        p=_p_value(d, alternative),
    )


def mean_ci(values: ArrayLike, level: float = 0.95) -> tuple[float, Interval]:
    """The mean of one value per seed, with its t-interval."""
    v = _one_per_seed("values", values)
    mean = float(v.mean())
    if len(v) == 1:
        return mean, (float("nan"), float("nan"))
    if np.ptp(v) == 0:
        return float(v[0]), (float(v[0]), float(v[0]))
    half = float(stats.t.ppf((1 + level) / 2, len(v) - 1) * stats.sem(v))
    return mean, (mean - half, mean + half)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several criteria tested at once; nan stays nan and counts as a test."""
    p = np.asarray(pvalues, dtype=np.float64)
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise ValueError(f"pvalues must be a list of numbers in [0, 1], got {pvalues}")
    order = np.argsort(p)  # nan goes last
    stepped = p[order] * np.arange(len(p), 0, -1)  # the smallest times m, the next times m - 1, ...
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def tost(a: ArrayLike, b: ArrayLike, margin: float) -> dict[str, Any]:
    """Paired equivalence, two one-sided tests at 5 %: is the 90 % interval of a - b within +-margin?"""
    if not margin > 0:
        raise ValueError(f"margin must be positive and fixed before looking at the data, got {margin}")
    d = _differences(a, b)
    mean, ci90 = mean_ci(d, level=0.90)
    if len(d) == 1:
        p = float("nan")
    elif np.ptp(d) == 0:
        p = 0.5 ** len(d) if abs(mean) < margin else 1.0  # one-sided sign test, as in _p_value
    else:
        above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(d, margin, alternative="less").pvalue
        p = float(max(above, below))
    equivalent = bool(-margin < ci90[0] and ci90[1] < margin and p < 0.05)
    return {"n": len(d), "mean": mean, "ci90": ci90, "margin": margin, "p": p, "equivalent": equivalent}


def spearman_over_seeds(x: ArrayLike, values: ArrayLike) -> Trend:
    """Does values[seed, i] rise with x[i], or with x[seed, i]? A flat curve has no trend: its rho is 0."""
    xs, curves = np.asarray(x, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if xs.ndim not in (1, 2) or xs.size < 2 or np.ptp(xs) == 0:
        raise ValueError(f"x must hold at least two different numbers, got {x!r}")
    if curves.ndim != 2 or curves.shape[1] != xs.shape[-1] or (xs.ndim == 2 and xs.shape != curves.shape):
        raise ValueError(f"values must have the shape (seeds, {xs.shape[-1]}), got {curves.shape}")
    if not (np.isfinite(xs).all() and np.isfinite(curves).all()):
        raise ValueError("x and values must be finite, got nan or inf")
    pairs = zip(np.broadcast_to(xs, curves.shape), curves, strict=True)
    rhos = np.array([0.0 if np.ptp(a) == 0 or np.ptp(c) == 0 else stats.spearmanr(a, c).statistic for a, c in pairs])
    mean, (low, high) = mean_ci(rhos)
    return Trend(rhos, mean, (float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))), _p_value(rhos))


def _p_value(d: Values, alternative: Alternative = "two-sided") -> float:
    """Of "the mean is 0", or "is at most 0": the t-test, or the exact sign test where all values are equal."""
    if len(d) == 1:
        return float("nan")
    if np.ptp(d) == 0:
        against = d[0] > 0 if alternative == "greater" else d[0] != 0
        return (1 if alternative == "greater" else 2) * 0.5 ** len(d) if against else 1.0
    return float(stats.ttest_1samp(d, 0, alternative=alternative).pvalue)


def _one_per_seed(name: str, values: ArrayLike) -> Values:
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"{name} must hold one value per seed, got an array of shape {v.shape}")
    if not np.isfinite(v).all():
        raise ValueError(
            f"{name} must be finite (a diverged run counts as chance), got {v[~np.isfinite(v)][0]} "
            f"at index {np.flatnonzero(~np.isfinite(v))[0]}"
        )
    return v


def _differences(a: ArrayLike, b: ArrayLike) -> Values:
    first, second = _one_per_seed("a", a), _one_per_seed("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b must hold the same seeds, got {len(first)} and {len(second)} values")
    d = first - second
    # 0.3 - 0.2 and 0.4 - 0.3 differ in the last bit: such rounding is no variance
    if np.ptp(d) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()):
        d = np.full_like(d, d.mean() if abs(d.mean()) > 1e-12 * np.abs(first).max() else 0.0)
    return d
