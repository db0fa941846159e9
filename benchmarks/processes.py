"""What needs fresh processes: start-up, peak memory, and the learning-rate demo's grid beside PyTorch's.

python -m benchmarks.processes first_step ours                  prints seconds
python -m benchmarks.processes peak_memory torch mlp            prints MB
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Settings, cnn, mlp
from benchmarks.peers import PACKAGES, Work, ours, pytorch, replayed
from benchmarks.report import Row
from benchmarks.timing import Contestant, check_agreement

Run = Callable[..., dict[str, Any]]
ME = ("-m", "benchmarks.processes")
NAMES = {"ours": "ours", "replay": "replay", **PACKAGES}
IMPORT = "import time, numpy, numba; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def child(*arguments: str, **environment: str) -> float:
    """The number that a fresh Python prints."""
    env, root = {**os.environ, **environment}, Path(__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{run.stderr}")
    return float(run.stdout.split()[-1])


def build(library: str, work: Work) -> Contestant:
    if library == "jax":
        return work.jax()
    libraries = {"ours": ours, "replay": partial(replayed, 2), "torch": partial(pytorch, 2)}
    return work.eager(libraries[library]())


def first_step(library: str) -> float:
    """Seconds from after the import to the end of the first step: making the net, loading or compiling kernels."""
    work = mlp(60, 784, 100, norm=True)
    import_module("tinygrad_bn" if library == "ours" else library)
    start = time.perf_counter()
    net = build(library, work)
    net.prepare()
    net.call()
    return time.perf_counter() - start


def startup(settings: Settings) -> Iterator[Row]:
    imports, steps = {}, {}
    for library in ("ours", *(() if settings.quick else settings.peers)):
        times = range(1 if library != "ours" else 3 if settings.quick else 9)
        code = IMPORT.format("tinygrad_bn" if library == "ours" else library)
        child(*ME, "first_step", library)  # fills caches: bytecode, kernels, the disk's
        imports[NAMES[library]] = statistics.median(child("-c", code) for _ in times)
        steps[NAMES[library]] = statistics.median(child(*ME, "first_step", library) for _ in times)
    yield Row("startup", "import", "s", imports, note="beyond NumPy and Numba")
    yield Row("startup", "first step, cache warm", "s", steps, note="60x784x100 BN, after the import")
    if not settings.quick:
        with tempfile.TemporaryDirectory() as folder:
            cold = child(*ME, "first_step", "ours", NUMBA_CACHE_DIR=folder)
        yield Row("startup", "first step, cache cold", "s", {"ours": cold})


# Memory: what counts is the second net, after a tiny one has loaded and compiled all that there is to

MEMORY = {
    "mlp": ("MLP 128x784x512 BN", partial(mlp, 4, 8, 4, True), partial(mlp, 128, 784, 512, True)),
    "cnn": ("CNN 64x1x28x28 BN", partial(cnn, 2, 1, 8, True), partial(cnn, 64, 1, 28, True)),
}
# malloc reuses small blocks unseen; with a fixed threshold, large ones show in the resident size while they live.
# That is undone where tinygrad_bn sets the thresholds when it is imported, as both children do.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": "0", "TINYGRAD_BN_KEEP_MEMORY": "0"}
CLEAR = Path("/proc/self/clear_refs")  # "5" resets the peak


def _status(key: str) -> float:
    """VmRSS, the resident size, or VmHWM, its peak, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak_memory(library: str, case: str) -> float:
    """MB that three training steps take at their peak beyond the net itself: gradients, momentum, activations."""
    for make in MEMORY[case][1:]:
        net = build(library, make())
        net.prepare()
        CLEAR.write_text("5")
        before = _status("VmRSS")
        for _ in range(3):
            net.call()
        peak = _status("VmHWM") - before
    return peak


def memory(settings: Settings) -> Iterator[Row]:
    libraries = ["ours", "replay", *(["torch"] if "torch" in settings.peers else [])]
    for case, (name, *_) in MEMORY.items():
        row = Row("memory", name, "MB", note="peak of three steps beyond the net itself")
        if not CLEAR.exists():
            row.note = f"not available: this system has no {CLEAR}"
        else:
            for library in libraries:
                runs = [child(*ME, "peak_memory", library, case, **MALLOC) for _ in range(1 if settings.quick else 3)]
                row.values[NAMES[library]] = statistics.median(runs)
        yield row


# The learning-rate demo's grid


