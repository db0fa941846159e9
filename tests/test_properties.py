"""Properties of single ops and layers on random shapes, memory layouts, dtypes and broadcasts (hypothesis).

Norms and random expression graphs have files of their own: test_norm_properties.py, test_random_graphs.py.
"""

import itertools
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import DTYPES, LAYOUTS, SEEDS, SIDES, arrays, distinct, few_or_many, holds, laid_out

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, gradcheck, preprocessing

CLOSE = {np.dtype(np.float64): 1e-13, np.dtype(np.float32): 2e-6}  # relative to the largest value


STREAM = [0, 7]  # of its own: numbers that are the inputs' as well could hide a mistake


def cotangent(y):
    return np.random.default_rng(STREAM).uniform(-1, 1, y.shape)


def check_close(ours, expected, sizes=None):
    """The same shape, dtype and values, up to rounding: relative to the result, or to the `sizes` of what was added up,
    where that cancels."""
    ours = ours.data if isinstance(ours, Tensor) else ours
    expected = np.asarray(expected)
    assert isinstance(ours, np.ndarray) and ours.shape == expected.shape and ours.dtype == expected.dtype
    sizes = np.abs(expected if sizes is None else sizes)
    scale = sizes[np.isfinite(sizes)].max(initial=0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=CLOSE[expected.dtype] * max(scale, 1e-30))


def check_gradient(fn, *inputs, **tolerances):
    """Against finite differences, every element; and float32 finds what float64 does. No input is written to."""
    for a in inputs:
        a.flags.writeable = False
    if sum(a.size for a in inputs):
        gradcheck(fn, [Tensor(a, requires_grad=True) for a in inputs], **tolerances)
    found = []
    for dtype in (np.float64, np.float32):
        leaves = [Tensor(a.astype(dtype), requires_grad=True) for a in inputs]
        y = fn(*leaves)
        dy = cotangent(y).astype(dtype)
        y.backward(dy)
        assert all(t.grad.shape == t.shape and t.grad.dtype == dtype for t in leaves)
        found.append([t.grad for t in leaves])
    for wide, narrow in zip(*found, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-4 * max(1, np.abs(wide).max(initial=0)))


# Elementwise. (ours, NumPy's, the interval that inputs are drawn from)

UNARY = {
    "+ number": (lambda x: x + 2.5, None, -2, 2),
    "number -": (lambda x: 3 - x, None, -2, 2),
    "* number": (lambda x: -1.5 * x, None, -2, 2),
    "/ number": (lambda x: x / 3, None, -2, 2),
    "number /": (lambda x: 2 / x, None, 0.5, 2),
    "-": (lambda x: -x, None, -2, 2),
    "abs": (abs, None, -2, 2),
    "** 2": (lambda x: x**2, None, -2, 2),
    "** -1": (lambda x: x**-1, None, 0.5, 2),
    "** 0.5": (lambda x: x**0.5, None, 0.5, 2),
    "number **": (lambda x: 2.0**x, None, -2, 2),
    "exp": (np.exp, None, -2, 2),
    "log": (np.log, None, 0.5, 2),
    "sqrt": (np.sqrt, None, 0.5, 2),
    "tanh": (np.tanh, None, -2, 2),
    "F.tanh": (F.tanh, np.tanh, -2, 2),
    "clip": (lambda x: x.clip(-1, 0.5), None, -2, 2),
    "clip from below": (lambda x: np.clip(x, 0.5, None), None, -2, 2),
    "relu": (F.relu, lambda x: np.maximum(x, 0), -2, 2),
    "sigmoid": (F.sigmoid, lambda x: 1 / (1 + np.exp(-x)), -2, 2),
    "twice the same": (lambda x: x * x - x, None, -2, 2),
}


