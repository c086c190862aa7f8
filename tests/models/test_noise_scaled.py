"""A network in units of noise: the measurement, the scale, and what a quiet image keeps."""

import functools

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.data.noise_units import NOISE, in_noise_units
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import UsageError
from ldct_jax.export.source import twin_for_onnx
from ldct_jax.hu import Window
from ldct_jax.models import slice_noise
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.noise_scaled import NoiseScaled, with_local_mean_of, with_series_noise
from ldct_jax.models.slice_noise import slice_noise_hu
from ldct_jax.models.wgan_vgg import WGANVGG
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.record import from_record, to_record
from tests.dicom_fixtures import anatomy

pytestmark = pytest.mark.core

HU = Window(0.0, 1.0)
BASE = ClonesNet(n_filters=4, n_clones=2, n_layers=4, final_relu=False)


def noisy(sd: float, size: int = 128, level: float = 40.0, seed: int = 0) -> np.ndarray:
    """A flat slice with white noise, (1, size, size) HU."""
    return level + np.random.default_rng(seed).normal(0, sd, (1, size, size)).astype(np.float32)


PINNED = 17.797


@pytest.fixture(scope="module")
def params():
    drawn = BASE.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))["params"]
    return jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape), drawn)


def run(model, params, hu):
    return WholeSlices(model, HU)({"params": {"base": params}}, hu)


def test_the_local_mean_is_scipys_gaussian_over_the_body():
    x = np.random.default_rng(2).normal(40, 20, (2, 96, 80)).astype(np.float32)
    free = np.full_like(x, 10.0)
    free[:, :40] = -950
    body = (free > -900).astype(np.float64)
    blur = functools.partial(gaussian_filter, sigma=(0, 5, 5), mode="constant", truncate=8)
    wanted = free + body * blur(body * (x - free)) / np.maximum(blur(body), 1e-3)
    found = np.asarray(with_local_mean_of(x[..., None], free[..., None], 5.0))[..., 0]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    np.testing.assert_array_equal(found[:, :40], free[:, :40])
    stages = with_local_mean_of(x[..., None], np.stack([free - 5, free])[..., None], 5.0)
    np.testing.assert_allclose(stages[1, ..., 0], found, atol=1e-3)


def test_ct_numbers_stay_where_the_network_is_biased(params):
    """A network whose every pixel is too dark by a tenth of the noise."""
    biased = jax.tree.map(jax.numpy.copy, params)
    biased["clone"]["deconv2"]["bias"] -= 0.05
    hu = noisy(30.0, size=160)
    hu[:, :20] = -1000
    free = NoiseScaled(BASE, routine_hu=0.0, least=0.0)
    inside = np.s_[:, 60:120, 40:120]
    off = (run(free, biased, hu) - hu)[inside].mean()
    kept = (run(free.copy(mean_px=16.0), biased, hu) - hu)[inside].mean()
    assert off < -2.0
    assert abs(kept) < 0.1


@pytest.mark.parametrize("sd", [3.0, 11.0, 40.0, 120.0])
def test_the_noise_of_flat_tissue_is_told(sd):
    # The lowest tenth of windows of 81 pixels: 10 % below the SD of white noise.
    assert float(slice_noise_hu(noisy(sd))[0]) == pytest.approx(0.9 * sd, rel=0.03)


def test_it_is_the_quantile_of_the_windows_own_spread():
    """The interpolated share against numpy's quantile of the same windows."""
    hu = np.clip(anatomy(0, 1, 128) + noisy(15.0, level=0.0), -1024, 3071).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(hu[0], (9, 9))[::4, ::4].reshape(-1, 81)
    mean, sd = windows.mean(1), windows.std(1, ddof=1)
    soft = sd[(mean > -50) & (mean < 200)]
    assert len(soft) > 60
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(np.quantile(soft, 0.1), rel=0.02)


