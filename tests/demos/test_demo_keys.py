"""Keys of kept runs: what takes part in a run is in its key, and nothing else."""

import ast
import functools
import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
import toy_demo  # noqa: E402
from test_demo_runs import ENVIRONMENT, HERE, ROOT, main, rows  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402

from demos import grid, keys, training  # noqa: E402
from demos.__main__ import DEMOS  # noqa: E402

MINE = '''
"""The question."""

from __future__ import annotations

import functools
import os

import numpy as np

import my_helpers
import my_helpers as whole
from demos import laboratory as lab
from demos import training as tr
from demos.datasets import load_parts
from my_helpers import net as make
from my_helpers import unused
from tinygrad_bn import nn

STEPS = 10  # how many
TARGETS = np.linspace(0, 1, 5)
MODE = os.environ.get("MY_MODE", "plain")
CACHE = {}
GROUPS = 4
LAYERS = {"BN": nn.BatchNorm1d, "LN": lambda c: nn.GroupNorm(GROUPS, c)}
LAYERS["RMS"] = nn.RMSNorm
SCALES = {}
for power in range(3):
    SCALES[power] = 10**power
TITLE = "the figure's title"
PRESETS = {"quick": {"seeds": 2, "limits": "two seeds"}}
ARMS = list(LAYERS)


class Base:
    width = 8


class Net(Base):
    """A net."""

    def forward(self):
        return my_helpers.scale(self.width)


def wrapped(function):
    @functools.wraps(function)
    def inner(config):
        return {**function(config), "wrapped": True}

    return inner


def size(n, m=STEPS):
    """How large."""
    return n * m


def times(factor, config):
    from my_helpers import late

    return factor * late(config)


double = functools.partial(times, 2)


@wrapped
def run(config):
    """One run."""
    CACHE[config["arm"]] = SCALES[0]
    model = make(LAYERS[config["arm"]], MODE)
    data = load_parts(config["dataset"], config["seed"], {"train": 50})
    title = "not that of the figure"
    return {**tr.train(model, data, config), "x": size(2), "y": TARGETS[0], "z": Net().forward(), "t": double(config)}


def plan(settings):
    return [{"arm": arm, "seed": seed} for seed in settings["seeds"] for arm in ARMS]


def plot(runs, analysis, settings):
    return [TITLE, "a caption", unused(), whole.unused()]


DEMO = lab.Demo("mine", "A claim.", PRESETS, plan, run, lambda runs, settings: None, plot)

if __name__ == "__main__":
    raise SystemExit(lab.main([DEMO]))
'''
HELPERS = '''
"""Helpers."""

from my_more import FACTOR

OFFSET = 1


def net(layer, mode):
    return layer(OFFSET)


def scale(width):
    return width * FACTOR


def late(config):
    return config["seed"]


def unused():
    return 0
'''
MORE = "FACTOR = 3\nOTHER = 4\n"
SOURCES = {"my_demo": MINE, "my_helpers": HELPERS, "my_more": MORE}


@pytest.fixture
def version(tmp_path, monkeypatch):
    """version(my_demo=..., my_more=...): the keys' version of that demo, imported anew from files."""
    count = iter(range(100))

    def of(**changed):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        for name, text in {**SOURCES, **changed}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            return keys.code_version(importlib.import_module("my_demo").run)

    yield of
    for name in SOURCES:
        sys.modules.pop(name, None)


def edited(name, before, after):
    assert SOURCES[name].count(before) == 1, before
    return {name: SOURCES[name].replace(before, after)}


