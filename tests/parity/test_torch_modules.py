"""Modules, initial distributions and whole training runs equal PyTorch's."""

from collections import OrderedDict

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


# what is switched, exchanged and assigned between steps


EDITS = {
    "tracking off": [
        ("train", True),
        ("track", False),
        ("train", True),
        ("train", False),
        ("track", True),
        ("train", 1),
    ],
    "off in eval": [("train", True), ("train", False), ("track", False), ("train", False), ("train", True)],
    "momentum": [("train", True), ("momentum", None), ("train", True), ("momentum", 0.5), ("train", True)],
    "reset": [("train", True), ("reset", None), ("train", True), ("train", False)],
}


# without statistics PyTorch's reset raises
@pytest.mark.parametrize(("case", "built"), [(c, b) for c in EDITS for b in (True, False) if b or c != "reset"])
def test_a_norm_that_is_switched_between_forwards(case, built):
    rng = np.random.default_rng(0)
    ours, theirs = (n.BatchNorm1d(3, track_running_stats=built).double() for n in (nn, torch.nn))
    for what, value in EDITS[case]:
        for norm in (ours, theirs):
            if what == "train":
                norm.train(bool(value))
            elif what == "track":
                norm.track_running_stats = value
            elif what == "momentum":
                norm.momentum = value
            else:
                norm.reset_running_stats()
        x = rng.standard_normal((5, 3))
        close(ours(tensor(x)).data, theirs(torch.tensor(x)))
        for name, value in theirs.named_buffers():
            close(getattr(ours, name), value.double())


class OursFrozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class TheirsFrozen(torch.nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


def test_a_frozen_norm_in_a_net():
    x = np.random.default_rng(0).standard_normal((5, 3))
    for net, batch in (
        (nn.Sequential(OursFrozen(3), nn.Dropout(0.5)).double(), tensor(x)),
        (torch.nn.Sequential(TheirsFrozen(3), torch.nn.Dropout(0.5)).double(), torch.tensor(x)),
    ):
        net.train()
        net(batch)
        assert [m.training for m in net.modules()] == [True, False, True]
        assert int(net[0].num_batches_tracked) == 0


WRONG = [lambda t: t([1.0, 2.0]), lambda t: np.ones(2), lambda t: [1.0], lambda t: 3]


@pytest.mark.parametrize("value", WRONG)
def test_what_may_not_take_a_parameters_place(value):
    for library, tensors in ((nn, tensor), (torch.nn, torch.tensor)):
        for layer in (library.Linear(2, 2), library.BatchNorm1d(2), library.Linear(2, 2, bias=False)):
            with pytest.raises(TypeError):
                layer.bias = value(tensors)
            layer.bias = None
            assert "weight" in layer.state_dict() and "bias" not in layer.state_dict()


def test_names_of_containers_and_returned_keys():
    for library in (nn, torch.nn):
        net = library.Sequential(OrderedDict(a=library.Linear(2, 2), b=library.ReLU(), c=library.Linear(2, 1)))
        assert list(net[1:].state_dict()) == ["c.weight", "c.bias"]
        net[0] = library.Linear(2, 2, bias=False)
        assert list(net.state_dict()) == ["a.weight", "c.weight", "c.bias"]
        plain = library.Sequential(library.Linear(2, 2), library.ReLU(), library.Linear(2, 1))
        del plain[1]
        assert list(plain.append(library.Tanh()).state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        state = dict(plain.state_dict())
        del state["0.bias"]
        keys = plain.load_state_dict({**state, "other": state["1.bias"]}, strict=False)
        assert keys.missing_keys == ["0.bias"] and keys.unexpected_keys == ["other"]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 2), (0, 3, 2), (2, 3, 0)])
def test_cross_entropy_for_each_position(shape, reduction):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal(shape), rng.integers(0, 3, (shape[0], *shape[2:]))
    target = np.where(rng.random(target.shape) < 0.2, -100, target)
    for ours, theirs, z in (
        (F.cross_entropy, torch.nn.functional.cross_entropy, x),
        (F.nll_loss, torch.nn.functional.nll_loss, np.log(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True))),
    ):
        a, b = tensor(z, requires_grad=True), torch.tensor(z, requires_grad=True)
        loss, reference = ours(a, target, reduction=reduction), theirs(b, torch.tensor(target), reduction=reduction)
        assert loss.shape == tuple(reference.shape)
        dy = rng.standard_normal(loss.shape)
        np.testing.assert_allclose(loss.data, reference.detach().numpy(), rtol=1e-12)
        loss.backward(dy), reference.backward(torch.tensor(dy))
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kw", [{}, {"axis": 0}, {"axis": (0, 2), "keepdims": True}])
def test_the_standard_deviation_and_its_gradient(kw):
    x = np.random.default_rng(0).standard_normal((3, 2, 4))
    x[:, 0] = 2.0  # where it is 0 PyTorch's gradient is 0
    a, b = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = a.std(ddof=1, **kw)
    z = b.std(dim=kw.get("axis"), correction=1, keepdim=kw.get("keepdims", False))
    y.sum().backward(), z.sum().backward()
    close(y.data, z), close(a.grad, b.grad)
