"""What callers of the engine rely on beside gradients: refusals, layouts, names, memory, histories."""

import operator
import pickle
import tracemalloc

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn


def leaf(a):
    return tb.tensor(np.asarray(a, float), requires_grad=True)


@pytest.mark.parametrize(
    "index", [np.array(True), np.bool_(True), (None, None, np.array(True)), (np.array(True), np.zeros((1, 1), int))]
)
def test_an_index_that_adds_axes_beyond_what_numpy_can_add_at_is_refused(index):
    """np.add.at would crash the process."""
    x = tb.Tensor(np.ones((1,) * 32, np.float32), requires_grad=True)
    with pytest.raises(ValueError, match="index must not go from, or to, more than 32 axes, got 32 and 3"):
        x[index]


def test_broadcasting_to_more_than_32_axes():
    x = tb.tensor(np.ones((1,) * 33), requires_grad=True)
    (g,) = tb.grad((x**2).sum(), x, create_graph=True)
    assert g.item() == 2
    assert tb.broadcast_to(tb.tensor([1.0]), (1,) * 40).ndim == 40
    with pytest.raises(ValueError, match="shape must be one that"):
        tb.broadcast_to(tb.tensor(np.ones((2, 3))), (2**31 - 1, 2**30, 0, 2, 3))


def test_a_gradient_of_a_net_that_was_converted_since_is_refused():
    net = nn.Linear(2, 2)
    y = (tb.tensor([[1.0, 2.0]]) + net.bias).sum()
    net.double()
    with pytest.raises(TypeError, match="the pullback of add gave a float32 gradient for float64"):
        y.backward()


@pytest.mark.parametrize("first", [np.inf, -np.inf])
def test_a_definition_is_compared_where_the_result_is_infinite(first):
    @tb.differentiable(definition=lambda x: x * 0 + 1.0)
    def op(x):
        return np.full(x.shape, first), lambda dy: dy * 0

    x = leaf([1.0, 1.0])
    with pytest.raises(RuntimeError, match="its definition gives another result than its rule"):
        tb.grad(op(x).sum(), x, create_graph=True)


def test_parts_of_dy_do_not_keep_all_of_it():
    """Forty leaves of 500 elements, each concatenated to 500 x 500 activations of 2 MB."""
    leaves = [leaf(np.ones((1, 500))) for _ in range(40)]
    h = leaf(np.ones((500, 500)))
    for p in leaves:
        h = F.relu(tb.concatenate([h[1:], p]))
    loss = h.sum()
    tracemalloc.start()
    loss.backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * h.data.nbytes
    assert all(p.grad.sum() == 500 for p in leaves)


def test_gradients_are_delivered_in_c_order():
    w = leaf(np.random.default_rng(0).standard_normal((3, 4)))
    (tb.matmul(leaf(np.ones((2, 4))), w.T) ** 2).sum().backward()
    assert w.grad.flags.c_contiguous and w.grad.base is None


def test_adding_to_a_gradient_with_a_history_is_recorded():
    x = leaf([2.0])
    (x**3).sum().backward(create_graph=True)
    (x * 3).sum().backward()
    assert x.grad.requires_grad
    (second,) = tb.grad(x.grad, x)
    assert second[0] == 6 * 2  # of 3 x^2 + 3


def test_a_sum_with_a_history_is_not_copied_again():
    x = leaf([2.0])
    (g,) = tb.grad((x * x + x * 3).sum(), x, create_graph=True)
    assert repr(g).endswith("op=add)")
    same = tb.grad((x * x).sum(), [x, x], create_graph=True)
    assert same[0] is not same[1] and not np.shares_memory(same[0].data, same[1].data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: F.softmax(x, axis=1), r"softmax\(\) got an unexpected keyword argument 'axis'"),
        (lambda x: np.sum(x, dtype=np.float64), r"sum\(\) got an unexpected keyword argument 'dtype'"),
        (lambda x: tb.pad(x, [(1, 1), (0, 1)], 5.0), r"pad\(\) takes 2 positional arguments but 3 were given"),
        (lambda x: pow(x, 2, 3), r"__pow__\(\) takes 2 positional arguments"),
    ],
)
def test_an_op_speaks_under_its_own_name(call, words):
    with pytest.raises(TypeError) as caught:
        call(leaf(np.ones((2, 3))))
    assert "check_" not in str(caught.value)
    assert caught.match(words)


def test_operators_have_names():
    assert tb.Tensor.__add__.__name__ == "__add__" and not hasattr(tb.Tensor, "_")


def test_a_gradient_that_nobody_asks_for_may_be_missing():
    op = tb.differentiable(lambda a, b: (a * b, lambda dy: (dy * b,)))
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    np.testing.assert_array_equal(tb.grad(op(a, b), a, np.ones(2))[0], b.data)
    with pytest.raises(ValueError, match="gave no gradient for its argument 1"):
        tb.grad(op(a, b), [a, b], np.ones(2))


def test_gradients_that_numpy_takes_for_arrays():
    class Like:
        def __array__(self, dtype=None, copy=None):
            return np.array([1.0, 2.0])

    for value in ((1.0, 2.0), [1.0, 2.0], Like()):
        op = tb.differentiable(lambda x, value=value: (x * 1, lambda dy: (value,)))
        x = leaf([0.0, 0.0])
        np.testing.assert_array_equal(tb.grad(op(x), x, np.ones(2))[0], [1, 2])


def test_a_rule_may_give_a_constant_tensor():
    op = tb.differentiable(lambda x: (tb.tensor(2 * x), lambda dy: 2 * dy))
    x = leaf([1.0])
    op(x).backward()
    assert x.grad[0] == 2


def test_a_pickle_of_the_first_edition_loads():
    state = leaf([1.0, 2.0]).__getstate__()
    state["changes"] = state.pop("version")
    old = tb.Tensor.__new__(tb.Tensor)
    old.__setstate__(state)
    assert old.data.tolist() == [1, 2] and pickle.loads(pickle.dumps(old)).data.tolist() == [1, 2]


def test_inputs_of_grad_must_require_grad():
    x = leaf([1.0])
    for other in (tb.tensor(np.array([1.0])), leaf([1.0]).detach()):
        with pytest.raises(ValueError, match=r"inputs\[1\] must require grad"):
            tb.grad(x * other, [x, other])


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 1)), np.ones(2, np.float32), [1.0, 2.0], np.float64(1)])
def test_data_takes_an_array_of_its_shape_and_dtype(value):
    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"data must be a float64 array of shape \(2,\), got"):
        x.data = value
    assert x.data.tolist() == [1, 2]


def test_gradients_in_memory_that_is_no_arrays():
    """np.frombuffer's base is the bytes."""
    op = tb.differentiable(lambda x: (2 * x, lambda dy: np.frombuffer((2 * dy).tobytes())))
    x = leaf([1.0, 2.0])
    op(x).sum().backward()
    x.grad += 1  # an array of its own, which may be written into
    assert x.grad.tolist() == [3, 3]


@pytest.mark.parametrize("compare", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons_are_numpys_also_of_equal_elements(compare):
    a, b = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 2.0, 2.0, np.nan])
    for left, right in ((tb.tensor(a), tb.tensor(b)), (tb.tensor(a), b), (tb.tensor(a), 2.0)):
        expected = compare(a, right if isinstance(right, float) else b)
        assert (compare(left, right) == expected).all() and type(compare(left, right)) is np.ndarray
