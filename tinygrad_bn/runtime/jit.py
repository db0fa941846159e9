"""How every kernel of the package is compiled, and how its machine code is kept on disk."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

# Sums may be reordered (which vectorizes them) and a*b+c contracted, but NaN and infinity keep their meaning.
# error_model="numpy": x / 0 is inf or NaN, and a loop with a division vectorizes.
FLAGS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
AS_WRITTEN: dict[str, Any] = {**FLAGS, "fastmath": {"contract", "nsz"}}


COMPILED = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]  # else kernels are plain Python


def kernel(function: Callable[..., None]) -> Any:
    """Compile a function of C-contiguous arrays that writes into its output arguments, or returns a number.

    The machine code is cached on disk. Where no folder can be written, it is compiled once per process instead.
    NUMBA_DISABLE_JIT=1 runs the same code as plain Python, for a debugger. What other kernels call is a part.
    """
    return _compiled(function, FLAGS)


def kernel_as_written(function: Callable[..., None]) -> Any:
    """The same without permission to reorder sums, or to turn a / b into a (1 / b): a - b - c is not a - (b + c)."""
    return _compiled(function, AS_WRITTEN)


def part(function: Callable[..., None]) -> Any:
    """A kernel that other kernels call, too: it becomes part of their code.

    Otherwise each of them would bring a copy of its own, compiled beside other code and so with sums in another order,
    and the system's linker would take for all of them the copy that was loaded first: bits that depend on which kernels
    the process has used, and on whether they came from the cache.
    """
    return _compiled(function, {**FLAGS, "forceinline": True})


def part_as_written(function: Callable[..., None]) -> Any:
    """The same without permission to reorder."""
    return _compiled(function, {**AS_WRITTEN, "forceinline": True})


def _compiled(function: Callable[..., None], flags: dict[str, Any]) -> Any:
    dispatcher = numba.njit(**flags)(function)
    if dispatcher is not function:  # which NUMBA_DISABLE_JIT=1 gives back
        with suppress(RuntimeError):  # Numba found no writable cache folder
            dispatcher._cache = _Cache(function, flags)  # what cache=True does, with the cache below
    return dispatcher


class _CacheFile(IndexDataCacheFile):
    """Numba's files (an index per function, a data file per signature), written in an order that survives a kill.

    The data first, under a name that no other process uses; then the index that refers to it. Numba numbers the data
    files from 1 and writes the index first: two processes that start cold may then overwrite each other's code, and a
    kill in between lets the new index refer to the code of an older source.
    """

    def save(self, key: Any, data: Any) -> None:
        name = self._data_name(secrets.randbits(64))
        self._save_data(name, data)
        overloads = {**self._load_index(), key: name}
        self._save_index(overloads)
        for old in Path(self._cache_path).glob(self._index_name.removesuffix("nbi") + "*.nbc"):
            if old.name not in overloads.values():
                old.unlink(missing_ok=True)

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:  # cut off or damaged: pickle raises a dozen kinds of errors
            return {}


class _Cache(FunctionCache):
    """Numba's cache, for which what cannot be read, or written, is not there: the function is compiled again."""

    def __init__(self, function: Any, flags: dict[str, Any]) -> None:
        super().__init__(function)
        stamp = self._cache_file._source_stamp, _content(function.__code__.co_filename), _text(flags)
        self._cache_file = _CacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:
            return None
        return found if found is None or found.signature.args == tuple(sig) else None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # the disk is full or has become read-only
            return


@cache
def _content(file: str) -> str:
    """A hash of the source. Numba before 0.68 looks at the file's time and size alone, and these may come again: after
    the clock was set back, or an archive unpacked over an older one."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:  # a notebook's cell; Numba has its text
        return ""


def _text(flags: dict[str, Any]) -> str:
    """The same in every process: sets have an order of their own in each."""
    return repr(sorted((name, sorted(value) if isinstance(value, set) else value) for name, value in flags.items()))


def contiguous(a: Any) -> Any:
    """C order, writable and aligned: each other layout would be one more compilation of every kernel."""
    return a if a.flags.carray else np.array(a, order="C")
