"""The simulated dose on real CT: in flat tissue it adds sqrt(1/dose - 1) times the own noise."""

import dataclasses

import numpy as np
import pytest

from ldct_jax.ct.geometry import FanBeam
from ldct_jax.data.noise_estimate import flat_tissue, tissue_noise
from ldct_jax.data.own_noise import measure_own_noise
from ldct_jax.data.simulate import add_in_proportion, own_scan
from ldct_jax.dicom.load import read_folder


def test_added_noise_of_a_real_series(real_ct):
    folder = sorted(f for f in real_ct.iterdir() if f.is_dir())[-1]
    series = read_folder(folder)[0]
    middle = len(series) // 2
    hu = series.hu[middle : middle + 2]
    # 2x2 means: the test stays short, and the noise stays the series' own.
    hu = hu.reshape(2, 256, 2, 256, 2).mean(axis=(2, 4)).astype(np.float32)
    pixel_mm = 2 * series.pixel_mm
    own = measure_own_noise(hu, pixel_mm)
    scan = dataclasses.replace(own_scan(own)[0], geometry=FanBeam(n_views=384))
    assert own.sd_hu == pytest.approx(flat_tissue(hu, pixel_mm).sd_hu)
    for dose in (0.25, 0.1):
        low = add_in_proportion(hu, own, dose, scan=scan, pixel_mm=pixel_mm, seed=3)
        ratio = tissue_noise(low - hu, hu, pixel_mm) / (own.sd_hu * (1 / dose - 1) ** 0.5)
        assert 0.95 < ratio < 1.05
