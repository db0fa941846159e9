"""Train a small net with every norm, in float32 and float64; print a SHA-256 of each run as JSON.

    python tests/harness/warm_training.py [--alone channel_sums move ...]

--alone: call these kernels first, each by itself on small arrays of the types that the nets use; "all" is all of them.
What the process compiles and what it reads from Numba's cache is decided by NUMBA_CACHE_DIR, and what lies there.
"""

import argparse
import hashlib
import json

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim
from tinygrad_bn.ops import norm_kernels, norms

SEED = 0
N, FEATURES, C, L = 33, 7, 6, 37  # odd lengths: sums have a tail beside their vectors


class Reshaped(nn.Module):
    """Features (N, C L) as (N, C, L) or as (N, L C), to a norm and back."""

    def __init__(self, norm, *shape):
        super().__init__()
        self.norm, self.shape = norm, shape

    def forward(self, x):
        return self.norm(x.reshape(len(x), *self.shape)).reshape(x.shape)


RENORM = {"warmup": 0, "r_ramp": 1, "d_ramp": 1}
NORMS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(C * L),
    "BatchNorm1d with positions": lambda: Reshaped(nn.BatchNorm1d(C), C, L),
    "BatchNorm2d": lambda: Reshaped(nn.BatchNorm2d(2), 2, 3, L),
    "LayerNorm": lambda: nn.LayerNorm(C * L),
    "GroupNorm": lambda: nn.GroupNorm(2, C * L),
    "GroupNorm with positions": lambda: Reshaped(nn.GroupNorm(2, C), C, L),
    "InstanceNorm": lambda: Reshaped(nn.InstanceNorm1d(C, affine=True, track_running_stats=True), C, L),
    "RMSNorm": lambda: nn.RMSNorm(C * L),
    "GhostBatchNorm": lambda: nn.GhostBatchNorm1d(C * L, 8),
    "GhostBatchNorm with positions": lambda: Reshaped(nn.GhostBatchNorm1d(C, 8), C, L),
    "BatchRenorm": lambda: nn.BatchRenorm1d(C * L, **RENORM),
    "BatchRenorm with positions": lambda: Reshaped(nn.BatchRenorm1d(C, **RENORM), C, L),
    "DecorrelatedBatchNorm": lambda: Reshaped(nn.DecorrelatedBatchNorm1d(C), C, L),
}


def train(norm, dtype, steps=8):
    """The digest of all losses and gradients, and of the parameters and buffers at the end.

    The last steps are in eval mode, where the statistics are constants and the backward is another.
    """
    rng = np.random.default_rng(SEED)
    x, labels = rng.standard_normal((N, FEATURES)).astype(dtype), rng.integers(0, 5, N)
    tb.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(FEATURES, C * L), NORMS[norm](), nn.ReLU(), nn.Linear(C * L, 5))
    if dtype == np.float64:
        net.double()
    sgd, digest = optim.SGD(net.parameters(), lr=0.05, momentum=0.9), hashlib.sha256()
    for step in range(steps):
        net.train(step < steps - 2)
        loss = F.cross_entropy(net(tb.Tensor(x)), labels)
        sgd.zero_grad()
        loss.backward()
        for value in (loss.data, *(p.grad for p in net.parameters())):
            digest.update(value.tobytes())
        sgd.step()
    assert np.isfinite(loss.item())
    for value in net.state_dict().values():
        digest.update(value.tobytes())
    return digest.hexdigest()


