"""NaN, infinity and huge values go through every kernel as they do in NumPy."""

import warnings

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, grad, nn, optim, tensor
from tinygrad_bn.ops import activation

X = np.array([[np.nan, 1.0, -2.0], [np.inf, 0.0, 3.0], [-np.inf, -0.0, 1e300], [1e4, -1e4, 800.0]])
ACTIVATIONS = [n for n, op in vars(activation).items() if hasattr(op, "rule") and op.__module__ == activation.__name__]
ELEMENTWISE = [name for name in ACTIVATIONS if "softmax" not in name]


def exponentials(x):
    return np.exp(x - x.max(axis=1, keepdims=True))


FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softmax": lambda x: exponentials(x) / exponentials(x).sum(axis=1, keepdims=True),
    "log_softmax": lambda x: x - x.max(axis=1, keepdims=True) - np.log(exponentials(x).sum(axis=1, keepdims=True)),
}


def test_every_activation_has_a_formula():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_activations(name, dtype):
    with np.errstate(over="ignore"):
        x = X.astype(dtype)
    with np.errstate(all="ignore"):
        y, expected = getattr(F, name)(tensor(x)).data, FORMULAS[name](x)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_out_the_definition_has_the_kernels_gradient(name, dtype):
    x = tensor(np.array([[-1000, -100, 0.5, 2, 100], [1000, 800, -800, 1, 0]], dtype), requires_grad=True)
    dy = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
    y = getattr(F, name)(x)
    (by_kernel,), (by_definition,) = (grad(y, x, dy, retain_graph=True, create_graph=c) for c in (False, True))
    assert np.isfinite(by_kernel).all()
    np.testing.assert_allclose(by_definition.data, by_kernel, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_nan_gradient_is_not_swallowed(name):
    x = tensor([1.0, 2.0], requires_grad=True)
    getattr(F, name)(x).backward(np.array([np.nan, 1.0], np.float32))
    assert np.isnan(x.grad[0]) and np.isfinite(x.grad[1])


def test_relu_gradient_at_nan_and_zero():
    x = tensor([np.nan, 0.0, -0.0], requires_grad=True)
    F.relu(x).sum().backward()
    assert np.array_equal(x.grad, [1, 0, 0])  # PyTorch's choice at 0, and at NaN
    (dx,) = grad(F.relu(x).sum(), x, create_graph=True)
    assert np.array_equal(dx.data, [1, 0, 0])


def test_losses():
    logits = tensor(np.array([[1e4, 0.0], [np.nan, 0.0]]), requires_grad=True)
    loss = F.cross_entropy(logits, np.array([1, 0]), reduction="none")
    assert loss.data[0] == 1e4 and np.isnan(loss.data[1])
    loss.backward(np.ones(2))
    assert np.array_equal(logits.grad[0], [1, -1]) and np.isnan(logits.grad[1]).all()
    huge = tensor(np.array([1e4, -1e4]))
    assert np.array_equal(
        F.binary_cross_entropy_with_logits(huge, np.array([0.0, 1.0]), reduction="none").data, [1e4, 1e4]
    )


@pytest.mark.parametrize("row", [[np.inf, 0, 1], [0, -np.inf, 1], [-np.inf] * 3, [0, np.nan, 1]])
@pytest.mark.parametrize("target", range(3))
def test_cross_entropy_of_infinite_logits_is_that_of_log_softmax(row, target):
    """Beside +inf no probability is a number, also that of a class which has a finite logit."""
    found = []
    for loss in (F.cross_entropy, lambda x, t: F.nll_loss(F.log_softmax(x), t)):
        x = tensor(np.array([row]), requires_grad=True)
        y = loss(x, np.array([target]))
        y.backward()
        found.append((y.item(), x.grad))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-15)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_labels_that_change_after_the_loss_do_not_count(loss):
    """A class that is none would be written beyond the end of the gradient."""
    gradients, labels = [], np.array([0, 2])
    for later in (labels.copy(), np.array([10**6, -(10**6)])):
        x, given = tensor(np.array([[0.5, 1.0, 2.0], [0.0, 3.0, 1.0]]), requires_grad=True), labels.copy()
        y = loss(x, given)
        given[:] = later
        y.backward()
        gradients.append(x.grad)
    assert np.array_equal(*gradients) and np.abs(gradients[0]).max() > 0.1


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1]])
def test_sgd_steps_whatever_the_layout_of_the_parameter(layout):
    a = layout(np.arange(6.0).reshape(2, 3))
    p, expected = Tensor(a, requires_grad=True), a - 0.5 * a
    p.grad = a.copy()
    optim.SGD([p], lr=0.5).step()
    assert np.array_equal(p.data, expected)


