"""Whole slices through a network, HU in and HU out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import NumericsError
from ldct_jax.hu import Window
from ldct_jax.models.inference import denoise


class WholeSlices:
    """A network as a compiled function of whole slices; variables are an argument.

    Slices run one at a time on the CPU and eight at a time elsewhere. One program is compiled for
    each image size, whatever the number of slices.
    """

    def __init__(self, model: Any, window: Window, *, batch: int | None = None):
        self.model, self.window = model, window
        self.batch = batch or (1 if jax.default_backend() == "cpu" else 8)
        self._result = jax.jit(self._run)
        self._clones = jax.jit(self._run_clones)

    def __call__(self, variables: dict, hu: np.ndarray) -> np.ndarray:
        """The denoised slices: (N, H, W) HU → (N, H, W) float32 HU. Raises NumericsError on NaN."""
        return self._stream(self._result, variables, hu)

    def clones(self, variables: dict, hu: np.ndarray) -> np.ndarray:
        """Every clone's image: (N, H, W) HU → (T, N, H, W) float32 HU; T = 1 for plain networks."""
        return np.moveaxis(self._stream(self._clones, variables, hu), 1, 0)

    def _run(self, variables, hu_bhw):
        x = self.window.to_unit(hu_bhw)[..., None]
        return self.window.to_hu(denoise(self.model, variables, x)[..., 0])

    def _run_clones(self, variables, hu_bhw):
        x = self.window.to_unit(hu_bhw)[..., None]
        out = self.model.apply(variables, x)
        if out.ndim == 4:
            out = denoise(self.model, variables, x)[None]
        return self.window.to_hu(jnp.moveaxis(out[..., 0], 0, 1))

    def _stream(self, program, variables, hu: np.ndarray) -> np.ndarray:
        outs = []
        for start in range(0, len(hu), self.batch):
            part = np.asarray(hu[start : start + self.batch], np.float32)
            missing = self.batch - len(part)
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            out = np.asarray(program(variables, part))[: self.batch - missing]
            if not np.isfinite(out).all():
                raise NumericsError("the network's output holds NaN or infinite values")
            outs.append(out)
        return np.concatenate(outs)
