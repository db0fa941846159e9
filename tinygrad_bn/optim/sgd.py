"""Stochastic gradient descent with momentum, exactly PyTorch's formula (Sutskever et al. 2013 differs: see step)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..engine import Array, Tensor
from ..jit import contiguous, kernel


@kernel
def sgd_kernel(p, g, buffer, lr, momentum, dampening, weight_decay, nesterov, first):  # type: ignore[no-untyped-def]
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        if momentum != 0:
            buffer[i] = d if first else momentum * buffer[i] + dampening * d
            d = d + momentum * buffer[i] if nesterov else buffer[i]
        p[i] -= lr * d


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
    """

    def __init__(
        self,
        params: Iterable[Any],
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
        if not isinstance(params, Iterable):
            raise TypeError(f"params must be an iterable of Tensors or of dicts, got {type(params).__name__}")
        groups = list(params)
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
            if "params" not in group:
                raise ValueError(f"a parameter group must have the key 'params', got {sorted(group)}")
        self.param_groups: list[dict[str, Any]] = [self._group({**defaults, **group}) for group in groups]
        self._buffers: dict[int, Array] = {}  # momentum, by the identity of the parameter
        self._check_once()

    @staticmethod
    def _group(group: dict[str, Any]) -> dict[str, Any]:
        group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"params must hold Tensors, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("params must be leaves, got a computed tensor")
        for name in ("lr", "momentum", "dampening", "weight_decay"):
            value = group[name]
            if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
                raise TypeError(f"{name} must be a number, got {type(value).__name__}")
            if not math.isfinite(value) or (name != "dampening" and value < 0):
                raise ValueError(f"{name} must be finite{' and >= 0' * (name != 'dampening')}, got {value}")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        return group

    def _check_once(self) -> None:
        seen = [id(p) for group in self.param_groups for p in group["params"]]
        if len(seen) != len(set(seen)):
            raise ValueError("params must not hold the same Tensor twice")

    def zero_grad(self) -> None:
        """Set every .grad to None."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        for group in self.param_groups:
            numbers = {dtype: _numbers(group, dtype.type) for dtype in {p.dtype for p in group["params"]}}
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group["maximize"], numbers[p.dtype])

    def _step(self, p: Tensor, maximize: bool, numbers: tuple) -> None:
        g = p.grad.data if isinstance(p.grad, Tensor) else p.grad
        if g.shape != p.shape or g.dtype != p.dtype:
            raise ValueError(f"the gradient of a {p.dtype} parameter {p.shape} must be alike, got {g.dtype} {g.shape}")
        g = (-g if maximize else contiguous(g)).reshape(-1)
        if not p._data.flags.c_contiguous or not p._data.flags.writeable:
            p._data = np.array(p._data, order="C")
        buffer = self._buffers.get(id(p))
        first = buffer is None
        if buffer is None:
            buffer = np.empty_like(g) if numbers[1] else g  # without momentum it is not used
            if numbers[1]:
                self._buffers[id(p)] = buffer
        sgd_kernel(p._data.reshape(-1), g, buffer, *numbers, first)
        p._changes[0] += 1


def _numbers(group: dict[str, Any], number: Any) -> tuple:
    """lr, momentum, 1 - dampening, weight decay in the parameter's dtype, so that float32 stays float32; nesterov."""
    lr, momentum, dampening = number(group["lr"]), number(group["momentum"]), number(1 - group["dampening"])
    return lr, momentum, dampening, number(group["weight_decay"]), bool(group["nesterov"])
