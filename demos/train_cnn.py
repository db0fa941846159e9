"""Train a small convolutional net on handwritten digits, with the normalization of your choice.

    python -m demos.train_cnn                              the 8x8 digits that ship with the package
    python -m demos.train_cnn --data DIR --norm group      MNIST's IDX files in DIR (--download fetches them)
    python -m demos.train_cnn --checkpoint FILE            saves after every epoch; started again, it goes on from there

Where DIR has only MNIST's test part, 8,000 of its 10,000 images are trained on and the other 2,000 are the test.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from demos.datasets import split
from demos.output import Parser, explain, no_bar, say, user_path, warn
from tinygrad_bn import Tensor, data, load, manual_seed, nn, no_grad, optim, save
from tinygrad_bn.nn import functional as F

NORMS: dict[str, Any] = {  # each makes a layer for c channels
    "none": lambda c: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "group": lambda c: nn.GroupNorm(4, c),
    "layer": lambda c: nn.GroupNorm(1, c),  # layer norm over (C, H, W) is group norm with one group
    "ghost": lambda c: nn.GhostBatchNorm2d(c, 16),
    "renorm": lambda c: nn.BatchRenorm2d(c, momentum=0.1, warmup=50, r_ramp=200, d_ramp=200),
    "decorrelated": nn.DecorrelatedBatchNorm2d,
}


def net(norm: str, side: int) -> nn.Sequential:
    """Twice (convolution, norm, ReLU, pooling), then a linear layer: 1 x side x side -> 10 classes."""
    layer = NORMS[norm]
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        layer(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        layer(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 10),
    )


def load_images(folder: Path | None, seed: int) -> tuple[Any, Any, str]:
    """(train, test, where from), each of the two (x, y) with x of shape (n, 1, side, side)."""
    if folder is None:
        x, y = data.load_digits()
        parts = split(x.reshape(-1, 1, 8, 8), y, {"train": 1437, "test": 360}, seed)
        return parts["train"], parts["test"], "8x8 digits"
    try:
        train = data.load_mnist(folder, train=True)
    except FileNotFoundError:  # the test part alone will do
        parts = split(*data.load_mnist(folder, train=False), {"train": 8000, "test": 2000}, seed)
        return parts["train"], parts["test"], "MNIST's test part"
    return train, data.load_mnist(folder, train=False), "MNIST"


def error(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Test error in percent, in eval mode."""
    model.eval()
    with no_grad():
        wrong = [
            model(Tensor(images)).data.argmax(axis=1) != labels
            for images, labels in data.DataLoader((x, y), batch_size=500)
        ]
    return 100 * float(np.concatenate(wrong).mean())


def train(args: argparse.Namespace) -> float:
    """Train as args say; returns the test error in percent."""
    from tqdm import tqdm

    manual_seed(args.seed)
    (x, y), test, source = load_images(args.data, args.seed)
    model = net(args.norm, x.shape[-1])
    if args.batch > len(x):
        raise ValueError(f"--batch must be at most the number of training images, {len(x)}, got {args.batch}")
    loader = data.DataLoader((x, y), args.batch, shuffle=True, drop_last=True, seed=args.seed)
    sgd = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=args.epochs * len(loader))
    run = {"model": model, "sgd": sgd, "schedule": schedule, "loader": loader}
    settings = {"data": source, **{name: getattr(args, name) for name in ("norm", "epochs", "batch", "lr", "seed")}}
    first = 0
    if args.checkpoint and args.checkpoint.exists():
        saved = load(args.checkpoint)
        if not isinstance(saved, dict) or saved.get("settings") != settings:
            raise ValueError(f"--checkpoint {args.checkpoint} must be of this run, {settings}, got another's")
        for name, part in run.items():
            part.load_state_dict(saved[name])
        first = saved["done"]

    say(f"{source}: {len(x)} images to train on, {len(test[0])} to test; {args.norm} norm")
    started = time.perf_counter()
    for epoch in range(first, args.epochs):
        model.train()
        losses = []
        with tqdm(loader, desc=f"epoch {epoch + 1}/{args.epochs}", unit="batch", disable=no_bar()) as batches:
            for images, labels in batches:
                loss = F.cross_entropy(model(Tensor(images)), labels)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                schedule.step()
                losses.append(loss.item())
                batches.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        say(f"epoch {epoch + 1:2d}  train loss {np.mean(losses):.4f}  test error {error(model, *test):.2f} %")
        if args.checkpoint:
            states = {name: part.state_dict() for name, part in run.items()}
            save(args.checkpoint, {"settings": settings, "done": epoch + 1, **states})
    seconds = time.perf_counter() - started

    result = error(model, *test)
    say(f"test error {result:.2f} % (accuracy {100 - result:.2f} %) after {seconds:.1f} s")
    if any(True for _ in model.buffers()):  # running statistics: it has batch norms
        nn.utils.recompute_statistics(model, data.DataLoader(x, 500))
        say(f"with the population's statistics instead of the moving averages: {error(model, *test):.2f} %")
        folded = nn.utils.fold_batch_norm(model)
        with no_grad():
            images = Tensor(test[0])
            outputs = model(images).data
            difference = np.abs(folded(images).data - outputs).max() / np.abs(outputs).max()
        say(f"batch norms folded into the convolutions: outputs differ by {difference:.1e} of the largest")
    return result


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m demos.train_cnn", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--data", type=user_path, metavar="DIR", help="folder with MNIST's IDX files, gzipped or not; default: digits"
    )
    parser.add_argument("--download", action="store_true", help="download what DIR lacks of MNIST first")
    parser.add_argument("--norm", choices=list(NORMS), default="batch", help="default: batch")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--batch", type=int, default=64, help="images per step, default: 64")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate, default: 0.01, falls along a cosine")
    parser.add_argument("--seed", type=int, default=2000, help="default: 2000")
    parser.add_argument("--checkpoint", type=user_path, metavar="FILE", help="default: none is saved")
    args = parser.parse_args(argv)
    if args.download and args.data is None:
        parser.error("--download needs --data DIR")
    if args.epochs < 1 or args.batch < 2 or not 0 < args.lr < math.inf or args.seed < 0:
        parser.error("--epochs, --batch, --lr and --seed must be positive (a batch of 2 or more)")
    if args.checkpoint and not args.checkpoint.parent.is_dir():
        parser.error(f"--checkpoint: there is no folder {args.checkpoint.parent}")
    from threadpoolctl import threadpool_limits

    try:
        if args.download:
            data.download_mnist(args.data)
        with threadpool_limits(1):  # the products are small, and one thread gives the same bits on every machine
            train(args)
    except KeyboardInterrupt:
        saved = args.checkpoint and args.checkpoint.exists()
        on = f"{args.checkpoint} has the last whole epoch, and the same command goes on from there"
        warn(f"train_cnn: interrupted; {on if saved else 'nothing was saved'}")
        return 130
    except (OSError, ValueError) as problem:
        warn(f"train_cnn: {explain(problem)}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
