"""The packaged digits are scikit-learn's."""

import numpy as np
import pytest

from tinygrad_bn.data import load_digits

datasets = pytest.importorskip("sklearn.datasets", reason="pip install -e '.[parity]'")


def test_digits_are_those_of_scikit_learn():
    x, y = load_digits()
    reference = datasets.load_digits()
    assert np.array_equal(x * 16, reference.data)
    assert np.array_equal(y, reference.target)
