"""An experiment's settings as real objects, the scales it runs at, and overrides from outside."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn

from ldct_jax.data.embedded import Phantoms
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.natural import NaturalImages
from ldct_jax.errors import UsageError
from ldct_jax.hu import FULL, Window
from ldct_jax.losses import every_clone, mse
from ldct_jax.optim import Adam, Cosine
from ldct_jax.record import to_record
from ldct_jax.study.settings import override
from ldct_jax.train.gan import WassersteinGAN

SELECTIONS = ("last", "best")
LENGTHS = ("epochs", "steps")
# Where an experiment doesn't say how long it trains (pcn).
EPOCHS = 60


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training: what is trained, on what, how, and how its result is chosen.

    ``gan``: an adversary beside the loss. ``starts_from``: the variant whose trained parameters
    this one begins with (fine-tuning; the earlier stages of a cascade). ``images``: train on these
    instead of the study's CT. ``select``: the tables use the parameters of the ``last`` epoch, as
    the papers do, or the ``best`` by the validation patient; never one that saw a test patient.
    ``epochs`` or ``steps`` says how long it trains, one of the two (neither: 60 epochs); a number
    of steps doesn't depend on the size of the data.
    """

    model: Any
    loss: Callable = every_clone(mse)
    optimizer: Adam = Adam()
    patches: Patches = Patches()
    window: Window = FULL
    epochs: int | None = None
    seed: int = 0
    ema_decay: float | None = None
    gan: WassersteinGAN | None = None
    starts_from: str | None = None
    images: NaturalImages | None = None
    select: str = "last"
    steps: int | None = None

    def __post_init__(self):
        if self.select not in SELECTIONS:
            raise UsageError(f"select={self.select!r}: use one of {', '.join(SELECTIONS)}")
        if not isinstance(self.model, nn.Module):
            raise UsageError(
                f"model: give a linen module with its settings, such as Mine(), not {self.model!r}"
            )
        if not hasattr(self.optimizer, "build"):
            raise UsageError(
                "optimizer: give Adam(...) of ldct_jax.optim, or for another optimiser of optax a "
                "class of your own with build(steps, steps_per_epoch) (docs/own_network.md)"
            )
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", EPOCHS)
        if self.epochs is not None and self.steps is not None:
            raise UsageError(f"epochs={self.epochs} and steps={self.steps}: give one of the two")
        for name in LENGTHS:
            length = getattr(self, name)
            if length is not None and (not isinstance(length, numbers.Integral) or length < 1):
                raise UsageError(f"{name}={length}: a whole number, at least 1, is needed")

    def but(self, **changes: Any) -> Experiment:
        """A copy with fields changed; names of the model's fields change the model.

        ``steps`` takes the place of ``epochs``, and the other way round.
        """
        if len(given := [name for name in LENGTHS if name in changes]) == 1:
            changes = {**dict.fromkeys(LENGTHS), **{given[0]: changes[given[0]]}, **changes}
        return _changed(self, "model", changes)

    def fit(self, height: int, width: int) -> Experiment:
        """The same for slices of that matrix, pixels: whole slices get its side, and a network
        whose depth follows the side of what it is trained on has its own ``for_side``."""
        patches, model = self.patches.fit(height, width), self.model
        if self.patches.size is None and hasattr(model, "for_side"):
            model = model.for_side(patches.size)
        return dataclasses.replace(self, patches=patches, model=model)

    def with_overrides(self, settings: Iterable[str]) -> Experiment:
        """A copy with ``a.b=value`` settings applied (:mod:`ldct_jax.study.settings`)."""
        changed = self
        for setting in settings:
            name = setting.partition("=")[0].strip()
            if name in LENGTHS:
                # One of the two takes the other's place before its value is read and checked.
                changed = changed.but(**{name: getattr(changed, name) or 1})
            changed = override(changed, setting)
        return changed

    def sized(self, scale: str) -> Experiment:
        """A copy for ``scale``: the fields that are at their defaults become those of SIZES."""
        plain = Experiment(self.model)
        left = {
            f.name
            for f in dataclasses.fields(self)
            if getattr(self, f.name) == getattr(plain, f.name)
        }
        if "epochs" not in left:
            left.discard("steps")
        return self.but(**{k: v for k, v in SIZES.get(scale, {}).items() if k in left})

    def record(self) -> dict:
        """The JSON record from which :func:`ldct_jax.record.from_record` rebuilds this."""
        return to_record(self)


