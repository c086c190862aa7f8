"""The PCN ablation: what coupled input, brute-force residual, feature transfer and the loss over
all clones each bring (Li & Wang, "Low-dose CT image denoising using parallel-clone networks").

Reproduces: Fig 4a/b and 5a/b (convergence), Fig 6 (images), Fig 7 (PSNR by clone), Table I.

    make train EXP=pcn_ablation                             # demo: embedded phantoms
    make train EXP=pcn_ablation DATA=/path/to/dicom         # demo sizes, your data
    make train EXP=pcn_ablation DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores: 8-10 minutes with jax 0.10. paper: 750 PFLOP a full run,
3 repeats x 8 rows; on a GPU not measured, on a CPU out of reach.

The paper's Table I (PSNR, SSIM, RMSE): SCN 43.58/0.9624/0.0069, PO 44.02/0.9705/0.0061,
PI 44.03/0.9718/0.0060, full PCN 45.42/0.9846/0.0054.
"""

import numpy as np

from ldct_jax.losses import last_clone, mse
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.report import claims, comparisons, figures, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import PCN, Experiment, pcn_scales
from ldct_jax.study.study import Study

SCALES, BASE = pcn_scales(), PCN

IMAGE = ("SCN", "SCN+PO", "SCN+PO+CI", "PCN (image)")
FEATURE = ("SCN", "SCN+FT", "FT+PO", "FT+PI", "full PCN")

# mean, SD and n (test patients' repeats) as Table I prints them.
PAPER = {
    "SCN": (MeanSD(43.5824, 1.1476, 3), MeanSD(0.9624, 0.0054, 3), MeanSD(0.0069, 0.0011, 3)),
    "FT+PO": (MeanSD(44.0179, 1.2873, 3), MeanSD(0.9705, 0.0052, 3), MeanSD(0.0061, 0.0007, 3)),
    "FT+PI": (MeanSD(44.0268, 1.3675, 3), MeanSD(0.9718, 0.0056, 3), MeanSD(0.0060, 0.0008, 3)),
    "full PCN": (MeanSD(45.4235, 1.1394, 3), MeanSD(0.9846, 0.0047, 3), MeanSD(0.0054, 0.0006, 3)),
}


def variants(scale: str) -> dict[str, Experiment]:
    """The eight rows; PO = loss over all clones, CI = coupled input, PI = CI + brute force."""
    base, last = BASE[scale], last_clone(mse)
    scn = base.but(transfer="image", coupled=False, residual="incremental")
    ft = base.but(transfer="feature", coupled=False, residual="incremental")
    return {
        "SCN": scn.but(loss=last),
        "SCN+PO": scn,
        "SCN+PO+CI": scn.but(coupled=True),
        "PCN (image)": scn.but(coupled=True, residual="brute_force"),
        "SCN+FT": ft.but(loss=last),
        "FT+PO": ft,
        "FT+PI": base.but(loss=last),
        "full PCN": base,
    }


def report(results) -> page.Report:
    protocol = parts.protocol_of(results)
    undenoised = results.summary("undenoised", protocol)
    sections = [
        page.Section(
            "Table I: image quality on test patients",
            parts.ONE_RANGE,
            tables=[
                parts.quality_table(
                    results,
                    name="table_1",
                    title="Table I: SCN and PCN with different options",
                    paper=PAPER,
                )
            ],
        ),
        page.Section(
            "Convergence",
            "Training: the last clone's RMSE on the patches of an epoch. Test: RMSE on whole "
            "slices, looked at for these figures only, never used for a choice.",
            figures=_convergence(results, undenoised),
        ),
        page.Section(
            "Clone by clone",
            "PSNR of the image of each clone.",
            figures=[
                figures.by_clone(
                    "fig_7",
                    "Fig 7: PSNR by clone index",
                    parts.psnr_by_clone(results, results.variants),
                    caption=f"Protocol {protocol.name}; {parts.data_words(results)}.",
                    references={"undenoised": undenoised.psnr_db.mean},
                )
            ],
        ),
        page.Section(
            "Images",
            "Fig 6: the paper's choice of rows.",
            figures=[parts.panel(results, SHOWN, name="fig_6", title="Fig 6: a test slice")],
        ),
    ]
    return parts.standard(results, sections, _claims(results), shown=SHOWN, main="full PCN")


