"""Image metrics and named protocols: golden against scikit-image, refusals, averaging."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax import hu
from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics import protocols
from ldct_jax.metrics.image import SSIMWindow

GOLDEN = 1e-6


def body(n=2, h=72, w=88, noise=40.0, seed=0):
    """Reference and noisy slices in HU: air, fat, soft tissue and bone with smooth edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    r = np.hypot(x, y)
    base = np.where(r < 0.8, np.where(r < 0.65, 50.0, -100.0), -1000.0)
    base = base + 900.0 * np.exp(-((x - 0.3) ** 2 + y**2) / 0.01)
    reference = np.stack([base + 8 * rng.standard_normal((h, w)) for _ in range(n)])
    prediction = reference + noise * rng.standard_normal(reference.shape)
    clip = {"a_min": -1024, "a_max": 3071}
    return np.clip(prediction, **clip).round(), np.clip(reference, **clip).round()


@pytest.mark.core
@pytest.mark.parametrize("border", ["crop", "reflect"])
@pytest.mark.parametrize(
    "window",
    [
        SSIMWindow(),
        SSIMWindow("uniform", 7, sample_covariance=True),
        SSIMWindow("gaussian", 7, 0.9),
    ],
    ids=["gaussian11", "uniform7", "gaussian7"],
)
def test_ssim_is_scikit_images(window, border):
    from skimage.metrics import structural_similarity

    window = dataclasses.replace(window, border=border)
    pair = body(noise=150)
    x, y = (hu.FULL.to_unit(a[0].astype(np.float64)) for a in pair)
    kwargs = {
        "data_range": 1.0,
        "use_sample_covariance": window.sample_covariance,
        "win_size": window.size,
        "full": True,
    }
    if window.kind == "gaussian":
        kwargs |= {"gaussian_weights": True, "sigma": window.sigma}
        kwargs |= {"truncate": (window.size // 2) / window.sigma}
    mean, full_map = structural_similarity(x, y, **kwargs)
    wanted = mean if border == "crop" else full_map.mean()
    assert abs(mean - full_map.mean()) > 1e-4, "the two border rules must differ to be tested"
    protocol = dataclasses.replace(protocols.PCN, ssim_window=window)
    assert protocol.score(*pair).ssim[0] == pytest.approx(wanted, abs=GOLDEN)


@pytest.mark.core
@pytest.mark.parametrize("name", [p.name for p in protocols.ALL if p.crop is None])
def test_every_protocol_is_scikit_image_on_its_window(name):
    from skimage.metrics import (
        mean_squared_error,
        peak_signal_noise_ratio,
        structural_similarity,
    )

    protocol = protocols.named(name)
    prediction, reference = body()
    scores = protocol.score(prediction.astype(np.int16), reference.astype(np.int16))
    # Written out on purpose, independent of Window: what each protocol's definition says.
    low, high, clip = {
        "pcn": (-1024, 3072, False),
        "dcswgan": (-300, 300, True),
        "hrnet": (-1000, 1000, False),
        "mayo-abdomen": (-160, 240, True),
        "ldct-benchmark-chest": (-1350, 150, True),
        "ldct-benchmark-abdomen": (-150, 250, True),
        "ldct-benchmark-neuro": (0, 80, True),
    }[name]
    in_hu = name in ("hrnet", "mayo-abdomen")
    assert protocol.unit == ("HU" if in_hu else f"1 = {high - low:g} HU")
    for i in range(2):
        x, y = ((a[i] - low) / (high - low) for a in (prediction, reference))
        if clip:
            x, y = x.clip(0, 1), y.clip(0, 1)
        psnr = peak_signal_noise_ratio(y, x, data_range=1)
        rmse = mean_squared_error(y, x) ** 0.5 * ((high - low) if in_hu else 1)
        if name.startswith("ldct-benchmark"):
            ssim = structural_similarity(x, y, data_range=1)
        else:
            ssim, full_map = structural_similarity(
                x, y, data_range=1, gaussian_weights=True, use_sample_covariance=False, full=True
            )
            ssim = full_map.mean() if name == "dcswgan" else ssim
        assert scores.psnr_db[i] == pytest.approx(psnr, abs=GOLDEN)
        assert scores.rmse[i] == pytest.approx(rmse, rel=GOLDEN)
        assert scores.ssim[i] == pytest.approx(ssim, abs=GOLDEN)


def test_dncnn_dose_takes_its_peak_from_the_denoised_centre():
    from skimage.metrics import structural_similarity

    prediction, reference = body(n=1, h=300, w=400)
    score = protocols.DNCNN_DOSE.score(prediction, reference)
    x, y = (a[0, 25:275, 25:375] for a in (prediction, reference))
    peak = x.max() + 1024
    psnr = 10 * np.log10(peak**2 / np.mean((x - y) ** 2))
    assert score.psnr_db[0] == pytest.approx(psnr, abs=GOLDEN)
    assert score.peak[0] == pytest.approx(peak / 4096, rel=GOLDEN)
    whole = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 4096}
    ssim = structural_similarity(x + 1024, y + 1024, **whole)
    assert score.ssim[0] == pytest.approx(ssim, abs=GOLDEN)
    assert score.rmse[0] == pytest.approx(np.mean((x - y) ** 2) ** 0.5 / 4096, rel=GOLDEN)
    with pytest.raises(DataError, match="central 350x250"):
        protocols.DNCNN_DOSE.score(*body(n=1))


def test_the_window_moves_psnr_by_many_decibels():
    pair = body()
    psnr = {p.name: p.score(*pair).psnr_db[0] for p in (protocols.PCN, protocols.MAYO_ABDOMEN)}
    assert psnr["pcn"] - psnr["mayo-abdomen"] > 15


def test_pcn_follows_the_training_window_and_carries_it_in_its_name():
    narrow = protocols.pcn(hu.DCSWGAN)
    assert protocols.pcn() == protocols.PCN and protocols.PCN.name == "pcn"
    assert narrow.name == "pcn [-300, 300] HU clipped" and narrow.unit == "1 = 600 HU"
    pair = body(n=1)
    assert narrow.score(*pair).psnr_db == protocols.DCSWGAN.score(*pair).psnr_db


def test_identical_slices_are_perfect_and_psnr_is_infinite():
    _, reference = body()
    scores = protocols.PCN.score(reference, reference)
    assert np.isposinf(scores.psnr_db).all() and not scores.rmse.any()
    assert scores.ssim == pytest.approx([1, 1], abs=1e-12)
    summary = protocols.table(scores, ["a", "b"])
    assert summary.psnr_db.mean == summary.psnr_of_mean_mse_db.mean == float("inf")
    assert summary.psnr_db.sd is None and summary.rmse.mean == 0


@pytest.mark.core
def test_signed_hu_never_reach_ssim():
    prediction, reference = body(n=1)
    with pytest.raises(DataError, match="signed HU"):
        protocols.pcn(hu.Window(0, 4096, clip=False)).score(prediction, reference)
    with pytest.raises(DataError, match="clip or widen"):
        protocols.pcn(hu.Window(-160, 240, clip=False)).score(prediction, reference)
    # Air's noise just below an unclipped window's end is no signed HU.
    protocols.HRNET.score(prediction, reference - 60)


def test_a_missing_data_range_is_an_error():
    for bad in (None, 0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="data range"):
            dataclasses.replace(protocols.PCN, data_range=bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_refused_by_name(bad, which):
    pair = [a.copy() for a in body()]
    pair[which][1, 3, 3] = bad
    with pytest.raises(DataError, match=f"{('prediction', 'reference')[which]} slice 1"):
        protocols.PCN.score(*pair)


def test_wrong_shapes_are_refused():
    prediction, reference = body()
    with pytest.raises(DataError, match=r"equal stacks"):
        protocols.PCN.score(prediction[0], reference[0])
    with pytest.raises(DataError, match=r"equal stacks"):
        protocols.PCN.score(prediction[:1], reference)
    with pytest.raises(DataError, match="11x11"):
        protocols.PCN.score(prediction[:, :8], reference[:, :8])


def test_a_table_averages_slices_then_patients():
    prediction, reference = body(n=5)
    noise = (prediction - reference) * np.array([1, 2, 4, 1, 3])[:, None, None]
    scores = protocols.PCN.score(reference + noise, reference)
    patients = ["a", "a", "a", "b", "b"]
    summary = protocols.table(scores, patients)
    a, b = scores.psnr_db[:3].mean(), scores.psnr_db[3:].mean()
    assert summary.psnr_db.mean == pytest.approx((a + b) / 2)
    assert summary.psnr_db.mean != pytest.approx(scores.psnr_db.mean()), "not over slices"
    assert summary.psnr_db.sd == pytest.approx(abs(a - b) / 2**0.5) and summary.psnr_db.n == 2
    pooled = [10 * np.log10(1 / np.mean(scores.rmse[s] ** 2)) for s in (slice(3), slice(3, 5))]
    assert summary.psnr_of_mean_mse_db.mean == pytest.approx(np.mean(pooled))
    assert summary.psnr_of_mean_mse_db.mean < summary.psnr_db.mean - 0.3
    assert summary.values("ssim") == {
        "a": pytest.approx(scores.ssim[:3].mean()),
        "b": pytest.approx(scores.ssim[3:].mean()),
    }
    assert summary.n_slices == 5 and summary.as_record()["protocol"] == "pcn"
    with pytest.raises(DataError, match="5 scored slices but 4"):
        protocols.table(scores, patients[:4])


def test_one_patient_has_no_sd_and_seeds_are_not_patients():
    scores = protocols.PCN.score(*body())
    twice = protocols.concatenate([scores, protocols.PCN.score(*body(seed=1))])
    summary = protocols.table(twice, ["a"] * 4)
    assert summary.psnr_db.sd is None and summary.psnr_db.n == 1
    assert summary.psnr_db.text(2) == f"{twice.psnr_db.mean():.2f}"
    with pytest.raises(UsageError, match="one protocol"):
        protocols.concatenate([scores, protocols.HRNET.score(*body())])


def test_scores_name_their_protocol():
    rows = list(protocols.HRNET.score(*body()))
    assert len(rows) == 2 and rows[0]["protocol"] == "hrnet" and rows[0]["unit"] == "HU"
    for protocol in protocols.ALL:
        words = str(protocol)
        assert words.startswith(protocol.name) and "SSIM" in words and "slices" in words
    with pytest.raises(UsageError, match="dcswgan, dncnn_dose"):
        protocols.named("nope")


@pytest.mark.parametrize("protocol", protocols.ALL, ids=lambda p: p.name)
def test_a_filled_up_batch_gives_the_slices_of_one_by_one(protocol, monkeypatch):
    """As on an accelerator, with stacks that lie on the device."""
    pair = body(n=5, h=260, w=360)
    no_data = np.zeros(pair[0].shape, bool)
    no_data[1, :, :150] = True
    alone = protocol.score(*pair, no_data=no_data)
    monkeypatch.setattr(protocols, "BATCH", 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = protocol.score(*(jnp.asarray(a, jnp.float32) for a in pair), no_data=no_data)
    for name in ("psnr_db", "ssim", "rmse", "peak"):
        wanted = getattr(alone, name)
        np.testing.assert_allclose(getattr(together, name), wanted, rtol=1e-6)
        assert len(set(wanted.tolist())) > 1 or name == "peak"


@pytest.mark.parametrize("protocol", protocols.ALL, ids=lambda p: p.name)
def test_pixels_without_data_have_no_share(protocol):
    """Whatever equal value both images hold there; without the mask they would raise the score."""
    rng = np.random.default_rng(0)
    full = rng.uniform(-900, 200, (2, 300, 400))
    low = full + rng.normal(0, 30, full.shape)
    no_data = np.zeros(full.shape, bool)
    no_data[:, :140] = True
    found = []
    for value in (-1024.0, 0.0):
        a, b = (np.where(no_data, value, stack) for stack in (low, full))
        found.append(protocol.score(a, b, no_data=no_data))
    if protocol.peak is None:  # else the peak is that of the whole image
        np.testing.assert_allclose(found[0].psnr_db, found[1].psnr_db)
    np.testing.assert_allclose(found[0].rmse, found[1].rmse)
    assert (protocol.score(a, b).rmse < 0.9 * found[0].rmse).all()
    cut = (slice(None), slice(160, 300))  # what lies well inside the rest
    inside = dataclasses.replace(protocol, crop=None).score(low[cut], full[cut])
    if protocol.crop is None:
        np.testing.assert_allclose(found[0].rmse, inside.rmse, rtol=0.02)
        np.testing.assert_allclose(found[0].ssim, inside.ssim, atol=0.01)
    nothing = np.ones(full.shape, bool)
    with pytest.raises(DataError, match="holds no data"):
        protocol.score(a, b, no_data=nothing)
