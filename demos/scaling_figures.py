"""The figures of demos/scaling_and_whitening.py, each of the data that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from demos import plots


def steps_against_condition(steps: dict[Any, np.ndarray], conditions: list[int], arms: list[str]) -> plots.Picture:
    """(a): of steps[frame, condition, arm], one value per seed."""
    titles, xlabel = ["unequal scales", "the same, rotated"], "condition number of the covariance"
    fig, axes = plots.panels(titles, (11, 4.5), xlabel, "steps to the tolerance")
    for ax, frame in zip(axes, ("scales", "rotated"), strict=True):
        ax.set(xscale="log", yscale="log")
        for name, look in plots.looks(arms).items():
            curves = np.column_stack([steps[frame, k, name] for k in conditions])
            plots.line_with_band(ax, conditions, curves, name, **look)
        plots.label_decades(ax.yaxis)
        plots.label_x(ax, conditions)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return plots.Picture(
        "steps_against_condition",
        "Steps of gradient descent until a logistic regression has all but 1 % of what can be gained, against the "
        "condition number of its inputs (both logarithmic); geometric mean over seeds with its 95 % band. PCA and "
        "ZCA coincide; a run that does not get there counts with the most steps allowed. Left: features of unequal "
        "scale. Right: the same data rotated, where scaling feature by feature finds nothing to scale.",
        fig,
    )


def five_inputs(scalers: dict[str, Any]) -> plots.Picture:
    """The same cloud of points as each of them (None: as it is) makes it."""
    rng = np.random.default_rng(5)
    cloud = rng.normal(size=(300, 2)) * [2.0, 0.4] @ np.array([[0.34, 0.94], [-0.94, 0.34]]) + [1.0, 2.0]
    fig, axes = plots.panels(list(scalers), (13, 3.2), "feature 1", "feature 2", sharex=False, sharey=False)
    for ax, scaler in zip(axes, scalers.values(), strict=True):
        points = scaler().fit_transform(cloud) if scaler else cloud
        upper = cloud[:, 1] > np.median(cloud[:, 1])
        for half, marker, color in ((upper, "^", plots.PALETTE[1]), (~upper, "o", plots.PALETTE[0])):
            ax.scatter(*points[half].T, s=9, marker=marker, color=color)
        ax.set_box_aspect(1)
        ax.axis("equal")
    return plots.Picture(
        "five_inputs",
        "The same 300 points in five coordinate systems (no unit). Triangles: the upper half of the raw points. "
        "Both whitenings give a round cloud; ZCA leaves the halves about where they were, PCA turns them.",
        fig,
    )


def cost_against_features(times: dict[str, np.ndarray], widths: list[int], rows: int) -> plots.Picture:
    """(e): of times[label][seed, width], in nanoseconds per element; the line for d begins at the last of them."""
    fig, ax = plots.plt.subplots(figsize=(7, 4.5))
    ax.set(xscale="log", yscale="log", xlabel="d, features", ylabel="ns per element, forward and backward")
    for (label, values), look in zip(times.items(), plots.looks(list(times)).values(), strict=True):
        plots.line_with_band(ax, widths, values, label, **look)
    start = np.exp(np.log(values[:, 0]).mean())
    ax.plot(widths, start * np.array(widths) / widths[0], color="0.4", ls=":", label="proportional to d")
    plots.label_x(ax, widths)
    plots.label_decades(ax.yaxis)
    ax.legend()
    return plots.Picture(
        "cost_against_features",
        f"CPU time per element (ns) of a forward and backward pass over {rows} rows, against the number of "
        "features (both logarithmic), whitening being ZCA of all of them; geometric mean over seeds with its 95 % "
        "band. Flat is O(n d); along the dotted line it is O(n d^2), above it d^3 shows.",
        fig,
    )