@pytest.mark.parametrize("name", UNARY)
@few_or_many(8)
def test_functions_of_one_array(name, examples):
    ours, numpys, low, high = UNARY[name]

    @given(arrays(low=low, high=high))
    def value(x):
        check_close(ours(Tensor(x)), (numpys or ours)(x))

    @given(arrays(low=low, high=high, dtype=np.float64))
    def gradient(x):
        kink = np.abs(np.subtract.outer(x, [-1, 0, 0.5])).min(initial=1)  # of abs, relu and the two clips
        assume(kink > 1e-5)
        check_gradient(ours, x)

    holds(value, examples)
    holds(gradient, examples)


def pairs(count=2, max_dims=3):
    """Shapes that broadcast together, half of them without an axis of length 0."""
    some = (
        hnp.mutually_broadcastable_shapes(num_shapes=count, min_side=k, max_side=3, max_dims=max_dims) for k in (1, 0)
    )
    return st.one_of(*some).map(lambda found: found.input_shapes)


BINARY = {
    "+": (lambda a, b: a + b, -2, 2),
    "-": (lambda a, b: a - b, -2, 2),
    "*": (lambda a, b: a * b, -2, 2),
    "/": (lambda a, b: a / b, 0.5, 2),
    "**": (lambda a, b: a**b, 0.5, 2),
    "maximum": (np.maximum, -2, 2),
    "minimum": (np.minimum, -2, 2),
    "where": (lambda a, b: np.where(data(a) > 0, a, b), -2, 2),
}


def data(a):
    return a.data if isinstance(a, Tensor) else a


@pytest.mark.parametrize("name", BINARY)
@few_or_many(15)
def test_functions_of_two_arrays(name, examples):
    ours, low, high = BINARY[name]

    @given(pairs(), DTYPES, st.data())
    def value(shapes, dtype, draw):
        a, b = (draw.draw(arrays(shape, dtype, low, high)) for shape in shapes)
        check_close(ours(Tensor(a), Tensor(b)), ours(a, b))
        check_close(ours(Tensor(a), b), ours(a, b))  # an array is a constant, on either side
        check_close(ours(a, Tensor(b)), ours(a, b))

    @given(pairs(), st.data())
    def gradient(shapes, draw):
        a, b = (draw.draw(arrays(shape, np.float64, low, high)) for shape in shapes)
        assume(np.abs(a - b).min(initial=1) > 1e-5 and np.abs(a).min(initial=1) > 1e-5)
        check_gradient(ours, a, b)

    holds(value, examples)
    holds(gradient, examples)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@few_or_many(15)
def test_equal_elements_get_half_of_the_gradient_each(name, examples):
    @given(pairs(), st.data())
    def check(shapes, draw):
        a, b = (np.asarray(np.round(draw.draw(arrays(shape, np.float64)))) for shape in shapes)
        leaves = [Tensor(x, requires_grad=True) for x in (a, b)]
        y = getattr(np, name)(*leaves)
        dy = cotangent(y)
        y.backward(dy)
        first = (a > b if name == "maximum" else a < b) + 0.5 * (a == b)
        for leaf, share in zip(leaves, (first, 1 - first), strict=True):
            source = np.broadcast_to(np.arange(leaf.size).reshape(leaf.shape), y.shape)
            expected = np.bincount(source.ravel(), (dy * share).ravel(), leaf.size).reshape(leaf.shape)
            np.testing.assert_allclose(leaf.grad, expected, rtol=0, atol=1e-13 * max(1, y.size))

    holds(check, examples)


COMPARISONS = [np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal]


@few_or_many(20)
def test_comparisons_give_numpys_booleans(examples):
    @given(pairs(), DTYPES, st.data())
    def check(shapes, dtype, draw):
        a, b = (np.asarray(np.round(draw.draw(arrays(shape, dtype)))) for shape in shapes)  # so that some are equal
        for compare in COMPARISONS:
            found = compare(Tensor(a), Tensor(b))
            assert type(found) in (np.ndarray, np.bool_) and np.array_equal(found, compare(a, b))

    holds(check, examples)


