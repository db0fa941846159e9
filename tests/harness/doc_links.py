"""Links from the documentation to lines of code, which must not go stale.

A link to a line carries that line, or a part of it, as its title:

    [the three terms](../tinygrad_bn/ops/norm_kernels.py#L62 "dx[i] = dy[i] * factor")

`stale` says which links no longer point at their code; `python tests/harness/doc_links.py` mends the numbers where the
code is still found exactly once in the file, and names the links that need a person.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?P<path>[^)#\s]+)#L(?P<line>\d+)(?P<rest>\s+\"(?P<code>(?:[^\"\\]|\\.)*)\")?\)")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def problem(page: Path, link: re.Match[str]) -> tuple[str, int | None]:
    """What is wrong with a link ("" if nothing), and the line where its code is now, if it is there once."""
    file = (page.parent / link["path"]).resolve()
    if not file.is_file():
        return f"no file {link['path']}", None
    if link["code"] is None:
        return f'{link["path"]}#L{link["line"]} has no code: write [text](path#L1 "code on that line")', None
    code = link["code"].replace('\\"', '"')
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, 1) if code in line]
    if int(link["line"]) in found:
        return "", None
    where = "nowhere" if not found else "in line " + ", ".join(map(str, found))
    return f"{link['path']}#L{link['line']} is not {code!r}: that is {where}", found[0] if len(found) == 1 else None


def stale() -> list[str]:
    """The links that do not point at their code, a line for each."""
    problems = []
    for page in pages():
        for link in LINK.finditer(page.read_text(encoding="utf-8")):
            what, _ = problem(page, link)
            if what:
                problems.append(f"{page.relative_to(ROOT)}: {what}")
    return problems


def mend() -> list[str]:
    """Write the right numbers into the pages; what is left is returned."""
    for page in pages():
        text = page.read_text(encoding="utf-8")

        def right(link: re.Match[str], page: Path = page) -> str:
            _, line = problem(page, link)
            return link[0] if line is None else link[0].replace(f"#L{link['line']}", f"#L{line}", 1)

        mended = LINK.sub(right, text)
        if mended != text:
            page.write_text(mended, encoding="utf-8")
    return stale()


if __name__ == "__main__":
    left = mend()
    print("\n".join(left) or "all links point at their code")
    sys.exit(1 if left else 0)
