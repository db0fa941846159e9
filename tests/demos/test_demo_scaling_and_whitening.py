"""D8, scaling and whitening: identities, the steps of descent, and verdicts that follow planted effects."""

import json

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

from demos import laboratory as lab  # noqa: E402
from demos import scaling_and_whitening as demo  # noqa: E402
from tinygrad_bn import preprocessing  # noqa: E402


@pytest.fixture(scope="module")
def facts():
    return demo.identities({"seed": 0, "dataset": "digits"})


def test_identities(facts):
    assert facts["covariance"] < 1e-9 and facts["rotation"] < 1e-9
    assert facts["zca_distance"] < facts["next_distance"]
    assert facts["restored"] < 1e-12
    assert facts["without_eps"] > 1e-6 and facts["batch_noise"] > 0.1  # each is what the others are measured against


def test_identities_notice_what_is_no_whitening(monkeypatch):
    full_rank = np.random.default_rng(0).normal(size=(500, 16))
    monkeypatch.setattr(demo, "load_parts", lambda dataset, seed, sizes: {"train": (full_rank, None)})
    monkeypatch.setattr(preprocessing, "ZCAWhitening", preprocessing.PCAWhitening)
    broken = demo.identities({"seed": 0, "dataset": "digits"})
    assert broken["rotation"] > 0.1 and broken["zca_distance"] >= broken["next_distance"]

    class Scaled(preprocessing.PCAWhitening):
        def _transform(self, x):
            return 1.01 * super()._transform(x)

    monkeypatch.setattr(preprocessing, "PCAWhitening", Scaled)
    assert demo.identities({"seed": 0, "dataset": "digits"})["covariance"] > 0.01


@pytest.mark.parametrize("frame", ["scales", "rotated"])
def test_problems_have_the_condition_they_say(frame):
    x, y = demo.problem(frame, 100, 0)
    assert demo.condition_number(x) == pytest.approx(100, rel=0.4)  # of a sample
    assert set(y) == {0, 1}
    correlation = np.abs(np.corrcoef(x.T) - np.eye(16)).max()
    assert (correlation > 0.3) == (frame == "rotated")


def test_both_frames_hold_the_same_problem():
    (a, y), (b, same) = demo.problem("scales", 100, 3), demo.problem("rotated", 100, 3)
    assert np.array_equal(y, same)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))


def test_the_lowest_loss_is_where_the_gradient_vanishes():
    x, y = demo.problem("scales", 10, 0)
    best = demo.lowest_loss(x, y)
    assert best == pytest.approx(demo.lowest_loss(3 * x + 1, y), abs=1e-12)  # an affine map changes nothing
    _, reached, model = demo.descend(x, y, best + 1e-9, 5000)
    assert reached and 0 < best < np.log(2)
    assert not demo.descend(x, y, best - 1e-9, 300)[1]
    assert model.weight.shape == (2, 16)


def test_descent_takes_the_rate_that_theory_promises():
    """A falling loss at 1 / L; twice the largest curvature anywhere would not be guaranteed."""
    x, y = demo.problem("rotated", 10, 1)
    losses = []
    target = demo.lowest_loss(x, y)
    for most in range(6):
        model = demo.descend(x, y, target, most)[2]
        logits = x @ model.weight.data.T + model.bias.data
        losses.append(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]))
    assert losses[0] == pytest.approx(np.log(2)) and np.all(np.diff(losses) < 0)


def test_gradient_descent_does_not_see_a_rotation():
    common = {"part": "descent", "frame": "rotated", "condition": 100, "seed": 0, "dataset": "digits", "steps": 3000}
    taken = {name: demo.run({"arm": name, **common})["taken"] for name in ("raw", "standardized", "PCA", "ZCA")}
    assert taken["PCA"] == taken["ZCA"] < taken["standardized"] < taken["raw"]


def test_pca_swaps_axes_and_zca_does_not():
    x = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    assert demo.axis_agreement("zca", x, 0) > 0.8 > 0.5 > demo.axis_agreement("pca", x, 0)


def test_descent_takes_a_step_even_where_none_is_needed():
    """So that the ratio of two numbers of steps exists."""
    x, y = demo.problem("scales", 1, 0)
    assert demo.descend(x, y, 1.0, 100)[:2] == (1, True)


def test_slope_of_a_power_law():
    d = np.array([8, 16, 64])
    np.testing.assert_allclose(demo.slope(d, np.stack([3 * d**1.5, 0.1 * d**-0.5])), [1.5, -0.5])


