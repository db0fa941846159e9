"""What the normalization layers promise: identities between them, running statistics, modes, and accuracy."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, nn, tensor

SEED = 0


def normal(*shape, dtype=np.float64):
    return np.random.default_rng(SEED).standard_normal(shape).astype(dtype)


def value_and_gradient(fn, x):
    t = tensor(x, requires_grad=True)
    y = fn(t)
    y.backward(np.random.default_rng(SEED + 1).standard_normal(x.shape).astype(x.dtype))
    return y.data, t.grad


def by_definition(x, axes, eps=1e-5):
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


AXES = {  # the index set S of each member, for x of shape (N, C, H, W)
    "batch": (lambda t: F.batch_norm(t, None, None, training=True), (0, 2, 3)),
    "layer": (lambda t: F.layer_norm(t, t.shape[1:]), (1, 2, 3)),
    "instance": (F.instance_norm, (2, 3)),
}


@pytest.mark.parametrize("kind", AXES)
def test_one_formula_different_axes(kind):
    x = normal(3, 4, 2, 5)
    fn, axes = AXES[kind]
    np.testing.assert_allclose(fn(tensor(x)).data, by_definition(x, axes), rtol=0, atol=1e-13)


def test_group_norm_is_the_formula_over_the_channels_of_a_group():
    x = normal(3, 6, 2, 5)
    grouped = by_definition(x.reshape(3, 2, 3, 2, 5), (2, 3, 4)).reshape(x.shape)
    np.testing.assert_allclose(F.group_norm(tensor(x), 2).data, grouped, rtol=0, atol=1e-13)


IDENTITIES = {
    "group norm with one group is layer norm": (
        (3, 4, 2, 5),
        lambda t: F.group_norm(t, 1),
        lambda t: F.layer_norm(t, t.shape[1:]),
    ),
    "group norm with a group per channel is instance norm": (
        (3, 4, 2, 5),
        lambda t: F.group_norm(t, 4),
        F.instance_norm,
    ),
    "batch norm of one sample is instance norm": (
        (1, 4, 2, 5),
        lambda t: F.batch_norm(t, None, None, training=True),
        F.instance_norm,
    ),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities(name):
    shape, one, other = IDENTITIES[name]
    for a, b in zip(value_and_gradient(one, normal(*shape)), value_and_gradient(other, normal(*shape)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def test_two_samples_become_plus_and_minus_one_and_get_no_gradient():
    y, dx = value_and_gradient(lambda t: F.batch_norm(t, None, None, training=True, eps=0), normal(2, 5))
    np.testing.assert_allclose(np.abs(y), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dx, 0, rtol=0, atol=1e-11)


def test_running_statistics_track_the_unbiased_variance():
    bn = nn.BatchNorm1d(3, momentum=0.2).double()
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((5, 3)) * 2 + 1
        bn(Tensor(x))
        mean = 0.8 * mean + 0.2 * x.mean(axis=0)
        var = 0.8 * var + 0.2 * x.var(axis=0, ddof=1)
    np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-13)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-13)
    assert bn.num_batches_tracked == 4 and bn.num_batches_tracked.dtype == np.int64


def test_momentum_none_is_the_average_over_all_batches():
    bn = nn.BatchNorm2d(2, momentum=None).double()
    batches = [normal(3, 2, 4, 4) + k for k in range(5)]
    for x in batches:
        bn(Tensor(x))
    np.testing.assert_allclose(bn.running_mean, np.mean([b.mean(axis=(0, 2, 3)) for b in batches], axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        bn.running_var, np.mean([b.var(axis=(0, 2, 3), ddof=1) for b in batches], axis=0), rtol=1e-12
    )


def test_eval_uses_the_running_statistics_and_leaves_them_alone():
    bn = nn.BatchNorm1d(3).double()
    bn(Tensor(normal(6, 3)))
    before = bn.state_dict()
    bn.eval()
    x = normal(4, 3) + 3
    y = bn(Tensor(x))
    expected = (x - before["running_mean"]) / np.sqrt(before["running_var"] + 1e-5)
    np.testing.assert_allclose(y.data, expected, rtol=1e-13)
    assert all(np.array_equal(v, before[k]) for k, v in bn.state_dict().items())
    assert bn(Tensor(normal(1, 3))).shape == (1, 3)  # one value per channel is fine where none are measured


def test_without_tracking_batch_statistics_serve_in_eval_too():
    bn = nn.BatchNorm1d(3, track_running_stats=False)
    assert list(bn.state_dict()) == ["weight", "bias"]
    x = Tensor(normal(6, 3, dtype=np.float32))
    trained = bn(x).data
    assert np.array_equal(bn.eval()(x).data, trained)


def test_a_failed_forward_leaves_the_running_statistics_alone():
    bn = nn.BatchNorm1d(3)
    before = bn.state_dict()
    with pytest.raises(ValueError, match="more than 1 value"):
        bn(Tensor(normal(1, 3, dtype=np.float32)))
    assert all(np.array_equal(v, before[k]) for k, v in bn.state_dict().items())


def test_affine_false_and_bias_false_have_no_parameters():
    assert nn.BatchNorm1d(3, affine=False).weight is None
    assert list(nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert list(nn.LayerNorm(3, elementwise_affine=False).parameters()) == []


def test_reset_running_stats():
    bn = nn.BatchNorm1d(2)
    bn(Tensor(normal(4, 2, dtype=np.float32)))
    bn.reset_running_stats()
    assert np.array_equal(bn.running_mean, [0, 0]) and np.array_equal(bn.running_var, [1, 1])
    assert bn.num_batches_tracked == 0


@pytest.mark.parametrize("length", [2, 3, 10, 1000])
@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_float32_with_a_large_mean_loses_no_more_than_the_input_did(kind, length):
    """x = 1e4 + noise: one-pass variance, or float32 sums, would leave few or no correct digits."""
    x = (1e4 + normal(length, 8)).astype(np.float32)  # this rounding is not the norm's to answer for
    if kind == "layer":
        x = np.ascontiguousarray(x.T)
    axis = 0 if kind == "batch" else 1
    fn = AXES["batch"][0] if kind == "batch" else lambda t: F.layer_norm(t, length)
    y, _dx = value_and_gradient(fn, x)
    exact = by_definition(x.astype(np.float64), (axis,))
    assert np.abs(y - exact).max() < 5e-7 * max(1, np.abs(exact).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_spread_over_their_own_index_set_only(bad):
    x = normal(4, 3, 2)
    x[1, 2, 0] = bad
    with np.errstate(invalid="ignore"):
        assert np.isnan(F.batch_norm(tensor(x), None, None, training=True).data[:, 2]).all()
        assert np.isfinite(F.batch_norm(tensor(x), None, None, training=True).data[:, :2]).all()
        assert np.isnan(F.layer_norm(tensor(x), (3, 2)).data[1]).any()
        assert np.isfinite(F.layer_norm(tensor(x), (3, 2)).data[[0, 2, 3]]).all()


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda t: F.batch_norm(t, None, None, training=True), (0, 3)),
        (lambda t: F.layer_norm(t, 3), (0, 3)),
        (lambda t: F.group_norm(t, 2), (0, 4, 2)),
        (F.instance_norm, (0, 3, 4)),
        (lambda t: F.rms_norm(t, 3), (0, 3)),
    ],
)
def test_empty_batches(fn, shape):
    y, dx = value_and_gradient(fn, np.zeros(shape))
    assert y.shape == dx.shape == shape


def test_an_empty_batch_does_not_touch_the_running_statistics():
    bn = nn.BatchNorm1d(3)
    y = bn(Tensor(np.zeros((0, 3), np.float32)))
    assert (
        y.shape == (0, 3) and np.array_equal(bn.running_mean, np.zeros(3)) and np.array_equal(bn.running_var, [1] * 3)
    )


def test_the_input_is_not_changed_and_the_output_is_new():
    x = normal(4, 3)
    t, before = Tensor(x), x.copy()
    y = F.batch_norm(t, None, None, training=True)
    assert np.array_equal(x, before) and not np.shares_memory(y.data, x)


def test_read_only_input_works():
    x = normal(4, 3)
    x.flags.writeable = False
    F.batch_norm(Tensor(x), None, None, training=True)


def test_instance_norm_without_a_batch_axis():
    x = normal(3, 4, 5, dtype=np.float32)
    layer = nn.InstanceNorm2d(3)
    assert np.array_equal(layer(Tensor(x)).data, layer(Tensor(x[None])).data[0])


def test_instance_norm_with_running_statistics_uses_them_in_eval():
    layer = nn.InstanceNorm1d(2, track_running_stats=True, momentum=1.0).double()
    x = normal(3, 2, 6)
    layer(Tensor(x))
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=2).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, x.var(axis=2, ddof=1).mean(axis=0), rtol=1e-13)
    y = layer.eval()(Tensor(x)).data
    mean, var = layer.running_mean[:, None], layer.running_var[:, None]
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-12)
