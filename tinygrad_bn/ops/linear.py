"""Matrix products: matmul for vectors, matrices and stacks of matrices, and the linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import check_array, check_input
from ..engine import Tensor, differentiable
from ..operators import implements


@implements(np.matmul)
@differentiable
def matmul(a: Any, b: Any) -> Any:
    """Y = A B;  dA = dY B^T,  dB = A^T dY

    A vector on the left is a row, on the right a column, and its axis does not appear in the result. Leading axes
    are a stack of matrices and broadcast.
    """
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"{name} must be a Tensor or an array, got {type(value).__name__}")
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs arrays with axes, got shapes {a.shape} and {b.shape}")
    row = a.reshape((1, *a.shape)) if a.ndim == 1 else a
    column = b.reshape((*b.shape, 1)) if b.ndim == 1 else b

    def matrix(dy: Any) -> Any:
        if b.ndim == 1:
            dy = dy.reshape((*dy.shape, 1))
        return dy.reshape((*dy.shape[:-1], 1, *dy.shape[-1:])) if a.ndim == 1 else dy

    def da(dy: Any) -> Any:
        g = matrix(dy) @ np.swapaxes(column, -1, -2)
        return g[..., 0, :] if a.ndim == 1 else g

    def db(dy: Any) -> Any:
        g = np.swapaxes(row, -1, -2) @ matrix(dy)
        return g[..., 0] if b.ndim == 1 else g

    return a @ b, lambda dy: (lambda: da(dy), lambda: db(dy))


def linear_definition(x: Any, weight: Any, bias: Any = None) -> Any:
    y = x @ weight.T
    return y if bias is None else y + bias


@differentiable(definition=linear_definition)
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Y = X W^T + b;  dX = dY W,  dW = dY^T X,  db = sum of dY over the samples

    x: (..., in_features), weight: (out_features, in_features), bias: (out_features,) or None.
    """
    check_input(x)
    if not isinstance(weight, (Tensor, np.ndarray)):
        raise TypeError(f"weight must be a Tensor, got {type(weight).__name__}")
    if weight.ndim != 2:
        raise ValueError(f"weight must have shape (out_features, in_features), got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have shape (..., {weight.shape[1]}) for this weight, got {x.shape}")
    check_array("weight", weight, weight.shape, x.dtype)
    check_array("bias", bias, weight.shape[:1], x.dtype)
    y = x @ weight.T
    if bias is not None:
        y += bias

    def dw(dy: Any) -> Any:
        rows = int(np.prod(x.shape[:-1], dtype=int))
        return dy.reshape(rows, weight.shape[0]).T @ x.reshape(rows, weight.shape[1])

    axes = tuple(range(x.ndim - 1))
    return y, lambda dy: (lambda: dy @ weight, lambda: dw(dy), lambda: dy.sum(axis=axes))