KEPT = {
    "a comment": ("my_demo", "# how many", "# as many as there are"),
    "the question": ("my_demo", "The question.", "Another question?"),
    "a docstring": ("my_demo", '"""One run."""', '"""One run, in a worker."""'),
    "a docstring less": ("my_demo", '    """A net."""\n', ""),
    "layout": ("my_demo", "def size(n, m=STEPS):", "def size(\n    n,\n\n    m=STEPS,\n):"),
    "a caption": ("my_demo", '"a caption"', '"a better caption, with a comma"'),
    "a constant of the figure": ("my_demo", "the figure's title", "a title"),
    "the plan": (
        "my_demo",
        'for seed in settings["seeds"] for arm',
        'for arm in ARMS for seed in settings["seeds"] if arm',
    ),
    "a preset": ("my_demo", '"seeds": 2,', '"seeds": 20,'),
    "the analysis": ("my_demo", "lambda runs, settings: None", "lambda runs, settings: sorted(runs)"),
    "the claim": ("my_demo", "A claim.", "A claim!"),
    "how it is started": ("my_demo", "raise SystemExit(lab.main([DEMO]))", "lab.main([DEMO])"),
    "one more import": ("my_demo", "from my_helpers import unused", "from my_helpers import OFFSET, unused"),
    "a helper of the figure": ("my_helpers", "return 0", "return 1"),
    "a constant that nobody uses": ("my_more", "OTHER = 4", "OTHER = 5"),
}
CHANGED = {
    "the run": ("my_demo", "size(2)", "size(3)"),
    "a constant": ("my_demo", "STEPS = 10", "STEPS = 11"),
    "an array": ("my_demo", "np.linspace(0, 1, 5)", "np.linspace(0, 1, 6)"),
    "a lambda in a dict": ("my_demo", "lambda c: nn.GroupNorm(GROUPS, c)", "lambda c: nn.GroupNorm(1, c)"),
    "what that lambda uses": ("my_demo", "GROUPS = 4", "GROUPS = 2"),
    "an entry that is added later": ("my_demo", "nn.RMSNorm", "nn.LayerNorm"),
    "a loop that fills a dict": ("my_demo", "10**power", "2**power"),
    "the base of a class": ("my_demo", "width = 8", "width = 9"),
    "a decorator": ("my_demo", '"wrapped": True', '"wrapped": False'),
    "the default of an argument": ("my_demo", "m=STEPS", "m=7"),
    "a partial function": ("my_demo", "functools.partial(times, 2)", "functools.partial(times, 3)"),
    "what a partial function calls": ("my_demo", "factor * late(config)", "factor + late(config)"),
    "another function under the same name": ("my_demo", "import net as make", "import scale as make"),
    "a helper": ("my_helpers", "layer(OFFSET)", "layer(-OFFSET)"),
    "a helper's constant": ("my_helpers", "OFFSET = 1", "OFFSET = 2"),
    "a helper that is reached as an attribute": ("my_helpers", "width * FACTOR", "width + FACTOR"),
    "a helper that is imported in a function": ("my_helpers", 'config["seed"]', '-config["seed"]'),
    "a constant of a module that a helper imports": ("my_more", "FACTOR = 3", "FACTOR = 4"),
}


@pytest.mark.parametrize("what", KEPT)
def test_an_edit_of_what_takes_no_part_keeps_the_runs(version, what):
    assert version(**edited(*KEPT[what])) == version()


@pytest.mark.parametrize("what", CHANGED)
def test_an_edit_of_what_takes_part_computes_the_runs_anew(version, what):
    before, after = version(), version(**edited(*CHANGED[what]))
    assert after != before
    name = CHANGED[what][0] if what != "another function under the same name" else "my_demo"
    assert f"sources of {name}" in keys.differences(after, before)


def test_constants_from_outside_count_and_what_runs_have_filled_does_not(version, monkeypatch):
    before = version()
    sys.modules["my_demo"].CACHE["BN"] = 1
    assert keys.code_version(sys.modules["my_demo"].run) == before
    monkeypatch.setenv("MY_MODE", "fast")
    assert version() != before


@pytest.mark.parametrize(
    ("file", "before", "after", "same"),
    [
        (
            "demos/training.py",
            'sgd.param_groups[0]["lr"] = config["lr"] / 10',
            'sgd.param_groups[0]["lr"] = 0.0',
            False,
        ),
        (
            "demos/training.py",
            "he_linear(fan_in: int, fan_out: int)",
            "he_linear(fan_in: int, fan_out: int, a=1)",
            True,
        ),
        ("demos/datasets.py", "rng.permutation(len(x))[: cuts[-1]]", "rng.permutation(len(x))[-cuts[-1] :]", False),
        ("tinygrad_bn/ops/norms.py", "\n\n\n", "\n\n\nX = 1\n\n\n", False),
        ("tinygrad_bn/ops/norms.py", "\n\n\n", "\n\n\n# X\n\n\n", True),
    ],
)
def test_the_training_loop_the_data_and_the_kernels_take_part(version, monkeypatch, file, before, after, same):
    def parse(path):
        text = path.read_text(encoding="utf-8")
        if path == ROOT / file:
            assert before in text
            text = text.replace(before, after, 1)
        return ast.parse(text)

    def clear():
        keys._statements.cache_clear()
        keys._package_digest.cache_clear()

    clear()
    first = version()
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_parse", parse)
        clear()
        second = version()
    clear()
    assert (second == first) == same


