"""Learning-rate schedules: with lr_0 the initial learning rate of a parameter group and t the number of steps so far,

    StepLR                lr_t = lr_0 gamma^floor(t / step_size)
    MultiStepLR           lr_t = lr_0 gamma^k,   k the number of milestones <= t
    CosineAnnealingLR     lr_t = eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2      Loshchilov & Hutter 2017
    LinearLR              lr_t = lr_0 (start + (end - start) min(t, total_iters) / total_iters)

Names, arguments and values are those of torch.optim.lr_scheduler, up to rounding. PyTorch goes from lr_{t-1} to lr_t
("chained"), so rounding errors add up and a learning rate that is changed by hand stays changed. Here lr_t depends on
lr_0 and t alone: a resumed schedule is exact, and the next step() overwrites what was changed by hand, or by another
schedule on the same optimizer.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from ..checks import check_int, check_iterable, check_number, copied
from .sgd import SGD


class LRScheduler:
    """Base class. Call step() once per epoch (or batch) after the optimizer's; the first lr is set at construction.

    optimizer: has param_groups, dicts with "lr", which becomes lr_0 and is also kept there as "initial_lr" (an
        "initial_lr" that is there already wins, as in PyTorch). last_epoch: t of the last step taken; -1, the
        default: none.
    A schedule of one's own defines get_lr(). If it has settings, its __init__ sets them before it calls this one, which
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
        self.base_lrs = [float(group.get("initial_lr", group["lr"])) for group in groups]
        self.step()
        for group, initial in zip(groups, self.base_lrs, strict=True):
            group["initial_lr"] = initial

    def get_lr(self) -> list[float]:
        """lr_t of each parameter group, from base_lrs (each group's lr_0) and last_epoch (t): what a schedule defines.

        From these alone, not from group["lr"] as in PyTorch's chained form: it is called again for the same t.
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

        Errors: ValueError for a learning rate that is not finite; nothing has changed then.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.5)
        >>> schedule.step()
        >>> sgd.param_groups[0]["lr"]
        0.5
        """
        self._set(self.last_epoch + 1)

    def _set(self, t: int) -> None:
        """Nothing changes where a learning rate would not be finite."""
        before, self.last_epoch = self.last_epoch, t
        try:
            rates = self._finite_lrs()
        except Exception:
            self.last_epoch = before
            raise
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr

    def _finite_lrs(self) -> list[float]:
        try:
            rates = self.get_lr()
        except OverflowError:
            rates = [math.inf] * len(self.base_lrs)
        if not isinstance(rates, list) or len(rates) != len(self.base_lrs):
            raise ValueError(f"get_lr() must return {len(self.base_lrs)} learning rates, one per group, got {rates!r}")
        for lr in rates:
            if not math.isfinite(lr):
                settings = {k: v for k, v in self.state_dict().items() if k not in ("base_lrs", "last_epoch")}
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
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the optimizer: settings, base_lrs, last_epoch.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.5).state_dict()
        {'step_size': 2, 'gamma': 0.5, 'last_epoch': 0, 'base_lrs': [1.0]}
        """
        return copy.deepcopy({name: value for name, value in vars(self).items() if name != "optimizer"})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict() of the same class, and set the learning rates that belong to it.

        Errors: TypeError / ValueError for other keys or values; nothing has changed then.

        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.5)
        >>> schedule.load_state_dict({**schedule.state_dict(), "last_epoch": 4})
        >>> sgd.param_groups[0]["lr"]  # two times 0.5
        0.25
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        if set(state_dict) != set(self.state_dict()):
            raise ValueError(f"state_dict must have the keys {list(self.state_dict())}, got {list(state_dict)}")
        new = copy.copy(self)
        vars(new).update(copied("state_dict", state_dict))
        new.last_epoch = check_int("last_epoch", new.last_epoch, 0)
        if not isinstance(new.base_lrs, list) or len(new.base_lrs) != len(self.base_lrs):
            raise ValueError(f"base_lrs must be a list of {len(self.base_lrs)} numbers, got {new.base_lrs!r}")
        new.base_lrs = [check_number("base_lrs", lr, 0) for lr in new.base_lrs]
        new.check_settings()
        new._set(new.last_epoch)
        vars(self).update(vars(new))


class StepLR(LRScheduler):
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

    def get_lr(self) -> list[float]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
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

    def get_lr(self) -> list[float]:
        return [lr * self.gamma ** bisect_right(self.milestones, self.last_epoch) for lr in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
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

    def get_lr(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * share for lr in self.base_lrs]


class LinearLR(LRScheduler):
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

    def get_lr(self) -> list[float]:
        share = min(self.last_epoch, self.total_iters) / self.total_iters
        return [lr * (self.start_factor + (self.end_factor - self.start_factor) * share) for lr in self.base_lrs]
