"""A model as a function, and series through it."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.compare import PairedSeries, Pairs, compare
from ldct_jax.denoise.models import SERIES_SAMPLE, find, load
from ldct_jax.denoise.run import Options, check_complete, denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.errors import DataError, LdctError, NumericsError, UsageError
from ldct_jax.metrics.protocols import named
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.train.checkpoint import load_model
from tests.denoise.series import IDENTITY, contents, denoiser, two_series
from tests.derived_fixtures import OUTSIDE, slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series

pytestmark = pytest.mark.core


@pytest.mark.promise("python")
def test_a_checkpoint_is_a_function_of_hu(run_folder):
    function = load(run_folder)
    model, variables, window, meta = load_model(run_folder)
    hu = noisy(anatomy(0, n=3), 30, 0)
    expected = WholeSlices(model, window)(variables, hu)
    out = function(hu)
    assert out.dtype == np.float32 and not np.array_equal(out, hu)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(function(hu[1]), expected[1])
    assert function.digest == meta["digest"] and function.window == window


def test_arrays_that_are_no_slices_are_refused():
    function = load("identity")
    for bad in (np.zeros(3), np.zeros((1, 2, 3, 4)), np.zeros((0, 4, 4)), np.zeros((2, 2), bool)):
        with pytest.raises(UsageError, match="takes HU as"):
            function(bad)
    with pytest.raises(NumericsError, match="the image holds NaN"):
        function(np.full((4, 4), np.nan))


def test_wrong_names_list_what_there_is(tmp_path):
    with pytest.raises(UsageError, match=r"no model 'gausian': .* gaussian"):
        find("gausian")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UsageError, match="is no model"):
        find(tmp_path / "x.txt")


@pytest.mark.parametrize("blend", [1.0, 0.7])
def test_a_series_gets_the_networks_hu(run_folder, tmp_path, blend):
    hu = noisy(anatomy(0, n=3), 20, 0)
    tags = {"signed": True, "bits": 16, "RescaleIntercept": "0"}
    paths = write_series(tmp_path / "in", hu, padding=-2000, padded=OUTSIDE, **tags)
    summary = denoise_path(
        tmp_path / "in", tmp_path / "out", find(run_folder), Options(blend=blend)
    )
    filled = np.where(OUTSIDE, -1024, hu)
    expected = filled + blend * (load(run_folder)(filled) - filled)
    for path, image in zip(paths, expected, strict=True):
        out = read_stored(read_header(tmp_path / "out" / path.name))
        assert (out[OUTSIDE] == -2000).all()
        assert np.abs(out - image)[~OUTSIDE].max() <= 0.501
    (result,) = summary.results
    inside = np.broadcast_to(~OUTSIDE, hu.shape)
    np.testing.assert_allclose(result.before.mean, hu[inside].mean(), rtol=1e-6)
    np.testing.assert_allclose(result.before.sd, hu[inside].std(), rtol=1e-6)
    np.testing.assert_allclose(result.change.mean, (expected - filled)[inside].mean(), atol=0.05)


def by_series(**fields):
    """Takes from every slice the mean of the series' sample; slices alone stay as they are."""

    def of_series(sample):
        total = sum(image.mean().round() for image in sample)
        return lambda hu: hu - total

    return denoiser(of_series=of_series, **fields)


@pytest.mark.promise("one-share")
def test_a_series_is_sampled_once_and_treated_alike(tmp_path):
    hu = np.stack([np.full((32, 32), float(k + 1), np.float32) for k in range(40)])
    out = by_series()(hu)
    at = np.linspace(0, 39, SERIES_SAMPLE).round()
    np.testing.assert_array_equal(out, hu - (at + 1).sum())
    np.testing.assert_array_equal(by_series()(hu[3]), hu[3])
    np.testing.assert_array_equal(by_series()(hu[3:4]), hu[3:4])
    hu[0] = np.nan
    with pytest.raises(NumericsError, match="holds NaN"):
        by_series().for_series(hu.__getitem__, 40)
    # A series of one slice is one, whatever it is called with later.
    alone = by_series().for_series(hu[1:2].__getitem__, 1)
    np.testing.assert_array_equal(alone(hu[1:3]), hu[1:3])


def test_files_of_a_series_are_treated_as_its_array_is(tmp_path):
    """The slices left over by an interruption too."""
    hu = np.rint(noisy(anatomy(0, n=3), 20, 0))
    paths = write_series(tmp_path / "in", hu, signed=True, bits=16, RescaleIntercept="0")
    np.save(tmp_path / "volume.npy", hu.astype(np.float32))
    expected = np.clip(by_series()(hu), -32768, 32767)
    denoise_path(tmp_path / "in", tmp_path / "out", by_series())
    denoise_path(tmp_path / "volume.npy", tmp_path / "array", by_series())
    np.testing.assert_array_equal(np.load(tmp_path / "array" / "volume.npy"), expected)
    (tmp_path / "out" / paths[1].name).unlink()
    denoise_path(tmp_path / "in", tmp_path / "out", by_series())
    for path, image in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(read_stored(read_header(tmp_path / "out" / path.name)), image)
    # With other slices beside it a slice is another image: refused, not mixed.
    paths[0].unlink()
    with pytest.raises(LdctError, match="isn't this result"):
        denoise_path(tmp_path / "in", tmp_path / "out", by_series())
    denoise_path(tmp_path / "in", tmp_path / "out", by_series(), Options(overwrite=True))
    left = np.clip(by_series()(hu[1:]), -32768, 32767)
    for path, image in zip(paths[1:], left, strict=True):
        np.testing.assert_array_equal(read_stored(read_header(tmp_path / "out" / path.name)), image)


