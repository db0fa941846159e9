"""What people do between training steps: copies, pickles, exchanged layers, edited groups, arrays in any layout.

The references are SGD's formula in NumPy, and the arrays themselves. harness/random_lives.py draws such things at
random.
"""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn, optim
from tinygrad_bn.runtime.memory import overlaps

X = np.random.default_rng(0).standard_normal((4, 3))


def train(net, sgd, steps=1):
    for _ in range(steps):
        sgd.zero_grad()
        (net(tb.Tensor(X)) ** 2).mean().backward()
        sgd.step()


def small():
    tb.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    return net, optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def equal(net, other):
    return all(np.array_equal(a.data, b.data) for a, b in zip(net.parameters(), other.parameters(), strict=True))


class Reference:
    """SGD with momentum by the formula; the momentum lies beside the parameter's name."""

    def __init__(self, lr=0.1, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, {}

    def step(self, values, gradients):
        for name, g in gradients.items():
            self.v[name] = self.momentum * self.v[name] + g if name in self.v else g.copy()
            values[name] = values[name] - self.lr * self.v[name]


# the momentum belongs to the parameter


COPIES = {
    "deepcopy of a tuple": lambda net, sgd: copy.deepcopy((net, sgd)),
    "deepcopy, optimizer first": lambda net, sgd: copy.deepcopy([sgd, net])[::-1],
    "deepcopy of a dict": lambda net, sgd: tuple(copy.deepcopy({"net": net, "sgd": sgd}).values()),
    "pickle": lambda net, sgd: pickle.loads(pickle.dumps((net, sgd))),
    "pickle, optimizer first": lambda net, sgd: pickle.loads(pickle.dumps([sgd, net]))[::-1],
    "the oldest pickle": lambda net, sgd: pickle.loads(pickle.dumps((net, sgd), protocol=2)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_net_and_optimizer_go_on_as_the_originals_would(way):
    net, sgd = small()
    train(net, sgd, 3)
    twin, its_sgd = COPIES[way](net, sgd)
    assert not any(a is b or np.shares_memory(a.data, b.data) for a in net.parameters() for b in twin.parameters())
    assert [p for g in its_sgd.param_groups for p in g["params"]] == list(twin.parameters())
    train(net, sgd, 3)
    assert not equal(net, twin)
    train(twin, its_sgd, 3)
    assert equal(net, twin)


def test_pickled_again_and_again_while_others_take_the_places_in_memory():
    """The identities of dead parameters come again, for others of other sizes."""
    tb.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 50), nn.Linear(50, 500)).double()
    sgd = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    same, its_sgd = copy.deepcopy((net, sgd))
    for _ in range(60):
        train(net, sgd, 2)
        blob = pickle.dumps((net, sgd))
        net = sgd = None
        gc.collect()
        net, sgd = pickle.loads(blob)
    train(same, its_sgd, 120)
    assert equal(net, same)


def test_a_new_layer_never_gets_the_momentum_of_a_dead_one():
    sizes = np.random.default_rng(1).integers(1, 40, 300)
    keep = nn.Parameter(np.zeros(1))
    sgd = optim.SGD([keep], lr=1.0, momentum=0.5)
    for n in sizes:
        p = nn.Parameter(np.zeros(n))
        sgd.add_param_group({"params": [p]})
        for expected in (-1.0, -2.5):  # v = 1, then 0.5 + 1
            p.grad = np.ones(n)
            sgd.step()
            assert (p.data == expected).all()
        del sgd.param_groups[1]
        del p


def test_the_momentum_dies_with_its_parameter_and_not_before():
    p, q = nn.Parameter(np.zeros(3)), nn.Parameter(np.zeros(2))
    sgd = optim.SGD([p, q], lr=1.0, momentum=0.5)
    for each in (p, q):
        each.grad = np.ones_like(each.data)
    sgd.step()
    buffer = weakref.ref(sgd._buffers.get(q))
    sgd.param_groups[0]["params"] = [p]
    p.grad = np.ones(3)
    sgd.step()
    assert list(sgd.state_dict()["state"]) == [0] and buffer() is not None
    sgd.param_groups[0]["params"].append(q)  # back again: as in PyTorch its momentum is still there
    q.grad = np.ones(2)
    sgd.step()
    assert (q.data == -1 - 1.5).all()
    sgd.param_groups[0]["params"].pop()
    del q, each
    assert buffer() is None
    with_others = pickle.loads(pickle.dumps(sgd))
    assert list(with_others.state_dict()["state"]) == [0]


def test_two_optimizers_of_one_parameter_have_a_momentum_each():
    p = nn.Parameter(np.zeros(1))
    one, other = optim.SGD([p], lr=1.0, momentum=0.5), optim.SGD([p], lr=1.0, momentum=0.9)
    for sgd, value in ((one, -1.0), (other, -2.0), (one, -3.5), (other, -5.4)):
        p.grad = np.ones(1)
        sgd.step()
        assert p.data[0] == pytest.approx(value, rel=1e-15)


# memory that is shared stays shared


LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "every other column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "not aligned": lambda a: np.frombuffer(bytearray(b"x" + a.tobytes()), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_changes_any_layout_in_place(layout):
    rng = np.random.default_rng(2)
    start, gradients = rng.standard_normal((3, 4)), rng.standard_normal((5, 3, 4))
    array = LAYOUTS[layout](start)
    assert not array.flags.carray and np.array_equal(array, start)
    p, whole = nn.Parameter(array), tb.Tensor(array)
    twin, sgd, values, reference = p.detach(), optim.SGD([p], lr=0.1, momentum=0.9), {"p": start}, Reference()
    for g in gradients:
        p.grad = g
        sgd.step()
        reference.step(values, {"p": g})
    assert p.data is array is twin.data is whole.data
    np.testing.assert_allclose(array, values["p"], rtol=1e-14)


def test_tied_transposed_weights_stay_tied():
    """An autoencoder whose decoder is the transpose of its encoder; both are steps on the same numbers."""
    rng = np.random.default_rng(3)
    encoder, decoder = nn.Linear(3, 2, bias=False).double(), nn.Linear(2, 3, bias=False).double()
    decoder.weight = nn.Parameter(encoder.weight.data.T)
    sgd = optim.SGD([encoder.weight, decoder.weight], lr=0.1, momentum=0.9)
    w, v = encoder.weight.data.copy(), [np.zeros((2, 3)), np.zeros((3, 2))]
    for _ in range(5):
        g, h = rng.standard_normal((2, 3)), rng.standard_normal((3, 2))
        encoder.weight.grad, decoder.weight.grad = g, h
        sgd.step()
        v = [0.9 * v[0] + g, 0.9 * v[1] + h]
        w = w - 0.1 * v[0] - 0.1 * v[1].T
        assert np.shares_memory(encoder.weight.data, decoder.weight.data)
        np.testing.assert_allclose(encoder.weight.data, w, rtol=1e-13)
    for way in COPIES:
        (one, other), _ = COPIES[way](nn.ModuleList([encoder, decoder]), sgd)
        assert np.shares_memory(one.weight.data, other.weight.data), way
        one.weight.data[0, 1] = 7
        assert other.weight.data[1, 0] == 7 and encoder.weight.data[0, 1] != 7, way


@pytest.mark.parametrize(
    "view",
    [lambda a: a, lambda a: a[1:], lambda a: a[:, ::-1], lambda a: a.T[::2], lambda a: a.reshape(-1), lambda a: a[:0]],
)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_views_are_views_in_the_copy(view, order, copied):
    whole = np.array(np.arange(12.0).reshape(4, 3), order=order)
    a, b = tb.Tensor(whole), tb.Tensor(view(whole), requires_grad=True)
    c, d = copied((a, b))
    assert np.array_equal(c.data, a.data) and np.array_equal(d.data, b.data) and d.requires_grad
    assert d.data.strides == b.data.strides
    assert np.shares_memory(c.data, d.data) == np.shares_memory(a.data, b.data)
    c.data[...] = -1
    assert (d.data == -1).all() == (np.shares_memory(a.data, b.data) or not b.size) and whole[0, 1] == 1


def test_a_copy_of_what_shares_its_changes_shares_them():
    w = tb.tensor([1.0, 2.0], requires_grad=True)
    w, twin = copy.deepcopy((w, w.detach()))
    y = (w * w).sum()
    twin += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_gradients_flags_and_attributes_are_copied_and_the_copy_is_its_own():
    class Named(nn.Parameter):
        pass

    p = Named(np.array([1.0, 2.0]))
    p.name, p.grad = "p", np.array([3.0, 4.0])
    again = copy.deepcopy(p)
    assert type(again) is Named and again.name == "p" and again.requires_grad and again.is_leaf
    again.grad += 1
    again.data[0] = 9
    assert list(p.grad) == [3, 4] and p.data[0] == 1 and list(again.grad) == [4, 5]
    shallow = copy.copy(p)
    assert shallow.data is p.data and shallow.grad is p.grad and shallow.name == "p" and type(shallow) is Named


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_computed_tensor_says_how_it_can_be_copied(copied):
    x = tb.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"use t\.detach\(\)"):
        copied({"loss": x * 2})
    assert copied({"loss": (x * 2).detach()})
    y = copy.copy(x * 2)  # shares the history
    y.backward()
    assert x.grad == 2


