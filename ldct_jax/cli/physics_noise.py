"""The report on noise: its power spectrum, its variance against dose, streaks."""

from __future__ import annotations

import numpy as np

from ldct_jax.cli.physics import protocol_of
from ldct_jax.ct import checks
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.insertion import Scan, insert_projection_domain
from ldct_jax.report.figures import Curve, lines
from ldct_jax.report.images import panels
from ldct_jax.report.tables import Column, Table
from ldct_jax.system.progress import stage

DOSES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)


def noise_report(*, size: int, views: int, slices: int, n0: float, seed: int):
    """Tables and figures of ``ldct physics noise``."""

    pixel_mm = 379.0 / size
    scan = Scan(n0, geometry=FanBeam(n_views=views))
    with stage("noise power spectra"):
        spectra = checks.added_noise_spectra(
            scan, size=size, pixel_mm=pixel_mm, slices=slices, dose=0.25, seed=seed
        )
    with stage(f"variance at {len(DOSES)} doses"):
        body = checks.water(size, pixel_mm, (150, 105))[None].repeat(slices, axis=0)
        axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
        core = np.hypot(axis[None, :], axis[:, None]) < 50
        laws = checks.variance_by_dose(
            body,
            np.broadcast_to(core, body.shape),
            DOSES,
            scan=scan,
            pixel_mm=pixel_mm,
            seed=seed,
        )
    with stage("streaks"):
        streaks, images = _streaks(size, pixel_mm, scan, seed)

    first = next(iter(spectra.values()))
    f = first.frequency_per_mm
    step = f[1] - f[0]

    def unit_area(values):
        return np.asarray(values) / (np.sum(values) * step)

    curves = [Curve(label, f, unit_area(s.nps)) for label, s in spectra.items()]
    curves.append(Curve("measured, B30f", f, unit_area(checks.measured_curve(f))))
    protocol = protocol_of(views, size)
    data = f"water ellipses, N0 = {n0:g}, seed {seed}"
    spectrum = lines(
        "noise_spectrum",
        "Noise that a quarter dose adds",
        curves,
        "spatial frequency [1/mm]",
        "noise power, area 1 [mm]",
        caption=f"{protocol}; {data}",
    )
    law = lines(
        "variance_by_dose",
        "Variance against dose",
        [
            Curve("added by insertion", [w.dose for w in laws[1:]], [w.added for w in laws[1:]]),
            Curve("whole scan", [w.dose for w in laws], [w.whole for w in laws]),
            Curve("1/dose", DOSES, [laws[0].whole / d for d in DOSES]),
        ],
        "dose",
        "variance [HU²]",
        caption=f"{protocol}; {data}",
        log_x=True,
        log_y=True,
        markers=True,
    )
    unit = laws[0].whole
    tables = [
        Table(
            "variance_by_dose",
            "Variance in the reconstructed image against dose",
            [
                Column("dose", digits=2),
                Column("added SD", "HU", 1),
                Column("added variance / (1/dose - 1) / normal dose's", digits=3),
                Column("whole SD", "HU", 1),
                Column("whole variance x dose / normal dose's", digits=3),
            ],
            [
                (
                    w.dose,
                    w.added**0.5,
                    w.added / (1 / w.dose - 1) / unit if w.dose < 1 else None,
                    w.whole**0.5,
                    w.whole * w.dose / unit,
                )
                for w in laws
            ],
            protocol=protocol,
            data=data,
            note="Ratios leave 1 where electronic noise and the logarithm of few photons begin.",
        ),
        Table(
            "noise_spectrum",
            "Noise power spectra of the added noise",
            [
                Column("noise"),
                Column("peak", "1/mm", 3),
                Column("mean frequency", "1/mm", 3),
                Column("correlation with the measured curve", digits=3),
            ],
            [
                (
                    label,
                    s.peak_per_mm,
                    s.mean_per_mm,
                    float(np.corrcoef(s.nps, checks.measured_curve(s.frequency_per_mm))[0, 1]),
                )
                for label, s in spectra.items()
            ],
            protocol=protocol,
            data=data,
        ),
        streaks,
    ]
    return tables, [spectrum, law, images]


def _streaks(size, pixel_mm, scan, seed):
    """Noise between the bones of shoulders at low dose: table and panels."""

    bones = [(side * 0.30 * size * pixel_mm, 0, 24) for side in (-1, 1)]
    half = (0.46 * size * pixel_mm, 0.24 * size * pixel_mm)
    bodies = {
        "without bones": checks.water(size, pixel_mm, half),
        "shoulders": checks.water(size, pixel_mm, half, bones),
    }
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    band = (np.abs(axis[:, None]) < 15) & (np.abs(axis[None, :]) < 60)
    shift = max(1, round(10 / pixel_mm))
    rows, images = [], {}
    for label, body in bodies.items():
        for dose in (0.25, 0.05):
            low = insert_projection_domain(body, seed=seed, dose=dose, scan=scan, pixel_mm=pixel_mm)
            field = low - body
            along, across = (
                float(np.corrcoef(field[band], np.roll(field, shift, axis=a)[band])[0, 1])
                for a in (1, 0)
            )
            rows.append((label, dose, float(field[band].std()), along, across))
            images[f"{label}, dose {dose:g}"] = low
    table = Table(
        "streaks",
        "Streaks through the shoulders: noise on the line between the bones",
        [
            Column("body"),
            Column("dose", digits=2),
            Column("added SD", "HU", 1),
            Column("correlation 10 mm along", digits=2),
            Column("correlation 10 mm across", digits=2),
        ],
        rows,
        protocol=f"{scan.geometry.n_views} views, N0 = {scan.n0:g}",
        data="a water ellipse without and with two discs of 900 HU",
    )
    return table, panels("streaks", "Streaks at low dose", images, columns=4)
