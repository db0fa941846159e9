"""Scale invariance is exact, and the eight cells differ in what they say: the demo, its identities, its verdicts."""

import dataclasses
import json

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

import tinygrad_bn.nn.functional as F  # noqa: E402
from demos import init_and_scale as demo  # noqa: E402
from demos import laboratory as lab  # noqa: E402
from demos import training  # noqa: E402
from tinygrad_bn import Tensor, nn  # noqa: E402


def identity(arm="BN, eps=0", seed=0, steps=8):
    config = {"arm": arm, "kind": "identity", "seed": seed, "dataset": "digits", "m": demo.M, "steps": steps}
    return demo.run(config)


def cell_config(cell=(0.05, 2.0, "relu", 0.05), norm="BN", steps=6):
    own = {"kind": "cell", "cell": list(cell), "norm": norm, "lr": cell[1], "steps": steps}
    return {"arm": "", "seed": 0, "dataset": "digits", "m": demo.M, **own}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_identities_hold(seed):
    seen = identity(seed=seed)
    assert seen["difference"]["8"] == [0.0] * 8  # exactly
    assert max(seen["difference"]["10"]) < 1e-10
    assert max(seen["difference"]["200"]) < 1e-10
    assert seen["cosine"] < 1e-10
    assert seen["growth_gap"] < 1e-10
    np.testing.assert_allclose(seen["growth"], seen["predicted"], rtol=1e-10)
    assert seen["growth"][-1] > 1e-3  # and not because nothing moved


def test_eps_breaks_the_identities():
    seen = identity("BN, eps=1e-5")
    assert max(seen["difference"]["8"]) > 1e-6 and seen["cosine"] > 1e-6


def test_they_do_not_hold_without_a_norm():
    seen = identity("none")
    assert max(seen["difference"]["8"]) > 0.1 and seen["cosine"] > 0.01 and seen["growth_gap"] > 0.1


def test_a_learning_rate_that_is_not_squared_is_noticed(monkeypatch):
    class Linearly(demo.optim.SGD):
        def __init__(self, groups):
            super().__init__([{**g, "lr": demo.IDENTITY_LR * (g["lr"] / demo.IDENTITY_LR) ** 0.5} for g in groups])

    monkeypatch.setattr(demo.optim, "SGD", Linearly)
    assert max(identity()["difference"]["8"]) > 1e-3


def test_a_backward_that_takes_the_statistics_for_constants_is_noticed(monkeypatch):
    """The same output, and a gradient without the paths through mean and variance: no longer orthogonal to w."""

    def normalize(self, x, training, momentum):
        return F.batch_norm(x, x.data.mean(axis=0), x.data.var(axis=0), self.weight, self.bias, False, 0.0, self.eps)

    monkeypatch.setattr(nn.BatchNorm1d, "normalize", normalize)
    seen = identity()
    assert seen["cosine"] > 0.01 and seen["growth_gap"] > 0.01


def test_cosine_is_that_of_each_unit():
    w, g = np.array([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[4.0, -3.0], [-2.0, 0.0], [0.0, 0.0]])
    assert demo.largest_cosine(w, g) == 1.0
    assert demo.largest_cosine(w[::2], g[::2]) == 0.0


def test_cells_start_from_the_same_weights_but_for_their_scale():
    data = demo.load_parts("digits", 3, demo.SIZES)
    plain = demo.net(data, 3, (0.05, 0.01, "relu", 0.05), norm=False)
    for cell, norm in (((0.05, 2.0, "sigmoid", 0.05), True), ((10.0, 2.0, "relu", 10.0), False)):
        other = demo.net(data, 3, cell, norm)
        pairs = zip(demo.hidden(plain), demo.hidden(other), strict=True)
        for a, b in [*pairs, (list(plain)[-1], list(other)[-1])]:
            np.testing.assert_allclose(cell[0] / 0.05 * a.weight.data, b.weight.data, rtol=1e-5)
            assert not a.bias.data.any() and not b.bias.data.any()
    control = demo.net(data, 3, (10.0, 2.0, "relu", 0.05), norm=False)
    assert np.array_equal(list(control)[-1].weight.data, list(plain)[-1].weight.data)
    assert demo.hidden(control)[0].weight.data.std() == pytest.approx(10, rel=0.05)


