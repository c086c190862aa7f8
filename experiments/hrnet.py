"""HRNet against UNet (Bai et al., "Deep high-resolution network for low dose X-ray CT denoising").

Reproduces: Table 1, Fig 2-5 (images), Fig 6 (slice by slice), the CNR of Fig 5, Fig 7 (an unseen
reconstruction), Fig 8 (noise analysis).

    make train EXP=hrnet                                    # demo: embedded phantoms
    make train EXP=hrnet DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 12 minutes. paper: 100,000 steps of one 512x512 slice
for each network.

The paper's numbers: Table 1, CNR of the lesion of Fig 5, and HRNet's noise analysis, below.
"""

from ldct_jax import hu
from ldct_jax.data.feed.patches import Patches
from ldct_jax.losses import mse
from ldct_jax.metrics import protocols
from ldct_jax.models.hrnet import HRNet
from ldct_jax.models.unet import UNet
from ldct_jax.optim import Adam, Cosine, Piecewise
from ldct_jax.report import blocks
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales
from ldct_jax.study.measures import Elsewhere, LesionCNR, NoiseParts, TissueSlices
from ldct_jax.study.study import Study

# SSIM and RMSE in HU; PSNR isn't printed. Then the RMSE of four slices.
TABLE_1 = {
    "undenoised": (None, 0.550, 113.80),
    "UNet": (None, 0.712, 59.87),
    "HRNet": (None, 0.745, 55.24),
}
FOUR_SLICES = {
    "undenoised": (115.49, 124.67, 120.90, 164.52),
    "UNet": (61.08, 63.84, 66.65, 82.32),
    "HRNet": (56.10, 60.55, 61.01, 76.94),
}
CNR = {"undenoised": 0.32, "UNet": 2.45, "HRNet": 2.70, "normal dose": 0.90}
NOISE_PARTS = {"HRNet": (-0.08, 0.9, 0.3, 0.7846, 0.6131, 0.1137)}

SCALES = scales(
    DEMO.but(
        words="HRNet with three branches of 8 to 32 channels instead of four of 32 to 256, UNet "
        "with 16 to 64 channels instead of 32 to 512, down to one pixel as in the paper, whole "
        "slices turned and flipped instead of shifted and tilted, 3,000 steps instead of 100,000, "
        "learning rate 2e-3 with warm-up instead of 1e-4",
        slices=12,
        test_slices=6,
    ),
    PAPER.but(
        words="the paper's protocol: whole 1 mm slices of the sharp kernel, batch 1, shift, "
        "rotation and zero padding, Adam 1e-4, 1e-5 from 50,000 and 1e-6 from 75,000 of 100,000 "
        "steps, eight training and two test patients",
        test_patients=2,
        validation_patients=0,
        thickness_mm=1.0,
        kernel="D45f",
        monitor_slices=4,
    ),
    SMOKE.but(size=64, pixel_mm=6.0),
    # The paper's low dose lies 114 HU from its normal one, and its CNR of 0.32 and 0.90 say that
    # it has 2.8 times the noise, as an eighth of the dose has. Fig 4 shows lungs.
    added_sd_hu=114.0,
    dose=0.125,
    region="torso",
)
# UNets have as many levels as halve the slices to one pixel: the last width repeats.
UNETS = {"paper": UNet(), "demo": UNet((16, 32, 64)), "smoke": UNet((2, 4, 4))}
WHOLE = Patches(size=None, stride=1, batch=1, slices_per_patient=None, augment="shift_rotate")
BASE = Experiment(
    model=HRNet(),
    loss=mse,
    optimizer=Adam(Piecewise((1e-4, 1e-5, 1e-6), at=(0.5, 0.75))),
    patches=WHOLE,
    window=hu.HRNET,
    steps=100_000,
)
RATE = Cosine(2e-3, to=2e-5, warmup=0.05)
HRNETS = {
    "paper": BASE,
    # InstanceNorm's statistics are those of the whole slice, and air that is shifted in changes
    # them: of the demo's few slices no test slice has that.
    "demo": BASE.but(model=HRNet((8, 16, 32)), optimizer=Adam(RATE), steps=3000).with_overrides(
        ["patches.augment=dihedral"]
    ),
    "smoke": BASE.but(model=HRNet((2, 4)), optimizer=Adam(RATE), steps=3),
}


def variants(scale: str) -> dict[str, Experiment]:
    """UNet and HRNet in the same training."""
    return {"UNet": HRNETS[scale].but(model=UNETS[scale]), "HRNet": HRNETS[scale]}


BOTH = ("HRNet", "UNet")
# Stand-ins for Table 1's slices.
SLICES = TissueSlices(
    {"abdomen": (-20.0, 80.0), "liver": (80.0, 160.0), "lung": (-950.0, -600.0)}, middle="lesion"
)
LESION = LesionCNR(contrast_hu=-40.0, radius_mm=8.0)
STUDY = Study(
    name="hrnet",
    title="HRNet and UNet",
    reproduces="hrnet Table 1, Fig 2-8",
    scales=SCALES,
    variants=variants,
    protocol=lambda window: protocols.HRNET,
    measures=(SLICES, LESION, Elsewhere(), NoiseParts()),
    report=[
        blocks.Table("Table 1: UNet and HRNet, all test slices", TABLE_1),
        blocks.Numbers("Table 1, four slices: RMSE [HU]", SLICES, FOUR_SLICES),
        blocks.PairedTests("HRNet"),
        blocks.Numbers(
            "Fig 5, CNR: contrast-to-noise ratio of a lesion",
            LESION,
            {row: (None, cnr) for row, cnr in CNR.items()},
            note="The paper's CNR divides by the difference of two standard deviations and is "
            "singular where they are alike.",
        ),
        blocks.Numbers("Fig 7: an unseen kernel and pixel grid", Elsewhere(), digits=3),
        blocks.Numbers(
            "Fig 8: what the removed noise is made of, between 150/256 π and π",
            NoiseParts(),
            NOISE_PARTS,
            digits=3,
        ),
        blocks.Panel("Fig 2: abdomen", kept="abdomen"),
        blocks.Panel("Fig 3: the slice with the most liver", kept="liver"),
        blocks.Panel("Fig 4: the slice with the most lung", kept="lung", window=hu.LUNG),
        blocks.Panel("Fig 5: a low-contrast lesion", kept="lesion", regions="lesion_regions"),
        blocks.BySlice("Fig 6a: RMSE by slice", "rmse"),
        blocks.BySlice("Fig 6b: SSIM by slice", "ssim"),
        blocks.Panel("Fig 7: an unseen reconstruction, 1x1 mm", kept="other"),
        blocks.NoiseAnalysis("Fig 8: noise analysis"),
        blocks.Convergence("Training RMSE: both networks"),
        blocks.Better(*BOTH, "HRNet beats UNet in RMSE (Table 1)", "4.6 HU", ["rmse"]),
        blocks.Better(*BOTH, "HRNet beats UNet in SSIM (Table 1)", "0.033", ["ssim"]),
        blocks.SliceBySlice(*BOTH, "HRNet beats UNet in almost every slice, RMSE and SSIM (Fig 6)"),
        blocks.Sharper(*BOTH, "HRNet resolves more than UNet (Fig 2-4)"),
        blocks.Measured(
            BOTH,
            "cnr",
            "HRNet beats UNet in CNR of a lesion (Fig 5)",
            "CNR of the inserted lesion",
            above=0.0,
        ),
        blocks.Measured(
            BOTH,
            "other_rmse_hu",
            "HRNet beats UNet on an unseen reconstruction (Fig 7)",
            "RMSE there",
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
