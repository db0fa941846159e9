"""Numerical truth: every op's value and gradient against 60 digits (harness/truth_references.py), on the same inputs.

The error of an array is its largest error over the magnitude of its largest element: |y - exact| <= 1e-12 max|exact|
for values, 1e-10 for gradients. What ELEMENTWISE lists is held to it element by element. What is below the
smallest normal float is held to it relative to that float, and in a gradient relative to dy; so is the gradient of a
function that saturates (tanh, sigmoid, the softmax family), whose stored result does not say how far it is from 1.

One thing is worse by nature: a mean that is c standard deviations away from 0, and is stored in float64, spoils
x - mean by c roundings. In these rows of the norms c times as much is allowed (``deviations``). In float32 there is no
such allowance: the norms keep their means in two parts (parity/test_torch_accuracy.py).
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import norm_accuracy
import numpy as np
import pytest
import truth_references as exact_ops
from mpmath import mp
from test_gradients import MODULES, TABLE
from truth_references import REFERENCES, as_array, exact

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F

VALUE, GRADIENT = 1e-12, 1e-10
FLOAT32 = 8 * 2.0**-24
MANY = 750  # digits, where inputs reach from 1e-200 to 1e200
SEED = 0
ELEMENTWISE = {
    *("add", "subtract", "multiply", "divide", "negative", "power", "exp", "log", "sqrt", "tanh", "absolute"),
    *("maximum", "minimum", "where", "clip", "relu", "sigmoid", "reshape", "transpose", "swapaxes", "broadcast_to"),
    *("getitem", "put", "_concatenate", "pad", "max", "min", "softmax", "log_softmax", "_cross_entropy", "_bce"),
}
# their gradient is the difference of numbers as large as dy where they saturate
SATURATING = {"tanh", "sigmoid", "softmax", "log_softmax", "_cross_entropy"}
# where mpmath would take seconds: the same functions at other shapes
SMALLER = {
    ("_conv2d", 0): [(1, 2, 3, 2), (2, 2, 3, 3), (2,)],
    ("_conv2d", 1): [(1, 2, 4, 5), (2, 2, 3, 2), (2,)],
    ("_conv2d", 2): [(2, 4, 3), (2, 2, 2, 4)],
    ("_conv2d", 3): [(1, 6, 3, 2), (6, 3, 2, 2), (6,)],
    ("_conv2d_direct", 1): [(1, 3, 2, 3), (3, 1, 2, 2), (3,)],
    ("_max_pool2d", 0): [(1, 2, 4, 5)],
    ("average", 0): [(1, 2, 4, 5)],
}


# Rows: a function of tensors, its reference, its inputs; how much worse the mean makes it; digits for the reference


class Row(NamedTuple):
    fn: Any
    reference: Any
    arrays: list
    conditioning: float = 1.0
    digits: int = 60


def table_rows(name):
    for i, (fn, shapes) in enumerate(TABLE[name]):
        rng = np.random.default_rng(SEED)
        arrays = [rng.standard_normal(shape) for shape in SMALLER.get((name, i), shapes)]
        yield Row(fn, REFERENCES[name][i], arrays)


def far(shape, mean=0.0, std=1.0):
    return mean + std * np.random.default_rng(SEED).standard_normal(shape)


def deviations(x, axis, eps=1e-5):
    """How many standard deviations the largest element is away from 0, and at least 1."""
    return max(1.0, float((np.abs(x).max(axis=axis) / np.sqrt(x.var(axis=axis) + eps)).max()))


def hard_norms():
    """Three samples, or channels, of 7 values each (2 and 3 at the end)."""
    inputs = [
        *(far((3, 7), mean) for mean in (1e2, 1e4, 1e6)),
        *(far((3, 7), std=std) for std in (1e-2, 1e-6, 1e-310)),
        np.full((3, 7), 3.7),
        np.where(np.arange(21).reshape(3, 7) % 8 == 3, 1e8, far((3, 7))),
        *(far((3, n), n) for n in (2, 3)),
    ]
    rows = {"channel_norm": [], "row_norm": []}
    for x in inputs:
        n = x.shape[1]
        how = {"conditioning": deviations(x, 1), "digits": MANY if np.abs(x).max() < 1e-300 else 60}
        w, b = far((2, n), 0.5)
        affine = [np.array([0.7, -1.2, 2.0]), np.array([0.1, 3.0, -1.0])]  # of three channels
        rows["row_norm"] += [
            Row(
                lambda x, w, b: F.layer_norm(x, x.shape[1], w, b),
                lambda x, w, b: exact_ops.normalize(x, (1,), 1e-5) * w + b,
                [x, w, b],
                **how,
            ),
            Row(
                lambda x, w: F.rms_norm(x, x.shape[1], w, 1e-5),
                lambda x, w: exact_ops.normalize(x, (1,), 1e-5, centered=False) * w,
                [x, w],
                digits=how["digits"],
            ),
            Row(
                lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
                lambda x, w, b: exact_ops.group_norm(x, 3, w, b),
                [x[None], *affine],
                **how,
            ),
        ]
        rows["channel_norm"] += [
            Row(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), exact_ops.batch_norm, [a, *affine], **how)
            for a in (x.T.copy(), x[None])
        ]
    return rows


def hard_rows(dtype):
    """Towards the ends of float64's or float32's range, and where terms cancel; without the norms."""
    tiny, huge, top = (1e-160, 1e160, 700.0) if dtype == np.float64 else (1e-20, 1e20, 80.0)
    spread = [tiny**1.3, tiny, 1e-3, 1 - 1e-4, 1.0, 1 + 1e-4, 7.0, huge, huge**1.3]
    saturated = [-top, -40.0, -3.0, -1e-8, 0.0, 1e-30, 0.5, 8.0, 17.0, 40.0, top]
    logits = [[1e4, 1e4 - 1, -1e4], [0, -1e4, 3], [-1e4, -1e4, -9998], [30, -30, 0.5], [1e-8, 0, -1e-8]]
    logits = [(row, 60) for row in logits] + [([huge, -huge, 0.0], MANY)]
    rows = {
        "divide": [Row(np.divide, np.divide, [[tiny, huge, 3.0], [-tiny, huge, -7.0]], digits=MANY)],
        "power": [
            Row(lambda a, b: a**b, exact_ops.power, [[1e-3, 0.9999, 20.0], [9.0, 1e3, -7.5]]),
            Row(lambda a: a**3, lambda a: a * a * a, [[-2.5, tiny ** (1 / 3), 1e4]], digits=MANY),
            Row(lambda a: a**-2, lambda a: 1 / (a * a), [[-2.5, 1e-6, 1e6]]),
        ],
        "exp": [Row(lambda a: a.exp(), exact_ops.exp, [[-top, -40, -1e-8, 0, 1e-30, 1, top]], digits=MANY)],
        "log": [Row(lambda a: a.log(), exact_ops.log, [spread], digits=MANY)],
        "sqrt": [Row(lambda a: a.sqrt(), exact_ops.sqrt, [spread], digits=MANY)],
        "tanh": [Row(f, exact_ops.tanh, [saturated]) for f in (np.tanh, F.tanh)],
        "sigmoid": [Row(F.sigmoid, exact_ops.sigmoid, [saturated])],
        "softmax": [Row(F.softmax, exact_ops.softmax, [[row]], digits=d) for row, d in logits],
        "log_softmax": [Row(F.log_softmax, exact_ops.log_softmax, [[row]], digits=d) for row, d in logits],
        "_cross_entropy": [
            Row(
                lambda a, k=k: F.cross_entropy(a, np.array([k])),
                lambda a, k=k: exact_ops.cross_entropy(a, [k]),
                [[row]],
                digits=d,
            )
            for k in range(3)
            for row, d in logits
        ],
        "_bce": [
            Row(F.binary_cross_entropy_with_logits, exact_ops.bce, [[x], [t]], digits=MANY if x == huge else 60)
            for x in (-1e4, -30, -1e-3, 1e-3, 30, 88, 1e4, huge)
            for t in (0.0, 1.0, 0.3)
        ],
        "var": [
            Row(lambda a: a.var(axis=0), lambda a: exact_ops.variance(a, (0,)), [a])
            for a in (far((9, 2), 1e2), far((9, 2), 1e4), far((33, 1), 1e6), far((2, 2), std=1e-6))
        ],
    }
    return {
        op: [row._replace(arrays=[np.array(a, dtype) for a in row.arrays]) for row in of] for op, of in rows.items()
    }


def error(found, reference, tiny, zero, elementwise=False):
    """The largest error, relative to the largest element, or each to its own. Below ``tiny``: relative to ``zero``."""
    found, reference = exact(found).reshape(-1), reference.reshape(-1)
    if not len(reference):
        return 0.0
    size = abs(reference) if elementwise else np.full(len(reference), max(abs(reference)), object)
    return float(max(abs(found - reference) / np.where(size < tiny, zero, size)))


def measure(name, row, dtype=np.float64):
    """(the error of the value, the largest of a gradient), both divided by the row's conditioning."""
    tiny, elementwise = mp.mpf(float(np.finfo(dtype).tiny)), name in ELEMENTWISE
    inputs = [tb.Tensor(a, requires_grad=True) for a in row.arrays]
    with np.errstate(under="ignore", over="ignore"):
        y = row.fn(*inputs)
        dy = np.random.default_rng(SEED + 1).standard_normal(y.shape).astype(dtype)
        y.backward(dy)
    with mp.workdps(row.digits):
        numbers, cotangent = [exact(a.data) for a in inputs], exact(dy)
        value = as_array(row.reference(*numbers))
        assert value.shape == y.shape and y.dtype == dtype
        slopes = exact_ops.gradients(row.reference, numbers, cotangent)
        largest = max(abs(cotangent.reshape(-1)), default=0)
        least = largest if name in SATURATING else tiny
        each = elementwise and name not in SATURATING
        worst = [error(a.grad, g, least, largest, each) for a, g in zip(inputs, slopes, strict=True)]
        return error(y.data, value, tiny, tiny, elementwise) / row.conditioning, max(worst) / row.conditioning


