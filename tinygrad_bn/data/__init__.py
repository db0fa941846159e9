"""Data sets and mini-batches, as plain NumPy arrays."""

from .digits import load_digits
from .files import load_npz
from .glyphs import glyphs
from .loader import DataLoader

__all__ = ["DataLoader", "glyphs", "load_digits", "load_npz"]
