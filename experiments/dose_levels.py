"""DnCNN trained on photographs, and fine-tuned on CT, from 75 to 5 per cent of the dose (Usui et
al. 2021, "Quantitative evaluation of deep convolutional neural network-based image denoising for
low-dose computed tomography").

Reproduces: Fig 3 (images), Fig 4 (vertical profiles), Fig 5, Fig 6 (SSIM), Fig 7 (PSNR) with its
paired t-tests.

    make train EXP=dose_levels                              # demo: embedded phantoms
    make train EXP=dose_levels DATA=/path/to/dicom SCALE=paper
    make train EXP=dose_levels SCALE=demo_physics           # noise as independent quanta demand

Expected time: demo, two CPU cores, jax 0.12: 3 minutes, measured on a machine that did other work
too. paper: on a GPU not measured, on a CPU out of reach.

The paper shows bars without numbers: fine-tuning improves SSIM by about 10 % at 5 and 10 % of the
dose, and lowers SSIM and PSNR at 50 and 75 %; at 10 % the network of photographs alone shows CT
numbers too high.
"""

import numpy as np

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.natural import NaturalImages
from ldct_jax.denoise.filters import Gaussian, Identity, Median, Wiener
from ldct_jax.hu import FULL
from ldct_jax.losses import mse
from ldct_jax.metrics import protocols
from ldct_jax.metrics.contrast import hu_bias
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant
from ldct_jax.report import claims, comparisons, doses, figures, images, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales
from ldct_jax.study.study import Measured, Study, Tested

DOSES = (0.75, 0.5, 0.1, 0.05)
# Ten equal steps from the original dose to 1/100.
TRAINING_DOSES = tuple(round(float(d), 2) for d in np.linspace(1.0, 0.01, 10))
FILTERS = {
    "undenoised": Identity(),
    "median": Median(3),
    "gaussian": Gaussian(1.0),
    "wiener": Wiener(5),
}
PLAIN, LAST, ALL = "DnCNN (photographs)", "DnCNN, last layer tuned", "DnCNN, all layers tuned"

# The protocol scores the central 350x250 pixels, so the slices must hold them. A normal dose with
# 12 HU of noise.
SIZES = dict(
    doses=DOSES, training_doses=TRAINING_DOSES, dose_rule="paper", training_crop=(250, 350)
)
NOISE = dict(dose=0.5, added_sd_hu=12.0, slice_mm=3.0)
DEMO_SCALE = DEMO.but(
    words="DnCNN with 8 layers of 16 filters instead of 20 of 64, a few hundred steps on tiles of "
    "eleven photographs (the paper: 400), then on three patients at ten doses; noise grows as "
    "1/dose, as in the paper",
    **SIZES,
    **NOISE,
    patients=7,
    slices=1,
    size=352,
    pixel_mm=1.1,
    most_slices=8,
    test_patients=3,
    test_slices=1,
    monitor_every=4,
)
PAPER_SCALE = PAPER.but(
    words="the paper's protocol: DnCNN of 20 layers, Adam 1e-3, 150 epochs, 50x50 patches, 15 of "
    "the central 350x250 pixels of each of 100 slices at ten doses, random rotation and flip; 10 "
    "test slices. Here the slices come from four training and five test patients, and validation "
    "from one more; the photographs are eleven in place of 400; noise grows as 1/dose",
    **SIZES,
    **NOISE,
    slices=25,
    most_slices=25,
    test_patients=5,
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
    most_slices=2,
    test_patients=2,
)


def physics(scale):
    """The same with the noise of independent quanta, SD as 1/√dose."""
    return scale.but(
        name=f"{scale.name}_physics",
        words=scale.words.replace("1/dose", "1/√dose").replace(", as in the paper", ""),
        dose_rule="physics",
    )


