"""Losses: cross entropy, negative log likelihood, mean squared error, binary cross entropy with logits.

reduction: "mean" (default), "sum" or "none", as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array, as_array, check_int, plain_array
from ..engine.guards import check_input
from ..engine.replay_notes import fresh
from ..engine.tape import differentiable
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel, kernel_as_written
from .activation import log_softmax_definition
from .elementwise import where

REDUCTIONS = ("mean", "sum", "none")


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def check_reduction(reduction: str) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")


def check_no_tensor(target: Any) -> None:
    """Tensors hold floats."""
    if isinstance(target, Tensor):
        raise TypeError(
            "target must be an integer array of classes, got a Tensor of floats: pass the labels as they are, "
            "without tensor(); labels.astype(int) converts an array of floats"
        )


def check_classes(x: Any, target: Any, ignore_index: int) -> Array:
    """The class targets of all positions as an int64 vector, each in [0, C) or equal to ignore_index."""
    if not -(2**63) <= check_int("ignore_index", ignore_index, most=None) < 2**63:
        raise ValueError("ignore_index must fit into 64 bits, got a larger int")
    check_input(x)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (N, C) or (N, C, positions ...), got {x.shape}")
    if x.shape[1] == 0:
        raise ValueError(f"x must have at least one class, got shape {x.shape}")
    target = as_array(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"target must be an integer array of classes, got {target.dtype}: target.astype(int) converts")
    wanted = (x.shape[0], *x.shape[2:])
    if target.shape != wanted:
        raise ValueError(f"target must have shape {wanted} for x of shape {x.shape}, got {target.shape}")
    if target.dtype == np.uint64 and (target > np.uint64(2**63 - 1)).any():  # as int64 it could be ignore_index
        raise ValueError(f"target must lie in [0, {x.shape[1]}) or be {ignore_index}, got {target.max()}")
    classes: Array = target.astype(np.int64).reshape(-1)  # a copy: the backward needs it as it is now
    bad = first_bad(classes, x.shape[1], ignore_index)
    if bad >= 0:
        raise ValueError(f"target must lie in [0, {x.shape[1]}) or be {ignore_index}, got {target.reshape(-1)[bad]}")
    return classes


def _by_position(x: Any) -> Any:
    """(N, C, positions ...) as rows of C logits, one for each position of each sample."""
    if x.ndim == 2:
        return x
    N, C, L = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    return x.reshape((N, C, L)).swapaxes(1, 2).reshape((N * L, C))


@kernel
def first_bad(target, classes, ignore_index):
    """The place of the first target that is neither a class nor to be ignored, or -1."""
    for r in range(target.size):
        if not 0 <= target[r] < classes and target[r] != ignore_index:
            return r
    return -1


@kernel_as_written
def cross_entropy_forward(x, target, ignore_index, probability, loss):
    """Fills probability and loss; returns the number of rows that are not ignored."""
    rows, n = x.shape
    kept = 0
    for r in range(rows):
        place = 0
        for j in range(n):
            if not x[r, j] <= x[r, place]:  # a NaN becomes the maximum and spreads over the row
                place = j
        top, rest = x[r, place], 0.0  # as in softmax_forward
        for j in range(n):
            e = math.exp(x[r, j] - top)
            probability[r, j] = e
            if j != place:
                rest += e
        if not math.isfinite(top):
            rest = math.nan
        scale = 1 / (1 + rest)
        for j in range(n):
            probability[r, j] *= scale
        t = target[r]
        loss[r] = 0
        if t != ignore_index:
            loss[r] = math.log1p(rest) - (x[r, t] - top)
            kept += 1
    return kept


@kernel
def cross_entropy_backward(probability, target, ignore_index, scale, dx):
    rows, n = probability.shape
    for r in range(rows):
        t = target[r]
        if t == ignore_index:
            for j in range(n):
                dx[r, j] = 0
        else:
            for j in range(n):
                dx[r, j] = probability[r, j] * scale[r]
            dx[r, t] -= scale[r]


def cross_entropy_definition(x: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    x = np.where((target != ignore_index)[:, None], x, 0)  # an ignored row may hold anything, NaN too
    return nll_loss(log_softmax_definition(x, 1), target, ignore_index=ignore_index, reduction=reduction)


@differentiable(definition=cross_entropy_definition)
def _cross_entropy(x: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    x = contiguous(x)
    probability, loss = np.empty_like(x), np.empty(len(x), x.dtype)
    kept = cross_entropy_forward(x, target, ignore_index, probability, loss)
    count = 1 if reduction != "mean" else kept or math.nan  # what the sum is divided by

    def pullback(dy: Any) -> Any:
        dx, scale = np.empty_like(x), np.empty_like(loss)
        scale[:] = dy / count
        cross_entropy_backward(probability, target, ignore_index, scale, dx)
        return dx

    return loss if reduction == "none" else loss.sum() / count, pullback


def cross_entropy(x: Tensor, target: Array, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-log softmax(x)[target], averaged over the samples whose target is not ignore_index.

    x: logits (N, C); target: integer array (N,) of classes in [0, C). Or x (N, C, positions ...) with a target for each
    position, (N, positions ...). ignore_index: default -100.
    reduction: "mean" (default), "sum", or "none" for the loss of each sample, of target's shape.
    dx = (softmax(x) - onehot(target)) dy / N for "mean", with N the number of targets that are not ignored. Softmax and
    logarithm are one kernel, so large logits are safe.
    Errors: TypeError for targets that are not integers, ValueError for classes out of range. No sample left
    gives NaN for "mean", as in PyTorch. Source: torch.nn.functional.cross_entropy.

    >>> x = tb.tensor(np.zeros((1, 4)), requires_grad=True)  # four classes, all alike
    >>> loss = F.cross_entropy(x, np.array([2]))
    >>> loss.backward()
    >>> round(loss.item(), 4), x.grad  # log 4, and 1/4 - onehot
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    check_reduction(reduction)
    check_no_tensor(target)
    classes = fresh(check_classes, x, target, ignore_index)
    loss = _cross_entropy(_by_position(x), classes, ignore_index, reduction)
    return loss.reshape((x.shape[0], *x.shape[2:])) if reduction == "none" and x.ndim > 2 else loss


def _chosen(x: Any, target: Any, ignore_index: int) -> tuple[Array, Array, Array, float]:
    """For nll_loss: which positions count, where their log-probabilities are, how many there are (NaN for none)."""
    classes = check_classes(x, target, ignore_index)
    kept = classes != ignore_index
    return kept, np.arange(len(classes)), np.where(kept, classes, 0), float(kept.sum()) if kept.any() else math.nan


def nll_loss(x: Tensor, target: Array, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-x[n, target[n]] for log-probabilities x (N, C), or (N, C, positions ...), reduced as in cross_entropy.

    target: integer array (N,), or (N, positions ...). ignore_index (default -100), reduction (default "mean") and
    Errors: as cross_entropy.
    Source: torch.nn.functional.nll_loss.

    >>> F.nll_loss(tb.tensor([[-1.0, -2.0], [-3.0, -4.0]]), np.array([0, 1]))  # (1 + 4) / 2
    tensor(2.5)
    """
    check_reduction(reduction)
    check_no_tensor(target)
    kept, rows, classes, count = fresh(_chosen, x, target, ignore_index)
    loss, shape = where(kept, -_by_position(x)[rows, classes], 0), (x.shape[0], *x.shape[2:])
    if reduction == "none":
        return loss.reshape(shape) if len(shape) > 1 else loss
    return loss.sum() if reduction == "sum" else loss.sum() / count


