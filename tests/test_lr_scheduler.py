"""Learning-rate schedules against their definitions, step by step."""

import math

import numpy as np
import pytest

from tinygrad_bn import nn, optim
from tinygrad_bn.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, StepLR

LRS = [0.1, 3.0, 0.0]
MAKE = {
    "StepLR": lambda sgd, **more: StepLR(sgd, step_size=7, gamma=0.5, **more),
    "MultiStepLR": lambda sgd, **more: MultiStepLR(sgd, milestones=[30, 4, 4, 80], gamma=0.3, **more),
    "CosineAnnealingLR": lambda sgd, **more: CosineAnnealingLR(sgd, T_max=40, eta_min=0.01, **more),
    "LinearLR": lambda sgd, **more: LinearLR(sgd, start_factor=0.2, end_factor=0.7, total_iters=50, **more),
}


def optimizer(lrs=LRS):
    groups = [{"params": [nn.Parameter(np.ones(2))], "lr": lr} for lr in lrs]
    return optim.SGD(groups, momentum=0.9)


def lrs(sgd):
    return [group["lr"] for group in sgd.param_groups]


def factors(make, steps=100):
    """lr_t / lr_0 for t = 0, 1, ..., of every parameter group; those of groups with lr_0 > 0 are to be the same."""
    sgd = optimizer([0.25, 8.0, 0.0])
    schedule, values = make(sgd), []
    for _ in range(steps):
        assert schedule.get_last_lr() == lrs(sgd) and lrs(sgd)[2] == 0
        values.append(lrs(sgd)[0] / 0.25)
        assert lrs(sgd)[1] / 8 == pytest.approx(values[-1], rel=1e-15)
        schedule.step()
    return values


def test_step_lr_multiplies_every_step_size_steps():
    expected = [1.0]
    for t in range(1, 100):
        expected.append(expected[-1] * (0.5 if t % 7 == 0 else 1))
    assert factors(MAKE["StepLR"]) == expected  # powers of 2 are exact
    assert factors(lambda sgd: StepLR(sgd, 1), 4) == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-15)


def test_multi_step_lr_multiplies_at_its_milestones_twice_at_a_repeated_one():
    expected = [0.3 ** (2 * (t >= 4) + (t >= 30) + (t >= 80)) for t in range(100)]
    assert factors(MAKE["MultiStepLR"]) == pytest.approx(expected, rel=1e-15)
    assert factors(lambda sgd: MultiStepLR(sgd, [0, 2]), 3) == pytest.approx([0.1, 0.1, 0.01], rel=1e-15)
    assert factors(lambda sgd: MultiStepLR(sgd, iter(())), 3) == [1, 1, 1]


def test_cosine_annealing_falls_to_eta_min_and_rises_again():
    sgd = optimizer()
    schedule, trace = MAKE["CosineAnnealingLR"](sgd), []
    for _ in range(100):
        trace.append(lrs(sgd))
        schedule.step()
    for values, lr in zip(np.array(trace).T, LRS, strict=True):
        half_angle = 0.01 + (lr - 0.01) * np.cos(np.pi * np.arange(100) / 80) ** 2  # (1 + cos 2a) / 2 = cos^2 a
        np.testing.assert_allclose(values, half_angle, rtol=1e-12)
        assert values[0] == pytest.approx(lr, abs=1e-17) and values[40] == 0.01
        assert values[20] == pytest.approx((lr + 0.01) / 2, rel=1e-15)
        np.testing.assert_allclose(values[:41], values[80:39:-1], rtol=1e-12, atol=1e-17)


def test_linear_lr_goes_in_equal_steps_and_stays():
    expected = np.interp(np.arange(100), [0, 50], [0.2, 0.7])
    np.testing.assert_allclose(factors(MAKE["LinearLR"]), expected, rtol=1e-14)
    np.testing.assert_allclose(factors(LinearLR, 8), [3 / 9, 7 / 15, 9 / 15, 11 / 15, 13 / 15, 1, 1, 1], rtol=1e-15)


