"""check_pair: plain NumPy code as courses write it, right and wrong; what it takes, and what it says."""

import collections
import copy

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import GradcheckError, check_pair

SEED = 0


def normal(*shape):
    return np.random.default_rng(SEED).standard_normal(shape)


def batchnorm_forward(x, gamma, beta, bn_param):
    """With running statistics in a dict, as assignments have them."""
    eps, momentum = bn_param.get("eps", 1e-5), bn_param.get("momentum", 0.9)
    running = bn_param.get("running_mean", np.zeros(x.shape[1]))
    if bn_param["mode"] == "test":
        x_hat = (x - running) / np.sqrt(bn_param["running_var"] + eps)
        return gamma * x_hat + beta, (None, x_hat, gamma, 1 / np.sqrt(bn_param["running_var"] + eps))
    mean, var = x.mean(axis=0), x.var(axis=0)
    rstd = 1 / np.sqrt(var + eps)
    x_hat = (x - mean) * rstd
    bn_param["running_mean"] = momentum * running + (1 - momentum) * mean
    return gamma * x_hat + beta, (x, x_hat, gamma, rstd)


def batchnorm_backward(dout, cache):
    x, x_hat, gamma, rstd = cache
    d = dout * gamma
    dx = d * rstd if x is None else rstd * (d - d.mean(axis=0) - x_hat * (d * x_hat).mean(axis=0))
    return dx, (dout * x_hat).sum(axis=0), dout.sum(axis=0)


def without_variance(dout, cache):
    _, x_hat, gamma, rstd = cache
    d = dout * gamma
    return rstd * (d - d.mean(axis=0)), (dout * x_hat).sum(axis=0), dout.mean(axis=0)


ARGS = [normal(6, 3), 1 + 0.1 * normal(3), normal(3)]
TRAIN = {"mode": "train"}
TEST = {"mode": "test", "running_mean": normal(3), "running_var": np.abs(normal(3)) + 1}


@pytest.mark.parametrize("bn_param", [TRAIN, TEST], ids=["train", "test"])
def test_a_batch_norm_assignment(bn_param):
    before = copy.deepcopy(bn_param)
    assert check_pair(batchnorm_forward, batchnorm_backward, [*ARGS, bn_param])
    np.testing.assert_equal(bn_param, before)  # forward got copies


def test_all_wrong_inputs_are_named_as_in_the_signature():
    with pytest.raises(GradcheckError) as caught:
        check_pair(batchnorm_forward, without_variance, [*ARGS, TRAIN])
    x, beta, legend = str(caught.value).splitlines()
    assert legend.endswith("times a random dout (seed=0), see help(tb.check_pair)")
    assert x.startswith("input x: 18 of 18 elements wrong; worst") and "gamma" not in str(caught.value)
    assert beta.startswith("input beta: 3 of 3 elements wrong, all 0.166666667 times the numerical one; worst")


def softmax_loss(x, y):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return loss, p / len(y)


LABELS = np.array([0, 3, 1, 1, 2])


def test_a_loss_with_its_gradient():
    assert check_pair(softmax_loss, None, [normal(5, 4), LABELS])

    def not_averaged(x, y):
        loss, g = softmax_loss(x, y)
        return loss, g * len(y)

    with pytest.raises(GradcheckError, match="input x: 20 of 20 elements wrong, all 5 times"):
        check_pair(not_averaged, None, [normal(5, 4), LABELS])


def rnn_step_forward(xt, a_prev, parameters):
    a = np.tanh(parameters["Wax"] @ xt + parameters["Waa"] @ a_prev + parameters["ba"])
    return a, (a, a_prev, xt, parameters)


def rnn_step_backward(da, cache, missing=1.0):
    a, a_prev, xt, p = cache
    dz = (1 - a * a) * da
    return {
        **{"dxt": p["Wax"].T @ dz, "da_prev": p["Waa"].T @ dz, "dWax": dz @ xt.T, "dWaa": missing * dz @ a_prev.T},
        "dba": dz.sum(axis=1, keepdims=True),
    }


STEP = [normal(3, 4), normal(5, 4), {"Wax": normal(5, 3), "Waa": normal(5, 5), "ba": normal(5, 1), "Wya": normal(2, 5)}]


def test_gradients_by_name_also_of_what_is_in_a_dict():
    report = check_pair(rnn_step_forward, rnn_step_backward, STEP, report=True)
    names = [f"input parameters['{k}']" for k in ("Wax", "Waa", "ba", "Wya")]  # the last one without influence
    assert report and [one.name for one in report.inputs] == ["input xt", "input a_prev", *names]
    with pytest.raises(GradcheckError, match=r"^input parameters\['Waa'\]: 25 of 25 elements wrong, all 0.5 times"):
        check_pair(rnn_step_forward, lambda da, cache: rnn_step_backward(da, cache, 0.5), STEP)


