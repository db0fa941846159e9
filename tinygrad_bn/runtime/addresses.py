"""Arrays by their addresses: for a kernel that works on many small ones in one call."""

from __future__ import annotations

from typing import Any

import numba
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel, part


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    """An int as a pointer."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return numba.types.voidptr(address), code


@part
def array_at(address, size, like):
    """The array of size elements of like's dtype that lies at this address: for kernels, many of which take one call.

    Whoever calls it has looked at the array's size, dtype and layout, and keeps it alive.
    """
    return carray(_pointer(address), size, like.dtype)  # type: ignore[call-arg]


@kernel
def address(a):
    """Where the elements of an array lie: a fifth of the time of a.ctypes.data outside of a kernel."""
    return a.ctypes.data
