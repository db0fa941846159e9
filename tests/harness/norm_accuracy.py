"""Inputs that are hard on a norm in float32, and how far a library's results are from the exact ones.

The exact results are the formula of ops/norm_kernels.py on the same float32 inputs in long double (64 bits of
mantissa on x86, never less than float64), in two passes. On these inputs x - mean loses at most the digits of a mean of
1e8 beside noise of 1, about 27 bits: 26 correct bits and more are left, and a float32 has 24.

``floor`` is the least that can be asked of a float32 result: half a unit in the last place of its largest element, plus
8 roundings of float64 of the terms that are added up to make it (which matters only where these cancel to almost 0).
"""

import numpy as np

EPS = 1e-5
KINDS = ["batch", "batch, positions", "batch, eval", "instance", "layer", "group", "group, positions", "rms"]
LENGTHS = [1, 2, 3, 7, 8, 9, 31, 33, 345, 1_000_000]
QUANTITIES = ["y", "dx", "dweight", "dbias"]


def noise(mean, std):
    return lambda rng, shape: mean + std * rng.standard_normal(shape)


def jump(shape):
    n = int(np.prod(shape))
    return np.where(np.arange(n).reshape(shape) > 0.7 * n, 1e5, 0)


def outlier(rng, shape):
    x = rng.standard_normal(shape)
    x.reshape(-1)[rng.integers(x.size)] = 1e8
    return x


FAMILIES = {
    "standard normal": noise(0, 1),
    **{f"mean {mean:g}": noise(mean, 1) for mean in (1e2, 1e3, 1e4, 1e5, 1e6)},
    **{f"variance {var:g}": noise(0, var**0.5) for var in (1e-4, 1e-8, 1e-12)},
    **{f"mean 1, variance {var:g}": noise(1, var**0.5) for var in (1e-8, 1e-12)},
    "denormal": noise(0, 1e-41),
    "constant": lambda rng, shape: np.full(shape, 3.7),
    "constant, large": lambda rng, shape: np.full(shape, 1_234_567.0),
    "one outlier of 1e8": outlier,
    "times 1e-30": noise(0, 1e-30),  # squares beyond the range of float32
    "times 1e30": noise(0, 1e30),
    "two clusters, 1e4 apart": lambda rng, shape: rng.choice([-5e3, 5e3], shape) + rng.standard_normal(shape),
    "a jump of 1e5": lambda rng, shape: jump(shape) + rng.standard_normal(shape),  # the mean of what came before is far
}


