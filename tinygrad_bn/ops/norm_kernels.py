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

Elements are computed in x's own width, statistics are float64. What keeps the digits of float32 (docs/accuracy.md):
- x - mean comes first, before anything is summed or scaled. The mean is two numbers, high of x's width and low, what
  is left of it: x - high is exact where the two are close, and low goes into a constant of the loop (``fold``).
- Sums are of x's width within a block, of float64 over the blocks; sums of squares are float64.
- Squares are of x - c, with any c near the mean: mean = c + mean(d), var = mean(d^2) - mean(d)^2 for d = x - c (Chan,
  Golub & LeVeque 1983).
- Where float32 could not hold the squares, float64 does (``usual``).
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

BLOCK = 512  # elements of a run that are summed in x's width
ROWS = 64  # rows of a table, the same for each column

# What both layouts share, for a run: contiguous positions that have one mean, one scale and one shift.
#
# These loops go over slices from their first element on: of row[i], i from 7 on, Numba must allow for an index counted
# from the end, and the compiler does not see neighbours. Before a loop that writes, the machine looks whether the
# arrays lie too close to each other, and then takes the loop that is not vectorized, which adds in another order: so a
# loop that sums along a run writes no array, or its last bits would depend on where arrays happen to lie.


@part_as_written
def ratio(total, m):
    """total / m, rounded once: the mean of m equal values is that value, and what is left of them is exactly 0."""
    return total / m


@part_as_written
def minus(a, b):
    """a - b, in a loop that may be reordered: sum(x - c) must not become sum(x) - sum(c)."""
    return a - b


@part_as_written
def scaled(x, c, scale):
    """(x - c) scale, before it is multiplied by anything: dy (x - c) alone may be too large or small for x's width."""
    return (x - c) * scale


@part_as_written
def fold(mean, scale, shift, x):
    """high and shift such that (x - mean) scale + shift is (x - high) scale + shift, with high of x's width."""
    high = x.dtype.type(mean)
    low = mean - high
    if low == low and low != 0:  # of an infinite mean nothing is left
        shift = shift - low * scale
    return high, shift


@part
def usual(var, rstd, x):
    """Whether x's width can hold the squares of what has this spread; float64 is as wide as it gets."""
    return x.itemsize == 8 or (1e-10 < rstd < 1e10 and not 0 < var < 1e-20)


@part
def beyond(var, rstd, x):
    """Whether float64 is needed, once the statistics are there: a NaN is one in any width."""
    return rstd == rstd and not usual(var, rstd, x)


@part
def finite(x, c):
    """Whether channel c has no inf and no NaN. Where it has, everything is NaN, in any width."""
    for n in range(len(x)):
        run = x[n, c]
        for i in range(run.size):
            if not abs(run[i]) < np.inf:
                return False
    return True


@part
def vanished(var, x, c):
    """Whether a variance of 0 is that of squares too small for x's width: elements of channel c differ."""
    if var > 0 or x.itemsize == 8 or x.size == 0:
        return False
    first = x[0, c, 0]
    for n in range(len(x)):
        run = x[n, c]
        for i in range(run.size):
            if run[i] != first:
                return True
    return False


@part
def run_sum(x):
    total = np.float64(0)
    for i in range(0, x.size, BLOCK):
        block, s = x[i : i + BLOCK], x.dtype.type(0)
        for j in range(block.size):
            s += block[j]
        total += s
    return total


@part
def run_moments(x, c):
    """sum(x - c) and sum((x - c)^2), squares in float64: beside one large square, equal small ones all round alike"""
    first, second = np.float64(0), np.float64(0)
    for i in range(0, x.size, BLOCK):
        block, s, t = x[i : i + BLOCK], x.dtype.type(0), np.float64(0)
        for j in range(block.size):
            d = minus(block[j], c)
            s += d
            t += d * d
        first += s
        second += t
    return first, second


@part
def run_products(x, dy, c, scale):
    """sum(dy) and sum(dy (x - c) scale)"""
    first, second = np.float64(0), np.float64(0)
    for i in range(0, x.size, BLOCK):
        block, grad, s, t = x[i : i + BLOCK], dy[i : i + BLOCK], x.dtype.type(0), x.dtype.type(0)
        for j in range(block.size):
            s += grad[j]
            t += grad[j] * scaled(block[j], c, scale)
        first += s
        second += t
    return first, second


