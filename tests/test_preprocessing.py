"""Scaling and whitening: worked examples, the properties that define each map, data without variance, bad input."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tinygrad_bn import preprocessing, tensor
from tinygrad_bn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PCAWhitening,
    RobustScaler,
    StandardScaler,
    ZCAWhitening,
)

MAKE = {
    "standard": StandardScaler,
    "mean only": lambda: StandardScaler(with_std=False),
    "std only": lambda: StandardScaler(with_mean=False),
    "nothing": lambda: StandardScaler(with_mean=False, with_std=False),
    "minmax": MinMaxScaler,
    "minmax -1 3": lambda: MinMaxScaler((-1, 3)),
    "maxabs": MaxAbsScaler,
    "robust": RobustScaler,
    "robust, no center": lambda: RobustScaler(with_centering=False, quantile_range=(10, 80)),
    "robust, no scale": lambda: RobustScaler(with_scaling=False),
    "pca": PCAWhitening,
    "pca eps": lambda: PCAWhitening(eps=0.1),
    "zca": ZCAWhitening,
    "zca eps": lambda: ZCAWhitening(eps=0.1),
}
WHITENING = [PCAWhitening, ZCAWhitening]


def correlated(n=60, features=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, features)) @ rng.standard_normal((features, features)) + rng.normal(0, 3, features)


def with_covariance(n, variances, offset=0.0, seed=0):
    """(x, axes): data whose covariance has exactly these eigenvalues, the rows of axes being its eigenvectors."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, len(variances)))
    z = np.linalg.qr(z - z.mean(axis=0))[0] * np.sqrt(n - 1)  # white: orthogonal to the constant vector and to another
    axes = np.linalg.qr(rng.standard_normal((len(variances), len(variances))))[0]
    return z * np.sqrt(variances) @ axes + offset, axes


def covariance(y):
    return np.cov(y, rowvar=False)


# Scalers

X = np.array([[1.0, -8.0], [2.0, 0.0], [3.0, 4.0], [6.0, 4.0]])
WORKED = {  # mean 3, 0; variance 14/4, 96/4; quartiles 1.75, 3.75 and -2, 4; medians 2.5, 2
    "standard": [(X - [3, 0]) / np.sqrt([3.5, 24])],
    "mean only": [X - [3, 0]],
    "std only": [X / np.sqrt([3.5, 24])],
    "nothing": [X],
    "minmax": [[[0, 0], [0.2, 8 / 12], [0.4, 1], [1, 1]]],
    "minmax -1 3": [[[-1, -1], [-0.2, 5 / 3], [0.6, 3], [3, 3]]],
    "maxabs": [[[1 / 6, -1], [1 / 3, 0], [0.5, 0.5], [1, 0.5]]],
    "robust": [(X - [2.5, 2]) / [2, 6]],
    "robust, no center": [X / [3.0 + 0.4 * 3 - 1.3, 4 - (-8 + 0.3 * 8)]],  # ranks 0.3 and 2.4 of 0 ... 3
    "robust, no scale": [X - [2.5, 2]],
}


@pytest.mark.parametrize("kind", WORKED)
def test_worked_examples(kind):
    np.testing.assert_allclose(MAKE[kind]().fit_transform(X), WORKED[kind][0], rtol=1e-14, atol=1e-15)


def test_new_data_are_scaled_by_what_the_old_ones_taught():
    new = np.array([[11.0, 16.0]])
    np.testing.assert_allclose(MinMaxScaler().fit(X).transform(new), [[2, 2]])
    np.testing.assert_allclose(MinMaxScaler((-1, 3)).fit(X).transform(new), [[7, 7]])
    np.testing.assert_array_equal(MinMaxScaler((-1, 3), clip=True).fit(X).transform(new), [[3, 3]])
    np.testing.assert_array_equal(MinMaxScaler((-1, 3), clip=True).fit(X).transform(-new), [[-1, -1]])
    np.testing.assert_allclose(StandardScaler().fit(X).transform(new), [[8 / np.sqrt(3.5), 16 / np.sqrt(24)]])
    np.testing.assert_allclose(MaxAbsScaler().fit(X).transform(new), [[11 / 6, 2]])


def test_fit_forgets_earlier_data():
    scaler = StandardScaler().fit(correlated(features=5))
    np.testing.assert_array_equal(scaler.fit(X).mean_, [3, 0])
    assert scaler.n_features_in_ == 2 and scaler.n_samples_seen_ == 4


