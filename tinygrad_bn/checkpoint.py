"""Checkpoints: nested dicts and lists of arrays, numbers and strings in one file, without pickle.

The file is an uncompressed .npz (a zip of .npy files) that plain np.load opens:

    model/0.weight.npy    every array, under its path in the tree
    tree.json.npy         the tree as JSON, its UTF-8 bytes as a uint8 array
    the end comment       "tinygrad_bn checkpoint 1, sha256 " and the digest of all bytes before it, in hexadecimal

In the JSON a container is a list that begins with its kind: ["dict", key, value, key, value, ...], ["list", ...],
["tuple", ...]. So are the leaves that JSON has no word for: ["array", name], ["int", hexadecimal] beyond 64 bits,
["float", the 8 bytes in hexadecimal] for NaN and infinity.

The digest tells a damaged file from a whole one; it does not tell who wrote it. So nothing in a file is believed:
sizes are checked before memory is taken, and what is read is numbers and strings alone, never code.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .checks import Array, check_path
from .engine.tensors import Tensor

MARK = b"tinygrad_bn checkpoint 1, sha256 "
TREE = "tree.json"
LEVELS = 100
KINDS = "biufc"  # of dtypes: booleans, integers, floats, complex numbers
LEAVES = (type(None), bool, int, float, str)
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
UNSAFE = re.compile(r"[^\w.~-]|^\.+$|\.(?=npy$)")  # in a part of a file's name: no slash, no "..", no second .npy


def save(path: str | os.PathLike[str], value: Any) -> None:
    """Write value to a file that load() gives back; a crash leaves the old file or the new one, never half of one.

    value: dicts (keys str or int), lists, tuples, None, bools, ints of any size, floats, strings, NumPy arrays
        (booleans, integers, floats, complex; any shape and layout) and Tensors, nested at most 100 levels deep.
        Tensors and NumPy scalars come back as arrays, the scalars with shape (); all else comes back as it was.
    path: taken as it is; no ".npz" is appended, unlike np.savez. A link is followed.

    All is checked and put together in memory first. Then it is written to a temporary file in the same folder
    (".<name>.<random>.tmp", removed on any error; a killed process may leave one behind), forced to the disk, and
    renamed. Errors: TypeError for any other type, naming the place in the tree; ValueError for more than 100 levels
    or a structure that contains itself; OSError from the disk, naming path, the old file being intact.

    >>> tb.save("a.npz", {"weight": tb.tensor([1.0, 2.0]), "epoch": 3})
    >>> tb.load("a.npz")
    {'weight': array([1., 2.], dtype=float32), 'epoch': 3}
    """
    path = check_path("path", path)
    arrays: dict[str, Array] = {}
    tree = json.dumps(_encode(value, (), arrays), ensure_ascii=False)
    arrays[TREE] = np.frombuffer(tree.encode("utf-8", "surrogatepass"), np.uint8)
    buffer = io.BytesIO()
    try:
        _zip(arrays, buffer)
    except ValueError as error:  # of an entry that was being opened when the user interrupted
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    data = buffer.getbuffer()
    data[-64:] = hashlib.sha256(data[:-64]).hexdigest().encode()
    write_file(path, data)


def _zip(arrays: dict[str, Array], buffer: io.BytesIO) -> None:
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, not compressed
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + ".npy")  # dated 1980: equal values give equal files
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
        archive.comment = MARK + bytes(64)


def load(path: str | os.PathLike[str]) -> Any:
    """What save() wrote to path. The arrays are new, writable, and of the dtype they had.

    Errors: FileNotFoundError; ValueError naming the file for all that is wrong with it, whether by accident (any
    change of the file is found) or by intent: a file from elsewhere can do no more than raise.

    >>> net = nn.Linear(2, 1)
    >>> tb.save("net.npz", net.state_dict())
    >>> net.load_state_dict(tb.load("net.npz"))
    <All keys matched successfully>
    """
    path = check_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not path.is_file():
        raise ValueError(f"{path}: must be a file, got a folder or a device")
    data = path.read_bytes()
    if data[-64 - len(MARK) : -64] != MARK:
        raise ValueError(f"{path}: is not a checkpoint written by save(), or its end is missing")
    if data[-64:] != hashlib.sha256(memoryview(data)[:-64]).hexdigest().encode():
        raise ValueError(f"{path}: is damaged, its SHA-256 digest is not the one that was written")
    try:
        arrays = _read_arrays(data)
        text = arrays.pop(TREE, np.empty(0))
        if text.dtype != np.uint8 or text.ndim != 1:
            raise ValueError(f"it must hold the bytes {TREE}")
        value = _decode(json.loads(text.tobytes().decode("utf-8", "surrogatepass")), arrays)
        if arrays:
            raise ValueError(f"the tree does not mention the arrays {sorted(arrays)[:5]}")
    except Exception as error:  # zipfile, json and NumPy's header parser raise a dozen kinds on what they cannot read
        raise ValueError(f"{path}: is not a valid checkpoint: {str(error) or type(error).__name__}") from error
    return value


# The tree


def _encode(value: Any, path: tuple[Any, ...], arrays: dict[str, Array]) -> Any:
    """value in JSON's terms; its arrays are collected under their names. path: the keys that lead here."""
    kind = type(value)
    if kind is int and not -(2**63) <= value < 2**64:
        return ["int", hex(value)]  # Python reads no decimals of more than 4300 digits
    if kind is float and not math.isfinite(value):
        return ["float", struct.pack(">d", value).hex()]
    if kind in LEAVES:
        return value
    where = "value" + "".join(f"[{key!r}]" for key in path)
    if isinstance(value, (Tensor, np.generic)):
        value = value.data if isinstance(value, Tensor) else np.asarray(value)
    if type(value) is np.ndarray:
        if value.dtype.kind not in KINDS:
            raise TypeError(f"{where} must be an array of booleans or numbers, got dtype {value.dtype}")
        name = _name(path, arrays)
        arrays[name] = value
        return ["array", name]
    if kind not in (dict, list, tuple):
        raise TypeError(f"{where} must be a dict, list, tuple, array, number, string or None, got {kind.__name__}")
    if len(path) >= LEVELS:
        raise ValueError(f"value must be nested at most {LEVELS} levels deep, got more, or it contains itself")
    items: list[Any] = [kind.__name__]
    for key, item in value.items() if kind is dict else enumerate(value):
        if type(key) not in (str, int):
            raise TypeError(f"{where} must have keys that are str or int, got {key!r} ({type(key).__name__})")
        items += [_encode(key, path, arrays)] if kind is dict else []
        items.append(_encode(item, (*path, key), arrays))
    return items