def arguments(dtype, l):
    """Of the kernels of norms: name -> arguments that fit, in the types that the ops give them."""
    rng, n, c = np.random.default_rng(SEED), 4, 3

    def given(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def statistics(*shape):  # float64 whatever the dtype
        return rng.uniform(1, 2, shape)

    x, dy, weight, m = given(n, c, l), given(n, c, l), given(c), float(n * l)
    run, mean, rows, row = given(9), statistics(c), given(n, 1, c, l), given(c * l)
    edges, given_each = np.array([0, n]), given(1, c)
    return {
        "ratio": (1.0, 3),
        "minus": (dtype(2), dtype(1)),
        "scaled": (dtype(2), dtype(1), dtype(3)),
        "fold": (0.5, 2.0, 1.0, run),
        "usual": (1.0, 1.0, run),
        "beyond": (1.0, 1.0, run),
        "finite": (x, 1),
        "vanished": (0.0, x, 1),
        "run_sum": (run,),
        "run_moments": (run, dtype(0.5)),
        "run_products": (run, run.copy(), dtype(0.5), dtype(2)),
        "weighted_products": (run, run.copy(), run.copy(), dtype(0.5), dtype(2)),
        "about_mean": (1.0, 2.0, 3),
        "moments": (run,),
        "normalize_run": (run, 0.5, 2.0, 1.0, np.empty_like(run)),
        "backward_run": (run, run.copy(), 0.5, 2.0, 2.0, 0.5, 0.25, np.empty_like(run)),
        "normalize_columns": (weight, given(c), given(c), given(c), given(c)),
        "backward_columns": (weight, *(given(c) for _ in range(7))),
        "add_moments": (weight, given(c), given(c), statistics(c)),
        "channel_centers": (x, given(c)),
        "moments_about": (x[:1], given(c), statistics(c), statistics(c)),
        "merge": (4.0, statistics(c), statistics(c), 4.0, mean, mean),
        "channel_moments": (x, statistics(c), statistics(c)),
        "channel_normalize": (x, weight, given(c), mean, mean, np.empty_like(x)),
        "channel_sums": (x, dy, mean, mean, statistics(c), statistics(c)),
        "channel_dx": (x, dy, weight, m, mean, mean, mean, mean, np.empty_like(x)),
        "channel_scale": (dy, weight, mean, np.empty_like(x)),
        "wide_channel": (x, 1),
        "unusual_channels": (x, True, mean, mean, mean),
        "unusual_forward": (x, edges, weight, given(c), 1e-5, True, 1e-30 * statistics(3, 1, c), np.empty_like(x)),
        "unusual_backward": (
            *(x, dy, edges, weight, True, 1e-30 * statistics(3, 1, c)),
            *(given(c), given(c), np.empty_like(x)),
        ),
        "channel_forward": (x, edges, weight, given(c), 1e-5, True, statistics(3, 1, c), np.empty_like(x)),
        "channel_backward": (
            *(x, dy, edges, weight, True, statistics(3, 1, c)),
            *(given(c), given(c), np.empty_like(x)),
        ),
        "normalize_row": (row, 0.5, 2.0, given(c * l), given(c * l), given(c * l)),
        "backward_row": (row, given(c * l), given(c * l), 0.5, 2.0, 0.5, 0.25, given(c * l)),
        "add_products": (row, given(c * l), 0.5, 2.0, given(c * l), given(c * l)),
        "row_statistics": (row, True),
        "forward_of_row": (row, 0.5, 2.0, weight, given(c), given(c * l)),
        "backward_of_row": (row, row.copy(), given(c * l), True, 0.5, 2.0, given(c * l), given(c * l), given(c * l)),
        "backward_of_runs": (row, row.copy(), weight, True, 0.5, 2.0, given(c * l), statistics(c), statistics(c)),
        "row_forward": (rows, given_each, given(1, c), 1e-5, True, 0, n, statistics(3, n, 1), np.empty_like(rows)),
        "row_backward": (
            *(rows, given(n, 1, c, l), given_each, True, 0, n, statistics(3, n, 1), np.empty_like(rows)),
            statistics(2, 1, c),
        ),
        "move": (given(c), mean, 0.1, 1.0),
        "move_both": (given(c), given(c), mean, mean, 0.1, 1.0),
    }


def call_alone(name):
    kernel = getattr(norms if name.startswith("move") else norm_kernels, name)
    for dtype in (np.float32, np.float64):
        for l in (1, L):
            kernel(*arguments(dtype, l)[name])


KERNELS = list(arguments(np.float64, 1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--alone", nargs="*", default=[], choices=[*KERNELS, "all"])
    alone = parser.parse_args().alone
    for name in KERNELS if "all" in alone else alone:
        call_alone(name)
    print(json.dumps({f"{norm}, {d.__name__}": train(norm, d) for norm in NORMS for d in (np.float32, np.float64)}))


if __name__ == "__main__":
    main()
