"""Painting soft-edged shapes into one slice of a phantom.

A shape is an implicit function f (negative inside). A voxel's share of it is taken from the
change δf of f across the voxel, in the plane and through the slice:
alpha = clip(1/2 - f / δf, 0, 1). That is the partial volume of a plane boundary to first order,
so edges are as soft as pixel size and slice thickness make them, without supersampling.

Coordinates are mm: x to the image's right (the patient's left), y downwards (posterior), z to the
patient's head.
"""

from __future__ import annotations

import dataclasses

import numpy as np

TISSUES = (
    "air",
    "table",
    "skin",
    "fat",
    "muscle",
    "cortical bone",
    "spongy bone",
    "disc",
    "spinal canal",
    "liver",
    "spleen",
    "kidney",
    "pancreas",
    "gut wall",
    "gut content",
    "gut gas",
    "gallbladder",
    "vessel",
    "lung",
    "heart",
    "airway",
    "gland",
)
LABEL = {name: i for i, name in enumerate(TISSUES)}
TEXTURES_MM = {"fine": 0.75, "grain": 1.3, "coarse": 5.0}  # standard deviation of the blur
WHOLE = (slice(None), slice(None))
WARP_WAVES = 5


class Canvas:
    """One slice while it is painted: ``hu`` float32 and ``tissue`` uint8, both (H, W).

    ``textures``: unit-variance fields (H, W) by name, from which paint takes its fine structure.
    ``warp_mm`` bounds the smooth displacement that ``warp(x, y, z)`` gives every shape.
    """

    def __init__(self, size: int, pixel_mm: float, slice_mm: float, z: float, warp, textures):
        axis = ((np.arange(size) - (size - 1) / 2) * pixel_mm).astype(np.float32)
        self.axis, self.pixel_mm, self.slice_mm, self.z = axis, pixel_mm, slice_mm, z
        self.size = size
        self.textures = textures
        self.warp_mm = warp.reach_mm
        self.x, self.y = warp(axis[None, :], axis[:, None], z)
        self.hu = np.full((size, size), -1000.0, np.float32)
        self.tissue = np.zeros((size, size), np.uint8)

    def box(self, cx: float, cy: float, rx: float, ry: float):
        """Index pair of the pixels within rx, ry mm of (cx, cy), or None if there are none."""
        margin = self.warp_mm + 2 * self.pixel_mm
        half = (self.size - 1) / 2

        def span(centre, radius):
            low = int(np.floor((centre - radius - margin) / self.pixel_mm + half))
            high = int(np.ceil((centre + radius + margin) / self.pixel_mm + half)) + 1
            return max(low, 0), min(high, self.size)

        (y0, y1), (x0, x1) = span(cy, ry), span(cx, rx)
        return (slice(y0, y1), slice(x0, x1)) if y0 < y1 and x0 < x1 else None

    def soft(self, f, delta):
        """Partial volume of f < 0, where ``delta`` is f's change across the voxel."""
        return np.clip(0.5 - f / delta, 0.0, 1.0)

    def paint(self, box, alpha, hu: float, label: str, **texture_sd) -> None:
        """Replace the share ``alpha`` of ``box`` by ``hu`` + Σ sd · texture (keyword: sd in HU)."""
        value = hu
        for name, sd in texture_sd.items():
            value = value + sd * self.textures[name][box]
        region = self.hu[box]
        region += alpha * (value - region)
        self.tissue[box][alpha > 0.5] = LABEL[label]


