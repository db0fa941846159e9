"""The normalization layers: parameters and running statistics around the functions of ops/norms.py."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, ClassVar

import numpy as np

from ..checks import FLOATS, Array, check_flag, check_int, check_size
from ..engine.guards import check_input
from ..engine.replay_notes import fresh
from ..engine.tensors import Tensor
from ..ops.norms import check_eps, check_momentum, check_writable
from . import functional as F
from .module import Module, Parameter


def described(summary: str, family: type, example: str) -> str:
    """The docstring of one of several layers that differ in the shape of their input alone."""
    return f"{summary}\n\n{cleandoc(family.__doc__ or '')}\n\n{cleandoc(example)}\n"


class _Norm(Module):
    """What all share: eps, and weight = 1, bias = 0 of one shape (or None)."""

    affine_flag: ClassVar[str] = "affine"  # its name in the constructor

    def __init__(self, shape: tuple[int, ...], eps: float | None, affine: bool, bias: bool = True) -> None:
        super().__init__()
        self.eps: Any = None if eps is None else check_eps(eps)
        affine, bias = check_flag(self.affine_flag, affine), check_flag("bias", bias)
        self.weight: Parameter | None
        self.bias: Parameter | None
        self.register_parameter("weight", Parameter(np.ones(shape, np.float32)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, np.float32)) if affine and bias else None)


class _Running(_Norm):
    """Batch and instance norm: running statistics per channel.

    momentum: the weight of the new statistics; None is the cumulative average over all batches.
    track_running_stats=False keeps none: batch statistics are used in eval too.

    The flag may be switched later: without it the statistics stay as they are. In eval batch norm still uses those that
    are there, instance norm only with the flag, as in PyTorch (where without it they move on, in eval too).
    reset_running_stats() makes the statistics that a layer was built without.
    """

    _may_be_missing = ("num_batches_tracked",)  # before PyTorch 0.4.1

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
        """What the running statistics start from: mean 0, variance 1, no batches seen.

        >>> nn.BatchNorm1d(2).initial_statistics()["running_var"]
        array([1., 1.], dtype=float32)
        """
        n = self.num_features
        return {
            "running_mean": np.zeros(n, np.float32),
            "running_var": np.ones(n, np.float32),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    def reset_running_stats(self) -> None:
        """Forget all batches. Where track_running_stats was switched on later, the statistics begin here.

        >>> norm = nn.BatchNorm1d(1)
        >>> _ = norm(tb.tensor([[1.0], [3.0]]))
        >>> norm.reset_running_stats()
        >>> norm.running_mean
        array([0.], dtype=float32)
        """
        if self.track_running_stats:
            for name, value in self.initial_statistics().items():
                old = getattr(self, name)
                if old is not None and old.flags.writeable:
                    old[...] = value
                elif old is not None:
                    setattr(self, name, value.astype(old.dtype))
                else:
                    dtype = self.weight.dtype if value.dtype in FLOATS and self.weight is not None else value.dtype
                    setattr(self, name, value.astype(dtype))

    def _check(self, x: Any) -> None:
        name = f"input of {type(self).__name__}"
        check_input(x, name)
        if x.ndim not in self.axes:
            raise ValueError(f"{name} must have shape {self.layout}, got {x.shape}")
        if x.shape[1] != self.num_features:
            raise ValueError(f"{name} must have {self.num_features} channels (axis 1), got shape {x.shape}")

    def _momentum(self) -> float:
        """The weight of the batch that comes next."""
        if self.momentum is not None:
            return self.momentum
        if self.num_batches_tracked is None:
            return 0.0
        momentum: float = fresh(_average, self.num_batches_tracked)
        return momentum

    def _running(self) -> tuple[Any, Any]:
        """The two statistics; decorrelated batch norm has a matrix in the variance's place."""
        mean, spread = (getattr(self, name) for name in self._statistics)
        return mean, spread

    _statistics: ClassVar[tuple[str, str]] = ("running_mean", "running_var")

    def _moves(self) -> bool:
        """Whether a forward moves the running statistics."""
        return self.training and self.track_running_stats

    def _given(self, use_input: bool) -> tuple[Any, Any]:
        """What the function behind the layer is given: none of those that are neither used nor moved."""
        return (None, None) if use_input and not self._moves() else self._running()

    def _uses_running(self) -> bool:
        """Whether eval normalizes with the running statistics."""
        return all(value is not None for value in self._running())

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _count(batches: Array | None) -> None:
    """One batch more."""
    if batches is not None:
        batches[()] = batches.item() + 1  # half the time of += 1, which is a ufunc


