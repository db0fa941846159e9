"""Values, gradients, SGD trajectories and state_dict names against PyTorch 2.13, recorded by golden/make_golden.py."""

import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim, tensor

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
from cases import LOSSES, OPS, SGD_SETTINGS, sgd_gradients, values  # noqa: E402

GOLDEN = dict(np.load(FOLDER / "golden.npz", allow_pickle=False))


def equal(ours, key):
    scale = max(1.0, float(np.abs(GOLDEN[key]).max(initial=0)))
    np.testing.assert_allclose(ours, GOLDEN[key], rtol=0, atol=1e-12 * scale, err_msg=key)


@pytest.mark.parametrize("case", OPS)
def test_ops(case):
    name, shapes, extra = OPS[case]
    inputs = [tensor(a, requires_grad=True) for a in values(case, shapes)]
    extra = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in extra.items()}
    y = getattr(F, name)(inputs[0], **extra, **dict(zip(["weight", "bias"], inputs[1:], strict=False)))
    y.backward(values(case + "/dy", [y.shape])[0])
    equal(y.data, f"{case}/y")
    for i, t in enumerate(inputs):
        equal(t.grad, f"{case}/grad{i}")
    for k in ("running_mean", "running_var"):
        if k in extra:
            equal(extra[k], f"{case}/{k}")


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case):
    name, shapes, target, extra = LOSSES[case]
    x = tensor(values(case, shapes)[0], requires_grad=True)
    y = getattr(F, name)(x, target, **extra)
    y.backward(values(case + "/dy", [y.shape])[0])
    equal(y.data, f"{case}/y")
    equal(x.grad, f"{case}/grad0")


@pytest.mark.parametrize("case", SGD_SETTINGS)
def test_sgd_trajectories(case):
    p = tensor(values(case, [(3, 2)])[0], requires_grad=True)
    sgd = optim.SGD([p], **SGD_SETTINGS[case])
    for step, g in enumerate(sgd_gradients(case)):
        p.grad = g
        sgd.step()
        np.testing.assert_allclose(p.data, GOLDEN[f"{case}/path"][step], rtol=0, atol=1e-13, err_msg=f"step {step}")


def test_state_dict_has_pytorchs_names_order_and_dtypes():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    reference = {k.split("/", 2)[2]: v for k, v in sorted(GOLDEN.items()) if k.startswith("state/")}
    own = net.state_dict()
    assert list(own) == list(reference)
    assert [(v.dtype, v.shape) for v in own.values()] == [(v.dtype, v.shape) for v in reference.values()]
    net.load_state_dict(reference)
    assert all(np.array_equal(v, reference[k]) for k, v in net.state_dict().items())
