"""Recordings: what one call of a function does, as a list of steps; and what two calls have in common.

A replay is trusted only with what two recordings agree on. What is made anew in each call and comes from no op shows by
being another object: another array, which may have the same values by chance, or a number of another value.
"""

from __future__ import annotations

import copy
import dis
import functools
import random
import sys
import types
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np

from ..checks import Array
from ..runtime.random import default_generator
from .recording import thread
from .replay_notes import Observed, paused
from .tensors import Tensor

OURS = __name__.partition(".")[0]
FOREIGN = {OURS, "numpy", "numba", *sys.stdlib_module_names} - {"__main__"}  # modules whose code is not looked into
SAMPLE = 1 << 18  # elements of an array from which on a part of it is remembered, not all
EMPTY = object()  # a variable without a value


class Term:
    """An argument of a step: where it comes from.

    kind: "slot", the argument or result number value; "tensor", a Tensor from outside, whose array is looked up in each
    replay; "constant"; or "parts", a container in which there is another kind, as (its constructor, its terms, itself).
    strict: a constant array or NumPy number is the same object in each call, or none.
    """

    __slots__ = ("kind", "strict", "value")

    def __init__(self, kind: str, value: Any, strict: bool = True) -> None:
        self.kind, self.value, self.strict = kind, value, strict


class Step:
    """One call: of an op's rule, or of a function that was handed to ``fresh``."""

    def __init__(self, function: Any, is_op: bool, args: list[Term], kwargs: dict[str, Term]) -> None:
        self.function, self.is_op, self.args, self.kwargs = function, is_op, args, kwargs
        self.out = self.parts = 0  # the slot of the result, and how many slots after it hold its elements
        self.dtype: Any = None  # of an op's result
        self.flows: list[int] = []  # the arguments that a gradient flows to
        self.errors: Any = None  # np.errstate, where the function sets it

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def ours(self) -> bool:
        """Whether it is an op of this package, whose keywords hold what the shapes decide."""
        return self.is_op and self.function.__module__.partition(".")[0] == OURS


