"""How many layers a clone needs: PSNR of the PCN with 4 to 16 of them (Li & Wang, "Low-dose CT
image denoising using parallel-clone networks").

Reproduces: Fig 8a.

    make train EXP=pcn_layers                               # demo: embedded phantoms
    make train EXP=pcn_layers DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.10: 6-7 minutes (from the ablation's rate). paper: on a
GPU not measured, on a CPU out of reach.

The paper gives the figure without its numbers: PSNR rises to about 10 layers and hardly changes
beyond (four clones).
"""

from ldct_jax.report import claims, comparisons, figures, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import PCN, Experiment, pcn_scales
from ldct_jax.study.study import Study

SCALES = pcn_scales("12 filters instead of 48")
LAYERS = {"paper": (4, 6, 8, 10, 12, 14, 16), "demo": (4, 6, 8, 10, 12, 14, 16), "smoke": (4, 6)}
# "Did not improve significantly": by less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """One row for each number of layers."""
    base = PCN[scale].but(n_filters=12) if scale == "demo" else PCN[scale]
    return {f"{n} layers": base.but(n_layers=n) for n in LAYERS[scale]}


def report(results) -> page.Report:
    protocol = parts.protocol_of(results)
    curve = figures.Curve(
        "last clone",
        [run.result["record"]["model"]["n_layers"] for run in _one_each(results)],
        [results.summary(v, protocol).psnr_db.mean for v in results.variants],
    )
    undenoised = results.summary("undenoised", protocol).psnr_db.mean
    sections = [
        page.Section(
            "PSNR against the number of layers",
            tables=[
                parts.quality_table(
                    results,
                    name="fig_8a",
                    title="Fig 8a: layers of a clone",
                    paper={},
                    note="The paper prints no numbers for this figure.",
                )
            ],
            figures=[
                figures.lines(
                    "fig_8a",
                    "Fig 8a: PSNR by number of layers",
                    [curve],
                    "layers of a clone",
                    "PSNR [dB]",
                    markers=True,
                    references={"undenoised": undenoised},
                    caption=f"Protocol {protocol.name}; {parts.data_words(results)}.",
                )
            ],
        )
    ]
    shown = {v: v for v in results.variants}
    return parts.standard(results, sections, _claims(results), shown=shown, main="10 layers")


def _one_each(results):
    return [results.of(v)[0] for v in results.variants]


def _claims(results) -> list[claims.Claim]:
    return [
        comparisons.compare(
            results, "10 layers beat 4 (Fig 8a)", better="10 layers", worse="4 layers"
        ),
        *(
            comparisons.small_difference(
                results,
                f"{n} layers add little to 10 (Fig 8a)",
                f"{n} layers",
                "10 layers",
                limit_db=LITTLE_DB,
            )
            for n in (12, 14, 16)
        ),
    ]


STUDY = Study(
    name="pcn_layers",
    title="Layers of the parallel-clone network",
    reproduces="pcn Fig 8a",
    scales=SCALES,
    variants=variants,
    report=report,
)
