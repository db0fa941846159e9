"""Does mini-batch NOISE regularize, and how much of what batch norm gains is it?

Batch norm computes its statistics from a mini-batch, so the same image is normalized a little differently every time.
The SGD batch is fixed at 32 rows, and only S varies, the number of rows that the statistics come from: groups of S < 32
rows ("ghost batches"), S = 32, which is batch norm as everybody uses it, S > 32 with extra rows that take part in the
statistics only, and S = N, the whole training set, which is batch norm without any noise. So the gain of batch norm
comes apart: no norm -> S=N is what normalizing does, S=N -> S=32 -> S=8 what the noise adds. Every arm has its own best
learning rate. Then the noise is put back by hand into the noise-free net; and two controls ask whether less noise
only means slower fitting (test NLL at the same train NLL), and whether it depends on the initialization.

    python -m demos.minibatch_noise --preset full
"""

from __future__ import annotations

from typing import Any

import numpy as np

from demos import laboratory as lab
from demos.datasets import count_classes, load_parts
from demos.figures import minibatch_noise as figures
from demos.training import EXTRA_ROWS, ChosenBatchNorm, Fit, error_by_own_statistics, he_linear, stream, train
from tinygrad_bn import manual_seed, nn

N, M, WIDTH, FIXED_LR = 500, 32, 100, 0.1
SIZES = {"train": N, "valid": 297, "test": 1000}
LRS, FEWER_LRS = [0.03, 0.1, 0.3, 1.0, 3.0], [0.1, 0.3, 1.0]

# arm: "rows" behind the statistics, "noise" put back by hand, "dropout" after every layer or "at_end" after the last
ARMS: dict[str, dict[str, Any]] = {
    "no norm": {},
    "S=4": {"rows": 4},
    "S=8": {"rows": 8},
    "S=32": {"rows": 32},
    "S=128": {"rows": 128},
    "S=N": {"rows": N},
    "S=N + ghost noise": {"rows": N, "noise": "ghost"},
    "S=N + Gaussian noise": {"rows": N, "noise": "gaussian"},
    "S=N + dropout": {"rows": N, "dropout": 0.2},
    "S=N + dropout at the end": {"rows": N, "at_end": 0.2},
    "no norm + dropout": {"dropout": 0.2},
    # PyTorch's default initialization, with weights 2.4 times smaller: under batch norm, a larger effective rate
    "no norm, default init": {"init": "default"},
    "S=8, default init": {"rows": 8, "init": "default"},
    "S=32, default init": {"rows": 32, "init": "default"},
    "S=N, default init": {"rows": N, "init": "default"},
}

CRITERIA = [
    lab.Less("S=8", "S=N", headline=True),
    lab.Less("S=32", "S=N", headline=True),  # batch norm as it is used
    lab.Less("S=N", "no norm"),
    lab.Less("S=8", "S=N", at=FIXED_LR),
    lab.Matched("S=8", "S=N"),
    lab.Matched("S=32", "S=N"),
    lab.Trend({"S=8": 8, "S=32": 32, "S=128": 128, "S=N": N}, "test_nll", at=FIXED_LR),
    lab.Less("S=N + ghost noise", "S=N"),
    lab.Less("S=8, default init", "S=N, default init"),
    lab.Less("S=32, default init", "S=N, default init"),
]
NOTES = [
    lab.Less("S=32", "no norm"),
    lab.Share(("S=N", "S=32"), ("no norm", "S=32"), name="of what S=32 gains over no norm, the share that is noise"),
    lab.Share(("S=N", "S=8"), ("no norm", "S=8"), name="of what S=8 gains over no norm, the share that is noise"),
    lab.Less("S=N", "no norm", at=FIXED_LR),
    lab.Less("S=4", "S=8", at=FIXED_LR),
    lab.Less("S=4", "S=8"),
    lab.Less("S=4", "S=8", "own_error", at=FIXED_LR),
    lab.Less("S=N + ghost noise", "S=8"),
    lab.Less("S=N + Gaussian noise", "S=N"),
    lab.Less("S=N + dropout", "S=N"),
    lab.Less("S=8", "S=N + dropout"),
    lab.Less("no norm + dropout", "S=N"),
    lab.Less("S=8", "S=8, default init"),
    lab.Share(
        *(("S=N, default init", "S=32, default init"), ("no norm, default init", "S=32, default init")),
        name="from the default initialization, of what S=32 gains over no norm, the share that is noise",
    ),
]
COLUMNS = [
    lab.Column(f"error % at lr {FIXED_LR}", "test_error", FIXED_LR),
    lab.Column("NLL", "test_nll", FIXED_LR, ".3f"),
    lab.Column("train NLL", "train_nll", FIXED_LR, ".3f"),
    lab.Column("own statistics", "own_error", FIXED_LR, ".2f"),
    lab.Column("best lr", "lr", "best"),
    lab.Column("error % there", "test_error", "best"),
    lab.Column("diverged", "diverged", form="count"),
]

