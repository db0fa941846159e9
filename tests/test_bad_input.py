"""Bad input: the right error, in words that name the argument, what it got and what was expected."""

import warnings

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import (
    Tensor,
    broadcast_to,
    concatenate,
    data,
    differentiable,
    grad,
    gradcheck,
    gradgradcheck,
    manual_seed,
    nn,
    optim,
    pad,
    save,
    set_rng_state,
    stack,
    tensor,
    where,
)

X = tensor(np.zeros((4, 6), np.float32))
ONE, MASKED = X[:, 0], np.ma.masked_array(np.zeros((4, 6), np.float32), mask=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    MATRIX = np.asmatrix(MASKED.data)
FROZEN = np.zeros(6, np.float32)
FROZEN.flags.writeable = False
LABELS = np.zeros(4, int)
IMAGE = tensor(np.zeros((4, 6, 3, 3), np.float32))
P = tensor([1.0], requires_grad=True)
W = np.ones((2, 6, 2, 2), np.float32)
DOUBLE, WHOLE = np.zeros((4, 6)), np.zeros((4, 6), np.int64)
NORM, WRONG = nn.BatchNorm1d(6), nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(3))
ONE_ROW = ["more than 1 value", "(1, 6)", "eval()", "drop_last=True"]
SIX, FIVE = np.ones(6, np.float32), np.ones(5, np.float32)

