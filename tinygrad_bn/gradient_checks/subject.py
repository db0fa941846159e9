"""What is checked, seen from the check: functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..checks import Array
from .report import GradcheckError


class Words(NamedTuple):
    """What the parts are called in messages."""

    forward: str = "fn"
    backward: str = "a pullback"
    dy: str = "dy"
    help: str = "help(tb.gradcheck)"
    state: str = ""  # advice where a call in between changes the gradient
    random: str = ""  # advice where outputs differ from call to call


Pull = Callable[[list[Array]], list[Array]]


class Subject(Protocol):
    """Code that maps arrays to outputs, and gradients of outputs to gradients of arrays.

    names, arrays: the inputs that are differentiated, float64. linear: whether dy may be chosen.
    """

    names: list[str]
    arrays: list[Array]
    linear: bool
    words: Words

    @property
    def alone(self) -> Callable[[list[Array], int], Array] | None:
        """From dy and the number of an input to the gradient of this one; None where one cannot be asked for alone."""

    def values(self, arrays: Sequence[Array]) -> list[Any]:
        """The outputs, without recording."""

    def record(self, arrays: Sequence[Array]) -> tuple[list[Any], Pull]:
        """The outputs, and a function from their gradients to those of the arrays, which may be called twice."""


@contextmanager
def untouched(who: str, names: Sequence[str], arrays: Sequence[Array]) -> Iterator[None]:
    """Raise if what runs within it writes into one of the arrays; that one gets its values back."""
    before = [a.copy() for a in arrays]
    yield
    for name, array, values in zip(names, arrays, before, strict=True):
        if not np.array_equal(array, values, equal_nan=True):
            if array.flags.writeable:
                array[...] = values
            raise GradcheckError(f"{who} wrote into {name}: arguments must stay as they are, work on a copy")


class Cotangents:
    """Gradients of the outputs to start from, all as flat rows; and back into the outputs' shapes."""

    def __init__(self, outs: Sequence[Any], sizes: Array, seed: int) -> None:
        self.outs = [np.asarray(o) for o in outs]
        # A stream of its own: inputs drawn from default_rng(seed) would equal the cotangents, and such a coincidence
        # can hide a mistake (it hid one in the gradient of whitening).
        self.rng = np.random.default_rng([seed, 7, 0])
        largest = sizes.max(initial=0.0) or 1.0  # 12 digits below it, rounding may be all there is
        self.scale = 1 / np.maximum(np.where(sizes > 1e-12 * largest, sizes, largest), 1e-100)

    def draw(self, scaled: bool = False) -> Array:
        row: Array = self.rng.standard_normal(self.scale.size)
        return row * self.scale if scaled else row

    def shaped(self, row: Array) -> list[Array]:
        parts = np.split(row, np.cumsum([o.size for o in self.outs])[:-1])
        return [np.array(p.reshape(o.shape)) for p, o in zip(parts, self.outs, strict=True)]
