"""Slices at several doses: how they are made, kept together, chosen and scored."""

import dataclasses

import numpy as np
import pytest

from ldct_jax.data.derived import thinned
from ldct_jax.data.embedded import Phantoms, dose_words, phantom_pairs, write_phantoms
from ldct_jax.data.feed.mapped import MappedStack
from ldct_jax.data.mixed_dose import MixedDose
from ldct_jax.data.pairs import concatenate
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.source import load_doses
from ldct_jax.data.store import Store
from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.protocols import PCN
from ldct_jax.study import results

SPEC = Phantoms(patients=2, slices=2, size=64, pixel_mm=6.0, dose=0.5, added_sd_hu=20.0)
DOSES = (0.5, 0.1)


@pytest.fixture(scope="module")
def pairs():
    return phantom_pairs(SPEC, DOSES, "paper")


def added_sd(pairs) -> float:
    """SD of the added noise where nothing is cut off at -1024 HU."""
    body = pairs.full_hu > -500
    return float(np.std((pairs.low_hu.astype(float) - pairs.full_hu)[body]))


def neighbours(pairs) -> float:
    """Correlation of the added noise with itself, a row further."""
    noise = (pairs.low_hu.astype(float) - pairs.full_hu)[:, 24:40, 20:44]
    return float(np.mean(noise[:, 1:] * noise[:, :-1]) / np.mean(noise**2))


@pytest.mark.parametrize(
    ("rule", "ratio"), [("paper", (99 / 3) ** 0.5), ("physics", (9 / 1) ** 0.5)]
)
def test_noise_grows_by_the_rule(rule, ratio):
    pairs = phantom_pairs(SPEC, DOSES, rule)
    assert pairs.dose_levels == DOSES and pairs.dose is None and len(pairs) == 8
    half, tenth = (pairs.at(d) for d in DOSES)
    assert (half.dose, half.doses) == (0.5, None)
    np.testing.assert_array_equal(half.full_hu, tenth.full_hu)
    assert added_sd(tenth) / added_sd(half) == pytest.approx(ratio, rel=0.05)
    one = phantom_pairs(SPEC)
    np.testing.assert_array_equal(one.full_hu, half.full_hu)


def test_the_plain_mtf_shapes_noise_of_the_same_level(pairs):
    """Without the ramp of filtered back projection there is more of it at low frequencies."""
    plain = phantom_pairs(SPEC, DOSES, "paper", "mtf")
    np.testing.assert_array_equal(plain.full_hu, pairs.full_hu)
    assert added_sd(plain) == pytest.approx(added_sd(pairs), rel=0.1)
    assert neighbours(plain) > neighbours(pairs) + 0.05
    assert "shaped by the MTF" in plain.source and "shaped by" not in pairs.source


@pytest.mark.parametrize(
    ("dose", "words"), [(0.25, " 25%"), (0.07, " 7%"), (0.125, " 12.5%"), (0.005, " 0.5%")]
)
def test_a_dose_of_half_a_per_cent_is_not_called_none(dose, words):
    spec = dataclasses.replace(SPEC, patients=1, slices=1, dose=dose)
    assert f"{words} dose simulated" in phantom_pairs(spec).source
    assert f"doses of{words}, 75% simulated" in dose_words((dose, 0.75), "physics", "mtf")
    assert f"{words} dose simulated" in f" {LowDose(dose).describe()}"
    assert f"doses of{words} to 50% drawn" in MixedDose(fraction=(dose, 0.5)).describe()


def test_a_torso_is_an_abdomen_below_a_thorax():
    def of(region: str, slices: int) -> np.ndarray:
        return phantom_pairs(
            dataclasses.replace(SPEC, patients=1, region=region, slices=slices, added_sd_hu=0.0)
        ).full_hu

    torso = of("torso", 3)
    np.testing.assert_array_equal(torso[:2], of("abdomen", 2))
    np.testing.assert_array_equal(torso[2:], of("thorax", 1))
    np.testing.assert_array_equal(of("torso", 1), of("abdomen", 1))


