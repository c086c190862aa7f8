"""Which CNN serves best as the clone: RED-CNN's or CPCE's shortcuts (Li & Wang, "Low-dose CT
image denoising using parallel-clone networks").

Reproduces: Table II.

    make train EXP=pcn_backbone                             # demo: embedded phantoms
    make train EXP=pcn_backbone DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.10: 2-3 minutes (from the ablation's rate of 50 patches a
second). paper: on a GPU not measured, on a CPU out of reach.

The paper's Table II (PSNR, SSIM, RMSE): CPCE 44.6365/0.9782/0.0056, RED-CNN 45.4235/0.9846/0.0054
(four clones, ten layers).
"""

from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.report import comparisons, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import PCN, Experiment, pcn_scales
from ldct_jax.study.study import Study

SCALES = pcn_scales()
PAPER = {
    "CPCE": (MeanSD(44.6365, 1.1332, 3), MeanSD(0.9782, 0.0050, 3), MeanSD(0.0056, 0.0007, 3)),
    "RED-CNN": (MeanSD(45.4235, 1.1394, 3), MeanSD(0.9846, 0.0047, 3), MeanSD(0.0054, 0.0006, 3)),
}


def variants(scale: str) -> dict[str, Experiment]:
    """The full PCN with both backbones."""
    return {
        "CPCE": PCN[scale].but(backbone="cpce"),
        "RED-CNN": PCN[scale].but(backbone="redcnn"),
    }


def report(results) -> page.Report:
    shown = {v: f"PCN of {v}" for v in results.variants}
    sections = [
        page.Section(
            "Table II: image quality on test patients",
            "CPCE concatenates and projects what RED-CNN adds; the paper doesn't say how it was "
            "built into the clone, so this is our reading (206,545 parameters with 48 filters).",
            tables=[
                parts.quality_table(
                    results,
                    name="table_2",
                    title="Table II: basic CNN module of the PCN",
                    paper=PAPER,
                    note=parts.ONE_RANGE,
                )
            ],
            figures=[
                *parts.training_figures(results, results.variants, "convergence", "both backbones"),
                parts.panel(results, shown, name="images", title="A test slice"),
            ],
        )
    ]
    claim = comparisons.compare(
        results, "RED-CNN beats CPCE as backbone (Table II: +0.79 dB)", "RED-CNN", "CPCE"
    )
    return parts.standard(results, sections, [claim], shown=shown, main="RED-CNN")


STUDY = Study(
    name="pcn_backbone",
    title="Backbone of the parallel-clone network",
    reproduces="pcn Table II",
    scales=SCALES,
    variants=variants,
    report=report,
)
