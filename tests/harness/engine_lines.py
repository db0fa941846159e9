"""How long the mechanism is: lines of the engine without docstrings, comments and blanks.

python tests/harness/engine_lines.py
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "tinygrad_bn" / "engine"


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, first.end_lineno + 1))
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def of_function(source: str, name: str) -> int:
    """The lines of the function of this name, inner ones included."""
    (node,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
    return len(code_lines(source) & set(range(node.lineno, node.end_lineno + 1)))


def of_loop(source: str, name: str) -> int:
    """The lines of the loop over nodes in the function of this name."""
    (function,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
    (loop,) = (n for n in ast.walk(function) if isinstance(n, ast.For) and ast.unparse(n.iter) == "nodes")
    return len(code_lines(source) & set(range(loop.lineno, loop.end_lineno + 1)))


def main() -> None:
    sources = {file.name: file.read_text(encoding="utf-8") for file in sorted(ENGINE.glob("*.py"))}
    for name, source in sources.items():
        print(f"{name:15} {len(code_lines(source)):4}")
    print(
        "without guards and replay",
        sum(len(code_lines(s)) for n, s in sources.items() if n != "guards.py" and not n.startswith("replay")),
    )
    print("op", of_function(sources["tape.py"], "op"))
    for name in ("walk", "collect", "pull"):
        print(name, of_function(sources["backward.py"], name))
    print("loop of the walk", of_loop(sources["backward.py"], "walk"))


if __name__ == "__main__":
    main()
