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

from ..checks import Array
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel, part, part_as_written
from ..runtime.threads import LARGE, for_each, spans
from .shape import concatenate

# What both layouts share: a run, contiguous positions that have one mean, one scale and one shift.
#
# Sums are float64, and so is what is then done to each element: mean and scale are float64, so x - mean is too,
# and a float32 result is rounded once, at the end. It is the exact one up to half a unit in its last place, whatever
# the mean, and where the terms of dx cancel (docs/accuracy.md). In float32 every step would round, and save only a few
# percent of the time.
#
# These functions are compiled without leave to reorder sums, or to multiply by 1 / m instead of dividing by m.


@part_as_written
def ratio(total, m):
    """total / m, rounded once: the mean of m equal values is that value, and what is left of them is exactly 0."""
    return total / m


@part_as_written
def normalize_run(x, mean, scale, shift, y):
    """y = (x - mean) scale + shift"""
    for i in range(x.size):
        y[i] = (x[i] - mean) * scale + shift


@part_as_written
def backward_run(x, dy, mean, scale, shift, slope, dx):
    """dx = dy scale - shift - (x - mean) slope"""
    for i in range(x.size):
        dx[i] = dy[i] * scale - shift - (x[i] - mean) * slope


@part_as_written
def normalize_columns(x, mean, scale, shift, y):
    """normalize_run where each element has a mean, scale and shift of its own."""
    for c in range(x.size):
        y[c] = (x[c] - mean[c]) * scale[c] + shift[c]


@part_as_written
def backward_columns(x, dy, mean, scale, shift, slope, dx):
    for c in range(x.size):
        dx[c] = dy[c] * scale[c] - shift[c] - (x[c] - mean[c]) * slope[c]


# Layout 1: channels of (N, C, L). Loops over c run innermost where L = 1, so that memory is read in order; taking the
# row as a one-dimensional view first is what lets the compiler vectorize them.


@part
def channel_sum(x, total):
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


@part
def channel_squares(x, mean, total):
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


@part
def channel_normalize(x, weight, bias, mean, rstd, y):
    """y = weight[c] (x - mean[c]) rstd[c] + bias[c]"""
    N, C, L = x.shape
    if L == 1:
        rows, out = x.reshape(N, C), y.reshape(N, C)
        scale, shift = np.empty(C), np.empty(C)
        for c in range(C):
            scale[c], shift[c] = rstd[c] * weight[c], bias[c]
        for n in range(N):
            normalize_columns(rows[n], mean, scale, shift, out[n])
    else:
        for n in range(N):
            for c in range(C):
                normalize_run(x[n, c], mean[c], rstd[c] * weight[c], bias[c], y[n, c])


@part
def channel_sums(x, dy, mean, rstd, dweight, dbias):
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


@part
def channel_dx(x, dy, weight, m, mean, rstd, dweight, dbias, dx):
    """dx = weight[c] rstd[c] (dy - dbias[c] / m - x_hat dweight[c] / m), m the number of values per channel"""
    N, C, L = x.shape
    if L == 1:
        rows, grads, out = x.reshape(N, C), dy.reshape(N, C), dx.reshape(N, C)
        scale, shift, slope = np.empty(C), np.empty(C), np.empty(C)
        for c in range(C):
            scale[c] = weight[c] * rstd[c]
            shift[c] = dbias[c] / m * scale[c]
            slope[c] = scale[c] * rstd[c] * dweight[c] / m
        for n in range(N):
            backward_columns(rows[n], grads[n], mean, scale, shift, slope, out[n])
    else:
        for n in range(N):
            for c in range(C):
                factor = weight[c] * rstd[c]  # scale and slope of the one channel: to Numba a name has one type
                steep = factor * rstd[c] * dweight[c] / m
                backward_run(x[n, c], dy[n, c], mean[c], factor, dbias[c] / m * factor, steep, dx[n, c])


@part
def channel_scale(dy, weight, rstd, dx):
    """dx = weight[c] rstd[c] dy, where the statistics are constants"""
    N, C, L = dy.shape
    if L == 1:
        rows, out, factors = dy.reshape(N, C), dx.reshape(N, C), np.empty(C)
        for c in range(C):
            factors[c] = weight[c] * rstd[c]
        for n in range(N):
            row, result = rows[n], out[n]
            for c in range(C):
                result[c] = row[c] * factors[c]
    else:
        for n in range(N):
            for c in range(C):
                run, result, factor = dy[n, c], dx[n, c], weight[c] * rstd[c]
                for i in range(L):
                    result[i] = run[i] * factor


