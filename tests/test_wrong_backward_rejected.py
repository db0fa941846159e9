"""Deliberately wrong backwards, which the gradient check must reject: images, the relatives of batch norm, one element.

(Those of the norms themselves are in test_norm_backward_rejected.py.)
"""

import re

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import GradcheckError, Tensor, differentiable, gradcheck, gradgradcheck, ops, tensor

SEED = 0
GEOMETRY = ((2, 1), (1, 1, 0, 0), (1, 2), (3, 4))  # stride, padding, dilation, size of the output
WINDOWS = {
    "rows": np.array([[0, 2], [1, 4], [3, 5]]),
    "columns": np.array([[0, 3], [2, 6]]),
    "row_weight": np.array([1 / 2, 1 / 3, 1 / 2]),
    "column_weight": np.array([1 / 3, 1 / 4]),
}


def conv(x, w, b):
    return ops.convolution._conv2d.rule(x, w, b, geometry=GEOMETRY, groups=2)


def average(x):
    return ops.pooling.average.rule(x, **WINDOWS)


def largest(x):
    return ops.pooling._max_pool2d.rule(x, rows=WINDOWS["rows"], columns=WINDOWS["columns"], step=(1, 1))


def ghosts(x, w, b):
    parts = [slice(0, 3), slice(3, 7)]
    return ops.norm_kernels.channel_norm.rule(x, w, b, mean=None, var=None, eps=1e-3, parts=parts)


def whiten(x):
    return ops.whitening.whiten.rule(x, eps=1e-2, method="zca")


def pca(x):
    return ops.whitening.whiten.rule(x, eps=1e-2, method="pca")


def positive(a):
    """Symmetric, whatever a is: the primitives of whitening are defined for such matrices alone."""
    return a @ a.T + np.eye(len(a))


def through(rule):
    """A rule for symmetric matrices as one for any square matrix a, by way of a a^T + 1."""

    def of_any(a, *rest):
        y, pullback = rule(positive(a), *rest)

        def back(dy):
            g = pullback(dy)
            first, *others = g if isinstance(g, tuple) else (g,)
            return ((first + first.T) @ a, *others)

        return y, back

    return of_any


lyapunov, root, eigen = (through(getattr(ops.whitening, k).rule) for k in ("lyapunov", "inverse_sqrt", "eigh"))


INPUTS = {
    conv: [(2, 4, 6, 6), (4, 2, 3, 2), (4,)],
    average: [(2, 5, 6)],
    largest: [(2, 5, 6)],
    ghosts: [(7, 3), (3,), (3,)],
    whiten: [(3, 8)],
    pca: [(3, 8)],
    lyapunov: [(3, 3), (3, 3)],
    root: [(3, 3)],
    eigen: [(3, 3)],
}


def computed(gradients):
    return [g() if callable(g) else g for g in gradients]


def change(i, how):
    """The right gradients, the i-th of which is changed."""

    def wrong(pullback, dy, *args):
        g = pullback(dy)
        g = computed(g) if isinstance(g, tuple) else [g]
        g[i] = how(g[i])
        return tuple(g)

    return wrong


def one_ghost(pullback, dy, x, w, b):
    """The backward of the whole batch in place of the ghosts'."""
    rule = ops.norm_kernels.channel_norm.rule
    return rule(x, w, b, mean=None, var=None, eps=1e-3)[1](dy)


def spread_evenly(pullback, dy, x):
    return (average(x)[1](dy),)


def whitening(dropped):
    """The backward of ZCA whitening with one mistake."""

    def wrong(pullback, dy, x):
        m = x.shape[1]
        c = x - x.mean(axis=1, keepdims=True)
        sigma = c @ c.T / m + 1e-2 * np.eye(len(x))
        w, through = ops.whitening.inverse_sqrt.rule(sigma)
        dsigma = through(dy @ c.T) * {"dSigma dropped": 0, "dSigma flipped": -1}.get(dropped, 1)
        if dropped == "eigenvectors constant":
            values, d = np.linalg.eigh(sigma)
            dsigma = d @ np.diag(-0.5 * values**-1.5 * np.diag(d.T @ (dy @ c.T) @ d)) @ d.T
        dc = w @ dy + (1 if dropped == "factor 2 missing" else 2) / m * dsigma @ c
        return (dc if dropped == "mean not subtracted" else dc - dc.mean(axis=1, keepdims=True),)

    return wrong


