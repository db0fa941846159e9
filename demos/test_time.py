"""Which statistics does batch norm need at test time?

In training each batch is normalized with its own mean and variance. "Better not use it at test time", says the source
text; but the net was trained with normalized activations and needs constants in their place. Nets trained with
batches of 4, 8, 32 and 128 rows are evaluated with

- the population's statistics, measured over the training set once the net is trained (recompute_statistics);
- the moving averages kept in training;
- the statistics of test batches of 1, 2, 8, 32, ... rows, in random order and sorted by class;
- no normalization at all: the norm layers are taken out.

Then the inputs shift: contrast, offset, noise. n unlabelled rows of the new inputs are worth n rows, the training
statistics N: mean = (N mean_source + n mean_target) / (N + n), the variance alike (adapt_statistics). Does that help
under shift, and does it harm without? Lastly two facts: a batch's variance falls short by (m - 1) / m on average, and
batch norm with constants is an affine map that the layer before can take up (fold_batch_norm).

    python -m demos.test_time --preset full
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np

from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import NOISE, batches, evaluate, stream, train
from tinygrad_bn import Tensor, manual_seed, nn, no_grad

N, WIDTH, LR = 1000, 100, 0.1
SIZES = {"train": N, "target": 256, "test": 512}  # target: unlabelled rows, for adaptation alone
TRAINED_WITH = [4, 8, 32, 128]
MAIN = 32  # of these, the net that the criteria look at
TEST_BATCHES = [1, 2, 8, 32, 128, SIZES["test"]]
MARGIN = 0.3  # points of test error: differences below it count as none
SAME = 1e-5  # of the largest logit: rounding in float32, some 100 units of 2^-24, in sums of 100 terms
ADAPTED_WITH = (256, 16)  # rows of the target, rows that the training statistics are worth; the numbers are ours
PSEUDO_COUNTS = [0, 16, 64, 256, 1024]
TARGET_ROWS = [8, 32, 128, 256]

# kind of shift: its strengths
SHIFTS = {"contrast": [0.7, 0.5, 0.3], "offset": [0.5, 1.0, 2.0], "noise": [0.5, 1.0, 2.0]}

PRESETS = {
    "quick": {
        "seeds": 8,
        "epochs": 40,
        "limits": "eight seeds give wide intervals: whether a difference is below 0.3 points often stays open.",
    },
    "full": {"seeds": 20, "epochs": 40},
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "arm": f"m={m}",
            "seed": seed,
            "lr": LR,
            "dataset": settings["dataset"],
            "steps": settings["epochs"] * (N // m),  # equal samples for all
            "m": m,
        }
        for seed in settings["seeds"]
        for m in TRAINED_WITH
    ]


def net(features: int, classes: int, norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    """features-100-100-100-classes: linear, norm, ReLU; the initialization is PyTorch's."""
    layers: list[nn.Module] = []
    for width in (features, WIDTH, WIDTH):
        layers += [nn.Linear(width, WIDTH), norm(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, classes))


# --- ways to evaluate a trained net


