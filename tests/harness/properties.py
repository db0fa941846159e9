"""How the property tests choose their examples, and the arrays that they choose.

Every property is checked on a few examples in the default run, and on MANY under -m long. The few are the same on every
machine and in every run (hypothesis derives them from the test's source): whether a commit passes is then no matter of
luck, and a failure is there for everyone. The long run is for finding what nobody has thought of, and draws new
examples each time. Where it fails it prints its seed; PROPERTIES_SEED=that in the environment gives them again.
"""

import math
import os
import secrets

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

MANY = 2000
GIVEN = os.environ.get("PROPERTIES_SEED")
SEED = int(GIVEN) if GIVEN else secrets.randbits(32)
LAYOUTS = ["as it is", "transposed", "reversed", "stepped", "shifted", "broadcast"]

SIDES = st.integers(0, 4)  # of an axis
SHAPES = st.one_of(  # with many axes, one of length 0 is likely: half of the shapes have none
    st.lists(st.integers(1, 3), max_size=4).map(tuple), st.lists(SIDES, max_size=4).map(tuple)
)
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float64, np.float32])


def few_or_many(few):
    """The test gets ``examples``: this many, and MANY in a second case under -m long."""
    return pytest.mark.parametrize("examples", [few, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "many"])


def holds(check, examples):
    """check, a function under @given, on so many examples."""
    repeatable = examples < MANY and not GIVEN
    options = {"deadline": None, "database": None, "derandomize": repeatable, "print_blob": False}
    options["suppress_health_check"] = list(HealthCheck)  # which watch the time, and this machine may be busy
    if not repeatable:
        options["phases"] = [phase for phase in Phase if phase != Phase.explain]
        check = seed(SEED)(check)
    try:
        settings(max_examples=examples, **options)(check)()
    except BaseException:
        if not repeatable:
            print(f"PROPERTIES_SEED={SEED} gives these examples again")
        raise


def laid_out(layout, shape, rng, dtype=np.float64, low=-2.0, high=2.0):
    """An array in one of the memory layouts that views have; values uniform in [low, high), distinct almost surely."""

    def fresh(shape):
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)

    if layout == "transposed":
        return fresh(shape[::-1]).T
    if layout == "reversed":
        return np.asarray(fresh(shape)[(slice(None, None, -1),) * len(shape)]).reshape(shape)
    if layout == "stepped":
        return np.asarray(fresh(tuple(2 * n for n in shape))[(slice(1, None, 2),) * len(shape)]).reshape(shape)
    if layout == "shifted":  # begins elsewhere than an array of its own does
        return fresh(1 + math.prod(shape))[1:].reshape(shape)
    if layout == "broadcast":  # a stride of 0, and read-only
        return np.broadcast_to(fresh(shape[1:]), shape)
    return fresh(shape)


@st.composite
def arrays(draw, shape=SHAPES, dtype=DTYPES, low=-2.0, high=2.0, layouts=tuple(LAYOUTS)):
    """An array in one of the layouts. Its values come from a generator whose seed is drawn: ten times as fast as
    drawing each of them.
    """
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    dtype = draw(dtype) if isinstance(dtype, st.SearchStrategy) else dtype
    return laid_out(draw(st.sampled_from(layouts)), shape, np.random.default_rng(draw(SEEDS)), dtype, low, high)


def distinct(**options):
    """Without repeated elements: where two are equal, max and min have no derivative for finite differences to find."""
    return arrays(dtype=np.float64, layouts=[name for name in LAYOUTS if name != "broadcast"], **options)
