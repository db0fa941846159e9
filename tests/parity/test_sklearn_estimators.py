"""Scalers and whitenings as scikit-learn's estimators: its own checks, Pipeline, clone, GridSearchCV, DataFrames."""

import pickle
import warnings

import numpy as np
import pytest

from tinygrad_bn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PCAWhitening,
    RobustScaler,
    StandardScaler,
    ZCAWhitening,
)

pytest.importorskip("sklearn", reason="pip install -e '.[parity]'")
pd = pytest.importorskip("pandas", reason="pip install -e '.[parity]'")

import sklearn.preprocessing  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_iris, load_wine  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

SCALERS = [StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler]
CLASSES = [*SCALERS, PCAWhitening, ZCAWhitening]
REFERENCES = {kind: getattr(sklearn.preprocessing, kind.__name__) for kind in SCALERS}
REFERENCES[PCAWhitening] = lambda: PCA(whiten=True)
WINE = load_wine()
X, Y = WINE.data, WINE.target
FRAME = pd.DataFrame(X, columns=WINE.feature_names, index=[f"bottle {i}" for i in range(len(X))])

OTHER_SETTINGS = [
    StandardScaler(with_mean=False),
    MinMaxScaler((-1, 3), clip=True),
    RobustScaler(quantile_range=(10.0, 80.0)),
    PCAWhitening(1, eps=0.1),
    ZCAWhitening(eps=0.1),
]
IN_VAIN = {  # checks that fail, and why
    "check_complex_data": "a TypeError, as for every other dtype, where scikit-learn has a ValueError",
    "check_dtype_object": "arrays of objects are refused, also if all objects are numbers",
    "check_do_not_raise_errors_in_init_or_set_params": "wrong arguments are refused at once, and not in fit",
}
MORE_CHECKS = [  # that scikit-learn runs for its own estimators only
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_global_output_transform_pandas,
]


def fails(estimator, name):
    return name in IN_VAIN and (name != "check_do_not_raise_errors_in_init_or_set_params" or estimator.get_params())


def checks():
    for estimator in [*(kind() for kind in CLASSES), *OTHER_SETTINGS]:
        for e, check in estimator_checks.estimator_checks_generator(estimator):
            name = estimator_checks._check_name(check)
            why = IN_VAIN[name] if fails(estimator, name) else None
            error = (TypeError, ValueError)
            marks = [pytest.mark.xfail(reason=why, raises=error, strict=True)] if why else []
            yield pytest.param(e, check, id=f"{estimator!r} {name}", marks=marks)


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*does not inherit from `sklearn.base.BaseEstimator`")
    CHECKS = list(checks())


@pytest.mark.filterwarnings("ignore:.*It is recommended to delay parameter validation until fit:UserWarning")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_checks(estimator, check):
    """Those that cannot pass are listed above; of a listed one that passes, or another error, pytest says so."""
    check(estimator)


def test_every_check_listed_exists():
    assert len(CHECKS) > 40 * len(CLASSES)
    for name in IN_VAIN:
        assert sum(f" {name}" in p.id for p in CHECKS) == len(CLASSES) + len(OTHER_SETTINGS)


@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", [*(kind() for kind in CLASSES), *OTHER_SETTINGS], ids=repr)
def test_more_of_its_checks(estimator, check):
    check(type(estimator).__name__, estimator)


# clone and parameters


@pytest.mark.parametrize("estimator", [*(kind() for kind in CLASSES), *OTHER_SETTINGS], ids=repr)
def test_clone(estimator):
    for original in (clone(estimator), clone(estimator).fit(X), clone(estimator).set_output(transform="pandas")):
        copied = clone(original)
        assert copied.get_params() == estimator.get_params() and type(copied) is type(estimator)
        assert not hasattr(copied, "n_features_in_")
        assert type(copied.fit_transform(X)) is type(original.fit_transform(X))  # the output asked for


def test_clone_of_numpy_scalars_and_lists():
    """clone compares by identity what it gave with what get_params gives back."""
    for estimator in (PCAWhitening(np.int64(2), eps=np.float32(0.5)), MinMaxScaler([np.float32(0), 2])):
        copied = clone(estimator)
        np.testing.assert_array_equal(copied.fit_transform(X), estimator.fit_transform(X))


