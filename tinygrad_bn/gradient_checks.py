"""Gradient checks: the analytic gradient against finite differences, every element, from a random cotangent.

Why a random cotangent: the sum of a normalized output is constant in the input, so that a check seeded with ones
accepts a backward that returns zeros. Random weights leave no such hiding place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backward import grad
from .checks import check_int, check_iterable, check_number
from .tensors import Array, Tensor, enable_grad, no_grad


class GradcheckError(AssertionError):
    """The analytic and the numerical gradient differ; the message says where and by how much.

    >>> @tb.differentiable
    ... def wrong(x):
    ...     return x**2, lambda dy: x * dy  # the 2 is missing
    >>> try:
    ...     tb.gradcheck(wrong, tb.tensor(np.ones(1), requires_grad=True))
    ... except tb.GradcheckError:
    ...     print("caught")
    caught
    """


def _outputs(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    out = fn(*inputs)
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    for t in outs:
        if not isinstance(t, Tensor):
            raise TypeError(f"fn must return a Tensor or a tuple of Tensors, got {type(t).__name__}")
    return outs


def _check_settings(fn: Any, eps: Any, atol: Any, rtol: Any, seed: Any) -> None:
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if isinstance(eps, Tensor):
        raise TypeError("eps must be a number, got a Tensor: several inputs go in a list, gradcheck(fn, [x, w])")
    for name, number in (("eps", eps), ("atol", atol), ("rtol", rtol)):
        check_number(name, number, 0)
    if eps == 0:
        raise ValueError("eps must be > 0, got 0")
    check_int("seed", seed, 0, None)


def _checked(inputs: Any) -> tuple[list[Any], list[int]]:
    inputs = [inputs] if isinstance(inputs, Tensor) else check_iterable("inputs", inputs, "arguments")
    checked = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise ValueError("inputs must contain a Tensor with requires_grad=True, got none")
    for i in checked:
        if inputs[i].dtype != np.float64:
            raise ValueError(f"inputs[{i}] must be float64 (finite differences need the digits), got {inputs[i].dtype}")
    return inputs, checked


@contextmanager
def _untouched(who: str, names: Sequence[str], arrays: Sequence[Array]) -> Iterator[None]:
    """Raise if what runs within it writes into one of the arrays; that one gets its values back."""
    before = [a.copy() for a in arrays]
    yield
    for name, array, values in zip(names, arrays, before, strict=True):
        if not np.array_equal(array, values, equal_nan=True):
            array[...] = values
            raise GradcheckError(f"{who} wrote into {name}: an op must leave its arguments as they are, and copy them")


def _random_like(outs: Sequence[Tensor], seed: int, stream: int) -> list[Array]:
    # A stream of its own: inputs drawn from default_rng(seed) would equal the cotangents, and such a coincidence can
    # hide a mistake (it hid one in the gradient of whitening).
    rng = np.random.default_rng([seed, 7, stream])
    return [rng.standard_normal(t.shape).astype(t.dtype) for t in outs]


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-5,
    *,
    seed: int = 0,
) -> bool:
    """Compare the gradient of fn with central differences, for every element of every input that requires grad.

        numerical = (f(x + eps) - f(x - eps)) / (2 eps),    f(x) = sum(cotangent * fn(x))

    fn: takes the inputs, returns a Tensor or a tuple of them; must be deterministic. inputs: a Tensor or a
    sequence; those that require grad must be float64. eps: default 1e-6. The cotangent, the
    outputs' dy, is drawn from N(0, 1) with seed (default 0).
    Passes where |analytic - numerical| <= atol + rtol |numerical| (1e-7 and 1e-5), and returns True.
    Don't sum the outputs in fn: the sum of a normalized output is constant, and a backward that gives zeros passes.
    Errors: GradcheckError naming the input, how many of its elements are wrong, the worst one with both values, and the
    factor where all that are wrong have one in common. A value that is not finite fails, and so does an op that writes
    into one of these inputs, or its pullback into them or into dy. TypeError, ValueError for arguments.

    >>> x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> tb.gradcheck(lambda x: x**3, x)
    True
    """
    _check_settings(fn, eps, atol, rtol, seed)
    inputs, checked = _checked(inputs)
    names, arrays = [f"input {i}" for i in checked], [inputs[i].data for i in checked]
    with _untouched("fn", names, arrays):
        outs = _outputs(fn, inputs)
    cotangents = _random_like(outs, seed, 0)
    used = [(t, c) for t, c in zip(outs, cotangents, strict=True) if t.requires_grad]
    if not used:
        raise GradcheckError("no output of fn depends on an input that requires grad")
    for again, t in zip(_outputs(fn, inputs), outs, strict=True):
        if not np.array_equal(again.data, t.data, equal_nan=True):
            raise GradcheckError("fn gave two different outputs for the same inputs: it is not deterministic")

    def value() -> float:
        return sum(float(np.sum(t.data * c)) for t, c in zip(_outputs(fn, inputs), cotangents, strict=True))

    seeds = [c for _, c in used]
    with _untouched("a pullback", [*names, *["dy"] * len(seeds)], [*arrays, *seeds]):
        analytic = grad([t for t, _ in used], [inputs[i] for i in checked], seeds, allow_unused=True)
    with no_grad():
        for i, g in zip(checked, analytic, strict=True):
            g = np.zeros(inputs[i].shape) if g is None else g
            numerical = _numerical(value, inputs[i], eps)
            right = np.isclose(g, numerical, rtol, atol) & np.isfinite(numerical)  # inf is close to inf: shows nothing
            if not right.all():
                raise GradcheckError(
                    f"input {i}: {_mistake(right, g, numerical, 'analytic gradient', 'numerical', rtol, atol)}; "
                    "both are of the sum of the outputs times a random dy, see help(gradcheck)"
                )
    return True


def _numerical(value: Callable[[], float], t: Tensor, eps: float) -> Array:
    """The central difference of value() for each element of t, which value() reads."""
    original = t.data
    work = original.copy(order="K")  # the same memory layout, so that fn sees the same kind of array
    numerical = np.empty(t.shape)
    t.data = work
    try:
        for index in np.ndindex(t.shape):
            sides = []
            for step in (eps, -eps):
                work[index] = original[index] + step
                sides.append(value())
            work[index] = original[index]
            numerical[index] = (sides[0] - sides[1]) / (2 * eps)
    finally:
        t.data = original
    return numerical


def _mistake(right: Array, a: Array, b: Array, a_name: str, b_name: str, rtol: float, atol: float) -> str:
    """How many elements of a are wrong, the worst of them, and the factor to b where they have one in common."""
    wrong = ~right
    count = np.count_nonzero(wrong)
    with np.errstate(all="ignore"):  # inf - inf, and b may be 0
        difference = np.where(wrong, np.abs(a - b), -1)  # of which argmax takes NaN for the largest
        worst = tuple(int(k) for k in np.unravel_index(difference.argmax(), a.shape))
        factor = a[worst] / b[worst] + 0.0  # -0 becomes 0
        shared = count > 1 and np.allclose(a[wrong], factor * b[wrong], rtol, atol)
    all_alike = f", all {factor:.6g} times the {b_name} one" if shared else ""
    return (
        f"{count} of {a.size} elements wrong{all_alike}; worst: element {worst}, "
        f"{a_name} {a[worst]:.10g}, {b_name} {b[worst]:.10g} (differ by {difference[worst]:.3g})"
    )


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-5,
    *,
    seed: int = 0,
) -> bool:
    """gradcheck of the gradient of fn, as a function of the inputs and of the cotangents: second derivatives.

    First the gradient with create_graph=True, which comes from the ops' definitions, is compared with the one without,
    and the latter must be linear in the cotangents: a pullback that leaves dy out has consistent second derivatives,
    of another function. Whether the first derivatives are right, gradcheck says.
    fn, inputs, eps, atol, rtol, seed: as in gradcheck. Errors: as gradcheck, GradcheckError above all; in its messages
    the cotangents are numbered on after the inputs.

    >>> x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> tb.gradgradcheck(lambda x: x**3, x)
    True
    """
    _check_settings(fn, eps, atol, rtol, seed)
    inputs, checked = _checked(inputs)
    names, arrays = [f"input {i}" for i in checked], [inputs[i].data for i in checked]
    with _untouched("fn", names, arrays):
        outs = _outputs(fn, inputs)
    cotangents = [Tensor(c, requires_grad=True) for c in _random_like(outs, seed, 1)]

    def gradient(*args: Any) -> tuple[Tensor, ...]:
        given, seeds = args[: len(inputs)], args[len(inputs) :]
        results = _outputs(fn, given)
        used = [(t, s) for t, s in zip(results, seeds, strict=True) if t.requires_grad]
        targets = [given[i] for i in checked]
        found = grad([t for t, _ in used], targets, [s for _, s in used], create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    def first(*args: Any) -> tuple[Tensor, ...]:
        with enable_grad():  # gradients are taken inside, also while finite differences run without recording
            return gradient(*args)

    used = [(t, c.data) for t, c in zip(outs, cotangents, strict=True) if t.requires_grad]
    results, targets = [t for t, _ in used], [inputs[i] for i in checked]
    seeds, doubled_seeds = [c for _, c in used], [np.asarray(2 * c) for _, c in used]
    with _untouched("a pullback", [*names, *["dy"] * len(seeds)], [*arrays, *seeds]):
        plain = grad(results, targets, seeds, retain_graph=True, allow_unused=True)
        twice = grad(results, targets, doubled_seeds, retain_graph=True, allow_unused=True)
    for i, g, doubled in zip(checked, plain, twice, strict=True):
        if g is None:
            continue
        right = np.isclose(doubled, 2 * g, rtol, atol, equal_nan=True)
        if not right.all():
            raise GradcheckError(
                f"input {i}: the gradient is not linear in dy, twice the dy does not double it: "
                f"{_mistake(right, doubled, 2 * g, 'found', 'expected', rtol, atol)}"
            )
    twice_differentiable = iter(first(*inputs, *cotangents))
    for i, expected in zip(checked, plain, strict=True):
        if expected is None:
            continue
        found = next(twice_differentiable).data
        right = np.isclose(found, expected, rtol, atol, equal_nan=True)
        if not right.all():
            raise GradcheckError(
                f"input {i}: the gradient recorded with create_graph=True differs from the plain one: "
                f"{_mistake(right, found, expected, 'recorded', 'plain', rtol, atol)}"
            )
    return gradcheck(first, [*inputs, *cotangents], eps, atol, rtol, seed=seed)
