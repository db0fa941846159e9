"""draw(): the recorded graph as a picture.

What is drawn is the tape of tape.py: a box for every node and every leaf, an arrow for every entry of a node's
``inputs``. The layout is the one of Sugiyama et al. 1981, in three steps: give every box a layer, such that arrows go
one way; order each layer so that few arrows cross; move boxes sideways until arrows are short and straight.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right, insort
from collections import defaultdict
from functools import cached_property
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint import write_file
from .checks import check_int, check_path
from .labels import leaf_name, names_of, norm, op_name
from .tape import Node
from .tensors import Tensor


class Box(NamedTuple):
    """kind: op, leaf or constant. norm: of .grad, None where there is none. about: what the mouse shows."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float | None
    about: str

    @property
    def lines(self) -> list[str]:
        gradient = [] if self.norm is None else [f"‖grad‖ = {self.norm:.4g}"]
        return [self.name, f"{self.shape} {self.dtype}", *gradient]


class Edge(NamedTuple):
    """Box number source is argument number argument of box number target."""

    source: int
    target: int
    argument: int


def draw(tensor: Tensor, model: Any = None, *, limit: int = 1000) -> Drawing:
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
        shape, dtype, rest = node.describe()
        formula = (node.op.__doc__ or "").strip().split("\n")[0]
        retained = None if node.retained is None else node.retained()
        name = names.get(id(node))
        name = op_name(node) if name is None else f"{name} = {op_name(node)}"
        boxes.append(Box("op", name, shape, str(dtype), _gradient_norm(retained), formula))
        arguments = [Edge(number[id(source)], i, argument) for argument, source in node.inputs]
        for argument, shape, dtype in rest:
            arguments.append(Edge(len(nodes) + len(leaves) + len(constants), i, argument))
            constants.append(Box("constant", "constant", shape, str(dtype), None, "a tensor without gradient"))
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
            label = "\\n".join(_visible(line).replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
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


def _visible(text: str) -> str:
    """Without what XML does not allow, and on one line."""
    return re.sub("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


# The layout. Layers are counted from the output, layer 0, which is drawn at the bottom. An arrow across several layers
# passes through a point in each layer between; the arrows that start at one box share these points.

CHARACTER, LINE, FONT = 7.4, 16.0, 12  # px: width and height of a line's characters, size of the font
PADDING, SIDEWAYS, BETWEEN, MARGIN = 9.0, 18.0, 38.0, 16.0  # px: inside of boxes, between them, between layers, outside
LONGEST = 44  # characters of a line; the tooltip has the whole
SWEEPS = 6


class _Layout:
    """x[i], top[i], width[i], height[i] of every box, and the way of every edge."""

    def __init__(self, boxes: list[Box], edges: list[Edge]) -> None:
        self.boxes, self.edges = boxes, edges
        self.text = [[_short(_visible(line)) for line in box.lines] for box in boxes]
        self.width = [max(_columns(line) for line in lines) * CHARACTER + 2 * PADDING for lines in self.text]
        self.height = [len(lines) * LINE + PADDING for lines in self.text]
        self.incoming: dict[int, list[Edge]] = defaultdict(list)
        for edge in edges:
            self.incoming[edge.target].append(edge)
        self._assign_layers()
        self._order()
        self._place()
        self._stack()

    def _assign_layers(self) -> None:
        """As near to the output as possible: one layer above the farthest of the ops that use it (longest path)."""
        self.layer = [0] * len(self.boxes)
        for edge in self.edges:  # sorted by target, youngest first: a box comes after all that use it
            self.layer[edge.source] = max(self.layer[edge.source], self.layer[edge.target] + 1)
        nearest = self.layer.copy()  # of the ops that use a box, the layer nearest to the output
        for edge in self.edges:
            nearest[edge.source] = min(nearest[edge.source], self.layer[edge.target] + 1)
        self.way: list[list[int]] = []  # the box itself, and its points in the layers below, one after the other
        points = len(self.boxes)
        for i, layer in enumerate(self.layer):
            count = layer - nearest[i]
            self.way.append([i, *range(points, points + count)])
            points += count
        self.up: list[list[int]] = [[] for _ in range(points)]  # neighbours in the next layer, further from the output
        self.down: list[list[int]] = [[] for _ in range(points)]
        for way in self.way:
            for above, below in pairwise(way):
                self.up[below].append(above)
                self.down[above].append(below)
        for edge in self.edges:
            above = self._before(edge)
            self.up[edge.target].append(above)
            self.down[above].append(edge.target)

    def _before(self, edge: Edge) -> int:
        """The box or point in the layer above the edge's target."""
        return self.way[edge.source][self.layer[edge.source] - self.layer[edge.target] - 1]

    def _order(self) -> None:
        """Sort each layer by the mean position of the neighbours, down and up again; keep what crosses least."""
        layers: list[list[int]] = [[0]]
        while True:  # at first: arguments from left to right above their op
            above = list(dict.fromkeys(i for item in layers[-1] for i in self.up[item]))
            if not above:
                break
            layers.append(above)
        best, fewest = layers, self._crossings(layers)
        for sweep in range(SWEEPS):
            if fewest == 0:
                break
            layers = [list(layer) for layer in layers]
            rising = sweep % 2 == 0
            neighbours = self.down if rising else self.up
            for k in range(1, len(layers)) if rising else range(len(layers) - 2, -1, -1):
                position = {item: p for p, item in enumerate(layers[k - 1 if rising else k + 1])}
                own = {item: p for p, item in enumerate(layers[k])}
                layers[k].sort(key=lambda i: _mean([position[j] for j in neighbours[i]], own[i]))
            crossings = self._crossings(layers)
            if crossings < fewest:
                best, fewest = layers, crossings
        self.layers = best

    def _crossings(self, layers: list[list[int]]) -> int:
        """How many pairs of arrows between neighbouring layers cross."""
        total = 0
        for below, above in pairwise(layers):
            position = {item: p for p, item in enumerate(above)}
            seen: list[int] = []
            for item in below:
                ends = sorted(position[j] for j in self.up[item])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def _place(self) -> None:
        """x of each box's middle: near to its neighbours, in the order of the layer, without overlap.

        Ops weigh more than leaves, points more than both: a chain of ops becomes a straight line with the leaves
        beside it, and so does an arrow across several layers.
        """
        count = len(self.boxes)
        kinds = {"op": 1000.0, "leaf": 1.0, "constant": 1.0}
        self.weight = [kinds[box.kind] for box in self.boxes] + [1e7] * (len(self.up) - count)
        half = [w / 2 for w in self.width] + [0.0] * (len(self.up) - count)
        self.x = [0.0] * len(self.up)
        up, down = range(1, len(self.layers)), range(len(self.layers) - 2, -1, -1)
        sweeps = [(up, self.down), (down, self.up)] * 2 + [(up, self.down)]
        for order, neighbours in [(range(1), self.down), *sweeps]:
            for k in order:
                layer = self.layers[k]
                gaps = [half[a] + half[b] + SIDEWAYS for a, b in pairwise(layer)]
                wishes = [self._wish(i, neighbours[i]) for i in layer]
                places = _spread(wishes, [self.weight[i] for i in layer], gaps)
                for i, x in zip(layer, places, strict=True):
                    self.x[i] = x
        left = min(self.x[i] - half[i] for i in range(len(self.x)))
        self.x = [x - left + MARGIN for x in self.x]
        self.right = max(self.x[i] + half[i] for i in range(len(self.x))) + MARGIN

    def _wish(self, item: int, neighbours: list[int]) -> float:
        """The mean of the neighbours' places, by their weights; a point's is that of the way's next point."""
        points = [j for j in neighbours if j >= len(self.boxes)] if item >= len(self.boxes) else []
        near = points or neighbours
        total = sum(self.weight[j] for j in near)
        return sum(self.weight[j] * self.x[j] for j in near) / total if near else self.x[item]

    def _stack(self) -> None:
        """The layers' tops and bottoms, and each box in the middle of its layer."""
        tallest = [max((self.height[i] for i in layer if i < len(self.boxes)), default=0.0) for layer in self.layers]
        y, self.tops = MARGIN, [0.0] * len(self.layers)
        for k in range(len(self.layers) - 1, -1, -1):
            self.tops[k] = y
            y += tallest[k] + BETWEEN
        self.bottoms = [top + height for top, height in zip(self.tops, tallest, strict=True)]
        self.bottom = y - BETWEEN + MARGIN
        self.top = [self.tops[k] + (tallest[k] - h) / 2 for k, h in zip(self.layer, self.height, strict=True)]
        self.port: dict[Edge, float] = {}  # where on the upper side of its target an edge arrives
        for target, edges in self.incoming.items():
            edges = sorted(edges, key=lambda e: (self.x[self._before(e)], e.argument))
            for j, edge in enumerate(edges, 1):
                share = j / (len(edges) + 1) - 0.5
                self.port[edge] = self.x[target] + share * self.width[target]
        self.turns = []  # of each way: the layers in which it has another x than in the layer above, and these x
        for i, way in enumerate(self.way):
            places = [(self.layer[i] - k, self.x[item]) for k, item in enumerate(way)]
            self.turns.append([b for a, b in pairwise(places) if abs(a[1] - b[1]) > 0.05])

    def path(self, edge: Edge) -> str:
        """Down from the source's lower side; a curve wherever x changes, always between two layers; an arrowhead."""
        x, goal = self.x[edge.source], self.layer[edge.target]
        arrival = (goal, self.port[edge])
        d = [f"M{x:.1f} {self.top[edge.source] + self.height[edge.source]:.1f}"]
        for layer, turned in chain(takewhile(lambda turn: turn[0] > goal, self.turns[edge.source]), [arrival]):
            y0, y1 = self.bottoms[layer + 1], self.tops[layer]
            d.append(f"V{y0:.1f}C{x:.1f} {(y0 + y1) / 2:.1f} {turned:.1f} {(y0 + y1) / 2:.1f} {turned:.1f} {y1:.1f}")
            x = turned
        y = self.top[edge.target]
        return "".join([*d, f"V{y:.1f}M{x - 3.5:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 6:.1f}"])


def _mean(values: list[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(wishes: list[float], weights: list[float], gaps: list[float]) -> list[float]:
    """The places x, at least gaps apart, that minimize sum of weights (x - wishes)^2.

    With what the gaps take subtracted, x must not fall: isotonic regression, solved by pooling adjacent violators.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []  # (mean, weight, members)
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        mean, total, members = wish - offset, weight, 1
        while pools and pools[-1][0] > mean:
            before, w, n = pools.pop()
            mean, total, members = (mean * total + before * w) / (total + w), total + w, members + n
        pools.append((mean, total, members))
    means = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes: two for a Chinese character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]}…{line[-(LONGEST // 2 - 1) :]}"


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
    at = _Layout(boxes, edges)
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
    return html.escape(_visible(text))
