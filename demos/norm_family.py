"""Batch, layer, instance and group norm: one formula with four index sets. What does the choice of the set mean?

All four compute y = gamma (x - mean_S) / sqrt(var_S + eps) + beta. They differ in S, the values that mean and variance
are taken over: a channel of the whole batch (BN), a sample (LN), a channel of a sample (IN), a group of channels of a
sample (GN). An oracle that knows nothing but the formula and a label for each value, the number of its set, is held
against the library's functions. Two facts follow from S alone, whatever the net learns: two values are normalized to
-1 and +1, whatever they are, so no gradient comes back; and one value becomes beta.

A small CNN and an MLP are trained with batches of m = 2 to 64 images. All see the same number of images, each has its
own best learning rate. Two things were predicted of both nets, and either can fail:

- batch norm, whose set spans the batch, errs by more than 5 points more at m = 2 than at m = 8 (but in a CNN every
  image brings all of its positions, so that a mean stands on many more values than m);
- layer norm, whose set does not, keeps its mean error within 1 point over all m (but larger batches of equally many
  images mean fewer steps).

So the full preset also trains with the largest m for as many steps as with the smallest: is it the size of the batch
that hurts, or the number of steps? (These nets see 32 times as many images.) No prediction was made of them.

    python -m demos.norm_family --preset full
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import Rows, count_classes, load_parts
from demos.training import as_images, he_linear, train
from tinygrad_bn import Tensor, grad, manual_seed, nn, no_grad

SIZES = {"train": 800, "valid": 297, "test": 600}
WIDTH, FIXED_LR, GROUPS = 64, 0.1, 4
LRS = [0.01, 0.03, 0.1, 0.3, 1.0]  # for every arm and every m
LONGER_LRS = [0.03, 0.1, 0.3]  # around those that were best
FACTS = "exact facts"
LONGER = ", longer"  # behind an arm's name: the largest m with as many steps as the smallest
SMALL, LARGER, GAP, RANGE = 2, 8, 5.0, 1.0  # BN(2) - BN(8) > 5 points; LN's range < 1 point

# The index set of the value (n, c, position), for C channels: values with the same label share mean and variance
INDEX_SETS: dict[str, Any] = {
    "BN": lambda n, c, C: c,
    "LN": lambda n, c, C: n,
    "IN": lambda n, c, C: n * C + c,
    "GN": lambda n, c, C: n * GROUPS + c * GROUPS // C,
}
FUNCTIONS: dict[str, Any] = {
    "BN": lambda x, w, b, eps: F.batch_norm(x, None, None, w, b, training=True, eps=eps),
    "LN": lambda x, w, b, eps: F.group_norm(x, 1, w, b, eps=eps),  # a sample is one group
    "IN": lambda x, w, b, eps: F.instance_norm(x, None, None, w, b, eps=eps),
    "GN": lambda x, w, b, eps: F.group_norm(x, GROUPS, w, b, eps=eps),
}
LAYERS: dict[str, Any] = {
    "CNN BN": nn.BatchNorm2d,
    "CNN LN": lambda c: nn.GroupNorm(1, c),
    "CNN IN": lambda c: nn.InstanceNorm2d(c, affine=True),
    "CNN GN": lambda c: nn.GroupNorm(GROUPS, c),
    "MLP BN": nn.BatchNorm1d,
    "MLP LN": nn.LayerNorm,
}

PRESETS = {
    "quick": {
        "seeds": 5,
        "images": 4000,
        "batches": [2, 8, 32],
        "lrs": LRS,
        "arms": ["CNN BN", "CNN LN", "MLP BN", "MLP LN"],
        "longer": [],
        "limits": "five seeds and five epochs, which are 125 steps at m = 32; instance and group norm, and the longer "
        "training, are left to the full preset",
    },
    "full": {
        "seeds": 8,
        "images": 8000,
        "batches": [2, 4, 8, 16, 32, 64],
        "lrs": LRS,
        "arms": list(LAYERS),
        "longer": ["CNN BN", "CNN LN", "MLP LN"],
        "limits": "eight seeds and ten epochs; 8x8 images leave a CNN's batch norm 32 values or more at m = 2; longer "
        "training at m = 64 alone, with three learning rates",
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    lab.check_grid(settings, batches=[SMALL, LARGER], lrs=[FIXED_LR])
    common = {"dataset": settings["dataset"]}
    facts = [{"arm": FACTS, "seed": seed, **common} for seed in settings["seeds"]]
    equally_many_images = [
        {"arm": arm, "seed": seed, "lr": lr, "m": m, "steps": settings["images"] // m, **common}
        for seed in settings["seeds"]
        for arm in settings["arms"]
        for m in settings["batches"]
        for lr in settings["lrs"]
    ]
    smallest, largest = min(settings["batches"]), max(settings["batches"])
    equally_many_steps = [
        {"arm": arm + LONGER, "seed": seed, "lr": lr, "m": largest, "steps": settings["images"] // smallest, **common}
        for seed in settings["seeds"]
        for arm in settings["longer"]
        for lr in LONGER_LRS
    ]
    return facts + equally_many_images + equally_many_steps


# --- exact facts


def oracle(x: np.ndarray, dy: np.ndarray, labels: np.ndarray, gamma: Any, beta: Any, eps: float) -> Any:
    """(y, dx) from the definition: averages over the values that share a label, and no word about axes.

    dx = (g - mean(g) - x_hat mean(g x_hat)) / sqrt(var + eps),   g = gamma dy
    """
    flat = labels.reshape(-1)

    def mean(values: np.ndarray) -> np.ndarray:
        return (np.bincount(flat, values.reshape(-1)) / np.bincount(flat))[labels]

    centered = x - mean(x)
    rstd = 1 / np.sqrt(mean(centered**2) + eps)
    x_hat, g = centered * rstd, gamma * dy
    return gamma * x_hat + beta, (g - mean(g) - x_hat * mean(g * x_hat)) * rstd


def deviations_from_oracle(seed: int, shape: tuple[int, ...] = (3, 8, 4, 5)) -> dict[str, float]:
    """The largest deviation of each function, and of its gradient, on random float64 data (N, C, H, W)."""
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(2.0, 3.0, shape), rng.normal(size=shape)
    gamma, beta = rng.normal(size=(2, shape[1]))
    n, c = np.indices(shape)[:2]
    result = {}
    for norm, function in FUNCTIONS.items():
        labels = INDEX_SETS[norm](n, c, shape[1])
        y, dx = oracle(x, dy, labels, gamma[:, None, None], beta[:, None, None], 1e-5)
        tensor = Tensor(x, requires_grad=True)
        out = function(tensor, Tensor(gamma), Tensor(beta), 1e-5)
        (gradient,) = grad(out, tensor, dy)
        result[norm] = float(max(np.abs(out.data - y).max(), np.abs(gradient - dx).max()))
    return result


def two_rows(seed: int, rows: int = 2) -> tuple[float, float]:
    """Batch norm of two rows, eps = 0: how far |x_hat| is from 1, and the largest |dx| std, for dy of size 1."""
    rng = np.random.default_rng(seed)
    x = Tensor(rng.normal(size=(rows, 50)), requires_grad=True)
    y = F.batch_norm(x, None, None, training=True, eps=0.0)
    (gradient,) = grad(y, x, rng.normal(size=x.shape))
    return float(np.abs(np.abs(y.data) - 1).max()), float(np.abs(gradient * x.data.std(axis=0)).max())


def one_value(seed: int) -> tuple[float, bool]:
    """A set S of one value: how far y is from beta; and whether batch norm refuses to train on one row."""
    rng = np.random.default_rng(seed)
    x, gamma, beta = rng.normal(size=(4, 6)), rng.normal(size=6), rng.normal(size=6)
    y = F.group_norm(Tensor(x), 6, Tensor(gamma), Tensor(beta))  # a group per channel, and no positions
    try:
        nn.BatchNorm1d(6)(Tensor(x[:1].astype(np.float32)))
    except ValueError:
        return float(np.abs(y.data - beta).max()), True
    return float(np.abs(y.data - beta).max()), False


def exact_facts(seed: int) -> dict[str, Any]:
    one, gradient = two_rows(seed)
    beta, refused = one_value(seed)
    oracle = deviations_from_oracle(seed)
    return {"oracle": oracle, "minus_one": one, "gradient": gradient, "beta": beta, "refused": refused}


# --- training


def load_images(dataset: str, seed: int) -> dict[str, Rows]:
    return {part: (images(x), y) for part, (x, y) in load_parts(dataset, seed, SIZES).items()}


def images(x: np.ndarray) -> np.ndarray:
    """Rows as square images (n, 1, side, side)."""
    found = as_images(x)
    side = found.shape[-1]
    if side < 8:
        raise ValueError(f"images must be 8x8 or larger, to be halved twice, got {side}x{side}")
    return found


def net(arm: str, side: int, classes: int, seed: int) -> nn.Sequential:
    """CNN: twice (convolution, norm, ReLU, pooling), linear. MLP: three times (linear, norm, ReLU), linear."""
    manual_seed(seed)
    norm = LAYERS[arm.removesuffix(LONGER)]
    layers: list[nn.Module] = []
    if arm.startswith("CNN"):
        for before, after in ((1, 8), (8, 16)):
            layers += [nn.Conv2d(before, after, 3, padding=1), norm(after), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (side // 4) ** 2, classes))
    for width in (side**2, WIDTH, WIDTH):
        layers += [he_linear(width, WIDTH), norm(WIDTH), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, he_linear(WIDTH, classes))


def effective_values(model: nn.Module, x: np.ndarray, m: int) -> list[float]:
    """A mean of how many independent values would vary as little as that of each batch norm: var / Var(mean of m
    images), the median over channels. In an MLP these are m. In a CNN every image brings all of its positions, and
    may bring more than there are: pixels that balance each other."""
    model.eval()
    with no_grad(), nn.watch.activations(model, (nn.BatchNorm1d, nn.BatchNorm2d)) as seen:
        model(Tensor(x))
    result = []
    for values in (v.data.reshape(*v.shape[:2], -1).astype(np.float64) for v, _ in seen.values()):
        var, between = values.var(axis=(0, 2)), values.mean(axis=2).var(axis=0)
        result.append(m * float(np.median(var[between > 0] / between[between > 0])))
    return result


def run(config: dict[str, Any]) -> dict[str, Any]:
    if config["arm"] == FACTS:
        return exact_facts(config["seed"])
    data = load_images(config["dataset"], config["seed"])
    x, _ = data["train"]
    model = net(config["arm"], x.shape[-1], count_classes(data), config["seed"])
    result = train(model, data, config)
    return {**result, "values": [] if result["diverged"] else effective_values(model, x, config["m"])}


def cost(config: dict[str, Any]) -> float:
    return config.get("steps", 0) * (2.0 if config["arm"].startswith("CNN") else 1.0)


# --- analysis


Key = tuple[str, int, float]


def at_best_lr(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[tuple[str, int], Key]:
    """(arm, m) -> (arm, m, lr): each has its own best rate."""
    return {(arm, m): (arm, m, lr) for m in settings["batches"] for arm, lr in lab.best_lr(runs, m=m).items()}


def range_over_m(curves: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Highest minus lowest mean of curves[seed, m], and its 95 % bootstrap interval over seeds."""
    if len(curves) == 1:
        return float(np.ptp(curves)), (float("nan"), float("nan"))
    drawn = np.random.default_rng(0).integers(len(curves), size=(2000, len(curves)))
    low, high = np.percentile(np.ptp(curves[drawn].mean(axis=1), axis=1), [2.5, 97.5])
    return float(np.ptp(curves.mean(axis=0))), (float(low), float(high))


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Of two arms' errors, with a test whether they are equivalent."""
    same = stats.tost(a, b, RANGE)
    verdict = "equivalent" if same["equivalent"] else "not shown to be equivalent"
    return f"{stats.paired(a, b).interval()} points, {verdict} within {RANGE:g} (TOST, p {same['p']:.2g})"