@few_or_many(40)
def test_the_gradient_of_a_broadcast_argument_is_the_sum_over_its_copies(examples):
    """Which element of an argument each element of the result came from is found by broadcasting their numbers."""

    @given(pairs(3, 4), st.data())
    def check(shapes, draw):
        leaves = [Tensor(draw.draw(arrays(shape, np.float64)), requires_grad=True) for shape in shapes]
        a, b, c = leaves
        y = a * b + c
        dy = draw.draw(arrays(y.shape, np.float64))
        y.backward(dy)
        locals_ = b.data * np.ones(y.shape), a.data * np.ones(y.shape), np.ones(y.shape)
        for leaf, slope in zip(leaves, locals_, strict=True):
            source = np.broadcast_to(np.arange(leaf.size).reshape(leaf.shape), y.shape)
            expected = np.bincount(source.ravel(), (dy * slope).ravel(), leaf.size).reshape(leaf.shape)
            assert leaf.grad.shape == leaf.shape
            np.testing.assert_allclose(leaf.grad, expected, rtol=0, atol=1e-13 * max(1, y.size))

    holds(check, examples)


# Reductions


@st.composite
def axes(draw, ndim):
    """None, an int or a tuple of them, from either end; also the empty tuple."""
    chosen = draw(st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim)) if ndim else []
    signs = [draw(st.booleans()) for _ in chosen]
    chosen = tuple(a - ndim if negative else a for a, negative in zip(chosen, signs, strict=True))
    kind = draw(st.integers(0, 2))
    return None if kind == 0 else chosen[0] if kind == 1 and chosen else chosen


REDUCTIONS = ["sum", "mean", "var", "std", "max", "min"]


@pytest.mark.parametrize("name", REDUCTIONS)
@few_or_many(25)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # the mean of nothing is NaN, NumPy says so as well
def test_reductions(name, examples):
    @given(arrays(), st.booleans(), st.integers(0, 1), st.data())
    def value(x, keepdims, ddof, draw):
        axis = draw.draw(axes(x.ndim))
        options = {"axis": axis, "keepdims": keepdims, **({"ddof": ddof} if name in ("var", "std") else {})}
        try:
            expected = getattr(np, name)(x, **options)
        except ValueError:  # the largest of nothing
            assert name in ("max", "min") and x.size == 0
            with pytest.raises(ValueError, match="zero-size"):
                getattr(Tensor(x), name)(**options)
            return
        if name in ("var", "std"):  # NumPy's own is a float32 sum of squares, too
            expected = getattr(np, name)(x.astype(np.float64), **options).astype(x.dtype)
            if x.size and ddof and np.size(expected) == x.size:  # one value each
                expected = np.full_like(expected, np.nan)
        check_close(getattr(Tensor(x), name)(**options), expected)
        check_close(getattr(np, name)(Tensor(x), **options), expected)

    @given(distinct(shape=st.lists(st.integers(1, 4), max_size=3).map(tuple)), st.booleans(), st.data())
    def gradient(x, keepdims, draw):
        axis = draw.draw(axes(x.ndim))
        gaps = np.diff(np.sort(x, axis=None)).min(initial=1)
        assume(name in ("sum", "mean", "var") or gaps > (0.1 if name == "std" else 1e-5))
        check_gradient(lambda t: getattr(t, name)(axis=axis, keepdims=keepdims), x)

    @given(arrays(dtype=np.float64, shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)), st.data())
    def ties(x, draw):
        x, axis = np.round(x), draw.draw(axes(x.ndim))
        t = Tensor(x, requires_grad=True)
        y = getattr(t, name)(axis=axis, keepdims=True)
        dy = cotangent(y)
        y.backward(dy)
        chosen = x == y.data
        np.testing.assert_allclose(t.grad, chosen * dy / chosen.sum(axis=axis, keepdims=True), rtol=1e-14)

    holds(value, examples)
    holds(gradient, examples)
    if name in ("max", "min"):
        holds(ties, examples)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@few_or_many(20)
