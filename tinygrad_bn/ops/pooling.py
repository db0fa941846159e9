"""Pooling: each output is the largest value, or the average, of a window of the image.

Along each axis the windows are listed first, as pairs (start, stop) of the part inside the image. Average pooling
with a stride, with padding, and to a given output size differ in nothing but this list.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_int
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel
from ..runtime.threads import for_each, spans
from .convolution import check_images, pair

COST = 8  # to find the largest of a window takes this many times as long, per element, as arithmetic


def window_starts(size: int, window: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Array:
    """Where the windows start, in the image's coordinates (the first at -padding); PyTorch's rules.

    There are floor((size + 2 padding - reach) / stride) + 1 of them. ceil_mode rounds up instead, which adds a window
    that hangs out over the end, unless it would start beyond the image and its left padding.
    """
    reach = dilation * (window - 1) + 1
    if padding > reach // 2:
        raise ValueError(f"padding must be at most half of the window's reach of {reach}, got {padding}")
    room = size + 2 * padding - reach
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        raise ValueError(
            f"a window that reaches over {reach} does not fit into {size} with padding {padding} on each side"
        )
    return np.arange(count) * stride - padding


# Averages


@kernel
def average_forward(x, rows, columns, row_weight, column_weight, y):
    """y[p, i, j] = row_weight[i] column_weight[j] (sum of x[p] over the rows of i and the columns of j)"""
    planes, I, J = y.shape
    for p in range(planes):
        for i in range(I):
            for j in range(J):
                total = np.float64(0)
                for h in range(rows[i, 0], rows[i, 1]):
                    for w in range(columns[j, 0], columns[j, 1]):
                        total += x[p, h, w]
                y[p, i, j] = total * row_weight[i] * column_weight[j]


@kernel
def average_backward(dy, rows, columns, row_weight, column_weight, dx):
    """Add to each element of dx its share of every window that it lies in."""
    planes, I, J = dy.shape
    for p in range(planes):
        for i in range(I):
            for j in range(J):
                share = dy[p, i, j] * row_weight[i] * column_weight[j]
                for h in range(rows[i, 0], rows[i, 1]):
                    for w in range(columns[j, 0], columns[j, 1]):
                        dx[p, h, w] += share


def average_definition(x: Any, *, rows: Array, columns: Array, row_weight: Array, column_weight: Array) -> Any:
    """Two matrix products: R x C^T, where row i of R holds row_weight[i] at the rows of window i."""
    H, W = x.shape[-2:]
    r = ((rows[:, :1] <= np.arange(H)) & (np.arange(H) < rows[:, 1:])) * row_weight[:, None]
    c = ((columns[:, :1] <= np.arange(W)) & (np.arange(W) < columns[:, 1:])) * column_weight[:, None]
    return r.astype(x.dtype) @ x @ c.T.astype(x.dtype)


@differentiable(definition=average_definition)
def average(x: Any, *, rows: Array, columns: Array, row_weight: Array, column_weight: Array) -> Any:
    """Averages (or other multiples of sums) over windows; rows and columns hold (start, stop) of each window."""
    shape, planes, (H, W) = x.shape, math.prod(x.shape[:-2]), x.shape[-2:]
    y = np.empty((planes, len(rows), len(columns)), x.dtype)
    average_forward(contiguous(x).reshape(planes, H, W), rows, columns, row_weight, column_weight, y)

    def pullback(dy: Any) -> Any:
        dx = np.zeros((planes, H, W), dy.dtype)
        windows = contiguous(dy).reshape(planes, len(rows), len(columns))
        average_backward(windows, rows, columns, row_weight, column_weight, dx)
        return dx.reshape(shape)

    return y.reshape(*shape[:-2], len(rows), len(columns)), pullback


def check_divisor(divisor: Any) -> int | None:
    """None, or an int other than 0."""
    if divisor is None:
        return None
    number = check_int("divisor_override", divisor)
    if number == 0:
        raise ValueError("divisor_override must not be 0, got 0")
    return number


def avg_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The average of each window.

    x: (N, C, H, W) or (C, H, W). kernel_size, stride (None, the default, is kernel_size), padding: an int or a pair.
    ceil_mode: round the number of windows up, not down: the last may hang out over the end (default False).
    count_include_pad: padding counts as zeros (default); False divides by the number of elements inside the image.
    divisor_override: divide by this instead (default None). Source: torch.nn.functional.avg_pool2d.
    Errors: ValueError for windows that do not fit, TypeError for what is not an int or pair.

    >>> F.avg_pool2d(tb.tensor(np.arange(16.0).reshape(1, 4, 4)), 2)  # (0 + 1 + 4 + 5) / 4 ...
    tensor([[[ 2.5,  4.5],
             [10.5, 12.5]]], dtype=float64)
    """
    check_images(x)
    check_flag("ceil_mode", ceil_mode)
    check_flag("count_include_pad", count_include_pad)
    check_divisor(divisor_override)
    windows, weights = [], []
    for size, k, s, p in _per_axis(x, kernel_size, stride, padding):
        start = window_starts(size, k, s, p, 1, ceil_mode)
        inside = np.stack([np.maximum(start, 0), np.minimum(start + k, size)], axis=1)
        counted = np.minimum(start + k, size + p) - start if count_include_pad else inside[:, 1] - inside[:, 0]
        windows.append(inside)
        weights.append(1 / counted)
    if divisor_override is not None:
        weights = [np.full(len(weights[0]), 1 / divisor_override), np.ones(len(weights[1]))]
    return average(x, rows=windows[0], columns=windows[1], row_weight=weights[0], column_weight=weights[1])