TABLE = [
    (lambda: F.batch_norm(tensor([1.0]), None, None, training=True), ValueError, ["x must", "(1,)"]),
    (lambda: F.batch_norm([1.0], None, None), TypeError, ["x must", "list"]),
    (lambda: F.batch_norm(X, None, None), ValueError, ["running_mean", "training=False"]),
    (lambda: F.batch_norm(X, FIVE, SIX), ValueError, ["running_mean", "(6,)", "(5,)"]),
    (lambda: F.batch_norm(X, SIX, SIX.astype(np.float64)), TypeError, ["running_var", "float32", "float64"]),
    (lambda: F.batch_norm(X, SIX, SIX, FIVE), ValueError, ["weight", "(6,)", "(5,)"]),
    (lambda: F.batch_norm(X, None, None, training=True, eps=-1e-5), ValueError, ["eps", "-1e-05"]),
    (lambda: F.batch_norm(X, None, None, training=True, eps="1"), TypeError, ["eps", "str"]),
    (lambda: F.batch_norm(X, SIX, SIX, training=True, momentum=2), ValueError, ["momentum", "2"]),
    (lambda: F.batch_norm(DOUBLE, SIX, SIX), TypeError, ["running_mean", "x.astype(np.float32)", "net.double()"]),
    (lambda: F.layer_norm(DOUBLE, 6, SIX), TypeError, ["weight", "float64", "x.astype(np.float32)", "net.double()"]),
    (lambda: F.layer_norm(X, 6, DOUBLE[0]), TypeError, ["weight", "x.astype(np.float64)", "net.float()"]),
    (lambda: F.conv2d(IMAGE.data.astype(float), W), TypeError, ["weight", "x.astype(np.float32)", "net.double()"]),
    (lambda: nn.Linear(6, 2)(tensor(DOUBLE)), TypeError, ["float64", "x.astype(np.float32)", "net.double()"]),
    (lambda: F.relu(WHOLE), TypeError, ["relu", "int64", "tensor(data)"]),
    (
        lambda: nn.BatchNorm1d(6)(WHOLE),
        TypeError,
        ["input of BatchNorm1d must", "int64", "x.astype(np.float32)", "tensor(x)"],
    ),
    (lambda: nn.Linear(6, 2)(WHOLE), TypeError, ["x must", "int64", "x.astype(np.float32)", "tensor(x)"]),
    (
        lambda: F.batch_norm(X[:1], None, None, training=True),
        ValueError,
        ONE_ROW,
    ),
    (lambda: F.instance_norm(X), ValueError, ["x must", "(4, 6)"]),
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
    (lambda: F.linear(X, [1.0]), TypeError, ["weight", "list"]),
    (lambda: F.linear([1.0], X), TypeError, ["x must", "list"]),
    (lambda: F.linear(X, X, np.ones(4, int)), TypeError, ["bias", "float32", "int64"]),
    (lambda: X @ 2.0, TypeError, ["b", "float"]),
    (lambda: X / np.array(0, object), TypeError, ["divide", "b", "object"]),
    (lambda: X ** [1.0], TypeError, ["b", "list"]),
    (lambda: F.dropout([1.0]), TypeError, ["x must", "list"]),
    (lambda: F.dropout(X, generator=3), TypeError, ["generator", "int"]),
    (lambda: F.cross_entropy(X, np.zeros(4, int), ignore_index=2**70), ValueError, ["ignore_index", "64 bits"]),
    (lambda: F.nll_loss(X[:, :0], np.zeros(4, int)), ValueError, ["x must", "class", "(4, 0)"]),
    (lambda: nn.init.normal_(tensor([1.0]), std="a"), TypeError, ["std", "'a'"]),
    (lambda: nn.init.normal_(tensor([1.0]), generator=3), TypeError, ["generator", "int"]),
    (lambda: nn.init.xavier_uniform_(tensor(np.zeros((0, 3)))), ValueError, ["tensor", "(0, 3)"]),
    (lambda: nn.BatchNorm1d(6, affine="no"), TypeError, ["affine", "no"]),
    (lambda: nn.Flatten("a"), TypeError, ["start_dim", "'a'"]),
    (lambda: nn.Linear(2, 3).to(None), TypeError, ["dtype", "None"]),
    (lambda: nn.Linear(2, 3).register_buffer("weight", FIVE), ValueError, ["name", "weight"]),
    (lambda: nn.Linear(2, 3).register_buffer("a.b", FIVE), ValueError, ["name", "a.b"]),
    (lambda: concatenate([[1.0], X]), TypeError, ["arrays[0]", "list"]),
    (lambda: stack([1.0, X]), TypeError, ["arrays[0]", "float"]),
    (lambda: concatenate([X, X], axis="a"), TypeError, ["axis", "'a'"]),
    (lambda: pad(X, 1), TypeError, ["pad_width", "pairs", "1"]),
    (lambda: F.relu([1.0]), TypeError, ["relu", "list"]),
    (lambda: F.softmax(X, 2), ValueError, ["dim", "2"]),
    (lambda: F.softmax(X, "a"), TypeError, ["dim", "an int"]),
    (lambda: F.dropout(X, 1.5), ValueError, ["p", "1.5"]),
    (lambda: F.cross_entropy(X, np.zeros(4)), TypeError, ["target", "float64"]),
    (lambda: F.cross_entropy(X, np.zeros(4)), TypeError, ["target.astype(int)"]),
    (lambda: F.cross_entropy(X, tensor([0, 1, 2, 3])), TypeError, ["target", "integer array", "without tensor()"]),
    (lambda: F.cross_entropy(X, np.array([0, 1, 2, 6])), ValueError, ["target", "[0, 6)", "6"]),
    (
        lambda: F.cross_entropy(X, np.full(4, 2**64 - 100, np.uint64)),
        ValueError,
        ["target", "[0, 6)", str(2**64 - 100)],
    ),
    (lambda: F.cross_entropy(X, np.array([0, -1, 2, 5])), ValueError, ["target", "[0, 6)", "-1"]),
    (lambda: F.nll_loss(X, np.array([0, 1, 2, 6])), ValueError, ["target", "[0, 6)", "6"]),
    (lambda: F.cross_entropy(X, [[1], [1, 2]]), TypeError, ["target", "integer array"]),
    (lambda: F.nll_loss(X, [[1], [1, 2]]), TypeError, ["target", "integer array"]),
    (lambda: F.cross_entropy(X, np.zeros(3, int)), ValueError, ["target", "(4,)", "(3,)"]),
    (lambda: F.cross_entropy(X, np.zeros(4, int), reduction="max"), ValueError, ["reduction", "max"]),
    (lambda: F.cross_entropy(X, np.zeros(4, int), SIX), TypeError, ["positional"]),  # PyTorch's weight: not here
    (lambda: F.cross_entropy(X, np.zeros(4, int), ignore_index=None), TypeError, ["ignore_index", "None"]),
    (lambda: F.nll_loss(X, np.zeros(4, int), ignore_index=True), TypeError, ["ignore_index", "True"]),
    (lambda: F.mse_loss(X, X[:1]), ValueError, ["target", "(4, 6)", "(1, 6)"]),
    (lambda: F.mse_loss(X, np.zeros((4, 6))), TypeError, ["target", "float32", "float64"]),
    (lambda: F.conv2d(X, W), ValueError, ["x must", "(N, C, H, W)", "(4, 6)"]),
    (lambda: F.conv2d([1.0], W), TypeError, ["x must", "list"]),
    (lambda: F.conv2d(IMAGE, [1.0]), TypeError, ["weight", "list"]),
    (lambda: F.conv2d(IMAGE, SIX), ValueError, ["weight", "(out, in / groups, height, width)", "(6,)"]),
    (lambda: F.conv2d(IMAGE, W.astype(np.float64)), TypeError, ["weight", "float32", "float64"]),
    (lambda: F.conv2d(IMAGE[:, :5], W), ValueError, ["6 channels", "(4, 5, 3, 3)"]),
    (lambda: F.conv2d(IMAGE, W, FIVE), ValueError, ["bias", "(2,)", "(5,)"]),
    (lambda: F.conv2d(IMAGE, W, stride=0), ValueError, ["stride", "0"]),
    (lambda: F.conv2d(IMAGE, W, stride=(1, 1, 1)), TypeError, ["stride", "pair", "(1, 1, 1)"]),
    (lambda: F.conv2d(IMAGE, W, padding=-1), ValueError, ["padding", "-1"]),
    (lambda: F.conv2d(IMAGE, W, padding="full"), ValueError, ["padding", "full"]),
    (lambda: F.conv2d(IMAGE, W, stride=2, padding="same"), ValueError, ["padding='same'", "stride", "2"]),
    (lambda: F.conv2d(IMAGE, W, dilation=1.5), TypeError, ["dilation", "1.5"]),
    (lambda: F.conv2d(IMAGE, W, groups=4), ValueError, ["groups", "6 channels", "4"]),
    (lambda: F.conv2d(IMAGE, W, dilation=3), ValueError, ["(4, 4)", "does not fit", "(3, 3)"]),
    (lambda: F.max_pool2d(IMAGE, 0), ValueError, ["kernel_size", "0"]),
    (lambda: F.max_pool2d(IMAGE, 4), ValueError, ["4", "does not fit", "3"]),
    (lambda: F.max_pool2d(IMAGE, 2, padding=2), ValueError, ["padding", "half", "2"]),
    (lambda: F.max_pool2d(X, 2), ValueError, ["x must", "(4, 6)"]),
    (
        lambda: F.max_pool2d(IMAGE[:, :, :1, :1], 2, padding=1, dilation=2),
        ValueError,
        ["padding 1", "without an element"],
    ),
    (lambda: F.avg_pool2d(IMAGE, 2, divisor_override=0), ValueError, ["divisor_override", "0"]),
    (lambda: F.avg_pool2d(IMAGE, 2, divisor_override=1.5), TypeError, ["divisor_override", "1.5"]),
    (lambda: F.adaptive_avg_pool2d(IMAGE, 0), ValueError, ["output_size", "0"]),
    (lambda: nn.Conv2d(4, 6, 3, groups=3), ValueError, ["groups", "4 in_channels", "3"]),
    (lambda: nn.Conv2d(4, 6, 3, 2, "same"), ValueError, ["padding='same'"]),
    (lambda: F.ghost_batch_norm(X, 0, training=True), ValueError, ["ghost_size", "0"]),
    (lambda: F.ghost_batch_norm(X, 1, training=True), ValueError, ["more than 1 value", "ghost_size=1"]),
    (lambda: F.ghost_batch_norm(X, 2, FIVE, training=True), ValueError, ["running_mean", "(6,)", "(5,)"]),
    (lambda: F.batch_renorm(X, None, None, training=True), ValueError, ["running_mean", "None"]),
    (lambda: F.batch_renorm(X, SIX, SIX, training=True, r_max=0.5), ValueError, ["r_max", "0.5"]),
    (lambda: F.batch_renorm(X, SIX, SIX, training=True, d_max=-1), ValueError, ["d_max", "-1"]),
    (lambda: F.decorrelated_batch_norm(X, training=True, group_size=4), ValueError, ["group_size", "6", "4"]),
    (lambda: F.decorrelated_batch_norm(X, training=True, method="svd"), ValueError, ["method", "pca", "svd"]),
    (
        lambda: F.decorrelated_batch_norm(X[:1], training=True),
        ValueError,
        ONE_ROW,
    ),
    (lambda: F.decorrelated_batch_norm(X), ValueError, ["running_matrix", "training=False"]),
    (lambda: F.decorrelated_batch_norm(X, SIX, SIX), ValueError, ["running_matrix", "(1, 6, 6)", "(6,)"]),
    (lambda: nn.DecorrelatedBatchNorm1d(6, group_size=4), ValueError, ["group_size", "6", "4"]),
    (lambda: nn.GhostBatchNorm1d(6, 2)(IMAGE), ValueError, ["GhostBatchNorm1d", "(N, C)", "(4, 6, 3, 3)"]),
    (lambda: nn.BatchRenorm1d(6, warmup=-1), ValueError, ["warmup", "-1"]),
    (lambda: nn.utils.fold_batch_norm(3), TypeError, ["model", "int"]),
    (lambda: nn.utils.fold_batch_norm(WRONG), ValueError, ["model", "Linear of 2 outputs", "BatchNorm1d of 3"]),
    (lambda: nn.utils.recompute_statistics(3, [X]), TypeError, ["model", "int"]),
    (lambda: nn.utils.recompute_statistics(NORM, 3), TypeError, ["loader", "int"]),
    (lambda: nn.utils.recompute_statistics(NORM, [3]), TypeError, ["loader", "Tensor or an array", "int"]),
    (lambda: nn.utils.recompute_statistics(NORM, [WHOLE]), TypeError, ["loader", "int64", "x.astype(np.float32)"]),
    (lambda: nn.utils.recompute_statistics(NORM, SIX[0:0]), ValueError, ["loader", "at least one sample"]),
    (lambda: nn.utils.recompute_statistics(NORM, [np.array(1.0)]), ValueError, ["loader", "batch axis", "()"]),
    (lambda: nn.utils.adapt_statistics(3, X, 0.5), TypeError, ["model", "int"]),
    (lambda: nn.utils.adapt_statistics(NORM, (X, SIX), 0.5), TypeError, ["batch", "tuple"]),
    (lambda: nn.utils.adapt_statistics(NORM, WHOLE, 0.5), TypeError, ["batch", "int64", "x.astype(np.float32)"]),
    (lambda: nn.utils.adapt_statistics(NORM, X[:0], 0.5), ValueError, ["batch", "at least one sample", "(0, 6)"]),
    (lambda: nn.utils.adapt_statistics(NORM, X, "a"), TypeError, ["weight", "'a'"]),
    (lambda: nn.utils.clip_grad_norm_([3], 1.0), TypeError, ["parameters", "int"]),
    (lambda: nn.utils.clip_grad_norm_(P, -1.0), ValueError, ["max_norm", "-1"]),
    (lambda: nn.utils.clip_grad_norm_(P, 1.0, 0), ValueError, ["norm_type", "0"]),
    (lambda: nn.ReLU().register_forward_pre_hook(3), TypeError, ["hook", "int"]),
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
    (lambda: optim.SGD([{"params": P, 1: 2, "rate": 3}]), ValueError, ["'params'", "1", "rate"]),
    (lambda: optim.SGD([{"params": [P], "learning_rate": 1}]), ValueError, ["'lr'", "learning_rate"]),
    (lambda: optim.SGD([P], momentum=0.9, nesterov="no"), TypeError, ["nesterov", "no"]),
    (lambda: optim.SGD([{"params": [P]}, P]), TypeError, ["params", "dict", "Tensor"]),
    (lambda: optim.SGD([P, {"params": [P]}]), TypeError, ["params", "dict"]),
    (lambda: optim.SGD([P], lr=np.inf), ValueError, ["lr", "finite", "inf"]),
    (lambda: optim.SGD([P], dampening=np.nan), ValueError, ["dampening", "finite", "nan"]),
    (lambda: nn.ReLU().register_forward_hook(3), TypeError, ["hook", "int"]),
    (lambda: nn.ReLU().register_buffer("b", X), TypeError, ["buffer 'b'", "Tensor"]),
    (lambda: nn.init.calculate_gain("swish"), ValueError, ["nonlinearity", "swish"]),
    (lambda: tensor([[1.0], [1.0, 2.0]]), ValueError, ["data", "rectangular"]),
    (lambda: X * [[1.0], [1.0, 2.0]], ValueError, ["multiply(a: float32 array (4, 6), b: list"]),
    (lambda: X * [P], TypeError, ["multiply(a: float32 array (4, 6), b: list", "numpy()"]),
    (lambda: np.less_equal(X, [P]), TypeError, ["less_equal(a: float32 array (4, 6), b: list"]),
    (lambda: X == [[1.0], [1.0, 2.0]], ValueError, ["equal(a: float32 array (4, 6), b: list"]),
    (lambda: tensor([1.0, P]), TypeError, ["data", "detach()"]),
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
    (lambda: save("nowhere/run.npz", 1), FileNotFoundError, ["nowhere/run.npz", "no folder", "nowhere"]),
    (lambda: data.load_npz("nowhere.npz"), FileNotFoundError, ["nowhere.npz"]),
    # what the fuzzer found: subclasses of arrays mean other things by * and by [i]
    (lambda: F.relu(MASKED), TypeError, ["x", "plain NumPy array", "MaskedArray"]),
    (lambda: F.layer_norm(MATRIX, 6), TypeError, ["x must", "plain NumPy array", "matrix"]),
    (lambda: F.batch_norm(X, None, None, MASKED[0], training=True), TypeError, ["weight", "MaskedArray"]),
    (lambda: nn.BatchNorm1d(6)(MATRIX), TypeError, ["input of BatchNorm1d must", "matrix"]),
    (lambda: nn.GroupNorm(2, 6)(MASKED), TypeError, ["input of GroupNorm must", "MaskedArray"]),
    (lambda: F.mse_loss(X, MASKED), TypeError, ["target", "MaskedArray"]),
    (lambda: X + MATRIX, TypeError, ["b of add", "matrix"]),
    (lambda: X > MASKED, TypeError, ["b", "MaskedArray"]),
    (lambda: X @ MATRIX.T, TypeError, ["b of matmul", "matrix"]),
    (lambda: concatenate([X, MASKED]), TypeError, ["arrays", "MaskedArray"]),
    (lambda: setattr(tensor(DOUBLE), "data", MASKED.astype(float)), TypeError, ["data", "MaskedArray"]),
    (lambda: tensor([1.0]).backward(MASKED), RuntimeError, ["requires_grad"]),
    (lambda: (P * 1).backward(MASKED[0, :1]), TypeError, ["gradient", "MaskedArray"]),
    (
        lambda: nn.Linear(6, 4).load_state_dict({"weight": MASKED, "bias": SIX[:4]}),
        TypeError,
        ["weight", "MaskedArray"],
    ),
    (lambda: data.DataLoader(MASKED), TypeError, ["arrays", "MaskedArray"]),
    (lambda: nn.utils.adapt_statistics(NORM, MASKED, 0.5), TypeError, ["batch", "MaskedArray"]),
    # operands that are no numbers, and numbers that no dtype holds
    (lambda: X + None, TypeError, ["add", "b: NoneType"]),
    (lambda: X > {}, TypeError, ["greater", "b: dict"]),
    (lambda: X ** memoryview(b"ab"), TypeError, ["b", "memoryview"]),
    (lambda: X * 10**400, ValueError, ["multiply", "b: int"]),
    (lambda: X.clip(max=10**400), ValueError, ["clip", "max"]),
    (lambda: where("a", X, X), TypeError, ["condition", "str"]),
    (lambda: where(np.array([True]), {}, np.ones(1)), TypeError, ["a must be", "{}"]),
    (lambda: X.sum(axis="a"), TypeError, ["axis", "'a'"]),
    (lambda: X.mean(axis=0.0), TypeError, ["axis", "float"]),
    (lambda: X.max(axis=2**70), ValueError, ["axis", "63"]),
    (lambda: X.sum(keepdims="no"), TypeError, ["keepdims", "'no'"]),
    (lambda: X.var(ddof=None), TypeError, ["ddof", "None"]),
    (lambda: X.reshape(5), ValueError, ["shape", "24", "5"]),
    (lambda: X.reshape(2**70), ValueError, ["shape", "24"]),
    (lambda: X.transpose(6, 4), ValueError, ["axes", "(6, 4)"]),
    (lambda: X.transpose("a"), TypeError, ["axes", "'a'"]),
    (lambda: X.swapaxes(None, 1), TypeError, ["axis1", "None"]),
    (lambda: X.flatten(None), TypeError, ["start_dim", "None"]),
    (lambda: broadcast_to(X, (4, 5)), ValueError, ["shape", "(4, 6)", "(4, 5)"]),
    (lambda: broadcast_to(X, (2**70, 4, 6)), ValueError, ["shape", "2147483647"]),
    (lambda: concatenate([X, ONE]), ValueError, ["arrays", "(4, 6)", "(4,)"]),
    (lambda: concatenate([X, WHOLE]), TypeError, ["arrays[1]", "int64"]),
    (lambda: X[np.zeros((1,) * 32, int)], ValueError, ["index", "32", "2 and 33"]),  # NumPy crashed in the gradient
    (lambda: pad(X, [(0, 0), (0, -1)]), ValueError, ["pad_width", "-1"]),
    (lambda: pad(X, [(0, 0), (0, 0)], value="a"), TypeError, ["value", "str"]),
    # in-place changes
    (lambda: tensor([1.0]).__setitem__(0, "2"), TypeError, ["value", "'2'"]),
    (lambda: tensor([1.0]).__setitem__(0, np.array(1j)), TypeError, ["value", "ndarray"]),
    (lambda: tensor([1.0]).__iadd__(None), TypeError, ["value", "None"]),
    (lambda: tensor([1.0]).__imul__(10**400), ValueError, ["value", "int"]),
    (lambda: Tensor(FROZEN).__iadd__(1), ValueError, ["data", "read-only"]),
    (lambda: F.batch_norm(X, SIX.copy(), FROZEN, training=True), ValueError, ["running_var", "read-only"]),
    # sizes that do not exist
    (lambda: nn.Linear(2**60, 1), ValueError, ["in_features", "2147483647"]),
    (lambda: nn.BatchNorm1d(10**400), ValueError, ["num_features", "digits"]),
    (lambda: nn.LayerNorm((2, 10**30)), ValueError, ["normalized_shape", "2147483647"]),
    (lambda: F.conv2d(IMAGE, W, padding=2**62), ValueError, ["padding", "2147483647"]),
    (lambda: F.max_pool2d(IMAGE, 2**62), ValueError, ["kernel_size", "2147483647"]),
    (lambda: F.adaptive_avg_pool2d(IMAGE[:, :, :0], None), ValueError, ["x must", "(4, 6, 0, 3)"]),
    (lambda: data.glyphs(10**30), ValueError, ["n", "2147483647"]),
    # flags, and the names of arguments
    (lambda: F.batch_norm(X, None, None, training="no"), TypeError, ["training", "'no'"]),
    (lambda: F.dropout(X, 0.5, None), TypeError, ["training", "None"]),
    (lambda: F.instance_norm(IMAGE, use_input_stats=1), TypeError, ["use_input_stats", "1"]),
    (lambda: F.decorrelated_batch_norm(X, training=NotImplemented), TypeError, ["training"]),
    (lambda: F.softmax(1.5, X), TypeError, ["x must", "float"]),
    (lambda: F.cross_entropy(X, LABELS, reduction=["mean"]), ValueError, ["reduction", "['mean']"]),
    (lambda: F.nll_loss(WHOLE, LABELS), TypeError, ["x must", "int64"]),
    (lambda: nn.LayerNorm(6, elementwise_affine=1), TypeError, ["elementwise_affine", "1"]),
    (lambda: nn.RMSNorm(6, elementwise_affine=None), TypeError, ["elementwise_affine", "None"]),
    (lambda: nn.AdaptiveAvgPool2d(None), TypeError, ["output_size", "None"]),
    (lambda: nn.AdaptiveAvgPool2d((None, 0)), ValueError, ["output_size", "0"]),
    (lambda: nn.Flatten()([1.0]), TypeError, ["input of Flatten must", "list"]),
    (lambda: nn.Linear(2, 3).to(np.float64(1)), TypeError, ["dtype", "1.0"]),
    (lambda: nn.Linear(2, 3).to([1.0]), TypeError, ["dtype", "[1.0]"]),
    (lambda: tensor([1.0], dtype={"a": 1}), TypeError, ["dtype", "{'a': 1}"]),
    (lambda: tensor([1.0]).requires_grad_("no"), TypeError, ["flag", "str"]),
    (lambda: nn.Linear(2, 3).requires_grad_(0), TypeError, ["flag", "0"]),
    (lambda: nn.Linear(2, 3).apply(3), TypeError, ["fn", "int"]),
    (lambda: list(nn.Linear(2, 3).named_buffers(SIX)), TypeError, ["prefix", "ndarray"]),
    (lambda: nn.Linear(2, 3).load_state_dict({}, strict=None), TypeError, ["strict", "None"]),
    (lambda: nn.ModuleList(np.array(1)), TypeError, ["modules", "ndarray"]),
    (lambda: nn.ModuleList([nn.ReLU()])[np.bool_(False)], TypeError, ["index", "bool"]),
    (lambda: nn.Sequential(nn.ReLU())[0.0], TypeError, ["index", "float"]),
    (lambda: nn.init.constant_(tensor([1.0]), "a"), TypeError, ["val", "'a'"]),
    (lambda: nn.init.xavier_uniform_(X, gain="a"), TypeError, ["gain", "'a'"]),
    (lambda: nn.init.xavier_normal_(X, gain=-1), ValueError, ["gain", "-1"]),
    (lambda: nn.init.xavier_uniform_(X, gain=1e308), ValueError, ["gain", "1e+308"]),
    (lambda: nn.init.uniform_(tensor([1.0]), -1e308, 1e308), ValueError, ["b - a", "1e+308"]),
    (lambda: nn.init.kaiming_normal_(X, nonlinearity=["relu"]), TypeError, ["nonlinearity", "list"]),
    (lambda: nn.init.calculate_gain("leaky_relu", "a"), TypeError, ["param", "'a'"]),
    (lambda: nn.utils.recompute_statistics(NORM, np.array(1.0)), TypeError, ["loader", "ndarray"]),
    (lambda: nn.utils.clip_grad_norm_(np.array(1.0), 1.0), TypeError, ["parameters", "ndarray"]),
    (lambda: nn.utils.clip_grad_norm_(P, np.array([])), TypeError, ["max_norm", "ndarray"]),
    (lambda: optim.SGD([{"params": 3}]), TypeError, ["params", "int"]),
    (lambda: optim.lr_scheduler.MultiStepLR(optim.SGD([P]), np.array(1)), TypeError, ["milestones", "ndarray"]),
    # gradients
    (lambda: grad(3, P), TypeError, ["outputs", "int"]),
    (lambda: grad(P * 1, np.array(1.0)), TypeError, ["inputs", "ndarray"]),
    (lambda: grad(P * 1, P, 3), TypeError, ["grad_outputs", "int"]),
    (lambda: grad(P * 1, P, allow_unused="no"), TypeError, ["allow_unused", "'no'"]),
    (lambda: (P * 1).backward(retain_graph="no"), TypeError, ["retain_graph", "'no'"]),
    (lambda: gradcheck(3, P), TypeError, ["fn", "int"]),
    (lambda: gradcheck(lambda a, b: a * b, P, P), TypeError, ["eps", "gradcheck(fn, [x, w])"]),
    (lambda: gradcheck(F.relu, 3), TypeError, ["inputs", "3"]),
    (lambda: gradgradcheck(F.relu, P, seed=-1), ValueError, ["seed", "-1"]),
    (lambda: differentiable(3), TypeError, ["rule", "int"]),
    (lambda: differentiable(int), TypeError, ["rule", "int"]),
    (lambda: differentiable(F.relu, definition=3), TypeError, ["definition", "int"]),
    # looking inside
    (lambda: nn.summary(NORM, ()), ValueError, ["input", "empty tuple"]),
    (lambda: nn.watch.slopes(3, X), TypeError, ["activation", "int"]),
    (lambda: nn.watch.slopes(nn.ReLU(), (X, X)), TypeError, ["z", "tuple"]),
    (lambda: nn.watch.slopes(nn.ReLU(), MASKED), TypeError, ["z", "MaskedArray"]),
    (lambda: nn.watch.saturation(nn.ReLU(), X, activations=[3]), TypeError, ["activations", "[3]"]),
    (lambda: nn.watch.activations(3).__enter__(), TypeError, ["model", "int"]),
    (lambda: nn.watch.activations(NORM, "0").__enter__(), TypeError, ["types", "'0'"]),
    (lambda: nn.watch.activations(NORM, (nn.ReLU, 3)).__enter__(), TypeError, ["types", "3"]),
    (lambda: nn.watch.drift({"a": (SIX,)}, {"a": (SIX,)}), TypeError, ["before['a']", "pair"]),
    (lambda: nn.watch.drift({}, 3), TypeError, ["after", "int"]),
    (lambda: nn.watch.update_ratio([1.0], SIX), TypeError, ["before", "[1.0]"]),
    (lambda: nn.watch.update_ratio(SIX, FIVE), ValueError, ["(6,)", "(5,)"]),
    (lambda: nn.Watch(NORM, layers=3), TypeError, ["layers", "int"]),
    (lambda: nn.Watch(NORM, layers=[X]), ValueError, ["layers", "tensor"]),
    (lambda: nn.Watch(NORM, bins=10**18), ValueError, ["bins", "2147483647"]),
    (lambda: nn.Watch(NORM, activations=3), TypeError, ["activations", "3"]),
    # files and states
    (lambda: save("a\0b", 1), ValueError, ["path", "zero"]),
    (lambda: set_rng_state({"bit_generator": "PCG64", "state": "abc"}), ValueError, ["state", "PCG64"]),
    (lambda: data.download_mnist("nowhere", timeout=1e300), ValueError, ["timeout", "1e+09"]),
]


