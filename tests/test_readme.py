"""The README's code runs as it stands there, from the first block to the last."""

import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.engine.operators import OPS

README = Path(__file__).parents[1] / "README.md"


def accuracy(net, images, labels):
    return (net.eval()(tb.Tensor(images)).data.argmax(axis=1) == labels).mean()


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
    assert accuracy(cnn, names["x"], names["y"]) > 0.8
    right = [accuracy(names[net], names["faint"], names["y"][1500:]) for net in ("cnn", "adapted")]
    assert right[1] > 0.75 and right[1] - right[0] > 0.3
    damped = np.linalg.eigvalsh(np.cov(names["x"].reshape(len(names["x"]), -1).T.astype(np.float64)))
    whitened = np.linalg.eigvalsh(np.cov(names["flat"].T.astype(np.float64)))
    np.testing.assert_allclose(whitened, damped / (damped + 0.01), atol=1e-4)
    for name, value in names["saved"]["model"].items():
        np.testing.assert_array_equal(value, cnn.state_dict()[name])


def test_numpys_functions_on_tensors_are_all_named():
    paragraph = README.read_text(encoding="utf-8").split("these of NumPy's functions:\n\n")[1].split("\n\n")[0]
    named = {getattr(np, word) for word in re.sub(r"\(.*\)", "", paragraph).split()}
    assert named | {np.amax, np.amin} == {function for function in OPS if not isinstance(function, str)}
