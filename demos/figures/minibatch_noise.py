"""Figures of demos/minibatch_noise.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from demos import plots
from demos import statistics as stats
from demos.criteria import Outcome
from demos.plots import Picture
from demos.results import Results

AMOUNTS = {"S=4": 4, "S=8": 8, "S=32": 32, "S=128": 128, "S=N": 500}
STEPS = {
    ("no norm", "S=N"): "normalizing",
    ("S=N", "S=32"): "the noise of 32 rows",
    ("S=N", "S=8"): "the noise of 8 rows",
    ("S=32", "S=8"): "more of it: 8 rows",
}
BY_HAND = ["S=N + ghost noise", "S=N + Gaussian noise"]


def plot(results: Results, outcomes: Sequence[Outcome]) -> list[Picture]:
    return [decomposition(results), against_rows(results), plots.paired_differences(results, "S=N")]


def decomposition(results: Results) -> Picture:
    """Each arm at its own best rate: what normalizing gains, and what its noise adds."""
    arms = [arm for arm in ("no norm", "S=N", "S=32", "S=8") if results.has(arm, "best")]
    values = np.column_stack([results.at("test_error", arm, "best") for arm in arms])
    fig, ax = plots.plt.subplots(figsize=(8, 4.5))
    for one_seed in values:
        ax.plot(range(len(arms)), one_seed, color="0.75", lw=0.8, zorder=1)
    for i, column in enumerate(values.T):
        mean, (low, high) = stats.mean_ci(column)
        ax.errorbar(i, mean, yerr=[[mean - low], [high - mean]], fmt="o", ms=9, capsize=5, color=plots.PALETTE[0])
        ax.annotate(f"{mean:.2f}", (i, mean), xytext=(12, 4), textcoords="offset points")
    for i, pair in enumerate(itertools.pairwise(arms)):
        what = STEPS.get(pair, f"{pair[0]} to {pair[1]}")
        step = stats.paired(values[:, i + 1], values[:, i])
        ax.annotate(f"{what}\n{step.interval()}", (i + 0.5, values.max()), ha="center", va="top", fontsize=10)
    ax.set_xticks(range(len(arms)), arms)
    ax.set(ylabel="test error (%)", title="Where batch norm's gain comes from, each arm at its best learning rate")
    return Picture(
        "decomposition",
        "Test error (%) without norm, with batch norm by the statistics of the whole training set (no noise), of 32 "
        "rows (batch norm as it is used) and of 8, each at the learning rate that is best on validation data: means "
        "with their 95 % intervals; grey: each seed. The numbers on top are paired differences in points.",
        fig,
    )


def against_rows(results: Results) -> Picture:
    fig, axes = plots.plt.subplots(1, 2, figsize=(11, 4.5))
    there = {arm: s for arm, s in AMOUNTS.items() if arm in results.arms}
    for ax, metric, what in ((axes[0], "test_error", "test error (%)"), (axes[1], "test_nll", "test NLL (nats)")):
        curves = np.column_stack([results[metric, arm, 0.1] for arm in there])
        plots.line_with_band(ax, list(there.values()), curves, "batch norm")
        ax.axhline(results[metric, "no norm", 0.1].mean(), color="0.4", ls="--", label="no norm")
        for arm, color in zip(BY_HAND, plots.PALETTE[2:], strict=False):
            if arm in results.arms:
                ax.axhline(results[metric, arm, 0.1].mean(), color=color, ls=":", label=arm)
        ax.set(xscale="log", xlabel="S, rows behind the statistics", ylabel=what)
        plots.label_x(ax, list(there.values()), [arm.removeprefix("S=") for arm in there])
    axes[1].legend(loc="upper left")
    fig.suptitle(
        f"The fewer rows behind the statistics, the more noise (lr 0.1, {len(results.seeds)} seeds, 95 % bands)"
    )
    return Picture(
        "error_against_s",
        "Test error (%) and test negative log likelihood (nats) at learning rate 0.1 against S, the number of rows "
        "from which batch norm takes its statistics (logarithmic); mean over seeds with its 95 % band. Dashed and "
        "dotted lines: nets without norm, and noise-free nets with noise made by hand.",
        fig,
    )
