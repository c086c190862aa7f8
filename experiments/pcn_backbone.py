"""Which CNN serves best as the clone: RED-CNN's or CPCE's shortcuts (Li & Wang, "Low-dose CT
image denoising using parallel-clone networks").

Reproduces: Table II.

    make train EXP=pcn_backbone                             # demo: embedded phantoms
    make train EXP=pcn_backbone DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 2 minutes. paper: a quarter of the ablation's.

The paper's Table II (PSNR, SSIM, RMSE): CPCE 44.6365/0.9782/0.0056, RED-CNN 45.4235/0.9846/0.0054
(four clones, ten layers).
"""

from pcn import ONE_RANGE, PCN, paper_rows, pcn_scales

from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study

PAPER = paper_rows(
    {
        "CPCE": "44.6365±1.1332 0.9782±0.0050 0.0056±0.0007",
        "RED-CNN": "45.4235±1.1394 0.9846±0.0047 0.0054±0.0006",
    }
)


def variants(scale: str) -> dict[str, Experiment]:
    """The full PCN with both backbones."""
    return {
        "CPCE": PCN[scale].but(backbone="cpce"),
        "RED-CNN": PCN[scale].but(backbone="redcnn"),
    }


STUDY = Study(
    name="pcn_backbone",
    title="Backbone of the parallel-clone network",
    reproduces="pcn Table II",
    scales=pcn_scales(),
    variants=variants,
    report=[
        blocks.Table("Table II: basic CNN module of the PCN", PAPER),
        blocks.PairedTests("RED-CNN"),
        blocks.Convergence("Training RMSE: both backbones"),
        blocks.Panel("A test slice", {"CPCE": "PCN of CPCE", "RED-CNN": "PCN of RED-CNN"}),
        blocks.Better("RED-CNN", "CPCE", "RED-CNN beats CPCE as backbone (Table II)", "+0.79 dB"),
        blocks.Note(
            "CPCE concatenates and projects what RED-CNN adds; the paper doesn't say how it was "
            "built into the clone, so this is our reading (206,545 parameters with 48 filters)."
        ),
        ONE_RANGE,
    ],
)
