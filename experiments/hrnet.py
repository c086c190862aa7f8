"""HRNet against UNet (Bai et al., "Deep high-resolution network for low dose X-ray CT denoising").

Reproduces: Table 1, Fig 2-5 (images), Fig 6 (slice by slice), the CNR of Fig 5, Fig 7 (an unseen
reconstruction), Fig 8 (noise analysis).

    make train EXP=hrnet                                    # demo: embedded phantoms
    make train EXP=hrnet DATA=/path/to/mayo SCALE=paper

Expected time: estimated; demo, two CPU cores: 10 minutes. paper: 100,000 steps of one 512x512 slice
for each network.

The paper's Table 1 over its validation patients (RMSE in HU, SSIM): LDCT 113.80/0.550, UNet
59.87/0.712, HRNet 55.24/0.745. CNR of a lesion: LDCT 0.32, UNet 2.45, HRNet 2.70, NDCT 0.90. Noise
analysis of HRNet: cosines -0.08 (added, target), 0.9 (removed, added), 0.3 (removed, target),
projections 78.46 % and 61.31 %, rest 11.37 %.
"""

import numpy as np

from ldct_jax import hu
from ldct_jax.ct.another_scanner import reconstruct_elsewhere
from ldct_jax.data.feed.patches import Patches
from ldct_jax.losses import mse
from ldct_jax.metrics import protocols
from ldct_jax.metrics.inserted_lesion import Lesion
from ldct_jax.metrics.noise import noise_analysis
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.unet import UNet
from ldct_jax.optim import Adam, Cosine, Piecewise
from ldct_jax.report import blocks
from ldct_jax.study import study
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales

# The paper's sharp 1 mm slices: its low dose lies 114 HU from the normal one, and its CNR of 0.32
# and 0.90 say that the low dose has 2.8 times the noise, as an eighth of the dose has.
# Fig 4 shows lungs.
NOISE = dict(added_sd_hu=114.0, dose=0.125, region="torso")
SCALES = scales(
    DEMO.but(
        words="HRNet with three branches of 8 to 32 channels instead of four of 32 to 256, UNet "
        "with 16 to 64 channels instead of 32 to 512, down to one pixel as in the paper, whole "
        "slices turned and flipped instead of shifted and tilted, 3,000 steps instead of 100,000, "
        "learning rate 2e-3 with warm-up instead of 1e-4",
        slices=12,
        test_slices=6,
        **NOISE,
    ),
    PAPER.but(
        words="the paper's protocol: whole 1 mm slices of the sharp kernel, batch 1, shift, "
        "rotation and zero padding, Adam 1e-4, 1e-5 from 50,000 and 1e-6 from 75,000 of 100,000 "
        "steps, eight training and two test patients",
        test_patients=2,
        validation_patients=0,
        thickness_mm=1.0,
        kernel="D45f",
        one_reconstruction=True,
        monitor_slices=4,
        **NOISE,
    ),
    SMOKE.but(size=64, pixel_mm=6.0, **NOISE),
)
# Whole slices: InstanceNorm's statistics are those of the image. So the demo's few slices aren't
# shifted either: air that enters changes the statistics, and no test slice has it.
WHOLE = dict(size=None, stride=1, batch=1)
PATCHES = {
    "paper": Patches(**WHOLE, slices_per_patient=None, augment="shift_rotate"),
    "demo": Patches(**WHOLE, slices_per_patient=None, augment="dihedral"),
    "smoke": Patches(**WHOLE, slices_per_patient=1, augment="shift_rotate"),
}
RATES = {
    "paper": Piecewise((1e-4, 1e-5, 1e-6), at=(0.5, 0.75)),
    "demo": Cosine(2e-3, to=2e-5, warmup=0.05),
    "smoke": Cosine(1e-3, to=2e-5, warmup=0.05),
}
STEPS = {"paper": 100_000, "demo": 3000, "smoke": 3}
HRNETS = {"paper": HRNet(), "demo": HRNet((8, 16, 32)), "smoke": HRNet((2, 4))}
# As many levels as halve the slices to one pixel: the plan repeats or leaves out the last widths.
UNETS = {"paper": UNet(), "demo": UNet((16, 32, 64)), "smoke": UNet((2, 4, 4))}

