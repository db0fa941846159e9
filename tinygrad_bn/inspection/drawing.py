"""draw(): the recorded graph as a picture.

What is drawn is the tape of tape.py: a box for every node and every leaf, an arrow for every entry of a node's
``inputs``. layout.py says where they go.
"""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint import write_file
from ..checks import check_int, check_path
from ..engine.tape import Node
from ..engine.tensors import Tensor
from ..nn.module import Module
from .labels import leaf_name, names_of, norm, op_name
from .layout import CHARACTER, FONT, LINE, MARGIN, PADDING, Box, Edge, Layout, visible


def draw(tensor: Tensor, model: Module | dict[str, Tensor] | None = None, *, limit: int = 1000) -> Drawing:
    """The graph that tensor was computed by, as SVG and as DOT text; needs no other program.

    One box per op, with the shape and dtype of its result; one per leaf that requires grad, with its name in model;
    one per use of a tensor without gradient (dashed). Arrows are the forward pass, gradients flow against them. The
    box of a leaf with a .grad shows its norm, sqrt(sum of squares) over all elements; so does the box of an op, after
    ``t.retain_grad()``, as long as t exists. Arrays and labels that an op takes besides tensors are not drawn.

    It may be drawn before backward() or afterwards: backward() frees the arrays, but not shapes and names, so
    retain_graph=True is not needed. The drawing is of the moment at which draw() was called, and keeps no tensor alive.

    tensor: what was computed, such as the loss.
    model: a Module, whose parameters' names are shown; a dict {name: Tensor}, also of computed tensors; None (default).
    limit: the most boxes that are drawn (default 1000).
    Errors: TypeError for anything but a Tensor, or for another model; ValueError for a tensor that nothing was
    recorded for, and for a graph of more than limit boxes.
    Source: Sugiyama, Tagawa & Toda 1981 (the layout).

    >>> w = tb.tensor([1.0, 2.0], requires_grad=True)
    >>> loss = (w * w).sum()
    >>> loss.backward()
    >>> picture = tb.draw(loss, {"w": w})  # in a notebook this is shown; picture.save("graph.svg") writes it
    >>> picture
    Drawing of 2 ops and 1 leaf: .svg, .dot, .save(path)
    >>> print(picture.dot.splitlines()[3])
      n2 [label="w\\n(2,) float32\\n‖grad‖ = 4.472", shape=box, style="filled", fillcolor="#fdf1dc"];
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor must be a Tensor, got {type(tensor).__name__}")
    names = names_of(model)
    if not tensor._requires_grad:
        raise ValueError("tensor must require grad, or be computed from one that does: nothing was recorded")
    return Drawing(*_record(tensor, names, check_int("limit", limit, 1)))


def _gradient_norm(tensor: Tensor | None) -> float | None:
    return None if tensor is None or tensor.grad is None else norm(tensor.grad)


def _record(tensor: Tensor, names: dict[int, str], limit: int) -> tuple[list[Box], list[Edge]]:
    """The boxes, ops first and the youngest of them at the front, and the edges."""
    found: dict[int, Any] = {}
    stack: list[Any] = [tensor._node or tensor]
    while stack:  # as in backward.walk: a loop, because chains may be long
        item = stack.pop()
        if id(item) not in found:
            found[id(item)] = item
            if isinstance(item, Node):
                stack += [source for _, source in reversed(item.inputs)]
    nodes = sorted((item for item in found.values() if isinstance(item, Node)), key=lambda n: -n.serial)
    leaves = [item for item in found.values() if isinstance(item, Tensor)]
    number = {id(item): i for i, item in enumerate([*nodes, *leaves])}
    boxes: list[Box] = []
    edges: list[Edge] = []
    constants: list[Box] = []
    for i, node in enumerate(nodes):
        formula = (node.op.__doc__ or "").strip().split("\n")[0]
        retained = None if node.retained is None else node.retained()
        name = names.get(id(node))
        name = op_name(node) if name is None else f"{name} = {op_name(node)}"
        boxes.append(Box("op", name, node.shape, str(node.dtype), _gradient_norm(retained), formula))
        arguments = [Edge(number[id(source)], i, argument) for argument, source in node.inputs]
        for argument, shape in node.constants:
            arguments.append(Edge(len(nodes) + len(leaves) + len(constants), i, argument))
            constants.append(Box("constant", "constant", shape, str(node.dtype), None, "a tensor without gradient"))
        edges += sorted(arguments, key=lambda e: e.argument)
        if len(nodes) + len(leaves) + len(constants) > limit:
            many = f"{len(nodes):,} ops and {len(leaves):,} leaves"
            raise ValueError(
                f"the graph has {many}, more than limit={limit} boxes: draw a tensor that is computed earlier, fewer "
                f"steps of a loop, or say limit={2 * (len(nodes) + len(leaves))}"
            )
    for leaf in leaves:
        kind = type(leaf).__name__
        boxes.append(Box("leaf", leaf_name(leaf, names), leaf.shape, str(leaf.dtype), _gradient_norm(leaf), kind))
    return boxes + constants, edges


class Drawing:
    """What draw() returns. ``.svg`` and ``.dot`` are text; a notebook shows it by itself.

    boxes, edges: what is drawn, as tuples; edges refer to boxes by their positions in the list.

    >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
    >>> picture = tb.draw(x * x)
    >>> [(box.kind, box.name) for box in picture.boxes]
    [('op', 'multiply'), ('leaf', 'leaf')]
    """

    def __init__(self, boxes: list[Box], edges: list[Edge]) -> None:
        self.boxes, self.edges = boxes, edges

    @cached_property
    def svg(self) -> str:
        """The picture, for light and dark backgrounds (it follows prefers-color-scheme).

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> tb.draw(x * x).svg.startswith("<svg")
        True
        """
        return _svg(self.boxes, self.edges)

    @cached_property
    def dot(self) -> str:
        """The graph in the language of Graphviz, for whoever has its programs: ``dot -Tpdf graph.dot``.

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> print(tb.draw(x.sum()).dot.splitlines()[-2])
          n1 -> n0;
        """
        fills = {"op": "#e3effa", "leaf": "#fdf1dc", "constant": "#f3f3f3"}
        lines = ["digraph tape {"]
        for i, box in enumerate(self.boxes):
            label = "\\n".join(visible(line).replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
            style = "filled,dashed" if box.kind == "constant" else "filled"
            lines.append(f'  n{i} [label="{label}", shape=box, style="{style}", fillcolor="{fills[box.kind]}"];')
        lines += [f"  n{e.source} -> n{e.target};" for e in self.edges]
        return "\n".join([*lines, "}", ""])

    def save(self, path: str | Path) -> None:
        """Write the file that path's suffix asks for, .svg or .dot; it appears when it is complete, or not at all.

        Errors: ValueError for another suffix; FileNotFoundError for a folder that does not exist.

        >>> x = tb.tensor([1.0], requires_grad=True)
        >>> tb.draw(x * x).save("graph.svg")
        """
        path = check_path("path", path)
        if path.suffix not in (".svg", ".dot"):
            raise ValueError(f"path must end in .svg or .dot, got {path.name!r}")
        text = self.svg if path.suffix == ".svg" else self.dot
        write_file(path, memoryview(text.encode("utf-8")))

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        ops, leaves = (sum(box.kind == kind for box in self.boxes) for kind in ("op", "leaf"))
        counts = f"{ops} op{'s' * (ops != 1)} and {leaves} leaf" if leaves == 1 else f"{ops} ops and {leaves} leaves"
        return f"Drawing of {counts}: .svg, .dot, .save(path)"


# class names begin with tbn: in a notebook the styles of one picture hold for the whole page
STYLE = """
.tbn-ground{fill:#fff}.tbn-edge{fill:none;stroke:#7a808a;stroke-width:1.3}
.tbn-box rect{stroke-width:1.2}.tbn-box text{fill:#1a1a1a;text-anchor:middle}.tbn-note{fill:#666}
.tbn-name{font-weight:bold}.tbn-op rect{fill:#e3effa;stroke:#0072b2}.tbn-leaf rect{fill:#fdf1dc;stroke:#b36b00}
.tbn-constant rect{fill:#f3f3f3;stroke:#888;stroke-dasharray:4 3}.tbn-result rect{stroke-width:2.6}
@media (prefers-color-scheme:dark){.tbn-ground{fill:#15171c}.tbn-edge{stroke:#9aa1ac}.tbn-box text{fill:#f0f0f0}
.tbn-note{fill:#aaa}.tbn-op rect{fill:#12304a;stroke:#56b4e9}.tbn-leaf rect{fill:#46320f;stroke:#e69f00}
.tbn-constant rect{fill:#2a2d33;stroke:#999}}
"""
NOTE = "arrows: the forward pass; gradients flow against them"


def _svg(boxes: list[Box], edges: list[Edge]) -> str:
    at = Layout(boxes, edges)
    width, height = max(at.right, len(NOTE) * CHARACTER * 0.85 + 2 * MARGIN), at.bottom + LINE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" role="img" style="max-width:100%;height:auto" '
        f'font-family="ui-monospace,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" font-size="{FONT}">',
        f"<title>The graph of {_escape(boxes[0].name)}</title><style>{STYLE}</style>",
        f'<rect class="tbn-ground" width="{width:.1f}" height="{height:.1f}"/>',
    ]
    for edge in edges:
        lines.append(
            f'<path class="tbn-edge" data-from="n{edge.source}" data-to="n{edge.target}" '
            f'data-argument="{edge.argument}" d="{at.path(edge)}"/>'
        )
    for i, box in enumerate(boxes):
        x, y, w, h = at.x[i], at.top[i], at.width[i], at.height[i]
        text = ""
        for k, line in enumerate(at.text[i]):
            bold = ' class="tbn-name"' if k == 0 else ""
            text += f'<text x="{x:.1f}" y="{y + PADDING / 2 + LINE * (k + 0.75):.1f}"{bold}>{_escape(line)}</text>'
        result = " tbn-result" if i == 0 else ""
        lines.append(
            f'<g class="tbn-box tbn-{box.kind}{result}" data-id="n{i}">'
            f"<title>{_escape(box.name)}\n{_escape(box.about)}</title>"
            f'<rect x="{x - w / 2:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="5"/>{text}</g>'
        )
    note = f'<text class="tbn-note" x="{MARGIN}" y="{height - 10:.1f}" font-size="{0.85 * FONT:.1f}">{NOTE}</text>'
    return "\n".join([*lines, note, "</svg>", ""])


def _escape(text: str) -> str:
    return html.escape(visible(text))