@pytest.mark.parametrize("kind", SCALERS)
def test_the_constructor_is_that_of_scikit_learn(kind):
    ours, theirs = kind().get_params(), REFERENCES[kind]().get_params()
    assert ours.items() <= theirs.items() and set(theirs) - set(ours) <= {"copy", "clip", "unit_variance"}


def test_representation_of_a_pipeline():
    steps = make_pipeline(MinMaxScaler((-1, 3)), PCAWhitening(2), KNeighborsClassifier())
    assert "MinMaxScaler(feature_range=(-1, 3))" in repr(steps) and "PCAWhitening(n_components=2)" in repr(steps)
    assert "PCAWhitening" in steps._repr_html_() and "PCAWhitening" in steps.fit(X, Y)._repr_html_()


@pytest.mark.parametrize("kind", CLASSES)
def test_not_fitted(kind):
    estimator = kind()
    for call in (estimator.transform, estimator.inverse_transform, lambda X: estimator.get_feature_names_out()):
        with pytest.raises(NotFittedError, match=f"{kind.__name__} is not fitted"):
            call(X)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    check_is_fitted(estimator.fit(X))


# Pipelines and searches


@pytest.mark.parametrize("kind", [*SCALERS, PCAWhitening])
@pytest.mark.parametrize("x", [X, FRAME, X.tolist()], ids=["array", "DataFrame", "list"])
def test_pipelines_score_as_with_scikit_learns(kind, x):
    score = lambda step: cross_val_score(make_pipeline(step, LogisticRegression(max_iter=1000)), x, Y, cv=4)
    ours, theirs = score(kind()), score(REFERENCES[kind]())
    assert np.array_equal(ours, theirs) and theirs.mean() > 0.9


def test_a_pipeline_in_a_pickle_and_with_metadata_routing():
    steps = make_pipeline(StandardScaler(), ZCAWhitening(eps=0.1), KNeighborsClassifier()).fit(FRAME, Y)
    again = pickle.loads(pickle.dumps(steps))
    assert np.array_equal(again.predict(FRAME), steps.predict(FRAME)) and steps.score(FRAME, Y) > 0.9
    with sklearn.config_context(enable_metadata_routing=True):
        assert np.array_equal(clone(steps).fit(FRAME, Y).predict(FRAME), steps.predict(FRAME))
    np.testing.assert_allclose(steps[:-1].inverse_transform(steps[:-1].transform(FRAME)), X, rtol=1e-9)


class Damped(PCA):
    """PCA(whiten=True) with a damping of its components: Var(y) = λ / (λ + eps)."""

    def __init__(self, n_components=None, *, eps=0.0):
        super().__init__(n_components, whiten=True, svd_solver="full")
        self.eps = eps

    def damping(self):
        return np.sqrt(self.explained_variance_ / (self.explained_variance_ + self.eps))

    def transform(self, X):
        return super().transform(X) * self.damping()

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)


@pytest.mark.parametrize("x", [X, FRAME, FRAME.astype("float32")], ids=["array", "DataFrame", "float32"])
@pytest.mark.parametrize("parameter", ["n_components", "eps", "both"])
def test_grid_search_scores_as_with_scikit_learns_pca(parameter, x):
    grid = {"n_components": [1, 2, 3, 5, 8, None], "eps": [0.0, 0.01, 0.3, 10.0]}
    grid = {f"whiten__{k}": v for k, v in grid.items() if parameter in (k, "both")}
    scores = {}
    for whiten in (PCAWhitening(), PCA(whiten=True, svd_solver="full") if parameter == "n_components" else Damped()):
        steps = [("scale", sklearn.preprocessing.StandardScaler()), ("whiten", whiten), ("knn", KNeighborsClassifier())]
        search = GridSearchCV(Pipeline(steps), grid, cv=4, error_score="raise").fit(x, Y)
        scores[type(whiten)] = search.cv_results_["mean_test_score"], search.best_params_, search.score(x, Y)
    (ours, best, score), (theirs, their_best, their_score) = scores.values()
    np.testing.assert_array_equal(ours, theirs)
    assert best == their_best and score == their_score and len(set(theirs)) > 2


