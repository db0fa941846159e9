"""MNIST-1D: ten short curves, distorted until a good net is needed to tell them apart."""

from __future__ import annotations

import numpy as np

from ..checks import Array, check_int, check_number, check_size

TEMPLATES = """
5 6   6.5 6.75 7   7    7    7   6.75 6.5 6   5
5 3   3   3.4  3.8 4.2  4.6  5   5.4  5.8 5   5
5 6   6.5 6.5  6   5.25 4.75 4   3.5  3.5 4   5
5 6   6.5 6.5  6   5    5    6   6.5  6.5 6   5
5 4.4 3.8 3.2  2.6 2.6  5    5   5    5   5   5
5 3   3   3    3   5    6    6.5 6.5  6   4.5 5
5 4   3.5 3.25 3   3    3    3   3.25 3.5 4   5
5 7   7   6.6  6.2 5.8  5.4  5   4.6  4.2 5   5
5 4   3.5 3.5  4   5    5    4   3.5  3.5 4   5
5 4   3.5 3.5  4   5    5    5   5    4.7 4.3 5
"""
POINTS, LONG, SHORT = 12, 72, 40  # of a template, of a signal while it is made, of a signal
PADDING = (36, 60)
SIGMA, RADIUS = 2, 8  # of the noise's filter, which ends at four sigma
LARGEST = 1e6  # of a strength: nothing near it makes sense, and far above it float32 overflows


def mnist1d(
    n: int,
    seed: int = 0,
    *,
    scale_coeff: float = 0.4,
    max_translation: int = 48,
    corr_noise_scale: float = 0.25,
    iid_noise_scale: float = 0.02,
    shear_scale: float = 0.75,
) -> tuple[Array, Array]:
    """(x, y): n signals of 40 values as float32 (n, 40), and their classes 0..9 as int64 (n,).

    Each is the curve of its class, 12 values of mean 0 and deviation 1, moved to start at 0 and divided by 6. It is
    padded with 36 to 60 zeros, interpolated to 72 values, scaled by 1 +- scale_coeff / 2, rolled to the right by less
    than max_translation places (1: not at all); the padding becomes noise of standard deviation corr_noise_scale,
    filtered by a Gaussian of 2 places. Then noise of iid_noise_scale is added everywhere and a line of a slope
    up to +- shear_scale / 2 per signal is taken off, and 40 values are interpolated from the 72.
    The defaults are the paper's; its files hold 5,000 signals that were standardized together, which is left to you.
    Of 4,000 signals a linear classifier learns to err by 67 % (the paper: 68 %), a net with two hidden layers of 100
    by 33 % (32 %), one of three convolutions with 25 channels by 7 % (6 %).
    The classes are as equal in number as n allows, in random order; equal arguments give equal arrays.
    Source: S. Greydanus, D. Kobak, Scaling down deep learning with MNIST-1D, ICML 2024, arXiv 2011.14439; the curves
    and what the paper leaves open are those of its package mnist1d.
    Errors: TypeError / ValueError for an n or seed that is not an int >= 0, a max_translation below 1, or another
    argument that is not a number from 0 to 1e6.

    >>> x, y = tb.data.mnist1d(20, seed=0)
    >>> x.shape, np.bincount(y)
    ((20, 40), array([2, 2, 2, 2, 2, 2, 2, 2, 2, 2]))
    """
    n, seed = check_size("n", n, 0), check_int("seed", seed, 0, None)
    max_translation = check_size("max_translation", max_translation)
    scale_coeff = check_number("scale_coeff", scale_coeff, 0, LARGEST)
    corr_noise_scale = check_number("corr_noise_scale", corr_noise_scale, 0, LARGEST)
    iid_noise_scale = check_number("iid_noise_scale", iid_noise_scale, 0, LARGEST)
    shear_scale = check_number("shear_scale", shear_scale, 0, LARGEST)
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 10)
    padding = rng.integers(PADDING[0], PADDING[1] + 1, (n, 1))
    scale = 1 + scale_coeff * rng.uniform(-0.5, 0.5, (n, 1))
    roll = rng.integers(0, max_translation, (n, 1))
    slope = shear_scale * rng.uniform(-0.5, 0.5, (n, 1))

    # Where in the padded template does each of the rolled places look? Whole numbers, so that its end is sharp.
    i, part = np.divmod((np.arange(LONG) - roll) % LONG * (POINTS + padding - 1), LONG - 1)
    in_template = i < POINTS
    i = np.minimum(i, POINTS)
    templates, k = np.pad(_templates(), ((0, 0), (0, 2))), y[:, None]
    x = scale * (templates[k, i] * (LONG - 1 - part) + templates[k, i + 1] * part) / (LONG - 1)

    noise = corr_noise_scale * _smoothed(rng.standard_normal((n, LONG)))
    x = np.where(in_template, x, noise) + iid_noise_scale * rng.standard_normal((n, LONG))
    x -= slope * np.linspace(-0.5, 0.5, LONG)

    i, part = np.divmod(np.arange(SHORT) * (LONG - 1), SHORT - 1)
    x = (x[:, i] * (SHORT - 1 - part) + x[:, np.minimum(i + 1, LONG - 1)] * part) / (SHORT - 1)
    return x.astype(np.float32), y.astype(np.int64)


def _templates() -> Array:
    """The ten curves (10, 12): each starts at 0 and has a standard deviation of 1/6."""
    x = np.array([line.split() for line in TEMPLATES.strip().splitlines()], dtype=np.float64)
    templates: Array = (x - x[:, :1]) / x.std(axis=1, keepdims=True) / 6
    return templates


def _smoothed(x: Array) -> Array:
    """Filtered by a Gaussian along the rows, which go on as in a mirror."""
    kernel = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    padded = np.pad(x, ((0, 0), (RADIUS, RADIUS)), mode="symmetric")
    smooth: Array = np.zeros_like(x)
    for d, weight in enumerate(kernel):  # not a matrix product, whose last bits vary from machine to machine
        smooth += weight * padded[:, d : d + x.shape[1]]
    return smooth
