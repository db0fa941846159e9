"""The normalization family: one formula, one choice.

    y = gamma * x_hat + beta,    x_hat = (x - mean_S) / sqrt(var_S + eps)

The choice is the index set S over which mean and (biased) variance are taken, for an input (N, C, spatial ...):

    batch norm      one channel c:                 S = all n, all positions          Ioffe & Szegedy 2015
    layer norm      one sample n:                  S = the trailing axes             Ba, Kiros & Hinton 2016
    instance norm   one sample, one channel:       S = all positions                 Ulyanov et al. 2016
    group norm      one sample, C/G channels:      S = those channels, all positions Wu & He 2018
    RMS norm        as layer norm, but mean = 0:   x_hat = x / sqrt(mean(x^2) + eps) Zhang & Sennrich 2019

The gradient is one formula too. With g = gamma dy and averages over S of m elements,

    dx = (g - mean(g) - x_hat mean(g x_hat)) / sqrt(var + eps),   dgamma = sum(dy x_hat),   dbeta = sum(dy)

mean(g) is what the centering takes out, x_hat mean(g x_hat) what the scaling takes out. RMS norm has no centering,
so no mean(g); in eval mode batch norm's statistics are constants, so neither term appears.

Two memory layouts carry the family. Batch norm: a channel of (N, C, L). All others: contiguous rows, (N, G, J, L),
with statistics over the J channels of a group and their L positions; layer norm is G = 1, L = 1, instance norm J = 1.
Statistics are two-pass sums in float64, also for float32 input, and are kept in float64 for the backward. (Sums start
at np.float64(0): where the kernels run as plain Python, 0.0 plus a float32 would be a float32.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine import Array, differentiable
from ..jit import contiguous, kernel
from .shape import concatenate

# Layout 1: channels of (N, C, L). Loops over c run innermost where L = 1, so that memory is read in order; taking
# the row as a one-dimensional view first is what lets the compiler vectorize them (and one reshape per call, not per
# row, halves the time of a small batch).


@kernel
def channel_statistics(x, mean, var):  # type: ignore[no-untyped-def]
    """mean[c] and biased var[c] over n and l; mean and var are float64."""
    N, C, L = x.shape
    rows_x = x.reshape(N, C * L)
    m = max(N * L, 1)  # an empty batch has mean and variance 0
    mean[:] = 0
    var[:] = 0
    for n in range(N):
        if L == 1:
            row = rows_x[n]
            for c in range(C):
                mean[c] += row[c]
        else:
            for c in range(C):
                row = x[n, c]
                total = np.float64(0)
                for i in range(L):
                    total += row[i]
                mean[c] += total
    for c in range(C):
        mean[c] /= m
    for n in range(N):
        if L == 1:
            row = rows_x[n]
            for c in range(C):
                d = row[c] - mean[c]
                var[c] += d * d
        else:
            for c in range(C):
                row = x[n, c]
                center = mean[c]
                total = np.float64(0)
                for i in range(L):
                    d = row[i] - center
                    total += d * d
                var[c] += total
    for c in range(C):
        var[c] /= m


@kernel
def channel_normalize(x, mean, rstd, weight, bias, y):  # type: ignore[no-untyped-def]
    """y = weight[c] (x - mean[c]) rstd[c] + bias[c]"""
    N, C, L = x.shape
    rows_x, rows_y = x.reshape(N, C * L), y.reshape(N, C * L)
    for n in range(N):
        if L == 1:
            row, out = rows_x[n], rows_y[n]
            for c in range(C):
                out[c] = (row[c] - mean[c]) * rstd[c] * weight[c] + bias[c]
        else:
            for c in range(C):
                row, out = x[n, c], y[n, c]
                center, scale, shift = mean[c], rstd[c] * weight[c], bias[c]
                for i in range(L):
                    out[i] = (row[i] - center) * scale + shift


@kernel
def channel_sums(x, dy, mean, rstd, dweight, dbias):  # type: ignore[no-untyped-def]
    """dweight[c] = sum(dy x_hat), dbias[c] = sum(dy), in float64"""
    N, C, L = x.shape
    rows_x, rows_dy = x.reshape(N, C * L), dy.reshape(N, C * L)
    dweight[:] = 0
    dbias[:] = 0
    for n in range(N):
        if L == 1:
            row, grad = rows_x[n], rows_dy[n]
            for c in range(C):
                dbias[c] += grad[c]
                dweight[c] += grad[c] * (row[c] - mean[c])
        else:
            for c in range(C):
                row, grad = x[n, c], dy[n, c]
                center, s, t = mean[c], np.float64(0), np.float64(0)
                for i in range(L):
                    s += grad[i]
                    t += grad[i] * (row[i] - center)
                dbias[c] += s
                dweight[c] += t
    for c in range(C):
        dweight[c] *= rstd[c]


@kernel
def channel_backward(x, dy, mean, rstd, weight, mean_dy, mean_dy_xhat, dx):  # type: ignore[no-untyped-def]
    """dx = weight[c] rstd[c] (dy - mean_dy[c] - x_hat mean_dy_xhat[c])"""
    N, C, L = x.shape
    rows_x, rows_dy, rows_dx = x.reshape(N, C * L), dy.reshape(N, C * L), dx.reshape(N, C * L)
    for n in range(N):
        if L == 1:
            row, grad, out = rows_x[n], rows_dy[n], rows_dx[n]
            for c in range(C):
                xhat = (row[c] - mean[c]) * rstd[c]
                out[c] = weight[c] * rstd[c] * (grad[c] - mean_dy[c] - xhat * mean_dy_xhat[c])
        else:
            for c in range(C):
                row, grad, out = x[n, c], dy[n, c], dx[n, c]
                center, r, scale = mean[c], rstd[c], weight[c] * rstd[c]
                a, b = mean_dy[c], mean_dy_xhat[c]
                for i in range(L):
                    out[i] = scale * (grad[i] - a - (row[i] - center) * r * b)


# Layout 2: rows. x is (N, G, J, L); the row (n, g) has its own statistics, weight and bias are indexed by (g, j).


@kernel
def row_forward(x, weight, bias, eps, centered, mean, rstd, var, y):  # type: ignore[no-untyped-def]
    N, G, J, L = x.shape
    K = J * L
    for n in range(N):
        for g in range(G):
            row, out = x[n, g].reshape(K), y[n, g].reshape(K)
            total = np.float64(0)
            if centered:
                for i in range(K):
                    total += row[i]
                total /= K
            center = total
            total = np.float64(0)
            for i in range(K):
                d = row[i] - center
                total += d * d
            r = 1 / np.sqrt(total / K + eps)
            mean[n, g], var[n, g], rstd[n, g] = center, total / K, r
            if L == 1:
                w, b = weight[g], bias[g]
                for j in range(J):
                    out[j] = (row[j] - center) * r * w[j] + b[j]
            else:
                for j in range(J):
                    scale, shift = r * weight[g, j], bias[g, j]
                    for i in range(j * L, (j + 1) * L):
                        out[i] = (row[i] - center) * scale + shift


@kernel
def row_backward(x, dy, weight, centered, mean, rstd, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    N, G, J, L = x.shape
    K = J * L
    dweight[:] = 0
    dbias[:] = 0
    for n in range(N):
        for g in range(G):
            row, grad, out = x[n, g].reshape(K), dy[n, g].reshape(K), dx[n, g].reshape(K)
            center, r = mean[n, g], rstd[n, g]
            mean_g, mean_g_xhat = np.float64(0), np.float64(0)
            if L == 1:
                w, dw, db = weight[g], dweight[g], dbias[g]
                for j in range(J):
                    xhat = (row[j] - center) * r
                    db[j] += grad[j]
                    dw[j] += grad[j] * xhat
                    mean_g += grad[j] * w[j]
                    mean_g_xhat += grad[j] * w[j] * xhat
            else:
                for j in range(J):
                    s, t = np.float64(0), np.float64(0)
                    for i in range(j * L, (j + 1) * L):
                        s += grad[i]
                        t += grad[i] * (row[i] - center)
                    t *= r
                    dbias[g, j] += s
                    dweight[g, j] += t
                    mean_g += s * weight[g, j]
                    mean_g_xhat += t * weight[g, j]
            mean_g = mean_g / K if centered else 0.0
            mean_g_xhat /= K
            if L == 1:
                w = weight[g]
                for j in range(J):
                    out[j] = r * (grad[j] * w[j] - mean_g - (row[j] - center) * r * mean_g_xhat)
            else:
                for j in range(J):
                    scale = weight[g, j]
                    for i in range(j * L, (j + 1) * L):
                        out[i] = r * (grad[i] * scale - mean_g - (row[i] - center) * r * mean_g_xhat)


# The definitions: the formula above in primitives, once for all members


def normalize(x: Any, axes: tuple[int, ...], eps: float, centered: bool = True) -> Any:
    """x_hat over the index set S that these axes span."""
    if centered:
        x = x - x.mean(axis=axes, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)


def affine(x_hat: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """gamma x_hat + beta, with gamma and beta shaped so that they broadcast; either may be None."""
    if weight is not None:
        x_hat = x_hat * weight.reshape(shape)
    return x_hat if bias is None else x_hat + bias.reshape(shape)


def channel_shape(x: Any) -> tuple[int, ...]:
    """(1, C, 1, ...): a value per channel, ready to broadcast."""
    return (1, x.shape[1]) + (1,) * (x.ndim - 2)


def channel_norm_definition(
    x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float, keep: Any, parts: Any = None
) -> Any:
    shape = channel_shape(x)
    if mean is None:
        axes = (0, *range(2, x.ndim))
        x_hat = normalize(x, axes, eps) if parts is None else concatenate([normalize(x[p], axes, eps) for p in parts])
    else:
        rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
        x_hat = (x - mean.astype(x.dtype).reshape(shape)) * rstd.reshape(shape)
    return affine(x_hat, weight, bias, shape)


def row_norm_definition(x: Any, weight: Any, bias: Any, *, shape: Any, eps: float, centered: bool, keep: Any) -> Any:
    x_hat = normalize(x.reshape(shape), (2, 3), eps, centered)
    return affine(x_hat, weight, bias, (1, shape[1], shape[2], 1)).reshape(x.shape)


# The ops: allocate, call the kernels


def _affine(value: Any, n: int, default: float, dtype: Any) -> Array:
    return np.full(n, default, dtype) if value is None else contiguous(value)


@differentiable(definition=channel_norm_definition)
def channel_norm(
    x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float, keep: Any, parts: Any = None
) -> Any:
    """Normalize channels of (N, C, ...) with their own statistics, or with a given mean and var (constants, float64).

    parts: None, or slices of the samples, each of which has statistics of its own (ghost batches).
    keep: None, or a list to which (mean, var) of x are appended, a row per part.
    """
    shape = x.shape
    N, C = shape[:2]
    x = contiguous(x).reshape(N, C, math.prod(shape[2:]))
    gamma, beta = _affine(weight, C, 1, x.dtype), _affine(bias, C, 0, x.dtype)
    has_weight, has_bias = weight is not None, bias is not None
    parts = [slice(0, N)] if parts is None else parts
    own = mean is None
    if own:
        mean, var = np.empty((len(parts), C)), np.empty((len(parts), C))
        for k, part in enumerate(parts):
            channel_statistics(x[part], mean[k], var[k])
        if keep is not None:
            keep.append((mean, var))
    else:
        mean, var = mean.reshape(1, C), var.reshape(1, C)
    rstd = 1 / np.sqrt(var + eps)
    y = np.empty_like(x)
    for k, part in enumerate(parts):
        channel_normalize(x[part], mean[k], rstd[k], gamma, beta, y[part])

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(x.shape)
        dweight, dbias, dx = np.empty((len(parts), C)), np.empty((len(parts), C)), np.empty_like(x)
        for k, part in enumerate(parts):
            channel_sums(x[part], dy[part], mean[k], rstd[k], dweight[k], dbias[k])
            # given statistics are constants: neither mean term appears
            m = max((part.stop - part.start) * x.shape[2], 1) if own else math.inf
            channel_backward(x[part], dy[part], mean[k], rstd[k], gamma, dbias[k] / m, dweight[k] / m, dx[part])
        return (
            dx.reshape(shape),
            dweight.sum(axis=0).astype(x.dtype) if has_weight else None,
            dbias.sum(axis=0).astype(x.dtype) if has_bias else None,
        )

    return y.reshape(shape), pullback


@differentiable(definition=row_norm_definition)
def row_norm(x: Any, weight: Any, bias: Any, *, shape: Any, eps: float, centered: bool, keep: Any) -> Any:
    """Normalize the rows of x seen as shape (N, G, J, L) over (J, L). keep: None, or a list that gets (mean, var)."""
    given = x.shape
    N, G, J, _L = shape
    x = contiguous(x).reshape(shape)
    gamma = _affine(weight, G * J, 1, x.dtype).reshape(G, J)
    beta = _affine(bias, G * J, 0, x.dtype).reshape(G, J)
    weight_shape, bias_shape = None if weight is None else weight.shape, None if bias is None else bias.shape
    mean, rstd, var = np.empty((N, G)), np.empty((N, G)), np.empty((N, G))
    y = np.empty_like(x)
    row_forward(x, gamma, beta, eps, centered, mean, rstd, var, y)
    if keep is not None:
        keep.append((mean, var))

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(shape)
        dweight, dbias, dx = np.empty((G, J)), np.empty((G, J)), np.empty_like(x)
        row_backward(x, dy, gamma, centered, mean, rstd, dx, dweight, dbias)
        return (
            dx.reshape(given),
            None if weight_shape is None else dweight.astype(x.dtype).reshape(weight_shape),
            None if bias_shape is None else dbias.astype(x.dtype).reshape(bias_shape),
        )

    return y.reshape(given), pullback
