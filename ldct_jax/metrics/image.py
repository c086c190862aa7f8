"""MSE, PSNR and SSIM of one pair of images, in float64 on plain numbers.

These functions know no Hounsfield units: call them through a
:class:`~ldct_jax.metrics.protocols.Protocol`, which says what 1.0 means and how to average.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ldct_jax.errors import DataError, UsageError

KINDS = ("gaussian", "uniform")
BORDERS = ("crop", "reflect")

# SSIM's luminance and contrast terms mean nothing where images take both signs. A few values below
# zero are the noise of air in an unclipped window; a hundredth of the pixels further below zero
# than this part of the data range are signed HU.
SIGNED_BELOW = -0.1


def mse(image, reference, *, counts: np.ndarray | None = None) -> float:
    """Mean squared difference of two images of one shape, in their unit squared.

    ``counts``: bool of that shape, the pixels that are looked at; None for all.
    """
    image, reference = _pair(image, reference)
    squared = np.square(image - reference)
    return float(np.mean(squared if counts is None else squared[counts]))


def psnr(image, reference, *, data_range: float | None) -> float:
    """10 log10(data_range² / MSE), dB; ``inf`` for identical images."""
    return decibel(_positive(data_range, "PSNR"), mse(image, reference))


def decibel(peak: float, mean_squared: float) -> float:
    """10 log10(peak² / mean_squared), with ``inf`` where nothing differs."""
    if mean_squared == 0:
        return float("inf")
    return float(10 * np.log10(peak**2 / mean_squared))


@dataclasses.dataclass(frozen=True)
class SSIMWindow:
    """How SSIM's local means and covariances are weighted.

    kind: ``gaussian`` (with ``sigma`` pixels) or ``uniform``; size: side in pixels, odd.
    border: ``crop`` leaves out the pixels whose window leaves the image (Wang's code and
    scikit-image's mean); ``reflect`` mirrors the image, edge pixel included, and averages the map
    at the image's full size. sample_covariance: divide by n-1 instead of n (scikit-image's
    default for uniform windows).
    """

    kind: str = "gaussian"
    size: int = 11
    sigma: float = 1.5
    border: str = "crop"
    sample_covariance: bool = False

    def __post_init__(self):
        if self.kind not in KINDS or self.border not in BORDERS:
            raise UsageError(
                f"SSIM window {self.kind!r} with border {self.border!r}: use one of "
                f"{', '.join(KINDS)} and one of {', '.join(BORDERS)}"
            )
        if self.size < 3 or self.size % 2 == 0 or not self.sigma > 0:
            raise UsageError("an SSIM window needs an odd side of at least 3 and sigma above 0")

    def weights(self) -> np.ndarray:
        """The separable 1-D weights (size,), which add up to 1."""
        if self.kind == "uniform":
            return np.full(self.size, 1 / self.size)
        x = np.arange(self.size) - self.size // 2
        weights = np.exp(-0.5 * np.square(x / self.sigma))
        return weights / weights.sum()

    def __str__(self) -> str:
        kind = f"Gaussian σ {self.sigma:g}" if self.kind == "gaussian" else "uniform"
        border = "border cropped" if self.border == "crop" else "border mirrored, full size"
        return f"{self.size}x{self.size} {kind}, {border}"


def ssim(
    image,
    reference,
    *,
    data_range: float | None,
    window: SSIMWindow | None = None,
    counts: np.ndarray | None = None,
) -> float:
    """Mean structural similarity with c1 = (0.01 L)², c2 = (0.03 L)², L = ``data_range``.

    image, reference: (H, W), values from zero upwards. ``counts``: (H, W) bool, the pixels of the
    similarity map that are averaged; None for all. Raises DataError for images that take both
    signs (HU must be shifted by their window first) and for images smaller than the window.
    """
    window = window or SSIMWindow()
    data_range = _positive(data_range, "SSIM")
    image, reference = _pair(image, reference)
    if image.ndim != 2 or min(image.shape) < window.size:
        raise DataError(
            f"SSIM with a {window.size}x{window.size} window needs an image (H, W) of at least "
            f"that size, not {image.shape}"
        )
    if np.quantile(reference, 0.01) < SIGNED_BELOW * data_range:
        raise DataError(
            "SSIM of images with negative values (signed HU) means nothing: shift them by their "
            "window's lower end, clip or widen a window that ends above air, and fill pixels "
            "outside the scanner's field of view with air"
        )
    similarity = _ssim_map(image, reference, data_range, window)
    if window.border == "crop":
        edge = window.size // 2
        similarity = similarity[edge : -edge or None, edge : -edge or None]
        counts = None if counts is None else counts[edge : -edge or None, edge : -edge or None]
    return float(np.mean(similarity if counts is None else similarity[counts]))


def _ssim_map(x, y, data_range: float, window: SSIMWindow) -> np.ndarray:
    weights = window.weights()

    def local(image):
        for axis in (0, 1):
            # scipy's "reflect" repeats the edge pixel: d c b a | a b c d.
            image = ndimage.correlate1d(image, weights, axis, mode="reflect")
        return image

    n = window.size**2
    norm = n / (n - 1) if window.sample_covariance else 1.0
    mean_x, mean_y = local(x), local(y)
    var_x = norm * (local(x * x) - mean_x * mean_x)
    var_y = norm * (local(y * y) - mean_y * mean_y)
    cov = norm * (local(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )


def _pair(image, reference) -> tuple[np.ndarray, np.ndarray]:
    image, reference = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    if image.shape != reference.shape or image.size == 0:
        raise DataError(
            f"image and reference must have one shape, not {image.shape} and {reference.shape}"
        )
    if not (np.isfinite(image).all() and np.isfinite(reference).all()):
        raise DataError("an image holds NaN or infinite values: it can't be scored")
    return image, reference


def _positive(data_range: float | None, metric: str) -> float:
    if data_range is None or not (np.isfinite(data_range) and data_range > 0):
        raise UsageError(
            f"{metric} needs the data range (the difference of the largest and the smallest "
            f"possible value), not {data_range}"
        )
    return float(data_range)
