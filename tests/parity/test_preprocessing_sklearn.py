"""The scalers and PCA whitening equal scikit-learn's, in every attribute, there and back."""

import warnings

import numpy as np
import pytest

from tinygrad_bn import preprocessing

sklearn_preprocessing = pytest.importorskip("sklearn.preprocessing", reason="pip install -e '.[parity]'")
decomposition = pytest.importorskip("sklearn.decomposition", reason="pip install -e '.[parity]'")

# Of the largest magnitude in a column, at least 1. The references see float32 data in float64, as ours do: within
# float32 scikit-learn's MinMaxScaler maps a constant 1e6 to -0.5 where low = -0.544.
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-6}


def settings(name, rng):
    flag = lambda: bool(rng.random() < 0.7)
    low, high = np.sort(rng.uniform(-5, 5, 2))
    quantiles = tuple(float(q) for q in np.sort(rng.uniform(0, 100, 2)))
    return {
        "StandardScaler": {"with_mean": flag(), "with_std": flag()},
        "MinMaxScaler": {"feature_range": (float(low), float(high)), "clip": flag()},
        "MaxAbsScaler": {},
        "RobustScaler": {"with_centering": flag(), "with_scaling": flag(), "quantile_range": quantiles},
    }[name]


def data(rng, n, features):
    """Features of several scales and offsets; some constant, some nearly, some constant in most rows."""
    x = rng.standard_normal((n, features)) * 10 ** rng.uniform(-2, 2, features)
    x = x + rng.choice([0, 1, 10], features) * np.abs(x).max(axis=0)
    for j in range(features):
        kind = rng.integers(8)
        if kind == 0:
            x[:, j] = rng.choice([0.0, 0.1, -3.0, 1e6])
        elif kind == 1:
            x[:, j] = 2.0 + 1e-16 * rng.standard_normal(n)
        elif kind == 2:
            x[: n - n // 10, j] = 1.0
    return x


def close(ours, reference, dtype, what):
    assert (ours is None) == (reference is None), what
    if ours is not None:
        ours, reference = np.asarray(ours), np.asarray(reference)
        scale = np.maximum(1, np.abs(reference).max(axis=0, initial=0))
        error = float((np.abs(ours - reference) / scale).max(initial=0))
        assert ours.shape == reference.shape and error <= TOLERANCE[dtype], f"{what}: off by {error:.3g}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
def test_scalers_on_100_random_configurations(name, dtype):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n, features = int(rng.integers(1, 60)), int(rng.integers(1, 8))
        x, new = data(rng, n, features).astype(dtype), data(rng, 5, features).astype(dtype)
        keywords = settings(name, rng)
        what = f"{name}({keywords}), seed {seed}"
        ours = getattr(preprocessing, name)(**keywords).fit(x)
        reference = getattr(sklearn_preprocessing, name)(**keywords).fit(x.astype(np.float64))
        learned = [key for key in vars(reference) if key.endswith("_")]
        assert {"n_features_in_"} < set(learned) <= set(vars(ours))
        for key in learned:
            close(getattr(ours, key), getattr(reference, key), np.float64, f"{what}: {key}")
        for rows in (x, new):
            y, expected = ours.transform(rows), reference.transform(rows.astype(np.float64))
            assert y.dtype == dtype
            close(y, expected, dtype, what)
            close(ours.inverse_transform(y), reference.inverse_transform(y.astype(np.float64)), dtype, what)


def test_constant_features_are_told_alike():
    """Around the limits, from constant up to rounding to truly varying: scale 1 here where it is 1 there."""
    rng = np.random.default_rng(0)
    ones = 0
    for name in ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"):
        for _ in range(200):
            offset = rng.choice([0.0, 1.0, 1e8]) if name == "StandardScaler" else 0.0
            size = 10 ** rng.uniform(-18, -12) * max(1, offset)
            x = (offset + size * rng.random((50, 1))).astype(np.float64)
            ours = getattr(preprocessing, name)().fit(x).scale_
            reference = getattr(sklearn_preprocessing, name)().fit(x).scale_
            np.testing.assert_allclose(ours, reference, rtol=1e-6, err_msg=f"{name}, {offset}, {size}")
            ones += int(ours[0] == 1)
    assert 200 < ones < 600


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pca_whitening_on_100_random_configurations(dtype):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n, features = int(rng.integers(3, 60)), int(rng.integers(1, 12))
        x, new = rng.standard_normal((2, n, features)) @ rng.standard_normal((features, features))
        offset = rng.normal(0, 5, features)
        x, new = (x + offset).astype(dtype), (new + offset).astype(dtype)
        rank = min(n - 1, features)  # scikit-learn keeps what has no variance where n <= features; compared up to there
        k = int(rng.integers(1, rank + 1)) if rng.random() < 0.5 else None
        ours = preprocessing.PCAWhitening(k).fit(x)
        reference = decomposition.PCA(k or rank, whiten=True, svd_solver="full").fit(x.astype(np.float64))
        what = f"n_components {k}, {x.shape}, seed {seed}"
        assert ours.n_components_ == reference.n_components_ and ours.n_samples_ == n
        assert ours.n_features_in_ == reference.n_features_in_
        for key in ("mean_", "components_", "explained_variance_"):
            close(getattr(ours, key), getattr(reference, key), np.float64, f"{what}: {key}")
        for rows in (x, new):
            y, expected = ours.transform(rows), reference.transform(rows.astype(np.float64))
            assert y.dtype == dtype
            close(y, expected, dtype, what)
            close(ours.inverse_transform(y), reference.inverse_transform(y.astype(np.float64)), dtype, what)


def test_integers_give_float32_and_not_float64():
    """The one difference of the scalers: the values are scikit-learn's, rounded to the package's default dtype."""
    x = np.random.default_rng(0).integers(-100, 100, (30, 3))
    ours = preprocessing.StandardScaler().fit_transform(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions warn of the conversion
        expected = sklearn_preprocessing.StandardScaler().fit_transform(x)
    assert ours.dtype == np.float32 and expected.dtype == np.float64
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