@dataclasses.dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned by ``angle`` in the plane, its outline wavy by ``waves``.

    ``waves``: rows (order k, amplitude, phase, change of phase per radius in z): the radius is
    multiplied by 1 + Σ a cos(kθ + φ + κ z/r_z). ``lean`` shifts the centre per mm of height.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float = 0.0
    waves: tuple[tuple[float, float, float, float], ...] = ()
    lean: tuple[float, float] = (0.0, 0.0)

    def centre_at(self, z: float) -> tuple[float, float]:
        dz = z - self.centre[2]
        return self.centre[0] + self.lean[0] * dz, self.centre[1] + self.lean[1] * dz

    def box(self, canvas: Canvas):
        w = (canvas.z - self.centre[2]) / self.radii[2]
        if abs(w) > 1 + canvas.slice_mm / self.radii[2]:
            return None
        reach = 1 + sum(abs(a) for _, a, _, _ in self.waves)
        c, s = abs(np.cos(self.angle)), abs(np.sin(self.angle))
        rx, ry, _ = self.radii
        return canvas.box(
            *self.centre_at(canvas.z), reach * (c * rx + s * ry), reach * (s * rx + c * ry)
        )

    def field(self, canvas: Canvas, box, grow_mm: float = 0.0):
        """(f, δf) in ``box``: f = ρ - 1 of the ellipsoid grown by ``grow_mm`` (or shrunk)."""
        cx, cy = self.centre_at(canvas.z)
        rx, ry, rz = (max(r + grow_mm, 0.3) for r in self.radii)
        dx, dy = canvas.x[box] - cx, canvas.y[box] - cy
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = (c * dx + s * dy) / rx, (c * dy - s * dx) / ry
        w = (canvas.z - self.centre[2]) / rz
        if self.waves:
            theta = np.arctan2(v, u)
            stretch = np.float32(1)
            for k, amplitude, phase, twist in self.waves:
                stretch = stretch + amplitude * np.cos(k * theta + np.float32(phase + twist * w))
            u, v = u / stretch, v / stretch
        rho = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        in_plane = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) / rho
        through = abs(w) / rz / rho
        delta = canvas.pixel_mm * in_plane + canvas.slice_mm * through + np.float32(1e-4)
        return rho - 1, delta

    def alpha(self, canvas: Canvas, box, grow_mm: float = 0.0):
        return canvas.soft(*self.field(canvas, box, grow_mm))

    def paint(self, canvas: Canvas, hu, label, *, within=None, grow_mm=0.0, **texture_sd) -> None:
        """Paint it, cut to the (H, W) shares ``within`` where those are given."""
        box = self.box(canvas)
        if box is None:
            return
        alpha = self.alpha(canvas, box, grow_mm)
        if within is not None:
            alpha = np.minimum(alpha, within[box])
        canvas.paint(box, alpha, hu, label, **texture_sd)


