"""The walk back along the tape: gradients from the outputs to whatever they were computed from.

Gradients travel in a table beside the graph; tensors get theirs at the end. The walk is a loop, not a recursion, so
that a chain of 100,000 ops is no harder than one of ten. With create_graph=True the same walk runs on tensors, and
is itself recorded: that is all there is to second derivatives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from sys import getrefcount
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_iterable, plain_array
from ..runtime.blas import one_thread
from ..runtime.sums import total
from . import guards, versions
from .recording import grad_enabled
from .tape import Node, Pullback, differentiable
from .tensors import Tensor


def _references(table: dict[int, Any], key: int) -> int:
    """How many places refer to the array in the table, or to the array that it is a view of.

    A view counts only if it is another shape of a whole array; of a part of one, anyone may hold the rest.
    """
    g = table[key]
    whole = g.base
    if whole is None:
        return getrefcount(g)
    if type(whole) is np.ndarray and whole.base is None and whole.size == g.size:
        return max(getrefcount(g), getrefcount(whole))
    return 1 << 30


ALONE = _references({0: np.empty(4)}, 0)  # to an array that only a table holds


def _delivered(table: dict[int, Any], key: int, create_graph: bool) -> Any:
    """The gradient in the table, to be given away: a copy if anyone else holds its memory, or a part of it.

    Not dy, nor part of something, nor an array that a closure or a variable elsewhere holds: that shows in its count of
    references.
    """
    if create_graph:
        return _copy(table[key])
    alone = _references(table, key) <= ALONE and table[key].flags.writeable
    return table[key] if alone else table[key].copy()


class _Observer(threading.local):  # per thread: trace() in one thread does not print what others do
    report: Callable[..., None] | None = None  # called with (node, dy, i, source, g) for each g that is handed on


observer = _Observer()
_serial = attrgetter("serial")


@differentiable
def _alias(x: Any) -> Any:
    """The same value under a new node, to differentiate with respect to x here and nowhere earlier."""
    return x, lambda dy: dy


@differentiable
def _copy(x: Any) -> Any:
    """The same value in memory of its own."""
    return x.copy() if isinstance(x, np.ndarray) else _copy(x), lambda dy: dy


def _add(a: Any, b: Any) -> Any:
    """a + b as an array or a Tensor: NumPy makes a scalar of the sum of two arrays without axes."""
    total = a + b
    return total if type(total) is np.ndarray or isinstance(total, Tensor) else np.asarray(total)


def _check_same(node: Node, y: Any, problem: str) -> None:
    counter, seen, first = node.versions[-1]
    if counter[0] != seen:
        return
    y = y._data if isinstance(y, Tensor) else y
    scale = np.abs(first).max(where=np.isfinite(first), initial=1.0)  # of what may have cancelled in an element
    rtol, atol = 1e-4, 1e-5 * float(scale)
    with np.errstate(invalid="ignore"):  # inf - inf: then allclose is asked, which takes five times as long
        close = np.shape(y) == first.shape and (np.abs(y - first) <= atol + rtol * np.abs(first)).all()
    if not close and not np.allclose(y, first, rtol=rtol, atol=atol, equal_nan=True):
        raise RuntimeError(f"{node.op.__name__} cannot be differentiated twice: {problem}")


def pullback_on_tensors(node: Node) -> Pullback:
    """The node's pullback as a formula of tensors, recorded as it is computed: the way to second derivatives.

    A primitive's own rule runs once more, on tensors instead of arrays. A fused op runs its definition, and the
    gradient of that composition is taken.
    """
    op = node.op
    if op.definition is None:
        pullback_of_tensors: Pullback
        try:
            y, pullback_of_tensors = op.rule(*node.args, **node.kwargs)
        except Exception as error:
            raise RuntimeError(
                f"{op.__name__} cannot be differentiated twice: write it with NumPy functions that tensors "
                f"know, or name such a formula with @differentiable(definition=...) ({error})"
            ) from error
        _check_same(
            node,
            y,
            "computed again it gave another result: an op must depend on its arguments alone; draw random numbers "
            "outside of it and pass them in",
        )
        return pullback_of_tensors

    def pullback(dy: Any) -> tuple[Any, ...]:
        args = [_alias(a) if isinstance(a, Tensor) else a for a in node.args]
        y = op.definition(*args, **node.kwargs)
        _check_same(node, y, "its definition gives another result than its rule")
        inputs = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        gradients = iter(walk([y], [dy], inputs, True, True))
        return tuple(next(gradients) if isinstance(a, Tensor) and a.requires_grad else None for a in args)

    return pullback


def _sum_to(g: Any, shape: tuple[int, ...], name: str) -> Any:
    """Undo broadcasting: sum g over the axes along which an argument of this shape was repeated."""
    extra = g.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        raise ValueError(f"the pullback of {name} gave a gradient of shape {g.shape} for an argument of {shape}")
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return total(g, axes, keepdims=True).reshape(shape)


def _seed(output: Tensor, gradient: Any, name: str) -> Any:
    """Check the gradient at which a walk starts; 1 where an output of one element came with none."""
    if not isinstance(output, Tensor):
        raise TypeError(f"outputs must be Tensors, got {type(output).__name__}")
    if not output._requires_grad:
        raise RuntimeError("backward() needs a tensor that was computed from one with requires_grad=True")
    if gradient is None:
        if output.size != 1:
            raise RuntimeError(f"{name} must be given for an output of shape {output.shape} (not one element)")
        return np.ones_like(output._data)
    if not isinstance(gradient, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be an array or a Tensor, got {type(gradient).__name__}")
    if type(gradient) is not np.ndarray and isinstance(gradient, np.ndarray):
        gradient = plain_array(gradient, name)
    if gradient.shape != output.shape or gradient.dtype != output.dtype:
        got = f"{gradient.dtype} {gradient.shape}"
        raise ValueError(f"{name} must be {output.dtype} of shape {output.shape}, got {got}")
    return gradient


def collect(
    outputs: Sequence[Tensor], targets: Sequence[Tensor] | None
) -> tuple[list[Node], dict[int, Tensor], set[int] | None]:
    """What the outputs were computed from: nodes, youngest first; leaves; and, with targets, what leads to one.

    A node is younger than all it was computed from: so it is visited only after everything that uses its result, when
    its gradient is complete. Nothing older than the oldest target can depend on it.
    """
    sources = [t._node or t for t in targets or ()]
    oldest = min(s.serial if isinstance(s, Node) else 0 for s in sources) if sources else 0
    leaves: dict[int, Tensor] = {}
    found: dict[int, Node] = {}
    stack: list[Any] = [t._node or t for t in outputs]
    while stack:
        item = stack.pop()
        key = id(item)
        if isinstance(item, Tensor):
            if item._requires_grad or targets is not None:  # it may have been switched off since
                leaves[key] = item
        elif key not in found:
            found[key] = item
            if item.serial > oldest:
                for _, source in item.inputs:
                    stack.append(source)
    nodes = sorted(found.values(), key=_serial)
    needed = None
    if targets is not None:
        needed = {id(s) for s in sources}
        for n in nodes:
            if any(id(source) in needed for _, source in n.inputs):
                needed.add(id(n))
        nodes = [n for n in nodes if n.serial > oldest and id(n) in needed]
    return nodes[::-1], leaves, needed


def pull(n: Node, dy: Any, needed: set[int] | None, create_graph: bool) -> Iterator[tuple[int, Any, Any]]:
    """(i, source, gradient) for each argument of the node that a gradient flows to, in that argument's shape."""
    gradients = (pullback_on_tensors(n) if create_graph else n.pullback)(dy)
    if type(gradients) is not tuple:
        gradients = (gradients,)
    if len(gradients) != len(n.args):
        guards.check_gradients(n, gradients)
    for i, source in n.inputs:
        if needed is None or id(source) in needed:
            g = gradients[i]
            if callable(g):  # put off until it is needed
                g = g()
            if g is None:
                continue
            if type(g) is not np.ndarray and not isinstance(g, (np.ndarray, Tensor)):
                g = guards.gradient(n, g)
            shape = n.args[i]._data.shape
            if g.shape != shape:
                g = _sum_to(g, shape, n.op.__name__)
            if g.dtype is not n.dtype and g.dtype != n.dtype:
                raise TypeError(f"the pullback of {n.op.__name__} gave a {g.dtype} gradient for {n.dtype}")
            yield i, source, g


