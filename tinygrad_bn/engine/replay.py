"""Replay: the tape as a program.

A rule is a function from arrays to (result, pullback). So what a forward does is a list of such calls, and the same
list can be run again on other arrays, without tensors, checks, or a node for each op: that is a replay.

    loss_of = tb.replay(lambda images, labels: F.cross_entropy(net(tb.Tensor(images)), labels))
    loss = loss_of(images, labels)  # an ordinary tensor; loss.backward() as always

A replayed function is an op. Its rule runs the list of rules, its pullback the list of pullbacks, and its definition,
for second derivatives, calls the ops again. Nothing is compiled.

Read in this order: ``Recording``, one call of the function as a list; ``agreed``, two of them as one; ``Plan``, the
program that comes of it; ``Replay``, who decides when to run it. docs/7-replay.md tells the story.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import Any

import numpy as np

from ..runtime.blas import one_thread
from . import guards
from .backward import plus, sum_to
from .recording import thread
from .replay_notes import Observed, recorders
from .replay_recording import SAMPLE, Recording, Step, Term, agreed, alike, as_array, equal
from .tape import Node, serials
from .tensors import Tensor, wrap

MOST_PLANS = 64  # for each thread; what comes after them is eager
MOST_MISSES = 8  # so often may what a plan relies on change; then the function stays eager


# The program


class ReplayedOp:
    """What a replay's node has for an op."""

    rule: Any = None

    def __init__(self, name: str, count: int, definition: Callable[..., Any]) -> None:
        self.__name__, self.__doc__ = name, f"{count} ops, replayed"
        self.definition, self.names = definition, ()


class Call:
    """function(values[slots]), whose result is values[out]; step is None but for ops. dead: not needed after it."""

    __slots__ = ("dead", "function", "out", "parts", "slots", "step", "take")

    def __init__(self, function: Any, slots: Sequence[int], out: int, parts: int = 0, step: Step | None = None) -> None:
        self.function, self.slots, self.out, self.parts, self.step = function, slots, out, parts, step
        self.dead: list[int] = []
        if len(slots) == 1:
            (slot,) = slots
            self.take: Any = lambda values: (values[slot],)
        else:
            self.take = itemgetter(*slots) if slots else lambda values: ()


