"""The ledger: what introductions to batch normalization claim, and on which measurements a verdict rests.

The verdicts are the reading of this project's full presets and of the literature. The report prints one only where
the criteria that it rests on were measured and passed in that folder. [V]: the figure was read in the primary text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim; the criteria that bear on it, by the beginning of their names, per demo; a verdict and its reason."""

    text: str
    evidence: dict[str, list[str]]
    literature: str
    verdict: str  # supported, refuted, contested, or true with conditions
    reason: str


CLAIMS = [
    Claim(
        "the noise of mini-batch statistics regularizes, like dropout",
        {"minibatch_noise": ["test error of S=8 minus S=N", "Spearman", "test error of S=N +"]},
        "Luo 2019 and Kosson 2023 model batch norm as population normalization with noise. Hoffer 2017: the rows "
        "behind the statistics set the noise, not the SGD batch. Keskar 2017: on all of MNIST the gap is 0.2 points, "
        "too small to see.",
        "true with conditions",
        "Error falls as fewer rows stand behind the statistics, and noise made by hand recovers most of the gain; with "
        "four rows it is too much.",
    ),
    Claim(
        "batch norm makes training insensitive to the learning rate",
        {"learning_rate": ["window in decades: mean over the four nets", "BN still fails somewhere"]},
        "Bjorck 2018: batch norm mainly allows larger rates; without it activations grow with depth.",
        "true with conditions",
        "The range of rates that work is wider, against a tuned initialization too, but it ends: every net still fails "
        "at the highest rates.",
    ),
]
