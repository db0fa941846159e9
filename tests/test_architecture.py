"""Who may import whom (docs/architecture.md has the same table), and that the core needs NumPy and Numba alone."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinygrad_bn"
LAYERS = [
    ["operators", "jit", "memory", "sums"],
    ["tensors", "tape"],
    ["checks", "threads", "random", "blas"],
    ["backward"],
    ["ops"],
    ["gradient_checks", "nn", "optim", "data", "preprocessing", "checkpoint"],
    ["labels", "layout", "drawing", "tracing"],
    ["__init__", "__main__"],
]
ORDER = {name: (level, place) for level, names in enumerate(LAYERS) for place, name in enumerate(names)}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file, outside_functions=True):
    """(module, whether it is of the package) of every import that runs when the file is imported."""
    folder = file.relative_to(PACKAGE).parent.parts
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skip = set()
    for node in ast.walk(tree):
        lazy = isinstance(node, (ast.FunctionDef, ast.Lambda)) and outside_functions
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if lazy or typing_only:
            skip |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, False
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((".".join([*base, name]), True) for name in names)


def part(module):
    return module.split(".")[0]


def own(file):
    return part(".".join(file.relative_to(PACKAGE).with_suffix("").parts))


def test_every_module_has_a_layer():
    assert {own(file) for file in FILES} == set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_up_only(file):
    mine = own(file)
    for module, of_the_package in imported(file):
        if of_the_package and part(module) != mine:
            assert ORDER[part(module)] < ORDER[mine], f"{mine} imports {module}"
        elif not of_the_package:
            allowed = {"numpy", "numba"} | sys.stdlib_module_names
            assert part(module) in allowed, f"{mine} imports {module}"


def test_the_page_shows_these_layers():
    page = PACKAGE.parent / "docs" / "architecture.md"
    shown = []
    for layer, modules in re.findall(r"^\| (\d*) *\| (`[^|]*) \|", page.read_text(encoding="utf-8"), re.M):
        shown += [[]] if layer else []
        shown[-1] += dict.fromkeys(part(module) for module in re.findall(r"`([^`]+)`", modules))
    assert [list(dict.fromkeys(names)) for names in shown] == LAYERS[:-1]  # all but what a user imports


def test_no_cycles_within_ops_and_nn():
    """Between the files of one folder imports form no ring."""
    for folder in ("ops", "nn", "optim", "data"):
        uses = {}
        for file in (PACKAGE / folder).glob("*.py"):
            if file.stem != "__init__":
                names = {module for module, ours in imported(file) if ours and module.startswith(folder + ".")}
                uses[f"{folder}.{file.stem}"] = names
        while uses:
            free = [name for name, needs in uses.items() if not needs & set(uses)]
            assert free, f"a ring among {sorted(uses)}"
            for name in free:
                del uses[name]


def test_the_check_notices(tmp_path, monkeypatch):
    (tmp_path / "ops").mkdir()
    (tmp_path / "tape.py").write_text("from .backward import walk\nfrom scipy import stats\n")
    (tmp_path / "ops" / "a.py").write_text("from ..nn import layers\nfrom . import b\ndef f():\n    import scipy\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert list(imported(tmp_path / "tape.py")) == [("backward", True), ("scipy", False)]
    assert list(imported(tmp_path / "ops" / "a.py")) == [("nn", True), ("ops.b", True)]
    for file in (tmp_path / "tape.py", tmp_path / "ops" / "a.py"):
        with pytest.raises(AssertionError):
            test_imports_go_up_only(file)
