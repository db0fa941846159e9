"""D9, sharpness: exact curvature, what counts as the last quarter, and verdicts that follow planted effects."""

import json
import math

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

from demos import laboratory as lab  # noqa: E402
from demos import learning_rate  # noqa: E402
from demos import sharpness as demo  # noqa: E402
from tinygrad_bn import Tensor, tensor  # noqa: E402


@pytest.mark.parametrize("seed", range(3))
def test_the_hessian_through_batch_norm_is_exact(seed):
    deviation = demo.exact(seed)
    assert deviation["hessian"] < 1e-7 and deviation["eigenvalue"] < 1e-5


def test_another_matrix_is_noticed(monkeypatch):
    right = demo.hessian_vector_product

    def without_a_parameter(loss, parameters):
        product = right(loss, parameters)
        return lambda v: product(np.concatenate([v[:20], 0 * v[20:]]))  # treats the later parameters as constants

    monkeypatch.setattr(demo, "hessian_vector_product", without_a_parameter)
    assert demo.exact(0)["hessian"] > 0.01


def test_hessian_vector_product_of_a_quadratic():
    """loss = x^T A x / 2 + (b x)^2 over two parameters: the Hessian is known, off-diagonal blocks and all."""
    x, b = tensor([1.0, -2.0], dtype="float64", requires_grad=True), tensor([3.0], dtype="float64", requires_grad=True)
    a = np.array([[2.0, 1.0], [1.0, -3.0]])
    product = demo.hessian_vector_product((x @ (Tensor(a) @ x)) * 0.5 + (b * b).sum() * (x * x).sum(), [x, b])
    square = np.array([1.0, -2.0])
    known = np.zeros((3, 3))
    known[:2, :2] = a + 2 * 9 * np.eye(2)
    known[2, 2] = 2 * (square**2).sum()
    known[:2, 2] = known[2, :2] = 4 * 3 * square
    np.testing.assert_allclose(np.stack([product(row) for row in np.eye(3)]), known)


@pytest.mark.parametrize(
    ("values", "largest"),
    [([5, 1, -3], 5), ([2, 1, -7], 2), ([-1, -2, -8], -1), ([4, 4, 0], 4), ([1.5, -3, -3.3], 1.5)],
)
def test_power_iteration_finds_the_largest_eigenvalue_also_where_a_negative_one_is_larger(values, largest):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = (q * np.array(values, float)) @ q.T
    found, v = demo.largest_eigenvalue(lambda v: matrix @ v, np.array([1.0, 2.0, 3.0]), most=1000, tolerance=1e-10)
    assert found == pytest.approx(largest, abs=1e-6)
    np.testing.assert_allclose(matrix @ v, largest * v, atol=1e-3)


def test_power_iteration_on_nothing_and_on_nan():
    assert demo.largest_eigenvalue(lambda v: 0 * v, np.ones(3))[0] == 0
    assert math.isnan(demo.largest_eigenvalue(lambda v: np.nan * v, np.ones(3))[0])


def test_gradient_descent_on_a_quadratic_diverges_above_two_over_the_sharpness():
    """What the line 2 / lr means."""
    curvature, w = 4.0, {0.49: 1.0, 0.51: 1.0}
    for lr in w:
        for _ in range(500):
            w[lr] -= lr * curvature * w[lr]
    assert abs(w[0.49]) < 1e-3 < 1e3 < abs(w[0.51])


def test_the_last_quarter_ends_where_the_loss_is_fitted():
    config = {"loss": "cross entropy", "lr": 0.5}
    at, losses = list(range(0, 120, 10)), [2.0] * 8 + [0.1] * 4  # fitted from step 80 on
    sharpness = [1.0] * 6 + [4.0] * 2 + [0.0] * 4
    found = demo.last_quarter(config, at, losses, sharpness, False)
    assert found == {"ratio": 1.0, "highest": 1.0, "end": 70}
    found = demo.last_quarter({**config, "loss": "square loss"}, at, losses, sharpness, False)
    assert found == {"ratio": 0.0, "highest": 1.0, "end": 110}  # 5 % of the start is not fitted there
    assert demo.last_quarter(config, at, losses, sharpness, True) == {"ratio": 0.0, "highest": 0.0, "end": 110}


def test_batch_norm_changes_the_edge_net_in_nothing_else():
    plain, normed = (demo.edge_net(norm, 64, 10, 3) for norm in demo.NET_NORMS)
    weights = [[p.data for p in net.parameters() if p.ndim == 2] for net in (plain, normed)]
    assert len(weights[0]) == 3 and all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert weights[0][0].dtype == np.float64


def after(norm, lr, **other):
    net = {"activation": "relu", "norm": norm, "depth": 2, "lr": lr, "seed": 0, "dataset": "digits"}
    return demo.run_after({**net, **other})


