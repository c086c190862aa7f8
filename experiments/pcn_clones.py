"""How many clones a PCN needs: PSNR of every clone's image in networks of 1 to 5 clones (Li &
Wang, "Low-dose CT image denoising using parallel-clone networks").

Reproduces: Fig 8b.

    make train EXP=pcn_clones                               # demo: embedded phantoms
    make train EXP=pcn_clones DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.10: 4-5 minutes (from the ablation's rate). paper: on a
GPU not measured, on a CPU out of reach.

The paper gives the figure without its numbers: earlier clones improve with the number of clones,
the last clone is best with three, and three, four and five differ little (ten layers).
"""

import itertools

import numpy as np

from ldct_jax.report import claims, comparisons, figures, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import PCN, Experiment, pcn_scales
from ldct_jax.study.study import Study

SCALES = pcn_scales()
CLONES = {"paper": (1, 2, 3, 4, 5), "demo": (1, 2, 3, 4, 5), "smoke": (1, 2)}
# "Minor": less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """One row for each number of clones; all have the same parameters."""
    return {name(n): PCN[scale].but(n_clones=n) for n in CLONES[scale]}


def name(clones: int) -> str:
    return f"{clones} clone" + "s" * (clones > 1)


def report(results) -> page.Report:
    protocol = parts.protocol_of(results)
    undenoised = results.summary("undenoised", protocol).psnr_db.mean
    by_clone = parts.psnr_by_clone(results, results.variants)
    sections = [
        page.Section(
            "PSNR against the number of clones",
            "The table has the last clone of each network.",
            tables=[
                parts.quality_table(
                    results,
                    name="fig_8b",
                    title="Fig 8b: number of clones",
                    paper={},
                    note="The paper prints no numbers for this figure.",
                )
            ],
            figures=[
                figures.by_clone(
                    "fig_8b",
                    "Fig 8b: PSNR by clone index",
                    by_clone,
                    caption=f"Protocol {protocol.name}; {parts.data_words(results)}.",
                    references={"undenoised": undenoised},
                )
            ],
        )
    ]
    shown = {v: v for v in results.variants}
    return parts.standard(results, sections, _claims(results), shown=shown, main=name(3))


def _claims(results) -> list[claims.Claim]:
    return [
        _earlier_clones(results),
        comparisons.best_of(
            results,
            "the last clone is best with three clones (Fig 8b)",
            name(3),
            [name(n) for n in (1, 2, 4, 5)],
        ),
        *(
            comparisons.small_difference(
                results,
                f"{a} and {b} clones differ little (Fig 8b)",
                name(a),
                name(b),
                limit_db=LITTLE_DB,
            )
            for a, b in itertools.combinations((3, 4, 5), 2)
        ),
    ]


def _earlier_clones(results) -> claims.Claim:
    claim = "the first clone's PSNR rises with the number of clones (Fig 8b)"
    if reason := comparisons.unlearnt(results, [name(n) for n in range(1, 6)]):
        return claims.untested(claim, reason)
    names = [name(n) for n in range(1, 6)]
    by_seed = []
    for r in results.shared_repeats(*names):
        by_clone = parts.psnr_by_clone(results, names, [r])
        by_seed.append([by_clone[v][0] for v in names])
    return claims.judge_least(
        claim, "least step from one network to the next", np.diff(by_seed), "dB"
    )


STUDY = Study(
    name="pcn_clones",
    title="Clones of the parallel-clone network",
    reproduces="pcn Fig 8b",
    scales=SCALES,
    variants=variants,
    report=report,
)
