"""Deliberately wrong backwards of the norms, which the gradient check must reject: proof that it proves something."""

import numpy as np
import pytest

from tinygrad_bn import GradcheckError, Tensor, differentiable, gradcheck

SEED = 0
EPS = 1e-5
# name -> (shape of x as seen by the statistics, axes S, shape of gamma)
NORMS = {
    "batch norm": ((5, 3, 2), (0, 2), (1, 3, 1)),
    "layer norm": ((4, 6), (1,), (1, 6)),
    "group norm": ((3, 2, 2, 3), (2, 3), (1, 2, 2, 1)),
    "instance norm": ((3, 2, 5), (2,), (1, 2, 1)),
}


def backward(kind, g, xhat, rstd, axes):
    """dx from g = gamma dy; every kind but "right" has one mistake."""
    mean = lambda a: a.mean(axis=axes, keepdims=True)
    m = np.prod([g.shape[a] for a in axes])
    return {
        "right": lambda: rstd * (g - mean(g) - xhat * mean(g * xhat)),
        "zero": lambda: np.zeros_like(g),
        "x_hat term dropped": lambda: rstd * (g - mean(g)),
        "mean term missing": lambda: rstd * (g - xhat * mean(g * xhat)),
        "sign flipped": lambda: -rstd * (g - mean(g) - xhat * mean(g * xhat)),
        "sign of the x_hat term flipped": lambda: rstd * (g - mean(g) + xhat * mean(g * xhat)),
        "1/(m-1) for 1/m": lambda: rstd * (g - mean(g) - xhat * mean(g * xhat) * m / (m - 1)),
        "rstd missing": lambda: g - mean(g) - xhat * mean(g * xhat),
    }[kind]()


def norm(kind, axes):
    @differentiable
    def op(x, gamma):
        rstd = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + EPS)
        xhat = (x - x.mean(axis=axes, keepdims=True)) * rstd
        return gamma * xhat, lambda dy: (backward(kind, gamma * dy, xhat, rstd, axes), dy * xhat)

    return op


def case(name, gamma):
    shape, axes, gamma_shape = NORMS[name]
    rng = np.random.default_rng(SEED)
    x = Tensor(rng.standard_normal(shape), requires_grad=True)
    w = np.ones(gamma_shape) if gamma == "one" else rng.standard_normal(gamma_shape)
    return axes, [x, Tensor(w, requires_grad=True)]


KINDS = ["zero", "x_hat term dropped", "mean term missing", "sign flipped", "sign of the x_hat term flipped"]
KINDS += ["1/(m-1) for 1/m", "rstd missing"]


@pytest.mark.parametrize("gamma", ["one", "random"])
@pytest.mark.parametrize("name", NORMS)
def test_the_right_backward_passes(name, gamma):
    axes, inputs = case(name, gamma)
    assert gradcheck(norm("right", axes), inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", ["one", "random"])
@pytest.mark.parametrize("name", NORMS)
def test_wrong_backwards_are_rejected(name, gamma, kind):
    axes, inputs = case(name, gamma)
    with pytest.raises(GradcheckError, match=r"input 0: \d+ of \d+ elements wrong"):
        gradcheck(norm(kind, axes), inputs)
