"""How does batch norm change the sensitivity to the learning rate?

Nets of depth 3 and 8, ReLU and sigmoid, are trained at eleven learning rates from 0.001 to 100: without normalization,
with batch norm, with batch norm before the last layer only, and with layer norm. The window is the width, in decades,
of the learning rates whose test error lies within 2 points of the arm's best. A bad initialization would make batch
norm look good for the wrong reason, so a fifth arm has no norm but a tuned initialization (Glorot's, with four times
the gain for sigmoid).

    python -m demos.learning_rate --preset full
"""

from __future__ import annotations

from typing import Any

import numpy as np

from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import ACTIVATIONS, ChosenBatchNorm, glorot_linear, train
from tinygrad_bn import Tensor, manual_seed, nn, no_grad

M, WIDTH = 32, 64
SIZES = {"train": 1000, "valid": 297, "test": 500}
LRS = [float(f"{10 ** (k / 2):.3g}") for k in range(-6, 5)]  # 0.001, 0.00316, ... 100
NORMS = ["none", "none, tuned init", "BN", "BN before last", "LN"]
NETS = [(3, "relu"), (3, "sigmoid"), (8, "relu"), (8, "sigmoid")]
LABELS = {"relu": "ReLU", "sigmoid": "sigmoid"}
NEAR = 2.0  # "near the best" is within 2 points
LOW_LR = 0.0316

PRESETS = {
    "quick": {
        "seeds": 5,
        "steps": 120,
        "norms": ["none", "none, tuned init", "BN"],
        "limits": "120 steps: low learning rates have no time to learn, which narrows every window; "
        "layer norm and the single batch norm are left to the full preset",
    },
    "full": {
        "seeds": 8,
        "steps": 1500,
        "norms": NORMS,
        "limits": "eight seeds, so that eleven learning rates of twenty nets fit in",
    },
}


def name(depth: int, activation: str, norm: str) -> str:
    return f"{depth} {activation} {norm}"


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "arm": name(depth, activation, norm),
            "depth": depth,
            "activation": activation,
            "norm": norm,
            "seed": seed,
            "lr": lr,
            "dataset": settings["dataset"],
            "steps": settings["steps"],
            "m": M,
        }
        for seed in settings["seeds"]
        for depth, activation in NETS
        for norm in settings["norms"]
        for lr in LRS
    ]


def net(config: dict[str, Any], features: int, classes: int) -> nn.Sequential:
    """depth hidden layers of 64: linear, [norm], activation; then a linear layer."""
    manual_seed(config["seed"])
    depth, norm = config["depth"], config["norm"]
    layers: list[nn.Module] = []
    for i in range(depth):
        size = (WIDTH if i else features, WIDTH)
        tuned = norm == "none, tuned init"
        layers.append(glorot_linear(*size, config["activation"]) if tuned else nn.Linear(*size))
        if norm == "BN" or (norm == "BN before last" and i == depth - 1):
            layers.append(ChosenBatchNorm(WIDTH, None, None, 0, config["seed"]))
        elif norm == "LN":
            layers.append(nn.LayerNorm(WIDTH))
        layers.append(ACTIVATIONS[config["activation"]]())
    return nn.Sequential(*layers, nn.Linear(WIDTH, classes))


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
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


def curves_of(runs: list[dict[str, Any]], metric: str) -> dict[str, np.ndarray]:
    """arm -> array (seed, learning rate)."""
    table = lab.per_seed(runs, metric, "arm", "lr")
    return {arm: np.column_stack([table[arm, lr] for lr in LRS]) for arm in dict.fromkeys(arm for arm, _ in table)}


def window(curve: np.ndarray, chance: float) -> float:
    """Decades of learning rates (half a decade each) near the best error; 0 for a net that never learned."""
    if not lab.learned(curve.min(), chance):
        return 0.0
    return 0.5 * float((curve <= curve.min() + NEAR).sum())


def has_gap(curve: np.ndarray, chance: float) -> bool:
    """Whether a rate between two of the window's lies outside of it."""
    near = np.flatnonzero(curve <= curve.min() + NEAR)
    return lab.learned(curve.min(), chance) and bool(near[-1] - near[0] >= len(near))


