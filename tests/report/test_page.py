"""The page: self-contained, complete, written whole, and in a real browser."""

import base64
import dataclasses
import errno
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.hu import FULL
from ldct_jax.metrics.quality_phantom import QualityPhantom, measure
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.record import to_record
from ldct_jax.report import figures, page, physics, tables, viewer
from ldct_jax.study import claims
from tests.report.made_up import found

LOW, HIGH = 40, 240


def stacks(n=4, height=48, width=64):
    """Constant slices, so that a pixel tells its stack and slice: HU = base + slice."""
    index = np.arange(n)[:, None, None] * np.ones((n, height, width))
    return {"low <dose>": index - 1000, "output": index + LOW, "normal dose": index + HIGH}


def report(**changes) -> page.Report:
    table = tables.Table("table_1", "Table I", [tables.Column("m")], [["x < y"]], "pcn", "phantoms")
    curve = figures.Curve("PCN", [1, 2], [1.0, 2.0])
    figure = figures.lines("fig_7", "PSNR by clone", [curve], "clone", "dB", caption="cap & tion")
    values = {
        "title": "PCN <ablation>",
        "intro": "First & foremost.\n\nSecond.",
        "sections": [page.Section("Quality", "One.\n\nTwo.", [table], [figure])],
        "claims": [
            claims.judge("FT helps", "gain", [0.3, 0.31, 0.32], "dB", above=0.0),
            claims.untested("PO", "no row"),
        ],
        "provenance": page.Provenance(
            data="phantoms",
            protocol="pcn",
            scale="demo",
            commands=["make train EXP=pcn_ablation"],
            versions={"jax": "0.10.2", "numpy": "2.4"},
            device="2 CPU cores",
            wall_seconds={"compile": 10.0, "train": 30.0},
            extra={"seeds": "0, 1, 2"},
        ),
        "viewer": viewer.Viewer(stacks(), "Phantom 3."),
    }
    return page.Report(**(values | changes))


class Links(HTMLParser):
    """Everything a page would fetch, and the balance of its elements."""

    VOID = {"meta", "link", "img", "input", "br"}

    def __init__(self):
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v[:1] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.core
def test_the_page_is_one_file_that_fetches_nothing(tmp_path):
    path = report().write(tmp_path / "runs" / "exp")
    text = path.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert links.open == [] and len(links.fetched) == 2
    assert all(link.startswith("data:") for link in links.fetched)
    assert "http" not in text and "@import" not in text and "url(" not in text


def test_everything_it_was_given_stands_on_it():
    text = report().html()
    for wanted in (
        "PCN &lt;ablation&gt;",
        "<p>First &amp; foremost.</p>\n<p>Second.</p>",
        "x &lt; y",
        "Protocol: pcn. Data: phantoms.",
        "cap &amp; tion",
        'class="verdict held">held<',
        'class="verdict untested">untested</span> <small>no row</small>',
        "0.31 dB, 95% interval 0.285 to 0.335 (3 seeds)",
        "make train EXP=pcn_ablation",
        "jax 0.10.2, numpy 2.4",
        "<dt>seeds</dt><dd>0, 1, 2</dd>",
        '>10.0</td><td class="number">25<',
        '>40.0</td><td class="number">100<',
        "Phantom 3.",
    ):
        assert wanted in text, wanted
    png = report().sections[0].figures[0].png
    assert base64.b64encode(png).decode() in text
    assert report().html() == text


def test_a_page_may_lack_claims_and_viewer():
    text = report(claims=[], viewer=None).html()
    assert 'id="claims"' not in text and "viewer" not in text.split("</style>")[1]


def test_tables_and_figures_are_files_too(tmp_path):
    report().write(tmp_path)
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert written == [
        "figures/fig_7.png",
        "report.html",
        *(f"tables/claims.{e}" for e in ("csv", "json", "md")),
        *(f"tables/table_1.{e}" for e in ("csv", "json", "md")),
    ]
    first = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    report().write(tmp_path)
    assert first == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert json.loads((tmp_path / "tables/claims.json").read_text())["rows"][0]["verdict"] == "held"


def test_two_tables_of_one_name_are_refused(tmp_path):
    twice = [*report().sections, *report().sections]
    with pytest.raises(UsageError, match="two tables"):
        report(sections=twice).write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_page(tmp_path, monkeypatch):
    path = report(title="old").write(tmp_path)

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LdctError, match="is full"):
        report(title="new").write(tmp_path)
    assert "<title>old</title>" in path.read_text()


def test_the_observers_channels_are_those_that_were_recorded():
    new, old = {"d_prime": 1.4, "n_channels": 5}, {"d_prime": 1.4}
    blind = {"d_prime": None, "n_channels": None}
    assert physics._channels({"a": [new], "b": [blind]}) == "5 Laguerre-Gauss channels"
    assert physics._channels({"a": [new], "b": [old]}) == "Laguerre-Gauss channels"


WIDTHS = """[...document.querySelectorAll(".table")].map((d) => [d.scrollWidth, d.clientWidth])"""


def test_no_table_scrolls_sideways_at_1300_pixels(browser, tmp_path):
    phantom = QualityPhantom(size=64, pixel_mm=5.0, noise_hu=50.0)
    record = dataclasses.asdict(measure(phantom, lambda x: x))
    record["phantom"] = dataclasses.asdict(phantom)
    row = "DnCNN, all layers tuned"
    given = found({row: [35.0]}, quality={row: [record]})
    rows = given.results.references
    given.results.study["reference_quality"] = {"0": dict.fromkeys(rows, record)}
    given.results.study["window"] = to_record(FULL)
    spread = MeanSD(43.5824, 1.1476, 3)
    columns = [tables.Column(f"{m}{p}") for p in ("", ", paper") for m in ("PSNR", "SSIM", "RMSE")]
    row = ["MSE cascade A, A (D), 0.7 blended", 1_234_567, *[spread] * 6, 12.3]
    heads = [tables.Column("model"), tables.Column("parameters"), *columns, tables.Column("time")]
    wide = tables.Table("wide", "Table III", heads, [row], "pcn", "phantoms")
    path = report(sections=[page.Section("All", tables=[wide]), physics.section(given)]).write(
        tmp_path
    )
    browser.open(path, width=1300)
    sizes = browser.js(WIDTHS)
    assert len(sizes) == 4, "two tables, claims, wall time"
    assert all(inner <= outer for inner, outer in sizes), sizes


def test_the_viewer_of_a_report(browser, tmp_path):
    """It is the page of `ldct view`, of which tests/report/test_viewer.py tries everything."""
    browser.open(report().write(tmp_path))
    canvas = "document.querySelector('#viewer canvas')"
    browser.js(f"{canvas}.scrollIntoView()")
    browser.wait("!!document.getElementById('viewer').dataset.drawn")
    box = browser.js(f"(({canvas}).getBoundingClientRect().toJSON())")
    place = box["left"] + box["width"] * 0.9, box["top"] + box["height"] * 0.5
    browser.wheel(*place, 100)
    browser.move(*place)
    told = "row 24, column 57: low <dose> -997 HU · output 43 HU · normal dose 243 HU"
    browser.wait(f"document.querySelector('[data-role=readout]').textContent === '{told}'")
