"""Versions: what is changed in place between an op and its gradient is noticed.

Every tensor counts its in-place changes; views of the same memory share one counter. A node remembers what the counters
of its tensors showed, and a walk compares: an array that the pullback still needs must be as it was.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Array
from . import guards
from .tensors import Tensor

if TYPE_CHECKING:
    from .tape import Node

_HOLD_NO_ARRAYS: tuple[type, ...] = (int, float, str, slice, range, type, np.generic, np.dtype, np.ufunc)
_HOLD_NO_ARRAYS += (types.NoneType, types.EllipsisType, types.BuiltinFunctionType, types.ModuleType)


def check(nodes: Iterable[Node], again: bool = False) -> None:
    """Raise if a graph was freed, or if an array that a pullback keeps was changed in place since.

    again: for create_graph=True the ops are computed once more, from their arguments: then none of these may have
    changed. The last version is the result's, which is then computed anew.
    """
    for node in nodes:
        if node.pullback is None:
            raise guards.freed(node)
        for counter, seen, array in node.versions[:-1] if again else node.versions:
            if counter[0] != seen and (again or keeps(node.pullback, array)):
                raise guards.changed(node, array, counter[0] - seen)


def keeps(pullback: Any, array: Array) -> bool:
    """Whether the pullback can reach this array, or one that shares its memory.

    It is looked for in closures, default and bound arguments, and containers. An object that cannot be looked
    into may hold anything: then the answer is yes.
    """
    stack: list[Any] = [pullback]
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        if isinstance(value, np.ndarray):
            if np.may_share_memory(array, value):
                return True
        elif isinstance(value, _HOLD_NO_ARRAYS) or id(value) in seen:
            continue
        elif isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                with suppress(ValueError):  # the cell of a variable that was never assigned
                    stack.append(cell.cell_contents)
            stack += [value.__defaults__, value.__kwdefaults__]
        elif isinstance(value, functools.partial):
            stack += [value.func, value.args, value.keywords]
        elif isinstance(value, (tuple, list, dict)):
            stack += value.values() if isinstance(value, dict) else value
        elif isinstance(value, Tensor):
            stack.append(value._data)
        else:
            return True
        seen.add(id(value))
    return False
