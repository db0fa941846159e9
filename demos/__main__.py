"""`python -m demos` runs the headline experiments, `python -m demos all` all of them, in one folder.

`python -m demos report` makes one HTML page of what the folder has, `python -m demos export` CSV of all its runs.
"""

from __future__ import annotations

import importlib
import io
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from demos import laboratory as lab
from demos import report
from demos.output import Parser, explain, is_device, publish, say, user_path, warn
from demos.runs import FILE, HEADERS, Runs

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
        name = f"NAME is {', '.join(DEMOS[:-1])} or {DEMOS[-1]}"
        say(
            f"{(__doc__ or '').strip()}\n\npython -m demos.NAME runs one; {name}.\n".lstrip()
        )  # python -OO has no __doc__
    names = {"": HEADLINE, "all": DEMOS}.get(command)
    if names is None:
        hint = f"; python -m demos.{command} runs that one" if command in DEMOS else ""
        wanted = "must be followed by nothing, all, report or export"
        warn(f"python -m demos: {wanted}, got {command!r}{hint}")
        return 2
    demos = [importlib.import_module(f"demos.{name}").DEMO for name in names]
    return lab.main(demos, rest, f"python -m demos {command}".rstrip())


def export(argv: Sequence[str]) -> int:
    parser = Parser("python -m demos export", description="All runs of a folder as CSV.")
    parser.add_argument("--out", type=user_path, metavar="DIR", default=Path("demo_results"), help="the folder")
    parser.add_argument("--csv", type=user_path, metavar="FILE", help="default: DIR/runs.csv")
    args = parser.parse_args(argv)
    target = args.csv or args.out / "runs.csv"
    if not (args.out / FILE).is_file():
        warn(f"--out: there is no {args.out / FILE}: run a demo first")
        return 2
    try:
        with Runs(args.out / FILE) as runs:
            table = io.StringIO(newline="")
            count = runs.export(table)
    except (sqlite3.Error, OSError, ValueError) as error:
        warn(runs.explain(error) if isinstance(error, sqlite3.Error) else explain(error))
        return 2
    try:
        publish(target, table.getvalue(), HEADERS, "table of runs")
    except (OSError, ValueError) as error:
        warn(f"--csv: {explain(error)}")
        return 2
    if is_device(target):  # the table itself may be on stdout
        warn(f"{count} runs in {target}")
        return 0
    return 0 if say(f"{count} runs in {target}") else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
