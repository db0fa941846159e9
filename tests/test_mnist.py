"""MNIST files: read from the format's definition, damaged ones refused, downloads from a server that misbehaves."""

import errno
import gzip
import hashlib
import itertools
import os
import re
import socket
import struct
import sys
import threading
import time
import tracemalloc
import types
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinygrad_bn.data import mnist
from tinygrad_bn.data.mnist import download_mnist, load_mnist, read_idx

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


def idx(array):
    """An IDX file of unsigned bytes, from its definition."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def zipped(content):
    return gzip.compress(content, mtime=0)


def example(n=7, rows=5, columns=4, classes=26, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, rows, columns), np.uint8), rng.integers(0, classes, n, np.uint8)


def write(folder, images, labels, part="train", mark="-", ending=""):
    pack = zipped if ending else bytes
    (folder / f"{part}-images{mark}idx3-ubyte{ending}").write_bytes(pack(idx(images)))
    (folder / f"{part}-labels{mark}idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


# Reading


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_load_mnist_returns_what_the_files_hold(tmp_path, mark, ending):
    train, test = example(7), example(3, seed=1)
    write(tmp_path, *train, "train", mark, ending)
    write(tmp_path, *test, "t10k", mark, ending)
    for (images, labels), (x, y) in ((train, load_mnist(tmp_path)), (test, load_mnist(str(tmp_path), train=False))):
        assert x.shape == (len(images), 1, 5, 4) and x.dtype == np.float32 and y.dtype == np.int64
        assert np.array_equal(x[:, 0], images.astype(np.float32) / np.float32(255)) and np.array_equal(y, labels)
        x[:], y[:] = 0, 0  # they may be changed


def test_pixels_end_at_0_and_1(tmp_path):
    write(tmp_path, np.array([[[0, 255]]], np.uint8), np.array([250], np.uint8))
    x, y = load_mnist(tmp_path)
    assert x.tolist() == [[[[0.0, 1.0]]]] and y.tolist() == [250]


@pytest.mark.parametrize("pack", [bytes, zipped])
@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3), (3, 2, 4), (2, 2, 2, 3)])
def test_read_idx_takes_any_number_of_axes(tmp_path, shape, pack):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "file").write_bytes(pack(idx(array)))
    read = read_idx(tmp_path / "file")
    assert read.dtype == np.uint8 and read.shape == shape and np.array_equal(read, array)


def test_read_idx_over_many_pieces(tmp_path, monkeypatch):
    """Files longer than a piece, and streams whose end lies on the border of one."""
    monkeypatch.setattr(mnist, "CHUNK", 64)
    for n in (*range(40, 64), 640, 5000):
        array = np.random.default_rng(n).integers(0, 3, n, np.uint8)
        for content in (idx(array), zipped(idx(array))):
            (tmp_path / "file").write_bytes(content)
            assert np.array_equal(read_idx(tmp_path / "file"), array)


def with_every_gzip_field(content, checksum_error=0):
    """RFC 1952: extra field, name, comment and the header's own checksum."""
    header = b"\x1f\x8b\x08\x1e" + struct.pack("<I", 10**9) + b"\x00\x03" + b"\x03\x00abc" + b"a name\0a comment\0"
    header += struct.pack("<H", (zlib.crc32(header) & 0xFFFF) ^ checksum_error)
    body = zlib.compressobj(wbits=-15)
    body = body.compress(content) + body.flush()
    return header + body + struct.pack("<II", zlib.crc32(content), len(content))


def test_every_field_of_a_gzip_header_is_read(tmp_path):
    array = np.arange(5, dtype=np.uint8)
    (tmp_path / "file").write_bytes(with_every_gzip_field(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "file"), array)
    (tmp_path / "file").write_bytes(with_every_gzip_field(idx(array), checksum_error=1))
    with pytest.raises(ValueError, match="header crc"):
        read_idx(tmp_path / "file")


FIVE = idx(np.arange(5, dtype=np.uint8))  # 13 bytes
UNZIPPED_FIVE = zipped(FIVE)

