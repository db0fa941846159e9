"""Derivatives from function values: which steps are tried, and how much the values can be trusted.

A small step h leaves rounding, about 1e-16 |f| / h, a large one the powers of h. Which one is right depends on the
function, so a whole ladder of steps is tried, h, h/4, h/16 ..., and extrapolated (extrapolation.py): 1e-12 where a
single step of 1e-6 gives 1e-10. The next element starts with the steps that were good for the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array
from .extrapolation import UNIT, WINDOW, Windows, extrapolate
from .report import GradcheckError

GOOD = 1e-10  # an error bar that needs no other steps, relative to the derivative
STRIDE = 2  # of the exponents: each step is a quarter of the one before
SMALLEST_NORMAL = 2.0**-1022  # the smallest number with all its digits


class Column(NamedTuple):
    """The derivatives of all outputs with respect to one element; those that it does not reach are left out.

    outputs: the places of the others in the flat outputs. value, error: of each. step: the largest one taken.
    bent: whether one of them seems to have a kink here.
    """

    outputs: Array
    value: Array
    error: Array
    step: float
    bent: bool


class Sides(NamedTuple):
    """One-sided derivatives of all outputs, from the left and from the right, with their error bars."""

    left: Array
    left_error: Array
    right: Array
    right_error: Array


def exponents(center: float, scale: float) -> list[int]:
    """The ladder: powers of two, from 4 max(1, |x|) down; two more parts where x or its neighbours are tiny."""

    def part(top: int, bottom: int) -> set[int]:
        return {k - k % STRIDE for k in range(bottom, top + 1)}

    size = abs(center)
    top = min(max(0, math.frexp(size)[1]) + 2, 1020)
    least = math.frexp(size)[1] - 49 if size else -1070  # x + h must differ from x by more than a few roundings
    ladder = part(top, -48)
    for small in (size, scale):
        if 0 < small < 2.0**-12:
            e = math.frexp(small)[1]
            ladder |= part(e + 2, e - 20)
    return sorted((k for k in ladder if k >= max(least, -1070)), reverse=True)


class Samples:
    """Values of the function beside one point, each computed once: f(x + h) and f(x - h) for several h.

    values: the flat outputs, read from the arrays as they are now; where it raises, nothing is known (NaN).
    parts: what moves by h, as (array, index): an element, or all elements of a mask together; of several arrays, too.
    direction: a factor of h, for an index that selects more than one element.
    """

    def __init__(
        self, values: Callable[[], Array], parts: list[tuple[Array, Any]], size: int, direction: Any = 1.0
    ) -> None:
        self.values, self.size, self.direction = values, size, direction
        self.parts = [(work, index, work[index].copy()) for work, index in parts]
        starts = [start for _, _, start in self.parts]
        self.center = max(float(np.abs(s).max(initial=0)) for s in starts) if starts[0].ndim else float(starts[0])
        self.known: dict[int, tuple[Array, Array, float, float]] = {}

    def _value(self, h: float) -> Array:
        for work, index, start in self.parts:
            work[index] = start + h * self.direction
        try:
            values = self.values()
        except Exception:  # outside of its domain a function may say so
            return np.full(self.size, np.nan)
        finally:
            for work, index, start in self.parts:
                work[index] = start
        if values.size != self.size:
            raise GradcheckError(
                f"the outputs have {values.size} elements where an input differs by {h:.1g}, and {self.size} where it "
                "does not: their shape must not depend on values"
            )
        return values

    def at(self, exponent: int) -> tuple[Array, Array, float, float]:
        """f(x + h), f(x - h), and the two steps as they were after rounding; h = 2^exponent."""
        if exponent not in self.known:
            h = 2.0**exponent
            plus, minus = self.center + h, self.center - h
            self.known[exponent] = (
                self._value(h),
                self._value(-h),
                plus - self.center,
                self.center - minus,
            )
        return self.known[exponent]


class Differences:
    """Columns of the Jacobian of ``values``, a function of the arrays in which single elements are moved.

    base: the flat outputs where nothing is moved. noise: by how much they differ from call to call.
    """

    def __init__(self, values: Callable[[], Array], base: Array, noise: Array, eps: float | None) -> None:
        self.values, self.base = values, base
        self.rounding = np.maximum(UNIT * np.abs(base), noise)
        self.fixed = None if eps is None else min(max(round(math.log2(eps)) + STRIDE, -1060), 1020)
        self.largest = np.zeros(base.size)  # of each output's derivatives so far
        self.largest_here = np.zeros(base.size)  # of those with respect to the same array
        self.moved_here = np.zeros(base.size)  # by how much each output has changed, the same
        self.good: dict[int | None, tuple[int, float]] = {}  # binade of x (None: the last one) -> good step, error bar

    def samples(self, parts: list[tuple[Array, Any]], direction: Any = 1.0) -> Samples:
        return Samples(self.values, parts, self.base.size, direction)

    @np.errstate(all="ignore")
    def column(self, samples: Samples, scale: float) -> Column:
        """The derivatives with respect to one element. scale: a typical size of the array's elements."""
        if self.fixed is not None:
            steps = [self.fixed - STRIDE * i for i in range(WINDOW)]
            if samples.center + 2.0 ** (steps[-1] - 2) == samples.center:  # with fewer digits of h, h itself is wrong
                least = 16 * UNIT * samples.center
                raise ValueError(
                    f"eps must be at least {least:.1g} for an element of {samples.center:.3g}, got too little"
                )
            return self._window(samples, steps)
        binade = math.frexp(samples.center)[1] if samples.center else -2000
        start, level = self.good.get(binade) or self.good.get(None) or (None, GOOD)
        least = math.frexp(samples.center)[1] - 49 + STRIDE * (WINDOW - 1) if samples.center else -1070
        if start is not None and start >= least:  # else steps are lost in the rounding of x
            found = self._window(samples, [start - STRIDE * i for i in range(WINDOW)])
            size = np.maximum(np.abs(found.value), self.largest_here[found.outputs])
            if np.all(found.error <= max(level, GOOD) * size):
                self._learn(found)
                return found
        found, start, level = self._ladder(samples, exponents(samples.center, scale))
        self.good[binade] = self.good[None] = start, min(4 * level, 1e-4)
        self._learn(found)
        return found

    @np.errstate(all="ignore")
    def closely(self, samples: Samples, scale: float, steps: slice = slice(None)) -> tuple[Column, Sides]:
        """All steps, for an element that deserves a second look, and the derivatives from either side."""
        ladder = exponents(samples.center, scale)[steps]
        found, _, _ = self._ladder(samples, ladder)
        sides = self._sides(samples, ladder)
        self._from_inside(samples, found, sides)
        return found, sides

    @staticmethod
    def _from_inside(samples: Samples, found: Column, sides: Sides) -> None:
        """At the edge of the domain only one side has values: its derivative is taken. Infinity is a value."""
        values = np.array([value for pair in samples.known.values() for value in pair[:2]])
        infinite = np.isinf(values).any(axis=0)
        for value, error in ((sides.left, sides.left_error), (sides.right, sides.right_error)):
            unknown = ~np.isfinite(found.error) & np.isfinite(error[found.outputs]) & ~infinite[found.outputs]
            found.value[unknown] = value[found.outputs[unknown]]
            found.error[unknown] = 16 * error[found.outputs[unknown]]  # x^1.5 at 0 is not smooth up to the edge

    def _listen(self, samples: Samples, pairs: list[Any]) -> None:
        """How much the outputs round: by what they change when x moves by its last digits, one, two and four units.

        Outputs that are float32 numbers at all steps may have been float32 in between, which is a staircase.
        """
        narrow = np.all([v == v.astype(np.float32) for p in pairs for v in p[:2]], axis=0)
        narrow &= np.sum([p[0] != p[1] for p in pairs], axis=0) > WINDOW
        np.fmax(self.rounding, 2.0**-24 * np.abs(self.base), out=self.rounding, where=narrow)
        least = max(math.frexp(samples.center)[1] - 53 if samples.center else -1074, -1074)
        for k in range(least, least + 3):
            for value in samples.at(k)[:2]:
                noise = np.abs(value - self.base)
                np.fmax(self.rounding, noise, out=self.rounding, where=np.isfinite(noise))

    def _learn(self, found: Column) -> None:
        known = np.where(np.abs(found.value) > 4 * found.error, np.abs(found.value), 0)
        for largest in (self.largest, self.largest_here):
            largest[found.outputs] = np.maximum(largest[found.outputs], known)

    def _window(self, samples: Samples, steps: list[int]) -> Column:
        pairs = [samples.at(k) for k in steps]
        changes = np.array([plus - minus for plus, minus, _, _ in pairs])
        outputs = np.flatnonzero((changes != 0).any(axis=0))
        widths = np.array([[up + down] for _, _, up, down in pairs])
        value, error = extrapolate(changes[:, outputs] / widths, 2)
        sizes = np.maximum(np.abs(pairs[0][0][outputs]), np.abs(pairs[0][1][outputs]))  # the largest step's
        error += 2 * np.maximum(self.rounding[outputs], UNIT * sizes) / widths[-1]
        error[~np.isfinite(value)] = np.inf
        return Column(outputs, value, error, 2.0 ** steps[0], self._bent(pairs, changes, outputs))

    def _bent(self, pairs: list[Any], changes: Array, outputs: Array) -> bool:
        """Whether (f(x + h) + f(x - h) - 2 f(x)) / h stays where h shrinks, as at a kink; also notes what has moved."""
        np.fmax(self.moved_here, np.abs(pairs[0][0] - self.base), out=self.moved_here)  # at a minimum both sides agree
        twice = 2 * self.base[outputs]
        first, second = (np.abs(p[outputs] + m[outputs] - twice) for p, m, _, _ in pairs[-2:])
        far = second > 2.0**10 * (self.rounding[outputs] + SMALLEST_NORMAL)
        return bool(((4 * second > 0.7 * first) & far).any())  # the second step is a quarter

    def _windows(self, changes: Array, widths: Array, sizes: Array, center: float, order: int) -> tuple[Array, Windows]:
        """The outputs that change, and the windows of their differences.

        sizes: of the outputs at each step. center: the size of x.
        """
        outputs = np.flatnonzero((changes != 0).any(axis=0))
        rounding = np.maximum(self.rounding[outputs], UNIT * sizes[:, outputs])
        windows = Windows(changes[:, outputs], widths, rounding, order)
        windows.settle(8 * UNIT * max(1.0, center), self.base[outputs])
        return outputs, windows

    def _ladder(self, samples: Samples, ladder: list[int]) -> tuple[Column, int, float]:
        pairs = [samples.at(k) for k in ladder]
        self._listen(samples, pairs)
        changes = np.array([plus - minus for plus, minus, _, _ in pairs])
        widths = np.array([[up + down] for _, _, up, down in pairs])
        sizes = np.array([np.maximum(np.abs(plus), np.abs(minus)) for plus, minus, _, _ in pairs])
        outputs, windows = self._windows(changes, widths, sizes, samples.center, 2)
        value, error = windows.best()
        size = np.maximum(np.abs(value), self.largest_here[outputs])
        size[size == 0] = 1
        worst = (windows.error / size).max(axis=1, initial=0)
        start = int(worst.argmin())
        bent = self._bent(pairs[: start + WINDOW], changes, outputs)
        return Column(outputs, value, error, 2.0 ** ladder[0], bent), ladder[start], float(worst[start])

    def _sides(self, samples: Samples, ladder: list[int]) -> Sides:
        pairs = [samples.at(k) for k in ladder]
        found = np.zeros((4, self.base.size))
        for row, side, sign in ((0, 1, -1), (2, 0, 1)):
            changes = sign * np.array([pair[side] - self.base for pair in pairs])
            widths = np.array([[pair[2 + side]] for pair in pairs])
            sizes = np.abs(np.array([pair[side] for pair in pairs]))
            outputs, windows = self._windows(changes, widths, sizes, samples.center, 1)
            found[row : row + 2, outputs] = windows.best()
        return Sides(*found)


def typical(a: Array) -> float:
    """The median size of what is not 0; 1 where all is."""
    sizes = np.abs(a[(a != 0) & np.isfinite(a)])
    return float(np.median(sizes)) if sizes.size else 1.0


def flat(outs: list[Any]) -> Array:
    """All outputs in one new array."""
    return np.concatenate([np.ravel(np.asarray(o, np.float64)) for o in outs]) if outs else np.empty(0)
