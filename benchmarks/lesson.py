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
from tinygrad_bn.runtime.jit import AS_WRITTEN, FLAGS

EPS = 1e-5
BLOCK = 512  # elements of a run that are summed in float32
ROWS = 64  # rows of a table, the same for each column


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
    """Tempting: the last loop in float32. It saves little, and is wrong where the mean is large."""
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


@numba.njit(**{**AS_WRITTEN, "forceinline": True})
def minus(a: Any, b: Any) -> Any:
    """a - b, in a loop that may be reordered: sum(x - c) must not become sum(x) - sum(c)."""
    return a - b


def sums_in_blocks(x: Any, y: Any) -> None:
    """All loops in float32: sums of some rows each, the squares about a center, and the mean in two parts."""
    N, C = x.shape
    mean, var = np.zeros(C), np.zeros(C)
    center, first, second = np.zeros(C, x.dtype), np.zeros(C, x.dtype), np.zeros(C, x.dtype)
    some = min(N, ROWS)
    for n in range(some):  # the mean of the first rows: any center near the mean will do
        row = x[n]
        for c in range(C):
            center[c] += row[c]
    for c in range(C):
        center[c] /= some
    for i in range(0, N, ROWS):
        first[:] = 0
        second[:] = 0
        for n in range(i, min(i + ROWS, N)):
            row = x[n]
            for c in range(C):
                d = minus(row[c], center[c])
                first[c] += d
                second[c] += d * d
        for c in range(C):
            mean[c] += first[c]
            var[c] += second[c]
    high, shift, scale = center, first, second  # other names for arrays that are free now
    for c in range(C):
        off = mean[c] / N  # how far the mean is from the center
        rstd = 1 / np.sqrt(max(var[c] / N - off * off, 0.0) + EPS)
        exact = center[c] + off
        high[c] = exact
        low = exact - high[c]
        scale[c], shift[c] = rstd, -low * rstd
    for n in range(N):
        row, out = x[n], y[n]
        for c in range(C):
            out[c] = minus(row[c], high[c]) * scale[c] + shift[c]


def row_sum(x: Any) -> Any:
    """The other direction: one sum along a row. Its additions wait for each other, unless they may be reordered."""
    total = np.float64(0)
    for i in range(x.size):
        total += x[i]
    return total


def float32_sum(x: Any) -> Any:
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


def blocks_by_offset(x: Any) -> Any:
    """float32 within a block, float64 over the blocks. Slow: j might be negative, for all that the compiler knows."""
    total = np.float64(0)
    for i in range(0, x.size, BLOCK):
        s = x.dtype.type(0)
        for j in range(i, min(i + BLOCK, x.size)):
            s += x[j]
        total += s
    return total


def blocks_by_slice(x: Any) -> Any:
    """The same, from a slice's first element on."""
    total = np.float64(0)
    for i in range(0, x.size, BLOCK):
        block, s = x[i : i + BLOCK], x.dtype.type(0)
        for j in range(block.size):
            s += block[j]
        total += s
    return total


@numba.njit(**{**AS_WRITTEN, "forceinline": True})
def twice(row: Any, out: Any) -> None:
    for c in range(row.size):
        out[c] = 2 * row[c]


def reshaped_inside(x: Any, y: Any) -> None:
    """A reshaped array is an object whose references are counted, in every round."""
    N, C = x.shape
    for n in range(N):
        twice(x[n].reshape(C), y[n].reshape(C))


def reshaped_before(x: Any, y: Any) -> None:
    N, C = x.shape
    rows, out = x.reshape(N, C), y.reshape(N, C)
    for n in range(N):
        twice(rows[n], out[n])


VERSIONS: dict[str, Callable[[Any, Any], None]] = {
    "NumPy": in_numpy,
    "column by column": numba.njit(column_by_column),
    "row by row": numba.njit(row_by_row),
    "rows as views": numba.njit(with_views),
    "the flags of jit.py": numba.njit(**FLAGS)(with_views),
    "last loop in float32": numba.njit(**FLAGS)(in_float32),
    "all loops in float32, with blocks": numba.njit(**FLAGS)(sums_in_blocks),
}
SUMS: dict[str, Callable[[Any], Any]] = {
    "sum along a row": numba.njit(row_sum),
    "sum that may be reordered": numba.njit(**FLAGS)(row_sum),
    "in float32": numba.njit(**FLAGS)(float32_sum),
    "in blocks, by offset": numba.njit(**FLAGS)(blocks_by_offset),
    "in blocks, by slice": numba.njit(**FLAGS)(blocks_by_slice),
}
VIEWS: dict[str, Callable[[Any, Any], None]] = {
    "y = 2 x, rows reshaped in the loop": numba.njit(**FLAGS)(reshaped_inside),
    "before the loop": numba.njit(**FLAGS)(reshaped_before),
}


def contestants_of(versions: dict[str, Callable[[Any, Any], None]], x: Any) -> dict[str, Contestant]:
    """Each with an array of its own for the result."""
    contestants = {}
    for name, version in versions.items():

        def call(version: Any = version, y: Any = np.empty_like(x)) -> Any:  # noqa: B008
            version(x, y)
            return y

        contestants[name] = Contestant(call, lambda call=call: [call()])  # type: ignore[misc]
    return contestants


def measure(shape: tuple[int, int], rounds: int = 15) -> dict[str, float]:
    """Microseconds of each version, side by side, on the same float32 array."""
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    times = time_side_by_side(contestants_of(VERSIONS, x), rounds)
    flat = x.reshape(-1)
    sums = {name: Contestant(lambda f=f: f(flat), lambda f=f: [np.array(f(flat))]) for name, f in SUMS.items()}  # type: ignore[misc]
    times |= time_side_by_side(sums, rounds)
    times |= time_side_by_side(contestants_of(VIEWS, x), rounds)
    plain = x[:2].copy()  # plain Python is slow: a part of the work, scaled
    once = time_side_by_side({"plain Python": Contestant(lambda: column_by_column(plain, np.empty_like(plain)))}, 3)
    times["plain Python"] = once["plain Python"] * len(x) / len(plain)
    return {name: 1e6 * seconds for name, seconds in times.items()}


def errors(shape: tuple[int, int]) -> dict[str, float]:
    """Largest errors where the mean is 10,000 and the standard deviation 1, in roundings of the largest result."""
    x = (10_000 + np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    wide, found = x.astype(np.float64), {}
    exact = (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + EPS)
    for name, version in VERSIONS.items():
        y = np.empty_like(x)
        version(x, y)
        found[name] = 2**24 * float(abs(y - exact).max() / abs(exact).max())
    total = wide.sum()
    return found | {name: 2**24 * float(abs(f(x.reshape(-1)) / total - 1)) for name, f in SUMS.items()}


def main() -> None:
    print(report.machine_line(report.machine()))
    shapes = [(64, 128), (256, 1024), (4096, 1024)]
    columns, off = [measure(shape) for shape in shapes], errors(shapes[-1])
    print("| microseconds, float32 | " + " | ".join(f"{n}x{c}" for n, c in shapes) + " | error |")
    print("| --- |" + " ---: |" * (len(shapes) + 1))
    for name in ["plain Python", *VERSIONS, *SUMS, *VIEWS]:
        cells = [f"{column[name]:,.1f}" for column in columns] + [f"{off[name]:,.1f}" if name in off else ""]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
