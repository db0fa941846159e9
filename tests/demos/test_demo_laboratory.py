"""The laboratory of the demos: runs in worker processes, what happens when they fail, the files it writes."""

import dataclasses
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="pip install -e '.[demos]'")
import toy_demo  # noqa: E402

from demos import __main__ as commands  # noqa: E402
from demos import datasets, grid, plots, statistics  # noqa: E402
from demos import laboratory as lab  # noqa: E402

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def configurations(*arms, seeds=3, **more):
    return [{"arm": arm, "seed": 2000 + seed, "lr": 0.1, **more} for seed in range(seeds) for arm in arms]


def without_process(runs):
    return [{key: value for key, value in run.items() if key not in ("pid", "environment")} for run in runs]


@pytest.fixture(scope="module")
def pooled():
    """One pool of two workers for several tests: starting one takes seconds."""
    before = dict(os.environ)
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ.pop("MKL_NUM_THREADS", None)
    found = dict(os.environ)
    try:
        configs = configurations("a", "raises", "b")
        runs = grid.run_grid(toy_demo.run, configs, 2, "toy", cost=lambda config: config["seed"])
        after = dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return configs, runs, found, after


def test_results_come_in_the_order_of_the_configurations(pooled):
    configs, runs, _, _ = pooled
    assert [(run["arm"], run["seed"]) for run in runs] == [(c["arm"], c["seed"]) for c in configs]


def test_results_do_not_depend_on_the_number_of_workers(pooled):
    configs, runs, _, _ = pooled
    alone = grid.run_grid(toy_demo.run, configs, 1, "toy")
    good = [i for i, run in enumerate(runs) if "traceback" not in run]
    assert without_process([alone[i] for i in good]) == without_process([runs[i] for i in good])
    assert {run["pid"] for run in alone if "pid" in run} == {os.getpid()}
    assert os.getpid() not in {run.get("pid") for run in runs}


def test_workers_have_one_thread_and_the_parent_keeps_its_environment(pooled):
    _, runs, found, after = pooled
    assert {tuple(run["environment"]) for run in runs if "traceback" not in run} == {("1", "1", "1", "1")}
    assert after == found


def test_a_run_that_raises_does_not_stop_the_others(pooled):
    _, runs, _, _ = pooled
    failed = [run for run in runs if "traceback" in run]
    assert [(run["arm"], run["seed"]) for run in failed] == [("raises", 2001)]
    assert "RuntimeError: the net caught fire" in failed[0]["traceback"] and "in run" in failed[0]["traceback"]
    assert sum("error_rate" in run for run in runs) == len(runs) - 1


def test_a_run_whose_worker_dies_is_tried_again_and_reported_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_MARKS", str(tmp_path))
    runs = grid.run_grid(toy_demo.run, configurations("dies once", "dies", "a", seeds=2), 2, "toy")
    by_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in ("dies once", "dies", "a")}
    assert all("worker process died 3 times" in run["traceback"] for run in by_arm["dies"])
    assert all("error_rate" in run for run in by_arm["dies once"] + by_arm["a"])
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_that_die_as_they_start_end_the_sweep(monkeypatch):
    monkeypatch.setattr(grid, "_start_worker", functools.partial(os._exit, 3))
    done = []
    with pytest.raises(BrokenExecutor, match=r"worker processes can't start \(it ended with exit code 3\)"):
        grid.run_grid(toy_demo.run, configurations("a", seeds=1000), 2, "toy", done=lambda i, *_: done.append(i))
    assert done == []


class Fake(grid.WorkerProcess):
    """Its process dies of the runs of the arm "dies", and is none."""

    def start_again(self):
        pass

    def submit(self, fn, run, config, code):
        future = Future()
        if config["arm"] == "dies":
            future.set_exception(BrokenProcessPool("died"))
        else:
            future.set_result((config, 0.0))
        return future


