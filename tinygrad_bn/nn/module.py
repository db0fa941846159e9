"""Module: a function with parameters; Sequential and ModuleList hold several.

There is no registry: a module's parameters, buffers and children are its attributes, in the order in which they
were assigned. That order is the order of state_dict, and it is PyTorch's. Only their kinds are noted, by name, so that
nothing else takes the place of a parameter, where an optimizer and state_dict would no longer find it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..checks import FLOATS, Array, as_array, check_flag, check_int, check_iterable, float_dtype, plain_array
from ..engine.guards import check_gradient
from ..engine.replay_notes import Observed, recorders, unseen
from ..engine.tensors import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires grad.

    data: a float array, or a Tensor, whose memory is shared. requires_grad: default True. Errors: as Tensor.

    >>> nn.Parameter(np.array([1.0, 2.0]))
    tensor([1., 2.], dtype=float64, requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)
        if isinstance(data, Tensor):
            self._version = data._version  # the memory is shared, so are its changes


class IncompatibleKeys(NamedTuple):
    """What load_state_dict returns: names that only one of module and state_dict has; both empty if strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def _plain(name: str, value: Any) -> Array:
    """An entry of a state dict as an array in the machine's byte order; what is none has no shape that fits."""
    value = value.data if isinstance(value, Tensor) else value
    array = plain_array(value, f"state_dict[{name!r}]") if isinstance(value, np.ndarray) else as_array(value)
    return array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind in "biuf" else array


class Handle:
    """What module.register_forward_hook returns; remove() takes the hook, hooks[key], away.

    >>> net = nn.ReLU()
    >>> handle = net.register_forward_hook(lambda module, inputs, output: 10 * output)
    >>> net(tb.tensor([3.0]))
    tensor([30.])
    >>> handle.remove()
    >>> net(tb.tensor([3.0]))
    tensor([3.])
    """

    def __init__(self, module: Module, hooks: dict[int, Callable[..., Any]], key: int) -> None:
        self._module, self._hooks, self._key = module, hooks, key
        module._assigned("hooks")

    def remove(self) -> None:
        """Take the hook away; again does nothing.

        >>> handle = nn.ReLU().register_forward_hook(print)
        >>> handle.remove()
        >>> handle.remove()
        """
        self._hooks.pop(self._key, None)
        self._module._assigned("hooks")


