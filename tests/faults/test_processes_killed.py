"""One of two processes is killed: the other ends with an error, and the restart goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldct_jax.train.checkpoint import load_arrays
from tests import processes
from tests.faults.trainings import log_of

pytestmark = pytest.mark.long
WITHIN_S, EPOCHS = 60, 60

# The command itself, with short calls that save often.
LDCT = """
from ldct_jax.cli import main
from ldct_jax.train import calls, run
calls.MAX_STEPS_PER_CALL, run.SAVE_EVERY_S = 2, 0.1
main()
"""
TRAIN = ("train", "pcn_ablation", "--scale", "smoke", "--variant", "full PCN", "--distributed")


def start(folder: Path) -> list[subprocess.Popen]:
    common = {**os.environ, "PYTHONPATH": str(processes.ROOT), "JAX_PLATFORMS": "cpu"}
    common |= {"ACCEL": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
    settings = ("--set", f"epochs={EPOCHS}", "--out", str(folder / "out"))
    workers = []
    for i, place in enumerate(processes.by_hand(2)):
        with said(folder, i).open("w") as file:
            command = [sys.executable, "-c", LDCT, *TRAIN, *settings]
            workers.append(subprocess.Popen(command, env={**common, **place}, stderr=file))
    return workers


def said(folder: Path, i: int) -> Path:
    return folder / f"stderr{i}"


def end(workers: list[subprocess.Popen]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_process_ends_and_the_restart_goes_on(victim, tmp_path):
    workers = start(tmp_path)
    run = tmp_path / "out" / "full-pcn"
    last = run / "checkpoints" / "last"
    try:
        until = time.monotonic() + 120
        while len([p for p in last.glob("*") if p.name.isdigit()]) < 2:
            assert all(w.poll() is None for w in workers), said(tmp_path, 0).read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.02)
        workers[victim].kill()
        began = time.monotonic()
        code = workers[1 - victim].wait(WITHIN_S)
        took = time.monotonic() - began
    finally:
        end(workers)
    told = said(tmp_path, 1 - victim).read_text()
    print(f"process {victim} killed: the other ended with {code} after {took:.1f} s: {told[-700:]}")
    assert code not in (0, -9)

    saved = int(load_arrays(last)[0]["step"])
    assert 0 < saved < 2 * EPOCHS
    again = start(tmp_path)
    try:
        codes = [worker.wait(200) for worker in again]
    finally:
        end(again)
    assert codes == [0, 0], said(tmp_path, 0).read_text()[-3000:]
    assert f"resumes from step {saved} " in said(tmp_path, 0).read_text()
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 2 * EPOCHS
    steps = [r["step"] for r in log_of(run) if "loss" in r]
    assert steps == list(range(1, 2 * EPOCHS + 1))
