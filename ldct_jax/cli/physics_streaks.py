"""The report on streaks: noise between the hips, where rays lose most of their photons."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax import hu
from ldct_jax.cli.physics import protocol_of
from ldct_jax.ct import checks
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.insertion import Scan, insert_projection_domain
from ldct_jax.ct.phantom.random_patient import random_patient
from ldct_jax.report.images import panels
from ldct_jax.report.tables import Column, Table
from ldct_jax.system.progress import track

DOSES = (0.25, 0.1)
HALF_MM = (50.0, 18.0)  # of the box between the hips
NOISE_WINDOW = hu.Window(-150, 150, clip=True)


def streaks_report(*, size: int, views: int, n0: float, seed: int):
    """Tables and figures of ``ldct physics streaks``."""
    pixel_mm = 379.0 / size
    scan = Scan(n0, geometry=FanBeam(n_views=views))
    box = checks.between(size, pixel_mm, HALF_MM)
    bodies = {
        region: random_patient(seed, region=region, n_slices=1, size=size, pixel_mm=pixel_mm).hu[0]
        for region in ("pelvis", "abdomen")
    }
    bodies["water disc"] = checks.water(size, pixel_mm, (130, 130))
    rows, shown, noises = [], {}, {}
    jobs = [(name, body, dose) for name, body in bodies.items() for dose in DOSES]
    for name, body, dose in track(jobs, "streaks", "slices"):
        low = insert_projection_domain(body, seed=seed, dose=dose, scan=scan, pixel_mm=pixel_mm)
        found = checks.streaks(np.asarray(low - body), box, pixel_mm)
        rows.append((name, dose, *dataclasses.astuple(found)[::-1], found.ratio))
        shown[f"{name}, dose {dose:g}"] = low
        noises[f"{name}, dose {dose:g}"] = low - body
    table = Table(
        "streaks_pelvis",
        "Streaks between the hips",
        [
            Column("body"),
            Column("dose", digits=2),
            Column("added SD", "HU", 1),
            Column("SD of means over 40 mm front to back", "HU", 2),
            Column("SD of means over 40 mm side to side", "HU", 2),
            Column("ratio", digits=2),
        ],
        rows,
        protocol=f"{protocol_of(views, size)}; N0 = {n0:g}; box of 100 x 36 mm in the middle",
        data=f"random phantoms without own noise, seed {seed}",
        note="A ratio of 1 is noise without a direction.",
    )
    return [table], [
        panels("streaks_pelvis", "Low dose", shown, window=hu.ABDOMEN, columns=2),
        panels("streaks_pelvis_noise", "Added noise", noises, window=NOISE_WINDOW, columns=2),
    ]
