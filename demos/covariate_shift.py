"""Is internal covariate shift the reason why batch norm helps?

The claim: layers learn slowly because the distribution of their inputs moves whenever the layers below learn, and batch
norm helps by holding it still. If so, a net whose distributions move MORE than those of a plain net must not learn
better than it. Santurkar et al. 2018 built one, "noisy" batch norm: behind each norm every unit is shifted and scaled
at random, by a distribution that is new at each step. Five hidden layers of 64 are trained without norm, with batch
norm, with noisy batch norm (the noise of the paper, and three times as much), and without norm but with that noise,
so that the noise itself is not taken for the cause. Measured besides error and loss:

- drift: how far the 15th, 50th and 85th percentiles of a unit's input to the activation move in 50 steps (and in one);
- gradient shift: how much a layer's gradient changes when the layers below it have made their step;
- growth: a small change of the first layer, in each layer above (the butterfly effect of depth);
- coupling: whether the answer for an image depends on the other images in its batch.

    python -m demos.covariate_shift --preset full
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import ACTIVATIONS, NOISE, glorot_linear, he_linear, stream, train
from tinygrad_bn import Tensor, fresh, manual_seed, nn, no_grad

M, DEPTH, WIDTH, FIXED_LR = 32, 5, 64, 0.1
SIZES = {"train": 1000, "valid": 297, "test": 500}
EVERY = 50  # steps from one measurement to the next
PROBE = 256  # training images on which distributions are measured
FITTED = 0.5  # nats of training loss; how soon a net gets there is its speed
PERCENTILES = (15, 50, 85)  # those of Ioffe & Szegedy 2015, figure 1
LABELS = {"relu": "ReLU", "sigmoid": "sigmoid"}

# norm: (batch norm, strength of the noise)
NORMS: dict[str, tuple[bool, float]] = {
    "no norm": (False, 0.0),
    "BN": (True, 0.0),
    "noisy BN x1": (True, 1.0),
    "noisy BN x3": (True, 3.0),
    "no norm + noise x1": (False, 1.0),
    "no norm + noise x3": (False, 3.0),
}
NOISY = ["noisy BN x1", "noisy BN x3"]

PRESETS = {
    "quick": {
        "seeds": 5,
        "steps": 1500,
        "lrs": [FIXED_LR],
        "limits": "five seeds give wide intervals; one learning rate: no arm has its best.",
    },
    "full": {
        "seeds": 20,
        "steps": 1500,
        "lrs": [0.03, FIXED_LR, 0.3, 1.0, 3.0],
    },
}


def name(activation: str, norm: str) -> str:
    return f"{LABELS[activation]}, {norm}"


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    lab.check_grid(settings, lrs=[FIXED_LR])
    if settings["steps"] < EVERY:  # drift is measured from one look to the next
        raise ValueError(f"the preset's steps must be at least {EVERY}, got {settings['steps']}")
    return [
        {
            "arm": name(activation, norm),
            "activation": activation,
            "norm": norm,
            "seed": seed,
            "lr": lr,
            "dataset": settings["dataset"],
            "steps": settings["steps"],
            "m": M,
        }
        for seed in settings["seeds"]
        for activation in LABELS
        for norm in NORMS
        for lr in settings["lrs"]
    ]


# --- the net


class MovingNoise(nn.Module):
    """y = scale x + shift with noise whose distribution moves (Santurkar et al. 2018, noisy batch norm; k = 1 there).

    Each step draws mu ~ k U(-0.5, 0.5) and sigma ~ 1 + k U(0, 0.25) per unit, then shift ~ mu + k U(-0.1, 0.1) and
    scale ~ sigma + k N(0, 0.1^2) per image and unit. In eval mode both are what they are on average, as in dropout.
    """

    def __init__(self, k: float, seed: int, layer: int) -> None:
        super().__init__()
        self.k, self.random = k, stream(seed, NOISE, layer)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 + 0.125 * self.k)
        scale, shift = fresh(self._noise, x)
        return x * scale + shift

    def _noise(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        units, draw = x.shape[1], self.random
        mu, sigma = draw.uniform(-0.5, 0.5, units), draw.uniform(0, 0.25, units)
        shift = self.k * (mu + draw.uniform(-0.1, 0.1, x.shape))
        scale = 1 + self.k * (sigma + 0.1 * draw.standard_normal(x.shape))
        return scale.astype(x.dtype), shift.astype(x.dtype)


def net(config: dict[str, Any], features: int, classes: int) -> nn.Sequential:
    """Five hidden layers of 64: linear, [batch norm], [noise], activation; then a linear layer.

    Each activation has its own initialization, He's or Glorot's: the net without norm is no straw man.
    """
    manual_seed(config["seed"])
    batch_norm, k = NORMS[config["norm"]]
    layers: list[nn.Module] = []
    for i in range(DEPTH):
        size = (WIDTH if i else features, WIDTH)
        layers.append(he_linear(*size) if config["activation"] == "relu" else glorot_linear(*size, "sigmoid"))
        if batch_norm:
            layers.append(nn.BatchNorm1d(WIDTH))
        if k:
            layers.append(MovingNoise(k, config["seed"], i))
        layers.append(ACTIVATIONS[config["activation"]]())
    return nn.Sequential(*layers, nn.Linear(WIDTH, classes))


# --- measurements, each on a copy of the net: training does not notice, and a copy draws the same noise as its original


def forward(model: nn.Sequential, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In training mode: the inputs of the activations (layer, image, unit), and the logits."""
    model = copy.deepcopy(model).train()
    with no_grad(), nn.watch.activations(model, tuple(ACTIVATIONS.values())) as seen:
        logits = model(Tensor(x))
    return np.array([z.data.astype(np.float64) for z, _ in seen.values()]), logits.data


