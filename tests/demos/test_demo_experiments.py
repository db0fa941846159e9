"""The two headline experiments: what they train is what they say, and their verdicts follow planted effects."""

import itertools
import math

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="pip install -e '.[demos]'")

from demos import datasets, learning_rate, minibatch_noise, training  # noqa: E402
from tinygrad_bn import Tensor, manual_seed, nn  # noqa: E402


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def standardized(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def test_ghost_batches_are_normalized_group_by_group():
    norm, x = training.ChosenBatchNorm(5, 8, None, 0, 0), normal(32, 5)
    expected = np.concatenate([standardized(x[i : i + 8]) for i in range(0, 32, 8)])
    np.testing.assert_allclose(norm(Tensor(x)).data, expected, atol=1e-5)


def test_extra_rows_take_part_in_the_statistics():
    norm, x = training.ChosenBatchNorm(5, None, None, 0, 0), normal(100, 5)
    np.testing.assert_allclose(norm(Tensor(x)).data, standardized(x), atol=1e-5)


def test_noise_has_the_spread_of_a_mean_and_a_deviation_of_s_values():
    norm, s = training.ChosenBatchNorm(500, None, "gaussian", 8, 0), 8
    shift, scale = norm._noise(normal(40, 500))
    assert np.array_equal(shift[:s], np.repeat(shift[:1], s, axis=0))  # one draw per group of 8 rows
    assert shift[::s].std() == pytest.approx(1 / math.sqrt(s), rel=0.05)
    assert scale[::s].std() == pytest.approx(1 / math.sqrt(2 * s), rel=0.05)
    assert scale[::s].mean() == pytest.approx(1, abs=0.03)
    ghost = training.ChosenBatchNorm(500, None, "ghost", 8, 0)
    shift, scale = ghost._noise(normal(40, 500))
    assert shift[::s].std() == pytest.approx(1 / math.sqrt(s), rel=0.05)
    assert np.median(scale[::s]) > 1  # the deviation of 8 values is mostly below 1


def test_noise_is_left_out_in_eval():
    norm = training.ChosenBatchNorm(3, None, "gaussian", 8, 0)
    norm.eval()
    x = normal(4, 3)
    np.testing.assert_allclose(norm(Tensor(x)).data, x, atol=1e-4)  # mean 0 and variance 1 before any is taken


def test_noisy_affine_gradients():
    from tinygrad_bn import gradcheck, tensor

    rng = np.random.default_rng(0)
    shift, scale = rng.standard_normal((2, 4, 3))
    inputs = [tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((4, 3), (3,), (3,))]
    assert gradcheck(lambda x, w, b: training.noisy_affine(x, w, b, shift=shift, scale=scale), inputs)


def test_population_statistics_are_those_of_the_whole_training_set():
    x = normal(200, 4)
    norms = [training.ChosenBatchNorm(4, None, "ghost", 8, 0, i) for i in range(2)]
    training.take_population_statistics(nn.Sequential(norms[0], nn.Dropout(0.5), norms[1]), x)
    for norm, rows in zip(norms, (x, standardized(x)), strict=True):
        np.testing.assert_allclose(norm.mean, rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(norm.var, rows.var(axis=0, ddof=1), rtol=1e-5)


def test_statistics_are_taken_once(monkeypatch):
    """Of the library's norms as of ours: one pass over the training set."""
    passes, real = [], nn.BatchNorm1d.forward
    monkeypatch.setattr(nn.BatchNorm1d, "forward", lambda norm, x: passes.append(len(x)) or real(norm, x))
    data = {"train": (normal(50, 4), np.arange(50) % 3), "test": (normal(20, 4), np.arange(20) % 3)}
    training.measure(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), data, True)
    assert passes == [50, 50, 20]  # the statistics, then the error of each part


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
def test_initializations_have_the_spread_they_name(shape):
    fan_in, fan_out = shape
    manual_seed(0)
    layers = [training.he_linear(*shape), *(training.glorot_linear(*shape, a) for a in ("relu", "sigmoid"))]
    glorot = math.sqrt(2 / (fan_in + fan_out))
    for layer, std in zip(layers, (math.sqrt(2 / fan_in), glorot, 4 * glorot), strict=True):
        assert layer.weight.shape == (fan_out, fan_in) and not layer.bias.data.any()
        assert layer.weight.data.std() == pytest.approx(std, rel=0.01)


def config(**changes):
    return {"arm": "S=8", "seed": 0, "lr": 0.1, "dataset": "digits", "steps": 5, "m": 32, "drop_at": 0.75} | changes


@pytest.mark.parametrize("arm", minibatch_noise.ARMS)
def test_arms_differ_in_the_mechanism_alone(arm, monkeypatch):
    """Batches and initial weights are equal in every arm; the statistics have the rows that the arm's name says."""
    seen = {}

    def fake(model, data, config, rows):
        batch = next(training.batches(minibatch_noise.N, 32, config["seed"]))
        seen["batch"], seen["rows"] = batch, rows(batch)
        seen["weights"] = [m.weight.data for m in model.modules() if isinstance(m, nn.Linear)]
        return {}

    monkeypatch.setattr(minibatch_noise, "train", fake)
    minibatch_noise.run(config(arm="no norm"))
    reference = dict(seen)
    minibatch_noise.run(config(arm=arm))
    assert np.array_equal(seen["batch"], reference["batch"])
    assert all(np.array_equal(a, b) for a, b in zip(seen["weights"], reference["weights"], strict=True))
    wanted = minibatch_noise.ARMS[arm][0] or 32
    assert len(seen["rows"]) == len(set(seen["rows"])) == max(32, wanted)
    assert np.array_equal(seen["rows"][:32], seen["batch"])


def test_the_loss_is_taken_over_the_batch_alone():
    """Other labels on the rows that only take part in the statistics give the same gradients."""
    data = datasets.load_parts("digits", 0, minibatch_noise.SIZES)
    x, y = data["train"]
    batch = next(training.batches(500, 32, 0))
    others = np.setdiff1d(np.arange(500), batch)
    gradients = []
    for change in ([], others, batch):  # the last shows that labels of the batch do matter
        labels = y.copy()
        labels[change] = (labels[change] + 1) % 10
        model = minibatch_noise.net("S=N", 64, 10, 0)
        parts = {**data, "train": (x, labels)}
        training.train(model, parts, config(steps=1), lambda batch: np.concatenate([batch, others]))
        gradients.append(next(model.parameters()).grad)
    assert np.array_equal(gradients[0], gradients[1])
    assert not np.array_equal(gradients[0], gradients[2])


def test_an_npz_of_float64_is_trained_end_to_end(tmp_path):
    """Two clusters far apart: every arm learns them, whatever dtype the file has."""
    rng = np.random.default_rng(0)
    y = np.arange(1900) % 2
    np.savez(tmp_path / "two.npz", x=rng.normal(3.0 * y[:, None], 1.0, (1900, 5)), y=y)
    spec = f"npz:{tmp_path / 'two.npz'}"
    result = minibatch_noise.run(config(dataset=spec, steps=60))
    assert result["test_error"] < 5 and not result["diverged"]
    settings = {**learning_rate.PRESETS["quick"], "seeds": [0], "dataset": spec, "preset": "quick"}
    chosen = next(c for c in learning_rate.plan(settings) if c["lr"] == 0.1 and c["norm"] == "BN")
    assert learning_rate.run({**chosen, "steps": 60})["test_error"] < 5


def test_a_diverged_run_counts_as_chance():
    with np.errstate(all="ignore"):
        result = minibatch_noise.run(config(arm="no norm", lr=1e9, steps=20))
    assert result["diverged"] and result["test_error"] == 90 and result["test_nll"] == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("curve", "width"),
    [
        ([90, 50, 5, 4, 6, 90], 1.5),  # three rates within 2 points of the best
        ([90, 90, 3, 90, 90, 90], 0.5),
        ([90, 89, 91, 90, 90, 90], 0.0),  # never learned
    ],
)
def test_window(curve, width):
    assert learning_rate.window(np.array(curve, float), 90.0) == width


