"""Feature scaling and whitening: learn an affine map from the training data, apply it to any data, undo it.

    feature by feature, y = (x - center) / scale          center     scale
        StandardScaler                                    mean       standard deviation
        MinMaxScaler (into another range if asked)        minimum    range
        MaxAbsScaler                                      0          largest |x|
        RobustScaler                                      median     interquartile range

    all features together, so that Cov(y) = I             with Cov(x) = U Λ U^T
        PCAWhitening                                      y = Λ^{-1/2} U^T (x - mean)
        ZCAWhitening                                      y = U Λ^{-1/2} U^T (x - mean)

X is a NumPy array (rows, features), one example a row, and so is the answer, always a new array. Names, attributes and
results are scikit-learn's. All is computed in float64, and float32 and float64 arrays give their own dtype back;
integers and booleans give float32, the default of ``tensor`` (float64 in scikit-learn). NaN is an error here. OpenBLAS
computes with one thread meanwhile: the bits of a decomposition would depend on their number (blas.py).

All six work in scikit-learn's Pipeline, clone and GridSearchCV. For that X may also be a pandas DataFrame, whose names
of columns fit keeps in feature_names_in_, a list of rows, or another object that NumPy makes an array of.

Errors: TypeError for what is not an array of numbers (of a Tensor pass .data); ValueError for a wrong rank or number of
features, too few rows in fit, NaN or infinity, magnitudes above 1e100 in fit, a call before fit. A fit that fails
changes nothing.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .checks import FLOATS, Array, check_flag, check_int, check_iterable, check_number
from .engine.tensors import Tensor
from .runtime.blas import one_thread

EPS = float(np.finfo(np.float64).eps)
LARGEST = 1e100  # squares and their sums stay far from overflow
E = TypeVar("E", bound="_Estimator")
Self = TypeVar("Self", bound="_Scaler")


class _Estimator:
    """What scikit-learn asks of a transformer besides fit and transform. It is not imported unless it is in use.

    The constructor stores its arguments as the very objects given, which clone compares; _check looks at them there,
    in set_params, and again in fit, for they may have been changed since.
    """

    n_features_in_: int

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

    def _check(self) -> None:
        """An error for a wrong argument."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """{name: value} of the constructor's arguments. deep (default True) changes nothing: none is an estimator.

        Errors: TypeError for a deep that is not a bool.

        >>> tb.preprocessing.StandardScaler(with_mean=False).get_params()
        {'with_mean': False, 'with_std': True}
        """
        check_flag("deep", deep)
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self: E, **params: object) -> E:
        """Give arguments of the constructor other values, by name; returns self. What fit has learned stays.

        Errors: ValueError for an unknown name, and those of the constructor; nothing has changed then.

        >>> tb.preprocessing.PCAWhitening().set_params(n_components=2)
        PCAWhitening(n_components=2)
        """
        known = self._defaults()
        for name in params:
            if name not in known:
                have = f"must be among {', '.join(known)}" if known else "must not be given"
                raise ValueError(f"the parameters of {type(self).__name__} {have}, got {name!r:.40}")
        trial = copy.copy(self)
        vars(trial).update(params)
        trial._check()
        vars(self).update(params)
        return self

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> Array:
        """The names of the columns of what transform returns, an array of str objects.

        They are those of the columns of X: of the DataFrame that fit got, or else input_features; if that is None
        (default), x0, x1, ... PCAWhitening makes other features: pcawhitening0, pcawhitening1, ...
        Errors: TypeError for what are not strings; ValueError for another number of them, for others than those of
        the DataFrame, and before fit.

        >>> scaler = tb.preprocessing.StandardScaler().fit(np.array([[1.0, 2.0], [3.0, 5.0]]))
        >>> scaler.get_feature_names_out(["height", "width"])
        array(['height', 'width'], dtype=object)
        """
        width, learned = self._width(), getattr(self, "feature_names_in_", None)
        names = [f"x{i}" for i in range(width)] if learned is None else list(learned)
        if input_features is not None:
            given = check_iterable("input_features", input_features, "strings")
            if isinstance(input_features, str) or not all(isinstance(name, str) for name in given):
                raise TypeError(f"input_features must be a list of strings or None, got {input_features!r:.40}")
            if len(given) != width:
                expected = f"input_features should have length equal to number of features ({width})"
                raise ValueError(f"{expected}, got {len(given)}")
            if learned is not None and given != names:
                raise ValueError(f"input_features is not equal to feature_names_in_, {names}, got {given}")
            names = given
        return np.array(self._renamed(names), dtype=object)

    def set_output(self: E, *, transform: str | None = None) -> E:
        """What transform and fit_transform return from now on; returns self.

        transform: "default", an array; "pandas", a DataFrame with the columns get_feature_names_out() and X's index, if
        X is a DataFrame; None (default), as before. At first it is what sklearn.set_config says.
        Errors: ValueError for another transform.

        >>> scaler = tb.preprocessing.StandardScaler().set_output(transform="pandas")
        """
        if transform is not None:  # under a name of scikit-learn's, because clone copies that
            self._sklearn_output_config = {"transform": _container("transform", transform)}
        return self

    def _width(self, inverse: bool = False) -> int:
        if not self.__sklearn_is_fitted__():
            sklearn = sys.modules.get("sklearn.exceptions")  # its error, a ValueError too, for those who catch it
            kind = ValueError if sklearn is None else sklearn.NotFittedError
            raise kind(f"this {type(self).__name__} is not fitted: call fit first")
        return getattr(self, "n_components_", self.n_features_in_) if inverse else self.n_features_in_

    def _renamed(self, names: list[str]) -> list[str]:
        """The columns that come out where those of these names go in."""
        return names

    def _contained(self, y: Array, X: Any) -> Any:
        """y, computed from X, as the array or the DataFrame that is wanted."""
        container = getattr(self, "_sklearn_output_config", {}).get("transform")
        sklearn = sys.modules.get("sklearn")
        if container is None and sklearn is not None:
            container = _container("sklearn.set_config's transform_output", sklearn.get_config()["transform_output"])
        if container != "pandas":
            return y
        import pandas  # type: ignore

        index = X.index if isinstance(X, pandas.DataFrame) else None
        return pandas.DataFrame(y, index=index, columns=self.get_feature_names_out())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags, TransformerTags  # type: ignore

        kept = TransformerTags(preserves_dtype=["float64", "float32"])
        return Tags(estimator_type=None, target_tags=TargetTags(required=False), transformer_tags=kept)

    def __repr__(self) -> str:
        values = {name: (getattr(self, name, default), default) for name, default in self._defaults().items()}
        shown = [f"{name}={value!r}" for name, (value, default) in values.items() if repr(value) != repr(default)]
        return f"{type(self).__name__}({', '.join(shown)})"


class _Scaler(_Estimator):
    """The frame: checks, dtypes, fit first. A class adds _fit, and _transform and _inverse if its map is another."""

    _center: Any = 0.0
    _scale: Any = 1.0
    _least_rows = 1

    @one_thread
    def fit(self: Self, X: ArrayLike, y: object = None) -> Self:
        """Learn from X (n, features); returns self. Fitting again forgets the earlier data.

        y is not used (default None): scikit-learn gives the classes to every step of a Pipeline.
        Errors: TypeError, ValueError for another X, for too few rows, and values above 1e100; nothing has changed then.

        >>> tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]])).mean_
        array([2.])
        """
        self._check()
        x, dtype = _checked(X)
        names = _column_names(X)
        if len(x) < self._least_rows:
            raise ValueError(f"X must have {self._least_rows} or more rows, got {len(x)} sample(s), shape {x.shape}")
        if x.shape[1] == 0:  # the second half in scikit-learn's words, which its checks look for
            got = f"0 feature(s) (shape={x.shape}) while a minimum of 1 is required."
            raise ValueError(f"X must have a feature to fit, got {got}")
        if np.abs(x).max() > LARGEST:
            raise ValueError(f"X must not exceed {LARGEST:g} in magnitude, got {np.abs(x).max():g}")
        learned = {**self._fit(x, dtype), "n_features_in_": x.shape[1]}
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(learned if names is None else {**learned, "feature_names_in_": names})
        return self

    @one_thread
    def transform(self, X: ArrayLike) -> Array:
        """The learned map applied to every row of X (n, features); n may be 0.

        Errors: TypeError, ValueError for another X, for a DataFrame with other columns than fit's, and before fit.

        >>> scaler = tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]]))
        >>> scaler.transform(np.array([[5.0]]))  # (5 - 2) / 1
        array([[3.]])
        """
        self._width()
        self._compare_names(_column_names(X))
        x, dtype = _checked(X)
        if x.shape[1] != self.n_features_in_:  # the second half in scikit-learn's words
            kind = f"{type(self).__name__} is expecting {self.n_features_in_} features as input"
            got = f"got shape {x.shape}: X has {x.shape[1]} features, but {kind}"
            raise ValueError(f"X must have {self.n_features_in_} columns, as learned in fit, {got}")
        y: Array = self._contained(self._transform(x).astype(_output_dtype(dtype), copy=False), X)
        return y

    @one_thread
    def inverse_transform(self, X: ArrayLike) -> Array:
        """The data whose transform is X. Errors: TypeError, ValueError for another X, and before fit.

        >>> scaler = tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]]))
        >>> scaler.inverse_transform(np.array([[3.0]]))
        array([[5.]])
        """
        width = self._width(inverse=True)
        y, dtype = _checked(X)
        if y.shape[1] != width:
            raise ValueError(f"X must have {width} columns, as learned in fit, got shape {y.shape}")
        x: Array = self._inverse(y).astype(_output_dtype(dtype), copy=False)
        return x

    def fit_transform(self, X: ArrayLike, y: object = None) -> Array:
        """fit(X), then transform(X), and their Errors. y is not used (default None).

        >>> tb.preprocessing.StandardScaler().fit_transform(np.array([[1.0], [3.0]]))
        array([[-1.],
               [ 1.]])
        """
        return self.fit(X).transform(X)

    def _compare_names(self, names: Array | None) -> None:
        """The columns of X with those of fit, where both have names. The words are scikit-learn's."""
        learned = getattr(self, "feature_names_in_", None)
        if names is None or learned is None or list(names) == list(learned):
            return
        message = "X: The feature names should match those that were passed during fit.\n"
        unseen, missing = sorted({*names} - {*learned}), sorted({*learned} - {*names})
        for what, which in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
            if which:
                more = ["..."] if len(which) > 5 else []
                message += f"Feature names {what}:\n" + "".join(f"- {name}\n" for name in which[:5] + more)
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        """What x teaches, by attribute; dtype is that of the data before they became float64."""
        raise NotImplementedError

    def _transform(self, x: Array) -> Any:
        return (x - self._center) / self._scale

    def _inverse(self, y: Array) -> Any:
        return y * self._scale + self._center


