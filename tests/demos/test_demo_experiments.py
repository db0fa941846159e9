"""The two headline experiments: what they train is what they say, and their verdicts follow planted effects."""

import itertools
import math

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="pip install -e '.[demos]'")

from demos import criteria, datasets, learning_rate, minibatch_noise, training  # noqa: E402
from demos import laboratory as lab  # noqa: E402
from demos.results import Results, matched  # noqa: E402
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

    def fake(model, data, config, rows, watch):
        batch = next(training.batches(minibatch_noise.N, 32, config["seed"]))
        seen["batch"], seen["rows"] = batch, rows(batch)
        seen["weights"] = [m.weight.data for m in model.modules() if isinstance(m, nn.Linear)]
        return {"diverged": True, "chance": 90.0}

    monkeypatch.setattr(minibatch_noise, "train", fake)
    minibatch_noise.run(config(arm="no norm, default init" if "default" in arm else "no norm"))
    reference = dict(seen)
    minibatch_noise.run(config(arm=arm))
    assert np.array_equal(seen["batch"], reference["batch"])
    assert all(np.array_equal(a, b) for a, b in zip(seen["weights"], reference["weights"], strict=True))
    wanted = minibatch_noise.ARMS[arm].get("rows") or 32
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


def test_a_curve_of_fit_has_a_point_per_checkpoint_and_training_does_not_notice():
    one = minibatch_noise.run(config(arm="S=8", steps=40))
    points = training.checkpoints(40, 24)
    assert len(one["fit"]) == len(points) and tuple(one["fit"][-1]) == (one["train_nll"], one["test_nll"])
    data = datasets.load_parts("digits", 0, minibatch_noise.SIZES)
    plain = training.train(minibatch_noise.net("S=8", 64, 10, 0), data, config(arm="S=8", steps=40))
    assert {key: one[key] for key in plain} == plain
    with np.errstate(all="ignore"):
        gone = minibatch_noise.run(config(arm="no norm", lr=1e9, steps=40))
    assert len(gone["fit"]) == len(points) and gone["fit"][-1] == pytest.approx((math.log(10),) * 2)


