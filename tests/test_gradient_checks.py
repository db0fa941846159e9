"""gradcheck beyond right and wrong: reports, kinks, what cannot be told, float32, a tensor that comes twice."""

import warnings

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import GradcheckError, differentiable, gradcheck, gradgradcheck, tensor


def leaf(values):
    return tensor(np.asarray(values, float), requires_grad=True)


def normal(*shape):
    return leaf(np.random.default_rng(0).standard_normal(shape))


half = differentiable(lambda x: (x**2, lambda dy: dy * x))


def test_a_report_instead_of_an_error():
    x = leaf([3.0, -1.0])
    report = gradcheck(half, x, report=True)
    assert not report and len(report.problems) == 1
    (one,) = report.inputs
    np.testing.assert_allclose(one.analytic, one.numerical / 2, rtol=1e-9)
    assert not one.right.any() and not one.kink.any() and (one.error < 1e-9).all()
    text = str(report)
    assert "input 0, shape (2,)" in text and text.count("WRONG") == 3 and "fails; values are of" in text
    right = gradcheck(lambda x: x**2, x, report=True)
    assert right and right.inputs[0].right.all() and "passes; values are of" in str(right)


def test_all_wrong_inputs_are_named():
    op = differentiable(lambda a, b, c: (a * b * c, lambda dy: (dy * b * c, dy * a, 2 * dy * a * b)))
    with pytest.raises(GradcheckError) as caught:
        gradcheck(op, [normal(3), leaf([2.0, 3, 4]), leaf([2.0, 3, 4])])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["input 1", "input 2"]
    assert "all 2 times the numerical one" in lines[1] and lines[2].endswith("see help(tb.gradcheck)")


def test_a_wrong_output_element_is_named_where_few_are():
    """Its gradient is lost beside the others in a sum, so that only dy of its own shows it."""

    @differentiable
    def op(x):
        y = np.stack([x, 1e-7 * x**2])
        return y, lambda dy: dy[0] + 2e-7 * x * dy[1] * np.where((dy[0] == 0).all() and dy[1].any(), 1.5, 1)

    with pytest.raises(GradcheckError, match=r"1 of 2 elements wrong.*these are of output element \(1, 0\) alone"):
        gradcheck(op, leaf([1.0, 2.0]))


@pytest.mark.parametrize(
    ("slope", "right"), [(0.0, True), (0.3, True), (0.5, True), (1.0, True), (-0.1, False), (1.1, False)]
)
def test_at_a_kink_what_lies_between_the_sides_passes_and_is_reported(slope, right):
    op = differentiable(lambda x: (np.maximum(x, 0), lambda dy: dy * np.where(x == 0, slope, x > 0)))
    report = gradcheck(op, leaf([0.0, 1.0, -2.0]), report=True)
    assert bool(report) == right
    if right:
        assert report.inputs[0].kink.tolist() == [True, False, False]
        assert any("1 of 3 elements lie at a kink" in note for note in report.notes)


@pytest.mark.parametrize(("share", "right"), [(1.0, False), (0.5, True)])
def test_equal_elements_under_a_maximum_count_once(share, right):
    """Each alone may get all; moved together, they must not get it twice."""
    op = differentiable(lambda x: (x.max(keepdims=True), lambda dy: dy * share * (x == x.max())))
    report = gradcheck(op, leaf([2.0, 2.0, 1.0]), report=True)
    assert bool(report) == right
    assert right or "moved together" in report.problems[0]


def test_outputs_that_are_not_finite_are_said_once():
    with pytest.raises(GradcheckError) as caught:
        gradcheck(lambda x: x.log(), leaf([-1.0, 2.0]))
    assert str(caught.value).startswith("fn gives NaN or inf in 1 of its 2 output elements") and "\n" not in str(
        caught.value
    )
    with pytest.raises(ValueError, match=r"inputs\[0\] must be finite"):
        gradcheck(lambda x: x * 2, leaf([np.inf]))