def test_watching_changes_nothing():
    config = cell_config()
    data = demo.load_parts("digits", 0, demo.SIZES)
    unwatched = training.train(demo.net(data, 0, tuple(config["cell"]), True), data, config)
    watched = demo.run(config)
    assert {key: watched[key] for key in unwatched} == unwatched
    assert watched["curve"][-1] == watched["test_error"]
    assert len(watched["curve"]) == len(training.checkpoints(6))


def test_a_diverged_run_is_chance_to_its_end():
    seen = demo.run(cell_config((10.0, 2.0, "relu", 10.0), "none", steps=40))
    assert seen["diverged"] and seen["test_error"] == 90 and seen["curve"][-3:] == [90.0] * 3
    json.dumps(seen, allow_nan=False)


def test_population_statistics_of_the_library_s_own_norms():
    x = np.random.default_rng(0).normal(3, 2, (200, 4)).astype(np.float32)
    model = nn.Sequential(nn.BatchNorm1d(4))
    model(Tensor(x[:20]))
    training.take_population_statistics(model, x)
    np.testing.assert_allclose(model[0].running_mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model[0].running_var, x.var(axis=0, ddof=1), rtol=1e-5)


def test_checkpoints_lead_from_the_first_step_to_the_last():
    assert training.checkpoints(1) == [1]
    assert training.checkpoints(1000, 4) == [1, 10, 100, 1000]


def planted(gains, difference=1e-15, exact=0.0):
    """Runs in which BN errs less by gains[cell] points, 20 where none is given, with seed-to-seed scatter."""
    settings = {**demo.PRESETS["full"], "seeds": list(range(20)), "dataset": "digits", "preset": "full"}
    runs = []
    for c in demo.plan(settings):
        if c["kind"] == "identity":
            far = difference if c["arm"] == "BN, eps=0" else 0.5
            runs.append({**c, "difference": {"8": [exact], "10": [far], "200": [far]}, "cosine": far})
            runs[-1] |= {"growth_gap": far, "growth": [1.0], "predicted": [1.0]}
            continue
        gain = gains.get(tuple(c["cell"]), 20.0) if c["norm"] == "BN" else 0.0
        error = 60 - gain + np.random.default_rng([c["seed"], len(c["norm"])]).normal(0, 0.5)
        runs.append({**c, "test_error": error, "test_nll": 1.0, "train_nll": 1.0, "diverged": False, "moved": None})
    return runs, settings


def test_verdicts_follow_planted_effects():
    runs, settings = planted({})
    analysis = demo.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria] == [True] * 5
    assert "in 7 of them" in analysis.criteria[0].note
    assert len(analysis.table) == 1 + 2 * 12 and len({len(row) for row in analysis.table}) == 1


def test_one_cell_of_the_other_sign_is_a_fail():
    runs, settings = planted({demo.AHEAD[3]: -2.0})
    first = demo.analyse(runs, settings).criteria[0]
    assert not first.passed and first.measured == 6 and demo.name(demo.AHEAD[3]) in first.note


def test_the_cell_without_a_sign_and_the_controls_do_not_count():
    assert len(demo.AHEAD) == 7 and (10.0, 2.0, "relu", 10.0) not in demo.AHEAD
    runs, settings = planted({cell: -5.0 for cell in [(10.0, 2.0, "relu", 10.0), *demo.CONTROLS]})
    assert demo.analyse(runs, settings).criteria[0].passed


def test_identities_that_are_off_are_a_fail():
    runs, settings = planted({}, difference=1e-9, exact=1e-16)
    assert [c.passed for c in demo.analyse(runs, settings).criteria] == [True, False, False, False, False]


def test_end_to_end(tmp_path, monkeypatch):
    def save(picture, folder):  # without the layout, which takes seconds
        picture.figure.set_layout_engine("none")
        picture.figure.savefig(folder / f"{picture.name}.svg")
        lab.plots.plt.close(picture.figure)
        return []

    monkeypatch.setattr(lab.plots, "save", save)
    presets = {"quick": {"seeds": 2, "steps": 3, "identity_steps": 2, "limits": "tiny"}}
    tiny = dataclasses.replace(demo.DEMO, presets=presets, warm_up=lambda: None)
    assert lab.main([tiny], ["--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "init_and_scale" / "summary.json").read_text())
    assert [c["passed"] for c in summary["criteria"]][1:] == [True] * 4
    assert {path.stem for path in tmp_path.glob("*/*.svg")} == {"error_by_cell", "error_against_step", "identities"}