@pytest.mark.parametrize(("workers", "most"), [(2, 12), (10, 30)])
def test_deaths_are_counted_from_the_last_result(workers, most):
    """Each bad run gives three deaths. A good one in between, and they are the runs' own."""

    def outcomes(arms):
        found = {}
        room = [Fake() for _ in range(workers)]
        configs = [{"arm": arm} for arm in arms]
        grid.run_on(
            room, toy_demo.run, configs, list(range(len(arms))), lambda i, outcome, _: found.update({i: outcome})
        )
        return found

    found = outcomes(["dies", "a"] * 30)
    assert len(found) == 60 and sum("traceback" in outcome for outcome in found.values()) == 30
    with pytest.raises(BrokenExecutor, match=f"died {most} times in a row"):
        outcomes(["a"] * workers + ["dies"] * (most // 3))
    assert len(outcomes(["a"] * workers + ["dies"] * (most // 3 - 1))) == workers + most // 3 - 1


def test_longest_runs_start_first():
    started = []

    def run(config):
        started.append(config["steps"])
        return {"square": config["steps"] ** 2}

    configs = [{"steps": steps} for steps in (1, 5, 3)]
    runs = grid.run_grid(run, configs, 1, "toy", cost=lambda config: config["steps"])
    assert started == [5, 3, 1]
    assert [run["square"] for run in runs] == [1, 25, 9]


def test_runs_here_have_one_thread_too():
    from threadpoolctl import threadpool_info

    def run(config):
        return {"threads": [pool["num_threads"] for pool in threadpool_info()]}

    before = [pool["num_threads"] for pool in threadpool_info()]
    (result,) = grid.run_grid(run, [{"arm": "a"}], 1, "toy")
    assert set(result["threads"]) == {1}
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_warm_up_comes_first_and_takes_two_steps_of_each_arm(tmp_path):
    calls = []

    def run(config):
        calls.append((config["arm"], config["steps"]))
        return {"error_rate": 0.0, "diverged": False}

    def plan(settings):
        return [{"arm": arm, "seed": s, "steps": 9} for s in settings["seeds"] for arm in "ab"]

    toy = dataclasses.replace(toy_demo.demo(run), plan=plan)
    assert lab.main([toy], ["--workers", "1", "--out", str(tmp_path)]) == 0
    assert sorted(calls[:2]) == [("a", 2), ("b", 2)] and calls[2:] == [("a", 9), ("b", 9)] * 3
    calls.clear()
    given = dataclasses.replace(toy, warm_up=lambda: calls.append("mine"))
    assert lab.main([given], ["--workers", "1", "--out", str(tmp_path), "--fresh"]) == 0
    assert calls[0] == "mine" and calls[1:] == [("a", 9), ("b", 9)] * 3


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_preset_that_lacks_what_the_analysis_asks_for_is_refused_before_the_training():
    settings = {"lrs": [0.03, 0.3], "batches": [2, 8]}
    lab.check_grid(settings, lrs=[0.3], batches=[2, 8])
    with pytest.raises(ValueError, match=r"the preset's lrs must contain 0\.1, got \[0\.03, 0\.3\]"):
        lab.check_grid(settings, batches=[2], lrs=[0.3, 0.1])


def test_a_plan_without_what_a_headline_needs_is_refused():
    from demos.minibatch_noise import DEMO

    full = {**DEMO.presets["full"], "seeds": [0], "dataset": "digits"}
    lab.check_plan(DEMO, DEMO.plan(full))
    lab.check_plan(DEMO, DEMO.plan({**DEMO.presets["quick"], "seeds": [0], "dataset": "digits"}))
    for rates in ({**full["rates"], "S=8": [0.1]}, {a: r for a, r in full["rates"].items() if a != "S=8"}):
        with pytest.raises(ValueError, match=r"must have S=8 at several learning rates, for 'test error of S=8 minus"):
            lab.check_plan(DEMO, DEMO.plan({**full, "rates": rates}))


@pytest.mark.parametrize("name", ["covariate_shift", "norm_family", "saturation", "scaling_and_whitening"])
def test_a_grid_without_the_fixed_rate_is_refused(name):
    module = importlib.import_module(f"demos.{name}")
    demo = module.DEMO
    settings = {**demo.presets["full"], "seeds": [0], "dataset": "digits"}
    assert demo.plan(settings)
    with pytest.raises(ValueError, match=rf"lrs must contain {module.FIXED_LR}"):
        demo.plan({**settings, "lrs": [0.03]})


def test_more_seeds_than_the_preset_has_are_said_too(tmp_path):
    assert lab.main([toy_demo.demo()], ["--workers", "1", "--seeds", "4", "--out", str(tmp_path)]) == 0
    summary = strict((tmp_path / "toy" / "summary.json").read_text())
    assert summary["limits"] == "A toy concludes nothing. 4 seeds were run, the preset has 3."


def test_a_preset_of_ones_own_is_run_under_its_name(tmp_path, capsys):
    toy = toy_demo.demo()
    toy.presets["mine"] = {**toy.presets["quick"], "seeds": 2, "limits": "Two seeds."}
    assert lab.main([toy], ["--workers", "1", "--preset", "mine", "--out", str(tmp_path)]) == 0
    assert "preset mine, digits, 2 seeds from 2000, 4 runs" in capsys.readouterr().out
    summary = strict((tmp_path / "toy" / "summary.json").read_text())
    assert (summary["preset"], summary["limits"], summary["usual_seeds"]) == ("mine", "Two seeds.", 2)
    assert summary["command"] == "python -m demos run toy_demo.py --preset mine"


def test_a_fail_is_a_result(tmp_path, capsys):
    assert lab.main([toy_demo.demo()], ["--workers", "1", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "holds      a below b: measured -1 [-1.5, -0.5], wanted < 0  * headline\n" in out
    assert "refuted    b below a: measured 1 [0.5, 1.5], wanted < 0\n           as it should be\n" in out
    assert "undecided  no interval: measured nan [nan, inf], wanted < 0\n" in out
    assert "claims: 1 hold, 1 refuted, 1 undecided\n" in out
    assert "preset quick, digits, 3 seeds from 2000, 6 runs" in out
    assert "limits: A toy concludes nothing.\n" in out and out.endswith(
        f"one page of all of it: python -m demos report --out {tmp_path}; the terms: docs/experiments.md\n"
    )
    assert "note: seeds [2000, 2001, 2002]\n" in out
    assert str(tmp_path / "toy") in out and "\033" not in out
    # no terminal: no bar, one line before and one after
    first, last = err.splitlines()
    assert first == "toy: 6 runs, workers: 1" and last.startswith("toy: 6 runs took ")


def test_summary_is_strict_json_with_all_that_is_promised(tmp_path):
    assert lab.main([toy_demo.demo()], ["--workers", "1", "--seeds", "2", "--out", str(tmp_path)]) == 0
    summary = strict((tmp_path / "toy" / "summary.json").read_text())
    promised = "demo claim question command preset dataset seeds usual_seeds versions settings effort arms criteria"
    assert list(summary) == [*promised.split(), "table", "notes", "limits", "figures"]
    assert summary["question"] == toy_demo.__doc__
    assert summary["command"] == "python -m demos run toy_demo.py --preset quick --seeds 2"
    assert summary["table"][0] == ["arm", "error"] and summary["notes"] == ["seeds [2000, 2001]"]
    assert summary["figures"] == [{"name": "toy", "caption": "The error of each arm."}]
    assert (summary["demo"], summary["preset"], summary["dataset"]) == ("toy", "quick", "digits")
    assert summary["seeds"] == [2000, 2001] and summary["usual_seeds"] == 3
    assert summary["limits"] == "A toy concludes nothing. Only 2 seeds were run, the preset has 3."
    assert set(summary["versions"]) == {"python", "numpy", "numba", "tinygrad_bn", "processor", "BLAS"}
    values = [toy_demo.run({"arm": "a", "seed": seed})["error_rate"] for seed in (2000, 2001)]
    assert summary["arms"][0] == {"arm": "a", "error_rate": values, "nll": [None]}
    assert summary["criteria"][0] == {
        "name": "a below b",
        "measured": -1.0,
        "ci": [-1.5, -0.5],
        "threshold": "< 0",
        "verdict": "holds",
        "passed": True,
        "headline": True,
        "note": "",
        "kind": "claim",
    }
    assert summary["criteria"][2]["measured"] is None and summary["criteria"][2]["ci"] == [None, None]
    names = sorted(path.name for path in (tmp_path / "toy").iterdir())
    assert names == ["summary.json", "toy.png", "toy.svg"]  # no temporary file is left
    assert (tmp_path / "toy" / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "toy" / "toy.svg").read_text()


def test_an_incomplete_seed_is_left_out_in_every_arm(tmp_path, capsys):
    toy = toy_demo.demo(arms=["a", "raises"])
    assert lab.main([toy], ["--workers", "1", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "the net caught fire" in err and "'arm': 'raises', 'seed': 2001" in err
    assert "toy: 1 of 6 runs raised an error" in err
    summary = strict((tmp_path / "toy" / "summary.json").read_text())
    assert summary["seeds"] == [2000, 2002]
    assert [len(arm["error_rate"]) for arm in summary["arms"]] == [2, 2]
    assert "1 runs raised an error" in out


def test_nothing_to_analyse_says_so_once_and_leaves_no_old_summary(tmp_path, capsys):
    assert lab.main([toy_demo.demo()], ["--workers", "1", "--out", str(tmp_path)]) == 0
    capsys.readouterr()

    def broken(config):
        datasets.split(np.zeros((5, 2)), np.zeros(5), {"train": 4, "test": 3}, config["seed"])

    assert lab.main([toy_demo.demo(broken)], ["--workers", "1", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("the dataset has 5 rows, but 4 train + 3 test = 7 are needed") == 1
    assert "and 5 more runs with the same error" in err and "no seed is complete" in err
    assert not (tmp_path / "toy" / "summary.json").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--preset", "huge"], "'huge'"),
        (["--seeds", "0"], "--seeds: must be a whole number of at least 1, got '0'"),
        (["--seeds", "many"], "--seeds: must be a whole number of at least 1, got 'many'"),
        (["--workers", "-1"], "--workers: must be a whole number of at least 1, got '-1'"),
        (["--dataset", "mnist"], "--dataset: must be digits, glyphs, mnist1d, mnist:DIR or npz:FILE, got 'mnist'"),
        (["--dataset", "npz:"], "--dataset: must be digits, glyphs, mnist1d, mnist:DIR or npz:FILE, got 'npz:'"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        lab.main([toy_demo.demo()], [*arguments, "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_help_says_what_to_install_with_and_without_it():
    def shown(without):
        code = f"import runpy, sys; sys.modules.update(dict.fromkeys({without})); sys.argv[1:] = ['--help']; "
        code += "runpy.run_module('demos', run_name='__main__', alter_sys=True)"
        process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        return process.returncode, process.stdout, process.stderr

    code, out, err = shown([])
    assert (code, err) == (0, "") and "pip install -e '.[demos]'" in out and "--workers" in out
    missing = "the demos need matplotlib, scipy: pip install -e '.[demos]'\n"
    assert shown(["matplotlib", "scipy"]) == (1, "", missing)


def test_the_name_of_one_demo_behind_all_of_them_is_explained(capsys):
    assert commands.main(["saturation"]) == 2
    words = "python -m demos: must be followed by nothing, all, run, report or export, got "
    assert capsys.readouterr().err == f"{words}'saturation'; python -m demos.saturation runs that one\n"
    assert commands.main(["nonsense"]) == 2
    assert capsys.readouterr().err == f"{words}'nonsense'\n"


def test_a_missing_file_is_one_line(capsys, tmp_path):
    missing = tmp_path / "missing.npz"
    assert lab.main([toy_demo.demo()], ["--dataset", f"npz:{missing}", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"--dataset npz:{missing}: there is no file {missing}\n"


@pytest.mark.parametrize(
    "x, y, words",
    [
        (np.eye(50), np.arange(50) % 2, "the dataset has 50 rows, but 40 train + 20 test = 60 are needed"),
        (np.ones((80, 0)), np.arange(80) % 2, "at least one feature and two classes"),
        (np.ones((80, 3)), np.zeros(80, int), "at least one feature and two classes"),
        (np.full((80, 3), 1e300), np.arange(80) % 2, "x must fit into float32"),
    ],
)
def test_a_dataset_that_cannot_do_is_one_line_before_any_run(x, y, words, capsys, tmp_path):
    np.savez(tmp_path / "few.npz", x=x, y=y)
    demo = dataclasses.replace(toy_demo.demo(), sizes={"train": 40, "test": 20})
    out = tmp_path / "out"
    assert lab.main([demo], ["--dataset", f"npz:{tmp_path / 'few.npz'}", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not out.exists()


def test_an_output_folder_that_cannot_be_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert lab.main([toy_demo.demo()], ["--out", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("--out: ") and err.count("\n") == 1


def test_split_is_disjoint_repeatable_and_paired():
    x, y = np.arange(40).reshape(20, 2), np.arange(20)
    parts = datasets.split(x, y, {"train": 8, "valid": 4, "test": 6}, seed=1)
    assert {name: len(labels) for name, (_, labels) in parts.items()} == {"train": 8, "valid": 4, "test": 6}
    assert len(set(np.concatenate([labels for _, labels in parts.values()]).tolist())) == 18
    for rows, labels in parts.values():
        assert np.array_equal(rows, x[labels])
    again = datasets.split(x, y, {"train": 8, "valid": 4, "test": 6}, seed=1)
    other = datasets.split(x, y, {"train": 8, "valid": 4, "test": 6}, seed=2)
    assert np.array_equal(again["test"][1], parts["test"][1])
    assert not np.array_equal(other["train"][1], parts["train"][1])


def test_classes_are_counted_over_all_parts():
    nothing = np.zeros((2, 1))
    assert datasets.count_classes({"train": (nothing, np.array([0, 2])), "test": (nothing, np.array([4, 1]))}) == 5


@pytest.mark.parametrize(
    "labels, sizes, words",
    [
        (20, {"train": 15, "test": 6}, r"the dataset has 20 rows, but 15 train \+ 6 test = 21 are needed"),
        (20, {"train": 15, "test": 0}, r"sizes\['test'\] must be at least 1, got 0"),
        (19, {"train": 5}, "x and y must have as many rows, got 20 and 19"),
    ],
)
def test_split_says_what_is_wrong(labels, sizes, words):
    with pytest.raises(ValueError, match=words):
        datasets.split(np.zeros((20, 2)), np.zeros(labels), sizes, seed=0)


def test_no_workers():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        grid.run_grid(toy_demo.run, configurations("a"), 0, "toy")


def test_table_is_aligned():
    assert lab.align([["arm", "error"], ["S=128", "5.6"], ["no", "10.25"]]) == [
        "arm    error",
        "-----  -----",
        "S=128    5.6",
        "no     10.25",
    ]


def test_band_is_the_t_interval_over_seeds():
    values = np.array([[1.0, 2.0, np.nan], [3.0, 2.5, 1.0], [2.0, 4.0, 1.0]])
    with plots.style():
        fig, ax = plots.plt.subplots()
        plots.line_with_band(ax, [1, 2, 3], values, "three seeds", plots.PALETTE[0])
    line = ax.lines[0].get_ydata()
    assert line[:2] == pytest.approx(values[:, :2].mean(axis=0)) and np.isnan(line[2])
    corners = ax.collections[0].get_paths()[0].vertices
    low, high = statistics.mean_ci(values[:, 0])[1]
    at_one = corners[corners[:, 0] == 1, 1]
    assert (at_one.min(), at_one.max()) == pytest.approx((low, high))
    plots.plt.close(fig)


def planted_runs(seeds=(3, 1, 2)):
    """Runs of two arms at two rates, in no order; "late" is measured in one arm alone."""
    runs = []
    for seed in seeds:
        for arm, lr in (("b", 1.0), ("a", 0.1), ("a", 1.0), ("b", 0.1)):
            runs.append({"arm": arm, "lr": lr, "seed": seed, "part": "net", "error": seed + 10 * lr})
            runs[-1] |= {"late": [seed, seed]} if arm == "b" else {}
    return [*runs, {"arm": "facts", "seed": 1, "part": "facts", "error": 99.0}]


def test_one_value_per_seed_in_the_order_of_seeds():
    runs = planted_runs()
    table = lab.per_seed(runs, "error", "arm", "lr", part="net")
    assert list(table) == [("b", 1.0), ("a", 0.1), ("a", 1.0), ("b", 0.1)]
    assert table["a", 0.1].tolist() == [2, 3, 4] and table["b", 1.0].tolist() == [11, 12, 13]
    assert lab.per_seed(runs, "error", "lr", arm="a", part="net")[(0.1,)].tolist() == [2, 3, 4]
    assert lab.per_seed(runs, "error", part="facts") == {(): [99]}
    assert lab.per_seed(runs, "error", part="none") == {}


def test_runs_without_the_metric_are_left_out_and_curves_are_rows():
    table = lab.per_seed(planted_runs(), "late", "arm", "lr")
    assert set(table) == {("b", 0.1), ("b", 1.0)}
    assert table["b", 0.1].tolist() == [[1, 1], [2, 2], [3, 3]]


def test_keys_that_mix_runs_of_a_seed_are_refused():
    with pytest.raises(
        ValueError, match=r"keys must tell the runs of a seed apart, got \('arm',\) and several of seed 1"
    ):
        lab.per_seed(planted_runs(), "error", "arm", part="net")


def test_the_best_learning_rate_is_that_of_the_validation_error():
    runs = planted_runs()
    for r in runs[:-1]:  # in "a" the mean is lowest at 0.1, though one seed's is at 1; in "b" both are equal
        r["valid_error"] = {("a", 0.1): 5.0, ("a", 1.0): 6.0 - 2.5 * (r["seed"] == 3)}.get((r["arm"], r["lr"]), 7.0)
        r["test_error"] = 1.0 / r["lr"]
    assert lab.best_lr(runs) == {"b": 0.1, "a": 0.1}
    assert lab.best_lr(runs, arm="a") == {"a": 0.1}
    for r in runs[:-1]:
        r["valid_error"] -= r["lr"] == 1.0
    assert lab.best_lr(runs) == {"b": 1.0, "a": 1.0}


@pytest.mark.parametrize(
    "ci, p, bound, verdict, wanted",
    [
        ((-2, -0.1), 0.04, {"below": 0}, "holds", "interval below 0"),
        ((-2, 0.0), 0.04, {"below": 0}, "undecided", "interval below 0"),
        ((-2, -0.1), 0.05, {"below": 0}, "undecided", "interval below 0"),
        ((0.1, 2), 0.04, {"below": 0}, "refuted", "interval below 0"),
        ((0.1, 2), 0.06, {"below": 0}, "undecided", "interval below 0"),
        ((5.1, 9), 0.04, {"above": 5}, "holds", "interval above 5"),
        ((5.0, 9), 0.04, {"above": 5}, "undecided", "interval above 5"),
        ((-9, -5.1), 0.04, {"above": 5}, "refuted", "interval above 5"),
        ((float("nan"), float("nan")), float("nan"), {"above": 5}, "undecided", "interval above 5"),
    ],
)
def test_beyond_a_bound(ci, p, bound, verdict, wanted):
    found = lab.beyond("a - b", sum(ci) / 2, ci, p, **bound, details="d_z 2", note="no claim")
    assert (found.verdict, found.threshold) == (verdict, f"{wanted}, Holm p < 0.05")
    assert found.note == f"d_z 2, Holm p {p:.2g}; no claim" and found.ci == ci
    assert lab.beyond("a - b", sum(ci) / 2, ci, p, **bound).note == f"Holm p {p:.2g}"


def test_panels_are_labelled_at_the_left_and_at_the_bottom():
    with plots.style():
        fig, axes = plots.panels(list("abcdef"), (6, 4), "step", "error", rows=2, sharey="row")
        assert [ax.get_title() for ax in axes] == list("abcdef")
        assert [ax.get_xlabel() for ax in axes] == [""] * 3 + ["step"] * 3
        assert [ax.get_ylabel() for ax in axes] == ["error", "", ""] * 2
        axes[0].set_ylim(0, 7)
        assert axes[2].get_ylim() == (0, 7) != axes[3].get_ylim()
        axes[0].set(xscale="log", xlim=(1, 100))
        plots.label_x(axes[-1], [2, 32, 64.5])
        assert [label.get_text() for label in axes[-1].get_xticklabels()] == ["2", "32", "64.5"]
        assert len(axes[-1].xaxis.get_minorticklocs()) == 0
        plots.plt.close(fig)


def test_no_two_lines_look_the_same_without_colours():
    looks = plots.looks("abcdef")
    assert len({(look["marker"], look["linestyle"]) for look in looks.values()}) == 6
    assert len({look["color"] for look in looks.values()}) == len({look["marker"] for look in looks.values()}) == 6
    with pytest.raises(ValueError):
        plots.looks("abcdefg")


def test_run_is_described_in_few_words():
    assert grid.describe({"arm": "S=8", "seed": 1000, "lr": 0.1, "steps": 5}) == "S=8, lr 0.1, seed 1000"


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    "number, to, code, word",
    [(signal.SIGINT, os.killpg, 130, "interrupted"), (signal.SIGTERM, os.kill, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_sweep_that_is_told_to_end_says_what_is_kept(number, to, code, word, tmp_path):
    # as in a terminal, SIGINT goes to the whole group: the parent and its workers
    process = subprocess.Popen(
        [sys.executable, "-m", "toy_demo", "--workers", "2", "--out", str(tmp_path)],
        cwd=HERE,
        env={**os.environ, "TOY_SLEEP": "60", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # jobs in a script's background ignore Ctrl-C, and so would all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "toy: 6 runs, workers: 2\n"
    time.sleep(1.5)  # the workers are starting or sleeping
    to(process.pid, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == "" and err.startswith(f"toy: {word}; 0 of 6 runs are kept in ")
    assert err.endswith("runs.sqlite, and the same command goes on from there\n")
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
