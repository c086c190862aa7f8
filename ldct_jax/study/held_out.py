"""Slices of a user's own scans that judge a model without any pairs, and how they do."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ldct_jax.data.noise_estimate import spread_slices
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.simulate import MIN_NOISE_HU
from ldct_jax.data.store import Store
from ldct_jax.errors import DataError
from ldct_jax.hu import Window
from ldct_jax.metrics.statistics import LEVEL, t_interval
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.system.progress import track

JUDGED_AT = 0.5
"""The dose of the slices that judge: near the scan's own, with targets of bounded noise."""
MAX_HELD_OUT = 24
MIN_TRAINED, MIN_HELD_OUT = 8, 4
MIN_PATIENTS = 6
"""From so many on, every third patient is held out; with fewer, parts of each series."""
PARTS = ((0.2, 0.35), (0.65, 0.8))
GAP_MM = 5.0
"""Slices nearer than this (or a slice's thickness) to one that is held out show the same."""
BODY_HU = -900.0


def usable(store: Store, min_side: int) -> Store:
    """The series whose noise can be measured; slices are at least ``min_side`` pixels wide.

    Raises DataError without any, and for what can't be trained on together.
    """
    kept = [s for s in store.series if s.noise_hu is not None and s.noise_hu >= MIN_NOISE_HU]
    if not kept:
        raise DataError(
            "the scans show no noise in flat soft tissue: give series with some square centimetres "
            "of it, that aren't denoised already"
        )
    if any(s.low is not None for s in store.series):
        raise DataError("the scans have two doses: name the folder of the one to adapt to")
    sizes = {s.full.shape[1:] for s in kept}
    if len(sizes) > 1 or min(map(min, sizes)) < min_side:
        named = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
        raise DataError(
            f"slices of {named} pixels: give series of one matrix size, at least {min_side} "
            "pixels wide"
        )
    return dataclasses.replace(store, series=tuple(kept))


def sides(store: Store, most: int) -> tuple[list[list[int]], list[list[int]]]:
    """Of each series, the slices to train on (``most`` of all) and those that judge, evenly spread.

    Raises DataError for too few, and for several series of few patients, which may show one scan.
    """
    counts = [s.full.shape[0] for s in store.series]
    if len(store.patients) >= MIN_PATIENTS:
        away = set(store.patients[1::3])
        held_out = [
            list(range(n)) if s.patient in away else []
            for s, n in zip(store.series, counts, strict=True)
        ]
    elif len(store.series) > len(store.patients):
        raise DataError(
            f"{len(store.series)} series of {len(store.patients)} patients: with fewer than "
            f"{MIN_PATIENTS} patients give one series of each"
        )
    else:
        held_out = [
            [k for k in range(n) if any(low <= (k + 0.5) / n < high for low, high in PARTS)]
            for n in counts
        ]
    trained = []
    for series, held in zip(store.series, held_out, strict=True):
        places, gap = series.offsets_mm, max(GAP_MM, series.slice_mm or 0.0)
        far = [k for k, at in enumerate(places) if all(abs(at - places[h]) > gap for h in held)]
        trained.append(far)
    trained, held_out = _spread(trained, most), _spread(held_out, MAX_HELD_OUT)
    n, judging = sum(map(len, trained)), sum(map(len, held_out))
    if n < MIN_TRAINED or judging < MIN_HELD_OUT:
        raise DataError(
            f"{sum(counts)} slices leave {n} to train on and {judging} to judge by, and at least "
            f"{MIN_TRAINED} and {MIN_HELD_OUT} are needed: give a longer series, or more of them"
        )
    return trained, held_out


def _spread(chosen: list[list[int]], at_most: int) -> list[list[int]]:
    flat = [(i, k) for i, slices in enumerate(chosen) for k in slices]
    kept = {flat[j] for j in spread_slices(len(flat), at_most)} if flat else set()
    return [[k for k in slices if (i, k) in kept] for i, slices in enumerate(chosen)]


@dataclasses.dataclass(frozen=True)
class Score:
    """What two models leave of the noise in slices that neither was adapted on.

    The slices y = x + o get noise m of the own noise's spectrum, as much as o at a dose of one half
    (:data:`JUDGED_AT` = f). The error is that against y - (f/(1 - f))·m, whose noise is independent
    of that in y + m (Pang et al., Recorrupted-to-Recorrupted, CVPR 2021): in the mean it is the
    squared error against x, which nobody has seen, and a constant. That is f times the error of
    y + m, and 1 - f of it is the noise of y + m, so that a model's own error can be given as a
    share of it: 0 is x itself, 1 the image as it was.

    Args:
      before, after: shares, means over slices. slices: how many.
      low, high: bounds of the mean of after - before (95 %, paired t over slices).
    """

    before: float
    after: float
    low: float
    high: float
    slices: int

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> Score:
        """From the shares of each slice, two (N,)."""
        difference = np.asarray(after) - before
        bounds = t_interval(difference)
        return cls(float(np.mean(before)), float(np.mean(after)), *bounds, len(difference))

    @property
    def better(self) -> bool:
        """Whether the adapted model leaves less, beyond chance."""
        return self.high < 0

    def text(self, name: str) -> str:
        """One line; ``name``: the model before."""
        return (
            f"squared error left on {self.slices} held-out slices at {JUDGED_AT:.0%} dose: "
            f"{name} {self.before:.2%}, adapted {self.after:.2%} of the noise; difference "
            f"{100 * (self.after - self.before):+.2f} [{100 * self.low:+.2f}, "
            f"{100 * self.high:+.2f}] points ({LEVEL:.0%}, paired over slices)"
        )


def judged(scaled: NoiseScaled, before: dict, after: dict, pairs: PairedSlices) -> Score:
    """The score of two networks inside ``scaled`` on ``pairs`` of JUDGING.

    Each gives its image without noise, of which the model would keep a share in both alike.
    """
    free = WholeSlices(scaled.clone(routine_hu=0.0, least=0.0), Window(0.0, 1.0))
    both = [{"params": {"base": params}} for params in (before, after)]
    shares = []
    for low, target in track(zip(pairs.low_hu, pairs.full_hu, strict=True), "judging", "slices"):
        low, target = np.float32(low), np.float32(target)
        # Air around the body is cut at -1024 HU: its noise is not that of the formula.
        body = ndimage.uniform_filter(low, 9) > BODY_HU

        def error(image, target=target, body=body) -> float:
            return float(np.square(image - target, dtype=np.float64).mean(where=body))

        noise = error(low)
        left = [error(free(variables, low[None])[0]) for variables in both]
        shares.append([(e - JUDGED_AT * noise) / ((1 - JUDGED_AT) * noise) for e in left])
    return Score.of(*np.transpose(shares))
