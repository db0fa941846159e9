"""Paired statistics: the same seeds in every arm, one value per seed, and the difference is what counts.

A demo compares two arms seed by seed: what both have in common (data, initialization, batch order) cancels.
Intervals are Student's, which cover 95 +- 1.5 % of errors and of means over several nets, from five seeds on
(tests/demos/test_demo_coverage.py simulates it; a bootstrap of eight seeds covered 87 %). Of what is equal in nearly
all seeds, such as an edge of one net, they cover less, down to 40 %; then the test decides.
Tests are of permutations: all signs of up to 20 differences are tried, or random orders within a seed. So few seeds
can never be certain: five differences of one sign have p = 2 / 2^5 = 0.06. One seed has no interval and no p: both are
nan, and nan decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

SIGNS = 20  # of more differences than that, signs are drawn at random instead of all tried
ORDERS = 100_000  # random orders that a trend is compared with

Values = NDArray[np.float64]
Interval = tuple[float, float]
Alternative = Literal["two-sided", "greater"]


@dataclass(frozen=True)
class Paired:
    """What n paired differences a - b say. With errors or losses, below 0 means that a is better."""

    n: int
    mean: float
    ci: Interval  # 95 % t-interval
    d_z: float  # effect size: mean / standard deviation of the differences; nan where all are equal
    win_rate: float  # share of pairs with a below b, ties count half
    p: float  # exact sign-flip test, two-sided unless asked for otherwise

    def interval(self, form: str = ".2f") -> str:
        """ "+0.52 [0.25, 0.79]" """
        return interval(self.mean, self.ci, form, sign="+")

    def details(self, below: str = "", above: str = "") -> str:
        """What stands beside a mean and its interval. below or above: the word for a seed's a < b, or a > b."""
        share = self.win_rate if below else 1 - self.win_rate
        return f"d_z {self.d_z:.2f}, {below or above} in {100 * share:.0f} % of seeds"


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
    """Spearman's rho of each seed's curve, their mean, its 95 % t-interval, and the p-value of "no trend"."""

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
    spread = float(np.std(d, ddof=1)) if len(d) > 1 else 0.0
    return Paired(
        n=len(d),
        mean=mean,
        ci=ci,
        d_z=mean / spread if spread else float("nan"),
        win_rate=float(np.mean(d < 0) + np.mean(d == 0) / 2),
        p=sign_flip(d, alternative),
    )


def sign_flip(differences: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """The share of sign patterns whose mean is at least as far from 0: exact if the differences are symmetric about 0.

    2^n patterns of n differences; of more than 20, 100,000 random ones. Source: Fisher 1935, section 21.
    """
    d = _one_per_seed("differences", differences)
    if len(d) == 1:
        return float("nan")
    if len(d) <= SIGNS:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate([sums + value, sums - value])
    else:
        sums = np.random.default_rng(0).choice([-1.0, 1.0], (100_000, len(d))) @ d
        sums = np.append(sums, d.sum())  # the pattern that was seen is one of them
    observed, rounding = d.sum(), 1e-9 * np.abs(d).sum()
    if alternative == "two-sided":
        sums, observed = np.abs(sums), abs(observed)
    return float(np.mean(sums >= observed - rounding))


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
    """Paired equivalence, two one-sided tests at 5 %: is the 90 % interval of a - b within +-margin?

    "beyond": whether the 95 % interval lies outside of the margin; "p_beyond": of the test against that bound.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive and fixed before looking at the data, got {margin}")
    d = _differences(a, b)
    mean, ci90 = mean_ci(d, level=0.90)
    p = float(np.maximum(sign_flip(d + margin, "greater"), sign_flip(margin - d, "greater")))
    equivalent = bool(-margin < ci90[0] and ci90[1] < margin and p < 0.05)
    _, (low, high) = mean_ci(d)
    return {
        "n": len(d),
        "mean": mean,
        "ci90": ci90,
        "margin": margin,
        "p": p,
        "equivalent": equivalent,
        "beyond": bool(low > margin or high < -margin),
        "p_beyond": sign_flip(d - np.copysign(margin, mean)),
    }


def spearman_over_seeds(x: ArrayLike, values: ArrayLike) -> Trend:
    """Does values[seed, i] rise with x[i], or with x[seed, i]? A flat curve has no trend: its rho is 0.

    p, two-sided: of 100,000 random orders of each seed's values, the share whose mean rho is at least as far from 0
    (Page's trend test; 1e-5 is the least it can be). So five seeds that agree are enough, and a sixth that does not
    makes it larger, as it should be. The interval takes the rhos for normal numbers: a description, no test.
    """
    xs, curves = np.asarray(x, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if xs.ndim not in (1, 2) or xs.size < 2 or np.ptp(xs) == 0:
        raise ValueError(f"x must hold at least two different numbers, got {x!r}")
    if curves.ndim != 2 or curves.shape[1] != xs.shape[-1] or (xs.ndim == 2 and xs.shape != curves.shape):
        raise ValueError(f"values must have the shape (seeds, {xs.shape[-1]}), got {curves.shape}")
    if not (np.isfinite(xs).all() and np.isfinite(curves).all()):
        raise ValueError("x and values must be finite, got nan or inf")
    first, second = (_standard_ranks(a) for a in (np.broadcast_to(xs, curves.shape), curves))
    rhos = (first * second).sum(axis=1)
    mean, (low, high) = mean_ci(rhos)
    ci = float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))
    if len(curves) == 1:
        return Trend(rhos, mean, ci, float("nan"))
    rng, sums = np.random.default_rng(0), np.zeros(ORDERS)
    for a, b in zip(first, second, strict=True):
        sums += rng.permuted(np.broadcast_to(b, (ORDERS, len(b))), axis=1) @ a
    as_far = np.count_nonzero(np.abs(sums) >= abs(rhos.sum()) - 1e-9)
    return Trend(rhos, mean, ci, float((as_far + 1) / (ORDERS + 1)))


def _standard_ranks(values: Values) -> Values:
    """Ranks in each row, with mean 0 and length 1: the product of two rows is Spearman's rho. Equal values: zeros."""
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)


def share(part: ArrayLike, whole: ArrayLike) -> tuple[float, Interval]:
    """mean(part) / mean(whole), and Fieller's 95 % interval for it: every ratio r for which part - r whole may have the
    mean 0. Where whole may be 0 itself, the interval is all numbers. Source: Fieller 1954."""
    a, b = _one_per_seed("part", part), _one_per_seed("whole", whole)
    if len(a) != len(b):
        raise ValueError(f"part and whole must hold the same seeds, got {len(a)} and {len(b)} values")
    n, nan, inf = len(a), float("nan"), float("inf")
    if n == 1:
        return float(a[0] / b[0]) if b[0] else nan, (nan, nan)
    (va, cov), (_, vb) = np.cov(a, b) * stats.t.ppf(0.975, n - 1) ** 2 / n
    ma, mb = a.mean(), b.mean()
    square, product, constant = mb**2 - vb, ma * mb - cov, ma**2 - va  # of r^2, -2 r, 1
    ratio = float(ma / mb) if mb else nan
    if square <= 0:
        return ratio, (-inf, inf)
    root = np.sqrt(max(product**2 - square * constant, 0.0))
    return ratio, (float((product - root) / square), float((product + root) / square))


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