def _same_shape(x: Any, target: Any) -> Any:
    """The target as an array or Tensor of x's shape and dtype."""
    check_input(x)
    if not isinstance(target, (Tensor, np.ndarray)):
        raise TypeError(f"target must be a Tensor or an array, got {type(target).__name__}")
    if type(target) is not np.ndarray and isinstance(target, np.ndarray):
        target = plain_array(target, "target")
    if target.shape != x.shape:
        raise ValueError(f"target must have the shape of x, {x.shape}, got {target.shape}")
    if target.dtype != x.dtype:
        raise TypeError(f"target must be {x.dtype} like x, got {target.dtype}: target.astype(np.{x.dtype}) converts")
    return target


def mse_loss(x: Tensor, target: Tensor | Array, *, reduction: str = "mean") -> Tensor:
    """(x - target)^2, averaged over all elements. target: same shape and dtype; nothing is broadcast.

    reduction: "mean" (default), "sum", or "none" for each element. Source: torch.nn.functional.mse_loss.
    Errors: ValueError for another shape or reduction, TypeError for another dtype.

    >>> F.mse_loss(tb.tensor([1.0, 2.0]), tb.tensor([1.0, 4.0]))  # (0 + 4) / 2
    tensor(2.)
    """
    check_reduction(reduction)
    difference = x - _same_shape(x, target)
    return _reduce(difference * difference, reduction)


def binary_cross_entropy_with_logits(x: Tensor, target: Tensor | Array, *, reduction: str = "mean") -> Tensor:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), averaged over all elements.

    Computed as max(x, 0) - x t + log(1 + exp(-|x|)), which never overflows; dx = (sigmoid(x) - t) dy / n.
    target: probabilities in [0, 1], of x's shape and dtype. reduction: "mean" (default), "sum", or "none".
    Errors: ValueError for another shape or reduction, TypeError for another dtype.
    Source: torch.nn.functional.binary_cross_entropy_with_logits.

    >>> x = tb.tensor([0.0], requires_grad=True)
    >>> loss = F.binary_cross_entropy_with_logits(x, tb.tensor([1.0]))
    >>> loss.backward()
    >>> round(loss.item(), 4), x.grad.item()  # log 2, and sigmoid(0) - 1
    (0.6931, -0.5)
    """
    check_reduction(reduction)
    target = _same_shape(x, target)
    return _reduce(_bce(x, target), reduction)


def bce_definition(x: Any, target: Any) -> Any:
    slope, positive = np.where(x > 0, 1 - target, -target), np.where(x > 0, x, -x)  # |x|, smooth at 0 when summed
    lost = (abs(x.data if isinstance(x, Tensor) else x) == math.inf) & (slope == 0)  # 0 times infinity is 0 here
    return np.where(lost, 0, slope * np.where(lost, 0, x)) + np.log(1 + np.exp(-positive))


@differentiable(definition=bce_definition)
def _bce(x: Any, target: Any) -> Any:
    e = np.exp(-np.absolute(x))
    with np.errstate(invalid="ignore"):
        y = np.asarray(np.maximum(x, 0) - x * target + np.log1p(e))
        if (infinite := np.isinf(x)).any():  # the limit, where 0 times infinity is 0
            slope = np.where(x >= 0, 1 - target, -target)
            y = np.where(infinite, np.where(slope == 0, 0, slope * x), y)

    def dx(dy: Any) -> Any:
        s = e / (1 + e)  # sigmoid(-|x|); where t = 1 and x is large, (1 - t) - s is -s, and 1 - s - t rounds to 0
        return np.where(x >= 0, (1 - target) - s, s - target) * dy

    return y, lambda dy: (lambda: dx(dy), lambda: -x * dy)
