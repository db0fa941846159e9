"""Do sigmoid and tanh nets stop learning because their units saturate, and what does batch norm change?

Far from 0 a sigmoid is flat: sigma' < 0.01, the unit is saturated and passes no gradient on. The textbook's story is
that this is why deep sigmoid nets don't learn, and that batch norm keeps units in the middle, where they are steep.
Half of it is true. Even in the middle sigma' is 1/4 at most, so that every layer takes three quarters of the gradient
away, unless the weights give it back:

    ||dL/dz_l|| <= 1/4 ||W_{l+1}|| ||dL/dz_{l+1}||        (z: inputs of the sigmoids, ||W||: largest singular value)

Nets of depth 1 to 8 with sigmoid, tanh and ReLU are trained without and with batch norm, from PyTorch's default
initialization and from Glorot's (with four times the gain for sigmoid, which undoes the 1/4 near 0). Watched are the
share of flat units in every layer, and the gradient of the first layer's weights over that of the last hidden layer's.
A net of 3 x 100 sigmoids with small normal weights repeats figure 1 of Ioffe & Szegedy (2015).

    python -m demos.saturation --preset full
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import ACTIVATIONS, checkpoints, evaluate, glorot_linear, take_population_statistics, train
from tinygrad_bn import Tensor, grad, manual_seed, nn

SIZES = {"train": 1000, "valid": 297, "test": 500}
DEPTHS = [1, 2, 4, 8]
LABELS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}
VARIANTS = ["none", "none, Glorot", "BN", "BN, Glorot"]
REPLICA = "3x100"
FIXED_LR = 0.3
FLAT = 0.01  # a unit is flat on a row of the data where its derivative is below it
MARGIN = 3.0  # points of test error: within it of guessing is chance

PRESETS = {
    "quick": {
        "seeds": 5,
        "steps": 300,
        "replica_steps": 600,
        "lrs": [0.3, 1.0],
        "limits": "five seeds, two learning rates and 300 steps are hardly a search for the best: a net at chance may "
        "only be slow; the default dataset is not the paper's MNIST",
    },
    "full": {
        "seeds": 8,
        "steps": 1500,
        "replica_steps": 5000,
        "lrs": [0.03, 0.1, 0.3, 1.0, 3.0],
        "limits": "eight seeds, so that five learning rates of every net fit in; 5,000 steps for the 3x100 net instead "
        "of the paper's 50,000; the default dataset is not its MNIST",
    },
}


def name(depth: int | str, activation: str, variant: str) -> str:
    return f"{depth} {activation} {variant}"


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    lab.check_grid(settings, lrs=[FIXED_LR])
    nets = [(d, a, v, 64, 32, "steps") for d in DEPTHS for a in LABELS for v in VARIANTS]
    nets += [(REPLICA, "sigmoid", v, 100, 60, "replica_steps") for v in ("none", "BN")]
    return [
        {
            "arm": name(depth, activation, variant),
            "depth": 3 if depth == REPLICA else depth,
            "width": width,
            "activation": activation,
            "variant": variant,
            "replica": depth == REPLICA,
            "seed": seed,
            "lr": lr,
            "dataset": settings["dataset"],
            "steps": settings[steps],
            "m": m,
        }
        for seed in settings["seeds"]
        for depth, activation, variant, width, m, steps in nets
        for lr in settings["lrs"]
    ]


def net(config: dict[str, Any], features: int, classes: int) -> nn.Sequential:
    """depth hidden layers: linear, [batch norm], activation; then a linear layer."""
    manual_seed(config["seed"])
    width, layers = config["width"], []
    for i in range(config["depth"]):
        size = (width if i else features, width)
        linear = glorot_linear(*size, config["activation"]) if "Glorot" in config["variant"] else nn.Linear(*size)
        if config["replica"]:
            nn.init.normal_(linear.weight, std=0.05)
            nn.init.zeros_(linear.bias)
        norm = [nn.BatchNorm1d(width)] if config["variant"].startswith("BN") else []
        layers += [linear, *norm, ACTIVATIONS[config["activation"]]()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def look_inside(model: nn.Sequential, activation: str, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What the rows x, as one batch, show of every hidden layer: slopes, flat shares, gradients."""
    kind = ACTIVATIONS[activation]
    with nn.watch.activations(model, kind) as calls:
        logits = model(Tensor(x))
    z = [before for before, _ in calls.values()]  # inputs of the activations
    slopes = [nn.watch.slopes(kind(), before) for before in z]
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    norms = [float(np.linalg.norm(g.astype(np.float64))) for g in grad(F.cross_entropy(logits, y), [*z, *weights[:-1]])]
    at_z, at_weights = norms[: len(z)], norms[len(z) :]
    pairs = zip(at_z, at_z[1:], weights[1:], strict=False)
    seen = {
        "flat": [float((slope < FLAT).mean()) for slope in slopes],
        "slope": [float(slope.mean()) for slope in slopes],
        "ratio": at_weights[0] / at_weights[-1] if at_weights[-1] > 0 else 0.0,
        # without a norm: ||dL/dz_l|| / (||W_{l+1}|| ||dL/dz_{l+1}||), the largest of all layers
        "passed_on": max([float(a / (b * np.linalg.norm(w.data, 2))) for a, b, w in pairs if b > 0], default=0.0),
        "percentiles": np.percentile(z[-1].data[:, 0], [15, 50, 85]).tolist(),  # of a unit of the last hidden layer
    }
    return {key: value if np.isfinite(value).all() else None for key, value in seen.items()}  # on the way to divergence


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, y = data["train"]
    model = net(config, x.shape[1], count_classes(data))

    def look() -> dict[str, Any]:
        with np.errstate(all="ignore"):
            return look_inside(model, config["activation"], x[:256], y[:256])

    first, at, history = look(), [0, *checkpoints(config["steps"])], []

    def watch(step: int) -> None:
        """At the fixed learning rate: what the layers look like on the way, of the 3x100 net the error as well."""
        if config["lr"] != FIXED_LR or step not in at:
            return
        seen = look()
        seen["error"] = None
        if config["replica"]:
            with np.errstate(all="ignore"):
                take_population_statistics(model, x)
                seen["error"] = [evaluate(model, *data["test"])[0]]
            model.train()
        history.append({key: seen[key] for key in ("flat", "percentiles", "error")})

    watch(0)
    result = train(model, data, config, watch=watch)
    model.train()
    y_test = data["test"][1]
    return {
        **result,
        "guessing": 100 * float((y_test != np.bincount(y).argmax()).mean()),  # the error of the most frequent class
        "first": first,
        "last": look() if not result["diverged"] else None,
        "history": history,
    }


