"""Whole slices through a network, HU in and HU out."""

from __future__ import annotations

import functools
from collections.abc import Callable
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

    def begin(self, variables: dict, hu: np.ndarray) -> Callable[[], np.ndarray]:
        """What :meth:`__call__` returns, in two steps: the second is a call of what this returns.

        An accelerator gets all slices at once, behind the work that it has and before any that is
        handed over later. On a CPU nothing is gained by that, and each slice waiting would hold its
        memory, so there they are computed in the second step; the variables must be there until
        then.
        """
        if jax.default_backend() == "cpu":
            return functools.partial(self, variables, hu)
        return self._ahead(variables, hu)

    def _ahead(self, variables, hu) -> Callable[[], np.ndarray]:
        outs = [(self._result(variables, part), n) for part, n in self._parts(hu)]
        return lambda: np.concatenate([_finite(out)[:n] for out, n in outs])

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

    def _parts(self, hu: np.ndarray):
        """Batches of one size, the last one filled up, and how many slices of each count."""
        for start in range(0, len(hu), self.batch):
            part = np.asarray(hu[start : start + self.batch], np.float32)
            count = len(part)
            if count < self.batch:
                part = np.concatenate([part, np.repeat(part[-1:], self.batch - count, axis=0)])
            yield part, count

    def _stream(self, program, variables, hu: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [_finite(program(variables, part))[:count] for part, count in self._parts(hu)]
        )


def _finite(images) -> np.ndarray:
    images = np.asarray(images)
    if not np.isfinite(images).all():
        raise NumericsError("the network's output holds NaN or infinite values")
    return images
