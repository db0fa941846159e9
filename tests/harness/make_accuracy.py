"""The tables of docs/accuracy.md: python tests/harness/make_accuracy.py, five minutes on one core (extra [parity]).

What stands between <!-- TABLE name --> and <!-- END --> is written anew.
"""

import functools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "accuracy.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import norm_accuracy as norms  # noqa: E402
import numpy as np  # noqa: E402
import sum_accuracy  # noqa: E402
import test_truth  # noqa: E402

SEEDS = 5


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ops():
    """Worst errors in float64, an op per row."""
    rows = []
    for name in test_truth.TABLE:
        cells = [f"{e:.1e}" for pair in test_truth.errors(name) for e in pair]
        has_hard = name in test_truth.hard_rows(test_truth.np.float64) or name in test_truth.hard_norms()
        rows.append([f"`{name}`", *cells[:2], *(cells[2:] if has_hard else ["", ""])])
    return table(["op", "value", "gradient", "value, hard inputs", "gradient, hard inputs"], rows)


@functools.cache
def float32():
    """{(norm, input, value or gradient): worst errors of ours and PyTorch's} in roundings of float32."""
    worst = {}
    lengths = [n for n in norms.LENGTHS if n < 1000]
    for case in [*norms.cases(lengths, seeds=SEEDS), *norms.cases([1_000_000])]:
        kind, _, family, _ = case
        for quantity, (*errors, _, more, _) in norms.measure(case, norms.ours, norms.pytorchs).items():
            key = kind.removesuffix(", positions"), family, "value" if quantity == "y" else "gradient"
            one = more / (4 if quantity == "y" else 8) or 1  # a rounding
            worst[key] = [
                max(w, np.nan_to_num(e / one, nan=np.inf)) for w, e in zip(worst.get(key, (0, 0)), errors, strict=True)
            ]
    return worst


def units(error):
    return f"{error:.2g}" if error < 2**24 else "no digit"  # NaN, too


def beside_pytorch(what):
    kinds = list(dict.fromkeys(kind.removesuffix(", positions") for kind in norms.KINDS))
    rows = [
        [family, *(" / ".join(map(units, float32()[kind, family, what])) for kind in kinds)]
        for family in norms.FAMILIES
    ]
    return table(["input", *kinds], rows)


def sums():
    """Roundings of the result, ours and PyTorch's, in float32 and C order, by the number of rows."""
    lengths = (1000, 100_000, 10_000_000)
    rows = []
    for quantity in sum_accuracy.OURS:
        x = [sum_accuracy.data(n, np.float32) for n in lengths]
        cells = (f"{sum_accuracy.ours(quantity, a):.2g} / {sum_accuracy.pytorchs(quantity, a):.2g}" for a in x)
        rows.append([quantity, *cells])
    return table(["float32, axis 0 of (rows, 3)", *(f"{n:,}" for n in lengths)], rows)


def main():
    import torch

    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    makers = {"float64": ops, "float32 value": lambda: beside_pytorch("value")}
    makers |= {"float32 gradient": lambda: beside_pytorch("gradient"), "sums": sums}
    for name, make in makers.items():
        text, found = re.subn(
            rf"(<!-- TABLE {name} -->\n).*?(<!-- END -->)",
            lambda m, make=make: f"{m[1]}{make()}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
        if not found:
            sys.exit(f"{PAGE} has no <!-- TABLE {name} -->")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
