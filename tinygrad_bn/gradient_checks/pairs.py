"""Gradient checks of plain NumPy code: pairs of forward and backward, as courses write them."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import Array, check_flag, plain_array
from ..engine.tensors import Tensor
from . import calls
from .checking import Check, settings
from .differences import flat
from .layouts import alike
from .report import GradcheckError, Report, reported
from .subject import Words

CONTAINERS = (dict, list, tuple)


def _is_floats(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _double(value: Any, name: str, known: dict[int, Array]) -> Any:
    """Copies of arrays of floats as float64, also in containers; the rest as it is. The same one is one again."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be an array, got a Tensor: gradcheck(fn, inputs) checks what runs on Tensors")
    if _is_floats(value):
        if id(value) not in known:
            plain = plain_array(value, name)
            known[id(value)] = alike(plain) if plain.dtype == np.float64 else plain.astype(np.float64)
        return known[id(value)]
    if isinstance(value, dict):
        return _changed(value, {k: _double(v, f"{name}[{k!r}]", known) for k, v in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_double(v, f"{name}[{i}]", known) for i, v in enumerate(value))
    return value


def _changed(value: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    """A copy of a dict, or of a kind of dict, with other values."""
    changed = copy.copy(value)
    changed.update(items)
    return changed


Path = tuple[Any, ...]  # the number or name of an argument, and keys into containers


def _leaves(value: Any, path: Path) -> list[Path]:
    """Where in an argument the arrays of floats are."""
    if _is_floats(value):
        return [path]
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in _leaves(v, (*path, k))]
    if type(value) in (list, tuple):
        return [p for i, v in enumerate(value) for p in _leaves(v, (*path, i))]
    return []


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: Path, new: Any) -> Any:
    """A copy of nested containers in which one place is new."""
    if not path:
        return new
    if isinstance(value, dict):
        return _changed(value, {path[0]: _with(value[path[0]], path[1:], new)})
    parts = list(value)
    parts[path[0]] = _with(parts[path[0]], path[1:], new)
    return tuple(parts) if isinstance(value, tuple) else parts


def _plain(name: Any) -> str:
    """dW, grad_W, W_grad and dLdW name the gradient of W."""
    text = str(name)
    for start in ("grad_", "dL_d", "dLd", "d_", "d"):
        if text.startswith(start) and len(text) > len(start):
            return text[len(start) :]
    return text.removesuffix("_grad")


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


