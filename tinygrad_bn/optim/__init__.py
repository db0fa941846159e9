"""Optimizers, with PyTorch's names."""

from .sgd import SGD

__all__ = ["SGD"]
