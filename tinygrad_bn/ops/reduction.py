"""Reductions over axes: sum, mean, variance, largest and smallest. NumPy's arguments: axis=None, keepdims=False."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import check_flag, check_int
from ..engine.operators import OPS, implements
from ..engine.replay_notes import note
from ..engine.tape import differentiable
from ..runtime.sums import total

MOST_AXES = 64  # NumPy's limit


def check_reduction(x: Any, axis: Any = None, keepdims: Any = False) -> None:
    """NumPy's own errors do not say which argument they are about, and some values it takes for True."""
    if axis is not None and not (type(axis) is int and -MOST_AXES <= axis < MOST_AXES):
        for a in axis if isinstance(axis, tuple) else (axis,):
            check_int("axis", a, -MOST_AXES, MOST_AXES - 1)
    if keepdims is not True and keepdims is not False:
        check_flag("keepdims", keepdims)


def check_variance(x: Any, axis: Any = None, ddof: Any = 0, keepdims: Any = False) -> None:
    """As for the others; ddof is an int."""
    check_reduction(x, axis, keepdims)
    check_int("ddof", ddof)


def _kept(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The shape that the reduction would have had with keepdims=True."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def _count(x: Any, axis: Any) -> int:
    """How many elements go into each result."""
    kept = _kept(x.shape, axis)
    return int(np.prod([n for n, k in zip(x.shape, kept, strict=True) if k == 1], dtype=int))


@implements(np.sum)
@differentiable(check=check_reduction)
def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum over the axes; every summand gets dy."""
    shape = x.shape
    return total(x, axis, keepdims), lambda dy: np.broadcast_to(dy.reshape(_kept(shape, axis)), shape)


@implements(np.mean)
@differentiable(check=check_reduction)
def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean over the axes; every element gets dy / n."""
    n, shape = _count(x, axis), x.shape
    return total(x, axis, keepdims) / n, lambda dy: np.broadcast_to(dy.reshape(_kept(shape, axis)) / n, shape)


@implements(np.var)
@differentiable(check=check_variance)
def var(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """sum((x - mean)^2) / (n - ddof);  dx = 2 (x - mean) / (n - ddof) dy, biased (ddof=0) by default

    With n <= ddof there is nothing to divide by: NaN, as in NumPy and PyTorch.
    """
    shape, degrees = x.shape, _count(x, axis) - ddof
    over = 1.0 / degrees if degrees > 0 else math.nan
    n = degrees + ddof
    centered = x - total(x, axis, keepdims=True) / n
    centered = centered - total(centered, axis, keepdims=True) / n  # what rounding a large mean has left
    y = total(centered * centered, axis, keepdims) * over
    return y, lambda dy: dy.reshape(_kept(shape, axis)) * centered * (2.0 * over)


@implements(np.std)
@differentiable(check=check_variance)
def std(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """sqrt(var);  dx = (x - mean) / ((n - ddof) std) dy, and 0 where std is 0 (as in PyTorch)"""
    variance, pullback_of_var = var.rule(x, axis, ddof, keepdims)  # type: ignore[attr-defined]
    zero = variance == 0
    root = np.sqrt(np.where(zero, 1, variance))  # so that no derivative of it is infinite
    return np.where(zero, 0, root), lambda dy: pullback_of_var(np.where(zero, 0, dy / (2 * root)))


def _extreme(x: Any, y: Any, axis: Any) -> Any:
    """The pullback of max and min: the elements equal to the result share its gradient evenly."""

    def pullback(dy: Any) -> Any:
        kept = _kept(x.shape, axis)
        chosen = (x == y.reshape(kept)).astype(x.dtype)
        with np.errstate(invalid="ignore"):  # NaN equals nothing: 0 / 0, the gradient is NaN too
            share = chosen / total(chosen, axis, keepdims=True)
        return dy.reshape(kept) * share

    return y, pullback


@implements(np.max, np.amax)
@differentiable(check=check_reduction)
def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element; equal ones share the gradient evenly (as PyTorch's amax)."""
    return _extreme(x, x.max(axis=axis, keepdims=keepdims), axis)


@implements(np.min, np.amin)
@differentiable(check=check_reduction)
def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element; equal ones share the gradient evenly (as PyTorch's amin)."""
    return _extreme(x, x.min(axis=axis, keepdims=keepdims), axis)


def _place(function: Any) -> Any:
    """argmax and argmin: integers have no gradient."""

    def place(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        if axis is not None:
            check_int("axis", axis)
        check_reduction(x, axis, keepdims)
        return note(on_array, (x, axis, keepdims), decides=True)

    def on_array(x: Any, axis: Any, keepdims: bool) -> Any:
        return function(x, axis=axis, keepdims=keepdims)

    on_array.__name__ = function.__name__
    return place


OPS[np.argmax], OPS[np.argmin] = _place(np.argmax), _place(np.argmin)
