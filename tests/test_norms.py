"""What the normalization layers promise: identities between them, running statistics, modes, and accuracy."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, nn, tensor
from tinygrad_bn.ops.norm_kernels import channel_norm

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


@pytest.mark.parametrize("kind", ["batch", "layer"])
@pytest.mark.parametrize("mean", [0, 1, 10, 1000])
def test_an_x_hat_near_zero_is_off_by_two_roundings_of_one_at_most(kind, mean):
    """dy picks the element nearest to the mean, so that dweight is its x_hat."""
    for m in range(3, 120):
        x = (mean + normal(m, 4)).astype(np.float32)
        x_hat = by_definition(x.astype(np.float64), (0,))
        nearest = np.abs(x_hat).argmin(axis=0), np.arange(4)
        dy = np.zeros_like(x)
        dy[nearest] = 1
        expected = x_hat[nearest]
        weight = tensor(np.ones(4 if kind == "batch" else m, np.float32), requires_grad=True)
        if kind == "batch":
            F.batch_norm(tensor(x), None, None, weight, training=True).backward(dy)
        else:
            F.layer_norm(tensor(x.T), m, weight).backward(dy.T)
            expected = (dy * x_hat).sum(axis=1)
        assert np.abs(weight.grad - expected).max() <= 2 * 2.0**-24, m


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8, 3), (200, 3), (4, 3, 5, 5), (1100, 1024)])  # the last one in pieces
def test_a_channel_with_an_infinity_has_nan_as_statistics_wherever_it_stands(shape, dtype):
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, shape[0] // 2, -1):
            x = normal(*shape, dtype=dtype)
            x[place, 1] = bad
            mean, var = np.zeros(shape[1], dtype), np.ones(shape[1], dtype)
            t = tensor(x, requires_grad=True)
            y = F.batch_norm(t, mean, var, training=True)
            y.backward(normal(*shape, dtype=dtype))
            for array in (y.data, t.grad, mean[None], var[None]):
                nan = np.isnan(array)
                assert nan[:, 1].all() and not nan[:, [0, 2]].any(), (bad, place)


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


# Sums in blocks, merged statistics, a mean in two parts: against the formula in long double


def by_formula(x, w, b, dy, axes, affine, eps, centered=True):
    """y, dx, dweight, dbias in long double; affine: the shape in which w and b broadcast."""
    x, w, b, dy = (np.asarray(a, np.longdouble) for a in (x, w, b, dy))
    w, b = w.reshape(affine), b.reshape(affine)

    def average(a):
        return a.mean(axis=axes, keepdims=True)

    d = x - average(x) if centered else x
    rstd = 1 / np.sqrt(average(d * d) + eps)
    x_hat, g = d * rstd, dy * w
    dx = rstd * (g - (average(g) if centered else 0) - x_hat * average(g * x_hat))
    others = tuple(i for i, n in enumerate(affine) if n == 1)
    return x_hat * w + b, dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)


def results(fn, x, w, b, dy):
    leaves = [tensor(a, requires_grad=True) for a in (x, w, b)]
    y = fn(*leaves)
    y.backward(dy)
    return [y.data, *(t.grad for t in leaves)]


LAYOUTS = {  # name: (function, axes of the statistics, axes of the weights, a shape with n values per statistic)
    "batch": (lambda x, w, b, eps: F.batch_norm(x, None, None, w, b, True, eps=eps), (0,), (1,), lambda n: (n, 2)),
    "batch, positions": (
        lambda x, w, b, eps: F.batch_norm(x, None, None, w, b, True, eps=eps),
        (0, 2),
        (1,),
        lambda n: (3, 2, n),
    ),
    "layer": (lambda x, w, b, eps: F.layer_norm(x, x.shape[1], w, b, eps), (1,), (1,), lambda n: (2, n)),
    "layer, many rows": (lambda x, w, b, eps: F.layer_norm(x, x.shape[1], w, b, eps), (1,), (1,), lambda n: (n, 3)),
    "instance": (lambda x, w, b, eps: F.instance_norm(x, weight=w, bias=b, eps=eps), (2,), (1,), lambda n: (2, 2, n)),
}


def check_formula(name, x, dtype, eps=1e-5, scale=1.0):
    """Up to 8 roundings of the largest terms, of a float64's 32."""
    fn, axes, features, _ = LAYOUTS[name]
    rng = np.random.default_rng(SEED)
    affine = tuple(n if i in features else 1 for i, n in enumerate(x.shape))
    w, b = rng.uniform(0.5, 2, (2, int(np.prod(affine)))).astype(dtype)
    x, dy = x.astype(dtype), (scale * rng.standard_normal(x.shape)).astype(dtype)
    exact = by_formula(x, w, b, dy, axes, affine, eps)
    found = results(lambda *leaves: fn(*leaves, eps), x, w, b, dy)
    others = tuple(i for i, n in enumerate(affine) if n == 1)
    x_hat = (exact[0] - b.reshape(affine)) / w.reshape(affine)
    rstd = 1 / np.sqrt(np.asarray(x, np.longdouble).var(axis=axes, keepdims=True) + eps)
    terms = [
        abs(exact[0]).max(),
        (rstd * abs(dy * w.reshape(affine)).max() * np.maximum(1, abs(x_hat))).max(),
        abs(dy * x_hat).sum(axis=others).max(),
        abs(dy).sum(axis=others).max(),
    ]
    lost = 1 if dtype == np.float32 else max(1, float(abs(x).max() * rstd.max()))  # of a float64 mean
    for what, a, e, term in zip(("y", "dx", "dweight", "dbias"), found, exact, terms, strict=True):
        bound = (8 if dtype == np.float32 else 32 * lost) * np.finfo(dtype).eps / 2 * float(term)
        assert abs(a - e).max() <= bound, f"{what}: {float(abs(a - e).max() / bound):.3g} times what is allowed"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [63, 64, 65, 130, 511, 513, 1030])
