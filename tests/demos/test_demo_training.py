"""The demos' training replays its steps: with the same bits, and on the replay, not beside it."""

import importlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

sys.path.insert(0, str(Path(__file__).parents[2]))

from demos import training  # noqa: E402
from demos.__main__ import DEMOS  # noqa: E402
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


@pytest.mark.parametrize("name", DEMOS)
def test_every_step_is_replayed(name):
    """A replay that stays eager, such as one with noise drawn outside of fresh(), warns; the results are the same."""
    demo = importlib.import_module(f"demos.{name}").DEMO
    configs = demo.plan({**demo.presets["full"], "seeds": [2000], "dataset": "digits", "preset": "full"})
    first = {config["arm"]: config for config in reversed(configs) if "steps" in config}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for config in first.values():
            demo.run({**config, "steps": 4})
