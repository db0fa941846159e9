"""D7, one formula with four index sets: its exact facts, and verdicts that follow planted effects."""

import json

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

from demos import laboratory as lab  # noqa: E402
from demos import norm_family, training  # noqa: E402
from tinygrad_bn import nn  # noqa: E402


@pytest.mark.parametrize("seed", range(3))
def test_every_norm_equals_the_oracle(seed):
    assert max(norm_family.deviations_from_oracle(seed).values()) < 1e-12


@pytest.mark.parametrize("norm", norm_family.INDEX_SETS)
def test_the_oracle_notices_another_index_set(norm, monkeypatch):
    for other, function in norm_family.FUNCTIONS.items():
        if other != norm:
            monkeypatch.setitem(norm_family.FUNCTIONS, norm, function)
            assert norm_family.deviations_from_oracle(0)[norm] > 0.01, other


def test_the_oracle_against_loops():
    """Sets written out as loops over n and c; the gradient against finite differences."""
    rng = np.random.default_rng(0)
    x, dy, eps = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3)), 1e-3
    labels = np.broadcast_to(np.array([[0, 0, 1, 1], [2, 2, 3, 3]])[:, :, None], x.shape)  # group norm, two groups
    expected = np.empty_like(x)
    for n in range(2):
        for group in (slice(0, 2), slice(2, 4)):
            part = x[n, group]
            expected[n, group] = (part - part.mean()) / np.sqrt(part.var() + eps)
    y, dx = norm_family.oracle(x, dy, labels, 1.0, 0.0, eps)
    np.testing.assert_allclose(y, expected, atol=1e-14)
    h, step = 1e-6, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step[...] = 0
        step[i] = h
        up, down = (norm_family.oracle(x + s, dy, labels, 1.0, 0.0, eps)[0] for s in (step, -step))
        assert dx[i] == pytest.approx(((up - down) * dy).sum() / (2 * h), abs=1e-6)


def test_two_values_become_minus_one_and_one_and_pass_no_gradient_back():
    for seed in range(20):
        assert max(norm_family.two_rows(seed)) < 1e-11
    one, gradient = norm_family.two_rows(0, rows=3)  # three values are not, and do
    assert one > 0.1 and gradient > 0.1


def test_one_value_becomes_beta_and_batch_norm_refuses_it():
    assert norm_family.one_value(0) == (0.0, True)


def test_effective_values_are_m_in_an_mlp_and_more_in_a_cnn():
    x, _ = norm_family.load_images("digits", 0)["train"]
    np.testing.assert_allclose(norm_family.effective_values(norm_family.net("MLP BN", 8, 10, 0), x, 4), 4, rtol=1e-6)
    first, second = norm_family.effective_values(norm_family.net("CNN BN", 8, 10, 0), x, 4)
    assert min(first, second) > 16
    assert norm_family.effective_values(norm_family.net("CNN LN", 8, 10, 0), x, 4) == []


def test_arms_differ_in_the_norm_alone():
    for kind in ("CNN", "MLP"):
        nets = [norm_family.net(arm, 8, 10, 3) for arm in norm_family.LAYERS if arm.startswith(kind)]
        weights = [[p.data for p in net.parameters() if p.ndim > 1] for net in nets]
        for other in weights[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(weights[0], other, strict=True))


def test_population_statistics_of_the_librarys_norms():
    """measure() leaves the statistics of the whole training set behind, not a moving average."""
    data = norm_family.load_images("digits", 0)
    x, _ = data["train"]
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    training.measure(model, data, True)
    rows = x.reshape(len(x), -1)
    np.testing.assert_allclose(model[1].running_mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model[1].running_var, rows.var(axis=0, ddof=1), rtol=1e-4, atol=1e-6)


def test_images_must_be_square(tmp_path):
    assert training.as_images(np.zeros((3, 16))).shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match="square"):
        training.as_images(np.zeros((3, 15)))
    np.savez(tmp_path / "small.npz", x=np.random.default_rng(0).normal(size=(1700, 16)), y=np.arange(1700) % 2)
    with pytest.raises(ValueError, match="8x8"):
        norm_family.load_images(f"npz:{tmp_path / 'small.npz'}", 0)