SHOWN = {"SCN": "SCN", "FT+PO": "PCN, PO only", "FT+PI": "PCN, PI only", "full PCN": "full PCN"}


def _convergence(results, undenoised) -> list[figures.Figure]:
    made = []
    for part, rows, what in (("a", IMAGE, "image transfer"), ("b", FEATURE, "feature transfer")):
        caption = f"Mean over repeats; {parts.data_words(results)}."
        curves = parts.training_curves(results, rows)
        if curves:
            made.append(
                figures.convergence(
                    f"fig_4{part}",
                    f"Fig 4{part}: training RMSE, {what}",
                    curves,
                    f"RMSE [{parts.protocol_of(results).unit}]",
                    caption=caption,
                )
            )
        curves = parts.monitored_curves(results, rows, "test_rmse")
        if curves:
            made.append(
                figures.convergence(
                    f"fig_5{part}",
                    f"Fig 5{part}: RMSE on whole test slices, {what}",
                    curves,
                    f"RMSE [{parts.protocol_of(results).unit}]",
                    caption=caption,
                    references={"undenoised": undenoised.rmse.mean},
                )
            )
    return made


def _claims(results) -> list[claims.Claim]:
    pairs = (
        ("PO helps on image transfer (Fig 4a, 5a)", "SCN+PO", "SCN"),
        ("coupled input adds to it (Fig 4a, 5a)", "SCN+PO+CI", "SCN+PO"),
        ("the brute-force residual adds to both (Fig 4a, 5a)", "PCN (image)", "SCN+PO+CI"),
        ("feature transfer helps (Fig 4b, 5b)", "SCN+FT", "SCN"),
        ("PO helps on feature transfer (Fig 4b, Table I)", "FT+PO", "SCN+FT"),
        ("PI helps on feature transfer (Fig 4b, Table I)", "FT+PI", "SCN+FT"),
        ("full PCN beats SCN (Table I: +1.84 dB)", "full PCN", "SCN"),
        ("full PCN beats PO alone (Table I: +1.41 dB)", "full PCN", "FT+PO"),
        ("full PCN beats PI alone (Table I: +1.40 dB)", "full PCN", "FT+PI"),
    )
    made = [comparisons.compare(results, claim, better, worse) for claim, better, worse in pairs]
    return [_speed_up(results), *made, _rising(results)]


# The paper's 5 of 60 epochs are 0.083; "about a tenth" is held up to this share of the epochs.
ABOUT_A_TENTH = 0.15


def _speed_up(results) -> claims.Claim:
    claim = "full PCN reaches SCN's final training RMSE in about a tenth of the epochs (Fig 4b)"
    if reason := comparisons.unlearnt(results, ("SCN", "full PCN")):
        return claims.untested(claim, reason)
    shares, ratios = [], []
    shared = results.shared_repeats("SCN", "full PCN")
    pairs = zip(results.of("SCN", shared), results.of("full PCN", shared), strict=True)
    for scn, pcn in pairs:
        goal = scn.training_rmse[max(scn.training_rmse)]
        reached = [e for e, rmse in pcn.training_rmse.items() if rmse <= goal]
        shares.append(min(reached) / max(scn.training_rmse) if reached else None)
        ratios.append(pcn.training_rmse[max(pcn.training_rmse)] / goal)
    if None in shares:
        return claims.judge(
            claim,
            "not reached; final training RMSE, PCN / SCN",
            ratios,
            "",
            threshold=1,
            above=False,
        )
    measured = f"share of the epochs needed (held up to {ABOUT_A_TENTH})"
    return claims.judge(claim, measured, shares, "", threshold=ABOUT_A_TENTH, above=False)


def _rising(results) -> claims.Claim:
    claim = "full PCN's PSNR rises with the clone index (Fig 7)"
    if reason := comparisons.unlearnt(results, ("full PCN",)):
        return claims.untested(claim, reason)
    by_seed = [
        parts.psnr_by_clone(results, ["full PCN"], [r])["full PCN"]
        for r in results.shared_repeats("full PCN")
    ]
    if len(by_seed[0]) < 2:
        return claims.untested(claim, "the network has one clone")
    return claims.judge_least(
        claim, "least step from one clone to the next", np.diff(by_seed), "dB"
    )


STUDY = Study(
    name="pcn_ablation",
    title="Ablation of the parallel-clone network",
    reproduces="pcn Fig 4-7, Table I",
    scales=SCALES,
    variants=variants,
    report=report,
)
