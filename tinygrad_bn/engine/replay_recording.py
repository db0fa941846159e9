"""Recordings: what one call of a function does, as a list of steps; and what two calls have in common.

A replay is trusted only with what two recordings agree on: an array or a number that is made anew in each call, outside
of ops, shows by having another value.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import Array
from .recording import thread
from .replay_notes import Observed, paused
from .tensors import Tensor

OURS = __name__.partition(".")[0] + "."


class Term:
    """An argument of a step: where it comes from.

    kind: "slot", the argument or result number value; "tensor", a Tensor from outside, whose array is looked up in each
    replay; "constant"; or "parts", a container in which there is another kind, as (its constructor, its terms).
    """

    __slots__ = ("kind", "value")

    def __init__(self, kind: str, value: Any) -> None:
        self.kind, self.value = kind, value


class Step:
    """One call: of an op's rule, or of a function that was handed to ``fresh``."""

    def __init__(self, function: Any, is_op: bool, args: list[Term], kwargs: dict[str, Term]) -> None:
        self.function, self.is_op, self.args, self.kwargs = function, is_op, args, kwargs
        self.out = self.parts = 0  # the slot of the result, and how many slots after it hold its elements
        self.dtype: Any = None  # of an op's result
        self.flows: list[int] = []  # the arguments that a gradient flows to
        self.decides = False  # whether it compares values, which makes sense only if a later step uses the result

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class Recording:
    """One call of the function: its steps, in order; or the reason why it cannot be replayed."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.steps: list[Step] = []
        self.reason = ""
        self.out, self.requires_grad = -1, False
        self.modules: dict[int, Observed] = {}
        self.bindings: list[tuple[Any, str, Any]] = []  # (where, name, value) of the variables that it may look at
        self.arguments = {i: a.copy() for i, a in enumerate(map(as_array, arguments)) if isinstance(a, np.ndarray)}
        self.slots = 0
        self._arrays: dict[int, int] = {}  # id -> slot
        self._pullbacks: dict[int, int] = {}
        self._tensors: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id comes twice
        self._used: set[int] = set()
        self._versions: set[int] = set()  # counters of tensors from outside
        for a in arguments:
            if isinstance(a, Tensor):
                self._tensors[id(a)] = self.slots
                self._outside(a)
            self._remember(as_array(a))

    def _outside(self, t: Tensor) -> None:
        self._versions.add(id(t._version))
        self._alive.append(t)

    def give_up(self, reason: str) -> None:
        """The function cannot be replayed; the first reason counts."""
        self.reason = self.reason or reason

    def _remember(self, value: Any) -> int:
        """A new slot for the value."""
        if isinstance(value, (np.ndarray, float)):  # small integers are one object each: they say nothing
            self._arrays[id(value)] = self.slots
        self._alive.append(value)
        self.slots += 1
        return self.slots - 1

    def run_op(self, op: Any, run: Any, given: Sequence[Any], inputs: Any, /, *arrays: Any, **kwargs: Any) -> Any:
        """What an op does while it is recorded: the rule, and a note of it."""
        terms = [
            self._term_of_tensor(g, a) if isinstance(g, Tensor) else self._term(a)
            for g, a in zip(given, arrays, strict=True)
        ]
        step = Step(op, True, terms, {name: self._term(value) for name, value in kwargs.items()})
        answer = paused(run, *arrays, **kwargs)
        if type(answer) is tuple and len(answer) == 2:
            y, pullback = answer
            if type(y) is not np.ndarray and isinstance(y, np.generic):
                answer = y, pullback = np.asarray(y), pullback
            step.flows = [i for i, _ in inputs] if thread.enabled else []
            step.dtype = getattr(y, "dtype", None)
            self._note(step, y)
            if step.flows:
                self._pullbacks[id(pullback)] = step.out
                self._alive.append(pullback)
        return answer

    def run_fresh(self, function: Any, args: Sequence[Any], decides: bool) -> Any:
        """The same for a call that is made anew in each replay."""
        terms = [self._term_of_tensor(a, a._data) if isinstance(a, Tensor) else self._term(a) for a in args]
        step = Step(function, False, terms, {})
        step.decides = decides
        result = paused(function, *(a._data if isinstance(a, Tensor) else a for a in args))
        self._note(step, result)
        if type(result) is tuple:
            step.parts = len(result)
            for part in result:
                self._remember(part)
        return result

    def _note(self, step: Step, result: Any) -> None:
        step.out = self._remember(result)
        self.steps.append(step)

    def _slot(self, slot: int) -> Term:
        self._used.add(slot)
        return Term("slot", slot)

    def _term_of_tensor(self, t: Tensor, array: Array) -> Term:
        if t._node is not None:
            slot = self._pullbacks.get(id(t._node.pullback), self._tensors.get(id(t)))
            if slot is None:
                self.give_up("it uses a tensor that was computed outside of it: hand it in as an argument")
                return Term("constant", None)
            return self._slot(slot)
        if id(t) in self._tensors:
            return self._slot(self._tensors[id(t)])
        if not t._requires_grad and id(array) in self._arrays:
            return self._slot(self._arrays[id(array)])
        self._outside(t)
        return Term("tensor", t)

    def _term(self, value: Any) -> Term:
        if id(value) in self._arrays and isinstance(value, (np.ndarray, float)):
            return self._slot(self._arrays[id(value)])
        make: Any = None
        if isinstance(value, (tuple, list)):
            make, parts = getattr(type(value), "_make", type(value)), [self._term(part) for part in value]
        elif type(value) is functools.partial:
            make = lambda parts, f=value.func, names=tuple(value.keywords): functools.partial(
                f, *parts[: len(parts) - len(names)], **dict(zip(names, parts[len(parts) - len(names) :], strict=True))
            )
            parts = [self._term(part) for part in (*value.args, *value.keywords.values())]
        elif isinstance(value, types.FunctionType) and any(id(a) in self._arrays for a in held(value)):
            self.give_up(f"the function {value.__name__} that it hands on holds an array that is computed inside")
        if make is not None and any(part.kind in ("slot", "parts") for part in parts):
            return Term("parts", (make, parts, value))
        return Term("constant", value)

    def finish(self, result: Any) -> None:
        """Find the result among the steps."""
        if not isinstance(result, Tensor):
            raise TypeError(f"a replayed function must return one Tensor, got {type(result).__name__}")
        slot = None
        if result._node is not None:
            slot = self._pullbacks.get(id(result._node.pullback))
        elif not result._requires_grad:
            slot = self._arrays.get(id(result._data))
        made = {step.out for step in self.steps if step.is_op}
        if slot not in made or id(result._version) in self._versions:
            self.give_up("its result is not computed by it, or is a view of what it was given")
        else:
            self.out, self.requires_grad = slot, result._requires_grad
        for step in self.steps:
            if step.decides and step.out not in self._used:
                self.give_up(f"it looks at values of a tensor (np.{step.name}) in Python, not in an op")
        self._arrays, self._pullbacks, self._tensors, self._alive, self._versions = {}, {}, {}, [], set()

    def watch(self, *things: Any) -> None:
        """Note the modules that can be reached from here, and the variables and attributes that code names there."""
        stack, seen, names, objects = list(things), set(), set(), []
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            self._alive.append(item)
            if isinstance(item, Observed):
                self.modules[id(item)] = item
                stack += vars(item).values()
                if not type(item).__module__.startswith(OURS):  # ours look at nothing else
                    stack.append(getattr(type(item), "forward", None))
            elif isinstance(item, (tuple, list)):
                stack += item
            elif isinstance(item, dict):
                stack += item.values()
            elif isinstance(item, types.MethodType):
                stack += [item.__func__, item.__self__]
            elif isinstance(item, functools.partial):
                stack += [item.func, *item.args, *item.keywords.values()]
            elif isinstance(item, types.FunctionType):
                cells = zip(item.__closure__ or (), held(item), strict=True)
                self.bindings += [(cell, "", value) for cell, value in cells if value is not EMPTY]
                names |= set(_names(item.__code__))
                reached = {n: item.__globals__[n] for n in _names(item.__code__) if n in item.__globals__}
                self.bindings += [(item.__globals__, n, value) for n, value in reached.items()]
                mine = item.__module__
                stack += held(item)
                stack += [
                    v for v in reached.values() if getattr(v, "__module__", mine) == mine or isinstance(v, Observed)
                ]
            elif hasattr(item, "__dict__") and not isinstance(item, (Tensor, type, types.ModuleType)):
                objects.append(vars(item))
                stack.append(vars(type(item)).get("__call__"))
            if not stack:
                for attributes in objects:
                    here = {n: attributes[n] for n in names if n in attributes}
                    self.bindings += [(attributes, n, value) for n, value in here.items()]
                    stack += here.values()
                objects = []


def as_array(a: Any) -> Any:
    """A Tensor's array; what else it is given as it is."""
    return a._data if isinstance(a, Tensor) else a