@kernel
def channel_forward(x, edges, weight, bias, eps, own, stats, y):
    """All of the forward in one call; own: take mean and (biased) var from x, else they are given.

    Part k of the samples lies between edges k and k + 1; stats[:, k] are its mean, var and rstd.
    """
    for k in range(edges.size - 1):
        samples, out = x[edges[k] : edges[k + 1]], y[edges[k] : edges[k + 1]]
        mean, var, rstd = stats[0, k], stats[1, k], stats[2, k]
        N, C, L = samples.shape
        if own:
            m = max(N * L, 1)  # an empty batch has mean and variance 0
            channel_sum(samples, mean)
            for c in range(C):
                mean[c] = ratio(mean[c], m)
            channel_squares(samples, mean, var)
            for c in range(C):
                var[c] /= m
        for c in range(C):
            rstd[c] = 1 / np.sqrt(var[c] + eps)
        channel_normalize(samples, weight, bias, mean, rstd, out)  # (4), (5) of docs/2-batch-norm.md


@kernel
def channel_backward(x, dy, edges, weight, own, stats, dweight, dbias, dx):
    _, C, L = x.shape
    sums, part_sums = np.zeros((2, C)), np.empty((2, C))
    for k in range(edges.size - 1):
        samples, grads, out = x[edges[k] : edges[k + 1]], dy[edges[k] : edges[k + 1]], dx[edges[k] : edges[k + 1]]
        mean, rstd = stats[0, k], stats[2, k]
        channel_sums(samples, grads, mean, rstd, part_sums[0], part_sums[1])
        if own:
            m = float(max(len(samples) * L, 1))
            channel_dx(samples, grads, weight, m, mean, rstd, part_sums[0], part_sums[1], out)
        else:  # an infinite dy or x stays in its place
            channel_scale(grads, weight, rstd, out)
        for c in range(C):
            sums[0, c] += part_sums[0, c]
            sums[1, c] += part_sums[1, c]
    for c in range(C):
        dweight[c], dbias[c] = sums[0, c], sums[1, c]


def large_forward(x: Array, edges: Array, weight: Array, bias: Array, eps: float, own: bool, *outputs: Array) -> None:
    """channel_forward for large arrays: the same steps, each over pieces of the samples, on several threads."""
    all_stats, all_y = outputs
    for k, p in parts_between(edges):
        samples, y, (mean, var, rstd) = x[p], all_y[p], all_stats[:, k]
        jobs = pieces(samples)
        if own:
            m, totals = len(samples) * x.shape[2], np.empty((len(jobs), len(mean)))
            for_each(lambda job: channel_sum(samples[job[1]], totals[job[0]]), jobs)  # noqa: B023 (called at once)
            mean[:] = totals.sum(axis=0) / m
            for_each(lambda job: channel_squares(samples[job[1]], mean, totals[job[0]]), jobs)  # noqa: B023
            var[:] = totals.sum(axis=0) / m
        rstd[:] = 1 / np.sqrt(var + eps)
        for_each(lambda job: channel_normalize(samples[job[1]], weight, bias, mean, rstd, y[job[1]]), jobs)  # noqa: B023


def large_backward(x: Array, dy: Array, edges: Array, weight: Array, own: bool, *arrays: Array) -> None:
    """channel_backward for large arrays."""
    all_stats, dweight, dbias, all_dx = arrays
    sums = np.empty((2, len(edges) - 1, x.shape[1]))
    for k, p in parts_between(edges):
        samples, grads, dx, (mean, _, rstd) = x[p], dy[p], all_dx[p], all_stats[:, k]
        jobs, (dgamma, dbeta) = pieces(samples), sums[:, k]
        totals, m = np.empty((2, len(jobs), len(mean))), float(samples[:, 0].size)
        for_each(lambda job: channel_sums(samples[job[1]], grads[job[1]], mean, rstd, *totals[:, job[0]]), jobs)  # noqa: B023
        dgamma[:], dbeta[:] = totals.sum(axis=1)

        def backward(job: Any) -> None:
            q = job[1]
            if own:
                channel_dx(samples[q], grads[q], weight, m, mean, rstd, dgamma, dbeta, dx[q])  # noqa: B023
            else:  # an infinite dy or x stays in its place
                channel_scale(grads[q], weight, rstd, dx[q])  # noqa: B023

        for_each(backward, jobs)
    dweight[:], dbias[:] = sums.sum(axis=1)


def parts_between(edges: Array) -> list[tuple[int, slice]]:
    """(number, samples) of each part."""
    return [(k, slice(*edges[k : k + 2])) for k in range(len(edges) - 1)]


def pieces(x: Array) -> list[tuple[int, slice]]:
    """(number, samples) of each piece of x."""
    return [(k, slice(*span)) for k, span in enumerate(spans(len(x), x[:1].size))]


