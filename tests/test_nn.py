"""Modules: the tree of parameters and buffers, state, hooks, modes; initialization and dropout by their statistics."""

import copy
import dataclasses
import importlib
import inspect
import math
import pkgutil
import sys
import threading
from collections import OrderedDict

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, gradcheck, gradgradcheck, nn, optim, tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 1, bias=False)])

    def forward(self, x):
        h = self.body(x) * self.scale
        return [head(h) for head in self.heads]


def batch(n=5):
    return Tensor(np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32))


def test_every_layer_is_in_all():
    """But Folded, which fold_batch_norm makes and nobody else."""
    modules = [importlib.import_module(f"{nn.__name__}.{info.name}") for info in pkgutil.iter_modules(nn.__path__)]
    classes = {
        c for module in modules for c in vars(module).values() if inspect.isclass(c) and issubclass(c, nn.Module)
    }
    public = {c.__name__ for c in classes if not c.__name__.startswith("_")}
    assert public - set(nn.__all__) == {"Folded"}


def test_names_follow_the_order_of_assignment():
    net = Net()
    parameters = ["scale", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
    parameters += ["heads.0.weight", "heads.0.bias", "heads.1.weight"]
    assert [name for name, _ in net.named_parameters()] == parameters
    buffers = ["body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"]
    assert [name for name, _ in net.named_buffers()] == buffers
    assert list(net.state_dict()) == parameters[:5] + buffers + parameters[5:]
    names = ["", "body", "body.0", "body.1", "body.2", "heads", "heads.0", "heads.1"]
    assert [name for name, _ in net.named_modules()] == names
    assert [name for name, _ in net.named_children()] == ["body", "heads"]


def test_a_shared_parameter_counts_once_and_gets_both_gradients():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    net = nn.Sequential(first, second)
    assert len(list(net.parameters())) == 1
    x = tensor([[1.0, 2.0]])
    net(x).sum().backward()
    w = first.weight.data
    expected = np.outer([1, 1], x.data[0] @ w.T) + np.outer(w.sum(axis=0), x.data[0])
    np.testing.assert_allclose(first.weight.grad, expected, rtol=1e-6)


def test_train_and_eval_reach_every_module():
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train() is net and all(m.training for m in net.modules())


def test_state_dict_round_trip_gives_the_same_outputs():
    one, other = Net(), Net()
    one(batch())
    other.load_state_dict(one.state_dict())
    one.eval(), other.eval()
    for a, b in zip(one(batch()), other(batch()), strict=True):
        assert np.array_equal(a.data, b.data)


def test_state_dict_is_a_copy():
    net = Net()
    net.state_dict()["scale"][0] = 7
    assert net.scale.data[0] == 1


BROKEN = {
    "missing": (lambda s: s.pop("heads.1.weight"), ValueError, ["missing", "heads.1.weight"]),
    "unexpected": (lambda s: s.update(more=np.ones(1)), ValueError, ["unexpected", "more"]),
    "shape": (lambda s: s.update({"heads.1.weight": np.ones((1, 4), np.float32)}), ValueError, ["(1, 3)", "(1, 4)"]),
    "two things": (
        lambda s: s.update({"heads.1.weight": s.pop("scale"), "more": np.ones(1)}),
        ValueError,
        ["Net", "missing ['scale']", "unexpected ['more']", "'heads.1.weight'", "(1, 3)", "(1,)"],
    ),
    "dtype": (lambda s: s.update({"heads.1.weight": np.ones((1, 3))}), TypeError, ["float32", "float64"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_failed_load_changes_nothing(kind):
    spoil, error, words = BROKEN[kind]
    net = Net()
    before = net.state_dict()
    state = {k: v + 1 for k, v in Net().state_dict().items()}
    spoil(state)
    with pytest.raises(error) as caught:
        net.load_state_dict(state)
    assert all(word in str(caught.value) for word in words), caught.value
    assert all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())


def test_strict_false_loads_what_fits():
    net = Net()
    net.load_state_dict({"scale": np.array([3.0], np.float32), "other": np.zeros(2)}, strict=False)
    assert net.scale.data[0] == 3


def test_forward_hooks_see_and_replace_the_output():
    layer, seen = nn.Linear(4, 3), []
    watch = layer.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs[0].shape)))
    double = layer.register_forward_hook(lambda module, inputs, output: output * 2)
    doubled = layer(batch()).data
    double.remove()
    assert np.array_equal(doubled, 2 * layer(batch()).data)
    watch.remove()
    layer(batch())
    assert seen == [(layer, (5, 4))] * 2


def test_repr_shows_the_tree():
    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU()), nn.BatchNorm1d(3))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Linear(in_features=4, out_features=3, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "  )\n"
        "  (2): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)\n"
        ")"
    )


