"""A cascade of a perceptual-loss network and an MSE network, and its parts ("Low dose CT denoising
via cascaded perceptual and MSE networks": DRL, CNN10 and Wu's cascade).

Reproduces: Fig 2 (A: MSE DRL, B: perceptual DRL, C: their cascade, D: MSE cascade), Fig 5 (CNN10
against DRL), Fig 6 (blended outputs, third level).

    make train EXP=cascade                                  # demo: embedded phantoms
    make train EXP=cascade DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 10 minutes. paper: 281,660 patches, 15 epochs with the
perceptual loss and 10 with MSE.

The paper shows images and prints no numbers. It claims a slight improvement in contrast of DRL over
CNN10, better contrast of its cascade than of the MSE cascade, and negligible improvement by a third
level.
"""

from ldct_jax import hu
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.vgg import WEIGHTS
from ldct_jax.losses import Perceptual, Weighted, mse
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.dncnn import CNN10
from ldct_jax.models.drl import DRL
from ldct_jax.models.vgg import BLOCKS_1_TO_4, VGGFeatures
from ldct_jax.optim import Adam, Constant, Cosine
from ldct_jax.report import blocks
from ldct_jax.study.experiment import DEMO, PAPER, Experiment, scales
from ldct_jax.study.measures import Blended
from ldct_jax.study.study import Study

CNN, A, B = "CNN10, MSE", "DRL, MSE (A)", "DRL, perceptual (B)"
C, D, THREE = "cascade B, A (C)", "MSE cascade A, A (D)", "3 levels B, A, A"
SCALES = scales(
    DEMO.but(
        words="thorax phantoms; networks of 16 filters instead of 64, batches of 8 patches of "
        "48x48, 1,000 steps a row (600 at batch 4 with the perceptual loss), learning rate 1e-3 "
        "with warm-up; their last layers start at zero",
    ),
    PAPER.but(
        words="the paper's protocol: 1 mm slices, 64x64 patches of all slices of eight training "
        "patients, batch 32, Adam 1e-3, 15 epochs with the perceptual loss and 10 with MSE, two "
        "test patients",
        test_patients=2,
        thickness_mm=1.0,
    ),
    region="thorax",  # Fig 2 shows a lung
)
PATCHES = {
    "paper": Patches(size=64, stride=64, batch=32, slices_per_patient=None),
    "demo": Patches(size=48, stride=16, batch=8, slices_per_patient=4),
    "smoke": Patches(size=24, stride=36, batch=4, slices_per_patient=1),
}
# BatchNorm's statistics must have seen enough of a training of a thousand steps.
NETWORK = {
    "paper": dict(n_filters=64, momentum=0.99, initialization="lecun"),
    "demo": dict(n_filters=16, momentum=0.9, initialization="zero_last"),
    "smoke": dict(n_filters=2, momentum=0.9, initialization="zero_last"),
}
# Of the rows with the perceptual loss, and of the others.
LENGTH = {
    "paper": (dict(epochs=15), dict(epochs=10)),
    "demo": (dict(steps=600), dict(steps=1000)),
    "smoke": (dict(steps=3), dict(steps=3)),
}
LAYERS = {"paper": BLOCKS_1_TO_4, "demo": BLOCKS_1_TO_4, "smoke": ("block1_conv2",)}
# The share of the prediction in blended images (Fig 6); the rest is the low dose.
BLEND = Blended(0.7)
# "Negligible": less than this in PSNR.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """The parts first: a cascade starts from them, and only its last stage is trained."""
    net, (perceptual, plain) = NETWORK[scale], LENGTH[scale]
    rate = Constant(1e-3) if scale == "paper" else Cosine(1e-3, to=2e-5, warmup=0.05)
    to_image, to_difference = DRL(**net), DRL(input_residual=False, **net)
    second = DRL(in_channels=2, input_residual=False, **net)
    base = Experiment(
        model=to_difference,
        loss=mse,
        optimizer=Adam(rate),
        patches=PATCHES[scale],
        window=hu.CASCADE,
        **plain,
    )

    def cascade(starts_from: str, *stages, concat: bool = False) -> Experiment:
        # Each stage is an object of its own: linen shares the weights of one that stands twice.
        model = Cascade(tuple(stage.copy() for stage in stages), concat=concat)
        last = Adam(rate, trainable="last_stage")
        return base.but(model=model, optimizer=last, starts_from=starts_from)

    features = Perceptual(VGGFeatures(WEIGHTS, layers=LAYERS[scale]))
    with_features = base.but(model=to_image, loss=features, **perceptual)
    if scale == "demo":
        with_features = with_features.with_overrides(["patches.batch=4"])
    return {
        CNN: base.but(model=CNN10(**net)),
        A: base,
        B: with_features,
        "DRL, MSE + perceptual": with_features.but(loss=Weighted((mse, features), (1.0, 0.1))),
        C: cascade(B, to_image, to_difference),
        D: cascade(A, to_difference, second, concat=True),
        THREE: cascade(C, to_image, to_difference, to_difference),
    }


FIG_2 = {
    A: "A: DRL, MSE",
    B: "B: DRL, perceptual",
    C: "C: cascade of B and A",
    D: "D: MSE cascade",
}
IN_CONTRAST = dict(number="cnr", measured="CNR of the phantom's lesions", above=0.0, of="quality")
STUDY = Study(
    name="cascade",
    title="Cascade of a perceptual and an MSE network",
    reproduces="cascade_drl Fig 2, 5, 6",
    scales=SCALES,
    variants=variants,
    measures=(BLEND,),
    report=[
        blocks.Table(
            "Cascade: parts, cascades and blended images",
            further={f"{row}, {BLEND.share:g} blended": (row, BLEND.name) for row in (C, THREE)},
        ),
        blocks.PairedTests(C),
        blocks.Panel("Fig 2: a lung", FIG_2, window=hu.LUNG),
        blocks.Panel("Fig 5: difference predictors", [CNN, A]),
        blocks.Panel(
            "Fig 6: blended images",
            [C, THREE],
            kept={"normal dose": "full", "low dose": "low", "{row}, blended": BLEND.name},
        ),
        blocks.Convergence("Training RMSE: all rows"),
        blocks.Measured((A, CNN), claim="DRL improves contrast over CNN10 (Fig 5)", **IN_CONTRAST),
        blocks.Measured(
            (C, D),
            claim="the cascade has better contrast than the MSE cascade (Fig 2)",
            **IN_CONTRAST,
        ),
        blocks.Better(C, B, "the cascade outperforms its first part, B (Fig 2, conclusion)"),
        blocks.Better(C, A, "the cascade outperforms its second part, A (Fig 2, conclusion)"),
        blocks.AddsLittle(THREE, C, "a third level adds little (Fig 6)", LITTLE_DB),
        blocks.Note(
            "The perceptual loss sums VGG-16's blocks 1 to 4, each the mean squared difference of "
            "its features. The paper's text has it alone (III-D) and added to MSE with weight 0.1 "
            "(III-C): both are rows, and the cascades start from the former. The paper's parameter "
            "counts (225,601 and 335,873) count BatchNorm's running statistics too."
        ),
    ],
)
