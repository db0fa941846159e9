"""The comparison of gradients with differences, element by element.

Why dy, the gradient of the outputs, is drawn at random: the sum of a normalized output is constant in the input, so
that a check seeded with ones accepts a backward that returns zeros. Why it is scaled as well: of an output of 1e7 and
one of 1, weighted alike, only the first would be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array, check_int, check_number
from .differences import SMALLEST_NORMAL, Column, Differences, Sides, flat, typical
from .extrapolation import UNIT
from .layouts import alike
from .report import GradcheckError, InputReport, Report, mistake
from .subject import Cotangents, Pull, Subject, untouched

ONE_BY_ONE = 32  # up to so many outputs, each is also looked at by itself
RANDOM = 2  # dy are drawn at random; then comes one of ones, as sum() gives
CLOSE_LOOKS = 40  # elements of an input that get a second look, all steps and both sides
MIDDLE = slice(6, 14)  # of the ladder: these steps do for the rest, where a kink explains so many
BLURRED = 1e-7  # an error bar of more than this share of the terms deserves a close look
VAGUE = 0.05  # an error bar of more than this share of the derivative tells nothing


@dataclass
class _Table:
    """Of one input: a row for each dy, a column for each element."""

    rows: Array
    analytic: Array
    value: Array = field(init=False)
    error: Array = field(init=False)
    size: Array = field(init=False)
    tolerance: Array = field(init=False)
    right: Array = field(init=False)
    kink: Array = field(init=False)
    bent: Array = field(init=False)


class Settings(NamedTuple):
    """eps: None, or the middle one of three steps. rtol, atol, seed: of gradcheck."""

    eps: float | None
    rtol: float
    atol: float
    seed: int


def settings(eps: Any, rtol: Any, atol: Any, seed: Any) -> Settings:
    """Checked, as Python's numbers."""
    if eps is not None and check_number("eps", eps, 0) == 0:
        raise ValueError("eps must be > 0, got 0")
    step = None if eps is None else check_number("eps", eps, 0)
    return Settings(
        step, check_number("rtol", rtol, 0), check_number("atol", atol, 0), check_int("seed", seed, 0, None)
    )