READ_ONLY = {
    "read-only": (lambda: np.frombuffer(np.ones(3).tobytes()), "writable"),
    "repeated": (lambda: np.broadcast_to(np.ones(1), (3,)), "writable"),
    "repeated, writable": (lambda: np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,)), "overlapping"),
    "windows": (lambda: np.lib.stride_tricks.as_strided(np.ones(3), (3,), (4,)), "overlapping"),
}


@pytest.mark.parametrize("kind", READ_ONLY)
def test_what_cannot_be_changed_in_place_is_refused_before_anything_changes(kind):
    make, word = READ_ONLY[kind]
    p, q = nn.Parameter(np.zeros(2)), nn.Parameter(make())
    p.grad, q.grad, before = np.ones(2), np.ones(3), q.data.copy()
    sgd = optim.SGD([p, q], lr=1.0, momentum=0.9)
    with pytest.raises(ValueError, match=f"params must .*{word}"):
        sgd.step()
    assert (p.data == 0).all() and np.array_equal(q.data, before) and not sgd.state_dict()["state"]


# groups


def test_a_group_that_is_added_has_the_defaults_and_its_own_settings():
    p, q = nn.Parameter(np.zeros(1)), nn.Parameter(np.zeros(1))
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    sgd.add_param_group({"params": q, "lr": 0.25})
    for _ in range(2):
        p.grad, q.grad = np.ones(1), np.ones(1)
        sgd.step()
    assert p.item() == -2.5 and q.item() == -2.5 / 4
    assert repr(sgd).splitlines()[:3] == ["SGD (", "Parameter Group 0", "    dampening: 0"]
    assert "    lr: 0.25" in repr(sgd)


