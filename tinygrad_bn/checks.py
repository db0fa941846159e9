"""Checks of arguments, in one wording: the error names the argument, what was expected and what it got.

A bool is not taken for a number, though Python counts it among the integers.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
Array = NDArray[Any]


def plain_array(data: Array, name: str = "data") -> Array:
    """A memory-mapped array as it is; other subclasses give operators meanings of their own (matrix, masked array)."""
    if type(data) not in (np.ndarray, np.memmap):
        kind = type(data).__name__
        raise TypeError(f"{name} must be a plain NumPy array, got {kind}; np.asarray makes it one")
    return np.asarray(data)


def as_array(value: Any) -> Array:
    """An array of a list, or of one of NumPy's scalars. Of other things NumPy makes objects or strings."""
    try:
        return np.asarray(value)
    except Exception:  # lists of different lengths, and so on
        return np.asarray(None)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64, by any of NumPy's names."""
    try:
        # np.dtype would take None for float64, and of a number, or a tensor, its .dtype
        found = np.dtype(dtype) if isinstance(dtype, (str, type, np.dtype)) else None
    except Exception:  # NumPy raises a handful of kinds on what it cannot interpret
        found = None
    if found is None or found not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


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


# Arrays of floats, which tensors are made of


def check_bool(name: str, value: Any) -> bool:
    """A Python bool; not one of NumPy's."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return value


def _converts(dtype: np.dtype[Any]) -> bool:
    """Whether tensor() takes arrays of this dtype: floats of 32 or 64 bits in any byte order, integers, booleans."""
    return dtype.kind in "biu" or dtype.newbyteorder("=") in FLOATS


def _remedy(dtype: np.dtype[Any]) -> str:
    """How data of this dtype become a tensor's; "" if they hold no real numbers."""
    converts = "tensor(data)" if _converts(dtype) else "data.astype(np.float32)" if dtype.kind == "f" else ""
    return f": {converts} converts" if converts else ""


def check_floats(name: str, data: Any) -> Array:
    """A plain array of float32 or float64."""
    if not isinstance(data, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(data).__name__}; tensor(data) converts")
    data = plain_array(data)
    if data.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {data.dtype}{_remedy(data.dtype)}")
    return np.asarray(data)


def check_alike(name: str, value: Any, array: Array) -> Array:
    """A plain array of the dtype and shape of another."""
    if not isinstance(value, np.ndarray) or value.dtype != array.dtype or value.shape != array.shape:
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be a {array.dtype} array of shape {array.shape}, got {got}")
    return plain_array(value)


def as_floats(data: Any, dtype: Any) -> Array:
    """A new array of floats from what tensor() takes."""
    dtype = None if dtype is None else float_dtype(dtype)
    try:
        array = np.asarray(plain_array(data) if isinstance(data, np.ndarray) else data)
    except ValueError:
        raise ValueError("data must be a rectangular nest of numbers, got rows of different lengths") from None
    except RuntimeError as error:  # a tensor in a list
        raise TypeError(f"data must be a nest of numbers: {error}") from None
    if not _converts(array.dtype):
        got = f"{array.dtype}{_remedy(array.dtype)}"
        raise TypeError(f"data must hold floats (32 or 64 bit), integers or booleans, got {got}")
    native = array.dtype.newbyteorder("=")
    keeps = isinstance(data, (np.ndarray, np.generic)) and native in FLOATS
    return np.array(array, dtype=dtype or (native if keeps else np.float32))


_RUN_LATER: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (inspect.isgeneratorfunction, "a generator"),
    (inspect.iscoroutinefunction, "a coroutine"),
    (inspect.isasyncgenfunction, "an asynchronous generator"),
)


def check_decorated(function: Any) -> None:
    """What no_grad() and enable_grad() can decorate: a function whose body runs when it is called."""
    name = getattr(function, "__name__", repr(function))
    call = getattr(type(function), "__call__", None)  # noqa: B004 (the class's, of an object that can be called)
    for test, kind in _RUN_LATER:
        if test(function) or test(call):  # its body would run outside of the with block
            raise TypeError(f"{name} is {kind}: use the with statement inside of it, around what does not wait")
    if isinstance(function, (type, staticmethod, classmethod, property)) or not callable(function):
        raise TypeError(
            f"function must be a function for no_grad() or enable_grad() to decorate, got a "
            f"{type(function).__name__}, {name:.40}: decorate the functions in a class"
        )


def not_on_tensors(function: Any, method: str = "__call__", kwargs: Any = ()) -> TypeError:
    """For a NumPy function that no op stands for, a method of it (np.add.reduce), or its keywords (out=)."""
    name = getattr(function, "__name__", str(function))
    how = ("" if method == "__call__" else f".{method}") + (f" with {', '.join(sorted(kwargs))}" if kwargs else "")
    return TypeError(
        f"np.{name}{how} is not defined on tensors; apply it to t.data, or write an op with @differentiable"
    )
