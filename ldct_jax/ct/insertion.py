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

from ldct_jax.ct.dose import slice_keys
from ldct_jax.ct.fbp import Kernel, filter_response, named_kernel, reconstruct
from ldct_jax.ct.geometry import FanBeam, Geometry
from ldct_jax.ct.projector import forward_project
from ldct_jax.errors import UsageError

MU_WATER = 0.019  # 1/mm, near 70 keV
LEAST_PHOTONS = 1.0  # ε: what a detector element reports at least
ELECTRONIC_VARIANCE = 10.0  # N_e in photons²


@dataclasses.dataclass(frozen=True)
class Bowtie:
    """A bow-tie filter: a water-equivalent thickness that grows away from the central ray.

    It equals the missing water of a cylinder of ``radius_mm`` at the rotation centre, up to
    ``most_mm``: rays at the edge meet few photons, so that a patient of that size is evenly lit.
    N₀ is the number on the central ray.
    """

    radius_mm: float = 140.0
    most_mm: float = 200.0

    def transmission(self, geometry: Geometry) -> np.ndarray:
        """(D,) or (V, D) share of N₀, in (0, 1]."""
        _, s = geometry.rays()
        chord = 2 * np.sqrt(np.maximum(self.radius_mm**2 - s[0] ** 2, 0.0))
        thickness = np.minimum(2 * self.radius_mm - chord, self.most_mm)
        return np.exp(-MU_WATER * (thickness - thickness.min())).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Scan:
    """How projections are taken and reconstructed; what a simulated pair records.

    Args:
      n0: photons per ray at normal dose before the patient (on the central ray with a bow-tie).
      electronic_variance: N_e, variance of the electronic noise in photons² (0: none).
      kernel, cutoff_per_mm: of the reconstruction of the noise, or of the whole image.
      bowtie: None for equal N₀ on all rays.
      mu_water: attenuation of water, 1/mm.
    """

    n0: float
    electronic_variance: float = ELECTRONIC_VARIANCE
    kernel: str | Kernel = "smooth"
    cutoff_per_mm: float | None = None
    geometry: Geometry = FanBeam()
    bowtie: Bowtie | None = None
    mu_water: float = MU_WATER

    def __post_init__(self):
        if not (np.isfinite(self.n0) and self.n0 > 0):
            raise UsageError(f"n0={self.n0}: a positive number of photons a ray")
        if not self.electronic_variance >= 0 or not self.mu_water > 0:
            raise UsageError(
                f"electronic_variance={self.electronic_variance}, mu_water={self.mu_water}: the "
                "first must not be negative, the second be positive"
            )
        named_kernel(self.kernel, self.cutoff_per_mm)

    def photons(self):
        """(D,) or () photons a ray at normal dose before the patient."""
        share = 1.0 if self.bowtie is None else self.bowtie.transmission(self.geometry)
        return jnp.asarray(self.n0 * share, jnp.float32)

    def program(self) -> Scan:
        """What a compiled program depends on: all but the photons' number and the kernel."""
        return dataclasses.replace(self, n0=1.0, kernel="smooth", cutoff_per_mm=None)

    def response(self) -> np.ndarray:
        """The reconstruction's filter (F,), see :func:`ldct_jax.ct.fbp.filter_response`."""
        return filter_response(self.geometry, self.kernel, self.cutoff_per_mm)

    def record(self, *, dose: float, seed: int, domain: str = "projection") -> dict:
        """Everything that makes a pair, as JSON-able values, for a store or a report."""
        kernel = named_kernel(self.kernel, self.cutoff_per_mm)
        return {
            "domain": domain,
            "dose": dose,
            "seed": seed,
            "n0": self.n0,
            "electronic_sd": self.electronic_variance**0.5,
            "kernel": dataclasses.asdict(kernel),
            "geometry": type(self.geometry).__name__,
            **{f"geometry.{k}": v for k, v in dataclasses.asdict(self.geometry).items()},
            "bowtie": None if self.bowtie is None else dataclasses.asdict(self.bowtie),
            "mu_water_per_mm": self.mu_water,
        }