@pytest.mark.parametrize("i", range(len(TABLE)))
def test_bad_input(i):
    call, error, words = TABLE[i]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


# A call that is refused has changed nothing, and numbers in NumPy's types are the numbers that they are.


def parameters(*gradients):
    found = [tensor([1.0, 2.0], requires_grad=True) for _ in gradients]
    for p, g in zip(found, gradients, strict=True):
        p.grad = g
    return found


TWO = np.ones(2, np.float32)


@pytest.mark.parametrize(
    "bad", ["abc", np.ones(3, np.float32), np.ones(2), np.ma.masked_array(TWO), TWO.astype(object)]
)
def test_a_gradient_that_was_set_to_something_else(bad):
    first, second = parameters(TWO, bad)
    sgd = optim.SGD([first, second], lr=0.5, momentum=0.9)
    for call in (sgd.step, (first * second).sum().backward, lambda: nn.utils.clip_grad_norm_([first, second], 0.1)):
        with pytest.raises((TypeError, ValueError), match=r"\.grad"):
            call()
        assert first.data.tolist() == [1, 2] and first.grad is TWO and second.grad is bad
    assert sgd.state_dict()["state"] == {}


@pytest.mark.parametrize("name, value", [("lr", TWO), ("lr", 10**400), ("momentum", "a"), ("weight_decay", None)])
def test_a_setting_that_was_changed_to_something_else(name, value):
    (p,) = parameters(TWO)
    sgd = optim.SGD([p], lr=0.5)
    sgd.param_groups[0][name] = value
    with pytest.raises((TypeError, ValueError), match=name):
        sgd.step()
    assert p.data.tolist() == [1, 2]


