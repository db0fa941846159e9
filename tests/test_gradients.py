"""First and second derivatives of every op against finite differences, in float64, from random cotangents."""

import importlib
import pkgutil

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import GradcheckError, gradcheck, gradgradcheck, ops, tensor

SEED = 0
T = np.array([0, 3, 1])
RUNNING = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.5, 2.0])


def positive(a):
    """A symmetric matrix with eigenvalues >= 1 from any square one."""
    return a @ a.swapaxes(-1, -2) + np.eye(a.shape[-1], dtype=a.dtype)


def renorm(x, w, b):
    """Without correction: with it the gradient takes r and d for constants, which finite differences do not."""
    mean, var = np.zeros(2, x.dtype), np.ones(2, x.dtype)
    return F.batch_renorm(x, mean, var, w, b, True, 0.0, r_max=1.0, d_max=0.0)


def whiten(x, method="zca"):
    return ops.whitening.whiten(x, eps=0.01, method=method)


# name of the op in the package -> rows of (function, shapes of its inputs)
TABLE = {
    "add": [(lambda a, b: a + b, [(3, 4), (4,)]), (lambda a, b: a + b, [(3, 1), (1, 4)])],
    "subtract": [(lambda a, b: a - b, [(3, 4), (3, 1)])],
    "multiply": [(lambda a, b: a * b, [(3, 4), (4,)]), (lambda a: 2 * a * a, [(0, 3)])],
    "divide": [(lambda a, b: a / (abs(b) + 1), [(3, 4), (4,)]), (lambda a: 1 / (a * a + 1), [(3,)])],
    "negative": [(lambda a: -a * a, [(3,)])],
    "power": [
        (lambda a: a**3, [(3, 4)]),
        (lambda a, b: (abs(a) + 1) ** b, [(3, 4), (4,)]),
        (lambda b: 2.0**b, [(3,)]),
    ],
    "exp": [(lambda a: a.exp(), [(3, 4)])],
    "log": [(lambda a: (a * a + 1).log(), [(3, 4)])],
    "sqrt": [(lambda a: (a * a + 1).sqrt(), [(3, 4)])],
    "tanh": [(np.tanh, [(3, 4)]), (F.tanh, [(3, 4)]), (F.tanh, [(0, 2)])],
    "absolute": [(abs, [(3, 4)])],
    "maximum": [(tb.maximum, [(3, 4), (4,)])],
    "minimum": [(tb.minimum, [(3, 4), (4,)])],
    "where": [(lambda a, b: tb.where(a.data > 0, a * b, b * b), [(3, 4), (4,)])],
    "clip": [(lambda a: a.clip(-0.5, 0.7) * a, [(3, 4)])],
    "sum": [(lambda a: (a * a).sum(axis=(0, 2)), [(2, 3, 4)]), (lambda a: a.sum(), [(0, 3)])],
    "mean": [(lambda a: (a * a).mean(axis=-1, keepdims=True), [(2, 3)])],
    "var": [(lambda a: a.var(axis=0), [(3, 4)]), (lambda a: a.var(ddof=1), [(3, 4)])],
    "std": [(lambda a: a.std(axis=0), [(3, 4)]), (lambda a: a.std(ddof=1, keepdims=True) * a, [(3, 4)])],
    "max": [(lambda a: a.max(axis=1) * a.max(), [(3, 4)])],
    "min": [(lambda a: a.min(axis=0, keepdims=True) * a, [(3, 4)])],
    "reshape": [(lambda a: a.reshape(2, -1) ** 2, [(3, 4)]), (lambda a: a.flatten(1) ** 2, [(2, 3, 2)])],
    "transpose": [(lambda a: a.T**2, [(3, 4)]), (lambda a: a.transpose(2, 0, 1) ** 2, [(2, 3, 4)])],
    "swapaxes": [(lambda a: a.swapaxes(0, 2) ** 2, [(2, 3, 4)])],
    "broadcast_to": [(lambda a: tb.broadcast_to(a, (3, 4)) ** 2, [(4,)])],
    "getitem": [
        (lambda a: a[1:, None, ::2] ** 2, [(3, 4)]),
        (lambda a: a[[0, 0, 2], 1:] ** 2, [(3, 4)]),
        (lambda a: a[np.array([True, False, True])] ** 2, [(3, 4)]),
    ],
    "put": [(lambda a: ops.shape.put(a, index=[0, 0, 1], shape=(4,)) ** 2, [(3,)])],
    "_concatenate": [
        (lambda a, b: tb.concatenate([a, b], axis=1) ** 2, [(3, 4), (3, 2)]),
        (lambda a, b: tb.stack([a, b], axis=1) ** 2, [(3, 4), (3, 4)]),
    ],
    "pad": [(lambda a: tb.pad(a, [(1, 0), (0, 2)], value=3.0) ** 2, [(3, 2)])],
    "matmul": [
        (lambda a, b: a @ b, shapes)
        for shapes in ([(3, 4), (4, 2)], [(2, 3, 4), (4, 5)], [(4,), (4,)], [(2, 3, 4), (4,)], [(4,), (2, 4, 3)])
    ],
    "linear": [(F.linear, [(3, 4), (5, 4), (5,)]), (F.linear, [(2, 3, 4), (5, 4)])],
    "relu": [(F.relu, [(3, 4)]), (F.relu, [(1, 1)])],
    "sigmoid": [(F.sigmoid, [(3, 4)])],
    "softmax": [(lambda a: F.softmax(a, 0), [(3, 4)]), (F.softmax, [(2, 3, 4)])],
    "log_softmax": [(lambda a: F.log_softmax(a, 1), [(2, 3, 4)])],
    "_cross_entropy": [
        (lambda a, r=r: F.cross_entropy(a, T, ignore_index=1, reduction=r), [(3, 4)]) for r in ("mean", "sum", "none")
    ],
    "_bce": [(lambda a, b: F.binary_cross_entropy_with_logits(a, b), [(3, 4), (3, 4)])],
    "channel_norm": [
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(4, 3), (3,), (3,)]),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(2, 3, 2, 2), (3,), (3,)]),
        (lambda x: F.batch_norm(x, None, None, training=True), [(5, 3)]),
        (lambda x, w, b: F.batch_norm(x, *(r.astype(x.dtype) for r in RUNNING), w, b), [(2, 3, 2), (3,), (3,)]),
        (lambda x, w, b: F.ghost_batch_norm(x, 3, None, None, w, b, True), [(8, 2), (2,), (2,)]),
        (lambda x: F.ghost_batch_norm(x, 2, training=True), [(5, 2, 3)]),
        (renorm, [(6, 2), (2,), (2,)]),
    ],
    "row_norm": [
        (lambda x, w, b: F.layer_norm(x, (3, 2), w, b), [(2, 3, 2), (3, 2), (3, 2)]),
        (lambda x: F.layer_norm(x, 5), [(3, 5)]),
        (lambda x, w, b: F.group_norm(x, 2, w, b), [(2, 4, 3), (4,), (4,)]),
        (lambda x, b: F.group_norm(x, 2, None, b), [(2, 4, 3), (4,)]),
        (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [(2, 3, 4), (3,), (3,)]),
        (lambda x, w: F.rms_norm(x, 5, w), [(3, 5), (5,)]),
    ],
    "_conv2d": [
        (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 3, 4, 3), (2, 3, 3, 3), (2,)]),
        (lambda x, w, b: F.conv2d(x, w, b, 2, (2, 1), (1, 2)), [(2, 2, 5, 6), (4, 2, 3, 2), (4,)]),
        (lambda x, w: F.conv2d(x, w, padding="same"), [(2, 5, 4), (3, 2, 2, 4)]),
        (lambda x, w, b: F.conv2d(x, w, b, 2, 1, groups=2), [(2, 6, 5, 4), (8, 3, 2, 2), (8,)]),
    ],
    "_conv2d_direct": [
        (lambda x, w: F.conv2d(x, w, stride=3, groups=3), [(2, 3, 5, 5), (3, 1, 2, 2)]),
        (lambda x, w, b: F.conv2d(x, w, b, 1, (2, 1), (1, 2), 3), [(2, 6, 3, 4), (6, 2, 2, 2), (6,)]),
    ],
    "_max_pool2d": [
        (lambda x: F.max_pool2d(x, 2), [(2, 3, 4, 5)]),
        (lambda x: F.max_pool2d(x, (3, 2), 2, 1, 2, True), [(2, 6, 5)]),
    ],
    "average": [
        (lambda x: F.avg_pool2d(x, 2) ** 2, [(2, 3, 4, 5)]),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False) ** 2, [(2, 3, 5, 6)]),
        (lambda x: F.avg_pool2d(x, (1, 3), padding=(0, 1), divisor_override=2) ** 2, [(3, 5, 6)]),
        (lambda x: F.adaptive_avg_pool2d(x, (3, None)) ** 2, [(2, 3, 5, 4)]),
    ],
    "lyapunov": [(lambda s, g: ops.whitening.lyapunov(positive(s), g), [(3, 3), (3, 3)])],
    "inverse_sqrt": [(lambda a: ops.whitening.inverse_sqrt(positive(a)), [(2, 3, 3)])],
    "eigh": [(lambda a: ops.whitening.eigh(positive(a)), [(2, 3, 3)])],
    "whiten": [
        (whiten, [(2, 3, 6)]),
        (lambda x: whiten(x, "pca"), [(3, 5)]),
        (
            lambda x, w, b: F.decorrelated_batch_norm(x, weight=w, bias=b, training=True, eps=0.1, group_size=2),
            [(3, 4, 2), (4,), (4,)],
        ),
    ],
}