def test_softmax(name, examples):
    @given(arrays(low=-30, high=30), st.data())
    def value(x, draw):
        assume(x.ndim)
        dim = draw.draw(st.integers(-x.ndim, x.ndim - 1))
        wide = x.astype(np.float64)
        e = np.exp(wide - wide.max(axis=dim, keepdims=True, initial=-99))
        p = e / e.sum(axis=dim, keepdims=True)
        check_close(getattr(F, name)(Tensor(x), dim), (p if name == "softmax" else np.log(p)).astype(x.dtype))

    @given(arrays(dtype=np.float64), st.data())
    def gradient(x, draw):
        assume(x.ndim)
        dim = draw.draw(st.integers(-x.ndim, x.ndim - 1))
        check_gradient(lambda t: getattr(F, name)(t, dim), x)

    holds(value, examples)
    holds(gradient, examples)


# Shapes and indices


@st.composite
def reshapes(draw, x):
    """Another shape with as many elements, with or without a -1."""
    left, shape = x.size, []
    while left > 1 and draw(st.booleans()):
        side = draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0]))
        shape.append(side)
        left //= side
    shape.insert(draw(st.integers(0, len(shape))), left)
    if x.size and draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = -1
    return tuple(shape)


@st.composite
def indices(draw, shape, kind):
    """Of the kinds below; what the shape has no room for becomes a basic index."""
    if kind == "repeated index" and shape and 0 not in shape:
        return draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    if kind == "mask" and shape:
        return draw(arrays(shape[: draw(st.integers(1, len(shape)))], np.float64)) > 0
    if kind == "index of the last axis" and shape and shape[-1]:
        return (..., draw(st.lists(st.integers(-shape[-1], shape[-1] - 1), max_size=4)))
    return draw(hnp.basic_indices(shape, allow_newaxis=True))  # slices, ints, None, ...


INDICES = ["basic index", "repeated index", "mask", "index of the last axis"]
MOVES = ["reshape", "transpose", "T", "swapaxes", "flatten", "broadcast_to", "concatenate", "stack", "pad", *INDICES]


