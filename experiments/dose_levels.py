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
from ldct_jax.metrics.contrast import hu_bias
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant, Cosine
from ldct_jax.report import blocks
from ldct_jax.study import study
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales

DOSES = (0.75, 0.5, 0.1, 0.05)
# Ten equal steps from the original dose to 1/100.
TRAINING_DOSES = tuple(round(float(d), 2) for d in np.linspace(1.0, 0.01, 10))
FILTERS = {"median": Median(3), "gaussian": Gaussian(1.0), "wiener": Wiener(5)}
PLAIN, LAST, ALL = "DnCNN (photographs)", "DnCNN, last layer tuned", "DnCNN, all layers tuned"

# The paper names no window. Here σ = 25 of 255 grey levels is 39 HU, between the noise at 75 % and
# at 10 % of the dose; in the full range it would be 402 HU, which no dose has.
WINDOW = hu.ABDOMEN
# The protocol scores the central 350x250 pixels, so the slices must hold them. A normal dose with
# 12 HU of noise.
SIZES = dict(doses=DOSES, training_doses=TRAINING_DOSES, dose_rule="paper", noise_spectrum="mtf")
NOISE = dict(dose=0.5, added_sd_hu=12.0, slice_mm=3.0, training_crop=(250, 350))
DEMO_SCALE = DEMO.but(
    words="DnCNN with 10 layers of 24 filters instead of 20 of 64, 2,500 steps on eleven "
    "photographs (the paper: 400), then 600 (last layer) or 1,200 (all layers) on three patients "
    "at ten doses; noise grows as 1/dose, as in the paper",
    **SIZES,
    **NOISE,
    patients=7,
    slices=4,
    size=352,
    pixel_mm=1.1,
    max_slices=8,
    test_patients=3,
    test_slices=1,
)
PAPER_SCALE = PAPER.but(
    words="the paper's protocol: DnCNN of 20 layers, Adam 1e-3, 150 epochs, 50x50 patches, 15 at "
    "random places of the central 350x250 pixels of each of 100 slices at ten doses, random "
    "rotation and flip; 10 test slices. Here the slices come from five training and five test "
    "patients; the photographs are eleven in place of 400; noise grows as 1/dose",
    **SIZES,
    **NOISE,
    slices=20,
    max_slices=20,
    test_patients=5,
    thickness_mm=3.0,
    one_reconstruction=True,
    validation_patients=0,
    test_slices=2,
)
SMOKE_SCALE = SMOKE.but(
    doses=(0.5, 0.05),
    training_doses=(1.0, 0.1),
    dose_rule="paper",
    training_crop=(64, 64),
    size=352,
    pixel_mm=1.1,
    patients=4,
    max_slices=2,
    test_patients=2,
)


MODEL = {
    "paper": DnCNN(20),
    "demo": DnCNN(10, 24, initialization="zero_last"),
    "smoke": DnCNN(3, 2, initialization="zero_last"),
}
BATCH = {"paper": 128, "demo": 16, "smoke": 8}
# On photographs; the last layer; all layers.
LENGTHS = {
    "paper": (dict(epochs=150),) * 3,
    "demo": (dict(steps=2500), dict(steps=600), dict(steps=1200)),
    "smoke": (dict(steps=4), dict(steps=2), dict(steps=2)),
}


def variants(scale: str) -> dict[str, Experiment]:
    """DnCNN on photographs with σ = 25, and that network tuned on CT: last layer, all layers."""
    rate = Constant(1e-3) if scale == "paper" else Cosine(1e-3, to=2e-5, warmup=0.05)
    pieces = Patches(50, batch=BATCH[scale], slices_per_patient=None, per_slice=15)
    # DnCNN's own code cuts 204,800 patches an epoch of its photographs; the tiles here are 31.
    many = 6600 if scale == "paper" else 15
    natural, last, all_layers = LENGTHS[scale]
    plain = Experiment(
        model=MODEL[scale],
        loss=mse,
        optimizer=Adam(rate),
        patches=dataclasses.replace(pieces, per_slice=many, augment="noise_25"),
        window=WINDOW,
        images=NaturalImages(sigma=25.0),
        **natural,
    )
    tuned = plain.but(
        patches=dataclasses.replace(pieces, augment="rotate_flip"), images=None, starts_from=PLAIN
    )
    return {
        PLAIN: plain,
        LAST: tuned.but(optimizer=Adam(rate, trainable="last_conv"), **last),
        ALL: tuned.but(**all_layers),
    }


def measure(tested: study.Tested) -> study.Measured:
    """The bias of CT numbers in soft tissue, HU, at each dose."""
    bias = {}
    for dose in tested.pairs.dose_levels:
        own = tested.pairs.doses == dose
        # Where it is flat must not depend on the reference's own noise.
        reference = Gaussian(2.0)(tested.pairs.full_hu[own][..., None])[..., 0]
        bias[f"{dose:g}"] = hu_bias(tested.denoised[own], reference)["soft tissue"]
    return study.Measured({"bias_hu": bias})


def claims() -> list:
    """What the paper says of each dose, asked there."""
    made = []
    for dose in (0.05, 0.1):
        at = f"{dose:.0%} (Fig 6)"
        gain = f"tuning the last layer gains about 10 % SSIM at {at}"
        made.append(blocks.Gain(LAST, PLAIN, gain, "ssim", 0.05, 0.15, dose))
        for label in FILTERS:
            beats = f"the tuned network beats the {label} filter in SSIM at {at}"
            made.append(blocks.Better(LAST, label, beats, metrics=["ssim"], dose=dose))
    for dose in (0.5, 0.75):
        for name, metric in (("SSIM", "ssim"), ("PSNR", "psnr_db")):
            loses = f"tuning loses {name} at {dose:.0%} (Fig 6, 7)"
            made.append(blocks.Better(PLAIN, LAST, loses, metrics=[metric], dose=dose))
        beats = f"before tuning it beats the Gaussian filter in PSNR at {dose:.0%} (Fig 7)"
        made.append(blocks.Better(PLAIN, "gaussian", beats, dose=dose))
    return made


STUDY = study.Study(
    name="dose_levels",
    title="DnCNN at several doses, before and after fine-tuning",
    reproduces="dncnn_dose Fig 2-7",
    scales=scales(DEMO_SCALE, PAPER_SCALE, SMOKE_SCALE),
    variants=variants,
    protocol=lambda window: dataclasses.replace(
        protocols.DNCNN_DOSE, name=f"dncnn_dose {window}", window=window
    ),
    filters={"undenoised": Identity(), **FILTERS},
    measure=measure,
    report=[
        *(blocks.Table(f"{dose:.0%} of the dose", dose=dose) for dose in DOSES),
        *(blocks.PairedTests(PLAIN, dose) for dose in DOSES),
        blocks.MTF("Fig 2: the MTF that shapes the simulated noise"),
        blocks.ByDose("Fig 6: SSIM by dose", "ssim", against=PLAIN),
        blocks.ByDose("Fig 7: PSNR by dose", "psnr_db", against=PLAIN),
        blocks.BiasByDose("Bias of CT numbers in flat soft tissue"),
        *(
            blocks.Panel(f"Fig 3, 5, {dose:.0%}: a test slice", dose=dose, filters=FILTERS)
            for dose in DOSES
        ),
        *(
            blocks.Profile(f"Fig 4, {dose:.0%}: vertical profiles", filters=FILTERS, dose=dose)
            for dose in (0.5, 0.1)
        ),
        blocks.Convergence("Training RMSE: photographs, then CT at ten doses"),
        *claims(),
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