def line_integrals(hu, geometry: Geometry, pixel_mm: float, mu_water: float = MU_WATER):
    """p of slices in HU: (H, W) → (V, D) or (N, H, W) → (N, V, D). Values below −1000 are air."""
    mu = mu_water * jnp.maximum(1 + jnp.asarray(hu, jnp.float32) / 1000, 0.0)
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
    full, keys = _stack(full_hu, dose, seed, first_slice)
    noise = _reconstruct(full, keys, dose, scan, pixel_mm, "added")
    low = full + noise * np.float32(1000 / scan.mu_water)
    return low.reshape(np.shape(full_hu))


def simulate_scan(
    hu, *, seed: int, dose: float, scan: Scan, pixel_mm: float, first_slice: int = 0
) -> np.ndarray:
    """A whole scan of ``hu`` (noise-free anatomy) at ``dose``, reconstructed: same shape, HU.

    Unlike insertion the result has the scan's kernel and, at dose 1, the normal dose's noise.
    """
    full, keys = _stack(hu, dose, seed, first_slice)
    mu = _reconstruct(full, keys, dose, scan, pixel_mm, "scan")
    return ((mu / scan.mu_water - 1) * 1000).astype(np.float32).reshape(np.shape(hu))


def reconstruct_scan(hu, *, scan: Scan, pixel_mm: float) -> np.ndarray:
    """Noise-free projection and reconstruction of ``hu``: the mean of ``simulate_scan``."""
    full, keys = _stack(hu, 1.0, 0, 0)
    mu = _reconstruct(full, keys, 1.0, scan, pixel_mm, "exact")
    return ((mu / scan.mu_water - 1) * 1000).astype(np.float32).reshape(np.shape(hu))


def _added_noise(p, key, dose, photons, scan: Scan):
    """p_B − p_A of one sinogram."""
    z = jax.random.normal(key, p.shape)
    sd = noise_sd(p, dose, photons, scan.electronic_variance)
    # N = N_B (1 − z·sd), the same to first order, but it can't fall below ε.
    least = LEAST_PHOTONS / (dose * photons) * jnp.exp(p)
    return -jnp.log(jnp.maximum(1 - z * sd, jnp.minimum(least, 1.0)))


def _measured(p, key, dose, photons, scan: Scan):
    """The line integrals that a noisy scan yields."""
    quanta, electronic = jax.random.split(key)
    entering = dose * photons
    n = jax.random.poisson(quanta, entering * jnp.exp(-p)).astype(jnp.float32)
    n = n + scan.electronic_variance**0.5 * jax.random.normal(electronic, p.shape)
    return -jnp.log(jnp.maximum(n, LEAST_PHOTONS) / entering)


_SINOGRAMS = {"added": _added_noise, "scan": _measured, "exact": lambda p, *_: p}


def _reconstruct(full, keys, dose, scan: Scan, pixel_mm: float, what: str) -> np.ndarray:
    """The sinogram ``what`` of every slice, reconstructed: (N, H, W) HU → (N, H, W), 1/mm."""
    program = scan.program()
    return np.asarray(
        _compiled(full, keys, dose, scan.n0, scan.response(), program, float(pixel_mm), what)
    )


@functools.partial(jax.jit, static_argnames=("scan", "pixel_mm", "what"))
def _compiled(full, keys, dose, n0, response, scan: Scan, pixel_mm: float, what: str):
    """``dose``, ``n0`` and the filter are traced: one compiled program serves all of them."""
    photons = n0 * scan.photons()

    def one(hu_and_key):
        hu, key = hu_and_key
        p = line_integrals(hu, scan.geometry, pixel_mm, scan.mu_water)
        sinogram = _SINOGRAMS[what](p, key, dose, photons, scan)
        return reconstruct(sinogram, response, scan.geometry, hu.shape, pixel_mm)

    return lax.map(one, (full, keys))


def _stack(hu, dose, seed, first_slice):
    full = np.asarray(hu, np.float32)
    if full.ndim not in (2, 3):
        raise UsageError(f"a slice (H, W) or a stack (N, H, W), not {full.shape}")
    if not 0 < dose <= 1:
        raise UsageError(f"dose={dose}: a fraction of the normal dose in (0, 1]")
    full = full.reshape(-1, *full.shape[-2:])
    return full, slice_keys(seed, len(full), first_slice)
