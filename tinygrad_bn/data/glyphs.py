"""Generated digits: as many as you like, from a seed."""

from __future__ import annotations

import numpy as np

from ..checks import Array, check_int, check_number, check_size

SIDE = 12
FONT = """
.###. ..#.. .###. ####. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# ....# ..##. #.... #.... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. ####. ...#. #...# #...#
#.#.# ..#.. ..##. .###. #..#. ....# #...# ..#.. .###. .####
##..# ..#.. .#... ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. #.... ....# ...#. #...# #...# .#... #...# ....#
.###. .###. ##### ####. ...#. .###. .###. .#... .###. .###.
"""


def _prototypes() -> Array:
    """The ten digits as arrays (10, 7, 5) of 0 and 1."""
    rows = [line.split() for line in FONT.strip().splitlines()]
    return np.array([[[pixel == "#" for pixel in row[d]] for row in rows] for d in range(10)], dtype=np.float64)


def glyphs(n: int, seed: int = 0, noise: float = 0.1) -> tuple[Array, Array]:
    """(x, y): n images of 12x12 pixels as float32 (n, 144) in [0, 1], and their classes 0..9 as int64 (n,).

    Each is a digit of a 5x7 font, rotated (sd 0.15 rad), sheared (sd 0.2), scaled (sd 12 %) and shifted (sd 0.8
    pixels) at random, with random intensity and normal pixel noise of standard deviation ``noise``, clipped.
    The classes are as equal in number as n allows, in random order; equal arguments give equal arrays.
    Errors: TypeError / ValueError for an n or seed that is not an int >= 0, or a negative noise.

    >>> x, y = tb.data.glyphs(20, seed=0)
    >>> x.shape, np.bincount(y)
    ((20, 144), array([2, 2, 2, 2, 2, 2, 2, 2, 2, 2]))
    """
    n, seed, noise = check_size("n", n, 0), check_int("seed", seed, 0, None), check_number("noise", noise, 0) + 0.0
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 10)
    angle, shear = rng.normal(0, 0.15, n), rng.normal(0, 0.2, n)
    scale = np.exp(rng.normal(0, 0.12, (2, n)))
    shift = rng.normal(0, 0.8, (2, n))

    # Where in the font does each pixel of the image look? Undo shift, rotation, shear and scale around the centre.
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    v, u = rows - shift[0, :, None, None], columns - shift[1, :, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u, v = cos * u + sin * v, cos * v - sin * u
    u = u + shear[:, None, None] * v
    v, u = v * scale[0, :, None, None] * 0.8 + 3.0, u * scale[1, :, None, None] * 0.7 + 2.0

    x = _sample(_prototypes(), y, v, u) * rng.uniform(0.6, 1.0, (n, 1, 1)) + rng.normal(0, noise, (n, SIDE, SIDE))
    return np.clip(x, 0, 1).reshape(n, SIDE * SIDE).astype(np.float32), y.astype(np.int64)


def _sample(fonts: Array, which: Array, v: Array, u: Array) -> Array:
    """fonts[which] at the real-valued places (v, u): bilinear, 0 outside."""
    padded = np.pad(fonts, ((0, 0), (1, 2), (1, 2)))
    v = np.clip(v + 1, 0, padded.shape[1] - 1.001)
    u = np.clip(u + 1, 0, padded.shape[2] - 1.001)
    i, j = v.astype(int), u.astype(int)
    a, b = v - i, u - j
    k = which[:, None, None]
    top = padded[k, i, j] * (1 - b) + padded[k, i, j + 1] * b
    bottom = padded[k, i + 1, j] * (1 - b) + padded[k, i + 1, j + 1] * b
    image: Array = top * (1 - a) + bottom * a
    return image
