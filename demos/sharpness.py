"""WHY does batch norm allow larger learning rates?

Gradient descent on a quadratic with curvature s is stable below lr = 2 / s. The sharpness of a net is the largest
eigenvalue of the Hessian of its training loss, here by power iteration on exact Hessian-vector products: the gradient
is differentiated once more, through the norm layers too.

(1) Along full-batch training Cohen et al. 2021 found that the sharpness rises to about 2 / lr and stays there, the
    "edge of stability", until the loss is fitted. Does it, without norm, at the largest stable rate of a small grid?
    Notes say what it does under batch norm.
(2) Before the first step, against depth: how sharp are the nets of learning_rate?
(3) Does a net that starts sharper have a lower largest stable learning rate? The rates come from learning_rate's own
    runs at depth 8; a net that learns at none has 0.
A follow-up looks at the first hundred steps of nets at lr 1: what becomes of a sharp start?

    python -m demos.sharpness --preset full
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import learning_rate as d2
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import evaluate, stream
from tinygrad_bn import Tensor, grad, manual_seed, nn, optim

SIZES, ROWS, WIDTH = d2.SIZES, 500, 64
NET_NORMS = ["no norm", "BN"]
LRS = {"square loss": [0.3, 1.0, 3.0], "cross entropy": [0.1, 0.3, 1.0]}
MARGIN = 0.25  # "within 25 % of 2 / lr"
# Of the loss at the start: below it the loss counts as fitted. The curvature of cross entropy is p (1 - p) and fades
# with it; that of the square loss is there until nothing is left to fit.
FITTED = {"square loss": 0.01, "cross entropy": 0.1}
EVERY = {"square loss": 20, "cross entropy": 10}  # steps between two measurements; cross entropy is fitted soon
LEAST = 8  # measurements, of which the last quarter is then two
DEEP = 8  # hidden layers of the nets whose rates are compared
# The follow-up: how does a sharp start end? Beside batch norm the net without norm that learns, as a control.
FOLLOWED, LARGE_LR, MOMENTS = ["BN", "none, tuned init"], 1.0, [0, 1, 5, 20, 100]
START = 20  # stream of the power iteration's first vector

Values = dict[str, np.ndarray]  # arm -> one value per seed
Row = tuple[list[str], dict[str, Any]]  # of the table, and what summary.json gets

PRESETS = {
    "quick": {
        "seeds": 3,
        "edge_steps": 600,
        "depths": [1, 2, 4, 8],
        "norms": ["none", "none, tuned init", "BN"],
        "lrs": d2.LRS[3:],
        "steps": 250,
        "limits": "three seeds and 600 steps; (3) compares six arms after 250 steps",
    },
    "full": {
        "seeds": 8,
        "edge_steps": 1500,
        "depths": [1, 2, 4, 8],
        "norms": d2.NORMS,
        "lrs": d2.LRS[2:],
        "steps": d2.PRESETS["full"]["steps"],
        "limits": "eight seeds, so that learning_rate's own runs fit in; of its rates those from 0.01",
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = []
    for seed in settings["seeds"]:
        common = {"seed": seed, "dataset": settings["dataset"]}
        configs += [
            {"arm": f"{loss}, {norm}", "part": "edge", "loss": loss, "norm": norm, "lr": lr, **common}
            | {"steps": settings["edge_steps"], "every": EVERY[loss]}
            for loss, lrs in LRS.items()
            for norm in NET_NORMS
            for lr in lrs
        ]
        for activation in d2.LABELS:
            for norm in settings["norms"]:
                net = {"arm": f"{activation} {norm}", "activation": activation, "norm": norm, **common}
                configs += [{"part": "start", "depth": depth, "lr": 0.0, **net} for depth in settings["depths"]]
                if norm in FOLLOWED:
                    configs.append({"part": "after", "depth": DEEP, "lr": LARGE_LR, **net})
        configs.append({"arm": "exact", "part": "exact", **common})
    # learning_rate's own runs
    configs += [
        {**config, "arm": f"{config['activation']} {config['norm']}", "part": "rate"}
        for config in d2.plan(settings)
        if config["depth"] == DEEP and config["lr"] in settings["lrs"]
    ]
    return configs


# --- curvature


def hessian_vector_product(loss: Tensor, parameters: Sequence[Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """v -> H v, with H the Hessian of the loss in all parameters together: the gradient of <gradient, v>."""
    gradients = grad(loss, parameters, create_graph=True)
    return lambda v: flat(grad(gradients, parameters, like(parameters, v), retain_graph=True))


def flat(arrays: Sequence[Any]) -> np.ndarray:
    """All entries in one vector."""
    return np.concatenate([a.reshape(-1) for a in arrays])


def like(parameters: Sequence[Tensor], v: np.ndarray) -> list[np.ndarray]:
    """The vector in pieces, with the parameters' shapes."""
    cuts = np.cumsum([p.size for p in parameters])[:-1]
    return [piece.reshape(p.shape) for piece, p in zip(np.split(v, cuts), parameters, strict=True)]


