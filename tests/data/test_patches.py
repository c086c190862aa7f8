"""Every position of the grid once an epoch, and the cut equals the slice it was cut from."""

import jax
import numpy as np
import pytest

from ldct_jax.data.feed import patches as p
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import DataError
from tests import tiny

pytestmark = pytest.mark.core


def test_the_papers_grid():
    grid = p.Grid(90, 512, 512, size=55, stride=4)
    assert (grid.rows, grid.columns) == (115, 115)
    assert len(grid) == 90 * 115**2


@pytest.mark.parametrize("batch", [1, 5, 7, 100])
def test_each_patch_exactly_once_an_epoch(batch):
    n = 47
    order = p.epoch_order(n, batch, seed=1, epoch=3)
    assert order.shape == (-(-n // batch), batch)
    indices, weights = p.decode(order)
    assert sorted(indices[weights > 0].tolist()) == list(range(n))
    assert weights.sum() == n
    # Padding shows real patches, so that BatchNorm sees no garbage.
    assert indices.min() >= 0 and indices.max() < n


def test_order_is_a_function_of_seed_and_epoch():
    same = p.epoch_order(50, 8, seed=1, epoch=2)
    np.testing.assert_array_equal(same, p.epoch_order(50, 8, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not np.array_equal(same, p.epoch_order(50, 8, seed=seed, epoch=epoch))


def test_random_places_are_so_many_of_each_slice_and_others_in_every_epoch():
    patches = p.Patches(size=16, stride=8, batch=8, per_slice=15)
    grid = p.Grid.of(np.zeros((3, 40, 50)), patches)
    assert len(grid) == 45 and len(p.Grid.of(np.zeros((3, 40, 50)), p.Patches(16, 8))) == 3 * 4 * 5

    def places(epoch):
        index, weight = p.decode(grid.order(patches.batch, 1, epoch))
        return np.stack(grid.position(index[weight > 0]), -1)

    first, second = places(0), places(1)
    np.testing.assert_array_equal(first, places(0))
    for found in (first, second):
        assert np.bincount(found[:, 0]).tolist() == [15, 15, 15]
        assert found[:, 1].max() <= 24 and found[:, 2].max() <= 34
        # Not on the grid of stride 8, and all over the slices.
        assert len(set(found[:, 1] % 8)) > 4 and np.ptp(found[:, 2]) > 20
    assert len({*map(tuple, first)} & {*map(tuple, second)}) < 5


def test_more_places_than_can_be_counted_are_refused():
    with pytest.raises(DataError, match="fewer slices"):
        p.Grid(20_000, 512, 512, size=55, stride=1)


def test_cut_is_the_slice_at_the_position():
    pairs = tiny.pairs(patients=3)
    grid = p.Grid(*pairs.low_hu.shape, 16, 7)
    index = np.arange(len(grid), dtype=np.int32)
    found = jax.jit(lambda s, i: p.cut(s, i, grid))(pairs.low_hu, index)
    for i in range(len(grid)):
        n, top, left = grid.position(i)
        expected = pairs.low_hu[n, top : top + 16, left : left + 16]
        np.testing.assert_array_equal(found[i], expected)
    n, top, left = grid.position(len(grid) - 1)
    assert (n, top, left) == (2, 21, 21)


def test_the_feeder_gives_low_and_full_of_the_same_place():
    feeder = tiny.feeder(batch=5)
    seen = []
    inputs = feeder.inputs(0, 0, feeder.steps_per_epoch)
    for step in range(feeder.steps_per_epoch):
        batch = feeder.batch(inputs, step)
        real = np.asarray(batch.weight) > 0
        seen += np.asarray(batch.index)[real].tolist()
        pairs = tiny.pairs()
        for k in range(5):
            n, top, left = (int(v) for v in feeder.grid.position(batch.index[k]))
            place = np.s_[n, top : top + 16, left : left + 16]
            np.testing.assert_array_equal(batch.low_hu[k], pairs.low_hu[place])
            np.testing.assert_array_equal(batch.full_hu[k], pairs.full_hu[place])
    assert sorted(seen) == list(range(len(feeder.grid)))


def test_patches_larger_than_the_slices_are_refused():
    with pytest.raises(DataError, match="don't fit"):
        p.Grid(1, 40, 60, 55, 4)


def test_pairs_that_do_not_belong_together_are_refused():
    a = np.zeros((2, 4, 4), np.int16)
    one = np.ones(2)
    with pytest.raises(DataError, match="equal stacks"):
        PairedSlices(a, a[:1], ("x", "x"), one, one, "")
    with pytest.raises(DataError, match="int16"):
        PairedSlices(a.astype(float), a.astype(float), ("x", "x"), one, one, "")
    with pytest.raises(DataError, match="no such patient"):
        PairedSlices(a, a, ("x", "y"), one, one, "").of(["z"])


def test_natural_images_carry_the_stated_noise_in_grey_units():
    from ldct_jax.data.natural import PHOTOGRAPHS, NaturalImages
    from ldct_jax.hu import FULL

    pairs = NaturalImages(sigma=25, tile=256).pairs(FULL)
    assert set(pairs.patients) == set(PHOTOGRAPHS) and len(pairs) >= len(PHOTOGRAPHS)
    low, full = FULL.to_unit(pairs.low_hu), FULL.to_unit(pairs.full_hu)
    assert full.min() >= -1e-3 and full.max() <= 1 + 1e-3
    assert abs(float((low - full).std()) - 25 / 255) < 1e-3


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey-and-alpha.png", np.full((32, 32, 2), 200, np.uint8)),
        ("floats.tif", np.full((32, 32), 0.5, np.float32)),
        ("pages.tif", np.full((5, 32, 32), 200, np.uint8)),
    ],
)
def test_photographs_of_another_kind_are_refused_by_name(name, image, tmp_path):
    from skimage import io

    from ldct_jax.data.natural import NaturalImages
    from ldct_jax.hu import FULL

    io.imsave(tmp_path / name, image, check_contrast=False)
    with pytest.raises(DataError, match=f"{name}.*photographs are grey or RGB"):
        NaturalImages(tile=16, folder=str(tmp_path)).pairs(FULL)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3), (32, 32, 4)])
def test_own_photographs_are_grey_of_their_range(shape, tmp_path):
    from skimage import io

    from ldct_jax.data.natural import NaturalImages
    from ldct_jax.hu import FULL

    io.imsave(tmp_path / "own.png", np.full(shape, 102, np.uint8), check_contrast=False)
    pairs = NaturalImages(tile=16, folder=str(tmp_path)).pairs(FULL)
    assert len(pairs) == 4 and np.ptp(pairs.full_hu) == 0
    assert FULL.to_unit(pairs.full_hu).mean() == pytest.approx(0.4, abs=1e-3)
