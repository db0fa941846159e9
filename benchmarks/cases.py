"""What is timed: norms, activations, training steps, the engine, and cost against size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import Library, Work, all_threads, array, enter, ours, pytorch, replayed
from benchmarks.report import Row
from benchmarks.timing import Contestant, geometric_mean, slope, time_side_by_side


@dataclass(frozen=True)
class Settings:
    peers: tuple[str, ...] = ()  # of peers.PACKAGES
    compiled: bool = True  # torch.compile takes part
    quick: bool = False

    def time(self, contestants: dict[str, Contestant]) -> dict[str, float]:
        """Median microseconds per call."""
        rounds, batch = (3, 0.002) if self.quick else (21, 0.005)
        return {name: 1e6 * s for name, s in time_side_by_side(contestants, rounds, batch).items()}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


# Forward and backward. Norms have weight and bias, and keep no running statistics.

TABLES: list[tuple[int, ...]] = [(64, 128), (256, 1024), (4096, 1024)]
IMAGES: list[tuple[int, ...]] = [(32, 16, 14, 14), (64, 64, 28, 28)]


NORMS = {"BN": TABLES + IMAGES, "LN": TABLES, "GN(8)": IMAGES, "IN": IMAGES}


def norm_layer(name: str, shape: tuple[int, ...]) -> tuple:
    if name == "BN":
        return (f"BatchNorm{max(1, len(shape) - 2)}d", shape[1], 1e-5, 0.1, True, False)
    others = {"LN": ("LayerNorm", shape[1]), "GN(8)": ("GroupNorm", 8, shape[1])}
    return others.get(name, ("InstanceNorm2d", shape[1], 1e-5, 0.1, True))


def norms(settings: Settings) -> Iterator[Row]:
    """The limit is 2.5 copies: x, x and dy are read, y and dx are written, and nothing else."""
    ratios: dict[str, list[float]] = {}
    for name, shapes in NORMS.items():
        for shape in shapes:
            x = normal(*shape)
            contestants, note = enter(Work([norm_layer(name, shape)], x), settings.peers, settings.compiled)
            contestants["copy"] = Contestant(partial(np.copyto, np.empty_like(x), x))
            values = settings.time(contestants)
            limit = 2.5 * values.pop("copy")
            yield (row := Row("norms", f"{name} {name_of(shape)}", "us", values, limit, note))
            peers = [peer for peer in values if not peer.startswith(("ours", "replay"))]
            for what in ("PyTorch", "replay: best peer", *peers, *(f"replay: {peer}" for peer in peers)):
                if (ratio := row.measure(what)) is not None:
                    ratios.setdefault(what, []).append(ratio)
    means = {what: geometric_mean(values) for what, values in ratios.items()}
    eager = [f"{what} {mean:.3g}" for what, mean in means.items() if not what.startswith("replay")]
    within = [f"{what.split(': ')[1]} {mean:.3g}" for what, mean in means.items() if what.startswith("replay")]
    if "PyTorch" in means:
        note = "ours / each: " + ", ".join(eager)
        yield Row("norms", "geometric mean, eager / PyTorch", "ratio", {"ours": means["PyTorch"]}, note=note)
    if "replay: best peer" in means:
        note = "replay / each: " + ", ".join(within)
        yield Row("norms", "geometric mean, replay / best", "ratio", {"replay": means["replay: best peer"]}, note=note)


def kernels(settings: Settings) -> Iterator[Row]:
    """The kernels of norms by themselves, forward and backward, into arrays that exist. The limit: 2.5 copies."""
    from tinygrad_bn.ops import norm_kernels as nk

    for name, shapes in NORMS.items():
        for shape in (s for s in shapes if math.prod(s) < 1 << 20):
            x, dy, y = normal(*shape), normal(*shape)[::-1].copy(), normal(*shape)
            (N, C), L = shape[:2], math.prod(shape[2:])
            G = {"LN": 1, "GN(8)": 8}.get(name, C)
            rows, weight = (N, G, C // G, L), np.ones((G, C // G), x.dtype)
            stats, sums = np.empty((3, N, G)), np.empty((2, G, C // G))
            of_channels, edges = np.empty((3, 1, C)), np.array([0, N])

            def channels(x: Any, dy: Any, y: Any, w: Any, edges: Any = edges, stats: Any = of_channels) -> None:
                nk.channel_forward(x, edges, w, w, 1e-5, True, stats, y)
                nk.channel_backward(x, dy, edges, w, True, stats, np.empty_like(w), np.empty_like(w), y)

            def by_rows(x: Any, dy: Any, y: Any, w: Any, N: int = N, stats: Any = stats, sums: Any = sums) -> None:
                nk.row_forward(x, w, w, 1e-5, True, 0, N, stats, y)
                nk.row_backward(x, dy, w, True, 0, N, stats, y, sums)

            if name == "BN":
                call = partial(channels, *(a.reshape(N, C, L) for a in (x, dy, y)), weight.reshape(C))
            else:
                call = partial(by_rows, *(a.reshape(rows) for a in (x, dy, y)), weight)
            values = settings.time({"ours": Contestant(call), "copy": Contestant(partial(np.copyto, y, x))})
            yield Row("kernels", f"{name} {name_of(shape)}", "us", values, 2.5 * values.pop("copy"))


def activations(settings: Settings) -> Iterator[Row]:
    for kind in ("Sigmoid", "Tanh", "ReLU"):
        for shape in TABLES:
            contestants, note = enter(Work([(kind,)], normal(*shape)), settings.peers, settings.compiled)
            yield Row("activations", f"{kind} {name_of(shape)}", "us", settings.time(contestants), note=note)


# Layers of images, on one thread each: (name, layer, input)

LAYERS: list[tuple[str, tuple, tuple[int, ...]]] = [
    *(
        (f"conv {i}-{o}", ("Conv2d", i, o, 3, 1, 1), (n, i, side, side))
        for n, i, o, side in (
            (32, 1, 16, 8),
            (32, 16, 32, 4),
            (64, 1, 16, 28),
            (64, 16, 32, 14),
            (32, 3, 16, 32),
            (32, 16, 32, 16),
        )
    ),
    ("depthwise 32", ("Conv2d", 32, 32, 3, 1, 1, 1, 32), (32, 32, 16, 16)),
    *(
        (f"max pooling {c}", ("MaxPool2d", 2), (n, c, side, side))
        for n, c, side in ((32, 16, 8), (64, 16, 28), (64, 32, 14))
    ),
    ("average pooling 16", ("AvgPool2d", 2), (64, 16, 28, 28)),
]


def images(settings: Settings) -> Iterator[Row]:
    for name, spec, shape in LAYERS:
        library, x = ours(), normal(*shape)
        y = getattr(library.nn, spec[0])(*spec[1:])(library.tensor(x))
        work = Work([spec], x, dy=normal(*y.shape))
        contestants = {"ours (1)": work.eager(ours(1))}
        if "torch" in settings.peers:
            contestants["PyTorch (1)"] = work.eager(pytorch(1))
        yield Row("images", f"{name} {name_of(shape)}", "us", settings.time(contestants))


# Training steps


def mlp(batch: int, features: int, hidden: int, norm: bool) -> Work:
    """Three hidden layers, ten classes."""
    spec: list[tuple] = []
    for inputs in (features, hidden, hidden):
        spec += [("Linear", inputs, hidden), *([("BatchNorm1d", hidden)] if norm else []), ("ReLU",)]
    return Work([*spec, ("Linear", hidden, 10)], normal(batch, features), np.arange(batch) % 10)


def cnn(batch: int, channels: int, side: int, norm: bool) -> Work:
    """Two convolutions of 3x3, each followed by a pooling."""
    spec: list[tuple] = []
    for inputs, outputs in ((channels, 16), (16, 32)):
        spec += [("Conv2d", inputs, outputs, 3, 1, 1), *([("BatchNorm2d", outputs)] if norm else [])]
        spec += [("ReLU",), ("MaxPool2d", 2)]
    spec += [("Flatten",), ("Linear", 32 * (side // 4) ** 2, 10)]
    return Work(spec, normal(batch, channels, side, side), np.arange(batch) % 10)


NETS: dict[str, tuple[Callable[..., Work], list[tuple[int, int, int]]]] = {
    "mlp": (mlp, [(60, 64, 100), (60, 784, 100), (128, 784, 512)]),
    "cnn": (cnn, [(32, 1, 8), (64, 1, 28), (32, 3, 32)]),
}


def matrix_products(work: Work) -> Contestant:
    """Y = X W^T, dW = dY^T X and, but for the first, dX = dY W of every linear layer, into arrays that exist."""
    products: list[tuple] = []
    for inputs, outputs in [sizes for kind, *sizes in work.spec if kind == "Linear"]:
        x, w, dy = normal(len(work.x), inputs), normal(outputs, inputs), normal(len(work.x), outputs)
        first = not products
        products += [(x, w.T, np.empty_like(dy)), (dy.T, x, np.empty_like(w))]
        products += [] if first else [(dy, w, np.empty_like(x))]

    def call() -> None:
        for a, b, out in products:
            np.matmul(a, b, out=out)

    return Contestant(call)


def training_steps(section: str, settings: Settings) -> Iterator[Row]:
    """The limit of an MLP: its matrix products alone, in NumPy."""
    build, sizes = NETS[section]
    for size in sizes:
        for norm in (False, True):
            case = name_of(size if section == "mlp" else (*size, size[-1])) + (" BN" if norm else "")
            work = build(*size, norm)
            contestants, note = enter(work, settings.peers, settings.compiled)
            if section == "mlp":
                contestants["products"] = matrix_products(work)
            values = settings.time(contestants)
            yield Row(section, case, "us", values, values.pop("products", None), note)


# The engine: 1,000 ops on one element

PAIRS = 500


def chain(library: Library, arrays: list[np.ndarray]) -> Contestant:
    leaves = [library.tensor(a) for a in arrays]
    for t in leaves:
        t.requires_grad = True

    def pairs(y: Any, a: Any, b: Any) -> Any:
        for _ in range(PAIRS):
            y = y * a + b
        return y

    result_of = library.compile(pairs)

    def call() -> list[np.ndarray]:
        for t in leaves:
            t.grad = None
        y = result_of(*leaves)
        y.backward()
        return [array(y), *(array(t.grad) for t in leaves)]

    return Contestant(call, call, library.prepare)


def bare_chain(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """The same in NumPy: what is left if the engine costs nothing."""
    seen, dy, da, db = [], np.ones_like(x), np.zeros_like(a), np.zeros_like(b)
    for _ in range(PAIRS):
        seen.append(x)
        x = x * a + b
    for before in reversed(seen):
        da, db, dy = da + dy * before, db + dy, dy * a
    return [x, dy, da, db]


def overhead(settings: Settings) -> Iterator[Row]:
    arrays = [np.array([v], np.float32) for v in (1, 0.999, 0.001)]
    contestants = {"ours": chain(ours(), arrays), "replay": chain(replayed(all_threads()), arrays)}
    if "torch" in settings.peers:
        contestants["PyTorch (1)"] = chain(pytorch(1), arrays)
    contestants["NumPy"] = Contestant(bare := partial(bare_chain, *arrays), bare)
    per_op = {name: t / (2 * PAIRS) for name, t in settings.time(contestants).items()}
    bare_time = per_op.pop("NumPy")
    note = f"y a + b, {PAIRS} times, all three with gradients; NumPy's {bare_time:.2f} us per op are taken off"
    yield Row("overhead", "engine, per op", "us", {name: t - bare_time for name, t in per_op.items()}, note=note)


# The gradient check, with its defaults; float64


def checks(settings: Settings) -> Iterator[Row]:
    import tinygrad_bn as tb

    def tanh(library: Library, x: Any) -> Any:
        return library.F.tanh(x)

    def batch_norm(library: Library, x: Any) -> Any:
        return library.F.batch_norm(x, None, None, training=True)

    rows: tuple[tuple[str, Any, Any, tuple[int, ...]], ...] = (
        ("gradcheck", "tanh", tanh, (1000,)),
        ("gradcheck", "batch norm", batch_norm, (20, 10)),
        ("gradgradcheck", "tanh", tanh, (100,)),
    )
    for check, name, op, shape in rows:
        x = np.random.default_rng(0).standard_normal(shape)

        def contestant(module: Any, library: Library, leaf: Any) -> Contestant:
            run = partial(getattr(module, check), partial(op, library), (leaf,))  # noqa: B023 (called at once)
            return Contestant(run, lambda: [np.array(run())], library.prepare)

        contestants = {"ours": contestant(tb, ours(), tb.tensor(x, requires_grad=True))}
        if "torch" in settings.peers:
            import torch

            leaf = torch.from_numpy(x).requires_grad_()
            contestants["PyTorch (1)"] = contestant(torch.autograd, pytorch(1), leaf)
        times = {who: t / 1000 for who, t in settings.time(contestants).items()}
        yield Row("gradcheck", f"{check}, {name} {name_of(shape)}", "ms", times)


# Cost against size, through the public API; the rows grow in number, not in length


def layer(n: int, spec: tuple, *row: int) -> Contestant:
    return Work([spec], normal(n // int(np.prod(row)), *row)).eager(ours())


def cross_entropy(n: int) -> Contestant:
    library, y = ours(), np.arange(n // 16) % 16
    x = library.tensor(normal(n // 16, 16)).requires_grad_()

    def call() -> None:
        x.grad = None
        library.F.cross_entropy(x, y).backward()

    return Contestant(call)


def sgd(n: int) -> Contestant:
    p = ours().nn.Parameter(normal(n))
    p.grad = normal(n)
    return Contestant(ours().optim.SGD([p], lr=1e-6, momentum=0.9).step)


FAMILIES: dict[str, Callable[[int], Contestant]] = {
    "BN": lambda n: layer(n, norm_layer("BN", (1, 256)), 256),
    "LN": lambda n: layer(n, ("LayerNorm", 256), 256),
    "GN(8)": lambda n: layer(n, ("GroupNorm", 8, 32), 32, 8, 8),
    "ReLU": lambda n: layer(n, ("ReLU",), 256),
    "Sigmoid": lambda n: layer(n, ("Sigmoid",), 256),
    "cross entropy": cross_entropy,
    "SGD": sgd,
}


def scaling(settings: Settings) -> Iterator[Row]:
    """In one thread, where a kernel's cost shows; the note has the slope with the threads that come in from 2^20 on."""
    from tinygrad_bn import set_num_threads

    sizes = [2**k for k in range(14, 21 if settings.quick else 25, 2)]
    threads = all_threads()
    for family, build in FAMILIES.items():
        contestants = {f"2^{n.bit_length() - 1}": build(n) for n in sizes}
        for contestant in contestants.values():
            contestant.result = None  # other sizes have other results
        slopes, note = [], ""
        try:
            for n in (1, threads):
                set_num_threads(n)
                times = settings.time(contestants)
                slopes.append(slope(sizes, times.values()))
                note = note or ", ".join(f"{size}: {t:,.0f} us" for size, t in times.items())
        finally:
            set_num_threads(threads)
        note += f"; slope with {threads} threads: {slopes[1]:.3g}"
        yield Row("scaling", family, "slope", {"ours": slopes[0]}, note=note)
