"""Primitives that move elements without changing them: reshape, transpose, indexing, concatenate, stack, pad.

Their gradients move the elements back. Where one element was read several times (broadcasting, repeated integer
indices), its gradients add up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import Array, check_int, check_size
from ..engine.guards import check_index, check_tensors
from ..engine.operators import implements
from ..engine.tape import differentiable
from ..engine.tensors import Tensor

MOST_AXES = 32  # beyond it np.add.at, which the gradient of x[index] needs, crashes the process (NumPy 2.4)


@implements(np.reshape)
@differentiable
def reshape(x: Any, shape: Any) -> Any:
    """The same elements in C order under another shape; one entry may be -1."""
    before = x.shape
    try:
        y = x.reshape(shape)
    except ValueError:
        raise ValueError(
            f"shape must hold the {math.prod(before)} elements of shape {before}, got {shape!r:.80}"
        ) from None
    return y, lambda dy: dy.reshape(before)


@implements("flatten")
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes start_dim .. end_dim (inclusive, PyTorch's arguments) become one."""
    n = max(x.ndim, 1)
    for name, d in (("start_dim", start_dim), ("end_dim", end_dim)):
        check_int(name, d)
        if not -n <= d < n:
            raise ValueError(f"{name} must lie in [{-n}, {n - 1}] for {x.ndim} axes, got {d}")
    first, last = start_dim % n, end_dim % n
    if first > last:
        raise ValueError(f"start_dim must not come after end_dim, got {start_dim} and {end_dim}")
    middle = math.prod(x.shape[first : last + 1])
    return x.reshape((*x.shape[:first], middle, *x.shape[last + 1 :]))


@implements(np.squeeze)
def squeeze(x: Tensor, axis: Any = None) -> Tensor:
    """Without the axes of length 1 that axis names; None is all of them."""
    if axis is None:
        return x.reshape(tuple(n for n in x.shape if n != 1))
    axes = [check_int("axis", a) for a in (axis if isinstance(axis, tuple) else (axis,))]
    gone = {a % x.ndim for a in axes if -x.ndim <= a < x.ndim and x.shape[a] == 1}
    if len(gone) < len(axes):
        raise ValueError(f"axis must name axes of length 1, each once, got {axis} for shape {x.shape}")
    return x.reshape(tuple(n for i, n in enumerate(x.shape) if i not in gone))


def _all_axes(axes: Any) -> tuple[int, ...]:
    return tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)


def check_transpose(x: Any, axes: Any = None) -> None:
    """Each axis once."""
    if axes is not None:
        axes = tuple(check_int("axes", a) for a in _all_axes(axes))
        if sorted(a + x.ndim if a < 0 else a for a in axes) != list(range(x.ndim)):
            raise ValueError(f"axes must name each of the {x.ndim} axes once, got {axes}")


@implements(np.transpose)
@differentiable(check=check_transpose)
def transpose(x: Any, axes: Any = None) -> Any:
    """Axes in another order, reversed by default."""
    if axes is None:
        return np.transpose(x), lambda dy: np.transpose(dy)
    axes = _all_axes(axes)
    back = tuple(int(i) for i in np.argsort([a % x.ndim for a in axes]))
    return np.transpose(x, axes), lambda dy: np.transpose(dy, back)


def check_swapaxes(x: Any, axis1: Any, axis2: Any) -> None:
    """Two ints; whether x has such axes, NumPy says."""
    check_int("axis1", axis1)
    check_int("axis2", axis2)


@implements(np.swapaxes)
@differentiable(check=check_swapaxes)
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    return np.swapaxes(x, axis1, axis2), lambda dy: np.swapaxes(dy, axis1, axis2)


def check_broadcast(x: Any, shape: Any) -> None:
    """A shape that x can be repeated to."""
    shape = tuple(check_size("shape", n, 0) for n in _all_axes(shape))
    try:
        np.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"shape must be one that {x.shape} broadcasts to, got {shape}") from None


@implements(np.broadcast_to)
@differentiable(check=check_broadcast)
def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Any:
    """x repeated along new and length-1 axes; the engine sums the gradient back.

    shape: a tuple of ints. Errors: ValueError for one that x does not broadcast to, TypeError for what is not a shape.

    >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
    >>> tb.broadcast_to(x, (3, 2)).sum().backward()
    >>> x.grad  # each was used three times
    array([3., 3.], dtype=float32)
    """
    return np.broadcast_to(x, shape), lambda dy: dy


def check_getitem(x: Any, *, index: Any) -> None:
    """No tensors in an index, and not too many axes for np.add.at."""
    check_index(index)
    parts = index if isinstance(index, tuple) else (index,)
    if _only_slices(parts):
        return
    most = x.ndim + sum(max(1, np.ndim(p)) for p in parts)  # at most: None adds an axis, and so does a boolean
    if most > MOST_AXES:
        axes = np.ndim(x[index])
        if x.ndim > MOST_AXES or axes > MOST_AXES:
            raise ValueError(f"index must not go from, or to, more than {MOST_AXES} axes, got {x.ndim} and {axes}")


