"""Same seed, same bits: over repeated runs, processes, and any number of threads, ours and OpenBLAS's.

A run trains an MLP or a CNN and is summed up in the SHA-256 of all its parameters, buffers and losses. The arrays are
large enough that several threads do work, which each test makes sure of.
"""

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import blas, nn

openblas = pytest.mark.skipif(blas.one_thread.switch is None, reason="NumPy's BLAS is not OpenBLAS")


@pytest.fixture
def theirs():
    """OpenBLAS's own number of threads, to be set; as it was afterwards."""
    get, set_ = blas.one_thread.switch
    before = get()
    yield set_
    set_(before)


def clip():
    p = tb.tensor(np.random.default_rng(0).standard_normal(300_000).astype("f"), requires_grad=True)
    p.grad = p.data.copy()
    return [np.array(nn.utils.clip_grad_norm_([p], 1.0)), p.grad]


def decorrelating(*layers):
    net, rng = nn.Sequential(*layers), np.random.default_rng(0)
    for value in [*(p.data for p in net.parameters()), net[-1].running_mean, net[-1].running_matrix]:
        value[...] = rng.standard_normal(value.shape)
    return net.eval()


def fold():
    net = decorrelating(nn.Linear(300, 300), nn.DecorrelatedBatchNorm1d(300, group_size=300))
    return list(nn.utils.fold_batch_norm(net.double()).state_dict().values())


def whiten_in_eval_mode():
    x = np.random.default_rng(1).standard_normal((4, 600, 5, 5)).astype("f")
    return [decorrelating(nn.DecorrelatedBatchNorm2d(600, group_size=600))(tb.Tensor(x)).data]


def pca(kind, **options):
    x = np.random.default_rng(0).standard_normal((700, 256))
    fitted = kind(**options).fit(x)
    y = fitted.transform(x)
    return [fitted.components_, fitted.scale_, y, fitted.inverse_transform(y)]


OUTSIDE_OF_OPS = {
    "clip_grad_norm_": clip,
    "fold_batch_norm": fold,
    "decorrelated batch norm in eval mode": whiten_in_eval_mode,
    "PCAWhitening": lambda: pca(tb.preprocessing.PCAWhitening),
    "ZCAWhitening": lambda: pca(tb.preprocessing.ZCAWhitening, eps=0.1),
}


@openblas
@pytest.mark.parametrize("name", OUTSIDE_OF_OPS)
def test_what_else_multiplies_has_the_same_bits(name, theirs):
    """Sums of squares, eigenvectors and the like are OpenBLAS's work as well, without an op around them."""
    results = []
    for n in (1, 2, 3):
        theirs(n)
        results.append(OUTSIDE_OF_OPS[name]())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()