def planted(gap, rise, seeds, preset="full", left=0.0):
    """Runs in which batch norm errs `gap` points more at m = 2, and layer norm `rise` points more at m = 64, of which
    `left` remain with as many steps as at m = 2."""
    settings = {**norm_family.PRESETS[preset], "seeds": seeds, "dataset": "digits", "preset": preset}
    runs = []
    for c in norm_family.plan(settings):
        if c["arm"] == norm_family.FACTS:
            runs.append({**c, **norm_family.exact_facts(c["seed"])})
            continue
        error = 4 + np.random.default_rng([c["seed"], c["m"]]).normal(0, 0.2) + 3 * abs(c["lr"] - 0.1)
        error += gap * (c["arm"].endswith("BN") and c["m"] == 2) + rise * (c["arm"].endswith("LN") and c["m"] == 64)
        error += left * c["arm"].endswith("LN, longer")
        runs.append({**c, "valid_error": error, "test_error": error, "test_nll": error / 30, "train_nll": 0.01})
        runs[-1] |= {"diverged": False, "chance": 90.0, "values": [2.0 * c["m"]] if c["arm"].endswith("BN") else []}
    return runs, settings


@pytest.mark.parametrize(
    ("gap", "rise", "verdicts"), [(8, 0, (True, True)), (4, 2, (False, False)), (-8, 0, (False, True))]
)
def test_verdicts_follow_the_planted_effect(gap, rise, verdicts):
    runs, settings = planted(gap, rise, list(range(10)))
    analysis = norm_family.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria[:4]] == [verdicts[0]] * 2 + [verdicts[1]] * 2
    assert analysis.criteria[0].measured == pytest.approx(gap, abs=0.3)
    assert all(c.passed for c in analysis.criteria[4:])


def test_longer_training_differs_in_its_steps_alone():
    settings = {**norm_family.PRESETS["full"], "seeds": [2000], "dataset": "digits"}
    plan = norm_family.plan(settings)
    longer = [c for c in plan if c["arm"].endswith(", longer")]
    assert len(longer) == 9 and {c["steps"] for c in longer} == {4000} == {c["steps"] for c in plan if c.get("m") == 2}
    for c in longer:
        assert {**c, "arm": c["arm"].removesuffix(", longer"), "steps": 125} in plan
        model, same = (norm_family.net(arm, 8, 10, 0) for arm in (c["arm"], c["arm"].removesuffix(", longer")))
        assert str(model) == str(same)


@pytest.mark.parametrize(("left", "back"), [(0.0, True), (2.0, False)])
def test_the_note_says_whether_longer_training_brings_the_error_back(left, back):
    runs, settings = planted(8, 2, list(range(10)), left=left)
    analysis = norm_family.analyse(runs, settings)
    assert not analysis.criteria[2].passed and len(analysis.criteria) == 8  # no criterion, and it mends none
    (note,) = [note for note in analysis.notes if note.startswith("CNN LN, m = 64 with the 4000 steps of m = 2")]
    from_small, from_large = note.split("; ")
    words = "equivalent within 1" if back else "not shown to be equivalent within 1"
    assert f"points, {words} (TOST" in from_small
    assert f"with 125 steps: {left - 2:+.2f} [" in from_large
    assert [row[0] for row in analysis.table[-3:]] == [f"{arm}, longer" for arm in ("CNN BN", "CNN LN", "MLP LN")]


def test_a_gap_that_is_surely_too_small_has_a_large_p():
    """The claim is one-sided: far below 5 points is no evidence for more than 5."""
    runs, settings = planted(1, 0, list(range(10)))
    for criterion in norm_family.analyse(runs, settings).criteria[:2]:
        assert criterion.ci[1] < 5 and not criterion.passed
        assert criterion.note.endswith("Holm p 1; one-sided, against 5 points or less")


def test_learning_rates_are_chosen_on_validation_data():
    runs, settings = planted(8, 0, list(range(10)))
    for r in runs:
        if r["arm"] != norm_family.FACTS:
            r["test_error"] = 50.0 + 10 * r["lr"]  # best on test at the lowest rate
    assert {key[2] for key in norm_family.at_best_lr(runs, settings).values()} == {0.1}
    assert all("51.00" in row[3] for row in norm_family.analyse(runs, settings).table[1:])


def test_a_broken_fact_fails():
    runs, settings = planted(8, 0, [0, 1])
    runs[1]["beta"], runs[0]["oracle"]["GN"] = 0.1, 0.2
    passed = [c.passed for c in norm_family.analyse(runs, settings).criteria[4:]]
    assert passed == [False, True, True, False]


def test_end_to_end(tmp_path, monkeypatch):
    tiny = {**norm_family.PRESETS["quick"], "images": 160, "batches": [2, 8], "lrs": [0.1]}
    monkeypatch.setitem(norm_family.DEMO.presets, "quick", tiny)
    assert lab.main([norm_family.DEMO], ["--seeds", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "norm_family" / "summary.json").read_text())
    assert len(summary["criteria"]) == 8 and len(summary["arms"]) == 8
    assert all(
        (tmp_path / "norm_family" / f"{name}.png").exists() for name in ("error_against_batch_size", "index_sets")
    )
