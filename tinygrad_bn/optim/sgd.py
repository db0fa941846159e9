"""Stochastic gradient descent with momentum, exactly PyTorch's formula.

(In Sutskever et al. 2013 the learning rate is part of the momentum, v = mu v - lr g and p = p + v: the same path as
long as lr stays constant.)
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_iterable, check_number, copied
from ..engine.guards import check_gradient
from ..engine.replay_notes import unseen
from ..engine.tensors import Tensor
from ..runtime.addresses import address, array_at
from ..runtime.jit import COMPILED, contiguous, kernel, part
from ..runtime.memory import overlaps


@part
def sgd_kernel(p, g, buffer, lr, momentum, undamped, weight_decay, nesterov, first):
    """The formula of SGD; undamped is 1 - dampening."""
    for i in range(p.size):
        d = g[i]
        if weight_decay != 0:  # 0 times infinity would be NaN
            d += weight_decay * p[i]
        if momentum != 0:
            buffer[i] = d if first else momentum * buffer[i] + undamped * d
            d = d + momentum * buffer[i] if nesterov else buffer[i]
        p[i] -= lr * d


@kernel
def sgd_of_all(addresses, sizes, like, lr, momentum, undamped, weight_decay, nesterov, first):
    """The same for several parameters in one call: a row of addresses has those of p, g and buffer."""
    for i in range(sizes.size):
        p, g = array_at(addresses[i, 0], sizes[i], like), array_at(addresses[i, 1], sizes[i], like)
        buffer = array_at(addresses[i, 2], sizes[i], like)
        sgd_kernel(p, g, buffer, lr, momentum, undamped, weight_decay, nesterov, first)


SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


class _Momentum(weakref.ref[Tensor]):
    """A weak reference to a parameter, with the momentum that belongs to it."""

    __slots__ = ("buffer", "key")
    buffer: Array
    key: int  # id(parameter)


class _Buffers:
    """The momentum of each parameter, which is found by the parameter itself and dies with it.

    Tensors compare by their elements, so that weakref.WeakKeyDictionary would not find them: the key is the id, which
    is another parameter's once this one is dead, and the entry says whose it is.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Momentum] = {}
        self.again: _Again | None = None  # the last step, to be made again on other gradients
        me = weakref.ref(self)  # or the callback would hold this object, and the optimizer's memory

        def forget(dead: Any) -> None:
            buffers, key = me(), dead.key
            if buffers is not None and buffers._entries.get(key) is dead:
                del buffers._entries[key]
                buffers.again = None

        self._forget = forget

    def get(self, p: Tensor) -> Array | None:
        entry = self._entries.get(id(p))
        return None if entry is None or entry() is not p else entry.buffer

    def put(self, p: Tensor, buffer: Array) -> None:
        entry = _Momentum(p, self._forget)
        entry.key, entry.buffer = id(p), buffer
        self._entries[id(p)] = entry

    def items(self) -> Iterator[tuple[Tensor, Array]]:
        for entry in list(self._entries.values()):
            if (p := entry()) is not None:
                yield p, entry.buffer