def test_deepcopy_is_independent():
    net = Net()
    clone = copy.deepcopy(net)
    assert [k for k, _ in clone.named_parameters()] == [k for k, _ in net.named_parameters()]
    for p in clone.parameters():
        p.data = p.data + 1
    clone(batch())
    assert net.scale.data[0] == 1 and net.body[1].num_batches_tracked == 0
    assert all(isinstance(p, nn.Parameter) for p in clone.parameters())


def test_double_and_float_convert_everything_but_counters():
    net = Net().double()
    assert {str(v.dtype) for v in net.state_dict().values()} == {"float64", "int64"}
    assert net(Tensor(batch().data.astype(np.float64)))[0].dtype == np.float64
    assert {str(v.dtype) for v in net.float().state_dict().values()} == {"float32", "int64"}


def test_zero_grad_and_requires_grad_():
    net = nn.Linear(4, 3)
    net(batch()).sum().backward()
    assert net.weight.grad is not None
    net.zero_grad()
    assert net.weight.grad is None
    net.requires_grad_(False)
    assert not net(batch()).requires_grad


def test_apply_visits_children_first():
    order = []
    nn.Sequential(nn.ReLU(), nn.Tanh()).apply(lambda m: order.append(type(m).__name__))
    assert order == ["ReLU", "Tanh", "Sequential"]


def test_containers_index_slice_and_append():
    net = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    assert len(net) == 3 and isinstance(net[-1], nn.Sigmoid)
    assert [type(m) for m in net[1:]] == [nn.Tanh, nn.Sigmoid]
    modules = nn.ModuleList([nn.ReLU()]).append(nn.Linear(2, 1))
    assert len(modules) == 2 and len(list(modules.parameters())) == 2


def test_assignment_before_init_says_what_is_missing():
    class Wrong(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="super"):
        Wrong()
    with pytest.raises(NotImplementedError, match="Module"):
        nn.Module()(1)


# initialization: mean and variance of many draws, within five standard errors

INITS = {  # name -> (function, variance, bound of the support or None)
    "uniform_": (lambda t: nn.init.uniform_(t, -2, 2), 4 / 3, 2.0),
    "normal_": (lambda t: nn.init.normal_(t, 0, 0.3), 0.09, None),
    "xavier_uniform_": (lambda t: nn.init.xavier_uniform_(t, 2.0), 4 * 2 / 500, 2 * math.sqrt(6 / 500)),
    "xavier_normal_": (nn.init.xavier_normal_, 2 / 500, None),
    "kaiming_uniform_": (lambda t: nn.init.kaiming_uniform_(t, nonlinearity="relu"), 2 / 300, math.sqrt(6 / 300)),
    "kaiming_normal_": (lambda t: nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="tanh"), 25 / 9 / 200, None),
}


@pytest.mark.parametrize("name", INITS)
def test_initializations_have_their_moments(name):
    fn, variance, bound = INITS[name]
    tb.manual_seed(0)
    t = nn.Parameter(np.empty((200, 300), np.float32))
    assert fn(t) is t
    x = t.data.astype(np.float64)
    kurtosis = 1.8 if bound else 3.0
    assert abs(x.mean()) < 5 * math.sqrt(variance / x.size)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / x.size)
    assert np.isclose((x**4).mean() / x.var() ** 2, kurtosis, rtol=0.05)
    if bound:
        assert np.abs(x).max() <= np.float32(bound) and np.abs(x).max() > 0.99 * bound


def test_constants():
    t = tensor(np.ones((2, 3)))
    assert np.array_equal(nn.init.constant_(t, 2.5).data, np.full((2, 3), 2.5))
    assert nn.init.zeros_(t).data.sum() == 0 and nn.init.ones_(t).data.sum() == 6


def test_linear_starts_uniform_within_one_over_root_fan_in():
    tb.manual_seed(0)
    layer = nn.Linear(400, 300)
    for p in (layer.weight, layer.bias):
        assert 0.97 / 20 < np.abs(p.data).max() <= 1 / 20


def test_a_convolution_starts_uniform_within_one_over_root_fan_in():
    """fan_in counts the channels of a group, and the places of the kernel."""
    tb.manual_seed(0)
    layer = nn.Conv2d(32, 200, (5, 5), groups=2)
    for p in (layer.weight, layer.bias):
        assert 0.97 / 20 < np.abs(p.data).max() <= 1 / 20


def test_dropout_zeroes_a_share_p_and_keeps_the_mean():
    tb.manual_seed(0)
    x = tensor(np.ones(100_000), requires_grad=True)
    y = nn.Dropout(0.3)(x)
    zeros = float((y.data == 0).mean())
    assert abs(zeros - 0.3) < 5 * math.sqrt(0.3 * 0.7 / x.size)
    assert np.allclose(y.data[y.data != 0], 1 / 0.7)
    y.sum().backward()
    assert np.array_equal(x.grad, y.data)  # the same mask backwards
    assert nn.Dropout(0.3).eval()(x) is x
    assert nn.Dropout(1.0)(x).data.sum() == 0 and nn.Dropout(0.0)(x) is x


