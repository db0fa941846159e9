"""Machine code on disk: cold starts side by side, damaged and exchanged files, folders that cannot be written."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ordinary_user import give_up_privileges

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled"),
]
SEED = 0

# prints the results of a few kernels for two dtypes
SCRIPT = """
import numpy as np
import tinygrad_bn.nn.functional as F
from tinygrad_bn import tensor
for dtype in (np.float32, np.float64):
    x = tensor(np.arange(12, dtype=dtype).reshape(3, 4), requires_grad=True)
    y = F.relu(F.layer_norm(x, 4))
    y.backward(np.arange(12, dtype=dtype).reshape(3, 4))
    print(y.data.tobytes().hex(), x.grad.tobytes().hex())
"""


def start(folder, code=SCRIPT, **more):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, **{"env": environment, **pipes, **more})


def output(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A folder with the code of a first run, and what that printed."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, output(start(folder))


def files(folder, kind):
    return sorted(Path(folder).rglob(f"*.{kind}"))


def test_the_code_is_found_again(warm):
    folder, expected = warm
    before = {f: f.stat().st_mtime_ns for f in files(folder, "nb?")}
    assert len(files(folder, "nbi")) >= 4 and len(files(folder, "nbc")) >= 8  # two dtypes each
    assert output(start(folder)) == expected
    assert {f: f.stat().st_mtime_ns for f in files(folder, "nb?")} == before


def test_damaged_files_are_replaced(warm, tmp_path):
    """Every file is cut off, emptied, filled with noise, or can't be read, as a kill or a bad disk may leave it."""
    folder, expected = warm
    shutil.copytree(folder, tmp_path / "cache")
    rng = random.Random(SEED)
    for kind in ("nbi", "nbc"):
        for i, f in enumerate(files(tmp_path / "cache", kind)):
            data = f.read_bytes()
            cut = data[: rng.randrange(len(data))]
            f.write_bytes([cut, b"", bytes(rng.randrange(256) for _ in range(100)), data][i % 4])
            if i % 4 == 3:
                f.chmod(0)
    assert any(not f.stat().st_mode & 0o400 for f in files(tmp_path / "cache", "nbi"))
    assert output(start(tmp_path / "cache", preexec_fn=give_up_privileges)) == expected
    assert all(f.stat().st_mode & 0o400 for f in files(tmp_path / "cache", "nb?"))
    assert output(start(tmp_path / "cache")) == expected  # and the mended files are read


def test_the_age_of_files_does_not_count(warm, tmp_path):
    """The clock was set back or forth: files from 1970 and from 2100 are read as any other."""
    folder, expected = warm
    shutil.copytree(folder, tmp_path / "cache")
    for i, f in enumerate(files(tmp_path / "cache", "nb?")):
        os.utime(f, (1, 1) if i % 2 else (4.1e9, 4.1e9))
    before = {f: f.stat().st_mtime_ns for f in files(tmp_path / "cache", "nb?")}
    assert output(start(tmp_path / "cache")) == expected
    assert {f: f.stat().st_mtime_ns for f in files(tmp_path / "cache", "nb?")} == before


OWN = """
import sys
sys.dont_write_bytecode = True  # Python itself takes an edit of the same length and second for none
sys.path.insert(0, sys.argv[1])
import numpy as np
import tinygrad_bn.runtime.jit as jit
if len(sys.argv) > 2:
    jit.FLAGS = {**jit.FLAGS, "error_model": "python"}
import own
y = np.zeros(1)
try:
    own.f(y)
    print(y[0])
except ZeroDivisionError:
    print("ZeroDivisionError")
"""
OWN_KERNEL = """
from tinygrad_bn.runtime import jit
@jit.kernel
def f(y):
    y[0] = {constant} / y[0]
"""