@functools.cache
def errors(name):
    """(value, gradient) on the table's rows, then on the hard ones."""
    hard = [*hard_rows(np.float64).get(name, []), *hard_norms().get(name, [])]
    return [
        np.array([(0.0, 0.0), *(measure(name, row) for row in rows)]).max(axis=0) for rows in (table_rows(name), hard)
    ]


def test_every_op_has_a_reference():
    """As many as it has rows in the table of test_gradients.py."""
    assert set(REFERENCES) == set(MODULES)
    assert {name: len(rows) for name, rows in REFERENCES.items()} == {name: len(rows) for name, rows in TABLE.items()}


@pytest.mark.parametrize("name", TABLE)
def test_value_and_gradient_equal_60_digits(name):
    for value, gradient in errors(name):
        assert value <= VALUE and gradient <= GRADIENT, f"value off by {value:.2g}, gradient by {gradient:.2g}"


@pytest.mark.parametrize("name", hard_rows(np.float32))
def test_extreme_inputs_in_float32(name):
    """A handful of roundings of 6e-8."""
    for row in hard_rows(np.float32)[name]:
        value, gradient = measure(name, row, np.float32)
        assert value <= FLOAT32 and gradient <= FLOAT32, f"value off by {value:.2g}, gradient by {gradient:.2g}"


