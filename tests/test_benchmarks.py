"""The benchmark's own promises: turns, medians, agreement before timing, verdicts, the JSON file."""

import ast
import dataclasses
import gc
import json
import math
import platform
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import cases, peers, processes, profiling, report, timing
from benchmarks.report import Row
from benchmarks.timing import Contestant, Mismatch
from tinygrad_bn.runtime.jit import COMPILED

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def contestant(clock, costs, log=None, name="", preparation=0.0):
    """Its calls cost so many seconds one after the other, and the last cost from then on."""
    costs = list(costs)

    def call():
        clock.now += costs.pop(0) if len(costs) > 1 else costs[0]
        if log is not None:
            log.append(name)

    def prepare():
        clock.now += preparation
        if log is not None:
            log.append(f"prepare {name}")

    return Contestant(call, prepare=prepare)


# timing


def test_every_round_gives_each_contestant_one_turn_in_changing_order(clock):
    log = []
    names = ["a", "b", "c"]
    timing.time_side_by_side({n: contestant(clock, [1.0], log, n) for n in names}, rounds=8)
    turns = [log[i : i + 3] for i in range(0, len(log), 3)]  # prepare, an untimed call, and, at a second, one timed
    assert all(turn == [f"prepare {turn[1]}", turn[1], turn[1]] for turn in turns)
    order = [turn[1] for turn in turns][3:]  # the first three are the calibration's
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 8 and all(sorted(r) == names for r in rounds) and len({tuple(r) for r in rounds}) > 1


def test_the_time_is_the_median_over_the_rounds_and_preparation_is_free(clock):
    timed = [5.0, 1.0, 90.0, 2.0, 3.0, 4.0]  # the first is the calibration's
    costs = [c for t in timed for c in (1000.0, t)]  # before each, an untimed call
    seconds = timing.time_side_by_side({"a": contestant(clock, costs, preparation=77.0)}, rounds=5)
    assert seconds == {"a": 3.0}


def test_a_turn_takes_as_many_calls_as_fill_the_batch(clock):
    calls = []
    for rounds in (1, 2):
        log = []
        seconds = timing.time_side_by_side({"a": contestant(clock, [2**-10], log, "a")}, rounds, batch=50 * 2**-10)
        assert seconds == {"a": 2**-10}
        calls.append(log.count("a"))
    assert calls[1] - calls[0] == 1 + 50  # a turn: an untimed call and 50 timed ones


def test_no_garbage_collection_while_timing():
    seen = []
    assert gc.isenabled()
    timing.time_side_by_side({"a": Contestant(lambda: seen.append(gc.isenabled()))}, rounds=2, batch=0)
    assert seen and not any(seen) and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timing.time_side_by_side({"a": Contestant(lambda: 1 / 0)}, rounds=2)
    assert gc.isenabled()


def test_geometric_mean_and_slope():
    assert timing.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert timing.geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert timing.slope([1, 10, 100], [3.0, 3 * 10**1.5, 3 * 10**3]) == pytest.approx(1.5)


def giving(*arrays):
    return Contestant(lambda: None, lambda: [np.asarray(a, np.float32) for a in arrays])