def _average(batches: Array) -> float:
    """The weight of the batch that comes next in an average of all."""
    return 1 / (int(batches) + 1)


class _BatchNorm(_Running):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel, over the batch and all positions.

    Training: batch statistics (biased variance); running = (1 - momentum) running + momentum batch (unbiased).
    Eval: running statistics. See functional.batch_norm.
    num_features: the number of channels C. eps: default 1e-5. momentum: the weight of the new statistics (default 0.1);
    None is the average over all batches. affine=False leaves out weight and bias (1 and 0 at first), bias=False the
    bias. track_running_stats=False keeps no running statistics: those of the batch are used in eval too.
    Errors: ValueError for another shape, and for one value per channel in training; TypeError for another dtype.
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

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        training = self.training or all(value is None for value in self._running())
        if self._moves():
            check_writable(num_batches_tracked=self.num_batches_tracked)
        y = self.normalize(x, training, self._momentum() if self._moves() else 0.0)
        if self._moves():
            fresh(_count, self.num_batches_tracked)
        return y

    def normalize(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        """The function behind the layer; its relatives put another in its place.

        x: the input. training: whether with the statistics of x, towards which the running ones then move with
        momentum.
        Errors: TypeError and ValueError, as functional.batch_norm.

        >>> norm = nn.BatchNorm1d(1, eps=0.0)
        >>> norm.normalize(tb.tensor([[1.0], [3.0]]), training=True, momentum=0.1).data.ravel()
        array([-1.,  1.], dtype=float32)
        """
        mean, var = self._given(training)
        return F.batch_norm(x, mean, var, self.weight, self.bias, training, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    __doc__ = described(
        "Batch norm of (N, C) or (N, C, L).",
        _BatchNorm,
        """
        >>> norm = nn.BatchNorm1d(1, eps=0.0)
        >>> norm(tb.tensor([[1.0], [3.0]])).data
        array([[-1.],
               [ 1.]], dtype=float32)
        >>> norm.running_mean  # 0.9 times 0 + 0.1 times 2
        array([0.2], dtype=float32)
        """,
    )
    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = described(
        "Batch norm of (N, C, H, W).",
        _BatchNorm,
        """
        >>> norm = nn.BatchNorm2d(2, eps=0.0)
        >>> images = tb.tensor([[[[1, 3], [3, 1]], [[0, 20], [20, 0]]]])  # one image, two channels
        >>> norm(images).data
        array([[[[-1.,  1.],
                 [ 1., -1.]],
        <BLANKLINE>
                [[-1.,  1.],
                 [ 1., -1.]]]], dtype=float32)
        """,
    )
    axes, layout = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    __doc__ = described(
        "Batch norm of (N, C, D, H, W).",
        _BatchNorm,
        """
        >>> norm = nn.BatchNorm3d(1, eps=0.0)
        >>> norm(tb.tensor([[[[[1, 3]], [[3, 1]]]]])).data.ravel()  # two layers of one row each
        array([-1.,  1.,  1., -1.], dtype=float32)
        """,
    )
    axes, layout = (5,), "(N, C, D, H, W)"


class _InstanceNorm(_Running):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample and channel, over all positions.

    Input may come without the batch axis. See functional.instance_norm.
    num_features: the number of channels C. eps: default 1e-5. affine and track_running_stats are off by default, as in
    PyTorch; bias=False leaves out the bias of affine=True. momentum: the weight of the new statistics (default 0.1);
    None is the average over all batches.
    Errors: ValueError for another shape, and for one position in training; TypeError for another dtype.
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

    def _uses_running(self) -> bool:
        return self.track_running_stats and super()._uses_running()

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, f"input of {type(self).__name__}")
        single = x.ndim + 1 in self.axes
        if single:
            x = x.reshape((1, *x.shape))
        self._check(x)
        use_input = self.training or not self.track_running_stats
        mean, var = self._given(use_input)
        momentum = self._momentum() if self._moves() else 0.0
        y = F.instance_norm(x, mean, var, self.weight, self.bias, use_input, momentum, self.eps)
        # the average needs the count; otherwise it stays 0, as PyTorch's does
        if self._moves() and self.momentum is None:
            fresh(_count, self.num_batches_tracked)
        return y.reshape(y.shape[1:]) if single else y


class InstanceNorm1d(_InstanceNorm):
    __doc__ = described(
        "Instance norm of (N, C, L).",
        _InstanceNorm,
        """
        >>> norm = nn.InstanceNorm1d(1, eps=0.0)
        >>> norm(tb.tensor([[[1, 3]], [[0, 20]]]))  # each sample for itself
        tensor([[[-1.,  1.]],
        <BLANKLINE>
                [[-1.,  1.]]])
        """,
    )
    axes, layout = (3,), "(N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    __doc__ = described(
        "Instance norm of (N, C, H, W).",
        _InstanceNorm,
        """
        >>> norm = nn.InstanceNorm2d(1, eps=0.0)
        >>> norm(tb.tensor([[[1, 3], [3, 1]]]))  # one image, without the batch axis
        tensor([[[-1.,  1.],
                 [ 1., -1.]]])
        """,
    )
    axes, layout = (4,), "(N, C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    __doc__ = described(
        "Instance norm of (N, C, D, H, W).",
        _InstanceNorm,
        """
        >>> norm = nn.InstanceNorm3d(1, eps=0.0)
        >>> norm(tb.tensor([[[[[1, 3]], [[3, 1]]]]])).data.ravel()  # two layers of one row each
        array([-1.,  1.,  1., -1.], dtype=float32)
        """,
    )
    axes, layout = (5,), "(N, C, D, H, W)"


