"""What do feature scaling and whitening do, and why does batch norm do no more than scale?

(a) Logistic regression by full-batch gradient descent on ill-conditioned inputs, as they are, standardized, min-max
    scaled, PCA whitened and ZCA whitened: how many steps to a tolerance? Every arm takes the largest rate that is safe
    by theory, 1 / L. The features are ill-conditioned in their scales alone, or in a rotated frame, where no feature
    looks suspicious. The best loss is the same for all: an affine map of the inputs can be undone by the weights.
(b) Both whitenings make the covariance the identity. ZCA is PCA rotated back, and stays closest to the input.
(c) Whitening within a net (decorrelated batch norm): PCA swaps axes from batch to batch, ZCA does not.
(d) gamma = sqrt(var + eps) and beta = mean undo batch norm. What if they are frozen at 1 and 0?
(e) What they cost: batch norm O(n d), whitening O(n d^2 + d^3).

    python -m demos.scaling_and_whitening --preset full
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

import tinygrad_bn.nn.functional as F
from demos import laboratory as lab
from demos import plots
from demos import scaling_figures as figures
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import ACTIVATIONS, he_linear, stream, train
from tinygrad_bn import Tensor, manual_seed, nn, no_grad, optim, preprocessing

SIZES = {"train": 500, "valid": 297, "test": 1000}
ROWS, FEATURES, M, WIDTH, TOGETHER, FIXED_LR = 500, 16, 64, 64, 16, 0.1
DATA, BATCH = 10, 11  # streams of random numbers
ROWS_TIMED = 4096
TIMED = {"BN": "batch norm", "ZCA": "whitening"}  # ZCA of all features
MARGIN = 0.5  # points of test error: differences below it count as none

INPUTS: dict[str, Any] = {
    "raw": None,
    "standardized": preprocessing.StandardScaler,
    "min-max": preprocessing.MinMaxScaler,
    "PCA": preprocessing.PCAWhitening,
    "ZCA": preprocessing.ZCAWhitening,
}
NETS: dict[str, Any] = {  # arm: (norm for so many features, activation)
    "BN, ReLU": (nn.BatchNorm1d, "relu"),
    "BN frozen, ReLU": (lambda d: nn.BatchNorm1d(d, affine=False), "relu"),
    "BN, sigmoid": (nn.BatchNorm1d, "sigmoid"),
    "BN frozen, sigmoid": (lambda d: nn.BatchNorm1d(d, affine=False), "sigmoid"),
    "ZCA per batch, ReLU": (lambda d: nn.DecorrelatedBatchNorm1d(d, group_size=TOGETHER, method="zca"), "relu"),
    "PCA per batch, ReLU": (lambda d: nn.DecorrelatedBatchNorm1d(d, group_size=TOGETHER, method="pca"), "relu"),
}

PRESETS = {
    "quick": {
        "seeds": 8,
        "conditions": [1, 10, 100],
        "descent_steps": 5000,
        "steps": 200,
        "lrs": [0.1, 0.3],
        "widths": [32, 64, 128, 256],
        "limits": "eight seeds, 200 steps and two learning rates say little about the nets of (c) and (d); condition "
        "numbers up to 100",
    },
    "full": {
        "seeds": 20,
        "conditions": [1, 10, 100, 1000],
        "descent_steps": 20000,
        "steps": 500,
        "lrs": [0.03, 0.1, 0.3, 1.0, 3.0],
        "widths": [32, 64, 128, 256, 512],
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    lab.check_grid(settings, lrs=[FIXED_LR])
    problems = [(frame, k) for frame in ("scales", "rotated") for k in settings["conditions"]] + [("dataset", 0)]
    descent = {"part": "descent", "steps": settings["descent_steps"]}
    net = {"part": "net", "m": M, "steps": settings["steps"]}
    configs: list[dict[str, Any]] = []
    for seed in settings["seeds"]:
        common = {"seed": seed, "dataset": settings["dataset"]}
        for frame, k in problems:
            configs += [{"arm": arm, "frame": frame, "condition": k, **descent, **common} for arm in INPUTS]
        for arm in NETS:
            configs += [{"arm": arm, "lr": lr, **net, **common} for lr in settings["lrs"]]
        configs.append({"arm": "identities", "part": "identities", **common})
        configs.append({"arm": "times", "part": "times", "widths": settings["widths"], **common})
    return configs


# --- (a) steps of gradient descent


def problem(frame: str, condition: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x (n, d) whose covariance has the given condition number, y 0 or 1 from a noisy linear teacher.

    The teacher sees z, the whitened x, so that every direction matters as much as every other.
    """
    rng = stream(seed, DATA)
    z = rng.normal(size=(ROWS, FEATURES))
    teacher = rng.normal(size=FEATURES)
    y = rng.random(ROWS) < 1 / (1 + np.exp(-2 * z @ teacher / np.linalg.norm(teacher)))
    rotation = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    x = z * np.sqrt(np.logspace(0, -np.log10(condition), FEATURES))
    return (x @ rotation if frame == "rotated" else x), y.astype(np.int64)


