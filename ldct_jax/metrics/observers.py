"""Low-contrast detectability: a channelised Hotelling observer with Laguerre-Gauss channels.

The observer is told where a lesion may be and decides from a few rotationally symmetric channels
whether it is there. Unlike PSNR it isn't fooled by blur: what the blur removes of signal and
noise alike, it counts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import DataError, UsageError


def laguerre_gauss(size: int, width: float, n_channels: int) -> np.ndarray:
    """Channels u_j(r) ∝ exp(-π r²/a²) L_j(2π r²/a²), j = 0 … n-1, each of norm 1.

    size: side of the square region, pixels; width: a, pixels. Returns (size², n), nearly
    orthogonal where a is well inside the region (Gallas & Barrett 2003).
    """
    from scipy.special import eval_laguerre

    if n_channels < 1 or not width > 0:
        raise UsageError("at least one channel of positive width is needed")
    x = np.arange(size) - (size - 1) / 2
    scaled = np.pi * (x[:, None] ** 2 + x**2) / width**2
    channels = [np.exp(-scaled) * eval_laguerre(j, 2 * scaled) for j in range(n_channels)]
    return np.stack([(c / np.linalg.norm(c)).ravel() for c in channels], axis=1)


@dataclasses.dataclass(frozen=True)
class Detectability:
    """d_prime: separation of the two score distributions in their common SD; auc: the part of
    (present, absent) pairs that are ranked rightly; both on images the observer wasn't trained
    on. n_test: images per class there."""

    d_prime: float
    auc: float
    n_test: int


def hotelling(
    present_hu,
    absent_hu,
    *,
    width: float,
    n_channels: int = 6,
    seed: int = 0,
) -> Detectability:
    """Detectability of a known lesion at the centre of square regions (N, S, S), in HU.

    present, absent: independent noise realisations with and without the lesion. width: the
    channels' a in pixels, about the lesion's diameter. The images of each class are split at random
    into two halves; the template S⁻¹ Δμ of either half scores the other, and both results are
    averaged, so that no image is scored by a template it has shaped.
    """
    present, absent = _regions(present_hu), _regions(absent_hu)
    if present.shape[1:] != absent.shape[1:]:
        raise DataError("regions with and without the lesion must have one size")
    least = 4 * n_channels
    if min(len(present), len(absent)) < least:
        raise DataError(
            f"{n_channels} channels need at least {least} regions with and without the lesion, not "
            f"{len(present)} and {len(absent)}"
        )
    channels = laguerre_gauss(present.shape[1], width, n_channels)
    rng = np.random.default_rng(seed)
    halves = []
    for regions in (present, absent):
        outputs = regions.reshape(len(regions), -1) @ channels
        if not outputs.std(axis=0).max() > 1e-9 * np.abs(outputs).max():
            raise DataError("a class of regions holds no noise: the observer needs its spread")
        outputs = outputs[rng.permutation(len(outputs))]
        halves.append((outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]))
    results = [
        _score(train=[h[i] for h in halves], test=[h[1 - i] for h in halves]) for i in (0, 1)
    ]
    d_prime, auc = np.mean(results, axis=0)
    return Detectability(float(d_prime), float(auc), min(len(present), len(absent)))


def _score(train, test) -> tuple[float, float]:
    template = hotelling_template(*train)
    with_lesion, without = (outputs @ template for outputs in test)
    spread = np.sqrt((with_lesion.var(ddof=1) + without.var(ddof=1)) / 2)
    d_prime = (with_lesion.mean() - without.mean()) / spread
    above = with_lesion[:, None] - without
    return d_prime, float(np.mean(above > 0) + 0.5 * np.mean(above == 0))


def hotelling_template(present, absent) -> np.ndarray:
    """S⁻¹ (μ_present - μ_absent) of channel outputs (N, C), S the classes' mean covariance."""
    covariance = (np.cov(present, rowvar=False) + np.cov(absent, rowvar=False)) / 2
    difference = present.mean(axis=0) - absent.mean(axis=0)
    # Blurred images leave nearly nothing in fine channels; lstsq drops what is numerically empty.
    return np.linalg.lstsq(np.atleast_2d(covariance), difference, rcond=1e-12)[0]


def _regions(regions_hu) -> np.ndarray:
    regions = np.asarray(regions_hu, np.float64)
    if regions.ndim != 3 or regions.shape[1] != regions.shape[2]:
        raise DataError(f"square regions (N, S, S) are needed, not {regions.shape}")
    if not np.isfinite(regions).all():
        raise DataError("a region holds NaN or infinite values")
    return regions
