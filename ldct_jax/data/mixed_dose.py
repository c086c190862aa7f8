"""Low doses drawn slice by slice: training pairs for one model of many doses and noise levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ldct_jax.ct.fbp import named_kernel
from ldct_jax.ct.no_data import filled, no_data
from ldct_jax.data.derived import check_normal_dose, derive, derived_digest
from ldct_jax.data.noise_estimate import flat_noise_hu
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.own_noise import OwnNoise
from ldct_jax.data.simulate import (
    OWN,
    SIMULATION_VERSIONS,
    add_in_proportion,
    noise_seed,
    own_scan,
    required_noise,
    stored,
)
from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.data.store_writer import finished, write_array
from ldct_jax.errors import DataError, UsageError
from ldct_jax.record import to_record
from ldct_jax.system.names import percent


@dataclasses.dataclass(frozen=True)
class MixedDose:
    """How each slice of a series gets a low dose of its own, in the projection domain.

    A model that shall serve thin and thick slices, smooth and sharp kernels must have seen more
    noise than a collection of thick slices has at any dose. So a share of the slices first gets
    the noise of a thinner slice in its *normal* dose too: that is what a thin slice's reference
    looks like.

    Args:
      fraction: (least, greatest) low dose as a fraction of the normal one, drawn log-uniformly.
      kernels: of the added noise, one drawn for each slice: ``own`` for the spectrum of the series'
        own noise, as scanners make it, or names of ldct_jax.ct.fbp.
      thinner_share: share of slices whose normal dose is made noisier first.
      thinner: (least, greatest) factor on the variance of those, drawn log-uniformly.
      step_mm: slices nearer than this to the last one taken are left out.
      draws: times that each slice is used, every time with other noise.
      target: for targets whose mean is the image without noise; None: they are the normal doses.
      seed: of all draws. The same pixels and seed give the same pairs.
    """

    fraction: tuple[float, float] = (0.1, 1.0)
    kernels: tuple[str, ...] = (OWN,)
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
        for kernel in self.kernels:
            if kernel != OWN:
                named_kernel(kernel)

    def describe(self) -> str:
        """In words, for reports."""
        (least, greatest), (thin, thinnest) = self.fraction, self.thinner
        spectrum = " and its spectrum"
        if self.kernels != (OWN,):
            spectrum = f" with the kernels {', '.join(self.kernels)}"
        words = (
            f"low doses of {percent(least)} to {percent(greatest)} drawn slice by slice, simulated "
            f"in the projection domain from each series' own noise{spectrum}; "
            f"{self.thinner_share:.0%} of the slices with {thin:g} to {thinnest:g} times the "
            "variance, as thinner slices have"
        )
        if self.target is not None:
            words += "; training targets whose mean has no noise (Noisier2Noise)"
        return words


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One pair: its slice's index, dose, kernel, and factor on the normal dose's variance."""

    index: int
    fraction: float
    kernel: str
    thinner: float


def draw(
    mixed: MixedDose, offsets_mm, rng: np.random.Generator, only: Iterable[int] | None = None
) -> list[Drawn]:
    """Which slices of a series are used, and how.

    offsets_mm: (N,) slice positions. only: indices of those that may be used; None for all.
    """
    chosen: list[int] = []
    for i in range(len(offsets_mm)) if only is None else only:
        # A tenth of a millimetre less: positions are rounded.
        if not chosen or abs(offsets_mm[i] - offsets_mm[chosen[-1]]) >= mixed.step_mm - 0.1:
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
    own: OwnNoise,
    pixel_mm: float,
    seed: int,
    target: NoiseFreeTarget | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one series: (low, full), each (len(drawn), H, W) int16 HU.

    ``full_hu``: (N, H, W) int16; ``own``: its noise. With ``target``, the second array holds its
    targets. Pixels without data stay as they are.
    """
    low = np.empty((len(drawn), *full_hu.shape[1:]), np.int16)
    full = np.empty_like(low)
    for i, one in enumerate(drawn):
        original = full_hu[one.index]
        scan, _ = own_scan(own, None if one.kernel == OWN else named_kernel(one.kernel))
        how = {"scan": scan, "pixel_mm": pixel_mm, "seed": seed}
        body = filled(original, no_data(original))
        reference = body[None].astype(np.float32)
        # With 1/v of the photons the variance is v times as large.
        reference = add_in_proportion(reference, own, 1 / one.thinner, first_slice=2 * i, **how)
        noisy = add_in_proportion(
            reference, own, one.fraction, times=one.thinner, first_slice=2 * i + 1, **how
        )
        if target is not None:
            ratio = one.thinner / one.fraction
            reference = target.of(noisy, body.astype(np.float32), ratio)
        full[i], low[i] = (stored(hu, original[None])[0] for hu in (reference, noisy))
        advance(1)
    return low, full


def add_mixed_dose(
    store: Store, out: Path, mixed: MixedDose, only: Sequence[Sequence[int]] | None = None
) -> Store:
    """A paired store of the normal-dose ``store``, every slice at a dose of its own; resumable.

    ``only``: of each series, the slices that may be used (None: all). Its noise is measured on all.

    Raises:
      DataError: a store that has low doses already, or a series whose noise can't be measured.
    """
    check_normal_dose(store)
    chosen = {} if only is None else {"only": [list(of_one) for of_one in only]}
    version = SIMULATION_VERSIONS["projection"]
    digest = derived_digest(store, version=version, mixed=to_record(mixed), **chosen)
    if done := finished(Path(out), digest):
        return done
    plans = [_plan(store, i, mixed, only and only[i]) for i in range(len(store.series))]

    def make(i: int, folder: Path, stem: str, advance) -> SeriesRecord:
        record, (seed, drawn) = store.series[i], plans[i]
        try:
            own = required_noise(store.full(i), record.pixel_mm)
        except DataError as error:
            raise DataError(f"{record.patient}: {error}; or leave the series out") from error
        low, full = simulate_mixed(
            store.full(i),
            drawn,
            own=own,
            pixel_mm=record.pixel_mm,
            seed=seed,
            target=mixed.target,
            advance=advance,
        )
        return dataclasses.replace(
            record,
            full=write_array(folder, f"{stem}-full.npy", full),
            low=write_array(folder, f"{stem}-low.npy", low),
            offsets_mm=tuple(record.offsets_mm[one.index] for one in drawn),
            tube_current_ma=(),
            exposure_mas=(),
            # That of the normal dose: targets have another.
            noise_hu=own.sd_hu if mixed.target else flat_noise_hu(full, record.pixel_mm),
            dose=None,
            dose_source=mixed.describe(),
            low_dose={
                "spec": to_record(mixed),
                "seed": seed,
                "own_noise": own.record(),
                "slices": [dataclasses.asdict(one) for one in drawn],
            },
        )

    slices = [len(drawn) for _, drawn in plans]
    return derive(store, out, digest, make, what="simulating low doses", slices=slices)


def _plan(
    store: Store, i: int, mixed: MixedDose, only: Iterable[int] | None
) -> tuple[int, list[Drawn]]:
    recipe = to_record(dataclasses.replace(mixed, target=None))
    seed = noise_seed(store.full(i), mixed.seed, recipe)
    return seed, draw(mixed, store.series[i].offsets_mm, np.random.default_rng(seed), only)
