"""Writes tinygrad_bn/data/digits.npz from scikit-learn's load_digits: python tests/golden/make_digits.py"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
target = Path(__file__).parents[2] / "tinygrad_bn" / "data" / "digits.npz"
np.savez_compressed(target, x=digits.data.astype(np.uint8), y=digits.target.astype(np.uint8))
