"""Ghost batch norm, batch renorm and decorrelated batch norm against their papers' formulas in NumPy."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, ops, tensor

SEED = 0
EPS = 1e-5


def normal(*shape, seed=SEED):
    return np.random.default_rng(seed).standard_normal(shape)


def x_hat(x, axes=(0,), eps=EPS):
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


# Ghost batches


@pytest.mark.parametrize(("rows", "pieces"), [(12, [4, 4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (3, [3]), (5, [5])])
def test_ghosts_of_four_and_what_is_left_over(rows, pieces):
    """9 = 4 + 4 + 1: a single row has no variance, so it joins the ghost before."""
    x, ends = normal(rows, 3), np.cumsum(pieces)
    mean, var = np.zeros(3), np.ones(3)
    y = F.ghost_batch_norm(tensor(x), 4, mean, var, training=True, momentum=0.25)
    ghosts = np.split(x, ends[:-1])
    np.testing.assert_allclose(y.data, np.concatenate([x_hat(g) for g in ghosts]), rtol=0, atol=1e-13)
    weights = np.array(pieces) / rows
    batch_mean = sum(w * g.mean(axis=0) for w, g in zip(weights, ghosts, strict=True))
    batch_var = sum(w * g.var(axis=0, ddof=1) for w, g in zip(weights, ghosts, strict=True))
    np.testing.assert_allclose(mean, 0.25 * batch_mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(var, 0.75 + 0.25 * batch_var, rtol=0, atol=1e-14)


def test_a_single_image_left_over_is_a_ghost_of_its_own():
    """Its positions have a variance."""
    x = normal(5, 3, 2, 2)
    y = F.ghost_batch_norm(tensor(x), 4, training=True)
    expected = np.concatenate([x_hat(x[:4], (0, 2, 3)), x_hat(x[4:], (0, 2, 3))])
    np.testing.assert_allclose(y.data, expected, rtol=0, atol=1e-13)


def test_one_ghost_is_batch_norm_in_value_gradients_and_statistics():
    x, dy = normal(8, 3), normal(8, 3, seed=1)
    found = []
    for layer in (nn.GhostBatchNorm1d(3, 8).double(), nn.BatchNorm1d(3).double()):
        t = tensor(x, requires_grad=True)
        y = layer(t)
        y.backward(dy)
        found.append([y.data, t.grad, *(p.grad for p in layer.parameters()), *layer.state_dict().values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ghosts_do_not_see_each_other():
    """The gradient of one ghost's output does not reach another ghost's rows."""
    x = tensor(normal(8, 3), requires_grad=True)
    dy = normal(8, 3, seed=1)
    dy[4:] = 0
    F.ghost_batch_norm(x, 4, training=True).backward(dy)
    assert np.abs(x.grad[:4]).max() > 0.1 and not x.grad[4:].any()


# Renormalization


def renorm(x, mean, var, r_max, d_max):
    sigma_b, sigma = np.sqrt(x.var(axis=0) + EPS), np.sqrt(var + EPS)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = np.clip((x.mean(axis=0) - mean) / sigma, -d_max, d_max)
    return x_hat(x) * r + d


@pytest.mark.parametrize(("r_max", "d_max"), [(1.0, 0.0), (1.2, 0.3), (1e9, 1e9)])
def test_renorm_is_the_papers_formula(r_max, d_max):
    x, mean, var = normal(16, 4) * [1, 2, 0.5, 1] + [0, 1, -2, 0.1], normal(4, seed=1), normal(4, seed=2) ** 2 + 0.1
    running = mean.copy(), var.copy()
    y = F.batch_renorm(tensor(x), *running, training=True, momentum=0.2, r_max=r_max, d_max=d_max)
    np.testing.assert_allclose(y.data, renorm(x, mean, var, r_max, d_max), rtol=0, atol=1e-12)
    np.testing.assert_allclose(running[0], 0.8 * mean + 0.2 * x.mean(axis=0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(running[1], 0.8 * var + 0.2 * x.var(axis=0, ddof=1), rtol=0, atol=1e-14)


def test_unclipped_renorm_gives_in_training_what_it_gives_in_eval():
    x, mean, var = tensor(normal(16, 4)), normal(4, seed=1), normal(4, seed=2) ** 2 + 0.1
    train = F.batch_renorm(x, mean.copy(), var.copy(), training=True, r_max=1e9, d_max=1e9)
    np.testing.assert_allclose(train.data, F.batch_renorm(x, mean, var).data, rtol=0, atol=1e-12)


def test_the_gradient_of_renorm_takes_r_and_d_for_constants():
    """dx = gamma r times batch norm's, dgamma = sum(dy (x_hat r + d)), dbeta = sum(dy)."""
    x, mean, var = normal(16, 4), normal(4, seed=1), normal(4, seed=2) ** 2 + 0.1
    gamma, beta, dy = normal(4, seed=3), normal(4, seed=4), normal(16, 4, seed=5)
    args = [tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    F.batch_renorm(args[0], mean, var, args[1], args[2], True, 0.0, r_max=1.5, d_max=0.4).backward(dy)
    r = np.clip(np.sqrt(x.var(axis=0) + EPS) / np.sqrt(var + EPS), 1 / 1.5, 1.5)
    g, hat = dy * gamma * r, x_hat(x)
    dx = (g - g.mean(axis=0) - hat * (g * hat).mean(axis=0)) / np.sqrt(x.var(axis=0) + EPS)
    np.testing.assert_allclose(args[0].grad, dx, rtol=0, atol=1e-12)
    np.testing.assert_allclose(args[1].grad, (dy * renorm(x, mean, var, 1.5, 0.4)).sum(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(args[2].grad, dy.sum(axis=0), rtol=0, atol=1e-12)


def test_the_limits_of_renorm_open_as_batches_pass():
    layer = nn.BatchRenorm1d(3, r_max=3.0, d_max=5.0, warmup=2, r_ramp=4, d_ramp=2)
    limits = []
    for _ in range(8):
        limits.append(layer.limits())
        layer(tensor(normal(6, 3).astype(np.float32)))
    assert limits == [(1, 0), (1, 0), (1, 0), (1.5, 2.5), (2, 5), (2.5, 5), (3, 5), (3, 5)]


def test_renorm_is_batch_norm_while_it_warms_up():
    x = tensor(normal(6, 3).astype(np.float32))
    a, b = nn.BatchRenorm1d(3, momentum=0.1), nn.BatchNorm1d(3)
    np.testing.assert_allclose(a(x).data, b(x).data, rtol=0, atol=1e-6)
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value, b.state_dict()[name])


# Decorrelation


def correlated(n, d, seed=SEED):
    return normal(n, d, seed=seed) @ normal(d, d, seed=seed + 1) + normal(d, seed=seed + 2)


@pytest.mark.parametrize("method", ["zca", "pca"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_output_has_the_identity_for_covariance(method, dtype):
    """Up to eps over the smallest eigenvalue; a mean of 1e3 changes nothing."""
    x = (correlated(400, 6) + 1e3).astype(dtype)
    y = F.decorrelated_batch_norm(tensor(x), training=True, method=method, eps=0.0).data
    error = np.abs(np.cov(y.T, bias=True) - np.eye(6)).max()
    assert error < (1e-8 if dtype == np.float64 else 1e-3)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-10 if dtype == np.float64 else 1e-4)


def test_zca_is_the_symmetric_root_and_pca_a_rotation_of_it():
    x = correlated(50, 4)
    sigma = np.cov(x.T, bias=True) + 1e-3 * np.eye(4)
    matrices = {}
    for method in ("zca", "pca"):
        matrix = np.zeros((1, 4, 4))
        F.decorrelated_batch_norm(tensor(x), None, matrix, training=True, momentum=1.0, eps=1e-3, method=method)
        matrices[method] = matrix[0]
    zca, pca = matrices["zca"], matrices["pca"]
    np.testing.assert_allclose(zca, zca.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(zca @ sigma @ zca, np.eye(4), rtol=0, atol=1e-10)
    rotation = pca @ np.linalg.inv(zca)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), rtol=0, atol=1e-10)
    assert np.all(np.diff(np.linalg.norm(pca, axis=1)) < 0)  # eigenvalues ascend, so their inverse roots descend


def test_groups_are_whitened_apart():
    x = correlated(60, 6).reshape(20, 3, 6).transpose(0, 2, 1)  # (N, C, L)
    y = F.decorrelated_batch_norm(tensor(x), training=True, group_size=2, eps=0.0).data
    covariance = np.cov(y.transpose(1, 0, 2).reshape(6, -1), bias=True)
    blocks = np.kron(np.eye(3), np.ones((2, 2))) > 0
    np.testing.assert_allclose(covariance[blocks], np.eye(6)[blocks], rtol=0, atol=1e-10)
    assert np.abs(covariance[~blocks]).max() > 0.05
    for g in range(3):
        alone = F.decorrelated_batch_norm(tensor(x[:, 2 * g : 2 * g + 2]), training=True, eps=0.0).data
        np.testing.assert_allclose(y[:, 2 * g : 2 * g + 2], alone, rtol=0, atol=1e-12)


def test_groups_of_one_are_batch_norm():
    x, dy = normal(7, 3, 2), normal(7, 3, 2, seed=1)
    found = []
    for fn in (F.batch_norm, lambda *a, **k: F.decorrelated_batch_norm(*a, **k, group_size=1)):
        t = tensor(x, requires_grad=True)
        y = fn(t, None, None, training=True)
        y.backward(dy)
        found.append((y.data, t.grad))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_eval_uses_the_running_mean_and_matrix():
    layer = nn.DecorrelatedBatchNorm1d(4, momentum=1.0, affine=False).double()
    x = correlated(50, 4)
    y = layer(tensor(x)).data
    np.testing.assert_allclose(layer.eval()(tensor(x)).data, y, rtol=0, atol=1e-12)
    t = tensor(x[:1], requires_grad=True)  # a single row is no problem in eval, and its gradient is W^T dy
    dy = normal(1, 4, seed=3)
    layer(t).backward(dy)
    np.testing.assert_allclose(t.grad, dy @ layer.running_matrix[0], rtol=0, atol=1e-12)


def test_running_matrices_average():
    layer = nn.DecorrelatedBatchNorm1d(3, momentum=None)
    matrices = []
    for seed in range(3):
        x = correlated(40, 3, seed).astype(np.float32)
        layer(tensor(x))
        values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True) + 1e-5 * np.eye(3))
        matrices.append(vectors / np.sqrt(values) @ vectors.T)
    np.testing.assert_allclose(layer.running_matrix[0], np.mean(matrices, axis=0), rtol=1e-4)


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_the_layer_whitens_by_its_method_and_in_its_groups(method):
    x = tensor(correlated(50, 6))
    layer = nn.DecorrelatedBatchNorm1d(6, group_size=3, method=method).double()
    expected = F.decorrelated_batch_norm(x, training=True, group_size=3, method=method)
    np.testing.assert_array_equal(layer(x).data, expected.data)


