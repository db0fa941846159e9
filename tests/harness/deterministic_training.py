"""Train an MLP and a CNN with every norm; sum up each run in a SHA-256 of all parameters, buffers, losses, outputs.

    python tests/harness/deterministic_training.py --steps 3 [--double] [--openblas 4] [--nets "MLP BatchNorm" ...]

prints JSON: the digest of each run; how often work was shared out, by the file of the kernels; how many threads worked.
The arrays are large enough for the paths that use several threads.
"""

import argparse
import hashlib
import itertools
import json
import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, ops, optim
from tinygrad_bn.runtime import blas

SHARING = {
    "blas": blas,
    **{name: getattr(ops, name) for name in ("activation", "norm_kernels", "convolution", "pooling")},
}


class Positions(nn.Module):
    """A norm of (N, C, L) for features (N, C L)."""

    def __init__(self, norm, channels):
        super().__init__()
        self.norm, self.channels = norm, channels

    def forward(self, x):
        return self.norm(x.reshape(len(x), self.channels, -1)).reshape(x.shape)


RENORM = {"warmup": 0, "r_ramp": 1, "d_ramp": 1}
NORMS = {  # name: (for features, for images)
    "BatchNorm": (nn.BatchNorm1d, nn.BatchNorm2d),
    "LayerNorm": (nn.LayerNorm, lambda c: nn.LayerNorm((c, 32, 32))),
    "GroupNorm": (lambda c: nn.GroupNorm(8, c), lambda c: nn.GroupNorm(4, c)),
    "InstanceNorm": (
        lambda c: Positions(nn.InstanceNorm1d(c // 16, affine=True, track_running_stats=True), c // 16),
        lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    ),
    "RMSNorm": (nn.RMSNorm, lambda c: nn.RMSNorm((c, 32, 32))),
    "GhostBatchNorm": (lambda c: nn.GhostBatchNorm1d(c, 2048), lambda c: nn.GhostBatchNorm2d(c, 64)),
    "BatchRenorm": (lambda c: nn.BatchRenorm1d(c, **RENORM), lambda c: nn.BatchRenorm2d(c, **RENORM)),
    "DecorrelatedBatchNorm": (nn.DecorrelatedBatchNorm1d, nn.DecorrelatedBatchNorm2d),
}
NETS = [f"{kind} {norm}" for kind in ("MLP", "CNN") for norm in NORMS]


def build(name):
    kind, norm = name.split()
    if kind == "MLP":
        return nn.Sequential(
            *(nn.Linear(64, 512), NORMS[norm][0](512), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Linear(512, 32), nn.Sigmoid(), nn.Linear(32, 10)),
        )
    return nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1), NORMS[norm][1](16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, groups=16), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 7 * 7, 10)),
    )


def train(name, steps, double=False, offset=0):
    """The digest. offset: where in memory, in elements, the data begin."""
    shape, batch = ((64,), 2148) if name.startswith("MLP") else ((2, 32, 32), 70)
    rng, n = np.random.default_rng(0), 2 * batch
    x = rng.standard_normal((n, *shape)).astype(np.float64 if double else np.float32)
    moved = np.empty(offset + x.size, x.dtype)[offset:].reshape(x.shape)
    moved[...] = x
    tb.manual_seed(0)
    net = build(name)
    if double:
        net.double()
    sgd = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=steps)
    loader = tb.data.DataLoader((moved, rng.integers(0, 10, n)), batch, shuffle=True)
    digest = hashlib.sha256()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for images, labels in itertools.islice(batches, steps):
        loss = F.cross_entropy(net(tb.Tensor(images)), labels)
        sgd.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        sgd.step()
        schedule.step()
        digest.update(loss.data.tobytes())
    assert np.isfinite(loss.item())
    with tb.no_grad():
        digest.update(net.eval()(tb.Tensor(moved[:batch])).data.tobytes())
    for key, value in net.state_dict().items():
        digest.update(key.encode() + value.tobytes())
    return digest.hexdigest()


@contextmanager
def watched(order=None):
    """Counts of what is shared out: {file of the kernels: calls with several chunks}, and the threads that worked.

    order: None, or a generator: then the calling thread does all the chunks, in an order drawn from it.
    """
    calls, workers = Counter(), set()

    def in_place_of(name, for_each):
        def shared(task, chunks):
            chunks = list(chunks)
            calls[name] += len(chunks) > 1
            if order is not None:
                for k in order.permutation(len(chunks)):
                    task(chunks[k])
                return

            def noted(chunk):
                workers.add(threading.get_ident())
                task(chunk)

            for_each(noted, chunks)

        return shared

    before = {name: module.for_each for name, module in SHARING.items()}
    try:
        for name, module in SHARING.items():
            module.for_each = in_place_of(name, before[name])
        yield calls, workers
    finally:
        for name, module in SHARING.items():
            module.for_each = before[name]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--openblas", type=int, help="threads, also more than processors")
    parser.add_argument("--nets", nargs="+", default=NETS)
    options = parser.parse_args()
    if options.openblas and blas.one_thread.switch:
        blas.one_thread.switch[1](options.openblas)
    with watched() as (calls, workers):
        digests = {name: train(name, options.steps, options.double) for name in options.nets}
    theirs = blas.one_thread.switch[0]() if blas.one_thread.switch else None
    print(json.dumps({"digests": digests, "calls": calls, "workers": len(workers), "openblas": theirs}))


if __name__ == "__main__":
    main()
