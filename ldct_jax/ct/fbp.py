"""Filtered back-projection of fan beams, with named kernels.

They are reconstructed directly, without rebinning (Kak & Slaney, *Principles of Computerized
Tomographic Imaging*, 3.4): projections times cos γ, ramp with (γ/sin γ)², back-projection with
1/L². The filtered views are refined to a quarter channel by zero-padding their spectra, so that
the linear interpolation afterwards hardly changes noise or resolution.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.ct.geometry import FanBeam
from ldct_jax.errors import UsageError

REFINE = 4  # samples a channel after filtering
UNROLL = 4  # views a loop step


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The window on the ramp: exp(−ln2 · (f/half_per_mm)^order), 0 above ``cutoff_per_mm``.

    f in cycles/mm at the rotation centre; the modulation falls to one half at ``half_per_mm``.
    With neither limit it is the plain ramp up to the detector's Nyquist frequency.

    Raises:
      UsageError: for a cut-off that isn't above 0.
    """

    name: str
    half_per_mm: float | None = None
    order: float = 2.5
    cutoff_per_mm: float | None = None

    def __post_init__(self):
        if self.cutoff_per_mm is not None and not self.cutoff_per_mm > 0:
            raise UsageError(f"cutoff_per_mm={self.cutoff_per_mm}: a positive frequency, cycles/mm")

    def window(self, f_per_mm):
        """Share of the ramp kept at ``f_per_mm`` ≥ 0, any shape."""
        f = np.asarray(f_per_mm, np.float64)
        kept = np.ones_like(f)
        if self.half_per_mm is not None:
            kept = np.exp(-np.log(2.0) * (f / self.half_per_mm) ** self.order)
        return kept if self.cutoff_per_mm is None else kept * (f <= self.cutoff_per_mm)


SMOOTH = Kernel("smooth", 0.38, 2.5)  # like Siemens B30f: its measured modulation
MEDIUM = Kernel("medium", 0.47, 3.0)  # between the two, as body kernels like B40f are
SHARP = Kernel("sharp", 0.60, 4.0)  # like Siemens D45f: near flat to 0.4 /mm
RAMP = Kernel("ramp")  # for comparisons: edges ring, since nothing is damped below Nyquist
KERNELS = {kernel.name: kernel for kernel in (SMOOTH, MEDIUM, SHARP, RAMP)}


def named_kernel(name: str) -> Kernel:
    """A kernel of :data:`KERNELS` by name; UsageError lists them."""
    if name not in KERNELS:
        raise UsageError(f"unknown kernel {name!r}: use one of {', '.join(KERNELS)}")
    return KERNELS[name]


@functools.lru_cache(maxsize=16)
def _filter(geometry: FanBeam, kernel: Kernel):
    """Response (F,) of one view's filtering, and the length of its FFT."""
    n_fft = 1 << int(np.ceil(np.log2(2 * geometry.n_detectors)))
    lag = np.fft.fftfreq(n_fft, 1 / n_fft)  # 0, 1, …, −1
    # The band-limited ramp sampled in space, which keeps the mean value right (ibid., eq. 3.61).
    ramp = np.zeros(n_fft)
    odd = lag % 2 == 1
    ramp[odd] = -1 / (np.pi * lag[odd]) ** 2
    ramp[0] = 0.25
    step = geometry.detector_mm / geometry.source_detector_mm
    angle = lag * step
    bend = np.where(lag == 0, 1.0, (angle / np.sin(np.where(lag == 0, 1.0, angle))) ** 2)
    # Lags beyond the detector's length never meet data; sin would vanish near π.
    bend = np.where(np.abs(lag) < geometry.n_detectors, bend, 1.0)
    # Every line is measured twice in a full turn: hence one half.
    ramp = ramp * bend / step**2 * step * 0.5
    response = np.fft.rfft(ramp).real
    response *= kernel.window(np.fft.rfftfreq(n_fft, geometry.centre_pitch_mm))
    return response.astype(np.float32), n_fft


def filter_energy(geometry: FanBeam, kernel: Kernel) -> float:
    """Noise variance behind the filter where every channel had variance 1 before it.

    Without the factors of each ray (cos γ before, 1/L² after), but with what the two linear
    interpolations between the refined samples take, each 1 − (1 − cos(ω/REFINE))/3 of the power at
    ω radians a channel, on average over places.
    """
    response, n_fft = _filter(geometry, kernel)
    omega = 2 * np.pi * np.arange(len(response)) / n_fft
    power = np.square(response, dtype=np.float64)
    power *= (1 - (1 - np.cos(omega / REFINE)) / 3) ** 2
    return float((2 * power.sum() - power[0] - power[-1]) / n_fft)


