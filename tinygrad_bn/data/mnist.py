"""MNIST and the sets that took over its format (Fashion-MNIST, KMNIST, EMNIST): reading and downloading.

An IDX file holds one array, all numbers big-endian:

    0  0  type  axes      four bytes; type 8 means unsigned bytes, the only type that these sets use
    size of each axis     four bytes each
    the values            in C order, the last axis fastest

Neither side trusts the other: a file's header must agree with what the file really holds before memory is spent on
it, and a download must have the right SHA-256 before it appears under its name.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np

from ..checks import Array, check_flag, check_path

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # torchvision's mirror
MNIST_FILES = {  # name: bytes, SHA-256
    "train-images-idx3-ubyte.gz": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
CHUNK = 2**20  # bytes in memory at a time
LARGEST = 2**30  # bytes of a download whose size is not known; EMNIST's largest file is about half of it
LONGEST = 1e9  # seconds, and attempts: the system knows no longer waits
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP errors that may pass


def load_mnist(root: str | os.PathLike[str], train: bool = True) -> tuple[Array, Array]:
    """(x, y): images as float32 (n, 1, rows, columns) in [0, 1] (bytes / 255), and their classes as int64 (n,).

    root is the folder that holds train-images-idx3-ubyte and train-labels-idx1-ubyte (train=True: 60,000 of MNIST)
    or t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (train=False: 10,000), each gzipped (.gz) or not;
    train-images.idx3-ubyte and so on will do too, and a folder of the file's name with the file in it (Kaggle's). If
    root has none of them they may lie in its raw or MNIST/raw (torchvision's). Any size of image and any number of
    classes.
    Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits, 1998.
    Errors: FileNotFoundError naming the folders and the names looked for; ValueError naming the file that is wrong
    (see read_idx), or that does not hold images or one label for each; TypeError for a wrong argument.

    >>> from pathlib import Path
    >>> images = bytes([0, 0, 8, 3]) + np.array([1, 2, 2], ">u4").tobytes()  # one image, 2 x 2
    >>> _ = Path("t10k-images-idx3-ubyte").write_bytes(images + bytes([0, 51, 102, 255]))
    >>> labels = bytes([0, 0, 8, 1]) + np.array([1], ">u4").tobytes()
    >>> _ = Path("t10k-labels-idx1-ubyte").write_bytes(labels + bytes([7]))
    >>> tb.data.load_mnist(".", train=False)
    (array([[[[0. , 0.2],
             [0.4, 1. ]]]], dtype=float32), array([7]))
    """
    root = check_path("root", root)
    if not isinstance(train, (bool, np.bool_)):
        raise TypeError(f"train must be True or False, got {train!r}")
    paths = _find(root, "train" if train else "t10k")
    images, labels = map(read_idx, paths)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"{paths[0]}: must hold images, axes (n, rows, columns), found the shape {images.shape}")
    if labels.shape != images.shape[:1]:
        expected = f"{len(images)} labels, one for each image of {paths[0].name}"
        raise ValueError(f"{paths[1]}: must hold {expected}, found the shape {labels.shape}")
    return np.divide(images[:, None], np.float32(255), dtype=np.float32), labels.astype(np.int64)


def read_idx(path: str | os.PathLike[str]) -> Array:
    """The uint8 array in an IDX file of unsigned bytes, gzipped (one gzip stream, whatever the name) or not.

    No more memory is used than the contents of the file call for: a raw file's size is compared with its header
    before it is read, a gzip stream is unpacked piece by piece and only as far as its header says.
    Errors: FileNotFoundError; ValueError naming the file and what is wrong: its first bytes, too short, too long,
    a damaged gzip stream (checksum and length included), bytes after its end.
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with path.open("rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            pieces = _unzipped(file) if zipped else iter(lambda: file.read(CHUNK), b"")
            content = bytearray(next(pieces, b""))
            shape = _shape(content)
            total = 4 + 4 * len(shape) + math.prod(shape)
            expected = f"its header, shape {shape}, calls for {total} bytes"
            if total > 1032 * size if zipped else total != size:  # deflate's greatest ratio is 1032
                raise ValueError(f"{expected}, found {size}{' gzipped ones' * zipped}")
            while len(content) <= total and (piece := next(pieces, b"")):
                content += piece
            if len(content) != total:
                raise ValueError(f"{expected}, found {'more' if len(content) > total else len(content)}")
            return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
        except (ValueError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: not a usable IDX file: {error}") from error


def _unzipped(file: BinaryIO) -> Iterator[bytes]:
    """What a gzip stream holds, in pieces of 1 to CHUNK bytes."""
    unzip = zlib.decompressobj(wbits=31)  # 31: with gzip's header and trailer, whose checksum and length zlib compares
    while not unzip.eof:
        data = unzip.unconsumed_tail or file.read(CHUNK)
        if not data:
            raise ValueError("its gzip stream is cut short")
        if piece := unzip.decompress(data, CHUNK):
            yield piece
    if unzip.unused_data or file.read(1):
        raise ValueError("its gzip stream is followed by other bytes")


def _shape(content: bytearray) -> tuple[int, ...]:
    """The sizes of the axes, from the beginning of an IDX file."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"must begin with the bytes 0 0 8 and the number of axes, found {list(content[:4])}")
    axes = content[3]
    if len(content) < 4 + 4 * axes:
        raise ValueError(f"a header of {axes} axes has {4 + 4 * axes} bytes, found {len(content)}")
    return struct.unpack_from(f">{axes}I", content, 4)


def _find(root: Path, part: str) -> list[Path]:
    """The files of images and labels. They must lie together: the first place that has one must have both."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    kinds = [
        [f"{part}-{kind.replace('-', mark)}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
        for kind in ("images-idx3", "labels-idx1")
    ]
    places = [root, root / "raw", root / "MNIST" / "raw"]
    for place in places:
        candidates = [[place / name / inner for name in names for inner in ("", name)] for names in kinds]
        found = [next(filter(Path.is_file, paths), None) for paths in candidates]
        if any(found):
            places = [place]
            break
    for names, path in zip(kinds, found, strict=True):
        if path is None:
            where = ", ".join(map(str, places))
            raise FileNotFoundError(f"{where}: there is none of {', '.join(names)}, nor a folder of that name with it")
    return [path for path in found if path is not None]


def download_mnist(
    root: str | os.PathLike[str],
    url: str = MNIST_URL,
    *,
    sha256: dict[str, str] | None = None,
    progress: bool = True,
    timeout: float = 30.0,
    attempts: int = 3,
) -> None:
    """Download the four files of MNIST (11.6 MB) from url + name into the folder root; load_mnist(root) reads them.

    sha256: {file name: SHA-256 in hexadecimal}, the files of another set, for example Fashion-MNIST; None (default) is
    MNIST. progress: a bar per file (tqdm). timeout: seconds without a sign of the server (default 30). attempts: tries
    per file before giving up (default 3).

    A file appears under its name only when all of it is on the disk and its SHA-256 is right; one that is already
    there with the right SHA-256 is left alone, any other is replaced then. Until then the bytes are in NAME.part:
    after a broken connection the next attempt, or the next call, asks for the rest (HTTP Range) and starts the file
    over if the server does not send that. No more is written than the file's size: MNIST's is known, another's is
    what the server announces, at most 1 GiB. Two downloads into one folder at the same time are not supported.

    Errors: TypeError / ValueError for wrong arguments (url must be http or https), ImportError without tqdm;
    ValueError naming file, expected and found SHA-256 (or size) if the server has another file; OSError for an
    HTTP error such as 404, at once; ConnectionError after the last attempt.

    >>> tb.data.download_mnist("mnist")  # doctest: +SKIP
    >>> x, y = tb.data.load_mnist("mnist")  # doctest: +SKIP
    """
    root = check_path("root", root)
    url = _base_url(url)
    files: dict[str, tuple[int | None, str]] = {**MNIST_FILES} if sha256 is None else _digests(sha256)
    for name, value, types in (("timeout", timeout, (int, float)), ("attempts", attempts, (int,))):
        if isinstance(value, bool) or not isinstance(value, types):
            raise TypeError(f"{name} must be {'an int' if len(types) == 1 else 'a number'}, got {value!r}")
        if not 0 < value <= LONGEST:
            raise ValueError(f"{name} must be above 0 and at most {LONGEST:g}, got {value!r:.40}")
    if check_flag("progress", progress):
        try:
            from tqdm import tqdm  # type: ignore
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install 'tinygrad_bn[demos]'") from error
    root.mkdir(parents=True, exist_ok=True)
    for name, (size, digest) in files.items():
        path = root / name
        if path.exists() and _sha256(path) == digest:
            continue
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) if progress else nullcontext() as bar:
            _download(url + name, path, size, digest, timeout, attempts, bar)


class _Broken(Exception):
    """The network failed in a way that another attempt may mend."""


def _download(url: str, path: Path, size: int | None, digest: str, timeout: float, attempts: int, bar: Any) -> None:
    """Bring url to path by way of its .part; size is None where it is not known."""
    part = path.with_name(path.name + ".part")
    for _ in range(2):  # twice, because what part held before may be of another file
        for attempt in range(1, attempts + 1):
            try:
                resumed = _fetch(url, part, size, timeout, bar)
                break
            except HTTPError as error:
                raise OSError(f"{path}: the server answers {error.code} {error.reason} for {url}") from error
            except _Broken as error:
                if attempt == attempts:
                    message = f"{path}: attempt {attempt} of {attempts} to download {url} failed: {error}"
                    raise ConnectionError(f"{message}; calling again resumes") from error
                time.sleep(PAUSE * min(2 ** (attempt - 1), 60))
        found = _sha256(part)
        if found == digest:
            os.replace(part, path)
            return
        part.unlink()
        if not resumed:
            break
    raise ValueError(f"{path}: the SHA-256 of {url} must be {digest}, found {found}")


def _fetch(url: str, part: Path, size: int | None, timeout: float, bar: Any) -> bool:
    """Complete part in one attempt; True if it kept what part held before."""
    held = part.stat().st_size if part.exists() else 0
    if size is not None and held >= size:
        return True  # its SHA-256 decides
    response, start, total = _open(url, held, size, timeout)
    with response:
        if total is not None and (total > LARGEST if size is None else total != size):
            expected = f"at most {LARGEST}" if size is None else size
            raise ValueError(f"{part.with_suffix('')}: must have {expected} bytes, but {url} has {total}")
        total = total if size is None else size
        limit = LARGEST if total is None else total
        with part.open("ab" if start else "wb") as file:
            done = start
            while True:
                if bar is not None:
                    bar.total = total
                    bar.update(done - bar.n)
                if done >= limit or not (data := _network(response.read1, min(CHUNK, limit - done))):
                    break
                done += file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")
    return start > 0


def _open(url: str, held: int, size: int | None, timeout: float) -> tuple[http.client.HTTPResponse, int, int | None]:
    """(response, start, total): the bytes from start on, held if the server sends that, otherwise 0."""
    if held:
        try:
            response = _get(url, timeout, {"Range": f"bytes={held}-"})
        except HTTPError as error:
            if error.code != 416:  # the server's file ends before
                raise
        else:
            if response.status == 200:
                return response, 0, response.length
            header = response.headers.get("Content-Range", "")
            found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", header)
            start, total = (int(found[1]), int(found[2])) if found else (0, 0)
            if response.status == 206 and start == held and total == (size or total):
                return response, start, total
            response.close()  # not what was asked for
    response = _get(url, timeout, {})
    return response, 0, response.length


class _Redirect(request.HTTPRedirectHandler):
    """Follows a redirection to http or https; urllib's own would also go to ftp."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme in ("http", "https"):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        return None  # an HTTPError then


def _get(url: str, timeout: float, headers: dict[str, str]) -> http.client.HTTPResponse:
    headers = {"User-Agent": "tinygrad_bn", **headers}
    opener = request.build_opener(_Redirect)
    response: http.client.HTTPResponse = _network(opener.open, request.Request(url, headers=headers), timeout=timeout)
    return response


def _network(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """call(...), its failures as _Broken, but as HTTPError where another attempt is pointless."""
    try:
        return call(*arguments, **keywords)
    except HTTPError as error:
        error.close()
        if error.code not in TRY_AGAIN:
            raise
        raise _Broken(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _base_url(url: Any) -> str:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, for example
        usable = False
    if not usable or not re.fullmatch("[!-~]+", url):
        raise ValueError(f"url must be the beginning of an http or https address, got {url!r}")
    return url.rstrip("/") + "/"


def _digests(sha256: Any) -> dict[str, tuple[int | None, str]]:
    if not isinstance(sha256, dict):
        raise TypeError(f"sha256 must be a dict {{file name: digest}}, got {type(sha256).__name__}")
    for name, digest in sha256.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise ValueError(f"sha256 must have plain file names as keys, got {name!r}")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError(f"sha256[{name!r}] must be 64 hexadecimal digits, got {digest!r}")
    return {name: (None, digest.lower()) for name, digest in sha256.items()}
