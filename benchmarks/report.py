"""Rows, targets and verdicts: what is printed and written as JSON."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba

# section, case (a pattern), what is measured, lowest, highest. "value" is ours as it stands; the rest are ratios of
# ours to the fastest peer, to the named one (PyTorch eager at its better number of threads), or to the limit; after
# "replay:" of the replay, after "one thread:" of ours on one.
TARGETS: list[tuple[str, str, str, float, float]] = [
    ("norms", "geometric mean, eager / PyTorch", "value", 0, 0.65),
    ("norms", "geometric mean, replay / best", "replay: value", 0, 0.50),
    ("norms", "* *x*", "PyTorch", 0, 1.0),
    ("norms", "* *x*", "replay: best peer", 0, 0.95),
    ("norms", "BN 4096x1024", "one thread: limit", 0, 2.2),
    ("norms", "BN 64x64x28x28", "one thread: limit", 0, 2.2),
    ("norms", "LN 4096x1024", "one thread: limit", 0, 1.6),
    ("norms", "GN(8) 64x64x28x28", "one thread: limit", 0, 1.6),
    ("norms", "IN 64x64x28x28", "one thread: limit", 0, 1.6),
    ("kernels", "*", "limit", 0, 2.2),
    ("activations", "* *x*", "best peer", 0, 0.9),
    ("images", "conv *", "one thread: PyTorch (1)", 0, 1.5),
    ("images", "max pooling *", "one thread: PyTorch (1)", 0, 0.5),
    ("mlp", "60x64x100 BN", "PyTorch", 0, 0.75),
    ("mlp", "60x784x100 BN", "PyTorch", 0, 0.65),
    ("mlp", "128x784x512 BN", "PyTorch", 0, 1.1),
    ("mlp", "60x64x100 BN", "replay: JAX", 0, 0.80),
    ("mlp", "60x64x100 BN", "replay: PyTorch", 0, 0.35),
    ("mlp", "60x784x100 BN", "replay: JAX", 0, 0.80),
    ("mlp", "60x784x100 BN", "replay: PyTorch", 0, 0.45),
    ("mlp", "128x784x512 BN", "replay: best peer", 0, 1.05),
    ("mlp", "128x784x512 BN", "replay: limit", 0, 1.3),
    ("cnn", "32x1x8x8 BN", "replay: best peer", 0, 0.8),
    ("cnn", "64x1x28x28 BN", "replay: best peer", 0, 1.0),
    ("cnn", "32x3x32x32 BN", "replay: best peer", 0, 1.0),
    ("overhead", "*", "value", 0, 2.0),
    ("overhead", "*", "replay: value", 0, 2.5),
    ("startup", "import", "value", 0, 0.15),
    ("startup", "first step, cache warm", "value", 0, 0.5),
    ("startup", "first step, cache cold", "value", 0, 12),
    ("scaling", "*", "value", 0.9, 1.1),
    ("memory", "*", "PyTorch", 0, 1.0),
    ("memory", "*", "replay: PyTorch", 0, 1.0),
    ("grid", "*", "PyTorch", 0, 0.40),
]


SETTINGS = ("THREAD", "OPENBLAS_", "NUMBA_", "MALLOC_", "XLA_FLAGS")  # of the environment, what may change times


OURS = {"": "ours", "replay": "replay", "one thread": "ours (1)"}  # what a measure begins with -> whose time is meant


@dataclass
class Row:
    """values: "ours", "ours (1)" on one thread, and the peers, in `unit`.

    limit: what no implementation can go below, in the same unit.
    """

    section: str
    case: str
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    limit: float | None = None
    note: str = ""

    def measure(self, what: str) -> float | None:
        """Ours as it stands ("value"), or divided by the limit, the best peer or the named peer; None if not there."""
        who, _, what = what.rpartition(": ")
        ours = self.values.get(OURS[who])
        if ours is None or what == "value":
            return ours
        if what == "limit":
            other = self.limit
        else:
            peers = (v for name, v in self.values.items() if not name.startswith(("ours", "replay")))
            named = (v for name, v in self.values.items() if name.startswith(what))
            other = min(peers if what == "best peer" else named, default=None)
        return None if not other else ours / other

    def verdicts(self) -> list[dict[str, Any]]:
        """One per target: {"measure", "value", "low", "high", "verdict"}; the verdict is PASS, miss or not measured."""
        found = []
        for section, pattern, what, low, high in TARGETS:
            if section == self.section and fnmatchcase(self.case, pattern):
                value = self.measure(what)
                verdict = "not measured" if value is None else "PASS" if low <= value <= high else "miss"
                found.append({"measure": what, "value": value, "low": low, "high": high, "verdict": verdict})
        return found

    def as_json(self) -> dict[str, Any]:
        ratios = {"best peer": self.measure("best peer"), "limit": self.measure("limit")}
        return {**vars(self), "ratios": ratios, "verdicts": self.verdicts()}


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    if unit == "us" and value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _target(verdict: dict[str, Any]) -> str:
    low, high, what = verdict["low"], verdict["high"], verdict["measure"]
    bound = f"{low:g} to {high:g}" if low else f"<= {high:g}"
    who, _, what = what.rpartition(": ")
    bound = f"{who} {bound}" if who else bound
    return bound + ("" if what == "value" else f" of {what}" if what != "limit" else " limits")


def table(rows: list[Row]) -> str:
    """A section as text, a row per case: times, ratios, and for each target its verdict."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [[rows[0].section, "unit", *names, "ours/best", "limit", "ours/limit", "target: verdict"]]
    for row in rows:
        values = [_number(row.values.get(name), row.unit) for name in names]
        ratios = [_number(row.measure("best peer")), _number(row.limit, row.unit), _number(row.measure("limit"))]
        targets = "; ".join(f"{_target(v)}: {v['verdict']}" for v in row.verdicts())
        lines.append([row.case, row.unit, *values, *ratios, targets])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line, note in zip(lines, ["", *(row.note for row in rows)], strict=True):
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        cells[-1] = line[-1]
        text.append("  ".join(cells).rstrip())
        if note:
            text.append(f"    {note}")
    return "\n".join(text)


