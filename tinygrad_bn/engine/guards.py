"""What is refused, and why: nothing in here is needed to understand how gradients flow.

A Tensor already proves that its array is a plain one of float32 or float64. These checks are for everything else, and
for what has to fit together.
"""

from __future__ import annotations

import inspect
import itertools
import re
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


# What an op takes and gives


def admit(
    op: Any, positional: list[tuple[str, Any]], variadic: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], list[Any], list[Any], tuple[Any, ...], list[Any], Any]:
    """Any arguments of an op, checked: (all in order, their arrays, inputs, constants, versions, the dtype).

    positional: name and default of the rule's arguments; variadic: the name after a *. What is taken from kwargs, as
    f(x, bias=b) is f(x, None, b), is removed there: a tensor is always a positional argument.
    """
    count = len(positional)
    if len(args) < count:
        rest = [(n, kwargs.pop(n, default)) for n, default in positional[len(args) :]]
        missing = [n for n, value in rest if value is inspect.Parameter.empty]
        if missing:
            raise TypeError(f"{op.__name__} is missing its argument {missing[0]}")
        args += tuple(value for _, value in rest)
    for n, value in kwargs.items():
        if isinstance(value, Tensor):
            raise TypeError(f"{op.__name__} takes constants by keyword, got a Tensor as {n}")
    arrays: list[Any] = []
    inputs: list[tuple[int, Any]] = []
    constants: tuple[tuple[int, tuple[int, ...]], ...] = ()
    versions: list[tuple[list[int], int, Array]] = []
    dtype = None
    for i, a in enumerate(args):
        if isinstance(a, Tensor):
            versions.append((a._version, a._version[0], a._data))
            if a._requires_grad:
                inputs.append((i, a._node or a))
            else:
                constants += ((i, a.shape),)
            a = a._data
        elif isinstance(a, np.generic):
            a = a.item()  # NumPy's scalars are numbers here: they never widen a float32 tensor
            args = (*args[: len(arrays)], a, *args[len(arrays) + 1 :])
        if isinstance(a, np.ndarray):
            if type(a) is not np.ndarray or a.dtype.kind == "O":
                name = f"{positional[i][0] if i < count else variadic[0]} of {op.__name__}"
                a = plain_array(a, name)
                if a.dtype.kind == "O":
                    raise TypeError(f"{name} must hold numbers, got an array of objects")
            if a.dtype is not dtype and a.dtype.kind == "f":
                if dtype is not None and a.dtype != dtype:
                    raise TypeError(
                        f"{op.__name__} mixes {dtype} and {a.dtype}: convert the array with x.astype(np.float32), "
                        "or the net with net.double()"
                    )
                dtype = a.dtype
        arrays.append(a)
    if dtype is None or dtype not in FLOATS:  # NumPy takes None for float64
        got = ", ".join(f"{a.dtype} array" if isinstance(a, np.ndarray) else type(a).__name__ for a in args)
        raise TypeError(f"{op.__name__} needs a Tensor of floats, got ({got}): tensor(data) makes one")
    return args, arrays, inputs, constants, versions, dtype


def explain(error: Exception, op: str, names: list[str], args: list[Any]) -> None:
    """Raise what NumPy or Python says of the operands, with their names and kinds; not where it speaks for itself.

    A Python int that no dtype holds (OverflowError) and a list with rows of different lengths are wrong values.
    """
    if isinstance(error, ValueError) and "inhomogeneous" not in str(error):
        return
    if isinstance(error, RuntimeError) and not any(isinstance(a, (list, tuple)) for a in args):
        return  # otherwise it is of a tensor in a list, whose graph would be lost
    if isinstance(error, TypeError) and names and re.match(rf"({'|'.join(names)})\b.* must ", str(error)):
        return
    got = [f"{a.dtype} array {a.shape}" if isinstance(a, np.ndarray) else f"{type(a).__name__} {a!r:.40}" for a in args]
    kinds = ", ".join(f"{name}: {kind}" for name, kind in itertools.zip_longest(names, got, fillvalue="..."))
    kind = ValueError if isinstance(error, (OverflowError, ValueError)) else TypeError
    raise kind(f"{op}({kinds}): {error}") from error


def result(op: Any, y: Any, dtype: Any, arrays: list[Any]) -> Any:
    """What an op gave, as an array of the dtype of its tensors."""
    if type(y) is not np.ndarray:
        if isinstance(y, Tensor):
            raise TypeError(f"the rule of {op.__name__} must compute with arrays, it gave a Tensor as its result")
        if isinstance(y, (tuple, list, dict)):
            got = f"{type(y).__name__} of {len(y)}"
            raise TypeError(f"the result of {op.__name__} must be one array, got a {got}: make an op for each")
        y = np.asarray(y)
    if y.dtype != dtype:
        others = {str(a.dtype) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind in "iu"}
        if others:
            remedy = f"convert the {' and '.join(sorted(others))} array with a.astype(np.{dtype})"
        elif any(isinstance(a, (list, tuple)) for a in arrays):
            remedy = f"make an array of the list, np.array(values, np.{dtype})"
        else:
            remedy = "an op must keep the dtype of its tensors, y.astype(x.dtype) restores it"
        raise TypeError(f"{op.__name__} on {dtype} tensors gave {y.dtype}: {remedy}")
    return y


def gradient(n: Any, g: Any) -> Array:
    """What a pullback gave in place of an array, as one: numbers, and lists of them."""
    array = np.asarray(g) if isinstance(g, (int, float, np.generic, list)) else None
    if array is None or array.dtype.kind not in "biufc":
        raise TypeError(f"the pullback of {n.op.__name__} must give arrays, got {type(g).__name__}")
    return array


def check_gradients(n: Any, gradients: tuple[Any, ...]) -> None:
    """A pullback gives one gradient for each argument; those at the end that need none may be missing."""
    if len(gradients) > len(n.args):
        raise ValueError(f"the pullback of {n.op.__name__} gave {len(gradients)} gradients for {len(n.args)} arguments")
    for i, _ in n.inputs:
        if i >= len(gradients):
            raise ValueError(f"the pullback of {n.op.__name__} gave no gradient for its argument {i}")
