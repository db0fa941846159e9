"""The normalization layers: parameters and running statistics around the functions of ops/norms.py."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..checks import check_flag, check_input, check_int, check_size
from ..engine import Array
from ..ops.norms import check_eps, check_momentum
from . import functional as F
from .module import Module, Parameter


class _Norm(Module):
    """What all share: eps, and weight = 1, bias = 0 of one shape (or None)."""

    affine_flag: ClassVar[str] = "affine"  # its name in the constructor

    def __init__(self, shape: tuple[int, ...], eps: float | None, affine: bool, bias: bool = True) -> None:
        super().__init__()
        self.eps: Any = None if eps is None else check_eps(eps)
        affine, bias = check_flag(self.affine_flag, affine), check_flag("bias", bias)
        self.weight = Parameter(np.ones(shape, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if affine and bias else None


class _Running(_Norm):
    """Batch and instance norm: running statistics per channel.

    momentum: the weight of the new statistics; None is the cumulative average over all batches.
    track_running_stats=False keeps none: batch statistics are used in eval too.
    """

    axes: ClassVar[tuple[int, ...]] = ()  # how many axes an input may have
    layout: ClassVar[str] = ""

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool, bias: bool
    ) -> None:
        super().__init__((check_size("num_features", num_features),), eps, affine, bias)
        if momentum is not None:
            check_momentum(momentum)
        self.num_features, self.momentum = num_features, momentum
        self.affine = affine
        self.track_running_stats = check_flag("track_running_stats", track_running_stats)
        for name, value in self.initial_statistics().items():
            self.register_buffer(name, value if track_running_stats else None)

    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def initial_statistics(self) -> dict[str, Array]:
        """What the running statistics start from: mean 0, variance 1, no batches seen."""
        n = self.num_features
        return {
            "running_mean": np.zeros(n, np.float32),
            "running_var": np.ones(n, np.float32),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        if self.track_running_stats:
            for name, value in self.initial_statistics().items():
                getattr(self, name)[...] = value

    def _check(self, x: Any) -> None:
        check_input(x)
        if x.ndim not in self.axes:
            raise ValueError(f"input of {type(self).__name__} must have shape {self.layout}, got {x.shape}")
        if x.shape[1] != self.num_features:
            raise ValueError(f"input must have {self.num_features} channels (axis 1), got shape {x.shape}")

    def _momentum(self) -> float:
        """The weight of the batch that comes next."""
        seen = int(self.num_batches_tracked) + 1
        return 1 / seen if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Running):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel, over the batch and all positions.

    Training: batch statistics (biased variance); running = (1 - momentum) running + momentum batch (unbiased).
    Eval: running statistics. See functional.batch_norm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, x: Any) -> Any:
        self._check(x)
        if not (self.training and self.track_running_stats):
            return self.normalize(x, not self.track_running_stats, 0.0)
        y = self.normalize(x, True, self._momentum())
        self.num_batches_tracked += 1
        return y

    def normalize(self, x: Any, training: bool, momentum: float) -> Any:
        """The function behind the layer; its relatives put another in its place."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum, self.eps
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = f"Batch norm of (N, C) or (N, C, L).\n\n{_BatchNorm.__doc__}"
    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = f"Batch norm of (N, C, H, W).\n\n{_BatchNorm.__doc__}"
    axes, layout = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    __doc__ = f"Batch norm of (N, C, D, H, W).\n\n{_BatchNorm.__doc__}"
    axes, layout = (5,), "(N, C, D, H, W)"


class _InstanceNorm(_Running):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample and channel, over all positions.

    Input may come without the batch axis. affine and track_running_stats are off by default, as in PyTorch.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, x: Any) -> Any:
        check_input(x)
        single = x.ndim + 1 in self.axes
        if single:
            x = x.reshape((1, *x.shape))
        self._check(x)
        mean, var, use_input = self.running_mean, self.running_var, self.training or self.running_mean is None
        track = self.training and mean is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        if track and self.momentum is None:
            momentum = self._momentum()
        if not track and use_input:
            mean = var = None
        y = F.instance_norm(x, mean, var, self.weight, self.bias, use_input, momentum, self.eps)
        if track and self.momentum is None:
            self.num_batches_tracked += 1
        return y.reshape(y.shape[1:]) if single else y


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"Instance norm of (N, C, L).\n\n{_InstanceNorm.__doc__}"
    axes, layout = (3,), "(N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"Instance norm of (N, C, H, W).\n\n{_InstanceNorm.__doc__}"
    axes, layout = (4,), "(N, C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    __doc__ = f"Instance norm of (N, C, D, H, W).\n\n{_InstanceNorm.__doc__}"
    axes, layout = (5,), "(N, C, D, H, W)"


def _shape(normalized_shape: Any) -> tuple[int, ...]:
    sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not sizes:
        raise ValueError("normalized_shape must name at least one axis, got ()")
    return tuple(check_size("normalized_shape", n) for n in sizes)


class LayerNorm(_Norm):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample, over the trailing axes normalized_shape."""

    affine_flag = "elementwise_affine"

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__(_shape(normalized_shape), eps, elementwise_affine, bias)
        self.normalized_shape, self.elementwise_affine = _shape(normalized_shape), elementwise_affine

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(_Norm):
    """y = weight x / sqrt(mean(x^2) + eps) over the trailing axes; eps=None is the dtype's machine epsilon."""

    affine_flag = "elementwise_affine"

    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True) -> None:
        super().__init__(_shape(normalized_shape), eps, elementwise_affine, bias=False)
        self.normalized_shape, self.elementwise_affine = _shape(normalized_shape), elementwise_affine

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Norm):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample and group of num_channels / num_groups channels."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ) -> None:
        super().__init__((check_size("num_channels", num_channels),), eps, affine, bias)
        if num_channels % check_int("num_groups", num_groups, 1):
            raise ValueError(f"num_groups must divide num_channels={num_channels}, got {num_groups}")
        self.num_groups, self.num_channels, self.affine = num_groups, num_channels, affine

    def forward(self, x: Any) -> Any:
        check_input(x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"input must have {self.num_channels} channels (axis 1), got shape {x.shape}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
