"""Small trainings that differ in everything, for the tests of threads and processes: workers can import it."""

import hashlib

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import data, nn, optim, tensor

ROWS_NORMS = [
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.RMSNorm,
    lambda c: nn.GhostBatchNorm1d(c, 64),
    lambda c: nn.BatchRenorm1d(c, momentum=0.1, warmup=1, r_ramp=2, d_ramp=2),
]
IMAGE_NORMS = [
    nn.BatchNorm2d,
    lambda c: nn.GroupNorm(4, c),
    lambda c: nn.InstanceNorm2d(c, affine=True),
    nn.DecorrelatedBatchNorm2d,
]


def net(i, width):
    """Rows in even nets, images in odd ones; each with another norm."""
    if i % 2 == 0:
        norm = ROWS_NORMS[i // 2 % len(ROWS_NORMS)]
        hidden = [nn.Linear(16, width), norm(width), [nn.ReLU, nn.Sigmoid, nn.Tanh][i % 3](), nn.Dropout(0.3)]
        return nn.Sequential(*hidden, nn.Linear(width, 8), norm(8), nn.Linear(8, 4))
    norm = IMAGE_NORMS[i // 2 % len(IMAGE_NORMS)]
    first = [nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 8, 3, padding=1), norm(8)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 4))


def train(i, steps=3, rows=96, width=32, dtype=np.float32):
    """The digest of all that training number i leaves behind: weights, statistics, momentum, losses, random numbers."""
    tb.manual_seed(i)
    rng, model = np.random.default_rng(i), net(i, width).to(dtype)
    images = [] if i % 2 == 0 else [1, 4, 4]
    x = rng.standard_normal((2 * rows, *(images or [16]))).astype(dtype)
    loader = data.DataLoader((x, rng.integers(0, 4, len(x))), batch_size=rows, shuffle=True)
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    schedule, digest = optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=steps), hashlib.sha256()
    while schedule.last_epoch < steps:
        for batch, labels in loader:
            sgd.zero_grad()
            loss = F.cross_entropy(model.train()(tensor(batch)), labels)
            loss.backward()
            sgd.step()
            schedule.step()
            with tb.no_grad():
                digest.update(model.eval()(tensor(batch)).data.tobytes() + loss.data.tobytes())
    for value in [*model.state_dict().values(), *(p.grad for p in model.parameters())]:
        digest.update(value.tobytes())
    for state in sgd.state_dict()["state"].values():
        digest.update(state["momentum_buffer"].tobytes())
    return digest.hexdigest() + str(tb.get_rng_state()["state"])


def train_large(i):
    """Arrays of more than 2^20 elements: helper threads take part. In float64 a sum in another order shows sooner."""
    return train(i, steps=2, rows=12_000, width=128, dtype=(np.float32, np.float64)[i // 2 % 2])


def in_a_worker(i):
    """Small, large, on more threads than one, whatever the worker inherited."""
    tb.set_num_threads(3)
    return train(i), train_large(i)