def test_large_steps_grow_the_weights_before_a_batch_norm(monkeypatch):
    monkeypatch.setattr(demo, "MOMENTS", [0, 1, 5])
    result = after("BN", 1.0)
    assert np.all(np.diff(result["sizes"]) > 0) and result["losses"][0] > result["losses"][-1]
    growth = result["sizes"][-1] / result["sizes"][0]
    assert result["sharpness"][-1] < result["scaled_back"]
    assert result["scaled_back"] == pytest.approx(result["sharpness"][-1] * growth, rel=0.2)  # the units grow unequally
    still = after("BN", 0.0)
    assert still["scaled_back"] == pytest.approx(still["sharpness"][-1])
    assert still["losses"][0] == still["losses"][-1] == result["losses"][0]


def test_weights_are_scaled_back_at_the_same_loss(monkeypatch):
    monkeypatch.setattr(demo, "MOMENTS", [0, 5])
    losses, right = [], demo.hessian_vector_product
    monkeypatch.setattr(demo, "hessian_vector_product", lambda loss, p: losses.append(loss.item()) or right(loss, p))
    result = after("BN", 1.0)
    assert losses[:2] == result["losses"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)  # but for eps


def test_the_control_without_norm_is_not_scaled_and_what_diverges_is_nan(monkeypatch):
    monkeypatch.setattr(demo, "MOMENTS", [0, 3])
    control = after("none, tuned init", 1.0)
    assert "scaled_back" not in control and np.isfinite([*control["losses"], *control["sharpness"]]).all()
    for norm in demo.FOLLOWED:
        gone = after(norm, 1e200)
        assert math.isfinite(gone["losses"][0]) and all(
            math.isnan(gone[k][1]) for k in ("losses", "sharpness", "sizes")
        )


def test_the_rates_are_learning_rates_own_runs():
    common = {"seeds": [4, 5], "dataset": "digits"}
    of_demo = [c for c in demo.plan({**demo.PRESETS["full"], **common}) if c["part"] == "rate"]
    own = [c for c in learning_rate.plan({**learning_rate.PRESETS["full"], **common}) if c["depth"] == 8]
    assert len(of_demo) == 2 * 10 * 9 and len({c["arm"] for c in of_demo}) == 10
    for c in of_demo:
        assert {key: value for key, value in c.items() if key != "part"} | {"arm": f"8 {c['arm']}"} in own
    config = {**of_demo[30], "steps": 2}
    result, expected = demo.run(config), learning_rate.run(config)
    assert result and result.items() <= expected.items()


def planted(ratio, power, seeds):
    """Runs at `ratio` of the edge without norm, in which the largest stable rate of depth 8 goes as sharpness^power."""
    settings = {**demo.PRESETS["full"], "seeds": seeds, "dataset": "digits", "preset": "full"}
    runs = []
    for c in demo.plan(settings):
        noise = 1 + 0.02 * np.random.default_rng([c["seed"], len(c["arm"])]).normal()
        rank = learning_rate.NORMS.index(c["norm"]) if c["part"] in ("start", "rate") else 0
        if c["part"] == "edge":
            curves = {"at": [0, 10, 20], "losses": [1.0, 0.8, 0.4], "sharpness": [1.0, 2.0, 2 / c["lr"]]}
            runs.append({**c, **curves, "ratio": ratio * noise, "highest": ratio * noise, "end": 20})
            runs[-1] |= {"test_error": 5.0, "diverged": False, "chance": 90.0}
        elif c["part"] == "start":
            runs.append({**c, "sharpness": noise * 10.0 ** (rank / 2)})
        elif c["part"] == "rate":
            stable = 10 ** (power * rank / 2) * (1 if power < 0 else 0.1)
            runs.append({**c, "test_error": 5.0 if c["lr"] <= stable * 1.1 else 90.0, "chance": 90.0})
        elif c["part"] == "after":
            runs.append({**c, "losses": [2.0, 1.0, 0.5, 0.2, 0.1], "sharpness": [9.0, 1.0, 1.0, 1.0, 1.0]})
            runs[-1] |= {"sizes": [1.0, 2.0, 2.0, 2.0, 4.0], **({"scaled_back": 1.5} if c["norm"] == "BN" else {})}
        else:
            runs.append({**c, "hessian": 1e-9, "eigenvalue": 1e-9})
    return runs, settings


@pytest.mark.parametrize(
    ("ratio", "power", "verdicts"), [(1.05, -1.0, (True, True)), (0.7, 1.0, (False, False)), (1.5, 0.0, (False, False))]
)
def test_verdicts_follow_the_planted_effect(ratio, power, verdicts):
    runs, settings = planted(ratio, power, list(range(10)))
    criteria = demo.analyse(runs, settings).criteria
    assert [c.passed for c in criteria] == [verdicts[0]] * 2 + [verdicts[1]] + [True] * 2
    assert all(c.measured == pytest.approx(ratio, abs=0.05) for c in criteria[:2])


