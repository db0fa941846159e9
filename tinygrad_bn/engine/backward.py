"""The walk back along the tape: gradients from the outputs to whatever they were computed from.

Gradients travel in a table beside the graph; tensors get theirs at the end. The walk is a loop, not a recursion, so
that a chain of 100,000 ops is no harder than one of ten. With create_graph=True the same walk runs on tensors, and
is itself recorded: that is all there is to second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from sys import getrefcount
from typing import Any

import numpy as np

from ..checks import Array, check_flag
from ..runtime.blas import one_thread
from ..runtime.sums import total
from . import guards, versions
from .recording import grad_enabled, thread
from .replay_notes import unseen
from .tape import Node, Pullback, differentiable
from .tensors import Tensor

_serial = attrgetter("serial")


@differentiable
def _alias(x: Any) -> Any:
    """The same value under a new node, to differentiate with respect to x here and nowhere earlier."""
    return x, lambda dy: dy


@differentiable
def _copy(x: Any) -> Any:
    """The same value in memory of its own."""
    return x.copy() if isinstance(x, np.ndarray) else _copy(x), lambda dy: dy


def plus(a: Any, b: Any) -> Any:
    """a + b as an array or a Tensor: NumPy makes a scalar of the sum of two arrays without axes."""
    y = a + b
    return y if type(y) is np.ndarray or isinstance(y, Tensor) else np.asarray(y)


def pullback_on_tensors(node: Node) -> Pullback:
    """The node's pullback as a formula of tensors, recorded as it is computed: the way to second derivatives.

    A primitive's own rule runs once more, on tensors instead of arrays. A fused op runs its definition, and the
    gradient of that composition is taken.
    """
    op = node.op
    if op.definition is None:
        try:
            answer: tuple[Tensor, Pullback] = op.rule(*node.args, **node.kwargs)
        except Exception as error:
            raise guards.not_twice(op, error) from error
        guards.check_repeated(node, answer[0])
        return answer[1]

    def pullback(dy: Any) -> tuple[Any, ...]:
        args = [_alias(a) if isinstance(a, Tensor) else a for a in node.args]
        y = op.definition(*args, **node.kwargs)
        guards.check_same(node, y, "its definition gives another result than its rule")
        inputs = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        gradients = iter(walk([y], [dy], inputs, True, True))
        return tuple(next(gradients) if isinstance(a, Tensor) and a.requires_grad else None for a in args)

    return pullback


def sum_to(g: Any, shape: tuple[int, ...], name: str) -> Any:
    """Undo broadcasting: sum g over the axes along which an argument of this shape was repeated."""
    guards.check_broadcast(g, shape, name)
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return total(g, axes, keepdims=True).reshape(shape)  # in blocks: long float32 sums lose digits


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
    found: dict[Node, None] = {}  # a set that keeps the order, which is nearly theirs already
    stack: list[Any] = [t._node or t for t in outputs]
    while stack:
        item = stack.pop()
        if not isinstance(item, Node):
            if item._requires_grad:  # it may have been switched off since the forward
                leaves[id(item)] = item
        elif item not in found:
            found[item] = None
            if item.serial > oldest:
                for _, source in item.inputs:
                    stack.append(source)
    nodes = sorted(found, key=_serial)
    needed = None if targets is None else {id(s) for s in sources}
    if needed is not None:
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
    as_many = len(gradients) == len(n.args)
    for i, source in n.inputs:
        if needed is None or id(source) in needed:
            g = gradients[i] if as_many else guards.one_gradient(n, gradients, i)
            if type(g) is not np.ndarray:
                g = g() if callable(g) else g  # lazy gradients are computed here
                if g is None:
                    continue
                if type(g) is not np.ndarray and not (create_graph and isinstance(g, Tensor)):
                    g = guards.gradient(n, g)
            a = n.args[i]._data
            if g.shape != a.shape:
                g = sum_to(g, a.shape, n.op.__name__)
            if g.dtype is not a.dtype:
                guards.check_dtype(n, g, a)
            yield i, source, g


def walk(
    outputs: Sequence[Tensor], seeds: Sequence[Any], targets: Sequence[Tensor] | None, retain: bool, create_graph: bool
) -> list[Any]:
    """Carry gradients from the outputs back along the tape. The one place where gradients flow.

    With targets, returns their gradients (None where the outputs do not depend on one). Without, adds to the
    .grad of every leaf. Gradients travel in a table beside the graph, under the identity of the node that made
    the tensor (of the tensor itself where it is a leaf).
    """
    unseen("it takes gradients")
    nodes, leaves, needed = collect(outputs, targets)
    versions.check(reversed(nodes), again=create_graph)
    if targets is None:
        guards.check_gradients(leaves.values())  # what was put there by hand must not end the walk halfway
    keys = [id(t._node or t) for t in targets or ()]
    kept = {key: i for i, key in reversed(list(enumerate(keys)))} if keys else {}  # what is returned stays in the table
    table: dict[int, Any] = {}
    for t, seed in zip(outputs, seeds, strict=True):
        key = id(t._node or t)
        seed = _copy(seed) if create_graph else seed._data
        table[key] = plus(table[key], seed) if key in table else seed

    report = thread.report  # None, or trace()'s
    with grad_enabled(create_graph, retain), one_thread:
        for n in nodes:
            key = id(n)
            dy = table.get(key) if key in kept else table.pop(key, None)
            if dy is None:  # all pullbacks after it gave None
                continue
            if targets is None and n.retained is not None:
                _retain(n, dy, create_graph)
            for i, source, g in pull(n, dy, needed, create_graph):
                key = id(source)
                if report is not None:
                    report(n, dy, i, source, g)
                if key in table:
                    table[key] = plus(table[key], g)
                else:
                    table[key] = _arrived(g, create_graph) if not isinstance(source, Node) or key in kept else g
            if not retain:
                n.free()  # at once: what this op kept is no longer needed, and the arrays of the next ones need room

    dy = g = None  # our own references: _delivered would count them
    if targets is not None:
        # an input that is named twice gets two arrays
        return [_delivered(table, key, kept[key] < i) if key in table else None for i, key in enumerate(keys)]
    for key, leaf in leaves.items():
        if key in table:
            leaf.grad = _delivered(table, key) if leaf.grad is None else plus(leaf.grad, table[key])
    return []


def _retain(n: Node, dy: Any, create_graph: bool) -> None:
    """The gradient of a computed tensor that asked for it."""
    if (t := n.retained()) is not None:
        t.grad = (_copy(dy) if create_graph else dy.copy()) if t.grad is None else plus(t.grad, dy)


def _references(table: dict[int, Any], key: int) -> int:
    g = table[key]
    return getrefcount(g)


ALONE = _references({0: np.empty(4)}, 0)  # to an array that only a table holds, as _delivered counts them


def _arrived(g: Any, create_graph: bool) -> Any:
    """A gradient that will be given away; a part of a larger array would keep all of that alive until the end."""
    if create_graph:
        return _copy(g)
    return g.copy() if isinstance(g.base, np.ndarray) and g.base.size > g.size else g


def _delivered(table: dict[int, Any], key: int, again: bool = False) -> Any:
    """The array in the table itself if only the table holds it, which its reference count shows; otherwise a copy.

    So nobody else's array becomes a .grad: not dy, nor what a closure keeps. A view is another shape of a whole array
    that nobody else holds either, or it is copied. again: it was given away before.
    """
    g = table[key]
    if isinstance(g, Tensor):
        return _copy(g) if again else g
    alone, whole = getrefcount(g) <= ALONE and g.flags.writeable, g.base
    if whole is not None and alone:
        alone = type(whole) is np.ndarray and whole.size == g.size and whole.base is None and g.flags.c_contiguous
        alone = alone and getrefcount(whole) <= ALONE
    return g if alone else g.copy()


def backward(output: Tensor, gradient: Any, retain_graph: bool, create_graph: bool) -> None:
    """What Tensor.backward() does: one walk that ends in the .grad of the leaves."""
    check_flag("retain_graph", retain_graph)
    check_flag("create_graph", create_graph)
    seed = guards.seed(output, gradient, "gradient")
    walk([output], [seed], None, retain_graph or create_graph, create_graph)


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
    flags = {"retain_graph": retain_graph, "create_graph": create_graph, "allow_unused": allow_unused}
    outputs, inputs, seeds = guards.ends(outputs, inputs, grad_outputs, flags)
    result = walk(outputs, seeds, inputs, retain_graph or create_graph, create_graph)
    if not allow_unused:
        guards.check_used(result)
    return tuple(result)