BAD_FILES = {
    "empty": (b"", "must begin with the bytes 0 0 8", "found []"),
    "three bytes": (FIVE[:3], "must begin with", "found [0, 0, 8]"),
    "text": (b"hello", "must begin with", "found [104, 101, 108, 108]"),
    "first byte": (b"\1" + FIVE[1:], "must begin with", "found [1, 0, 8, 1]"),
    "second byte": (b"\0\1" + FIVE[2:], "must begin with", "found [0, 1, 8, 1]"),
    "signed bytes": (b"\0\0\x09" + FIVE[3:], "must begin with", "found [0, 0, 9, 1]"),
    "half a header": (FIVE[:6], "a header of 1 axes has 8 bytes", "found 6"),
    "255 axes": (b"\0\0\x08\xff" + FIVE[4:], "a header of 255 axes has 1024 bytes", "found 13"),
    "65 axes": (b"\0\0\x08\x41" + struct.pack(">65I", *[1] * 65) + b"a", "ndarray", "65"),  # more than NumPy has
    "short": (FIVE[:-1], "calls for 13 bytes", "found 12"),
    "long": (FIVE + b"a", "calls for 13 bytes", "found 14"),
    "gzip, empty": (zipped(b""), "must begin with", "found []"),
    "gzip, header": (zipped(FIVE[:6]), "a header of 1 axes has 8 bytes", "found 6"),
    "gzip, short": (zipped(FIVE[:-1]), "calls for 13 bytes", "found 12"),
    "gzip, long": (zipped(FIVE + b"a"), "calls for 13 bytes", "found more"),
    "gzip, two bytes": (UNZIPPED_FIVE[:2], "gzip", "cut short"),
    "gzip, no trailer": (UNZIPPED_FIVE[:-8], "gzip", "cut short"),
    "gzip, half a trailer": (UNZIPPED_FIVE[:-1], "gzip", "cut short"),
    "gzip, checksum": (UNZIPPED_FIVE[:-8] + b"\0\0\0\0" + UNZIPPED_FIVE[-4:], "incorrect data check", ""),
    "gzip, length": (UNZIPPED_FIVE[:-4] + b"\0\0\0\0", "incorrect length check", ""),
    "gzip, method": (b"\x1f\x8b\x07" + UNZIPPED_FIVE[3:], "unknown compression method", ""),
    "gzip, garbage behind": (UNZIPPED_FIVE + b"garbage", "gzip", "followed by other bytes"),
    "gzip, zeros behind": (UNZIPPED_FIVE + b"\0" * 9, "gzip", "followed by other bytes"),
    "gzip, a second stream behind": (UNZIPPED_FIVE * 2, "gzip", "followed by other bytes"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_read_idx_names_the_file_and_the_fault(tmp_path, kind):
    content, *words = BAD_FILES[kind]
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="some-file") as caught:
        read_idx(path)
    assert type(caught.value) is ValueError
    for word in words:
        assert word in str(caught.value)


def test_bytes_behind_a_gzip_stream_are_seen_where_a_piece_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "CHUNK", len(UNZIPPED_FIVE))
    (tmp_path / "file").write_bytes(UNZIPPED_FIVE + b"a")
    with pytest.raises(ValueError, match="followed by other bytes"):
        read_idx(tmp_path / "file")


def test_a_read_error_names_the_file(tmp_path, monkeypatch):
    def broken(file):
        raise OSError(errno.EIO, "Input/output error")
        yield

    (tmp_path / "file").write_bytes(UNZIPPED_FIVE)
    monkeypatch.setattr(mnist, "_unzipped", broken)
    with pytest.raises(ValueError, match=r"file.*Input/output error"):
        read_idx(tmp_path / "file")


