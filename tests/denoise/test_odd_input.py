"""Input as it is met: no data without its tag, values that aren't HU, odd slopes, other files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.data.volumes import ArrayFile
from ldct_jax.denoise.models import find, load
from ldct_jax.denoise.run import Options, check_complete, denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.errors import DataError, LdctError
from tests.denoise.series import IDENTITY, contents, denoiser
from tests.derived_fixtures import OUTSIDE, slice_of
from tests.dicom_fixtures import anatomy, noisy, write_series

BODY = noisy(anatomy(0, n=3), 20, 0)


def stored(path) -> np.ndarray:
    return read_stored(read_header(path))


def signed_series(folder, hu, **tags):
    """16 bits and sign, so that -3024 HU fit; stored values are HU + 1024."""
    return write_series(folder, hu, signed=True, bits=16, **tags)


@pytest.mark.parametrize("model", ["gaussian", None])
@pytest.mark.parametrize("tag", [{}, {"PixelPaddingValue": -32768}])
def test_no_data_without_its_tag_is_what_it_is_with_it(tmp_path, model, tag):
    hu = np.where(OUTSIDE, -3024, BODY)
    paths = signed_series(tmp_path / "declared", hu, PixelPaddingValue=-2000)
    signed_series(tmp_path / "in", hu, **tag)
    found = find(model).open()
    declared = denoise_path(tmp_path / "declared", tmp_path / "a", found).results[0]
    result = denoise_path(tmp_path / "in", tmp_path / "b", found).results[0]
    for path in paths:
        a, b = stored(tmp_path / "a" / path.name), stored(tmp_path / "b" / path.name)
        assert (b[OUTSIDE] == -2000).all()
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(b, stored(path))
    assert result.before == declared.before and result.before.mean > -1000


def test_python_calls_show_no_data_as_air_too():
    """The network of a Python user saw -3024 HU: wrong by up to 150 HU where there are data."""
    hu = np.where(OUTSIDE, -3024, BODY).astype(np.float32)
    seen = []

    def compute(images):
        seen.append(images.min())
        return images + 10

    for given in (hu, hu[0], hu.astype(np.int16)):
        out = denoiser(compute)(given)
        assert min(seen) >= -1200 and (out[..., OUTSIDE] == -3024).all()
        np.testing.assert_array_equal(out[..., ~OUTSIDE], given[..., ~OUTSIDE] + np.float32(10))


def test_padding_that_lossy_compression_moved_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    hu = np.where(OUTSIDE, -3024 + rng.integers(-9, 10, BODY.shape), BODY)
    paths = signed_series(tmp_path / "in", hu, PixelPaddingValue=-2000)
    seen = []

    def compute(images):
        seen.append(images.min())
        return images + 10

    denoise_path(tmp_path / "in", tmp_path / "out", denoiser(compute))
    assert min(seen) >= -1024
    for path in paths:
        before, after = stored(path), stored(tmp_path / "out" / path.name)
        np.testing.assert_array_equal(after[OUTSIDE], before[OUTSIDE])
        np.testing.assert_array_equal(after[~OUTSIDE], before[~OUTSIDE] + 10)


def test_a_constant_corner_comes_back(tmp_path):
    """Beyond the scan circle, at a value that tissue has too."""
    radius = np.hypot(*((np.mgrid[:64, :64] - 31.5) / 32))
    corner = radius > 1
    paths = signed_series(tmp_path / "in", np.where(corner, 0, BODY))
    denoise_path(tmp_path / "in", tmp_path / "out", denoiser(lambda hu: hu + 10))
    for path in paths:
        changed = stored(tmp_path / "out" / path.name) - stored(path)
        assert (changed[corner] == 0).all()
        assert (changed[radius < 0.98] == 10).all()


def wrapped(folder):
    values = np.where(BODY < 0, BODY.astype(int) + 65536, BODY).astype("<u2")
    for k, image in enumerate(values):
        tags = {"RescaleIntercept": "0", "bits": 16, "SeriesInstanceUID": "1.2.3"}
        slice_of(folder / f"{k}.dcm", z=float(k), PixelData=image.tobytes(), **tags)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: write_series(f, BODY + 1024, RescaleIntercept="0"), "missing"),
        (wrapped, "wrapped"),
        (lambda f: f.mkdir() or np.save(f / "v.npy", (BODY + 1024).astype(np.uint16)), "missing"),
        (lambda f: f.mkdir() or np.save(f / "v.npy", (BODY + 1024) / 4096), "network units"),
    ],
)
def test_values_that_are_not_hu_are_told_or_refused(tmp_path, make, words):
    make(tmp_path / "in")
    told = []
    summary = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert len(told) == 1 and "are these HU?" in told[0] and words in told[0]
    assert summary.results[0].warnings and len(contents(tmp_path / "out")) >= 1
    strict = denoise_path(tmp_path / "in", tmp_path / "strict", IDENTITY, Options(strict=True))
    with pytest.raises(LdctError, match=r"are these HU\?.*--strict refuses it"):
        check_complete(strict)
    assert contents(tmp_path / "strict") == {}


def test_one_slice_that_is_not_hu_is_found_beyond_the_sample(tmp_path):
    hu = np.repeat(noisy(anatomy(0, n=1, size=32), 20, 0), 40, axis=0).astype(np.int32)
    hu[1, 10, 10] = 33000
    write_series(tmp_path / "in", hu, bits=16)
    told = []
    denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert len(told) == 1 and "beyond any CT scale" in told[0]


def test_slices_last_are_left_out_and_named(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "last.npy", np.moveaxis(BODY, 0, -1))
    with pytest.raises(DataError, match=r"numpy\.moveaxis"):
        denoise_path(tmp_path / "in" / "last.npy", tmp_path / "out", IDENTITY)
    np.save(tmp_path / "in" / "first.npy", BODY)
    summary = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY)
    assert list(contents(tmp_path / "out")) == ["first.npy"]
    assert [(file, kind) for file, _, kind in summary.left_out] == [("last.npy", "failed")]
    with pytest.raises(DataError, match="left out"):
        check_complete(summary)


@pytest.mark.parametrize("slope", ["0.1", "0.488281", "1", "2.5"])
@pytest.mark.parametrize("intercept", ["-1024", "-1024.5"])
def test_unchanged_is_judged_by_stored_values(tmp_path, slope, intercept):
    write_series(tmp_path / "in", BODY, RescaleSlope=slope, RescaleIntercept=intercept)
    (result,) = denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY).results
    assert (result.unchanged, result.change.mean, result.change.sd) == (3, 0.0, 0.0)
    assert result.after.mean == result.before.mean
    (result,) = denoise_path(tmp_path / "in", tmp_path / "other", find("gaussian")).results
    assert result.unchanged == 0 and result.change.sd > 0


@pytest.mark.promise("quiet-stays")
def test_what_is_kept_as_it_is_skips_the_network(tmp_path, monkeypatch):
    """And is what the network would have returned, bit for bit."""
    from ldct_jax.models.whole_slices import WholeSlices

    quiet = noisy(anatomy(0, n=3, size=96), 4, 0).astype(np.float32)
    computed, run = [], WholeSlices.__call__

    def counted(self, variables, hu):
        computed.append(len(hu))
        return run(self, variables, hu)

    monkeypatch.setattr(WholeSlices, "__call__", counted)
    model = load()
    np.testing.assert_array_equal(model(quiet), quiet)
    np.testing.assert_array_equal(model(quiet[0]), quiet[0])
    assert computed == []
    mixed = np.concatenate([quiet[:1], noisy(anatomy(1, n=2, size=96), 45, 0)])
    out = model(mixed)
    assert sum(computed) == 2 and not np.array_equal(out[1:], mixed[1:])
    np.testing.assert_array_equal(out[0], mixed[0])

    from ldct_jax.denoise.models import SHIPPED
    from ldct_jax.models.noise_scaled import with_series_noise
    from ldct_jax.train.checkpoint import load_model

    network, variables, window, _ = load_model(next(iter(SHIPPED.values())))
    whole = WholeSlices(network, window)
    np.testing.assert_array_equal(run(whole, with_series_noise(variables, quiet), quiet), quiet)
    np.testing.assert_array_equal(run(whole, with_series_noise(variables, mixed), mixed), out)


def test_warnings_are_grouped_and_name_the_results(tmp_path):
    for k in range(12):
        tags = {"ConvolutionKernel": "B70f", "SliceThickness": str(6 + k), "SeriesNumber": k + 1}
        write_series(tmp_path / "in" / f"s{k:02d}", BODY[:1], **tags)
    told = []
    denoise_path(tmp_path / "in", tmp_path / "out", find(None), warn=told.append)
    assert len(told) <= 8
    (kernel,) = [line for line in told if "kernel B70f" in line]
    assert kernel.startswith("12 series (s00 #1 → #1001, s01 #2 → #1002, ") and "7 more" in kernel
    assert sum("slice thickness" in line for line in told) == 3


def test_files_are_opened_once_for_their_header_and_once_for_their_pixels(tmp_path):
    paths = write_series(tmp_path / "in", noisy(anatomy(0, n=4), 45, 0))
    (tmp_path / "v").mkdir()
    opened = {str(p): 0 for p in paths}
    counting = [True]

    def hook(event, arguments):
        if counting and event == "open" and str(arguments[0]) in opened:
            opened[str(arguments[0])] += 1

    sys.addaudithook(hook)  # it stays, but for a flag
    denoise_path(tmp_path / "in", tmp_path / "out", find(None))
    counting.clear()
    assert set(opened.values()) == {2}, opened


@pytest.mark.parametrize("ending", [".npy", ".nii.gz"])
def test_a_volume_is_read_once(tmp_path, monkeypatch, ending):
    from ldct_jax.data.volumes import NiftiFile

    (tmp_path / "in").mkdir()
    if ending == ".npy":
        np.save(tmp_path / "in" / "x.npy", BODY)
    else:
        import nibabel

        image = nibabel.Nifti1Image(BODY.transpose(2, 1, 0), np.diag([1, 1, 3, 1]))
        nibabel.save(image, tmp_path / "in" / "x.nii.gz")
    reads = []
    for kind in (ArrayFile, NiftiFile):
        original = kind.slices
        monkeypatch.setattr(kind, "slices", lambda s, f=original: reads.append(1) or f(s))
    denoise_path(tmp_path / "in", tmp_path / "out", find("gaussian"))
    assert reads == [1]


def test_other_containers_are_named_and_make_the_command_fail_at_the_end(tmp_path, capsys):
    write_series(tmp_path / "in", BODY)
    (tmp_path / "in" / "a.zip").write_bytes(b"PK\x03\x04" + bytes(60))
    (tmp_path / "in" / "b.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "in" / "c.mha").write_bytes(b"ObjectType = Image\n")
    (tmp_path / "in" / "bad\x1b[2J.dcm").write_bytes(b"")
    arguments = ["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "identity"]
    assert cli(arguments) == 1
    captured = capsys.readouterr()
    for words in ("zip archive", "NRRD volume", "MetaImage volume", r"bad\x1b[2J.dcm"):
        assert words in captured.out
    assert "\x1b" not in captured.out + captured.err
    assert "4 files that were not read left out (see above)" in captured.err
    assert len(contents(tmp_path / "out")) == 3
    assert cli([*arguments[:2], str(tmp_path / "no"), *arguments[3:], "--strict"]) == 1
    assert not (tmp_path / "no").exists()


def test_an_unwritable_header_costs_its_file_before_anything_is_computed(tmp_path):
    paths = write_series(tmp_path / "in", BODY)
    data = paths[1].read_bytes()
    at = data.index(b"\x18\x00\x10\x12SH")  # ConvolutionKernel, whose VR becomes SQ
    paths[1].write_bytes(data[:at] + b"\x18\x00\x10\x12SQ" + data[at + 6 :])
    computed = []

    def compute(hu):
        computed.append(len(hu))
        return hu

    summary = denoise_path(tmp_path / "in", tmp_path / "out", denoiser(compute))
    assert [kind for _, _, kind in summary.left_out] == ["failed"]
    assert len(contents(tmp_path / "out")) == 2 and sum(computed) == 2


def test_slices_along_the_body_are_told(tmp_path):
    for k in range(3):
        tags = {"orientation": (0, 1, 0, 0, 0, -1), "SeriesInstanceUID": "1.2"}
        slice_of(tmp_path / "in" / f"{k}.dcm", ImageType=["ORIGINAL", "PRIMARY"], **tags)
    told = []
    denoise_path(tmp_path / "in", tmp_path / "out", IDENTITY, warn=told.append)
    assert any("don't lie across the body" in line for line in told)
