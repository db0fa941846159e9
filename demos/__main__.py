"""`python -m demos` runs the headline experiments, `python -m demos all` all of them, in one folder.

`python -m demos report` makes one HTML page of what the folder has, `python -m demos export` CSV of all its runs.
"""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from demos import laboratory as lab
from demos import report
from demos.output import whole
from demos.runs import FILE, Runs

HEADLINE = ["minibatch_noise", "learning_rate"]
DEMOS = [*HEADLINE, "init_and_scale", "saturation", "covariate_shift", "test_time"]
DEMOS += ["norm_family", "scaling_and_whitening", "sharpness"]


def main(argv: Sequence[str]) -> int:
    command, *rest = argv if argv and not argv[0].startswith("-") else ["", *argv]
    if command == "export":
        return export(rest)
    if command == "report":
        return report.main(DEMOS, rest)
    if rest[:1] in (["-h"], ["--help"]) and not command:
        print(__doc__.strip())
        print(f"\npython -m demos.NAME runs one; NAME is {', '.join(DEMOS[:-1])} or {DEMOS[-1]}.\n")
    names = {"": HEADLINE, "all": DEMOS}.get(command)
    if names is None:
        hint = f"; python -m demos.{command} runs that one" if command in DEMOS else ""
        wanted = "must be followed by nothing, all, report or export"
        print(f"python -m demos: {wanted}, got {command!r}{hint}", file=sys.stderr)
        return 2
    demos = [importlib.import_module(f"demos.{name}").DEMO for name in names]
    return lab.main(demos, rest, f"python -m demos {command}".rstrip())


def export(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m demos export", description="All runs of a folder as CSV.")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("demo_results"), help="the folder")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="default: DIR/runs.csv")
    args = parser.parse_args(argv)
    target = args.csv or args.out / "runs.csv"
    if not (args.out / FILE).is_file():
        print(f"--out: there is no {args.out / FILE}: run a demo first", file=sys.stderr)
        return 2
    try:
        with (
            Runs(args.out / FILE) as runs,
            whole(target) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            count = runs.export(file)
    except sqlite3.Error as error:
        print(runs.explain(error), file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} runs in {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
