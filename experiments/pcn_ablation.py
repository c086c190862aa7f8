"""The PCN ablation: what coupled input, brute-force residual, feature transfer and the loss over
all clones each bring (Li & Wang, "Low-dose CT image denoising using parallel-clone networks").

Reproduces: Fig 4a/b and 5a/b (convergence), Fig 6 (images), Fig 7 (PSNR by clone), Table I.

    make train EXP=pcn_ablation                             # demo: embedded phantoms
    make train EXP=pcn_ablation SEEDS=3                     # claims with intervals
    make train EXP=pcn_ablation DATA=/path/to/dicom         # demo sizes, your data
    make train EXP=pcn_ablation DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 6 to 13 minutes, 20 to 38 with SEEDS=3. paper: 750
PFLOP a full run, 3 repeats x 8 rows.

The paper's Table I (PSNR, SSIM, RMSE): SCN 43.58/0.9624/0.0069, PO 44.02/0.9705/0.0061,
PI 44.03/0.9718/0.0060, full PCN 45.42/0.9846/0.0054.
"""

from pcn import ONE_RANGE, PCN, paper_rows, pcn_scales

from ldct_jax.losses import last_clone, mse
from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study

IMAGE = ("SCN", "SCN+PO", "SCN+PO+CI", "PCN (image)")
FEATURE = ("SCN", "SCN+FT", "FT+PO", "FT+PI", "full PCN")
FIG_6 = {"SCN": "SCN", "FT+PO": "PCN, PO only", "FT+PI": "PCN, PI only", "full PCN": "full PCN"}

PAPER = paper_rows(
    {
        "SCN": "43.5824±1.1476 0.9624±0.0054 0.0069±0.0011",
        "FT+PO": "44.0179±1.2873 0.9705±0.0052 0.0061±0.0007",
        "FT+PI": "44.0268±1.3675 0.9718±0.0056 0.0060±0.0008",
        "full PCN": "45.4235±1.1394 0.9846±0.0047 0.0054±0.0006",
    }
)
# The paper: 5 of 60 epochs, "a speed-up factor of about ten".
ABOUT_A_TENTH = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """The eight rows; PO = loss over all clones, CI = coupled input, PI = CI + brute force."""
    base, last = PCN[scale], last_clone(mse)
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


STUDY = Study(
    name="pcn_ablation",
    title="Ablation of the parallel-clone network",
    reproduces="pcn Fig 4-7, Table I",
    scales=pcn_scales(),
    variants=variants,
    report=[
        blocks.Table("Table I: SCN and PCN with different options", PAPER),
        blocks.PairedTests("full PCN"),
        blocks.Convergence("Fig 4a: training RMSE, image transfer", IMAGE),
        blocks.Convergence("Fig 4b: training RMSE, feature transfer", FEATURE),
        blocks.Convergence("Fig 5a: RMSE on whole test slices, image transfer", IMAGE, "test_rmse"),
        blocks.Convergence(
            "Fig 5b: RMSE on whole test slices, feature transfer", FEATURE, "test_rmse"
        ),
        blocks.ByClone("Fig 7: PSNR by clone index"),
        blocks.Panel("Fig 6: a test slice", FIG_6),
        blocks.ReachesEarlier(
            "full PCN",
            "SCN",
            "full PCN reaches SCN's final training RMSE in about a tenth of the steps (Fig 4b)",
            share=ABOUT_A_TENTH,
        ),
        blocks.Better("SCN+PO", "SCN", "PO helps on image transfer (Fig 4a, 5a)"),
        blocks.Better("SCN+PO+CI", "SCN+PO", "coupled input adds to it (Fig 4a, 5a)"),
        blocks.Better(
            "PCN (image)", "SCN+PO+CI", "the brute-force residual adds to both (Fig 4a, 5a)"
        ),
        blocks.Better("SCN+FT", "SCN", "feature transfer helps (Fig 4b, 5b)"),
        blocks.Better("FT+PO", "SCN+FT", "PO helps on feature transfer (Fig 4b)"),
        blocks.Better("FT+PI", "SCN+FT", "PI helps on feature transfer (Fig 4b)"),
        blocks.Better("FT+PI", "FT+PO", "PI helps more than PO (Fig 4b, Table I)", "+0.01 dB"),
        blocks.Better("FT+PO", "SCN", "PO with feature transfer beats SCN (Table I)", "+0.44 dB"),
        blocks.Better("FT+PI", "SCN", "PI with feature transfer beats SCN (Table I)", "+0.44 dB"),
        blocks.Better("full PCN", "SCN", "full PCN beats SCN (Table I)", "+1.84 dB"),
        blocks.Better("full PCN", "FT+PO", "full PCN beats PO alone (Table I)", "+1.41 dB"),
        blocks.Better("full PCN", "FT+PI", "full PCN beats PI alone (Table I)", "+1.40 dB"),
        blocks.BetterByClone("full PCN", "SCN", "full PCN beats SCN at every clone index (Fig 7)"),
        ONE_RANGE,
    ],
)
