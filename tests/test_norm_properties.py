"""What holds for every normalization whatever its input: invariances, orthogonal gradients, identities, statistics.

Each is a theorem about y = gamma (x - mean_S) / sqrt(var_S + eps) + beta, derived in a line where it is tested.
Float64, random shapes, scales and offsets; tolerances are multiples of rounding.
"""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import SEEDS, few_or_many, holds

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, nn

GHOST = 2


def trailing(x):
    return tuple(range(1, x.ndim))


def per_channel(a, x):
    """(C,) as an array that broadcasts against x."""
    return a.reshape(-1, *(1,) * (x.ndim - 2))


def layer_norm(x, w, b, eps):
    """Without weights of its own; the channels' are applied as the other norms do it."""
    y = F.layer_norm(x, x.shape[1:], eps=eps)
    shape = (-1, *(1,) * (x.ndim - 2))
    return y * w.reshape(shape) + b.reshape(shape)


def rms_norm(x, w, b, eps):
    y = F.rms_norm(x, x.shape[1:], eps=eps)
    shape = (-1, *(1,) * (x.ndim - 2))
    return y * w.reshape(shape) + b.reshape(shape)


def renorm(x, w, b, eps):
    c = x.shape[1]
    return F.batch_renorm(x, np.zeros(c), np.ones(c), w, b, True, 0.0, eps, 1.0, 0.0)


