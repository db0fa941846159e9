"""What becomes of the memory of freed arrays.

A training step allocates and frees the same few arrays again and again. glibc, the C library of most Linux systems,
gives each freed array of more than 128 kB (at first) back to the system at once, and asks for fresh memory the next
time, which the system hands out page by page, filled with zeros. For arrays of some MB that costs more than computing
them. So glibc is told, once, when the package is imported, to keep arrays of up to 32 MB in its heap, and to give the
heap's end back only when 128 MB of it are free; memory below something that is still in use stays with the process.
This holds for the whole process; the environment variable TINYGRAD_BN_KEEP_MEMORY=0 leaves glibc as it is. Elsewhere
nothing is done.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAPPED_FROM = 32 << 20  # bytes; larger arrays still come from, and go to, the system (glibc allows no higher value)
KEPT = 128 << 20


def keep_freed_memory() -> bool:
    """Set glibc's thresholds; whether that worked."""
    if os.environ.get("TINYGRAD_BN_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
