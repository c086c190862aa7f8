"""A training as a process of its own that saves after every call, to be killed.

``python -m tests.faults.worker FOLDER EPOCHS``; FOLDER/begun.txt gets the step of every save as it
begins, in one write, so that it survives a SIGKILL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STEPS_PER_SAVE = 2
ROOT = Path(__file__).parent.parent.parent


def start(folder: Path, epochs: int, said) -> subprocess.Popen:
    """Start the worker; what the tests have compiled it finds (tests/conftest.py)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.faults.worker", str(folder), str(epochs)]
    return subprocess.Popen(command, env=environment, stderr=said)


def job():
    """With EMA and augmentation, so that there is more to lose."""
    from tests import tiny

    return tiny.experiment(ema_decay=0.9, augment="dihedral")


def main(folder: str, epochs: str) -> None:
    import dataclasses

    from ldct_jax.train import calls, run
    from ldct_jax.train.checkpoint import Checkpoints
    from tests import tiny

    calls.MAX_STEPS_PER_CALL, run.SAVE_EVERY_S = STEPS_PER_SAVE, 0.0
    begun = os.open(Path(folder) / "begun.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    save = Checkpoints.save

    def noted(self, state, extra=None):
        # A save first waits until the one before it is written; then it goes on in the background.
        save(self, state, extra)
        os.write(begun, f"{int(state.step)}\n".encode())

    Checkpoints.save = noted
    tiny.train(
        dataclasses.replace(job(), epochs=int(epochs)),
        tiny.feeder(),
        Path(folder),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
