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

import functools
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ..checks import Array
from ..runtime.random import default_generator
from . import guards
from .backward import _add, _sum_to
from .recording import thread
from .replay_notes import Observed, recorders
from .replay_recording import Recording, Step, Term, agreed, as_array, equal, unchanged
from .tape import Node, serials
from .tensors import Tensor, wrap

MOST_PLANS = 64  # for each thread; the oldest gives way
MOST_MISSES = 8  # so often may what a plan relies on change; then the function stays eager


# The program


def _take(slots: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """The function that picks these slots."""
    if len(slots) == 1:
        (slot,) = slots
        return lambda values: (values[slot],)
    return itemgetter(*slots) if slots else lambda values: ()


class Plan:
    """The steps as calls on numbered slots: those of the recording, then tensors from outside, and constants."""

    def __init__(self, name: str, arguments: Sequence[Any], steps: list[Step], recording: Recording) -> None:
        self.recording, self.steps, self.out = recording, steps, recording.out
        self.count = len(arguments)
        self.template: list[Any] = [None] * recording.slots
        self.tensors: list[tuple[int, Tensor, bool, Any]] = []  # slot, tensor, whether it requires grad, its dtype
        self._outside: dict[int, int] = {}
        self.given = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
        self.calls: list[tuple[Any, Any, int, int, Any]] = []
        for step in steps:
            self._add_call(step)
        self.sources = [*self.given, *(slot for slot, *_ in self.tensors)]  # of the node's arguments
        self.back = [self._way_back(step) for step in steps if step.flows]
        self.kept = [i for i in range(self.count) if i not in self.given]  # what a second derivative needs
        self.kept += [i for s in steps if not s.is_op for i in range(s.out, s.out + s.parts + 1)]
        self.modules = [(module, dict(vars(module))) for module in recording.modules.values()]
        self.bindings = recording.bindings
        self.pins: list[tuple[int, Array]] = []  # arguments that were the same in both recordings, and must stay so
        count = sum(step.is_op for step in steps)
        self.op = types.SimpleNamespace(__name__=name, __doc__=f"{count} ops, replayed", definition=self.on_tensors)

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
            self.calls.append((lambda *values: make(values), _take([self._place(p) for p in parts]), slot, 0, None))
        return slot

    def _add_call(self, step: Step) -> None:
        slots = [self._place(term) for term in step.args]
        function = step.function.rule if step.is_op else step.function
        constant = {name: term.value for name, term in step.kwargs.items() if term.kind == "constant"}
        names = [name for name in step.kwargs if name not in constant]
        if names:
            count, rule = len(slots), functools.partial(function, **constant)
            function = lambda *values: rule(*values[:count], **dict(zip(names, values[count:], strict=True)))
            slots = slots + [self._place(step.kwargs[name]) for name in names]
        elif constant:
            function = functools.partial(function, **constant)
        self.calls.append((function, _take(slots), step.out, step.parts, step if step.is_op else None))

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
        """The same for the variables that the function's code names."""
        for where, name, value in self.bindings:
            now = where.get(name) if name else where.cell_contents
            if now is not value and not unchanged(now, value):
                return False
        return True

    # running it

    def __call__(self, arguments: Sequence[Any]) -> Tensor | None:
        """The result on other arguments; None, and nothing has happened, where a tensor is not as it was."""
        values = self.template.copy()
        for i, a in enumerate(arguments):
            values[i] = a._data if isinstance(a, Tensor) else a
        nodes_args = [arguments[i] for i in self.given]
        for slot, t, flag, dtype in self.tensors:
            array = values[slot] = t._data
            if t._requires_grad is not flag or array.dtype is not dtype:
                return None
            nodes_args.append(t)
        shapes: list[Any] = [None] * len(values)
        for slot in self.sources:
            shapes[slot] = values[slot].shape
        pullbacks = self._run(values, shapes)
        y = values[self.out]
        out = wrap(y)
        inputs = [(i, t._node or t) for i, t in enumerate(nodes_args) if t._requires_grad] if thread.enabled else []
        if inputs and self.recording.requires_grad:
            back, sources, place = self.back, self.sources, self.out

            def pullback(dy: Any) -> tuple[Any, ...]:
                return walk_back(back, pullbacks, shapes, sources, place, dy)

            frame = {slot: values[slot] for slot in self.kept}
            versions = [(t._version, t._version[0], t._data) for t in nodes_args]
            versions.append((out._version, 0, y))
            args, kwargs = tuple(nodes_args), {"frame": frame}
            out._requires_grad = True
            out._node = Node(self.op, args, kwargs, pullback, inputs, [], versions, y.shape, y.dtype, next(serials))
        return out

    def _run(self, values: list[Any], shapes: list[Any]) -> list[Any]:
        """Call after call; fills values and shapes, and returns the pullbacks of the steps that have a way back."""
        pullbacks = []
        for function, take, out, parts, step in self.calls:
            if step is None:
                y = function(*take(values))
                if parts:
                    values[out + 1 : out + 1 + parts] = y
            else:
                try:
                    y, pullback = function(*take(values))
                except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
                    guards.explain(error, step.name, getattr(step.function, "names", []), list(take(values)))
                    raise
                if type(y) is not np.ndarray or y.dtype is not step.dtype:
                    y = guards.result(step.function, y, step.dtype, list(take(values)))
                if step.flows:
                    pullbacks.append(pullback)
                    shapes[out] = y.shape
            values[out] = y
        return pullbacks

    def on_tensors(self, *tensors: Any, frame: dict[int, Any]) -> Any:
        """The same ops on tensors, recorded as they run; masks and the like as they were. For second derivatives."""
        values = self.template.copy()
        for slot, kept in frame.items():
            values[slot] = kept
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
                kwargs = {n: None if n == "track" else value(term) for n, term in step.kwargs.items()}
                values[step.out] = step.function(*args, **kwargs)
        return values[self.out]


def walk_back(back: Any, pullbacks: Any, shapes: Any, sources: Any, out: int, dy: Any) -> tuple[Any, ...]:
    """backward.walk on slots: the gradients of the sources."""
    table: list[Any] = [None] * len(shapes)
    table[out] = dy
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
        if not thread.retain:
            pullbacks[k] = None  # at once: what it kept is no longer needed
        if type(gradients) is not tuple:
            gradients = (gradients,)
        for i, source, dtype in flows:
            g = gradients[i] if len(gradients) == count else guards.one_gradient(_node(name, count), gradients, i)
            if type(g) is not np.ndarray:
                g = g() if callable(g) else g
                if g is None:
                    continue
                g = guards.gradient(_node(name, count), g)
            if g.shape != shapes[source]:
                g = _sum_to(g, shapes[source], name)
            if g.dtype is not dtype:
                guards.check_dtype(_node(name, count), g, np.empty(0, dtype))
            table[source] = g if table[source] is None else _add(table[source], g)
    return tuple([table[slot] for slot in sources])


def _node(name: str, count: int) -> Any:
    """What guards.py asks of a node."""
    return types.SimpleNamespace(op=types.SimpleNamespace(__name__=name), args=range(count))


# When to run it


class _Own(threading.local):
    """What a thread has recorded."""

    def __init__(self) -> None:
        self.plans: dict[Any, Any] = {}  # key -> a Recording (the first), a Plan, or None: eager for good
        self.modules: dict[int, Observed] = {}
        self.in_eval: tuple[int, ...] = ()  # the modules in eval mode
        self.misses: dict[Any, int] = {}  # how often a plan was no longer right
        self.seen = -1  # Observed.assigned, when that was looked up
        self.checked: set[int] = set()  # the plans whose modules are as they were, at that time

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
        return Replay, (self.function,)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if thread.report is not None or (recorders and threading.get_ident() in recorders):
            return self.function(*args, **kwargs)  # trace() shows the ops; inside another replay they are its own
        own, arguments = self._own, [*args, *kwargs.values()]
        key = self._key(arguments, tuple(kwargs))
        if key is None:
            return self.function(*args, **kwargs)
        if own.seen != Observed.assigned:
            own.look()
            own.checked.clear()
        found = own.plans.get((key, own.in_eval), self)
        if type(found) is Plan:
            if id(found) not in own.checked:
                if any(module._hooks or module._pre_hooks for module, _ in found.modules):
                    return self.function(*args, **kwargs)
                if found.modules_unchanged():
                    own.checked.add(id(found))
            if id(found) in own.checked and found.variables_unchanged():
                if not found.pins or all(equal(as_array(arguments[i]), pin) for i, pin in found.pins):
                    result = found(arguments)
                    if result is not None:
                        return result
                    found = self
            else:
                found = self
            if found is self:
                own.misses[key] = own.misses.get(key, 0) + 1
        if found is None:
            return self.function(*args, **kwargs)
        return self._record(own, key, found, args, kwargs, arguments)

    def _key(self, arguments: list[Any], names: tuple[str, ...]) -> Any:
        """What a plan depends on besides the values in arrays; None: no plan."""
        parts: list[Any] = [thread.enabled, names]
        for a in arguments:
            if type(a) is np.ndarray:
                parts.append((a.shape, a.dtype))
            elif isinstance(a, Tensor):
                parts.append((a._data.shape, a._data.dtype, a._requires_grad))
            elif type(a) is float:
                parts.append(a.hex())
            else:
                try:
                    hash(a)
                except TypeError:
                    self._warn(f"an argument must be an array, a Tensor or hashable, got {type(a).__name__}")
                    return None
                parts.append((type(a), a))
        if len(set(map(id, arguments))) < len(arguments):
            ids = list(map(id, arguments))
            parts.append(tuple([ids.index(i) for i in ids]))
        return tuple(parts)

    def _record(self, own: _Own, key: Any, found: Any, args: Any, kwargs: Any, arguments: list[Any]) -> Tensor:
        """Run the function as it is, and take notes; the second time make a plan of both."""
        recording = Recording(arguments)
        recording.watch(self.function, *(a for a in arguments if not isinstance(as_array(a), np.ndarray)))
        me, generator = threading.get_ident(), default_generator()
        recorders[me] = recording
        try:
            result = self.function(*args, **kwargs)
        finally:
            del recorders[me]
        recording.finish(result)
        if default_generator() is not generator:
            recording.give_up("it seeds the random numbers")
        own.modules.update(recording.modules)
        own.look()
        key = key, own.in_eval
        before = found.recording if type(found) is Plan else found if isinstance(found, Recording) else None
        while len(own.plans) >= MOST_PLANS:
            own.plans.pop(next(iter(own.plans)))
        if own.misses.get(key, 0) >= MOST_MISSES:
            recording.give_up("what it uses is another object, or of another value, again and again")
        if recording.reason:
            own.plans[key] = None
            self._warn(recording.reason)
        elif before is None:
            own.plans[key] = recording
        else:
            steps, reason = agreed(before, recording)
            if reason:
                own.plans[key] = None
                self._warn(reason)
            else:
                plan = own.plans[key] = Plan(self.__name__, arguments, steps, recording)
                pins = before.arguments if isinstance(found, Recording) else dict(found.pins)
                plan.pins = [(i, pin) for i, pin in pins.items() if equal(recording.arguments[i], pin)]
                recording.arguments = {}
        return result

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"replay of {self.__name__}: it stays eager, {reason}", RuntimeWarning, stacklevel=4)


