"""Layers for images: convolution and pooling."""

from __future__ import annotations

import math

import numpy as np

from ..checks import check_flag, check_int, check_size
from ..engine.tensors import Tensor
from ..ops.convolution import check_padding, pair
from ..ops.pooling import check_divisor
from . import functional as F
from . import init
from .module import Module, Parameter


class Conv2d(Module):
    """Convolution of images (N, in_channels, H, W); see functional.conv2d for the formula and the arguments.

    weight (out_channels, in_channels / groups, height, width), bias (out_channels,), both U(-1, 1) / sqrt(fan_in).
    kernel_size: an int or a pair (height, width), and so stride (default 1), padding (default 0; or "same", "valid")
    and dilation (default 1). groups: default 1. bias=False leaves out the bias.
    Errors: ValueError for groups that do not divide the channels, and sizes that do not fit; TypeError for other types.

    >>> layer = nn.Conv2d(1, 8, kernel_size=3, padding=1, stride=2)
    >>> layer(tb.tensor(np.zeros((5, 1, 8, 8), np.float32))).shape  # floor((8 + 2 - 3) / 2) + 1 = 4
    (5, 8, 4, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = check_size("in_channels", in_channels)
        self.out_channels = check_size("out_channels", out_channels)
        self.groups = check_int("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide {in_channels} in_channels and {out_channels} out_channels, got {groups}"
            )
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        check_padding(padding, self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, 0)
        self.weight = Parameter(np.empty((out_channels, in_channels // groups, *self.kernel_size), np.float32))
        bias = check_flag("bias", bias)
        self.bias: Parameter | None
        self.register_parameter("bias", Parameter(np.empty(out_channels, np.float32)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as at the beginning.

        >>> layer = nn.Conv2d(1, 8, kernel_size=2)
        >>> layer.reset_parameters()
        >>> bool((abs(layer.weight.data) <= 1 / 2).all())  # 1 / sqrt(1 times 2 times 2)
        True
        """
        bound = 1 / math.sqrt(init.fans(self.weight)[0])
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        more = {"padding": (self.padding, (0, 0)), "dilation": (self.dilation, (1, 1)), "groups": (self.groups, 1)}
        changed = "".join(f", {name}={value!r}" for name, (value, usual) in more.items() if value != usual)
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}{changed}"
            + ", bias=False" * (self.bias is None)
        )


class MaxPool2d(Module):
    """The largest value of each window; see functional.max_pool2d.

    kernel_size, stride (None, the default, is kernel_size), padding (default 0) and dilation (default 1): ints or
    pairs.
    ceil_mode: round the number of windows up (default False).
    Errors: ValueError for windows that do not fit, TypeError for what is not an int or pair.

    >>> nn.MaxPool2d(2)(tb.tensor([[[1, 2], [3, 4]]]))
    tensor([[[4.]]])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair("stride", stride, 1)
        self.padding, self.dilation = pair("padding", padding, 0), pair("dilation", dilation, 1)
        self.ceil_mode = check_flag("ceil_mode", ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The average of each window; see functional.avg_pool2d.

    kernel_size, stride (None, the default, is kernel_size), padding (default 0): an int or a pair. ceil_mode: round the
    number of windows up (default False). count_include_pad: padding counts as zeros (default True). divisor_override:
    divide by this instead of the number of elements (default None).
    Errors: ValueError for windows that do not fit, TypeError for what is not an int or pair.

    >>> nn.AvgPool2d(2)(tb.tensor([[[1, 2], [3, 4]]]))
    tensor([[[2.5]]])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair("stride", stride, 1)
        self.padding = pair("padding", padding, 0)
        self.ceil_mode = check_flag("ceil_mode", ceil_mode)
        self.count_include_pad = check_flag("count_include_pad", count_include_pad)
        self.divisor_override = check_divisor(divisor_override)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Averages over as many windows as output_size says; AdaptiveAvgPool2d(1) is the global average.

    output_size: an int or a pair; None in a pair keeps the input's size. See functional.adaptive_avg_pool2d.
    Errors: ValueError for sizes below 1, TypeError for what is not an int or pair.

    >>> nn.AdaptiveAvgPool2d(1)(tb.tensor([[[1, 2], [3, 6]]]))
    tensor([[[3.]]])
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        sizes: object = output_size
        if isinstance(sizes, (tuple, list)):
            sizes = tuple(1 if n is None else n for n in sizes)  # None keeps the input's
        pair("output_size", sizes, 1)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