class SGD:
    """For every parameter p with gradient g (negated if maximize), in this order:

        d = g + weight_decay p
        v = d in the first step, then momentum v + (1 - dampening) d        (only if momentum != 0)
        d = d + momentum v if nesterov else v
        p = p - lr d

    params: tensors, or dicts {"params": tensors, "lr": ...} that override the defaults for their tensors.
    Parameters whose .grad is None are left alone. Source: torch.optim.SGD.

    param_groups: the dicts, with all settings filled in; they may be edited between steps (group["lr"] = 0.01), and
        every step checks them. The momentum of a parameter belongs to the parameter: it goes along when net and
        optimizer are deep-copied or pickled together, and is kept while the parameter lives, in a group or not.
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
        self.defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups: list[dict[str, Any]] = []
        self._buffers = _Buffers()
        self._seen: list[Any] = []  # the settings of the last step, ...
        self._numbers: list[dict[Any, tuple[Any, ...]]] = []  # ... and for each group, by dtype, what they come to
        for group in groups:
            if not isinstance(group, dict):
                raise TypeError(f"params must be all Tensors or all dicts, got a dict and a {type(group).__name__}")
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters, with settings of their own: those that the dict has, the rest are the defaults.

        param_group: {"params": a Tensor or an iterable of them, "lr": ..., ...}.
        Errors: TypeError for what is not a dict, ValueError for other keys, TypeError and ValueError as SGD, and for a
        parameter that is in a group already; nothing has changed then.

        >>> body, head = nn.Linear(2, 2), nn.Linear(2, 1)
        >>> sgd = optim.SGD(head.parameters(), lr=0.1)
        >>> sgd.add_param_group({"params": body.parameters(), "lr": 0.01})
        >>> [group["lr"] for group in sgd.param_groups]
        [0.1, 0.01]
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        unknown = param_group.keys() - {"params", "name", "initial_lr", *self.defaults}
        if "params" not in param_group or unknown:
            wanted = f"the key 'params', and may have {sorted(self.defaults)}"
            raise ValueError(f"a parameter group must have {wanted}, got {list(param_group)}")
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else check_iterable("params", params, "Tensors")
        group = {**self.defaults, **param_group, "params": params}
        _check_groups([*self.param_groups, group])
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every .grad to None.

        set_to_none=False fills those that are there with zeros: then a step goes on with momentum and weight decay.
        Errors: TypeError for what is not a bool.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> (3 * w).backward()
        >>> optim.SGD([w]).zero_grad()
        >>> w.grad is None
        True
        """
        check_flag("set_to_none", set_to_none)
        unseen("it sets gradients")
        for p in _parameters(self.param_groups):
            p.grad = None if set_to_none or p.grad is None else np.zeros_like(p._data)

    def step(self) -> None:
        """Change every parameter that has a gradient, in place, whatever the layout of its array.

        Errors: TypeError, ValueError for groups made invalid, naming the group and the key, for a gradient of another
        kind, shape or dtype, and for a parameter whose array is read-only; nothing has changed then.

        >>> w = tb.tensor([1.0], requires_grad=True)
        >>> (3 * w).backward()
        >>> optim.SGD([w], lr=0.1).step()
        >>> round(w.item(), 6)  # 1 - 0.1 times 3
        0.7
        """
        unseen("it changes parameters")
        parameters = self._check_step()
        if self._buffers.again is not None and self._buffers.again.step(parameters):
            return
        steps = []  # everything is checked before anything changes
        for i, group in enumerate(self.param_groups):
            numbers, maximize = self._numbers[i], group["maximize"]
            for p in group["params"]:
                g, data = p.grad, p._data
                if g is None:
                    continue
                dtype = data.dtype
                if dtype not in numbers:
                    numbers[dtype] = _numbers(group, dtype.type)
                if type(g) is not np.ndarray or g.shape != data.shape or g.dtype != dtype:
                    g = check_gradient(p)
                plain = data.flags.carray
                if not plain:
                    _check_writable(data)
                if (g.base is not None or data.base is not None) and np.may_share_memory(g, data):
                    g = g.copy()  # it must not change under the kernel's hands
                if maximize:
                    g = -g
                buffer = self._buffers.get(p)
                if buffer is not None and buffer.shape != (data.size,):
                    raise ValueError(f"the momentum of a parameter of shape {p.shape} has {buffer.size} elements")
                known = buffer if numbers[dtype][1] else g  # without momentum it is not used
                at_once = plain and known is not None and known.dtype is dtype and g.flags.carray and g.dtype is dtype
                steps.append((p, g, known if at_once else buffer, numbers[dtype], at_once))
        self._buffers.again = None
        runs: list[tuple[tuple[Any, ...], list[Any]]] = []  # settings, and what one call can change by them
        for p, g, buffer, settings, at_once in steps:  # in their order: two may share their memory
            p._version[0] += 1
            if not at_once:
                self._run(runs)
                self._step(p, contiguous(g).reshape(-1), buffer, settings)
            elif runs and runs[-1][0] is settings:
                runs[-1][1].append((p._data, g, buffer))
            else:
                runs.append((settings, [(p._data, g, buffer)]))
        all_alike = len(runs) == 1 and len(runs[0][1]) == len(parameters)
        own = all(p._data.base is None for p in parameters) and not any(g["maximize"] for g in self.param_groups)
        if COMPILED and all_alike and own:
            self._buffers.again = _Again(parameters, runs[0][1], runs[0][0])
        self._run(runs)

    def _run(self, runs: list[tuple[tuple[Any, ...], list[Any]]]) -> None:
        """Make the steps, a call for each run, and empty the list."""
        for settings, arrays in runs:
            _change(arrays, settings, False)
        runs.clear()

    def _check_step(self) -> list[Tensor]:
        """The parameters. Checks all that a step relies on, but settings that are the very objects of the last step."""
        parameters, settings = _parameters(self.param_groups), []
        for group in self.param_groups:
            settings += [group.get(name) for name in SETTINGS]
        same = len(settings) == len(self._seen) and all(map(is_, settings, self._seen))
        if not same or len(set(map(id, parameters))) < len(parameters) or any(p._node is not None for p in parameters):
            _check_groups(self.param_groups)
            self._seen, self._numbers, self._buffers.again = settings, [{} for _ in self.param_groups], None
        return parameters

    def _step(self, p: Tensor, g: Array, buffer: Array | None, numbers: tuple[Any, ...]) -> None:
        first = buffer is None
        if buffer is None:
            buffer = np.empty_like(g) if numbers[1] else g  # without momentum it is not used
        elif buffer.dtype != g.dtype:  # the module was converted since
            buffer = buffer.astype(g.dtype)
            self._buffers.put(p, buffer)
        data = contiguous(p._data)
        _change([(data, g, buffer)], numbers, first)
        if data is not p._data:  # in place all the same: others may share the memory
            p._data[...] = data
        if first and numbers[1]:
            self._buffers.put(p, buffer)

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
        _check_groups(self.param_groups)
        state, groups, i = {}, [], 0
        for group in self.param_groups:
            first = i
            for p in group["params"]:
                if (buffer := self._buffers.get(p)) is not None:
                    state[i] = {"momentum_buffer": buffer.reshape(p.shape).astype(p.dtype)}  # a copy
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
        _parameters(self.param_groups)
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
            groups.append({**copied("state_dict", {**new, "params": []}), "params": own["params"]})
            parameters.update(zip(numbers, own["params"], strict=True))
        _check_groups(groups)
        if len(parameters) != sum(len(group["params"]) for group in groups):
            raise ValueError("state_dict must give every parameter a number of its own")
        buffers = _Buffers()
        for i, entry in state.items():
            if i not in parameters or not isinstance(entry, dict) or set(entry) - {"momentum_buffer"}:
                raise ValueError(f"state[{i!r}] must be a dict of momentum_buffer, for one of {list(parameters)}")
            buffer, p = entry.get("momentum_buffer"), parameters[i]
            if buffer is None:  # PyTorch's, before the first step or without momentum
                continue
            if not isinstance(buffer, np.ndarray) or isinstance(buffer, np.ma.MaskedArray) or buffer.dtype != p.dtype:
                kind = getattr(buffer, "dtype", type(buffer).__name__)
                raise TypeError(f"momentum_buffer of state[{i}] must be an array of {p.dtype}, got {kind}")
            if buffer.shape != p.shape:
                raise ValueError(f"momentum_buffer of state[{i}] must have shape {p.shape}, got {buffer.shape}")
            buffers.put(p, np.array(buffer, order="C").reshape(-1))
        for group, loaded in zip(self.param_groups, groups, strict=True):  # the same dicts: schedules know them
            group.clear()
            group.update(loaded)
        self._buffers = buffers

    # copy.deepcopy and pickle: the momentum travels with the parameters themselves

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "_buffers": list(self._buffers.items()),
            "_seen": [],
            "_numbers": [],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _buffers=_Buffers())
        for p, buffer in state["_buffers"]:
            self._buffers.put(p, buffer)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group, key=str) if key != "params"]
        return "\n".join([*lines, ")"])


