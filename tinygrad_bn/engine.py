"""The engine: tensors, and the tape that records what is computed from them.

An op is a function from arrays to ``(result, pullback)``. The pullback takes dy, the gradient of the final scalar
with respect to the result, and returns the gradients with respect to the op's inputs. ``@differentiable`` lifts
such a function to tensors and records one ``Node`` per call:

    @differentiable
    def multiply(a, b):
        return a * b, lambda dy: (dy * b, dy * a)

Tensor -> its node -> the node's input tensors -> their nodes ... is the whole graph. Nodes never point at the
tensor that they made, so there are no reference cycles: what is no longer used is freed at once, without the garbage
collector.

Read in this order: ``Tensor``, ``Node``, ``differentiable``; then backward.py, the walk back along the tape.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, suppress
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .operators import OPS, Operators

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
Array = NDArray[Any]
Pullback = Callable[[Any], Any]
P = ParamSpec("P")  # what an op takes: the arguments of its rule
Function = TypeVar("Function", bound=Callable[..., Any])


class _GradMode(threading.local):  # per thread: no_grad() in one thread leaves the others recording
    enabled = True

    def __init__(self) -> None:
        self.outside: list[bool] = []  # what to go back to, innermost last


_mode = _GradMode()
_serials = itertools.count(1)


class grad_enabled(ContextDecorator):
    """``with grad_enabled(flag):`` records (or not) in the current thread; also a decorator, and reusable."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __enter__(self) -> None:
        _mode.outside.append(_mode.enabled)
        _mode.enabled = self.enabled

    def __exit__(self, *error: Any) -> None:
        _mode.enabled = _mode.outside.pop()

    def __call__(self, function: Function) -> Function:
        if inspect.isgeneratorfunction(function):  # it would run outside of the with block
            raise TypeError(f"{function.__name__} is a generator: use the with statement inside of it")
        return super().__call__(function)


def no_grad() -> grad_enabled:
    """``with no_grad():`` (or ``@no_grad()``) computes without recording, in the current thread.

    Errors: TypeError for a decorated generator, which would run outside of it.

    >>> x = tb.tensor([1.0], requires_grad=True)
    >>> with tb.no_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    False
    """
    return grad_enabled(False)


def enable_grad() -> grad_enabled:
    """``with enable_grad():`` records again inside a ``no_grad()``.

    Errors: TypeError for a decorated generator, which would run outside of it.

    >>> x = tb.tensor([1.0], requires_grad=True)
    >>> with tb.no_grad(), tb.enable_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    True
    """
    return grad_enabled(True)


def is_grad_enabled() -> bool:
    """Whether the current thread records: True but inside a ``no_grad()``.

    >>> with tb.no_grad():
    ...     tb.is_grad_enabled()
    False
    """
    return _mode.enabled