SCALES = scales(DEMO_SCALE, PAPER_SCALE, SMOKE_SCALE, physics(DEMO_SCALE), physics(PAPER_SCALE))
MODEL = {
    "paper": DnCNN(20),
    "demo": DnCNN(8, 16, initialization="zero_last"),
    "smoke": DnCNN(3, 2, initialization="zero_last"),
}
NATURAL = {
    "paper": (Patches(50, stride=10, batch=128, slices_per_patient=None), 150),
    "demo": (Patches(50, stride=68, batch=16, slices_per_patient=None), 12),
    "smoke": (Patches(50, stride=206, batch=16, slices_per_patient=1), 1),
}
# In the central 350x250 pixels stride 75 has 5 x 3 places: the paper's 15 patches an image.
CT = {
    "paper": (Patches(50, 75, 128, slices_per_patient=25, augment="rotate_flip"), 150),
    "demo": (Patches(50, 75, 16, slices_per_patient=1, augment="rotate_flip"), 8),
    "smoke": (Patches(32, 32, 8, slices_per_patient=1, augment="rotate_flip"), 1),
}


def variants(scale: str) -> dict[str, Experiment]:
    """DnCNN on photographs with σ = 25, and that network tuned on CT: last layer, all layers."""
    size = scale.removesuffix("_physics")
    (natural, epochs), (ct, tuning) = NATURAL[size], CT[size]
    plain = Experiment(
        model=MODEL[size],
        loss=mse,
        optimizer=Adam(Constant(1e-3)),
        patches=natural,
        window=FULL,
        epochs=epochs,
        images=NaturalImages(sigma=25.0),
    )
    tuned = plain.but(patches=ct, epochs=tuning, images=None, starts_from=PLAIN)
    return {
        PLAIN: plain,
        LAST: tuned.but(optimizer=Adam(Constant(1e-3), trainable="last_conv")),
        ALL: tuned,
    }


def measure(tested: Tested) -> Measured:
    """The bias of CT numbers in soft tissue, HU, at each dose."""
    bias = {}
    for dose in tested.pairs.dose_levels:
        own = tested.pairs.doses == dose
        # Where it is flat must not depend on the reference's own noise.
        reference = Gaussian(2.0)(tested.pairs.full_hu[own][..., None])[..., 0]
        found = hu_bias(tested.denoised[own], reference)["soft tissue"]
        bias[f"{dose:g}"] = None if found is None else found.mean_hu
    return Measured({"bias_hu": bias})


def report(results) -> page.Report:
    levels = results.study["data"]["doses"]
    shown = {v: v for v in results.variants}
    shown_filters = {k: FILTERS[k] for k in ("median", "gaussian", "wiener")}
    sections = [
        page.Section(
            "Image quality by dose",
            "The paper prints no numbers. It tested ten slices; the tests here are over patients.",
            tables=[
                table
                for dose in levels
                for table in (
                    parts.quality_table(
                        results,
                        name=f"dose_{dose * 100:g}",
                        title=f"{dose:.0%} of the dose",
                        paper={},
                        where={"dose": dose},
                    ),
                    doses.paired_tests(results, dose, PLAIN),
                )
            ],
            figures=[
                doses.by_dose(results, "fig_6", "Fig 6: SSIM by dose", "ssim", "SSIM"),
                doses.by_dose(results, "fig_7", "Fig 7: PSNR by dose", "psnr_db", "PSNR [dB]"),
                doses.bias_by_dose(results, "hu_bias", "Bias of CT numbers in flat soft tissue"),
                *parts.training_figures(
                    results, results.variants, "training", "photographs, then CT at ten doses"
                ),
            ],
        ),
        page.Section(
            "Images and profiles",
            figures=[
                figure
                for dose in levels
                for figure in (
                    parts.panel(
                        results,
                        shown,
                        name=f"fig_3_dose_{dose * 100:g}",
                        title=f"Fig 3, 5: {dose:.0%} of the dose",
                        filters=shown_filters,
                        dose=dose,
                    ),
                    _profile(results, dose, shown),
                )
            ],
        ),
    ]
    return parts.standard(results, sections, _claims(results), shown=shown)