def test_what_is_too_rough_is_not_waved_through():
    """Values that were float32 in between change by a sixteenth at a time: zeros are as good a gradient as any."""
    rough = differentiable(lambda x: ((1e6 + np.sin(x)).astype("f4").astype("f8"), lambda dy: 0 * dy))
    x = leaf([0.5, 0.4, 1.0])
    with pytest.raises(GradcheckError):
        gradcheck(rough, x)
    right = differentiable(lambda x: ((1e6 + np.sin(x)).astype("f4").astype("f8"), lambda dy: dy * np.cos(x)))
    with pytest.warns(RuntimeWarning, match="3 of 3 elements cannot be told"):
        gradcheck(right, x)


def test_a_few_elements_that_cannot_be_told_are_a_warning():
    """A sum that rounds like its largest term says nothing of the smallest."""
    rng = np.random.default_rng(0)
    noisy = differentiable(lambda x: (np.asarray((x**2).sum() * (1 + 1e-10 * rng.random())), lambda dy: 2 * x * dy))
    with pytest.warns(RuntimeWarning, match="1 of 3 elements cannot be told"):
        assert gradcheck(noisy, leaf([1e3, 1.0, 1e-6]))


def test_a_function_that_is_constant_but_for_rounding_passes_with_a_note():
    report = gradcheck(lambda x: F.layer_norm(x, 5).sum(), normal(3, 5), report=True)
    assert report and not report.warnings
    assert any("constant but for rounding" in note for note in report.notes)


def test_a_report_says_where_only_ops_of_the_package_have_run():
    own = gradcheck(lambda x: x.exp().sum(), normal(3), report=True)
    assert any("of the package's own ops (exp, sum): no backward of yours has run" in note for note in own.notes)
    other = gradcheck(lambda x: half(x.exp()), normal(3), report=True)
    assert not any("backward of yours" in note for note in other.notes)


@pytest.mark.parametrize("factor", [1, 0, -1, 1 + 1e-6])
def test_inputs_of_very_different_size(factor):
    """b is so large that the steps which are good for a are lost in its rounding."""
    a, b = leaf([5.759205128280498e-13, 1.3248878474448665e-12]), leaf([-445491063518.5546, 351781224292.9944])
    product = differentiable(lambda a, b: (a * b, lambda dy: (dy * b, factor * dy * a)))
    assert bool(gradcheck(product, [a, b], report=True)) == (factor == 1)


@pytest.mark.parametrize("factor", [1, 1 + 1e-6])
def test_elements_that_need_other_steps_than_those_before(factor):
    scale = np.array([1.0, 1e6, 1e-6])
    waves = differentiable(lambda x: (np.sin(scale * x), lambda dy: factor * dy * scale * np.cos(scale * x)))
    assert bool(gradcheck(waves, leaf([0.3, 0.7, 0.5]), report=True)) == (factor == 1)


@pytest.mark.parametrize("x", [[-5.5, -4.0, -3.1], [-6.0, -2.0, 3.0]])
def test_right_gradients_where_small_steps_stand_on_a_stair(x):
    """gelu by tanh: far out, 1 + tanh has few digits left."""

    @differentiable
    def gelu(x):
        c = np.sqrt(2 / np.pi)
        t = np.tanh(c * (x + 0.044715 * x**3))
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x**2)
        return 0.5 * x * (1 + t), lambda dy: dy * slope

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the last digits, nothing can be told
        assert gradcheck(gelu, leaf(x))


def test_a_tensor_that_comes_twice_is_one_input():
    x = normal(4)
    report = gradcheck(lambda a, b: a * b, [x, x], report=True)
    assert report and [one.name for one in report.inputs] == ["input 0"]
    np.testing.assert_allclose(report.inputs[0].analytic, report.inputs[0].numerical)


def test_inputs_keep_their_arrays_and_gradients():
    x, before = normal(3, 2), normal(3, 2).data
    array, counter = x.data, x._version[0]
    gradcheck(F.tanh, x)
    gradgradcheck(F.tanh, x)
    assert x.data is array and x._version[0] == counter and x.grad is None
    np.testing.assert_array_equal(x.data, before)


