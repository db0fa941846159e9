"""Reading what a folder of results has, whoever wrote it: a summary of the right shape, figures without anything alive.

Nothing is believed. A summary must have the fields that the report uses, of the types that it expects. A figure is
parsed as XML, and written anew from what matplotlib writes: its elements and attributes, links inside of the figure,
images inside of it. What is more than that is refused, not mended: it is no figure of ours.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from demos.plots import INK

MOST = 20_000_000  # bytes of a file; figures of ours have 0.1 MB
DEEPEST = 100  # elements inside of each other
NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # of a folder or a figure: a file, and an id in the page

# A type, None, a list of one, a dict of several, or a tuple of choices
NUMBER = (int, float)
SUMMARY = {
    "demo": str,
    "claim": str,
    "question": (str, None),
    "command": str,
    "preset": str,
    "dataset": str,
    "seeds": [int],
    "usual_seeds": int,
    "versions": dict,
    "settings": dict,
    "effort": str,
    "criteria": [
        {
            "name": str,
            "measured": (*NUMBER, None),
            "ci": ([(*NUMBER, None)], None),
            "threshold": str,
            "passed": bool,
            "note": str,
        }
    ],
    "table": [[str]],
    "notes": [str],
    "limits": str,
    "figures": [{"name": str, "caption": str}],
}


class Unusable(ValueError):
    """A folder that is left out, and why."""


def read(folder: Path) -> dict[str, Any]:
    """A demo's summary, with the SVG of each of its figures under "svg". Errors: Unusable, in words."""
    if not NAME.fullmatch(folder.name):
        raise Unusable("the folder's name must be letters, digits, _, - and .")
    try:
        text = _text(folder / "summary.json")
    except ValueError as error:
        raise Unusable(str(error)) from None
    try:
        summary = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise Unusable("summary.json is nested too deeply") from None
    except ValueError as error:
        raise Unusable(f"summary.json is no JSON ({error})") from None
    fault = _fault(summary, SUMMARY, "")
    if not fault and not summary["seeds"]:
        fault = "seeds must not be empty"
    if not fault and any(len(c["ci"]) != 2 for c in summary["criteria"] if c["ci"] is not None):
        fault = "criteria must have a ci of two numbers"
    if fault:
        raise Unusable(f"not a demo's results of this version, run the demo again (summary.json: {fault})")
    names = [figure["name"] for figure in summary["figures"]]
    for figure in summary["figures"]:
        name = figure["name"]
        if not NAME.fullmatch(name) or names.count(name) > 1:
            raise Unusable(f"figures must have names of letters and digits, each another, got {name!r:.60}")
        try:
            figure["svg"] = inline(_text(folder / f"{name}.svg"), f"{folder.name}-{name}", figure["caption"])
        except ValueError as error:
            raise Unusable(f"{name}.svg is not used: {error}") from None
    return summary


def _text(file: Path) -> str:
    """Errors: ValueError, in words."""
    try:
        if not file.is_file():
            raise ValueError(f"there is no file {file.name}")
        if file.stat().st_size > MOST:
            raise ValueError(f"{file.name} is larger than {MOST // 1_000_000} MB")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file.name} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file.name} is no UTF-8 text") from None


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _fault(value: Any, shape: Any, where: str) -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    if isinstance(shape, tuple):
        faults = [_fault(value, choice, where) for choice in shape]
        return "" if "" in faults else faults[0]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where or 'it'} must be an object"
        missing = [name for name in shape if name not in value]
        if missing:
            return f"{where + ' ' if where else ''}lacks {missing[0]!r}"
        return next(filter(None, (_fault(value[n], s, f"{where}.{n}".strip(".")) for n, s in shape.items())), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} must be a list"
        return next(filter(None, (_fault(v, shape[0], f"{where}[{i}]") for i, v in enumerate(value))), "")
    if shape is None:
        return "" if value is None else f"{where} must be null"
    if type(value) is not shape:
        return f"{where} must be {shape.__name__}, got {type(value).__name__}"
    if shape in NUMBER and not _is_finite(value):
        return f"{where} must be a finite number"
    return ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


# --- figures

