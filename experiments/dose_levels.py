"""DnCNN trained on photographs, and fine-tuned on CT, from 75 to 5 per cent of the dose (Usui et
al. 2021, "Quantitative evaluation of deep convolutional neural network-based image denoising for
low-dose computed tomography").

Reproduces: Fig 2 (MTF), Fig 3 and 5 (images), Fig 4 (vertical profiles), Fig 6 (SSIM) and Fig 7
(PSNR) with their paired t-tests.

    make train EXP=dose_levels                              # demo: embedded phantoms
    make train EXP=dose_levels DATA=/path/to/dicom SCALE=paper
    make train EXP=dose_levels SET=scale.dose_rule=physics  # noise as independent quanta demand
    make train EXP=dose_levels SET=images.folder=PHOTOS     # your own photographs, 256x256 or more

Expected time: estimated; demo, two CPU cores: 10 minutes. paper: 150 epochs of 15,000 patches,
twice, and of the photographs.

The paper shows bars without numbers: fine-tuning improves SSIM by about 10 % at 5 and 10 % of the
dose, and lowers SSIM and PSNR at 50 and 75 %; at 10 % the network of photographs alone shows CT
numbers too high.
"""

import dataclasses

import numpy as np

from ldct_jax import hu
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.natural import NaturalImages
from ldct_jax.denoise.filters import Gaussian, Identity, Median, Wiener
from ldct_jax.losses import mse
from ldct_jax.metrics import protocols
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant, Cosine
from ldct_jax.report import blocks
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales
from ldct_jax.study.measures import TissueBias
from ldct_jax.study.study import Study

DOSES = (0.75, 0.5, 0.1, 0.05)
FILTERS = {"median": Median(3), "gaussian": Gaussian(1.0), "wiener": Wiener(5)}
PLAIN, LAST, ALL = "DnCNN (photographs)", "DnCNN, last layer tuned", "DnCNN, all layers tuned"
# The paper names no window. Here σ = 25 of 255 grey levels is 39 HU, between the noise at 75 % and
# at 10 % of the dose; in the full range it would be 402 HU, which no dose has.
WINDOW = hu.ABDOMEN
# Ten equal steps from the original dose to 1/100.
TRAINING_DOSES = tuple(np.linspace(1.0, 0.01, 10).round(2).tolist())
TESTED = dict(doses=DOSES, training_doses=TRAINING_DOSES, training_crop=(250, 350))
# Phantoms that hold the central 350x250 pixels, which alone are scored.
MATRIX = dict(size=352, pixel_mm=1.1)
SCALES = scales(
    DEMO.but(
        words="DnCNN with 10 layers of 24 filters instead of 20 of 64, 2,000 steps on eleven "
        "photographs (the paper: 400), then 600 (last layer) or 800 (all layers) on three "
        "patients at ten doses; noise grows as 1/dose, as in the paper",
        max_slices=8,
        test_patients=3,
        test_slices=1,
        **TESTED,
        **MATRIX,
    ),
    PAPER.but(
        words="the paper's protocol: DnCNN of 20 layers, Adam 1e-3, 150 epochs, 50x50 patches, 15 "
        "at random places of the central 350x250 pixels of each of 100 slices at ten doses, random "
        "rotation and flip; 10 test slices. Here the slices come from five training and five test "
        "patients; the photographs are eleven in place of 400; noise grows as 1/dose",
        max_slices=20,
        **TESTED,
        test_patients=5,
        thickness_mm=3.0,
        test_slices=2,
    ),
    SMOKE.but(
        doses=(0.5, 0.05),
        training_doses=(1.0, 0.1),
        training_crop=(64, 64),
        patients=4,
        test_patients=2,
        **MATRIX,
    ),
    dose_rule="paper",
    noise_spectrum="mtf",
    slice_mm=3.0,
    # A normal dose with 12 HU of noise.
    dose=0.5,
    added_sd_hu=12.0,
)
MODELS = {
    "paper": DnCNN(20),
    "demo": DnCNN(10, 24, initialization="zero_last"),
    "smoke": DnCNN(3, 2, initialization="zero_last"),
}
BATCH = {"paper": 128, "demo": 16, "smoke": 8}
# DnCNN's own code cuts 204,800 patches an epoch of its photographs; the tiles here are 31.
PATCHES_A_TILE = {"paper": 6600, "demo": 15, "smoke": 15}
# Steps on photographs, of the last layer, of all layers.
STEPS = {"demo": (2000, 600, 800), "smoke": (4, 2, 2)}