def test_sgd_carries_nan_into_the_parameter():
    p = tensor([1.0, 1.0], requires_grad=True)
    p.grad = np.array([np.nan, 1.0], np.float32)
    optim.SGD([p], lr=0.5, momentum=0.9).step()
    assert np.isnan(p.data[0]) and p.data[1] == 0.5


def test_kernels_do_not_warn_about_ordinary_numbers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = tensor(np.array([[1000.0, -1000.0], [0.5, 2.0]]), requires_grad=True)
        net = nn.Sequential(nn.Linear(2, 3).double(), nn.BatchNorm1d(3).double(), nn.Sigmoid())
        F.cross_entropy(F.softmax(net(x)), np.array([0, 1])).backward()


def test_an_ignored_row_may_hold_anything():
    """Its loss and its gradients are 0, first and second, in the kernel and in the definition."""
    x = np.array([[1.0, 2.0, 0.5], [np.nan, -np.inf, np.inf], [0.0, -1.0, 1.0]])
    target = np.array([2, -100, 0])
    kept = np.array([0, 2])
    for create_graph in (False, True):
        for reduction in ("mean", "sum"):
            whole, part = tensor(x, requires_grad=True), tensor(x[kept], requires_grad=True)
            with np.errstate(all="ignore"):
                loss = F.cross_entropy(whole, target, reduction=reduction)
                (g,) = grad(loss, whole, create_graph=create_graph)
            expected = F.cross_entropy(part, target[kept], reduction=reduction)
            (h,) = grad(expected, part, create_graph=create_graph)
            assert loss.item() == expected.item()
            g, h = (g.data, h.data) if create_graph else (g, h)
            np.testing.assert_allclose(g[kept], h, rtol=1e-12)
            assert np.array_equal(g[1], np.zeros(3))
    logp = tensor(np.array([[-1.0, -2.0], [-np.inf, np.nan]]), requires_grad=True)
    loss = F.nll_loss(logp, np.array([0, -100]))
    loss.backward()
    assert loss.item() == 1 and np.array_equal(logp.grad, [[-1, 0], [0, 0]])


def test_the_definition_of_sigmoid_keeps_small_values():
    from tinygrad_bn.ops.activation import sigmoid_definition

    x = np.array([-80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1e4, -1e4, np.inf, -np.inf], np.float32)
    expected = np.where(x < 0, np.exp(np.minimum(x, 0).astype(np.float64)), 1) / (
        1 + np.exp(-abs(x.astype(np.float64)))
    )
    np.testing.assert_allclose(sigmoid_definition(x), expected, rtol=1e-6)


def test_the_definition_of_softmax_does_not_overflow():
    x = tensor([800.0, 0.0, -800.0], requires_grad=True)
    for function, expected in ((F.log_softmax, [-1, 1, 0]), (F.softmax, [0, 0, 0])):
        with np.errstate(over="raise"):
            (dx,) = grad(function(x), x, np.array([0, 1, 0], np.float32), create_graph=True)
        assert np.array_equal(dx.data, expected)