def a_group(**changes):
    settings = {"lr": 1.0, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    return {"params": [nn.Parameter(np.zeros(2))], **settings, **changes}


def computed():
    return [nn.Parameter(np.zeros(2)) * 2]


EDITS = {
    "no key": (lambda sgd: sgd.param_groups.append({"params": []}), ValueError, ["param_groups[1]", "missing", "'lr'"]),
    "no group": (lambda sgd: sgd.param_groups.append([]), TypeError, ["param_groups[1]", "dict", "list"]),
    "no list": (lambda sgd: setattr(sgd, "param_groups", {}), TypeError, ["param_groups", "list", "dict"]),
    "lr": (lambda sgd: sgd.param_groups.append(a_group(lr=-1.0)), ValueError, ["lr", "param_groups[1]", "-1"]),
    "lr of the first": (lambda sgd: sgd.param_groups[0].update(lr="0.1"), TypeError, ["lr", "number", "str"]),
    "flag": (lambda sgd: sgd.param_groups.append(a_group(nesterov=1)), TypeError, ["nesterov", "param_groups[1]"]),
    "nesterov": (lambda sgd: sgd.param_groups[0].update(nesterov=True, dampening=0.5), ValueError, ["nesterov"]),
    "a generator": (lambda sgd: sgd.param_groups[0].update(params=iter([])), TypeError, ["params", "list", "iterator"]),
    "an array": (lambda sgd: sgd.param_groups[0]["params"].append(np.ones(2)), TypeError, ["params", "ndarray"]),
    "computed": (lambda sgd: sgd.param_groups[0]["params"].extend(computed()), ValueError, ["params", "leaves"]),
    "twice": (
        lambda sgd: sgd.param_groups.append(a_group(params=sgd.param_groups[0]["params"])),
        ValueError,
        ["params", "twice"],
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_group_made_invalid_by_hand_is_named_before_anything_changes(kind):
    edit, error, words = EDITS[kind]
    p = nn.Parameter(np.zeros(2))
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = np.ones(2)
    edit(sgd)
    with pytest.raises(error) as caught:
        sgd.step()
    assert all(word in str(caught.value) for word in words), caught.value
    assert (p.data == 0).all()


@pytest.mark.parametrize(
    ("group", "error", "word"),
    [
        ([], TypeError, "param_group"),
        ({"lr": 1.0}, ValueError, "params"),
        ({"params": [], "rate": 1.0}, ValueError, "rate"),
        ({"params": 3}, TypeError, "params"),
        ({"params": [], "lr": -1}, ValueError, "lr"),
        ({"params": [nn.Parameter(np.zeros(1)) * 2]}, ValueError, "leaves"),
    ],
)
def test_a_bad_group_is_not_added(group, error, word):
    sgd = optim.SGD([nn.Parameter(np.zeros(2))], lr=1.0)
    with pytest.raises(error, match=word):
        sgd.add_param_group(group)
    with pytest.raises(ValueError, match="twice"):
        sgd.add_param_group({"params": sgd.param_groups[0]["params"]})
    assert len(sgd.param_groups) == 1


def test_zeros_as_gradients_let_the_momentum_go_on_and_none_does_not():
    p = nn.Parameter(np.zeros(1))
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = np.ones(1)
    sgd.step()
    sgd.zero_grad(set_to_none=False)
    assert p.grad == 0
    sgd.step()
    assert p.item() == -1.5
    sgd.zero_grad()
    sgd.step()
    assert p.item() == -1.5
    sgd.zero_grad(set_to_none=False)
    assert p.grad is None
    layer = nn.Linear(1, 1)
    layer.weight.grad = np.ones((1, 1), np.float32)
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad == 0 and layer.bias.grad is None
    layer.zero_grad()
    assert layer.weight.grad is None


# copies of what lies in memory in odd ways


def a_field():
    record = np.zeros(4, [("flag", "?"), ("x", "f8")])
    record["x"] = np.arange(4)
    return record["x"]


ODD = {
    "the real part of complex numbers": lambda: (np.arange(5) + 1j).real,
    "a float32 view of float64": lambda: np.arange(6.0).view(np.float32),
    "a float64 view of bytes": lambda: np.zeros(48, np.uint8).view(np.float64),
    "a float32 view of int32": lambda: np.arange(4, dtype=np.int32).view(np.float32),
    "a field of a record": a_field,
    "a new axis": lambda: np.arange(6.0)[:, None],
    "neither C nor Fortran order": lambda: np.array(np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)),
    "repeated": lambda: np.broadcast_to(np.arange(3.0), (2, 3)),
    "of a file": lambda: np.frombuffer(np.arange(4.0).tobytes()),
    "no axes": lambda: np.array(3.0),
    "nothing": lambda: np.zeros((0, 3)),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_copy_has_the_dtype_the_values_and_the_sharing(kind, copied):
    t = tb.Tensor(ODD[kind]())
    one, twin = copied([t, t.detach()])
    assert one.dtype == t.dtype and one.shape == t.shape and np.array_equal(one.data, t.data)
    assert not np.shares_memory(one.data, t.data)
    assert np.shares_memory(one.data, twin.data) or not t.size


class Tagged(nn.Parameter):
    __slots__ = ("tag",)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_slots_of_a_subclass_are_copied(copied):
    p = Tagged(np.ones(2))
    p.tag = "first"
    assert copied(p).tag == "first" and not hasattr(copied(Tagged(np.ones(1))), "tag")


def test_nothing_of_an_optimizer_is_left_without_the_cycle_collector():
    p = nn.Parameter(np.zeros(3))
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = np.ones(3)
    sgd.step()
    buffer = weakref.ref(sgd._buffers.get(p))
    gc.disable()
    try:
        del sgd
        assert buffer() is None
    finally:
        gc.enable()


# groups that were edited, in all that looks at them


@pytest.mark.parametrize("call", ["zero_grad", "state_dict", "step", "load_state_dict"])
@pytest.mark.parametrize("group", [{"lr": 0.1}, [], {"params": [np.zeros(2)], "lr": 1.0}, {"params": None}])
def test_whatever_meets_a_broken_group_first_names_it(call, group):
    p = nn.Parameter(np.zeros(2))
    sgd = optim.SGD([p], lr=1.0)
    p.grad = np.ones(2)
    state = sgd.state_dict()
    sgd.param_groups.append(group)
    with pytest.raises((TypeError, ValueError), match=r"param_groups\[1\]"):
        getattr(sgd, call)(*([state] if call == "load_state_dict" else []))
    assert p.grad is not None and not p.data.any()


def test_a_gradient_that_overlaps_its_parameter_is_read_before_it_changes():
    w = np.arange(6.0)
    p = nn.Parameter(w[1:])
    p.grad = w[:-1]
    optim.SGD([p], lr=0.5).step()
    assert np.array_equal(w, np.arange(6.0) - 0.5 * np.array([0, 0, 1, 2, 3, 4]))


@pytest.mark.parametrize("name", ["lr", "weight_decay", "dampening"])
def test_settings_that_float32_cannot_hold_are_refused(name):
    p = nn.Parameter(np.ones(2, np.float32))
    p.grad = np.ones(2, np.float32)
    sgd = optim.SGD([p], **{"momentum": 0.5, "lr": 0.1, name: 1e39})
    with pytest.raises(ValueError, match="must fit into float32"):
        sgd.step()
    assert (p.data == 1).all()


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_after_a_step_is_looked_at_too(kind):
    edit, error, words = EDITS[kind]
    p = nn.Parameter(np.zeros(2))
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = np.ones(2)
    sgd.step()
    edit(sgd)
    with pytest.raises(error) as caught:
        sgd.step()
    assert all(word in str(caught.value) for word in words) and (p.data == -1).all()


def test_each_setting_that_is_edited_after_a_step_holds_in_the_next():
    rng, p = np.random.default_rng(0), nn.Parameter(np.ones(3))
    sgd, value, v = optim.SGD([p], lr=0.1, momentum=0.9), np.ones(3), None
    edits = [{}, {"lr": 0.2}, {"weight_decay": 0.1}, {"dampening": 0.5}, {"maximize": True}, {"momentum": 0.5}]
    for edit in [*edits, {"dampening": 0, "nesterov": True}]:
        sgd.param_groups[0].update(edit)
        s = sgd.param_groups[0]
        p.grad = rng.standard_normal(3)
        d = (-p.grad if s["maximize"] else p.grad) + s["weight_decay"] * value
        v = d if v is None else s["momentum"] * v + (1 - s["dampening"]) * d
        value = value - s["lr"] * (d + s["momentum"] * v if s["nesterov"] else v)
        sgd.step()
        np.testing.assert_allclose(p.data, value, rtol=1e-13)


def test_a_number_that_is_repeated_a_billion_times_is_known_without_a_table_of_places():
    assert overlaps(np.broadcast_to(np.float32(1), (1000, 1000, 1000)))
    assert not overlaps(np.ones((3, 4)).T[::2]) and not overlaps(np.ones(1)[:, None])


@pytest.mark.parametrize("fortran", [0, 1])
def test_parameters_on_one_memory_step_in_their_order(fortran):
    """Whatever the layout of their gradients, which decides how many of them one call changes."""
    a, b = nn.Parameter(np.array([[1.0, 2.0], [3.0, 4.0]])), nn.Parameter(np.zeros((2, 2)))
    b.data = a.data
    sgd, expected = optim.SGD([a, b], lr=0.1, weight_decay=0.5), a.data.copy()
    for _ in range(3):
        gradients = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])]
        gradients[fortran] = np.asfortranarray(gradients[fortran])
        a.grad, b.grad = gradients
        sgd.step()
        for g in gradients:
            expected = expected - 0.1 * (g + 0.5 * expected)
    np.testing.assert_allclose(a.data, expected, rtol=1e-14)


