"""Memory: what becomes of that of freed arrays, and what arrays share.

A training step allocates and frees the same few arrays again and again. glibc, the C library of most Linux systems,
gives each freed array of more than 128 kB (at first) back to the system at once, and asks for fresh memory the next
time, which the system hands out page by page, filled with zeros. For arrays of some MB that costs more than computing
them. So glibc is told, once, when the package is imported, to keep arrays of up to 32 MB in its heap, and to give the
heap's end back only when 128 MB of it are free; memory below something that is still in use stays with the process.
This holds for the whole process; the environment variable TINYGRAD_BN_KEEP_MEMORY=0 leaves glibc as it is. Elsewhere
nothing is done.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from ..checks import Array

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAPPED_FROM = 32 << 20  # bytes; larger arrays still come from, and go to, the system (glibc allows no higher value)
KEPT = 128 << 20


def keep_freed_memory() -> bool:
    """Set glibc's thresholds; whether that worked."""
    if os.environ.get("TINYGRAD_BN_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))


def whole(data: Array) -> tuple[Array, tuple[Any, ...] | None]:
    """The array that data is a part of, and where in it; data and None for a part that cannot be described so.

    That is one of an array that lies in memory in pieces, or that is not an array's (a file's, say).
    """
    base = data
    while isinstance(base.base, np.ndarray):
        base = base.base
    if type(base) is np.ndarray and base.flags.owndata and base.flags.forc and not overlaps(data):
        offset = data.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        return base, (data.dtype, offset, data.shape, data.strides)
    return data, None


def part(array: Array, place: tuple[Any, ...] | None) -> Array:
    """The reverse: the part at this place of an array."""
    if place is None:
        return array
    dtype, offset, shape, strides = place
    return np.ndarray(shape, dtype, array if array.flags.c_contiguous else array.T, offset, strides)


def overlaps(data: Array) -> bool:
    """Whether elements share a place in memory: one number repeated, or windows that slide."""
    reach = data.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(data.strides, data.shape, strict=True) if n > 1):
        if stride == 0:
            return True
        if stride < reach:  # perhaps: only the places themselves can tell
            places = sum(np.ix_(*(np.arange(n) * s for s, n in zip(data.strides, data.shape, strict=True))))
            return bool((np.diff(np.sort(places, axis=None)) < data.itemsize).any())
        reach += (n - 1) * stride
    return False
