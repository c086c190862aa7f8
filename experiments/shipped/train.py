"""The model that ships with ldct_jax: a PCN of three clones for any dose, without any Mayo data.

    git show 9ec958f:ldct_jax/shipped/pcn3.npz > runs/third.npz
    python -m experiments.shipped.base runs/third.npz runs/before.npz
    make train EXP=experiments/shipped/train.py DATA=CT OUT=runs/shipped INIT=runs/before.npz
    python -m experiments.shipped.in_hu runs/shipped/pcn3 runs/pcn3.npz
    python -m experiments.shipped.kept runs/pcn3.npz --data CT --out docs/results/shipped
    python -m experiments.shipped.held_out --data CT --model runs/pcn3.npz \\
        --out docs/results/shipped
    python -m experiments.shipped.release runs/shipped/pcn3 docs/results/shipped ldct_jax/shipped

What is trained here is the network inside ldct_jax.models.noise_scaled: it sees every image in
units of the image's own noise (ldct_jax.data.noise_units), and the mean of its targets is the image
without noise (ldct_jax.data.noise_free_target). This run's own report is in units of noise too;
what is true of HU says `held_out`.

INIT is the network inside the version before (BEFORE), the third, which this recipe made too, in
7,560 steps from the second (seed 2, five epochs). The first two saw HU, in units of 100 of them, as
UNIT·NOISE are here, and had to find out for themselves how noisy an image is. They never did: they
took the same share of the noise, about 0.45, at a tenth and at three quarters of the dose.

CT holds DICOM of the series named below, public ones of The Cancer Imaging Archive; the rest
comes from `ldct data sample`. Every slice gets a low dose of its own (ldct_jax.data.mixed_dose).
The series are told by the SHA-256 of their pixels, so that no file name decides who is tested, and
the held-out patients were written down here before the first training began.

Expected time, two CPU cores, jax 0.12: simulation 10 minutes, training 80 minutes.
"""

import dataclasses
import hashlib

import numpy as np

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.mixed_dose import MixedDose, add_mixed_dose
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.noise_units import NOISE, in_noise_units
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.source import SAMPLE, open_store
from ldct_jax.data.splits import Split, explicit
from ldct_jax.data.store import Store
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import Window
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
VALIDATION = {"5c58453fa6e12b44c37d953f8a74725d": "pyradiomics lung2"}
HELD_OUT = {
    "65de74fb71e17058c2457f5f2536752d": "TCGA-LIHC A10W",  # abdomen and pelvis, Siemens
    "fd278be07dc7c648c3aae40e573216ca": "Lung-PET-CT-Dx A0002",  # chest and liver, Siemens B40f
}
ATTRIBUTION = (
    "The Cancer Imaging Archive: TCGA-LIHC, ACRIN-FLT-Breast, LIDC-IDRI, TCGA-LUAD (CC BY 3.0), "
    "Lung-PET-CT-Dx, RIDER Pilot (CC BY 4.0); lung2 of pyradiomics 3.0.1 (BSD-3-Clause package)"
)

SCALES = {
    "demo": Scale(
        "demo",
        "three clones of 32 filters, six epochs of 24,000 patches: what two CPU cores train in "
        "80 minutes",
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
    "demo": MixedDose(fraction=(0.1, 0.6), seed=20261121, target=NoiseFreeTarget()),
    "smoke": MixedDose(seed=1, step_mm=100.0, target=NoiseFreeTarget()),
}

# A network unit is UNIT times the noise. Nothing is clipped.
UNIT = 4.0
WINDOW = Window(0.0, UNIT * NOISE)

# For this run's own report alone: how far apart two networks are that were trained like this.
UNITS = Protocol(
    name="units of noise",
    window=Window(-64.0 * NOISE, 192.0 * NOISE, clip=True),
    source="no paper: what stands for HU are 25ths of each low dose's noise",
)

# What INIT must be, the network inside the third version; that version; and the training of all
# versions before: steps of networks that saw HU, steps in units of noise, minutes.
BEFORE = {
    "digest": "76e1e68d74ca4807fbd2071889ba1760b192711a85b08a424186580bb42fbd94",
    "version": "4dd4f1ef798f573ea48e130032f5a6ff3041a342bc62c1ed8464985c78d5c2a5",
    "steps_hu": 12_096,
    "steps_noise": 7_560,
    "minutes": 188,
}


def patients(data: str | None) -> list[tuple[Store, list[str]]]:
    """The stores with the named series, and the patient of each series."""
    if data is None:
        raise UsageError(
            "this model is trained on real CT: name the folder of its DICOM series with DATA= "
            "(experiments/shipped/train.py says which)"
        )
    named = {**TRAINING, **VALIDATION, **HELD_OUT}
    found = []
    for where in (data, SAMPLE):
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


def mixed_pairs(scale: Scale, data: str | None) -> PairedSlices:
    """All patients in units of noise, every slice at a dose of its own.

    Only training has targets of its own; the others are compared with their normal dose.
    """
    mixed = MIXED[scale.name]
    made = []
    for store, names in patients(data):
        for trains in (True, False):
            at = [i for i, name in enumerate(names) if (name in TRAINING.values()) == trains]
            if not at:
                continue
            part = dataclasses.replace(store, series=tuple(store.series[i] for i in at))
            how = mixed if trains else dataclasses.replace(mixed, target=None)
            side = "training" if trains else "others"
            recipe = hashlib.sha256(f"{store.digest} {how}".encode()).hexdigest()[:16]
            folder = cache_folder() / "stores" / f"mixed-{scale.name}-{side}-{recipe}"
            paired = add_mixed_dose(part, folder, how)
            patient = np.repeat([names[i] for i in at], [s.full.shape[0] for s in paired.series])
            made.append(dataclasses.replace(paired.pairs(), patients=tuple(patient.tolist())))
    pairs = dataclasses.replace(
        concatenate(made),
        source=f"public CT of nine patients; {mixed.describe()}",
        attribution=ATTRIBUTION,
    )
    return in_noise_units(pairs)


def split(pairs: PairedSlices) -> Split:
    """The sides named above, of those that are there."""
    there = set(pairs.patient_names)
    return explicit(
        pairs.patients,
        test=[name for name in HELD_OUT.values() if name in there],
        validation=[name for name in VALIDATION.values() if name in there],
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
            optimizer=Adam(Cosine(1e-3, to=1e-5, warmup=0.02)),
            patches=Patches(
                size=55, stride=52, batch=16, slices_per_patient=None, augment="dihedral"
            ),
            epochs=1 if smoke else 6,
            ema_decay=0.9 if smoke else 0.999,
            seed=3,  # another order of the patches than the versions before
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
