"""A fuzzer: calls of everything public (fuzz_targets.py) with valid arguments of which one or two were corrupted.

    python tests/harness/fuzzing.py --calls 50000 --seed 0        the figures, and every failure with what reproduces it
    python tests/harness/fuzzing.py --only F.batch_norm 17        one case: its arguments and what became of it

A case is a target's name and a number: the same two give the same call. A call must be correct or refused.

Refused: ValueError or TypeError (or what the target's docstring says besides) whose message names an argument. Nothing
has changed: not the arguments, nor a module, optimizer, schedule, loader or scaler behind them, nor the random numbers.

Correct: the same call on clean copies of the arguments (C order, native bytes, aligned, writable, Python's numbers)
gives the same, gradients included, and leaves the same in what is meant to change; so does the target's formula in
NumPy and float64, where it has one, and where it refuses the arguments, the call had to; float32 stays float32 and
float64 float64, and the two are never mixed; no argument was written to but those that are meant to be, not by the
backward either, which gets its gradient in an unusual layout.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import itertools
import math
import os
import random
import re
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.engine.tensors import Tensor

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
HANG = 60.0  # seconds without a new case, after which the stacks are printed and the process ends
MODERATE = 1e3  # magnitudes up to which rounding is what the tolerances below stand for
TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Call:
    """fn(*args.values(), **kw), and what may be expected of it."""

    fn: Callable[..., Any]
    args: dict[str, Any] = field(default_factory=dict)
    kw: dict[str, Any] = field(default_factory=dict)
    formula: Callable[..., Any] | None = None  # the same in NumPy, on float64
    words: tuple[str, ...] = ()  # what an error may name besides arguments: attributes, the op
    errors: tuple[type, ...] = ()  # documented besides ValueError and TypeError
    inplace: tuple[str, ...] = ()  # arguments that are meant to change
    state: tuple[Any, ...] = ()  # objects that must not have changed after an error
    own: tuple[str, ...] = ()  # arguments that are never replaced by something of another kind (self)
    keep: tuple[str, ...] = ()  # arguments that cannot be copied: computed tensors, what is saved as it is
    prepare: Callable[[Call], None] = lambda call: None  # what must be done before, once arguments are corrupted
    converts: bool = False  # whether other dtypes in than out are the purpose

    def __call__(self) -> Any:
        return self.fn(*self.args.values(), **self.kw)

    def values(self) -> list[Any]:
        return [*self.args.values(), *self.kw.values()]

    def named(self) -> Iterator[tuple[dict[str, Any], str]]:
        for place in (self.args, self.kw):
            for name in place:
                yield place, name


Builder = Callable[["World"], Call]


class World:
    """Random valid arguments."""

    def __init__(self, name: str, number: int) -> None:
        self.rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        self.random = random.Random(f"{name} {number}")
        self.dtype = self.rng.choice([np.float32, np.float64])
        self.n, self.c, self.h, self.w = 2 + self.below(4), 1 + self.below(4), 2 + self.below(4), 2 + self.below(4)

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))

    def coin(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *values: Any) -> Any:
        return values[self.below(len(values))]

    def shape(self, least: int = 0, most: int = 4) -> tuple[int, ...]:
        return tuple(1 + self.below(4) for _ in range(least + self.below(most - least + 1)))

    def array(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.standard_normal(shape), self.dtype)

    def positive(self, *shape: int) -> np.ndarray:
        return np.asarray(np.abs(self.rng.standard_normal(shape)) + 0.1, self.dtype)

    def tensor(self, *shape: int) -> Tensor:
        return Tensor(self.array(*shape), requires_grad=self.coin())

    def above_zero(self, *shape: int) -> Tensor:
        return Tensor(self.positive(*shape), requires_grad=self.coin())

    def either(self, *shape: int) -> Any:
        return self.tensor(*shape) if self.coin(0.7) else self.array(*shape)

    def maybe(self, value: Any) -> Any:
        return value if self.coin() else None

    def classes(self, n: int, most: int) -> np.ndarray:
        return self.rng.integers(0, most, n)


# Corruptions


class Plain(np.ndarray):
    """A subclass that changes nothing."""


def misaligned(a: np.ndarray) -> np.ndarray:
    memory = np.empty(a.nbytes + 1, np.uint8)[1:]
    if not a.size or a.dtype.hasobject:
        return a
    b = memory.view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def strided(a: np.ndarray) -> np.ndarray:
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 7, a.dtype) if a.ndim else a
    if a.ndim:
        wide[..., ::2] = a
        return wide[..., ::2]
    return a


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def reversed_axis(a: np.ndarray) -> np.ndarray:
    return a[::-1].copy()[::-1] if a.ndim else a


LAYOUTS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: np.array(a, order="F"),
    lambda a: a.T.copy().T,
    strided,
    reversed_axis,
    read_only,
    misaligned,
    lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a,
    lambda a: a.astype(a.dtype.newbyteorder()),
)
SUBCLASSES: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda a: a.view(Plain),
    lambda a: a.reshape(a.shape or (1, 1)).view(np.matrix) if a.ndim <= 2 else a.view(Plain),
    lambda a: np.ma.masked_array(a, mask=np.arange(a.size).reshape(a.shape) % 2 == 0),
)
DTYPES = ("int8", "uint64", "int64", "float16", "float32", "float64", "longdouble", "complex64", "complex128")
DTYPES += ("bool", "object", "U4", "S4", "M8[s]", "m8[s]")
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e308, -1e308, 1e38, 1e-310, 5e-324, 1e4)
HUGE = (2**53, 10**18, 2**63, 2**64, -(2**63), -(10**30), 10**30, 10**400)  # none that a computer would just try


def recursive() -> list:
    a: list = []
    a.append(a)
    return a


JUNK: tuple[Callable[[], Any], ...] = (
    *(lambda v=v: v for v in (None, "", "abc", b"x", "1", 0, 3, -1, True, False, 1.5, math.nan, math.inf, 2 + 3j)),
    *(lambda v=v: v for v in (10**30, 10**400, Ellipsis, NotImplemented, int, np.float32, Tensor, range(3), len, np)),
    lambda: [],
    lambda: [1.0],
    lambda: [[1.0], [1.0, 2.0]],
    lambda: (),
    lambda: (1, 2),
    lambda: {},
    lambda: {"a": 1},
    lambda: set(),
    lambda: slice(None),
    lambda: object(),
    lambda: iter([1.0]),
    lambda: (i for i in range(3)),
    lambda: memoryview(b"abcd"),
    lambda: bytearray(8),
    recursive,
    lambda: np.float64(2.0),
    lambda: np.int8(2),
    lambda: np.bool_(True),
    lambda: np.complex64(1j),
    lambda: np.str_("a"),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.longdouble(1),
    lambda: np.float16(1),
    lambda: np.array(None),
    lambda: np.array("a"),
    lambda: np.array([]),
    lambda: np.array(1.0),
    lambda: np.array([1, 2]),
    lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    lambda: Tensor(np.array(3.0, np.float32)),
    lambda: Tensor(np.ones((2, 2)), requires_grad=True),
    lambda: nn.Parameter(np.ones(3, np.float32)),
    lambda: nn.ReLU(),
)


def corrupt(w: World, value: Any, own: bool = False) -> Any:
    """Something like value that is not quite it, or something else altogether (not if own)."""
    if not own and w.coin(0.15):
        return w.pick(*JUNK)()
    if isinstance(value, Tensor):
        data = corrupt_array(w, value.data)
        if own and (not isinstance(data, np.ndarray) or data.dtype not in FLOATS or type(data) is not np.ndarray):
            data = LAYOUTS[w.below(6)](value.data)
        if isinstance(data, np.ndarray) and type(data) is np.ndarray and data.dtype in FLOATS and (own or w.coin(0.8)):
            kind = nn.Parameter if isinstance(value, nn.Parameter) else Tensor
            return kind(data, value.requires_grad)
        return data
    if isinstance(value, np.ndarray):
        return corrupt_array(w, value)
    if isinstance(value, (bool, np.bool_)):
        return w.pick(int(value), not value, np.bool_(value), "no", None, np.array(value), float(value))
    if isinstance(value, int):
        value = value if abs(value) < 2**53 else 3
        other = (0, -1, 1, 2, 7, value + 1, value - 1, -value, bool(value), float(value), value + 0.5, math.nan)
        numpy = (np.int64(value), np.int8(value % 100), np.uint64(abs(value)), np.float32(value), np.array(value))
        return w.pick(*other, *numpy, *HUGE, np.array([value]), str(value), (value, value), [value], None)
    if isinstance(value, float):
        value = value if math.isfinite(value) else 3.0
        with np.errstate(over="ignore"):
            numpy = (np.float64(value), np.float32(value), np.float16(value), np.longdouble(value), np.array(value))
        return w.pick(*SPECIAL, *HUGE, *numpy, -value, value + 1, int(value), str(value), [value], True, 1j, None)
    if isinstance(value, str):
        return w.pick("", value.upper(), value + "x", value.encode(), list(value), np.str_(value), "\0", "é" * 3000)
    if isinstance(value, (list, tuple)):
        return corrupt_sequence(w, value)
    if isinstance(value, dict):
        return corrupt_dict(w, value)
    return w.pick(*JUNK)() if not own else value


def corrupt_array(w: World, a: np.ndarray) -> Any:
    how = w.below(9)
    if how <= 1:  # shape
        axis = w.below(a.ndim) if a.ndim else 0
        shorter = a[0] if a.ndim and len(a) else a
        return w.pick(
            a.reshape(-1),
            a[None],
            a[..., None],
            shorter,
            a.T,
            a.reshape(-1)[0] if a.size else a,
            np.concatenate([a, a], axis=axis) if a.ndim else a,
            np.delete(a, 0, axis=axis) if a.ndim and a.shape[axis] else a,
            np.take(a, [], axis=axis) if a.ndim else a,
            np.zeros((0,) * a.ndim, a.dtype),
            np.zeros((1,) * 33, a.dtype),
        )
    if how <= 3:  # dtype
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return a.astype(w.pick(*DTYPES))
            except (TypeError, ValueError, OverflowError, RuntimeError):  # of integers no dates, and so on
                return a.astype(object)
    if how <= 5 and a.dtype.kind in "fiu" and a.size:  # values
        b = np.array(a)
        at = w.rng.integers(0, a.size, w.pick(1, 1, a.size))
        if a.dtype.kind == "f":
            with np.errstate(over="ignore"):
                b.reshape(-1)[at] = np.asarray(w.pick(*SPECIAL)).astype(a.dtype)
        else:
            info = np.iinfo(a.dtype)
            if w.coin(0.2):  # labels, some of which are missing
                b = b.astype(w.pick(np.float32, np.float64))
                b.reshape(-1)[at] = math.nan
                return b
            # the first number beyond the classes, at either end, is the likeliest mistake
            beyond = min(int(a.max()) + 1, info.max), -1 if info.min else 1
            b.reshape(-1)[at] = w.pick(0, *beyond, info.max, info.min, 100, -100 if info.min else 50)
        return b
    if how <= 6:
        return w.pick(*LAYOUTS)(a)
    if how == 7:
        return w.pick(*SUBCLASSES)(a)
    others: list[Callable[[], Any]] = [a.tolist, lambda: tuple(a.tolist()) if a.ndim else a, lambda: iter(a.tolist())]
    if a.dtype in FLOATS:
        others += [lambda: Tensor(np.array(a), w.coin()), lambda: nn.Parameter(np.array(a))]
    return w.pick(*others)() if a.ndim else a.item()


def corrupt_sequence(w: World, value: Any) -> Any:
    items = list(value)
    how = w.below(5)
    if how <= 1 and items:
        i = w.below(len(items))
        items[i] = corrupt(w, items[i])
        return type(value)(items)
    if how == 2:
        return type(value)(items[:-1]) if items and w.coin() else type(value)([*items, *items[:1]])
    return w.pick(
        items,
        tuple(items),
        iter(items),
        (i for i in items),
        dict(enumerate(items)),
        items[0] if items else None,
        type(value)(),
        type(value)([value]),
        np.array(len(items), dtype=object),
        "ab",
    )


def corrupt_dict(w: World, value: dict) -> Any:
    result, how = dict(value), w.below(5)
    if how <= 2 and result:
        key = w.pick(*result)
        result[key] = corrupt(w, result[key])
    elif how == 3 and result:
        del result[w.pick(*result)]
    else:
        result[w.pick("abc", 0, None, 1.5, (), "params")] = w.pick(*JUNK)()
    return result


# What an object holds, to be compared


def freeze(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Everything that can be told about value, in terms that == compares and that later changes do not reach."""
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, Tensor):
        return (type(value).__name__, freeze(value.data), freeze(value.grad, seen), value.requires_grad)
    if isinstance(value, np.ndarray):
        raw = np.asarray(value)
        return (type(value).__name__, str(raw.dtype), raw.shape, raw.tobytes() if raw.dtype != object else repr(raw))
    if isinstance(value, np.generic):
        return (type(value).__name__, value.tobytes())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, dict):
        return ("dict", tuple((repr(k), freeze(v, seen)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, tuple(freeze(v, seen) for v in value))
    if hasattr(value, "__dict__") and type(value).__module__.startswith(("tinygrad_bn", "fuzz")):
        # the counter of hooks only ever counts up
        return (type(value).__name__, freeze({k: v for k, v in vars(value).items() if k != "_hooks_so_far"}, seen))
    return repr(value)


def clean(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """The same values in plain objects of their own; a tensor that is there twice is there twice again."""
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = type(value)(clean(value.data), value.requires_grad)
            copies[id(value)].grad = clean(value.grad, copies)
        return copies[id(value)]
    if isinstance(value, np.ndarray):
        return np.array(value, dtype=value.dtype.newbyteorder("="), order="C", subok=False)
    if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype != np.longdouble:
        return value.item()
    if type(value) in (list, tuple):
        return value if value and value[0] is value else type(value)(clean(v, copies) for v in value)
    if type(value) is dict:
        return {k: clean(v, copies) for k, v in value.items()}
    return value


def arrays_in(value: Any, depth: int = 0) -> Iterator[np.ndarray]:
    if isinstance(value, Tensor):
        yield value.data
    elif isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (list, tuple)) and depth < 3:
        for v in value:
            yield from arrays_in(v, depth + 1)
    elif isinstance(value, dict) and depth < 3:
        for v in value.values():
            yield from arrays_in(v, depth + 1)


def describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{type(value).__name__}({describe(value.data)}, requires_grad={value.requires_grad})"
    if isinstance(value, np.ndarray):
        flags = [k for k in ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE") if not value.flags[k]]
        lacks = f", not {' '.join(flags)}" if flags else ""
        text = np.array2string(np.asarray(value), separator=", ", threshold=24).replace("\n", "")[:400]
        return f"{type(value).__name__}({text}, {value.dtype}, shape {value.shape}{lacks})"
    if isinstance(value, (list, tuple)) and not (value and value[0] is value):
        return f"{type(value).__name__}({', '.join(map(describe, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
    return "an int of many digits" if type(value) is int and abs(value) > 10**100 else f"{value!r:.300}"


# One case

PRIMITIVES = (tb.absolute, tb.exp, tb.log, tb.matmul, tb.maximum, tb.minimum, tb.sqrt, tb.where)


class Failure(Exception):
    """The call was neither correct nor refused as it should be."""


def build(target: Builder, name: str, number: int) -> Call:
    """The call of this name and number; two of these share nothing."""
    tb.manual_seed(number)
    w = World(name, number)
    call = target(w)
    places = list(call.named())
    if places and number % 20:  # one in twenty stays valid
        for _ in range(1 + w.coin(0.3)):
            place, argument = places[w.below(len(places))]
            place[argument] = corrupt(w, place[argument], argument in call.own)
    call.prepare(call)
    tb.manual_seed(number)
    return call


def names(call: Call, message: str) -> bool:
    written = [str(v) for v in call.values() if isinstance(v, (str, Path)) and len(str(v)) > 2]
    if any(v in message for v in written) or message.startswith(
        tuple(f"{v}: " for v in call.values() if isinstance(v, str))
    ):
        return True
    words = {*call.args, *call.kw, *call.words} - {"self"}
    words |= {getattr(call.fn, "__name__", "fn")} - {"fn", "<lambda>"}
    words |= {"x"} if "input" in words else set()  # what a layer is called with is the x of its function
    # one letter may be a word of the sentence
    ends = {word: "(?= must|:| is)" if len(word) == 1 else r"(?!\w)" for word in words}
    return any(re.search(rf"(?<!\w){re.escape(word)}{end}", message) for word, end in ends.items())


def run(target: Builder, name: str, number: int) -> str:
    """ "correct" or "refused"; raises Failure."""
    call = build(target, name, number)
    ours = [v for k in ("x", "a", "b", "condition") if k in call.args for v in [call.args[k]]]
    arrays = call.args.get("arrays")
    ours += arrays if isinstance(arrays, (list, tuple)) else []
    if name.startswith("np.") and not any(isinstance(v, Tensor) for v in ours):
        return "left out"  # NumPy's function without a Tensor is NumPy's alone
    held = (call.args, call.kw, call.state)
    before, numbers = freeze(held), freeze(tb.get_rng_state())
    threads, recording = tb.get_num_threads(), tb.is_grad_enabled()
    try:
        with strict():
            result = call()
    except (Exception, RecursionError) as error:
        refused(call, error)
        if freeze(held) != before:
            raise Failure(f"{error!r:.300}, but an argument, or what is behind it, has changed") from error
        if freeze(tb.get_rng_state()) != numbers:
            raise Failure(f"{error!r:.300}, but random numbers were drawn") from error
        if tb.get_num_threads() != threads or tb.is_grad_enabled() != recording:
            raise Failure(f"{error!r:.300}, but a setting has changed") from error
        return "refused"
    finally:
        tb.set_num_threads(threads)
    after = {**call.args, **call.kw}
    for (argument, value), old in zip(after.items(), [i for _, i in [*before[1][0][1], *before[1][1][1]]], strict=True):
        if argument not in call.inplace and freeze(value) != old:
            raise Failure(f"wrote into {argument}")
    check_result(call, result, lambda: build(target, name, number))
    return "correct"


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Warnings are errors, but those of floating-point arithmetic, which are NumPy's way to say inf and NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", "(overflow|invalid value|divide by zero|underflow|Degrees of|Mean of)", RuntimeWarning
        )
        yield


def refused(call: Call, error: BaseException) -> None:
    kind = type(error)
    if not isinstance(error, (ValueError, TypeError, *call.errors)) or kind.__module__.startswith("numba"):
        raise Failure(f"{kind.__name__}: {error}") from error
    if not names(call, str(error)) and not isinstance(error, call.errors):
        raise Failure(f"no argument is named in {kind.__name__}: {error}") from error


def check_result(call: Call, result: Any, again: Callable[[], Call]) -> None:
    found = list(arrays_in(result))
    given = [a for v in call.values() for a in arrays_in(v)]
    widths = {a.dtype for a in given if a.dtype in FLOATS}
    if not call.converts:
        if len(widths) > 1 and any(a.dtype.kind == "f" for a in found):
            raise Failure(f"took float32 and float64 together, gave {[str(a.dtype) for a in found]}")
        recorded = any(list(tensors_in(v)) for v in call.args.values())
        primitive = call.fn in PRIMITIVES  # on arrays alone NumPy's rules hold
        for a in found if recorded or not primitive else ():
            if type(a) is not np.ndarray or (a.dtype.kind in "fcO" and a.dtype not in (widths or FLOATS)):
                raise Failure(
                    f"gave {type(a).__name__} of {a.dtype} for {[f'{type(g).__name__} {g.dtype}' for g in given]}"
                )

    # The same call on clean copies. Extreme values may overflow in one order of summation and not in another.
    numbers = [v for v in call.values() if isinstance(v, (int, float, np.integer, np.floating))]
    numbers = [v for v in numbers if not isinstance(v, np.timedelta64)]  # which NumPy counts among the integers
    values = [np.asarray(a, np.float64) for a in given if a.dtype.kind in "fiub"]
    small = all(np.isfinite(v).all() and np.abs(v).max(initial=0) <= MODERATE for v in values)
    moderate = small and all(abs(v) <= MODERATE for v in numbers)
    other, copies = again(), {}
    for place, argument in other.named():
        if argument not in other.keep:
            place[argument] = clean(place[argument], copies)
    other.prepare(other)
    try:
        with strict():
            expected = other()
    except Exception as error:
        raise Failure(f"is correct, but on clean copies it raises {error!r:.300}") from error
    for a, b in zip(changing(call), changing(other), strict=True):
        compare(a, b, moderate, "with clean copies there remains")
    gradients = pull_back(call, result, strided), pull_back(other, expected, np.copy)
    for a, b in zip(found, list(arrays_in(expected)), strict=True):
        compare(a, b, moderate, "on clean copies it gives")
    for a, b in zip(*gradients, strict=True):
        compare(a, b, moderate, "on clean copies the gradient is")

    # (a comparison of a float32 with a number depends on how the number is rounded)
    comparable = moderate and found and found[0].size and found[0].dtype.kind in ("fiub" if not numbers else "f")
    comparable = comparable and all(v == 0 or abs(v) >= TINY for v in numbers)  # float32 makes 1e-310 a zero
    if call.formula is not None and found and found[0].size:
        wide = again()
        arguments = [to_double(clean(v)) for v in wide.args.values()]
        keywords = {k: to_double(clean(v)) for k, v in wide.kw.items()}
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reference = np.asarray(wide.formula(*arguments, **keywords), np.float64)
        except Exception as error:
            if comparable or isinstance(error, (ValueError, TypeError)):
                raise Failure(f"is correct, but NumPy's formula raises {error!r:.300}") from error
            return
        if not comparable:
            return
        if found[0].shape != reference.shape:
            raise Failure(f"gave shape {found[0].shape}, NumPy {reference.shape}")
        tolerance = 1e-3 if np.float32 in widths or found[0].dtype == np.float32 else 1e-8
        scale = max(1.0, float(np.abs(reference[np.isfinite(reference)]).max(initial=0)))
        with np.errstate(all="ignore"):
            close = np.allclose(found[0], reference, tolerance, tolerance * scale, equal_nan=True)
        if not close:
            raise Failure(f"gave {describe(found[0])}, NumPy's formula {describe(reference)}")


def to_double(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.data
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return type(value)(to_double(v) for v in value) if type(value) in (list, tuple) else value


def changing(call: Call) -> list[np.ndarray]:
    """The arrays that the call is meant to change."""
    named = {**call.args, **call.kw}
    return [a for name in call.inplace if name in named for a in arrays_in(named[name])]


def pull_back(call: Call, result: Any, layout: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """The gradients of the arguments, at a random cotangent; backward() of what was computed must work."""
    outputs = [t for t in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(t, Tensor)]
    if len(outputs) != 1 or not outputs[0].requires_grad or outputs[0].is_leaf:
        return []
    (y,) = outputs
    leaves = [t for v in call.values() for t in tensors_in(v) if t.requires_grad and t.is_leaf]
    dy = layout(np.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype))
    for t in leaves:
        t.grad = None
    before = freeze([dy, *(a for v in call.values() for a in arrays_in(v))])
    try:
        with strict():
            y.backward(dy)
    except Exception as error:
        raise Failure(f"backward() raises {error!r:.300}") from error
    if freeze([dy, *(a for v in call.values() for a in arrays_in(v))]) != before:
        raise Failure("backward() wrote into an argument, or into the gradient it was given")
    for t in leaves:
        if t.grad is not None and (t.grad.shape != t.shape or t.grad.dtype != t.dtype):
            raise Failure(f"a gradient is {t.grad.dtype} {t.grad.shape}, of a tensor {t.dtype} {t.shape}")
    return [t.grad for t in leaves if t.grad is not None]


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)) and depth < 3:
        for v in value:
            yield from tensors_in(v, depth + 1)


def compare(a: Any, b: Any, moderate: bool, what: str) -> None:
    if a.dtype.newbyteorder("=") != b.dtype.newbyteorder("=") or a.shape != b.shape:
        raise Failure(f"gave {a.dtype} {a.shape}, {what} {b.dtype} {b.shape}")
    a, b = (np.asarray(v).astype(v.dtype.newbyteorder("=")) for v in (a, b))  # a matrix cannot have three axes
    if a.tobytes() == b.tobytes() or not moderate or a.dtype.kind != "f":
        if a.dtype.kind != "f" and a.tobytes() != b.tobytes() and a.dtype != object:
            raise Failure(f"gave {describe(a)}, {what} {describe(b)}")
        return
    scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0)))
    tolerance = 1e3 * float(np.finfo(a.dtype).eps)
    with np.errstate(all="ignore"):
        close = np.allclose(a, b, tolerance, tolerance * scale, equal_nan=True)
    if not close:
        raise Failure(f"gave {describe(a)}, {what} {describe(b)}")