def test_lung_metal_and_air_do_not_count(monkeypatch):
    """All of them are quieter than the tissue here, so that they would be the lowest tenth."""
    hu, quiet = noisy(20.0), noisy(3.0, level=0.0, seed=1)
    alone = float(slice_noise_hu(hu)[0])
    hu[:, :40] = -1000 + quiet[:, :40]
    hu[:, 40:60] = -800 + quiet[:, 40:60]
    hu[:, 104:, 96:] = 12_000 + quiet[:, 104:, 96:]
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(alone, rel=0.06)
    monkeypatch.setattr(slice_noise, "SOFT_TISSUE_HU", (-1e9, 1e9))
    assert float(slice_noise_hu(hu)[0]) < 4


def test_what_was_masked_or_padded_does_not_count():
    hu = noisy(40.0)
    alone = float(slice_noise_hu(hu)[0])
    hu[:, :, :40] = 0
    hu[:, 100:] = -2000
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(alone, rel=0.06)
    lung = noisy(40.0, level=-700.0)
    lung[:, :, 64:] = 0
    assert float(slice_noise_hu(lung)[0]) == pytest.approx(alone, rel=0.06)


def test_without_soft_tissue_whatever_is_no_air_counts():
    hu = noisy(30.0, level=-700.0)
    hu[:, :64] = -1000 + noisy(3.0, level=0.0)[:, :64]
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(27.0, rel=0.06)
    # Of air alone its own; of nothing but one value the least there is.
    assert float(slice_noise_hu(noisy(30.0, level=-1000.0))[0]) == pytest.approx(27.0, rel=0.06)
    assert float(slice_noise_hu(np.full((1, 64, 64), -1024.0))[0]) == 1.0
    with pytest.raises(UsageError, match="no window of 9x9"):
        slice_noise_hu(np.zeros((1, 8, 64)))


def test_a_small_crop_is_measured_too():
    """36 windows are all that 32x32 pixels have; some of them in air."""
    hu = noisy(40.0, size=32)
    hu[:, :10] = -1024
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(36.0, rel=0.15)


def test_released_models_depend_on_these_numbers():
    """Other constants are another model under the same digest: then it has to be trained again."""
    hu = np.clip(anatomy(3, 1, 96) + noisy(17.0, 96, 0.0), -1024, 3071).astype(np.float32)
    assert float(slice_noise_hu(hu)[0]) == pytest.approx(PINNED, rel=1e-3)


def test_every_slice_has_its_own():
    stack = np.concatenate([noisy(5.0), noisy(50.0)])
    np.testing.assert_allclose(
        slice_noise_hu(stack), [slice_noise_hu(s[None])[0] for s in stack], rtol=1e-6
    )


def test_the_result_scales_with_the_image(params):
    """Twice the image in HU has twice the result where nothing is kept: what units of noise are."""
    model = NoiseScaled(BASE, routine_hu=0.0, least=0.0)
    hu = noisy(12.0, level=0.0, size=64)
    once, twice = run(model, params, hu), run(model, params, 2 * hu)
    assert np.abs(once - hu).max() > 1
    np.testing.assert_allclose(twice, 2 * once, rtol=0.02, atol=0.5)


def test_base_sees_noise_of_one_over_unit(params):
    model = NoiseScaled(BASE, unit=3.0, routine_hu=0.0, least=0.0)
    hu = noisy(30.0, size=64)
    noise = float(slice_noise_hu(hu)[0])
    inner = BASE.apply({"params": params}, hu[..., None] / (3.0 * noise))[-1, ..., 0]
    np.testing.assert_allclose(run(model, params, hu), inner * 3.0 * noise, rtol=1e-4, atol=1e-2)


@pytest.mark.promise("quiet-stays")
def test_a_routine_scan_passes_and_noise_above_is_kept_in_part(params):
    free = NoiseScaled(BASE, routine_hu=0.0, least=0.0)
    model = NoiseScaled(BASE, routine_hu=10.0, power=2.0, least=0.0)
    quiet, loud = noisy(8.0, size=64), noisy(40.0, size=64)
    np.testing.assert_array_equal(run(model, params, quiet), quiet)
    kept = (10.0 / float(slice_noise_hu(loud)[0])) ** 2
    removed = run(model, params, loud) - loud
    assert np.abs(removed).max() > 1
    np.testing.assert_allclose(
        removed, (1 - kept) * (run(free, params, loud) - loud), rtol=1e-3, atol=1e-2
    )
    floor = run(model.clone(least=0.5), params, loud) - loud
    np.testing.assert_allclose(floor, 0.5 / (1 - kept) * removed, rtol=1e-3, atol=1e-2)