@implements("getitem")
@differentiable(check=check_getitem)
def getitem(x: Any, *, index: Any) -> Any:
    """x[index] for slices, integers, None, ..., boolean masks and integer arrays."""
    parts, shape = index if isinstance(index, tuple) else (index,), x.shape
    if any(isinstance(p, (list, np.ndarray)) for p in parts):  # the caller may change them before backward()
        index = copy.deepcopy(index)
    return x[index], lambda dy: put(dy, index=index, shape=shape)


def _only_slices(parts: tuple[Any, ...]) -> bool:
    return all(isinstance(p, (int, slice, type(None), type(Ellipsis))) for p in parts)


@differentiable
def put(x: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of this shape with x added at index; an index that occurs twice adds twice. The reverse of getitem."""
    if isinstance(x, Tensor):  # the rule runs on tensors, for second derivatives
        return put(x, index=index, shape=shape), lambda dy: dy[index]
    y = np.zeros(shape, x.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if _only_slices(parts):
        y[index] = x  # slices never meet an element twice
    else:
        np.add.at(y, index, x)
    return y, lambda dy: dy[index]


@differentiable
def _concatenate(*arrays: Any, axis: int) -> Any:
    ends = np.cumsum([a.shape[axis] for a in arrays])

    def part(dy: Any, i: int) -> Any:
        start = int(ends[i - 1]) if i else 0
        return dy[(slice(None),) * (axis % dy.ndim) + (slice(start, int(ends[i])),)]

    return np.concatenate(arrays, axis=axis), lambda dy: tuple(part(dy, i) for i in range(len(arrays)))


@implements(np.concatenate)
def concatenate(arrays: Sequence[Tensor | Array], axis: int = 0) -> Tensor:
    """Arrays joined along an axis that they have.

    arrays: a sequence of Tensors or arrays of one shape but for this axis. axis: default 0.
    Errors: TypeError for what is not such a sequence; ValueError for none, and for shapes or an axis that do not fit.

    >>> tb.concatenate([tb.tensor([[1, 2]]), tb.tensor([[3, 4]])], axis=1)
    tensor([[1., 2., 3., 4.]])
    """
    arrays, axis = check_tensors("arrays", arrays), check_int("axis", axis)
    if not arrays:
        raise ValueError("arrays must hold at least one tensor, got none")
    ndim = arrays[0].ndim
    if any(a.ndim != ndim for a in arrays):
        raise ValueError(f"arrays must have equal numbers of axes, got shapes {[a.shape for a in arrays]}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must lie in [{-ndim}, {ndim - 1}] for arrays of shape {arrays[0].shape}, got {axis}")
    return _concatenate(*arrays, axis=axis)


@implements(np.stack)
def stack(arrays: Sequence[Tensor | Array], axis: int = 0) -> Tensor:
    """Arrays of one shape joined along a new axis.

    arrays: a sequence of Tensors or arrays. axis: where the new one comes in the result (default 0).
    Errors: TypeError for what is not such a sequence; ValueError for none, and for shapes or an axis that do not fit.

    >>> tb.stack([tb.tensor([1, 2]), tb.tensor([3, 4])])
    tensor([[1., 2.],
            [3., 4.]])
    """
    arrays, axis = check_tensors("arrays", arrays), check_int("axis", axis)
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"arrays must have one shape, got {sorted({a.shape for a in arrays})}")
    if arrays and not -arrays[0].ndim - 1 <= axis <= arrays[0].ndim:
        raise ValueError(f"axis must lie in [{-arrays[0].ndim - 1}, {arrays[0].ndim}], got {axis}")
    at = axis % (arrays[0].ndim + 1) if arrays else 0
    return concatenate([a.reshape((*a.shape[:at], 1, *a.shape[at:])) for a in arrays], axis=at)


def check_pad(x: Any, pad_width: Any, *, value: Any = 0.0) -> None:
    """A pair of lengths for each axis, and a number."""
    if not isinstance(pad_width, (list, tuple)) or not all(isinstance(p, (list, tuple)) for p in pad_width):
        raise TypeError(f"pad_width must be a sequence of pairs of ints, got {pad_width!r}")
    if len(pad_width) != x.ndim or any(len(p) != 2 for p in pad_width):
        raise ValueError(f"pad_width must be a pair (before, after) for each of {x.ndim} axes, got {pad_width}")
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"value must be a number, got {type(value).__name__}")
    for before, after in pad_width:
        check_size("pad_width", before, 0), check_size("pad_width", after, 0)


@differentiable(check=check_pad)
def pad(x: Tensor, pad_width: Sequence[tuple[int, int]], *, value: float = 0.0) -> Any:
    """value, a constant, added around x; pad_width has a pair (before, after) per axis, as in np.pad.

    value: a number (default 0). Errors: TypeError, ValueError for what is not a pair per axis or no number.

    >>> tb.pad(tb.tensor([1.0, 2.0]), [(1, 2)])
    tensor([0., 1., 2., 0., 0.])
    """
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pad_width, x.shape, strict=True))
    if isinstance(x, Tensor):  # the rule runs on tensors, for second derivatives
        y: Any = pad(x, pad_width, value=value)
    else:
        y = np.pad(x, pad_width, constant_values=value)
    return y, lambda dy: dy[inside]