@pytest.mark.parametrize("size", [8, 600])
def test_the_error_by_own_statistics_is_that_of_groups_of_test_rows(size):
    """Of a net whose norms had no groups, one group after the other by hand; what is left of 1,000 rows is left out."""
    data = datasets.load_parts("digits", 2000, minibatch_noise.SIZES)
    (x, y), model = data["test"], minibatch_noise.net("S=32", 64, 10, 2000)
    training.train(model, data, config(arm="S=32", steps=60))
    by_hand = []
    for rows in np.arange(len(x) // size * size).reshape(-1, size):
        z = x[rows].astype(np.float64)
        for layer in model:
            if isinstance(layer, nn.Linear):
                z = z @ layer.weight.data.T + layer.bias.data
            elif isinstance(layer, training.ChosenBatchNorm):
                z = (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5) * layer.weight.data + layer.bias.data
            else:
                z = np.maximum(z, 0)
        by_hand.extend(z.argmax(axis=1) != y[rows])
    error = training.error_by_own_statistics(model, x, y, size)
    assert error == pytest.approx(100 * np.mean(by_hand), abs=0.11)  # one image of 1,000 may be a tie
    assert all(m.group is None for m in model.modules() if isinstance(m, training.ChosenBatchNorm))


# --- what all rates of an arm say

GAINS = np.array([[0.2, 0.6, 0.99, 1.0, 0.98, 0.5, 0.7, 0.1, 0, 0, 0], [0.0] * 11])


def test_edges_by_hand():
    """Rates 0.001, 0.00316, ...: it learns from the second to the seventh, and is near its best at three."""
    found = learning_rate.edges(GAINS)
    assert found["window"].tolist() == [1.5, 0.0]
    assert found["upper_edge"] == pytest.approx([0.0, math.nan], abs=1e-3, nan_ok=True)  # 1, the seventh; nowhere
    assert found["lower_edge"] == pytest.approx([-2.5, math.nan], abs=1e-3, nan_ok=True)


def test_the_largest_stable_rate_is_that_of_every_seed():
    both = np.array([[0.2, 0.6, 0.6, 0.9, *[0.0] * 7], [0.6, 0.7, 0.6, 0.4, 0.9, *[0.0] * 6]])
    assert learning_rate.largest_stable_lr(both) == 0.01 and learning_rate.largest_stable_lr(GAINS) == 0


def test_sensitivity_and_regret_by_hand():
    loss = np.array([[2.0, 1.0, 0.5, 0.2, 0.5, 1.0, 2.0, 2.3, 2.3, 2.3, 2.3], [2.3] * 11])
    found = learning_rate.sensitivity(loss, np.array([0.1, 0.1]), np.array([True, False]))
    around = (2.0 + 1.0 + 0.5 + 0.2 + 0.5 + 1.0 + 2.0) / 7  # three rates on either side of the best
    assert found["sensitivity"][0] == pytest.approx(around - 0.2) and math.isnan(found["sensitivity"][1])
    assert found["regret"] == pytest.approx([around - 0.1, 2.2])


def test_guesses_are_expectations_over_all_draws():
    """Of two rates drawn from eleven there are 121 pairs; the one that is better on validation data is taken."""
    rng = np.random.default_rng(0)
    error, valid = rng.uniform(size=(1, 11)), rng.uniform(size=(1, 11))
    found = learning_rate.guesses(error, valid)
    for k, name in ((1, "error_of_1_guess"), (2, "error_of_2_guesses"), (4, "error_of_4_guesses")):
        draws = itertools.product(range(11), repeat=k)
        assert found[name][0] == pytest.approx(np.mean([error[0, min(d, key=lambda i: valid[0, i])] for d in draws]))


def test_learning_is_relative_to_what_the_best_arm_of_the_net_gains():
    """At 61 % error of the best arm, as on mnist1d, a net that errs by 70 % has learned."""
    runs, settings = rate_runs(0.0)
    for r in runs:
        r["test_error"] = 90 - 0.4 * (90 - r["test_error"])
    analysis = lab.conclude(learning_rate.DEMO, runs, settings)
    assert all(arm["window"][0] > 0 for arm in analysis.arms)


# --- verdicts


def noise_runs(effect, seeds):
    """Runs of D1 in which error falls by `effect` points from S=N to S=8, plus seed-to-seed scatter."""
    settings = {**minibatch_noise.PRESETS["full"], "seeds": seeds, "dataset": "digits", "preset": "full"}
    place = {"S=4": 0.9, "S=8": 1.0, "S=32": 0.7, "S=128": 0.3, "S=N + ghost noise": 0.8, "S=N + Gaussian noise": 0.6}
    runs = []
    for c in minibatch_noise.plan(settings):
        arm = c["arm"].removesuffix(", default init")
        gain = -1.0 if arm == "no norm" else place.get(arm, 0)
        scatter = np.random.default_rng([c["seed"], len(c["arm"]), int(100 * c["lr"])]).normal(0, 0.3)
        error = 6 + np.random.default_rng(c["seed"]).normal() - effect * gain + scatter
        runs.append({**c, "valid_error": error, "test_error": error, "test_nll": error / 30, "train_nll": 0.01})
        runs[-1] |= {"diverged": False, "chance": 90.0, "fit": [(2.3, 2.3), (0.01, error / 30)]}
        if arm in ("S=4", "S=8", "S=32"):
            runs[-1]["own_error"] = error
    return runs, settings


@pytest.mark.parametrize(("effect", "verdict"), [(1.5, "holds"), (0.0, "undecided"), (-1.5, "refuted")])
def test_verdicts_of_minibatch_noise_follow_the_planted_effect(effect, verdict):
    runs, settings = noise_runs(effect, list(range(20)))
    analysis = lab.conclude(minibatch_noise.DEMO, runs, settings)
    assert [c.verdict for c in analysis.criteria] == [verdict] * 10
    assert analysis.criteria[0].measured == pytest.approx(-effect, abs=0.3)


def test_the_share_of_the_noise_is_what_was_planted():
    """No norm -> S=N gains 1 effect, S=N -> S=32 another 0.7 of it: 0.7 / 1.7 = 41 %."""
    runs, settings = noise_runs(1.5, list(range(20)))
    notes = lab.conclude(minibatch_noise.DEMO, runs, settings).notes
    (note,) = [n for n in notes if n.startswith("of what S=32 gains over no norm, the share that is noise")]
    assert float(note.split(": ")[1].split(" ")[0]) == pytest.approx(0.7 / 1.7, abs=0.1)


def rate_runs(decades, from_below=False):
    """Runs of D2 in which BN's window is `decades` wider than that of the nets without; and begins lower."""
    settings = {**learning_rate.PRESETS["full"], "seeds": list(range(10)), "dataset": "digits", "preset": "full"}
    runs = []
    for c in learning_rate.plan(settings):
        width = 1 + (decades if c["arm"].endswith(" BN") else 0) + 0.5 * (c["seed"] % 2)
        begin = 2 if from_below and not c["arm"].endswith(" BN") else 0
        learns = begin <= learning_rate.LRS.index(c["lr"]) < begin // 2 + 2 * width
        error, nll = (5.0, 0.1) if learns else (90.0, 2.3)
        runs.append({**c, "test_error": error, "valid_error": error, "test_nll": nll, "valid_nll": nll})
        runs[-1] |= {"chance": 90.0, "diverged": False, "rms": [], "train_nll": nll}
    return runs, settings


@pytest.mark.parametrize(("decades", "verdict"), [(1.0, "holds"), (0.0, "undecided"), (-0.5, "refuted")])
def test_verdicts_of_learning_rate_follow_the_planted_effect(decades, verdict):
    runs, settings = rate_runs(decades)
    *claims, fails = lab.conclude(learning_rate.DEMO, runs, settings).criteria
    assert [c.name.split(" of ")[0] for c in claims] == [
        *("window", "window", "upper edge", "lower edge", "regret", "expected error")
    ]
    assert [c.verdict for c in claims] == [*[verdict] * 3, "undecided", *[verdict] * 2]  # all begin at the same rate
    assert all(c.measured == pytest.approx(decades, abs=0.002) for c in claims[:3])
    assert fails.verdict == "holds"  # BN fails at the highest rates, as planted


def test_a_net_that_never_fails_at_high_rates_refutes_that_it_does():
    runs, settings = rate_runs(1.0)
    for r in runs:
        if r["arm"].endswith(" BN"):
            r["test_error"] = 90.0 if r["lr"] < 0.005 else 4.0
    last = lab.conclude(learning_rate.DEMO, runs, settings).criteria[-1]
    assert last.verdict == "refuted" and last.measured > 1  # it errs less than the best rate on validation data


def test_learning_rates_are_chosen_on_validation_data():
    runs, settings = noise_runs(1.5, list(range(20)))
    for r in runs:  # best on validation at lr 1, best on test elsewhere
        r["valid_error"] = 5.0 - (r["lr"] == 1.0)
        r["test_error"] -= 3.0 * (r["lr"] == 3.0)
    analysis = lab.conclude(minibatch_noise.DEMO, runs, settings)
    assert {arm["best_lr"] for arm in analysis.arms} == {1.0, None}  # None: of a single rate


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


# --- what can be missing


def planted(values, metric="test_error"):
    """Results of arms at lr 0.1, {arm: {seed: value}}."""
    return Results([{"arm": a, "seed": s, "lr": 0.1, metric: v} for a, of in values.items() for s, v in of.items()], {})


def test_pairs_of_other_seeds_are_refused():
    results = planted({"a": dict.fromkeys(range(6), 1.0), "b": dict.fromkeys(range(1, 7), 2.0)})
    with pytest.raises(ValueError, match=r"every seed must have one run of 'a' at 0\.1 with"):
        criteria.judge([lab.Less("a", "b", at=0.1)], results)


def test_a_metric_that_is_not_defined_in_a_seed_leaves_a_claim_undecided():
    results = planted({arm: {s: math.nan if s == 3 else float(s) for s in range(8)} for arm in "abc"})
    claims = [
        *(kind("a", "b", at=0.1) for kind in (lab.Less, lab.More)),
        lab.Equivalent("a", "b", 0.5, at=0.1),
        lab.Trend({"a": 1, "b": 2, "c": 3}, at=0.1),
        lab.Below("a", "test_error", 3.0, at=0.1),
    ]
    for outcome in criteria.judge(claims, results):
        assert outcome.verdict == "undecided" and outcome.note.startswith("not defined in 1 of 8 seeds")
    (note,) = criteria.describe([lab.Share(("a", "b"), ("a", "c"), at=0.1)], results)
    assert "not defined in 1 of 8 seeds" in note


def test_a_claim_that_asks_for_what_there_is_not_is_left_out():
    results = planted({"a": dict.fromkeys(range(8), 1.0), "b": dict.fromkeys(range(8), 2.0)})
    for claim in (
        lab.Less("a", "b"),  # the best of one rate
        lab.Less("a", "b", at=None),  # the error has a rate
        lab.Less("a", "b", at=0.3),
        lab.Less("a", "c", at=0.1),
        lab.Less("a", "b", "valid_error", at=0.1),
        lab.Matched("a", "b", at=0.1),  # no curves
        lab.Below("a", "test_error", 3.0),
    ):
        assert not claim.available(results) and criteria.judge([claim], results) == []


def test_a_net_whose_arms_all_guess_has_learned_nothing():
    runs, settings = rate_runs(0.0)
    rng = np.random.default_rng(0)
    for r in runs:
        if r["depth"] == 8 and r["activation"] == "sigmoid":
            r |= {"test_error": 90 + rng.normal(0, 1), "valid_error": 90.0}
    arms = {arm["arm"]: arm for arm in lab.conclude(learning_rate.DEMO, runs, settings).arms}
    assert not any(arms["8 sigmoid BN"]["window"]) and all(arms["3 sigmoid BN"]["window"])
    assert np.isnan(arms["8 sigmoid none"]["upper_edge"]).all()


def test_a_best_rate_is_one_at_which_something_was_learned_relative_to_the_best_arm():
    """At 61 % error of the best arm there are best rates; at 90 % there are none."""
    runs, settings = noise_runs(1.5, list(range(20)))
    for r in runs:
        r["test_error"] = 90.0 if r["arm"] == "no norm" else r["test_error"] + 55
    arms = {arm["arm"]: arm["best_lr"] for arm in lab.conclude(minibatch_noise.DEMO, runs, settings).arms}
    assert arms["no norm"] is None and arms["S=8"] is not None


def test_matched_curves_by_hand():
    a, b = [(2.0, 5.0), (1.0, 4.0), (0.25, 3.0)], [(2.0, 5.0), (0.5, 7.0)]
    assert matched(a, b) == pytest.approx((3.5, 7.0))  # 0.5 is half way from 1 to 0.25, in logarithms
    assert matched(a, a) == (3.0, 3.0)
