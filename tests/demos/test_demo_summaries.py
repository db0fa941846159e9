"""What the report reads may be written by anybody: a page or a sentence, and nothing alive in the page."""

import copy
import functools
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

for package in ("jinja2", "scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
import toy_demo  # noqa: E402

from demos import laboratory as lab  # noqa: E402
from demos import plots, report, summaries  # noqa: E402
from demos.ledger import Claim  # noqa: E402

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert lab.main([toy_demo.demo(arms=["a", "b"])], ["--workers", "1", "--out", str(out)]) == 0
    return out / "toy"


@pytest.fixture
def out(toy, tmp_path, monkeypatch):
    """Results of two demos, the second to be damaged."""
    monkeypatch.setattr(report, "CLAIMS", [Claim("a is below b", {"bad": ["a below b"]}, "", "supported", "It is.")])
    for name in ("good", "bad"):
        shutil.copytree(toy, tmp_path / name)
    return tmp_path


class Alive(HTMLParser):
    """All that a page could run or load."""

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "foreignobject", "img", "animate", "set", "a:script", "base"):
            self.found.append(tag)
        for name, value in attributes:
            outside = name in ("href", "xlink:href", "src", "action") and not re.match(
                r"#|data:,|data:image/png", value
            )
            if (
                name.startswith("on")
                or name == "srcdoc"
                or outside
                or re.search(r"url\((?!#)|javascript:", value or "")
            ):
                self.found.append((tag, name, value))


@functools.cache  # many pages are alike
def alive(html):
    return Alive(html).found


def written(out, capsys):
    """The page, or "" and a sentence."""
    target = out / "page.html"
    target.unlink(missing_ok=True)
    code = report.main(["good", "bad"], ["--out", str(out), "--html", str(target)])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code == 2:
        assert err and not target.exists()
        return ""
    html = target.read_text(encoding="utf-8")
    assert (code == 1) == bool(err) and alive(html) == []
    assert '<section id="good">' in html
    assert ("The folder bad is left out" in html) == ('<section id="bad">' not in html)
    return html