@pytest.mark.parametrize(
    ("curve", "gap"),
    [([90, 5, 5, 90], False), ([90, 5, 9, 5, 90], True), ([5, 90, 90, 90], False), ([90, 80, 90, 80], False)],
)
def test_a_window_with_a_gap_is_noticed(curve, gap):
    assert learning_rate.has_gap(np.array(curve, float), chance=90.0) == gap


def test_of_two_classes_half_wrong_is_chance():
    assert learning_rate.window(np.full(11, 50.0), 50.0) == 0.0
    assert learning_rate.window(np.array([50, 20, 19, 50.0]), 50.0) == 1.0


def test_failing_at_low_rates_is_no_limit_from_above():
    low = np.array([[90, 90, 90, 4, 4, 4, 4, 4, 4, 4, 4.0]])
    assert learning_rate.highest_error_above_best(low) == 4
    assert learning_rate.highest_error_above_best(low[:, ::-1]) == 90


def noise_runs(effect, seeds):
    """Runs of D1 in which error falls by `effect` points from S=N to S=8, plus seed-to-seed scatter."""
    settings = {**minibatch_noise.PRESETS["full"], "seeds": seeds, "dataset": "digits", "preset": "full"}
    place = {"S=4": 0.9, "S=8": 1.0, "S=32": 0.7, "S=128": 0.3, "S=N + ghost noise": 0.8, "S=N + Gaussian noise": 0.6}
    runs = []
    for c in minibatch_noise.plan(settings):
        scatter = np.random.default_rng([c["seed"], len(c["arm"]), int(100 * c["lr"])]).normal(0, 0.3)
        error = 6 + np.random.default_rng(c["seed"]).normal() - effect * place.get(c["arm"], 0) + scatter
        runs.append({**c, "valid_error": error, "test_error": error, "test_nll": error / 30, "train_nll": 0.01})
        runs[-1] |= {"diverged": False, "chance": 90.0}
    return runs, settings


