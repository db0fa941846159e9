"""Data sets and mini-batches, as plain NumPy arrays."""

from .digits import load_digits
from .files import load_npz
from .glyphs import glyphs
from .loader import DataLoader
from .mnist import download_mnist, load_mnist
from .mnist1d import mnist1d

__all__ = ["DataLoader", "download_mnist", "glyphs", "load_digits", "load_mnist", "load_npz", "mnist1d"]
