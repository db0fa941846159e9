"""What the demo sees inside of a net is what is there, and its verdicts follow planted effects."""

import dataclasses
import json

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

import tinygrad_bn.nn.functional as F  # noqa: E402
from demos import laboratory as lab  # noqa: E402
from demos import saturation as demo  # noqa: E402
from demos import training  # noqa: E402
from demos.datasets import load_dataset  # noqa: E402
from tinygrad_bn import Tensor, nn  # noqa: E402


def config(depth=4, activation="sigmoid", variant="none", **changes):
    arm = demo.name(depth, activation, variant)
    base = {"arm": arm, "depth": depth, "width": 16, "activation": activation, "variant": variant, "replica": False}
    return {**base, "seed": 0, "lr": demo.FIXED_LR, "dataset": "digits", "steps": 5, "m": 32} | changes


def rows(n=64):
    x, y = load_dataset("digits")
    return x[:n], y[:n]


def look(**changes):
    c = config(**changes)
    return demo.look_inside(demo.net(c, 64, 10), c["activation"], *rows())


@pytest.mark.parametrize("variant", ["none", "none, Glorot"])
@pytest.mark.parametrize("seed", range(5))
def test_a_sigmoid_passes_on_a_quarter_at_most(variant, seed):
    assert 0 < look(depth=8, variant=variant, seed=seed)["passed_on"] <= 0.25
    assert look(depth=8, activation="tanh", variant=variant, seed=seed)["passed_on"] > 0.25  # its slope is up to 1


def test_at_zero_the_quarter_is_reached():
    model = demo.net(config(depth=2), 64, 10)
    first, second = (layer for layer in list(model)[:3] if isinstance(layer, nn.Linear))
    first.weight.data, first.bias.data = 0 * first.weight.data, 0 * first.bias.data
    second.weight.data = 3 * np.eye(16, dtype=np.float32)
    seen = demo.look_inside(model, "sigmoid", *rows())
    assert seen["passed_on"] == pytest.approx(0.25, rel=1e-6)
    assert seen["slope"][0] == 0.25 and seen["flat"] == [0.0, 0.0]


@pytest.mark.parametrize(("bias", "share"), [(4.5, 0.0), (4.7, 1.0), (-4.7, 1.0)])  # sigma' = .0109 and .0090
def test_flat_is_a_slope_below_one_hundredth(bias, share):
    model = demo.net(config(depth=1), 64, 10)
    model[0].weight.data = 0 * model[0].weight.data
    model[0].bias.data = np.full(16, bias, np.float32)
    seen = demo.look_inside(model, "sigmoid", *rows())
    assert seen["flat"] == [share]
    assert seen["percentiles"] == pytest.approx([bias] * 3)


def test_percentiles_are_those_of_what_enters_the_first_unit():
    model, (x, _) = demo.net(config(depth=1), 64, 10), rows(101)
    z = np.sort(x @ model[0].weight.data[0] + model[0].bias.data[0])
    seen = demo.look_inside(model, "sigmoid", *rows(101))["percentiles"]
    assert seen == pytest.approx([z[15], z[50], z[85]], abs=1e-6)


def test_what_is_not_finite_is_none():
    model = demo.net(config(depth=2, activation="relu"), 64, 10)
    model[0].weight.data = np.full_like(model[0].weight.data, 1e38)
    with np.errstate(all="ignore"):
        seen = demo.look_inside(model, "relu", *rows())
    assert seen["percentiles"] is None and not seen["ratio"] and demo.decades([seen]) == [-30]


