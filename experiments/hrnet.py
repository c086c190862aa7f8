"""HRNet against UNet (Bai et al., "Deep high-resolution network for low dose X-ray CT denoising").

Reproduces: Table 1, Fig 2-5 (images), Fig 6 (slice by slice), the CNR of Fig 5, Fig 7 (an unseen
reconstruction), Fig 8 (noise analysis).

    make train EXP=hrnet                                    # demo: embedded phantoms
    make train EXP=hrnet DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 3-4 minutes (from the rates on CT). paper: on a GPU
not measured, on a CPU out of reach.

The paper's Table 1 over its validation patients (RMSE in HU, SSIM): LDCT 113.80/0.550, UNet
59.87/0.712, HRNet 55.24/0.745. CNR of a lesion: LDCT 0.32, UNet 2.45, HRNet 2.70, NDCT 0.90. Noise
analysis of HRNet: cosines -0.08 (added, target), 0.9 (removed, added), 0.3 (removed, target),
projections 78.46 % and 61.31 %, rest 11.37 %.
"""

import numpy as np

from ldct_jax.ct.another_scanner import reconstruct_elsewhere
from ldct_jax.data.feed.patches import Patches
from ldct_jax.hu import HRNET
from ldct_jax.losses import mse
from ldct_jax.metrics import protocols
from ldct_jax.metrics.inserted_lesion import Lesion
from ldct_jax.metrics.noise import HRNET_BAND, band_mask, noise_analysis
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.unet import UNet
from ldct_jax.optim import Adam, Piecewise
from ldct_jax.report import claims, comparisons, figures, images, page, tables
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales
from ldct_jax.study.study import Measured, Study, Tested

# The paper's sharp 1 mm slices: its low dose lies 114 HU from the normal one.
NOISE = dict(added_sd_hu=135.0)
SCALES = scales(
    DEMO.but(
        words="HRNet with three branches of 8 to 32 channels instead of four of 32 to 256, UNet "
        "with 8 levels of 8 to 64 instead of 9 of 32 to 512, whole 256x256 slices without "
        "augmentation, 768 steps instead of 100,000, learning rate from 8e-3 instead of 1e-4",
        monitor_every=8,
        **NOISE,
    ),
    PAPER.but(
        words="the paper's protocol: whole slices, batch 1, shift, rotation and zero padding, Adam "
        "1e-4, 1e-5 from one half and 1e-6 from three quarters of the steps, eight training "
        "patients (one of them held out for validation), two test patients; 24 epochs are 100,000 "
        "steps with the paper's 600 slices a patient",
        test_patients=2,
        monitor_slices=4,
        **NOISE,
    ),
    SMOKE.but(size=64, pixel_mm=6.0, **NOISE),
)
PATCHES = {
    # A patch as large as the slice: the stride only matters for larger ones.
    "paper": Patches(512, 512, 1, slices_per_patient=None, augment="shift_rotate"),
    "demo": Patches(256, 256, 1, slices_per_patient=None),
    "smoke": Patches(64, 64, 1, slices_per_patient=1, augment="shift_rotate"),
}
RATES = {"paper": (1e-4, 1e-5, 1e-6), "demo": (8e-3, 2e-3, 4e-4), "smoke": (1e-3, 1e-3, 1e-3)}
EPOCHS = {"paper": 24, "demo": 48, "smoke": 2}
HRNETS = {"paper": HRNet(), "demo": HRNet((8, 16, 32)), "smoke": HRNet((2, 4))}
UNETS = {
    "paper": UNet(),
    "demo": UNet((8, 16, 32, 64, 64, 64, 64, 64)),
    "smoke": UNet((2, 4, 4)),
}

# Table 1's whole data set; PSNR isn't printed there.
PAPER_ROWS = {
    "undenoised": (None, 0.550, 113.80),
    "UNet": (None, 0.712, 59.87),
    "HRNet": (None, 0.745, 55.24),
}
PAPER_CNR = {"undenoised": 0.32, "UNet": 2.45, "HRNet": 2.70, "normal dose": 0.90}
PAPER_NOISE = {
    "cos_added_target": ("cosine of added and target noise", -0.08),
    "cos_removed_added": ("cosine of removed and added noise", 0.9),
    "cos_removed_target": ("cosine of removed and target noise", 0.3),
    "projection_added": ("share of the added noise that was removed", 0.7846),
    "projection_target": ("share of the target noise that was removed", 0.6131),
    "rest_energy": ("energy of the rest", 0.1137),
}
LESION = Lesion(contrast_hu=-40.0, radius_mm=8.0)
# The paper's 1 mm pixels against the training data's 0.74 mm.
OTHER_PIXEL = 1.35


