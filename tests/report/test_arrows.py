"""Where the arrows of image figures point."""

import numpy as np
import pytest

from ldct_jax import hu
from ldct_jax.report import images

pytestmark = pytest.mark.core


def test_arrows_point_at_structures_and_not_at_noise():
    rng = np.random.default_rng(0)
    image = rng.normal(50, 60, (128, 128))
    y, x = np.mgrid[:128, :128]
    for row, column in ((60, 45), (80, 70), (20, 20)):
        image[(y - row) ** 2 + (x - column) ** 2 <= 9] += 150
    found = images.landmarks(image, (40, 30, 64, 64))
    assert len(found) == 2
    for (row, column), expected in zip(sorted(found), ((60, 45), (80, 70)), strict=True):
        assert abs(row - expected[0]) <= 2 and abs(column - expected[1]) <= 2
    in_lung = np.full((64, 64), -850.0)
    in_lung[30:34, 30:34] = -600.0
    assert images.landmarks(in_lung, (8, 8, 48, 48)) == []
    (row, column), *_ = images.landmarks(in_lung, (8, 8, 48, 48), hu.LUNG)
    assert abs(row - 31.5) <= 2 and abs(column - 31.5) <= 2
    assert images.landmarks(np.full((64, 64), 40.0), (8, 8, 32, 32)) == []
