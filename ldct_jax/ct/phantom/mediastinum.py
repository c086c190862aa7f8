"""Heart, great vessels, airways and what else lies between the lungs."""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.phantom.canvas import Canvas, Ellipsoid, waves
from ldct_jax.ct.phantom.vessels import Bundle, chain, smooth_path, tree


class Mediastinum:
    """Drawn from ``rng`` in front of the spine at ``spine_y``; ``front`` is y of the front wall.

    ``solids``: ellipsoids that the lungs leave free.
    """

    def __init__(self, rng: np.random.Generator, *, spine_y: float, front: float):
        self.ys, self.front = spine_y, front
        breadth = rng.uniform(0.9, 1.15)
        self.solids = [
            Ellipsoid((0, 0.30 * front, 60), (31 * breadth, 46, 75), 0, waves(rng, 0.04)),
            Ellipsoid((0, self.ys - 40, -30), (32 * breadth, 34, 400), 0, waves(rng, 0.04)),
            Ellipsoid((0, 0.72 * front, -20), (13 * breadth, 34, 130), 0, waves(rng, 0.06)),
            Ellipsoid((-36, -6, -14), (16, 14, 22), 0.3, waves(rng, 0.1)),
            Ellipsoid((38, 0, -8), (15, 14, 22), -0.3, waves(rng, 0.1)),
        ]
        self._aorta(rng)
        self._veins()
        self._heart(rng)
        self._airways(rng)
        ys = self.ys
        way = [(6, ys - 34, 100), (3, ys - 32, 20), (6, ys - 34, -60), (16, ys - 42, -140)]
        self.oesophagus = Bundle(chain(way, 7.0))
        self.lumen = rng.uniform(0, 2.6)
        self.nodes = [
            Ellipsoid(
                (rng.uniform(-28, 26), rng.uniform(0.4 * front, ys - 45), rng.uniform(-30, 45)),
                tuple(rng.uniform(2.2, 6, 3)),
                rng.uniform(0, 3),
            )
            for _ in range(rng.integers(5, 12))
        ]

    def _aorta(self, rng):
        ys, front = self.ys, self.front
        top = rng.uniform(24, 36)
        r = rng.uniform(11, 15)
        up = [(-20, 0.42 * front, -50), (-22, 0.40 * front, -15), (-14, 0.34 * front, top - 8)]
        over = [(2, 0.15 * front, top + 4), (20, ys - 52, top), (24, ys - 26, top - 20)]
        down = [(25, ys - 20, -40), (17, ys - 24, -110), (8, ys - 28, -180)]
        path = smooth_path(rng, up + over + down, 6, 0.7)
        self.aorta = Bundle(chain(path, np.linspace(1.25 * r, 0.88 * r, len(path))))
        parts = []
        for x, share, to in ((-8, 0.28, -26), (3, 0.14, 8), (13, 0.02, 30)):
            y = share * front
            way = [(x, y, top + 8), (x * 1.2, y - 4, top + 45), (to * 1.3, y - 2, 100)]
            parts += chain(way, [6, 4.6, 4.2])
        self.branches = Bundle(parts)

    def _veins(self):
        ys, front = self.ys, self.front
        upper = [(-28, 0.22 * front, -40), (-29, 0.24 * front, 0), (-27, 0.34 * front, 45)]
        left = [(-25, 0.36 * front, 48), (10, 0.50 * front, 56), (38, 0.48 * front, 82)]
        lower = [(-26, 2, -118), (-24, 8, -190)]
        self.cava = Bundle(
            chain([*upper, (-40, 0.42 * front, 90)], 8.5) + chain(left, 6.0) + chain(lower, 11.0)
        )
        azygos = [(-8, ys - 22, -180), (-9, ys - 22, 0), (-12, ys - 26, 18), (-24, ys - 52, 24)]
        self.azygos = Bundle(chain([*azygos, (-27, 0.24 * front, 16)], 3.6))

    def _heart(self, rng):
        size = rng.uniform(0.88, 1.15)
        y = 0.40 * self.front

        def shape(centre, radii, angle, wavy, lean=(0.0, 0.0)):
            radii = (radii[0] * size, radii[1] * size, radii[2])
            return Ellipsoid(centre, radii, angle, waves(rng, wavy), lean)

        lean = (-0.20, 0.05)
        self.pericardium = shape((16, y, -68), (62, 48, 62), 0.42, 0.035, lean)
        self.heart = shape((16, y, -68), (56, 43, 57), 0.42, 0.03, lean)
        self.solids.append(self.pericardium)
        self.chambers = (  # left and right ventricle, right and left atrium
            (shape((44 * size, y + 8, -80), (25, 17, 32), 0.55, 0.06), "artery"),
            (shape((6, y - 19 * size, -78), (30, 14, 38), 0.25, 0.08), "vein"),
            (shape((-30 * size, y + 4, -66), (19, 24, 30), 0.1, 0.08), "vein"),
            (shape((6, y + 32 * size, -48), (29, 15, 24), 0.05, 0.08), "artery"),
        )
        fork = (16, y + 10, -6)
        self.pulmonary = Bundle(
            chain([(12, y - 18, -48), (20, y - 8, -18), fork], [14, 13, 12.5])
            + chain([fork, (-14, y + 26, -12), (-40, 2, -16)], [11, 10, 8.5])
            + chain([fork, (32, y + 28, 0), (42, 6, -8)], [11, 10, 8.5])
        )
        self.coronary = [
            Ellipsoid(
                (rng.uniform(-5, 50), y - rng.uniform(10, 34), rng.uniform(-75, -35)),
                (1.3, 3.2, 3),
                rng.uniform(0, 3),
            )
            for _ in range(rng.integers(0, 6))
        ]

    def _airways(self, rng):
        ys = self.ys
        carina = np.array([-2.0, ys - 52, 0])
        parts = chain([(0, ys - 62, 100), tuple(carina)], rng.uniform(7.5, 9.5))
        for side, fall in ((-1, -22), (1, -18)):
            hilum = np.array([side * 38, ys - 46, fall])
            parts += chain([carina, (carina + hilum) / 2, hilum], [6.8, 6, 5.2])
            for way in ((side, -0.7, 0.9), (side, -0.3, -0.5), (side * 0.4, 0.3, -1)):
                parts += tree(rng, hilum, way, 3.4, length=26, min_radius=0.9, shrink=0.72)
        self.airways = Bundle(parts)

    def paint(self, canvas: Canvas, within, hu: dict[str, float]) -> None:
        """``hu``: of artery, vein and myocardium; ``within`` the cavity's (H, W) share."""
        self.pericardium.paint(canvas, -85, "fat", within=within, coarse=10)
        self.heart.paint(canvas, hu["myocardium"], "heart", within=within, grain=4)
        for chamber, blood in self.chambers:
            chamber.paint(canvas, hu[blood], "vessel", within=within, grain=3)
        for speck in self.coronary:
            speck.paint(canvas, 600, "cortical bone", within=within)
        for node in self.nodes:
            node.paint(canvas, 55, "gland", within=within)
        for vessel, blood in (
            (self.pulmonary, "vein"),
            (self.cava, "vein"),
            (self.azygos, "vein"),
            (self.branches, "artery"),
            (self.aorta, "artery"),
        ):
            vessel.paint(canvas, 45, "vessel", within=within, grow_mm=1.0)
            vessel.paint(canvas, hu[blood], "vessel", within=within, grain=3)
        self.oesophagus.paint(canvas, 42, "gut wall", within=within)
        if self.lumen > 1:
            self.oesophagus.paint(canvas, -500, "gut gas", within=within, grow_mm=self.lumen - 7)
        self.airways.paint(canvas, 20, "airway", within=within, grow_mm=1.0)
        self.airways.paint(canvas, -980, "airway", within=within, grow_mm=-0.2)
