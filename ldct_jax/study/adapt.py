"""Fine-tune the model that ships on a user's own scans, without any pairs.

Noise of the scans' own spectrum is added to them, and the network inside the model learns to take
all of it away, from targets whose mean has none (:mod:`ldct_jax.data.noise_free_target`): what the
training of the model that ships does. Slices that are held out decide whether the result is better.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from ldct_jax.data.acquisition import joined_ranges
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.mixed_dose import MixedDose, add_mixed_dose
from ldct_jax.data.noise_free_target import NoiseFreeTarget
from ldct_jax.data.noise_units import NOISE, in_noise_units
from ldct_jax.data.pairs import PairedSlices, concatenate
from ldct_jax.data.source import open_store
from ldct_jax.data.store import Store
from ldct_jax.denoise.models import RELEASED, Found, find
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import Window
from ldct_jax.losses import LogMSE, MultiScale, every_clone
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.optim import Adam, Cosine
from ldct_jax.record import to_record
from ldct_jax.study.experiment import Experiment
from ldct_jax.study.held_out import JUDGED_AT, judged, sides, usable
from ldct_jax.system.files import json_sha256, locked
from ldct_jax.system.names import counted
from ldct_jax.train import released
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.run import train
from ldct_jax.train.signals import StopRequest

STEPS = 500
"""With the simulation about ten minutes on two cores."""
PATCHES = Patches(
    size=55, per_slice=22, batch=16, slices_per_patient=None, augment="dihedral_offset"
)
TRAINING = MixedDose(fraction=(0.2, 0.6), thinner_share=0.0, step_mm=0.0, target=NoiseFreeTarget())
MAX_PAIRS = 96
"""To train on; a slice is used several times where there are few, every time with other noise."""
JUDGING = dataclasses.replace(TRAINING, fraction=(JUDGED_AT, JUDGED_AT))


def adapt(
    source: Path,
    out: Path,
    *,
    model: str | None = None,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Adapt a model to the scans at ``source``; write ``out`` where the result is better.

    An interrupted call resumes; until it ends, images and states lie in a hidden folder beside
    ``out``.

    Args:
      source: a folder of DICOM series, or a store; normal dose only, of one matrix size.
      out: the ``.npz`` file to write.
      model: to start from, one that sees images in units of their noise; None for the default.
      steps: of the training.
      say: is told what is done and found, a line each.

    Returns: the record of the adaptation, which ``out`` holds too: ``base``, ``series`` (without
      names), ``steps``, ``score`` and ``better``.

    Raises:
      UsageError: a wrong ``out``, number of steps or model. DataError: scans that won't do.
    """
    source, out = Path(source), Path(out)
    if out.suffix != RELEASED or out.exists():
        raise UsageError(f"OUT={out}: name a new {RELEASED} file")
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder: give one of DICOM series, or a store")
    if source.resolve() in out.resolve().parents:
        raise UsageError(f"OUT={out} lies in SERIES: choose another folder")
    found = find(model)
    base = inside(found)
    work = out.with_name(f".{out.name}.adapting")
    with locked(work), StopRequest().watching() as stop:
        try:
            record, made = _adapted(source, work, found, base, steps, say, stop)
        except (DataError, UsageError):
            shutil.rmtree(work)  # nothing to resume: no images stay behind
            raise
        if record["better"]:
            released.write(out, *made)
        shutil.rmtree(work)
    return record


@dataclasses.dataclass(frozen=True)
class Inside:
    """The network inside a :class:`NoiseScaled`, and the file's ``meta``."""

    scaled: NoiseScaled
    params: dict = dataclasses.field(repr=False)
    meta: dict = dataclasses.field(repr=False)

    @property
    def window(self) -> Window:
        """Of :func:`ldct_jax.data.noise_units.in_noise_units`."""
        return Window(0.0, self.scaled.unit * NOISE)

    def write(self, path: Path) -> None:
        """A file from which a training can start: units of noise in, units of noise out."""
        record = {
            **self.meta["record"],
            "model": to_record(self.scaled.base),
            "window": to_record(self.window),
        }
        released.write(path, {"params": self.params}, {"record": record})