def summary(rows: list[Row]) -> dict[str, Any]:
    """How many targets were met, which were missed, which could not be measured."""
    judged = [(f"{r.section}: {r.case} ({_target(v)})", v["verdict"]) for r in rows for v in r.verdicts()]
    by = {word: [name for name, verdict in judged if verdict == word] for word in ("PASS", "miss", "not measured")}
    return {"passed": len(by["PASS"]), "missed": by["miss"], "not measured": by["not measured"]}


def machine() -> dict[str, Any]:
    """The processor, the versions, NumPy's BLAS, and the settings that decide on the number of threads."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    found: dict[str, Any] = {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"Python": platform.python_version()},
        "threads": {"numba": numba.config.NUMBA_NUM_THREADS},
        "environment": {k: v for k, v in sorted(os.environ.items()) if any(word in k for word in SETTINGS)},
    }
    for package in ("numpy", "numba", "tinygrad_bn", "torch", "jax"):
        with suppress(PackageNotFoundError):
            found["versions"][package] = version(package)
    with suppress(ImportError):  # [demos] extra
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            if pool["user_api"] == "blas":
                found["threads"][f"{pool['internal_api']} ({pool.get('architecture')})"] = pool["num_threads"]
    return found


def machine_line(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    threads = ", ".join(f"{name} {number}" for name, number in found["threads"].items())
    environment = ", ".join(f"{k}={v}" for k, v in found["environment"].items()) or "none set"
    line = f"{found['cpu']}, {found['cores']} cores; {versions}\nthreads: {threads}; environment: {environment}"
    if slowing := [k for k in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if k in found["environment"]]:
        line += f"\nwarning: {' and '.join(slowing)} may slow NumPy's matrix products: unset to measure"
    return line
