"""Wrong backwards that look right, and right ones that look wrong: what a gradient check is measured by.

Each entry is a rule, a function of arrays that returns (result, pullback), made anew for each check, since some keep
state. At its own inputs, one set per entry, and over cases (``shapes``, ``values``). ``hidden``: why the mistake cannot
be seen at the entry's inputs; then only cases may find it.

    python -m tests.harness.gradient_battery        the table, with PyTorch's check beside it where it is installed
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn.gradient_checks.cases import make_cases

SMOOTH = ("normal", "zeros", "ties", "spread", "negative")


@dataclass
class Entry:
    name: str
    kind: str
    make: Callable[[], Callable[..., Any]]
    inputs: list[Any]  # shapes, drawn from N(0, 1), or arrays
    shapes: tuple[str, ...] = ()
    values: Any = SMOOTH
    hidden: str = ""
    seed: int = 0

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, 3])
        return [rng.standard_normal(a) if isinstance(a, tuple) else np.asarray(a, float) for a in self.inputs]

    def rejected(self, factor: float = 1.0, arrays: list[np.ndarray] | None = None) -> bool:
        """Whether gradcheck rejects the rule, its gradient times factor."""
        rule = scaled(self.make(), factor) if factor != 1 else self.make()
        op = tb.differentiable(rule)
        inputs = [tb.Tensor(a, requires_grad=True) for a in (self.arrays() if arrays is None else arrays)]
        try:
            tb.gradcheck(op, inputs)
        except tb.GradcheckError:
            return True
        return False

    def rejected_over_cases(self) -> bool:
        cases = make_cases(*self.shapes, values=self.values, arrays=True)
        return any(self.rejected(arrays=case) for case in cases)

    def rejected_by_pytorch(self) -> bool:
        import torch

        rule = self.make()

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                y, ctx.pullback = rule(*[a.detach().numpy() for a in args])
                return torch.from_numpy(np.array(y))

            @staticmethod
            def backward(ctx: Any, dy: Any) -> Any:
                g = ctx.pullback(dy.numpy())
                g = g if isinstance(g, tuple) else (g,)
                return tuple(None if a is None else torch.from_numpy(np.array(a() if callable(a) else a)) for a in g)

        inputs = [torch.from_numpy(np.array(a)).requires_grad_() for a in self.arrays()]
        try:
            return not torch.autograd.gradcheck(Function.apply, inputs)
        except Exception:
            return True


def scaled(rule: Callable[..., Any], factor: float) -> Callable[..., Any]:
    def other(*args: Any) -> Any:
        y, pullback = rule(*args)

        def back(dy: Any) -> Any:
            g = pullback(dy)
            return tuple(factor * a for a in g) if isinstance(g, tuple) else factor * g

        return y, back

    return other


# Right rules, which are made wrong below


def square(x):
    return x * x, lambda dy: 2 * x * dy


def sine(x):
    return np.sin(x), lambda dy: np.cos(x) * dy


def tanh(x):
    y = np.tanh(x)
    return y, lambda dy: (1 - y * y) * dy


def sigmoid(x):
    y = 1 / (1 + np.exp(-x))
    return y, lambda dy: y * (1 - y) * dy


def relu(x):
    return np.maximum(x, 0), lambda dy: dy * (x > 0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    return y, lambda dy: y * (dy - (y * dy).sum(axis=-1, keepdims=True))


def product(a, b):
    return a @ b, lambda dy: (dy @ b.T, a.T @ dy)


def affine(x, w, b):
    return x @ w.T + b, lambda dy: (dy @ w, dy.T @ x, dy.sum(axis=0))


def cumsum(x):
    return np.cumsum(x, axis=0), lambda dy: np.flip(np.cumsum(np.flip(dy, 0), axis=0), 0)


def largest(x):
    """The maximum over the last axis; equal elements get equal parts."""
    y = x.max(axis=-1, keepdims=True)
    mask = x == y
    return y, lambda dy: dy * mask / mask.sum(axis=-1, keepdims=True)


def norm_parts(x, eps):
    mean, var = x.mean(axis=0), x.var(axis=0)
    rstd = 1 / np.sqrt(var + eps)
    return (x - mean) * rstd, rstd


def batch_norm(x, g, b, eps=1e-5):
    x_hat, rstd = norm_parts(x, eps)

    def pullback(dy):
        d = dy * g
        return rstd * (d - d.mean(axis=0) - x_hat * (d * x_hat).mean(axis=0)), (dy * x_hat).sum(axis=0), dy.sum(axis=0)

    return g * x_hat + b, pullback


def layer_norm(x, eps=1e-5):
    x_hat, rstd = norm_parts(x.T, eps)
    x_hat, rstd = x_hat.T, rstd[:, None]

    def pullback(dy):
        return rstd * (dy - dy.mean(axis=1, keepdims=True) - x_hat * (dy * x_hat).mean(axis=1, keepdims=True))

    return x_hat, pullback


def correlate(x, w):
    """y_i = sum_j w_j x_(i + j)"""
    n = x.size - w.size + 1
    y = np.array([x[i : i + w.size] @ w for i in range(n)])

    def pullback(dy):
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for i in range(n):
            dx[i : i + w.size] += dy[i] * w
            dw += dy[i] * x[i : i + w.size]
        return dx, dw

    return y, pullback


def logsumexp(x):
    m = x.max(axis=-1, keepdims=True)
    e = np.exp(x - m)
    s = e.sum(axis=-1, keepdims=True)
    return m + np.log(s), lambda dy: dy * e / s


def unit(x):
    n = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    y = x / n
    return y, lambda dy: (dy - y * (dy * y).sum(axis=-1, keepdims=True)) / n


def clip(x):
    return np.clip(x, -1.5, 1.5), lambda dy: dy * (np.abs(x) <= 1.5)


def gather(x):
    index = np.arange(2 * len(x)) % len(x)

    def pullback(dy):
        g = np.zeros_like(x)
        np.add.at(g, index, dy)
        return g

    return x[index], pullback


WRONG: list[Entry] = []
RIGHT: list[Entry] = []


def wrong(name, kind, rule, inputs, shapes=(), **rest):
    WRONG.append(Entry(name, kind, rule if rest.pop("made", False) else lambda: rule, inputs, shapes, **rest))


def right(name, kind, rule, inputs, **rest):
    RIGHT.append(Entry(name, kind, rule if rest.pop("made", False) else lambda: rule, inputs, **rest))


def change(rule, how):
    """The rule with another gradient: how(g, dy, args), where g is what the right pullback gives for dy."""

    def changed(*args):
        y, pullback = rule(*args)
        return y, lambda dy: how(pullback(dy), dy, args)

    return changed


ONE, MATRIX = [(6,)], [(4, 3)]
N, NC = ("n",), ("n c",)

# 1. Small errors, in absolute or relative size
tiny = lambda x: (1e-8 * x * x, lambda dy: 0 * x)
wrong("1e-8 x^2, gradient 0", "small", tiny, ONE, N)
wrong("1e-20 x^2, gradient 0", "small", lambda x: (1e-20 * x * x, lambda dy: 0 * x), ONE, N)
wrong("1e-8 sin, sign", "small", lambda x: (1e-8 * np.sin(x), lambda dy: -1e-8 * np.cos(x) * dy), ONE, N)
for factor in (1 + 8e-6, 1 + 1e-6, 1 + 3e-8, 1 - 1e-4):
    wrong(f"sin, times 1 + {factor - 1:.0e}", "small", scaled(sine, factor), ONE, N)
wrong("tanh, plus 5e-8", "small", change(tanh, lambda g, dy, a: g + 5e-8), ONE, N)
wrong("x^2, plus 5e-8 dy", "small", change(square, lambda g, dy, a: g + 5e-8 * dy), ONE, N)
wrong("sin, gradient float32", "small", change(sine, lambda g, dy, a: g.astype("f4").astype("f8")), ONE, N)
wrong("sin, dy float32", "small", lambda x: (np.sin(x), lambda dy: np.cos(x) * dy.astype("f4").astype("f8")), ONE, N)
wrong(
    "batch norm, x_hat float32",
    "small",
    lambda x, g, b: (batch_norm(x, g, b)[0], lambda dy: batch_norm(x.astype("f4").astype("f8"), g, b)[1](dy)),
    [(6, 3), (3,), (3,)],
    ("n c", "c", "c"),
)
wrong(
    "log(x + 1e-7) as log x",
    "small",
    lambda x: (np.log(x + 1e-7), lambda dy: dy / x),
    [np.linspace(0.5, 3, 6)],
    N,
    values=("positive",),
)
wrong(
    "sqrt, y + 1e-8 below",
    "small",
    lambda x: (np.sqrt(x), lambda dy: dy / (2 * np.sqrt(x) + 1e-8)),
    [np.linspace(0.5, 3, 6)],
    N,
    values=("positive",),
)
wrong("pi as 3.1415926", "small", lambda x: (np.sin(np.pi * x), lambda dy: 3.1415926 * np.cos(np.pi * x) * dy), ONE, N)
wrong(
    "gelu, derivative of tanh's approximation",
    "small",
    lambda x: (
        np.array([0.5 * v * (1 + np.tanh(0.7978845608 * (v + 0.044715 * v**3))) for v in x.ravel()]).reshape(x.shape),
        lambda dy: dy * (0.5 * (1 + np.tanh(0.8 * x)) + 0.4 * x / np.cosh(0.8 * x) ** 2),
    ),
    ONE,
    N,
)

# 2. An output that drowns
stacked = lambda f, g: lambda x: (np.stack([1e7 * x, f(x)]), g)
wrong("stack(1e7 x, x^2), second left out", "drowns", stacked(lambda x: x * x, lambda dy: 1e7 * dy[0]), ONE, N)
wrong("stack(1e7 x, x), sign of second", "drowns", stacked(lambda x: x, lambda dy: 1e7 * dy[0] - dy[1]), ONE, N)
wrong(
    "stack(x^2, 1e-9 x), second left out",
    "drowns",
    lambda x: (np.stack([x * x, 1e-9 * x]), lambda dy: 2 * x * dy[0]),
    ONE,
    N,
)
wrong(
    "1e9 x + offset per row, one row",
    "drowns",
    lambda x: (np.concatenate([1e9 * x, x[:1] ** 3]), lambda dy: 1e9 * dy[:-1]),
    ONE,
    N,
)
wrong(
    "last output of many left out",
    "drowns",
    lambda x: (
        np.append(np.outer(x, 1e5 * np.arange(1, 9)).ravel(), x.sum()),
        lambda dy: dy[:-1].reshape(x.size, 8) @ (1e5 * np.arange(1, 9)),
    ),
    ONE,
    N,
)

wrong(
    "one of 41 outputs left out, 1e-11 of the others",
    "drowns",
    lambda x: (np.append(1e8 * x, 1e-3 * x.sum()), lambda dy: 1e8 * dy[:-1].reshape(x.shape)),
    [(40,)],
    N,
)

# 3. What is done with dy
for name, how in {
    "NaN where dy = 0": lambda dy: dy * dy / dy,
    "dy clipped at 5": lambda dy: np.clip(dy, -5, 5),
    "dy below 1e-3 dropped": lambda dy: np.where(np.abs(dy) < 1e-3, 0, dy),
    "dy left out": np.ones_like,
    "|dy|": np.abs,
    "dy averaged": lambda dy: np.full_like(dy, dy.mean()),
    "dy^3": lambda dy: dy**3,
    "dy normalized": lambda dy: dy / np.sqrt((dy * dy).sum()),
    "dy clipped by its norm, at 100": lambda dy: dy * min(1.0, 100 / (np.sqrt((dy * dy).sum()) + 1e-300)),
    "dy plus 1e-12": lambda dy: dy + 1e-12,
    "dy float16": lambda dy: dy.astype("f2").astype("f8"),
    "NaN in dy set to 0, and large dy": lambda dy: np.where(np.abs(dy) > 1e4, 0, dy),
}.items():
    wrong(f"sin, {name}", "dy", lambda x, how=how: (np.sin(x), lambda dy: np.cos(x) * how(dy)), ONE, N)

# 4. Memory layouts


def as_in_memory(a):
    return np.ravel(a, order="K").reshape(a.shape)


def buffer_of(a):
    """What C code sees that is given a pointer and no strides, inside of what it may read."""
    whole = a if a.base is None else a.base
    flat = np.ravel(whole, order="K")
    return np.resize(flat, a.size).reshape(a.shape)


wrong(
    "sin, dy as it lies in memory", "layout", lambda x: (np.sin(x), lambda dy: np.cos(x) * as_in_memory(dy)), MATRIX, NC
)
wrong(
    "tanh, dy by its pointer",
    "layout",
    lambda x: (np.tanh(x), lambda dy: (1 - np.tanh(x) ** 2) * buffer_of(dy)),
    MATRIX,
    NC,
)
wrong(
    "square, x as it lies in memory in the backward",
    "layout",
    lambda x: (x * x, lambda dy: 2 * as_in_memory(x) * dy),
    MATRIX,
    NC,
)
wrong(
    "exp, x by its pointer",
    "layout",
    lambda x: (np.exp(buffer_of(x)), lambda dy: np.exp(buffer_of(x)) * dy),
    MATRIX,
    NC,
)
wrong(
    "product, dy.T by its pointer",
    "layout",
    lambda a, b: (a @ b, lambda dy: (dy @ b.T, (buffer_of(dy).T @ a).T)),
    [(4, 3), (3, 2)],
    ("n k", "k m"),
)
wrong(
    "sum, writes into dy where it may",
    "layout",
    lambda x: (np.sin(x), lambda dy: np.multiply(dy, np.cos(x), out=dy)),
    ONE,
    N,
)

# 5. State


def last_cache():
    cache = {}

    def rule(x):
        cache["x"] = x.copy()
        return x * x, lambda dy: 2 * cache["x"] * dy

    return rule


def accumulates():
    total = []

    def rule(x):
        def pullback(dy):
            total.append(2 * x * dy)
            return sum(t for t in total if t.shape == x.shape)

        return x * x, pullback

    return rule


def first_calls(count):
    def make():
        calls = itertools.count()
        return lambda x: (x * x, lambda dy: (2 if next(calls) < count else 3) * x * dy)

    return make


def popped():
    kept = []

    def rule(x):
        kept.append(x)
        return x * x, lambda dy: 2 * kept.pop() * dy

    return rule


def shared_buffer():
    buffers = {}

    def rule(x):
        out = buffers.setdefault(x.shape, np.empty(x.shape))
        np.multiply(x, x, out=out)  # the mask is kept in a buffer that the next call overwrites
        return x**3, lambda dy: 3 * out * dy

    return rule


def counts_up():
    calls = itertools.count(1)
    return lambda x: (x * x, lambda dy: 2 * x * dy * (1 + 1e-6 * next(calls)))


def dropout():
    rng = np.random.default_rng(0)

    def rule(x):
        return x * x, lambda dy: 2 * x * dy * (rng.random(x.shape) < 0.99)

    return rule


def writes_into_x():
    return lambda x: (x * x, lambda dy: np.multiply(x, 2 * dy, out=x))


def cache_of_shape():
    cache = {}

    def rule(x):
        scale = cache.setdefault(x.shape, 1 + np.abs(x).max())  # computed once, for the first x of this shape
        return x * np.sqrt(1 + (x * x).sum()), lambda dy: dy * scale

    return rule


for make in (last_cache, accumulates, popped, shared_buffer, counts_up, dropout, writes_into_x, cache_of_shape):
    wrong(make.__name__.replace("_", " "), "state", make, ONE, N, made=True)
for count in (1, 2, 5):
    wrong(f"right in the first {count} calls", "state", first_calls(count), ONE, N, made=True)


def stale_mean():
    """Keeps the statistics of the last batch in an object, as layers do."""
    kept = {}

    def rule(x):
        kept["x_hat"], kept["rstd"] = norm_parts(x, 1e-5)

        def pullback(dy):
            x_hat, rstd = kept["x_hat"], kept["rstd"]
            return rstd * (dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))

        return kept["x_hat"].copy(), pullback

    return rule


wrong("batch norm, statistics of the last call", "state", stale_mean, [(6, 3)], ("n c",), made=True)

# 6. Formulas
BN, BNS = [(6, 3), (3,), (3,)], ("n c", "c", "c")


def bn(how, eps=1e-5):
    def rule(x, g, b):
        y, _ = batch_norm(x, g, b, eps)
        x_hat, rstd = norm_parts(x, eps)
        return y, lambda dy: how(dy, dy * g, x_hat, rstd, x, g)

    return rule


def bn_gradients(dx):
    return lambda dy, d, x_hat, rstd, x, g: (dx(d, x_hat, rstd, x), (dy * x_hat).sum(axis=0), dy.sum(axis=0))


def whole(d, x_hat, rstd):
    return rstd * (d - d.mean(axis=0) - x_hat * (d * x_hat).mean(axis=0))


for name, dx in {
    "zero": lambda d, h, r, x: 0 * d,
    "mean constant": lambda d, h, r, x: r * (d - h * (d * h).mean(axis=0)),
    "variance constant": lambda d, h, r, x: r * (d - d.mean(axis=0)),
    "both constant": lambda d, h, r, x: r * d,
    "m - 1": lambda d, h, r, x: r * (d - d.mean(axis=0) - h * (d * h).sum(axis=0) / max(len(d) - 1, 1)),
    "sign": lambda d, h, r, x: -whole(d, h, r),
    "x for x_hat": lambda d, h, r, x: r * (d - d.mean(axis=0) - x * (d * h).mean(axis=0)),
    "eps added to sigma": lambda d, h, r, x: whole(d, h, 1 / (np.sqrt(x.var(axis=0)) + 1e-5)),
    "eps left out": lambda d, h, r, x: whole(d, h, 1 / np.sqrt(x.var(axis=0) + 1e-300)),
    "mean over all axes": lambda d, h, r, x: r * (d - d.mean() - h * (d * h).mean(axis=0)),
}.items():
    wrong(f"batch norm, dx {name}", "formula", bn(bn_gradients(dx)), BN, BNS)
wrong(
    "batch norm, gamma left out",
    "formula",
    bn(lambda dy, d, h, r, x, g: (whole(dy, h, r), (dy * h).sum(axis=0), dy.sum(axis=0))),
    BN,
    BNS,
)
wrong(
    "batch norm, dgamma averaged",
    "formula",
    bn(lambda dy, d, h, r, x, g: (whole(d, h, r), (dy * h).mean(axis=0), dy.sum(axis=0))),
    BN,
    BNS,
)
wrong(
    "batch norm, dgamma and dbeta swapped",
    "formula",
    bn(lambda dy, d, h, r, x, g: (whole(d, h, r), dy.sum(axis=0), (dy * h).sum(axis=0))),
    BN,
    BNS,
)
wrong(
    "batch norm, dbeta missing",
    "formula",
    bn(lambda dy, d, h, r, x, g: (whole(d, h, r), (dy * h).sum(axis=0), 0 * g)),
    BN,
    BNS,
)
wrong(
    "layer norm, over the batch",
    "formula",
    lambda x: (layer_norm(x)[0], lambda dy: layer_norm(x.T)[1](dy.T).T),
    [(4, 3)],
    NC,
)
wrong(
    "softmax, diagonal only",
    "formula",
    change(softmax, lambda g, dy, a: softmax(*a)[0] * (1 - softmax(*a)[0]) * dy),
    MATRIX,
    NC,
)
wrong(
    "softmax, sum over the wrong axis",
    "formula",
    lambda x: (softmax(x)[0], lambda dy: softmax(x)[0] * (dy - (softmax(x)[0] * dy).sum(axis=0))),
    [(3, 3)],
    NC,
)
wrong(
    "sigmoid, y (1 + y)",
    "formula",
    lambda x: (sigmoid(x)[0], lambda dy: sigmoid(x)[0] * (1 + sigmoid(x)[0]) * dy),
    ONE,
    N,
)
wrong("tanh, 1 - y", "formula", lambda x: (np.tanh(x), lambda dy: (1 - np.tanh(x)) * dy), ONE, N)
wrong(
    "product, dA without the transpose",
    "formula",
    lambda a, b: (a @ b, lambda dy: (dy @ b, a.T @ dy)),
    [(3, 3), (3, 3)],
    ("n 3", "3 3"),
)
wrong(
    "product, gradients swapped",
    "formula",
    lambda a, b: (a @ b, lambda dy: product(a, b)[1](dy)[::-1]),
    [(3, 3), (3, 3)],
    ("3 3", "3 3"),
)
wrong(
    "affine, db averaged",
    "formula",
    lambda x, w, b: (affine(x, w, b)[0], lambda dy: (dy @ w, dy.T @ x, dy.mean(axis=0))),
    [(4, 3), (2, 3), (2,)],
    ("n i", "o i", "o"),
)
wrong(
    "affine, dw missing",
    "formula",
    lambda x, w, b: (affine(x, w, b)[0], lambda dy: (dy @ w, 0 * w, dy.sum(axis=0))),
    [(4, 3), (2, 3), (2,)],
    ("n i", "o i", "o"),
)
wrong("cumsum, in the same direction", "formula", lambda x: (np.cumsum(x, 0), lambda dy: np.cumsum(dy, 0)), ONE, N)
wrong(
    "correlation, flipped",
    "formula",
    lambda x, w: (correlate(x, w)[0], lambda dy: correlate(x, w[::-1])[1](dy)),
    [(7,), (3,)],
    ("n", "1"),
)
wrong(
    "correlation, shifted by one",
    "formula",
    lambda x, w: (correlate(x, w)[0], lambda dy: (np.roll(correlate(x, w)[1](dy)[0], 1), correlate(x, w)[1](dy)[1])),
    [(7,), (3,)],
    ("7", "3"),
)
wrong(
    "unit vectors, projection left out",
    "formula",
    lambda x: (unit(x)[0], lambda dy: dy / np.sqrt((x * x).sum(axis=-1, keepdims=True))),
    MATRIX,
    NC,
    values=("normal", "negative", "positive"),
)
wrong(
    "gather, repeated indices not added", "formula", lambda x: (gather(x)[0], lambda dy: np.array(dy[len(x) :])), ONE, N
)
wrong(
    "x^y, log missing",
    "formula",
    lambda x, y: (x**y, lambda dy: (dy * y * x ** (y - 1), dy * x**y)),
    [np.linspace(0.5, 2, 4), (4,)],
    ("n", "n"),
    values=("positive",),
)
wrong(
    "variance, ddof",
    "formula",
    lambda x: (x.var(axis=0), lambda dy: 2 * dy * (x - x.mean(axis=0)) / max(len(x) - 1, 1)),
    ONE,
    N,
)
wrong("mean, not divided", "formula", lambda x: (x.mean(axis=0), lambda dy: dy + 0 * x), MATRIX, NC)
wrong(
    "cross entropy, not divided by n",
    "formula",
    lambda x: (np.mean(logsumexp(x)[0][:, 0] - x[:, 0]), lambda dy: dy * (softmax(x)[0] - np.eye(x.shape[1])[0])),
    MATRIX,
    NC,
)
wrong("sine, of x + 1e-3 in the backward", "formula", lambda x: (np.sin(x), lambda dy: np.cos(x + 1e-3) * dy), ONE, N)
wrong(
    "a / b, db without the square",
    "formula",
    lambda a, b: (a / b, lambda dy: (dy / b, -dy * a / b)),
    [(4,), np.linspace(0.5, 2, 4)],
    ("n", "n"),
    values=("positive",),
)
wrong(
    "None for an input that matters",
    "formula",
    lambda a, b: (a * b, lambda dy: (dy * b, None)),
    [(4,), (4,)],
    ("n", "n"),
)
wrong(
    "broadcast bias, gradient of one row",
    "formula",
    lambda x, b: (x + b, lambda dy: (dy, np.array(dy[0]))),
    [(4, 3), (3,)],
    ("n c", "c"),
)

# 7. Places: sizes and values where only some inputs show it
TAIL = "the inputs are shorter than a block"


def tail(block):
    """The elements beyond the last whole block get the gradient of the element before."""

    def rule(x):
        def pullback(dy):
            g = 2 * x * dy
            rest = x.size % block
            if x.size > block and rest:
                g.reshape(-1)[-rest:] = 0
            return g

        return x * x, pullback

    return rule


for block in (4, 16, 64, 128, 512):
    wrong(f"square, tail beyond blocks of {block}", "place", tail(block), ONE, N, hidden=TAIL if block > 4 else "")
wrong(
    "square, last of an odd number",
    "place",
    change(square, lambda g, dy, a: np.append(g[:-1], 0 * g[-1:]) if g.size % 2 else g),
    ONE,
    N,
    hidden="the number is even",
)
wrong(
    "square, where there is one element",
    "place",
    change(square, lambda g, dy, a: g if g.size > 1 else 0 * g),
    ONE,
    N,
    hidden="there are six",
)
wrong(
    "square, above |x| = 50",
    "place",
    change(square, lambda g, dy, a: np.where(np.abs(a[0]) > 50, 0, g)),
    ONE,
    N,
    hidden="no element is that large",
)
WRONG[-1].values = (*SMOOTH, "large")
wrong(
    "square, below 0 only",
    "place",
    change(square, lambda g, dy, a: np.where(a[0] < 0, 0, g)),
    [np.linspace(0.2, 1.2, 6)],
    N,
    hidden="no element is negative",
)
wrong("leaky ReLU, slope left out", "place", lambda x: (np.where(x > 0, x, 0.01 * x), lambda dy: dy * (x > 0)), ONE, N)
wrong(
    "clip, gradient beyond it",
    "place",
    lambda x: (np.clip(x, -1.5, 1.5), lambda dy: dy + 0 * x),
    [[0.1, -0.4, 1.2, 0.7, -1.1, 0.3]],
    N,
    hidden="no element is clipped",
)
wrong(
    "Huber, slope beyond 1",
    "place",
    lambda x: (np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5), lambda dy: dy * x),
    [[0.1, -0.4, 0.9, 0.7, -0.8, 0.3]],
    N,
    hidden="no element is beyond 1",
)
wrong(
    "maximum, equal ones each get all",
    "place",
    lambda x: (x.max(axis=-1, keepdims=True), lambda dy: dy * (x == x.max(axis=-1, keepdims=True))),
    MATRIX,
    NC,
    hidden="no two are equal",
)
wrong(
    "maximum of equal ones, each gets all",
    "place",
    lambda x: (x.max(axis=-1, keepdims=True), lambda dy: dy * (x == x.max(axis=-1, keepdims=True))),
    [[[2.0, 2.0, 1.0], [0.5, 3.0, 3.0]]],
    NC,
)
wrong(
    "maximum of two, equal ones each get all",
    "place",
    lambda a, b: (np.maximum(a, b), lambda dy: (dy * (a >= b), dy * (b >= a))),
    [(5,), (5,)],
    ("n", "n"),
    hidden="no two are equal",
)
wrong(
    "maximum of two, some equal, each gets all",
    "place",
    lambda a, b: (np.maximum(a, b), lambda dy: (dy * (a >= b), dy * (b >= a))),
    [[1.0, 2.0, 3.0], [1.0, 0.0, 4.0]],
    ("n", "n"),
)
wrong(
    "product, y / x",
    "place",
    lambda x: (np.prod(x, axis=0), lambda dy: dy * np.prod(x, axis=0) / x),
    ONE,
    N,
    hidden="no element is 0",
)
wrong(
    "sqrt(x^2 + 0) as |x|, 0 / 0",
    "place",
    lambda x: (x * np.abs(x), lambda dy: dy * 2 * x * x / np.sqrt(x * x)),
    ONE,
    N,
    hidden="no element is 0",
)
wrong(
    "x and y are one and the same",
    "place",
    lambda a, b: (a * b, lambda dy: (dy * b, dy * a) if a is not b else (dy * b, 0 * a)),
    [(4,), (4,)],
    ("n", "n"),
    hidden="they are two arrays",
)
wrong(
    "softmax, shifted by the first element",
    "place",
    lambda x: (
        softmax(x)[0],
        lambda dy: (lambda y: y * (dy - (y * dy).sum(axis=-1, keepdims=True)))(
            np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
        ),
    ),
    MATRIX,
    NC,
    values=(*SMOOTH, "large"),
    hidden="no overflow at small values",
)
wrong(
    "logaddexp, overflow",
    "place",
    lambda x: (np.logaddexp(0, x), lambda dy: dy * np.exp(x) / (1 + np.exp(x))),
    ONE,
    N,
    values=(*SMOOTH, "large"),
    hidden="no overflow at small values",
)
wrong(
    "square matrices taken for their transposes",
    "place",
    change(product, lambda g, dy, a: (g[0].T if g[0].shape[0] == g[0].shape[1] else g[0], g[1])),
    [(4, 3), (3, 2)],
    ("n n", "n m"),
    hidden="the matrix is not square",
)
wrong(
    "zeros of x skipped",
    "place",
    change(sine, lambda g, dy, a: np.where(a[0] == 0, 0, g)),
    ONE,
    N,
    hidden="no element is 0",
)


def right_after_the_other():
    """The second gradient needs what the first one leaves."""

    def rule(a, b):
        kept = {}

        def first():
            kept["b"] = b
            return kept["dy"] * b

        def pullback(dy):
            kept["dy"] = dy
            return first, lambda: dy * (a if "b" in kept else 0 * a)

        return a * b, pullback

    return rule


def mask_per_shape():
    masks = {}

    def rule(x):
        mask = masks.setdefault(x.shape, x > 0)
        return np.maximum(x, 0), lambda dy: dy * mask

    return rule


wrong("a b, db only after da", "state", right_after_the_other, [(3,), (3,)], ("n", "n"), made=True)
wrong("ReLU, mask of the first call", "state", mask_per_shape, ONE, N, made=True)
wrong("sine, where dy is 1", "dy", change(sine, lambda g, dy, a: 0 * g if (dy == 1).all() else g), ONE, N)
wrong("x^3 at 1e-30, sign", "small", lambda x: (x**3, lambda dy: -3 * x * x * dy), [[1e-30, 2e-30]], N)
wrong(
    "length of 1e-12, times 1.001",
    "small",
    lambda x: (np.sqrt((x * x).sum(keepdims=True)), lambda dy: 1.001 * dy * x / np.sqrt((x * x).sum())),
    [[1e-12, 3e-12, -2e-12]],
    N,
    values=("normal",),
)
wrong(
    "square, beyond 1,000 elements",
    "place",
    change(square, lambda g, dy, a: np.append(g.ravel()[:1000], 0 * g.ravel()[1000:]).reshape(g.shape)),
    MATRIX,
    NC,
    hidden="there are twelve",
)
wrong(
    "square, an even number of columns",
    "place",
    change(square, lambda g, dy, a: g if g.shape[1] % 2 else 0 * g),
    MATRIX,
    NC,
    hidden="the number is odd",
)
wrong(
    "square, an odd number of rows",
    "place",
    change(square, lambda g, dy, a: 0 * g if len(g) % 2 else g),
    MATRIX,
    NC,
    hidden="the number is even",
)


# Right, and hard for a check


def constant_times_sine(c):
    return lambda x: (c * np.sin(x), lambda dy: c * np.cos(x) * dy)


for c in (1e30, 1e12, 1e6, 1e-3, 1e-12, 1e-30):
    right(f"{c:g} sin x", "scale", constant_times_sine(c), ONE)


def exponential(x):
    y = np.exp(x)
    return y, lambda dy: dy * y


def reciprocal(x):
    return 1 / x, lambda dy: -dy / (x * x)


def logarithm(x):
    return np.log(x), lambda dy: dy / x


def root(x):
    y = np.sqrt(x)
    return y, lambda dy: dy / (2 * y)


def absolute(x):
    return np.abs(x), lambda dy: dy * np.sign(x)


right("exp at 50 and -50", "scale", exponential, [[50.0, -50.0]])
right("exp at 300, 0, -300", "scale", exponential, [[300.0, 0.0, -300.0]])
right("x^2 at 1e6", "scale", square, [[1e6, -3e6]])
right("x^2 at 1e-6 and 1e6", "scale", square, [[1e6, 1e-6, 1.0]])
right("x^2 at 1e150", "scale", square, [[1e150, 1.0]])
right("log at 1e-4", "scale", logarithm, [[1e-4, 2e-3, 1.0]])
right("log at 1e-12 and 1e12", "scale", logarithm, [[1e-12, 1e12, 1.0]])
right("sqrt at 1e-10", "scale", root, [[1e-10, 4.0]])
right("1/x at 1e-5", "scale", reciprocal, [[1e-5, -2e-5, 1.0]])
right("1/x at 1e8", "scale", reciprocal, [[1e8, 3.0]])
right("x^7 spread over 1e-3 to 1e3", "scale", lambda x: (x**7, lambda dy: 7 * x**6 * dy), [[1e-3, 0.1, 1.0, 30.0, 1e3]])
right(
    "stack of 1e7 x and x^2",
    "scale",
    lambda x: (np.stack([1e7 * x, x * x]), lambda dy: 1e7 * dy[0] + 2 * x * dy[1]),
    ONE,
)
right("1e8 + x", "scale", lambda x: (1e8 + x, lambda dy: 1.0 * dy), ONE)
right("x^2 - x^2 with offset", "scale", lambda x: ((1e4 + x) ** 2 - 1e8, lambda dy: 2 * (1e4 + x) * dy), ONE)


def only_x(eps=1e-5):
    """Batch norm with gamma = 1 and beta = 0, as a function of x."""

    def rule(x):
        y, pullback = batch_norm(x, 1.0, 0.0, eps)
        return y, lambda dy: pullback(dy)[0]

    return rule


for mean, std in ((0, 1e-5), (1e6, 1), (1e4, 1), (1, 1e-5), (0, 1e5), (-1e4, 0.01)):
    drawn = mean + std * np.random.default_rng(5).standard_normal((6, 3))
    right(f"batch norm, mean {mean:g}, std {std:g}", "norm", only_x(), [drawn])
right(
    "batch norm, std 1e-5, eps 1e-12", "norm", only_x(1e-12), [1e-5 * np.random.default_rng(5).standard_normal((6, 3))]
)
right("batch norm of a constant column", "norm", only_x(), [np.stack([np.ones(5), np.arange(5.0)], axis=1)])
right("layer norm, one element", "norm", layer_norm, [(3, 1)])
right("layer norm, constant rows", "norm", layer_norm, [np.ones((2, 4))])
right("unit vectors of length 1e-8", "norm", unit, [1e-8 * np.random.default_rng(5).standard_normal((3, 4))])

right("ReLU at 1e-7", "kink", relu, [[1e-7, -1e-7, 0.5, -0.5]])
right("ReLU at 0", "kink", relu, [[0.0, 0.0, 1.0]])
right("ReLU at 0, gradient 1", "kink", lambda x: (np.maximum(x, 0), lambda dy: dy * (x >= 0)), [[0.0, -1.0]])
right(
    "ReLU at 0, gradient 1/2", "kink", lambda x: (np.maximum(x, 0), lambda dy: dy * np.heaviside(x, 0.5)), [[0.0, 2.0]]
)
right("|x| at 0", "kink", absolute, [[0.0, 1e-8, -3.0]])
right("maximum of values 1e-7 apart", "kink", largest, [[1.0, 1.0 + 1e-7, 0.5]])
right("maximum of values 1e-14 apart", "kink", largest, [[1.0, 1.0 + 1e-14, 0.5]])
right("maximum of equal values", "kink", largest, [[[1.0, 1.0, 0.5], [2.0, 2.0, 2.0]]])
right(
    "maximum of equal values, first",
    "kink",
    lambda x: (x.max(keepdims=True), lambda dy: dy * (np.arange(x.size) == x.argmax())),
    [[1.0, 1.0, 0.5]],
)
right("clip at its bounds", "kink", clip, [[1.5, -1.5, 1.5 + 1e-9, 0.0]])
right(
    "hinge at its margin", "kink", lambda x: (np.maximum(0, 1 - x), lambda dy: -dy * (x < 1)), [[1.0, 1.0 - 1e-6, 3.0]]
)
right("x |x| at 0", "kink", lambda x: (x * np.abs(x), lambda dy: 2 * np.abs(x) * dy), [[0.0, 1e-9, -1.0]])
right(
    "sort of close values",
    "kink",
    lambda x: (np.sort(x), lambda dy: dy[np.argsort(np.argsort(x, kind="stable"), kind="stable")]),
    [[0.3, 0.3 + 1e-6, -1.0, 0.2]],
)
right("floor between integers", "kink", lambda x: (np.floor(x), lambda dy: 0 * dy), [[0.5, 1.01, -0.3]])
right("sign away from 0", "kink", lambda x: (np.sign(x), lambda dy: 0 * dy), [[1e-6, -2.0]])


def any_order():
    rng = np.random.default_rng(0)

    def rule(x):
        order = rng.permutation(x.size)
        total = 0.0
        for v in (x * x)[order]:
            total += v
        return np.asarray(total), lambda dy: 2 * x * dy

    return rule


def noisy_gradient():
    rng = np.random.default_rng(0)
    return lambda x: (np.sin(x), lambda dy: np.cos(x) * dy * (1 + 1e-15 * rng.standard_normal(x.shape)))


right("a sum in another order each time", "rounding", any_order, [(50,)], made=True)
right("a gradient that rounds anew each time", "rounding", noisy_gradient, ONE, made=True)
right("softmax of large values", "saturates", softmax, [[1000.0, 0.0, -1000.0, 999.0]])
right("softmax, one sure", "saturates", softmax, [[40.0, 0.0, -3.0]])
right(
    "sigmoid at 40",
    "saturates",
    lambda x: (sigmoid(x)[0], lambda dy: sigmoid(x)[0] * sigmoid(-x)[0] * dy),
    [[-40.0, 40.0, 1.0]],
)
right("tanh at 15", "saturates", lambda x: (np.tanh(x), lambda dy: dy / np.cosh(x) ** 2), [[15.0, -12.0, 0.0]])
right(
    "log(1 + exp(x)) at 100",
    "saturates",
    lambda x: (np.logaddexp(0, x), lambda dy: dy * sigmoid(x)[0]),
    [[100.0, -100.0, 0.3]],
)
right("logsumexp of large values", "saturates", logsumexp, [[[1e4, 1e4 + 1, 9e3]]])
right("sin(1000 x)", "rough", lambda x: (np.sin(1000 * x), lambda dy: 1000 * np.cos(1000 * x) * dy), ONE)
right(
    "sin(1/x) at 0.05",
    "rough",
    lambda x: (np.sin(1 / x), lambda dy: -np.cos(1 / x) / (x * x) * dy),
    [[0.05, 0.2, -0.1]],
)
right(
    "softplus(100 x)",
    "rough",
    lambda x: (np.logaddexp(0, 100 * x), lambda dy: 100 * sigmoid(100 * x)[0] * dy),
    [[0.01, -0.02, 1.0]],
)
right(
    "exp(-x^2) far out", "rough", lambda x: (np.exp(-x * x), lambda dy: -2 * x * np.exp(-x * x) * dy), [[5.0, 8.0, 0.1]]
)
right(
    "arctan2 near an axis",
    "rough",
    lambda y, x: (np.arctan2(y, x), lambda dy: (dy * x / (x * x + y * y), -dy * y / (x * x + y * y))),
    [[1e-6, 1.0], [1.0, 1e-7]],
)


def inverse(a):
    y = np.linalg.inv(a)
    return y, lambda dy: -y.T @ dy @ y.T


def determinant(a):
    y = np.linalg.det(a)
    return np.asarray(y), lambda dy: dy * y * np.linalg.inv(a).T


right("inverse, condition 1e6", "matrix", inverse, [[[1.0, 1.0], [1.0, 1.0 + 4e-6]]])
right("determinant near 0", "matrix", determinant, [[[1.0, 2.0], [2.0, 4.001]]])
right(
    "eigenvalues 1e-4 apart",
    "matrix",
    lambda a: (
        (lambda s: np.linalg.eigvalsh(s))(a + a.T),
        lambda dy: (lambda v: 2 * (v * dy) @ v.T)(np.linalg.eigh(a + a.T)[1]),
    ),
    [[[0.5, 0.1, 0.0], [-0.1, 0.5 + 5e-5, 0.0], [0.0, 0.0, 2.0]]],
)
right(
    "product with a zero",
    "matrix",
    lambda x: (np.asarray(np.prod(x)), lambda dy: dy * np.array([np.prod(np.delete(x, i)) for i in range(x.size)])),
    [[0.0, 2.0, 3.0]],
)
right(
    "product with two zeros",
    "matrix",
    lambda x: (np.asarray(np.prod(x)), lambda dy: dy * np.array([np.prod(np.delete(x, i)) for i in range(x.size)])),
    [[0.0, 2.0, 0.0]],
)
right("x itself", "trivial", lambda x: (x, lambda dy: dy), MATRIX)
right("a view", "trivial", lambda x: (x.T, lambda dy: dy.T), MATRIX)
right("nothing", "trivial", lambda x: (x * 2, lambda dy: 2 * dy), [(0, 3)])
right("a number", "trivial", lambda x: (np.asarray(x**3), lambda dy: 3 * x * x * dy), [np.float64(0.7)])
right("an input without influence", "trivial", lambda a, b: (a * 2, lambda dy: (2 * dy, 0 * b)), [(3,), (2,)])
right("all inputs 0", "trivial", square, [np.zeros(4)])
right("a constant", "trivial", lambda x: (np.ones(3), lambda dy: 0 * x), [(3,)])
right(
    "sum of a normalized batch",
    "trivial",
    lambda x: (
        np.asarray(norm_parts(x, 1e-5)[0].sum()),
        lambda dy: batch_norm(x, 1.0, 0.0)[1](dy * np.ones_like(x))[0],
    ),
    [(6, 3)],
)


right("x^2 at 1e-20", "scale", square, [[1e-20, 3e-20, -2e-20]])
right("1e-300 x", "scale", lambda x: (1e-300 * x, lambda dy: 1e-300 * dy), ONE)
right(
    "1 - cos x at 1e-8",
    "rounding",
    lambda x: (2 * np.sin(x / 2) ** 2, lambda dy: np.sin(x) * dy),
    [[1e-8, -1e-10, 1.0]],
)
right("log(1 - x) at 1 - 1e-9", "rough", lambda x: (np.log(1 - x), lambda dy: -dy / (1 - x)), [[1 - 1e-9, 0.5]])
right(
    "arcsin at 1 - 1e-10",
    "rough",
    lambda x: (np.arcsin(x), lambda dy: dy / np.sqrt((1 - x) * (1 + x))),
    [[1 - 1e-10, 0.5]],
)
right(
    "length of 1e-12",
    "scale",
    lambda x: (np.sqrt((x * x).sum(keepdims=True)), lambda dy: dy * x / np.sqrt((x * x).sum())),
    [[1e-12, 3e-12, -2e-12]],
)
right(
    "ReLU6 at both bounds",
    "kink",
    lambda x: (np.clip(x, 0, 6), lambda dy: dy * ((x > 0) & (x < 6))),
    [[0.0, 6, 0, 6, 1]],
)
right(
    "linear interpolation at its knots",
    "kink",
    lambda x: (np.interp(x, [0.0, 1, 2], [0.0, 5, 1]), lambda dy: dy * np.where(x < 1, 5.0, -4.0)),
    [[1.0, 0.5, 1.5]],
)
right(
    "ReLU of x w at 0, opposite slopes",
    "kink",
    lambda x: (np.maximum(x * np.array([1.0, -2.0]), 0), lambda dy: np.zeros(1)),
    [[0.0]],
)
right("inverse, condition 1e8", "matrix", inverse, [[[1.0, 1.0], [1.0, 1.0 + 4e-8]]])
right("1/(x - 1) at 1 + 1e-7", "rough", lambda x: (1 / (x - 1), lambda dy: -dy / (x - 1) ** 2), [[1 + 1e-7, 3.0]])


LARGE_TOO = (*SMOOTH, "large", "small", "positive")
RIGHT_OVER_CASES = [  # the rules that wrong ones above are made of
    Entry("x |x|", "cases", lambda: lambda x: (x * np.abs(x), lambda dy: dy * 2 * np.abs(x)), [], N, LARGE_TOO),
    Entry(
        "ReLU squared",
        "cases",
        lambda: lambda x: (np.maximum(x, 0) ** 2, lambda dy: dy * 2 * np.maximum(x, 0)),
        [],
        N,
        LARGE_TOO,
    ),
    Entry("a b", "cases", lambda: lambda a, b: (a * b, lambda dy: (dy * b, dy * a)), [], ("n", "n"), LARGE_TOO),
    Entry(
        "maximum of two",
        "cases",
        lambda: (
            lambda a, b: (
                np.maximum(a, b),
                lambda dy: (dy * ((a > b) + 0.5 * (a == b)), dy * ((b > a) + 0.5 * (a == b))),
            )
        ),
        [],
        ("n", "n"),
        LARGE_TOO,
    ),
    Entry("logaddexp", "cases", lambda: lambda x: (np.logaddexp(0, x), lambda dy: dy * sigmoid(x)[0]), [], N, SMOOTH),
    *(Entry(r.__name__, "cases", lambda r=r: r, [], N, LARGE_TOO) for r in (square, sine, tanh, relu, cumsum, clip)),
    *(Entry(r.__name__, "cases", lambda r=r: r, [], NC, LARGE_TOO) for r in (softmax, largest, logsumexp, gather)),
    Entry("sigmoid", "cases", lambda: sigmoid, [], N, SMOOTH),
    Entry("unit", "cases", lambda: unit, [], NC, ("normal", "negative", "positive", "large", "small")),
    Entry("product", "cases", lambda: product, [], ("n k", "k m"), LARGE_TOO),
    Entry("affine", "cases", lambda: affine, [], ("n i", "o i", "o"), LARGE_TOO),
    Entry("batch_norm", "cases", lambda: batch_norm, [], ("n c", "c", "c"), LARGE_TOO),
    Entry("layer_norm", "cases", lambda: layer_norm, [], NC, LARGE_TOO),
    Entry("correlate", "cases", lambda: correlate, [], ("7", "3"), LARGE_TOO),
]


@dataclass
class Counts:
    """The names of those that pass though wrong, and are rejected though right."""

    passed: list[str] = field(default_factory=list)
    passed_cases: list[str] = field(default_factory=list)
    passed_pytorch: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    rejected_cases: list[str] = field(default_factory=list)
    rejected_pytorch: list[str] = field(default_factory=list)

    def table(self) -> dict[str, tuple[int, int, int, int]]:
        """For each check: wrong ones that pass, of how many; right ones that are rejected, of how many."""
        wrong, right, cases = len(WRONG), len(RIGHT), len(RIGHT_OVER_CASES)
        return {
            "gradcheck": (len(self.passed), wrong, len(self.rejected), right),
            "gradcheck over cases": (len(self.passed_cases), wrong, len(self.rejected_cases), cases),
            "PyTorch's gradcheck": (len(self.passed_pytorch), wrong, len(self.rejected_pytorch), right),
        }


def count(pytorch: bool) -> Counts:
    c = Counts()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for e in WRONG:
            if not e.rejected():
                c.passed.append(e.name)
                if not e.rejected_over_cases():
                    c.passed_cases.append(e.name)
            if pytorch and not e.rejected_by_pytorch():
                c.passed_pytorch.append(e.name)
        c.rejected = [e.name for e in RIGHT if e.rejected()]
        c.rejected_cases = [e.name for e in RIGHT_OVER_CASES if e.rejected_over_cases()]
        c.rejected_pytorch = [e.name for e in RIGHT if pytorch and e.rejected_by_pytorch()]
    return c


def main() -> None:
    found = count(importlib.util.find_spec("torch") is not None)
    print("| | wrong backwards that pass | right ones that are rejected |\n| --- | --- | --- |")
    for name, (passed, wrong, rejected, right) in found.table().items():
        print(f"| {name} | {passed} of {wrong} | {rejected} of {right} |")
    for title, names in vars(found).items():
        print(f"{title}: {'; '.join(names) or 'none'}")
    for e in WRONG:
        if e.hidden:
            print(f"{e.name}: cannot be seen, for {e.hidden}")


if __name__ == "__main__":
    main()