def inside(found: Found) -> Inside:
    """The network inside a model; UsageError for one that sees no units of noise."""
    if found.kind == "checkpoint":
        model, variables, _, meta = load_model(found.path)
        if isinstance(model, NoiseScaled):
            return Inside(model, variables["params"]["base"], meta)
    raise UsageError(
        f"{found.name} doesn't see images in units of their noise: only the model that ships, and "
        "what was adapted from it, can be adapted"
    )


def _adapted(source, work: Path, found: Found, base: Inside, steps: int, say, stop):
    """(record, (variables, meta) of the adapted model)."""
    experiment = Experiment(
        model=base.scaled.base,
        window=base.window,
        # Relative errors on several scales, as the model that ships was trained.
        loss=every_clone(MultiScale(LogMSE(least=0.04), scales=(1, 2, 4, 8))),
        optimizer=Adam(Cosine(3e-4, to=1e-5, warmup=0.02)),
        patches=PATCHES,
        steps=steps,
        ema_decay=0.99,
    )
    opened = open_store(source, cache=work)
    store = usable(opened, PATCHES.size)
    if lacking := len(opened.series) - len(store.series):
        say(f"{lacking} series left out: no flat soft tissue that shows noise")
    for one in store.series:
        thickness = "unknown" if one.slice_mm is None else f"{one.slice_mm:g}"
        say(
            f"{one.kernel or 'unknown kernel'}, {thickness} mm: "
            f"{counted(one.full.shape[0], 'slice')}, noise {one.noise_hu:.1f} HU"
        )
    trained, held_out = sides(store, MAX_PAIRS // 2)
    n = sum(map(len, trained))
    say(f"{counted(n, 'slice')} to train on, {sum(map(len, held_out))} held out")
    # One store for each use of the slices, so that little is lost by an interruption.
    uses = [dataclasses.replace(TRAINING, seed=k) for k in range(-(-MAX_PAIRS // n))]
    noisier = concatenate([_noisier(store, work, use, trained) for use in uses])
    pairs = in_noise_units(noisier)
    judges = _noisier(store, work, JUDGING, held_out)
    height, width = pairs.low_hu.shape[1:]
    # Hardly any air around the body.
    cut = (max(PATCHES.size, height * 3 // 4), max(PATCHES.size, width * 27 // 32))
    record = {
        "experiment": experiment.record(),
        "base": base.meta["digest"],
        "data": {"source": pairs.source, "sha256": pairs.digest()},
    }
    base.write(work / "base.npz")
    outcome = train(
        experiment,
        Resident(pairs.central(*cut), PATCHES, experiment.seed),
        work / f"run-{json_sha256(record)[:16]}",
        record=record,
        parallel=DataParallel(jax.local_devices()[:1]),
        init_from=work / "base.npz",
        stop=stop,
        name="adapting",
    )
    stop.check()
    after = jax.device_get(outcome.variables["params"])
    score = judged(base.scaled, base.params, after, judges)
    name = found.open().name
    adaptation = {
        "base": {"name": name, "sha256": base.meta["digest"]},
        "series": [
            {
                "slices": s.full.shape[0],
                "matrix": list(s.full.shape[1:]),
                "kernel": s.kernel,
                **{k: getattr(s, k) for k in ("slice_mm", "pixel_mm", "kvp", "noise_hu")},
            }
            for s in store.series
        ],
        "steps": outcome.steps,
        "score": dataclasses.asdict(score),
        "better": score.better,
    }
    say(score.text(name))
    old = base.meta["record"]
    new = {
        **old,
        "name": f"{name.removesuffix(' adapted')} adapted",
        "trained_on": joined_ranges(old.get("trained_on"), pairs.trained_on(pairs.patients)),
        "adapted": [*old.get("adapted", ()), adaptation],
    }
    return adaptation, ({"params": {"base": after}}, {"record": new})


def _noisier(store: Store, work: Path, how: MixedDose, only: list[list[int]]) -> PairedSlices:
    key = json_sha256({"how": to_record(how), "only": only, "store": store.digest})[:16]
    return add_mixed_dose(store, work / f"noisier-{key}", how, only).pairs()
