"""Files through models: series, volumes, resuming, warnings, and the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.denoisers import Denoiser, find
from ldct_jax.denoise.run import RECORD, Options, check_complete, denoise_path
from ldct_jax.denoise.trained import Trained
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored, to_hu
from ldct_jax.errors import DataError, LdctError, NumericsError, UsageError
from ldct_jax.evaluate import WholeSlices
from ldct_jax.hu import DCSWGAN, FULL
from ldct_jax.loading import load
from ldct_jax.train.checkpoint import load_model
from tests.derived_fixtures import OUTSIDE, slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series

pytestmark = pytest.mark.core
IDENTITY = find("identity")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A tiny trained clone network."""
    import jax

    from ldct_jax.train import loop
    from ldct_jax.train.parallel import DataParallel
    from tests import tiny

    folder = tmp_path_factory.mktemp("run")
    loop.train(tiny.job(epochs=1), tiny.feeder(), folder, parallel=DataParallel(jax.devices()[:1]))
    return folder


def two_series(root: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_series(root / name, noisy(anatomy(seed, n=3), 20, seed), SeriesNumber=seed + 1)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != RECORD
    }


def hu_of(path: Path) -> np.ndarray:
    header = read_header(path)
    return to_hu(read_stored(header), header)[0]


def denoiser(compute=lambda hu: hu, **fields) -> Denoiser:
    settings = {
        "name": "test",
        "digest": "ab" * 32,
        "batch": 2,
        "window": FULL,
        "trained_on": Trained(),
        "learned": True,
    }
    return Denoiser(**{**settings, **fields}, compute=compute)


# ---- a model as a function -----------------------------------------------------------------------


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


# ---- series --------------------------------------------------------------------------------------


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


