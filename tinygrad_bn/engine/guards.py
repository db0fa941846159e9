"""What is refused, and why; and the detour of unusual arguments. Not needed to understand how gradients flow.

A Tensor already proves that its array is a plain one of float32 or float64, so ops of tensors and numbers check
nothing. What is given by keyword, left to a default, or an array of floats, is put in order here; the rest is refused.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..checks import FLOATS, Array, as_array, check_flag, check_iterable, plain_array
from .recording import thread
from .replay_notes import note_number
from .tensors import Tensor, wrap


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


def check_gradients(leaves: Iterable[Tensor]) -> None:
    """The .grad of each that has one."""
    for t in leaves:
        if t.grad is not None:
            check_gradient(t)


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


def check_index(index: Any) -> None:
    """An index may hold anything but tensors: they hold floats."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, Tensor) or (isinstance(p, list) and any(isinstance(i, Tensor) for i in p)) for p in parts):
        raise TypeError(
            "an index must be made of integers, slices or integer arrays, got a Tensor, which holds floats: "
            "keep indices in NumPy arrays, or convert them with t.data.astype(int)"
        )


def change(t: Tensor, value: Any, index: Any) -> Any:
    """What is put into t in place, as an array or a number."""
    check_index(index)
    recorded = t._requires_grad or (isinstance(value, Tensor) and value._requires_grad)
    if recorded and thread.enabled:
        raise RuntimeError(
            "an in-place change of (or by) a tensor that requires grad is not recorded: write y = x + 1 "
            "instead of x += 1, or change data inside no_grad()"
        )
    given = value
    value = value._data if isinstance(value, Tensor) else value
    if not isinstance(value, (int, float)):
        value = plain_array(value, "value") if isinstance(value, np.ndarray) else as_array(value)
        if value.dtype.kind not in "biuf":
            raise TypeError(f"value must be a Tensor or real numbers, got {type(given).__name__} {given!r:.40}")
        if value.dtype != t.dtype and isinstance(given, (np.ndarray, Tensor)) and value.dtype.kind == "f":
            raise TypeError(f"in-place change mixes {t.dtype} with {value.dtype}: value must have the former")
    if isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            raise ValueError(f"value must fit into {t.dtype}, got a larger int") from None
    if not t._data.flags.writeable:
        raise ValueError("data of this tensor is read-only: it cannot be changed in place")
    return value


# What an op takes and gives


def check_functions(**functions: Any) -> None:
    """Functions or None, by name."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable or None, got {type(function).__name__}")


def signature(rule: Any) -> inspect.Signature:
    """What a rule takes."""
    try:
        return inspect.signature(rule)
    except (TypeError, ValueError):  # not callable, or a builtin that does not say what it takes
        raise TypeError(f"rule must be a Python function, got {type(rule).__name__} {rule!r:.40}") from None


def before(check: Callable[..., None], rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule, after the check has had the same arguments."""
    takes = inspect.signature(rule)

    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            check(*args, **kwargs)
        except TypeError:
            try:
                takes.bind(*args, **kwargs)
            except TypeError:  # so many arguments, or such names, the rule does not take: it says so under its name
                return rule(*args, **kwargs)
            raise
        return rule(*args, **kwargs)

    return checked


def admit(
    op: Any, positional: list[tuple[str, Any]], variadic: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], list[Any], list[Any], list[Any], list[Any], Any]:
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
    constants: list[tuple[int, tuple[int, ...]]] = []
    versions: list[tuple[list[int], int, Array]] = []
    dtype = None
    for i, a in enumerate(args):
        if isinstance(a, Tensor):
            versions.append((a._version, a._version[0], a._data))
            if a._requires_grad:
                inputs.append((i, a._node or a))
            else:
                constants.append((i, a.shape))
            a = a._data
        elif isinstance(a, np.generic):
            note_number(a)
            a = a.item()  # NumPy's scalars are numbers here: they never widen a float32 tensor
            args = (*args[: len(arrays)], a, *args[len(arrays) + 1 :])
        if isinstance(a, np.ndarray):
            if type(a) is not np.ndarray or a.dtype.kind == "O":
                name = f"{positional[i][0] if i < count else (*variadic, 'an argument')[0]} of {op.__name__}"
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
        if isinstance(y, Tensor) and not y._requires_grad:
            return result(op, y._data, dtype, arrays)
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
    """What a pullback gave in place of an array, as one: numbers, lists of them, and what NumPy takes for an array."""
    array = None if isinstance(g, Tensor) else np.asarray(g)
    if array is None or array.dtype.kind not in "biufc":
        raise TypeError(f"the pullback of {n.op.__name__} must give arrays, got {type(g).__name__}")
    return array


def one_gradient(n: Any, gradients: tuple[Any, ...], i: int) -> Any:
    """The gradient of argument i where there are more or fewer than arguments; one that nobody needs may be missing."""
    if len(gradients) > len(n.args):
        raise ValueError(f"the pullback of {n.op.__name__} gave {len(gradients)} gradients for {len(n.args)} arguments")
    if i >= len(gradients):
        raise ValueError(f"the pullback of {n.op.__name__} gave no gradient for its argument {i}")
    return gradients[i]


