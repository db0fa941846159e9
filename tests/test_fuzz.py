"""The fuzzer (harness/fuzzing.py): everything public is called with bad input, and is either correct or refuses it.

A failure is printed with the command that repeats it: PYTHONPATH=. python tests/harness/fuzzing.py --only NAME NUMBER
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import fuzz_targets
import numpy as np
import pytest
from fuzz_targets import TARGETS, public_names
from fuzzing import Call, Failure, World, clean, freeze, fuzz, run

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, nn, optim

SEED = 0
ROOT = Path(__file__).parents[1]
# These are given damaged or missing files, an unreachable server or a false gradient half of the time or always, so
# that a valid call may be refused as well.
OFTEN_REFUSED = {"load", "data.load_npz", "data.load_mnist", "data.download_mnist", "GradcheckError", "differentiable"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The files of the targets, and those that a corrupted path names, are in a folder of their own."""
    place = tmp_path / "fuzz"
    place.mkdir()
    monkeypatch.setattr(fuzz_targets, "FOLDER", place)
    monkeypatch.chdir(place)


def test_everything_public_is_called():
    assert public_names() - set(TARGETS) == set()
    assert {name.removesuffix("=") for name in TARGETS} - public_names() == set(), "named here, and not public"


def test_a_name_that_is_new_would_be_missed(monkeypatch):
    monkeypatch.setattr(F, "__all__", [*F.__all__, "new_op"])
    monkeypatch.setattr(Tensor, "new_method", lambda self: 0, raising=False)
    assert public_names() - set(TARGETS) == {"F.new_op", "Tensor.new_method"}


@pytest.mark.parametrize("name", ["NewLayer", "NewLayer2d"])
def test_a_layer_that_is_new_says_where_its_arguments_go(name):
    with pytest.raises(NotImplementedError, match=rf"nn\.{name} .* add .* made\(\) in tests/harness/fuzz_targets\.py"):
        fuzz_targets.made(name, World(name, 0))


@pytest.mark.slow
def test_valid_calls_are_correct():
    """Numbers that 20 divides are left as they are. A target whose valid calls are refused would test nothing."""
    for name in sorted(set(TARGETS) - OFTEN_REFUSED):
        assert "correct" in [run(TARGETS[name], name, 20 * i) for i in range(4)], name


@pytest.mark.slow
def test_a_few_thousand_calls(figure):
    report = fuzz(TARGETS, 3200, SEED)
    figure("fuzzer, fast part", report)
    assert not report.failures, "\n".join(report.failures)


@pytest.mark.slow
def test_more_calls_of_what_reads_where_its_arguments_say(figure):
    """Nine calls of each are too few to meet a class that is one too large."""
    names = ["F.cross_entropy", "F.nll_loss", "F.mse_loss", "F.conv2d", "F.max_pool2d", "F.group_norm"]
    report = fuzz({name: TARGETS[name] for name in names}, 300 * len(names), SEED)
    figure("fuzzer, fast part, losses and windows", report)
    assert not report.failures, "\n".join(report.failures)


# What the oracle must see: functions with one defect each, called as the fuzzer calls the package's own.


def writes(x):
    x.data[...] = 0
    return x


def casts(x):
    return Tensor(x.data.astype(np.float64))


def crashes(x):
    raise IndexError("index 3 is out of bounds")


def says_nothing(x):
    raise ValueError("operands could not be broadcast together")


def changes_and_raises(x):
    x.data[...] += 1
    raise ValueError("x must be better")


def draws_and_raises(x):
    nn.init.uniform_(tb.tensor([1.0]))
    raise ValueError("x must be better")


def depends_on_layout(x):
    return x * (1.0 if x.data.flags.c_contiguous else 0.5)


def wrong(x):
    return x * 1.01


def wrong_backward(x):
    return tb.differentiable(lambda x: (x * 1, lambda dy: dy[..., 5]))(x)


def backward_writes(x):
    return tb.differentiable(lambda x: (x * 1, lambda dy: np.multiply(dy, 2, out=dy)))(x)


def backward_depends_on_layout(x):
    return tb.differentiable(lambda x: (x * 1, lambda dy: dy * (1.0 if dy.flags.c_contiguous else 0.5)))(x)


def warns(x):
    return Tensor(x.data + np.array(1j).astype(np.float32))