def test_gaps_duplicates_and_localizers_are_told(tmp_path):
    paths = write_series(tmp_path / "in", noisy(anatomy(0, n=6), 20, 0))
    paths[3].unlink()
    (tmp_path / "in" / "copy.dcm").write_bytes(paths[1].read_bytes())
    slice_of(tmp_path / "in" / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    told = []
    summary = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert any("about 1 slice missing" in t for t in told)
    assert any("1 duplicate skipped" in t for t in told)
    assert summary.left_out == (("scout.dcm", "a localizer"),)
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
    assert "left out: a/001.dcm: truncated" in captured.out
    assert "error: 1 damaged file left out" in captured.err
    assert len(contents(tmp_path / "out")) == 5
    assert cli([*arguments[:2], str(tmp_path / "o"), *arguments[3:], "--strict"]) == 1
    assert "a/001.dcm: truncated" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


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
    assert "left out: scout/s.dcm: a localizer" in lines
    assert "left out: b/001.dcm: truncated: the file is shorter than its image" in lines
    assert "passed over: 1 file without the mark of a DICOM file" in lines
    assert "checking: 8/8 files" in captured.err
    assert cli(arguments) == 1
    captured = capsys.readouterr()
    assert "kept: finished by an earlier run, not computed again" in captured.out
    assert "denoising" not in captured.err  # nothing was left to do


# ---- what must not happen ------------------------------------------------------------------------


def test_nan_fails_its_series_and_writes_nothing_of_it(tmp_path):
    source = two_series(tmp_path / "in")
    bad = hu_of(source / "a" / "002.dcm").astype(np.float32)

    def compute(hu):
        out = hu.copy()
        out[[np.array_equal(image, bad) for image in hu]] = np.nan
        return out

    summary = denoise_path(source, tmp_path / "out", denoiser(compute))
    assert sorted(contents(tmp_path / "out")) == [f"b/00{k}.dcm" for k in range(3)]
    assert summary.failed[0][0] == "a #1"
    with pytest.raises(LdctError, match="a #1: the result of test holds NaN"):
        check_complete(summary)
    assert not list((tmp_path / "out").glob(".*"))


def test_out_may_not_be_in_nor_below_it_nor_a_file(tmp_path):
    source = two_series(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    before = contents(source)
    for out in (source, source / "a", source / "new", tmp_path / "link", tmp_path / "link" / "x"):
        with pytest.raises(UsageError, match="originals"):
            denoise_path(source, out, IDENTITY)
    with pytest.raises(UsageError, match="originals"):
        denoise_path(source / "a" / "000.dcm", source / "a", IDENTITY)
    with pytest.raises(UsageError, match="is a file"):
        denoise_path(source, source / "a" / "000.dcm", IDENTITY)
    assert contents(source) == before


def test_nothing_is_overwritten_without_being_told_to(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    before = contents(tmp_path / "out")
    with pytest.raises(LdctError, match="isn't this result"):
        denoise_path(source, tmp_path / "out", find("gaussian"))
    assert contents(tmp_path / "out") == before
    denoise_path(source, tmp_path / "out", find("gaussian"), Options(overwrite=True))
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys() and all(after[k] != before[k] for k in after)


def test_a_link_in_out_is_not_followed_out_of_it(tmp_path):
    source = two_series(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of"):
        denoise_path(source, tmp_path / "out", IDENTITY)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_result_is_not_denoised_again_unasked(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    told = []
    denoise_path(tmp_path / "out", tmp_path / "twice", IDENTITY, warn=told.append)
    assert "denoised twice" in told[0]
    with pytest.raises(DataError, match="denoised twice"):
        denoise_path(tmp_path / "out", tmp_path / "no", IDENTITY, Options(strict=True))


def test_a_second_command_in_the_same_folder_is_kept_out(tmp_path):
    from ldct_jax.files import locked

    source = two_series(tmp_path / "in")
    with locked(tmp_path / "out"), pytest.raises(LdctError, match="another command"):
        denoise_path(source, tmp_path / "out", IDENTITY)


# ---- resuming, full disks ------------------------------------------------------------------------


def test_a_run_again_does_nothing_and_keeps_the_files(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    before = contents(tmp_path / "out")
    record = (tmp_path / "out" / RECORD).read_text()

    def never(hu):
        raise AssertionError("nothing is left to compute")

    identity = dataclasses.replace(IDENTITY.open(), compute=never)
    summary = denoise_path(source, tmp_path / "out", identity)
    assert [(r.written, r.kept) for r in summary.results] == [(0, 3), (0, 3)]
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out" / RECORD).read_text() == record


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    source = two_series(tmp_path / "in")
    gaussian = find("gaussian").open()
    seen = []

    def compute(hu):
        seen.append(len(hu))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return gaussian.compute(hu)

    with pytest.raises(KeyboardInterrupt):
        denoise_path(source, tmp_path / "out", dataclasses.replace(gaussian, compute=compute))
    finished = [name for name in contents(tmp_path / "out") if not name.startswith(".")]
    assert finished == [f"a/00{k}.dcm" for k in range(3)]
    summary = denoise_path(source, tmp_path / "out", dataclasses.replace(gaussian, compute=compute))
    assert len(seen) == 5 + 3 - (summary.results[1].kept)
    assert summary.results[0].kept == 3 and summary.results[1].kept == 1
    denoise_path(source, tmp_path / "straight", gaussian)
    for name in contents(tmp_path / "straight"):
        a, b = (pydicom.dcmread(tmp_path / f / name) for f in ("out", "straight"))
        assert a.SOPInstanceUID == b.SOPInstanceUID and a.PixelData == b.PixelData
    assert not list((tmp_path / "out").glob(".*"))


def test_a_killed_run_leaves_only_whole_files(tmp_path):
    source = tmp_path / "in"
    write_series(source, noisy(anatomy(0, n=8), 20, 0))
    program = textwrap.dedent("""
        import os, signal, sys
        from ldct_jax import files
        from ldct_jax.denoise.denoisers import find
        from ldct_jax.denoise.run import denoise_path
        original, done = files.sync_folder, []
        def sync(folder):
            original(folder)
            done.append(folder)
            if len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        files.sync_folder = sync
        denoise_path(sys.argv[1], sys.argv[2], find("median"))
    """)
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "out").glob("*.dcm"))
    summary = denoise_path(source, tmp_path / "out", find("median"))
    assert summary.results[0].kept in (3, 4)
    assert len(contents(tmp_path / "out")) == 8
    for path in (tmp_path / "out").glob("*.dcm"):
        read_stored(read_header(path))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch, capsys):
    import errno

    source = two_series(tmp_path / "in")
    original, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "identity"]
    monkeypatch.setattr(os, "fsync", fsync)
    assert cli(arguments) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "is full: free some space and run the same command again" in line
    monkeypatch.undo()
    assert cli(arguments) == 0
    assert len(contents(tmp_path / "out")) == 6
    assert not list((tmp_path / "out").rglob("*.part"))


def test_memory_does_not_grow_with_the_series(tmp_path):
    """The peak of 48 slices over that of 8, in slices of float32."""
    import tracemalloc

    size, peaks = 256, []
    for n in (8, 48):
        write_series(tmp_path / str(n), anatomy(0, n=n, size=size))
        tracemalloc.start()
        denoise_path(tmp_path / str(n), tmp_path / f"out{n}", IDENTITY)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 16 * size * size * 4


# ---- warnings of the model -----------------------------------------------------------------------


RANGE = Trained(
    kernels=("B30f", "D45f"), thickness_mm=(1.0, 3.0), field_of_view_mm=(250, 400), kvp=(100, 120)
)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({}, None),
        ({"KVP": "119.9", "ConvolutionKernel": "b30F"}, None),
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
    told = []
    model = denoiser(compute=lambda hu: hu + 3000)
    summary = denoise_path(source, tmp_path / "out", model, warn=told.append)
    clipped = np.count_nonzero(hu_of(source) + 1024 + 3000 > 4095)
    assert summary.results[0].clipped == clipped > 0
    assert f"{clipped} pixels were cut to the file's range" in told[-1]


# ---- volumes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("ndim", [2, 3])
def test_arrays(tmp_path, dtype, ndim):
    hu = noisy(anatomy(0, n=3), 20, 0).astype(dtype)
    hu = hu[0] if ndim == 2 else hu
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "x.npy", hu)
    denoise_path(tmp_path / "in", tmp_path / "same", IDENTITY)
    same = np.load(tmp_path / "same" / "x.npy")
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, hu)
    denoise_path(tmp_path / "in" / "x.npy", tmp_path / "out", find("gaussian"), Options(blend=0.7))
    expected = hu + 0.7 * (load("gaussian")(hu) - hu)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "x.npy"), expected, atol=1e-3)


