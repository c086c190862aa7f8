"""The model that ships with ldct_jax: a PCN of three clones for any dose, without any Mayo data.

    python -m experiments.shipped.base runs/fifth.npz runs/before.npz
    make train EXP=experiments/shipped/train.py DATA=CT:SINGLES OUT=runs/shipped \\
        INIT=runs/before.npz
    python -m experiments.shipped.in_hu runs/shipped/pcn3 runs/pcn3.npz
    python -m experiments.shipped.versions --data CT:SINGLES --out docs/results/shipped \\
        fourth=runs/fourth.npz sixth=runs/pcn3.npz
    python -m experiments.shipped.kept runs/pcn3.npz --data CT:SINGLES --out docs/results/shipped
    python -m experiments.shipped.held_out --data CT:SINGLES --model runs/pcn3.npz \\
        --out docs/results/shipped
    python -m experiments.shipped.texture --model runs/pcn3.npz --out docs/results/shipped
    python -m experiments.shipped.release runs/shipped/pcn3 docs/results/shipped ldct_jax/shipped

What is trained here is the network inside ldct_jax.models.noise_scaled: it sees every image in
units of the image's own noise (data/noise_units.py), and the mean of its targets is the image
without noise (data/noise_free_target.py). This run's own report is in units of noise too; what is
true of HU says `held_out`.

INIT is the network inside the sixth version (BEFORE), 614 steps of this recipe (one epoch, EMA
0.99) from the fifth. The fifth had 506 (patches of 55x55, 16 a step, 22 of a slice) from the
fourth, which was trained with other data (seed 3, six epochs of nine patients, kernels drawn at
random, a learning rate from 1e-3). It is trained for what scanners make: noise of each series' own
spectrum (as simulations have it since their third version, docs/results), patients of whom many
have smooth kernels, and slices as smoother and sharper kernels would have shown them (kernels.py).
Both images of a pair get the same random constant, against bias. Patches are 96x96: near the edge
of a patch a network sees zeros that slices don't have.

The rule for which version ships was fixed before this training began. The validation patient alone
decides (`experiments.shipped.versions`, PSNR in the abdominal window): this one, if the mean over
10 and 25 % dose is higher than the sixth version's, neither dose is lower by more than 0.02 dB, and
bias in soft tissue is at most 0.5 HU. (At 50 % that patient passes unchanged.)

CT holds DICOM of the series named below, public ones of The Cancer Imaging Archive; the rest
comes from `ldct data sample`, of which the seventh version's training had LIDC-IDRI 0001 alone.
Every slice gets a low dose of its own (data/mixed_dose.py). The series are told by the SHA-256 of
their pixels, so that no file name decides who is tested, and the held-out patients were written
down here before the first training began.

Expected time, two CPU cores, jax 0.12: simulation 7 minutes, training 50 minutes.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from experiments.shipped.kernels import as_kernel
from ldct_jax.ct.fbp import Kernel
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.mixed_dose import MixedDose, add_mixed_dose
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.noise_units import NOISE, in_noise_units
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.source import SAMPLE, open_store
from ldct_jax.data.splits import Split, explicit
from ldct_jax.data.store import Store
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import Window, whole_hu
from ldct_jax.losses import LogMSE, MultiScale, every_clone
from ldct_jax.metrics.protocols import Protocol
from ldct_jax.models.clones import ClonesNet
from ldct_jax.optim import Adam, Cosine
from ldct_jax.report import blocks
from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.study import Study
from ldct_jax.system.accelerator import cache_folder

# SHA-256 (its first half) of a series' normal-dose array in a store → the patient.
TRAINING = {
    "63354e68115e3aeb2535840c545488de": "ACRIN-FLT-Breast 001",  # abdomen, pelvis
    "eb291c44c4ca21a7d55913b5ef334317": "ACRIN-FLT-Breast 001",  # chest
    "3d8d447be8c1f5c470d500a166873f8c": "Lung-PET-CT-Dx A0001",
    "7fa0fb674d4c6e57959ce87afebd6880": "RIDER Pilot 0117",
    "57d26a7d876be6a7cc6a5212829a57a6": "TCGA-LIHC A10X",
    "924ccb9441490332abe9d2795efda418": "LIDC-IDRI 0001",
    "9dafa672d88c831c875a7dd77295afb2": "TCGA-LUAD Z013",
}
# Single slices of further patients, and those of smooth kernels: each is used DRAWS times.
SINGLES = {
    "23d529b65314b96fb33a61b9b40895b7": "TCGA-LUAD Z034",
    "29afc398c4a7a6deb1e74e09c9ca33e6": "TCGA-LUAD Z011",
    "252ef3d65c976ce65cd8541f1d52ad67": "TCGA-LUAD Z011",
    "346d24b1c67ba3c039423356d7b8a539": "TCGA-LUAD Z039",
    "48a4b24e55e4d4d53c6437b3c928b45a": "TCGA-LUAD Z045",
    "e36fc256dfa6b397609a7c5603a9e016": "TCGA-LUSC 2715",
    "1bc31fbe4265f6117ff68cb2147f16d0": "TCGA-LUSC 2725",
    "e508f55e349a6b29452d7e6be7edf05f": "TCGA-LUAD Z028",
    "661b06f13fcb25968ac42ed08dc95672": "TCGA-LUSC 5236",
    "4b4172da9f25fabdfbd9274f7dee30cc": "TCGA-LUAD 6591",
    "ae2fc5caccce67b9922c13e79f699ca4": "TCGA-LUAD 5044",
    "301b7b950b8597ef9665670bc1d73997": "TCGA-LUSC 2721",
    "8615baeffc46833023aa274f03362a73": "TCGA-LUSC A5IX",
    "ab4657f21a60e9a909dce450b0e62217": "TCGA-LUSC A5IX",  # 1.25 mm
    "28f5fb73651cc4982a3fcfb08e0ee0b5": "TCGA-LUSC 2723",
    "59e538aa5968a5cd2365f68bdc1928f8": "TCGA-LUAD 6673",
}
SMOOTH_SINGLES = {
    "ef2709f9c80393a525fc81d7f29d5fe2": "TCGA-LUAD Z034",  # B20f
    "74d1feab3c9763738d6c8e25034b1b3c": "TCGA-LUAD Z054",  # B20s
    "5e4ffd8c7ea95472999900ff74e87958": "TCGA-LUAD Z045",  # B20f
    "020ade31f71f7e6b0df15c46857a6b2e": "TCGA-LUAD Z059",  # B20s
    "b51b77608d23628b116987aa80d6e784": "TCGA-LUAD Z059",  # B20s, 2 mm
    "67b6fbeac0cef4e0ebd201d0de1c076a": "TCGA-LUAD Z028",  # B20f
    "2abfcba86cbbfd20f6d395fdd4b966da": "TCGA-LUAD Z019",  # B20f
    "01c2bff0f8e7c3e0b2030054ee47c650": "TCGA-LUSC 4080",  # B30s
}
VALIDATION = {"5c58453fa6e12b44c37d953f8a74725d": "pyradiomics lung2"}
HELD_OUT = {
    "65de74fb71e17058c2457f5f2536752d": "TCGA-LIHC A10W",  # abdomen and pelvis, Siemens
    "fd278be07dc7c648c3aae40e573216ca": "Lung-PET-CT-Dx A0002",  # chest and liver, Siemens B40f
}
# Named before the first training that saw single slices (the fifth version): smooth kernels only.
HELD_OUT_SINGLES = {
    "45b5430ffee715ca1d6f1dd07c71eeb8": "TCGA-LUSC 7341",  # B20f, 3 mm
    "b91cedc454990c814760b379b3e278a4": "TCGA-LUSC 8064",  # B20f, 3 mm
    "102c73447ad7e6adf86d8d74d05146ad": "TCGA-LUSC 8064",  # B31f, 5 mm
    "e88d22f32f558df4bce4d15f9e4e5326": "TCGA-LUAD Z051",  # B20f, 5 mm
    "5cd8c1f53f12c73d2352ffd605925895": "TCGA-LUAD Z051",  # B30s, 5 mm
}
ATTRIBUTION = (
    "The Cancer Imaging Archive: TCGA-LIHC, ACRIN-FLT-Breast, LIDC-IDRI, TCGA-LUAD, TCGA-LUSC "
    "(CC BY 3.0), "
    "Lung-PET-CT-Dx, RIDER Pilot (CC BY 4.0); lung2 of pyradiomics 3.0.1 (BSD-3-Clause package)"
)

SCALES = {
    "demo": Scale(
        "demo",
        "three clones of 32 filters, six epochs of 3,700 patches: what two CPU cores train in "
        "50 minutes",
        monitor_slices=3,
        test_slices=6,
        training_crop=(384, 432),
    ),
    "smoke": Scale(
        "smoke",
        "a few steps, to show that everything runs",
        test_slices=1,
        training_crop=(128, 128),
    ),
}
MIXED = {
    "demo": MixedDose(fraction=(0.1, 0.6), step_mm=5.0, seed=20261129, target=NoiseFreeTarget()),
    "smoke": MixedDose(seed=1, step_mm=100.0, target=NoiseFreeTarget()),
}
DRAWS = {"demo": (2, 6), "smoke": (1, 1)}  # of SINGLES, SMOOTH_SINGLES
OTHERS_STEP_MM = 20.0  # patients that don't train are only looked at
# Of the training slices this share is shown as a kernel between these two would have.
OTHER_KERNELS = 0.5
HALF_PER_MM = (0.2, 0.65)
ORDER = 2.5

# A network unit is UNIT times the noise. Nothing is clipped.
UNIT = 4.0
WINDOW = Window(0.0, UNIT * NOISE)

# For this run's own report alone: how far apart two networks are that were trained like this.
UNITS = Protocol(
    name="units of noise",
    window=Window(-64.0 * NOISE, 192.0 * NOISE, clip=True),
    source="no paper: what stands for HU are 25ths of each low dose's noise",
)

# What INIT must be, the network inside the sixth version; that version; and the training of all
# versions before: steps of networks that saw HU and in units of noise, of 16 patches of 55x55, and
# those of this recipe; minutes.
BEFORE = {
    "digest": "58202b923c0f3f767741d05652d9c50758499ae15b9baae3764408f58a7e26ec",
    "version": "f0bd340af43eaa5f982c4e5105149af8b8b831e42618377395ba7a2d3ca9bfe6",
    "steps_hu": 12_096,
    "steps_noise": 17_138,
    "steps": 614,
    "minutes": 297,
}


def patients(data: str | None) -> list[tuple[Store, list[str]]]:
    """The stores with the named series, and the patient of each series.

    ``data``: folders with ":" (Windows: ";") between them.
    """
    if data is None:
        raise UsageError(
            "this model is trained on real CT: name the folders of its DICOM series with DATA= "
            "(experiments/shipped/train.py says which)"
        )
    named = {**TRAINING, **SINGLES, **SMOOTH_SINGLES, **VALIDATION, **HELD_OUT, **HELD_OUT_SINGLES}
    found = []
    for where in (*data.split(os.pathsep), SAMPLE):
        store = open_store(where, cache=cache_folder() / "stores", attribution=ATTRIBUTION)
        known = [s for s in store.series if s.full.sha256[:32] in named]
        found.append(
            (
                dataclasses.replace(store, series=tuple(known)),
                [named[s.full.sha256[:32]] for s in known],
            )
        )
    there = {name for _, names in found for name in names}
    if lacking := set(HELD_OUT.values()) - there:
        raise DataError(f"DATA lacks the held-out patients: {', '.join(sorted(lacking))}")
    if not there & set(TRAINING.values()):
        raise DataError("DATA holds no training series: is it the right folder?")
    return found


def mixed_pairs(
    scale: Scale, data: str | None, other_kernels: float = OTHER_KERNELS
) -> PairedSlices:
    """All patients in units of noise, every slice at a dose of its own.

    Only training has targets of its own; the others are compared with their normal dose.
    ``other_kernels``: the share of training slices that other kernels show.
    """
    mixed = MIXED[scale.name]
    ways = {
        "training": (TRAINING, mixed),
        "singles": (SINGLES, dataclasses.replace(mixed, draws=DRAWS[scale.name][0])),
        "smooth": (SMOOTH_SINGLES, dataclasses.replace(mixed, draws=DRAWS[scale.name][1])),
        "others": (
            {**VALIDATION, **HELD_OUT, **HELD_OUT_SINGLES},
            dataclasses.replace(mixed, target=None, step_mm=OTHERS_STEP_MM),
        ),
    }
    made = []
    for store, names in patients(data):
        for side, (hashes, how) in ways.items():
            at = [i for i, s in enumerate(store.series) if s.full.sha256[:32] in hashes]
            if not at:
                continue
            part = dataclasses.replace(store, series=tuple(store.series[i] for i in at))
            recipe = hashlib.sha256(f"{part.digest} {how}".encode()).hexdigest()[:16]
            folder = cache_folder() / "stores" / f"mixed-{scale.name}-{side}-{recipe}"
            paired = add_mixed_dose(part, folder, how)
            patient = np.repeat([names[i] for i in at], [s.full.shape[0] for s in paired.series])
            pairs = dataclasses.replace(paired.pairs(), patients=tuple(patient.tolist()))
            if side != "others":
                pairs = in_other_kernels(pairs, paired, mixed.seed, other_kernels)
            made.append(pairs)
    pairs = dataclasses.replace(
        concatenate(made),
        source=f"public CT of {len({n for m in made for n in m.patients})} patients; "
        f"{mixed.describe()}",
        attribution=ATTRIBUTION,
    )
    return in_noise_units(pairs)


def in_other_kernels(
    pairs: PairedSlices, paired: Store, seed: int, share: float = OTHER_KERNELS
) -> PairedSlices:
    """``pairs`` of the store ``paired``, a share of them as other kernels would have shown them."""
    rng = np.random.default_rng(seed)
    own = [
        Kernel(**series.low_dose["own_noise"]["kernel"])
        for series in paired.series
        for _ in range(series.full.shape[0])
    ]
    low, full = (np.array(stack) for stack in (pairs.low_hu, pairs.full_hu))
    for i, (kernel, pixel_mm) in enumerate(zip(own, pairs.pixel_mm, strict=True)):
        half = float(np.exp(rng.uniform(*np.log(HALF_PER_MM))))
        if rng.random() < share:
            for stack in (low, full):
                other = as_kernel(stack[i], kernel, Kernel("other", half, ORDER), float(pixel_mm))
                stack[i] = whole_hu(other)
    least, greatest = HALF_PER_MM
    return dataclasses.replace(
        pairs,
        low_hu=low,
        full_hu=full,
        source=f"{pairs.source}; {share:.0%} of the training slices as kernels with half their "
        f"modulation at {least:g} to {greatest:g} /mm would have shown them",
    )


def split(pairs: PairedSlices, validation: Sequence[str] = tuple(VALIDATION.values())) -> Split:
    """The sides named above, of those that are there; ``validation``: patients who don't train."""
    there = set(pairs.patient_names)
    held_out = {*HELD_OUT.values(), *HELD_OUT_SINGLES.values()}
    return explicit(
        pairs.patients,
        test=sorted(held_out & there),
        validation=[name for name in validation if name in there],
    )