def test_a_wrong_value_in_a_grid_is_named():
    with pytest.raises(ValueError, match=r"n_components must be >= 1, got 0"):
        GridSearchCV(make_pipeline(PCAWhitening(), KNeighborsClassifier()), {"pcawhitening__n_components": [0]}).fit(
            X, Y
        )


# DataFrames


@pytest.mark.parametrize("kind", [*SCALERS, PCAWhitening])
def test_set_output_gives_the_frames_of_scikit_learn(kind):
    for x, names in ((FRAME, FRAME.columns), (X, [f"x{i}" for i in range(X.shape[1])])):
        ours, theirs = (make().set_output(transform="pandas") for make in (kind, REFERENCES[kind]))
        if kind is PCAWhitening:
            theirs = PCA(whiten=True, svd_solver="full").set_output(transform="pandas")
            names = [f"pcawhitening{i}" for i in range(X.shape[1])]
        expected = theirs.fit(x).transform(x).set_axis(names, axis=1)
        for y in (ours.fit_transform(x, Y), ours.transform(x)):
            pd.testing.assert_frame_equal(y, expected, rtol=1e-9, atol=1e-9)
        assert isinstance(ours.inverse_transform(y), np.ndarray)
        np.testing.assert_allclose(ours.inverse_transform(y), X, rtol=1e-9, atol=1e-9)
        assert isinstance(ours.set_output(transform=None).transform(x), pd.DataFrame)
        assert isinstance(ours.set_output(transform="default").transform(x), np.ndarray)


def test_set_output_of_a_pipeline_and_beside_other_transformers():
    steps = make_pipeline(MinMaxScaler(), sklearn.preprocessing.StandardScaler(), ZCAWhitening(eps=0.1))
    y = steps.set_output(transform="pandas").fit_transform(FRAME)
    assert list(y.columns) == list(FRAME.columns) == list(steps.get_feature_names_out())
    assert list(y.index) == list(FRAME.index)
    columns = ColumnTransformer(
        [("a", StandardScaler(), ["alcohol", "hue"]), ("b", PCAWhitening(2), ["ash", "proline"])]
    )
    y = columns.set_output(transform="pandas").fit_transform(FRAME)
    assert list(y.columns) == ["a__alcohol", "a__hue", "b__pcawhitening0", "b__pcawhitening1"]
    np.testing.assert_allclose(y.iloc[:, :2], sklearn.preprocessing.scale(FRAME[["alcohol", "hue"]]), atol=1e-12)
    union = FeatureUnion([("a", MaxAbsScaler()), ("b", RobustScaler())]).set_output(transform="pandas")
    assert union.fit_transform(FRAME).shape == (len(X), 2 * X.shape[1])


def test_the_output_that_set_config_asks_for():
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(StandardScaler().fit_transform(FRAME), pd.DataFrame)
        assert isinstance(StandardScaler().set_output(transform="default").fit_transform(FRAME), np.ndarray)
    with sklearn.config_context(transform_output="polars"):
        scaler = StandardScaler().fit(FRAME)
        with pytest.raises(ValueError, match='transform_output must be "default" or "pandas", got \'polars\''):
            scaler.transform(FRAME)
    assert isinstance(StandardScaler().fit_transform(FRAME), np.ndarray)


def test_names_are_those_of_the_last_fit():
    scaler = StandardScaler().fit(FRAME)
    assert list(scaler.feature_names_in_) == list(FRAME.columns) and scaler.feature_names_in_.dtype == object
    scaler.get_feature_names_out()[:] = "a"
    scaler.get_feature_names_out(list(FRAME.columns))
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        scaler.get_feature_names_out(list(FRAME.columns)[::-1])
    with pytest.raises(ValueError, match="finite"):
        scaler.fit(X * np.nan)
    assert list(scaler.feature_names_in_) == list(FRAME.columns)
    assert not hasattr(scaler.fit(X), "feature_names_in_")
    scaler.transform(FRAME)  # nothing to compare its names with
    assert not hasattr(scaler.fit(pd.DataFrame(X)), "feature_names_in_")  # 0, 1, ... are no names
    with pytest.raises(TypeError, match=r"X must have columns whose names are all strings, or none is, got \['a', 1\]"):
        scaler.fit(pd.DataFrame(X[:, :2], columns=["a", 1]))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[x.columns[::-1]],
        lambda x: x.rename(columns={"hue": "tint", "ash": "cinder"}),
        lambda x: x.rename(columns=lambda name: name + "!"),  # more than five: the others are "..."
        lambda x: x.drop(columns=["hue", "ash"]),
        lambda x: x.assign(zinc=1.0),
    ],
)
def test_other_columns_than_those_of_fit_are_named_as_in_scikit_learn(change):
    messages = []
    for make in (StandardScaler, sklearn.preprocessing.StandardScaler):
        scaler = make().fit(FRAME)
        with pytest.raises(ValueError, match="feature names should match") as caught:
            scaler.transform(change(FRAME))
        messages.append(str(caught.value))
    assert messages[0] == f"X: {messages[1]}"


