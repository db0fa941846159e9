"""Two-dimensional convolution: a matrix product with the patches of the image.

    y[n, o, p, q] = bias[o] + sum over c, i, j of  weight[o, c, i, j] x[n, c, p s + i d - top, q s + j d - left]

(stride s, dilation d, zeros outside the image; what signal processing calls a cross-correlation). Write the window
that belongs to (p, q) as a column and the kernel of o as a row: then, for each image, Y = W P, and, as for every matrix
product, dW = dY P^T and dP = W^T dY. What is left to kernels is to gather the patches P from x, and to add dP back to
dx.

P has i j times as many elements as x. It is therefore made for a few images at a time, few enough to stay in the
cache (for one image, where that is large), and made again in the backward instead of being kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array, check_int, check_size
from ..engine.guards import check_array, check_input
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.blas import one_thread
from ..runtime.jit import contiguous, kernel
from ..runtime.sums import total
from ..runtime.threads import for_each, spans
from .shape import pad

BLOCK = 1 << 17  # elements of P that are made at a time: 512 kB in float32
PARTS = 8  # partial sums of dW
FEW = 8  # pairs of an input and an output channel in a group, up to which direct loops are faster


@kernel
def gather_patches(x, top, left, stride_h, stride_w, dilation_h, dilation_w, patches):
    """patches[n, c, i, j, p, q] = x[n, c, p s + i d - top, q s + j d - left], 0 outside of the image"""
    N, C, H, W = x.shape
    _, _, I, J, P, Q = patches.shape
    for n in range(N):
        for c in range(C):
            for i in range(I):
                for j in range(J):
                    for p in range(P):
                        h, out = p * stride_h + i * dilation_h - top, patches[n, c, i, j, p]
                        if 0 <= h < H:
                            row = x[n, c, h]
                            for q in range(Q):
                                w = q * stride_w + j * dilation_w - left
                                out[q] = row[w] if 0 <= w < W else 0
                        else:
                            for q in range(Q):
                                out[q] = 0


@kernel
def scatter_patches(patches, top, left, stride_h, stride_w, dilation_h, dilation_w, x):
    """Add every element of patches to the element of x that it was gathered from."""
    N, C, H, W = x.shape
    _, _, I, J, P, Q = patches.shape
    for n in range(N):
        for c in range(C):
            for i in range(I):
                for j in range(J):
                    for p in range(P):
                        h, values = p * stride_h + i * dilation_h - top, patches[n, c, i, j, p]
                        if 0 <= h < H:
                            row = x[n, c, h]
                            for q in range(Q):
                                w = q * stride_w + j * dilation_w - left
                                if 0 <= w < W:
                                    row[w] += values[q]


# With few channels per group, as in a depthwise convolution, the products would be tiny: direct loops are faster. x
# comes with its padding.


@kernel
def direct_forward(x, w, stride_h, stride_w, dilation_h, dilation_w, y):
    """y += the convolution"""
    N, O, P, Q = y.shape
    _, G, I, J = w.shape  # G channels in a group
    outputs = O * G // x.shape[1]  # of a group
    for n in range(N):
        for o in range(O):
            for g in range(G):
                image = x[n, o // outputs * G + g]
                for i in range(I):
                    for j in range(J):
                        factor = w[o, g, i, j]
                        for p in range(P):
                            row, out = image[p * stride_h + i * dilation_h], y[n, o, p]
                            if stride_w == 1:  # a loop of its own, which vectorizes
                                row = row[j * dilation_w : j * dilation_w + Q]
                                for q in range(Q):
                                    out[q] += factor * row[q]
                            else:
                                for q in range(Q):
                                    out[q] += factor * row[q * stride_w + j * dilation_w]


@kernel
def direct_dx(dy, w, stride_h, stride_w, dilation_h, dilation_w, dx):
    """Adds to dx."""
    N, O, P, Q = dy.shape
    _, G, I, J = w.shape
    outputs = O * G // dx.shape[1]
    for n in range(N):
        for o in range(O):
            for g in range(G):
                image = dx[n, o // outputs * G + g]
                for i in range(I):
                    for j in range(J):
                        factor = w[o, g, i, j]
                        for p in range(P):
                            row, out = dy[n, o, p], image[p * stride_h + i * dilation_h]
                            if stride_w == 1:
                                out = out[j * dilation_w : j * dilation_w + Q]
                                for q in range(Q):
                                    out[q] += factor * row[q]
                            else:
                                for q in range(Q):
                                    out[q * stride_w + j * dilation_w] += factor * row[q]


@kernel
def direct_dweight(x, dy, stride_h, stride_w, dilation_h, dilation_w, dw):
    """Adds to dw, which is float64."""
    N, O, P, Q = dy.shape
    _, G, I, J = dw.shape
    outputs = O * G // x.shape[1]
    for n in range(N):
        for o in range(O):
            for g in range(G):
                image = x[n, o // outputs * G + g]
                for i in range(I):
                    for j in range(J):
                        total = np.float64(0)
                        for p in range(P):
                            row, grad = image[p * stride_h + i * dilation_h], dy[n, o, p]
                            if stride_w == 1:
                                row = row[j * dilation_w : j * dilation_w + Q]
                                for q in range(Q):
                                    total += grad[q] * row[q]
                            else:
                                for q in range(Q):
                                    total += grad[q] * row[q * stride_w + j * dilation_w]
                        dw[o, g, i, j] += total


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
    stride, (top, bottom, left, right), dilation, (P, Q) = geometry
    steps = (*stride, *dilation)
    padded = contiguous(np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)]))
    weight = contiguous(weight)
    y = np.zeros((len(x), len(weight), P, Q), x.dtype)
    pieces = [slice(*span) for span in spans(len(x), y[:1].size * math.prod(weight.shape[1:]))]
    for_each(lambda p: direct_forward(padded[p], weight, *steps, y[p]), pieces)
    if bias is not None:
        y += bias.reshape(-1, 1, 1)
    H, W = x.shape[2:]

    def dx(dy: Array) -> Array:
        result = np.zeros(padded.shape, dy.dtype)
        for_each(lambda p: direct_dx(dy[p], weight, *steps, result[p]), pieces)
        return np.ascontiguousarray(result[:, :, top : top + H, left : left + W])

    def dweight(dy: Array) -> Any:
        parts = np.zeros((min(PARTS, len(pieces)), *weight.shape))

        def backward(k: int) -> None:
            for p in pieces[k :: len(parts)]:
                direct_dweight(padded[p], dy[p], *steps, parts[k])

        for_each(backward, range(len(parts)))
        return parts.sum(axis=0).astype(dy.dtype)

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy)
        return lambda: dx(dy), lambda: dweight(dy), lambda: total(dy, (0, 2, 3))

    return y, pullback


@differentiable(definition=conv2d_definition)
@one_thread
def _conv2d(x: Any, weight: Any, bias: Any, *, geometry: Any, groups: int) -> Any:
    stride, (top, _, left, _), dilation, (P, Q) = geometry
    steps = (top, left, *stride, *dilation)
    x = contiguous(x)
    N, C = x.shape[:2]
    O, _, I, J = weight.shape
    w = weight.reshape(groups, O // groups, -1)
    at_once = max(1, BLOCK // (C * I * J * P * Q))  # images
    blocks = [slice(start, min(start + at_once, N)) for start in range(0, N, at_once)]

    def matrices(a: Array) -> Array:
        """A matrix per image and group: its rows are the channels, and for patches also the places in the kernel."""
        return a.reshape(len(a), groups, -1, P * Q)

    def empty(block: slice) -> Array:
        return np.empty((block.stop - block.start, C, I, J, P, Q), x.dtype)

    def patches(block: slice) -> Array:
        result = empty(block)
        gather_patches(x[block], *steps, result)
        return matrices(result)

    y = np.empty((N, O, P, Q), x.dtype)

    def forward(block: slice) -> None:
        np.matmul(w, patches(block), out=matrices(y[block]))
        if bias is not None:
            y[block] += bias.reshape(O, 1, 1)

    for_each(forward, blocks)

    def dx(dy: Array) -> Any:
        result = np.zeros_like(x)

        def backward(block: slice) -> None:
            part = empty(block)
            np.matmul(w.swapaxes(1, 2), matrices(dy[block]), out=matrices(part))
            scatter_patches(part, *steps, result[block])

        for_each(backward, blocks)
        return result

    def dweight(dy: Array) -> Any:
        count = min(PARTS, len(blocks))  # of partial sums, long ones in float64, which are then added up in their order
        parts = np.zeros((count, *w.shape), x.dtype if len(blocks) <= 4 * count else np.float64)

        def backward(k: int) -> None:
            for block in blocks[k :: len(parts)]:
                parts[k] += (matrices(dy[block]) @ patches(block).swapaxes(2, 3)).sum(axis=0)

        for_each(backward, range(len(parts)))
        return parts.sum(axis=0).reshape(weight.shape).astype(dy.dtype)

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