def test_slices_are_compared_series_by_series():
    """By what its own series' total takes from it, each slice is told."""

    def stack(*levels):
        return np.stack([np.full((32, 32), k, np.int16) for k in levels])

    series = [(1, 3), (10, 20), (50, 70), (2,)]
    pairs = Pairs(
        tuple(PairedSeries(stack(*v), stack(*v), p) for v, p in zip(series, "abbc", strict=True)),
        source="",
    )
    found = compare(pairs, by_series(), "model", [named("pcn")])
    rmse = [4096 * row["rmse"] for row in found[-1].rows]
    np.testing.assert_allclose(rmse, [4, 4, 30, 30, 120, 120, 0], rtol=1e-3)


def test_a_folder_of_series_keeps_its_shape(tmp_path):
    source = two_series(tmp_path / "in")
    (source / "notes.txt").write_text("not an image")
    (source / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    summary = denoise_path(source, tmp_path / "out", IDENTITY)
    assert sorted(contents(tmp_path / "out")) == sorted(
        str(p.relative_to(source)) for p in source.rglob("*.dcm")
    )
    assert [r.name for r in summary.results] == ["a #1", "b #2"]
    assert [r.written for r in summary.results] == [3, 3]


def test_two_series_in_one_folder_come_apart_by_uid_matrix_and_orientation(tmp_path):
    series = dict(SeriesInstanceUID="1.2.3", SeriesNumber=1)
    slice_of(tmp_path / "in" / "a.dcm", **series)
    slice_of(tmp_path / "in" / "b.dcm", z=13.5, Exposure="80", XRayTubeCurrent="90", **series)
    slice_of(tmp_path / "in" / "small.dcm", hu=anatomy(0, size=32)[0], **series)
    slice_of(tmp_path / "in" / "tilted.dcm", orientation=(1, 0, 0, 0, 0.8, -0.6), **series)
    slice_of(tmp_path / "in" / "other.dcm", **series | {"SeriesInstanceUID": "1.2.4"})
    summary = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY)
    assert sorted(r.slices for r in summary.results) == [1, 1, 1, 2]
    images = {p.stem: pydicom.dcmread(p) for p in (tmp_path / "out").glob("*.dcm")}
    assert len({i.SeriesInstanceUID for i in images.values()}) == 4
    assert len({i.SeriesNumber for i in images.values()}) == 4
    assert images["a"].SeriesInstanceUID == images["b"].SeriesInstanceUID


@pytest.mark.promise("told")
def test_gaps_duplicates_and_localizers_are_told(tmp_path):
    paths = write_series(tmp_path / "in", noisy(anatomy(0, n=6), 20, 0))
    paths[3].unlink()
    (tmp_path / "in" / "copy.dcm").write_bytes(paths[1].read_bytes())
    slice_of(tmp_path / "in" / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    told = []
    summary = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert any("about 1 slice missing" in t for t in told)
    assert any("1 duplicate skipped" in t for t in told)
    assert summary.left_out == (("scout.dcm", "a localizer", "other"),)
    assert len(contents(tmp_path / "out")) == 5
    check_complete(summary)
    with pytest.raises(DataError, match="--strict refuses"):
        denoise_path(tmp_path / "in", tmp_path / "o", IDENTITY, Options(strict=True))
    assert not (tmp_path / "o").exists()


def test_several_images_at_one_position_are_all_denoised(tmp_path):
    """Phases of a heart: they can't be one volume, but a slice is a slice."""
    for phase in range(2):
        for z in range(2):
            name = f"{phase}{z}.dcm"
            slice_of(tmp_path / "in" / name, z=float(z), SeriesInstanceUID="1.2.3")
    told = []
    denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert len(contents(tmp_path / "out")) == 4
    assert "2 more images at a position" in told[0]


def test_a_damaged_file_is_left_out_and_makes_the_command_fail_at_the_end(tmp_path, capsys):
    source = two_series(tmp_path / "in")
    broken = source / "a" / "001.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "identity"]
    assert cli(arguments) == 1
    captured = capsys.readouterr()
    assert "left out: 1 CT image: truncated" in captured.out and "a/001.dcm" in captured.out
    assert "error: 1 CT image left out (see above)" in captured.err
    assert len(contents(tmp_path / "out")) == 5
    assert cli([*arguments[:2], str(tmp_path / "o"), *arguments[3:], "--strict"]) == 1
    error = capsys.readouterr().err
    assert "truncated" in error and "a/001.dcm" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.promise("told")
def test_the_summary_says_what_became_of_everything(tmp_path, capsys):
    """A folder as it comes from an archive: two series, a localizer, a broken file, a note."""
    source = two_series(tmp_path / "in")
    slice_of(source / "scout" / "s.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    broken = source / "b" / "001.dcm"
    broken.write_bytes(broken.read_bytes()[:2000])
    (source / "README.txt").write_text("exported by nobody")
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "gaussian"]
    assert cli(arguments) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[1].split()[:2] == ["series", "result"]
    for folder, number in (("a", 1), ("b", 2)):
        (row,) = (line.split() for line in lines if line.startswith(f"{folder} #"))
        written = pydicom.dcmread(next((tmp_path / "out" / folder).glob("*.dcm")))
        assert row[:3] == [folder, f"#{number}", f"#{written.SeriesNumber}"]
    assert f"results are in {tmp_path / 'out'}" in lines
    assert lines[-3:] == [
        "left out: 1 CT image: truncated: the file is shorter than its image (b/001.dcm)",
        "left out: 1 other file: a text (README.txt)",
        "left out: 1 other file: a localizer (scout/s.dcm)",
    ]
    assert cli(arguments) == 1
    captured = capsys.readouterr()
    assert "kept: finished by an earlier run, not computed again" in captured.out
    assert "denoising" not in captured.err  # nothing was left to do