def test_attributes():
    s = StandardScaler().fit(X)
    np.testing.assert_allclose([s.mean_, s.var_, s.scale_], [[3, 0], [3.5, 24], np.sqrt([3.5, 24])])
    s = StandardScaler(with_mean=False, with_std=False).fit(X)
    assert s.mean_ is None and s.var_ is None and s.scale_ is None
    s = MinMaxScaler((-1, 3)).fit(X)
    np.testing.assert_array_equal([s.data_min_, s.data_max_, s.data_range_], [[1, -8], [6, 4], [5, 12]])
    np.testing.assert_allclose(X * s.scale_ + s.min_, s.transform(X))
    s = RobustScaler().fit(X)
    np.testing.assert_array_equal([s.center_, s.scale_], [[2.5, 2], [2, 6]])
    np.testing.assert_array_equal(MaxAbsScaler().fit(X).max_abs_, [6, 8])


def test_minmax_meets_its_limits_exactly_far_from_zero():
    x = np.random.default_rng(0).random((100, 5)) * 1e-3 + 1e9
    y = MinMaxScaler().fit_transform(x)
    assert np.array_equal(y.min(axis=0), np.zeros(5)) and np.array_equal(y.max(axis=0), np.ones(5))


def test_robust_scaler_is_robust():
    """An outlier among 101 rows moves neither median nor quartiles; it does move mean and standard deviation."""
    x = np.arange(101.0)[:, None]
    wild = x.copy()
    wild[100] = 1e9
    assert np.array_equal(RobustScaler().fit_transform(wild)[:100], RobustScaler().fit_transform(x)[:100])
    assert np.ptp(StandardScaler().fit_transform(wild)[:100]) < 1e-5


CONSTANT = {"standard": 0, "mean only": 0, "minmax": 0, "minmax -1 3": -1, "robust": 0, "robust, no scale": 0}


@pytest.mark.parametrize("kind", CONSTANT)
@pytest.mark.parametrize("value", [0.1, 0, 123456789.1, -1e90])
def test_constant_features_get_one_finite_value(kind, value):
    x = np.column_stack([np.full(1000, value), np.arange(1000)])
    scaler = MAKE[kind]().fit(x)
    y = scaler.transform(x)
    assert np.array_equal(y[:, 0], np.full(1000, CONSTANT[kind]))
    assert np.array_equal(scaler.inverse_transform(y)[:, 0], x[:, 0])
    if kind in ("standard", "robust"):
        assert scaler.scale_[0] == 1


def test_all_zeros_under_maxabs():
    scaler = MaxAbsScaler().fit(np.zeros((3, 1)))
    assert scaler.scale_[0] == 1 and np.array_equal(scaler.transform(np.zeros((3, 1))), np.zeros((3, 1)))


def test_what_counts_as_constant():
    """Standard: what rounding of the mean can do. The others: a scale below 10 EPS."""
    noise = np.random.default_rng(0).standard_normal((100, 1))
    assert StandardScaler().fit(1e8 + 1e-8 * noise).scale_[0] == 1
    assert 0.8e-5 < StandardScaler().fit(1e8 + 1e-5 * noise).scale_[0] < 1.2e-5
    assert 0.8e-30 < StandardScaler().fit(1e-30 * noise).scale_[0] < 1.2e-30
    half = np.array([[0.0], [0.5], [1.0]])
    for make, scale in ((RobustScaler, 0.5), (MaxAbsScaler, 1), (MinMaxScaler, 1)):
        tiny, small = (make().fit(half * size).scale_[0] for size in (2e-15, 2e-14))
        assert tiny == 1
        np.testing.assert_allclose(small, 1 / 2e-14 if make is MinMaxScaler else scale * 2e-14)


def test_variance_is_exact_far_from_zero():
    x = 1e9 + np.array([[1.0], [2.0], [3.0], [6.0]])
    assert StandardScaler().fit(x).var_[0] == 3.5


def test_one_row_is_enough_for_scalers_and_zero_rows_transform():
    for kind in WORKED:
        scaler = MAKE[kind]().fit(X[:1])
        assert np.isfinite(scaler.transform(X)).all()
        assert scaler.transform(X[:0]).shape == scaler.inverse_transform(X[:0]).shape == (0, 2)
    assert PCAWhitening(1).fit(X).transform(X[:0]).shape == (0, 1)


# All classes


