"""No input becomes code: the sources of package, demos and benchmarks, searched for everything that could do that."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(f for folder in ("tinygrad_bn", "demos", "benchmarks") for f in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "imp", "runpy"}
MODULES |= {
    "code",
    "codeop",
    "pty",
    "subprocess",
    "multiprocessing",
    "importlib",
    "ctypes",
}  # some have good uses, below
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {  # of any object, whatever its name
    *("exec_module", "load_module", "load_extension", "enable_load_extension", "find_class", "unsafe_load"),
    *("system", "popen", "mktemp", "read_pickle", "to_pickle", "fromstring", "from_string"),
}
LOADERS = {"load", "read_array", "write_array", "save", "savez"}  # NumPy's, that take allow_pickle
ARE_FALSE = {"allow_pickle"}  # keywords that must be False wherever they are
NEVER_TRUE = {"shell", "trust_remote_code", "unsafe"}

JUSTIFIED = {  # (file, what): why
    ("tinygrad_bn/runtime/blas.py", "ctypes"): "asks the OpenBLAS that NumPy has loaded for its number of threads",
    ("tinygrad_bn/runtime/memory.py", "ctypes"): "one call of glibc's mallopt",
    (
        "demos/grid.py",
        "multiprocessing",
    ): "worker processes of its own; what they exchange is pickled between them alone",
    ("demos/__init__.py", "importlib"): "asks whether packages are installed",
    ("demos/keys.py", "importlib"): "asks for versions of packages, and what a relative import means",
    ("demos/command.py", "importlib"): "imports the demo that runs as a script under the name that workers know",
    ("demos/__main__.py", "importlib"): "imports demos from a list of its own",
    ("demos/report.py", "importlib"): "asks whether a package is installed",
    ("demos/report.py", "from_string"): "the page's template, a file of the package; values are escaped",
    ("benchmarks/__main__.py", "subprocess"): "keeps a core busy, with a program of its own",
    ("benchmarks/assembly.py", "subprocess"): "runs itself anew, with another setting of Numba and an empty cache",
    ("benchmarks/processes.py", "subprocess"): "times fresh processes of Python, with programs of its own",
    ("benchmarks/processes.py", "importlib"): "times the import of a library, one of a list of its own",
    ("benchmarks/peers.py", "importlib"): "asks whether a package is installed",
    ("benchmarks/peers.py", "compile"): "a function of that name, which calls torch.compile",
    ("benchmarks/report.py", "importlib"): "asks for versions",
    ("benchmarks/profiling.py", "importlib"): "imports this package's own sources, with a clock around each call",
    ("benchmarks/profiling.py", "compile"): "the same",
}


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) and node.level == 0 else set()


def suspicious(source):
    """What a source has of it, in words."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        found |= imported(node) & MODULES
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.add(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr in METHODS:
                found.add(node.attr)
            if node.attr in BUILTINS and getattr(node.value, "id", "") in ("builtins", "__builtins__"):
                found.add(node.attr)
        if isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", "?") for k in node.keywords}
            found |= {f"{k}={keywords[k]}" for k in ARE_FALSE & {*keywords} if keywords[k] is not False}
            found |= {f"{k}={keywords[k]}" for k in NEVER_TRUE & {*keywords} if keywords[k] is not False}
            if (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in LOADERS
                and getattr(node.func.value, "id", "") in ("np", "numpy", "npy", "torch", "joblib")
                and "allow_pickle" not in keywords
            ):
                found.add(f"{node.func.value.id}.{node.func.attr} without allow_pickle=False")
    return found


def test_no_source_does_what_is_not_justified(figure):
    found = {
        (file.relative_to(ROOT).as_posix(), what) for file in FILES for what in suspicious(file.read_text("utf-8"))
    }
    assert len(FILES) > 50
    assert found == set(JUSTIFIED)  # neither more, nor reasons for what is gone
    figure("sources searched for ways from data to code; ways found, each justified", f"{len(FILES)}; {len(found)}")


BAD = [
    "import pickle",
    "from pickle import loads",
    "import pickle as p",
    "def f():\n    from cloudpickle import dumps",
    "import yaml.loader",
    "eval(x)",
    "f = exec",
    "import builtins; builtins.eval(x)",
    "compile(x, '', 'exec')",
    "__import__(name)",
    "np.load(f)",
    "numpy.load(f, mmap_mode='r')",
    "np.load(f, allow_pickle=True)",
    "np.load(f, allow_pickle=flag)",
    "from numpy import load; load(f, allow_pickle=True)",
    "torch.load(f)",
    "os.system(x)",
    "run(x, shell=True)",
    "run(x, shell=flag)",
    "db.enable_load_extension(True)",
    "pandas.read_pickle(f)",
]


@pytest.mark.parametrize("source", BAD)
def test_the_search_finds_it(source):
    assert suspicious(source)


@pytest.mark.parametrize(
    "source",
    [
        "net.eval()",
        "np.load(f, allow_pickle=False)",
        "re.compile(x)",
        "tb.load(f)",
        "from . import code",
        "x = 'eval(y)'",
    ],
)
def test_the_search_leaves_others_alone(source):
    assert not suspicious(source)
