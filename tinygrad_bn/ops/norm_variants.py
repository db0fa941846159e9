"""Three relatives of batch norm: ghost batches, renormalization, decorrelation.

All keep batch norm's y = gamma x_hat + beta, and in eval mode they are an affine map with running statistics; they
differ in how x_hat is made from a training batch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..checks import Array, check_int, check_number
from ..engine.guards import check_array
from ..engine.replay_notes import fresh
from ..engine.tensors import Tensor
from .norm_kernels import affine, channel_norm, channel_shape
from .norms import (
    ONE_ROW,
    Running,
    check_channel_norm,
    check_channels,
    check_eps,
    check_momentum,
    check_rank,
    more_than_one,
    with_running_statistics,
)
from .whitening import MATRIX, apply_matrix, grouped, ungrouped, whiten


def ghost_batches(samples: int, ghost_size: int, values: int) -> list[slice]:
    """The batch in pieces of ghost_size samples, with ``values`` values per sample and channel; the last is smaller.

    A last piece of a single value has no variance: it joins the piece before.
    """
    starts = list(range(0, samples, ghost_size)) or [0]
    if len(starts) > 1 and (samples - starts[-1]) * values == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], samples], strict=True)]


def ghost_batch_norm(
    x: Tensor,
    ghost_size: int,
    running_mean: Tensor | Array | None = None,
    running_var: Tensor | Array | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm with the statistics of small "ghost" batches, whatever the batch of the gradient step.

    In training the N samples are cut, in order, into ghosts of ghost_size, and each is normalized by itself:
    x_hat = (x - mean_ghost) / sqrt(var_ghost + eps). Where ghost_size does not divide N the last ghost is smaller; a
    single value left over joins the ghost before. The running statistics move towards the averages of the ghosts'
    means and unbiased variances, each ghost counting with its number of samples. In eval mode: batch_norm.
    x, running_mean, running_var, weight, bias (the last four (C,) or None), training, momentum: as in batch_norm.
    Errors: as batch_norm; ValueError for ghost_size < 1, or 1 where each sample has one value per channel.
    Source: Hoffer, Hubara & Soudry 2017, algorithm 1 (which moves the running statistics once per ghost).

    >>> x = tb.tensor([[1.0], [3.0], [0.0], [20.0]])
    >>> F.ghost_batch_norm(x, 2, training=True, eps=0.0).data.ravel()  # each pair for itself
    array([-1.,  1., -1.,  1.], dtype=float32)
    """
    ghost_size = check_int("ghost_size", ghost_size, 1)
    running = Running(running_mean, running_var, momentum)
    eps = check_channel_norm(x, 2, running, weight, bias, eps)
    if not running.check("training", training):
        return with_running_statistics(x, running, weight, bias, eps)
    L = math.prod(x.shape[2:])
    parts = ghost_batches(len(x), ghost_size, L)
    m = np.array([(p.stop - p.start) * L for p in parts], dtype=np.float64)
    if (m == 1).any():
        raise ValueError(
            f"x must have more than 1 value per channel and ghost when training, got shape {x.shape} "
            f"with ghost_size={ghost_size}"
        )

    track = partial(_track_ghosts, running, m)
    return channel_norm(x, weight, bias, mean=None, var=None, eps=eps, track=track, parts=parts)


def _track_ghosts(running: Running, m: Array, mean: Array, var: Array) -> None:
    if m.sum() > 0:
        unbiased = var * (m / (m - 1))[:, None]
        running.move(np.average(mean, axis=0, weights=m), np.average(unbiased, axis=0, weights=m))


def batch_renorm(
    x: Tensor,
    running_mean: Tensor | Array,
    running_var: Tensor | Array,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    r_max: float = 3.0,
    d_max: float = 5.0,
) -> Tensor:
    """Batch norm whose training output agrees with its eval output, up to a bounded correction.

        x_hat = (x - mean_B) / sigma_B * r + d
        r = clip(sigma_B / sigma, 1 / r_max, r_max),   d = clip((mean_B - mean) / sigma, -d_max, d_max)

    B: the batch; mean and sigma: the running statistics before this batch; sigma = sqrt(var + eps). r and d are
    constants for the gradient. r_max = 1 and d_max = 0 is batch norm; where nothing is clipped x_hat is
    (x - mean) / sigma, as in eval mode. Source: Ioffe 2017, algorithm 1; the paper keeps a running sigma, here it is
    the variance, unbiased as batch norm's, so that the state of one loads into the other.
    x, running_mean, running_var (both needed), weight, bias ((C,) or None), training, momentum: as in batch_norm.
    Errors: as batch_norm; ValueError for r_max < 1 or d_max < 0.

    >>> x, mean, var = tb.tensor([[1.0], [3.0]]), np.zeros(1, np.float32), np.ones(1, np.float32)
    >>> F.batch_renorm(x, mean, var, training=True, eps=0.0)  # sigma_B = 1, so r = 1; mean_B = 2, so d = 2
    tensor([[1.],
            [3.]])
    """
    r_max, d_max = check_number("r_max", r_max, 1), check_number("d_max", d_max, 0)
    if running_mean is None or running_var is None:
        raise ValueError("running_mean and running_var must be given, got None")
    running = Running(running_mean, running_var, momentum)
    eps = check_channel_norm(x, 2, running, weight, bias, eps)
    if not running.check("training", training):
        return with_running_statistics(x, running, weight, bias, eps)
    m = len(x) * math.prod(x.shape[2:])
    more_than_one(m, x.shape, "channel", ONE_ROW)
    r, d = fresh(_pair, x.shape[1], x.dtype)
    track = partial(_track_renorm, running, m, eps, (r, r_max), (d, d_max))
    x_hat = channel_norm(x, None, None, mean=None, var=None, eps=eps, track=track)
    scale = r if weight is None else weight * r  # gamma (x_hat r + d) + beta with one product per element
    shift = d if weight is None else weight * d
    return affine(x_hat, scale, shift if bias is None else shift + bias, channel_shape(x))


