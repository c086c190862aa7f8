"""How many layers a clone needs: PSNR of the PCN with 4 to 16 of them (Li & Wang, "Low-dose CT
image denoising using parallel-clone networks").

Reproduces: Fig 8a.

    make train EXP=pcn_layers                               # demo: embedded phantoms
    make train EXP=pcn_layers SEEDS=3                       # claims with intervals
    make train EXP=pcn_layers DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 4 minutes, 12 with SEEDS=3. paper: the ablation's.

The paper gives the figure without its numbers: a 10-layer network works well, and more layers
didn't improve the performance significantly (four clones).
"""

from pcn import PCN, pcn_scales

from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study

LAYERS = {"paper": (4, 6, 8, 10, 12, 14, 16), "demo": (4, 8, 10, 16), "smoke": (4, 6)}
# "Did not improve significantly": by less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """One row for each number of layers."""
    return {f"{n} layers": PCN[scale].but(n_layers=n) for n in LAYERS[scale]}


STUDY = Study(
    name="pcn_layers",
    title="Layers of the parallel-clone network",
    reproduces="pcn Fig 8a",
    scales=pcn_scales(),
    variants=variants,
    report=[
        blocks.Table("PSNR: layers of a clone"),
        blocks.PairedTests("10 layers"),
        blocks.Sweep(
            "Fig 8a: PSNR by number of layers",
            "layers of a clone",
            {f"{n} layers": n for n in LAYERS["paper"]},
        ),
        blocks.Panel("A test slice"),
        blocks.Better("10 layers", "4 layers", "10 layers beat 4 (Fig 8a)"),
        *(
            blocks.AddsLittle(
                f"{n} layers", "10 layers", f"{n} layers add little to 10 (Fig 8a)", LITTLE_DB
            )
            for n in (12, 14, 16)
        ),
    ],
)
