"""What the engine and the ops run on: compiled kernels, threads, BLAS, memory, random numbers, long sums."""

from .jit import contiguous, kernel

__all__ = ["contiguous", "kernel"]
