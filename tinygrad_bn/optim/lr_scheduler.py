"""Learning-rate schedules: with lr_0 the initial learning rate of a parameter group and t the number of steps so far,

    StepLR                lr_t = lr_0 gamma^floor(t / step_size)
    MultiStepLR           lr_t = lr_0 gamma^k,   k the number of milestones <= t
    CosineAnnealingLR     lr_t = eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2      Loshchilov & Hutter 2017
    LinearLR              lr_t = lr_0 (start + (end - start) min(t, total_iters) / total_iters)
    LambdaLR              lr_t = lr_0 lr_lambda(t)
    SequentialLR          one schedule after the other

Names, arguments and values are those of torch.optim.lr_scheduler, up to rounding. PyTorch goes from lr_{t-1} to lr_t
("chained"), so rounding errors add up. Here lr_t is computed from lr_0 and t, and a resumed schedule is exact. But who
else changes the rate, another schedule on the same optimizer or a person, is heard: from then on a schedule goes on
from the rate that it finds, in proportion, as PyTorch's chain would:

    lr_t = eta + (lr_a - eta) f(t) / f(a)      eta the floor (0 or eta_min), f the factor above, lr_a found after step a
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..checks import check_int, check_iterable, check_number, copied
from .sgd import SGD


class LRScheduler:
    """Base class. Call step() once per epoch (or batch) after the optimizer's; the first lr is set at construction.

    optimizer: has param_groups, dicts with "lr", which becomes lr_0 and is also kept there as "initial_lr" (an
        "initial_lr" that is there already wins, as in PyTorch). last_epoch: t of the last step taken; -1, the
        default: none. The rates that the groups have then may be lr_0's, that step's, or the next one's. Groups that
        are added later join in the next step, with the rate that they have then as lr_0.
    A schedule of your own defines get_lr(). If it has settings, its __init__ sets them before it calls this one, which
    calls check_settings().
    Errors: TypeError / ValueError for bad arguments, and for last_epoch >= 0 without an "initial_lr".

    >>> class InverseTime(optim.lr_scheduler.LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / (1 + self.last_epoch) for lr in self.base_lrs]
    >>> schedule = InverseTime(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0))
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: SGD, last_epoch: int = -1) -> None:
        groups = getattr(optimizer, "param_groups", None)
        if not isinstance(groups, list):
            raise TypeError(f"optimizer must have param_groups, got {type(optimizer).__name__}")
        self.last_epoch = check_int("last_epoch", last_epoch, -1)
        self.check_settings()
        if last_epoch != -1 and not all("initial_lr" in group for group in groups):
            raise ValueError(f"last_epoch={last_epoch} needs param_groups with an 'initial_lr', got none")
        self.optimizer = optimizer
        self.base_lrs: list[float] = []
        self._last_lr: list[float] = []
        self._groups: list[dict[str, Any]] = []  # those that the lists are about
        self._move(self.last_epoch + 1)

    def get_lr(self) -> list[float]:
        """lr_t of each parameter group, for t = last_epoch: what a schedule defines, from base_lrs (each group's lr_0)
        or from what it finds in the optimizer's param_groups. step() calls it once.

        Errors: NotImplementedError in the base class.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> optim.lr_scheduler.LinearLR(sgd, start_factor=0.5).get_lr()
        [0.5]
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr()")

    def check_settings(self) -> None:
        """Raise TypeError or ValueError for bad settings: called at construction and by load_state_dict. Default: none.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=2)
        >>> schedule.step_size = 0
        >>> schedule.check_settings()
        Traceback (most recent call last):
        ValueError: step_size must be >= 1, got 0
        """

    def step(self) -> None:
        """t becomes t + 1: give each parameter group its learning rate.

        Errors: ValueError for a learning rate that is not finite, TypeError and ValueError for groups without one;
        nothing has changed then.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.5)
        >>> schedule.step()
        >>> sgd.param_groups[0]["lr"]
        0.5
        """
        self._move(self.last_epoch + 1)

    def _move(self, t: int, restart: bool = False) -> None:
        """Set the rates of step t. Nothing changes where one would not be finite.

        restart: whatever the groups have now, begin at lr_0.
        """
        before = dict(vars(self))
        groups = self.optimizer.param_groups
        try:
            rates = [_rate(group, i) for i, group in enumerate(groups)]
            if [id(g) for g in groups] != [id(g) for g in self._groups]:  # the first step, or they were edited since
                known = {id(g): i for i, g in enumerate(self._groups)}
                self._meet([known.get(id(g)) for g in groups], groups, rates)
            self.last_epoch = t
            self._follow(rates, restart)
            rates = self._finite_lrs()
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        self._groups, self._last_lr = list(groups), list(rates)
        for group, initial, lr in zip(groups, self.base_lrs, rates, strict=True):
            group.setdefault("initial_lr", initial)
            group["lr"] = lr

    def _meet(self, places: list[int | None], groups: list[dict[str, Any]], rates: list[float]) -> None:
        """Put the lists in the order of these groups; places: where each was before, None for new ones."""
        initial = [check_number("initial_lr", g.get("initial_lr", lr)) for g, lr in zip(groups, rates, strict=True)]
        self.base_lrs = [lr if i is None else self.base_lrs[i] for i, lr in zip(places, initial, strict=True)]

    def _restart(self) -> None:
        """Begin at t = 0 with lr_0."""
        self._move(0, restart=True)

    def _follow(self, rates: list[float], restart: bool) -> None:
        """Take notice of the rates that the groups have before step last_epoch; restart: of lr_0 instead."""

    def _finite_lrs(self) -> list[float]:
        try:
            rates = self.get_lr()
        except OverflowError:
            rates = [math.inf] * len(self.base_lrs)
        if not isinstance(rates, list) or len(rates) != len(self.base_lrs):
            raise ValueError(f"get_lr() must return {len(self.base_lrs)} learning rates, one per group, got {rates!r}")
        for lr in rates:
            if isinstance(lr, bool) or not isinstance(lr, (int, float, np.number)):
                raise TypeError(f"get_lr() must return numbers, got {lr!r:.40}")
            if not math.isfinite(lr):
                own = (
                    name
                    for name in vars(self)
                    if name[0] != "_" and name not in ("optimizer", "base_lrs", "last_epoch")
                )
                settings = {name: vars(self)[name] for name in own}
                raise ValueError(
                    f"the learning rate must stay finite, got {lr} in step {self.last_epoch} for {settings}"
                )
        return rates

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group at the current t, by the schedule.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> optim.lr_scheduler.LinearLR(sgd, start_factor=0.5).get_last_lr()
        [0.5]
        """
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the optimizer: settings, base_lrs, last_epoch, the rates that the schedule gave
        last, and as "lr" those that the groups have.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> state = optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.5).state_dict()
        >>> {key: state[key] for key in ("step_size", "gamma", "last_epoch", "base_lrs", "lr")}
        {'step_size': 2, 'gamma': 0.5, 'last_epoch': 0, 'base_lrs': [1.0], 'lr': [1.0]}
        """
        state = {name: value for name, value in vars(self).items() if name not in self._not_saved}
        return {**copy.deepcopy(state), "lr": [group.get("lr") for group in self.optimizer.param_groups]}

    _not_saved: ClassVar[tuple[str, ...]] = ("optimizer", "_groups")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict() of the same class, and set the learning rates that the groups had then.

        Several schedules on one optimizer, and the optimizer's own state, may be loaded in any order.
        Errors: TypeError / ValueError for other keys or values; nothing has changed then.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.5)
        >>> schedule.step()
        >>> state = schedule.state_dict()
        >>> schedule.step()
        >>> schedule.load_state_dict(state)
        >>> sgd.param_groups[0]["lr"]
        0.5
        """
        self._loading(state_dict)()

    def _loading(self, state_dict: Any) -> Callable[[], None]:
        """Check a state; what is returned takes it over, and cannot fail."""
        state = self._checked_keys(state_dict)
        groups = self.optimizer.param_groups
        rates = state.pop("lr", None)
        new = copy.copy(self)
        vars(new).update(state)
        new.last_epoch = check_int("last_epoch", new.last_epoch, 0)
        new.check_settings()
        count = len(groups)
        if "_last_lr" not in state:  # of the first edition: the rates follow from last_epoch
            new.base_lrs = _rates("base_lrs", new.base_lrs, count, 0)
            new._follow([], restart=True)
            new._last_lr = new._finite_lrs()
        elif isinstance(new.base_lrs, list) and 0 < len(new.base_lrs) < count:
            count = len(new.base_lrs)  # the others have come since the last step
        new.base_lrs = _rates("base_lrs", new.base_lrs, count, 0)
        new._last_lr = _rates("_last_lr", new._last_lr, count)
        new._check_followed()
        new._groups = list(groups[:count])
        rates = _rates("lr", new.get_last_lr() if rates is None else rates, len(groups))

        def take_over() -> None:
            vars(self).update(vars(new))
            _set_rates(groups, rates)

        return take_over

    def _checked_keys(self, state_dict: Any) -> dict[str, Any]:
        """A copy of a state with the right keys; those that came with the second edition may be missing."""
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        own = self.state_dict()
        if own.keys() - state_dict.keys() - {"lr", "_last_lr", "_found"} or state_dict.keys() - own.keys():
            raise ValueError(f"state_dict must have the keys {list(own)}, got {list(state_dict)}")
        return dict(copied("state_dict", state_dict))

    def _check_followed(self) -> None:
        """Raise for what _follow cannot have kept."""


