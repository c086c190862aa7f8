"""PCN against other denoisers, and what more kernels bring (Li & Wang, "Low-dose CT image
denoising using parallel-clone networks").

Reproduces: Table III, Fig 9 (PSNR against parameters), Fig 10 (images).

    make train EXP=pcn_comparison                           # demo: embedded phantoms
    make train EXP=pcn_comparison DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.10: 8-10 minutes (from the ablation's rate). paper: on a
GPU not measured, on a CPU out of reach.

The paper's Table III (PSNR, SSIM, RMSE): DnCNN 44.1305/0.9739/0.0057, RED-CNN
44.5238/0.9756/0.0055, MAP-NN 45.4612/0.9829/0.0054, MAP-NN with MSE 43.3698/0.9612/0.0070, PCN
45.7775/0.9855/0.0053 (three clones).
"""

from ldct_jax.data.feed.patches import Patches
from ldct_jax.losses import LastClone, Weighted, edge_incoherence, last_clone, mse
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.models.cpce import MAPNN
from ldct_jax.models.critic import Critic
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.optim import Adam, InverseSqrtEpoch
from ldct_jax.report import claims, comparisons, figures, page
from ldct_jax.report import from_results as parts
from ldct_jax.study.experiment import PCN, Experiment, pcn_scales
from ldct_jax.study.study import Study
from ldct_jax.train.gan import WassersteinGAN

SCALES = pcn_scales(
    "PCN and SCN with 16 filters instead of 48, DnCNN with 8 layers of 16 filters instead of 17 of "
    "64, RED-CNN with 16 instead of 96, MAP-NN with three modules of 16 filters instead of five of "
    "32 and a small critic"
)
WIDTHS = {"paper": (48, 64, 80, 96), "demo": (16, 21, 27, 32), "smoke": (4, 6)}
DNCNN = {"paper": DnCNN(17), "demo": DnCNN(8, 16), "smoke": DnCNN(3, 4)}
RED = {"paper": REDCNN(), "demo": REDCNN(16), "smoke": REDCNN(2, 3)}
MAPNN_SIZE = {"paper": MAPNN(), "demo": MAPNN(3, 16), "smoke": MAPNN(2, 4)}
# MAP-NN has a scheme of its own: 64x64 patches, four critic steps, 1e-4 / sqrt(epoch + 1).
RATE = {"paper": 1e-4, "demo": 1e-3, "smoke": 1e-3}
MAPNN_PATCHES = {
    "paper": Patches(size=64, stride=4, batch=128, slices_per_patient=10),
    "demo": Patches(size=48, stride=24, batch=8, slices_per_patient=1),
    "smoke": Patches(size=24, stride=24, batch=4, slices_per_patient=1),
}
SMALL_CRITIC = dict(widths=(8, 8, 16, 16, 32, 32), hidden=64)
CRITIC = {
    "paper": Critic(size=64),
    "demo": Critic(size=48, **SMALL_CRITIC),
    "smoke": Critic(size=24, widths=(2,) * 6, hidden=4),
}
CRITIC_STEPS = {"paper": 4, "demo": 2, "smoke": 2}

PAPER = {
    "DnCNN": (MeanSD(44.1305, 1.2569, 3), MeanSD(0.9739, 0.0057, 3), MeanSD(0.0057, 0.0007, 3)),
    "RED-CNN": (MeanSD(44.5238, 1.1924, 3), MeanSD(0.9756, 0.0055, 3), MeanSD(0.0055, 0.0006, 3)),
    "MAP-NN": (MeanSD(45.4612, 1.3908, 3), MeanSD(0.9829, 0.0054, 3), MeanSD(0.0054, 0.0007, 3)),
    "MAP-NN, MSE": (
        MeanSD(43.3698, 1.1724, 3),
        MeanSD(0.9612, 0.0055, 3),
        MeanSD(0.0070, 0.0011, 3),
    ),
    "PCN": (MeanSD(45.7775, 1.1057, 3), MeanSD(0.9855, 0.0045, 3), MeanSD(0.0053, 0.0006, 3)),
}
# "Minimal effect": less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """Table III's rows, SCN, and PCN with more kernels; all in one window, the one of PCN."""
    base = PCN[scale].but(n_clones=3)
    start = base.model.initialization
    plain = base.but(loss=last_clone(mse))
    adam = Adam(InverseSqrtEpoch(RATE[scale]))
    mapnn = plain.but(
        model=MAPNN_SIZE[scale].copy(initialization=start),
        patches=MAPNN_PATCHES[scale],
        optimizer=adam,
    )
    narrow, *wider = WIDTHS[scale]
    return {
        "DnCNN": plain.but(model=DNCNN[scale].copy(initialization=start)),
        "RED-CNN": plain.but(model=RED[scale].copy(initialization=start)),
        "MAP-NN": mapnn.but(
            loss=Weighted((LastClone(mse), LastClone(edge_incoherence)), (50.0, 50.0)),
            gan=WassersteinGAN(
                CRITIC[scale], n_critic=CRITIC_STEPS[scale], optimizer=adam, warmup=0.5
            ),
        ),
        "MAP-NN, MSE": mapnn,
        "SCN": plain.but(
            n_clones=PCN[scale].model.n_clones,
            transfer="image",
            coupled=False,
            residual="incremental",
        ),
        "PCN": base.but(n_filters=narrow),
        **{wide(n): base.but(n_filters=n) for n in wider},
    }