def test_sigmoid_in_float32_is_exact_to_three_roundings_everywhere():
    """Against float64, over the whole range of floats; below -87.3, where e^x is no normal float32, it may be 0."""
    x = np.concatenate([np.linspace(-90, 20, 400_001), [-1e30, 1e30, 1e-30, -1e-30, 0.0, -0.0, 88.0, 104.0]])
    x = x.astype(np.float32)
    y = F.sigmoid(tensor(x)).data.astype(np.float64)
    exact = np.exp(np.minimum(x, 0.0), dtype=np.float64) / (1 + np.exp(-np.abs(x.astype(np.float64))))
    normal = x >= -87.3
    assert (np.abs(y - exact)[normal] / exact[normal]).max() < 3 * 2.0**-23
    assert np.abs(y - exact)[~normal].max() < 2e-38
    ends = F.sigmoid(tensor(np.array([-np.inf, np.inf, np.nan], np.float32))).data
    np.testing.assert_array_equal(ends, [0, 1, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_large_activations_are_the_small_ones_piece_by_piece(name):
    x = np.random.default_rng(0).standard_normal((3, 400_001)).astype(np.float32)
    t = tensor(x, requires_grad=True)
    y = getattr(F, name)(t)
    y.backward(x)
    for r in range(3):
        s = tensor(x[r, :100_000], requires_grad=True)
        z = getattr(F, name)(s)
        z.backward(x[r, :100_000])
        np.testing.assert_array_equal(y.data[r, :100_000], z.data)
        np.testing.assert_array_equal(t.grad[r, :100_000], s.grad)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_sgd_with_infinite_weights_and_gradients(momentum):
    """p - lr v, where 0 p of a weight decay that is off adds nothing: 0 inf would be NaN."""
    infinite, finite = nn.Parameter(np.array([np.inf, -np.inf])), nn.Parameter(np.array([1.0]))
    sgd = optim.SGD([infinite, finite], lr=0.1, momentum=momentum)
    for _ in range(2):
        infinite.grad, finite.grad = np.ones(2), np.array([np.inf])
        sgd.step()
    np.testing.assert_array_equal(infinite.data, [np.inf, -np.inf])
    np.testing.assert_array_equal(finite.data, [-np.inf])


# Norms, backward. SETS: the index set of each element over which a norm takes its statistics in training, as a number

SHAPES, WEIGHT, BIAS = [(7, 3), (4, 3, 5)], np.array([0.5, 2.0, -1.5]), np.array([0.0, 1.0, -2.0])
MEAN, VAR, MATRIX = np.array([0.5, -1.0, 100.0]), np.array([0.25, 4.0, 1.0]), np.array([0.5, 2.0, -3.0])


def decorrelated_with(matrix):
    """In eval mode; matrix of shape (groups, size, size)."""

    def apply(x, mean, var, weight, bias):
        given = matrix.astype(x.dtype)
        return F.decorrelated_batch_norm(x, mean, given, weight, bias, group_size=given.shape[1])

    return apply


GIVEN = {  # name -> function of x, running mean and var, weight, bias
    "batch": F.batch_norm,
    "ghost": lambda x, *rest: F.ghost_batch_norm(x, 3, *rest),
    "renorm": F.batch_renorm,
    "instance": lambda *args: F.instance_norm(*args, use_input_stats=False),
    "decorrelated": decorrelated_with(MATRIX.reshape(3, 1, 1)),  # a group is one channel: W is a factor
}
TRAINED = {  # name -> function of x, weight, bias
    "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "ghost": lambda x, w, b: F.ghost_batch_norm(x, 2, None, None, w, b, True),
    "renorm": lambda x, w, b: F.batch_renorm(x, MEAN.astype(x.dtype), VAR.astype(x.dtype), w, b, True),
    "decorrelated": lambda x, w, b: F.decorrelated_batch_norm(x, None, None, w, b, True, eps=0.1),
    "group": lambda x, w, b: F.group_norm(x, 1, w, b),
    "instance": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "layer": lambda x, w, b: F.layer_norm(x, x.shape[-1]),
    "RMS": lambda x, w, b: F.rms_norm(x, x.shape[-1]),
}
SETS = {
    **dict.fromkeys(["batch", "renorm"], lambda n, c, i: c),
    "ghost": lambda n, c, i: 10 * c + n // 2 - (n == 6),  # the last, a single one, joins those before
    "decorrelated": lambda n, c, i: 0 * n,
    "group": lambda n, c, i: n,
    "instance": lambda n, c, i: 10 * n + c,
}


def index_sets(name, shape):
    n, c, *i = np.indices(shape)
    if name in ("layer", "RMS"):
        return 10 * n + c if i else n
    return SETS[name](n, c, i)


def planted(shape, dtype, value, where, seed):
    """x and dy, and the place that has this value (1e200 in float32: 1e30)."""
    print("seed", seed)
    rng = np.random.default_rng(seed)
    place = tuple(int(rng.integers(0, n)) for n in shape)
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    for a, name in ((x, "x"), (dy, "dy")):
        if where in (name, "both"):
            a[place] = 1e30 if dtype == np.float32 and value == 1e200 else value
    return x, dy, place


def derivatives(function, x, dy, dtype, definition, *parameters):
    """The gradients of x, weight and bias (those that are used), by kernels or by the definition."""
    inputs = [Tensor(np.asarray(a, dtype), requires_grad=True) for a in (x, WEIGHT, BIAS)]
    with np.errstate(all="ignore"):
        y = function(inputs[0], *(p.astype(dtype) for p in parameters), *inputs[1:])
        found = grad(y, inputs, dy.astype(dtype), create_graph=definition, allow_unused=True)
    return [g.data if definition else g for g in found if g is not None]


special = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
places = pytest.mark.parametrize("where", ["x", "dy", "both"])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@special
@places
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GIVEN)
def test_with_given_statistics_a_special_value_stays_in_its_place(name, shape, dtype, where, value):
    """dx = dy weight / sqrt(var + eps), and dweight and dbias are those sums of the channel."""
    if name == "instance" and len(shape) == 2:
        shape = (7, 3, 1)
    x, dy, _ = planted(shape, dtype, value, where, seed=1)
    each, axes = (1, 3, *(1,) * (len(shape) - 2)), (0, *range(2, len(shape)))
    scale = MATRIX if name == "decorrelated" else 1 / np.sqrt(VAR + 1e-5)
    a, g = x.astype(np.float64), dy.astype(np.float64)
    with np.errstate(all="ignore"):
        x_hat = (a - MEAN.reshape(each)) * scale.reshape(each)
        expected = g * (WEIGHT * scale).reshape(each), (g * x_hat).sum(axis=axes), g.sum(axis=axes)
        expected = [e.astype(dtype) for e in expected]
    assert np.isfinite(expected[0]).sum() >= x.size - 1  # of the formula: nothing else is affected
    for definition in (False, True):
        found = derivatives(GIVEN[name], x, dy, dtype, definition, MEAN, VAR)
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(f, e, rtol=5e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("definition", [False, True])
@pytest.mark.parametrize("name", GIVEN)
def test_a_huge_value_beside_ordinary_ones_in_eval_mode(name, definition):
    """1e200 / sqrt(1 + eps) = 9.99995e199 for each."""
    x = np.array([[1e200], [1.0], [2.0]]).reshape(3, 1, 1)
    inputs, one = tensor(x, requires_grad=True), np.ones(1)
    function = decorrelated_with(one.reshape(1, 1, 1) / np.sqrt(1 + 1e-5)) if name == "decorrelated" else GIVEN[name]
    y = function(inputs, np.zeros(1), one, None, None)
    (dx,) = grad(y, inputs, np.full_like(x, 1e200), create_graph=definition)
    np.testing.assert_allclose(dx.data if definition else dx, np.full_like(x, 1e200 / np.sqrt(1 + 1e-5)), rtol=1e-15)
    assert float(f"{1e200 / np.sqrt(1 + 1e-5):.6g}") == 9.99995e199


@special
@dtypes
def test_where_channels_are_mixed_a_special_value_stays_in_its_sample(dtype, value):
    matrix = np.array([[[2.0, 0.5, -1.0], [0.5, 1.0, 0.25], [-1.0, 0.25, 4.0]]])
    x, dy, place = planted((4, 3, 5), dtype, value, "dy", seed=2)
    (clean,) = derivatives(
        decorrelated_with(matrix), x, np.nan_to_num(dy, posinf=0, neginf=0), dtype, False, MEAN, VAR
    )[:1]
    for definition in (False, True):
        dx = derivatives(decorrelated_with(matrix), x, dy, dtype, definition, MEAN, VAR)[0]
        with np.errstate(all="ignore"):
            column = matrix[0].T @ (dy[place[0], :, place[2]].astype(np.float64) * WEIGHT)
        np.testing.assert_allclose(dx[place[0], :, place[2]], column.astype(dtype), rtol=5e-5)
        dx[place[0], :, place[2]] = clean[place[0], :, place[2]]
        np.testing.assert_allclose(dx, clean, rtol=5e-5)


@special
@pytest.mark.parametrize("where", ["x", "dy"])
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRAINED)
def test_in_training_a_special_value_spreads_over_its_index_set_alone(name, shape, dtype, where, value):
    """A NaN makes dx NaN there; with infinity nothing is finite that the definition does not have so."""
    if name == "instance" and len(shape) == 2:
        shape = (7, 3, 4)
    x, dy, place = planted(shape, dtype, value, where, seed=3)
    exact = derivatives(TRAINED[name], x, dy, np.float64, True)
    found = derivatives(TRAINED[name], x, dy, dtype, False)
    sets = index_sets(name, shape)
    same = sets == sets[place]
    assert np.isfinite(exact[0][~same]).all()
    if np.isnan(value):
        assert np.isnan(found[0][same]).all()
    with np.errstate(all="ignore"):
        exact = [e.astype(dtype) for e in exact]
    for f, e in zip(found, exact, strict=True):
        finite = np.isfinite(e)
        assert np.array_equal(np.isfinite(f), finite)
        here = same if f.shape == x.shape else np.zeros(f.shape, bool)
        for part in (finite & here, finite & ~here):  # where 1e200 has come to, rounding is as large
            scale = np.abs(e[part]).max(initial=1e-30)
            np.testing.assert_allclose(
                f[part] / scale, e[part] / scale, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12
            )


# losses, powers and activations at the ends of the number line; the limits, which are PyTorch's values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("x", "t", "loss", "dx"),
    [
        (np.inf, 0.0, np.inf, 1.0),
        (np.inf, 1.0, 0.0, 0.0),
        (-np.inf, 0.0, 0.0, 0.0),
        (-np.inf, 1.0, np.inf, -1.0),
        (np.inf, 0.25, np.inf, 0.75),
        (np.nan, 0.0, np.nan, np.nan),
        (0.0, 0.25, np.log(2), 0.25),
    ],
)
def test_binary_cross_entropy_at_infinity(x, t, loss, dx, dtype):
    logits = tensor(np.array([x], dtype), requires_grad=True)
    result = F.binary_cross_entropy_with_logits(logits, np.array([t], dtype))
    result.backward()
    np.testing.assert_allclose(result.data, loss, rtol=1e-6)
    np.testing.assert_allclose(logits.grad, [dx], rtol=1e-6)


