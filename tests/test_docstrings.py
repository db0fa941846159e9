"""help() on any public name is enough to use it: what a docstring must have, and its examples, which must run.

Every public function, class, method and property has a docstring that

    names each parameter, if there are several, and says what None means where that is a default;
    names the exceptions that the code itself raises, and speaks of errors where what it calls raises some;
    names a source: functions, layers, initializers, schedules, scalers;
    shows an example, with what comes out, under the imports that the package's docstring lists;
    has at most 40 lines.

And help() shows the types of its arguments and of what it returns.

Operators (``__add__`` ...) are described in the docstring of Tensor.
"""

import ast
import doctest
import functools
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fuzz_targets import public_names

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import data, nn, optim, preprocessing
from tinygrad_bn.inspection.drawing import Drawing
from tinygrad_bn.nn.module import Handle
from tinygrad_bn.nn.overview import Summary

MODULES = {
    "tb": tb,
    "nn": nn,
    "F": F,
    "nn.init": nn.init,
    "nn.utils": nn.utils,
    "nn.watch": nn.watch,
    "optim": optim,
    "optim.lr_scheduler": optim.lr_scheduler,
    "data": data,
    "preprocessing": preprocessing,
}
RETURNED = {"tb.Drawing": Drawing, "nn.Handle": Handle, "nn.Summary": Summary}  # what public functions return
FORMULAS = ("F", "nn", "nn.init", "optim.lr_scheduler", "preprocessing")  # modules whose names have a source
WITHOUT_SOURCE = {  # but not these: they keep books, or do what their name says
    *("nn.Module", "nn.ModuleList", "nn.Parameter", "nn.Sequential", "nn.Identity", "nn.Flatten", "nn.Handle"),
    *("nn.Watch", "nn.Summary", "optim.lr_scheduler.LRScheduler", "nn.init.fans", "nn.init.uniform_"),
    *("nn.init.normal_", "nn.init.constant_", "nn.init.zeros_", "nn.init.ones_"),
}
NEEDS_NETWORK = {"data.download_mnist"}
MAY_BE_ANYTHING = {  # what has no narrower type: a tree of values, what each class defines, Matplotlib's objects
    *("tb.load: return", "tb.save: value", "Module.forward: args", "Module.forward: kwargs", "Module.forward: return"),
    *("Watch.plot_activations: return", "Watch.plot_gradients: return", "Watch.plot_saturation: return"),
    *("Watch.plot_drift: return", "Watch.plot_updates: return", "tb.fresh: args", "tb.fresh: return"),
    *(
        "tb.gradcheck: inputs",
        "tb.gradgradcheck: inputs",
        "tb.check_pair: inputs",
    ),  # from here on: Tensors or arrays, as the docstring says
    *("nn.watch.slopes: z", "nn.watch.flat_share: z"),
    *("nn.watch.saturation: input", "nn.watch.batch_statistics: input"),
}
MOST_LINES = 40
IMPORTS: dict[str, object] = {}
for _line in tb.__doc__.splitlines():
    if _line.strip().startswith(("import ", "from ")):
        exec(_line.strip(), IMPORTS)


def of_package(thing):
    return str(getattr(thing, "__module__", "")).startswith("tinygrad_bn")


