"""Two-dimensional convolution: a matrix product with the patches of the image.

    y[n, o, p, q] = bias[o] + sum over c, i, j of  weight[o, c, i, j] x[n, c, p s + i d - top, q s + j d - left]

(stride s, dilation d, zeros outside the image; what signal processing calls a cross-correlation). Write the window
that belongs to (n, p, q) as a column and the kernel of o as a row: then Y = W P, and, as for every matrix product,
dW = dY P^T and dP = W^T dY. What is left to kernels is to gather the patches P from x, and to add dP back to dx.

P has i j times as many elements as x. It is therefore made for a few images at a time, few enough to stay in the
cache, and made again in the backward instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checks import check_array, check_input, check_int
from ..engine import Array, Tensor, differentiable
from ..jit import contiguous, kernel
from .shape import pad

BLOCK = 1 << 18  # elements of P that are made at a time: 1 MB in float32


@kernel
def gather_patches(x, stride_h, stride_w, top, left, dilation_h, dilation_w, patches):  # type: ignore[no-untyped-def]
    """patches[c, i, j, n, p, q] = x[n, c, p s + i d - top, q s + j d - left], 0 outside."""
    N, C, H, W = x.shape
    _, I, J, _, P, Q = patches.shape
    for c in range(C):
        for i in range(I):
            for j in range(J):
                shift = j * dilation_w - left
                first = min(max(-(shift // stride_w), 0), Q)  # q below it look left of the image,
                end = min(max((W - 1 - shift) // stride_w + 1, first), Q)  # from it on right of the image
                for n in range(N):
                    for p in range(P):
                        h = p * stride_h + i * dilation_h - top
                        out = patches[c, i, j, n, p]
                        if h < 0 or h >= H:
                            out[:] = 0
                            continue
                        row = x[n, c, h]
                        for q in range(first):
                            out[q] = 0
                        if stride_w == 1:
                            for q in range(first, end):
                                out[q] = row[q + shift]
                        else:
                            for q in range(first, end):
                                out[q] = row[q * stride_w + shift]
                        for q in range(end, Q):
                            out[q] = 0


@kernel
def scatter_patches(patches, stride_h, stride_w, top, left, dilation_h, dilation_w, x):  # type: ignore[no-untyped-def]
    """Add every element of patches to the element of x that it was gathered from."""
    N, C, H, W = x.shape
    _, I, J, _, P, Q = patches.shape
    for c in range(C):
        for i in range(I):
            for j in range(J):
                shift = j * dilation_w - left
                first = min(max(-(shift // stride_w), 0), Q)
                end = min(max((W - 1 - shift) // stride_w + 1, first), Q)
                for n in range(N):
                    for p in range(P):
                        h = p * stride_h + i * dilation_h - top
                        if h < 0 or h >= H:
                            continue
                        row, out = patches[c, i, j, n, p], x[n, c, h]
                        if stride_w == 1:
                            for q in range(first, end):
                                out[q + shift] += row[q]
                        else:
                            for q in range(first, end):
                                out[q * stride_w + shift] += row[q]


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
def _conv2d(x: Any, weight: Any, bias: Any, *, geometry: Any, groups: int) -> Any:
    stride, (top, _, left, _), dilation, (P, Q) = geometry
    x, weight = contiguous(x), contiguous(weight)
    N, (O, C, I, J) = len(x), weight.shape
    w = weight.reshape(groups, O // groups, C * I * J)

    def blocks() -> Iterator[slice]:
        n = max(1, BLOCK // (groups * w.shape[2] * P * Q))
        return (slice(start, min(start + n, N)) for start in range(0, N, n))

    def patches(block: slice) -> Array:
        result = np.empty((groups * C, I, J, block.stop - block.start, P, Q), x.dtype)
        gather_patches(x[block], *stride, top, left, *dilation, result)
        return result.reshape(groups, C * I * J, -1)

    def columns(dy: Array, block: slice) -> Array:
        """dY of these images as a matrix per group: a row per output channel."""
        part = dy[block].reshape(-1, groups, O // groups, P * Q)
        return part.transpose(1, 2, 0, 3).reshape(groups, O // groups, -1)

    def forward() -> Array:
        y = np.empty((N, O, P, Q), x.dtype)
        for block in blocks():
            part = (w @ patches(block)).reshape(O, -1, P, Q)
            y[block] = part.transpose(1, 0, 2, 3)
        if bias is not None:
            y += bias.reshape(O, 1, 1)
        return y

    def dx(dy: Array) -> Array:
        result = np.zeros_like(x)
        for block in blocks():
            part = w.swapaxes(1, 2) @ columns(dy, block)
            part = part.reshape(groups * C, I, J, -1, P, Q)
            scatter_patches(part, *stride, top, left, *dilation, result[block])
        return result

    def dweight(dy: Array) -> Array:
        result = np.zeros_like(w)
        for block in blocks():
            result += columns(dy, block) @ patches(block).swapaxes(1, 2)
        return result.reshape(weight.shape)

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy)
        return lambda: dx(dy), lambda: dweight(dy), lambda: dy.sum(axis=(0, 2, 3))

    return forward(), pullback


# The public function: check the arguments


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """An int, or a pair of them (height, width), each of at least ``least``."""
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    if not isinstance(both, (tuple, list)) or len(both) != 2:
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return check_int(name, both[0], least), check_int(name, both[1], least)


def check_images(x: Any) -> None:
    """The input is a float tensor (N, C, H, W), or one image (C, H, W)."""
    check_input(x)
    if x.ndim not in (3, 4):
        raise ValueError(f"input must have shape (N, C, H, W) or (C, H, W), got {x.shape}")


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
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """The convolution of images with a kernel: the formula at the top of ops/convolution.py.

    x: (N, C, H, W), or one image (C, H, W). weight: (O, C / groups, I, J). bias: (O,) or None.
    stride, dilation: an int or a pair (height, width). padding: zeros around the image, an int, a pair, "valid" (none)
    or "same" (as many as keep the size; stride 1). groups: the channels of input and output are split into as many
    parts, each output channel sees its own part only.
    Returns (N, O, P, Q), P = floor((H + 2 padding - dilation (I - 1) - 1) / stride) + 1, Q alike.
    Errors: ValueError for shapes that do not fit, TypeError for dtypes. Source: torch.nn.functional.conv2d.
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
            f"input must have {weight.shape[1] * groups} channels for a weight of shape {weight.shape} and "
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
    y = _conv2d(x.reshape((1, *x.shape)) if single else x, weight, bias, geometry=(s, around, d, size), groups=groups)
    return y.reshape(y.shape[1:]) if single else y
