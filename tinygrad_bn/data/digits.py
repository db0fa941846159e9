"""Real handwritten digits that ship with the package."""

from __future__ import annotations

import io
import pkgutil

import numpy as np

from ..checks import Array


def load_digits() -> tuple[Array, Array]:
    """(x, y): 1,797 images of 8x8 pixels as float32 (1797, 64) in [0, 1], and their classes 0..9 as int64 (1797,).

    A pixel counts the inked cells of a 4x4 block of the 32x32 scan, divided by 16.
    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (the test part), UCI Machine Learning
    Repository 1998, doi 10.24432/C50P49, CC BY 4.0; taken from scikit-learn's load_digits.

    >>> x, y = tb.data.load_digits()
    >>> x.shape, y[:5]
    ((1797, 64), array([0, 1, 2, 3, 4]))
    """
    content = pkgutil.get_data(__package__, "digits.npz")  # the package may lie in a zip file
    with np.load(io.BytesIO(content or b""), allow_pickle=False) as file:
        return file["x"].astype(np.float32) / 16, file["y"].astype(np.int64)
