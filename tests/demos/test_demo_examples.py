"""The examples show what they say, in a few seconds."""

import pytest

pytest.importorskip("matplotlib", reason="pip install -e '.[demos]'")

from demos.examples import learning_rates, noise


def test_statistics_of_eight_rows_are_better_than_those_of_four_and_of_64(tmp_path, capsys):
    errors = noise.main(tmp_path / "noise.png").mean(axis=0)
    of = dict(zip(noise.ROWS, errors, strict=True))
    assert of[8] < min(of[4], of[64]) - 0.3  # points: 0.9 and 1.1 were measured
    assert f"statistics of  8 rows: test error {of[8]:.2f} %" in capsys.readouterr().out
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_with_batch_norm_more_learning_rates_work(tmp_path, capsys):
    errors = learning_rates.main(tmp_path / "rates.png")
    work = {norm: int((line < 10).sum()) for norm, line in errors.items()}
    assert work[True] >= work[False] + 2  # six and three were measured
    assert errors[True].max() > 80 and "batch norm: 0.00316: " in capsys.readouterr().out  # not without limit
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
