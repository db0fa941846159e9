"""draw(): what is on the picture is the tape, each box and arrow once, with names, shapes and norms that are right.

The tape is walked here anew, and pictures are read back from their XML.
"""

import gc
import itertools
import os
import re
import sys
import weakref
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.inspection.drawing import Drawing
from tinygrad_bn.inspection.layout import Box, Edge, Layout, _spread

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[1]


def array(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def mlp():
    tb.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    return net, F.cross_entropy(net(tb.Tensor(array(8, 6))), np.arange(8) % 3)


def cnn():
    tb.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)),
    )
    return net, F.cross_entropy(net(tb.Tensor(array(5, 1, 8, 8))), np.arange(5) % 3)


def recurrent(steps=6):
    """Weights that are used in every step, and a way around each step: long arrows."""
    names = {"h": tb.tensor(array(3, 4), requires_grad=True), "W": tb.tensor(array(4, 4), requires_grad=True)}
    names["b"] = tb.tensor(array(4), requires_grad=True)
    h = names["h"]
    for _ in range(steps):
        h = F.tanh(h @ names["W"] + names["b"]) + h
    return names, (h * h).sum()


def tangle(seed, ops):
    """Ops between tensors chosen at random, some of them twice in one op, all of them used in the end."""
    rng = np.random.default_rng(seed)
    tensors = [tb.tensor(np.ones(3), requires_grad=bool(k < 3)) for k in range(5)]
    for _ in range(ops):
        i, j = rng.integers(len(tensors), size=2)
        tensors.append(rng.choice([tb.maximum, tb.minimum])(tensors[i], tensors[j]))
    return None, tb.stack([t for t in tensors if t.requires_grad]).sum()


GRAPHS = {
    "mlp": mlp,
    "cnn": cnn,
    "recurrent": recurrent,
    "one leaf": lambda: (None, tb.tensor(1.0, requires_grad=True)),
}
GRAPHS |= {f"tangle {seed}": lambda seed=seed: tangle(seed, 40) for seed in range(6)}


def tape(tensor):
    """(nodes and leaves, edges with their multiplicity), by the definition of the graph."""
    seen, edges, stack = {}, Counter(), [tensor._node or tensor]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        for i, source in getattr(item, "inputs", ()):
            edges[id(source), id(item), i] += 1
            stack.append(source)
    return seen, edges


def read(drawing):
    """{id: (class, lines of text, (x, y, width, height))} and [(from, to, argument, d)] from the SVG."""
    root = ET.fromstring(drawing.svg)
    boxes, edges = {}, []
    for g in root.iter(f"{SVG}g"):
        rect = g.find(f"{SVG}rect")
        place = tuple(float(rect.get(k)) for k in ("x", "y", "width", "height"))
        assert g.get("data-id") not in boxes
        boxes[g.get("data-id")] = (g.get("class").split(), [t.text for t in g.iter(f"{SVG}text")], place)
    for path in root.iter(f"{SVG}path"):
        edges.append((path.get("data-from"), path.get("data-to"), int(path.get("data-argument")), path.get("d")))
    return root, boxes, edges


def lines_of(drawing, kind):
    return [lines for classes, lines, _ in read(drawing)[1].values() if f"tbn-{kind}" in classes]


def size(array):
    return np.sqrt(np.sum(np.asarray(array, np.float64) ** 2))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("after", [False, True])