def worst_facts(facts: list[dict[str, Any]]) -> list[lab.Outcome]:
    """The exact facts, the worst over seeds."""
    measured = [
        (
            "BN, LN, IN, GN against the oracle that knows the index set alone",
            max(max(f["oracle"].values()) for f in facts),
        ),
        ("m = 2: largest deviation of |x_hat| from 1", max(f["minus_one"] for f in facts)),
        ("m = 2: largest input gradient, relative to dy / std", max(f["gradient"] for f in facts)),
        ("one value: largest deviation of y from beta", max(f["beta"] for f in facts)),
    ]
    return [
        lab.Outcome(name, value, None, "< 1e-10 (float64)", lab.exactly(value < 1e-10), kind=lab.IDENTITY)
        for name, value in measured
    ]


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("test_error", "test_nll", "train_nll", "diverged")
    error, nll, train_nll, diverged = (lab.per_seed(runs, metric, "arm", "m", "lr") for metric in metrics)
    best = at_best_lr(runs, settings)
    table = [["arm", "m", "best lr", "error % there", "NLL", "train NLL", f"error % at lr {FIXED_LR}", "diverged"]]
    arms = []
    order = [*settings["arms"], *(arm + LONGER for arm in settings["longer"])]
    for (arm, m), key in sorted(best.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        gone = int(sum(values.sum() for (a, k, _), values in diverged.items() if (a, k) == (arm, m)))
        row = [f"{key[2]:g}", stats.mean_interval(error[key]), f"{nll[key].mean():.3f}"]
        fixed = error[arm, m, FIXED_LR]
        table.append([arm, str(m), *row, f"{train_nll[key].mean():.3f}", f"{fixed.mean():.2f}", str(gone)])
        arms.append(
            {"arm": f"{arm}, m={m}", "best_lr": key[2], "test_error_at_fixed_lr": list(fixed), "diverged": gone}
        )
        arms[-1] |= {"test_error": list(error[key]), "test_nll": list(nll[key]), "train_nll": list(train_nll[key])}

    criteria, notes = [], []
    smallest, largest = min(settings["batches"]), max(settings["batches"])
    nets = [kind for kind in ("CNN", "MLP") if f"{kind} BN" in settings["arms"]]
    gaps = {}
    for kind in nets:  # the test is against GAP, not against 0, and one-sided as the claim is
        small, larger = (error[best[f"{kind} BN", m]] for m in (SMALL, LARGER))
        gaps[kind] = stats.paired(small - GAP, larger, alternative="greater")
    for (kind, d), p in zip(gaps.items(), stats.holm([d.p for d in gaps.values()]), strict=True):
        low, high = d.ci[0] + GAP, d.ci[1] + GAP
        name = f"{kind}, batch norm: test error at m = {SMALL} minus m = {LARGER}, points, each at its best lr"
        details = f"d_z from {GAP:g} points {d.d_z:.2f}, "
        details += f"more than {GAP:g} points in {100 * (1 - d.win_rate):.0f} % of seeds"
        note = f"one-sided, against {GAP:g} points or less"
        criterion = lab.beyond(name, d.mean + GAP, (low, high), p, above=GAP, details=details, note=note, headline=True)
        criteria.append(criterion)
        at_fixed = stats.paired(error[f"{kind} BN", SMALL, FIXED_LR], error[f"{kind} BN", LARGER, FIXED_LR])
        notes.append(f"{kind}, the same at lr {FIXED_LR}: {at_fixed.interval()} points")
    for kind in nets:
        curves = np.column_stack([error[best[f"{kind} LN", m]] for m in settings["batches"]])
        spread, ci = range_over_m(curves)
        wanted = f"< {RANGE:g}; a point estimate with a bootstrap interval, no test"
        name = f"{kind}, layer norm: range of the mean test error over m, points, each at its best lr"
        criteria.append(lab.Outcome(name, spread, ci, wanted, lab.exactly(spread < RANGE)))
        small, larger = (error[best[f"{kind} LN", m]] for m in (SMALL, LARGER))
        notes.append(f"{kind}, layer norm, m = {SMALL} minus m = {LARGER}: {difference(small, larger)}")
        nlls = [f"{train_nll[best[f'{kind} LN', m]].mean():.3f} at m = {m}" for m in (smallest, largest)]
        notes.append(f"{kind}, layer norm: train NLL {', '.join(nlls)}")
    for arm in settings["longer"]:
        longer = error[best[arm + LONGER, largest]]
        notes.append(
            f"{arm}, m = {largest} with the {settings['images'] // smallest} steps of m = {smallest} (no claim): minus "
            f"m = {smallest}: {difference(longer, error[best[arm, smallest]])}; minus m = {largest} with "
            f"{settings['images'] // largest} steps: {difference(longer, error[best[arm, largest]])}"
        )
    facts = [r for r in runs if r["arm"] == FACTS]
    criteria += worst_facts(facts)
    for kind in nets:
        key = best[f"{kind} BN", SMALL]
        of_seeds = [r["values"] for r in runs if (r["arm"], r.get("m"), r.get("lr")) == key and r["values"]]
        if of_seeds:
            counts = ", ".join(f"{v:.0f}" for v in np.mean(of_seeds, axis=0))
            notes.append(
                f"{kind}, batch norm, m = {SMALL}: the mean of a channel over a batch varies as little as that of so "
                f"many independent values, by layer: {counts}"
            )
    refused = all(f["refused"] for f in facts)
    notes.append(f"batch norm {'refuses' if refused else 'does not refuse'} to train on a single row")
    notes += lab.at_the_edge([a for a in arms if LONGER not in a["arm"]], settings["lrs"])
    notes += lab.at_the_edge([a for a in arms if LONGER in a["arm"]], LONGER_LRS)
    return lab.Analysis(arms, criteria, table, notes)


# --- figures


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    error, best = lab.per_seed(runs, "test_error", "arm", "m", "lr"), at_best_lr(runs, settings)
    batches, looks = settings["batches"], plots.looks(list(dict.fromkeys(arm.split()[1] for arm in settings["arms"])))
    nets = [kind for kind in ("CNN", "MLP") if f"{kind} BN" in settings["arms"]]
    fig, axes = plots.panels(nets, (11, 4.5), "m, images in a batch", "test error (%), at each arm's best lr")
    for ax, kind in zip(axes, nets, strict=True):
        ax.set(xscale="log", yscale="log")  # before the bands, which are then taken of the logarithms
        for arm, look in ((f"{kind} {norm}", look) for norm, look in looks.items()):
            if arm in settings["arms"]:
                curves = np.column_stack([np.maximum(error[best[arm, m]], 0.1) for m in batches])  # the axis has no 0
                plots.line_with_band(ax, batches, curves, arm.split()[1], **look)
        plots.label_decades(ax.yaxis)
        plots.label_x(ax, batches)
        ax.legend()
    axes[0].set_ylim(max(axes[0].get_ylim()[0], 0.1), 100)
    pictures = [
        plots.Picture(
            "error_against_batch_size",
            "Test error (%, logarithmic) against the number of images in a batch, all nets having seen equally many; "
            "each point at its best learning rate; geometric mean over seeds with its 95 % band (no error is drawn "
            "as 0.1). Look for a line that rises to the left: its index set spans the batch.",
            fig,
        )
    ]

    N, C = 4, 8
    n, c = np.indices((N, C))
    fig, axes = plots.panels(list(INDEX_SETS), (11, 2.6), "channel", "sample")
    for ax, label in zip(axes, INDEX_SETS.values(), strict=True):
        labels = label(n, c, C)
        ax.imshow(labels, cmap="cividis", aspect="auto")
        for i, j in np.ndindex(N, C):
            light = labels[i, j] > labels.max() / 2
            ax.text(j, i, labels[i, j], ha="center", va="center", fontsize=9, color="black" if light else "white")
        ax.set(xticks=range(C), yticks=range(N))
        ax.grid(False)
    pictures.append(
        plots.Picture(
            "index_sets",
            f"The index sets of a batch of {N} samples with {C} channels, group norm with {GROUPS} groups. A cell "
            "stands for all positions of a channel of a sample; cells with the same number (and shade) share mean and "
            "variance.",
            fig,
        )
    )
    return pictures


DEMO = lab.Demo(
    name="norm_family",
    claim="BN, LN, IN and GN are one formula with four index sets; only batch norm's set depends on the batch.",
    presets=PRESETS,
    plan=plan,
    run=run,
    sizes=SIZES,
    analyse=analyse,
    plot=plot,
    cost=cost,
    check=lambda settings, x, y: images(x),
)

if __name__ == "__main__":
    raise SystemExit(lab.main([DEMO]))