def test_slope_of_a_sigmoid_at_standard_normal_inputs():
    """0.207, the number that the notes name."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    slope = weights @ nn.watch.slopes(nn.Sigmoid(), points) / np.sqrt(2 * np.pi)
    assert slope == pytest.approx(0.207, abs=5e-4)


@pytest.mark.parametrize("variant", demo.VARIANTS)
def test_ratio_is_that_of_the_first_and_the_last_hidden_layer(variant):
    model, (x, y) = demo.net(config(variant=variant), 64, 10), rows()
    seen = demo.look_inside(model, "sigmoid", x, y)
    F.cross_entropy(model(Tensor(x)), y).backward()
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    expected = np.linalg.norm(weights[0].grad) / np.linalg.norm(weights[3].grad)
    assert seen["ratio"] == pytest.approx(expected, rel=1e-4)
    assert look(depth=1, variant=variant)["ratio"] == 1.0


def test_gradients_vanish_without_saturation_and_not_with_batch_norm():
    plain, with_bn = look(depth=8, width=64), look(depth=8, width=64, variant="BN")
    assert max(plain["flat"]) == 0 and min(plain["slope"]) > 0.2
    assert plain["ratio"] < 1e-4 and 0.1 < with_bn["ratio"] < 10


def test_looking_changes_nothing():
    for c in (config(variant="BN"), config(depth=3, variant="BN", replica=True)):
        data = demo.load_parts("digits", 0, demo.SIZES)
        unwatched = training.train(demo.net(c, 64, 10), data, c)
        seen = demo.run(c)
        assert {key: seen[key] for key in unwatched} == unwatched
        assert len(seen["history"]) == 1 + len(training.checkpoints(5))
    assert seen["history"][-1]["error"] == [seen["test_error"]]
    assert demo.run({**c, "lr": 1.0})["history"] == []


def test_arms_start_from_the_same_weights_with_and_without_batch_norm():
    for init in ("", ", Glorot"):
        nets = [demo.net(config(variant=f"{norm}{init}"), 64, 10) for norm in ("none", "BN")]
        linear = [[layer.weight.data for layer in net if isinstance(layer, nn.Linear)] for net in nets]
        assert all(np.array_equal(a, b) for a, b in zip(*linear, strict=True))


def test_a_diverged_run_can_be_kept():
    seen = demo.run(config(activation="relu", lr=0.3, steps=5, variant="none, Glorot"))
    assert not seen["diverged"] and seen["last"]
    seen = demo.run(config(activation="relu", lr=1e12, steps=30, variant="none, Glorot"))
    assert seen["diverged"] and seen["last"] is None and seen["test_error"] == 90
    json.dumps(seen, allow_nan=False)


def planted(without=90.0, with_bn=4.0, decades=5.0, passed_on=0.2, scatter=0.5):
    """Runs whose depth-8 sigmoid nets err as told; the gradient ratio with BN is `decades` powers of ten larger."""
    settings = {**demo.PRESETS["full"], "seeds": list(range(10)), "dataset": "digits", "preset": "full"}
    runs = []
    for c in demo.plan(settings):
        bn = c["variant"].startswith("BN")
        noise = np.random.default_rng([c["seed"], int(100 * c["lr"]), bn]).normal(0, scatter)
        error = (with_bn if bn else without) + noise + (c["lr"] == 3.0)
        ratio = 10.0 ** ((0 if bn else -decades) + 0.05 * noise / scatter)
        inside = {"flat": [0.0] * c["depth"], "slope": [0.2] * c["depth"], "ratio": ratio, "percentiles": [-1, 0, 1]}
        inside |= {"passed_on": 1.5 if bn else passed_on}
        runs.append({**c, "test_error": error, "valid_error": error - noise, "test_nll": 1.0, "train_nll": 1.0})
        runs[-1] |= {"diverged": False, "chance": 90.0, "guessing": 90.0, "first": inside, "last": inside}
    return runs, settings


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, [True, True, True, True]),
        ({"without": 80.0}, [False, True, True, True]),  # learns a little
        ({"scatter": 30.0}, [False, False, True, True]),  # the same means, but nothing is shown
        ({"with_bn": 9.9, "scatter": 2.0}, [True, False, True, True]),
        ({"decades": 1.9}, [True, True, False, True]),
        ({"decades": -5.0}, [True, True, False, True]),
        ({"passed_on": 0.26}, [True, True, True, False]),
        ({"passed_on": None}, [True, True, True, False]),  # not finite: not hidden
    ],
)
def test_verdicts_follow_planted_effects(changes, verdicts):
    runs, settings = planted(**changes)
    analysis = demo.analyse(runs, settings)
    assert [c.passed for c in analysis.criteria] == verdicts
    assert len(analysis.table) == 1 + 4 * 3 * 4 + 2 and len({len(row) for row in analysis.table}) == 1


def test_learning_rates_are_chosen_on_validation_data():
    runs, settings = planted()
    for r in runs:
        r["valid_error"] = 5.0 - (r["lr"] == 0.1)
        r["test_error"] -= 2.0 * (r["lr"] == 1.0)  # where the test error is lowest
    best = {arm["arm"]: arm["best_lr"] for arm in demo.analyse(runs, settings).arms}
    assert best["8 sigmoid BN"] == 0.1 and best["8 sigmoid none"] is None  # it never learned


def test_end_to_end(tmp_path, monkeypatch):
    def save(picture, folder):  # without the layout, which takes seconds
        picture.figure.set_layout_engine("none")
        picture.figure.savefig(folder / f"{picture.name}.svg")
        lab.plots.plt.close(picture.figure)
        return []

    monkeypatch.setattr(lab.plots, "save", save)
    monkeypatch.setattr(demo, "DEPTHS", [1, 8])
    presets = {"quick": {"seeds": 2, "steps": 2, "replica_steps": 2, "lrs": [demo.FIXED_LR], "limits": "tiny"}}
    tiny = dataclasses.replace(demo.DEMO, presets=presets, warm_up=lambda: None)
    assert lab.main([tiny], ["--workers", "1", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "saturation" / "summary.json").read_text())
    assert summary["criteria"][3]["passed"] and len(summary["arms"]) == 2 * 3 * 4 + 2
    assert {path.stem for path in tmp_path.glob("*/*.svg")} == {"gradient_ratio", "flat_share", "three_layers"}
