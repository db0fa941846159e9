"""Statistics at inference, folding, and gradient clipping."""

import copy
import math
import pickle

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, data, manual_seed, nn, no_grad, tensor

SEED = 0


def normal(*shape, seed=SEED):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlp():
    manual_seed(SEED)
    return nn.Sequential(
        *(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh(), nn.Linear(6, 3)),
    )


# recompute_statistics


def test_one_batch_of_everything_gives_the_exact_statistics():
    """Layer after layer, with unbiased variances; dropout is out of the way."""
    net, x = mlp(), normal(64, 5) * 3 + 1
    assert nn.utils.recompute_statistics(net, [x]) is net
    first = x.astype(np.float64) @ net[0].weight.data.T + net[0].bias.data
    np.testing.assert_allclose(net[1].running_mean, first.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net[1].running_var, first.var(axis=0, ddof=1), rtol=1e-5)
    hidden = np.maximum((first - first.mean(axis=0)) / np.sqrt(first.var(axis=0) + 1e-5), 0)
    second = hidden @ net[4].weight.data.T + net[4].bias.data
    np.testing.assert_allclose(net[5].running_mean, second.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net[5].running_var, second.var(axis=0, ddof=1), rtol=1e-4)


def test_batches_are_averaged_with_their_sizes():
    """E[mean_B] and E[m / (m - 1) var_B]: with batches of 30, 30 and 4 the small one must not count like the others."""
    x = normal(64, 3) * np.linspace(1, 5, 64, dtype=np.float32)[:, None]
    norm = nn.BatchNorm1d(3)
    nn.utils.recompute_statistics(norm, data.DataLoader((x, np.arange(64)), batch_size=30))
    parts, weights = np.split(x.astype(np.float64), [30, 60]), np.array([30, 30, 4]) / 64
    mean = sum(w * p.mean(axis=0) for w, p in zip(weights, parts, strict=True))
    var = sum(w * p.var(axis=0, ddof=1) for w, p in zip(weights, parts, strict=True))
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var, var, rtol=1e-5)


def test_the_expected_unbiased_variance_is_the_populations():
    """m / (m - 1) E[var_B] over many small random batches; without the factor it would be a quarter too small."""
    x = normal(4000, 2) * [1, 3]
    norm = nn.BatchNorm1d(2)
    nn.utils.recompute_statistics(norm, data.DataLoader(x.astype(np.float32), 4, shuffle=True, seed=SEED))
    np.testing.assert_allclose(norm.running_var, x.var(axis=0), rtol=0.03)