def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Averages over as many windows as output_size says, which cover the image: 1 is the global average.

    x: (N, C, H, W) or (C, H, W). output_size: an int or a pair (rows, columns), in which None keeps the input's size.
    Window i of n along an axis of length L goes from floor(i L / n) to ceil((i + 1) L / n).
    Errors: ValueError for an image without rows or columns, TypeError for what is not an int or pair.
    Source: torch.nn.functional.adaptive_avg_pool2d.

    >>> F.adaptive_avg_pool2d(tb.tensor([[[1, 2], [3, 6]]]), 1)
    tensor([[[3.]]])
    """
    check_images(x)
    if 0 in x.shape[-2:]:
        raise ValueError(f"x must have rows and columns, got shape {x.shape}")
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        rows, columns = (size if n is None else n for n, size in zip(output_size, x.shape[-2:], strict=True))
        output_size = rows, columns
    windows = []
    for size, n in zip(x.shape[-2:], pair("output_size", output_size, 1), strict=True):
        i = np.arange(n)
        windows.append(np.stack([i * size // n, -(-(i + 1) * size // n)], axis=1))
    weights = [1 / (w[:, 1] - w[:, 0]) for w in windows]
    return average(x, rows=windows[0], columns=windows[1], row_weight=weights[0], column_weight=weights[1])


# The largest value


@kernel
def max_forward(x, rows, columns, step_h, step_w, y, index):
    """The largest element of every window, and where in its plane it lies: the first if several are equal."""
    planes, _H, W = x.shape
    _, I, J = y.shape
    for p in range(planes):
        for i in range(I):
            for j in range(J):
                h, w = rows[i, 0], columns[j, 0]
                top, where = x[p, h, w], h * W + w
                while h < rows[i, 1]:  # a range with a step would divide to count its elements
                    w = columns[j, 0]
                    while w < columns[j, 1]:
                        v = x[p, h, w]
                        if v > top or v != v:  # a NaN is taken for the largest
                            top, where = v, h * W + w
                        w += step_w
                    h += step_h
                y[p, i, j], index[p, i, j] = top, where


@kernel
def max_backward(dy, index, dx):
    planes, n = dy.shape
    for p in range(planes):
        for k in range(n):
            dx[p, index[p, k]] += dy[p, k]


def _largest(x: Array, rows: Array, columns: Array, step: tuple[int, int]) -> tuple[Array, Array]:
    """y and index, of shape (planes, windows)."""
    planes, (H, W) = math.prod(x.shape[:-2]), x.shape[-2:]
    y = np.empty((planes, len(rows), len(columns)), x.dtype)
    index = np.empty(y.shape, np.int32)
    x = contiguous(x).reshape(planes, H, W)
    pieces = [slice(*span) for span in spans(planes, COST * H * W)]
    for_each(lambda p: max_forward(x[p], rows, columns, *step, y[p], index[p]), pieces)
    return y.reshape(planes, len(rows) * len(columns)), index.reshape(planes, len(rows) * len(columns))


def max_pool_definition(x: Any, *, rows: Array, columns: Array, step: tuple[int, int]) -> Any:
    """Where the largest element lies is a constant; its value is picked out."""
    _, index = _largest(x.data, rows, columns, step)
    planes = x.reshape(len(index), x.shape[-2] * x.shape[-1])
    return planes[np.arange(len(index))[:, None], index].reshape(*x.shape[:-2], len(rows), len(columns))


@differentiable(definition=max_pool_definition)
def _max_pool2d(x: Any, *, rows: Array, columns: Array, step: tuple[int, int]) -> Any:
    shape = x.shape
    y, index = _largest(x, rows, columns, step)

    def pullback(dy: Any) -> Any:
        dx = np.zeros((len(index), shape[-2] * shape[-1]), dy.dtype)
        max_backward(contiguous(dy).reshape(index.shape), index, dx)
        return dx.reshape(shape)

    return y.reshape(*shape[:-2], len(rows), len(columns)), pullback


def max_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window; its gradient goes to the element that was it (the first of equal ones).

    x: (N, C, H, W) or (C, H, W). kernel_size, stride (None, the default, is kernel_size), padding (never chosen),
    dilation: an int or a pair. ceil_mode: round the number of windows up, not down: the last may hang out over the end
    (default False). NaN counts as the largest. Source: torch.nn.functional.max_pool2d.
    Errors: ValueError for windows that do not fit, TypeError for what is not an int or pair.

    >>> F.max_pool2d(tb.tensor(np.arange(16.0).reshape(1, 4, 4)), 2)
    tensor([[[ 5.,  7.],
             [13., 15.]]], dtype=float64)
    """
    check_images(x)
    check_flag("ceil_mode", ceil_mode)
    step = pair("dilation", dilation, 1)
    windows = []
    for (size, k, s, p), d in zip(_per_axis(x, kernel_size, stride, padding), step, strict=True):
        start = window_starts(size, k, s, p, d, ceil_mode)
        first = np.where(start < 0, start % d, start)  # the first element of the window that is inside
        stop = np.minimum(start + d * (k - 1) + 1, size)
        if (first >= stop).any():
            raise ValueError(f"padding {p} leaves a window of size {k} and dilation {d} without an element of {size}")
        windows.append(np.stack([first, stop], axis=1))
    return _max_pool2d(x, rows=windows[0], columns=windows[1], step=step)


def _per_axis(x: Any, kernel_size: Any, stride: Any, padding: Any) -> list[tuple[int, int, int, int]]:
    """(size, window, stride, padding) of the height, then of the width."""
    k = pair("kernel_size", kernel_size, 1)
    s = k if stride is None else pair("stride", stride, 1)
    if 0 in x.shape[-2:]:
        raise ValueError(f"x must have rows and columns, got shape {x.shape}")
    return list(zip(x.shape[-2:], k, s, pair("padding", padding, 0), strict=True))