def test_every_node_and_edge_of_the_tape_is_there_once(graph, after):
    names, loss = GRAPHS[graph]()
    if after:
        loss.backward()
    seen, expected = tape(loss)
    _, boxes, edges = read(tb.draw(loss, names))
    recorded = {i for i, (classes, *_) in boxes.items() if "tbn-constant" not in classes}
    assert len(recorded) == len(seen)
    # the same graph: number both along the edges, starting at the result, and compare
    (start,) = (i for i, (classes, *_) in boxes.items() if "tbn-result" in classes)
    identity = {start: id(loss._node or loss)}
    into = {}
    for source, target, argument, _ in edges:
        assert (target, argument) not in into
        into[target, argument] = source
    stack = [start]
    while stack:
        target = stack.pop()
        item = seen[identity[target]]
        for i, source in getattr(item, "inputs", ()):
            drawn = into[target, i]
            if drawn not in identity:
                identity[drawn] = id(source)
                stack.append(drawn)
            assert identity[drawn] == id(source)
    assert set(identity) == recorded and len(set(identity.values())) == len(seen)
    drawn = Counter((identity[s], identity[t], a) for s, t, a, _ in edges if s in recorded)
    assert drawn == expected
    for i, key in identity.items():
        item = seen[key]
        assert f"tbn-{'leaf' if isinstance(item, tb.Tensor) else 'op'}" in boxes[i][0]
        if not isinstance(item, tb.Tensor):
            assert boxes[i][1][0] == item.op.__name__.lstrip("_")


def points(d, samples=12):
    """Points along a path of M, V, C, L (the arrowhead, after the second M, left out)."""
    x = y = 0.0
    for command, numbers in re.findall(r"([MVCL])([^MVCL]*)", d.rsplit("M", 1)[0]):
        v = [float(n) for n in numbers.split()]
        if command == "M":
            x, y = v
        elif command == "V":
            for t in np.linspace(0, 1, samples):
                yield x, y + t * (v[0] - y)
            y = v[0]
        else:
            for t in np.linspace(0, 1, samples):
                b = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
                yield tuple(np.dot(b, [start, *v[k::2]]) for k, start in enumerate((x, y)))
            x, y = v[4:]
        yield x, y


def inside(x, y, box, by=0.5):
    left, top, width, height = box
    return left + by < x < left + width - by and top + by < y < top + height - by


