"""Networks with random parameters, as if read from a checkpoint."""

from __future__ import annotations

import jax
import numpy as np

from ldct_jax.export.package import Facts, Score
from ldct_jax.export.source import Source
from ldct_jax.hu import FULL, Window
from ldct_jax.metrics.protocols import PCN
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.record import to_record

RNG = np.random.default_rng(0)


def source_of(model, window=FULL, **record) -> Source:
    """A network with random parameters, as if read from a checkpoint."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[-1].key == "kernel":
            scale = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, scale, leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.1, 0.1)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    record = {"model": to_record(model), "window": to_record(window), **record}
    return Source(model, variables, window, record, "cd" * 32, type(model).__name__)


TRAINED = {"kernels": ["B30f"], "thickness_mm": [1, 3], "dose": [0.25, 0.25]}
SMALL = ClonesNet(n_filters=4, n_clones=2, n_layers=4, final_relu=False)


SCALED = source_of(
    NoiseScaled(SMALL, routine_hu=15.0, mean_px=16.0),
    Window(0.0, 1.0),
    trained_on={"kernels": ["B30f"]},
)
FACTS = Facts(
    data="waves",
    attribution="The Sea",
    model="scaled",
    scores=tuple(
        Score("two patients", method, str(PCN), psnr_db, 0.75, 0.01, PCN.unit)
        for method, psnr_db in (("scaled", 41.25), ("undenoised", 38.5))
    ),
)


def hu_images(*shape) -> np.ndarray:
    return RNG.normal(-300, 500, shape).astype(np.float32)