# repeatability


def run(seed):
    tb.manual_seed(seed)
    x, y = tb.data.load_digits()
    net = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 10))
    sgd = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for images, labels in tb.data.DataLoader((x[:200], y[:200]), batch_size=32, shuffle=True):
        loss = F.cross_entropy(net(Tensor(images)), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return net.state_dict()


def test_manual_seed_makes_a_run_repeatable_to_the_bit():
    one, again, other = run(3), run(3), run(4)
    assert all(np.array_equal(one[k], again[k]) for k in one)
    assert not np.array_equal(one["0.weight"], other["0.weight"])


def test_threads_do_not_take_each_others_random_numbers():
    tb.manual_seed(5)
    alone = [nn.init.normal_(tensor(np.zeros(3))).data for _ in range(2)]
    tb.manual_seed(5)
    first = nn.init.normal_(tensor(np.zeros(3))).data
    thread = threading.Thread(target=lambda: nn.init.normal_(tensor(np.zeros(3))))
    thread.start()
    thread.join()
    assert np.array_equal([first, nn.init.normal_(tensor(np.zeros(3))).data], alone)


MODULES = {
    "Linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d eval": (lambda: nn.BatchNorm1d(3).eval(), (5, 3)),
    "BatchNorm1d without bias": (lambda: nn.BatchNorm1d(3, bias=False), (4, 3, 2)),
    "BatchNorm2d cumulative": (lambda: nn.BatchNorm2d(2, momentum=None), (3, 2, 2, 2)),
    "BatchNorm3d untracked": (lambda: nn.BatchNorm3d(2, track_running_stats=False), (2, 2, 2, 1, 2)),
    "BatchNorm2d without parameters": (lambda: nn.BatchNorm2d(2, affine=False), (3, 2, 2, 2)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3), (2, 3, 4)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), (2, 2, 2, 2)),
    "InstanceNorm2d eval": (lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True).eval(), (2, 2, 2, 2)),
    "InstanceNorm3d without bias": (lambda: nn.InstanceNorm3d(2, affine=True, bias=False), (1, 2, 2, 1, 2)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 2)), (2, 3, 2)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3)),
    "GroupNorm without bias": (lambda: nn.GroupNorm(2, 4, bias=False), (2, 4, 3)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (3, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, groups=2), (2, 2, 4, 3)),
    "Conv2d without bias": (lambda: nn.Conv2d(2, 2, 2, padding="same", bias=False), (2, 2, 3, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 2, 4, 5)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), (2, 2, 4, 5)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (2, 2, 3, 3)),
    "GhostBatchNorm1d": (lambda: nn.GhostBatchNorm1d(3, 2), (5, 3)),
    "GhostBatchNorm2d": (lambda: nn.GhostBatchNorm2d(2, 2), (3, 2, 2, 2)),
    "GhostBatchNorm2d eval": (lambda: nn.GhostBatchNorm2d(2, 2).eval(), (3, 2, 2, 2)),
    "BatchRenorm1d at the start": (lambda: nn.BatchRenorm1d(3), (5, 3)),
    "BatchRenorm2d eval": (lambda: nn.BatchRenorm2d(2, affine=False).eval(), (3, 2, 2, 2)),
    "DecorrelatedBatchNorm1d": (lambda: nn.DecorrelatedBatchNorm1d(3), (7, 3)),
    "DecorrelatedBatchNorm1d pca": (lambda: nn.DecorrelatedBatchNorm1d(3, method="pca"), (7, 3)),
    "DecorrelatedBatchNorm2d": (lambda: nn.DecorrelatedBatchNorm2d(4, group_size=2), (3, 4, 2, 2)),
    "DecorrelatedBatchNorm2d eval": (lambda: nn.DecorrelatedBatchNorm2d(2).eval(), (1, 2, 2, 2)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)), (6, 4)),
    "Dropout eval": (lambda: nn.Dropout(0.5).eval(), (3, 4)),
    "activations": (lambda: nn.Sequential(nn.Sigmoid(), nn.ReLU(), nn.Flatten(), nn.Identity()), (2, 2, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_modules(name):
    """Every parameter and the input, with random values of all parameters."""
    make, shape = MODULES[name]
    rng = np.random.default_rng(0)
    module = make().double()
    for p in module.parameters():
        p.data = rng.standard_normal(p.shape)
    inputs = [tensor(rng.standard_normal(shape), requires_grad=True), *module.parameters()]
    assert gradcheck(lambda x, *_: module(x), inputs)
    assert gradgradcheck(lambda x, *_: module(x), inputs)


LAYOUTS = {
    "transposed": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "repeated": lambda a: np.broadcast_to(a[..., :1], a.shape),  # stride 0, read-only
}


# where all values of a statistic are equal a norm is another function: its layouts are those that do not repeat values
IN_LAYOUTS = [(m, k) for m in MODULES for k in LAYOUTS if k != "repeated" or not ("orm" in m or m == "Sequential")]


@pytest.mark.parametrize(("name", "layout"), IN_LAYOUTS)
def test_modules_take_any_memory_layout_and_float32(name, layout):
    """The same values in another layout give the same output and gradients; in float32 they agree to its precision."""
    make, shape = MODULES[name]
    rng = np.random.default_rng(1)
    x = LAYOUTS[layout](rng.standard_normal(shape))
    module, results = make().double(), []
    parameters = {k: rng.standard_normal(p.shape) for k, p in module.named_parameters()}
    dy = None
    for array, dtype in ((x, np.float64), (np.array(x, order="C"), np.float64), (x.astype(np.float32), np.float32)):
        module = make().to(dtype)
        for k, p in module.named_parameters():
            p.data = parameters[k].astype(dtype)
        t = Tensor(array, requires_grad=True)
        y = module(t)
        dy = rng.standard_normal(y.shape) if dy is None else dy
        y.backward(dy.astype(dtype))
        assert y.dtype == dtype
        results.append([y.data, t.grad, *(p.grad for p in module.parameters())])
    for other, plain, single in zip(*results, strict=True):
        np.testing.assert_allclose(other, plain, rtol=0, atol=1e-12)
        np.testing.assert_allclose(single, plain, rtol=0, atol=1e-3 * max(1, np.abs(plain).max()))


EPS_MATTERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4, eps=1.0), (0,)),
    "LayerNorm": (lambda: nn.LayerNorm(4, eps=1.0), (1,)),
    "GroupNorm": (lambda: nn.GroupNorm(1, 4, eps=1.0), (1,)),
}


