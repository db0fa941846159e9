"""nn.summary(): shapes, numbers of parameters and the place of statistics are right, and the model is as before."""

import re

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.runtime.random import default_generator


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cnn():
    tb.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 4 * 4, 10), nn.LayerNorm(10), nn.Dropout(0.5)),
    )


def fingerprint(model):
    """All that must not change: parameters, buffers (and which arrays they are), gradients, modes, hooks."""
    return {
        "state": {name: (value.tobytes(), value.dtype) for name, value in model.state_dict().items()},
        "arrays": [id(b) for b in model.buffers()],
        "changes": [p._version[0] for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(dict(m._hooks), dict(m._pre_hooks)) for m in model.modules()],
    }


def test_the_layers_of_a_cnn():
    layers = nn.summary(cnn(), array(5, 1, 8, 8)).layers
    shapes = [(5, 10), (5, 4, 8, 8), (5, 4, 8, 8), (5, 4, 8, 8), (5, 4, 4, 4), (5, 64), (5, 10), (5, 10), (5, 10)]
    assert [layer.output for layer in layers] == shapes
    assert [layer.name for layer in layers] == ["", *map(str, range(8))]
    kinds = ["Sequential", "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "LayerNorm", "Dropout"]
    assert [layer.type for layer in layers] == kinds
    assert [layer.trainable for layer in layers] == [0, 4 * 9 + 4, 4 + 4, 0, 0, 0, 64 * 10 + 10, 10 + 10, 0]
    assert [layer.buffers for layer in layers] == [0, 0, 4 + 4 + 1, 0, 0, 0, 0, 0, 0]
    assert all(layer.calls == 1 and layer.frozen == 0 for layer in layers)


def test_totals_are_those_of_the_state():
    net = cnn()
    net[0].requires_grad_(False)
    net[5].bias.requires_grad = False
    found = nn.summary(net, array(5, 1, 8, 8))
    parameters = list(net.parameters())
    assert found.trainable == sum(p.size for p in parameters if p.requires_grad)
    assert found.frozen == sum(p.size for p in parameters if not p.requires_grad) == 40 + 10
    assert found.buffers == sum(b.size for b in net.buffers())
    assert found.bytes == sum(value.nbytes for value in net.state_dict().values())
    assert nn.summary(net.double(), array(5, 1, 8, 8).astype(np.float64)).bytes == 2 * (found.bytes - 8) + 8


@pytest.mark.parametrize(
    ("norm", "shape", "expected"),
    [
        (nn.BatchNorm1d(3), (4, 3), "running_mean (3,), running_var (3,), 0 batches tracked"),
        (nn.GhostBatchNorm1d(3, 2), (4, 3), "running_mean (3,), running_var (3,), 0 batches tracked"),
        (nn.DecorrelatedBatchNorm1d(4, group_size=2), (8, 4), "running_mean (4,), running_matrix (2, 2, 2), 0 batches"),
        (nn.InstanceNorm1d(3, track_running_stats=True), (2, 3, 5), "running_mean (3,), running_var (3,), 0 batches"),
        (nn.BatchNorm1d(3, track_running_stats=False), (4, 3), "none kept: those of each batch"),
        (nn.InstanceNorm1d(3), (2, 3, 5), "none kept: those of each sample"),
        (nn.GroupNorm(1, 3), (2, 3, 5), "none kept: those of each sample"),
        (nn.RMSNorm(5), (2, 3, 5), "none kept: those of each sample"),
        (nn.ReLU(), (2, 3, 5), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_where_norm_statistics_live(norm, shape, expected):
    (layer,) = nn.summary(norm, array(*shape)).layers
    assert layer.statistics.startswith(expected) and bool(layer.statistics) == bool(expected)


def test_batches_so_far_are_counted():
    net = cnn().train()
    for _ in range(3):
        net(tb.Tensor(array(5, 1, 8, 8)))
    layer = nn.summary(net, array(5, 1, 8, 8)).layers[2]
    assert layer.statistics == "running_mean (4,), running_var (4,), 3 batches tracked"


class Odd(nn.Module):
    """Changes what it can in a forward, and may fail at the end of it."""

    def __init__(self, fails=False):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.register_buffer("seen", np.zeros(2))
        self.register_buffer("nothing", None)
        self.fails = fails

    def forward(self, x):
        self.train()  # the norm in it takes in the batch
        y = self.inner(x)
        default_generator().random(7)
        self.seen[0] += 1
        self.seen = self.seen + 1
        self.nothing = np.ones(3)
        if self.fails:
            raise ZeroDivisionError("at the end")
        return y


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_random_numbers_are_as_before(mode, fails):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), Odd(fails))
    net.train(mode != "eval")
    if mode == "mixed":
        net[1].eval()
    net[0].weight.grad = np.ones((3, 3), np.float32)
    net[1].register_forward_hook(lambda module, inputs, output: None)
    tb.manual_seed(5)
    generator, before, state = default_generator(), fingerprint(net), tb.get_rng_state()
    if fails:
        with pytest.raises(ZeroDivisionError):
            nn.summary(net, array(4, 3))
    else:
        assert nn.summary(net, array(4, 3)).layers[-1].calls == 1
    assert fingerprint(net) == before and net[3].nothing is None
    assert tb.get_rng_state() == state and default_generator() is generator
    assert tb.is_grad_enabled()


def test_bad_input_leaves_no_hooks_behind():
    net = cnn()
    before = fingerprint(net)
    with pytest.raises(ValueError):
        nn.summary(net, array(5, 2, 8, 8))
    assert fingerprint(net) == before


def test_nothing_is_recorded_and_dropout_is_off():
    class Look(nn.Module):
        def forward(self, x):
            assert not tb.is_grad_enabled() and not self.training
            return x

    net = nn.Sequential(nn.BatchNorm1d(3), Look()).train()
    assert nn.summary(net, array(1, 3)).layers[2].calls == 1  # one sample: batch norm would refuse it in training


class Several(nn.Module):
    """Two inputs, several outputs, a module that is called twice, one that is not, a shared parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 7)
        self.b.weight = self.a.weight
        self.relu = nn.ReLU()

    def forward(self, x, index):
        y = self.relu(self.a(x))
        return y, {"more": self.relu(self.b(y)[:, :2])}, [x.sum(), index]


def test_several_inputs_outputs_and_calls():
    net = Several()
    found = nn.summary(net, (array(4, 3), np.arange(2)))
    layers = {layer.name: layer for layer in found.layers}
    assert layers[""].output == [(4, 3), "dict", [(), (2,)]] and layers["relu"].output == (4, 2)
    assert layers["relu"].calls == 2 and layers["unused"].calls == 0 and layers["unused"].output is None
    assert (layers["a"].trainable, layers["b"].trainable) == (12, 3)
    assert found.trainable == sum(p.size for p in net.parameters())
    text = str(found)
    assert re.search(r"relu +ReLU +\(4, 2\) \(2 calls\)", text) and re.search(r"unused +Linear +not called +28", text)
    assert re.search(r"\(model\) +Several +\(4, 3\), dict, \(\), \(2,\) +-", text)


def test_the_table(capsys):
    net = cnn()
    found = nn.summary(net, tb.Tensor(array(5, 1, 8, 8)))
    assert capsys.readouterr().out == "" and repr(found) == str(found)
    head, rule, *rows, rule2, total, memory = str(found).splitlines()
    assert set(rule) == {"-"} and rule == rule2 and len(rule) == max(map(len, [head, *rows, total]))
    assert head.split() == ["layer", "type", "output", "trainable", "frozen", "buffers", "norm", "statistics"]
    assert len(rows) == len(found.layers)
    for column in ("trainable", "frozen", "buffers"):  # numbers end where the title ends
        end = head.index(column) + len(column)
        for row, layer in zip(rows, found.layers, strict=True):
            value = getattr(layer, column)
            assert row[:end].endswith(f" {value:,}" if value else " -")
        assert total[:end].endswith(f" {getattr(found, column):,}")
    assert rows[2].endswith("running_mean (4,), running_var (4,), 0 batches tracked")
    assert memory == f"parameters and buffers take {found.bytes:,} bytes"


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be a Module, got function"):
        nn.summary(cnn, array(5, 1, 8, 8))
    with pytest.raises(TypeError, match=r"got a tuple with a int: np.zeros\(\(5, 1, 8, 8\), np.float32\) is an array"):
        nn.summary(cnn(), (5, 1, 8, 8))
    with pytest.raises(TypeError, match="input must be a Tensor, an array, or a tuple of them, got list"):
        nn.summary(cnn(), [1.0])
