"""``python -m tinygrad_bn warmup``: compile all kernels now and keep them on disk; the first run then starts fast."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from . import nn, ops, optim
from .engine.tensors import Tensor
from .nn import functional as F


def kernels() -> dict[str, Any]:
    """Every compiled function of the package that is called from Python, by name."""
    modules = [getattr(ops, name) for name in ops.__all__] + [optim.sgd]
    return {f"{m.__name__}.{k}": v for m in modules for k, v in vars(m).items() if hasattr(v, "signatures")}


def warmup(dtype: Any = np.float32) -> None:
    """Run each op with kernels once, forward and backward, on arrays of this dtype, small and large."""
    rng = np.random.default_rng(0)

    def run(module: Any, *shape: int) -> None:
        x = Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)
        y = module(x)
        y.backward(np.ones(y.shape, dtype))

    rows = [nn.Linear(8, 4), nn.BatchNorm1d(8), nn.LayerNorm(8), nn.RMSNorm(8), nn.ReLU(), nn.Sigmoid(), nn.Tanh()]
    images = [
        nn.BatchNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
    ]
    for module in rows:
        run(module.to(dtype), 4, 8)
    for module in images:
        run(module.to(dtype), 2, 8, 4, 4)
    x = Tensor(rng.standard_normal((2, 1, 4, 4)).astype(dtype), requires_grad=True)
    F.max_pool2d(x, 2).backward(np.ones((2, 1, 2, 2), dtype), create_graph=True)  # the definition has a kernel, too
    for rows_of in (4, 1 << 17):  # large arrays take other kernels, and so does eval mode
        run(nn.BatchNorm1d(8).to(dtype), rows_of, 8)
        run(nn.BatchNorm1d(8).to(dtype).eval(), rows_of, 8)
    run(lambda x: F.batch_norm(x * 1e30, None, None, training=True), 4, 8)  # what float32 cannot square
    run(F.softmax, 4, 8)
    run(lambda x: F.cross_entropy(x, np.zeros(4, np.int64)), 4, 8)
    parameter = nn.Parameter(np.ones(3, dtype))
    parameter.grad = np.ones(3, dtype)
    optim.SGD([parameter], momentum=0.9).step()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tinygrad_bn", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("warmup", help="compile all kernels, for float32 and float64, and keep them on disk")
    parser.parse_args(argv)
    start = time.perf_counter()
    for dtype in (np.float32, np.float64):
        warmup(dtype)
    print(f"{len(kernels())} kernels ready for float32 and float64 after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
