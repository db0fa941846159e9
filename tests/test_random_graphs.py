"""Random expression graphs of up to 50 ops: values against NumPy, gradients against the complex step, and more.

A graph is a list of quadruples of ints, so that hypothesis can shrink a failing one to a few ops. Each quadruple is one
op: which, its first and second operand (counted backwards from the latest result, so that many are used several
times), and a number from which axes, indices and the like follow.

The reference is the same graph on NumPy arrays, and its derivative along v is Im f(x + i h v) / h, h = 1e-20 (Squire &
Trapp 1998): no difference is taken, so nothing cancels, and it is exact to rounding. Second derivatives are central
differences of that. Where NumPy's function is not analytic (abs, maximum ...) the reference has the one-sided formula
and the engine's convention for ties. What is only nearly a tie has no derivative that rounding does not decide: such
graphs are left out.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import SEEDS, few_or_many, holds

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, grad

LARGEST = 64  # elements of a result
BOUND = 6.0  # of a result's magnitude; what is larger is squashed, so that errors stay rounding errors
EPS = 0.1  # of the norms
H = 1e-20


class NearlyTied(Exception):
    pass


class Reference:
    """The functions of NumPy where complex arrays need another one than real arrays do."""

    def __init__(self, gap):
        self.gap = gap  # what counts as nearly tied

    def sign(self, z):
        size = np.abs(z.real)
        if ((size > 0) & (size < self.gap)).any():
            raise NearlyTied
        return np.sign(z.real)

    def abs(self, z):
        return z * self.sign(z)

    def relu(self, z):
        return z * (self.sign(z) > 0)

    def clip(self, z, low, high):
        over, under = self.sign(z - high), self.sign(low - z)
        return np.where(over > 0, high, np.where(under > 0, low, z))

    def maximum(self, a, b):
        return (a + b + self.abs(a - b)) / 2

    def minimum(self, a, b):
        return (a + b - self.abs(a - b)) / 2

    def max(self, z, axis, keepdims):
        chosen = self.sign(z - z.real.max(axis=axis, keepdims=True)) == 0
        count = chosen.sum(axis=axis, keepdims=keepdims)
        return (z * chosen).sum(axis=axis, keepdims=keepdims) / count

    def min(self, z, axis, keepdims):
        return -self.max(-z, axis, keepdims)

    def var(self, z, axis, keepdims):
        centered = z - z.mean(axis=axis, keepdims=True)
        return (centered * centered).mean(axis=axis, keepdims=keepdims)

    def sigmoid(self, z):
        return 1 / (1 + np.exp(-z))

    def softmax(self, z, axis):
        e = np.exp(z)
        return e / e.sum(axis=axis, keepdims=True)

    def log_softmax(self, z, axis):
        return np.log(self.softmax(z, axis))

    def linear(self, x, w, b):
        return x @ np.swapaxes(w, 0, 1) + b

    def normalized(self, z, axes, centered=True):
        z = z - z.mean(axis=axes, keepdims=True) * centered
        return z / np.sqrt((z * z).mean(axis=axes, keepdims=True) + EPS)

    def layer_norm(self, x, last):
        return self.normalized(x, tuple(range(-last, 0)))

    def rms_norm(self, x, last):
        return self.normalized(x, tuple(range(-last, 0)), centered=False)

    def batch_norm(self, x):
        return self.normalized(x, (0, *range(2, x.ndim)))

    def instance_norm(self, x):
        return self.normalized(x, tuple(range(2, x.ndim)))

    def group_norm(self, x, groups):
        parts = x.reshape(len(x), groups, -1)
        return self.normalized(parts, (2,)).reshape(x.shape)

    def pad(self, x, widths):
        return np.pad(x, widths, constant_values=0.5)


class Ours:
    """The same names on tensors."""

    abs, maximum, minimum, clip = np.abs, np.maximum, np.minimum, np.clip
    relu, sigmoid, softmax, log_softmax, linear = F.relu, F.sigmoid, F.softmax, F.log_softmax, F.linear
    max, min, var = tb.Tensor.max, tb.Tensor.min, tb.Tensor.var
    layer_norm = staticmethod(lambda x, last: F.layer_norm(x, x.shape[x.ndim - last :], eps=EPS))
    rms_norm = staticmethod(lambda x, last: F.rms_norm(x, x.shape[x.ndim - last :], eps=EPS))
    batch_norm = staticmethod(lambda x: F.batch_norm(x, None, None, training=True, eps=EPS))
    instance_norm = staticmethod(lambda x: F.instance_norm(x, eps=EPS))
    group_norm = staticmethod(lambda x, groups: F.group_norm(x, groups, eps=EPS))
    pad = staticmethod(lambda x, widths: tb.pad(x, widths, value=0.5))


# The ops. Each is planned on shapes: plan(a, b, k) gives None where it does not fit, or a function of (m, a, b) that
# computes it with m = Ours on tensors or a Reference on arrays. a, b: the operands' shapes; k: the number.


def axis_of(a, k):
    return k % len(a)


def some_axes(a, k):
    """None, an axis, or two of them; keepdims every other time."""
    options = [None, *range(-1, len(a)), *([(0, -1)] if len(a) > 1 else [])]
    return options[k % len(options)], bool(k // len(options) % 2)


def fits(a, b):
    try:
        return math.prod(np.broadcast_shapes(a, b)) <= LARGEST
    except ValueError:
        return False


def reduction(compute):
    def plan(a, b, k):
        axis, keepdims = some_axes(a, k) if a else (None, bool(k % 2))
        return lambda m, x, y: compute(m, x, axis, keepdims)

    return plan


def unary(compute):
    return lambda a, b, k: compute


def binary(compute):
    return lambda a, b, k: compute if fits(a, b) else None


def reshape(a, b, k):
    n = math.prod(a)
    shapes = [(n,), (-1, 1), (1, n), *((d, -1) for d in range(2, n) if n % d == 0)]
    shapes += [(d, 1, e, -1) for d in range(1, 4) for e in range(2, 4) if n % (d * e) == 0]
    shape = shapes[k % len(shapes)]
    return lambda m, x, y: x.reshape(shape)


def transpose(a, b, k):
    order = tuple(np.random.default_rng(k).permutation(len(a)).tolist())
    return lambda m, x, y: x.transpose(order)


def swapaxes(a, b, k):
    if not a:
        return None
    i, j = axis_of(a, k), axis_of(a, k // 7)
    return lambda m, x, y: x.swapaxes(i, j - len(a))


def broadcast(a, b, k):
    shape = (1 + k % 3, *(2 if n == 1 else n for n in a))
    return None if math.prod(shape) > LARGEST else lambda m, x, y: np.broadcast_to(x, shape)


def getitem(a, b, k):
    if not a:
        return lambda m, x, y: x[None]
    n = a[0]
    rows = np.random.default_rng(k).integers(-n, n, 1 + k % 3)
    choices = [slice(None, None, -1), (None, ..., 0), n - 1, rows, (..., rows % a[-1]), slice(k % n, None), n - 1]
    choices += [np.arange(n) % 2 == 0, (Ellipsis, slice(None, None, 2)), rows.tolist()]
    index = choices[k % len(choices)]
    return lambda m, x, y: x[index]


def concatenate(a, b, k):
    if not a or math.prod(a) * 2 > LARGEST:
        return None
    axis = axis_of(a, k)
    if len(a) == len(b) and all(n == l or i == axis for i, (n, l) in enumerate(zip(a, b, strict=True))):
        return lambda m, x, y: np.concatenate([x, y], axis=axis)
    return lambda m, x, y: np.concatenate([x, -x], axis=axis - len(a))


def stack(a, b, k):
    if math.prod(a) * 2 > LARGEST:
        return None
    axis = k % (len(a) + 1)
    return lambda m, x, y: np.stack([x, y] if a == b else [x, x], axis=axis)


def pad(a, b, k):
    widths = [((k >> i) % 2, (k >> i) // 2 % 2) for i in range(len(a))]
    if not a or math.prod(n + sum(w) for n, w in zip(a, widths, strict=True)) > LARGEST:
        return None
    return lambda m, x, y: m.pad(x, widths)


def matmul(a, b, k):
    if not a:
        return None
    if len(b) >= 1 and a[-1] == (b[-2] if len(b) > 1 else b[0]) and fits(a[:-2], b[:-2]):
        return lambda m, x, y: x @ y
    return lambda m, x, y: x @ x.swapaxes(-1, -2) if len(a) > 1 else x @ x  # the same tensor twice


def linear(a, b, k):
    if len(b) == 2 and a and b[1] == a[-1]:
        return lambda m, x, w: m.linear(x, w, w[:, 0])  # weight and bias from one tensor
    return (lambda m, x, w: m.linear(x, x, x[:, 0])) if len(a) == 2 else None  # and the input, too


def where(a, b, k):
    if not fits(a, b):
        return None
    mask = np.random.default_rng(k).random(np.broadcast_shapes(a, b)) < 0.5
    return lambda m, x, y: np.where(mask, x, y)


def over_last(name):
    def plan(a, b, k):
        last = 1 + k % max(len(a), 1)
        return None if not a else lambda m, x, y: getattr(m, name)(x, last)

    return plan


def along(name):
    return lambda a, b, k: (lambda m, x, y: getattr(m, name)(x, axis_of(a, k))) if a else None


def batch_norm(a, b, k):
    if len(a) < 2 or math.prod(a) == a[1]:
        return None
    return lambda m, x, y: m.batch_norm(x)


def instance_norm(a, b, k):
    return None if len(a) < 3 or math.prod(a[2:]) == 1 else lambda m, x, y: m.instance_norm(x)


def group_norm(a, b, k):
    if len(a) < 2:
        return None
    divisors = [d for d in range(1, a[1] + 1) if a[1] % d == 0 and math.prod(a) > d]
    if not divisors:
        return None
    return lambda m, x, y: m.group_norm(x, divisors[k % len(divisors)])


OPS = {
    "add": binary(lambda m, x, y: x + y),
    "subtract": binary(lambda m, x, y: x - y),
    "multiply": binary(lambda m, x, y: x * y),
    "square": unary(lambda m, x, y: x * x),
    "divide": binary(lambda m, x, y: x / (y * y + 0.5)),
    "maximum": binary(lambda m, x, y: m.maximum(x, y)),
    "minimum": binary(lambda m, x, y: m.minimum(x, y)),
    "power of arrays": binary(lambda m, x, y: (x * x + 0.5) ** np.tanh(y)),
    "power": unary(lambda m, x, y: x**3 - (x * x + 1) ** -0.5),
    "number": unary(lambda m, x, y: 1.5 - 0.5 * x / 3),
    "power of a number": unary(lambda m, x, y: 2.0 ** np.tanh(x)),
    "negative": unary(lambda m, x, y: -x),
    "exp": unary(lambda m, x, y: np.exp(-x * x)),
    "log": unary(lambda m, x, y: np.log(x * x + 0.5)),
    "sqrt": unary(lambda m, x, y: np.sqrt(x * x + 0.5)),
    "tanh": unary(lambda m, x, y: np.tanh(x)),
    "sigmoid": unary(lambda m, x, y: m.sigmoid(x)),
    "relu": unary(lambda m, x, y: m.relu(x)),
    "abs": unary(lambda m, x, y: m.abs(x)),
    "clip": unary(lambda m, x, y: m.clip(x, -0.7, 0.9)),
    "where": where,
    "sum": reduction(lambda m, x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims)),
    "mean": reduction(lambda m, x, axis, keepdims: x.mean(axis=axis, keepdims=keepdims)),
    "var": reduction(lambda m, x, axis, keepdims: m.var(x, axis=axis, keepdims=keepdims)),
    "max": reduction(lambda m, x, axis, keepdims: m.max(x, axis=axis, keepdims=keepdims)),
    "min": reduction(lambda m, x, axis, keepdims: m.min(x, axis=axis, keepdims=keepdims)),
    "reshape": reshape,
    "transpose": transpose,
    "swapaxes": swapaxes,
    "broadcast_to": broadcast,
    "getitem": getitem,
    "concatenate": concatenate,
    "stack": stack,
    "pad": pad,
    "matmul": matmul,
    "linear": linear,
    "softmax": along("softmax"),
    "log_softmax": along("log_softmax"),
    "layer_norm": over_last("layer_norm"),
    "rms_norm": over_last("rms_norm"),
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
}
NAMES = list(OPS)
LEAF_SHAPES = [(), (3,), (2, 3), (3, 1), (3, 3), (2, 3, 2), (1, 2, 2, 3)]


def squashed(compute):
    return lambda m, x, y: np.tanh(compute(m, x, y))


class Graph:
    """leaves: arrays; wanted: the leaves that require grad; steps: (name, first, second operand, what computes it)."""

    def __init__(self, leaves, wanted, steps, gap):
        self.leaves, self.wanted, self.steps = leaves, wanted, []
        values = list(leaves)
        for which, first, second, k in steps:
            i, j = (max(len(values) - 1 - back, 0) for back in (first, second))
            name = NAMES[which]
            compute = OPS[name](values[i].shape, values[j].shape, k)
            if compute is None:  # then the operand with itself, or the next best
                name, j, compute = "square", i, OPS["square"](values[i].shape, None, k)
            new = np.asarray(compute(Reference(gap), values[i], values[j]))
            if np.abs(new).max(initial=0) > BOUND:
                name, compute, new = f"tanh {name}", squashed(compute), np.tanh(new)
            self.steps.append((name, i, j, compute))
            values.append(new)
        # The loss: random weights times the last results, so that no cancellation by symmetry hides anything
        self.ends = list(range(max(len(leaves), len(values) - 3), len(values))) or [0]
        rng = np.random.default_rng([len(values), 7])
        self.weights = [rng.uniform(-1, 1, values[e].shape) for e in self.ends]

    def results(self, m, leaves):
        values = list(leaves)
        for _, i, j, compute in self.steps:
            y = compute(m, values[i], values[j])
            values.append(y if isinstance(y, Tensor) else np.asarray(y))
        return values

    def loss(self, m, leaves):
        values = self.results(m, leaves)
        total = 0
        for e, w in zip(self.ends, self.weights, strict=True):
            total = total + (values[e] * w).sum()
        return total

    def tensors(self):
        return [Tensor(a, requires_grad=w) for a, w in zip(self.leaves, self.wanted, strict=True)]

    def slope(self, gap, leaves, directions):
        """d loss / dt at leaves + t directions, by the complex step."""
        moved = [a + 1j * H * d for a, d in zip(leaves, directions, strict=True)]
        return float(np.imag(self.loss(Reference(gap), moved)) / H)

    def __repr__(self):
        leaves = enumerate(zip(self.leaves, self.wanted, strict=True))
        lines = [f"{i}: leaf {a.shape}{'' if w else ', constant'}" for i, (a, w) in leaves]
        lines += [f"{len(self.leaves) + s}: {name}({i}, {j})" for s, (name, i, j, _) in enumerate(self.steps)]
        return "; ".join(lines)


@st.composite
def graphs(draw, most=50, gap=1e-9):
    size = draw(st.integers(1, most))
    step = st.tuples(st.integers(0, len(OPS) - 1), st.integers(0, 5), st.integers(0, 12), st.integers(0, 99))
    steps = draw(st.lists(step, min_size=size, max_size=size))
    shapes = draw(st.lists(st.sampled_from(LEAF_SHAPES), min_size=2, max_size=5))
    wanted = [True, *(draw(st.booleans()) for _ in shapes[1:])]
    rng, leaves = np.random.default_rng(draw(SEEDS)), []
    for shape in shapes:
        backwards = draw(st.booleans())  # a view with strides that are not C's
        a = rng.uniform(-1.5, 1.5, shape)
        leaves.append(np.asarray(rng.uniform(-1.5, 1.5, shape[::-1]).T) if backwards and shape else np.asarray(a))
    try:
        return Graph(leaves, wanted, steps, gap)
    except NearlyTied:
        assume(False)


def random_like(arrays, stream):
    rng = np.random.default_rng([len(arrays), 11, stream])
    return [rng.uniform(-1, 1, a.shape) for a in arrays]


def reject_ties(compute, *args):
    try:
        return compute(*args)
    except NearlyTied:
        assume(False)


@few_or_many(100)
def test_values_and_gradients(examples, figure):
    worst = 0.0

    @given(graphs())
    def check(graph):
        nonlocal worst
        expected = reject_ties(graph.results, Reference(1e-9), graph.leaves)
        for ours, value in zip(graph.results(Ours, graph.tensors()), expected, strict=True):
            assert ours.shape == value.shape and ours.dtype == np.float64
            np.testing.assert_allclose(ours.data, value, rtol=0, atol=1e-11 * max(1, np.abs(value).max(initial=0)))
        leaves = graph.tensors()
        loss = graph.loss(Ours, leaves)
        if loss.requires_grad:
            loss.backward()
        directions = random_like(graph.leaves, 0)
        for i, (leaf, d) in enumerate(zip(leaves, directions, strict=True)):
            if not leaf.requires_grad:
                assert leaf.grad is None
                continue
            only = [d if k == i else np.zeros(t.shape) for k, t in enumerate(leaves)]
            slope = reject_ties(graph.slope, 1e-9, graph.leaves, only)
            g = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad  # None: the loss does not depend on it
            assert g.shape == leaf.shape and g.dtype == np.float64
            error = abs((g * d).sum() - slope) / max(1.0, np.abs(g * d).sum())
            worst = max(worst, error)
            assert error <= 1e-10, (i, g, slope)

    holds(check, examples)
    figure(f"random graphs of up to 50 ops: largest error of a gradient, {examples} graphs", f"{worst:.1e}")


@few_or_many(60)
def test_second_derivatives(examples, figure):
    """Hessian times a vector, from create_graph=True, against central differences of the complex step."""
    worst, step = 0.0, 1e-4

    @given(graphs(most=30, gap=1e-2))
    def check(graph):
        nonlocal worst
        leaves = graph.tensors()
        wanted = [t for t in leaves if t.requires_grad]
        loss = graph.loss(Ours, leaves)
        assume(loss.requires_grad)
        plain = grad(loss, wanted, retain_graph=True, allow_unused=True)
        first = grad(loss, wanted, create_graph=True, allow_unused=True)
        u, v = (
            [d * t.requires_grad for d, t in zip(random_like(graph.leaves, stream), leaves, strict=True)]
            for stream in (1, 2)
        )
        slope = 0.0
        across = [d for d, t in zip(u, leaves, strict=True) if t.requires_grad]
        for g, expected, d in zip(first, plain, across, strict=True):
            assert (g is None) == (expected is None)
            if g is not None:
                scale = max(1, np.abs(expected).max(initial=0))
                np.testing.assert_allclose(g.data, expected, rtol=0, atol=1e-11 * scale)
                slope = slope + (g * d).sum()
        second = [None] * len(wanted)
        if isinstance(slope, Tensor) and slope.requires_grad:
            second = grad(slope, wanted, allow_unused=True)
        along = [d for d, t in zip(v, leaves, strict=True) if t.requires_grad]
        parts = [(h * d).sum() for h, d in zip(second, along, strict=True) if h is not None]
        sides = []
        for k in (-2, -1, 1, 2):
            moved = [a + k * step * d for a, d in zip(graph.leaves, v, strict=True)]
            sides.append(reject_ties(graph.slope, 1e-2, moved, u))
        numerical = (8 * (sides[2] - sides[1]) - (sides[3] - sides[0])) / (12 * step)
        error = abs(sum(parts) - numerical) / max(1.0, np.abs(parts).sum(), *np.abs(sides))
        worst = max(worst, error)
        assert error <= 1e-7, (sum(parts), numerical)

    holds(check, examples)
    figure(f"random graphs: largest error of a second derivative, {examples} graphs", f"{worst:.1e}")


@few_or_many(40)
def test_walking_twice(examples):
    """With retain_graph=True the second backward adds the same bits once more, and the third finds nothing left;
    grad() returns what backward() adds, also with respect to results on the way.
    """

    @given(graphs())
    def check(graph):
        leaves = graph.tensors()
        loss = graph.loss(Ours, leaves)
        assume(loss.requires_grad)
        wanted = [t for t in leaves if t.requires_grad]
        returned = grad(loss, wanted, retain_graph=True, allow_unused=True)
        assert all(t.grad is None for t in leaves)
        loss.backward(retain_graph=True)
        for t, g in zip(wanted, returned, strict=True):
            assert (t.grad is None) == (g is None) and (g is None or np.array_equal(t.grad, g))
        loss.backward()
        for t, g in zip(wanted, returned, strict=True):
            assert (t.grad is None) == (g is None) and (g is None or np.array_equal(t.grad, g + g))
        with pytest.raises(RuntimeError, match="retain_graph=True"):
            loss.backward()

        # a cut through the graph: the chain rule from both sides of a result on the way
        values = graph.results(Ours, leaves)
        ends = [values[e] for e in graph.ends]
        seeds = [w for t, w in zip(ends, graph.weights, strict=True) if t.requires_grad]
        ends = [t for t in ends if t.requires_grad]
        for t in values:
            if t.requires_grad:
                t.retain_grad()
        again = grad(ends, wanted, seeds, retain_graph=True, allow_unused=True)
        ways = [t for t in values[len(leaves) :] if t.requires_grad]
        cut = grad(ends, ways, seeds, retain_graph=True, allow_unused=True)
        for t in leaves:
            t.grad = None
        total = sum(((t * w).sum() for t, w in zip(ends, seeds, strict=True)), 0.0)
        total.backward()
        for t, g in [*zip(wanted, again, strict=True), *zip(ways, cut, strict=True)]:
            assert (t.grad is None) == (g is None)
            if g is not None:
                np.testing.assert_allclose(t.grad, g, rtol=0, atol=1e-12 * max(1, np.abs(g).max(initial=0)))

    holds(check, examples)