@pytest.mark.parametrize("name", MAKE)
def test_a_resumed_schedule_is_exact(name):
    sgd = optimizer()
    schedule, trace, states = MAKE[name](sgd), [], []
    for _ in range(100):
        trace.append(lrs(sgd))
        states.append((sgd.state_dict(), schedule.state_dict()))
        schedule.step()
    for t in (0, 1, 39, 40, 41, 99):
        for first, second in ((0, 1), (1, 0)):  # the two states are loaded in either order
            other = optimizer([1.0, 1.0, 1.0])
            both = other, MAKE[name](other)
            both[first].load_state_dict(states[t][first])
            both[second].load_state_dict(states[t][second])
            for expected in trace[t:]:
                assert lrs(other) == both[1].get_last_lr() == expected
                both[1].step()


@pytest.mark.parametrize("name", MAKE)
def test_a_schedule_built_after_the_optimizer_was_restored(name):
    """By its own state, or by last_epoch and the initial_lr that the optimizer's state holds."""
    sgd = optimizer()
    schedule = MAKE[name](sgd)
    for _ in range(13):
        schedule.step()
    expected = lrs(sgd)
    one, other = optimizer([1.0] * 3), optimizer([1.0] * 3)
    for restored in (one, other):
        restored.load_state_dict(sgd.state_dict())
    first = MAKE[name](one)
    first.load_state_dict(schedule.state_dict())
    assert lrs(one) == expected == first.get_last_lr()
    second = MAKE[name](other, last_epoch=12)  # 12 was the last, this is 13
    assert lrs(other) == expected == second.get_last_lr() and second.last_epoch == 13


def test_the_initial_lr_is_kept_and_wins():
    sgd = optimizer([0.5])
    StepLR(sgd, 1, gamma=0.5).step()
    assert sgd.param_groups[0]["initial_lr"] == 0.5 and lrs(sgd) == [0.25]
    assert StepLR(sgd, 1).base_lrs == [0.5] and lrs(sgd) == [0.5]


def test_numbers_of_numpy_become_pythons():
    sgd = optimizer([np.float64(0.5)])
    schedule = StepLR(sgd, np.int64(2), np.float32(0.5))
    state = schedule.state_dict()
    assert state == {"step_size": 2, "gamma": 0.5, "base_lrs": [0.5], "last_epoch": 0}
    assert [type(value) for value in (*state.values(), *state["base_lrs"])].count(float) == 2


