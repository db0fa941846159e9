"""Whitening: subtract the mean, then multiply by a matrix W that makes the covariance of the features the identity.

    Y = W (X - mean),   Sigma = (X - mean) (X - mean)^T / m + eps 1,   W Sigma W^T = 1

for X of shape (d, m), a row per feature. W is unique up to a rotation from the left. With Sigma = D diag(l) D^T,

    ZCA:  W = Sigma^(-1/2) = D diag(l)^(-1/2) D^T     symmetric: of all whitenings the closest to the input
    PCA:  W = diag(l)^(-1/2) D^T                      the features of Y are the principal components

The gradient of ZCA exists for every positive definite Sigma. That of PCA goes through the eigenvectors: it grows as
1 / (l_i - l_j) where two eigenvalues come close, and the components of one batch need not be those of the next.
Source: Huang et al. 2018, Decorrelated Batch Normalization, section 3 and appendix.

The three primitives below are written with operators that tensors know, and with each other, so that they can be
differentiated any number of times. They act on the last two axes; what comes before is a stack of matrices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array
from ..engine.backward import grad
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.blas import one_thread


def _t(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def _symmetric(a: Any) -> Any:
    return (a + _t(a)) * 0.5


def _eigh(a: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors; NaN for a matrix that is not finite.

    Eigenvalues that rounding may have made of 0, or pushed below it, become that rounding, so that roots exist.
    """
    finite: Any = np.isfinite(a).all(axis=(-2, -1), keepdims=True)
    values, vectors = np.linalg.eigh(np.where(finite, a, np.eye(a.shape[-1], dtype=a.dtype)))
    rounding = values.max(axis=-1, keepdims=True, initial=0) * a.shape[-1] * np.finfo(a.dtype).eps
    return np.where(finite[..., 0], np.maximum(values, rounding), np.nan), vectors


@differentiable
def lyapunov(s: Any, g: Any) -> Any:
    """The X that solves S X + X S = G, for S symmetric with positive eigenvalues.

    X = D ((D^T G D)_ij / (l_i + l_j)) D^T, where S = D diag(l) D^T. With Z the solution for dX in place of G,
    dG = Z (the equation is its own adjoint) and dS = -(Z X^T + X^T Z).
    """
    if isinstance(s, Tensor) or isinstance(g, Tensor):  # the rule runs on tensors, for higher derivatives
        x: Any = lyapunov(s, g)
    else:
        values, d = _eigh(s)
        x = d @ ((_t(d) @ g @ d) / (values[..., :, None] + values[..., None, :])) @ _t(d)

    def pullback(dx: Any) -> Any:
        z = lyapunov(s, dx)
        return -(z @ _t(x) + _t(x) @ z), z

    return x, pullback


@differentiable
def inverse_sqrt(a: Any) -> Any:
    """B = A^(-1/2), for A symmetric with positive eigenvalues.

    Let S = A^(1/2). A change of A changes S by the solution of S dS + dS S = dA, and B = S^-1 by -B dS B. Backwards:
    dA = -X, where S X + X S = B dB B.
    """
    if isinstance(a, Tensor):
        b: Any = inverse_sqrt(a)
    else:
        values, d = _eigh(a)
        b = (d / np.sqrt(values)[..., None, :]) @ _t(d)
    return b, lambda db: -lyapunov(_symmetric(a @ b), b @ _symmetric(db) @ b)


@differentiable
def eigh(a: Any) -> Any:
    """Eigenvalues and eigenvectors of a symmetric matrix, as one array (..., d + 1, d).

    Row 0 holds the eigenvalues l, ascending; below are the eigenvectors D, a column each, with the sign that makes
    the largest component positive. dA = D (diag(dl) + F * (D^T dD)) D^T, made symmetric; F_ij = 1 / (l_j - l_i),
    and 0 for i = j.
    """
    if isinstance(a, Tensor):
        y: Any = eigh(a)
    else:
        values, d = _eigh(a)
        largest = np.take_along_axis(d, np.abs(d).argmax(axis=-2)[..., None, :], axis=-2)
        y = np.concatenate([values[..., None, :], d * np.sign(largest)], axis=-2)

    def pullback(dy: Any) -> Any:
        values, d = y[..., :1, :], y[..., 1:, :]
        same = np.eye(a.shape[-1], dtype=bool)
        f = np.where(same, 0, 1 / np.where(same, 1, values - _t(values)))
        inner = np.where(same, dy[..., :1, :], f * (_t(d) @ dy[..., 1:, :]))
        return _symmetric(d @ inner @ _t(d))

    return y, pullback


def pca_matrix(sigma: Any) -> Any:
    """W = diag(l)^(-1/2) D^T"""
    y = eigh(sigma)
    return _t(y[..., 1:, :] / np.sqrt(y[..., :1, :]))


MATRIX = {"zca": inverse_sqrt, "pca": pca_matrix}


def whiten_definition(x: Any, *, eps: float, method: str, track: Any = None) -> Any:
    d, m = x.shape[-2:]
    centered = x - x.mean(axis=-1, keepdims=True)
    centered = centered - centered.mean(axis=-1, keepdims=True)  # what rounding a large mean has left
    sigma = centered @ _t(centered) / m + eps * np.eye(d, dtype=x.dtype)
    return MATRIX[method](sigma) @ centered


@differentiable(definition=whiten_definition)
@one_thread
def whiten(x: Any, *, eps: float, method: str, track: Any = None) -> Any:
    """The features of x (..., d, m) whitened over m; computed in float64, also for float32.

    With C = X - mean:  dW = dY C^T,  dC = W^T dY + 2 dSigma C / m,  dX = dC - mean(dC). In between, dSigma is the
    gradient through W(Sigma), a small matrix: the engine itself is asked for it.
    track: None, or called with the mean and W.
    """
    d, m = x.shape[-2:]
    mean = x.mean(axis=-1, keepdims=True, dtype=np.float64)
    c = x - mean
    sigma = Tensor(c @ _t(c) / m + eps * np.eye(d), requires_grad=True)
    matrix = MATRIX[method](sigma)
    w = matrix.data
    if track is not None:
        track(mean[..., 0], w)

    def pullback(dy: Any) -> Any:
        dy = dy.astype(np.float64)
        (dsigma,) = grad(matrix, sigma, dy @ _t(c), retain_graph=True)
        dc = _t(w) @ dy + (2 / m) * dsigma @ c
        return (dc - dc.mean(axis=-1, keepdims=True)).astype(x.dtype)

    return (w @ c).astype(x.dtype), pullback


def grouped(x: Any, groups: int) -> Any:
    """(N, C, positions ...) as (groups, C / groups, N positions): the samples of each group's features as columns."""
    N, C = x.shape[:2]
    L = math.prod(x.shape[2:])
    return x.reshape(N, groups, C // groups, L).transpose(1, 2, 0, 3).reshape(groups, C // groups, N * L)


def ungrouped(y: Any, shape: tuple[int, ...]) -> Any:
    """The reverse of grouped, for the original shape."""
    groups, d, _ = y.shape
    L = math.prod(shape[2:])
    return y.reshape(groups, d, shape[0], L).transpose(2, 0, 1, 3).reshape(shape)


def apply_matrix(x: Any, mean: Array, matrix: Array) -> Any:
    """W (x - mean) with given constants of x's dtype, for x (groups, d, m) and mean (groups, d, 1)."""
    return matrix @ (x - mean)
