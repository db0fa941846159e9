"""Every row of the gradient table (test_gradients.py) at 2^20 + 7 elements and a few more, and with special values.

Sizes are odd, so that blocks, vectors and the pieces of work of several threads have tails. Value and first gradients
are compared with the op's definition in float64; a primitive's with its formula in NumPy; those of matrix functions
with their equations and with finite differences. Then NaN, infinity and 1e200 (in float32 1e30) are planted, in one
input or in dy: what the reference has finite must be finite and equal, what it has not must not be finite.
"""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import test_gradients
from test_gradients import MODULES, TABLE

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import ops
from tinygrad_bn.runtime.threads import LARGE

SEED = 17
K = LARGE + 7
PAIRS, CUBE, SQUARE, IMAGES = (K // 3 + 1, 3), (103, 101, 101), (1023, 1027), (1023, 3, 19, 19)
INDEX = np.random.default_rng(SEED).integers(0, 1000, K)
TARGET = np.random.default_rng(SEED).integers(0, 4, K // 4 + 1)
FEATURES = np.array([[1.0], [2.0], [4.0]])  # whose variances differ: else the axes of PCA are anybody's guess


def separate(a):
    """Symmetric matrices with eigenvalues near 1, 3 and 6: far from each other, as their vectors need it."""
    return (a + a.swapaxes(-1, -2)) * 0.05 + np.diag([1.0, 3.0, 6.0]).astype(a.dtype)


# name of the op -> for each of its rows the large shapes, or (function, shapes) where the row's formula has sizes in it
SHAPES = {
    "add": [[PAIRS, (3,)], [(1025, 1), (1, 1031)]],
    "subtract": [[SQUARE, (1023, 1)]],
    "multiply": [[PAIRS, (3,)], [SQUARE]],
    "divide": [[PAIRS, (3,)], [(K,)]],
    "negative": [[(K,)]],
    "power": [[SQUARE], [PAIRS, (3,)], [(K,)]],
    **{key: [[SQUARE]] for key in ["exp", "log", "sqrt", "absolute", "clip"]},
    "tanh": [[SQUARE], [SQUARE], [PAIRS]],
    **{key: [[PAIRS, (3,)]] for key in ["maximum", "minimum", "where"]},
    "sum": [[CUBE], [PAIRS]],
    "mean": [[CUBE]],
    **{key: [[PAIRS], [SQUARE]] for key in ["var", "std"]},
    "max": [[SQUARE]],
    "min": [[PAIRS]],
    "reshape": [[(6, K // 6 + 1)], [CUBE]],
    "transpose": [[SQUARE], [CUBE]],
    "swapaxes": [[CUBE]],
    "broadcast_to": [(lambda a: tb.broadcast_to(a, PAIRS) ** 2, [(3,)])],
    "getitem": [[SQUARE], [(3, K // 3 + 1)], [(3, K // 3 + 1)]],
    "put": [(lambda a: ops.shape.put(a, index=INDEX, shape=(1000,)) ** 2, [(K,)])],
    "_concatenate": [[SQUARE, (1023, 2)], [SQUARE, SQUARE]],
    "pad": [[SQUARE]],
    "matmul": [[SQUARE, (1027, 3)], [CUBE, (101, 3)], [(K,), (K,)], [CUBE, (101,)], [(101,), CUBE]],
    "linear": [[PAIRS, (5, 3), (5,)], [CUBE, (5, 101)]],
    "relu": [[SQUARE], [(K,)]],
    "sigmoid": [[SQUARE]],
    "softmax": [[(3, K // 3 + 1)], [CUBE]],
    "log_softmax": [[CUBE]],
    "_cross_entropy": [[(len(TARGET), 4)]] * 3,
    "_bce": [[(K,), (K,)]],
    "channel_norm": [
        [PAIRS, (3,), (3,)],
        [IMAGES, (3,), (3,)],
        [PAIRS],
        [(1023, 3, 343), (3,), (3,)],
        (
            lambda x, w, b: F.ghost_batch_norm(x, 50_021, None, None, w, b, True),
            [(K // 2 + 1, 2), (2,), (2,)],
        ),
        [(5, 2, 104_869)],
        [(K // 2 + 1, 2), (2,), (2,)],
    ],
    "row_norm": [
        [(174_767, 3, 2), (3, 2), (3, 2)],
        [(209_717, 5)],
        [(7, 4, 37_451), (4,), (4,)],
        [(2, 4, 131_073), (4,)],
        [(1023, 3, 343), (3,), (3,)],
        (lambda x, w: F.rms_norm(x, 5, w, 1e-5), [(209_717, 5), (5,)]),  # the eps of the row is the dtype's
    ],
    "_conv2d": [
        [IMAGES, (2, 3, 3, 3), (2,)],
        [(1023, 2, 23, 23), (4, 2, 3, 2), (4,)],
        [(2, 727, 733), (3, 2, 2, 4)],
        [(1023, 6, 13, 14), (8, 3, 2, 2), (8,)],
    ],
    "_conv2d_direct": [[(2551, 3, 19, 19), (3, 1, 2, 2)], [(1023, 6, 13, 14), (6, 2, 2, 2), (6,)]],
    "_max_pool2d": [[IMAGES], [(34_953, 6, 5)]],
    "average": [[(17_477, 3, 4, 5)], [(11_651, 3, 5, 6)], [(34_953, 5, 6)], [(17_477, 3, 5, 4)]],
    "lyapunov": [[(116_511, 3, 3), (116_511, 3, 3)]],
    "inverse_sqrt": [[(116_511, 3, 3)]],
    "eigh": [(lambda a: ops.whitening.eigh(separate(a)), [(116_511, 3, 3)])],
    "whiten": [
        [(2, 3, 174_767)],
        (lambda x: test_gradients.whiten(x * FEATURES.astype(x.dtype), "pca"), [(3, K // 3 + 1)]),
        [(1023, 4, 257), (4,), (4,)],
    ],
}
ROWS = [(name, i) for name, rows in SHAPES.items() for i in range(len(rows))]


# The primitives' rows as formulas: dy and the inputs -> value, and gradients before they are summed to an input's shape


def share(chosen, axis=None):
    return chosen / chosen.sum(axis=axis, keepdims=True)


def of_std(a, ddof, axis=None):
    """std, and its derivative by a."""
    centered = a - a.mean(axis=axis, keepdims=True)
    n = a.size if axis is None else a.shape[axis]
    y = np.sqrt((centered * centered).sum(axis=axis, keepdims=True) / (n - ddof))
    return y, centered / ((n - ddof) * y)


def maximum_or_minimum(function, less):
    return lambda dy, a, b: (
        function(a, b),
        np.where(a == b, dy / 2, np.where(less(a, b), 0, dy)),
        np.where(a == b, dy / 2, np.where(less(b, a), 0, dy)),
    )


def max_row(dy, a):
    rows, top = a.max(axis=1), a.max()
    by_rows = (dy * top)[:, None] * share((a == rows[:, None]) * 1.0, 1)
    return rows * top, by_rows + (dy * rows).sum() * share((a == top) * 1.0)


def min_row(dy, a):
    least = a.min(axis=0, keepdims=True)
    return least * a, dy * least + (dy * a).sum(axis=0, keepdims=True) * share((a == least) * 1.0, 0)


def std_row(dy, a):
    y, slope = of_std(a, 1)
    return y * a, dy * y + (dy * a).sum() * slope


def var_row(axis, ddof):
    def row(dy, a):
        centered = a - a.mean(axis=axis, keepdims=True)
        n = (a.size if axis is None else a.shape[axis]) - ddof
        return (centered * centered).sum(axis=axis) / n, 2 * centered / n * dy

    return row


def clip_row(dy, a):
    y = np.clip(a, -0.5, 0.7)
    return y * a, dy * y + np.where((a < -0.5) | (a > 0.7), 0, dy * a)


def where_row(dy, a, b):
    first, second = np.where(a > 0, dy, 0), np.where(a > 0, 0, dy)
    return np.where(a > 0, a * b, b * b), first * b, (first * a).sum(axis=0) + 2 * second.sum(axis=0) * b


def squares_of(pick, back):
    """The square of elements that a function picks; back brings the gradient to a's shape."""
    return lambda dy, a: (pick(a) ** 2, back(a, 2 * pick(a) * dy))


def back_to(*places):
    """Adds g, or its parts, to zeros at these places."""

    def back(a, g):
        result = np.zeros_like(a)
        for place, part in zip(places, [g] if len(places) == 1 else g, strict=True):
            result[place] += part
        return result

    return back


def power_row(dy, a, b):
    base = np.abs(a) + 1
    slope = np.where(b == 0, 0, dy * (b * base ** (b - 1)))
    return base**b, slope * np.sign(a), dy * (base**b * np.log(base))


def put_row(dy, a):
    y = np.bincount(INDEX, a, 1000).astype(a.dtype)
    return y**2, (2 * y * dy)[INDEX]


def product_row(a_axes, b_axes, out):
    return lambda dy, a, b: (
        np.einsum(f"{a_axes},{b_axes}->{out}", a, b),
        np.einsum(f"{out},{b_axes}->{a_axes}", dy, b),
        np.einsum(f"{a_axes},{out}->{b_axes}", a, dy),
    )


def bce_row(dy, x, t):
    """Its definition, for finite values, has 0 times infinity and infinity minus infinity."""
    e = np.exp(-np.abs(x))
    straight = np.where(x >= 0, (1 - t) * x, -t * x)
    sigmoid = np.where(x >= 0, 1, e) / (1 + e)
    return (straight + np.log1p(e)).mean(), (sigmoid - t) * (dy / x.size), -x * (dy / x.size)


def sigmoid_row(dy, x):
    """Its definition has infinity minus infinity where dy is infinite."""
    y = 1 / (1 + np.exp(-x))
    return y, dy * y * (1 / (1 + np.exp(x)))


def divide_row(dy, a, b):
    y = a / (np.abs(b) + 1)
    return y, dy / (np.abs(b) + 1), -dy * (y / (np.abs(b) + 1)) * np.sign(b)


FORMULAS = {
    "add": [lambda dy, a, b: (a + b, dy, dy)] * 2,
    "subtract": [lambda dy, a, b: (a - b, dy, -dy)],
    "multiply": [lambda dy, a, b: (a * b, dy * b, dy * a), lambda dy, a: (2 * a * a, dy * a * 2 + dy * (2 * a))],
    "divide": [divide_row, lambda dy, a: (1 / (a * a + 1), -dy * (1 / (a * a + 1) / (a * a + 1)) * a * 2)],
    "negative": [lambda dy, a: (-a * a, -2 * a * dy)],
    "power": [
        lambda dy, a: (a**3, dy * (3 * a**2)),
        power_row,
        lambda dy, b: (2.0**b, dy * 2.0**b * math.log(2)),
    ],
    "exp": [lambda dy, a: (np.exp(a), dy * np.exp(a))],
    "log": [lambda dy, a: (np.log(a * a + 1), dy / (a * a + 1) * a * 2)],
    "sqrt": [lambda dy, a: (np.sqrt(a * a + 1), dy / (2 * np.sqrt(a * a + 1)) * a * 2)],
    "tanh": [lambda dy, a: (np.tanh(a), dy * (1 - np.tanh(a) ** 2))] * 3,
    "absolute": [lambda dy, a: (np.abs(a), dy * np.sign(a))],
    "maximum": [maximum_or_minimum(np.maximum, np.less)],
    "minimum": [maximum_or_minimum(np.minimum, np.greater)],
    "where": [where_row],
    "clip": [clip_row],
    "sum": [
        lambda dy, a: ((a * a).sum(axis=(0, 2)), 2 * a * dy[:, None]),
        lambda dy, a: (a.sum(), np.broadcast_to(dy, a.shape)),
    ],
    "mean": [lambda dy, a: ((a * a).mean(axis=-1, keepdims=True), dy / a.shape[-1] * a * 2)],
    "var": [var_row(0, 0), var_row(None, 1)],
    "std": [lambda dy, a: (of_std(a, 0, 0)[0][0], of_std(a, 0, 0)[1] * dy), std_row],
    "max": [max_row],
    "min": [min_row],
    "reshape": [
        squares_of(lambda a: a.reshape(2, -1), lambda a, g: g.reshape(a.shape)),
        squares_of(lambda a: a.reshape(len(a), -1), lambda a, g: g.reshape(a.shape)),
    ],
    "transpose": [
        squares_of(lambda a: a.T, lambda a, g: g.T),
        squares_of(lambda a: a.transpose(2, 0, 1), lambda a, g: g.transpose(1, 2, 0)),
    ],
    "swapaxes": [squares_of(lambda a: a.swapaxes(0, 2), lambda a, g: g.swapaxes(0, 2))],
    "broadcast_to": [squares_of(lambda a: np.broadcast_to(a, PAIRS), lambda a, g: g)],
    "getitem": [
        squares_of(lambda a: a[1:, None, ::2], back_to(np.s_[1:, None, ::2])),
        squares_of(lambda a: a[[0, 0, 2], 1:], back_to(np.s_[0, 1:], np.s_[0, 1:], np.s_[2, 1:])),
        squares_of(lambda a: a[[0, 2]], back_to(np.s_[0], np.s_[2])),
    ],
    "put": [put_row],
    "_concatenate": [
        lambda dy, a, b: (
            np.concatenate([a, b], axis=1) ** 2,
            2 * a * dy[:, : a.shape[1]],
            2 * b * dy[:, a.shape[1] :],
        ),
        lambda dy, a, b: (np.stack([a, b], axis=1) ** 2, 2 * a * dy[:, 0], 2 * b * dy[:, 1]),
    ],
    "pad": [squares_of(lambda a: np.pad(a, [(1, 0), (0, 2)], constant_values=3), lambda a, g: g[1:, :-2])],
    "matmul": [
        product_row(*axes)
        for axes in (
            *(("nk", "km", "nm"), ("bnk", "km", "bnm"), ("k", "k", ""), ("bnk", "k", "bn"), ("k", "bkm", "bm")),
        )
    ],
    "sigmoid": [sigmoid_row],
    "_bce": [bce_row],
}
MATRICES = ["lyapunov", "inverse_sqrt", "eigh"]  # each matrix of a stack for itself
# What is subtracted from a mean or a maximum of all may be NaN where another order of the steps has infinity
SPREADING = [
    "var",
    "std",
    "max",
    "min",
    "softmax",
    "log_softmax",
    "_cross_entropy",
    "channel_norm",
    "row_norm",
    "whiten",
]
# For a matrix 1e200 is infinite: its square overflows, or the other eigenvalues are what rounding leaves of them
FINITE_ONLY = [*MATRICES, "whiten"]


def average_by_windows(x, *, rows, columns, row_weight, column_weight):
    """The definition multiplies with matrices of zeros, so that a NaN would be in every window."""
    planes = x.reshape(-1, *x.shape[-2:])
    sums = [
        planes[:, a:b, c:d].sum(axis=(1, 2)) * (float(v) * float(w))
        for (a, b), v in zip(rows.tolist(), row_weight, strict=True)
        for (c, d), w in zip(columns.tolist(), column_weight, strict=True)
    ]
    return tb.stack(sums, axis=1).reshape(*x.shape[:-2], len(rows), len(columns))


def largest_of_windows(x, *, rows, columns, step):
    """The definition picks what the kernel has found."""
    planes = x.reshape(-1, *x.shape[-2:])
    values = []
    for a, b in rows.tolist():
        for c, d in columns.tolist():
            window = planes[:, a : b : step[0], c : d : step[1]].reshape(len(planes), -1)
            values.append(window[np.arange(len(planes)), window.data.argmax(axis=1)])  # the first NaN, if there is one
    return tb.stack(values, axis=1).reshape(*x.shape[:-2], len(rows), len(columns))


DEFINITIONS = {"average": average_by_windows, "_max_pool2d": largest_of_windows}


def function_and_shapes(name, i):
    entry = SHAPES[name][i]
    return entry if isinstance(entry, tuple) else (TABLE[name][i][0], entry)


def test_every_row_is_here_and_large():
    assert {name: len(rows) for name, rows in SHAPES.items()} == {name: len(rows) for name, rows in TABLE.items()}
    for name, i in ROWS:
        sizes = [math.prod(shape) for shape in function_and_shapes(name, i)[1]]
        assert max(sizes) > LARGE or name == "broadcast_to" or (name, i) == ("add", 1)  # there the result is
        op = getattr(MODULES[name], name)
        assert name in FORMULAS or name in MATRICES or op.definition is not None


def run(fn, arrays, cotangent):
    """Value, and gradients; cotangent: a function of the result's shape."""
    inputs = [tb.Tensor(a.copy(), requires_grad=True) for a in arrays]
    with np.errstate(all="ignore"):
        out = fn(*inputs)
        out.backward(cotangent(out.shape))
    return [out.data, *(t.grad for t in inputs)]


@contextmanager
def definition_of(name):
    """Within it the formula runs in place of the op; yields a list of its calls."""
    op, calls = getattr(MODULES[name], name), []
    definition = DEFINITIONS.get(name, op.definition)

    def formula(*args, track=None, **constants):
        calls.append(args)
        if track is not None:  # the batch statistics, which a formula does not hand out
            op.rule(*(a.data if isinstance(a, tb.Tensor) else a for a in args), track=track, **constants)
        return definition(*args, **constants)

    with pytest.MonkeyPatch.context() as patch:
        for module in (MODULES[name], F, ops.norms, ops.norm_variants):
            if getattr(module, name, None) is op:
                patch.setattr(module, name, formula)
        yield calls, formula


def by_formula(name, i, arrays, dy):
    """FORMULAS, with gradients summed over what was broadcast; sums in float64 are contiguous and so in pairs."""
    with np.errstate(all="ignore"):
        y, *gradients = FORMULAS[name][i](dy, *arrays)
        result = [np.asarray(y)]
        for a, g in zip(arrays, gradients, strict=True):
            extra = g.ndim - a.ndim
            axes = [k for k in range(g.ndim) if k < extra or (a.shape[k - extra] == 1 and g.shape[k] != 1)]
            kept = [k for k in range(g.ndim) if k not in axes]
            g = np.ascontiguousarray(g.transpose([*kept, *axes])).reshape([*(g.shape[k] for k in kept), -1])
            result.append(g.sum(axis=-1).reshape(a.shape))
    return result


def by_definition(name, i, arrays, dy):
    (fn, _), op = function_and_shapes(name, i), getattr(MODULES[name], name)
    with definition_of(name) as (calls, formula):
        result = run(formula if fn is op else fn, arrays, lambda shape: dy)
    assert calls
    return result


def by_differences(fn, arrays, dy):
    """The gradients of functions of many matrices, each of which affects its own result alone."""
    gradients = [np.empty_like(a) for a in arrays]
    h = 1e-5

    def value(k, place, step):
        moved = [a.copy() for a in arrays]
        moved[k][(..., *place)] += step
        return (fn(*map(tb.Tensor, moved)).data * dy).sum(axis=(1, 2))

    with np.errstate(all="ignore"):
        for k, g in enumerate(gradients):
            for place in np.ndindex(g.shape[1:]):
                g[(..., *place)] = (value(k, place, h) - value(k, place, -h)) / (2 * h)
    return gradients


def residual(name, arrays, y):
    """How far the value is from what it must solve, in units of what is equated."""
    a = arrays[0]
    p = separate(a) if name == "eigh" else test_gradients.positive(a)
    if name == "lyapunov":
        left, right = p @ y + y @ p, arrays[1]
    elif name == "inverse_sqrt":
        left, right = y @ p @ y, np.broadcast_to(np.eye(3), p.shape)
    else:
        left, right = p @ y[:, 1:], y[:, 1:] * y[:, :1]
        np.testing.assert_allclose(y[:, 1:].swapaxes(1, 2) @ y[:, 1:], np.broadcast_to(np.eye(3), p.shape), atol=1e-5)
    return np.abs(left - right).max() / np.abs(right).max()


def difference(found, exact, ordinary=None, strict=False, formula32=None):
    """The largest error, relative to an element and to what is usual among those that ``ordinary`` has as well.

    Others have met a huge value: there rounding is as large as the largest of them. What is not finite in one must not
    be in the other; strict: it is the same there. formula32: the reference in float32, whose squares may overflow
    where those of float64 do not: among the others, what it has is right as well.
    """
    with np.errstate(over="ignore"):
        exact = exact.astype(found.dtype).astype(np.float64)
    same = np.ones(exact.shape, bool) if ordinary is None else exact == ordinary.astype(found.dtype)
    if formula32 is not None:
        as_well = ~same & np.isclose(found, formula32, rtol=1e-5, atol=0, equal_nan=True)
        exact = np.where(as_well, found, exact)
    finite = np.isfinite(exact)
    assert np.array_equal(np.isfinite(found), finite), f"{(np.isfinite(found) != finite).sum()} of {found.size} differ"
    if strict:
        np.testing.assert_array_equal(found[~finite], exact[~finite])
    worst = 0.0
    for part, typical in ((finite & same, lambda v: np.sqrt((v * v).mean())), (finite & ~same, np.max)):
        if part.any():
            e = np.abs(exact[part])
            scale = e + typical(e)
            error = np.abs(found[part].astype(np.float64) - exact[part]) / np.where(scale == 0, 1, scale)
            worst = max(worst, float(error.max()))
    return worst


TOLERANCES = {np.float64: 1e-12, np.float32: 3e-6}


@pytest.fixture(autouse=True)
def targets(monkeypatch):
    monkeypatch.setattr(test_gradients, "T", TARGET)


def drawn(name, i, dtype):
    """(function, inputs, a function that makes dy), the same for the same row."""
    print("seed", SEED)
    fn, shapes = function_and_shapes(name, i)
    rng = np.random.default_rng(SEED)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return fn, arrays, lambda shape: np.asarray(np.random.default_rng(SEED + 1).standard_normal(shape), dtype)


def reference(name, i, arrays, dy):
    exact = [a.astype(np.float64) for a in arrays]
    return (by_formula if name in FORMULAS else by_definition)(name, i, exact, dy.astype(np.float64))


def special(dtype, value):
    return 1e30 if value == 1e200 and dtype == np.float32 else value


def plant(a, value):
    """At the end and in the middle: with these shapes one channel, or one group, is left as it was."""
    a = a.copy()
    a.reshape(-1)[-1] = a.reshape(-1)[a.size // 2] = value
    return a


def cases(name, arrays, dy):
    """(value, inputs, dy) of each run with special values."""
    for value in (np.nan, np.inf, 1e200):
        value = special(dy.dtype, value)
        for k in range(len(arrays)):
            if np.isfinite(value) and name in FINITE_ONLY:
                continue
            yield value, k, [plant(a, value) if j == k else a for j, a in enumerate(arrays)], dy
        yield value, "dy", arrays, plant(dy, value)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "i"), [row for row in ROWS if row[0] not in MATRICES])
def test_large(name, i, dtype, figure):
    fn, arrays, cotangent = drawn(name, i, dtype)
    found = run(fn, arrays, cotangent)
    dy = cotangent(found[0].shape)
    ordinary = reference(name, i, arrays, dy)
    worst = [max(map(difference, found, ordinary)), 0.0]
    for value, where, given, g in cases(name, arrays, dy):
        print(value, "in", where)
        found, exact = run(fn, given, lambda shape, g=g: g), reference(name, i, given, g)
        formulas = [None] * len(found)
        if name in FORMULAS and dtype == np.float32 and np.isfinite(value):
            formulas = by_formula(name, i, given, g)
        for f, e, o, f32 in zip(found, exact, ordinary, formulas, strict=True):
            worst[1] = max(worst[1], difference(f, e, o, name not in SPREADING, f32))
    figure(
        f"2^20 + 7 elements, {name} {i}, {dtype.__name__}", "worst error {:.1e}, beside special {:.1e}".format(*worst)
    )
    assert max(worst) < TOLERANCES[dtype]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_large_stacks_of_matrices(name, dtype, figure):
    """What is planted stays in its matrix. Finite differences: for the first, the last and those in the middle."""
    fn, arrays, cotangent = drawn(name, 0, dtype)
    found = run(fn, arrays, cotangent)
    n, dy = len(arrays[0]), cotangent(found[0].shape)
    some = np.r_[0:300, n // 2 - 150 : n // 2 + 150, n - 300 : n]
    doubles = [a.astype(np.float64) for a in arrays]
    worst = [residual(name, doubles, found[0].astype(np.float64)), 0.0]
    exact = by_differences(fn, [a[some] for a in doubles], dy[some].astype(np.float64))
    worst[1] = max(difference(f[some], e) for f, e in zip(found[1:], exact, strict=True))
    for value, where, given, g in cases(name, arrays, dy):
        print(value, "in", where)
        again = run(fn, given, lambda shape, g=g: g)
        before, after = (dy, g) if where == "dy" else (arrays[where], given[where])
        hit = (before != after).any(axis=(1, 2))
        assert hit.sum() == 2
        reached = [where != "dy", True, name == "lyapunov" and where != 1]  # value, gradients
        for a, b, here in zip(again, found, reached, strict=False):
            np.testing.assert_array_equal(a[~hit], b[~hit])
            if name == "eigh" and a is again[0]:
                a = a[:, 0]  # the eigenvalues are NaN
            assert np.isfinite(a[hit]).all() if np.isfinite(value) or not here else not np.isfinite(a[hit]).any()
    figure(f"stacks of matrices, {name}, {dtype.__name__}", "equation {:.1e}, gradient {:.1e}".format(*worst))
    assert worst[0] < 100 * TOLERANCES[dtype] and worst[1] < (1e-7 if dtype == np.float64 else 1e-4)