def _names(code: types.CodeType) -> list[str]:
    """The global variables and attributes that code names."""
    names = list(code.co_names)
    for constant in code.co_consts:
        names += _names(constant) if isinstance(constant, types.CodeType) else []
    return names


def unchanged(now: Any, before: Any) -> bool:
    """Whether a variable holds what it held: the same object, or an equal number or text."""
    return now is before or (isinstance(now, (int, float, str, tuple)) and equal(now, before))


EMPTY = object()  # a variable without a value


def held(function: Any) -> list[Any]:
    """What a function holds in its closure."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # a variable that was never assigned
            cells.append(EMPTY)
    return cells


# Two recordings of one program


def equal(a: Any, b: Any) -> bool:
    """Whether two constants are the same object, or of equal value to the bit."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        alike: bool = a.dtype == b.dtype and a.shape == b.shape and a.dtype.kind != "O"
        return bool(alike and a.tobytes() == b.tobytes())
    if isinstance(a, float):
        return bool(a.hex() == b.hex())
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(equal, a.values(), b.values()))
    if isinstance(a, slice):
        return equal((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, types.FunctionType):
        mine, theirs = (held(a), a.__defaults__, a.__kwdefaults__), (held(b), b.__defaults__, b.__kwdefaults__)
        return bool(a.__code__ is b.__code__ and equal(mine, theirs))
    if isinstance(a, types.MethodType):
        return bool(a.__func__ is b.__func__ and a.__self__ is b.__self__)
    if isinstance(a, functools.partial):
        return equal((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    return isinstance(a, (int, str, bytes, np.dtype, types.NoneType, types.EllipsisType)) and bool(a == b)


def common(a: Term, b: Term) -> Term | None:
    """The term that both recordings have, or None if they differ."""
    if a.kind == b.kind == "slot" and a.value == b.value:
        return b
    if a.kind == b.kind == "tensor":
        if a.value is b.value:
            return b
        s, t = a.value, b.value
        if not s._requires_grad and not t._requires_grad and equal(s._data, t._data):
            return Term("constant", t._data)
    if a.kind == b.kind == "constant" and equal(a.value, b.value):
        return b
    if a.kind == b.kind == "parts" and len(a.value[1]) == len(b.value[1]) and type(a.value[2]) is type(b.value[2]):
        first, second = a.value[2], b.value[2]
        if isinstance(first, functools.partial) and not equal(
            (first.func, list(first.keywords)), (second.func, list(second.keywords))
        ):
            return None
        parts = [common(x, y) for x, y in zip(a.value[1], b.value[1], strict=True)]
        if None not in parts:
            return Term("parts", (b.value[0], parts, second))
    return None


def agreed(a: Recording, b: Recording) -> tuple[list[Step], str]:
    """The steps of both, or why they differ."""
    if a.reason or b.reason:
        return [], a.reason or b.reason
    steps = []
    for i, (x, y) in enumerate(zip(a.steps, b.steps, strict=False)):
        where = f"step {i + 1}, {y.name},"
        if x.is_op != y.is_op or not (x.function is y.function or equal(_rule(x), _rule(y))):
            return [], f"in one call its step {i + 1} is {x.name}, in the other {y.name}"
        step = copy.copy(y)
        step.args, step.kwargs = [], {}
        if (x.out, x.parts, x.flows) != (y.out, y.parts, y.flows) or len(x.args) != len(y.args):
            return [], f"{where} differs between two calls"
        for j, (s, t) in enumerate(zip(x.args, y.args, strict=True)):
            term = common(s, t)
            if term is None:
                return [], f"argument {_name(y, j)} of {where} {_difference(t)}"
            step.args.append(term)
        if list(x.kwargs) != list(y.kwargs):
            return [], f"{where} has other arguments in the second call"
        for name, t in y.kwargs.items():
            term = common(x.kwargs[name], t)
            if term is None:
                return [], f"argument {name} of {where} {_difference(t)}"
            step.kwargs[name] = term
        steps.append(step)
    if len(a.steps) != len(b.steps):
        return [], f"it has {len(a.steps)} steps in one call and {len(b.steps)} in the other"
    if a.out != b.out:
        return [], "its result is another step's in each of two calls"
    return steps, ""


def _rule(step: Step) -> Any:
    return step.function.rule if step.is_op else step.function


def _name(step: Step, i: int) -> str:
    names = getattr(step.function, "names", ())
    return names[i] if step.is_op and i < len(names) else str(i)


def _difference(term: Term) -> str:
    value = term.value
    if term.kind == "tensor":
        return "is a tensor made anew in each call: tb.Tensor(array) of an argument is known, a copy is not"
    if term.kind == "constant" and isinstance(value, (np.ndarray, float)):
        return (
            "has another value in each call, and is computed outside of ops: hand it in as an argument, compute it "
            "with tensors, or through tb.fresh(function, ...)"
        )
    return "is not the same in two calls"
