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
from ..jit import contiguous, elementwise, kernel
from ..threads import LARGE, for_each, spans
from .shape import concatenate

# What both layouts share: a run, contiguous positions that have one mean, one scale and one shift.
#
# Sums are float64. What is then done to each element is done in the array's own dtype, which is three times as fast in
# float32. A mean rounded to float32 would spoil x - mean where the mean is large; so what the rounding left over,
# times the scale, goes into the shift. These functions are compiled without leave to reorder sums.


@elementwise
def normalize_run(x, mean, scale, shift, y):  # type: ignore[no-untyped-def]
    """y = (x - mean) scale + shift"""
    real = x.dtype.type
    high, factor = real(mean), real(scale)
    rest = real(shift - (mean - high) * scale)
    for i in range(x.size):
        y[i] = (x[i] - high) * factor + rest


@elementwise
def backward_run(x, dy, mean, scale, shift, slope, dx):  # type: ignore[no-untyped-def]
    """dx = dy scale - shift - (x - mean) slope"""
    real = x.dtype.type
    high, factor, steep = real(mean), real(scale), real(slope)
    rest = real(shift - (mean - high) * slope)
    for i in range(x.size):
        dx[i] = dy[i] * factor - rest - (x[i] - high) * steep


@elementwise
def normalize_columns(x, high, scale, rest, y):  # type: ignore[no-untyped-def]
    """normalize_run where each element has a mean, scale and shift of its own."""
    for c in range(x.size):
        y[c] = (x[c] - high[c]) * scale[c] + rest[c]


@elementwise
def backward_columns(x, dy, high, scale, rest, slope, dx):  # type: ignore[no-untyped-def]
    for c in range(x.size):
        dx[c] = dy[c] * scale[c] - rest[c] - (x[c] - high[c]) * slope[c]


# Layout 1: channels of (N, C, L). Loops over c run innermost where L = 1, so that memory is read in order; taking the
# row as a one-dimensional view first is what lets the compiler vectorize them.


@kernel
def channel_sum(x, total):  # type: ignore[no-untyped-def]
    """total[c] = sum of x over n and l, in float64"""
    N, C, L = x.shape
    rows = x.reshape(N, C * L)
    total[:] = 0
    for n in range(N):
        if L == 1:
            row = rows[n]
            for c in range(C):
                total[c] += row[c]
        else:
            for c in range(C):
                run, s = x[n, c], np.float64(0)
                for i in range(L):
                    s += run[i]
                total[c] += s


@kernel
def channel_squares(x, mean, total):  # type: ignore[no-untyped-def]
    """total[c] = sum of (x - mean[c])^2, in float64"""
    N, C, L = x.shape
    rows = x.reshape(N, C * L)
    total[:] = 0
    for n in range(N):
        if L == 1:
            row = rows[n]
            for c in range(C):
                d = row[c] - mean[c]
                total[c] += d * d
        else:
            for c in range(C):
                run, center, s = x[n, c], mean[c], np.float64(0)
                for i in range(L):
                    d = run[i] - center
                    s += d * d
                total[c] += s


@kernel
def channel_normalize(x, weight, bias, mean, rstd, y):  # type: ignore[no-untyped-def]
    """y = weight[c] (x - mean[c]) rstd[c] + bias[c]"""
    N, C, L = x.shape
    if L == 1:
        rows, out = x.reshape(N, C), y.reshape(N, C)
        high, scale, rest = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            high[c], scale[c] = mean[c], rstd[c] * weight[c]
            rest[c] = bias[c] - (mean[c] - high[c]) * rstd[c] * weight[c]
        for n in range(N):
            normalize_columns(rows[n], high, scale, rest, out[n])
    else:
        for n in range(N):
            for c in range(C):
                normalize_run(x[n, c], mean[c], rstd[c] * weight[c], bias[c], y[n, c])


@kernel
def channel_sums(x, dy, mean, rstd, dweight, dbias):  # type: ignore[no-untyped-def]
    """dweight[c] = sum(dy x_hat), dbias[c] = sum(dy), in float64"""
    N, C, L = x.shape
    rows, rows_dy = x.reshape(N, C * L), dy.reshape(N, C * L)
    dweight[:] = 0
    dbias[:] = 0
    for n in range(N):
        if L == 1:
            row, grad = rows[n], rows_dy[n]
            for c in range(C):
                dbias[c] += grad[c]
                dweight[c] += grad[c] * (row[c] - mean[c])
        else:
            for c in range(C):
                run, grad = x[n, c], dy[n, c]
                center, s, t = mean[c], np.float64(0), np.float64(0)
                for i in range(L):
                    s += grad[i]
                    t += grad[i] * (run[i] - center)
                dbias[c] += s
                dweight[c] += t
    for c in range(C):
        dweight[c] *= rstd[c]


