"""Whole slices through any network: its padding rule, its last clone; HU in and HU out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import NumericsError
from ldct_jax.hu import Window


def denoise(model: nn.Module, variables: Mapping, x_bhw1):
    """The denoised images (B, H, W, 1), float32, of (B, H, W, 1) in network units; jit-able.

    A model that needs more pixels than the slice has (WGAN-VGG without padding: 8 on each side;
    UNet: sides that divide by 2^levels) says how many in ``inference_padding(height, width)``;
    the slice is continued by its edge pixels and the result cut back. Networks that return every
    clone give the last one, and skip the outputs of the others where their ``denoise`` can.
    """
    height, width = x_bhw1.shape[1:3]
    rule = getattr(model, "inference_padding", None)
    top, bottom, left, right = rule(height, width) if rule else (0, 0, 0, 0)
    x = x_bhw1
    if top or bottom or left or right:
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
    method = "denoise" if hasattr(type(model), "denoise") else None
    out = model.apply(variables, x, method=method)
    out = out[-1] if out.ndim == 5 else out
    # A network without padding has cut the same number of pixels from each side.
    lost_h, lost_w = (x.shape[1] - out.shape[1]) // 2, (x.shape[2] - out.shape[2]) // 2
    start_h, start_w = top - lost_h, left - lost_w
    return out[:, start_h : start_h + height, start_w : start_w + width].astype(jnp.float32)


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

    def clones(self, variables: dict, hu: np.ndarray) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Every clone's image, batch by batch: (N, H, W) HU → (indices (B,), (T, B, H, W) HU).

        The images, float32, stay on the device; T = 1 for plain networks. The last batch is filled
        up: its last indices are N - 1 again. Raises NumericsError on NaN, a batch later.
        """
        checks, starts = [], range(0, len(hu), self.batch)
        for start, (part, _) in zip(starts, self._parts(hu), strict=True):
            images, is_finite = self._clones(variables, part)
            checks.append(is_finite)
            yield np.minimum(np.arange(start, start + self.batch), len(hu) - 1), images
            # The device has its next batch while this waits for the one before.
            if len(checks) > 1:
                _check(checks.pop(0))
        _check(*checks)

    def _run(self, variables, hu_bhw):
        x = self.window.to_unit(hu_bhw)[..., None]
        return self.window.to_hu(denoise(self.model, variables, x)[..., 0])

    def _run_clones(self, variables, hu_bhw):
        x = self.window.to_unit(hu_bhw)[..., None]
        out = self.model.apply(variables, x)
        if out.ndim == 4:
            out = denoise(self.model, variables, x)[None]
        images = self.window.to_hu(out[..., 0])
        return images, jnp.isfinite(images).all()

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
    _check(np.isfinite(images).all())
    return images


def _check(*are_finite) -> None:
    if not all(are_finite):
        raise NumericsError("the network's output holds NaN or infinite values")