@pytest.mark.parametrize("graph", GRAPHS)
def test_boxes_do_not_overlap_and_arrows_run_between_them(graph):
    names, loss = GRAPHS[graph]()
    loss.backward()
    root, boxes, edges = read(tb.draw(loss, names))
    _, _, width, height = map(float, root.get("viewBox").split())
    places = [place for *_, place in boxes.values()]
    for x, y, w, h in places:
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(places, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    for source, target, _, d in edges:
        way = list(points(d))
        x, y, w, h = boxes[source][2]
        assert x < way[0][0] < x + w and abs(way[0][1] - (y + h)) < 0.11  # from its lower side; written to 0.1
        x, y, w, h = boxes[target][2]
        assert x < way[-1][0] < x + w and abs(way[-1][1] - y) < 0.11  # to its upper side
        assert all(below[1] >= above[1] - 1e-9 for above, below in itertools.pairwise(way))  # downwards
        assert not any(inside(px, py, place) for px, py in way for place in places)
    ends = [tuple(points(d))[-1] for *_, d in edges]
    assert len(set(ends)) == len(ends)  # no two arrows end in one point: x * x has two


@pytest.mark.parametrize("graph", GRAPHS)
def test_lines_of_text_fit_into_their_boxes(graph):
    names, loss = GRAPHS[graph]()
    loss.backward()
    for _, lines, (_, _, width, height) in read(tb.draw(loss, names))[1].values():
        assert width >= 7.2 * max(map(len, lines)) + 6  # 0.6 of 12 px a character, as monospaced fonts have
        assert height >= 15 * len(lines)


def test_names_shapes_and_dtypes():
    net, loss = mlp()
    before = {tuple(lines) for lines in lines_of(tb.draw(loss, net), "leaf")}
    assert before == {(name, f"{p.shape} float32") for name, p in net.named_parameters()}
    ops = {tuple(lines) for lines in lines_of(tb.draw(loss, net), "op")}
    shapes = {"linear": {"(8, 5)", "(8, 3)"}, "channel_norm": {"(8, 5)"}, "relu": {"(8, 5)"}, "cross_entropy": {"()"}}
    assert ops == {(name, f"{shape} float32") for name, its in shapes.items() for shape in its}
    assert lines_of(tb.draw(loss, net), "constant") == [["constant", "(8, 6) float32"]]
    x = tb.tensor(array(2, dtype=np.float64), requires_grad=True)
    assert lines_of(tb.draw(x * 2), "leaf") == [["leaf", "(2,) float64"]]
    assert lines_of(tb.draw(nn.Parameter(array(2)) * 2), "leaf") == [["Parameter", "(2,) float32"]]


def test_the_drawing_after_a_plain_backward_is_the_one_before_with_norms():
    net, loss = mlp()
    before = tb.draw(loss, net)
    loss.backward()
    after = tb.draw(loss, net)
    assert [b._replace(norm=None) for b in after.boxes] == before.boxes and after.edges == before.edges
    assert all(b.norm is None for b in before.boxes)
    expected = {(n, f"{p.shape} float32", f"‖grad‖ = {size(p.grad):.4g}") for n, p in net.named_parameters()}
    assert {tuple(lines) for lines in lines_of(after, "leaf")} == expected


@pytest.mark.parametrize("create_graph", [False, True])
def test_norms_of_retained_tensors(create_graph):
    x = tb.tensor(array(4, 3), requires_grad=True)
    y = x * x
    y.retain_grad()
    z = y * 3
    z.sum().backward(create_graph=create_graph)
    picture = tb.draw(z, {"y": y})
    ops = lines_of(picture, "op")
    assert ["y = multiply", "(4, 3) float32", f"‖grad‖ = {3 * np.sqrt(12):.4g}"] in ops
    assert ["multiply", "(4, 3) float32"] in ops  # z did not ask for its gradient
    expected = size(6 * x.data)
    assert lines_of(picture, "leaf") == [["leaf", "(4, 3) float32", f"‖grad‖ = {expected:.4g}"]]
    x.grad = None


def test_norms_that_are_0_or_not_finite():
    x = tb.tensor(array(3), requires_grad=True)
    for value in (0.0, np.nan, np.inf):
        x.grad = np.full(3, value, np.float32)
        assert lines_of(tb.draw(x * 1), "leaf")[0][2] == f"‖grad‖ = {value:.4g}"


def test_neither_the_freed_graph_nor_a_drawing_keeps_arrays():
    gc.disable()
    try:
        x = tb.tensor(array(50, 50), requires_grad=True)
        constant = tb.tensor(array(50, 50))
        y = x * constant
        loss = (y * y).sum()
        refs = [weakref.ref(y.data), weakref.ref(constant.data)]
        del y, constant
        assert all(ref() is not None for ref in refs)  # the pullbacks need them
        loss.backward()
        assert all(ref() is None for ref in refs)
        picture = tb.draw(loss)
        leaf = weakref.ref(x)
        del x, loss
        assert leaf() is None
    finally:
        gc.enable()
    assert ["constant", "(50, 50) float32"] in lines_of(picture, "constant")


ODD = ['a<b>&"c"', "it's", "back\\slash", "]]>", "null\x00 and\x1b", "two\nlines", "\ud800", "größe 重み 🎲", "", "\\"]


def test_odd_names_are_escaped():
    tensors = {name: tb.tensor(1.0, requires_grad=True) for name in ODD}
    total = tb.stack(list(tensors.values())).sum()

    @tb.differentiable
    def rule(x):
        """x <y> & "z" """
        return x * 1, lambda dy: dy

    rule.__name__ = "<op> & \"x\" 'y'"
    picture = tb.draw(rule(total), tensors)
    picture.svg.encode("utf-8")
    leaves, ops = ({lines[0] for lines in lines_of(picture, kind)} for kind in ("leaf", "op"))
    shown = [re.sub("[\x00-\x1f\ud800]", "\ufffd", name) or "leaf" for name in ODD]
    assert leaves == set(shown) and rule.__name__ in ops
    labels = [label.split("\\n")[0] for label in check_dot(picture)]
    assert {re.sub(r"\\(.)", r"\1", label) for label in labels if label} >= {*shown, rule.__name__}


def test_long_names_are_shortened_and_kept_in_full_in_the_tooltip():
    name = "encoder." * 12 + "weight"
    w = tb.tensor(array(2), requires_grad=True)
    picture = tb.draw(w * 1, {name: w})
    ((shown, _),) = lines_of(picture, "leaf")
    assert len(shown) <= 44 and shown.startswith("encoder.") and shown.endswith("weight") and "…" in shown
    assert name in "".join(title.text for title in ET.fromstring(picture.svg).iter(f"{SVG}title"))


STRING = r'"((?:[^"\\]|\\.)*)"'
ATTRIBUTES = rf"\[\w+=(?:\w+|{STRING})(?:, \w+=(?:\w+|{STRING}))*\]"


def check_dot(picture):
    """Every line is one of the statements of Graphviz's grammar that draw() uses; the labels."""
    text = picture.dot
    text.encode("utf-8")
    first, *middle, last, end = text.split("\n")
    assert (first, last, end) == ("digraph tape {", "}", "")
    nodes = [line for line in middle if " -> " not in line.split("[")[0]]
    for line in nodes:
        assert re.fullmatch(rf"  n\d+ {ATTRIBUTES};", line), line
    edges = [re.fullmatch(r"  (n\d+) -> (n\d+);", line).groups() for line in middle if line not in nodes]
    names = [line.split()[0] for line in nodes]
    assert len(set(names)) == len(names) and all(a in names and b in names for a, b in edges)
    return [re.search(rf"label={STRING}", line)[1] for line in nodes]


@pytest.mark.parametrize("graph", GRAPHS)
def test_dot_has_the_same_graph(graph):
    names, loss = GRAPHS[graph]()
    picture = tb.draw(loss, names)
    labels = check_dot(picture)
    _, boxes, edges = read(picture)
    assert [label.split("\\n") for label in labels] == [lines for _, lines, _ in boxes.values()]
    arrows = Counter(re.findall(r"(n\d+) -> (n\d+);", picture.dot))
    assert arrows == Counter((source, target) for source, target, *_ in edges)


def test_light_and_dark():
    style = next(ET.fromstring(tb.draw(mlp()[1]).svg).iter(f"{SVG}style")).text
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    rules = [re.findall(r"([^{}]+)\{[^{}]*(?:fill|stroke):#", part.replace("\n", "")) for part in (light, dark[1:])]
    assert len(rules[0]) == 7 and sorted(rules[0]) == sorted(rules[1])  # what has a colour in one has one in the other
    assert all(rule.startswith(".tbn-") for rule in rules[0])  # in a notebook, other pictures are left alone


def test_a_notebook_shows_it():
    picture = tb.draw(mlp()[1])
    assert picture._repr_svg_() == picture.svg
    assert repr(picture) == "Drawing of 5 ops and 6 leaves: .svg, .dot, .save(path)"


def test_save(tmp_path, monkeypatch):
    picture = tb.draw(mlp()[1])
    picture.save(tmp_path / "a.svg")
    picture.save(str(tmp_path / "a.dot"))
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == picture.svg
    assert (tmp_path / "a.dot").read_text(encoding="utf-8") == picture.dot
    with pytest.raises(ValueError, match=r"path must end in .svg or .dot, got 'a.png'"):
        picture.save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no folder"):
        picture.save(tmp_path / "none" / "a.svg")
    with pytest.raises(TypeError, match="path must be"):
        picture.save(3)

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        tb.draw(tb.tensor(1.0, requires_grad=True) * 1).save(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == picture.svg  # the old one, whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dot", "a.svg"]


def test_bad_arguments():
    x = tb.tensor(array(3), requires_grad=True)
    with pytest.raises(TypeError, match="tensor must be a Tensor, got ndarray"):
        tb.draw(np.ones(3))
    with pytest.raises(ValueError, match="nothing was recorded"):
        tb.draw(tb.tensor(1.0) * 2)
    with tb.no_grad(), pytest.raises(ValueError, match="nothing was recorded"):
        tb.draw(x * 2)
    for wrong in (3, [x], {"x": 3}, {3: x}):
        with pytest.raises(TypeError, match="model must be a"):
            tb.draw(x * 2, wrong)
    with pytest.raises(ValueError, match="limit must be >= 1"):
        tb.draw(x, limit=0)


def chain(length):
    y = tb.tensor(array(2), requires_grad=True)
    for _ in range(length):
        y = y * 1.0
    return y


def test_more_than_the_limit_is_refused_with_advice():
    y = chain(100_000)
    with pytest.raises(ValueError, match=r"100,000 ops and 1 leaves, more than limit=1000 boxes.*say limit=200002"):
        tb.draw(y)
    assert len(tb.draw(chain(999)).boxes) == 1000
    with pytest.raises(ValueError, match="more than limit=1000"):
        tb.draw(chain(1000))


@pytest.mark.parametrize("shared", [False, True])
def test_chains_longer_than_the_recursion_limit_are_drawn(shared):
    length = 2 * sys.getrecursionlimit()
    y = chain(length)
    if shared:  # with a leaf that all of them use
        a = y = tb.tensor(array(2), requires_grad=True)
        for _ in range(length):
            y = y + a
    _, boxes, edges = read(tb.draw(y, limit=length + 1))
    assert len(boxes) == length + 1 and len(edges) == length * (1 + shared)
    places = {x for classes, _, (x, *_) in boxes.values() if "tbn-op" in classes}
    assert len(places) == 1 + shared  # a straight line; where the leaf is shared, a + a stands right under it


def test_fewer_crossings_than_in_the_order_of_the_arguments():
    """Two combs that would be crossed: a1 b1 -> p, a2 b2 -> q, with p and q used in the other order."""
    boxes = [Box("op", str(i), (), "float32", None, "") for i in range(7)]
    edges = [Edge(1, 0, 0), Edge(2, 0, 1), Edge(3, 1, 0), Edge(4, 1, 1), Edge(5, 2, 0), Edge(3, 2, 1), Edge(6, 2, 2)]
    assert Layout(boxes, edges)._crossings(Layout(boxes, edges).layers) == 0


@pytest.mark.parametrize("seed", range(5))
def test_crossings_are_counted_as_by_definition(seed):
    _, loss = tangle(seed, 25)
    picture = tb.draw(loss)
    layout = Layout(picture.boxes, picture.edges)
    place = {item: p for layer in layout.layers for p, item in enumerate(layer)}
    expected = 0
    for layer in layout.layers:
        segments = [(place[item], place[j]) for item in layer for j in layout.up[item]]
        expected += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in itertools.combinations(segments, 2))
    assert layout._crossings(layout.layers) == expected


@pytest.mark.parametrize("seed", range(20))
def test_places_minimize_the_weighted_distances(seed):
    """No other places that are as far apart are better: tried along random directions, and the gaps hold."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    wishes, weights, gaps = rng.normal(0, 30, n), rng.uniform(0.1, 5, n), rng.uniform(1, 20, n - 1)

    def cost(x):
        return np.sum(weights * (x - wishes) ** 2)

    x = np.array(_spread(list(wishes), list(weights), list(gaps)))
    assert (np.diff(x) >= gaps - 1e-9).all()
    for _ in range(300):
        other = x + rng.normal(0, rng.choice([0.01, 1, 10]), n) * (rng.random(n) < 0.6)
        for i in range(n - 1):  # push apart
            other[i + 1] = max(other[i + 1], other[i] + gaps[i])
        assert cost(x) <= cost(other) + 1e-9


def test_a_drawing_is_of_the_moment_at_which_it_was_made():
    net, loss = mlp()
    picture = tb.draw(loss, net)
    loss.backward()
    net.zero_grad()
    assert "grad" not in picture.dot and isinstance(picture, Drawing)
