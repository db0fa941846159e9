"""Matrix products, and the threads of NumPy's BLAS.

OpenBLAS, which computes NumPy's products, splits also small ones among threads of its own, and these wait for each
other in a loop. Where another process needs a processor as well, a product of 20 microseconds can then take 20
milliseconds. So OpenBLAS is told to use one thread while this package multiplies, and afterwards what it used before.
Large products are split here: by their shape alone, so that the bits are the same on any number of threads, and among
threads that don't wait for each other (threads.py).

The same goes for what else here is BLAS's or LAPACK's work: norms of gradients, the eigenvectors of whitening, its QR
and SVD. Their bits, and those of large products, would otherwise depend on OpenBLAS's number of threads.

Another BLAS is left as it is. Its number of threads may then show in the last bits; the switch is its own variable, to
be set before NumPy is imported: MKL_NUM_THREADS=1, VECLIB_MAXIMUM_THREADS=1 (Accelerate), BLIS_NUM_THREADS=1. On every
BLAS, bits depend on the kind of processor, for which it has kernels of its own. NumPy calls of your own are your own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .threads import for_each

PIECE = 1 << 23  # multiplications in a piece of a large product: about 0.1 ms


def _libraries() -> Iterator[str]:
    """The OpenBLAS libraries of this process: what NumPy's wheel brings, then what Linux says is loaded."""
    package = Path(str(np.__file__)).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        yield from (str(file) for file in folder.glob("*openblas*"))
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        yield from dict.fromkeys(line.split()[-1] for line in maps if "openblas" in line)


def _switch() -> tuple[Any, Any] | None:
    """OpenBLAS's functions that get and set its number of threads, under the name that NumPy's build has for them."""
    for file in _libraries():
        with suppress(OSError):
            library = ctypes.CDLL(file)
            for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
                if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


class _OneThread(ContextDecorator):
    """Inside ``with one_thread:``, or a function under ``@one_thread``, OpenBLAS uses one thread.

    The first Python thread that enters says so, the last that leaves takes it back.
    """

    def __init__(self) -> None:
        self.switch = _switch()
        self.lock, self.before = threading.Lock(), 1
        self.inside: list[int] = []  # the Python threads that are, as often as they are

    def after_fork(self) -> None:
        """In the child only the thread that forked goes on: whoever else was inside, or had the lock, is gone."""
        self.lock = threading.Lock()
        others, self.inside = self.inside, [thread for thread in self.inside if thread == threading.get_ident()]
        if others and not self.inside and self.switch is not None:
            self.switch[1](self.before)

    def __enter__(self) -> None:
        if self.switch is None:
            return
        get, set_ = self.switch
        with self.lock:
            if not self.inside:
                self.before = get()
                if self.before != 1:
                    set_(1)
            self.inside.append(threading.get_ident())

    def __exit__(self, *error: Any) -> None:
        if self.switch is None:
            return
        with self.lock:
            self.inside.remove(threading.get_ident())
            if not self.inside and self.before != 1:
                self.switch[1](self.before)


one_thread = _OneThread()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.after_fork)


def product(a: Any, b: Any) -> Any:
    """a @ b. Two large matrices: in pieces, on several threads."""
    if a.ndim != 2 or b.ndim != 2 or a.size * b.shape[1] < 2 * PIECE or not type(a) is type(b) is np.ndarray:
        return a @ b
    (m, k), n = a.shape, b.shape[1]
    columns = max(m, n) // 16  # or rows, 16 at a time: BLAS's own blocks are multiples of that
    pieces = min(m * k * n // PIECE, columns)
    if pieces < 2 or k != len(b) or a.dtype != b.dtype:  # what does not fit is NumPy's to say
        return a @ b
    y = np.empty((m, n), a.dtype)
    edges = [16 * (columns * i // pieces) for i in range(pieces)] + [max(m, n)]
    cuts = [slice(*edge) for edge in itertools.pairwise(edges)]
    if n >= m:
        for_each(lambda cut: np.matmul(a, b[:, cut], out=y[:, cut]), cuts)
    else:
        for_each(lambda cut: np.matmul(a[cut], b, out=y[cut]), cuts)
    return y