def check_broadcast(g: Any, shape: tuple[int, ...], name: str) -> None:
    """A gradient has the shape of its argument, or one that the argument was broadcast to."""
    extra = g.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        raise ValueError(f"the pullback of {name} gave a gradient of shape {g.shape} for an argument of {shape}")


def check_dtype(n: Any, g: Any, a: Array) -> None:
    """A gradient has the dtype of its argument."""
    if g.dtype != a.dtype:
        raise TypeError(f"the pullback of {n.op.__name__} gave a {g.dtype} gradient for {a.dtype}")


# Where a walk starts and ends


def freed(node: Any) -> RuntimeError:
    """A graph that a walk has gone through."""
    return RuntimeError(
        f"the graph behind {node.op.__name__} was freed by an earlier backward(); "
        "to go through it again, say retain_graph=True the first time"
    )


def changed(node: Any, array: Array, times: int) -> RuntimeError:
    """An array that a pullback keeps, changed since."""
    return RuntimeError(
        f"an array of shape {array.shape} that the gradient of {node.op.__name__} needs was changed "
        f"in place {times} time(s) since; change a copy, or call backward() before"
    )


def seed(output: Tensor, gradient: Any, name: str) -> Tensor:
    """The gradient at which a walk starts, checked; 1 where an output of one element came with none."""
    if not isinstance(output, Tensor):
        raise TypeError(f"outputs must be Tensors, got {type(output).__name__}")
    if not output._requires_grad:
        raise RuntimeError("backward() needs a tensor that was computed from one with requires_grad=True")
    if gradient is None:
        if output.size != 1:
            raise RuntimeError(f"{name} must be given for an output of shape {output.shape} (not one element)")
        return wrap(np.ones_like(output._data))
    if not isinstance(gradient, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be an array or a Tensor, got {type(gradient).__name__}")
    if type(gradient) is not np.ndarray and isinstance(gradient, np.ndarray):
        gradient = plain_array(gradient, name)
    if gradient.shape != output.shape or gradient.dtype != output.dtype:
        got = f"{gradient.dtype} {gradient.shape}"
        raise ValueError(f"{name} must be {output.dtype} of shape {output.shape}, got {got}")
    return gradient if isinstance(gradient, Tensor) else wrap(gradient)


def ends(
    outputs: Any, inputs: Any, grad_outputs: Any, flags: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The arguments of grad(): outputs, inputs, and the gradient at which each output starts."""
    outputs, inputs = (
        [tensors] if isinstance(tensors, Tensor) else check_iterable(name, tensors, "Tensors")
        for name, tensors in (("outputs", outputs), ("inputs", inputs))
    )
    for name, flag in flags.items():
        check_flag(name, flag)
    if grad_outputs is None or isinstance(grad_outputs, (Tensor, np.ndarray)):
        grad_outputs = [grad_outputs] * len(outputs) if grad_outputs is None else [grad_outputs]
    elif not isinstance(grad_outputs, (list, tuple)):
        raise TypeError(f"grad_outputs must be an array, a sequence of them or None, got {type(grad_outputs).__name__}")
    if len(grad_outputs) != len(outputs):
        raise ValueError(f"grad_outputs must have one entry per output ({len(outputs)}), got {len(grad_outputs)}")
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"inputs[{i}] must be a Tensor, got {type(t).__name__}")
        if not t._requires_grad:
            raise ValueError(f"inputs[{i}] must require grad")
    return outputs, inputs, [seed(t, g, "grad_outputs") for t, g in zip(outputs, grad_outputs, strict=True)]


def check_used(gradients: Sequence[Any]) -> None:
    """None for an input that the outputs do not depend on."""
    for i, g in enumerate(gradients):
        if g is None:
            raise RuntimeError(f"the outputs do not depend on inputs[{i}]; allow_unused=True gives None for it")


# Second derivatives


def not_twice(op: Any, error: Exception) -> RuntimeError:
    """A rule that does not run on tensors, and no definition."""
    return RuntimeError(
        f"{op.__name__} cannot be differentiated twice: write it with NumPy functions that tensors "
        f"know, or name such a formula with @differentiable(definition=...) ({error})"
    )


def check_same(node: Any, y: Any, problem: str) -> None:
    """y is what the op gave when it was recorded, up to rounding; not asked where that was changed in place since."""
    counter, seen, first = node.versions[-1]
    if counter[0] != seen:
        return
    y = y._data if isinstance(y, Tensor) else y
    scale = np.abs(first).max(where=np.isfinite(first), initial=1.0)  # of what may have cancelled in an element
    rtol, atol = 1e-4, 1e-5 * float(scale)
    with np.errstate(invalid="ignore"):  # inf - inf: then allclose is asked, which takes five times as long
        close = np.shape(y) == first.shape and (np.abs(y - first) <= atol + rtol * np.abs(first)).all()
    close = close and np.isfinite(first).all()  # inf is within any share of inf
    if not close and not np.allclose(y, first, rtol=rtol, atol=atol, equal_nan=True):
        raise RuntimeError(f"{node.op.__name__} cannot be differentiated twice: {problem}")


def check_repeated(node: Any, y: Any) -> None:
    """A rule that was run once more gives the same."""
    problem = "computed again it gave another result: an op must depend on its arguments alone; draw random numbers "
    check_same(node, y, f"{problem}outside of it and pass them in")
