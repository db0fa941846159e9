"""Checks of arguments, in one wording: the error names the argument, what was expected and what it got.

A bool is not taken for a number, though Python counts it among the integers.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .engine import FLOATS, Tensor


def _got(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"


def check_int(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, of at least ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {_got(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return int(value)


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in [least, most]."""
    if type(value) is not float and (
        isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer))
    ):
        raise TypeError(f"{name} must be a number, got {_got(value)}")
    if not (-math.inf < value < math.inf and least <= value <= most):  # false for NaN, and holds for ints of any size
        lower = "" if least == -math.inf else f" and >= {least:g}"
        upper = "" if most == math.inf else f" and <= {most:g}"
        raise ValueError(f"{name} must be finite{lower}{upper}, got {value}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must fit into a float, got a larger int") from None


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {_got(value)}")
    return value


def check_path(name: str, value: Any) -> Path:
    """The name of a file or folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a Path, got {_got(value)}")
    return Path(value)


def check_generator(generator: Any) -> None:
    """None, which means that of manual_seed, or a NumPy random generator."""
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise TypeError(f"generator must be a numpy.random.Generator or None, got {type(generator).__name__}")


def check_tensors(name: str, values: Any) -> list[Any]:
    """A sequence of Tensors or arrays."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of Tensors, got {type(values).__name__}")
    for i, value in enumerate(values):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"{name}[{i}] must be a Tensor or an array, got {type(value).__name__}")
    return list(values)


def check_input(x: Any) -> None:
    """The input of a layer: a float Tensor, or an array."""
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"input must be a Tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(f"input must be float32 or float64, got {x.dtype}: x.astype(np.float32) or tensor(x) converts")


def check_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """None, or an array or Tensor of exactly this shape and dtype."""
    if value is None:
        return
    data = value._data if isinstance(value, Tensor) else value
    if not isinstance(data, np.ndarray):
        raise TypeError(f"{name} must be a Tensor, an array or None, got {type(value).__name__}")
    if data.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {data.shape}")
    if data.dtype is not dtype and data.dtype != dtype:
        remedy = ""
        if data.dtype in FLOATS:
            convert = "double" if dtype == np.float64 else "float"
            remedy = f": convert the array with x.astype(np.{data.dtype}), or the net with net.{convert}()"
        raise TypeError(f"{name} must be {dtype} like the input, got {data.dtype}{remedy}")
