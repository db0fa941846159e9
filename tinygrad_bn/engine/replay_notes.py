"""What a forward does that is not an op; and who takes notes of it, and of the ops, for replay.py.

Nearly always nobody does: then ``recorders`` is empty, and that is all that an op asks.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from .operators import Operators

READS = "it reads the values of a tensor: compute with the tensor, or by tb.fresh(function, tensor)"
CHANGES = "it changes a tensor in place"

recorders: dict[int, Any] = {}  # thread -> the Recording that is made in it


class Observed:
    """An object whose attributes decide what a forward does: a Module. Each assignment of another value counts."""

    assigned: ClassVar[int] = 0
    training: bool
    _hooks: dict[int, Any]
    _pre_hooks: dict[int, Any]

    def _observe(self) -> None:
        """For a recording, when the module is called: its attributes belong to what has to stay as it is."""
        if (recording := recorders.get(threading.get_ident())) is not None:
            if id(self) not in recording.modules:
                recording.watch(self)
            if self._hooks or self._pre_hooks:
                recording.give_up(f"{type(self).__name__} has hooks")

    def _assigned(self, name: str) -> None:
        """An attribute became another, or a hook."""
        Observed.assigned += 1
        recording = recorders.get(threading.get_ident()) if recorders else None
        if recording is not None and id(self) in recording.modules:  # not one that is made by the way, as net[1:] is
            recording.give_up(f"it assigns {type(self).__name__}.{name}")


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args): what is new in each forward and has no gradient, such as a dropout mask, or a count of batches.

    Tensors among args are handed over as their arrays. A replay calls the function again, in its place among the ops; a
    plain call would be seen only by its result, which then would have to be the same each time. The function may change
    what it owns: draw random numbers, count. What it returns is an array, a tuple of arrays, a float, or None.

    >>> noise = np.random.default_rng(0)
    >>> x = tb.tensor([1.0, 2.0])
    >>> y = x + tb.fresh(lambda a: noise.normal(0, 1, a.shape).astype(a.dtype), x)
    >>> y.shape
    (2,)
    """
    return note(function, args, False)


def note(function: Callable[..., Any], args: tuple[Any, ...], decides: bool) -> Any:
    """The call, for who takes notes. decides: its result makes sense only where a later op uses it."""
    if recorders and (recording := recorders.get(threading.get_ident())) is not None:
        return recording.run_fresh(function, args, decides)
    return function(*[a._data if isinstance(a, Operators) else a for a in args])  # type: ignore[attr-defined]


def recorded(op: Any, run: Any, args: tuple[Any, ...], inputs: Any) -> Any:
    """run, the rule of the op; where this thread takes notes, one that notes the call."""
    recording = recorders.get(threading.get_ident())
    return run if recording is None else functools.partial(recording.run_op, op, run, args, inputs)


def note_detached(result: Any, source: Any) -> None:
    """result is a tensor on the array of source."""
    if recorders and (recording := recorders.get(threading.get_ident())) is not None:
        recording.detached(result, source)


def note_number(value: Any) -> None:
    """An op was given one of NumPy's numbers, which may have been computed from arrays."""
    if recorders and (recording := recorders.get(threading.get_ident())) is not None:
        recording.number(value)


def unseen(what: str) -> None:
    """Something happens that no note can repeat."""
    if recorders and (recording := recorders.get(threading.get_ident())) is not None:
        recording.give_up(what)


def paused(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), of which no notes are taken: a rule is one step, whatever it calls."""
    me = threading.get_ident()
    recording = recorders.pop(me)
    try:
        return function(*args, **kwargs)
    finally:
        recorders[me] = recording
