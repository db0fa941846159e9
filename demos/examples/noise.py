"""Mini-batch noise regularizes: with fewer rows behind batch norm's statistics the same net errs less.

python -m demos.examples.noise          # draws noise.png
"""

import matplotlib.pyplot as plt
import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim

ROWS = [4, 8, 16, 32, 64]  # behind the statistics, of batches of 64
SEEDS = range(5)


def data():
    """Digits as 500 images to train on and 1,297 to test with, standardized."""
    x, y = tb.data.load_digits()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    x = (x - x[:500].mean()) / x[:500].std()
    return x[:500], y[:500], x[500:], y[500:]


def test_error(rows, seed, steps=400):
    x, y, x_test, y_test = data()
    tb.manual_seed(seed)
    layers: list[nn.Module] = []
    for width in (64, 100, 100):
        linear = nn.Linear(width, 100)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.GhostBatchNorm1d(100, rows), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(100, 10))
    sgd = optim.SGD(net.parameters(), lr=0.1)
    loss_of = tb.replay(lambda images, labels: F.cross_entropy(net(tb.Tensor(images)), labels))
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        batch = rng.choice(500, 64, replace=False)
        sgd.zero_grad()
        loss_of(x[batch], y[batch]).backward()
        sgd.step()
    for norm in net[1:-1:3]:
        norm.ghost_size = len(x)
    nn.utils.recompute_statistics(net, [x]).eval()  # exact ones, of all rows: noise is for training
    with tb.no_grad():
        return 100 * (net(tb.Tensor(x_test)).data.argmax(axis=1) != y_test).mean()


def main(file="noise.png"):
    errors = np.array([[test_error(rows, seed) for rows in ROWS] for seed in SEEDS])
    fig, ax = plt.subplots()
    ax.semilogx(ROWS, errors.T, color="0.8")
    ax.semilogx(ROWS, errors.mean(axis=0), "o-")
    ax.set(xlabel="rows behind the statistics", ylabel="test error (%)", title="Fewer rows, more noise (lr 0.1)")
    fig.savefig(file)
    for rows, error in zip(ROWS, errors.mean(axis=0), strict=True):
        print(f"statistics of {rows:2d} rows: test error {error:.2f} %")
    return errors


if __name__ == "__main__":
    main()
