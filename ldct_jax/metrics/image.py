"""MSE and SSIM of pairs of images, compiled: one pass over a batch of slices, on any device.

These functions know no protocol: call them through a
:class:`~ldct_jax.metrics.protocols.Protocol`, which says what 1.0 means and how to average.

Both metrics are written in the sum s and the difference m of the two images, so that float32 is
enough (1e-7 relative of float64 on CT): with means s̄, m̄ and variances σ_s², σ_m² in the window,

    SSIM = (1 - m̄² / ((s̄² + m̄²)/2 + c1)) · (1 - σ_m² / ((σ_s² + σ_m²)/2 + c2)),

which is Wang's formula rearranged: nothing large is subtracted from something of its size.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ldct_jax.errors import UsageError
from ldct_jax.hu import Window

KINDS = ("gaussian", "uniform")
BORDERS = ("crop", "reflect")


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

    def matrix(self, n: int) -> np.ndarray:
        """What gives a line of ``n`` pixels its local means: (n or n - size + 1, n) float32."""
        pixels = np.eye(n)
        if self.border == "reflect":  # edge pixel included: d c b a | a b c d
            edge = self.size // 2
            pixels = np.pad(pixels, ((0, 0), (edge, edge)), mode="symmetric")
        kept = pixels.shape[1] - self.size + 1
        parts = (w * pixels[:, i : i + kept].T for i, w in enumerate(self.weights()))
        return sum(parts).astype(np.float32)

    def __str__(self) -> str:
        kind = f"Gaussian σ {self.sigma:g}" if self.kind == "gaussian" else "uniform"
        border = "border cropped" if self.border == "crop" else "border mirrored, full size"
        return f"{self.size}x{self.size} {kind}, {border}"


@functools.lru_cache(maxsize=32)
def compiled(
    size: tuple[int, int],
    corner: tuple[int, int],
    window: Window,
    ssim: SSIMWindow,
    data_range: float,
):
    """A compiled function of (images, references, counts), each (B, H, W), HU and bool.

    Looked at: the pixels (h, w) = ``size`` from ``corner`` on. ``window`` turns HU into units;
    ``data_range``: SSIM's L in these units, c1 = (0.01 L)² and c2 = (0.03 L)². ``counts``: the
    pixels that are looked at, of the differences and of the map of similarity.

    It returns arrays (B,) by name: ``mse_hu2``, ``ssim``, ``peak_hu`` (the largest distance of
    the image from the window's lower end), ``negative`` (the share of the reference's pixels below
    -0.1 L), ``counted`` pixels, and whether all pixels are finite: ``image``, ``reference``.
    """
    import jax
    import jax.numpy as jnp

    region = tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))
    down, across = (ssim.matrix(n) for n in size)
    edge = ssim.size // 2 if ssim.border == "crop" else 0
    inner = tuple(slice(edge, n - edge) for n in size)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    n = ssim.size**2
    norm = n / (n - 1) if ssim.sample_covariance else 1.0

    def local(image):
        with jax.default_matmul_precision("highest"):
            return down @ image @ across.T

    # The rounded weights don't quite add up to 1, which a variance would feel times the mean².
    excess = float(down[0].sum(dtype=np.float64) * across[0].sum(dtype=np.float64) - 1)

    def moments(image):
        mean = local(image)
        square = mean * mean
        return mean, norm * (local(image * image) - square + excess * square)

    def one(image, reference, counts):
        finite = {"image": jnp.isfinite(image).all(), "reference": jnp.isfinite(reference).all()}
        image, reference = (jnp.asarray(a[region], jnp.float32) for a in (image, reference))
        counts = counts[region]
        if window.clip:
            image, reference = (a.clip(window.low, window.high) for a in (image, reference))
        difference = image - reference
        m = difference / window.width
        # The middle of the window is taken off before squaring: variances don't feel it.
        s = (image + reference - (window.low + window.high)) / window.width
        (mean_m, var_m), (mean_s, var_s) = moments(m), moments(s)
        mean_s = mean_s + 1
        luminance = mean_m**2 / ((mean_s**2 + mean_m**2) / 2 + c1)
        contrast = var_m / ((var_s + var_m) / 2 + c2)
        # The loss of similarity is averaged, which keeps its digits near 1.
        lost = luminance + contrast - luminance * contrast
        unit = (reference - window.low) / window.width
        return finite | {
            "mse_hu2": _mean(difference * difference, counts),
            "ssim": 1 - _mean(lost, counts[inner]),
            "peak_hu": jnp.abs(image - window.low).max(),
            "negative": jnp.mean(unit < -0.1 * data_range),
            "counted": counts.sum(),
        }

    def _mean(values, counts):
        return jnp.sum(jnp.where(counts, values, 0), axis=-1).sum() / counts.sum()

    return jax.jit(jax.vmap(one))
