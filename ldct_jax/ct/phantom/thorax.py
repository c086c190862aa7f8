"""A random thorax: lungs with vessels and airways, heart and great vessels, chest wall.

z = 0 lies at the carina; the heart is largest near -60 mm, the domes near -120, the apices at 90.
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.phantom.canvas import WHOLE, Canvas, Capsule, Ellipsoid, waves
from ldct_jax.ct.phantom.lesions import LesionKind
from ldct_jax.ct.phantom.mediastinum import Mediastinum
from ldct_jax.ct.phantom.torso import Habitus, Torso
from ldct_jax.ct.phantom.vessels import Bundle, tree


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
        front = -(body.half_depth - body.fat[0] - body.wall[0])
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
        self.middle = Mediastinum(rng, spine_y=body.spine_y, front=front)
        self._lung_vessels(rng, a)
        self._wall(rng)
        self.domes = tuple(
            (
                Ellipsoid(centre, (width, depth, 94 + rng.normal() * 8), 0, waves(rng, 0.02)),
                organ,
            )
            for centre, width, depth, organ in (
                ((-0.50 * a, 8, -190), 0.60 * a, 92, "liver"),
                ((0.52 * a, 12, -200), 0.56 * a, 86, "spleen"),
            )
        )

    def _lung_vessels(self, rng, a):
        ys = self.body.spine_y

        def in_lung(side):
            return lambda p: side * p[0] > 14 and (p[0] / a) ** 2 + (p[1] / (0.72 * a)) ** 2 < 0.98

        parts = []
        for side in (-1, 1):
            for start_z in (-4.0, -16.0, -28.0):
                start = np.array([side * 38, ys - 48 + rng.normal() * 5, start_z])
                for _ in range(7):
                    way = (
                        side * rng.uniform(0.3, 1.2),
                        rng.uniform(-1.2, 1.0),
                        rng.uniform(-1.3, 1.2),
                    )
                    parts += tree(
                        rng,
                        start,
                        way,
                        rng.uniform(3.2, 4.4),
                        length=30,
                        min_radius=0.5,
                        inside=in_lung(side),
                        spread=0.75,
                        shrink=0.84,
                        taper=0.985,
                    )
        self.lung_vessels = Bundle(parts)

    def _wall(self, rng):
        b = self.body
        self.pectoral = rng.uniform(7, 14)
        self.breast = rng.uniform(0, 26) if rng.uniform() < 0.5 else 0.0
        x = 0.56 * b.half_width
        y = -b.half_depth * (1 - 0.56**b.power) ** (1 / b.power)  # on the skin
        self.breast_parts = [
            Ellipsoid(
                (side * (x + rng.normal() * 4), y + 4, -58),
                (0.36 * b.half_width, 0.7 * self.breast + 10, 56),
                side * 0.52,
                waves(rng, 0.05),
            )
            for side in (-1, 1)
        ]

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
        canvas.paint(
            WHOLE, lung, self.hu["lung"] + posterior + holes, "lung", fine=26, grain=16, coarse=14
        )
        self._paint_fissures(canvas, lung)
        self.lung_vessels.paint(canvas, 40 + 0.6 * (self.hu["vein"] - 42), "vessel", within=lung)
        self.middle.paint(canvas, within, self.hu)
        self._paint_domes(canvas, within)
        torso.paint_spine()
        torso.paint_ribs(top_z=190, last=11, spacing=24.0, slope=120.0)
        self._paint_sternum(canvas)
        torso.paint_table()

    def _lung_share(self, canvas, torso):
        """(H, W) share of lung: the cavity without mediastinum, heart and domes; apices taper."""
        taper = 0.55 * max(canvas.z - 35, 0) + 0.007 * max(canvas.z - 35, 0) ** 2
        share = canvas.soft(-(torso.inside - 2.0 - taper), canvas.pixel_mm)
        solids = [*self.middle.solids, *(dome for dome, _ in self.domes)]
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

    def _paint_domes(self, canvas, within):
        for dome, organ in self.domes:
            dome.paint(canvas, 50, "muscle", within=within, grow_mm=2.0)
            dome.paint(canvas, self.hu[organ], organ, within=within, grain=3, coarse=2)

    def _paint_muscles(self, canvas, torso):
        body, z = self.body, canvas.z
        texture = {"grain": 1.4 * body.fat_streaks, "coarse": body.fat_streaks}
        height = np.clip((z + 60) / 60, 0.15, 1.0)
        torso.paint_layer(2.35, 0.62, self.pectoral * height, **texture)  # pectoralis
        torso.paint_layer(1.25, 0.95, 0.8 * self.pectoral, **texture)  # latissimus, serratus
        torso.paint_layer(0.72, 0.45, 1.1 * self.pectoral * height, **texture)  # around the scapula
        if z < -70:
            return
        reach = self.a + body.wall[1] + 3.5
        squash = body.half_depth / body.half_width
        for side in (-1, 1):
            inner, outer = 0.36 + 0.001 * z, 0.86 - 0.001 * z
            start, stop = (
                (side * reach * np.sin(t), reach * squash * np.cos(t) + 2.0, z)
                for t in (inner, outer)
            )
            blade = Capsule(start, stop, 1.9, 3.6)
            blade.paint(canvas, 560, "cortical bone")
            blade.paint(canvas, body.bone_density, "spongy bone", grow_mm=-1.3, fine=45)

    def _paint_sternum(self, canvas):
        body = self.body
        y = -(body.half_depth - body.fat[0] - 0.42 * body.wall[0] - 6)
        plate = Ellipsoid((0, y, 10), (17 + 0.05 * canvas.z, 6.5, 110))
        plate.paint(canvas, 480, "cortical bone")
        plate.paint(canvas, 0.8 * body.bone_density, "spongy bone", grow_mm=-1.5, fine=45)