# Layout 2: rows. x is (N, G, J, L); the row (n, g) has its own statistics, weight and bias are indexed by (g, j).
# d is x - mean of one row in float64: the sums need it, and what follows needs it once more. Its own mean is 0.
#
# A loop that sums writes no array. Where one array is written and another read, the compiler asks at run time whether
# they lie too close to each other in memory, and then takes the loop that is not vectorized: it adds in another order,
# and the last bits would depend on where arrays happen to lie.


@part_as_written
def normalize_row(d, rstd, weight, bias, y):
    """y = weight d rstd + bias, with a weight and a bias for each element"""
    for j in range(d.size):
        y[j] = d[j] * rstd * weight[j] + bias[j]


@part_as_written
def backward_row(d, dy, weight, rstd, mean_g, slope, dx, dweight, dbias):
    """dx = (dy weight - mean_g) rstd - d slope; adds dy x_hat to dweight and dy to dbias, both float64"""
    for j in range(d.size):
        grad = np.float64(dy[j])
        dx[j] = (grad * weight[j] - mean_g) * rstd - d[j] * slope
        dweight[j] += grad * d[j] * rstd
        dbias[j] += grad


@kernel
def row_forward(x, weight, bias, eps, centered, first, last, stats, y):
    """stats are the mean, var and rstd of each row."""
    _, G, J, L = x.shape
    K = J * L
    d = np.empty(K)
    for n in range(first, last):
        for g in range(G):
            row = x[n, g].reshape(K)
            center = np.float64(0)
            if centered:
                for i in range(K):
                    center += row[i]
                center = ratio(center, K)
            total = np.float64(0)
            for i in range(K):
                d[i] = row[i] - center
            for i in range(K):  # by itself: a loop that sums must not write, see above
                total += d[i] * d[i]
            r = 1 / np.sqrt(total / K + eps)
            stats[0, n, g], stats[1, n, g], stats[2, n, g] = center, total / K, r
            if L == 1:
                normalize_row(d, r, weight[g], bias[g], y[n, g].reshape(K))
            else:
                for j in range(J):
                    normalize_run(d[j * L : j * L + L], 0.0, r * weight[g, j], bias[g, j], y[n, g, j])


@kernel
def row_backward(x, dy, weight, centered, first, last, stats, dx, sums):
    """sums become dweight and dbias."""
    _, G, J, L = x.shape
    K = J * L
    d = np.empty(K)
    sums[:] = 0
    dweight, dbias = sums[0], sums[1]
    for n in range(first, last):
        for g in range(G):
            center, r = stats[0, n, g], stats[2, n, g]
            mean_g, mean_g_xhat = np.float64(0), np.float64(0)
            if L == 1:
                row, grad, w = x[n, g].reshape(K), dy[n, g].reshape(K), weight[g]
                for j in range(J):
                    d[j] = row[j] - center
                for j in range(J):
                    v = np.float64(grad[j]) * w[j]
                    mean_g += v
                    mean_g_xhat += v * d[j]
                mean_g_xhat *= r
            else:
                for j in range(J):
                    run, grad, d_run = x[n, g, j], dy[n, g, j], d[j * L : j * L + L]
                    s, t = np.float64(0), np.float64(0)
                    for i in range(L):
                        d_run[i] = run[i] - center
                    for i in range(L):
                        s += grad[i]
                        t += grad[i] * d_run[i]
                    t *= r
                    dbias[g, j] += s
                    dweight[g, j] += t
                    mean_g += s * weight[g, j]
                    mean_g_xhat += t * weight[g, j]
            mean_g = mean_g / K if centered else 0.0  # type: ignore[assignment]  # to Numba it is a float64
            slope = r * r * mean_g_xhat / K
            if L == 1:
                backward_row(d, grad, w, r, mean_g, slope, dx[n, g].reshape(K), dweight[g], dbias[g])
            else:
                for j in range(J):
                    scale = r * weight[g, j]
                    backward_run(d[j * L : j * L + L], dy[n, g, j], 0.0, scale, r * mean_g, slope, dx[n, g, j])


# The definitions: the formula above in primitives, once for all members


def normalize(x: Any, axes: tuple[int, ...], eps: float, centered: bool = True) -> Any:
    """x_hat over the index set S that these axes span."""
    if centered:
        x = x - x.mean(axis=axes, keepdims=True)
        x = x - x.mean(axis=axes, keepdims=True)  # what rounding a large mean has left
    return x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)


def affine(x_hat: Tensor, weight: Tensor | Array | None, bias: Tensor | Array | None, shape: tuple[int, ...]) -> Tensor:
    """gamma x_hat + beta, with gamma and beta shaped so that they broadcast; either may be None."""
    if weight is not None:
        x_hat = x_hat * weight.reshape(shape)
    return x_hat if bias is None else x_hat + bias.reshape(shape)