class Plan:
    """The steps as calls on numbered slots: those of the recording, then tensors from outside, and constants."""

    def __init__(self, name: str, arguments: Sequence[Any], steps: list[Step], recording: Recording) -> None:
        self.recording, self.steps, self.out, self.flows = recording, steps, recording.out, recording.requires_grad
        self.template: list[Any] = [None] * recording.slots
        self.tensors: list[tuple[int, Tensor, bool, Any]] = []  # slot, tensor, whether it requires grad, its dtype
        self._outside: dict[int, int] = {}
        self.given = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
        ops = [step for step in steps if step.is_op]
        self.once = all(map(_multiplies_on_one_thread, ops))  # then the switch is set once, not in each op
        self.calls: list[Call] = []
        for step in steps:
            self._add_call(step)
        self.sources = [*self.given, *(slot for slot, *_ in self.tensors)]  # of the node's arguments
        self.back = [self._way_back(step) for step in ops if step.flows and self.flows]
        self.kept = [i for i in range(len(arguments)) if i not in self.given]  # what a second derivative needs
        self.kept += [i for s in steps if not s.is_op for i in range(s.out, s.out + s.parts + 1)]
        self._free_early({step.out for step in ops} - {self.out})
        self.modules = [(module, dict(vars(module))) for module in recording.modules.values()]
        self.pins: list[tuple[int, Any]] = []  # arguments that were the same in both recordings, and must stay so
        self.op = ReplayedOp(name, len(ops), self.on_tensors)

    # what to call

    def _new_slot(self, value: Any) -> int:
        self.template.append(value)
        return len(self.template) - 1

    def _place(self, term: Term) -> int:
        """The slot of a term."""
        if term.kind == "slot":
            slot: int = term.value
            return slot
        if term.kind == "tensor":
            t = term.value
            if id(t) not in self._outside:
                self._outside[id(t)] = self._new_slot(None)
                self.tensors.append((self._outside[id(t)], t, t._requires_grad, t._data.dtype))
            return self._outside[id(t)]
        slot = self._new_slot(None if term.kind == "parts" else term.value)
        if term.kind == "parts":  # a call of its own, before the one that needs it
            make, parts, _ = term.value
            self.calls.append(Call(lambda *values: make(values), [self._place(p) for p in parts], slot))
        return slot

    def _add_call(self, step: Step) -> None:
        function: Any = step.function
        if step.is_op:  # of our ops the rule alone; of others with its check, which may look at values
            function = function.rule if step.ours else function.checked
            function = getattr(function, "__wrapped__", function) if self.once else function
        if step.errors is not None:
            function = np.errstate(**step.errors)(function)
        slots = [self._place(term) for term in step.args]
        constant = {name: term.value for name, term in step.kwargs.items() if term.kind == "constant"}
        names = [name for name in step.kwargs if name not in constant]
        if names:
            count, rule = len(slots), functools.partial(function, **constant)
            function = lambda *values: rule(*values[:count], **dict(zip(names, values[count:], strict=True)))
            slots = slots + [self._place(step.kwargs[name]) for name in names]
        elif constant:
            function = functools.partial(function, **constant)
        self.calls.append(Call(function, slots, step.out, step.parts, step if step.is_op else None))

    def _free_early(self, results: set[int]) -> None:
        """Note with each call the results of ops that nothing needs after it."""
        last = {call.out: call for call in self.calls} | {slot: call for call in self.calls for slot in call.slots}
        for slot in results:
            last[slot].dead.append(slot)

    def _way_back(self, step: Step) -> tuple[int, str, list[tuple[int, int, Any]], int]:
        """For the walk back: the step's slot and name, (argument, slot, dtype) of each gradient, how many arguments."""
        flows = [(i, self._place(step.args[i]), step.dtype) for i in step.flows]
        return step.out, step.name, flows, len(step.args)

    # whether it still holds

    def modules_unchanged(self) -> bool:
        """Whether the attributes of the modules are those that were recorded; which mode they are in is in the key."""
        for module, attributes in self.modules:
            now = vars(module)
            if len(now) != len(attributes):
                return False
            for name, value in attributes.items():
                if name != "training" and not (name in now and unchanged(now[name], value)):
                    return False
        return True

    def variables_unchanged(self) -> bool:
        """The same for the variables and attributes that the function's code names."""
        try:
            for where, name, value in self.recording.bindings:
                now = where[name] if name else where.cell_contents
                if now is not value and not unchanged(now, value):
                    return False
        except (KeyError, ValueError):  # it was deleted
            return False
        return True

    # running it

    def __call__(self, arguments: Sequence[Any]) -> Tensor | None:
        """The result on other arguments; None, and nothing has happened, where a tensor is not as it was."""
        values = self.template.copy()
        for i, a in enumerate(arguments):
            values[i] = a._data if isinstance(a, Tensor) else a
        tensors = [arguments[i] for i in self.given]
        for slot, t, flag, dtype in self.tensors:
            array = values[slot] = t._data
            if t._requires_grad is not flag or array.dtype is not dtype:
                return None
            tensors.append(t)
        shapes: list[Any] = [None] * len(values)
        for slot in self.sources:
            shapes[slot] = values[slot].shape
        with one_thread if self.once else nullcontext():
            pullbacks = self._run(values, shapes)
        y = values[self.out]
        out = wrap(y)
        if self.flows:
            back, sources, place = self.back, self.sources, self.out

            def pullback(dy: Any) -> tuple[Any, ...]:
                return walk_back(back, pullbacks, shapes, sources, place, dy)

            inputs = [(i, t._node or t) for i, t in enumerate(tensors) if t._requires_grad]
            versions = [(t._version, t._version[0], t._data) for t in tensors]
            versions.append((out._version, 0, y))
            kwargs = {"frame": {slot: values[slot] for slot in self.kept}}
            out._requires_grad = True
            node = Node(
                self.op, tuple(tensors), kwargs, pullback, inputs, [], versions, y.shape, y.dtype, next(serials)
            )
            out._node = node
        return out

    def _run(self, values: list[Any], shapes: list[Any]) -> list[Any]:
        """Call after call; fills values and shapes, and returns the pullbacks of the steps that have a way back."""
        pullbacks, flows = [], self.flows
        for call in self.calls:
            step = call.step
            if step is None:
                y = call.function(*call.take(values))
                if call.parts:
                    values[call.out + 1 : call.out + 1 + call.parts] = y
            else:
                try:
                    y, pullback = call.function(*call.take(values))
                except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
                    guards.explain(error, step.name, step.function.names, list(call.take(values)))
                    raise
                if type(y) is not np.ndarray or y.dtype is not step.dtype:
                    y = guards.result(step.function, y, step.dtype, list(call.take(values)))
                if step.flows and flows:
                    pullbacks.append(pullback)
                    shapes[call.out] = y.shape
            values[call.out] = y
            for slot in call.dead:
                values[slot] = None
        return pullbacks

    def on_tensors(self, *tensors: Any, frame: dict[int, Any]) -> Any:
        """The same ops on tensors, recorded as they run; masks and the like as they were. For second derivatives."""
        values = self.template.copy()
        for slot, before in frame.items():
            values[slot] = before
        for slot, t in zip(self.sources, tensors, strict=True):
            values[slot] = t

        def value(term: Term) -> Any:
            if term.kind == "parts":
                make, parts, _ = term.value
                return make([value(part) for part in parts])
            return term.value if term.kind == "constant" else values[self._place(term)]

        for step in self.steps:
            if step.is_op:
                args = [value(term) for term in step.args]
                args = [a.detach() if isinstance(a, Tensor) and i not in step.flows else a for i, a in enumerate(args)]
                kwargs = {n: value(term) for n, term in step.kwargs.items() if not (n == "track" and step.ours)}
                values[step.out] = step.function(*args, **kwargs)
        return values[self.out]


