"""Memory stays flat over many training steps with the collector off (harness/soak.py measures, in its own process)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")]


def soak(*options):
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "tests" / "harness" / "soak.py"), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_is_flat_and_a_leak_would_be_seen():
    """20 MB in 100,000 steps are 200 bytes a step: less than one forgotten node of the tape."""
    measured, leaking = soak("--steps", 8000), soak("--steps", 8000, "--leak", 500)
    assert measured["slope"] < 20 < leaking["slope"], (measured, leaking)


@pytest.mark.long
def test_a_million_steps(figure):
    measured = soak("--steps", 1_000_000)
    figure("soak: steps", f"{measured['steps']:,}")
    figure("soak: resident memory, MB per 100,000 steps", f"{measured['slope']:.3f}")
    figure("soak: CPU time per step, last quarter / second quarter", f"{measured['slower']:.3f}")
    figure("soak: largest loss", measured["largest_loss"])
    assert measured["slope"] < 1
    assert measured["slower"] < 1.25  # the figure says how flat; a machine that gets busy makes it noisy
    assert float(measured["largest_loss"]) < 10