def _shape(normalized_shape: Any) -> tuple[int, ...]:
    sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not sizes:
        raise ValueError("normalized_shape must name at least one axis, got ()")
    return tuple(check_size("normalized_shape", n) for n in sizes)


class LayerNorm(_Norm):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample, over the trailing axes normalized_shape.

    normalized_shape: an int or a tuple. eps: default 1e-5. elementwise_affine=False leaves out weight and bias (1 and 0
    at first, of this shape), bias=False the bias. See functional.layer_norm.
    Errors: ValueError for an input of other trailing axes; TypeError for another dtype.

    >>> norm = nn.LayerNorm(2, eps=0.0)
    >>> norm(tb.tensor([[1.0, 3.0], [0.0, 20.0]])).data
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    affine_flag = "elementwise_affine"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(_shape(normalized_shape), eps, elementwise_affine, bias)
        self.normalized_shape, self.elementwise_affine = _shape(normalized_shape), elementwise_affine

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(_Norm):
    """y = weight x / sqrt(mean(x^2) + eps) over the trailing axes; eps=None is the dtype's machine epsilon.

    normalized_shape: the trailing axes, an int or a tuple. eps: default None. elementwise_affine=False leaves out
    weight (1 at first, of this shape). See functional.rms_norm.
    Errors: ValueError for an input of other trailing axes; TypeError for another dtype.

    >>> norm = nn.RMSNorm(2, eps=0.0)
    >>> norm(tb.tensor([[1.0, 7.0]])).data  # mean(x^2) = 5^2
    array([[0.2, 1.4]], dtype=float32)
    """

    affine_flag = "elementwise_affine"

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        super().__init__(_shape(normalized_shape), eps, elementwise_affine, bias=False)
        self.normalized_shape, self.elementwise_affine = _shape(normalized_shape), elementwise_affine

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Norm):
    """y = weight (x - mean) / sqrt(var + eps) + bias per sample and group of num_channels / num_groups channels.

    x: (N, num_channels, ...). eps: default 1e-5. affine=False leaves out weight and bias (1 and 0 at first, one per
    channel), bias=False the bias. See functional.group_norm.
    Errors: ValueError for num_groups that does not divide num_channels, and another shape; TypeError for another dtype.

    >>> norm = nn.GroupNorm(num_groups=2, num_channels=4, eps=0.0)
    >>> norm(tb.tensor([[1.0, 3.0, 0.0, 20.0]])).data
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ) -> None:
        super().__init__((check_size("num_channels", num_channels),), eps, affine, bias)
        if num_channels % check_int("num_groups", num_groups, 1):
            raise ValueError(f"num_groups must divide num_channels={num_channels}, got {num_groups}")
        self.num_groups, self.num_channels, self.affine = num_groups, num_channels, affine

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, "input of GroupNorm")
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"input of GroupNorm must have {self.num_channels} channels (axis 1), got shape {x.shape}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