def test_the_same_slices_are_drawn_at_every_dose(pairs):
    drawn = pairs.sample(1, seed=3)
    assert drawn.dose_levels == DOSES and len(drawn) == 4
    np.testing.assert_array_equal(drawn.at(0.5).full_hu, drawn.at(0.1).full_hu)
    assert drawn.at(0.5).patients == pairs.patient_names
    own = pairs.of(["phantom-02"])
    assert own.dose_levels == DOSES and set(own.patients) == {"phantom-02"}
    with pytest.raises(DataError, match=r"0\.2"):
        pairs.at(0.2)


def test_concatenated_stacks_keep_their_doses_and_stay_on_the_disk(pairs):
    half, tenth = (pairs.at(d) for d in DOSES)
    both = concatenate([tenth, half])
    assert both.dose_levels == (0.1, 0.5)
    np.testing.assert_array_equal(both.at(0.5).low_hu, half.low_hu)
    assert concatenate([half, half]).dose == 0.5 and concatenate([half, half]).doses is None
    mapped = dataclasses.replace(
        half, low_hu=MappedStack([half.low_hu]), full_hu=MappedStack([half.full_hu])
    )
    on_disk = concatenate([mapped, mapped])
    assert isinstance(on_disk.low_hu, MappedStack)
    np.testing.assert_array_equal(np.asarray(on_disk.low_hu)[4:], half.low_hu)
    with pytest.raises(DataError, match="matrix"):
        concatenate([half, half.central(32, 32)])


def test_the_central_region(pairs):
    part = pairs.central(20, 30)
    assert part.low_hu.shape == (8, 20, 30)
    np.testing.assert_array_equal(part.full_hu, pairs.full_hu[:, 22:42, 17:47])
    with pytest.raises(DataError, match="100x20"):
        pairs.central(100, 20)


def test_rows_carry_their_dose(pairs):
    rows = results.score_rows(PCN.score(pairs.low_hu, pairs.full_hu), pairs)
    assert [row["dose"] for row in rows] == pairs.doses.tolist()
    half = pairs.at(0.5)
    assert "dose" not in results.score_rows(PCN.score(half.low_hu, half.full_hu), half)[0]


def test_doses_of_a_store_are_simulated_from_its_normal_dose(tmp_path):
    write_phantoms(SPEC, tmp_path / "store")
    pairs = load_doses(
        tmp_path / "store", doses=(1.0, 0.5, 0.25), rule="paper", cache=tmp_path / "cache"
    )
    assert set(pairs.dose_levels) == {1.0, 0.5, 0.25} and "1/dose" in pairs.source
    np.testing.assert_array_equal(pairs.at(1.0).low_hu, pairs.at(1.0).full_hu)
    ratio = added_sd(pairs.at(0.25)) / added_sd(pairs.at(0.5))
    assert ratio == pytest.approx((15 / 3) ** 0.5, rel=0.07)
    plain = load_doses(
        tmp_path / "store", doses=(0.5,), rule="paper", spectrum="mtf", cache=tmp_path / "cache"
    )
    assert added_sd(plain) == pytest.approx(added_sd(pairs.at(0.5)), rel=0.1)
    assert neighbours(plain) > neighbours(pairs.at(0.5)) + 0.05 and "shaped" in plain.source


def test_a_few_slices_of_each_patient_are_enough_for_many_doses(tmp_path):
    write_phantoms(dataclasses.replace(SPEC, patients=3, slices=5), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    # The second series belongs to the first patient too.
    series = [dataclasses.replace(s, patient=store.patients[0]) for s in store.series[:2]]
    series += store.series[2:]
    store = dataclasses.replace(store, series=tuple(series))
    few = thinned(store, tmp_path / "cache", 4)
    assert few.patients == store.patients
    counts = {p: sum(s.full.shape[0] for s in few.series if s.patient == p) for p in few.patients}
    assert set(counts.values()) == {4}
    np.testing.assert_array_equal(few.full(0), store.full(0)[[1, 3]])
    np.testing.assert_array_equal(few.full(1), store.full(1)[[1, 3]])
    assert few.series[0].offsets_mm == tuple(store.series[0].offsets_mm[k] for k in (1, 3))
    assert "at most 4 evenly spread slices" in few.source
    assert thinned(store, tmp_path / "cache", 4).folder == few.folder
    assert thinned(store, tmp_path / "cache", 10) is store
    with pytest.raises(UsageError, match="at least one"):
        thinned(store, tmp_path / "cache", 0)
