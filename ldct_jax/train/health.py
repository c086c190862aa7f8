"""What tells a sick training from a healthy one: validation, loss spikes, a failing generator."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable

import numpy as np

from ldct_jax.errors import NumericsError

# A state is good while its validation MSE is at most this times the undenoised images' (6 dB).
WORST_GOOD_FACTOR = 4.0

# A loss is a spike where it stands so many standard deviations above the mean of so many before it.
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
    """Finds losses far above those before them; ``losses`` are the ones of earlier sittings."""

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
        reported once, not for ever.
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


def watch_generator(gan, step: int, total: int, numbers: dict, name: str) -> None:
    """A generator that makes the validation image worse, after its warm-up, is not a denoiser."""
    if gan is None or step <= gan.warmup * total:
        return
    ours, undenoised = (numbers.get(k) for k in ("validation_psnr", "undenoised_psnr"))
    if ours is None or undenoised is None or ours >= undenoised:
        return
    message = (
        f"{name}: after {step} steps the generator's validation image ({ours:.2f} dB) is worse "
        f"than the undenoised one ({undenoised:.2f} dB)"
    )
    if gan.stop_if_worse:
        raise NumericsError(f"{message}: give the content loss more weight")
    warn(message)


def warn(message: str) -> None:
    """A line on stderr, beside the progress."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