def square_forward(x):
    return x * x, x


def square_backward(dout, x):
    return 0 * dout


class Square:
    def forward(self, x):
        return x * x

    def backward(self, dout):
        return 0 * dout


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (lambda x: square_forward(x)[0], "square_backward never runs; check_pair.square_forward, square_backward,"),
        (lambda x, layer=None: Square.forward(None, x), "Square.backward never runs"),
    ],
)
def test_a_backward_that_never_runs_is_named(fn, names):
    with pytest.warns(RuntimeWarning, match=names):
        assert gradcheck(fn, normal(3))
    assert any("never runs" in text for text in gradcheck(fn, normal(3), report=True).warnings)


@pytest.mark.filterwarnings("error")
def test_a_backward_that_runs_is_not_warned_of():
    op = differentiable(lambda x: (square_forward(x)[0], lambda dy: 2 * x * dy))
    assert gradcheck(lambda x: op(x), normal(3)) and gradcheck(lambda x: x.exp(), normal(3))


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (differentiable(lambda x: (np.log(x), lambda dy: dy / x)), "NaN or inf in 1 of its 2"),
        (lambda x: x * np.random.default_rng().random(), "not deterministic"),
        (differentiable(lambda x: (x * 1, lambda dy: np.multiply(dy, 2, out=dy))), "wrote into dy"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_report_also_where_the_check_cannot_go_on(fn, words):
    report = gradcheck(fn, leaf([1.0, -2.0]), report=True)
    assert not report and words in report.problems[0]
    with pytest.raises(GradcheckError, match=words):
        gradcheck(fn, leaf([1.0, -2.0]))


@pytest.mark.parametrize(("x", "eps"), [([1.0, 2.0], 1e-18), ([1e8, 2e8], 1e-9), ([1.0, 2.0], 1e-320)])
def test_a_step_below_the_rounding_of_x_is_refused(x, eps):
    """The outputs would not move, and any gradient pass."""
    wrong = differentiable(lambda x: (x**2, lambda dy: 3 * x * dy))
    with pytest.raises(ValueError, match="eps must be at least"):
        gradcheck(wrong, leaf(x), eps=eps)
    with pytest.raises(GradcheckError):
        gradcheck(wrong, leaf(x), eps=1e-4 * x[0])


def test_one_wrong_element_among_many_kinks_is_the_one_that_is_named():
    x = np.zeros(60)
    x[1] = 1.0

    @differentiable
    def relu(x):
        return np.maximum(x, 0), lambda dy: dy * np.where(x > 0, 1.5, 0.5 * (x == 0))

    with pytest.raises(GradcheckError, match=r"1 of 60 elements wrong; worst: element \(1,\)"):
        gradcheck(relu, leaf(x))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.0, 0.0), (0.25, 0.75)])
def test_equal_elements_of_two_inputs_may_share_in_any_way(shares):
    a, b = leaf([1.0, 2.0, 3.0]), leaf([1.0, 0.0, 4.0])

    @differentiable
    def maximum(a, b):
        one, other = shares
        equal = a == b
        return np.maximum(a, b), lambda dy: (dy * ((a > b) + one * equal), dy * ((b > a) + other * equal))

    assert gradcheck(maximum, [a, b])


def test_equal_elements_of_two_inputs_count_once():
    twice = differentiable(lambda a, b: (np.maximum(a, b), lambda dy: (dy * (a >= b), dy * (b >= a))))
    with pytest.raises(GradcheckError, match="input 0 and input 1: the gradient is too large or too small where"):
        gradcheck(twice, [leaf([1.0, 2.0, 3.0]), leaf([1.0, 0.0, 4.0])])