@pytest.mark.parametrize("name", EPS_MATTERS)
def test_norms_use_the_eps_they_were_given(name):
    make, axes = EPS_MATTERS[name]
    x = np.random.default_rng(0).standard_normal((6, 4))
    expected = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + 1.0)
    np.testing.assert_allclose(make().double()(tensor(x)).data, expected, rtol=0, atol=1e-12)
    if name == "BatchNorm1d":
        np.testing.assert_allclose(make().double().eval()(tensor(x)).data, x / np.sqrt(2), rtol=0, atol=1e-12)


def test_other_norms_use_their_eps_too():
    x = np.random.default_rng(0).standard_normal((6, 4))
    rms = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1.0)
    np.testing.assert_allclose(nn.RMSNorm(4, eps=1.0).double()(tensor(x)).data, rms, rtol=0, atol=1e-12)
    instances = nn.InstanceNorm1d(6, eps=1.0)(tensor(x[None])).data[0]
    expected = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1.0)
    np.testing.assert_allclose(instances, expected, rtol=0, atol=1e-12)


def test_groups_of_parameters_have_settings_of_their_own():
    a, b = (tensor([1.0], requires_grad=True) for _ in range(2))
    sgd = optim.SGD([{"params": [a], "lr": 0.5}, {"params": [b], "weight_decay": 2.0, "maximize": True}], lr=0.25)
    a.grad = b.grad = np.ones(1, np.float32)
    sgd.step()
    assert a.item() == 1 - 0.5 * 1 and b.item() == 1 - 0.25 * (-1 + 2 * 1)
    sgd.zero_grad()
    assert a.grad is None and b.grad is None


def test_momentum_follows_a_module_to_another_dtype():
    layer = nn.Linear(2, 1, bias=False)
    sgd = optim.SGD(layer.parameters(), lr=1.0, momentum=0.5)
    for step in range(2):
        layer.weight.data = np.zeros((1, 2), layer.weight.dtype)
        layer.weight.grad = np.ones((1, 2), layer.weight.dtype)
        sgd.step()
        assert layer.weight.data[0, 0] == -(1 + 0.5 * step)  # v = 1, then 0.5 v + 1
        layer.double()


@pytest.mark.parametrize("change", [lambda m: m.load_state_dict(m.state_dict()), lambda m: m.double()])
def test_loading_and_converting_count_as_changes(change):
    module = nn.Linear(2, 2)
    x = tensor([[1.0, 2.0]], requires_grad=True)
    y = module(x).sum()
    change(module)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_converting_takes_the_gradients_along_and_leaves_alone_what_has_the_dtype():
    module = nn.Linear(2, 2)
    module(tensor([[1.0, 2.0]])).sum().backward()
    before = [p.grad for p in module.parameters()]
    twin, array = module.weight.detach(), module.weight.data
    module.float()  # nothing to do: memory stays shared
    assert module.weight.data is array and np.shares_memory(twin.data, module.weight.data)
    for p, g in zip(module.double().parameters(), before, strict=True):
        assert p.dtype == p.grad.dtype == np.float64 and np.array_equal(p.grad, g)


