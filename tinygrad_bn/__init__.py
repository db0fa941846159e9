"""tinygrad_bn: a minimal tensor and autograd engine with the whole normalization family in fused Numba kernels.

help() on any name says how to use it. The examples there presuppose these imports:

    import numpy as np
    import tinygrad_bn as tb
    import tinygrad_bn.nn.functional as F
    from tinygrad_bn import nn, optim
"""

__version__ = "0.1.0"

from . import data, nn, optim, preprocessing
from .checkpoint import load, save
from .engine.backward import grad
from .engine.recording import enable_grad, is_grad_enabled, no_grad
from .engine.replay import replay
from .engine.replay_notes import fresh
from .engine.tape import differentiable
from .engine.tensors import Tensor, tensor
from .gradient_checks import GradcheckError, check_pair, gradcheck, gradcheck_cases, gradgradcheck, numerical_gradient
from .inspection.drawing import draw
from .inspection.tracing import trace
from .ops.elementwise import absolute, clip, exp, log, maximum, minimum, sqrt, where
from .ops.linear import matmul
from .ops.shape import broadcast_to, concatenate, pad, stack
from .runtime.memory import keep_freed_memory
from .runtime.random import get_rng_state, manual_seed, set_rng_state
from .runtime.threads import get_num_threads, set_num_threads

keep_freed_memory()

__all__ = [
    "GradcheckError",
    "Tensor",
    "absolute",
    "broadcast_to",
    "check_pair",
    "clip",
    "concatenate",
    "data",
    "differentiable",
    "draw",
    "enable_grad",
    "exp",
    "fresh",
    "get_num_threads",
    "get_rng_state",
    "grad",
    "gradcheck",
    "gradcheck_cases",
    "gradgradcheck",
    "is_grad_enabled",
    "load",
    "log",
    "manual_seed",
    "matmul",
    "maximum",
    "minimum",
    "nn",
    "no_grad",
    "numerical_gradient",
    "optim",
    "pad",
    "preprocessing",
    "replay",
    "save",
    "set_num_threads",
    "set_rng_state",
    "sqrt",
    "stack",
    "tensor",
    "trace",
    "where",
]
