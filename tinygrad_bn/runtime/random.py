"""Random numbers: one generator per thread, seeded by manual_seed, from which dropout, init and shuffling draw."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..checks import check_int


class _Default(threading.local):  # per thread, so that nets trained side by side do not take each other's numbers
    def __init__(self) -> None:
        self.generator = np.random.default_rng()


_default = _Default()


def manual_seed(seed: int) -> np.random.Generator:
    """Seed the current thread's generator and return it; a run that starts with it is repeatable to the bit.

    Errors: TypeError, ValueError for a seed that is not an int >= 0.

    >>> def drawn():
    ...     return tb.manual_seed(0).random()
    >>> drawn() == drawn()
    True
    """
    _default.generator = np.random.default_rng(check_int("seed", seed, 0, None))
    return _default.generator


def get_rng_state() -> dict[str, Any]:
    """The state of the current thread's generator: NumPy's bit_generator.state, a nested dict of strings and ints.

    >>> state = tb.get_rng_state()
    >>> a = F.dropout(tb.tensor([1.0] * 9))
    >>> tb.set_rng_state(state)
    >>> bool((F.dropout(tb.tensor([1.0] * 9)) == a.data).all())  # the same numbers again
    True
    """
    return dict(_default.generator.bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Let the current thread's generator go on from a state of get_rng_state().

    Errors: TypeError for what is not a dict, ValueError for what is not a state; nothing has changed then.

    >>> state = tb.manual_seed(7).bit_generator.state
    >>> _ = tb.manual_seed(0)
    >>> tb.set_rng_state(state)
    >>> tb.get_rng_state() == state
    True
    """
    _default.generator = generator_from(state)


def generator_from(state: Any, name: str = "state") -> np.random.Generator:
    """A new generator in this state."""
    if not isinstance(state, dict):
        raise TypeError(f"{name} must be a dict, got {type(state).__name__}")
    generator = np.random.default_rng(0)
    try:
        generator.bit_generator.state = state
        taken = generator.bit_generator.state == state  # NumPy ignores unknown keys and cuts numbers that are too large
    except Exception as error:  # NumPy raises half a dozen kinds on what is not a state
        raise ValueError(
            f"{name} must be the state of a {type(generator.bit_generator).__name__}: {error!r}"
        ) from error
    if not taken:
        raise ValueError(f"{name} must be the state of a {type(generator.bit_generator).__name__}, got {state}")
    return generator


def default_generator() -> np.random.Generator:
    """The current thread's generator."""
    return _default.generator
