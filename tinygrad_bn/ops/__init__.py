"""The ops, a family per file. Importing this package fills the table of operators."""

from . import (
    activation,
    convolution,
    elementwise,
    linear,
    loss,
    norm_kernels,
    norm_variants,
    norms,
    pooling,
    reduction,
    shape,
    whitening,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "linear",
    "loss",
    "norm_kernels",
    "norm_variants",
    "norms",
    "pooling",
    "reduction",
    "shape",
    "whitening",
]