class Recording:
    """One call of the function: its steps, in order; or the reason why it cannot be replayed."""

    def __init__(self, function: Any, arguments: Sequence[Any]) -> None:
        self.steps: list[Step] = []
        self.reason = ""
        self.out, self.requires_grad = -1, False
        self.modules: dict[int, Observed] = {}
        self.bindings: list[tuple[Any, str, Any]] = []  # (where, name, value) of the variables that it may look at
        self.given = list(map(as_array, arguments))
        self.before = {i: kept(a) for i, a in enumerate(self.given) if isinstance(a, (np.ndarray, float))}
        self.numbers: list[Any] = []  # NumPy's, that it hands to ops
        self.slots = 0
        self._known: dict[int, int] = {}  # id of an array or float -> its slot
        self._pullbacks: dict[int, int] = {}  # id of a pullback -> the slot of its op's result
        self._tensors: dict[int, int] = {}  # id of a Tensor among the arguments -> its slot
        self._sources: dict[int, Tensor] = {}  # id of a detached Tensor -> whose array it shares
        self._versions: set[int] = set()  # counters of tensors from outside
        self._used: set[int] = set()
        self._owed: dict[int, tuple[int, str]] = {}  # the results that a later step has to use
        self._states: list[tuple[Any, Any]] = []  # arrays and generators that are not to change but in a step
        self._alive: list[Any] = []  # so that no id comes twice
        self._fresh: list[Array] = []  # what fresh calls gave
        self._draws: list[Any] = []  # the states of what draws random numbers
        self._random: dict[Any, Any] = {0: random.getstate, 1: lambda: default_state(default_generator())}
        self._bound: set[tuple[int, str]] = set()  # the variables that are in bindings
        self._errors = np.geterr()
        for a in arguments:
            if isinstance(a, Tensor):
                self._tensors[id(a)] = self.slots
                self._outside(a)
            self._remember(as_array(a))
        reached = self.watch(function, *(a for a in arguments if not isinstance(as_array(a), np.ndarray)))
        if any(id(a) in reached for a in arguments if isinstance(as_array(a), np.ndarray)):
            self.give_up("an argument is an array or tensor that it knows under another name, too")
        self._take_stock()

    def give_up(self, reason: str) -> None:
        """The function cannot be replayed; the first reason counts."""
        self.reason = self.reason or reason

    # what happens

    def run_op(self, op: Any, run: Any, given: Sequence[Any], inputs: Any, /, *arrays: Any, **kwargs: Any) -> Any:
        """What an op does while it is recorded: the rule, and a note of it."""
        step = Step(op, True, [], {})
        pairs = zip(given, arrays, strict=True)
        step.args = [self._term_of_tensor(g, a) if isinstance(g, Tensor) else self._term(a) for g, a in pairs]
        step.kwargs = {n: self._term(value, not step.ours or n == "index") for n, value in kwargs.items()}
        has_effect = any(map(callable, kwargs.values()))
        if has_effect:
            self._look_at_states()
        answer = paused(run, *arrays, **kwargs)
        if has_effect:
            self._take_stock()
        if type(answer) is not tuple or len(answer) != 2 or not callable(answer[1]):
            return answer  # the op says what is wrong
        y, pullback = answer
        y = np.asarray(y) if isinstance(y, np.generic) else y
        pullback = functools.partial(pullback)  # an object of its own, by which the result is known again
        step.flows = [i for i, _ in inputs] if thread.enabled else []
        step.dtype = getattr(y, "dtype", None)
        self._note(step, y)
        self._pullbacks[id(pullback)] = step.out
        self._alive.append(pullback)
        return y, pullback

    def run_fresh(self, function: Any, args: Sequence[Any], decides: bool) -> Any:
        """The same for a call that is made anew in each replay."""
        terms = [self._term_of_tensor(a, a._data) if isinstance(a, Tensor) else self._term(a) for a in args]
        step = Step(function, False, terms, {})
        self._look_at_states()
        result = paused(function, *map(as_array, args))
        many = type(result) is tuple
        if decides and not isinstance(result, np.ndarray):  # of a tensor without axes, or argmax of all
            self.give_up(f"Python looks at np.{step.name} of a tensor, a number")
        values = [self._own(value) for value in (result if many else (result,))]
        result = tuple(values) if many else values[0]
        self._fresh += [value for value in values if type(value) is np.ndarray]
        self._take_stock()
        self._note(step, result)
        if many:
            step.parts = len(values)
            for value in values:
                self._remember(value)
        if result is not None:
            what = f"np.{step.name} of a tensor" if decides else f"what {step.name} gives to fresh()"
            self._owed[step.out] = (step.parts, what)
        return result

    def _own(self, value: Any) -> Any:
        """What a fresh call gave, as an object that nothing else is."""
        if type(value) is float:
            return float.fromhex(value.hex())
        if type(value) is np.ndarray:
            return value.view()
        if value is not None:
            self.give_up(f"tb.fresh gives an array, a float, a tuple of these, or None, got {type(value).__name__}")
        return value

    def number(self, value: Any) -> None:
        """An op was given one of NumPy's numbers."""
        if id(value) not in self._known:
            self.numbers.append(value)

    def detached(self, result: Tensor, source: Tensor) -> None:
        """result shares the array of source, without its history."""
        self._sources[id(result)] = source
        self._alive += [result, source]

    def finish(self, result: Any) -> None:
        """Find the result among the steps."""
        if not isinstance(result, Tensor):
            raise TypeError(f"a replayed function must return one Tensor, got {type(result).__name__}")
        slot = None
        if result._node is not None:
            slot = self._pullbacks.get(id(result._node.pullback))
        elif not result._requires_grad:
            slot = self._known.get(id(result._data))
        if slot not in {step.out for step in self.steps if step.is_op} or id(result._version) in self._versions:
            self.give_up("its result is not computed by it, or is a view of what it was given")
        else:
            self.out, self.requires_grad = slot, result._requires_grad
        self._look_at_states()
        for out, (parts, what) in self._owed.items():
            if not self._used & set(range(out, out + parts + 1)):
                self.give_up(f"Python looks at {what}, and no op takes it")
        for name in (
            "_known",
            "_pullbacks",
            "_tensors",
            "_sources",
            "_alive",
            "_states",
            "_fresh",
            "_random",
            "_draws",
            "given",
        ):
            setattr(self, name, type(getattr(self, name))())

    # states that are not to change unseen

    def _take_stock(self) -> None:
        arrays = [a for module in self.modules.values() for a in vars(module).values() if type(a) is np.ndarray]
        arrays += [a for a in self.given if type(a) is np.ndarray]
        self._states = [(a, kept(a)) for a in (*arrays, *self._fresh)]
        self._draws = [state() for state in self._random.values()]

    def _look_at_states(self) -> None:
        if any(not alike(kept(a), before) for a, before in self._states):
            self.give_up("it changes an array in place")
        if [state() for state in self._random.values()] != self._draws:
            self.give_up("it draws random numbers, or seeds them, outside of fresh()")

    # where a value comes from

    def _note(self, step: Step, result: Any) -> None:
        if (errors := np.geterr()) != self._errors:
            step.errors = errors
        step.out = self._remember(result)
        self.steps.append(step)

    def _remember(self, value: Any) -> int:
        """A new slot for the value."""
        if isinstance(value, (np.ndarray, float)):  # small integers are one object each: they say nothing
            self._known[id(value)] = self.slots
        self._alive.append(value)
        self.slots += 1
        return self.slots - 1

    def _outside(self, t: Tensor) -> None:
        self._versions.add(id(t._version))
        self._alive.append(t)

    def _slot(self, slot: int) -> Term:
        self._used.add(slot)
        return Term("slot", slot)

    def _term_of_tensor(self, t: Tensor, array: Array) -> Term:
        while id(t) in self._sources:
            t = self._sources[id(t)]
        if t._node is not None:
            slot = self._pullbacks.get(id(t._node.pullback), self._tensors.get(id(t)))
            if slot is None:
                self.give_up("it uses a tensor that was computed outside of it: hand it in as an argument")
                return Term("constant", None)
            return self._slot(slot)
        if id(t) in self._tensors:
            return self._slot(self._tensors[id(t)])
        if not t._requires_grad and id(array) in self._known:
            return self._slot(self._known[id(array)])
        self._outside(t)
        return Term("tensor", t)

    def _term(self, value: Any, strict: bool = True) -> Term:
        if isinstance(value, (np.ndarray, float)) and id(value) in self._known:
            return self._slot(self._known[id(value)])
        make: Any = None
        if isinstance(value, Tensor) and id(value) in self._tensors:
            self.give_up("an argument is used in another way than by an op: hand in its array")
        elif isinstance(value, (tuple, list)):
            make, parts = getattr(type(value), "_make", type(value)), [self._term(part, strict) for part in value]
        elif type(value) is slice:
            make = lambda parts: slice(*parts)
            parts = [self._term(part, strict) for part in (value.start, value.stop, value.step)]
        elif type(value) is functools.partial:
            count = len(value.args)
            make = lambda parts, f=value.func, names=tuple(value.keywords): functools.partial(
                f, *parts[:count], **dict(zip(names, parts[count:], strict=True))
            )
            parts = [self._term(part, strict) for part in (*value.args, *value.keywords.values())]
        elif isinstance(value, types.FunctionType) and any(id(a) in self._known for a in held(value)):
            self.give_up(f"the function {value.__name__} that it hands on holds an array that is computed inside")
        if make is not None and any(part.kind in ("slot", "parts") for part in parts):
            return Term("parts", (make, parts, value))
        return Term("constant", value, strict)

    # what the function can look at

    def watch(self, *things: Any) -> set[int]:
        """Note the modules that can be reached from here, and the variables and attributes that code names there.

        Returns the ids of all that was found.
        """
        stack, attributes = list(things), set[str]()
        objects: dict[int, Any] = {}  # whose attributes they are -> the attributes
        seen: dict[int, Any] = {}

        def bind(owner: Any, where: Any, name: str) -> None:
            if (id(owner), name) not in self._bound:
                self._bound.add((id(owner), name))
                value = where[name] if name else where.cell_contents
                self.bindings.append((where, name, value))
                stack.append(value)

        def add(thing: Any, classes: Sequence[type]) -> None:
            """An object, and its classes: which of their attributes count, the code says."""
            objects.update((id(c), (c, vars(c))) for c in classes if not _foreign(c))
            if thing is not None:
                objects[id(thing)] = thing, vars(thing)

        while stack or objects:
            if not stack:  # attributes, now that all code has said which
                for owner, where in list(objects.values()):
                    for name in attributes & set(where):
                        bind(owner, where, name)
                if not stack:
                    break
                continue
            item = stack.pop()
            if id(item) in seen:
                continue
            seen[id(item)] = item
            if isinstance(item, Observed):
                self.modules[id(item)] = item
                stack += vars(item).values()
                add(None, type(item).__mro__)
                stack += [vars(c)["forward"] for c in type(item).__mro__ if not _foreign(c) and "forward" in vars(c)]
            elif isinstance(item, (tuple, list)):
                stack += item[:1000]
            elif isinstance(item, dict):
                stack += list(item.values())[:1000]
            elif isinstance(item, types.MethodType):
                stack += [item.__func__, item.__self__]
            elif isinstance(item, functools.partial):
                stack += [item.func, *item.args, *item.keywords.values()]
            elif isinstance(item, types.FunctionType):
                if _foreign(item):
                    continue
                for cell, value in zip(item.__closure__ or (), held(item), strict=True):
                    if value is not EMPTY:
                        bind(cell, cell, "")
                variables, named = code_names(item.__code__)
                attributes |= named
                for name in variables & item.__globals__.keys():
                    bind(item.__globals__, item.__globals__, name)
            elif isinstance(item, (staticmethod, classmethod)) or hasattr(item, "__wrapped__"):
                stack.append(item.__wrapped__)
            elif isinstance(item, types.ModuleType):
                if not _foreign(item):
                    add(item, ())
            elif isinstance(item, type):
                add(None, item.__mro__)
            elif hasattr(item, "__dict__") and not isinstance(item, Tensor) and not _foreign(type(item)):
                add(item, type(item).__mro__)
                stack += [vars(c)["__call__"] for c in type(item).__mro__ if not _foreign(c) and "__call__" in vars(c)]
        for item in seen.values():
            if isinstance(item, np.random.Generator) and id(item) not in self._random:
                self._random[id(item)] = lambda g=item: g.bit_generator.state
                self._draws.append(item.bit_generator.state)
        self._alive += seen.values()
        return set(seen)


