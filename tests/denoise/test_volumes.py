""".npy and NIfTI volumes."""

from __future__ import annotations

import numpy as np
import pytest

from ldct_jax.denoise.models import find, load
from ldct_jax.denoise.run import Options, denoise_path
from ldct_jax.errors import LdctError
from tests.denoise.series import IDENTITY, contents, denoiser
from tests.derived_fixtures import OUTSIDE
from tests.dicom_fixtures import anatomy, noisy

pytestmark = pytest.mark.core


@pytest.mark.promise("derived")
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


@pytest.mark.promise("derived")
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
    assert "are these HU?" in told[0]
