"""A look at a model that leaves no trace: what summary() and the functions of watch.py have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..checks import FLOATS, plain_array
from ..engine.recording import no_grad
from ..engine.tensors import Tensor
from ..runtime.random import default_generator
from .module import Module


def check_model(model: Any, name: str = "model") -> Module:
    if not isinstance(model, Module):
        raise TypeError(f"{name} must be a Module, got {type(model).__name__}")
    return model


def as_arguments(input: Any, name: str = "input") -> tuple[Any, ...]:
    """The arguments of a call: a tuple stands for several; float arrays become Tensors, without a copy."""
    arguments = input if isinstance(input, tuple) else (input,)
    if not arguments:
        raise ValueError(f"{name} must be a Tensor, an array, or a tuple of them, got an empty tuple")
    for value in arguments:
        if not isinstance(value, (Tensor, np.ndarray)):
            hint = ""
            if isinstance(value, int):
                hint = f": np.zeros({arguments}, np.float32) is an array of that shape"
            kind = type(value).__name__
            got = f"a tuple with a {kind}" if isinstance(input, tuple) else kind
            raise TypeError(f"{name} must be a Tensor, an array, or a tuple of them, got {got}{hint}")
    arguments = tuple(plain_array(a, name) if isinstance(a, np.ndarray) else a for a in arguments)
    return tuple(Tensor(a) if isinstance(a, np.ndarray) and a.dtype in FLOATS else a for a in arguments)


@contextmanager
def undisturbed(model: Module, hook: Callable[[Module, Any, Any], None]) -> Iterator[None]:
    """Within it nothing is recorded, and hook(module, inputs, output) is called after the forward of every module.

    Afterwards, also after an error, the hooks are gone, and modes, buffers (running statistics) and the random
    numbers of manual_seed are as before.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, value, None if value is None else value.copy())
        for module, _ in modes
        for name, value in ((name, getattr(module, name)) for name in module._buffers)
    ]
    generator = default_generator()
    state = generator.bit_generator.state
    handles = []
    try:
        for module, _ in modes:
            handles.append(module.register_forward_hook(hook))
        with no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
        for module, name, array, value in buffers:
            setattr(module, name, array)  # a forward may have put another array in its place
            if array is not None:
                array[...] = value
        generator.bit_generator.state = state