def highest_error_above_best(curves: np.ndarray) -> float:
    """Of the mean over seeds: too small a rate fails as well, but that is not what a limit from above means."""
    mean = curves.mean(axis=0)
    return float(mean[mean.argmin() :].max())


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("test_error", "test_nll", "train_nll", "diverged")
    error, nll, train_nll, diverged = (curves_of(runs, metric) for metric in metrics)
    best_lr, chance = lab.best_lr(runs), runs[0]["chance"]
    widths = {arm: np.array([window(c, chance) for c in curves]) for arm, curves in error.items()}
    columns = ["window (decades)", "largest stable lr", "best lr", "error % there", "NLL", "train NLL", "diverged"]
    table = [["net", "norm", *columns]]
    arms = []
    for depth, activation in NETS:
        for norm in settings["norms"]:
            arm = name(depth, activation, norm)
            chosen = LRS.index(best_lr[arm])
            stable = [lr for lr, e in zip(LRS, error[arm].mean(axis=0), strict=True) if lab.learned(e, chance)]
            best = error[arm][:, chosen]
            learned = lab.learned(best.mean(), chance)
            table.append(
                [
                    f"{depth} {activation}",
                    norm,
                    stats.mean_interval(widths[arm]),
                    f"{max(stable):g}" if stable else "none",
                    f"{LRS[chosen]:g}" if learned else "none",
                    f"{best.mean():.2f}",
                    f"{nll[arm][:, chosen].mean():.3f}",
                    f"{train_nll[arm][:, chosen].mean():.3f}",
                    f"{int(diverged[arm].sum())} of {diverged[arm].size}",
                ]
            )
            arms.append(
                {
                    "arm": arm,
                    "window": list(widths[arm]),
                    "best_lr": LRS[chosen] if learned else None,
                    "test_error": list(best),
                    "test_nll": list(nll[arm][:, chosen]),
                    "train_nll": list(train_nll[arm][:, chosen]),
                    "diverged": diverged[arm].sum(axis=1).tolist(),
                    "largest_stable_lr": max(stable) if stable else None,
                    "curve": error[arm].tolist(),
                }
            )

    def wider(norm: str, nets: list[tuple[int, str]]) -> stats.Paired:
        """By how much BN's windows are wider, a mean over the nets."""
        bn, other = (np.mean([widths[name(d, a, n)] for d, a in nets], axis=0) for n in ("BN", norm))
        return stats.paired(bn, other)

    tests = [
        ("mean over the four nets, BN minus none", wider("none", NETS), True),
        ("mean over the four nets, BN minus none with tuned init", wider("none, tuned init", NETS), True),
        *((f"depth {d} {a}, BN minus none", wider("none", [(d, a)]), False) for d, a in NETS),
    ]
    criteria = []
    for (what, d, headline), p in zip(tests, stats.holm([d.p for _, d, _ in tests]), strict=True):
        criteria.append(
            lab.Criterion(
                f"window in decades: {what}",
                d.mean,
                d.ci,
                ">= 0.5, interval above 0, Holm p < 0.05",
                bool(d.mean >= 0.5 and d.ci[0] > 0 and p < 0.05),
                headline,
                note=f"{d.details(above='wider')}, Holm p {p:.2g}",
            )
        )
    worst = min(highest_error_above_best(error[name(d, a, "BN")]) for d, a in NETS)
    criteria.append(
        lab.Criterion(
            "BN still fails somewhere: the highest error at rates above the best, lowest of the four nets (%)",
            worst,
            None,
            f"> {chance / 2:g}, half of chance",
            not lab.learned(worst, chance),
        )
    )
    low = LRS.index(LOW_LR)
    notes = lab.at_the_edge(arms, LRS)
    for d, a in NETS:
        gaps = []
        for other in ("none", "none, tuned init"):
            gap = stats.paired(error[name(d, a, "BN")][:, low], error[name(d, a, other)][:, low])
            gaps.append(f"BN minus {other} {gap.interval()}")
        notes.append(f"at lr {LOW_LR:g}, depth {d} {a}, points of test error: {'; '.join(gaps)}")
    split = sum(has_gap(curve, chance) for curves in error.values() for curve in curves)
    notes.append(f"windows with a gap, which does not count: {split} of {sum(map(len, error.values()))}")
    return lab.Analysis(arms, criteria, table, notes)


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    error, looks = curves_of(runs, "test_error"), plots.looks(settings["norms"])
    pictures = []
    titles = [f"{d} hidden layers, {LABELS[a]}" for d, a in NETS]
    fig, axes = plots.panels(titles, (12, 8), "learning rate", "test error (%)", rows=2)
    for ax, (d, a) in zip(axes, NETS, strict=True):
        ax.set(xscale="log", ylim=(0, 95))
        for norm, look in looks.items():
            plots.line_with_band(ax, LRS, error[name(d, a, norm)], norm, **look)
    axes[0].legend()
    fig.suptitle(f"Error against learning rate ({len(settings['seeds'])} seeds, 95 % bands)")
    pictures.append(
        plots.Picture(
            "error_against_lr",
            "Mean test error (%) over seeds with its 95 % band, against the learning rate (logarithmic), for each"
            " of the four nets. The wider the valley, the less the learning rate has to be tuned; 90 % is chance.",
            fig,
        )
    )

    titles = [f"8 layers, {label}, after 50 steps at lr 1" for label in LABELS.values()]
    fig, axes = plots.panels(titles, (11, 4.5), "hidden layer", "RMS of its activations", sharey=False)
    for ax, activation in zip(axes, LABELS, strict=True):
        ax.set_yscale("log" if activation == "relu" else "linear")
        for norm, look in looks.items():
            lr_1 = [r for r in runs if r["arm"] == name(8, activation, norm) and r["lr"] == 1.0]
            curves = [r["rms"] for r in lr_1 if r["rms"]]  # a run that diverged before step 50 has none
            gone = len(lr_1) - len(curves)
            label = f"{norm} ({gone} of {len(lr_1)} diverged)" if gone else norm
            values = np.array(curves) if curves else np.full((1, 8), np.nan)
            plots.line_with_band(ax, np.arange(1, 9), values, label, **look)
        ax.legend()
    axes[1].set_ylim(0, 1)
    pictures.append(
        plots.Picture(
            "activations_against_depth",
            "Root mean square of the activations of each hidden layer (no unit) after 50 steps at learning rate "
            "1, depth 8; mean over seeds with its 95 % band, on a logarithmic axis for ReLU. A line that rises or"
            " falls steeply is a signal that explodes or dies on its way up.",
            fig,
        )
    )
    return pictures


DEMO = lab.Demo(
    name="learning_rate",
    claim="Batch norm widens the range of learning rates that work, but not without limit.",
    presets=PRESETS,
    plan=plan,
    run=run,
    sizes=SIZES,
    analyse=analyse,
    plot=plot,
    cost=cost,
)

if __name__ == "__main__":
    raise SystemExit(lab.main([DEMO]))
