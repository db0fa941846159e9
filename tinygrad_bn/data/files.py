"""Data sets from files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ..checks import Array, check_path


def load_npz(path: str | Path) -> tuple[Array, Array]:
    """(x, y) from an .npz file that holds x of shape (n, features) and integer classes y >= 0 of shape (n,).

    float32 and float64 x keep their dtype, integers become float32; y becomes int64. Arrays in the other order of bytes
    are converted. No pickles are read.
    Errors: FileNotFoundError; ValueError naming the file and what is wrong with it.

    >>> np.savez("data.npz", x=np.zeros((3, 2)), y=np.array([0, 1, 1]))
    >>> x, y = tb.data.load_npz("data.npz")
    >>> x.shape, y
    ((3, 2), array([0, 1, 1]))
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        x, y = _read(path)
    except Exception as error:  # zipfile, its decompressors and NumPy's header parser raise a dozen kinds
        raise ValueError(f"{path}: not a usable .npz file: {str(error) or type(error).__name__}") from error
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"{path}: x must have shape (n, features) and y (n,), got {x.shape} and {y.shape}")
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.kind not in "fiub" or (x.dtype.kind == "f" and x.dtype not in (np.float32, np.float64)):
        raise ValueError(f"{path}: x must be float32, float64 or integers, got {x.dtype}")
    if y.dtype.kind not in "iu" or (y < 0).any():
        raise ValueError(f"{path}: y must hold integers >= 0, got {y.dtype}{' below 0' * (y.dtype.kind == 'i')}")
    if not np.isfinite(x).all():
        raise ValueError(f"{path}: x must be finite, got NaN or infinity")
    return x if x.dtype.kind == "f" else x.astype(np.float32), y.astype(np.int64)


HEADERS: dict[Any, Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def _read(path: Path) -> list[Array]:
    """The arrays x and y, of the size that their headers speak of: memory is taken for what is there."""
    wanted = "np.savez(path, x=x, y=y) writes what is wanted"
    with path.open("rb") as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise ValueError(f"holds a single array without a name; {wanted}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"is no zip archive of arrays; {wanted}")
    arrays = []
    with zipfile.ZipFile(path) as archive:
        missing = [key for key in ("x", "y") if f"{key}.npy" not in archive.namelist()]
        if missing:
            raise ValueError(f"must hold the arrays x and y, missing {missing}")
        for key in ("x", "y"):
            entry = archive.getinfo(f"{key}.npy")
            if entry.flag_bits & 1:
                raise ValueError(f"{key} is encrypted")
            with archive.open(entry) as stream:
                if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
                    raise ValueError(f"{key} is no array")
                shape, _, dtype = HEADERS[tuple(stream.read(2))](stream)
                size = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and stream.tell() + size != entry.file_size:
                    raise ValueError(f"{key} of shape {shape} and dtype {dtype} can't be {entry.file_size} bytes long")
            with archive.open(entry) as stream:
                arrays.append(npy.read_array(stream, allow_pickle=False))
    return arrays