def layers_of(model: nn.Sequential) -> list[list[nn.Parameter]]:
    """The parameters of each layer: of a linear layer (its weight comes first) and of the norm behind it."""
    layers: list[list[nn.Parameter]] = []
    for module in model:
        if isinstance(module, nn.Linear):
            layers.append([])
        layers[-1] += module.parameters()
    return layers


def gradients(model: nn.Sequential, x: np.ndarray, y: np.ndarray) -> list[list[np.ndarray]]:
    layers = layers_of(model)
    model.zero_grad()
    F.cross_entropy(model(Tensor(x)), y).backward()
    return [[p.grad for p in layer] for layer in layers]


def gradient_shift(model: nn.Sequential, x: np.ndarray, y: np.ndarray, lr: float) -> tuple[float, float]:
    """Cosine and relative L2 distance of a layer's gradient before and after the layers below it make their SGD step.

    The same batch and the same noise before and after; means over all layers but the first. Santurkar et al. 2018,
    definition 2.1.
    """
    before = gradients(copy.deepcopy(model).train(), x, y)
    cosines, distances = [], []
    for i in range(1, len(before)):
        moved = copy.deepcopy(model).train()
        for parameters, steps in zip(layers_of(moved)[:i], before, strict=False):
            for p, step in zip(parameters, steps, strict=True):
                p.data -= lr * step
        a, b = (g[i][0].astype(np.float64).ravel() for g in (before, gradients(moved, x, y)))
        size = np.linalg.norm(a)
        cosines.append(a @ b / (size * np.linalg.norm(b)))
        distances.append(np.linalg.norm(a - b) / size)
    return float(np.mean(cosines)), float(np.mean(distances))


def growth(model: nn.Sequential, x: np.ndarray, seed: int) -> list[float]:
    """A random change of the first weights by a thousandth of their norm: how large is it in each layer above?

    The change of the activations' inputs, relative to their spread over the images, and to that in the first layer.
    """
    changed = copy.deepcopy(model)
    weight = next(changed.parameters())
    direction = stream(seed, NOISE, DEPTH).standard_normal(weight.shape).astype(np.float32)
    weight.data += 1e-3 * np.linalg.norm(weight.data) / np.linalg.norm(direction) * direction
    before, after = forward(model, x)[0], forward(changed, x)[0]
    spread = before - before.mean(axis=1, keepdims=True)
    relative = np.sqrt(((after - before) ** 2).sum(axis=(1, 2)) / (spread**2).sum(axis=(1, 2)))
    return (relative / relative[0]).tolist()