ELEMENTS = """
svg defs g path clipPath rect use text tspan image pattern linearGradient stop filter feColorMatrix feComposite title
"""
ATTRIBUTES = """
x y x1 y1 x2 y2 width height viewBox transform d opacity fill-opacity stroke-opacity stroke-width stroke-dasharray
stroke-dashoffset version stroke-linejoin stroke-linecap stop-color stop-opacity offset preserveAspectRatio
shape-rendering patternUnits gradientUnits type in in2 operator k1 k2 k3 k4 values result fill stroke text-anchor
"""  # whose values are numbers and words
SPACES = {
    "xmlns": "http://www.w3.org/2000/svg",
    "xmlns:xlink": "http://www.w3.org/1999/xlink",
    "xml:space": "preserve",
}
STYLE = "*{stroke-linejoin: round; stroke-linecap: butt}"  # the only style sheet that matplotlib writes
ID = r"[\w.:-]+"
PLAIN = re.compile(r"[\w\s.,()#%*+-]*", re.ASCII)
LINK = re.compile(rf"#({ID})", re.ASCII)
REFERENCE = re.compile(rf"url\(#({ID})\)", re.ASCII)
PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
DECLARATIONS = re.compile(r"[\w\s.,:;()#%'\"+-]*", re.ASCII)


def inline(svg: str, prefix: str, label: str) -> str:
    """An SVG file as a part of a page: ids of its own, the page's text colour, a label, no size but its shape.

    Errors: ValueError for what is no SVG, or has what matplotlib does not write.
    """
    writer = _Writer(prefix, label)
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = writer.start, writer.end
    parser.CharacterDataHandler = writer.text
    parser.EntityDeclHandler = writer.entity
    parser.buffer_text = True
    try:
        parser.Parse(svg.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML ({error})") from None
    return "".join(writer.parts)


class _Writer:
    """Writes what it is told of, if matplotlib could have written it."""

    def __init__(self, prefix: str, label: str) -> None:
        self.prefix, self.label = prefix, label
        self.parts: list[str] = []
        self.open: list[str] = []

    def entity(self, *declaration: Any) -> None:
        raise ValueError("it declares an entity")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        left_out = "metadata" in self.open or name == "metadata"
        self.open.append(name)
        if len(self.open) > DEEPEST:
            raise ValueError("it is nested too deeply")
        if (len(self.open) == 1) != (name == "svg"):
            raise ValueError("it must be one svg element")
        if left_out:
            return
        if name == "style":
            if attributes not in ({}, {"type": "text/css"}):
                raise ValueError("it has a style sheet of its own")
            self.parts.append("<style>")
            return
        if name not in ELEMENTS.split():
            raise ValueError(f"it has an element that matplotlib does not write, {name!r:.40}")
        words = [f" {key}={quoteattr(self.value(key, value))}" for key, value in attributes.items() if self.kept(key)]
        if name == "svg":
            words.append(self.root(attributes))
        self.parts.append(f"<{name}{''.join(words)}>")

    def kept(self, key: str) -> bool:
        return len(self.open) > 1 or key not in ("width", "height")

    def root(self, attributes: dict[str, str]) -> str:
        """No size but the shape, and a name for who can't see it; below two thirds of its size letters can't be
        read."""
        try:
            width = float(attributes["viewBox"].split()[2])
        except (KeyError, IndexError, ValueError):
            raise ValueError("its viewBox must be four numbers") from None
        if not 0 < width < 1e5:
            raise ValueError(f"its width must be positive and finite, got {width}")
        return f' style="min-width: {0.67 * width:.0f}px" role="img" aria-label={quoteattr(self.label)}'

    def value(self, key: str, value: str) -> str:
        """The value as it is written. Errors: ValueError for one that may do more than draw."""
        if key in SPACES and value == SPACES[key]:
            return value
        if key == "id" and re.fullmatch(ID, value, re.ASCII):
            return f"{self.prefix}-{value}"
        if key in ("href", "xlink:href"):
            if match := LINK.fullmatch(value):
                return f"#{self.prefix}-{match[1]}"
            if self.open[-1] == "image" and PNG.fullmatch(value):
                return value
        elif key in ("clip-path", "fill", "filter", "stroke") and (match := REFERENCE.fullmatch(value)):
            return f"url(#{self.prefix}-{match[1]})"
        elif key == "style" and len(self.open) > 1 and DECLARATIONS.fullmatch(value):
            rest = REFERENCE.sub("", value)
            if "url" not in rest.lower() and "expression" not in rest.lower():
                return REFERENCE.sub(rf"url(#{self.prefix}-\1)", value).replace(INK, "currentColor")
        elif key in ATTRIBUTES.split() and PLAIN.fullmatch(value) and "url" not in value.lower():
            return "currentColor" if value == INK else value
        raise ValueError(f"it has an attribute that matplotlib does not write, {key}={value!r:.60}")

    def text(self, text: str) -> None:
        if "metadata" in self.open:
            return
        if self.open[-1] == "style" and text.strip() != STYLE:
            raise ValueError("it has a style sheet of its own")
        self.parts.append(escape(text))

    def end(self, name: str) -> None:
        left_out = "metadata" in self.open
        self.open.pop()
        if not left_out:
            self.parts.append(f"</{name}>")
