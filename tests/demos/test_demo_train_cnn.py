"""The demo that trains a convolutional net: it learns, goes on where it was interrupted, and says what is wrong."""

from pathlib import Path

import numpy as np
import pytest

for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
    pytest.importorskip(package, reason="pip install -e '.[demos]'")

from demos import train_cnn  # noqa: E402
from tinygrad_bn import load, save  # noqa: E402

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def accuracy(text: str) -> float:
    return float(text.split("accuracy ")[1].split(" %")[0])


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="needs MNIST's files in ../shared/data/mnist: --download fetches them")
def test_batch_norm_reaches_97_percent_on_mnist(capsys):
    """8,000 images to train on, 2,000 to test."""
    assert train_cnn.main(["--data", str(MNIST)]) == 0
    text = capsys.readouterr().out
    assert "8000 images to train on, 2000 to test" in text
    assert accuracy(text) >= 97


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint_to_the_bit(tmp_path, capsys):
    whole, halves = tmp_path / "whole.npz", tmp_path / "halves.npz"
    two = ["--norm", "ghost", "--epochs", "2"]
    assert train_cnn.main([*two, "--checkpoint", str(whole)]) == 0
    expected = capsys.readouterr().out

    original = train_cnn.save

    def save_and_stop(path, value):
        original(path, value)
        raise OSError("interrupted after the first epoch")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_cnn, "save", save_and_stop)
        assert train_cnn.main([*two, "--checkpoint", str(halves)]) == 2
    assert load(halves)["done"] == 1
    assert train_cnn.main([*two, "--checkpoint", str(halves)]) == 0
    assert accuracy(capsys.readouterr().out) == accuracy(expected) > 80
    a, b = load(whole), load(halves)
    for name in a["model"]:
        np.testing.assert_array_equal(a["model"][name], b["model"][name])
    for i, state in a["sgd"]["state"].items():
        np.testing.assert_array_equal(state["momentum_buffer"], b["sgd"]["state"][i]["momentum_buffer"])


def test_a_checkpoint_of_another_run_is_refused(tmp_path, capsys):
    """Its schedule would end elsewhere: nothing is trained, and the file stays."""
    path = tmp_path / "run.npz"
    for other in ({"settings": {"epochs": 1}, "done": 1}, [1]):
        save(path, other)
        before = path.read_bytes()
        assert train_cnn.main(["--epochs", "2", "--checkpoint", str(path)]) == 2
        assert "must be of this run" in capsys.readouterr().err
        assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "folds"), [("batch", True), ("none", False), ("layer", False)])
def test_only_what_has_batch_norms_is_folded(norm, folds, capsys):
    assert train_cnn.main(["--norm", norm, "--epochs", "1"]) == 0
    text = capsys.readouterr().out
    assert ("folded" in text, "population" in text) == (folds, folds)


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit):
        train_cnn.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--norm", "--epochs", "--batch", "--lr", "--seed"):
        assert "default: " in text.split(f"  {option}" if f"  {option}" in text else f" {option} ")[-1].split(" --")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--norm", "weight"], "--norm"),
        (["--download"], "--download needs --data"),
        (["--data", "nowhere"], "nowhere"),
        (["--checkpoint", "nowhere/run.npz"], "there is no folder nowhere"),
    ],
)
def test_wrong_arguments(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = train_cnn.main(arguments)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and words in said.out + said.err