@kernel
def channel_dx(x, dy, weight, m, mean, rstd, dweight, dbias, dx):  # type: ignore[no-untyped-def]
    """dx = weight[c] rstd[c] (dy - dbias[c] / m - x_hat dweight[c] / m)

    m: the number of values per channel, or infinity where the statistics are constants: then neither mean appears.
    """
    N, C, L = x.shape
    if L == 1:
        rows, grads, out = x.reshape(N, C), dy.reshape(N, C), dx.reshape(N, C)
        work = np.empty((4, C), x.dtype)
        high, scale, rest, slope = work[0], work[1], work[2], work[3]
        for c in range(C):
            factor = weight[c] * rstd[c]
            steep = factor * rstd[c] * dweight[c] / m
            high[c], scale[c], slope[c] = mean[c], factor, steep
            rest[c] = dbias[c] / m * factor - (mean[c] - high[c]) * steep
        for n in range(N):
            backward_columns(rows[n], grads[n], high, scale, rest, slope, out[n])
    else:
        for n in range(N):
            for c in range(C):
                factor = weight[c] * rstd[c]
                steep = factor * rstd[c] * dweight[c] / m
                backward_run(x[n, c], dy[n, c], mean[c], factor, dbias[c] / m * factor, steep, dx[n, c])


@kernel
def channel_forward(x, weight, bias, eps, own, mean, var, rstd, y):  # type: ignore[no-untyped-def]
    """All of the forward in one call; own: take mean and (biased) var from x, else they are given."""
    N, C, L = x.shape
    if own:
        m = max(N * L, 1)  # an empty batch has mean and variance 0
        channel_sum(x, mean)
        for c in range(C):
            mean[c] /= m
        channel_squares(x, mean, var)
        for c in range(C):
            var[c] /= m
    for c in range(C):
        rstd[c] = 1 / np.sqrt(var[c] + eps)
    channel_normalize(x, weight, bias, mean, rstd, y)


@kernel
def channel_backward(x, dy, weight, m, mean, rstd, dweight, dbias, dx):  # type: ignore[no-untyped-def]
    channel_sums(x, dy, mean, rstd, dweight, dbias)
    channel_dx(x, dy, weight, m, mean, rstd, dweight, dbias, dx)


def large_forward(x: Array, weight: Array, bias: Array, eps: float, own: bool, *outputs: Array) -> None:
    """channel_forward for large arrays: the same steps, each over pieces of the samples, on several threads."""
    mean, var, rstd, y = outputs
    jobs = pieces(x)
    if own:
        m, totals = len(x) * x.shape[2], np.empty((len(jobs), len(mean)))
        for_each(lambda job: channel_sum(x[job[1]], totals[job[0]]), jobs)
        mean[:] = totals.sum(axis=0) / m
        for_each(lambda job: channel_squares(x[job[1]], mean, totals[job[0]]), jobs)
        var[:] = totals.sum(axis=0) / m
    rstd[:] = 1 / np.sqrt(var + eps)
    for_each(lambda job: channel_normalize(x[job[1]], weight, bias, mean, rstd, y[job[1]]), jobs)


def large_backward(x: Array, dy: Array, weight: Array, m: float, mean: Array, rstd: Array, *outputs: Array) -> None:
    """channel_backward for large arrays."""
    dweight, dbias, dx = outputs
    jobs = pieces(x)
    totals = np.empty((2, len(jobs), len(mean)))
    for_each(lambda job: channel_sums(x[job[1]], dy[job[1]], mean, rstd, *totals[:, job[0]]), jobs)
    dweight[:], dbias[:] = totals.sum(axis=1)
    for_each(lambda job: channel_dx(x[job[1]], dy[job[1]], weight, m, mean, rstd, dweight, dbias, dx[job[1]]), jobs)


def pieces(x: Array) -> list[tuple[int, slice]]:
    """(number, samples) of each piece of x."""
    return [(k, slice(*span)) for k, span in enumerate(spans(len(x), x[:1].size))]


# Layout 2: rows. x is (N, G, J, L); the row (n, g) has its own statistics, weight and bias are indexed by (g, j).


@elementwise
def normalize_row(x, mean, rstd, weight, bias, y):  # type: ignore[no-untyped-def]
    """y = weight (x - mean) rstd + bias, with a weight and a bias for each element"""
    real = x.dtype.type
    high = real(mean)
    low, scale = real(mean - high), real(rstd)
    for j in range(x.size):
        y[j] = (x[j] - high - low) * scale * weight[j] + bias[j]