class Check:
    """One run: differences for every element, and gradients for some cotangents; then the calls of calls.py."""

    def __init__(self, subject: Subject, chosen: Settings) -> None:
        self.subject, self.rtol, self.atol = subject, chosen.rtol, chosen.atol
        self.words, self.arrays = subject.words, subject.arrays
        of = (
            f"the sum of the outputs times a random {self.words.dy} (seed={chosen.seed})"
            if subject.linear
            else "the loss"
        )
        self.report = Report(legend=f"values are of {of}, see {self.words.help}")
        with untouched(self.words.forward, subject.names, self.arrays):
            self.outs = [np.array(o) for o in subject.values(self.arrays)]
        self.base = flat(self.outs)
        self._finite()
        self.noise = self._repeated()
        self.work = [alike(a) for a in self.arrays]  # fn sees the same kind of array
        self.differences = Differences(self._values, self.base, self.noise, chosen.eps)
        self._at_kinks: list[tuple[int, Array, Array]] = []  # input, which of its elements, their gradients
        self.moved: list[Array] = []  # by each input: how much the outputs change at most
        self.columns = [self._columns(i) for i in range(len(self.arrays))]
        self.cotangents = Cotangents(self.outs, self.differences.largest, chosen.seed)

    def _values(self) -> Array:
        return flat(self.subject.values(self.work))

    def _finite(self) -> None:
        if bad := np.count_nonzero(~np.isfinite(self.base)):
            raise GradcheckError(
                f"{self.words.forward} gives NaN or inf in {bad} of its {self.base.size} output elements: nothing can "
                "be checked there, choose inputs where it is finite"
            )

    def _repeated(self) -> Array:
        """By how much the outputs differ if nothing changes: not at all, or by rounding where a sum is reordered."""
        forward = self.words.forward
        again = [flat(self.subject.values(self.arrays)) for _ in range(2)]
        if any(a.shape != self.base.shape for a in again):
            raise GradcheckError(f"{forward} gave outputs of two shapes for the same inputs: it is not deterministic")
        noise: Array = np.max([np.abs(a - self.base) for a in again], axis=0)
        if not np.all(noise <= 1e-9 * self._largest()):
            raise GradcheckError(
                f"{forward} gave two different outputs for the same inputs: it is not deterministic{self.words.random}"
            )
        return noise

    def _largest(self) -> Array:
        """For each element of the flat outputs the largest of its output."""
        sizes = [np.full(o.size, np.abs(o).max(initial=0)) for o in self.outs]
        return np.concatenate(sizes) if sizes else np.empty(0)

    def same_outputs(self, values: Array) -> bool:
        """Whether other flat outputs are the same, up to rounding."""
        room = 1e-9 * self._largest() + 64 * self.differences.rounding
        return values.shape == self.base.shape and bool(np.all(np.abs(values - self.base) <= room))

    def _columns(self, i: int) -> list[Column]:
        work, scale = self.work[i], typical(self.arrays[i])
        samples = self.differences.samples
        self.differences.largest_here[:] = self.differences.moved_here[:] = 0
        columns = [self.differences.column(samples([(work, e)]), scale) for e in np.ndindex(work.shape)]
        self.moved.append(self.differences.moved_here.copy())
        return columns

    def gradients(self) -> tuple[Pull, Array, list[Array]] | None:
        """Compare; (the function that pulls back, a dy as a row, its gradients) for the checks of calls."""
        outs, pull = self.subject.record(self.arrays)
        if not self.same_outputs(flat(outs)):
            self.report.problems.append(
                f"{self.words.forward} gives other outputs when its gradient is asked for than without"
            )
            return None
        rows = self._rows()
        gradients: list[list[Array]] = []
        for row in rows:
            dy = self.cotangents.shaped(row)
            names = [*self.subject.names, *[self.words.dy] * len(dy)]
            with untouched(self.words.backward, names, [*self.arrays, *dy]):
                try:
                    gradients.append(pull(dy))
                except Exception as error:
                    if not gradients or isinstance(error, (GradcheckError, MemoryError, RecursionError)):
                        raise
                    why = f"{type(error).__name__}: {error}"
                    self.report.problems.append(f"the gradient can be asked for only once, then {why}")
                    break
        if not any(moved.any() for moved in self.moved) and self.base.size:
            text = "no output moves with any of the inputs"
            self.report.notes.append(text)
            self.report.warnings.append(f"{text}: does {self.words.forward} use its arguments?")
        for i, name in enumerate(self.subject.names):
            self._compare(i, name, np.array(rows[: len(gradients)]), [g[i] for g in gradients])
        if len(self._at_kinks) > 1 and not self.report.problems:
            self._together(self._at_kinks, np.array(rows[:RANDOM]))
        return (pull, rows[0], gradients[0]) if len(rows) == len(gradients) else None

    def _rows(self) -> list[Array]:
        if not self.subject.linear:
            return [np.ones(self.base.size)]
        rows = [self.cotangents.draw(), self.cotangents.draw(scaled=True), np.ones(self.base.size)]
        if 1 < self.base.size <= ONE_BY_ONE:
            rows += list(np.eye(self.base.size) * self.cotangents.scale)
        return rows

    def terms(self, rows: Array, columns: Sequence[Column]) -> tuple[Array, Array, Array]:
        """For each row and element: the gradient, its error bar, and the sum of the sizes of what was added up."""
        value, error, size = np.zeros((3, len(rows), len(columns)))
        if not columns:
            return value, error, size
        element = np.repeat(np.arange(len(columns)), [c.outputs.size for c in columns])
        outputs, values, errors = (np.concatenate([c[i] for c in columns]) for i in range(3))
        sizes, steps, largest = np.abs(values), np.array([c.step for c in columns]), np.zeros(len(columns))
        np.maximum.at(largest, element, sizes)
        for k, row in enumerate(rows):
            dy = row[outputs]
            weights = np.abs(dy)
            bars = np.where(dy != 0, weights * errors, 0)  # an error bar may be infinite
            for total, terms in ((value, dy * values), (error, bars), (size, weights * sizes)):
                total[k] = np.bincount(element, terms, len(columns))
            error[k] += np.abs(row) @ self.differences.rounding / steps
            # Terms that cancel may be larger than their sum: softmax adds up all dy.
            error[k] += 4 * UNIT * np.abs(row).max(initial=0) * largest
        return value, error, size

    def _tolerance(self, rows: Array, error: Array, size: Array) -> Array:
        # Where no output moves at all, the gradient may still be what rounding left of terms that cancel.
        scale = self.differences.largest.max(initial=0) or 1.0
        nothing = np.where(size == 0, 2.0**-45 * scale * np.abs(rows).sum(axis=1, keepdims=True), 0)
        least = SMALLEST_NORMAL * np.abs(rows).sum(axis=1, keepdims=True)
        tolerance: Array = self.atol + self.rtol * size + error + nothing + least
        return tolerance

    def allowed(self, row: Array) -> list[Array]:
        """By how much each element of each gradient may differ, for the cotangent in this row."""
        found = [self.terms(row[None], columns) for columns in self.columns]
        tolerances = [self._tolerance(row[None], error, size)[0] for _, error, size in found]
        return [t.reshape(a.shape) for t, a in zip(tolerances, self.arrays, strict=True)]

    def _compare(self, i: int, name: str, rows: Array, gradients: Sequence[Array]) -> None:
        t = _Table(rows, np.array([np.asarray(g, np.float64).ravel() for g in gradients]))
        t.value, t.error, t.size = self.terms(rows, self.columns[i])
        t.tolerance = self._tolerance(rows, t.error, t.size)
        t.right = (np.abs(t.analytic - t.value) <= t.tolerance) & np.isfinite(t.tolerance)
        self._close_looks(i, t)
        which = int(np.argmin(t.right.all(axis=1)))  # the first cotangent that shows something, or the first
        shown = [a[which] for a in (t.analytic, t.value, t.error, t.tolerance, t.right)]
        vague = self._vague(t, which)
        one = InputReport(name, *(a.reshape(self.arrays[i].shape) for a in (*shown, t.kink, vague)))
        self.report.inputs.append(one)
        if t.kink.any():
            self.report.notes.append(
                f"{name}: {np.count_nonzero(t.kink)} of {t.kink.size} elements lie at a kink, where any value between "
                "the derivatives from the left and from the right is accepted"
            )
            self._at_kinks.append((i, one.kink, t.analytic[:RANDOM]))
            self._together([self._at_kinks[-1]], rows[:RANDOM])
        if not one.right.all():
            self.report.problems.append(f"{name}: {self._mistake(one, which, t.bent)}")
        elif vague.any():
            self._cannot_tell(i, one, rows[which])

    def _close_looks(self, i: int, t: _Table) -> None:
        t.kink, t.bent = np.zeros((2, t.right.shape[1]), bool)
        bent = np.array([c.bent for c in self.columns[i]], bool)
        bent |= (t.error > BLURRED * t.size)[:RANDOM].any(axis=0)  # the steps of the last element may not suit this one
        wrong = np.flatnonzero(~t.right.all(axis=0))
        places = [*wrong, *np.flatnonzero(bent & t.right.all(axis=0))[:CLOSE_LOOKS]]
        for count, k in enumerate(places):
            if count == CLOSE_LOOKS <= len(wrong) and not t.right[:, wrong[:count]].all(axis=0).any():
                break  # all of these are wrong at a close look: then so are the others
            t.kink[k] = self._close_look(i, int(k), t, slice(None) if count < CLOSE_LOOKS else MIDDLE)

    def _vague(self, t: _Table, which: int) -> Array:
        """Elements of which the error bar tells nothing, and is more than rounding of the largest."""
        error, size = t.error[which], t.size[which]
        known = np.maximum(np.abs(t.value[which]), np.abs(t.analytic[which]))
        vague: Array = (error > VAGUE * known) & (error > 0.1 * self.rtol * size.max(initial=0)) & (size > 0)
        return vague

    def _cannot_tell(self, i: int, one: InputReport, row: Array) -> None:
        """A note where little is lost; a problem where nothing is known of a function that does move."""
        vague, count = one.vague, np.count_nonzero(one.vague)
        least = np.abs(row) @ self.differences.rounding / max(1.0, typical(self.arrays[i]))  # over a step of x's size
        worst, size = float(one.error[vague].max()), np.maximum(np.abs(self.base), self.moved[i])
        if np.all(self.moved[i] <= 4 * self.differences.rounding):
            why = "the function is constant but for rounding"
        elif vague.all() and worst > 1024 * least and worst > 1e-9 * float(np.abs(row) @ size):
            k = tuple(int(j) for j in np.unravel_index(np.where(vague, one.error, -1).argmax(), vague.shape))
            self.report.problems.append(
                f"{one.name}: cannot be checked here, the numerical gradient of element {k} is {one.numerical[k]:.3g} "
                f"+- {worst:.1g}: the function is too rough, or rounds too much, at these values"
            )
            return
        else:
            why = "the function rounds too much at these values"
            self.report.warnings.append(f"{one.name}: {count} of {vague.size} elements cannot be told, {why}")
        self.report.notes.append(f"{one.name}: {count} of {vague.size} elements cannot be told, {why}")

    def _mistake(self, one: InputReport, k: int, bent: Array) -> str:
        words = "analytic gradient", "numerical"
        text = mistake(one.right, one.analytic, one.numerical, *words, one.tolerance, one.error)
        if not np.isfinite(one.numerical).all() and np.isfinite(one.analytic).all():
            text += "; the outputs are not finite beside it, or jump"
        difference, size = np.abs(one.analytic - one.numerical)[~one.right], np.abs(one.numerical)[~one.right]
        if np.all(difference < 1e-5 * size):
            needed = (difference / size).max()
            text += f"; that is little: an eps elsewhere, or a rounded gradient, which rtol={needed:.0e} accepts"
        if at_kinks := np.count_nonzero(bent & ~one.right.ravel()):
            text += f"; {at_kinks} of them lie at a kink, and outside of what the derivatives from both sides allow"
        if k < RANDOM:
            return text
        if k == RANDOM:
            return f"{text}; these are for {self.words.dy} = 1"
        which, place = 0, k - RANDOM - 1
        while place >= self.outs[which].size:
            place, which = place - self.outs[which].size, which + 1
        element = tuple(int(j) for j in np.unravel_index(place, self.outs[which].shape))
        of = f"output {which}, element {element}" if len(self.outs) > 1 else f"output element {element}"
        return f"{text}; these are of {of} alone, times {self.cotangents.scale[place]:.3g}"

    def _close_look(self, i: int, k: int, t: _Table, steps: slice) -> bool:
        """All steps for one element, and derivatives from both sides; whether it lies at a kink that explains it."""
        index = tuple(int(j) for j in np.unravel_index(k, self.arrays[i].shape))
        samples = self.differences.samples([(self.work[i], index)])
        found, sides = self.differences.closely(samples, typical(self.arrays[i]), steps)
        rows = t.rows
        value, error, size = self.terms(rows, [found])
        tolerance = self._tolerance(rows, error, size)
        for old, new in ((t.value, value), (t.error, error), (t.size, size), (t.tolerance, tolerance)):
            old[:, k] = new[:, 0]
        t.right[:, k] = (np.abs(t.analytic[:, k] - value[:, 0]) <= tolerance[:, 0]) & np.isfinite(tolerance[:, 0])
        bent = np.abs(sides.right - sides.left) > 8 * (sides.left_error + sides.right_error)
        t.bent[k] = bent.any()
        if not bent.any():
            return False
        low, high, room = self._allowed_at_kink(rows, found, sides, bent)
        t.right[:, k] |= (t.analytic[:, k] >= low - room) & (t.analytic[:, k] <= high + room)
        return bool(t.right[:, k].all())

    def _allowed_at_kink(self, rows: Array, found: Column, sides: Sides, bent: Array) -> tuple[Array, Array, Array]:
        """For each row the least and the greatest gradient, and how much rounding allows beyond.

        Outputs that are bent contribute anything between their two sides, the others their derivative.
        """
        left, right, bar = np.zeros((3, self.base.size))
        left[found.outputs] = right[found.outputs] = found.value
        bar[found.outputs] = found.error
        for derivative, side in ((left, sides.left), (right, sides.right), (bar, sides.left_error + sides.right_error)):
            derivative[bent] = side[bent]
        weights, heard = np.abs(rows), rows != 0  # what is not asked for may be unknown
        one, other = (np.where(heard, rows * side, 0) for side in (left, right))
        low, high = np.minimum(one, other).sum(axis=1), np.maximum(one, other).sum(axis=1)
        size = np.where(heard, weights * np.maximum(np.abs(left), np.abs(right)), 0).sum(axis=1)
        return low, high, self.atol + self.rtol * size + np.where(heard, weights * bar, 0).sum(axis=1)

    def _together(self, kinks: Sequence[tuple[int, Array, Array]], rows: Array) -> None:
        """All elements at a kink move by the same h: equal ones stay equal, and under a maximum count once.

        kinks: the number of an input, which of its elements lie at one, and the gradients for the rows.
        """
        samples = self.differences.samples([(self.work[i], kink) for i, kink, _ in kinks])
        _, sides = self.differences.closely(samples, typical(self.arrays[kinks[0][0]]))
        analytic = np.concatenate([gradients[: len(rows), kink.ravel()] for _, kink, gradients in kinks], axis=1)
        moved = analytic.sum(axis=1)
        low = np.minimum(rows * sides.left, rows * sides.right).sum(axis=1)
        high = np.maximum(rows * sides.left, rows * sides.right).sum(axis=1)
        size = np.abs(rows) @ np.maximum(np.abs(sides.left), np.abs(sides.right))
        bar = np.abs(rows) @ (sides.left_error + sides.right_error)
        room = self.atol + bar + self.rtol * (size + np.abs(analytic).sum(axis=1))
        room += SMALLEST_NORMAL * np.abs(rows).sum(axis=1)
        outside = (moved < low - room) | (moved > high + room)
        if outside.any() and np.isfinite(room).all():
            k, names = int(outside.argmax()), " and ".join(self.subject.names[i] for i, _, _ in kinks)
            self.report.problems.append(
                f"{names}: the gradient is too large or too small where elements are equal or at a kink: moved "
                f"together, the elements there ({analytic.shape[1]}) give {moved[k]:.10g}, numerically between "
                f"{low[k]:.10g} and {high[k]:.10g}"
            )