MISTAKES = {
    "conv: right": (conv, change(0, lambda g: g)),
    "conv: dx zero": (conv, change(0, np.zeros_like)),
    "conv: dx shifted by a pixel": (conv, change(0, lambda g: np.roll(g, 1, axis=3))),
    "conv: dx with its groups exchanged": (conv, change(0, lambda g: np.roll(g, 2, axis=1))),
    "conv: dweight flipped (a true convolution)": (conv, change(1, lambda g: g[:, :, ::-1, ::-1])),
    "conv: dweight averaged over the batch": (conv, change(1, lambda g: g / 2)),
    "conv: dweight sign": (conv, change(1, lambda g: -g)),
    "conv: dbias missing": (conv, change(2, np.zeros_like)),
    "conv: dbias averaged": (conv, change(2, lambda g: g / 12)),
    "average: right": (average, change(0, lambda g: g)),
    "average: not divided": (average, change(0, lambda g: g * 6)),
    "average: overlap ignored": (average, change(0, lambda g: np.minimum(g, g.mean()))),
    "max: right": (largest, change(0, lambda g: g)),
    "max: spread over the window": (largest, spread_evenly),
    "max: overlap counted once": (largest, change(0, lambda g: np.sign(g))),
    "max: zero": (largest, change(0, np.zeros_like)),
    "ghosts: right": (ghosts, change(0, lambda g: g)),
    "ghosts: statistics of the batch": (ghosts, one_ghost),
    "ghosts: dgamma averaged over ghosts": (ghosts, change(1, lambda g: g / 2)),
    "ghosts: dbeta missing": (ghosts, change(2, np.zeros_like)),
    "pca: right": (pca, change(0, lambda g: g)),
    "pca: mean not subtracted": (pca, change(0, lambda g: g + 0.1)),
    "pca: sign": (pca, change(0, lambda g: -g)),
    "pca: as zca": (pca, lambda pullback, dy, x: whitening("")(pullback, dy, x)),
    "lyapunov: right": (lyapunov, change(0, lambda g: g)),
    "lyapunov: dS missing": (lyapunov, change(0, np.zeros_like)),
    "lyapunov: dS sign": (lyapunov, change(0, lambda g: -g)),
    "lyapunov: dG not solved for": (lyapunov, lambda pullback, dy, s, g: (pullback(dy)[0], dy)),
    "inverse root: right": (root, change(0, lambda g: g)),
    "inverse root: sign": (root, change(0, lambda g: -g)),
    "inverse root: as of a number": (
        root,
        lambda pullback, dy, a: (-np.linalg.matrix_power(np.linalg.inv(positive(a)), 2) @ dy @ a,),
    ),
    "eigh: right": (eigen, change(0, lambda g: g)),
    "eigh: eigenvectors constant": (eigen, lambda pullback, dy, a: pullback(np.vstack([dy[:1], 0 * dy[1:]]))),
    "eigh: eigenvalues constant": (eigen, lambda pullback, dy, a: pullback(np.vstack([0 * dy[:1], dy[1:]]))),
    "whiten: right": (whiten, whitening("")),
    **{
        f"whiten: {mistake}": (whiten, whitening(mistake))
        for mistake in (
            "dSigma dropped",
            "dSigma flipped",
            "factor 2 missing",
            "mean not subtracted",
            "eigenvectors constant",
        )
    },
}


@pytest.mark.parametrize("name", MISTAKES)
def test_only_the_right_backward_passes(name):
    rule, backward = MISTAKES[name]

    @differentiable
    def op(*args):
        y, pullback = rule(*args)
        return y, lambda dy: backward(pullback, dy, *args)

    rng = np.random.default_rng(SEED)
    args = [tensor(rng.standard_normal(shape), requires_grad=True) for shape in INPUTS[rule]]
    if name.endswith("right"):
        assert gradcheck(op, args)
    else:
        with pytest.raises(GradcheckError, match=r"input \d: \d+ of \d+ elements wrong"):
            gradcheck(op, args)


