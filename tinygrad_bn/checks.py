"""Checks of arguments, in one wording: the error names the argument, what was expected and what it got.

A bool is not taken for a number, though Python counts it among the integers.
"""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .tensors import FLOATS, Array, Tensor, plain_array


def _got(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"


def _digits(value: Any) -> str:
    """Python refuses to print ints of more than 4300 digits."""
    return str(value) if not isinstance(value, int) or abs(value) < 10**40 else "an int of more than 40 digits"


LARGEST_SIZE, LARGEST_INT = 2**31 - 1, 2**63 - 1


def check_int(name: str, value: Any, least: int | None = None, most: int | None = LARGEST_INT) -> int:
    """A whole number in [least, most]; by default it has to fit into 64 bits."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {_got(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be >= {least}, got {_digits(value)}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be <= {most}, got {_digits(value)}")
    return int(value)


def check_size(name: str, value: Any, least: int = 1) -> int:
    """A number of elements along an axis: more than 2^31 - 1 is a mistake, and not for NumPy to find out."""
    return check_int(name, value, least, LARGEST_SIZE)


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in [least, most]."""
    if type(value) is not float and (
        isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer))
    ):
        raise TypeError(f"{name} must be a number, got {_got(value)}")
    if isinstance(value, np.generic):
        value = value.item()  # a float16 would take the bounds for infinite
    if not (-math.inf < value < math.inf and least <= value <= most):  # false for NaN, and holds for ints of any size
        lower = "" if least == -math.inf else f" and >= {least:g}"
        upper = "" if most == math.inf else f" and <= {most:g}"
        raise ValueError(f"{name} must be finite{lower}{upper}, got {_digits(value)}")
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
    if "\0" in str(value):
        raise ValueError(f"{name} must not hold a zero character, got {str(value)!r:.40}")
    return Path(value)


def check_generator(generator: Any) -> None:
    """None, which means that of manual_seed, or a NumPy random generator."""
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise TypeError(f"generator must be a numpy.random.Generator or None, got {type(generator).__name__}")


def copied(name: str, value: Any) -> Any:
    """A deep copy of a state: of dicts, lists, numbers, strings and arrays."""
    try:
        return copy.deepcopy(value)
    except Exception as error:  # copy and pickle raise as they like: a generator, a lock, a module
        raise TypeError(f"{name} must hold dicts, lists, numbers, strings and arrays: {error}") from error


def check_iterable(name: str, values: Any, what: str) -> list[Any]:
    """What can be iterated over, as a list."""
    try:
        return list(values)
    except TypeError as error:  # an array without axes is an Iterable, and cannot be iterated over
        raise TypeError(f"{name} must be an iterable of {what}, got {_got(values)}") from error


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
