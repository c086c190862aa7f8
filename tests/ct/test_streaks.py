"""Streaks: at low dose the noise between the hips runs from side to side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from ldct_jax.ct.add_noise_to_projections import Scan, insert_projection_domain
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.phantom.random_patient import random_patient
from tests.ct.bodies import water

SIZE, PIXEL = 256, 1.48
SCAN = Scan(1e5, geometry=FanBeam(n_views=576))


@dataclasses.dataclass(frozen=True)
class Streaks:
    """Noise of a region averaged along lines, SD in HU: ``lateral`` lines run from side to side.

    Noise without a direction gives the same both ways. Where the rays from side to side are short
    of photons, each of them leaves a line, which averaging along it keeps.
    """

    lateral: float
    frontal: float
    pixels: float

    @property
    def ratio(self) -> float:
        """How many times stronger along the lateral rays; 1 without streaks."""
        return self.lateral / self.frontal


def streaks(noise, mask, pixel_mm: float, length_mm: float = 40.0) -> Streaks:
    """Directions in the (H, W) ``noise`` (HU) of the pixels in ``mask``, by means over lines."""
    length = max(2, round(length_mm / pixel_mm))
    lateral, frontal = (ndimage.uniform_filter1d(noise, length, axis=a)[mask].std() for a in (1, 0))
    return Streaks(float(lateral), float(frontal), float(noise[mask].std()))


def between(size: int, pixel_mm: float, half_mm: tuple[float, float], y_mm: float = 0.0):
    """(H, W) bool: a box about the middle of the image, ``y_mm`` further back."""
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    return (np.abs(axis[None, :]) < half_mm[0]) & (np.abs(axis[:, None] - y_mm) < half_mm[1])


def streaks_in(body, dose, seed=1, half_mm=(50, 18)):
    low = insert_projection_domain(body, seed=seed, dose=dose, scan=SCAN, pixel_mm=PIXEL)
    return streaks(np.asarray(low - body), between(SIZE, PIXEL, half_mm), PIXEL)


@pytest.mark.core
def test_the_measure_knows_directions():
    white = np.random.default_rng(0).normal(size=(200, 200))
    everywhere = np.ones(white.shape, bool)
    assert streaks(white, everywhere, 1.0).ratio == pytest.approx(1, abs=0.1)
    rows = white + 2 * np.random.default_rng(1).normal(size=(200, 1))
    assert streaks(rows, everywhere, 1.0).ratio > 5
    assert streaks(rows.T, everywhere, 1.0).ratio < 1 / 5


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_noise_through_the_hips_exceeds_the_other_direction_fourfold(seed):
    body = random_patient(seed, region="pelvis", n_slices=1, size=SIZE, pixel_mm=PIXEL).hu[0]
    quarter, tenth = (streaks_in(body, dose) for dose in (0.25, 0.1))
    assert tenth.ratio > 4
    assert tenth.lateral > 2 * quarter.lateral  # more than 1/√dose: electronic noise


@pytest.mark.long
def test_a_disc_has_no_direction():
    disc = water(SIZE, PIXEL, (130, 130))
    # Few lines fit into the box, so one seed's ratio scatters by a tenth.
    ratios = [streaks_in(disc, 0.1, seed, half_mm=(40, 40)).ratio for seed in range(4)]
    assert 0.85 < np.mean(ratios) < 1.15