# Table 1's whole data set; PSNR isn't printed there.
PAPER_ROWS = {
    "undenoised": (None, 0.550, 113.80),
    "UNet": (None, 0.712, 59.87),
    "HRNet": (None, 0.745, 55.24),
}
# Table 1's four slices: RMSE in HU.
PAPER_SLICES = {
    "undenoised": (115.49, 124.67, 120.90, 164.52),
    "UNet": (61.08, 63.84, 66.65, 82.32),
    "HRNet": (56.10, 60.55, 61.01, 76.94),
}
CNR = {"CNR, |Δμ| / sqrt((σ₁² + σ₂²)/2)": "cnr", "CNR, 2|Δμ| / |σ₁ - σ₂|": "cnr_hrnet"}
PAPER_CNR = {
    "undenoised": (None, 0.32),
    "UNet": (None, 2.45),
    "HRNet": (None, 2.70),
    "normal dose": (None, 0.90),
}
NOISE_PARTS = {
    "cosine (added, target)": "cos_added_target",
    "cosine (removed, added)": "cos_removed_added",
    "cosine (removed, target)": "cos_removed_target",
    "added noise removed": "projection_added",
    "target noise removed": "projection_target",
    "energy of the rest": "rest_energy",
}
PAPER_NOISE = {"HRNet": (-0.08, 0.9, 0.3, 0.7846, 0.6131, 0.1137)}
# Stand-ins for Table 1's slices: the test slices that hold the most of these CT numbers.
TISSUES = {"abdomen": (-20.0, 80.0), "liver": (80.0, 160.0), "lung": (-950.0, -600.0)}
LESION = Lesion(contrast_hu=-40.0, radius_mm=8.0)


def variants(scale: str) -> dict[str, Experiment]:
    """UNet and HRNet in the same training."""
    base = Experiment(
        model=HRNETS[scale],
        loss=mse,
        optimizer=Adam(RATES[scale]),
        patches=PATCHES[scale],
        window=hu.HRNET,
        steps=STEPS[scale],
    )
    return {"UNet": base.but(model=UNETS[scale]), "HRNet": base}


def measure(tested: study.Tested) -> study.Measured:
    """RMSE of four slices, the added and removed noise, a lesion's CNR, an unseen reconstruction;
    all of the first test patient."""
    pairs = tested.pairs.of([tested.pairs.patients[0]])
    low, full = pairs.low_hu.astype(np.float32), pairs.full_hu.astype(np.float32)
    denoised = tested.denoised[: len(low)]
    k, pixel_mm = len(low) // 2, float(pairs.pixel_mm[0])
    numbers, kept = LESION.cnr(tested.denoise, low[k], full[k], pixel_mm), {}
    if not np.array_equal(low, denoised):
        found = noise_analysis(low, denoised, full)
        numbers |= {name: float(getattr(found, name)) for name in NOISE_PARTS.values()}
    places = {
        name: int(((full > least) & (full < most)).sum((1, 2)).argmax())
        for name, (least, most) in TISSUES.items()
    }
    for name, i in (places | {"lesion": k}).items():
        numbers[f"rmse_{name}"] = float(tested.protocol.score(denoised[[i]], full[[i]]).rmse[0])
        kept |= {f"{name}_low": pairs.low_hu[i], f"{name}_full": pairs.full_hu[i]}
        kept[f"{name}_result"] = np.rint(denoised[i]).astype(np.int16)
    lesion = LESION.images(tested.denoise, low[k], full[k], pixel_mm) or {}
    kept |= {f"lesion_{what}": image for what, image in lesion.items()}
    other_low, other_full = reconstruct_elsewhere(
        full[k],
        pixel_mm=pixel_mm,
        to_pixel_mm=1.0,
        kernel="sharp",
        added_sd_hu=float(np.std(low - full)),
        seed=7,
    )
    other = tested.denoise(other_low[None])
    score = tested.protocol.score(other, other_full[None])
    numbers |= {"other_rmse_hu": float(score.rmse[0]), "other_ssim": float(score.ssim[0])}
    kept |= {"other_low": other_low, "other_full": other_full, "other_result": other[0]}
    return study.Measured(numbers, images=kept)


def minus(key: str):
    """HRNet's number minus UNet's; None where one isn't defined."""
    return lambda h, u: None if None in (h[key], u[key]) else h[key] - u[key]


