"""Where this package and PyTorch disagree, and the definition decides: pytest -s tests/parity/test_torch_is_off.py

PyTorch's own error is printed, not asserted: it may be mended.
"""

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")


def third(grad, norm, cast, x, c, v):
    """d/dx of v2 . d/dx of v1 . d/dx of c . norm(x)"""
    x = cast(x)
    x.requires_grad = True
    y = (norm(x) * cast(c)).sum()
    for k in range(3):
        (y,) = grad(y, x, create_graph=k < 2)
        y = (y * cast(v[k])).sum() if k < 2 else y
    return np.asarray(y.detach() if hasattr(y, "detach") else y)


NORMS = {
    "batch norm": (lambda f, t: f.batch_norm(t, None, None, training=True), 0),
    "layer norm": (lambda f, t: f.layer_norm(t, (3,)), 1),
    "group norm": (lambda f, t: f.group_norm(t, 1), 1),
}


@pytest.mark.parametrize("kind", NORMS)
def test_third_derivatives_of_norms(kind):
    """The reference: PyTorch's derivatives of the formula, written with its primitives."""
    norm, axis = NORMS[kind]
    rng = np.random.default_rng(0)
    x, c, *v = rng.standard_normal((4, 5, 3))
    formula = lambda t: (t - t.mean(axis, keepdim=True)) / torch.sqrt(t.var(axis, correction=0, keepdim=True) + 1e-5)
    exact = third(torch.autograd.grad, formula, torch.tensor, x, c, v)
    error = lambda y: np.abs(y - exact).max() / np.abs(exact).max()
    fused = lambda t: norm(torch.nn.functional, t)
    ours = error(third(tb.grad, lambda t: norm(F, t), tb.tensor, x, c, v))
    theirs = error(third(torch.autograd.grad, fused, torch.tensor, x, c, v))
    print(f"third derivative of {kind}: off by {ours:.1g} of the largest, PyTorch's by {theirs:.2g}")
    assert ours <= 1e-12


def test_the_sum_of_all_elements_of_every_other_row():
    x = (np.random.default_rng(1).standard_normal((1_000_000, 4)) * 0.5 + 5).astype(np.float32)
    exact = np.sum(np.ascontiguousarray(x[::2]), dtype=np.longdouble)
    error = lambda y: float(abs(y - exact) / abs(exact) * 2**24)
    ours, theirs = error(tb.Tensor(x[::2]).sum().item()), error(torch.from_numpy(x)[::2].sum().item())
    print(f"sum of x[::2], 500,000 rows in float32: off by {ours:.2g} roundings, PyTorch's by {theirs:.2g}")
    assert ours <= 4
