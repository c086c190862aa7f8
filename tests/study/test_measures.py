"""What experiments measure beside scores, on slices whose answer is known."""

import dataclasses

import numpy as np
import pytest

from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.data.pairs import concatenate
from ldct_jax.metrics import protocols
from ldct_jax.study import scoring
from ldct_jax.study import study as studies
from ldct_jax.study.measures import (
    Blended,
    Elsewhere,
    First,
    LesionCNR,
    NoiseParts,
    PrintedSlice,
    TissueBias,
    TissueSlices,
)

PROTOCOL = protocols.DCSWGAN


@pytest.fixture(scope="module")
def tested():
    """Two patients of three slices, and the mean of low and normal dose as the result."""
    phantoms = Phantoms(
        patients=2, slices=3, size=64, pixel_mm=6.0, region="torso", added_sd_hu=20.0
    )
    pairs = phantom_pairs(phantoms)
    denoised = (pairs.low_hu.astype(np.float32) + pairs.full_hu) / 2
    return studies.Tested(pairs, denoised, lambda hu: hu, PROTOCOL)


def test_a_tissues_slice_is_the_first_patients_with_most_of_it(tested):
    full = tested.pairs.full_hu[:3]
    lung = ((full > -950) & (full < -600)).sum((1, 2))
    assert lung.max() > 2 * np.sort(lung)[-2], "one slice shows the thorax"
    measure = TissueSlices({"lung": (-950.0, -600.0)}, middle="lesion")
    found = measure(tested)
    for name, i in (("lung", int(lung.argmax())), ("lesion", 1)):
        rmse = PROTOCOL.score(tested.denoised[[i]], full[[i]]).rmse[0]
        assert found.numbers[measure.heads[name]] == pytest.approx(rmse)
        np.testing.assert_array_equal(found.images[f"{name}_full"], full[i])
        np.testing.assert_array_equal(
            found.images[f"{name}_result"], np.rint(tested.denoised[i]).astype(np.int16)
        )


@pytest.mark.parametrize("order", ["several doses", "patients in turn"])
def test_the_first_patients_result_is_not_another_patients_or_doses(order):
    """A result of 5 HU beside the normal dose had an RMSE of up to 264 HU."""
    spec = Phantoms(patients=2, slices=3, size=64, pixel_mm=6.0, added_sd_hu=20.0)
    if order == "several doses":
        pairs = phantom_pairs(spec, doses=(0.5, 0.1))
        pairs = concatenate([pairs.at(dose) for dose in (0.5, 0.1)])
    else:
        pairs = phantom_pairs(spec).take([0, 3, 1, 4, 2, 5])
    denoised = pairs.full_hu.astype(np.float32) + 5
    first = First.of(studies.Tested(pairs, denoised, lambda hu: hu, PROTOCOL))
    np.testing.assert_array_equal(first.denoised, first.full + 5)
    last = pairs.at(pairs.dose_levels[-1]).of([pairs.patients[0]])
    np.testing.assert_array_equal(first.low, last.low_hu)


def test_a_printed_slice_is_found_by_what_its_low_dose_scores(tested):
    low = PROTOCOL.score(tested.pairs.low_hu, tested.pairs.full_hu)
    printed = (round(float(low.psnr_db[1]), 3), round(float(low.ssim[1]), 2), 0.1)
    own = PROTOCOL.score(tested.denoised, tested.pairs.full_hu)
    measure = PrintedSlice("fig_4", printed)
    assert measure(tested).numbers == {
        "fig_4_psnr_db": float(own.psnr_db[1]),
        "fig_4_ssim": float(own.ssim[1]),
        "fig_4_rmse": float(own.rmse[1]),
    }
    assert list(measure.heads.values()) == list(measure(tested).numbers)
    assert PrintedSlice("fig_4", (printed[0] + 1, *printed[1:]))(tested).numbers == {}


def test_the_input_has_no_removed_noise_and_a_blend_is_nearer_to_it(tested):
    untouched = dataclasses.replace(tested, denoised=tested.pairs.low_hu)
    assert NoiseParts()(untouched).numbers == {}
    found = NoiseParts()(tested).numbers
    assert found["cos_removed_added"] == pytest.approx(1.0, abs=1e-3)
    assert found["projection_added"] == pytest.approx(0.5, abs=1e-3)
    blend = Blended(0.5)(tested)
    expected = (tested.denoised + tested.pairs.low_hu) / 2
    np.testing.assert_allclose(
        blend.scores["blended"].rmse, PROTOCOL.score(expected, tested.pairs.full_hu).rmse
    )


def test_the_bias_is_that_of_each_dose():
    spec = Phantoms(patients=1, slices=1, size=96, pixel_mm=4.0)
    one = phantom_pairs(spec, doses=(0.1,))
    tested = studies.Tested(one, one.full_hu + 3.0, lambda hu: hu, PROTOCOL)
    one_bias = TissueBias()(tested).numbers["bias_hu"]
    pairs = phantom_pairs(spec, doses=(0.5, 0.1))
    denoised = pairs.full_hu + np.where(pairs.doses == 0.5, 3.0, -7.0)[:, None, None]
    tested = studies.Tested(pairs, denoised, lambda hu: hu, PROTOCOL)
    bias = TissueBias()(tested).numbers["bias_hu"]
    assert bias["0.5"] - bias["0.1"] == pytest.approx(10.0)
    assert one_bias == {"0.1": pytest.approx(bias["0.5"])}


def test_what_a_table_asks_for_is_measured(tested):
    for measure in (LesionCNR(-40.0, 8.0), Elsewhere()):
        found = measure(tested)
        assert set(measure.heads.values()) <= set(found.numbers)
    assert set(found.images) == {"other_low", "other_full", "other_result"}


def test_stored_rows_depend_on_a_measures_arguments():
    keys = {scoring._digest(m) for m in (Blended(0.7), Blended(0.5), NoiseParts(), own_measure)}
    assert len(keys) == 4 and scoring._digest(Blended(0.7)) in keys


def own_measure(tested):
    raise AssertionError