def filter_response(geometry: FanBeam, kernel: Kernel) -> np.ndarray:
    """What :func:`reconstruct` multiplies the views' spectra by, (F,) float32."""
    return _filter(geometry, kernel)[0]


def _refine_and_filter(sinogram, geometry: FanBeam, response):
    """Filtered views, ``REFINE`` samples a channel: (V, D) → (V, REFINE·D)."""
    weight = (geometry.source_centre_mm * np.cos(geometry.fan_angles)).astype(np.float32)
    n_fft = 2 * (len(response) - 1)
    spectrum = jnp.fft.rfft(sinogram * weight, n=n_fft, axis=-1) * response
    # The Nyquist bin stands for two frequencies once the spectrum is longer.
    spectrum = spectrum.at[..., -1].multiply(0.5)
    fine = jnp.fft.irfft(spectrum, n=REFINE * n_fft, axis=-1) * REFINE
    return fine[..., : REFINE * geometry.n_detectors]


def _tangent_grid(geometry: FanBeam):
    """Equal steps of tan γ over the fan: (first, step) and where they lie among fine samples."""
    gamma = geometry.fan_angles
    n = REFINE * geometry.n_detectors
    grid = np.linspace(np.tan(gamma[0]), np.tan(gamma[-1]), n)
    step = geometry.detector_mm / geometry.source_detector_mm
    place = (np.arctan(grid) - gamma[0]) / step * REFINE
    return grid[0], grid[1] - grid[0], place


def _sample(line, position):
    """Linear interpolation of ``line`` (n,) at ``position``; zero outside."""
    last = line.shape[0] - 1
    inside = (position >= 0) & (position <= last)
    position = jnp.clip(position, 0.0, last - 1e-3)
    left = position.astype(jnp.int32)
    low = line.at[left].get(mode="promise_in_bounds")
    high = line.at[left + 1].get(mode="promise_in_bounds")
    return jnp.where(inside, low + (position - left) * (high - low), 0.0)


@functools.partial(jax.jit, static_argnames=("geometry", "size", "pixel_mm"))
def reconstruct(sinogram, response, geometry: FanBeam, size: tuple[int, int], pixel_mm: float):
    """One image (H, W), 1/mm, from line integrals (V, D), filtered by ``response`` (F,).

    The response (:func:`filter_response`) is an argument like the sinogram, so that one compiled
    program serves all kernels.
    """
    height, width = size
    x = ((jnp.arange(width) - (width - 1) / 2) * pixel_mm)[None, :]
    y = (((height - 1) / 2 - jnp.arange(height)) * pixel_mm)[:, None]
    fine = _refine_and_filter(sinogram, geometry, response)
    cos = jnp.asarray(np.cos(geometry.views), jnp.float32)
    sin = jnp.asarray(np.sin(geometry.views), jnp.float32)
    distance = geometry.source_centre_mm
    first, step, place = _tangent_grid(geometry)
    place = jnp.asarray(place, jnp.float32)
    fine = jax.vmap(lambda line: _sample(line, place))(fine)

    def add(image, view):
        line, c, s = view
        across, depth = x * c + y * s, distance - (y * c - x * s)
        tangent = across / depth
        nearness = 1 / (depth * depth * (1 + tangent * tangent))
        return image + _sample(line, (tangent - first) / step) * nearness, None

    views = (fine, cos, sin)
    unroll = min(UNROLL, geometry.n_views)
    image, _ = lax.scan(add, jnp.zeros(size, jnp.float32), views, unroll=unroll)
    return image * (2 * np.pi / geometry.n_views)


def filtered_back_projection(
    sinogram, geometry: FanBeam, *, size: tuple[int, int], pixel_mm: float, kernel: Kernel = SMOOTH
):
    """Images from line integrals: (V, D) → (H, W), or (N, V, D) → (N, H, W), in 1/mm.

    The reconstruction is right inside the circle that every view sees whole, if nothing lies
    outside it.
    """
    sinogram = jnp.asarray(sinogram, jnp.float32)
    shape = (geometry.n_views, geometry.n_detectors)
    if sinogram.ndim not in (2, 3) or sinogram.shape[-2:] != shape:
        raise UsageError(f"this geometry's sinogram is {shape}, not {tuple(sinogram.shape)}")
    one = functools.partial(
        reconstruct,
        response=filter_response(geometry, kernel),
        geometry=geometry,
        size=tuple(size),
        pixel_mm=float(pixel_mm),
    )
    return one(sinogram) if sinogram.ndim == 2 else lax.map(one, sinogram)