def names_in(module):
    """What a module offers: its __all__, or the functions and classes defined in it."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    kinds = [(n, v) for n, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)]
    return [n for n, v in kinds if not n.startswith("_") and v.__module__ == module.__name__]


def function_of(member):
    """The function behind a method or property; None for other attributes."""
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, functools.cached_property):
        member = member.func
    elif isinstance(member, (classmethod, staticmethod)):
        member = member.__func__
    return inspect.unwrap(member) if inspect.isfunction(member) else None


def public():
    """{name: object}. Methods and properties under the class that defines them; overrides only if documented anew."""
    found = {f"{prefix}.{n}": getattr(module, n) for prefix, module in MODULES.items() for n in names_in(module)}
    found |= RETURNED
    for kind in [thing for thing in found.values() if inspect.isclass(thing)]:
        for base in filter(of_package, kind.__mro__):
            for n, member in vars(base).items():
                overrides = any(hasattr(b, n) for b in base.__mro__[1:])
                if not n.startswith("_") and function_of(member) and (member.__doc__ or not overrides):
                    found[f"{base.__name__}.{n}"] = member
    return found


PUBLIC = public()


def raised(function, owner=None, seen=None):
    """(exceptions in the function's own raise statements, those of the functions of this package that it calls)."""
    seen = set() if seen is None else seen
    function = inspect.unwrap(function)
    if function in seen or not inspect.isfunction(function) or function.__code__.co_filename == "<string>":
        return set(), set()  # the last: what @dataclass has written
    seen.add(function)
    direct, called = set(), set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            direct.add(ast.unparse(node.exc.func))
        if isinstance(node, ast.Call):
            callee, target = node.func, None
            if isinstance(callee, ast.Name):
                target = function.__globals__.get(callee.id)
            elif isinstance(callee, ast.Attribute) and isinstance(callee.value, ast.Name):
                holder = owner if callee.value.id == "self" else function.__globals__.get(callee.value.id)
                target = getattr(holder, callee.attr, None)
            if inspect.isfunction(target) and of_package(target):
                called |= set().union(*raised(target, owner, seen))
    direct = {n for n in direct if n.endswith("Error") and not n.startswith("_")}
    return direct - {"NotImplementedError"}, called - {"NotImplementedError"}


def problems(name, thing):
    """What the docstring of a public object lacks, a line for each."""
    doc = inspect.cleandoc(thing.__doc__ or "")
    words, found = doc.split(">>> ")[0], []
    if not words:
        return ["has no docstring"]

    parameters, owner, function = {}, None, function_of(thing)
    if inspect.isclass(thing):
        owner, function = thing, thing.__init__
        if not issubclass(thing, Exception):
            parameters = dict(inspect.signature(thing).parameters)
    elif not isinstance(thing, (property, functools.cached_property)):
        parameters = dict(inspect.signature(function).parameters)
    parameters = {n: p for n, p in parameters.items() if n not in ("self", "cls") and not n.startswith("_")}
    for n, p in parameters.items():
        if (
            len(parameters) > 1
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and not re.search(rf"\b{n}\b", words)
        ):
            found.append(f"does not name {n}")
        if p.default is None and "None" not in words:
            found.append(f"does not say what None means as {n}")

    direct, called = raised(function, owner)
    if inspect.isclass(thing) and issubclass(thing, nn.Module):
        called |= set().union(*raised(thing.forward, thing))
    found += [
        f"does not name {e}, which it raises" for e in sorted(direct) if e not in words and "Errors: as" not in words
    ]
    if parameters and direct | called and "Error" not in words:
        found.append(f"does not speak of errors, but there are {', '.join(sorted(direct | called))}")

    sourced = re.search(r"Source: |\bfunctional\.\w", words)  # a layer may refer to its function
    if not sourced and name.rpartition(".")[0] in FORMULAS and name not in WITHOUT_SOURCE:
        found.append("names no source")
    if ">>> " not in doc:
        found.append("has no example")
    if "+SKIP" in doc and name not in NEEDS_NETWORK:
        found.append("has an example that does not run")
    if len(doc.splitlines()) > MOST_LINES:
        found.append(f"has more than {MOST_LINES} lines")
    return found


def untyped(name, thing):
    """Arguments whose type help() does not show, or shows as Any, and "return"; of a class, __init__ and forward."""
    functions = [thing if inspect.isfunction(thing) else function_of(thing)]
    if inspect.isclass(thing):
        functions = [vars(kind)["__init__"] for kind in thing.__mro__ if "__init__" in vars(kind)][:1]
        functions += [thing.forward] if issubclass(thing, nn.Module) and thing.forward is not nn.Module.forward else []
    found = []
    for signature in [inspect.signature(f) for f in functions if inspect.isfunction(f)]:
        hints = {n: p.annotation for n, p in signature.parameters.items() if n not in ("self", "cls")}
        hints["return"] = signature.return_annotation
        found += [f"{name}: {n}" for n, hint in hints.items() if hint in (inspect.Signature.empty, Any, "Any")]
    return found


def run_examples(name, doc, **names):
    """Run the examples of a docstring, as one session; what doctest has to say of those that fail."""
    examples = doctest.DocTestParser().get_doctest(inspect.cleandoc(doc), {**IMPORTS, **names}, name, None, 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    assert problems(name, PUBLIC[name]) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_help_shows_types(name):
    assert set(untyped(name, PUBLIC[name])) <= MAY_BE_ANYTHING


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name, tmp_path, monkeypatch):
    if ".plot_" in name:
        pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    tb.manual_seed(0)
    assert run_examples(name, PUBLIC[name].__doc__) == ""


def test_everything_public_is_looked_at():
    """What the fuzzer calls, by a list of its own: help() shows an example of each, perhaps of the base class's."""
    roots = {"tb": tb, "nn": nn, "F": F, "optim": optim, "data": data, "preprocessing": preprocessing, **vars(tb)}
    names = [n for n in public_names() if not n.startswith("np.") and "__" not in n]
    assert len(names) > 200
    for name in names:
        root, *path = name.split(".")
        thing = functools.reduce(getattr, path, roots[root])
        assert ">>> " in (inspect.getdoc(thing) or ""), name
    assert set(IMPORTS) >= {"np", "tb", "F", "nn", "optim"}


def test_the_page_of_public_names_has_every_module():
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    for module in MODULES.values():
        assert f".. automodule:: {module.__name__}\n   :members:\n" in page
    for kind in RETURNED.values():
        assert f".. autoclass:: {kind.__module__}.{kind.__qualname__}\n   :members:\n" in page


# The rules themselves: a docstring without what they ask for is found


def halve(x, by=None):
    """x / 2, or x / by where by is not None. Errors: ValueError for by = 0. Source: the rule of three.

    >>> halve(6, by=3)
    2.0
    """
    if by == 0:
        raise ValueError("by must not be 0, got 0")
    return x / (2 if by is None else by)


def caller(x, y):
    """The halves of x and y. Errors: as halve. Source: the rule of three.

    >>> caller(2, 4)
    (1.0, 2.0)
    """
    return halve(x), halve(y)


@pytest.mark.parametrize(
    ("function", "left_out", "expected"),
    [
        (halve, "", []),
        (halve, ", or x / by where by is not None", ["does not say what None means as by"]),
        (halve, "ValueError", ["does not name ValueError, which it raises"]),
        (halve, "Source: the rule of three.", ["names no source"]),
        (halve, ">>> halve(6, by=3)", ["has no example"]),
        (caller, "", []),
        (caller, " and y", ["does not name y"]),
        (caller, "Errors: as halve.", ["does not speak of errors, but there are ValueError"]),
    ],
)
def test_what_is_left_out_is_found(function, left_out, expected, monkeypatch):
    monkeypatch.setitem(globals(), "of_package", lambda thing: thing is halve)
    assert left_out in function.__doc__
    monkeypatch.setattr(function, "__doc__", function.__doc__.replace(left_out, ""))
    assert problems("F.example", function) == expected
    monkeypatch.setattr(function, "__doc__", None)
    assert problems("F.example", function) == ["has no docstring"]


class Half(nn.Module):
    def __init__(self, by: Any) -> None:
        super().__init__()

    def forward(self, x: tb.Tensor):
        return x * 0.5


def test_a_type_left_out_is_found():
    assert untyped("halve", halve) == ["halve: x", "halve: by", "halve: return"]
    assert untyped("op", tb.differentiable(halve)) == ["op: x", "op: by"]  # an op returns a Tensor
    assert untyped("Half", Half) == ["Half: by", "Half: return"]
    assert untyped("Tensor.ndim", tb.Tensor.ndim) == []


def test_other_problems_are_found(monkeypatch):
    doc = halve.__doc__
    monkeypatch.setattr(halve, "__doc__", doc.replace("by=3)", "by=3)  # doctest: +SKIP"))
    assert problems("F.example", halve) == ["has an example that does not run"]
    monkeypatch.setattr(halve, "__doc__", doc + MOST_LINES * "\n" + ".")
    assert problems("F.example", halve) == [f"has more than {MOST_LINES} lines"]
    assert run_examples("halve", doc, halve=halve) == ""
    assert "Expected:\n    3.0\nGot:\n    2.0" in run_examples("halve", doc.replace("2.0", "3.0"), halve=halve)