def test_load_mnist_rejects_files_that_do_not_belong_together(tmp_path):
    images, labels = example()

    def refused(images, labels, name, *words):
        write(tmp_path, images, labels)
        with pytest.raises(ValueError, match=name) as caught:
            load_mnist(tmp_path)
        assert all(word in str(caught.value) for word in words), caught.value

    refused(images[:6], labels, "train-labels-idx1-ubyte", "6 labels", "train-images-idx3-ubyte", "(7,)")
    refused(images, images, "train-labels-idx1-ubyte", "7 labels", "(7, 5, 4)")
    refused(labels, labels, "train-images-idx3-ubyte", "(n, rows, columns)", "(7,)")
    refused(images[:0], labels[:0], "train-images-idx3-ubyte", "(0, 5, 4)")
    header = struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**31, 2**31)  # consistent: no images, each of 2^62 pixels
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        load_mnist(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*no such folder"):
        load_mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_idx(tmp_path / "nothing")
    write(tmp_path, *example())
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "labels")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))) as caught:
        load_mnist(tmp_path)
    for name in ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"):
        assert f"{name}," in str(caught.value) and f"{name}.gz" in str(caught.value)
    assert "images" not in str(caught.value)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("given", "inside"), [("", "MNIST/raw"), ("MNIST", "raw"), ("FashionMNIST", "raw"), ("", "raw")]
)
def test_the_folders_of_torchvision(tmp_path, given, inside, ending):
    """Its MNIST(root) keeps the files in root/MNIST/raw, FashionMNIST(root) in root/FashionMNIST/raw."""
    images, labels = example()
    (tmp_path / given / inside).mkdir(parents=True)
    write(tmp_path / given / inside, images, labels, ending=ending)
    x, y = load_mnist(tmp_path / given)
    assert np.array_equal(np.round(x[:, 0] * 255), images) and np.array_equal(y, labels)


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("inside", ["", "raw", "MNIST/raw"])
def test_files_in_folders_of_their_own_names(tmp_path, mark, inside):
    """As in Kaggle's archive; one of the two may lie beside its folder."""
    (images, labels), place = example(), tmp_path / inside
    place.mkdir(parents=True, exist_ok=True)
    write(place, images, labels, "t10k", mark)
    for path in sorted(place.glob("t10k*")):
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / path.name).write_bytes(content)
        x, y = load_mnist(tmp_path, train=False)
        assert np.array_equal(np.round(x[:, 0] * 255), images) and np.array_equal(y, labels)


def test_the_nearest_place_is_taken_and_no_two_are_mixed(tmp_path):
    sets = {place: example(seed=i) for i, place in enumerate(["MNIST/raw", "raw", ""])}
    for place, (images, labels) in sets.items():  # the farthest first
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, images, labels)
        x, y = load_mnist(tmp_path)
        assert np.array_equal(np.round(x[:, 0] * 255), images) and np.array_equal(y, labels)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="none of train-images-idx3-ubyte") as caught:
        load_mnist(tmp_path)
    assert "raw" not in str(caught.value) and "labels" not in str(caught.value)
    write(tmp_path / "raw", *example(seed=7), part="t10k")  # the other part may lie elsewhere
    assert np.array_equal(load_mnist(tmp_path, train=False)[1], example(seed=7)[1])


def test_all_places_looked_at_are_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").mkdir()  # a folder without the file
    with pytest.raises(FileNotFoundError, match=r"none of train-images-idx3-ubyte, .* nor a folder") as caught:
        load_mnist(tmp_path)
    places = str(caught.value).split(": there is")[0].split(", ")
    assert places == [str(tmp_path / inside) for inside in ("", "raw", "MNIST/raw")]


def test_arguments_of_the_wrong_type_are_named(tmp_path):
    with pytest.raises(TypeError, match=r"root.*int"):
        load_mnist(3)
    with pytest.raises(TypeError, match=r"path.*NoneType"):
        read_idx(None)
    with pytest.raises(TypeError, match=r"train.*'test'"):
        load_mnist(tmp_path, "test")


