"""The five normalization functions: check the arguments, choose the index set, track the statistics.

The mathematics and the kernels are in norm_kernels.py; PyTorch's names, argument order and defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array, check_flag, check_int, check_number
from ..engine.guards import check_array, check_input
from ..engine.replay_notes import fresh
from ..engine.tensors import Tensor
from ..runtime.jit import contiguous, kernel, part
from .norm_kernels import channel_norm, row_norm


def check_eps(eps: Any) -> float:
    """0 is allowed: the exact identities need it."""
    return check_number("eps", eps, 0)


def check_momentum(momentum: Any) -> float:
    """The weight of the new statistics."""
    return check_number("momentum", momentum, 0, 1)


def check_rank(x: Any, least: int) -> None:
    """A float tensor of at least this many axes."""
    check_input(x)
    if x.ndim < least:
        raise ValueError(f"x must have at least {least} axes (N, C, ...), got shape {x.shape}")


def check_channels(x: Any, **arrays: Any) -> None:
    """Each array is None or holds a value per channel."""
    for name, value in arrays.items():
        check_array(name, value, (x.shape[1],), x.dtype)


def check_writable(**arrays: Any) -> None:
    """What training changes in place; all are looked at before one is changed."""
    for name, value in arrays.items():
        data = value._data if isinstance(value, Tensor) else value
        if data is not None and not data.flags.writeable:
            raise ValueError(f"{name} must be writable, since training changes it in place, got a read-only array")


@part
def move(running, batch, momentum, factor):
    """running = (1 - momentum) running + momentum factor batch"""
    for c in range(running.size):
        running[c] = (1 - momentum) * running[c] + momentum * factor * batch[c]


@kernel
def move_both(mean, spread, batch_mean, batch_spread, momentum, factor):
    """The same for two, the second with the factor."""
    move(mean, batch_mean, momentum, 1.0)
    move(spread, batch_spread, momentum, factor)


NOTHING = np.empty(0, np.float32)  # in place of statistics that are not kept


class Running(NamedTuple):
    """The running statistics of a norm: arrays or Tensors, or None; and the weight of a new batch.

    The second one, spread, is a variance per channel, or a matrix.
    """

    mean: Any
    spread: Any
    momentum: Any

    def check(self, flag: str, own: Any, second: str = "running_var") -> bool:
        """own, whether the statistics of x are taken and these here moved; flag: its name among the arguments."""
        if check_flag(flag, own):
            check_writable(running_mean=self.mean, **{second: self.spread})
        elif self.mean is None or self.spread is None:
            raise ValueError(f"running_mean and {second} must be given when {flag}=False, got None")
        return bool(own)

    def move(self, mean: Array, spread: Array, factor: float = 1.0) -> None:
        """Towards the statistics of a batch, in place; factor: of spread, m / (m - 1) makes a variance unbiased."""
        if type(self.mean) is type(self.spread) is np.ndarray and self.mean.flags.carray and self.spread.flags.carray:
            four = [a.reshape(-1) for a in (self.mean, self.spread, mean, spread)]
            move_both(*four, float(self.momentum), float(factor))
            return
        running = [s._data if isinstance(s, Tensor) else s for s in (self.mean, self.spread)]
        targets = [NOTHING if s is None else contiguous(s).reshape(-1) for s in running]
        move_both(
            *targets, contiguous(mean).reshape(-1), contiguous(spread).reshape(-1), float(self.momentum), float(factor)
        )
        for own, data, target in zip(self[:2], running, targets, strict=True):
            if data is not None and not data.flags.carray:
                data[...] = target.reshape(data.shape)
            if isinstance(own, Tensor):
                own.data = data  # counts as a change

    def constants(self) -> tuple[Array, Array]:
        """Copies in float64."""
        copies: tuple[Array, Array] = fresh(_copies, self.mean, self.spread)
        return copies


def _copies(mean: Array, spread: Array) -> tuple[Array, Array]:
    return mean.astype(np.float64), spread.astype(np.float64)


def check_channel_norm(x: Any, least: int, running: Running, weight: Any, bias: Any, eps: Any) -> float:
    """What the norms with running statistics per channel check alike; returns eps. least: how many axes x has."""
    check_rank(x, least)
    number = check_eps(eps)
    check_momentum(running.momentum)
    check_channels(x, running_mean=running.mean, running_var=running.spread, weight=weight, bias=bias)
    return number


def with_running_statistics(x: Any, running: Running, weight: Any, bias: Any, eps: float) -> Tensor:
    """Eval mode: the running statistics are constants."""
    mean, var = running.constants()
    return channel_norm(x, weight, bias, mean=mean, var=var, eps=eps)


ONE_ROW = "for inference call net.eval(); in training, DataLoader's drop_last=True leaves out a last batch of one"


def more_than_one(count: int, shape: tuple[int, ...], where: str, remedy: str = "") -> None:
    if count == 1:
        hint = f": {remedy}" if remedy else ""
        raise ValueError(f"x must have more than 1 value per {where} when training, got shape {shape}{hint}")


def batch_norm(
    x: Tensor,
    running_mean: Tensor | Array | None,
    running_var: Tensor | Array | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch: y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C) or (N, C, ...). weight, bias, running_mean, running_var: (C,) or None, of x's dtype.
    training=True: mean and biased var over all axes but 1; the running statistics (arrays, changed in place) become
    (1 - momentum) running + momentum batch, with the unbiased variance, var m / (m - 1), m values per channel.
    training=False: the running statistics are used, as constants.
    Errors: ValueError for one value per channel in training, wrong shapes or eps < 0; TypeError for dtypes.
    Source: Ioffe & Szegedy 2015, algorithms 1 and 2.

    >>> x = tb.tensor([[1.0, 0.0], [3.0, 20.0]])
    >>> mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    >>> F.batch_norm(x, mean, var, training=True, eps=0.0)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> mean  # 0.9 times 0 + 0.1 times (2, 10)
    array([0.2, 1. ], dtype=float32)
    """
    running = Running(running_mean, running_var, momentum)
    eps = check_channel_norm(x, 2, running, weight, bias, eps)
    if not running.check("training", training):
        return with_running_statistics(x, running, weight, bias, eps)
    m = len(x) * math.prod(x.shape[2:])
    more_than_one(m, x.shape, "channel", ONE_ROW)

    return channel_norm(x, weight, bias, mean=None, var=None, eps=eps, track=partial(_track_batch, running, m))