# the same for inputs with one element and with none: the functions of the table where they take any shape
A, AB = [[(1, 1)], [(0, 3)], [(3, 0)]], [[(1, 1), (1,)], [(0, 3), (3,)], [(2, 0), (0,)], [(2, 0), (1,)]]
ANY_SHAPE = {
    **dict.fromkeys(["add", "subtract", "multiply", "divide", "maximum", "minimum", "where"], AB),
    **dict.fromkeys(["negative", "exp", "log", "sqrt", "tanh", "absolute", "clip", "relu", "sigmoid", "transpose"], A),
    **{"power": A, "mean": A[:2], "log_softmax": [[(1, 1)], [(0, 3)]]},
    "swapaxes": [[(1, 1, 1)], [(2, 0, 3)]],
    "linear": [[(1, 1), (1, 1), (1,)], [(0, 3), (2, 3), (2,)], [(2, 0), (3, 0), (3,)]],
    "matmul": [[(1, 1), (1, 1)], [(0, 3), (3, 2)], [(2, 0), (0, 3)], [(2, 3), (3, 0)]],
    "_concatenate": [[(1, 1), (1, 1)], [(2, 0), (2, 3)], [(0, 2), (0, 1)]],
    "pad": [[(1, 1)], [(0, 2)]],
}
SMALL = {
    "sum": [(lambda a: a.sum(axis=0) ** 2, shapes) for shapes in ([(1, 1)], [(0, 3)], [()])],
    "var": [(lambda a: a.var(axis=1) + a.mean(axis=1) ** 2, shapes) for shapes in ([(1, 1)], [(0, 3)])],
    "std": [(lambda a: a.std(axis=1), shapes) for shapes in ([(3, 2)], [(0, 3)])],
    "max": [(lambda a: a.max(axis=1) ** 2, shapes) for shapes in ([(1, 1)], [(0, 3)])],
    "min": [(lambda a: a.min(axis=1) ** 2, shapes) for shapes in ([(1, 1)], [(0, 3)])],
    "reshape": [(lambda a: a.reshape(-1, 1) ** 2, shapes) for shapes in ([(1, 1)], [(0, 3)], [()])],
    "broadcast_to": [
        (lambda a: tb.broadcast_to(a, (4, 1)) ** 2, [(1,)]),
        (lambda a: tb.broadcast_to(a, (0, 3)), [(3,)]),
    ],
    "getitem": [(lambda a: a[:, 0] ** 2, [(1, 1)]), (lambda a: a[1:] ** 2, [(1, 3)]), (lambda a: a[[]] ** 2, [(2, 3)])],
    "put": [
        (lambda a: ops.shape.put(a, index=[0], shape=(1,)) ** 2, [(1,)]),
        (lambda a: ops.shape.put(a, index=np.zeros(0, int), shape=(2,)) ** 2, [(0,)]),
    ],
    "softmax": [(F.softmax, [(1, 1)]), (F.softmax, [(0, 3)])],
    "_cross_entropy": [
        (lambda a: F.cross_entropy(a, np.array([0])), [(1, 1)]),
        (lambda a: F.cross_entropy(a, np.zeros(0, int), reduction="sum"), [(0, 3)]),
        (lambda a: F.cross_entropy(a, np.zeros(0, int), reduction="none"), [(0, 3)]),
    ],
    "_bce": [
        (lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="sum"), [shape, shape])
        for shape in ((1, 1), (0, 3))
    ],
    "channel_norm": [
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(2, 1), (1,), (1,)]),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(0, 3), (3,), (3,)]),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(2, 3, 0), (3,), (3,)]),
        (lambda x, w, b: F.batch_norm(x, np.zeros(1), np.ones(1), w, b), [(1, 1), (1,), (1,)]),
    ],
    "row_norm": [
        (lambda x, w, b: F.layer_norm(x, 1, w, b), [(1, 1), (1,), (1,)]),
        (lambda x, w, b: F.layer_norm(x, 3, w, b), [(0, 3), (3,), (3,)]),
        (lambda x, w, b: F.group_norm(x, 1, w, b), [(0, 2, 3), (2,), (2,)]),
        (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [(0, 2, 3), (2,), (2,)]),
        (lambda x, w: F.rms_norm(x, 1, w, 1e-3), [(1, 1), (1,)]),  # with eps = None only rounding would be left of dx
    ],
    "_conv2d": [
        (F.conv2d, [(1, 1, 1, 1), (1, 1, 1, 1), (1,)]),
        (F.conv2d, [(0, 2, 3, 3), (4, 2, 2, 2), (4,)]),
    ],
    "_conv2d_direct": [
        (lambda x, w: F.conv2d(x, w, groups=2), [(1, 2, 1, 1), (2, 1, 1, 1)]),
        (lambda x, w: F.conv2d(x, w, groups=2), [(0, 2, 3, 3), (2, 1, 2, 2)]),
    ],
    "_max_pool2d": [(lambda x: F.max_pool2d(x, 1), [(1, 1, 1)]), (lambda x: F.max_pool2d(x, 2), [(0, 2, 3, 3)])],
    "average": [(lambda x: F.avg_pool2d(x, 1), [(1, 1, 1)]), (lambda x: F.avg_pool2d(x, 2), [(0, 2, 3, 3)])],
    "lyapunov": [(lambda s, g: ops.whitening.lyapunov(positive(s), g), [(n, n), (n, n)]) for n in (1, 0)],
    "inverse_sqrt": [(lambda a: ops.whitening.inverse_sqrt(positive(a)), [(n, n)]) for n in (1, 0)],
    "eigh": [(lambda a: ops.whitening.eigh(positive(a)), [shape]) for shape in ((1, 1), (0, 2, 2))],
    "whiten": [(whiten, [shape]) for shape in ((1, 2), (0, 2, 4))],
}
for _op, _many in ANY_SHAPE.items():
    SMALL[_op] = [(TABLE[_op][0][0], shapes) for shapes in _many]
