"""summary(): what a model consists of, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import Array
from ..engine.tensors import Tensor
from .module import Module, Parameter
from .normalization import _BatchNorm, _Norm, _Running
from .probe import as_arguments, check_model, undisturbed


@dataclass
class Layer:
    """A row of the table. Parameters and buffers are a module's own, not those of the modules in it.

    name: its path, as in state_dict; "" is the model itself. calls: how often it was called.
    output: the shape of its last output, or the shapes, where it is a tuple or list; None if it was not called.
    trainable, frozen: how many numbers its parameters have, with and without requires_grad; what two modules share
        counts at the first. buffers: how many numbers its buffers have.
    statistics: of a norm, where its mean and variance come from; "" for other modules.
    """

    name: str
    type: str
    calls: int
    output: Any
    trainable: int
    frozen: int
    buffers: int
    statistics: str


@dataclass
class Summary:
    """What summary() returns: print it, or read ``layers`` (one Layer per module) and the totals.

    trainable, frozen, buffers: sums over the layers. bytes: of parameters and buffers.

    >>> print(nn.summary(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), np.zeros((1, 2), np.float32)))
    layer    type        output  trainable  frozen  buffers  norm statistics
    ------------------------------------------------------------------------
    (model)  Sequential  (1, 3)          -       -        -
    0        Linear      (1, 3)          9       -        -
    1        ReLU        (1, 3)          -       -        -
    ------------------------------------------------------------------------
    total                                9       0        0
    parameters and buffers take 36 bytes
    """

    layers: list[Layer]
    bytes: int

    @property
    def trainable(self) -> int:
        """How many numbers the parameters with requires_grad have.

        >>> nn.summary(nn.Linear(2, 3), np.zeros((1, 2), np.float32)).trainable  # 2 times 3 + 3
        9
        """
        return sum(layer.trainable for layer in self.layers)

    @property
    def frozen(self) -> int:
        """How many numbers the parameters without requires_grad have.

        >>> nn.summary(nn.Linear(2, 3).requires_grad_(False), np.zeros((1, 2), np.float32)).frozen
        9
        """
        return sum(layer.frozen for layer in self.layers)

    @property
    def buffers(self) -> int:
        """How many numbers the buffers have.

        >>> nn.summary(nn.BatchNorm1d(3), np.zeros((1, 3), np.float32)).buffers  # 3 + 3, and the count of batches
        7
        """
        return sum(layer.buffers for layer in self.layers)

    def __str__(self) -> str:
        titles = ("layer", "type", "output", "trainable", "frozen", "buffers", "norm statistics")
        rows: list[tuple[str, ...]] = [titles]
        for layer in self.layers:
            output = "not called" if layer.calls == 0 else _text(layer.output)
            output += f" ({layer.calls} calls)" if layer.calls > 1 else ""
            numbers = [f"{n:,}" if n else "-" for n in (layer.trainable, layer.frozen, layer.buffers)]
            rows.append((layer.name or "(model)", layer.type, output, *numbers, layer.statistics))
        rows.append(("total", "", "", *(f"{n:,}" for n in (self.trainable, self.frozen, self.buffers)), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = ("<", "<", "<", ">", ">", ">", "<")
        lines = [
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        memory = f"parameters and buffers take {self.bytes:,} bytes"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], memory])

    __repr__ = __str__


def summary(model: Module, input: Tensor | Array | tuple[Tensor | Array, ...]) -> Summary:
    """The modules of a model: types, output shapes, numbers of parameters, and where norms keep their statistics.

    The input is passed through the model once, in eval mode and without recording. Afterwards, also after an error,
    modes, running statistics and other buffers, and the random numbers of manual_seed are as they were. (What a module
    keeps elsewhere, say a generator of its own, is not restored; hooks that you have registered are called.)

    Returns a Summary. Nothing is printed: ``print(nn.summary(model, x))`` does; a prompt and a notebook show it.

    model: a Module. input: a Tensor or an array; a tuple of them for a model that takes several.
    Errors: TypeError for another model or input; whatever the model itself raises for this input.
    Source: the idea is torchinfo's.

    >>> net = nn.Sequential(nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))
    >>> table = nn.summary(net, np.zeros((32, 64), np.float32))
    >>> table.trainable, table.buffers
    (7710, 201)
    >>> table.layers[2].statistics
    'running_mean (100,), running_var (100,), 0 batches tracked'
    """
    check_model(model)
    arguments = as_arguments(input)
    calls: dict[int, list[Any]] = {}  # by id: a module may compare as it likes

    def hook(module: Module, inputs: Any, output: Any) -> None:
        calls.setdefault(id(module), []).append(_shapes(output))

    with undisturbed(model, hook):
        model.eval()
        model(*arguments)
    layers, seen, size = [], set(), 0
    for name, module in model.named_modules():
        numbers = {True: 0, False: 0}
        for p in vars(module).values():
            if isinstance(p, Parameter) and id(p) not in seen:
                seen.add(id(p))
                numbers[p.requires_grad] += p.size
                size += p.data.nbytes
        buffers = [getattr(module, b) for b in module._buffers if getattr(module, b) is not None]
        size += sum(b.nbytes for b in buffers)
        of_module = calls.get(id(module), [])
        layers.append(
            Layer(
                name,
                type(module).__name__,
                len(of_module),
                of_module[-1] if of_module else None,
                numbers[True],
                numbers[False],
                sum(b.size for b in buffers),
                _statistics(module),
            )
        )
    return Summary(layers, size)


def _statistics(module: Module) -> str:
    if isinstance(module, _Running) and module._uses_running():
        names = [name for name in module._buffers if name != "num_batches_tracked"]
        kept = ", ".join(f"{name} {getattr(module, name).shape}" for name in names)
        seen = 0 if module.num_batches_tracked is None else int(module.num_batches_tracked)
        return f"{kept}, {seen} batches tracked"
    if isinstance(module, _Norm):
        return f"none kept: those of each {'batch' if isinstance(module, _BatchNorm) else 'sample'}"
    return ""


def _shapes(output: Any) -> Any:
    if isinstance(output, (tuple, list)):
        return [_shapes(o) for o in output]
    return output.shape if isinstance(output, (Tensor, np.ndarray)) else type(output).__name__


def _text(output: Any) -> str:
    return ", ".join(map(_text, output)) if isinstance(output, list) else str(output)
