"""What the engine promises."""

import copy
import functools
import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, grad, nn, no_grad, optim, tensor

GLOBAL = np.full(4, 3.0)


def leaf(*values):
    return tensor(list(values), dtype=np.float64, requires_grad=True)


def test_chain_of_100_000_ops():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + x
    y.backward()
    assert x.grad == [100_001.0]
    del y  # an unwalked chain must be freed without recursion too
    y = x
    for _ in range(100_000):
        y = y * 1.0
    del y


def resident_memory():
    """Bytes, or 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def test_live_tensors_and_memory_stay_flat_with_the_collector_off():
    def live():
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())  # isinstance would wake lazy modules

    tb.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    sgd = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x, y = Tensor(np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)), np.array([0, 1, 0, 1])
    gc.collect()
    gc.disable()
    try:
        counts, memory = [], []
        for step in range(10_000):
            loss = F.cross_entropy(net(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            if step % 2_500 == 10:
                counts.append(live())
                memory.append(resident_memory())
    finally:
        gc.enable()
    assert len(set(counts)) == 1
    assert memory[-1] - memory[0] < 2**20  # over 7,500 steps


def test_gradients_on_the_way_are_let_go():
    """Along a chain of 50 ops on 1 MB arrays the walk holds a few gradients, not fifty."""
    x = tensor(np.zeros(2**18, np.float32), requires_grad=True)
    y = x
    for _ in range(50):
        y = -y
    seed = np.ones_like(x.data)
    tracemalloc.start()
    try:
        y.backward(seed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 2**20


def test_in_place_changes_do_not_mix_dtypes():
    for change in (lambda t: t.__iadd__(np.ones(2)), lambda t: t.__setitem__(0, tensor(1.0, dtype=np.float64))):
        t = tensor([1.0, 2.0])
        with pytest.raises(TypeError, match="float32 with float64"):
            change(t)


def test_second_backward_names_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    z = x * x
    x.grad = None
    z.backward(retain_graph=True)
    z.backward()
    assert x.grad == [8.0]


def change_leaf(x, y):
    with no_grad():
        x += 1


def change_through_data(x, y):
    x.data -= 0.5


def change_detached(x, y):
    x.detach()[0] = 3.0


def change_result(x, y):
    with no_grad():
        y *= 2


@pytest.mark.parametrize("change", [change_leaf, change_through_data, change_detached, change_result])
def test_change_in_place_of_a_needed_array_raises(change):
    x = leaf(1.0, 2.0)
    y = (x * 1.0).exp() if change is change_result else x * x
    change(x, y)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_change_in_place_of_an_array_that_is_not_needed_passes():
    x = leaf(1.0, 2.0)
    y = x + 1
    change_leaf(x, y)
    y.sum().backward()
    assert np.array_equal(x.grad, [1, 1])


def test_a_step_between_forward_and_backward_is_detected():
    layer = nn.Linear(2, 2)
    sgd = optim.SGD(layer.parameters(), lr=0.1)
    x = tensor([[1.0, 2.0]], requires_grad=True)
    first = layer(x).sum()
    second = layer(x).sum()
    first.backward()
    sgd.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        second.backward()


def test_in_place_change_while_recording_raises():
    x = leaf(1.0)
    with pytest.raises(RuntimeError, match="no_grad"):
        x += 1


def test_no_grad_is_per_thread_and_nests():
    x = leaf(1.0)
    seen = {}
    with no_grad():
        thread = threading.Thread(target=lambda: seen.update(other=(x * 2).requires_grad))
        thread.start()
        thread.join()
        with tb.enable_grad():
            seen["inside"] = (x * 2).requires_grad
        seen["here"] = (x * 2).requires_grad
    seen["after"] = (x * 2).requires_grad
    assert seen == {"other": True, "inside": True, "here": False, "after": True}


def test_gradients_do_not_share_memory():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = np.array([1.0, 1.0])
    (a + b).backward(seed)
    for one, other in ((a.grad, b.grad), (a.grad, seed), (b.grad, seed)):
        assert not np.shares_memory(one, other)


def test_grad_returns_and_leaves_dot_grad_alone():
    x, unused = leaf(3.0), leaf(1.0)
    h = x * x
    y = h * x
    gh, gx = grad(y, [h, x])
    assert (gh, gx, x.grad) == ([3.0], [27.0], None)
    with pytest.raises(RuntimeError, match="allow_unused"):
        grad(x * 1, [unused])
    assert grad(x * 1, [unused], allow_unused=True) == (None,)


def test_an_output_that_is_named_twice_counts_twice():
    x = leaf(3.0)
    y = x * x
    assert grad([y, y], x, [np.array([1.0]), np.array([10.0])]) == ([66.0],)
    assert grad([x, x], x) == ([2.0],)


def test_higher_derivatives():
    x = leaf(2.0)
    (first,) = grad(x**4, x, create_graph=True)
    (second,) = grad(first, x, create_graph=True)
    (third,) = grad(second, x)
    assert (first.item(), second.item(), third.item()) == (32.0, 48.0, 48.0)


def test_retain_grad_and_accumulation():
    x = leaf(2.0)
    h = x * 3
    h.retain_grad()
    (h * h).backward()
    assert h.grad == [12.0] and x.grad == [36.0]
    (x * 1).backward()
    assert x.grad == [37.0]
    h = x * 3
    h.retain_grad()
    y = h * h
    y.backward(retain_graph=True)
    y.backward()
    assert h.grad == [24.0] and x.grad == [37.0 + 72.0]


def test_mixing_dtypes_raises():
    with pytest.raises(TypeError, match="float32 and float64"):
        tensor([1.0]) + leaf(1.0)
    with pytest.raises(TypeError, match="float32"):
        tensor([1.0]) * np.arange(1)


@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        (1, None, np.float32),
        ([1.5, 2], None, np.float32),
        (True, None, np.float32),
        (np.arange(3), None, np.float32),
        (np.zeros(2), None, np.float64),
        (np.zeros(2, np.float32), None, np.float32),
        ([1], np.float64, np.float64),
    ],
)
def test_dtype_of_tensor(data, dtype, expected):
    assert tensor(data, dtype=dtype).dtype == expected


@pytest.mark.parametrize("data", ["a", [1j], np.zeros(2, np.float16), None, [object()]])
def test_tensor_rejects(data):
    with pytest.raises(TypeError):
        tensor(data)


def test_tensor_copies_and_Tensor_wraps():
    array = np.zeros(3)
    assert not np.shares_memory(tensor(array).data, array)
    assert Tensor(array).data is array


def test_numpy_functions_on_tensors():
    x = leaf(1.0, 2.0)
    assert isinstance(np.exp(x), Tensor) and isinstance(np.ones(2) + x, Tensor)
    np.sum(np.ones(2) * x * x, axis=0).backward()
    assert np.array_equal(x.grad, [2, 4])
    with pytest.raises(TypeError, match="not defined on tensors"):
        np.sinh(x)


def test_wrong_pullbacks_are_reported():
    x = leaf(1.0, 2.0)
    for pullback, error, words in (
        (lambda dy: (dy, dy), ValueError, "2 gradients for 1"),
        (lambda dy: dy[:1].reshape(1, 1) * np.ones((3, 3)), ValueError, "shape"),
        (lambda dy: dy.astype(np.float32), TypeError, "float32"),
    ):
        op = tb.differentiable(lambda a, *, pullback=pullback: (a * 1, pullback))
        with pytest.raises(error, match=words):
            op(x).sum().backward()


def test_an_array_of_objects_is_refused_at_once():
    """NumPy would multiply it one by one; the gradient would be of objects."""
    x = tensor(np.ones((2, 2)), requires_grad=True)
    objects = np.array([[1, 2.0], [3, 4]], dtype=object)
    for call in (lambda: x @ objects, lambda: x * objects, lambda: tb.maximum(x, objects)):
        with pytest.raises(TypeError, match="must hold numbers, got an array of objects"):
            call()


def test_gradcheck_says_where():
    x = leaf(1.0, 2.0)
    wrong = tb.differentiable(lambda a: (a * a, lambda dy: dy * a * np.array([2.0, 2.1])))
    with pytest.raises(tb.GradcheckError, match=r"input 0: 1 of 2 .* element \(1,\)"):
        tb.gradcheck(wrong, x)
    with pytest.raises(ValueError, match="float64"):
        tb.gradgradcheck(lambda a: a * a, tensor([1.0], requires_grad=True))


def test_gradients_are_new_arrays_whatever_the_pullback_returns():
    """A rule may return one array twice, or one that it keeps: changing a .grad must not change anything else."""
    constant = np.array([2.0, 3.0])
    scaled = tb.differentiable(lambda a: ((a * constant).sum(), lambda dy: constant))
    x = leaf(1.0, 1.0)
    scaled(x).backward()
    x.grad *= 10
    assert np.array_equal(constant, [2, 3])

    def pullback(dy):
        g = dy * 2
        return g, g

    both = tb.differentiable(lambda a, b: (a + b, pullback))
    x, y = leaf(1.0), leaf(2.0)
    both(x, y).backward()
    assert not np.shares_memory(x.grad, y.grad)


def test_grad_stops_at_its_inputs():
    """What lies behind an input is not needed, even if its graph was freed."""
    x = leaf(3.0)
    h = x * x
    h.backward()  # frees the graph behind h
    assert grad(h * 2, h) == ([2.0],)
    with pytest.raises(RuntimeError, match="retain_graph"):
        grad(h * 2, x)


def test_gradcheck_does_not_draw_the_inputs_own_numbers():
    """Where the cotangent equals the input, 2 dy dy passes for 2 x dy."""

    @tb.differentiable
    def square(x):
        return x * x, lambda dy: 2 * dy * dy

    for seed in range(3):
        x = tensor(np.random.default_rng(seed).standard_normal((2, 3)), requires_grad=True)
        with pytest.raises(tb.GradcheckError):
            tb.gradcheck(square, x, seed=seed)


def test_gradcheck_names_a_function_that_is_not_deterministic():
    with pytest.raises(tb.GradcheckError, match="not deterministic"):
        tb.gradcheck(lambda a: F.dropout(a, 0.5), leaf(*range(1, 20)))


def test_powers_of_and_by_booleans_and_small_integers():
    """Their logarithm is taken in the result's dtype (NumPy's of an int8 is a float16), and so is b - 1."""
    x = tensor([1.5, 2.0], requires_grad=True)
    for dtype in (np.int8, bool):
        k = np.array([3, 1], dtype)
        for y, expected in ((k**x, k**x.data * np.log(k.astype(float))), (x**k, k * x.data ** (k.astype(float) - 1))):
            x.grad = None
            y.sum().backward()
            assert x.grad.dtype == np.float32
            np.testing.assert_allclose(x.grad, expected, rtol=1e-6)


def test_powers_at_zero():
    """As in PyTorch: a^0 is constant also at a = 0, and 0^b has no slope in b."""
    a, b = leaf(0.0, 0.0, 2.0), leaf(0.0, 2.0, 0.0)
    (a**b).sum().backward()
    assert np.array_equal(a.grad, [0, 0, 0])
    np.testing.assert_allclose(b.grad, [0, 0, np.log(2)])
    c = leaf(0.0)
    (c**0).backward()
    assert c.grad == [0.0]


def test_the_gradient_of_the_absolute_value_is_0_at_0():
    x = leaf(-2.0, 0.0, -0.0, 3.0)
    abs(x).sum().backward()
    assert np.array_equal(x.grad, [-1, 0, 0, 1])


def test_clip_lets_the_gradient_pass_at_its_bounds():
    x = leaf(-2.0, -1.0, 0.0, 1.0, 2.0)
    x.clip(-1, 1).sum().backward()
    assert np.array_equal(x.grad, [0, 1, 1, 1, 0])


class Holder:
    def __init__(self, array):
        self.array = array

    def __call__(self, dy):
        return dy * self.array


PULLBACKS = {  # ways in which the gradient of a sum of squares can hold on to its array
    "closure": lambda a: lambda dy: dy * 2 * a,
    "nested function": lambda a: (lambda inner: lambda dy: inner(dy))(lambda dy: dy * 2 * a),
    "default argument": lambda a: lambda dy, a=a: dy * 2 * a,
    "keyword default": lambda a: lambda dy, *, a=a: dy * 2 * a,
    "partial": lambda a: functools.partial(lambda a, dy: dy * 2 * a, a),
    "list": lambda a: (lambda kept: lambda dy: dy * 2 * kept[0])([a]),
    "dict": lambda a: (lambda kept: lambda dy: dy * 2 * kept["a"])({"a": (a,)}),
    "object": lambda a: Holder(a),
    "tensor": lambda a: (lambda t: lambda dy: dy * 2 * t.data)(Tensor(a)),
}


@pytest.mark.parametrize("way", PULLBACKS)
def test_a_change_is_detected_however_the_array_is_kept(way):
    op = tb.differentiable(lambda a: ((a * a).sum(), PULLBACKS[way](a)))
    x = leaf(1.0, 2.0)
    y = op(x)
    change_leaf(x, y)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_an_op_that_returns_its_argument_shares_its_counter():
    same = tb.differentiable(lambda a: (a, lambda dy: dy))
    x = leaf(1.0, 2.0)
    y = same(x)
    z = y * y
    change_leaf(x, y)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()


def test_create_graph_notices_a_changed_argument_and_an_op_that_draws():
    x = leaf(1.0, 2.0)
    y = (x * 3).sum()  # the array gradient does not need x; a second computation on tensors would
    change_leaf(x, y)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(create_graph=True)
    rng = np.random.default_rng(0)

    def noisy(a):
        mask = rng.random(a.shape)
        return a * mask, lambda dy: dy * mask

    y = tb.differentiable(noisy)(leaf(1.0, 2.0)).sum()
    with pytest.raises(RuntimeError, match="another result"):
        y.backward(create_graph=True)


def test_gradients_with_a_graph_do_not_share_memory():
    a, b, c = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    seed = np.ones(2)
    (a + b).backward(seed, create_graph=True)
    c.sum().backward(create_graph=True)  # the gradient of a sum is a read-only array that repeats one number
    for one, other in ((a.grad.data, b.grad.data), (a.grad.data, seed), (b.grad.data, seed)):
        assert not np.shares_memory(one, other)
    c.grad.data[0] = 7
    assert np.array_equal(c.grad.data, [7, 1])


def test_what_grad_returns_belongs_to_the_caller():
    x = leaf(1.0, 2.0)
    h = x * 1
    total = h.sum()
    for create_graph in (False, True):
        found = grad(total, [h, x, h, x], retain_graph=True, create_graph=create_graph)
        arrays = [g.data if create_graph else g for g in found]
        for i, one in enumerate(arrays):
            assert one.flags.writeable and np.array_equal(one, [1, 1])
            assert not any(np.shares_memory(one, other) for other in arrays[:i])


def test_gradients_of_tensors_without_axes_are_arrays():
    x = tensor(2.0, dtype=np.float64, requires_grad=True)
    for _ in range(2):  # the second adds to .grad
        (x * x + x).backward()
        assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()
    assert x.grad == 10
    (g,) = grad(x * x + x, x)
    assert isinstance(g, np.ndarray) and g == 5


def test_only_what_was_walked_is_freed():
    x, w = leaf(3.0), leaf(2.0)
    h = x * x
    y = h * w
    assert grad(y, w) == ([9.0],)
    h.backward()  # grad() went nowhere near h's own graph
    assert x.grad == [6.0]


def test_gradcheck_rejects_infinite_derivatives():
    jump = tb.differentiable(lambda a: (np.where(a > 0, np.inf, 0.0), lambda dy: dy * np.inf))
    with np.errstate(all="ignore"), pytest.raises(tb.GradcheckError):
        tb.gradcheck(jump, leaf(0.0))
    zero = tb.differentiable(lambda a: (np.where(a > 0, np.inf, 0.0), lambda dy: dy * 0))
    with np.errstate(all="ignore"), pytest.raises(tb.GradcheckError):  # 0 - inf is within rtol inf
        tb.gradcheck(zero, leaf(0.0))


def test_no_grad_objects_can_be_used_again_and_nested():
    off = no_grad()
    x = leaf(1.0)
    with off:
        with off:
            assert not (x * 1).requires_grad
        assert not (x * 1).requires_grad
    assert (x * 1).requires_grad
    with off:
        assert not (x * 1).requires_grad

    @off
    def double(t):
        return t * 2

    assert not double(x).requires_grad and (x * 1).requires_grad


def test_numpy_scalars_count_as_numbers():
    x = tensor([1.0, 2.0], requires_grad=True)
    for y in (x * np.float64(2), np.float64(2) * x, x + np.int64(2), x ** np.int64(2), np.float32(1) - x):
        assert isinstance(y, Tensor) and y.dtype == np.float32
        (g,) = grad(y.sum(), x, create_graph=True)
        assert g.dtype == np.float32
    assert F.dropout(x, np.float32(0.5), training=False) is x
    assert F.layer_norm(x, 2, eps=np.float32(1e-5)).dtype == np.float32


def test_deepcopy_after_a_backward_with_a_graph():
    x = leaf(3.0)
    (x * x).backward(create_graph=True)
    other = copy.deepcopy(x)
    assert np.array_equal(other.grad, [6.0]) and not np.shares_memory(other.grad, x.grad.data)


def test_variance_without_degrees_of_freedom_is_nan():
    x = leaf(1.0)
    y = x.var(ddof=1)
    y.backward()
    assert np.isnan(y.data) and np.isnan(x.grad).all()


def test_gradient_of_the_largest_of_nan_is_nan():
    x = leaf(1.0, np.nan)
    x.max().backward()
    assert np.isnan(x.grad).all()


def test_a_definition_that_is_another_function_is_noticed():
    op = tb.differentiable(definition=lambda a: a**5)(lambda a: (a * a, lambda dy: 2 * a * dy))
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="its definition gives another result"):
        grad(op(x).sum(), x, create_graph=True)


def test_gradgradcheck_compares_the_gradients_of_rule_and_definition():
    """The same values, but the rule's pullback is wrong: gradcheck says so, and gradgradcheck does not hide it."""
    op = tb.differentiable(definition=lambda a: a * a)(lambda a: (a * a, lambda dy: 3 * a * dy))
    with pytest.raises(tb.GradcheckError, match="create_graph=True"):
        tb.gradgradcheck(op, leaf(1.0, 2.0))


