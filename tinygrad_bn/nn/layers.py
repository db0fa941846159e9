"""Linear, activations, Dropout, Flatten, Identity."""

from __future__ import annotations

import math

import numpy as np

from ..checks import check_flag, check_int, check_number, check_size
from ..engine.guards import check_input
from ..engine.tensors import Tensor
from ..ops.shape import flatten
from . import functional as F
from . import init
from .module import Module, Parameter


class Linear(Module):
    """y = x W^T + b. weight (out_features, in_features), bias (out_features,), both U(-1, 1) / sqrt(in_features).

    x: (..., in_features). bias=False leaves out b (default True). See functional.linear.
    Errors: ValueError for sizes below 1 and another x.shape[-1]; TypeError for another dtype.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    >>> layer(tb.tensor([[2.0, 3.0]])).data
    array([[5.]], dtype=float32)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.weight = Parameter(np.empty((out_features, in_features), np.float32))
        bias = check_flag("bias", bias)
        self.bias: Parameter | None
        self.register_parameter("bias", Parameter(np.empty(out_features, np.float32)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as at the beginning.

        >>> layer = nn.Linear(4, 1)
        >>> layer.reset_parameters()
        >>> bool((abs(layer.weight.data) <= 1 / 2).all())  # 1 / sqrt(4)
        True
        """
        bound = 1 / math.sqrt(self.in_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class ReLU(Module):
    """max(x, 0), see functional.relu. Errors: TypeError for what is not a Tensor or array of floats.

    >>> nn.ReLU()(tb.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), see functional.sigmoid. Errors: TypeError for what is not a Tensor or array of floats.

    >>> nn.Sigmoid()(tb.tensor([0.0, 100.0]))
    tensor([0.5, 1. ])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """tanh(x), see functional.tanh. Errors: TypeError for what is not a Tensor or array of floats.

    >>> nn.Tanh()(tb.tensor([0.0, 100.0]))
    tensor([0., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Identity(Module):
    """x

    >>> nn.Identity()(tb.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p); x in eval.

    p: default 0.5. See functional.dropout. Errors: ValueError for p outside [0, 1], TypeError for what is not a number.

    >>> layer = nn.Dropout(0.75)
    >>> sorted(set(layer(tb.tensor([1.0] * 100)).data.tolist()))
    [0.0, 4.0]
    >>> layer.eval()(tb.tensor([1.0]))
    tensor([1.])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_number("p", p, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """Axes start_dim .. end_dim become one; by default (1 and -1) all but the batch.

    Errors: ValueError for what is not an axis of the input, TypeError for what is not an int.

    >>> nn.Flatten()(tb.tensor(np.zeros((5, 2, 3)))).shape
    (5, 6)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = check_int("start_dim", start_dim), check_int("end_dim", end_dim)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, "input of Flatten")
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
