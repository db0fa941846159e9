"""Wrong edits of the package (harness/mutations.py), each of which tests must notice; the long part runs them all."""

import mutations
import pytest
from mutations import EDITS, Edit

LEAST = 60


def test_the_edits_are_distinct_and_enough():
    changes = {(edit.file, edit.old, edit.new) for edit in EDITS}
    assert len(changes) == len({str(edit) for edit in EDITS}) == len(EDITS) >= LEAST
    assert all(edit.old != edit.new for edit in EDITS)


@pytest.mark.parametrize("file", dict.fromkeys(edit.file for edit in EDITS))
def test_each_edit_fits_and_is_python(file):
    """A text that is no longer there, or there twice, would leave the edit without effect, or make it another one."""
    for edit in EDITS:
        if edit.file == file:
            compile(mutations.mutated(edit), file, "exec")
            assert all(mutations.file_of(name) for name in edit.tests)


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_an_edit_that_does_not_fit_is_named(old):
    with pytest.raises(ValueError, match=r"ops/shape\.py: example: its text must occur once"):
        mutations.mutated(Edit("ops/shape.py", old, "", "example", ("engine",)))


def tried(old, new):
    """What becomes of an edit whose tests are the few of test_wrong_backward_rejected.py."""
    return mutations.try_edit(
        Edit("ops/whitening.py", old, new, "example", ("wrong_backward_rejected",)), False
    ).verdict


@pytest.mark.long
def test_what_counts_as_killed():
    assert tried("(2 / m) * dsigma", "(1 / m) * dsigma") == "killed"
    assert tried("(2 / m) * dsigma", "2 / m * dsigma") == "survived", "nothing has changed"
    assert tried("import math\n", "import maths\n") == "invalid", "it cannot be imported, so no test has failed"
    assert tried("import math\n", "import math, )\n") == "invalid"


@pytest.mark.long
def test_every_wrong_edit_is_noticed(figure):
    results = mutations.try_all(EDITS)
    killed = [edit for edit, result in results.items() if result.verdict == "killed"]
    figure("wrong edits of the package killed by the tests", f"{len(killed)} of {len(EDITS)}")
    left = [f"{result.verdict}: {edit}\n{result.why}" for edit, result in results.items() if result.verdict != "killed"]
    assert not left, "\n".join(left)
