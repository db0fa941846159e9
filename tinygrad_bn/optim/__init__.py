"""Optimizers and learning-rate schedules, with PyTorch's names."""

from . import lr_scheduler
from .sgd import SGD

__all__ = ["SGD", "lr_scheduler"]
