"""Gradient checks of what is computed with Tensors: gradcheck, and gradgradcheck for second derivatives."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..checks import FLOATS, Array, check_flag, check_iterable
from ..engine.backward import grad
from ..engine.recording import enable_grad, no_grad
from ..engine.tape import Node
from ..engine.tensors import Tensor
from . import calls
from .checking import Check, Settings, settings
from .differences import flat, typical
from .layouts import LAYOUTS
from .report import GradcheckError, Report, mistake, reported
from .subject import Cotangents, Pull, Words, untouched

SINGLE = 2.0**-24  # half the distance of 1 from the next float32


def _outputs(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    out = fn(*inputs)
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    for t in outs:
        if not isinstance(t, Tensor):
            raise TypeError(
                f"fn must return a Tensor or a tuple of Tensors, got {type(t).__name__}: for plain NumPy code with a "
                "backward of its own there is check_pair(forward, backward, inputs)"
            )
    return outs


@contextmanager
def _no_function_of_pytorch() -> Iterator[None]:
    """Refuse a torch.autograd.Function inside fn: given our tensors, its forward runs, and its backward never does."""
    before = sys.getprofile()
    if "torch" not in sys.modules or not (before is None or isinstance(before, types.FunctionType)):
        yield  # a profiler written in C cannot be put back
        return
    seen = []

    def watch(frame: Any, event: str, what: Any) -> None:
        if before is not None:
            before(frame, event, what)
        if event == "c_call" and getattr(what, "__name__", "") == "apply":
            owner = getattr(what, "__self__", None)
            kinds = owner.__mro__ if isinstance(owner, type) else type(owner).__mro__
            if any(k.__module__ == "torch.autograd.function" for k in kinds):
                seen.append(getattr(owner, "__name__", "a Function"))

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
    if seen:
        raise TypeError(
            f"fn calls {seen[0]}.apply, a torch.autograd.Function, whose backward would never run on Tensors of this "
            f"package: check_pair({seen[0]}, None, inputs) checks it by its arrays"
        )


def _unused_backward(fn: Any) -> tuple[str, str] | None:
    """The names of a forward that fn calls, and of a backward beside it: affine_forward, or layer.forward."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return None
    known = dict(fn.__globals__)
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=False):
        with suppress(ValueError):  # the cell of a variable that was never assigned
            known[name] = cell.cell_contents
    for name in (fn.__name__, *code.co_names, *code.co_freevars):
        value, partner = known.get(name), name.replace("forward", "backward")
        if partner != name and callable(value) and callable(known.get(partner)):
            return name, partner
        if "forward" in code.co_names and all(callable(getattr(value, m, None)) for m in ("forward", "backward")):
            return f"{name}.forward", f"{name}.backward"
    return None


def _check_settings(fn: Any, eps: Any, atol: Any, rtol: Any, seed: Any) -> Settings:
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if isinstance(eps, Tensor):
        raise TypeError("eps must be a number, got a Tensor: several inputs go in a list, gradcheck(fn, [x, w])")
    return settings(eps, rtol, atol, seed)


def _checked(inputs: Any, dtypes: tuple[Any, ...] = (np.dtype(np.float64),)) -> tuple[list[Any], list[int]]:
    if isinstance(inputs, Mapping):
        raise TypeError("inputs must be a Tensor or a sequence of arguments, got a dict: list(inputs.values())")
    inputs = [inputs] if isinstance(inputs, Tensor) else check_iterable("inputs", inputs, "arguments")
    checked = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise ValueError(
            "inputs must contain a Tensor with requires_grad=True, got none (Tensors inside of lists in it are not "
            "looked for); for NumPy code with a backward of its own there is check_pair(forward, backward, inputs)"
        )
    for i in checked:
        if inputs[i].dtype not in dtypes:
            raise ValueError(f"inputs[{i}] must be float64 (finite differences need the digits), got {inputs[i].dtype}")
        if not np.isfinite(inputs[i].data).all():
            raise ValueError(f"inputs[{i}] must be finite, got NaN or inf in it")
    first = {id(inputs[i]): i for i in reversed(checked)}  # a tensor that is given twice is one input
    return inputs, [i for i in checked if first[id(inputs[i])] == i]