def torch_run(config: dict[str, Any]) -> dict[str, Any]:
    """demos.learning_rate.run in PyTorch: same data, initial weights, batches, steps and evaluation."""
    import torch
    import torch.nn.functional as F

    from demos import learning_rate
    from demos.datasets import count_classes, load_parts
    from demos.training import batches
    from tinygrad_bn import nn

    class BatchNorm(torch.nn.BatchNorm1d):
        measuring = False  # while population statistics are taken

        def forward(self, x: Any) -> Any:
            used = BatchNorm.measuring or not self.training
            statistics = (self.running_mean, self.running_var) if used else (None, None)
            return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, 1.0)

    def same(layer: Any) -> Any:
        if isinstance(layer, nn.Linear):
            linear = torch.nn.Linear(layer.in_features, layer.out_features)
            linear.load_state_dict({name: torch.tensor(a) for name, a in layer.state_dict().items()})
            return linear
        if hasattr(layer, "weight"):
            return (torch.nn.LayerNorm if isinstance(layer, nn.LayerNorm) else BatchNorm)(layer.weight.size)
        return getattr(torch.nn, type(layer).__name__)()

    torch.set_num_threads(1)
    arrays = load_parts(config["dataset"], config["seed"], learning_rate.SIZES, raw=config.get("raw", False))
    data = {part: (torch.tensor(x), torch.tensor(y)) for part, (x, y) in arrays.items()}
    x, y = data["train"]
    model = torch.nn.Sequential(*map(same, learning_rate.net(config, x.shape[1], count_classes(arrays))))
    sgd = torch.optim.SGD(model.parameters(), lr=config["lr"])
    finite = True
    for _, batch in zip(range(config["steps"]), batches(len(x), config["m"], config["seed"]), strict=False):
        rows = torch.from_numpy(batch)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        if not (finite := math.isfinite(loss.item())):
            break
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    result: dict[str, Any] = {"diverged": not finite}
    with torch.no_grad():
        BatchNorm.measuring = True
        model(x)
        model.eval()
        for part, (x, y) in data.items():
            logits = model(x)
            result[f"{part}_error"] = 100 * float((logits.argmax(1) != y).float().mean())
            result[f"{part}_nll"] = F.cross_entropy(logits, y).item()
    return result


def clocked(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    return {**run(config), "seconds": time.perf_counter() - start}


def test_nll(run: Run) -> list[np.ndarray]:
    return [np.array(run()["test_nll"])]


def grid(settings: Settings) -> Iterator[Row]:
    """A sample of the full preset: its first seed at every fourth learning rate, all nets and norms, all steps.

    The time is the workers' own, the runs' seconds divided by the number of workers: starting the workers counts
    for nothing in a grid of thousands of runs, but would in the sample.
    """
    row = Row("grid", "learning_rate demo, sample", "s", note="left out by --quick")
    lacking = [package for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm") if find_spec(package) is None]
    if settings.quick or lacking:
        row.note = row.note if settings.quick else f"needs {lacking[0]}: pip install -e '.[demos]'"
        yield row
        return
    from demos import laboratory, learning_rate
    from demos.grid import run_grid

    full = learning_rate.PRESETS["full"] | {"seeds": [laboratory.FIRST_SEED], "dataset": "digits"}
    rates = learning_rate.LRS[::4]
    configs = [c for c in learning_rate.plan(full) if c["lr"] in rates]
    runs: dict[str, Run] = {"ours": learning_rate.run} | ({"PyTorch": torch_run} if "torch" in settings.peers else {})
    for config in configs:  # a few steps of each must end alike; this fills the cache of kernels, too
        if config["lr"] == rates[1]:
            few = {name: partial(run, config | {"steps": 10}) for name, run in runs.items()}
            ends = {name: Contestant(run, partial(test_nll, run)) for name, run in few.items()}
            check_agreement(ends, rtol=1e-4)
    workers = os.cpu_count() or 1
    for half in (0, 1):  # ours, PyTorch; PyTorch, ours: a machine that slows down meanwhile slows both
        for name in list(runs)[:: 1 - 2 * half]:
            run = partial(clocked, runs[name])
            done = run_grid(run, configs[half::2], workers, name, cost=learning_rate.cost)
            for failed in (r["error"] for r in done if "error" in r):
                raise RuntimeError(failed)
            row.values[name] = row.values.get(name, 0) + sum(r["seconds"] for r in done) / workers
    some = f"seed {laboratory.FIRST_SEED}, lr {', '.join(f'{lr:g}' for lr in rates)}"
    total = len(learning_rate.plan(full | {"seeds": range(learning_rate.PRESETS["full"]["seeds"])}))
    row.note = f"{len(configs)} of the full preset's {total:,} runs ({some}), all 1,500 steps; {workers} workers each"
    yield row


if __name__ == "__main__":
    commands: dict[str, Callable[..., float]] = {"first_step": first_step, "peak_memory": peak_memory}
    print(commands[sys.argv[1]](*sys.argv[2:]))
