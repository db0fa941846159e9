"""The tables of docs/performance.md, of one run: python tests/harness/make_performance.py FILE

FILE is what `python -m benchmarks --json FILE` wrote. What stands between <!-- TABLE section --> and <!-- END --> is
written anew for each section that was run, and the machine between <!-- MACHINE --> and <!-- END -->.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402

NAMES = {"ours": "ours", "ours (1)": "ours, one thread", "replay": "replayed", "PyTorch (1)": "PyTorch (1)"}


def number(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bound(verdict):
    who, _, what = verdict["measure"].rpartition(": ")
    low, high = verdict["low"], verdict["high"]
    limits = f"{low:g} to {high:g}" if low else f"{high:g}"
    of = {"value": "", "limit": " limits"}.get(what, f" of {what}")
    return f"{who + ' ' if who else ''}{limits}{of}"


def table(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row["values"]))
    limit = any(row["limit"] for row in rows)
    head = ["", *(NAMES.get(name, name) for name in columns), *(["limit"] if limit else []), "wanted at most", "is"]
    lines = [head, ["---", *["---:"] * (len(head) - 3), "---", "---"]]
    for row in rows:
        unit = "" if row["unit"] in ("us", "ratio", "slope") else f", {row['unit']}"
        cells = [row["case"] + unit, *(number(row["values"].get(name)) for name in columns)]
        cells += [number(row["limit"])] if limit else []
        wanted = "; ".join(bound(v) for v in row["verdicts"])
        found = "; ".join(
            "not measured" if v["value"] is None else f"{v['value']:.2f} {v['verdict']}" for v in row["verdicts"]
        )
        lines.append([*cells, wanted, found])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(file):
    run = json.loads(Path(file).read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    made = {"MACHINE": report.machine_line(run["machine"])}
    made |= {f"TABLE {s}": table([row for row in run["rows"] if row["section"] == s]) for s in run["sections"]}
    for name, content in made.items():
        text, found = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- END -->)",
            lambda m, content=content: f"{m[1]}{content}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
        if not found:
            sys.exit(f"{PAGE} has no <!-- {name} -->")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