EXPONENTS = np.array([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("base", [0, 0.0, "a tensor"])
def test_the_gradient_of_0_to_a_power(base):
    """d 0^b / db = 0^b log 0: minus infinity below 0, 0 from 0 on."""
    b = tensor(EXPONENTS, requires_grad=True)
    a = tensor(np.zeros(6), requires_grad=True) if base == "a tensor" else base
    (a**b).backward(np.ones(6))
    assert np.array_equal(b.grad, [-np.inf, 0, 0, 0, np.nan, 0], equal_nan=True)
    if base == "a tensor":
        assert np.array_equal(a.grad[:5], [-np.inf, 0, np.inf, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize("exponent", [0, 0.0, np.zeros(3)])
def test_the_gradient_of_a_power_of_0_is_0(exponent):
    x = tensor(np.array([0.0, 2.0, np.inf]), requires_grad=True)
    (x**exponent).backward(np.array([np.inf, np.nan, -np.inf]))
    assert np.array_equal(x.grad, np.zeros(3))
    (g,) = grad((x**exponent).sum(), x, create_graph=True)
    assert np.array_equal(g.data, np.zeros(3))


def test_sigmoid_is_a_number_as_long_as_float32_has_normal_ones():
    x = np.linspace(-87.3365, -80, 1001).astype(np.float32)
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert exact.min() > np.finfo(np.float32).tiny
    np.testing.assert_allclose(F.sigmoid(tensor(x)).data, exact, rtol=3e-7)
    assert np.array_equal(F.sigmoid(tensor(np.float32([-88, -1e4, -np.inf]))).data, np.zeros(3))


@pytest.mark.parametrize("dim", [0, -1])
def test_softmax_of_a_number_is_1(dim):
    x = tensor(np.array(3.0), requires_grad=True)
    y, z = F.softmax(x, dim), F.log_softmax(x, dim)
    assert y.shape == z.shape == () and y.item() == 1 and z.item() == 0
    (y * 5 + z * 7).backward()
    assert x.grad == 0
    (g,) = grad(F.softmax(x, dim), x, create_graph=True)
    assert g.item() == 0
    with pytest.raises(ValueError, match=r"dim must be in \[-1, 0\]"):
        F.softmax(x, 1)


def test_labels_that_int64_cannot_hold_are_never_the_one_to_ignore():
    for ignore in (2**63 - 1, -1, -(2**63)):
        with pytest.raises(ValueError, match="18446744073709551615"):
            F.cross_entropy(tensor(np.zeros((1, 3))), np.array([2**64 - 1], np.uint64), ignore_index=ignore)


@pytest.mark.parametrize("order", ["C", "F"])
def test_depthwise_convolution_has_the_same_bits_in_every_layout(order):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 6, 9, 7)), rng.standard_normal((6, 1, 3, 3))
    results = []
    for array in (x, np.array(x, order=order), np.repeat(x, 2, axis=3)[..., ::2]):
        t, k = tensor(x, requires_grad=True), tensor(w, requires_grad=True)
        t.data = array
        y = F.conv2d(t, k, padding=1, groups=6)
        y.backward(np.ones(y.shape))
        results.append([y.data.tobytes(), t.grad.tobytes(), k.grad.tobytes()])
    assert results[0] == results[1] == results[2]


def test_a_nan_gradient_of_a_power_is_not_swallowed():
    """db is dy times 0 where a is 0, as in PyTorch."""
    a, b = tensor(np.zeros(3), requires_grad=True), tensor(np.full(3, 2.0), requires_grad=True)
    (a**b).backward(np.array([np.nan, np.inf, 1.0]))
    assert np.isnan(b.grad[:2]).all() and b.grad[2] == 0


@pytest.mark.parametrize("x", [np.inf, -np.inf])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_binary_cross_entropy_at_infinity_through_its_definition(x, t):
    logits = tensor(np.array([x]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(logits, np.array([t]))
    (dx,) = grad(loss, logits, create_graph=True)
    assert dx.item() == (1.0 if x > 0 else 0.0) - t  # sigmoid(x) - t


def test_an_infinite_running_mean_is_no_contradiction():
    x = tensor(np.array([[1.0], [2.0]]), requires_grad=True)
    y = F.batch_norm(x, np.array([np.inf]), np.array([1.0]))
    (dx,) = grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(dx.data, 1 / np.sqrt(1 + 1e-5))
