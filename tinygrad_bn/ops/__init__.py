"""The ops, a family per file. Importing this package fills the table of operators."""

from . import activation, elementwise, linear, loss, normalization, norms, reduction, shape

__all__ = ["activation", "elementwise", "linear", "loss", "normalization", "norms", "reduction", "shape"]
