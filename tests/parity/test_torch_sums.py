"""Long sums: an error of at most PyTorch's and a few roundings, for every quantity, axis and layout."""

import numpy as np
import pytest
import sum_accuracy

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")

FEW = 6  # roundings beyond PyTorch's


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1000, 100_003, pytest.param(10_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("quantity", sum_accuracy.OURS)
def test_beside_pytorch(quantity, rows, dtype):
    for layout, lay in sum_accuracy.LAYOUTS.items():
        x = lay(sum_accuracy.data(rows, dtype))
        ours, theirs = sum_accuracy.ours(quantity, x), sum_accuracy.pytorchs(quantity, x)
        print(f"{quantity}, {rows:,} rows, {layout}: ours {ours:.2f}, PyTorch's {theirs:.2f} roundings")
        assert ours <= theirs + FEW, layout


@pytest.mark.parametrize("kind", ["batch norm", "layer norm", "instance norm", "group norm"])
@pytest.mark.parametrize(("mean", "rows"), [(0.0, 64), (100.0, 64), (1e4, 64), (3.0, 60_000)])
def test_second_derivatives_in_float32(kind, mean, rows):
    """At most 4 times PyTorch's error, against float64; also where the mean is large beside the standard deviation."""
    import tinygrad_bn as tb
    import tinygrad_bn.nn.functional as F

    rng = np.random.default_rng(0)
    shape = (rows, 4) if kind in ("batch norm", "layer norm") else (rows // 8, 4, 8)
    x = (rng.standard_normal(shape) + mean).astype(np.float32)
    c, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))

    def second(library, function, array, cast):
        norm = {
            "batch norm": lambda t: function.batch_norm(t, None, None, training=True),
            "layer norm": lambda t: function.layer_norm(t, (4,)),
            "instance norm": lambda t: function.instance_norm(t),
            "group norm": lambda t: function.group_norm(t, 2),
        }[kind]
        t = cast(array.copy())
        t.requires_grad = True
        (g,) = library((norm(t) * cast(c.astype(array.dtype))).sum(), t, create_graph=True)
        (h,) = library((g * g * cast(v.astype(array.dtype))).sum(), t)
        return np.asarray(h.detach() if hasattr(h, "detach") else h)

    torch_way = (torch.autograd.grad, torch.nn.functional)
    reference = second(*torch_way, x.astype(np.float64), torch.from_numpy)
    error = lambda h: float(np.abs(h - reference).max())
    ours = error(second(tb.grad, F, x, tb.Tensor))
    theirs = error(second(*torch_way, x, torch.from_numpy))
    print(f"{kind}, mean {mean}: ours {ours:.2g}, PyTorch's {theirs:.2g}, of {np.abs(reference).max():.2g}")
    assert ours <= 4 * theirs


KERNEL = np.random.default_rng(2).standard_normal((4, 6, 3, 3))
FLAT = np.full((8, 64, 1, 1), 0.1)
ORDINARY = {
    "decorrelated, mean 100": lambda f, t, d: f.decorrelated_batch_norm(t, training=True),
    "decorrelated, pca": lambda f, t, d: f.decorrelated_batch_norm(t, training=True, method="pca"),
    "gamma and beta 1000": lambda f, t, d: f.batch_norm(t, None, None, *np.full((2, 6), 1000, d), training=True),
    "eval, gamma 100": lambda f, t, d: f.batch_norm(t, *np.full((4, 6), 100, d)),
    "images in 0..255": lambda f, t, d: f.conv2d(t.reshape(1, 6, 8, 8) * 2.5, KERNEL.astype(d), padding=1),
    "many channels": lambda f, t, d: f.conv2d(t.reshape(6, 64, 1, 1), FLAT.astype(d)),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_second_derivatives_in_float32_are_not_refused(kind):
    """Where elements cancel, the definition may differ from the kernel by roundings of what cancels."""
    import tinygrad_bn as tb
    import tinygrad_bn.nn.functional as F

    rng = np.random.default_rng(0)
    data, v, w = (rng.standard_normal((64, 6)) for _ in range(3))
    data = (data + 100).astype(np.float32)

    def second(dtype):
        x = tb.tensor(data.astype(dtype), requires_grad=True)
        y = ORDINARY[kind](F, x, dtype)
        (g,) = tb.grad((y * y * w.astype(dtype).reshape(-1)[: y.size].reshape(y.shape)).sum(), x, create_graph=True)
        (h,) = tb.grad((g * v.astype(dtype)).sum(), x)
        return h

    exact = second(np.float64)
    error = np.abs(second(np.float32) - exact).max() / np.abs(exact).max()
    print(f"{kind}: off by {error:.1g} of the largest")
    assert error <= 1e-3