def _is_frame(X: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(X, pandas.DataFrame)


def _column_names(X: Any) -> Array | None:
    """The names of a DataFrame's columns, if they are strings."""
    if not _is_frame(X) or not any(isinstance(name, str) for name in X.columns):
        return None
    if not all(isinstance(name, str) for name in X.columns):
        raise TypeError(f"X must have columns whose names are all strings, or none is, got {list(X.columns)}")
    return np.array(list(X.columns), dtype=object)


def _array_of(X: Any) -> Array:
    """X as a plain array. NumPy alone would take the numbers out of a masked array and of a Tensor without a word."""
    if _is_frame(X):
        return _joined(X)
    if hasattr(X, "toarray"):
        raise TypeError(f"X must be dense, got the sparse {type(X).__name__}: X.toarray() is dense")
    plain = type(X) in (np.ndarray, np.memmap) if isinstance(X, np.ndarray) else hasattr(X, "__array__")
    if isinstance(X, Tensor) or not (plain or isinstance(X, (list, tuple))):
        what = "a plain NumPy array (no mask, no matrix), a DataFrame or a list of rows"
        raise TypeError(f"X must be {what}, got {type(X).__name__}")
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X must have rows of one length: {error}") from error
    except Exception as error:  # a Tensor in a list, and whatever an object's own conversion raises
        raise TypeError(f"X must hold numbers: {error}") from error


def _joined(X: Any) -> Array:
    """The columns of a DataFrame in one dtype. Its own to_numpy makes objects of booleans beside floats."""
    dtypes = [getattr(dtype, "numpy_dtype", dtype) for dtype in X.dtypes]  # int64 for pandas' own Int64
    for name, dtype in zip(X.columns, dtypes, strict=True):
        if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub":
            raise TypeError(f"X must hold floats, integers or booleans, got {dtype} in the column {name!r:.40}")
    if X.isna().to_numpy().any():
        raise ValueError("X must be finite, got NaN or a missing value")
    array: Array = X.to_numpy(dtype=np.result_type(*dtypes or [np.float64]))
    return array


def _checked(X: Any) -> tuple[Array, Any]:
    """(X in float64, its own dtype). The array may share X's memory: nothing here writes to it."""
    x = _array_of(X)
    dtype = x.dtype.newbyteorder("=")  # a file may have another order of bytes
    if dtype not in FLOATS and dtype.kind not in "biu":
        raise TypeError(f"X must hold floats (32 or 64 bit), integers or booleans, got {dtype}")
    if x.ndim != 2:
        remedy = ". Reshape your data: X.reshape(-1, 1) is one feature, X.reshape(1, -1) one row" if x.ndim == 1 else ""
        raise ValueError(f"X must have 2 axes (rows, features), got shape {x.shape}{remedy}")
    if not np.isfinite(x).all():
        raise ValueError("X must be finite, got NaN or infinity")
    return np.asarray(x, dtype=np.float64), dtype


def _output_dtype(dtype: Any) -> Any:
    return dtype if dtype in FLOATS else np.float32


def _container(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in ("default", "pandas"):
        raise ValueError(f'{name} must be "default" or "pandas", got {value!r:.40}')
    return value


def _interval(name: str, value: Any, least: float = -LARGEST, most: float = LARGEST) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {value!r}")
    low, high = (check_number(name, v, least, most) for v in value)
    if low >= high:
        raise ValueError(f"{name} must have its smaller number first, got {value!r}")
    return low, high


def _centred(x: Array) -> tuple[Array, Array]:
    """mean and x - mean. A second pass takes the rounding out of both, so that of a constant nothing is left."""
    mean = x.mean(axis=0)
    mean = mean + (x - mean).mean(axis=0)
    rest = x - mean
    return mean, rest - rest.mean(axis=0)


def _one_where_zero(scale: Array) -> Array:
    """A constant feature has scale 0 (up to rounding: below 10 EPS) and is divided by 1 instead."""
    return np.where(scale < 10 * EPS, 1.0, scale)


class StandardScaler(_Scaler):
    """Mean 0 and variance 1:  y = (x - mean_) / scale_,  scale_ = sqrt(var_),  var_ = mean((x - mean_)^2).

    with_mean=False leaves out the centering, with_std=False the scaling. A feature whose variance is no more than
    rounding makes of a constant, var_ <= n EPS var_ + (n EPS mean_)^2 (Chan, Golub & LeVeque 1983), counts as
    constant: its scale_ is 1, so that it becomes 0 and not 0 / 0.
    Attributes: mean_, var_, scale_ (features,), None where not used; n_samples_seen_, n_features_in_.

    Errors: TypeError for flags that are not bools. Source: sklearn.preprocessing.StandardScaler.

    >>> tb.preprocessing.StandardScaler().fit_transform(np.array([[1.0, 7.0], [3.0, 7.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean, self.with_std = with_mean, with_std
        self._check()

    def _check(self) -> None:
        check_flag("with_mean", self.with_mean)
        check_flag("with_std", self.with_std)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        n, (mean, rest), var, scale = len(x), _centred(x), None, None
        if self.with_std:
            var = (rest**2).mean(axis=0)
            constant = var <= n * EPS * var + (n * EPS * mean) ** 2
            scale = np.where(constant, 1.0, np.sqrt(var))
        learned = {"_center": mean if self.with_mean else 0.0, "_scale": scale if self.with_std else 1.0}
        mean_ = mean if self.with_mean or self.with_std else None
        return {**learned, "mean_": mean_, "var_": var, "scale_": scale, "n_samples_seen_": n}


class MinMaxScaler(_Scaler):
    """Minimum to low, maximum to high:  y = (x - data_min_) / data_range_ (high - low) + low.

    feature_range=(low, high). clip=True keeps new data within it too (which inverse_transform cannot undo). A constant
    feature (range below 10 EPS) is divided by 1 and becomes low.
    Attributes: data_min_, data_max_, data_range_; scale_ and min_, with which y = x scale_ + min_ (features,);
    n_samples_seen_, n_features_in_. Errors: ValueError unless low < high.

    Source: sklearn.preprocessing.MinMaxScaler.

    >>> scaler = tb.preprocessing.MinMaxScaler().fit(np.array([[10.0], [20.0]]))
    >>> scaler.transform(np.array([[10.0], [15.0], [30.0]]))  # new data may lie outside
    array([[0. ],
           [0.5],
           [2. ]])
    """

    _range: tuple[float, float]  # set_params may have changed feature_range since

    def __init__(self, feature_range: tuple[float, float] = (0, 1), *, clip: bool = False) -> None:
        self.feature_range, self.clip = feature_range, clip
        self._check()

    def _check(self) -> None:
        _interval("feature_range", self.feature_range)
        check_flag("clip", self.clip)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        low, high = _interval("feature_range", self.feature_range)
        smallest, largest = x.min(axis=0), x.max(axis=0)
        divisor = _one_where_zero(largest - smallest)
        scale = (high - low) / divisor
        learned = {"_center": smallest, "_scale": divisor, "scale_": scale, "min_": low - smallest * scale}
        learned["_range"] = low, high
        data = {"data_min_": smallest, "data_max_": largest, "data_range_": largest - smallest}
        return {**learned, **data, "n_samples_seen_": len(x)}

    def _transform(self, x: Array) -> Any:
        low, high = self._range  # not x scale_ + min_, where a minimum far from 0 would cost digits
        y = super()._transform(x) * (high - low) + low
        return np.clip(y, low, high) if self.clip else y

    def _inverse(self, y: Array) -> Any:
        low, high = self._range
        return super()._inverse((y - low) / (high - low))


class MaxAbsScaler(_Scaler):
    """Into [-1, 1], zeros stay zeros:  y = x / scale_,  scale_ = max_abs_ = max |x|,  1 where that is below 10 EPS.

    Attributes: max_abs_, scale_ (features,); n_samples_seen_, n_features_in_.

    Source: sklearn.preprocessing.MaxAbsScaler.

    >>> tb.preprocessing.MaxAbsScaler().fit_transform(np.array([[-4.0], [0.0], [2.0]]))
    array([[-1. ],
           [ 0. ],
           [ 0.5]])
    """

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        largest = np.abs(x).max(axis=0)
        scale = _one_where_zero(largest)
        return {"_scale": scale, "scale_": scale, "max_abs_": largest, "n_samples_seen_": len(x)}


class RobustScaler(_Scaler):
    """Outliers do not move it:  y = (x - center_) / scale_,  center_ the median, scale_ the interquartile range.

    with_centering=False and with_scaling=False leave out the one or the other. quantile_range=(low, high), in percent,
    defines the range, by linear interpolation between sorted values. A feature that is constant between the two
    quantiles (range below 10 EPS) is divided by 1, also if it varies outside.
    Attributes: center_, scale_ (features,), None where not used; n_features_in_.
    Errors: ValueError unless 0 <= low < high <= 100.

    Source: sklearn.preprocessing.RobustScaler.

    >>> x = np.array([[1.0], [2.0], [3.0], [4.0], [1000.0]])  # the median is 3, the quartiles are 2 and 4
    >>> tb.preprocessing.RobustScaler().fit_transform(x).ravel()
    array([ -1. ,  -0.5,   0. ,   0.5, 498.5])
    """

    def __init__(
        self,
        *,
        with_centering: bool = True,
        with_scaling: bool = True,
        quantile_range: tuple[float, float] = (25.0, 75.0),
    ) -> None:
        self.with_centering, self.with_scaling, self.quantile_range = with_centering, with_scaling, quantile_range
        self._check()

    def _check(self) -> None:
        check_flag("with_centering", self.with_centering)
        check_flag("with_scaling", self.with_scaling)
        _interval("quantile_range", self.quantile_range, 0, 100)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        learned: dict[str, Any] = {"_center": 0.0, "_scale": 1.0, "center_": None, "scale_": None}
        if self.with_centering:
            learned["_center"] = learned["center_"] = np.median(x, axis=0)
        if self.with_scaling:
            low, high = np.percentile(x, _interval("quantile_range", self.quantile_range, 0, 100), axis=0)
            learned["_scale"] = learned["scale_"] = _one_where_zero(high - low)
        return learned


class _Whitening(_Scaler):
    mean_: Array
    components_: Array
    scale_: Array
    eps: float
    _least_rows = 2

    def _check(self) -> None:
        check_number("eps", self.eps, 0)

    def _axes(self, x: Array, dtype: Any, most: int | None = None, complete: bool = False) -> dict[str, Any]:
        """The axes U^T of the data with a variance above 0, the largest first, or, if complete, also the others.

        Singular values s of the centred data give Λ^{1/2} = s / sqrt(n - 1) more exactly than eigenvalues of their
        covariance do: rounding moves every s by EPS max(s), but every eigenvalue by EPS max(Λ). If c is the condition
        number of the covariance, the smallest standard deviation is off by a fraction EPS sqrt(c), and not EPS c.
        """
        n, features = x.shape
        mean, rest = _centred(x)
        r = np.linalg.qr(rest, mode="r")  # x - mean = Q R: R has the same s and U, in fewer rows
        _, s, axes = np.linalg.svd(r, full_matrices=complete)
        # Zero is what numpy.linalg.matrix_rank takes for zero (the rounding of the SVD), or what X's own rounding may
        # have made: norm(X) EPS by Weyl's inequality, with the EPS of the given dtype. Integers are exact.
        rounding = np.finfo(dtype).eps if dtype.kind == "f" else 0.0
        rank = int((s > max(s[0] * max(n, features) * EPS, np.linalg.norm(x) * rounding)).sum())
        if rank == 0:
            raise ValueError("X must have rows that differ, got equal ones: there is no variance to scale")
        std = np.zeros(len(axes))
        std[:rank] = s[:rank] / math.sqrt(n - 1)
        axes, std = (a[:most] if complete else a[:rank][:most] for a in (axes, std))
        # An axis has no sign: its largest entry is made positive, as in scikit-learn.
        axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
        scale = np.hypot(std, math.sqrt(self.eps))  # sqrt(std^2 + eps)
        learned = {"mean_": mean, "components_": axes, "explained_variance_": std**2, "scale_": scale}
        return {**learned, "n_samples_": n}

    def _transform(self, x: Array) -> Any:
        return (x - self.mean_) @ self.components_.T / self.scale_

    def _inverse(self, y: Array) -> Any:
        return y * self.scale_ @ self.components_ + self.mean_


class PCAWhitening(_Whitening):
    """Cov(y) = I in the axes of the data:  y = (Λ + eps)^{-1/2} U^T (x - mean),  Cov(x) = U Λ U^T, divisor n - 1.

    sklearn.decomposition.PCA(n_components, whiten=True, svd_solver="full"), signs included. y (n, n_components_) is
    sorted by the variance of x. eps > 0 damps directions of little variance, often noise: Var(y) = λ / (λ + eps).

    n_components: how many directions to keep; None for all. A direction in which X has no variance up to rounding
    (constant or dependent features, no more rows than features) cannot be scaled to 1 and is left out: n_components_
    is at most the rank of the centred X. inverse_transform gives the training data back up to rounding or, if
    n_components left out some variance, its least-squares approximation, the projection on the directions kept.

    If y is white, so is Q y for every rotation Q. ZCAWhitening differs from this class by such a rotation, U.
    Attributes: mean_ (features,), components_ = U^T (n_components_, features), explained_variance_ = Λ and
    scale_ = (Λ + eps)^{1/2} (n_components_,); n_components_, n_samples_, n_features_in_.
    Errors: ValueError for n_components > min(n, features), one row, or equal rows.

    Source: sklearn.decomposition.PCA.

    >>> x = np.array([[1.0, 1.0], [-1.0, -1.0], [2.0, -2.0], [-2.0, 2.0], [0.0, 0.0]])
    >>> pca = tb.preprocessing.PCAWhitening().fit(x)
    >>> pca.explained_variance_.round(6)  # 16 / 4 along (1, -1), 4 / 4 along (1, 1)
    array([4., 1.])
    >>> np.allclose(np.cov(pca.transform(x).T), np.eye(2))
    True
    """

    def __init__(self, n_components: int | None = None, *, eps: float = 0.0) -> None:
        self.n_components, self.eps = n_components, eps
        self._check()

    def _check(self) -> None:
        if self.n_components is not None:
            check_int("n_components", self.n_components, 1)
        super()._check()

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        if self.n_components is not None and self.n_components > min(x.shape):
            raise ValueError(f"n_components must be <= min(n, features) = {min(x.shape)}, got {self.n_components}")
        learned = self._axes(x, dtype, self.n_components)
        return {**learned, "n_components_": len(learned["components_"])}

    def _renamed(self, names: list[str]) -> list[str]:
        return [f"{type(self).__name__.lower()}{i}" for i in range(self._width(inverse=True))]


class ZCAWhitening(_Whitening):
    """Cov(y) = I, as close to x as can be:  y = U (Λ + eps)^{-1/2} U^T (x - mean),  Cov(x) = U Λ U^T, divisor n - 1.

    PCA whitening, rotated back by U. Of all maps that whiten, this one has the least mean square of y - (x - mean)
    (Kessy, Lewin & Strimmer 2018): feature j of y resembles feature j of x, and an image stays an image.

    eps = 0: directions in which X has no variance up to rounding (see PCAWhitening) become 0; Cov(y) is then the
    projector on the span of the centred X, as near to I as can be. eps > 0 damps directions of little variance, and
    multiplies those without any, where only new data differ from the mean, by eps^{-1/2}.
    inverse_transform gives the training data back up to rounding.

    Attributes: as in PCAWhitening, without n_components_: y has all features. Errors: ValueError for one row or equal
    rows.

    Source: Kessy, Lewin & Strimmer 2018; Bell & Sejnowski 1997.

    >>> x = np.array([[1.0, 1.0], [-1.0, -1.0], [2.0, -2.0], [-2.0, 2.0], [0.0, 0.0]])
    >>> y = tb.preprocessing.ZCAWhitening().fit_transform(x)
    >>> y[:3].round(6)  # variance 1 along (1, 1) stays, 4 along (1, -1) becomes 1
    array([[ 1.,  1.],
           [-1., -1.],
           [ 1., -1.]])
    """

    def __init__(self, *, eps: float = 0.0) -> None:
        self.eps = eps
        self._check()

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        return self._axes(x, dtype, complete=self.eps > 0)

    def _transform(self, x: Array) -> Any:
        return super()._transform(x) @ self.components_

    def _inverse(self, y: Array) -> Any:
        return super()._inverse(y @ self.components_.T)