def variants(scale: str) -> dict[str, Experiment]:
    """UNet and HRNet in the same training."""
    base = Experiment(
        model=HRNETS[scale],
        loss=mse,
        optimizer=Adam(Piecewise(RATES[scale], at=(0.5, 0.75))),
        patches=PATCHES[scale],
        window=HRNET,
        epochs=EPOCHS[scale],
    )
    return {"UNet": base.but(model=UNETS[scale]), "HRNet": base}


# ---- what is measured beside the scores ---------------------------------------------------------


def measure(tested: Tested) -> Measured:
    """Noise analysis of the first test patient, a lesion's CNR, and an unseen reconstruction."""
    pairs = tested.pairs
    own = np.flatnonzero([p == pairs.patients[0] for p in pairs.patients])
    low, full = pairs.low_hu[own].astype(np.float32), pairs.full_hu[own].astype(np.float32)
    k, pixel_mm = len(own) // 2, float(pairs.pixel_mm[own[0]])
    numbers = _noise(low, tested.denoised[own], full)
    numbers |= LESION.cnr(tested.denoise, low[k], full[k], pixel_mm)
    other_low, other_full = reconstruct_elsewhere(
        full[k],
        pixel_mm=pixel_mm,
        to_pixel_mm=OTHER_PIXEL * pixel_mm,
        kernel="sharp",
        added_sd_hu=float(np.std(low - full)),
        seed=7,
    )
    restored = tested.denoise(other_low[None])
    score = tested.protocol.score(restored, other_full[None])
    numbers |= {"other_rmse_hu": float(score.rmse[0]), "other_ssim": float(score.ssim[0])}
    kept = {"other_low": other_low, "other_full": other_full, "other_denoised": restored[0]}
    return Measured(numbers, images=kept)


def _noise(low, denoised, full) -> dict:
    if np.array_equal(low, denoised):
        return {}
    found = noise_analysis(low, denoised, full)
    return {name: float(getattr(found, name)) for name in PAPER_NOISE}


# ---- report -------------------------------------------------------------------------------------


def report(results) -> page.Report:
    shown = {v: v for v in results.variants}
    sections = [
        page.Section(
            "Table 1: image quality on test patients",
            "SSIM has the paper's constants on (HU + 1000)/2000; it doesn't print PSNR.",
            tables=[
                parts.quality_table(
                    results, name="table_1", title="Table 1: UNet and HRNet", paper=PAPER_ROWS
                )
            ],
            figures=[
                _slices(results, "fig_6a", "Fig 6: RMSE by slice", "rmse", "RMSE [HU]"),
                _slices(results, "fig_6b", "Fig 6: SSIM by slice", "ssim", "SSIM"),
                parts.panel(results, shown, name="fig_2", title="Fig 2-5: a test slice"),
                *parts.training_figures(results, results.variants, "training", "both networks"),
            ],
        ),
        page.Section(
            "A low-contrast lesion",
            f"A disc of {LESION.contrast_hu:g} HU and {LESION.radius_mm:g} mm radius was put into "
            "flat tissue of the low dose before denoising. The paper's CNR divides by the "
            "difference of two standard deviations and is singular where they are alike: it stands "
            "here only beside the paper's numbers.",
            tables=[_cnr_table(results)],
        ),
        page.Section(
            "An unseen reconstruction",
            "A normal-dose slice was projected, given noise, and reconstructed with a sharp kernel "
            f"on pixels {OTHER_PIXEL:g} times as large. Nobody trained on such images.",
            tables=[_other_table(results)],
            figures=[_other_panel(results)],
        ),
        page.Section(
            "Noise analysis",
            "What the removed noise is made of between 150/256 π and π (the paper: HRNet).",
            tables=[_noise_table(results)],
            figures=_noise_figures(results),
        ),
    ]
    return parts.standard(results, sections, _claims(results), shown=shown, main="HRNet")


def _labels(results) -> list[str]:
    return [*results.references, *results.variants]


def _slices(results, name: str, title: str, metric: str, y_label: str) -> figures.Figure:
    values = {
        parts.ROW_WORDS.get(v, v): [row[metric] for row in results.rows(v)[0]]
        for v in _labels(results)
    }
    caption = f"First repeat, patient after patient; {parts.data_words(results)}."
    return figures.per_slice(name, title, values, y_label, caption=caption)


def _cnr_table(results) -> tables.Table:
    rows = []
    for v in _labels(results):
        found = results.numbers(v)[0]
        label = parts.ROW_WORDS.get(v, v)
        rows.append([label, found.get("cnr"), found.get("cnr_hrnet"), PAPER_CNR.get(v)])
    normal = results.numbers("undenoised")[0]
    rows.append(
        [
            "normal dose",
            normal.get("cnr_normal"),
            normal.get("cnr_hrnet_normal"),
            PAPER_CNR["normal dose"],
        ]
    )
    return _table(
        results,
        "cnr",
        "Contrast-to-noise ratio of an inserted lesion",
        [
            tables.Column("CNR, |Δμ| / sqrt((σ₁² + σ₂²)/2)", digits=2),
            tables.Column("CNR, 2|Δμ| / |σ₁ - σ₂|", digits=2),
            tables.Column("the latter, paper", digits=2, paper=True),
        ],
        rows,
    )


