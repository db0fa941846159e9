"""PyTorch's torch.nn.functional, as far as this package goes. ``import tinygrad_bn.nn.functional as F``."""

from ..ops.activation import dropout, log_softmax, relu, sigmoid, softmax, tanh
from ..ops.linear import linear
from ..ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from ..ops.norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

__all__ = [
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "sigmoid",
    "softmax",
    "tanh",
]