def test_a_variable_that_was_never_assigned_is_no_obstacle():
    @tb.differentiable
    def double(a):
        if a.size == 0:
            never = 1

        def pullback(dy):
            return 2 * dy if a.size else never

        return 2 * a, pullback

    x = leaf(1.0)
    y = double(x)
    y.backward()
    assert x.grad == [2]


def test_a_missing_gradient_is_an_error_and_not_a_zero():
    first_only = tb.differentiable(lambda a, b: (a * b, lambda dy: dy * b))
    a, b = leaf(1.0), leaf(2.0)
    with pytest.raises(ValueError, match="no gradient for its argument 1"):
        first_only(a, b).backward()
    assert a.grad is None and b.grad is None
    with pytest.raises(TypeError, match="by keyword"):
        tb.pad(leaf(1.0), [(1, 1)], value=leaf(2.0))


def test_gradients_do_not_share_memory_with_what_came_in():
    seed = np.ones(2)
    x = leaf(1.0, 2.0)
    x.backward(seed, create_graph=True)
    assert not np.shares_memory(x.grad.data, seed)
    (g,) = grad(x, x, tensor(seed), create_graph=True)
    assert not np.shares_memory(g.data, seed)

    @tb.differentiable
    def same_for_both(a, b):
        def pullback(dy):
            g = 1.0 * dy
            return (lambda: g), (lambda: g)

        return a + b, pullback

    a, b = leaf(1.0), leaf(2.0)
    same_for_both(a, b).backward()
    a.grad += 1
    assert b.grad == [1]


