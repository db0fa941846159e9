"""A gradient must not depend on how often, in which order and in which memory it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..checks import Array
from .checking import Check
from .differences import Differences, flat, typical
from .extrapolation import UNIT
from .layouts import LAYOUTS
from .report import GradcheckError, Report, mistake
from .subject import Pull

Gradients = list[Array]
FEW = slice(3, 15)  # of the ladder: these steps do to see whether a gradient is of other values


def nudged(arrays: Gradients) -> Gradients:
    """Other values nearby, with the same signs."""
    return [np.asarray(a * (1 + 2.0**-6)) for a in arrays]


def barely(arrays: Gradients) -> Gradients:
    """Other values, so near that they lie in nearly any domain."""
    return [np.asarray(a * (1 + 2.0**-24)) for a in arrays]


def rolled(arrays: Gradients) -> Gradients:
    """The same values in other places, so that signs differ."""
    return [np.roll(a.ravel(), 1).reshape(a.shape) if a.size > 1 else np.asarray(np.negative(a)) for a in arrays]


def fewer(arrays: Gradients) -> Gradients:
    """One sample less, in all arrays that have as many as the first."""
    n = len(arrays[0]) if arrays[0].ndim else 0
    return [a[:-1].copy() if n > 2 and a.ndim and len(a) == n else a for a in arrays]


REPEATED: dict[str, Callable[[Array], Array]] = {
    "one number": lambda d: np.broadcast_to(d.ravel()[:1].reshape((1,) * d.ndim), d.shape) if d.size else d,
    "one row": lambda d: np.broadcast_to(d[:1], d.shape) if d.ndim > 1 else d,
    "one column": lambda d: np.broadcast_to(d[..., :1], d.shape) if d.ndim > 1 else d,
}


class Calls:
    """Asks for the gradient as an engine may; stops after the first kind of call whose answers differ."""

    def __init__(self, check: Check, pull: Pull, row: Array, first: Gradients) -> None:
        self.check, self.pull, self.row, self.first = check, pull, row, first
        self.subject, self.report, self.words = check.subject, check.report, check.words
        self.right = not check.report.problems
        self.allowed = check.allowed(row)

    def run(self) -> None:
        steps: list[Callable[[], None]] = [self._again]
        if self.subject.linear:
            steps += [self._multiples, self._parts, self._layouts_of_dy, self._repeated]
        steps += [self._alone, self._between, self._in_place, self._layouts_of_inputs, self._anew]
        for step in steps:
            before = len(self.report.problems)
            step()
            if len(self.report.problems) > before:
                return

    # How answers are compared

    def _dy(self, factor: Any = 1.0) -> list[Array]:
        return self.check.cotangents.shaped(self.row * factor)

    def _pulled(self, factor: float = 1.0, change: Callable[[Array], Array] = np.asarray) -> Gradients:
        return self.pull([change(d) for d in self._dy(factor)])

    def _tried(self, what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except GradcheckError:
            raise
        except Exception as error:
            self.report.problems.append(f"{what}: {type(error).__name__}: {error}")
            return None

    def _compare(self, what: str, gradients: Gradients | None, expected: Gradients, factor: float = 1.0) -> None:
        if gradients is None:
            return
        atol = self.check.atol
        for name, g, e, t in zip(self.subject.names, gradients, expected, self.allowed, strict=True):
            self._expect(name, what, g, e, atol * max(1.0, factor) + factor * (t - atol))

    def _expect(self, name: str, what: str, found: Array, expected: Array, tolerance: Array) -> None:
        # values that are not finite were reported before
        right = (np.abs(found - expected) <= tolerance) | ~np.isfinite(expected) | ~np.isfinite(tolerance)
        if not right.all():
            words = mistake(right, found, expected, "found", "expected", tolerance)
            self.report.problems.append(f"{name}: another gradient for {what}: {words}")

    # The calls

    def _again(self) -> None:
        what = f"the same {self.words.dy} a second time (it changes or adds to what it keeps)"
        self._compare(what, self._tried(what, self._pulled), self.first)

    def _multiples(self) -> None:
        dy = self.words.dy
        for what, factor in (
            (f"{dy} = 0", 0.0),
            (f"-{dy}", -1.0),
            *((f"{dy} times {f:.2g}", f) for f in (2.0**20, 2.0**-20, 2.0**-60)),
        ):
            found = self._tried(what, partial(self._pulled, factor))
            expected = [factor * np.nan_to_num(g) for g in self.first]
            self._compare(what, found, expected, abs(factor) or 1.0)

    def _parts(self) -> None:
        mask = self.check.cotangents.rng.random(self.row.size) < 0.5

        def both() -> Gradients:
            one, other = self.pull(self._dy(mask)), self.pull(self._dy(~mask))
            return [np.add(a, b) for a, b in zip(one, other, strict=True)]

        what = f"{self.words.dy} in two parts, each 0 where the other is not"
        if self.row.size > 1:
            self._compare(what, self._tried(what, both), self.first)

    def _layouts_of_dy(self) -> None:
        for layout, change in LAYOUTS.items():
            what = f"{self.words.dy} {layout}"
            found = self._tried(what, partial(self._pulled, 1.0, change))
            self._compare(what, found, self.first)

    def _repeated(self) -> None:
        """The gradient of a sum is repeated without memory of its own: one number, or one row or column."""
        for how, view in REPEATED.items():
            dy = [view(d) for d in self._dy()]
            if all(d.size < 2 or all(d.strides) for d in dy):
                continue
            what = f"a {self.words.dy} that is {how} repeated in place, as the gradient of a sum is"
            expected = self._tried(what, partial(self.pull, [d.copy() for d in dy]))
            found = self._tried(what, partial(self.pull, dy))
            if expected is not None and found is not None:
                allowed = self.check.allowed(flat(dy))
                for name, f, e, t in zip(self.subject.names, found, expected, allowed, strict=True):
                    self._expect(name, what, f, e, t)

    def _alone(self) -> None:
        """The gradient of one input, without those of the others."""
        if len(self.first) > 1 and self.subject.alone is not None:
            for i in range(len(self.first)):
                what = f"{self.subject.names[i]} alone"
                found = self._tried(what, partial(self.subject.alone, self._dy(), i))
                if found is not None:
                    self._expect(self.subject.names[i], what, found, self.first[i], self.allowed[i])

    def _between(self) -> None:
        """A call with other values in between: its gradient is right there, and the earlier one stays what it was."""
        what = f"an earlier call, after one with other values{self.words.state}"
        came, arrays = False, self.check.arrays
        for change in (nudged, rolled, fewer, barely):
            if change is barely and came:
                return
            others = change(arrays)
            if all(a is b for a, b in zip(others, arrays, strict=True)):  # there is no sample to leave out
                continue
            gradients = self._tried(what, partial(self._after, others, arrays)) or []
            came |= bool(gradients)
            for found in gradients:
                self._compare(what, found, self.first)
                if self.report.problems:
                    return
        if not came:
            self.report.notes.append(f"not checked: {what}: {self.words.forward} raises at all other values")

    def _in_place(self) -> None:
        """The same arrays with other values in them, as after a step of an optimizer."""
        arrays = [a.copy() for a in self.check.arrays]

        def changed() -> list[Gradients]:
            self.subject.record(arrays)[1](self._dy())
            for a, values in zip(arrays, nudged(arrays), strict=True):
                a[...] = values
            return self._after(arrays, None)

        self._tried("a call after the inputs were changed in place", changed)

    def _after(self, others: Gradients, arrays: Gradients | None) -> list[Gradients]:
        """The gradients of a call at arrays, before and after the gradient of one at others, which must be right."""
        pull = self.subject.record(arrays)[1] if arrays is not None else None
        try:
            outs, other = self.subject.record(others)
            base = flat([np.array(o) for o in outs])
        except Exception:  # outside of its domain, or it takes no other shape: then nothing came in between
            return []
        before = [pull(self._dy())] if pull is not None else []
        same_shapes = all(a.shape == b.shape for a, b in zip(others, self.check.arrays, strict=True))
        if self.right and same_shapes and base.size == self.row.size:
            self._right_there(others, base, other(self._dy()))
        return [*before, pull(self._dy())] if pull is not None else []

    def _right_there(self, arrays: Gradients, base: Array, gradients: Gradients) -> None:
        """The gradient at other values, in one direction for each input: a backward may have read something else."""
        if not np.isfinite(base).all():
            return
        work, row = [a.copy() for a in arrays], self.row
        noise = np.atleast_1d(np.abs(row) @ np.maximum(self.check.noise, UNIT * np.abs(base)))
        one = Differences(
            lambda: np.atleast_1d(row @ flat(self.subject.values(work))), np.atleast_1d(row @ base), noise, None
        )
        for name, a, g, allowed in zip(self.subject.names, work, gradients, self.allowed, strict=True):
            largest = np.abs(a).max(initial=0)
            if not largest:
                continue
            direction = self.check.cotangents.rng.choice([-1.0, 1.0], a.shape) * np.abs(a) / largest
            samples, analytic = one.samples([(a, ...)], direction), float((g * direction).sum())
            for steps in (FEW, slice(None)):
                found, sides = one.closely(samples, typical(a), steps)
                numerical, bar = float(found.value.sum()), float(found.error.sum())
                gap = np.abs(sides.right - sides.left) - 8 * (sides.left_error + sides.right_error)
                # what is looked for is a gradient of other values, which is far off
                bar = 4 * bar + 1e-5 * (abs(numerical) + float(np.abs(g * direction).sum()))
                bar += float((allowed * np.abs(direction)).sum())
                # at a kink, or a step, another direction may have another derivative
                right = abs(analytic - numerical) <= bar or bool(np.any(gap > 8 * found.error.sum()))
                if right:
                    break
            if not right and np.isfinite(bar):
                self.report.problems.append(
                    f"{name}: the gradient is wrong after a call with other values: {analytic:.6g} along a direction, "
                    f"numerically {numerical:.6g} +- {bar:.1g}; does {self.words.backward} read something that is not "
                    "of its own call?"
                )

    def _layouts_of_inputs(self) -> None:
        for layout, change in LAYOUTS.items():
            arrays = [change(a) for a in self.check.arrays]
            if all(a.strides == b.strides for a, b in zip(arrays, self.check.arrays, strict=True)):
                continue
            self._in_layout(f"inputs {layout}", arrays, np.asarray)
            if self.subject.linear:
                self._in_layout(f"inputs and {self.words.dy} {layout}", arrays, change)
            if len(arrays) > 1:
                self._in_layout(f"the first input {layout}", [arrays[0], *self.check.arrays[1:]], np.asarray)

    def _in_layout(self, what: str, arrays: Gradients, change: Callable[[Array], Array]) -> None:
        try:
            outs, pull = self.subject.record(arrays)
        except GradcheckError:
            raise
        except Exception as error:  # it says so, and computes nothing wrong
            self.report.notes.append(f"{what} are refused: {type(error).__name__}: {error}")
            return
        if self.check.same_outputs(flat(outs)):
            self._compare(what, self._tried(what, lambda: pull([change(d) for d in self._dy()])), self.first)
        else:
            self.report.problems.append(f"{what} give other outputs than the same values in C order")

    def _anew(self) -> None:
        what = "a new call, after many"
        answer = self._tried(what, partial(self.subject.record, self.check.arrays))
        if answer is None:
            return
        outs, pull = answer
        if self.check.same_outputs(flat(outs)):
            self._compare(what, self._tried(what, lambda: pull(self._dy())), self.first)
        else:
            self.report.problems.append(f"{self.words.forward} gives other outputs after many calls than at first")


def checked(check: Check) -> Report:
    """The whole check: gradients, then calls."""
    if (answer := check.gradients()) is not None:
        Calls(check, *answer).run()
    return check.report