def test_a_schedule_that_overflows_stays_where_it_is():
    sgd = optim.SGD([P], lr=1.0)
    schedule = optim.lr_scheduler.StepLR(sgd, 1, gamma=1e200)
    schedule.step()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"learning rate must stay finite.*gamma"):
            schedule.step()
        assert schedule.last_epoch == 1 and sgd.param_groups[0]["lr"] == 1e200
    state = {**schedule.state_dict(), "last_epoch": 7}
    with pytest.raises(ValueError, match="learning rate must stay finite"):
        schedule.load_state_dict(state)
    assert schedule.last_epoch == 1 and sgd.param_groups[0]["lr"] == 1e200


def test_a_schedule_that_is_refused_leaves_the_optimizer_alone():
    sgd = optim.SGD([P], lr=1.0)
    with pytest.raises(ValueError, match="last_epoch"):
        optim.lr_scheduler.StepLR(sgd, 1, gamma=1e200, last_epoch=5)
    with pytest.raises(TypeError, match="T_max"):
        optim.lr_scheduler.CosineAnnealingLR(sgd, "a")
    assert "initial_lr" not in sgd.param_groups[0]


def test_a_state_that_cannot_be_copied():
    schedule = optim.lr_scheduler.MultiStepLR(optim.SGD([P]), [1])
    with pytest.raises(TypeError, match="state_dict must hold"):
        schedule.load_state_dict({**schedule.state_dict(), "milestones": (i for i in range(3))})
    sgd = optim.SGD([P])
    state = sgd.state_dict()
    state["param_groups"][0]["name"] = (i for i in range(3))
    with pytest.raises(TypeError, match="state_dict must hold"):
        sgd.load_state_dict(state)