def renorm(x):
    """(running mean, running variance, eps), and the r and d that x then has."""
    mean, var, eps = np.array([0.3, -0.2]), np.array([0.5, 2.0]), 1e-3
    batch_mean, batch_sigma = x.mean(axis=0), np.sqrt(x.var(axis=0) + eps)
    sigma = np.sqrt(var + eps)
    r, d = np.clip(batch_sigma / sigma, 1 / 1.1, 1.1), np.clip((batch_mean - mean) / sigma, -0.2, 0.2)
    return (mean, var, eps), (r, d)


@pytest.mark.parametrize("mistake", ["right", "r left out", "as if nothing were clipped"])
def test_wrong_gradients_of_renorm_differ_from_finite_differences_with_r_and_d_constant(mistake):
    """r and d are constants for the gradient, so finite differences of the layer itself are no reference."""
    x0 = np.random.default_rng(SEED).standard_normal((6, 2))
    (mean, var, eps), (r, d) = renorm(x0)
    dy = np.random.default_rng(1).standard_normal((6, 2))
    x = tensor(x0, requires_grad=True)
    if mistake == "as if nothing were clipped":  # then the output is an affine map of x
        analytic = dy / np.sqrt(var + eps)
    else:
        F.batch_renorm(x, mean, var, training=True, momentum=0.0, eps=eps, r_max=1.1, d_max=0.2).backward(dy)
        analytic = x.grad / (r if mistake == "r left out" else 1)

    def held(v):
        return ((v - v.mean(axis=0)) / np.sqrt(v.var(axis=0) + eps) * r + d) * dy

    numerical = np.zeros_like(x0)
    for i in np.ndindex(x0.shape):
        step = np.zeros_like(x0)
        step[i] = 1e-6
        numerical[i] = (held(x0 + step).sum() - held(x0 - step).sum()) / 2e-6
    assert (np.abs(analytic - numerical).max() < 1e-8) == (mistake == "right")


# What the check compares, and how closely


@pytest.mark.parametrize("place", [(k, i, j) for k in range(2) for i in range(2) for j in range(3)])
def test_gradcheck_looks_at_every_element_of_every_input(place):
    """The gradient of the first input is 3, that of the second 0."""
    right = np.array([[[3.0] * 3] * 2, [[0.0] * 3] * 2])
    wrong = right.copy()
    wrong[place] += 1e-4

    op = differentiable(lambda a, b: (right[0] * a + right[1] * b, lambda dy: (dy * wrong[0], dy * wrong[1])))
    inputs = [tensor(a, requires_grad=True) for a in np.random.default_rng(1).standard_normal((2, 2, 3))]
    with pytest.raises(GradcheckError, match=rf"input {place[0]}: 1 of 6 .*worst: element \({place[1]}, {place[2]}\)"):
        gradcheck(op, inputs)


def test_gradcheck_keeps_to_its_tolerances():
    def off_by(share, constant):
        return differentiable(lambda a: (3 * a, lambda dy: 3 * dy * (1 + share) + constant))

    x = tensor(np.array([1.0, 2.0, -1.0]), requires_grad=True)
    assert gradcheck(off_by(1e-3, 0.0), x, atol=0.0, rtol=2e-3)
    assert gradcheck(off_by(0.0, 1e-3), x, atol=2e-3, rtol=0.0)
    for share, constant in ((1e-3, 0.0), (0.0, 1e-3)):
        with pytest.raises(GradcheckError):
            gradcheck(off_by(share, constant), x, atol=constant / 2, rtol=share / 2)


def test_the_message_has_both_values_for_the_same_dy_and_says_so():
    half = differentiable(lambda x: (x**2, lambda dy: dy * x))
    with pytest.raises(GradcheckError, match="random dy") as caught:
        gradcheck(half, tensor(np.array([3.0]), requires_grad=True))
    analytic, numerical = re.findall(r"gradient (\S+), numerical (\S+) ", str(caught.value))[0]
    assert float(numerical) == pytest.approx(2 * float(analytic), rel=1e-6)


