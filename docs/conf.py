"""The book: `sphinx-build -W docs build/docs` (extra [docs]), then open build/docs/index.html."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import MarkdownLexer, PythonLexer

ROOT = Path(__file__).resolve().parents[1]
CODE = ("tinygrad_bn", "tests", "demos", "benchmarks")

project = html_title = "tinygrad_bn"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"  # tests run the notebooks; here they are shown as they are kept, without outputs
myst_heading_anchors = 3
html_theme = "furo"
html_show_sphinx = html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"

# Pages link to lines of code, [text](../tinygrad_bn/checks.py#L82 "def check_flag"). In the book each source file is a
# page of its own, which Sphinx does not know of: the links become plain HTML.
LINK = re.compile(
    r"\[(?P<text>[^\]]+)\]\((?:\.\./)+(?P<path>(?:README\.md|(?:"
    + "|".join(CODE)
    + r")/[^)\s#]+))(?:#L(?P<line>\d+))?(?:\s+\"(?:[^\"\\]|\\.)*\")?\)"
)


def link_to_code(app: Any, name: str, source: list[str]) -> None:
    def anchor(link: re.Match[str]) -> str:
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", link["text"])
        line = f"#L-{link['line']}" if link["line"] else ""
        return f'<a href="{"../" * name.count("/")}code/{link["path"]}.html{line}">{text}</a>'

    if not name.startswith("notebooks/"):
        source[0] = LINK.sub(anchor, source[0])


def write_code(app: Any, error: Exception | None) -> None:
    """A page per source file, with an anchor per line."""
    if error is not None or app.builder.name != "html":
        return
    for file in [ROOT / "README.md", *(file for part in CODE for file in (ROOT / part).rglob("*.py"))]:
        name = file.relative_to(ROOT).as_posix()
        page = Path(app.outdir, "code", f"{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        lexer = PythonLexer() if file.suffix == ".py" else MarkdownLexer()
        formatter = HtmlFormatter(full=True, title=name, linenos="table", lineanchors="L", anchorlinenos=True)
        page.write_text(highlight(file.read_text(encoding="utf-8"), lexer, formatter), encoding="utf-8")


def as_it_stands(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with formulas, not reStructuredText: shown as help() shows them."""
    if lines:
        lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_it_stands)
    app.connect("source-read", link_to_code)
    app.connect("build-finished", write_code)