def test_what_was_set_stays_as_it_was():
    net = mlp()
    net.train()
    net[3].eval()
    net[1].momentum = None
    nn.utils.recompute_statistics(net, [normal(8, 5)])
    assert net[1].momentum is None and net[5].momentum == 0.1
    assert [m.training for m in net] == [True, True, True, False, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("loader", [[], [normal(8, 5), normal(8, 4)], [normal(8, 5), normal(1, 5)]])
def test_an_error_leaves_the_statistics(loader):
    net = mlp()
    net(tensor(normal(16, 5)))
    before, modes = net.state_dict(), [m.training for m in net]
    with pytest.raises(ValueError, match=r"at least one sample|x must have|more than 1 value"):
        nn.utils.recompute_statistics(net, loader)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert [m.training for m in net] == modes


class Twice(nn.Module):
    """The same norm on x and on 3 x + 5, called by keyword."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(x=x) + self.norm(x=x * 3 + 5)


def test_a_norm_that_is_used_twice_gets_the_statistics_of_both_uses():
    net, x = Twice(), normal(64, 2) + 1
    nn.utils.recompute_statistics(net, [x[:40], x[40:]])
    pooled = (x.mean(axis=0) + (3 * x + 5).mean(axis=0)) / 2
    np.testing.assert_allclose(net.norm.running_mean, pooled, rtol=1e-5)
    source = net.norm.running_mean.copy()
    nn.utils.adapt_statistics(net, x + 2, 0.5)
    np.testing.assert_allclose(net.norm.running_mean, (source + pooled + 2 * (1 + 3) / 2) / 2, rtol=1e-5)


def test_batch_renorm_is_measured_as_batch_norm_and_keeps_its_schedule():
    first = nn.BatchRenorm1d(3, warmup=0, r_ramp=0, d_ramp=0)
    net, x = nn.Sequential(first, nn.BatchNorm1d(3)), normal(50, 3) * 10 + 100
    for _ in range(3):
        net(tensor(x))
    nn.utils.recompute_statistics(net, [x])
    np.testing.assert_allclose(net[1].running_mean, 0, atol=1e-5)
    np.testing.assert_allclose(net[1].running_var, 50 / 49, rtol=1e-5)
    assert first.num_batches_tracked == 3 and first.limits() == (3.0, 5.0)


def test_a_failure_does_not_count_as_a_change_of_parameters():
    net = mlp()
    loss = net(tensor(normal(8, 5))).sum()
    with pytest.raises(ValueError, match="at least one sample"):
        nn.utils.recompute_statistics(net, [])
    loss.backward()


@pytest.mark.parametrize("loader", [5, [()], [(5,)], ["ab"]])
def test_what_is_no_loader(loader):
    with pytest.raises((TypeError, ValueError), match="loader"):
        nn.utils.recompute_statistics(mlp(), loader)


# adapt_statistics


def test_adapted_statistics_are_the_mixture_layer_after_layer():
    net, shifted = mlp(), normal(50, 5) * 2 + 3
    nn.utils.recompute_statistics(net, [normal(64, 5)])
    old = net.state_dict()
    nn.utils.adapt_statistics(net, shifted, 0.3)
    first = shifted.astype(np.float64) @ net[0].weight.data.T + net[0].bias.data
    mean = 0.7 * old["1.running_mean"] + 0.3 * first.mean(axis=0)
    var = 0.7 * old["1.running_var"] + 0.3 * first.var(axis=0, ddof=1)
    np.testing.assert_allclose(net[1].running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(net[1].running_var, var, rtol=1e-5)
    hidden = np.maximum((first - mean) / np.sqrt(var + 1e-5), 0)  # normalized with the mixture, without dropout
    second = hidden @ net[4].weight.data.T + net[4].bias.data
    np.testing.assert_allclose(
        net[5].running_mean, 0.7 * old["5.running_mean"] + 0.3 * second.mean(axis=0), rtol=1e-4, atol=1e-5
    )
    assert net[1].num_batches_tracked == old["1.num_batches_tracked"] and net[1].momentum == 0.1
    assert all(not m._pre_hooks for m in net.modules()) and net.training


def test_weight_0_changes_nothing_and_weight_1_takes_the_batch():
    net, shifted = mlp().eval(), tensor(normal(50, 5) + 3)
    before = net.state_dict()
    nn.utils.adapt_statistics(net, shifted, 0)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    nn.utils.adapt_statistics(net, shifted, 1)
    first = shifted.data @ net[0].weight.data.T + net[0].bias.data
    np.testing.assert_allclose(net[1].running_mean, first.mean(axis=0), rtol=1e-5)
    assert not net.training


def test_a_failed_adaptation_leaves_the_net():
    net = mlp()
    before = net.state_dict()
    with pytest.raises(ValueError, match="x must have"):
        nn.utils.adapt_statistics(net, normal(8, 4), 0.5)
    net[7].register_forward_hook(lambda *_: 1 / 0)  # after both norms have run
    with pytest.raises(ZeroDivisionError):
        nn.utils.adapt_statistics(net, normal(8, 5) + 3, 0.5)
    with pytest.raises(ValueError, match="weight"):
        nn.utils.adapt_statistics(net, normal(8, 5), 1.5)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert all(not m._pre_hooks for m in net.modules()) and net.training


# fold_batch_norm


def nets():
    linear = lambda norm, **k: nn.Sequential(nn.Linear(6, 4, **k), norm, nn.Sigmoid(), nn.Linear(4, 2))
    yield "Linear", linear(nn.BatchNorm1d(4)), (9, 6)
    yield "Linear without bias", linear(nn.BatchNorm1d(4), bias=False), (9, 6)
    yield "no gamma and beta", linear(nn.BatchNorm1d(4, affine=False)), (9, 6)
    yield "ghost", linear(nn.GhostBatchNorm1d(4, 4)), (9, 6)
    yield "renorm", linear(nn.BatchRenorm1d(4)), (9, 6)
    yield "decorrelated", linear(nn.DecorrelatedBatchNorm1d(4, group_size=2)), (9, 6)
    yield "Conv2d", nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), (5, 3, 6, 6)
    yield "groups", nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.GhostBatchNorm2d(6, 2), nn.ReLU()), (5, 4, 6, 6)
    yield "decorrelated images", nn.Sequential(nn.Conv2d(3, 4, 3), nn.DecorrelatedBatchNorm2d(4)), (9, 3, 6, 6)
    yield "nested", nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), nn.ReLU()), (9, 6)


@pytest.mark.parametrize(("name", "net", "shape"), list(nets()), ids=[n for n, _, _ in nets()])
def test_a_folded_net_computes_the_same(name, net, shape):
    manual_seed(SEED)
    for i in range(20):
        net(tensor(normal(*shape, seed=i) * 2 + 1))
    for p in net.parameters():
        p.data = (p.data + normal(*p.shape, seed=1)).astype(np.float32)
    before, training = net.state_dict(), net.training
    folded = nn.utils.fold_batch_norm(net)
    assert not any(isinstance(m, nn.BatchNorm1d.__mro__[1]) for m in folded.modules())
    x = tensor(normal(*shape, seed=99))
    with no_grad():
        expected = net.eval()(x).data
        np.testing.assert_allclose(folded(x).data, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))
    assert training
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_what_cannot_be_folded_stays():
    kept = [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4)]
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), kept[0], nn.Linear(4, 4), kept[1], nn.Linear(4, 4), kept[2])
    folded = nn.utils.fold_batch_norm(net)
    assert [type(m) for m in folded] == [type(m) for m in net]
    x = tensor(normal(5, 6))
    np.testing.assert_array_equal(folded(x).data, net.eval()(x).data)


def test_what_was_folded_is_printed():
    """The names of the other layers stay, and the norm's says where it went."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Flatten()),
        *(nn.Linear(16, 4), nn.GhostBatchNorm1d(4, 2)),
    )
    lines = [line.strip() for line in repr(nn.utils.fold_batch_norm(net)).splitlines()]
    assert lines[2] == "(1): Folded(BatchNorm2d into the Conv2d before)"
    assert lines[3].startswith("(2): GroupNorm(2, 4")
    assert lines[6] == "(5): Folded(GhostBatchNorm1d into the Linear before)"