def largest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, most: int = 100, tolerance: float = 1e-3
) -> tuple[float, np.ndarray]:
    """Power iteration from a vector: (largest eigenvalue, its vector). It finds the eigenvalue of largest magnitude;
    where that is negative, a second one on H + |eigenvalue| finds the largest."""
    shift = 0.0
    for _ in range(2):
        v, value = start / np.linalg.norm(start), math.inf  # what the first pass found is of no use to the second
        for _ in range(most):
            w = product(v) + shift * v
            before, value = value, float(v @ w)
            if not np.isfinite(w).all() or not w.any():
                return (math.nan if w.any() else 0.0 - shift), v
            v = w / np.linalg.norm(w)
            if abs(value - before) <= tolerance * abs(value):
                break
        if value >= 0 or shift:
            break
        shift = -value
    return value - shift, v


def random_vector(parameters: Sequence[Tensor], seed: int) -> np.ndarray:
    return stream(seed, START).normal(size=sum(p.size for p in parameters))


# --- runs


def data_of(config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """The first 500 rows of learning_rate's training set, in float64."""
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, y = data["train"]
    return x[:ROWS].astype(np.float64), y[:ROWS], count_classes(data)


def edge_net(norm: str, features: int, classes: int, seed: int) -> nn.Sequential:
    """features-64-64-classes, linear, [batch norm], tanh: smooth, so that the Hessian tells all."""
    manual_seed(seed)
    layers: list[nn.Module] = []
    for width in (features, WIDTH):
        layers += [nn.Linear(width, WIDTH), *([nn.BatchNorm1d(WIDTH)] if norm == "BN" else []), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, classes)).double()


def run_edge(config: dict[str, Any]) -> dict[str, Any]:
    """Gradient descent on all rows; sharpness and loss at every so many steps."""
    x, y, classes = data_of(config)
    model = edge_net(config["norm"], x.shape[1], classes, config["seed"])
    inputs, one_hot = Tensor(x), Tensor(np.eye(classes)[y])
    square = config["loss"] == "square loss"
    parameters = list(model.parameters())
    sgd, v = optim.SGD(parameters, lr=config["lr"]), random_vector(parameters, config["seed"])
    some = v / (4 * np.linalg.norm(v))
    at, losses, sharpness, diverged = [], [], [], False
    with np.errstate(all="ignore"):
        for step in range(config["steps"] + 1):
            outputs = model(inputs)
            loss = F.mse_loss(outputs, one_hot) if square else F.cross_entropy(outputs, y)
            if not math.isfinite(loss.item()):
                diverged = True
                break
            if step % config["every"] == 0:
                # from the vector found last, and a little of all others: it may no longer be the first
                value, v = largest_eigenvalue(hessian_vector_product(loss, parameters), v + some)
                if not math.isfinite(value):
                    diverged = True
                    break
                at.append(step)
                losses.append(loss.item())
                sharpness.append(value)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    error = chance = 100 * (1 - 1 / classes)
    if not diverged:
        nn.utils.recompute_statistics(model, [x])
        test, labels = load_parts(config["dataset"], config["seed"], SIZES)["test"]
        with np.errstate(all="ignore"):
            error, _ = evaluate(model, test.astype(np.float64), labels)
    result = {"at": at, "losses": losses, "sharpness": sharpness, "diverged": diverged, "chance": chance}
    return {**result, "test_error": error, **last_quarter(config, at, losses, sharpness, diverged)}


