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
from ldct_jax.study import study
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales

CNN, A, B = "CNN10, MSE", "DRL, MSE (A)", "DRL, perceptual (B)"
C, D, THREE = "cascade B, A (C)", "MSE cascade A, A (D)", "3 levels B, A, A"
# Fig 2 shows a lung.
REGION = dict(region="thorax")
SCALES = scales(
    DEMO.but(
        words="thorax phantoms; networks of 16 filters instead of 64, batches of 8 patches of "
        "48x48, 1,500 steps a row (800 at batch 4 with the perceptual loss), learning rate 1e-3 "
        "with warm-up; their last layers start at zero",
        **REGION,
    ),
    PAPER.but(
        words="the paper's protocol: 1 mm slices, 64x64 patches of all slices of eight training "
        "patients, batch 32, Adam 1e-3, 15 epochs with the perceptual loss and 10 with MSE, two "
        "test patients",
        test_patients=2,
        validation_patients=0,
        thickness_mm=1.0,
        one_reconstruction=True,
        **REGION,
    ),
    SMOKE.but(**REGION),
)
PATCHES = {
    "paper": Patches(size=64, stride=64, batch=32, slices_per_patient=None),
    "demo": Patches(size=48, stride=16, batch=8, slices_per_patient=4),
    "smoke": Patches(size=24, stride=36, batch=4, slices_per_patient=1),
}
FILTERS = {"paper": 64, "demo": 16, "smoke": 2}
# Of the rows with the perceptual loss, and of the others.
LENGTH = {
    "paper": (dict(epochs=15), dict(epochs=10)),
    "demo": (dict(steps=800), dict(steps=1500)),
    "smoke": (dict(steps=3), dict(steps=3)),
}
LAYERS = {"paper": BLOCKS_1_TO_4, "demo": BLOCKS_1_TO_4, "smoke": ("block1_conv2",)}
# BatchNorm's statistics must have seen enough of a training of a thousand steps.
MOMENTUM = {"paper": 0.99, "demo": 0.9, "smoke": 0.9}
# The share of the prediction in blended images (Fig 6); the rest is the low dose.
BLEND = 0.7
BLENDED = "blended"
# "Negligible": less than this in PSNR.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """The parts first: a cascade starts from them, and only its last stage is trained."""
    net = dict(n_filters=FILTERS[scale], momentum=MOMENTUM[scale])
    net["initialization"] = "lecun" if scale == "paper" else "zero_last"
    rate = Constant(1e-3) if scale == "paper" else Cosine(1e-3, to=2e-5, warmup=0.05)
    perceptual, plain = LENGTH[scale]
    features = Perceptual(VGGFeatures(WEIGHTS, layers=LAYERS[scale]))
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

    batch = PATCHES[scale].batch if scale == "paper" else 4
    with_features = base.but(model=to_image, **perceptual).with_overrides(
        [f"patches.batch={batch}"]
    )
    return {
        CNN: base.but(model=CNN10(**net)),
        A: base,
        B: with_features.but(loss=features),
        "DRL, MSE + perceptual": with_features.but(loss=Weighted((mse, features), (1.0, 0.1))),
        C: cascade(B, to_image, to_difference),
        D: cascade(A, to_difference, second, concat=True),
        THREE: cascade(C, to_image, to_difference, to_difference),
    }


def measure(tested: study.Tested) -> study.Measured:
    """Scores of the blended images (Wu et al.), and one of them for Fig 6."""
    low = tested.pairs.low_hu.astype("float32")
    blended = BLEND * tested.denoised + (1 - BLEND) * low
    middle = blended[len(blended) // 2].round().astype("int16")
    scores = tested.protocol.score(blended, tested.pairs.full_hu)
    return study.Measured(scores={BLENDED: scores}, images={BLENDED: middle})


def contrast(better: str, than: str, claim: str) -> blocks.Measured:
    """A claim about contrast: the CNR of the quality phantom's lesions."""
    return blocks.Measured(
        (better, than),
        lambda a, b: None if None in (a["cnr"], b["cnr"]) else a["cnr"] - b["cnr"],
        claim,
        f"CNR of the phantom's lesions, {better} minus {than}",
        above=0.0,
        of="quality",
    )


STUDY = study.Study(
    name="cascade",
    title="Cascade of a perceptual and an MSE network",
    reproduces="cascade_drl Fig 2, 5, 6",
    scales=SCALES,
    variants=variants,
    measure=measure,
    report=[
        blocks.Table(
            "Cascade: parts, cascades and blended images",
            further={f"{v}, {BLEND:g} blended": (v, BLENDED) for v in (C, THREE)},
        ),
        blocks.PairedTests(C),
        blocks.Panel(
            "Fig 2: a lung",
            {
                A: "A: DRL, MSE",
                B: "B: DRL, perceptual",
                C: "C: cascade of B and A",
                D: "D: MSE cascade",
            },
            window=hu.LUNG,
        ),
        blocks.Panel("Fig 5: difference predictors", [CNN, A]),
        blocks.Panel(
            "Fig 6: blended images",
            [C, THREE],
            kept={"normal dose": "full", "low dose": "low", "{row}, blended": BLENDED},
        ),
        blocks.Convergence("Training RMSE: all rows"),
        contrast(A, CNN, "DRL improves contrast over CNN10 (Fig 5)"),
        contrast(C, D, "the cascade has better contrast than the MSE cascade (Fig 2)"),
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
