"""Sums whose error does not grow with their length.

NumPy adds up in pairs along the axis that lies densest in memory, so that the rounding of n summands grows like log n.
Along any other axis it keeps a running sum: in float32 the mean of 2^25 ones is then 0.5, as 2^24 + 1 rounds to 2^24.
Here such axes are summed in blocks, and the blocks' sums in blocks again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

FEW = 128  # summands, of which a running sum is good enough
BLOCK = 32  # summands of a running sum where there are more


def total(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """x.sum(axis, keepdims) of an array; of a tensor, whose op comes back here."""
    if not isinstance(x, np.ndarray) or x.size <= FEW or (axis is None and x.flags.forc):
        return x.sum(axis=axis, keepdims=keepdims)  # all of an array that is one run in memory: in pairs
    axes = set(normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim))
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if x.size <= FEW * math.prod(kept):
        return x.sum(axis=axis, keepdims=keepdims)
    order = sorted((i for i, n in enumerate(x.shape) if n > 1), key=lambda i: -abs(x.strides[i]))  # as in memory
    y = x.transpose([*(i for i, n in enumerate(x.shape) if n == 1), *order]).reshape([x.shape[i] for i in order])
    run = len(order)
    while run and order[run - 1] in axes:
        run -= 1
    if run < len(order):  # in pairs, the last axis and those that are one run with it
        first = len(order) - 1
        while first > run and y.strides[first - 1] == y.strides[first] * y.shape[first]:
            first -= 1
        y, run = y.reshape(*y.shape[:first], -1).sum(axis=-1), first
    for k in reversed(range(run)):
        if order[k] in axes:
            y = _in_blocks(y, k)
    left = [i for i in order if i not in axes]
    y = y.transpose([left.index(i) for i in sorted(left)])
    return y.reshape(kept if keepdims else [n for i, n in enumerate(x.shape) if i not in axes])


def _in_blocks(x: Any, axis: int) -> Any:
    """The sum over an axis that others follow in memory."""
    here = (slice(None),) * axis
    while (n := x.shape[axis]) > BLOCK:
        whole = n // BLOCK * BLOCK
        shape = (*x.shape[:axis], whole // BLOCK, BLOCK, *x.shape[axis + 1 :])
        blocks = x[(*here, slice(whole))].reshape(shape).sum(axis=axis + 1)
        if whole < n:
            blocks[(*here, -1)] += x[(*here, slice(whole, n))].sum(axis=axis)
        x = blocks
    return x.sum(axis=axis)