PRESETS = {
    "quick": {
        "seeds": 16,
        "steps": 500,
        "rates": {
            **{arm: FEWER_LRS for arm in ("S=8", "S=32", "S=N")},
            **{"no norm": [0.1, 0.3], "S=128": [FIXED_LR]},
        },
        "limits": "500 steps, and three learning rates are hardly a search for the best; noise by hand, dropout and "
        "the other initialization are left to the full preset",
    },
    "full": {
        "seeds": 20,
        "steps": 1000,
        "rates": {
            **{arm: LRS for arm in ("no norm", "S=4", "S=8", "S=32", "S=N", "S=N + ghost noise")},
            **{arm: FEWER_LRS for arm in ("S=N + Gaussian noise", "S=N + dropout", "no norm + dropout")},
            **{arm: FEWER_LRS for arm in ARMS if "default" in arm},
            **{arm: [FIXED_LR] for arm in ("S=128", "S=N + dropout at the end")},
        },
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return lab.grid(settings, settings["rates"], steps=settings["steps"], m=M, drop_at=0.75)


def net(arm: str, features: int, classes: int, seed: int) -> nn.Module:
    """features-100-100-100-classes: linear, [norm], ReLU, [dropout]."""
    own = {"rows": None, "noise": None, "dropout": 0.0, "at_end": 0.0, "init": "he", **ARMS[arm]}
    linear = he_linear if own["init"] == "he" else nn.Linear
    manual_seed(seed)
    layers: list[nn.Module] = []
    for i, width in enumerate([features, WIDTH, WIDTH]):
        layers.append(linear(width, WIDTH))
        if own["rows"] is not None:
            group = own["rows"] if own["rows"] < M else None  # None: all rows of the forward pass
            layers.append(ChosenBatchNorm(WIDTH, group, own["noise"], 8, seed, i))
        layers.append(nn.ReLU())
        p = own["dropout"] or (own["at_end"] if i == 2 else 0.0)
        if p:
            layers.append(nn.Dropout(p))
    return nn.Sequential(*layers, linear(WIDTH, classes))


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, _y = data["train"]
    model = net(config["arm"], x.shape[1], count_classes(data), config["seed"])
    behind = ARMS[config["arm"]].get("rows") or 0
    extra, fit = stream(config["seed"], EXTRA_ROWS), Fit(model, data, config["steps"])

    def rows(batch: np.ndarray) -> np.ndarray:
        """The batch, then rows that only take part in the statistics."""
        if behind <= M:
            return batch
        others = np.setdiff1d(np.arange(N), batch)
        if behind < N:
            others = extra.choice(others, behind - M, replace=False)
        return np.concatenate([batch, others])

    result = train(model, data, config, rows, fit)
    if 0 < behind <= M:  # each S test images by their own statistics, as in training
        with np.errstate(all="ignore"):
            own = error_by_own_statistics(model, *data["test"], behind)
        result["own_error"] = result["chance"] if result["diverged"] else own
    return {**result, "fit": fit.curve(result["diverged"])}


DEMO = lab.Demo(
    name="minibatch_noise",
    claim="The noise of mini-batch statistics regularizes: it is a part of what batch norm gains.",
    presets=PRESETS,
    plan=plan,
    run=run,
    sizes=SIZES,
    criteria=CRITERIA,
    notes=NOTES,
    columns=COLUMNS,
    plot=figures.plot,
    cost=lambda config: float(ARMS[config["arm"]].get("rows") or 0),
)

if __name__ == "__main__":
    raise SystemExit(lab.main([DEMO]))
