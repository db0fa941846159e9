"""Mutations: wrong edits of the package, one at a time, each of which the tests must notice.

    python tests/harness/mutations.py [--only WORD]    (an hour; with WORD the edits whose file or description holds it)

Each edit is a mistake that is easily made in a backward, or beside it: a sign, a dropped term, another axis, another
normalizer. A copy of the package gets the edit, and the tests of that part run on it: first without compilation, which
is much quicker, and if all pass, compiled as well. Killed: a test failed (or hung). Survived: all passed; a test is
missing. Invalid: pytest could not run at all, so that nothing is shown.

Before that the same tests must pass on a copy without an edit. Every copy has a folder of its own, with an empty cache
of machine code: no kernel of one edit is ever run for another.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NEEDED = ("tinygrad_bn", "tests", "docs/accuracy.md", "setup.cfg")
TIME = 3600  # seconds after which a run of the tests counts as hanging
AT_ONCE = 2
ONLY_COMPILED = {"threads"}  # its arrays are large: plain Python would take hours


class Edit(NamedTuple):
    file: str  # in tinygrad_bn/
    old: str  # occurs once in it
    new: str
    wrong: str  # what is wrong then
    tests: tuple[str, ...]  # names of test files, those first that are quick or likely to notice

    def __str__(self) -> str:
        return f"{self.file}: {self.wrong}"


EDITS: list[Edit] = []


def edits(file: str, tests: str, *rows: tuple[str, str, str]) -> None:
    EDITS.extend(Edit(file, old, new, wrong, tuple(tests.split())) for old, new, wrong in rows)


# The ops


edits(
    "ops/elementwise.py",
    "truth properties engine random_graphs gradients special_values",
    ("(dy, lambda: -dy)", "(dy, dy)", "subtract: the sign of db"),
    ("(lambda: dy * b, lambda: dy * a)", "(lambda: dy * a, lambda: dy * b)", "multiply: a and b exchanged"),
    ("lambda: dy / b, lambda: -dy * (y / b)", "lambda: dy / b, lambda: -dy / (b * b)", "divide: db without a"),
    ("lambda: -dy * (y / b)", "lambda: -dy * (a / (b * b))", "divide: b b in db overflows"),
    (
        "a**b, lambda dy: dy * (b * a ** (b - 1))",
        "a**b, lambda dy: dy * a ** (b - 1)",
        "power: the factor b is missing",
    ),
    (
        "a**b, lambda dy: dy * (b * a ** (b - 1))",
        "a**b, lambda dy: dy * (b * a**b)",
        "power: the exponent is not lowered",
    ),
    ("np.where(zero, 0, dy * (b * a ** np.where(zero, 1, b - 1)))", "dy * (b * a ** (b - 1))", "power: da at 0 ** 0"),
    ("zero = (a == 0) & (b >= 0)", "zero = a == 0", "power: 0 to a negative power has no gradient"),
    ("np.where(np.isnan(dy) | True, 0, dy)", "dy * 0", "power of 0: an infinite dy gives NaN"),
    ("a**b * np.log(np.where(zero, 1, a))", "a**b", "power: db without the logarithm"),
    ("(None, dy * a**b * slope)", "(None, dy * a**b)", "power of a number: db without the logarithm"),
    ("return y, lambda dy: dy * y\n", "return y, lambda dy: dy * x\n", "exp: x in place of y"),
    ("return np.log(x), lambda dy: dy / x", "return np.log(x), lambda dy: dy / np.log(x)", "log: y in place of x"),
    ("dy / (2 * y)", "dy / y", "sqrt: the factor 2 is missing"),
    ("dy * (1 - y * y)", "dy * (1 - y)", "tanh: y is not squared"),
    ("lambda dy: dy * np.sign(x)", "lambda dy: np.where(x < 0, -dy, dy)", "absolute: 1 in place of 0 at 0"),
    (
        "lambda: np.where(a == b, dy * 0.5, np.where(a < b, 0, dy)),\n        lambda: np.where(a == b, dy * 0.5, np.w"
        "here(a > b, 0, dy)),",
        "lambda: np.where(a < b, 0, dy),\n        lambda: np.where(a > b, 0, dy),",
        "maximum: both of two equal elements get all",
    ),
    (
        "lambda: np.where(condition, dy, 0),\n        lambda: np.where(condition, 0, dy)",
        "lambda: np.where(condition, 0, dy),\n        lambda: np.where(condition, dy, 0)",
        "where: the branches exchanged",
    ),
    ("outside | (x < min)", "outside | (x <= min)", "clip: no gradient at the lower bound"),
    ("outside = outside | (x > max)", "outside = outside", "clip: the upper bound lets the gradient pass"),
)

edits(
    "ops/reduction.py",
    "truth properties engine gradients",
    (
        "lambda dy: np.broadcast_to(dy.reshape(_kept(shape, axis)), shape)",
        "lambda dy: np.broadcast_to(dy, shape)",
        "sum: spread along the wrong axis",
    ),
    ("dy.reshape(_kept(shape, axis)) / n, shape", "dy.reshape(_kept(shape, axis)), shape", "mean: dy / n without n"),
    ("/ n, shape", "/ math.prod(shape), shape", "mean: divided by the number of all elements"),
    ("centered * (2.0 * over)", "centered * over", "var: the factor 2 is missing"),
    ("centered * (2.0 * over)", "centered * (2.0 / _count(x, axis))", "var: the gradient ignores ddof"),
    ("_count(x, axis) - ddof", "_count(x, axis) - 0 * ddof", "var: value and gradient ignore ddof"),
    ("centered = centered - total(centered, axis, keepdims=True) / n", "pass", "var: rounding of a large mean stays"),
    ("chosen / total(chosen, axis, keepdims=True)", "chosen", "max: each of equal elements gets all of dy"),
)

edits(
    "ops/shape.py",
    "truth properties engine gradients",
    ("np.argsort([a % x.ndim for a in axes])", "[a % x.ndim for a in axes]", "transpose: not the inverse permutation"),
    ("lambda dy: np.swapaxes(dy, axis1, axis2)", "lambda dy: dy.reshape(x.shape)", "swapaxes: reshape in its place"),
    ("np.add.at(y, index, x)", "y[index] = x", "getitem: of an index that comes twice only the last counts"),
    ("index = copy.deepcopy(index)", "pass", "getitem: an index that is changed later moves the gradient"),
    ("for i in range(len(arrays)))", "for i in reversed(range(len(arrays))))", "concatenate: parts in reverse order"),
    ("for (before, _), n", "for (_, before), n", "pad: what stands after in place of what stands before"),
)

edits(
    "ops/linear.py",
    "golden truth properties nn gradients",
    ("g = product(matrix(dy), np.swapaxes(column, -1, -2))", "g = product(matrix(dy), column)", "matmul: B for B^T"),
    (
        "lambda: product(dy.T, x)",
        "lambda: product(dy.T, x) / max(len(x), 1)",
        "linear: dW averaged over the samples",
    ),
    ("lambda: sum_of_rows(dy)", "None", "linear: the gradient of the bias is missing"),
    (
        "total[:] = 0\n    for n in range(len(dy)):",
        "total[:] = 0\n    for n in range(1, len(dy)):",
        "linear: db without the first sample",
    ),
)

edits(
    "ops/activation.py",
    "golden truth special_values properties nn gradients",
    ("0 if y[i] <= 0 else dy[i]", "0 if y[i] < 0 else dy[i]", "ReLU: the gradient at 0"),
    ("0 if y[i] <= 0 else dy[i]", "0 if y[i] <= 0 else 1", "ReLU: dy is missing"),
    ("return np.where(x <= 0, 0, x)", "return np.where(x < 0, 0, x)", "ReLU, create_graph: the gradient at 0"),
    ("y[i] * (1 - y[i]) * dy[i]", "y[i] * dy[i]", "sigmoid: the factor 1 - y is missing"),
    ("(1 - y[i] * y[i]) * dy[i]", "(1 - y[i]) * dy[i]", "tanh: y is not squared"),
    ("y[r, j] * (dy[r, j] - total)", "y[r, j] * dy[r, j]", "softmax: the diagonal of the Jacobian alone"),
    ("math.exp(y[r, j]) * total", "math.exp(y[r, j]) * dy[r, j]", "log-softmax: dy in place of its sum"),
    (
        "shifted = x - _detached(x).max(axis=axis, keepdims=True)",
        "shifted = x",
        "log-softmax, create_graph: the maximum is not subtracted",
    ),
    ("return np.moveaxis(dx, -1, dim)", "return dx.reshape(x.shape)", "softmax: the gradient lies along another axis"),
    ("1 / (1 - p) if p < 1 else 0", "1", "dropout: what is kept is not scaled"),
    ('not check_flag("training", training) or p', 'check_flag("training", training) or p', "dropout in eval alone"),
)

edits(
    "ops/loss.py",
    "golden truth special_values properties gradients",
    ("dx[r, t] -= scale[r]", "dx[r, t] -= 1", "cross entropy: the one-hot term without dy / N"),
    ("dx[r, t] -= scale[r]", "dx[r, t] += scale[r]", "cross entropy: the sign of the one-hot term"),
    ("scale[:] = dy / count", "scale[:] = dy", "cross entropy: the gradient of the mean is not divided"),
    ("kept or math.nan", "len(x) or math.nan", "cross entropy: the mean counts ignored samples"),
    ("dx[r, j] = 0\n", "dx[r, j] = probability[r, j] * scale[r]\n", "cross entropy: ignored samples get a gradient"),
    ("np.where(x >= 0, (1 - target) - s, s - target) * dy", "(s - target) * dy", "BCE: sigmoid(-|x|) for sigmoid(x)"),
    ("lambda: -x * dy)", "None)", "BCE: no gradient for the target"),
)

edits(
    "ops/convolution.py",
    "wrong_backward_rejected truth properties gradients images",
    ("out[k] += run[k]", "out[k] = run[k]", "dx: overwritten where windows overlap"),
    ("r, c = h + top, w + left", "r, c = h, w + left", "the padding above is forgotten"),
    ("row = plane[start : start + W]", "row = plane[start : start + W - 1]", "dx: the last column gets nothing"),
    ("offset(i * dh, j * dw)", "offset(i * dh, j)", "the dilation is forgotten"),
    (").sum(axis=1)  # dW^T", ").mean(axis=1)  # dW^T", "dW averaged over the pieces of a product"),
    ("if whole < L:", "if False:", "the columns that no piece has are not multiplied"),
    ("plane[:] = 0\n            for t", "plane[:1] = 0\n            for t", "dx: not zeroed before it is added to"),
    (
        "lambda: total(dy, (0, 2, 3))\n\n    return y, pullback\n\n\n# The public",
        "lambda: dy.mean(axis=(0, 2, 3))\n\n    return y, pullback\n\n\n# The public",
        "db: the mean in place of the sum",
    ),
    (
        "out[k] += factor * run[k]\n            take_up",
        "out[k] = factor * run[k]\n            take_up",
        "direct dx: overwritten where windows overlap",
    ),
    (
        "(1, P * width) if np.isfinite(factor) else (P, Q)",
        "(1, P * width)",
        "direct dx: infinity times a 0 that is in vain",
    ),
    ("if not np.isfinite(s):", "if False:", "direct dW: infinity times a 0 that is in vain"),
    ("if not finite:", "if False:", "dx: infinity times a 0 that is in vain"),
    ("result if clean or np.isfinite(result).all() else", "result if True else", "dW: infinity times such a 0"),
)

edits(  # of many images
    "ops/convolution.py",
    "threads",
    ("parts[k] += (", "parts[k] = (", "dW: overwritten by the next block of images"),
    ("for block in blocks[k :: len(parts)]", "for block in blocks[k :: len(parts) + 1]", "dW: blocks are left out"),
)

edits(
    "ops/pooling.py",
    "wrong_backward_rejected truth properties gradients images",
    ("add_row(share, dx[p, h])", "dx[p, h] = share", "average: overwritten where windows overlap"),
    ("share[w] += g", "share[w] = g", "average: overwritten where windows overlap in a row"),
    (
        "g = grad[j] * factor * column_weight[j]\n                    for w",
        "g = grad[j] / ((rows[i, 1] - rows[i, 0]) * (columns[j, 1] - columns[j, 0]))\n                    for w",
        "average: the gradient counts what is inside the image alone",
    ),
    ("plane[index[i, j]] += dy[p, i, j]", "plane[index[i, j]] = dy[p, i, j]", "max: overwritten where windows overlap"),
    ("(v > top) | (v != v)", "(v >= top) | (v != v)", "max of pairs: the last of equal elements"),
    ("(v > top) | (v != v)", "v > top", "max: NaN is not the largest"),
    ("v > top or (v == top and h < row)", "v > top", "max: of equal elements the one furthest to the left"),
    ("(top == top or h >= row)", "top == top", "max: of several NaN the one furthest to the left"),
    ("row * W + where", "row * len(x) + where", "max: the place is counted in heights"),
    ("dx_upper[e] = zero if right else above_g", "dx_upper[e] = above_g", "max of pairs: both of the upper row"),
)

edits(
    "ops/norm_kernels.py",
    "norms golden norm_variants truth norm_properties special_values properties gradients",
    (
        "high[c], shift[c] = fold(mean[c], rstd[c] * (factor * dweight[c] / m), dbias[c] / m * factor, x)",
        "high[c], shift[c] = fold(mean[c], rstd[c] * (factor * dweight[c] / m), 0.0, x)",
        "channels: the mean of g is missing",
    ),
    (
        "shift_c, slope_c = dbias[c] / m * factor, factor",
        "shift_c, slope_c = 0.0, factor",
        "channels of positions: the mean of g is missing",
    ),
    (
        "shift_c, slope_c = dbias[c] / m * factor, factor",
        "shift_c, slope_c = dbias[c] / N * factor, factor",
        "channels: divided by N instead of N L",
    ),
    (
        "            slope[c] = factor * dweight[c] / m\n",
        "            slope[c] = 0.0\n",
        "channels: the x_hat term is missing",
    ),
    (
        "dweight[c] / m\n                backward_run(",
        "-dweight[c] / m\n                backward_run(",
        "channels: the sign of the x_hat term",
    ),
    (
        "dweight[c] / m\n                backward_run(",
        "dweight[c] / (m - 1)\n                backward_run(",
        "channels: m - 1 in place of m",
    ),
    ("- shift[c]\n", "+ shift[c]\n", "channels: the sign of the mean of g"),
    ("grad[c] * scaled(row[c], high[c], scale[c])", "grad[c] * row[c]", "dgamma with x in place of x_hat"),
    (
        "t += grad[j] * scaled(block[j], c, scale)",
        "t += grad[j] * block[j]",
        "dgamma of positions with x in place of x_hat",
    ),
    (
        "for n in range(i, min(i + ROWS, N)):",
        "for n in range(i, min(i + ROWS + 1, N)):",
        "dgamma: blocks of rows overlap",
    ),
    (
        "            for c in range(C):\n                dbias[c] += first[c]\n",
        "            for c in range(C):\n                dbias[c] = first[c]\n",
        "dbeta: the last block of rows alone",
    ),
    (
        "x[i : i + BLOCK], dy[i : i + BLOCK], x.dtype.type(0), x",
        "x[i : i + BLOCK], dy[:BLOCK], x.dtype.type(0), x",
        "dgamma of positions: dy of the first block for all",
    ),
    (
        "        if own:\n            m = float(",
        "        if True:\n            m = float(",
        "eval: the gradient of training",
    ),
    (
        "mean, rstd = stats[0, k], stats[2, k]\n        channel_sums",
        "mean, rstd = stats[0, 0], stats[2, 0]\n        channel_sums",
        "ghosts: the statistics of the first for all",
    ),
    ("dbias if has_bias else None", "None", "channels: the gradient of the bias is missing"),
    ("sums[0, c] += part_sums[0, c]", "sums[0, c] = part_sums[0, c]", "dgamma and dbeta of the first part alone"),
    ("var[c] /= max(N * L, 1)", "var[c] /= max(N * L - 1, 1)", "channels: the unbiased variance"),
    (
        "for n in range(0, N if L > 0 else 0, step):",
        "for n in range(0, max(N - step + 1, 1), step):",
        "statistics: the rows of the last block are left out",
    ),
    (
        "for i in range(0, x.size, BLOCK):\n        block, s, t",
        "for i in range(0, max(x.size - BLOCK + 1, 1), BLOCK):\n        block, s, t",
        "variance: what is left over of the last block of a run is left out",
    ),
    ("max(second - off * first, 0.0)", "second", "variance: about the center in place of the mean"),
    (
        "mean[c] = center[c] + off",
        "mean[c] = center[c]",
        "channels: the center for the mean",
    ),
    ("return c + off, square", "return c, square", "rows: the mean rounded to x's width"),
    ("others_square[c] + apart * apart * count * share", "others_square[c]", "merge: the cross term is missing"),
    (
        "others_square[c] + apart * apart * count * share",
        "others_square[c] + apart * apart * share",
        "merge: the cross term without the count",
    ),
    ("mean[c] += apart * share", "mean[c] += apart * 0.5", "merge: each block counts the same, whatever its size"),
    ("more / (count + more)", "more / (count + more - 1)", "merge: one value too few"),
    ("shift = shift - low * scale", "shift = shift + low * scale", "the mean in two parts: the sign of low"),
    ("shift = shift - low * scale", "pass", "the mean in two parts: low is forgotten"),
    ("if low == low and low != 0:", "if low != 0:", "an infinite mean makes the shift NaN"),
    (
        "_, dweight[c] = fold(mean[c], dbias[c] * rstd[c], dweight[c], x)",
        "pass",
        "dgamma of channels: low is forgotten",
    ),
    ("_, t = fold(mean, s * rstd, t, row)", "pass", "dgamma of rows with positions: low is forgotten"),
    ("_, sum_g_xhat = fold(mean, sum_g * rstd, sum_g_xhat, row)", "pass", "rows: low is forgotten in mean(g x_hat)"),
    ("if centered else 0.0\n    backward_row(", "\n    backward_row(", "RMS norm: the gradient of layer norm"),
    (
        "mean_g, rstd * sum_g_xhat / row.size, dx)",
        "mean_g, sum_g_xhat / row.size, dx)",
        "rows: x - mean in place of x_hat",
    ),
    (
        "slope = rstd * sum_g_xhat / row.size",
        "slope = sum_g_xhat / row.size",
        "rows of positions: x - mean in place of x_hat",
    ),
    ("            s += g\n", "            s += grad[j]\n", "rows: the mean of dy in place of gamma dy"),
    ("t += g * scaled(block[j], c, scale)", "t += g * block[j]", "rows: mean(g x) in place of mean(g x_hat)"),
    ("sum_g += s * weight[j]", "sum_g += s", "rows of positions: the mean of dy in place of gamma dy"),
    (
        "sum_g_xhat += t * weight[j]",
        "sum_g_xhat = t * weight[j]",
        "rows: the last channel of a group alone",
    ),
    (
        "mean[n, g], rstd[n, g], dx_, dw, db)",
        "mean[n, 0], rstd[n, 0], dx_, dw, db)",
        "rows: statistics of the first group",
    ),
    ("dbias[j] += dy[j]\n", "dbias[j] += dy[j] * rstd\n", "rows: dbeta with dy rstd in place of dy"),
    ("    sums[:] = 0\n", "", "rows: dgamma and dbeta are not zeroed before they are added to"),
    ("            some[:] = 0\n", "", "rows: the sums of a block of rows are added again with the next one"),
    (
        "for n in range(i, min(i + ROWS, last)):",
        "for n in range(i, min(i + ROWS + 1, last)):",
        "rows: blocks of rows overlap",
    ),
    (
        "np.sqrt(var[n, g] + eps)\n            forward_of_row(rows",
        "(np.sqrt(var[n, g]) + eps)\n            forward_of_row(rows",
        "rows: eps outside of the root",
    ),
    (
        "return x.itemsize == 8 or (1e-10 < rstd < 1e10 and not 0 < var < 1e-20)",
        "return True",
        "float32: squares overflow",
    ),
    ("1e-10 < rstd < 1e10 and not 0 < var < 1e-20", "1e-10 < rstd < 1e10", "float32: squares lose their digits"),
    ("if run[i] != first:", "if False:", "float32: squares vanish, and with them the variance"),
    ("mean[c] = var[c] = rstd[c] = np.nan", "pass", "channels with an infinity: statistics by where it stands"),
    (
        "            unusual_backward(x, dy, edges, gamma, own, stats, dweight, dbias, dx)\n",
        "            pass\n",
        "channels: no backward in float64",
    ),
    (
        "run[n * L + i] = x[n, c, i]",
        "run[n * L + i] = x[0, c, i]",
        "channels in float64: the first sample for all",
    ),
    (
        "s, t = run_products(run, grad, mean, rstd)",
        "s, t = run_products(run, grad, mean, 1.0)",
        "channels in float64: dgamma without rstd",
    ),
    (
        "x = x - x.mean(axis=axes, keepdims=True)\n        x = x - x.mean(axis=axes, keepdims=True)",
        "x = x - x.mean(axis=axes, keepdims=True).detach()",
        "create_graph: the mean is taken for a constant",
    ),
    (
        "np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)",
        "np.sqrt((x * x).mean(axis=axes, keepdims=True).detach() + eps)",
        "create_graph: the variance is taken for a constant",
    ),
)

edits(  # of large arrays, which no other file has
    "ops/norm_kernels.py",
    "threads",
    ("dgamma[:], dbeta[:] = totals.sum(axis=1)", "dgamma[:], dbeta[:] = totals.mean(axis=1)", "large: dgamma averaged"),
    ("var /= len(samples) * x.shape[2]", "var /= len(samples) * x.shape[2] - 1", "large: the unbiased variance"),
    (
        "for n in (q.start, q.stop - q.start)]",
        "for n in (q.start, q.stop)]",
        "large: pieces are merged with wrong counts",
    ),
    (
        "        unusual += unusual_channels(samples, own, mean, var, rstd)\n    return unusual\n\n\n@np.errstate",
        "    return unusual\n\n\n@np.errstate",
        "large: no forward in float64",
    ),
)

edits(
    "ops/norms.py",
    "norms golden truth norm_properties properties gradients bad_input",
    (
        "running[c] = (1 - momentum) * running[c] + momentum * factor * batch[c]",
        "running[c] = momentum * running[c] + (1 - momentum) * factor * batch[c]",
        "momentum is the weight of the old statistics",
    ),
    (
        "running.move(mean[0], var[0], m / (m - 1))",
        "running.move(mean[0], var[0])",
        "biased running var",
    ),
    (
        "mean=mean, var=var, eps=eps)",
        "mean=None, var=None, eps=eps)",
        "batch norm: eval mode with batch statistics",
    ),
    ("m = len(x) * math.prod(x.shape[2:])\n", "m = len(x)\n", "batch norm: positions are not counted"),
    ("running.move(mean.mean(axis=0),", "running.move(mean[0],", "instance norm: running mean of the first sample"),
    ("var.mean(axis=0), positions / (positions - 1))", "var.mean(axis=0))", "instance norm: biased running var"),
    ("if check_flag(flag, own):", "if check_flag(flag, own) and False:", "read-only statistics are trained"),
    ("elif self.mean is None or self.spread is None:", "elif False:", "eval mode without statistics"),
    ("shape=(N, G, C // G, L), eps", "shape=(N, C // G, G, L), eps", "group norm: groups of G channels"),
    ("float(np.finfo(x.dtype).eps)", "float(np.finfo(np.float32).eps)", "RMS norm: eps of float32 for float64"),
)

edits(
    "ops/norm_variants.py",
    "norm_variants wrong_backward_rejected truth norm_properties gradients",
    ("var * (m / (m - 1))[:, None]", "var", "ghosts: biased running var"),
    ("np.average(mean, axis=0, weights=m)", "mean.mean(axis=0)", "ghosts: each counts the same, whatever its size"),
    ("(samples - starts[-1]) * values == 1", "samples - starts[-1] == 1", "ghosts: a single image left over joins"),
    ("(mean - old_mean) / sigma", "(old_mean - mean) / sigma", "renorm: the sign of d"),
    (
        "r[:] = np.clip(np.sqrt(var + eps) / sigma, 1 / r_max, r_max)",
        "r[:] = np.clip(np.sqrt(var + eps) / sigma, 0, r_max)",
        "renorm: r has no lower limit",
    ),
    ("shift = d if weight is None else weight * d", "shift = d", "renorm: d without gamma"),
    (
        "mean, var, (old_mean, old_var) = means[0], variances[0], running.constants()",
        "mean, var = means[0], variances[0]; running.move(mean, var); old_mean, old_var = running.constants()",
        "renorm: d from the statistics after this batch",
    ),
    ("running.move(mean.reshape(-1), matrix)", "pass", "decorrelation: nothing moves"),
)

edits(
    "ops/whitening.py",
    "norm_variants wrong_backward_rejected truth norm_properties gradients",
    ("-(z @ _t(x) + _t(x) @ z), z", "-(z @ _t(x)), z", "lyapunov: a term of dS is missing"),
    ("-(z @ _t(x) + _t(x) @ z), z", "z @ _t(x) + _t(x) @ z, z", "lyapunov: the sign of dS"),
    ("b @ _symmetric(db) @ b", "b @ db @ b", "inverse square root: db is not made symmetric"),
    ("_symmetric(d @ inner @ _t(d))", "d @ inner @ _t(d)", "eigenvectors: the gradient is not made symmetric"),
    ("np.where(same, 1, values - _t(values))", "np.where(same, 1, _t(values) - values)", "eigenvectors: the sign of F"),
    ("(2 / m) * dsigma @ c", "(1 / m) * dsigma @ c", "whiten: C C^T has one factor C"),
    ("(dc - dc.mean(axis=-1, keepdims=True))", "dc", "whiten: the mean is taken for a constant"),
    ("dc = _t(w) @ dy", "dc = w @ dy", "whiten: W in place of W^T"),
)


# The engine


edits(
    "engine/recording.py",
    "engine nn",
    ("class _Thread(threading.local):", "class _Thread:", "no_grad reaches into other threads"),
    (
        "thread.enabled, thread.retain = thread.outside.pop()",
        "thread.outside.pop()\n        thread.enabled = thread.retain = True",
        "no_grad ends an outer no_grad",
    ),
)

edits(
    "checks.py",
    "engine nn bad_input engine_contracts",
    ('(inspect.iscoroutinefunction, "a coroutine"),', "", "no_grad takes coroutines"),
    ("value.shape != array.shape:", "False:", "t.data takes an array of another shape"),
    ("if data.dtype not in FLOATS:", "if False:", "tensors of integers"),
)

edits(
    "runtime/memory.py",
    "between_steps engine nn",
    ("while isinstance(base.base, np.ndarray):", "while False:", "copies of views have memory of their own"),
    (
        "np.ndarray(shape, dtype, array if array.flags.c_contiguous else array.T, offset, strides)",
        "array.reshape(shape)",
        "a copied view is the whole",
    ),
    ("and not overlaps(data):", "and True:", "a copy of a repeated number repeats it"),
)

edits(
    "engine/tensors.py",
    "engine nn random_graphs gradients between_steps",
    ("result._version = self._version\n", "pass\n", "detach: changes of one are not seen by the other"),
    ('"grad": gradient}', '"grad": None}', "a copy loses its gradient"),
    ('"version": self._version,', '"version": [0],', "copies of what shares its changes do not share them"),
    (
        'if self._node is not None:\n            raise RuntimeError("only leaves',
        'if False:\n            raise RuntimeError("only leaves',
        "a computed tensor is pickled",
    ),
    ("if not spec and self.ndim:", "if not spec:", "a number without a format is its repr"),
)

edits(
    "engine/tape.py",
    "engine nn random_graphs gradients",
    ("if inputs and thread.enabled:", "if inputs:", "no_grad records"),
    ("if y is a or (base is not None and (base is a or base is a.base))", "if y is a", "views: changes are not shared"),
)

edits(
    "engine/versions.py",
    "engine nn random_graphs gradients",
    ("if counter[0] != seen and (again", "if counter[0] < seen and (again", "changes in place are not noticed"),
    ("if node.pullback is None:", "if False:", "a graph that was freed is walked"),
    ("stack.append(cell.cell_contents)", "pass", "what a closure keeps is not found"),
)

edits(
    "engine/backward.py",
    "truth engine random_graphs nn properties gradients engine_contracts",
    ("tuple(i + extra for i, n", "tuple(i for i, n", "broadcasting: summed over the wrong axis"),
    ("total(g, axes, keepdims=True)", "g.mean(axis=axes, keepdims=True)", "broadcasting: the mean of the copies"),
    ("table[key] = plus(table[key], g)", "table[key] = g", "a tensor used twice: overwritten instead of added"),
    ("if leaf.grad is None else plus(leaf.grad, table[key])", "", "a second backward overwrites .grad"),
    ("plus(table[key], seed) if key in table else seed", "seed", "an output named twice counts once"),
    ("if t.grad is None else plus(t.grad, dy)", "", "retain_grad: overwritten instead of added"),
    (
        "sorted(found, key=_serial)",
        "list(found.values())[::-1]",
        "nodes are visited before their gradient is complete",
    ),
    ("if not retain:\n", "if retain:\n", "retain_graph: the opposite"),
    ("g.base.size > g.size", "False", "a part of dy keeps all of it alive"),
    ("and g.flags.c_contiguous", "", "gradients are delivered transposed"),
    ("kept[key] < i", "False", "an input named twice gets one gradient"),
    (
        "return g if alone else g.copy()",
        "return g",
        ".grad shares memory with what the pullback keeps",
    ),
    ("dy = g = None  # our", "pass  # our", "every gradient is copied"),
    (
        "if n.serial > oldest and id(n) in needed]",
        "if n.serial > oldest]",
        "gradients that nobody asked for are computed",
    ),
    (
        "with grad_enabled(create_graph, retain), one_thread:",
        "with grad_enabled(False, retain), one_thread:",
        "create_graph: no history",
    ),
    (
        "args = [_alias(a) if isinstance(a, Tensor) else a for a in node.args]",
        "args = list(node.args)",
        "create_graph: the gradient of a fused op runs on into what its arguments come from",
    ),
    (
        "inputs, retain_graph or create_graph, create_graph)",
        "inputs, retain_graph, create_graph)",
        "grad: create_graph does not keep the graph",
    ),
)

edits(
    "engine/guards.py",
    "engine bad_input nn engine_contracts",
    ("if dtype is not None and a.dtype != dtype:", "if False:", "float32 and float64 are mixed"),
    (
        'if isinstance(value, Tensor):\n            raise TypeError(f"{op.__name__} takes',
        'if False:\n            raise TypeError(f"{op.__name__} takes',
        "a tensor by keyword is a constant",
    ),
    ("a = a.item()  # NumPy's", "pass  # NumPy's", "NumPy's scalars widen float32"),
    ("if y.dtype != dtype:", "if False:", "an op may change the dtype"),
    ("if len(gradients) > len(n.args):", "if False:", "more gradients than arguments pass"),
    ("if extra < 0 or any(", "if extra < 0 and any(", "a gradient of another shape is summed"),
    ("            check(*args, **kwargs)\n", "            pass\n", "checks of ops are not made"),
    ("    if g.dtype != a.dtype:", "    if False:", "gradients of another dtype pass"),
    ("        if not t._requires_grad:", "        if False:", "grad: inputs that require none"),
    ("if counter[0] != seen:\n        return", "return", "a definition of another function"),
    ("if recorded and thread.enabled:", "if False:", "a leaf is changed in place while it is recorded"),
    (
        "if g is None:\n            raise RuntimeError",
        "if False:\n            raise RuntimeError",
        "grad: unused inputs pass",
    ),
    ('raise kind(f"{op}({kinds}): {error}") from error', "return", "errors do not name the operands"),
)

edits(
    "engine/operators.py",
    "properties random_graphs engine gradients engine_contracts",
    ("other: OPS[function](other, self)", "other: OPS[function](self, other)", "2 - t is t - 2"),
    ("__truediv__, __rtruediv__ =", "__rtruediv__, __truediv__ =", "a / t is t / a"),
    (
        "__lt__, __le__ = _comparison(np.less), _comparison(np.less_equal)",
        "__le__, __lt__ = _comparison(np.less), _comparison(np.less_equal)",
        "< is <=",
    ),
    ("OPS[np.var](self, axis=axis, ddof=ddof,", "OPS[np.var](self, axis=axis, ddof=0,", "var: ddof is ignored"),
    ("OPS[np.std](self, axis=axis, ddof=ddof,", "OPS[np.std](self, axis=axis, ddof=0,", "std: ddof is ignored"),
)

edits(
    "gradient_checks/extrapolation.py",
    "gradient_checks gradient_battery numerical_gradient wrong_backward_rejected",
    ("value = fine + (fine - coarse) / (16.0**order - 1)", "value = coarse", "the coarse steps are taken"),
    ("* 2 / 4.0**order", "* 2", "steps that do not settle count as settled"),
    (
        "self.error += 2 * self._windows(rounding / widths).max(axis=0)",
        "pass",
        "rounding has no part in the error bar",
    ),
    ("self.error[w] += 2 * np.nanmax(", "0 * np.nanmax(", "smaller steps are not heard"),
    (
        "self.error[w] = np.maximum(self.error[w], gap.max(axis=0, initial=0.0))",
        "pass",
        "large steps that miss the function win",
    ),
    ("self.error[blind |", "self.error[", "steps too small for what was rounded win"),
)

edits(
    "gradient_checks/differences.py",
    "gradient_checks engine gradient_battery numerical_gradient wrong_backward_rejected",
    (
        "            for value in samples.at(k)[:2]:",
        "            for value in ():",
        "noise of the outputs is not heard",
    ),
    (
        "                work[index] = start\n",
        "                pass\n",
        "elements stay shifted while others are checked",
    ),
    ("& ~infinite[found.outputs]", "", "a jump to infinity is the edge of a domain"),
    ("if np.all(found.error <= max(level, GOOD) * size):", "if True:", "the last steps are taken for every element"),
)

edits(
    "gradient_checks/checking.py",
    "gradient_checks gradient_battery check_pair wrong_backward_rejected engine gradients",
    (
        "t.right = (np.abs(t.analytic - t.value) <= t.tolerance) & np.isfinite(t.tolerance)",
        "t.right = (np.abs(t.analytic - t.value) <= 1e5 * t.tolerance) & np.isfinite(t.tolerance)",
        "the tolerance is 100,000 times as large",
    ),
    (
        "t.right = (np.abs(t.analytic - t.value) <= t.tolerance) & np.isfinite(t.tolerance)",
        "t.right = (np.abs(abs(t.analytic) - abs(t.value)) <= t.tolerance) & np.isfinite(t.tolerance)",
        "signs are ignored",
    ),
    (
        "tolerance: Array = self.atol + self.rtol * size + error + nothing + least",
        "tolerance: Array = 1e-7 + self.rtol * size + error",
        "a floor of 1e-7",
    ),
    ("self.cotangents.draw(scaled=True), np.ones", "np.ones", "dy is not scaled to the outputs"),
    (
        "rows += list(np.eye(self.base.size)",
        "rows += list(0 * np.eye(self.base.size)",
        "outputs are not looked at alone",
    ),
    (
        "for i, name in enumerate(self.subject.names):",
        "for i, name in enumerate(self.subject.names[:1]):",
        "only the first input",
    ),
    ("if outside.any() and np.isfinite(room).all():", "if False:", "equal elements are only moved one by one"),
    ("if len(self._at_kinks) > 1", "if len(self._at_kinks) > 9", "ties between inputs count twice"),
    ("bent |= (t.error > BLURRED", "bent &= (t.error > BLURRED", "steps of a steep element serve the others"),
    (
        "bent = np.abs(sides.right - sides.left) >",
        "bent = np.abs(sides.right - sides.left) <",
        "smooth elements are taken for kinks",
    ),
    ("if bad := np.count_nonzero", "if bad := 0 * np.count_nonzero", "outputs that are not finite are let through"),
    ("if not np.all(noise <= 1e-9 * self._largest()):", "if False:", "a function that is not deterministic passes"),
)

edits(
    "gradient_checks/calls.py",
    "gradient_checks gradient_battery check_pair wrong_backward_rejected",
    (
        "[self._multiples, self._parts, self._layouts_of_dy, self._repeated]",
        "[self._layouts_of_dy]",
        "any use of dy passes",
    ),
    ("self._layouts_of_dy, self._repeated]", "self._repeated]", "dy always in C order"),
    ("self._layouts_of_dy, self._repeated]", "self._layouts_of_dy]", "dy is never repeated in place"),
    ("[self._alone, self._between,", "[self._between,", "all gradients are always asked for"),
    ("[self._alone, self._between,", "[self._alone,", "no call comes in between"),
    ("if self.right and same_shapes", "if False and same_shapes", "the gradient at other values is not looked at"),
    ("self._in_place, self._layouts_of_inputs,", "self._in_place,", "inputs always in C order"),
    ("self._between, self._in_place,", "self._between,", "the same arrays never change"),
    ("a.ndim and len(a) == n else a", "a.ndim else a", "weights are shortened like samples, and so no samples"),
    ("(nudged, rolled, fewer, barely)", "(nudged, rolled, barely)", "always the same number of samples"),
    ("(nudged, rolled, fewer, barely)", "(nudged, rolled, fewer)", "a narrow domain hides state"),
    (
        "if self.subject.linear:\n                self._in_layout",
        "if False:\n                self._in_layout",
        "layouts one at a time",
    ),
)

edits(
    "gradient_checks/subject.py",
    "wrong_backward_rejected gradient_battery gradients check_pair",
    ("rng.standard_normal(self.scale.size)", "rng.normal(1, 0, self.scale.size)", "dy is 1"),
    ("default_rng([seed, 7, 0])", "default_rng(seed)", "dy is what inputs are drawn from"),
    (
        "if not np.array_equal(array, values, equal_nan=True):",
        "if False:",
        "an op that writes into its arguments passes",
    ),
)

edits(
    "gradient_checks/gradcheck.py",
    "wrong_backward_rejected gradient_checks gradients engine",
    (
        "problems = differences(what, twice, doubled",
        "problems = differences(what, doubled, doubled",
        "a constant for dy passes",
    ),
    (
        "problems = differences(what, again, once",
        "problems = differences(what, once, once",
        "a definition of another function",
    ),
    (
        "return calls.checked(Check(_Tensors(first,",
        "return Report() if first else calls.checked(Check(_Tensors(first,",
        "no second derivatives",
    ),
    (
        "right = np.abs(gradients[i] - double[i]) <= allowed",
        "right = np.abs(double[i]) >= 0",
        "float32 is not compared",
    ),
    ("found.problems += _calls_in_float32(", "_calls_in_float32(", "calls are not checked in float32"),
    ("if pair := _unused_backward(self.fn):", "if False:", "a backward that never runs is not named"),
)

edits(
    "gradient_checks/pairs.py",
    "check_pair",
    (
        "self.paths = [p for p in every if p in found or p[:-1] in partly]",
        "self.paths = list(found)",
        "forgotten gradients pass",
    ),
    ("copy.deepcopy(value) if", "value if", "what forward changes stays changed"),
    (
        "            if self.stateful:  # a layer",
        "            if False:  # a layer",
        "a layer's backward follows another forward",
    ),
)

edits(
    "gradient_checks/numerical.py",
    "numerical_gradient",
    (
        "value = float(weights @ parts / COMPLEX_STEP)",
        "value = float(weights @ parts / COMPLEX_STEP) * (1 + 1e-12)",
        "complex: rounded",
    ),
    ("2 * rounding / h", "0", "central: no rounding in the error bar"),
)

edits(
    "gradient_checks/cases.py",
    "gradient_cases gradient_battery",
    ('"", True))', '"", False))', "no argument comes twice"),
    ("for n in (1, 4)]", "for n in (1,)]", "no even sizes"),
    ("LONG = (17, 67, 131, 523)", "LONG = (17,)", "no sizes beyond a block"),
)


# What is built on it


edits(
    "optim/sgd.py",
    "golden nn lr_scheduler checkpoint engine special_values between_steps",
    ("momentum * buffer[i] + undamped * d", "momentum * buffer[i] + d", "the dampening is forgotten"),
    ("buffer[i] = d if first", "buffer[i] = undamped * d if first", "the first step is dampened"),
    ("d + momentum * buffer[i] if nesterov", "buffer[i] + momentum * d if nesterov", "Nesterov: d and v exchanged"),
    ("d += weight_decay * p[i]", "d -= weight_decay * p[i]", "the sign of the weight decay"),
    ("                    g = -g\n", "                    pass\n", "maximize is ignored"),
    ("p.grad = None if set_to_none or", "p.grad = p.grad if set_to_none or", "zero_grad does nothing"),
    (
        "            p._version[0] += 1\n            if not at_once:",
        "            if not at_once:",
        "a step is not counted as a change",
    ),
    (
        "            p._version[0] += 1\n        sgd_of_all",
        "            pass\n        sgd_of_all",
        "the same, where a step is made again",
    ),
    ("if id(p) != key or p._data is not data or", "if id(p) != key or", "a step goes into an array that was exchanged"),
    (
        "if g.shape != shape or g.dtype is not dtype or",
        "if g.dtype is not dtype or",
        "a step reads beyond a gradient of another shape",
    ),
    (
        "self._seen, self._numbers, self._buffers.again = settings, [{} for _ in self.param_groups], None",
        "self._seen, self._numbers = settings, [{} for _ in self.param_groups]",
        "a step is made again with the old settings",
    ),
    (
        "                self._run(runs)\n                self._step(",
        "                self._step(",
        "parameters on one memory step in another order",
    ),
    ("self._buffers = buffers\n\n", "pass\n\n", "loading forgets the momentum"),
    ("group.update(loaded)", "group.update({**loaded, **self.defaults})", "loading forgets the settings"),
    ("me = weakref.ref(self)  #", "me = lambda: self  #", "an optimizer is left to the cycle collector"),
    ("g = g.copy()  #", "pass  #", "a gradient that overlaps its parameter changes under the kernel"),
    (
        "_check_groups(self.param_groups)\n        state, groups",
        "state, groups",
        "state_dict does not look at the groups",
    ),
    ("if not max(map(abs, values)) <=", "if False and not max(map(abs, values)) <=", "a rate that float32 cannot hold"),
)

edits(
    "optim/sgd.py",
    "between_steps",
    (
        "entry = _Momentum(p, self._forget)",
        "entry = _Momentum(p)",
        "the momentum of dead parameters stays",
    ),
    (
        'for p, buffer in state["_buffers"]:\n            self._buffers.put(p, buffer)',
        "pass",
        "copies forget the momentum",
    ),
    ('"_buffers": list(self._buffers.items())', '"_buffers": []', "copies are made without the momentum"),
    (
        "if not same or len(set",
        "if len(self._numbers) != len(self.param_groups) or len(set",
        "settings that were edited are not checked",
    ),
    ("_check_groups([*self.param_groups, group])", "pass", "a group that is added is not checked"),
    (
        "group = {**self.defaults, **param_group,",
        "group = {**param_group, **self.defaults,",
        "a group has no settings of its own",
    ),
    ("if len({id(p) for p in parameters}) != len(parameters):", "if False:", "a parameter may be there twice"),
    ("if not data.flags.writeable:", "if False:", "SGD: read-only parameters"),
    ("if overlaps(data):", "if False:", "SGD: parameters without a place for each element"),
)

edits(
    "optim/lr_scheduler.py",
    "lr_scheduler",
    ("self.gamma ** (t // self.step_size)", "self.gamma ** ((t + 1) // self.step_size)", "StepLR: a step early"),
    (
        "self.gamma ** bisect_right(self.milestones, t)",
        "self.gamma ** bisect_right(self.milestones, t - 1)",
        "MultiStepLR: a step late",
    ),
    ("math.pi * t / self.T_max", "math.pi * (t + 1) / self.T_max", "cosine annealing: a step early"),
    ("min(t, self.total_iters) /", "t /", "LinearLR: goes on behind the end"),
    (
        'initial)\n            group["lr"] = lr',
        'initial)\n            group["lr"] = rates[0]',
        "all groups get the rate of the first",
    ),
    ("vars(self).clear()\n            vars(self).update(before)\n", "pass\n", "a step that fails counts"),
    ("found[i] = lr, before", "pass", "a second schedule, or a hand, is not heard"),
    (
        "elif known is not None and lr == self._rate(known, before):",
        "elif known is not None:",
        "an edited setting acts backwards",
    ),
    ("if before == 0 != now:", "if False:", "cosine annealing stays at the bottom"),
    (
        "known = {id(g): i for i, g in enumerate(self._groups)}",
        "known = {id(g): i for i, g in enumerate(groups)}",
        "a group has the initial rate of the one that was in its place",
    ),
    (
        "self._rate(base, before), self._rate(base, now)):",
        "self._rate(base, now)):",
        "last_epoch: the rate of that step is not known again",
    ),
    (
        "_set_rates(groups, rates)\n\n        return take_over\n\n    def _checked",
        "pass\n\n        return take_over\n\n    def _checked",
        "loading a schedule leaves the rates",
    ),
    ("if t in self.milestones:", "if False:", "SequentialLR: the next schedule does not begin anew"),
    ("for part in parts:\n                part()", "pass", "SequentialLR: loading forgets the schedules"),
    ("[lr * check_number", "[check_number", "LambdaLR: the factor is the rate"),
)

edits(
    "nn/module.py",
    "nn norms norm_properties",
    ("out = out if changed is None else changed", "pass", "forward hooks: what they return is ignored"),
    ("args = changed if isinstance(changed, tuple) else (changed,)", "pass", "pre-hooks: what they return is ignored"),
    (
        "for child in self.children():\n            child.train(True) if mode else child.eval()",
        "pass",
        "train: not the children",
    ),
    ("child.train(True) if mode else child.eval()", "child.train(mode)", "a child's own eval() is passed over"),
    (
        "for child in self.children():\n            child.train(True) if mode else child.eval()",
        "for child in self.modules():\n            child.training = mode",
        "a child's own train() is passed over",
    ),
    ("np.zeros_like(parameter._data) if keep else None", "parameter.grad", "zero_grad does nothing"),
    (
        "if kind is not None and value is not None and not isinstance(value, kind):",
        "if False:",
        "anything takes a parameter's place",
    ),
    (
        "and value is not None and not isinstance(value, kind):",
        "and not isinstance(value, kind):",
        "None may not take a parameter's place",
    ),
    ("if kind is not None:\n            kinds[name] = kind", "pass", "a parameter's place is not known as one"),
    ("value = np.asarray(value)  #", "pass  #", "a count may not be counted up"),
    ("self._kinds[name] = Parameter\n", "pass\n", "a place without a parameter is not known as one"),
    ("gradient.astype(dtype)", "gradient", "a gradient keeps its old dtype"),
    ("if parameter.dtype != dtype:", "if True:", "a conversion to the same dtype makes a copy"),
    (
        "part = child.state_dict()",
        "part = Module.state_dict(child)",
        "a child's own state_dict() is passed over",
    ),
    (
        'if type(child).load_state_dict is Module.load_state_dict and "load_state_dict" not in vars(child):',
        "if True:",
        "a child's own load_state_dict() is passed over",
    ),
    ("elif name not in self._may_be_missing:", "else:", "num_batches_tracked may not be missing"),
    (
        "array.reshape(()) if array.shape == (1,) and target.shape == () else array",
        "array",
        "a count of shape (1,) is refused",
    ),
    ("if array.dtype != target.dtype and not (", "if False and not (", "a state of another dtype is cast"),
    (
        "for snapshot in before:\n                snapshot.restore()",
        "pass",
        "a load that fails halfway changes the first",
    ),
    ("if not hasattr(self, str(i)))", ")", "what is appended to a slice takes a place"),
    ("setattr(self, str(i) if numbered else name, module)", "setattr(self, name, module)", "del: not numbered anew"),
)

edits(
    "nn/normalization.py",
    "norms nn norm_properties golden norm_variants",
    ("training = self.training or all(value", "training = True or all(value", "eval mode with batch statistics"),
    (
        "training = self.training or all(value is None for value in self._running())",
        "training = self.training or not self.track_running_stats",
        "batch norm: statistics that are there are not used in eval once they are not tracked",
    ),
    ("return self.training and self.track_running_stats\n", "return self.track_running_stats\n", "eval counts"),
    (
        "return (None, None) if use_input and not self._moves() else self._running()",
        "return self._running()",
        "statistics that are not tracked move",
    ),
    (
        "1 / (int(batches) + 1)",
        "1 / (int(batches) + 2)",
        "cumulative average: off by one",
    ),
    (
        "            fresh(_count, self.num_batches_tracked)\n        return y\n\n    def normalize",
        "            pass\n        return y\n\n    def normalize",
        "batches are not counted",
    ),
    (
        "use_input = self.training or not self.track_running_stats",
        "use_input = True",
        "instance norm: eval mode with the input's statistics",
    ),
    ("use_input, momentum, self.eps)", "use_input, 0.1, self.eps)", "instance norm: its momentum is ignored"),
    ("if old is not None and old.flags.writeable:", "if True:", "statistics that were not there cannot begin"),
)

edits(
    "nn/norm_variants.py",
    "norm_variants nn norm_properties nn_utils",
    (
        "after = seen - self.warmup",
        "after = seen + 1 - self.warmup",
        "renorm: opens a batch early",
    ),
    (
        "after / self.d_ramp, 1.0) if self.d_ramp",
        "after / self.r_ramp, 1.0) if self.r_ramp",
        "renorm: d_max rises with r_max",
    ),
    ("self.eps, self.group_size, self.method", 'self.eps, self.group_size, "zca"', "decorrelation: PCA is ZCA"),
)

edits(
    "nn/convolution.py",
    "nn golden images gradients",
    (
        "self.stride, self.padding, self.dilation, self.groups",
        "self.stride, self.dilation, self.padding, self.groups",
        "padding and dilation exchanged",
    ),
    ("init.fans(self.weight)[0]", "init.fans(self.weight)[1]", "initialized by fan_out"),
    (
        'self.kernel_size if stride is None else pair("stride", stride, 1)\n        self.padding, self',
        '(1, 1) if stride is None else pair("stride", stride, 1)\n        self.padding, self',
        "max pooling: stride 1 by default",
    ),
)

edits(
    "nn/utils.py",
    "nn_utils norm_properties",
    ("min(1.0, max_norm / (total + 1e-6))", "max_norm / (total + 1e-6)", "clipping: small gradients are scaled up"),
    ("scale * centered + beta", "centered + beta", "folding: the bias is not scaled"),
)

edits(
    "preprocessing.py",
    "preprocessing properties",
    (
        "var = (rest**2).mean(axis=0)",
        "var = (rest**2).sum(axis=0) / max(n - 1, 1)",
        "StandardScaler: the unbiased variance",
    ),
    ("s[:rank] / math.sqrt(n - 1)", "s[:rank] / math.sqrt(n)", "whitening: the biased covariance"),
    ("np.hypot(std, math.sqrt(self.eps))", "np.hypot(std, self.eps)", "whitening: eps added to the deviation"),
    ("self.components_.T / self.scale_", "self.components_.T * self.scale_", "whitening: multiplied by the deviation"),
    ("super()._transform(x) @ self.components_", "super()._transform(x)", "ZCA: not rotated back"),
)

edits(
    "runtime/threads.py",
    "threads",
    (
        "count * (i + 1) // pieces)",
        "count * (i + 1) // pieces - (pieces > 1))",
        "the last index of each piece is left out",
    ),
    ("helper.result()  # raises", "pass  # raises", "an error of a helper is lost"),
)


# Sums, and what is delivered


edits(
    "runtime/sums.py",
    "sums",
    ("BLOCK = 32", "BLOCK = 1 << 40", "long sums are running sums"),
    ("blocks[(*here, -1)] += x[(*here, slice(whole, n))].sum(axis=axis)", "pass", "the rest of a block is left out"),
    ("x.size <= FEW * math.prod(kept)", "True", "all sums are NumPy's"),
)
edits(
    "runtime/jit.py",
    "warm_starts",
    (
        'return _compiled(function, {**FLAGS, "forceinline": True})',
        "return _compiled(function, FLAGS)",
        "two symbols of one name",
    ),
)
edits(
    "engine/backward.py",
    "engine",
    ("and g.flags.writeable", "", "a gradient that is delivered is read-only"),
    ("if item._requires_grad:  # it may", "if True:  # it may", "what no longer requires grad gets a gradient"),
)
edits(
    "ops/norm_kernels.py",
    "special_values norms",
    ("result[c] = row[c] * factors[c]", "result[c] = row[c]", "eval: dx without gamma and rstd"),
    ("result[i] = run[i] * factor", "result[i] = run[i]", "eval, positions: dx without gamma and rstd"),
)
edits(
    "ops/activation.py",
    "special_values",
    ("if v < np.float32(-87.33654):", "if v < np.float32(-87.3):", "sigmoid is 0 too early"),
    ("if x.ndim == 0:\n        y,", "if False:\n        y,", "softmax of a number"),
)
edits(
    "ops/loss.py",
    "special_values",
    ("np.where(infinite, np.where(slope == 0, 0, slope * x), y)", "y", "binary cross entropy: 0 times infinity"),
)
edits(
    "nn/utils.py",
    "nn_utils",
    ("for item in value.values() if isinstance(value, dict) else value:", "for item in ():", "folding: uses in lists"),
    ("and called_whole(m)]:", "]:", "folding: a Sequential that is taken apart"),
    (
        "vars(norm).update({name: value for other, name, value in own if other is norm})",
        "pass",
        "a norm loses its forward",
    ),
    (
        'given = vars(norm).get("forward", partial(type(norm).forward, norm))',
        "given = partial(type(norm).forward, norm)",
        "a norm's own forward is not called",
    ),
    ("and own\n", "and True\n", "folding: a norm with a forward of its own"),
)
edits(
    "nn/init.py",
    "engine",
    (
        "t._assign(np.asarray(values).astype(t.dtype))",
        "t.data = np.asarray(values).astype(t.dtype)",
        "init: another array",
    ),
)


# Survivors of a review, which looked where the fuzzer had not


edits(
    "ops/loss.py",
    "special_values bad_input",
    ("if not math.isfinite(top):\n            rest = math.nan", "pass", "cross entropy: a number at +inf"),
    ("target.astype(np.int64)", "target.astype(np.int64, copy=False)", "cross entropy: labels that change later count"),
    (
        "if target.dtype == np.uint64 and (target > np.uint64(2**63 - 1)).any():",
        "if False:",
        "cross entropy: uint64 wraps to ignore_index",
    ),
)
edits(
    "ops/activation.py",
    "special_values",
    ("dx[i] = 0 if y[i] <= 0 else dy[i]", "dx[i] = dy[i] if y[i] > 0 else 0", "ReLU: no gradient at NaN"),
)
edits(
    "optim/sgd.py",
    "special_values nn between_steps",
    ("if data is not p._data:  #", "if False:  #", "SGD: the step of a parameter in another layout is lost"),
    ("p._data[...] = data", "p._data = data", "SGD: a parameter in another layout no longer shares its memory"),
    ("for i in range(p.size):", "for i in range(p.size - 1):", "SGD: the last element is left out"),
)
edits(
    "ops/pooling.py",
    "images",
    ("if ceil_mode and (count - 1) * stride >= size + padding:", "if False:", "pooling: a window beyond the image"),
)

edits(
    "engine/replay.py",
    "replay",
    ("values[slot] = t._data\n", "values[slot] = t._data.copy()\n", "a replay keeps an array that is no parameter's"),
    (
        "if t._requires_grad is not flag or array.dtype is not dtype:",
        "if array.dtype is not dtype:",
        "a frozen parameter",
    ),
    (
        "if t._requires_grad is not flag or array.dtype is not dtype:",
        "if t._requires_grad is not flag:",
        "another dtype",
    ),
    ("table[source] = g if before is None else plus(before, g)", "table[source] = g", "the last of several gradients"),
    ("if g.shape != shapes[source]:", "if False:", "a broadcast argument's gradient is not summed"),
    ("range(len(back) - 1, -1, -1)", "range(len(back))", "the pullbacks run forwards"),
    ("versions.append((out._version, 0, y))", "versions.clear()", "a change before backward is not seen"),
    (
        "if self.flows:\n            back",
        "if thread.enabled and self.flows:\n            back",
        "enable_grad inside no_grad",
    ),
    ("and unchanged(now[name], value)", "", "an attribute of a module became another"),
    ("if now is not value and not unchanged(now, value):", "if False:", "a variable of the function became another"),
    ("or not found.variables_unchanged()", "", "variables are not looked at"),
    ("if any(module._hooks or module._pre_hooks for module, _ in found.modules):", "if False:", "hooks are not called"),
    ("elif not found.pins or all(alike(", "elif True or all(alike(", "what was the same need not stay so"),
    ("if thread.report is not None or", "if", "trace() does not see the ops"),
    ("pullback = pullbacks[k] = None", "pass", "the arrays of a step live on through the walk"),
    (
        "function = function.rule if step.ours else function.checked",
        "function = function.rule",
        "no check of a user's op",
    ),
    ('not (n == "track" and step.ours)', "True", "second derivatives move the running statistics"),
    (
        "if isinstance(a, Tensor) and i not in step.flows else a",
        "if False else a",
        "second derivatives flow through detach()",
    ),
    ("ids.index(i) for i in ids", "0 for i in ids", "which arguments are one array"),
    ("return tuple(map(_key, a))", "return a", "(1,) and (True,) are one argument"),
    ("last[slot].dead.append(slot)", "pass", "results that nothing needs are kept"),
)
edits(
    "engine/replay_recording.py",
    "replay",
    ("return not strict and alike(", "return alike(", "an array made anew, of equal values, is a constant"),
    (
        "return alike(a, b)\n    if isinstance(a, (tuple",
        "return True\n    if isinstance(a, (tuple",
        "floats need not agree",
    ),
    ("return b if a.value == b.value else None", "return b", "arguments may come from other steps"),
    ("return b if a.value is b.value else None", "return b", "another tensor from outside in each call"),
    ("pullback = functools.partial(pullback)", "pass", "ops that share a pullback are one"),
    ("while id(t) in self._sources:", "while False:", "a detached parameter is a constant"),
    ("return float.fromhex(value.hex())", "return value", "two fresh calls that give one float"),
    ("if not self._used & set(range(out, out + parts + 1)):", "if False:", "Python may look at what is compared"),
    ("if any(not alike(kept(a), before) for a, before in self._states):", "if False:", "arrays may change in place"),
    ("for state in self._random.values()] != self._draws:", "for state in ()] != []:", "random numbers may be drawn"),
    ("or id(result._version) in self._versions", "", "the result may be a view"),
    ("if len(a.steps) != len(b.steps):", "if False:", "one call may have more steps"),
    ("or not all(map(is_, a.numbers, b.numbers))", "", "numbers that NumPy computes"),
    ("if any(id(a) in reached for a in", "if any(False for a in", "an argument that has another name inside"),
    ("step.errors = errors", "pass", "np.errstate inside of the function"),
    ("add(item, type(item).__mro__)", "pass", "attributes of plain objects"),
    ('stack += [vars(c)["forward"] for c in', "stack += [None for c in", "globals of a forward"),
)
edits(
    "engine/replay_notes.py",
    "replay",
    ("Observed.assigned += 1", "pass", "a module's attribute is assigned"),
    ("if self._hooks or self._pre_hooks:", "if False:", "recorded with hooks"),
    ("recording = recorders.pop(me)", "recording = recorders[me]", "a rule's own ops are noted, too"),
)
edits(
    "engine/tensors.py",
    "replay",
    (
        "        unseen(READS)\n        return self._data",
        "        return self._data",
        "values are read inside a replay",
    ),
    ("note_detached(result, self)", "pass", "detach() is not noted"),
)


# The run


class Result(NamedTuple):
    verdict: str  # killed, survived or invalid
    why: str


def copy(folder: Path) -> None:
    """What the tests need, without the caches of compiled code."""
    for name in NEEDED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def mutated(edit: Edit) -> str:
    """The source of the file with the edit."""
    text = (ROOT / "tinygrad_bn" / edit.file).read_text(encoding="utf-8")
    if text.count(edit.old) != 1:
        raise ValueError(
            f"{edit}: its text must occur once in the file, got {text.count(edit.old)} times: {edit.old!r}"
        )
    return text.replace(edit.old, edit.new)


def file_of(name: str) -> str:
    """The path of test_NAME.py, which is in tests/ or in a folder there."""
    (file,) = (ROOT / "tests").rglob(f"test_{name}.py")
    return file.relative_to(ROOT).as_posix()


def run_tests(folder: Path, tests: tuple[str, ...], compiled: bool, *options: str) -> Result:
    """pytest on the copy in this folder."""
    files = [file_of(name) for name in tests if compiled or name not in ONLY_COMPILED]
    if not files:
        return Result("survived", "")
    chosen = "not long" if compiled else "not long and not slow"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, *options, *files]
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    variables |= {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")}
    variables |= {} if compiled else {"NUMBA_DISABLE_JIT": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=TIME)
    except subprocess.TimeoutExpired:
        return Result("killed", f"no end after {TIME} s")
    failed = re.search(r"^FAILED tests/(.*?)( - |$)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Result("killed", failed[1])
    if done.returncode == 0:
        return Result("survived", "")
    return Result("invalid", (done.stdout + done.stderr)[-2000:])


def check_unmutated(chosen: list[Edit], compiled: bool) -> None:
    """All tests that these edits run must pass without an edit: otherwise a failure would show nothing."""
    tests = tuple(dict.fromkeys(name for edit in chosen for name in edit.tests))
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        result = run_tests(Path(folder), tests, compiled)
    if result.verdict != "survived":
        raise RuntimeError(f"the tests must pass without an edit, got: {result.why}")


def try_edit(edit: Edit, compiled: bool) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        (Path(folder) / "tinygrad_bn" / edit.file).write_text(mutated(edit), encoding="utf-8")
        return run_tests(Path(folder), edit.tests, compiled, "-x")


def try_all(chosen: list[Edit]) -> dict[Edit, Result]:
    """What became of each edit; printed as it comes."""
    results: dict[Edit, Result] = {}
    left = chosen
    for compiled in (False, True):
        if left:
            check_unmutated(left, compiled)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(functools.partial(try_edit, compiled=compiled), left)
            for edit, result in zip(left, found, strict=True):
                results[edit] = result
                if result.verdict != "survived" or compiled:
                    print(f"{result.verdict:8} {edit} ({result.why})", flush=True)
        left = [edit for edit in left if results[edit].verdict == "survived"]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="WORD", default="", help="the edits whose file or description holds it")
    word = parser.parse_args().only
    chosen = [edit for edit in EDITS if word in str(edit)]
    results = try_all(chosen)
    counts = {verdict: sum(r.verdict == verdict for r in results.values()) for verdict in ("killed", "invalid")}
    print(f"{counts['killed']} of {len(chosen)} wrong edits killed")
    for edit, result in results.items():
        if result.verdict != "killed":
            print(f"{result.verdict}: {edit}")
    return 0 if counts["killed"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
