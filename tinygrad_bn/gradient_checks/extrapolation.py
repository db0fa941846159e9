"""From differences at a ladder of steps to a derivative and its error bar.

D(h) = f'(x) + a h^2 + b h^4 + ... for central differences, and with h, h^2 for one-sided ones. Three successive steps,
a window, determine a and b, and remove them (Richardson). Of all windows the one with the smallest error bar is taken
(Ridders 1982). Most of this file is about error bars: by itself, each window believes too much.
"""

from __future__ import annotations

import numpy as np

from ..checks import Array

UNIT = 2.0**-52  # the distance of 1 from the next float64
WINDOW = 3  # steps that are extrapolated together
VISIBLE = 2.0**10  # a change of so many roundings is none of them


def extrapolate(d: Array, order: int) -> tuple[Array, Array]:
    """Three rows of differences, for h, h/4, h/16, whose error is a h^order + b h^(2 order) + ...: value, error bar.

    Where quartering h does not make the differences settle, as with rounding or a kink, the last change is the error.
    """
    changes = d[1:] - d[:-1]
    coarse, fine = d[1:] + changes / (4.0**order - 1)
    value = fine + (fine - coarse) / (16.0**order - 1)
    before, last = np.abs(changes)
    unsettled = last > before * 2 / 4.0**order  # twice what the first power leaves
    return value, np.abs(value - fine) + np.where(unsettled, last, 0)


class Windows:
    """All windows of a ladder, largest steps first: value and error bar of each, for each output.

    changes, widths: by how much the outputs change at each step, and over which width. rounding: of the outputs there.
    order: 2 for central differences, 1 for one-sided ones.
    """

    def __init__(self, changes: Array, widths: Array, rounding: Array, order: int) -> None:
        self.changes, self.widths = changes, widths
        self.differences = changes / widths
        self.value, self.error = extrapolate(self._windows(self.differences), order)
        self.error += 2 * self._windows(rounding / widths).max(axis=0)
        self.visible = self._windows(np.abs(changes) > VISIBLE * rounding).all(axis=0)

    def __len__(self) -> int:
        return len(self.changes) - WINDOW + 1

    def _windows(self, a: Array) -> Array:
        """The rows of a, three by three: [0] is each window's largest step."""
        return np.array([a[i : i + len(self)] for i in range(WINDOW)])

    def _agree(self, share: float) -> Array:
        """Whether a window and the two below it are known to this share, and agree within their error bars."""
        known = self.visible & (self.error <= share * np.abs(self.value))
        close = np.abs(self.value[:-1] - self.value[1:]) <= self.error[:-1] + self.error[1:]
        pairs: Array = known[:-1] & known[1:] & close
        both: Array = pairs[:-1] & pairs[1:]
        return both

    def settle(self, stairs: float, base: Array) -> None:
        """Widen the error bars of windows that other ones contradict.

        stairs: a change so small may be rounding on the way, of numbers of the size of 1 and of x, and not of the
        outputs; a float32 result in between makes stairs of 2^-20 of the outputs' size, base.
        """
        own, fine = self.error.copy(), self._agree(1e-2)
        self._hear_smaller_steps()
        self._weigh_contradictions(own, fine, stairs)
        self._drop_blind(np.maximum(stairs, 2.0**-20 * np.abs(base)))

    def _hear_smaller_steps(self) -> None:
        """Where smaller steps give something else, the gap counts as rounding."""
        for w in range(len(self) - 1):
            gaps = np.abs(self.differences[w + WINDOW :] - self.value[w]) * self.widths[w + WINDOW :]
            self.error[w] += 2 * np.nanmax(gaps, axis=0, initial=0.0) / self.widths[w + WINDOW - 1]

    def _weigh_contradictions(self, own: Array, fine: Array, stairs: float) -> None:
        """Of two windows that contradict each other, one is wrong.

        Where the change between them is as small as a stair, smaller steps stand on it, and larger ones that agree are
        right; else three smaller ones that agree are. own, fine: error bars and agreement before others were heard.
        """
        heard, coarse = self.error.copy(), self._agree(0.2)
        for w in range(len(self) - 1):
            apart = np.abs(self.value[w] - self.value[w + 1 :])
            stair = apart * self.widths[w + 1 : len(self)] <= stairs
            if w < len(coarse):
                larger = coarse[w] & stair & (apart > heard[w] + heard[w + 1 :])
                self.error[w + 1 :] = np.maximum(self.error[w + 1 :], np.where(larger, apart, 0))
            smaller = fine[w + 1 :] & ~stair[:-2]
            gap = np.where(smaller, apart[:-2] - own[w + 1 : -2], 0)
            self.error[w] = np.maximum(self.error[w], gap.max(axis=0, initial=0.0))

    def _drop_blind(self, least: Array) -> None:
        """Steps that change nothing may be too small for what rounding leaves, as in a result that was float32.

        Then larger ones agree on a derivative, by which the change would be as small as such a rounding.
        """
        still = (self._windows(self.changes) == 0).any(axis=0)
        agreed = np.where(self.error <= 0.1 * np.abs(self.value), np.abs(self.value), 0).max(axis=0)
        blind = still & (agreed > 0) & (agreed * self.widths[WINDOW - 1 :] < least)
        self.error[blind | ~np.isfinite(self.value) | ~np.isfinite(self.error)] = np.inf

    def best(self) -> tuple[Array, Array]:
        """Value and error bar of the best window of each output."""
        best, every = self.error.argmin(axis=0), np.arange(self.value.shape[1])
        return self.value[best, every], self.error[best, every]