def _rate(group: Any, i: int) -> float:
    if not isinstance(group, dict) or "lr" not in group:
        got = list(group) if isinstance(group, dict) else type(group).__name__
        raise ValueError(f"param_groups[{i}] must be a dict with an 'lr', got {got}: add_param_group adds it")
    return check_number(f"lr of param_groups[{i}]", group["lr"])


def _rates(name: str, values: Any, count: int, least: float = -math.inf) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} must be a list of {count} numbers, one for each of param_groups, got {values!r}")
    return [check_number(name, value, least) for value in values]


def _set_rates(groups: list[dict[str, Any]], rates: list[float]) -> None:
    for group, lr in zip(groups, rates, strict=True):
        group["lr"] = lr


class _Factor(LRScheduler):
    """lr_t = eta + (lr_0 - eta) f(t), and in proportion from where others have changed the rate."""

    _floor = 0.0  # eta
    _found: list[Any] = []  # noqa: RUF012 (never changed in place); by group: a rate and the f that belongs to it, or None

    def _factor(self, t: int) -> float:
        """f(t)"""
        raise NotImplementedError

    def _f(self, t: int) -> float:
        try:
            return self._factor(t) if t >= 0 else 1.0
        except OverflowError:
            return math.inf

    def _rate(self, found: tuple[float, float], f: float) -> float:
        lr, then = found
        return self._floor + (lr - self._floor) * (1.0 if f == then else f / then)

    def _meet(self, places: list[int | None], groups: list[dict[str, Any]], rates: list[float]) -> None:
        super()._meet(places, groups, rates)
        self._found = [None if i is None else self._found[i] for i in places]

    def _follow(self, rates: list[float], restart: bool) -> None:
        t, eta = self.last_epoch, self._floor
        before, now = self._f(t - 1), self._f(t)
        resumed = t > 0 and not self._groups  # built with last_epoch
        found = [(lr, 1.0) for lr in self.base_lrs]
        for i, lr in enumerate(rates if not restart else ()):
            base, known = found[i], self._found[i]
            if resumed and lr in (base[0], self._rate(base, before), self._rate(base, now)):
                continue
            if before == 0 != now:  # up from the bottom, where every proportion is lost, PyTorch adds what lr_0 gains
                found[i] = base if lr == eta else (lr + (base[0] - eta) * now, now)
            elif known is not None and lr == self._rate(known, before):
                found[i] = known
            else:  # another schedule, a person, or a setting that was edited: on from here, in proportion
                found[i] = lr, before
        self._found = found

    def get_lr(self) -> list[float]:
        now = self._f(self.last_epoch)
        return [self._rate(found, now) for found in self._found]

    def _check_followed(self) -> None:
        found = self._found
        pairs = isinstance(found, list) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in found)
        if not pairs or len(found) != len(self.base_lrs):
            raise ValueError(f"_found must be a list of {len(self.base_lrs)} pairs of numbers, got {found!r}")
        self._found = [(check_number("_found", lr), check_number("_found", factor)) for lr, factor in found]
        try:
            self._finite_lrs()
        except ZeroDivisionError:
            raise ValueError(f"_found must hold factors that are not 0, got {found!r}") from None


