"""``ldct mercure``: a folder and task.json in, new series out, as mercure's modules do it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ldct_jax.cli import run as cli
from ldct_jax.dicom.header import read_header
from tests.dicom_fixtures import anatomy, noisy, uid, write_series

ROOT = Path(__file__).parents[2]


def handed_over(folder: Path, settings: dict | None = None, n: int = 3) -> Path:
    """Two series as mercure names them, with its own files beside them."""
    for seed in range(2):
        series = uid("series", seed)
        write_series(
            folder,
            noisy(anatomy(seed, n=n, size=32), 20, seed),
            name=lambda k, s=series: f"{s}#{uid(s, k)}.dcm",
            SeriesInstanceUID=series,
            SeriesNumber=seed + 1,
        )
        (folder / f"{series}#{uid(series, 0)}.tags").write_text('{"Modality": "CT"}')
    task = {"id": "1", "process": {"module_name": "ldct", "settings": settings or {}}}
    (folder / "task.json").write_text(json.dumps(task))
    return folder


@pytest.mark.promise("mercure")
def test_series_come_out_under_their_new_uids(tmp_path, monkeypatch, capsys):
    source, out = (
        handed_over(tmp_path / "in", {"model": "gaussian", "blend": 0.5}),
        tmp_path / "out",
    )
    out.mkdir()
    monkeypatch.setenv("MERCURE_IN_DIR", str(source))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(out))
    assert cli(["mercure"]) == 0
    assert "6 slices of 2 series" in capsys.readouterr().out
    found = [(f.name, read_header(f)) for f in out.iterdir()]
    assert len(found) == 6 and all(h.is_ours for _, h in found)
    assert all(name == f"{h.series_uid}#{h.instance_uid}.dcm" for name, h in found)
    old = {f.name.split("#")[0] for f in source.glob("*.dcm")}
    assert len({h.series_uid for _, h in found}) == 2
    assert not old & {h.series_uid for _, h in found}


def derived(folder) -> list[tuple[str, bytes]]:
    """What the derived images say they are, and their pixels."""
    from pydicom import dcmread

    images = [dcmread(f) for f in folder.rglob("*.dcm")]
    return sorted((image.SeriesDescription, image.PixelData) for image in images)


def test_quality_is_that_of_denoise(tmp_path):
    source = handed_over(tmp_path / "in", {"model": "gaussian", "quality": "best"}, n=1)
    assert cli(["mercure", str(source), str(tmp_path / "out")]) == 0
    best = ["--model", "gaussian", "--quality", "best"]
    assert cli(["denoise", str(source), str(tmp_path / "same"), *best]) == 0
    found = derived(tmp_path / "out")
    assert len(found) == 2 and found == derived(tmp_path / "same")
    assert all("gaussian best" in description for description, _ in found)


def test_nothing_comes_out_where_an_image_is_damaged(tmp_path, capsys):
    source, out = handed_over(tmp_path / "in", {"model": "gaussian"}), tmp_path / "out"
    first = sorted(source.glob("*.dcm"))[0]
    first.write_bytes(first.read_bytes()[:-500])
    assert cli(["mercure", str(source), str(out)]) == 1
    assert "left out" in capsys.readouterr().err
    assert not list(out.glob("*.dcm"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigma": 7}, "unknown setting sigma"),
        ({"blend": "half"}, "blend = 'half' must be a float"),
        ({"blend": True}, "blend = True must be a float"),
        ({"texture": True}, "texture = True must be a str or a float"),
        ({"texture": "rough"}, "use routine, smooth, or HU above 0"),
        ({"quality": "better"}, "use one of normal, best"),
        ({"model": "gaussian", "texture": 12}, "gaussian has no texture to choose"),
        ({"model": "nothing"}, "there is no model 'nothing'"),
        ({"blend": 2}, "between 0 and 1"),
    ],
)
def test_wrong_settings_are_told_in_one_line(tmp_path, capsys, settings, words):
    source = handed_over(tmp_path / "in", settings, n=1)
    assert cli(["mercure", str(source), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_dockerfile_copies_what_is_here_and_the_example_fits():
    """No daemon is needed for this: what a build would trip over first."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in names.split()), names
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert json.loads(entry)[0].endswith("ldct")
    module = json.loads((ROOT / "deploy" / "mercure_module.json").read_text())
    from ldct_jax.cli.mercure import SETTINGS

    assert set(module["ldct"]["settings"]) <= set(SETTINGS)
