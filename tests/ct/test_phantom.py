"""Phantoms: determinism, variety, tissue values, lesions, continuity."""

import numpy as np
import pytest
from scipy import ndimage

from experiments.physics import body_region
from ldct_jax.ct.phantom.random_patient import TISSUES, random_patient
from ldct_jax.errors import UsageError

SMALL = {"size": 128, "pixel_mm": 2.96, "slice_mm": 3.0}


@pytest.mark.core
@pytest.mark.parametrize("region", ["abdomen", "thorax", "pelvis"])
def test_deterministic_and_different_between_patients(region):
    one, again, other = (
        random_patient(seed, region=region, n_slices=2, **SMALL) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.hu, again.hu)
    np.testing.assert_array_equal(one.tissue, again.tissue)
    assert one.lesion_table == again.lesion_table
    assert one.hu.dtype == np.float32 and one.hu.shape == (2, 128, 128)
    body, other_body = one.hu > -300, other.hu > -300
    assert (body != other_body).mean() > 0.01
    assert np.abs(one.hu - other.hu)[body].mean() > 30


def test_anatomy_does_not_depend_on_the_sampling():
    fine = random_patient(5, n_slices=1, size=192, pixel_mm=1.97333)
    coarse = random_patient(5, n_slices=1, size=96, pixel_mm=3.94667)
    pooled = fine.hu[0].reshape(96, 2, 96, 2).mean(axis=(1, 3))
    assert np.abs(pooled - coarse.hu[0]).mean() < 25
    assert np.corrcoef(pooled.ravel(), coarse.hu[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (
            "abdomen",
            {
                "fat": (-115, -85),
                "muscle": (40, 70),
                "liver": (25, 125),
                "spleen": (35, 135),
                "kidney": (25, 240),
                "gut gas": (-1001, -700),
                "spongy bone": (90, 420),
                "cortical bone": (300, 900),
            },
        ),
        ("thorax", {"lung": (-920, -760), "fat": (-112, -80), "airway": (-1000, 100)}),
        (
            "pelvis",
            {
                "fat": (-115, -85),
                "muscle": (40, 70),
                "gut content": (-5, 45),
                "spongy bone": (150, 450),
                "cortical bone": (400, 1000),
            },
        ),
    ],
)
def test_tissues_have_their_hounsfield_units(region, expected):
    values = {name: [] for name in expected}
    for seed in range(6):
        patient = random_patient(
            seed, region=region, n_slices=2, slice_mm=8, size=160, pixel_mm=2.3
        )
        for name, found in values.items():
            core = patient.mask(name)
            if core.sum() > 40:
                found.append(np.median(patient.hu[core]))
    for name, (low, high) in expected.items():
        assert len(values[name]) >= 2, name
        assert all(low < value < high for value in values[name]), (name, values[name])


def test_a_pelvis_has_a_hip_on_either_side():
    for seed in range(4):
        patient = random_patient(seed, region="pelvis", n_slices=1, size=192, pixel_mm=1.97)
        bone = ndimage.binary_fill_holes(patient.hu[0] > 250)  # marrow may be less dense
        labels, n = ndimage.label(bone)
        areas = ndimage.sum_labels(bone, labels, range(1, n + 1)) * 1.97**2
        hips = [i + 1 for i in np.argsort(areas)[-2:]]
        columns = sorted(np.nonzero(labels == i)[1].mean() for i in hips)
        assert columns[0] < 75 and columns[1] > 117, seed  # the middle is 95.5
        # The smallest section of the smallest femoral head, mm².
        assert min(areas[i - 1] for i in hips) > np.pi * (21.5**2 - 14**2)
        assert body_region(patient.hu[0]) == "pelvis"


def test_slices_continue_each_other():
    patient = random_patient(7, n_slices=6, **{**SMALL, "slice_mm": 2.0})
    near = np.mean([np.abs(a - b).mean() for a, b in zip(patient.hu, patient.hu[1:], strict=False)])
    far = np.abs(patient.hu[0] - patient.hu[5]).mean()
    stranger = np.abs(patient.hu[0] - random_patient(8, n_slices=1, **SMALL).hu[0]).mean()
    assert 0 < near < 0.6 * far < stranger


def test_borders_have_partial_volume_and_tissue_has_texture():
    patient = random_patient(1, n_slices=1, size=384, pixel_mm=1.0)
    hu = patient.hu[0]
    skin = (hu > -950) & (hu < -150) & (np.abs(ndimage.sobel(hu)) > 200)
    assert skin.sum() > 1000  # no step from air to tissue without values in between
    for tissue, least in (("fat", 2.0), ("muscle", 2.0), ("spongy bone", 15.0)):
        core = ndimage.binary_erosion(patient.mask(tissue)[0], iterations=2)
        assert hu[core].std() > least, tissue


def test_lesions_have_known_place_size_and_contrast():
    checked = 0
    for seed in range(8):
        patient = random_patient(seed, n_slices=5, slice_mm=3.0, size=256, pixel_mm=1.48)
        assert patient.lesions.max() <= len(patient.lesion_table)
        for number, lesion in enumerate(patient.lesion_table, start=1):
            mask = patient.lesions == number
            if lesion.organ != "liver" or lesion.radius_mm < 6:
                continue
            k = round(lesion.centre[0])
            rows, columns = np.nonzero(mask[k])
            np.testing.assert_allclose((rows.mean(), columns.mean()), lesion.centre[1:], atol=1.5)
            area = mask[k].sum() * 1.48**2
            np.testing.assert_allclose(area, np.pi * lesion.radius_mm**2, rtol=0.15)
            core = ndimage.binary_erosion(mask[k], iterations=2)
            ring = ndimage.binary_dilation(mask[k], iterations=5)
            ring &= ~ndimage.binary_dilation(mask[k], iterations=2) & patient.mask("liver")[k]
            contrast = np.median(patient.hu[k][core]) - np.median(patient.hu[k][ring])
            assert abs(contrast - lesion.contrast_hu) < 7  # the liver's own texture
            checked += 1
    assert checked >= 3


def test_misuse_is_one_line():
    with pytest.raises(UsageError, match="unknown region"):
        random_patient(0, region="head")
    wrong = ({"n_slices": 0}, {"pixel_mm": np.nan}, {"slice_mm": np.nan}, {"pixel_mm": np.inf})
    for values in wrong:
        with pytest.raises(UsageError, match="at least one slice"):
            random_patient(0, **values)
    with pytest.raises(UsageError, match="no tissue"):
        random_patient(0, n_slices=1, **SMALL).mask("bone")
    assert len(set(TISSUES)) == len(TISSUES)
