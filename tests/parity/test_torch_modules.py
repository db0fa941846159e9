"""Modules, initial distributions and whole training runs equal PyTorch's."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim, tensor

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")

LAYERS = {  # name -> (constructor for either library, shape of the input)
    "BatchNorm1d": (lambda n: n.BatchNorm1d(3, momentum=0.3), (6, 3)),
    "BatchNorm1d, positions": (lambda n: n.BatchNorm1d(3), (6, 3, 4)),
    "BatchNorm1d, momentum None": (lambda n: n.BatchNorm1d(3, momentum=None), (6, 3)),
    "BatchNorm2d, not affine": (lambda n: n.BatchNorm2d(3, affine=False), (4, 3, 2, 5)),
    "BatchNorm2d, not tracking": (lambda n: n.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 5)),
    "BatchNorm2d, no bias": (lambda n: n.BatchNorm2d(3, bias=False), (4, 3, 2, 5)),
    "InstanceNorm2d, no bias": (lambda n: n.InstanceNorm2d(3, affine=True, bias=False), (4, 3, 2, 5)),
    "GroupNorm, no bias": (lambda n: n.GroupNorm(2, 6, bias=False), (3, 6, 2, 2)),
    "BatchNorm3d": (lambda n: n.BatchNorm3d(2, eps=1e-3), (3, 2, 2, 2, 3)),
    "InstanceNorm1d": (lambda n: n.InstanceNorm1d(3), (4, 3, 5)),
    "InstanceNorm1d, no batch axis": (lambda n: n.InstanceNorm1d(3), (3, 5)),
    "InstanceNorm2d, affine, tracking": (
        lambda n: n.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (4, 3, 2, 5),
    ),
    "InstanceNorm3d": (lambda n: n.InstanceNorm3d(2, affine=True), (3, 2, 2, 2, 3)),
    "LayerNorm": (lambda n: n.LayerNorm((3, 4)), (5, 3, 4)),
    "LayerNorm, no bias": (lambda n: n.LayerNorm(4, bias=False), (5, 4)),
    "GroupNorm": (lambda n: n.GroupNorm(2, 6), (3, 6, 2, 2)),
    "GroupNorm, not affine": (lambda n: n.GroupNorm(3, 6, affine=False), (3, 6, 4)),
    "RMSNorm": (lambda n: n.RMSNorm(5), (4, 5)),
    "Linear": (lambda n: n.Linear(5, 2), (3, 5)),
    "Linear, no bias": (lambda n: n.Linear(5, 2, bias=False), (2, 3, 5)),
    "Flatten": (lambda n: n.Flatten(), (2, 3, 4)),
    "Tanh": (lambda n: n.Tanh(), (3, 4)),
}


def close(ours, reference):
    reference = reference.detach().numpy() if hasattr(reference, "detach") else reference
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12 * max(1.0, float(np.abs(reference).max(initial=0))))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_training_and_then_in_eval(name):
    make, shape = LAYERS[name]
    ours, theirs = make(nn).double(), make(torch.nn).double()
    rng = np.random.default_rng(0)
    state = {
        k: rng.uniform(0.5, 2, v.shape) if v.dtype == np.float64 else v.copy() for k, v in ours.state_dict().items()
    }
    assert list(state) == list(theirs.state_dict())
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x, dy = rng.standard_normal(shape), None
        a, b = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = ours(a), theirs(b)
        dy = rng.standard_normal(y.shape)
        y.backward(dy)
        z.backward(torch.tensor(dy))
        close(y.data, z)
        close(a.grad, b.grad)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            close(p.grad, q.grad)
        for k, v in theirs.state_dict().items():
            if k != "num_batches_tracked" or "Instance" not in name:  # PyTorch's instance norm never counts
                close(ours.state_dict()[k], v.numpy())


def build(n):
    return n.Sequential(
        n.Linear(64, 32), n.BatchNorm1d(32), n.ReLU(), n.Linear(32, 16), n.LayerNorm(16), n.Tanh(), n.Linear(16, 10)
    )


def test_a_training_run_of_200_steps_follows_pytorchs():
    """Same start, same batches, float64: after 200 steps weights, losses and running statistics agree to 1e-9."""
    from tinygrad_bn.data import load_digits

    x, y = load_digits()
    x = x.astype(np.float64)
    theirs, ours = build(torch.nn).double(), build(nn).double()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
    a, b = optim.SGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    for step in range(200):
        rows = np.random.default_rng(step).choice(len(x), 32, replace=False)
        loss = F.cross_entropy(ours(tensor(x[rows])), y[rows])
        reference = torch.nn.functional.cross_entropy(theirs(torch.tensor(x[rows])), torch.tensor(y[rows]))
        assert abs(loss.item() - reference.item()) < 1e-9, step
        a.zero_grad(), b.zero_grad()
        loss.backward(), reference.backward()
        a.step(), b.step()
    for k, v in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[k], v.numpy(), rtol=0, atol=1e-9, err_msg=k)


INITS = ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"]


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("shape", [(200, 300), (40, 30, 3, 3)])
def test_initial_spread_equals_pytorchs(name, shape):
    ours = nn.Parameter(np.empty(shape))
    theirs = torch.empty(shape)
    getattr(nn.init, name)(ours, generator=np.random.default_rng(0))
    getattr(torch.nn.init, name)(theirs, generator=torch.Generator().manual_seed(0))
    assert ours.data.std() == pytest.approx(float(theirs.std()), rel=0.03)


@pytest.mark.parametrize("length", [2, 3, 10, 100])
@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
def test_float32_error_at_a_large_mean_is_never_above_pytorchs(kind, length):
    """x = 1e4 + noise: the error against float64 on the same float32 input."""
    functions = {"batch_norm": lambda n, t: n.batch_norm(t, None, None, training=True)}
    functions["layer_norm"] = lambda n, t: n.layer_norm(t, (t.shape[1],))
    call, worse = functions[kind], 0
    for seed in range(20):
        shape = (length, 16) if kind == "batch_norm" else (16, length)
        x = (1e4 + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
        exact = call(torch.nn.functional, torch.tensor(x).double()).numpy()
        ours = np.abs(call(F, tensor(x)).data - exact).max()
        theirs = np.abs(call(torch.nn.functional, torch.tensor(x)).numpy() - exact).max()
        worse += ours > theirs + 1.2e-7 * np.abs(exact).max()  # one rounding of the result is nobody's fault
    assert worse == 0