class _Pair:
    """forward and backward as what Check asks for."""

    alone = None  # backward gives all gradients

    def __init__(self, forward: Any, backward: Any, inputs: Any, stateful: bool) -> None:
        self.forward, self.backward, self.stateful = forward, backward, stateful
        self.linear = backward is not None
        self.words = Words(
            "forward",
            "backward" if self.linear else "forward",
            "dout",
            "help(tb.check_pair)",
            "" if stateful else " (a layer that keeps its last forward itself is checked with stateful=True)",
            ": seed what it draws anew in each call, or hand it a generator as an input, which is copied for each call",
        )
        self.named = isinstance(inputs, Mapping)
        if not isinstance(inputs, (Mapping, list, tuple)):
            inputs = [inputs]
        self.keys: list[Any] = list(inputs) if self.named else list(range(len(inputs)))
        names = self.keys if self.named else _parameters(forward, len(self.keys))
        self.labels = dict(zip(self.keys, names, strict=True))
        values = inputs.values() if self.named else inputs
        try:
            known: dict[int, Array] = {}
            self.given = {
                k: _double(v, f"input {self.labels[k]}", known) for k, v in zip(self.keys, values, strict=True)
            }
        except RecursionError as error:
            raise ValueError("inputs must not hold themselves") from error
        if not any(_leaves(v, ()) for v in self.given.values()):
            got = ", ".join(_kind(v) for v in self.given.values())
            raise ValueError(
                f"inputs must contain an array of floats, got {got or 'nothing'}: np.array(x, dtype=float) makes one; "
                "a list holds the arguments of forward"
            )
        if self.named and (unknown := _unknown(forward, self.keys)):
            raise TypeError(
                f"inputs must name arguments of forward, got {', '.join(map(repr, unknown))}: an argument that is a "
                "dict goes into a list, [params]"
            )
        self.paths: list[Path] = []
        self.picks: list[Path | None] = []  # where in what backward returns the gradient is; None: it gives none
        self._find_out()

    # What is called

    def _call(self, arrays: Sequence[Array]) -> tuple[Any, Callable[[Any], Any]]:
        """(outputs as they came, backward of them)."""
        given = dict(self.given)
        for path, a in zip(self.paths, arrays, strict=True):
            given[path[0]] = _with(given[path[0]], path[1:], a)
        checked = {p[0] for p in self.paths if len(p) == 1}
        # what is passed on is copied each time: running statistics in it may be changed by forward
        args = {k: v if k in checked else _fresh(v, [p[1:] for p in self.paths if p[0] == k]) for k, v in given.items()}
        result = _noted(
            lambda: self.forward(**args) if self.named else self.forward(*args.values()),
            f"check_pair called forward({', '.join(map(str, self.labels.values()))})",
        )
        if self.backward is None:
            out, gradients = self._split(result, "forward must return (loss, gradient) where backward is None")
            return out, lambda dy: gradients
        if self.stateful:
            return result, lambda dy: _noted(lambda: self.backward(dy), "check_pair called backward(dout)")
        out, cache = self._split(result, "forward must return (out, cache); stateful=True is for a layer that keeps it")
        if len(result) == 2:
            said = f"check_pair called backward(dout, cache), where the cache is {_kind(cache)}"
            return out, lambda dy: _noted(lambda: self.backward(dy, cache), said)
        said = (
            f"forward returned {len(out)} outputs and a cache, so check_pair called backward("
            f"{', '.join(f'dout{i + 1}' for i in range(len(out)))}, cache); wrap forward to leave an output out"
        )
        return out, lambda dy: _noted(lambda: self.backward(*dy, cache), said)

    @staticmethod
    def _split(result: Any, otherwise: str) -> tuple[Any, Any]:
        if not isinstance(result, tuple) or len(result) < 2:
            raise TypeError(f"{otherwise}, got {_kind(result)}")
        return (result[0] if len(result) == 2 else result[:-1]), result[-1]

    # Outputs: arrays and numbers of floats, in tuples and dicts; integers and None pass through

    def _outputs(self, out: Any) -> list[Any]:
        if isinstance(out, Tensor):
            raise TypeError("forward returned a Tensor, whose gradient the engine computes: backward would never be "
                            "checked; use gradcheck(fn, inputs), or give forward arrays")  # fmt: skip
        if isinstance(out, dict):
            return [o for v in out.values() for o in self._outputs(v)]
        if isinstance(out, (tuple, list)):
            return [o for v in out for o in self._outputs(v)]
        if isinstance(out, (float, np.floating)) or _is_floats(out):
            return [out]
        if (
            out is None
            or isinstance(out, (int, np.integer, np.bool_, str))
            or (isinstance(out, np.ndarray) and out.dtype.kind in "iub")
        ):
            return []
        remedy = ": stateful=True is for a layer that keeps its cache itself" if self.stateful else ""
        raise TypeError(f"forward must return arrays of floats, got {type(out).__name__}{remedy}")

    def _shaped(self, out: Any, dy: list[Array]) -> Any:
        """dy in the structure of the outputs."""
        if isinstance(out, dict):
            return {k: self._shaped(v, dy) for k, v in out.items()}
        if isinstance(out, (tuple, list)):
            return type(out)([self._shaped(v, dy) for v in out])
        if isinstance(out, float) and not isinstance(out, np.floating):
            return float(dy.pop(0))
        if isinstance(out, np.floating):
            return np.float64(dy.pop(0))
        return dy.pop(0) if _is_floats(out) else None

    # Gradients: matched with the inputs once

    def _find_out(self) -> None:
        """Call both once, and see for which inputs there is a gradient."""
        out, back = self._call([])
        outs = self._outputs(out)
        if not outs:
            raise GradcheckError("forward gives no floats, so there is nothing to differentiate")
        gradients = back(self._shaped(out, [np.ones(np.shape(o)) for o in outs]))
        if gradients is None:
            raise GradcheckError(f"{self.words.backward} returned None: no gradient to check")
        matches = self._matched(gradients)
        found: dict[Path, Path] = {}
        for path, pick in matches:
            if path in found:
                names = f"{found[path][-1]!r} and {pick[-1]!r}"
                raise ValueError(f"{self.words.backward} gave two gradients of {self._name(path)}: {names}")
            if _at(gradients, pick) is not None:
                found[path] = pick
        if not found:
            raise GradcheckError(f"{self.words.backward} gave no gradient of any input: nothing was checked")
        for path, pick in found.items():
            shape, at = np.shape(_at(gradients, pick)), self._given(path)
            if shape != at.shape:
                raise GradcheckError(
                    f"{self.words.backward} gave a gradient of shape {shape} for {self._name(path)} of shape {at.shape}"
                )
        # What has no gradient, in a container where others have one, must have no influence.
        partly = {path[:-1] for path in found if len(path) > 1}
        every = [p for k in self.keys for p in _leaves(self.given[k], (k,))]
        self.paths = [p for p in every if p in found or p[:-1] in partly]
        self.left_out = [p for p in every if p not in self.paths and not self._is_setting(p)]
        self.picks = [found.get(p) for p in self.paths]
        self.names = [self._name(p) for p in self.paths]
        self.arrays: list[Array] = [self._given(p) for p in self.paths]
        for name, a in zip(self.names, self.arrays, strict=True):
            if not np.isfinite(a).all():
                raise ValueError(f"{name} must be finite, got NaN or inf in it")

    def _is_setting(self, path: Path) -> bool:
        """Whether the array stands beside other things in a container: running statistics and a mode, say."""
        around = _at(self.given[path[0]], path[1:-1]) if len(path) > 1 else {}
        return not all(
            isinstance(v, (*CONTAINERS, np.ndarray)) for v in (around.values() if isinstance(around, dict) else around)
        )

    def _given(self, path: Path) -> Any:
        return _at(self.given[path[0]], path[1:])

    def unchecked(self) -> tuple[list[str], list[str]]:
        """What was not checked, for the report; and which of it the outputs depend on, for a warning."""
        seen = {p[0] for p in self.paths}
        notes = [f"not checked: input {self.labels[k]}, {_kind(self.given[k])}" for k in self.keys if k not in seen]
        before, matter = flat(self.values(self.arrays)), []
        given = self.given
        for path in self.left_out:
            self.given = {
                **given,
                path[0]: _with(given[path[0]], path[1:], calls.nudged([_at(given[path[0]], path[1:])])[0]),
            }
            try:
                after = flat(self.values(self.arrays))
            except Exception:  # another value is not taken: it cannot be said
                continue
            finally:
                self.given = given
            if after.shape != before.shape or not np.allclose(after, before, 1e-9, 0, equal_nan=True):
                matter.append(self._name(path))
        return notes, matter

    def _name(self, path: Path) -> str:
        return f"input {self.labels[path[0]]}" + "".join(f"[{k!r}]" for k in path[1:])

    def _matched(self, gradients: Any) -> list[tuple[Path, Path]]:
        direct = [(k,) for k in self.keys if _is_floats(self.given[k])]
        every = [p for k in self.keys for p in _leaves(self.given[k], (k,))]
        if isinstance(gradients, dict):
            return self._by_name(gradients, every)
        if not isinstance(gradients, (tuple, list)):
            only = direct or every
            if len(only) != 1:
                raise self._unclear(f"one {type(gradients).__name__}", only)
            return [(only[0], ())]
        count = len(gradients)
        if count == len(direct):
            return [(p, (i,)) for i, p in enumerate(direct)]
        if count == len(self.keys):
            return [m for i, k in enumerate(self.keys) for m in self._below((k,), (i,), gradients[i])]
        if count == len(every):
            return [(p, (i,)) for i, p in enumerate(every)]
        raise self._unclear(_plural(count, "gradient"), direct or every)

    def _below(self, path: Path, pick: Path, gradient: Any) -> list[tuple[Path, Path]]:
        """The gradient of one argument; of a container with the same keys, part by part."""
        value = self._given(path)
        if gradient is None:
            return []
        if _is_floats(value):
            return [(path, pick)]
        if isinstance(value, dict) and isinstance(gradient, dict):
            keys = {_plain(k): k for k in gradient} | {k: k for k in gradient}
            return [m for k in value if k in keys for m in self._below((*path, k), (*pick, keys[k]), gradient[keys[k]])]
        if isinstance(value, (list, tuple)) and isinstance(gradient, (list, tuple)) and len(value) == len(gradient):
            return [m for i in range(len(value)) for m in self._below((*path, i), (*pick, i), gradient[i])]
        if isinstance(value, CONTAINERS) and _leaves(value, ()):
            raise ValueError(
                f"{self.words.backward} gave {_kind(gradient)} as the gradient of {self._name(path)}, {_kind(value)}: "
                "it must be of the same structure"
            )
        raise ValueError(
            f"{self.words.backward} gave a gradient of {self._name(path)}, which is {_kind(value)}: give forward an "
            "array of floats, np.array(x, dtype=float), or return None for it"
        )

    def _by_name(self, gradients: dict[Any, Any], every: list[Path]) -> list[tuple[Path, Path]]:
        places: dict[str, Path] = {}
        for path in every:
            name = str(path[-1] if len(path) > 1 else self.labels[path[0]])
            places.setdefault(name, path)
        found = []
        for key, gradient in gradients.items():
            if place := places.get(str(key)) or places.get(_plain(key)):
                found.append((place, (key,)))
                continue
            whole = next((k for k in self.keys if str(self.labels[k]) in (str(key), _plain(key))), None)
            if whole is not None:
                found += self._below((whole,), (key,), gradient)
            elif gradient is not None:
                raise ValueError(
                    f"{self.words.backward} returned a gradient named {key!r}, which is none of the inputs "
                    f"{sorted(places)}, with or without a d before it"
                )
        return found

    def _unclear(self, got: str, paths: list[Path]) -> ValueError:
        names = ", ".join(self._name(p) for p in paths)
        return ValueError(
            f"{self.words.backward} returned {got} for {_plural(len(paths), 'input')} of floats ({names}): give one "
            "for each, in order, None for those without influence, or a dict with their names"
        )

    # What Check calls

    def values(self, arrays: Sequence[Array]) -> list[Any]:
        return self._outputs(self._call(arrays)[0])

    def record(self, arrays: Sequence[Array]) -> tuple[list[Any], Callable[[list[Array]], list[Array]]]:
        out, back = self._call(arrays)

        def pull(dy: list[Array]) -> list[Array]:
            if self.stateful:  # a layer knows its last forward only
                self._call(arrays)
            gradients = back(self._shaped(out, list(dy)))
            found = []
            for name, pick, a in zip(self.names, self.picks, arrays, strict=True):
                g = np.zeros(a.shape) if pick is None else np.asarray(_at(gradients, pick))
                if g.shape != a.shape:
                    raise GradcheckError(
                        f"{self.words.backward} gave a gradient of shape {g.shape} for {name} of shape {a.shape}"
                    )
                if g.dtype.kind not in "fiub":
                    raise GradcheckError(f"{self.words.backward} gave a gradient of {g.dtype} for {name}")
                found.append(np.array(g, np.float64))  # a copy: it may be a buffer that the next call fills
            return found

        return self._outputs(out), pull