def test_worst_errors(figure):
    for k, rows in enumerate(("the ops' rows", "hard rows")):
        for j, (what, bound) in enumerate((("value", VALUE), ("gradient", GRADIENT))):
            name = max(TABLE, key=lambda name, k=k, j=j: errors(name)[k][j])
            found = errors(name)[k][j]
            figure(f"float64 against 60 digits, {rows}, worst {what}", f"{found:.1e} ({name}), at most {bound:g}")
            assert found <= bound


def test_norms_in_float32_are_exact_up_to_a_few_roundings(figure):
    """On hard inputs: that of the result, and those of float32 arithmetic (norm_accuracy.floors and roundings)."""
    worst = 0.0
    for case in norm_accuracy.cases([1, 2, 3, 7, 8, 9, 31, 33, 345]):
        for quantity, (error_, floor, more, _) in norm_accuracy.measure(case, norm_accuracy.ours).items():
            assert error_ <= floor + more, f"{case} {quantity}: off by {error_:.3g}, allowed {floor:.3g} + {more:.3g}"
            worst = max(worst, (error_ - floor) / more if more else 0)
    figure("norms in float32 on hard inputs, error beyond one rounding over what is allowed", f"{worst:.3f}")


def test_the_mean_of_equal_values_is_that_value():
    """Then x - mean is exactly 0. A multiplication by 1 / m in place of the division gets 300 times 3.7 wrong."""
    for m in (3, 7, 49, 300, 3000):
        x = tb.tensor(np.full((2, m), 3.7, np.float32))
        assert not F.layer_norm(x, m).data.any() and not F.batch_norm(x.T, None, None, training=True).data.any()


def test_the_table_in_the_docs_has_every_op():
    page = (Path(__file__).parents[1] / "docs" / "accuracy.md").read_text(encoding="utf-8")
    lacking = [name for name in TABLE if f"| `{name}` |" not in page]
    assert not lacking, f"docs/accuracy.md lacks {lacking}: python tests/harness/make_accuracy.py"