def test_code_of_another_source_or_other_flags_is_not_run(tmp_path):
    """An edit of a constant that leaves length and time of the file as they were, and another flag in jit.py."""
    module = tmp_path / "own.py"

    def run(constant, *more):
        module.write_text(OWN_KERNEL.format(constant=constant))
        os.utime(module, (1e9, 1e9))
        return output(start(tmp_path / "cache", ["-c", OWN, str(tmp_path), *more])).strip()

    assert run("3.0") == run("3.0") == "inf"
    assert run("3.0", "other flags") == "ZeroDivisionError"
    assert run("-3.") == "-inf"


def test_code_for_other_types_is_not_run(warm, tmp_path):
    """The files of float32 and float64 exchanged, as two processes that number alike would leave them."""
    folder, expected = warm
    shutil.copytree(folder, tmp_path / "cache")
    groups = {}
    for f in files(tmp_path / "cache", "nbc"):
        groups.setdefault(f.name.rsplit(".", 2)[0], []).append(f)
    exchanged = 0
    for first, second, *_ in (g for g in groups.values() if len(g) >= 2):
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
        exchanged += 1
    assert exchanged >= 4
    assert output(start(tmp_path / "cache")) == expected


def test_two_cold_starts_side_by_side(warm, tmp_path):
    _, expected = warm
    for k in range(2):
        pair = [start(tmp_path / str(k)) for _ in range(2)]
        assert [output(p) for p in pair] == [expected] * 2
        assert output(start(tmp_path / str(k))) == expected


@pytest.mark.long
def test_twenty_cold_pairs(warm, tmp_path, figure):
    """At once, or one while the other is compiling; a third process finds what they left."""
    _, expected = warm
    moments = random.Random(SEED)
    for k in range(20):
        first = start(tmp_path / str(k))
        time.sleep(moments.choice([0.0, moments.uniform(0, 4)]))
        pair = [first, start(tmp_path / str(k))]
        assert [output(p) for p in pair] == [expected] * 2, k
        assert output(start(tmp_path / str(k))) == expected, k
        shutil.rmtree(tmp_path / str(k))
    figure("pairs of cold processes that shared a folder and gave the same bits", 20)


def test_a_folder_that_cannot_be_written(warm, tmp_path):
    """No folder at all, and a file where the folder should be: the code is compiled for this process alone."""
    _, expected = warm
    (tmp_path / "file").write_text("not a folder")
    assert output(start(tmp_path / "file")) == expected
    assert (tmp_path / "file").read_text() == "not a folder"


def test_warmup_compiles_every_kernel(tmp_path):
    said = output(start(tmp_path, ["-m", "tinygrad_bn", "warmup"]))
    assert "kernels ready for float32 and float64" in said
    code = """
from numba.core import types
import tinygrad_bn.__main__ as m
m.warmup(), m.warmup("float64")
compiled = [k for k, v in m.kernels().items() if v.stats.cache_misses]
print(sum(len(v.signatures) for v in m.kernels().values()), compiled)
"""
    signatures, compiled = output(start(tmp_path, code)).split(" ", 1)
    assert int(signatures) >= 2 * 20 and compiled.strip() == "[]"  # the second process found all it asked for


REACHED = """
import numpy as np, tinygrad_bn.__main__ as m
m.warmup(np.float32)
m.warmup(np.float64)
called = "channel_moments merge channel_normalize channel_sums channel_dx channel_scale unusual_channels"
# these are parts of other kernels, and Python calls them, too
parts = {k for k, v in m.kernels().items() if v.targetoptions.get("forceinline")}
parts -= {k for k in parts if k.rpartition(".")[2] in called.split()}
print([k for k, v in m.kernels().items() if not v.signatures and k not in parts])
"""


def test_warmup_reaches_every_kernel_that_training_calls():
    """Kernels that Python calls, by name; those that only other kernels call are compiled with them.

    In a process of its own: in this one, other tests have called kernels already.
    """
    done = subprocess.run([sys.executable, "-c", REACHED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