@dataclasses.dataclass(frozen=True)
class Capsule:
    """A straight piece of vessel or bone from ``start`` to ``end`` (mm), radius r0 to r1."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    r0: float
    r1: float

    def alpha(self, canvas: Canvas, grow_mm: float = 0.0):
        """(box, alpha), or (None, None) where the slice misses it."""
        (ax, ay, az), (bx, by, bz) = self.start, self.end
        r0, r1 = self.r0 + grow_mm, self.r1 + grow_mm
        radius, z, half = max(r0, r1), canvas.z, canvas.slice_mm / 2
        if radius <= 0 or z < min(az, bz) - radius - half or z > max(az, bz) + radius + half:
            return None, None
        # Only the part of the axis near the slice can matter for the box.
        t = np.array([0.0, 1.0])
        if abs(bz - az) > 1e-6:
            reach = radius + half
            t = np.clip(np.sort([(z - reach - az) / (bz - az), (z + reach - az) / (bz - az)]), 0, 1)
        xs, ys = ax + t * (bx - ax), ay + t * (by - ay)
        box = canvas.box(xs.mean(), ys.mean(), radius + np.ptp(xs) / 2, radius + np.ptp(ys) / 2)
        if box is None:
            return None, None
        px, py, pz = canvas.x[box] - ax, canvas.y[box] - ay, z - az
        dx, dy, dz = bx - ax, by - ay, bz - az
        length2 = max(dx * dx + dy * dy + dz * dz, 1e-9)
        t = np.clip((px * dx + py * dy + pz * dz) / length2, 0.0, 1.0)
        nx, ny, nz = px - t * dx, py - t * dy, pz - t * dz
        flat2 = nx * nx + ny * ny
        distance = np.sqrt(flat2 + nz * nz) + np.float32(1e-6)
        delta = (canvas.pixel_mm * np.sqrt(flat2) + canvas.slice_mm * np.abs(nz)) / distance
        delta = np.maximum(delta, 0.5 * canvas.pixel_mm)
        radius_here = r0 + t * (r1 - r0)
        alpha = canvas.soft(distance - radius_here, delta)
        # However thick the slice, what is above or below covers no more than its own width.
        alpha = np.minimum(alpha, canvas.soft(np.sqrt(flat2) - radius_here, canvas.pixel_mm))
        # A vessel thinner than the slice fills only its chord of the slice's thickness.
        thin = min(1.0, 2 * radius / canvas.slice_mm)
        return box, alpha * np.float32(thin) if abs(dz) < 0.5 * length2**0.5 else alpha

    def paint(self, canvas: Canvas, hu, label, *, within=None, grow_mm=0.0, **texture_sd) -> None:
        box, alpha = self.alpha(canvas, grow_mm)
        if box is None:
            return
        if within is not None:
            alpha = np.minimum(alpha, within[box])
        canvas.paint(box, alpha, hu, label, **texture_sd)


@dataclasses.dataclass(frozen=True)
class Tube:
    """A bent tube: spheres of centres ``points`` (P, 3) and ``radii`` (P,), densely overlapping."""

    points: np.ndarray
    radii: np.ndarray

    def field(self, canvas: Canvas):
        """(box, signed distance mm) of the union of spheres, or (None, None)."""
        z_off = canvas.z - self.points[:, 2]
        near = np.abs(z_off) < self.radii + canvas.slice_mm / 2
        if not near.any():
            return None, None
        p, r = self.points[near], self.radii[near]
        low, high = (p[:, :2] - r[:, None]).min(0), (p[:, :2] + r[:, None]).max(0)
        box = canvas.box(*(low + high) / 2, *(high - low) / 2)
        if box is None:
            return None, None
        x, y = canvas.x[box], canvas.y[box]
        distance = np.full(x.shape, 1e3, np.float32)
        for (cx, cy, cz), radius in zip(p.astype(np.float32), r.astype(np.float32), strict=True):
            dz = np.float32(canvas.z) - cz
            np.minimum(
                distance,
                np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + dz * dz) - radius,
                out=distance,
            )
        return box, distance


class Warp:
    """A smooth displacement of a patient's anatomy: a few long sine waves, at most ``reach_mm``."""

    def __init__(self, rng: np.random.Generator, reach_mm: float):
        self.reach_mm = reach_mm
        self._waves = []
        for _ in range(WARP_WAVES):
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            wave = 2 * np.pi / rng.uniform(110, 260) * direction
            move = rng.uniform(-1, 1, 2) * reach_mm / WARP_WAVES
            self._waves.append((wave.astype(np.float32), rng.uniform(0, 2 * np.pi), move))

    def __call__(self, x, y, z):
        dx = dy = np.float32(0)
        for (kx, ky, kz), phase, (mx, my) in self._waves:
            sine = np.sin(kx * x + ky * y + np.float32(kz * z + phase))
            dx, dy = dx + np.float32(mx) * sine, dy + np.float32(my) * sine
        return x + dx, y + dy


def waves(rng: np.random.Generator, strength: float, orders=(2, 3, 4, 5)):
    """Random outline waves for :class:`Ellipsoid`, weaker for higher orders."""
    return tuple(
        (
            k,
            float(rng.normal() * strength / (k - 1)),
            float(rng.uniform(0, 2 * np.pi)),
            float(rng.uniform(-1.2, 1.2)),
        )
        for k in orders
    )