def _other_table(results) -> tables.Table:
    rows = [
        [parts.ROW_WORDS.get(v, v), n["other_rmse_hu"], n["other_ssim"]]
        for v in _labels(results)
        for n in results.numbers(v)[:1]
    ]
    columns = [tables.Column("RMSE", "HU", 2), tables.Column("SSIM", digits=4)]
    return _table(results, "fig_7", "Fig 7: an unseen kernel and pixel grid", columns, rows)


def _noise_table(results) -> tables.Table:
    rows = [
        [words, *(results.numbers(v)[0][key] for v in results.variants), theirs]
        for key, (words, theirs) in PAPER_NOISE.items()
    ]
    columns = [tables.Column(v, digits=3) for v in results.variants]
    columns.append(tables.Column("HRNet, paper", digits=3, paper=True))
    return _table(results, "fig_8", "Fig 8: noise analysis of a test patient", columns, rows)


def _table(results, name, title, columns, rows) -> tables.Table:
    return tables.Table(
        name=name,
        title=title,
        columns=[tables.Column("what" if name == "fig_8" else "image"), *columns],
        rows=rows,
        protocol=str(parts.protocol_of(results)),
        data=f"first repeat; {parts.data_words(results)}",
    )


def _other_panel(results) -> figures.Figure:
    first = results.runs[0].samples
    shown = {"reconstructed, no noise": first["other_full"], "low dose": first["other_low"]}
    shown |= {v: results.of(v)[0].samples["other_denoised"] for v in results.variants}
    caption = f"Data: {parts.data_words(results)}."
    return images.panels("fig_7", "Fig 7: an unseen reconstruction", shown, caption=caption)


def _noise_figures(results) -> list[figures.Figure]:
    made = []
    for v in results.variants:
        s = results.of(v)[0].samples
        low, out, full = (
            np.asarray(a, float)[None] for a in (s["low"], s["clones"][-1], s["full"])
        )
        made.append(
            images.noise_analysis(
                f"fig_8_{v.lower()}",
                f"Fig 8: noise analysis of {v}, one slice",
                low,
                out,
                noise_analysis(low, out, full),
                band_mask(low.shape[1:], HRNET_BAND),
                caption=f"Data: {parts.data_words(results)}.",
            )
        )
    return made


def _claims(results) -> list[claims.Claim]:
    return [
        comparisons.compare(
            results, "HRNet beats UNet in RMSE (Table 1: 4.6 HU)", "HRNet", "UNet", metric="rmse"
        ),
        comparisons.compare(
            results, "HRNet beats UNet in SSIM (Table 1: 0.033)", "HRNet", "UNet", metric="ssim"
        ),
        _by_number(results, "HRNet beats UNet in CNR of a lesion (Fig 5)", "cnr", "CNR", ""),
        _by_number(
            results,
            "HRNet beats UNet on an unseen reconstruction (Fig 7)",
            "other_rmse_hu",
            "RMSE there",
            "HU",
            above=False,
        ),
        _more_added(results),
    ]


def _by_number(results, claim, key, words, unit, *, above=True) -> claims.Claim:
    if reason := comparisons.unlearnt(results, ("HRNet", "UNet")):
        return claims.untested(claim, reason)
    pairs = results.paired_numbers("HRNet", "UNet")
    if any(a[key] is None or b[key] is None for a, b in pairs):
        return claims.untested(claim, "no lesion could be placed, or its ratio is undefined")
    found = [a[key] - b[key] for a, b in pairs]
    return claims.judge(claim, f"{words}, HRNet minus UNet", found, unit, above=above)


def _more_added(results) -> claims.Claim:
    claim = "most of the removed noise is the added one (Fig 8d: 0.9 against 0.3)"
    if reason := comparisons.unlearnt(results, ("HRNet",)):
        return claims.untested(claim, reason)
    found = [n["cos_removed_added"] - n["cos_removed_target"] for n in results.numbers("HRNet")]
    return claims.judge(claim, "cosine with the added minus with the target noise", found, "")


STUDY = Study(
    name="hrnet",
    title="HRNet and UNet",
    reproduces="hrnet Table 1, Fig 2-8",
    scales=SCALES,
    variants=variants,
    report=report,
    protocol=lambda window: protocols.HRNET,
    measure=measure,
)