@contextmanager
def _holding(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> Iterator[None]:
    """The tensors have these arrays meanwhile, which does not count as a change."""
    before = [t._data for t in tensors]
    for t, a in zip(tensors, arrays, strict=True):
        t._data = a
    try:
        yield
    finally:
        for t, a in zip(tensors, before, strict=True):
            t._data = a


class _Tensors:
    """fn and its inputs as what Check asks for."""

    linear, words = True, Words()

    def __init__(self, fn: Callable[..., Any], inputs: list[Any], checked: Sequence[int]) -> None:
        self.fn, self.inputs = fn, inputs
        self.tensors: list[Tensor] = [inputs[i] for i in checked]
        self.names = [f"input {i}" for i in checked]
        self.arrays = [t.data for t in self.tensors]

    def values(self, arrays: Sequence[Array]) -> list[Any]:
        with _holding(self.tensors, arrays), no_grad():
            return [t.data for t in _outputs(self.fn, self.inputs)]

    def say_whose_ops(self, report: Report) -> None:
        """Where fn is made of this package's ops only, no backward but theirs has run."""
        with enable_grad():
            stack: list[Any] = [t._node for t in _outputs(self.fn, self.inputs) if t._node is not None]
        seen: dict[int, Node] = {}
        while stack:
            node = stack.pop()
            if isinstance(node, Node) and id(node) not in seen:
                seen[id(node)] = node
                stack += [source for _, source in node.inputs]
        if not all(str(node.op.__module__).startswith("tinygrad_bn.") for node in seen.values()):
            return
        ops = ", ".join(sorted({node.op.__name__ for node in seen.values()}))
        report.notes.append(f"the gradient is that of the package's own ops ({ops}): no backward of yours has run")
        if pair := _unused_backward(self.fn):
            forward, backward = pair
            report.warnings.append(
                f"fn calls {forward}, but the gradient is that of the package's own ops: {backward} never runs; "
                f"check_pair({forward}, {backward}, inputs) checks it"
            )

    def alone(self, dy: list[Array], i: int) -> Array:
        """The gradient of one input, of a call of its own."""
        _, pull = self.record(self.arrays, [i])
        return pull(dy)[i]

    def record(self, arrays: Sequence[Array], wanted: Sequence[int] | None = None) -> tuple[list[Any], Pull]:
        with _holding(self.tensors, arrays), enable_grad(), _no_function_of_pytorch():
            outs = _outputs(self.fn, self.inputs)
        used = [i for i, t in enumerate(outs) if t.requires_grad]
        if not used:
            raise GradcheckError("no output of fn depends on an input that requires grad")

        def pull(dy: list[Array]) -> list[Array]:
            places = range(len(arrays)) if wanted is None else wanted
            targets = [self.tensors[i] for i in places]
            with _holding(self.tensors, arrays):
                found = grad([outs[i] for i in used], targets, [dy[i] for i in used], True, allow_unused=True)
            gradients = {i: g for i, g in zip(places, found, strict=True) if g is not None}
            return [gradients.get(i, np.zeros(a.shape)) for i, a in enumerate(arrays)]

        return [t.data for t in outs], pull


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float | None = None,
    atol: float = 0.0,
    rtol: float = 1e-9,
    *,
    seed: int = 0,
    report: bool = False,
) -> bool | Report:
    """Compare the gradient of fn with differences of its values, for every element of every input that requires grad.

        numerical = sum_o dy_o f_o'(x)
        passes where |analytic - numerical| <= atol + error bar + rtol sum_o |dy_o f_o'|

    f_o'(x) are derivatives of each output by itself, extrapolated from central differences with several steps, with an
    error bar for each (typically 1e-12; see ``numerical_gradient``). The tolerance scales with the function: a gradient
    of 1e-20 is checked like one of 1. What an input does not move at all may be off by the rounding of the others.

    fn: takes the inputs, returns a Tensor or a tuple of them; deterministic, up to the rounding of reordered sums.
    inputs: a Tensor or a sequence; those that require grad are checked. eps: None (default) finds the steps for each
    element; a number fixes them, 4 eps, eps and eps / 4. atol, rtol: 0 and 1e-9. seed: of the random dy (default 0).
    report: return the Report, with a table per input and all problems, instead of raising (default False).

    dy, the gradient of the outputs, is drawn from N(0, 1) and divided by the size of each output's derivatives, so that
    none drowns; up to 32 outputs are also looked at one by one. Don't sum the outputs in fn: the sum of a normalized
    output is constant, and a backward that gives zeros passes.
    At a kink (ReLU at 0, equal values under a maximum), any value between the derivatives from the left and from the
    right passes; the report says so. At the edge of fn's domain the derivative from inside counts.
    Then the gradient is asked for as an engine may: with dy = 0, -dy, 2^20 dy, 2^-20 dy, 2^-60 dy, dy in two parts or
    repeated in place; with dy, the inputs or both in other memory layouts; a second time; for one input by itself;
    after a call with other values, with fewer samples, with the same arrays changed; and once more at the end.
    float32 inputs: fn is checked at float64 copies of them, and its float32 gradient is compared with the float64 one.

    What is checked is the gradient that this package computes for fn. A ``backward`` function of your own runs only if
    ``differentiable`` lifts it; plain NumPy pairs of forward and backward are for ``check_pair``.
    While it runs the inputs' data is moved: leave them alone in other threads.
    Returns True, or a Report. Errors: GradcheckError naming each wrong input, how many of its elements are wrong, the
    worst with both values and the error bar, and the factor where all that are wrong have one in common; also for what
    is not finite, and for an op that writes into its inputs or into dy. TypeError, ValueError for arguments. A
    RuntimeWarning where elements cannot be told, no output moves, or fn calls affine_forward, say, of plain NumPy, so
    that affine_backward never runs.

    >>> x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> tb.gradcheck(lambda x: x**3, x)
    True
    """
    chosen = _check_settings(fn, eps, atol, rtol, seed)
    check_flag("report", report)
    inputs, checked = _checked(inputs, FLOATS)

    def check() -> Report:
        if any(inputs[i].dtype != np.float64 for i in checked):
            return _in_both_widths(fn, inputs, checked, chosen)
        subject = _Tensors(fn, inputs, checked)
        found = calls.checked(Check(subject, chosen))
        subject.say_whose_ops(found)
        return found

    return reported(check).verdict(report)