def planted(gain, powers, seeds):
    """Runs in which raw inputs need `gain` times the steps, and times per element grow as d^power."""
    settings = {**demo.PRESETS["full"], "seeds": seeds, "dataset": "digits", "preset": "full"}
    exact = demo.identities({"seed": 0, "dataset": "digits"})
    runs = []
    for c in demo.plan(settings):
        noise = np.exp(np.random.default_rng([c["seed"], len(c["arm"])]).normal(0, 0.05))
        if c["part"] == "descent":
            taken = int(1000 * noise * (gain if c["arm"] == "raw" else 1))
            runs.append({**c, "taken": taken, "reached": True, "input_condition": 10.0})
            runs[-1] |= {"test_error": 5.0} if c["frame"] == "dataset" else {}
        elif c["part"] == "net":
            error = 5 * noise + abs(c["lr"] - 0.3)
            runs.append({**c, "valid_error": error, "test_error": error, "test_nll": 0.1, "train_nll": 0.1})
            runs[-1] |= {"diverged": False, "chance": 90.0}
            runs[-1] |= {"agreement": 0.5, "error_with_batch_statistics": 5.0} if "per batch" in c["arm"] else {}
        elif c["part"] == "times":
            runs.append({**c, **{k: [noise * d**p for d in c["widths"]] for k, p in powers.items()}})
        else:
            runs.append({**c, **exact})
    return runs, settings


@pytest.mark.parametrize(
    ("gain", "powers", "verdict"),
    [
        (5.0, {"BN": 0.0, "ZCA": 1.2}, True),
        (1.0, {"BN": 0.5, "ZCA": 0.1}, False),
        (0.2, {"BN": 1.0, "ZCA": 0.0}, False),
    ],
)
def test_verdicts_follow_the_planted_effect(gain, powers, verdict):
    runs, settings = planted(gain, powers, list(range(8)))
    analysis = demo.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria] == [True] * 4 + [verdict] * 5
    assert all(c.measured == pytest.approx(gain, rel=0.1) for c in analysis.criteria[4:7])
    assert [c.measured for c in analysis.criteria[7:]] == pytest.approx(list(powers.values()))
    assert all(("Holm p" in c.note) == (i >= 4) for i, c in enumerate(analysis.criteria))
    assert {arm["best_lr"] for arm in analysis.arms if "best_lr" in arm} == {0.3}


def test_a_ratio_of_steps_is_one_of_steps():
    """73, not 67 as of steps + 1."""
    runs, settings = planted(1.0, {"BN": 0.0, "ZCA": 1.2}, [0, 1, 2])
    for r in runs:
        if r["part"] == "descent":
            r["taken"] = 657 if r["arm"] == "raw" else 9
    criteria = demo.analyse(runs, settings).criteria[4:7]
    assert [c.measured for c in criteria] == pytest.approx([73.0] * 3)
    assert all(c.ci == pytest.approx((73.0, 73.0)) for c in criteria)


def test_rotations_that_take_other_steps_are_counted():
    runs, settings = planted(5.0, {"BN": 0.0, "ZCA": 1.2}, [0, 1])
    for r in runs:
        if r["part"] == "descent":
            r["taken"] = 10
    runs[3]["taken"] += 1  # PCA
    (note,) = [note for note in demo.analyse(runs, settings).notes if note.startswith("(a) PCA and ZCA")]
    assert runs[3]["arm"] == "PCA" and note.endswith("in 17 of 18 pairs of runs")


def test_broken_identities_fail_and_late_runs_are_named():
    runs, settings = planted(5.0, {"BN": 0.0, "ZCA": 1.2}, [0, 1])
    one = next(r for r in runs if r["part"] == "identities")
    one |= {"covariance": 1e-3, "rotation": 1e-3, "restored": 1e-3, "zca_distance": 9.0}
    for r in runs:
        r["reached"] = r["arm"] != "raw"
    criteria = demo.analyse(runs, settings).criteria
    assert [c.passed for c in criteria[:4]] == [False] * 4
    assert all("2 raw runs did not get there" in c.note for c in criteria[4:7])


def test_end_to_end(tmp_path, monkeypatch):
    tiny = {**demo.PRESETS["quick"], "conditions": [1, 10], "descent_steps": 20, "steps": 5, "widths": [8, 16]}
    monkeypatch.setitem(demo.DEMO.presets, "quick", tiny)
    assert lab.main([demo.DEMO], ["--seeds", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / demo.DEMO.name / "summary.json").read_text())
    assert len(summary["criteria"]) == 9 and all(c["passed"] for c in summary["criteria"][:4])
    names = ("steps_against_condition", "five_inputs", "cost_against_features")
    assert all((tmp_path / demo.DEMO.name / f"{name}.png").exists() for name in names)
