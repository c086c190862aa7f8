"""A random thorax: lungs with vessels and airways, heart and great vessels, chest wall.

z = 0 lies at the carina; the heart is largest near -60 mm, the domes near -120, the apices at 90.
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.canvas import WHOLE, Canvas, Capsule, Ellipsoid, waves
from ldct_jax.ct.lesions import LesionKind
from ldct_jax.ct.torso import Habitus, Torso
from ldct_jax.ct.vessels import Bundle, chain, smooth_path, tree


class Thorax:
    """One patient's thorax; everything random is drawn here, ``paint`` is deterministic."""

    z_range = (-100.0, 45.0)
    lesion_kinds = (
        LesionKind("lung", (2.5, 8.0), ((750, 900), (180, 350)), 3),  # solid, ground glass
        LesionKind("liver", (4.0, 12.0), ((-45, -18), (18, 35)), 2),
        LesionKind("heart", (4.0, 8.0), ((-40, -20),), 1),
    )

    def __init__(self, rng: np.random.Generator):
        self.body = body = Habitus.draw(rng, chest=True)
        self.a = a = body.half_width - body.fat[1] - body.wall[1]
        self.front = front = -(body.half_depth - body.fat[0] - body.wall[0])
        k = body.iodine
        self.hu = {
            "artery": 42 + rng.uniform(130, 230) * k,
            "vein": 42 + rng.uniform(100, 220) * k,
            "myocardium": 48 + rng.uniform(40, 65) * k,
            "liver": 57 + 35 * k,
            "spleen": 48 + 45 * k,
            "lung": rng.uniform(-890, -820),
        }
        self.emphysema = rng.uniform(0, 1) ** 3
        self._mediastinum(rng, a, front)
        self._heart(rng, front)
        self._airways(rng)
        self._lung_vessels(rng, a)
        self._wall(rng, a, front)
        self.domes = (
            (Ellipsoid((-0.50 * a, 8, -190), (0.60 * a, 92, 95 + rng.normal() * 8), 0, waves(rng, 0.02)), "liver"),
            (Ellipsoid((0.52 * a, 12, -200), (0.56 * a, 86, 92 + rng.normal() * 8), 0, waves(rng, 0.02)), "spleen"),
        )

    def _mediastinum(self, rng, a, front):
        ys = self.body.spine_y
        breadth = rng.uniform(0.9, 1.15)
        self.middle = (
            Ellipsoid((0, 0.30 * front, 60), (31 * breadth, 46, 75), 0, waves(rng, 0.04)),
            Ellipsoid((0, ys - 40, -30), (32 * breadth, 34, 400), 0, waves(rng, 0.04)),
            Ellipsoid((0, 0.72 * front, -20), (13 * breadth, 34, 130), 0, waves(rng, 0.06)),
            Ellipsoid((-36, -6, -14), (16, 14, 22), 0.3, waves(rng, 0.1)),
            Ellipsoid((38, 0, -8), (15, 14, 22), -0.3, waves(rng, 0.1)),
        )
        arch_z = rng.uniform(24, 36)
        r = self.aorta_radius = rng.uniform(11, 15)
        up = [(-20, 0.42 * front, -50), (-22, 0.40 * front, -15), (-14, 0.34 * front, arch_z - 8)]
        over = [(2, 0.15 * front, arch_z + 4), (20, ys - 52, arch_z)]
        down = [(24, ys - 26, arch_z - 20), (25, ys - 20, -40), (17, ys - 24, -110), (8, ys - 28, -180)]
        path = smooth_path(rng, up + over + down, 6, 0.7)
        radii = np.linspace(1.25 * r, 0.88 * r, len(path))
        self.aorta = Bundle(chain(path, radii))
        self.branches = Bundle(
            [
                c
                for x, y, to in ((-8, 0.28 * front, -26), (3, 0.14 * front, 8), (13, 0.02 * front, 30))
                for c in chain([(x, y, arch_z + 8), (x * 1.2, y - 4, arch_z + 45), (to * 1.3, y - 2, 100)], [6, 4.6, 4.2])
            ]
        )
        self.cava = Bundle(
            chain([(-28, 0.22 * front, -40), (-29, 0.24 * front, 0), (-27, 0.34 * front, 45), (-40, 0.42 * front, 90)], 8.5)
            + chain([(-25, 0.36 * front, 48), (10, 0.50 * front, 56), (38, 0.48 * front, 82)], 6.0)
            + chain([(-26, 2, -118), (-24, 8, -190)], 11.0)
        )
        self.azygos = Bundle(chain([(-8, ys - 22, -180), (-9, ys - 22, 0), (-12, ys - 26, 18), (-24, ys - 52, 24), (-27, 0.24 * front, 16)], 3.6))
        self.oesophagus = Bundle(chain([(6, ys - 34, 100), (3, ys - 32, 20), (6, ys - 34, -60), (16, ys - 42, -140)], 7.0))
        self.lumen = rng.uniform(0, 2.6)
        self.nodes = [
            Ellipsoid((rng.uniform(-28, 26), rng.uniform(0.4 * front, ys - 45), rng.uniform(-30, 45)), tuple(rng.uniform(2.2, 6, 3)), rng.uniform(0, 3))
            for _ in range(rng.integers(5, 12))
        ]

    def _heart(self, rng, front):
        size = rng.uniform(0.88, 1.15)
        y = 0.40 * front
        self.pericardium = Ellipsoid((16, y, -68), (62 * size, 48 * size, 62), 0.42, waves(rng, 0.035), (-0.20, 0.05))
        self.heart = Ellipsoid((16, y, -68), (56 * size, 43 * size, 57), 0.42, waves(rng, 0.03), (-0.20, 0.05))
        self.chambers = (
            (Ellipsoid((44 * size, y + 8, -80), (25 * size, 17 * size, 32), 0.55, waves(rng, 0.06)), "artery"),
            (Ellipsoid((6, y - 19 * size, -78), (30 * size, 14 * size, 38), 0.25, waves(rng, 0.08)), "vein"),
            (Ellipsoid((-30 * size, y + 4, -66), (19 * size, 24 * size, 30), 0.1, waves(rng, 0.08)), "vein"),
            (Ellipsoid((6, y + 32 * size, -48), (29 * size, 15 * size, 24), 0.05, waves(rng, 0.08)), "artery"),
        )
        self.pulmonary = Bundle(
            chain([(12, y - 18, -48), (20, y - 8, -18), (16, y + 10, -6)], [14, 13, 12.5])
            + chain([(16, y + 10, -6), (-14, y + 26, -12), (-40, 2, -16)], [11, 10, 8.5])
            + chain([(16, y + 10, -6), (32, y + 28, 0), (42, 6, -8)], [11, 10, 8.5])
        )
        calcium = rng.integers(0, 6)
        self.coronary = [
            Ellipsoid((rng.uniform(-5, 50), y - rng.uniform(10, 34), rng.uniform(-75, -35)), (1.3, 3.2, 3), rng.uniform(0, 3))
            for _ in range(calcium)
        ]

    def _airways(self, rng):
        ys = self.body.spine_y
        top, carina = (0, ys - 62, 100), np.array([-2.0, ys - 52, 0])
        radius = rng.uniform(7.5, 9.5)
        main = [*chain([top, tuple(carina)], radius)]
        for side, fall in ((-1, -22), (1, -18)):
            hilum = np.array([side * 38, ys - 46, fall])
            main += chain([carina, (carina + hilum) / 2, hilum], [6.8, 6, 5.2])
            for way in ((side, -0.7, 0.9), (side, -0.3, -0.5), (side * 0.4, 0.3, -1)):
                main += tree(rng, hilum, way, 3.4, length=26, least_radius=0.9, shrink=0.72)
        self.airways = Bundle(main)

    def _lung_vessels(self, rng, a):
        ys = self.body.spine_y

        def in_lung(side):
            return lambda p: side * p[0] > 14 and (p[0] / a) ** 2 + (p[1] / (0.72 * a)) ** 2 < 0.98

        parts = []
        for side in (-1, 1):
            for start_z in (-4.0, -16.0, -28.0):
                start = np.array([side * 38, ys - 48 + rng.normal() * 5, start_z])
                for _ in range(4):
                    way = (side * rng.uniform(0.3, 1.2), rng.uniform(-1.2, 1.0), rng.uniform(-1.3, 1.2))
                    parts += tree(
                        rng, start, way, rng.uniform(3.2, 4.4), length=32, least_radius=0.42,
                        inside=in_lung(side), spread=0.7, shrink=0.82,
                    )
        self.lung_vessels = Bundle(parts)

    def _wall(self, rng, a, front):
        b = self.body
        self.pectoral = rng.uniform(7, 14)
        self.scapula_out = a + 0.55 * b.wall[1]
        self.breast = rng.uniform(0, 26) if rng.uniform() < 0.5 else 0.0
        self.breast_parts = [
            Ellipsoid((side * (86 + rng.normal() * 5), -0.84 * b.half_depth, -58), (60, 0.8 * self.breast + 12, 56), side * 0.62, waves(rng, 0.05))
            for side in (-1, 1)
        ]

    # -- painting ----------------------------------------------------------------------------

    def paint(self, canvas: Canvas) -> None:
        body = self.body
        if self.breast > 3:
            for part in self.breast_parts:
                part.paint(canvas, 15, "skin")
                part.paint(canvas, -103, "fat", grow_mm=-2, coarse=10)
                part.paint(canvas, 5, "gland", grow_mm=-0.55 * self.breast, coarse=55)
        torso = Torso(canvas, body)
        self._paint_muscles(canvas, torso)
        within = torso.within
        canvas.paint(WHOLE, within, -98, "fat", coarse=8, grain=5)
        lung = self._lung_share(canvas, torso)
        y = canvas.y / body.half_depth
        posterior = (35 * y).astype(np.float32)  # lungs are denser where they lie on
        holes = -45 * self.emphysema * np.clip(canvas.textures["coarse"], 0, None)
        canvas.paint(WHOLE, lung, self.hu["lung"] + posterior + holes, "lung", fine=26, grain=16, coarse=14)
        self._paint_fissures(canvas, lung)
        self.lung_vessels.paint(canvas, 40 + 0.6 * (self.hu["vein"] - 42), "vessel", within=lung)
        self._paint_centre(canvas, within)
        self._paint_domes(canvas, within)
        torso.paint_spine()
        torso.paint_ribs(top_z=190, last=11, spacing=24.0, slope=120.0)
        self._paint_sternum(canvas)
        torso.paint_table()

    def _lung_share(self, canvas, torso):
        """(H, W) share of lung: the cavity without mediastinum, heart and domes; apices taper."""
        taper = 0.55 * max(canvas.z - 35, 0) + 0.007 * max(canvas.z - 35, 0) ** 2
        share = canvas.soft(-(torso.inside - 2.0 - taper), canvas.pixel_mm)
        solids = [*self.middle, self.pericardium, *(dome for dome, _ in self.domes)]
        column = Ellipsoid((0, self.body.spine_y, 0), (30, 24, 900))
        for solid in [*solids, column]:
            box = solid.box(canvas)
            if box is not None:
                grow = 2.0 if solid in (d for d, _ in self.domes) else 0.0
                share[box] = np.minimum(share[box], 1 - solid.alpha(canvas, box, grow))
        return share.astype(np.float32)

    def _paint_fissures(self, canvas, lung):
        for side, tilt in ((-1, 0.9), (1, 1.05)):
            height = -35 - tilt * (canvas.y + 6) + 0.12 * side * canvas.x
            sheet = np.abs(canvas.z - height) / 1.5
            share = 0.30 * canvas.soft(sheet - 0.45, 1.2) * (side * canvas.x > 20) * lung
            canvas.hu += share * 380

    def _paint_centre(self, canvas, within):
        hu = self.hu
        self.pericardium.paint(canvas, -85, "fat", within=within, coarse=10)
        self.heart.paint(canvas, hu["myocardium"], "heart", within=within, grain=4)
        for chamber, blood in self.chambers:
            chamber.paint(canvas, hu[blood], "vessel", within=within, grain=3)
        for speck in self.coronary:
            speck.paint(canvas, 600, "cortical bone", within=within)
        for node in self.nodes:
            node.paint(canvas, 55, "gland", within=within)
        for vessel, blood in ((self.pulmonary, "vein"), (self.cava, "vein"), (self.azygos, "vein"), (self.branches, "artery"), (self.aorta, "artery")):
            vessel.paint(canvas, 45, "vessel", within=within, grow_mm=1.0)
            vessel.paint(canvas, hu[blood], "vessel", within=within, grain=3)
        self.oesophagus.paint(canvas, 42, "gut wall", within=within)
        if self.lumen > 1:
            self.oesophagus.paint(canvas, -500, "gut gas", within=within, grow_mm=self.lumen - 7)
        self.airways.paint(canvas, 20, "airway", within=within, grow_mm=1.0)
        self.airways.paint(canvas, -980, "airway", within=within, grow_mm=-0.2)

    def _paint_domes(self, canvas, within):
        for dome, organ in self.domes:
            dome.paint(canvas, 50, "muscle", within=within, grow_mm=2.0)
            dome.paint(canvas, self.hu[organ], organ, within=within, grain=3, coarse=2)

    def _paint_muscles(self, canvas, torso):
        body, z = self.body, canvas.z
        texture = {"grain": 1.4 * body.fat_streaks, "coarse": body.fat_streaks}
        outer = torso.ring  # mm inwards from the outer surface of the wall's muscle
        for side in (-1, 1):
            chest = Ellipsoid(
                (side * 74, -body.half_depth + body.fat[0] + 6, 20), (58, self.pectoral, 90), side * 0.42
            )
            chest.paint(canvas, body.muscle_hu, "muscle", **texture)
            back = Ellipsoid(
                (side * 92, 0.62 * body.half_depth, 30), (40, 13, 130), -side * 0.75
            )
            back.paint(canvas, -90, "fat", grow_mm=1.0, within=(outer > -14).astype(np.float32))
            back.paint(canvas, body.muscle_hu, "muscle", within=(outer > -14).astype(np.float32), **texture)
            if z > -70:
                start = (side * 70, 0.76 * body.half_depth, z)
                stop = (side * (112 + 0.12 * z), 0.52 * body.half_depth, z)
                blade = Capsule(start, stop, 2.4, 4.8)
                blade.paint(canvas, 620, "cortical bone")
                blade.paint(canvas, body.bone_density, "spongy bone", grow_mm=-1.4, fine=45)

    def _paint_sternum(self, canvas):
        body = self.body
        y = -(body.half_depth - body.fat[0] - 0.42 * body.wall[0] - 6)
        plate = Ellipsoid((0, y, 10), (17 + 0.05 * canvas.z, 6.5, 110))
        plate.paint(canvas, 480, "cortical bone")
        plate.paint(canvas, 0.8 * body.bone_density, "spongy bone", grow_mm=-1.5, fine=45)
