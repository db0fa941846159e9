"""Random numbers: one generator per thread, seeded by manual_seed, from which dropout, init and shuffling draw."""

from __future__ import annotations

import threading

import numpy as np


class _Default(threading.local):  # per thread, so that nets trained side by side do not take each other's numbers
    def __init__(self) -> None:
        self.generator = np.random.default_rng()


_default = _Default()


def manual_seed(seed: int) -> np.random.Generator:
    """Seed the current thread's generator; a run that starts with it is repeatable to the bit."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    _default.generator = np.random.default_rng(seed)
    return _default.generator


def default_generator() -> np.random.Generator:
    """The current thread's generator."""
    return _default.generator