def walk(
    outputs: Sequence[Tensor], seeds: Sequence[Any], targets: Sequence[Tensor] | None, retain: bool, create_graph: bool
) -> list[Any]:
    """Carry gradients from the outputs back along the tape. The one place where gradients flow.

    With targets, returns their gradients (None where the outputs do not depend on one). Without, adds to the
    .grad of every leaf. Gradients travel in a table beside the graph, under the identity of the node that made
    the tensor (of the tensor itself where it is a leaf).
    """
    nodes, leaves, needed = collect(outputs, targets)
    versions.check(reversed(nodes), again=create_graph)
    for leaf in leaves.values() if targets is None else ():
        if leaf.grad is not None:  # what was put there by hand must not end the walk halfway
            guards.check_gradient(leaf)
    wanted = {id(t._node or t) for t in targets} if targets else ()
    table: dict[int, Any] = {}
    for t, seed in zip(outputs, seeds, strict=True):
        key = id(t._node or t)
        if create_graph:
            seed = _copy(seed if isinstance(seed, Tensor) else Tensor(seed))
        else:
            seed = seed._data if isinstance(seed, Tensor) else seed
        table[key] = _add(table[key], seed) if key in table else seed

    report = observer.report  # None, or trace()'s
    with grad_enabled(create_graph), one_thread:
        for n in nodes:
            dy = table.get(id(n)) if id(n) in wanted else table.pop(id(n), None)
            if dy is None:
                continue
            if targets is None and n.retained is not None:
                _retain(n, dy, create_graph)
            for i, source, g in pull(n, dy, needed, create_graph):
                key = id(source)
                if report is not None:
                    report(n, dy, i, source, g)
                table[key] = _add(table[key], g) if key in table else g
            if not retain:
                n.free()  # at once: what this op kept is no longer needed, and the arrays of the next ones need room

        dy = g = None  # the table alone holds them
        if targets is not None:
            keys = [id(t._node or t) for t in targets]
            return [_delivered(table, key, create_graph) if key in table else None for key in keys]
        for key, leaf in leaves.items():
            if key in table:
                leaf.grad = _delivered(table, key, create_graph) if leaf.grad is None else _add(leaf.grad, table[key])
    return []