@pytest.mark.parametrize("norm", [F.batch_norm, F.instance_norm, lambda x, *a, **k: F.ghost_batch_norm(x, 2, *a, **k)])
def test_running_statistics_change_together_or_not_at_all(norm):
    mean, var = np.zeros(6, np.float32), FROZEN
    flag = {"use_input_stats": True} if norm is F.instance_norm else {"training": True}
    with pytest.raises(ValueError, match="running_var must be writable"):
        norm(tensor(np.ones((4, 6, 2), np.float32)), mean, var, **flag)
    assert not mean.any()


def test_numpys_scalars_do_not_bring_their_precision_along():
    """float32(0.1) times a float64 bound was rounded to float32 before float64 weights were drawn with it."""
    for init in (nn.init.xavier_uniform_, nn.init.xavier_normal_):
        ours, again = (Tensor(np.zeros((3, 5))) for _ in range(2))
        init(ours, np.float32(0.3), np.random.default_rng(0))
        init(again, float(np.float32(0.3)), np.random.default_rng(0))
        assert (ours.data == again.data).all()
    x, number = np.random.default_rng(0).standard_normal((8, 3)) * 30, np.float32(1.1)
    mean, var = np.zeros(3), np.ones(3)
    ours, again = (
        F.batch_renorm(Tensor(x), mean, var, training=True, momentum=0.0, r_max=n, d_max=n)
        for n in (number, float(number))
    )
    assert (ours.data == again.data).all()
    ours, again = (
        nn.utils.adapt_statistics(nn.BatchNorm1d(3).double(), x, weight).running_var
        for weight in (np.float32(0.1), float(np.float32(0.1)))
    )
    assert (ours == again).all()
    ours, again = (F.dropout(Tensor(x), p, True, np.random.default_rng(0)) for p in (number - 1, float(number - 1)))
    assert (ours.data == again.data).all()


