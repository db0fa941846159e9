"""Where the boxes of a drawing go, and the ways of its arrows.

The layout is the one of Sugiyama, Tagawa & Toda 1981, in three steps: give every box a layer, such that arrows go one
way; order each layer so that few arrows cross; move boxes sideways until arrows are short and straight.

Layers are counted from the output, layer 0, which is drawn at the bottom. An arrow across several layers passes
through a point in each layer between; the arrows that start at one box share these points.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right, insort
from collections import defaultdict
from itertools import chain, pairwise, takewhile
from typing import NamedTuple

CHARACTER, LINE, FONT = 7.4, 16.0, 12  # px: width and height of a line's characters, size of the font
PADDING, SIDEWAYS, BETWEEN, MARGIN = 9.0, 18.0, 38.0, 16.0  # px: inside of boxes, between them, between layers, outside
LONGEST = 44  # characters of a line; the tooltip has the whole
SWEEPS = 6


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


class Layout:
    """x[i], top[i], width[i], height[i] of every box, and the way of every edge."""

    def __init__(self, boxes: list[Box], edges: list[Edge]) -> None:
        self.boxes, self.edges = boxes, edges
        self.text = [[_short(visible(line)) for line in box.lines] for box in boxes]
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


def visible(text: str) -> str:
    """Without what XML does not allow, and on one line."""
    return re.sub("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