def test_the_largest_stable_rate_is_chosen_and_no_stable_rate_fails():
    runs, settings = planted(1.0, -1.0, list(range(8)))
    for r in runs:
        if r["part"] == "edge" and r["loss"] == "square loss" and r["lr"] == 3.0 and r["seed"] == 1:
            r |= {"diverged": True, "ratio": 0.0, "highest": 0.0}
        if r["part"] == "edge" and r["loss"] == "cross entropy":
            r["losses"] = [1.0, 1.0, 0.9]
    assert demo.largest_stable_rate(runs) == {
        "square loss, no norm": 1.0,
        "square loss, BN": 1.0,
        "cross entropy, no norm": None,
        "cross entropy, BN": None,
    }
    analysis = demo.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria[:2]] == [True, False]
    assert any("no stable learning rate" in note for note in analysis.notes)


def test_nets_that_never_learn_rank_lowest_in_the_criterion():
    """Sharpness and rate move in opposite directions but for the two flattest nets, which learn nowhere."""
    runs, settings = planted(1.0, -1.0, [0, 1, 2])
    for r in runs:
        if r["part"] == "rate" and r["norm"] == "none" and (r["activation"] == "sigmoid" or r["seed"] < 2):
            r["test_error"] = 88.0
    start, rates = demo.start_and_rates(runs)
    assert list(rates["relu none"]) == [0, 0, 1] and list(rates["sigmoid none"]) == [0, 0, 0]
    ranks = {arm: np.full(3, float(learning_rate.NORMS.index(arm.split(" ", 1)[1]))) for arm in start}
    # ranks 1 2 3 4 5 against 1 5 4 3 2: 1 - 6 * 20 / (5 * 24)
    assert demo.correlation(ranks, rates, list(start)).rhos[:2] == pytest.approx(0)
    criterion = demo.analyse(runs, settings).criteria[2]
    assert -0.5 < criterion.measured < 0.1  # without them it is -0.97
    assert not criterion.passed and "all 10 arms" in criterion.note
    assert "over the 8 arms in which every seed learns at some rate: -0.9" in criterion.note
    for r in runs:
        if r["part"] == "rate":
            r["test_error"] = 90.0
    criterion = demo.analyse(runs, settings).criteria[2]
    assert criterion.measured == 0 and not criterion.passed and "0 arms in which" in criterion.note


def test_a_positive_correlation_fails_however_sure_it_is():
    runs, settings = planted(1.0, 1.0, list(range(10)))
    criterion = demo.analyse(runs, settings).criteria[2]
    assert criterion.measured > 0.9 and not criterion.passed and criterion.headline


def test_names_say_which_rate_and_that_it_is_the_grids_largest():
    runs, settings = planted(1.0, -1.0, [0, 1, 2])
    square, entropy, *_ = demo.analyse(runs, settings).criteria
    assert square.name.startswith("without norm, square loss, at the largest stable lr of the grid (3): ")
    assert entropy.name.startswith("without norm, cross entropy, at the largest stable lr of the grid (1): ")


def test_the_follow_up_says_loss_and_sharpness_and_who_diverged():
    runs, settings = planted(1.0, -1.0, [0, 1, 2])
    for r in runs:
        if r["part"] == "after" and r["arm"] == "relu none, tuned init":
            keep = 2 if r["seed"] else 3
            for key in ("losses", "sharpness", "sizes"):
                r[key] = r[key][:keep] + [math.nan] * (5 - keep)
    notes = {note.split(", full")[0]: note for note in demo.analyse(runs, settings).notes if "full batch" in note}
    assert len(notes) == 4
    gone = notes["depth 8, relu none, tuned init"]
    assert "loss 2, 1, 0.5, -, -;" in gone and "3 of 3 seeds diverged" in gone and "scaled back" not in gone
    bn = notes["depth 8, sigmoid BN"]
    assert "loss 2, 1, 0.5, 0.2, 0.1; sharpness / (2 / lr) 4.5, 0.5, 0.5, 0.5, 0.5;" in bn and "diverged" not in bn
    assert "relative 1, 2, 2, 2, 4;" in bn and bn.endswith("at the same loss: sharpness / (2 / lr) 0.75")


def test_end_to_end(tmp_path, monkeypatch):
    tiny = {
        **demo.PRESETS["quick"],
        "edge_steps": 4,
        "depths": [1, 8],
        "norms": ["BN"],
        "lrs": [0.1],
        "steps": 2,
    }
    monkeypatch.setitem(demo.DEMO.presets, "quick", tiny)
    monkeypatch.setattr(demo, "EVERY", {"square loss": 2, "cross entropy": 2})
    monkeypatch.setattr(demo, "MOMENTS", [0, 1])
    monkeypatch.setattr(demo, "ROWS", 50)
    monkeypatch.setattr(demo, "LRS", {"square loss": [0.3], "cross entropy": [0.1]})
    assert lab.main([demo.DEMO], ["--seeds", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "sharpness" / "summary.json").read_text())
    assert len(summary["criteria"]) == 5 and all(c["passed"] for c in summary["criteria"][3:])
    names = ("sharpness_along_training", "sharpness_against_depth")
    assert all((tmp_path / "sharpness" / f"{name}.png").exists() for name in names)
