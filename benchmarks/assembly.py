"""Which loops of a kernel are vectorized, and how wide: read from the machine code.

    python -m benchmarks.assembly                      all kernels
    python -m benchmarks.assembly row_forward relu     those whose name contains one of these
    python -m benchmarks.assembly --double             for float64 instead of float32

A line per loop of the source: how many numbers one instruction works on, the function, and the line that computes most.
1 is a loop that takes one number at a time. The compiler makes several loops of one, for elements that are left over,
too, and where a function is part of several others: the widest counts, and "partly" says that a copy of it has narrow
loops alone. "gathers": wide, but elements are fetched one by one. A star: it must be vectorized (MUST); exit status 1
where one that must be is not. Only for x86; the widths are those of the processor that it runs on.
"""

from __future__ import annotations

import argparse
import ast
import linecache
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# kernel -> functions whose loops over floats must be vectorized there
MUST: dict[str, list[str]] = {
    "channel_forward": ["add_moments", "run_moments", "run_sum", "normalize_columns", "normalize_run"],
    "channel_backward": ["channel_sums", "run_products", "backward_columns", "backward_run", "channel_scale"],
    "row_forward": ["run_sum", "run_moments", "normalize_row", "normalize_run"],
    "row_backward": ["weighted_products", "run_products", "backward_row", "add_products", "backward_run"],
    "max_forward": ["largest_of_pairs"],
    "max_backward": ["gradient_of_pairs"],
    "scatter_patches": ["scatter_patches"],
    "direct_forward": ["direct_forward"],
    "relu_forward": ["relu_forward"],
    "relu_backward": ["relu_backward"],
    "sigmoid_forward_32": ["sigmoid_forward_32"],
    "sigmoid_backward": ["sigmoid_backward"],
    "tanh_backward": ["tanh_backward"],
    "add_bias": ["add_bias"],
    "sum_rows": ["sum_rows"],
    "sgd_of_all": ["sgd_kernel"],
}

COMPUTES = re.compile(
    r"v?(?:add|sub|mul|div|sqrt|max|min|fn?m(?:add|sub)\d*|cvt[a-z]+2?|cmp[a-z]*|rndscale|round)([ps])([sd])\s"
)
BITS = {"x": 128, "y": 256, "z": 512}
Place = tuple[str, int]  # file, line


@dataclass
class Loop:
    """A loop of the source; widths: of each of the loops that the machine code has of it."""

    place: Place
    widths: list[int] = field(default_factory=list)
    gathers: bool = False

    @property
    def width(self) -> int:
        return max(self.widths)

    @property
    def partly(self) -> bool:
        """Whether there are more loops of width 1 than a rest for each wide one, with and without a check."""
        return self.width > 1 and self.widths.count(1) > 2 * sum(width > 1 for width in self.widths)