def last_quarter(
    config: dict[str, Any], at: list[int], losses: list[float], sharpness: list[float], diverged: bool
) -> dict[str, float]:
    """Sharpness times lr / 2, its mean over the last quarter of training; that ends when the loss is fitted.
    A diverged run has none: 0."""
    if diverged:
        return {"ratio": 0.0, "highest": 0.0, "end": at[-1] if at else 0}
    unfitted = np.flatnonzero(np.array(losses) >= FITTED[config["loss"]] * losses[0])
    count = int(unfitted[-1]) + 1
    ratios = np.array(sharpness[:count]) * config["lr"] / 2
    return {"ratio": float(ratios[count * 3 // 4 :].mean()), "highest": float(ratios.max()), "end": at[count - 1]}


def deep_net(config: dict[str, Any]) -> tuple[nn.Sequential, list[Tensor], Callable[[], Tensor]]:
    """A net of learning_rate, its parameters, and its cross entropy over all rows."""
    x, y, classes = data_of(config)
    model = d2.net(config, x.shape[1], classes).double()
    return model, list(model.parameters()), lambda: F.cross_entropy(model(Tensor(x)), y)


def run_start(config: dict[str, Any]) -> dict[str, Any]:
    _, parameters, loss = deep_net(config)
    product = hessian_vector_product(loss(), parameters)
    return {"sharpness": largest_eigenvalue(product, random_vector(parameters, config["seed"]))[0]}


def run_after(config: dict[str, Any]) -> dict[str, Any]:
    """The follow-up: full-batch steps at a large rate; loss, sharpness and the squared size of the hidden weights. What
    a diverged net lacks is nan.

    Before a batch norm the loss does not depend on the size of a unit's weights, so their gradient is orthogonal to
    them and every step adds to it; curvature falls as its inverse. "scaled_back" is the sharpness at the end with every
    unit's weights at their size of the start: the same function and loss, but for eps, without that growth.
    """
    model, parameters, loss_now = deep_net(config)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)][:-1]
    first = [np.linalg.norm(w.data, axis=1, keepdims=True) for w in weights]
    sgd, v = optim.SGD(parameters, lr=config["lr"]), random_vector(parameters, config["seed"])

    def sharpness() -> float:
        return largest_eigenvalue(hessian_vector_product(loss_now(), parameters), v)[0]

    curves = np.full((3, len(MOMENTS)), np.nan)
    with np.errstate(all="ignore"):
        for step in range(MOMENTS[-1] + 1):
            loss = loss_now()
            if not math.isfinite(loss.item()):
                break
            if step in MOMENTS:
                size = sum(float((w.data**2).sum()) for w in weights)
                curves[:, MOMENTS.index(step)] = loss.item(), sharpness(), size
            if step < MOMENTS[-1]:
                sgd.zero_grad()
                loss.backward()
                sgd.step()
        result = dict(zip(("losses", "sharpness", "sizes"), curves.tolist(), strict=True))
        if config["norm"] != "BN":
            return result
        for w, size in zip(weights, first, strict=True):
            w.data = w.data * (size / np.linalg.norm(w.data, axis=1, keepdims=True))
        return {**result, "scaled_back": sharpness()}


def exact(seed: int) -> dict[str, float]:
    """A net of 51 parameters with batch norm: products against finite differences of the gradient, column by column,
    and power iteration against the eigenvalues of the whole matrix. Relative deviations."""
    rng = stream(seed, START)
    x, y = Tensor(rng.normal(size=(9, 5))), rng.integers(3, size=9)
    manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    parameters = list(model.parameters())
    product = hessian_vector_product(F.cross_entropy(model(x), y), parameters)
    weights = flat([p.data for p in parameters])
    hessian = np.stack([product(row) for row in np.eye(len(weights))])
    found, _ = largest_eigenvalue(product, random_vector(parameters, seed), most=3000, tolerance=1e-9)

    def gradient(at: np.ndarray) -> np.ndarray:
        for p, piece in zip(parameters, like(parameters, at), strict=True):
            p.data = piece
        return flat(grad(F.cross_entropy(model(x), y), parameters))

    h = 1e-5
    steps = h * np.eye(len(weights))
    numeric = np.stack([(gradient(weights + step) - gradient(weights - step)) / (2 * h) for step in steps])
    value = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    return {
        "hessian": float(np.abs(hessian - numeric).max() / np.abs(hessian).max()),
        "eigenvalue": float(abs(found - value) / value),
    }


def run(config: dict[str, Any]) -> dict[str, Any]:
    if config["part"] == "rate":
        result = d2.run(config)
        return {key: result[key] for key in ("test_error", "test_nll", "train_nll", "chance", "diverged")}
    if config["part"] == "exact":
        return exact(config["seed"])
    return {"edge": run_edge, "start": run_start, "after": run_after}[config["part"]](config)


def cost(config: dict[str, Any]) -> float:
    return {"edge": 20.0, "after": 5.0, "start": 2.0, "rate": 3.0, "exact": 0.0}[config["part"]]


# --- analysis


def largest_stable_rate(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """Loss and norm -> the largest rate at which every seed ends below half of the loss it started with."""
    stable: dict[str, dict[float, bool]] = {}
    for r in (r for r in runs if r["part"] == "edge"):
        good = not r["diverged"] and r["losses"][-1] < r["losses"][0] / 2
        rates = stable.setdefault(r["arm"], {})
        rates[r["lr"]] = rates.get(r["lr"], True) and good
    return {arm: max((lr for lr, good in rates.items() if good), default=None) for arm, rates in stable.items()}


def start_and_rates(runs: list[dict[str, Any]]) -> tuple[Values, Values]:
    """Of every net of depth 8, per seed: sharpness at the start, and the largest rate that learns (0: none does)."""
    starts = lab.per_seed(runs, "sharpness", "arm", "depth", part="start")
    start = {arm: values for (arm, depth), values in starts.items() if depth == DEEP}
    chance = next(r["chance"] for r in runs if r["part"] == "rate")
    rates = {arm: np.zeros(len(values)) for arm, values in start.items()}
    for (arm, lr), errors in lab.per_seed(runs, "test_error", "arm", "lr", part="rate").items():
        rates[arm] = np.where([lab.learned(e, chance) for e in errors], np.maximum(rates[arm], lr), rates[arm])
    return start, rates


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("ratio", "highest", "end", "test_error", "diverged")
    edge = {metric: lab.per_seed(runs, metric, "arm", "lr", part="edge") for metric in metrics}
    largest, (start, rates) = largest_stable_rate(runs), start_and_rates(runs)
    tests: Values = {}
    for loss in LRS:
        lr = largest[f"{loss}, no norm"]
        words = f"{loss}, at the largest stable lr of the grid ({lr:g})" if lr else f"{loss}, no stable lr on the grid"
        tests[words] = edge["ratio"][f"{loss}, no norm", lr] if lr else np.empty(0)
    nothing = {"p": math.nan, "ci90": (math.nan, math.nan), "equivalent": False, "beyond": False}
    equal = [stats.tost(v, np.ones(len(v)), MARGIN) if len(v) else nothing for v in tests.values()]
    trend = correlation(start, rates, list(start))
    *adjusted, p = stats.holm([*(e["p"] for e in equal), trend.p])
    criteria = [
        lab.Outcome(
            f"without norm, {words}: sharpness / (2 / lr) in the last quarter before the loss is fitted",
            *(stats.mean_ci(values) if len(values) else (math.nan, None)),
            f"1 ± {MARGIN} (TOST: 90 % interval within, Holm p < 0.05)",
            lab.equivalent(e, p_edge),
            headline=words.startswith("square"),
            note=f"90 % interval [{1 + e['ci90'][0]:.3f}, {1 + e['ci90'][1]:.3f}], Holm p {p_edge:.2g}",
        )
        for (words, values), e, p_edge in zip(tests.items(), equal, adjusted, strict=True)
    ]
    criteria += [trend_criterion(start, rates, trend, p), *exact_criteria(runs)]
    rows, arms = zip(*edge_rows(edge), *start_rows(start, rates), strict=True)
    table = [["part", "arm", "measured", "mean [95 %]", "also"], *rows]
    return lab.Analysis(list(arms), criteria, table, [*edge_notes(edge, largest), *after_notes(runs)])


def correlation(start: Values, rates: Values, arms: list[str]) -> stats.Trend:
    """Spearman's rho over these arms, one per seed."""
    return stats.spearman_over_seeds(*(np.column_stack([of[arm] for arm in arms]) for of in (start, rates)))


def trend_criterion(start: Values, rates: Values, trend: stats.Trend, p: float) -> lab.Outcome:
    learning = [arm for arm in start if (rates[arm] > 0).all()]
    among = "which are too few"
    if len(learning) > 2:
        rho = correlation(start, rates, learning)
        among = stats.interval(rho.mean, rho.ci, sign="+")
    return lab.beyond(
        f"depth {DEEP}: Spearman correlation across arms of sharpness at the start with the largest stable lr",
        trend.mean,
        trend.ci,
        p,
        below=0,
        details=f"all {len(start)} arms, rate 0 where a net learns at none",
        note="the unit of the t-test is a seed's rho over arms: p counts seeds, which are not independent of the arms, "
        f"and says nothing of other arms; over the {len(learning)} arms in which every seed learns at some rate: "
        f"{among}; a net without a norm can start flat because nothing passes through it",
        headline=True,
    )


def exact_criteria(runs: list[dict[str, Any]]) -> Iterator[lab.Outcome]:
    against = "exact Hessian-vector products through batch norm against finite differences of the gradient"
    for key, limit, what in (
        ("hessian", 1e-6, against),
        ("eigenvalue", 1e-4, "power iteration against the eigenvalues of the whole Hessian"),
    ):
        worst = max(r[key] for r in runs if r["part"] == "exact")
        yield lab.Outcome(
            f"{what}, relative", worst, None, f"< {limit:g}", lab.exactly(worst < limit), kind=lab.IDENTITY
        )


def edge_rows(edge: dict[str, Any]) -> Iterator[Row]:
    for (arm, lr), ratio in edge["ratio"].items():
        highest, end, error, diverged = (edge[key][arm, lr] for key in ("highest", "end", "test_error", "diverged"))
        gone, name = int(diverged.sum()), f"{arm}, lr {lr:g}"
        also, measured = f"{gone} diverged, test error {error.mean():.1f} %", "-"
        if not gone:
            also = f"highest {highest.mean():.2f}, ends at step {np.median(end):.0f}, {also}"
            measured = stats.mean_interval(ratio, ".3g")
        values = {"ratio": None if gone else list(ratio), "test_error": list(error), "diverged": gone}
        yield ["1", name, "sharpness / (2 / lr), last quarter", measured, also], {"arm": name, **values}


def start_rows(start: Values, rates: Values) -> Iterator[Row]:
    for arm, values in start.items():
        none, name = int((rates[arm] == 0).sum()), f"depth {DEEP}, {arm}"
        sharpness = np.exp(np.log(np.maximum(values, 1e-300)).mean())  # geometric means
        also = f"learns at no rate in {none} of {len(values)} seeds"
        if not none:
            rate = np.exp(np.log(rates[arm]).mean())
            also = f"largest stable lr {rate:.3g}, {rate * sharpness / 2:.3g} of 2 / sharpness"
        row = ["2, 3", name, "sharpness at the start", f"{sharpness:.3g}", also]
        yield row, {"arm": name, "sharpness": list(values), "largest_stable_lr": list(rates[arm])}


def edge_notes(edge: dict[str, Any], largest: dict[str, float | None]) -> Iterator[str]:
    for loss in LRS:
        key = f"{loss}, BN", largest[f"{loss}, BN"]
        if key[1] is None:
            yield f"{loss}: batch norm has no stable learning rate on this grid"
            continue
        values, last, name = edge["ratio"][key], np.median(edge["end"][key]), f"{loss}, batch norm, lr {key[1]:g}"
        if last / EVERY[loss] + 1 < LEAST:
            yield f"{name}: fitted at step {last:.0f}, too soon for a last quarter"
            continue
        same = stats.tost(values, np.ones(len(values)), MARGIN)["equivalent"]
        verdict = "it stays at the same edge" if same else "it is not shown to stay at that edge"
        yield f"{name}: sharpness / (2 / lr) in the last quarter is {stats.mean_interval(values, '.3g')}: {verdict}"
    key = "cross entropy, no norm", largest["cross entropy, no norm"]
    if key[1]:
        yield (
            f"cross entropy, no norm, lr {key[1]:g}: the ratio is at most {edge['highest'][key].mean():.2f} before the "
            f"loss is fitted, at step {np.median(edge['end'][key]):.0f}: the sharpness has few steps to settle in"
        )


def after_notes(runs: list[dict[str, Any]]) -> Iterator[str]:
    names = ("losses", "sharpness", "sizes", "scaled_back")
    losses, sharpness, sizes, back = (lab.per_seed(runs, name, "arm", "lr", part="after") for name in names)

    def medians(values: np.ndarray) -> str:
        """One per moment, over the seeds that have not diverged by then."""
        finite = [column[np.isfinite(column)] for column in values.T]
        return ", ".join(f"{np.median(column):.2g}" if len(column) else "-" for column in finite)

    for (arm, lr), loss in losses.items():
        key, gone = (arm, lr), int((~np.isfinite(loss[:, -1])).sum())
        parts = [
            f"loss {medians(loss)}",
            f"sharpness / (2 / lr) {medians(sharpness[key] * lr / 2)}",
            f"squared size of the hidden weights, relative {medians(sizes[key] / sizes[key][:, :1])}",
        ]
        if key in back:
            scaled = medians(back[key][:, None] * lr / 2)
            parts.append(f"at the end, with these scaled back, at the same loss: sharpness / (2 / lr) {scaled}")
        if gone:
            parts.append(f"{gone} of {len(loss)} seeds diverged, left out from there on")
        moments = ", ".join(map(str, MOMENTS))
        yield f"depth {DEEP}, {arm}, full batch, lr {lr:g}, medians after {moments} steps: {'; '.join(parts)}"
    yield "scaling back takes away the growth of the weights alone: the falling loss and all else are not separated"


# --- figures


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    return [_along_training(runs), _against_depth(runs, settings)]


def _along_training(runs: list[dict[str, Any]]) -> plots.Picture:
    edge = [r for r in runs if r["part"] == "edge"]
    titles = [f"{loss}, {norm}" for loss in LRS for norm in NET_NORMS]
    fig, axes = plots.panels(titles, (12, 8), "step", "sharpness", rows=2, sharey="row")
    for row, (loss, lrs) in zip(np.reshape(axes, (2, 2)), LRS.items(), strict=True):
        for ax, norm in zip(row, NET_NORMS, strict=True):
            ax.set_yscale("log")
            for lr, color, line in zip(lrs, plots.PALETTE, ("-", "-.", ":"), strict=False):
                same = [r for r in edge if (r["loss"], r["norm"], r["lr"]) == (loss, norm, lr)]
                at = max((r["at"] for r in same), key=len)
                curves = np.full((len(same), len(at)), np.nan)
                for curve, r in zip(curves, same, strict=True):
                    curve[: len(r["at"])] = np.maximum(r["sharpness"], 1e-3)  # the axis has no 0
                gone = sum(r["diverged"] for r in same)
                label = f"lr {lr:g}" + (f", {gone} diverged" if gone else "")
                plots.line_with_band(ax, at, curves, label, color, marker="", linestyle=line)
                ax.axhline(2 / lr, color=color, ls=(0, (1, 1)), lw=1)
            ax.legend()
        drawn = np.concatenate([np.ravel(line.get_ydata()) for ax in row for line in ax.lines])  # not the widest bands
        row[0].set_ylim(np.nanmin(drawn) / 2, np.nanmax(drawn) * 2)
        plots.label_decades(row[0].yaxis)
    return plots.Picture(
        "sharpness_along_training",
        "The largest eigenvalue of the Hessian of the training loss (logarithmic, no unit) along full-batch training; "
        "geometric mean over seeds with its 95 % band. Thin dotted lines: 2 / lr, in the colour of the learning rate. "
        "Look for curves that rise to their line and follow it; under cross entropy they fall once the loss is fitted.",
        fig,
    )


def _against_depth(runs: list[dict[str, Any]], settings: dict[str, Any]) -> plots.Picture:
    start, depths = lab.per_seed(runs, "sharpness", "arm", "depth", part="start"), settings["depths"]
    fig, axes = plots.panels(list(d2.LABELS.values()), (11, 4.5), "hidden layers", "sharpness at the start")
    for ax, activation in zip(axes, d2.LABELS, strict=True):
        ax.set(xscale="log", yscale="log")
        for norm, look in plots.looks(settings["norms"]).items():
            curves = np.column_stack([np.maximum(start[f"{activation} {norm}", d], 1e-6) for d in depths])
            plots.line_with_band(ax, depths, curves, norm, **look)
        plots.label_x(ax, depths)
        plots.label_decades(ax.yaxis)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return plots.Picture(
        "sharpness_against_depth",
        "Sharpness before the first step (no unit) against the number of hidden layers (both logarithmic), for the "
        "nets of the learning-rate experiment; geometric mean over seeds with its 95 % band.",
        fig,
    )


DEMO = lab.Demo(
    name="sharpness",
    claim="Without norm, training drives the sharpness to 2 / lr; nets that start sharper bear only lower rates.",
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
