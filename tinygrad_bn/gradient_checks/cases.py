"""Inputs that show what one input cannot: a pytest decorator."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_int, check_iterable
from ..engine.tensors import Tensor
from .layouts import LAYOUTS

SMALL = (3, 5, 2, 7)  # sizes of the other axes, where one is long
LONG = (17, 67, 131, 523)  # primes, each beyond a block of 16, 64, 128, 512
MOST = 2400  # elements of all inputs together; longer axes are left out

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _ties(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Whole numbers from -1 to 2; two are 1, where there are two, and one is -1."""
    values = rng.integers(-1, 3, int(np.prod(shape))).astype(np.float64)
    values[:3] = [1, 1, -1][: values.size]
    rng.shuffle(values)
    return values.reshape(shape)


VALUES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "zeros": lambda rng, shape: np.where(rng.random(shape) < 0.4, 0.0, rng.standard_normal(shape)),
    "ties": _ties,
    "large": lambda rng, shape: 1e3 * rng.standard_normal(shape) + 1e4,
    "spread": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 3, shape),
    "small": lambda rng, shape: 1e-5 * rng.standard_normal(shape),
    "negative": lambda rng, shape: -0.1 - np.abs(rng.standard_normal(shape)),
    "positive": lambda rng, shape: 0.1 + np.abs(rng.standard_normal(shape)),
}


class Case(list[Any]):
    """The inputs of one case, a list of Tensors or arrays; its name says how they were made."""

    name: str


def gradcheck_cases(
    *shapes: str | Sequence[int | str],
    values: Sequence[str] | Mapping[str, Draw] = tuple(VALUES),
    arrays: bool = False,
    argument: str = "inputs",
    seed: int = 0,
) -> Callable[[Any], Any]:
    """A decorator that parametrizes a pytest function over inputs: what one input cannot show, another does.

        @tb.gradcheck_cases("n c", "c", "c")
        def test_affine(inputs):
            assert tb.gradcheck(affine, inputs)

    shapes: one per input, as names and numbers of axes: "n c" and (n, c) with the same n in all. Each name takes the
        sizes 1, small primes, 4, and 17, 67, 131, 523, beyond blocks of 16 to 512 elements, one axis at a time; "" has
        no axes.
    values: names out of normal, zeros (many of them), ties, large (about 1e4), spread (1e-4 to 1e2), small (1e-5),
        negative, positive; all by default. Or a dict from names to functions of (rng, shape), for an op that takes
        others.
    arrays: arrays for ``check_pair`` instead of Tensors that require grad (default False).
    argument: the parameter of the test function that gets the list of inputs (default "inputs").
    seed: of the values (default 0).
    Each kind of values, each size and each memory layout comes once, inputs of equal shape also as one and the same;
    cases of more than 2,400 elements are left out. Needs pytest. Errors: TypeError, ValueError for arguments.

    >>> @tb.gradcheck_cases("n c", "c", values=["normal", "zeros"])
    ... def test_multiply(inputs):
    ...     assert tb.gradcheck(lambda x, w: x * w, inputs)
    >>> test_multiply.pytestmark[0].args[1][0].name
    '3_5x5-normal'
    """
    import pytest

    if not isinstance(argument, str) or not argument.isidentifier():
        raise ValueError(f"argument must be the name of a parameter, got {argument!r:.40}")
    made = make_cases(*shapes, values=values, arrays=arrays, seed=seed)
    decorator: Callable[[Any], Any] = pytest.mark.parametrize(argument, made, ids=[c.name for c in made])
    return decorator


def make_cases(
    *shapes: str | Sequence[int | str],
    values: Sequence[str] | Mapping[str, Draw] = tuple(VALUES),
    arrays: bool = False,
    seed: int = 0,
) -> list[Case]:
    """The cases of gradcheck_cases, as a list."""
    axes = [_axes(s) for s in shapes]
    if not axes:
        raise ValueError('shapes must name at least one input, as "n c", got none')
    draws = _draws(values)
    check_flag("arrays", arrays)
    seed = check_int("seed", seed, 0, None)
    names = list(dict.fromkeys(a for axis in axes for a in axis if isinstance(a, str)))
    small = {n: SMALL[i % len(SMALL)] for i, n in enumerate(names)}
    kinds, first = itertools.cycle(draws), next(iter(draws))

    plans: list[tuple[dict[str, int], str, str, bool]] = [(small, kind, "", False) for kind in draws]
    plans += [(small, first, layout, False) for layout in LAYOUTS]
    if names:
        plans.append(({n: 1 for n in names}, first, "", False))
    for name in names:
        plans += [({**small, name: n}, next(kinds), "", False) for n in (1, 4)]
        for long in LONG:
            others = small if long < 100 else dict.fromkeys(names, 2 if len(names) < 3 else 1)
            plans.append(({**others, name: long}, first, "", False))
    if len({tuple(a) for a in axes}) < len(axes):
        plans.append((small, first, "", True))

    cases: dict[str, Case] = {}
    for number, (sizes, kind, layout, same) in enumerate(plans):
        full = [tuple(sizes[a] if isinstance(a, str) else a for a in axis) for axis in axes]
        if sum(int(np.prod(s)) for s in full) > MOST and sizes is not small:
            continue
        rng = np.random.default_rng([seed, 11, number])
        data = [_drawn(kind, draws[kind], rng, s) for s in full]
        data = [LAYOUTS[layout](a) for a in data] if layout else data
        inputs: list[Any] = data if arrays else [Tensor(a, requires_grad=True) for a in data]
        if same:
            once: dict[tuple[int, ...], Any] = {}
            inputs = [once.setdefault(s, a) for s, a in zip(full, inputs, strict=True)]
        case = Case(inputs)
        sized = "x".join("_".join(map(str, s)) or "0d" for s in full)
        case.name = "-".join([sized, kind, *([layout] if layout else []), *(["repeated"] if same else [])])
        cases[case.name] = case
    return list(cases.values())


def _drawn(kind: str, draw: Draw, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values = np.asarray(draw(rng, shape))
    if values.dtype.kind not in "biuf" or values.shape != shape:
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"values[{kind!r}] must give real numbers of shape {shape}, got {got}")
    return values.astype(np.float64)


def _axes(shape: Any) -> list[int | str]:
    parts = shape.split() if isinstance(shape, str) else shape
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f'shapes must be strings such as "n c" or tuples, got {type(shape).__name__}')
    axes: list[int | str] = []
    for part in parts:
        if isinstance(part, str) and not part.isdecimal():
            if not re.fullmatch(r"[A-Za-z_]\w*", part):
                raise ValueError(f"shapes must be made of names and numbers, got {part!r:.40}")
            axes.append(part)
        else:
            axes.append(check_int("an axis in shapes", int(part) if isinstance(part, str) else part, 0))
    return axes


def _draws(values: Any) -> dict[str, Draw]:
    if isinstance(values, Mapping):
        if not values or not all(isinstance(k, str) and callable(v) for k, v in values.items()):
            raise TypeError("values must map names to functions of (rng, shape)")
        return dict(values)
    names = [values] if isinstance(values, str) else check_iterable("values", values, "names")
    if not names or (unknown := [n for n in names if not isinstance(n, str) or n not in VALUES]):
        raise ValueError(f"values must be of {', '.join(VALUES)}, got {unknown if names else names}")
    return {n: VALUES[n] for n in names}