@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_and_what_is_left_over(name, n, dtype):
    """A block is 64 rows or 512 elements of a run; values of which each counts, the last one most."""
    x = normal(*LAYOUTS[name][3](n)) + 3
    x.reshape(-1)[-1] += 10
    check_formula(name, x, dtype)


MEANS = {  # along the values of a statistic: what the center of one block is to the next
    "a large mean": lambda t: 1e6 + 0 * t,
    "a trend": lambda t: 100 * t,
    "a jump": lambda t: 1000.0 * (t > 0.5),
    "a jump far away": lambda t: 1e7 + 1e3 * (t > 0.8),
    "an infinitesimal spread": lambda t: 0.1 + 1e-6 * t,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", ["batch", "batch, positions", "layer", "instance"])
def test_no_digits_are_lost_wherever_the_mean_goes(name, mean, dtype):
    """The center of squares is the mean of what came before: near, far off, or none at all."""
    shape = LAYOUTS[name][3](300)
    t = np.linspace(0, 1, 300)
    t = t.reshape(-1, 1) if name == "batch" else t
    noise = 1e-6 if "infinitesimal" in mean else 1.0
    x = MEANS[mean](t) + np.array([0.0, 1.0]).reshape(
        (2, 1) if len(shape) == 3 else (2,) if name == "batch" else (2, 1)
    )
    check_formula(name, x + noise * normal(*shape), dtype, eps=1e-5 * noise**2)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1e12, 1e25, 1e30])
@pytest.mark.parametrize("name", LAYOUTS)
def test_float32_whose_squares_are_no_float32(name, scale):
    """With eps = 0, so that x / scale has the same y, and gradients 1 / scale: they are float32 again."""
    x = scale * (normal(*LAYOUTS[name][3](70)) + 2)
    check_formula(name, x, np.float32, eps=0.0, scale=min(scale, 1.0))


