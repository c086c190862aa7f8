"""Artefacts as models of ``ldct denoise``, and ``ldct export``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.models import find, load
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from tests.derived_fixtures import slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series


def test_artefacts_denoise_a_series_like_the_checkpoint(small, exported, tmp_path):
    paths = write_series(tmp_path / "in", noisy(anatomy(0, n=3), 20, 0))
    pixels, uids = {}, set()
    for name in ("model.stablehlo", "model.onnx"):
        out = tmp_path / name
        denoise_path(tmp_path / "in", out, find(exported / name))
        headers = [read_header(out / p.name) for p in paths]
        pixels[name] = np.stack([read_stored(h) for h in headers])
        uids |= {h.instance_uid for h in headers}
    hu = np.stack([read_stored(read_header(p)) for p in paths]) - 1024
    expected = np.asarray(small.function()(hu.astype(np.float32))) + 1024
    for found in pixels.values():
        assert np.abs(found - expected.clip(0, 4095)).max() <= 0.56
    assert len(uids) == 6, "another file, another object"


def test_denoising_with_onnx_needs_no_jax(exported, tmp_path):
    slice_of(tmp_path / "in" / "a.dcm")
    program = (
        "import sys; from ldct_jax.cli import run; code = run(sys.argv[1:]);"
        "assert 'jax' not in sys.modules; sys.exit(code)"
    )
    arguments = ["denoise", tmp_path / "in", tmp_path / "out", "--model", exported / "model.onnx"]
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (tmp_path / "out" / "a.dcm").exists()


@pytest.mark.core
def test_the_command_exports_and_does_not_overwrite(checkpoint, tmp_path, capsys):
    run, out = str(checkpoint), tmp_path / "out"
    export = ["export", run, str(out), "--size", "64x64"]
    assert cli([*export, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert set(done) == {"stablehlo", "onnx", "safetensors"}
    assert done["stablehlo"]["largest_hu"] == 0
    hu = noisy(anatomy(0, n=2), 20, 0)
    expected = load(checkpoint)(hu)
    np.testing.assert_allclose(load(out / "model.stablehlo")(hu), expected, atol=1e-3)
    np.testing.assert_allclose(load(out / "model.onnx")(hu), expected, atol=0.05)
    assert cli(export) == 2
    assert "exists: choose another OUT folder, or say --overwrite" in capsys.readouterr().err
    assert cli([*export, "--overwrite", "--format", "safetensors"]) == 0
    said = capsys.readouterr().out
    assert "largest difference 0 HU" in said
    assert f"checkpoint sha256 {load(checkpoint).digest[:16]}" in said
    assert cli(["export", str(tmp_path / "no"), str(tmp_path / "o")]) == 2
    assert cli(["export", run, str(out), "--size", "64"]) == 2
