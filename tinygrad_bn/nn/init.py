"""Initialization in place, PyTorch's names and formulas. U: uniform, N: normal; weight (out, in, ...).

fan_in = in x positions, fan_out = out x positions. Xavier (Glorot & Bengio 2010): var = gain^2 2 / (fan_in + fan_out).
Kaiming (He et al. 2015): var = gain^2 / fan. All draw from ``generator``, by default the one of manual_seed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import check_generator, check_number
from ..engine.tensors import Tensor
from ..runtime.random import default_generator

LARGEST_GAIN = 1e300  # what is drawn stays finite in float64


def _fill(t: Tensor, values: Any) -> Tensor:
    if not isinstance(t, Tensor):
        raise TypeError(f"tensor must be a Tensor, got {type(t).__name__}")
    t._assign(np.asarray(values).astype(t.dtype))
    return t


def _random(generator: np.random.Generator | None) -> np.random.Generator:
    check_generator(generator)
    return generator or default_generator()


def _shape(t: Tensor) -> tuple[int, ...]:
    if not isinstance(t, Tensor):
        raise TypeError(f"tensor must be a Tensor, got {type(t).__name__}")
    return t.shape


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain of xavier_* and kaiming_*: it makes up for the variance that a nonlinearity takes away.

    nonlinearity: "linear", "conv1d" ... "conv3d", "sigmoid": 1; "tanh": 5/3; "relu": sqrt 2; "selu": 3/4;
    "leaky_relu": sqrt(2 / (1 + slope^2)). param: this slope; None (default) is 0.01.
    Errors: TypeError, ValueError for another nonlinearity or slope. Source: torch.nn.init.calculate_gain.

    >>> nn.init.calculate_gain("leaky_relu", 1.0)  # slope 1: the identity
    1.0
    """
    if not isinstance(nonlinearity, str):
        raise TypeError(f"nonlinearity must be a str, got {type(nonlinearity).__name__}")
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else check_number("param", param)
        return math.sqrt(2 / (1 + slope * slope))
    gains = dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "sigmoid"), 1.0)
    gains |= {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity must be one of {[*gains, 'leaky_relu']}, got {nonlinearity!r}")
    return gains[nonlinearity]


def fans(t: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight t of shape (out, in, ...): in x positions and out x positions.

    Errors: TypeError for what is not a Tensor, ValueError for fewer than 2 axes or no elements.

    >>> nn.init.fans(nn.Conv2d(3, 8, kernel_size=5).weight)  # 3 times 25, and 8 times 25
    (75, 200)
    """
    shape = _shape(t)
    if len(shape) < 2:
        raise ValueError(f"tensor must have at least 2 axes (out, in, ...), got shape {shape}")
    if 0 in shape:
        raise ValueError(f"tensor must have elements, got shape {shape}")
    positions = math.prod(shape[2:])
    return shape[1] * positions, shape[0] * positions


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill tensor, in place, with U(a, b) (default a = 0, b = 1), and return it.

    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError for what is not a Tensor or number, ValueError unless a <= b.

    >>> t = nn.init.uniform_(tb.tensor(np.zeros(1000)), -1, 1)
    >>> bool((abs(t.data) <= 1).all())
    True
    """
    a, b = check_number("a", a), check_number("b", b)
    if not 0 <= b - a < math.inf:
        raise ValueError(f"a must not be above b, nor b - a be infinite, got {a} and {b}")
    return _fill(tensor, _random(generator).uniform(a, b + 0.0, _shape(tensor)))  # -0.0 would be below a = 0.0


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: np.random.Generator | None = None
) -> Tensor:
    """Fill tensor, in place, with N(mean, std^2) (default mean 0, std 1), and return it.

    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError for what is not a Tensor or number, ValueError for std < 0.

    >>> nn.init.normal_(tb.tensor([0.0, 0.0]), mean=3, std=0)
    tensor([3., 3.])
    """
    mean, std = check_number("mean", mean), check_number("std", std, 0) + 0.0  # NumPy takes -0.0 for negative
    return _fill(tensor, _random(generator).normal(mean, std, _shape(tensor)))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill tensor, in place, with val, which may be infinite or NaN, and return it.

    Errors: TypeError for what is not a Tensor or number, ValueError for a number that is too large.

    >>> nn.init.constant_(tb.tensor([0.0, 0.0]), 5)
    tensor([5., 5.])
    """
    if not isinstance(val, float) or math.isfinite(val):
        val = check_number("val", val)
    return _fill(tensor, np.full(_shape(tensor), val))


def zeros_(tensor: Tensor) -> Tensor:
    """Fill tensor, in place, with 0, and return it. Errors: TypeError for what is not a Tensor.

    >>> nn.init.zeros_(tb.tensor([1.0, 2.0]))
    tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill tensor, in place, with 1, and return it. Errors: TypeError for what is not a Tensor.

    >>> nn.init.ones_(tb.tensor([2.0, 3.0]))
    tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)): the variance of xavier_normal_.

    tensor: a weight (out, in, ...), filled in place and returned. gain: see calculate_gain (default 1).
    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError, ValueError for another tensor or gain. Source: Glorot & Bengio 2010, equation 16.

    >>> t = nn.init.xavier_uniform_(tb.tensor(np.zeros((2, 4))))
    >>> bool((abs(t.data) <= 1).all())  # sqrt(6 / (4 + 2)) is 1
    True
    """
    bound = check_number("gain", gain, 0, LARGEST_GAIN) * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """N(0, gain^2 2 / (fan_in + fan_out)): between what keeps the variance forward and what keeps it backward.

    tensor: a weight (out, in, ...), filled in place and returned. gain: see calculate_gain (default 1).
    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError, ValueError for another tensor or gain. Source: Glorot & Bengio 2010, equation 12.

    >>> t = nn.init.xavier_normal_(tb.tensor(np.zeros((300, 100))))
    >>> round(t.data.var().item() * 400, 1)  # gain^2 2
    2.0
    """
    return normal_(
        tensor, 0.0, check_number("gain", gain, 0, LARGEST_GAIN) * math.sqrt(2 / sum(fans(tensor))), generator
    )


def _kaiming_std(t: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    a = check_number("a", a)
    if not isinstance(mode, str) or mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(t)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Tensor:
    """U(-b, b), b = gain sqrt(3 / fan): the variance of kaiming_normal_.

    tensor: a weight (out, in, ...), filled in place and returned. gain: calculate_gain(nonlinearity, a), by default of
    "leaky_relu" with slope a = 0, which is sqrt 2. mode: fan is "fan_in" (default) or "fan_out".
    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError, ValueError for another tensor, a, mode or nonlinearity. Source: He et al. 2015.

    >>> t = nn.init.kaiming_uniform_(tb.tensor(np.zeros((2, 6))))
    >>> bool((abs(t.data) <= 1).all())  # sqrt(2) sqrt(3 / 6) is 1
    True
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Tensor:
    """N(0, gain^2 / fan): with ReLU, gain^2 = 2, the variance stays from layer to layer.

    tensor: a weight (out, in, ...), filled in place and returned. gain: calculate_gain(nonlinearity, a), by default of
    "leaky_relu" with slope a = 0, which is sqrt 2. mode: fan is "fan_in" (default) or "fan_out".
    generator: draw from it; None (default) is the one of manual_seed.
    Errors: TypeError, ValueError for another tensor, a, mode or nonlinearity. Source: He et al. 2015, equation 10.

    >>> t = nn.init.kaiming_normal_(tb.tensor(np.zeros((300, 100))))
    >>> round(t.data.var().item() * 100, 1)  # gain^2
    2.0
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)