BAD = {
    "no optimizer": (lambda sgd: StepLR([sgd], 1), TypeError, "optimizer"),
    "step_size 0": (lambda sgd: StepLR(sgd, 0), ValueError, "step_size"),
    "step_size 1.0": (lambda sgd: StepLR(sgd, 1.0), TypeError, "step_size"),
    "step_size True": (lambda sgd: StepLR(sgd, True), TypeError, "step_size"),
    "gamma -1": (lambda sgd: StepLR(sgd, 1, -1), ValueError, "gamma"),
    "gamma nan": (lambda sgd: StepLR(sgd, 1, math.nan), ValueError, "gamma"),
    "gamma text": (lambda sgd: StepLR(sgd, 1, "0.1"), TypeError, "gamma"),
    "gamma True": (lambda sgd: MultiStepLR(sgd, [1], True), TypeError, "gamma"),
    "last_epoch -2": (lambda sgd: StepLR(sgd, 1, last_epoch=-2), ValueError, "last_epoch"),
    "last_epoch 0": (lambda sgd: StepLR(sgd, 1, last_epoch=0), ValueError, "initial_lr"),
    "last_epoch None": (lambda sgd: StepLR(sgd, 1, last_epoch=None), TypeError, "last_epoch"),
    "milestones 3": (lambda sgd: MultiStepLR(sgd, 3), TypeError, "milestones"),
    "milestones text": (lambda sgd: MultiStepLR(sgd, "12"), TypeError, "milestones"),
    "milestones 1.5": (lambda sgd: MultiStepLR(sgd, [1.5]), TypeError, "milestones"),
    "milestones -1": (lambda sgd: MultiStepLR(sgd, [1, -1]), ValueError, "milestones"),
    "T_max 0": (lambda sgd: CosineAnnealingLR(sgd, 0), ValueError, "T_max"),
    "T_max inf": (lambda sgd: CosineAnnealingLR(sgd, math.inf), TypeError, "T_max"),
    "eta_min -1": (lambda sgd: CosineAnnealingLR(sgd, 3, -1), ValueError, "eta_min"),
    "eta_min inf": (lambda sgd: CosineAnnealingLR(sgd, 3, math.inf), ValueError, "eta_min"),
    "start_factor 0": (lambda sgd: LinearLR(sgd, 0), ValueError, "start_factor"),
    "start_factor 2": (lambda sgd: LinearLR(sgd, 2), ValueError, "start_factor"),
    "end_factor 1.1": (lambda sgd: LinearLR(sgd, end_factor=1.1), ValueError, "end_factor"),
    "end_factor -1": (lambda sgd: LinearLR(sgd, end_factor=-1), ValueError, "end_factor"),
    "total_iters 0": (lambda sgd: LinearLR(sgd, total_iters=0), ValueError, "total_iters"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments_raise_and_leave_the_optimizer_alone(kind):
    make, error, word = BAD[kind]
    sgd = optimizer()
    with pytest.raises(error, match=word):
        make(sgd)
    assert lrs(sgd) == LRS and not any("initial_lr" in group for group in sgd.param_groups)


BAD_STATES = [
    (3, TypeError),
    ({}, ValueError),
    ({"gamma": -1.0}, ValueError),
    ({"gamma": None}, TypeError),
    ({"step_size": 0}, ValueError),
    ({"last_epoch": -1}, ValueError),
    ({"last_epoch": 1.0}, TypeError),
    ({"base_lrs": [0.1]}, ValueError),
    ({"base_lrs": 0.1}, ValueError),
    ({"base_lrs": [0.1, 0.1, "0.1"]}, TypeError),
    ({"base_lrs": [0.1, 0.1, -0.1]}, ValueError),
    ({"more": 1}, ValueError),
]


@pytest.mark.parametrize("changes, error", BAD_STATES)
def test_a_bad_state_changes_nothing(changes, error):
    sgd = optimizer()
    schedule = MAKE["StepLR"](sgd)
    for _ in range(9):
        schedule.step()
    before = schedule.state_dict(), lrs(sgd)
    other = StepLR(optimizer([1.0, 2.0, 3.0]), 5, 0.3).state_dict()
    with pytest.raises(error):
        schedule.load_state_dict({**other, **changes} if isinstance(changes, dict) and changes else changes)
    assert (schedule.state_dict(), lrs(sgd)) == before


def test_a_state_is_a_copy():
    schedule = MAKE["MultiStepLR"](optimizer())
    state = schedule.state_dict()
    schedule.load_state_dict(state)
    for values in (state, schedule.state_dict()):
        values["milestones"].clear()
        values["base_lrs"].clear()
    assert schedule.state_dict()["milestones"] == [4, 4, 30, 80] and schedule.base_lrs == LRS


class Steps(LRScheduler):
    """What a user writes: the learning rates of each t from a list."""

    def __init__(self, optimizer, rates):
        self.rates = rates
        super().__init__(optimizer, last_epoch=-1)

    def get_lr(self):
        return self.rates[self.last_epoch]


def test_a_schedule_of_ones_own_defines_get_lr():
    sgd = optimizer([1.0, 2.0])
    schedule = Steps(sgd, [[0.1, 0.2], [0.3, 0.4]])
    assert lrs(sgd) == schedule.get_last_lr() == [0.1, 0.2]
    schedule.step()
    assert lrs(sgd) == schedule.get_last_lr() == [0.3, 0.4]
    assert schedule.base_lrs == [1.0, 2.0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([0.3, math.inf], "finite, got inf in step 1"),
        ([0.3], r"2 learning rates, one per group, got \[0.3\]"),
        ([0.3, 0.4, 0.5], "2 learning rates"),
        (0.3, "2 learning rates, one per group, got 0.3"),
    ],
)
def test_a_step_that_fails_changes_nothing(bad, words):
    sgd = optimizer([1.0, 2.0])
    schedule = Steps(sgd, [[0.1, 0.2], bad])
    for _ in range(2):  # it fails in the same step each time
        with pytest.raises(ValueError, match=words):
            schedule.step()
        assert lrs(sgd) == [0.1, 0.2] and schedule.last_epoch == 0
