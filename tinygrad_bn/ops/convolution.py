"""Two-dimensional convolution: a matrix product with the patches of the image.

    y[n, o, p, q] = bias[o] + sum over c, i, j of  weight[o, c, i, j] x[n, c, p s + i d - top, q s + j d - left]

(stride s, dilation d, zeros outside the image; what signal processing calls a cross-correlation). Write the window
that belongs to (p, q) as a column and the kernel of o as a row: then, for each image, Y = W P, and, as for every matrix
product, dW = dY P^T and dP = W^T dY. What is left to kernels is to gather the patches P from x, and to add dP back to
dx.

P has i j times as many elements as x. It is therefore made for a few images at a time, side by side, few enough to stay
in the cache, and made again in the backward instead of being kept.

Copied element by element, or in rows that may have eight elements, P would cost as much as its product. So each image
is first written to a scratch array with its zeros around it, the *plane*, in which every row of P is one run:

    y[p, q] needs, of the tap (i, j), plane[(p + i) S + q + j] = plane[offset(i, j) + p S + q],    S the plane's width

A run holds Q values of each row, and then S - Q that are in vain: nobody asks for these elements of y, and those of dy
are zeros. For a stride s the plane has s s parts, in which rows and columns have the same remainder modulo s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from ..checks import Array, check_int, check_size
from ..engine.guards import check_array, check_input
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.blas import one_thread
from ..runtime.jit import contiguous, kernel, part
from ..runtime.sums import total
from ..runtime.threads import for_each, spans
from .shape import pad

BLOCK = 1 << 17  # elements of P that are made at a time: 512 kB in float32
SMALL = 10**6  # multiplications up to which OpenBLAS multiplies without copying the matrices first
LEAST = 96  # columns of a product that is cut into such pieces
PARTS = 8  # partial sums of dW
FEW = 8  # pairs of an input and an output channel in a group, up to which direct loops are faster
PIECE = 512  # elements that are summed in x's width


@lru_cache(maxsize=256)
def plane_layout(H: int, W: int, kernel: tuple[int, int], geometry: Any) -> tuple[Any, Array, int]:
    """What ``lay_out`` wants to know, the offset of each tap, and how many elements the plane has."""
    (sh, sw), (top, bottom, left, right), (dh, dw), (_, Q) = geometry
    I, J = kernel
    rows = (top + H + bottom - 1) // sh + 1
    # The zeros at the end of a row are those before the next one, too.
    width = max((left + W - 1) // sw + 1, (left + W + right - 1) // sw + 1 - left // sw, Q)

    def offset(i: int, j: int) -> Any:
        start = (i % sh * sw + j % sw) * rows * width  # of its part of the plane
        return start + i // sh * width + j // sw

    offsets = np.array([offset(i * dh, j * dw) for i in range(I) for j in range(J)])
    return (top, left, sh, sw, rows, width), offsets, sh * sw * rows * width + (J - 1) * dw // sw


@part
def place(h, w, layout):
    """Where the plane has x[h, w]."""
    top, left, stride_h, stride_w, rows, width = layout
    r, c = h + top, w + left
    return (r % stride_h * stride_w + c % stride_w) * rows * width + r // stride_h * width + c // stride_w


@part
def lay_out(image, layout, plane):
    """Write the image to its place in a plane of zeros."""
    H, W = image.shape
    step = layout[3]
    for h in range(H):
        row = image[h]
        if step == 1:
            start = place(h, 0, layout)
            out = plane[start : start + W]
            for k in range(out.size):
                out[k] = row[k]
        else:
            for w in range(min(step, W)):
                start = place(h, w, layout)
                out = plane[start : start + (W - w + step - 1) // step]
                for k in range(out.size):
                    out[k] = row[numba.uintp(w) + numba.uintp(k) * numba.uintp(step)]


@part
def take_up(plane, layout, image):
    """The reverse."""
    H, W = image.shape
    step = layout[3]
    for h in range(H):
        out = image[h]
        if step == 1:
            start = place(h, 0, layout)
            row = plane[start : start + W]
            for k in range(row.size):
                out[k] = row[k]
        else:
            for w in range(min(step, W)):
                start = place(h, w, layout)
                row = plane[start : start + (W - w + step - 1) // step]
                for k in range(row.size):
                    out[numba.uintp(w) + numba.uintp(k) * numba.uintp(step)] = row[k]


@part
def widen(image, width, wide):
    """wide[p S + q] = image[p, q], and zeros for what is in vain"""
    P, Q = image.shape
    for p in range(P):
        row, out, vain = image[p], wide[p * width : p * width + Q], wide[p * width + Q : p * width + width]
        for q in range(Q):
            out[q] = row[q]
        for q in range(vain.size):
            vain[q] = 0


@part
def narrow(wide, width, bias, image):
    """image[p, q] = wide[p S + q] + bias"""
    P, Q = image.shape
    for p in range(P):
        row, out = wide[p * width : p * width + Q], image[p]
        for q in range(Q):
            out[q] = row[q] + bias


# The kernels beside the products, for a block of images. Patches have the shape (C, I J, N, P S): a matrix.


@kernel
def gather_patches(x, layout, offsets, size, patches):
    """patches[c, t, n] = the run of tap t in the plane of x[n, c]"""
    C, T, N, length = patches.shape
    plane = np.zeros(size, x.dtype)
    for n in range(N):
        for c in range(C):
            lay_out(x[n, c], layout, plane)
            for t in range(T):
                run, out = plane[offsets[t] : offsets[t] + length], patches[c, t, n]
                for k in range(length):
                    out[k] = run[k]


@kernel
def scatter_patches(patches, layout, offsets, size, dx):
    """dx[n, c] = the sum of all runs, each added to where it was gathered from"""
    C, T, N, length = patches.shape
    plane = np.empty(size, dx.dtype)
    for n in range(N):
        for c in range(C):
            plane[:] = 0
            for t in range(T):
                out, run = plane[offsets[t] : offsets[t] + length], patches[c, t, n]
                for k in range(length):
                    out[k] += run[k]
            take_up(plane, layout, dx[n, c])


@kernel
def widen_all(dy, width, wide):
    """wide[o, n, p S + q] = dy[n, o, p, q]"""
    N, O = dy.shape[:2]
    for n in range(N):
        for o in range(O):
            widen(dy[n, o], width, wide[o, n])


@kernel
def widen_columns(dy, width, wide):
    """wide[n, p S + q, o] = dy[n, o, p, q]: the same transposed, which the product for dW takes faster"""
    N, O, P, Q = dy.shape
    for n in range(N):
        images = dy[n].reshape(O * P * Q)
        for p in range(P):
            for q in range(Q):
                column, out = images[p * Q + q :], wide[n, p * width + q]
                for o in range(O):
                    out[o] = column[numba.uintp(o) * numba.uintp(P * Q)]
            for q in range(Q, width):
                wide[n, p * width + q] = 0


@kernel
def narrow_all(wide, width, bias, y):
    """y[n, o, p, q] = wide[o, n, p S + q] + bias[o]"""
    N, O = y.shape[:2]
    for n in range(N):
        for o in range(O):
            narrow(wide[o, n], width, bias[o], y[n, o])


# With few channels per group, as in a depthwise convolution, the products would be tiny: direct loops over the runs.


@kernel
def direct_forward(x, w, bias, layout, offsets, size, y):
    N, O, P, _ = y.shape
    C, G, T, width = x.shape[1], w.shape[1], len(offsets), layout[5]  # G channels in a group
    outputs = O * G // C  # of a group
    plane, wide = np.zeros(size, x.dtype), np.empty((outputs, P * width), x.dtype)
    for n in range(N):
        for c in range(C):
            lay_out(x[n, c], layout, plane)
            if c % G == 0:
                wide[:] = 0
            for o in range(outputs):
                out, taps = wide[o], w[c // G * outputs + o, c % G]
                for t in range(T):
                    run, factor = plane[offsets[t] : offsets[t] + out.size], taps[t]
                    for k in range(out.size):
                        out[k] += factor * run[k]
            if c % G == G - 1:
                for o in range(outputs):
                    number = c // G * outputs + o
                    narrow(wide[o], width, bias[number], y[n, number])


@kernel
def direct_dx(dy, w, layout, offsets, size, dx):
    N, O, P, Q = dy.shape
    C, G, T, width = dx.shape[1], w.shape[1], len(offsets), layout[5]
    outputs = O * G // C
    plane, wide = np.empty(size, dx.dtype), np.empty(P * width, dx.dtype)
    for n in range(N):
        for c in range(C):
            plane[:] = 0
            for o in range(c // G * outputs, c // G * outputs + outputs):
                widen(dy[n, o], width, wide)
                taps = w[o, c % G]
                for t in range(T):
                    factor = taps[t]
                    # what is in vain is 0, but 0 times infinity is not: then row by row
                    runs, length = (1, P * width) if np.isfinite(factor) else (P, Q)
                    for p in range(runs):
                        run, start = wide[p * width : p * width + length], offsets[t] + p * width
                        out = plane[start : start + length]
                        for k in range(length):
                            out[k] += factor * run[k]
            take_up(plane, layout, dx[n, c])


@part
def run_product(a, b):
    """The sum of a b, in float64 over sums of a's width."""
    result = np.float64(0)
    for i in range(0, a.size, PIECE):
        x, y, s = a[i : i + PIECE], b[i : i + PIECE], a.dtype.type(0)
        for k in range(x.size):
            s += x[k] * y[k]
        result += s
    return result


