"""What tells a sick training from a healthy one: validation, loss spikes, a failing generator."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable

import numpy as np

# A state is good while its validation MSE is at most this times the undenoised images' (6 dB).
WORST_GOOD_FACTOR = 4.0

# A loss is a spike if it is SPIKE_DEVIATIONS standard deviations above the mean of the window.
SPIKE_WINDOW = 128
SPIKE_DEVIATIONS = 6.0


def is_good(numbers: dict) -> bool | None:
    """Whether what a monitor returned belongs to a good state; None where nothing was validated.

    Good: a finite ``validation_psnr``, and a mean squared error not above
    :data:`WORST_GOOD_FACTOR` times that of the undenoised images (``undenoised_psnr``).
    """
    ours, undenoised = numbers.get("validation_psnr"), numbers.get("undenoised_psnr")
    if ours is None:
        return None
    if not math.isfinite(ours):
        return False
    return undenoised is None or ours >= undenoised - 10 * math.log10(WORST_GOOD_FACTOR)


class LossSpikes:
    """Finds losses far above those before them; ``losses``: of the steps before a restart."""

    def __init__(self, losses: Iterable[float] = ()):
        # A ring: this runs at every step of trainings whose steps take a few milliseconds.
        self._window, self._seen = np.zeros(SPIKE_WINDOW), 0
        for loss in deque(losses, maxlen=SPIKE_WINDOW):
            self._add(loss)

    def _add(self, loss: float) -> None:
        self._window[self._seen % SPIKE_WINDOW] = loss
        self._seen += 1

    def deviations(self, loss: float) -> float | None:
        """Standard deviations of ``loss`` above the window's mean where it is a spike, else None.

        The loss then belongs to the window itself: a training that settles on a higher level is
        reported once.
        """
        found = None
        if self._seen >= SPIKE_WINDOW:
            mean = self._window.sum() / SPIKE_WINDOW
            apart = self._window - mean
            sd = math.sqrt(apart @ apart / SPIKE_WINDOW)
            if loss > mean + SPIKE_DEVIATIONS * sd and sd > 0:
                found = float((loss - mean) / sd)
        self._add(loss)
        return found


class Watch:
    """Checks a training's numbers as they arrive and warns on stderr.

    Args:
      name: of the training, for messages.
      gan: its :class:`ldct_jax.train.gan.WassersteinGAN` or None.
      total: steps of the whole training.
      losses: of the steps before a restart.
      quiet: say nothing; for all processes but the first.
    """

    def __init__(self, name: str, gan, total: int, losses: Iterable[float], quiet: bool):
        self._name, self._gan, self._total, self._quiet = name, gan, total, quiet
        self._spikes, self._warned_epoch = LossSpikes(losses), None
        self.good_step: int | None = None
        """The last step whose evaluation was good, see :func:`is_good`."""

    def step(self, step: int, epoch: int, loss: float) -> float | None:
        """:meth:`LossSpikes.deviations` of the loss of ``step``, counted from 1.

        All spikes are in the log; on the terminal the first of an epoch stands for the others.
        """
        spike = self._spikes.deviations(loss)
        if spike is not None and epoch != self._warned_epoch:
            self._warned_epoch = epoch
            self._warn(
                f"the loss of step {step}, {loss:.3g}, is {spike:.1f} standard deviations above "
                f"the mean of the {SPIKE_WINDOW} before it"
            )
        return spike

    def evaluation(self, step: int, numbers: dict) -> None:
        """Judge what the monitor found at ``step``; warn of a generator that makes images worse."""
        ours, undenoised = (numbers.get(k) for k in ("validation_psnr", "undenoised_psnr"))
        comparable = ours is not None and undenoised is not None
        gan = self._gan
        if gan is not None and step > gan.warmup * self._total and comparable and ours < undenoised:
            self._warn(
                f"after {step} steps the generator's validation image ({ours:.2f} dB) is worse "
                f"than the undenoised one ({undenoised:.2f} dB): give the content loss more weight"
            )
        good = is_good(numbers)
        if good:
            self.good_step = step
        elif good is False and self.good_step is not None:
            self._warn(
                f"after {step} steps the validation image ({ours:.2f} dB) is far worse than the "
                f"undenoised one; step {self.good_step} was the last good one"
            )

    def _warn(self, message: str) -> None:
        if not self._quiet:
            print(f"warning: {self._name}: {message}", file=sys.stderr, flush=True)
