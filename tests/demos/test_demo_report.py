"""The report: what it says follows from the summaries; a real browser shows it without a flaw."""

import copy
import importlib
import inspect
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

for package in ("jinja2", "scipy", "tqdm", "matplotlib", "threadpoolctl"):
    pytest.importorskip(package, reason="demos extra")
import toy_demo  # noqa: E402
from matplotlib import image  # noqa: E402

from demos import laboratory as lab  # noqa: E402
from demos import report  # noqa: E402
from demos.__main__ import DEMOS  # noqa: E402
from demos.ledger import CLAIMS, Claim  # noqa: E402
from demos.plots import INK  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert lab.main([toy_demo.demo(arms=["a", "b"])], ["--workers", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def claims(monkeypatch):
    """Claims about the toy demo: one that its criteria support, one that they don't, one that was not measured."""
    toys = [
        Claim("a is below b", {"toy": ["a below b"]}, "Books say <so>.", "supported", "It is."),
        Claim("there are others", {"toy": ["a below b"], "other_demo": ["c"]}, "", "contested", "Who knows."),
        Claim("a differs from b", {"toy": ["a below b", "b below a"]}, "", "true with conditions", "At times."),
        Claim("b is below a", {"toy": ["a below b", "b below a"]}, "", "refuted", "No, b fails.", fails=("b below",)),
        Claim("b is above a", {"toy": ["a below b"]}, "", "refuted", "No, it fails.", fails=("a below",)),
        Claim("a note will do", {"toy": ["seeds [2000"]}, "", "supported", "It will."),
    ]
    monkeypatch.setattr(report, "CLAIMS", toys)
    return toys


def page(folder, tmp_path, capsys):
    target = tmp_path / "report.html"
    code = report.main(["toy", "other_demo"], ["--out", str(folder), "--html", str(target)])
    assert code == 0, capsys.readouterr().err
    return target.read_text(encoding="utf-8")


class Text(HTMLParser):
    """The text of every table row, and all ids."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.ids, self.links, self.loads = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "tr":
            self.rows.append("")
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.links += [v for k, v in attributes.items() if k in ("href", "xlink:href") and v.startswith("#")]
        self.loads += [
            v for k, v in attributes.items() if k == "src" or (k == "href" and not v.startswith(("#", "data:")))
        ]

    def handle_data(self, data):
        if self.rows:
            self.rows[-1] = " ".join(f"{self.rows[-1]} {data}".split())


def test_a_demo_of_ones_own_is_on_the_page_too_with_its_settings(folder, tmp_path, capsys, claims):
    target = tmp_path / "report.html"
    claims[:] = []  # the ledger speaks of the project's own demos
    assert report.main(["other_demo"], ["--out", str(folder), "--html", str(target)]) == 0
    assert capsys.readouterr().out.startswith("0 of 1 demos, and 1 more in ")
    html = target.read_text(encoding="utf-8")
    assert '<section id="toy">' in html and "<dt>settings</dt><dd>arms a, b</dd>" in html


def test_a_verdict_is_printed_only_where_all_its_criteria_passed(folder, tmp_path, capsys, claims):
    rows = Text(page(folder, tmp_path, capsys)).rows
    below, others, differs, counted, otherwise, noted = (
        next(r for r in rows if f"\N{LEFT DOUBLE QUOTATION MARK}{c.text}" in r) for c in claims
    )
    assert "supported (preliminary) It is." in below and "refuted" not in below and "Books say <so>." in below
    assert "holds toy (quick, 3 seeds) : a below b: \N{MINUS SIGN}1 [\N{MINUS SIGN}1.5, \N{MINUS SIGN}0.5]" in below
    assert "refuted (preliminary) (1 of 2 criteria did not hold) No, b fails." in counted
    assert "not confirmed" not in counted
    assert "measured otherwise" in otherwise and "No, it fails" not in otherwise
    assert "not confirmed here 1 of 2 criteria were refuted" in differs and "At times." not in differs
    assert (
        "toy (quick, 3 seeds) : seeds [2000, 2001, 2002]" in noted
        and "supported (preliminary) (a reading of the notes: no criterion) It will." in noted
    )
    assert "no criterion" not in below
    html = page(folder, tmp_path, capsys)
    assert "</span> It is." in html and "no criterion)</span> It will." in html  # a space between
    assert "undecided : other_demo was not run." in others and rows[6].endswith(others), "undecided claims come last"
    assert "other_demo was not run in this folder" in others and "Who knows" not in others


@pytest.mark.parametrize(
    ("change", "preliminary"),
    [
        ({}, False),
        ({"preset": "quick"}, True),
        ({"preset": "mine"}, True),
        ({"dataset": "glyphs"}, True),
        ({"usual_seeds": 4}, True),
    ],
)
def test_a_verdict_is_preliminary_unless_the_demo_was_run_as_planned(
    folder, tmp_path, capsys, claims, change, preliminary
):
    shutil.copytree(folder / "toy", tmp_path / "toy")
    file = tmp_path / "toy" / "summary.json"
    summary = json.loads(file.read_text())
    assert summary["usual_seeds"] == 3
    file.write_text(json.dumps({**summary, "preset": "full", **change}))
    assert ("(preliminary)" in page(tmp_path, tmp_path, capsys)) == preliminary


def test_a_page_per_demo_with_question_design_criteria_and_table(folder, tmp_path, capsys, claims):
    html = page(folder, tmp_path, capsys)
    text = Text(html)
    assert "A demo that trains nothing, for the tests of the laboratory" in html
    assert "refuted b below a as it should be 1 [0.5, 1.5] &lt; 0".replace("&lt;", "<") in text.rows
    assert any(row.startswith("undecided no interval not defined [not defined, not defined]") for row in text.rows)
    assert "A toy concludes nothing." in html and "The error of each arm." in html
    summary = json.loads((folder / "toy" / "summary.json").read_text())
    assert [" ".join(line) for line in summary["table"]] == text.rows[-3:]


def test_lists_in_a_question_are_lists(folder, tmp_path, capsys, claims):
    out = tmp_path / "results"
    shutil.copytree(folder, out)
    summary = json.loads((out / "toy" / "summary.json").read_text())
    summary["question"] = """What is it? A sentence
- with a dash, and
(a) with a letter.

- the first,
  of two lines;
- the second

(a) One <b>.
    And more of it.
(b) Two.

    ||y|| = 1
        for every y
    x = 2

    python -m demos.toy"""
    (out / "toy" / "summary.json").write_text(json.dumps(summary))
    html = page(out, tmp_path, capsys)
    assert "<p>What is it? A sentence - with a dash, and (a) with a letter.</p>" in html
    assert "<ul>\n<li>the first, of two lines;</li>\n<li>the second</li>\n</ul>" in html
    assert "<ul>\n<li>(a) One &lt;b&gt;. And more of it.</li>\n<li>(b) Two.</li>\n</ul>" in html
    assert '<p class="line">||y|| = 1 for every y</p>\n<p class="line">x = 2</p>' in html
    assert '<p class="line"><code>python -m demos.toy</code></p>' in html


@pytest.mark.parametrize("name", DEMOS)
def test_every_line_of_a_question_is_in_the_page_once(name):
    text = inspect.getdoc(importlib.import_module(f"demos.{name}"))
    found = " ".join(line for _, texts in report.blocks(text) for line in texts)
    assert [w for w in found.split() if w != "-"] == [w for w in text.split() if w != "-"]  # but for the dashes


def test_the_page_needs_nothing_else_and_is_consistent(folder, tmp_path, capsys, claims):
    html = page(folder, tmp_path, capsys)
    text = Text(html)
    assert text.loads == [] and "@import" not in html and "url(http" not in html and "<script" not in html
    assert len(text.ids) == len(set(text.ids))  # figures, too: each has ids of its own
    assert {link[1:] for link in text.links} <= set(text.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(text.ids)
    assert INK not in html and "currentColor" in html


def test_a_criterion_that_does_not_exist_is_an_error(folder, tmp_path, capsys, claims):
    claims.append(Claim("typo", {"toy": ["a belwo b"]}, "", "supported", ""))
    arguments = ["--out", str(tmp_path), "--html", str(tmp_path / "x.html")]
    shutil.copytree(folder / "toy", tmp_path / "toy")
    assert report.main(["toy"], arguments) == 0  # of a quick preset, which may leave it out
    summary = json.loads((tmp_path / "toy" / "summary.json").read_text())
    (tmp_path / "toy" / "summary.json").write_text(json.dumps({**summary, "preset": "full"}))
    assert report.main(["toy"], arguments) == 1
    assert "names what toy has not measured: 'a belwo b'" in capsys.readouterr().err
    row = next(r for r in Text((tmp_path / "x.html").read_text()).rows if "typo" in r)
    assert "undecided : toy was not run." in row


def test_bad_folders_are_refused(folder, tmp_path, capsys):
    assert report.main(["toy"], ["--out", str(tmp_path)]) == 2
    assert "has no results" in capsys.readouterr().err
    shutil.copytree(folder / "toy", tmp_path / "toy")
    summary = json.loads((tmp_path / "toy" / "summary.json").read_text())
    for broken in ({**summary, "figures": [{"name": "toy"}]}, [], {k: v for k, v in summary.items() if k != "figures"}):
        (tmp_path / "toy" / "summary.json").write_text(json.dumps(broken))
        assert report.main(["toy"], ["--out", str(tmp_path)]) == 2
        assert "not a demo's results of this version" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["summary", "figure", "nothing", "link to nowhere"])
def test_one_folder_that_is_no_demos_leaves_the_others_on_the_page(folder, tmp_path, capsys, claims, what):
    shutil.copytree(folder / "toy", tmp_path / "toy")
    shutil.copytree(folder / "toy", tmp_path / "other_demo")
    victim = tmp_path / "other_demo" / {"figure": "toy.svg"}.get(what, "summary.json")
    victim.unlink()
    if what == "summary":
        victim.write_text('{"name": "something else"}')
    elif what == "nothing":
        victim.mkdir()
    elif what == "link to nowhere":
        victim.symlink_to(tmp_path / "nowhere")
    reasons = {
        "summary": "lacks 'demo'",
        "figure": "there is no file toy.svg",
        "nothing": "there is no file summary.json",
    }
    target = tmp_path / "report.html"
    assert report.main(["toy", "other_demo"], ["--out", str(tmp_path), "--html", str(target)]) == (
        0 if what == "link to nowhere" else 1
    )
    html, err = target.read_text(), capsys.readouterr().err
    assert '<section id="toy">' in html and '<section id="other_demo">' not in html
    if what != "link to nowhere":
        words = html.split("The folder other_demo is left out: ")[1].split("</p>")[0].replace("&#39;", "'")
        assert reasons[what] in words and f"{tmp_path / 'other_demo'} is left out: " in err and reasons[what] in err


def test_what_users_write_is_escaped(folder, tmp_path, capsys, claims):
    shutil.copytree(folder / "toy", tmp_path / "toy")
    summary = json.loads((tmp_path / "toy" / "summary.json").read_text())
    evil = copy.deepcopy(summary) | {
        "claim": "<script>alert(1)</script>",
        "notes": [*summary["notes"], '"><img src=x onerror=alert(1)>'],
    }
    evil["figures"][0]["caption"] = '"><img src=x onerror=alert(1)>'
    (tmp_path / "toy" / "summary.json").write_text(json.dumps(evil))
    html = page(tmp_path, tmp_path, capsys)
    assert "<script" not in html and "<img" not in html


def test_the_ledger_names_demos_that_exist_and_known_verdicts():
    assert {demo for claim in CLAIMS for demo in claim.evidence} <= set(DEMOS)
    for claim in CLAIMS:
        assert claim.verdict in ("supported", "refuted", "contested", "true with conditions")
        assert claim.text and claim.reason and claim.literature and claim.evidence


# a real browser


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium, and Debian's chromium-driver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium or chromedriver: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-component-update", "disable-sync", "disable-quic", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture(params=["toy", "all demos"])
def results(request):
    """A folder of results: the toy's; and one of the demos, where DEMO_RESULTS names one (it takes minutes)."""
    if request.param == "toy":
        request.getfixturevalue("claims")
        return request.getfixturevalue("folder"), ["toy"]
    if "DEMO_RESULTS" not in os.environ:
        pytest.skip("DEMO_RESULTS names no folder of results of python -m demos all")
    folder = Path(os.environ["DEMO_RESULTS"])
    names = [name for name in DEMOS if (folder / name / "summary.json").is_file()]
    assert names
    return folder, names


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(results, tmp_path, browser, width, scheme):
    folder, names = results
    assert report.main(names, ["--out", str(folder), "--html", str(tmp_path / "report.html")]) == 0
    shown = sum(len(report.read(folder / name)["figures"]) for name in names)
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    dark = scheme == "dark"
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == dark
    figures = browser.find_elements("css selector", ".plot")
    assert len(figures) == shown >= len(names)
    for figure in figures:
        file = tmp_path / "figure.png"
        file.write_bytes(figure.screenshot_as_png)
        pixels = image.imread(file)[..., :3].mean(axis=2)
        assert min(pixels.shape) > 100
        paper = np.median(pixels)
        assert (paper < 0.5) == dark
        assert (np.abs(pixels - paper) > 0.3).mean() > 0.005  # lines and letters, in a colour that can be seen


def test_on_paper(folder, tmp_path, browser, claims):
    """Paper has no scroll bars: wide tables must fit, and the ledger stays a table."""
    shutil.copytree(folder / "toy", tmp_path / "toy")
    file = tmp_path / "toy" / "summary.json"
    wide = [["arm", *(f"error % at {i}" for i in range(12))], ["BN", *["1.23 [1.11, 1.35]"] * 12]]
    file.write_text(json.dumps({**json.loads(file.read_text()), "table": wide}))
    assert report.main(["toy"], ["--out", str(tmp_path), "--html", str(tmp_path / "report.html")]) == 0
    a4 = {"width": 717, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # less the margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.get((tmp_path / "report.html").as_uri())
    hidden = "return [...document.querySelectorAll('.raw, .plot')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.execute_script(hidden) == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 717
    heading = "return getComputedStyle(document.querySelector('.ledger thead')).display"
    assert browser.execute_script(heading) == "table-header-group"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
