"""Classical filters with the networks' calling convention, from scipy and scikit-image.

Each is a frozen dataclass, called with images (B, H, W, 1), numpy, in network units or HU alike,
and returns float32 images of that shape. Strengths that depend on the images' unit are multiples
of the noise in each image, so that the same filter serves both. Slices are filtered one by one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import UsageError


def noise_std(image_hw) -> float:
    """Standard deviation of the noise in one image, from its finest diagonal differences.

    Median of |x00 - x01 - x10 + x11| / 2 over 0.6745 (Donoho & Johnstone 1994, Haar). Blocks of
    one constant value, such as air cut off at the window's end, don't count.
    """
    x = np.asarray(image_hw, np.float64)
    detail = np.abs(x[:-1, :-1] - x[:-1, 1:] - x[1:, :-1] + x[1:, 1:]) / 2
    moving = detail[detail > 0]
    return float(np.median(moving) / 0.6745) if moving.size else 0.0


class Filter:
    """Calls :meth:`filtered` slice by slice."""

    def __call__(self, images_bhw1) -> np.ndarray:
        x = np.asarray(images_bhw1, np.float32)
        if x.ndim != 4 or x.shape[3] != 1:
            raise UsageError(f"a filter takes images (B, H, W, 1), not {x.shape}")
        return np.stack([self.filtered(image[..., 0]) for image in x]).astype(np.float32)[..., None]

    def filtered(self, x: np.ndarray) -> np.ndarray:
        """One image (H, W) float32, filtered."""
        raise NotImplementedError


class UnitFilter(Filter):
    """Calls :meth:`in_unit_range` with the image scaled to [0, 1]; a constant image stays."""

    def filtered(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        low, width = x.min(), np.ptp(x)
        noise = noise_std(x)
        if width == 0 or noise == 0:
            return x
        return self.in_unit_range((x - low) / width, noise / width) * width + low

    def in_unit_range(self, x: np.ndarray, noise: float) -> np.ndarray:
        """One image (H, W) float64 in [0, 1], whose noise has the SD ``noise``, filtered."""
        raise NotImplementedError


def _odd(size: int, name: str) -> None:
    if size < 1 or size % 2 == 0:
        raise UsageError(f"{name}: the window's side must be odd, not {size}")


@dataclasses.dataclass(frozen=True)
class Identity(Filter):
    """The undenoised image: the first row of every table."""

    def filtered(self, x):
        return x


@dataclasses.dataclass(frozen=True)
class Median(Filter):
    """Median of a square window of ``size`` pixels (dncnn_dose: 3); borders mirrored."""

    size: int = 3

    def __post_init__(self):
        _odd(self.size, "median filter")

    def filtered(self, x):
        from scipy.ndimage import median_filter

        return median_filter(x, size=self.size, mode="reflect")


@dataclasses.dataclass(frozen=True)
class Gaussian(Filter):
    """Gaussian blur of standard deviation ``sigma`` in pixels (dncnn_dose: 1); borders mirrored."""

    sigma: float = 1.0

    def __post_init__(self):
        if not self.sigma > 0:
            raise UsageError(f"Gaussian filter: sigma must be positive, not {self.sigma}")

    def filtered(self, x):
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(x, self.sigma, mode="reflect")


@dataclasses.dataclass(frozen=True)
class Wiener(Filter):
    """Adaptive Wiener filter on windows of ``size`` pixels (dncnn_dose: 5; Lim 1990).

    The noise power is the mean local variance, as MATLAB's wiener2 and scipy have it, times
    ``strength`` squared: in a whole slice anatomy is most of that variance, so that 1 blurs much.
    Borders are mirrored, where those pad with zeros, which is no value of tissue in HU.
    """

    size: int = 5
    strength: float = 1.0

    def __post_init__(self):
        _odd(self.size, "Wiener filter")
        if not self.strength > 0:
            raise UsageError(f"a Wiener filter needs a strength above 0, not {self.strength}")

    def filtered(self, x):
        from scipy.ndimage import uniform_filter
        from scipy.signal import wiener

        r = self.size // 2
        x = x.astype(np.float64)
        level = x.mean()
        x -= level
        # scipy's own estimate would count the zeros that it pads with.
        mean = uniform_filter(x, self.size, mode="reflect")
        variance = uniform_filter(x**2, self.size, mode="reflect") - mean**2
        noise = max(self.strength**2 * float(variance.mean()), np.finfo(float).tiny)
        padded = np.pad(x, r, mode="symmetric")
        # Constant windows divide by their zero variance, and are replaced by their mean.
        with np.errstate(divide="ignore", invalid="ignore"):
            out = wiener(padded, self.size, noise)
        return out[r : r + x.shape[0], r : r + x.shape[1]] + level


@dataclasses.dataclass(frozen=True)
class Bilateral(UnitFilter):
    """Bilateral filter (Tomasi & Manduchi 1998).

    ``strength``: width of the Gaussian on grey values, as a multiple of the image's noise;
    ``sigma``: of the one on distance, in pixels.
    """

    strength: float = 2.5
    sigma: float = 1.5

    def in_unit_range(self, x, noise):
        from skimage.restoration import denoise_bilateral

        return denoise_bilateral(
            x, sigma_color=self.strength * noise, sigma_spatial=self.sigma, mode="symmetric"
        )


@dataclasses.dataclass(frozen=True)
class NonLocalMeans(UnitFilter):
    """Non-local means (Buades et al. 2005): ``patch`` and search ``distance`` in pixels.

    ``strength``: the cut-off h as a multiple of the image's noise, whose variance is taken off
    the patch distances.
    """

    strength: float = 0.8
    patch: int = 5
    distance: int = 6

    def __post_init__(self):
        _odd(self.patch, "non-local means")

    def in_unit_range(self, x, noise):
        from skimage.restoration import denoise_nl_means

        return denoise_nl_means(
            x,
            patch_size=self.patch,
            patch_distance=self.distance,
            h=self.strength * noise,
            sigma=noise,
            fast_mode=True,
        )


@dataclasses.dataclass(frozen=True)
class TotalVariation(UnitFilter):
    """Total-variation denoising by Chambolle's projection (2004).

    ``strength``: the weight as a multiple of the image's noise.
    """

    strength: float = 1.0

    def in_unit_range(self, x, noise):
        from skimage.restoration import denoise_tv_chambolle

        return denoise_tv_chambolle(x, weight=self.strength * noise)


def run(filtered, hu) -> np.ndarray:
    """A filter on whole slices: (N, H, W) HU → float32 (N, H, W)."""
    return filtered(np.asarray(hu)[..., None])[..., 0]


# The names that the command line and the tables use.
FILTERS = {
    "identity": Identity,
    "median": Median,
    "gaussian": Gaussian,
    "wiener": Wiener,
    "bilateral": Bilateral,
    "nlm": NonLocalMeans,
    "tv": TotalVariation,
}
