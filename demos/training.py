"""What the demos train with: one loop, one evaluation, and a batch norm whose statistics can be chosen.

Paired by construction: data, initialization and batch order depend on the seed alone, never on the arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tinygrad_bn.nn.functional as F
from demos.datasets import Rows, count_classes
from tinygrad_bn import Tensor, differentiable, fresh, nn, no_grad, optim, replay

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
BATCHES, EXTRA_ROWS, NOISE = range(1, 4)  # purposes; 0 would be the stream of the initial weights


def stream(seed: int, purpose: int, layer: int = 0) -> np.random.Generator:
    """Random numbers that differ from seed to seed, purpose to purpose and layer to layer.

    purpose: 1 or more, since NumPy pads with zeros: (seed, 0, 0) is default_rng(seed), as manual_seed(seed) starts.
    """
    if purpose < 1:
        raise ValueError(f"purpose must be at least 1, got {purpose}")
    return np.random.default_rng([seed, purpose, layer])


def batches(n: int, m: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of mini-batches of m, epoch after epoch, each a fresh permutation; the rest is dropped."""
    rng = stream(seed, BATCHES)
    while True:
        order = rng.permutation(n)
        for start in range(0, n - m + 1, m):
            yield order[start : start + m]


def checkpoints(steps: int, count: int = 12) -> list[int]:
    """Steps from 1 to `steps` at which to look, evenly spaced on a logarithmic axis."""
    return sorted({round(steps ** (k / (count - 1))) for k in range(count)})


def he_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """He's initialization, the textbook's for ReLU.

    nn.Linear's default, PyTorch's, has weights 2.4 times smaller. Under batch norm that is a 6 times larger effective
    learning rate, hence noise of another kind in every arm.
    """
    layer = nn.Linear(fan_in, fan_out)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def glorot_linear(fan_in: int, fan_out: int, activation: str) -> nn.Linear:
    """Glorot's initialization, with four times the gain for sigmoid, whose slope is 1/4 at most."""
    layer = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(layer.weight, gain=4.0 if activation == "sigmoid" else 1.0)
    nn.init.zeros_(layer.bias)
    return layer


@differentiable
def noisy_affine(x: Any, weight: Any, bias: Any, *, shift: np.ndarray, scale: np.ndarray) -> Any:
    """y = weight (x - shift) scale + bias, the noise being constant"""
    noisy = (x - shift) * scale
    return noisy * weight + bias, lambda dy: (
        lambda: dy * (scale * weight),
        lambda: (dy * noisy).sum(axis=0),
        lambda: dy.sum(axis=0),
    )


