"""Who may import whom (docs/architecture.md has the same table), and that the core needs NumPy and Numba alone."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinygrad_bn"
LAYERS = [
    ["checks"],
    ["runtime"],
    ["engine"],
    ["ops"],
    ["gradient_checks", "nn", "optim", "data", "preprocessing", "checkpoint"],
    ["inspection"],
    ["__init__", "__main__"],
]
ORDER = {name: (level, place) for level, names in enumerate(LAYERS) for place, name in enumerate(names)}
FILES = sorted(PACKAGE.rglob("*.py"))


LAZY = {  # what functions import when they are called, and why it is not needed otherwise
    "matplotlib": "plots",
    "pandas": "tables in place of arrays, for those who hand them in",
    "sklearn": "the tags that its pipelines ask for, where it is used",
    "pytest": "the decorator for test functions",
    "tqdm": "a bar while files are fetched",
}


def imported(file):
    """(module, whether it is of the package) of every import, inside of functions, too; but for type hints."""
    folder = file.relative_to(PACKAGE).parent.parts
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skip = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skip |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            of_the_package, _, inside = node.module.partition(".")
            if of_the_package == PACKAGE.name:  # in a function, where a relative import takes longer
                files = (PACKAGE / inside.replace(".", "/")).with_suffix(".py")
                yield from ((inside if files.exists() else f"{inside}.{a.name}", True) for a in node.names)
            else:
                yield node.module, False
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((".".join([*base, name]), True) for name in names)


def lazily(file, module):
    """Whether the file imports it inside of functions only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_once = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    return not any(part(module) in ast.unparse(n).split() for n in at_once)


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
            allowed = {"numpy", "numba"} | sys.stdlib_module_names | (set(LAZY) if lazily(file, module) else set())
            assert part(module) in allowed, f"{mine} imports {module}"


def test_the_page_shows_these_layers():
    page = PACKAGE.parent / "docs" / "architecture.md"
    shown = []
    for layer, modules in re.findall(r"^\| (\d*) *\| (`[^|]*) \|", page.read_text(encoding="utf-8"), re.M):
        shown += [[]] if layer else []
        shown[-1] += dict.fromkeys(part(module) for module in re.findall(r"`([^`]+)`", modules))
    assert [list(dict.fromkeys(names)) for names in shown] == LAYERS[:-1]  # all but what a user imports


KNOTS = {
    ("engine.tensors", "engine.backward"): "Tensor.backward() is the walk, and the walk is made of tensors",
    ("engine.tensors", "engine.guards"): "what is refused in place of a change in place has to know tensors",
}


def test_no_cycles_within_a_folder():
    """Between the files of one folder imports form no ring, but for those that are listed with a reason."""
    for folder in ("engine", "runtime", "ops", "nn", "optim", "data", "gradient_checks", "inspection"):
        uses = {}
        for file in (PACKAGE / folder).glob("*.py"):
            if file.stem != "__init__":
                names = {module for module, ours in imported(file) if ours and module.startswith(folder + ".")}
                name = f"{folder}.{file.stem}"
                uses[name] = {other for other in names if (name, other) not in KNOTS}
        while uses:
            free = [name for name, needs in uses.items() if not needs & set(uses)]
            assert free, f"a ring among {sorted(uses)}"
            for name in free:
                del uses[name]


def test_the_check_notices(tmp_path, monkeypatch):
    (tmp_path / "ops").mkdir()
    (tmp_path / "checks.py").write_text("from .engine import walk\nfrom scipy import stats\n")
    (tmp_path / "ops" / "a.py").write_text("from ..nn import layers\nfrom . import b\ndef f():\n    import scipy\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert list(imported(tmp_path / "checks.py")) == [("engine", True), ("scipy", False)]
    assert list(imported(tmp_path / "ops" / "a.py")) == [("nn", True), ("ops.b", True), ("scipy", False)]
    for file in (tmp_path / "checks.py", tmp_path / "ops" / "a.py"):
        with pytest.raises(AssertionError):
            test_imports_go_up_only(file)
