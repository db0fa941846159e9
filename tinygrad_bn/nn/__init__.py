"""Layers and containers, with PyTorch's names."""

from . import functional, init, utils, watch
from .convolution import AdaptiveAvgPool2d, AvgPool2d, Conv2d, MaxPool2d
from .layers import Dropout, Flatten, Identity, Linear, ReLU, Sigmoid, Tanh
from .module import Module, ModuleList, Parameter, Sequential
from .norm_variants import (
    BatchRenorm1d,
    BatchRenorm2d,
    DecorrelatedBatchNorm1d,
    DecorrelatedBatchNorm2d,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
)
from .normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from .overview import summary
from .watch import Watch

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "Conv2d",
    "DecorrelatedBatchNorm1d",
    "DecorrelatedBatchNorm2d",
    "Dropout",
    "Flatten",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "Watch",
    "functional",
    "init",
    "summary",
    "utils",
    "watch",
]