def wide(n_filters: int) -> str:
    return f"PCN, {n_filters} filters"


def report(results) -> page.Report:
    protocol = parts.protocol_of(results)
    shown = {v: v for v in ("DnCNN", "RED-CNN", "MAP-NN", "MAP-NN, MSE", "PCN")}
    marks = []
    for v in results.variants:
        psnr = results.summary(v, protocol).psnr_db
        marks.append(figures.Point(v, results.of(v)[0].result["parameters"], psnr.mean, psnr.sd))
    sections = [
        page.Section(
            "Table III: image quality on test patients",
            parts.ONE_RANGE + "\n\nMAP-NN is trained in PCN's window here, so that all rows share "
            "one protocol; its own code trains on [-160, 240] HU. Its critic is flattened.",
            tables=[
                parts.quality_table(
                    results, name="table_3", title="Table III: PCN and other networks", paper=PAPER
                )
            ],
        ),
        page.Section(
            "PSNR against the number of parameters",
            figures=[
                figures.points(
                    "fig_9",
                    "Fig 9: PSNR by number of parameters",
                    marks,
                    "parameters",
                    "PSNR [dB]",
                    log_x=True,
                    references={"undenoised": results.summary("undenoised", protocol).psnr_db.mean},
                    caption=f"Protocol {protocol.name}; {parts.data_words(results)}.",
                )
            ],
        ),
        page.Section(
            "Images and training",
            figures=[
                parts.panel(results, shown, name="fig_10", title="Fig 10: a test slice"),
                *parts.training_figures(results, results.variants, "training", "all rows"),
            ],
        ),
    ]
    return parts.standard(results, sections, _claims(results), shown=shown, main="PCN")


def _claims(results) -> list[claims.Claim]:
    pairs = (
        ("PCN beats DnCNN (Table III: +1.65 dB)", "PCN", "DnCNN"),
        ("PCN beats RED-CNN (Table III: +1.25 dB)", "PCN", "RED-CNN"),
        ("PCN beats MAP-NN trained by MSE (Table III: +2.41 dB)", "PCN", "MAP-NN, MSE"),
        ("PCN beats MAP-NN (Table III: +0.32 dB)", "PCN", "MAP-NN"),
        ("MAP-NN's own loss beats MSE (Table III: +2.09 dB)", "MAP-NN", "MAP-NN, MSE"),
        ("RED-CNN beats SCN, its sequential clones (Fig 9)", "RED-CNN", "SCN"),
    )
    _, *wider = WIDTHS[results.study["scale"]["name"]]
    return [
        *(comparisons.compare(results, claim, a, b) for claim, a, b in pairs),
        *(
            comparisons.small_difference(
                results,
                f"{n} kernels add little to {WIDTHS['paper'][0]} or its stand-in (Fig 9)",
                wide(n),
                "PCN",
                limit_db=LITTLE_DB,
            )
            for n in wider
        ),
    ]


STUDY = Study(
    name="pcn_comparison",
    title="The parallel-clone network against other denoisers",
    reproduces="pcn Table III, Fig 9, 10",
    scales=SCALES,
    variants=variants,
    report=report,
)
