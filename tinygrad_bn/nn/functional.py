"""PyTorch's torch.nn.functional, as far as this package goes. ``import tinygrad_bn.nn.functional as F``."""

from ..ops.activation import dropout, log_softmax, relu, sigmoid, softmax, tanh
from ..ops.convolution import conv2d
from ..ops.linear import linear
from ..ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from ..ops.norm_variants import batch_renorm, decorrelated_batch_norm, ghost_batch_norm
from ..ops.norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from ..ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "batch_renorm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "decorrelated_batch_norm",
    "dropout",
    "ghost_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "sigmoid",
    "softmax",
    "tanh",
]
