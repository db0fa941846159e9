"""Bad input: the right error, in words that name the argument, what it got and what was expected."""

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import concatenate, data, gradcheck, manual_seed, nn, optim, pad, stack, tensor

X = tensor(np.zeros((4, 6), np.float32))
IMAGE = tensor(np.zeros((4, 6, 3, 3), np.float32))
P = tensor([1.0], requires_grad=True)
SIX, FIVE = np.ones(6, np.float32), np.ones(5, np.float32)

TABLE = [
    (lambda: F.batch_norm(tensor([1.0]), None, None, training=True), ValueError, ["input", "(1,)"]),
    (lambda: F.batch_norm([1.0], None, None), TypeError, ["input", "list"]),
    (lambda: F.batch_norm(X, None, None), ValueError, ["running_mean", "training=False"]),
    (lambda: F.batch_norm(X, FIVE, SIX), ValueError, ["running_mean", "(6,)", "(5,)"]),
    (lambda: F.batch_norm(X, SIX, SIX.astype(np.float64)), TypeError, ["running_var", "float32", "float64"]),
    (lambda: F.batch_norm(X, SIX, SIX, FIVE), ValueError, ["weight", "(6,)", "(5,)"]),
    (lambda: F.batch_norm(X, None, None, training=True, eps=-1e-5), ValueError, ["eps", "-1e-05"]),
    (lambda: F.batch_norm(X, None, None, training=True, eps="1"), TypeError, ["eps", "str"]),
    (lambda: F.batch_norm(X, SIX, SIX, training=True, momentum=2), ValueError, ["momentum", "2"]),
    (lambda: F.batch_norm(X[:1], None, None, training=True), ValueError, ["more than 1 value", "(1, 6)"]),
    (lambda: F.instance_norm(X), ValueError, ["input", "(4, 6)"]),
    (lambda: F.instance_norm(IMAGE[:, :, :1, :1]), ValueError, ["more than 1 value", "(4, 6, 1, 1)"]),
    (lambda: F.group_norm(X, 4), ValueError, ["num_groups", "6", "4"]),
    (lambda: F.group_norm(X, 0), ValueError, ["num_groups", "0"]),
    (lambda: F.group_norm(X, 2.0), TypeError, ["num_groups", "float"]),
    (lambda: F.layer_norm(X, 5), ValueError, ["normalized_shape", "(4, 6)", "(5,)"]),
    (lambda: F.layer_norm(X, 6, FIVE), ValueError, ["weight", "(6,)", "(5,)"]),
    (lambda: F.layer_norm(X, 6.0), TypeError, ["normalized_shape", "6.0"]),
    (lambda: F.rms_norm(X, (6,), eps=-1.0), ValueError, ["eps", "-1.0"]),
    (lambda: F.linear(X, tensor(np.zeros((2, 5)), dtype=np.float32)), ValueError, ["x", "5", "(4, 6)"]),
    (lambda: F.linear(X, X, FIVE), ValueError, ["bias", "(4,)", "(5,)"]),
    (lambda: F.relu([1.0]), TypeError, ["relu", "list"]),
    (lambda: F.softmax(X, 2), ValueError, ["dim", "2"]),
    (lambda: F.dropout(X, 1.5), ValueError, ["p", "1.5"]),
    (lambda: F.cross_entropy(X, np.zeros(4)), TypeError, ["target", "float64"]),
    (lambda: F.cross_entropy(X, np.array([0, 1, 2, 6])), ValueError, ["target", "[0, 6)", "6"]),
    (lambda: F.cross_entropy(X, np.array([0, -1, 2, 5])), ValueError, ["target", "[0, 6)", "-1"]),
    (lambda: F.nll_loss(X, np.array([0, 1, 2, 6])), ValueError, ["target", "[0, 6)", "6"]),
    (lambda: F.cross_entropy(X, np.zeros(3, int)), ValueError, ["target", "(4,)", "(3,)"]),
    (lambda: F.cross_entropy(X, np.zeros(4, int), reduction="max"), ValueError, ["reduction", "max"]),
    (lambda: F.cross_entropy(X, np.zeros(4, int), SIX), TypeError, ["positional"]),  # PyTorch's weight: not here
    (lambda: F.cross_entropy(X, np.zeros(4, int), ignore_index=None), TypeError, ["ignore_index", "None"]),
    (lambda: F.nll_loss(X, np.zeros(4, int), ignore_index=True), TypeError, ["ignore_index", "True"]),
    (lambda: F.mse_loss(X, X[:1]), ValueError, ["target", "(4, 6)", "(1, 6)"]),
    (lambda: F.mse_loss(X, np.zeros((4, 6))), TypeError, ["target", "float32", "float64"]),
    (lambda: nn.Linear(0, 3), ValueError, ["in_features", "0"]),
    (lambda: nn.Linear(2.0, 3), TypeError, ["in_features", "float"]),
    (lambda: nn.BatchNorm1d(-1), ValueError, ["num_features", "-1"]),
    (lambda: nn.BatchNorm1d(6, eps=-1), ValueError, ["eps", "-1"]),
    (lambda: nn.BatchNorm1d(6)(IMAGE), ValueError, ["BatchNorm1d", "(N, C)", "(4, 6, 3, 3)"]),
    (lambda: nn.BatchNorm2d(5)(IMAGE), ValueError, ["5 channels", "(4, 6, 3, 3)"]),
    (lambda: nn.GroupNorm(4, 6), ValueError, ["num_groups", "6", "4"]),
    (lambda: nn.GroupNorm(2, 8)(X), ValueError, ["8 channels", "(4, 6)"]),
    (lambda: nn.Dropout(-0.1), ValueError, ["p", "-0.1"]),
    (lambda: nn.Sequential(3), TypeError, ["Sequential", "int"]),
    (lambda: optim.SGD([]), ValueError, ["params", "empty"]),
    (lambda: optim.SGD(P), TypeError, ["params", "Tensor"]),
    (lambda: optim.SGD([1.0]), TypeError, ["params", "float"]),
    (lambda: optim.SGD([P], lr=-1), ValueError, ["lr", "-1"]),
    (lambda: optim.SGD([P], momentum=-1), ValueError, ["momentum", "-1"]),
    (lambda: optim.SGD([P], nesterov=True), ValueError, ["nesterov", "momentum"]),
    (lambda: optim.SGD([P, P]), ValueError, ["params", "twice"]),
    (lambda: optim.SGD([P * 2]), ValueError, ["params", "leaves"]),
    (lambda: optim.SGD(3), TypeError, ["params", "int"]),
    (lambda: optim.SGD([{"lr": 1}]), ValueError, ["'params'", "lr"]),
    (lambda: optim.SGD([{"params": [P]}, P]), TypeError, ["params", "dict", "Tensor"]),
    (lambda: optim.SGD([P, {"params": [P]}]), TypeError, ["params", "dict"]),
    (lambda: optim.SGD([P], lr=np.inf), ValueError, ["lr", "finite", "inf"]),
    (lambda: optim.SGD([P], dampening=np.nan), ValueError, ["dampening", "finite", "nan"]),
    (lambda: nn.ReLU().register_forward_hook(3), TypeError, ["hook", "int"]),
    (lambda: nn.ReLU().register_buffer("b", X), TypeError, ["buffer 'b'", "Tensor"]),
    (lambda: nn.init.calculate_gain("swish"), ValueError, ["nonlinearity", "swish"]),
    (lambda: tensor([[1.0], [1.0, 2.0]]), ValueError, ["data", "rectangular"]),
    (lambda: tensor([1.0], dtype=np.int64), TypeError, ["dtype", "int64"]),
    (lambda: concatenate([]), ValueError, ["arrays", "none"]),
    (lambda: stack([X, X[:1]]), ValueError, ["arrays", "one shape"]),
    (lambda: concatenate([X, X], axis=2), ValueError, ["axis", "[-2, 1]", "2"]),
    (lambda: X.transpose(0), ValueError, ["axes", "2 axes", "(0,)"]),
    (lambda: X.transpose(0, 0), ValueError, ["axes", "(0, 0)"]),
    (lambda: gradcheck(lambda a: None, tensor(np.ones(2), requires_grad=True)), TypeError, ["fn", "NoneType"]),
    (lambda: pad(X, [(1, 1)]), ValueError, ["pad_width", "2 axes"]),
    (lambda: X.clip(), ValueError, ["min or max"]),
    (lambda: X.flatten(2), ValueError, ["start_dim", "2"]),
    (lambda: manual_seed(-1), ValueError, ["seed", "-1"]),
    (lambda: manual_seed(1.0), TypeError, ["seed", "float"]),
    (lambda: data.DataLoader(SIX, batch_size=0), ValueError, ["batch_size", "0"]),
    (lambda: data.DataLoader(5), TypeError, ["arrays", "int"]),
    (lambda: data.DataLoader((SIX, FIVE)), ValueError, ["arrays", "(6,)", "(5,)"]),
    (lambda: data.glyphs(-1), ValueError, ["n", "-1"]),
    (lambda: data.load_npz("nowhere.npz"), FileNotFoundError, ["nowhere.npz"]),
]


@pytest.mark.parametrize("i", range(len(TABLE)))
def test_bad_input(i):
    call, error, words = TABLE[i]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"
