"""A cascade of a perceptual-loss network and an MSE network, and its parts ("Low dose CT denoising
via cascaded perceptual and MSE networks": DRL, CNN10 and Wu's cascade).

Reproduces: Fig 2 (A: MSE DRL, B: perceptual DRL, C: their cascade, D: MSE cascade), Fig 5 (CNN10
against DRL), Fig 6 (blended outputs, third level).

    make train EXP=cascade                                  # demo: embedded phantoms
    make train EXP=cascade DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 6 minutes, measured on a machine that did other work
too. paper: on a GPU not measured, on a CPU out of reach.

The paper shows images and prints no numbers; its claims are judged by PSNR and SSIM here.
"""

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.vgg import WEIGHTS
from ldct_jax.hu import CASCADE
from ldct_jax.losses import Perceptual, Weighted, mse
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.dncnn import CNN10
from ldct_jax.models.drl import DRL
from ldct_jax.models.vgg import BLOCKS_1_TO_4, VGGFeatures
from ldct_jax.optim import Adam, Constant
from ldct_jax.report import claims, comparisons, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import DEMO, PAPER, Experiment, scales
from ldct_jax.study.study import Measured, Study, Tested

SCALES = scales(
    DEMO.but(
        words="networks of 12 filters instead of 64, 48x48 patches, 6 or 8 epochs of 13 steps "
        "instead of 15 or 10 of thousands; their last layers start at zero"
    ),
    PAPER.but(
        words="the paper's protocol: 64x64 patches of all slices of eight training patients (one "
        "of them held out for validation), batch 32, Adam 1e-3, 15 epochs with the perceptual "
        "loss and 10 with MSE, two test patients",
        test_patients=2,
    ),
)
PATCHES = {
    "paper": Patches(size=64, stride=64, batch=32, slices_per_patient=None),
    "demo": Patches(size=48, stride=32, batch=16, slices_per_patient=1),
    "smoke": Patches(size=24, stride=36, batch=4, slices_per_patient=1),
}
FILTERS = {"paper": 64, "demo": 12, "smoke": 2}
EPOCHS = {"paper": (15, 10), "demo": (6, 8), "smoke": (1, 1)}
LAYERS = {"paper": BLOCKS_1_TO_4, "demo": BLOCKS_1_TO_4, "smoke": ("block1_conv2",)}
# The share of the prediction in blended images (Fig 6); the rest is the low dose.
BLEND = 0.7
BLENDED = "blended"


def variants(scale: str) -> dict[str, Experiment]:
    """The parts first: a cascade starts from them, and only its last stage is trained."""
    n, start = FILTERS[scale], "lecun" if scale == "paper" else "zero_last"
    perceptual_epochs, mse_epochs = EPOCHS[scale]
    features = Perceptual(VGGFeatures(WEIGHTS, layers=LAYERS[scale]))
    to_image = DRL(n, initialization=start)
    to_difference = DRL(n, input_residual=False, initialization=start)
    base = Experiment(
        model=to_difference,
        loss=mse,
        optimizer=Adam(Constant(1e-3)),
        patches=PATCHES[scale],
        window=CASCADE,
        epochs=mse_epochs,
    )

    def cascade(starts_from: str, *stages, concat: bool = False) -> Experiment:
        # Each stage is an object of its own: linen shares the weights of one that stands twice.
        model = Cascade(tuple(stage.copy() for stage in stages), concat=concat)
        last = Adam(Constant(1e-3), trainable="last_stage")
        return base.but(model=model, optimizer=last, starts_from=starts_from)

    with_features = base.but(model=to_image, epochs=perceptual_epochs)
    second = DRL(n, in_channels=2, input_residual=False, initialization=start)
    return {
        "CNN10, MSE": base.but(model=CNN10(n_filters=n, initialization=start)),
        "DRL, MSE (A)": base,
        "DRL, perceptual (B)": with_features.but(loss=features),
        "DRL, MSE + perceptual": with_features.but(loss=Weighted((mse, features), (1.0, 0.1))),
        "cascade B, A (C)": cascade("DRL, perceptual (B)", to_image, to_difference),
        "MSE cascade A, A (D)": cascade("DRL, MSE (A)", to_difference, second, concat=True),
        "3 levels B, A, A": cascade("cascade B, A (C)", to_image, to_difference, to_difference),
    }


def measure(tested: Tested) -> Measured:
    """Scores of the blended images (Wu et al.; Fig 6)."""
    low = tested.pairs.low_hu.astype("float32")
    blended = BLEND * tested.denoised + (1 - BLEND) * low
    return Measured(scores={BLENDED: tested.protocol.score(blended, tested.pairs.full_hu)})


def report(results) -> page.Report:
    shown = {
        "DRL, MSE (A)": "A: DRL, MSE",
        "DRL, perceptual (B)": "B: DRL, perceptual",
        "cascade B, A (C)": "C: cascade of B and A",
        "MSE cascade A, A (D)": "D: MSE cascade",
        "CNN10, MSE": "CNN10, MSE",
        "3 levels B, A, A": "3 levels",
    }
    further = {
        f"{v}, {BLEND:g} blended": (v, BLENDED) for v in ("cascade B, A (C)", "3 levels B, A, A")
    }
    sections = [
        page.Section(
            "Image quality on test patients",
            "The perceptual loss sums VGG-16's blocks 1 to 4, each the mean squared difference of "
            "its features. The paper's text has it alone (III-D) and added to MSE with weight 0.1 "
            "(III-C): both are rows, and the cascades start from the former. In the last rows "
            f"{1 - BLEND:g} of the low-dose image is added back.",
            tables=[
                parts.quality_table(
                    results,
                    name="cascade",
                    title="Parts, cascades and blended images",
                    paper={},
                    further=further,
                    note="The paper prints no numbers.",
                )
            ],
            figures=[
                parts.panel(results, shown, name="fig_2", title="Fig 2, 5, 6: a test slice"),
                *parts.training_figures(results, results.variants, "training", "all rows"),
            ],
        )
    ]
    return parts.standard(results, sections, _claims(results), shown=shown, main="cascade B, A (C)")


# "Negligible": less than this in PSNR.
LITTLE_DB = 0.15


def _claims(results) -> list[claims.Claim]:
    pairs = (
        ("DRL beats CNN10 as difference predictor (Fig 5)", "DRL, MSE (A)", "CNN10, MSE"),
        ("the cascade beats its first part, B (Fig 2)", "cascade B, A (C)", "DRL, perceptual (B)"),
        ("the cascade beats the MSE network, A (Fig 2)", "cascade B, A (C)", "DRL, MSE (A)"),
        ("the cascade beats the MSE cascade (Fig 2)", "cascade B, A (C)", "MSE cascade A, A (D)"),
    )
    return [
        *(
            comparisons.compare(results, f"{claim}, in {metric}", a, b, metric=key)
            for claim, a, b in pairs
            for metric, key in (("PSNR", "psnr_db"), ("SSIM", "ssim"))
        ),
        comparisons.small_difference(
            results,
            "a third level adds little (Fig 6)",
            "3 levels B, A, A",
            "cascade B, A (C)",
            limit_db=LITTLE_DB,
        ),
    ]


STUDY = Study(
    name="cascade",
    title="Cascade of a perceptual and an MSE network",
    reproduces="cascade_drl Fig 2, 5, 6",
    scales=SCALES,
    variants=variants,
    report=report,
    measure=measure,
)