def test_the_last_cache_of_a_function_with_a_narrow_domain():
    """At other values it raises, unless they are very near."""
    cache = {}

    @differentiable
    def entropy(p):
        if abs(p.sum() - 1) > 1e-5 or np.any(np.diff(p) < 0):
            raise ValueError("p must be sorted and sum to 1")
        cache["p"] = p
        return -p * np.log(p), lambda dy: -dy * (1 + np.log(cache["p"]))

    with pytest.raises(GradcheckError, match="an earlier call, after one with other values"):
        gradcheck(entropy, leaf([0.2, 0.3, 0.5]))


def test_a_state_that_cannot_be_looked_at_is_noted():
    @differentiable
    def picky(x):
        if abs(x[0] - 2) > 0.5 or (x[0] == x[0].astype(np.float32) and x[0] != 2):
            raise ValueError("x must be 2")
        if x[0] != 2 and abs(x[0] - 2) < 1e-6:
            raise ValueError("x must not be so near to 2")
        return x**2, lambda dy: 2 * x * dy

    report = gradcheck(picky, leaf([2.0]), report=True)
    assert not any("another gradient" in problem for problem in report.problems)


def test_a_parameter_behind_the_function_is_moved_too():
    layer = tb.nn.Linear(3, 2).double()
    x = tensor(np.random.default_rng(1).standard_normal((4, 3)))
    assert gradcheck(lambda *_: layer(x), list(layer.parameters()))


# float32


def single(*shape):
    return tb.Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32), requires_grad=True)


@pytest.mark.parametrize("fn", [F.tanh, F.softmax, lambda x: F.layer_norm(x, 5), lambda x: x.mean(axis=0)])
def test_float32_ops_are_checked_in_both_widths(fn):
    x = single(4, 5)
    assert gradcheck(fn, x)
    assert x.dtype == np.float32


@pytest.mark.parametrize("values", [[10.0, 0.0], [15.0, 0.0], [18.0, 0.0], [-8.0, 3.0]])
def test_float32_where_a_gradient_is_what_rounding_has_left(values):
    """y (1 - y) of a sigmoid near 1, as in PyTorch."""
    assert gradcheck(F.sigmoid, tb.Tensor(np.array(values, np.float32), requires_grad=True))


@pytest.mark.parametrize("seed", range(5))
def test_float32_far_from_0(seed):
    x = (1e3 + np.random.default_rng(seed).standard_normal((6, 3))).astype(np.float32)
    assert gradcheck(lambda x: x - x.mean(axis=0), tb.Tensor(x, requires_grad=True))
    assert gradcheck(lambda x: F.batch_norm(x, None, None, training=True), tb.Tensor(x, requires_grad=True))


def test_a_mistake_in_float32_alone_is_noticed():
    @differentiable
    def square(x):
        return x * x, lambda dy: 2 * x * dy * x.dtype.type(1.001 if x.dtype == np.float32 else 1)

    assert gradcheck(square, normal(3))
    with pytest.raises(
        GradcheckError, match=r"in float32 differs from the one in float64: 3 of 3 .* all 1\.00(1|09999\d*) times"
    ):
        gradcheck(square, single(3))


def test_float32_code_that_takes_nothing_else_is_named():
    w = single(3)
    with pytest.raises(TypeError, match="fn cannot be checked in float64 as well"):
        gradcheck(lambda x: x * w, single(3))


def test_rules_with_two_results_are_refused_by_name():
    @differentiable
    def both(x):
        return (x, 2 * x), lambda dy: dy

    with pytest.raises(TypeError, match="the result of both must be one array, got a tuple of 2"):
        gradcheck(both, normal(3))


def test_a_plain_function_that_returns_its_cache_is_sent_to_check_pair():
    with pytest.raises(TypeError, match=r"check_pair\(forward, backward, inputs\)"):
        gradcheck(lambda x: (x * x, {"cache": 1}), normal(3))


# What fools a check


def steep(factor, steepness):
    @differentiable
    def op(x):
        y = np.sin(steepness * x[0]) + np.sin(x[1:])
        return y, lambda dy: np.append(steepness * np.cos(steepness * x[0]) * dy.sum(), factor * np.cos(x[1:]) * dy)

    return op