def replay(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, whose calls are recorded twice, and from then on replayed: the same bits in less time.

    function: takes arrays, Tensors and constants, and returns one Tensor that it computes with ops; a Module will do,
    too. Also a decorator, @tb.replay. What is returned is called as the function is, and gives an ordinary tensor:
    gradients flow to the arguments that require them, and to parameters. Running statistics move, batches are
    counted, dropout draws, labels are checked, as always.

    The first two calls run as always, and are recorded. So is what comes with other shapes or dtypes, other constants,
    in another mode (train, eval, no_grad), or after a change of a module: an attribute, a parameter, a hook, a dtype.
    Where the two recordings differ, the function stays as it is, eager, and a RuntimeWarning says why, once: it works
    on arrays with NumPy, draws random numbers on its own, reads values (x.item(), if (x > 0).any()), takes gradients,
    assigns attributes. ``tb.fresh(function, ...)`` marks a call that is to be made anew each time. Inside trace(), and
    where modules have hooks (nn.Watch), it is eager, too.

    What is not seen, since it was the same in both recordings and no op shows it: a branch that depends on values in
    the arrays handed in and went the same way twice; a list or dict that is changed in place; prints and other side
    effects, which are not repeated. A number that changes from step to step is an argument, or it is read by ``fresh``.
    A parameter that is used in the function and outside of it, before one backward(), may get its gradients in another
    order of addition. Each thread has recordings of its own.
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
