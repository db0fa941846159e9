"""What a check found: tables, and in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..checks import Array


class GradcheckError(AssertionError):
    """The analytic and the numerical gradient differ; the message says where and by how much.

    >>> @tb.differentiable
    ... def wrong(x):
    ...     return x**2, lambda dy: x * dy  # the 2 is missing
    >>> try:
    ...     tb.gradcheck(wrong, tb.tensor(np.ones(1), requires_grad=True))
    ... except tb.GradcheckError:
    ...     print("caught")
    caught
    """


@dataclass
class InputReport:
    """What was found for one input, per element: arrays of the input's shape.

    analytic, numerical: the gradients for the same dy. error: the numerical one's error bar. tolerance: how much they
    may differ. right: whether they don't. kink: whether the derivatives from left and right differ, and the analytic
    one is not outside of them. vague: whether the error bar is too wide to tell: more than 5 %.
    """

    name: str
    analytic: Array
    numerical: Array
    error: Array
    tolerance: Array
    right: Array
    kink: Array
    vague: Array

    def lines(self, most: int = 10) -> list[str]:
        """The `most` elements that differ most, measured by their tolerance."""
        with np.errstate(all="ignore"):
            excess = np.abs(self.analytic - self.numerical) / self.tolerance
        order = np.argsort(np.where(np.isnan(excess), -np.inf, -excess), axis=None, kind="stable")[:most]
        lines = [f"{self.name}, shape {self.analytic.shape}", "  element  analytic  numerical  error bar  tolerance"]
        for place in order:
            e = tuple(int(k) for k in np.unravel_index(place, self.analytic.shape))
            verdict = "right" if self.right[e] else "WRONG"
            verdict = "kink" if self.kink[e] else "cannot tell" if self.vague[e] and self.right[e] else verdict
            numbers = f"{self.analytic[e]:.12g}  {self.numerical[e]:.12g}  {self.error[e]:.1e}  {self.tolerance[e]:.1e}"
            lines.append(f"  {e}  {numbers}  {verdict}")
        if self.analytic.size > most:
            lines.append(f"  ... {self.analytic.size - most} more")
        return lines


@dataclass
class Report:
    """What a check found: for each input a table, and in words what is wrong and what else is worth knowing.

    inputs: one each, with .name and arrays of the input's shape: .analytic, .numerical, .error (the error bar),
        .tolerance, .right, .kink, .vague (the error bar is too wide to tell).
    problems: why the check fails; empty where it passes. notes: kinks that were accepted, elements that cannot be told,
        inputs that were not checked. warnings: those of them that are given as a RuntimeWarning where no report is
        asked for. legend: what the values are of.
    True in an if where the check passes; str() gives the tables.
    """

    inputs: list[InputReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    legend: str = ""

    def __bool__(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        lines = [line for one in self.inputs for line in one.lines()]
        lines += [f"note: {note}" for note in self.notes] + [f"WRONG: {problem}" for problem in self.problems]
        return "\n".join([*lines, f"{'passes' if self else 'fails'}; {self.legend}"])

    def verdict(self, report: bool) -> Report | bool:
        """What the check returns: itself if that was asked for; True, or an error with all problems."""
        if report:
            return self
        for warning in self.warnings:
            warnings.warn(warning, RuntimeWarning, stacklevel=3)
        if self.problems:
            legend = [self.legend] if any("numerical" in problem for problem in self.problems) else []
            raise GradcheckError("\n".join([*dict.fromkeys(self.problems), *legend]))
        return True


def reported(check: Callable[[], Report]) -> Report:
    """What check returns; where it could not go on, its error as the problem."""
    try:
        with np.errstate(all="ignore"):  # infinite and missing values are told in words
            return check()
    except GradcheckError as error:
        return Report(problems=[str(error)])


def mistake(
    right: Array, a: Array, b: Array, a_name: str, b_name: str, tolerance: Array, error: Array | None = None
) -> str:
    """How many elements of a are wrong, the worst of them, and the factor to b where they have one in common."""
    wrong = ~right
    count = np.count_nonzero(wrong)
    difference = np.where(wrong, np.abs(a - b), -1)  # of which argmax takes NaN for the largest
    worst = tuple(int(k) for k in np.unravel_index(difference.argmax(), a.shape))
    factor = a[worst] / b[worst] + 0.0  # -0 becomes 0
    same = np.abs(a - factor * b) <= tolerance + 1e-9 * np.abs(factor * b)
    shared = count > 1 and np.isfinite(factor) and np.all(same[wrong])
    bar = "" if error is None else f" +- {error[worst]:.1g}"
    all_alike = f", all {factor:.9g} times the {b_name} one" if shared else ""
    return (
        f"{count} of {a.size} elements wrong{all_alike}; worst: element {worst}, "
        f"{a_name} {a[worst]:.10g}, {b_name} {b[worst]:.10g}{bar} (differ by {difference[worst]:.3g})"
    )