@part
def weighted_products(x, dy, weight, c, scale):
    """sum(g) and sum(g (x - c) scale) for g = dy weight, with a weight for each element"""
    first, second = np.float64(0), np.float64(0)
    for i in range(0, x.size, BLOCK):
        block, grad, w = x[i : i + BLOCK], dy[i : i + BLOCK], weight[i : i + BLOCK]
        s, t = x.dtype.type(0), x.dtype.type(0)
        for j in range(block.size):
            g = grad[j] * w[j]
            s += g
            t += g * scaled(block[j], c, scale)
        first += s
        second += t
    return first, second


@part
def about_mean(first, second, m):
    """How far the mean is from c, and sum((x - mean)^2), of sum(x - c) and sum((x - c)^2)."""
    off = ratio(first, m)
    return off, max(second - off * first, 0.0) if second < np.inf else second


@part
def moments(x):
    """The mean, and the sum of the squared deviations from it."""
    c = x.dtype.type(ratio(run_sum(x), x.size))
    first, second = run_moments(x, c)
    off, square = about_mean(first, second, x.size)
    return c + off, square


@part_as_written
def normalize_run(x, mean, scale, shift, y):
    """y = (x - mean) scale + shift"""
    high, shift = fold(mean, scale, shift, x)
    a, b = x.dtype.type(scale), x.dtype.type(shift)
    for i in range(x.size):
        y[i] = (x[i] - high) * a + b


@part_as_written
def backward_run(x, dy, mean, rstd, scale, shift, slope, dx):
    """dx = dy scale - x_hat slope - shift; x_hat first, for rstd^2 alone may be too large or small for x's width"""
    high, shift = fold(mean, rstd * slope, shift, x)
    r, a, b, c = x.dtype.type(rstd), x.dtype.type(scale), x.dtype.type(slope), x.dtype.type(shift)
    for i in range(x.size):
        dx[i] = dy[i] * a - (x[i] - high) * r * b - c


# Layout 1: channels of (N, C, L). Where L = 1 it is a table, and loops over c run innermost, so that memory is read in
# order: each column has a mean, scale and shift of its own.


@part_as_written
def normalize_columns(x, high, scale, shift, y):
    for c in range(x.size):
        y[c] = (x[c] - high[c]) * scale[c] + shift[c]


@part_as_written
def backward_columns(x, dy, high, rstd, scale, shift, slope, dx):
    for c in range(x.size):
        dx[c] = dy[c] * scale[c] - (x[c] - high[c]) * rstd[c] * slope[c] - shift[c]


@part
def add_moments(row, center, first, second):
    """first[c] += x - center[c], second[c] += (x - center[c])^2; second is float64, as in run_moments"""
    for c in range(row.size):
        d = minus(row[c], center[c])
        first[c] += d
        second[c] += d * d


@part
def channel_centers(x, center):
    """About the mean of each channel; x: some rows of a table, or one sample with positions."""
    N, C, L = x.shape
    center[:] = 0
    if L == 1:
        rows = x.reshape(N, C)
        for n in range(N):
            row = rows[n]
            for c in range(C):
                center[c] += row[c]
        for c in range(C):
            center[c] = ratio(np.float64(center[c]), N)
    else:
        for c in range(C):
            center[c] = ratio(run_sum(x[0, c]), L)


@part
def moments_about(x, center, mean, square):
    """moments of each channel, by way of those about a center; x: as channel_centers."""
    N, C, L = x.shape
    if L == 1:
        rows, first, second = x.reshape(N, C), np.zeros(C, x.dtype), np.zeros(C)
        for n in range(N):
            add_moments(rows[n], center, first, second)
        for c in range(C):
            mean[c], square[c] = first[c], second[c]
    else:
        for c in range(C):
            mean[c], square[c] = run_moments(x[0, c], center[c])
    for c in range(C):
        off, square[c] = about_mean(mean[c], square[c], N * L)
        mean[c] = center[c] + off


@part
def merge(count, mean, square, more, others_mean, others_square):
    """mean and square of count values become those of them and of more values, per channel (Chan's formula)."""
    share = more / (count + more)
    for c in range(mean.size):
        if count == 0:  # nothing to merge with; and the square of another mean may be infinite
            mean[c], square[c] = others_mean[c], others_square[c]
        else:
            apart = others_mean[c] - mean[c]
            square[c] += others_square[c] + apart * apart * count * share
            mean[c] += apart * share


