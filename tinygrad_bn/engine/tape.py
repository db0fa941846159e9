"""The tape: each call of an op records a node, which says where a tensor came from.

An op is a function from arrays to ``(result, pullback)``. The pullback takes dy, the gradient of the final scalar
with respect to the result, and returns the gradients with respect to the op's inputs. ``@differentiable`` lifts
such a function to tensors and records one ``Node`` per call:

    @differentiable
    def multiply(a, b):
        return a * b, lambda dy: (dy * b, dy * a)

Tensor -> its node -> the node's input tensors -> their nodes ... is the whole graph. Nodes never point at the
tensor that they made, so there are no reference cycles: what is no longer used is freed at once, without the garbage
collector.

Read in this order: ``Node``, ``differentiable``; then backward.py, the walk back along the tape.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, overload

import numpy as np

from ..checks import Array
from . import guards
from .recording import thread
from .replay_notes import recorded, recorders
from .tensors import Tensor, wrap

Pullback = Callable[[Any], Any]
P = ParamSpec("P")  # what an op takes: the arguments of its rule

serials = itertools.count(1)
_NUMBERS = frozenset({int, float, bool, types.NoneType})


# args, kwargs and versions of freed nodes; shared, nobody changes them
_FREED: tuple[tuple[Any, ...], dict[str, Any], list[Any]] = (), {}, []


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """One recorded operation: where a tensor came from, and how to pull a gradient back through it."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pullback: Pullback
    inputs: list[tuple[int, Any]]  # (i, source) for each args[i] that a gradient flows to: the node that made it, or it
    constants: list[tuple[int, tuple[int, ...]]]  # (i, shape) of the other tensors in args, for draw()
    versions: list[tuple[list[int], int, Array]]  # (counter, what it showed, array) of all tensors, the result last
    shape: tuple[int, ...]  # of the result
    dtype: np.dtype[Any]  # of the result, and of all tensors involved
    serial: int  # counts up, so that a node is younger than all it was computed from
    retained: Any = None  # a weak reference to the result, if it asked for its .grad

    def free(self) -> None:
        """Drop the arrays. ``inputs`` stay, so that a second walk comes to this node, and says that it was freed."""
        self.pullback = None  # type: ignore[assignment]
        self.args, self.kwargs, self.versions = _FREED


@overload  # @differentiable
def differentiable(rule: Callable[P, Any]) -> Callable[P, Tensor]: ...
@overload  # @differentiable(definition=...)
def differentiable(
    *, definition: Callable[..., Any] | None = None, check: Callable[..., None] | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Tensor]]: ...
@overload  # differentiable(rule, definition=...)
def differentiable(
    rule: Callable[P, Any], *, definition: Callable[..., Any] | None = None, check: Callable[..., None] | None = None
) -> Callable[P, Tensor]: ...
def differentiable(
    rule: Callable[..., Any] | None = None,
    *,
    definition: Callable[..., Any] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[..., Any]:
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
    check: called before the rule with the same arguments, to raise for those that do not fit (default None). So the
        rule is left with the formula.

    Called with arrays alone, the op computes an array and records nothing: rules may call other ops.
    Type hints on the rule say what the op takes: help() and type checkers show them, and that a Tensor is returned.
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
    guards.check_functions(definition=definition, check=check)
    if rule is None:
        return functools.partial(differentiable, definition=definition, check=check)
    signature = guards.signature(rule)
    parameters = list(signature.parameters.values())
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    run = rule if check is None else guards.before(check, rule)
    count, variadic = len(positional), [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]

    @functools.wraps(rule)
    def op(*args: Any, **kwargs: Any) -> Any:
        # 1. Tensors and their arrays. Those of one dtype and numbers, all given by position, are the simple case;
        #    keywords, defaults and arrays are put in order in guards.py.
        arrays, inputs, constants, versions, dtype = [], [], [], [], None
        simple = len(args) >= count and not (kwargs and any(isinstance(value, Tensor) for value in kwargs.values()))
        for i, a in enumerate(args):
            if isinstance(a, Tensor):
                if a._requires_grad:
                    inputs.append((i, a._node or a))
                else:
                    constants.append((i, a._data.shape))
                versions.append((a._version, a._version[0], a._data))
                a = a._data
                if a.dtype is not dtype:
                    simple, dtype = simple and dtype is None, a.dtype  # a second dtype is not simple
            elif type(a) not in _NUMBERS and not (type(a) is np.ndarray and a.dtype.kind in "biu"):
                simple = False
            arrays.append(a)
        if not simple or dtype is None:
            args, arrays, inputs, constants, versions, dtype = guards.admit(op, positional, variadic, args, kwargs)

        # 2. The result, and how gradients get back.
        try:
            answer = (run if not recorders else recorded(op, run, args, inputs))(*arrays, **kwargs)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            guards.explain(error, op.__name__, op.names, arrays)  # type: ignore[attr-defined]
            raise
        if type(answer) is not tuple or len(answer) != 2 or not callable(answer[1]):  # an array would unpack, too
            raise TypeError(f"{op.__name__} must return (result, pullback), got {type(answer).__name__}")
        y, pullback = answer
        if not versions:  # no tensors
            return y
        if type(y) is not np.ndarray or y.dtype is not dtype:
            y = guards.result(op, y, dtype, arrays)

        # 3. A tensor, and the node that made it.
        out, base = wrap(y), y.base
        for counter, _, a in versions:  # what shares its memory with an argument shares the counter of versions as well
            if y is a or (base is not None and (base is a or base is a.base)):
                out._version = counter
        if inputs and thread.enabled:
            versions.append((out._version, out._version[0], y))
            out._requires_grad = True
            out._node = Node(op, args, kwargs, pullback, inputs, constants, versions, y.shape, dtype, next(serials))
        return out

    # what help() shows: the rule returns a pair, the op a tensor
    op.__signature__ = signature.replace(return_annotation="Tensor")  # type: ignore[attr-defined]
    op.rule, op.checked, op.names = rule, run, [name for name, _ in positional]  # type: ignore[attr-defined]
    op.definition = definition  # type: ignore[attr-defined]
    return op
