"""nn.Watch and nn.watch: what they say of a net is what NumPy says, and training does not notice them."""

import copy
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim
from tinygrad_bn.nn import watch as tools
from tinygrad_bn.nn.watch import Histogram
from tinygrad_bn.ops import activation


def array(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# At a moment


class Softplus(nn.Module):
    def forward(self, x):
        return tb.log(1 + tb.exp(x))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


DERIVATIVES = {
    nn.Sigmoid: lambda z: sigmoid(z) * (1 - sigmoid(z)),
    nn.Tanh: lambda z: 1 - np.tanh(z) ** 2,
    nn.ReLU: lambda z: (z > 0).astype(np.float64),
    nn.Identity: np.ones_like,
    Softplus: sigmoid,
}


def test_the_layers_of_elementwise_activations_are_watched_by_default():
    """Those that have the name of an op of ops/activation.py: a new one belongs into ACTIVATIONS."""
    ops = {n for n, op in vars(activation).items() if hasattr(op, "rule") and "softmax" not in n}
    layers = {c for c in vars(nn).values() if isinstance(c, type) and c.__name__.lower() in ops}
    assert layers == set(tools.ACTIVATIONS)


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_slopes_are_the_derivative(kind):
    z = 3 * array(5, 4)
    before = z.copy()
    np.testing.assert_allclose(tools.slopes(kind(), z), DERIVATIVES[kind](z), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(z, before)
    with tb.no_grad():
        assert tools.slopes(kind(), tb.Tensor(z)).dtype == np.float64
    assert tools.flat_share(kind(), z, 0.2) == np.mean(np.abs(DERIVATIVES[kind](z)) < 0.2)


def test_special_slopes():
    class Constant(nn.Module):
        def forward(self, x):
            return tb.Tensor(np.ones_like(x.data))

    assert (tools.slopes(Constant(), array(3)) == 0).all()
    assert tools.flat_share(nn.Sigmoid(), np.array([np.nan, 0.0, 100.0, -np.inf])) == 0.5
    assert np.isnan(tools.flat_share(nn.Sigmoid(), np.zeros((0, 3))))
    with pytest.raises(ValueError, match=r"element by element, got \(2, 3\) -> \(2, 5\)"):
        tools.slopes(nn.Linear(3, 5).double(), array(2, 3))
    with pytest.raises(ValueError, match="flat must be"):
        tools.flat_share(nn.Sigmoid(), array(2), -1)


def net():
    tb.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return model.double()


def by_hand(model, x):
    """The output of every layer of a Sequential, as arrays."""
    outputs, h = [], x
    for layer in model:
        if isinstance(layer, nn.Linear):
            h = h @ layer.weight.data.T + layer.bias.data
        elif isinstance(layer, nn.BatchNorm1d):
            mean, var = (h.mean(0), h.var(0)) if layer.training else (layer.running_mean, layer.running_var)
            h = (h - mean) / np.sqrt(var + layer.eps) * layer.weight.data + layer.bias.data
        else:
            h = sigmoid(h) if isinstance(layer, nn.Sigmoid) else np.tanh(h)
        outputs.append(h)
    return outputs


@pytest.mark.parametrize("training", [True, False])
def test_activations_are_what_goes_in_and_comes_out(training):
    model, x = net().train(training), tb.Tensor(array(16, 6))
    with tools.activations(model) as seen:
        y = model(x)
    outputs = by_hand(model, x.data)  # (in eval mode after it as before it)
    inputs = [x.data, *outputs[:-1]]
    assert list(seen) == list("012345") and seen["0"][0] is x and seen["5"][1] is y
    for i, (before, after) in enumerate(seen.values()):
        np.testing.assert_allclose(before.data, inputs[i], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(after.data, outputs[i], rtol=1e-10, atol=1e-12)
    model(x)
    assert len(seen) == 6 and not any(m._hooks or m._pre_hooks for m in model.modules())


def test_activations_of_some_layers_by_their_class():
    model, x = net(), tb.Tensor(array(16, 6))
    for types, names in ((nn.Linear, "035"), ((nn.Tanh, nn.Sigmoid), "24"), (nn.Sequential, ""), (nn.ReLU, "")):
        with tools.activations(model, types) as seen:
            model(x)
        assert list(seen) == list(names)
    with tools.activations(nn.Sequential(model, nn.Tanh()), nn.Tanh) as seen:
        model(x)  # a part of it
    assert list(seen) == ["0.4"]


class Times(nn.Module):
    """x times a parameter."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(np.full((), float(factor)))

    def forward(self, x):
        return x * self.factor


def test_activations_are_on_the_tape_of_the_forward():
    """In sum(3 (2 x)) the gradient is 3 at the middle; under no_grad() there is none."""
    model, x = nn.Sequential(Times(2), Times(3)), tb.Tensor(array(4, 5))
    with tools.activations(model) as seen:
        loss = model(x).sum()
    (_, first), (middle, _) = seen.values()
    assert first is middle
    np.testing.assert_array_equal(tb.grad(loss, middle)[0], np.full((4, 5), 3.0))
    with tb.no_grad(), tools.activations(model) as seen:
        model(x)
    assert not any(y.requires_grad for _, y in seen.values())


def test_activations_end_with_the_block_and_are_of_the_model_alone():
    model, x = net(), tb.Tensor(array(16, 6))
    with pytest.raises(ZeroDivisionError), tools.activations(model) as seen:
        copy.deepcopy(model)(x)
        assert not seen
        model(x)
        raise ZeroDivisionError
    assert len(seen) == 6 and not any(m._hooks for m in model.modules())
    plain, watched = train(net(), 5), net()
    with tools.activations(watched):
        train(watched, 5)
    for name, value in watched.state_dict().items():
        assert value.tobytes() == plain.state_dict()[name].tobytes(), name


@pytest.mark.parametrize("training", [True, False])
def test_saturation_and_statistics_of_a_net(training):
    model, x = net().train(training), 20 * array(50, 6)
    model[1].running_mean[:] = 3
    state, random = {k: v.copy() for k, v in model.state_dict().items()}, tb.get_rng_state()
    outputs = by_hand(model, x)
    found = tools.saturation(model, x, flat=0.1)
    expected = {str(k): np.mean(DERIVATIVES[type(model[k])](outputs[k - 1]) < 0.1) for k in (2, 4)}
    assert found == expected and 0 < expected["2"] < 1
    statistics = tools.batch_statistics(model, x)
    assert list(statistics) == list("012345")
    for (mean, std), y in zip(statistics.values(), outputs, strict=True):
        np.testing.assert_allclose(mean, y.mean(axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(std, y.std(axis=0), rtol=1e-10, atol=1e-12)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    assert tb.get_rng_state() == random and all(m.training is training and not m._hooks for m in model.modules())


def test_statistics_of_images_are_per_channel():
    x = array(4, 3, 5, 6)
    model = nn.Sequential(nn.Identity())
    ((mean, std),) = tools.batch_statistics(model, x).values()
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, x.std(axis=(0, 2, 3)))
    ((mean, std),) = tools.batch_statistics(model, x[0, 0, 0]).values()  # without axis 1: one channel
    np.testing.assert_allclose([mean[0], std[0]], [x[0, 0, 0].mean(), x[0, 0, 0].std()])
    ((mean, std),) = tools.batch_statistics(model, np.zeros((0, 3))).values()
    assert np.isnan(mean).all() and mean.shape == (3,)


def test_running_statistics_are_copies():
    model = nn.Sequential(
        nn.BatchNorm1d(6), nn.DecorrelatedBatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False)
    )
    model(tb.Tensor(array(9, 6, dtype=np.float32)))
    found = tools.running_statistics(model)
    assert list(found) == ["0"] and all(a.dtype == np.float64 for a in found["0"])
    np.testing.assert_array_equal(found["0"][0], model[0].running_mean)
    np.testing.assert_allclose(found["0"][1] ** 2, model[0].running_var, rtol=1e-12)
    model(tb.Tensor(array(9, 6, dtype=np.float32, seed=1)))
    assert (found["0"][0] != model[0].running_mean).all()


def test_drift():
    before = {"a": (np.array([0.0, 1.0]), np.array([1.0, 2.0])), "b": (np.ones(3), np.ones(3)), "c": (0, 0)}
    after = {"a": (np.array([3.0, 1.5]), np.array([2.0, 2.0])), "b": (np.ones(2), np.ones(2)), "d": (0, 0)}
    found = tools.drift(before, after)
    assert list(found) == ["a", "b"] and np.isnan(found["b"])
    assert found["a"] == pytest.approx((3.0 / 1.5 + 0.5 / 2.0) / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "others"),
    [
        (array(1000), 0),
        (array(20, 5, dtype=np.float32), 0),
        (np.full(7, 3.0), 0),
        (np.full(7, -1e30), 0),
        (np.zeros(3), 0),
        (np.array([]), 0),
        (np.array([np.nan, np.inf, -np.inf, 1.0, 2.0]), 3),
        (np.array([np.nan] * 4), 4),
        (np.array([-1.7e308, 1.7e308]), 0),
        (np.array([1.0, 1.0 + 1e-15]), 0),
    ],
)
def test_histograms(values, others):
    h = Histogram.of([values[: len(values) // 2], values[len(values) // 2 :]], bins=20)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert len(h.counts) == 20 and len(h.edges) == 21 and (np.diff(h.edges) > 0).all()
    assert h.counts.sum() == finite.size and h.others == others
    if finite.size and np.ptp(finite / 2) > 1e-9:
        finite = np.clip(finite, -1e300, 1e300)
        np.testing.assert_array_equal(h.counts, np.histogram(finite, h.edges)[0])
        np.testing.assert_allclose(h.edges, np.linspace(finite.min(), finite.max(), 21), atol=1e-15)


@pytest.mark.parametrize(
    ("before", "after", "ratio"),
    [([3.0, 4.0], [3.0, 5.0], 0.2), ([0.0, 0.0], [1.0, 0.0], np.inf), ([0.0], [0.0], np.nan), ([1.0], [1.0], 0.0)],
)
def test_update_ratio(before, after, ratio):
    np.testing.assert_equal(tools.update_ratio(np.array(before), np.array(after)), ratio)


# Along training


def train(model, steps, watch=None, each=None):
    """SGD with momentum on random data, all of it decided by the number of the step."""
    sgd = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for k in range(steps):
        x, y = array(16, 6, seed=k), np.random.default_rng(k).integers(3, size=16)
        if each is not None:
            each(k, model, x, y)
        loss = F.cross_entropy(model(tb.Tensor(x)), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if watch is not None:
            watch.step()
    return model


def test_training_is_the_same_to_the_bit():
    plain, watched = train(net(), 7), net()
    with nn.Watch(watched, every=2) as watch:
        train(watched, 7, watch)
    assert watch.steps == [0, 2, 4, 6]
    for name, value in watched.state_dict().items():
        assert value.tobytes() == plain.state_dict()[name].tobytes(), name


def test_what_is_recorded_is_what_numpy_says():
    weights, outputs, gradients = [], [], []

    def look(k, model, x, y):
        if k % 3:
            return
        weights.append({name: p.data.copy() for name, p in model.named_parameters()})
        outputs.append(by_hand(model, x))
        steps, h = [], tb.Tensor(x)  # the gradients at the outputs: on a copy, layer by layer
        for layer in copy.deepcopy(model):
            h = layer(h)
            steps.append(h)
        gradients.append(tb.grad(F.cross_entropy(h, y), steps))

    model = net()
    watch = nn.Watch(model, every=3, bins=17, flat=0.2)
    train(model, 7, watch, look)
    watch.close()
    plain = net()  # once more, for the weights after each step
    after = []
    for steps in (1, 4, 7):
        plain = train(net(), steps)
        after.append(dict(plain.named_parameters()))
    assert watch.steps == [0, 3, 6] and len(outputs) == 3
    for k, record in enumerate(watch.records):
        assert list(record.layers) == list("012345")
        for i in range(6):
            y, g = outputs[k][i], gradients[k][i]
            layer = record.layers[str(i)]
            np.testing.assert_allclose(layer.mean, y.mean(axis=0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(layer.std, y.std(axis=0), rtol=1e-9, atol=1e-12)
            for kind, values in (("activation", y), ("gradient", g)):
                h = watch.histogram(str(i), kind, k)
                assert h.counts.sum() == values.size == 16 * y.shape[1] and len(h.counts) == 17
                np.testing.assert_allclose(h.edges, np.linspace(values.min(), values.max(), 18), rtol=1e-9, atol=1e-12)
                # by hand a value may fall on the other side of an edge
                assert np.abs(h.counts - np.histogram(values, h.edges)[0]).sum() <= 4
        for name, p in weights[k].items():
            expected = np.linalg.norm(after[k][name].data - p) / np.linalg.norm(p) if p.any() else np.inf
            np.testing.assert_allclose(record.updates[name], expected, rtol=1e-12)
    flat = {str(i): [np.mean(DERIVATIVES[type(model[i])](o[i - 1]) < 0.2) for o in outputs] for i in (2, 4)}
    assert {name: list(series) for name, series in watch.saturation().items()} == flat
    drift = watch.drift()
    for i in range(6):
        mean, std = np.array([(o[i].mean(axis=0), o[i].std(axis=0)) for o in outputs]).transpose(1, 0, 2)
        expected = np.abs(np.diff(mean, axis=0)) / ((std[1:] + std[:-1]) / 2)
        np.testing.assert_allclose(drift[str(i)], expected.mean(axis=1), rtol=1e-8, atol=1e-10)
    assert {name: len(series) for name, series in watch.updates().items()} == dict.fromkeys(weights[0], 3)


def test_gradients_are_with_respect_to_the_output_whatever_a_layer_is():
    """In y = 3 (2 x) summed, the gradient at 2 x is 3 everywhere, at 3 (2 x) it is 1."""
    model = nn.Sequential(Times(2), Times(3))
    with nn.Watch(model) as watch:
        model(tb.Tensor(array(4, 5))).sum().backward()
        watch.step()
    for name, value in (("0", 3), ("1", 1)):
        h = watch.histogram(name, "gradient")
        assert h.counts.sum() == h.counts.max() == 20 and h.edges[0] < value < h.edges[-1]


def test_forwards_of_one_step_are_taken_together_and_validation_is_left_out():
    model = net()
    with nn.Watch(model) as watch:
        for k in range(2):  # gradient accumulation
            F.cross_entropy(model(tb.Tensor(array(8, 6, seed=k))), np.zeros(8, int)).backward()
            with tb.no_grad():
                model(tb.Tensor(array(100, 6)))
        watch.step()
        with tb.no_grad():
            model(tb.Tensor(array(100, 6)))
        watch.step()  # nothing to record
    assert (
        watch.steps == [0] and watch.histogram("4").counts.sum() == watch.histogram("4", "gradient").counts.sum() == 64
    )
    assert all(series[0] == 0 or np.isnan(series[0]) for series in watch.updates().values())  # nobody has stepped


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(6, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x))))


def test_a_module_that_is_called_twice_has_two_names():
    model = Twice().double()
    with nn.Watch(model, layers=["relu", "b"]) as watch:
        for _ in range(2):
            for _ in range(2):
                model(tb.Tensor(array(8, 6))).sum().backward()
            watch.step()
    assert [list(r.layers) for r in watch.records] == [["relu", "b", "relu#2"]] * 2
    assert watch.histogram("relu").counts.sum() == 2 * 40 and watch.histogram("relu#2").counts.sum() == 2 * 24
    assert set(watch.saturation()) == {"relu", "relu#2"}
    assert set(tools.saturation(model, array(8, 6))) == {"relu", "relu#2"}
    with tools.activations(model, nn.ReLU) as seen:
        model(tb.Tensor(array(8, 6)))
        model(tb.Tensor(array(9, 6)))
    assert {name: y.shape for name, (_, y) in seen.items()} == {
        "relu": (8, 5),
        "relu#2": (8, 3),
        "relu#3": (9, 5),
        "relu#4": (9, 3),
    }


def test_a_layer_of_two_inputs_has_a_pair_of_them():
    class Add(nn.Module):
        def forward(self, a, b):
            return a + b

    add, a, b = Add(), tb.Tensor(array(3)), tb.Tensor(array(3, seed=1))
    with tools.activations(add) as seen:
        y = add(a, b)
    ((name, (inputs, output)),) = seen.items()
    assert name == "" and inputs[0] is a and inputs[1] is b and output is y


def test_an_activation_of_ones_own():
    model = nn.Sequential(Softplus())
    x = tb.Tensor(4 * array(30, 2), requires_grad=True)
    with nn.Watch(model, flat=0.3, activations=(Softplus,)) as watch:
        model(x * 1).sum().backward()
        watch.step()
    assert watch.saturation()["0"] == [np.mean(sigmoid(x.data) < 0.3)]


def test_nothing_is_kept_after_the_step_nor_in_steps_that_are_not_due():
    model = net()
    gc.disable()
    try:
        with nn.Watch(model, every=2) as watch:
            for due in (True, False):
                y = model(tb.Tensor(array(8, 6)))
                held = weakref.ref(y)
                y.sum().backward()
                del y
                assert (held() is not None) is due  # its gradient is wanted
                watch.step()
                assert held() is None
    finally:
        gc.enable()


def test_a_forgotten_step_raises_instead_of_filling_the_memory(monkeypatch):
    monkeypatch.setattr(tools, "AT_ONCE", 20)
    model = net()
    with nn.Watch(model), pytest.raises(RuntimeError, match=r"20 forwards since the last step\(\)"):
        for _ in range(21):
            model(tb.Tensor(array(4, 6)))


def test_hooks_go_with_close_also_after_an_error():
    model = net()
    with pytest.raises(ZeroDivisionError), nn.Watch(model):
        assert model[0]._hooks and model._pre_hooks
        raise ZeroDivisionError
    assert not any(m._hooks or m._pre_hooks for m in model.modules())
    watch = nn.Watch(model)
    watch.close()
    watch.close()
    train(model, 1, watch)
    assert watch.records == []


def test_a_copy_of_the_model_is_not_watched():
    model = net()
    with nn.Watch(model) as watch:
        model(tb.Tensor(array(8, 6)))
        train(copy.deepcopy(model), 2)
        watch.step()
        assert watch.histogram("0").counts.sum() == 8 * 5
        assert copy.deepcopy(model)(tb.Tensor(array(8, 6))).shape == (8, 3)


def test_frozen_layers_have_no_gradient():
    model = net()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    with nn.Watch(model) as watch:
        train(model, 1, watch)
    assert watch.records[0].layers["1"].gradient is None and watch.histogram("1").counts.sum() == 80
    assert watch.updates()["0.weight"] == [0.0]
    with pytest.raises(ValueError, match="no gradient has reached the output of layer '1'"):
        watch.histogram("1", "gradient")


def test_divergence_is_recorded():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
    model[0].weight.data[0, 0] = np.nan
    model[2].weight.data[:] = np.inf
    with nn.Watch(model) as watch:
        for _ in range(2):
            model(tb.Tensor(np.ones((3, 2)))).sum().backward()
            watch.step()
    assert watch.histogram("2").others == 3 and np.isnan(watch.updates()["0.weight"]).all()
    assert np.isnan(watch.drift()["0"]).all() and watch.saturation()["1"].shape == (2,)


def test_bad_arguments():
    model = net()
    for arguments, error, message in [
        ((np.ones(3),), TypeError, "model must be a Module"),
        ((model, 0), ValueError, "every must be >= 1"),
        ((model, 1.5), TypeError, "every must be an int"),
    ]:
        with pytest.raises(error, match=message):
            nn.Watch(*arguments)
    with pytest.raises(ValueError, match=r"layers must be among \['0', .*\], got \['7'\]"):
        nn.Watch(model, layers=["0", "7"])
    with pytest.raises(ValueError, match="bins must be >= 1"):
        nn.Watch(model, bins=0)
    with pytest.raises(ValueError, match="flat must be"):
        nn.Watch(model, flat=-1)
    assert not any(m._hooks or m._pre_hooks for m in model.modules())
    with nn.Watch(model) as watch:
        with pytest.raises(ValueError, match="nothing was recorded"):
            watch.histogram("0")
        model(tb.Tensor(array(4, 6)))
        watch.step()
    for arguments, message in [
        (("9",), "layer must be one of"),
        (("0", "weight"), "kind"),
        (("0", "activation", 3), "index"),
    ]:
        with pytest.raises(ValueError, match=message):
            watch.histogram(*arguments)
    with pytest.raises(ValueError, match="no gradient has reached"):
        watch.plot_gradients()


# Plots


@pytest.fixture
def pyplot(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    yield plt
    plt.close("all")


def test_plots_show_what_was_recorded(pyplot):
    model = net()
    with nn.Watch(model, every=2, flat=0.2) as watch:
        train(model, 7, watch)
    assert any(share.any() for share in watch.saturation().values())
    for figure, kind in ((watch.plot_activations(1), "activation"), (watch.plot_gradients(1), "gradient")):
        panels = [axes for axes in figure.axes if axes.patches]
        assert [axes.get_title() for axes in panels] == [f"{i} {type(m).__name__}" for i, m in enumerate(model)]
        for i, axes in enumerate(panels):
            (stairs,), h = axes.patches, watch.histogram(str(i), kind, 1)
            np.testing.assert_array_equal(stairs.get_data().values, h.counts)
            np.testing.assert_array_equal(stairs.get_data().edges, h.edges)
        assert figure.get_supxlabel().endswith("in step 2")
        figure.canvas.draw()
    for figure, series, factor, steps in [
        (watch.plot_saturation(), watch.saturation(), 100, [0, 2, 4, 6]),
        (watch.plot_drift(), watch.drift(), 1, [2, 4, 6]),
        (watch.plot_updates(), watch.updates(), 1, [0, 2, 4, 6]),
    ]:
        (axes,) = figure.axes
        lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert list(lines) == list(series)
        for name, line in lines.items():
            np.testing.assert_array_equal(line.get_xdata(), steps)
            np.testing.assert_allclose(line.get_ydata(), factor * series[name])
        figure.canvas.draw()
    assert axes.get_yscale() == "log"


def test_a_missing_matplotlib_names_the_extra(monkeypatch):
    model = net()
    with nn.Watch(model) as watch:
        train(model, 2, watch)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for plot in (
        watch.plot_activations,
        watch.plot_gradients,
        watch.plot_saturation,
        watch.plot_drift,
        watch.plot_updates,
    ):
        with pytest.raises(ImportError, match=r"pip install 'tinygrad_bn\[demos\]'"):
            plot()


def test_the_package_itself_does_not_import_matplotlib():
    code = "import sys, tinygrad_bn; tinygrad_bn.draw, tinygrad_bn.nn.Watch; print('matplotlib' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_layer_that_is_exchanged_is_watched():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = tb.tensor(np.ones((4, 2), np.float32))
    old = net[0]
    with nn.Watch(net) as watch:
        for _ in range(2):
            net(x).sum().backward()
            watch.step()
            net[0] = nn.Linear(2, 3)
    assert [sorted(record.layers) for record in watch.records] == [["0", "1", "2"]] * 2
    assert not old._hooks and not any(module._hooks for module in net.modules())