def lowest_loss(x: np.ndarray, y: np.ndarray) -> float:
    """The minimum of the logistic loss, by Newton's method."""
    a = np.column_stack([x, np.ones(len(x))])
    w = np.zeros(a.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-a @ w))
        w -= np.linalg.lstsq((a * (p * (1 - p))[:, None]).T @ a, a.T @ (p - y), rcond=None)[0]
    logits = a @ w
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def condition_number(x: np.ndarray) -> float:
    """What gradient descent sees: largest over smallest eigenvalue of A^T A, with A the inputs and a column of ones.

    Directions without any variance are left out. Inputs far from mean 0, as min-max scaled ones are, resemble the ones.
    """
    values = np.linalg.svd(np.column_stack([x, np.ones(len(x))]), compute_uv=False) ** 2
    return float(values[0] / values[values > 1e-12 * values[0]][-1])


def descend(x: np.ndarray, y: np.ndarray, target: float, most: int) -> tuple[int, bool, nn.Linear]:
    """Steps of gradient descent from 0 until the loss is at most target; whether it got there; the model.

    The loss has no curvature above L, half of the largest eigenvalue of A^T A / n, with A the inputs and a column of
    ones (Böhning 1992): 1 / L is the largest rate for which theory promises a falling loss. One step is taken even
    where none is needed: the ratio of two numbers of steps must exist.
    """
    a = np.column_stack([x, np.ones(len(x))])
    model = nn.Linear(x.shape[1], int(y.max()) + 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    sgd = optim.SGD(model.parameters(), lr=2 / np.linalg.norm(a, 2) ** 2 * len(a))
    inputs = Tensor(x)
    for step in range(most + 1):
        loss = F.cross_entropy(model(inputs), y)
        if (step > 0 and loss.item() <= target) or step == most:
            break
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return step, bool(loss.item() <= target), model


def run_descent(config: dict[str, Any]) -> dict[str, Any]:
    if config["frame"] == "dataset":
        data = load_parts(config["dataset"], config["seed"], SIZES)
        x, y = data["train"][0].astype(np.float64), data["train"][1]
        target = 0.1 * np.log(y.max() + 1)  # separable: the lowest loss is 0
    else:
        data = {}
        x, y = problem(config["frame"], config["condition"], config["seed"])
        best = lowest_loss(x, y)
        target = best + 0.01 * (np.log(2) - best)  # all but a hundredth of what there is to gain
    scaler = INPUTS[config["arm"]]
    scaler = scaler().fit(x) if scaler else None
    scaled = scaler.transform(x) if scaler else x
    steps, reached, model = descend(scaled, y, target, config["steps"])
    result = {"taken": steps, "reached": reached, "input_condition": condition_number(scaled)}
    if data:
        test = data["test"][0].astype(np.float64)
        with no_grad():
            logits = model(Tensor(scaler.transform(test) if scaler else test)).data
        result["test_error"] = 100 * float((logits.argmax(axis=1) != data["test"][1]).mean())
    return result


# --- (b) and (d): identities in float64


def identities(config: dict[str, Any]) -> dict[str, Any]:
    seed, worst = config["seed"], {"covariance": 0.0, "rotation": 0.0}
    rng = stream(seed, BATCH)
    images = load_parts(config["dataset"], seed, SIZES)["train"][0].astype(np.float64)
    for x in (problem("rotated", 1000, seed)[0], images):
        pca, zca = preprocessing.PCAWhitening().fit(x), preprocessing.ZCAWhitening().fit(x)
        u, (p, z) = pca.components_.T, (pca.transform(x), zca.transform(x))
        worst["rotation"] = max(worst["rotation"], float(np.abs(z - p @ u.T).max()))
        identity = np.eye(p.shape[1])
        for y in (p, z @ u):  # z lies in the span of the data: in its axes its covariance is the identity as well
            worst["covariance"] = max(worst["covariance"], float(np.abs(np.cov(y.T) - identity).max()))
    x = problem("rotated", 1000, seed)[0]
    centered, white = x - x.mean(axis=0), preprocessing.ZCAWhitening().fit_transform(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    root = centered @ (vectors / np.sqrt(values)) @ vectors.T  # Cov(x)^(-1/2), another way
    worst["rotation"] = max(worst["rotation"], float(np.abs(white - root).max()))
    rotations = [np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0] for _ in range(20)]
    others = [preprocessing.PCAWhitening().fit_transform(x), *(white @ q for q in rotations)]
    distance = [float(np.mean((y - centered) ** 2)) for y in (white, *others)]

    eps = 1e-5
    mean, var = x.mean(axis=0), x.var(axis=0)
    restored = [  # with eps in gamma; without; and with gamma and beta of all rows, but statistics of a batch
        np.abs(F.batch_norm(Tensor(part), None, None, Tensor(gamma), Tensor(mean), training=True).data - part)
        for part, gamma in ((x, np.sqrt(var + eps)), (x, np.sqrt(var)), (x[:32], np.sqrt(var + eps)))
    ]
    names = ("restored", "without_eps", "batch_noise")
    return {
        **worst,
        "zca_distance": distance[0],
        "next_distance": min(distance[1:]),
        **{name: float((r / np.sqrt(var)).max()) for name, r in zip(names, restored, strict=True)},
    }


# --- (c) and (d): nets


def axis_agreement(method: str, x: np.ndarray, seed: int) -> float:
    """Whiten x with the statistics of one batch, and of another: the mean correlation of each feature with itself."""
    norm = nn.DecorrelatedBatchNorm1d(x.shape[1], momentum=1.0, group_size=TOGETHER, method=method)
    rows = stream(seed, BATCH).permutation(len(x))
    seen = []
    with no_grad():
        for batch in (rows[:M], rows[M : 2 * M]):
            norm.train()
            norm(Tensor(x[batch]))
            norm.eval()
            seen.append(norm(Tensor(x)).data.astype(np.float64))
    a, b = ((s - s.mean(axis=0)) / s.std(axis=0) for s in seen)
    return float((a * b).mean())


def error_with_batch_statistics(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Error (%) where each batch of M is whitened by itself, as in training: does learning fail, or inference?"""
    model.train()
    with no_grad():
        parts = [slice(start, start + M) for start in range(0, len(x) - M + 1, M)]
        wrong = [model(Tensor(x[part])).data.argmax(axis=1) != y[part] for part in parts]
    return 100 * float(np.mean(wrong))


def net(arm: str, features: int, classes: int, seed: int) -> nn.Sequential:
    """features-64-64-64-classes: linear, norm, activation; He's initialization."""
    norm, activation = NETS[arm]
    manual_seed(seed)
    layers: list[nn.Module] = []
    for width in (features, WIDTH, WIDTH):
        layers += [he_linear(width, WIDTH), norm(WIDTH), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, he_linear(WIDTH, classes))


def run_net(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, _ = data["train"]
    model = net(config["arm"], x.shape[1], count_classes(data), config["seed"])
    result = train(model, data, config)
    if "per batch" in config["arm"]:
        result["error_with_batch_statistics"] = result["chance"]
        result["agreement"] = 0.0
        if not result["diverged"]:
            result["error_with_batch_statistics"] = error_with_batch_statistics(model, *data["test"])
            with no_grad():
                hidden = model[0](Tensor(x)).data
            result["agreement"] = axis_agreement(config["arm"][:3].lower(), hidden, config["seed"])
    return result


# --- (e) what it costs


def nanoseconds(norm: str, d: int, seed: int, repeats: int = 5) -> float:
    """CPU time per element of a forward and backward pass, the least of several."""
    x = Tensor(stream(seed, DATA, d).normal(size=(ROWS_TIMED, d)).astype(np.float32), requires_grad=True)
    dy = np.ones_like(x.data)
    layer = nn.BatchNorm1d(d) if norm == "BN" else nn.DecorrelatedBatchNorm1d(d, group_size=d)
    times = []
    for _ in range(repeats + 1):  # the first one compiles and warms up
        started = time.process_time()
        layer(x).backward(dy)
        times.append(time.process_time() - started)
        x.grad = None
    return 1e9 * min(times[1:]) / x.size


def run(config: dict[str, Any]) -> dict[str, Any]:
    if config["part"] == "times":
        return {norm: [nanoseconds(norm, d, config["seed"]) for d in config["widths"]] for norm in TIMED}
    return {"descent": run_descent, "net": run_net, "identities": identities}[config["part"]](config)


def cost(config: dict[str, Any]) -> float:
    per_step = {"descent": max(config.get("condition", 1), 1) if config["arm"] in ("raw", "min-max") else 1, "net": 100}
    return float(per_step.get(config["part"], 1000))


# --- analysis


Test = tuple[str, float, tuple[float, float], float, dict[str, Any]]  # for lab.beyond; p before Holm's correction
Runs, Rows = list[dict[str, Any]], list[list[str]]


class Part(NamedTuple):
    """What one of the demo's parts adds to its analysis, but for the table, which it adds its rows to."""

    arms: list[dict[str, Any]]
    tests: list[Test]
    notes: list[str]


def place(frame: str, condition: float, settings: dict[str, Any]) -> str:
    return f"{frame}, condition {condition}" if condition else settings["dataset"]


def late(reached: np.ndarray) -> int:
    """How many runs did not get to the tolerance."""
    return int((~reached.astype(bool)).sum())


def times_fewer(steps: dict[Any, np.ndarray], frame: str, condition: float, arm: str) -> stats.Paired:
    """Of the logarithms: steps with raw inputs / with the arm's."""
    return stats.paired(np.log(steps[frame, condition, "raw"]), np.log(steps[frame, condition, arm]))


def slope(x: Any, y: np.ndarray) -> np.ndarray:
    """Of log y[seed, i] against log x[i], one per seed."""
    return np.polyfit(np.log(x), np.log(y).T, 1)[0]


def exact(runs: list[dict[str, Any]]) -> list[lab.Outcome]:
    """(b) and (d), the worst over seeds."""
    metrics = ("covariance", "rotation", "zca_distance", "next_distance", "restored")
    covariance, rotation, zca, closest, restored = (
        lab.per_seed(runs, metric, part="identities")[()] for metric in metrics
    )
    measured = [
        ("(b) covariance of both whitenings minus the identity, largest entry", covariance, 1e-8),
        ("(b) ZCA minus U PCA, and minus Cov(x)^(-1/2) (x - mean), largest entry", rotation, 1e-8),
        (
            "(b) mean square of ZCA minus x, divided by that of PCA and of 20 rotations of it, whichever is closest",
            zca / closest,
            1,
        ),
        ("(d) gamma = sqrt(var + eps), beta = mean: y minus x in standard deviations", restored, 1e-8),
    ]
    criteria = []
    for name, values, limit in measured:
        worst, words = values.max(), "< 1 in every seed" if limit == 1 else f"< {limit:g} (float64)"
        criteria.append(
            lab.Outcome(name, worst, None, words, lab.exactly(worst < limit), not criteria, kind=lab.IDENTITY)
        )
    return criteria


def descents(runs: Runs, settings: dict[str, Any], table: Rows) -> Part:
    """(a), the steps of gradient descent: a row and an arm per kind of inputs."""
    steps, reached, inputs = (
        lab.per_seed(runs, metric, "frame", "condition", "arm", part="descent")
        for metric in ("taken", "reached", "input_condition")
    )
    on_test, arms = lab.per_seed(runs, "test_error", "arm", part="descent"), []
    for (frame, k, arm), values in steps.items():
        name, missed = f"{place(frame, k, settings)}, {arm}", late(reached[frame, k, arm])
        also = f"condition of [x 1] {np.median(inputs[frame, k, arm]):.3g}"
        also += "" if k else f", test error {on_test[arm,].mean():.2f} %"
        also += f", {missed} did not get there" if missed else ""
        table.append(["a", name, "steps", stats.mean_interval(values, ".0f"), also])
        arms.append({"arm": name, "steps": list(values), "not_reached": missed})

    tests: list[Test] = []
    top = max(settings["conditions"])
    for frame, k, arm in (("scales", top, "standardized"), ("rotated", top, "ZCA"), ("dataset", 0, "ZCA")):
        d, missed = times_fewer(steps, frame, k, arm), late(reached[frame, k, "raw"])
        low, high = np.exp(d.ci)
        details = f"geometric mean; d_z of the logarithm {d.d_z:.2f}, "
        details += f"fewer steps in {100 * (1 - d.win_rate):.0f} % of seeds"
        note = f"{missed} raw runs did not get there: the ratio is a lower bound" if missed else ""
        name = f"(a) steps with raw inputs / with {arm}, {place(frame, k, settings)}"
        options = {"above": 1, "details": details, "note": note, "headline": frame == "rotated"}
        tests.append((name, float(np.exp(d.mean)), (float(low), float(high)), d.p, options))

    whitened = [(v, steps[f, k, "ZCA"]) for (f, k, arm), v in steps.items() if arm == "PCA"]
    same = sum(int((pca == zca).sum()) for pca, zca in whitened)
    d = times_fewer(steps, "rotated", top, "standardized")
    ratio = stats.interval(np.exp(d.mean), tuple(np.exp(d.ci)))
    notes = [
        f"(a) PCA and ZCA, which differ by a rotation, take the same number of steps in {same} of "
        f"{sum(len(zca) for _, zca in whitened)} pairs of runs",
        f"(a) rotated, condition {top}: steps raw / standardized {ratio}",
    ]
    return Part(arms, tests, notes)


def costs(runs: Runs, settings: dict[str, Any], table: Rows) -> Part:
    """(e), what it costs: a row per width, an arm and a test per norm."""
    arms, last, widths = [], [], settings["widths"]
    tests: list[Test] = []
    for norm, limit, bound, note in (
        ("BN", 0.25, "below", "O(nd): at most 0"),
        ("ZCA", 0.5, "above", "O(nd^2 + d^3): 1 to 2"),
    ):
        label = TIMED[norm]
        per_element = lab.per_seed(runs, norm, part="times")[()]
        slopes = slope(widths, per_element)
        p = stats.paired(slopes, np.full(len(slopes), limit)).p  # against the bound, not against 0
        name = f"(e) log-log slope of {label}'s time per element against d"
        tests.append((name, *stats.mean_ci(slopes), p, {bound: limit, "note": note}))
        for d, column in zip(widths, per_element.T, strict=True):
            table.append(["e", f"{label}, d = {d}", "ns per element", stats.mean_interval(column), f"n = {ROWS_TIMED}"])
        arms.append({"arm": label, "widths": widths, "ns_per_element": per_element.tolist()})
        last.append(f"{label} {slope(widths[-2:], per_element[:, -2:]).mean():.2f}")
    return Part(arms, tests, [f"(e) the slopes from d = {widths[-2]} to {widths[-1]} alone: {', '.join(last)}"])


def nets(runs: Runs, settings: dict[str, Any], table: Rows) -> Part:
    """(c) and (d): a row and an arm per net, and the paired differences as notes. No test: nothing was predicted."""
    error, nll, train_nll, diverged = (
        lab.per_seed(runs, metric, "arm", "lr", part="net")
        for metric in ("test_error", "test_nll", "train_nll", "diverged")
    )
    agreement, best, arms = lab.per_seed(runs, "agreement", "arm", "lr", part="net"), lab.best_lr(runs), []
    for arm, lr in best.items():
        key = (arm, lr)
        gone = int(sum(values.sum() for (a, _), values in diverged.items() if a == arm))
        also = f"lr {lr:g}, NLL {nll[key].mean():.3f}, train {train_nll[key].mean():.3f}, diverged {gone}"
        part = "c" if "per batch" in arm else "d"
        table.append([part, arm, "test error (%)", stats.mean_interval(error[key]), also])
        arms.append({"arm": arm, "best_lr": lr, "test_error": list(error[key]), "test_nll": list(nll[key])})
        arms[-1] |= {"train_nll": list(train_nll[key]), "test_error_at_fixed_lr": list(error[arm, FIXED_LR])}
        arms[-1]["diverged"] = gone
    notes = []
    compared = [
        ("(c)", "PCA per batch, ReLU", "ZCA per batch, ReLU"),
        ("(c)", "ZCA per batch, ReLU", "BN, ReLU"),
        ("(d)", "BN frozen, ReLU", "BN, ReLU"),
        ("(d)", "BN frozen, sigmoid", "BN, sigmoid"),
    ]
    for part, a, b in compared:
        words = []
        for where, first, second in (("best lr", best[a], best[b]), (f"lr {FIXED_LR}", FIXED_LR, FIXED_LR)):
            d = stats.paired(error[a, first], error[b, second])
            same = stats.tost(error[a, first], error[b, second], MARGIN)["equivalent"]
            words.append(f"{stats.interval(d.mean, d.ci)} at {where}{f' (equivalent within {MARGIN})' if same else ''}")
        notes.append(f"{part} {a} minus {b}, points of test error: {'; '.join(words)}")
    kept = {arm[:3]: agreement[arm, FIXED_LR] for arm in best if (arm, FIXED_LR) in agreement}
    words = [f"{name} {stats.mean_interval(values)}" for name, values in kept.items()]
    notes.append(
        f"(c) correlation of a feature whitened by one batch with itself whitened by another: {', '.join(words)}"
    )
    by_batch = lab.per_seed(runs, "error_with_batch_statistics", "arm", "lr", part="net")
    words = [f"{arm[:3]} {stats.mean_interval(by_batch[arm, lr])}" for arm, lr in best.items() if (arm, lr) in by_batch]
    notes.append(
        f"(c) test error (%) where each batch of {M} is whitened by itself, as in training: {', '.join(words)}"
    )
    return Part(arms, [], notes + lab.at_the_edge(arms, settings["lrs"]))


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    table = [["part", "arm", "measured", "mean [95 %]", "also"]]
    parts = [part(runs, settings, table) for part in (descents, costs, nets)]
    arms = [arm for part in parts for arm in part.arms]
    tests = [test for part in parts for test in part.tests]
    notes = [note for part in parts for note in part.notes]
    criteria = exact(runs)
    for (name, mean, ci, _, options), p in zip(tests, stats.holm([t[3] for t in tests]), strict=True):
        criteria.append(lab.beyond(name, mean, ci, p, **options))
    eps, noise = (lab.per_seed(runs, k, part="identities")[()].max() for k in ("without_eps", "batch_noise"))
    notes.append(
        f"(d) with gamma = sqrt(var), without eps, y differs from x by up to {eps:.1g} standard deviations; with gamma "
        f"and beta of all rows, but statistics of 32, by {noise:.1g}"
    )
    return lab.Analysis(arms, criteria, table, notes)


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    steps = lab.per_seed(runs, "taken", "frame", "condition", "arm", part="descent")
    times = {label: lab.per_seed(runs, norm, part="times")[()] for norm, label in TIMED.items()}
    return [
        figures.steps_against_condition(steps, settings["conditions"], list(INPUTS)),
        figures.five_inputs(INPUTS),
        figures.cost_against_features(times, settings["widths"], ROWS_TIMED),
    ]


DEMO = lab.Demo(
    name="scaling_and_whitening",
    claim="Scaling and whitening speed up descent; both whitenings give the identity; their cost grows with the width.",
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
