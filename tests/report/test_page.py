"""The page: self-contained, complete, written whole; its viewer in a real browser."""

import base64
import dataclasses
import errno
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ldct_jax.errors import DataError, LdctError, UsageError
from ldct_jax.hu import FULL
from ldct_jax.metrics.noise import power_spectrum
from ldct_jax.metrics.quality_phantom import QualityPhantom, measure
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.record import to_record
from ldct_jax.report import figures, page, physics, tables, viewer
from ldct_jax.study import claims
from tests.conftest import require
from tests.report.made_up import found

LOW, HIGH = 40, 240


def stacks(n=4, height=48, width=64):
    """Constant slices, so that a pixel tells its stack and slice: HU = base + slice."""
    index = np.arange(n)[:, None, None] * np.ones((n, height, width))
    return {"low <dose>": index - 1000, "output": index + LOW, "normal dose": index + HIGH}


def report(**changes) -> page.Report:
    table = tables.Table("table_1", "Table I", [tables.Column("m")], [["x < y"]], "pcn", "phantoms")
    figure = figures.by_clone("fig_7", "PSNR by clone", {"PCN": [1.0, 2.0]}, caption="cap & tion")
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


def unpacked(text: str, shape: tuple[int, int]) -> np.ndarray:
    """What the page makes of a packed slice, in steps."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, *shape)
    zigzag = planes[0].astype(int) + 256 * planes[1].astype(int)
    values = np.zeros((shape[0] + 1, shape[1] + 1), int)
    for y, x in np.ndindex(shape):
        a, b, c = values[y + 1, x], values[y, x + 1], values[y, x]
        error = (zigzag[y, x] >> 1) ^ -(zigzag[y, x] & 1)
        new = int(np.median([a, b, a + b - c])) + error
        values[y + 1, x + 1] = (new + 32768) % 65536 - 32768
    return values[1:, 1:]


def test_the_viewers_pixels_are_the_images_rounded_to_steps():
    image = np.random.default_rng(0).normal(0, 400, (12, 9))
    image[3, 4], image[5, 5] = 1e6, -1e6
    for step in (1, 4):
        expected = np.clip(np.rint(image / step), -32768, 32767)
        assert (unpacked(viewer.pack(image, step), image.shape) == expected).all()


def test_the_viewer_keeps_to_its_size_and_says_so():
    noisy = {"a": np.random.default_rng(0).normal(0, 50, (20, 48, 64))}
    whole = sum(len(t) for _, t in viewer.Viewer(noisy, "c").embedded().packed) / 1e6
    coarser = viewer.Viewer(noisy, "c", max_megabytes=0.9 * whole, steps=(1, 2, 4)).embedded()
    assert coarser.data["step"] == 2 and coarser.data["shape"][0] == 20
    fewer = viewer.Viewer(noisy, "Noise.", max_megabytes=0.27 * whole)
    data = fewer.embedded().data
    assert data["step"] == 1 and data["slices"] == [1, 6, 11, 15, 20] and data["of"] == 20
    assert "Noise. 5 of 20 slices are shown" in report(viewer=fewer).html()
    with pytest.raises(UsageError, match="exceeds"):
        viewer.Viewer(noisy, "c", max_megabytes=0.001).embedded()


def test_what_the_viewer_refuses():
    with pytest.raises(UsageError, match="one shape"):
        viewer.Viewer({"a": np.zeros((2, 3, 4)), "b": np.zeros((1, 3, 4))}, "c")
    with pytest.raises(DataError, match="'b' holds NaN"):
        viewer.Viewer({"a": np.zeros((2, 3, 4)), "b": np.full((2, 3, 4), np.nan)}, "c")


# What a reader does, each step's outcome as JSON in #result.
ACTIONS = Path(__file__).with_name("viewer_actions.js")


def browser() -> str:
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    require(found is not None, "chromium is not installed")
    return found


def in_browser(path: Path, script: str, width: int):
    """What ``script`` writes as JSON into the page's #result."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={path.parent / 'profile'}", f"--window-size={width},900"]
    script = f'<pre id="result"></pre><script>{script}</script></body>'
    path.write_text(path.read_text().replace("</body>", script))
    command += ["--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert text and text[1], done.stderr[-2000:]
    return json.loads(text[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


WIDTHS = """document.getElementById("result").textContent = JSON.stringify(
  [...document.querySelectorAll(".table")].map((d) => [d.scrollWidth, d.clientWidth]))"""


def test_no_table_scrolls_sideways_at_1300_pixels(tmp_path):
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
    sizes = in_browser(path, WIDTHS, width=1300)
    assert len(sizes) == 4, "two tables, claims, wall time"
    assert all(inner <= outer for inner, outer in sizes), sizes


def test_the_viewer_in_a_browser(tmp_path):
    out = in_browser(report().write(tmp_path), ACTIONS.read_text(), width=1000)
    assert "error" not in out, out

    def grey(hu, low, high):
        value = min(255, max(0, round(255 * (hu - low) / (high - low))))
        return pytest.approx([value, value, value, 255], abs=1)

    start = out["start"]
    assert start["l"] == grey(-1000, -160, 240) and start["r"] == grey(HIGH + 2, -160, 240)
    assert (start["low"], start["high"], start["slice"], start["wipe"]) == (
        "-160",
        "240",
        "2",
        "0.5",
    )
    assert out["wiped"]["r"] == grey(-1000, -160, 240), "the border moved over the point"
    assert out["left_output"]["l"] == grey(LOW + 3, -160, 240)
    assert out["lung"]["l"] == grey(LOW + 3, -1350, 150) and out["lung"]["low"] == "-1350"
    assert out["typed"]["l"] == grey(LOW + 3, 40, 240)
    assert out["typed"]["r"] == grey(HIGH + 3, 40, 240)
    assert float(out["zoomed"]["zoom"]) == 1.5
    # Dragging by a tenth of the canvas moves the centre by 64 / 10 / 1.5 pixels the other way.
    assert float(out["panned"]["x"]) == pytest.approx(32 - 64 / 10 / 1.5, abs=0.1)
    assert out["panned"]["wipe"] == "0.5"
    assert (out["fit"]["zoom"], out["fit"]["x"]) == ("1", "32")
    assert float(out["dragged"]["wipe"]) == pytest.approx(0.25, abs=0.01)
    assert out["readout"].startswith("row 24, column 51: low <dose> -997 HU · output 43 HU")
    # The wheel keeps the point under the pointer: the image's corner stays in the corner.
    wheel = out["wheel"]
    assert float(wheel["zoom"]) == pytest.approx(1.2)
    assert float(wheel["x"]) == pytest.approx(32 / 1.2, abs=0.1)
    assert out["keys"]["slice"] == "2" and float(out["keys"]["wipe"]) == pytest.approx(
        0.27, abs=0.01
    )
    assert out["labels"] == ["output", "normal dose", "3 of 4"]
    last = stacks()["normal dose"][2, 3:19, 5:21]
    assert out["numbers"][1][:2] == [last.mean(), last.std(ddof=1)]
    assert out["numbers"][2][0] == HIGH - LOW, "right - left"
    assert out["shape"] == [pytest.approx(64 / 48, rel=0.01), 3]


SPECTRUM = """window.addEventListener("load", () => setTimeout(async () => {
  const root = document.getElementById("viewer");
  const part = (role) => root.querySelector(`[data-role="${role}"]`);
  for (const [role, value] of [["row", 3], ["column", 5], ["side", 20]]) {
    part(`square-${role}`).value = value;
  }
  part("square-side").dispatchEvent(new Event("change"));
  while (!part("spectra").dataset.curves) await new Promise((done) => setTimeout(done, 5));
  document.getElementById("result").textContent = part("spectra").dataset.curves;
}, 200))"""


def test_the_squares_spectrum_is_that_of_the_package(tmp_path):
    noise = np.random.default_rng(0).normal(0, 50, (1, 48, 64)).round()
    shown = viewer.Viewer({"a": noise}, "c", pixel_mm=0.7)
    path = report(viewer=shown).write(tmp_path)
    (curve,) = in_browser(path, SPECTRUM, width=1000)
    expected = power_spectrum(noise[:, 3:23, 5:25], 0.7)
    np.testing.assert_allclose(curve["nps"], expected.nps, rtol=1e-9)
    np.testing.assert_allclose(curve["frequency"], expected.frequency_per_mm, rtol=1e-12)
    assert curve["mean"] == pytest.approx(expected.mean_per_mm)
