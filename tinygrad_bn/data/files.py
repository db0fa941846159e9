"""Data sets from files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

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
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("holds a single array without a name; np.savez(path, x=x, y=y) writes what is wanted")
        with loaded as file:
            missing = [key for key in ("x", "y") if key not in file]
            if missing:
                raise ValueError(f"must hold the arrays x and y, missing {missing}")
            x, y = file["x"], file["y"]
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, TypeError) as error:
        raise ValueError(f"{path}: not a usable .npz file: {error}") from error
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