def _in_both_widths(fn: Any, inputs: list[Any], checked: list[int], chosen: Settings) -> Report:
    """The check at float64 copies of all float32 tensors, and the float32 gradient beside the float64 one."""
    single = _Tensors(fn, inputs, checked)
    narrow = [t for t in {id(t): t for t in inputs if isinstance(t, Tensor)}.values() if t.dtype == np.float32]
    outs, pull = single.record(single.arrays)
    with _holding(narrow, [t.data.astype(np.float64) for t in narrow]):
        try:
            check = Check(_Tensors(fn, inputs, checked), chosen)
        except TypeError as error:
            raise TypeError(f"inputs are float32, and fn cannot be checked in float64 as well: {error}") from error
        found = calls.checked(check)
        row = check.cotangents.draw()
        row = row.astype(np.float32).astype(np.float64)
        _, pull_double = check.subject.record(check.arrays)
        double = pull_double(check.cotangents.shaped(row))
    gradients = pull([d.astype(np.float32) for d in check.cotangents.shaped(row)])
    # Outputs are rounded, and so are inputs: of x - mean(x) far from 0 the latter is what shows.
    moved = np.full(check.base.size, np.abs(check.base).max(initial=0) or 1.0)
    for columns, a in zip(check.columns, check.arrays, strict=True):
        for column, x in zip(columns, a.ravel(), strict=True):
            moved[column.outputs] += np.abs(column.value * x)
    roundings = float((np.abs(flat(outs) - check.base) / moved).max(initial=0) / SINGLE)
    if roundings > 1000:
        found.problems.append(f"fn gives other outputs in float32 than in float64, {roundings:.3g} roundings away")
    tolerances: list[Array] = []
    for i, name in enumerate(single.names):
        size = check.terms(row[None], check.columns[i])[2][0].reshape(double[i].shape)
        # What rounding the outputs does to a gradient that is computed from them, as y (1 - y) is.
        terms = np.abs(row * check.base)
        near = np.reshape([terms[c.outputs].sum() for c in check.columns[i]], size.shape)
        near = near / np.maximum(np.abs(check.arrays[i]), typical(check.arrays[i]))
        size = size + 1e-3 * size.max(initial=0) + 0.5 * near
        allowed = SINGLE * (64 + 16 * min(roundings, 1000)) * size
        right = np.abs(gradients[i] - double[i]) <= allowed
        tolerances.append(allowed)
        if not right.all():
            words = mistake(right, gradients[i].astype(np.float64), double[i], "float32", "float64", allowed)
            found.problems.append(f"{name}: the gradient in float32 differs from the one in float64: {words}")
    single.say_whose_ops(found)
    if not found.problems:
        dy = [d.astype(np.float32) for d in check.cotangents.shaped(row)]
        found.problems += _calls_in_float32(single.names, pull, dy, gradients, tolerances)
    return found


