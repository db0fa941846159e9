"""Every normalization function equals PyTorch's in value, gradients and running statistics."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, tensor

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
TF = torch.nn.functional

KINDS = ["batch_norm training", "batch_norm eval", "layer_norm", "group_norm", "instance_norm", "rms_norm"]
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}  # relative to the largest magnitude of the reference


def close(ours, reference, dtype, what):
    reference = reference.detach().numpy() if hasattr(reference, "detach") else reference
    scale = max(1.0, float(np.abs(reference).max(initial=0)))
    error = float(np.abs(ours - reference).max(initial=0)) / scale
    assert ours.dtype == dtype and ours.shape == reference.shape
    assert error <= TOLERANCE[dtype], f"{what}: off by {error:.3g}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_pytorch_on_100_random_configurations(kind, dtype):
    for seed in range(100):
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        least = 3 if kind == "instance_norm" else 2
        rank = int(rng.integers(least, 6))
        groups = int(rng.integers(1, 4))
        channels = groups * int(rng.integers(1, 5))
        # at least 8 values per statistic: with 2 or 3, float32 itself is no better than the tolerance
        shape = (int(rng.integers(8, 12)), channels, *(int(n) for n in rng.integers(3, 5, rank - 2)))
        if kind == "group_norm" and rank == 2:
            shape = (*shape, 8)
        if kind == "instance_norm" and len(shape) == 3:
            shape = (shape[0], channels, 9)
        normalized = shape[1:] if kind in ("layer_norm", "rms_norm") else (channels,)
        if kind in ("layer_norm", "rms_norm") and np.prod(normalized) < 8:
            shape = (*shape, 8)
            normalized = shape[1:]
        x, dy = rng.standard_normal((2, *shape)).astype(dtype)
        x = (x * rng.uniform(0.5, 2) + rng.uniform(-2, 2)).astype(dtype)
        w, b = rng.standard_normal((2, *normalized)).astype(dtype)
        mean, var = rng.standard_normal(channels).astype(dtype), rng.uniform(0.5, 2, channels).astype(dtype)
        w, b = (None if rng.random() < 0.2 else w), (None if rng.random() < 0.2 or kind == "rms_norm" else b)
        if kind == "group_norm" and w is None:
            b = None  # PyTorch's group_norm fails on a bias without a weight; ours is checked by gradcheck
        eps, momentum = float(10 ** rng.uniform(-6, -2)), float(rng.random())

        def call(library, x, mean, var, w, b, kind=kind, normalized=normalized, groups=groups, eps=eps, m=momentum):
            if kind.startswith("batch_norm"):
                return library.batch_norm(x, mean, var, w, b, kind.endswith("training"), m, eps)
            if kind == "instance_norm":
                return library.instance_norm(x, mean, var, w, b, True, m, eps)
            if kind == "group_norm":
                return library.group_norm(x, groups, w, b, eps)
            if kind == "layer_norm":
                return library.layer_norm(x, normalized, w, b, eps)
            return library.rms_norm(x, normalized, w, eps)

        ours = [None if a is None else tensor(a, requires_grad=True) for a in (x, w, b)]
        theirs = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        running, torch_running = (mean.copy(), var.copy()), (torch.tensor(mean), torch.tensor(var))
        y = call(F, ours[0], *running, *ours[1:])
        z = call(TF, theirs[0], *torch_running, *theirs[1:])
        y.backward(dy)
        z.backward(torch.tensor(dy))
        where = f"{kind} {dtype.__name__} seed {seed} shape {shape}"
        close(y.data, z, dtype, f"{where}: value")
        for name, a, c in zip(("x", "weight", "bias"), ours, theirs, strict=True):
            if a is not None:
                close(a.grad, c.grad, dtype, f"{where}: gradient of {name}")
        for name, a, c in zip(("running_mean", "running_var"), running, torch_running, strict=True):
            close(a, c, dtype, f"{where}: {name}")


def test_few_values_per_statistic():
    """2 to 7 values, in float64: the ill-conditioned end, where variances are small by chance."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        m, others = int(rng.integers(2, 8)), int(rng.integers(1, 5))
        batch, rows = rng.standard_normal((m, others)), rng.standard_normal((others, m))
        cases = [
            (batch, lambda n, x: n.batch_norm(x, None, None, training=True)),
            (rows, lambda n, x, m=m: n.layer_norm(x, (m,))),
            (rows, lambda n, x, m=m: n.rms_norm(x, (m,))),  # eps: the dtype's own
            (rows[None], lambda n, x: n.instance_norm(x)),
            (rows[:, None].repeat(2, 1), lambda n, x: n.group_norm(x, 2)),
        ]
        for i, (x, call) in enumerate(cases):
            a, b = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
            y, z = call(F, a), call(TF, b)
            dy = rng.standard_normal(x.shape)
            y.backward(dy)
            z.backward(torch.tensor(dy))
            close(y.data, z, np.float64, f"seed {seed} case {i}: value")
            close(a.grad, b.grad, np.float64, f"seed {seed} case {i}: gradient")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_instance_norm_with_given_statistics(dtype):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        x, dy = rng.standard_normal((2, 4, 3, 5)).astype(dtype)
        mean, w, b = rng.standard_normal((3, 3)).astype(dtype)
        var = rng.uniform(0.5, 2, 3).astype(dtype)
        ours = [tensor(a, requires_grad=True) for a in (x, w, b)]
        theirs = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = F.instance_norm(ours[0], mean, var, *ours[1:], use_input_stats=False)
        z = TF.instance_norm(theirs[0], torch.tensor(mean), torch.tensor(var), *theirs[1:], use_input_stats=False)
        y.backward(dy)
        z.backward(torch.tensor(dy))
        close(y.data, z, dtype, f"seed {seed}: value")
        for a, c in zip(ours, theirs, strict=True):
            close(a.grad, c.grad, dtype, f"seed {seed}: gradient")


def test_state_dict_goes_both_ways():
    ours = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3))
    t = torch.nn
    theirs = t.Sequential(t.Linear(4, 3), t.BatchNorm1d(3), t.LayerNorm(3), t.GroupNorm(1, 3))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    close(ours(tensor(x)).data, theirs(torch.tensor(x)), np.float32, "output")
    close(ours.state_dict()["1.running_var"], theirs.state_dict()["1.running_var"], np.float32, "running_var")