@pytest.mark.parametrize("kind", MAKE)
def test_inverse_restores_old_and_new_data(kind):
    x, new = correlated(), correlated(seed=1)
    t = MAKE[kind]().fit(x)
    for data in (x, new):
        np.testing.assert_allclose(t.inverse_transform(t.transform(data)), data, rtol=1e-11, atol=1e-11)
        single = data.astype(np.float32)
        np.testing.assert_allclose(t.inverse_transform(t.transform(single)), single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MAKE)
def test_dtypes(kind):
    """float32 and float64 stay, the others become float32; the numbers are those of float64, rounded once."""
    x = np.round(correlated() * 5)
    exact = MAKE[kind]().fit_transform(x)
    for given, expected in {"f8": "f8", "f4": "f4", "i8": "f4", "i1": "f4"}.items():
        t = MAKE[kind]().fit(x.astype(given))
        y = t.transform(x.astype(given))
        assert y.dtype == expected and np.array_equal(y, exact.astype(expected))
        assert t.inverse_transform(y.astype(given)).dtype == expected
    assert MAKE[kind]().fit_transform(x > 0).dtype == np.float32
    assert all(v.dtype == np.float64 for v in vars(t).values() if isinstance(v, np.ndarray))


@pytest.mark.parametrize("kind", MAKE)
def test_input_is_neither_changed_nor_shared(kind):
    x = correlated()
    before = x.copy()
    t = MAKE[kind]().fit(x)
    learned = {k: np.array(v) for k, v in vars(t).items() if isinstance(v, np.ndarray)}
    y, back = t.transform(x), t.inverse_transform(x)
    assert not np.shares_memory(y, x) and not np.shares_memory(back, x)
    y[:] = back[:] = 0
    assert np.array_equal(x, before)
    x[:] = 0
    assert all(np.array_equal(v, vars(t)[k]) for k, v in learned.items())
    before.flags.writeable = False
    assert t.transform(before).any()


@pytest.mark.parametrize("kind", MAKE)
def test_any_memory_layout(kind):
    x = correlated()
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    for same in (np.asfortranarray(x), wide, x[::-1].copy()[::-1]):
        # an element near 0 is a sum of products of size 1, taken in an order that depends on the layout
        result, expected = MAKE[kind]().fit_transform(same), MAKE[kind]().fit_transform(x)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", MAKE)
def test_the_other_order_of_bytes(kind):
    """Read from files, for example. What comes out is native."""
    x = np.round(correlated() * 5)
    for native in ("f8", "f4", "i4", "i2"):
        t, expected = MAKE[kind](), MAKE[kind]().fit(x.astype(native))
        swapped = x.astype(np.dtype(native).newbyteorder())
        assert not swapped.dtype.isnative
        y, same = t.fit_transform(swapped), expected.transform(x.astype(native))
        assert y.dtype == same.dtype and y.dtype.isnative and np.array_equal(y, same)
        back = t.inverse_transform(y.astype(y.dtype.newbyteorder()))
        assert back.dtype == y.dtype and back.dtype.isnative and np.array_equal(back, expected.inverse_transform(y))


