"""Linear, activations, Dropout, Flatten, Identity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import check_flag, check_input, check_int, check_number, check_size
from ..ops.shape import flatten
from . import functional as F
from . import init
from .module import Module, Parameter


class Linear(Module):
    """y = x W^T + b. weight (out_features, in_features), bias (out_features,), both U(-1, 1) / sqrt(in_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.weight = Parameter(np.empty((out_features, in_features), np.float32))
        self.bias = Parameter(np.empty(out_features, np.float32)) if check_flag("bias", bias) else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.in_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class ReLU(Module):
    """max(x, 0)"""

    def forward(self, x: Any) -> Any:
        return F.relu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return F.sigmoid(x)


class Tanh(Module):
    """tanh(x)"""

    def forward(self, x: Any) -> Any:
        return F.tanh(x)


class Identity(Module):
    """x"""

    def forward(self, x: Any) -> Any:
        return x


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p); x in eval."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_number("p", p, 0, 1)

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """Axes start_dim .. end_dim become one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = check_int("start_dim", start_dim), check_int("end_dim", end_dim)

    def forward(self, x: Any) -> Any:
        check_input(x)
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
