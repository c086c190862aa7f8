"""SIGKILL at random moments of a training that saves asynchronously: every restart goes on."""

import dataclasses
import random
import re
import time

import pytest

from ldct_jax.train.checkpoint import load_arrays
from tests import tiny
from tests.faults.trainings import assert_same_end
from tests.faults.worker import STEPS_PER_SAVE, job, start


@pytest.mark.promise("resume")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_it_loses_at_most_one_save(kills, tmp_path):
    folder, moments = tmp_path / "killed", random.Random(kills)
    folder.mkdir()
    begun = folder / "begun.txt"
    begun.touch()
    last = folder / "checkpoints" / "last"
    report = []

    def steps() -> list[int]:
        return [int(x) for x in begun.read_text().split()]

    def said(path) -> int:
        found = re.search(r"resumes from step (\d+) \(sha256", path.read_text())
        return int(found[1]) if found else 0

    def resumed_from(path) -> int:
        """The step of a restart: its checkpoint, value by value, had its digests."""
        end = time.monotonic() + 240
        before = len(steps())
        while len(steps()) == before:
            assert process.poll() is None, path.read_text()[-3000:]
            assert time.monotonic() < end, "it never came so far"
            time.sleep(0.01)
        return said(path)

    for kill in range(kills + 1):
        errors = tmp_path / f"stderr{kill}"
        with errors.open("w") as file:
            earlier = steps()
            # The last one is left alone and ends by itself.
            durable = [p for p in last.glob("*") if p.name.isdigit()]
            restored = int(load_arrays(last)[0]["step"]) if durable else 0
            epochs = 1000 if kill < kills else restored // 8 + 1
            process = start(folder, epochs, file)
            try:
                if kill < kills:
                    found = resumed_from(errors)
                    time.sleep(moments.uniform(0, 0.8))
                else:
                    assert process.wait(240) == 0, errors.read_text()[-3000:]
                    found = said(errors)
            finally:
                process.kill()
                process.wait()
        if kill:
            # A save waits for the one before it: only the newest that was begun may be missing.
            assert found == restored
            assert earlier[-1] - found <= STEPS_PER_SAVE
            assert "damaged" not in errors.read_text()
        temporary = [p.name for p in last.glob("*tmp*")]
        assert len(temporary) <= 1, temporary
        report.append((earlier[-1:], found, len(temporary)))
    assert temporary == [] and len(list(last.iterdir())) <= 3
    print(f"(last save begun, restored, temporary folders): {report}")

    whole = dataclasses.replace(job(), epochs=epochs)
    tiny.train(whole, tiny.feeder(), tmp_path / "whole")
    assert_same_end(tmp_path / "whole", folder)