def variants(scale: str) -> dict[str, Experiment]:
    """DnCNN on photographs with σ = 25, and that network tuned on CT: last layer, all layers."""
    paper = scale == "paper"
    rate = Constant(1e-3) if paper else Cosine(1e-3, to=2e-5, warmup=0.05)
    lengths = [dict(epochs=150)] * 3 if paper else [dict(steps=n) for n in STEPS[scale]]
    photographs, last, every = lengths
    ct = Patches(
        50, batch=BATCH[scale], slices_per_patient=None, per_slice=15, augment="rotate_flip"
    )
    tuned = Experiment(
        model=MODELS[scale],
        loss=mse,
        optimizer=Adam(rate),
        patches=ct,
        window=WINDOW,
        starts_from=PLAIN,
    )
    tiles = dataclasses.replace(ct, per_slice=PATCHES_A_TILE[scale], augment="noise_25")
    plain = tuned.but(patches=tiles, images=NaturalImages(sigma=25.0), starts_from=None)
    return {
        PLAIN: plain.but(**photographs),
        LAST: tuned.but(optimizer=Adam(rate, trainable="last_conv"), **last),
        ALL: tuned.but(**every),
    }


def at(dose: float) -> list:
    """Tables and images of a dose, and what the paper says of it."""

    def better(row: str, than: str, claim: str, metric: str) -> blocks.Differences:
        return blocks.Better(row, than, f"{claim} at {dose:.0%}", metrics=[metric], dose=dose)

    if dose > 0.1:
        claims = [
            better(PLAIN, LAST, "tuning loses SSIM (Fig 6)", "ssim"),
            better(PLAIN, LAST, "tuning loses PSNR (Fig 7)", "psnr_db"),
            better(PLAIN, "gaussian", "photographs beat the Gaussian in PSNR (Fig 7)", "psnr_db"),
        ]
    else:
        gain = f"tuning the last layer gains about 10 % SSIM (Fig 6) at {dose:.0%}"
        claims = [blocks.Gain(LAST, PLAIN, gain, "ssim", 0.05, 0.15, dose)]
        for name in FILTERS:
            text = f"tuning beats the {name} filter in SSIM (Fig 6)"
            claims.append(better(LAST, name, text, "ssim"))
    return [
        blocks.Table(f"{dose:.0%} of the dose", dose=dose),
        blocks.PairedTests(PLAIN, dose),
        blocks.Panel(f"Fig 3, 5, {dose:.0%}: a test slice", dose=dose, filters=FILTERS),
        *claims,
    ]


STUDY = Study(
    name="dose_levels",
    title="DnCNN at several doses, before and after fine-tuning",
    reproduces="dncnn_dose Fig 2-7",
    scales=SCALES,
    variants=variants,
    protocol=lambda window: dataclasses.replace(
        protocols.DNCNN_DOSE, name=f"dncnn_dose {window}", window=window
    ),
    filters={"undenoised": Identity(), **FILTERS},
    measures=(TissueBias("soft tissue"),),
    report=[
        *(block for dose in DOSES for block in at(dose)),
        blocks.MTF("Fig 2: the MTF that shapes the simulated noise"),
        blocks.ByDose("Fig 6: SSIM by dose", "ssim", against=PLAIN),
        blocks.ByDose("Fig 7: PSNR by dose", "psnr_db", against=PLAIN),
        blocks.BiasByDose("Bias of CT numbers in flat soft tissue"),
        blocks.Profile("Fig 4, 50%: vertical profiles", filters=FILTERS, dose=0.5),
        blocks.Profile("Fig 4, 10%: vertical profiles", filters=FILTERS, dose=0.1),
        blocks.Convergence("Training RMSE: photographs, then CT at ten doses"),
        blocks.Measured(
            [PLAIN],
            lambda n: n["bias_hu"].get("0.1"),
            "the network of photographs shows CT numbers too high at 10 % (Fig 4j)",
            "bias in flat soft tissue",
            "HU",
            above=0.0,
            dose=0.1,
        ),
        blocks.Note(
            "The paper's equation 2 takes the maximum of the denoised image for PSNR's peak, so "
            "that a brighter result has the higher PSNR at the same error; it is followed here. "
            "The paper tested ten slices; the tests here are over patients. It trains on "
            "photographs with σ = 25 and names no window; the one here was chosen so that this "
            "noise lies within the tested range."
        ),
    ],
)
