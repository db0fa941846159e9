"""The documentation is true: its links point at the code they speak of, and its blocks run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import doc_links
import pytest

DOCS = Path(__file__).parents[1] / "docs"
CHAPTERS = sorted(page for page in DOCS.glob("*.md") if "```python" in page.read_text(encoding="utf-8"))


def test_no_link_is_stale():
    assert doc_links.stale() == []


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ('code.py#L2 "b = 2"', ""),
        ('code.py#L1 "b = 2"', "that is in line 2"),
        ('code.py#L2 "c = 3"', "nowhere"),
        ("code.py#L2", "has no code"),
        ('other.py#L2 "b = 2"', "no file"),
    ],
)
def test_stale_links_are_noticed(tmp_path, target, wrong):
    (tmp_path / "code.py").write_text("a = 1\nb = 2\n")
    link = doc_links.LINK.search(f"see [this]({target}) there")
    assert wrong in doc_links.problem(tmp_path / "page.md", link)[0]
    assert bool(doc_links.problem(tmp_path / "page.md", link)[0]) == bool(wrong)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path):
    """In a process of its own; what a block says with assert holds."""
    script = tmp_path / "blocks.py"
    script.write_text("\n\n".join(blocks(page)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