ROWS = [(name, i) for name, rows in TABLE.items() for i in range(len(rows))]


MODULES = {}  # name of an op -> the module that defines it
for _info in pkgutil.iter_modules(ops.__path__):
    _module = importlib.import_module(f"tinygrad_bn.ops.{_info.name}")
    for _name, _value in vars(_module).items():
        if hasattr(_value, "rule") and _value.__module__ == _module.__name__:
            MODULES.setdefault(_name, _module)


def inputs(shapes, layout="contiguous", dtype=np.float64):
    rng = np.random.default_rng(SEED)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    if layout == "transposed":
        arrays = [np.ascontiguousarray(a.T).T for a in arrays]
    return [tb.Tensor(a.astype(dtype, order="K"), requires_grad=True) for a in arrays]


def test_every_op_has_a_row():
    assert set(MODULES) == set(TABLE)


@pytest.mark.parametrize(("name", "i"), ROWS)
def test_first_and_second_derivatives(name, i):
    """Both checks ask for the gradients in other memory layouts, too."""
    fn, shapes = TABLE[name][i]
    gradcheck(fn, inputs(shapes))
    gradgradcheck(fn, inputs(shapes))


def test_every_op_has_rows_for_one_element_and_for_none():
    assert set(SMALL) == set(TABLE)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered in divide")  # 0 / 0 rows