def default_state(generator: np.random.Generator) -> Any:
    """Which one it is, and its state."""
    return id(generator), generator.bit_generator.state


def _foreign(thing: Any) -> bool:
    """Whether it belongs to the library, NumPy or Python, and looks at no variables of the user's."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return (name or "").partition(".")[0] in FOREIGN


def code_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The global variables, and the attributes, that code names."""
    variables, attributes = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            variables.add(step.argval)
        elif isinstance(step.argval, str):  # which instructions load attributes differs from Python to Python
            attributes.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = code_names(constant)
            variables, attributes = variables | inner[0], attributes | inner[1]
    return variables, attributes


def as_array(a: Any) -> Any:
    """A Tensor's array; what else it is given as it is."""
    return a._data if isinstance(a, Tensor) else a


def kept(a: Any) -> Any:
    """A copy, of every so many elements where it is large."""
    if not isinstance(a, np.ndarray):
        return a
    return a.copy() if a.size < SAMPLE else a.reshape(-1)[:: a.size // SAMPLE * 16].copy()


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


def alike(a: Any, b: Any) -> bool:
    """Whether two arrays or floats are equal to the bit."""
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        same: bool = a.tobytes() == b.tobytes()
        return same
    return bool(a.hex() == b.hex())


def equal(a: Any, b: Any, strict: bool = True, inside: tuple[Any, ...] = ()) -> bool:
    """Whether two constants are the same object, or of equal value; for strict, arrays only the former."""
    if a is b or (id(a), id(b)) in inside:
        return True
    if type(a) is not type(b):
        return False
    inside = (*inside, (id(a), id(b)))
    if isinstance(a, (np.ndarray, np.generic)):
        return not strict and alike(np.asarray(a), np.asarray(b))
    if isinstance(a, float):
        return alike(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(equal(x, y, strict, inside) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name], strict, inside) for name in a)
    if isinstance(a, slice):
        return equal((a.start, a.stop, a.step), (b.start, b.stop, b.step), strict, inside)
    if isinstance(a, types.FunctionType):
        mine, theirs = (held(a), a.__defaults__, a.__kwdefaults__), (held(b), b.__defaults__, b.__kwdefaults__)
        return a.__code__ is b.__code__ and equal(mine, theirs, strict, inside)
    if isinstance(a, types.MethodType):
        return a.__func__ is b.__func__ and a.__self__ is b.__self__
    if isinstance(a, functools.partial):
        return equal((a.func, a.args, a.keywords), (b.func, b.args, b.keywords), strict, inside)
    return isinstance(a, (int, str, bytes, np.dtype, types.NoneType, types.EllipsisType)) and bool(a == b)


