"""Test slices are scored where the network leaves them, with what is known of them found once."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.data.noise_estimate import flat_tissue, window_side
from ldct_jax.data.pairs import concatenate
from ldct_jax.data.splits import Split
from ldct_jax.hu import FULL
from ldct_jax.metrics.protocols import PCN
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.study import one_pass
from ldct_jax.study.experiment import Scale
from ldct_jax.study.scoring import SCROLLED, Scorer
from ldct_jax.study.study import Measured, Study
from tests import tiny

SIZE, SLICES = 96, 9
SPLIT = Split(("P1",), (), ("P0",))


@pytest.fixture(scope="module")
def pairs():
    found = phantom_pairs(Phantoms(patients=2, slices=SLICES, size=SIZE, pixel_mm=380 / SIZE))
    named = dict(zip(found.patient_names, ("P0", "P1"), strict=True))
    return dataclasses.replace(found, patients=tuple(named[p] for p in found.patients))


def examined(pairs, **fields):
    study = Study("tiny", {}, **fields)
    return Scorer(study, Scale("tiny", "tiny"), pairs)


@pytest.fixture(scope="module")
def variables():
    return tiny.MODEL.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))


class OnDevice:
    """Images of which a part can be taken; as a whole they don't come to the host."""

    def __init__(self, images, taken: list):
        self.images, self.taken = images, taken

    def __getitem__(self, index):
        self.taken.append(part := self.images[index])
        return part

    def __array__(self, *_, **__):
        raise AssertionError("images were brought to the host")

    __iter__ = __len__ = None


@pytest.mark.parametrize("measures", [False, True])
def test_predictions_stay_on_the_device_but_for_what_figures_show(
    measures, pairs, variables, monkeypatch
):
    taken: list = []
    clones, add = WholeSlices.clones, one_pass.OnePass.add
    monkeypatch.setattr(
        WholeSlices, "clones", lambda *a: ((at, OnDevice(x, taken)) for at, x in clones(*a))
    )
    monkeypatch.setattr(one_pass.OnePass, "add", lambda self, at, x: add(self, at, x.images))
    scorer = examined(pairs, measures=(lambda tested: Measured(),) if measures else ())
    scorer.result(variables, WholeSlices(tiny.MODEL, FULL, batch=3), SPLIT, PCN)
    shapes = Counter(len(part) for part in taken)
    # All clones of one slice, the last clone of those to scroll through; batches for a measure.
    assert shapes == {tiny.MODEL.n_clones: 1, 1: SCROLLED} | ({3: SLICES // 3} if measures else {})


def test_scores_and_noise_are_those_of_the_images(pairs, variables):
    slices = WholeSlices(tiny.MODEL, FULL, batch=2)
    test = pairs.of(["P0"])
    found, samples = examined(pairs).result(variables, slices, SPLIT, PCN)
    batches = [np.asarray(x) for _, x in slices.clones(variables, test.low_hu)]
    images = np.concatenate(batches, axis=1)[:, :SLICES]
    assert len(found["test"]) == len(images) == tiny.MODEL.n_clones
    for rows, clone in zip(found["test"], images, strict=True):
        scores = PCN.score(clone, test.full_hu)
        for name in ("psnr_db", "ssim", "rmse"):
            wanted = getattr(scores, name)
            np.testing.assert_allclose([row[name] for row in rows], wanted, rtol=1e-5)
    np.testing.assert_array_equal(samples["clones"], np.rint(images[:, SLICES // 2]))
    assert samples["scrolled"].shape == (SCROLLED, SIZE, SIZE)
    np.testing.assert_array_equal(samples["scrolled"][[0, -1]], np.rint(images[-1, [0, -1]]))


def test_the_noise_is_the_variance_of_the_flat_windows(pairs):
    """In double precision, window by window, by SciPy."""
    test = one_pass.Reference(pairs.of(["P0"]))
    side, images = window_side(test.pixel_mm), np.float64(test.pairs.low_hu)
    assert test.flat.any()
    moments = [
        (ndimage.uniform_filter(x, side), ndimage.uniform_filter(x * x, side)) for x in images
    ]
    variance = np.stack([square - mean * mean for mean, square in moments])
    variance *= side**2 / (side**2 - 1)
    wanted = float(np.sqrt(variance[test.flat].mean()))
    done = one_pass.OnePass(test, PCN)
    for i in range(0, SLICES):
        done.add(np.array([i]), test.pairs.low_hu[None, i : i + 1])
    assert done.done()[1] == {"": pytest.approx(wanted, rel=1e-4)}


def test_each_dose_has_its_own_noise(pairs):
    test = pairs.of(["P0"])
    noisier = dataclasses.replace(
        test, low_hu=2 * test.low_hu - test.full_hu, dose=(test.dose or 0.5) / 4
    )
    both = concatenate([dataclasses.replace(test, dose=test.dose or 0.5), noisier])
    known = one_pass.Reference(both)
    done = one_pass.OnePass(known, PCN)
    for i in range(len(both)):
        done.add(np.array([i]), both.low_hu[None, i : i + 1])
    first, second = done.done()[1].values()
    assert second > 1.5 * first > 0


def test_flat_tissue_is_looked_for_once_for_all_rows(pairs, variables, monkeypatch):
    looked = []
    monkeypatch.setattr(
        one_pass, "flat_tissue", lambda *a: looked.append(len(a[0])) or flat_tissue(*a)
    )
    scorer, slices = examined(pairs), WholeSlices(tiny.MODEL, FULL)
    for _ in range(2):
        scorer.result(variables, slices, SPLIT, PCN)
    scorer.references([SPLIT], PCN, {})
    assert looked == [SLICES]
