"""``ldct view``: what the page holds, and what is refused."""

import json
import re

import numpy as np
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.data.embedded import Phantoms, write_phantoms
from ldct_jax.report.viewer import pack
from tests.dicom_fixtures import anatomy, damage_pixels, noisy, write_series


def data_of(page) -> dict:
    return json.loads(re.search(r'id="viewer-data">(.*?)</script>', page.read_text(), re.S)[1])


@pytest.mark.promise("view")
def test_a_series_and_its_result_and_no_name_of_anything(tmp_path):
    hu = noisy(anatomy(0, n=3), 20, 0)
    write_series(tmp_path / "Doe_Jane", hu)
    np.save(tmp_path / "Doe_result.npy", hu.astype(np.float32))
    out = tmp_path / "page.html"
    command = ["view", str(tmp_path / "Doe_Jane"), str(tmp_path / "Doe_result.npy")]
    assert cli([*command, "--out", str(out)]) == 0
    data = data_of(out)
    assert data["labels"] == ["before", "after"] and data["step"] == 1 and data["of"] == 3
    assert "Doe" not in out.read_text()
    assert cli([*command, "--out", str(out)]) == 2, "exists"
    assert cli([*command, "--out", str(out), "--overwrite", "--slices", "2:3"]) == 0
    assert data_of(out)["of"] == 2


def shown(page) -> list[str]:
    """The packed slices of a page, slice by slice, of every stack in turn."""
    return re.findall(r'data-packed="[^"]+">([^<]+)<', page.read_text())


def packed(*stacks) -> list[str]:
    return [pack(image, 1) for images in zip(*stacks, strict=True) for image in images]


def test_of_several_series_one_is_chosen_by_number_and_its_partner_by_place(tmp_path, capsys):
    one, other = (noisy(anatomy(seed, n=3), 20, 0) for seed in (0, 1))
    after, elsewhere = noisy(anatomy(1, n=3), 5, 0), noisy(anatomy(2, n=3), 5, 0)
    for folder, hu, z0, number in (
        ("before/a", one, 0, 4),
        ("before/b", other, 40, 7),
        ("after of b/ü", after, 40, 1007),
        ("after of b/c", elsewhere, 400, 9),
    ):
        write_series(tmp_path / folder, hu, z0=float(z0), SeriesNumber=str(number))
    view = ["view", str(tmp_path / "before"), "--out", str(tmp_path / "page.html")]
    assert cli(view) == 2
    assert "holds 2 series, of which 2 would do" in (told := capsys.readouterr().err)
    assert "as --series N (here: 4, 7)" in told
    assert cli([*view, "--series", "5"]) == 2
    assert "of which 0 would do" in capsys.readouterr().err
    assert cli([*view, "--series", "4"]) == 0
    assert shown(tmp_path / "page.html") == packed(one)
    both = [*view, str(tmp_path / "after of b"), "--overwrite"]
    assert cli([*both, "--series", "7"]) == 0
    assert shown(tmp_path / "page.html") == packed(other, after)
    assert cli([*both, "--series", "4"]) == 2
    told = capsys.readouterr().err
    assert "after of b holds 2 series, of which 0 would do: name a folder with one\n" in told


def test_a_store_shows_both_doses_of_one_series(tmp_path, capsys):
    spec = Phantoms(patients=2, slices=2, size=32, pixel_mm=12.0)
    store = write_phantoms(spec, tmp_path / "store")
    view = ["view", str(tmp_path / "store"), "--overwrite", "--out", str(tmp_path / "page.html")]
    for choice, i in (([], 0), (["--series", "2"], 1)):
        assert cli([*view, *choice]) == 0
        assert data_of(tmp_path / "page.html")["labels"] == ["low dose", "normal dose"]
        assert shown(tmp_path / "page.html") == packed(store.low(i), store.full(i))
        assert ("holds 2 series; this is the first" in capsys.readouterr().err) == (not choice)
    for words, said in (
        (["--series", "3"], "the series 1 to 2"),
        ([str(tmp_path / "store")], "alone"),
    ):
        assert cli([*view, *words]) == 2
        assert said in capsys.readouterr().err