def test_a_deep_copy_keeps_tied_weights_tied():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    twin = copy.deepcopy(nn.Sequential(a, b))
    assert twin[0].weight is twin[1].weight is not a.weight


def test_a_state_loads_into_read_only_parameters():
    module = nn.Linear(2, 1)
    state = {k: v + 1 for k, v in module.state_dict().items()}
    for p in module.parameters():
        p.data.flags.writeable = False
    module.load_state_dict(state)
    for k, v in module.state_dict().items():
        np.testing.assert_array_equal(v, state[k])


def test_a_removed_hook_does_not_take_a_newer_one_with_it():
    module, calls = nn.Identity(), []
    first = module.register_forward_hook(lambda *_: calls.append("first"))
    first.remove()
    module.register_forward_hook(lambda *_: calls.append("second"))
    first.remove()
    module(tensor([1.0]))
    assert calls == ["second"]


def test_a_pre_hook_may_return_all_inputs():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    module = Sum()
    module.register_forward_pre_hook(lambda _, args: (args[0] * 10, args[1]))
    assert module(tensor([1.0]), tensor([2.0])).item() == 12


def test_what_a_pre_hook_returns_is_the_input():
    module, seen = nn.ReLU(), []
    double = module.register_forward_pre_hook(lambda _, args: args[0] * 2)
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].item()))
    assert module(tensor([3.0])).item() == 6 and seen == [6]
    double.remove()
    assert module(tensor([3.0])).item() == 3 and seen == [6, 3]


def test_norms_without_bias():
    for module in (
        nn.BatchNorm1d(4, bias=False),
        nn.InstanceNorm1d(4, affine=True, bias=False),
        nn.GroupNorm(2, 4, bias=False),
    ):
        assert module.bias is None and [name for name, _ in module.named_parameters()] == ["weight"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes on errors came with Python 3.11")
def test_an_error_in_a_sequential_names_the_layer():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.ReLU(), nn.BatchNorm1d(5)))
    with pytest.raises(ValueError) as caught:
        net(tensor(np.ones((2, 3), np.float32)))
    inner, outer = caught.value.__notes__
    assert inner == "raised in layer 2 of a Sequential, BatchNorm1d"
    assert outer == "raised in layer 1 of a Sequential, Sequential"


# what takes the place of a parameter, a buffer or a module


TAKEN = {
    "a tensor as weight": (
        lambda m: setattr(m, "weight", tensor(np.ones(2))),
        ["weight", "Parameter or None", "Tensor"],
    ),
    "an array": (lambda m: setattr(m, "weight", np.ones(2)), ["weight", "Parameter or None", "ndarray"]),
    "a list": (lambda m: setattr(m, "bias", [1.0, 2.0]), ["bias", "Parameter or None", "list"]),
    "a number": (lambda m: setattr(m, "bias", 3), ["bias", "Parameter or None", "int"]),
    "a module as weight": (lambda m: setattr(m, "weight", nn.ReLU()), ["weight", "Parameter or None", "ReLU"]),
    "a list as buffer": (lambda m: setattr(m, "running_mean", [0.0, 0.0]), ["running_mean", "array or None", "list"]),
    "a tensor as buffer": (lambda m: setattr(m, "running_var", tensor([1.0])), ["running_var", "array or None"]),
    "a number as buffer": (lambda m: setattr(m, "num_batches_tracked", 0), ["num_batches_tracked", "array or None"]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_nothing_else_takes_the_place_of_a_parameter_or_buffer(kind):
    assign, words = TAKEN[kind]
    module = nn.BatchNorm1d(2)
    before = module.state_dict()
    with pytest.raises(TypeError) as caught:
        assign(module)
    assert all(word in str(caught.value) for word in words), caught.value
    assert list(module.state_dict()) == list(before) and len(list(module.parameters())) == 2


def test_none_may_and_a_parameter_in_its_place():
    for layer in (nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.Conv2d(1, 2, 1, bias=False)):
        layer.bias = None
        assert list(layer.state_dict()) == ["weight"]
        with pytest.raises(TypeError, match="bias is a parameter"):
            layer.bias = tensor([1.0, 2.0])
        layer.bias = nn.Parameter(np.zeros(2, np.float32))
        assert list(layer.state_dict()) == ["weight", "bias"] and len(list(layer.parameters())) == 2
    norm = nn.LayerNorm(2, elementwise_affine=False)
    with pytest.raises(TypeError, match="weight is a parameter"):
        norm.weight = np.ones(2)
    del norm.weight
    norm.weight = np.ones(2)  # the name is free
    net = nn.Sequential(nn.ReLU())
    with pytest.raises(TypeError, match="0 is a module and must be a Module or None, got function"):
        setattr(net, "0", lambda x: x)
    net.register_parameter("scale", None)
    assert "scale" not in net.state_dict()
    net.scale = nn.Parameter(np.ones(1))
    assert "scale" in net.state_dict()
    for name, error in (("0", ValueError), ("forward", ValueError), (3, ValueError)):
        with pytest.raises(error, match="name must"):
            net.register_parameter(name, None)
    with pytest.raises(TypeError, match="value of parameter 'w' must be"):
        net.register_parameter("w", np.ones(1))


# modules with methods of their own


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class Quiet(nn.Linear):
    """Its state has other names, and a version."""

    def state_dict(self):
        return {"version": np.array(2), **{k.upper(): v for k, v in super().state_dict().items()}}

    def load_state_dict(self, state_dict, strict=True):
        if state_dict.get("version") != 2:
            raise ValueError("a version of another kind")
        return super().load_state_dict({k.lower(): v for k, v in state_dict.items() if k != "version"}, strict)


def test_a_frozen_norm_stays_frozen_inside_of_a_net():
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Frozen(3), nn.Dropout(0.5)))
    net.train()
    net(tensor(np.ones((4, 3), np.float32)))
    norm, dropout = net[1]
    assert not norm.training and dropout.training and norm.num_batches_tracked == 0 and not norm.running_mean.any()