def test_a_dict_of_parameters_with_a_dict_of_gradients():
    def loss(x, params):
        h = x @ params["w"] + params["b"]
        return (h * h).sum(), {"w": x.T @ (2 * h), "b": 2 * h.sum(axis=0)}

    params = {"w": normal(3, 2), "b": normal(2)}
    x = normal(4, 3)
    report = check_pair(lambda params: loss(x, params), None, [params], report=True)
    assert report and [one.name for one in report.inputs] == ["input params['w']", "input params['b']"]
    with pytest.warns(RuntimeWarning, match=r"depend on input x, of which forward gives no gradient.* bind it"):
        assert check_pair(loss, None, [x, params])
    with pytest.raises(GradcheckError, match=r"^input params\['b'\]: 2 of 2 elements wrong, all 0 times"):
        check_pair(lambda params: (loss(x, params)[0], {"w": loss(x, params)[1]["w"]}), None, [params])


@pytest.mark.parametrize("sign", [1, -1])
def test_several_outputs(sign):
    def forward(x, h, c):
        t = np.tanh(x + h)
        return t * c, c * x, (x, c, t)

    def backward(dh, dc, cache):
        x, c, t = cache
        g = dh * c * (1 - t * t)
        return g + dc * c, g, dh * t + sign * dc * x

    args = [normal(3), 2 * normal(3), 1 + normal(3)]
    if sign == 1:
        assert check_pair(forward, backward, args)
    else:
        with pytest.raises(GradcheckError, match=r"^input c: 3 of 3 elements wrong"):
            check_pair(forward, backward, args)


def test_outputs_in_a_dict_and_integers_and_none_pass_through():
    def forward(x, axis, scale, nothing, names):
        assert axis == 0 and nothing is None and names == ["a"]
        return {"sum": x.sum(axis=axis), "square": scale * x * x, "best": x.argmax(), "none": None}, (x, scale)

    def backward(dout, cache):
        x, scale = cache
        assert dout["best"] is None and dout["none"] is None
        return dout["sum"] + 2 * scale * x * dout["square"]

    assert check_pair(forward, backward, [normal(4, 3), 0, 2.5, None, ["a"]])


def test_inputs_by_name():
    report = check_pair(
        lambda x, w: (x @ w, (x, w)),
        lambda dout, cache: {"w": cache[0].T @ dout, "x": dout @ cache[1].T},
        {"w": normal(3, 2), "x": normal(4, 3)},
        report=True,
    )
    assert report and {one.name for one in report.inputs} == {"input x", "input w"}


class Layer:
    def __init__(self, factor=2.0):
        self.factor = factor

    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, dout):
        return self.factor * self.x * dout


def test_a_layer_that_keeps_its_last_forward():
    layer, x = Layer(), normal(5)
    assert check_pair(layer.forward, layer.backward, x, stateful=True)
    with pytest.raises(GradcheckError, match=r"after one with other values.*stateful=True"):
        check_pair(lambda x: (layer.forward(x), None), lambda dout, cache: layer.backward(dout), x)
    with pytest.raises(GradcheckError, match=r"all 1\.5 times"):
        check_pair((wrong := Layer(3.0)).forward, wrong.backward, x, stateful=True)


def square(x):
    return x * x, x


