"""What a benchmark measures: pieces of work, and the cells (one process each) that do them.

A :class:`Group` holds cells that do the same work in different ways; their repeats alternate.
Cells travel to their processes as JSON: the PyTorch ones share no code with this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldct_jax.errors import UsageError

TASKS = ("matrix", "train", "infer", "reach", "epoch")
OURS = "jax"
THEIRS = "torch"

# Name → (class, fields): what both sides build. Both know the classes by these names.
MODELS: dict[str, tuple[str, dict]] = {
    "pcn": ("ClonesNet", {}),
    "pcn_small": ("ClonesNet", {"n_filters": 16, "n_clones": 2, "n_layers": 6}),
    "pcn_tiny": ("ClonesNet", {"n_filters": 4, "n_clones": 2, "n_layers": 4}),
    "redcnn": ("REDCNN", {}),
    "redcnn_tiny": ("REDCNN", {"n_filters": 4, "kernel_size": 3}),
    "dncnn17": ("DnCNN", {"depth": 17}),
    "mapnn": ("MAPNN", {}),
    "scn": ("ClonesNet", {"transfer": "image", "coupled": False, "residual": "incremental"}),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work, the same on every side.

    Args:
      task: ``matrix`` (a square matrix product: the machine's limit), ``train`` (steps on patches),
        ``infer`` (whole slices), ``reach`` (training from the first line of compilation until the
        validation image is better than the undenoised one by ``gain_db``), ``epoch`` (whole
        epochs of ``most_steps`` steps as ``ldct train`` runs them).
      model: a name in :data:`MODELS`.
      batch: patches or slices at once. size: their side, pixels (of the matrices: rows).
      dtype: ``float32`` or ``bfloat16``: what the layers compute in; parameters are float32.
      rate: Adam's learning rate.
      gain_db, most_steps, check_every: for ``reach``; ``most_steps`` also for ``epoch``.
    """

    task: str
    model: str = "pcn"
    batch: int = 1
    size: int = 55
    dtype: str = "float32"
    rate: float = 1e-4
    gain_db: float = 0.0
    most_steps: int = 0
    check_every: int = 0

    def __post_init__(self):
        if self.task not in TASKS or (self.task != "matrix" and self.model not in MODELS):
            raise UsageError(f"no such work: {self.task} of {self.model}")

    @property
    def unit(self) -> str:
        """What the rate counts."""
        return {"infer": "slices/s", "matrix": "TFLOP/s", "reach": "1/s"}.get(
            self.task, "patches/s"
        )

    def __str__(self) -> str:
        if self.task == "matrix":
            return f"{self.size}x{self.size} matrix product, {self.dtype}"
        what = {
            "train": "training step",
            "infer": "inference",
            "reach": "training",
            "epoch": "whole epochs",
        }[self.task]
        return f"{self.model} {what}, batch {self.batch}, {self.size}x{self.size}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to do a piece of work, in a process of its own.

    Args:
      side: :data:`OURS` or :data:`THEIRS`.
      name: the row's label. how: the options of that side's program.
      xla_flags: appended to XLA_FLAGS of the process.
      needs_gpu: without one the row stays, and says that it was not measured.
      prediction: for a lever: what it is expected to change, written before it was measured.
    """

    side: str
    name: str
    work: Work
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    xla_flags: str = ""
    needs_gpu: bool = False
    prediction: str = ""

    def request(self, folder: str, settings: Mapping[str, Any]) -> dict:
        """The JSON that the cell's process reads; ``folder`` holds weights and data."""
        kind, fields = MODELS.get(self.work.model, ("", {}))
        return {
            **dataclasses.asdict(self.work),
            "name": self.work.model,
            "kind": kind,
            "fields": fields,
            "how": dict(self.how),
            "folder": folder,
            **settings,
        }


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells whose repeats alternate; ``name`` is what ``--only`` takes.

    ``repeats``: more than the plan's, where the question is whether two cells differ by a few per
    cent: their ratio is taken repeat by repeat (:func:`ldct_jax.bench.results.paired`).
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    repeats: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """All groups of a run, the most important first, and what they share.

    Args:
      slices, slice_size: the phantoms to train on; the last one is kept for validation.
      repeats: timed repeats of each cell, and the least duration of one, seconds.
      loss_steps: after how many steps from the transplanted weights the loss is noted.
      minutes: the run's time limit; what doesn't fit says so. setup_seconds: what one cell may
        take to be compiled and warm, so that none uses up the time of the others.
    """

    name: str
    groups: tuple[Group, ...]
    slices: int
    slice_size: int
    stride: int = 4
    repeats: int = 5
    repeat_seconds: float = 0.5
    loss_steps: int = 3
    minutes: float = 5.5
    setup_seconds: float = 100.0

    @property
    def settings(self) -> dict:
        """What every cell's process is told besides its work."""
        return {
            "repeat_seconds": self.repeat_seconds,
            "loss_steps": self.loss_steps,
            "stride": self.stride,
        }
