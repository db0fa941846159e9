"""How a kernel gets fast: the standardization of columns, x_hat = (x - mean) / sqrt(var + eps), one idea at a time.

    python -m benchmarks.lesson

docs/3-kernels.md goes through these versions; tests hold each against the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from benchmarks import report
from benchmarks.timing import Contestant, time_side_by_side
from tinygrad_bn.runtime.jit import FLAGS

EPS = 1e-5


def in_numpy(x: Any, y: Any) -> None:
    y[...] = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + EPS)


def column_by_column(x: Any, y: Any) -> None:
    """The formula, a column at a time: each step of the inner loops is a whole row further on in memory."""
    N, C = x.shape
    for c in range(C):
        mean = 0.0
        for n in range(N):
            mean += x[n, c]
        mean /= N
        var = 0.0
        for n in range(N):
            var += (x[n, c] - mean) ** 2
        rstd = 1 / np.sqrt(var / N + EPS)
        for n in range(N):
            y[n, c] = (x[n, c] - mean) * rstd


def row_by_row(x: Any, y: Any) -> None:
    """The loops exchanged: memory is read in order, and every column has a sum of its own."""
    N, C = x.shape
    mean, rstd = np.zeros(C), np.zeros(C)
    for n in range(N):
        for c in range(C):
            mean[c] += x[n, c]
    for c in range(C):
        mean[c] /= N
    for n in range(N):
        for c in range(C):
            rstd[c] += (x[n, c] - mean[c]) ** 2
    for c in range(C):
        rstd[c] = 1 / np.sqrt(rstd[c] / N + EPS)
    for n in range(N):
        for c in range(C):
            y[n, c] = (x[n, c] - mean[c]) * rstd[c]


def with_views(x: Any, y: Any) -> None:
    """The row is taken as a view first: the compiler then knows that its elements are neighbours."""
    N, C = x.shape
    mean, rstd = np.zeros(C), np.zeros(C)
    for n in range(N):
        row = x[n]
        for c in range(C):
            mean[c] += row[c]
    for c in range(C):
        mean[c] /= N
    for n in range(N):
        row = x[n]
        for c in range(C):
            d = row[c] - mean[c]
            rstd[c] += d * d
    for c in range(C):
        rstd[c] = 1 / np.sqrt(rstd[c] / N + EPS)
    for n in range(N):
        row, out = x[n], y[n]
        for c in range(C):
            out[c] = (row[c] - mean[c]) * rstd[c]


def in_float32(x: Any, y: Any) -> None:
    """Tempting: the last loop in float32. Fast, and wrong where the mean is large."""
    N, C = x.shape
    mean, var = np.zeros(C), np.zeros(C)
    for n in range(N):
        row = x[n]
        for c in range(C):
            mean[c] += row[c]
    for c in range(C):
        mean[c] /= N
    for n in range(N):
        row = x[n]
        for c in range(C):
            d = row[c] - mean[c]
            var[c] += d * d
    center, scale = np.empty(C, x.dtype), np.empty(C, x.dtype)
    for c in range(C):
        center[c], scale[c] = mean[c], 1 / np.sqrt(var[c] / N + EPS)
    for n in range(N):
        row, out = x[n], y[n]
        for c in range(C):
            out[c] = (row[c] - center[c]) * scale[c]


def row_sum(x: Any) -> Any:
    """The other direction: one sum along a row. Its additions wait for each other, unless they may be reordered."""
    total = np.float64(0)
    for i in range(x.size):
        total += x[i]
    return total


VERSIONS: dict[str, Callable[[Any, Any], None]] = {
    "NumPy": in_numpy,
    "column by column": numba.njit(column_by_column),
    "row by row": numba.njit(row_by_row),
    "rows as views": numba.njit(with_views),
    "the flags of jit.py": numba.njit(**FLAGS)(with_views),
    "elements in float32": numba.njit(**FLAGS)(in_float32),
}
SUMS: dict[str, Callable[[Any], Any]] = {
    "sum along a row": numba.njit(row_sum),
    "sum that may be reordered": numba.njit(fastmath={"reassoc", "nsz"})(row_sum),
}


def measure(shape: tuple[int, int], rounds: int = 15) -> dict[str, float]:
    """Microseconds of each version, side by side, on the same float32 array."""
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    contestants = {}
    for name, version in VERSIONS.items():
        y = np.empty_like(x)

        def call(version: Any = version, y: Any = y) -> Any:
            version(x, y)
            return y

        contestants[name] = Contestant(call, lambda call=call: [call()])  # type: ignore[misc]
    times = time_side_by_side(contestants, rounds)
    flat = x.reshape(-1)
    sums = {name: Contestant(lambda f=f: f(flat), lambda f=f: [np.array(f(flat))]) for name, f in SUMS.items()}  # type: ignore[misc]
    times |= time_side_by_side(sums, rounds)
    plain = x[:2].copy()  # plain Python is slow: a part of the work, scaled
    once = time_side_by_side({"plain Python": Contestant(lambda: column_by_column(plain, np.empty_like(plain)))}, 3)
    times["plain Python"] = once["plain Python"] * len(x) / len(plain)
    return {name: 1e6 * seconds for name, seconds in times.items()}


def main() -> None:
    print(report.machine_line(report.machine()))
    shapes = [(64, 128), (256, 1024), (4096, 1024)]
    columns = [measure(shape) for shape in shapes]
    print("| microseconds, float32 | " + " | ".join(f"{n}x{c}" for n, c in shapes) + " |")
    print("| --- |" + " ---: |" * len(shapes))
    for name in ["plain Python", *VERSIONS, *SUMS]:
        print(f"| {name} | " + " | ".join(f"{column[name]:,.1f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