@pytest.mark.parametrize("steepness", [1e5, 1e6, 1e7])
def test_steps_of_a_steep_element_are_not_taken_for_the_others(steepness):
    assert gradcheck(steep(1.0, steepness), normal(6))
    with pytest.raises(GradcheckError, match="5 of 6 elements wrong"):
        gradcheck(steep(1.001, steepness), normal(6))


@differentiable
def one_number_is_taken_for_1(x):
    return np.sin(x), lambda dy: np.cos(x) * (1 if dy.size > 1 and not any(dy.strides) else dy)


@differentiable
def one_column_is_taken_for_one_number(x):
    return np.sin(x), lambda dy: np.cos(x) * (dy[:1] if dy.ndim == 2 and dy.strides[1] == 0 and dy.strides[0] else dy)


@pytest.mark.parametrize("op", [one_number_is_taken_for_1, one_column_is_taken_for_one_number])
def test_dy_that_is_repeated_in_place(op):
    with pytest.raises(GradcheckError, match="repeated in place, as the gradient of a sum is"):
        gradcheck(op, normal(4, 3))


@differentiable
def both_in_fortran_order(x):
    def pullback(dy):
        if x.flags.f_contiguous and dy.flags.f_contiguous and not dy.flags.c_contiguous:
            return np.cumsum(dy.T[::-1], axis=1)[::-1].T
        return np.cumsum(dy[:, ::-1], axis=1)[:, ::-1]

    return np.cumsum(x, axis=1), pullback


@differentiable
def channels_last(x):
    def pullback(dy):
        last = dy.ndim > 2 and dy.strides[1] == dy.itemsize < dy.strides[2]
        return np.cos(x) * (np.ravel(dy, "K").reshape(dy.shape) if last else dy)

    return np.sin(x), pullback


@differentiable
def one_of_two_in_fortran_order(a, b):
    rows = (np.ravel(a, "K") ** 2 + np.ravel(b, "K") ** 2).reshape(a.shape, order="F" if a.flags.fnc else "C")
    return np.arctan2(a, b), lambda dy: (dy * b / rows, -dy * a / rows)


@differentiable
def only_dy_in_fortran_order(x):
    def pullback(dy):
        other = x.flags.c_contiguous and not dy.flags.c_contiguous and dy.flags.f_contiguous
        return np.cos(x) * (np.ravel(dy, "K").reshape(dy.shape) if other else dy)

    return np.sin(x), pullback


@pytest.mark.parametrize(
    ("op", "count", "words"),
    [
        (only_dy_in_fortran_order, 1, "for dy in Fortran order"),
        (both_in_fortran_order, 1, "inputs and dy in Fortran order"),
        (channels_last, 1, "dy with the second axis last in memory"),
        (one_of_two_in_fortran_order, 2, "the first input in Fortran order"),
    ],
)
def test_layouts_that_come_together(op, count, words):
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match=words):
        gradcheck(op, [leaf(rng.standard_normal((4, 3, 2) if op is channels_last else (4, 3))) for _ in range(count)])


def test_what_is_kept_under_an_address():
    slopes = {}

    @differentiable
    def tanh(x):
        slope = slopes.setdefault((x.ctypes.data, x.shape), 1 - np.tanh(x) ** 2)
        return np.tanh(x), lambda dy: dy * slope

    with pytest.raises(GradcheckError, match="the gradient is wrong after a call with other values"):
        gradcheck(tanh, normal(5))


def test_the_batch_size_of_the_last_forward():
    last = {}

    @differentiable
    def mean(x):
        last["n"] = len(x)
        return x.mean(axis=0), lambda dy: np.broadcast_to(dy / last["n"], x.shape).copy()

    with pytest.raises(GradcheckError, match=r"all 1\.33333333 times the expected one"):
        gradcheck(mean, normal(4, 2))