# name -> (the function, its statistics' index sets: x in the shape (sets, values of a set))
NORMS = {
    "batch norm": (
        lambda x, w, b, eps: F.batch_norm(x, None, None, w, b, True, eps=eps),
        lambda x: np.moveaxis(x, 1, 0).reshape(x.shape[1], -1),
    ),
    "layer norm": (layer_norm, lambda x: x.reshape(len(x), -1)),
    "instance norm": (
        lambda x, w, b, eps: F.instance_norm(x, weight=w, bias=b, eps=eps),
        lambda x: x.reshape(x.shape[0] * x.shape[1], -1),
    ),
    "group norm": (
        lambda x, w, b, eps: F.group_norm(x, 2, w, b, eps),
        lambda x: x.reshape(2 * len(x), -1),
    ),
    "rms norm": (rms_norm, lambda x: x.reshape(len(x), -1)),
    "ghost batch norm": (
        lambda x, w, b, eps: F.ghost_batch_norm(x, len(x) // 2, None, None, w, b, True, eps=eps),
        lambda x: np.moveaxis(x.reshape(2, len(x) // 2, *x.shape[1:]), 2, 1).reshape(2 * x.shape[1], -1),
    ),
    "batch renorm": (renorm, lambda x: np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)),
    "decorrelated batch norm": (
        lambda x, w, b, eps: F.decorrelated_batch_norm(x, None, None, w, b, True, eps=eps, group_size=2),
        lambda x: np.moveaxis(x, 1, 0).reshape(x.shape[1], -1),
    ),
}
CENTERED = [name for name in NORMS if name != "rms norm"]
SCALAR = [name for name in NORMS if name != "decorrelated batch norm"]  # a factor per set, not a matrix


@st.composite
def inputs(draw, name=None, least=3):
    """x (N, C, positions ...), weight, bias, dy; N or C even where the norm halves it; 3 or more values in a set."""
    n, c = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    space = tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    if name == "ghost batch norm":
        n *= 2
    if name in ("group norm", "decorrelated batch norm"):
        c *= 2
    if name == "instance norm" and not space:
        space = (3,)
    rng = np.random.default_rng(draw(SEEDS))
    x = rng.standard_normal((n, c, *space)) * 10.0 ** rng.uniform(-1, 1, (1, c, *(1,) * len(space)))
    x = x + rng.standard_normal((1, c, *(1,) * len(space)))
    w, b = rng.uniform(0.5, 2, c) * rng.choice([-1, 1], c), rng.standard_normal(c)
    if name is not None:
        sets = NORMS[name][1](x)
        assume(sets.shape[1] >= (6 * c if name.startswith("decorrelated") else least))
        assume(sets.var(axis=1).min() > 1e-3)
    return x, w, b, rng.standard_normal(x.shape)


def run(fn, x, w, b, dy, *rest):
    """y and the gradients of x, w and b."""
    leaves = [Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = fn(*leaves, *rest)
    y.backward(dy)
    return [y.data, *(t.grad for t in leaves)]


def check_equal(found, expected, factor=1e-12):
    """Equal but for rounding, which is that of the largest element."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("name", CENTERED)
@few_or_many(20)
def test_the_gradient_is_orthogonal_to_constants(name, examples):
    """x + a constant per set has the same output, so the gradient has no component along it."""

    @given(inputs(name), st.sampled_from([0.0, 1e-5, 0.1]))
    def check(given_, eps):
        _, dx, *_ = run(NORMS[name][0], *given_, eps)
        parts = NORMS[name][1](dx)
        assert (np.abs(parts.sum(axis=1)) <= 1e-11 * (np.abs(parts).sum(axis=1) + np.abs(dx).max())).all()

    holds(check, examples)


@pytest.mark.parametrize("name", SCALAR)
@few_or_many(20)
def test_the_gradient_is_orthogonal_to_x_hat_up_to_eps(name, examples):
    """With g = gamma dy,  sum(dx x_hat) = sum(g x_hat) rstd (1 - mean(x_hat^2)),  and 1 - mean(x_hat^2) = eps rstd^2.

    So at eps = 0 the two are orthogonal: scaling x changes nothing. gamma, which varies within the sets of some norms,
    is 1 in half of the cases.
    """

    @given(inputs(name), st.sampled_from([0.0, 1e-5, 0.1]), st.booleans())
    def check(given_, eps, ones):
        x, w, b, dy = given_
        w = np.ones_like(w) if ones else w
        _, dx, *_ = run(NORMS[name][0], x, w, b, dy, eps)
        sets = NORMS[name][1]
        centered = sets(x) - sets(x).mean(axis=1, keepdims=True) * (name in CENTERED)
        rstd = 1 / np.sqrt((centered**2).mean(axis=1) + eps)
        x_hat, g = centered * rstd[:, None], sets(dy * per_channel(w, x))
        expected = (g * x_hat).sum(axis=1) * rstd**3 * eps
        found = (sets(dx) * x_hat).sum(axis=1)
        scale = (np.abs(g * x_hat).sum(axis=1) * rstd).max()
        assert (np.abs(found - expected) <= 1e-11 * scale).all()

    holds(check, examples)


@few_or_many(20)
def test_the_gradient_of_whitening_is_orthogonal_to_scaling(examples):
    """Where all channels of a group are scaled together, and eps is 0, the output stays: sum(dx (x - mean)) = 0."""

    @given(inputs("decorrelated batch norm"))
    def check(given_):
        x, *rest = given_
        _, dx, *_ = run(NORMS["decorrelated batch norm"][0], x, *rest, 0.0)
        sets = NORMS["decorrelated batch norm"][1]
        products = sets(dx) * (sets(x) - sets(x).mean(axis=1, keepdims=True))
        groups = products.reshape(-1, 2 * products.shape[1])
        assert (np.abs(groups.sum(axis=1)) <= 1e-10 * np.abs(groups).sum(axis=1)).all()

    holds(check, examples)


def stretched_layer_norm(x, w, b, eps):
    """Layer norm with weights of its own shape, the channels' repeated over the positions."""
    shape, full = (-1, *(1,) * (x.ndim - 2)), x.shape[1:]
    return F.layer_norm(x, full, *(np.broadcast_to(a.reshape(shape), full) for a in (w, b)), eps)


def one_by_one(x, w, b, eps):
    """Batch norm of each half of the batch."""
    half = len(x) // 2
    return np.concatenate([F.batch_norm(p, None, None, w, b, True, eps=eps) for p in (x[:half], x[half:])])


def turned(x, w, b, eps):
    """Layer norm of the transposed: a row per channel."""
    rows = np.swapaxes(x, 0, 1).reshape(x.shape[1], -1)
    y = F.layer_norm(rows, rows.shape[1], eps=eps) * w.reshape(-1, 1) + b.reshape(-1, 1)
    return np.swapaxes(y.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)


def batch_norm(x, w, b, eps):
    return F.batch_norm(x, None, None, w, b, True, eps=eps)


def instance_norm(x, w, b, eps):
    return F.instance_norm(x, weight=w, bias=b, eps=eps)


IDENTITIES = {  # name: (one, other, the norm whose inputs are drawn)
    "GN(1) = LN": (lambda x, w, b, eps: F.group_norm(x, 1, w, b, eps), stretched_layer_norm, "layer norm"),
    "GN(C) = IN": (lambda x, w, b, eps: F.group_norm(x, x.shape[1], w, b, eps), instance_norm, "instance norm"),
    "BN = LN of the transposed": (batch_norm, turned, "batch norm"),
    "ghosts = BN of each": (NORMS["ghost batch norm"][0], one_by_one, "ghost batch norm"),
    "one ghost = BN": (
        lambda x, w, b, eps: F.ghost_batch_norm(x, len(x) + 3, None, None, w, b, True, eps=eps),
        batch_norm,
        "batch norm",
    ),
    "renorm with r = 1, d = 0 = BN": (renorm, batch_norm, "batch norm"),
    "whitening channels one by one = BN": (
        lambda x, w, b, eps: F.decorrelated_batch_norm(x, None, None, w, b, True, eps=eps, group_size=1),
        batch_norm,
        "batch norm",
    ),
}


@pytest.mark.parametrize("name", IDENTITIES)
@few_or_many(20)
def test_identities(name, examples):
    """In values and in all gradients. Where they come from different kernels, they check each other."""
    one, other, drawn = IDENTITIES[name]

    @given(inputs(drawn), st.sampled_from([1e-5, 0.1]))
    def check(given_, eps):
        check_equal(run(one, *given_, eps), run(other, *given_, eps))

    holds(check, examples)


@few_or_many(20)
def test_batch_norm_of_one_sample_is_instance_norm(examples):
    @given(inputs("instance norm"), st.sampled_from([1e-5, 0.1]))
    def check(given_, eps):
        x, w, b, dy = given_
        check_equal(run(batch_norm, x[:1], w, b, dy[:1], eps), run(instance_norm, x[:1], w, b, dy[:1], eps))

    holds(check, examples)


@pytest.mark.parametrize("name", NORMS)
@few_or_many(20)
def test_permuting_the_batch_permutes_output_and_gradient(name, examples):
    """Of ghosts, whole ones are exchanged, and the samples within each."""

    @given(inputs(name), SEEDS)
    def check(given_, seed):
        x, w, b, dy = given_
        rng, n = np.random.default_rng([seed, 1]), len(x)
        order = rng.permutation(n)
        if name == "ghost batch norm":
            halves = [rng.permutation(n // 2), rng.permutation(n // 2) + n // 2]
            order = np.concatenate(halves[:: rng.choice([-1, 1])])
        y, dx, dw, db = run(NORMS[name][0], x, w, b, dy, 1e-3)
        found = run(NORMS[name][0], x[order], w, b, dy[order], 1e-3)
        check_equal(found, [y[order], dx[order], dw, db])

    holds(check, examples)


@pytest.mark.parametrize("name", NORMS)
@few_or_many(20)
def test_permuting_the_positions_permutes_output_and_gradient(name, examples):
    @given(inputs(name), SEEDS)
    def check(given_, seed):
        x, w, b, dy = given_
        assume(x.ndim > 2)
        order = np.random.default_rng([seed, 1]).permutation(x.shape[-1])
        y, dx, dw, db = run(NORMS[name][0], x, w, b, dy, 1e-3)
        found = run(NORMS[name][0], x[..., order], w, b, dy[..., order], 1e-3)
        check_equal(found, [y[..., order], dx[..., order], dw, db])

    holds(check, examples)


@pytest.mark.parametrize("name", NORMS)
@few_or_many(20)
def test_shifting_and_scaling_the_input_changes_nothing(name, examples):
    """a x + c with a^2 eps in place of eps: the same output, with x_hat's sign that of a, and gradients 1 / |a|.

    c is a constant per set; RMS norm, which does not center, is not shifted.
    """

    @given(inputs(name), st.floats(-4, 4), st.booleans(), st.sampled_from([0.0, 1e-5, 0.1]))
    def check(given_, power, negative, eps):
        x, w, b, dy = given_
        a = 2.0**power
        shift = 3.0 * (name in CENTERED)
        y, dx, dw, db = run(NORMS[name][0], x, w, b, dy, eps)
        sign = -1 if negative else 1
        found = run(NORMS[name][0], sign * a * x + shift, w, b, dy, a * a * eps)
        beta = per_channel(b, x)
        check_equal(found[:1], [sign * (y - beta) + beta], 1e-11 * max(1, 1 / a))
        check_equal([a * found[1], found[2], found[3]], [dx, sign * dw, db], 1e-10 * max(1, 1 / a))

    holds(check, examples)


@pytest.mark.parametrize("name", ["batch norm", "instance norm", "ghost batch norm"])
@few_or_many(15)
def test_each_channel_may_be_scaled_and_shifted_by_itself(name, examples):
    """Where every channel has statistics of its own; with eps = 0."""

    @given(inputs(name), SEEDS)
    def check(given_, seed):
        x, w, b, dy = given_
        a, c = np.random.default_rng([seed, 1]).uniform(0.5, 2, (2, x.shape[1]))
        y, dx, dw, db = run(NORMS[name][0], x, w, b, dy, 0.0)
        found = run(NORMS[name][0], x * per_channel(a, x) + per_channel(c, x), w, b, dy, 0.0)
        check_equal([found[0], found[1] * per_channel(a, x), *found[2:]], [y, dx, dw, db], 1e-10)

    holds(check, examples)


# Layers: running statistics, eval mode, folding

TRACKING = {
    "BatchNorm": lambda c, **o: nn.BatchNorm2d(c, **o),
    "GhostBatchNorm": lambda c, **o: nn.GhostBatchNorm2d(c, GHOST, **o),
    "BatchRenorm": lambda c, **o: nn.BatchRenorm2d(c, warmup=1, r_ramp=3, d_ramp=3, **o),
    "InstanceNorm": lambda c, **o: nn.InstanceNorm2d(c, track_running_stats=True, **o),
    "DecorrelatedBatchNorm": lambda c, **o: nn.DecorrelatedBatchNorm2d(c, **o),
}
MOMENTA = st.sampled_from([0.1, 0.9, 1.0, 0.0, None])


@st.composite
def batches(draw, most=4):
    """A few batches (N, C, H, W) of one C; N even, at least two positions."""
    c, count, rng = draw(st.integers(1, 4)), draw(st.integers(1, most)), np.random.default_rng(draw(SEEDS))
    space = draw(st.sampled_from([(1, 2), (2, 2), (3, 1)]))
    sizes = [2 * draw(st.integers(1, 3)) for _ in range(count)]
    return [
        rng.standard_normal((n, c, *space)) * rng.uniform(0.1, 3) + rng.standard_normal(c)[:, None, None] for n in sizes
    ]


def measured(name, x):
    """The statistics of a batch, by their definition: the mean and the unbiased variance, or the whitening matrix."""
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    if name == "GhostBatchNorm":
        parts = [x[i : i + GHOST] for i in range(0, len(x), GHOST)]  # of equal size, so that averages are plain
        return [np.mean([measured("BatchNorm", p)[k] for p in parts], axis=0) for k in (0, 1)]
    if name == "InstanceNorm":
        parts = x.reshape(*x.shape[:2], -1)
        return [parts.mean(axis=(0, 2)), parts.var(axis=2, ddof=1).mean(axis=0)]
    if name == "DecorrelatedBatchNorm":
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(rows, bias=True)) + 1e-3 * np.eye(len(rows)))
        return [rows.mean(axis=1), ((vectors / np.sqrt(values)) @ vectors.T)[None]]
    return [rows.mean(axis=1), rows.var(axis=1, ddof=1)]


@pytest.mark.parametrize("name", TRACKING)
@few_or_many(15)
def test_running_statistics_obey_the_formula(name, examples):
    """running = (1 - momentum) running + momentum batch; momentum=None: the average of all batches so far."""

    @given(batches(), MOMENTA)
    def check(xs, momentum):
        layer = TRACKING[name](xs[0].shape[1], eps=1e-3, momentum=momentum).double()
        names = [key for key, _ in layer.named_buffers() if key != "num_batches_tracked"]
        expected = [np.asarray(getattr(layer, key)).copy() for key in names]
        for seen, x in enumerate(xs, 1):
            layer(Tensor(x))
            weight = 1 / seen if momentum is None else momentum
            expected = [(1 - weight) * e + weight * m for e, m in zip(expected, measured(name, x), strict=True)]
            check_equal([getattr(layer, key) for key in names], expected, 1e-11)
        counted = len(xs) if name != "InstanceNorm" or momentum is None else 0  # PyTorch's counts no further
        assert layer.num_batches_tracked == counted
        before = layer.state_dict()
        layer.eval()
        layer(Tensor(xs[0]))
        assert all(np.array_equal(value, before[key]) for key, value in layer.state_dict().items())

    holds(check, examples)


@pytest.mark.parametrize("name", TRACKING)
@few_or_many(15)
def test_eval_mode_is_affine_and_sees_each_sample_alone(name, examples):
    """y(t p + (1 - t) q) = t y(p) + (1 - t) y(q); each sample as if it were alone; each channel (not where channels are
    mixed: there each pixel) depends on itself alone; the gradient is the same map's, transposed.
    """

    @given(batches(2), st.floats(-2, 2), SEEDS)
    def check(xs, t, seed):
        rng, c = np.random.default_rng([seed, 1]), xs[0].shape[1]
        layer = TRACKING[name](c, eps=1e-3, affine=True).double()
        layer.weight.data[...], layer.bias.data[...] = rng.uniform(-2, 2, (2, c))
        for x in xs:
            layer(Tensor(x))
        layer.eval()
        p, q = xs[0], rng.standard_normal(xs[0].shape)
        y_p, y_q = (layer(Tensor(x)).data for x in (p, q))
        mixture = layer(Tensor(t * p + (1 - t) * q)).data
        scale = max(1, np.abs(y_p).max(), np.abs(y_q).max())
        np.testing.assert_allclose(mixture, t * y_p + (1 - t) * y_q, rtol=0, atol=1e-12 * scale)
        check_equal([layer(Tensor(p[1:2])).data], [y_p[1:2]])
        changed = p.copy()
        if name == "DecorrelatedBatchNorm":
            changed[..., 0] += 1
            same = np.s_[..., 1:]
        else:
            changed[:, 0] += 1
            same = np.s_[:, 1:]
        check_equal([layer(Tensor(changed)).data[same]], [y_p[same]])
        dy, v = rng.standard_normal((2, *p.shape))
        leaf = Tensor(p, requires_grad=True)
        layer(leaf).backward(dy)
        along = layer(Tensor(p + v)).data - y_p  # the map is affine: no limit is taken
        assert abs((leaf.grad * v).sum() - (dy * along).sum()) <= 1e-11 * scale * np.abs(dy).sum()

    holds(check, examples)


FOLDED = {
    "BatchNorm": lambda c, o: nn.BatchNorm1d(c, **o),
    "GhostBatchNorm": lambda c, o: nn.GhostBatchNorm1d(c, 3, **o),
    "BatchRenorm": lambda c, o: nn.BatchRenorm1d(c, **o),
    "DecorrelatedBatchNorm": lambda c, o: nn.DecorrelatedBatchNorm1d(c, **o),
    "LayerNorm": lambda c, o: nn.LayerNorm(c),
    "none": lambda c, o: nn.Identity(),
}
FOLDED_2D = {
    "BatchNorm": lambda c, o: nn.BatchNorm2d(c, **o),
    "GhostBatchNorm": lambda c, o: nn.GhostBatchNorm2d(c, 3, **o),
    "BatchRenorm": lambda c, o: nn.BatchRenorm2d(c, **o),
    "DecorrelatedBatchNorm": lambda c, o: nn.DecorrelatedBatchNorm2d(c, **o),
    "GroupNorm": lambda c, o: nn.GroupNorm(1, c),
    "none": lambda c, o: nn.Identity(),
}


@st.composite
def nets(draw):
    """(net, shape of its inputs, how many norms can be folded); statistics, weights and biases are random."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    images, rng = draw(st.booleans()), np.random.default_rng(draw(SEEDS))
    table, layers, foldable = FOLDED_2D if images else FOLDED, [], 0
    for inputs_, outputs in itertools.pairwise(sizes):
        bias, name = draw(st.booleans()), draw(st.sampled_from(sorted(table)))
        groups = draw(st.sampled_from([d for d in (1, 2, 3) if inputs_ % d == outputs % d == 0]))
        groups = 1 if name == "DecorrelatedBatchNorm" else groups
        if images:
            layer = nn.Conv2d(inputs_, outputs, 2, padding=1, bias=bias, groups=groups)
        else:
            layer = nn.Linear(inputs_, outputs, bias)
        between = [nn.Tanh()] * draw(st.booleans())
        layers += [layer, *between, table[name](outputs, {"affine": draw(st.booleans()), "eps": 0.01}), nn.Sigmoid()]
        foldable += not between and name in TRACKING
    net = nn.Sequential(*layers).double()
    for key, value in [*net.named_buffers(), *((k, p.data) for k, p in net.named_parameters())]:
        if key.endswith("running_var"):
            value[...] = rng.uniform(0.5, 2, value.shape)
        elif not key.endswith("num_batches_tracked"):
            value[...] = rng.standard_normal(value.shape)
    return net, (draw(st.integers(0, 3)), sizes[0], *((3, 4) if images else ())), foldable


@few_or_many(60)
def test_a_folded_net_computes_the_same(examples):
    @given(nets(), SEEDS)
    def check(plan, seed):
        net, shape, foldable = plan
        x = np.random.default_rng([seed, 1]).standard_normal(shape)
        before = net.state_dict()
        folded = nn.utils.fold_batch_norm(net)
        assert sum(isinstance(m, nn.utils.Folded) for m in folded.modules()) == foldable
        check_equal([folded(Tensor(x)).data], [net.eval()(Tensor(x)).data], 1e-10)
        assert all(np.array_equal(value, before[key]) for key, value in net.state_dict().items())

    holds(check, examples)


@few_or_many(60)
def test_a_state_dict_moves_a_net(examples):
    """Into another net of the same plan: equal states, equal outputs in both modes, and nothing shared."""

    @given(nets(), SEEDS)
    def check(plan, seed):
        net, (_, *shape), _ = plan
        other = copy.deepcopy(net)
        for _, value in [*other.named_buffers(), *((k, p.data) for k, p in other.named_parameters())]:
            value[...] = 3
        other.load_state_dict(net.state_dict())
        state, moved = net.state_dict(), other.state_dict()
        assert list(state) == list(moved)
        for key in state:
            assert state[key].dtype == moved[key].dtype and np.array_equal(state[key], moved[key]), key
        x = Tensor(np.random.default_rng([seed, 1]).standard_normal((4, *shape)))
        for mode in (False, True):  # training changes both nets' statistics, in the same way
            assert np.array_equal(net.train(mode)(x).data, other.train(mode)(x).data)
        for _, value in other.named_buffers():
            value[...] = 7
        assert not any(np.shares_memory(value, state[key]) for key, value in other.state_dict().items())

    holds(check, examples)