@part
def channel_moments(x, mean, square):
    """moments of each channel, in one reading of x: some rows at a time, or a sample, about the mean of those before.

    Where that is far from their own, what rounding takes is little beside the cross term of ``merge``.
    """
    N, C, L = x.shape
    center, some_mean, some_square = np.empty(C, x.dtype), np.empty(C), np.empty(C)
    mean[:] = 0
    square[:] = 0
    step = ROWS if L == 1 else 1
    for n in range(0, N if L > 0 else 0, step):
        some = x[n : n + step]
        if n == 0:
            channel_centers(some, center)
        else:
            for c in range(C):
                center[c] = mean[c]
        moments_about(some, center, some_mean, some_square)
        merge(np.float64(n * L), mean, square, np.float64(len(some) * L), some_mean, some_square)


@part
def channel_normalize(x, weight, bias, mean, rstd, y):
    """y = weight[c] (x - mean[c]) rstd[c] + bias[c]"""
    N, C, L = x.shape
    if L == 1:
        rows, out = x.reshape(N, C), y.reshape(N, C)
        high, scale, shift = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            factor = rstd[c] * weight[c]
            scale[c] = factor
            high[c], shift[c] = fold(mean[c], factor, np.float64(bias[c]), x)
        for n in range(N):
            normalize_columns(rows[n], high, scale, shift, out[n])
    else:
        for n in range(N):
            for c in range(C):
                normalize_run(x[n, c], mean[c], rstd[c] * weight[c], np.float64(bias[c]), y[n, c])


@part
def channel_sums(x, dy, mean, rstd, dweight, dbias):
    """dweight[c] = sum(dy x_hat), dbias[c] = sum(dy), in float64"""
    N, C, L = x.shape
    dweight[:] = 0
    dbias[:] = 0
    if L == 1:
        rows, grads, high, scale = x.reshape(N, C), dy.reshape(N, C), np.empty(C, x.dtype), np.empty(C, x.dtype)
        first, second = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            high[c], scale[c] = mean[c], rstd[c]
        for i in range(0, N, ROWS):
            first[:] = 0
            second[:] = 0
            for n in range(i, min(i + ROWS, N)):
                row, grad = rows[n], grads[n]
                for c in range(C):
                    first[c] += grad[c]
                    second[c] += grad[c] * scaled(row[c], high[c], scale[c])
            for c in range(C):
                dbias[c] += first[c]
                dweight[c] += second[c]
    else:
        for n in range(N):
            for c in range(C):
                first_, second_ = run_products(x[n, c], dy[n, c], x.dtype.type(mean[c]), x.dtype.type(rstd[c]))
                dbias[c] += first_
                dweight[c] += second_
    for c in range(C):
        _, dweight[c] = fold(mean[c], dbias[c] * rstd[c], dweight[c], x)  # less the low part of the mean


@part
def channel_dx(x, dy, weight, m, mean, rstd, dweight, dbias, dx):
    """dx = weight[c] rstd[c] (dy - dbias[c] / m - x_hat dweight[c] / m), m the number of values per channel"""
    N, C, L = x.shape
    if L == 1:
        rows, grads, out = x.reshape(N, C), dy.reshape(N, C), dx.reshape(N, C)
        high, r, scale = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        shift, slope = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            factor = weight[c] * rstd[c]
            slope[c] = factor * dweight[c] / m
            r[c], scale[c] = rstd[c], factor
            high[c], shift[c] = fold(mean[c], rstd[c] * (factor * dweight[c] / m), dbias[c] / m * factor, x)
        for n in range(N):
            backward_columns(rows[n], grads[n], high, r, scale, shift, slope, out[n])
    else:
        for n in range(N):
            for c in range(C):
                factor = weight[c] * rstd[c]
                shift_c, slope_c = dbias[c] / m * factor, factor * dweight[c] / m
                backward_run(x[n, c], dy[n, c], mean[c], rstd[c], factor, shift_c, slope_c, dx[n, c])


@part
def channel_scale(dy, weight, rstd, dx):
    """dx = weight[c] rstd[c] dy, where the statistics are constants"""
    N, C, L = dy.shape
    if L == 1:
        rows, out, factors = dy.reshape(N, C), dx.reshape(N, C), np.empty(C, dy.dtype)
        for c in range(C):
            factors[c] = weight[c] * rstd[c]
        for n in range(N):
            row, result = rows[n], out[n]
            for c in range(C):
                result[c] = row[c] * factors[c]
    else:
        for n in range(N):
            for c in range(C):
                run, result, factor = dy[n, c], dx[n, c], dy.dtype.type(weight[c] * rstd[c])
                for i in range(L):
                    result[i] = run[i] * factor


