"""Matrix products: matmul for vectors, matrices and stacks of matrices, and the linear layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array
from ..engine.guards import check_array, check_input
from ..engine.operators import implements
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.blas import one_thread, product
from ..runtime.jit import contiguous, kernel


def check_matmul(a: Any, b: Any) -> None:
    """Arrays with axes; whether they fit, NumPy says."""
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"{name} must be a Tensor or an array, got {type(value).__name__}")
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs arrays with axes, got shapes {a.shape} and {b.shape}")


@implements(np.matmul)
@differentiable(check=check_matmul)
@one_thread
def matmul(a: Tensor | Array, b: Tensor | Array) -> Any:
    """Y = A B;  dA = dY B^T,  dB = A^T dY

    a, b: (..., n, k) and (..., k, m). A vector on the left is a row, on the right a column, and its axis does not
    appear in the result. Leading axes are a stack of matrices and broadcast.
    Errors: TypeError for what is not a Tensor or array; ValueError for shapes that do not fit.

    >>> a = tb.tensor([[1, 2], [3, 4]])
    >>> tb.matmul(a, tb.tensor([1.0, 10.0]))  # 1 + 20, 3 + 40
    tensor([21., 43.])
    """
    row = a.reshape((1, *a.shape)) if a.ndim == 1 else a
    column = b.reshape((*b.shape, 1)) if b.ndim == 1 else b

    def matrix(dy: Any) -> Any:
        if b.ndim == 1:
            dy = dy.reshape((*dy.shape, 1))
        return dy.reshape((*dy.shape[:-1], 1, *dy.shape[-1:])) if a.ndim == 1 else dy

    def da(dy: Any) -> Any:
        g = product(matrix(dy), np.swapaxes(column, -1, -2))
        return g[..., 0, :] if a.ndim == 1 else g

    def db(dy: Any) -> Any:
        g = product(np.swapaxes(row, -1, -2), matrix(dy))
        return g[..., 0] if b.ndim == 1 else g

    return product(a, b), lambda dy: (lambda: da(dy), lambda: db(dy))


@kernel
def add_bias(y, bias):
    """y[n] += bias"""
    for n in range(len(y)):
        row = y[n]
        for c in range(bias.size):
            row[c] += bias[c]


@kernel
def sum_rows(dy, total, out):
    """out = sum of dy over the rows, in float64"""
    total[:] = 0
    for n in range(len(dy)):
        row = dy[n]
        for c in range(out.size):
            total[c] += row[c]
    for c in range(out.size):
        out[c] = total[c]


def sum_of_rows(dy: Array) -> Array:
    total = np.empty(dy.shape[1], dy.dtype)
    sum_rows(contiguous(dy), np.empty(dy.shape[1]), total)
    return total


def linear_definition(x: Any, weight: Any, bias: Any = None) -> Any:
    y = x @ weight.T
    return y if bias is None else y + bias


def check_linear(x: Any, weight: Any, bias: Any = None) -> None:
    """A weight with rows of the length of x's last axis, and a bias for each."""
    check_input(x)
    if not isinstance(weight, (Tensor, np.ndarray)):
        raise TypeError(f"weight must be a Tensor, got {type(weight).__name__}")
    if weight.ndim != 2:
        raise ValueError(f"weight must have shape (out_features, in_features), got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have shape (..., {weight.shape[1]}) for this weight, got {x.shape}")
    check_array("weight", weight, weight.shape, x.dtype)
    check_array("bias", bias, weight.shape[:1], x.dtype)


@differentiable(definition=linear_definition, check=check_linear)
@one_thread
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Y = X W^T + b;  dX = dY W,  dW = dY^T X,  db = sum of dY over the samples

    x: (..., in_features), weight: (out_features, in_features), bias: (out_features,) or None.
    Errors: ValueError for shapes that do not fit, TypeError for dtypes. Source: torch.nn.functional.linear.

    >>> x, weight, bias = tb.tensor([[1, 2]]), tb.tensor([[1, 0], [0, 1], [1, 1]]), tb.tensor([0, 0, 10])
    >>> F.linear(x, weight, bias)
    tensor([[ 1.,  2., 13.]])
    """
    shape = x.shape
    if len(shape) != 2:
        x = x.reshape(math.prod(shape[:-1]), shape[-1])
    y = product(x, weight.T)
    if bias is not None:
        add_bias(y, contiguous(bias))

    rows = y.shape

    def pullback(dy: Any) -> Any:
        dy = dy.reshape(rows)
        return lambda: product(dy, weight).reshape(shape), lambda: product(dy.T, x), lambda: sum_of_rows(dy)

    return y if len(shape) == 2 else y.reshape(*shape[:-1], len(weight)), pullback