def _pair(channels: int, dtype: Any) -> tuple[Array, Array]:
    return np.empty(channels, dtype), np.empty(channels, dtype)


def _track_renorm(running: Running, m: int, eps: float, r: Any, d: Any, means: Array, variances: Array) -> None:
    """Fills r and d, each an array with its limit, from the statistics before this batch; then moves these."""
    mean, var, (old_mean, old_var) = means[0], variances[0], running.constants()
    (r, r_max), (d, d_max) = r, d
    with np.errstate(divide="ignore", invalid="ignore"):  # eps = 0 and a constant channel: as IEEE has it
        sigma = np.sqrt(old_var + eps)
        r[:] = np.clip(np.sqrt(var + eps) / sigma, 1 / r_max, r_max)
        d[:] = np.clip((mean - old_mean) / sigma, -d_max, d_max)
    if m > 0:
        running.move(mean, var, m / (m - 1))


def decorrelated_batch_norm(
    x: Tensor,
    running_mean: Tensor | Array | None = None,
    running_matrix: Tensor | Array | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group_size: int | None = None,
    method: str = "zca",
) -> Tensor:
    """Batch norm that whitens: x_hat = W (x - mean), W Sigma W^T = 1, so that the channels of a group are uncorrelated.

        Sigma = (1 / m) sum (x - mean) (x - mean)^T + eps 1 over batch and positions

    x: (N, C, ...). group_size: how many channels are whitened together (None, the default, is all C; it must divide C).
    method: "zca", W = Sigma^(-1/2), or "pca", whose axes may swap from batch to batch (see ops/whitening.py).
    The output's covariance is the identity up to eps where a group has fewer channels than the batch has values; with
    fewer values Sigma has only eps in the missing directions. running_mean (C,) and running_matrix
    (C / group_size, group_size, group_size), or None: moving averages of mean and W, used in eval mode.
    weight, bias ((C,) or None), training, momentum: as in batch_norm.
    Errors: as batch_norm; ValueError for a group_size that does not divide C, another method, or an empty batch in
    training. Source: Huang et al. 2018, algorithms 1 and 2.

    >>> x = tb.tensor([[1.0, 1.0], [-1.0, -1.0], [2.0, -2.0], [-2.0, 2.0]])
    >>> F.decorrelated_batch_norm(x, training=True, eps=0.0).data.round(3)  # variance 1 along (1, 1), 4 across
    array([[ 1.,  1.],
           [-1., -1.],
           [ 1., -1.],
           [-1.,  1.]], dtype=float32)
    """
    check_rank(x, 2)
    eps, C = check_eps(eps), x.shape[1]
    check_momentum(momentum)
    size = C if group_size is None else check_int("group_size", group_size, 1)
    if C % max(size, 1):
        raise ValueError(f"group_size must divide the {C} channels, got {group_size}")
    if not isinstance(method, str) or method not in MATRIX:
        raise ValueError(f"method must be one of {sorted(MATRIX)}, got {method!r}")
    groups = C // max(size, 1)
    check_channels(x, running_mean=running_mean, weight=weight, bias=bias)
    check_array("running_matrix", running_matrix, (groups, size, size), x.dtype)
    rows, running = grouped(x, groups), Running(running_mean, running_matrix, momentum)
    if running.check("training", training, "running_matrix"):
        more_than_one(max(rows.shape[2], 1), x.shape, "channel", ONE_ROW)  # an empty batch has no covariance either
        x_hat = whiten(rows, eps=eps, method=method, track=partial(_track_matrix, running))
    else:
        mean, matrix = fresh(_center_and_matrix, running.mean, running.spread)
        x_hat = apply_matrix(rows, mean, matrix)
    return affine(ungrouped(x_hat, x.shape), weight, bias, channel_shape(x))


def _center_and_matrix(mean: Array, matrix: Array) -> tuple[Array, Array]:
    """Copies of the running statistics, the mean as columns, a group each."""
    groups, size, _ = matrix.shape
    return mean.reshape(groups, size, 1).copy(), matrix.copy()


def _track_matrix(running: Running, mean: Array, matrix: Array) -> None:
    running.move(mean.reshape(-1), matrix)