def test_the_size_of_groups():
    sizes = {n: nn.DecorrelatedBatchNorm1d(n).group_size for n in (1, 6, 64, 65, 100, 67)}
    assert sizes == {1: 1, 6: 6, 64: 64, 65: 13, 100: 50, 67: 1}


def test_the_gradient_of_pca_grows_where_eigenvalues_meet_and_that_of_zca_does_not():
    steps = {}
    for method in ("zca", "pca"):
        steps[method] = []
        for gap in (1e-2, 1e-6):
            x = normal(40, 2)
            x -= x.mean(axis=0)
            x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T * [1, 1 + gap]
            t = tensor(x, requires_grad=True)
            F.decorrelated_batch_norm(t, training=True, method=method).backward(normal(40, 2, seed=1))
            steps[method].append(np.abs(t.grad).max())
    assert steps["pca"][1] > 1000 * steps["pca"][0]
    assert steps["zca"][1] < 2 * steps["zca"][0]


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_nan_and_infinity_spread_over_their_group_alone(method):
    for bad in (np.nan, np.inf):
        x = normal(20, 4)
        x[3, 1] = bad
        t = tensor(x, requires_grad=True)
        with np.errstate(invalid="ignore"):
            y = F.decorrelated_batch_norm(t, training=True, group_size=2, method=method)
            y.backward(normal(20, 4, seed=1))
        assert np.isnan(y.data[:, :2]).all() and np.isfinite(y.data[:, 2:]).all()
        assert np.isfinite(t.grad[:, 2:]).all()


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_more_channels_than_values_at_any_scale(method):
    """Rounding makes tiny negative eigenvalues of zeros: no NaN comes of them (but in PCA's gradient: equal ones)."""
    for scale in (1.0, 1e5, 1e15):
        t = tensor((normal(16, 64) * scale).astype(np.float32), requires_grad=True)
        y = F.decorrelated_batch_norm(t, training=True, method=method)
        with np.errstate(all="ignore"):
            y.backward(normal(16, 64, seed=1).astype(np.float32))
        assert np.isfinite(y.data).all() and (method == "pca" or np.isfinite(t.grad).all())


