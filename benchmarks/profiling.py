"""Where a training step's time goes: compiled kernels, matrix products, and the rest.

The package is imported with every matrix product of its source (`a @ b`, np.matmul, np.dot) replaced by a timed one,
and its kernels are wrapped where the modules hold them; both are on in every other round only. The plain rounds give
the step's time; what it has beyond kernels and products is Python: the engine, the modules, NumPy's other functions.
All runs in one thread: in several, times would overlap and not add up to the step's.
"""

from __future__ import annotations

import ast
import builtins
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import numpy as np

from benchmarks.timing import Contestant, time_side_by_side

PRODUCTS = ("matmul", "dot")
spent: dict[tuple[str, str], float] = defaultdict(float)  # (kind, name) -> seconds in the current step
calls: Counter[tuple[str, str]] = Counter()
watching = False


def timed(kind: str, name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not watching:
            return function(*args, **kwargs)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        took = time.perf_counter() - start
        key = kind, name(*args)
        spent[key] += took
        calls[key] += 1
        return result

    return call


def shapes(a: Any, b: Any, *rest: Any) -> str:
    return f"{'x'.join(map(str, a.shape))} @ {'x'.join(map(str, b.shape))}"


class TimedProducts(ast.NodeTransformer):
    """a @ b and np.matmul(a, b) become timed_matmul(a, b)."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.MatMult):
            return node
        return ast.Call(ast.Name("timed_matmul", ast.Load()), [node.left, node.right], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        f = node.func
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "np" and f.attr in PRODUCTS:
            node.func = ast.Name(f"timed_{f.attr}", ast.Load())
        return node


class Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:  # from the source, past the cache of bytecode
        tree = TimedProducts().visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = super().find_spec(name, path, target) if name.partition(".")[0] == "tinygrad_bn" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(name, spec.loader.path)
        return spec


def wrap_kernels() -> None:
    """After a first step has compiled them: a wrapper cannot be compiled into another kernel."""
    from numba.core.dispatcher import Dispatcher

    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "tinygrad_bn"]:
        for name, value in list(vars(module).items()):
            if isinstance(value, Dispatcher):
                setattr(module, name, timed("kernel", lambda *args, name=name: name, value))


def profile(net: str, quick: bool = False) -> str:
    """The table of a step of the 128x784x512 MLP or the 64x1x28x28 CNN, with batch norm; "replay": of the small MLP."""
    global watching
    if "tinygrad_bn" in sys.modules:
        raise RuntimeError("the profile must be the first to import tinygrad_bn in its process")
    sys.meta_path.insert(0, Finder)
    for name in PRODUCTS:
        setattr(builtins, f"timed_{name}", timed("product", shapes, getattr(np, name)))

    from benchmarks.cases import cnn, mlp
    from benchmarks.peers import ours, replayed
    from tinygrad_bn import set_num_threads

    set_num_threads(1)

    sizes = {"mlp": (128, 784, 512), "replay": (60, 64, 100)}
    work = mlp(*sizes[net], True) if net in sizes else cnn(64, 1, 28, True)
    step = work.eager(replayed(1) if net == "replay" else ours())
    step.prepare()
    step.call()
    wrap_kernels()
    steps: dict[tuple[str, str], list[float]] = defaultdict(list)
    counts: Counter[tuple[str, str]] = Counter()

    def watched() -> None:
        global watching
        spent.clear()
        calls.clear()
        watching = True
        step.call()
        watching = False
        counts.update(calls)
        for key, seconds in spent.items():
            steps[key].append(seconds)

    plain = Contestant(step.call, prepare=step.prepare)
    times = time_side_by_side(
        {"plain": plain, "watched": Contestant(watched, prepare=step.prepare)}, 5 if quick else 31
    )
    parts = {key: statistics.median(seconds) for key, seconds in steps.items()}
    total = times["plain"]
    lines = [("us", "share", "calls", "")]

    def line(seconds: float, what: str, n: str = "") -> None:
        lines.append((f"{1e6 * seconds:,.1f}", f"{seconds / total:.1%}", n, what))

    for key, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        line(seconds, " ".join(key), f"{counts[key] / len(steps[key]):g}")
    for kind in ("kernel", "product"):
        line(sum(s for key, s in parts.items() if key[0] == kind), f"all {kind}s")
    line(total - sum(parts.values()), "the rest: engine, modules, other NumPy calls")
    line(total, f"a step; {1e6 * (times['watched'] - total):,.1f} us more while watched")
    return "one thread\n" + "\n".join(f"{a:>10}  {b:>6}  {c:>5}  {d}" for a, b, c, d in lines)