class StepLR(_Factor):
    """lr_t = lr_0 gamma^floor(t / step_size)

    step_size: an int >= 1. gamma: default 0.1. optimizer, last_epoch (default -1): as in LRScheduler.
    Errors: as LRScheduler. Source: torch.optim.lr_scheduler.StepLR.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.5)
    >>> for epoch in range(4):
    ...     print(epoch, sgd.param_groups[0]["lr"])
    ...     sgd.step()
    ...     schedule.step()
    0 1.0
    1 1.0
    2 0.5
    3 0.5
    """

    def __init__(self, optimizer: SGD, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def check_settings(self) -> None:
        self.step_size, self.gamma = check_int("step_size", self.step_size, 1), check_number("gamma", self.gamma, 0)

    def _factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(_Factor):
    """lr_t = lr_0 gamma^k, where k milestones (ints >= 0, in any order; a repeated one counts as often) are <= t

    gamma: default 0.1. optimizer, last_epoch (default -1): as in LRScheduler.
    Errors: as LRScheduler. Source: torch.optim.lr_scheduler.MultiStepLR.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = optim.lr_scheduler.MultiStepLR(sgd, milestones=[1, 3], gamma=0.5)
    >>> for epoch in range(4):
    ...     print(epoch, sgd.param_groups[0]["lr"])
    ...     sgd.step()
    ...     schedule.step()
    0 1.0
    1 0.5
    2 0.5
    3 0.25
    """

    def __init__(self, optimizer: SGD, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones: Any = milestones
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def check_settings(self) -> None:
        milestones = check_iterable("milestones", self.milestones, "ints")
        self.milestones = sorted(check_int("milestones", m, 0) for m in milestones)
        self.gamma = check_number("gamma", self.gamma, 0)

    def _factor(self, t: int) -> float:
        return self.gamma ** bisect_right(self.milestones, t)


class CosineAnnealingLR(_Factor):
    """lr_t = eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2: down until T_max, and up again beyond it

    T_max: an int >= 1. eta_min: default 0. optimizer, last_epoch (default -1): as in LRScheduler.
    Errors: as LRScheduler. Source: Loshchilov & Hutter 2017, equation 5, without restarts.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=2)
    >>> for epoch in range(3):  # the cosine is 1, 0, -1
    ...     print(epoch, sgd.param_groups[0]["lr"])
    ...     sgd.step()
    ...     schedule.step()
    0 1.0
    1 0.5
    2 0.0
    """

    def __init__(self, optimizer: SGD, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def check_settings(self) -> None:
        self.T_max, self.eta_min = check_int("T_max", self.T_max, 1), check_number("eta_min", self.eta_min, 0)

    @property
    def _floor(self) -> float:  # type: ignore[override]
        return self.eta_min

    def _factor(self, t: int) -> float:
        return (1 + math.cos(math.pi * t / self.T_max)) / 2


class LinearLR(_Factor):
    """lr_t = lr_0 f, where f goes in equal steps from start_factor (0 < . <= 1) to end_factor (0 <= . <= 1)

    start_factor, end_factor: default 1/3 and 1. total_iters: the number of steps (default 5); f stays afterwards.
    optimizer, last_epoch (default -1): as in LRScheduler.
    Errors: as LRScheduler, ValueError for start_factor = 0. Source: torch.optim.lr_scheduler.LinearLR.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = optim.lr_scheduler.LinearLR(sgd, start_factor=0.5, total_iters=2)
    >>> for epoch in range(4):
    ...     print(epoch, sgd.param_groups[0]["lr"])
    ...     sgd.step()
    ...     schedule.step()
    0 0.5
    1 0.75
    2 1.0
    3 1.0
    """

    def __init__(
        self,
        optimizer: SGD,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def check_settings(self) -> None:
        self.start_factor = check_number("start_factor", self.start_factor, 0, 1)
        self.end_factor = check_number("end_factor", self.end_factor, 0, 1)
        self.total_iters = check_int("total_iters", self.total_iters, 1)
        if self.start_factor == 0:
            raise ValueError("start_factor must be > 0, got 0")

    def _factor(self, t: int) -> float:
        share = min(t, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * share


class LambdaLR(LRScheduler):
    """lr_t = lr_0 lr_lambda(t)

    lr_lambda: a function of the int t, for all groups, or a list with one for each. It is not part of state_dict().
    optimizer, last_epoch (default -1): as in LRScheduler.
    Errors: as LRScheduler, TypeError for what is not callable. Source: torch.optim.lr_scheduler.LambdaLR.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = optim.lr_scheduler.LambdaLR(sgd, lambda t: 0.5**t)
    >>> schedule.step()
    >>> schedule.step()
    >>> sgd.param_groups[0]["lr"]
    0.25
    """

    _not_saved = ("optimizer", "_groups", "lr_lambda")

    def __init__(
        self,
        optimizer: SGD,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambda = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else lr_lambda
        super().__init__(optimizer, last_epoch)

    def check_settings(self) -> None:
        for function in self.lr_lambda if isinstance(self.lr_lambda, list) else [self.lr_lambda]:
            if not callable(function):
                raise TypeError(f"lr_lambda must be a function or a list of them, got {type(function).__name__}")

    def get_lr(self) -> list[float]:
        t, groups = self.last_epoch, len(self.base_lrs)
        functions = self.lr_lambda if isinstance(self.lr_lambda, list) else [self.lr_lambda] * groups
        if len(functions) != groups:
            raise ValueError(f"lr_lambda must have a function for each of {groups} param_groups, got {len(functions)}")
        return [lr * check_number("lr_lambda(t)", f(t)) for lr, f in zip(self.base_lrs, functions, strict=True)]


class SequentialLR(LRScheduler):
    """One schedule after the other: schedulers[i] from step milestones[i - 1] on, where it begins anew at its t = 0.

    schedulers: a list of schedules of this optimizer. milestones: increasing ints, one fewer. optimizer: as in
    LRScheduler. last_epoch: only -1 (default); load_state_dict() goes on with an earlier run.
    Errors: TypeError / ValueError for other arguments. Source: torch.optim.lr_scheduler.SequentialLR.

    >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> warmup = optim.lr_scheduler.LinearLR(sgd, start_factor=0.5, total_iters=2)
    >>> decay = optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.1)
    >>> schedule = optim.lr_scheduler.SequentialLR(sgd, [warmup, decay], milestones=[2])
    >>> for epoch in range(4):
    ...     print(epoch, sgd.param_groups[0]["lr"])
    ...     sgd.step()
    ...     schedule.step()
    0 0.5
    1 0.75
    2 1.0
    3 0.1
    """

    def __init__(
        self, optimizer: SGD, schedulers: Sequence[LRScheduler], milestones: Iterable[int], last_epoch: int = -1
    ) -> None:
        schedulers = check_iterable("schedulers", schedulers, "schedules")
        for i, schedule in enumerate(schedulers):
            if not isinstance(schedule, LRScheduler):
                raise TypeError(f"schedulers[{i}] must be a schedule, got {type(schedule).__name__}")
            if schedule.optimizer is not optimizer:
                raise ValueError(f"schedulers[{i}] must be a schedule of this optimizer, got one of another")
        if check_int("last_epoch", last_epoch, -1) != -1:
            raise ValueError(f"last_epoch must be -1, got {last_epoch}: load_state_dict() goes on with an earlier run")
        self.optimizer, self.schedulers = optimizer, schedulers
        self.milestones: Any = milestones
        self.check_settings()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]  # what the schedules' constructors made of it is undone
        self._restart()

    def check_settings(self) -> None:
        self.milestones = check_iterable("milestones", self.milestones, "ints")
        self.milestones = [check_int("milestones", m, 0) for m in self.milestones]
        if len(self.milestones) != len(self.schedulers) - 1:
            n = len(self.schedulers)
            raise ValueError(f"milestones must be one fewer than the {n} schedulers, got {len(self.milestones)}")
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must increase, got {self.milestones}")

    def _at(self, t: int) -> LRScheduler:
        schedule: LRScheduler = self.schedulers[bisect_right(self.milestones, t)]
        return schedule

    def _restart(self) -> None:
        self._at(0)._restart()
        self.last_epoch = 0

    def step(self) -> None:
        """t becomes t + 1: a step of the schedule whose turn it is. Errors: as that schedule's.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> one = optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.5)
        >>> schedule = optim.lr_scheduler.SequentialLR(sgd, [one], milestones=[])
        >>> schedule.step()
        >>> sgd.param_groups[0]["lr"]
        0.5
        """
        t = self.last_epoch + 1
        if t in self.milestones:
            self._at(t)._restart()
        else:
            self._at(t).step()
        self.last_epoch = t

    def get_lr(self) -> list[float]:
        return self._at(self.last_epoch).get_lr()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group at the current t, by the schedule whose turn it is.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> one = optim.lr_scheduler.LinearLR(sgd, start_factor=0.5)
        >>> optim.lr_scheduler.SequentialLR(sgd, [one], milestones=[]).get_last_lr()
        [0.5]
        """
        return self._at(self.last_epoch).get_last_lr()

    _not_saved = ("optimizer", "_groups", "schedulers")

    def state_dict(self) -> dict[str, Any]:
        """A copy of milestones and last_epoch, and the states of the schedules.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> one = optim.lr_scheduler.LinearLR(sgd)
        >>> sorted(optim.lr_scheduler.SequentialLR(sgd, [one], milestones=[]).state_dict())
        ['last_epoch', 'lr', 'milestones', 'schedulers']
        """
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def _loading(self, state_dict: Any) -> Callable[[], None]:
        state, groups = self._checked_keys(state_dict), self.optimizer.param_groups
        states = state.pop("schedulers")
        if not isinstance(states, list) or len(states) != len(self.schedulers):
            raise ValueError(
                f"schedulers in state_dict must be a list of {len(self.schedulers)} states, got {states!r:.40}"
            )
        rates = _rates("lr", state.pop("lr", self.get_last_lr()), len(groups))
        new = copy.copy(self)
        vars(new).update(state)
        new.last_epoch = check_int("last_epoch", new.last_epoch, 0)
        new.check_settings()
        parts = [schedule._loading(part) for schedule, part in zip(self.schedulers, states, strict=True)]

        def take_over() -> None:
            for part in parts:
                part()
            vars(self).update(vars(new))
            _set_rates(groups, rates)

        return take_over