def _multiplies_on_one_thread(step: Step) -> bool:
    """Whether what the op leaves to BLAS, it leaves to one thread of it; only our own ops are known."""
    return step.ours and (hasattr(step.function.rule, "__wrapped__") or "whitening" not in step.function.__module__)


def unchanged(now: Any, before: Any) -> bool:
    """Whether a variable holds what it held: the same object, or an equal number or text."""
    return now is before or (isinstance(now, (int, float, str, tuple)) and equal(now, before))


def walk_back(back: Any, pullbacks: Any, shapes: Any, sources: Any, out: int, dy: Any) -> tuple[Any, ...]:
    """backward.walk on slots: the gradients of the sources."""
    table: list[Any] = [None] * len(shapes)
    table[out] = dy
    retain = thread.retain
    for k in range(len(back) - 1, -1, -1):
        slot, name, flows, count = back[k]
        dy = table[slot]
        if dy is None:  # nothing that is used later needs it
            continue
        table[slot] = None
        pullback = pullbacks[k]
        if pullback is None:  # an error ended an earlier walk
            raise guards.freed(_node(name, count))
        gradients = pullback(dy)
        if not retain:
            pullback = pullbacks[k] = None  # at once: what it kept is no longer needed
        if type(gradients) is not tuple:
            gradients = (gradients,)
        for i, source, dtype in flows:
            g = gradients[i] if len(gradients) == count else guards.one_gradient(_node(name, count), gradients, i)
            if type(g) is not np.ndarray:
                g = g() if callable(g) else g
                if g is None:
                    continue
                if type(g) is not np.ndarray:
                    g = guards.gradient(_node(name, count), g)
            if g.shape != shapes[source]:
                g = sum_to(g, shapes[source], name)
            if g.dtype is not dtype:
                guards.check_dtype(_node(name, count), g, np.empty(0, dtype))
            before = table[source]
            table[source] = g if before is None else plus(before, g)
    return tuple([table[slot] for slot in sources])