def test_a_copy_of_one_number_repeated_has_a_place_for_each_element():
    repeated = np.broadcast_to(np.ones(1), (3,))
    for again in (copy.deepcopy(tb.Tensor(repeated)), pickle.loads(pickle.dumps(tb.Tensor(repeated)))):
        again[0] = 5.0
        assert again.tolist() == [5.0, 1.0, 1.0]


# --- a step that is made again, on other gradients (compiled, from the second on)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_a_step_that_is_made_again_counts_as_a_change(momentum):
    w = tb.tensor(np.ones((2, 3), np.float32), requires_grad=True)
    sgd = optim.SGD([w], lr=0.1, momentum=momentum)
    for _ in range(4):
        first, second = (w * w).sum(), (w * w).sum()
        sgd.zero_grad()
        first.backward()
        sgd.step()
        with pytest.raises(RuntimeError, match="changed in place"):
            second.backward()


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_a_step_that_is_made_again_goes_into_the_array_that_is_there_now(momentum):
    w = tb.tensor(np.ones(3, np.float32), requires_grad=True)
    sgd = optim.SGD([w], lr=0.5, momentum=momentum)
    velocity = 0.0
    for step in range(4):
        before, w.data = w.data, np.full(3, 8.0, np.float32)
        kept = before.copy()
        w.grad = np.full(3, 2.0, np.float32)
        sgd.step()
        velocity = momentum * velocity + 2.0
        assert w.data.tolist() == pytest.approx([8.0 - 0.5 * velocity] * 3), step
        assert np.array_equal(before, kept)


def test_a_gradient_that_was_resized_is_refused_when_a_step_would_be_made_again():
    w = tb.tensor(np.ones(3, np.float32), requires_grad=True)
    sgd = optim.SGD([w], lr=0.5)
    for size in (3, 3, 3, 1):
        w.grad = np.full(3, 2.0, np.float32)
        w.grad.resize(size, refcheck=False)
        before = w.tolist()
        if size == 3:
            sgd.step()
            assert w.tolist() == [value - 1 for value in before]
        else:
            with pytest.raises(ValueError, match="grad"):
                sgd.step()
            assert w.tolist() == before
