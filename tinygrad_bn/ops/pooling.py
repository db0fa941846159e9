"""Pooling: each output is the largest value, or the average, of a window of the image.

Along each axis the windows are listed first, as pairs (start, stop) of the part inside the image. Average pooling
with a stride, with padding, and to a given output size differ in nothing but this list.

Both take a window in two steps: first its rows become one row, which is a loop over whole rows of the image, and then
the columns of that row. For windows of 2 x 2 side by side, the second step is a loop of its own that vectorizes, too.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from ..checks import Array, check_flag, check_int
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel, part
from ..runtime.threads import for_each, spans
from .convolution import check_images, pair

COST = 2  # pooling takes this many times as long, per element, as arithmetic


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


@part
def in_pairs(windows):
    """Whether they are (0, 2), (2, 4), ..."""
    yes = True
    for i in range(len(windows)):
        yes &= windows[i, 0] == 2 * i and windows[i, 1] == 2 * i + 2
    return yes


@part
def even(j):
    """2 j, as an index of which the compiler sees that it does not count from the end: else no loop vectorizes."""
    return numba.uintp(2 * j)


# Averages


@part
def add_row(row, total):
    for w in range(row.size):
        total[w] += row[w]


@part
def run_sum(run):
    total = np.float64(0)
    for k in range(run.size):
        total += run[k]
    return total


@part
def add_to_run(share, run):
    for k in range(run.size):
        run[k] += share


@kernel
def average_forward(x, rows, columns, row_weight, column_weight, y):
    """y[p, i, j] = row_weight[i] column_weight[j] (sum of x[p] over the rows of i and the columns of j)"""
    planes, I, J = y.shape
    W = x.shape[2]
    if J == 1 and columns[0, 0] == 0 and columns[0, 1] == W:  # whole rows: a run
        runs = x.reshape(planes, x.shape[1] * W)
        for p in range(planes):
            for i in range(I):
                y[p, i, 0] = run_sum(runs[p, rows[i, 0] * W : rows[i, 1] * W]) * row_weight[i] * column_weight[0]
        return
    total, pairs = np.empty(W), in_pairs(columns)
    for p in range(planes):
        for i in range(I):
            total[:] = 0
            for h in range(rows[i, 0], rows[i, 1]):
                add_row(x[p, h], total)
            out, factor = y[p, i], row_weight[i]
            if pairs:
                for j in range(J):
                    out[j] = (total[even(j)] + total[even(j) + 1]) * factor * column_weight[j]
            else:
                for j in range(J):
                    s = np.float64(0)
                    for w in range(columns[j, 0], columns[j, 1]):
                        s += total[w]
                    out[j] = s * factor * column_weight[j]


@kernel
def average_backward(dy, rows, columns, row_weight, column_weight, dx):
    """Add to each element of dx its share of every window that it lies in."""
    planes, I, J = dy.shape
    W = dx.shape[2]
    if J == 1 and columns[0, 0] == 0 and columns[0, 1] == W:
        runs = dx.reshape(planes, dx.shape[1] * W)
        for p in range(planes):
            for i in range(I):
                add_to_run(dy[p, i, 0] * row_weight[i] * column_weight[0], runs[p, rows[i, 0] * W : rows[i, 1] * W])
        return
    share, pairs = np.zeros(W), in_pairs(columns)
    for p in range(planes):
        for i in range(I):
            grad, factor = dy[p, i], row_weight[i]
            if pairs:
                for j in range(J):
                    g = grad[j] * factor * column_weight[j]
                    share[even(j)] = g
                    share[even(j) + 1] = g
            else:
                share[:] = 0
                for j in range(J):
                    g = grad[j] * factor * column_weight[j]
                    for w in range(columns[j, 0], columns[j, 1]):
                        share[w] += g
            for h in range(rows[i, 0], rows[i, 1]):
                add_row(share, dx[p, h])


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
    x, windows = contiguous(x).reshape(planes, H, W), (rows, columns, row_weight, column_weight)
    pieces = [slice(*span) for span in spans(planes, COST * H * W)]
    for_each(lambda p: average_forward(x[p], *windows, y[p]), pieces)

    def pullback(dy: Any) -> Any:
        dx = np.zeros((planes, H, W), dy.dtype)
        dy = contiguous(dy).reshape(planes, len(rows), len(columns))
        for_each(lambda p: average_backward(dy[p], *windows, dx[p]), pieces)
        return dx.reshape(shape)

    return y.reshape(*shape[:-2], *y.shape[1:]), pullback


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


@part
def wins(v, top):
    """Whether v takes the place of the largest before it: of equal ones the first stays, and NaN is the largest."""
    return (v > top) | (v != v)


@part
def largest_of_pairs(upper, lower, y):
    for j in range(y.size):
        e = even(j)
        a, b, c, d = upper[e], upper[e + 1], lower[e], lower[e + 1]
        top = b if wins(b, a) else a
        bottom = d if wins(d, c) else c
        y[j] = bottom if wins(bottom, top) else top


@part
def gradient_of_pairs(upper, lower, dy, dx_upper, dx_lower):
    """dy goes to the one of the four that largest_of_pairs takes."""
    for j in range(dy.size):
        e, g, zero = even(j), dy[j], dy.dtype.type(0)
        a, b, c, d = upper[e], upper[e + 1], lower[e], lower[e + 1]
        right, lower_right = wins(b, a), wins(d, c)
        below = wins(d if lower_right else c, b if right else a)
        above_g, below_g = zero if below else g, g if below else zero
        dx_upper[e] = zero if right else above_g
        dx_upper[e + 1] = above_g if right else zero
        dx_lower[e] = zero if lower_right else below_g
        dx_lower[e + 1] = below_g if lower_right else zero


@part
def keep_larger(row, best):
    for w in range(row.size):
        best[w] = row[w] if wins(row[w], best[w]) else best[w]


@part
def keep_larger_and_place(row, h, best, place):
    for w in range(row.size):
        won = wins(row[w], best[w])
        best[w] = row[w] if won else best[w]
        place[w] = h if won else place[w]


@part
def largest_places(x, rows, columns, step_h, step_w, index):
    """Where in its plane the largest element of each window lies: the first if several are equal, the last NaN."""
    I, J = index.shape
    W = x.shape[1]
    best, place = np.empty(W, x.dtype), np.empty(W, np.int32)
    for i in range(I):
        top_row = x[rows[i, 0]]
        for k in range(W):
            best[k], place[k] = top_row[k], rows[i, 0]
        h = rows[i, 0] + step_h
        while h < rows[i, 1]:  # a range with a step would divide to count its elements
            keep_larger_and_place(x[h], np.int32(h), best, place)
            h += step_h
        for j in range(J):
            w = columns[j, 0]
            top, where, row = best[w], w, place[w]
            w += step_w
            while w < columns[j, 1]:
                v, h = best[w], place[w]
                if v > top or (v == top and h < row) or (v != v and (top == top or h >= row)):
                    top, where, row = v, w, place[w]
                w += step_w
            index[i, j] = row * W + where


@kernel
def max_forward(x, rows, columns, step_h, step_w, y):
    """The largest element of every window."""
    planes, I, J = y.shape
    if step_h == step_w == 1 and in_pairs(rows) and in_pairs(columns):
        for p in range(planes):
            for i in range(I):
                largest_of_pairs(x[p, 2 * i], x[p, 2 * i + 1], y[p, i])
        return
    best = np.empty(x.shape[2], x.dtype)
    for p in range(planes):
        for i in range(I):
            row = x[p, rows[i, 0]]
            for w in range(row.size):
                best[w] = row[w]
            h = rows[i, 0] + step_h
            while h < rows[i, 1]:
                keep_larger(x[p, h], best)
                h += step_h
            out = y[p, i]
            for j in range(J):
                w = columns[j, 0]
                top = best[w]
                w += step_w
                while w < columns[j, 1]:
                    top = best[w] if wins(best[w], top) else top
                    w += step_w
                out[j] = top


@kernel
def max_places(x, rows, columns, step_h, step_w, index):
    for p in range(len(x)):
        largest_places(x[p], rows, columns, step_h, step_w, index[p])


@kernel
def max_backward(x, dy, rows, columns, step_h, step_w, dx):
    """Adds to dx, which is zeros: dy of each window to where its largest element lies."""
    planes, I, J = dy.shape
    if step_h == step_w == 1 and in_pairs(rows) and in_pairs(columns):
        for p in range(planes):
            for i in range(I):
                gradient_of_pairs(x[p, 2 * i], x[p, 2 * i + 1], dy[p, i], dx[p, 2 * i], dx[p, 2 * i + 1])
        return
    index = np.empty((I, J), np.int32)
    for p in range(planes):
        largest_places(x[p], rows, columns, step_h, step_w, index)
        plane = dx[p].reshape(dx.shape[1] * dx.shape[2])
        for i in range(I):
            for j in range(J):
                plane[index[i, j]] += dy[p, i, j]


def max_pool_definition(x: Any, *, rows: Array, columns: Array, step: tuple[int, int]) -> Any:
    """Where the largest element lies is a constant; its value is picked out."""
    (H, W), count = x.shape[-2:], len(rows) * len(columns)
    index = np.empty((math.prod(x.shape[:-2]), len(rows), len(columns)), np.int32)
    max_places(contiguous(x.data).reshape(-1, H, W), rows, columns, *step, index)
    planes = x.reshape(len(index), H * W)
    picked = planes[np.arange(len(index))[:, None], index.reshape(-1, count)]
    return picked.reshape(*x.shape[:-2], len(rows), len(columns))


@differentiable(definition=max_pool_definition)
def _max_pool2d(x: Any, *, rows: Array, columns: Array, step: tuple[int, int]) -> Any:
    """Keeps x, and finds the largest once more in the backward: x is kept by most of what is before a pooling, too."""
    shape, planes, (H, W) = x.shape, math.prod(x.shape[:-2]), x.shape[-2:]
    y = np.empty((planes, len(rows), len(columns)), x.dtype)
    x, windows = contiguous(x).reshape(planes, H, W), (rows, columns, *step)
    pieces = [slice(*span) for span in spans(planes, COST * H * W)]
    for_each(lambda p: max_forward(x[p], *windows, y[p]), pieces)

    def pullback(dy: Any) -> Any:
        dx = np.zeros((planes, H, W), dy.dtype)
        dy = contiguous(dy).reshape(planes, len(rows), len(columns))
        for_each(lambda p: max_backward(x[p], dy[p], *windows, dx[p]), pieces)
        return dx.reshape(shape)

    return y.reshape(*shape[:-2], *y.shape[1:]), pullback


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
