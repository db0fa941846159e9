"""Draws docs/error_against_step.png, of chapter 4: how far differences are off, for each step (needs Matplotlib).

python tests/harness/make_step_figure.py
"""

from pathlib import Path

import numpy as np

from tinygrad_bn.gradient_checks.extrapolation import extrapolate

FILE = Path(__file__).parents[2] / "docs" / "error_against_step.png"
X, RIGHT = 1.0, np.cos(1.0)
STEPS = 2.0 ** -np.arange(0, 46)


def errors(f=np.sin, x=X, right=RIGHT):
    """The relative errors of three formulas for f'(x), for each of STEPS; that of the complex step."""
    one_sided = (f(x + STEPS) - f(x)) / STEPS
    thirds = np.array([STEPS, STEPS / 4, STEPS / 16])
    central = (f(x + thirds) - f(x - thirds)) / (2 * thirds)
    extrapolated, _ = extrapolate(central, 2)
    exact = f(x + 1j * 2.0**-100).imag / 2.0**-100
    found = {"one-sided": one_sided, "central": central[0], "three central ones, extrapolated": extrapolated}
    return {name: np.abs(v / right - 1) for name, v in found.items()}, abs(exact / right - 1)


def main():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_name, exact = errors()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, values in by_name.items():
        axes.loglog(STEPS, np.maximum(values, 1e-17), ".-", linewidth=1, markersize=4, label=name)
    axes.axhline(max(exact, 1e-17), color="0.4", linestyle=":", label="complex step, any h")
    axes.axvline(1e-6, color="0.8", zorder=0)
    axes.set(xlabel="step h", ylabel="relative error of the derivative of sin at 1", ylim=(5e-18, 2))
    axes.legend(fontsize="small")
    figure.savefig(FILE, dpi=110)
    print(f"{FILE.name}: " + ", ".join(f"{name} {values.min():.0e}" for name, values in by_name.items()))


if __name__ == "__main__":
    main()
