"""trace(): its lines are the walk, op by op, with the norms of the gradients that really flow."""

import io
import re
import threading

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.engine.recording import thread

PART = r"(\S+) (\([\d, ]*\)) \|(\S+)\|"


def read(text):
    """[(op, shape of dy, its norm, [(receiver, shape, norm), ...]), ...]"""
    lines = []
    for line in text.splitlines():
        head, tail = line.split("  ->  ")
        op, shape, norm = re.fullmatch(r"(\S+) +dy (\([\d, ]*\)) \|(\S+)\|", head).groups()
        parts = re.findall(PART, tail)
        assert ", ".join(f"{name} {s} |{n}|" for name, s, n in parts) == tail  # nothing else is on the line
        lines.append((op, shape, norm, parts))
    return lines


def traced(run, model=None):
    file = io.StringIO()
    with tb.trace(model, file=file):
        run()
    return read(file.getvalue())


def norm(array):
    return f"{np.sqrt(np.sum(np.asarray(array, np.float64) ** 2)):.4g}"


def array(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def net_and_input():
    tb.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    return net, tb.Tensor(array(8, 6)), np.arange(8) % 3


def test_the_lines_of_a_net():
    net, x, y = net_and_input()
    steps = [x]
    for layer in net:
        steps.append(layer(steps[-1]))
        steps[-1].retain_grad()
    loss = F.cross_entropy(steps[-1], y)
    lines = traced(loss.backward, net)
    _, first, normed, tanh, last = steps
    p = {name: (name, str(value.shape), norm(value.grad)) for name, value in net.named_parameters()}
    flows = [(name, str(t.shape), norm(t.grad)) for name, t in zip(("linear", "tanh"), (last, tanh), strict=True)]
    flows += [("channel_norm", "(8, 5)", norm(normed.grad)), ("linear", "(8, 5)", norm(first.grad))]
    assert lines == [
        ("cross_entropy", "()", "1", [flows[0]]),
        (*flows[0], [flows[1], p["3.weight"], p["3.bias"]]),
        (*flows[1], [flows[2]]),
        (*flows[2], [flows[3], p["1.weight"], p["1.bias"]]),
        (*flows[3], [p["0.weight"], p["0.bias"]]),
    ]


def test_a_value_that_is_used_twice_gets_two_gradients():
    x = tb.tensor(array(3), requires_grad=True)
    y = x * 2
    z = y * y + y
    ((plus, *_), times, double) = lines = traced(lambda: z.backward(np.ones(3)), {"x": x, "y": y})
    assert plus == "add" and lines[0][3] == [("multiply", "(3,)", norm(np.ones(3))), ("y", "(3,)", norm(np.ones(3)))]
    assert times == ("multiply", "(3,)", norm(np.ones(3)), [("y", "(3,)", norm(y.data))] * 2)
    total = 2 * y.data + 1  # what the node of y received, added up
    assert double == ("y", "(3,)", norm(total), [("x", "(3,)", norm(2 * total))])


def test_what_was_broadcast_is_summed_back():
    x, b = tb.tensor(array(4, 3), requires_grad=True), tb.tensor(array(3), requires_grad=True)
    dy = array(4, 3, seed=1)
    ((*_, parts),) = traced(lambda: (x + b).backward(dy), {"b": b})
    assert parts == [("leaf", "(4, 3)", norm(dy)), ("b", "(3,)", norm(dy.sum(axis=0)))]


def test_every_op_has_one_line_in_the_order_of_the_walk():
    rng = np.random.default_rng(0)
    tensors = [tb.tensor(array(3), requires_grad=True) for _ in range(2)]
    for _ in range(30):
        i, j = rng.integers(len(tensors), size=2)
        tensors.append(tensors[i] + tensors[j] if rng.random() < 0.5 else tensors[i] - tensors[j])
    total = tb.stack(tensors).sum()
    ops = [t._node.op.__name__ for t in tensors[2:]]
    lines = [(op, parts) for op, _, _, parts in traced(total.backward) if op in ("add", "subtract")]
    assert [op for op, _ in lines] == ops[::-1]
    assert all(len(parts) == 2 for _, parts in lines)


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_the_same_to_the_bit_and_in_memory_of_their_own(create_graph):
    gradients = []
    for tracing in (False, True):
        net, x, y = net_and_input()
        loss = F.cross_entropy(net(x), y)
        if tracing:
            assert traced(lambda loss=loss: loss.backward(create_graph=create_graph), net)
        else:
            loss.backward(create_graph=create_graph)
        own = [p.grad.data if create_graph else p.grad for p in net.parameters()]
        assert not any(np.shares_memory(a, b) for a in own for b in own if a is not b)
        gradients.append([g.tobytes() for g in own])
        net.zero_grad()
    assert gradients[0] == gradients[1]


def test_grad_shows_what_leads_to_the_inputs_alone():
    a, b = tb.tensor(array(3), requires_grad=True), tb.tensor(array(3, seed=1), requires_grad=True)
    lines = traced(lambda: tb.grad((a * b).sum(), a), {"a": a, "b": b})
    assert lines == [
        ("sum", "()", "1", [("multiply", "(3,)", norm(np.ones(3)))]),
        ("multiply", "(3,)", norm(np.ones(3)), [("a", "(3,)", norm(b.data))]),
    ]
    lines = traced(lambda: tb.grad((a * b).sum(), b), {"a": a, "b": b})
    assert lines[1][3] == [("b", "(3,)", norm(a.data))]


def test_second_derivatives_are_traced_too():
    x = tb.tensor([2.0], requires_grad=True)
    (slope,) = tb.grad(x * x * x, x, create_graph=True)
    lines = traced(slope.backward, {"x": x})
    assert x.grad[0] == 12
    assert sum(float(n) * (1 if name == "x" else 0) for *_, parts in lines for name, _, n in parts) == 12


def test_standard_output_by_default_and_silence_afterwards(capsys):
    x = tb.tensor(array(3), requires_grad=True)
    with tb.trace():
        x.sum().backward()
        print("then")
    x.sum().backward()
    first, then = capsys.readouterr().out.splitlines()
    assert first == f"{'sum':<18} dy () |1|  ->  leaf (3,) |1.732|" and then == "then"


def test_a_line_is_printed_before_the_next_op_runs():
    file, seen = io.StringIO(), []

    @tb.differentiable
    def look(x):
        def pullback(dy):
            seen.append(file.getvalue())
            return dy

        return x * 1, pullback

    x = tb.tensor(array(3), requires_grad=True)
    with tb.trace(file=file):
        look(x * 2).sum().backward()
    (before,) = seen
    assert [op for op, *_ in read(before)] == ["sum"] and file.getvalue().startswith(before)


def test_an_error_ends_it_and_shows_how_far_the_walk_came():
    @tb.differentiable
    def broken(x):
        def pullback(dy):
            raise ZeroDivisionError("in a pullback")

        return x * 1, pullback

    x, file = tb.tensor(array(3), requires_grad=True), io.StringIO()
    with pytest.raises(ZeroDivisionError), tb.trace(file=file):
        broken(x).sum().backward()
    assert [op for op, *_ in read(file.getvalue())] == ["sum"]
    assert thread.report is None


def test_the_innermost_prints_and_the_outer_goes_on():
    x, outer, inner = tb.tensor(array(3), requires_grad=True), io.StringIO(), io.StringIO()
    walk = tb.trace(file=outer)
    with walk:
        with tb.trace(file=inner):
            (x * x).sum().backward()
        x.sum().backward()
    with walk:  # again
        x.sum().backward()
    assert [op for op, *_ in read(inner.getvalue())] == ["sum", "multiply"]
    assert [op for op, *_ in read(outer.getvalue())] == ["sum", "sum"]


def test_threads_are_traced_one_by_one():
    file, done = io.StringIO(), []

    def other():
        x = tb.tensor(array(3), requires_grad=True)
        (x * x).sum().backward()
        done.append(x.grad)

    with tb.trace(file=file):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(done) == 1 and file.getvalue() == ""


def test_bad_arguments():
    for wrong in (3, [1], {"x": 1}):
        with pytest.raises(TypeError, match="model must be a"):
            tb.trace(wrong)
    with pytest.raises(TypeError, match=r"file must have write\(\), or be None, got str"):
        tb.trace(file="out.txt")


def test_a_name_never_goes_to_another_op():
    """Where a named tensor is gone, the next one may be made in its place in memory, and have its identity."""
    a = tb.tensor([2.0], requires_grad=True)
    for _ in range(20):
        named = {"product": a * a}
        tracer = tb.trace(named, file=io.StringIO())
        del named
        with tracer:
            (a + a).backward()
        assert tracer._file.getvalue().startswith("add ")
