"""Model observers: how well a known lesion is told from none in images that were given.

An observer is told where a lesion may be. Channelised Hotelling observers (CHO) weigh what a few
channels see against how it scatters; the non-prewhitening observer (NPWE, here without an eye
filter) takes the mean difference itself. Unlike PSNR they aren't fooled by blur: what it removes
of signal and noise alike, they count. Channels as in the FDA's LCD_CT toolbox
(github.com/DIDSR/LCD_CT), whose numbers a test compares.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import DataError, UsageError

OBSERVERS = ("LG-CHO", "DOG-CHO", "Gabor-CHO", "NPWE")
INTERVAL = 0.95
RESAMPLES = 400


def laguerre_gauss(size: int, width: float, n_channels: int = 5) -> np.ndarray:
    """Channels √2/a exp(-π r²/a²) L_j(2π r²/a²), j = 0 … n-1, (size², n).

    width: a, pixels; nearly orthogonal where a is well inside the region (Gallas & Barrett 2003).
    """
    from scipy.special import eval_laguerre

    if n_channels < 1 or not width > 0:
        raise UsageError("at least one channel of positive width is needed")
    scaled = np.pi * _radius(size) ** 2 / width**2
    envelope = 2**0.5 / width * np.exp(-scaled)
    return _columns([envelope * eval_laguerre(j, 2 * scaled) for j in range(n_channels)])


def difference_of_gaussians(size: int) -> np.ndarray:
    """Ten channels with the spectrum exp(-½(f/(Q σ_j))²) - exp(-½(f/σ_j)²), (size², 10).

    f in cycles/pixel; Q = 1.67, σ_j = 0.005·1.4^j (the dense set of Abbey & Barrett, JOSA A 18,
    2001).
    """
    along = np.fft.fftfreq(size)
    f = np.hypot(along[:, None], along)
    sigmas = 0.005 * 1.4 ** np.arange(10)
    spectra = (np.exp(-0.5 * (f / (1.67 * s)) ** 2) - np.exp(-0.5 * (f / s) ** 2) for s in sigmas)
    return _columns([np.fft.fftshift(np.fft.ifft2(s).real) for s in spectra])


def gabor(size: int) -> np.ndarray:
    """Gabor channels of phase 0 in four octave bands below 1/8 cycle/pixel and four directions,
    (size², 16).

    A band from f/2 to f has its centre at 3f/4 and the envelope exp(-4 ln2 r²/w²),
    w = 4 ln2 / (π · f/2) pixels (Wunderlich & Noo).
    """
    x = np.arange(size) - (size - 1) / 2
    channels = []
    for high in 0.125 * 0.5 ** np.arange(4):
        width = 4 * np.log(2) / (np.pi * high / 2)
        envelope = np.exp(-4 * np.log(2) * (_radius(size) / width) ** 2)
        for angle in np.pi * np.arange(4) / 4:
            along = x * np.cos(angle) + x[:, None] * np.sin(angle)
            channels.append(envelope * np.cos(2 * np.pi * 0.75 * high * along))
    return _columns(channels)


def channels_of(observer: str, size: int, diameter: float) -> np.ndarray | None:
    """The channels (size², n) of one of :data:`OBSERVERS`; None for NPWE, which has none.

    diameter: of the lesion, pixels; Laguerre-Gauss channels are two thirds of it wide.
    """
    if observer == "LG-CHO":
        return laguerre_gauss(size, 2 / 3 * diameter)
    if observer == "DOG-CHO":
        return difference_of_gaussians(size)
    if observer == "Gabor-CHO":
        return gabor(size)
    if observer == "NPWE":
        return None
    raise UsageError(f"unknown observer {observer!r}: use one of {', '.join(OBSERVERS)}")


def template(present: np.ndarray, absent: np.ndarray, channels: np.ndarray | None) -> np.ndarray:
    """What images (size²,) are multiplied by, from training images (N, size²): (size²,).

    U S⁻¹ Δv with channels U, S the classes' mean covariance of channel outputs v; else the mean
    difference.
    """
    if channels is None:
        return present.mean(axis=0) - absent.mean(axis=0)
    seen, unseen = present @ channels, absent @ channels
    covariance = (np.cov(seen, rowvar=False) + np.cov(unseen, rowvar=False)) / 2
    difference = seen.mean(axis=0) - unseen.mean(axis=0)
    return channels @ (np.linalg.pinv(np.atleast_2d(covariance)) @ difference)


def separation(with_lesion: np.ndarray, without: np.ndarray) -> tuple[float, float]:
    """(d′, AUC) of two sets of scores.

    d′: difference of the means over the root of the mean variance (n - 1). AUC: the part of
    (present, absent) pairs that are ranked rightly.
    """
    spread = np.sqrt((with_lesion.var(ddof=1) + without.var(ddof=1)) / 2)
    above = with_lesion[:, None] - without
    auc = float(np.mean(above > 0) + 0.5 * np.mean(above == 0))
    return float((with_lesion.mean() - without.mean()) / spread), auc


@dataclasses.dataclass(frozen=True)
class Detectability:
    """d′ and AUC with their 95 % intervals; n: images with a lesion (and as many without);
    n_channels: of the observer, 0 for NPWE."""

    d_prime: float
    d_prime_interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    n: int
    n_channels: int = 0


def detect(
    present_hu, absent_hu, *, diameter: float, observer: str = "LG-CHO", seed: int = 0
) -> Detectability:
    """Detectability of a known lesion at the centre of square regions (N, S, S), in HU.

    present, absent: independent noise realisations with and without the lesion, of which each has
    its mean taken away. They are split at random into two halves; the template of either half
    scores the other, so that no image is scored by a template it has shaped. Intervals: percentile
    bootstrap over the images' scores.
    """
    present, absent = _regions(present_hu), _regions(absent_hu)
    if present.shape[1] != absent.shape[1]:
        raise DataError("regions with and without the lesion must have one size")
    size = round(present.shape[1] ** 0.5)
    channels = channels_of(observer, size, diameter)
    n_channels = 0 if channels is None else channels.shape[1]
    needed = 4 * max(1, n_channels)
    if min(len(present), len(absent)) < needed:
        raise DataError(
            f"{observer} needs at least {needed} regions with and without the lesion, not "
            f"{len(present)} and {len(absent)}"
        )
    for what in (present, absent):
        if not what.std(axis=0).max() > 1e-9 * max(1.0, float(np.abs(what).max())):
            raise DataError("a class of regions holds no noise: the observer needs its spread")
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(len(what)), 2) for what in (present, absent)]
    folds = []
    for test in (0, 1):
        train = template(present[halves[0][1 - test]], absent[halves[1][1 - test]], channels)
        folds.append((present[halves[0][test]] @ train, absent[halves[1][test]] @ train))

    def measured(pick) -> np.ndarray:
        return np.mean([separation(pick(a), pick(b)) for a, b in folds], axis=0)

    d_prime, auc = measured(lambda scores: scores)
    drawn = [measured(lambda scores: rng.choice(scores, len(scores))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    return Detectability(
        float(d_prime),
        (float(low[0]), float(high[0])),
        float(auc),
        (float(low[1]), float(high[1])),
        min(len(present), len(absent)),
        n_channels,
    )


def flattened(regions_hu) -> np.ndarray:
    """Square regions (N, S, S) as (N, S²) float64, each less its own mean.

    The mean is taken in float32, as LCD_CT does: with ten images the sixth digit shows it.
    """
    flat = np.asarray(regions_hu, np.float32).reshape(len(regions_hu), -1)
    return (flat - flat.mean(axis=1, keepdims=True)).astype(np.float64)


def _regions(regions_hu) -> np.ndarray:
    regions = np.asarray(regions_hu, np.float64)
    if regions.ndim != 3 or regions.shape[1] != regions.shape[2]:
        raise DataError(f"square regions (N, S, S) are needed, not {regions.shape}")
    if not np.isfinite(regions).all():
        raise DataError("a region holds NaN or infinite values")
    return flattened(regions)


def _radius(size: int) -> np.ndarray:
    x = np.arange(size) - (size - 1) / 2
    return np.hypot(x[:, None], x)


def _columns(channels) -> np.ndarray:
    # As published, not of norm 1: with fewer images than channels the pseudo-inverse sees scale.
    return np.stack([c.ravel() for c in channels], axis=1)
