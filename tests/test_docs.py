"""The documentation is true: its links point at the code they speak of, and its blocks run."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import doc_links
import pytest

DOCS = Path(__file__).parents[1] / "docs"
TOOLS, HUNDRED, ANSWERS = DOCS / "looking-inside.md", DOCS / "0-hundred-lines.md", DOCS / "answers.md"
CHAPTERS = sorted(page for page in DOCS.glob("*.md") if "```python" in page.read_text(encoding="utf-8"))


def test_no_link_is_stale():
    stale = doc_links.stale()
    assert not stale, f"python tests/harness/doc_links.py mends what has only moved: {stale}"


def test_no_link_leads_nowhere():
    """Links to pages, figures and files of the repository."""
    for page in doc_links.pages():
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


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


def test_every_exercise_has_an_answer():
    """Under its number, in the section of docs/answers.md that has the chapter's title."""
    answered = {}
    for section in (DOCS / "answers.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, text = section.split("\n", 1)
        answered[title] = re.findall(r"^\*\*(\d+)\. ", text, re.M)
    asked = {}
    for page in DOCS.glob("[0-9]-*.md"):
        title, text = page.read_text(encoding="utf-8").removeprefix("# ").split("\n", 1)
        asked[title] = re.findall(r"^(\d+)\. ", text.partition("\n## Try\n")[2], re.M)
    assert answered == asked and all(asked.values())


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(page, tmp_path):
    """In a process of its own, in tmp_path; what a block says with assert holds. What they print."""
    text = page.read_text(encoding="utf-8")
    if ".plot_" in text:
        pytest.importorskip("matplotlib", reason="pip install -e '.[demos]'")
    if "from demos" in text:
        for package in ("matplotlib", "scipy", "threadpoolctl", "tqdm"):
            pytest.importorskip(package, reason="pip install -e '.[demos]'")
    script = tmp_path / "blocks.py"
    before = blocks(HUNDRED) if page == ANSWERS else []  # the answers begin with chapter 0's, whose engine they use
    script.write_text("\n\n".join(before + blocks(page)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({*CHAPTERS} - {TOOLS, HUNDRED}), ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path):
    run_blocks(page, tmp_path)


def drawn(path):
    """Boxes and arrows of a drawing, without the values of norms, which end differently on other machines."""
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    boxes = {}
    for g in root.iter("{http://www.w3.org/2000/svg}g"):
        lines = [t.text.split(" = ")[0] for t in g.iter("{http://www.w3.org/2000/svg}text")]
        boxes[g.get("data-id")] = (g.get("class"), lines)
    paths = root.iter("{http://www.w3.org/2000/svg}path")
    return boxes, [(p.get("data-from"), p.get("data-to"), p.get("data-argument")) for p in paths]


@pytest.mark.slow
def test_looking_inside_shows_what_its_blocks_print_and_draw(tmp_path):
    printed = run_blocks(TOOLS, tmp_path)
    shown = re.findall(
        r"^    (\S.*)$", re.sub(r"```.*?```", "", TOOLS.read_text(encoding="utf-8"), flags=re.DOTALL), re.M
    )
    assert len(shown) == 10 + 5  # the table and the trace

    def without_norms(lines):
        return [re.sub(r"\|[\d.e+-]+\|", "||", line).rstrip() for line in lines]

    assert without_norms(printed.splitlines())[: len(shown)] == without_norms(shown)
    assert drawn(tmp_path / "graph.svg") == drawn(DOCS / "graph.svg")
    assert len(drawn(DOCS / "graph.svg")[1]) == 11


def test_the_engine_of_chapter_0_has_as_many_lines_as_it_says():
    """The blocks up to the check, counted without blank lines and comments."""
    engine = "\n".join(blocks(HUNDRED)[:5]).splitlines()
    lines = [line for line in engine if line.strip() and not line.strip().startswith("#")]
    assert lines[0] == "import itertools" and "def gradcheck" in "\n".join(lines[-20:])
    assert not any("tinygrad_bn" in line for line in lines)
    text = HUNDRED.read_text(encoding="utf-8")
    assert len(lines) == int(re.search(r"first five blocks: (\d+) lines", text)[1]) <= 110


@pytest.mark.slow
def test_chapter_0_draws_the_figure_it_shows(tmp_path):
    """All of it but the norms of gradients, which end differently on other machines."""
    run_blocks(HUNDRED, tmp_path)
    name = "hundred_lines.svg"
    new, shown = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
    assert re.sub(r"= [\d.]+", "=", new) == re.sub(r"= [\d.]+", "=", shown)
    assert "prefers-color-scheme: dark" in shown and "<title>The graph of one training step" in shown
    text = HUNDRED.read_text(encoding="utf-8")
    assert re.search(rf"!\[.+\]\({name}\)", text)