def _fresh(value: Any, but: list[Path]) -> Any:
    """A copy of what is passed on, without that of the arrays that are checked."""
    if isinstance(value, dict):
        items = {k: v if (k,) in but else _fresh(v, [p[1:] for p in but if p[0] == k]) for k, v in value.items()}
        return _changed(value, items)
    if type(value) in (list, tuple):
        parts = enumerate(value)
        return type(value)([v if (i,) in but else _fresh(v, [p[1:] for p in but if p[0] == i]) for i, v in parts])
    return (
        copy.deepcopy(value) if isinstance(value, (np.ndarray, np.random.Generator, np.random.RandomState)) else value
    )


def _noted(call: Callable[[], Any], note: str) -> Any:
    """What the call returns; an error says how it was called (from Python 3.11 on)."""
    try:
        return call()
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(note)
        raise


def _unknown(forward: Any, names: list[Any]) -> list[Any]:
    """Names that forward has no argument for."""
    try:
        parameters = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return [n for n in names if n not in parameters]


def _parameters(forward: Any, count: int) -> list[str]:
    """The names of forward's arguments where it says them, else numbers."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return [str(i) for i in range(count)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return names[:count] + [str(i) for i in range(len(names), count)]


def _of_pytorch(forward: Any) -> Any:
    """The Function class, if forward is one, or its apply."""
    if "torch" not in sys.modules:
        return None
    owner = forward if isinstance(forward, type) else getattr(forward, "__self__", None)
    is_one = isinstance(owner, type) and any(k.__module__ == "torch.autograd.function" for k in owner.__mro__)
    return owner if is_one else None


def _bound(function: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """Arguments by name in the order of a Function's forward, which apply takes by position only."""
    try:
        bound = inspect.signature(function.forward).bind(None, **inputs)
    except TypeError as error:
        raise TypeError(f"inputs must name the arguments of {function.__name__}.forward: {error}") from None
    bound.apply_defaults()
    return list(bound.args[1:])