@pytest.mark.skipif(
    not (REAL / "t10k-images-idx3-ubyte.gz").is_file(),
    reason="needs MNIST's files in ../shared/data/mnist: download_mnist() fetches them",
)
def test_the_real_test_set():
    x, y = load_mnist(REAL, train=False)
    assert x.shape == (10000, 1, 28, 28) and y.shape == (10000,) and y[0] == 7
    assert np.bincount(y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x.min() == 0 and x.max() == 1 and abs(x.mean(dtype=np.float64) - 0.1325) < 5e-5


def corrupt(content, rng):
    """One to three random changes: a byte, an end cut off, bytes put in, two blocks swapped."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        i, j, k = sorted(int(v) for v in rng.integers(0, len(content) + 1, 3))
        kind = rng.integers(0, 4)
        if kind == 0 and i < len(content):
            content[i] ^= int(rng.integers(1, 256))
        elif kind == 1:
            del content[k:]
        elif kind == 2:
            content[i:i] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            content = content[:i] + content[j:k] + content[i:j] + content[k:]
    return bytes(content)


def overwrite(path, content):
    """write_bytes in place: where a file is emptied first, some file systems take milliseconds."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_10000_corruptions_are_refused_or_harmless(tmp_path, ending):
    """5,000 raw, 5,000 gzipped. Loaded may be: a raw file with other values behind its header; a gzipped one with
    equal values, where the change hit its time stamp, its name or the spare bits at the end of the stream."""
    rng = np.random.default_rng(len(ending))
    images, labels = example(6, 3, 3, classes=10)
    write(tmp_path, images, labels, ending=ending)
    loaded = refused = 0
    for path, header in zip(sorted(tmp_path.iterdir()), (16, 8), strict=True):  # images, labels
        good = path.read_bytes()
        for _ in range(2500):
            while (bad := corrupt(good, rng)) == good:
                pass
            overwrite(path, bad)
            try:
                x, y = load_mnist(tmp_path)
            except ValueError as error:
                refused += 1
                assert path.name in str(error)
            else:
                loaded += 1
                assert x.shape == (6, 1, 3, 3) and y.shape == (6,)
                if ending:
                    assert np.array_equal(np.round(x[:, 0] * 255), images) and np.array_equal(y, labels)
                else:
                    assert bad[:header] == good[:header] and len(bad) == len(good)
        overwrite(path, good)
    print("refused", refused, "loaded", loaded)
    assert loaded > 100 and loaded + refused == 5000


def test_neither_a_lying_header_nor_a_gzip_bomb_costs_memory(tmp_path):
    huge = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31)
    zeros, bomb, both = (zipped(start + bytes(2**25)) for start in (b"", FIVE, huge))  # 32 MB unzipped
    assert len(bomb) < 100_000
    for content in (huge, huge + bytes(100), zipped(huge), zipped(huge + bytes(100)), zeros, bomb, both):
        path = tmp_path / "file"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="file"):
                read_idx(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * 2**20, f"{peak} bytes for {content[:20]!r}"


def test_memory_of_a_right_file_stays_near_its_contents(tmp_path):
    array = np.zeros((1024, 64, 256), np.uint8)  # 16 MB
    for content in (idx(array), zipped(idx(array))):
        (tmp_path / "file").write_bytes(content)
        tracemalloc.start()
        read = read_idx(tmp_path / "file")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read.shape == array.shape and peak < 1.25 * array.size + 4 * 2**20


# Downloading. A behaviour is a function (handler, content) that answers one request.

DATA = {"train": example(160, 6, 7, seed=2), "t10k": example(9, 6, 7, seed=3)}
FILES = {
    f"{part}-{kind}-ubyte.gz": zipped(idx(array))
    for part, arrays in DATA.items()
    for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True)
}
NAME, CONTENT = next(iter(FILES.items()))  # the one of about 7 kB
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def start_of(handler):
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(asked[1]) if asked else 0


