"""PyTorch's gradcheck on the same battery: the counts that chapter 4 of the book shows, and who is better."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from gradient_battery import count

import tinygrad_bn as tb

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
CHAPTER = Path(__file__).parents[2] / "docs" / "4-gradient-checks.md"


def test_the_table_in_chapter_4(figure):
    found = count(pytorch=True)
    rows = found.table()
    for name, (passed, wrong, rejected, right) in rows.items():
        figure(name, f"{passed} of {wrong} wrong pass, {rejected} of {right} right rejected")
    text = CHAPTER.read_text(encoding="utf-8")
    shown = re.findall(r"^\| (.*gradcheck.*?) \| (\d+) of (\d+) \| (\d+) of (\d+) \|$", text, re.MULTILINE)
    assert {name.replace("`", ""): tuple(map(int, numbers)) for name, *numbers in shown} == rows
    assert len(found.passed) < len(found.passed_pytorch) and len(found.rejected) < len(found.rejected_pytorch)


class Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, n):
        ctx.save_for_backward(x)
        ctx.n = n
        return x**n

    @staticmethod
    def backward(ctx, dy):
        return 0 * dy, None


class Power(Zeros):
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return ctx.n * x ** (ctx.n - 1) * dy, None


class Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y, x + y

    @staticmethod
    def backward(ctx, a, b):
        x, y = ctx.saved_tensors
        return a * y + b, a * x + b


@pytest.mark.parametrize("call", [lambda f, x: f.apply(x, 3), lambda f, x: f.apply(x * 1, 3).sum()])
def test_a_function_of_pytorch_inside_of_gradcheck_is_refused(call):
    """Its forward would run on our tensors, and its backward never: a backward of zeros would pass."""
    x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(TypeError, match=r"check_pair\(Zeros, None, inputs\)"):
        tb.gradcheck(lambda x: call(Zeros, x), x)


def test_a_profiler_that_runs_is_kept_and_does_not_hide_the_function():
    seen = []

    def profiler(*event):
        seen.append(event)

    x = tb.tensor(np.array([1.0, 2.0]), requires_grad=True)
    sys.setprofile(profiler)
    try:
        with pytest.raises(TypeError, match="check_pair"):
            tb.gradcheck(lambda x: Zeros.apply(x, 3), x)
        assert sys.getprofile() is profiler and seen
    finally:
        sys.setprofile(None)


class Pick(torch.autograd.Function):
    """Labels are a tensor of integers; the number of rows is an output, too; x is changed in place."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.size = len(x)
        ctx.mark_dirty(x.mul_(2))
        return x, x[places].clone(), len(x)

    @staticmethod
    def backward(ctx, dx, dy, _):
        (places,) = ctx.saved_tensors
        return 2 * (dx + torch.zeros(ctx.size, dtype=dy.dtype).index_add(0, places, dy)), None


def test_labels_several_outputs_and_work_in_place():
    x, places = np.array([1.0, -2.0, 3.0]), np.array([0, 2, 2])
    report = tb.check_pair(Pick, None, {"places": places, "x": x}, report=True)
    assert report and [one.name for one in report.inputs] == ["input x"]


@pytest.mark.parametrize("how", [lambda f: f, lambda f: f.apply])
def test_a_function_of_pytorch_is_checked_by_its_arrays(how):
    x = np.random.default_rng(0).standard_normal(4)
    assert tb.check_pair(how(Power), None, [x, 3])
    with pytest.raises(tb.GradcheckError, match="4 of 4 elements wrong, all 0 times the numerical one"):
        tb.check_pair(how(Zeros), None, [x, 3])
    assert tb.check_pair(how(Pair), None, [x, 2 * x])


def test_numerical_gradients_beside_pytorchs_autograd():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 2))
    dy = rng.standard_normal((4, 2))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w)]
    torch.tanh(leaves[0] @ leaves[1]).backward(torch.tensor(dy))
    for method, most in (("ridders", 1e-10), ("central", 1e-8), ("complex", 1e-14)):
        found = tb.numerical_gradient(lambda a, b: np.tanh(a @ b), [x, w], dy, method=method)
        for (value, error), leaf in zip(found, leaves, strict=True):
            rounded = 4e-16 * np.abs(leaf.grad.numpy()).max()  # PyTorch's own
            assert np.all(np.abs(value - leaf.grad.numpy()) <= error + rounded), method
            assert error.max() < most, method


def function(apply):
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, b=None, scale=2.0):
            ctx.factor = scale
            return apply(x, b, scale)

        @staticmethod
        def backward(ctx, dy):
            return ctx.factor * dy, None, None

    return Scale


def test_arguments_of_a_function_of_pytorch_by_name():
    seen = []

    def apply(x, b, scale):
        seen.append((b, scale))
        return x * scale

    Scale = function(apply)
    x = np.random.default_rng(0).standard_normal(3)
    assert tb.check_pair(Scale, None, {"x": x, "scale": 3.0})
    assert set(seen) == {(None, 3.0)}
    for wrong in ({"x": x, "scael": 2.0}, {"scale": 2.0}):
        with pytest.raises(TypeError, match=r"inputs must name the arguments of Scale\.forward"):
            tb.check_pair(Scale, None, wrong)
