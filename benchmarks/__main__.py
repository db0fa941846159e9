"""`python -m benchmarks`: every case, every target, every verdict.

python -m benchmarks                            all of it
python -m benchmarks --quick                    under a minute, to see that nothing got worse
python -m benchmarks --only norms,mlp --no-compile --json norms.json
python -m benchmarks --busy                     while another process keeps a core busy
python -m benchmarks --profile mlp              where a training step's time goes; replay: that of a replayed one
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cases, processes, profiling, report
from benchmarks.peers import find_peers

SECTIONS: dict[str, Callable[[cases.Settings], Iterator[report.Row]]] = {
    "norms": cases.norms,
    "kernels": cases.kernels,
    "activations": cases.activations,
    "images": cases.images,
    "mlp": partial(cases.training_steps, "mlp"),
    "cnn": partial(cases.training_steps, "cnn"),
    "overhead": cases.overhead,
    "gradcheck": cases.checks,
    "startup": processes.startup,
    "scaling": cases.scaling,
    "memory": processes.memory,
    "grid": processes.grid,
}
LEGEND = """\
(1), (2): on 1 and 2 threads; PyTorch: eager. best: the fastest peer of those that take part. us: medians over
interleaved rounds.
limit: less is not possible. norms, kernels: the time of 2.5 copies of x, as x, x and dy are read, y and dx are
written; mlp: the time of the matrix products alone, in NumPy. "<= 2 limits" wants at most twice that."""
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy_core() -> Iterator[subprocess.Popen]:
    """Another process keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    return names


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed, beside PyTorch and JAX.")
    parser.add_argument("--quick", action="store_true", help="under 60 s: few rounds, nothing that takes long")
    parser.add_argument("--only", type=sections, default=list(SECTIONS), metavar="A,B", help=", ".join(SECTIONS))
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--busy", action="store_true", help="while another process keeps a core busy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows, verdicts and the machine to FILE")
    nets = ["mlp", "cnn", "replay"]
    parser.add_argument("--profile", choices=nets, help="where a training step's time goes, and nothing else")
    args = parser.parse_args(argv)
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    machine, (peers, missing) = report.machine(), find_peers()
    print(report.machine_line(machine) + ("\nanother process keeps one core busy" if args.busy else ""))
    settings = cases.Settings(tuple(peers), not (args.quick or args.no_compile), args.quick)
    rows: list[report.Row] = []
    with busy_core() if args.busy else nullcontext():
        if args.profile:
            print(profiling.profile(args.profile, args.quick))
            return 0
        print(*missing, LEGEND, sep="\n", flush=True)
        for name in args.only:
            found = []
            for row in SECTIONS[name](settings):
                found.append(row)
                if sys.stderr.isatty():
                    print(f"{name}: {row.case:40}", end="\r", file=sys.stderr, flush=True)
            print(f"\n{report.table(found)}", flush=True)
            rows += found
    summary = report.summary(rows)
    met, missed, unknown = summary["passed"], summary["missed"], len(summary["not measured"])
    print(f"\n{met} targets met, {len(missed)} missed, {unknown} not measured", *missed, sep="\n  miss  ")
    if args.json:
        result: dict[str, Any] = {"machine": machine, "missing": missing, "quick": args.quick, "busy": args.busy}
        result |= {"sections": args.only, "rows": [row.as_json() for row in rows], "summary": summary}
        args.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
