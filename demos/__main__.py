"""`python -m demos` runs the headline experiments, `python -m demos all` all of them, in one folder.

`python -m demos run FILE.py` runs a demo of your own, wherever it lies. `python -m demos report` makes one HTML page of
what the folder has, `python -m demos export` CSV of all its runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sqlite3
import sys
import traceback
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
    if command == "run":
        return run(rest)
    if rest[:1] in (["-h"], ["--help"]) and not command:
        name = f"NAME is {', '.join(DEMOS[:-1])} or {DEMOS[-1]}"
        say(
            f"{(__doc__ or '').strip()}\n\npython -m demos.NAME runs one; {name}.\n".lstrip()
        )  # python -OO has no __doc__
    names = {"": HEADLINE, "all": DEMOS}.get(command)
    if names is None:
        hint = f"; python -m demos.{command} runs that one" if command in DEMOS else ""
        wanted = "must be followed by nothing, all, run, report or export"
        warn(f"python -m demos: {wanted}, got {command!r}{hint}")
        return 2
    demos = [importlib.import_module(f"demos.{name}").DEMO for name in names]
    return lab.main(demos, rest, f"python -m demos {command}".rstrip())


def run(argv: Sequence[str]) -> int:
    """The DEMO of a file, which worker processes import by its name: its folder is on their path, too."""
    prog = "python -m demos run"
    if not argv or argv[0].startswith("-"):
        warn(f"{prog} must be followed by the file of a demo, {prog} FILE.py; then its options")
        return 2
    file = user_path(argv[0])
    name = file.stem
    if file.suffix != ".py" or not file.is_file():
        warn(f"{prog}: must be the .py file of a demo, got {argv[0]}")
        return 2
    if not name.isidentifier() or importlib.util.find_spec(name) is not None:
        warn(f"{prog}: the file must have a name of its own, which can be imported; got {file.name}")
        return 2
    sys.path.insert(0, str(file.resolve().parent))
    try:
        demo = getattr(importlib.import_module(name), "DEMO", None)
    except Exception:
        warn(f"{prog} {argv[0]}: {traceback.format_exc()}")
        return 2
    if not isinstance(demo, lab.Demo):
        warn(f"{prog}: {argv[0]} must have a DEMO = lab.Demo(...), got {type(demo).__name__}")
        return 2
    return lab.main([demo], argv[1:], f"{prog} {argv[0]}")


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
