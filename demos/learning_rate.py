"""How does batch norm change the sensitivity to the learning rate?

Nets of depth 3 and 8, ReLU and sigmoid, are trained at eleven learning rates from 0.001 to 100: without normalization,
with batch norm, with batch norm before the last layer only, and with layer norm. A bad initialization would make batch
norm look good for the wrong reason, so a fifth arm has no norm but a tuned one (Glorot's, with four times the gain for
sigmoid); so would inputs that are not centred, which the first batch norm centres: they are standardized in all arms
but two. Of what the best arm of a net gains over guessing, a net *learns* at a rate where it has half or more, and is
*near its best* within 2.5 %. All below is taken per seed.

    window        decades of rates near its best
    upper edge    log10 of the largest rate at which it learns: what stays stable
    lower edge    log10 of the smallest one: what trains fast enough, which depends on the number of steps
    sensitivity   mean of min(loss, loss of guessing) - its best loss, over 1.5 decades on either side of its best rate
                  (Wortsman et al. 2023, section 2.2); nan for a net that learns nowhere, as their appendix B warns
    regret        the same, minus the best loss of all arms of the net (raw inputs are a net of their own)
    guesses       expected error of the best (on validation data) of 1, 2 or 4 random rates (Sivaprasad et al. 2020)

    python -m demos.learning_rate --preset full
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from demos import laboratory as lab
from demos.datasets import count_classes, load_parts
from demos.figures import learning_rate as figures
from demos.results import Results
from demos.training import ACTIVATIONS, ChosenBatchNorm, glorot_linear, train
from tinygrad_bn import Tensor, manual_seed, nn, no_grad

M, WIDTH = 32, 64
SIZES = {"train": 1000, "valid": 297, "test": 500}
LRS = [float(f"{10 ** (k / 2):.3g}") for k in range(-6, 5)]  # 0.001, 0.00316, ... 100
NETS = [(3, "relu"), (3, "sigmoid"), (8, "relu"), (8, "sigmoid")]
LABELS = {"relu": "ReLU", "sigmoid": "sigmoid"}
NORMS = ["none", "none, tuned init", "BN", "BN before last", "LN"]
LEARNS, NEAR = 0.5, 0.025
LEAST = 20.0  # points below guessing: if the best arm of a net gains less, half of this is what counts as learning


def arm(depth: int, activation: str, norm: str) -> str:
    return f"{depth} {activation} {norm}"


def over_nets(
    kind: type[lab.Less], a: str, b: str, metric: str, depths: tuple[int, ...] = (3, 8), **more: Any
) -> lab.Less:
    """The mean over the nets of these depths: norm a minus norm b."""
    first, second = (tuple(arm(d, act, norm) for d, act in NETS if d in depths) for norm in (a, b))
    what, unit = lab.metric_and_unit(metric)
    nets = "the four nets" if len(depths) > 1 else f"the nets of depth {depths[0]}"
    return kind(first, second, metric, None, name=f"{what} of {a} minus {b}, {unit}, mean over {nets}", **more)


TUNED = "none, tuned init"
CRITERIA = [
    over_nets(lab.More, "BN", TUNED, "window", headline=True),
    over_nets(lab.More, "BN", "none", "window"),
    over_nets(lab.More, "BN", TUNED, "upper_edge"),
    over_nets(lab.Less, "BN", TUNED, "lower_edge"),
    over_nets(lab.Less, "BN", TUNED, "regret"),
    over_nets(lab.Less, "BN", TUNED, "error_of_1_guess"),
    lab.Below(
        *(tuple(arm(d, a, "BN") for d, a in NETS), "kept_at_worst", LEARNS),
        name="BN still fails: of the best arm's gain, what it keeps at its worst higher rate, mean over the four nets",
    ),
]
NOTES = [
    *(
        kind(arm(d, a, "BN"), arm(d, a, TUNED), metric, None)
        for kind, metric in ((lab.More, "window"), (lab.More, "upper_edge"), (lab.Less, "lower_edge"))
        for d, a in NETS
    ),
    over_nets(lab.More, "BN", "none", "upper_edge", (3,)),
    over_nets(lab.Less, "BN", "none", "lower_edge", (3,)),
    lab.More("3 relu BN, raw inputs", "3 relu none, raw inputs", "window", None),
    lab.More("3 relu BN", "3 relu none", "window", None),
    over_nets(lab.Less, "BN", TUNED, "sensitivity"),
    over_nets(lab.Less, "BN", TUNED, "error_of_2_guesses"),
    over_nets(lab.Less, "BN", TUNED, "error_of_4_guesses"),
    *(lab.Less(arm(d, a, "BN"), arm(d, a, TUNED)) for d, a in NETS),
    over_nets(lab.More, "LN", "BN", "window"),
    over_nets(lab.More, "BN before last", "BN", "window"),
]
COLUMNS = [
    lab.Column("window (decades)", "window"),
    lab.Column("lower edge", "lower_edge", form=".2f"),
    lab.Column("upper edge", "upper_edge", form=".2f"),
    lab.Column("sensitivity", "sensitivity", form=".2f"),
    lab.Column("regret", "regret", form=".2f"),
    lab.Column("one guess, error %", "error_of_1_guess", form=".1f"),
    lab.Column("stable lr", "largest_stable_lr", form="g"),
    lab.Column("best lr", "lr", "best"),
    lab.Column("error % there", "test_error", "best", ".2f"),
    lab.Column("diverged", "diverged", form="count"),
]

PRESETS = {
    "quick": {
        "seeds": 10,
        "steps": 120,
        "norms": NORMS[:3],
        "raw": [],
        "limits": "120 steps: low learning rates have no time to learn, which narrows every window; layer norm, the "
        "single batch norm and raw inputs are left to the full preset",
    },
    "full": {
        "seeds": 10,  # with eight, the exact test of seven claims has no p below 0.05
        "steps": 1200,
        "norms": NORMS,
        "raw": ["none", "BN"],  # of the net of three ReLU layers: inputs as the dataset has them, not centred
        "limits": "ten seeds and 1,200 steps, so that eleven learning rates of 22 nets fit in",
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    arms = {arm(d, a, norm): {"depth": d, "activation": a, "norm": norm} for d, a in NETS for norm in settings["norms"]}
    for norm in settings.get("raw", ()):
        own = {"depth": 3, "activation": "relu", "norm": norm, "raw": True}
        arms[f"{arm(3, 'relu', norm)}, raw inputs"] = own
    return lab.grid(settings, dict.fromkeys(arms, LRS), arms, steps=settings["steps"], m=M)


def net(config: dict[str, Any], features: int, classes: int) -> nn.Sequential:
    """depth hidden layers of 64: linear, [norm], activation; then a linear layer."""
    manual_seed(config["seed"])
    depth, activation, norm = config["depth"], config["activation"], config["norm"]
    layers: list[nn.Module] = []
    for i in range(depth):
        size = (WIDTH if i else features, WIDTH)
        tuned = norm == "none, tuned init"
        layers.append(glorot_linear(*size, activation) if tuned else nn.Linear(*size))
        if norm == "BN" or (norm == "BN before last" and i == depth - 1):
            layers.append(ChosenBatchNorm(WIDTH, None, None, 0, config["seed"]))
        elif norm == "LN":
            layers.append(nn.LayerNorm(WIDTH))
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers, nn.Linear(WIDTH, classes))


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES, raw=config.get("raw", False))
    x, _ = data["train"]
    model = net(config, x.shape[1], count_classes(data))
    rms: list[float] = []

    def watch(step: int) -> None:
        """After 50 steps at lr 1: the root mean square of every activation."""
        if step != 50 or config["lr"] != 1.0:
            return
        with no_grad(), nn.watch.activations(model, (nn.ReLU, nn.Sigmoid)) as seen:
            model(Tensor(x[:M]))
        rms.extend(float(np.sqrt(np.mean(y.data.astype(np.float64) ** 2))) for _, y in seen.values())

    return {**train(model, data, config, watch=watch), "rms": rms}


def cost(config: dict[str, Any]) -> float:
    return config["depth"] * (2 if config["norm"] in ("BN", "LN") else 1)


# --- what all rates of an arm say


def curves(results: Results, metric: str, one_arm: str) -> np.ndarray:
    """(seed, learning rate)"""
    return np.column_stack([results[metric, one_arm, lr] for lr in LRS])


def derive(results: Results) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for _, of_net in itertools.groupby(results.arms, key=lambda name: name.split(" ")[:2]):
        arms = list(of_net)
        best = min(results.at("test_error", a, "best").mean() for a in arms)
        loss = {a: np.minimum(curves(results, "valid_nll", a), guessing(results)) for a in arms}
        best_loss = np.min([curve.min(axis=1) for curve in loss.values()], axis=0)
        for a in arms:
            error = curves(results, "test_error", a)
            gain = (results.chance - error) / max(results.chance - best, LEAST)
            facts = {
                **edges(gain),
                **sensitivity(loss[a], best_loss, gain.max(axis=1) >= LEARNS),
                **guesses(error, curves(results, "valid_error", a)),
                "kept_at_worst": np.array([g[g.argmax() :].min() for g in gain]),
                "largest_stable_lr": np.full(len(gain), largest_stable_lr(gain)),
            }
            for metric, values in facts.items():
                found.setdefault(metric, {})[a] = values
    return found


def guessing(results: Results) -> float:
    """The loss of guessing, in nats: log(classes), of chance = 100 (1 - 1 / classes)."""
    return -math.log(1 - results.chance / 100)


def edges(gain: np.ndarray) -> dict[str, np.ndarray]:
    """Of gain[seed, rate]. A net that learns nowhere has a window of 0, and no edges: nan."""
    exponents, learns = np.log10(LRS), gain >= LEARNS
    near = learns & (gain >= gain.max(axis=1, keepdims=True) - NEAR)
    return {
        "window": 0.5 * near.sum(axis=1),
        "upper_edge": np.array([exponents[row].max() if row.any() else np.nan for row in learns]),
        "lower_edge": np.array([exponents[row].min() if row.any() else np.nan for row in learns]),
    }


def largest_stable_lr(gain: np.ndarray) -> float:
    """The largest rate at which every seed learns; 0 if there is none."""
    return max((lr for lr, column in zip(LRS, gain.T, strict=True) if (column >= LEARNS).all()), default=0.0)


def sensitivity(loss: np.ndarray, best_loss: np.ndarray, learns: np.ndarray) -> dict[str, np.ndarray]:
    """Of loss[seed, rate]: means over the seven rates, or as many as there are, around each seed's best one."""
    own, regret = [], []
    for curve, best in zip(loss, best_loss, strict=True):
        i = int(curve.argmin())
        around = curve[max(i - 3, 0) : i + 4]
        own.append(around.mean() - curve.min())
        regret.append(around.mean() - best)
    return {"sensitivity": np.where(learns, own, np.nan), "regret": np.array(regret)}


def guesses(error: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """The expected test error of the rate with the lowest validation error among k rates drawn with replacement."""
    n = len(LRS)
    in_order = np.take_along_axis(error, valid.argsort(axis=1, kind="stable"), axis=1)
    left = np.arange(n, -1, -1) / n  # share of the rates that are no better than the i-th best
    chances = {k: left[:-1] ** k - left[1:] ** k for k in (1, 2, 4)}
    return {f"error_of_{k}_guess{'es' if k > 1 else ''}": in_order @ p for k, p in chances.items()}


DEMO = lab.Demo(
    name="learning_rate",
    claim="Batch norm widens the range of learning rates that work, but not without limit.",
    presets=PRESETS,
    plan=plan,
    run=run,
    sizes=SIZES,
    criteria=CRITERIA,
    notes=NOTES,
    columns=COLUMNS,
    derive=derive,
    plot=figures.plot,
    cost=cost,
)

if __name__ == "__main__":
    raise SystemExit(lab.main([DEMO]))