@pytest.mark.parametrize("kind", ["global", "closure", "part", "repeated", "list"])
def test_what_a_pullback_keeps_is_not_given_away(kind):
    """Whatever way it keeps it, and as whatever view."""
    kept = np.full((2, 2), 3.0)
    drawer = [kept.reshape(4)]
    views = {
        "global": lambda: GLOBAL,
        "closure": lambda: kept.reshape(4),
        "part": lambda: np.ones(8)[:4],
        "repeated": lambda: np.broadcast_to(np.ones(1), 4),
        "list": lambda: drawer[0],
    }
    op = tb.differentiable(lambda x: (x * 3, lambda dy: views[kind]()))
    x = leaf(1.0, 2.0, 3.0, 4.0)
    op(x).backward(np.ones(4))
    assert x.grad.base is None and x.grad.flags.owndata
    x.grad += 1
    assert (kept == 3).all() and (GLOBAL == 3).all()


def test_a_new_array_is_given_away_as_it_is():
    """In whatever shape, without a copy: for large arrays it would cost as much as computing them."""
    made = []

    def fresh(shape):
        g = np.ones(4)
        made.append(g.__array_interface__["data"][0])
        return g.reshape(shape)

    for shape in ((4,), (2, 2)):
        op = tb.differentiable(lambda x: (x * 1, lambda dy: fresh(dy.shape)))
        x = tensor(np.ones(shape), requires_grad=True)
        op(x).backward(np.ones(shape))
        assert x.grad.__array_interface__["data"][0] == made[-1]


