"""The demo of test-time statistics: each evaluation is what it says, the facts hold, the verdicts follow the runs."""

import copy
import itertools
import json

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

from demos import laboratory as lab  # noqa: E402
from demos import test_time as demo  # noqa: E402
from demos import training  # noqa: E402
from tinygrad_bn import Tensor, manual_seed, nn  # noqa: E402


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def trained(features=6, classes=4):
    """A net whose parameters and statistics are those of no initialization."""
    manual_seed(0)
    model, rng = demo.net(features, classes), np.random.default_rng(1)
    for p in model.parameters():
        p.data += 0.3 * rng.standard_normal(p.shape).astype(np.float32)
    return nn.utils.recompute_statistics(model, [normal(300, features, seed=2)]).eval()


def config(**changes):
    settings = {**demo.PRESETS["quick"], "seeds": [0], "dataset": "digits"}
    return next(c for c in demo.plan(settings) if c["m"] == demo.MAIN) | changes


@pytest.mark.parametrize("size", [2, 5, 8, 40])
def test_each_test_batch_is_normalized_by_itself(size):
    model, x = trained(), normal(40, 6)
    expected = [copy.deepcopy(model).train()(Tensor(x[i : i + size])).data for i in range(0, 40, size)]
    np.testing.assert_allclose(demo.batch_logits(model, x, size), np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_image_has_logits_that_do_not_depend_on_it():
    """x - mean = 0: every norm passes on its beta, and the logits are those of beta in the last hidden layer."""
    model = trained()
    rows = demo.batch_logits(model, normal(20, 6), 1)
    assert np.array_equal(rows, np.tile(rows[:1], (20, 1)))
    beta = np.maximum(model[7].bias.data, 0)
    np.testing.assert_allclose(rows[0], model[9].weight.data @ beta + model[9].bias.data, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="more than 1 value"):
        copy.deepcopy(model).train()(Tensor(normal(1, 6)))


def test_the_tracked_variance_is_unbiased():
    """All batches of m of N rows: the average of m / (m - 1) var_B is the N - 1 variance exactly."""
    x, m = normal(7, 3), 3
    norm = nn.BatchNorm1d(3, momentum=None)  # the plain average over batches
    for rows in itertools.combinations(range(7), m):
        norm(Tensor(x[list(rows)]))
    np.testing.assert_allclose(norm.running_var, x.var(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=0), atol=1e-6)


def test_variance_of_batches_falls_short_by_the_known_factor():
    x = np.random.default_rng(0).gamma(1.0, size=(400, 5))
    for m in (2, 4, 32):
        assert demo.variance_ratio(x, m, 0) == pytest.approx((m - 1) / m, rel=0.02)
    assert demo.variance_ratio(x, 400, 0) == pytest.approx(399 / 400, rel=1e-12)  # one batch: all rows
    constant = np.concatenate([x, np.ones((400, 1))], axis=1)
    assert demo.variance_ratio(constant, 4, 0) == demo.variance_ratio(x, 4, 0)


def test_adaptation_mixes_as_many_rows_as_each_side_is_worth():
    model, target = trained(), normal(60, 6, seed=5) + 1
    n, count = 20, 80
    mixed = demo.adapted(model, target, n, count)
    first = target[:n].astype(np.float64) @ model[0].weight.data.T + model[0].bias.data
    expected = (count * model[1].running_mean + n * first.mean(axis=0)) / (count + n)
    np.testing.assert_allclose(mixed[1].running_mean, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(mixed[1].running_mean, model[1].running_mean, atol=1e-3)


@pytest.mark.parametrize(("kind", "strength"), [("contrast", 0.5), ("offset", 2.0)])
def test_target_statistics_undo_a_shift_that_is_affine(kind, strength):
    """Contrast and offset change each output of the first layer by one affine map: its norm takes that back."""
    model, x, target = trained(), normal(50, 6), normal(256, 6, seed=3)
    new, test = (demo.shifted(part, kind, strength, 0.1, 1.0, None) for part in (target, x))
    plain = demo.logits(demo.adapted(model, target, 256, 0), x)
    np.testing.assert_allclose(demo.logits(demo.adapted(model, new, 256, 0), test), plain, rtol=1e-3, atol=1e-3)
    assert np.abs(demo.logits(model, test) - demo.logits(model, x)).max() > 0.1  # the shift is one


def test_shifts_are_what_they_are_called():
    x = normal(1000, 6) + 3
    np.testing.assert_allclose(demo.shifted(x, "contrast", 0.3, 2.0, 1.5, None), 2 + 0.3 * (x - 2), rtol=1e-5)
    np.testing.assert_allclose(demo.shifted(x, "offset", 2.0, 2.0, 1.5, None), x + 3, rtol=1e-6)
    noise = demo.shifted(x, "noise", 2.0, 2.0, 1.5, training.stream(0, training.NOISE)) - x
    assert noise.std() == pytest.approx(3, rel=0.05) and noise.dtype == np.float32


def test_folding_is_exact_up_to_rounding():
    model, x = trained(), normal(100, 6)
    assert 0 < demo.fold_error(model, x) < 1e-6
    assert demo.fold_error(demo.in_float64(model), x.astype(np.float64)) < 1e-14
    folded = nn.utils.fold_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in folded.modules())


def test_folding_another_variance_is_noticed(monkeypatch):
    real = nn.utils.fold_batch_norm

    def off(model):
        folded = real(model)
        folded[0].weight.data *= 1.001
        return folded

    monkeypatch.setattr(nn.utils, "fold_batch_norm", off)
    assert demo.fold_error(trained(), normal(100, 6)) > 1e-5


def test_the_moving_average_is_that_of_training(monkeypatch):
    """After one step of momentum 0.1: a tenth of the first batch's statistics."""
    seen = []
    real = demo.evaluate
    monkeypatch.setattr(demo, "evaluate", lambda model, x, y: seen.append(copy.deepcopy(model)) or real(model, x, y))
    demo.run(config(m=8, steps=1))
    population, moving, biased, without = seen[:4]
    x, _ = demo.load_parts("digits", 0, demo.SIZES)["train"]
    manual_seed(0)
    first = demo.net(64, 10)[0](Tensor(x[next(training.batches(len(x), 8, 0))])).data
    np.testing.assert_allclose(moving[1].running_mean, 0.1 * first.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moving[1].running_var, 0.9 + 0.1 * first.var(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(biased[1].running_var, moving[1].running_var * 7 / 8, rtol=1e-6)
    whole = population[0](Tensor(x)).data
    np.testing.assert_allclose(population[1].running_mean, whole.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert [type(m) for m in without if isinstance(m, (nn.Identity, nn.BatchNorm1d))] == [nn.Identity] * 3
    assert np.array_equal(without[0].weight.data, population[0].weight.data)


def test_a_diverged_run_counts_as_chance_in_every_evaluation():
    with np.errstate(all="ignore"):
        result = demo.run(config(lr=1e38, steps=5))
    assert result["diverged"] and set(result["errors"].values()) == {90.0}


def synthetic(gain=10.0, harm=0.0, whole=0.0, spread=0.0, fold=1e-7, bias=0.0):
    """Runs in which adaptation gains and harms so much, and the whole test set errs so much more."""
    settings = {**demo.PRESETS["full"], "seeds": list(range(20)), "dataset": "digits", "preset": "full"}
    counts = [(n, count) for n in demo.TARGET_ROWS for count in demo.PSEUDO_COUNTS]
    runs = []
    for c in demo.plan(settings):
        rng, base = np.random.default_rng([c["seed"], c["m"]]), 4 + np.random.default_rng(c["seed"]).normal()

        def near(value, rng=rng):
            return float(value + rng.normal(0, 0.1))

        errors = {way: near(base) for way in demo.WAYS}
        errors |= {f"B={size}{order}": near(base) for size in demo.TEST_BATCHES for order in ("", ", by class")}
        errors |= {demo.WHOLE: near(base + whole), "B=1": 90.0}
        for kind, strength in [("none", 0.0), *((k, s) for k, values in demo.SHIFTS.items() for s in values)]:
            errors[f"{kind} {strength}, source"] = near(base + 20 * (kind != "none"))
            adapted = base + (20 - gain if kind != "none" else harm)
            errors |= {f"{kind} {strength}, n={n}, N={count}": near(adapted) for n, count in counts}
        ratio = (c["m"] - 1) / c["m"] + bias + rng.normal(0, 1e-3)
        runs.append({**c, "errors": errors, "variance_ratio": ratio, "fold_error": fold, "spread_at_one": spread})
        runs[-1]["fold_error_float64"] = 1e-15
        runs[-1] |= {"test_nll": 0.1, "train_nll": 0.01, "chance": 90.0, "diverged": False}
    return runs, settings


NAMES = ["alone", "whole", "contrast", "offset", "noise", "harm", "bias", "fold"]


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, []),
        ({"gain": 0.0}, ["contrast", "offset", "noise"]),
        ({"gain": -5.0}, ["contrast", "offset", "noise"]),
        ({"harm": 0.4}, ["harm"]),
        ({"whole": -0.4}, ["whole"]),
        ({"spread": 1e-6}, []),  # as much as another BLAS makes of equal rows
        ({"spread": 1e-4}, ["alone"]),
        ({"fold": 1e-5}, ["fold"]),
        ({"bias": 0.02}, ["bias"]),
    ],
)
def test_verdicts_follow_the_runs(changes, failing):
    criteria = demo.analyse(*synthetic(**changes)).criteria
    assert [name for name, c in zip(NAMES, criteria, strict=True) if not c.passed] == failing


def test_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.PRESETS["quick"], "epochs", 1)
    assert lab.main([demo.DEMO], ["--seeds", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "test_time" / "summary.json").read_text())
    verdicts = dict(zip(NAMES, (c["passed"] for c in summary["criteria"]), strict=True))
    assert verdicts["alone"] and verdicts["fold"]
    assert len(list((tmp_path / "test_time").glob("*.png"))) == 4
