"""Figures of demos/learning_rate.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demos import plots
from demos.criteria import Outcome
from demos.plots import Picture
from demos.results import Results

NORMS = ["none", "none, tuned init", "BN", "BN before last", "LN"]
LABELS = {"relu": "ReLU", "sigmoid": "sigmoid"}
NETS = [(depth, activation) for depth in (3, 8) for activation in LABELS]


def plot(results: Results, outcomes: Sequence[Outcome]) -> list[Picture]:
    looks = plots.looks(NORMS)
    there = {norm: look for norm, look in looks.items() if f"3 relu {norm}" in results.arms}
    return [error_against_lr(results, there), activations_against_depth(results, there)]


def error_against_lr(results: Results, looks: dict[str, dict[str, object]]) -> Picture:
    titles = [f"{depth} hidden layers, {LABELS[activation]}" for depth, activation in NETS]
    fig, axes = plots.panels(titles, (12, 8), "learning rate", "test error (%)", rows=2)
    for ax, (depth, activation) in zip(axes, NETS, strict=True):
        ax.set(xscale="log", yscale="log")
        for norm, look in looks.items():
            arm = f"{depth} {activation} {norm}"
            lrs = results.lrs(arm)
            values = np.column_stack([results["test_error", arm, lr] for lr in lrs])
            ax.plot(lrs, np.median(values, axis=0), label=norm, **look)
            low, high = np.percentile(values, [25, 75], axis=0)
            ax.fill_between(lrs, low, high, color=look["color"], alpha=0.2, linewidth=0)
        plots.label_decades(ax.yaxis)
    axes[0].legend()
    fig.suptitle(f"Error against learning rate ({len(results.seeds)} seeds: medians, bands from quartile to quartile)")
    return Picture(
        "error_against_lr",
        "Test error (%) against the learning rate (both logarithmic) for each of the four nets: the median over seeds, "
        "and the band between the quartiles (a seed learns at a rate or does not, so that a mean would show what no "
        "seed does). The wider the valley, the less the learning rate has to be tuned.",
        fig,
    )


def activations_against_depth(results: Results, looks: dict[str, dict[str, object]]) -> Picture:
    titles = [f"8 layers, {label}, after 50 steps at lr 1" for label in LABELS.values()]
    fig, axes = plots.panels(titles, (11, 4.5), "hidden layer", "RMS of its activations", sharey=False)
    for ax, activation in zip(axes, LABELS, strict=True):
        ax.set_yscale("log" if activation == "relu" else "linear")
        for norm, look in looks.items():
            lr_1 = [r for r in results.runs if r["arm"] == f"8 {activation} {norm}" and r["lr"] == 1.0]
            kept = [r["rms"] for r in lr_1 if r["rms"]]  # a run that diverged before step 50 has none
            gone = len(lr_1) - len(kept)
            label = f"{norm} ({gone} of {len(lr_1)} diverged)" if gone else norm
            values = np.array(kept) if kept else np.full((1, 8), np.nan)
            plots.line_with_band(ax, np.arange(1, 9), values, label, **look)  # type: ignore[arg-type]
        ax.legend()
    axes[1].set_ylim(0, 1)
    return Picture(
        "activations_against_depth",
        "Root mean square of the activations of each hidden layer (no unit) after 50 steps at learning rate "
        "1, depth 8; mean over seeds with its 95 % band, on a logarithmic axis for ReLU. A line that rises or"
        " falls steeply is a signal that explodes or dies on its way up.",
        fig,
    )
