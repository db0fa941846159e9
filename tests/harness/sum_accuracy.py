"""The error of long sums, ours and PyTorch's, in roundings of the result: |error| / (eps / 2 |exact|), the largest.

Exact is long double, added up in pairs. For test_sums.py, parity/test_torch_sums.py and docs/accuracy.md.
"""

import numpy as np

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F

COLUMNS = 3
LAYOUTS = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
}


def data(n, dtype, seed=0):
    """Positive numbers around 5, so that nothing cancels, and every rounding of a running sum shows."""
    return (np.random.default_rng(seed).standard_normal((n, COLUMNS)) * 0.5 + 5).astype(dtype)


def gradient(x, weights):
    """Of a bias that is broadcast over the rows: the sum of the weights."""
    bias = tb.tensor(np.zeros(x.shape[1:], x.dtype), requires_grad=True)
    (g,) = tb.grad(((tb.Tensor(x) + bias) * tb.Tensor(weights)).sum(), bias)
    return g


def images_gradient(dy):
    """The bias gradient of a convolution whose output has this gradient, (rows, channels)."""
    x = tb.Tensor(np.zeros((len(dy), 1, 1, 1), dy.dtype))
    weight = tb.Tensor(np.zeros((dy.shape[1], 1, 1, 1), dy.dtype))
    bias = tb.tensor(np.zeros(dy.shape[1], dy.dtype), requires_grad=True)
    (g,) = tb.grad(F.conv2d(x, weight, bias), bias, tb.Tensor(dy.reshape(*dy.shape, 1, 1)))
    return g


def norm_gradient(dy):
    """dbeta of batch renorm, whose bias is added by a primitive."""
    x = np.random.default_rng(1).standard_normal(dy.shape).astype(dy.dtype)
    bias = tb.tensor(np.zeros(dy.shape[1], dy.dtype), requires_grad=True)
    mean, var = np.zeros(dy.shape[1], dy.dtype), np.ones(dy.shape[1], dy.dtype)
    (g,) = tb.grad(F.batch_renorm(tb.Tensor(x), mean, var, None, bias, training=True), bias, tb.Tensor(dy))
    return g


OURS = {
    "sum": lambda x: tb.Tensor(x).sum(axis=0).data,
    "sum of all": lambda x: tb.Tensor(x).sum().data,
    "mean": lambda x: tb.Tensor(x).mean(axis=0).data,
    "var": lambda x: tb.Tensor(x).var(axis=0).data,
    "std": lambda x: tb.Tensor(x).std(axis=0).data,
    "gradient of a broadcast bias": lambda x: gradient(x, x),
    "gradient of conv2d's bias": images_gradient,
    "dbeta of batch renorm": norm_gradient,
}


def exact(quantity, x):
    x = x.astype(np.longdouble)
    columns = np.ascontiguousarray(x.T)  # NumPy adds up rows in pairs
    if quantity in ("var", "std"):
        var = ((columns - columns.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)
        return var if quantity == "var" else np.sqrt(var)
    if quantity == "mean":
        return columns.mean(axis=1)
    return columns.sum(axis=1).sum() if quantity == "sum of all" else columns.sum(axis=1)


def roundings(result, reference):
    eps = np.finfo(result.dtype).eps
    return float(np.max(np.abs(result - reference) / (eps / 2 * np.abs(reference))))


def ours(quantity, x):
    return roundings(np.asarray(OURS[quantity](x)), exact(quantity, x))


def pytorchs(quantity, x):
    import torch

    t = torch.from_numpy(x.copy() if any(s < 0 for s in x.strides) else x)
    value = {
        "sum of all": lambda: t.sum(),
        "mean": lambda: t.mean(0),
        "var": lambda: t.var(0, correction=0),
        "std": lambda: t.std(0, correction=0),
    }.get(quantity, lambda: t.sum(0))()
    return roundings(value.numpy(), exact(quantity, x))