def test_no_data_in_a_volume_is_air_for_the_model_and_comes_back(tmp_path):
    hu = noisy(anatomy(0, n=2), 20, 0).astype(np.float32)
    hu[:, OUTSIDE] = -3024
    np.save(tmp_path / "x.npy", hu)
    seen = []

    def compute(images):
        seen.append(images.min())
        return images + 10

    summary = denoise_path(tmp_path / "x.npy", tmp_path / "out", denoiser(compute))
    out = np.load(tmp_path / "out" / "x.npy")
    assert (out[:, OUTSIDE] == -3024).all() and min(seen) >= -1200
    np.testing.assert_array_equal(out[:, ~OUTSIDE], hu[:, ~OUTSIDE] + 10)
    assert summary.results[0].change.mean == 10


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR", "SLP"])
def test_nifti_keeps_its_affine_and_is_cut_across_the_body(tmp_path, ending, axes):
    nibabel = pytest.importorskip("nibabel")
    n, h, w = 3, 40, 48
    hu = noisy(anatomy(0, n=n, size=48), 20, 0)[:, :h]
    canonical = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([0.7, 0.8, 2.5, 1.0]))
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(canonical.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    image = canonical.as_reoriented(change)
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / f"x{ending}")
    image = nibabel.load(tmp_path / "in" / f"x{ending}")
    shapes = []

    def compute(images):
        shapes.append(images.shape[1:])
        return images + 7

    denoise_path(tmp_path / "in", tmp_path / "out", denoiser(compute))
    out = nibabel.load(tmp_path / "out" / f"x{ending}")
    assert set(shapes) == {(h, w)}
    assert out.get_data_dtype() == np.float32 and out.shape == image.shape
    np.testing.assert_array_equal(out.affine, image.affine)
    np.testing.assert_array_equal(out.get_fdata(), image.get_fdata() + 7)
    assert out.header.get_xyzt_units() == image.header.get_xyzt_units()