def test_dtypes_of_frames():
    """Columns are joined as NumPy joins dtypes; a float32 frame gives float32, one of integers too."""
    x = pd.DataFrame({"a": [1, 2, 4], "b": [True, False, True], "c": [0.5, 0.25, 4]})
    exact = np.array([[1, 1, 0.5], [2, 0, 0.25], [4, 1, 4]])
    expected = sklearn.preprocessing.StandardScaler().fit_transform(exact)
    for frame, columns, dtype in (
        (x, 3, "float64"),
        (x.astype({"c": "float32", "a": "int8"}), 3, "float32"),
        (x[["a", "b"]], 2, "float32"),
        (x.astype({"a": "Int64", "b": "boolean", "c": "Float64"}), 3, "float64"),
        (x.astype({"a": "Int64", "b": "boolean"})[["a", "b"]], 2, "float32"),
        (x.set_axis([[1, 1, 2], [5, 6, 5]], axis=1), 3, "float64"),
        (x.set_axis(["a", "a", "a"], axis=1), 3, "float64"),
    ):
        y = StandardScaler().fit_transform(frame)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, expected[:, :columns], rtol=1e-6, atol=1e-7)


BAD_FRAMES = {
    "strings": (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), TypeError, "numbers|floats.*in the column 'b'"),
    "objects": (pd.DataFrame({"a": [1.0, 2.0], "b": np.array([1, 2], object)}), TypeError, "object in the column 'b'"),
    "dates": (pd.DataFrame({"b": pd.to_datetime(["2020-01-01", "2021-01-01"])}), TypeError, "datetime.* column 'b'"),
    "categories": (pd.DataFrame({"b": pd.Categorical([1, 2])}), TypeError, "category in the column 'b'"),
    "sparse": (pd.DataFrame({"b": pd.arrays.SparseArray([0.0, 1.0])}), TypeError, "Sparse.* in the column 'b'"),
    "complex": (pd.DataFrame({"b": [1j, 2j]}), TypeError, "complex128 in the column 'b'"),
    "float16": (pd.DataFrame({"b": np.array([1, 2], "f2")}), TypeError, "float16"),
    "NaN": (pd.DataFrame({"b": [1.0, np.nan]}), ValueError, "finite"),
    "missing": (pd.DataFrame({"b": pd.array([1, None], dtype="Int64")}), ValueError, "finite.*missing"),
    "infinity": (pd.DataFrame({"b": [1.0, np.inf]}), ValueError, "finite"),
    "no columns": (pd.DataFrame(index=[1, 2]), ValueError, r"0 feature\(s\)"),
    "no rows": (pd.DataFrame({"b": np.zeros(0)}), ValueError, "rows"),
    "a Series": (pd.Series([1.0, 2.0]), ValueError, "2 axes"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_bad_frames_are_named(kind):
    frame, error, words = BAD_FRAMES[kind]
    with pytest.raises(error, match=f"(?s)^X .*({words})") as caught:
        StandardScaler().fit(frame)
    assert type(caught.value) is error


def test_sparse_matrices_are_named():
    sparse = pytest.importorskip("scipy.sparse")
    for x in (sparse.csr_matrix(X), sparse.coo_array(X)):
        with pytest.raises(TypeError, match=f"X must be dense, got the sparse {type(x).__name__}: X.toarray"):
            StandardScaler().fit(x)


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = load_iris(return_X_y=True, as_frame=True)
        make_pipeline(StandardScaler(), PCAWhitening(2), KNeighborsClassifier()).fit(x, y).predict(x)