@part
def wide_channel(x, c):
    """Channel c as a run, in float64."""
    N, _, L = x.shape
    run = np.empty(N * L)
    for n in range(N):
        for i in range(L):
            run[n * L + i] = x[n, c, i]
    return run


@kernel
def channel_forward(x, edges, weight, bias, eps, own, stats, y):
    """All of the forward in one call; own: take mean and (biased) var from x, else they are given.

    Part k of the samples lies between edges k and k + 1; stats[:, k] are its mean, var and rstd. Returns how many
    channels are left to unusual_forward.
    """
    unusual = 0
    for k in range(edges.size - 1):
        samples, out = x[edges[k] : edges[k + 1]], y[edges[k] : edges[k + 1]]
        mean, var, rstd = stats[0, k], stats[1, k], stats[2, k]
        N, C, L = samples.shape
        if own:
            channel_moments(samples, mean, var)
            for c in range(C):
                var[c] /= max(N * L, 1)  # an empty batch has mean and variance 0
        for c in range(C):
            rstd[c] = 1 / np.sqrt(var[c] + eps)
        channel_normalize(samples, weight, bias, mean, rstd, out)  # (4), (5) of docs/2-batch-norm.md
        unusual += unusual_channels(samples, own, mean, var, rstd)
    return unusual


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


# In float64, for channels whose squares x's width cannot hold: kernels of their own, which hardly anybody needs


@part
def unusual_channels(x, own, mean, var, rstd):
    """How many there are. One with an inf or NaN is none of them: its statistics become NaN."""
    unusual = 0
    for c in range(rstd.size):
        if own and not var[c] < np.inf and not finite(x, c):
            mean[c] = var[c] = rstd[c] = np.nan
        elif not usual(var[c], rstd[c], x) or (own and vanished(var[c], x, c)):
            unusual += 1
    return unusual


