"""Texture and quality of the model that ships: what stays of the noise, and the mean over turns."""

import dataclasses

import numpy as np
import pytest

import ldct_jax
from ldct_jax.denoise import choices
from ldct_jax.denoise.models import find
from ldct_jax.errors import UsageError
from ldct_jax.models.slice_noise import measured_noise_hu

RNG = np.random.default_rng(5)
NOISY = (40 + 40 * RNG.normal(size=(2, 64, 64))).astype(np.float32)


@pytest.fixture(scope="module")
def routine():
    return ldct_jax.load()


def _removed(out):
    return float((NOISY - out).std())


@pytest.mark.promise("texture")
def test_textures_keep_the_noise_that_they_name(routine):
    plain, smooth = routine(NOISY), ldct_jax.load(texture="smooth")(NOISY)
    ten, twenty = (ldct_jax.load(texture=hu)(NOISY) for hu in (10, 20))
    # All take noise away along the same difference x - x̂, of which 1 - kept goes.
    removed = [_removed(out) for out in (twenty, ten, plain, smooth)]
    assert removed == sorted(removed)
    noise = float(np.median(measured_noise_hu(NOISY)))
    assert _removed(twenty) / _removed(ten) == pytest.approx(
        (1 - 20 / noise) / (1 - 10 / noise), rel=0.01
    )
    np.testing.assert_array_equal(ldct_jax.load(texture=90)(NOISY), NOISY)


@pytest.mark.promise("quality-best")
def test_best_is_the_mean_over_the_eight_symmetries(routine):
    best = ldct_jax.load(quality="best")
    image = NOISY[0]
    out = best(image)
    turned = np.rot90(image[:, ::-1]).copy()
    np.testing.assert_allclose(best(turned), np.rot90(out[:, ::-1]), atol=1e-3)
    expected = [
        np.rot90(routine(np.rot90(image[:, ::f], k).copy()), -k)[:, ::f]
        for f in (1, -1)
        for k in range(4)
    ]
    np.testing.assert_allclose(out, np.mean(expected, axis=0), atol=1e-3)
    assert np.abs(out - routine(image)).max() > 0.1
    # Turns don't change what passes as it is; a slice that isn't square keeps its shape.
    quiet = (40 + RNG.normal(size=(2, 40, 64))).astype(np.float32)
    np.testing.assert_array_equal(best(quiet), quiet)


def test_choices_are_in_the_name_and_the_digest(routine):
    given = [{}, {"texture": "smooth"}, {"texture": 12}, {"quality": "best"}]
    made = [
        find(None).chosen(**{"texture": "routine", "quality": "normal", **g}).open() for g in given
    ]
    assert [m.name for m in made] == ["pcn3", "pcn3 smooth", "pcn3 12 HU", "pcn3 best"]
    assert len({m.digest for m in made}) == 4 and made[0].digest == routine.digest


def test_what_is_no_choice_is_refused():
    for bad in ("rough", "-3", "nan", "inf", 0):
        with pytest.raises(UsageError, match="texture"):
            find(None).chosen(texture=bad, quality="normal")
    with pytest.raises(UsageError, match="quality"):
        find(None).chosen(texture="routine", quality="fast")
    with pytest.raises(UsageError, match="gaussian has no texture"):
        dataclasses.replace(find("gaussian"), texture=choices.SMOOTH).open()
