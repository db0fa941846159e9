"""Long sums, means and variances, and the gradients that are sums: an error of a few roundings, whatever the length.

The references are exact numbers and long double; beside PyTorch: parity/test_torch_sums.py.
"""

import numpy as np
import pytest
import sum_accuracy
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.runtime.sums import total

FEW = 8  # roundings: log2 of the number of summands is at most 24, and roundings of either sign cancel


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", sum_accuracy.LAYOUTS)
@pytest.mark.parametrize("quantity", sum_accuracy.OURS)
@pytest.mark.parametrize(
    "rows",
    [
        1000,
        pytest.param(100_003, marks=pytest.mark.slow),
        *(pytest.param(n, marks=pytest.mark.long) for n in (1_000_000, 10_000_000)),
    ],
)
def test_the_error_does_not_grow_with_the_length(rows, quantity, layout, dtype):
    x = sum_accuracy.LAYOUTS[layout](sum_accuracy.data(rows, dtype))
    error = sum_accuracy.ours(quantity, x)
    print(f"{quantity}, {rows:,} rows, {layout}, {np.dtype(dtype)}: {error:.2f} roundings")
    assert error <= FEW


@pytest.mark.slow
def test_ones_are_counted_beyond_2_to_the_24():
    n = 2**25
    ones = np.ones((n, 1), np.float32)
    assert tb.Tensor(ones).mean(axis=0).item() == 1 and tb.Tensor(ones).sum(axis=0).item() == n
    bias = tb.tensor(np.zeros(1, np.float32), requires_grad=True)
    (g,) = tb.grad((tb.Tensor(ones) + bias).sum(), bias)
    assert g == n


def test_equal_largest_elements_share_the_gradient_also_when_there_are_many():
    n = 2**24 + 2  # float32 counts no further than 2^24 by ones
    x = tb.tensor(np.zeros((n, 1), np.float32), requires_grad=True)
    x.max(axis=0).sum().backward()
    assert x.grad[0, 0] == np.float32(1) / np.float32(n)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    st.lists(st.sampled_from([1, 2, 3, 31, 33, 65, 130]), min_size=1, max_size=4).filter(lambda s: np.prod(s) < 1e6),
    st.randoms(use_true_random=False),
)
def test_total_is_numpys_sum_for_every_axis_and_layout(shape, random):
    """Of whole numbers, whose sums are exact in any order."""
    x = np.random.default_rng(random.randrange(2**32)).integers(-9, 9, shape).astype(np.float64)
    order = random.sample(range(x.ndim), x.ndim)
    x = x.transpose(order)[tuple(slice(None, None, random.choice([1, 1, -1, 2])) for _ in shape)]
    if random.random() < 0.2:
        x = np.broadcast_to(x, (3, *x.shape))
    axes = random.sample(range(-x.ndim, 0), random.randint(0, x.ndim))
    axes = [a + random.choice([0, x.ndim]) for a in axes]
    for axis in (None, tuple(axes), *axes[:1]):
        for keepdims in (False, True):
            got, expected = total(x, axis, keepdims), x.sum(axis=axis, keepdims=keepdims)
            assert np.shape(got) == np.shape(expected) and np.array_equal(got, expected)


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, 2)])
def test_another_axis_is_refused(axis):
    with pytest.raises(ValueError, match="axis"):
        total(np.ones((300, 2)), axis)


def test_nan_and_infinity_stay_in_their_column():
    x = np.ones((1000, 4), np.float32)
    x[5, 0], x[700, 1], x[3, 2], x[900, 2] = np.nan, np.inf, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        assert np.array_equal(total(x, 0), [np.nan, np.inf, np.nan, 1000], equal_nan=True)