class Module(Observed):
    """Base class: assign Parameters and Modules as attributes in __init__, and define forward().

    A call, module(x), is forward(x) between the hooks. Only another one, or None, may take the place of a parameter, a
    buffer or a module; in the place of None, too. del module.name frees the name.
    Errors: AttributeError for assigning before super().__init__(), TypeError for something else in such a place,
    ValueError for a name with a dot.

    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = nn.Parameter(np.array([2.0, 3.0]))
    ...
    ...     def forward(self, x):
    ...         return self.factor * x
    >>> scale = Scale()
    >>> scale(tb.tensor(np.array([10.0, 100.0]))).data
    array([ 20., 300.])
    >>> scale.state_dict()
    {'factor': array([2., 3.])}
    """

    def __init__(self) -> None:
        self.training = True
        self._kinds: dict[str, type] = {}  # by name: Parameter, Module, or ndarray for state that is not learned
        self._hooks: dict[int, Callable[..., Any]] = {}
        self._pre_hooks: dict[int, Callable[..., Any]] = {}
        self._hooks_so_far = 0

    def __setattr__(self, name: str, value: Any) -> None:
        new = Parameter if isinstance(value, Parameter) else Module if isinstance(value, Module) else None
        kinds = self.__dict__.get("_kinds")
        if kinds is None:
            if new is not None:
                raise AttributeError("call super().__init__() before assigning parameters or modules")
            object.__setattr__(self, name, value)
            return
        kind = kinds.get(name, new)
        if kind is np.ndarray and isinstance(value, np.generic):
            value = np.asarray(value)  # what NumPy makes of count + 1
        if kind is not None and value is not None and not isinstance(value, kind):
            what, wanted, remedy = _KINDS[kind]
            got = f"{type(value).__name__} {value!r:.40}"
            raise TypeError(f"{name} is {what} and must be {wanted} or None, got {got}: {remedy}")
        if new is not None and "." in name:
            raise ValueError(f"names of parameters and modules must have no dot, got {name!r}")
        if self.__dict__.get(name, kinds) is not value:
            self._assigned(name)
        object.__setattr__(self, name, value)
        if kind is not None:
            kinds[name] = kind

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._kinds.pop(name, None)
        self._assigned(name)

    def __copy__(self) -> Module:
        copy = type(self).__new__(type(self))
        for name, value in vars(self).items():  # the children are shared, what is noted of them is not
            vars(copy)[name] = dict(value) if name in ("_kinds", "_hooks", "_pre_hooks") else value
        return copy

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; each class defines its own. Call the module itself, module(x): it runs the hooks,
        too.

        >>> nn.ReLU().forward(tb.tensor([-1.0, 2.0]))
        tensor([0., 2.])
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recorders:
            self._observe()
        for hook in tuple(self._pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        out = self.forward(*args, **kwargs)
        for hook in tuple(self._hooks.values()):
            changed = hook(self, args, out)
            out = out if changed is None else changed
        return out

    def register_forward_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call hook(module, inputs, output) after each forward; what it returns, unless None, is the output.

        Returns a Handle, whose remove() takes it away. Errors: TypeError for what is not callable.

        >>> net = nn.ReLU()
        >>> _ = net.register_forward_hook(lambda module, inputs, output: print("saw", output))
        >>> y = net(tb.tensor([-1.0, 2.0]))
        saw tensor([0., 2.])
        """
        return self._register(self._hooks, hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call hook(module, inputs) before each forward; what it returns, unless None, are the inputs.

        Returns a Handle, whose remove() takes it away. Errors: TypeError for what is not callable.

        >>> net = nn.ReLU()
        >>> _ = net.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 10,))
        >>> net(tb.tensor([-1.0, 2.0]))
        tensor([ 9., 12.])
        """
        return self._register(self._pre_hooks, hook)

    def _register(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> Handle:
        if not callable(hook):
            raise TypeError(f"hook must be callable, got {type(hook).__name__}")
        self._hooks_so_far += 1  # never reused: an old handle must not remove a new hook
        hooks[self._hooks_so_far] = hook
        return Handle(self, hooks, self._hooks_so_far)

    @property
    def _buffers(self) -> list[str]:
        """The names of the attributes that are state, but not learned."""
        return [name for name, kind in self._kinds.items() if kind is np.ndarray]

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        """Keep value as the attribute name. None: there is no parameter, but one may come, and nothing else.

        Errors: ValueError for a name that is not an identifier or taken, TypeError for what is not a Parameter.

        >>> net = nn.Module()
        >>> net.register_parameter("bias", None)
        >>> net.bias = nn.Parameter(np.zeros(2))
        >>> list(net.state_dict())
        ['bias']
        """
        self._check_name(name, Parameter)
        if value is not None and not isinstance(value, Parameter):
            raise TypeError(f"value of parameter {name!r} must be a Parameter or None, got {type(value).__name__}")
        setattr(self, name, value)
        self._kinds[name] = Parameter

    def _check_name(self, name: Any, kind: type) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"name must be an identifier, got {name!r}")
        if hasattr(self, name) and self._kinds.get(name) is not kind:
            raise ValueError(f"name must not be that of another attribute, got {name!r}")

    def register_buffer(self, name: str, value: Array | None) -> None:
        """Keep value, an array (or None), as the attribute name: saved in state_dict, not learned.

        Errors: ValueError for a name that is not an identifier or taken, TypeError for what is not an array.

        >>> net = nn.Module()
        >>> net.register_buffer("seen", np.zeros(2))
        >>> net.seen += 1
        >>> net.state_dict()
        {'seen': array([1., 1.])}
        """
        self._check_name(name, np.ndarray)
        if value is not None and not isinstance(value, np.ndarray):
            raise TypeError(f"buffer {name!r} must be a NumPy array or None, got {type(value).__name__}")
        setattr(self, name, value)
        self._kinds[name] = np.ndarray

    # walking the tree

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules that are attributes of this one.

        >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> list(net.named_children())
        [('0', Linear(in_features=2, out_features=1, bias=True)), ('1', ReLU())]
        """
        return (
            (name, value) for name, value in vars(self).items() if isinstance(value, Module) and name in self._kinds
        )

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one.

        >>> list(nn.Sequential(nn.ReLU(), nn.Tanh()).children())
        [ReLU(), Tanh()]
        """
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "", _seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and of all that are in it, each once.

        prefix: the path of this one (default ""). Errors: TypeError for a prefix that is not a str.

        >>> net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
        >>> [path for path, _ in net.named_modules()]
        ['', '0', '0.0', '1']
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, got {type(prefix).__name__}")
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all that are in it, each once.

        >>> [type(m).__name__ for m in nn.Sequential(nn.ReLU(), nn.Tanh()).modules()]
        ['Sequential', 'ReLU', 'Tanh']
        """
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, Parameter) of all parameters, each once, in the order of state_dict.

        prefix: stands before the paths (default "").

        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> [(path, p.shape) for path, p in net.named_parameters()]
        [('0.weight', (2, 3)), ('0.bias', (2,))]
        """
        seen: set[int] = set()  # a parameter that two modules share is named once
        for path, module in self.named_modules(prefix):
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and name in module._kinds and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once: what an optimizer is given.

        >>> sum(p.size for p in nn.Linear(3, 2).parameters())  # 3 times 2 weights, 2 biases
        8
        """
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """(path, array) of all buffers but those that are None.

        prefix: stands before the paths (default "").

        >>> [path for path, _ in nn.BatchNorm1d(2).named_buffers()]
        ['running_mean', 'running_var', 'num_batches_tracked']
        """
        for path, module in self.named_modules(prefix):
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield f"{path}.{name}" if path else name, getattr(module, name)

    def buffers(self) -> Iterator[Array]:
        """All buffers but those that are None.

        >>> [b.shape for b in nn.BatchNorm1d(2).buffers()]
        [(2,), (2,), ()]
        """
        return (buffer for _, buffer in self.named_buffers())

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Call fn on every module, children first; returns this module. Errors: TypeError for what is not callable.

        >>> _ = nn.Sequential(nn.ReLU(), nn.Tanh()).apply(lambda module: print(type(module).__name__))
        ReLU
        Tanh
        Sequential
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {type(fn).__name__}")
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # state

    def train(self, mode: bool = True) -> Module:
        """Set this module and all in it to training mode (mode=True, the default) or eval mode; returns this module.

        Batch norms and dropout do different things in the two. A module in it with a train() or eval() of its own is
        asked by that, so that a frozen part can stay in eval mode. Errors: TypeError for what is not a bool.

        >>> nn.Dropout(0.5).eval().train().training
        True
        """
        self.training = check_flag("mode", mode)
        for child in self.children():
            child.train(True) if mode else child.eval()
        return self

    def eval(self) -> Module:
        """Set this module and all in it to eval mode: for inference; returns this module.

        >>> nn.Dropout(0.5).eval()(tb.tensor([1.0, 2.0]))
        tensor([1., 2.])
        """
        return self.train(False)

    def requires_grad_(self, flag: bool = True) -> Module:
        """Set requires_grad of all parameters to flag (default True): False freezes them. Returns this module.

        Errors: TypeError for what is not a bool.

        >>> frozen = nn.Linear(2, 1).requires_grad_(False)
        >>> frozen(tb.tensor([[1.0, 2.0]])).requires_grad
        False
        """
        check_flag("flag", flag)
        for parameter in self.parameters():
            parameter.requires_grad = flag
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the .grad of all parameters to None. set_to_none=False fills those that are there with zeros.

        Errors: TypeError for what is not a bool.

        >>> layer = nn.Linear(2, 1)
        >>> layer(tb.tensor([[1.0, 2.0]])).backward()
        >>> layer.zero_grad()
        >>> layer.weight.grad is None
        True
        """
        check_flag("set_to_none", set_to_none)
        unseen("it sets gradients")
        for parameter in self.parameters():
            keep = not set_to_none and parameter.grad is not None
            parameter.grad = np.zeros_like(parameter._data) if keep else None

    def to(self, dtype: DTypeLike) -> Module:
        """Convert parameters, their gradients and floating buffers to float32 or float64, in place.

        dtype: by any of NumPy's names. What has it already keeps its array. The momentum of an optimizer follows in its
        next step. Returns this module. Errors: TypeError for another dtype.

        >>> nn.Linear(2, 1).to("float64").weight.dtype
        dtype('float64')
        """
        dtype = float_dtype(dtype)
        for parameter in self.parameters():
            if parameter.grad is not None:
                check_gradient(parameter)
        for parameter in self.parameters():
            if parameter.dtype != dtype:
                gradient = None if parameter.grad is None else check_gradient(parameter)
                parameter._data = parameter._data.astype(dtype)
                parameter._version[0] += 1
                parameter.grad = None if gradient is None else gradient.astype(dtype)
        for module in self.modules():
            for name in module._buffers:
                value = getattr(module, name)
                if value is not None and value.dtype in FLOATS and value.dtype != dtype:
                    setattr(module, name, value.astype(dtype))
        return self

    def double(self) -> Module:
        """to(np.float64)

        >>> nn.Linear(2, 1).double().weight.dtype
        dtype('float64')
        """
        return self.to(np.float64)

    def float(self) -> Module:
        """to(np.float32)

        >>> nn.Linear(2, 1).double().float().weight.dtype
        dtype('float32')
        """
        return self.to(np.float32)

    def _own_state(self) -> Iterator[tuple[str, Any]]:
        """(name, Parameter or buffer) of this module's own, parameters first."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter) and name in self._kinds:
                yield name, value
        for name in self._buffers:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)

    def state_dict(self) -> dict[str, Array]:
        """{name: copy of the array} of parameters and buffers, with PyTorch's names and order.

        A module in it with a state_dict() of its own is asked by that; its names follow the module's. Errors: TypeError
        where that gives no dict.

        >>> {name: array.shape for name, array in nn.Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        state = {name: np.array(v.data if isinstance(v, Tensor) else v) for name, v in self._own_state()}
        for name, child in self.named_children():
            part = child.state_dict()
            if not isinstance(part, dict):
                raise TypeError(f"state_dict() of {type(child).__name__} must return a dict, got {type(part).__name__}")
            state.update((f"{name}.{key}", value) for key, value in part.items())
        return state

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into parameters and buffers. Everything is checked first: on an error nothing has changed.

        state_dict: {name: array}. strict: missing and unexpected names raise ValueError (default True).
        Returns (missing_keys, unexpected_keys). As in PyTorch num_batches_tracked may be missing, of another integer
        dtype, and of shape (1,): older versions wrote it so. A read-only array is replaced by a copy. A module in it
        with a load_state_dict(state_dict, strict) of its own is handed its part of the names.
        Errors: ValueError for other shapes, in any case, TypeError for other dtypes. The message has all names and
        shapes that are wrong.

        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> a.load_state_dict(b.state_dict())
        <All keys matched successfully>
        >>> bool((a.weight == b.weight).all())
        True
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        check_flag("strict", strict)
        plan = _Loading([], [], [], [])
        self._plan_loading(state_dict, "", plan)
        missing, unexpected = plan.missing, plan.unexpected
        wrong = [f"missing {missing}, unexpected {unexpected}"] if strict and (missing or unexpected) else []
        for _, name, target, array in plan.arrays:
            if array.shape != target.shape:
                wrong.append(f"{name!r} must have shape {target.shape}, got {array.shape}")
        if wrong:
            raise ValueError(
                f"state_dict must have the names and shapes of this {type(self).__name__}: " + "; ".join(wrong)
            )
        for _, name, target, array in plan.arrays:
            if array.dtype != target.dtype and not (array.dtype.kind in "iu" and target.dtype.kind in "iu"):
                raise TypeError(f"state_dict[{name!r}] must be {target.dtype}, got {array.dtype}")
        before = [_Snapshot(m) for m in self.modules()] if plan.by_themselves else []
        try:
            for name, child, part in plan.by_themselves:
                try:
                    keys = child.load_state_dict(part, strict)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"in {name}: {error}") from error
                if isinstance(keys, tuple) and len(keys) == 2:
                    missing += [f"{name}.{key}" for key in keys[0]]
                    unexpected += [f"{name}.{key}" for key in keys[1]]
        except BaseException:
            for snapshot in before:
                snapshot.restore()
            raise
        for module, name, target, array in plan.arrays:
            if isinstance(target, Tensor):
                target._assign(array)
            elif target.flags.writeable:
                target[...] = array
            else:
                setattr(module, name.rpartition(".")[2], array.astype(target.dtype))
        return IncompatibleKeys(missing, unexpected)

    _may_be_missing: ClassVar[tuple[str, ...]] = ()  # names that older versions did not write

    def _plan_loading(self, entries: dict[Any, Any], prefix: str, plan: _Loading) -> None:
        """Find the target of each entry; nothing changes yet."""
        rest = dict(entries)
        for name, target in self._own_state():
            if name in rest:
                array = _plain(prefix + name, rest.pop(name))
                array = array.reshape(()) if array.shape == (1,) and target.shape == () else array
                plan.arrays.append((self, prefix + name, target, array))
            elif name not in self._may_be_missing:
                plan.missing.append(prefix + name)
        parts: dict[str, dict[str, Any]] = {name: {} for name, _ in self.named_children()}
        for key, value in rest.items():
            head, _, tail = key.partition(".") if isinstance(key, str) else ("", "", "")
            if head in parts and tail:
                parts[head][tail] = value
            else:
                plan.unexpected.append(prefix + key if isinstance(key, str) else key)
        for name, child in self.named_children():
            if type(child).load_state_dict is Module.load_state_dict and "load_state_dict" not in vars(child):
                child._plan_loading(parts[name], f"{prefix}{name}.", plan)
            else:
                plan.by_themselves.append((prefix + name, child, parts[name]))

    # representation

    def extra_repr(self) -> str:
        """What stands between the parentheses when the module is printed; each class defines its own.

        >>> nn.Linear(2, 1).extra_repr()
        'in_features=2, out_features=1, bias=True'
        """
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n  ".join([f"{type(self).__name__}({self.extra_repr()}", *children]) + "\n)"


_KINDS: dict[Any, tuple[str, str, str]] = {
    Parameter: ("a parameter", "a Parameter", "nn.Parameter(array) makes one; t.data = array changes its values"),
    Module: ("a module", "a Module", "del module.name frees the name"),
    np.ndarray: ("a buffer", "a NumPy array", "t.data is that of a tensor, np.asarray makes one of numbers"),
}


class _Loading(NamedTuple):
    """What load_state_dict is about to do."""

    arrays: list[tuple[Module, str, Any, Array]]  # the module, name from the top, target, value
    by_themselves: list[tuple[str, Module, dict[str, Any]]]  # modules with a load_state_dict of their own
    missing: list[str]
    unexpected: list[Any]


class _Snapshot:
    """A module as it is, to go back to: its attributes, and the values in its arrays."""

    def __init__(self, module: Module) -> None:
        self.module, self.attributes = module, dict(vars(module))
        self.kinds = dict(module._kinds)
        self.tensors = [
            (v, v._data, v._data.copy(), v._version[0]) for _, v in module._own_state() if isinstance(v, Tensor)
        ]
        self.buffers = [(v, v.copy()) for _, v in module._own_state() if not isinstance(v, Tensor)]

    def restore(self) -> None:
        vars(self.module).clear()
        vars(self.module).update(self.attributes, _kinds=self.kinds)
        self.module._assigned("attributes")
        for parameter, array, values, changes in self.tensors:
            parameter._data, parameter._version[0] = array, changes
            _write(array, values)
        for array, values in self.buffers:
            _write(array, values)


def _write(array: Array, values: Array) -> None:
    if array.flags.writeable:  # else nobody has changed it
        array[...] = values


Numbered = TypeVar("Numbered", bound="_Numbered")


class _Numbered(Module):
    """Modules as attributes "0", "1", ...: what Sequential and ModuleList share."""

    def _add(self, module: Any, name: str | None = None) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds Modules, got {type(module).__name__}")
        if name is None:  # the first number that is free: a slice keeps its names
            name = next(str(i) for i in itertools.count(len(self)) if not hasattr(self, str(i)))
        setattr(self, name, module)

    def append(self: Numbered, module: Module) -> Numbered:
        """Add a module at the end; returns this one. Errors: TypeError for what is not a Module.

        >>> len(nn.ModuleList([nn.ReLU()]).append(nn.Tanh()))
        2
        """
        self._add(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            named = OrderedDict(list(self.named_children())[index])
            return Sequential(named) if isinstance(self, Sequential) else ModuleList(named.values())
        return list(self.children())[self._place(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        names = [name for name, _ in self.named_children()]
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds Modules, got {type(module).__name__}")
        setattr(self, names[self._place(index)], module)

    def __delitem__(self, index: Any) -> None:
        children = list(self.named_children())
        if not isinstance(index, slice):
            index = self._place(index)
        gone = {name for name, _ in (children[index] if isinstance(index, slice) else [children[index]])}
        for name, _ in children:
            delattr(self, name)
        kept = [(name, module) for name, module in children if name not in gone]
        numbered = all(name.isdecimal() for name, _ in children)  # then they are numbered anew, as in PyTorch
        for i, (name, module) in enumerate(kept):
            setattr(self, str(i) if numbered else name, module)

    def _place(self, index: Any) -> int:
        place = check_int("index", index)  # an ndarray's bool is 0 or 1 to some versions of NumPy
        if not -len(self) <= place < len(self):
            raise IndexError(f"index must lie in [{-len(self)}, {len(self) - 1}], got {place}")
        return place


class Sequential(_Numbered):
    """The modules one after the other: y = f_n(... f_2(f_1(x))).

    modules: any number, or one OrderedDict {name: module}. net[i], net[i:j] (with the names that they have in net),
    len(net), net[i] = module, del net[i] and net.append(module) work. A note on an error in the forward says in which
    of them it was raised (Python >= 3.11).
    Errors: TypeError for what is not a Module, and for names that are not strings; ValueError for names that are taken.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> net(tb.tensor(np.zeros((5, 4), np.float32))).shape
    (5, 2)
    >>> net[1] = nn.Tanh()
    >>> net[1]
    Tanh()
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        first = modules[0] if len(modules) == 1 else None
        if isinstance(first, Mapping):
            for name, module in first.items():
                if not isinstance(name, str) or not name or "." in name:
                    raise TypeError(f"names of modules must be strings without a dot, got {name!r}")
                if hasattr(self, name):
                    raise ValueError(f"names of modules must not be those of other attributes, got {name!r}")
                self._add(module, name)
        else:
            for each in modules:
                self._add(each)

    def forward(self, x: Tensor) -> Tensor:
        for i, module in enumerate(self):
            try:
                x = module(x)
            except Exception as error:
                if hasattr(error, "add_note"):
                    error.add_note(f"raised in layer {i} of a Sequential, {type(module).__name__}")
                raise
        return x


class ModuleList(_Numbered):
    """A list of modules whose parameters belong to the module that holds it.

    modules: an iterable (default: none). layers[i], layers[i:j], len(layers), layers[i] = module, del layers[i] and
    layers.append(module) work. Errors: TypeError for what is not a Module.

    >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in check_iterable("modules", modules, "Modules"):
            self._add(module)
