"""Low doses drawn slice by slice: training pairs for one model of many doses and noise levels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ldct_jax.data.flat_noise import flat_noise_hu
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.simulate import LEAST_NOISE_HU, SIMULATION_VERSION, LowDose, calibrated
from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.data.store_writer import begin, finished, write_array
from ldct_jax.errors import DataError, UsageError
from ldct_jax.record import to_record
from ldct_jax.system.progress import Progress


@dataclasses.dataclass(frozen=True)
class MixedDose:
    """How each slice of a series gets a low dose of its own, in the projection domain.

    A model that shall serve thin and thick slices, smooth and sharp kernels must have seen more
    noise than a collection of thick slices has at any dose. So a share of the slices first gets
    the noise of a thinner slice in its *normal* dose too: that is what a thin slice's reference
    looks like.

    Args:
      fraction: (least, greatest) low dose as a fraction of the normal one, drawn log-uniformly.
      kernels: of the added noise (ldct_jax.ct.fbp), one drawn for each slice.
      thinner_share: share of slices whose normal dose is made noisier first.
      thinner: (least, greatest) factor on the variance of those, drawn log-uniformly.
      step_mm: slices nearer than this to the last one taken are left out.
      draws: times that each slice is used, every time with other noise.
      target: for targets whose mean is the image without noise; None: they are the normal doses.
      seed: of all draws. The same pixels and seed give the same pairs.
    """

    fraction: tuple[float, float] = (0.1, 1.0)
    kernels: tuple[str, ...] = ("smooth", "medium", "sharp")
    thinner_share: float = 0.3
    thinner: tuple[float, float] = (2.0, 8.0)
    step_mm: float = 2.0
    draws: int = 1
    target: NoiseFreeTarget | None = None
    seed: int = 0

    def __post_init__(self):
        least, greatest = self.fraction
        if not 0 < least <= greatest <= 1:
            raise UsageError(f"fraction={self.fraction}: two doses in (0, 1], the least first")
        least, greatest = self.thinner
        if not 1 < least <= greatest or not 0 <= self.thinner_share <= 1:
            raise UsageError(
                f"thinner={self.thinner}, thinner_share={self.thinner_share}: two factors above 1, "
                "and a share in [0, 1]"
            )
        if self.draws < 1 or not self.kernels or not self.step_mm >= 0 or self.seed < 0:
            raise UsageError(
                f"draws={self.draws}, kernels={self.kernels}, step_mm={self.step_mm}, "
                f"seed={self.seed}: at least one draw and kernel, no negative step or seed"
            )

    def describe(self) -> str:
        """In words, for reports."""
        least, greatest = self.fraction
        return (
            f"low doses of {least:.0%} to {greatest:.0%} drawn slice by slice, simulated in the "
            f"projection domain from each series' own noise; {self.thinner_share:.0%} of the "
            f"slices with {self.thinner[0]:g} to {self.thinner[1]:g} times the variance, as "
            "thinner slices have"
            + (
                ""
                if self.target is None
                else "; training targets whose mean has no noise (Noisier2Noise)"
            )
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One pair: its slice's index, dose, kernel, and factor on the normal dose's variance."""

    index: int
    fraction: float
    kernel: str
    thinner: float


def draw(mixed: MixedDose, offsets_mm, rng: np.random.Generator) -> list[Drawn]:
    """Which slices of a series are used, and how; ``offsets_mm``: (N,) slice positions."""
    chosen: list[int] = []
    for i, at in enumerate(offsets_mm):
        # A tenth of a millimetre less: positions are rounded.
        if not chosen or abs(at - offsets_mm[chosen[-1]]) >= mixed.step_mm - 0.1:
            chosen.append(i)

    def log_uniform(span):
        return float(np.exp(rng.uniform(*np.log(span))))

    return [
        Drawn(
            i,
            log_uniform(mixed.fraction),
            str(rng.choice(mixed.kernels)),
            log_uniform(mixed.thinner) if rng.random() < mixed.thinner_share else 1.0,
        )
        for _ in range(mixed.draws)
        for i in chosen
    ]


