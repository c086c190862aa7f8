"""Statistics over patients: mean ± SD, paired tests, bootstrap intervals.

A patient is the unit of every statistic here. Slices of one patient resemble each other; taken
as independent they would make any difference "significant", so repeated labels are refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ldct_jax.errors import DataError, UsageError


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
    """A paired comparison a - b over ``n`` patients.

    ``t_p`` and ``wilcoxon_p`` are two-sided. The Wilcoxon p-value is exact up to 50 patients
    (without ties) and can't fall below ``wilcoxon_least_p`` = 2/2^n, where n counts the patients
    that differ: with five patients or fewer it never reaches 0.05.
    ``low`` and ``high`` bound the mean difference (bootstrap over patients at ``level``).
    """

    n: int
    mean_difference: float
    sd: float
    low: float
    high: float
    level: float
    t_p: float
    wilcoxon_p: float
    wilcoxon_least_p: float

    def __str__(self) -> str:
        return (
            f"mean difference {self.mean_difference:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({100 * self.level:g} % bootstrap), paired t p = {self.t_p:.3g}, Wilcoxon "
            f"p = {self.wilcoxon_p:.3g}, n = {self.n} patients"
        )


def paired(
    a: Sequence[float],
    b: Sequence[float],
    patients: Sequence[str],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Two-sided paired t and Wilcoxon signed-rank tests of ``a`` against ``b``.

    a, b: one value a patient (say, the mean PSNR over the patient's slices), in the order of
    ``patients``. Where all differences are zero both p-values are 1.
    """
    from scipy import stats

    a, b = _by_patient(a, patients), _by_patient(b, patients)
    difference = a - b
    differing = int(np.count_nonzero(difference))
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    low, high = bootstrap_interval(difference, patients, level=level, seed=seed)
    if differing == 0:
        t_p = wilcoxon_p = 1.0
    else:
        # The same shift in every patient has no spread: t is infinite.
        t = abs(mean) / sd * math.sqrt(len(a)) if sd > 1e-12 * abs(mean) else math.inf
        t_p = float(2 * stats.t.sf(t, len(a) - 1))
        wilcoxon_p = float(stats.wilcoxon(difference[difference != 0]).pvalue)
    return Paired(
        n=len(a),
        mean_difference=mean,
        sd=sd,
        low=low,
        high=high,
        level=level,
        t_p=t_p,
        wilcoxon_p=wilcoxon_p,
        wilcoxon_least_p=min(1.0, 2.0 ** (1 - differing)),
    )


def bootstrap_interval(
    values: Sequence[float],
    patients: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over patients, (low, high).

    Resampling whole patients; a function of ``seed``. With few patients it is too narrow, as any
    bootstrap is: state n beside it.
    """
    from scipy import stats

    x = _by_patient(values, patients)
    if not 0 < level < 1:
        raise UsageError(f"a confidence level lies between 0 and 1, not at {level}")
    interval = stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


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