FACTOR = r"elements wrong, all (\S+) times the (\S+) one; worst"


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0, 1.5])
def test_the_message_counts_the_wrong_elements_and_says_which_factor_they_share(factor):
    """Rows 1 and 2 of three are wrong; row 0 has the largest values."""
    x, factors, seen = np.array([[90.0, 90.0], [1.0, -4.0], [2.0, 3.0]]), np.array([[1.0], [factor], [factor]]), []

    @differentiable
    def square(x):
        def pullback(dy):
            seen.append(dy)
            return dy * 2 * x * factors

        return x**2, pullback

    with pytest.raises(GradcheckError, match="input 0: 4 of 6 ") as caught:
        gradcheck(square, tensor(x, requires_grad=True))
    found, of = re.findall(FACTOR, str(caught.value))[0]
    assert float(found) == factor and of == "numerical"
    row, column = np.unravel_index(np.abs(2 * x * seen[0] * (factors - 1)).argmax(), x.shape)
    assert f"worst: element ({row}, {column})," in str(caught.value)


@pytest.mark.parametrize(
    ("mistake", "count"),
    [
        (lambda g: g * np.array([1.0, 2.0, 2.1]), 2),  # two factors
        (lambda g: g + 1e-3, 3),
        (lambda g: g * np.array([1.0, 1.0, 2.0]), 1),  # one element has a factor by chance
        (lambda g: g * np.array([2.0, np.nan, 2.0]), 3),
    ],
)
def test_the_message_speaks_of_a_factor_only_where_all_share_it(mistake, count):
    op = differentiable(lambda x: (x**2, lambda dy: mistake(2 * x * dy)))
    with pytest.raises(GradcheckError, match=f"{count} of 3 elements wrong; worst"):
        gradcheck(op, tensor(np.array([1.0, 2.0, -3.0]), requires_grad=True))


@pytest.mark.parametrize(("errors", "size"), [([1.0, 3.0, 2.0], "3"), ([5.0, np.nan, np.inf], "nan")])
def test_the_worst_element_has_the_largest_difference_or_is_not_a_number(errors, size):
    op = differentiable(lambda x: (x**2, lambda dy: 2 * x * dy + np.array(errors)))
    with pytest.raises(GradcheckError, match=rf"3 of 3 .* element \(1,\), .* \(differ by {size}\)"):
        gradcheck(op, tensor(np.array([1.0, 2.0, -300.0]), requires_grad=True))


@pytest.mark.parametrize(
    ("op", "names", "factor"),
    [
        (differentiable(lambda x: (2 * x, lambda dy: 2 + 0 * x)), ("found", "expected"), 0.5),
        (
            differentiable(definition=lambda x: x * x)(lambda x: (x * x, lambda dy: 3 * x * dy)),
            ("recorded", "plain"),
            2 / 3,
        ),
    ],
    ids=["not linear in dy", "definition"],
)
def test_gradgradcheck_says_which_elements_differ(op, names, factor):
    with pytest.raises(GradcheckError, match=r"input 0: .* 3 of 3 elements wrong") as caught:
        gradgradcheck(op, tensor(np.array([1.0, 2.0, -3.0]), requires_grad=True))
    shared, of = re.findall(FACTOR, str(caught.value))[0]
    found, expected = re.findall(rf"element \(\d,\), {names[0]} (\S+), {names[1]} (\S+) ", str(caught.value))[0]
    assert of == names[1] and float(shared) == pytest.approx(factor, rel=1e-5)
    assert float(found) == pytest.approx(factor * float(expected), rel=1e-6)


def test_gradcheck_moves_one_element_at_a_time():
    """Up and down by the same three or more steps."""
    x, seen = tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True), []

    def square(a):
        seen.append(a.data.copy())
        return a * a

    gradcheck(square, x)
    moves = {tuple(a - x.data) for a in seen if a.shape == x.shape}
    alone = [m for m in moves if np.count_nonzero(m) == 1]
    for k in range(x.size):
        steps = {m[k] for m in alone if m[k]}
        assert len(steps) >= 6 and steps == {-s for s in steps}


def test_a_right_gradient_with_a_wrong_second_derivative_is_rejected():
    @differentiable
    def square(x):
        constant = x.data if isinstance(x, Tensor) else x  # right, but 2 x has no history
        return x * x, lambda dy: 2 * dy * constant

    x = Tensor(np.array([0.5, -1.5]), requires_grad=True)
    assert gradcheck(square, x)
    with pytest.raises(GradcheckError):
        gradgradcheck(square, x)
