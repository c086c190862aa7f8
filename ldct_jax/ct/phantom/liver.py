"""The liver of a phantom: lobes, gallbladder, portal and hepatic veins."""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.phantom.canvas import LABEL, Canvas, Ellipsoid, waves
from ldct_jax.ct.phantom.vessels import Bundle, chain, tree


class Liver:
    """Drawn from ``rng`` into a cavity of half width ``a`` whose front lies at y = ``front`` mm."""

    def __init__(self, rng: np.random.Generator, a: float, front: float, spine_y: float):
        size = rng.uniform(0.9, 1.08)
        self.right_lobe = Ellipsoid(
            (-0.55 * a, -4, 42),
            (0.66 * a * size, 84 * size, 92 * size),
            0.15,
            waves(rng, 0.035),
            (0.05, 0.0),
        )
        self.left_lobe = Ellipsoid(
            (-0.02 * a, 0.60 * front, 58),
            (0.60 * a * size, 28 * size, 46),
            rng.uniform(-0.12, 0.12),
            waves(rng, 0.06),
        )
        # The visceral surface: liver gives way to the gut from the middle and below.
        self.hollow = Ellipsoid(
            (0.22 * a * rng.uniform(0.8, 1.2), 0.12 * front, -14 + rng.normal() * 6),
            (0.66 * a, 0.80 * abs(front), 92 * rng.uniform(0.9, 1.1)),
            rng.uniform(-0.3, 0.1),
            waves(rng, 0.03),
        )
        self.caudate = Ellipsoid((-16, spine_y - 48, 52), (17, 15, 26), 0.4)
        self.gallbladder = Ellipsoid(
            (-0.36 * a, 0.42 * front, rng.uniform(-12, 8)),
            (rng.uniform(11, 17), rng.uniform(13, 19), 26),
            rng.uniform(-0.6, 0.6),
            waves(rng, 0.05),
            (0.2, 0.15),
        )
        fissure = ((-0.16 * a, 0.84 * front, 50), (-0.13 * a, 0.5 * front, 30))
        self.fissure = chain([*fissure, (-0.12 * a, 0.35 * front, 12)], 4.0)
        self.hilum = np.array([-0.24 * a, spine_y - 62, 24.0])
        self.wall_x = -a + 10
        self._trees(rng, np.array([-21, spine_y - 30, 84.0]))

    def _trees(self, rng, cava):
        def branch(start, way, radius, length, inside):
            return tree(rng, start, way, radius, length=length, min_radius=0.7, inside=inside)

        self.portal = Bundle(
            branch(self.hilum, (-1, -0.25, 0.45), 5.6, 30, self._holds)
            + branch(self.hilum, (0.55, -0.9, 0.6), 4.4, 26, self._holds)
        )

        def near_cava(p):
            return self._holds(p) or np.linalg.norm(p - cava) < 40

        ways = ((-1, -0.1, -0.45), (-0.55, -0.9, -0.5), (0.4, -1, -0.4))
        veins = [branch(cava, way, rng.uniform(4, 5.2), 34, near_cava) for way in ways]
        self.hepatic = Bundle([capsule for vein in veins for capsule in vein])

    def _holds(self, p) -> bool:
        """Whether the point p lies 7 mm or more inside one of the large lobes."""
        for lobe in (self.right_lobe, self.left_lobe):
            c, s = np.cos(lobe.angle), np.sin(lobe.angle)
            dx, dy, dz = p - np.asarray(lobe.centre)
            u = np.array([c * dx + s * dy, c * dy - s * dx, dz])
            if np.sum((u / (np.asarray(lobe.radii) - 7)) ** 2) < 1:
                return p[0] > self.wall_x
        return False

    def paint(self, canvas: Canvas, within, hu: dict[str, float]) -> None:
        """``hu``: of liver, vein and hepatic vein; ``within`` the cavity's (H, W) share."""
        texture = {"grain": 3.0, "coarse": 2.5}
        self.left_lobe.paint(canvas, hu["liver"], "liver", within=within, **texture)
        right = within
        box = self.hollow.box(canvas)
        if box is not None:
            right = within.copy()
            right[box] = np.minimum(right[box], 1 - self.hollow.alpha(canvas, box))
        self.right_lobe.paint(canvas, hu["liver"], "liver", within=right, **texture)
        self.caudate.paint(canvas, hu["liver"], "liver", within=within, **texture)
        for part in self.fissure:
            part.paint(canvas, -70, "fat", within=within)
        inside = (canvas.tissue == LABEL["liver"]).astype(np.float32)
        self.portal.paint(canvas, hu["vein"], "vessel", within=inside)
        self.hepatic.paint(canvas, hu["hepatic vein"], "vessel", within=inside)
        self.gallbladder.paint(canvas, 0.6 * hu["liver"], "gut wall", within=within)
        self.gallbladder.paint(canvas, 9, "gallbladder", within=within, grow_mm=-1.2, grain=2)
