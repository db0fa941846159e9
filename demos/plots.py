"""What the figures share: colours that colour-blind readers tell apart, a talk's size, lines with bands.

A demo makes its figures as `Picture`s; the laboratory calls it inside of `style()` and writes the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # figures are files: no window, no display needed

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from demos.output import whole
from demos.results import At, Results
from demos.statistics import mean_ci

INK = "#1a1a1a"  # of text, axes and black lines: the HTML report puts the page's own text colour in its place
# Okabe & Ito: blue, vermillion, green, orange, purple, sky blue, black, yellow (last: it is faint on white)
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", INK, "#F0E442"]


class Picture(NamedTuple):
    """A figure, the name of its files, and what it shows: the axes, the arms, what to look for."""

    name: str
    caption: str
    figure: Figure


@contextmanager
def style() -> Iterator[None]:
    """Every figure is made, and written, inside `with style():`."""
    settings: dict[Any, Any] = {
        "figure.figsize": (8, 4.5),
        "figure.constrained_layout.use": True,
        "savefig.dpi": 160,
        "svg.hashsalt": "tinygrad_bn",  # the same figure is the same file
        **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK),
        "font.size": 12,
        "axes.titlesize": 13,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 2,
        "lines.markersize": 5,
    }
    with plt.rc_context(settings):
        yield


def line_with_band(
    ax: Axes, x: ArrayLike, values_by_seed: ArrayLike, label: str, color: str | None = None, **line: Any
) -> None:
    """The mean over seeds of values_by_seed[seed, i] at x[i], with its 95 % t-interval as a band.

    On a logarithmic y axis both are taken of the logarithms: the geometric mean, and a band that stays above 0.
    A column that holds nan or inf leaves a gap; with a single seed there is a line and no band. line: marker,
    linestyle and the like.
    """
    points, columns = np.size(x), np.asarray(values_by_seed, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[1] != points:
        raise ValueError(f"values_by_seed must have the shape (seeds, {points}), got {columns.shape}")
    nan, logarithmic = float("nan"), ax.get_yscale() == "log"
    if logarithmic:
        with np.errstate(divide="ignore"):
            columns = np.log(columns)
    bands = [mean_ci(c) if np.isfinite(c).all() else (nan, (nan, nan)) for c in columns.T]
    mean, low, high = np.array([(mean, *ci) for mean, ci in bands]).T
    if logarithmic:
        mean, low, high = np.exp([mean, low, high])
    (drawn,) = ax.plot(x, mean, label=label, color=color, **{"marker": "o", **line})
    ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)


def looks(names: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """Colour, marker and dashes of each line, of six at most: whoever can't tell the colours apart has the others."""
    kinds = zip(PALETTE, "os^Dv<", ("-", "--", "-.", ":", "-", "--"), strict=False)
    styles = [{"color": color, "marker": marker, "linestyle": dashes} for color, marker, dashes in kinds]
    return dict(zip(names, styles[: len(names)], strict=True))


def panels(
    titles: Sequence[str], size: tuple[float, float], xlabel: str = "", ylabel: str = "", rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with one axes per title, row by row; labels stand at the left and at the bottom alone.

    options: of plt.subplots. All axes share their scales unless sharex or sharey say otherwise.
    """
    shared = {"sharex": True, "sharey": True, "squeeze": False, **options}
    fig, axes = plt.subplots(rows, len(titles) // rows, figsize=size, **shared)
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return fig, list(axes.flat)


def paired_differences(results: Results, reference: str, metric: str = "test_error", at: At = "best") -> Picture:
    """Each arm minus the reference, seed by seed: means with intervals, of the arms that have been run at this rate."""
    arms = [a for a in results.arms if a != reference and results.has(a, at)]
    fig, ax = plt.subplots(figsize=(8, 1.5 + 0.32 * len(arms)))
    for i, arm in enumerate(arms):
        d = results.paired(arm, reference, metric, at)
        ax.plot(results.at(metric, arm, at) - results.at(metric, reference, at), [i] * d.n, "|", color="0.6", ms=9)
        ax.errorbar(d.mean, i, xerr=[[d.mean - d.ci[0]], [d.ci[1] - d.mean]], fmt="o", color=PALETTE[0], capsize=3)
    ax.axvline(0, color="0.4", lw=1)
    ax.set_yticks(range(len(arms)), arms)
    ax.invert_yaxis()
    where = "each arm at its best lr" if at == "best" else f"lr {at}"
    ax.set(xlabel=f"{metric.replace('_', ' ')} minus that of {reference}, {where}")
    return Picture(
        "paired_differences",
        f"{metric.replace('_', ' ').capitalize()} of each arm minus that of {reference}, {where}: the mean over seeds "
        "with its 95 % interval, and a stroke for each seed. Left of 0 is better.",
        fig,
    )


def label_x(ax: Axes, values: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Label these places of the x axis, by default as plain numbers, and no others."""
    ax.set_xticks(values, labels or [f"{value:g}" for value in values])
    ax.minorticks_off()


def label_decades(axis: Axis) -> None:
    """Label 1, 2 and 5 of every decade of a logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def save(picture: Picture, folder: Path) -> list[Path]:
    """Write NAME.png and NAME.svg (without a background), all of a file or nothing, and free the figure."""
    written = []
    options: dict[str, Any] = {"png": {}, "svg": {"transparent": True, "metadata": {"Date": None}}}
    for kind, how in options.items():
        path = folder / f"{picture.name}.{kind}"
        with whole(path) as temporary:
            picture.figure.savefig(temporary, format=kind, **how)
        written.append(path)
    plt.close(picture.figure)
    return written
