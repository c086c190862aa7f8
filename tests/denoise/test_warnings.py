"""What a model says of images it wasn't made for."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from ldct_jax.data.acquisition import Trained
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import Options, denoise_path
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import DCSWGAN
from tests.denoise.series import denoiser, hu_of
from tests.derived_fixtures import slice_of

pytestmark = pytest.mark.core


RANGE = Trained(
    kernels=("B30f", "D45f"), thickness_mm=(1.0, 3.0), field_of_view_mm=(250, 400), kvp=(100, 120)
)


@pytest.mark.promise("told")
@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({}, None),
        ({"KVP": "119.9", "ConvolutionKernel": "b30F"}, None),
        ({"ConvolutionKernel": ["B30f", "3"]}, None),
        ({"KVP": ""}, None),
        ({"ConvolutionKernel": "B70f"}, "kernel B70f, trained on B30f, D45f"),
        ({"SliceThickness": "5"}, "slice thickness 5 mm, trained on 1 to 3"),
        ({"KVP": "80"}, "tube voltage 80 kVp, trained on 100 to 120"),
        ({"spacing": 8.0}, "field of view 512 mm, trained on 250 to 400"),
    ],
)
def test_images_outside_the_training_range_are_told(tmp_path, tags, words):
    source = slice_of(tmp_path / "in" / "a.dcm", **tags)
    model, told = denoiser(trained_on=RANGE), []
    denoise_path(source, tmp_path / "out", model, warn=told.append)
    strict = Options(strict=True)
    if words is None:
        assert told == []
        denoise_path(source, tmp_path / "strict", model, strict)
    else:
        (line,) = told
        assert words in line
        with pytest.raises(DataError, match="--strict refuses"):
            denoise_path(source, tmp_path / "strict", model, strict)
    description = pydicom.dcmread(tmp_path / "out" / "a.dcm").DerivationDescription
    assert "trained on kernels B30f, D45f, slices of 1 to 3 mm" in description


def test_a_checkpoint_without_a_training_range_says_so(run_folder, tmp_path):
    told = []
    source = slice_of(tmp_path / "in" / "a.dcm")
    denoise_path(source, tmp_path / "out", find(run_folder), warn=told.append)
    assert "doesn't say on which kernels" in told[0]
    range_ = Trained.from_record({"kernels": ["B30f"], "thickness_mm": [1, 3], "dose": [0.1, 1.0]})
    assert range_.words == "kernels B30f, slices of 1 to 3 mm, dose 10 to 100 %"
    assert Trained.from_record({}) is None


def test_a_window_that_cuts_is_told_and_counted(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm")
    told = []
    model = denoiser(window=DCSWGAN, compute=lambda hu: hu.clip(-300, 300))
    summary = denoise_path(source, tmp_path / "out", model, warn=told.append)
    outside = np.count_nonzero(np.abs(hu_of(source)) > 300)
    assert summary.results[0].cut_by_window == outside > 0
    assert "cuts everything to its window" in told[0]


def test_clipped_pixels_are_counted_and_told(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm")
    told, noted = [], []
    model = denoiser(compute=lambda hu: hu + 3000)
    summary = denoise_path(source, tmp_path / "out", model, warn=told.append, note=noted.append)
    clipped = np.count_nonzero(hu_of(source) + 1024 + 3000 > 4095)
    assert summary.results[0].clipped == clipped > 0
    assert f"{clipped} pixels were cut to the file's range" in noted[-1]
    assert "the mean moved by" in told[-1]


@pytest.mark.promise("told")
@pytest.mark.parametrize("name", ["a.dcm", "a.npy"])
def test_a_result_whose_mean_has_moved_is_told_and_refused_where_strict(tmp_path, name):
    """A network of four steps, or one for other windows: its table said "change 499.0" at most."""
    source = tmp_path / "in" / name
    if name == "a.dcm":
        slice_of(source)
    else:
        source.parent.mkdir()
        np.save(source, np.linspace(-1000, 1000, 2048, dtype=np.float32).reshape(2, 32, 32))
    for moved, expected in ((9.0, 0), (40.0, 1)):
        model, told = denoiser(compute=lambda hu, moved=moved: hu + moved), []
        denoise_path(source, tmp_path / f"out{moved}", model, warn=told.append)
        found = [t for t in told if "the mean moved by +40 HU" in t]
        assert len(found) == expected, told
        summary = denoise_path(source, tmp_path / f"strict{moved}", model, Options(strict=True))
        assert len(summary.failed) == expected
        assert bool(list((tmp_path / f"strict{moved}").rglob(name))) == (not expected)


def test_the_name_of_a_file_is_no_folder(tmp_path):
    source = tmp_path / "x.npy"
    np.save(source, np.zeros((2, 32, 32), np.float32))
    with pytest.raises(UsageError, match="OUT is a folder"):
        denoise_path(source, tmp_path / "y.npy", denoiser())
    assert not (tmp_path / "y.npy").exists()