@pytest.mark.promise("one-share")
def test_slices_of_a_series_keep_one_share(params):
    """The series' median noise decides, but for slices of another kind."""
    model = NoiseScaled(BASE, routine_hu=10.0, power=2.0, least=0.0)
    free = model.clone(routine_hu=0.0)
    series = np.concatenate([noisy(sd, size=64) for sd in (15.0, 30.0, 60.0)])
    noise = np.asarray(slice_noise_hu(series))
    variables = with_series_noise({"params": {"base": params}}, series)
    network = WholeSlices(model, HU)
    removed = network(variables, series) - series
    share = 1 - (10.0 / np.median(noise)) ** 2
    wanted = share * (run(free, params, series) - series)
    assert np.abs(wanted).max(axis=(1, 2)).min() > 1
    np.testing.assert_allclose(removed, wanted, rtol=1e-3, atol=1e-2)
    alone = run(model, params, series) - series
    assert np.abs(alone - removed).max(axis=(1, 2))[[0, 2]].min() > 1
    # A blank slice and one with a tenth of the noise are what they are without a series.
    others = np.concatenate([np.full((1, 64, 64), 40.0, np.float32), noisy(3.0, size=64)])
    np.testing.assert_array_equal(network(variables, others), others)


def test_all_clones_and_the_result_alone_agree(params):
    model = NoiseScaled(BASE)
    hu = noisy(40.0, size=48)
    ((_, clones),) = WholeSlices(model, HU).clones({"params": {"base": params}}, hu)
    assert clones.shape == (2, 1, 48, 48)
    np.testing.assert_allclose(clones[-1], run(model, params, hu), rtol=1e-5, atol=1e-3)


def test_its_record_and_its_twin_are_the_same_network(params):
    model = NoiseScaled(BASE, unit=5.0, routine_hu=9.0)
    assert from_record(to_record(model)) == model
    twin = twin_for_onnx(model)
    assert twin.base.loop == "python"
    hu = noisy(40.0, size=48)
    np.testing.assert_allclose(run(twin, params, hu), run(model, params, hu), atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [{"unit": 0.0}, {"power": 0.0}, {"routine_hu": -1.0}, {"least": 2.0}, {"mean_px": -1.0}],
)
def test_impossible_rules_are_refused(params, wrong):
    with pytest.raises(UsageError, match="least a share"):
        run(NoiseScaled(BASE, **wrong), params, noisy(20.0, size=32))


def test_a_base_that_changes_the_size_is_refused():
    model = NoiseScaled(WGANVGG())
    hu = noisy(20.0, size=48)[..., None]
    with pytest.raises(UsageError, match="keeps the image's size"):
        jax.eval_shape(model.init, jax.random.key(0), hu)
    assert model.receptive_field is None


def test_it_is_not_trained_itself(params):
    with pytest.raises(UsageError, match="train base"):
        NoiseScaled(BASE).apply(
            {"params": {"base": params}}, noisy(20.0, size=32)[..., None], train=True
        )


def test_pairs_in_units_of_noise_are_what_base_will_see():
    full = np.clip(anatomy(0, 2, 128), -1024, 3071).astype(np.int16)
    low = full + np.stack([sample_noise((128, 128), sd, 0.8, i) for i, sd in enumerate((15, 60))])
    low = np.clip(np.rint(low), -1024, 32767).astype(np.int16)
    pairs = PairedSlices(low, full, ("a", "a"), np.ones(2), np.ones(2), source="a test")
    scaled = in_noise_units(pairs)
    noise = np.asarray(slice_noise_hu(low.astype(np.float32)))
    assert noise[1] > 2.5 * noise[0]
    for i in range(2):
        np.testing.assert_allclose(scaled.low_hu[i], low[i] * NOISE / noise[i], atol=0.51)
        np.testing.assert_allclose(scaled.full_hu[i], full[i] * NOISE / noise[i], atol=0.51)
    # Soft tissue has left its range of HU there, so the measurement isn't repeated.
    assert "25th of each low dose's noise" in scaled.source and pairs.low_hu is low
