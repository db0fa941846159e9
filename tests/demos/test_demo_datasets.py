"""The demos' data: one test part for all seeds, other parts a seed's own, standardized by the training part."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="pip install -e '.[demos]'")

sys.path.insert(0, str(Path(__file__).parents[2]))

from demos import datasets, training  # noqa: E402
from tinygrad_bn import data, manual_seed, nn  # noqa: E402

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
SIZES = {"train": 40, "valid": 20, "target": 10, "test": 25}


@pytest.fixture(autouse=True)
def nothing_is_kept():
    yield
    datasets.load_dataset.cache_clear()
    datasets._load_parts.cache_clear()


def saved(folder, x, y, name="data.npz"):
    np.savez(folder / name, x=x, y=y)
    return f"npz:{folder / name}"


@pytest.fixture
def numbered(tmp_path):
    """100 rows that say which they are."""
    return saved(tmp_path, np.arange(100.0)[:, None], np.arange(100) % 3)


def rows_of(parts, part):
    """The numbers of the rows of a part of `numbered`, whose labels must be theirs."""
    x, y = parts[part]
    assert np.array_equal(y, x[:, 0].astype(int) % 3)
    return x[:, 0].astype(int).tolist()


# Parts of real data


def test_no_seed_sees_a_row_of_the_test_part_that_all_seeds_share(numbered):
    seen, tests, trained = set(), set(), set()
    for seed in range(30):
        parts = datasets.load_parts(numbered, seed, SIZES, raw=True)
        assert {name: len(y) for name, (_, y) in parts.items()} == SIZES and list(parts) == list(SIZES)
        own = [rows_of(parts, name) for name in ("train", "valid", "target")]
        assert len({row for rows in own for row in rows}) == 70
        seen |= {row for rows in own for row in rows}
        tests.add(tuple(rows_of(parts, "test")))
        trained.add(tuple(own[0]))
    (test,) = tests
    assert not seen & set(test) and len(seen) == 75 and len(set(test)) == 25  # all other rows are used
    assert len(trained) == 30 and sorted(test) != list(test)


def test_the_test_part_depends_on_its_size_only(numbered):
    """A smaller one is the beginning of a larger one; the other parts and their order have no say."""
    test = rows_of(datasets.load_parts(numbered, 0, SIZES, raw=True), "test")
    for sizes in ({"test": 25, "train": 5}, {"train": 60, "test": 40}, {"valid": 7, "test": 10, "train": 7}):
        other = rows_of(datasets.load_parts(numbered, 0, sizes, raw=True), "test")
        assert other[:25] == test[: len(other)]


def test_a_seed_s_parts_are_made_once_and_of_what_was_asked_for():
    parts = datasets.load_parts("digits", 4, SIZES)
    assert datasets.load_parts("digits", 4, dict(SIZES)) is parts
    for other in (("digits", 5, SIZES), ("digits", 4, {"train": 40, "test": 26}), ("glyphs", 4, SIZES)):
        assert datasets.load_parts(*other)["train"][0].tobytes() != parts["train"][0].tobytes()
    raw = datasets.load_parts("digits", 4, SIZES, raw=True)
    assert raw["test"][0].min() == 0 and raw["test"][0].max() == 1 and parts["test"][0].min() < 0
    assert datasets.load_dataset("digits") is datasets.load_dataset("digits")


# Parts of generated data


@pytest.mark.parametrize("spec, features", [("glyphs", 144), ("mnist1d", 40)])
def test_generated_data_are_fresh_for_every_seed_and_one_test_set_for_all(spec, features):
    sizes = {"train": 50, "valid": 50, "target": 50, "test": 60}
    by_seed = [datasets.load_parts(spec, seed, sizes, raw=True) for seed in (0, 1, 10)]
    for parts in by_seed:
        assert {name: x.shape for name, (x, _) in parts.items()} == {n: (s, features) for n, s in sizes.items()}
        assert {y.dtype.kind for _, y in parts.values()} == {"i"}
    tests = {parts["test"][0].tobytes() + parts["test"][1].tobytes() for parts in by_seed}
    assert len(tests) == 1
    own = [row.tobytes() for parts in by_seed for name in ("train", "valid", "target") for row in parts[name][0]]
    labels = {parts[name][1].tobytes() for parts in by_seed for name in ("train", "valid", "target")}
    everything, _ = datasets.load_dataset(spec)
    assert len(everything) == 20_000 and len(labels) == 9
    assert len({*own, *(row.tobytes() for row in everything)}) == 9 * 50 + 20_000  # no row twice

    whole = datasets.load_parts(spec, 0, sizes, raw=True, whole_test=True)
    assert whole["test"][0].tobytes() == everything.tobytes() and len(whole["train"][0]) == 50
    assert np.array_equal(whole["test"][0][:60], by_seed[0]["test"][0])
    assert np.array_equal(whole["test"][1][:60], by_seed[0]["test"][1])
    assert abs(np.bincount(whole["test"][1]) - 2000).max() == 0


def test_generated_data_are_those_of_the_package():
    x, y = datasets.generate("mnist1d", 7, "train", "of", 3)
    expected = data.mnist1d(7, seed=int.from_bytes(b"train of 3", "big"))
    assert np.array_equal(x, expected[0]) and np.array_equal(y, expected[1])


def test_real_data_have_no_more_to_test_than_was_asked_for(numbered):
    parts = datasets.load_parts(numbered, 0, SIZES, whole_test=True)
    assert len(parts["test"][0]) == 25


# Standardization


def test_inputs_are_standardized_by_one_mean_and_one_deviation_of_the_training_part():
    raw = datasets.load_parts("digits", 3, SIZES, raw=True)
    mean, sd = raw["train"][0].mean(dtype=np.float64), raw["train"][0].std(dtype=np.float64)
    parts = datasets.load_parts("digits", 3, SIZES)
    for name, (x, y) in parts.items():
        assert x.dtype == np.float32 and np.array_equal(y, raw[name][1])
        assert np.allclose(x, (raw[name][0].astype(np.float64) - mean) / sd, rtol=1e-6, atol=1e-6)
    train = parts["train"][0].astype(np.float64)
    assert abs(train.mean()) < 1e-6 and abs(train.std() - 1) < 1e-6
    assert abs(parts["test"][0].mean()) > 1e-4  # not by its own
    assert train.std(axis=0).min() == 0  # the pixel that is 0 in every image stays constant


def test_another_seed_s_numbers_differ_and_so_do_its_test_inputs():
    one, other = (datasets.load_parts("digits", seed, SIZES)["test"][0] for seed in (3, 4))
    assert not np.array_equal(one, other) and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("scale, offset", [(16.0, 0.0), (255.0, 0.0), (1e-3, 5.0), (-1e4, 1e6)])
def test_the_unit_of_the_data_does_not_matter(tmp_path, scale, offset):
    """0..1, 0..16 or 0..255: the same inputs but for rounding, and so the same trained net."""
    x, y = data.load_digits()
    specs = [saved(tmp_path, x, y, "0.npz"), saved(tmp_path, x.astype(np.float64) * scale + offset, y, "1.npz")]
    results = []
    for spec in specs:
        parts = datasets.load_parts(spec, 1, {"train": 200, "test": 300})
        manual_seed(1)
        net = nn.Sequential(training.he_linear(64, 30), nn.ReLU(), training.he_linear(30, 10))
        results.append((parts, training.train(net, parts, {"seed": 1, "m": 32, "steps": 60, "lr": 0.05})))
    (one, trained), (two, trained_too) = results
    sign = np.sign(scale)
    for name in one:
        assert np.allclose(sign * two[name][0], one[name][0], atol=1e-5) and np.array_equal(two[name][1], one[name][1])
    if sign > 0:
        assert trained["test_error"] < 50
        assert trained_too["test_nll"] == pytest.approx(trained["test_nll"], rel=1e-3)
        assert trained_too["test_error"] == pytest.approx(trained["test_error"], abs=1)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_raw_values_are_what_the_file_has_in_float32(tmp_path, dtype):
    x = np.arange(100, dtype=dtype).reshape(50, 2)
    parts = datasets.load_parts(saved(tmp_path, x, np.arange(50) % 2), 0, {"train": 20, "test": 30}, raw=True)
    found = np.concatenate([part for part, _ in parts.values()])
    assert found.dtype == np.float32 and sorted(found.tolist()) == x.tolist()


def test_values_that_do_not_fit_into_float32_are_refused(tmp_path):
    for sign in (1, -1):
        spec = saved(tmp_path, np.array([[0.0], [sign * 1e39]]), np.arange(2), f"{sign}.npz")
        with pytest.raises(ValueError, match=r"x must fit into float32, got values above 3\.4e38"):
            datasets.load_dataset(spec)


def test_constant_data_are_refused(tmp_path):
    spec = saved(tmp_path, np.full((30, 3), 7.0), np.arange(30) % 2)
    with pytest.raises(ValueError, match="x must vary, got 7 in all of its 30 rows"):
        datasets.load_dataset(spec)
    x = np.full((30, 3), 7.0)
    x[0] = 8  # in the training part of some seeds and not of others
    spec, sizes, refused = saved(tmp_path, x, np.arange(30) % 2, "almost.npz"), {"train": 10, "valid": 10}, 0
    for seed in range(10):
        if datasets.load_parts(spec, seed, sizes, raw=True)["train"][0].max() == 8:
            assert np.isfinite(datasets.load_parts(spec, seed, sizes)["valid"][0]).all()
        else:
            refused += 1
            with pytest.raises(ValueError, match="the training part must vary to be standardized, got 7 in all"):
                datasets.load_parts(spec, seed, sizes)
    assert 0 < refused < 10


# What is refused, and what is said


@pytest.mark.parametrize(
    "spec", ["mnist", "mnist:", "npz:", "npz", "digits:", "glyphs:3", "mnist1d:4", "", "cifar:here"]
)
def test_other_names_are_refused(spec):
    words = f"dataset must be digits, glyphs, mnist1d, mnist:DIR or npz:FILE, got '{spec}'"
    for call in (datasets.check_spec, datasets.load_dataset, datasets.download):
        with pytest.raises(ValueError, match=words):
            call(spec)


@pytest.mark.parametrize("spec", ["digits", "glyphs", "mnist1d", "mnist:a folder", "npz:a:b"])
def test_names(spec):
    assert datasets.check_spec(spec) == spec


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.npz"):
        datasets.load_dataset(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(FileNotFoundError, match="none: there is no such folder"):
        datasets.load_dataset(f"mnist:{tmp_path / 'none'}")
    for kind in ("npz", "mnist"):
        with pytest.raises(ValueError, match=r"there is no home folder for ~nobody\.of\.that\.name/x"):
            datasets.load_dataset(f"{kind}:~nobody.of.that.name/x")


@pytest.mark.parametrize(
    "spec, sizes, words",
    [
        ("digits", {"train": 1500, "test": 300}, r"has 1797 rows, but 1500 train \+ 300 test = 1800 are needed"),
        ("digits", {"train": 10, "test": 0}, r"sizes\['test'\] must be at least 1, got 0"),
        ("glyphs", {"train": 10, "valid": -1}, r"sizes\['valid'\] must be at least 1, got -1"),
        ("mnist1d", {"train": 10, "test": 20_001}, "has 20000 rows to test, but 20001 are needed"),
        ("digits", {"test": 10}, r"sizes must have a part train, got \['test'\]"),
    ],
)
def test_sizes_that_a_dataset_cannot_give_are_refused(spec, sizes, words):
    for call in (datasets.check_sizes, datasets.dataset_facts, lambda spec, sizes: datasets.load_parts(spec, 0, sizes)):
        with pytest.raises(ValueError, match=words):
            call(spec, sizes)


def test_sizes_that_a_dataset_can_give():
    datasets.check_sizes("digits", {"train": 1000, "valid": 297, "test": 500})
    datasets.check_sizes("mnist1d", {"train": 50_000, "test": 20_000})  # of the training part any number is made
    assert {name: len(y) for name, (_, y) in datasets.load_parts("digits", 0, {"train": 9}).items()} == {"train": 9}


def test_facts(numbered):
    sizes = {"train": 500, "valid": 297, "test": 1000}
    digits = "conditional on these 1,797 images: one test part of 1,000 for all seeds; each seed trains on 500 of the "
    assert datasets.dataset_facts("digits", sizes) == f"{digits}other 797, of which two seeds share 63 %"
    fresh = "fresh training data per seed, one test set of {} for all seeds"
    assert datasets.dataset_facts("mnist1d", sizes) == fresh.format("1,000")
    assert datasets.dataset_facts("glyphs", sizes, whole_test=True) == fresh.format("20,000")
    assert datasets.dataset_facts("glyphs", {"train": 5}) == "fresh training data per seed"
    rows = "conditional on these 100 rows: each seed trains on 50 of the 100, of which two seeds share 50 %"
    assert datasets.dataset_facts(numbered, {"train": 50}) == rows


def test_two_seeds_share_what_the_facts_say(numbered):
    """The rows that two training parts have in common, of 40 of 75: 53 %."""
    assert datasets.dataset_facts(numbered, SIZES).endswith(
        "trains on 40 of the other 75, of which two seeds share 53 %"
    )
    parts = [set(rows_of(datasets.load_parts(numbered, seed, SIZES, raw=True), "train")) for seed in range(40)]
    shared = [len(parts[i] & parts[i + 1]) / 40 for i in range(0, 40, 2)]
    assert abs(np.mean(shared) - 0.533) < 0.05


# MNIST's files


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, images, labels, zipped=False):
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx(array)
        file = folder / f"t10k-{name}-ubyte{'.gz' * zipped}"
        file.write_bytes(gzip.compress(content) if zipped else content)
    return f"mnist:{folder}"


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_halved_by_means_of_two_by_two_pixels(tmp_path, zipped):
    images = np.zeros((6, 4, 6), np.uint8)
    images[0, :2, :2] = [[0, 51], [102, 255]]  # mean 102
    images[0, 2, 5], images[1, 0, 2] = 204, 4
    x, y = datasets.load_dataset(write(tmp_path / "mnist", images, np.array([7, 3, 7, 9, 3, 3], np.uint8), zipped))
    assert x.dtype == np.float32 and x.shape == (6, 6) and y.tolist() == [1, 0, 1, 2, 0, 0]
    assert np.allclose(x[:2], np.array([[102, 0, 0, 0, 0, 51], [0, 1, 0, 0, 0, 0]]) / 255, atol=1e-7)
    assert not x[2:].any()


def test_mnist_of_an_odd_size_is_refused(tmp_path):
    spec = write(tmp_path, np.ones((4, 4, 5), np.uint8), np.arange(4, dtype=np.uint8))
    with pytest.raises(ValueError, match="images must have an even number of rows and columns, got 4x5"):
        datasets.load_dataset(spec)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs MNIST's test part in shared/data/mnist")
def test_mnist_s_own_files():
    x, y = datasets.load_dataset(f"mnist:{REAL}")
    full, labels = data.load_mnist(REAL, train=False)
    assert x.shape == (10_000, 196) and np.array_equal(y, labels)
    assert np.array_equal(np.bincount(y), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert x.mean(dtype=np.float64) == pytest.approx(full.mean(dtype=np.float64), abs=1e-6)
    corner = full[:, 0, 13, 13] + full[:, 0, 12, 12] + full[:, 0, 12, 13] + full[:, 0, 13, 12]
    assert np.allclose(x[:, 6 * 14 + 6], corner / 4, atol=1e-6)
    parts = datasets.load_parts(f"mnist:{REAL}", 0, {"train": 500, "test": 1000})
    assert training.as_images(parts["train"][0]).shape == (500, 1, 14, 14)


# Downloading


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(data, "download_mnist", lambda root, **settings: calls.append((root, settings)))
    return calls


def test_only_the_test_part_is_downloaded(tmp_path, asked):
    (tmp_path / "t10k-images-idx3-ubyte.gz.part").write_bytes(b"the beginning")
    datasets.download(f"mnist:{tmp_path}")
    ((root, settings),) = asked
    assert root == tmp_path
    assert settings["sha256"] == {  # torchvision's mirror
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }


@pytest.mark.parametrize("inner", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("lacking", ["labels-idx1", "images-idx3", None])
def test_another_set_is_not_mixed_with_mnist(tmp_path, asked, inner, lacking):
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, np.ones((4, 4, 4), np.uint8), np.arange(4, dtype=np.uint8))
    if lacking is None:  # all is there
        datasets.download(f"mnist:{tmp_path}")
    else:
        (folder / f"t10k-{lacking}-ubyte").unlink()
        with pytest.raises(ValueError, match=r"t10k.* is not as MNIST's is downloaded"):
            datasets.download(f"mnist:{tmp_path}")
    assert not asked


def test_a_download_goes_on_after_the_first_file(tmp_path, asked, monkeypatch):
    content, name = b"as it is downloaded", "t10k-images-idx3-ubyte.gz"
    (tmp_path / name).write_bytes(content)
    known = {**datasets.MNIST_FILES, name: (len(content), hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(datasets, "MNIST_FILES", known)
    datasets.download(f"mnist:{tmp_path}")
    assert len(asked) == 1


@pytest.mark.parametrize("spec", ["digits", "glyphs", "mnist1d", "npz:file"])
def test_nothing_else_can_be_downloaded(spec, asked):
    with pytest.raises(ValueError, match=f"only mnist:DIR can be downloaded, got '{spec}'"):
        datasets.download(spec)
    assert not asked
