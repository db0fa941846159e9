"""Activations: ReLU, sigmoid, tanh, softmax and log-softmax, and dropout.

Each has a definition, the formula composed of primitives, and kernels that compute the same in one pass.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_generator, check_int, check_number
from ..engine.guards import check_input
from ..engine.replay_notes import fresh
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel, kernel_as_written
from ..runtime.random import default_generator
from ..runtime.threads import LARGE, for_each, spans


def over(kernel: Any, *arrays: Any) -> None:
    """kernel(*arrays), flattened; large arrays in pieces on several threads."""
    flat = [a.reshape(-1) for a in arrays]
    if flat[0].size < LARGE:
        kernel(*flat)
    else:
        for_each(lambda span: kernel(*(a[span[0] : span[1]] for a in flat)), spans(flat[0].size, 1))


# ReLU


@kernel
def relu_forward(x, y):
    for i in range(x.size):
        y[i] = 0 if x[i] <= 0 else x[i]  # NaN is not <= 0, so it stays


@kernel
def relu_backward(y, dy, dx):
    for i in range(y.size):
        dx[i] = 0 if y[i] <= 0 else dy[i]


def relu_definition(x: Any) -> Any:
    return np.where(x <= 0, 0, x)


@differentiable(definition=relu_definition)
def relu(x: Tensor) -> Any:
    """max(x, 0);  dx = dy where x > 0, else 0 (0 at 0; NaN passes through)

    Errors: TypeError for what is not a Tensor or array of floats. Source: Nair & Hinton 2010.

    >>> x = tb.tensor([-1.0, 2.0], requires_grad=True)
    >>> y = F.relu(x)
    >>> y.sum().backward()
    >>> y.data, x.grad
    (array([0., 2.], dtype=float32), array([0., 1.], dtype=float32))
    """
    x = contiguous(x)
    y = np.empty_like(x)
    over(relu_forward, x, y)

    def pullback(dy: Any) -> Any:
        dx = np.empty_like(y)
        over(relu_backward, y, contiguous(dy), dx)
        return dx

    return y, pullback


# Sigmoid


@kernel_as_written
def sigmoid_forward_32(x, y):
    """float32, with an exp that the compiler can vectorize: six times as fast as calling math.exp.

    e^a = 2^n e^r, where n is a / log 2 rounded, and r = a - n log 2 in [-0.35, 0.35], with log 2 in two parts so that
    n log 2 is exact. e^r is a polynomial (Cephes' expf, relative error below 2^-23), 2^n the float with n as exponent.
    """
    one, log2_e = np.float32(1), np.float32(1.44269504)
    log_2_high, log_2_low = np.float32(0.693359375), np.float32(-2.12194440e-4)
    for i in range(x.size):
        v = x[i]
        a = max(-abs(v), np.float32(-87.33654))  # e^a is a normal float32, the smallest
        n = np.floor(a * log2_e + np.float32(0.5))
        r = a - n * log_2_high - n * log_2_low
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        e = p * r * r + r + one
        e *= np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        if v < np.float32(-87.33654):
            e = np.float32(0)
        s = one / (one + e)
        s = s if v >= 0 else e * s
        y[i] = s if v == v else v


@kernel
def sigmoid_forward_64(x, y):
    for i in range(x.size):
        e = math.exp(-abs(x[i]))  # never overflows
        y[i] = 1 / (1 + e) if x[i] >= 0 else e / (1 + e)


@kernel
def sigmoid_backward(y, dy, dx):
    for i in range(y.size):
        dx[i] = y[i] * (1 - y[i]) * dy[i]


def sigmoid_definition(x: Any) -> Any:
    e, one = np.exp(np.where(x <= 0, x, 0)), np.exp(np.where(x <= 0, 0, -x))  # e^x / (e^x + 1) or 1 / (1 + e^-x),
    return e / (e + one)  # whichever does not overflow


@differentiable(definition=sigmoid_definition)
def sigmoid(x: Tensor) -> Any:
    """y = 1 / (1 + exp(-x)),  dx = y (1 - y) dy

    Errors: TypeError for what is not a Tensor or array of floats. Source: torch.sigmoid.

    >>> x = tb.tensor([0.0], requires_grad=True)
    >>> y = F.sigmoid(x)
    >>> y.backward()
    >>> y.item(), x.grad.item()  # the slope at 0 is 0.5 (1 - 0.5), the steepest
    (0.5, 0.25)
    """
    x = contiguous(x)
    y = np.empty_like(x)
    over(sigmoid_forward_32 if x.dtype == np.float32 else sigmoid_forward_64, x, y)

    def pullback(dy: Any) -> Any:
        dx = np.empty_like(y)
        over(sigmoid_backward, y, contiguous(dy), dx)
        return dx

    return y, pullback


# Tanh: NumPy's is the fastest there is, so only the backward is a kernel


@kernel
def tanh_backward(y, dy, dx):
    for i in range(y.size):
        dx[i] = (1 - y[i] * y[i]) * dy[i]


def tanh_definition(x: Any) -> Any:
    return np.tanh(x)


@differentiable(definition=tanh_definition)
def tanh(x: Tensor) -> Any:
    """y = tanh(x),  dx = (1 - y^2) dy

    Errors: TypeError for what is not a Tensor or array of floats. Source: LeCun et al. 1998, Efficient BackProp,
    section 4.4.

    >>> x = tb.tensor([0.0], requires_grad=True)
    >>> y = F.tanh(x)
    >>> y.backward()
    >>> y.item(), x.grad.item()
    (0.0, 1.0)
    """
    x = contiguous(x)
    y = np.empty_like(x)
    over(np.tanh, x, y)

    def pullback(dy: Any) -> Any:
        dx = np.empty_like(y)
        over(tanh_backward, y, contiguous(dy), dx)
        return dx

    return y, pullback


# Softmax and log-softmax: the maximum is subtracted first, so that exp never overflows; it cancels in the result. What
# the other exponentials add to its 1 is summed by itself: log1p keeps it, however small.


@kernel_as_written
def softmax_forward(x, y, log):
    rows, n = x.shape
    for r in range(rows):
        place = 0
        for j in range(n):
            if not x[r, j] <= x[r, place]:  # a NaN becomes the maximum and spreads over the row
                place = j
        top, rest = x[r, place], 0.0
        for j in range(n):
            if j != place:
                rest += math.exp(x[r, j] - top)
        if not math.isfinite(top):
            rest = math.nan
        shift, total = math.log1p(rest), 1 + rest
        for j in range(n):
            y[r, j] = x[r, j] - top - shift if log else math.exp(x[r, j] - top) / total


@kernel
def softmax_backward(y, dy, dx, log):
    rows, n = y.shape
    for r in range(rows):
        total = np.float64(0)
        for j in range(n):
            total += dy[r, j] if log else dy[r, j] * y[r, j]
        for j in range(n):
            dx[r, j] = dy[r, j] - math.exp(y[r, j]) * total if log else y[r, j] * (dy[r, j] - total)


def _detached(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else x.data


def log_softmax_definition(x: Any, dim: int = -1) -> Any:
    axis = dim if x.ndim else None
    shifted = x - _detached(x).max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def softmax_definition(x: Any, dim: int = -1) -> Any:
    return np.exp(log_softmax_definition(x, dim))


def check_softmax(x: Any, dim: Any = -1) -> None:
    """An axis of x; a number is taken for an axis of one, as in PyTorch."""
    check_input(x)
    n = max(x.ndim, 1)
    if not -n <= check_int("dim", dim, None, None) < n:
        raise ValueError(f"dim must be in [{-n}, {n - 1}] for shape {x.shape}, got {dim!r}")


def _softmax(x: Any, dim: int, log: bool) -> Any:
    if x.ndim == 0:
        y, pullback_of_one = _softmax(x.reshape(1), 0, log)
        return y.reshape(()), lambda dy: pullback_of_one(dy.reshape(1)).reshape(())
    rows = contiguous(np.moveaxis(x, dim, -1))
    y = np.empty_like(rows)
    flat = (-1, rows.shape[-1]) if rows.size else (0, 1)
    softmax_forward(rows.reshape(flat), y.reshape(flat), log)

    def pullback(dy: Any) -> Any:
        dy = contiguous(np.moveaxis(dy, dim, -1))
        dx = np.empty_like(dy)
        softmax_backward(y.reshape(flat), dy.reshape(flat), dx.reshape(flat), log)
        return np.moveaxis(dx, -1, dim)

    return np.moveaxis(y, -1, dim), pullback


@differentiable(definition=softmax_definition, check=check_softmax)
def softmax(x: Tensor, dim: int = -1) -> Any:
    """y_j = exp(x_j) / sum_k exp(x_k) along dim;  dx = y (dy - sum_k dy_k y_k)

    x: floats of any shape. dim: the axis over which y sums to 1 (default -1, the last).
    Errors: TypeError for another x, ValueError for another dim. Source: Bridle 1990.

    >>> x = tb.tensor(np.log([[1.0, 3.0]]))  # the odds are 1 : 3
    >>> F.softmax(x).data.round(6)
    array([[0.25, 0.75]])
    """
    return _softmax(x, dim, False)


@differentiable(definition=log_softmax_definition, check=check_softmax)
def log_softmax(x: Tensor, dim: int = -1) -> Any:
    """y_j = x_j - log sum_k exp(x_k) along dim;  dx = dy - exp(y) sum_k dy_k

    x: floats of any shape. dim: the axis over which exp(y) sums to 1 (default -1, the last).
    Errors: TypeError for another x, ValueError for another dim. Source: torch.nn.functional.log_softmax.

    >>> F.log_softmax(tb.tensor([1000.0, 0.0])).data  # exp(1000) would overflow
    array([    0., -1000.], dtype=float32)
    """
    return _softmax(x, dim, True)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None) -> Tensor:
    """In training, zero each element with probability p and divide the others by 1 - p; else return x.

    The mean is unchanged, the variance is not. p: default 0.5. generator: draw from it; None (default) is the one of
    manual_seed. Source: Srivastava et al. 2014.
    Errors: ValueError where p is outside [0, 1]; TypeError for what is not a Tensor, number, bool or generator.

    >>> y = F.dropout(tb.tensor([1.0] * 100), p=0.75)
    >>> sorted(set(y.data.tolist()))  # 1 / (1 - 0.75) is 4
    [0.0, 4.0]
    >>> F.dropout(tb.tensor([1.0, 2.0]), training=False)
    tensor([1., 2.])
    """
    check_input(x)
    p = check_number("p", p, 0, 1)
    check_generator(generator)
    if not check_flag("training", training) or p == 0:
        return x
    dropped: Tensor = x * fresh(dropout_mask, generator, x.shape, x.dtype, p)
    return dropped


def dropout_mask(generator: np.random.Generator | None, shape: tuple[int, ...], dtype: Any, p: float) -> Array:
    """0 with probability p, else 1 / (1 - p)."""
    kept = (generator or default_generator()).random(shape, dtype=np.float32) >= p
    mask: Array = kept.astype(dtype) * dtype.type(1 / (1 - p) if p < 1 else 0)
    return mask