def decades(looks: np.ndarray) -> np.ndarray:
    """log10 of ||dL/dW_1|| / ||dL/dW_L||, per seed; what underflows counts as 1e-30."""
    return np.log10([max(look["ratio"] or 0.0, 1e-30) for look in looks])


def percent_flat(looks: np.ndarray) -> str:
    """In the layer that has the most flat outputs, mean over seeds."""
    shares = [100 * max(look["flat"]) for look in looks if look]
    return f"{np.mean(shares):.1f}" if shares else "-"


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("test_error", "test_nll", "train_nll", "diverged", "guessing", "first", "last")
    error, nll, train_nll, diverged, guessing, first, last = (
        lab.per_seed(runs, metric, "arm", "lr") for metric in metrics
    )
    best = lab.best_lr(runs)
    ratio = {arm: decades(first[arm, FIXED_LR]) for arm in best}
    columns = [f"error % at lr {FIXED_LR}", "best lr", "error % there", "NLL", "train NLL", "diverged"]
    table = [["net", "variant", *columns, "dW_1 / dW_L", "flat % at first", "at the end"]]
    arms = []
    for arm, lr in best.items():
        at, fixed = (arm, lr), (arm, FIXED_LR)
        learned = lab.learned(error[at].mean(), runs[0]["chance"])
        depth, activation, variant = arm.split(" ", 2)
        row = [f"{depth} {activation}", variant, stats.mean_interval(error[fixed])]
        row += [f"{lr:g}" if learned else "none", f"{error[at].mean():.2f}"]
        row += [f"{nll[at].mean():.3f}", f"{train_nll[at].mean():.3f}"]
        row += [str(sum(int(diverged[arm, lr].sum()) for lr in settings["lrs"])), f"{10 ** ratio[arm].mean():.1e}"]
        table.append([*row, percent_flat(first[fixed]), percent_flat(last[fixed])])
        kept = {"test_error_at_best_lr": error, "test_nll": nll, "train_nll": train_nll, "diverged": diverged}
        arms.append({"arm": arm, "best_lr": lr if learned else None, "test_error": list(error[fixed])})
        arms[-1] |= {metric: list(v[at]) for metric, v in kept.items()} | {"log10_ratio": list(ratio[arm])}

    def at_best(arm: str) -> np.ndarray:
        return error[arm, best[arm]]

    without, tuned, with_bn = (name(8, "sigmoid", variant) for variant in ("none", "none, Glorot", "BN"))
    chance = guessing[without, FIXED_LR]
    stuck, same = stats.paired(at_best(without), chance), stats.tost(at_best(without), chance, MARGIN)
    learns = stats.paired(at_best(with_bn), np.full(len(chance), 10.0))
    gain = stats.paired(ratio[with_bn], ratio[without])
    p_same, p_learns, p_gain = stats.holm([same["p"], learns.p, stats.paired(ratio[with_bn], ratio[without] + 2).p])
    plain = [r for r in runs if r["activation"] == "sigmoid" and not r["variant"].startswith("BN")]
    looks = [look["passed_on"] for r in plain for look in (r["first"], r["last"]) if look]
    passed_on = math.inf if None in looks else max(looks)  # None: not finite
    criteria = [
        lab.Outcome(
            "depth-8 sigmoid without BN, at its best lr: test error minus that of always answering the most frequent "
            "class, points",
            stuck.mean,
            stuck.ci,
            f"chance, within {MARGIN:g} points of 0 (TOST, Holm p < 0.05)",
            lab.equivalent(same, p_same),
            headline=True,
            note=f"90 % interval [{same['ci90'][0]:.2f}, {same['ci90'][1]:.2f}], Holm p {p_same:.2g}",
        ),
        lab.beyond(
            "depth-8 sigmoid with BN, at its best lr: test error, %",
            *stats.mean_ci(at_best(with_bn)),
            p_learns,
            below=10,
            note=f"BN minus none: {stats.points(stats.paired(at_best(with_bn), at_best(without)))}",
            headline=True,
        ),
        lab.beyond(
            "depth-8 sigmoid at the start: ||dL/dW_1|| / ||dL/dW_8|| with BN over that without, in powers of ten",
            gain.mean,
            gain.ci,
            p_gain,
            above=2,  # 100 times
            details=gain.details(above="larger"),
            headline=True,
        ),
        lab.Outcome(
            "sigmoid nets without BN: ||dL/dz_l|| / (||W_{l+1}|| ||dL/dz_{l+1}||), the largest of all layers and runs",
            passed_on,
            None,
            "<= 0.25, up to float32's rounding (1e-5)",
            lab.exactly(passed_on <= 0.25 * (1 + 1e-5)),
            kind=lab.IDENTITY,
        ),
    ]
    slope = {arm: np.mean([np.mean(look["slope"]) for look in first[arm, FIXED_LR]]) for arm in (without, with_bn)}
    notes = [
        "is it saturation? Depth-8 sigmoid at the start, without BN: in the flattest layer "
        f"{percent_flat(first[without, FIXED_LR])} % of the outputs are flat, mean of sigma' {slope[without]:.3f} "
        f"(at most 0.25), dW_1 / dW_8 is {10 ** ratio[without].mean():.1e}; with BN: "
        f"{percent_flat(first[with_bn, FIXED_LR])} %, {slope[with_bn]:.3f} (0.207 for inputs from N(0, 1)), "
        f"{10 ** ratio[with_bn].mean():.1e}",
        "how far the rows of the data are apart in what enters one of its last sigmoids (15th to 85th percentile): "
        f"{spread(first[without, FIXED_LR]):.1e} without BN, {spread(first[with_bn, FIXED_LR]):.2g} with it",
        f"depth-8 sigmoid from Glorot's initialization with gain 4, no BN, at its best lr: error "
        f"{at_best(tuned).mean():.2f} %; BN minus this: {stats.points(stats.paired(at_best(with_bn), at_best(tuned)))}",
    ]
    notes += lab.at_the_edge(arms, settings["lrs"])
    for what in ("8 tanh", "8 relu", f"{REPLICA} sigmoid"):
        bn, none = at_best(f"{what} BN"), at_best(f"{what} none")
        notes.append(
            f"{what}: BN minus none, each at its best lr: {stats.points(stats.paired(bn, none))}; "
            f"none {none.mean():.2f} %"
        )
    return lab.Analysis(arms, criteria, table, notes)


