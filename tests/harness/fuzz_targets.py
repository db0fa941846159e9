"""What the fuzzer calls: valid arguments for everything public, and where there is an easy one, its formula in NumPy.

public_names() finds what is public; a test compares it with TARGETS.
"""

from __future__ import annotations

import copy
import inspect
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Builder, Call, World

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import data, nn, optim, preprocessing
from tinygrad_bn.engine.operators import OPS, Operators
from tinygrad_bn.engine.tensors import Tensor

TARGETS: dict[str, Builder] = {}
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))  # emptied by whoever calls the fuzzer, see test_fuzz.py
PROTOCOL = ("__init__", "__module__", "__doc__", "__slots__", "__hash__", "__weakref__", "__repr__", "__setattr__")
PROTOCOL += ("__delattr__", "__setstate__")  # a pickle is code, and checked by nobody


def target(*names: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        for name in names:
            assert name not in TARGETS, name
            TARGETS[name] = builder
        return builder

    return register


def methods(kind: type, *, operators: bool = False) -> list[str]:
    """Public methods and properties that the class and its bases in this package define."""
    found = []
    for base in kind.__mro__:
        if not base.__module__.startswith("tinygrad_bn"):
            continue
        for name, value in vars(base).items():
            dunder = name.startswith("__") and operators and name not in PROTOCOL and not name.startswith("__array")
            if (dunder or not name.startswith("_")) and (callable(value) or isinstance(value, property)):
                found.append(name)
    return sorted(set(found))


def public_names() -> set[str]:
    names = {name for name in tb.__all__ if not inspect.ismodule(getattr(tb, name))}
    names |= {f"Tensor.{name}" for name in {*methods(Tensor, operators=True), *methods(Operators, operators=True)}}
    names |= {f"F.{name}" for name in F.__all__}
    for name in nn.__all__:
        if inspect.isclass(getattr(nn, name)):
            names.add(f"nn.{name}")
            if issubclass(getattr(nn, name), nn.Module) and getattr(nn, name) not in (nn.Module, nn.ModuleList):
                names.add(f"nn.{name}.forward")
        elif inspect.isfunction(getattr(nn, name)):
            names.add(f"nn.{name}")
    # (plots are Matplotlib's figures of what the other methods give, and take no other arguments)
    names |= {f"nn.Watch.{name}" for name in methods(nn.Watch) if not name.startswith("plot_")}
    names |= {f"nn.Module.{name}" for name in methods(nn.Module, operators=False)} - {"nn.Module.forward"}
    for container in (nn.Sequential, nn.ModuleList):
        own = {*methods(container, operators=True)} - {*methods(nn.Module, operators=True), "forward"}
        names |= {f"nn.{container.__name__}.{name}" for name in own}
    for module, prefix in ((nn.init, "nn.init"), (nn.utils, "nn.utils"), (nn.watch, "nn.watch")):
        here = [(n, v) for n, v in vars(module).items() if not n.startswith("_") and inspect.isfunction(v)]
        names |= {f"{prefix}.{n}" for n, v in here if v.__module__ == module.__name__}
    names |= {"optim.SGD"} | {f"optim.SGD.{name}" for name in methods(optim.SGD)}
    for n, v in vars(optim.lr_scheduler).items():
        ours = inspect.isclass(v) and v.__module__ == optim.lr_scheduler.__name__
        if ours and n != "LRScheduler" and not n.startswith("_"):
            names |= {f"optim.lr_scheduler.{n}"} | {f"optim.lr_scheduler.{n}.{m}" for m in methods(v)}
    names |= {f"data.{name}" for name in data.__all__}
    names |= {f"data.DataLoader.{name}" for name in [*methods(data.DataLoader), "__iter__", "__len__"]}
    for n, v in vars(preprocessing).items():
        if inspect.isclass(v) and v.__module__ == preprocessing.__name__ and not n.startswith("_"):
            names |= {f"preprocessing.{n}"} | {f"preprocessing.{n}.{m}" for m in methods(v)}
    return names | {f"np.{f.__name__}" for f in OPS if not isinstance(f, str)}


# Operators and NumPy functions


def unary(fn: Any, formula: Any, positive: bool = False) -> Builder:
    def builder(w: World) -> Call:
        x = (w.above_zero if positive else w.tensor)(*w.shape())
        return Call(fn, {"x": x}, formula=formula, words=(formula.__name__,), own=("x",) if fn in METHODS else ())

    return builder


def binary(fn: Any, formula: Any, positive: bool = False, swapped: bool = False, name: str = "") -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(0, 3)
        other = tuple(1 if w.coin(0.3) else n for n in shape[w.below(len(shape) + 1) :])
        a, b = ((w.above_zero if positive else w.tensor)(*s) for s in (shape, other))
        b = w.pick(b, b.detach().numpy(), 2, 0.5, np.float32(1.5))
        if not isinstance(b, Tensor) and swapped:
            b = b if isinstance(b, (int, float)) else w.tensor(*other)
        return Call(
            fn,
            {"a": a, "b": b},
            formula=(lambda a, b: formula(b, a)) if swapped else formula,
            words=(name or formula.__name__, "broadcast", "sequence"),  # NumPy's error for shapes shows both of them
            own=("a",) if fn in METHODS else (),
        )

    return builder


METHODS = {f for c in (Operators, Tensor) for f in vars(c).values() if callable(f)}
UNARY = {"exp": 0, "log": 1, "sqrt": 1, "tanh": 0, "absolute": 0, "negative": 0}
for _name, _positive in UNARY.items():
    _np = getattr(np, _name)
    TARGETS[f"np.{_name}"] = unary(_np, _np, bool(_positive))
    if _name in tb.__all__:
        TARGETS[_name] = unary(getattr(tb, _name), _np, bool(_positive))
for _name, _np in (("exp", np.exp), ("log", np.log), ("sqrt", np.sqrt), ("abs", np.absolute)):
    TARGETS[f"Tensor.{_name}"] = unary(getattr(Tensor, _name), _np, _name in ("log", "sqrt"))
TARGETS["Tensor.__neg__"] = unary(Tensor.__neg__, np.negative)
TARGETS["Tensor.__abs__"] = unary(Tensor.__abs__, np.absolute)

BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power}
for _name, _np in BINARY.items():
    TARGETS[f"np.{_np.__name__}"] = binary(_np, _np, _name in ("truediv", "pow"))
    TARGETS[f"Tensor.__{_name}__"] = binary(getattr(Tensor, f"__{_name}__"), _np, _name in ("truediv", "pow"))
    _reverse = getattr(Tensor, f"__r{_name}__")
    TARGETS[f"Tensor.__r{_name}__"] = binary(_reverse, _np, _name in ("truediv", "pow"), True)
for _name in ("maximum", "minimum"):
    TARGETS[_name] = binary(getattr(tb, _name), getattr(np, _name))
    TARGETS[f"np.{_name}"] = binary(getattr(np, _name), getattr(np, _name))
COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
for _name, _np in COMPARE.items():
    TARGETS[f"np.{_np.__name__}"] = binary(_np, _np)
    TARGETS[f"Tensor.__{_name}__"] = binary(getattr(Tensor, f"__{_name}__"), _np)
for _name in ("sign", "isnan", "shape", "ndim", "size"):
    TARGETS[f"np.{_name}"] = unary(getattr(np, _name), getattr(np, _name))


def product(fn: Any, swapped: bool = False) -> Builder:
    def builder(w: World) -> Call:
        k, stack = w.c, w.shape(0, 1)
        left = w.pick((k,), (w.h, k), (*stack, w.h, k))
        right = w.pick((k,), (k, w.w), (*stack, k, w.w))
        a, b = (w.tensor(*right), w.array(*left)) if swapped else (w.tensor(*left), w.either(*right))
        formula = (lambda a, b: np.matmul(b, a)) if swapped else np.matmul
        own = ("a",) if fn in METHODS else ()
        return Call(fn, {"a": a, "b": b}, formula=formula, words=("matmul", "broadcast"), own=own)

    return builder


TARGETS["matmul"] = TARGETS["np.matmul"] = product(tb.matmul)
TARGETS["np.matmul"] = product(np.matmul)
TARGETS["Tensor.__matmul__"] = product(Tensor.__matmul__)
TARGETS["Tensor.__rmatmul__"] = product(Tensor.__rmatmul__, True)


def in_place(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(0, 3)
        a = Tensor(w.positive(*shape))
        b = w.pick(Tensor(w.positive(*shape)), w.positive(*shape[1:]), 2, 0.5, np.float64(2))
        # RuntimeError: documented for what requires grad
        args = {"self": a, "value": b}
        return Call(
            fn,
            args,
            formula=formula,
            words=("broadcast", "data"),
            errors=(RuntimeError,),
            inplace=("self",),
            own=("self",),
        )

    return builder


for _name, _np in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("truediv", np.divide)):
    TARGETS[f"Tensor.__i{_name}__"] = in_place(getattr(Tensor, f"__i{_name}__"), _np)