@pytest.mark.filterwarnings("ignore:no output moves")  # of no elements
@pytest.mark.parametrize(("name", "i"), [(name, i) for name, rows in SMALL.items() for i in range(len(rows))])
def test_one_element_and_none(name, i):
    fn, shapes = SMALL[name][i]
    gradcheck(fn, inputs(shapes))
    gradgradcheck(fn, inputs(shapes))
    args = inputs(shapes)
    out = fn(*args)
    out.backward(np.ones(out.shape))
    assert [a.grad.shape for a in args] == shapes


def repeated(a):
    """Stride 0 and read-only: the first entries along the first axis, again and again."""
    return np.broadcast_to(a[:1], a.shape)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: a[::-1].copy()[::-1], repeated])
@pytest.mark.parametrize(("name", "i"), ROWS)
def test_memory_layout_does_not_matter(name, i, layout):
    fn, shapes = TABLE[name][i]
    results = []
    for pack in (layout, lambda a: np.array(layout(a), order="C")):
        args = [tb.Tensor(pack(a.data), requires_grad=True) for a in inputs(shapes)]
        before = [a.data.copy() for a in args]
        out = fn(*args)
        out.backward(np.random.default_rng(1).standard_normal(out.shape))
        results.append([out.data, *(a.grad for a in args)])
        assert all(np.array_equal(a.data, b) for a, b in zip(args, before, strict=True))
        assert all(a.grad.flags.writeable for a in args)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("name", "i"), ROWS)
