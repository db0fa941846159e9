"""The learning-rate demo's nets, trained by the demo and by PyTorch: same data, weights, batches, so the same ends."""

import numpy as np
import pytest

for package in ("torch", "matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="pip install -e '.[parity,demos]'")

from benchmarks.processes import torch_run  # noqa: E402
from demos import learning_rate  # noqa: E402

SETTINGS = {"dataset": "digits", "seeds": [0], "steps": 10, "norms": learning_rate.NORMS}
CONFIGS = {f"{c['arm']}, {c['norm']}": c for c in learning_rate.plan(SETTINGS) if c["lr"] == 0.1}
assert len(CONFIGS) == len(learning_rate.NETS) * len(learning_rate.NORMS)


@pytest.mark.parametrize("name", CONFIGS)
def test_ten_steps_end_alike(name):
    ours, theirs = learning_rate.run(CONFIGS[name]), torch_run(CONFIGS[name])
    for metric in ("test_nll", "valid_nll", "train_nll"):
        np.testing.assert_allclose(ours[metric], theirs[metric], rtol=1e-4, err_msg=metric)
    assert ours["test_error"] == pytest.approx(theirs["test_error"], abs=0.5)  # points: a tie may fall either way
