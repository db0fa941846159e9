"""Learning-rate schedules against their definitions, step by step."""

import copy
import math
import pickle

import numpy as np
import pytest

from tinygrad_bn import nn, optim
from tinygrad_bn.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
    StepLR,
)

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


def test_the_initial_lr_is_kept_and_a_second_schedule_goes_on_from_the_rate_that_it_finds():
    sgd = optimizer([0.5])
    StepLR(sgd, 1, gamma=0.5).step()
    assert sgd.param_groups[0]["initial_lr"] == 0.5 and lrs(sgd) == [0.25]
    second = StepLR(sgd, 1, gamma=0.5)
    assert second.base_lrs == [0.5] and lrs(sgd) == [0.25]
    second.step()
    assert lrs(sgd) == [0.125]


def test_numbers_of_numpy_become_pythons():
    sgd = optimizer([np.float64(0.5)])
    schedule = StepLR(sgd, np.int64(2), np.float32(0.5))
    state = schedule.state_dict()
    settings = {"step_size": 2, "gamma": 0.5, "base_lrs": [0.5], "last_epoch": 0}
    assert state == {**settings, "lr": [0.5], "_last_lr": [0.5], "_found": [(0.5, 1.0)]}
    numbers = [state["gamma"], *state["base_lrs"], *state["lr"], *state["_last_lr"], *state["_found"][0]]
    assert {type(value) for value in numbers} == {float} and type(state["step_size"]) is int


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


# several schedules, and people, on one optimizer; the values are products of the definitions


def one(lr=1.0):
    return optimizer([lr])


def run(sgd, schedules, steps, between=None):
    """The rate of each step, as the optimizer has it."""
    trace = []
    for t in range(steps):
        trace.append(lrs(sgd)[0])
        if between is not None:
            between(sgd, t)
        for schedule in schedules:
            schedule.step()
    return np.array(trace)


