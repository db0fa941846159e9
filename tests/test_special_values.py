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