@st.composite
def moves(draw, x, kind):
    """A function on tensors and arrays alike that rearranges the elements of an array of x's shape."""
    n = x.ndim
    assume(n or kind not in ("swapaxes", "concatenate", "pad"))
    if kind == "reshape":
        shape = draw(reshapes(x))
        return lambda a: a.reshape(shape)
    if kind == "transpose":
        order = tuple(a - n * draw(st.booleans()) for a in draw(st.permutations(range(n))))
        return lambda a: np.transpose(a, order)
    if kind == "swapaxes":
        one, other = draw(st.integers(-n, n - 1)), draw(st.integers(-n, n - 1))
        return lambda a: a.swapaxes(one, other)
    if kind == "broadcast_to":
        more = draw(st.lists(SIDES, max_size=2))
        shape = (*more, *(draw(SIDES) if k == 1 else k for k in x.shape))
        return lambda a: np.broadcast_to(a, shape)
    if kind in INDICES:
        index = draw(indices(x.shape, kind))
        return lambda a: a[index]
    if kind == "pad":
        widths = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(n)]
        return lambda a: (tb.pad if isinstance(a, Tensor) else np.pad)(
            a, widths, **{"value" if isinstance(a, Tensor) else "constant_values": 1.5}
        )
    if kind == "stack":
        axis = draw(st.integers(-n - 1, n))
        return lambda a: np.stack([a, 2 * a, a], axis=axis)
    if kind == "concatenate":
        axis = draw(st.integers(-n, n - 1))
        half = (slice(None),) * (axis % n) + (slice(0, x.shape[axis] // 2),)
        return lambda a: np.concatenate([a, a[half], 3 * a], axis=axis)
    if kind == "flatten":
        first = draw(st.integers(0, max(n - 1, 0)))
        last = draw(st.integers(first, max(n - 1, 0)))
        shape = (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])
        return lambda a: a.flatten(first, last - max(n, 1)) if isinstance(a, Tensor) else a.reshape(shape)
    return lambda a: a.T


@pytest.mark.parametrize("kind", MOVES)
@few_or_many(15)
def test_rearranged_elements(kind, examples):
    """Nothing is computed, so the values are NumPy's to the bit; the gradient puts the elements back, and adds up."""

    @given(arrays(), st.data())
    def value(x, draw):
        move = draw.draw(moves(x, kind))
        ours, expected = move(Tensor(x)).data, np.asarray(move(x))
        assert ours.dtype == x.dtype and ours.shape == expected.shape and np.array_equal(ours, expected)

    @given(arrays(dtype=np.float64), st.data())
    def gradient(x, draw):
        move = draw.draw(moves(x, kind))
        t = Tensor(x, requires_grad=True)
        y = move(t)
        dy = cotangent(y)
        y.backward(dy)
        np.testing.assert_allclose((t.grad * x).sum(), (dy * y.data).sum() - constant(move, x, dy), atol=1e-11)
        check_gradient(move, x)

    def constant(move, x, dy):
        """What of dy . y does not depend on x: the padding's share. For a linear map, dx . x = dy . y otherwise."""
        return (dy * np.asarray(move(0 * x))).sum()

    holds(value, examples)
    holds(gradient, examples)


@few_or_many(30)
def test_matrix_products(examples):
    @st.composite
    def factors(draw, dtype):
        k = draw(SIDES)
        one, other = draw(pairs(2, 2))
        a = (*one, draw(SIDES), k) if draw(st.booleans()) else (k,)
        b = (*other, k, draw(SIDES)) if draw(st.booleans()) else (k,)
        return draw(arrays(a, dtype)), draw(arrays(b, dtype))

    @given(DTYPES.flatmap(factors))
    def value(ab):
        a, b = ab
        exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(a.dtype)
        sizes = np.abs(a) @ np.abs(b)
        check_close(Tensor(a) @ Tensor(b), exact, sizes)
        check_close(a @ Tensor(b), exact, sizes)

    @given(factors(np.float64))
    def gradient(ab):
        check_gradient(lambda a, b: a @ b, *ab)

    @given(arrays(dtype=np.float64), st.integers(0, 3), st.booleans(), st.data())
    def linear(x, outputs, has_bias, draw):
        assume(x.ndim)
        w, b = draw.draw(arrays((outputs, x.shape[-1]), np.float64)), draw.draw(arrays((outputs,), np.float64))
        inputs = [x, w, b][: 2 + has_bias]
        check_close(
            F.linear(*map(Tensor, inputs)), x @ w.T + (b if has_bias else 0), np.abs(x) @ np.abs(w.T) + np.abs(b)
        )
        check_gradient(F.linear, *inputs)

    for check in (value, gradient, linear):
        holds(check, examples)


@few_or_many(15)
def test_convolutions_and_pools_of_any_geometry(examples):
    """The convolution against its definition, element by element; pools against the windows themselves."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))

    @st.composite
    def geometries(draw):
        kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
        padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        size = [max(1, r - 2 * p) + draw(st.integers(0, 3)) for r, p in zip(reach, padding, strict=True)]
        return tuple(size), kernel, stride, padding, dilation

    def windows(x, kernel, stride, padding, dilation, fill):
        """(N, C, P, Q, I, J)"""
        x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=fill)
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        found = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))
        return found[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]

    @given(geometries(), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.data())
    def convolution(geometry, n, groups, inputs, outputs, draw):
        size, kernel, stride, padding, dilation = geometry
        x = draw.draw(arrays((n, groups * inputs, *size), np.float64))
        w = draw.draw(arrays((groups * outputs, inputs, *kernel), np.float64))
        b = draw.draw(arrays((groups * outputs,), np.float64))

        def by_definition(x, w):
            patches = windows(x, kernel, stride, padding, dilation, 0)
            patches = patches.reshape(n, groups, inputs, *patches.shape[2:])
            y = np.einsum("ngcpqij,gocij->ngopq", patches, w.reshape(groups, outputs, inputs, *kernel))
            return y.reshape(n, groups * outputs, *y.shape[3:])

        leaves = [Tensor(a, requires_grad=True) for a in (x, w, b)]
        y = F.conv2d(*leaves, stride, padding, dilation, groups)
        check_close(y, by_definition(x, w) + b[:, None, None])
        rng = np.random.default_rng(STREAM)
        dy, dx, dw = (rng.uniform(-1, 1, shape) for shape in (y.shape, x.shape, w.shape))
        y.backward(dy)  # y is linear in x and in w: the gradients are the adjoints of these maps
        for found, other, change in ((leaves[0].grad, dx, (dx, w)), (leaves[1].grad, dw, (x, dw))):
            expected = (dy * by_definition(*change)).sum()
            assert abs((found * other).sum() - expected) <= 1e-13 * max(1, np.abs(found * other).sum())
        np.testing.assert_allclose(leaves[2].grad, dy.sum(axis=(0, 2, 3)), rtol=0, atol=1e-12)

    @given(geometries(), st.integers(1, 2), st.data())
    def pool(geometry, n, draw):
        size, kernel, stride, padding, dilation = geometry
        padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
        size = tuple(s + 2 * d * k for s, k, d in zip(size, kernel, dilation, strict=True))
        x = draw.draw(distinct(shape=(n, 2, *size)))
        largest = windows(x, kernel, stride, padding, dilation, -np.inf).max(axis=(4, 5))
        check_close(F.max_pool2d(Tensor(x), kernel, stride, padding, dilation), largest)
        average = windows(x, kernel, stride, padding, (1, 1), 0).mean(axis=(4, 5))
        check_close(F.avg_pool2d(Tensor(x), kernel, stride, padding), average)
        t = Tensor(x, requires_grad=True)
        y = F.max_pool2d(t, kernel, stride, padding, dilation)
        dy = cotangent(y)
        y.backward(dy)  # an element gets the gradients of the windows that it is the largest of
        place = np.arange(x.size).reshape(x.shape)
        chosen = windows(place, kernel, stride, padding, dilation, -1)
        chosen = chosen[windows(x, kernel, stride, padding, dilation, -np.inf) == largest[..., None, None]]
        expected = np.bincount(chosen, dy.ravel(), x.size).reshape(x.shape)
        np.testing.assert_allclose(t.grad, expected, rtol=0, atol=1e-13)
        t.grad = None
        (F.avg_pool2d(t, kernel, stride, padding) * 1.0).sum().backward()
        inside = windows(place, kernel, stride, padding, (1, 1), -1)
        expected = np.bincount(inside[inside >= 0], minlength=x.size).reshape(x.shape) / math.prod(kernel)
        np.testing.assert_allclose(t.grad, expected, rtol=0, atol=1e-13)

    holds(convolution, examples)
    holds(pool, examples)


# Memory layouts: kernels take C order, whatever they are given

IMAGES, MATRIX, LABELS = (2, 4, 5, 6), (6, 4), np.array([0, 3, 1, 1, 2, 0])
RUNNING = np.array([0.5, -1.0, 2.0, 0.0]), np.array([1.0, 0.5, 2.0, 3.0])
KERNELS = {  # name: (op, shapes of its inputs)
    "relu": (F.relu, [IMAGES]),
    "sigmoid": (F.sigmoid, [IMAGES]),
    "tanh": (F.tanh, [IMAGES]),
    "softmax": (lambda x: F.softmax(x, 1), [IMAGES]),
    "log_softmax": (F.log_softmax, [MATRIX]),
    "linear": (F.linear, [MATRIX, (3, 4), (3,)]),
    "matmul": (lambda a, b: a @ b, [IMAGES, (4, 6, 3)]),
    "conv2d": (lambda *t: F.conv2d(*t, padding=1), [IMAGES, (3, 4, 3, 2), (3,)]),
    "conv2d, depthwise": (lambda *t: F.conv2d(*t, padding=1, groups=4), [IMAGES, (4, 1, 3, 2), (4,)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [IMAGES]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), [IMAGES]),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS, reduction="none"), [MATRIX]),
    "bce": (lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"), [MATRIX, MATRIX]),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [IMAGES, (4,), (4,)]),
    "batch_norm of features": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [MATRIX, (4,), (4,)]),
    "batch_norm, eval": (lambda x, w, b: F.batch_norm(x, *RUNNING, w, b), [IMAGES, (4,), (4,)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (5, 6), w, b), [IMAGES, (5, 6), (5, 6)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, 6, w), [IMAGES, (6,)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [IMAGES, (4,), (4,)]),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [IMAGES, (4,), (4,)]),
    "ghost_batch_norm": (lambda x, w, b: F.ghost_batch_norm(x, 1, None, None, w, b, True), [IMAGES, (4,), (4,)]),
    "whitening": (lambda x: F.decorrelated_batch_norm(x, training=True, eps=0.1), [IMAGES]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_results_do_not_depend_on_the_memory_layout(name):
    """Of the inputs or of the gradient that comes in, in all pairs of layouts."""
    op, shapes = KERNELS[name]
    rng = np.random.default_rng(0)

    def run(inputs, dy):
        leaves = [Tensor(a, requires_grad=True) for a in inputs]
        y = op(*leaves)
        y.backward(dy)
        return [y.data, *(t.grad for t in leaves)]

    y_shape = op(*(Tensor(rng.uniform(-1, 1, shape)) for shape in shapes)).shape
    for layout, layout_dy in itertools.product(LAYOUTS, LAYOUTS):
        inputs = [laid_out(layout, shape, rng) for shape in shapes]
        dy = laid_out(layout_dy, y_shape, rng)
        plain = run([np.array(a, order="C") for a in inputs], np.array(dy, order="C"))
        for found, expected in zip(run(inputs, dy), plain, strict=True):
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * scale, err_msg=f"{layout}, {layout_dy}")


# DataLoader


@few_or_many(50)
def test_a_loader_yields_every_sample_once_per_epoch(examples):
    @given(
        st.integers(0, 40), st.integers(1, 45), st.booleans(), st.booleans(), st.none() | st.integers(0, 9), st.data()
    )
    def check(n, batch_size, shuffle, drop_last, seed, draw):
        tb.manual_seed(draw.draw(SEEDS))
        rows, labels = np.arange(n), np.arange(n) * 7

        def loader():
            return tb.data.DataLoader((rows, labels), batch_size, shuffle, drop_last, seed)

        ours, epochs = loader(), []
        for _ in range(2):
            batches = list(ours)
            sizes = [len(x) for x, _ in batches]
            left = n % batch_size
            assert len(batches) == len(ours) and sizes[:-1] == [batch_size] * (len(sizes) - 1)
            assert sum(sizes) == (n - left if drop_last else n)
            assert all(np.array_equal(7 * x, y) for x, y in batches)  # rows stay together
            order = np.concatenate([x for x, _ in batches]) if batches else np.empty(0, int)
            assert len(np.unique(order)) == len(order) == sum(sizes)
            assert shuffle or np.array_equal(order, np.arange(sum(sizes)))
            epochs.append(order)

        # the same loader, left and taken up again somewhere in the first epoch
        if seed is not None and len(ours):
            first, stop = loader(), draw.draw(st.integers(1, len(ours)))
            iterator = iter(first)
            seen = [next(iterator)[0] for _ in range(stop)]
            second = loader()
            second.load_state_dict(first.state_dict())
            seen += [x for x, _ in second]
            assert np.array_equal(np.concatenate(seen), epochs[0])
            assert np.array_equal(np.concatenate([x for x, _ in second]), epochs[1])

    holds(check, examples)


# Preprocessing

SCALERS = {
    "StandardScaler": preprocessing.StandardScaler,
    "MinMaxScaler": lambda: preprocessing.MinMaxScaler((-1, 3)),
    "MaxAbsScaler": preprocessing.MaxAbsScaler,
    "RobustScaler": preprocessing.RobustScaler,
    "PCAWhitening": preprocessing.PCAWhitening,
    "PCAWhitening, damped": lambda: preprocessing.PCAWhitening(eps=0.1),
    "ZCAWhitening": preprocessing.ZCAWhitening,
    "ZCAWhitening, damped": lambda: preprocessing.ZCAWhitening(eps=0.1),
}


@pytest.mark.parametrize("name", SCALERS)
@few_or_many(20)
def test_inverse_transform_gives_the_data_back(name, examples):
    """Also of constant, dependent and very small or large features. Rounding is that of the largest value."""

    @given(st.integers(2, 30), st.integers(1, 6), DTYPES, SEEDS, st.booleans(), st.booleans())
    def check(n, features, dtype, seed, constant, dependent):
        rng = np.random.default_rng(seed)
        scale = 10.0 ** rng.integers(-3, 4, features)
        x = rng.standard_normal((n, features)) * scale + rng.standard_normal(features) * scale
        if constant:
            x[:, 0] = scale[0]
        if dependent:
            x[:, -1] = 2 * x[:, 0]
        x = x.astype(dtype)
        assume((np.ptp(x, axis=0) > 0).any())
        if "Whitening" in name:  # which takes what its own rounding may have made for equal
            assume(np.linalg.norm(x - x.mean(axis=0)) > 4 * np.finfo(dtype).eps * np.linalg.norm(x))
        y = SCALERS[name]().fit(x).transform(x)
        assert y.dtype == dtype and np.isfinite(y).all()
        back = SCALERS[name]().fit(x).inverse_transform(y)
        assert back.dtype == dtype and back.shape == x.shape
        largest = np.abs(x).max(axis=0) if "Whitening" not in name else np.abs(x).max()
        spread = np.abs(y).max(axis=0) if "Whitening" not in name else 1  # RobustScaler's outliers
        rounding = np.finfo(dtype).eps * (20 if "Whitening" not in name else 100 * features)
        assert (np.abs(back - x) <= rounding * largest * np.maximum(spread, 1)).all()

    holds(check, examples)


# Checkpoints and state dicts

KINDS = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint16, np.bool_, np.complex64])


@st.composite
def any_array(draw):
    dtype = np.dtype(draw(KINDS))
    bytes_ = draw(st.sampled_from(["<", ">"]))
    x = draw(arrays(dtype=np.float64, low=-100, high=100, layouts=["as it is", "transposed", "stepped", "broadcast"]))
    special = draw(st.sampled_from([0, np.nan, np.inf, -0.0]))
    x = np.array(x, order="K")
    if x.size and dtype.kind in "fc":
        x.flat[0] = special
    x = (np.abs(x) if dtype.kind == "u" else x).astype(dtype.newbyteorder(bytes_))
    return x if x.ndim else np.asarray(x).reshape(())


LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), any_array()),
    st.integers(-(2**200), 2**200),
)
KEYS = st.one_of(st.text(max_size=6), st.integers(-(2**70), 2**70))
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def check_same(a, b):
    """Equal in type and to the bit, with dicts in the same order."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b]
        for key in a:
            check_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            check_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and b.flags.writeable
    elif isinstance(a, float):
        assert np.float64(a).tobytes() == np.float64(b).tobytes()
    else:
        assert a == b


@few_or_many(60)
def test_a_checkpoint_gives_back_what_was_saved(tmp_path, examples):
    path = tmp_path / "state.npz"

    @given(STATES)
    def check(state):
        tb.save(path, state)
        check_same(state, tb.load(path))
        first = path.read_bytes()
        tb.save(path, tb.load(path))
        assert path.read_bytes() == first  # equal values, equal files

    holds(check, examples)
