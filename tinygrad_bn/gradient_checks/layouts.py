"""The same values elsewhere in memory: what kernels that assume contiguous arrays stumble over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import Array


def strided(a: Array) -> Array:
    """The same values as every second element of a larger array, which holds NaN in between."""
    if not a.ndim:
        return a.copy()
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
    wide[..., ::2] = a
    return wide[..., ::2]


def reversed_memory(a: Array) -> Array:
    """The same values in memory that runs backwards."""
    return np.flip(np.flip(a).copy()) if a.ndim else a.copy()


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "in Fortran order": lambda a: np.array(a, order="F"),
    "with strides": strided,
    "with negative strides": reversed_memory,
}
