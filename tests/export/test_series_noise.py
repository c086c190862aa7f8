"""Artefacts of a network that keeps a share of the noise: they take that of the series."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ldct_jax.denoise.models import Denoiser, find, load
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.export import artefacts, onnx_model, stablehlo
from ldct_jax.export.source import Source
from ldct_jax.hu import Window
from ldct_jax.models.noise_scaled import NoiseScaled, with_series_noise
from ldct_jax.models.slice_noise import measured_noise_hu
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.shipped import SHIPPED
from tests.dicom_fixtures import anatomy, noisy, write_series
from tests.export.networks import SMALL, source_of

pytestmark = pytest.mark.core
NETWORK = NoiseScaled(SMALL, routine_hu=15.0, mean_px=16.0)
FORMATS = ("stablehlo", "onnx")
# A series whose slices differ in their noise, and one that is as quiet as a routine scan.
LOUD = np.concatenate([noisy(anatomy(0, n=1), sd, sd) for sd in (30, 45, 60)])
QUIET = noisy(anatomy(0, n=2), 5, 5)


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of(NETWORK, Window(0.0, 1.0), trained_on={"kernels": ["B30f"]})


@pytest.fixture(scope="module")
def files(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    stablehlo.export(source, folder / "m.stablehlo")
    onnx_model.export(source, folder / "m.onnx", size=(64, 64))
    return folder


def native(source, hu):
    """What the checkpoint gives for the slices of one series."""
    known = with_series_noise(source.variables, hu)
    return WholeSlices(source.model, source.window)(known, np.asarray(hu, np.float32))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_series_is_denoised_as_by_the_network(source, files, kind, tmp_path):
    expected = native(source, LOUD)
    model = load(files / f"m.{kind}")
    assert np.abs(model(LOUD) - expected).max() < 0.05
    alone = np.concatenate([model(image[None]) for image in LOUD])
    assert np.abs(alone - expected).max() > 1, "the noise of the series must matter"
    paths = write_series(tmp_path / "in", LOUD, signed=True, bits=16, RescaleIntercept="0")
    denoise_path(tmp_path / "in", tmp_path / "out", model)
    out = np.stack([read_stored(read_header(tmp_path / "out" / p.name)) for p in paths])
    np.testing.assert_allclose(out, expected, atol=0.56)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_file_measures_noise_and_the_second_input_is_optional(source, files, kind):
    artefact = artefacts.load(files / f"m.{kind}")
    hu = LOUD.astype(np.float32)
    np.testing.assert_allclose(artefact.noise(hu), measured_noise_hu(hu), rtol=1e-4)
    by_own = np.asarray(jax.jit(source.function())(hu))
    assert np.abs(artefact.compute(hu) - by_own).max() < 0.05
    assert np.abs(artefact.compute(hu, 0.0) - by_own).max() < 0.05
    assert np.abs(artefact.compute(hu, 20.0) - by_own).max() > 1
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(files / "m.onnx")
        (out,) = session.run(["denoised_hu"], {"hu": hu})
        assert np.abs(out - by_own).max() < 0.05


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_as_quiet_as_a_routine_scan_comes_back_bit_for_bit(files, kind):
    np.testing.assert_array_equal(load(files / f"m.{kind}")(QUIET), QUIET)


def test_stablehlo_takes_small_slices_and_says_how_small(files):
    artefact = artefacts.load(files / "m.stablehlo")
    side = artefact.card.min_side
    assert side < 20
    hu = LOUD[:1, :side, :side].astype(np.float32)
    assert artefact.compute(hu).shape == hu.shape
    from ldct_jax.errors import UsageError

    with pytest.raises(UsageError, match=f"at least {side}x{side} pixels"):
        artefact.compute(hu[:, 1:])


ALONE = """
import importlib.abc, sys

ALLOWED = {"numpy", "pydicom", "onnxruntime", "ldct_jax"}

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in INSTALLED - ALLOWED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=root)

import importlib.metadata
INSTALLED = set(importlib.metadata.packages_distributions())
INSTALLED -= {"flatbuffers", "google", "packaging", "coloredlogs"}  # onnxruntime's own
sys.meta_path.insert(0, Blocked())
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import check_complete, denoise_path
summary = denoise_path(sys.argv[1], sys.argv[2], find(sys.argv[3]))
check_complete(summary)
assert "jax" not in sys.modules
print(summary.results[0].written)
"""


def test_onnx_denoises_dicom_with_numpy_pydicom_and_onnxruntime_alone(source, files, tmp_path):
    paths = write_series(tmp_path / "in", LOUD)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "in", tmp_path / "out", files / "m.onnx"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3"]
    out = np.stack([read_stored(read_header(tmp_path / "out" / p.name)) for p in paths]) - 1024
    np.testing.assert_allclose(out, native(source, LOUD).clip(-1024, 3071), atol=0.56)


def test_the_shipped_model_keeps_a_share_of_the_noise():
    """What these tests are for: the default model's exports need the second input."""
    model: Denoiser = find(None).open()
    assert model.of_series is not None


def test_an_export_of_a_shipped_model_has_its_name():
    """Headers of its results said NoiseScaled, the class; those of the model itself say pcn3."""
    ((name, path),) = SHIPPED.items()
    assert find(None).open().name == name == Source.open(path).card("onnx", None).name
