"""How every kernel of the package is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Sums may be reordered (which vectorizes them) and a*b+c contracted, but NaN and infinity keep their meaning.
# error_model="numpy": x / 0 is inf or NaN, and a loop with a division vectorizes.
FLAGS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
EXACT_ORDER: dict[str, Any] = {**FLAGS, "fastmath": {"contract", "nsz", "arcp"}}


def kernel(function: Callable[..., None]) -> Any:
    """Compile a function of C-contiguous arrays that writes into its output arguments.

    The machine code is cached on disk. Where no folder can be written, it is compiled once per process instead.
    NUMBA_DISABLE_JIT=1 runs the same code as plain Python, for a debugger.
    """
    return _compiled(function, FLAGS)


def elementwise(function: Callable[..., None]) -> Any:
    """The same without leave to reorder sums: for formulas in which a - b - c is not a - (b + c)."""
    return _compiled(function, EXACT_ORDER)


def _compiled(function: Callable[..., None], flags: dict[str, Any]) -> Any:
    try:
        return numba.njit(cache=True, **flags)(function)
    except RuntimeError:  # Numba found no writable cache folder
        return numba.njit(**flags)(function)


def contiguous(a: np.ndarray) -> np.ndarray:
    """C order and writable memory: each other layout would be one more compilation of every kernel."""
    return a if a.flags.c_contiguous and a.flags.writeable else np.array(a, order="C")
