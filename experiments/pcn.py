"""What the experiments on the clone networks share (Li & Wang, "Low-dose CT image denoising using
parallel-clone networks").

Not an experiment of its own: `pcn_ablation`, `pcn_layers`, `pcn_clones`, `pcn_backbone`,
`pcn_comparison` and `pcn_converged` begin with these settings.
"""

from ldct_jax.data.feed.patches import Patches
from ldct_jax.losses import every_clone, mse
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.models.clones import ClonesNet
from ldct_jax.optim import Adam, Cosine, Exponential
from ldct_jax.report import blocks
from ldct_jax.study.experiment import DEMO, PAPER, SMOKE, Experiment, scales

# Warm-up over 5 % of the steps: without it a few hundred steps end at the input itself.
TEACHING = Adam(Cosine(1e-3, to=2e-5, warmup=0.05))

PCN = {
    # The numbers that the paper states give 9 · 10 · 115² = 1,190,250 patches; it says 1.6 million.
    "paper": Experiment(
        model=ClonesNet(n_filters=48, n_clones=4, n_layers=10),
        loss=every_clone(mse),
        optimizer=Adam(Exponential(1e-4, to=1e-5)),
        patches=Patches(size=55, stride=4, batch=128, slices_per_patient=10),
        epochs=60,
    ),
    "demo": Experiment(
        model=ClonesNet(n_filters=16, n_clones=4, n_layers=10, initialization="zero_last"),
        loss=every_clone(mse),
        optimizer=TEACHING,
        patches=Patches(size=41, stride=16, batch=8, slices_per_patient=4),
        steps=500,
    ),
    "smoke": Experiment(
        model=ClonesNet(n_filters=4, n_clones=2, n_layers=4, initialization="zero_last"),
        loss=every_clone(mse),
        optimizer=TEACHING,
        patches=Patches(size=24, stride=24, batch=8, slices_per_patient=1),
        steps=4,
    ),
}


def pcn_scales(demo: str = "16 filters instead of 48, 500 steps a row", **changes) -> dict:
    """The scales of :data:`PCN`; ``demo``: how much smaller the trainings are, and ``changes``."""
    return scales(
        DEMO.but(
            **changes,
            words=f"{demo}, batches of 8 patches of 41x41 instead of 128 of 55x55, learning rate "
            "1e-3 with warm-up: a smaller and shorter training than the paper's",
        ),
        PAPER.but(
            # "210 to 340 slices" a patient fit the 3 mm reconstructions alone.
            words="the paper's protocol: nine training patients, one test patient, three repeats, "
            "3 mm slices; 55x55 patches at stride 4 from ten slices a training patient, batch 128, "
            "Adam 1e-4 to 1e-5, 60 epochs",
            repeats=3,
            monitor_slices=10,  # Fig 5's curves
            validation_patients=0,
            thickness_mm=3.0,
            one_reconstruction=True,
        ),
        SMOKE,
    )


def paper_rows(rows: dict[str, str]) -> dict[str, tuple[MeanSD, ...]]:
    """PSNR, SSIM and RMSE as Tables I to III print them, mean±SD over three test patients."""

    def cell(text: str) -> MeanSD:
        mean, sd = map(float, text.split("±"))
        return MeanSD(mean, sd, 3)

    return {row: tuple(map(cell, text.split())) for row, text in rows.items()}


ONE_RANGE = blocks.Note(
    "The rows of Tables I to III imply a maximum value between 0.92 and 1.04: the paper's PSNR and "
    "RMSE share no single range. By RMSE, PCN beats RED-CNN by 0.32 dB, not by 1.25 dB, and full "
    "PCN beats SCN by 2.13 dB, not by 1.84 dB. The caption of Fig 4 swaps two abbreviations (PO is "
    "the loss over all clones, PI the parallel input); the text is followed here."
)
