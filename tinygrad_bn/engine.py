"""The engine: tensors, the tape, and the walk back along it.

An op is a function from arrays to ``(result, pullback)``. The pullback takes dy, the gradient of the final scalar
with respect to the result, and returns the gradients with respect to the op's inputs. ``@differentiable`` lifts
such a function to tensors and records one ``Node`` per call:

    @differentiable
    def multiply(a, b):
        return a * b, lambda dy: (dy * b, dy * a)

Tensor -> its node -> the node's input tensors -> their nodes ... is the whole graph. Nodes never point at their
outputs, so there are no reference cycles: what is no longer used is freed at once, without the garbage collector.

Read in this order: ``Tensor``, ``Node``, ``differentiable``, ``walk``.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .operators import Operators

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
Array = np.ndarray
Pullback = Callable[[Any], Any]


class _GradMode(threading.local):  # per thread: no_grad() in one thread leaves the others recording
    enabled = True


_mode = _GradMode()
_serials = itertools.count(1)


@contextmanager
def _grad_enabled(enabled: bool) -> Iterator[None]:
    previous, _mode.enabled = _mode.enabled, enabled
    try:
        yield
    finally:
        _mode.enabled = previous


def no_grad() -> Any:
    """``with no_grad():`` (or ``@no_grad()``) computes without recording, in the current thread."""
    return _grad_enabled(False)


def enable_grad() -> Any:
    """``with enable_grad():`` records again inside a ``no_grad()``."""
    return _grad_enabled(True)


def is_grad_enabled() -> bool:
    """Whether the current thread records."""
    return _mode.enabled


class Tensor(Operators):
    """An array that remembers how it was computed.

    Tensor(array) wraps a float32 or float64 array without copying it; ``tensor(data)`` copies and converts.

    data: the NumPy array. ``t.data = ...`` and the in-place operators count as a change (see ``Node.check``);
        writing into the array itself, ``t.data[0] = 1``, is not seen by the engine.
    grad: None, or the gradient that backward() accumulated (a NumPy array; a Tensor after create_graph=True).
    requires_grad: whether operations on this tensor are recorded.
    """

    __slots__ = ("__weakref__", "_changes", "_data", "_node", "_requires_grad", "grad")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if not isinstance(data, np.ndarray):
            raise TypeError(f"data must be a NumPy array, got {type(data).__name__}; tensor(data) converts")
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
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != self.dtype or value.shape != self.shape:
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"data must be a {self.dtype} array of shape {self.shape}, got {got}")
        self._data = value
        self._changes[0] += 1

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if not isinstance(flag, bool):
            raise TypeError(f"requires_grad must be a bool, got {type(flag).__name__}")
        if self._node is not None and not flag:
            raise RuntimeError("requires_grad of a computed tensor cannot be switched off; use t.detach()")
        self._requires_grad = flag

    def requires_grad_(self, flag: bool = True) -> Tensor:
        self.requires_grad = flag
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user and not computed by a recorded op."""
        return self._node is None

    def numpy(self) -> Array:
        """The array (shared, not copied). Raises if gradients would be lost: then say t.detach().numpy()."""
        if self._requires_grad:
            raise RuntimeError("numpy() of a tensor that requires grad would lose the graph; use t.detach().numpy()")
        return self._data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float."""
        if self.size != 1:
            raise ValueError(f"item() needs one element, got shape {self.shape}")
        return float(self._data.reshape(())[()])

    def detach(self) -> Tensor:
        """The same array without its history; an in-place change of one is seen by the other."""
        result = Tensor(self._data)
        result._changes = self._changes
        return result

    def retain_grad(self) -> None:
        """Ask that backward() fills .grad of this computed tensor too."""
        if not self._requires_grad:
            raise RuntimeError("retain_grad() needs a tensor that requires grad")
        if self._node is not None:
            self._node.retained = weakref.ref(self)

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Accumulate d self / d leaf into .grad of every leaf that requires grad.

        gradient: the gradient with respect to self, of self's shape and dtype; 1 for a tensor with one element.
        retain_graph: keep the graph for another backward (default: it is freed; create_graph=True keeps it too).
        create_graph: make the gradients Tensors with a history, so that they can be differentiated again.
        """
        retain = retain_graph or create_graph
        walk([self], [_seed(self, gradient, "gradient")], None, retain, create_graph)

    # in-place changes are for data, not for the tape

    def _change(self, value: Any, ufunc: Any, index: Any = Ellipsis) -> Tensor:
        recorded = self._requires_grad or (isinstance(value, Tensor) and value._requires_grad)
        if recorded and _mode.enabled:
            raise RuntimeError(
                "an in-place change of (or by) a tensor that requires grad is not recorded: write y = x + 1 "
                "instead of x += 1, or change data inside no_grad()"
            )
        value = value._data if isinstance(value, Tensor) else value
        if isinstance(value, np.ndarray) and value.dtype in FLOATS and value.dtype != self.dtype:
            raise TypeError(f"in-place change mixes {self.dtype} with {value.dtype}")
        if ufunc is None:
            self._data[index] = value
        else:
            ufunc(self._data, value, out=self._data)
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

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaves can be deep-copied; use t.detach() first")
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, self._data.copy(), self._requires_grad)
        copy.grad = None if self.grad is None else np.array(self.grad)
        memo[id(self)] = copy
        return copy

    def __repr__(self) -> str:
        text = np.array2string(self._data, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        origin = f", op={self._node.op.__name__}" if self._node else ", requires_grad=True" * self._requires_grad
        return f"tensor({text}{dtype}{origin})"


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of data.

    float32 and float64 arrays keep their dtype; Python numbers, nested lists of them, integer and boolean arrays
    become float32 unless dtype (float32 or float64) says otherwise. Anything else raises TypeError.
    """
    if dtype is not None:
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
        if dtype not in FLOATS:
            raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    data = data._data if isinstance(data, Tensor) else data
    try:
        array = np.asarray(data)
    except ValueError:
        raise ValueError("data must be a rectangular nest of numbers, got rows of different lengths") from None
    if array.dtype not in FLOATS and array.dtype.kind not in "biu":
        raise TypeError(f"data must hold floats (32 or 64 bit), integers or booleans, got {array.dtype}")
    keeps = isinstance(data, (np.ndarray, np.generic)) and array.dtype in FLOATS
    return Tensor(np.array(array, dtype=dtype or (array.dtype if keeps else np.float32)), requires_grad)


class Node:
    """One recorded operation: where a tensor came from, and how to pull a gradient back through it."""

    __slots__ = ("args", "changes", "kwargs", "op", "pullback", "retained", "serial")

    def __init__(self, op: Any, args: tuple, kwargs: dict, pullback: Pullback, out: Tensor) -> None:
        self.op, self.args, self.kwargs, self.pullback = op, args, kwargs, pullback
        self.serial = next(_serials)  # younger than every node it was computed from
        self.retained: Any = None  # weak reference to a tensor that asked for its .grad
        self.changes = [(t._changes, t._changes[0], t._data) for t in (*args, out) if isinstance(t, Tensor)]

    def check(self) -> None:
        """Raise if the graph was freed, or if an array that the pullback keeps was changed in place since."""
        if self.pullback is None:
            raise RuntimeError(
                f"the graph behind {self.op.__name__} was freed by an earlier backward(); "
                "to go through it again, say retain_graph=True the first time"
            )
        for counter, seen, array in self.changes:
            if counter[0] != seen and any(np.may_share_memory(array, kept) for kept in _kept(self.pullback)):
                raise RuntimeError(
                    f"an array of shape {array.shape} that the gradient of {self.op.__name__} needs was changed "
                    f"in place {counter[0] - seen} time(s) since; change a copy, or call backward() before"
                )

    def pullback_on_tensors(self) -> Pullback:
        """The pullback as a formula of tensors, recorded as it is computed: the way to second derivatives.

        A primitive's own code runs once more, on tensors instead of arrays. A fused op runs its definition,
        and the gradient of that composition is taken.
        """
        op = self.op
        if op.definition is None:
            try:
                return op.rule(*self.args, **self.kwargs)[1]
            except Exception as error:
                raise RuntimeError(
                    f"{op.__name__} cannot be differentiated twice: write it with NumPy functions that tensors "
                    "know, or name such a formula with @differentiable(definition=...)"
                ) from error

        def pullback(dy: Any) -> tuple:
            args = [_alias(a) if isinstance(a, Tensor) else a for a in self.args]
            y = op.definition(*args, **self.kwargs)
            inputs = [a for a in args if isinstance(a, Tensor) and a._requires_grad]
            gradients = iter(walk([y], [dy], inputs, True, True))
            return tuple(next(gradients) if isinstance(a, Tensor) and a._requires_grad else None for a in args)

        return pullback

    def free(self) -> None:
        self.pullback = None  # type: ignore[assignment]
        self.args, self.kwargs, self.changes = (), {}, []


def _kept(pullback: Pullback) -> list[Array]:
    """The arrays that a pullback holds on to: the cells of its closure."""
    cells = getattr(pullback, "__closure__", None) or ()
    return [c.cell_contents for c in cells if isinstance(c.cell_contents, np.ndarray)]


def differentiable(rule: Any = None, *, definition: Callable[..., Any] | None = None) -> Any:
    """Lift a function from arrays to (result, pullback) to tensors; each call records one node.

    The arguments may be tensors; numbers, None, index arrays, and keyword-only arguments (after ``*``) are
    constants and are passed on as they are. The pullback maps dy, an array of the result's shape, to the gradient of
    the first argument, or to a tuple with one entry per positional argument: an array, None (no gradient), or a
    function without arguments that computes the array only if that gradient is wanted. Where an argument was
    broadcast, the engine sums the gradient back to the argument's shape. The arrays returned must be new, dy, or
    views of dy.

    definition: the same formula composed of primitives. It takes the same arguments (as tensors) and returns one
        tensor. It is what create_graph=True differentiates, so a rule made of array kernels needs it; a rule
        written with operators and NumPy functions that tensors know does not.

    Called with arrays alone, the op computes an array and records nothing: rules may call other ops.
    Raises TypeError where float32 and float64 meet. Example:

        @differentiable
        def cube(x):
            return x**3, lambda dy: 3 * x**2 * dy
    """
    if rule is None:
        return functools.partial(differentiable, definition=definition)

    parameters = list(inspect.signature(rule).parameters.values())
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(rule)
    def op(*args: Any, **kwargs: Any) -> Any:
        if len(args) < len(positional):  # f(x, bias=b) is f(x, None, b): a tensor is always a positional argument
            rest = [(n, kwargs.pop(n, default)) for n, default in positional[len(args) :]]
            missing = [n for n, value in rest if value is inspect.Parameter.empty]
            if missing:
                raise TypeError(f"{op.__name__} is missing its argument {missing[0]}")
            args += tuple(value for _, value in rest)
        for n, value in kwargs.items():
            if isinstance(value, Tensor):
                raise TypeError(f"{op.__name__} takes constants by keyword, got a Tensor as {n}")
        arrays, dtype, requires_grad, any_tensor = [], None, False, False
        for a in args:
            if isinstance(a, Tensor):
                any_tensor = True
                requires_grad = requires_grad or a._requires_grad
                a = a._data
            elif isinstance(a, np.floating):
                a = float(a)  # NumPy's scalars are numbers here: they never widen a float32 tensor
            if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                if dtype is not None and a.dtype != dtype:
                    raise TypeError(f"{op.__name__} mixes {dtype} and {a.dtype}; convert one of them first")
                dtype = a.dtype
            arrays.append(a)
        if dtype is None or dtype not in FLOATS:
            got = ", ".join(f"{a.dtype} array" if isinstance(a, np.ndarray) else type(a).__name__ for a in args)
            raise TypeError(f"{op.__name__} needs a Tensor, got ({got})")
        y, pullback = rule(*arrays, **kwargs)
        if not any_tensor:
            return y
        y = np.asarray(y)
        if y.dtype != dtype:
            raise TypeError(f"{op.__name__} on {dtype} tensors gave {y.dtype}: an argument has another dtype")
        out = Tensor(y)
        if y.base is not None:  # a view shares its memory, so it shares the counter of changes as well
            for t in args:
                if isinstance(t, Tensor) and (y.base is t._data or y.base is t._data.base):
                    out._changes = t._changes
        if requires_grad and _mode.enabled:
            out._requires_grad = True
            out._node = Node(op, args, kwargs, pullback, out)
        return out

    op.rule = rule  # type: ignore[attr-defined]
    op.definition = definition  # type: ignore[attr-defined]
    return op


@differentiable
def _alias(x: Any) -> Any:
    """The same value under a new node, to differentiate with respect to x here and nowhere earlier."""
    return x, lambda dy: dy


def _sum_to(g: Any, shape: tuple[int, ...], name: str) -> Any:
    """Undo broadcasting: sum g over the axes along which an argument of this shape was repeated."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        raise ValueError(f"the pullback of {name} gave a gradient of shape {g.shape} for an argument of {shape}")
    return g.sum(axis=axes, keepdims=True).reshape(shape)


def _seed(output: Tensor, gradient: Any, name: str) -> Any:
    """Check the gradient at which a walk starts; 1 where an output of one element came with none."""
    if not isinstance(output, Tensor):
        raise TypeError(f"outputs must be Tensors, got {type(output).__name__}")
    if not output._requires_grad:
        raise RuntimeError("backward() needs a tensor that was computed from one with requires_grad=True")
    if gradient is None:
        if output.size != 1:
            raise RuntimeError(f"{name} must be given for an output of shape {output.shape} (not one element)")
        return np.ones_like(output._data)
    if not isinstance(gradient, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be an array or a Tensor, got {type(gradient).__name__}")
    if gradient.shape != output.shape or gradient.dtype != output.dtype:
        got = f"{gradient.dtype} {gradient.shape}"
        raise ValueError(f"{name} must be {output.dtype} of shape {output.shape}, got {got}")
    return gradient


def walk(
    outputs: Sequence[Tensor], seeds: Sequence[Any], targets: Sequence[Tensor] | None, retain: bool, create_graph: bool
) -> list[Any]:
    """Carry gradients from the outputs back along the tape. The one place where gradients flow.

    With targets, returns their gradients (None where the outputs do not depend on one). Without, adds to the
    .grad of every leaf. Gradients travel in a table beside the graph, under the identity of the node that made
    the tensor (of the tensor itself where it is a leaf).
    """

    def key(t: Tensor) -> Any:
        return t._node or t

    # 1. Collect what the outputs were computed from. Nothing older than the oldest target can depend on it.
    wanted = {id(key(t)) for t in targets or ()}
    oldest = min((t._node.serial if t._node else 0 for t in targets or ()), default=0)
    found: dict[int, Any] = {}
    stack = [key(t) for t in outputs]
    while stack:
        item = stack.pop()
        if id(item) in found:
            continue
        found[id(item)] = item
        if isinstance(item, Node) and item.serial > oldest:
            item.check()
            stack.extend(key(a) for a in item.args if isinstance(a, Tensor) and a._requires_grad)

    # 2. Sort by age. A node is younger than all it was computed from, so youngest first means that a node is
    #    visited only after everything that uses its result: its gradient is then complete.
    nodes = sorted((n for n in found.values() if isinstance(n, Node)), key=lambda n: n.serial)
    if targets is None:
        needed = set(found)
    else:
        reach = set(wanted)  # what leads to a target; the gradients of the rest are not computed
        for n in nodes:
            if any(isinstance(a, Tensor) and id(key(a)) in reach for a in n.args):
                reach.add(id(n))
        needed = reach

    # 3. Walk.
    table: dict[int, Any] = {}
    owned: set[int] = set()  # arrays in the table that nobody else can see

    def add(item: Any, g: Any, shared: bool) -> None:
        i = id(item)
        if i in table:
            table[i] = table[i] + g
        elif isinstance(item, Node) or create_graph:
            table[i] = g
        else:  # this array will be a .grad: it must not be anyone else's memory
            table[i] = g.copy() if shared or g.base is not None or id(g) in owned else g
            owned.add(id(table[i]))

    for t, seed in zip(outputs, seeds, strict=True):
        if not create_graph and isinstance(seed, Tensor):
            seed = seed._data
        elif create_graph and not isinstance(seed, Tensor):
            seed = Tensor(seed)
        add(key(t), seed, True)

    with _grad_enabled(create_graph):
        for n in reversed(nodes):
            dy = table.get(id(n))
            if dy is None or id(n) not in needed:
                continue
            if targets is None and n.retained is not None and (t := n.retained()) is not None:
                t.grad = dy.copy() if t.grad is None and not create_graph else dy if t.grad is None else t.grad + dy
            if n.serial <= oldest:
                continue
            pullback = n.pullback_on_tensors() if create_graph else n.pullback
            gradients = pullback(dy)
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            if len(gradients) > len(n.args):
                raise ValueError(
                    f"the pullback of {n.op.__name__} gave {len(gradients)} gradients for {len(n.args)} arguments"
                )
            for i, a in enumerate(n.args):
                if not isinstance(a, Tensor) or not a._requires_grad or id(key(a)) not in needed:
                    continue
                g = gradients[i] if i < len(gradients) else None
                g = g() if callable(g) else g
                if g is None:
                    continue
                if not isinstance(g, (Tensor, np.ndarray)):
                    g = np.asarray(g)
                if g.shape != a.shape:
                    g = _sum_to(g, a.shape, n.op.__name__)
                if g.dtype != a.dtype:
                    raise TypeError(f"the pullback of {n.op.__name__} gave a {g.dtype} gradient for {a.dtype}")
                item = key(a)
                shared = g is dy or (isinstance(item, Tensor) and any(g is k for k in _kept(n.pullback)))
                add(item, g, shared)
            if id(n) not in wanted:
                del table[id(n)]

    if not retain:
        for n in nodes:
            n.free()
    if targets is not None:
        return [table.get(id(key(t))) for t in targets]
    for item in found.values():
        if isinstance(item, Tensor) and id(item) in table:
            g = table[id(item)]
            item.grad = g if item.grad is None else item.grad + g
    return []


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """The gradients of the outputs with respect to the inputs, as a tuple of arrays; no .grad is touched.

    outputs, inputs: a Tensor or a sequence of them; inputs may be leaves or computed tensors.
    grad_outputs: the gradient with respect to each output (default 1, for outputs with one element).
    retain_graph: keep the graph for another walk. create_graph: return Tensors with a history, for second
        derivatives; keeps the graph too.
    allow_unused: give None for an input that the outputs do not depend on, instead of raising.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, (Tensor, np.ndarray)):
        grad_outputs = [grad_outputs] * len(outputs) if grad_outputs is None else [grad_outputs]
    if len(grad_outputs) != len(outputs):
        raise ValueError(f"grad_outputs must have one entry per output ({len(outputs)}), got {len(grad_outputs)}")
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"inputs[{i}] must be a Tensor, got {type(t).__name__}")
        if not t._requires_grad:
            raise ValueError(f"inputs[{i}] must require grad")
    seeds = [_seed(t, g, "grad_outputs") for t, g in zip(outputs, grad_outputs, strict=True)]
    result = walk(outputs, seeds, inputs, retain_graph or create_graph, create_graph)
    for i, g in enumerate(result):
        if g is None and not allow_unused:
            raise RuntimeError(f"the outputs do not depend on inputs[{i}]; allow_unused=True gives None for it")
    return tuple(result)
