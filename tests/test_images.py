"""Convolution and pooling against their formulas, written as loops; nets for images with every norm."""

import itertools
import tracemalloc

import numpy as np
import pytest

import tinygrad_bn.nn.functional as F
from tinygrad_bn import Tensor, data, manual_seed, nn, no_grad, ops, optim, tensor

SEED = 0


def normal(*shape):
    return np.random.default_rng(SEED).standard_normal(shape)


def convolution_as_loops(x, weight, bias, stride, around, dilation, groups):
    """y[n, o, p, q] = bias[o] + sum over c, i, j of weight[o, c, i, j] x[n, c, p s + i d - top, q s + j d - left]"""
    (top, bottom, left, right), (O, C, I, J) = around, weight.shape
    H, W = x.shape[2] + top + bottom, x.shape[3] + left + right
    P = (H - dilation[0] * (I - 1) - 1) // stride[0] + 1
    Q = (W - dilation[1] * (J - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), O, P, Q))
    for n, o, p, q in np.ndindex(y.shape):
        y[n, o, p, q] = bias[o]
        for c, i, j in np.ndindex(C, I, J):
            h, w = p * stride[0] + i * dilation[0] - top, q * stride[1] + j * dilation[1] - left
            if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
                y[n, o, p, q] += weight[o, c, i, j] * x[n, o // (O // groups) * C + c, h, w]
    return y


# stride, padding as it is given, what it means (top, bottom, left, right), dilation, groups
SETTINGS = [
    ((1, 1), 0, (0, 0, 0, 0), (1, 1), 1),
    ((2, 3), (1, 2), (1, 1, 2, 2), (1, 1), 1),
    ((1, 2), 3, (3, 3, 3, 3), (2, 1), 2),
    ((1, 1), "same", (0, 1, 2, 2), (1, 2), 1),  # a kernel of 2 x 3
    ((3, 1), "valid", (0, 0, 0, 0), (1, 2), 4),
    ((1, 1), "same", (0, 1, 2, 2), (1, 2), 4),  # in direct loops
]


@pytest.mark.parametrize(("stride", "padding", "around", "dilation", "groups"), SETTINGS)
@pytest.mark.parametrize("block", [1, 100, ops.convolution.BLOCK])
def test_conv2d_is_its_formula(stride, padding, around, dilation, groups, block, monkeypatch):
    """Whatever the number of images whose patches are made at a time."""
    monkeypatch.setattr(ops.convolution, "BLOCK", block)
    x, weight, bias = normal(3, 4, 6, 7), normal(8, 4 // groups, 2, 3), normal(8)
    expected = convolution_as_loops(x, weight, bias, stride, around, dilation, groups)
    args = [tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = F.conv2d(*args, stride, padding, dilation, groups)
    np.testing.assert_allclose(y.data, expected, rtol=0, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(expected.shape)
    y.backward(dy)
    # y is linear in x and in weight: <dy, y(v)> = <gradient, v> for every v
    flat = convolution_as_loops(x, weight, 0 * bias, stride, around, dilation, groups)
    v = np.random.default_rng(2).standard_normal(x.shape)
    along = convolution_as_loops(v, weight, 0 * bias, stride, around, dilation, groups)
    assert (args[0].grad * v).sum() == pytest.approx((dy * along).sum(), rel=1e-12)
    assert (args[1].grad * weight).sum() == pytest.approx((dy * flat).sum(), rel=1e-12)
    np.testing.assert_allclose(args[2].grad, dy.sum(axis=(0, 2, 3)), rtol=1e-13)


def gradients_as_loops(x, weight, dy, stride, around, dilation, groups):
    """dx and dweight: the terms of the sum above, one by one, of the elements that are inside."""
    dx, dw, (O, C, I, J) = np.zeros(x.shape), np.zeros(weight.shape), weight.shape
    with np.errstate(invalid="ignore"):  # infinity times 0
        for n, o, p, q in np.ndindex(dy.shape):
            for c, i, j in np.ndindex(C, I, J):
                h, w = p * stride[0] + i * dilation[0] - around[0], q * stride[1] + j * dilation[1] - around[2]
                if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
                    channel = o // (O // groups) * C + c
                    dx[n, channel, h, w] += dy[n, o, p, q] * weight[o, c, i, j]
                    dw[o, c, i, j] += dy[n, o, p, q] * x[n, channel, h, w]
    return dx, dw


# the shape of x, of the weight, stride, padding (height, width), dilation, groups
GEOMETRIES = [
    ((5, 2, 1, 9), (3, 2, 1, 3), (1, 1), (0, 1), (1, 1), 1),  # images of one row
    ((5, 2, 9, 1), (4, 1, 3, 1), (2, 1), (1, 0), (1, 1), 2),  # and of one column
    ((2, 3, 7, 8), (2, 3, 2, 2), (3, 5), (0, 0), (1, 1), 1),  # strides larger than the kernel
    ((2, 3, 7, 8), (3, 1, 2, 2), (3, 5), (1, 4), (1, 1), 3),
    ((2, 2, 4, 3), (2, 2, 2, 3), (1, 1), (5, 4), (1, 1), 1),  # paddings larger than the image
    ((2, 2, 4, 3), (2, 1, 2, 3), (2, 2), (5, 4), (1, 1), 2),
    ((2, 4, 8, 9), (4, 2, 3, 2), (2, 3), (2, 3), (2, 3), 2),  # dilation and stride
    ((2, 4, 8, 9), (8, 1, 3, 2), (3, 2), (1, 2), (3, 2), 4),
    ((3, 2, 5, 5), (4, 2, 1, 1), (1, 1), (0, 0), (1, 1), 1),  # one tap
    ((3, 2, 5, 5), (2, 1, 1, 1), (2, 2), (1, 1), (1, 1), 2),
    ((3, 6, 6, 5), (6, 2, 3, 3), (1, 1), (1, 1), (1, 1), 3),  # several channels in a group, in direct loops
]


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # infinity times 0
@pytest.mark.parametrize("infinite", ["nothing", "x", "weight"])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation", "groups"), GEOMETRIES)
def test_conv2d_of_unusual_geometries_and_with_an_infinity(
    shape, kernel, stride, padding, dilation, groups, infinite, monkeypatch
):
    """Products in small pieces, with a rest. No 0 that is there for the machine alone may meet an infinity."""
    monkeypatch.setattr(ops.convolution, "BLOCK", 2 * np.prod(shape[1:]) * np.prod(kernel[2:]))
    monkeypatch.setattr(ops.convolution, "SMALL", 16 * np.prod(kernel) // groups)
    monkeypatch.setattr(ops.convolution, "LEAST", 16)
    x, weight, bias, around = normal(*shape), normal(*kernel), normal(kernel[0]), tuple(np.repeat(padding, 2))
    for array in [{"x": x, "weight": weight}[infinite]] if infinite != "nothing" else []:
        array[-1, -1, -1, -1] = np.inf
    with np.errstate(invalid="ignore"):
        expected = convolution_as_loops(x, weight, bias, stride, around, dilation, groups)
    args = [tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = F.conv2d(*args, stride, padding, dilation, groups)
    same = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(y.data, expected, **same) if infinite != "weight" else None  # it meets the padding's 0
    dy = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(dy)
    dx, dw = gradients_as_loops(x, weight, dy, stride, around, dilation, groups)
    np.testing.assert_allclose(args[0].grad, dx, **same)
    np.testing.assert_allclose(args[1].grad, dw, **same)
    np.testing.assert_allclose(args[2].grad, dy.sum(axis=(0, 2, 3)), **same)


@pytest.mark.parametrize("groups", [1, 2])
def test_no_images_give_no_gradient(groups):
    args = [tensor(np.zeros(s), requires_grad=True) for s in ((0, 2, 5, 5), (4, 2 // groups, 3, 3), (4,))]
    y = F.conv2d(*args, padding=1, groups=groups)
    assert y.shape == (0, 4, 5, 5)
    y.backward(np.zeros(y.shape))
    assert all((t.grad == 0).all() and t.grad.shape == t.shape for t in args)
    for pool in (F.max_pool2d, F.avg_pool2d):
        for window in (2, 3):
            t = tensor(np.zeros((0, 2, 5, 5)), requires_grad=True)
            z = pool(t, window)
            z.backward(np.zeros(z.shape))
            assert z.shape == (0, 2, 5 // window, 5 // window) and t.grad.shape == t.shape


LAYERS = {
    "convolution": lambda t: F.conv2d(t, tensor(normal(3, 4, 3, 3)), padding=1),
    "max pooling": lambda t: F.max_pool2d(t, 2),
    "max pooling, overlapping": lambda t: F.max_pool2d(t, 3, 2, 1),
    "average pooling": lambda t: F.avg_pool2d(t, 2),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_arrays_in_other_layouts(layer):
    x, dy = normal(2, 4, 7, 6), None
    grads = []
    for array in (x, np.asfortranarray(x), np.repeat(x, 2, axis=3)[..., ::2], np.flip(x, 2).copy()[:, :, ::-1]):
        t = tensor(x, requires_grad=True)
        t.data = array
        y = LAYERS[layer](t)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        y.backward(np.asfortranarray(dy))
        grads.append((y.data.tobytes(), t.grad.tobytes()))
    assert len(set(grads)) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # infinity times 0
@pytest.mark.parametrize("groups", [1, 4])
def test_infinity_reaches_its_neighbours_and_nothing_else(groups):
    """Columns that are computed in vain must not turn 0 times infinity into NaN elsewhere."""
    x, w = np.ones((1, 4, 16, 16)), normal(4, 4 // groups, 3, 3)
    x[0, 0, 3, 15] = np.inf
    a, b = tensor(x, requires_grad=True), tensor(w, requires_grad=True)
    y = F.conv2d(a, b, padding=1, groups=groups)
    rows, columns = np.nonzero(~np.isfinite(y.data[0, 0]))
    assert set(rows) == {2, 3, 4} and set(columns) == {14, 15}
    y.backward(np.ones(y.shape))
    infinite = np.zeros(w.shape, bool)
    infinite[: 4 // groups, 0, :, 1:] = True  # column 15 of x is met by the weights at j = 1 and 2
    np.testing.assert_array_equal(np.isinf(b.grad), infinite)
    assert np.isfinite(b.grad[~infinite]).all() and np.isfinite(a.grad).all()
    with no_grad():
        b[0, 0, 0, 0] = np.inf
    a.grad = None
    F.conv2d(a, b, padding=1, groups=groups).backward(np.ones(y.shape))
    infinite = np.zeros((16, 16), bool)
    infinite[:15, :15] = True  # x[h, w] meets that weight in y[h + 1, w + 1]
    np.testing.assert_array_equal(np.isinf(a.grad[0, 0]), infinite)
    assert np.isfinite(a.grad[0, 0][~infinite]).all()


@pytest.mark.slow
def test_the_gradient_of_the_weight_takes_no_memory_per_image():
    """Sixteen times the images, and not sixteen times the partial sums."""
    weight = tensor(np.zeros((64, 64, 3, 3), np.float32), requires_grad=True)
    peaks = []
    for images in (16, 256):
        y = F.conv2d(tensor(np.zeros((images, 64, 16, 16), np.float32)), weight, padding=1)
        tracemalloc.start()
        y.backward(np.zeros(y.shape, np.float32))
        peaks.append(tracemalloc.get_traced_memory()[1] - 2 * y.data.nbytes)  # without dy and the engine's copy
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4 * weight.data.nbytes


def test_layers_pass_their_arguments_on():
    x = tensor(normal(2, 4, 9, 8))
    pairs = [
        (nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True), F.max_pool2d(x, 3, 2, 1, 2, True)),
        (nn.AvgPool2d(3, 2, 1, True, False), F.avg_pool2d(x, 3, 2, 1, True, False)),
        (nn.AvgPool2d(2, divisor_override=3), F.avg_pool2d(x, 2, divisor_override=3)),
        (nn.AdaptiveAvgPool2d((None, 3)), F.adaptive_avg_pool2d(x, (9, 3))),
        (nn.MaxPool2d((2, 3)), F.max_pool2d(x, (2, 3), stride=(2, 3))),
        (nn.AvgPool2d((2, 3)), F.avg_pool2d(x, (2, 3), stride=(2, 3))),
    ]
    for layer, expected in pairs:
        np.testing.assert_array_equal(layer(x).data, expected.data)
    different = [F.max_pool2d(x, 3, 2, 1, 2), F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, True)]
    assert pairs[0][1].shape != different[0].shape or (pairs[0][1].data != different[0].data).any()
    assert pairs[0][1].shape != different[1].shape and (pairs[1][1].data != different[2].data).any()


def test_one_image_is_a_batch_of_one():
    x, weight = tensor(normal(3, 6, 7)), tensor(normal(2, 3, 2, 2))
    layers = [lambda t: F.conv2d(t, weight), lambda t: F.max_pool2d(t, 2), lambda t: F.avg_pool2d(t, 2)]
    for layer in (*layers, lambda t: F.adaptive_avg_pool2d(t, 2)):
        np.testing.assert_array_equal(layer(x).data, layer(x.reshape(1, 3, 6, 7)).data[0])


def windows(size, k, s, p, d=1):
    """The elements of each window that lie inside."""
    starts = range(-p, size + p - d * (k - 1), s)
    return [[i for i in range(a, a + d * (k - 1) + 1, d) if 0 <= i < size] for a in starts]


def test_pooling_is_its_formula():
    x = normal(2, 3, 7, 8)
    for k, s, p, d in itertools.product((2, 3), (1, 2, 3), (0, 1), (1, 2)):
        rows, columns = windows(7, k, s, p, d), windows(8, k, s, p, d)
        largest = np.stack(
            [np.stack([x[:, :, r][:, :, :, c].max(axis=(2, 3)) for c in columns], axis=2) for r in rows], axis=2
        )
        np.testing.assert_array_equal(F.max_pool2d(tensor(x), k, s, p, d).data, largest)
        if d == 1:
            total = np.stack(
                [np.stack([x[:, :, r][:, :, :, c].sum(axis=(2, 3)) for c in columns], axis=2) for r in rows], axis=2
            )
            inside = np.outer([len(r) for r in rows], [len(c) for c in columns])
            np.testing.assert_allclose(F.avg_pool2d(tensor(x), k, s, p).data, total / k**2, rtol=0, atol=1e-14)
            excluding = F.avg_pool2d(tensor(x), k, s, p, count_include_pad=False)
            np.testing.assert_allclose(excluding.data, total / inside, rtol=0, atol=1e-14)
            for own in (True, False):  # linear in x: <dy, y(x)> = <gradient, x>
                t = tensor(x, requires_grad=True)
                y = F.avg_pool2d(t, k, s, p, count_include_pad=own)
                dy = np.random.default_rng(1).standard_normal(y.shape)
                y.backward(dy)
                assert (t.grad * x).sum() == pytest.approx((dy * y.data).sum(), rel=1e-12)


def test_adaptive_pooling_from_the_global_average_to_the_identity():
    x = normal(2, 3, 6, 5)
    np.testing.assert_allclose(F.adaptive_avg_pool2d(tensor(x), 1).data[..., 0, 0], x.mean(axis=(2, 3)), atol=1e-15)
    np.testing.assert_array_equal(F.adaptive_avg_pool2d(tensor(x), (None, 5)).data, x)
    halves = F.adaptive_avg_pool2d(tensor(x), (3, 1)).data[..., 0]
    np.testing.assert_allclose(halves, x.reshape(2, 3, 3, 10).mean(axis=3), rtol=0, atol=1e-15)


def test_the_gradient_of_max_pooling_goes_to_the_first_of_equal_values():
    x = tensor(np.ones((1, 1, 2, 4)), requires_grad=True)
    F.max_pool2d(x, 2).backward(np.array([[[[3.0, 5.0]]]]))
    np.testing.assert_array_equal(x.grad[0, 0], [[3, 0, 5, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("k", "s", "p", "d", "ceil"),
    [(2, 2, 0, 1, False), (2, 2, 0, 1, True), (3, 2, 1, 1, False), (3, 1, 1, 1, False), (2, 1, 1, 2, False)],
)
def test_max_pooling_of_equal_values_nan_and_infinities(k, s, p, d, ceil, dtype):
    """The first of equal values in reading order is the largest, and the last NaN, as in PyTorch."""
    rng = np.random.default_rng(SEED)
    x = rng.integers(0, 3, (6, 5, 7, 37)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[3:][np.isnan(x[3:])] = np.inf
    x[5] = -np.inf
    t = tensor(x, requires_grad=True)
    y = F.max_pool2d(t, k, s, p, d, ceil)
    dy = rng.integers(1, 9, y.shape).astype(dtype)
    y.backward(dy)
    expected, dx = np.zeros(y.shape), np.zeros(x.shape)
    for n, c, i, j in np.ndindex(y.shape):
        places = [(i * s - p + a * d, j * s - p + b * d) for a in range(k) for b in range(k)]
        places = [(h, w) for h, w in places if 0 <= h < 7 and 0 <= w < 37]
        values = [x[n, c, h, w] for h, w in places]
        nan = [place for place, v in zip(places, values, strict=True) if np.isnan(v)]
        place = nan[-1] if nan else places[values.index(max(values))]
        expected[n, c, i, j] = x[(n, c, *place)]
        dx[(n, c, *place)] += dy[n, c, i, j]
    np.testing.assert_array_equal(y.data, expected)
    np.testing.assert_array_equal(t.grad, dx)


@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), ((2, 9), 1)])
def test_nan_in_an_average_stays_in_its_windows(k, s):
    x = np.ones((1, 1, 5, 9))
    x[0, 0, 2, 3] = np.nan
    t = tensor(x, requires_grad=True)
    y = F.avg_pool2d(t, k, s)
    (a, b), (P, Q) = np.broadcast_to(k, 2), y.shape[2:]
    inside = [[i * s <= 2 < i * s + a and j * s <= 3 < j * s + b for j in range(Q)] for i in range(P)]
    np.testing.assert_array_equal(np.isnan(y.data[0, 0]), inside)
    dy = np.ones(y.shape)
    dy[0, 0, -1, -1] = np.inf
    y.backward(dy)
    infinite = np.zeros((5, 9), bool)
    infinite[(P - 1) * s : (P - 1) * s + a, (Q - 1) * s : (Q - 1) * s + b] = True
    np.testing.assert_array_equal(np.isinf(t.grad[0, 0]), infinite)
    assert np.isfinite(t.grad[0, 0][~infinite]).all()


def test_overlapping_windows_add_up_their_gradients():
    x = tensor(np.array([[[[0.0, 9.0, 1.0]]]]), requires_grad=True)
    F.max_pool2d(x, (1, 2), 1).backward(np.array([[[[3.0, 5.0]]]]))
    np.testing.assert_array_equal(x.grad[0, 0, 0], [0, 8, 0])


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_rounding_up_adds_no_window_that_begins_beyond_the_image(pool):
    """Three of size 1 would begin at 0, 2 and 4; the image ends at 4."""
    x = tensor(np.arange(16.0).reshape(1, 4, 4))
    assert pool(x, 1, 2, ceil_mode=True).data.tolist() == [[[0, 2], [8, 10]]]


def test_infinity_and_nan_in_pooling():
    x = np.array([[[[-np.inf, -np.inf, 1.0, np.nan, 5.0, 2.0]]]])
    np.testing.assert_array_equal(F.max_pool2d(tensor(x), (1, 2)).data[0, 0, 0], [-np.inf, np.nan, 5])
    np.testing.assert_array_equal(F.avg_pool2d(tensor(x), (1, 2)).data[0, 0, 0], [-np.inf, np.nan, 3.5])


NORMS = {
    "none": lambda c: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "group": lambda c: nn.GroupNorm(4, c),
    "layer": lambda c: nn.GroupNorm(1, c),
    "ghost": lambda c: nn.GhostBatchNorm2d(c, 8),
    "renorm": lambda c: nn.BatchRenorm2d(c, momentum=0.1, warmup=20, r_ramp=20, d_ramp=20),
    "decorrelated": nn.DecorrelatedBatchNorm2d,
}


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_a_small_net_learns_the_digits_with_every_norm(norm):
    manual_seed(SEED)
    x, y = data.load_digits()
    x = x.reshape(-1, 1, 8, 8)
    make = NORMS[norm]
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), make(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), make(16), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )
    sgd = optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    for _ in range(10):
        for images, labels in data.DataLoader((x[:1000], y[:1000]), 32, shuffle=True):
            loss = F.cross_entropy(net(Tensor(images)), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    net.eval()
    with no_grad():
        right = (net(Tensor(x[1000:])).data.argmax(axis=1) == y[1000:]).mean()
    assert right > 0.9


def test_nothing_is_said_about_elements_that_nobody_asks_for():
    """The end of a row and the beginning of the next one are neighbours in memory, not in the image."""
    x = np.ones((1, 1, 3, 4), np.float32)
    x[0, 0, 0, 3] = x[0, 0, 1, 0] = 3e38
    with np.errstate(all="raise"):
        y = F.conv2d(tensor(x, requires_grad=True), tensor(np.ones((1, 1, 1, 2), np.float32)))
        y.backward(np.full(y.shape, 2e38, np.float32) * (np.arange(3) % 2 == 0))
    assert np.array_equal(y.data[0, 0], np.array([[2, 2, 3e38], [3e38, 2, 2], [2, 2, 2]], np.float32))