def _retain(n: Node, dy: Any, create_graph: bool) -> None:
    """The gradient of a computed tensor that asked for it."""
    t = n.retained()
    if t is not None:
        t.grad = (_copy(dy) if create_graph else dy.copy()) if t.grad is None else _add(t.grad, dy)


def backward(output: Tensor, gradient: Any, retain_graph: bool, create_graph: bool) -> None:
    """What Tensor.backward() does: one walk that ends in the .grad of the leaves."""
    check_flag("retain_graph", retain_graph)
    check_flag("create_graph", create_graph)
    walk([output], [_seed(output, gradient, "gradient")], None, retain_graph or create_graph, create_graph)


def _sequence(name: str, tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else check_iterable(name, tensors, "Tensors")


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Array | Sequence[Tensor | Array | None] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """The gradients of the outputs with respect to the inputs, as a tuple of arrays; no .grad is touched.

    outputs, inputs: a Tensor or a sequence of them; inputs may be leaves or computed tensors.
    grad_outputs: the gradient with respect to each output; None (default) is 1, for outputs with one element.
    retain_graph: keep the graph for another walk (default False). create_graph: return Tensors with a history, for
        second derivatives; keeps the graph too (default False).
    allow_unused: give None for an input that the outputs do not depend on, instead of raising (default False).
    Errors: TypeError, ValueError for arguments that do not fit; RuntimeError for an unused input, and as backward().

    >>> x = tb.tensor([3.0], requires_grad=True)
    >>> (first,) = tb.grad(x**3, x, create_graph=True)  # 3 x^2
    >>> (second,) = tb.grad(first, x)  # 6 x
    >>> first.item(), second.item()
    (27.0, 18.0)
    """
    outputs, inputs = _sequence("outputs", outputs), _sequence("inputs", inputs)
    for name, flag in (("retain_graph", retain_graph), ("create_graph", create_graph), ("allow_unused", allow_unused)):
        check_flag(name, flag)
    if grad_outputs is None or isinstance(grad_outputs, (Tensor, np.ndarray)):
        grad_outputs = [grad_outputs] * len(outputs) if grad_outputs is None else [grad_outputs]
    elif not isinstance(grad_outputs, (list, tuple)):
        raise TypeError(f"grad_outputs must be an array, a sequence of them or None, got {type(grad_outputs).__name__}")
    if len(grad_outputs) != len(outputs):
        raise ValueError(f"grad_outputs must have one entry per output ({len(outputs)}), got {len(grad_outputs)}")
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"inputs[{i}] must be a Tensor, got {type(t).__name__}")
        if not t._requires_grad:
            raise ValueError(f"inputs[{i}] must require grad")
    seeds = [_seed(t, g, "grad_outputs") for t, g in zip(outputs, grad_outputs, strict=True)]
    result = walk(outputs, seeds, inputs, retain_graph or create_graph, create_graph)
    for i, g in enumerate(result):
        if g is None and not allow_unused:
            raise RuntimeError(f"the outputs do not depend on inputs[{i}]; allow_unused=True gives None for it")
    return tuple(result)