def test_nifti_scaling_is_applied(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.arange(4 * 4 * 2, dtype=np.int16).reshape(4, 4, 2), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    image.to_filename(tmp_path / "x.nii")
    expected = nibabel.load(tmp_path / "x.nii").get_fdata()
    denoise_path(tmp_path / "x.nii", tmp_path / "out", IDENTITY)
    out = nibabel.load(tmp_path / "out" / "x.nii")
    np.testing.assert_array_equal(out.get_fdata(), expected)
    assert expected.min() < -500


def test_finished_volumes_are_kept_and_foreign_ones_are_in_the_way(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(2):
        np.save(tmp_path / "in" / f"{k}.npy", noisy(anatomy(k, n=2), 20, k))
    calls = []

    def compute(hu):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return hu

    model = denoiser(compute)
    with pytest.raises(KeyboardInterrupt):
        denoise_path(tmp_path / "in", tmp_path / "out", model)
    assert sorted(contents(tmp_path / "out")) == ["0.npy"]
    summary = denoise_path(tmp_path / "in", tmp_path / "out", model)
    assert [r.kept for r in summary.results] == [2, 0]
    np.save(tmp_path / "in" / "0.npy", np.zeros((2, 8, 8), np.int16))
    with pytest.raises(LdctError, match="isn't this result"):
        denoise_path(tmp_path / "in", tmp_path / "out", model)


def test_values_that_are_no_hu_are_told(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(0, 1, (8, 8)))
    told = []
    denoise_path(tmp_path / "x.npy", tmp_path / "out", IDENTITY, warn=told.append)
    assert "are they HU?" in told[0]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_sums_up(tmp_path, capsys):
    source = two_series(tmp_path / "in")
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "gaussian"]
    assert cli([*arguments, "--blend", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "a #1" in text and "64x64" in text and "blend 0.7" in text
    assert cli([*arguments[:2], str(tmp_path / "o"), *arguments[3:], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    first = record["results"][0]
    assert first["written"] == 3 and first["clipped_pixels"] == 0
    assert abs(first["change_hu_mean"]) < 5 < first["change_hu_sd"]
    saved = json.loads((tmp_path / "out" / RECORD).read_text())
    assert saved["results"][0]["blend"] == 0.7


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{in}", "{out}", "--model", "nothing"], 2, "there is no model 'nothing'"),
        (["{in}", "{out}", "--model", "identity", "--blend", "1.5"], 2, "between 0 and 1"),
        (["{in}", "{out}", "--model", "identity", "--blend", "nan"], 2, "between 0 and 1"),
        (["{in}", "{in}", "--model", "identity"], 2, "choose another folder"),
        (["{out}", "{out}", "--model", "identity"], 2, "doesn't exist"),
        (["{in}"], 2, "Missing argument"),
    ],
)
def test_wrong_use_exits_with_2_and_one_line(tmp_path, capsys, arguments, code, words):
    two_series(tmp_path / "in")
    places = {"in": tmp_path / "in", "out": tmp_path / "out"}
    assert cli(["denoise", *(a.format(**places) for a in arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()
