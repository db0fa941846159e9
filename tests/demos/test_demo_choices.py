"""What demos do alike: p-values are corrected together, learning rates are chosen on validation data alone."""

import importlib
from functools import partial

import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="needs the extra [demos]")

import test_demo_covariate_shift  # noqa: E402
import test_demo_experiments  # noqa: E402
import test_demo_init_and_scale  # noqa: E402
import test_demo_norm_family  # noqa: E402
import test_demo_saturation  # noqa: E402
import test_demo_scaling_and_whitening  # noqa: E402
import test_demo_sharpness  # noqa: E402
import test_demo_test_time  # noqa: E402

from demos import laboratory as lab  # noqa: E402
from demos import statistics  # noqa: E402

TEN = list(range(10))
# demo: (runs and settings in which every criterion passes, criteria that Holm's correction decides, in its order)
PLANTED = {
    "minibatch_noise": (lambda: test_demo_experiments.noise_runs(1.5, list(range(20))), list(range(10))),
    "learning_rate": (lambda: test_demo_experiments.rate_runs(1.0, from_below=True), list(range(7))),
    "saturation": (test_demo_saturation.planted, [0, 1, 2]),
    "covariate_shift": (lambda: test_demo_covariate_shift.synthetic(1, -2, "quick"), [0, 1, 2, 3]),
    "test_time": (test_demo_test_time.synthetic, [1, 2, 3, 4, 5, 6]),
    "norm_family": (lambda: test_demo_norm_family.planted(8, 0, TEN, preset="quick"), [0, 1]),
    "scaling_and_whitening": (
        lambda: test_demo_scaling_and_whitening.planted(5.0, {"BN": 0.0, "ZCA": 1.2}, TEN),
        [4, 5, 6, 7, 8],
    ),
    "sharpness": (lambda: test_demo_sharpness.planted(1.05, -1.0, TEN), [0, 1, 2]),
}


@pytest.mark.parametrize("demo", PLANTED)
def test_each_verdict_hangs_on_its_own_corrected_p(demo, monkeypatch):
    """Raise one corrected p-value at a time: that criterion fails, says so, and no other does."""
    planted, decided = PLANTED[demo]
    runs, settings = planted()
    analyse = partial(lab.conclude, importlib.import_module(f"demos.{demo}").DEMO)
    for k, criterion in enumerate(decided):

        def raised(pvalues, k=k):
            assert len(pvalues) == len(decided)
            assert all(p < 0.05 for p in pvalues)
            return [0.06 if i == k else 0.001 for i in range(len(pvalues))]

        monkeypatch.setattr(statistics, "holm", raised)
        criteria = analyse(runs, settings).criteria
        assert [i for i, c in enumerate(criteria) if not c.passed] == [criterion]
        assert "Holm p 0.06" in criteria[criterion].note


def test_cells_that_are_sure_are_so_after_correction(monkeypatch):
    """Of init_and_scale, whose criterion counts signs: its note and its table say what is significant."""
    from demos import init_and_scale as demo

    runs, settings = test_demo_init_and_scale.planted({})
    monkeypatch.setattr(statistics, "holm", lambda pvalues: [0.06 * (i == 2) for i in range(len(pvalues))])
    analysis = demo.analyse(runs, settings)
    assert "in 6 of them" in analysis.criteria[0].note
    last = [row[-1] for row in analysis.table[1:] if row[1] == "BN"]
    assert len(last) == 12 and [i for i, p in enumerate(last) if p == "0.06"] == [2]


@pytest.mark.parametrize(
    ("demo", "metric"),
    [
        ("minibatch_noise", "test_error_at_best_lr"),
        ("learning_rate", "test_error_at_best_lr"),
        ("saturation", "test_error_at_best_lr"),
        ("covariate_shift", "test_error_at_best_lr"),
        ("norm_family", "test_error"),
        ("scaling_and_whitening", "test_error"),
    ],
)
def test_rates_are_chosen_on_validation_data_and_errors_are_those_there(demo, metric):
    if demo == "covariate_shift":
        runs, settings = test_demo_covariate_shift.synthetic(1, -2, "full")  # the quick preset has a single rate
    else:
        runs, settings = PLANTED[demo][0]()
    nets = [r for r in runs if "valid_error" in r]
    *_, other, chosen = sorted({r["lr"] for r in nets})  # in no demo the fixed rate
    for r in nets:
        r["valid_error"] = 6.0 - (r["lr"] == chosen) + r["seed"] / 100
        r["test_error"] = {chosen: 9.0, other: 4.0}.get(r["lr"], 6.0) + r["seed"] / 100  # best at another rate
    analysis = lab.conclude(importlib.import_module(f"demos.{demo}").DEMO, runs, settings)
    arms = [arm for arm in analysis.arms if arm.get("best_lr")]
    arms = [arm for arm in arms if f"{chosen:g}" in arm.get("by_lr", {}).get("test_error", [f"{chosen:g}"])]  # swept
    assert len(arms) > 5 and {arm["best_lr"] for arm in arms} == {chosen}
    for arm in arms:
        assert arm[metric] == [9.0 + seed / 100 for seed in settings["seeds"]]
    (edge,) = [note for note in analysis.notes if "at the edge of the grid" in note]
    assert all(f"{arm['arm']} ({chosen:g})" in edge for arm in arms)


def test_rates_at_the_edge_of_the_grid_are_named():
    rates = {"low": 0.1, "middle": 1.0, "high": 10.0, "not learned": None}
    arms = [*({"arm": arm, "best_lr": lr} for arm, lr in rates.items()), {"arm": "no rate"}]
    words = "best learning rate at the edge of the grid, so perhaps not the best there is: "
    assert lab.at_the_edge(arms, [1.0, 10.0, 0.1]) == [words + "low (0.1); high (10)"]
    assert lab.at_the_edge(arms[1:2], [0.1, 1.0, 10.0]) == []
    assert lab.at_the_edge(arms, [0.1, 10.0]) == lab.at_the_edge(arms, [10.0]) == []  # both of two are edges