@kernel
def unusual_forward(x, edges, weight, bias, eps, own, stats, y):
    """channel_forward for these channels alone."""
    _, C, L = x.shape
    for k in range(edges.size - 1):
        samples, (mean, var, rstd) = x[edges[k] : edges[k + 1]], (stats[0, k], stats[1, k], stats[2, k])
        m = len(samples) * L
        for c in range(C):
            if m > 0 and (beyond(var[c], rstd[c], x) or (own and vanished(var[c], samples, c))):
                run, out = wide_channel(samples, c), np.empty(m)
                if own:
                    mean[c], square = moments(run)
                    var[c] = square / m
                    rstd[c] = 1 / np.sqrt(var[c] + eps)
                normalize_run(run, mean[c], rstd[c] * weight[c], np.float64(bias[c]), out)
                for i in range(m):
                    y[edges[k] + i // L, c, i % L] = out[i]


@kernel
def unusual_backward(x, dy, edges, weight, own, stats, dweight, dbias, dx):
    """channel_backward for channels that are unusual in one part or another."""
    _, C, L = x.shape
    for c in range(C):
        unusual = False
        for k in range(edges.size - 1):
            unusual |= beyond(stats[1, k, c], stats[2, k, c], x)
        total, total_xhat = np.float64(0), np.float64(0)
        for k in range(edges.size - 1 if unusual else 0):
            run, grad = wide_channel(x[edges[k] : edges[k + 1]], c), wide_channel(dy[edges[k] : edges[k + 1]], c)
            m, mean, rstd, out = run.size, stats[0, k, c], stats[2, k, c], np.empty(run.size)
            s, t = run_products(run, grad, mean, rstd)
            factor = weight[c] * rstd
            if own:
                backward_run(run, grad, mean, rstd, factor, s / m * factor, factor * t / m, out)
            else:
                for i in range(m):
                    out[i] = grad[i] * factor
            for i in range(m):
                dx[edges[k] + i // L, c, i % L] = out[i]
            total += s
            total_xhat += t
        if unusual:
            dweight[c], dbias[c] = total_xhat, total


@np.errstate(all="ignore")  # as kernels do
def large_forward(x: Array, edges: Array, weight: Array, bias: Array, eps: float, own: bool, *outputs: Array) -> int:
    """channel_forward for large arrays: the same steps, each over pieces of the samples, on several threads."""
    all_stats, all_y = outputs
    unusual = 0
    for k, p in parts_between(edges):
        samples, y, (mean, var, rstd) = x[p], all_y[p], all_stats[:, k]
        jobs = pieces(samples)
        if own:
            moments_of = np.empty((2, len(jobs), len(mean)))
            for_each(lambda job: channel_moments(samples[job[1]], *moments_of[:, job[0]]), jobs)  # noqa: B023 (called at once)
            mean[:], var[:] = 0, 0
            for i, q in jobs:
                counts = [float(n * x.shape[2]) for n in (q.start, q.stop - q.start)]
                merge(counts[0], mean, var, counts[1], *moments_of[:, i])
            var /= len(samples) * x.shape[2]
        rstd[:] = 1 / np.sqrt(var + eps)
        for_each(lambda job: channel_normalize(samples[job[1]], weight, bias, mean, rstd, y[job[1]]), jobs)  # noqa: B023
        unusual += unusual_channels(samples, own, mean, var, rstd)
    return unusual


@np.errstate(all="ignore")
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


@part_as_written
def normalize_row(x, mean, rstd, weight, bias, y):
    """y = weight (x - mean) rstd + bias, with a weight and a bias for each element"""
    high, shift = fold(mean, rstd, 0.0, x)
    a, b = x.dtype.type(rstd), x.dtype.type(shift)
    for j in range(x.size):
        y[j] = ((x[j] - high) * a + b) * weight[j] + bias[j]


@part_as_written
def backward_row(x, dy, weight, mean, rstd, mean_g, slope, dx):
    """dx = (dy weight - mean_g) rstd - x_hat slope"""
    high, shift = fold(mean, rstd * slope, mean_g * rstd, x)
    a, b, c = x.dtype.type(rstd), x.dtype.type(slope), x.dtype.type(shift)
    for j in range(x.size):
        dx[j] = dy[j] * weight[j] * a - (x[j] - high) * a * b - c


@part_as_written
def add_products(x, dy, mean, rstd, dweight, dbias):
    """dweight += dy x_hat, dbias += dy"""
    high, shift = fold(mean, rstd, 0.0, x)
    a, b = x.dtype.type(rstd), x.dtype.type(shift)
    for j in range(x.size):
        dweight[j] += dy[j] * ((x[j] - high) * a + b)
        dbias[j] += dy[j]


@part
def row_statistics(row, centered):
    if centered:
        mean, square = moments(row)
    else:
        mean, square = 0.0, run_moments(row, row.dtype.type(0))[1]
    return mean, square / row.size


@part
def forward_of_row(row, mean, rstd, weight, bias, y):
    """A weight for each element, or for each run of L of them."""
    L = row.size // weight.size
    if L == 1:
        normalize_row(row, mean, rstd, weight, bias, y)
    else:
        for j in range(weight.size):
            run, out = row[j * L : j * L + L], y[j * L : j * L + L]
            normalize_run(run, mean, rstd * weight[j], np.float64(bias[j]), out)


@part
def backward_of_row(row, dy, weight, centered, mean, rstd, dx, dweight, dbias):
    """A weight for each element; adds to dweight and dbias."""
    sum_g, sum_g_xhat = weighted_products(row, dy, weight, row.dtype.type(mean), row.dtype.type(rstd))
    _, sum_g_xhat = fold(mean, sum_g * rstd, sum_g_xhat, row)  # less the low part of the mean
    mean_g = sum_g / row.size if centered else 0.0
    backward_row(row, dy, weight, mean, rstd, mean_g, rstd * sum_g_xhat / row.size, dx)
    add_products(row, dy, mean, rstd, dweight, dbias)


@part
def backward_of_runs(row, dy, weight, centered, mean, rstd, dx, dweight, dbias):
    """The same with a weight for each run."""
    L, high, scale = row.size // weight.size, row.dtype.type(mean), row.dtype.type(rstd)
    sum_g, sum_g_xhat = np.float64(0), np.float64(0)
    for j in range(weight.size):
        s, t = run_products(row[j * L : j * L + L], dy[j * L : j * L + L], high, scale)
        _, t = fold(mean, s * rstd, t, row)
        dbias[j] += s
        dweight[j] += t
        sum_g += s * weight[j]
        sum_g_xhat += t * weight[j]
    mean_g = sum_g / row.size if centered else 0.0
    slope = rstd * sum_g_xhat / row.size
    for j in range(weight.size):
        run, grad, out = row[j * L : j * L + L], dy[j * L : j * L + L], dx[j * L : j * L + L]
        backward_run(run, grad, mean, rstd, rstd * weight[j], rstd * mean_g, slope, out)


@kernel
def row_forward(x, weight, bias, eps, centered, first, last, stats, y):
    """stats are the mean, var and rstd of each row."""
    N, G, J, L = x.shape
    rows, out, mean, var, rstd = x.reshape(N, G, J * L), y.reshape(N, G, J * L), stats[0], stats[1], stats[2]
    for n in range(first, last):
        for g in range(G):
            mean[n, g], var[n, g] = row_statistics(rows[n, g], centered)
            rstd[n, g] = 1 / np.sqrt(var[n, g] + eps)
            forward_of_row(rows[n, g], mean[n, g], rstd[n, g], weight[g], bias[g], out[n, g])
    for n in range(first, last):
        for g in range(G):
            too_wide = not usual(var[n, g], rstd[n, g], x) and finite(rows[n : n + 1], g)
            if too_wide or vanished(var[n, g], rows[n : n + 1], g):
                row = wide_channel(rows[n : n + 1], g)
                mean[n, g], var[n, g] = row_statistics(row, centered)
                rstd[n, g] = 1 / np.sqrt(var[n, g] + eps)
                forward_of_row(row, mean[n, g], rstd[n, g], weight[g], bias[g], out[n, g])


@kernel
def row_backward(x, dy, weight, centered, first, last, stats, dx, sums):
    """sums become dweight and dbias. Each branch has a loop of its own: one loop would count references to the slices
    of both in each round."""
    N, G, J, L = x.shape
    rows, grads, out = x.reshape(N, G, J * L), dy.reshape(N, G, J * L), dx.reshape(N, G, J * L)
    mean, var, rstd, dweight, dbias = stats[0], stats[1], stats[2], sums[0], sums[1]
    sums[:] = 0
    if L == 1:
        some = np.zeros((2, G, J), x.dtype)
        some_dweight, some_dbias = some[0], some[1]
        for i in range(first, last, ROWS):
            for n in range(i, min(i + ROWS, last)):
                for g in range(G):
                    if not beyond(var[n, g], rstd[n, g], x):
                        row, grad, dx_, w = rows[n, g], grads[n, g], out[n, g], weight[g]
                        dw, db = some_dweight[g], some_dbias[g]
                        backward_of_row(row, grad, w, centered, mean[n, g], rstd[n, g], dx_, dw, db)
            for g in range(G):
                for j in range(J):
                    dweight[g, j] += some_dweight[g, j]
                    dbias[g, j] += some_dbias[g, j]
            some[:] = 0
    else:
        for n in range(first, last):
            for g in range(G):
                if not beyond(var[n, g], rstd[n, g], x):
                    row, grad, dx_, w = rows[n, g], grads[n, g], out[n, g], weight[g]
                    backward_of_runs(row, grad, w, centered, mean[n, g], rstd[n, g], dx_, dweight[g], dbias[g])
    for n in range(first, last):
        for g in range(G):
            if beyond(var[n, g], rstd[n, g], x):
                row, grad, dx_, w = wide_channel(rows[n : n + 1], g), grads[n, g], out[n, g], weight[g]
                if L == 1:
                    backward_of_row(row, grad, w, centered, mean[n, g], rstd[n, g], dx_, dweight[g], dbias[g])
                else:
                    backward_of_runs(row, grad, w, centered, mean[n, g], rstd[n, g], dx_, dweight[g], dbias[g])


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
    unusual = (channel_forward if small else large_forward)(x, edges, gamma, beta, eps, own, stats, y)
    if unusual:
        unusual_forward(x, edges, gamma, beta, eps, own, stats, y)
    if own and track is not None:
        track(stats[0], stats[1])

    def pullback(dy: Any) -> Any:
        dy = contiguous(dy).reshape(x.shape)
        dweight, dbias, dx = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty_like(x)
        (channel_backward if small else large_backward)(x, dy, edges, gamma, own, stats, dweight, dbias, dx)
        if unusual:
            unusual_backward(x, dy, edges, gamma, own, stats, dweight, dbias, dx)
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
        with np.errstate(over="ignore"):  # as kernels do
            dweight, dbias = [total.astype(x.dtype) for total in (sums[0] if len(jobs) == 1 else sums.sum(axis=0))]
        return (
            dx.reshape(given),
            None if weight_shape is None else dweight.reshape(weight_shape),
            None if bias_shape is None else dbias.reshape(bias_shape),
        )

    return y.reshape(given), pullback