def channel_shape(x: Any) -> tuple[int, ...]:
    """(1, C, 1, ...): a value per channel, ready to broadcast."""
    return 1, x.shape[1], *(1,) * (x.ndim - 2)


def channel_norm_definition(
    x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float, track: Any = None, parts: Any = None
) -> Any:
    shape = channel_shape(x)
    if mean is None:
        axes = (0, *range(2, x.ndim))
        x_hat = normalize(x, axes, eps) if parts is None else concatenate([normalize(x[p], axes, eps) for p in parts])
    else:
        rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
        high = mean.astype(x.dtype)  # the mean in two parts, or rounding a large one would show
        with np.errstate(invalid="ignore"):  # an infinite one has no second part
            low = np.where(np.isfinite(mean), mean - high, 0).astype(x.dtype)
        x_hat = (x - high.reshape(shape) - low.reshape(shape)) * rstd.reshape(shape)
    return affine(x_hat, weight, bias, shape)


def row_norm_definition(
    x: Any, weight: Any, bias: Any, *, shape: Any, eps: float, centered: bool, track: Any = None
) -> Any:
    x_hat = normalize(x.reshape(shape), (2, 3), eps, centered)
    return affine(x_hat, weight, bias, (1, shape[1], shape[2], 1)).reshape(x.shape)


# The ops: allocate, call the kernels


def _or_default(value: Any, n: int, default: float, dtype: Any) -> Array:
    return np.full(n, default, dtype) if value is None else contiguous(value)


@differentiable(definition=channel_norm_definition)
def channel_norm(
    x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float, track: Any = None, parts: Any = None
) -> Any:
    """Normalize channels of (N, C, ...) with their own statistics, or with a given mean and var (constants, float64).

    parts: None, or slices of the samples, each of which has statistics of its own (ghost batches).
    track: called with the mean and the biased variance of x, a row per part; None (default) with nothing.
    """
    shape = x.shape
    N, C = shape[:2]
    x = contiguous(x).reshape(N, C, math.prod(shape[2:]))
    gamma, beta = _or_default(weight, C, 1, x.dtype), _or_default(bias, C, 0, x.dtype)
    has_weight, has_bias, own, small = weight is not None, bias is not None, mean is None, x.size < LARGE
    edges = np.array([0, N] if parts is None else [0, *(p.stop for p in parts)])
    stats, y = np.empty((3, len(edges) - 1, C)), np.empty_like(x)  # mean, var and rstd of each part
    if not own:
        stats[0], stats[1] = mean, var
    (channel_forward if small else large_forward)(x, edges, gamma, beta, eps, own, stats, y)
    if own and track is not None:
        track(stats[0], stats[1])

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(x.shape)
        dweight, dbias, dx = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty_like(x)
        (channel_backward if small else large_backward)(x, dy, edges, gamma, own, stats, dweight, dbias, dx)
        return dx.reshape(shape), dweight if has_weight else None, dbias if has_bias else None

    return y.reshape(shape), pullback


@differentiable(definition=row_norm_definition)
def row_norm(x: Any, weight: Any, bias: Any, *, shape: Any, eps: float, centered: bool, track: Any = None) -> Any:
    """Normalize the rows of x seen as shape (N, G, J, L) over (J, L). track: None, or called with mean and var."""
    given = x.shape
    N, G, J, L = shape
    x = contiguous(x).reshape(shape)
    gamma = _or_default(weight, G * J, 1, x.dtype).reshape(G, J)
    beta = _or_default(bias, G * J, 0, x.dtype).reshape(G, J)
    weight_shape, bias_shape = None if weight is None else weight.shape, None if bias is None else bias.shape
    stats, y = np.empty((3, N, G)), np.empty_like(x)  # mean, var and rstd of each row
    jobs = list(enumerate(spans(N, G * J * L)))
    if len(jobs) == 1:
        row_forward(x, gamma, beta, eps, centered, 0, N, stats, y)
    else:
        for_each(lambda job: row_forward(x, gamma, beta, eps, centered, *job[1], stats, y), jobs)
    if track is not None:
        track(stats[0], stats[1])

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(shape)
        sums, dx = np.empty((len(jobs), 2, G, J)), np.empty_like(x)  # dweight and dbias of each piece
        for_each(lambda job: row_backward(x, dy, gamma, centered, *job[1], stats, dx, sums[job[0]]), jobs)
        dweight, dbias = (total.astype(x.dtype) for total in (sums[0] if len(jobs) == 1 else sums.sum(axis=0)))
        return (
            dx.reshape(given),
            None if weight_shape is None else dweight.reshape(weight_shape),
            None if bias_shape is None else dbias.reshape(bias_shape),
        )

    return y.reshape(given), pullback
