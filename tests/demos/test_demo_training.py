"""The demos' training replays its steps: with the same bits, and on the replay, not beside it."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

sys.path.insert(0, str(Path(__file__).parents[2]))

from demos import training  # noqa: E402
from tinygrad_bn import manual_seed, nn  # noqa: E402
from tinygrad_bn.engine.replay import Plan, Replay  # noqa: E402


def net(kind, config):
    def norm(layer):
        if kind == "library":
            return nn.BatchNorm1d(16)
        group, noise = {"groups": (4, None), "ghost": (None, "ghost"), "gaussian": (None, "gaussian")}[kind]
        return training.ChosenBatchNorm(16, group, noise, 4, config["seed"], layer)

    manual_seed(config["seed"])
    return nn.Sequential(
        training.he_linear(8, 16), norm(1), nn.ReLU(), nn.Dropout(0.1), training.he_linear(16, 16), norm(2), nn.ReLU(),
        training.he_linear(16, 3),
    )  # fmt: skip


@pytest.mark.parametrize("extra_rows", [0, 5])
@pytest.mark.parametrize("kind", ["library", "groups", "ghost", "gaussian"])
def test_a_training_by_replay_has_the_bits_of_an_eager_one(kind, extra_rows, monkeypatch):
    rng = np.random.default_rng(0)
    rows = lambda count: (rng.standard_normal((count, 8), np.float32), rng.integers(0, 3, count))
    data = {"train": rows(40), "test": rows(20)}
    config = {"m": 10, "steps": 25, "seed": 3, "lr": 0.1, "drop_at": 0.6}
    more = lambda batch: np.concatenate([batch, batch[:extra_rows]])
    results, plans = [], []

    class Seen(Replay):
        def __init__(self, function):
            super().__init__(function)
            plans.append(self._own.plans)

    for replay in (lambda function: function, Seen):
        monkeypatch.setattr(training, "replay", replay)
        model = net(kind, config)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            result = training.train(model, data, config, rows=more)
        results.append((result, [a.tobytes() for a in model.state_dict().values()]))
    assert results[0] == results[1]
    assert [type(plan) for plan in plans[0].values()] == [Plan]
