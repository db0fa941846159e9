"""What a run's result depends on besides its configuration and its data: the code that takes part, and the machine.

Of the package all sources count. Of the demos' modules, and of others that lie beside them, only what `run` reaches:
the functions, classes and constants whose names it uses, and what these use, from module to module. Docstrings,
comments and layout don't count. So an edit of a caption or of an analysis keeps the runs; one of a constant that `run`
uses, or of the training loop, computes them anew. Names are read from the sources: what is only known when it runs
(getattr, importlib) is not seen, but for the values of constants that are plain data.

The machine counts where it decides about last bits: the kind of processor, for which Numba compiles and NumPy chooses
loops, and the BLAS with the kernels that it has chosen.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import symtable
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, cached_property, lru_cache, partial
from inspect import unwrap
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np
from threadpoolctl import threadpool_info

import tinygrad_bn
from demos.datasets import load_dataset

IN_THE_DATA = ("demos.datasets", "load_dataset")  # what it does is in the digest of the data that it gives
Version = dict[str, str]  # part of the code or of the machine -> what it is, or a digest of it


class Refused(Exception):
    """Going on would compute nothing that is of use: the sweep ends, with these words."""


class Terms(NamedTuple):
    """What a sweep began with, and every worker must have."""

    code: Version
    datasets: dict[str, str]  # name -> digest


def code_version(run: Callable[..., Any]) -> Version:
    """The parts that a result of `run` depends on. Errors: ValueError where the function's source is in no file."""
    reach = _Reach()
    reach.callable(run)
    packages = {name: _package_version(name) for name in sorted(reach.packages - {"numpy", "numba", "tinygrad_bn"})}
    return {**environment(), **packages, "tinygrad_bn": _package_digest(), **reach.digests()}


def home(run: Callable[..., Any]) -> ModuleType:
    """The module that a function is from. Errors: ValueError where its source is in no file."""
    while isinstance(run, partial):
        run = run.func
    function = unwrap(run) if hasattr(run, "__qualname__") else type(run)
    module = sys.modules.get(str(function.__module__))
    file = str(getattr(module, "__file__", None) or "")
    if module is None or not file.endswith(".py") or not Path(file).is_file():
        raise ValueError(
            f"{function.__qualname__} must be in a file, from which worker processes import it, got one that was typed "
            "in (standard input, a notebook, python -c): save it as a .py file and run that"
        )
    return module


_version_here = lru_cache(8)(code_version)  # in a worker: of what it had when it began


def check_terms(run: Callable[..., Any], config: dict[str, Any], terms: Terms) -> None:
    """Refused, in words, where this process has other code, another machine or other data than the sweep began with."""
    here = _version_here(run)
    if here != terms.code:
        raise Refused(f"this worker has another version than the sweep began with: {differences(here, terms.code)}")
    spec = config.get("dataset")
    if spec in terms.datasets and digest_of(spec) != terms.datasets[spec]:
        raise Refused(
            f"this worker loaded other data from {spec} than the sweep began with: was the file replaced, or is it "
            "another one on this machine?"
        )


def differences(here: Version, there: Version) -> str:
    """Which parts differ, in words: versions as they are, digests only by the name of their part."""
    words = []
    for part in dict.fromkeys((*here, *there)):
        a, b = here.get(part), there.get(part)
        if a != b:
            digests = all(value is None or value.startswith("sha256 ") for value in (a, b))
            words.append(f"sources of {part}" if digests else f"{part} ({a or 'none'} here, {b or 'none'} there)")
    return ", ".join(words)


def key_of(demo: str, config: dict[str, Any], dataset: str, code: str) -> str:
    """The hash of all that a result depends on."""
    return hashlib.sha256(json.dumps([demo, config, dataset, code], sort_keys=True).encode()).hexdigest()


@cache
def digest_of(spec: str) -> str:
    """The digest of a dataset, as this process has loaded it."""
    return dataset_digest(*load_dataset(spec))


