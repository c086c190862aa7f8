"""DCSCN and DCSWGAN against CNN-L1 and WGAN-VGG ("Low-dose CT via deep CNN with skip connection
and network in network").

Reproduces: Table 1, Fig 2-5.

    make train EXP=dcswgan                                  # demo: embedded phantoms
    make train EXP=dcswgan DATA=/path/to/mayo SCALE=paper

Expected time: demo, two CPU cores, jax 0.12: 10 minutes. paper: half a million 80x80 patches, 20
epochs a row, five critic steps' worth of work in the adversarial ones.

The paper's Table 1: one slice each of Fig 2 and Fig 4, below.
"""

import dataclasses

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.vgg import WEIGHTS
from ldct_jax.hu import DCSWGAN
from ldct_jax.losses import Central, Perceptual, Weighted, l1
from ldct_jax.metrics import protocols
from ldct_jax.models.critic import Critic
from ldct_jax.models.dcscn import DCSCN
from ldct_jax.models.vgg import DEEPEST, VGGFeatures
from ldct_jax.models.wgan_vgg import CNNL1, WGANVGG
from ldct_jax.optim import Adam, Constant, Cosine
from ldct_jax.report import blocks
from ldct_jax.study.experiment import DEMO, PAPER, Experiment, scales
from ldct_jax.study.measures import PrintedSlice
from ldct_jax.study.study import Study
from ldct_jax.train.gan import WassersteinGAN

# PSNR, SSIM, and RMSE in units of 600 HU.
FIG_2 = {
    "undenoised": (22.818, 0.761, 0.0723),
    "CNN-L1": (27.791, 0.822, 0.0408),
    "WGAN-VGG": (25.727, 0.801, 0.0517),
    "DCSCN": (28.016, 0.883, 0.0397),
    "DCSWGAN": (26.928, 0.828, 0.0449),
}
FIG_4 = {
    "undenoised": (21.558, 0.659, 0.0836),
    "CNN-L1": (26.794, 0.738, 0.0457),
    "WGAN-VGG": (24.655, 0.711, 0.0585),
    "DCSCN": (26.943, 0.730, 0.0530),
    "DCSWGAN": (25.721, 0.808, 0.0517),
}
SCALES = scales(
    DEMO.but(
        words="CNN-L1 with 16 filters instead of 32 and without its last ReLU, DCSCN at its full "
        "size, 1,000 steps of 16 patches of 48x48; WGAN-VGG is CNN-L1's network trained on for 200 "
        "steps and DCSWGAN is DCSCN's for 400, against critics of 8 to 32 channels instead of 64 "
        "to 256",
    ),
    PAPER.but(
        words="the paper's protocol: half a million 80x80 patches of seven training patients, "
        "leave-one-out, [-300, 300] HU; the paper names neither optimiser, batch, epochs nor slice "
        "thickness: Adam 1e-4, batch 128, 20 epochs, whatever one reconstruction DATA holds; "
        "WGAN-VGG with its own Adam 1e-5",
        training_patients=7,
        leave_one_out=True,
        slices=91,
    ),
)
# Not in the paper. The penalty bounds the critic's gradient to 1 over a whole patch, where L1's
# is λ₁ divided by the patch's side: with 100 both pull alike at 80x80.
LAMBDA_1 = 100.0
PATCHES = {
    "paper": Patches(size=80, stride=16, batch=128, slices_per_patient=91),
    "demo": Patches(size=48, stride=16, batch=16, slices_per_patient=4),
    "smoke": Patches(size=24, stride=24, batch=4, slices_per_patient=1),
}
DCSCNS = {
    "paper": DCSCN(),
    "demo": DCSCN(initialization="zero_last"),
    "smoke": DCSCN((4, 2), initialization="zero_last"),
}
FILTERS = {"paper": 32, "demo": 16, "smoke": 2}  # of CNN-L1 and WGAN-VGG
# The original's perceptual loss takes VGG-19's 16th convolution; VGG-16 has a 13th.
LAYERS = {"paper": DEEPEST[16], "demo": DEEPEST[16], "smoke": ("block1_conv2",)}
# Steps of the plain rows, of WGAN-VGG and of DCSWGAN.
STEPS = {"demo": (1000, 200, 400), "smoke": (4, 2, 2)}
# The critic, and of the adversarial rows the batch, which the critic's steps multiply.
CRITICS = {
    "paper": dict(),
    "demo": dict(widths=(8, 8, 16, 16, 32, 32), hidden=64),
    "smoke": dict(widths=(2,) * 6, hidden=4),
}
N_CRITIC = {"paper": 4, "demo": 2, "smoke": 2}
GAN_BATCH = {"paper": 128, "demo": 8, "smoke": 4}