def _through_pytorch(function: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """forward and backward of a torch.autograd.Function, from arrays to arrays."""
    torch: Any = sys.modules["torch"]
    names = [p for p in inspect.signature(function.forward).parameters if p != "ctx"]

    def tensor(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        return torch.from_numpy(np.array(a)).requires_grad_() if _is_floats(a) else torch.from_numpy(np.array(a))

    def forward(*args: Any) -> Any:
        leaves = [tensor(a) for a in args]
        # computed from the leaves, so that a Function may work in place
        outs = function.apply(*[t * 1 if getattr(t, "requires_grad", False) else t for t in leaves])
        outs = outs if isinstance(outs, tuple) else (outs,)
        values = [o.detach().numpy().copy() if isinstance(o, torch.Tensor) else o for o in outs]
        return (*values, (outs, leaves))

    def backward(*given: Any) -> Any:
        *dy, (outs, leaves) = given
        pairs = [(o, torch.from_numpy(np.array(d))) for o, d in zip(outs, dy, strict=True) if d is not None]
        used = [(o, d) for o, d in pairs if o.requires_grad]
        if not used:
            raise GradcheckError(f"no output of {function.__name__}.apply requires grad: its backward never ran")
        inputs = [t for t in leaves if getattr(t, "requires_grad", False)]
        found = torch.autograd.grad(
            [o for o, _ in used], inputs, [d for _, d in used], retain_graph=True, allow_unused=True
        )
        return tuple(
            np.zeros(tuple(t.shape)) if g is None else g.numpy().copy() for t, g in zip(inputs, found, strict=True)
        )

    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward, backward


def check_pair(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    inputs: Any,
    *,
    stateful: bool = False,
    rtol: float = 1e-9,
    atol: float = 0.0,
    eps: float | None = None,
    seed: int = 0,
    report: bool = False,
) -> bool | Report:
    """gradcheck for plain NumPy code, such as a course assignment: a forward and a backward of your own.

        forward(*inputs) -> (out, cache)          backward(dout, cache) -> gradients

    forward: out may be an array, a number or a dict of arrays (then dout is such a dict). With several outputs it
        returns (out1, out2, cache), and backward takes (dout1, dout2, cache).
    backward: returns the gradient of the only array of floats among the inputs; or a tuple, one for each such array, or
        for each input; or a dict, {"dx": ..., "dW": ...} or {"x": ..., "W": ...}. A gradient may be None, or missing in
        a dict: a RuntimeWarning says so if the outputs depend on that input. None as backward is for losses: forward
        returns (loss, gradient) or (loss, (gradient, ...)), check_pair(softmax_loss, None, [x, labels]); also for a
        torch.autograd.Function, which is checked by its arrays, check_pair(MyFunction, None, inputs).
    inputs: a list of forward's arguments, a dict of them by name, or one array. Arrays of floats are checked, in
        float64; also those in a dict or list of which backward gives gradients under the same keys. The rest, integers,
        strings, None, settings such as {"mode": "train"}, is handed on, as a copy for each call, so that running
        statistics and random generators start anew. Small arrays do: forward runs six times or more for each element.
    stateful: for a layer object that keeps its last forward itself (default False). forward(*inputs) -> out,
        backward(dout) -> gradients, always called right after each other: check_pair(layer.forward, layer.backward, x,
        stateful=True). Parameters are checked where they are inputs and their gradients are returned; gradients that
        backward leaves in attributes, self.dW, are not looked at. The layer is used as it is, and changed.
    rtol, atol, eps (None: found for each element), seed (of dout, drawn from N(0, 1)), report: as in gradcheck, and so
        is what is checked: every element of every input; then dout = 0, -dout, scaled, in parts, in other memory
        layouts, a second time with the same cache (of a stateful layer, after forward again), and after a forward with
        other values, whose gradient must be right as well.
    Returns True, or a Report. Errors: GradcheckError as gradcheck, naming inputs as forward's signature does;
    TypeError, ValueError for arguments.

    >>> def affine_forward(x, w, b):
    ...     return x @ w + b, (x, w)
    >>> def affine_backward(dout, cache):
    ...     x, w = cache
    ...     return dout @ w.T, x.T @ dout, dout.sum(axis=0)
    >>> rng = np.random.default_rng(0)
    >>> tb.check_pair(affine_forward, affine_backward, [rng.normal(size=s) for s in ((4, 3), (3, 2), (2,))])
    True
    """
    function = _of_pytorch(forward)
    if function is not None:
        if backward is not None:
            raise TypeError("backward must be None for a torch.autograd.Function, which has its own")
        if isinstance(inputs, Mapping):
            inputs = _bound(function, inputs)
        forward, backward = _through_pytorch(function)
    if hasattr(forward, "rule") and backward is None:
        raise TypeError("forward must be a NumPy function, got an op made by differentiable: gradcheck(op, inputs)")
    if not callable(forward):
        remedy = ": pass its methods, forward and backward, with stateful=True" if hasattr(forward, "backward") else ""
        raise TypeError(f"forward must be callable, got {type(forward).__name__}{remedy}")
    if backward is not None and not callable(backward):
        raise TypeError(f"backward must be callable or None, got {type(backward).__name__}")
    chosen = settings(eps, rtol, atol, seed)
    check_flag("stateful", stateful)
    check_flag("report", report)
    if stateful and backward is None:
        raise ValueError("stateful=True needs a backward, got None")

    def check() -> Report:
        pair = _Pair(forward, backward, inputs, stateful)
        found = calls.checked(Check(pair, chosen))
        notes, matter = pair.unchecked()
        found.notes += notes
        if matter:
            said = (
                f"the outputs depend on {', '.join(matter)}, of which {pair.words.backward} gives no gradient: not "
                "checked (where none is needed, bind it: lambda x: forward(x, b))"
            )
            found.notes.append(said)
            found.warnings.append(said)
        return found

    return reported(check).verdict(report)