def dataset_digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(f"{a.dtype} {a.shape} ".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()


# --- the machine


@cache
def environment() -> Version:
    config: Any = numba.config
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES or ""
    with suppress(RuntimeError):  # LLVM does not know them everywhere
        features = features or llvm.get_host_cpu_features().flatten()
    compiled = f"on, level {int(config.OPT)}, loops {config.LOOP_VECTORIZE:d}, SLP {config.SLP_VECTORIZE:d}"
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "NumPy": np.__version__,
        "Numba": numba.__version__,
        "JIT": "off" if config.DISABLE_JIT else compiled,
        "processor": f"{name}, features {_short(features)}, NumPy's {_short(' '.join(_numpy_features()))}",
        "BLAS": _blas(),
    }


def _numpy_features() -> list[str]:
    """What NumPy's own loops may use: the processor's, less what NPY_DISABLE_CPU_FEATURES takes away."""
    from numpy._core._multiarray_umath import __cpu_features__

    return sorted(name for name, there in __cpu_features__.items() if there)


def _blas() -> str:
    """NumPy's BLAS, with the kernels that it has chosen. SciPy may bring one of its own, which is not meant."""
    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    places = [Path(info["filepath"]).parts for info in found]
    own = [info for info, parts in zip(found, places, strict=True) if {"numpy", "numpy.libs"} & {*parts}]
    others = [info for info, parts in zip(found, places, strict=True) if not {"scipy", "scipy.libs"} & {*parts}]
    names = {f"{i['internal_api']} {i['version']} {i.get('architecture') or ''}".strip() for i in own or others}
    return ", ".join(sorted(names)) or "unknown"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def _package_version(name: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return str(getattr(sys.modules.get(name), "__version__", "unknown"))


# --- the sources


@cache
def _package_digest() -> str:
    """Of the package as a whole: nearly all of it takes part in a training step."""
    folder = Path(str(tinygrad_bn.__file__)).parent
    files = sorted(folder.rglob("*.py"))
    return _digest(f"{file.relative_to(folder).as_posix()}\n{_plain_text(_parse(file))}" for file in files)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\n{text}".encode("utf-8", "surrogatepass"))
    return f"sha256 {digest.hexdigest()[:16]}"


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


def _plain_text(tree: ast.AST) -> str:
    """The tree as text, without docstrings and the like."""
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class _Statement:
    """One at the top of a module. `binds`: the names that it may define or change."""

    def __init__(self, node: ast.stmt) -> None:
        self.node = node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.binds = {node.name}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.binds = {_bound(alias) for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self.binds = {name for target in targets for name in _targets(target)}
        else:  # a call or a loop may change whatever it names
            self.binds = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(dir(builtins))
            self.binds |= {n.name for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
            self.binds |= {_bound(a) for n in self.imports for a in n.names}

    @cached_property
    def text(self) -> str:
        return _plain_text(self.node)

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        return [node for node in ast.walk(self.node) if isinstance(node, (ast.Import, ast.ImportFrom))]

    @cached_property
    def uses(self) -> set[tuple[str, ...]]:
        """Global names that it reads, with the attributes that follow: ("train",), ("plots", "plt", "subplots")."""
        names = _global_names(symtable.symtable(ast.unparse(self.node), "statement", "exec"), True)
        chains: set[tuple[str, ...]] = set()
        waiting: list[ast.AST] = [self.node]
        while waiting:
            node, chain = waiting.pop(), ()
            while isinstance(node, ast.Attribute):
                node, chain = node.value, (node.attr, *chain)
            if isinstance(node, ast.Name):
                chains |= {(node.id, *chain)} if node.id in names else set()
            else:
                waiting += ast.iter_child_nodes(node)
        return chains

    @property
    def starts_empty(self) -> bool:
        """A container that is filled later: what it holds at some moment says nothing."""
        value = getattr(self.node, "value", None)
        if isinstance(value, ast.Call):
            return ast.unparse(value) in ("dict()", "list()", "set()")
        return isinstance(value, (ast.List, ast.Dict)) and not (
            value.elts if isinstance(value, ast.List) else value.keys
        )

    @property
    def only_as_script(self) -> bool:
        """if __name__ == "__main__": ..."""
        return isinstance(self.node, ast.If) and any(
            isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(self.node.test)
        )


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _targets(node: ast.expr) -> Iterator[str]:
    """a, b.c and d["e"] = ... change a, b and d."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        yield from _targets(node.value)
    elif isinstance(node, (ast.Tuple, ast.List)):
        for item in node.elts:
            yield from _targets(item)


def _global_names(table: symtable.SymbolTable, top: bool) -> set[str]:
    reads = top or isinstance(table, symtable.Class)  # a class body may read the global of a name that it defines
    names = {s.get_name() for s in table.get_symbols() if s.is_global() or (reads and s.is_referenced())}
    return names.union(*(_global_names(child, False) for child in table.get_children()))


@cache
def _statements(file: str) -> list[_Statement]:
    found = []
    for node in _parse(Path(file)).body:
        if isinstance(node, ast.Import):  # each name by itself: another one beside it changes nothing
            found += [_Statement(ast.Import([alias])) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [_Statement(ast.ImportFrom(node.module, [alias], node.level)) for alias in node.names]
        elif not _is_text(node):
            found.append(_Statement(node))
    return [statement for statement in found if not statement.only_as_script]


class _Reach:
    """What can be reached from a function, module by module."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}  # file -> module
        self.reached: dict[str, dict[int, str]] = {}  # file -> number of the statement -> its text, and its value
        self.values: list[str] = []  # that the function carries with it
        self.packages: set[str] = set()  # third parties'
        self.seen: set[tuple[str, str]] = set()

    def digests(self) -> Version:
        """Module -> the digest of what is reached in it. A script is __main__ here and something else elsewhere."""
        texts: dict[str, list[str]] = {}
        for file, found in sorted(self.reached.items()):
            texts.setdefault(Path(file).stem, []).extend(found[i] for i in sorted(found))
        values = {"run's own values": _digest(self.values)} if self.values else {}
        return {name: _digest(texts[name]) for name in sorted(texts)} | values

    def callable(self, run: Any) -> None:
        if isinstance(run, partial):
            self.callable(run.func)
            self.carried([*run.args, *run.keywords, *run.keywords.values()])
            return
        function = unwrap(run)
        if not hasattr(function, "__qualname__"):  # an object with a __call__
            self.carried(vars(function).values() if hasattr(function, "__dict__") else ())
            function = type(function)
        module, name = home(function), function.__qualname__.partition(".")[0]
        file = str(module.__file__)
        if not _is_own(module):
            self.package(module)
        elif any(name in statement.binds for statement in _statements(file)):
            self.name(module, name)
        else:  # a lambda
            self.all_of(module)
        cells = (cell.cell_contents for cell in getattr(run, "__closure__", None) or () if _is_filled(cell))
        self.carried(cells if run is function else [function, *cells])

    def carried(self, values: Iterable[Any]) -> None:
        """What a function has from elsewhere: other functions, and numbers."""
        for value in values:
            if isinstance(value, (FunctionType, partial, type)):
                key = (str(id(value)), getattr(value, "__qualname__", "partial"))
                if key not in self.seen:
                    self.seen.add(key)
                    self.values.append(key[1])
                    with suppress(ValueError):  # one of Python's own has no source
                        self.callable(value)
            elif not isinstance(value, (list, dict, set)) and (data := _data(value)) is not None:
                self.values.append(data)

    def name(self, module: ModuleType, name: str) -> None:
        """The statements of the module that define or change a name, and what they use."""
        if (module.__name__, name) in self.seen or (module.__name__, name) == IN_THE_DATA:
            return
        self.seen.add((module.__name__, name))
        statements = _statements(str(module.__file__))
        defined = False
        for i, statement in enumerate(statements):
            if name in statement.binds:
                defined = True
                self.statement(module, i)
            elif "*" in statement.binds:
                for target, _ in _imported(module, statement):
                    if _is_own(target):
                        self.name(target, name)
        if not defined and hasattr(module, name):  # put there by somebody else
            value = getattr(module, name)
            if isinstance(value, (FunctionType, type)) and value.__module__ != module.__name__:
                self.callable(value)

    def all_of(self, module: ModuleType) -> None:
        for i in range(len(_statements(str(module.__file__)))):
            self.statement(module, i)

    def statement(self, module: ModuleType, i: int) -> None:
        file = str(module.__file__)
        statement, found = _statements(file)[i], self.reached.setdefault(file, {})
        if i in found:
            return
        found[i] = statement.text
        if isinstance(statement.node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            found[i] += "".join(self.constants(module, statement))
        for target, names in _imported(module, statement):
            if not _is_own(target):
                self.package(target)
            elif isinstance(statement.node, (ast.Import, ast.ImportFrom)):  # at the top: a name that others use
                for name in names:
                    self.name(target, name)
            else:
                for name in names:
                    self.name(target, name)
                if not names:
                    self.all_of(target)
        for name, *rest in statement.uses:
            self.name(module, name)
            value = vars(module).get(name)
            if isinstance(value, ModuleType):
                self.member(value, rest)

    def constants(self, module: ModuleType, statement: _Statement) -> Iterator[str]:
        """The values of constants that are plain data: they may come from a file, or from the environment."""
        if statement.starts_empty or "__file__" in statement.text:
            return
        for name in sorted(statement.binds):
            changed = [s for s in _statements(str(module.__file__)) if name in s.binds]
            if not any(s.starts_empty for s in changed) and (data := _data(vars(module).get(name))) is not None:
                yield f"\n{name} = {data}"

    def member(self, module: ModuleType, rest: list[str]) -> None:
        """module.rest[0]. ..."""
        while rest and isinstance(value := getattr(module, rest[0], None), ModuleType):
            module, rest = value, rest[1:]
        if not _is_own(module):
            self.package(module)
        elif rest:
            self.name(module, rest[0])
        else:  # the module itself is handed on
            self.all_of(module)

    def package(self, module: ModuleType) -> None:
        top = module.__name__.partition(".")[0]
        if top not in sys.stdlib_module_names:
            self.packages.add(top)


def _imported(module: ModuleType, statement: _Statement) -> Iterator[tuple[ModuleType, list[str]]]:
    """The modules that a statement imports from, and the names; a module that is imported itself has none."""
    package = str(module.__package__ or "")
    for node in statement.imports:
        for alias in node.names:
            names: list[str] = []
            where = alias.name
            if isinstance(node, ast.ImportFrom):
                where = "." * node.level + (node.module or "")
                where = importlib.util.resolve_name(where, package) if node.level else where
                if f"{where}.{alias.name}" in sys.modules:
                    where = f"{where}.{alias.name}"
                else:
                    names = [alias.name]
            if where in sys.modules:
                yield sys.modules[where], names


@cache
def _outside() -> tuple[Path, ...]:
    """Where the sources of others lie."""
    paths = sysconfig.get_paths()
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(place).resolve() for place in (*places, Path(str(tinygrad_bn.__file__)).parent))


def _is_own(module: ModuleType) -> bool:
    """Whether it is a module of the demos, or lies beside one, and not an installed package."""
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py"):
        return False
    path = Path(file).resolve()
    return not {"site-packages", "dist-packages"} & {*path.parts} and not any(
        path.is_relative_to(place) for place in _outside()
    )


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _data(value: Any) -> str | None:
    """Plain data as text, to the bit; None for all else."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes, range):
        return repr(value)
    if isinstance(value, (np.ndarray, np.generic)):
        a = np.asarray(value)
        return None if a.dtype.hasobject else f"{a.dtype.str} {a.shape} {hashlib.sha256(a.tobytes()).hexdigest()}"
    if type(value) in (tuple, list, set, frozenset):
        items = [_data(item) for item in value]
    elif type(value) is dict:
        items = [_data(item) for pair in value.items() for item in pair]
    else:
        return None
    known = [item for item in items if item is not None]
    if len(known) < len(items):
        return None
    return f"{type(value).__name__}({', '.join(sorted(known) if isinstance(value, (set, frozenset)) else known)})"