def spread(looks: np.ndarray) -> float:
    return float(np.mean([look["percentiles"][2] - look["percentiles"][0] for look in looks]))


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    first = lab.per_seed(runs, "first", "arm", "lr")
    at_fixed_lr = sorted((r for r in runs if r["lr"] == FIXED_LR), key=lambda r: r["seed"])

    def series(arm: str, points: int, key: str, i: int) -> np.ndarray:
        """(seed, checkpoint) -> number i of what was seen; nan after a run has diverged."""
        histories = [r["history"] for r in at_fixed_lr if r["arm"] == arm]
        seen = [[np.nan if look[key] is None else look[key][i] for look in looks] for looks in histories]
        return np.array([row + [np.nan] * (points - len(row)) for row in seen])

    looks = plots.looks(VARIANTS)
    titles = list(LABELS.values())
    fig, row = plots.panels(titles, (13, 4.8), "depth L (hidden layers)", "||dL/dW$_1$|| / ||dL/dW$_L$||")
    for ax, activation in zip(row, LABELS, strict=True):
        ax.set(yscale="log", xticks=DEPTHS)
        for variant, look in looks.items():
            ratios = [10 ** decades(first[name(d, activation, variant), FIXED_LR]) for d in DEPTHS]
            plots.line_with_band(ax, DEPTHS, np.column_stack(ratios), variant, **look)
    row[0].legend(loc="lower left")
    pictures = [
        plots.Picture(
            "gradient_ratio",
            "At the start, before any step: the norm of the gradient of the first hidden layer's weights over that of "
            "the last one's (no unit, logarithmic) against the depth; geometric mean over seeds with its 95 % band. A "
            "line that falls steeply is a gradient that vanishes on its way down; at 1 it arrives.",
            fig,
        )
    ]

    titles = [f"{label}, {variant}" for label in LABELS.values() for variant in VARIANTS]
    fig, axes = plots.panels(titles, (14, 9), "step", rows=3, sharey="row")
    at = [0, *checkpoints(settings["steps"])]
    for row, activation in zip(np.reshape(axes, (3, 4)), LABELS, strict=True):
        for ax, variant in zip(row, VARIANTS, strict=True):
            for layer, look in plots.looks([1, 2, 4, 8]).items():
                shares = 100 * series(name(8, activation, variant), len(at), "flat", layer - 1)
                plots.line_with_band(ax, at, shares, f"layer {layer}", **look)
            ax.set_xscale("symlog", linthresh=1)
        highest = np.nanmax([line.get_ydata() for ax in row for line in ax.lines])
        row[0].set(
            ylabel=f"{'zero' if activation == 'relu' else 'flat'} outputs (%)", ylim=(-0.02, max(1, 1.3 * highest))
        )
    axes[0].set_xlim(-0.1, 1.3 * at[-1])
    axes[0].legend()
    pictures.append(
        plots.Picture(
            "flat_share",
            f"Share (%) of outputs with a derivative below {FLAT} (ReLU: of zeros) in layers 1, 2, 4 and 8 of nets of "
            f"depth 8, against the step (0, then logarithmic), at lr {FIXED_LR}; mean over seeds with its 95 % band, a "
            "gap where a run has diverged; each row has its own scale, that of the lines (a band may go beyond). "
            "Look whether the nets that don't learn are those with many flat outputs.",
            fig,
        )
    )

    titles = [f"3 x 100 sigmoids, lr {FIXED_LR}", "none, one seed", "BN, one seed"]
    fig, row = plots.panels(titles, (13, 4.5), "step", "test error (%)", sharey=False)
    row[2].sharey(row[1])
    at = [0, *checkpoints(settings["replica_steps"])]
    for ax, variant in zip(row[1:], ("none", "BN"), strict=True):
        arm, look = name(REPLICA, "sigmoid", variant), looks[variant]
        plots.line_with_band(row[0], at, series(arm, len(at), "error", 0), variant, **look)
        for i, percentile in enumerate((15, 50, 85)):
            line = series(arm, len(at), "percentiles", i)[0]
            ax.plot(at, line, color=look["color"], ls=("--", "-", ":")[i], label=f"{percentile}th percentile")
        ax.set_ylabel("input of a last-layer sigmoid")
    row[0].set_ylim(0, 100)
    row[0].set_xscale("symlog", linthresh=1)
    row[0].set_xlim(-0.1, 1.3 * at[-1])
    row[0].legend()
    row[1].legend()
    pictures.append(
        plots.Picture(
            "three_layers",
            "A net of 3 x 100 sigmoids from small normal weights, after figure 1 of Ioffe & Szegedy. Left: test error "
            "(%) against the step (0, then logarithmic), mean over seeds with its 95 % band. Middle and right: the "
            "15th, 50th and 85th percentile, over 256 training rows, of what enters one sigmoid of the last hidden "
            f"layer (no unit; seed {settings['seeds'][0]}). Where the three lines coincide, the unit can't tell the "
            "rows apart. Beyond +-4.6 a sigmoid is flat.",
            fig,
        )
    )
    return pictures


def cost(config: dict[str, Any]) -> float:
    return config["steps"] * config["depth"] * (2 if config["variant"].startswith("BN") else 1)


DEMO = lab.Demo(
    name="saturation",
    claim="Batch norm makes deep sigmoid nets trainable: gradients reach the first layer, saturated units or not.",
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
