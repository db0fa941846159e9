"""trace(): the walk back along the tape, printed as it happens."""

from __future__ import annotations

from typing import Any, TextIO

from ..engine.recording import thread
from ..engine.tape import Node
from ..engine.tensors import Tensor
from ..nn.module import Module
from .labels import leaf_name, names_of, norm, op_name


class trace:
    """``with trace():`` prints a line for every op that backward() or grad() goes through, in the order of the walk.

        op  dy shape |norm|  ->  receiver shape |norm|, receiver shape |norm| ...

    dy is the op's incoming gradient, complete: the sum over all uses of its result. Behind the arrow stands what the
    op's pullback makes of it, summed back to the argument's shape where that was broadcast, and who receives it: the
    op that made the argument, or a leaf, by the name it has in model. |norm| is sqrt(sum of squares) over all elements.
    A receiver that is used several times gets several gradients, and adds them up.

    model: a Module, whose parameters' names are used; a dict {name: Tensor}; None (default): leaves are called
        Parameter or leaf. What has a name stays alive as long as the trace.
    file: where to write; None (default) is sys.stdout.
    The current thread is traced, others are not. An op that hands nothing on has no line. With create_graph=True a
    fused op is differentiated through its definition, whose lines come before its own. Reusable, and can be nested:
    the innermost prints.
    Errors: TypeError for another model, or a file without write().

    >>> x = tb.tensor([3.0, 4.0], requires_grad=True)
    >>> with tb.trace({"x": x}):
    ...     (x * x).sum().backward()
    sum                dy () |1|  ->  multiply (2,) |1.414|
    multiply           dy (2,) |1.414|  ->  x (2,) |5|, x (2,) |5|
    """

    def __init__(self, model: Module | dict[str, Tensor] | None = None, file: TextIO | None = None) -> None:
        self._names = names_of(model)
        # what has a name stays alive: the identity of what is gone may come again, and another op would have its name
        self._named = list(model.parameters() if isinstance(model, Module) else (model or {}).values())
        if file is not None and not callable(getattr(file, "write", None)):
            raise TypeError(f"file must have write(), or be None, got {type(file).__name__}")
        self._file = file
        self._outside: list[Any] = []  # what to go back to, innermost last
        self._node: Node | None = None  # whose line is being composed
        self._line = ""

    def __enter__(self) -> trace:
        self._outside.append(thread.report)
        thread.report = self._report
        return self

    def __exit__(self, *error: Any) -> None:
        thread.report = self._outside.pop()
        self._print()

    def _report(self, node: Node, dy: Any, i: int, source: Any, g: Any) -> None:
        """What the walk says for each gradient g that goes from a node to the source of its argument i."""
        if node is not self._node:
            self._print()
            self._node = node
            name = self._names.get(id(node)) or op_name(node)
            self._line = f"{name:<18} dy {dy.shape} |{norm(dy):.4g}|  ->  "
        else:
            self._line += ", "
        receiver = self._names.get(id(source))
        if receiver is None:
            receiver = op_name(source) if isinstance(source, Node) else leaf_name(source, self._names)
        self._line += f"{receiver} {g.shape} |{norm(g):.4g}|"
        if i == node.inputs[-1][0]:  # the line is complete, unless the last argument's gradient is not wanted
            self._print()

    def _print(self) -> None:
        line, self._line, self._node = self._line, "", None
        if line:
            print(line, file=self._file)  # whole lines: those of other threads do not get in between