def shape_of(kind, length):
    """An input with statistics over ``length`` values, or None: small ones have a few of them, large ones one."""
    few = length < 1000
    if kind.endswith("positions"):
        if length == 1 or (length % 3 and few):
            return None
        parts = 3 if few else 1000
        return (parts, 2, length // parts) if kind.startswith("batch") else (1 + few, 2 * parts, length // parts)
    if length == 1 and kind in ("batch", "instance"):
        return None  # one value has no variance: both libraries raise
    return {
        "batch": (length, 1 + 2 * few),
        "batch, eval": (length, 1 + 2 * few),
        "instance": (1 + few, 1 + 2 * few, length),
        "layer": (1 + 3 * few, length),
        "rms": (1 + 3 * few, length),
        "group": (1 + few, 2 * length, 1),
    }[kind]


def arrays(kind, length, family, seed):
    """x, weight, bias, running mean and variance, dy; float32."""
    rng = np.random.default_rng([seed, length, KINDS.index(kind), list(FAMILIES).index(family)])
    shape = shape_of(kind, length)
    x = FAMILIES[family](rng, shape)
    features = shape[-1] if kind in ("layer", "rms") else shape[1]
    w, b = rng.standard_normal((2, features))
    near = x.mean(axis=tuple(i for i in range(x.ndim) if i != 1)) if kind == "batch, eval" else 0
    mean = near + 0.1 * rng.standard_normal(features)
    dy, var = rng.standard_normal(shape), rng.uniform(0.5, 2, features)
    return [np.asarray(a, dtype=np.float32, order="C") for a in (x, w, b, mean, var, dy)]


def call(library, kind, x, w, b, mean, var):
    """The library's function: tinygrad_bn's and PyTorch's have one signature."""
    if kind.startswith("batch"):
        return library.batch_norm(x, mean, var, w, b, kind != "batch, eval", 0.1, EPS)
    if kind == "instance":
        return library.instance_norm(x, None, None, w, b, True, 0.1, EPS)
    if kind.startswith("group"):
        return library.group_norm(x, 2, w, b, EPS)
    if kind == "layer":
        return library.layer_norm(x, (x.shape[-1],), w, b, EPS)
    return library.rms_norm(x, (x.shape[-1],), w, EPS)


def exact(kind, x, w, b, mean, var, dy):
    """y, dx, dweight, dbias in long double; the size of the terms that each is the sum of; what a rounding is of."""
    x, w, b, mean, var, dy = (a.astype(np.longdouble) for a in (x, w, b, mean, var, dy))
    shape = x.shape
    if kind.startswith("group"):
        x, dy = (a.reshape(shape[0], 2, shape[1] // 2, shape[2]) for a in (x, dy))
        axes, affine = (2, 3), (1, 2, shape[1] // 2, 1)
    elif kind in ("layer", "rms"):
        axes, affine = (1,), (1, shape[1])
    else:
        axes, affine = tuple(range(2 if kind == "instance" else 0, x.ndim)), (1, shape[1], *[1] * (x.ndim - 2))
        axes = tuple(a for a in axes if a != 1)
    w, b = w.reshape(affine), (0 if kind == "rms" else b.reshape(affine))

    def average(a):
        return a.mean(axis=axes, keepdims=True)

    if kind == "batch, eval":
        centered, rstd = x - mean.reshape(affine), 1 / np.sqrt(var.reshape(affine) + EPS)
    else:
        centered = x if kind == "rms" else x - average(x)
        rstd = 1 / np.sqrt(average(centered * centered) + EPS)
    x_hat, g = centered * rstd, dy * w
    dx = rstd * g
    if kind != "batch, eval":
        dx = rstd * (g - (0 if kind == "rms" else average(g)) - x_hat * average(g * x_hat))
    others = tuple(i for i, n in enumerate(affine) if n == 1)
    results = [x_hat * w + b, dx, (dy * x_hat).sum(axis=others), dy.sum(axis=others)]
    parts = [rstd * g]  # of dx
    if kind != "batch, eval":
        parts += [rstd * x_hat * average(g * x_hat), rstd * (0 if kind == "rms" else average(g))]
    terms = [
        abs(x * rstd * w).max() + abs(b).max() if kind != "rms" else abs(x_hat * w).max(),
        abs(rstd * g).max() * (1 + abs(x_hat).max() ** 2),
        abs(dy * x_hat).sum(axis=others).max(),
        abs(dy).sum(axis=others).max(),
    ]
    largest = [abs(results[0]).max(), max(abs(a).max() for a in parts), *terms[2:]]
    flat = [results[0].reshape(shape), results[1].reshape(shape), results[2].reshape(-1), results[3].reshape(-1)]
    return tuple(dict(zip(QUANTITIES, values, strict=True)) for values in (flat, terms, largest))


def roundings(largest):
    """For each quantity, what arithmetic in float32 may add to the error of the floor: 4 roundings of the largest y, 8
    of the largest of dx's three terms, and of the terms that dweight and dbias are the sum of."""
    return {q: (4 if q == "y" else 8) * 2.0**-24 * float(largest[q]) for q in QUANTITIES}


def floors(results, terms):
    """For each quantity, the error that a result rounded once to float32 may have."""
    return {
        q: 0.5 * float(np.spacing(np.float32(abs(results[q]).max()))) * (1 + 1e-6) + 2.0**-50 * float(terms[q])
        for q in QUANTITIES
    }


def cases(lengths, families=FAMILIES, seeds=1):
    for length in lengths:
        for kind in KINDS:
            if shape_of(kind, length) is not None:
                yield from ((kind, length, family, seed) for family in families for seed in range(seeds))


def measure(case, *libraries):
    """{quantity: (the largest error of each library's result, the floor, the roundings, the largest exact element)}"""
    kind, (x, w, b, mean, var, dy) = case[0], arrays(*case)
    results, terms, largest = exact(kind, x, w, b, mean, var, dy)
    least, more = floors(results, terms), roundings(largest)
    found = [run(kind, x, w, b, mean.copy(), var.copy(), dy) for run in libraries]
    return {
        q: (
            *(float(abs(f[q] - results[q]).max()) for f in found),
            least[q],
            more[q],
            float(abs(results[q]).max()),
        )
        for q in QUANTITIES
        if found[0][q] is not None
    }


def ours(kind, x, w, b, mean, var, dy):
    import tinygrad_bn.nn.functional as F
    from tinygrad_bn import Tensor

    inputs = [Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = call(F, kind, *inputs, mean, var)
    y.backward(dy)
    return dict(zip(QUANTITIES, [y.data, *(a.grad for a in inputs)], strict=True))


def pytorchs(kind, x, w, b, mean, var, dy):
    import torch

    inputs = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = call(torch.nn.functional, kind, *inputs, torch.tensor(mean), torch.tensor(var))
    y.backward(torch.tensor(dy))
    gradients = [None if a.grad is None else a.grad.numpy() for a in inputs]
    return dict(zip(QUANTITIES, [y.detach().numpy(), *gradients], strict=True))
