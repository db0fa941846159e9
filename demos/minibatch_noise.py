"""Does mini-batch NOISE regularize?

Batch norm computes its statistics from a mini-batch, so the same image is normalized a little differently every time.
Is that noise what makes the net generalize better? The SGD batch is fixed at 32 rows, and only S varies, the number
of rows that the statistics come from: groups of S < 32 rows ("ghost batches"), S > 32 with extra rows that take part
in the statistics only, and S = N, the whole training set, which is batch norm without any noise. Then the noise is
put back by hand into the noise-free net, in four ways. If noise is the cause, error falls as S falls, and the
hand-made noise recovers the gain.

    python -m demos.minibatch_noise --preset full
"""

from __future__ import annotations

from typing import Any

import numpy as np

from demos import laboratory as lab
from demos import plots
from demos import statistics as stats
from demos.datasets import count_classes, load_parts
from demos.training import EXTRA_ROWS, ChosenBatchNorm, he_linear, stream, train
from tinygrad_bn import manual_seed, nn

N, M, WIDTH, FIXED_LR = 500, 32, 100, 0.1
SIZES = {"train": N, "valid": 297, "test": 1000}
GROUPS = [4, 8, 32, 128, N]


def label(rows: int) -> str:
    return f"S={'N' if rows == N else rows}"


# arm: (rows of the statistics, noise put back, dropout after every layer, dropout after the last layer)
ARMS: dict[str, tuple[int | None, str | None, float, float]] = {
    "no norm": (None, None, 0.0, 0.0),
    **{label(s): (s, None, 0.0, 0.0) for s in GROUPS},
    "S=N + ghost noise": (N, "ghost", 0.0, 0.0),
    "S=N + Gaussian noise": (N, "gaussian", 0.0, 0.0),
    "S=N + dropout": (N, None, 0.2, 0.0),
    "S=N + dropout at the end": (N, None, 0.0, 0.2),
    "no norm + dropout": (None, None, 0.2, 0.0),
}
NOISE_ARMS = ["S=N + ghost noise", "S=N + Gaussian noise"]
COMPARED = ["S=8", "S=N"]
MARGIN = 0.5  # points of test error: differences below it count as none

# arms: what is trained at lr 0.1; swept: the arms that are trained at every one of lrs
PRESETS = {
    "quick": {
        "seeds": 8,
        "steps": 500,
        "lrs": [0.1, 0.3],
        "arms": ["no norm", *(label(s) for s in GROUPS), "S=N + ghost noise"],
        "swept": COMPARED,
        "limits": "eight seeds and 500 steps give wide intervals; two learning rates, and only for S=8 and S=N, are "
        "hardly a search for the best; dropout and Gaussian noise are left to the full preset",
    },
    "full": {
        "seeds": 20,
        "steps": 1000,
        "lrs": [0.03, 0.1, 0.3, 1.0, 3.0],
        "arms": list(ARMS),
        "swept": list(ARMS),
    },
}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    lab.check_grid(settings, lrs=[FIXED_LR])
    return [
        {
            "arm": arm,
            "seed": seed,
            "lr": lr,
            "dataset": settings["dataset"],
            "steps": settings["steps"],
            "m": M,
            "drop_at": 0.75,
        }
        for seed in settings["seeds"]
        for arm in settings["arms"]
        for lr in (settings["lrs"] if arm in settings["swept"] else [FIXED_LR])
    ]


def net(arm: str, features: int, classes: int, seed: int) -> nn.Module:
    """features-100-100-100-classes: linear, [norm], ReLU, [dropout]; He's initialization."""
    rows, noise, dropout, last_dropout = ARMS[arm]
    manual_seed(seed)
    layers: list[nn.Module] = []
    for i, width in enumerate([features, WIDTH, WIDTH]):
        layers.append(he_linear(width, WIDTH))
        if rows is not None:
            group = rows if rows < M else None  # None: all rows of the forward pass
            layers.append(ChosenBatchNorm(WIDTH, group, noise, 8, seed, i))
        layers.append(nn.ReLU())
        p = dropout or (last_dropout if i == 2 else 0.0)
        if p:
            layers.append(nn.Dropout(p))
    return nn.Sequential(*layers, he_linear(WIDTH, classes))


def run(config: dict[str, Any]) -> dict[str, Any]:
    data = load_parts(config["dataset"], config["seed"], SIZES)
    x, _y = data["train"]
    model = net(config["arm"], x.shape[1], count_classes(data), config["seed"])
    statistics_rows = ARMS[config["arm"]][0] or 0
    extra = stream(config["seed"], EXTRA_ROWS)

    def rows(batch: np.ndarray) -> np.ndarray:
        """The batch, then rows that only take part in the statistics."""
        if statistics_rows <= M:
            return batch
        others = np.setdiff1d(np.arange(N), batch)
        if statistics_rows < N:
            others = extra.choice(others, statistics_rows - M, replace=False)
        return np.concatenate([batch, others])

    return train(model, data, config, rows)