def test_outputs_that_drift():
    calls = []

    @differentiable
    def drifting(x):
        calls.append(0)
        return x**2 * (1 if len(calls) < 60 else 1.001), lambda dy: 2 * x * dy

    with pytest.raises(GradcheckError):
        gradcheck(drifting, normal(2))


def test_inputs_that_are_not_used():
    y = normal(3)
    with pytest.warns(RuntimeWarning, match="no output moves with any of the inputs: does fn use its arguments"):
        assert gradcheck(lambda x: y * y, normal(3))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, dy: np.cos(x) * np.ravel(dy, "K").reshape(dy.shape),
        lambda x, dy: np.cos(x) * (dy * dy / dy),
        lambda x, dy: np.cos(x) * np.clip(dy, -3, 3),
    ],
    ids=["as it lies in memory", "NaN at 0", "clipped"],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_calls_are_checked_in_float32_too(wrong):
    op = differentiable(lambda x: (np.sin(x), lambda dy: wrong(x, dy) if x.dtype == np.float32 else np.cos(x) * dy))
    assert gradcheck(op, normal(4, 3))
    with pytest.raises(GradcheckError, match="another gradient in float32 for dy"):
        gradcheck(op, single(4, 3))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: ((x - x.mean()) ** 2).mean(),
        lambda x: x.var(),
        differentiable(lambda x: (np.asarray(((x - 0.5) ** 2).sum()), lambda dy: 2 * (x - 0.5) * dy)),
    ],
)
@pytest.mark.parametrize("value", [0.1, 0.5, 0.1 + 0.4])
def test_the_minimum_of_a_function(fn, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of five numbers 0.1 nothing can be told
        assert gradcheck(fn, leaf(np.full(5, value)))


def outside_raises(x):
    if (x < 0).any():
        raise ValueError("x must be >= 0")
    return x**2, lambda dy: 2 * x * dy


@pytest.mark.parametrize(
    ("rule", "x"),
    [
        (outside_raises, [0.0, 1.0]),
        (lambda x: (x**2.5, lambda dy: 2.5 * x**1.5 * dy), [0.0, 1.0]),
        (lambda x: (np.arcsin(x / 2), lambda dy: dy / np.sqrt(4 - x * x)), [2 - 1e-9, 1.0]),
    ],
)
def test_at_the_edge_of_the_domain_the_derivative_from_inside_counts(rule, x):
    assert gradcheck(differentiable(rule), leaf(x))
    tripled = differentiable(lambda x: (rule(x)[0], lambda dy: 3 * (rule(x)[1](dy) + 0.1)))
    with pytest.raises(GradcheckError):
        gradcheck(tripled, leaf(x))


def test_numpy_set_to_raise_is_no_matter():
    op = differentiable(lambda x: (np.exp(x), lambda dy: np.exp(x) * dy))
    with np.errstate(all="raise"):
        assert gradcheck(op, leaf([1.0, -700.0]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: gradcheck(lambda x: x[x.data > 0] ** 2, leaf([1e-3, -1e-3])),
            GradcheckError,
            "must not depend on val",
        ),
        (lambda: gradgradcheck(lambda x: (), normal(2)), GradcheckError, "no output of fn depends on an input"),
        (lambda: gradcheck(abs, {"x": normal(2)}), TypeError, "inputs must be a Tensor or a sequence .* got a dict"),
        (lambda: gradcheck(abs, [[normal(2)]]), ValueError, "Tensors inside of lists in it are not looked for"),
        (lambda: gradcheck(differentiable(lambda x: (leaf(x), abs)), normal(2)), TypeError, "must compute with arrays"),
        (
            lambda: gradcheck(differentiable(lambda x: (x * 1, lambda dy: {"dx": dy})), normal(2)),
            TypeError,
            "must give arrays, got dict",
        ),
    ],
)
def test_what_cannot_be_checked_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("digits", [8, 12])
def test_right_gradients_of_results_that_are_rounded(digits):
    """Small steps change nothing; larger ones agree on the derivative."""
    rounded = differentiable(lambda x: (np.round(np.sin(x) * 10.0**digits) / 10.0**digits, lambda dy: dy * np.cos(x)))
    for seed in range(5):
        assert gradcheck(rounded, leaf(np.random.default_rng(seed).standard_normal((4, 3))))