def test_eval_of_a_child_is_asked_too():
    class Sampling(nn.Dropout):
        def eval(self):
            return self.train()

    net = nn.Sequential(Sampling(0.5), nn.Dropout(0.5)).eval()
    assert net[0].training and not net[1].training


def test_a_childs_own_state_goes_through_the_net():
    net, other = (nn.Sequential(nn.Linear(2, 2), nn.Sequential(Quiet(2, 2))) for _ in range(2))
    state = net.state_dict()
    assert list(state) == ["0.weight", "0.bias", "1.0.version", "1.0.WEIGHT", "1.0.BIAS"]
    assert other.load_state_dict(state) == ([], [])
    assert all(np.array_equal(a.data, b.data) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    before = other.state_dict()
    for spoil, error in (({"1.0.version": np.array(1)}, "another kind"), ({"1.0.WEIGHT": np.ones((1, 2))}, "shape")):
        changed = {k: v + 1 for k, v in state.items()} | {"1.0.version": np.array(2), **spoil}
        with pytest.raises(ValueError, match=error):
            other.load_state_dict(changed)
        assert all(np.array_equal(v, before[k]) for k, v in other.state_dict().items())


def test_when_the_last_of_several_fails_the_first_are_as_before():
    net = nn.Sequential(Quiet(2, 2), nn.BatchNorm1d(2), Quiet(2, 2))
    before = net.state_dict()
    changed = {k: v + 1 for k, v in before.items()} | {"0.version": np.array(2)}
    objects = [*net.parameters(), *net.buffers()]
    with pytest.raises(ValueError, match="another kind"):
        net.load_state_dict(changed)
    assert all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(a is b for a, b in zip([*net.parameters(), *net.buffers()], objects, strict=True))


def test_missing_and_unexpected_names_are_returned():
    net = nn.Sequential(nn.Linear(2, 2), Quiet(2, 1))
    state = net.state_dict()
    assert repr(net.load_state_dict(state)) == "<All keys matched successfully>"
    del state["0.bias"], state["1.BIAS"]
    keys = net.load_state_dict({**state, "other": np.zeros(1), "1.more": np.zeros(2), "0.a.b": 3}, strict=False)
    assert sorted(keys.missing_keys) == ["0.bias", "1.bias"]
    assert sorted(keys.unexpected_keys) == ["0.a.b", "1.more", "other"]
    assert keys == (keys.missing_keys, keys.unexpected_keys) and "missing_keys=['0.bias'" in repr(keys)


@pytest.mark.parametrize("count", [np.array([3]), np.array(3, np.int32), np.array([3], np.uint8), None])
def test_batch_counts_as_older_versions_wrote_them(count):
    norm = nn.BatchNorm1d(2)
    norm.num_batches_tracked += 5
    state = {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
    norm.load_state_dict({**state, **({} if count is None else {"num_batches_tracked": count})})
    assert norm.num_batches_tracked == (5 if count is None else 3)
    assert norm.num_batches_tracked.dtype == np.int64 and norm.num_batches_tracked.shape == ()
    for bad, error in ((np.array(3.0), TypeError), (np.array([3, 4]), ValueError)):
        with pytest.raises(error, match="num_batches_tracked"):
            norm.load_state_dict({**state, "num_batches_tracked": bad})


# containers


def test_a_sequential_with_names():
    net = nn.Sequential(OrderedDict(body=nn.Linear(2, 3), act=nn.ReLU(), head=nn.Linear(3, 1)))
    assert list(net.state_dict()) == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert net.body is net[0] and list(net[1:].state_dict()) == ["head.weight", "head.bias"]
    net[1] = nn.Tanh()
    assert [name for name, _ in net.named_children()] == ["body", "act", "head"] and isinstance(net.act, nn.Tanh)
    del net[1]
    assert [name for name, _ in net.named_children()] == ["body", "head"]
    assert net.append(nn.ReLU()) is net and [name for name, _ in net.named_children()] == ["body", "head", "2"]
    for bad, error in (({"forward": nn.ReLU()}, ValueError), ({"a.b": nn.ReLU()}, TypeError), ({"a": 3}, TypeError)):
        with pytest.raises(error):
            nn.Sequential(bad)


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
def test_containers_are_edited_like_lists(kind):
    layers = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh()]
    net = kind(*layers) if kind is nn.Sequential else kind(layers)
    net[-1] = nn.Sigmoid()
    net.append(nn.ReLU())
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Linear", "Sigmoid", "ReLU"]
    del net[1], net[-2:]
    assert list(net) == [layers[0], layers[2]] and list(net.state_dict())[2:] == ["1.weight", "1.bias"]
    for bad in (2, -3):
        with pytest.raises(IndexError, match="index must lie in"):
            net[bad] = nn.ReLU()
        with pytest.raises(IndexError, match="index must lie in"):
            del net[bad]
    with pytest.raises(TypeError, match="holds Modules, got function"):
        net[0] = lambda x: x
    assert list(net) == [layers[0], layers[2]]


def test_what_is_appended_to_a_slice_takes_nobodys_place():
    part = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh())[1:]  # with the names 1 and 2
    part.append(nn.Sigmoid())
    assert [type(m).__name__ for m in part] == ["ReLU", "Tanh", "Sigmoid"]


