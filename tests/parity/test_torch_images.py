"""Convolution and pooling equal PyTorch's in value and gradients, on random configurations."""

import warnings

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, tensor

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
TF = torch.nn.functional
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}  # relative to the largest magnitude of the reference


def compare(call, arrays, dtype, where):
    ours = [None if a is None else tensor(a.astype(dtype), requires_grad=True) for a in arrays]
    theirs = [None if a is None else torch.tensor(a.astype(dtype), requires_grad=True) for a in arrays]
    y = call(F, *ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of a copy where "same" needs uneven padding
        z = call(TF, *theirs)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    y.backward(dy)
    z.backward(torch.tensor(dy))
    pairs = [(y.data, z.detach()), *((a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if a is not None)]
    for what, (a, b) in zip(("value", "dx", "dweight", "dbias"), pairs, strict=False):
        reference = b.numpy()
        assert a.shape == reference.shape and a.dtype == dtype, f"{where}: {what}"
        error = np.abs(a - reference).max(initial=0) / max(1.0, np.abs(reference).max(initial=0))
        assert error <= TOLERANCE[dtype], f"{where}: {what} is off by {error:.3g}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_conv2d_on_100_random_configurations(dtype):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        groups = int(rng.choice([1, 1, 2, 3]))
        kernel, dilation = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
        stride, padding = rng.integers(1, 4, 2), rng.integers(0, 4, 2)
        if rng.random() < 0.3:
            kernel[1], stride[1], dilation[1] = kernel[0], stride[0], dilation[0]
        shape = (int(rng.integers(1, 6)), groups * int(rng.integers(1, 5)), *(int(n) for n in rng.integers(13, 20, 2)))
        if rng.random() < 0.2:
            shape = shape[1:]  # one image
        weight = rng.standard_normal((groups * int(rng.integers(1, 5)), shape[-3] // groups, *kernel))
        bias = rng.standard_normal(len(weight)) if rng.random() < 0.7 else None
        settings = {
            "stride": tuple(int(s) for s in stride),
            "padding": tuple(int(p) for p in padding),
            "dilation": tuple(int(d) for d in dilation),
            "groups": groups,
        }
        if rng.random() < 0.2:
            settings |= {"stride": 1, "padding": str(rng.choice(["same", "valid"]))}
        where = f"seed {seed}, input {shape}, weight {weight.shape}, {settings}"
        call = lambda n, x, w, b, settings=settings: n.conv2d(x, w, b, **settings)
        compare(call, [rng.standard_normal(shape), weight, bias], dtype, where)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_pooling_on_100_random_configurations(kind, dtype):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 4)), *(int(n) for n in rng.integers(10, 17, 2)))
        shape = shape[1:] if rng.random() < 0.2 else shape
        kernel, square = [int(k) for k in rng.integers(1, 5, 2)], bool(rng.random() < 0.5)
        kernel[1] = kernel[0] if square else kernel[1]
        settings = {
            "kernel_size": kernel[0] if square else tuple(kernel),
            "stride": None if rng.random() < 0.3 else tuple(int(s) for s in rng.integers(1, 5, 2)),
            "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
            "ceil_mode": bool(rng.random() < 0.5),
        }
        if kind == "max_pool2d":
            settings["dilation"] = tuple(int(d) for d in rng.integers(1, 4, 2))
        elif kind == "avg_pool2d":
            settings["count_include_pad"] = bool(rng.random() < 0.5)
            settings["divisor_override"] = int(rng.integers(1, 6)) if rng.random() < 0.3 else None
        else:
            settings = {"output_size": tuple(int(n) for n in rng.integers(1, 20, 2))}
        call = lambda n, x, settings=settings: getattr(n, kind)(x, **settings)
        compare(call, [rng.standard_normal(shape)], dtype, f"seed {seed}, input {shape}, {settings}")


def test_the_largest_of_equal_values_and_nan():
    """Ties go to the first, NaN counts as the largest, as in PyTorch: small integers make many ties."""
    for seed in range(20):
        x = np.random.default_rng(seed).integers(0, 3, (2, 3, 7, 8)).astype(float)
        x[0, 0, seed % 7, seed % 8] = np.nan
        ours, theirs = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = F.max_pool2d(ours, 3, 2, 1), TF.max_pool2d(theirs, 3, 2, 1)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        y.backward(dy)
        z.backward(torch.tensor(dy))
        np.testing.assert_array_equal(y.data, z.detach().numpy())
        np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=0, atol=1e-14)


LAYERS = {
    "Conv2d": lambda n: n.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2),
    "Conv2d same": lambda n: n.Conv2d(4, 6, 3, padding="same", bias=False),
    "MaxPool2d": lambda n: n.MaxPool2d(3, 2, 1),
    "AvgPool2d": lambda n: n.AvgPool2d(3, 2, 1, count_include_pad=False),
    "AdaptiveAvgPool2d": lambda n: n.AdaptiveAvgPool2d((3, None)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_pytorchs_arguments_and_weights(name):
    ours, theirs = LAYERS[name](nn).double(), LAYERS[name](torch.nn).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8))
    np.testing.assert_allclose(ours(tensor(x)).data, theirs(torch.tensor(x)).detach().numpy(), rtol=0, atol=1e-12)


def test_initial_weights_have_pytorchs_distribution():
    """Uniform within 1 / sqrt(fan_in), weight and bias: no test of a fitted distribution rejects it."""
    ours, theirs = nn.Conv2d(8, 400, 3, groups=2), torch.nn.Conv2d(8, 400, 3, groups=2)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        b = b.detach().numpy()
        assert np.abs(a.data).max() <= 1 / 6  # fan_in 4 * 3 * 3
        assert a.data.std() == pytest.approx(b.std(), rel=0.1)
        assert np.abs(a.data).max() == pytest.approx(np.abs(b).max(), rel=0.05)