def variants(scale: str) -> dict[str, Experiment]:
    smoke = scale == "smoke"
    return {
        "pcn3": Experiment(
            model=ClonesNet(
                n_filters=4 if smoke else 32,
                n_clones=3,
                n_layers=10,
                initialization="zero_last",
                # A ReLU would cut whatever lies below -1024 HU.
                final_relu=False,
            ),
            window=WINDOW,
            # Relative errors, as the targets of some patches are noisier than those of others. The
            # coarse scales are for what a network leaves of correlated noise: blobs.
            loss=every_clone(MultiScale(LogMSE(least=0.04), scales=(1, 2, 4, 8))),
            optimizer=Adam(Cosine(5e-4, to=1e-5, warmup=0.02)),
            patches=Patches(
                size=96, per_slice=10, batch=6, slices_per_patient=None, augment="dihedral_offset"
            ),
            epochs=1 if smoke else 6,
            ema_decay=0.9 if smoke else 0.998,
            seed=7,  # another order of the patches than the versions before
        )
    }


STUDY = Study(
    name="shipped",
    title="The model that ships: a PCN of three clones for any dose",
    reproduces="nothing of the papers",
    scales=SCALES,
    variants=variants,
    report=[
        blocks.Table(
            "Quality: held-out patients, each slice at a dose of its own",
            note=f"What is called HU on this page is a {NOISE}th of each low dose's noise. How "
            "good the model is in HU, and beside filters, says experiments/shipped/held_out.py.",
        ),
        blocks.Convergence("Convergence", metric="validation_rmse"),
    ],
    data=mixed_pairs,
    split=split,
    protocol=lambda window: UNITS,
)