def test_an_input_is_never_the_page_and_values_beyond_16_bits_are_told(tmp_path, capsys):
    hu = noisy(anatomy(0, n=2), 20, 0).astype(np.float32)
    hu[:, :4, :4] = -1e5
    np.save(tmp_path / "a.npy", hu)
    before = (tmp_path / "a.npy").read_bytes()
    view = ["view", str(tmp_path / "a.npy"), "--overwrite", "--out"]
    assert cli([*view, str(tmp_path / ".." / tmp_path.name / "a.npy")]) == 2
    assert "is an input" in capsys.readouterr().err
    assert (tmp_path / "a.npy").read_bytes() == before
    assert cli([*view, str(tmp_path / "page.html")]) == 0
    assert "Values beyond ±32,767 HU are cut to that." in (tmp_path / "page.html").read_text()
    assert "are these HU?" not in capsys.readouterr().err
    np.save(tmp_path / "stored.npy", np.maximum(hu + 1024, 0).astype(np.uint16))
    assert cli(["view", str(tmp_path / "stored.npy"), "--out", str(tmp_path / "stored.html")]) == 0
    assert "warning: " in (told := capsys.readouterr().err) and "are these HU?" in told


def test_slices_that_can_not_be_decoded_are_named(tmp_path, capsys):
    hu = noisy(anatomy(0, n=3), 20, 0)
    damage_pixels(write_series(tmp_path / "in", hu)[1])
    assert cli(["view", str(tmp_path / "in"), "--out", str(tmp_path / "page.html")]) == 0
    assert shown(tmp_path / "page.html") == packed(hu[::2])
    (line,) = (t for t in capsys.readouterr().err.splitlines() if t.startswith("warning: "))
    assert "left out: 1 CT image: damaged: its compressed pixels" in line and "(001.dcm)" in line


def test_what_can_not_be_compared_is_one_line(tmp_path, capsys):
    np.save(
        tmp_path / "a.npy",
        np.full((2, 16, 16), 40, np.int16) - 1000 * (np.arange(16) < 8).astype(np.int16),
    )
    np.save(
        tmp_path / "b.npy",
        np.full((3, 16, 16), 40, np.int16) - 1000 * (np.arange(16) < 8).astype(np.int16),
    )
    for name, side in (("a", 16), ("b", 18)):  # one series, but for its matrix
        body = np.full((2, side, side), 40, np.int16)
        body[:, 0] = -1000
        write_series(tmp_path / "mixed", body, name=lambda k, name=name: f"{name}{k}")
    a, b, out = (str(tmp_path / n) for n in ("a.npy", "b.npy", "o.html"))
    for words, code, said in (
        (
            [a, b],
            1,
            "has 3 x 16 x 16 slices, rows and columns, BEFORE 2 x 16 x 16: they can't be compared",
        ),
        ([a, "--slices", "0:9"], 2, "within 1:2"),
        ([a, "--slices", "¹:²"], 2, "within 1:2"),
        ([a, "--series", "1"], 2, "holds one volume"),
        *(([a, "--max-mb", mb], 2, "--max-mb") for mb in ("0", "nan", "inf")),
        ([str(tmp_path / "mixed")], 2, "of which 2 would do: name a folder with one\n"),
        ([a, "--label", "x", "--label", "y"], 2, "once for each of 1 images"),
        ([str(tmp_path / "no")], 2, "doesn't exist"),
    ):
        assert cli(["view", *words, "--out", out]) == code, words
        assert said in capsys.readouterr().err
    assert not (tmp_path / "o.html").exists()


@pytest.mark.core
def test_help_has_an_example(capsys):
    assert cli(["view", "--help"]) == 0
    assert "ldct view scans/chest denoised/chest" in capsys.readouterr().out