def cost(config: dict[str, Any]) -> float:
    return float(ARMS[config["arm"]][0] or 0)


def analyse(runs: list[dict[str, Any]], settings: dict[str, Any]) -> lab.Analysis:
    metrics = ("test_error", "test_nll", "train_nll", "valid_error", "diverged")
    error, nll, train_nll, valid, diverged = (lab.per_seed(runs, metric, "arm", "lr") for metric in metrics)
    best = lab.best_lr(runs)
    table = [["arm", f"error % at lr {FIXED_LR}", "NLL", "train NLL", "best lr", "error % there", "diverged"]]
    arms = []
    for arm in settings["arms"]:
        swept = arm in settings["swept"] and lab.learned(error[arm, best[arm]].mean(), runs[0]["chance"])
        table.append(
            [
                arm,
                stats.mean_interval(error[arm, FIXED_LR]),
                f"{nll[arm, FIXED_LR].mean():.3f}",
                f"{train_nll[arm, FIXED_LR].mean():.3f}",
                f"{best[arm]:g}" if swept else "-",
                f"{error[arm, best[arm]].mean():.2f}" if swept else "-",
                str(int(sum(values.sum() for (a, _), values in diverged.items() if a == arm))),
            ]
        )
        arms.append(
            {
                "arm": arm,
                "best_lr": best[arm] if swept else None,
                "test_error": list(error[arm, FIXED_LR]),
                "test_nll": list(nll[arm, FIXED_LR]),
                "train_nll": list(train_nll[arm, FIXED_LR]),
                "test_error_at_best_lr": list(error[arm, best[arm]]) if swept else None,
                "diverged": list(diverged[arm, FIXED_LR]),
            }
        )

    fixed = stats.paired(error["S=8", FIXED_LR], error["S=N", FIXED_LR])
    at_best = stats.paired(error["S=8", best["S=8"]], error["S=N", best["S=N"]])
    sizes = GROUPS[1:]
    trend = stats.spearman_over_seeds(sizes, np.column_stack([nll[label(s), FIXED_LR] for s in sizes]))
    *adjusted, p_trend = stats.holm([fixed.p, at_best.p, trend.p])
    criteria = []
    for where, d, p in zip(("at lr 0.1", "at each arm's best lr"), (fixed, at_best), adjusted, strict=True):
        name = f"test error of S=8 minus S=N, points, {where}"
        criteria.append(lab.beyond(name, d.mean, d.ci, p, below=0, details=d.details("S=8 better"), headline=True))
    name = "Spearman correlation of S = 8..N with test NLL"
    criteria.append(lab.beyond(name, trend.mean, trend.ci, p_trend, above=0))
    middle = (error["S=8", FIXED_LR] + error["S=N", FIXED_LR]) / 2
    gap = error["S=N", FIXED_LR].mean() - error["S=8", FIXED_LR].mean()
    # of the two noises the one that did better on validation data: the test error may not choose
    arm = min((a for a in NOISE_ARMS if a in settings["arms"]), key=lambda a: valid[a, FIXED_LR].mean())
    to_middle = stats.paired(error[arm, FIXED_LR], middle)
    criteria.append(
        lab.Criterion(
            f"test error of {arm} minus the middle between S=8 and S=N, points",
            to_middle.mean,
            to_middle.ci,
            "a mean <= 0 (half of the gap recovered) with a gap > 0; a point estimate, no test",
            bool(to_middle.mean <= 0 and gap > 0),
            note=f"recovers {100 * (0.5 - to_middle.mean / gap) if gap > 0 else float('nan'):.0f} % of the gap",
        )
    )
    four = stats.paired(error["S=4", FIXED_LR], error["S=8", FIXED_LR])
    notes = [f"S=4 minus S=8: {four.interval()} points of test error (no claim)"]
    notes += lab.at_the_edge(arms, settings["lrs"])
    pairs = [("at lr 0.1", FIXED_LR, FIXED_LR)]
    if "no norm" in settings["swept"]:
        pairs.append(("at each arm's best lr", best["S=N"], best["no norm"]))
    for where, a, b in pairs:  # batch norm without its noise: does it generalize better than no norm?
        d = stats.paired(error["S=N", a], error["no norm", b])
        same = stats.tost(error["S=N", a], error["no norm", b], MARGIN)
        notes.append(
            f"S=N minus no norm, {where}: {d.interval()} points; "
            f"{'equivalent' if same['equivalent'] else 'not shown to be equivalent'} within {MARGIN} points "
            f"(TOST, p {same['p']:.2g})"
        )
    if arm in settings["swept"]:
        by_noise, by_rows, none = (error[a, best[a]].mean() for a in (arm, "S=8", "S=N"))
        notes.append(
            f"{arm} at each arm's best lr: {by_noise:.2f} %, S=8 {by_rows:.2f} %, S=N {none:.2f} %: "
            f"{100 * (none - by_noise) / (none - by_rows):.0f} % of the gap (no claim)"
        )
    dropout = "left to the full preset"
    if "S=N + dropout" in settings["arms"]:
        d = stats.paired(error["S=8", FIXED_LR], error["S=N + dropout", FIXED_LR])
        dropout = f"{d.interval()} points at lr {FIXED_LR} (no claim)"
    notes.append(f"S=8 minus S=N + dropout: {dropout}")
    return lab.Analysis(arms, criteria, table, notes)