def common(a: Term, b: Term) -> Term | None:
    """The term that both recordings have, or None if they differ."""
    if a.kind != b.kind:
        return None
    if a.kind == "slot":
        return b if a.value == b.value else None
    if a.kind == "tensor":
        return b if a.value is b.value else None
    if a.kind == "constant":
        return b if equal(a.value, b.value, b.strict) else None
    (_, mine, first), (make, theirs, second) = a.value, b.value
    if type(first) is not type(second) or len(mine) != len(theirs):
        return None
    if isinstance(first, functools.partial) and not equal(_called(first), _called(second)):
        return None
    parts = [common(x, y) for x, y in zip(mine, theirs, strict=True)]
    return None if None in parts else Term("parts", (make, parts, second))


def _called(call: functools.partial[Any]) -> tuple[Any, ...]:
    return call.func, *call.keywords


def agreed(a: Recording, b: Recording) -> tuple[list[Step], str]:
    """The steps of both, or why they differ."""
    if a.reason or b.reason:
        return [], a.reason or b.reason
    steps = []
    for i, (x, y) in enumerate(zip(a.steps, b.steps, strict=False)):
        where = f"step {i + 1}, {y.name},"
        if x.is_op != y.is_op or not (x.function is y.function or equal(_rule(x), _rule(y))):
            return [], f"step {i + 1} is {x.name} in one call, and {y.name} in another"
        if (x.out, x.parts, x.flows, x.errors) != (y.out, y.parts, y.flows, y.errors) or len(x.args) != len(y.args):
            return [], f"{where} is not the same in two calls"
        if list(x.kwargs) != list(y.kwargs):
            return [], f"{where} has other arguments in the second call"
        step = copy.copy(y)
        step.args, step.kwargs = [], {}
        for j, (s, t) in enumerate(zip(x.args, y.args, strict=True)):
            term = common(s, t)
            if term is None:
                return [], f"argument {_name(y, j)} of {where} {_difference(t)}"
            step.args.append(term)
        for name, t in y.kwargs.items():
            term = common(x.kwargs[name], t)
            if term is None:
                return [], f"argument {name} of {where} {_difference(t)}"
            step.kwargs[name] = term
        steps.append(step)
    if len(a.steps) != len(b.steps):
        return [], f"it has {len(a.steps)} steps in one call and {len(b.steps)} in another"
    if len(a.numbers) != len(b.numbers) or not all(map(is_, a.numbers, b.numbers)):
        return (
            [],
            "it computes a number with NumPy anew in each call: hand it in, compute it with ops, or by tb.fresh()",
        )
    if a.out != b.out:
        return [], "its result is another step's in each of two calls"
    return steps, ""


def _rule(step: Step) -> Any:
    return step.function.rule if step.is_op else step.function


def _name(step: Step, i: int) -> str:
    names = getattr(step.function, "names", ())
    return names[i] if step.is_op and i < len(names) else str(i)


def _difference(term: Term) -> str:
    hint = "make it once, outside of the function, hand it in as an argument, compute it with ops, or by tb.fresh()"
    if term.kind == "slot":
        return f"comes from another place in each call: {hint}"
    if term.kind == "tensor":
        return f"is a tensor made anew in each call (tb.Tensor(array) of an argument would be known): {hint}"
    if isinstance(term.value, np.ndarray):
        return f"is an array that NumPy makes anew in each call: {hint}"
    if isinstance(term.value, (int, float, np.generic)):
        return f"is another number in each call: {hint}"
    return f"is not the same in two calls: {hint}"