class Convertible:
    """NumPy makes an array of it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


@pytest.mark.parametrize("kind", MAKE)
def test_lists_and_what_converts_to_an_array(kind):
    """As the array that numpy.asarray makes of them: numbers with a point float64, others integers."""
    x = np.round(correlated(20) * 5)
    for values, dtype in ((x, np.float64), (x.astype(int), np.float32)):
        expected = MAKE[kind]().fit(values)
        for same in (values.tolist(), tuple(map(tuple, values.tolist())), list(values), Convertible(values)):
            t = MAKE[kind]().fit(same, y=["not", "used"])
            y = t.transform(same)
            assert type(y) is np.ndarray and y.dtype == dtype and np.array_equal(y, expected.transform(values))
            assert np.array_equal(t.inverse_transform(y.tolist()), expected.inverse_transform(y.astype(float)))
            assert np.array_equal(MAKE[kind]().fit_transform(same, None), y)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_and_pickles(kind, again):
    new = again(MAKE[kind]())
    assert new.get_params() == MAKE[kind]().get_params() and repr(new) == repr(MAKE[kind]())
    with pytest.raises(ValueError, match="not fitted"):
        new.transform(X)
    t = MAKE[kind]().fit(correlated())
    same = again(t)
    assert np.array_equal(same.transform(correlated(seed=1)), t.transform(correlated(seed=1)))
    same.fit(X)
    assert t.n_features_in_ == 4 and t.transform(correlated()).shape == (60, 4)


# Parameters, and what else scikit-learn asks for: its own checks are in parity/test_sklearn_estimators.py


def test_parameters_are_the_objects_given():
    values = {"n_components": np.int64(2), "eps": np.float32(0.25)}
    t = PCAWhitening(**values)
    assert t.get_params() == values and all(t.get_params()[k] is v for k, v in values.items())
    pair = [-1.0, 10**30]
    t = MinMaxScaler(pair)
    assert t.get_params(deep=False) == {"feature_range": pair, "clip": False} and t.feature_range is pair
    assert t.set_params(feature_range=(0, 1), clip=True) is t
    assert t.get_params() == {"feature_range": (0, 1), "clip": True}
    assert MaxAbsScaler().get_params() == {} and MaxAbsScaler().set_params().get_params() == {}


def test_a_subclass_has_the_parameters_of_its_constructor():
    class Mine(StandardScaler):
        def __init__(self, power=2, *, with_mean=True):
            super().__init__(with_mean=with_mean)
            self.power = power

    assert Mine(3).get_params() == {"power": 3, "with_mean": True}
    assert repr(Mine(3).set_params(with_mean=False)) == "Mine(power=3, with_mean=False)"
    np.testing.assert_allclose(Mine().fit_transform(X), WORKED["standard"][0])


def test_representation():
    assert repr(StandardScaler()) == "StandardScaler()" and repr(MaxAbsScaler()) == "MaxAbsScaler()"
    assert repr(StandardScaler(with_std=False)) == "StandardScaler(with_std=False)"
    assert repr(MinMaxScaler((-1, 3), clip=True)) == "MinMaxScaler(feature_range=(-1, 3), clip=True)"
    assert repr(PCAWhitening(2, eps=0.1).fit(X)) == "PCAWhitening(n_components=2, eps=0.1)"


BAD_PARAMETERS = [
    (StandardScaler(), {"with_mean": False, "with_std": 1}, TypeError, ["with_std", "int"]),
    (
        StandardScaler(),
        {"with_mean": False, "mean": 1},
        ValueError,
        ["StandardScaler", "'mean'", "with_mean, with_std"],
    ),
    (MaxAbsScaler(), {"clip": True}, ValueError, ["MaxAbsScaler", "'clip'"]),
    (MinMaxScaler(), {"clip": True, "feature_range": (1, 0)}, ValueError, ["feature_range", "(1, 0)"]),
    (RobustScaler(), {"with_scaling": False, "quantile_range": (5, 101)}, ValueError, ["quantile_range", "101"]),
    (RobustScaler(), {"with_scaling": False, "with_centering": None}, TypeError, ["with_centering", "NoneType"]),
    (PCAWhitening(), {"n_components": 1, "eps": -1}, ValueError, ["eps", "-1"]),
    (PCAWhitening(), {"eps": 1, "n_components": 0}, ValueError, ["n_components", "0"]),
    (ZCAWhitening(), {"eps": "1"}, TypeError, ["eps", "str"]),
    (ZCAWhitening(), {"n_components": 1}, ValueError, ["ZCAWhitening", "'n_components'", "eps"]),
]


@pytest.mark.parametrize("i", range(len(BAD_PARAMETERS)))
def test_set_params_changes_all_or_nothing(i):
    t, changed, error, words = BAD_PARAMETERS[i]
    t.fit(X)
    before = copy.deepcopy(vars(t))
    with pytest.raises(error) as caught:
        t.set_params(**changed)
    assert type(caught.value) is error and all(word in str(caught.value) for word in words), caught.value
    np.testing.assert_equal(vars(t), before)


def test_what_became_wrong_after_the_constructor_is_found_in_fit():
    pair = [0, 1]
    minmax, whitening = MinMaxScaler(pair).fit(X), PCAWhitening().fit(X)
    before = minmax.transform(X), whitening.transform(X)
    pair[0] = 2
    whitening.eps = -1
    with pytest.raises(ValueError, match=r"feature_range.*\[2, 1\]"):
        minmax.fit(X + 1)
    with pytest.raises(ValueError, match=r"eps must be .* got -1"):
        whitening.fit(X + 1)
    assert np.array_equal(minmax.transform(X), before[0]) and np.array_equal(whitening.transform(X), before[1])


def test_what_was_learned_stays_until_the_next_fit():
    """A new range, a new eps, a new number of components, flags: also for inverse_transform."""
    for kind, changed in (
        ("minmax", {"feature_range": (-5, 5)}),
        ("minmax -1 3", {"feature_range": (0, 1), "clip": True}),  # all within both ranges
        ("standard", {"with_mean": False, "with_std": False}),
        ("robust", {"with_centering": False, "with_scaling": False, "quantile_range": (0, 100)}),
        ("pca", {"n_components": 1, "eps": 5}),
        ("zca", {"eps": 5}),
    ):
        t = MAKE[kind]().fit(X)
        before = t.transform(X)
        assert np.array_equal(t.set_params(**changed).transform(X), before)
        np.testing.assert_allclose(t.inverse_transform(before), X, atol=1e-12)
        expected = type(t)(**t.get_params()).fit_transform(X)
        assert not np.array_equal(expected, before) and np.array_equal(t.fit(X).transform(X), expected)


def test_feature_names():
    for kind in MAKE:
        names = MAKE[kind]().fit(X).get_feature_names_out()
        assert names.dtype == object
        assert names.tolist() == (["pcawhitening0", "pcawhitening1"] if "pca" in kind else ["x0", "x1"])
    assert PCAWhitening(1).fit(X).get_feature_names_out(["a", "b"]).tolist() == ["pcawhitening0"]
    for given in (["a", "b"], ("a", "b"), np.array(["a", "b"])):
        assert StandardScaler().fit(X).get_feature_names_out(given).tolist() == ["a", "b"]


ONE_COLUMN = StandardScaler().fit(X[:, :1])
BAD_NAMES = [
    (lambda: StandardScaler().get_feature_names_out(), ValueError, ["StandardScaler is not fitted"]),
    (lambda: ONE_COLUMN.get_feature_names_out("a"), TypeError, ["input_features", "list of strings", "'a'"]),
    (lambda: ONE_COLUMN.get_feature_names_out([1]), TypeError, ["input_features", "list of strings", "[1]"]),
    (lambda: ONE_COLUMN.get_feature_names_out(1), TypeError, ["input_features", "int 1"]),
    (lambda: ONE_COLUMN.get_feature_names_out(["a", "b"]), ValueError, ["input_features", "(1), got 2"]),
    (lambda: ONE_COLUMN.get_params(1), TypeError, ["deep", "int 1"]),
    (lambda: ONE_COLUMN.set_output(transform="polars"), ValueError, ["transform", "pandas", "'polars'"]),
    (lambda: ONE_COLUMN.set_output(transform=True), ValueError, ["transform", "pandas", "True"]),
]


@pytest.mark.parametrize("i", range(len(BAD_NAMES)))
def test_bad_names_and_outputs(i):
    call, error, words = BAD_NAMES[i]
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_neither_scikit_learn_nor_pandas_is_imported():
    code = """
