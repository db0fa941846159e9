"""Batch norm widens the range of learning rates that work.

python -m demos.examples.learning_rates          # draws learning_rates.png
"""

import matplotlib.pyplot as plt
import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim

RATES = 10.0 ** np.arange(-2.5, 2.0, 0.5)


def data():
    """Digits as 1,000 images to train on and 797 to test with, standardized."""
    x, y = tb.data.load_digits()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    x = (x - x[:1000].mean()) / x[:1000].std()
    return x[:1000], y[:1000], x[1000:], y[1000:]


def test_error(norm, rate, steps=400):
    x, y, x_test, y_test = data()
    tb.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64) if norm else nn.Identity(), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    sgd = optim.SGD(net.parameters(), lr=rate)
    loss_of = tb.replay(lambda images, labels: F.cross_entropy(net(tb.Tensor(images)), labels))
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):  # large rates diverge
        for _ in range(steps):
            batch = rng.choice(1000, 32, replace=False)
            loss = loss_of(x[batch], y[batch])
            if not np.isfinite(loss.item()):
                return 90.0  # as good as guessing
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        nn.utils.recompute_statistics(net, [x]).eval()
        with tb.no_grad():
            return 100 * (net(tb.Tensor(x_test)).data.argmax(axis=1) != y_test).mean()


def main(file="learning_rates.png"):
    errors = {norm: np.array([test_error(norm, rate) for rate in RATES]) for norm in (False, True)}
    fig, ax = plt.subplots()
    for norm, line in errors.items():
        label = "batch norm" if norm else "no norm"
        ax.loglog(RATES, line, "o-", label=label)
        print(f"{label:10}: " + ", ".join(f"{rate:.3g}: {e:.1f} %" for rate, e in zip(RATES, line, strict=True)))
    ax.set(xlabel="learning rate", ylabel="test error (%)", title="Which learning rates work?")
    ax.legend()
    fig.savefig(file)
    return errors


if __name__ == "__main__":
    main()