@pytest.mark.parametrize(
    ("forward", "backward", "words"),
    [
        (lambda x: (x * x, [x]), lambda dout, cache: 2 * cache.pop() * dout, "asked for only once, then IndexError"),
        (square, lambda dout, x: np.multiply(dout, 2 * x, out=dout), "backward wrote into dout"),
        (square, lambda dout, x: np.multiply(x, 2 * dout, out=x), "backward wrote into input x"),
        (square, lambda dout, x: 2 * x * np.clip(dout, -5, 5), r"dout times 1e\+06"),
        (square, lambda dout, x: (2 * x * dout)[:2], r"gradient of shape \(2,\) for input x of shape \(4,\)"),
        (square, lambda dout, x: None, "backward returned None"),
        (square, lambda dout, x: (None,), "no gradient of any input"),
        (lambda x: (len(x), x), lambda dout, x: 0 * x, "no floats"),
    ],
)
def test_other_mistakes(forward, backward, words):
    with pytest.raises(GradcheckError, match=words):
        check_pair(forward, backward, normal(4))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_pair(3, None, normal(3)), TypeError, "forward must be callable, got int"),
        (lambda: check_pair(square, 3, normal(3)), TypeError, "backward must be callable or None, got int"),
        (lambda: check_pair(square, square, [3]), ValueError, "inputs must contain an array of floats"),
        (lambda: check_pair(square, square, tb.tensor([1.0])), TypeError, r"got a Tensor: gradcheck"),
        (lambda: check_pair(lambda x: x, square, normal(3)), TypeError, r"forward must return \(out, cache\)"),
        (lambda: check_pair(square, lambda d, x: d, np.array([np.inf])), ValueError, "input x must be finite"),
        (lambda: check_pair(lambda x: (tb.Tensor(x), x), square, normal(3)), TypeError, "forward returned a Tensor"),
        (lambda: check_pair(square, None, normal(3), stateful=True), ValueError, "stateful=True needs a backward"),
        (lambda: check_pair(lambda x, y: (x * y, 0), lambda d, c: d, [normal(3), normal(3)]), ValueError,
         r"one ndarray for 2 inputs of floats \(input x, input y\)"),
        (lambda: check_pair(lambda x, y: (x * y, 0), lambda d, c: {"dz": d}, [normal(3), normal(3)]), ValueError,
         r"a gradient named 'dz', which is none of the inputs \['x', 'y'\]"),
        (lambda: check_pair(square, lambda d, x: 2 * x * d, normal(3), eps=0), ValueError, "eps must be > 0"),
        (lambda: check_pair(square, lambda d, x: 2 * x * d, normal(3), rtol=-1), ValueError, "rtol must be"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("x", [np.array(2.0), np.array([2.0])])
def test_arrays_without_axes(x):
    assert check_pair(square, lambda dout, x: 2 * x * dout, x)
    kept = {}

    def forward(x):
        kept["sign"] = np.sign(x)
        return np.abs(x), None

    with pytest.raises(GradcheckError, match="after one with other values"):
        check_pair(forward, lambda dout, cache: kept["sign"] * dout, x)


def test_arrays_of_a_notebook_that_backward_reads_instead_of_its_cache():
    X = normal(4)
    with pytest.raises(GradcheckError, match="wrong after a call with other values"):
        check_pair(lambda x: (x * x, None), lambda dout, cache: 2 * X * dout, X)


def test_a_gradient_of_what_is_no_array_of_floats_is_refused():
    def forward(x, n):
        return x * n, (x, n)

    with pytest.raises(ValueError, match="gradient of input n, which is an array of int64: give forward an array"):
        check_pair(forward, lambda dout, cache: (dout * cache[1], dout * cache[0]), [normal(3), np.arange(3)])


def test_float32_arrays_are_checked_in_double_precision():
    with pytest.raises(GradcheckError, match=r"all 1\.5 times"):
        check_pair(square, lambda dout, x: 3 * x * dout, normal(4).astype(np.float32))
    assert check_pair(square, lambda dout, x: 2 * x * dout, normal(4).astype(np.float32))


def test_a_dict_of_parameters_without_gradients_is_warned_of():
    x, w = normal(4, 3), normal(3, 2)
    with pytest.warns(RuntimeWarning, match=r"input params\['w'\], of which backward gives no gradient"):
        assert check_pair(lambda x, params: (x @ params["w"], params["w"]), lambda dout, w: dout @ w.T, [x, {"w": w}])


@pytest.mark.filterwarnings("error")
def test_running_statistics_beside_a_mode_are_no_parameters():
    assert check_pair(batchnorm_forward, batchnorm_backward, [*ARGS, TEST])


def test_two_gradients_of_one_input():
    with pytest.raises(ValueError, match="two gradients of input W: 'W' and 'dW'"):
        check_pair(lambda W: (W**2, W), lambda dout, W: {"W": 0 * W, "dW": 2 * W * dout}, [normal(3)])


def test_a_kind_of_dict_stays_what_it_is():
    settings = collections.defaultdict(lambda: 2.0, {"w": normal(3), "mode": "train"})
    assert check_pair(
        lambda x, s: (x * s["w"] * s["missing"], s["w"]), lambda dout, w: (2 * w * dout, None), [normal(3), settings]
    )


def test_a_loss_is_told_as_one():
    report = check_pair(lambda x: ((x**2).sum(), 2 * x), None, normal(3), report=True)
    assert report and report.legend == "values are of the loss, see help(tb.check_pair)"


def test_a_report_where_backward_gives_nothing():
    report = check_pair(lambda x: (x**2, x), lambda dout, x: None, normal(3), report=True)
    assert not report and "returned None" in report.problems[0]


def test_what_forward_changes_in_place_starts_anew_in_each_call():
    def forward(x, state):
        state["count"] += 1
        return x * state["count"], state["count"].copy()

    given = {"count": np.zeros(1), "mode": "train"}
    assert check_pair(forward, lambda dout, count: (dout * count, None), [normal(3), given])
    assert given["count"] == 0
