"""A net with batch norm, trained for long without Python's cycle collector: does memory grow, do steps get slower?

    python tests/harness/soak.py --steps 1000000

prints a line per block of steps (step, resident memory in MB, CPU time per step in microseconds, loss), then JSON: the
slope of the memory in MB per 100,000 steps, the CPU time per step of the last quarter over that of the second, and the
largest loss. The first quarter is left out: caches fill, the allocator finds its size.
"""

import argparse
import gc
import json
import math
import os
import time
from pathlib import Path

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim

BLOCKS = 40


def resident() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def train(steps: int, leak: int):
    """Yields (step, memory, CPU time per step, loss) after each block; leak: bytes that every step leaves behind."""
    tb.manual_seed(0)
    x, y = tb.data.load_digits()
    net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    sgd = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loader = tb.data.DataLoader((x, y), batch_size=32, shuffle=True, seed=0, drop_last=True)
    step, left, block, before = 0, [], max(1, steps // BLOCKS), time.process_time()
    while True:
        for images, labels in loader:
            loss = F.cross_entropy(net(tb.Tensor(images)), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            if leak:
                left.append(bytes(leak))
            step += 1
            if step % block == 0:
                now = time.process_time()
                yield step, resident(), (now - before) / block, loss.item()
                if step == block * BLOCKS:
                    return
                before = time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--leak", type=int, default=0, help="bytes per step: does the measurement notice?")
    args = parser.parse_args()
    gc.disable()
    rows = []
    for step, memory, seconds, loss in train(args.steps, args.leak):
        rows.append((step, memory, seconds, loss))
        print(f"{step:>9,} {memory:8.2f} MB {1e6 * seconds:8.1f} us {loss:.4g}", flush=True)
    steps, memory, seconds, losses = np.array(rows).T
    quarter = len(rows) // 4
    slope = 1e5 * np.polyfit(steps[quarter:], memory[quarter:], 1)[0]
    slower = np.median(seconds[-quarter:]) / np.median(seconds[quarter : 2 * quarter])
    largest = losses.max() if np.isfinite(losses).all() else math.inf
    print(json.dumps({"steps": int(steps[-1]), "slope": slope, "slower": slower, "largest_loss": str(largest)}))


if __name__ == "__main__":
    main()