class _Again:
    """A step of parameters that are all alike, to be made again: where they and their momentum lie is known."""

    def __init__(self, parameters: list[Tensor], arrays: list[Any], settings: tuple[Any, ...]) -> None:
        self.settings = settings
        self.rows = [(id(p), p._data, p._data.shape, p._data.dtype) for p in parameters]
        self.addresses = np.array([(address(p), address(g), address(buffer)) for p, g, buffer in arrays])
        self.sizes, self.like = np.array([p.size for p, _, _ in arrays]), np.empty(0, arrays[0][0].dtype)
        self.arrays = [(p, buffer) for p, _, buffer in arrays] if settings[1] else []  # kept alive

    def step(self, parameters: list[Tensor]) -> bool:
        """Whether all is as it was, but for the values of the gradients; then the step has been made."""
        if len(parameters) != len(self.rows):
            return False
        places = []
        for p, (key, data, shape, dtype) in zip(parameters, self.rows, strict=True):
            g = p.grad
            if id(p) != key or p._data is not data or not data.flags.carray or type(g) is not np.ndarray:
                return False
            if g.shape != shape or g.dtype is not dtype or not g.flags.carray or g.base is not None:
                return False
            places.append(address(g))
        self.addresses[:, 1] = places
        if not self.settings[1]:  # without momentum: any array will do
            self.addresses[:, 2] = places
        for p in parameters:
            p._version[0] += 1
        sgd_of_all(self.addresses, self.sizes, self.like, *self.settings, False)
        return True


