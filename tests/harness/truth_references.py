"""Every op of the package written once more, from its definition, for numbers of 60 digits (mpmath).

Nothing here calls the package. A reference takes and returns NumPy arrays of mpf; NumPy only carries them around, the
arithmetic is mpmath's. Its gradient is a central difference of sum(dy f(x)), whose step of 1e-20 leaves an error of
about 1e-40: that needs no formula for any gradient. Where inputs reach from 1e-300 to 1e300, a few hundred more digits
do the same (``digits``).

REFERENCES has a list per op, in the order of the rows of TABLE in test_gradients.py. HARD has further rows, with
inputs that are hard on float64.
"""

import itertools
import math

import numpy as np
from mpmath import mp

mp.dps = 60
exp, log, sqrt, tanh, power = (np.vectorize(f, otypes=[object]) for f in (mp.exp, mp.log, mp.sqrt, mp.tanh, mp.power))
larger, smaller = np.vectorize(max, otypes=[object]), np.vectorize(min, otypes=[object])


def as_array(value):
    """0-d results come back from NumPy as bare numbers."""
    if isinstance(value, np.ndarray):
        return value
    result = np.empty((), object)
    result[()] = value
    return result


def exact(a):
    """An array of float64 (or float32), as it is."""
    return as_array(np.vectorize(mp.mpf, otypes=[object])(a))