def simulate_mixed(
    full_hu: np.ndarray,
    drawn: list[Drawn],
    *,
    n0: dict[str, float],
    pixel_mm: float,
    seed: int,
    target: NoiseFreeTarget | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one series: (low, full), each (len(drawn), H, W) int16 HU, not below -1024.

    ``full_hu``: (N, H, W) int16. ``n0``: photons a ray at the series' normal dose by kernel. With
    ``target``, the second array holds its targets.
    """
    from ldct_jax.ct.insertion import Scan, insert_projection_domain

    low = np.empty((len(drawn), *full_hu.shape[1:]), np.int16)
    full = np.empty_like(low)
    for i, one in enumerate(drawn):
        reference = full_hu[one.index].astype(np.float32)
        # With 1/v of the photons the variance is v times as large.
        scan = Scan(n0=n0[one.kernel], kernel=one.kernel)
        if one.thinner > 1:
            reference = insert_projection_domain(
                reference,
                seed=seed,
                dose=1 / one.thinner,
                scan=scan,
                pixel_mm=pixel_mm,
                first_slice=2 * i,
            )
            scan = dataclasses.replace(scan, n0=scan.n0 / one.thinner)
        noisy = insert_projection_domain(
            reference,
            seed=seed,
            dose=one.fraction,
            scan=scan,
            pixel_mm=pixel_mm,
            first_slice=2 * i + 1,
        )
        if target is not None:
            ratio = one.thinner / one.fraction
            reference = target.of(noisy, full_hu[one.index].astype(np.float32), ratio)
        for stack, image in ((full, reference), (low, noisy)):
            if not np.isfinite(image).all():
                raise DataError("the simulated dose is not finite: are the HU beyond all bounds?")
            stack[i] = np.clip(np.rint(image), -1024, 32767)
        advance(1)
    return low, full


def add_mixed_dose(store: Store, out: Path, mixed: MixedDose) -> Store:
    """A paired store of the normal-dose ``store``, every slice at a dose of its own; resumable.

    Raises:
      DataError: a store that has low doses already, or a series whose noise can't be measured.
    """
    if any(s.low is not None for s in store.series):
        raise DataError(f"{store.folder} already holds low-dose slices; simulate from normal dose")
    what = {
        "version": SIMULATION_VERSION,
        "mixed": to_record(mixed),
        "series": [(s.patient, s.full.sha256) for s in store.series],
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    if done := finished(Path(out), digest):
        return done
    plans = [_plan(record, mixed) for record in store.series]
    needed = sum(
        4 * len(drawn) * int(np.prod(record.full.shape[1:]))
        for (_, drawn), record in zip(plans, store.series, strict=True)
    )
    with (
        begin(Path(out), digest, needed_bytes=needed) as unfinished,
        Progress("simulating low doses", sum(len(d) for _, d in plans), "slices") as progress,
    ):
        for i, record in enumerate(store.series):
            seed, drawn = plans[i]

            def make(stem: str, i=i, record=record, seed=seed, drawn=drawn) -> SeriesRecord:
                return _series(
                    store.full(i), record, mixed, drawn, seed, unfinished.folder, stem, progress
                )

            _, resumed = unfinished.series(f"{i}\0{record.full.sha256}", make)
            if resumed:
                progress.advance(len(drawn), "already there")
        return unfinished.finish(store.source, store.attribution)


def _plan(record: SeriesRecord, mixed: MixedDose) -> tuple[int, list[Drawn]]:
    words = [mixed.seed, *np.frombuffer(bytes.fromhex(record.full.sha256), "<u4").tolist()]
    sequence = np.random.SeedSequence(words)
    seed = int(sequence.generate_state(1)[0] >> 1)
    return seed, draw(mixed, record.offsets_mm, np.random.default_rng(sequence))


def _series(full_hu, record: SeriesRecord, mixed, drawn, seed, folder, stem, progress):
    if record.noise_hu is None or record.noise_hu < LEAST_NOISE_HU:
        raise DataError(
            f"the series of {record.patient} shows no noise in flat soft tissue to derive its low "
            "doses from; leave it out"
        )
    scans = {
        # Half the dose adds as much variance as the series has.
        kernel: calibrated(
            full_hu,
            LowDose(fraction=0.5, domain="projection", kernel=kernel),
            record.noise_hu,
            record.pixel_mm,
            seed,
        )
        for kernel in sorted({one.kernel for one in drawn})
    }
    low, full = simulate_mixed(
        full_hu,
        drawn,
        n0={kernel: scan.n0 for kernel, (scan, _) in scans.items()},
        pixel_mm=record.pixel_mm,
        seed=seed,
        target=mixed.target,
        advance=progress.advance,
    )
    return dataclasses.replace(
        record,
        full=write_array(folder, f"{stem}-full.npy", full),
        low=write_array(folder, f"{stem}-low.npy", low),
        offsets_mm=tuple(record.offsets_mm[one.index] for one in drawn),
        tube_current_ma=(),
        exposure_mas=(),
        # That of the normal dose: targets have another.
        noise_hu=record.noise_hu if mixed.target else flat_noise_hu(full, record.pixel_mm),
        low_dose_noise_hu=flat_noise_hu(low, record.pixel_mm),
        dose=None,
        dose_source=mixed.describe(),
        low_dose={
            "spec": to_record(mixed),
            "seed": seed,
            "scans": {
                kernel: {**scan.record(dose=0.5, seed=seed), "n0_from": how}
                for kernel, (scan, how) in scans.items()
            },
            "slices": [dataclasses.asdict(one) for one in drawn],
        },
    )
