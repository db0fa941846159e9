"""The pictures of a Watch, as Matplotlib figures: histograms of layers, and lines along the steps.

Matplotlib is imported when the first one is drawn: the package does not need it otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checks import Array

if TYPE_CHECKING:
    from .watch import Record


def histograms(record: Record, kind: str, label: str) -> Any:
    """A panel per layer of the record. kind: the attribute of LayerRecord that holds the histogram."""
    shown = {name: getattr(layer, kind) for name, layer in record.layers.items()}
    shown = {name: histogram for name, histogram in shown.items() if histogram is not None}
    if not shown:
        raise ValueError("no gradient has reached a layer's output: call backward() before the Watch's step()")
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = _pyplot().subplots(
        rows, columns, figsize=(3 * columns, 2 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, (name, h) in zip(axes.flat, shown.items(), strict=False):
        panel.stairs(h.counts, h.edges, fill=True)
        others = f", {h.others} not finite" if h.others else ""
        panel.set_title(f"{name} {record.layers[name].type}{others}", fontsize="medium")
        if kind == "gradient":  # most are near 0: the rest shows on a logarithmic axis only
            panel.set_yscale("log")
        panel.yaxis.set_visible(False)
    figure.supxlabel(f"{label} in step {record.step}", fontsize="medium")
    return figure


def lines(series: dict[str, Array], steps: list[int], label: str) -> Any:
    """A line per name."""
    if not series:
        raise ValueError(f"nothing was recorded to plot: {label}")
    figure, axes = _pyplot().subplots(layout="constrained")
    for name, values in series.items():
        axes.plot(steps, values, label=name, marker="." if len(steps) < 50 else None)
    axes.set(xlabel="step", ylabel=label)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def ratios(series: dict[str, Array], steps: list[int], label: str) -> Any:
    """A line per name on a logarithmic axis, and a dotted one at 1e-3."""
    figure = lines(series, steps, label)
    (axes,) = figure.axes
    axes.set_yscale("log")
    axes.axhline(1e-3, color="gray", linestyle=":", zorder=0)
    return figure


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'tinygrad_bn[demos]'") from error
    return plt