WRONG = {
    "a value": (giving([1.0, 2.01], 0.0), "peer and ours differ by 0.01 in array 0"),
    "a later array": (giving([1.0, 2.0], 0.1), "in array 1"),
    "NaN": (giving([1.0, math.nan], 0.0), "differ by nan"),
    "a shape": (giving([[1.0, 2.0]], 0.0), "shapes"),
    "one array less": (giving([1.0, 2.0]), "shapes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_peer_that_computes_something_else_is_an_error_before_any_timing(kind):
    wrong, words = WRONG[kind]
    calls = []
    wrong.call = lambda: calls.append(1)
    with pytest.raises(Mismatch, match=words):
        timing.time_side_by_side({"ours": giving([1.0, 2.0], 0.0), "limit": Contestant(int), "peer": wrong}, rounds=1)
    assert not calls


def test_rounding_is_no_mismatch():
    timing.check_agreement({"ours": giving([1.0, 2.0], 0.0), "peer": giving([1.0005, 2.0], 1e-7)})


# peers


def small():
    spec = [("Linear", 3, 4), ("BatchNorm1d", 4), ("ReLU",), ("Linear", 4, 10)]
    return peers.Work(spec, cases.normal(10, 3), np.arange(10))


def tampered(**settings):
    """Ours, but SGD with other settings."""
    library = peers.ours()
    sgd = library.optim.SGD
    return dataclasses.replace(library, optim=SimpleNamespace(SGD=lambda p, **given: sgd(p, **{**given, **settings})))


@pytest.mark.parametrize("settings", [{"lr": 0.011}, {"momentum": 0.8}, {"nesterov": True}])
def test_another_optimizer_is_a_mismatch(settings):
    work = small()
    with pytest.raises(Mismatch):
        timing.check_agreement({"ours": work.eager(peers.ours()), "peer": work.eager(tampered(**settings))})


def test_another_gradient_is_a_mismatch():
    work = peers.Work([("BatchNorm1d", 4)], cases.normal(6, 4))
    other = dataclasses.replace(work)
    other.target = work.target * 1.01  # same output, other dy
    with pytest.raises(Mismatch, match="array 1"):
        timing.check_agreement({"ours": work.eager(peers.ours()), "peer": other.eager(peers.ours())})


def test_each_turn_trains_from_the_same_weights():
    net = small().eager(peers.ours())
    net.prepare()
    first = net.result()
    for _ in range(3):
        net.call()
    again = small().eager(peers.ours())
    for other in (net, again):
        other.prepare()
        assert all(np.array_equal(a, b) for a, b in zip(other.result(), first, strict=True))


def test_missing_peers_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda package: None if package == "jax" else object())
    assert peers.find_peers() == (
        ["torch"],
        ["JAX is left out: it is not installed; pip install -e '.[parity]' adds it"],
    )


def test_only_installed_peers_take_part():
    contestants, note = peers.enter(small(), (), compiled=True)
    assert list(contestants) == ["ours", "ours (1)", "replay"] and note == ""


def test_ours_on_one_thread_is_no_peer():
    row = Row("norms", "BN 64x128", "us", {"ours": 2.0, "ours (1)": 1.0, "JAX": 4.0})
    assert row.measure("best peer") == 0.5
    assert Row("norms", "BN 64x128", "us", {"ours": 2.0, "ours (1)": 1.0}).measure("best peer") is None


def test_ours_runs_on_the_threads_that_it_says(monkeypatch):
    from tinygrad_bn import get_num_threads, set_num_threads

    before = get_num_threads()
    try:
        set_num_threads(3)
        peers.all_threads.cache_clear()
        peers.enter(small(), (), compiled=False)
        set_num_threads(1)  # as the last turn of the case before may have left it
        contestants, _ = peers.enter(small(), (), compiled=False)
        seen = []
        for name in ("ours", "ours (1)", "ours"):
            contestants[name].prepare()
            seen.append(get_num_threads())
        assert seen == [3, 1, 3]
    finally:
        set_num_threads(before)
        peers.all_threads.cache_clear()


# cases


def test_the_limit_of_an_mlp_has_every_product_but_the_first_dx(monkeypatch):
    products = []
    limit = cases.matrix_products(cases.mlp(6, 5, 4, True))
    monkeypatch.setattr(cases.np, "matmul", lambda a, b, out: products.append((*a.shape, *b.shape, out.shape)))
    limit.call()
    sizes = [(5, 4), (4, 4), (4, 4), (4, 10)]
    wanted = [(6, i, i, o, (6, o)) for i, o in sizes] + [(o, 6, 6, i, (o, i)) for i, o in sizes]
    wanted += [(6, o, o, i, (6, i)) for i, o in sizes[1:]]
    assert sorted(products) == sorted(wanted)


def test_the_bare_chain_computes_what_the_engine_does():
    arrays = [np.array([v], np.float32) for v in (1, 0.999, 0.001)]
    timing.check_agreement({"ours": cases.chain(peers.ours(), arrays), "bare": giving(*cases.bare_chain(*arrays))})


def test_a_fresh_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such thing"):
        processes.child("-c", "raise ValueError('no such thing')")
    assert processes.child("-c", "print('noise'); print(0.25)") == 0.25


# verdicts


def verdicts(row):
    return {v["measure"]: v["verdict"] for v in row.verdicts()}


def test_ratios_are_to_the_fastest_peer_the_named_one_and_the_limit():
    values = {"ours": 6.0, "replay": 1.5, "PyTorch (1)": 20.0, "PyTorch (2)": 12.0, "torch.compile": 3.0, "JAX": 8.0}
    row = Row("mlp", "60x64x100 BN", "us", values, limit=2.0)
    measured = [row.measure(what) for what in ("value", "best peer", "PyTorch", "JAX", "limit")]
    assert measured == [6.0, 2.0, 0.5, 0.75, 3.0]  # PyTorch: eager, at its better number of threads
    assert [row.measure(f"replay: {what}") for what in ("value", "best peer", "JAX")] == [1.5, 0.5, 0.1875]
    assert row.measure("one thread: limit") is None
    row.values["ours (1)"] = 10.0
    assert [row.measure(f"one thread: {what}") for what in ("limit", "PyTorch (1)", "PyTorch (2)")] == [
        5.0,
        0.5,
        10 / 12,
    ]
    assert verdicts(row) == {"PyTorch": "PASS", "replay: JAX": "PASS", "replay: PyTorch": "PASS"}
    assert verdicts(Row("mlp", "60x64x100 BN", "us", {**values, "replay": 6.5}, 2.0))["replay: JAX"] == "miss"


def test_the_bound_itself_passes_and_what_is_not_there_is_not_judged():
    peer = {"PyTorch (1)": 10.0}
    assert verdicts(Row("activations", "Tanh 64x128", "us", {"ours": 9.0, **peer})) == {"best peer": "PASS"}
    assert verdicts(Row("activations", "Tanh 64x128", "us", {"ours": 9.01, **peer})) == {"best peer": "miss"}
    assert verdicts(Row("activations", "Tanh 64x128", "us", {"ours": 8.0})) == {"best peer": "not measured"}
    assert verdicts(Row("scaling", "BN", "slope", {"ours": 0.89})) == {"value": "miss"}
    assert verdicts(Row("scaling", "BN", "slope", {"ours": 0.9})) == {"value": "PASS"}
    assert verdicts(Row("scaling", "BN", "slope", {"ours": 1.11})) == {"value": "miss"}
    assert verdicts(Row("mlp", "60x64x100", "us", {"ours": 1.0})) == {}  # without BN there is no target


def test_norms_over_10_mb_are_also_judged_by_the_limit_on_one_thread_each():
    values = {"ours": 1.0, "ours (1)": 4.0, "replay": 3.0, "JAX": 4.0, "PyTorch (1)": 3.5, "PyTorch (2)": 0.9}
    others = {"PyTorch": "miss", "replay: best peer": "miss"}
    for case, verdict in {"BN 4096x1024": "PASS", "GN(8) 64x64x28x28": "miss", "LN 4096x1024": "miss"}.items():
        assert verdicts(Row("norms", case, "us", values, 2.0)) == {**others, "one thread: limit": verdict}
    assert verdicts(Row("norms", "BN 256x1024", "us", values, 2.0)) == others
    values |= {"PyTorch (2)": 1.0, "replay": 0.95}
    assert verdicts(Row("norms", "BN 256x1024", "us", values)) == {"PyTorch": "PASS", "replay: best peer": "PASS"}
    assert verdicts(Row("norms", "geometric mean, eager / PyTorch", "ratio", {"ours": 0.65})) == {"value": "PASS"}
    mean = Row("norms", "geometric mean, replay / best", "ratio", {"replay": 0.51})
    assert verdicts(mean) == {"replay: value": "miss"}


def test_the_means_of_the_norms_are_of_the_ratios_of_all_rows(monkeypatch):
    """Of two kinds of rows: the mean of 1/2 and 2 is 1, whatever the rows' own sizes."""
    turns = iter([{"ours": 1.0, "replay": 6.0}, {"ours": 400.0, "replay": 50.0}] * 6)
    peers = [
        {"PyTorch (1)": 9.0, "PyTorch (2)": 2.0, "JAX": 3.0},
        {"PyTorch (1)": 200.0, "PyTorch (2)": 300.0, "JAX": 100.0},
    ]
    several = iter(peers * 6)
    monkeypatch.setattr(cases.Settings, "time", lambda self, entered: {**next(turns), **next(several), "copy": 1.0})
    monkeypatch.setattr(cases, "enter", lambda work, *_: ({}, ""))
    monkeypatch.setattr(cases, "normal", lambda *shape: np.broadcast_to(np.float32(1), shape))
    *_, eager, replayed = cases.norms(cases.Settings())
    assert eager.values == {"ours": pytest.approx(1.0)}  # 1 / 2 and 400 / 200
    assert replayed.values == {"replay": pytest.approx((6 / 2 * 50 / 100) ** 0.5)}
    assert "JAX 1.15" in eager.note and "best peer 1.22" in replayed.note  # (1 / 3 400 / 100)^0.5


def test_every_target_has_its_row(monkeypatch):
    """The rows that a full run makes, without its measurements, and each target of the table among them."""
    monkeypatch.setattr(cases.Settings, "time", lambda self, entered: dict.fromkeys(entered, 1.0))
    entered = ("ours", "ours (1)", "replay", "PyTorch (1)", "JAX")
    monkeypatch.setattr(cases, "enter", lambda work, *_: (dict.fromkeys(entered), ""))
    monkeypatch.setattr(cases, "normal", lambda *shape: np.broadcast_to(np.float32(1), shape))
    monkeypatch.setattr(cases, "FAMILIES", {name: lambda n: Contestant(int) for name in cases.FAMILIES})
    monkeypatch.setattr(processes, "child", lambda *arguments, **environment: 1.0)
    settings = cases.Settings()
    rows = [row for name, section in command.SECTIONS.items() if name != "grid" for row in section(settings)]
    rows += processes.grid(cases.Settings(quick=True))
    for section, pattern, *_ in report.TARGETS:
        assert any(row.section == section and fnmatchcase(row.case, pattern) for row in rows), (section, pattern)
    assert len([row for row in rows if row.section == "norms"]) == 12 + 2


def test_the_table_has_every_number_and_verdict():
    rows = [
        Row("norms", "BN 4096x1024", "us", {"ours": 1234.5, "ours (1)": 900.0, "JAX": 2469.0}, 500.0, "a note"),
        Row("norms", "LN 64x128", "us", {"ours": 9.876, "PyTorch (1)": 10.0}),
    ]
    head, first, note, second = report.table(rows).splitlines()
    assert (
        " ".join(head.split()) == "norms unit ours ours (1) JAX PyTorch (1) ours/best limit ours/limit target: verdict"
    )
    assert first.split()[:4] == ["BN", "4096x1024", "us", "1,234"] and "2,469" in first and "0.5" in first.split()
    assert first.endswith(
        "<= 1 of PyTorch: not measured; replay <= 0.95 of best peer: not measured; one thread <= 2.2 limits: PASS"
    )
    assert note.strip() == "a note" and "9.88" in second.split() and "0.988" in second.split()


# the command


def test_json_has_rows_ratios_verdicts_and_the_machine(tmp_path, monkeypatch, capsys):
    def rows(settings):
        yield Row("overhead", "engine, per op", "us", {"ours": 3.0, "replay": 2.0, "PyTorch (1)": 4.0}, note="n")

    monkeypatch.setitem(command.SECTIONS, "overhead", rows)
    monkeypatch.setattr(command, "find_peers", lambda: ([], ["JAX is left out"]))
    file = tmp_path / "result.json"
    assert command.main(["--only", "overhead", "--json", str(file)]) == 0
    result = json.loads(file.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert list(result) == ["machine", "missing", "quick", "busy", "sections", "rows", "summary"]
    assert result["missing"] == ["JAX is left out"] and result["sections"] == ["overhead"]
    assert {"cpu", "cores", "versions", "threads", "environment"} == set(result["machine"])
    assert result["rows"] == [
        {
            "section": "overhead",
            "case": "engine, per op",
            "unit": "us",
            "values": {"ours": 3.0, "replay": 2.0, "PyTorch (1)": 4.0},
            "limit": None,
            "note": "n",
            "ratios": {"best peer": 0.75, "limit": None},
            "verdicts": [
                {"measure": "value", "value": 3.0, "low": 0, "high": 2.0, "verdict": "miss"},
                {"measure": "replay: value", "value": 2.0, "low": 0, "high": 2.5, "verdict": "PASS"},
            ],
        }
    ]
    assert result["summary"] == {"passed": 1, "missed": ["overhead: engine, per op (<= 2)"], "not measured": []}
    out = capsys.readouterr().out
    assert "JAX is left out" in out and "<= 2: miss" in out and "1 targets met, 1 missed" in out


def test_the_legend_says_what_a_limit_is(monkeypatch, capsys):
    """Every section that has a limit in a target is in the explanation."""
    row = Row("overhead", "engine, per op", "us", {"ours": 3.0})
    monkeypatch.setitem(command.SECTIONS, "overhead", lambda settings: iter([row]))
    assert command.main(["--only", "overhead"]) == 0
    explained = capsys.readouterr().out.split("limit: ")[1].split("\n\n")[0]
    limited = {section for section, _, what, _, _ in report.TARGETS if what.endswith("limit")}
    assert limited and all(section in explained for section in limited) and '"<= 2 limits"' in explained


HELP_ALONE = """
import sys
class Nothing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("jax", "matplotlib", "scipy", "sklearn", "threadpoolctl", "torch", "tqdm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
import runpy
sys.argv = ["benchmarks", "--help"]
runpy.run_module("benchmarks", run_name="__main__")
"""


def test_help_needs_no_extra():
    done = subprocess.run([sys.executable, "-c", HELP_ALONE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--no-compile" in done.stdout, done.stderr


def test_openblas_settings_that_slow_numpy_are_said(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    assert "warning" not in report.machine_line(report.machine())
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    line = report.machine_line(report.machine())
    assert "OPENBLAS_CORETYPE=Haswell" in line and "warning: OPENBLAS_CORETYPE may slow" in line


@pytest.mark.parametrize("arguments", [["--only", "norms,nonsense"], ["--json", "/no/such/folder/file"]])
def test_bad_arguments_are_refused_before_anything_runs(arguments, monkeypatch, capsys):
    monkeypatch.setattr(command.cases, "Settings", lambda *_: pytest.fail("it runs"))
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2 and ("nonsense" in (text := capsys.readouterr().err) or "no folder" in text)


def test_the_busy_process_ends_with_the_run():
    with pytest.raises(KeyError), command.busy_core() as process:
        assert process.poll() is None
        raise KeyError
    assert process.poll() is not None


# the profile


def test_the_profile_rewrites_products_and_nothing_else():
    code = "y = x @ w.T + f(a @ b)\nz = np.matmul(a, b, out=c)\nop = implements(np.matmul)\ns = np.sum(a)"
    tree = profiling.TimedProducts().visit(ast.parse(code))
    assert ast.unparse(tree).splitlines() == [
        "y = timed_matmul(x, w.T) + f(timed_matmul(a, b))",
        "z = timed_matmul(a, b, out=c)",
        "op = implements(np.matmul)",
        "s = np.sum(a)",
    ]


def test_timed_parts_add_up_by_name(clock, monkeypatch):
    def slow(a, b):
        clock.now += 2.0
        return a @ b

    a, b = np.ones((2, 3)), np.ones((3, 4))
    product = profiling.timed("product", profiling.shapes, slow)
    product(a, b)
    assert not profiling.spent
    monkeypatch.setattr(profiling, "watching", True)
    assert np.array_equal(product(a, b), a @ b) and np.array_equal(product(a, b), a @ b)
    key = ("product", "2x3 @ 3x4")
    assert profiling.spent.pop(key) == 4.0 and profiling.calls.pop(key) == 2


@pytest.mark.slow
def test_the_versions_of_the_lesson_agree():
    """docs/3-kernels.md: every version computes what the first one does, and the sums are sums."""
    from benchmarks import lesson

    x = np.random.default_rng(0).normal(3, 2, (60, 35)).astype(np.float32)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + lesson.EPS)
    for name, version in {"plain": lesson.column_by_column, **lesson.VERSIONS}.items():
        y = np.full_like(x, np.nan)
        version(x, y)
        np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=name)
    for name, total in lesson.SUMS.items():
        rel = 1e-12 if name in ("sum along a row", "sum that may be reordered") else 1e-6
        assert total(x.reshape(-1)) == pytest.approx(exact.sum(), rel=rel), name
    for name, version in lesson.VIEWS.items():
        y = np.full_like(x, np.nan)
        version(x, y)
        assert np.array_equal(y, 2 * x), name


def test_the_lesson_measures_what_it_says():
    """Where the mean is 10,000: sums in blocks and a mean in two parts keep the digits that a rounded mean loses."""
    from benchmarks import lesson

    off = lesson.errors((1000, 35))
    assert off["all loops in float32, with blocks"] < 10 < 100 < off["last loop in float32"]
    assert off["in blocks, by slice"] < 1 and off["in blocks, by offset"] < 1


# Machine code

SNIPPET = """
\t.file\t1 "{folder}" "{file}"
\t.loc\t1 2 0
.LBB0_1:
\tvmulps\t(%rdi,%rax,4), %ymm0, %ymm1
\tvaddps\t%ymm1, %ymm2, %ymm2
\taddq\t$8, %rax
\tjne\t.LBB0_1
.LBB0_2:
\tvmulss\t(%rdi,%rax,4), %xmm0, %xmm1
\tincq\t%rax
\tjne\t.LBB0_2
\t.loc\t1 4 0
.LBB0_3:
\tvaddpd\t%zmm0, %zmm1, %zmm1
.LBB0_4:
\tvgatherdps\t(%rdi,%ymm1,4), %ymm2 {{%k1}}
\tvsubsd\t%xmm0, %xmm1, %xmm1
\tjne\t.LBB0_4
\tjmp\t.LBB0_3
"""


def test_machine_code_is_read(tmp_path):
    """Innermost loops; the widest of those that belong to a line; helpers without a loop don't count as places."""
    from benchmarks import assembly

    (tmp_path / "code.py").write_text("def f(x):\n    for v in x:\n        pass\n    for v in x: pass\n")
    loops = assembly.loops_of(SNIPPET.format(folder=tmp_path, file="code.py"))
    assert [(loop.place[1], loop.widths) for loop in loops] == [(2, [8, 1]), (4, [1])]
    assert [loop.width for loop in loops] == [8, 1] and not any(loop.partly for loop in loops)
    assert [loop.gathers for loop in loops] == [False, True]
    assert assembly.function_at(loops[0].place) == ("f", True)
    assert assembly.Loop(("f", 1), [8, 1, 1, 1]).partly and not assembly.Loop(("f", 1), [8, 4, 1, 1]).partly


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="there is no machine code")
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads the machine code of x86 alone")
def test_the_kernels_that_must_be_vectorized_are():
    from benchmarks import assembly

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.assembly", *assembly.MUST], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT VECTORIZED" not in done.stdout
    unseen = [name for name in assembly.MUST if not re.search(rf"^{name}$", done.stdout, re.MULTILINE)]
    assert not unseen, f"no machine code was shown of {unseen}"