def test_minus_zero_is_zero():
    """NumPy takes -0.0 for a negative scale, and [0.0, -0.0] for an empty interval."""
    for init in (lambda t: nn.init.normal_(t, 1.0, -0.0), lambda t: nn.init.uniform_(t, 0.0, -0.0)):
        assert np.ptp(init(Tensor(np.ones(9))).data) == 0
    assert (data.glyphs(3, noise=-0.0)[0] == data.glyphs(3, noise=0)[0]).all()


def test_many_axes():
    """Where no gradient has to be scattered to repeated indices, as many as NumPy has."""
    x = Tensor(np.ones((1,) * 40), requires_grad=True)
    (x[0] * 2).sum().backward()
    assert x.grad.shape == x.shape and (x.grad == 2).all()
    y = Tensor(np.ones((2, 3)), requires_grad=True)
    y[np.zeros((1,) * 31, int)].sum().backward()
    assert y.grad.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_clipping_gradients_without_axes():
    """NumPy makes a scalar of the product of two arrays without axes, which a Tensor does not take for its data."""
    p = Tensor(np.array(1.0), requires_grad=True)
    for gradient in (np.array(3.0), Tensor(np.array(3.0))):
        p.grad = gradient
        assert nn.utils.clip_grad_norm_(p, 1.5) == 3
        found = p.grad.data if isinstance(p.grad, Tensor) else p.grad
        assert type(found) is np.ndarray and abs(found - 1.5) < 1e-6


def test_layers_take_arrays():
    assert nn.Flatten()(np.zeros((2, 3, 4), np.float32)).shape == (2, 12)


def test_a_misaligned_array_is_not_one_more_compilation():
    memory = np.zeros(4 * 24 + 1, np.uint8)[1:].view(np.float32).reshape(4, 6)
    memory[:] = np.arange(24).reshape(4, 6)
    from tinygrad_bn.runtime.jit import contiguous

    assert not memory.flags.aligned and contiguous(memory).flags.carray
    assert (F.relu(Tensor(memory)).data == memory).all()


def test_a_pullback_of_too_few_axes():
    op = differentiable(lambda x: (x * 1, lambda dy: 3.0))
    with pytest.raises(ValueError, match=r"shape \(\) for an argument of \(1, 6\)"):
        op(Tensor(np.ones((1, 6)), requires_grad=True)).sum().backward()


def test_an_error_in_a_users_op_says_where():
    op = differentiable(lambda x, name: (x + name, lambda dy: dy))
    with pytest.raises(TypeError, match=r"<lambda>\(x: float32 array \(4, 6\), name: dict"):
        op(X, {})
