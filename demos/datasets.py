"""The demos' data: the rows of a dataset, and disjoint random parts of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLIT = 99  # the stream of the split: not that of the initial weights, which start from the seed alone
Rows = tuple[NDArray[Any], NDArray[Any]]


@cache
def load_dataset(spec: str) -> Rows:
    """x (n, features) and y (n,) of digits, glyphs or npz:FILE; read once per process."""
    from tinygrad_bn import data

    if spec == "digits":
        return data.load_digits()
    if spec == "glyphs":
        return data.glyphs(3000, seed=0)
    if not spec.startswith("npz:"):
        raise ValueError(f"dataset must be digits, glyphs or npz:FILE, got {spec!r}")
    file = Path(spec.removeprefix("npz:")).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    x, y = data.load_npz(file)
    if x.shape[1] == 0 or len(np.unique(y)) < 2:
        raise ValueError(
            f"needs at least one feature and two classes, got x of shape {x.shape}, classes {np.unique(y)}"
        )
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)  # as the nets' parameters
    if not np.isfinite(x).all():
        raise ValueError("x must fit into float32, got values above 3.4e38")
    return x, np.unique(y, return_inverse=True)[1]  # classes 0, 1, ... whatever numbers the file has


def load_parts(spec: str, seed: int, sizes: dict[str, int]) -> dict[str, Rows]:
    """The parts of a dataset that a seed's runs see, the same in every arm; split once per process."""
    return _load_parts(spec, seed, tuple(sizes.items()))


@cache
def _load_parts(spec: str, seed: int, sizes: tuple[tuple[str, int], ...]) -> dict[str, Rows]:
    return split(*load_dataset(spec), dict(sizes), seed)


def count_classes(parts: dict[str, Rows]) -> int:
    """Classes are 0, 1, ... and not all of them need be in every part."""
    return int(max(y.max() for _, y in parts.values())) + 1


def split(x: NDArray[Any], y: NDArray[Any], sizes: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random parts of the rows: {"train": 500, "test": 797} -> {"train": (x, y), "test": (x, y)}."""
    if len(x) != len(y):
        raise ValueError(f"x and y must have as many rows, got {len(x)} and {len(y)}")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"sizes[{name!r}] must be at least 1, got {size}")
    wanted = sum(sizes.values())
    if wanted > len(x):
        parts = " + ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"the dataset has {len(x)} rows, but {parts} = {wanted} are needed")
    cuts = np.cumsum(list(sizes.values()))
    rng = np.random.default_rng([seed, SPLIT])
    parts_of_rows = np.split(rng.permutation(len(x))[:wanted], cuts[:-1])
    return {name: (x[rows], y[rows]) for name, rows in zip(sizes, parts_of_rows, strict=True)}
