"""The demos' data: what a seed's runs are trained on, choose their rate by, and are tested on.

    digits     1,797 images of 8x8, with the package
    glyphs     generated images of 12x12
    mnist1d    generated signals of 40 values
    mnist:DIR  MNIST's test part, 10,000 images, in IDX files in the folder DIR (also Fashion-MNIST and KMNIST),
               halved to 14x14: the other 60,000 would only make it slower
    npz:FILE   x of shape (n, features) and y of shape (n,)

The test part is the same for all seeds, and no seed sees it before the test. The other parts are a seed's own: drawn
from the rest of the rows, or generated from a stream of their own, so that two seeds have no signal in common.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bn import data
from tinygrad_bn.data.mnist import MNIST_FILES

KINDS = "digits, glyphs, mnist1d, mnist:DIR or npz:FILE"
GENERATORS = {"glyphs": data.glyphs, "mnist1d": data.mnist1d}
TEST_ROWS = 20_000  # of generated data: the standard error of an error of 30 % is then 0.3 %
PIECE = 2_000  # rows generated at a time: glyphs take about 20 kB each while they are made
SPLIT = 99  # the stream of the split: not that of the initial weights, which start from the seed alone
TEST = [0, 98]  # the stream of the test part: no seed's
Rows = tuple[NDArray[Any], NDArray[Any]]


def check_spec(spec: str) -> str:
    """The name of a dataset. Errors: ValueError."""
    kind, colon, place = spec.partition(":")
    if spec not in ("digits", *GENERATORS) and not (kind in ("mnist", "npz") and colon and place):
        raise ValueError(f"dataset must be {KINDS}, got {spec!r}")
    return spec


@cache
def load_dataset(spec: str) -> Rows:
    """x (n, features) and y (n,): all rows, of generated data those of the test; read once per process.

    Errors: ValueError, OSError.
    """
    kind, _, place = check_spec(spec).partition(":")
    if kind in GENERATORS:
        pieces = [generate(kind, PIECE, "test", i) for i in range(TEST_ROWS // PIECE)]
        return np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces])
    if kind == "digits":
        return data.load_digits()
    x, y = halved_images(_path(place)) if kind == "mnist" else _from_file(_path(place))
    classes, y = np.unique(y, return_inverse=True)  # 0, 1, ... whatever numbers the file has
    if x.shape[1] == 0 or len(classes) < 2:
        raise ValueError(f"needs at least one feature and two classes, got x of shape {x.shape}, classes {classes}")
    if x.min() == x.max():
        raise ValueError(f"x must vary, got {x.flat[0]:g} in all of its {len(x)} rows")
    return x, y


def _path(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError as error:  # a ~ that is nobody's
        raise ValueError(f"there is no home folder for {place} ({error})") from None


def _from_file(file: Path) -> Rows:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    x, y = data.load_npz(file)
    if np.abs(x).max(initial=0) > np.finfo(np.float32).max:
        raise ValueError("x must fit into float32, got values above 3.4e38")
    return x, y


def halved_images(folder: Path) -> Rows:
    """The images of MNIST's test part, means of 2x2 pixels, as rows."""
    x, y = data.load_mnist(folder, train=False)
    n, _, rows, columns = x.shape
    if rows % 2 or columns % 2:
        raise ValueError(f"{folder}: images must have an even number of rows and columns, got {rows}x{columns}")
    return x.reshape(n, rows // 2, 2, columns // 2, 2).mean(axis=(2, 4)).reshape(n, -1), y


def generate(kind: str, n: int, *stream: str | int) -> Rows:
    """n rows of a stream of their own: its words, read as one large number, are the seed."""
    return GENERATORS[kind](n, seed=int.from_bytes(" ".join(map(str, stream)).encode(), "big"))


def load_parts(
    spec: str, seed: int, sizes: dict[str, int], raw: bool = False, whole_test: bool = False
) -> dict[str, Rows]:
    """The parts of a dataset that a seed's runs see, the same in every arm: {"train": (x, y), "test": (x, y)}.

    x is float32, standardized by the training part: its mean and its standard deviation over all features (which
    share their unit; one by one, pixels that are almost always 0 would be blown up). raw: as the dataset has them.
    A part has as many rows as sizes say. Of generated data the test part are the first of 20,000 rows; whole_test
    takes all of them, for runs that test once, at the end.
    Errors: ValueError, OSError.
    """
    return _load_parts(spec, seed, tuple(sizes.items()), raw, whole_test)


@lru_cache(maxsize=4)  # runs come seed by seed; of glyphs, a seed's whole test part takes 12 MB
def _load_parts(
    spec: str, seed: int, sizes: tuple[tuple[str, int], ...], raw: bool, whole_test: bool
) -> dict[str, Rows]:
    check_sizes(spec, dict(sizes))
    x, y = load_dataset(spec)
    if spec in GENERATORS:
        tested = slice(None if whole_test else dict(sizes).get("test"))
        parts = {
            name: (x[tested], y[tested]) if name == "test" else generate(spec, size, name, "of", seed)
            for name, size in sizes
        }
    else:
        parts = parts_of_rows(x, y, dict(sizes), seed)
    if raw:
        return {name: (x.astype(np.float32), y) for name, (x, y) in parts.items()}
    return standardized(parts)


def standardized(parts: dict[str, Rows]) -> dict[str, Rows]:
    """All parts by the numbers of the training part, in float64; float32 in the end."""
    train = parts["train"][0].astype(np.float64)
    mean, sd = train.mean(), train.std()
    if train.min() == train.max() or sd == 0:  # of equal values it may be the rounding of their mean
        raise ValueError(
            f"the training part must vary to be standardized, got {mean:g} in all of its {len(train)} rows"
        )
    return {name: (((x - mean) / sd).astype(np.float32), y) for name, (x, y) in parts.items()}


def check_sizes(spec: str, sizes: dict[str, int]) -> None:
    """Errors: ValueError for parts that the dataset can't give, or without "train"; those of load_dataset."""
    rows = len(load_dataset(spec)[0])
    if "train" not in sizes:
        raise ValueError(f"sizes must have a part train, got {list(sizes)}")
    if spec not in GENERATORS:
        _check_sizes(rows, sizes)
        return
    _check_sizes(sum(sizes.values()), sizes)
    if sizes.get("test", 0) > rows:
        raise ValueError(f"the dataset has {rows} rows to test, but {sizes['test']} are needed")


def _check_sizes(rows: int, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"sizes[{name!r}] must be at least 1, got {size}")
    wanted = sum(sizes.values())
    if wanted > rows:
        parts = " + ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"the dataset has {rows} rows, but {parts} = {wanted} are needed")


def dataset_facts(spec: str, sizes: dict[str, int], whole_test: bool = False) -> str:
    """On what data results are conditional, in words. Errors: as check_sizes."""
    check_sizes(spec, sizes)
    rows, test, train = len(load_dataset(spec)[0]), sizes.get("test", 0), sizes["train"]
    if spec in GENERATORS:
        tested = f", one test set of {rows if whole_test else test:,} for all seeds" if test else ""
        return f"fresh training data per seed{tested}"
    what = "rows" if spec.startswith("npz:") else "images"
    tested = f"one test part of {test:,} for all seeds; " if test else ""
    others = f"{train:,} of the {'other ' if test else ''}{rows - test:,}"
    shared = f"of which two seeds share {100 * train / (rows - test):.0f} %"
    return f"conditional on these {rows:,} {what}: {tested}each seed trains on {others}, {shared}"


def count_classes(parts: dict[str, Rows]) -> int:
    """Classes are 0, 1, ... and not all of them need be in every part."""
    return int(max(y.max() for _, y in parts.values())) + 1


def parts_of_rows(x: NDArray[Any], y: NDArray[Any], sizes: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random parts of the rows: "test" the same for every seed, the others of what is left."""
    _check_sizes(len(x), sizes)
    order = np.random.default_rng(TEST).permutation(len(x))
    test, rest = np.split(order, [sizes.get("test", 0)])
    others = {name: size for name, size in sizes.items() if name != "test"}
    parts = split(x[rest], y[rest], others, seed) | {"test": (x[test], y[test])}
    return {name: parts[name] for name in sizes}


def split(x: NDArray[Any], y: NDArray[Any], sizes: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random parts of the rows: {"train": 500, "test": 797} -> {"train": (x, y), "test": (x, y)}."""
    if len(x) != len(y):
        raise ValueError(f"x and y must have as many rows, got {len(x)} and {len(y)}")
    _check_sizes(len(x), sizes)
    cuts = np.cumsum(list(sizes.values()))
    rng = np.random.default_rng([seed, SPLIT])
    parts_of_rows = np.split(rng.permutation(len(x))[: cuts[-1]], cuts[:-1])
    return {name: (x[rows], y[rows]) for name, rows in zip(sizes, parts_of_rows, strict=True)}


def download(spec: str) -> None:
    """Download MNIST's test part (1.7 MB) for mnist:DIR, if DIR lacks it. No other set's files are touched.

    For Fashion-MNIST and KMNIST, data.download_mnist takes the address and the digests.
    Errors: ValueError for other datasets, and for a DIR with files of another set; those of data.download_mnist.
    """
    kind, _, place = check_spec(spec).partition(":")
    if kind != "mnist":
        raise ValueError(f"only mnist:DIR can be downloaded, got {spec!r}")
    folder = _path(place)
    try:
        data.load_mnist(folder, train=False)
        return
    except FileNotFoundError:
        digests = {name: digest for name, (_, digest) in MNIST_FILES.items() if name.startswith("t10k")}
    for where in (folder, folder / "raw", folder / "MNIST" / "raw"):
        for file in sorted(where.glob("t10k*")):
            if file.suffix != ".part" and not (file.is_file() and _sha256(file) in digests.values()):
                raise ValueError(f"{file} is not as MNIST's is downloaded, and what goes with it is not known")
    data.download_mnist(folder, sha256=digests)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