def gradients(f, arrays, dy):
    """The gradient of sum(dy f(*arrays)) for each of the arrays; a third of the digits go into the step."""
    step = mp.mpf(10) ** -(mp.dps // 3)
    result = []
    for k, a in enumerate(arrays):
        slope = np.empty(a.shape, object)
        for i in np.ndindex(a.shape):
            ends = []
            for h in (step, -step):
                moved = a.copy()
                moved[i] += h
                ends.append(as_array(dy * f(*arrays[:k], moved, *arrays[k + 1 :])).sum())
            slope[i] = (ends[0] - ends[1]) / (2 * step)
        result.append(slope)
    return result


# Sums, products, matrices


def total(x, axes, keep=False):
    """The sum over the axes."""
    return as_array(x.sum(axis=axes, keepdims=keep))


def average(x, axes, keep=False):
    return total(x, axes, keep) / math.prod(x.shape[a] for a in axes)


def variance(x, axes, ddof=0, keep=False):
    n = math.prod(x.shape[a] for a in axes)
    return total((x - average(x, axes, True)) ** 2, axes, keep) / (n - ddof)


def matmul(a, b):
    """y[..., i, j] = sum over k of a[..., i, k] b[..., k, j]"""
    row = a[None] if a.ndim == 1 else a
    column = b[:, None] if b.ndim == 1 else b
    y = total(row[..., :, :, None] * column[..., None, :, :], (-2,))
    y = y[..., 0, :] if a.ndim == 1 else y
    return as_array(y[..., 0] if b.ndim == 1 else y)


def linear(x, w, b=None):
    y = total(x[..., None, :] * w, (-1,))
    return y if b is None else y + b


def each_matrix(f):
    """f of one mpmath matrix (or several) for a stack of them."""

    def stacked(*arrays):
        out = [
            np.array(f(*(mp.matrix(a[i].tolist()) for a in arrays)).tolist(), dtype=object)
            for i in np.ndindex(arrays[0].shape[:-2])
        ]
        return np.stack(out).reshape(*arrays[0].shape[:-2], *out[0].shape)

    return stacked


def positive(a):
    """A A^T + 1, as in test_gradients.py"""
    return matmul(a, a.swapaxes(-1, -2)) + exact(np.eye(a.shape[-1]))


def matrix_lyapunov(s, g):
    """S X + X S = G as a linear system for the entries of X."""
    n = s.rows
    system, right = mp.zeros(n * n), mp.zeros(n * n, 1)
    for i, j in itertools.product(range(n), repeat=2):
        right[i * n + j] = g[i, j]
        for k in range(n):
            system[i * n + j, k * n + j] += s[i, k]
            system[i * n + j, i * n + k] += s[k, j]
    x = mp.lu_solve(system, right)
    return mp.matrix([[x[i * n + j] for j in range(n)] for i in range(n)])


def sorted_eigh(a):
    """Eigenvalues ascending; each eigenvector with its largest component positive. Of the symmetric part of A."""
    values, d = mp.eigsy((a + a.T) / 2)
    order = sorted(range(a.rows), key=lambda k: values[k])
    columns = []
    for k in order:
        column = [d[i, k] for i in range(a.rows)]
        sign = mp.sign(max(column, key=abs))
        columns.append([sign * v for v in column])
    return [values[k] for k in order], columns


def matrix_eigh(a):
    values, columns = sorted_eigh(a)
    return mp.matrix([values, *([c[i] for c in columns] for i in range(a.rows))])


def matrix_inverse_sqrt(a):
    """sum over k of d_k d_k^T / sqrt(l_k)"""
    values, columns = sorted_eigh(a)
    n = a.rows
    return mp.matrix(
        [
            [sum(c[i] * c[j] / mp.sqrt(v) for v, c in zip(values, columns, strict=True)) for j in range(n)]
            for i in range(n)
        ]
    )


def matrix_pca(a):
    values, columns = sorted_eigh(a)
    return mp.matrix([[v / mp.sqrt(l) for v in c] for l, c in zip(values, columns, strict=True)])


def whiten(x, eps, matrix=matrix_inverse_sqrt):
    centered = x - average(x, (-1,), True)
    d, m = x.shape[-2:]
    sigma = matmul(centered, centered.swapaxes(-1, -2)) / m + eps * exact(np.eye(d))
    return matmul(each_matrix(matrix)(sigma), centered)


def decorrelate(x, w, b, eps, size):
    """x (N, C, L): groups of channels are whitened over N and L."""
    N, C, L = x.shape
    rows = x.transpose(1, 0, 2).reshape(C // size, size, N * L)
    y = whiten(rows, eps).reshape(C, N, L).transpose(1, 0, 2)
    return y * w[:, None] + b[:, None]


# Activations and losses


def sigmoid(x):
    return 1 / (1 + exp(-x))


def softmax(x, axis=-1):
    e = exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x, axis=-1):
    """The logarithm of a probability near 1, 1 - p, needs as many digits as p has zeros: 60 are not enough at 1e4."""
    top = x.max(axis=axis, keepdims=True)
    return x - top - log_of_sum(x - top, axis)


def log_of_sum(x, axis):
    """log sum exp(x) where the largest x is 0: log1p of the sum of the others."""

    def one(row):
        rest = list(row)
        rest.remove(max(rest))
        return mp.log1p(mp.fsum(mp.exp(v) for v in rest))

    flat = np.moveaxis(x, axis, -1)
    out = np.empty(flat.shape[:-1], object)
    for i in np.ndindex(out.shape):
        out[i] = one(flat[i])
    return np.expand_dims(out, axis)


def cross_entropy(x, target, ignored=(), reduction="mean"):
    loss = -log_softmax(x, 1)[np.arange(len(x)), np.maximum(target, 0)]
    loss = loss * np.array([0 if t in ignored else 1 for t in target], object)
    kept = sum(t not in ignored for t in target)
    return {"none": loss, "sum": total(loss, (0,)), "mean": total(loss, (0,)) / kept}[reduction]


def bce(x, t):
    """-t log s - (1 - t) log(1 - s), s = sigmoid(x): log(1 - s) = -log(1 + e^x)"""
    softplus = np.vectorize(lambda v: mp.log1p(mp.exp(v)) if v < 0 else v + mp.log1p(mp.exp(-v)), otypes=[object])
    return average((t * softplus(-x) + (1 - t) * softplus(x)).reshape(-1), (0,))


# Images: sums over windows


def conv2d(x, w, b=None, stride=(1, 1), top_left=(0, 0), bottom_right=(0, 0), dilation=(1, 1), groups=1):
    N, _, H, W = x.shape
    O, G, I, J = w.shape
    P = (H + top_left[0] + bottom_right[0] - dilation[0] * (I - 1) - 1) // stride[0] + 1
    Q = (W + top_left[1] + bottom_right[1] - dilation[1] * (J - 1) - 1) // stride[1] + 1
    y = np.empty((N, O, P, Q), object)
    for n, o, p, q in np.ndindex(y.shape):
        value = mp.mpf(0) if b is None else b[o]
        for g, i, j in np.ndindex(G, I, J):
            row = p * stride[0] + i * dilation[0] - top_left[0]
            column = q * stride[1] + j * dilation[1] - top_left[1]
            if 0 <= row < H and 0 <= column < W:
                value += w[o, g, i, j] * x[n, o // (O // groups) * G + g, row, column]
        y[n, o, p, q] = value
    return y


def pool(x, reduce, size, stride, padding=(0, 0), dilation=(1, 1), ceil=False):
    """reduce(list of the elements of a window that are inside, how many places it has up to the padding's end)"""
    counts = []
    for n, k, s, p, d in zip(x.shape[-2:], size, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = (math.ceil if ceil else math.floor)(room / s) + 1
        counts.append(count - (ceil and (count - 1) * s >= n + p))
    H, W = x.shape[-2:]
    y = np.empty((*x.shape[:-2], *counts), object)
    for *lead, p, q in np.ndindex(y.shape):
        rows = [p * stride[0] - padding[0] + i * dilation[0] for i in range(size[0])]
        columns = [q * stride[1] - padding[1] + j * dilation[1] for j in range(size[1])]
        inside = [x[(*lead, h, w)] for h in rows for w in columns if 0 <= h < H and 0 <= w < W]
        places = sum(h < H + padding[0] and w < W + padding[1] for h in rows for w in columns)
        y[(*lead, p, q)] = reduce(inside, places)
    return y


def adaptive(x, out):
    """Window i of n over L: floor(i L / n) to ceil((i + 1) L / n)."""
    sizes = x.shape[-2:]
    y = np.empty((*x.shape[:-2], *out), object)
    for *lead, p, q in np.ndindex(y.shape):
        (a, b), (c, d) = ((i * n // k, -(-(i + 1) * n // k)) for i, n, k in zip((p, q), sizes, out, strict=True))
        window = x[(*lead, slice(a, b), slice(c, d))]
        y[(*lead, p, q)] = window.sum() / window.size
    return y


# Norms


def normalize(x, axes, eps, centered=True):
    c = x - average(x, axes, True) if centered else x
    return c / sqrt(average(c * c, axes, True) + mp.mpf(eps))


def per_channel(v, x):
    return v.reshape(1, -1, *[1] * (x.ndim - 2))


def batch_norm(x, w=None, b=None, eps=1e-5):
    y = normalize(x, (0, *range(2, x.ndim)), eps)
    return y if w is None else y * per_channel(w, x) + per_channel(b, x)


def batch_norm_eval(x, w, b, mean, var, eps=1e-5):
    y = (x - per_channel(exact(mean), x)) / sqrt(per_channel(exact(var), x) + mp.mpf(eps))
    return y * per_channel(w, x) + per_channel(b, x)


def ghosts(x, cuts, w=None, b=None):
    return np.concatenate([batch_norm(x[a:z], w, b) for a, z in itertools.pairwise(cuts)])


def group_norm(x, groups, w=None, b=None, eps=1e-5):
    y = normalize(x.reshape(len(x), groups, -1), (2,), eps).reshape(x.shape)
    y = y if w is None else y * per_channel(w, x)
    return y if b is None else y + per_channel(b, x)


EPS64 = 2.0**-52
T = np.array([0, 3, 1])
RUNNING = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.5, 2.0])


def zeros(shape):
    return exact(np.zeros(shape))


def put(a, index, size):
    y = zeros(size)
    for value, i in zip(a, index, strict=True):
        y[i] += value
    return y


def put_block(a, shape, top, left):
    y = zeros(shape)
    y[top : top + a.shape[0], left : left + a.shape[1]] = a
    return y


def clipped(a, low, high):
    return larger(smaller(a, mp.mpf(high)), mp.mpf(low))


def mean_of(inside, places):
    return mp.fsum(inside) / places


REFERENCES = {
    "add": [lambda a, b: a + b] * 2,
    "subtract": [lambda a, b: a - b],
    "multiply": [lambda a, b: a * b, lambda a: 2 * a * a],
    "divide": [lambda a, b: a / (abs(b) + 1), lambda a: 1 / (a * a + 1)],
    "negative": [lambda a: -a * a],
    "power": [lambda a: a * a * a, lambda a, b: power(abs(a) + 1, b), lambda b: power(mp.mpf(2), b)],
    "exp": [exp],
    "log": [lambda a: log(a * a + 1)],
    "sqrt": [lambda a: sqrt(a * a + 1)],
    "tanh": [tanh] * 3,
    "absolute": [lambda a: larger(a, -a)],
    "maximum": [larger],
    "minimum": [smaller],
    "where": [lambda a, b: np.vectorize(lambda p, q: p * q if p > 0 else q * q, otypes=[object])(a, b)],
    "clip": [lambda a: clipped(a, -0.5, 0.7) * a],
    "sum": [lambda a: total(a * a, (0, 2)), lambda a: total(a, (0, 1)) + mp.mpf(0)],
    "mean": [lambda a: average(a * a, (1,), True)],
    "var": [lambda a: variance(a, (0,)), lambda a: variance(a, (0, 1), ddof=1)],
    "std": [lambda a: sqrt(variance(a, (0,))), lambda a: sqrt(variance(a, (0, 1), 1, True)) * a],
    "max": [lambda a: a.max(axis=1) * a.max()],
    "min": [lambda a: a.min(axis=0, keepdims=True) * a],
    "reshape": [lambda a: (a * a).reshape(2, -1), lambda a: (a * a).reshape(2, 6)],
    "transpose": [lambda a: (a * a).T, lambda a: (a * a).transpose(2, 0, 1)],
    "swapaxes": [lambda a: (a * a).transpose(2, 1, 0)],
    "broadcast_to": [lambda a: np.stack([a * a] * 3)],
    "getitem": [
        lambda a: np.stack([(a * a)[1:, 0], (a * a)[1:, 2]], axis=1)[:, None],
        lambda a: np.stack([(a * a)[i, 1:] for i in (0, 0, 2)]),
        lambda a: np.stack([(a * a)[i] for i in (0, 2)]),
    ],
    "put": [lambda a: put(a, [0, 0, 1], 4) ** 2],
    "_concatenate": [
        lambda a, b: np.array([[v * v for v in (*p, *q)] for p, q in zip(a, b, strict=True)], object),
        lambda a, b: np.array([[[v * v for v in p], [v * v for v in q]] for p, q in zip(a, b, strict=True)], object),
    ],
    "pad": [lambda a: exact(np.full((4, 4), 9.0)) + put_block(a * a - 9, (4, 4), 1, 0)],
    "matmul": [matmul] * 5,
    "linear": [linear] * 2,
    "relu": [lambda a: larger(a, mp.mpf(0))] * 2,
    "sigmoid": [sigmoid],
    "softmax": [lambda a: softmax(a, 0), softmax],
    "log_softmax": [lambda a: log_softmax(a, 1)],
    "_cross_entropy": [lambda a, r=r: cross_entropy(a, T, (1,), r) for r in ("mean", "sum", "none")],
    "_bce": [bce],
    "channel_norm": [
        batch_norm,
        batch_norm,
        batch_norm,
        lambda x, w, b: batch_norm_eval(x, w, b, *RUNNING),
        lambda x, w, b: ghosts(x, [0, 3, 6, 8], w, b),
        lambda x: ghosts(x, [0, 2, 4, 5]),
        batch_norm,
    ],
    "row_norm": [
        lambda x, w, b: normalize(x, (1, 2), 1e-5) * w + b,
        lambda x: normalize(x, (1,), 1e-5),
        lambda x, w, b: group_norm(x, 2, w, b),
        lambda x, b: group_norm(x, 2, None, b),
        lambda x, w, b: group_norm(x, 3, w, b),
        lambda x, w: normalize(x, (1,), EPS64, centered=False) * w,
    ],
    "_conv2d": [
        lambda x, w, b: conv2d(x, w, b, (1, 1), (1, 1), (1, 1)),
        lambda x, w, b: conv2d(x, w, b, (2, 2), (2, 1), (2, 1), (1, 2)),
        lambda x, w: conv2d(x[None], w, None, (1, 1), (0, 1), (1, 2))[0],
        lambda x, w, b: conv2d(x, w, b, (2, 2), (1, 1), (1, 1), groups=2),
    ],
    "_conv2d_direct": [
        lambda x, w: conv2d(x, w, None, (3, 3), groups=3),
        lambda x, w, b: conv2d(x, w, b, (1, 1), (2, 1), (2, 1), (1, 2), 3),
    ],
    "_max_pool2d": [
        lambda x: pool(x, lambda inside, _: max(inside), (2, 2), (2, 2)),
        lambda x: pool(x, lambda inside, _: max(inside), (3, 2), (2, 2), (1, 1), (2, 2), True),
    ],
    "average": [
        lambda x: pool(x, mean_of, (2, 2), (2, 2)) ** 2,
        lambda x: pool(x, lambda inside, _: mean_of(inside, len(inside)), (3, 3), (2, 2), (1, 1), ceil=True) ** 2,
        lambda x: pool(x, lambda inside, _: mean_of(inside, 2), (1, 3), (1, 3), (0, 1)) ** 2,
        lambda x: adaptive(x, (3, 4)) ** 2,
    ],
    "lyapunov": [lambda s, g: each_matrix(matrix_lyapunov)(positive(s), g)],
    "inverse_sqrt": [lambda a: each_matrix(matrix_inverse_sqrt)(positive(a))],
    "eigh": [lambda a: each_matrix(matrix_eigh)(positive(a))],
    "whiten": [
        lambda x: whiten(x, mp.mpf(0.01)),
        lambda x: whiten(x[None], mp.mpf(0.01), matrix_pca)[0],
        lambda x, w, b: decorrelate(x, w, b, mp.mpf(0.1), 2),
    ],
}
