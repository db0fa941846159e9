"""Mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..random import default_generator


class DataLoader:
    """Iterate over rows of one array, or of several alike, in mini-batches; yields tuples of arrays.

    shuffle: every iter() is a new epoch with a fresh permutation. drop_last: leave out a smaller last batch.
    seed: the loader's own random numbers; None draws from the generator of manual_seed. Without shuffle the
    batches are views of the arrays.
    Errors: ValueError for lengths that differ or batch_size < 1, TypeError for what is not an array.
    """

    def __init__(
        self,
        arrays: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        if not isinstance(arrays, (np.ndarray, tuple, list)):
            raise TypeError(f"arrays must be a NumPy array or a tuple of them, got {type(arrays).__name__}")
        arrays = (arrays,) if isinstance(arrays, np.ndarray) else tuple(arrays)
        if not arrays:
            raise ValueError("arrays must hold at least one array, got none")
        for a in arrays:
            if not isinstance(a, np.ndarray):
                raise TypeError(f"arrays must be NumPy arrays, got {type(a).__name__}")
            if a.ndim == 0 or len(a) != len(arrays[0]):
                raise ValueError(f"arrays must have equal first axes, got shapes {[b.shape for b in arrays]}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
            raise TypeError(f"batch_size must be an int, got {type(batch_size).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be a bool, got {type(flag).__name__}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
            raise TypeError(f"seed must be an int or None, got {type(seed).__name__}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        self.arrays, self.batch_size = arrays, int(batch_size)
        self.shuffle, self.drop_last = shuffle, drop_last
        self._generator = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        n = len(self.arrays[0])
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        n = len(self.arrays[0])
        order = (self._generator or default_generator()).permutation(n) if self.shuffle else None
        for b in range(len(self)):
            rows: Any = slice(b * self.batch_size, (b + 1) * self.batch_size)
            if order is not None:
                rows = order[rows]
            yield tuple(a[rows] for a in self.arrays)