def variants(scale: str) -> dict[str, Experiment]:
    """Table 1's trained rows; at the smaller scales the adversarial ones start from plain ones."""
    small, patches = scale != "paper", PATCHES[scale]
    lengths = [dict(steps=n) for n in STEPS[scale]] if small else [dict(epochs=20)] * 3
    plain, wgan_length, dcswgan_length = lengths
    dcscn = Experiment(
        model=DCSCNS[scale],
        loss=l1,
        optimizer=Adam(Cosine(1e-3, to=2e-5, warmup=0.05) if small else Constant(1e-4)),
        patches=patches,
        window=DCSWGAN,
        **plain,
    )
    cnn = dcscn.but(model=CNNL1(FILTERS[scale], final_relu=not small))

    def gan(row: Experiment, rate: float, side: int = patches.size, **changes) -> Experiment:
        # Tuning a trained network asks for a lower rate than its new critic's.
        rates = (rate, 5e-4 if small else rate)
        adam, critic_adam = (Adam(Constant(r), b1=0.5, b2=0.9) for r in rates)
        critic = Critic(side, **CRITICS[scale])
        adversary = WassersteinGAN(critic, n_critic=N_CRITIC[scale], optimizer=critic_adam)
        few = dataclasses.replace(patches, batch=GAN_BATCH[scale])
        return row.but(optimizer=adam, patches=few, gan=adversary, **changes)

    loss = Weighted((Perceptual(VGGFeatures(WEIGHTS, layers=LAYERS[scale])),), (0.1,))
    if small:
        wgan = gan(cnn, 1e-4, loss=loss, starts_from="CNN-L1", **wgan_length)
    else:
        # WGAN-VGG's own Adam. Without padding its generator makes 64x64 of 80x80 pixels.
        wgan = cnn.but(model=WGANVGG(FILTERS[scale]), loss=Central(loss))
        wgan = gan(wgan, 1e-5, patches.size - 16, **wgan_length)
    l1_part, start = Weighted((l1,), (LAMBDA_1,)), "DCSCN" if small else None
    dcswgan = gan(dcscn, 1e-4, loss=l1_part, starts_from=start, **dcswgan_length)
    return {"CNN-L1": cnn, "WGAN-VGG": wgan, "DCSCN": dcscn, "DCSWGAN": dcswgan}


OWN_SLICES = {
    figure: PrintedSlice(figure.lower().replace(" ", "_"), rows["undenoised"])
    for figure, rows in (("Fig 2", FIG_2), ("Fig 4", FIG_4))
}
OTHERS = ["CNN-L1", "WGAN-VGG", "DCSWGAN"]
STUDY = Study(
    name="dcswgan",
    title="DCSCN and DCSWGAN",
    reproduces="dcswgan Table 1, Fig 2-5",
    scales=SCALES,
    variants=variants,
    protocol=lambda window: protocols.DCSWGAN,
    measures=tuple(OWN_SLICES.values()),
    report=[
        blocks.Table("Table 1: beside the paper's slice of Fig 2", FIG_2),
        blocks.Table("Table 1, Fig 4: beside the paper's slice of Fig 4", FIG_4),
        *(
            blocks.Numbers(
                f"Table 1, {figure.lower()}, L506: the paper's own slice",
                OWN_SLICES[figure],
                rows,
                digits=4,
            )
            for figure, rows in (("Fig 2", FIG_2), ("Fig 4", FIG_4))
        ),
        blocks.PairedTests("DCSCN"),
        blocks.Panel("Fig 2 and 3: a test slice and a zoomed region", at=0),
        blocks.Panel("Fig 4 and 5: another test slice and a zoomed region", at=-1),
        blocks.Convergence("Training RMSE: all rows"),
        blocks.Convergence("Critic: estimate of the Wasserstein distance", metric="wasserstein"),
        blocks.Best("DCSCN", OTHERS, "DCSCN has the best PSNR (Table 1)"),
        blocks.Best("DCSCN", OTHERS, "DCSCN has the best SSIM (Table 1, Fig 2; the text)", "ssim"),
        blocks.Second(
            "DCSWGAN",
            "DCSCN",
            OTHERS[:2],
            "DCSWGAN has the second-best SSIM (Table 1, Fig 2; the text)",
        ),
        blocks.Better("DCSWGAN", "WGAN-VGG", "DCSWGAN beats WGAN in PSNR (Table 1)"),
        blocks.Best("DCSCN", OTHERS, "DCSCN has the lowest RMSE (Table 1, Fig 2)", "rmse"),
        blocks.LessSmooth("DCSWGAN", "DCSCN", "DCSWGAN keeps more texture than DCSCN (Fig 3, 5)"),
        blocks.Note(
            "The paper's table contradicts itself for the slice of Fig 4: DCSCN's PSNR of 26.943 "
            "dB means an RMSE of 0.0450, where 0.0530 is printed, and the text calls DCSCN best in "
            "SSIM, where its 0.730 lies below CNN-L1's 0.738 and DCSWGAN's 0.808. Claims follow "
            "the slice of Fig 2. Both slices are single ones; here all rows are means over test "
            "patients."
        ),
        blocks.Note(
            "WGAN-VGG's perceptual term takes block5_conv3 of VGG-16, the deepest convolution of "
            "the weights at hand, where the original has the 16th convolution of VGG-19. λ₁ of "
            f"DCSWGAN is not in the paper; here it is {LAMBDA_1:g}."
        ),
    ],
)