def _node(name: str, count: int) -> Any:
    """What guards.py asks of a node."""
    return types.SimpleNamespace(op=types.SimpleNamespace(__name__=name), args=range(count))


# When to run it


class _Own(threading.local):
    """What a thread has recorded."""

    def __init__(self) -> None:
        self.plans: dict[Any, Any] = {}  # key -> a Recording (the first), a Plan, or None: eager for good
        self.modules: weakref.WeakValueDictionary[int, Observed] = weakref.WeakValueDictionary()
        self.in_eval: tuple[int, ...] = ()  # the modules in eval mode
        self.seen = -1  # Observed.assigned, when that was looked up
        self.checked: set[int] = set()  # the plans whose modules are as they were, at that time
        self.misses: dict[Any, int] = {}  # how often a plan was no longer right

    def look(self) -> None:
        self.in_eval = tuple([key for key, module in self.modules.items() if not module.training])
        self.seen = Observed.assigned


class Replay:
    """What ``replay`` returns."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        self.function = self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__module__ = getattr(function, "__module__", __name__)
        self.__doc__ = function.__doc__
        self._own = _Own()
        self._warned = False

    def __repr__(self) -> str:
        return f"replay({self.__name__})"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        if getattr(sys.modules.get(self.__module__), self.__qualname__, None) is self:
            return self.__qualname__  # a decorated function is found by its name
        return Replay, (self.function,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Replay:
        return Replay(copy.deepcopy(self.function, memo))

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if thread.report is not None or (recorders and threading.get_ident() in recorders):
            return self.function(*args, **kwargs)  # trace() shows the ops; inside another replay they are its own
        own, arguments = self._own, [*args, *kwargs.values()]
        if own.seen != Observed.assigned:
            own.look()
            own.checked.clear()
        try:
            key = (thread.enabled, own.in_eval, *kwargs, *map(_key, arguments), _repeated(arguments))
            found = own.plans.get(key, self)
        except TypeError:  # not hashable
            self._warn("its arguments must be arrays, Tensors or hashable")
            found = None
        if type(found) is Plan:
            if id(found) not in own.checked:
                if any(module._hooks or module._pre_hooks for module, _ in found.modules):
                    return self.function(*args, **kwargs)
                if found.modules_unchanged():
                    own.checked.add(id(found))
            if id(found) not in own.checked or not found.variables_unchanged():
                found = self
            elif not found.pins or all(alike(as_array(arguments[i]), pin) for i, pin in found.pins):
                result = found(arguments)
                if result is not None:
                    return result
                found = self
            if found is self:
                own.misses[key] = own.misses.get(key, 0) + 1
        if found is None or (found is self and len(own.plans) >= MOST_PLANS and key not in own.plans):
            return self.function(*args, **kwargs)
        return self._record(own, key, found, args, kwargs, arguments)

    def _record(self, own: _Own, key: Any, found: Any, args: Any, kwargs: Any, arguments: list[Any]) -> Tensor:
        """Run the function as it is, and take notes; the second time make a plan of both."""
        recording = Recording(self.function, arguments)
        me = threading.get_ident()
        recorders[me] = recording
        try:
            result = self.function(*args, **kwargs)
        finally:
            del recorders[me]
        recording.finish(result)
        own.modules.update(recording.modules)
        own.look()
        misses = own.misses.get(key, 0)
        own.plans.pop(key, None)
        key = (key[0], own.in_eval, *key[2:])  # of more modules, maybe
        if misses >= MOST_MISSES:
            recording.give_up("what it uses is another object, or of another value, again and again")
        if recording.reason:
            own.plans[key] = None
            self._warn(recording.reason)
        elif found is self:
            own.plans[key] = recording
            own.misses[key] = misses
        else:
            self._plan(own, key, found, recording, arguments)
        return result

    def _plan(self, own: _Own, key: Any, found: Any, recording: Recording, arguments: list[Any]) -> None:
        """A plan of two recordings, or none."""
        before = found.recording if type(found) is Plan else found
        steps, reason = agreed(before, recording)
        pins = found.pins if type(found) is Plan else list(before.before.items())
        pins = [(i, pin) for i, pin in pins if alike(recording.before[i], pin)]
        if reason:
            own.plans[key] = None
            self._warn(reason)
        elif any(getattr(as_array(arguments[i]), "size", 0) >= SAMPLE for i, _ in pins):  # comparing it takes too long
            own.misses[key] = own.misses.get(key, 0) + 1
            own.plans[key] = recording if own.misses[key] < MOST_MISSES else None
        else:
            own.plans[key] = plan = Plan(self.__name__, arguments, steps, recording)
            plan.pins, recording.before, recording.steps = pins, {}, steps

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"replay of {self.__name__}: it stays eager, {reason}", RuntimeWarning, stacklevel=4)


def _key(a: Any) -> Any:
    """What a plan depends on of an argument, besides the values in arrays, and floats."""
    if type(a) is np.ndarray:
        return a.shape, a.dtype
    if isinstance(a, Tensor):
        return a._data.shape, a._data.dtype, a._requires_grad
    if type(a) is tuple:
        return tuple(map(_key, a))
    return float if type(a) is float else (type(a), a)


def _repeated(arguments: Sequence[Any]) -> Any:
    """Which arguments are one array."""
    ids = [id(as_array(a)) for a in arguments if isinstance(a, (np.ndarray, Tensor))]
    return None if len(set(ids)) == len(ids) else tuple([ids.index(i) for i in ids])


def replay(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, whose calls are recorded twice, and from then on replayed: the same bits in less time.

    function: takes arrays, Tensors and constants, and returns one Tensor that it computes with ops; a Module will do,
    too. Also a decorator, @tb.replay. What is returned is called as the function is, and gives an ordinary tensor:
    gradients flow to the arguments that require them, and to parameters. Running statistics move, batches are
    counted, dropout draws, labels are checked, as always.

    The first two calls run as always, and are recorded. So is what comes with other shapes or dtypes, other constants
    (floats count as values, like those in arrays), in another mode (train, eval, no_grad), or after a change of a
    module, or of a variable or attribute that the function's code names. Where the two recordings differ, the function
    stays as it is, eager, and a RuntimeWarning says why, once: NumPy makes an array anew in each call, random numbers
    are drawn, values are read (x.item(), if (x > 0).any()), gradients taken, attributes assigned, arrays changed in
    place. ``tb.fresh(function, ...)`` marks a call that is to be made anew each time. Inside trace(), and where modules
    have hooks (nn.Watch), it is eager, too; so is what comes after 64 kinds of arguments.

    Not seen is what was the same in both recordings and shows in no op: a branch on values in the arrays handed in that
    went the same way twice, a Python number that came out equal twice, a list or dict that changes later, a buffer
    made read-only. Prints and other side effects are not repeated, nor the notes that modules add to errors. A walk
    back computes all gradients of the function, also where tb.grad asks for some of them. The order in which gradients
    are added up may be another where a tensor is used both in the function and outside of it, or in two calls, before
    one backward(). Memory: the nets and arrays that its last 64 programs use stay. Each thread has recordings of its
    own.
    Errors: TypeError for what is not callable, and where the function returns no Tensor.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> loss_of = tb.replay(lambda x, labels: F.cross_entropy(net(tb.Tensor(x)), labels))
    >>> sgd = optim.SGD(net.parameters(), lr=0.1)
    >>> rng = np.random.default_rng(0)
    >>> for _ in range(5):  # replayed from the third step on
    ...     loss = loss_of(rng.standard_normal((8, 2), np.float32), rng.integers(0, 2, 8))
    ...     sgd.zero_grad()
    ...     loss.backward()
    ...     sgd.step()
    """
    return Replay(function)
