"""Freed memory is kept for the next step, and given back when told to."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_bn.runtime import memory

CODE = """
import ctypes
import resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 2 MB would make few faults of many
import numpy as np
import tinygrad_bn
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(2**20)
before = faults()
for _ in range(20):
    np.ones(2**20)  # 8 MB, 2048 pages
print(faults() - before)
"""


def page_faults(**environment):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    return int(subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, capture_output=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_an_array_that_comes_again_gets_the_memory_of_the_last():
    assert page_faults(TINYGRAD_BN_KEEP_MEMORY="1") < 1000
    assert page_faults(TINYGRAD_BN_KEEP_MEMORY="0", MALLOC_MMAP_THRESHOLD_="131072") > 10_000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.delenv("TINYGRAD_BN_KEEP_MEMORY", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