def test_a_folded_linear_takes_rows_alone():
    """On (N, L, C) Linear maps the last axis and BatchNorm1d scales axis 1: no weights of a Linear can do that."""
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    folded = nn.utils.fold_batch_norm(net)
    net.eval()(tensor(normal(3, 4, 6)))
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        folded(tensor(normal(3, 4, 6)))


def changed(net):
    """Other statistics, gamma and beta than at the start."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            rng = np.random.default_rng(m.num_features)
            m.running_mean[...], m.running_var[...] = rng.standard_normal(4), rng.uniform(0.5, 2, 4)
            m.weight.data, m.bias.data = rng.uniform(0.5, 2, (2, 4)).astype(np.float32)
    return net.eval()


class Residual(nn.Sequential):
    def forward(self, x):
        h = self[0](x)
        return h + self[1](h)


def entangled():
    shared, norm, tied = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
    tied.weight = shared.weight
    hooked = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    hooked[0].register_forward_hook(lambda module, args, out: out * 2)
    return {
        "a layer used twice": nn.Sequential(shared, nn.BatchNorm1d(4), nn.ReLU(), shared),
        "layer and norm used twice": nn.Sequential(shared, norm, nn.ReLU(), shared, norm),
        "tied weights": nn.Sequential(shared, nn.BatchNorm1d(4), nn.ReLU(), tied),
        "another forward": Residual(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        "a hook": hooked,
    }


@pytest.mark.parametrize("name", entangled())
def test_where_the_flow_of_data_is_not_certain_nothing_is_folded(name):
    net = changed(entangled()[name])
    x = tensor(normal(5, 4))
    folded = nn.utils.fold_batch_norm(net)
    np.testing.assert_array_equal(folded(x).data, net(x).data)


def test_folding_leaves_frozen_weights_frozen_and_refuses_what_mixes_groups():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    assert not any(p.requires_grad for p in nn.utils.fold_batch_norm(net).parameters())
    with pytest.raises(ValueError, match="mixes its groups"):
        nn.utils.fold_batch_norm(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.DecorrelatedBatchNorm2d(4)))
    with pytest.raises(ValueError, match="4 outputs"):
        nn.utils.fold_batch_norm(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3)))


# clip_grad_norm_


def parameters(*gradients):
    result = []
    for g in gradients:
        p = nn.Parameter(np.zeros(np.shape(g), np.float32))
        p.grad = np.array(g, np.float32)
        result.append(p)
    return result


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_clipping_scales_all_gradients_alike(p):
    params = [*parameters([3.0, -4.0], [[12.0]]), nn.Parameter(np.zeros(2, np.float32))]
    total = np.linalg.norm([3, -4, 12], p)
    assert nn.utils.clip_grad_norm_(params, 2.0, p) == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(params[0].grad, np.array([3, -4]) * 2 / total, rtol=1e-5)
    np.testing.assert_allclose(params[1].grad, [[12 * 2 / total]], rtol=1e-5)
    assert params[2].grad is None


def test_small_gradients_are_left_alone():
    params = parameters([0.3, -0.4])
    assert nn.utils.clip_grad_norm_(params, 1.0) == pytest.approx(0.5)
    np.testing.assert_array_equal(params[0].grad, np.array([0.3, -0.4], np.float32))
    assert nn.utils.clip_grad_norm_([], 1.0) == 0.0
    assert nn.utils.clip_grad_norm_(params, math.inf) == pytest.approx(0.5)  # only measured
    np.testing.assert_array_equal(params[0].grad, np.array([0.3, -0.4], np.float32))
    params[0].grad.flags.writeable = False
    assert nn.utils.clip_grad_norm_(params, 0.25) == pytest.approx(0.5)
    np.testing.assert_allclose(params[0].grad, [0.15, -0.2], rtol=1e-4)


def test_large_float32_gradients_do_not_overflow():
    params = parameters([3e30, 4e30])
    assert nn.utils.clip_grad_norm_(params, 1.0) == pytest.approx(5e30, rel=1e-6)
    np.testing.assert_allclose(params[0].grad, [0.6, 0.8], rtol=1e-5)


def test_gradients_that_are_not_finite():
    params = parameters([1.0, np.inf])
    with pytest.raises(RuntimeError, match="inf"):
        nn.utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(params[0].grad, [1, np.inf])
    nn.utils.clip_grad_norm_(params, 1.0)
    np.testing.assert_array_equal(params[0].grad, [0, np.nan])


def test_a_deep_copy_is_independent():
    net = mlp()
    twin = copy.deepcopy(net)
    twin(Tensor(normal(8, 5)))
    assert not net[1].running_mean.any() and twin[1].running_mean.any()


class Doubled(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2.0


def test_a_norm_with_a_forward_of_its_own_is_not_folded():
    x = tensor(np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32))
    net = nn.Sequential(nn.Linear(2, 2), Doubled(2)).eval()
    other = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    plain = other[1].forward
    other[1].forward = lambda x: plain(x) * 2.0
    for each in (net, other):
        np.testing.assert_allclose(nn.utils.fold_batch_norm(each)(x).data, each(x).data, rtol=1e-6)


class Taps(nn.Module):
    """A net that looks at the output of its first layer, too."""

    def __init__(self, held):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
        if held:
            self.taps = {"first": [self.seq[0]]}

    def forward(self, x):
        return self.seq(x) + self.seq[0](x)


def test_a_layer_that_is_used_once_more_in_a_list_is_not_folded():
    net, x = Taps(held=True), tensor(np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32))
    net(x)
    folded = nn.utils.fold_batch_norm(net)
    assert isinstance(folded.seq[1], nn.BatchNorm1d)
    np.testing.assert_allclose(folded(x).data, net.eval()(x).data, rtol=1e-6)


class ByHand(nn.Module):
    """Subclasses use the Sequential in their ways."""

    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())


class Loop(ByHand):
    def forward(self, x):
        for layer in self.seq:
            x = layer(x)
        return x


class Slices(ByHand):
    def forward(self, x):
        return self.seq[1:](self.seq[:1](x))


class Forward(ByHand):
    def forward(self, x):
        return self.seq.forward(x) + self.seq[1](x)


class Weights(ByHand):
    def forward(self, x):
        return self.seq(x) + F.linear(x, self.seq[0].weight)


class Apart(nn.Sequential):
    def forward(self, x):
        return self[0](x) + self[0][0](x)


class Whole(ByHand):
    def forward(self, x):
        return self.seq(x) * 2.0


KEPT = [
    lambda: Taps(held=False),
    Loop,
    Slices,
    Forward,
    Weights,
    lambda: Apart(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    lambda: nn.Sequential(Loop(), nn.Linear(2, 2)),
]


@pytest.mark.parametrize("make", KEPT)
def test_a_sequential_that_a_forward_takes_apart_is_not_folded(make):
    net, x = make(), tensor(np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32))
    net(x)
    folded = nn.utils.fold_batch_norm(net)
    assert any(isinstance(m, nn.BatchNorm1d) for m in folded.modules())
    np.testing.assert_allclose(folded(x).data, net.eval()(x).data, rtol=1e-6)


def test_one_that_a_forward_calls_as_a_whole_is_folded_and_works_in_every_way():
    net, x = Whole(), tensor(np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32))
    net(x)
    folded = nn.utils.fold_batch_norm(net)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in folded.modules())
    expected = net.eval()(x).data / 2
    np.testing.assert_allclose(folded(x).data, 2 * expected, rtol=1e-5, atol=1e-6)
    seq = pickle.loads(pickle.dumps(folded)).seq
    for y in (seq(x), seq.forward(x), seq[2:](seq[:2](x)), nn.Sequential(*seq)(x)):
        np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchRenorm1d])
def test_a_forward_of_a_norms_own_is_called_and_stays(kind):
    norm = kind(2)
    calls, plain = [], norm.forward
    norm.forward = wrapper = lambda x: calls.append(len(x)) or plain(x)
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    nn.utils.recompute_statistics(nn.Sequential(norm), [x])
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=0), atol=1e-6)
    nn.utils.adapt_statistics(nn.Sequential(norm), x, weight=0.5)
    assert norm.forward is wrapper and calls == [6, 6, 6]
    with pytest.raises(ValueError):
        nn.utils.recompute_statistics(nn.Sequential(norm), [])
    assert norm.forward is wrapper
