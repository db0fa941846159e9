"""The five normalization functions: check the arguments, choose the index set, track the statistics.

The mathematics and the kernels are in normalization.py; PyTorch's names, argument order and defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import FLOATS, Array, Tensor
from .normalization import channel_norm, row_norm


def _check_input(x: Any, least: int) -> None:
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"input must be a Tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(f"input must be float32 or float64, got {x.dtype}")
    if x.ndim < least:
        raise ValueError(f"input must have at least {least} axes (N, C, ...), got shape {x.shape}")


def check_eps(eps: Any) -> float:
    """eps is a finite number >= 0."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.floating, np.integer)):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and >= 0, got {eps}")
    return float(eps)


def check_momentum(momentum: Any) -> None:
    """momentum is the weight of the new statistics, a number in [0, 1]."""
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float, np.floating, np.integer)):
        raise TypeError(f"momentum must be a number, got {type(momentum).__name__}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}")


def _check_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """weight, bias and running statistics: None, or an array of exactly this shape and dtype."""
    if value is None:
        return
    if not isinstance(value, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a Tensor, an array or None, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} like the input, got {value.dtype}")


def _update(running: Any, batch: Array, momentum: float) -> None:
    """running = (1 - momentum) running + momentum batch, in place."""
    if isinstance(running, Tensor):
        running.data = ((1 - momentum) * running.data + momentum * batch).astype(running.dtype)
    elif running is not None:
        running[...] = (1 - momentum) * running + momentum * batch


def _plain(a: Any) -> Array:
    return (a.data if isinstance(a, Tensor) else a).astype(np.float64)


def _more_than_one(count: int, shape: tuple[int, ...], where: str) -> None:
    if count == 1:
        raise ValueError(f"expected more than 1 value per {where} when training, got input of shape {shape}")


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize each channel over the batch: y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C) or (N, C, ...). weight, bias, running_mean, running_var: (C,) or None, of x's dtype.
    training=True: mean and biased var over all axes but 1; the running statistics (arrays, changed in place) become
    (1 - momentum) running + momentum batch, with the unbiased variance, var m / (m - 1), m values per channel.
    training=False: the running statistics are used, as constants.
    Errors: ValueError for one value per channel in training, wrong shapes or eps < 0; TypeError for dtypes.
    Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    _check_input(x, 2)
    eps, channels = check_eps(eps), (x.shape[1],)
    check_momentum(momentum)
    for name, value in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        _check_array(name, value, channels, x.dtype)
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var must be given when training=False, got None")
        return channel_norm(x, weight, bias, mean=_plain(running_mean), var=_plain(running_var), eps=eps, keep=None)
    m = x.size // max(x.shape[1], 1)
    _more_than_one(m, x.shape, "channel")
    keep: list = []
    y = channel_norm(x, weight, bias, mean=None, var=None, eps=eps, keep=keep)
    if m > 0:
        mean, var = keep[0]
        _update(running_mean, mean, momentum)
        _update(running_var, var * (m / (m - 1)), momentum)
    return y


def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize each channel of each sample over its positions.

    x: (N, C, L ...). weight, bias, running_mean, running_var: (C,) or None. The running statistics, where given,
    track the batch average of the instances' means and unbiased variances. use_input_stats=False uses them instead.
    Errors: as batch_norm. Source: Ulyanov, Vedaldi & Lempitsky 2016.
    """
    _check_input(x, 3)
    eps, (N, C), L = check_eps(eps), x.shape[:2], math.prod(x.shape[2:])
    check_momentum(momentum)
    for name, value in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        _check_array(name, value, (C,), x.dtype)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var must be given when use_input_stats=False, got None")
        return channel_norm(x, weight, bias, mean=_plain(running_mean), var=_plain(running_var), eps=eps, keep=None)
    _more_than_one(L, x.shape, "instance and channel")
    keep: list = []
    y = row_norm(x, weight, bias, shape=(N, C, 1, L), eps=eps, centered=True, keep=keep)
    if x.size:
        mean, var = keep[0]
        _update(running_mean, mean.mean(axis=0), momentum)
        _update(running_var, var.mean(axis=0) * (L / (L - 1)), momentum)
    return y


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize groups of C / num_groups channels of each sample, over those channels and all positions.

    x: (N, C, ...). weight, bias: (C,) or None. num_groups=1 is layer norm over (C, ...), num_groups=C instance norm.
    Errors: ValueError where num_groups does not divide C. Source: Wu & He 2018.
    """
    _check_input(x, 2)
    eps, (N, C), L = check_eps(eps), x.shape[:2], math.prod(x.shape[2:])
    if isinstance(num_groups, bool) or not isinstance(num_groups, (int, np.integer)):
        raise TypeError(f"num_groups must be an int, got {type(num_groups).__name__}")
    if num_groups < 1 or C % num_groups:
        raise ValueError(f"num_groups must be positive and divide the {C} channels, got {num_groups}")
    _check_array("weight", weight, (C,), x.dtype)
    _check_array("bias", bias, (C,), x.dtype)
    G = int(num_groups)
    _more_than_one(N * (C // G) * L, x.shape, "group")
    return row_norm(x, weight, bias, shape=(N, G, C // G, L), eps=eps, centered=True, keep=None)


def _check_normalized_shape(x: Any, normalized_shape: Any) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else normalized_shape
    if (
        isinstance(shape, bool)
        or not isinstance(shape, Sequence)
        or not all(isinstance(n, (int, np.integer)) for n in shape)
    ):
        raise TypeError(f"normalized_shape must be an int or a sequence of ints, got {normalized_shape!r}")
    shape = tuple(int(n) for n in shape)
    if not shape or x.shape[x.ndim - len(shape) :] != shape or len(shape) > x.ndim:
        raise ValueError(f"normalized_shape must be the trailing axes of the input {x.shape}, got {shape}")
    return shape


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize each sample over the trailing axes: y = weight (x - mean) / sqrt(var + eps) + bias.

    normalized_shape: the trailing axes of x, an int or a tuple; weight, bias: of that shape, or None.
    Source: Ba, Kiros & Hinton 2016.
    """
    _check_input(x, 1)
    eps, shape = check_eps(eps), _check_normalized_shape(x, normalized_shape)
    _check_array("weight", weight, shape, x.dtype)
    _check_array("bias", bias, shape, x.dtype)
    return row_norm(x, weight, bias, shape=_rows(x, shape), eps=eps, centered=True, keep=None)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """y = weight x / sqrt(mean(x^2) + eps) over the trailing axes; no centering, no bias.

    eps=None is the machine epsilon of x's dtype, as in PyTorch. Source: Zhang & Sennrich 2019.
    """
    _check_input(x, 1)
    eps = float(np.finfo(x.dtype).eps) if eps is None else check_eps(eps)
    shape = _check_normalized_shape(x, normalized_shape)
    _check_array("weight", weight, shape, x.dtype)
    return row_norm(x, weight, None, shape=_rows(x, shape), eps=eps, centered=False, keep=None)


def _rows(x: Any, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    return (math.prod(x.shape[: x.ndim - len(shape)]), 1, math.prod(shape), 1)