def with_norm(model: nn.Sequential, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """The same weights and statistics, with another norm in each norm's place."""
    other = net(model[0].in_features, model[-1].out_features, norm)
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def logits(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    with no_grad():
        return model(Tensor(x)).data


def batch_logits(model: nn.Sequential, x: np.ndarray, size: int) -> np.ndarray:
    """Each `size` rows of x are normalized by their own statistics: ghost batches in training mode.

    The library refuses a batch of one row, as PyTorch does: x - mean is 0 whatever x is. Here the row is taken twice,
    which has the same mean and the same (biased) variance.
    """
    if size == 1:
        return batch_logits(model, np.repeat(x, 2, axis=0), 2)[::2]
    return logits(with_norm(model, lambda features: nn.GhostBatchNorm1d(features, size)).train(), x)


def error_of(scores: np.ndarray, y: np.ndarray) -> float:
    return 100 * float((scores.argmax(axis=1) != y).mean())


def shifted(x: np.ndarray, kind: str, strength: float, middle: float, sd: float, random: Any) -> np.ndarray:
    """contrast: x - middle shrinks to a share; offset, noise: in standard deviations of the training pixels."""
    if kind == "contrast":
        return (middle + strength * (x - middle)).astype(np.float32)
    by = random.standard_normal(x.shape) if kind == "noise" else 1.0
    return (x + strength * sd * by).astype(np.float32)


def adapted(model: nn.Sequential, target: np.ndarray, n: int, count: int) -> nn.Sequential:
    return nn.utils.adapt_statistics(copy.deepcopy(model), target[:n], n / (count + n))


def fold_error(model: nn.Sequential, x: np.ndarray) -> float:
    """Largest change of a logit by folding, relative to the largest logit."""
    plain, folded = logits(model, x), logits(nn.utils.fold_batch_norm(model), x)
    return float(np.abs(folded - plain).max() / np.abs(plain).max())


def spread(scores: np.ndarray) -> float:
    """The largest difference between the logits of two rows, relative to the largest logit."""
    return float(np.ptp(scores, axis=0).max() / np.abs(scores).max())


def in_float64(model: nn.Sequential) -> nn.Sequential:
    other = copy.deepcopy(model)
    for module in other.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, nn.Parameter):
                setattr(module, name, nn.Parameter(value.data.astype(np.float64)))
            elif name in ("running_mean", "running_var"):
                setattr(module, name, value.astype(np.float64))
    return other


def variance_ratio(x: np.ndarray, m: int, seed: int) -> float:
    """E[var_B] / var over 40 epochs of batches of m rows as in training, a mean over features.

    var_B is biased, as batch norm's; var is the unbiased variance of all rows. (m - 1) / m is expected.
    """
    var = x.var(axis=0, ddof=1)
    taken = np.array(list(islice(batches(len(x), m, seed), 40 * (len(x) // m))))
    varying = var > 0
    return float((x[taken][:, :, varying].var(axis=1).mean(axis=0) / var[varying]).mean())


def run(config: dict[str, Any]) -> dict[str, Any]:
    data, seed, m = load_parts(config["dataset"], config["seed"], SIZES), config["seed"], config["m"]
    (x, _), (target, _), (x_test, y_test) = data["train"], data["target"], data["test"]
    manual_seed(seed)
    model = net(x.shape[1], count_classes(data))
    moving: dict[str, np.ndarray] = {}

    def watch(step: int) -> None:
        if step == config["steps"]:
            moving.update(model.state_dict())

    result = train(model, data, config, watch=watch)  # leaves the population's statistics in the net
    with np.errstate(all="ignore"):
        kept = copy.deepcopy(model)
        kept.load_state_dict(moving or model.state_dict())
        biased = copy.deepcopy(kept)
        for norm in biased.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_var *= (m - 1) / m
        ways = {"population": model, "moving average": kept, "moving average, biased": biased}
        ways["norms taken out"] = with_norm(model, lambda features: nn.Identity())
        errors = {way: evaluate(variant, x_test, y_test)[0] for way, variant in ways.items()}
        by_class = np.argsort(y_test, kind="stable")
        for size in TEST_BATCHES:
            errors[f"B={size}"] = error_of(batch_logits(model, x_test, size), y_test)
            errors[f"B={size}, by class"] = error_of(batch_logits(model, x_test[by_class], size), y_test[by_class])
        if m == MAIN:
            errors |= under_shift(model, x, target, x_test, y_test, seed)
        facts = {
            "spread_at_one": spread(batch_logits(model, x_test, 1)),
            "fold_error": fold_error(model, x_test),
            "fold_error_float64": fold_error(in_float64(model), x_test.astype(np.float64)),
            "variance_ratio": variance_ratio(logits(model[:1], x).astype(np.float64), m, seed),
        }
    if result["diverged"]:
        errors = dict.fromkeys(errors, result["chance"])
    return {**result, "errors": errors, **facts}


def under_shift(
    model: nn.Sequential, x: np.ndarray, target: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, seed: int
) -> dict[str, float]:
    """Test error with the training statistics and with adapted ones, for each shift and strength, and without shift."""
    middle, sd = float(x.mean()), float(x.std())
    errors = {}
    for kind, strength in [("none", 0.0), *((kind, s) for kind, all_s in SHIFTS.items() for s in all_s)]:
        new, test = target, x_test
        if kind != "none":
            new = shifted(target, kind, strength, middle, sd, stream(seed, NOISE, 0))
            test = shifted(x_test, kind, strength, middle, sd, stream(seed, NOISE, 1))
        errors[f"{kind} {strength}, source"] = evaluate(model, test, y_test)[0]
        for n in TARGET_ROWS:
            for count in PSEUDO_COUNTS:
                key = f"{kind} {strength}, n={n}, N={count}"
                errors[key] = evaluate(adapted(model, new, n, count), test, y_test)[0]
    return errors


def cost(config: dict[str, Any]) -> float:
    return float(config["steps"])


# --- what the runs say


Errors = dict[tuple[int, str], np.ndarray]


def errors_of(runs: list[dict[str, Any]]) -> Errors:
    """(m, way to evaluate) -> test error, one value per seed."""
    by_m = {m: seeds for (m,), seeds in lab.per_seed(runs, "errors", "m").items()}
    return {(m, way): np.array([errors[way] for errors in seeds]) for m, seeds in by_m.items() for way in seeds[0]}


def over_shifts(error: Errors, kinds: Iterable[str], way: str) -> np.ndarray:
    """Of the main net, a mean over the strengths of these kinds of shift."""
    return np.mean([error[MAIN, f"{kind} {s}, {way}"] for kind in kinds for s in SHIFTS[kind]], axis=0)


WITHOUT = "none 0.0"
ADAPTED = "n={}, N={}".format(*ADAPTED_WITH)
WHOLE = f"B={SIZES['test']}"
WAYS = ["population", "moving average", "moving average, biased", "norms taken out"]


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    error = errors_of(runs)
    table = [["test error % with the statistics of", *(f"trained with m={m}" for m in TRAINED_WITH)]]
    by_batch = [f"B={size}{order}" for order in ("", ", by class") for size in TEST_BATCHES]
    for way in (*WAYS, *by_batch):
        name = f"test batches, {way}" if way in by_batch else way
        table.append([name, *(stats.mean_interval(error[m, way]) for m in TRAINED_WITH)])
    others = ("test_nll", "train_nll", "variance_ratio", "fold_error", "diverged")
    facts = {metric: lab.per_seed(runs, metric, "m") for metric in others}
    arms = []
    for m in TRAINED_WITH:
        arms.append({"arm": f"m={m}", "errors": {way: list(e) for (k, way), e in error.items() if k == m}})
        arms[-1] |= {metric: list(values[m,]) for metric, values in facts.items()}
    for metric, what in (("test_nll", "test NLL, population"), ("train_nll", "train NLL, population")):
        table.append([what, *(f"{np.mean(arm[metric]):.3f}" for arm in arms)])

    same = stats.tost(error[MAIN, "population"], error[MAIN, WHOLE], MARGIN)
    no_harm = stats.tost(*(error[MAIN, f"{WITHOUT}, {way}"] for way in (ADAPTED, "source")), MARGIN)
    helps = {kind: stats.paired(*(over_shifts(error, [kind], way) for way in (ADAPTED, "source"))) for kind in SHIFTS}
    corrected = [facts["variance_ratio"][m,] * m / (m - 1) for m in TRAINED_WITH]
    unbiased = [stats.tost(c, np.ones(len(c)), 0.01) for c in corrected]
    tests = [same, *helps.values(), no_harm, max(unbiased, key=lambda t: t["p"])]
    p_same, *p_helps, p_no_harm, p_unbiased = stats.holm([t["p"] if isinstance(t, dict) else t.p for t in tests])

    alone, alone_ci = stats.mean_ci(error[MAIN, "B=1"])
    apart = max(r["spread_at_one"] for r in runs)
    criteria = [
        lab.Outcome(
            "test error % with the statistics of one image (B=1)",
            alone,
            alone_ci,
            "chance: the same logits for every image, in every net",
            lab.exactly(apart < SAME and not lab.learned(alone, runs[0]["chance"])),
            headline=True,
            note=f"largest difference between the logits of two test images, of the largest logit: {apart:.1g} "
            f"(rounding: below {SAME:g}; a BLAS may add up equal rows in different orders)",
        ),
        lab.Outcome(
            "test error of the population's statistics minus that of the whole test set as one batch, points",
            same["mean"],
            stats.mean_ci(error[MAIN, "population"] - error[MAIN, WHOLE])[1],
            f"90 % interval within +-{MARGIN}, TOST, Holm p < 0.05",
            lab.equivalent(same, p_same),
            headline=True,
            note=f"{ninety(same)}, Holm p {p_same:.2g}",
        ),
    ]
    for (kind, d), p in zip(helps.items(), p_helps, strict=True):
        name = f"shift by {kind}: test error of adapted ({ADAPTED}) minus training statistics, points"
        words = {"details": d.details("better"), "note": "a mean over the strengths"}
        criteria.append(lab.beyond(name, d.mean, d.ci, p, below=0, **words))
    worst_fold = max(r["fold_error"] for r in runs)
    worst = max(range(len(unbiased)), key=lambda i: abs(unbiased[i]["mean"]))
    criteria += [
        lab.Outcome(
            f"no shift: test error of adapted ({ADAPTED}) minus training statistics, points",
            no_harm["mean"],
            stats.mean_ci(error[MAIN, f"{WITHOUT}, {ADAPTED}"] - error[MAIN, f"{WITHOUT}, source"])[1],
            f"90 % interval within +-{MARGIN}, TOST, Holm p < 0.05",
            lab.equivalent(no_harm, p_no_harm),
            note=f"{ninety(no_harm)}, Holm p {p_no_harm:.2g}; other n and N: see the notes and the figure",
        ),
        lab.Outcome(
            "E[m / (m - 1) var_B] / var over batches as in training, furthest from 1 of all m",
            *stats.mean_ci(corrected[worst]),
            "90 % interval within 1 +- 0.01 for every m, TOST, Holm p < 0.05",
            lab.HOLDS if all(t["equivalent"] for t in unbiased) and p_unbiased < 0.05 else lab.UNDECIDED,
            note=f"{ninety(unbiased[worst], 1)}, Holm p {p_unbiased:.2g}; here m={TRAINED_WITH[worst]}; "
            f"without the factor m / (m - 1), at m={TRAINED_WITH[0]}: {np.mean(arms[0]['variance_ratio']):.3f}",
        ),
        lab.Outcome(
            "folded into the linear layers: largest change of a logit, relative to the largest logit (float32)",
            worst_fold,
            None,
            "< 1e-6",
            lab.exactly(worst_fold < 1e-6),
            kind=lab.IDENTITY,
            note=f"the same in float64, where rounding hides nothing: {max(r['fold_error_float64'] for r in runs):.1e}",
        ),
    ]
    return lab.Analysis(arms, criteria, table, notes(error))


def ninety(tost: dict[str, Any], of: float = 0.0) -> str:
    """The interval that the test of equivalence looks at, of the difference from `of`."""
    return f"90 % interval [{of + tost['ci90'][0]:.3f}, {of + tost['ci90'][1]:.3f}]"


def notes(error: Errors) -> list[str]:
    """What no criterion asks: the other nets, the moving average, and what N trades for what."""
    lines = []
    for what, a, b in (
        ("population minus whole test set", "population", WHOLE),
        ("norms taken out minus population", WAYS[3], "population"),
        ("moving average minus population", "moving average", "population"),
        ("moving average of the biased variance minus that of the unbiased", WAYS[2], WAYS[1]),
    ):
        found = [f"m={m} {stats.paired(error[m, a], error[m, b]).interval()}" for m in TRAINED_WITH]
        lines.append(f"{what}, points: {', '.join(found)}")
    for count in PSEUDO_COUNTS:
        way = f"n={ADAPTED_WITH[0]}, N={count}"
        harm = stats.paired(*(error[MAIN, f"{WITHOUT}, {w}"] for w in (way, "source"))).interval()
        gain = stats.paired(*(over_shifts(error, SHIFTS, w) for w in (way, "source"))).interval()
        lines.append(f"adapted with {way}, points: without shift {harm}, mean of all shifts {gain}")
    affine = [f"{kind} {s}, n={ADAPTED_WITH[0]}, N=0" for kind in ("contrast", "offset") for s in SHIFTS[kind]]
    unshifted = error[MAIN, f"{WITHOUT}, n={ADAPTED_WITH[0]}, N=0"]
    change = max(np.abs(error[MAIN, way] - unshifted).max() for way in affine)
    lines.append(
        "contrast and offset change each input of the first norm by an affine map, which statistics of the target "
        f"alone (N=0) take back: the largest change of an error is {change:.2f} points"
    )
    return lines


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    seeds, error = f"{len(settings['seeds'])} seeds, 95 % bands", errors_of(runs)
    pictures = []

    titles = ["Test images in random order", "Test images sorted by class"]
    fig, axes = plots.panels(titles, (12, 5), "B, rows of a test batch", "test error (%)")
    axes[0].set(xscale="log", yscale="log")
    for ax, order in zip(axes, ("", ", by class"), strict=True):
        for m, look in plots.looks(TRAINED_WITH).items():
            curves = np.column_stack([error[m, f"B={size}{order}"] for size in TEST_BATCHES])
            plots.line_with_band(ax, TEST_BATCHES, curves, f"m={m}", **look)
            with np.errstate(divide="ignore"):
                population = np.exp(np.log(error[m, "population"]).mean())  # geometric, as the curves
            ax.axhline(population, lw=1, **{**look, "marker": ""})
        plots.label_x(ax, TEST_BATCHES)
    plots.label_decades(axes[0].yaxis)
    axes[0].legend(title="trained with")
    fig.suptitle(f"Normalized with the statistics of the test batch ({seeds})")
    pictures.append(
        plots.Picture(
            "error_against_test_batch",
            "Test error (%) of batch norm that uses the statistics of test batches of B rows (both logarithmic), in "
            "random order and sorted by class; geometric mean over seeds with its 95 % band. Thin lines without "
            "markers: the population's statistics, which do not depend on the company. 90 % is chance.",
            fig,
        )
    )

    n, count = ADAPTED_WITH
    ways = plots.looks(["source", f"n={n}, N={count}", f"n={n}, N=0", f"n=8, N={count}", "n=8, N=0"])
    fig, axes = plots.panels(["less contrast", "offset", "noise"], (13, 4.8), ylabel="test error (%)", sharex=False)
    for ax, (kind, strengths) in zip(axes, SHIFTS.items(), strict=True):
        unshifted = 1.0 if kind == "contrast" else 0.0
        for way, look in ways.items():
            keys = [f"{WITHOUT}, {way}", *(f"{kind} {s}, {way}" for s in strengths)]
            curves = np.column_stack([error[MAIN, key] for key in keys])
            label = "training statistics" if way == "source" else f"adapted, {way}"
            plots.line_with_band(ax, [unshifted, *strengths], curves, label, **look)
        unit = "share that is left" if kind == "contrast" else "standard deviations of the pixels"
        ax.set_xlabel(f"{kind} ({unit})")
    axes[0].invert_xaxis()
    axes[0].set_ylim(0, None)
    axes[0].legend()
    fig.suptitle(f"Shifted test images, nets trained with m={MAIN} ({seeds})")
    pictures.append(
        plots.Picture(
            "error_under_shift",
            "Test error (%) against the strength of the shift, from none on the left; mean over seeds with its 95 % "
            "band. Adapted: statistics mixed with those of n unlabelled rows of the shifted inputs, the training "
            "statistics being worth N. Look at how far below the training statistics they stay, and what few rows cost "
            "where nothing has shifted.",
            fig,
        )
    )

    def without_shift(way: str) -> np.ndarray:
        return error[MAIN, f"{WITHOUT}, {way}"]

    def with_all_shifts(way: str) -> np.ndarray:
        return over_shifts(error, SHIFTS, way)

    xlabel, places = "N, rows the training statistics are worth", range(len(PSEUDO_COUNTS))
    fig, axes = plots.panels(["no shift", "mean of the nine shifts"], (12, 4.8), xlabel, "test error (%)", sharey=False)
    for ax, errors_with in zip(axes, (without_shift, with_all_shifts), strict=True):
        for n, look in plots.looks(TARGET_ROWS).items():
            curves = np.column_stack([errors_with(f"n={n}, N={count}") for count in PSEUDO_COUNTS])
            plots.line_with_band(ax, places, curves, f"n={n}", **look)
        ax.axhline(errors_with("source").mean(), color="0.4", label="training statistics")
        ax.set_ylim(0, None)
    plots.label_x(axes[0], places, [str(count) for count in PSEUDO_COUNTS])
    axes[0].legend()
    fig.suptitle(f"What adaptation costs and what it gains ({seeds})")
    pictures.append(
        plots.Picture(
            "cost_and_gain_of_adaptation",
            "Test error (%) against N, for n rows of the target; mean over seeds with its 95 % band; the grey line is "
            "the net that is not adapted. The same N that protects where nothing has shifted (left, lower is safer) "
            "gives away part of the gain under shift (right).",
            fig,
        )
    )

    fig, ax = plots.plt.subplots(figsize=(7, 4.5))
    ms = np.geomspace(TRAINED_WITH[0] / 1.3, TRAINED_WITH[-1] * 1.3, 100)
    ax.plot(ms, (ms - 1) / ms, color="0.4", label="(m - 1) / m")
    ratio = np.column_stack([arm["variance_ratio"] for arm in analysis.arms])
    look = plots.looks(["measured", "times m / (m - 1)"])
    ax.plot(TRAINED_WITH, ratio.mean(axis=0), label="measured", ms=9, **{**look["measured"], "linestyle": ""})
    corrected = ratio * TRAINED_WITH / (np.array(TRAINED_WITH) - 1)
    plots.line_with_band(ax, TRAINED_WITH, corrected, "times m / (m - 1)", **look["times m / (m - 1)"])
    ax.set(xscale="log", xlabel="m, rows of a batch", ylabel="mean batch variance / variance of all rows")
    plots.label_x(ax, TRAINED_WITH)
    ax.legend()
    pictures.append(
        plots.Picture(
            "variance_of_batches",
            "The mean (biased) variance of batches of m rows (logarithmic), relative to the variance of the training "
            "set (no unit), for the first layer's outputs; mean over seeds. It follows (m - 1) / m; the factor that "
            "batch norm puts on the variance it tracks brings it to 1.",
            fig,
        )
    )
    return pictures


DEMO = lab.Demo(
    name="test_time",
    claim="At test time batch norm needs constants, the population's statistics: not the batch's, and not none.",
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
