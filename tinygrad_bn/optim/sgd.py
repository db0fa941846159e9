"""Stochastic gradient descent with momentum, exactly PyTorch's formula.

(In Sutskever et al. 2013 the learning rate is part of the momentum, v = mu v - lr g and p = p + v: the same path as
long as lr stays constant.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..checks import check_flag, check_gradient, check_iterable, check_number, copied
from ..jit import contiguous, kernel
from ..tensors import Array, Tensor


@kernel
def sgd_kernel(p, g, buffer, lr, momentum, undamped, weight_decay, nesterov, first):  # type: ignore[no-untyped-def]
    """The formula of SGD; undamped is 1 - dampening."""
    for i in range(p.size):
        d = g[i]
        if weight_decay != 0:  # 0 times infinity would be NaN
            d += weight_decay * p[i]
        if momentum != 0:
            buffer[i] = d if first else momentum * buffer[i] + undamped * d
            d = d + momentum * buffer[i] if nesterov else buffer[i]
        p[i] -= lr * d


SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


class SGD:
    """For every parameter p with gradient g (negated if maximize), in this order:

        d = g + weight_decay p
        v = d in the first step, then momentum v + (1 - dampening) d        (only if momentum != 0)
        d = d + momentum v if nesterov else v
        p = p - lr d

    params: tensors, or dicts {"params": tensors, "lr": ...} that override the defaults for their tensors.
    Parameters whose .grad is None are left alone. Source: torch.optim.SGD.
    Errors: ValueError for an empty list, negative lr, momentum or weight_decay, nesterov without momentum or
    with dampening; TypeError for what is not a leaf Tensor.

    >>> w = tb.tensor([1.0], requires_grad=True)
    >>> sgd = optim.SGD([w], lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     w.grad = np.array([1.0], np.float32)
    ...     sgd.step()  # v is 1, then 0.5 times 1 + 1
    ...     print(w.item())
    0.5
    -0.25
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of Tensors, got one Tensor")
        groups = check_iterable("params", params, "Tensors or of dicts")
        if not groups:
            raise ValueError("params must hold at least one Tensor, got an empty list")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            if not isinstance(group, dict):
                raise TypeError(f"params must be all Tensors or all dicts, got a dict and a {type(group).__name__}")
            unknown = group.keys() - {"params", "name", "initial_lr", *defaults}
            if "params" not in group or unknown:
                wanted = f"the key 'params', and may have {sorted(defaults)}"
                raise ValueError(f"a parameter group must have {wanted}, got {list(group)}")
        self.param_groups: list[dict[str, Any]] = [self._group({**defaults, **group}) for group in groups]
        self._buffers: dict[int, Array] = {}  # momentum, by the identity of the parameter
        self._check_once()

    @staticmethod
    def _group(group: dict[str, Any]) -> dict[str, Any]:
        group["params"] = _tensors(group["params"])
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"params must hold Tensors, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("params must be leaves, got a computed tensor")
        for name in ("lr", "momentum", "weight_decay", "initial_lr"):
            check_number(name, group.get(name, 0), 0)  # the last is there once a schedule has been
        check_number("dampening", group["dampening"])
        for name in ("nesterov", "maximize"):
            check_flag(name, group[name])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got {group['momentum']} and {group['dampening']}"
            )
        return group

    def _check_once(self) -> None:
        seen = [id(p) for group in self.param_groups for p in group["params"]]
        if len(seen) != len(set(seen)):
            raise ValueError("params must not hold the same Tensor twice")

    def zero_grad(self) -> None:
        """Set every .grad to None.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> (3 * w).backward()
        >>> optim.SGD([w]).zero_grad()
        >>> w.grad is None
        True
        """
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient, in place.

        Errors: TypeError, ValueError for a gradient of another kind, shape or dtype, and for settings made invalid.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> (3 * w).backward()
        >>> optim.SGD([w], lr=0.1).step()
        >>> round(w.item(), 6)  # 1 - 0.1 times 3
        0.7
        """
        steps = []  # everything is checked before anything changes
        for group in self.param_groups:
            numbers: dict[Any, tuple[Any, ...]] = {}
            for p in group["params"]:
                g, dtype = p.grad, p._data.dtype
                if g is None:
                    continue
                if dtype not in numbers:
                    numbers[dtype] = _numbers(group, dtype.type)
                if type(g) is not np.ndarray or g.shape != p._data.shape or g.dtype != dtype:
                    g = check_gradient(p)
                steps.append((p, g, numbers[dtype], group["maximize"]))
        for p, g, settings, maximize in steps:
            if not p._data.flags.carray:
                p._data = np.array(p._data, order="C")
            g = (-g if maximize else contiguous(g)).reshape(-1)
            self._step(p, g, settings)
            p._changes[0] += 1

    def _step(self, p: Tensor, g: Array, numbers: tuple[Any, ...]) -> None:
        buffer = self._buffers.get(id(p))
        first = buffer is None
        if buffer is None:
            buffer = np.empty_like(g) if numbers[1] else g  # without momentum it is not used
            if numbers[1]:
                self._buffers[id(p)] = buffer
        elif buffer.dtype != g.dtype:  # the module was converted since
            buffer = self._buffers[id(p)] = buffer.astype(g.dtype)
        sgd_kernel(p._data.reshape(-1), g, buffer, *numbers, first)

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's: {"state": {i: {"momentum_buffer": array}}, "param_groups": [{"lr": ..., ..., "params": [i, ...]}]}

        i counts the parameters in order; those without momentum so far have no entry. Arrays are copies.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> sgd = optim.SGD([w], lr=0.1, momentum=0.9)
        >>> (3 * w).backward()
        >>> sgd.step()
        >>> sgd.state_dict()["state"]
        {0: {'momentum_buffer': array([3.], dtype=float32)}}
        """
        state, groups, i = {}, [], 0
        for group in self.param_groups:
            first = i
            for p in group["params"]:
                if id(p) in self._buffers:
                    state[i] = {"momentum_buffer": self._buffers[id(p)].reshape(p.shape).copy()}
                i += 1
            settings = {k: v.item() if isinstance(v, np.generic) else v for k, v in group.items() if k != "params"}
            groups.append({**copy.deepcopy(settings), "params": list(range(first, i))})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over momentum buffers and settings, also from torch.optim.SGD (its tensors as NumPy arrays).

        The parameters are those of this optimizer, group by group in order. Everything is checked first.
        Errors: TypeError, ValueError for keys, groups, shapes and dtypes that do not fit; nothing has changed then.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> old, new = optim.SGD([w], lr=0.5), optim.SGD([w])
        >>> new.load_state_dict(old.state_dict())
        >>> new.param_groups[0]["lr"]
        0.5
        """
        if not isinstance(state_dict, dict) or set(state_dict) != {"state", "param_groups"}:
            got = list(state_dict) if isinstance(state_dict, dict) else type(state_dict).__name__
            raise ValueError(f"state_dict must be a dict of state and param_groups, got {got}")
        state, saved = state_dict["state"], state_dict["param_groups"]
        if not isinstance(state, dict) or not isinstance(saved, list) or not all(isinstance(g, dict) for g in saved):
            raise TypeError("state_dict must hold a dict as state and a list of dicts as param_groups")
        if len(saved) != len(self.param_groups):
            raise ValueError(f"state_dict must have {len(self.param_groups)} param_groups, got {len(saved)}")
        groups: list[dict[str, Any]] = []
        parameters: dict[int, Tensor] = {}  # by the number they have in the state
        for new, own in zip(saved, self.param_groups, strict=True):
            missing = [k for k in ("params", *SETTINGS) if k not in new]
            if missing:
                raise ValueError(f"a group of state_dict must have all settings, missing {missing}")
            numbers = new["params"]
            if not isinstance(numbers, list) or any(type(i) is not int for i in numbers):
                raise TypeError(f"params in state_dict must be a list of ints, got {numbers!r}")
            if len(numbers) != len(own["params"]):
                raise ValueError(f"a group of state_dict must have {len(own['params'])} params, got {len(numbers)}")
            groups.append(self._group(copied("state_dict", {**new, "params": []})))
            groups[-1]["params"] = own["params"]
            parameters.update(zip(numbers, own["params"], strict=True))
        if len(parameters) != sum(len(group["params"]) for group in groups):
            raise ValueError("state_dict must give every parameter a number of its own")
        buffers: dict[int, Array] = {}
        for i, entry in state.items():
            if i not in parameters or not isinstance(entry, dict) or set(entry) - {"momentum_buffer"}:
                raise ValueError(f"state[{i!r}] must be a dict of momentum_buffer, for one of {list(parameters)}")
            buffer, p = entry.get("momentum_buffer"), parameters[i]
            if buffer is None:  # PyTorch's, before the first step or without momentum
                continue
            if not isinstance(buffer, np.ndarray) or buffer.dtype != p.dtype:
                kind = getattr(buffer, "dtype", type(buffer).__name__)
                raise TypeError(f"momentum_buffer of state[{i}] must be an array of {p.dtype}, got {kind}")
            if buffer.shape != p.shape:
                raise ValueError(f"momentum_buffer of state[{i}] must have shape {p.shape}, got {buffer.shape}")
            buffers[id(p)] = np.array(buffer, order="C").reshape(-1)
        self.param_groups, self._buffers = groups, buffers


def _tensors(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else check_iterable("params", params, "Tensors")


def _numbers(group: dict[str, Any], number: Any) -> tuple[Any, ...]:
    """lr, momentum, 1 - dampening, weight decay in the parameter's dtype, so that float32 stays float32; nesterov."""
    lr, momentum, decay = (check_number(name, group[name], 0) for name in ("lr", "momentum", "weight_decay"))
    dampening = check_number("dampening", group["dampening"])
    return number(lr), number(momentum), number(1 - dampening), number(decay), bool(group["nesterov"])