@elementwise
def backward_row(x, dy, weight, mean, rstd, mean_g, slope, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    """dx = (dy weight - mean_g) rstd - (x - mean) slope; adds dy x_hat to dweight and dy to dbias, both float64"""
    real = x.dtype.type
    high = real(mean)
    low, scale, mean_g, slope = real(mean - high), real(rstd), real(mean_g), real(slope)
    for j in range(x.size):
        d = x[j] - high - low
        dx[j] = (dy[j] * weight[j] - mean_g) * scale - d * slope
        dweight[j] += np.float64(dy[j] * d * scale)
        dbias[j] += np.float64(dy[j])


@kernel
def row_forward(x, weight, bias, eps, centered, first, last, mean, rstd, var, y):  # type: ignore[no-untyped-def]
    _, G, J, L = x.shape
    K = J * L
    for n in range(first, last):
        for g in range(G):
            row = x[n, g].reshape(K)
            center = np.float64(0)
            if centered:
                for i in range(K):
                    center += row[i]
                center /= K
            total = np.float64(0)
            for i in range(K):
                d = row[i] - center
                total += d * d
            r = 1 / np.sqrt(total / K + eps)
            mean[n, g], var[n, g], rstd[n, g] = center, total / K, r
            if L == 1:
                normalize_row(row, center, r, weight[g], bias[g], y[n, g].reshape(K))
            else:
                for j in range(J):
                    normalize_run(x[n, g, j], center, r * weight[g, j], bias[g, j], y[n, g, j])


@kernel
def row_backward(x, dy, weight, centered, first, last, mean, rstd, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    _, G, J, L = x.shape
    K = J * L
    dweight[:] = 0
    dbias[:] = 0
    for n in range(first, last):
        for g in range(G):
            center, r = mean[n, g], rstd[n, g]
            mean_g, mean_g_xhat = np.float64(0), np.float64(0)
            if L == 1:
                row, grad, w = x[n, g].reshape(K), dy[n, g].reshape(K), weight[g]
                for j in range(J):
                    v = np.float64(grad[j] * w[j])
                    mean_g += v
                    mean_g_xhat += v * (row[j] - center)
                mean_g_xhat *= r
            else:
                for j in range(J):
                    run, grad = x[n, g, j], dy[n, g, j]
                    s, t = np.float64(0), np.float64(0)
                    for i in range(L):
                        s += grad[i]
                        t += grad[i] * (run[i] - center)
                    t *= r
                    dbias[g, j] += s
                    dweight[g, j] += t
                    mean_g += s * weight[g, j]
                    mean_g_xhat += t * weight[g, j]
            mean_g = mean_g / K if centered else 0.0
            slope = r * r * mean_g_xhat / K
            if L == 1:
                backward_row(row, grad, weight[g], center, r, mean_g, slope, dx[n, g].reshape(K), dweight[g], dbias[g])
            else:
                for j in range(J):
                    scale = r * weight[g, j]
                    backward_run(x[n, g, j], dy[n, g, j], center, scale, r * mean_g, slope, dx[n, g, j])


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


def _total(parts: Array, dtype: Any) -> Array:
    """The sum over the first axis, in this dtype."""
    return (parts[0] if len(parts) == 1 else parts.sum(axis=0)).astype(dtype)


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
    else:
        mean, var = mean.reshape(1, C), var.reshape(1, C)
    rstd, y = np.empty((len(parts), C)), np.empty_like(x)
    small = x.size < LARGE
    for k, p in enumerate(parts):
        (channel_forward if small else large_forward)(x[p], gamma, beta, eps, own, mean[k], var[k], rstd[k], y[p])
    if own and keep is not None:
        keep.append((mean, var))

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(x.shape)
        dweight, dbias, dx = np.empty((len(parts), C)), np.empty((len(parts), C)), np.empty_like(x)
        for k, p in enumerate(parts):
            m = float(max((p.stop - p.start) * x.shape[2], 1)) if own else math.inf  # given statistics are constants
            backward = channel_backward if small else large_backward
            backward(x[p], dy[p], gamma, m, mean[k], rstd[k], dweight[k], dbias[k], dx[p])
        return (
            dx.reshape(shape),
            _total(dweight, x.dtype) if has_weight else None,
            _total(dbias, x.dtype) if has_bias else None,
        )

    return y.reshape(shape), pullback


@differentiable(definition=row_norm_definition)
def row_norm(x: Any, weight: Any, bias: Any, *, shape: Any, eps: float, centered: bool, keep: Any) -> Any:
    """Normalize the rows of x seen as shape (N, G, J, L) over (J, L). keep: None, or a list that gets (mean, var)."""
    given = x.shape
    N, G, J, L = shape
    x = contiguous(x).reshape(shape)
    gamma = _affine(weight, G * J, 1, x.dtype).reshape(G, J)
    beta = _affine(bias, G * J, 0, x.dtype).reshape(G, J)
    weight_shape, bias_shape = None if weight is None else weight.shape, None if bias is None else bias.shape
    mean, rstd, var = np.empty((N, G)), np.empty((N, G)), np.empty((N, G))
    y = np.empty_like(x)
    jobs = list(enumerate(spans(N, G * J * L)))
    for_each(lambda job: row_forward(x, gamma, beta, eps, centered, *job[1], mean, rstd, var, y), jobs)
    if keep is not None:
        keep.append((mean, var))

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(shape)
        dweight, dbias, dx = np.empty((len(jobs), G, J)), np.empty((len(jobs), G, J)), np.empty_like(x)

        def backward(job: Any) -> None:
            k, span = job
            row_backward(x, dy, gamma, centered, *span, mean, rstd, dx, dweight[k], dbias[k])

        for_each(backward, jobs)
        return (
            dx.reshape(given),
            None if weight_shape is None else _total(dweight, x.dtype).reshape(weight_shape),
            None if bias_shape is None else _total(dbias, x.dtype).reshape(bias_shape),
        )

    return y.reshape(given), pullback
