"""A demo that trains nothing, for the tests of the laboratory: worker processes can import it."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from demos import laboratory as lab
from demos import plots

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def is_first(seed):
    """Whether this seed is here for the first time, in whatever process: it leaves a mark in the folder TOY_MARKS."""
    try:
        Path(os.environ["TOY_MARKS"], str(seed)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def plan(settings):
    arms = settings.get("arms", ["a", "b"])
    more = {key: settings[key] for key in ("sleep", "dataset") if key in settings}
    return [{"arm": arm, "seed": seed, "lr": 0.1, **more} for seed in settings["seeds"] for arm in arms]


def run(config):
    time.sleep(config.get("sleep", 0))
    if config["arm"] == "raises" and config["seed"] == 2001:
        raise RuntimeError("the net caught fire")
    if config["arm"] == "dies" or (config["arm"] == "dies once" and is_first(config["seed"])):
        os.kill(os.getpid(), signal.SIGKILL)
    rng = np.random.default_rng(config["seed"])
    # a sum over 1000 rows: BLAS gives other last bits with another number of threads
    product = rng.normal(size=(64, 1000)).astype(np.float32) @ rng.normal(size=(1000, 64)).astype(np.float32)
    offset = {"a": 0.0, "b": 1.0}.get(config["arm"], 0.5)
    return {
        "error_rate": offset + rng.normal(),
        "bits": product.tobytes().hex()[-4000:],
        "environment": [os.environ.get(name) for name in THREADS],
        "pid": os.getpid(),
        "diverged": False,
    }


def analyse(runs, settings):
    arms = {}
    for one in runs:
        arms.setdefault(one["arm"], []).append(one["error_rate"])
    criteria = [
        lab.Outcome("a below b", np.float64(-1.0), (-1.5, -0.5), "< 0", lab.HOLDS, headline=True),
        lab.Outcome("b below a", 1.0, (0.5, 1.5), "< 0", lab.REFUTED, note="as it should be"),
        lab.Outcome("no interval", float("nan"), (float("nan"), float("inf")), "< 0", lab.UNDECIDED),
    ]
    table = [["arm", "error"], *([arm, f"{np.mean(values):.2f}"] for arm, values in arms.items())]
    nan = float("nan")
    kept = [{"arm": arm, "error_rate": np.array(values), "nll": [nan]} for arm, values in arms.items()]
    return lab.Analysis(kept, criteria, table, [f"seeds {settings['seeds']}"])


def plot(runs, analysis, settings):
    fig, ax = plots.plt.subplots()
    values = [arm["error_rate"] for arm in analysis.arms]
    plots.line_with_band(ax, range(len(values)), np.transpose(values), "toy")
    return [plots.Picture("toy", "The error of each arm.", fig)]


def demo(run=run, **settings):
    presets = {"quick": {"seeds": 3, "limits": "A toy concludes nothing.", **settings}, "full": {"seeds": 5}}
    return lab.Demo("toy", "Toys are cheap.", presets, plan, run, analyse, plot)


if __name__ == "__main__":
    # imported, so that what workers are sent has a name that they can import, too
    import toy_demo

    raise SystemExit(lab.main([toy_demo.demo(sleep=float(os.environ.get("TOY_SLEEP", "0")))], sys.argv[1:]))