def test_a_parameter_shares_the_changes_of_the_tensor_that_it_wraps():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    p = nn.Parameter(x)
    with no_grad():
        p += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize("index", [[0, 0], np.array([0, 0]), (slice(None), [0])])
def test_an_index_that_is_changed_later_does_not_move_the_gradient(index):
    x = tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    y = x[index].sum()
    part = index[1] if isinstance(index, tuple) else index
    part[0] = 1
    y.backward()
    expected = np.zeros((3, 2))
    if isinstance(index, tuple):
        expected[:, 0] = 1
    else:
        expected[0] = 2
    np.testing.assert_array_equal(x.grad, expected)


def test_subclasses_of_arrays_are_refused(tmp_path):
    for data in (np.ma.masked_array([1.0, 2.0], [True, False]), np.asarray([[1.0]]).view(np.matrix)):
        with pytest.raises(TypeError, match="plain NumPy array"):
            Tensor(data)
        with pytest.raises(TypeError, match="plain NumPy array"):
            tensor(data)
    np.save(tmp_path / "x.npy", np.ones(3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert type((Tensor(mapped) * 2).data) is np.ndarray  # a file is only another place for the same numbers


def test_a_bias_may_change_before_backward():
    """No gradient needs its value."""
    x = tensor(np.random.default_rng(0).standard_normal((4, 3)), requires_grad=True)
    b = tensor(np.zeros(3), requires_grad=True)
    for y in (F.batch_norm(x, None, None, None, b, True), F.layer_norm(x, 3, None, b)):
        with no_grad():
            b += 1
        y.backward(np.ones((4, 3)))
    np.testing.assert_array_equal(b.grad, [8, 8, 8])


def test_a_freed_branch_beside_the_path_does_not_matter():
    x = leaf(3.0)
    h, k = x * 2, x * 3
    k.backward()
    assert grad(h * k, h)[0] == [9]  # the path to h does not go through what k was computed from
    with pytest.raises(RuntimeError, match="retain_graph"):
        grad(h * k, x)


def test_no_grad_refuses_generators():
    def numbers():
        yield tb.is_grad_enabled()

    with pytest.raises(TypeError, match="generator"):
        no_grad()(numbers)


def test_a_gradient_of_another_shape_does_not_grow():
    x = leaf(1.0, 2.0)
    x.grad = np.zeros((3, 2))
    with pytest.raises(ValueError, match="must have that shape"):
        (x * 2).sum().backward()
    assert x.grad.shape == (3, 2)


@pytest.mark.parametrize("rule", [lambda x: x * 2, lambda x: (x * 2,), lambda x: (x * 2, x)])
def test_a_rule_that_does_not_return_a_result_and_a_pullback(rule):
    """An array of two rows would unpack into two."""
    with pytest.raises(TypeError, match=r"must return \(result, pullback\)"):
        tb.differentiable(rule)(tensor(np.ones((2, 2)), requires_grad=True))


@pytest.mark.parametrize("retain", [False, True])
def test_what_an_op_kept_is_freed_as_soon_as_its_pullback_has_run(retain):
    kept, seen = [], []

    @tb.differentiable
    def op(x):
        array = np.ones(3)
        kept.append(weakref.ref(array))

        def pullback(dy):
            seen.append([r() is not None for r in kept])
            return dy * array

        return x * 1, pullback

    op(op(op(tensor(np.ones(3), requires_grad=True)))).sum().backward(retain_graph=retain)
    freed = [[True, True, True], [True, True, False], [True, False, False]]
    assert seen == ([[True] * 3] * 3 if retain else freed)


# decorators, formats, NumPy's methods


def test_no_grad_and_enable_grad_refuse_what_would_run_outside_of_them():
    async def later():
        return leaf(1.0) * 2

    async def stream():
        yield leaf(1.0) * 2

    class Model:
        @staticmethod
        def forward():
            return 0

        value = property(forward)

    for decorate in (no_grad(), tb.enable_grad()):
        for function, word in (
            (later, "coroutine"),
            (stream, "asynchronous generator"),
            (functools.partial(later), "c"),
        ):
            with pytest.raises(TypeError, match=f"is an? {word}.*with statement"):
                decorate(function)
        for thing in (Model, vars(Model)["forward"], Model.value, classmethod(Model.forward), "forward", None):
            with pytest.raises(TypeError, match="function must be a function"):
                decorate(thing)
    assert no_grad()(Model().forward)() == 0 and no_grad()(lambda: (leaf(1.0) * 2).requires_grad)() is False


def test_a_tensor_of_one_number_takes_a_format():
    loss = (leaf(1.0, 2.0) ** 2).sum()
    assert f"{loss:.3f}" == "5.000" and f"{loss}" == "5.0" and f"{loss:>8.1e}" == " 5.0e+00"
    assert f"{tensor([2.5]):.2f}" == "2.50" and f"{tensor([2.5])}" == "tensor([2.5])"
    assert f"{tensor(np.float32(0.1))}" == "0.10000000149011612"
    for several in (leaf(1.0, 2.0), tensor([])):
        assert f"{several}" == repr(several) == str(several)
        with pytest.raises(TypeError, match=r"'\.3f' needs one element, got .* shape \([02],\)"):
            f"{several:.3f}"
    with pytest.raises(ValueError, match="code"):
        f"{loss:d}"


def test_the_standard_deviation_of_equal_numbers_has_gradient_0():
    x = tensor(np.array([[3.0, 3.0], [1.0, 5.0]]), requires_grad=True)
    x.std(axis=1).sum().backward()
    assert np.array_equal(x.grad, [[0, 0], [-0.5, 0.5]])  # (x - mean) / (n std) = (-2, 2) / (2 * 2)
    (first,) = grad(x.std(axis=1).sum(), x, create_graph=True)
    (second,) = grad((first * first).sum(), x)
    assert np.isfinite(second).all() and not second[0].any()


def test_places_and_lists_are_numpys():
    array = np.array([[2.0, 7.0, 7.0], [1.0, 0.0, -3.0]])
    x = tensor(array, requires_grad=True)
    for name in ("argmax", "argmin"):
        for kw in ({}, {"axis": 0}, {"axis": -1}, {"axis": 1, "keepdims": True}):
            for found in (getattr(x, name)(**kw), getattr(np, name)(x, **kw)):
                expected = getattr(array, name)(**kw)
                assert np.array_equal(found, expected) and found.dtype == expected.dtype == np.int64
    assert x.tolist() == array.tolist() and tensor(1.5).tolist() == 1.5 and type(x.tolist()[0][0]) is float
    y = tensor(array.reshape(2, 1, 3, 1), requires_grad=True)
    for axis in (None, 1, -1, (1, 3), (3,)):
        assert y.squeeze(axis).shape == np.squeeze(y, axis=axis).shape == np.squeeze(y.data, axis).shape
    (y.squeeze() * array).sum().backward()
    assert np.array_equal(y.grad, y.data)
    for bad in (0, 4, (1, 2)):
        with pytest.raises(ValueError, match="axis must name axes of length 1"):
            y.squeeze(bad)


def test_messages_have_a_remedy():
    x, whole = tensor([1.0, 2.0], requires_grad=True), np.array([1, 2])
    for operation in (lambda: x * whole, lambda: np.int32([1, 2]) + x, lambda: tb.where(whole > 1, x, whole)):
        with pytest.raises(TypeError, match=r"float32 .* gave float64: .*int\d\d array.*a\.astype\(np\.float32\)"):
            operation()
    for index in (tensor([0.0]), (tensor([0.0]), 1), (slice(None), tensor([1.0]))):
        with pytest.raises(TypeError, match=r"got a Tensor, which holds floats: .*t\.data\.astype\(int\)"):
            x[index]
    with pytest.raises(TypeError, match=r"got >f8: tensor\(data\) converts"):
        Tensor(np.ones(2, ">f8"))
    with pytest.raises(TypeError, match=r"got float16: data\.astype\(np\.float32\) converts"):
        Tensor(np.ones(2, np.float16))


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_tensors_take_floats_in_any_byte_order(order):
    for kind in ("f4", "f8"):
        t = tensor(np.array([1.5, -2.0], order + kind))
        assert t.dtype == np.dtype(kind) and t.dtype.isnative and t.tolist() == [1.5, -2]
    assert tensor(np.array([3], order + "i8")).tolist() == [3]


@pytest.mark.parametrize("several", [lambda a: (a, a), lambda a: [a, 2 * a], lambda a: {"y": a}])
def test_a_rule_with_several_results_is_refused_by_name(several):
    @tb.differentiable
    def split(x):
        return several(x), lambda dy: dy

    with pytest.raises(TypeError, match=r"the result of split must be one array, got a (tuple|list|dict) of [12]"):
        split(leaf(1.0, 2.0))


@pytest.mark.parametrize("decorate", [no_grad, tb.enable_grad])
def test_decorators_without_parentheses(decorate):
    @decorate
    def doubled(x):
        """Twice x."""
        return x * 2

    with no_grad():
        assert doubled(leaf(1.0)).requires_grad is (decorate is tb.enable_grad)
    assert doubled(leaf(1.0)).requires_grad is (decorate is tb.enable_grad) and doubled.__doc__ == "Twice x."
    with pytest.raises(TypeError, match="function must be a function"):
        decorate(3)


def test_objects_that_are_called_later_are_refused():
    class Later:
        async def __call__(self):
            return 0

    with pytest.raises(TypeError, match="coroutine"):
        no_grad()(Later())


def test_indices_that_hold_tensors_are_named_also_in_assignments_and_lists():
    x, t = tensor([1.0, 2.0]), tensor([0.0])
    for index in (t, (t,), [t]):
        with pytest.raises(TypeError, match="got a Tensor, which holds floats"):
            x[index] = 1.0
        with pytest.raises(TypeError, match="got a Tensor, which holds floats"):
            x[index]
    with pytest.raises(TypeError, match="make an array of the list"):
        x * [1, 2]
    with pytest.raises(TypeError, match=r"got complex128$"):
        Tensor(np.ones(1, complex))


# gradients that are delivered


def test_a_gradient_that_is_delivered_may_be_written_into():
    for make in (
        lambda x: x.mean(),
        lambda x: x.sum(axis=0),
        lambda x: tb.broadcast_to(x, (1, 1)),
        lambda x: x.reshape(1),
    ):
        x = leaf(3.0)
        make(x).backward(np.ones(make(x).shape))
        x.grad += 1
        assert x.grad == 2


def test_what_no_longer_requires_grad_gets_none():
    """As in PyTorch: the flag is looked at when gradients are delivered."""
    x, y = leaf(1.0), leaf(2.0)
    z = x * y
    x.requires_grad = False
    z.backward()
    assert x.grad is None and y.grad == 1


def test_initialization_is_in_place():
    layers = [nn.Linear(3, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)]
    for layer in layers:
        twin, array = layer.weight.detach(), layer.weight.data
        y = (layer.weight * layer.weight).sum()
        layer.reset_parameters()
        nn.init.constant_(layer.weight, 3.0)
        assert layer.weight.data is array and (twin.data == 3).all()
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()
    fixed = Tensor(np.frombuffer(np.zeros(2).tobytes()))
    assert nn.init.ones_(fixed).data.tolist() == [1, 1]
