"""Numerical gradients, for a backward that is still to be written, or a check of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array, plain_array
from ..engine.recording import no_grad
from ..engine.tensors import Tensor
from .checking import settings
from .differences import Differences, flat, typical
from .extrapolation import UNIT
from .subject import untouched

METHODS = ("ridders", "central", "complex")
COMPLEX_STEP = 2.0**-100  # its square is lost beside any x


class Numerical(NamedTuple):
    """A numerical gradient: value, and the error bar of each element, both of the input's shape."""

    value: Array
    error: Array


def numerical_gradient(
    fn: Callable[..., Any],
    inputs: Array | Tensor | Sequence[Any],
    dy: float | Array | Tensor | Sequence[Array | Tensor] | None = None,
    method: str = "ridders",
    eps: float | None = None,
) -> Numerical | list[Numerical]:
    """The gradient of sum(dy * fn(*inputs)) from values of fn, with an error bar for each element.

    fn: takes the inputs, returns a number, an array or a Tensor, or a tuple of them.
    inputs: an array or Tensor of floats, or a sequence; gradients are computed for the arrays of floats, and for the
        Tensors that require grad, in float64.
    dy: what the outputs are weighted with, of their shapes; None (default) is 1, for one output of one element.
    method: "ridders" (default): several steps for each output, extrapolated (Ridders 1982); errors about 1e-12.
        "central": (f(x + eps) - f(x - eps)) / (2 eps), the error bar from twice that step; about 1e-9. At a kink both
        give the mean of the derivatives from the left and from the right.
        "complex": Im f(x + i h) / h with h = 2^-100, which subtracts nothing; a few 1e-16. Only for NumPy code that
        takes complex numbers and uses no abs, maximum, comparison or conjugate; compared with "central".
    eps: the step of "central", default 6e-6 max(1, |x|); for "ridders" the middle one of three, by default found for
        each element.

    Returns Numerical(value, error) for a single array or Tensor, else a list with one for each of them.
    Errors: TypeError, ValueError for arguments, and where the code does not allow for complex numbers; GradcheckError
    where fn writes into its argument. A RuntimeWarning where no output moves: fn must use its argument, the array that
    was given is not changed.

    >>> value, error = tb.numerical_gradient(lambda x: (x**3).sum(), np.array([1.0, 2.0]))
    >>> bool(np.abs(value - [3, 12]).max() < error.max() < 1e-9)
    True
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r:.40}")
    eps = settings(eps, 0, 0, 0).eps
    if not isinstance(inputs, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(f"inputs must be an array, a Tensor or a list of arguments, got {type(inputs).__name__}")
    single = isinstance(inputs, (Tensor, np.ndarray))
    given: list[Any] = [inputs] if single else list(inputs)
    places = [i for i, a in enumerate(given) if _moves(a)]
    if not places:
        raise ValueError("inputs must contain an array of floats, or a Tensor that requires grad, got none")
    work = [_array(given[i], i).astype(np.float64) for i in places]
    for i, a in zip(places, work, strict=True):
        if not np.isfinite(a).all():
            raise ValueError(f"inputs[{i}] must be finite, got NaN or inf in it")
    if method == "complex" and any(isinstance(a, Tensor) for a in given):
        raise TypeError("inputs must be arrays for method='complex', got a Tensor: Tensors hold no complex numbers")

    def outputs(arrays: Sequence[Array]) -> list[Any]:
        args = list(given)
        for i, a in zip(places, arrays, strict=True):
            args[i] = Tensor(a) if isinstance(given[i], Tensor) else a
        with no_grad():
            out = fn(*args)
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        for o in outs:
            if not isinstance(o, (Tensor, np.ndarray, np.generic, int, float, complex)):
                raise TypeError(
                    f"fn must return a number, an array, a Tensor or a tuple of them, got {type(o).__name__}: of a "
                    "loss and its gradients return the loss only, lambda w: loss(w)[0]"
                )
        found = [np.asarray(o.data if isinstance(o, Tensor) else o) for o in outs]
        for o in found:
            if o.dtype.kind not in ("fc" if np.iscomplexobj(arrays[0]) else "f"):
                raise TypeError(f"fn must return floats, got {o.dtype}")
        return found

    with untouched("fn", [f"inputs[{i}]" for i in places], work):
        outs = outputs(work)
    base, weights = flat(outs), _weights(dy, outs)
    ridders = Differences(lambda: flat(outputs(work)), base, np.zeros(base.size), eps)
    results = []
    for a in work:
        value, error, scale, moved = np.empty(a.shape), np.empty(a.shape), typical(a), False
        for e in np.ndindex(a.shape):
            if method == "ridders":
                column = ridders.column(ridders.samples([(a, e)]), scale)
                value[e] = weights[column.outputs] @ column.value
                error[e] = np.abs(weights[column.outputs]) @ column.error
                moved |= bool(column.outputs.size)
            else:
                *found, moves = _central(lambda: flat(outputs(work)), a, e, weights, eps)
                moved |= moves
                value[e], error[e] = _complex(outputs, work, a, e, weights, *found) if method == "complex" else found
        if a.size and not moved:
            warnings.warn(
                "fn gives the same for all values of its argument, which it must use: the array itself is not changed",
                RuntimeWarning,
                stacklevel=2,
            )
        results.append(Numerical(value, error))
    return results[0] if single else results


def _moves(a: Any) -> bool:
    return a.requires_grad if isinstance(a, Tensor) else isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _array(a: Any, i: int) -> Array:
    return a.data if isinstance(a, Tensor) else plain_array(a, f"inputs[{i}]")


def _weights(dy: Any, outs: list[Array]) -> Array:
    if dy is None:
        if sum(o.size for o in outs) != 1:
            shapes = ", ".join(str(o.shape) for o in outs)
            raise ValueError(f"dy must be given for outputs of shape {shapes} (not one element)")
        return np.ones(1)
    given = list(dy) if isinstance(dy, (tuple, list)) else [dy]
    if len(outs) == 1 and not (len(given) == 1 and isinstance(given[0], (Tensor, np.ndarray))):
        given = [dy]  # a list of numbers for the only output
    given = [d.data if isinstance(d, Tensor) else d for d in given]
    try:
        if any(np.asarray(d).dtype.kind not in "biuf" for d in given):
            raise TypeError(f"dy must hold real numbers, got {dy!r:.40}")
        arrays = [np.asarray(d, np.float64) for d in given]
    except (ValueError, OverflowError) as error:
        raise TypeError(f"dy must hold numbers, for outputs of shapes {[o.shape for o in outs]}: {error}") from error
    if [a.shape for a in arrays] != [o.shape for o in outs]:
        raise ValueError(f"dy must have the outputs' shapes {[o.shape for o in outs]}, got {[a.shape for a in arrays]}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("dy must be finite, got NaN or inf in it")
    return flat(arrays)


def _central(values: Any, a: Array, e: Any, weights: Array, eps: float | None) -> tuple[float, float, bool]:
    """The difference, its error bar, and whether any output moved."""
    center = a[e]
    h = 6e-6 * max(1.0, abs(center)) if eps is None else eps  # the cube root of the rounding
    if center + h == center:
        raise ValueError(f"eps must be larger than the rounding of an element of {center:.3g}, got {eps:.3g}")
    sums, rounding, moves = [], 0.0, False
    with np.errstate(all="ignore"):
        for step in (h, 2 * h):
            sides = []
            for s in (step, -step):
                a[e] = center + s
                sides.append(values())
            a[e] = center
            sums.append(float(weights @ (sides[0] - sides[1]) / (2 * step)))
            moves |= not np.array_equal(sides[0], sides[1], equal_nan=True)
            rounding = max(rounding, float(np.abs(weights) @ np.abs(sides[0])) * UNIT)
    return sums[0], abs(sums[0] - sums[1]) + 2 * rounding / h, moves


def _complex(
    outputs: Any, work: list[Array], a: Array, e: Any, weights: Array, central: float, bar: float
) -> tuple[float, float]:
    arrays = [w.astype(np.complex128) for w in work]
    moved = next(c for c, w in zip(arrays, work, strict=True) if w is a)
    moved[e] += 1j * COMPLEX_STEP
    refusal = "fn does not allow for method='complex'"
    try:
        with np.errstate(all="ignore"):
            outs = outputs(arrays)
            parts = np.concatenate([np.ravel(np.asarray(o, np.complex128)).imag for o in outs])
    except Exception as error:
        raise ValueError(f"{refusal}: {type(error).__name__}: {error}") from error
    value = float(weights @ parts / COMPLEX_STEP)
    if not abs(value - central) <= 10 * bar + 1e-6 * abs(central):
        raise ValueError(
            f"{refusal}: at element {tuple(int(k) for k in e)} it gives {value:.6g}, and differences {central:.6g} +- "
            f"{bar:.1g}: abs, maximum, comparisons and conjugates lose the imaginary part"
        )
    return value, 4 * UNIT * float(np.abs(weights) @ np.abs(parts) / COMPLEX_STEP)
