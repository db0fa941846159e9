"""Module: a function with parameters; Sequential and ModuleList hold several.

There is no registry: a module's parameters, buffers and children are its attributes, in the order in which they
were assigned. That order is the order of state_dict, and it is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..checks import check_flag, check_int, check_iterable
from ..tensors import FLOATS, Array, Tensor, as_array, float_dtype, plain_array


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
            self._changes = data._changes  # the memory is shared, so are its changes


def _plain(name: str, value: Any) -> Array:
    """An entry of a state dict as an array; what is none has no shape that fits."""
    value = value.data if isinstance(value, Tensor) else value
    return plain_array(value, f"state_dict[{name!r}]") if isinstance(value, np.ndarray) else as_array(value)


class Handle:
    """What register_forward_hook returns; remove() takes the hook, hooks[key], away.

    >>> net = nn.ReLU()
    >>> handle = net.register_forward_hook(lambda module, inputs, output: 10 * output)
    >>> net(tb.tensor([3.0]))
    tensor([30.])
    >>> handle.remove()
    >>> net(tb.tensor([3.0]))
    tensor([3.])
    """

    def __init__(self, hooks: dict[int, Callable[..., Any]], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook away; again does nothing.

        >>> handle = nn.ReLU().register_forward_hook(print)
        >>> handle.remove()
        >>> handle.remove()
        """
        self._hooks.pop(self._key, None)


class Module:
    """Base class: assign Parameters and Modules as attributes in __init__, and define forward().

    A call, module(x), is forward(x) between the hooks. Errors: AttributeError for assigning before super().__init__().

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
        self._buffers: list[str] = []  # names of the attributes that are state, but not learned
        self._hooks: dict[int, Callable[..., Any]] = {}
        self._pre_hooks: dict[int, Callable[..., Any]] = {}
        self._hooks_so_far = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)) and "_buffers" not in self.__dict__:
            raise AttributeError("call super().__init__() before assigning parameters or modules")
        object.__setattr__(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; each class defines its own. Call the module itself, module(x): it runs the hooks,
        too.

        >>> nn.ReLU().forward(tb.tensor([-1.0, 2.0]))
        tensor([0., 2.])
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
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
        return Handle(hooks, self._hooks_so_far)

    def register_buffer(self, name: str, value: Array | None) -> None:
        """Keep value, an array (or None), as the attribute name: saved in state_dict, not learned.

        Errors: ValueError for a name that is not an identifier or taken, TypeError for what is not an array.

        >>> net = nn.Module()
        >>> net.register_buffer("seen", np.zeros(2))
        >>> net.seen += 1
        >>> net.state_dict()
        {'seen': array([1., 1.])}
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"name must be an identifier, got {name!r}")
        if hasattr(self, name) and name not in self._buffers:
            raise ValueError(f"name must not be that of another attribute, got {name!r}")
        if value is not None and not isinstance(value, np.ndarray):
            raise TypeError(f"buffer {name!r} must be a NumPy array or None, got {type(value).__name__}")
        setattr(self, name, value)
        if name not in self._buffers:
            self._buffers.append(name)

    # walking the tree

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules that are attributes of this one.

        >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> list(net.named_children())
        [('0', Linear(in_features=2, out_features=1, bias=True)), ('1', ReLU())]
        """
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

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
                if isinstance(value, Parameter) and id(value) not in seen:
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

        Batch norms and dropout do different things in the two. Errors: TypeError for what is not a bool.

        >>> nn.Dropout(0.5).eval().train().training
        True
        """
        check_flag("mode", mode)
        for module in self.modules():
            module.training = mode
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

    def zero_grad(self) -> None:
        """Set the .grad of all parameters to None.

        >>> layer = nn.Linear(2, 1)
        >>> layer(tb.tensor([[1.0, 2.0]])).backward()
        >>> layer.zero_grad()
        >>> layer.weight.grad is None
        True
        """
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, dtype: DTypeLike) -> Module:
        """Convert parameters and floating buffers to float32 or float64, in place; gradients are dropped.

        dtype: by any of NumPy's names. Returns this module. Errors: TypeError for another dtype.

        >>> nn.Linear(2, 1).to("float64").weight.dtype
        dtype('float64')
        """
        dtype = float_dtype(dtype)
        for parameter in self.parameters():
            parameter._data = parameter._data.astype(dtype)
            parameter._changes[0] += 1
            parameter.grad = None
        for module in self.modules():
            for name in module._buffers:
                value = getattr(module, name)
                if value is not None and value.dtype in FLOATS:
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

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name in self._buffers:
            if getattr(self, name) is not None:
                yield prefix + name, getattr(self, name)
        for name, child in self.named_children():
            yield from child._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Array]:
        """{name: copy of the array} of parameters and buffers, with PyTorch's names and order.

        >>> {name: array.shape for name, array in nn.Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        return {name: np.array(v.data if isinstance(v, Tensor) else v) for name, v in self._state()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Copy arrays into parameters and buffers. Everything is checked first: on an error nothing has changed.

        state_dict: {name: array}. strict: missing and unexpected names raise ValueError (default True).
        Errors: ValueError for other shapes, in any case, TypeError for other dtypes. The message has all names and
        shapes that are wrong.

        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> a.load_state_dict(b.state_dict())
        >>> bool((a.weight == b.weight).all())
        True
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        check_flag("strict", strict)
        own = dict(self._state())
        missing, unexpected = [k for k in own if k not in state_dict], [k for k in state_dict if k not in own]
        arrays = {k: _plain(k, v) for k, v in state_dict.items() if k in own}
        wrong = [f"missing {missing}, unexpected {unexpected}"] if strict and (missing or unexpected) else []
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                wrong.append(f"{name!r} must have shape {own[name].shape}, got {array.shape}")
        if wrong:
            raise ValueError(
                f"state_dict must have the names and shapes of this {type(self).__name__}: " + "; ".join(wrong)
            )
        for name, array in arrays.items():
            if array.dtype != own[name].dtype:
                raise TypeError(f"state_dict[{name!r}] must be {own[name].dtype}, got {array.dtype}")
        for name, array in arrays.items():
            target = own[name]
            if isinstance(target, Tensor):
                if not target._data.flags.writeable:
                    target._data = target._data.copy()
                target._data[...] = array
                target._changes[0] += 1
            else:
                target[...] = array

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


class _Numbered(Module):
    """Modules as attributes "0", "1", ...: what Sequential and ModuleList share."""

    def _add(self, module: Any) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds Modules, got {type(module).__name__}")
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            index = check_int("index", index)  # an ndarray's bool is 0 or 1 to some versions of NumPy
        modules = list(self.children())[index]
        if isinstance(index, slice):
            return Sequential(*modules) if isinstance(self, Sequential) else ModuleList(modules)
        return modules


class Sequential(_Numbered):
    """The modules one after the other: y = f_n(... f_2(f_1(x))).

    modules: any number; net[i], net[i:j] and len(net) work. Errors: TypeError for what is not a Module. A note on an
    error in the forward says in which of them it was raised (Python >= 3.11).

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> net(tb.tensor(np.zeros((5, 4), np.float32))).shape
    (5, 2)
    >>> net[1]
    ReLU()
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for module in modules:
            self._add(module)

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

    modules: an iterable (default: none). Errors: TypeError for what is not a Module.

    >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in check_iterable("modules", modules, "Modules"):
            self._add(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; returns the list. Errors: TypeError for what is not a Module.

        >>> len(nn.ModuleList([nn.ReLU()]).append(nn.Tanh()))
        2
        """
        self._add(module)
        return self
