"""gradcheck_cases: what it makes; and the package's own ops over it, at sizes, values and layouts of all kinds."""

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn.gradient_checks.cases import LONG, VALUES, make_cases

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SMOOTH = ["normal", "zeros", "ties", "spread", "large", "negative"]
UNIT = ["normal", "zeros", "ties", "negative", "small"]  # where exp() of 1e4 overflows, or second derivatives vanish
EPS = 1e-3


def batch_norm(x, w, b):
    return F.batch_norm(x, None, None, w, b, True, eps=EPS)


OPS = {
    "a + b": (lambda a, b: a + b, ("n c", "c"), SMOOTH),
    "a * b": (lambda a, b: a * b, ("n c", "n c"), SMOOTH),
    "a / b": (lambda a, b: a / b, ("n c", "n 1"), ["positive"]),
    "a @ b": (lambda a, b: a @ b, ("n k", "k m"), SMOOTH),
    "linear": (F.linear, ("n i", "o i", "o"), SMOOTH),
    "exp": (lambda a: a.exp(), ("n",), UNIT),
    "log": (lambda a: a.log(), ("n",), ["positive"]),
    "sqrt": (lambda a: a.sqrt(), ("n",), ["positive"]),
    "tanh": (F.tanh, ("n",), SMOOTH),
    "sigmoid": (F.sigmoid, ("n",), SMOOTH),
    "relu": (F.relu, ("n",), SMOOTH),
    "abs": (abs, ("n",), SMOOTH),
    "maximum": (tb.maximum, ("n", "n"), SMOOTH),
    "clip": (lambda a: a.clip(-1, 1), ("n",), SMOOTH),
    "sum": (lambda a: a.sum(axis=0), ("n c",), SMOOTH),
    "mean": (lambda a: a.mean(axis=1), ("n c",), SMOOTH),
    "var": (lambda a: a.var(axis=0), ("n c",), SMOOTH),
    "max": (lambda a: a.max(axis=1), ("n c",), SMOOTH),
    "softmax": (F.softmax, ("n c",), SMOOTH),
    "log_softmax": (F.log_softmax, ("n c",), SMOOTH),
    "index": (lambda a: a[np.arange(2 * len(a)) % len(a)], ("n c",), SMOOTH),
    "batch_norm": (batch_norm, ("n c", "c", "c"), UNIT),
    "batch_norm, images": (batch_norm, ("2 c l", "c", "c"), UNIT),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b, EPS), ("n c", "c", "c"), UNIT),
    "rms_norm": (lambda x, w: F.rms_norm(x, w.shape, w, EPS), ("n c", "c"), UNIT),
    "group_norm": (lambda x, w, b: F.group_norm(x, 1, w, b, EPS), ("n c 2", "c", "c"), UNIT),
    "instance_norm": (lambda x: F.instance_norm(x, eps=EPS), ("2 c l",), UNIT),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1), ("1 2 h w", "3 2 3 3"), ["normal", "zeros", "spread"]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, padding=1), ("2 h w",), ["normal", "zeros", "ties"]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2, padding=1), ("2 h w",), ["normal", "spread"]),
}
ONE_IS_REFUSED = ("batch_norm", "batch_norm, images", "instance_norm")  # one value has no variance
ALL = [
    pytest.param(fn, case, id=f"{name}-{case.name}")
    for name, (fn, shapes, values) in OPS.items()
    for case in make_cases(*shapes, values=values)
    if not (
        name in ONE_IS_REFUSED and case[0].size == case[0].shape[1] * (case[0].shape[0] if "instance" in name else 1)
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "inputs"), ALL)
def test_ops_of_the_package(fn, inputs):
    tb.gradcheck(fn, inputs)


# The decorator


@tb.gradcheck_cases("n c", "c", values=["normal", "ties"])
def test_it_decorates_a_test(inputs):
    x, w = inputs
    assert x.shape[1:] == w.shape and x.requires_grad and x.dtype == np.float64
    assert tb.gradcheck(lambda x, w: x * w, inputs)


@tb.gradcheck_cases("n", arrays=True, argument="args", values={"ones": lambda rng, shape: np.ones(shape)})
def test_arrays_under_another_name_with_values_of_ones_own(args):
    assert isinstance(args[0], np.ndarray) and (args[0] == 1).all()
    assert tb.check_pair(lambda x: (x * x, x), lambda dout, x: 2 * x * dout, args)


def test_each_size_value_and_layout_comes():
    cases = make_cases("n c", "c", "c")
    shapes = {c[0].shape for c in cases}
    assert (
        {1, 4, *LONG} <= {s[0] for s in shapes}
        and 4 in {s[1] for s in shapes}
        and {1} | set(LONG[:3]) <= {s[1] for s in shapes}
    )
    assert all(c[0].shape[1:] == c[1].shape == c[2].shape for c in cases)
    assert all(any(f"-{kind}" in c.name for c in cases) for kind in VALUES)
    flags = [(c[0].data.flags.c_contiguous, c[0].data.flags.f_contiguous) for c in cases if c[0].shape == (3, 5)]
    assert {(True, False), (False, True), (False, False)} <= set(flags)
    assert any(c[0].data.strides[0] < 0 for c in cases)
    assert [c[1] is c[2] for c in cases].count(True) == 1
    for shapes in (("n",), ("n", "n")):
        (ties,) = [c for c in make_cases(*shapes, values=["ties", "normal"]) if c.name.endswith("ties")][:1]
        values, counts = np.unique(np.concatenate([t.data for t in ties]), return_counts=True)
        assert counts[values != 0].max() > 1 and len(values) > 1
    assert len({c.name for c in cases}) == len(cases)


def test_check_pair_hands_on_layouts_and_one_array_for_two():
    seen = []

    def forward(a, b):
        seen.append((a is b, a.strides))
        return a * b, (a, b)

    for case in make_cases("3 5", "3 5", values=["normal"], arrays=True):
        assert tb.check_pair(forward, lambda dy, cache: (dy * cache[1], dy * cache[0]), case)
    assert any(same for same, _ in seen)
    assert {(40, 8), (80, 16), (-40, -8), (8, 24)} <= {strides for _, strides in seen}


def test_the_same_seed_gives_the_same_values():
    for a, b in zip(make_cases("n c"), make_cases("n c"), strict=True):
        np.testing.assert_array_equal(a[0].data, b[0].data)
    assert not np.array_equal(make_cases("n")[0][0].data, make_cases("n", seed=1)[0][0].data)


@pytest.mark.parametrize(
    ("args", "kw", "error", "words"),
    [
        ([], {}, ValueError, "shapes must name at least one input"),
        ([3], {}, TypeError, "shapes must be strings"),
        (["n, c"], {}, ValueError, "shapes must be made of names and numbers, got 'n,'"),
        ([("n", -1)], {}, ValueError, "an axis in shapes must be >= 0, got -1"),
        (["n"], {"values": ["huge"]}, ValueError, r"values must be of normal, .*, got \['huge'\]"),
        (["n"], {"values": {"a": 3}}, TypeError, "values must map names to functions"),
        (["n"], {"seed": -1}, ValueError, "seed must be >= 0"),
        (["n"], {"arrays": 1}, TypeError, "arrays must be a bool"),
    ],
)
def test_what_is_refused(args, kw, error, words):
    with pytest.raises(error, match=words):
        tb.gradcheck_cases(*args, **kw)