def _change(arrays: list[tuple[Array, Array, Array]], settings: tuple[Any, ...], first: bool) -> None:
    """SGD on (p, g, buffer), alike in size and dtype and in C order, in one call: a call takes longer than its work."""
    if COMPILED:
        addresses = np.array([(address(p), address(g), address(buffer)) for p, g, buffer in arrays])
        sgd_of_all(addresses, np.array([p.size for p, _, _ in arrays]), arrays[0][2].reshape(-1), *settings, first)
    else:
        for three in arrays:
            sgd_kernel(*(a.reshape(-1) for a in three), *settings, first)


def _parameters(groups: Any) -> list[Tensor]:
    """The parameters of the groups, which anyone may have edited; a message names the group and the key."""
    if not isinstance(groups, list):
        raise TypeError(f"param_groups must be a list of dicts, got {type(groups).__name__}")
    parameters: list[Tensor] = []
    for i, group in enumerate(groups):
        if not isinstance(group, dict):
            raise TypeError(f"param_groups[{i}] must be a dict, got {type(group).__name__}")
        if "params" not in group:
            raise ValueError(f"param_groups[{i}] must have the key 'params', got {list(group)}")
        params = group["params"]
        if not isinstance(params, (list, tuple)):
            raise TypeError(f"params of param_groups[{i}] must be a list of Tensors, got {type(params).__name__}")
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"params of param_groups[{i}] must hold Tensors, got {type(p).__name__}")
        parameters += params
    return parameters


def _check_groups(groups: Any) -> None:
    """All that a step relies on."""
    parameters = _parameters(groups)
    if len({id(p) for p in parameters}) != len(parameters):
        shape = next(p.shape for i, p in enumerate(parameters) if any(p is q for q in parameters[:i]))
        raise ValueError(f"params must not hold the same Tensor twice, got one of shape {shape} twice")
    for i, group in enumerate(groups):
        missing = [k for k in SETTINGS if k not in group]
        if missing:
            raise ValueError(f"param_groups[{i}] must have all settings, missing {missing}: add_param_group adds them")
        for p in group["params"]:
            if p._node is not None:
                raise ValueError(f"params of param_groups[{i}] must be leaves, got a computed tensor")
        try:
            for name in ("lr", "momentum", "weight_decay"):
                check_number(name, group[name], 0)
            if "initial_lr" in group:  # it is there once a schedule has been
                check_number("initial_lr", group["initial_lr"], 0)
            check_number("dampening", group["dampening"])
            check_flag("nesterov", group["nesterov"])
            check_flag("maximize", group["maximize"])
            if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
                raise ValueError(
                    f"nesterov needs momentum > 0 and dampening = 0, got {group['momentum']} and {group['dampening']}"
                )
        except (TypeError, ValueError) as error:
            if len(groups) == 1:
                raise
            raise type(error)(f"{error} in param_groups[{i}]") from None


def _check_writable(data: Array) -> None:
    """Asked of an array that is not plain C order: an update in place must reach every element, once."""
    if not data.flags.writeable:
        raise ValueError(
            f"params must be writable, a step changes them in place, got a read-only array of shape {data.shape}: "
            "Parameter(array.copy()) has one of its own"
        )
    if overlaps(data):
        raise ValueError(f"params must have a place in memory for each element, got overlapping ones, {data.shape}")


def _numbers(group: dict[str, Any], number: Any) -> tuple[Any, ...]:
    """lr, momentum, 1 - dampening, weight decay in the parameter's dtype, so that float32 stays float32; nesterov."""
    values = float(group["lr"]), float(group["momentum"]), 1 - float(group["dampening"]), float(group["weight_decay"])
    if not max(map(abs, values)) <= float(np.finfo(number).max):
        raise ValueError(f"lr, momentum, dampening and weight_decay must fit into {np.dtype(number)}, got {values}")
    lr, momentum, undamped, decay = map(number, values)
    return lr, momentum, undamped, decay, group["nesterov"]
