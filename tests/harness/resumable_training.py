"""A small training that goes on from its checkpoint; run as a script (FOLDER STEPS) it saves after every step."""

import os
import sys
import time
from pathlib import Path

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import data, nn, optim, tensor

ROWS, BATCH = 26, 4
EPOCH = -(-ROWS // BATCH)  # steps


class Training:
    """All that random numbers and history act on: shuffling, dropout, running statistics, momentum, schedule."""

    def __init__(self, seed=0, loader_seed=None):
        tb.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.sgd = optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        self.schedule = optim.lr_scheduler.CosineAnnealingLR(self.sgd, T_max=10, eta_min=0.01)
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((ROWS, 6)).astype(np.float32), rng.integers(0, 3, ROWS)
        self.loader = data.DataLoader(rows, batch_size=BATCH, shuffle=True, seed=loader_seed)
        self.steps = 0

    def state(self):
        return {
            "net": self.net.state_dict(),
            "sgd": self.sgd.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "random": tb.get_rng_state(),
            "steps": self.steps,
        }

    def resume(self, state):
        for name in ("net", "sgd", "schedule", "loader"):
            getattr(self, name).load_state_dict(state[name])
        tb.set_rng_state(state["random"])
        self.steps = state["steps"]

    def run(self, steps, after_step=lambda: None):
        """Train until so many steps have been taken in all."""
        while self.steps < steps:
            for x, y in self.loader:
                self.sgd.zero_grad()
                F.cross_entropy(self.net(tensor(x)), y).backward()
                self.sgd.step()
                self.schedule.step()
                self.steps += 1
                after_step()
                if self.steps == steps:
                    return


if __name__ == "__main__":
    path, fsync = Path(sys.argv[1]) / "checkpoint.npz", os.fsync

    def slow_fsync(file):  # a slow disk: most of the time is spent inside save(), before the file is renamed
        fsync(file)
        time.sleep(0.002)

    os.fsync = slow_fsync
    training = Training()
    if path.exists():
        training.resume(tb.load(path))
    training.run(int(sys.argv[2]), lambda: tb.save(path, training.state()))