# Many cases


@dataclass
class Report:
    counts: collections.Counter = field(default_factory=collections.Counter)
    per_target: dict[str, collections.Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.counts.values())
        shares = ", ".join(f"{100 * n / total:.1f} % {what}" for what, n in sorted(self.counts.items()))
        return f"{total:,} calls of {len(self.per_target)} targets: {shares}"


def fuzz(targets: dict[str, Builder], calls: int, seed: int, most_failures: int = 1000) -> Report:
    """So many calls, the targets in turn; numbers of different seeds do not meet below a million calls per target."""
    faulthandler.enable()  # says where, if the process crashes
    report, order = Report(), list(targets)
    first = seed * 1_000_000
    try:
        for i in itertools.count():
            faulthandler.dump_traceback_later(HANG, exit=True)
            name, number = order[i % len(order)], first + i // len(order)
            try:
                outcome = run(targets[name], name, number)
            except Exception as failure:  # not only Failure: an oracle that stumbles over a result is told as well
                outcome = "FAILED"
                report.failures.append(f"python tests/harness/fuzzing.py --only {name} {number}: {failure!r:.1500}")
            if outcome == "left out":
                continue
            report.counts[outcome] += 1
            report.per_target.setdefault(name, collections.Counter())[outcome] += 1
            if sum(report.counts.values()) >= calls or len(report.failures) >= most_failures:
                break
    finally:
        faulthandler.cancel_dump_traceback_later()
    return report


def main() -> int:
    from fuzz_targets import FOLDER, TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar=("TARGET", "NUMBER"))
    options = parser.parse_args()
    os.chdir(FOLDER)  # some arguments are names of files
    if options.only and len(options.only) == 2:
        name, number = options.only[0], int(options.only[1])
        call = build(TARGETS[name], name, number)
        for argument, value in {**call.args, **call.kw}.items():
            print(f"{argument} = {describe(value)}")
        print(run(TARGETS[name], name, number))
        return 0
    targets = {options.only[0]: TARGETS[options.only[0]]} if options.only else TARGETS
    start = time.perf_counter()
    report = fuzz(targets, options.calls, options.seed)
    for line in report.failures:
        print(line)
    never = [name for name, counts in report.per_target.items() if not counts["correct"]]
    print(f"{report}, in {time.perf_counter() - start:.0f} s; never correct: {never}")
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
