"""The ledger: what an introduction to batch normalization claims, and on which measurements a verdict rests.

The claims are quoted in translation. The verdicts are this project's reading of its full presets and of the
literature; the report prints one only where the criteria that it rests on were measured in that folder, and passed.
Where a claim has no criterion, only notes, it says so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim; what bears on it, per demo, by the beginnings of criteria's names or of notes; a verdict, its reason."""

    text: str
    evidence: dict[str, list[str]]
    literature: str
    verdict: str  # supported, refuted, contested, or true with conditions
    reason: str
    fails: tuple[str, ...] = ()  # beginnings of the criteria that fail in the full presets: the reason counts with them


GRADIENT_SHIFT = [
    f"{net} at lr 0.1, {how}"
    for net in ("ReLU", "sigmoid")
    for how in ("gradient before and after", "the same, relative L2 distance")
]

CLAIMS = [
    Claim(
        "small changes in the lower layers are amplified as the net gets deeper",
        {"covariate_shift": [f"{net}, {norm}: a small" for net in ("ReLU", "sigmoid") for norm in ("no norm", "BN")]},
        "Bjorck 2018: without batch norm activations grow with depth once the learning rate is large.",
        "contested",
        "It depends on the activation, and changes while the net learns; batch norm does not generally make it "
        "smaller.",
    ),
    Claim(
        "internal covariate shift slows training down, and batch norm works by removing it",
        {
            "covariate_shift": [
                *("ReLU, noisy BN", "sigmoid, noisy BN"),
                *(f"{net} at lr 0.1, steps until the training loss" for net in ("ReLU", "sigmoid")),
            ]
        },
        "Santurkar 2018: noise after batch norm, fresh and non-stationary in each step, brings the shift back, and the "
        "net does about as well as with batch norm, better than with none.",
        "contested",
        "At the same learning rate nets whose distributions drift more than without any norm still err less: whatever "
        "batch norm's gain is, it does not need less drift. Where each net has its best rate, that holds of ReLU nets; "
        "of sigmoid nets it is not shown: there they err about as little without norm, and with the weaker noise drift "
        "about as much. In speed, at lr 0.1, sigmoid nets that drift more are far ahead of those without norm; ReLU "
        "nets are not shown to be, and with the stronger noise they are behind.",
        fails=("sigmoid, noisy BN x1, at each arm's best lr", "sigmoid, noisy BN x3, at each arm's best lr"),
    ),
    Claim(
        "batch norm decouples the layers from each other",
        {"covariate_shift": ["batch norm couples the images of a batch", *GRADIENT_SHIFT]},
        "Santurkar 2018: noise after batch norm, which moves the distributions in each step, costs next to nothing.",
        "contested",
        "A layer's gradient changes less when the layers below make their step in the sigmoid net; in the ReLU net "
        "that is not shown. And batch norm couples the samples of a batch, which are independent without it.",
    ),
    Claim(
        "saturation slows sigmoid and tanh nets down; ReLU helps in part; inputs from N(0, 1) keep a gradient",
        {"saturation": ["depth-8 sigmoid", "sigmoid nets without BN", "is it saturation?", "8 tanh", "8 relu"]},
        "Ioffe & Szegedy 2015 give saturation as a reason for batch norm.",
        "true with conditions",
        "That saturation is what slows them is not shown here: the deep sigmoid net that stays at chance has no flat "
        "unit. Gradients vanish without saturation, since sigma' is 1/4 at most, layer by layer. From the default "
        "initialization ReLU alone does not train the net of depth 8; tanh does.",
    ),
    Claim(
        "PCA whitening gives all features the variance 1, ZCA whitening gives all of them the same variance",
        {"scaling_and_whitening": ["(b) covariance of both", "(b) ZCA minus U PCA", "(b) mean square of ZCA"]},
        "Huang 2018: whitening each batch by PCA swaps axes at random, ZCA does not.",
        "refuted",
        "Misleading: both give the identity as covariance. ZCA is PCA rotated back, the closest to the input.",
    ),
    Claim(
        "whitening removes correlations and speeds training up, but costs too much to be done in every layer",
        {"scaling_and_whitening": ["(a) steps with raw inputs", "(c) PCA per batch", "(e) log-log slope"]},
        "Huang 2018: whitening each batch with PCA swaps the axes at random and harms training; ZCA does not.",
        "true with conditions",
        "True of inputs, where features are correlated; per element its cost grows with the width, that of batch norm "
        "does not. Within a net PCA of each batch does not learn.",
    ),
    Claim(
        "normalization takes expressive power away, and gamma and beta give it back",
        {"scaling_and_whitening": ["(d) gamma = sqrt", "(d) with gamma", "(d) BN frozen"]},
        "Ioffe & Szegedy 2015 give gamma and beta for this reason.",
        "true with conditions",
        "Exactly so for statistics that are fixed, up to eps; not for the noise of a batch's own statistics.",
    ),
    Claim(
        "for images the statistics are taken over [N, H W], for each of the C channels",
        {"norm_family": ["BN, LN, IN, GN against the oracle"]},
        "Ioffe & Szegedy 2015, section 3.2.",
        "supported",
        "The layers equal a computation that knows the index set alone.",
    ),
    Claim(
        "batch norm, layer norm, instance norm and group norm are one formula",
        {"norm_family": ["BN, LN, IN, GN against the oracle", "m = 2", "one value"]},
        "Wu & He 2018; Summers & Dinneen 2020 cover batch norm, ghost batch norm and group norm with one layer.",
        "supported",
        "They differ in the index set over which mean and variance are taken, and in nothing else.",
    ),
    Claim(
        "batch norm had better not be used at test time",
        {
            "test_time": [
                "test error % with the statistics of one image",
                "test error of the population's",
                "norms taken out minus population",
                "folded into",
            ]
        },
        "Ioffe & Szegedy 2015: inference uses E[mean_B] and m / (m - 1) E[var_B]. Schneider 2020: statistics of the "
        "target domain repair part of the damage that a shift of the inputs does.",
        "refuted",
        "Wrong as written: not the layer is the trouble at test time but the statistics of a small test batch. Use "
        "those of the population; the layer can then be folded into the one before.",
    ),
    Claim(
        "batch norm makes learning faster",
        {
            "covariate_shift": [f"{net} at lr 0.1, steps until the training loss" for net in ("ReLU", "sigmoid")],
            "learning_rate": ["lower edge of BN minus none, tuned init"],
        },
        "Ioffe & Szegedy 2015: 13.3 million steps instead of 31.0 to the same accuracy, 2.1 million at five times the "
        "learning rate (with dropout, L2 and the schedule changed as well).",
        "true with conditions",
        "In steps, and at a matched rate: hundreds of steps sooner in a sigmoid net from a tuned initialization, tens "
        "in a ReLU net. Within a fixed number of steps smaller rates are enough, too. A step with batch norm does more "
        "work.",
    ),
    Claim(
        "batch norm makes training insensitive to the scale of the parameters",
        {"init_and_scale": ["float64, eps = 0", "cells in which BN errs less"]},
        "van Laarhoven 2017, Arora 2018: before a batch norm only lr / ||w||^2 counts, and L2 regularization there "
        "only changes the effective learning rate.",
        "true with conditions",
        "Exact for weights in front of a batch norm, together with the learning rate; not for the output layer, gamma "
        "and beta.",
    ),
    Claim(
        "batch norm makes training insensitive to the learning rate",
        {
            "learning_rate": ["window of BN minus", "upper edge of BN minus none, tuned init", "BN still fails"],
        },
        "Bjorck 2018: batch norm mainly allows larger rates. Cohen 2021: sharpness rises to about 2 / lr, and stays.",
        "true with conditions",
        "The range of rates that work is wider, against a tuned initialization too, but it ends: every net still fails "
        "at the highest rates.",
    ),
    Claim(
        "with batch norm saturating activations become usable",
        {"saturation": ["depth-8 sigmoid"]},
        "Ioffe & Szegedy 2015: Inception with sigmoid units and batch norm reaches 69.8 %.",
        "true with conditions",
        "A deep sigmoid net is at chance without it and errs by a few percent with it; so it does without any norm, "
        "from a tuned initialization.",
    ),
    Claim(
        "the noise of mini-batch statistics regularizes, like dropout",
        {
            "minibatch_noise": [
                "test error of S=8 minus S=N, points",
                "test error of S=32 minus S=N, points",
                "test error of S=8, default init minus",
                "Spearman",
                "test error of S=N +",
                "test NLL at matched train NLL",
                "of what S=32 gains",
                "test error of S=4 minus S=8",
                "test error of S=8 minus S=N + dropout",
            ]
        },
        "Luo 2019 and Kosson 2023 model batch norm as population normalization with noise. Hoffer 2017: the rows "
        "behind the statistics set the noise, not the SGD batch. Keskar 2017: on all of MNIST the gap is 0.2 points, "
        "too small to see.",
        "true with conditions",
        "It is a part of what batch norm gains. Where each net has its best rate the noise of eight rows lowers the "
        "error, and more than by fitting sooner; that of 32 rows, as batch norm is used, is not decided there, nor is "
        "ghost noise made by hand, nor the noise of eight rows from another initialization. At one rate for all, error "
        "falls as fewer rows stand behind the statistics.",
        fails=(
            *("test error of S=32 minus S=N", "test error of S=N + ghost noise"),
            *("test NLL at matched train NLL of S=32", "test error of S=8, default init minus"),
        ),
    ),
]
