"""Whether the PCN's mechanisms still pay in a training twenty times as long as the demo's (Li &
Wang, "Low-dose CT image denoising using parallel-clone networks").

Reproduces: three rows of Table I and one of Table III, once all have converged: the loss over all
clones, the brute-force residual and feature transfer, and RED-CNN beside them. Meant for real CT.

    make train EXP=pcn_converged DATA=/path/to/dicom        # 16 filters, 10,000 steps a row
    make train EXP=pcn_converged DATA=/path/to/dicom SEEDS=3
    make train EXP=pcn_converged DATA=/path/to/mayo SCALE=paper

Expected time: demo, one busy CPU core, jax 0.12: 90 minutes a seed. paper: half of the ablation's.

The paper: full PCN +1.84 dB over SCN (Table I), +1.25 dB over RED-CNN (Table III, wider networks).
"""

import dataclasses

from pcn import ONE_RANGE, PCN, pcn_scales
from pcn_comparison import RED

from ldct_jax.losses import last_clone, mse
from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study

STEPS = 10_000


def variants(scale: str) -> dict[str, Experiment]:
    """Three rows of the ablation and RED-CNN: one length, learning rate and batch."""
    base, last = PCN[scale], last_clone(mse)
    if scale == "demo":
        # All slices: with the ablation's four a patient most of a long training repeats itself.
        patches = dataclasses.replace(base.patches, slices_per_patient=None)
        base = base.but(patches=patches, steps=STEPS)
    ft_po = base.but(transfer="feature", coupled=False, residual="incremental")
    red = RED[scale].copy(initialization=base.model.initialization)
    return {
        "SCN": ft_po.but(transfer="image", loss=last),
        "FT+PO": ft_po,
        "full PCN": base,
        "RED-CNN": base.but(model=red, loss=last),
    }


STUDY = Study(
    name="pcn_converged",
    title="The PCN's mechanisms after a long training",
    reproduces="pcn Table I, III",
    scales=pcn_scales(f"16 filters instead of 48, {STEPS:,} steps a row", max_slices=48),
    variants=variants,
    report=[
        blocks.Table("Three rows of Table I, and RED-CNN"),
        blocks.PairedTests("full PCN"),
        blocks.Convergence("Training RMSE: all rows"),
        blocks.Convergence("RMSE on whole validation slices", metric="validation_rmse"),
        blocks.ByClone("PSNR by clone index"),
        blocks.Panel("A test slice"),
        blocks.Better("FT+PO", "SCN", "PO with feature transfer beats SCN (Table I)", "+0.44 dB"),
        blocks.Better("full PCN", "FT+PO", "full PCN beats PO alone (Table I)", "+1.41 dB"),
        blocks.Better("full PCN", "SCN", "full PCN beats SCN (Table I)", "+1.84 dB"),
        blocks.Better("full PCN", "RED-CNN", "PCN beats RED-CNN (Table III)", "+1.25 dB"),
        ONE_RANGE,
    ],
)