def test_a_warm_up_and_a_decay_multiply():
    """In proportion: where neither reaches 0, lr_t = lr_0 f(t) g(t)."""
    sgd = one(2.0)
    schedules = [LinearLR(sgd, 0.1, 1.0, 5), CosineAnnealingLR(sgd, T_max=40), StepLR(sgd, 3, 0.5)]
    t = np.arange(30)
    warm_up = np.interp(t, [0, 5], [0.1, 1.0])
    expected = 2 * warm_up * (1 + np.cos(np.pi * t / 40)) / 2 * 0.5 ** (t // 3)
    np.testing.assert_allclose(run(sgd, schedules, 30), expected, rtol=1e-13)


def test_a_warm_up_does_not_vanish():
    sgd = one(1.0)
    values = run(sgd, [LinearLR(sgd, 0.1, 1.0, 3), CosineAnnealingLR(sgd, T_max=10)], 3)
    cosine = (1 + np.cos(np.pi * np.arange(3) / 10)) / 2
    np.testing.assert_allclose(values, cosine * [0.1, 0.4, 0.7], rtol=1e-14)


def test_a_rate_that_is_changed_by_hand_stays_changed():
    sgd = one(1.0)

    def halve(sgd, t):
        if t in (2, 9):
            sgd.param_groups[0]["lr"] *= 0.5

    factor = np.interp(np.arange(20), [0, 10], [1.0, 0.2])
    by_hand = 0.5 ** (np.digitize(np.arange(20), [3, 10]))
    np.testing.assert_allclose(run(sgd, [LinearLR(sgd, 1.0, 0.2, 10)], 20, halve), factor * by_hand, rtol=1e-14)


def test_cosine_annealing_rises_from_the_bottom_by_what_the_initial_rate_gains():
    """PyTorch's rule where every proportion is lost: the rate that was changed by hand before is forgotten there."""
    f = (1 + np.cos(np.pi * np.arange(12) / 4)) / 2
    sgd, hands = one(1.0), {2: 0.25, 4: 0.0}

    def change(sgd, t):
        if t in hands:
            sgd.param_groups[0]["lr"] = hands[t]

    expected = np.where(np.arange(12) == 3, 0.25 * f / f[2], f)
    np.testing.assert_allclose(run(sgd, [CosineAnnealingLR(sgd, 4)], 12, change), expected, atol=1e-15)
    sgd, hands = one(1.0), {4: 0.5}  # changed at the bottom itself: kept, and the gain is added
    expected = np.where(np.arange(12) > 4, (0.5 + f[5]) * f / f[5], f)
    values = run(sgd, [CosineAnnealingLR(sgd, 4)], 12, change)
    np.testing.assert_allclose(values[:12], expected, atol=1e-15)


def test_a_group_that_joins_later_goes_on_from_its_rate_in_proportion():
    sgd = one(1.0)
    schedule = MultiStepLR(sgd, [2, 6], gamma=0.5)
    run(sgd, [schedule], 4)
    sgd.add_param_group({"params": [nn.Parameter(np.ones(3))], "lr": 8.0})
    for expected in ([0.5, 8.0], [0.25, 4.0], [0.25, 4.0]):
        schedule.step()
        assert lrs(sgd) == schedule.get_last_lr() == expected
    assert schedule.base_lrs == [1.0, 8.0] and sgd.param_groups[1]["initial_lr"] == 8.0
    del sgd.param_groups[0]
    schedule.step()
    assert lrs(sgd) == [4.0]


def test_a_group_without_a_rate_is_named_and_nothing_changes():
    sgd = one(1.0)
    schedule = StepLR(sgd, 1, 0.5)
    schedule.step()
    before = schedule.state_dict()
    for bad, error in (({"params": []}, ValueError), ({"params": [], "lr": "0.1"}, TypeError), ([], ValueError)):
        sgd.param_groups.append(bad)
        with pytest.raises(error, match=r"param_groups\[1\]"):
            schedule.step()
        sgd.param_groups.pop()
        assert schedule.state_dict() == before and lrs(sgd) == [0.5]
    schedule.step()
    assert lrs(sgd) == [0.25]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("late", [False, True])
def test_chained_schedules_resume_exactly_in_any_order(order, late):
    """late: the schedules are built after the optimizer's state was loaded."""

    def schedules(sgd):
        return [LinearLR(sgd, 0.1, 1.0, 5), CosineAnnealingLR(sgd, 9, eta_min=0.01)]

    sgd = one(1.0)
    both = schedules(sgd)
    run(sgd, both, 7)
    sgd.param_groups[0]["lr"] *= 0.7  # by hand, too
    states = [part.state_dict() for part in (sgd, *both)]
    expected = run(sgd, both, 30)
    other = one(3.0)
    if late:
        other.load_state_dict(states[0])
    parts = [other, *schedules(other)]
    for i in order:
        parts[i].load_state_dict(states[i])
    assert np.array_equal(run(other, parts[1:], 30), expected)


def test_states_of_the_first_edition_load():
    sgd = one(1.0)
    schedule = MAKE["CosineAnnealingLR"](sgd)
    run(sgd, [schedule], 7)
    old = {key: schedule.state_dict()[key] for key in ("T_max", "eta_min", "last_epoch", "base_lrs")}
    other = one(3.0)
    resumed = MAKE["CosineAnnealingLR"](other)
    resumed.load_state_dict(old)
    assert lrs(other) == lrs(sgd) == resumed.get_last_lr()
    assert np.array_equal(run(other, [resumed], 9), run(sgd, [schedule], 9))


def test_lambda_lr_multiplies_the_initial_rate():
    sgd = optimizer([1.0, 4.0])
    schedule = LambdaLR(sgd, [lambda t: 1 / (1 + t), lambda t: 0.5**t])
    for t in range(4):
        assert lrs(sgd) == schedule.get_last_lr() == [1 / (1 + t), 4 * 0.5**t]
        schedule.step()
    sgd.add_param_group({"params": [nn.Parameter(np.ones(1))]})
    with pytest.raises(ValueError, match="lr_lambda must have a function for each of 3"):
        schedule.step()
    assert lrs(sgd)[:2] == [1 / 5, 0.25]
    assert "lr_lambda" not in schedule.state_dict()
    for bad, error in ((3, TypeError), ([1], TypeError), ([], ValueError), (lambda t: "a", TypeError)):
        with pytest.raises(error, match="lr_lambda"):
            LambdaLR(optimizer([1.0]), bad)


def sequence(sgd):
    parts = [LinearLR(sgd, 0.1, 1.0, 5), CosineAnnealingLR(sgd, 10, 0.05), LambdaLR(sgd, lambda t: 2.0**-t)]
    return SequentialLR(sgd, parts, milestones=[5, 12])


def test_sequential_lr_runs_one_schedule_after_the_other():
    sgd = one(2.0)
    t = np.arange(7)
    expected = [2 * np.interp(t[:5], [0, 5], [0.1, 1.0])]
    expected += [0.05 + (2 - 0.05) * (1 + np.cos(np.pi * t / 10)) / 2, 2 * 2.0 ** -np.arange(4)]
    np.testing.assert_allclose(run(sgd, [sequence(sgd)], 16), np.concatenate(expected), rtol=1e-14)


@pytest.mark.parametrize("t", [0, 4, 5, 8, 12, 14])
def test_sequential_lr_resumes_exactly(t):
    sgd, other = one(2.0), one(1.0)
    schedule, resumed = sequence(sgd), sequence(other)
    run(sgd, [schedule], t)
    state = schedule.state_dict()
    resumed.load_state_dict(state)
    assert np.array_equal(run(other, [resumed], 9), run(sgd, [schedule], 9))
    for spoil in ({"milestones": [5]}, {"milestones": [5, 5]}, {"schedulers": []}, {"last_epoch": -1}, {"lr": [1, 2]}):
        before = resumed.state_dict()
        with pytest.raises(ValueError, match=next(iter(spoil))):
            resumed.load_state_dict({**state, **spoil})
        assert resumed.state_dict() == before
    state["schedulers"][2]["last_epoch"] = "1"
    with pytest.raises(TypeError, match="last_epoch"):
        resumed.load_state_dict(state)
    assert resumed.state_dict() == before


def test_bad_sequences_are_refused():
    sgd = one()
    parts = [StepLR(sgd, 1), StepLR(sgd, 2)]
    for arguments, error, word in (
        ((parts, []), ValueError, "milestones must be one fewer"),
        ((parts, [1.5]), TypeError, "milestones"),
        ((parts, 3), TypeError, "milestones"),
        (([], []), ValueError, "milestones must be one fewer than the 0"),
        (([parts[0], 3], [1]), TypeError, r"schedulers\[1\]"),
        (([parts[0], StepLR(one(), 1)], [1]), ValueError, r"schedulers\[1\] must be a schedule of this optimizer"),
        ((parts, [1], 3), ValueError, "last_epoch must be -1"),
    ):
        with pytest.raises(error, match=word):
            SequentialLR(sgd, *arguments)


def test_schedules_are_copied_with_their_optimizer():
    sgd = one(2.0)
    both = [LinearLR(sgd, 0.1, 1.0, 5), StepLR(sgd, 2)]
    run(sgd, both, 3)
    for copied in (copy.deepcopy((sgd, both)), pickle.loads(pickle.dumps((sgd, both)))):
        twin, schedules = copied
        assert all(schedule.optimizer is twin for schedule in schedules) and lrs(twin) == lrs(sgd)
        ahead = run(twin, schedules, 5)
        assert np.array_equal(run(*copy.deepcopy((sgd, both)), 5), ahead)


@pytest.mark.parametrize("t", range(1, 12))
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("ahead", [0, 1])
def test_resuming_by_last_epoch_from_the_rates_of_that_step_or_the_next(name, t, ahead):
    """ahead = 0: the rates are those of step last_epoch, as the schedule's own attribute says; 1: of the next."""
    sgd, other = optimizer(), optimizer([1.0] * 3)
    schedule = MAKE[name](sgd)
    for _ in range(t):
        schedule.step()
    other.load_state_dict(sgd.state_dict())
    resumed = MAKE[name](other, last_epoch=t - ahead)
    if not ahead:
        schedule.step()
    for _ in range(5):
        np.testing.assert_allclose(lrs(other), lrs(sgd), rtol=1e-15)
        schedule.step(), resumed.step()


def test_a_setting_that_is_edited_holds_from_then_on():
    sgd = one(1.0)
    schedule = StepLR(sgd, 1, 0.5)
    run(sgd, [schedule], 3)
    schedule.gamma = 0.1
    np.testing.assert_allclose(run(sgd, [schedule], 3), [0.125, 0.0125, 0.00125], rtol=1e-14)


def test_a_group_that_takes_anothers_place_keeps_its_own_initial_rate():
    sgd = optimizer([1.0, 4.0])
    schedule = StepLR(sgd, 2, 0.5)
    schedule.step()
    del sgd.param_groups[0]
    sgd.add_param_group({"params": [nn.Parameter(np.ones(3))], "lr": 0.25})
    sgd.param_groups.reverse()
    schedule.step()
    assert lrs(sgd) == [0.125, 2.0] and [g["initial_lr"] for g in sgd.param_groups] == [0.25, 4.0]
    assert LambdaLR(sgd, lambda t: 1.0).base_lrs == schedule.base_lrs == [0.25, 4.0]


def test_sequential_lr_begins_with_the_initial_rate():
    class Decay(LRScheduler):
        def get_lr(self):
            return [group["lr"] * (0.9 if self.last_epoch else 1) for group in self.optimizer.param_groups]

    sgd = one(1.0)
    np.testing.assert_allclose(run(sgd, [SequentialLR(sgd, [Decay(sgd), LinearLR(sgd)], [3])], 3), [1, 0.9, 0.81])


def test_a_step_of_a_sequence_that_fails_changes_nothing():
    sgd = one(1.0)
    schedule = SequentialLR(sgd, [LambdaLR(sgd, lambda t: 1.0 if t < 2 else math.inf), StepLR(sgd, 1)], [5])
    schedule.step()
    before = schedule.state_dict()
    with pytest.raises(ValueError, match="finite"):
        schedule.step()
    assert schedule.state_dict() == before and lrs(sgd) == [1.0]


@pytest.mark.parametrize("rates", [["0.1"], [None], [True]])
def test_rates_that_are_no_numbers_are_named(rates):
    with pytest.raises(TypeError, match="must return numbers"):
        Steps(one(), [rates])


def test_a_factor_of_0_in_a_state_is_refused():
    schedule = StepLR(one(), 2)
    state = schedule.state_dict()
    with pytest.raises(ValueError, match="_found"):
        schedule.load_state_dict({**state, "_found": [(1.0, 0.0)]})