def places(value, path=()):
    """The path of every field and item."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in children:
        yield from places(item, (*path, key))


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


OTHERS = [
    None, True, 0, -1, 10**400, -1e308, 0.5, "", EVIL, "x" * 10_000, "\ud800", "\0", "{{ 7 * 7 }}", "../../etc/passwd",
    [], [None], ["a"], [[]], {}, {"": 1}, deep(50), deep(900),
]  # fmt: skip


def test_every_field_of_a_summary_deleted_and_replaced(out, capsys, figure):
    """One field at a time: a page with the other demo in it, always."""
    file = out / "bad" / "summary.json"
    summary, tried, pages = json.loads(file.read_text()), 0, 0
    for path in places(summary):
        if path and ((path[0] in ("arms", "settings", "versions") and len(path) > 2) or {*path} & {1, 2}):
            continue  # what the page does not show, and second items of lists
        for other in ["delete", *OTHERS]:
            edited = copy.deepcopy(summary)
            inside = edited
            for key in path[:-1]:
                inside = inside[key]
            if not path:
                edited = other
            elif other == "delete":
                del inside[path[-1]]
            else:
                inside[path[-1]] = other
            file.write_text(json.dumps(edited))
            html = written(out, capsys)
            assert html, (path, other)
            tried += 1
            pages += '<section id="bad">' in html
    assert tried > 400 and 50 < pages < tried
    figure("edits of one field of a summary: a page with the rest of it, and nothing alive in it", tried)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", "NaN", '{"a": 1e999}', "\ufeff{}", "null", '"x"', "1" * 5000, '{"a": 1} x']
)
def test_a_summary_that_is_no_json(out, capsys, text):
    (out / "bad" / "summary.json").write_text(text, encoding="utf-8")
    assert "The folder bad is left out: " in written(out, capsys)


def test_bytes_and_sizes_that_are_no_summary(out, capsys, monkeypatch):
    (out / "bad" / "summary.json").write_bytes(bytes(range(256)))
    assert "summary.json is no UTF-8 text" in written(out, capsys)
    monkeypatch.setattr(summaries, "MOST", (out / "good" / "toy.svg").stat().st_size)
    (out / "bad" / "summary.json").write_text(" " * (summaries.MOST + 1))
    assert "summary.json is larger than" in written(out, capsys)


@pytest.mark.parametrize("name", [EVIL.replace("/", ""), "a b", "ä", '"x', ".hidden", "1"])
def test_a_folder_whose_name_is_no_id(out, capsys, name):
    (out / "bad").rename(out / name)
    html = written_with(out, capsys)
    assert "the folder&#39;s name must be letters" in html


def written_with(out, capsys):
    target = out / "page.html"
    assert report.main(["good"], ["--out", str(out), "--html", str(target)]) == 1
    html = target.read_text(encoding="utf-8")
    assert Alive(html).found == [] and '<section id="good">' in html
    return html


def test_the_name_that_a_summary_gives_itself_is_not_believed(out, capsys):
    file = out / "bad" / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "demo": EVIL}))
    assert '<section id="bad">' in written(out, capsys)


# figures

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 100 50">%s</svg>'
REFUSED = {
    "a script": "<script>alert(1)</script>",
    "a script with a prefix": '<x:script xmlns:x="http://www.w3.org/2000/svg">alert(1)</x:script>',
    "an event": '<g onclick="alert(1)"/>',
    "an event in capitals": '<g ONLOAD="alert(1)"/>',
    "HTML": '<foreignObject><body xmlns="http://www.w3.org/1999/xhtml">x</body></foreignObject>',
    "a link": '<a xlink:href="https://example.org"><path d="M 0 0"/></a>',
    "a script as a link": '<use xlink:href="javascript:alert(1)"/>',
    "a part of another file": '<use xlink:href="https://example.org/x.svg#a"/>',
    "an image from elsewhere": '<image xlink:href="https://example.org/x.png"/>',
    "an image that is SVG": '<image xlink:href="data:image/svg+xml;base64,AAAA"/>',
    "an animation": '<animate attributeName="href" to="javascript:alert(1)"/>',
    "a change": '<set attributeName="onmouseover" to="alert(1)"/>',
    "a style sheet": "<style>body { display: none }</style>",
    "a style sheet from elsewhere": "<style>@import url(https://example.org/x.css);</style>",
    "a background from elsewhere": '<path style="fill: url(https://example.org/x.svg#a)"/>',
    "a background with an escape": '<path style="fill: u\\72l(https://example.org)"/>',
    "a fill from elsewhere": '<path fill="url(https://example.org/x.svg#a)"/>',
    "a class": '<g class="verdict"/>',
    "an id with a space": '<g id="a b"/>',
    "an id with a quote": "<g id='\"&gt;&lt;script&gt;'/>",
    "HTML's own elements": "<img src='x'/>",
    "an unknown name space": '<g xmlns="http://www.w3.org/1999/xhtml"/>',
    "depth": "<g>" * 200 + "</g>" * 200,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_matplotlib_does_not_write_is_refused(out, capsys, what):
    (out / "bad" / "toy.svg").write_text(SVG % REFUSED[what])
    assert "The folder bad is left out: toy.svg is not used: " in written(out, capsys)


ENTITIES = "".join(f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
BOMB = f'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">{ENTITIES}]><svg viewBox="0 0 1 1"><title>&j;</title></svg>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<svg",
        "<html></html>",
        BOMB,
        '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg viewBox="0 0 1 1"><title>&x;</title></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"/>',
        '<svg viewBox="0 0 nan 1"/>',
        '<svg viewBox="0 0 1e999 1"/>',
        '<svg viewBox="0 0 1 1" style="position: fixed"/>',
        '<svg viewBox="0 0 1 1" onload="alert(1)"/>',
        '<svg viewBox="0 0 1 1"><svg viewBox="0 0 1 1"/></svg>',
    ],
)
def test_what_is_no_figure_is_refused(out, capsys, text):
    (out / "bad" / "toy.svg").write_text(text)
    assert "The folder bad is left out: toy.svg is not used: " in written(out, capsys)


def test_text_stays_text(out, capsys):
    (out / "bad" / "toy.svg").write_text(SVG % "<text x='1'>&lt;script&gt;alert(1)&lt;/script&gt;</text>")
    assert '<text x="1">&lt;script&gt;alert(1)&lt;/script&gt;</text>' in written(out, capsys)


def test_all_that_matplotlib_draws_passes():
    """Lines, bands, hatches, images, meshes, both kinds of text; ids and links of the figure's own."""
    import io

    import numpy as np

    with plots.style():
        fig, axes = plots.plt.subplots(2, 3)
        a, b, c, d, e, f = axes.flat
        plots.line_with_band(a, [1, 2], [[1, 2], [2, 4]], "γ < 1 & $x^2$")
        a.legend()
        b.bar([1, 2], [3, 4], hatch="//", alpha=0.5)
        c.imshow(np.eye(3))
        d.contourf(np.outer(range(4), range(4)))
        d.scatter([1, 2], [1, 2], c=["r", "b"])
        e.tripcolor([0, 1, 0], [0, 0, 1], [1.0, 2.0, 3.0], shading="gouraud")
        f.set(xscale="log", yscale="log", title="<title>")
        f.plot([1, 10], [1, 10], "--", dashes=(3, 1))
        f.annotate("here", (2, 2), (5, 5), arrowprops={"arrowstyle": "->"})
        for kind in ("path", "none"):
            file = io.StringIO()
            with plots.plt.rc_context({"svg.fonttype": kind}):
                fig.savefig(file, format="svg", metadata={"Date": None})
            svg = file.getvalue()
            html = summaries.inline(svg, "p", '"A < B"')
            ids = re.findall(r'\bid="([^"]+)"', html)
            assert len(ids) == len(set(ids)) == len(set(re.findall(r'\bid="([^"]+)"', svg)))
            used = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
            assert used and used <= set(ids) and all(i.startswith("p-") for i in ids)
            assert "metadata" not in html and plots.INK not in html and "currentColor" in html
            assert html.count("<path") == svg.count("<path") and html.count("<use") == svg.count("<use")
            assert "aria-label=\"'" not in html and "A &lt; B" in html.split(">")[0]
        plots.plt.close(fig)
