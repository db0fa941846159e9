"""The relatives of batch norm as layers: ghost batches, renormalization, decorrelation.

Parameters, running statistics, momentum and modes are batch norm's (nn/normalization.py); the formulas and sources
are those of the functions of the same names (ops/norm_variants.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import Array, check_int, check_number, check_size
from ..engine.replay_notes import fresh
from ..engine.tensors import Tensor
from ..ops.whitening import MATRIX
from . import functional as F
from .normalization import _BatchNorm, described

WHITENED_TOGETHER = 64  # channels, unless group_size says otherwise: the cost per channel grows with its square


class _GhostBatchNorm(_BatchNorm):
    """Batch norm with the statistics of ghosts of ghost_size samples (Hoffer et al. 2017).

    The last ghost is smaller where ghost_size does not divide the batch; a single value left over joins the ghost
    before. See functional.ghost_batch_norm.
    num_features, eps, momentum, affine, track_running_stats, bias: as in BatchNorm1d (momentum=None is the average).
    Errors: ValueError for ghost_size < 1, and as BatchNorm1d.
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias)
        self.ghost_size = check_int("ghost_size", ghost_size, 1)

    def normalize(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        mean, var = self._given(training)
        return F.ghost_batch_norm(x, self.ghost_size, mean, var, self.weight, self.bias, training, momentum, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class GhostBatchNorm1d(_GhostBatchNorm):
    __doc__ = described(
        "Ghost batch norm of (N, C) or (N, C, L).",
        _GhostBatchNorm,
        """
        >>> norm = nn.GhostBatchNorm1d(1, ghost_size=2, eps=0.0)
        >>> norm(tb.tensor([[1.0], [3.0], [0.0], [20.0]])).data.ravel()  # each pair for itself
        array([-1.,  1., -1.,  1.], dtype=float32)
        """,
    )
    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class GhostBatchNorm2d(_GhostBatchNorm):
    __doc__ = described(
        "Ghost batch norm of (N, C, H, W).",
        _GhostBatchNorm,
        """
        >>> norm = nn.GhostBatchNorm2d(1, ghost_size=1, eps=0.0)
        >>> norm(tb.tensor([[[[1, 3]]], [[[0, 20]]]])).data.ravel()  # each image for itself
        array([-1.,  1., -1.,  1.], dtype=float32)
        """,
    )
    axes, layout = (4,), "(N, C, H, W)"


def _copies(*arrays: Array) -> tuple[Array, ...]:
    return tuple(a.copy() for a in arrays)


class _BatchRenorm(_BatchNorm):
    """Batch norm whose training output is corrected towards its eval output (Ioffe 2017).

        x_hat = (x - mean_B) / sigma_B * r + d,   r in [1 / r_max, r_max],   d in [-d_max, d_max]

    The limits start at r = 1, d = 0, which is batch norm, for `warmup` batches; then r_max rises linearly over
    `r_ramp` batches from 1, d_max over `d_ramp` batches from 0. The defaults are the paper's: 5,000 batches of batch
    norm, r_max = 3 after 40,000, d_max = 5 after 25,000; its moving averages had momentum 0.01. The batches are
    counted in num_batches_tracked. See functional.batch_renorm.
    num_features, eps, momentum, affine, bias: as in BatchNorm1d (momentum=None is the average).
    Errors: ValueError for r_max < 1 or a negative d_max, warmup or ramp, and as BatchNorm1d.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup: int = 5000,
        r_ramp: int = 35000,
        d_ramp: int = 20000,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, True, bias=bias)
        self.r_max, self.d_max = check_number("r_max", r_max, 1), check_number("d_max", d_max, 0)
        self.warmup = check_int("warmup", warmup, 0)
        self.r_ramp, self.d_ramp = check_int("r_ramp", r_ramp, 0), check_int("d_ramp", d_ramp, 0)

    def limits(self) -> tuple[float, float]:
        """(r_max, d_max) for the next batch.

        >>> norm = nn.BatchRenorm1d(1, r_max=3.0, d_max=5.0, warmup=0, r_ramp=4, d_ramp=4)
        >>> norm.num_batches_tracked += 2  # half way
        >>> norm.limits()
        (2.0, 2.5)
        """
        seen = 0 if self.num_batches_tracked is None else int(self.num_batches_tracked)
        after = seen - self.warmup
        if after < 0:
            return 1.0, 0.0
        r = min(after / self.r_ramp, 1.0) if self.r_ramp else 1.0
        d = min(after / self.d_ramp, 1.0) if self.d_ramp else 1.0
        return 1 + (self.r_max - 1) * r, self.d_max * d

    def normalize(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        mean, var = self._given(training)
        if mean is None and self._uses_running():  # the correction needs them also where they do not move
            mean, var = fresh(_copies, self.running_mean, self.running_var)
        limits = fresh(self.limits) if training else (1.0, 0.0)
        return F.batch_renorm(x, mean, var, self.weight, self.bias, training, momentum, self.eps, *limits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, warmup={self.warmup}"


class BatchRenorm1d(_BatchRenorm):
    __doc__ = described(
        "Batch renorm of (N, C) or (N, C, L).",
        _BatchRenorm,
        """
        >>> norm = nn.BatchRenorm1d(1, eps=0.0, warmup=0, r_ramp=0, d_ramp=0)  # the running mean is 0, the variance 1
        >>> norm(tb.tensor([[1.0], [3.0]])).data.ravel()  # sigma_B = 1 and mean_B = 2, so r = 1 and d = 2
        array([1., 3.], dtype=float32)
        """,
    )
    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class BatchRenorm2d(_BatchRenorm):
    __doc__ = described(
        "Batch renorm of (N, C, H, W).",
        _BatchRenorm,
        """
        >>> norm = nn.BatchRenorm2d(1, eps=0.0)  # warmup: batch norm
        >>> norm(tb.tensor([[[[1, 3]]]])).data.ravel()
        array([-1.,  1.], dtype=float32)
        """,
    )
    axes, layout = (4,), "(N, C, H, W)"


class _DecorrelatedBatchNorm(_BatchNorm):
    """Batch norm that whitens groups of channels: x_hat = W (x - mean), W = Sigma^(-1/2) (Huang et al. 2018).

    group_size: how many channels are whitened together. None: all where they are at most 64, else the largest
    divisor of num_features up to 64. method: "zca" or "pca". The state holds running_mean and running_matrix
    (groups, group_size, group_size) in place of running_var. See functional.decorrelated_batch_norm.
    num_features, eps, momentum, affine, track_running_stats, bias: as in BatchNorm1d.
    Errors: ValueError for a group_size that does not divide num_features, or another method, and as BatchNorm1d.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        group_size: int | None = None,
        method: str = "zca",
        bias: bool = True,
    ) -> None:
        n = check_size("num_features", num_features)
        if group_size is None:
            group_size = max(d for d in range(1, min(n, WHITENED_TOGETHER) + 1) if n % d == 0)
        self.group_size = check_int("group_size", group_size, 1)
        if n % group_size:
            raise ValueError(f"group_size must divide num_features={n}, got {group_size}")
        if not isinstance(method, str) or method not in MATRIX:
            raise ValueError(f"method must be one of {sorted(MATRIX)}, got {method!r}")
        self.method = method
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias)

    def initial_statistics(self) -> dict[str, Array]:
        size = self.group_size
        return {
            "running_mean": np.zeros(self.num_features, np.float32),
            "running_matrix": np.tile(np.eye(size, dtype=np.float32), (self.num_features // size, 1, 1)),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    running_matrix: Any
    _statistics = ("running_mean", "running_matrix")

    def normalize(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        mean, matrix = self._given(training)
        settings = self.eps, self.group_size, self.method
        return F.decorrelated_batch_norm(x, mean, matrix, self.weight, self.bias, training, momentum, *settings)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}, method={self.method!r}"


class DecorrelatedBatchNorm1d(_DecorrelatedBatchNorm):
    __doc__ = described(
        "Decorrelated batch norm of (N, C) or (N, C, L).",
        _DecorrelatedBatchNorm,
        """
        >>> norm = nn.DecorrelatedBatchNorm1d(2, eps=0.0)
        >>> x = tb.tensor([[1, 1], [-1, -1], [2, -2], [-2, 2]])  # variance 1 along (1, 1), 4 across
        >>> norm(x).data.round(3)
        array([[ 1.,  1.],
               [-1., -1.],
               [ 1., -1.],
               [-1.,  1.]], dtype=float32)
        """,
    )
    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class DecorrelatedBatchNorm2d(_DecorrelatedBatchNorm):
    __doc__ = described(
        "Decorrelated batch norm of (N, C, H, W).",
        _DecorrelatedBatchNorm,
        """
        >>> norm = nn.DecorrelatedBatchNorm2d(2, eps=0.0)
        >>> image = tb.tensor([[[[1, -1], [2, -2]], [[1, -1], [-2, 2]]]])
        >>> norm(image).data.round(3).reshape(2, 4)  # a row per channel: uncorrelated
        array([[ 1., -1.,  1., -1.],
               [ 1., -1., -1.,  1.]], dtype=float32)
        """,
    )
    axes, layout = (4,), "(N, C, H, W)"