@pytest.mark.parametrize(("effect", "verdict"), [(1.5, True), (0.0, False), (-1.5, False)])
def test_verdicts_of_minibatch_noise_follow_the_planted_effect(effect, verdict):
    runs, settings = noise_runs(effect, list(range(20)))
    analysis = minibatch_noise.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria] == [verdict] * 4
    assert analysis.criteria[0].measured == pytest.approx(-effect, abs=0.3)


def rate_runs(decades):
    """Runs of D2 in which BN's window is `decades` wider than that of the nets without."""
    settings = {**learning_rate.PRESETS["full"], "seeds": list(range(10)), "dataset": "digits", "preset": "full"}
    runs = []
    for c in learning_rate.plan(settings):
        width = 1 + (decades if c["norm"] == "BN" else 0) + 0.5 * (c["seed"] % 2)
        error = 5.0 if learning_rate.LRS.index(c["lr"]) < 2 * width else 90.0
        runs.append({**c, "test_error": error, "valid_error": error, "test_nll": 0.1, "train_nll": 0.1})
        runs[-1] |= {"chance": 90.0, "diverged": False, "rms": []}
    return runs, settings


@pytest.mark.parametrize(("decades", "verdict"), [(1.0, True), (0.0, False), (-0.5, False)])
def test_verdicts_of_learning_rate_follow_the_planted_effect(decades, verdict):
    runs, settings = rate_runs(decades)
    analysis = learning_rate.analyse(runs, settings)
    windows = [c for c in analysis.criteria if c.name.startswith("window")]
    assert [c.passed for c in windows] == [verdict] * 6
    assert all(c.measured == pytest.approx(decades) for c in windows)
    assert analysis.criteria[-1].passed  # BN fails at the highest rates, as planted


def test_a_net_that_never_fails_at_high_rates_is_reported_as_a_fail():
    runs, settings = rate_runs(1.0)
    for r in runs:
        if r["norm"] == "BN" and r["depth"] == 3:
            r["test_error"] = 90.0 if r["lr"] < 0.005 else 4.0
    last = learning_rate.analyse(runs, settings).criteria[-1]
    assert not last.passed and last.measured == 4


def test_learning_rates_and_noise_arms_are_chosen_on_validation_data():
    runs, settings = noise_runs(1.5, list(range(20)))
    for r in runs:  # best on validation at lr 1 and with Gaussian noise, best on test elsewhere
        r["valid_error"] = 5.0 - (r["lr"] == 1.0) - (r["arm"] == "S=N + Gaussian noise")
        r["test_error"] -= 3.0 * (r["lr"] == 3.0) + 0.5 * (r["arm"] == "S=N + ghost noise")
    analysis = minibatch_noise.analyse(runs, settings)
    assert {arm["best_lr"] for arm in analysis.arms} == {1.0}
    assert "Gaussian" in analysis.criteria[-1].name


def test_noise_is_independent_from_seed_to_seed_and_layer_to_layer():
    drawn = {}
    for seed in (7, 8):
        norms = [m for m in minibatch_noise.net("S=N + Gaussian noise", 64, 10, seed).modules()]
        norms = [m for m in norms if isinstance(m, training.ChosenBatchNorm)]
        for layer, norm in enumerate(norms):
            drawn[seed, layer] = norm._noise(np.zeros((8, 100), np.float32))[0]
    assert len(drawn) == 6
    for a, b in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(drawn[a][0], drawn[b][0])[0, 1]) < 0.5, (a, b)


def test_chance_follows_the_number_of_classes(tmp_path):
    """Labels 3 and 40 are two classes, not 41."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", x=rng.normal(size=(1900, 5)), y=np.where(np.arange(1900) % 2, 3, 40))
    with np.errstate(all="ignore"):
        result = minibatch_noise.run(config(arm="no norm", dataset=f"npz:{tmp_path / 'two.npz'}", lr=1e9, steps=20))
    assert result["diverged"] and result["chance"] == result["test_error"] == 50


def test_no_two_purposes_share_random_numbers():
    """Initial weights (manual_seed), batches, extra rows, noise of each layer; of seed 3 and of its neighbours."""
    purposes = [(p, layer) for p in (training.BATCHES, training.EXTRA_ROWS, training.NOISE) for layer in range(3)]
    draws = [training.stream(seed, *purpose).random() for seed in (2, 3, 4) for purpose in purposes]
    for seed in (2, 3, 4):
        draws.append(manual_seed(seed).random())
    assert len(set(draws)) == len(draws)
    with pytest.raises(ValueError, match="purpose"):
        training.stream(3, 0)
