"""`python -m demos report`: one HTML page of what a folder of results has, with the ledger of claims on top.

The page needs nothing but itself: the figures are the demos' SVGs, inside of it. It is read on a screen, light or
dark, on a phone, and on paper.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demos.ledger import CLAIMS, Claim
from demos.output import whole
from demos.plots import INK

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def main(names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Write the page of the demos `names`, in that order, and of others that are there; 0, or 2 for bad arguments."""
    parser = argparse.ArgumentParser("python -m demos report", description="One HTML page of a folder of results.")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("demo_results"), help="the folder")
    parser.add_argument("--html", type=Path, metavar="FILE", help="default: DIR/report.html")
    args = parser.parse_args(argv)
    if find_spec("jinja2") is None:
        print("the report needs Jinja2: pip install -e '.[demos]'", file=sys.stderr)
        return 2
    target = args.html or args.out / "report.html"
    try:
        others = sorted({file.parent.name for file in args.out.glob("*/summary.json")} - {*names})  # of one's own
        there = [name for name in (*names, *others) if (args.out / name / "summary.json").is_file()]
        summaries = {name: read(args.out / name) for name in there}
        if not summaries:
            raise FileNotFoundError(f"--out: {args.out} has no results: run a demo first, or python -m demos all")
        page = render(summaries, names)
        with whole(target) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    own = f", and {len(others)} more" if others else ""
    print(f"{len(summaries) - len(others)} of {len(names)} demos{own} in {target}")
    return 0


def read(folder: Path) -> dict[str, Any]:
    """A demo's summary, with the SVG of each of its figures."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        all_seeds = len(summary["seeds"]) >= summary["usual_seeds"]
        summary["as_planned"] = summary["preset"] == "full" and summary["dataset"] == "digits" and all_seeds
        own = {name: v for name, v in summary["settings"].items() if name not in ("preset", "dataset", "seeds")}
        lists = {name: ", ".join(map(str, v)) if isinstance(v, list) else v for name, v in own.items()}
        summary["described"] = "; ".join(f"{name} {value}" for name, value in lists.items())
        for figure in summary["figures"]:
            text = (folder / f"{figure['name']}.svg").read_text(encoding="utf-8")
            figure["svg"] = inline(text, f"{summary['demo']}-{figure['name']}", figure["caption"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: not a demo's results of this version ({error!r}): run the demo again") from None
    return summary


def inline(svg: str, prefix: str, label: str) -> str:
    """An SVG file as a part of a page: ids of its own, the page's text colour, a label, no size but its shape."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    width = float(head.split('viewBox="')[1].split()[2])  # points; below two thirds of it letters can't be read
    head += f' style="min-width: {0.67 * width:.0f}px"'
    safe = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'{head} role="img" aria-label="{safe}">{rest}'.replace(INK, "currentColor")


def render(summaries: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["blocks"] = blocks
    environment.filters["measured"] = measured
    rows = [(claim, evidence(claim, summaries)) for claim in CLAIMS]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    missing = [name for name in names if name not in summaries]
    ledger = sorted((row(*pair, summaries) for pair in rows), key=lambda r: r["status"] == "open")  # these at the end
    return template.render(summaries=summaries, ledger=ledger, missing=missing)


def evidence(claim: Claim, summaries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What bears on a claim: {"demo": name, "criterion": dict or None, "note": text or None}; a demo that was not run
    has neither."""
    found: list[dict[str, Any]] = []
    for demo, beginnings in claim.evidence.items():
        if demo not in summaries:
            found.append({"demo": demo, "criterion": None, "note": None, "where": ""})
            continue
        where = _where(summaries[demo])
        for beginning in beginnings:
            criteria = [c for c in summaries[demo]["criteria"] if c["name"].startswith(beginning)]
            notes = [note for note in summaries[demo]["notes"] if note.startswith(beginning)]
            if not criteria and not notes:
                raise ValueError(
                    f"the claim {claim.text!r} names what {demo} has not measured: {beginning!r}. If its results "
                    "are of an older version, run the demo again"
                )
            found += [{"demo": demo, "criterion": c, "note": None, "where": where} for c in criteria]
            found += [{"demo": demo, "criterion": None, "note": note, "where": where} for note in notes]
    return found


def row(claim: Claim, found: list[dict[str, Any]], summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The verdict holds where all of its criteria passed, but for those whose failure it counts with, which did fail;
    what else failed, or was not measured here, is said instead.

    It is preliminary where a demo was not run as planned: in full, on the digits, with all of its seeds."""
    failed = [f for f in found if f["criterion"] and not f["criterion"]["passed"]]
    against = [f for f in failed if not f["criterion"]["name"].startswith(claim.fails)]
    missing = [f["demo"] for f in found if not f["criterion"] and not f["note"]]
    otherwise = [name for name in claim.fails if not any(f["criterion"]["name"].startswith(name) for f in failed)]
    status = "open" if missing else "against" if against else "otherwise" if otherwise else claim.verdict
    tested = sum(1 for f in found if f["criterion"])
    preliminary = not all(summaries[demo]["as_planned"] for demo in claim.evidence if demo in summaries)
    return {
        "claim": claim,
        "evidence": found,
        "status": status,
        "failed": failed,
        "tested": tested,
        "missing": missing,
        "preliminary": preliminary,
    }


def _where(summary: dict[str, Any]) -> str:
    """ "full, 20 seeds" """
    dataset = "" if summary["dataset"] == "digits" else f", {summary['dataset']}"
    return f"{summary['preset']}, {len(summary['seeds'])} seeds{dataset}"


ITEM = re.compile(r"(- |(?=\(\w\) ))")  # "- so", "(a) so", "(1) so"; the dash goes, the letter stays


def blocks(docstring: str) -> list[tuple[str, list[str]]]:
    """Paragraphs of a docstring in their order: ("text", [it]), ("list", items), or ("lines", the lines of an indented
    one: formulas, commands). Lines that are indented further belong to the item or line before them."""
    found = []
    for part in filter(str.strip, docstring.split("\n\n")):
        lines = part.strip("\n").split("\n")
        margin = len(lines[0]) - len(lines[0].lstrip())
        starts = [line for line in lines if not line[margin:].startswith(" ")]
        kind = "lines" if margin else "list" if all(ITEM.match(line) for line in starts) else "text"
        texts = [""]
        for line in lines:
            if kind != "text" and line in starts and texts[-1]:
                texts.append("")
            texts[-1] += ITEM.sub("", line, count=1) if kind == "list" and line in starts else f" {line}"
        found.append((kind, [" ".join(text.split()) for text in texts]))
    return found


def measured(criterion: dict[str, Any]) -> str:
    """-1.38 [-1.64, -1.11]"""

    def number(value: float | None) -> str:
        return "not defined" if value is None else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")

    ci = criterion["ci"]
    return number(criterion["measured"]) + ("" if ci is None else f" [{number(ci[0])}, {number(ci[1])}]")