# What an experiment doesn't say: the defaults above at the paper scale, minutes and seconds below.
SIZES = {
    "demo": dict(
        patches=Patches(size=48, stride=16, batch=8, slices_per_patient=None),
        optimizer=Adam(Cosine(1e-3, to=2e-5, warmup=0.05)),
        steps=800,
    ),
    "smoke": dict(patches=Patches(size=24, stride=24, batch=8, slices_per_patient=1), steps=4),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of an experiment: ``demo`` for two cores in minutes, ``paper`` for the protocol.

    Args:
      name: ``demo``, ``paper`` or ``smoke``.
      words: what a reader of the report must know about it.
      phantoms: the embedded data where no ``DATA`` is given.
      repeats: random splits; each has other test patients, and each training its own seed.
      test_patients, validation_patients: how many of each split.
      training_patients: at most so many of the others train; None for all of them.
      leave_one_out: every patient is tested once, in a split of his own, in place of ``repeats``.
      thickness_mm, kernel: only such reconstructions of ``DATA``; None for all.
      one_reconstruction: refuse patients of whom the selection leaves several.
      test_slices: slices of a test patient that are scored, evenly spread; None for all.
      monitor_slices: slices of each validation and test patient looked at during training.
      monitor_every: epochs between such looks, where a training is counted in epochs.
      looks: how many, evenly spread, where it is counted in steps.
      doses: several simulated low doses to be tested, as fractions of the normal dose, in place
        of the data's own one.
      training_doses: those that are trained on; empty for ``doses``.
      dose_rule: how the noise grows with less dose: ``physics`` (SD as 1/√dose) or ``paper``
        (dncnn_dose: SD as 1/dose).
      noise_spectrum: of the noise of those doses: ``sqrt_f_mtf``, as filtered back projection
        leaves it, or ``mtf`` (dncnn_dose).
      max_slices: of each patient of ``DATA`` where the low dose has to be simulated, evenly
        spread; None for all.
      training_crop: (height, width) of the central region that patches are cut from; None for all.
    """

    name: str
    words: str
    phantoms: Phantoms = Phantoms()
    repeats: int = 1
    test_patients: int = 1
    validation_patients: int = 1
    training_patients: int | None = None
    leave_one_out: bool = False
    thickness_mm: float | None = None
    kernel: str | None = None
    one_reconstruction: bool = False
    test_slices: int | None = None
    monitor_slices: int = 1
    monitor_every: int = 1
    looks: int = 10
    doses: tuple[float, ...] = ()
    training_doses: tuple[float, ...] = ()
    dose_rule: str = "physics"
    noise_spectrum: str = "sqrt_f_mtf"
    max_slices: int | None = None
    training_crop: tuple[int, int] | None = None

    @property
    def all_doses(self) -> tuple[float, ...]:
        """Every dose that is needed; empty where the data's own one is used."""
        return tuple(dict.fromkeys((*self.doses, *self.training_doses)))

    def but(self, **changes: Any) -> Scale:
        """A copy with fields changed; names of the phantoms' fields change the phantoms."""
        return _changed(self, "phantoms", changes)


def _changed(value: Any, part: str, changes: dict[str, Any]) -> Any:
    """A copy of ``value``; what isn't one of its fields is one of its ``part``'s."""
    own = {k: v for k, v in changes.items() if k in value.__dataclass_fields__}
    if rest := {k: v for k, v in changes.items() if k not in own}:
        own[part] = dataclasses.replace(own.get(part, getattr(value, part)), **rest)
    return dataclasses.replace(value, **own)


# What most experiments run at; their scripts say in ``words`` what they change.
DEMO = Scale(
    "demo",
    "small networks and minutes of training on random phantoms",
    phantoms=Phantoms(patients=7, slices=4),
    test_patients=2,
    test_slices=2,
    monitor_every=2,
    max_slices=16,
)
PAPER = Scale(
    "paper",
    "the paper's protocol",
    phantoms=Phantoms(patients=10, slices=20, size=512, pixel_mm=0.74),
    validation_patients=0,
    one_reconstruction=True,
)
SMOKE = Scale(
    "smoke",
    "a few steps of tiny networks: it shows only that everything runs",
    phantoms=Phantoms(patients=3, slices=1, size=96, pixel_mm=4.0),
    max_slices=2,
)


def scales(*several: Scale, **shared: Any) -> dict[str, Scale]:
    """Scales by name: those given, and :data:`SMOKE` where none of them is called so.

    shared: changes of all of them, as :meth:`Scale.but` takes them.
    """
    by_name = {s.name: s for s in (*several, SMOKE)} | {s.name: s for s in several}
    return {name: s.but(**shared) for name, s in by_name.items()}