def test_float32_agrees_with_float64(name, i):
    fn, shapes = TABLE[name][i]
    results = {}
    for dtype in (np.float32, np.float64):
        args = inputs(shapes, dtype=dtype)
        out = fn(*args)
        assert out.dtype == dtype
        out.backward(np.random.default_rng(1).standard_normal(out.shape).astype(dtype))
        results[dtype] = [out.data, *(a.grad for a in args)]
    for a, b in zip(results[np.float32], results[np.float64], strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


FUSED = [(name, i) for name, i in ROWS if getattr(getattr(MODULES[name], name), "definition", None)]
FUSED.remove(("tanh", 0))  # np.tanh: the primitive, which is the definition of the other


@pytest.mark.parametrize(("name", "i"), FUSED)
def test_fused_ops_equal_their_definitions(name, i, monkeypatch):
    fn, shapes = TABLE[name][i]
    op, results = getattr(MODULES[name], name), []
    calls = []

    def formula_instead(*args, track=None, **constants):
        calls.append(args)
        if track is not None:  # the batch statistics, which a formula does not hand out
            op.rule(*(a.data if isinstance(a, tb.Tensor) else a for a in args), track=track, **constants)
        return op.definition(*args, **constants)

    for _ in range(2):
        args = inputs(shapes)
        out = (formula_instead if fn is op and results else fn)(*args)
        out.backward(np.random.default_rng(1).standard_normal(out.shape))
        results.append([out.data, *(a.grad for a in args)])
        for module in (MODULES[name], F, ops.norms, ops.norm_variants):  # now the formula runs in place of kernels
            if getattr(module, name, None) is op:
                monkeypatch.setattr(module, name, formula_instead)
    assert calls  # the formula did run
    for kernel, formula in zip(*results, strict=True):
        np.testing.assert_allclose(kernel, formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(("name", "i"), ROWS)
def test_a_change_in_place_raises_or_does_not_matter(name, i, create_graph):
    """Whichever array of the graph is changed before backward: the right gradient, or an error; never a wrong one."""
    fn, shapes = TABLE[name][i]

    def gradients(change):
        args = inputs(shapes)
        out = fn(*args)
        if change is not None:
            target = [*args, out][change]
            with tb.no_grad():
                target += 1.0
        out.backward(np.random.default_rng(1).standard_normal(out.shape), create_graph=create_graph)
        return [a.grad.data if create_graph else a.grad for a in args]

    expected = gradients(None)
    for change in range(len(shapes) + 1):
        try:
            found = gradients(change)
        except RuntimeError as error:
            assert "changed in place" in str(error)
        else:
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


# what is no gradient: ops that damage their arguments, pullbacks that leave dy out


def damages_x(x):
    x *= 2
    return x + 1, lambda dy: 2 * dy


def damages_x_in_the_pullback(x):
    def pullback(dy):
        x[...] = 2 * dy
        return x.copy()

    return 2 * x, pullback


def damages_dy(x):
    def pullback(dy):
        dy *= 2
        return dy

    return 2 * x, pullback


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (damages_x, "fn wrote into input 0"),
        (damages_x_in_the_pullback, "a pullback wrote into input 0"),
        (damages_dy, "a pullback wrote into dy"),
    ],
)
def test_an_op_that_writes_into_its_arguments_is_rejected(check, rule, words):
    """The gradient of all three is right. The input gets its values back."""
    op, (x,) = tb.differentiable(rule), inputs([(2, 3)])
    before = x.data.copy()
    with pytest.raises(GradcheckError, match=words):
        check(op, x)
    np.testing.assert_array_equal(x.data, before)


@pytest.mark.parametrize("two", [lambda x: 2 * np.ones(x.shape), lambda x: 0 * x + 2])
def test_second_derivatives_of_a_pullback_that_ignores_dy_are_rejected(two):
    """2 for every element is consistent with itself: its derivatives are 0, analytic and numerical."""
    op = tb.differentiable(lambda x: (x * 2, lambda dy: two(x)))
    with pytest.raises(GradcheckError, match="not linear in dy"):
        gradgradcheck(op, inputs([(2, 3)]))


def test_second_derivatives_through_an_unknown_function_name_it():
    op = tb.differentiable(lambda x: (np.sinh(x), lambda dy: dy * np.cosh(x)))
    gradcheck(op, inputs([(2, 3)]))
    with pytest.raises(RuntimeError, match=r"np\.sinh is not defined on tensors"):
        gradgradcheck(op, inputs([(2, 3)]))


def test_ones_as_cotangent_would_accept_a_zero_gradient():
    x = tensor(np.random.default_rng(SEED).standard_normal((6, 3)), requires_grad=True)
    F.batch_norm(x, None, None, training=True).sum().backward()
    assert np.abs(x.grad).max() < 1e-12  # so a backward that returns zeros would pass; hence random cotangents
