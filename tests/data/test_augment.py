"""Augmentations change both images of a pair alike, by key, and as their paper says."""

import jax
import numpy as np
import pytest

from ldct_jax.data.feed.augment import AUGMENTATIONS, MAX_OFFSET, _moved, augment
from ldct_jax.data.feed.patches import Patches
from ldct_jax.errors import UsageError

pytestmark = pytest.mark.core
KEY = jax.random.key(0)
INDEX = np.arange(6)
LOW = np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32)
NAMES = [n for n in AUGMENTATIONS if n not in ("none", "noise_25", "dihedral_offset")]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_move_together_by_index_and_epoch(name):
    a, b = augment(name, KEY, 1, INDEX, LOW, 2 * LOW)
    np.testing.assert_allclose(b, 2 * np.asarray(a), atol=1e-5)
    assert not np.allclose(a, LOW)
    back, _ = augment(name, KEY, 1, INDEX[::-1].copy(), LOW[::-1].copy(), LOW)
    np.testing.assert_array_equal(back[::-1], a)
    other, _ = augment(name, KEY, 2, INDEX, LOW, LOW)
    assert not np.allclose(other, a)


def test_dihedral_is_one_of_the_eight_symmetries():
    a, _ = augment("dihedral", KEY, 1, INDEX, LOW, LOW)
    for x, y in zip(a, LOW, strict=True):
        turns = [np.rot90(f, k) for f in (y, y[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(x, t) for t in turns)


def test_an_offset_is_the_same_on_both_images_and_another_for_each_patch():
    low, full = (np.asarray(x) for x in augment("dihedral_offset", KEY, 1, INDEX, LOW, LOW))
    np.testing.assert_array_equal(low, full)
    offsets = (low - LOW).mean((1, 2))  # turning keeps the mean
    assert np.ptp(offsets) > 0.1 and np.abs(offsets).max() <= MAX_OFFSET
    turned = (low - offsets[:, None, None]).reshape(len(LOW), -1)
    np.testing.assert_allclose(np.sort(turned), np.sort(LOW.reshape(len(LOW), -1)), atol=1e-5)


def test_a_quarter_turn_and_a_shift_are_exact():
    image = LOW[:1]
    turned = np.asarray(_moved(image, np.pi / 2, np.zeros(2), mode="mirror"))[0]
    assert np.allclose(turned, np.rot90(image[0]), atol=1e-4) or np.allclose(
        turned, np.rot90(image[0], -1), atol=1e-4
    )
    shifted = np.asarray(_moved(image, 0.0, np.array([3.0, -2.0]), mode="constant"))[0]
    np.testing.assert_allclose(shifted[3:, :-2], image[0, :-3, 2:], atol=1e-5)
    assert not shifted[:3].any() and not shifted[:, -2:].any()


def test_hrnets_shift_stays_below_a_quarter_and_its_tilt_below_ten_degrees():
    dot = np.zeros((40, 32, 32), np.float32)
    dot[:, 14:18, 14:18] = 1.0
    moved, _ = augment("shift_rotate", KEY, 0, np.arange(40), dot, dot)
    mass = np.asarray(moved).sum((1, 2))
    rows = (np.asarray(moved).sum(2) * np.arange(32)).sum(1) / mass - 15.5
    assert np.abs(rows).max() <= 8.2 and np.abs(rows).max() > 5


def test_photographs_get_fresh_noise_in_every_epoch():
    clean = np.full((6, 64, 64), 0.5, np.float32)
    first, full = augment("noise_25", KEY, 0, INDEX, clean, clean)
    assert np.asarray(first).std() == pytest.approx(25 / 255, rel=0.02)
    np.testing.assert_array_equal(full, clean)
    second, _ = augment("noise_25", KEY, 1, INDEX, clean, clean)
    noise = [np.asarray(x).ravel() - 0.5 for x in (first, second)]
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05


def test_an_unknown_augmentation_is_refused_early():
    with pytest.raises(UsageError, match="shift_rotate"):
        Patches(augment="flip")