class Tensor(Operators):
    """An array that remembers how it was computed.

    Tensor(array) wraps a float32 or float64 array without copying it; ``tensor(data)`` copies and converts.

    data: the NumPy array. ``t.data = ...`` and the in-place operators count as a change (see ``Node.check``);
        writing into the array itself, ``t.data[0] = 1``, is not seen by the engine.
    requires_grad: whether operations on this tensor are recorded (default False).
    grad: None, or the gradient that backward() accumulated (a NumPy array; a Tensor after create_graph=True).

    Operators: + - * / ** @, unary - and abs(), and x[index], are recorded; the other operand may be a number. Operands
    broadcast as in NumPy. == != < <= > >= give arrays of booleans. += -= *= /= and x[index] = y change the data in
    place and are not recorded. len(x) and ``for row in x`` go along the first axis.
    Errors: TypeError for other data, and where float32 and float64 meet; RuntimeError for an in-place change of a
    tensor that requires grad, outside of no_grad().

    >>> x = tb.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    >>> y = (x * x).sum()  # 1 + 4 + 9
    >>> y.backward()
    >>> y.item(), x.grad  # dy/dx = 2 x
    (14.0, array([2., 4., 6.]))
    """

    __slots__ = ("__weakref__", "_changes", "_data", "_node", "_requires_grad", "grad")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if not isinstance(data, np.ndarray):
            raise TypeError(f"data must be a NumPy array, got {type(data).__name__}; tensor(data) converts")
        if type(data) is not np.ndarray:
            data = plain_array(data)
        if data.dtype not in FLOATS:
            raise TypeError(f"data must be float32 or float64, got {data.dtype}; tensor(data) converts integers")
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad must be a bool, got {type(requires_grad).__name__}")
        self._data: Array = data
        self._requires_grad = requires_grad
        self._node: Node | None = None
        self._changes = [0]  # in-place changes so far; a list, because views share one counter
        self.grad: Any = None

    @property
    def data(self) -> Array:
        """The NumPy array, not a copy. Assigning another one, of the same shape and dtype, counts as a change in place.

        Errors: TypeError for an array of another shape or dtype.

        >>> x = tb.tensor([1.0, 2.0])
        >>> x.data = x.data * 10
        >>> x
        tensor([10., 20.])
        """
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != self.dtype or value.shape != self.shape:
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"data must be a {self.dtype} array of shape {self.shape}, got {got}")
        self._data = value if type(value) is np.ndarray else plain_array(value)
        self._changes[0] += 1

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded; may be set on a leaf.

        Errors: TypeError for what is not a bool; RuntimeError for switching it off on a computed tensor.

        >>> x = tb.tensor([1.0])
        >>> x.requires_grad = True
        >>> (x + 1).requires_grad
        True
        """
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if not isinstance(flag, bool):
            raise TypeError(f"requires_grad must be a bool, got {type(flag).__name__}")
        if self._node is not None and not flag:
            raise RuntimeError("requires_grad of a computed tensor cannot be switched off; use t.detach()")
        self._requires_grad = flag

    def requires_grad_(self, flag: bool = True) -> Tensor:
        """Set requires_grad to flag (default True); returns the tensor. Errors: TypeError for what is not a bool.

        >>> tb.tensor([1.0]).requires_grad_()
        tensor([1.], requires_grad=True)
        """
        if not isinstance(flag, bool):
            raise TypeError(f"flag must be a bool, got {type(flag).__name__}")
        self.requires_grad = flag
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis.

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).shape
        (2, 3)
        """
        return self._data.shape

    @property
    def ndim(self) -> int:
        """The number of axes.

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).ndim
        2
        """
        return self._data.ndim

    @property
    def size(self) -> int:
        """The number of elements (PyTorch's numel()).

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).size
        6
        """
        return self._data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's float32 or float64.

        >>> tb.tensor([1, 2]).dtype, tb.tensor(np.array([0.5])).dtype
        (dtype('float32'), dtype('float64'))
        """
        return self._data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user and not computed by a recorded op.

        >>> x = tb.tensor([1.0], requires_grad=True)
        >>> x.is_leaf, (2 * x).is_leaf
        (True, False)
        """
        return self._node is None

    def numpy(self) -> Array:
        """The array (shared, not copied).

        Errors: RuntimeError for a tensor that requires grad, because the gradient would be lost: say
        t.detach().numpy().

        >>> tb.tensor([1.0, 2.0]).numpy()
        array([1., 2.], dtype=float32)
        """
        if self._requires_grad:
            raise RuntimeError("numpy() of a tensor that requires grad would lose the graph; use t.detach().numpy()")
        return self._data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float. Errors: ValueError for another number of elements.

        >>> tb.tensor([1.0, 2.0]).sum().item()
        3.0
        """
        if self.size != 1:
            raise ValueError(f"item() needs one element, got shape {self.shape}")
        return float(self._data.reshape(())[()])

    def detach(self) -> Tensor:
        """The same array without its history; an in-place change of one is seen by the other.

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> (3 * x).detach()
        tensor([3., 6.])
        """
        result = Tensor(self._data)
        result._changes = self._changes
        return result

    def retain_grad(self) -> None:
        """Ask that backward() fills .grad of this computed tensor too.

        Errors: RuntimeError for a tensor that does not require grad.

        >>> x = tb.tensor([3.0], requires_grad=True)
        >>> h = x * x
        >>> h.retain_grad()
        >>> (5 * h).sum().backward()
        >>> h.grad, x.grad  # 5, and 5 times 2 x
        (array([5.], dtype=float32), array([30.], dtype=float32))
        """
        if not self._requires_grad:
            raise RuntimeError("retain_grad() needs a tensor that requires grad")
        if self._node is not None:
            self._node.retained = weakref.ref(self)

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Accumulate d self / d leaf into .grad of every leaf that requires grad.

        gradient: the gradient with respect to self, of self's shape and dtype; None (default) is 1, for one element.
        retain_graph: keep the graph for another backward (default: it is freed; create_graph=True keeps it too).
        create_graph: make the gradients Tensors with a history, so that they can be differentiated again. A
            leaf's .grad then leads back to the leaf: such a cycle is freed by zero_grad() or the garbage collector.
        Errors: RuntimeError for a tensor that nothing was recorded for, a graph that was freed, an array that was
        changed in place since, and without a gradient for several elements; TypeError, ValueError for another gradient.

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> (x**2).sum().backward()  # adds 2 x
        >>> (3 * x).sum().backward()  # adds 3
        >>> x.grad
        array([5., 7.], dtype=float32)
        """
        OPS["backward"](self, gradient, retain_graph, create_graph)  # backward.py

    # in-place changes are for data, not for the tape

    def _change(self, value: Any, ufunc: Any, index: Any = Ellipsis) -> Tensor:
        recorded = self._requires_grad or (isinstance(value, Tensor) and value._requires_grad)
        if recorded and _mode.enabled:
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
            if value.dtype != self.dtype and isinstance(given, (np.ndarray, Tensor)) and value.dtype.kind == "f":
                raise TypeError(f"in-place change mixes {self.dtype} with {value.dtype}: value must have the former")
        if not self._data.flags.writeable:
            raise ValueError("data of this tensor is read-only: it cannot be changed in place")
        try:
            if ufunc is None:
                self._data[index] = value
            else:
                ufunc(self._data, value, out=self._data)
        except OverflowError:
            raise ValueError(f"value must fit into {self.dtype}, got a larger int") from None
        self._changes[0] += 1
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(value, None, index)

    def __iadd__(self, value: Any) -> Tensor:
        return self._change(value, np.add)

    def __isub__(self, value: Any) -> Tensor:
        return self._change(value, np.subtract)

    def __imul__(self, value: Any) -> Tensor:
        return self._change(value, np.multiply)

    def __itruediv__(self, value: Any) -> Tensor:
        return self._change(value, np.divide)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous")
        return bool(self._data.reshape(())[()])

    def __float__(self) -> float:
        return self.item()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaves can be deep-copied; use t.detach() first")
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, self._data.copy(), self._requires_grad)
        gradient = self.grad._data if isinstance(self.grad, Tensor) else self.grad
        copy.grad = None if gradient is None else gradient.copy()
        memo[id(self)] = copy
        return copy

    def __repr__(self) -> str:
        text = np.array2string(self._data, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        origin = f", op={self._node.op.__name__}" if self._node else ", requires_grad=True" * self._requires_grad
        return f"tensor({text}{dtype}{origin})"


def _wrap(data: Array) -> Tensor:
    """Tensor(data), for an array that is known to be right."""
    t = Tensor.__new__(Tensor)
    t._data, t._requires_grad, t._node, t._changes, t.grad = data, False, None, [0], None
    return t


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


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of data.

    data: numbers, nested lists of them, arrays or Tensors. dtype: float32 or float64; None (default) keeps those two,
    and makes float32 of Python numbers, lists, integer and boolean arrays. requires_grad: default False.
    Errors: TypeError for what holds no real numbers, and another dtype; ValueError for rows of different lengths.

    >>> tb.tensor([[1, 2], [3, 4]])
    tensor([[1., 2.],
            [3., 4.]])
    >>> tb.tensor(np.array([0.5]), requires_grad=True)
    tensor([0.5], dtype=float64, requires_grad=True)
    """
    dtype = None if dtype is None else float_dtype(dtype)
    data = data._data if isinstance(data, Tensor) else data
    try:
        array = np.asarray(plain_array(data) if isinstance(data, np.ndarray) else data)
    except ValueError:
        raise ValueError("data must be a rectangular nest of numbers, got rows of different lengths") from None
    except RuntimeError as error:  # a tensor in a list
        raise TypeError(f"data must be a nest of numbers: {error}") from None
    if array.dtype not in FLOATS and array.dtype.kind not in "biu":
        raise TypeError(f"data must hold floats (32 or 64 bit), integers or booleans, got {array.dtype}")
    keeps = isinstance(data, (np.ndarray, np.generic)) and array.dtype in FLOATS
    return Tensor(np.array(array, dtype=dtype or (array.dtype if keeps else np.float32)), requires_grad)


def explained(error: Exception, op: str, names: list[str], args: list[Any]) -> Exception | None:
    """What NumPy or Python says of the operands, with their names and kinds; None for an error that names one itself.

    OverflowError is of a Python int that no dtype holds: a wrong value.
    """
    if isinstance(error, TypeError) and re.match(rf"({'|'.join([*names, 'input'])})\b.* must ", str(error)):
        return None
    got = [f"{a.dtype} array {a.shape}" if isinstance(a, np.ndarray) else f"{type(a).__name__} {a!r:.40}" for a in args]
    kinds = ", ".join(f"{name}: {kind}" for name, kind in itertools.zip_longest(names, got, fillvalue="..."))
    return (ValueError if isinstance(error, OverflowError) else TypeError)(f"{op}({kinds}): {error}")


_HOLD_NO_ARRAYS: tuple[type, ...] = (int, float, str, slice, range, type, np.generic, np.dtype, np.ufunc)
_HOLD_NO_ARRAYS += (types.NoneType, types.EllipsisType, types.BuiltinFunctionType, types.ModuleType)


# args, kwargs and changes of freed nodes; shared, nobody changes them
_FREED: tuple[tuple[Any, ...], dict[str, Any], list[Any]] = (), {}, []


class Node:
    """One recorded operation: where a tensor came from, and how to pull a gradient back through it.

    inputs: (i, source) for each args[i] that a gradient flows to; the source is the node that made it, or the leaf.
    serial: counts up, so that a node is younger than all it was computed from.
    changes: (counter, what it showed, array) of every tensor involved, the result last, for ``check``.
    retained: a weak reference to the result, if it asked for its .grad.
    outline: what describe() says, from free() on, when the arrays are gone.
    """

    __slots__ = ("args", "changes", "inputs", "kwargs", "op", "outline", "pullback", "retained", "serial")

    def __init__(
        self,
        op: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pullback: Pullback,
        inputs: list[tuple[int, Any]],
        changes: list[tuple[list[int], int, Array]],
    ) -> None:
        self.op, self.args, self.kwargs, self.pullback = op, args, kwargs, pullback
        self.inputs, self.changes = inputs, changes
        self.serial = next(_serials)
        self.retained: Any = None

    def check(self, again: bool = False) -> None:
        """Raise if the graph was freed, or if an array that the pullback keeps was changed in place since.

        again: the op is to be computed once more, from its arguments: then none of them may have changed.
        """
        if self.pullback is None:
            raise RuntimeError(
                f"the graph behind {self.op.__name__} was freed by an earlier backward(); "
                "to go through it again, say retain_graph=True the first time"
            )
        for counter, seen, array in self.changes[:-1] if again else self.changes:
            if counter[0] != seen and (again or self.keeps(array)):
                raise RuntimeError(
                    f"an array of shape {array.shape} that the gradient of {self.op.__name__} needs was changed "
                    f"in place {counter[0] - seen} time(s) since; change a copy, or call backward() before"
                )

    def keeps(self, array: Array) -> bool:
        """Whether the pullback can reach this array, or one that shares its memory.

        It is looked for in closures, default and bound arguments, and containers. An object that cannot be looked
        into may hold anything: then the answer is yes.
        """
        stack: list[Any] = [self.pullback]
        seen: set[int] = set()
        while stack:
            value = stack.pop()
            if isinstance(value, np.ndarray):
                if np.may_share_memory(array, value):
                    return True
            elif isinstance(value, _HOLD_NO_ARRAYS) or id(value) in seen:
                continue
            elif isinstance(value, types.FunctionType):
                for cell in value.__closure__ or ():
                    with suppress(ValueError):  # the cell of a variable that was never assigned
                        stack.append(cell.cell_contents)
                stack += [value.__defaults__, value.__kwdefaults__]
            elif isinstance(value, functools.partial):
                stack += [value.func, value.args, value.keywords]
            elif isinstance(value, (tuple, list, dict)):
                stack += value.values() if isinstance(value, dict) else value
            elif isinstance(value, Tensor):
                stack.append(value._data)
            else:
                return True
            seen.add(id(value))
        return False

    def describe(self) -> tuple[Any, Any, Sequence[Any]]:
        """The result's shape and dtype, and (i, shape, dtype) of each args[i] that is a tensor without gradient."""
        if self.pullback is None:
            return self.outline
        y, constants = self.changes[-1][2], []
        if len(self.changes) - 1 > len(self.inputs):  # more tensors than inputs
            with_gradient = {i for i, _ in self.inputs}
            tensors = ((i, a) for i, a in enumerate(self.args) if isinstance(a, Tensor) and i not in with_gradient)
            constants = [(i, a.shape, a.dtype) for i, a in tensors]
        return y.shape, y.dtype, constants

    def free(self) -> None:
        """Let go of the arrays.

        Where the gradients went stays known, so that a second walk finds what is missing; and shapes, for drawings.
        """
        y = self.changes[-1][2]
        few = len(self.changes) - 1 == len(self.inputs)  # nearly always; then this is quicker than a call
        self.outline: Any = (y.shape, y.dtype, ()) if few else self.describe()
        self.pullback = None  # type: ignore[assignment]
        self.args, self.kwargs, self.changes = _FREED


@overload  # @differentiable
def differentiable(rule: Callable[P, Any]) -> Callable[P, Any]: ...
@overload  # @differentiable(definition=...)
def differentiable(
    *, definition: Callable[..., Any] | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
@overload  # differentiable(rule, definition=...)
def differentiable(rule: Callable[P, Any], *, definition: Callable[..., Any] | None) -> Callable[P, Any]: ...
def differentiable(rule: Any = None, *, definition: Callable[..., Any] | None = None) -> Any:
    """Lift a function from arrays to (result, pullback) to tensors; each call records one node.

    rule: a function of arrays that returns (result, pullback). The op's arguments may be tensors; numbers, None,
        arrays, and keyword-only arguments (after ``*``) are constants and are passed on as they are: a constant array
        is neither copied nor watched, so leave it alone until backward(). The pullback maps dy, an array of the
        result's shape, to the gradient of the first argument, or to a tuple with one entry per positional argument: an
        array, None (for one that never requires a gradient), or a function without arguments that computes the array
        only if that gradient is wanted. Where an argument was broadcast, the engine sums the gradient back to the
        argument's shape. The arrays returned must be new, dy, or views of dy.
    definition: the same formula composed of primitives. It takes the same arguments (as tensors) and returns one
        tensor. It is what create_graph=True differentiates, so a rule made of array kernels needs it; a rule written
        with operators and NumPy functions that tensors know does not (None): it is called once more, on tensors.

    Called with arrays alone, the op computes an array and records nothing: rules may call other ops.
    Errors: TypeError where float32 and float64 meet, for a rule that returns no pair, and for what is not callable.

    >>> @tb.differentiable
    ... def cube(x):
    ...     return x**3, lambda dy: 3 * x**2 * dy
    >>> x = tb.tensor([2.0], requires_grad=True)
    >>> cube(x).backward()
    >>> x.grad  # 3 times 2^2
    array([12.], dtype=float32)
    >>> @tb.differentiable
    ... def scaled(x, gain):
    ...     return x * gain, lambda dy: (dy * gain, lambda: dy * x)  # the latter is computed only if it is wanted
    >>> tb.grad(scaled(x, tb.tensor([5.0])), x)
    (array([5.], dtype=float32),)
    """
    if definition is not None and not callable(definition):
        raise TypeError(f"definition must be callable or None, got {type(definition).__name__}")
    if rule is None:
        return functools.partial(differentiable, definition=definition)
    try:
        parameters = list(inspect.signature(rule).parameters.values())
    except (TypeError, ValueError):  # not callable, or a builtin that does not say what it takes
        raise TypeError(f"rule must be a Python function, got {type(rule).__name__} {rule!r:.40}") from None
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    count, variadic = len(positional), [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]

    @functools.wraps(rule)
    def op(*args: Any, **kwargs: Any) -> Any:
        if len(args) < count:  # f(x, bias=b) is f(x, None, b): a tensor is always a positional argument
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
        changes: list[tuple[list[int], int, Array]] = []
        dtype = None
        for i, a in enumerate(args):
            if isinstance(a, Tensor):
                if a._requires_grad:
                    inputs.append((i, a._node or a))
                changes.append((a._changes, a._changes[0], a._data))
                a = a._data
            elif isinstance(a, np.generic):
                a = a.item()  # NumPy's scalars are numbers here: they never widen a float32 tensor
                args = (*args[: len(arrays)], a, *args[len(arrays) + 1 :])
            if isinstance(a, np.ndarray):
                if type(a) is not np.ndarray:
                    a = plain_array(a, f"{positional[i][0] if i < count else variadic[0]} of {op.__name__}")
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
        try:
            answer = rule(*arrays, **kwargs)
        except (TypeError, ArithmeticError) as error:  # ZeroDivisionError: of an array of Python's numbers
            better = explained(error, op.__name__, [name for name, _ in positional], arrays)
            if better is None:
                raise
            raise better from error
        if type(answer) is not tuple or len(answer) != 2 or not callable(answer[1]):  # an array would unpack, too
            raise TypeError(f"{op.__name__} must return (result, pullback), got {type(answer).__name__}")
        y, pullback = answer
        if not changes:  # no tensors
            return y
        if type(y) is not np.ndarray:
            y = np.asarray(y)
        if y.dtype is not dtype and y.dtype != dtype:
            raise TypeError(f"{op.__name__} on {dtype} tensors gave {y.dtype}: an argument has another dtype")
        out = _wrap(y)
        base = y.base
        for counter, _, a in changes:  # what shares its memory with an argument shares the counter of changes as well
            if y is a or (base is not None and (base is a or base is a.base)):
                out._changes = counter
        if inputs and _mode.enabled:
            changes.append((out._changes, out._changes[0], y))
            out._requires_grad = True
            out._node = Node(op, args, kwargs, pullback, inputs, changes)
        return out

    op.rule = rule  # type: ignore[attr-defined]
    op.definition = definition  # type: ignore[attr-defined]
    return op
