"""What is refused, and why: nothing in here is needed to understand how gradients flow.

A Tensor already proves that its array is a plain one of float32 or float64. These checks are for everything else, and
for what has to fit together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import FLOATS, Array, plain_array
from .tensors import Tensor


def check_tensors(name: str, values: Any) -> list[Any]:
    """A sequence of Tensors or arrays."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of Tensors, got {type(values).__name__}")
    for i, value in enumerate(values):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"{name}[{i}] must be a Tensor or an array, got {type(value).__name__}")
        if value.dtype not in FLOATS:
            raise TypeError(f"{name}[{i}] must be float32 or float64, got {value.dtype}: a.astype(np.float32) converts")
        if value.dtype != values[0].dtype:
            raise TypeError(f"{name} must have one dtype, got {values[0].dtype} and {value.dtype}")
    return list(values)


def check_input(x: Any, name: str = "x") -> None:
    """A float Tensor, or an array. name: what it is called, "input of Linear" where a layer asks."""
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a Tensor, got {type(x).__name__}")
    if type(x) is not np.ndarray and isinstance(x, np.ndarray):
        plain_array(x, name)
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {x.dtype}: x.astype(np.float32) or tensor(x) converts")


def check_gradient(t: Tensor) -> Array:
    """The .grad of t, which anyone may have set, as an array of t's shape and dtype."""
    g = t.grad._data if isinstance(t.grad, Tensor) else t.grad
    if type(g) is not np.ndarray and not isinstance(g, np.generic):
        raise TypeError(f".grad must be a plain NumPy array, a Tensor or None, got {type(g).__name__}")
    if g.dtype != t.dtype:
        raise TypeError(f".grad of a {t.dtype} tensor must have that dtype, got {g.dtype}")
    if g.shape != t.shape:
        raise ValueError(f".grad of a tensor of shape {t.shape} must have that shape, got {g.shape}")
    return np.asarray(g)


def check_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """None, or an array or Tensor of exactly this shape and dtype."""
    if value is None:
        return
    data = value._data if isinstance(value, Tensor) else value
    if not isinstance(data, np.ndarray):
        raise TypeError(f"{name} must be a Tensor, an array or None, got {type(value).__name__}")
    if type(data) is not np.ndarray:
        plain_array(data, name)
    if data.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {data.shape}")
    if data.dtype is not dtype and data.dtype != dtype:
        remedy = ""
        if data.dtype in FLOATS:
            convert = "double" if dtype == np.float64 else "float"
            remedy = f": convert the array with x.astype(np.{data.dtype}), or the net with net.{convert}()"
        raise TypeError(f"{name} must be {dtype} like the input, got {data.dtype}{remedy}")
