"""Figures that only one demo has, a file per demo; those that all share are in demos/plots.py."""
