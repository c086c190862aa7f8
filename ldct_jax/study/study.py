"""What a study is: the runs behind a table or figure of a paper, and the page made of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.splits import Split
from ldct_jax.denoise.filters import Gaussian, Identity
from ldct_jax.errors import UsageError
from ldct_jax.metrics.protocols import Protocol, Scores, pcn
from ldct_jax.study.experiment import DEMO, PAPER, Experiment, Scale, scales


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an experiment measures beside the test slices' scores.

    numbers: for JSON. scores: of other images than the denoised ones, by name. images: arrays
    that figures need, kept with the run's samples.
    """

    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tested:
    """What each of an experiment's ``measures`` looks at.

    pairs: the test slices. denoised: (N, H, W) HU, the results. denoise: the denoiser itself,
    (N, H, W) HU → the same. protocol: the study's.
    """

    pairs: PairedSlices
    denoised: np.ndarray
    denoise: Callable[[np.ndarray], np.ndarray]
    protocol: Protocol


FILTERS = {"undenoised": Identity(), "gaussian": Gaussian(1.0)}


@dataclasses.dataclass(frozen=True)
class Study:
    """A table or figure of a paper as runs and a report.

    ``variants``: the runs by name, or a function of the scale's name that gives them. The same runs
    at every scale take what they leave at its default from
    :data:`ldct_jax.study.experiment.SIZES`. ``report``: the blocks of the page
    (:mod:`ldct_jax.report.blocks`); without any it shows a table, curves and images.
    ``protocol`` gives the evaluation protocol for the window of an experiment. ``filters``: the
    rows that aren't trained (filters of :mod:`ldct_jax.denoise.filters`). ``measures``: what the
    test slices' scores don't say (:mod:`ldct_jax.study.measures`). ``data``: (scale, DATA or None)
    → the pairs, where the study's data aren't simply phantoms or DATA. ``split``: the one split by
    named patients, in place of random ones.
    """

    name: str
    variants: Mapping[str, Experiment] | Callable[[str], Mapping[str, Experiment]]
    title: str = ""
    reproduces: str = ""
    scales: Mapping[str, Scale] = dataclasses.field(default_factory=lambda: scales(DEMO, PAPER))
    report: Sequence[Any] = ()
    protocol: Callable[[Any], Protocol] = pcn
    filters: Mapping[str, Any] = dataclasses.field(default_factory=lambda: FILTERS)
    measures: Sequence[Callable[[Tested], Measured]] = ()
    data: Callable[[Scale, str | None], PairedSlices] | None = None
    split: Callable[[PairedSlices], Split] | None = None

    def __post_init__(self):
        if not slug(self.name):
            raise UsageError(f"a study's name needs letters or digits, not {self.name!r}")

    def rows(self, scale: str) -> dict[str, Experiment]:
        """The runs at a scale, by variant. Raises UsageError for a scale that isn't there."""
        if scale not in self.scales:
            raise UsageError(
                f"{self.name} has no scale {scale!r}: use one of {', '.join(self.scales)}"
            )
        fixed = not callable(self.variants)
        rows = dict(self.variants if fixed else self.variants(scale))
        for name, experiment in rows.items():
            if not isinstance(experiment, Experiment):
                raise UsageError(f"{self.name}: {name!r} is {experiment!r}, not an Experiment(...)")
        return {name: e.sized(scale) if fixed else e for name, e in rows.items()}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asks for beside the study itself; everything has a default.

    Args:
      scale: one of the study's scales.
      out: folder of the runs; None for ``runs/NAME``, at the smoke scale ``runs/NAME-smoke``.
      data: DICOM folders, a store, or ``sample``; None for the study's phantoms.
      low: how to simulate the low dose of ``data``; None for LowDose().
      variants: only these; empty for all.
      settings: ``a.b=value`` for the experiments, ``scale.a=value`` for the scale.
      init: a run or checkpoint that the rows it fits start from.
      seeds: trainings of each variant on each split, every one with a seed of its own. More can be
        asked for later in the same folder: those that are finished stay.
      feed: see :mod:`ldct_jax.data.feed.choose`.
      profile: write a jax.profiler trace into each run.
      command: how this was asked for, for the report.
    """

    scale: str = "demo"
    out: Path | None = None
    data: str | Path | None = None
    low: LowDose | None = None
    variants: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    init: Path | None = None
    seeds: int = 1
    feed: str = "auto"
    profile: bool = False
    command: str = "run_study(...) in Python"

    def __post_init__(self):
        if self.seeds < 1:
            raise UsageError(f"seeds={self.seeds}: at least one training of each variant")
        object.__setattr__(self, "out", None if self.out is None else Path(self.out))

    def folder(self, study: Study) -> Path:
        """Where the runs go."""
        smoke = "-smoke" * (self.scale == "smoke")  # a first try is not in the way of the run
        return self.out or Path("runs") / f"{study.name}{smoke}"


def slug(name: str) -> str:
    """A variant's name as a folder's: lower case, letters, digits, ``+`` and ``-``."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")