def kept_panel(title: str, name: str, regions: str | None = None) -> blocks.Panel:
    """A panel of arrays that :func:`measure` kept under ``name``."""
    kept = {"normal dose": f"{name}_full", "low dose": f"{name}_low", "{row}": f"{name}_result"}
    return blocks.Panel(title, kept=kept, regions=regions)


BOTH = ("HRNet", "UNet")
STUDY = study.Study(
    name="hrnet",
    title="HRNet and UNet",
    reproduces="hrnet Table 1, Fig 2-8",
    scales=SCALES,
    variants=variants,
    protocol=lambda window: protocols.HRNET,
    measure=measure,
    report=[
        blocks.Table("Table 1: UNet and HRNet, all test slices", PAPER_ROWS),
        blocks.Numbers(
            "Table 1, four slices: RMSE [HU]",
            {name: f"rmse_{name}" for name in (*TISSUES, "lesion")},
            PAPER_SLICES,
            note="The slices of the first test patient with the most soft tissue, with the most "
            "tissue of the liver's CT numbers, with the most lung, and the one of Fig 5.",
        ),
        blocks.PairedTests("HRNet"),
        blocks.Numbers(
            "Fig 5, CNR: contrast-to-noise ratio of a lesion",
            CNR,
            PAPER_CNR,
            further={"normal dose": ("undenoised", "_normal")},
            note=f"A disc of {LESION.contrast_hu:g} HU and {LESION.radius_mm:g} mm radius was put "
            "into flat tissue of the low dose before denoising. The paper's CNR divides by the "
            "difference of two standard deviations and is singular where they are alike.",
        ),
        blocks.Numbers(
            "Fig 7: an unseen kernel and pixel grid",
            {"RMSE [HU]": "other_rmse_hu", "SSIM": "other_ssim"},
            digits=3,
            note="A normal-dose slice was projected, given noise, and reconstructed with a sharp "
            "kernel on pixels of 1x1 mm, as in the paper. Nobody trained on such images.",
        ),
        blocks.Numbers(
            "Fig 8: what the removed noise is made of, between 150/256 π and π",
            NOISE_PARTS,
            PAPER_NOISE,
            digits=3,
        ),
        kept_panel("Fig 2: abdomen", "abdomen"),
        kept_panel("Fig 3: the slice with the most liver", "liver"),
        kept_panel("Fig 4: the slice with the most lung", "lung"),
        kept_panel("Fig 5: a low-contrast lesion", "lesion", "lesion_regions"),
        blocks.BySlice("Fig 6a: RMSE by slice", "rmse"),
        blocks.BySlice("Fig 6b: SSIM by slice", "ssim"),
        kept_panel("Fig 7: an unseen reconstruction, 1x1 mm", "other"),
        blocks.NoiseAnalysis("Fig 8: noise analysis"),
        blocks.Convergence("Training RMSE: both networks"),
        blocks.Better(*BOTH, "HRNet beats UNet in RMSE (Table 1)", "4.6 HU", ["rmse"]),
        blocks.Better(*BOTH, "HRNet beats UNet in SSIM (Table 1)", "0.033", ["ssim"]),
        blocks.SliceBySlice(*BOTH, "HRNet beats UNet in almost every slice, RMSE and SSIM (Fig 6)"),
        blocks.Sharper(*BOTH, "HRNet resolves more than UNet (Fig 2-4)"),
        blocks.Measured(
            BOTH,
            minus("cnr"),
            "HRNet beats UNet in CNR of a lesion (Fig 5)",
            "CNR of the inserted lesion, HRNet minus UNet",
            above=0.0,
        ),
        blocks.Measured(
            BOTH,
            minus("other_rmse_hu"),
            "HRNet beats UNet on an unseen reconstruction (Fig 7)",
            "RMSE there, HRNet minus UNet",
            "HU",
            below=0.0,
        ),
        blocks.Measured(
            ["HRNet"],
            lambda h: h["cos_removed_added"] - h["cos_removed_target"],
            "most of the removed noise is the added one (Fig 8d: 0.9 against 0.3)",
            "cosine with the added minus with the target noise",
            above=0.0,
        ),
        blocks.Note(
            "The paper prints no PSNR. Its SSIM has the constants 1e-4 and 9e-4 on "
            "(HU + 1000)/2000. A new scale of HRNet comes from the previous scale alone, as the "
            "text says: 2,674,113 parameters."
        ),
    ],
)