@pytest.mark.parametrize("name", DEMOS)
def test_a_demos_plan_analysis_and_figures_are_not_in_its_keys(name):
    reach = keys._Reach()
    reach.callable(importlib.import_module(f"demos.{name}").run)
    names = {n for module, n in reach.seen if module == f"demos.{name}"}
    assert "run" in names and not names & {"plan", "analyse", "plot", "DEMO", "PRESETS"}
    assert "demos.datasets" in {module for module, _ in reach.seen}
    assert "demos.laboratory" not in {module for module, _ in reach.seen}


def test_what_a_function_carries_with_it_counts():
    def carrying(number, function):
        return lambda config: {"v": number, "w": function(config)}

    one = keys.code_version(carrying(1, toy_demo.run))
    assert one == keys.code_version(carrying(1, toy_demo.run))
    assert one != keys.code_version(carrying(2, toy_demo.run))
    assert one != keys.code_version(carrying(1, training.train))
    first, second = (keys.code_version(functools.partial(toy_demo.run, steps=n)) for n in (1, 2))
    assert first != second and {*first} > {"toy_demo"}


def test_arrays_count_to_the_bit():
    values = np.array([1.0, 2.0]), np.array([1.0, np.nextafter(2, 3)]), np.array([[1.0, 2.0]]), np.array([1, 2])
    assert len({keys._data(v) for v in (*values, (values[0],), [values[0]])}) == 6
    assert keys._data({"a": [1, (2.5, None)], "b": {3}}) is not None
    assert keys._data([np.sin]) is None and keys._data({"a": object()}) is None


# the machine


def environment(**more):
    code = "import json; from demos.keys import environment; print(json.dumps(environment()))"
    inside = {**ENVIRONMENT, **more}
    done = subprocess.run([sys.executable, "-c", code], env=inside, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_blas_kernels_the_processor_and_compilation_count():
    here = environment()
    assert here == keys.environment() and keys.differences(here, keys.environment()) == ""
    others = {"JIT": {"NUMBA_DISABLE_JIT": "1"}, "processor": {"NUMBA_CPU_NAME": "generic"}}
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    assert any(info["version"] in here["BLAS"] for info in libraries)
    if any(info["internal_api"] == "openblas" for info in libraries) and platform.machine() == "x86_64":
        assert any(info["architecture"] in here["BLAS"] for info in libraries)
        others["BLAS"] = {"OPENBLAS_CORETYPE": "Prescott"}
    for part, variables in others.items():
        other = environment(**variables)
        assert [name for name in here if here[name] != other[name]] == [part]
        assert keys.differences(here, other) == f"{part} ({here[part]} here, {other[part]} there)"


def test_runs_of_another_machine_are_not_mixed_with_new_ones_and_that_is_said(tmp_path, capsys, monkeypatch):
    assert main(toy_demo.demo(), tmp_path) == 0
    assert "another version" not in capsys.readouterr().err
    here = keys.environment()
    monkeypatch.setattr(keys, "environment", lambda: {**here, "BLAS": "openblas 0.3 Prescott"})
    assert main(toy_demo.demo(), tmp_path) == 0
    words = "toy: 6 kept runs are of another version, and stay as they are: "
    words += f"BLAS (openblas 0.3 Prescott here, {here['BLAS']} there)"
    assert words in capsys.readouterr().err.splitlines()
    assert rows(tmp_path, "count(*), count(distinct key), count(distinct code)") == [(12, 12, 2)]


def test_a_worker_with_another_version_says_what_differs():
    code = {**keys.code_version(toy_demo.run), "BLAS": "another BLAS", "toy_demo": "sha256 0"}
    configs = [{"arm": arm, "seed": 1} for arm in "ab"]
    with pytest.raises(keys.Refused, match=r"BLAS \(.* here, another BLAS there\), sources of toy_demo"):
        grid.run_grid(toy_demo.run, configs, 2, "toy", terms=keys.Terms(code, {}))


@pytest.mark.parametrize("options", [[], ["-OO"]])
def test_a_script_and_a_module_have_the_same_keys_with_and_without_docstrings(options):
    code = "import json, sys, {0}; from demos.keys import code_version; print(json.dumps(code_version({0}.run)))"
    command = [sys.executable, *options, "-c", code.format("toy_demo")]
    done = subprocess.run(command, cwd=HERE, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == keys.code_version(toy_demo.run)


def test_a_demo_from_standard_input_is_refused(tmp_path):
    text = (HERE / "toy_demo.py").read_text().replace("[toy_demo.demo(", "[demo(").replace("import toy_demo", "")
    command = [sys.executable, "-", "--workers", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, input=text, cwd=Path("/"), env=ENVIRONMENT, capture_output=True, text=True)
    assert (
        done.returncode == 2 and done.stderr.startswith("toy: run must be in a file") and done.stderr.count("\n") == 1
    )
