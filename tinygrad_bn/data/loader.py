"""Mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checks import Array, check_flag, check_int, plain_array
from ..runtime.random import default_generator, generator_from


class DataLoader:
    """Iterate over rows of one array, or of several alike, in mini-batches; yields tuples of arrays.

    arrays: an array or a tuple of them. batch_size: default 1. shuffle: every iter() is a new epoch with a fresh
    permutation (default False). drop_last: leave out a smaller last batch (default False).
    seed: the loader's own random numbers; None (default) draws from the generator of manual_seed. Without shuffle the
    batches are views of the arrays.
    state_dict() says where the epoch stands; a loader built alike and given that state goes on with the next batch.
    Errors: ValueError for lengths that differ or batch_size < 1, TypeError for what is not an array.

    >>> for x, y in tb.data.DataLoader((np.arange(5), 10 * np.arange(5)), batch_size=2):
    ...     print(x, y)
    [0 1] [ 0 10]
    [2 3] [20 30]
    [4] [40]
    """

    def __init__(
        self,
        arrays: Array | tuple[Array, ...],
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
            if type(a) is not np.ndarray:
                plain_array(a, "arrays")
            if a.ndim == 0 or len(a) != len(arrays[0]):
                raise ValueError(f"arrays must have equal first axes, got shapes {[b.shape for b in arrays]}")
        self.arrays, self.batch_size = arrays, check_int("batch_size", batch_size, 1)
        self.shuffle, self.drop_last = check_flag("shuffle", shuffle), check_flag("drop_last", drop_last)
        self._generator = None if seed is None else np.random.default_rng(check_int("seed", seed, 0, None))
        self._running: tuple[Array | None, int] = (None, 0)  # the epoch's permutation, and batches yielded in it
        self._resume = False

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        n = len(self.arrays[0])
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        order, start = self._running if self._resume else (None, 0)
        self._resume = False
        if self.shuffle and order is None:
            order = (self._generator or default_generator()).permutation(len(self.arrays[0]))
        for b in range(start, len(self)):
            rows: Any = slice(b * self.batch_size, (b + 1) * self.batch_size)
            if order is not None:
                rows = order[rows]
            self._running = order, b + 1
            yield tuple(a[rows] for a in self.arrays)
        self._running = None, 0

    def state_dict(self) -> dict[str, Any]:
        """{"order": the running epoch's permutation or None, "position": the number of batches yielded in it,
        "generator": the state of the loader's own random numbers, or None without a seed}

        Between epochs order is None and position 0; an epoch that was left with ``break`` counts as running. Of
        several iterators, the one that yielded last is meant. Without a seed, save get_rng_state() as well.

        >>> loader = tb.data.DataLoader(np.arange(6), batch_size=2)
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> loader.state_dict()
        {'order': None, 'position': 1, 'generator': None}
        """
        order, position = self._running
        generator = None if self._generator is None else self._generator.bit_generator.state
        return {"order": None if order is None else order.copy(), "position": position, "generator": generator}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iter() goes on with the batch after the last one yielded (none, if that was the epoch's last), and
        the epochs after it are those that would have followed. The arrays and settings are to be the same.

        Errors: TypeError, ValueError for a state that does not fit this loader; nothing has changed then.

        >>> loader = tb.data.DataLoader(np.arange(6), batch_size=2)
        >>> loader.load_state_dict({"order": None, "position": 2, "generator": None})
        >>> next(iter(loader))
        (array([4, 5]),)
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        if set(state_dict) != {"order", "position", "generator"}:
            raise ValueError(f"state_dict must have the keys order, position and generator, got {list(state_dict)}")
        order, position, generator = state_dict["order"], state_dict["position"], state_dict["generator"]
        if check_int("position", position, 0) > len(self):
            raise ValueError(f"position must be at most the number of batches, {len(self)}, got {position}")
        if order is not None and not isinstance(order, np.ndarray):
            raise TypeError(f"order must be an array or None, got {type(order).__name__}")
        if (order is not None) != (self.shuffle and position > 0):
            raise ValueError(f"order must be given in a shuffled epoch, and only there, got {order} at {position}")
        rows = np.arange(len(self.arrays[0]))
        if order is not None and (
            order.dtype.kind not in "iu" or order.shape != rows.shape or (np.sort(order) != rows).any()
        ):
            raise ValueError(f"order must be a permutation of range({len(rows)}), got {order}")
        if (generator is None) != (self._generator is None):
            wanted = (
                "None, for this loader has no seed" if self._generator is None else "given, for this loader has a seed"
            )
            raise ValueError(f"generator must be {wanted}, got {generator!r:.40}")
        if generator is not None:
            self._generator = generator_from(generator, "generator")
        self._running = None if order is None else order.copy(), int(position)
        self._resume = True