def _calls_in_float32(
    names: list[str], pull: Pull, dy: list[Array], first: list[Array], tolerances: list[Array]
) -> list[str]:
    """A float32 kernel has a memory of its own: the calls of calls.py, with dy only."""
    multiples: tuple[tuple[str, float], ...] = (
        *(("the same dy a second time", 1.0), ("dy = 0", 0.0), ("-dy", -1.0)),
        *(("dy times 1024", 1024.0), ("dy / 1024", 1 / 1024)),
    )
    tries = [(what, factor, [np.float32(factor) * d for d in dy]) for what, factor in multiples]
    tries += [(f"dy {layout}", 1.0, [change(d) for d in dy]) for layout, change in LAYOUTS.items()]
    for what, factor, changed in tries:
        found = pull([np.asarray(d) for d in changed])
        for name, g, e, tolerance in zip(names, found, first, tolerances, strict=True):
            right = np.abs(g - factor * e) <= abs(factor) * tolerance + 2.0**-126
            if not right.all():
                words = mistake(right, g.astype(np.float64), factor * e, "found", "expected", tolerance)
                return [f"{name}: another gradient in float32 for {what}: {words}"]
    return []


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float | None = None,
    atol: float = 0.0,
    rtol: float = 1e-9,
    *,
    seed: int = 0,
    report: bool = False,
) -> bool | Report:
    """gradcheck of the gradient of fn, as a function of the inputs and of the cotangents: second derivatives.

    First the gradient with create_graph=True, which comes from the ops' definitions, is compared with the one without,
    and the latter must be linear in the cotangents: a pullback that leaves dy out has consistent second derivatives,
    of another function. Whether the first derivatives are right, gradcheck says.
    fn, inputs, eps (None: found for each element), atol, rtol, seed, report: as in gradcheck; inputs must be float64.
    Returns and errors: as gradcheck, GradcheckError above all; in its messages the cotangents are numbered on after
    the inputs.

    >>> x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> tb.gradgradcheck(lambda x: x**3, x)
    True
    """
    chosen = _check_settings(fn, eps, atol, rtol, seed)
    check_flag("report", report)
    inputs, checked = _checked(inputs)
    return reported(lambda: _in_second_order(fn, inputs, checked, chosen)).verdict(report)


def _in_second_order(fn: Any, inputs: list[Any], checked: list[int], chosen: Settings) -> Report:
    """The gradient with and without a history, then the check of the gradient as a function."""
    plain = Check(_Tensors(fn, inputs, checked), chosen)  # what the first derivatives add up
    names, arrays = plain.subject.names, plain.arrays
    with enable_grad(), _no_function_of_pytorch():
        outs = _outputs(fn, inputs)
    if not any(t.requires_grad for t in outs):
        raise GradcheckError("no output of fn depends on an input that requires grad")
    drawn = Cotangents([t.data for t in outs], np.ones(sum(t.size for t in outs)), chosen.seed + 1)
    cotangents = [Tensor(c, requires_grad=True) for c in drawn.shaped(drawn.draw())]

    def gradient(*args: Any) -> tuple[Tensor, ...]:
        given, seeds = args[: len(inputs)], args[len(inputs) :]
        results = _outputs(fn, given)
        used = [(t, s) for t, s in zip(results, seeds, strict=True) if t.requires_grad]
        targets = [given[i] for i in checked]
        found = grad([t for t, _ in used], targets, [s for _, s in used], create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    def first(*args: Any) -> tuple[Tensor, ...]:
        with enable_grad():  # gradients are taken inside, also while finite differences run without recording
            return gradient(*args)

    used = [(t, c.data) for t, c in zip(outs, cotangents, strict=True) if t.requires_grad]
    results, targets = [t for t, _ in used], [inputs[i] for i in checked]
    seeds, doubled_seeds = [c for _, c in used], [np.asarray(2 * c) for _, c in used]
    with untouched("a pullback", [*names, *["dy"] * len(seeds)], [*arrays, *seeds]):
        once = grad(results, targets, seeds, retain_graph=True, allow_unused=True)
        twice = grad(results, targets, doubled_seeds, retain_graph=True, allow_unused=True)
    allowed = plain.allowed(np.concatenate([c.data.ravel() for c in cotangents]))

    def differences(what: str, found: Any, expected: Any, words: tuple[str, str], factor: float) -> list[str]:
        pairs = zip(names, found, expected, allowed, strict=True)
        return [t for n, f, e, a in pairs if e is not None for t in _differ(f"{n}: {what}", f, e, words, factor * a)]

    doubled = [None if g is None else 2 * g for g in once]
    what = "the gradient is not linear in dy, twice the dy does not double it"
    problems = differences(what, twice, doubled, ("found", "expected"), 2)
    if not problems:
        recorded = iter(first(*inputs, *cotangents))
        again = [None if g is None else next(recorded).data for g in once]
        what = "the gradient recorded with create_graph=True differs from the plain one"
        problems = differences(what, again, once, ("recorded", "plain"), 1)
    if problems:
        return Report(problems=problems, legend=plain.report.legend)
    return calls.checked(Check(_Tensors(first, *_checked([*inputs, *cotangents])), chosen))


def _differ(what: str, found: Array, expected: Array, names: tuple[str, str], allowed: Array) -> list[str]:
    close = np.abs(found - expected) <= allowed
    right = close | (found == expected) | (np.isnan(found) & np.isnan(expected))
    return [] if right.all() else [f"{what}: {mistake(right, found, expected, *names, allowed)}"]
