"""Checkpoints: what comes back, what is refused, what survives; states of optimizer, loader and random numbers."""

import io
import json
import math
import os
import random
import re
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from resumable_training import EPOCH, Training

import tinygrad_bn as tb
from tinygrad_bn import data, nn, optim, tensor


def same(a, b):
    """Equal in type, order and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return struct.pack(">d", a) == struct.pack(">d", b) if isinstance(a, float) else a == b


def round_trip(path, value):
    tb.save(path, value)
    return tb.load(path)


# What comes back

NAN = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]  # negative, with a payload
LEAVES = [None, True, False, 0, 1, -1, 2**63, -(2**63), 2**64, -(2**63) - 1, 2**128 - 1, 10**5000]
LEAVES += [0.0, -0.0, 1.0, 1e16, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, NAN]
LEAVES += ["", "a", "ü 雪 😀", 'quote " and \\', "\0\n\x7f", "\ud800", "\ud83d\ude00", "x" * 100_000]


def test_leaves_come_back_exactly(tmp_path):
    for value in LEAVES:
        assert same(round_trip(tmp_path / "a", value), value)
        assert same(round_trip(tmp_path / "a", {"k": [value, (value,)]}), {"k": [value, (value,)]})


def test_containers_come_back_as_they_were(tmp_path):
    tree = {"b": [], "a": (), 1: {}, "1": {"x": [1, [2, (3, [None])]]}, -(2**70): 0, 2**70: 1, "": 2, "/": {"": 3}}
    tree["model"] = {"0.weight": np.arange(3.0), "0": {"weight": np.arange(2)}}
    tree["list"] = ["list", ["dict", "a"], "array"]  # the words that the file itself uses
    assert same(round_trip(tmp_path / "a", tree), tree)


DTYPES = ["?", "i1", "u1", "<i2", ">i2", "u4", "i8", "u8", "f2", "<f4", ">f4", "f8", "g", "c8", ">c16"]
SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3, 4), (0, 2**40)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_exactly(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.integers(0, 2 if dtype == "?" else 100, shape) * 1.25).astype(dtype) for shape in SHAPES]
    back = round_trip(tmp_path / "a", arrays)
    assert same(back, arrays)
    assert all(a.flags.writeable and a.flags.aligned and a.flags.owndata for a in back)


def test_any_layout_can_be_saved(tmp_path):
    a = np.arange(24.0).reshape(2, 3, 4)
    a.flags.writeable = False
    views = [
        a.T,
        a[:, ::-1],
        a[..., ::2],
        a[1:, 1],
        np.asfortranarray(a),
        np.broadcast_to(a[0], (5, 3, 4)),
        a[0, 0, 0:0],
    ]
    views.append(np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float64))  # not aligned
    back = round_trip(tmp_path / "a", views)
    assert same(back, [np.array(v) for v in views])
    assert back[0].flags.f_contiguous and back[4].flags.f_contiguous  # Fortran order stays


def test_special_values_in_arrays(tmp_path):
    a = np.array([np.nan, NAN, np.inf, -np.inf, -0.0, 5e-324])
    assert same(round_trip(tmp_path / "a", a), a)


def test_tensors_and_scalars_come_back_as_arrays(tmp_path):
    p = nn.Parameter(np.ones((2, 2), np.float32))
    back = round_trip(tmp_path / "a", {"t": tensor([1.0, 2.0]) * 2, "p": p, "s": np.float32(0.1), "b": np.bool_(True)})
    expected = {"t": np.array([2, 4], np.float32), "p": np.ones((2, 2), np.float32)}
    assert same(back, {**expected, "s": np.array(0.1, np.float32), "b": np.array(True)})


def test_what_is_loaded_shares_no_memory_and_one_array_twice_becomes_two(tmp_path):
    a = np.zeros(3)
    x, y = round_trip(tmp_path / "a", [a, a])
    x[0] = 1
    assert y[0] == 0 and a[0] == 0


def test_equal_values_give_equal_files(tmp_path):
    for name in "ab":
        tb.save(tmp_path / name, {"x": np.arange(3), "y": [1.5]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_plain_numpy_opens_the_file(tmp_path):
    path = tmp_path / "c.npz"
    tb.save(path, {"model": {"0.weight": np.eye(2)}, "state": {3: [np.arange(3)]}, "lr": 0.1})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["model/0.weight", "state/3/0", "tree.json"]
        assert same(file["model/0.weight"], np.eye(2)) and same(file["state/3/0"], np.arange(3))
        assert json.loads(file["tree.json"].tobytes())[-2:] == ["lr", 0.1]
    with zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


KEYS = [
    "..",
    ".",
    "",
    "/",
    "../../x",
    "/etc/x",
    "C:\\x",
    "a/b",
    "a.npy",
    "a",
    "ü",
    "\ud800",
    "a\0b",
    "tree.json",
    "a~9",
]
KEYS += [1, "1", 2**70, "x" * 100_000, ".npy", "...", "a\n", "..\n"]


def test_names_are_unique_and_can_be_unpacked_anywhere(tmp_path):
    tree = {key: {"b": np.array(i)} for i, key in enumerate(KEYS)}
    tree |= {f"{key} ": np.array([i]) for i, key in enumerate(KEYS)}
    tree |= {"value": np.zeros(2), "tree.json": np.zeros(3), "a_b": {"b": np.zeros(4)}}
    tree |= {"n.npy": np.array(100), "n": np.array(101)}
    assert same(round_trip(tmp_path / "a.npz", tree), tree)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert len(set(archive.namelist())) == len(tree) + 1
        assert not any(set(n.split("/")) & {"", ".", ".."} or "\\" in n or ":" in n for n in archive.namelist())
        archive.extractall(folder)
    assert sum(p.is_file() for p in folder.rglob("*")) == len(tree) + 1
    with np.load(tmp_path / "a.npz") as file:
        numbers = sorted(int(file[name]) for name in file.files if file[name].shape == ())
        assert numbers == [*(i for i, key in enumerate(KEYS) if key != "tree.json"), 100, 101]
    deep = np.zeros(1)
    for _ in range(100):
        deep = {"雪" * 1000: deep}
    assert same(round_trip(tmp_path / "b", deep), deep)


def test_arrays_beyond_the_old_limit_of_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # 2 GB in truth
    assert same(round_trip(tmp_path / "a", [np.arange(1000), 3]), [np.arange(1000), 3])


def test_the_path_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tb.save("plain", 1)
    tb.save(Path("a.ckpt"), 2)
    assert sorted(os.listdir()) == ["a.ckpt", "plain"] and tb.load(Path("plain")) == 1 and tb.load("a.ckpt") == 2


def test_many_threads_can_save_to_one_path(tmp_path):
    done = []

    def work(i):
        for _ in range(5):
            tb.save(tmp_path / "a", {"i": i, "x": np.full(1000, i)})
        done.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    value = tb.load(tmp_path / "a")
    assert (value["x"] == value["i"]).all() and os.listdir(tmp_path) == ["a"] and len(done) == 8


# What is refused

NOT_SAVED = {
    "set": ({"a": [0, {1}]}, "value['a'][1]", "set"),
    "object": ([object()], "value[0]", "object"),
    "function": ({"f": len}, "value['f']", "builtin_function_or_method"),
    "bytes": ({"f": b"x"}, "value['f']", "bytes"),
    "complex": ([1j], "value[0]", "complex"),
    "object array": ({1: (np.array([None]),)}, "value[1][0]", "object"),
    "text array": ([np.array(["a"])], "value[0]", "<U1"),
    "text scalar": ([np.str_("a")], "value[0]", "<U1"),
    "dates": ([np.array(["2020-01-01"], "M8[D]")], "value[0]", "datetime64"),
    "records": ([np.zeros(2, "i4,f4")], "value[0]", "i4"),
    "masked": ([np.ma.zeros(2)], "value[0]", "MaskedArray"),
    "tuple as key": ({"a": {(1, 2): 0}}, "value['a']", "tuple"),
    "bool as key": ({"a": {True: 0}}, "value['a']", "bool"),
    "float as key": ([{1.5: 0}], "value[0]", "float"),
    "None as key": ({None: 0}, "value must", "NoneType"),
    "int64 as key": ({np.int64(1): 0}, "value must", "int64"),
}


@pytest.mark.parametrize("kind", NOT_SAVED)
def test_save_names_the_place_of_what_it_cannot_save(tmp_path, kind):
    value, place, got = NOT_SAVED[kind]
    tb.save(tmp_path / "a", "old")
    with pytest.raises(TypeError) as caught:
        tb.save(tmp_path / "a", value)
    assert str(caught.value).startswith(place) and got in str(caught.value)
    assert os.listdir(tmp_path) == ["a"] and tb.load(tmp_path / "a") == "old"


def nested(levels, leaf=0, kind="list"):
    for _ in range(levels):
        leaf = {"list": [leaf], "tuple": (leaf,), "dict": {"k": leaf}}[kind]
    return leaf


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_100_levels_and_no_more(tmp_path, kind):
    for leaf in (None, np.arange(3), 2**70, math.inf):
        assert same(round_trip(tmp_path / "a", nested(100, leaf, kind)), nested(100, leaf, kind))
    with pytest.raises(ValueError, match="at most 100 levels"):
        tb.save(tmp_path / "b", nested(101, kind=kind))
    assert os.listdir(tmp_path) == ["a"]


def test_a_structure_that_contains_itself_is_refused(tmp_path):
    a, d = [1, 2], {}
    a += [a, a]
    d["again"] = [d]
    for value in (a, d):
        with pytest.raises(ValueError, match="contains itself"):
            tb.save(tmp_path / "a", value)
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        tb.load(tmp_path / "none")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        tb.load(tmp_path)
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        tb.save(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        tb.save(tmp_path / "none" / "a", 1)
    for call in (lambda: tb.load(3), lambda: tb.save(None, 1)):
        with pytest.raises(TypeError):
            call()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe"):
        tb.load(tmp_path / "pipe")


def write(path, content):
    with path.open("r+b" if path.exists() else "wb") as file:  # to empty it first is slow on some systems
        file.write(content)
        file.truncate()
    return path


def refused(path):
    with pytest.raises(ValueError) as caught:
        tb.load(path)
    assert str(caught.value).startswith(str(path) + ": "), caught.value
    return str(caught.value)


def test_other_files_are_told_from_checkpoints(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.save(tmp_path / "a.npy", np.zeros(3))
    for path in (tmp_path / "a.npz", tmp_path / "a.npy", write(tmp_path / "a", b""), write(tmp_path / "b", b"PK")):
        assert "not a checkpoint" in refused(path)


def corrupt(rng, content):
    """content with one random fault."""
    n = len(content)
    i, j = sorted(rng.integers(0, n, 2))
    k = int(rng.integers(1, 65))
    match rng.integers(8):
        case 0:  # one bit
            return content[:i] + bytes([content[i] ^ 1 << int(rng.integers(8))]) + content[i + 1 :]
        case 1:  # a block of noise
            return content[:i] + rng.bytes(k) + content[i + k :]
        case 2:  # the end is missing
            return content[:i]
        case 3:  # the beginning is missing
            return content[i:]
        case 4:  # more in the middle, or at the end
            return content[:i] + rng.bytes(k) + content[i:] if rng.integers(2) else content + rng.bytes(k)
        case 5:  # a block is missing
            return content[:i] + content[j:]
        case 6:  # two blocks change places
            return content[:i] + content[j : j + k] + content[i + k : j] + content[i : i + k] + content[j + k :]
        case _:  # zeros, as after a crash
            return content[:i] + bytes(j - i) + content[j:]


def test_10000_corruptions_are_all_found(tmp_path):
    value = Training().state()
    tb.save(tmp_path / "a", value)
    content = (tmp_path / "a").read_bytes()
    path, rng, faults = tmp_path / "bad", np.random.default_rng(0), 0
    while faults < 10_000:
        bad = corrupt(rng, content)
        if bad != content:
            refused(write(path, bad))
            faults += 1
    assert same(tb.load(write(path, content)), value)


# Files made on purpose, with a right digest

MARK = b"tinygrad_bn checkpoint 1, sha256 "


def npy(array=None, **header):
    """The bytes of a .npy file, whose header may lie."""
    file = io.BytesIO()
    array = np.arange(4.0) if array is None else array
    honest = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, {**honest, **header})
    return file.getvalue() + array.tobytes()


def seal(content):
    """The same zip with the end comment that save() would give it."""
    assert content[-22:-18] == b"PK\5\6" and content[-2:] == b"\0\0"
    content = content[:-2] + struct.pack("<H", len(MARK) + 64) + MARK
    return content + sha256(content).hexdigest().encode()


def archive(*entries, tree=None, change=lambda content: content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content, *compression in entries:
            archive.writestr(zipfile.ZipInfo(name), content, *compression)
        if tree is not None:
            tree = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
            archive.writestr("tree.json.npy", npy(np.frombuffer(tree, np.uint8)))
    return seal(change(file.getvalue()))


A = ("a.npy", npy())
TREE = ["dict", "a", ["array", "a"]]
OVERFLOW = npy(shape=(0, 2**62, 2**62), array=np.zeros(0))


def overlapping(content):
    """1000 entries in the directory that all name the same bytes."""
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[start : content.index(b"PK\1\2", start + 4)]
    more = b"".join(entry.replace(b"a.npy", b"%03d.x" % i) for i in range(1000))
    fields = list(struct.unpack("<4s4H2LH", content[end:]))
    fields[3:6] = fields[3] + 1000, fields[4] + 1000, fields[5] + len(more)
    return content[:end] + more + struct.pack("<4s4H2LH", *fields)


def directory(offset, code, *numbers):
    """Change a field of the first entry in the directory."""

    def change(content):
        at = content.index(b"PK\1\2") + offset
        return content[:at] + struct.pack(code, *numbers) + content[at + struct.calcsize(code) :]

    return change


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    return file.getvalue()


HOSTILE = {
    "objects": archive(("a.npy", pickled()), tree=TREE),
    "objects by header": archive(("a.npy", npy(descr="|O")), tree=TREE),
    "2^40 elements": archive(("a.npy", npy(shape=(2**40,))), tree=TREE),
    "2^40 bytes in many axes": archive(("a.npy", npy(shape=(2,) * 40)), tree=TREE),
    "one element more": archive(("a.npy", npy(shape=(5,))), tree=TREE),
    "one element fewer": archive(("a.npy", npy(shape=(3,))), tree=TREE),
    "negative shape": archive(("a.npy", npy(shape=(-1,))), tree=TREE),
    "two negative axes": archive(("a.npy", npy(shape=(-2, -2))), tree=TREE),
    "no bytes, endless shape": archive(("a.npy", OVERFLOW), tree=TREE),
    "too many axes": archive(("a.npy", npy(shape=(1,) * 100, array=np.zeros(1))), tree=TREE),
    "float as shape": archive(("a.npy", npy(shape=(4.0,))), tree=TREE),
    "text": archive(("a.npy", npy(descr="<U8")), tree=TREE),
    "dates": archive(("a.npy", npy(descr="<M8[s]")), tree=TREE),
    "records": archive(("a.npy", npy(descr=[("x", "<f8")])), tree=TREE),
    "no bytes per element": archive(("a.npy", npy(descr="|V0")), tree=TREE),
    "booleans of 2": archive(("a.npy", npy(np.full(4, 2, np.uint8), descr="|b1")), tree=TREE),
    "nonsense dtype": archive(("a.npy", npy(descr="zz")), tree=TREE),
    "header of brackets": archive(("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000), tree=TREE),
    "header of minuses": archive(("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"-" * 8999 + b"1"), tree=TREE),
    "header of 4 GB": archive(("a.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff{}"), tree=TREE),
    "version 3": archive(("a.npy", npy().replace(b"NUMPY\1", b"NUMPY\3")), tree=TREE),
    "no .npy": archive(("a.npy", b"hello"), tree=TREE),
    "empty entry": archive(("a.npy", b""), tree=TREE),
    "bomb": archive(("a.npy", npy(np.zeros(2**24)), zipfile.ZIP_DEFLATED), tree=TREE),
    "compressed": archive(("a.npy", npy(), zipfile.ZIP_DEFLATED), tree=TREE),
    "unknown compression": archive(A, tree=TREE, change=directory(10, "<H", 99)),
    "encrypted": archive(A, tree=TREE, change=directory(8, "<H", 1)),
    "sizes that lie": archive(A, tree=TREE, change=directory(20, "<LL", 2**31, 2**31)),
    "sizes that differ": archive(A, tree=TREE, change=directory(20, "<LL", 160, 159)),
    "sizes a little too large": archive(A, tree=TREE, change=directory(20, "<LL", 200, 200)),
    "entry beyond the end": archive(A, tree=TREE, change=directory(42, "<L", 2**30)),
    "wrong CRC": archive(A, tree=TREE, change=lambda c: c.replace(np.arange(4.0).tobytes(), np.arange(4).tobytes())),
    "overlapping entries": archive(A, tree=TREE, change=overlapping),
    "no zip": MARK + sha256(MARK).hexdigest().encode(),
    "no entries": archive(),
    "no tree": archive(A),
    "tree of floats": archive(A, ("tree.json.npy", npy())),
    "tree of two axes": archive(("tree.json.npy", npy(np.frombuffer(b"1", np.uint8).reshape(1, 1)))),
    "missing array": archive(tree=TREE),
    "left over array": archive(A, ("b.npy", npy()), tree=TREE),
    "array used twice": archive(A, tree=["list", ["array", "a"], ["array", "a"]]),
    "tree used as array": archive(A, tree=["list", ["array", "a"], ["array", "tree.json"]]),
    "unknown kind": archive(A, tree=["set", ["array", "a"]]),
    "bare object": archive(A, tree={"a": ["array", "a"]}),
    "empty list": archive(A, tree=["list", [], ["array", "a"]]),
    "kind that is none": archive(A, tree=["list", [3], ["array", "a"]]),
    "name that is none": archive(A, tree=["list", ["array", ["list"]]]),
    "no name": archive(A, tree=["list", ["array"]]),
    "key without value": archive(A, tree=["dict", "a", ["array", "a"], "b"]),
    "key twice": archive(tree=["dict", "a", 1, "a", 2]),
    "key true": archive(tree=["dict", True, 1]),
    "key of a float": archive(tree=["dict", 1.5, 1]),
    "key of a list": archive(tree=["dict", ["list"], 1]),
    "int that is none": archive(tree=["int", "0xg"]),
    "int of a number": archive(tree=["int", 3]),
    "float of 4 bytes": archive(tree=["float", "00000000"]),
    "decimals": archive(tree=b"1" * 5000),
    "no JSON": archive(tree=b"{'a': 1}"),
    "two JSON values": archive(tree=b"1 2"),
    "empty JSON": archive(tree=b""),
    "no UTF-8": archive(tree=b'"\xff"'),
    "deep JSON": archive(tree=b"[" * 100_000 + b"]" * 100_000),
    "deep lists": archive(tree=b'["list",' * 100_000 + b"1" + b"]" * 100_000),
    "200 levels": archive(tree=b'["list",' * 200 + b"1" + b"]" * 200),
    "102 levels": archive(tree=b'["list",' * 102 + b"1" + b"]" * 102),
}
NAMES = ["../a", "/a", "b/../../a", "b//a", "./a", "C:a", "..\\a", "a/", "a\nb", "", ".."]
HOSTILE |= {
    f"name {name!r}": archive((name + ".npy", npy()), tree=["list", ["array", name]])
    for name in NAMES
    if "\0" not in name
}
HOSTILE["name without .npy"] = archive(("a", npy()), tree=TREE)
HOSTILE["name twice"] = archive(A, ("b.npy", npy()), tree=TREE, change=lambda c: c.replace(b"b.npy", b"a.npy"))


REASONS = {  # what is to be noticed first, where something else would raise later
    "compressed": "must be uncompressed",
    "unknown compression": "must be uncompressed",
    "sizes that differ": "must be uncompressed",
    "bomb": "larger than the file",
    "sizes that lie": "larger than the file",
    "overlapping entries": "larger than the file",
    "2^40 elements": "cannot have 32 bytes",
    "objects": "numbers, got dtype object",
}


def test_the_hostile_files_are_well_made_but_for_their_fault(tmp_path):
    assert same(tb.load(write(tmp_path / "a", archive(A, tree=TREE))), {"a": np.arange(4.0)})


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_can_only_raise(tmp_path, monkeypatch, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = write(folder / "a", HOSTILE[kind])
    tracemalloc.start()
    try:
        message = refused(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(message, peak)
    assert "is not a valid checkpoint" in message and REASONS.get(kind, "") in message
    assert peak < 100 * len(HOSTILE[kind]) + 5_000_000
    assert [os.listdir(f) for f in (folder, tmp_path)] == [["a"], ["folder"]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["entry", "zip", "directory"])
def test_random_changes_under_a_right_digest_raise_nothing_else(tmp_path, where):
    """In what an entry holds (with a right CRC), in the zip, in the end of its directory: a ValueError, or a value."""
    tb.save(tmp_path / "a", {"a": [np.arange(3), np.eye(2, dtype=np.float32)], "b": (1, 2.5, "x", 2**70, math.nan)})
    with zipfile.ZipFile(tmp_path / "a") as file:
        entries = [(name, file.read(name)) for name in file.namelist()]
    rng, loaded = np.random.default_rng(0), 0
    change = {
        "entry": lambda content: content,
        "zip": lambda content: corrupt(rng, content[:-22]) + content[-22:],
        "directory": lambda content: content[:-18] + corrupt(rng, content[-18:-2]).ljust(16, b"x")[:16] + bytes(2),
    }
    for _ in range(1000):
        which = rng.integers(len(entries)) if where == "entry" else None
        changed = [
            (name, corrupt(rng, content) if i == which else content) for i, (name, content) in enumerate(entries)
        ]
        try:
            tb.load(write(tmp_path / "b", archive(*changed, change=change[where])))
            loaded += 1
        except ValueError as error:
            assert str(error).startswith(str(tmp_path / "b"))
    print(where, loaded, "of 1000 loaded")
    assert 0 < loaded < 1000


# What survives


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"]
)
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, function, error):
    def fails(*args):
        raise error

    path = tmp_path / "a"
    tb.save(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        for target in (path, tmp_path / "new"):
            with pytest.raises(type(error)):
                tb.save(target, "new")
    assert os.listdir(tmp_path) == ["a"] and tb.load(path) == "old"


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX systems")
def test_the_file_is_on_the_disk_before_it_is_renamed_and_then_the_folder(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def watch(file):
        size = (os.fstat(file).st_size, stat.S_ISDIR(os.fstat(file).st_mode))
        calls.append("folder" if size[1] else size[0])
        fsync(file)

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    tb.save(tmp_path / "a", np.zeros(1000))
    assert calls == [(tmp_path / "a").stat().st_size, "rename", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX systems")
def test_permissions_are_the_usual_ones_and_links_are_followed(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "a")
    tb.save(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink() and tb.load(tmp_path / "elsewhere" / "a") == 1
    assert (tmp_path / "link").stat().st_mode == (tmp_path / "usual").stat().st_mode


# Random numbers, mini-batches, SGD


def test_random_numbers_go_on_from_a_saved_state(tmp_path):
    tb.manual_seed(3)
    layer = nn.Dropout(0.5)
    layer(tensor(np.ones(7)))
    tb.save(tmp_path / "a", tb.get_rng_state())
    first = layer(tensor(np.ones(50))).data
    tb.manual_seed(4)
    tb.set_rng_state(tb.load(tmp_path / "a"))
    assert same(layer(tensor(np.ones(50))).data, first)


def test_the_random_state_is_the_threads_own():
    tb.manual_seed(3)
    before = tb.get_rng_state()
    thread = threading.Thread(target=lambda: tb.set_rng_state(np.random.default_rng(9).bit_generator.state))
    thread.start()
    thread.join()
    assert tb.get_rng_state() == before == np.random.default_rng(3).bit_generator.state


GOOD = np.random.default_rng(0).bit_generator.state
BAD_STATES = [
    (3, TypeError),
    ({}, ValueError),
    ({**GOOD, "bit_generator": "MT19937"}, ValueError),
    ({**GOOD, "more": 1}, ValueError),
    ({**GOOD, "state": {"state": 2**128, "inc": 1}}, ValueError),
    ({**GOOD, "state": {"state": -1, "inc": 1}}, ValueError),
    ({**GOOD, "state": {"state": 1.5, "inc": 1}}, ValueError),
    ({**GOOD, "state": 3}, ValueError),
    ({**GOOD, "uinteger": 2**32}, ValueError),
    ({k: v for k, v in GOOD.items() if k != "has_uint32"}, ValueError),
    (np.random.MT19937(0).state, ValueError),
]


@pytest.mark.parametrize("state, error", BAD_STATES)
def test_a_bad_random_state_changes_nothing(state, error):
    tb.manual_seed(3)
    before = tb.get_rng_state()
    with pytest.raises(error, match=r"^state must be "):
        tb.set_rng_state(state)
    assert tb.get_rng_state() == before
    loader = data.DataLoader(np.arange(5), shuffle=True, seed=3)
    good = loader.state_dict()
    with pytest.raises(error, match=r"^generator must be "):
        loader.load_state_dict({**good, "generator": state})
    assert loader.state_dict() == good


ROWS = np.arange(11)
LOADERS = {
    "shuffled, own seed": {"shuffle": True, "seed": 5},
    "shuffled, default generator": {"shuffle": True},
    "in order": {},
    "in order, with a seed": {"seed": 5},
    "last left out": {"shuffle": True, "seed": 5, "drop_last": True},
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("stop", range(9))
def test_a_restored_loader_goes_on_with_the_next_batch(tmp_path, kind, stop):
    """stop: batches seen of the first two epochs (8, or 6); the state is taken inside the loop, or before it."""
    make = lambda **more: data.DataLoader(ROWS, batch_size=3, **{**LOADERS[kind], **more})
    tb.manual_seed(1)
    loader = make()
    epochs = [[list(b) for (b,) in loader] for _ in range(4)]
    tb.manual_seed(1)
    loader, seen = make(), 0
    state = {"loader": loader.state_dict(), "random": tb.get_rng_state()}
    for _ in range(2):
        for _ in loader:
            seen += 1
            if seen == stop:
                state = {"loader": loader.state_dict(), "random": tb.get_rng_state()}
    tb.save(tmp_path / "a", state)
    tb.manual_seed(99)
    again, state = make(**({"seed": 77} if "seed" in LOADERS[kind] else {})), tb.load(tmp_path / "a")
    again.load_state_dict(state["loader"])
    tb.set_rng_state(state["random"])
    assert same(again.state_dict(), state["loader"])  # to load is not to move on
    length = len(loader)
    epoch, position = divmod(min(stop, 2 * length) - 1, length) if stop and stop <= 2 * length else (0, -1)
    assert [list(b) for (b,) in again] == epochs[epoch][position + 1 :]
    assert [[list(b) for (b,) in again] for _ in range(3 - epoch)] == epochs[epoch + 1 :]


def test_a_loader_between_epochs_begins_the_next():
    loader, again = (data.DataLoader(ROWS, batch_size=3, shuffle=True, seed=5) for _ in range(2))
    for _ in loader:
        pass
    state = loader.state_dict()
    assert state["order"] is None and state["position"] == 0
    again.load_state_dict(state)
    assert [list(b) for (b,) in again] == [list(b) for (b,) in loader]


def test_an_epoch_left_with_break_counts_as_running_until_the_next_begins():
    loader, again = (data.DataLoader(ROWS, batch_size=3, shuffle=True, seed=5) for _ in range(2))
    for _ in loader:
        break
    state = loader.state_dict()
    again.load_state_dict(state)
    assert len(list(again)) == 3 and len(list(loader)) == 4
    again.load_state_dict(state)
    next(iter(again))
    assert len(list(again)) == 4  # a new one, as it is without load_state_dict


def test_the_loaders_state_is_a_copy():
    loader, again = (data.DataLoader(ROWS, batch_size=3, shuffle=True, seed=5) for _ in range(2))
    expected = [list(b) for (b,) in data.DataLoader(ROWS, batch_size=3, shuffle=True, seed=5)]
    batches = iter(loader)
    next(batches)
    for state in (loader.state_dict(), loader.state_dict()):
        again.load_state_dict(state)
        state["order"][:] = 0
    assert [list(b) for (b,) in batches] == [list(b) for (b,) in again] == expected[1:]


def test_a_bad_loader_state_changes_nothing():
    def state(**changes):
        return {**good, **changes}

    loader = data.DataLoader(ROWS, batch_size=3, shuffle=True, seed=5)
    next(iter(loader))
    good = loader.state_dict()
    order, bad = good["order"], [(3, TypeError), ({}, ValueError), ({**good, "more": 1}, ValueError)]
    bad += [(state(position=p), TypeError) for p in (1.0, None, True)]
    bad += [(state(position=p), ValueError) for p in (-1, 5, 0)]
    bad += [(state(order=o), TypeError) for o in (3, list(order))]
    bad += [
        (state(order=o), ValueError)
        for o in (None, order[:-1], order * 0, order + 1, order * 1.0, order[:, None], np.array(3))
    ]
    bad += [(state(generator=None), ValueError), (state(generator=3), TypeError), (state(generator={}), ValueError)]
    for wrong, error in bad:
        with pytest.raises(error):
            loader.load_state_dict(wrong)
        assert same(loader.state_dict(), good)
    for other, word in (({}, "order"), ({"shuffle": True}, "generator")):
        with pytest.raises(ValueError, match=word):
            data.DataLoader(ROWS, batch_size=3, **other).load_state_dict(good)
    with pytest.raises(ValueError, match=r"permutation of range\(9\)"):
        data.DataLoader(np.arange(9), batch_size=3, shuffle=True, seed=5).load_state_dict(good)


def two_groups(seed, **settings):
    rng = np.random.default_rng(seed)
    p = [nn.Parameter(rng.standard_normal(shape)) for shape in [(2, 3), (4,), ()]]
    sgd = optim.SGD([{"params": p[:2]}, {"params": p[2], "lr": 0.02}], lr=0.1, **{"momentum": 0.9, **settings})
    return p, sgd


def steps(p, sgd, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for q in p:
            q.grad = rng.standard_normal(q.shape)
        sgd.step()


def test_sgd_goes_on_from_a_saved_state(tmp_path):
    p, sgd = two_groups(0)
    steps(p, sgd, range(3))
    tb.save(tmp_path / "a", [sgd.state_dict(), p])
    steps(p, sgd, range(3, 6))
    q, other = two_groups(1, momentum=0.1, weight_decay=0.3)
    state, values = tb.load(tmp_path / "a")
    other.load_state_dict(state)
    for parameter, value in zip(q, values, strict=True):
        parameter.data = value
    steps(q, other, range(3, 6))
    assert all(same(a.data, b.data) for a, b in zip(p, q, strict=True))
    assert same(sgd.state_dict(), other.state_dict())


def test_sgds_state_has_pytorchs_format_and_is_a_copy():
    p, sgd = two_groups(0, momentum=np.float64(0.9))
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    groups = [{**group, "params": [0, 1]}, {**group, "lr": 0.02, "params": [2]}]
    assert sgd.state_dict() == {"state": {}, "param_groups": groups}
    p[1].grad = np.ones(4)
    sgd.step()
    state = sgd.state_dict()
    assert same(state["state"], {1: {"momentum_buffer": np.ones(4)}})  # v = d in the first step
    assert all(type(value) in (bool, int, float, list) for g in state["param_groups"] for value in g.values())
    sgd.param_groups[0]["tags"], groups[0]["tags"] = ["mine"], ["mine"]
    for load in (lambda state: None, sgd.load_state_dict):
        state = sgd.state_dict()
        load(state)
        state["state"][1]["momentum_buffer"][:] = 7
        for name in ("params", "tags"):
            state["param_groups"][0][name].clear()
        assert same(sgd.state_dict()["state"], {1: {"momentum_buffer": np.ones(4)}})
        assert sgd.state_dict()["param_groups"] == groups


def test_pytorchs_states_without_momentum_are_accepted():
    p, sgd = two_groups(0)
    steps(p, sgd, range(1))
    fresh = two_groups(0)[1].state_dict()
    for state in ({}, {0: {"momentum_buffer": None}}, {0: {}, 2: {}}):
        sgd.load_state_dict({**fresh, "state": state})
        assert sgd.state_dict()["state"] == {}


def changed(keys, value):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


BAD_SGD = {
    "more keys": (changed(["more"], 1), ValueError),
    "state": (changed(["state"], []), TypeError),
    "groups": (changed(["param_groups"], {}), TypeError),
    "one group": (lambda s: s["param_groups"].pop(), ValueError),
    "group": (changed(["param_groups", 0], 3), TypeError),
    "missing lr": (lambda s: s["param_groups"][1].pop("lr"), ValueError),
    "missing params": (lambda s: s["param_groups"][1].pop("params"), ValueError),
    "lr": (changed(["param_groups", 1, "lr"], -1), ValueError),
    "lr of text": (changed(["param_groups", 1, "lr"], "1"), TypeError),
    "initial_lr": (changed(["param_groups", 1, "initial_lr"], None), TypeError),
    "nesterov": (changed(["param_groups", 1, "nesterov"], 1), TypeError),
    "nesterov and dampening": (lambda s: s["param_groups"][1].update(nesterov=True, dampening=0.5), ValueError),
    "params": (changed(["param_groups", 0, "params"], [0]), ValueError),
    "params twice": (changed(["param_groups", 0, "params"], [0, 0]), ValueError),
    "params twice, without state": (
        lambda s: (s["state"].clear(), s["param_groups"][0].update(params=[0, 0])),
        ValueError,
    ),
    "params of both": (changed(["param_groups", 0, "params"], [0, 2]), ValueError),
    "params of text": (changed(["param_groups", 0, "params"], ["0", "1"]), TypeError),
    "unknown parameter": (changed(["state", 3], {"momentum_buffer": np.ones(4)}), ValueError),
    "no entry": (changed(["state", 1], None), ValueError),
    "unknown entry": (changed(["state", 1, "exp_avg"], np.ones(4)), ValueError),
    "shape": (changed(["state", 1, "momentum_buffer"], np.ones(5)), ValueError),
    "shape of (4, 1)": (changed(["state", 1, "momentum_buffer"], np.ones((4, 1))), ValueError),
    "dtype": (changed(["state", 1, "momentum_buffer"], np.ones(4, np.float32)), TypeError),
    "list": (changed(["state", 1, "momentum_buffer"], [1.0] * 4), TypeError),
}


@pytest.mark.parametrize("kind", BAD_SGD)
def test_a_bad_state_of_sgd_changes_nothing(kind):
    spoil, error = BAD_SGD[kind]
    p, sgd = two_groups(0)
    steps(p, sgd, range(2))
    before, other = sgd.state_dict(), two_groups(1, momentum=0.5)
    steps(*other, range(2))
    state = other[1].state_dict()
    spoil(state)
    with pytest.raises(error):
        sgd.load_state_dict(state)
    assert same(sgd.state_dict(), before)
    with pytest.raises(ValueError, match="int"):
        sgd.load_state_dict(3)


# Interrupted and resumed


@pytest.mark.parametrize("loader_seed", [5, None], ids=["own seed", "default generator"])
def test_training_resumed_at_any_step_ends_in_the_same_bits(tmp_path, loader_seed):
    path, total = tmp_path / "a", 3 * EPOCH
    whole = Training(loader_seed=loader_seed)
    whole.run(total)
    for stop in range(2 * EPOCH + 1):
        first = Training(loader_seed=loader_seed)
        first.run(stop)
        tb.save(path, first.state())
        second = Training(seed=1, loader_seed=None if loader_seed is None else 6)  # nothing may be left of these
        second.resume(tb.load(path))
        second.run(total)
        assert same(second.state(), whole.state()), stop


@pytest.mark.slow
def test_killed_20_times_while_it_saves(tmp_path):
    """SIGKILL at random moments: the checkpoint is always readable, the end is the uninterrupted run's to the bit."""
    root, path, rng = Path(__file__).parents[1], tmp_path / "checkpoint.npz", random.Random(0)
    script = root / "tests" / "harness" / "resumable_training.py"
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]  # this package, installed or not
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    start = lambda n: subprocess.Popen([sys.executable, str(script), str(tmp_path), str(n)], env=environment)
    reached, in_the_middle = 0, 0
    for _ in range(20):
        before, process = path.stat().st_ino if path.exists() else None, start(10**9)
        try:
            end = time.monotonic() + 60
            while (path.stat().st_ino if path.exists() else None) == before:
                assert process.poll() is None and time.monotonic() < end, "no progress"
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
        finally:
            process.kill()
            process.wait()
        steps = tb.load(path)["steps"]
        assert steps > reached
        reached = steps
        for left_over in tmp_path.glob(".*.tmp"):
            in_the_middle += 1
            left_over.unlink()
    print(f"{reached} steps, {in_the_middle} of 20 kills in the middle of a save")
    assert in_the_middle > 0
    assert start(reached + 20).wait(60) == 0
    whole = Training()
    whole.run(reached + 20)
    assert same(tb.load(path), whole.state())
