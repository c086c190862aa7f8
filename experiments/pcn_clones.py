"""How many clones a PCN needs: PSNR of every clone's image in networks of 1 to 5 clones (Li &
Wang, "Low-dose CT image denoising using parallel-clone networks").

Reproduces: Fig 8b.

    make train EXP=pcn_clones                               # demo: embedded phantoms
    make train EXP=pcn_clones SEEDS=3                       # claims with intervals
    make train EXP=pcn_clones DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 3 minutes, 9 with SEEDS=3. paper: two thirds of the
ablation's.

The paper gives the figure without its numbers: earlier clones improve with the number of clones,
the last clone is best with three, and three, four and five differ little (ten layers).
"""

from pcn import PCN, pcn_scales

from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study

CLONES = {"paper": (1, 2, 3, 4, 5), "demo": (1, 2, 3, 4, 5), "smoke": (1, 2)}
# "Minor": less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def name(clones: int) -> str:
    return f"{clones} clone" + "s" * (clones > 1)


NAMES = [name(n) for n in CLONES["paper"]]


def variants(scale: str) -> dict[str, Experiment]:
    """One row for each number of clones; all have the same parameters."""
    return {name(n): PCN[scale].but(n_clones=n) for n in CLONES[scale]}


STUDY = Study(
    name="pcn_clones",
    title="Clones of the parallel-clone network",
    reproduces="pcn Fig 8b",
    scales=pcn_scales(),
    variants=variants,
    report=[
        blocks.Table("Last clones: number of clones"),
        blocks.PairedTests(name(3)),
        blocks.ByClone("Fig 8b: PSNR by clone index"),
        blocks.Panel("A test slice"),
        blocks.MoreWithClones(NAMES, "the first clone improves with the number of clones (Fig 8b)"),
        blocks.Best(
            name(3),
            [n for n in NAMES if n != name(3)],
            "the last clone is best with three clones (Fig 8b)",
        ),
        blocks.Similar(
            [name(3), name(4), name(5)],
            "3, 4 and 5 clones differ little (Fig 8b)",
            limit_db=LITTLE_DB,
        ),
    ],
)