def send(handler, status, body, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def honest(handler, content, most=None):
    """Obeys HTTP, ranges included; with `most` the connection ends after that many bytes of the body."""
    start = start_of(handler)
    if start >= len(content):
        send(handler, 416, b"", Content_Range=f"bytes */{len(content)}", Content_Length=0)
    elif start:
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        send(handler, 206, content[start:][:most], Content_Range=where, Content_Length=len(content) - start)
    else:
        send(handler, 200, content[:most], Content_Length=len(content))


def cut(most):
    return lambda handler, content: honest(handler, content, most)


def ignore_ranges(handler, content):
    send(handler, 200, content, Content_Length=len(content))


def refuse_ranges(handler, content):
    if start_of(handler):
        send(handler, 416, b"", Content_Length=0)
    else:
        ignore_ranges(handler, content)


def other_range(text):
    """Answers with a Content-Range of its own, and the bytes that belong to no one."""

    def behaviour(handler, content):
        start = start_of(handler)
        if not start:
            return ignore_ranges(handler, content)
        where = text.format(start=start, before=start - 1, last=len(content) - 1, n=len(content), more=len(content) + 1)
        send(handler, 206, b"x" * (len(content) - start), Content_Range=where, Content_Length=len(content) - start)

    return behaviour


def in_small_ranges(handler, content):
    """206 with 2,000 bytes at most, as a server may."""
    start = start_of(handler)
    if not start:
        return honest(handler, content, 2000)
    body = content[start : start + 2000]
    where = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
    send(handler, 206, body, Content_Range=where, Content_Length=len(body))


def chunked(most=None):
    def behaviour(handler, content):
        pieces = (content[i : i + 999] for i in range(0, len(content), 999))
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        send(handler, 200, (body + b"0\r\n\r\n")[:most], Transfer_Encoding="chunked")

    return behaviour


def without_length(handler, content):
    send(handler, 200, content)


def wrong_bytes(handler, content):
    honest(handler, content[:-1] + b"?")


def announces(length):
    return lambda handler, content: send(handler, 200, content, Content_Length=length)


def sends_more(handler, content):
    send(handler, 200, content + b"more" * 100_000, Content_Length=len(content))


def endless(handler, content):
    send(handler, 200, b"")
    while not handler.server.stop.is_set():
        handler.wfile.write(bytes(2**16))


def stall(most):
    def behaviour(handler, content):
        honest(handler, content, most)
        handler.wfile.flush()
        handler.server.stop.wait(20)

    return behaviour


def error(status):
    return lambda handler, content: send(handler, status, b"sorry", Content_Length=5)


def redirect(target):
    return lambda handler, content: send(handler, 302, b"", Location=target, Content_Length=0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        self.server.requests.append((name, self.headers.get("Range")))
        behaviour = next(self.server.plan.get(name, iter(())), honest)
        behaviour(self, self.server.files[name])

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.requests, self.stop = dict(FILES), {}, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/some/folder/"

    def handle_error(self, request, client_address):
        pass  # the client went away

    def does(self, *behaviours, name=NAME):
        """The answers to the next requests for a file; honest afterwards."""
        self.plan[name] = iter(behaviours)

    def always(self, behaviour, name=NAME):
        self.plan[name] = itertools.repeat(behaviour)

    def asked(self, name=NAME):
        """The Range headers of the requests for a file."""
        return [header for asked, header in self.requests if asked == name]


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["size known", "size not known"])
def download(request, server, monkeypatch, tmp_path):
    """download(): the four files from the server into root; as MNIST's, whose size is known, or as another set's."""
    monkeypatch.setattr(mnist, "PAUSE", 0.0)
    known = request.param == "size known"
    if known:
        monkeypatch.setattr(mnist, "MNIST_FILES", {n: (len(c), SHA256[n]) for n, c in FILES.items()})
    chosen = {"progress": False, "timeout": 5.0, "sha256": None if known else SHA256}

    def download(**settings):
        return download_mnist(tmp_path / "root", server.url, **{**chosen, **settings})

    download.root, download.known = tmp_path / "root", known
    download.root.mkdir()
    return download


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def held(content, name=NAME):
    return {f"{name}.part": content}


def test_a_download_can_be_loaded_and_is_not_repeated(server, download):
    download()
    assert contents(download.root) == FILES and sorted(server.requests) == sorted((name, None) for name in FILES)
    for part, (images, labels) in DATA.items():
        x, y = load_mnist(download.root, train=part == "train")
        assert np.array_equal(np.round(x[:, 0] * 255), images) and np.array_equal(y, labels)
    server.requests.clear()
    download()
    assert server.requests == [] and contents(download.root) == FILES


def test_folders_are_made_and_the_url_may_lack_its_slash(server, tmp_path):
    digests = {name: digest.upper() for name, digest in SHA256.items()}
    download_mnist(str(tmp_path / "a" / "b"), server.url.rstrip("/"), sha256=digests, progress=False)
    assert contents(tmp_path / "a" / "b") == FILES


def test_a_wrong_file_is_replaced_only_by_a_verified_one(server, download):
    download()
    (download.root / NAME).write_bytes(b"old")
    old = {**FILES, NAME: b"old"}
    for behaviour, kind, part in (
        (wrong_bytes, ValueError, {}),
        (error(404), OSError, {}),
        (cut(100), ConnectionError, held(CONTENT[:300])),
    ):
        server.always(behaviour)
        with pytest.raises(kind):
            download()
        assert contents(download.root) == {**old, **part}
    server.requests.clear()
    server.does(honest)
    download()
    assert contents(download.root) == FILES and server.requests == [(NAME, "bytes=300-")]


@pytest.mark.parametrize("most", [0, 1, 3000, len(CONTENT) - 1])
def test_a_cut_connection_is_continued(server, download, most):
    server.does(cut(most))
    download()
    assert contents(download.root) == FILES
    assert server.asked() == [None, f"bytes={most}-" if most else None]


def test_many_cuts_and_small_ranges(server, download):
    server.does(cut(1000), cut(500), cut(0), cut(2000))
    download(attempts=5)
    assert contents(download.root) == FILES
    assert server.asked() == [None, "bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=3500-"]
    (download.root / NAME).unlink()
    server.requests.clear()
    server.always(in_small_ranges)
    download(attempts=10)
    assert contents(download.root) == FILES and server.asked()[:3] == [None, "bytes=2000-", "bytes=4000-"]


def test_after_the_last_attempt_the_next_call_resumes(server, download):
    server.does(*[cut(700)] * 3)
    with pytest.raises(ConnectionError) as caught:
        download()
    for word in (str(download.root / NAME), server.url + NAME, "attempt 3 of 3", "2100 of", "calling again resumes"):
        assert word in str(caught.value)
    assert contents(download.root) == held(CONTENT[:2100]) and len(server.requests) == 3
    download(attempts=1)
    assert contents(download.root) == FILES and server.asked()[3:] == ["bytes=2100-"]


RESTARTS = {
    "ignores ranges": (ignore_ranges, 1),
    "416": (refuse_ranges, 2),
    "from 0": (other_range("bytes 0-{last}/{n}"), 2),
    "a byte before": (other_range("bytes {before}-{last}/{n}"), 2),
    "no total": (other_range("bytes {start}-{last}/*"), 2),
    "another unit": (other_range("pages {start}-{last}/{n}"), 2),
    "nonsense": (other_range("-"), 2),
    "a number without end": (other_range("bytes {start}-{last}/" + "9" * 5000), 2),
}


@pytest.mark.parametrize("kind", RESTARTS)
def test_a_server_that_does_not_continue_makes_it_start_over(server, download, kind):
    """In the same attempt: asking for a range is not a failure."""
    behaviour, requests = RESTARTS[kind]
    (download.root / f"{NAME}.part").write_bytes(CONTENT[:900])
    server.always(behaviour)
    download(attempts=1)
    assert contents(download.root) == FILES
    assert server.asked() == ["bytes=900-", None][:requests]


def test_a_range_of_a_file_of_another_size(server, download):
    """Known size: not the file wanted, so start over. Otherwise: what was announced does not come."""
    (download.root / f"{NAME}.part").write_bytes(CONTENT[:900])
    server.does(other_range("bytes {start}-{last}/{more}"))
    download()
    assert contents(download.root) == FILES
    assert server.asked() == ["bytes=900-", *([] if download.known else [f"bytes={len(CONTENT)}-"]), None]


def test_a_range_beyond_its_own_end(server, download):
    """Whatever follows is not read."""

    def behaviour(handler, content):
        send(handler, 206, content[900:], Content_Range=f"bytes 900-{len(content) - 1}/1")

    (download.root / f"{NAME}.part").write_bytes(CONTENT[:900])
    server.does(behaviour)
    download(attempts=1)
    assert contents(download.root) == FILES and server.asked() == ["bytes=900-", None]


@pytest.mark.parametrize("part", [b"other" * 100, CONTENT[:-1] + b"?", CONTENT, CONTENT + b"more"])
def test_what_another_download_left_behind_does_no_harm(server, download, part):
    (download.root / f"{NAME}.part").write_bytes(part)
    download(attempts=1)
    assert contents(download.root) == FILES
    if download.known and len(part) >= len(CONTENT):
        assert server.asked() == [None] * (part != CONTENT)  # all there: its digest says whether to ask at all
    else:
        assert server.asked() == [f"bytes={len(part)}-", None]


def test_a_leftover_and_a_wrong_file(server, download):
    """Resumed, then once more from the beginning, then the error; nothing stays."""
    server.always(wrong_bytes)
    (download.root / f"{NAME}.part").write_bytes(CONTENT[:900])
    with pytest.raises(ValueError, match="SHA-256"):
        download()
    assert contents(download.root) == {} and server.asked() == ["bytes=900-", None]


@pytest.mark.parametrize("part", [None, b""])
def test_wrong_bytes_are_refused_at_once(server, download, part):
    if part is not None:
        (download.root / f"{NAME}.part").write_bytes(part)
    server.always(wrong_bytes)
    with pytest.raises(ValueError, match=re.escape(str(download.root / NAME))) as caught:
        download()
    assert SHA256[NAME] in str(caught.value)
    assert hashlib.sha256(CONTENT[:-1] + b"?").hexdigest() in str(caught.value)
    assert contents(download.root) == {} and server.asked() == [None]


def test_more_than_announced_is_not_read(server, download):
    server.does(sends_more)
    download()
    assert contents(download.root) == FILES


def test_an_endless_body_is_cut_at_the_size(server, download, monkeypatch):
    """The digest found is that of just so many zeros: no more was written."""
    monkeypatch.setattr(mnist, "LARGEST", 300_000)
    server.always(endless)
    zeros = bytes(len(CONTENT) if download.known else 300_000)
    with pytest.raises(ValueError, match=hashlib.sha256(zeros).hexdigest()):
        download()
    assert contents(download.root) == {} and len(server.asked()) == 1


@pytest.mark.parametrize("length", [len(CONTENT) + 1, 10**12])
def test_a_wrong_announced_size_is_refused_before_the_body(server, download, monkeypatch, length):
    if not download.known:
        monkeypatch.setattr(mnist, "LARGEST", len(CONTENT))
    server.always(announces(length))
    (download.root / f"{NAME}.part").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{NAME}: must have .*{len(CONTENT)} bytes.* has {length}") as caught:
        download()
    assert server.url + NAME in str(caught.value)
    assert contents(download.root) == held(b"") and len(server.asked()) == 1


@pytest.mark.parametrize("behaviour", [chunked(), without_length])
def test_a_server_that_announces_no_size(server, download, behaviour):
    server.does(behaviour)
    download(attempts=1)
    assert contents(download.root) == FILES and len(server.asked()) == 1


def test_a_cut_in_a_body_of_chunks_is_continued(server, download):
    server.does(chunked(most=2500))
    download()
    assert contents(download.root) == FILES
    assert server.asked()[1].startswith("bytes=24")  # two chunks of 999 and the beginning of a third


@pytest.mark.parametrize("status", [400, 403, 404, 410, 501])
def test_final_http_errors_are_reported_at_once(server, download, status):
    server.always(error(status))
    with pytest.raises(OSError, match=f"{NAME}.*{status}.*{re.escape(server.url + NAME)}") as caught:
        download()
    assert type(caught.value) is OSError
    assert contents(download.root) == {} and len(server.asked()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_http_errors_are_tried_again(server, download, status):
    server.does(error(status), cut(500), error(status))
    download(attempts=4)
    assert contents(download.root) == FILES and server.asked() == [None, None, "bytes=500-", "bytes=500-"]
    (download.root / NAME).unlink()
    server.requests.clear()
    server.always(error(status))
    with pytest.raises(ConnectionError, match=f"{NAME}.*{status}.*calling again resumes"):
        download(attempts=2)
    assert contents(download.root) == {n: c for n, c in FILES.items() if n != NAME} and len(server.asked()) == 2


def test_pauses_between_attempts_grow(server, download, monkeypatch):
    pauses = []
    monkeypatch.setattr(mnist, "PAUSE", 1.5)
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.does(*[error(503)] * 8)
    download(attempts=9)
    assert pauses == [1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 90.0, 90.0] and contents(download.root) == FILES


def test_a_server_that_falls_silent(server, download):
    """In the middle of the body, and before any answer."""
    server.does(stall(1234), lambda handler, content: handler.server.stop.wait(20))
    began = time.monotonic()
    download(timeout=0.4)
    assert time.monotonic() - began < 8  # the server would be silent for 20 seconds, the fixture's timeout is 5
    assert contents(download.root) == FILES and server.asked() == [None, "bytes=1234-", "bytes=1234-"]


def test_no_server(download, server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        monkeypatch.setattr(server, "url", f"http://127.0.0.1:{unused.getsockname()[1]}/")
        with pytest.raises(ConnectionError, match=f"{NAME}.*attempt 2 of 2.*calling again resumes"):
            download(attempts=2)
    assert contents(download.root) == {}


def test_redirections(server, download, tmp_path):
    """Followed over HTTP, and nowhere else."""
    to_http = redirect(server.url + "elsewhere/" + NAME)
    server.does(to_http, cut(500), to_http)
    download()
    assert contents(download.root) == FILES and server.asked() == [None, None, "bytes=500-", "bytes=500-"]
    (tmp_path / "secret").write_bytes(CONTENT)
    for target in ((tmp_path / "secret").as_uri(), f"ftp://127.0.0.1:1/{NAME}"):
        (download.root / NAME).unlink(missing_ok=True)
        server.always(redirect(target))
        with pytest.raises(OSError, match=f"{NAME}.*302"):
            download()
        assert contents(download.root) == {n: c for n, c in FILES.items() if n != NAME}


def test_verified_and_on_the_disk_before_it_has_its_name(server, download, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(file):
        fsync(file)
        events.append(os.fstat(file).st_size)

    def record_replace(source, target):
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        events.append((Path(target).name, digest, os.path.exists(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    download()
    assert events == [e for n, c in FILES.items() for e in (len(c), (n, SHA256[n], False))]
    assert contents(download.root) == FILES


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device without space is needed")
def test_a_full_disk_is_not_taken_for_the_network(server, download):
    (download.root / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        download()
    assert caught.value.errno == errno.ENOSPC and len(server.requests) == 1
    (download.root / f"{NAME}.part").unlink()
    assert contents(download.root) == {}


BAD_ARGUMENTS = [
    ({"root": 3}, TypeError, ["root", "int"]),
    ({"url": None}, TypeError, ["url", "NoneType"]),
    *(
        ({"url": url}, ValueError, ["url", "http or https", repr(url)])
        for url in ("", "ftp://host/", "file:///etc/", "data:,", "host/mnist/", "http://", "https:///path", "http://[/")
    ),
    *(
        ({"url": url}, ValueError, ["url"])
        for url in ("http://host:port/", "http://a b/", "http://host/\n", "http://ü/")
    ),
    ({"sha256": [SHA256]}, TypeError, ["sha256", "list"]),
    ({"sha256": {NAME: "12"}}, ValueError, ["sha256", NAME, "64", "'12'"]),
    ({"sha256": {NAME: 12}}, ValueError, ["sha256", "64", "12"]),
    *(
        ({"sha256": {name: "0" * 64}}, ValueError, ["sha256", "file names", repr(name)])
        for name in ("", ".", "..", "../a", "a/b", "a\\b", "/a", "a\n", "a?b", 3)
    ),
    ({"timeout": 0}, ValueError, ["timeout", "0"]),
    ({"timeout": float("nan")}, ValueError, ["timeout", "nan"]),
    ({"timeout": float("inf")}, ValueError, ["timeout", "inf"]),
    ({"timeout": "1"}, TypeError, ["timeout", "a number", "'1'"]),
    ({"timeout": None}, TypeError, ["timeout", "None"]),
    ({"timeout": True}, TypeError, ["timeout", "True"]),
    ({"attempts": 0}, ValueError, ["attempts", "0"]),
    ({"attempts": 1.5}, TypeError, ["attempts", "an int", "1.5"]),
    ({"attempts": True}, TypeError, ["attempts", "True"]),
    ({"progress": 1}, TypeError, ["progress", "bool", "1"]),
]


@pytest.mark.parametrize("i", range(len(BAD_ARGUMENTS)))
def test_bad_arguments_are_named_before_anything_happens(server, tmp_path, i):
    changed, kind, words = BAD_ARGUMENTS[i]
    with pytest.raises(kind) as caught:
        download_mnist(**{"root": tmp_path / "root", "url": server.url, "progress": False, **changed})
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"
    assert server.requests == [] and not (tmp_path / "root").exists()


def test_a_missing_tqdm_names_the_extra(server, download, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_bn\[demos\]'"):
        download(progress=True)
    assert server.requests == [] and contents(download.root) == {}
    download(progress=False)
    assert contents(download.root) == FILES


def test_the_bar_counts_the_bytes_that_are_there(server, download, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, desc, **settings):
            self.total, self.name, self.n, self.seen = total, desc, 0, []
            bars.append(self)

        def update(self, n):
            self.n += n
            self.seen.append(self.n)
            assert 0 <= self.n <= self.total

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    server.does(cut(2000), ignore_ranges)
    download(progress=True)
    assert [(bar.name, bar.n, bar.total) for bar in bars] == [(n, len(c), len(c)) for n, c in FILES.items()]
    assert 0 in bars[0].seen[bars[0].seen.index(2000) :]  # started over
    assert contents(download.root) == FILES


def test_the_real_bar(server, download):
    pytest.importorskip("tqdm", reason="pip install -e '.[demos]'")
    server.does(cut(2000), ignore_ranges)
    download(progress=True)
    assert contents(download.root) == FILES


def test_the_files_of_mnist():
    """Sizes as in LeCun's list; the digests are those of the files that torchvision's mirror serves."""
    assert mnist.MNIST_URL.startswith("https://")
    assert {name: size for name, (size, _) in mnist.MNIST_FILES.items()} == {
        "train-images-idx3-ubyte.gz": 9912422,
        "train-labels-idx1-ubyte.gz": 28881,
        "t10k-images-idx3-ubyte.gz": 1648877,
        "t10k-labels-idx1-ubyte.gz": 4542,
    }
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for _, digest in mnist.MNIST_FILES.values())
