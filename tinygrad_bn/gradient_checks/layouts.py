"""The same values elsewhere in memory: what kernels that assume contiguous arrays stumble over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import Array
from ..runtime.memory import overlaps


def alike(a: Array) -> Array:
    """A copy that lies in memory as a does: the same strides, with NaN in the gaps."""
    span = sum((n - 1) * abs(s) for n, s in zip(a.shape, a.strides, strict=True)) + a.itemsize
    if not a.size or overlaps(a) or any(s % a.itemsize for s in a.strides):  # elements that share a place cannot differ
        return a.copy()
    start = -sum((n - 1) * s for n, s in zip(a.shape, a.strides, strict=True) if s < 0)
    room = np.full(span // a.itemsize, np.nan, a.dtype)
    copy: Array = np.ndarray(a.shape, a.dtype, room, start, a.strides)
    copy[...] = a
    return copy


def strided(a: Array) -> Array:
    """The same values as every second element of a larger array, which holds NaN in between."""
    if not a.ndim:
        return a.copy()
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def reversed_memory(a: Array) -> Array:
    """The same values in memory that runs backwards."""
    return np.flip(np.flip(a).copy()) if a.ndim else a.copy()


def channels_last(a: Array) -> Array:
    """The same values in memory with the second axis last, as images are often stored."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a.copy()


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "in Fortran order": lambda a: np.array(a, order="F"),
    "with strides": strided,
    "with negative strides": reversed_memory,
    "with the second axis last in memory": channels_last,
}