def test_steps_of_the_last_element_are_not_taken_where_their_error_is_large():
    """exp after sin: the steps for a slope of 1e-3 are far too large for one of 1e3."""
    scale = np.array([1e-3, 1e3, 1e-3, 1e3])
    waves = differentiable(lambda x: (np.sin(scale * x), lambda dy: dy * scale * np.cos(scale * x)))
    report = gradcheck(waves, leaf([0.3, 0.7, 0.5, 0.2]), report=True)
    assert report and (report.inputs[0].error <= 1e-8 * np.abs(report.inputs[0].numerical)).all()


@pytest.mark.parametrize("windows", [True, False])
def test_elements_that_share_a_place_in_memory(windows):
    """Windows that slide, and one row repeated: an element that is moved must not move others."""
    values = np.arange(1.0, 7.0)
    a = np.lib.stride_tricks.sliding_window_view(values, 3) if windows else np.broadcast_to(values, (4, 6))
    assert gradcheck(lambda x: x**2, tb.Tensor(a, requires_grad=True))


def test_a_variable_that_is_assigned_later():
    def fn(x):
        return x * x if x.size else later(x)

    assert gradcheck(fn, normal(3))
    later = abs


def test_a_backward_that_never_runs_is_named_in_float32_too():
    with pytest.warns(RuntimeWarning, match="square_backward never runs"):
        assert gradcheck(lambda x: square_forward(x)[0], single(3))


@pytest.mark.parametrize("x", [1.0, 1.99, 3e7])
def test_the_step_that_the_message_asks_for_is_taken(x):
    square = differentiable(lambda x: (x**2, lambda dy: 2 * x * dy))
    with pytest.raises(ValueError, match="eps must be at least") as caught:
        gradcheck(square, leaf([x]), eps=1e-18 * x)
    least = float(str(caught.value).split("at least ")[1].split()[0])
    gradcheck(square, leaf([x]), eps=1.05 * least, report=True)  # written with one digit


def test_the_batch_size_of_the_last_forward_beside_weights():
    last = {}

    @differentiable
    def mean_product(x, w):
        last["n"] = len(x)
        return (x @ w).mean(axis=0), lambda dy: (
            np.tile(dy @ w.T, (len(x), 1)) / last["n"],
            np.outer(x.mean(axis=0), dy),
        )

    with pytest.raises(
        GradcheckError, match=r"input 0: another gradient for an earlier call, .* all 1\.33333333 times"
    ):
        gradcheck(mean_product, [normal(4, 3), normal(3, 2)])


def test_a_forward_that_raises_in_the_last_call_of_the_check():
    calls = []

    def square(most):
        calls.clear()

        def rule(x):
            calls.append(0)
            if len(calls) == most:
                raise OSError("enough")
            return x**2, lambda dy: 2 * x * dy

        return differentiable(rule)

    assert gradcheck(square(None), leaf([1.0]))
    last = len(calls) - 1  # after it only the names of the ops are asked for
    report = gradcheck(square(last), leaf([1.0]), report=True)
    assert report.problems == ["a new call, after many: OSError: enough"]


def test_the_error_bar_in_the_message_is_that_of_the_element():
    """The largest one of all would be another's."""
    scale = np.array([100.0, 1.0])
    op = differentiable(lambda x: (scale * np.sin(x), lambda dy: 1.5 * dy * scale * np.cos(x)))
    report = gradcheck(op, leaf([0.3, 1e8]), report=True)
    (one,) = report.inputs
    assert not one.right.any() and one.error[0] < 0.1 * one.error[1]
    assert f"element (0,), analytic gradient {one.analytic[0]:.10g}" in report.problems[0]
    assert f"+- {one.error[0]:.1g} (differ" in report.problems[0]
