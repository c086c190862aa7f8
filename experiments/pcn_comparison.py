"""PCN against other denoisers, and what more kernels bring (Li & Wang, "Low-dose CT image
denoising using parallel-clone networks").

Reproduces: Table III, Fig 9 (PSNR against parameters), Fig 10 (images).

    make train EXP=pcn_comparison                           # demo: embedded phantoms
    make train EXP=pcn_comparison SEEDS=3                   # claims with intervals
    make train EXP=pcn_comparison DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 10 minutes. paper: one and a half times the ablation.

The paper's Table III: below (PCN of three clones).
"""

import dataclasses

from pcn import ONE_RANGE, PCN, TEACHING, paper_rows, pcn_scales

from ldct_jax.losses import LastClone, Weighted, edge_incoherence, last_clone, mse
from ldct_jax.models.cpce import MAPNN
from ldct_jax.models.critic import Critic
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.optim import Adam, Constant, InverseSqrtEpoch
from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.study import Study
from ldct_jax.train.gan import WassersteinGAN

PAPER = paper_rows(
    {
        "DnCNN": "44.1305±1.2569 0.9739±0.0057 0.0057±0.0007",
        "RED-CNN": "44.5238±1.1924 0.9756±0.0055 0.0055±0.0006",
        "MAP-NN": "45.4612±1.3908 0.9829±0.0054 0.0054±0.0007",
        "MAP-NN, MSE": "43.3698±1.1724 0.9612±0.0055 0.0070±0.0011",
        "PCN": "45.7775±1.1057 0.9855±0.0045 0.0053±0.0006",
    }
)
WIDTHS = {"paper": (48, 64, 80, 96), "demo": (12, 16, 20, 24), "smoke": (4, 6)}
DNCNN = {"paper": DnCNN(17), "demo": DnCNN(8, 16), "smoke": DnCNN(3, 4)}
RED = {"paper": REDCNN(), "demo": REDCNN(16), "smoke": REDCNN(2, 3)}
MAPNNS = {"paper": MAPNN(), "demo": MAPNN(3, 16), "smoke": MAPNN(2, 4)}
CRITIC = {
    "paper": Critic(size=64),
    "demo": Critic(size=41, widths=(8, 8, 16, 16, 32, 32), hidden=64),
    "smoke": Critic(size=24, widths=(2,) * 6, hidden=4),
}
# Steps of PCN, of the plain rows, which need more of them, each of which is cheaper, and of MAP-NN.
STEPS = {"demo": (600, 1500, 200), "smoke": (4, 4, 2)}
MORE = (64, 80, 96)
# "Minimal effect": less than this, a twelfth of what PCN gains over SCN.
LITTLE_DB = 0.15


def variants(scale: str) -> dict[str, Experiment]:
    """Table III's rows, SCN, and PCN with more kernels; all in one window, the one of PCN."""
    paper, widths = scale == "paper", WIDTHS[scale]
    epochs = dict(epochs=PCN[scale].epochs)
    pcn, few, gan = [epochs] * 3 if paper else [dict(steps=n) for n in STEPS[scale]]
    base = PCN[scale].but(n_clones=3, **pcn)
    start = base.model.initialization
    plain = base.but(loss=last_clone(mse), **few)
    mapnn = plain.but(model=MAPNNS[scale].copy(initialization=start))
    adam, critic_adam = TEACHING, Adam(Constant(5e-4), b1=0.5, b2=0.9)
    if paper:  # MAP-NN's own code: 64x64 patches, four critic steps, 1e-4 / sqrt(epoch + 1)
        adam = critic_adam = Adam(InverseSqrtEpoch(1e-4))
        mapnn = mapnn.but(patches=dataclasses.replace(mapnn.patches, size=64))
    return {
        "DnCNN": plain.but(model=DNCNN[scale].copy(initialization=start)),
        "RED-CNN": plain.but(model=RED[scale].copy(initialization=start)),
        "MAP-NN, MSE": mapnn.but(optimizer=adam),
        "MAP-NN": mapnn.but(
            loss=Weighted((LastClone(mse), LastClone(edge_incoherence)), (50.0, 50.0)),
            optimizer=adam if paper else Adam(Constant(1e-4)),
            gan=WassersteinGAN(
                CRITIC[scale], n_critic=4 if paper else 2, optimizer=critic_adam, warmup=0.5
            ),
            # A few hundred critic steps mean something where the generator has learnt.
            starts_from=None if paper else "MAP-NN, MSE",
            **gan,
        ),
        "SCN": base.but(
            loss=last_clone(mse),
            n_clones=PCN[scale].model.n_clones,
            transfer="image",
            coupled=False,
            residual="incremental",
            n_filters=widths[0],
        ),
        "PCN": base.but(n_filters=widths[0]),
        **{
            f"PCN, {paper_n} filters": base.but(n_filters=n)
            for paper_n, n in zip(MORE, widths[1:], strict=False)
        },
    }


GAINS = {
    "DnCNN": "+1.65 dB",
    "RED-CNN": "+1.25 dB",
    "MAP-NN, MSE": "+2.41 dB",
    "MAP-NN": "+0.32 dB",
}
STUDY = Study(
    name="pcn_comparison",
    title="The parallel-clone network against other denoisers",
    reproduces="pcn Table III, Fig 9, 10",
    scales=pcn_scales(
        "PCN with 12, 16, 20 and 24 filters for 48, 64, 80 and 96 (rows have the paper's names), "
        "600 steps; DnCNN with 8 layers of 16 filters instead of 17 of 64 and RED-CNN with 16 "
        "instead of 96, 1,500 steps; MAP-NN with three modules of 16 filters instead of five of "
        "32, 200 steps with a small critic after 1,500 with MSE"
    ),
    variants=variants,
    report=[
        blocks.Table("Table III: PCN and other networks", PAPER),
        blocks.PairedTests("PCN"),
        blocks.BySize("Fig 9: PSNR by number of parameters", with_critic=["MAP-NN"]),
        blocks.Panel("Fig 10: a test slice", list(PAPER)),
        blocks.Convergence("Training RMSE: all rows"),
        blocks.Convergence("Critic: estimate of the Wasserstein distance", metric="wasserstein"),
        *(
            blocks.Better(
                "PCN", row, f"PCN beats {row} in all metrics (Table III)", gain, blocks.ALL_METRICS
            )
            for row, gain in GAINS.items()
        ),
        blocks.Better(
            "MAP-NN", "MAP-NN, MSE", "MAP-NN's own loss beats MSE (Table III)", "+2.09 dB"
        ),
        blocks.Better("RED-CNN", "SCN", "RED-CNN beats SCN, its sequential clones (Fig 9)"),
        *(
            blocks.AddsLittle(
                f"PCN, {n} filters", "PCN", f"{n} kernels add little to 48 (Fig 9)", LITTLE_DB
            )
            for n in MORE
        ),
        blocks.Note(
            "MAP-NN is trained in PCN's window here, so that all rows share one protocol; its own "
            "code trains on [-160, 240] HU. Its critic is flattened."
        ),
        ONE_RANGE,
    ],
)
