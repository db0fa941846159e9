"""Timing side by side: in every round each contestant has one turn, and its time is the median over the rounds.

Machines change their speed while one looks: a ratio of two times means something only if they were taken in the same
seconds. So nothing is timed alone, and nothing is timed that does not compute the same as the others.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Contestant:
    """call: the work that is timed. prepare: what precedes each turn untimed (thread counts, the same weights again).

    result: the work from its start, its values and gradients as arrays; None for limits, which have no result.
    """

    call: Callable[[], Any]
    result: Callable[[], list[np.ndarray]] | None = None
    prepare: Callable[[], None] = lambda: None


class Mismatch(ValueError):
    """Two contestants computed different things: their times must not be compared."""


def check_agreement(contestants: dict[str, Contestant], rtol: float = 1e-3, atol: float = 1e-6) -> None:
    """Raise Mismatch unless all results equal the first one's: |a - b| <= atol + rtol max|b|, array by array."""
    having = {name: c for name, c in contestants.items() if c.result is not None}
    reference, expected = "", []
    for name, contestant in having.items():
        contestant.prepare()
        arrays = [np.array(a) for a in contestant.result()]  # type: ignore[misc]
        if not reference:
            reference, expected = name, arrays
        shapes, wanted = [a.shape for a in arrays], [b.shape for b in expected]
        if shapes != wanted:
            raise Mismatch(f"{name} gave arrays of shapes {shapes}, {reference} {wanted}")
        for i, (a, b) in enumerate(zip(arrays, expected, strict=True)):
            error = float(abs(a.astype(float) - b).max(initial=0))
            if not error <= atol + rtol * float(abs(b).max(initial=0)):  # NaN is a mismatch too
                raise Mismatch(f"{name} and {reference} differ by {error:.2g} in array {i} of shape {a.shape}")


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    """A collection takes milliseconds and would hit whoever's turn it is."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _batch(call: Callable[[], Any], n: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in itertools.repeat(None, n):
        call()
    return (time.perf_counter() - start) / n


def time_side_by_side(contestants: dict[str, Contestant], rounds: int, batch: float = 0.005) -> dict[str, float]:
    """Median seconds per call of each contestant, after a check that their results agree.

    A turn is: prepare, one untimed call (threads awake, caches as in a loop), then as many calls as take `batch`
    seconds. The order within a round is drawn anew each time, so that nobody always follows the same other.
    """
    check_agreement(contestants)
    calls = dict.fromkeys(contestants, 1)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order, draw = list(contestants), random.Random(0)

    def turn(name: str) -> float:
        contestants[name].prepare()
        contestants[name].call()
        return _batch(contestants[name].call, calls[name])

    with no_garbage_collector():
        for name in order:
            while (took := turn(name)) * calls[name] < batch / 2:
                calls[name] = max(2 * calls[name], int(batch / max(took, 1e-9) / 2))
            calls[name] = max(1, round(batch / took))
        for _ in range(rounds):
            draw.shuffle(order)
            for name in order:
                seconds[name].append(turn(name))
    return {name: statistics.median(times) for name, times in seconds.items()}


def geometric_mean(ratios: Iterable[float]) -> float:
    """The mean for ratios: a case at half and a case at twice the peer's time make 1."""
    logarithms = [math.log(r) for r in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


def slope(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """p of seconds = c size^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])
