"""Low dose in the projection domain: noise of the photons' number, reconstructed.

Two ways, both of dose a with N₀ photons a ray before the patient:

* :func:`insert_projection_domain` reconstructs the **added noise** alone and adds it to the image,
  which keeps the image's own kernel, artefacts and noise:
  p_B = p_A + sqrt((1−a)/a · e^{p_A}/N₀ · (1 + (1+a)/a · N_e · e^{p_A}/N₀)) · N(0, 1).
* :func:`simulate_scan` draws N ~ Poisson(a·N₀·e^{−p}) + N(0, N_e) and reconstructs the whole image
  with the kernel asked for.

Rays that hardly any photon survives ("starved") carry p_B = −ln(max(N, ε)/(a·N₀)) in both.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldct_jax.ct.fbp import SMOOTH, Kernel, filter_response, reconstruct
from ldct_jax.ct.geometry import FanBeam
from ldct_jax.ct.projector import forward_project
from ldct_jax.errors import UsageError

MU_WATER = 0.019  # 1/mm, near 70 keV
MIN_PHOTONS = 1.0  # ε: what a detector element reports at least
ELECTRONIC_VARIANCE = 10.0  # N_e in photons²


@dataclasses.dataclass(frozen=True)
class Scan:
    """How projections are taken and reconstructed; what a simulated pair records.

    Args:
      n0: photons a ray at normal dose before the patient, equal on all rays.
      electronic_variance: N_e, variance of the electronic noise in photons² (0: none).
      kernel: of the reconstruction of the noise, or of the whole image.
    """

    n0: float
    electronic_variance: float = ELECTRONIC_VARIANCE
    kernel: Kernel = SMOOTH
    geometry: FanBeam = FanBeam()

    def __post_init__(self):
        if not (np.isfinite(self.n0) and self.n0 > 0):
            raise UsageError(f"n0={self.n0}: a positive number of photons a ray")
        if not self.electronic_variance >= 0:
            raise UsageError(f"electronic_variance={self.electronic_variance}: not negative")

    def record(self, *, dose: float, seed: int) -> dict:
        """Everything that makes a pair, as JSON-able values, for a store or a report."""
        return {
            "domain": "projection",
            "dose": dose,
            "seed": seed,
            "n0": self.n0,
            "electronic_sd": self.electronic_variance**0.5,
            "kernel": dataclasses.asdict(self.kernel),
            "geometry": type(self.geometry).__name__,
            **{f"geometry.{k}": v for k, v in dataclasses.asdict(self.geometry).items()},
            "mu_water_per_mm": MU_WATER,
        }


def line_integrals(hu, geometry: FanBeam, pixel_mm: float):
    """p of slices in HU: (H, W) → (V, D) or (N, H, W) → (N, V, D). Values below −1000 are air."""
    mu = MU_WATER * jnp.maximum(1 + jnp.asarray(hu, jnp.float32) / 1000, 0.0)
    return forward_project(mu, geometry, pixel_mm)


def noise_sd(p, dose, photons, electronic_variance):
    """SD of the noise that ``dose`` adds to line integrals ``p``, any shape (the formula above)."""
    thinned = jnp.exp(p) / photons
    quanta = (1 - dose) / dose * thinned
    return jnp.sqrt(quanta * (1 + (1 + dose) / dose * electronic_variance * thinned))


def insert_projection_domain(
    full_hu, *, seed: int, dose: float, scan: Scan, pixel_mm: float, first_slice: int = 0
) -> np.ndarray:
    """Low-dose slices from normal-dose ones by adding reconstructed noise, any dose in (0, 1].

    (N, H, W) or (H, W) HU → the same shape, float32 HU. Slice i's noise depends on ``seed`` and
    ``first_slice`` + i alone (and on its pixels). Dose 1 returns the image.
    """
    noise = _reconstruct(_added_noise, full_hu, seed, dose, scan, pixel_mm, first_slice)
    return np.asarray(full_hu, np.float32) + noise * np.float32(1000 / MU_WATER)


def simulate_scan(
    hu, *, seed: int, dose: float, scan: Scan, pixel_mm: float, first_slice: int = 0
) -> np.ndarray:
    """A whole scan of ``hu`` (noise-free anatomy) at ``dose``, reconstructed: same shape, HU.

    Unlike insertion the result has the scan's kernel and, at dose 1, the normal dose's noise.
    """
    mu = _reconstruct(_measured, hu, seed, dose, scan, pixel_mm, first_slice)
    return ((mu / MU_WATER - 1) * 1000).astype(np.float32)


def _added_noise(p, key, dose, n0, electronic_variance):
    """p_B − p_A of one sinogram."""
    z = jax.random.normal(key, p.shape)
    sd = noise_sd(p, dose, n0, electronic_variance)
    # N = N_B (1 − z·sd), the same to first order, but it can't fall below ε.
    floor = MIN_PHOTONS / (dose * n0) * jnp.exp(p)
    return -jnp.log(jnp.maximum(1 - z * sd, jnp.minimum(floor, 1.0)))


def _measured(p, key, dose, n0, electronic_variance):
    """The line integrals that a noisy scan yields."""
    quanta, electronic = jax.random.split(key)
    entering = dose * n0
    n = jax.random.poisson(quanta, entering * jnp.exp(-p)).astype(jnp.float32)
    n = n + electronic_variance**0.5 * jax.random.normal(electronic, p.shape)
    return -jnp.log(jnp.maximum(n, MIN_PHOTONS) / entering)


def _reconstruct(sinogram, hu, seed, dose, scan: Scan, pixel_mm, first_slice) -> np.ndarray:
    """``sinogram`` of every slice, reconstructed: (N, H, W) or (H, W) HU → the same shape, 1/mm."""
    full = np.asarray(hu, np.float32)
    if full.ndim not in (2, 3):
        raise UsageError(f"a slice (H, W) or a stack (N, H, W), not {full.shape}")
    if not 0 < dose <= 1:
        raise UsageError(f"dose={dose}: a fraction of the normal dose in (0, 1]")
    stack = full.reshape(-1, *full.shape[-2:])
    found = _compiled(
        stack,
        _slice_keys(seed, len(stack), first_slice),
        dose,
        jnp.float32(scan.n0),
        filter_response(scan.geometry, scan.kernel),
        sinogram,
        scan.geometry,
        scan.electronic_variance,
        float(pixel_mm),
    )
    return np.asarray(found).reshape(full.shape)


def _slice_keys(seed: int, n: int, first_slice: int):
    """One key a slice, (n, 2) or typed (n,): slice i's depends on (seed, i) alone."""
    key = jax.random.key(seed)
    index = jnp.arange(first_slice, first_slice + n)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


STATIC = ("sinogram", "geometry", "electronic_variance", "pixel_mm")


@functools.partial(jax.jit, static_argnames=STATIC)
def _compiled(
    full, keys, dose, n0, response, sinogram, geometry: FanBeam, electronic_variance, pixel_mm
):
    """``dose``, ``n0`` and the filter are traced: one compiled program serves all of them."""

    def one(hu_and_key):
        hu, key = hu_and_key
        p = line_integrals(hu, geometry, pixel_mm)
        noisy = sinogram(p, key, dose, n0, electronic_variance)
        return reconstruct(noisy, response, geometry, hu.shape, pixel_mm)

    return lax.map(one, (full, keys))