import sys, numpy as np, tinygrad_bn as tb
for name in ("StandardScaler", "PCAWhitening"):
    t = getattr(tb.preprocessing, name)().set_output(transform="default").fit(np.eye(3))
    t.transform(np.eye(3)), t.get_feature_names_out(), t.set_params(**t.get_params()), repr(t)
print(sorted({"sklearn", "pandas", "scipy.sparse"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Whitening


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12])
@pytest.mark.parametrize("make", WHITENING)
def test_covariance_is_the_identity(make, condition):
    x, _ = with_covariance(500, np.logspace(0, -np.log10(condition), 12), offset=10.0)
    y = make().fit_transform(x)
    assert y.shape == x.shape
    assert np.abs(y.mean(axis=0)).max() < 1e-8 and np.abs(covariance(y) - np.eye(12)).max() < 1e-8


@pytest.mark.parametrize("make", WHITENING)
def test_a_mean_that_float64_cannot_hold_does_not_spoil_the_covariance(make):
    """Near 1e8 float64 has steps of 1.5e-8, so that the mean of data that vary by 1e-6 is off by up to 0.7 %."""
    x = 1e8 + 1e-6 * np.random.default_rng(0).standard_normal((200, 8))
    assert np.abs(covariance(make().fit_transform(x)) - np.eye(8)).max() < 1e-8


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_whitening_is_the_formula(eps):
    variances = np.array([9.0, 4.0, 1.0, 0.25])
    x, axes = with_covariance(50, variances, offset=7.0)
    centred = x - x.mean(axis=0)
    pca, zca = PCAWhitening(eps=eps).fit(x), ZCAWhitening(eps=eps).fit(x)
    signs = np.sign(axes[np.arange(4), np.abs(axes).argmax(axis=1)])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    close(pca.components_, axes * signs[:, None])
    close(pca.explained_variance_, variances)
    close(pca.transform(x), centred @ axes.T * signs / np.sqrt(variances + eps))
    close(zca.transform(x), centred @ axes.T / np.sqrt(variances + eps) @ axes)
    close(covariance(pca.transform(x)), np.diag(variances / (variances + eps)))
    close(zca.transform(x), pca.transform(x) @ pca.components_)  # a rotation apart


def test_signs_do_not_depend_on_the_data_being_mirrored():
    x = correlated()
    np.testing.assert_allclose(PCAWhitening().fit(-x).components_, PCAWhitening().fit(x).components_, rtol=1e-9)


def test_zca_is_the_whitening_closest_to_the_data():
    """Of all rotations of white data; its distance is the minimum tr(S) + features - 2 tr(S^1/2) for Cov(x) = S."""
    variances = np.array([5.0, 2.0, 1.0, 0.3, 0.1])
    x, _ = with_covariance(200, variances)
    white = {make: make().fit_transform(x) for make in WHITENING}
    distance = lambda y: float(((y - x) ** 2).sum() / 199)
    best = distance(white[ZCAWhitening])
    np.testing.assert_allclose(best, variances.sum() + 5 - 2 * np.sqrt(variances).sum(), rtol=1e-10)
    assert distance(white[PCAWhitening]) > best + 0.1
    rng = np.random.default_rng(1)
    for i in range(300):
        size = 10.0 ** rng.uniform(-3, 1)  # from close to the identity to any rotation
        q = np.linalg.qr(np.eye(5) + size * rng.standard_normal((5, 5)))[0]
        y = white[WHITENING[i % 2]] @ q
        np.testing.assert_allclose(covariance(y), np.eye(5), atol=1e-10)
        assert distance(y) >= best - 1e-9


def test_fewer_components_are_the_first_and_the_inverse_is_least_squares():
    variances = np.array([9.0, 4.0, 1.0, 0.25])
    x, axes = with_covariance(50, variances, offset=7.0)
    pca = PCAWhitening(2).fit(x)
    assert pca.n_components_ == 2 and pca.components_.shape == (2, 4)
    np.testing.assert_allclose(pca.transform(x), PCAWhitening().fit_transform(x)[:, :2], rtol=1e-10)
    residual = x - pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose((residual**2).sum() / 49, 1.25, rtol=1e-10)  # Eckart-Young: the variance left out
    np.testing.assert_allclose(residual @ axes[:2].T, 0, atol=1e-10)


def deficient(kind):
    """(x, rank): data with directions of no variance."""
    rng = np.random.default_rng(3)
    low = rng.standard_normal((100, 3)) @ rng.standard_normal((3, 6)) + rng.normal(0, 2, 6)
    wide = rng.standard_normal((5, 8))
    one = rng.standard_normal((50, 1))
    return {
        "rank 3": (low, 3),
        "rank 3 in float32": (low.astype(np.float32), 3),
        "fewer rows than features": (wide, 4),
        "dependent and far from zero": (np.hstack([one + 1e7, 3 * one + 3e8]), 1),
        "a constant feature": (np.hstack([one, np.full((50, 1), 123456789.1), one**2]), 2),
        "integers": (np.hstack([np.arange(20), np.arange(20) * 7 + 10**6]).reshape(2, 20).T, 1),
        "a faint direction in integers": (np.column_stack([np.arange(1000) * 10**6, np.arange(1000) % 2]), 2),
        "a faint direction in float64": (np.hstack([one, one + 1e-9 * one[::-1]]), 2),
    }[kind]


DEFICIENT = [
    "rank 3",
    "rank 3 in float32",
    "fewer rows than features",
    "dependent and far from zero",
    "a constant feature",
    "integers",
    "a faint direction in integers",
    "a faint direction in float64",
]


@pytest.mark.parametrize("kind", DEFICIENT)
def test_directions_without_variance(kind):
    """PCA leaves them out; ZCA maps them to 0, so that its covariance is the projector on the others."""
    x, rank = deficient(kind)
    exact = x.astype(np.float64)
    tolerance = 1e-5 if x.dtype != np.float64 else 1e-6
    pca, zca = PCAWhitening().fit(x), ZCAWhitening().fit(x)
    assert pca.n_components_ == rank and pca.transform(x).shape == (len(x), rank)
    np.testing.assert_allclose(np.atleast_2d(covariance(pca.transform(x))), np.eye(rank), atol=tolerance)
    span = np.linalg.svd(exact - exact.mean(axis=0))[2][:rank]
    np.testing.assert_allclose(covariance(zca.transform(x)), span.T @ span, atol=tolerance)
    for t in (pca, zca):
        back = t.inverse_transform(t.transform(x))
        assert np.abs(back - exact).max() <= (1e-14 if x.dtype == np.float64 else 1e-6) * np.abs(exact).max()
    assert PCAWhitening(min(x.shape)).fit(x).n_components_ == rank


def test_eps_where_there_is_no_variance():
    """ZCA multiplies by 1 / sqrt(eps), the formula at variance 0, and can then undo all; PCA leaves out as ever."""
    x = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # variance 2, 0, 0
    new = np.array([[3.0, 5.0, -7.0]])
    zca = ZCAWhitening(eps=0.25).fit(x)
    np.testing.assert_allclose(zca.transform(new), [[3 / 1.5, 5 / 0.5, -7 / 0.5]])
    np.testing.assert_allclose(zca.inverse_transform(zca.transform(new)), new)
    np.testing.assert_allclose(ZCAWhitening().fit(x).transform(new), [[3 / np.sqrt(2), 0, 0]])
    np.testing.assert_allclose(PCAWhitening(eps=0.25).fit(x).transform(new), [[2]])


# Bad input

ONES = np.ones((4, 2))
BAD = [
    (lambda: StandardScaler().fit([["1"], ["2"]]), TypeError, ["X", "floats", "<U1"]),
    (lambda: StandardScaler().fit([[1.0], [None]]), TypeError, ["X", "floats", "object"]),
    (lambda: StandardScaler().fit([[10**30], [1]]), TypeError, ["X", "floats", "object"]),
    (lambda: StandardScaler().fit([[1.0], [1.0, 2.0]]), ValueError, ["X", "rows of one length"]),
    (lambda: StandardScaler().fit([1.0, 2.0]), ValueError, ["X", "2 axes", "(2,)", "reshape(-1, 1)"]),
    (lambda: StandardScaler().fit([]), ValueError, ["X", "2 axes", "(0,)"]),
    (lambda: StandardScaler().fit([tensor(ONES[0], requires_grad=True)]), TypeError, ["X", "numbers"]),
    (lambda: StandardScaler().fit("12"), TypeError, ["X", "NumPy array", "str"]),
    (lambda: StandardScaler().fit(None), TypeError, ["X", "NumPy array", "NoneType"]),
    (lambda: StandardScaler().fit(iter(ONES)), TypeError, ["X", "NumPy array", "iterator"]),
    (lambda: StandardScaler().fit({"a": ONES[0]}), TypeError, ["X", "NumPy array", "dict"]),
    (lambda: StandardScaler().fit(Convertible("a")), TypeError, ["X", "floats", "<U1"]),
    (lambda: StandardScaler().fit(ONES.view(np.matrix)), TypeError, ["X", "matrix"]),
    (lambda: StandardScaler().fit(tensor(ONES)), TypeError, ["X", "NumPy array", "Tensor"]),
    (lambda: StandardScaler().fit(np.ma.masked_array(ONES, ONES > 0)), TypeError, ["X", "mask", "MaskedArray"]),
    (lambda: StandardScaler().fit(ONES.astype(complex)), TypeError, ["X", "complex128"]),
    (lambda: StandardScaler().fit(ONES.astype(np.float16)), TypeError, ["X", "float16"]),
    (lambda: StandardScaler().fit(ONES.astype(object)), TypeError, ["X", "object"]),
    (lambda: StandardScaler().fit(ONES.astype(str)), TypeError, ["X", "<U"]),
    (lambda: StandardScaler().fit(ONES[0]), ValueError, ["X", "2 axes", "(2,)"]),
    (lambda: StandardScaler().fit(ONES[None]), ValueError, ["X", "2 axes", "(1, 4, 2)"]),
    (lambda: StandardScaler().fit(ONES[:0]), ValueError, ["X", "1 or more rows", "(0, 2)"]),
    (lambda: StandardScaler().fit(ONES[:, :0]), ValueError, ["X", "feature", "(4, 0)"]),
    (lambda: StandardScaler().fit(ONES * np.nan), ValueError, ["X", "finite", "NaN"]),
    (lambda: StandardScaler().fit(ONES * np.inf), ValueError, ["X", "finite", "infinity"]),
    (lambda: StandardScaler().fit(ONES * -1e101), ValueError, ["X", "1e+100", "1e+101"]),
    (lambda: PCAWhitening().fit(ONES[:1]), ValueError, ["X", "2 or more rows", "(1, 2)"]),
    (lambda: PCAWhitening().fit(ONES), ValueError, ["X", "rows that differ"]),
    (lambda: ZCAWhitening(eps=1.0).fit(ONES * 0.1), ValueError, ["X", "rows that differ"]),
    (lambda: PCAWhitening(3).fit(X), ValueError, ["n_components", "2", "3"]),
    (lambda: PCAWhitening(0), ValueError, ["n_components", "0"]),
    (lambda: PCAWhitening(0.9), TypeError, ["n_components", "float"]),
    (lambda: PCAWhitening(True), TypeError, ["n_components", "bool"]),
    (lambda: PCAWhitening(eps=-1.0), ValueError, ["eps", "-1.0"]),
    (lambda: ZCAWhitening(eps=-1.0), ValueError, ["eps", "-1.0"]),
    (lambda: ZCAWhitening(eps="1"), TypeError, ["eps", "str"]),
    (lambda: ZCAWhitening(eps=np.inf), ValueError, ["eps", "inf"]),
    (lambda: StandardScaler(with_mean=1), TypeError, ["with_mean", "int"]),
    (lambda: StandardScaler(with_std=None), TypeError, ["with_std", "NoneType"]),
    (lambda: MinMaxScaler(clip="no"), TypeError, ["clip", "str"]),
    (lambda: MinMaxScaler((1, 1)), ValueError, ["feature_range", "(1, 1)"]),
    (lambda: MinMaxScaler((1, 0)), ValueError, ["feature_range", "(1, 0)"]),
    (lambda: MinMaxScaler((0, np.nan)), ValueError, ["feature_range", "nan"]),
    (lambda: MinMaxScaler((-1e308, 1e308)), ValueError, ["feature_range", "1e+100", "1e+308"]),
    (lambda: MinMaxScaler((0, 1, 2)), TypeError, ["feature_range", "pair", "(0, 1, 2)"]),
    (lambda: MinMaxScaler((False, True)), TypeError, ["feature_range", "number", "False"]),
    (lambda: MinMaxScaler(1), TypeError, ["feature_range", "pair", "1"]),
    (lambda: RobustScaler(with_centering=0), TypeError, ["with_centering", "int"]),
    (lambda: RobustScaler(with_scaling=0), TypeError, ["with_scaling", "int"]),
    (lambda: RobustScaler(quantile_range=(75, 25)), ValueError, ["quantile_range", "(75, 25)"]),
    (lambda: RobustScaler(quantile_range=(-1, 50)), ValueError, ["quantile_range", ">= 0", "<= 100", "-1"]),
    (lambda: RobustScaler(quantile_range=(5, 101)), ValueError, ["quantile_range", ">= 0", "<= 100", "101"]),
]


@pytest.mark.parametrize("i", range(len(BAD)))
def test_bad_input(i):
    call, error, words = BAD[i]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


@pytest.mark.parametrize("kind", MAKE)
def test_transform_asks_for_fit_and_for_its_features(kind):
    for name in ("transform", "inverse_transform"):
        t = MAKE[kind]()
        with pytest.raises(ValueError, match=f"{type(t).__name__} is not fitted.*fit"):
            getattr(t, name)(X)
        with pytest.raises(ValueError, match=r"X must have 2 columns.*\(60, 4\)"):
            getattr(t.fit(X), name)(correlated())
        with pytest.raises(ValueError, match="X must be finite"):
            getattr(t, name)(X * np.nan)
    with pytest.raises(ValueError, match="X must have 1 columns"):
        PCAWhitening(1).fit(X).inverse_transform(X)


@pytest.mark.parametrize("kind", MAKE)
def test_a_fit_that_fails_changes_nothing(kind):
    t = MAKE[kind]().fit(X)
    before = t.transform(X)
    for bad in (X[:0], X * np.nan, np.ones((5, 3)) * 1e200):
        with pytest.raises(ValueError):
            t.fit(bad)
    if "ca" in kind.split()[0]:
        with pytest.raises(ValueError, match="differ"):
            t.fit(np.ones((5, 3)))
    assert np.array_equal(t.transform(X), before) and t.n_features_in_ == 2


def test_public_names():
    names = {
        n for n, v in vars(preprocessing).items() if isinstance(v, type) and v.__module__ == preprocessing.__name__
    }
    classes = {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "PCAWhitening", "ZCAWhitening"}
    assert {n for n in names if not n.startswith("_")} == classes
    assert all(getattr(preprocessing, n).__doc__ for n in classes)