def test_the_axes_of_pca_do_not_flip_from_batch_to_batch():
    """Their signs are fixed, so that the running matrix is an average of like with like."""
    matrices = []
    for seed in range(10):
        x = normal(300, 3, seed=seed) * [1, 3, 9]
        matrix = np.zeros((1, 3, 3))
        F.decorrelated_batch_norm(tensor(x), None, matrix, training=True, momentum=1.0, method="pca")
        matrices.append(matrix[0])
    assert (np.sign([np.diag(m) for m in matrices]) == 1).all()


def test_defaults_of_renorm_are_the_papers():
    layer = nn.BatchRenorm1d(2)
    assert layer.momentum == 0.01
    found = []
    for batches in (4999, 5000, 15000, 25000, 40000, 10**6):
        layer.num_batches_tracked[...] = batches
        found.append(layer.limits())
    expected = [(1, 0), (1, 0), (1 + 2 * 10 / 35, 2.5), (1 + 2 * 20 / 35, 5), (3, 5), (3, 5)]
    np.testing.assert_allclose(found, expected)
    at_once = nn.BatchRenorm1d(2, warmup=0, r_ramp=0, d_ramp=0, r_max=2.0, d_max=1.0)
    assert at_once.limits() == (2.0, 1.0)


def test_whitening_matrix_of_equal_eigenvalues():
    """Sigma = 1: the Lyapunov form of the gradient has nothing to divide by."""
    a = tensor(np.eye(3), requires_grad=True)
    dy = normal(3, 3)
    ops.whitening.inverse_sqrt(a).backward(dy)
    np.testing.assert_allclose(a.grad, -(dy + dy.T) / 4, rtol=0, atol=1e-14)  # d(A^-1/2) = -dA / 2 at A = 1
