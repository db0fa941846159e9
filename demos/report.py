"""`python -m demos report`: one HTML page of what a folder of results has, with the ledger of claims on top.

The page needs nothing but itself: the figures are the demos' SVGs, inside of it. It is read on a screen, light or
dark, on a phone, and on paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demos.criteria import HOLDS, REFUTED, UNDECIDED
from demos.ledger import CLAIMS, Claim
from demos.output import Parser, explain, is_device, publish, say, user_path, warn
from demos.summaries import Unusable
from demos.summaries import read as read_summary

# How a page of ours begins, and did before it said so: then it may be overwritten
BEGINNINGS = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="tinygrad_bn">',
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n<title>tinygrad_bn:',
)
VERDICTS = (HOLDS, REFUTED, UNDECIDED)
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def main(names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Write the page of the demos `names`, in that order, and of others that are there; 0, 1 if something had to be
    left out, or 2 for bad arguments."""
    parser = Parser("python -m demos report", description="One HTML page of a folder of results.")
    parser.add_argument("--out", type=user_path, metavar="DIR", default=Path("demo_results"), help="the folder")
    parser.add_argument("--html", type=user_path, metavar="FILE", help="default: DIR/report.html")
    args = parser.parse_args(argv)
    if find_spec("jinja2") is None:
        warn("the report needs Jinja2: pip install -e '.[demos]'")
        return 2
    target = args.html or args.out / "report.html"
    summaries, left_out = read_all(args.out, names)
    for name, why in left_out.items():
        warn(f"{args.out / name} is left out: {why}")
    if not summaries:
        warn(f"--out: {args.out} has no results{' that can be read' if left_out else ''}: run a demo first")
        return 2
    page, unknown = render(summaries, names, left_out)
    for words in unknown:
        warn(words)
    try:
        publish(target, page, BEGINNINGS, "page of results")
    except (OSError, ValueError) as error:
        warn(f"--html: {explain(error)}")
        return 2
    of_ours = len({*summaries} & {*names})
    own = f", and {len(summaries) - of_ours} more" if len(summaries) > of_ours else ""
    words = f"{of_ours} of {len(names)} demos{own} in {target}"
    said = say(words) if not is_device(target) else warn(words) is None  # the page itself may be on stdout
    return 1 if left_out or unknown or not said else 0


def read_all(out: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The summaries of a folder by demo, those of `names` first; and what is left out, with the reason."""
    found = {file.parent.name for file in out.glob("*/summary.json")}
    summaries, left_out = {}, {}
    for name in (*(n for n in names if n in found), *sorted(found - {*names})):
        try:
            summaries[name] = read(out / name)
        except Unusable as error:
            left_out[name] = str(error)
    return summaries, left_out


def read(folder: Path) -> dict[str, Any]:
    """A demo's summary, with the SVG of each figure, and in words what the page says of it. Errors: Unusable."""
    summary = read_summary(folder)
    all_seeds = len(summary["seeds"]) >= summary["usual_seeds"]
    summary["as_planned"] = summary["preset"] == "full" and summary["dataset"] == "digits" and all_seeds
    for criterion in summary["criteria"]:  # of the first edition they only passed or failed
        if criterion.get("verdict") not in VERDICTS:
            criterion["verdict"] = HOLDS if criterion["passed"] else "not shown"
    own = {name: v for name, v in summary["settings"].items() if name not in ("preset", "dataset", "seeds")}
    lists = {name: ", ".join(map(str, v)) if isinstance(v, list) else v for name, v in own.items()}
    summary["described"] = "; ".join(f"{name} {value}" for name, value in lists.items())
    return summary


def render(
    summaries: dict[str, dict[str, Any]], names: Sequence[str], left_out: dict[str, str]
) -> tuple[str, list[str]]:
    """The page; and which claims of the ledger name what was not measured, in words."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["blocks"] = blocks
    environment.filters["measured"] = measured
    unknown: list[str] = []
    rows = [(claim, evidence(claim, summaries, unknown)) for claim in CLAIMS]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    missing = [name for name in names if name not in summaries and name not in left_out]
    ledger = sorted((row(*pair, summaries) for pair in rows), key=lambda r: r["status"] == "open")  # these at the end
    page = template.render(summaries=summaries, ledger=ledger, missing=missing, left_out=left_out)
    return page, unknown


def evidence(claim: Claim, summaries: dict[str, dict[str, Any]], unknown: list[str]) -> list[dict[str, Any]]:
    """What bears on a claim: {"demo": name, "criterion": dict or None, "note": text or None}; a demo that was not run
    has neither. What it names and a full preset has not measured is added to `unknown`, in words, and counts as not
    run; other presets leave some of it out."""
    found: list[dict[str, Any]] = []
    for demo, beginnings in claim.evidence.items():
        if demo not in summaries:
            found.append({"demo": demo, "criterion": None, "note": None, "where": ""})
            continue
        where = _where(summaries[demo])
        for beginning in beginnings:
            criteria = [c for c in summaries[demo]["criteria"] if c["name"].startswith(beginning)]
            notes = [note for note in summaries[demo]["notes"] if note.startswith(beginning)]
            if not criteria and not notes and summaries[demo]["preset"] == "full":
                found.append({"demo": demo, "criterion": None, "note": None, "where": ""})
                unknown.append(
                    f"the claim {claim.text!r} names what {demo} has not measured: {beginning!r}. If its results "
                    "are of an older version, run the demo again"
                )
            found += [{"demo": demo, "criterion": c, "note": None, "where": where} for c in criteria]
            found += [{"demo": demo, "criterion": None, "note": note, "where": where} for note in notes]
        if not any(f["demo"] == demo for f in found):
            found.append({"demo": demo, "criterion": None, "note": None, "where": ""})
    return found


def row(claim: Claim, found: list[dict[str, Any]], summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The verdict is given where all of its criteria hold, but for those that it counts on not to, which do not;
    what else was refuted, is undecided, or was not measured here, is said instead.

    It is preliminary where a demo was not run as planned: in full, on the digits, with all of its seeds."""
    failed = [f for f in found if f["criterion"] and not f["criterion"]["passed"]]
    unexpected = [f for f in failed if not f["criterion"]["name"].startswith(claim.fails)]
    against = [f for f in unexpected if f["criterion"]["verdict"] == REFUTED]
    missing = list(dict.fromkeys(f["demo"] for f in found if not f["criterion"] and not f["note"]))
    otherwise = [name for name in claim.fails if not any(f["criterion"]["name"].startswith(name) for f in failed)]
    status = (
        "open" if missing else "against" if against else "unsure" if unexpected else "otherwise" if otherwise else ""
    )
    status = status or claim.verdict
    tested = sum(1 for f in found if f["criterion"])
    preliminary = not all(summaries[demo]["as_planned"] for demo in claim.evidence if demo in summaries)
    return {
        "claim": claim,
        "evidence": found,
        "status": status,
        "failed": failed,
        "against": against,
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