def plot(runs: list[dict[str, Any]], analysis: lab.Analysis, settings: dict[str, Any]) -> list[plots.Picture]:
    metrics = ("test_error", "test_nll", "train_nll")
    error, nll, train_nll = (lab.per_seed(runs, metric, "arm", "lr") for metric in metrics)
    pictures = []
    fig, axes = plots.plt.subplots(1, 2, figsize=(11, 4.5))
    for ax, values, what in ((axes[0], error, "test error (%)"), (axes[1], nll, "test NLL (nats)")):
        curves = np.column_stack([values[label(s), FIXED_LR] for s in GROUPS])
        plots.line_with_band(ax, GROUPS, curves, "batch norm")
        ax.axhline(values["no norm", FIXED_LR].mean(), color="0.4", ls="--", label="no norm")
        for arm, color in zip(NOISE_ARMS, plots.PALETTE[2:], strict=False):
            if arm not in settings["arms"]:
                continue
            ax.axhline(values[arm, FIXED_LR].mean(), color=color, ls=":", label=arm)
        ax.set(xscale="log", xlabel="S, rows behind the statistics", ylabel=what)
        plots.label_x(ax, GROUPS, [str(s) if s != N else f"N={N}" for s in GROUPS])
    axes[1].legend(loc="upper left")
    fig.suptitle(f"The fewer rows behind the statistics, the more noise ({len(settings['seeds'])} seeds, 95 % bands)")
    pictures.append(
        plots.Picture(
            "error_against_s",
            "Test error (%) and test negative log likelihood (nats) against S, the number of rows from which "
            "batch norm takes its statistics (logarithmic); mean over seeds with its 95 % band. Dashed and dotted"
            " lines: nets without norm, and noise-free nets with noise made by hand.",
            fig,
        )
    )

    fig, ax = plots.plt.subplots(figsize=(7, 5))
    for i, arm in enumerate(settings["arms"]):
        ax.plot(
            train_nll[arm, FIXED_LR].mean(),
            nll[arm, FIXED_LR].mean(),
            "o^sDv<>Pp*h"[i],
            color=plots.PALETTE[i % len(plots.PALETTE)],
            ms=9,
            label=arm,
        )
    ax.set(xscale="log", xlabel="train NLL (nats)", ylabel="test NLL (nats)", title="Fitting less, predicting better?")
    plots.label_decades(ax.xaxis)
    ax.legend(fontsize=8)
    pictures.append(
        plots.Picture(
            "train_against_test",
            "Test against training negative log likelihood (nats), means over seeds, one marker per arm. Further "
            "down is better prediction, further left is a closer fit to the training data.",
            fig,
        )
    )

    fig, ax = plots.plt.subplots(figsize=(8, 5))
    others = [arm for arm in settings["arms"] if arm != "S=N"]
    for i, arm in enumerate(others):
        d = stats.paired(error[arm, FIXED_LR], error["S=N", FIXED_LR])
        ax.errorbar(
            d.mean, i, xerr=[[d.mean - d.ci[0]], [d.ci[1] - d.mean]], fmt="o", color=plots.PALETTE[0], capsize=3
        )
    ax.axvline(0, color="0.4", lw=1)
    ax.set_yticks(range(len(others)), others)
    ax.invert_yaxis()
    ax.set(xlabel="test error minus that of S=N, points (95 % intervals)", title="Paired differences")
    pictures.append(
        plots.Picture(
            "paired_differences",
            "Test error of each arm minus that of the noise-free S=N, in percentage points: mean over paired "
            "seeds with its 95 % t-interval. Left of 0 is better than batch norm without noise.",
            fig,
        )
    )
    return pictures


DEMO = lab.Demo(
    name="minibatch_noise",
    claim="The noise of mini-batch statistics regularizes: error falls as fewer rows stand behind them.",
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
