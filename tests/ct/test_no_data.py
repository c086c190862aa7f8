"""Which pixels hold data, and whether numbers can be HU."""

import numpy as np
import pytest

from ldct_jax.ct.no_data import Range, check_slices_first, filled, no_data, value_range
from ldct_jax.errors import DataError

pytestmark = pytest.mark.core
Y, X = (np.mgrid[:64, :64] - 31.5) / 32
CORNERS = X**2 + Y**2 > 1


def slices(n=2, corner=None):
    hu = np.random.default_rng(0).normal(0, 30, (n, 64, 64)) + np.where(X**2 + Y**2 < 0.5, 40, -980)
    hu = np.clip(np.rint(hu), -1024, 3071).astype(np.float32)
    if corner is not None:
        hu[:, CORNERS] = corner
    return hu


def test_a_whole_image_has_data_everywhere():
    assert no_data(slices()) is None
    assert no_data(slices()[0]) is None


@pytest.mark.parametrize("corner", [-3024, -2000, -1024, 0])
def test_no_data_is_padding_below_1500_or_a_constant_corner(corner):
    hu = slices(corner=corner)
    mask = no_data(hu)
    assert mask[:, CORNERS].all() and not mask[:, np.hypot(X, Y) < 0.98].any()
    np.testing.assert_array_equal(no_data(hu[1]), mask[1])
    assert (filled(hu, mask)[mask] == -1024).all()
    np.testing.assert_array_equal(filled(hu, mask)[~mask], hu[~mask])


def test_a_corner_that_is_not_constant_is_air():
    hu = slices(corner=-1000)
    hu[:, 2, 2] = -990
    assert no_data(hu) is None


def test_declared_padding_counts_whatever_its_value():
    declared = np.zeros((64, 64), bool)
    declared[30, 30] = True
    np.testing.assert_array_equal(no_data(slices()[0], declared), declared)


@pytest.mark.parametrize(
    ("change", "words", "impossible"),
    [
        (lambda hu: (hu + 1024) / 4096, "network units", True),
        (lambda hu: hu + 1024, "intercept", False),
        (lambda hu: np.where(hu < 0, hu + 65536, hu), "wrapped", True),
        (lambda hu: np.full_like(hu, -2000), "no pixel holds data", True),
        (lambda hu: np.clip(hu, -150, 250), "no air", False),
    ],
)
def test_values_that_are_not_hu(change, words, impossible):
    found = value_range(change(slices()))
    assert words in found.doubt
    assert bool(found.impossible) == impossible


def test_hu_are_not_doubted():
    assert value_range(slices()).doubt == ""
    metal = slices()
    metal[0, 30, 30] = 30710  # an extended scale
    assert value_range(metal).doubt == ""
    assert value_range(slices(corner=-3024)).lowest >= -1024


def test_pieces_have_the_range_of_the_whole():
    found = Range()
    for image in slices():
        found.add(image)
    assert found == value_range(slices())


@pytest.mark.parametrize("shape", [(160, 160, 12), (512, 512, 700), (512, 400, 1), (64, 48, 3)])
def test_slices_last_are_refused_with_the_transpose(shape):
    with pytest.raises(DataError, match=r"x\.npy.*numpy\.moveaxis\(volume, -1, 0\)"):
        check_slices_first(shape, "x.npy")


@pytest.mark.parametrize("shape", [(12, 160, 160), (1, 512, 512), (3, 400, 512), (512, 512, 512)])
def test_slices_first_pass(shape):
    check_slices_first(shape, "x.npy")