DEFECTS = {
    writes: "wrote into x",
    casts: "float64 for",
    crashes: "IndexError",
    says_nothing: "no argument is named",
    changes_and_raises: "has changed",
    draws_and_raises: "random numbers were drawn",
    depends_on_layout: "on clean copies",
    wrong: "NumPy's formula",
    wrong_backward: "backward",
    backward_writes: "wrote into",
    backward_depends_on_layout: "the gradient is",
    warns: "ComplexWarning",
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda f: f.__name__)
def test_the_oracle_sees(defect):
    def target(w: World) -> Call:
        x = Tensor(np.ones((3, 4), np.float32, order="F"), requires_grad=True)
        return Call(defect, {"x": x}, formula=lambda x: x)

    with pytest.raises(Failure, match=DEFECTS[defect]):
        run(target, defect.__name__, 20)


def test_the_oracle_sees_what_remains_in_what_is_meant_to_change():
    def forgets(x):
        x.data[...] = 2 if x.data.flags.c_contiguous else 0

    def target(w: World) -> Call:
        return Call(forgets, {"x": Tensor(np.ones((3, 4), np.float32, order="F"))}, inplace=("x",))

    with pytest.raises(Failure, match="there remains"):
        run(target, "forgets", 20)


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_the_oracle_sees_what_the_formula_refuses(value):
    """Also where the numbers are not to be compared."""

    def refuses(x):
        raise ValueError("no such thing")

    def target(w: World) -> Call:
        return Call(lambda x: x * 1, {"x": Tensor(np.full(3, value))}, formula=refuses)

    with pytest.raises(Failure, match="no such thing"):
        run(target, "target", 20)


def test_what_is_frozen_and_cleaned():
    net = nn.BatchNorm1d(3)
    before = freeze(net)
    assert freeze(net) == before
    net.running_mean[0] = 1
    assert freeze(net) != before
    sgd = optim.SGD([tb.tensor([1.0], requires_grad=True)], momentum=0.9)
    before = freeze(sgd)
    sgd.param_groups[0]["params"][0].grad = np.ones(1, np.float32)
    assert freeze(sgd) != before
    x = np.arange(6.0).reshape(2, 3).T[::-1].astype(">f8")
    assert clean(x).flags.carray and clean(x).dtype.isnative and (clean(x) == x).all()


# The long part


def in_a_process(*options, **environment):
    """fuzzing.py with a kernel cache of its own: the check of bounds is compiled in."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": cache, **environment}
        command = [sys.executable, str(ROOT / "tests" / "harness" / "fuzzing.py"), *map(str, options)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.long
def test_fifty_thousand_calls(figure):
    figure("fuzzer", in_a_process("--calls", 50_000, "--seed", SEED))


@pytest.mark.long
def test_with_bounds_checked(figure):
    figure("fuzzer, NUMBA_BOUNDSCHECK=1", in_a_process("--calls", 20_000, "--seed", 1, NUMBA_BOUNDSCHECK="1"))


@pytest.mark.long
def test_bounds_are_checked_there():
    """Without it, the run above would prove nothing."""
    program = (
        "import numpy as np; from tinygrad_bn.ops.loss import cross_entropy_backward as f\n"
        "a = np.zeros((1, 2)); f(a, np.array([7]), -100, np.ones(1), a)"
    )
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": cache, "NUMBA_BOUNDSCHECK": "1"}
        done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert "IndexError" in done.stderr


@pytest.mark.long
def test_large_arrays_with_bounds_checked():
    """The fuzzer's arrays are small: these files take the ways of large ones, in pieces and on several threads."""
    files = [f"tests/test_{name}.py" for name in ("threads", "images", "golden", "gradients", "norm_variants")]
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "NUMBA_CACHE_DIR": cache, "NUMBA_BOUNDSCHECK": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.long
def test_a_seed_that_nobody_has_seen(figure):
    """It is in the message where it fails: python tests/harness/fuzzing.py --calls 20000 --seed ... runs it again."""
    seed = secrets.randbits(20)
    figure(f"fuzzer, fresh seed {seed}", in_a_process("--calls", 20_000, "--seed", seed))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 7))
def test_other_seeds(seed, figure):
    figure(f"fuzzer, seed {seed}", in_a_process("--calls", 10_000, "--seed", seed))