def test_float32_whose_squares_are_no_float32_beside_a_channel_of_ordinary_numbers():
    """Each channel for itself; one whose squares vanish has a variance all the same."""
    x = (normal(70, 3) * [1.0, 1e-30, 1e30]).astype(np.float32)
    rows, wide = np.ascontiguousarray(x.T), x.T.astype(np.float64)
    y = F.batch_norm(tensor(x), None, None, training=True, eps=0.0).data
    np.testing.assert_allclose(y, by_definition(wide, (1,), 0.0).T, rtol=0, atol=2e-6)
    np.testing.assert_allclose(F.layer_norm(tensor(rows), 70, eps=0.0).data, y.T, rtol=0, atol=2e-6)
    rms = F.rms_norm(tensor(rows), 70, eps=0.0).data
    np.testing.assert_allclose(rms, wide / np.sqrt((wide**2).mean(axis=1, keepdims=True)), rtol=0, atol=2e-6)


def test_rms_norm_of_equal_values_is_their_sign():
    """With eps = 0, also where their squares are 0 in float32: they are not 0 themselves."""
    x = np.array([[3.0] * 5, [-1e-30] * 5, [1e30] * 5], np.float32)
    np.testing.assert_allclose(F.rms_norm(tensor(x), 5, eps=0.0).data, np.sign(x), rtol=1e-6)


def test_eval_mode_with_a_running_mean_that_float32_does_not_hold():
    """The mean is a float64: high and low, and low counts where the running variance is small."""
    mean, var = np.array([1e4 + 1e-4]), np.array([1e-8])
    x = (1e4 + np.arange(4.0)[:, None] / 1024).astype(np.float32)
    leaves = [tensor(a, requires_grad=True) for a in (x, np.ones(1, np.float32), np.zeros(1, np.float32))]
    y = channel_norm(*leaves, mean=mean, var=var, eps=0.0)
    dy = np.arange(1.0, 5.0, dtype=np.float32)[:, None]
    y.backward(dy)
    x_hat = (x.astype(np.float64) - mean) / np.sqrt(var)
    np.testing.assert_allclose(y.data, x_hat, rtol=1e-6)
    np.testing.assert_allclose(leaves[1].grad, (dy * x_hat).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(leaves[0].grad, dy / np.sqrt(var), rtol=1e-6)


@pytest.mark.parametrize(
    ("std", "power"),
    [(1e9, 95), (1e9, -85), (1e5, 110), (1e5, -90), (1e-9, -115), (1e-9, 70), (1.0, 110), (1.0, -110)],
)
@pytest.mark.parametrize("name", ["batch", "batch, positions", "layer", "group, positions"])
def test_the_gradient_is_linear_in_dy_whatever_their_sizes(name, std, power):
    """In float32: dy times 2^k gives the gradients times 2^k, to the bit, where these are normal numbers themselves."""
    rng = np.random.default_rng(11)
    shape = {"batch": (70, 3), "layer": (5, 90)}.get(name, (6, 4, 40))
    x, dy = (std * rng.standard_normal(shape)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    size = shape[-1] if name == "layer" else shape[1]
    weight = rng.uniform(0.5, 2, size).astype(np.float32)

    def gradients(dy):
        inputs = [Tensor(a.copy(), requires_grad=True) for a in (x, weight, np.zeros_like(weight))]
        if name == "layer":
            y = F.layer_norm(inputs[0], size, *inputs[1:], eps=0.0)
        elif name.startswith("group"):
            y = F.group_norm(inputs[0], 2, *inputs[1:], eps=0.0)
        else:
            y = F.batch_norm(inputs[0], None, None, *inputs[1:], training=True, eps=0.0)
        y.backward(dy)
        return [t.grad for t in inputs]

    factor = np.float32(2.0**power)
    for small, scaled in zip(gradients(dy), gradients(dy * factor), strict=True):
        expected = small.astype(np.float64) * float(factor)
        normal = np.abs(expected) > 1e-36
        assert normal.mean() > 0.9 and np.isfinite(scaled).all()
        assert np.array_equal(scaled[normal], expected[normal])


def test_channels_without_positions_have_gradients_of_zero():
    x = Tensor(np.empty((2, 3, 0), np.float32), requires_grad=True)
    weight, bias = (Tensor(np.ones(3, np.float32), requires_grad=True) for _ in range(2))
    F.batch_norm(x, None, None, weight, bias, training=True).backward(np.empty((2, 3, 0), np.float32))
    assert x.grad.shape == (2, 3, 0) and not weight.grad.any() and not bias.grad.any()
