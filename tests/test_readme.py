"""The README's code runs as it stands there, from the first block to the last."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert np.isfinite(names["loss"].item()) and names["loss"].item() < 1  # what was trained has learned
    cnn, images = names["cnn"].eval(), names["tb"].Tensor(names["x"])
    np.testing.assert_allclose(names["folded"](images).data, cnn(images).data, rtol=0, atol=1e-4)
    assert (cnn(images).data.argmax(axis=1) == names["y"]).mean() > 0.8
    assert np.abs(np.cov(names["flat"].T) - np.eye(64)).max() <= 1 + 1e-3  # an identity, but for constant pixels
    for name, value in names["saved"]["model"].items():
        np.testing.assert_array_equal(value, cnn.state_dict()[name])