def reduction(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        x = w.tensor(*w.shape(1, 4))
        axis = w.pick(None, 0, -1, x.ndim - 1, (0,), tuple(range(x.ndim)))
        kw = {"axis": axis, "keepdims": w.coin()}
        if formula in (np.var, np.std):
            kw["ddof"] = w.below(2)

        def reference(x: Any, axis: Any, keepdims: Any, **more: Any) -> Any:
            result = formula(x, axis=axis, keepdims=bool(keepdims), **more)
            return result if formula not in (np.var, np.std) else np.where(np.isfinite(result), result, np.nan)

        own = ("x",) if fn in METHODS else ()
        return Call(fn, {"x": x}, kw, formula=reference, words=(formula.__name__, "zero-size"), own=own)

    return builder


for _name in ("sum", "mean", "var", "std", "max", "min"):
    TARGETS[f"np.{_name}"] = reduction(getattr(np, _name), getattr(np, _name))
    TARGETS[f"Tensor.{_name}"] = reduction(getattr(Tensor, _name), getattr(np, _name))
TARGETS["np.amax"], TARGETS["np.amin"] = TARGETS["np.max"], TARGETS["np.min"]


def place(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        x = w.tensor(*w.shape(1, 4))
        kw = {"axis": w.pick(None, 0, -1, x.ndim - 1), "keepdims": w.coin()}
        reference = lambda x, axis, keepdims: formula(x, axis=axis, keepdims=bool(keepdims))
        own = ("x",) if fn in METHODS else ()
        return Call(fn, {"x": x}, kw, formula=reference, words=(formula.__name__, "empty sequence"), own=own)

    return builder


for _name in ("argmax", "argmin"):
    TARGETS[f"np.{_name}"] = place(getattr(np, _name), getattr(np, _name))
    TARGETS[f"Tensor.{_name}"] = place(getattr(Tensor, _name), getattr(np, _name))


# Shape


@target("Tensor.reshape")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(
        Tensor.reshape, {"x": x, "shape": w.pick((6, w.c), (3, -1), -1, [2, 3 * w.c])}, formula=np.reshape, own=("x",)
    )


@target("np.reshape")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(np.reshape, {"x": x, "shape": w.pick((6, w.c), (3, -1), -1)}, formula=np.reshape, words=("reshape",))


@target("Tensor.transpose")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(
        Tensor.transpose,
        {"x": x, "axes": w.pick((2, 0, 1), (0, 1, -1), [1, 0, 2], None)},
        formula=np.transpose,
        own=("x",),
    )


@target("np.transpose")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(np.transpose, {"x": x, "axes": w.pick((2, 0, 1), None)}, formula=np.transpose, words=("transpose",))


@target("Tensor.swapaxes")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(
        Tensor.swapaxes, {"x": x, "axis1": w.below(3), "axis2": -1}, formula=np.swapaxes, own=("x",), words=("axis",)
    )


@target("np.swapaxes")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(
        np.swapaxes, {"x": x, "axis1": w.below(3), "axis2": -1}, formula=np.swapaxes, words=("swapaxes", "axis")
    )


def squeezed(fn: Any) -> Builder:
    def builder(w: World) -> Call:
        x = w.tensor(1, w.c, 1)
        own = ("x",) if fn in METHODS else ()
        return Call(
            fn, {"x": x}, {"axis": w.pick(None, 0, -1, (0, 2))}, formula=np.squeeze, own=own, words=("squeeze",)
        )

    return builder


TARGETS["np.squeeze"], TARGETS["Tensor.squeeze"] = squeezed(np.squeeze), squeezed(Tensor.squeeze)


@target("Tensor.flatten")
def _(w: World) -> Call:
    x = w.tensor(2, 3, w.c)
    return Call(Tensor.flatten, {"x": x, "start_dim": w.below(2), "end_dim": w.pick(-1, 1, 2)}, own=("x",))


@target("broadcast_to")
def _(w: World) -> Call:
    return Call(
        tb.broadcast_to,
        {"x": w.tensor(1, w.c), "shape": (w.n, 3, w.c)},
        formula=np.broadcast_to,
        words=("broadcast_to",),
    )


@target("np.broadcast_to")
def _(w: World) -> Call:
    return Call(
        np.broadcast_to,
        {"x": w.tensor(1, w.c), "shape": (w.n, 3, w.c)},
        formula=np.broadcast_to,
        words=("broadcast_to",),
    )


def joined(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(1, 3)
        arrays = [w.tensor(*shape) if i == 0 else w.either(*shape) for i in range(1 + w.below(3))]
        axis = w.pick(0, -1, len(shape) - 1)
        return Call(
            fn, {"arrays": w.pick(list, tuple)(arrays)}, {"axis": axis}, formula=formula, words=(formula.__name__,)
        )

    return builder


for _name in ("concatenate", "stack"):
    TARGETS[_name] = joined(getattr(tb, _name), getattr(np, _name))
    TARGETS[f"np.{_name}"] = joined(getattr(np, _name), getattr(np, _name))


@target("pad")
def _(w: World) -> Call:
    width = [(w.below(3), w.below(3)) for _ in range(2)]
    formula = lambda x, pad_width, value: np.pad(x, pad_width, constant_values=value)
    return Call(tb.pad, {"x": w.tensor(w.n, w.c), "pad_width": width}, {"value": 0.5}, formula=formula, words=("pad",))


def chosen(fn: Any) -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(0, 3)
        condition = w.rng.random(shape) < 0.5
        args = {"condition": np.asarray(condition), "a": w.tensor(*shape), "b": w.pick(w.either(*shape), 0, 0.5)}
        return Call(fn, args, formula=np.where, words=("where", "broadcast", "sequence"))

    return builder


TARGETS["where"], TARGETS["np.where"] = chosen(tb.where), chosen(np.where)


def clipped(fn: Any, method: bool = False) -> Builder:
    def builder(w: World) -> Call:
        args = {"x": w.tensor(*w.shape()), "min": w.pick(-0.5, None), "max": w.pick(0.5, 1)}
        return Call(fn, args, formula=np.clip, words=("clip",), own=("x",) if method else ())

    return builder


TARGETS["clip"], TARGETS["np.clip"] = clipped(tb.clip), clipped(np.clip)
TARGETS["Tensor.clip"] = clipped(Tensor.clip, True)


# Tensors


def index(w: World, n: int) -> Any:
    return w.pick(
        0,
        -1,
        slice(None),
        slice(0, 2),
        slice(None, None, -1),
        None,
        Ellipsis,
        np.array([0, n - 1, 0]),
        [0, 0],
        np.arange(n) % 2 == 0,
        (0, 1),
        (slice(None), 0),
        np.int64(1),
    )


@target("Tensor.__getitem__")
def _(w: World) -> Call:  # IndexError: Python's protocol, on which iteration relies
    x = w.tensor(w.n, 3)
    args = {"x": x, "index": index(w, w.n)}
    return Call(
        Tensor.__getitem__,
        args,
        formula=lambda x, i: x[i],
        errors=(IndexError,),
        own=("x",),
        words=("indices", "array"),
    )


@target("Tensor.__setitem__")
def _(w: World) -> Call:  # RuntimeError: documented for what requires grad
    args = {
        "self": Tensor(w.array(w.n, 3)),
        "index": index(w, w.n),
        "value": w.pick(1, 0.5, w.array(3), Tensor(w.array(3))),
    }
    return Call(
        Tensor.__setitem__,
        args,
        errors=(IndexError, RuntimeError),
        inplace=("self",),
        own=("self",),
        words=("indices", "broadcast", "array", "data"),
    )


@target("tensor")
def _(w: World) -> Call:
    value = w.pick(
        w.array(*w.shape()), [1.0, 2.0], [[1, 2], [3, 4]], 3, 1.5, w.tensor(2), np.arange(3), np.ones(2, bool)
    )
    kw = {"dtype": w.pick(None, "float32", np.float64, np.float32, np.dtype("f8")), "requires_grad": w.coin()}
    return Call(tb.tensor, {"data": value}, kw, keep=("data",), converts=True)


@target("Tensor")
def _(w: World) -> Call:
    return Call(Tensor, {"data": w.array(*w.shape()), "requires_grad": w.coin()}, formula=lambda a, r: a)


@target("nn.Parameter")
def _(w: World) -> Call:
    return Call(nn.Parameter, {"data": w.either(*w.shape()), "requires_grad": w.coin()}, formula=lambda a, r: a)


def attribute(name: str, *errors: type, **arguments: Any) -> Builder:
    """A property, or a method of a tensor that takes no tensors."""

    def builder(w: World) -> Call:
        x = w.tensor(*w.pick(w.shape(), (1,), ()))

        def fn(x: Tensor, *args: Any) -> Any:
            value = getattr(type(x), name)
            return getattr(x, name) if isinstance(value, property) else value(x, *args)

        args = {"x": x, **{k: w.pick(*v) for k, v in arguments.items()}}
        return Call(
            fn,
            args,
            errors=errors,
            own=("x",),
            words=(name, "tensor", "item"),
            inplace=("x", *arguments) if arguments else (),
            converts=bool(arguments),
        )

    return builder


for _name in ("data", "requires_grad", "shape", "ndim", "size", "dtype", "is_leaf", "detach", "T"):
    TARGETS[f"Tensor.{_name}"] = attribute(_name)
TARGETS["Tensor.__getstate__"] = lambda w: Call(copy.deepcopy, {"x": w.tensor(*w.shape())}, own=("x",))
TARGETS["Tensor.__copy__"] = lambda w: Call(copy.copy, {"x": w.tensor(*w.shape())}, own=("x",))
TARGETS["Tensor.__format__"] = lambda w: Call(
    lambda x, spec: format(x, spec),
    {"x": w.tensor(*w.pick((), (1,), (2,))), "spec": w.pick("", ".3f", "e")},
    own=("x",),
    words=("format", "spec"),
)
for _name in ("item", "tolist", "__float__", "__bool__", "__len__"):
    TARGETS[f"Tensor.{_name}"] = attribute(_name)
TARGETS["Tensor.numpy"] = attribute("numpy", RuntimeError)  # documented: where gradients would be lost
TARGETS["Tensor.retain_grad"] = attribute("retain_grad", RuntimeError)  # where there will be none
TARGETS["Tensor.requires_grad_"] = attribute("requires_grad_", RuntimeError, flag=(True, False))
TARGETS["Tensor.__iter__"] = lambda w: Call(
    lambda x: list(x), {"x": w.tensor(*w.shape())}, own=("x",), words=("tensor",)
)


@target("Tensor.data=")
def _(w: World) -> Call:
    x = w.tensor(w.n, 3)
    return Call(
        lambda x, data: setattr(x, "data", data) or x + 0, {"x": x, "data": w.array(w.n, 3)}, inplace=("x",), own=("x",)
    )


@target("Tensor.requires_grad=")
def _(w: World) -> Call:
    x = w.tensor(w.n, 3)
    args = {"x": x, "requires_grad": w.coin()}
    return Call(lambda x, r: setattr(x, "requires_grad", r), args, errors=(RuntimeError,), inplace=("x",), own=("x",))


@target("Tensor.backward")
def _(w: World) -> Call:  # RuntimeError: documented for graphs and outputs without what is needed
    x = Tensor(w.array(w.n, 3), requires_grad=True)
    if w.coin():
        x.grad = w.array(w.n, 3)
    kw = {"gradient": w.either(w.n, 3), "retain_graph": w.coin(), "create_graph": w.coin()}

    def prepare(call: Call) -> None:
        call.args["x"].grad = call.args["grad"]

    def fn(x: Tensor, grad: Any, **kw: Any) -> Any:
        (x * x).backward(**kw)
        return x.grad

    return Call(fn, {"x": x, "grad": x.grad}, kw, errors=(RuntimeError,), inplace=("x",), own=("x",), prepare=prepare)


@target("grad")
def _(w: World) -> Call:
    x = Tensor(w.array(w.n, 3), requires_grad=True)
    y = (x * 2).sum() if w.coin() else x * 2
    args = {
        "outputs": w.pick(y, [y], (y, y)),
        "inputs": w.pick(x, [x], (x, x)),
    }
    many = len(args["outputs"]) if isinstance(args["outputs"], (list, tuple)) else 1
    seeds: Any = [w.pick(Tensor, lambda a: a)(w.array(*y.shape)) for _ in range(many)]
    kw = {
        "grad_outputs": seeds if isinstance(args["outputs"], (list, tuple)) else seeds[0],
        "retain_graph": w.coin(),
        "create_graph": w.coin(),
        "allow_unused": w.coin(),
    }
    keep = ("outputs", "inputs")
    # an input that is not used may have another dtype
    return Call(tb.grad, args, kw, errors=(RuntimeError,), words=("backward",), keep=keep, converts=True)


def checker(check: Any) -> Builder:
    def builder(w: World) -> Call:  # GradcheckError: what a check is for; RuntimeError: what cannot be differentiated
        x, y = (tb.tensor(w.array(2, 2), dtype="float64", requires_grad=True) for _ in range(2))
        fn = w.pick(lambda a, b: a * b, lambda a, b: (a @ b).sum(), lambda a, b: (a, a * b))
        kw = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-4, "seed": w.below(5)}
        args = {"fn": fn, "inputs": w.pick([x, y], (x, y))}
        errors = (tb.GradcheckError, RuntimeError, RuntimeWarning)  # the last: elements that cannot be told
        return Call(
            check,
            args,
            kw,
            errors=errors,
            # of the op inside fn, or of what fn was replaced by: int(a, b), len(a, b)
            words=(
                "<lambda>",
                "cannot be told",
                "Tensor",
                "multiply",
                "matmul",
                "forward",
                "argument",
                "broadcast",
                "int",
                "integer",
                "len",
            ),
        )

    return builder


TARGETS["gradcheck"], TARGETS["gradgradcheck"] = checker(tb.gradcheck), checker(tb.gradgradcheck)


@target("check_pair")
def _(w: World) -> Call:
    x, weight = np.asarray(w.array(2, 2), np.float64), np.asarray(w.array(2, 2), np.float64)
    pairs = (
        (lambda a, b: (a @ b, (a, b)), lambda dout, cache: (dout @ cache[1].T, cache[0].T @ dout)),
        (lambda a, b: ((a * b).sum(), (b, a)), None),
        (lambda a, b: (a * b, (a, b)), lambda dout, cache: {"da": dout * cache[1], "db": dout * cache[0]}),
    )
    forward, backward = w.pick(*pairs)
    args = {"forward": forward, "backward": backward, "inputs": w.pick([x, weight], (x, weight))}
    kw = {"rtol": 1e-6, "atol": 1e-8, "eps": w.maybe(1e-4), "seed": w.below(5)}
    # what a forward or backward that is replaced says of itself, and NumPy of its operands
    words = ("forward", "backward", "<lambda>", "argument", "operand", "shapes", "ufunc", "matmul", "len", "int")
    words += ("input", "integer", "scalars", "data", "requires_grad")
    errors = (tb.GradcheckError, AttributeError, OverflowError)  # the latter two of the functions themselves
    return Call(tb.check_pair, args, kw, errors=errors, words=words)


@target("numerical_gradient")
def _(w: World) -> Call:
    x = np.asarray(w.array(2, 2), np.float64)
    fn = w.pick(lambda a: (a * a).max(), lambda a: a.max() * 2.0)  # no sum, whose order follows the layout
    args = {"fn": fn, "inputs": w.pick(x, tb.Tensor(x, requires_grad=True))}
    kw = {"dy": None, "method": w.pick("ridders", "central"), "eps": w.maybe(1e-5)}
    words = ("<lambda>", "argument", "int", "len", "integer", "Tensor", "scalars", "zero-size", "max")
    # RuntimeWarning: of a function that does not use its argument; float32 is taken in double precision
    return Call(tb.numerical_gradient, args, kw, errors=(RuntimeWarning,), words=(*words, "fn"), converts=True)


@target("gradcheck_cases")
def _(w: World) -> Call:
    kw = {"values": w.pick(["normal"], ("zeros", "ties")), "arrays": w.coin(), "argument": "x", "seed": w.below(5)}
    return Call(lambda shapes, **kw: tb.gradcheck_cases(shapes, **kw), {"shapes": w.pick("n c", ("n", 2))}, kw)


@target("GradcheckError")
def _(w: World) -> Call:
    scale = w.pick(2.0, 3.0)
    rule = tb.differentiable(lambda x: (x * 2, lambda dy: dy * scale))
    inputs = tb.tensor(w.array(2), dtype="float64", requires_grad=True)
    errors = (tb.GradcheckError, RuntimeWarning)  # the latter: elements that cannot be told
    return Call(lambda inputs: tb.gradcheck(rule, inputs), {"inputs": inputs}, errors=errors, words=("told", "moves"))


BAD_RULES: tuple[Any, ...] = (
    lambda x: x,
    lambda x: (x, x),
    lambda x: (x * 2, lambda dy: dy, 3),
    lambda x: (None, lambda dy: dy),
    lambda x: ("a", lambda dy: dy),
    lambda x: (x * 1j, lambda dy: dy),
    lambda x: (x > 0, lambda dy: dy),
    lambda x: (x * 2, lambda dy: "a"),
    lambda x: (x * 2, lambda dy: object()),
    lambda x: (x * 2, lambda dy: {}),
    lambda x: (x * 2, lambda dy: (dy, dy)),
    lambda x: (x * 2, lambda dy: ()),
    lambda x: (x * 2, lambda dy: np.zeros((1, 0), dy.dtype)),
    lambda x: (x * 2, lambda dy: np.zeros((3, *dy.shape, 7), dy.dtype)),
    lambda x: (x * 2, lambda dy: dy.astype(np.float16)),
    lambda x: (x * 2, lambda dy: dy * 1j),
    lambda x: (x * 2, lambda dy: 3),
    lambda x: (x * 2, lambda dy: None),
    lambda x: (x * 2, lambda dy: lambda: lambda: dy),
    lambda x: (x * 2, lambda dy: dy * 2),
    lambda x: (np.ma.masked_array(x), lambda dy: dy),
)


@target("differentiable")
def _(w: World) -> Call:
    x = Tensor(w.array(2, 3), requires_grad=True)
    rule = w.pick(*BAD_RULES)

    def fn(rule: Any, definition: Any, x: Tensor) -> Any:
        y = tb.differentiable(rule, definition=definition)(x)
        before = freeze_gradient(x)
        try:
            y.sum().backward()
        except Exception:
            assert freeze_gradient(x) == before
            raise
        return x.grad

    args = {"rule": rule, "definition": None, "x": x}
    return Call(fn, args, inplace=("x",), own=("x",), words=("<lambda>", "print", "pullback"), errors=(RuntimeError,))


def freeze_gradient(x: Tensor) -> Any:
    return None if x.grad is None else x.grad.tobytes()


# Settings


@target("replay", "fresh")
def _(w: World) -> Call:
    x, p = w.array(2, 3), Tensor(w.array(2, 3), requires_grad=True)
    function = w.pick(
        lambda x: Tensor(x) * p,
        lambda x: F.tanh(Tensor(x) + p).sum(),
        lambda x: Tensor(x) * p + tb.fresh(np.ones_like, x),
    )

    def fn(function: Any) -> Any:
        replayed = tb.replay(function)
        results = [replayed(x * k) for k in (1, 2, 3, 1)]
        assert results[0].data.tobytes() == results[-1].data.tobytes()
        return results[0]

    return Call(fn, {"function": function}, words=("argument", "integer", "scalars", "converted"))


@target("no_grad", "enable_grad")
def _(w: World) -> Call:
    def fn(function: Any) -> Any:
        tb.no_grad()(function)
        with tb.no_grad(), tb.enable_grad():
            return tb.is_grad_enabled()

    return Call(fn, {"function": lambda: 3}, words=("generator",))


TARGETS["is_grad_enabled"] = lambda w: Call(tb.is_grad_enabled)
TARGETS["get_num_threads"] = lambda w: Call(tb.get_num_threads)
TARGETS["get_rng_state"] = lambda w: Call(tb.get_rng_state)
TARGETS["set_num_threads"] = lambda w: Call(tb.set_num_threads, {"n": 1 + w.below(3)})
TARGETS["manual_seed"] = lambda w: Call(lambda seed: tb.manual_seed(seed).random(), {"seed": w.below(1000)})


@target("set_rng_state")
def _(w: World) -> Call:
    return Call(tb.set_rng_state, {"state": copy.deepcopy(tb.get_rng_state())})


# Functions of nn


def elementwise(fn: Any, formula: Any) -> Builder:
    return lambda w: Call(fn, {"x": w.either(*w.shape(0, 4))}, formula=formula, words=(fn.__name__,))


TARGETS["F.relu"] = elementwise(F.relu, lambda x: np.maximum(x, 0))
TARGETS["F.sigmoid"] = elementwise(F.sigmoid, lambda x: 1 / (1 + np.exp(-x)))
TARGETS["F.tanh"] = elementwise(F.tanh, np.tanh)


def softmax(x: Any, dim: int = -1) -> Any:
    e = np.exp(x - x.max(axis=dim, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=dim, keepdims=True)


def along(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(1, 3)
        return Call(
            fn, {"x": w.either(*shape), "dim": w.pick(-1, 0, len(shape) - 1)}, formula=formula, words=(fn.__name__,)
        )

    return builder


TARGETS["F.softmax"] = along(F.softmax, softmax)
TARGETS["F.log_softmax"] = along(F.log_softmax, lambda x, dim: np.log(softmax(x, dim)))


@target("F.dropout")
def _(w: World) -> Call:
    args = {"x": w.either(*w.shape()), "p": w.pick(0.5, 0.0, 1.0), "training": w.coin()}
    return Call(F.dropout, {**args, "generator": w.pick(None, np.random.default_rng(3))}, inplace=("generator",))


def reduced(loss: Any, reduction: str) -> Any:
    return {"mean": np.mean, "sum": np.sum, "none": lambda a: a}[reduction](loss)


def nll(logs: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    target = np.asarray(target)
    kept = target != ignore_index
    if target.dtype.kind not in "iu" or target.shape != logs.shape[:1]:
        raise TypeError("these are no classes")
    if (kept & ((target < 0) | (target >= logs.shape[1]))).any():
        raise ValueError("there is no such class")
    loss = np.where(kept, -logs[np.arange(len(target)), np.where(kept, target, 0)], 0)
    return loss.sum() / kept.sum() if reduction == "mean" else reduced(loss, reduction)


def alike(x: Any, target: Any) -> Any:
    if x.shape != target.shape or target.dtype.kind != "f":
        raise ValueError("nothing is broadcast")
    return target


def class_loss(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        target = w.classes(w.n, w.c)
        kw = {"ignore_index": w.pick(-100, 0), "reduction": w.pick("mean", "sum", "none")}
        return Call(fn, {"x": w.either(w.n, w.c), "target": target}, kw, formula=formula)

    return builder


TARGETS["F.nll_loss"] = class_loss(F.nll_loss, nll)
TARGETS["F.cross_entropy"] = class_loss(F.cross_entropy, lambda x, t, **kw: nll(np.log(softmax(x)), t, **kw))


def pair_loss(fn: Any, formula: Any) -> Builder:
    def builder(w: World) -> Call:
        shape = w.shape(0, 3)
        target = np.abs(w.array(*shape)) % 1
        target = w.pick(np.asarray(target, w.dtype), Tensor(np.asarray(target, w.dtype)))
        x = w.tensor(*shape) if isinstance(target, np.ndarray) else w.either(*shape)
        kw = {"reduction": w.pick("mean", "sum", "none")}
        return Call(
            fn,
            {"x": x, "target": target},
            kw,
            formula=lambda x, t, reduction: reduced(formula(x, alike(x, t)), reduction),
        )

    return builder


TARGETS["F.mse_loss"] = pair_loss(F.mse_loss, lambda x, t: (x - t) ** 2)
TARGETS["F.binary_cross_entropy_with_logits"] = pair_loss(
    F.binary_cross_entropy_with_logits, lambda x, t: np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
)


@target("F.linear")
def _(w: World) -> Call:
    args = {"x": w.either(*w.shape(0, 2), w.h), "weight": w.either(w.c, w.h), "bias": w.maybe(w.either(w.c))}
    return Call(
        F.linear, args, formula=lambda x, weight, bias: x @ weight.T + (0 if bias is None else bias), words=("linear",)
    )


def as_pair(v: Any) -> Any:
    return (v, v) if isinstance(v, (int, np.integer)) else v


def convolution(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
    stride, dilation = as_pair(stride), as_pair(dilation)
    single = x.ndim == 3
    x = x[None] if single else x
    O, C, I, J = weight.shape
    p = as_pair(padding)
    x = np.pad(x, [(0, 0), (0, 0), (p[0], p[0]), (p[1], p[1])])
    P = (x.shape[2] - dilation[0] * (I - 1) - 1) // stride[0] + 1
    Q = (x.shape[3] - dilation[1] * (J - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), O, P, Q))
    for o in range(O):
        g = o // (O // groups)
        for p, q in np.ndindex(P, Q):
            top, left = p * stride[0], q * stride[1]
            part = x[:, g * C : (g + 1) * C, top : top + dilation[0] * I : dilation[0]]
            part = part[:, :, :I, left : left + dilation[1] * J : dilation[1]][..., :J]
            y[:, o, p, q] = (part * weight[o]).sum(axis=(1, 2, 3)) + (0 if bias is None else bias[o])
    return y[0] if single else y


@target("F.conv2d")
def _(w: World) -> Call:
    groups, batch = w.pick(1, 1, 2), w.pick((w.n,), ())
    x = w.either(*batch, groups * w.c, w.h + 1, w.w + 1)
    args = {
        "x": x,
        "weight": w.either(2 * groups, w.c, 1 + w.below(3), 1 + w.below(3)),
        "bias": w.maybe(w.array(2 * groups)),
        "stride": w.pick(1, 2, (2, 1)),
        "padding": w.pick(0, 1, (1, 0), [2, 2]),
        "dilation": w.pick(1, 1, (1, 1)),
        "groups": groups,
    }
    return Call(
        F.conv2d,
        args,
        formula=convolution if isinstance(args["padding"], (int, tuple, list)) else None,
        words=("kernel",),
    )


def images(w: World) -> Any:
    return w.either(*w.pick((w.n,), ()), w.c, w.h + 2, w.w + 2)


@target("F.max_pool2d")
def _(w: World) -> Call:
    args = {
        "x": images(w),
        "kernel_size": w.pick(2, (1, 2), [2, 1]),
        "stride": w.pick(None, 1, (2, 1)),
        "padding": w.pick(0, 0),
    }
    return Call(F.max_pool2d, {**args, "dilation": w.pick(1, 1, (2, 1)), "ceil_mode": w.coin()}, words=("window",))


@target("F.avg_pool2d")
def _(w: World) -> Call:
    args = {
        "x": images(w),
        "kernel_size": w.pick(2, (3, 2)),
        "stride": w.pick(None, 1, (2, 1)),
        "padding": w.pick(0, 1),
    }
    args |= {"ceil_mode": w.coin(), "count_include_pad": w.coin(), "divisor_override": w.pick(None, 3)}
    return Call(F.avg_pool2d, args, words=("window",))


@target("F.adaptive_avg_pool2d")
def _(w: World) -> Call:
    return Call(F.adaptive_avg_pool2d, {"x": images(w), "output_size": w.pick(1, (2, 1), (None, 2), [2, 2], None)})


# Norms


def normalized(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


def per_channel(x_hat: Any, weight: Any, bias: Any) -> Any:
    shape = (1, -1) + (1,) * (x_hat.ndim - 2)
    x_hat = x_hat if weight is None else x_hat * weight.reshape(shape)
    return x_hat if bias is None else x_hat + bias.reshape(shape)


def batch_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any, training: Any, momentum: Any, eps: Any) -> Any:
    if training:
        x_hat = normalized(x, (0, *range(2, x.ndim)), eps)
    else:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        x_hat = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    return per_channel(x_hat, weight, bias)


def statistics(w: World, c: int) -> dict[str, Any]:
    return {"running_mean": w.array(c), "running_var": w.positive(c)}


def channel_arguments(w: World, x: Any, training: bool) -> dict[str, Any]:
    c = x.shape[1]
    running = statistics(w, c)
    if training and w.coin():
        running = dict.fromkeys(running)
    return {**running, "weight": w.maybe(w.either(c)), "bias": w.maybe(w.either(c))}


def settings(w: World) -> dict[str, Any]:
    return {"momentum": w.pick(0.1, 1.0, 0), "eps": w.pick(1e-5, 0.1, 1)}


RUNNING = ("running_mean", "running_var")


@target("F.batch_norm")
def _(w: World) -> Call:
    x, training = w.either(w.n, w.c, *w.shape(0, 2)), w.coin()
    args = {"x": x, **channel_arguments(w, x, training), "training": training, **settings(w)}
    return Call(F.batch_norm, args, formula=batch_norm, inplace=RUNNING)


@target("F.ghost_batch_norm")
def _(w: World) -> Call:
    x, training = w.either(w.n, w.c, *w.shape(1, 2)), w.coin()
    more = {"ghost_size": w.pick(1, 2, 3, 64), **channel_arguments(w, x, training), "training": training}
    return Call(F.ghost_batch_norm, {"x": x, **more, **settings(w)}, inplace=RUNNING)


@target("F.batch_renorm")
def _(w: World) -> Call:
    x, training = w.either(w.n, w.c, *w.shape(0, 2)), w.coin()
    args = {"x": x, **channel_arguments(w, x, training), **statistics(w, w.c), "training": training, **settings(w)}
    return Call(F.batch_renorm, {**args, "r_max": w.pick(1, 3.0), "d_max": w.pick(0, 5.0)}, inplace=RUNNING)


@target("F.decorrelated_batch_norm")
def _(w: World) -> Call:
    size, groups, training = 1 + w.below(3), 1 + w.below(2), w.coin()
    c = size * groups
    matrix = np.tile(np.eye(size, dtype=w.dtype), (groups, 1, 1))
    args = {
        "x": w.either(w.n + 3, c, *w.shape(0, 2)),
        "running_mean": w.array(c),
        "running_matrix": matrix,
        "weight": w.maybe(w.either(c)),
        "bias": w.maybe(w.either(c)),
        "training": training,
        **settings(w),
        "group_size": size,
        "method": w.pick("zca", "zca", "pca"),
    }
    return Call(F.decorrelated_batch_norm, args, inplace=("running_mean", "running_matrix"))


def instance_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any, use: Any, momentum: Any, eps: Any) -> Any:
    if not use:
        return batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    return per_channel(normalized(x, tuple(range(2, x.ndim)), eps), weight, bias)


@target("F.instance_norm")
def _(w: World) -> Call:
    x, use = w.either(w.n, w.c, w.h, *w.shape(0, 1)), w.coin()
    args = {"x": x, **channel_arguments(w, x, use), "use_input_stats": use, **settings(w)}
    return Call(F.instance_norm, args, formula=instance_norm, inplace=RUNNING)


def group_norm(x: Any, G: Any, weight: Any, bias: Any, eps: Any) -> Any:
    rows = x.reshape(len(x), G, -1)
    return per_channel(normalized(rows, (2,), eps).reshape(x.shape), weight, bias)


@target("F.group_norm")
def _(w: World) -> Call:
    G = 1 + w.below(3)
    c = 2 * G
    args = {"x": w.either(w.n, c, *w.shape(0, 2)), "num_groups": G, "weight": w.maybe(w.either(c))}
    return Call(F.group_norm, {**args, "bias": w.maybe(w.either(c)), "eps": w.pick(1e-5, 1)}, formula=group_norm)


def trailing(shape: Any) -> tuple[int, ...]:
    return tuple(-1 - i for i in range(1 if isinstance(shape, (int, np.integer)) else len(shape)))


def layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: Any) -> Any:
    y = normalized(x, trailing(shape), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@target("F.layer_norm")
def _(w: World) -> Call:
    shape = w.shape(1, 2)
    given = shape[0] if len(shape) == 1 and w.coin() else w.pick(tuple, list)(shape)
    args = {"x": w.either(*w.shape(0, 2), *shape), "normalized_shape": given, "weight": w.maybe(w.either(*shape))}
    return Call(F.layer_norm, {**args, "bias": w.maybe(w.either(*shape)), "eps": 1e-5}, formula=layer_norm)


@target("F.rms_norm")
def _(w: World) -> Call:
    shape = w.shape(1, 2)
    given = shape[0] if len(shape) == 1 and w.coin() else w.pick(tuple, list)(shape)

    def formula(x: Any, shape: Any, weight: Any, eps: Any) -> Any:
        y = x / np.sqrt((x * x).mean(axis=trailing(shape), keepdims=True) + (default if eps is None else eps))
        return y if weight is None else y * weight

    args = {"x": w.either(*w.shape(0, 2), *shape), "normalized_shape": given, "weight": w.maybe(w.either(*shape))}
    default = float(np.finfo(args["x"].dtype).eps)  # the formula itself gets x in float64
    return Call(F.rms_norm, {**args, "eps": w.pick(1e-5, 0.1, None)}, formula=formula)


# Modules: how to make one, and an input for it


def flags(w: World, *names: str) -> dict[str, Any]:
    return {name: w.coin() for name in names}


def norm_settings(w: World) -> dict[str, Any]:
    return {"eps": w.pick(1e-5, 0.1), "momentum": w.pick(0.1, None, 1.0), **flags(w, "affine", "track_running_stats")}


def axes_of(name: str, w: World) -> tuple[int, ...]:
    return {"1d": w.pick((), (w.h,)), "2d": (w.h, w.w), "3d": (2, w.h, w.w)}[name[-2:]]


Made = tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]  # arguments, keywords, shape of an input


def made(name: str, w: World) -> Made:
    n, c, h, wide = w.n, w.c, w.h, w.w
    if name == "Linear":
        return {"in_features": c, "out_features": h, "bias": w.coin()}, {}, (n, c)
    if name == "Conv2d":
        args = {"in_channels": 2 * c, "out_channels": 2, "kernel_size": w.pick(2, (1, 2)), "stride": w.pick(1, (2, 1))}
        args |= {"padding": w.pick(0, 1, "valid"), "dilation": 1, "groups": w.pick(1, 2), "bias": w.coin()}
        return args, {}, (n, 2 * c, h, wide)
    if name == "MaxPool2d":
        args = {"kernel_size": w.pick(2, (1, 2)), "stride": w.pick(None, 1), "padding": 0, "dilation": 1}
        return args, flags(w, "ceil_mode"), (n, c, h, wide)
    if name == "AvgPool2d":
        args = {"kernel_size": 2, "stride": w.pick(None, 1), "padding": w.pick(0, 1)}
        return (
            {**args, **flags(w, "ceil_mode", "count_include_pad"), "divisor_override": w.pick(None, 2)},
            {},
            (n, c, h, wide),
        )
    if name == "AdaptiveAvgPool2d":
        return {"output_size": w.pick(1, (1, 2), (None, 1))}, {}, (n, c, h, wide)
    if name == "Dropout":
        return {"p": w.pick(0.5, 0.0, 1)}, {}, w.shape()
    if name == "Flatten":
        return {"start_dim": 1, "end_dim": w.pick(-1, 2)}, {}, (n, c, h)
    if name in ("ReLU", "Sigmoid", "Tanh", "Identity"):
        return {}, {}, w.shape()
    if name in ("LayerNorm", "RMSNorm"):
        shape = w.shape(1, 2)
        args = {"normalized_shape": shape, "eps": w.pick(1e-5, 0.1), **flags(w, "elementwise_affine")}
        return args | (flags(w, "bias") if name == "LayerNorm" else {}), {}, (n, *shape)
    if name == "GroupNorm":
        args = {"num_groups": c, "num_channels": 2 * c, "eps": 1e-5, "affine": w.coin()}
        return args, flags(w, "bias"), (n, 2 * c, h)
    if not name.startswith(("BatchNorm", "InstanceNorm", "GhostBatchNorm", "BatchRenorm", "DecorrelatedBatchNorm")):
        raise NotImplementedError(
            f"nn.{name} has no row: add its arguments and the shape of an input to made() "
            "in tests/harness/fuzz_targets.py"
        )
    shape = (n + 3, c, *axes_of(name, w))
    if name.startswith("Ghost"):
        return (
            {"num_features": c, "ghost_size": w.pick(2, 64), **norm_settings(w)},
            flags(w, "bias"),
            (2 * n, *shape[1:]),
        )
    if name.startswith("BatchRenorm"):
        kw = {"r_max": 3.0, "d_max": 5.0, "warmup": w.pick(0, 5), "r_ramp": 3, "d_ramp": 2, "bias": w.coin()}
        return {"num_features": c, "eps": 1e-5, "momentum": w.pick(0.01, None), "affine": w.coin()}, kw, shape
    if name.startswith("Decorrelated"):
        kw = {"group_size": w.pick(None, 1, c), "method": w.pick("zca", "pca"), "bias": w.coin()}
        return {"num_features": c, **norm_settings(w)}, kw, shape
    if name.startswith("InstanceNorm") and len(shape) == 2:
        shape = (*shape, h)
    return {"num_features": c, **norm_settings(w)}, flags(w, "bias"), shape


CONTAINERS = (nn.Module, nn.ModuleList, nn.Sequential)
CLASSES = [getattr(nn, name) for name in nn.__all__ if inspect.isclass(getattr(nn, name))]
LAYERS = sorted(c.__name__ for c in CLASSES if issubclass(c, nn.Module) and c not in CONTAINERS)


def layer(name: str, w: World) -> tuple[nn.Module, tuple[int, ...]]:
    args, kw, shape = made(name, w)
    module = getattr(nn, name)(*args.values(), **kw)
    module.to(w.dtype).train(w.coin(0.7))
    return module, shape


def constructor(name: str) -> Builder:
    def builder(w: World) -> Call:
        args, kw, shape = made(name, w)
        x = w.array(*shape)

        def fn(*args: Any, **kw: Any) -> Any:
            module = getattr(nn, name)(*args, **kw)
            assert repr(module)
            return [v for _, v in sorted(module.state_dict().items())]

        del x
        return Call(fn, args, kw, converts=True)

    return builder


def forward(name: str) -> Builder:
    def builder(w: World) -> Call:
        module, shape = layer(name, w)
        words, same = (
            (name, name.lower(), name.removesuffix("2d"), "start_dim", "end_dim", "window", "kernel", "groups"),
            name == "Identity",
        )
        return Call(
            module, {"input": w.either(*shape)}, state=(module,), words=words, converts=same, keep=("input",) * same
        )

    return builder


for _name in LAYERS:
    TARGETS[f"nn.{_name}"], TARGETS[f"nn.{_name}.forward"] = constructor(_name), forward(_name)


def net(w: World) -> nn.Sequential:
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=w.pick(0.1, None)), nn.ReLU(), nn.Linear(4, 2)]
    if w.coin():
        layers[1] = w.pick(nn.DecorrelatedBatchNorm1d(4), nn.BatchRenorm1d(4, warmup=0), nn.GhostBatchNorm1d(4, 2))
    return nn.Sequential(*layers).to(w.dtype)


TARGETS["nn.Module"] = lambda w: Call(nn.Module)
TARGETS["nn.Sequential"] = lambda w: Call(
    lambda *m: len(nn.Sequential(*m)), {"modules": nn.ReLU(), "second": net(w)}, words=("Modules",)
)
TARGETS["nn.ModuleList"] = lambda w: Call(
    lambda m: len(nn.ModuleList(m)), {"modules": [nn.ReLU(), net(w)]}, words=("Modules",)
)


@target("nn.Sequential.forward")
def _(w: World) -> Call:
    module = net(w)
    return Call(module, {"input": w.either(5, 3)}, state=(module,), words=("linear",))


def container(kind: Any, name: str) -> Builder:
    def builder(w: World) -> Call:
        module = kind(nn.ReLU(), nn.Tanh()) if kind is nn.Sequential else kind([nn.ReLU(), nn.Tanh()])
        args = {"index": w.pick(0, -1, slice(0, 1))} if name == "__getitem__" else {}
        fn = (lambda: list(module)) if name == "__iter__" else getattr(module, name)
        # IndexError: Python's protocol
        return Call(fn, args, errors=(IndexError,), words=("indices",), state=(module,))

    return builder


def edited(kind: Any, name: str) -> Builder:
    def builder(w: World) -> Call:
        module = kind(nn.ReLU(), nn.Tanh()) if kind is nn.Sequential else kind([nn.ReLU(), nn.Tanh()])
        args: dict[str, Any] = {"index": w.pick(0, -1)} if name != "append" else {}
        args |= {"module": nn.Sigmoid()} if name != "__delitem__" else {}
        # IndexError: Python's protocol
        call = lambda *a: getattr(module, name)(*a) and None
        return Call(call, args, errors=(IndexError,), words=("indices", "Modules"), state=(module,))

    return builder


for _kind in (nn.Sequential, nn.ModuleList):
    for _name in ("__getitem__", "__len__", "__iter__"):
        TARGETS[f"nn.{_kind.__name__}.{_name}"] = container(_kind, _name)
    for _name in ("__setitem__", "__delitem__", "append"):
        TARGETS[f"nn.{_kind.__name__}.{_name}"] = edited(_kind, _name)


def module_method(name: str, /, **arguments: Any) -> Builder:
    def builder(w: World) -> Call:
        module = net(w)
        args = {k: v(w, module) for k, v in arguments.items()}

        def fn(*args: Any) -> Any:
            result = getattr(module, name)(*args)
            if inspect.isgenerator(result):
                list(result)
            return None

        words = ("buffer", "data", "Linear", "tensor")  # the last three: what apply() was given raises
        return Call(fn, args, state=(module,), words=words, converts=True)

    return builder


for _name in (
    "parameters",
    "buffers",
    "children",
    "modules",
    "named_children",
    "state_dict",
    "eval",
    "double",
    "float",
    "extra_repr",
):
    TARGETS[f"nn.Module.{_name}"] = module_method(_name)
for _name in ("named_parameters", "named_buffers", "named_modules"):
    TARGETS[f"nn.Module.{_name}"] = module_method(_name, prefix=lambda w, m: w.pick("", "a"))
TARGETS["nn.Module.zero_grad"] = module_method("zero_grad", set_to_none=lambda w, m: w.coin())
TARGETS["nn.Module.train"] = module_method("train", mode=lambda w, m: w.coin())
TARGETS["nn.Module.requires_grad_"] = module_method("requires_grad_", flag=lambda w, m: w.coin())
TARGETS["nn.Module.to"] = module_method("to", dtype=lambda w, m: w.pick("float32", np.float64, np.dtype("f4")))
TARGETS["nn.Module.apply"] = module_method("apply", fn=lambda w, m: lambda module: None)
TARGETS["nn.Module.register_forward_hook"] = module_method("register_forward_hook", hook=lambda w, m: lambda *a: None)
TARGETS["nn.Module.register_forward_pre_hook"] = module_method(
    "register_forward_pre_hook", hook=lambda w, m: lambda *a: None
)
TARGETS["nn.Module.register_parameter"] = module_method(
    "register_parameter", name=lambda w, m: "b", value=lambda w, m: w.pick(nn.Parameter(w.array(2)), None)
)
TARGETS["nn.Module.register_buffer"] = module_method(
    "register_buffer", name=lambda w, m: "b", value=lambda w, m: w.pick(w.array(2), None)
)
TARGETS["nn.Module.load_state_dict"] = module_method(
    "load_state_dict", state_dict=lambda w, m: m.state_dict(), strict=lambda w, m: w.coin()
)


# nn.init, nn.utils


def initializer(name: str, /, **arguments: Any) -> Builder:
    def builder(w: World) -> Call:
        args = {"tensor": w.tensor(w.n, w.c, *w.shape(0, 2)), **{k: w.pick(*v) for k, v in arguments.items()}}
        if name not in ("constant_", "zeros_", "ones_"):
            args["generator"] = w.pick(None, np.random.default_rng(1))
        return Call(getattr(nn.init, name), args, inplace=("tensor", "generator"))

    return builder


KAIMING = {"a": (0, 0.1), "mode": ("fan_in", "fan_out"), "nonlinearity": ("leaky_relu", "relu", "tanh")}
TARGETS["nn.init.uniform_"] = initializer("uniform_", a=(0.0, -1), b=(1.0, 2))
TARGETS["nn.init.normal_"] = initializer("normal_", mean=(0.0, 1), std=(1.0, 0))
TARGETS["nn.init.constant_"] = initializer("constant_", val=(0.5, 2))
TARGETS["nn.init.zeros_"], TARGETS["nn.init.ones_"] = initializer("zeros_"), initializer("ones_")
TARGETS["nn.init.xavier_uniform_"] = initializer("xavier_uniform_", gain=(1.0, 2))
TARGETS["nn.init.xavier_normal_"] = initializer("xavier_normal_", gain=(1.0, 2))
TARGETS["nn.init.kaiming_uniform_"] = initializer("kaiming_uniform_", **KAIMING)
TARGETS["nn.init.kaiming_normal_"] = initializer("kaiming_normal_", **KAIMING)
TARGETS["nn.init.fans"] = lambda w: Call(nn.init.fans, {"tensor": w.tensor(w.n, w.c, *w.shape(0, 2))})
TARGETS["nn.init.calculate_gain"] = lambda w: Call(
    nn.init.calculate_gain, {"nonlinearity": w.pick("leaky_relu", "relu", "tanh"), "param": w.pick(None, 0.1, 1)}
)


@target("nn.utils.clip_grad_norm_")
def _(w: World) -> Call:  # RuntimeError: documented for error_if_nonfinite
    shapes = w.shape(1, 2), w.shape(0, 1)
    parameters = [Tensor(w.array(*s), requires_grad=True) for s in shapes]
    gradients = [w.pick(w.array(*s), None, Tensor(w.array(*s))) for s in shapes]

    def prepare(call: Call) -> None:
        parameters, grad = call.args["parameters"], call.args["grad"]
        if isinstance(parameters, (list, tuple)) and isinstance(grad, (list, tuple)):
            for p, g in zip(parameters, grad):  # noqa: B905  (either may have been corrupted)
                if isinstance(p, Tensor):
                    p.grad = g

    def fn(parameters: Any, max_norm: Any, norm_type: Any, error_if_nonfinite: Any, grad: Any) -> Any:
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite)

    args = {"parameters": parameters, "max_norm": w.pick(1.0, 0.1, 5), "norm_type": w.pick(2.0, 1, np.inf)}
    args |= {"error_if_nonfinite": w.coin(), "grad": gradients}
    changed = ("parameters", "grad")
    return Call(fn, args, errors=(RuntimeError,), inplace=changed, words=("gradient", "gradients"), prepare=prepare)


@target("nn.utils.fold_batch_norm")
def _(w: World) -> Call:
    def fn(model: Any) -> Any:
        return [v for _, v in nn.utils.fold_batch_norm(model).state_dict().items()]

    return Call(fn, {"model": net(w)})


@target("nn.utils.recompute_statistics")
def _(w: World) -> Call:
    model = net(w)
    loader = [w.pick(w.array(5, 3), Tensor(w.array(5, 3)), (w.array(5, 3), 3)) for _ in range(2)]
    return Call(
        lambda m, loader: nn.utils.recompute_statistics(m, loader) and None,
        {"model": model, "loader": loader},
        state=(model,),
        inplace=("model",),
        words=("input", "linear"),
    )


@target("nn.utils.adapt_statistics")
def _(w: World) -> Call:
    model = net(w)
    args = {"model": model, "batch": w.either(5, 3), "weight": w.pick(0.5, 0, 1)}
    return Call(
        lambda *a: nn.utils.adapt_statistics(*a) and None,
        args,
        state=(model,),
        inplace=("model",),
        words=("input", "linear"),
    )


# Looking inside


@target("draw")
def _(w: World) -> Call:
    x = Tensor(w.array(3), requires_grad=True)
    args = {"tensor": (x * 2).sum(), "model": w.pick(None, {"x": x}, net(w))}
    return Call(
        lambda *a, **k: tb.draw(*a, **k).svg and None, args, {"limit": w.pick(1000, 5)}, keep=("tensor", "model")
    )


@target("trace")
def _(w: World) -> Call:
    x = Tensor(w.array(3), requires_grad=True)

    def fn(model: Any, file: Any) -> None:
        with redirect_stdout(io.StringIO()), tb.trace(model, file):  # file=None is the standard output
            (x * 2).sum().backward()

    args = {"model": w.pick(None, {"x": x}, net(w)), "file": io.StringIO()}
    return Call(fn, args, keep=("model",), inplace=("model", "file"))


def looked_into(fn: Any) -> Builder:
    def builder(w: World) -> Call:
        model = net(w)
        args = {"model": model, "input": w.either(5, 3)}
        return Call(lambda *a: fn(*a) and None, args, state=(model,), words=("linear", "data"))

    return builder


TARGETS["nn.summary"] = looked_into(nn.summary)
TARGETS["nn.watch.saturation"] = looked_into(nn.watch.saturation)
TARGETS["nn.watch.batch_statistics"] = looked_into(nn.watch.batch_statistics)
TARGETS["nn.watch.running_statistics"] = lambda w: Call(
    lambda model: nn.watch.running_statistics(model) and None, {"model": net(w)}
)
TARGETS["nn.watch.slopes"] = lambda w: Call(
    nn.watch.slopes, {"activation": w.pick(nn.ReLU(), nn.Tanh()), "z": w.either(*w.shape())}, keep=("activation",)
)
TARGETS["nn.watch.flat_share"] = lambda w: Call(
    nn.watch.flat_share, {"activation": nn.Sigmoid(), "z": w.either(*w.shape()), "flat": 0.01}, keep=("activation",)
)
TARGETS["nn.watch.update_ratio"] = lambda w: Call(
    nn.watch.update_ratio, {"before": w.array(w.n, 2), "after": w.array(w.n, 2)}
)


@target("nn.watch.activations")
def _(w: World) -> Call:
    model = net(w)

    def fn(*args: Any) -> None:
        with nn.watch.activations(*args):
            model(w.array(5, 3))

    args = {"model": model, "types": w.pick(None, nn.ReLU, (nn.Linear, nn.ReLU))}
    return Call(fn, args, inplace=("model",), state=(model,))


@target("nn.watch.drift")
def _(w: World) -> Call:
    before, after = ({"a": (w.array(3), w.positive(3))} for _ in range(2))
    return Call(nn.watch.drift, {"before": before, "after": after})


@target("nn.Watch")
def _(w: World) -> Call:
    kw = {"layers": w.pick(None, ["0"]), "bins": 5, "flat": 0.01, "activations": (nn.ReLU,)}
    model = net(w)

    def fn(*args: Any, **kw: Any) -> None:
        with nn.Watch(*args, **kw) as watch:
            model(w.array(5, 3)).sum().backward()
            watch.step()

    return Call(fn, {"model": model, "every": 1}, kw, inplace=("model",), state=(model,))


def watched(w: World) -> nn.Watch:
    model = net(w)
    with nn.Watch(model) as watch:
        for _ in range(2):
            model(w.array(5, 3)).sum().backward()
            watch.step()
    return watch


for _name in ("step", "close", "steps", "saturation", "drift", "updates"):
    TARGETS[f"nn.Watch.{_name}"] = lambda w, name=_name: Call(
        lambda watch: callable(getattr(watch, name)) and getattr(watch, name)() and None,
        {"watch": watched(w)},
        own=("watch",),
        inplace=("watch",),
    )


@target("nn.Watch.histogram")
def _(w: World) -> Call:
    args = {"layer": "0", "kind": w.pick("activation", "gradient"), "index": w.pick(-1, 0, 1)}
    watch = watched(w)
    return Call(lambda **k: bool(watch.histogram(**k)), {}, args)


# optim


def parameters(w: World) -> list[Tensor]:
    found = [Tensor(w.array(*w.shape(0, 2)), requires_grad=True) for _ in range(2)]
    for p in found:
        p.grad = w.pick(w.array(*p.shape), None)
    return found


def sgd(w: World) -> optim.SGD:
    momentum = w.pick(0, 0.9)
    made = optim.SGD(parameters(w), 0.1, momentum, 0, w.pick(0, 0.1), momentum > 0 and w.coin())
    if w.coin():
        made.step()
    return made


@target("optim.SGD")
def _(w: World) -> Call:
    args = {"params": w.pick(parameters(w), [{"params": parameters(w), "lr": 0.5}, {"params": parameters(w)[0]}])}
    args |= {"lr": w.pick(0.1, 0, 1), "momentum": w.pick(0.9, 0.5), "dampening": 0.0, "weight_decay": w.pick(0, 0.1)}

    def fn(*args: Any, **kw: Any) -> Any:
        optim.SGD(*args, **kw).step()

    return Call(
        fn,
        {**args, "nesterov": w.coin()},
        {"maximize": w.coin()},
        inplace=("params",),
        converts=True,
        words=("parameter",),
    )


@target("optim.SGD.step")
def _(w: World) -> Call:
    optimizer = sgd(w)
    group = optimizer.param_groups[0]

    last = group["params"][-1]

    def prepare(call: Call) -> None:
        last.grad = call.args["grad"]
        if isinstance(last.grad, np.generic):  # what NumPy's sums give, unlike a float
            call.keep = ("grad",)
        group.update({name: call.args[name] for name in call.args if name != "grad"})

    args = {"grad": w.pick(w.array(*last.shape), Tensor(w.array(*last.shape))), "lr": 0.1, "momentum": w.pick(0, 0.9)}
    words, state = ("gradient",), (optimizer.param_groups, optimizer._buffers)  # not its notes of what was checked
    return Call(lambda *a: optimizer.step(), args, words=words, converts=True, prepare=prepare, state=state)


@target("optim.SGD.state_dict", "optim.SGD.zero_grad")
def _(w: World) -> Call:
    optimizer = sgd(w)

    def fn(set_to_none: Any) -> None:
        optimizer.state_dict()
        optimizer.zero_grad(set_to_none)

    return Call(fn, {"set_to_none": w.coin()}, state=(optimizer,))


@target("optim.SGD.add_param_group")
def _(w: World) -> Call:
    optimizer = sgd(w)
    group = {"params": w.pick(parameters(w), parameters(w)[0]), "lr": w.pick(0.1, 0), "momentum": w.pick(0, 0.9)}

    def fn(param_group: Any) -> None:
        optimizer.add_param_group(param_group)
        assert repr(optimizer)
        optimizer.step()

    words = ("group", "params", *optim.sgd.SETTINGS)
    return Call(fn, {"param_group": group}, inplace=("param_group",), converts=True, state=(optimizer,), words=words)


@target("optim.SGD.load_state_dict")
def _(w: World) -> Call:
    optimizer = sgd(w)

    def fn(state_dict: Any) -> Any:
        optimizer.load_state_dict(state_dict)
        optimizer.step()

    words = ("state", "param_groups", "params", "momentum_buffer", "group", *optim.sgd.SETTINGS)
    return Call(fn, {"state_dict": optimizer.state_dict()}, state=(optimizer,), words=words)


SCHEDULES: dict[str, dict[str, tuple]] = {
    "StepLR": {"step_size": (1, 3), "gamma": (0.1, 0.9, 1)},
    "MultiStepLR": {"milestones": ([1, 3], (2,), []), "gamma": (0.1, 0.9)},
    "CosineAnnealingLR": {"T_max": (1, 10), "eta_min": (0.0, 0.01)},
    "LinearLR": {"start_factor": (0.3, 1.0), "end_factor": (1.0, 0), "total_iters": (1, 5)},
    "LambdaLR": {"lr_lambda": (lambda t: 0.9**t, lambda t: 1)},
    "SequentialLR": {"schedulers": (), "milestones": ([2],)},
}


def two_schedules(optimizer: Any) -> list[Any]:
    return [optim.lr_scheduler.LinearLR(optimizer), optim.lr_scheduler.StepLR(optimizer, 1)]


def schedule(name: str, w: World) -> Any:
    optimizer = sgd(w)
    arguments = [w.pick(*v) if v else two_schedules(optimizer) for v in SCHEDULES[name].values()]
    return getattr(optim.lr_scheduler, name)(optimizer, *arguments)


def scheduler_constructor(name: str) -> Builder:
    def builder(w: World) -> Call:
        optimizer = sgd(w)

        def fn(*args: Any, **kw: Any) -> Any:
            made = getattr(optim.lr_scheduler, name)(*args, **kw)
            rates = [made.get_last_lr()[0]]
            assert np.isfinite(rates).all(), f"rates {rates}"

        args = {"optimizer": optimizer}
        args |= {k: w.pick(*v) if v else two_schedules(optimizer) for k, v in SCHEDULES[name].items()}
        words = (
            "last_epoch",
            "param_groups",
            "lr",
            "object of type",
            "operand",
            "Tensor",
            "data",
        )  # the last ones: of what lr_lambda is replaced by
        return Call(
            fn,
            args,
            {"last_epoch": -1},
            inplace=("optimizer", "schedulers"),
            own=("optimizer",),
            words=words,
            state=(optimizer,),
        )

    return builder


def scheduler_method(name: str, method: str) -> Builder:
    def builder(w: World) -> Call:
        made = schedule(name, w)
        if method != "load_state_dict":
            return Call(lambda: getattr(made, method)() and None, state=(made,))

        def fn(state_dict: Any) -> Any:
            made.load_state_dict(state_dict)
            made.step()
            assert np.isfinite(made.get_last_lr()).all()

        words = ("base_lrs", "last_epoch", "lr", "_last_lr", "_found", *SCHEDULES[name])
        words += tuple(SCHEDULES["LinearLR"]) + tuple(SCHEDULES["StepLR"]) if name == "SequentialLR" else ()
        return Call(fn, {"state_dict": made.state_dict()}, state=(made,), words=words)

    return builder


for _name in SCHEDULES:
    TARGETS[f"optim.lr_scheduler.{_name}"] = scheduler_constructor(_name)
    for _method in ("step", "get_lr", "get_last_lr", "check_settings", "state_dict", "load_state_dict"):
        TARGETS[f"optim.lr_scheduler.{_name}.{_method}"] = scheduler_method(_name, _method)


# data


def loader_arguments(w: World) -> dict[str, Any]:
    x, y = w.array(w.n, 3), w.classes(w.n, 3)
    args = {"arrays": w.pick(x, (x, y), [x, y]), "batch_size": w.pick(1, 2, 10)}
    return {**args, "shuffle": w.coin(), "drop_last": w.coin(), "seed": w.pick(None, 0, 5)}


@target("data.DataLoader")
def _(w: World) -> Call:
    def fn(*args: Any) -> Any:
        loader = data.DataLoader(*args)
        batches = list(loader)
        assert len(batches) == len(loader)
        return [a for batch in batches for a in batch]

    return Call(fn, loader_arguments(w), converts=True)


def a_loader(w: World) -> data.DataLoader:
    loader = data.DataLoader(*loader_arguments(w).values())
    if w.coin():
        next(iter(loader), None)
    return loader


TARGETS["data.DataLoader.__iter__"] = lambda w: Call(
    list, {"loader": a_loader(w)}, own=("loader",), inplace=("loader",), converts=True
)
TARGETS["data.DataLoader.__len__"] = lambda w: Call(len, {"loader": a_loader(w)}, own=("loader",))
TARGETS["data.DataLoader.state_dict"] = lambda w: Call(a_loader(w).state_dict)


@target("data.DataLoader.load_state_dict")
def _(w: World) -> Call:
    loader = a_loader(w)

    def fn(state_dict: Any) -> Any:
        loader.load_state_dict(state_dict)
        list(loader)

    words = ("order", "position", "generator")
    return Call(fn, {"state_dict": copy.deepcopy(loader.state_dict())}, state=(loader,), words=words)


TARGETS["data.glyphs"] = lambda w: Call(data.glyphs, {"n": w.below(4), "seed": w.below(5), "noise": w.pick(0.1, 0, 1)})


@target("data.mnist1d")
def _(w: World) -> Call:
    strengths = {
        name: w.pick(0.3, 0, 1) for name in ("scale_coeff", "corr_noise_scale", "iid_noise_scale", "shear_scale")
    }
    args = {"n": w.below(4), "seed": w.below(5)}
    return Call(data.mnist1d, args, {"max_translation": 1 + w.below(48), **strengths})


TARGETS["data.load_digits"] = lambda w: Call(lambda: data.load_digits()[0].shape)


@target("data.download_mnist")
def _(w: World) -> Call:  # documented: OSError for servers and disks, ImportError for progress without tqdm
    def prepare(call: Call) -> None:
        if isinstance(call.kw["attempts"], int):  # between attempts it waits, and it makes as many as it was told
            call.kw["attempts"] = min(call.kw["attempts"], 1)

    kw = {"sha256": {"a": "0" * 64}, "progress": False, "timeout": 0.01, "attempts": 1}
    args = {"root": FOLDER / "mnist", "url": "http://127.0.0.1:9/"}  # nothing listens there
    return Call(data.download_mnist, args, kw, errors=(OSError, ImportError), own=("url",), prepare=prepare)


def damaged(w: World, content: bytes) -> bytes:
    """A file's bytes, cut, lengthened or changed."""
    how, at = w.below(5), w.below(max(len(content), 1))
    if how == 0:
        return content[:at]
    if how == 1:
        return content + bytes(w.below(9))
    if how == 2:
        return bytes(w.rng.integers(0, 256, w.below(300), dtype=np.uint8))
    if how == 3:
        return content[:at] + bytes([w.below(256)]) + content[at + 1 :]
    return content


def written(name: str, content: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files(fn: Any, name: str, content: Callable[[World], bytes]) -> Builder:
    def builder(w: World) -> Call:  # FileNotFoundError: documented, where there is no such file
        path = written(name, damaged(w, content(w)))
        kinds = w.pick(str(path), path, path, str(path) + "x", path.parent)
        # an error of a file names the file
        # OSError: the system's own answer, with the path, to a name that it cannot have
        return Call(fn, {"path": kinds}, errors=(OSError,), words=(path.name, FOLDER.name, "."), converts=True)

    return builder


def npz(w: World) -> bytes:
    stream, arrays = io.BytesIO(), {"x": w.array(w.n, 3), "y": w.classes(w.n, 3)}
    for name in arrays:
        if w.coin(0.3):
            value = np.asarray(corrupted(w, arrays[name]))
            arrays[name] = value if value.dtype != object else np.zeros(2, "U3")
    np.savez(stream, **arrays)
    return stream.getvalue()


def corrupted(w: World, a: np.ndarray) -> Any:
    return w.pick(
        a.T,
        a[..., None],
        a.astype(np.complex64),
        a.astype("U4"),
        -a,
        a[:0],
        a * np.nan,
        a.astype(">f8"),
        a.astype(np.int8),
    )


def checkpoint(w: World) -> bytes:
    tb.save(FOLDER / "whole", {"a": w.array(2, 2), "b": [1, 2.5, "x", None], "c": {1: True}})
    return (FOLDER / "whole").read_bytes()


TARGETS["data.load_npz"] = files(data.load_npz, "data.npz", npz)
TARGETS["load"] = files(tb.load, "run.npz", checkpoint)


@target("data.load_mnist")
def _(w: World) -> Call:  # FileNotFoundError: documented
    n = w.pick(0, 3)
    images = b"\0\0\x08\x03" + b"".join(int(k).to_bytes(4, "big") for k in (n, 2, 2)) + bytes(4 * n)
    labels = b"\0\0\x08\x01" + int(n).to_bytes(4, "big") + bytes(n)
    written("mnist/train-images-idx3-ubyte", damaged(w, images))
    written("mnist/train-labels-idx1-ubyte", damaged(w, labels))
    args = {"root": w.pick(FOLDER / "mnist", str(FOLDER / "mnist")), "train": w.coin(0.9)}
    return Call(data.load_mnist, args, errors=(OSError,), words=("mnist", FOLDER.name))


@target("save")
def _(w: World) -> Call:  # OSError: documented, from the disk
    value = {"a": w.array(2, 2), "b": [1, 2.5, "x", None], "c": {1: True, "t": (w.tensor(2),)}, "d": np.float32(3)}

    def fn(path: Any, value: Any) -> Any:
        tb.save(path, value)
        return tb.load(path)

    return Call(
        fn,
        {"path": w.pick(FOLDER / "saved", str(FOLDER / "saved")), "value": value},
        errors=(OSError,),
        own=("path",),
        keep=("value",),
        converts=True,
    )


# preprocessing


SCALERS: dict[str, Callable[[World], dict[str, Any]]] = {
    "StandardScaler": lambda w: flags(w, "with_mean", "with_std"),
    "MinMaxScaler": lambda w: {"feature_range": w.pick((0, 1), [-1.0, 2.0]), "clip": w.coin()},
    "MaxAbsScaler": lambda w: {},
    "RobustScaler": lambda w: {
        **flags(w, "with_centering", "with_scaling"),
        "quantile_range": w.pick((25.0, 75.0), (0, 100)),
    },
    "PCAWhitening": lambda w: {"n_components": w.pick(None, 1), "eps": w.pick(0.0, 0.1)},
    "ZCAWhitening": lambda w: {"eps": w.pick(0.0, 0.1)},
}


def scaler_constructor(name: str) -> Builder:
    def builder(w: World) -> Call:
        x = w.array(6, 3)
        return Call(
            lambda **kw: getattr(preprocessing, name)(**kw).fit_transform(x), {}, SCALERS[name](w), converts=True
        )

    return builder


def scaler_method(name: str, method: str) -> Builder:
    def builder(w: World) -> Call:
        scaler = getattr(preprocessing, name)(**SCALERS[name](w))
        if method not in ("fit", "fit_transform") and w.coin(0.9):
            scaler.fit(w.array(6, 3))
        width = getattr(scaler, "n_components_", 3) if method == "inverse_transform" else 3
        x = w.pick(w.array(5, width), w.rng.integers(-5, 5, (5, width)))
        fn = getattr(scaler, method)
        run = (lambda X: fn(X) and None) if method == "fit" else fn
        return Call(run, {"X": x}, state=(scaler,), words=("fitted",))

    return builder


for _name in SCALERS:
    TARGETS[f"preprocessing.{_name}"] = scaler_constructor(_name)
    for _method in ("fit", "transform", "fit_transform", "inverse_transform"):
        TARGETS[f"preprocessing.{_name}.{_method}"] = scaler_method(_name, _method)


def scaler_protocol(name: str, method: str) -> Builder:
    """What scikit-learn calls beside fit and transform. (A scaler given back is shown by its parameters.)"""

    def builder(w: World) -> Call:
        scaler = getattr(preprocessing, name)(**SCALERS[name](w))
        if w.coin(0.9):
            scaler.fit(w.array(6, 3))
        args, kw = {}, {}
        if method == "get_params":
            fn, args = scaler.get_params, {"deep": w.coin()}
        elif method == "set_params":
            fn, kw = lambda **kw: scaler.set_params(**kw).get_params(), SCALERS[name](w)
        elif method == "set_output":
            fn = lambda transform: scaler.set_output(transform=transform).get_params()
            args = {"transform": w.pick(None, "default", "pandas")}
        else:
            fn = lambda input_features: scaler.get_feature_names_out(input_features).tolist()
            args = {"input_features": w.pick(None, ["a", "b", "c"], ("a", "b", "c"))}
        return Call(fn, args, kw, state=(scaler,), words=("fitted",), converts=True)

    return builder


for _name in SCALERS:
    for _method in ("get_params", "set_params", "get_feature_names_out", "set_output"):
        TARGETS[f"preprocessing.{_name}.{_method}"] = scaler_protocol(_name, _method)