# running statistics that are switched on and off


def test_statistics_that_are_there_are_used_in_eval_also_when_they_are_no_longer_tracked():
    norm, x = nn.BatchNorm1d(2, eps=0.0), tensor([[1.0, 0.0], [3.0, 20.0]])
    norm(x)
    before = {k: v.copy() for k, v in norm.named_buffers()}
    norm.track_running_stats = False
    np.testing.assert_allclose(norm(x).data, [[-1, -1], [1, 1]], rtol=1e-6)  # the batch's, and they stay
    assert all(np.array_equal(v, before[k]) for k, v in norm.named_buffers())
    y = norm.eval()(x).data
    expected = (x.data - before["running_mean"]) / np.sqrt(before["running_var"])
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    norm.train().track_running_stats = True
    norm(x)
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_tracking_switched_on_without_statistics(momentum):
    norm, x = nn.BatchNorm1d(2, momentum=momentum, track_running_stats=False), tensor([[1.0, 0.0], [3.0, 20.0]])
    norm.track_running_stats = True
    y = norm(x)
    assert norm.running_mean is None and np.array_equal(norm.eval()(x).data, y.data)  # as PyTorch: nothing to move
    norm.train().reset_running_stats()  # here they begin
    norm(x)
    np.testing.assert_allclose(norm.running_mean, np.array([2.0, 10.0]) * (momentum or 1), rtol=1e-6)
    assert list(norm.state_dict())[-1] == "num_batches_tracked" and norm.num_batches_tracked == 1


@pytest.mark.parametrize("kind", ["GhostBatchNorm1d", "BatchRenorm1d", "DecorrelatedBatchNorm1d", "InstanceNorm1d"])
def test_relatives_of_batch_norm_stop_and_start_moving(kind):
    rng = np.random.default_rng(0)
    more = {"GhostBatchNorm1d": {"ghost_size": 2}, "BatchRenorm1d": {"warmup": 0}}.get(kind, {})
    more |= {"track_running_stats": True} if kind == "InstanceNorm1d" else {}
    norm = getattr(nn, kind)(3, **more).double()
    x, bad = (rng.standard_normal((6, 3, 4)) for _ in range(2))
    bad[0, 0, 0] = np.nan
    norm(tensor(x))
    before = {k: v.copy() for k, v in norm.named_buffers()}
    norm.track_running_stats = False
    norm(tensor(bad))
    norm.eval()(tensor(bad))
    assert all(np.array_equal(v, before[k]) for k, v in norm.named_buffers())
    norm.train().track_running_stats = True
    norm(tensor(x))
    assert not np.array_equal(norm.running_mean, before["running_mean"])


# what a failed load leaves behind, and other ways to lose something


class Bad(nn.Linear):
    """It changes what it can before it fails."""

    def load_state_dict(self, state_dict, strict=True):
        self.bias, self.more = None, nn.Parameter(np.ones(1))
        self.weight.data = self.weight.data + 1
        self.double()
        raise ValueError("bad")


def test_a_failed_load_leaves_memory_attributes_and_graphs_as_they_were():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), Bad(2, 2))
    tied, twin = nn.Parameter(net[0].weight.data.T), net[2].weight.detach()
    x = tensor([[1.0, 2.0], [3.0, 5.0]])
    loss = net(x).sum()
    arrays, before = [p.data for p in net.parameters()], net.state_dict()
    with pytest.raises(ValueError, match="in 2: bad"):
        net.load_state_dict({k: v + 1 for k, v in before.items()})
    assert all(p.data is array for p, array in zip(net.parameters(), arrays, strict=True))
    assert list(net.state_dict()) == list(before)
    assert all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())
    assert np.shares_memory(tied.data, net[0].weight.data) and np.shares_memory(twin.data, net[2].weight.data)
    loss.backward()  # nothing that the graph needs has changed


