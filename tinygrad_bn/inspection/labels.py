"""What tensors and ops are called where a graph is shown: in drawings and in traces."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.tape import Node
from ..engine.tensors import Tensor
from ..nn.module import Module, Parameter


def names_of(model: Any) -> dict[int, str]:
    """The identity of a leaf, or of the node that made a tensor -> its name.

    model: None, a Module (its parameters' names), or a dict {name: Tensor}.
    """
    if model is None:
        return {}
    if isinstance(model, Module):
        named = [(name, parameter) for name, parameter in model.named_parameters()]
    elif isinstance(model, dict):
        named = list(model.items())
        for name, value in named:
            if not isinstance(name, str) or not isinstance(value, Tensor):
                got = f"{type(name).__name__}: {type(value).__name__}"
                raise TypeError(f"model must be a dict of str: Tensor, got {got}")
    else:
        raise TypeError(f"model must be a Module, a dict of str: Tensor, or None, got {type(model).__name__}")
    names: dict[int, str] = {}
    for name, value in named:
        names.setdefault(id(value._node or value), name)
    return names


def op_name(node: Node) -> str:
    """multiply; the cross_entropy behind F.cross_entropy is called _cross_entropy in its file."""
    name: str = node.op.__name__
    return name.lstrip("_") or name


def leaf_name(leaf: Tensor, names: dict[int, str]) -> str:
    return names.get(id(leaf)) or ("Parameter" if isinstance(leaf, Parameter) else "leaf")


def norm(values: Any) -> float:
    """sqrt(sum of squares) over all elements of an array or Tensor, in float64."""
    array = values.data if isinstance(values, Tensor) else values
    return float(np.linalg.norm(array.astype(np.float64).reshape(-1)))