def coupling(model: nn.Sequential, x: np.ndarray, other: np.ndarray) -> float:
    """Another image in the first row: the change of the OTHER rows' logits, relative to the logits' deviation."""
    exchanged = np.concatenate([other[None], x[1:]])
    before, after = forward(model, x)[1], forward(model, exchanged)[1]
    return float(np.sqrt(np.mean((after - before)[1:] ** 2)) / before.std())


def percentile_drift(before: list[dict[str, np.ndarray]], after: list[dict[str, np.ndarray]]) -> float:
    """How far percentiles move from each before[i] to after[i], in standard deviations of the unit.

    A mean over percentiles, units, layers and times; nan where nothing finite was measured.
    """
    moved = [
        float((np.abs(b["percentiles"] - a["percentiles"]) / ((a["std"] + b["std"]) / 2 + 1e-12)).mean())
        for a, b in zip(before, after, strict=True)
    ]
    return mean_of_finite(moved)


def mean_of_finite(values: Iterable[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, y = data["train"]
    probe, labels = x[:PROBE], y[:PROBE]
    model = net(config, x.shape[1], count_classes(data))
    now: list[dict[str, np.ndarray]] = []  # the distributions every EVERY steps
    one_later: list[dict[str, np.ndarray]] = []  # and one step later
    losses, shifts = [], []

    def watch(step: int) -> None:
        if step % EVERY > 1:
            return
        with np.errstate(all="ignore"):
            inputs, logits = forward(model, probe)
            distribution = {"percentiles": np.percentile(inputs, PERCENTILES, axis=1), "std": inputs.std(axis=1)}
            if step % EVERY == 1:
                one_later.append(distribution)
                return
            now.append(distribution)
            losses.append(F.cross_entropy(Tensor(logits), labels).item())
            shifts.append(gradient_shift(model, x[:M], y[:M], config["lr"]))

    watch(0)  # before training
    at_start = growth(model, probe, config["seed"])
    result = train(model, data, config, watch=watch)
    times = config["steps"] // EVERY + 1
    with np.errstate(all="ignore"):
        return {
            **result,
            "drift": percentile_drift(now[:-1], now[1:]),
            "drift_of_a_step": percentile_drift(now[: len(one_later)], one_later),
            "gradient_cosine": mean_of_finite([cosine for cosine, _ in shifts]),
            "gradient_distance": mean_of_finite([distance for _, distance in shifts]),
            "growth_at_start": at_start,
            "growth": growth(model, probe, config["seed"]),
            "coupling": coupling(model, x[:M], x[M]),
            "steps_to_fit": EVERY * next((i for i, loss in enumerate(losses) if loss < FITTED), times - 1),
            # of the probe, every EVERY steps
            "loss": losses + [float("nan")] * (times - len(losses)),
            "unit": [d["percentiles"][:, -1, 0].tolist() for d in now],  # the first unit of the last hidden layer
        }


# --- what the runs say


def difference(table: dict[tuple[str, float], np.ndarray], a: tuple[str, float], b: tuple[str, float]) -> stats.Paired:
    """a - b over the seeds where both were measured: the drift of a run that diverges at once is not."""
    both = np.isfinite(table[a]) & np.isfinite(table[b])
    if not both.any():
        nan = float("nan")
        return stats.Paired(0, nan, (nan, nan), nan, nan, nan)
    return stats.paired(table[a][both], table[b][both])


def left_out(d: stats.Paired, settings: dict[str, Any]) -> str:
    missing = len(settings["seeds"]) - d.n
    return (
        f" ({missing} of {len(settings['seeds'])} seeds left out: not measured where a run diverged)" if missing else ""
    )


METRICS = {
    "test_nll": "NLL",
    "train_nll": "train NLL",
    "drift": "drift",
    "drift_of_a_step": "in a step",
    "gradient_cosine": "cosine",
    "gradient_distance": "distance",
}


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = {metric: lab.per_seed(runs, metric, "arm", "lr") for metric in METRICS}
    error, grown, diverged = (lab.per_seed(runs, m, "arm", "lr") for m in ("test_error", "growth", "diverged"))
    best, several = lab.best_lr(runs), len(settings["lrs"]) > 1
    table = [[f"at lr {FIXED_LR}", "error %", *METRICS.values(), "growth", "diverged", "best lr", "error % there"]]
    arms = []
    for arm in best:
        fixed, at_best = (arm, FIXED_LR), (arm, best[arm])
        learned = several and lab.learned(error[at_best].mean(), runs[0]["chance"])
        row = [arm, stats.mean_interval(error[fixed])]
        row += [f"{m[fixed].mean():.3f}" for m in metrics.values()]
        row += [f"{grown[fixed][:, -1].mean():.2f}", str(int(sum(diverged[arm, lr].sum() for lr in settings["lrs"])))]
        table.append([*row, f"{best[arm]:g}" if learned else "-", f"{error[at_best].mean():.2f}" if learned else "-"])
        arms.append({"arm": arm, "best_lr": best[arm] if learned else None, "test_error": list(error[fixed])})
        arms[-1] |= {metric: list(v[fixed]) for metric, v in metrics.items()} | {"growth": grown[fixed].tolist()}
        arms[-1] |= {"test_error_at_best_lr": list(error[at_best]), "diverged": list(diverged[fixed])}

    planned = []  # where it is looked at; arm and learning rate of a noisy BN, and of no norm
    for where in ("at lr 0.1", "at each arm's best lr")[: 1 + several]:
        for activation in LABELS:
            for norm in NOISY:
                arms_there = name(activation, norm), name(activation, "no norm")
                a, b = ((arm, FIXED_LR if where == "at lr 0.1" else best[arm]) for arm in arms_there)
                planned.append((where, a, b))
    places: dict[Any, list[str]] = {}  # where 0.1 is the best rate of both, these are the same runs: one criterion
    for where, a, b in planned:
        places.setdefault((a, b), []).append(where)
    tests = {pair: (difference(error, *pair), difference(metrics["drift"], *pair)) for pair in places}
    # both must hold: the larger p counts; Holm's correction is for all that was planned, and keeps equal p's equal
    larger = [float(np.maximum(*(d.p for d in tests[a, b]))) for _, a, b in planned]
    adjusted = {(a, b): p for (_, a, b), p in zip(planned, stats.holm(larger), strict=True)}
    criteria = []
    for pair, where in places.items():
        (d, more), p = tests[pair], adjusted[pair]
        criteria.append(
            lab.Outcome(
                f"{pair[0][0]}, {' and '.join(where)}: drifts more than no norm AND errs less; test error minus that "
                "of no norm, points",
                d.mean,
                d.ci,
                "interval below 0 and that of the drift above 0, Holm p < 0.05",
                lab.verdict(min(lab.side_of(d.ci, below=0), lab.side_of(more.ci, above=0)), p),
                headline=not criteria,
                note=f"drift minus that of no norm {more.interval('.3f')} deviations{left_out(more, settings)}; "
                f"error: {d.details('less')}; Holm p {p:.2g}",
            )
        )
    learned = [r for r in runs if lab.learned(r["test_error"], r["chance"])]
    with_norm, without = ([r["coupling"] for r in learned if NORMS[r["norm"]][0] == b] for b in (True, False))
    criteria.append(
        lab.Outcome(
            "batch norm couples the images of a batch: one is replaced, change of the others' logits, least of all",
            min(with_norm, default=float("nan")),
            None,
            "> 0, and exactly 0 in every net without batch norm",
            lab.exactly(min(with_norm, default=0) > 0 and max(without, default=1) == 0),
            note=f"without: {max(without, default=float('nan')):g}; "
            f"of the nets that learn, {len(learned)} of {len(runs)}",
        )
    )
    return lab.Analysis(arms, criteria, table, notes(runs, settings) + lab.at_the_edge(arms, settings["lrs"]))


def notes(runs: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """What no criterion asks: the noise by itself, the speed, drift from step to step, gradient shift, growth."""
    noises = [f"no norm + noise {k}" for k in ("x1", "x3")]
    speed = f"steps until the training loss is below {FITTED} (measured every {EVERY}; all of them, if never)"
    comparisons = {
        "test error (points)": ("test_error", [("BN", "no norm"), *((n, "BN") for n in NOISY)]),
        "the noise alone, test error (points)": ("test_error", [(n, "no norm") for n in noises]),
        speed: ("steps_to_fit", [("BN", "no norm"), *((n, "no norm") for n in NOISY)]),
        "drift from one step to the next (deviations)": ("drift_of_a_step", [(n, "no norm") for n in NOISY]),
        "gradient before and after the step below, cosine (no claim)": ("gradient_cosine", [("BN", "no norm")]),
        "the same, relative L2 distance (no claim)": ("gradient_distance", [("BN", "no norm")]),
    }
    lines = []
    for activation in LABELS:
        for what, (metric, pairs) in comparisons.items():
            table, found = lab.per_seed(runs, metric, "arm", "lr"), []
            for a, b in pairs:
                d = difference(table, *((name(activation, norm), FIXED_LR) for norm in (a, b)))
                found.append(f"{a} minus {b} {d.interval('.3g')}{left_out(d, settings)}")
            lines.append(f"{LABELS[activation]} at lr {FIXED_LR}, {what}: {', '.join(found)}")
        start, end, gone = (
            lab.per_seed(runs, metric, "arm", "lr") for metric in ("growth_at_start", "growth", "diverged")
        )
        for arm in (name(activation, norm) for norm in ("no norm", "BN")):
            after = ", ".join(
                f"{_trained(end[arm, lr][:, -1], gone[arm, lr])} after it at lr {lr:g}" for lr in settings["lrs"]
            )
            before = f"{start[arm, FIXED_LR][:, -1].mean():.2f} before training"
            lines.append(f"{arm}: a small change of layer 1 is, in layer {DEPTH}, times {before}, {after}")
    return lines


def _trained(values: np.ndarray, diverged: np.ndarray) -> str:
    """The mean over the runs that did not diverge; how many did is said."""
    good = values[~diverged.astype(bool)]
    gone = f" ({diverged.sum()} of {len(values)} diverged)" if len(good) < len(values) else ""
    return (f"{good.mean():.2f}" if len(good) else "none") + gone


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    metrics = ("test_error", "drift", "loss", "growth")
    error, moved, loss, grown = (lab.per_seed(runs, metric, "arm", "lr") for metric in metrics)
    seeds, looks = f"{len(settings['seeds'])} seeds", plots.looks(list(NORMS))
    titles = [f"{DEPTH} hidden layers, {label}" for label in LABELS.values()]
    pictures = []

    xlabel = f"drift in {EVERY} steps (standard deviations)"
    fig, axes = plots.panels(titles, (12, 5), xlabel, "test error (%)", sharex=False, sharey=False)
    for ax, activation in zip(axes, LABELS, strict=True):
        for norm, look in looks.items():
            x, y = (table[name(activation, norm), FIXED_LR] for table in (moved, error))
            one = {**look, "linestyle": ""}
            ax.plot(x, y, **one, alpha=0.4, mew=0)
            ax.plot(mean_of_finite(x), y.mean(), **one, ms=11, mec=plots.INK, label=norm)
        ax.set(xscale="log", yscale="log")
        plots.label_decades(ax.xaxis)
        plots.label_decades(ax.yaxis)
    axes[0].legend()
    fig.suptitle(f"Does the net whose distributions move more learn less? (lr {FIXED_LR}, {seeds})")
    pictures.append(
        plots.Picture(
            "drift_against_error",
            f"Test error (%) against the drift of the distributions: how far the percentiles of a unit's input move in "
            f"{EVERY} steps, in its standard deviations; axes logarithmic. Small markers are runs, large ones means. "
            "If drift were what harms, all points would lie on one rising line; a noisy BN to the right of and below "
            "the net without norm contradicts that.",
            fig,
        )
    )

    fig, axes = plots.panels(titles, (12, 5), "step", "training loss (nats)")
    for ax, activation in zip(axes, LABELS, strict=True):
        ax.set_yscale("log")
        for norm, look in looks.items():
            curves = loss[name(activation, norm), FIXED_LR]
            plots.line_with_band(ax, EVERY * np.arange(curves.shape[1]), curves, norm, **look, markevery=4)
    axes[0].legend(fontsize=8)
    fig.suptitle(
        f"Loss of {PROBE} training images, with batch statistics and noise (lr {FIXED_LR}, {seeds}, 95 % bands)"
    )
    pictures.append(
        plots.Picture(
            "loss",
            "Training loss (nats, logarithmic) against the step; geometric mean over seeds with its 95 % band. Look at "
            "how fast noisy BN falls, whose distributions move at every step, beside the net without norm, and at what "
            "the same noise does without batch norm.",
            fig,
        )
    )

    layers = range(1, DEPTH + 1)
    fig, axes = plots.panels(titles, (12, 4.5), "hidden layer", "size, relative to that in layer 1")
    for ax, activation in zip(axes, LABELS, strict=True):
        ax.set(yscale="log", xticks=layers)
        for norm in ("no norm", "BN", "noisy BN x1"):
            plots.line_with_band(ax, layers, grown[name(activation, norm), FIXED_LR], norm, **looks[norm])
        plots.label_decades(ax.yaxis)
    axes[0].legend()
    fig.suptitle(f"A small change of the first layer on its way up (after training at lr {FIXED_LR}, {seeds})")
    pictures.append(
        plots.Picture(
            "growth",
            "The first layer's weights are changed at random by a thousandth of their norm: change of each layer's "
            "inputs to the activation relative to their spread over images, and to that in layer 1 (logarithmic), mean "
            "over seeds with its 95 % band. A line that rises is a change that grows with depth.",
            fig,
        )
    )

    arms = [name(activation, norm) for activation in LABELS for norm in ("no norm", "BN", "noisy BN x1")]
    fig, axes = plots.panels(arms, (12, 6), "step", "input of the unit", rows=2, sharey=False)
    for ax, arm in zip(axes, arms, strict=True):
        one = next(r for r in runs if r["arm"] == arm and r["lr"] == FIXED_LR)
        for curve, p, dashes in zip(np.array(one["unit"]).T, PERCENTILES, (":", "-", "--"), strict=True):
            ax.plot(EVERY * np.arange(len(curve)), curve, dashes, color=looks[one["norm"]]["color"], label=f"{p} %")
    axes[2].legend(title="percentile", loc="center left", bbox_to_anchor=(1, 0.5))
    pictures.append(
        plots.Picture(
            "one_unit",
            "One unit of the last hidden layer, one seed: the 15th, 50th and 85th percentiles, over training images, "
            f"of its input to the activation (no unit) against the step, every {EVERY} steps at lr {FIXED_LR}, as in "
            "figure 1 of Ioffe & Szegedy 2015; each panel has its own scale. "
            "Flat lines are what batch norm promises; with noise they jump.",
            fig,
        )
    )
    return pictures


def cost(config: dict[str, Any]) -> float:
    return NORMS[config["norm"]][0] + (NORMS[config["norm"]][1] > 0)


DEMO = lab.Demo(
    name="covariate_shift",
    claim="With noise behind it, batch norm can make distributions move more than without norm, and the net errs less.",
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