def test_read_only_buffers_are_replaced_and_a_count_is_looked_at_before_anything_moves():
    norm = nn.BatchNorm1d(2)
    for buffer in norm.buffers():
        buffer.flags.writeable = False
    state = {k: v + 1 for k, v in norm.state_dict().items()}
    norm.load_state_dict(state)
    assert all(np.array_equal(v, state[k]) for k, v in norm.state_dict().items())
    norm.num_batches_tracked.flags.writeable = False
    mean = norm.running_mean.copy()
    with pytest.raises(ValueError, match="num_batches_tracked must be writable"):
        norm(tensor([[1.0, 2.0], [3.0, 5.0]]))
    with pytest.raises(ValueError, match="num_batches_tracked must be writable"):
        nn.utils.recompute_statistics(norm, [np.ones((3, 2), np.float32)])
    assert np.array_equal(norm.running_mean, mean) and norm.training
    norm.reset_running_stats()
    assert norm.num_batches_tracked == 0 and not norm.running_mean.any()


def test_names_with_dots_at_odd_places_are_unexpected():
    layer = nn.Linear(1, 1)
    state = layer.state_dict()
    extra = {"weight.": state["weight"] + 1, ".bias": state["bias"], "weight.x": state["bias"], 3: state["bias"]}
    keys = layer.load_state_dict({**state, **extra}, strict=False)
    assert keys.unexpected_keys == list(extra) and np.array_equal(layer.weight.data, state["weight"])
    with pytest.raises(ValueError, match="no dot"):
        setattr(layer, "a.b", nn.ReLU())
    assert not hasattr(layer, "a.b")


@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_states_in_another_byte_order_load(dtype):
    layer = nn.Linear(2, 1)
    state = {k: (v + 1).astype(dtype) for k, v in layer.state_dict().items()}
    layer.load_state_dict(state)
    assert all(np.array_equal(v, state[k]) and v.dtype.isnative for k, v in layer.state_dict().items())


def test_what_is_hidden_from_setattr_is_no_child():
    net, teacher = nn.Sequential(nn.Linear(2, 2)), nn.Linear(3, 3)
    object.__setattr__(net, "teacher", teacher)
    assert len(list(net.parameters())) == 2 and list(net.state_dict()) == ["0.weight", "0.bias"]


def test_a_shallow_copy_has_kinds_of_its_own():
    norm = nn.BatchNorm1d(2)
    twin = copy.copy(norm)
    del twin.running_mean
    twin.register_buffer("more", np.zeros(1))
    twin.register_forward_hook(lambda *_: None)
    assert list(norm.state_dict())[2] == "running_mean" and "more" not in norm.state_dict() and not norm._hooks
    assert twin.weight is norm.weight


def test_numbers_without_axes_may_be_counted_up_and_a_parameter_is_no_buffer():
    module = nn.Module()
    module.register_buffer("steps", np.zeros((), np.int64))
    module.steps = module.steps + 1
    assert module.steps.shape == () and module.state_dict()["steps"] == 1
    norm = nn.BatchNorm1d(2)
    with pytest.raises(TypeError, match="running_mean is a buffer"):
        norm.running_mean = nn.Parameter(np.zeros(2))


def test_a_state_that_is_no_dict_is_named():
    class Nothing(nn.ReLU):
        def state_dict(self):
            return None

    with pytest.raises(TypeError, match=r"state_dict\(\) of Nothing must return a dict"):
        nn.Sequential(Nothing()).state_dict()


@dataclasses.dataclass
class Alike(nn.Module):
    """Modules of one size are equal, and have no hash."""

    size: int

    def __post_init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(self.size)

    def forward(self, x):
        return self.norm(x)


def test_modules_may_compare_as_they_like():
    class Equal(nn.BatchNorm1d):
        def __eq__(self, other):
            return isinstance(other, Equal)

        def __hash__(self):
            return 0

    net = nn.Sequential(Equal(2), nn.Linear(2, 2), Equal(2), Alike(2), Alike(2))
    x = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    nn.utils.recompute_statistics(net, [x])
    np.testing.assert_allclose(net[0].running_mean, x.mean(axis=0), atol=1e-6)
    assert not np.allclose(net[2].running_mean, net[0].running_mean)
    calls = nn.summary(net, x).layers
    assert [layer.calls for layer in calls if layer.type == "Equal"] == [1, 1]
    assert list(nn.watch.batch_statistics(net, x)) == ["0", "1", "2", "3.norm", "4.norm"]