def _decode(item: Any, arrays: dict[str, Array], level: int = 0) -> Any:
    """The inverse; takes out of arrays what it puts into the tree, so that each can be there only once."""
    if type(item) in LEAVES:
        return item
    if type(item) is not list or not item or type(item[0]) is not str:
        raise ValueError("the tree must consist of lists that begin with their kind")
    if level > LEVELS:
        raise ValueError(f"the tree must be nested at most {LEVELS} levels deep, got more")
    kind, values = item[0], [_decode(i, arrays, level + 1) for i in item[1:]]
    if kind in ("list", "tuple"):
        return values if kind == "list" else tuple(values)
    if kind == "dict":
        keys, values = values[::2], values[1::2]
        if len(keys) != len(values) or any(type(k) not in (str, int) for k in keys) or len({*keys}) < len(keys):
            raise ValueError("a dict in the tree must have a value for every key, and keys that are str or int, once")
        return dict(zip(keys, values, strict=True))
    (text,) = values
    if kind == "int":
        return int(text, 16)
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(text))[0]
    if kind != "array" or text not in arrays:
        raise ValueError(f"the tree mentions {kind[:50]} {text!r:.200}, which is missing or was mentioned before")
    return arrays.pop(text)


def _name(path: tuple[Any, ...], taken: dict[str, Array]) -> str:
    """The path as the name of a file that can be unpacked anywhere."""
    parts = [key if isinstance(key, str) else hex(key) if abs(key) >= 2**64 else str(key) for key in path]
    name = "/".join(UNSAFE.sub("_", part[:150]) or "_" for part in parts) or "value"
    while name in taken or name == TREE:
        name = f"{name}~{len(taken)}"
    return name


# The file


def write_file(path: Path, data: memoryview) -> None:
    """The file appears under its name when it is complete and on the disk, or not at all."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"{path}: must be a file, got a folder")
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        if not isinstance(error, OSError) or error.errno is None:
            raise
        there = "the file that was there is intact" if target.exists() else "nothing was saved"
        raise OSError(error.errno, f"{error.strerror}; {there}", str(path)) from error
    with contextlib.suppress(OSError):  # the new name as well; not every system can
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read_arrays(data: bytes) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(data):
            raise ValueError("its entries are together larger than the file")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or not all(p and not UNSAFE.search(p) for p in name.split("/")) or name in arrays:
                raise ValueError(f"its entries must have the names that save() gives, once, got {entry.filename:.200}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"its entries must be uncompressed, got {name:.200}")
            arrays[name] = _read_npy(archive.read(entry))
    return arrays


def _read_npy(raw: bytes) -> Array:
    stream = io.BytesIO(raw)
    shape, fortran_order, dtype = HEADERS[npy.read_magic(stream)](stream)
    start = stream.tell()
    if dtype.kind not in KINDS:
        raise ValueError(f"its arrays must hold booleans or numbers, got dtype {dtype}")
    if math.prod(shape) * dtype.itemsize != len(raw) - start:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} cannot have {len(raw) - start} bytes")
    array: Array = np.ndarray(shape, dtype, raw, start, order="F" if fortran_order else "C")
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():  # NumPy relies on it
        raise ValueError("an array of booleans must have the bytes 0 and 1, got others")
    return array.copy(order="K")
