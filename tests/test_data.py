"""Data sets and mini-batches."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import data


def test_digits_are_the_1797_of_the_source():
    x, y = data.load_digits()
    assert (x.shape, x.dtype, y.dtype) == ((1797, 64), np.float32, np.int64)
    assert np.array_equal(np.bincount(y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])  # UCI's counts
    assert x.min() == 0 and x.max() == 1 and np.array_equal(x * 16, np.round(x * 16))
    x[:] = 0
    assert data.load_digits()[0].max() == 1  # each call gives a new array


def test_digits_of_a_package_in_a_zip_file(tmp_path):
    """As zipapp and pex do it: nothing of the package lies in a folder."""
    package = Path(tb.__file__).parent
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        for path in [*package.rglob("*.py"), package / "data" / "digits.npz"]:
            file.write(path, path.relative_to(package.parent))
    code = "import tinygrad_bn as tb; x, y = tb.data.load_digits(); print(tb.__file__, x.shape, x.sum() * 16, y.sum())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packed.zip")}
    settings = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path}
    run = subprocess.run([sys.executable, "-c", code], **settings)
    x, y = data.load_digits()
    expected = f"{tmp_path / 'packed.zip' / 'tinygrad_bn' / '__init__.py'} {x.shape} {x.sum() * 16} {y.sum()}\n"
    assert run.stdout == expected, run.stderr


def test_glyphs_are_balanced_and_repeatable():
    x, y = data.glyphs(1003, seed=1)
    assert (x.shape, x.dtype, y.dtype) == ((1003, 144), np.float32, np.int64)
    assert set(np.bincount(y)) == {100, 101} and x.min() >= 0 and x.max() <= 1
    again, labels = data.glyphs(1003, seed=1)
    assert np.array_equal(again, x) and np.array_equal(labels, y)
    assert not np.array_equal(data.glyphs(1003, seed=2)[0], x)
    assert data.glyphs(0)[0].shape == (0, 144)


def test_glyphs_can_be_told_apart_but_not_by_a_line():
    """The nearest class mean is far better than chance and far from perfect."""
    x, y = data.glyphs(2000, seed=0)
    means = np.array([x[:1000][y[:1000] == c].mean(axis=0) for c in range(10)])
    distance = ((x[1000:, None] - means) ** 2).sum(axis=2)
    accuracy = float((distance.argmin(axis=1) == y[1000:]).mean())
    print("accuracy", accuracy)
    assert 0.5 < accuracy < 0.95


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_load_npz_returns_what_was_saved(tmp_path):
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1], np.uint8)
    loaded = data.load_npz(save(tmp_path / "a.npz", x=x, y=y))
    assert loaded[0].dtype == np.float64 and np.array_equal(loaded[0], x)
    assert loaded[1].dtype == np.int64 and np.array_equal(loaded[1], y)
    assert data.load_npz(save(tmp_path / "b.npz", x=x.astype(int), y=y))[0].dtype == np.float32


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_load_npz_takes_the_other_order_of_bytes(tmp_path, dtype):
    x, y = np.arange(6.0).reshape(3, 2).astype(dtype), np.array([0, 1, 1])
    swapped = x.astype(x.dtype.newbyteorder()), y.astype(y.dtype.newbyteorder())
    path = save(tmp_path / "a.npz", x=swapped[0], y=swapped[1])
    with np.load(path) as file:
        assert not file["x"].dtype.isnative and not file["y"].dtype.isnative
    loaded = data.load_npz(path)
    assert loaded[0].dtype == ("f4" if dtype == "i4" else dtype) and loaded[1].dtype == np.int64
    assert np.array_equal(loaded[0], x) and np.array_equal(loaded[1], y)
    assert all(a.dtype.isnative for a in loaded)


def test_a_renamed_npy_is_told_from_an_npz(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.ones((2, 2)))
    with pytest.raises(ValueError, match="single array"):
        data.load_npz(tmp_path / "a.npz")


BAD = {
    "no y": ({"x": np.ones((2, 2))}, "missing"),
    "x of one axis": ({"x": np.ones(2), "y": np.zeros(2, int)}, "shape"),
    "other lengths": ({"x": np.ones((2, 2)), "y": np.zeros(3, int)}, "shape"),
    "float y": ({"x": np.ones((2, 2)), "y": np.zeros(2)}, "y must hold integers"),
    "negative y": ({"x": np.ones((2, 2)), "y": np.array([0, -1])}, "y must hold integers"),
    "NaN": ({"x": np.full((2, 2), np.nan), "y": np.zeros(2, int)}, "finite"),
    "text": ({"x": np.array([["a"]]), "y": np.zeros(1, int)}, "x must be"),
    "objects": ({"x": np.array([[None]]), "y": np.zeros(1, int)}, "not a usable"),
}


@pytest.mark.parametrize("kind", BAD)
def test_load_npz_names_the_file_and_the_fault(tmp_path, kind):
    arrays, words = BAD[kind]
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + words):
        data.load_npz(path)


def test_load_npz_rejects_a_file_that_is_none(tmp_path):
    path = tmp_path / "text.npz"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz.*not a usable"):
        data.load_npz(path)


def test_loader_covers_every_row_once_and_keeps_rows_together():
    x, y = np.arange(10.0)[:, None], np.arange(10)
    loader = data.DataLoader((x, y), batch_size=4, shuffle=True, seed=0)
    epochs = [list(loader) for _ in range(2)]
    assert [len(b[0]) for b in epochs[0]] == [4, 4, 2] and len(loader) == 3
    for epoch in epochs:
        assert all(np.array_equal(a[:, 0], b) for a, b in epoch)
        assert sorted(np.concatenate([b for _, b in epoch])) == list(range(10))
    first, second = (np.concatenate([b for _, b in epoch]) for epoch in epochs)
    assert not np.array_equal(first, second) and not np.array_equal(first, y)


def test_loader_drop_last_and_order():
    loader = data.DataLoader(np.arange(10), batch_size=4, drop_last=True)
    assert len(loader) == 2 and [list(b) for (b,) in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_loader_shuffles_repeatably():
    def order(**settings):
        return [int(i) for (b,) in data.DataLoader(np.arange(20), batch_size=3, shuffle=True, **settings) for i in b]

    assert order(seed=1) == order(seed=1) != order(seed=2)
    tb.manual_seed(1)
    first = order()
    tb.manual_seed(1)
    assert order() == first