class ChosenBatchNorm(nn.Module):
    """Batch norm whose statistics come from groups of ``group`` rows (None: all rows), with optional noise.

    noise "ghost": the normalized rows are normalized again by mean and deviation of ``noise_rows`` random rows,
    as constants (Kosson et al. 2023); "gaussian": shift ~ N(0, 1/s), scale ~ N(1, 1/(2 s)) per channel and group
    of s = noise_rows rows, the sampling deviations of a mean and a standard deviation of s normal values.
    """

    def __init__(
        self, features: int, group: int | None, noise: str | None, noise_rows: int, seed: int, layer: int = 0
    ) -> None:
        super().__init__()
        if group is not None and noise is not None:
            raise ValueError("group and noise must not both be given: hand-made noise replaces that of the groups")
        self.weight = nn.Parameter(np.ones(features, np.float32))
        self.bias = nn.Parameter(np.zeros(features, np.float32))
        self.register_buffer("mean", np.zeros(features, np.float32))
        self.register_buffer("var", np.ones(features, np.float32))
        self.group, self.noise, self.noise_rows = group, noise, noise_rows
        self.random = stream(seed, NOISE, layer)
        self.measuring = False  # set while population statistics are taken

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias)
        if self.measuring:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, training=True, momentum=1.0)
        if self.noise is None:
            return F.ghost_batch_norm(x, self.group or len(x), None, None, self.weight, self.bias, training=True)
        y = F.batch_norm(x, None, None, training=True)
        shift, scale = fresh(self._noise, y)
        return noisy_affine(y, self.weight, self.bias, shift=shift, scale=scale)

    def _noise(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (rows, features), s = x.shape, self.noise_rows
        groups = math.ceil(rows / s)
        if self.noise == "ghost":
            drawn = self.random.permutation(rows)[np.arange(groups * s) % rows]
            ghosts = x[drawn].reshape(groups, s, features)
            shift, scale = ghosts.mean(axis=1), 1 / np.sqrt(ghosts.var(axis=1) + 1e-5)
        else:
            shift = self.random.normal(0, 1 / math.sqrt(s), (groups, features))
            scale = self.random.normal(1, 1 / math.sqrt(2 * s), (groups, features))
        repeated = np.repeat(np.stack([shift, scale]), s, axis=1)[:, :rows].astype(x.dtype)
        return repeated[0], repeated[1]


def as_images(x: np.ndarray) -> np.ndarray:
    """Rows of side^2 features as square images (n, 1, side, side)."""
    side = math.isqrt(x.shape[1])
    if side**2 != x.shape[1]:
        raise ValueError(f"x must hold square images, a row each, got {x.shape[1]} features")
    return x.reshape(-1, 1, side, side)


def take_population_statistics(model: nn.Module, x: np.ndarray) -> None:
    """One pass over the whole training set as one batch: exact statistics for every batch norm."""
    norms = [m for m in model.modules() if isinstance(m, ChosenBatchNorm)]
    if not norms:  # the library's own norms, or none
        nn.utils.recompute_statistics(model, [x])
        return
    for norm in norms:
        norm.measuring = True
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    model.train()
    for dropout in dropouts:
        dropout.eval()
    with no_grad():
        model(Tensor(x))
    for norm in norms:
        norm.measuring = False


def evaluate(model: nn.Module, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(error in percent, negative log likelihood) in eval mode."""
    model.eval()
    with no_grad():
        logits = model(Tensor(x))
        nll = F.cross_entropy(logits, y).item()
    return 100 * float((logits.data.argmax(axis=1) != y).mean()), nll


def train(
    model: nn.Module,
    data: dict[str, Rows],
    config: dict[str, Any],
    rows: Callable[[np.ndarray], np.ndarray] = lambda batch: batch,
    watch: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Plain SGD for config["steps"] steps of config["m"] rows; lr drops to a tenth at config["drop_at"].

    rows(batch) may append rows that only take part in the statistics: the loss is taken over the batch. A loss
    that is not finite ends the run: it counts as chance and is labelled "diverged".
    """
    x, y = data["train"]
    m, steps = config["m"], config["steps"]
    sgd = optim.SGD(model.parameters(), lr=config["lr"])
    finite = True

    def loss_of_batch(rows_of_x: np.ndarray, labels: np.ndarray) -> Tensor:
        logits = model(Tensor(rows_of_x))
        return F.cross_entropy(logits[:m] if len(logits) > m else logits, labels)

    loss_of = replay(loss_of_batch)  # the same bits in less time
    model.train()
    for step, batch in zip(range(steps), batches(len(x), m, config["seed"]), strict=False):
        if step == int(steps * config.get("drop_at", 2)):
            sgd.param_groups[0]["lr"] = config["lr"] / 10
        with np.errstate(all="ignore"):
            loss = loss_of(x[rows(batch)], y[batch])
            if not math.isfinite(loss.item()):
                finite = False
                break
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        watch(step + 1)
    return measure(model, data, finite)


class Fit:
    """A watch for train(): (train NLL, test NLL) at checkpoints, with population statistics. The training goes on as if
    it had not been there."""

    def __init__(self, model: nn.Module, data: dict[str, Rows], steps: int, count: int = 24) -> None:
        self.model, self.data, self.at = model, data, checkpoints(steps, count)
        self.points: list[tuple[float, float]] = []

    def __call__(self, step: int) -> None:
        if step not in self.at:
            return
        with np.errstate(all="ignore"):
            take_population_statistics(self.model, self.data["train"][0])
            train_nll, test_nll = (evaluate(self.model, *self.data[part])[1] for part in ("train", "test"))
        self.points.append((train_nll, test_nll))
        self.model.train()

    def curve(self, diverged: bool) -> list[tuple[float, float]]:
        """A point per checkpoint; a diverged run counts as chance."""
        chance = math.log(count_classes(self.data))
        return [(chance, chance)] * len(self.at) if diverged else self.points


def error_by_own_statistics(model: nn.Module, x: np.ndarray, y: np.ndarray, rows: int) -> float:
    """Error in percent where each `rows` rows of x are normalized by themselves, as in training, without dropout.

    What is left at the end, fewer than `rows`, takes no part.
    """
    count = len(x) // rows * rows
    norms = [module for module in model.modules() if isinstance(module, ChosenBatchNorm)]
    before = [norm.group for norm in norms]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for norm in norms:
        norm.group = rows
    with no_grad():
        logits = model(Tensor(x[:count])).data
    for norm, group in zip(norms, before, strict=True):
        norm.group = group
    return 100 * float((logits.argmax(axis=1) != y[:count]).mean())


def measure(model: nn.Module, data: dict[str, Rows], finite: bool) -> dict[str, Any]:
    """Error and NLL on every part, with exact population statistics."""
    classes = count_classes(data)
    result: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        take_population_statistics(model, data["train"][0])
        for part, (x, y) in data.items():
            error, nll = evaluate(model, x, y)
            finite = finite and math.isfinite(nll)
            result |= {f"{part}_error": error, f"{part}_nll": nll}
    chance = 100 * (1 - 1 / classes)
    if not finite:
        result = {k: chance if k.endswith("error") else math.log(classes) for k in result}
    return {**result, "chance": chance, "diverged": not finite}
