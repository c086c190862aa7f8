"""A checkpoint as what is exported: one function HU → HU with everything inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.export.card import Card
from ldct_jax.hu import Window
from ldct_jax.models.noise_scaled import SERIES, NoiseScaled
from ldct_jax.models.slice_noise import slice_noise_hu
from ldct_jax.models.whole_slices import denoise
from ldct_jax.train.checkpoint import load_model


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network: module, variables (numpy, plain dicts), window, record, and its name."""

    model: Any
    variables: dict = dataclasses.field(repr=False)
    window: Window
    record: dict = dataclasses.field(repr=False)
    digest: str
    name: str

    @classmethod
    def open(cls, path: Path | str) -> Source:
        """Of a run folder or checkpoint; raises CheckpointError."""
        model, variables, window, meta = load_model(path)
        variables = jax.tree.map(np.asarray, _plain(variables))
        return cls(model, variables, window, meta["record"], meta["digest"], meta["name"])

    def function(self, model: Any = None) -> Callable:
        """(B, H, W) HU → (B, H, W) float32 HU, a pure function with the parameters as constants.

        ``model`` stands for the network where another form of it (a loop twin) is wanted.
        """
        model = self.model if model is None else model
        variables, window = self.variables, self.window

        def denoise_hu(hu_bhw):
            x = window.to_unit(hu_bhw.astype(jnp.float32))[..., None]
            return window.to_hu(denoise(model, variables, x)[..., 0])

        return denoise_hu

    @property
    def takes_noise(self) -> bool:
        """Whether the network keeps a share of the noise, which slices of a series have in common.

        What is exported then is :meth:`with_noise` in place of :meth:`function`.
        """
        return isinstance(self.model, NoiseScaled)

    def with_noise(self, model: Any = None) -> Callable:
        """((B, H, W) HU, the noise of their series) → ((B, H, W) HU, (B,) noise of each slice).

        The noise of the series is a float32 scalar in HU, the median of its slices'; 0 where it
        isn't known: each slice is then one for itself. Slices of which everything is kept are
        returned without computing the network.
        """
        model = self.model if model is None else model
        variables, window = self.variables, self.window

        def denoise_hu(hu_bhw, series_noise_hu):
            x = window.to_unit(hu_bhw.astype(jnp.float32))[..., None]
            noise = slice_noise_hu(x[..., 0])
            of_series = jnp.where(series_noise_hu > 0, series_noise_hu, noise)
            known = {**variables, SERIES: {"noise_hu": of_series[:, None, None, None]}}
            everything = jnp.all(model.share_kept(noise, of_series) >= 1)
            out = jax.lax.cond(everything, lambda x: x, lambda x: denoise(model, known, x), x)
            return window.to_hu(out[..., 0]), noise

        return denoise_hu

    def card(self, kind: str, size: tuple[int, int] | None, **fields) -> Card:
        """The artefact's card; the record's model and window, never its paths."""
        return Card(
            name=self.name,
            kind=kind,
            checkpoint=self.digest,
            model=self.record["model"],
            window_record=self.record["window"],
            trained_record=self.record.get("trained_on"),
            size=size,
            **fields,
        )


def twin_for_onnx(model: Any) -> Any:
    """The same network in float32 with Python loops in place of scans."""
    changes: dict[str, Any] = {}
    if hasattr(model, "loop"):
        changes["loop"] = "python"
    if hasattr(model, "dtype"):
        changes["dtype"] = jnp.float32
    if stages := getattr(model, "stages", None):
        changes["stages"] = tuple(twin_for_onnx(s) for s in stages)
    if base := getattr(model, "base", None):
        changes["base"] = twin_for_onnx(base)
    return model.clone(**changes)


def _plain(tree):
    """FrozenDicts and other mappings as dicts, which jax.export can name."""
    return {k: _plain(v) if hasattr(v, "items") else v for k, v in tree.items()}