@cache
def functions(file: str) -> list[tuple[int, int, str, bool]]:
    """First and last line, name, and whether there are loops in it, of each function in a file; inner ones last."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except OSError:
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [
        (node.lineno, node.end_lineno or node.lineno, node.name, any(isinstance(n, ast.For) for n in ast.walk(node)))
        for node in nodes
    ]


def function_at(place: Place) -> tuple[str, bool]:
    """The name of the function around a line, and whether it has loops."""
    around = [(name, loops) for first, last, name, loops in functions(place[0]) if first <= place[1] <= last]
    return around[-1] if around else ("?", False)


def loops_of(assembly: str) -> list[Loop]:
    """The innermost loops of machine code that compute with floats, in the order of the source.

    assembly: text in AT&T syntax with .file and .loc lines.
    """
    named = re.findall(r'^\s*\.file\s+(\d+)\s+(?:"([^"]*)"\s+)?"([^"]*)"', assembly, re.MULTILINE)
    files = {number: os.path.join(folder, name) for number, folder, name in named}
    lines, labels = assembly.splitlines(), {}
    jumps: list[tuple[int, int]] = []  # backwards: from a label to the jump
    places: list[Place] = []
    place: Place = "?", 0
    for i, line in enumerate(lines):
        text = line.strip()
        if match := re.match(r"\.loc\s+(\d+)\s+(\d+)", text):
            place = files.get(match[1], "?"), int(match[2])
        elif match := re.match(r"(\.L\w+):", text):
            labels[match[1]] = i
        elif (match := re.match(r"j\w+\s+(\.L\w+)", text)) and match[1] in labels:
            jumps.append((labels[match[1]], i))
        places.append(place)
    found: dict[Place, Loop] = {}
    for first, last in jumps:
        if any(first <= a and b <= last for a, b in jumps if (a, b) != (first, last)):
            continue  # not an inner one
        widths, where = [], Counter[Place]()
        for i in range(first, last):
            if match := COMPUTES.match(lines[i].strip()):
                bits = max((BITS[r] for r in re.findall(r"%([xyz])mm", lines[i])), default=128)
                widths.append(bits // (32 if match[2] == "s" else 64) if match[1] == "p" else 1)
                where[places[i]] += function_at(places[i])[1]  # a helper without a loop is part of somebody else's
        if widths:
            gathers = any("gather" in text for text in lines[first:last])
            (most, _), *_ = where.most_common(1)
            loop = found.setdefault(most, Loop(most))
            loop.widths.append(max(widths))
            loop.gathers |= gathers
    return sorted(found.values(), key=lambda loop: loop.place)


def compiled(dtype: str) -> Iterator[tuple[str, str]]:
    """(name, machine code with places in the source) of each kernel, after a small step of everything.

    In a process of its own, whose Numba was told so before it was imported.
    """
    from numba.core import compiler, types

    compiler.Flags.dbg_directives_only = True  # lines alone: with all a debugger wants it is another machine code
    from tinygrad_bn.__main__ import kernels, warmup

    warmup(dtype)
    for name, kernel in kernels().items():
        for signature in kernel.signatures:
            arrays = [a for a in signature if isinstance(a, types.Array) and isinstance(a.dtype, types.Float)]
            if not arrays or any(str(a.dtype) == dtype for a in arrays):
                yield name.rpartition(".")[2], kernel.inspect_asm(signature)


def report(names: list[str], dtype: str) -> int:
    """Print the loops; the number of those that must be vectorized and are not."""
    missing, shown = 0, set()
    for name, assembly in compiled(dtype):
        shown.add(name)
        if names and not any(part in name for part in names):
            continue
        loops, must = loops_of(assembly), MUST.get(name, [])
        if loops:
            print(name)
        seen = set()
        for loop in loops:
            function, _ = function_at(loop.place)
            star = "*" if function in must and loop.width > 1 and not loop.gathers else ""
            seen |= {function} if star else set()
            width = f"{loop.width}{star}" + (" partly" if loop.partly else "") + (" gathers" if loop.gathers else "")
            file, line = loop.place
            text = linecache.getline(file, line).strip()
            print(f"  {width:<12}  {function + ':' + str(line):<28}  {text}")
        for function in must:
            if function not in seen:
                print(f"  NOT VECTORIZED: {function}, in {name}")
                missing += 1
    for name in MUST.keys() - shown:
        print(f"NOT COMPILED: {name}")
        missing += dtype == "float32"
    return missing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.assembly", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="part of a kernel's name; default: all")
    parser.add_argument("--double", action="store_true", help="float64 instead of float32")
    args = parser.parse_args(argv)
    if os.environ.get("NUMBA_DEBUGINFO") == "1" and "NUMBA_CACHE_DIR" in os.environ:
        return int(report(args.kernels, "float64" if args.double else "float32") > 0)
    with tempfile.TemporaryDirectory() as folder:  # Numba shows no machine code that came from its cache
        env: dict[str, Any] = {
            **os.environ,
            "NUMBA_DEBUGINFO": "1",
            "NUMBA_CACHE_DIR": folder,
            "PYTHONWARNINGS": "ignore",
        }
        arguments = [*args.kernels, *(["--double"] if args.double else [])]
        return subprocess.run([sys.executable, "-m", "benchmarks.assembly", *arguments], env=env).returncode


if __name__ == "__main__":
    raise SystemExit(main())
