"""Statistics over patients: mean ± SD, paired tests, intervals.

A patient is the unit of the statistics of images. Slices of one patient resemble each other; taken
as independent they would make any difference "significant", so repeated labels are refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import DataError

LEVEL = 0.95
RESAMPLES = 9999


@dataclasses.dataclass(frozen=True)
class MeanSD:
    """A mean with its sample standard deviation (n - 1); ``sd`` is None where n is 1.

    With an infinite value among them (PSNR of identical images) the mean is infinite and the SD
    None.
    """

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanSD:
        x = np.asarray(values, np.float64)
        if x.ndim != 1 or x.size == 0 or np.isnan(x).any():
            raise DataError("mean ± SD needs a list of at least one number, without NaN")
        if np.isinf(x).any():
            return cls(float(x[np.isinf(x)][0]), None, x.size)
        return cls(float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else None, x.size)

    def text(self, digits: int) -> str:
        """``43.58 ± 1.15``, or the mean alone where there is no SD."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.sd is None else f"{mean} ± {self.sd:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Paired:
    """A paired comparison a - b over patients: the mean difference, its bootstrap interval from
    ``low`` to ``high``, and ``p`` of the two-sided paired t-test."""

    mean_difference: float
    low: float
    high: float
    p: float


def paired(a: Sequence[float], b: Sequence[float], patients: Sequence[str]) -> Paired:
    """``a`` against ``b``: one value a patient (say, the mean PSNR of the slices), in the order of
    ``patients``. Where all differences are zero p is 1.
    """
    from scipy import stats

    difference = _by_patient(a, patients) - _by_patient(b, patients)
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    low, high = bootstrap_interval(difference, patients)
    p = 1.0
    if difference.any():
        # The same shift in every patient has no spread: t is infinite.
        t = abs(mean) / sd * math.sqrt(len(difference)) if sd > 1e-12 * abs(mean) else math.inf
        p = float(2 * stats.t.sf(t, len(difference) - 1))
    return Paired(mean, low, high, p)


def bootstrap_interval(values: Sequence[float], patients: Sequence[str]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over patients, (low, high), at :data:`LEVEL`.

    Resampling whole patients, the same ones at every call. With few patients it is too narrow, as
    any bootstrap is: state their number beside it.
    """
    from scipy import stats

    interval = stats.bootstrap(
        (_by_patient(values, patients),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean of independent values, (low, high), at :data:`LEVEL`.

    For values that don't stand for patients: seeds of a training, held-out slices of one series.
    """
    from scipy import stats

    x = np.asarray(values, np.float64)
    half = stats.t.ppf((1 + LEVEL) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    return float(x.mean() - half), float(x.mean() + half)


def _by_patient(values: Sequence[float], patients: Sequence[str]) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) != len(patients):
        raise DataError(f"{x.shape} values for {len(patients)} patients: one a patient is needed")
    if len(set(patients)) < len(patients):
        raise DataError(
            f"{len(patients)} values of {len(set(patients))} patients: slices of a patient are "
            "not independent, average them per patient first"
        )
    if len(x) < 2:
        raise DataError("a statistic over patients needs at least two of them")
    if not np.isfinite(x).all():
        raise DataError("statistics need finite values: leave out identical images (PSNR inf)")
    return x
