"""gradcheck on the wrong and right backwards of harness/gradient_battery.py, each at its inputs; hidden ones on cases.

The same for PyTorch's check: parity/test_torch_gradcheck.py.
"""

import numpy as np
import pytest
from gradient_battery import RIGHT, RIGHT_OVER_CASES, WRONG

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the rules themselves: log(0), 0 / 0, overflow
NO_GRADIENT = {  # 0 times 1.001 is 0
    *("layer norm, one element", "floor between integers", "sign away from 0", "product with two zeros", "nothing"),
    *("all inputs 0", "a constant", "sum of a normalized batch", "ReLU of x w at 0, opposite slopes"),
}


def named(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda e: e.name)


def test_the_battery_is_large_and_its_names_differ():
    assert len(WRONG) >= 80 and len(RIGHT) >= 50
    names = [e.name for e in (*WRONG, *RIGHT)]
    assert len(set(names)) == len(names)
    assert len([e for e in WRONG if e.hidden]) <= len(WRONG) / 3


@named([e for e in WRONG if not e.hidden])
def test_a_wrong_backward_is_rejected(entry):
    assert entry.rejected()


@named([e for e in WRONG if e.hidden])
def test_what_cannot_be_seen_at_one_input_is_seen_over_cases(entry):
    assert not entry.rejected(), "it is seen after all: the reason in `hidden` is wrong"
    assert entry.rejected_over_cases()


@named(RIGHT_OVER_CASES)
def test_a_right_backward_passes_over_cases(entry):
    assert not entry.rejected_over_cases()


@named(RIGHT)
def test_a_right_backward_passes(entry):
    assert not entry.rejected()


@named([e for e in RIGHT if e.name not in NO_GRADIENT])
@pytest.mark.parametrize("factor", [1.001, -1.0])
def test_a_right_backward_that_is_scaled_is_rejected(entry, factor):
    assert entry.rejected(factor)


@named([e for e in RIGHT if e.name in NO_GRADIENT])
def test_the_others_have_no_gradient(entry):
    rule = entry.make()
    y, pullback = rule(*entry.arrays())
    g = pullback(np.random.default_rng(0).standard_normal(np.shape(y)))
    assert np.abs(np.concatenate([np.ravel(a) for a in (g if isinstance(g, tuple) else (g,))])).max(initial=0) < 1e-14
