"""What exposure tags say of a rotation."""

import pytest

from ldct_jax.ct.calibration import n0_from_tags, rotation_mas
from ldct_jax.errors import DataError


def test_exposure_of_a_rotation():
    assert rotation_mas(150.0, 188.0) == (150.0, "150 mAs")
    # GE writes the exposure of the whole scan.
    mas, how = rotation_mas(7837.0, 440.0)
    assert mas == pytest.approx(352) and "assumed" in how
    assert rotation_mas(float("nan"), 100.0)[0] == 80
    with pytest.raises(DataError, match="neither"):
        rotation_mas(float("nan"), float("nan"))
    assert n0_from_tags(mas=mas, slice_mm=1.25).n0 > 1e5