def _profile(results, dose: float, shown) -> figures.Figure:
    found = parts.slice_images(results, shown, dose=dose)
    reference = found.pop("normal dose")
    found.pop("Gaussian blur")
    return images.profiles(
        f"fig_4_dose_{dose * 100:g}",
        f"Fig 4: vertical profile at {dose:.0%} of the dose",
        {**found, "normal dose": reference},
        column=reference.shape[1] // 2,
        pixel_mm=results.study["data"]["pixel_mm"],
        caption=f"The middle test slice. Data: {parts.data_words(results)}.",
    )


# "About 10 %" counts from here on.
ABOUT_TEN_PERCENT = 0.05


def _claims(results) -> list[claims.Claim]:
    learnt = {"dose": min(results.study["data"]["doses"])}
    made = []
    for dose in (0.05, 0.1):
        made.append(_gain(results, dose, learnt))
        for label in ("median", "gaussian", "wiener"):
            made.append(
                comparisons.compare(
                    results,
                    f"the tuned network beats the {label} filter in SSIM at {dose:.0%} (Fig 6)",
                    LAST,
                    label,
                    metric="ssim",
                    where={"dose": dose},
                    learnt_where=learnt,
                )
            )
    for dose in (0.5, 0.75):
        for words, metric in (("SSIM", "ssim"), ("PSNR", "psnr_db")):
            made.append(
                comparisons.compare(
                    results,
                    f"tuning loses {words} at {dose:.0%} (Fig 6, 7)",
                    PLAIN,
                    LAST,
                    metric=metric,
                    where={"dose": dose},
                    learnt_where=learnt,
                )
            )
        made.append(
            comparisons.compare(
                results,
                f"before tuning it beats the Gaussian filter in PSNR at {dose:.0%} (Fig 7)",
                PLAIN,
                "gaussian",
                where={"dose": dose},
                learnt_where=learnt,
            )
        )
    return [*made, _upward(results, learnt)]


def _gain(results, dose: float, learnt) -> claims.Claim:
    claim = f"tuning the last layer gains about 10 % SSIM at {dose:.0%} (Fig 6)"
    if dose not in results.study["data"]["doses"]:
        return claims.untested(claim, f"{dose:.0%} was not simulated at this scale")
    if reason := comparisons.unlearnt(results, (LAST, PLAIN), where=learnt):
        return claims.untested(claim, reason)
    protocol, where = parts.protocol_of(results), {"dose": dose}
    gains = []
    for r in results.shared_repeats(LAST, PLAIN):
        tuned, plain = (
            results.summary(v, protocol, repeats=[r], where=where).ssim.mean for v in (LAST, PLAIN)
        )
        gains.append(tuned / plain - 1)
    measured = f"relative gain of SSIM (held from {ABOUT_TEN_PERCENT:.0%})"
    return claims.judge(claim, measured, gains, "", threshold=ABOUT_TEN_PERCENT)


def _upward(results, learnt) -> claims.Claim:
    claim = "the network of photographs shows CT numbers too high at 10 % (Fig 4j)"
    if reason := comparisons.unlearnt(results, (PLAIN,), where=learnt):
        return claims.untested(claim, reason)
    found = [n["bias_hu"].get("0.1") for n in results.numbers(PLAIN)]
    if None in found:
        return claims.untested(claim, "no flat soft tissue was measured at 10 %")
    return claims.judge(claim, "bias in flat soft tissue", found, "HU")


STUDY = Study(
    name="dose_levels",
    title="DnCNN at several doses, before and after fine-tuning",
    reproduces="dncnn_dose Fig 3-7",
    scales=SCALES,
    variants=variants,
    report=report,
    protocol=lambda window: protocols.DNCNN_DOSE,
    filters=FILTERS,
    measure=measure,
)
