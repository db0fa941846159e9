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

Errors: TypeError for what is not an array of numbers (of a Tensor pass .data); ValueError for a wrong rank or number of
features, too few rows in fit, NaN or infinity, magnitudes above 1e100 in fit, a call before fit. A fit that fails
changes nothing.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from .blas import one_thread
from .checks import check_flag, check_int, check_number
from .tensors import FLOATS, Array

EPS = float(np.finfo(np.float64).eps)
LARGEST = 1e100  # squares and their sums stay far from overflow
Self = TypeVar("Self", bound="_Scaler")


class _Scaler:
    """The frame: checks, dtypes, fit first. A class adds _fit, and _transform and _inverse if its map is another."""

    n_features_in_: int
    _center: Any = 0.0
    _scale: Any = 1.0
    _least_rows = 1

    @one_thread
    def fit(self: Self, X: Array) -> Self:
        """Learn from X (n, features); returns self. Fitting again forgets the earlier data.

        Errors: TypeError, ValueError for another X, for too few rows, and values above 1e100; nothing has changed then.

        >>> tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]])).mean_
        array([2.])
        """
        x = _checked(X)
        if len(x) < self._least_rows or x.shape[1] == 0:
            raise ValueError(f"X must have {self._least_rows} or more rows and a feature to fit, got shape {x.shape}")
        if np.abs(x).max() > LARGEST:
            raise ValueError(f"X must not exceed {LARGEST:g} in magnitude, got {np.abs(x).max():g}")
        self.__dict__.update(self._fit(x, X.dtype), n_features_in_=x.shape[1])
        return self

    @one_thread
    def transform(self, X: Array) -> Array:
        """The learned map applied to every row of X (n, features); n may be 0.

        Errors: TypeError, ValueError for another X, and before fit.

        >>> scaler = tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]]))
        >>> scaler.transform(np.array([[5.0]]))  # (5 - 2) / 1
        array([[3.]])
        """
        y: Array = self._transform(_checked(X, self._width()))
        return y.astype(_output_dtype(X), copy=False)

    @one_thread
    def inverse_transform(self, X: Array) -> Array:
        """The data whose transform is X. Errors: TypeError, ValueError for another X, and before fit.

        >>> scaler = tb.preprocessing.StandardScaler().fit(np.array([[1.0], [3.0]]))
        >>> scaler.inverse_transform(np.array([[3.0]]))
        array([[5.]])
        """
        x: Array = self._inverse(_checked(X, self._width(inverse=True)))
        return x.astype(_output_dtype(X), copy=False)

    def fit_transform(self, X: Array) -> Array:
        """fit(X), then transform(X), and their Errors.

        >>> tb.preprocessing.StandardScaler().fit_transform(np.array([[1.0], [3.0]]))
        array([[-1.],
               [ 1.]])
        """
        return self.fit(X).transform(X)

    def _width(self, inverse: bool = False) -> int:
        if not hasattr(self, "n_features_in_"):
            raise ValueError(f"this {type(self).__name__} is not fitted: call fit first")
        return getattr(self, "n_components_", self.n_features_in_) if inverse else self.n_features_in_

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        """What x teaches, by attribute; dtype is that of the data before they became float64."""
        raise NotImplementedError

    def _transform(self, x: Array) -> Any:
        return (x - self._center) / self._scale

    def _inverse(self, y: Array) -> Any:
        return y * self._scale + self._center


def _checked(X: Any, width: int | None = None) -> Array:
    """X in float64. It may share X's memory: nothing here writes to it."""
    if not isinstance(X, np.ndarray) or isinstance(X, np.ma.MaskedArray):
        raise TypeError(f"X must be a NumPy array without a mask, got {type(X).__name__}")
    if X.dtype not in FLOATS and X.dtype.kind not in "biu":
        raise TypeError(f"X must hold floats (32 or 64 bit), integers or booleans, got {X.dtype}")
    if X.ndim != 2:
        raise ValueError(f"X must have 2 axes (rows, features), got shape {X.shape}")
    if width is not None and X.shape[1] != width:
        raise ValueError(f"X must have {width} columns, as learned in fit, got shape {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError("X must be finite, got NaN or infinity")
    return np.asarray(X, dtype=np.float64)


def _output_dtype(X: Array) -> Any:
    return X.dtype if X.dtype in FLOATS else np.float32


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
        self.with_mean, self.with_std = check_flag("with_mean", with_mean), check_flag("with_std", with_std)

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

    def __init__(self, feature_range: tuple[float, float] = (0, 1), *, clip: bool = False) -> None:
        self.feature_range, self.clip = _interval("feature_range", feature_range), check_flag("clip", clip)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        low, high = self.feature_range
        smallest, largest = x.min(axis=0), x.max(axis=0)
        divisor = _one_where_zero(largest - smallest)
        scale = (high - low) / divisor
        learned = {"_center": smallest, "_scale": divisor, "scale_": scale, "min_": low - smallest * scale}
        data = {"data_min_": smallest, "data_max_": largest, "data_range_": largest - smallest}
        return {**learned, **data, "n_samples_seen_": len(x)}

    def _transform(self, x: Array) -> Any:
        low, high = self.feature_range  # not x scale_ + min_, where a minimum far from 0 would cost digits
        y = super()._transform(x) * (high - low) + low
        return np.clip(y, low, high) if self.clip else y

    def _inverse(self, y: Array) -> Any:
        low, high = self.feature_range
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
        self.with_centering = check_flag("with_centering", with_centering)
        self.with_scaling = check_flag("with_scaling", with_scaling)
        self.quantile_range = _interval("quantile_range", quantile_range, 0, 100)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        learned: dict[str, Any] = {"_center": 0.0, "_scale": 1.0, "center_": None, "scale_": None}
        if self.with_centering:
            learned["_center"] = learned["center_"] = np.median(x, axis=0)
        if self.with_scaling:
            low, high = np.percentile(x, self.quantile_range, axis=0)
            learned["_scale"] = learned["scale_"] = _one_where_zero(high - low)
        return learned


class _Whitening(_Scaler):
    mean_: Array
    components_: Array
    scale_: Array
    eps: float
    _least_rows = 2

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
        self.n_components = None if n_components is None else check_int("n_components", n_components, 1)
        self.eps = check_number("eps", eps, 0)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        if self.n_components is not None and self.n_components > min(x.shape):
            raise ValueError(f"n_components must be <= min(n, features) = {min(x.shape)}, got {self.n_components}")
        learned = self._axes(x, dtype, self.n_components)
        return {**learned, "n_components_": len(learned["components_"])}


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
        self.eps = check_number("eps", eps, 0)

    def _fit(self, x: Array, dtype: Any) -> dict[str, Any]:
        return self._axes(x, dtype, complete=self.eps > 0)

    def _transform(self, x: Array) -> Any:
        return super()._transform(x) @ self.components_

    def _inverse(self, y: Array) -> Any:
        return super()._inverse(y @ self.components_.T)
