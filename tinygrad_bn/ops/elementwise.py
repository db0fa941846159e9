"""Elementwise primitives: arithmetic, powers, exp and log, and choices between two values.

Each is the derivative rule of a first calculus course, written with operators and NumPy functions, so that it reads
the same for arrays and for tensors (which makes it differentiable again, see tape.py). Arguments broadcast as in
NumPy; the engine sums the gradients back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Array, as_array, plain_array
from ..engine.guards import explain
from ..engine.operators import OPS, implements
from ..engine.replay_notes import note
from ..engine.tape import differentiable
from ..engine.tensors import Tensor


@implements(np.add)
@differentiable
def add(a: Any, b: Any) -> Any:
    """a + b"""
    return a + b, lambda dy: (dy, dy)


@implements(np.subtract)
@differentiable
def subtract(a: Any, b: Any) -> Any:
    """a - b"""
    return a - b, lambda dy: (dy, lambda: -dy)


@implements(np.multiply)
@differentiable
def multiply(a: Any, b: Any) -> Any:
    """a b"""
    return a * b, lambda dy: (lambda: dy * b, lambda: dy * a)


@implements(np.divide)
@differentiable
def divide(a: Any, b: Any) -> Any:
    """a / b;  da = dy / b,  db = -dy y / b"""
    y = a / b
    return y, lambda dy: (lambda: dy / b, lambda: -dy * (y / b))  # not a / (b b): b b may overflow, or be 0


@implements(np.negative)
@differentiable
def negative(a: Any) -> Any:
    """-a"""
    return -a, lambda dy: -dy


def check_power(a: Any, b: Any) -> None:
    """Two numbers or arrays of them."""
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, (Tensor, np.ndarray, int, float, np.generic)):
            raise TypeError(f"{name} must be a Tensor, an array or a number, got {type(value).__name__}")


@implements(np.power)
@differentiable(check=check_power)
def power(a: Any, b: Any) -> Any:
    """a ** b;  da = b a^(b-1) dy,  db = log(a) a^b dy

    Where b = 0 the first is 0 also at a = 0 and for an infinite dy, where a = 0 and b >= 0 the second is 0 (the limit
    for b > 0), as in PyTorch.
    """

    def da(dy: Any) -> Any:
        zero = b == 0
        return np.where(zero, 0, dy * (b * a ** np.where(zero, 1, b - 1)))

    def db(dy: Any) -> Any:
        zero = (a == 0) & (b >= 0)
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 where b < 0
            return dy * np.where(zero, 0, a**b * np.log(np.where(zero, 1, a)))

    if isinstance(b, (int, float)):  # x**2: no arrays of exponents
        if b == 0:
            return a**b, lambda dy: np.where(np.isnan(dy) | True, 0, dy)  # zeros, whatever dy holds
        return a**b, lambda dy: dy * (b * a ** (b - 1))
    if isinstance(a, (int, float)) and a != 0:  # 2**x
        slope = math.log(a) if a > 0 else math.nan
        return a**b, lambda dy: (None, dy * a**b * slope)
    y = a**b
    a = y.dtype.type(a) if isinstance(a, (int, float)) else a
    # booleans and small integers in y's dtype: their b - 1 would make a float64, their logarithm a float16
    a, b = (v.astype(y.dtype) if isinstance(v, np.ndarray) and v.dtype.kind in "biu" else v for v in (a, b))
    return y, lambda dy: (lambda: da(dy), lambda: db(dy))


@implements(np.exp)
@differentiable
def exp(x: Tensor) -> Any:
    """e^x;  dx = y dy

    >>> tb.exp(tb.tensor([0.0, 1.0])).data.round(3)
    array([1.   , 2.718], dtype=float32)
    """
    y = np.exp(x)
    return y, lambda dy: dy * y


@implements(np.log)
@differentiable
def log(x: Tensor) -> Any:
    """The natural logarithm;  dx = dy / x

    >>> x = tb.tensor([1.0, 4.0], requires_grad=True)
    >>> tb.log(x).sum().backward()
    >>> x.grad  # 1 / x
    array([1.  , 0.25], dtype=float32)
    """
    return np.log(x), lambda dy: dy / x


@implements(np.sqrt)
@differentiable
def sqrt(x: Tensor) -> Any:
    """The square root;  dx = dy / (2 y)

    >>> x = tb.tensor([4.0, 16.0], requires_grad=True)
    >>> y = tb.sqrt(x)
    >>> y.sum().backward()
    >>> y.data, x.grad  # 1 / (2 y)
    (array([2., 4.], dtype=float32), array([0.25 , 0.125], dtype=float32))
    """
    y = np.sqrt(x)
    return y, lambda dy: dy / (2 * y)


@implements(np.tanh)
@differentiable
def tanh(x: Any) -> Any:
    """The hyperbolic tangent;  dx = (1 - y^2) dy: the primitive. F.tanh is the same with a kernel for dx."""
    y = np.tanh(x)
    return y, lambda dy: dy * (1 - y * y)


@implements(np.absolute)
@differentiable
def absolute(x: Tensor) -> Any:
    """|x|;  dx = sign(x) dy, 0 at 0

    >>> x = tb.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    >>> tb.absolute(x).sum().backward()
    >>> x.grad
    array([-1.,  0.,  1.], dtype=float32)
    """
    return abs(x), lambda dy: dy * np.sign(x)


@implements(np.maximum)
@differentiable
def maximum(a: Tensor | Array | float, b: Tensor | Array | float) -> Any:
    """The larger of a and b (NaN if either is); where they are equal each gets half of the gradient.

    >>> a = tb.tensor([1.0, 5.0, 3.0], requires_grad=True)
    >>> y = tb.maximum(a, 3.0)
    >>> y.sum().backward()
    >>> y.data, a.grad
    (array([3., 5., 3.], dtype=float32), array([0. , 1. , 0.5], dtype=float32))
    """
    y = np.maximum(a, b)
    return y, lambda dy: (
        lambda: np.where(a == b, dy * 0.5, np.where(a < b, 0, dy)),
        lambda: np.where(a == b, dy * 0.5, np.where(a > b, 0, dy)),
    )


@implements(np.minimum)
@differentiable
def minimum(a: Tensor | Array | float, b: Tensor | Array | float) -> Any:
    """The smaller of a and b (NaN if either is); where they are equal each gets half of the gradient.

    >>> a = tb.tensor([1.0, 5.0, 3.0], requires_grad=True)
    >>> y = tb.minimum(a, 3.0)
    >>> y.sum().backward()
    >>> y.data, a.grad
    (array([1., 3., 3.], dtype=float32), array([1. , 0. , 0.5], dtype=float32))
    """
    y = np.minimum(a, b)
    return y, lambda dy: (
        lambda: np.where(a == b, dy * 0.5, np.where(a > b, 0, dy)),
        lambda: np.where(a == b, dy * 0.5, np.where(a < b, 0, dy)),
    )


def check_where(condition: Any, a: Any, b: Any) -> None:
    """A condition of booleans, and numbers to choose from."""
    if isinstance(condition, Tensor) or as_array(condition).dtype.kind != "b":
        raise TypeError(f"condition must be a boolean array, got {getattr(condition, 'dtype', type(condition))}")
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, Tensor) and as_array(value).dtype.kind not in "biuf":
            raise TypeError(f"{name} must be a Tensor, an array of numbers or a number, got {value!r:.40}")


@implements(np.where)
@differentiable(check=check_where)
def where(condition: Array, a: Tensor | Array | float, b: Tensor | Array | float) -> Any:
    """a where condition (a boolean array) holds, b elsewhere.

    Errors: TypeError for another condition (x > 0 of a Tensor is one), and for a and b that are no numbers.

    >>> x = tb.tensor([-1.0, 2.0])
    >>> tb.where(x > 0, x, 10 * x)
    tensor([-10.,   2.])
    """
    return np.where(condition, a, b), lambda dy: (
        None,
        lambda: np.where(condition, dy, 0),
        lambda: np.where(condition, 0, dy),
    )


def check_clip(x: Any, min: Any = None, max: Any = None) -> None:
    """Numbers or None, and not both None."""
    for name, bound in (("min", min), ("max", max)):
        if bound is not None and not isinstance(bound, (int, float)):
            raise TypeError(f"{name} must be a number or None, got {type(bound).__name__}")
    if min is None and max is None:
        raise ValueError("clip needs min or max, got None for both")


@implements(np.clip)
@differentiable(check=check_clip)
def clip(x: Tensor, min: float | None = None, max: float | None = None) -> Any:
    """min(max(x, min), max) for numbers min and max; the gradient passes where min <= x <= max (and where x is NaN).

    None (default) leaves a side open. Errors: TypeError for bounds that are not numbers, ValueError for none.

    >>> tb.clip(tb.tensor([-2.0, 0.5, 3.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """

    def pullback(dy: Any) -> Any:
        outside: Any = np.zeros(x.shape, bool)
        if min is not None:
            outside = outside | (x < min)
        if max is not None:
            outside = outside | (x > max)
        return np.where(outside, 0, dy)

    return np.clip(x, min, max), pullback


def _constant(function: Any) -> Any:
    """A function whose derivative is zero almost everywhere: on tensors it gives a plain array."""

    names = ("x",) if getattr(function, "nin", 1) == 1 else ("a", "b")

    def on_arrays(*arrays: Any) -> Any:
        for name, a in zip(names, arrays, strict=False):
            if type(a) is not np.ndarray and isinstance(a, np.ndarray):
                plain_array(a, name)
        try:
            return function(*arrays)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            explain(error, function.__name__, list(names), list(arrays))
            raise

    on_arrays.__name__ = function.__name__
    if function in (np.shape, np.ndim, np.size):  # which say nothing of values
        return lambda *args: on_arrays(*(a._data if isinstance(a, Tensor) else a for a in args))
    return lambda *args: note(on_arrays, args, decides=True)


_CONSTANT: tuple[Any, ...] = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
_CONSTANT += (np.sign, np.isnan, np.shape, np.ndim, np.size)
for _function in _CONSTANT:
    OPS[_function] = _constant(_function)
