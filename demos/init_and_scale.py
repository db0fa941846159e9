"""Does batch norm make a net insensitive to the scale of its initial weights?

A well-known article, "Batch Normalization in theory and practice" (zhihu.com, 34879333), trains a sigmoid and a ReLU
net from small and from huge weights, N(0, 0.05^2) and N(0, 10^2), with a small and a large learning rate, without and
with batch norm before each activation: eight cells, one seed each. Here are the same cells with several seeds. The
output layer has no norm behind it, so its huge weights stay huge: in a control arm it starts from N(0, 0.05^2).

What batch norm promises exactly is less than "insensitive", and can be checked to the last digits. With eps = 0 the
output of BN(W x) does not change when W becomes a W. Three identities follow for every weight matrix before a norm:

    (W, lr) and (a W, a^2 lr) give the same training run: only lr / ||W||^2 counts (a power of two is exact, as
        it changes exponents and no digits)
    <w, dL/dw> = 0 for the weights w of each unit: the gradient is orthogonal to them
    ||W_T||^2 - ||W_0||^2 = sum over t of lr^2 ||dL/dW_t||^2: under plain SGD they can only grow

    python -m demos.init_and_scale --preset full
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import ACTIVATIONS, batches, checkpoints, evaluate, take_population_statistics, train
from tinygrad_bn import Tensor, manual_seed, nn, optim

M, WIDTH, DEPTH = 60, 128, 3
SIZES = {"train": 1297, "test": 500}
LABELS = {"relu": "ReLU", "sigmoid": "sigmoid"}
SMALL, HUGE = 0.05, 10.0
Cell = tuple[float, float, str, float]

# cell (std of the weights, lr, activation, std of the output layer): the article's accuracy without and with batch norm
ARTICLE: dict[Cell, tuple[float, float]] = {
    (SMALL, 0.01, "relu", SMALL): (0.9746, 0.9801),
    (SMALL, 0.01, "sigmoid", SMALL): (0.8570, 0.9700),
    (SMALL, 2.0, "relu", SMALL): (0.0982, 0.9805),
    (SMALL, 2.0, "sigmoid", SMALL): (0.9784, 0.9802),
    (HUGE, 0.01, "relu", HUGE): (0.0980, 0.7728),
    (HUGE, 0.01, "sigmoid", HUGE): (0.2897, 0.8496),
    (HUGE, 2.0, "relu", HUGE): (0.0980, 0.0974),  # two constant predictors, which have no sign
    (HUGE, 2.0, "sigmoid", HUGE): (0.0980, 0.9354),
}
AHEAD = [cell for cell, (without, with_bn) in ARTICLE.items() if with_bn > without]  # seven of the eight
CONTROLS: list[Cell] = [(HUGE, lr, activation, SMALL) for lr in (0.01, 2.0) for activation in LABELS]
NORMS = ["none", "BN"]

# the identities' arms: batch norm or not, and eps; each is trained from W, 8 W, 10 W and 200 W, the last of which leads
# from N(0, 0.05^2) to N(0, 10^2)
IDENTITIES = {"BN, eps=0": (True, 0.0), "BN, eps=1e-5": (True, 1e-5), "none": (False, 0.0)}
FACTORS = (8, 10, 200)
IDENTITY_LR, EXACT = 0.1, 1e-10

PRESETS = {
    "quick": {
        "seeds": 4,
        "steps": 1000,
        "identity_steps": 50,
        "limits": "four seeds and 1,000 steps: cells that learn slowly are far from their end, so that the signs and "
        "not the sizes of the differences can be read; the default dataset is not the article's MNIST",
    },
    "full": {
        "seeds": 20,
        "steps": 3000,
        "identity_steps": 100,
        "limits": "3,000 steps instead of the article's 50,000; the default dataset is not its MNIST",
    },
}


def name(cell: Cell) -> str:
    std, lr, activation, output_std = cell
    return f"{std:g} / {lr:g} / {LABELS[activation]}" + (f", output {output_std:g}" if output_std != std else "")


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    configs = []
    for seed in settings["seeds"]:
        common = {"seed": seed, "dataset": settings["dataset"], "m": M}
        for cell in (*ARTICLE, *CONTROLS):
            for norm in NORMS:
                own = {"kind": "cell", "cell": cell, "norm": norm, "lr": cell[1], "steps": settings["steps"]}
                configs.append({"arm": f"{name(cell)}, {norm}", **common, **own})
        for arm in IDENTITIES:
            configs.append({"arm": arm, **common, "kind": "identity", "steps": settings["identity_steps"]})
    return configs


def net(data: dict[str, Any], seed: int, cell: Cell, norm: bool, eps: float = 1e-5) -> nn.Sequential:
    """features-128-128-128-classes: linear, [batch norm], activation; the weights of all cells differ in scale only."""
    manual_seed(seed)
    std, _, activation, output_std = cell
    sizes = [data["train"][0].shape[1], *[WIDTH] * DEPTH, count_classes(data)]
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        nn.init.normal_(layers[-1].weight, std=std if i < DEPTH else output_std)
        nn.init.zeros_(layers[-1].bias)
        if i < DEPTH:
            layers += [*([nn.BatchNorm1d(WIDTH, eps)] if norm else []), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def hidden(model: nn.Sequential) -> list[nn.Linear]:
    """The linear layers that have the norm behind them, if there is one: all but the output layer."""
    return [layer for layer in model if isinstance(layer, nn.Linear)][:-1]


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    return train_cell(config, data) if config["kind"] == "cell" else check_identities(config, data)


def train_cell(config: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    model = net(data, config["seed"], config["cell"], config["norm"] == "BN")
    start = [layer.weight.data.copy() for layer in hidden(model)]
    at, curve = checkpoints(config["steps"]), []

    def watch(step: int) -> None:
        if step in at:
            with np.errstate(all="ignore"):
                take_population_statistics(model, data["train"][0])
                curve.append(evaluate(model, *data["test"])[0])
            model.train()

    result = train(model, data, config, watch=watch)
    with np.errstate(all="ignore"):  # how far the hidden weights went, in units of where they started
        pairs = zip(start, hidden(model), strict=True)
        moved = float(np.mean([nn.watch.update_ratio(before, layer.weight.data) for before, layer in pairs]))
    curve += [result["chance"]] * (len(at) - len(curve))  # diverged on the way
    return {**result, "curve": curve, "moved": moved if np.isfinite(moved) else None}


def check_identities(config: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """In float64, nets that start from W, 8 W, 10 W and 200 W take the same batches side by side, with lr a^2."""
    norm, eps = IDENTITIES[config["arm"]]
    nets, optimizers = {}, {}
    for a in (1, *FACTORS):
        nets[a] = net(data, config["seed"], (SMALL, IDENTITY_LR, "relu", SMALL), norm, eps).double()
        scaled = [p for layer in hidden(nets[a]) for p in layer.parameters()]  # a (W x + b): the biases as well
        for p in scaled:
            p.data = a * p.data
        others = [p for p in nets[a].parameters() if not any(p is q for q in scaled)]
        groups = [{"params": scaled, "lr": a**2 * IDENTITY_LR}, {"params": others, "lr": IDENTITY_LR}]
        optimizers[a] = optim.SGD(groups)

    x, y = data["train"][0].astype(np.float64), data["train"][1]
    start = squared_norms(nets[1])
    difference: dict[str, list[float]] = {str(a): [] for a in FACTORS}
    cosine, squares, growth, predicted = 0.0, np.zeros(DEPTH), [], []
    for _, batch in zip(range(config["steps"]), batches(len(x), M, config["seed"]), strict=False):
        losses = {}
        for a, model in nets.items():
            with np.errstate(all="ignore"):  # without a norm, 10 W overflows
                loss = F.cross_entropy(model(Tensor(x[batch])), y[batch])
                optimizers[a].zero_grad()
                loss.backward()
                if a == 1:
                    weights = [layer.weight for layer in hidden(model)]
                    cosine = max(cosine, *(largest_cosine(w.data, w.grad) for w in weights))
                    squares = squares + [IDENTITY_LR**2 * float((w.grad**2).sum()) for w in weights]
                optimizers[a].step()
            losses[a] = loss.item()
        growth.append(squared_norms(nets[1]) - start)
        predicted.append(squares)
        for a in FACTORS:
            difference[str(a)].append(run_difference(nets[1], nets[a], a, losses[1], losses[a]))
    return {
        "difference": difference,
        "cosine": cosine,
        "growth_gap": float(np.max(np.abs(growth[-1] - squares) / squares)),
        "growth": np.sum(growth, axis=1).tolist(),
        "predicted": np.sum(predicted, axis=1).tolist(),
    }


def squared_norms(model: nn.Sequential) -> np.ndarray:
    return np.array([(layer.weight.data**2).sum() for layer in hidden(model)])


def largest_cosine(w: np.ndarray, g: np.ndarray) -> float:
    """The largest |<w, g>| / (||w|| ||g||) over the units, which are the rows; a unit without gradient has 0."""
    norms = np.linalg.norm(w, axis=1) * np.linalg.norm(g, axis=1)
    return float(np.max(np.abs((w * g).sum(axis=1)) / np.where(norms > 0, norms, 1)))


def run_difference(model: nn.Sequential, scaled: nn.Sequential, a: int, loss: float, scaled_loss: float) -> float:
    """The largest relative difference of the loss and of the hidden weights; 1 at most, and for nan."""
    with np.errstate(all="ignore"):
        pairs = zip(hidden(model), hidden(scaled), strict=True)
        apart = [nn.watch.update_ratio(w.weight.data, v.weight.data / a) for w, v in pairs]
        worst = max(abs(scaled_loss / loss - 1), *apart)
    return min(worst, 1.0) if np.isfinite(worst) else 1.0


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("test_error", "test_nll", "train_nll", "diverged", "moved")
    kept = {metric: lab.per_seed(runs, metric, "cell", "norm") for metric in metrics}
    error, nll, train_nll, diverged, moved = kept.values()
    cells = [*ARTICLE, *CONTROLS]
    gain = {cell: stats.paired(error[cell, "BN"], error[cell, "none"]) for cell in cells}
    holm = dict(zip(cells, stats.holm([gain[cell].p for cell in cells]), strict=True))
    table = [["std / lr / activation", "norm", "error %", "article's", "NLL", "train NLL", "diverged"]]
    table[0] += ["weights moved", "BN minus none, points", "Holm p"]
    arms = []
    for cell in cells:
        for norm, article in zip(NORMS, ARTICLE.get(cell, (None, None)), strict=True):
            key, went = (cell, norm), [m for m in moved[cell, norm] if m is not None]
            row = [name(cell), norm, f"{error[key].mean():.2f}", f"{100 * (1 - article):.2f}" if article else "-"]
            row += [f"{nll[key].mean():.3g}", f"{train_nll[key].mean():.3g}"]
            row += [f"{int(diverged[key].sum())} of {len(diverged[key])}", f"{np.median(went):.2g}" if went else "-"]
            table.append(row + ([gain[cell].interval(), f"{holm[cell]:.2g}"] if norm == "BN" else ["", ""]))
            arms.append({"arm": f"{name(cell)}, {norm}", **{metric: list(v[key]) for metric, v in kept.items()}})

    better = [cell for cell in AHEAD if gain[cell].mean < 0]
    sure = [cell for cell in better if gain[cell].ci[1] < 0 and holm[cell] < 0.05]
    other = ", ".join(name(cell) for cell in AHEAD if cell not in better)
    criteria = [
        lab.Outcome(
            "cells in which BN errs less than none on average, of the seven in which it does in the article",
            len(better),
            None,
            "7, all of them",
            lab.exactly(len(better) == 7),
            headline=True,
            note=f"in {len(sure)} of them the interval is below 0 and Holm p < 0.05"
            + (f"; not in {other}" if other else ""),
        )
    ]
    identity = {arm: [r for r in runs if r["arm"] == arm] for arm in IDENTITIES}

    def largest(arm: str, a: int) -> float:
        return max(max(r["difference"][str(a)]) for r in identity[arm])

    exact = identity["BN, eps=0"]
    for fact, measured, bound in (
        ("(W, lr) against (8 W, 64 lr), relative difference of the runs", largest("BN, eps=0", 8), 0.0),
        ("(W, lr) against (10 W, 100 lr), relative difference of the runs", largest("BN, eps=0", 10), EXACT),
        ("|<w, dL/dw>| / (||w|| ||dL/dw||), the largest of all units", max(r["cosine"] for r in exact), EXACT),
        ("||W_T||^2 - ||W_0||^2 against sum lr^2 ||dL/dW||^2, relative", max(r["growth_gap"] for r in exact), EXACT),
    ):
        passed = measured < bound if bound else measured == 0
        threshold = "< 1e-10" if bound else "0, exactly"
        criteria.append(
            lab.Outcome(
                f"float64, eps = 0: {fact}",
                measured,
                None,
                threshold,
                lab.exactly(passed),
                headline=not bound,
                kind=lab.IDENTITY,
            )
        )
    notes = [
        f"(W, lr) against (200 W, 40000 lr), from N(0, 0.05^2) to N(0, 10^2): {largest('BN, eps=0', 200):.1g}; "
        f"where the identities don't hold, for (10 W, 100 lr): {largest('BN, eps=1e-5', 10):.1g} with eps = 1e-5, "
        f"{largest('none', 10):.1g} without norm; without norm the cosine of w and dL/dw is up to "
        f"{max(r['cosine'] for r in identity['none']):.2g}"
    ]
    for control in CONTROLS:
        cell = (*control[:3], HUGE)
        d = stats.paired(error[control, "BN"], error[cell, "BN"])
        notes.append(
            f"{name(cell)} with BN, an output layer of std 0.05 minus one of std 10: {stats.points(d)} (no claim)"
        )
    return lab.Analysis(arms, criteria, table, notes)


LOOKS = {"none": (plots.PALETTE[1], "s", -0.13), "BN": (plots.PALETTE[0], "o", 0.13)}  # colour, marker, place in a row


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    error, curves = (lab.per_seed(runs, metric, "cell", "norm") for metric in ("test_error", "curve"))
    cells = list(ARTICLE)
    seeds, titles = len(settings["seeds"]), [f"std {std:g}, lr {lr:g}, {LABELS[a]}" for std, lr, a, _ in ARTICLE]
    fig, ax = plots.plt.subplots(figsize=(9, 7))
    for (cell, norm), e in error.items():
        color, marker, place = LOOKS[norm]
        control, row = cell in CONTROLS, cells.index((*cell[:3], cell[0]))
        mean, (low, high) = stats.mean_ci(e)
        style = {"color": color, "marker": marker, "ms": 8, "mfc": "white" if control else color}
        ax.errorbar(mean, row + place * (1 + 1.6 * control), xerr=[[mean - low], [high - mean]], **style)
    for norm, (color, marker, place) in LOOKS.items():
        ax.plot([], [], marker, color=color, ms=8, label=norm)
        ax.plot([], [], marker, color=color, ms=8, mfc="white", label=f"{norm}, small output layer")
        article = [100 * (1 - accuracies[NORMS.index(norm)]) for accuracies in ARTICLE.values()]
        ax.plot(article, np.arange(len(cells)) + place, "x", color=plots.INK, ms=8, mew=2, zorder=3)
    ax.plot([], [], "x", color=plots.INK, ms=8, mew=2, label="the article, one seed")
    ax.set_yticks(range(len(cells)), titles)
    ax.invert_yaxis()
    ax.set(xlabel="test error (%)", xlim=(-2, 102))
    fig.legend(loc="outside upper center", ncols=3)
    pictures = [
        plots.Picture(
            "error_by_cell",
            f"Test error (%) in each of the eight cells, without and with batch norm: mean over {seeds} seeds with its "
            "95 % interval. Open markers: the output layer starts from small weights. Crosses: the article's runs on "
            "MNIST. With ten classes 90 % is chance. Look for cells in which squares and circles are far apart.",
            fig,
        )
    ]

    fig, axes = plots.panels(titles, (13, 6.5), "step", "test error (%)", rows=2)
    for ax, cell in zip(axes, cells, strict=True):
        ax.set(xscale="log", ylim=(0, 100))
        for norm, (color, marker, _) in LOOKS.items():
            plots.line_with_band(ax, checkpoints(settings["steps"]), curves[cell, norm], norm, color, marker=marker)
    axes[0].legend()
    pictures.append(
        plots.Picture(
            "error_against_step",
            f"Test error (%) against the step (logarithmic) in each cell: mean over {seeds} seeds with its 95 % band. "
            "Where a line is still falling at the right end, the number of steps decides about the difference.",
            fig,
        )
    )

    seed = settings["seeds"][0]
    first = {r["arm"]: r for r in runs if r["kind"] == "identity" and r["seed"] == seed}
    steps = np.arange(1, settings["identity_steps"] + 1)
    fig, axes = plots.plt.subplots(1, 2, figsize=(12, 5.5))
    lines = {("BN, eps=0", 8): "-", ("BN, eps=0", 10): "--", ("BN, eps=0", 200): ":", ("BN, eps=1e-5", 10): "-."}
    for ((arm, a), dashes), color in zip({**lines, ("none", 10): (0, (6, 2))}.items(), plots.PALETTE, strict=False):
        difference = np.maximum(first[arm]["difference"][str(a)], 1e-18)  # 0 has no place on a logarithmic axis
        axes[0].plot(steps, difference, ls=dashes, color=color, label=f"{arm}, a={a}")
    axes[0].axhline(EXACT, color="0.4", lw=1, ls="--")
    axes[0].set(yscale="log", ylim=(3e-19, 3), ylabel="relative difference of the runs (0 as 1e-18)")
    for arm in ("BN, eps=0", "none"):
        color = LOOKS["none" if arm == "none" else "BN"][0]
        axes[1].plot(steps, first[arm]["growth"], color=color, label=f"growth, {arm}")
        dots = "0.5" if arm == "none" else plots.INK
        axes[1].plot(steps, first[arm]["predicted"], color=dots, ls=":", lw=3, label=f"sum of lr² ||dL/dW||², {arm}")
    axes[1].set_ylabel("squared norm of the hidden weights")
    for ax in axes:
        ax.set_xlabel("step")
        ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    pictures.append(
        plots.Picture(
            "identities",
            f"Scale invariance in float64 (seed {seed}). Left: relative difference (logarithmic) between the run of "
            "(W, lr) and that of (a W, a² lr); the dashed line is 1e-10, and a=8, a power of two, makes no difference. "
            "Right: growth of the squared norm of the hidden weights (no unit), and the sum that it must equal with "
            "batch norm: look whether the dotted line lies on the solid one.",
            fig,
        )
    )
    return pictures


def cost(config: dict[str, Any]) -> float:
    return config["steps"] * (8.0 if config["kind"] == "identity" else 2.0 if config["norm"] == "BN" else 1.0)


DEMO = lab.Demo(
    name="init_and_scale",
    claim="Batch norm helps where weights start at a wrong scale; before a norm their scale is only a step size.",
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