@kernel
def direct_dweight(x, dy, layout, offsets, size, dw):
    """Adds to dw, which is float64."""
    N, O, P, Q = dy.shape
    C, G, T, width = x.shape[1], dw.shape[1], len(offsets), layout[5]
    outputs = O * G // C
    plane, wide = np.zeros(size, x.dtype), np.empty(P * width, x.dtype)
    for n in range(N):
        for c in range(C):
            lay_out(x[n, c], layout, plane)
            for o in range(c // G * outputs, c // G * outputs + outputs):
                widen(dy[n, o], width, wide)
                for t in range(T):
                    s = run_product(wide, plane[offsets[t] : offsets[t] + wide.size])
                    if not np.isfinite(s):  # perhaps of what is in vain, 0 times infinity: row by row
                        s = 0.0
                        for p in range(P):
                            start = offsets[t] + p * width
                            s += run_product(wide[p * width : p * width + Q], plane[start : start + Q])
                    dw[o, c % G, t] += s


def conv2d_definition(x: Any, weight: Any, bias: Any, *, geometry: Any, groups: int) -> Any:
    """The sum over i and j of the shifted image times weight[:, :, i, j]: one matrix product per kernel position."""
    (sh, sw), (top, bottom, left, right), (dh, dw), (P, Q) = geometry
    x = pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    N, (O, C, I, J) = len(x), weight.shape
    y: Any = 0
    for i in range(I):
        for j in range(J):
            shifted = x[:, :, i * dh : i * dh + (P - 1) * sh + 1 : sh, j * dw : j * dw + (Q - 1) * sw + 1 : sw]
            y = y + weight[:, :, i, j].reshape(groups, O // groups, C) @ shifted.reshape(N, groups, C, P * Q)
    y = y.reshape(N, O, P, Q)
    return y if bias is None else y + bias.reshape(1, O, 1, 1)


@differentiable(definition=conv2d_definition)
def _conv2d_direct(x: Any, weight: Any, bias: Any, *, geometry: Any, groups: int) -> Any:
    """_conv2d in direct loops."""
    P, Q = geometry[3]
    plane = plane_layout(*x.shape[2:], weight.shape[2:], geometry)
    x, w = contiguous(x), contiguous(weight).reshape(*weight.shape[:2], -1)
    y = np.empty((len(x), len(w), P, Q), x.dtype)
    shift = np.zeros(len(w), x.dtype) if bias is None else contiguous(bias)
    pieces = [slice(*span) for span in spans(len(x), y[:1].size * math.prod(w.shape[1:]))]
    for_each(lambda p: direct_forward(x[p], w, shift, *plane, y[p]), pieces)

    def dx(dy: Array) -> Any:
        result = np.empty_like(x)
        for_each(lambda p: direct_dx(dy[p], w, *plane, result[p]), pieces)
        return result

    def dweight(dy: Array) -> Any:
        parts = np.zeros((min(PARTS, len(pieces)), *w.shape))

        def backward(k: int) -> None:
            for p in pieces[k :: len(parts)]:
                direct_dweight(x[p], dy[p], *plane, parts[k])

        for_each(backward, range(len(parts)))
        return parts.sum(axis=0).reshape(weight.shape).astype(dy.dtype)

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy)
        return lambda: dx(dy), lambda: dweight(dy), lambda: total(dy, (0, 2, 3))

    return y, pullback


def by_columns(multiplications: int, *matrices: Array) -> Iterator[list[Array]]:
    """Cut matrices (groups, rows, columns) into the same pieces of columns, as stacks: (groups, pieces, rows, columns).

    multiplications: for each column. There may be a second stack, of one piece, with the columns that are left over.
    """
    L = matrices[0].shape[2]
    most = SMALL // multiplications // 16 * 16
    pieces = -(-L // most) if most >= LEAST else 1
    piece = L if pieces == 1 else -(-L // pieces // 16) * 16  # as long as the others, and a multiple of 16
    whole = L // piece * piece
    yield [m[:, :, :whole].reshape(*m.shape[:2], -1, piece).swapaxes(1, 2) for m in matrices]
    if whole < L:
        yield [m[:, None, :, whole:] for m in matrices]


@differentiable(definition=conv2d_definition)
@one_thread
def _conv2d(x: Any, weight: Any, bias: Any, *, geometry: Any, groups: int) -> Any:
    P, Q = geometry[3]
    plane = plane_layout(*x.shape[2:], weight.shape[2:], geometry)
    width = plane[0][5]
    x, w = contiguous(x), weight.reshape(groups, 1, len(weight) // groups, -1)
    N, C = x.shape[:2]
    O, _, I, J = weight.shape
    shift = np.zeros(O, x.dtype) if bias is None else contiguous(bias)
    at_once, cost = max(1, BLOCK // (C * I * J * P * width)), w.size // groups
    blocks = [slice(start, min(start + at_once, N)) for start in range(0, N, at_once)]

    def matrices(a: Array) -> Array:
        """A matrix for each group: its rows are the channels, for patches times the taps."""
        return a.reshape(groups, -1, a.shape[-2] * a.shape[-1])

    def empty(block: slice, *channels: int) -> Array:
        return np.empty((*channels, block.stop - block.start, P * width), x.dtype)

    def patches(block: slice) -> Array:
        result = empty(block, C, I * J)
        gather_patches(x[block], *plane, result)
        return result

    def clear(a: Array) -> None:
        """Zeros for what is in vain: there, infinity times 0 is a NaN."""
        a.reshape(-1, width)[:, Q:] = 0

    y = np.empty((N, O, P, Q), x.dtype)

    def forward(block: slice) -> None:
        wide = empty(block, O)
        for some, out in by_columns(cost, matrices(patches(block)), matrices(wide)):
            np.matmul(w, some, out=out)
        narrow_all(wide, width, shift, y[block])

    with np.errstate(over="ignore", invalid="ignore"):  # of what nobody asks for, at the ends of rows
        for_each(forward, blocks)

    def dx(dy: Array) -> Any:
        result, finite = np.empty_like(x), np.isfinite(w).all()

        def backward(block: slice) -> None:
            part, wide = empty(block, C, I * J), empty(block, O)
            widen_all(dy[block], width, wide)
            for some, out in by_columns(cost, matrices(wide), matrices(part)):
                np.matmul(w.swapaxes(2, 3), some, out=out)
            if not finite:
                clear(part)
            scatter_patches(part, *plane, result[block])

        with np.errstate(over="ignore", invalid="ignore"):
            for_each(backward, blocks)
        return result

    def dweight(dy: Array, clean: bool = False) -> Any:
        count = min(PARTS, len(blocks))  # of partial sums, long ones in float64, which are then added up in their order
        parts = np.zeros((count, groups, w.shape[3], w.shape[2]), x.dtype if len(blocks) <= 4 * count else np.float64)

        def backward(k: int) -> None:
            for block in blocks[k :: len(parts)]:
                p, wide = patches(block), np.empty((block.stop - block.start, P * width, O), x.dtype)
                if clean:
                    clear(p)
                widen_columns(dy[block], width, wide)
                columns = wide.reshape(-1, groups, O // groups).transpose(1, 2, 0)
                for some, others in by_columns(cost, matrices(p), columns):
                    parts[k] += (some @ others.swapaxes(2, 3)).sum(axis=1)  # dW^T = P dY^T

        with np.errstate(all=None if clean else "ignore"):
            for_each(backward, range(len(parts)))
        result = parts.sum(axis=0).swapaxes(1, 2).reshape(weight.shape).astype(dy.dtype)
        return result if clean or np.isfinite(result).all() else dweight(dy, clean=True)

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy)
        return lambda: dx(dy), lambda: dweight(dy), lambda: total(dy, (0, 2, 3))

    return y, pullback


# The public function: check the arguments


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """An int, or a pair of them (height, width), each of at least ``least``."""
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    if not isinstance(both, (tuple, list)) or len(both) != 2:
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return check_size(name, both[0], least), check_size(name, both[1], least)


def check_images(x: Any) -> None:
    """x is a float tensor (N, C, H, W), or one image (C, H, W)."""
    check_input(x)
    if x.ndim not in (3, 4):
        raise ValueError(f"x must have shape (N, C, H, W) or (C, H, W), got {x.shape}")


def check_padding(padding: Any, kernel: tuple[int, int], stride: Any, dilation: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of an int, a pair, "valid" or "same"."""
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise ValueError(f"padding must be an int, a pair, 'valid' or 'same', got {padding!r}")
        if padding == "valid":
            return 0, 0, 0, 0
        if stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1, got {stride}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]  # what is odd goes below and right
        return total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2
    h, w = pair("padding", padding, 0)
    return h, h, w, w


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of images with a kernel: the formula at the top of ops/convolution.py.

    x: (N, C, H, W), or one image (C, H, W). weight: (O, C / groups, I, J). bias: (O,) or None.
    stride, dilation: an int or a pair (height, width). padding: zeros around the image, an int, a pair, "valid" (none)
    or "same" (as many as keep the size; stride 1). groups: the channels of input and output are split into as many
    parts, each output channel sees its own part only.
    Returns (N, O, P, Q), P = floor((H + 2 padding - dilation (I - 1) - 1) / stride) + 1, Q alike.
    Errors: ValueError for shapes that do not fit, TypeError for dtypes. Source: torch.nn.functional.conv2d.

    >>> x = tb.tensor([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
    >>> F.conv2d(x, tb.tensor([[[[1, 0], [0, 1]]]]))  # each element plus the one below on the right
    tensor([[[ 6.,  8.],
             [12., 14.]]])
    """
    check_images(x)
    if not isinstance(weight, (Tensor, np.ndarray)):
        raise TypeError(f"weight must be a Tensor, got {type(weight).__name__}")
    check_array("weight", weight, weight.shape, x.dtype)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"weight must have shape (out, in / groups, height, width), got {weight.shape}")
    check_int("groups", groups, 1)
    channels, O = x.shape[-3], weight.shape[0]
    if channels % groups or O % groups:
        raise ValueError(f"groups must divide the {channels} channels and {O} outputs, got {groups}")
    if weight.shape[1] * groups != channels:
        raise ValueError(
            f"x must have {weight.shape[1] * groups} channels for a weight of shape {weight.shape} and "
            f"groups={groups}, got shape {x.shape}"
        )
    check_array("bias", bias, (O,), x.dtype)
    s, d = pair("stride", stride, 1), pair("dilation", dilation, 1)
    window = (weight.shape[2], weight.shape[3])
    around = check_padding(padding, window, s, d)
    room = [n + a + b for n, a, b in zip(x.shape[-2:], around[::2], around[1::2], strict=True)]
    reach = [e * (k - 1) + 1 for e, k in zip(d, window, strict=True)]
    if room[0] < reach[0] or room[1] < reach[1]:
        raise ValueError(f"a kernel that reaches over {tuple(reach)} does not fit into the padded input {tuple(room)}")
    size = tuple((r - k) // step + 1 for r, k, step in zip(room, reach, s, strict=True))
    single = x.ndim == 3
    few = groups > 1 and channels * O <= FEW * groups**2
    convolve = _conv2d_direct if few else _conv2d
    y = convolve(x.reshape((1, *x.shape)) if single else x, weight, bias, geometry=(s, around, d, size), groups=groups)
    return y.reshape(y.shape[1:]) if single else y
