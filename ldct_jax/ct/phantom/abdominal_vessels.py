"""Aorta, cava and their branches, and the mesentery's fine vessels."""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.phantom.canvas import Canvas, Ellipsoid
from ldct_jax.ct.phantom.vessels import Bundle, chain, moved, smooth_path, tree


class AbdominalVessels:
    """Drawn from ``rng`` around the spine at ``spine_y``.

    ``hilum``: the liver's (3,). ``sinuses``: (side, (3,)) of each kidney. ``a``, ``front``: half
    width of the cavity and y of its front, mm.
    """

    def __init__(self, rng, *, spine_y: float, hilum, sinuses, a: float, front: float):
        self.ys, self.hilum, self.a, self.front = spine_y, hilum, a, front
        self.bend = rng.normal() * 5
        self.radius = rng.uniform(8.5, 12.5)
        self._trunks(rng)
        self.arteries = Bundle(self._unpaired_arteries(rng) + self._renal_arteries(sinuses))
        self.veins = Bundle(self._portal_system(rng) + self._renal_veins(sinuses))
        self._mesentery(rng)

    def _trunks(self, rng):
        ys, bend, r = self.ys, self.bend, self.radius
        way = [(7, ys - 29, 150), (8 + bend, ys - 31, 40), (5 + bend, ys - 32, -60)]
        aorta = smooth_path(rng, [*way, (2, ys - 31, -110)], 8, 1.0)
        self.aorta = Bundle(chain(aorta, r))
        legs = [
            chain([aorta[-1], (side * 18, ys - 30, -140), (side * 40, ys - 22, -190)], 6.0)
            for side in (-1, 1)
        ]
        self.iliac = Bundle([capsule for leg in legs for capsule in leg])
        way = [(-21, ys - 30, 95), (-20, ys - 26, 40), (-22, ys - 25, -50), (-18, ys - 26, -115)]
        self.cava = Bundle(chain(smooth_path(rng, way, 8, 1.0), rng.uniform(8.5, 12)))
        self.plaques = [
            Ellipsoid(
                (7 + bend + r * np.cos(t), ys - 31 + r * np.sin(t), rng.uniform(-100, 80)),
                (2.2, 1.4, 5),
                t + np.pi / 2,
            )
            for t in rng.uniform(0, 2 * np.pi, rng.integers(0, 9))
        ]

    def _unpaired_arteries(self, rng):
        top = np.array([8 + self.bend, self.ys - 30 - self.radius, 20.0])
        superior = [moved(top, -2, -16, -6), moved(top, -4, -22, -45), moved(top, -8, -24, -110)]
        parts = chain([top, *superior], [4, 3.6, 3.2, 2.2])
        celiac = moved(top, 0, 0, 16)
        fork = moved(celiac, 2, -14, -2)
        parts += chain([celiac, fork], 3.8)
        splenic = [
            fork,
            moved(celiac, 30, -10, 4),
            moved(celiac, 60, 8, 8),
            (0.72 * self.a, 16, 46),
        ]
        parts += chain(smooth_path(rng, splenic, 6, 2), 2.5)
        hepatic = [fork, moved(celiac, -22, -16, -3), moved(self.hilum, 8, 0, -4)]
        return parts + chain(hepatic, 2.4)

    def _portal_system(self, rng):
        meeting = np.array([-10.0 + self.bend, self.ys - 58, 10])
        way = [moved(meeting, -2, -2, -110), moved(meeting, -1, -1, -50), meeting, self.hilum]
        parts = chain(way, [4.4, 5, 6, 6.2])
        way = [meeting, moved(meeting, 30, -4, 6), moved(meeting, 62, 16, 18)]
        return parts + chain(smooth_path(rng, [*way, (0.70 * self.a, 20, 48)], 6, 2), 3.8)

    def _renal_arteries(self, sinuses):
        parts = []
        for side, centre in sinuses:
            start = (7 + self.bend, self.ys - 30, centre[2] + 10)
            parts += chain([start, moved(centre, -side * 12, 3, 6), centre], 2.4)
        return parts

    def _renal_veins(self, sinuses):
        parts = []
        for side, centre in sinuses:
            # The left one crosses in front of the aorta.
            x, y = (-14.0, self.ys - 26) if side < 0 else (0.0, self.ys - 44)
            start = np.array([x, y, centre[2] + 4])
            parts += chain([start, moved((start + centre) / 2, 0, -3, 2), centre], [5, 4.6, 4.2])
        return parts

    def _mesentery(self, rng):
        root = np.array([0.0, self.ys - 62, -40])
        parts = []
        for _ in range(9):
            way = (rng.uniform(-1, 1), rng.uniform(-1, -0.1), rng.uniform(-0.9, 0.2))
            parts += tree(rng, root, way, 2.6, length=30, min_radius=0.65, wander=0.25)
        for _ in range(24):  # omental and retroperitoneal twigs
            start = (
                rng.uniform(-0.75, 0.75) * self.a,
                rng.uniform(self.front * 0.85, 20),
                rng.uniform(-140, 40),
            )
            parts += tree(rng, start, rng.normal(size=3), 1.6, length=24, min_radius=0.6)
        self.mesentery = Bundle(parts)

    def paint(self, canvas: Canvas, within, hu: dict[str, float]) -> None:
        """All but the mesentery, which lies behind the gut and is painted before it."""
        self.cava.paint(canvas, hu["vein"] - 12, "vessel", grain=3)
        self.veins.paint(canvas, hu["vein"], "vessel", within=within, grain=2)
        self.arteries.paint(canvas, hu["artery"], "vessel", within=within, grain=2)
        if canvas.z > -112:
            self.aorta.paint(canvas, -80, "fat", grow_mm=1.8)
            self.aorta.paint(canvas, 50, "vessel", grow_mm=1.3)
            self.aorta.paint(canvas, hu["artery"], "vessel", grain=3)
        self.iliac.paint(canvas, hu["artery"], "vessel")
        for plaque in self.plaques:
            plaque.paint(canvas, 700, "cortical bone", within=within)