def _track_batch(running: Running, m: int, mean: Array, var: Array) -> None:
    if m > 0:
        running.move(mean[0], var[0], m / (m - 1))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | Array | None = None,
    running_var: Tensor | Array | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of each sample over its positions: y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C, L ...). weight, bias, running_mean, running_var: (C,) or None. The running statistics, where given,
    track the batch average of the instances' means and unbiased variances, with momentum (default 0.1).
    use_input_stats=False uses them instead. eps: default 1e-5.
    Errors: as batch_norm. Source: Ulyanov, Vedaldi & Lempitsky 2016.

    >>> F.instance_norm(tb.tensor([[[1.0, 3.0], [0.0, 20.0]]]), eps=0.0)  # one sample, two channels
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    running = Running(running_mean, running_var, momentum)
    eps = check_channel_norm(x, 3, running, weight, bias, eps)
    if not running.check("use_input_stats", use_input_stats):
        return with_running_statistics(x, running, weight, bias, eps)
    (N, C), L = x.shape[:2], math.prod(x.shape[2:])
    more_than_one(L, x.shape, "instance and channel")

    track = partial(_track_instances, running, L)
    return row_norm(x, weight, bias, shape=(N, C, 1, L), eps=eps, centered=True, track=track)


def _track_instances(running: Running, positions: int, mean: Array, var: Array) -> None:
    if mean.size and positions:
        running.move(mean.mean(axis=0), var.mean(axis=0), positions / (positions - 1))


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize groups of C / num_groups channels of each sample, over those channels and all positions.

    x: (N, C, ...). weight, bias: (C,) or None. num_groups=1 is layer norm over (C, ...), num_groups=C instance norm.
    eps: default 1e-5. Errors: ValueError where num_groups does not divide C, and as batch_norm. Source: Wu & He 2018.

    >>> F.group_norm(tb.tensor([[1.0, 3.0, 0.0, 20.0]]), 2, eps=0.0)  # one sample, channels 0-1 and 2-3
    tensor([[-1.,  1., -1.,  1.]])
    """
    check_rank(x, 2)
    eps, (N, C), L = check_eps(eps), x.shape[:2], math.prod(x.shape[2:])
    G = check_int("num_groups", num_groups, 1)
    if C % G:
        raise ValueError(f"num_groups must divide the {C} channels, got {num_groups}")
    check_channels(x, weight=weight, bias=bias)
    more_than_one(N * (C // G) * L, x.shape, "group")  # N is counted: PyTorch's rule
    return row_norm(x, weight, bias, shape=(N, G, C // G, L), eps=eps, centered=True)


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
        raise ValueError(f"x must end with the axes normalized_shape={shape}, got shape {x.shape}")
    return shape


def layer_norm(
    x: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over the trailing axes: y = weight (x - mean) / sqrt(var + eps) + bias.

    normalized_shape: the trailing axes of x, an int or a tuple; weight, bias: of that shape, or None. eps: default
    1e-5.
    Errors: ValueError for shapes that do not fit or eps < 0; TypeError for dtypes. Source: Ba, Kiros & Hinton 2016.

    >>> F.layer_norm(tb.tensor([[1.0, 3.0], [0.0, 20.0]]), 2, eps=0.0)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """
    check_rank(x, 1)
    eps, shape = check_eps(eps), _check_normalized_shape(x, normalized_shape)
    check_array("weight", weight, shape, x.dtype)
    check_array("bias", bias, shape, x.dtype)
    return row_norm(x, weight, bias, shape=_rows(x, shape), eps=eps, centered=True)


def rms_norm(
    x: Tensor, normalized_shape: int | tuple[int, ...], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """y = weight x / sqrt(mean(x^2) + eps) over the trailing axes; no centering, no bias.

    normalized_shape: the trailing axes of x, an int or a tuple; weight: of that shape, or None.
    eps=None (default) is the machine epsilon of x's dtype, as in PyTorch. Source: Zhang & Sennrich 2019.
    Errors: ValueError for shapes that do not fit or eps < 0; TypeError for dtypes.

    >>> F.rms_norm(tb.tensor([[1.0, 7.0]]), 2, eps=0.0)  # mean(x^2) = (1 + 49) / 2 = 5^2
    tensor([[0.2, 1.4]])
    """
    check_rank(x, 1)
    eps = float(np.finfo(x.dtype).eps) if eps is None else check_eps(eps)
    shape = _check_normalized_shape(x, normalized_shape)
    check_array("weight", weight, shape, x.dtype)
    return row_norm(x, weight, None, shape=_rows(x, shape), eps=eps, centered=False)


def _rows(x: Any, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    return (math.prod(x.shape[: x.ndim - len(shape)]), 1, math.prod(shape), 1)
