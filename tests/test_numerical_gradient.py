"""numerical_gradient: values and error bars against closed forms, by each method; what it refuses."""

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import numerical_gradient
from tinygrad_bn.gradient_checks.extrapolation import extrapolate
from tinygrad_bn.gradient_checks.subject import Cotangents

X = np.array([-1.5, -0.2, 0.3, 2.0, 7.0])
FUNCTIONS = {
    "sin": (np.sin, np.cos),
    "exp": (np.exp, np.exp),
    "x^3": (lambda x: x**3, lambda x: 3 * x * x),
    "x / (1 + x^2)": (lambda x: x / (1 + x * x), lambda x: (1 - x * x) / (1 + x * x) ** 2),
    "1e6 + tanh": (lambda x: 1e6 + np.tanh(x), lambda x: 1 / np.cosh(x) ** 2),
    "1e-9 x^2": (lambda x: 1e-9 * x * x, lambda x: 2e-9 * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", ["ridders", "central", "complex"])
def test_the_error_bar_covers_the_error(name, method):
    f, derivative = FUNCTIONS[name]
    value, error = numerical_gradient(lambda x: f(x).sum(), X, method=method)
    assert np.all(np.abs(value - derivative(X)) <= error)


@pytest.mark.parametrize(("method", "most"), [("ridders", 1e-11), ("central", 1e-8), ("complex", 1e-15)])
def test_how_exact_each_method_is(method, most):
    value, error = numerical_gradient(lambda x: (x * np.sin(x)).sum(), X, method=method)
    right = np.sin(X) + X * np.cos(X)
    assert np.abs(value - right).max() <= most * np.abs(right).max()
    assert error.max() < 100 * most * np.abs(right).max()


def test_several_inputs_and_dy():
    rng = np.random.default_rng(0)
    a, b, dy = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    da, db = numerical_gradient(lambda a, n, b: n * (a @ b), [a, 2, b], dy)
    np.testing.assert_allclose(da.value, 2 * dy @ b.T, atol=1e-11)
    np.testing.assert_allclose(db.value, 2 * a.T @ dy, atol=1e-11)


def test_tensors():
    x = tb.tensor(X, requires_grad=True)
    value, error = numerical_gradient(lambda x: F.sigmoid(x).sum(), x)
    s = 1 / (1 + np.exp(-X))
    assert np.all(np.abs(value - s * (1 - s)) <= error) and error.max() < 1e-10
    assert x.grad is None and np.array_equal(x.data, X)


def test_a_fixed_step_is_the_step_that_is_taken():
    """(f(x + h) - f(x - h)) / 2h of x^3 is 3 x^2 + h^2."""
    value, error = numerical_gradient(lambda x: (x**3).sum(), X, method="central", eps=0.5)
    np.testing.assert_allclose(value, 3 * X * X + 0.25, rtol=1e-12)
    assert np.all(error >= 0.25)


def test_what_is_not_analytic_is_refused_by_the_complex_step():
    with pytest.raises(ValueError, match=r"element \(0,\) it gives 0, and differences -1"):
        numerical_gradient(lambda x: np.abs(x).sum(), X, method="complex")
    with pytest.raises(ValueError, match="does not allow for method='complex': TypeError"):
        numerical_gradient(lambda x: (np.floor(x) * x).sum(), X, method="complex")


def test_a_function_that_does_not_use_its_argument():
    with pytest.warns(RuntimeWarning, match="which it must use"):
        value, _ = numerical_gradient(lambda x: X.sum(), X.copy())
    assert not value.any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: numerical_gradient(3, X), TypeError, "fn must be callable, got int"),
        (lambda: numerical_gradient(np.sin, 3.0), TypeError, "inputs must be an array, a Tensor or a list"),
        (lambda: numerical_gradient(np.sum, [3]), ValueError, "inputs must contain an array of floats"),
        (lambda: numerical_gradient(np.sin, X), ValueError, r"dy must be given for outputs of shape \(5,\)"),
        (lambda: numerical_gradient(np.sin, X, X[:3]), ValueError, r"dy must have the outputs' shapes \[\(5,\)\]"),
        (lambda: numerical_gradient(np.sum, X, method="exact"), ValueError, "method must be one of ridders, central"),
        (lambda: numerical_gradient(np.sum, X, eps=0), ValueError, "eps must be > 0, got 0"),
        (lambda: numerical_gradient(np.sum, np.array([1.0, np.inf])), ValueError, r"inputs\[0\] must be finite"),
        (lambda: numerical_gradient(np.sin, X, 1j * X), TypeError, "dy must hold real numbers"),
        (lambda: numerical_gradient(np.sum, X, "1e-9"), TypeError, "dy must hold real numbers"),
        (lambda: numerical_gradient(np.sin, X, [[1.0], [2.0, 3.0]]), TypeError, "dy must hold numbers"),
        (lambda: numerical_gradient(np.sin, X, X * np.nan), ValueError, "dy must be finite"),
        (lambda: numerical_gradient(lambda x: int(x.sum()), X), TypeError, "fn must return floats, got int64"),
        (lambda: numerical_gradient(lambda x: (x * 1j).sum(), X), TypeError, "fn must return floats, got complex128"),
        (lambda: numerical_gradient(lambda x: "text", X), TypeError, "fn must return a number, .* got str"),
        (lambda: numerical_gradient(np.sum, X, method="central", eps=1e-300), ValueError, "eps must be larger than"),
        (lambda: numerical_gradient(np.sum, X, eps=1e-300), ValueError, "eps must be at least"),
        (lambda: numerical_gradient(lambda x: {"loss": 1.0}, X), TypeError, r"got dict: .* lambda w: loss\(w\)\[0\]"),
        (
            lambda: numerical_gradient(lambda x: x.sum(), tb.tensor(X, requires_grad=True), method="complex"),
            TypeError,
            "got a Tensor",
        ),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    "dy", [[2.0], np.array([2.0]), [np.array([2.0])], (2.0,), tb.tensor([2.0]), [tb.tensor([2.0])]]
)
def test_dy_for_one_output_of_one_element(dy):
    value, _ = numerical_gradient(lambda x: (x**2).sum(keepdims=True), X, dy)
    np.testing.assert_allclose(value, 4 * X, rtol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_extrapolation_removes_two_powers_of_the_step(order):
    """f' + a h^order + b h^(2 order), at h, h / 4, h / 16."""
    h = np.array([[1.0], [0.25], [0.0625]])
    value, error = extrapolate(2.0 + 3 * h**order - 5 * h ** (2 * order), order)
    assert abs(value[0] - 2) < 1e-14 and error[0] >= abs(value[0] - 2)


def test_cotangents_have_a_stream_of_their_own():
    """Inputs are often drawn from default_rng(seed): equal to dy they would hide what takes one for the other."""
    outs = [np.zeros(8)]
    drawn = Cotangents(outs, np.ones(8), seed=0).draw()
    assert not np.any(np.isclose(drawn, np.random.default_rng(0).standard_normal(8)))
