"""``ldct train --distributed`` under a launcher that jax detects, and where there is none."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from ldct_jax.errors import UsageError
from ldct_jax.system import accelerator
from tests import processes

TRAIN = ("-m", "ldct_jax", "train", "pcn_ablation", "--scale", "smoke", "--variant", "full PCN")


@pytest.mark.core
def test_without_a_launcher_the_way_out_is_named(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORD", "JAX_NUM_P", "JAX_PROC", "KUBERNETES")):
            monkeypatch.delenv(name)
    # In a process of its own: jax must not have been used before.
    code = "from ldct_jax import cli; raise SystemExit(cli.run())"
    done = subprocess.run(
        [sys.executable, "-c", code, *TRAIN[2:], "--distributed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"error: no launcher was recognised .* set JAX_COORDINATOR.*", last)
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UsageError, match="JAX_COORDINATOR_ADDRESS is not set"):
        accelerator.join()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UsageError, match="must be numbers, not two and 0"):
        accelerator.join()


@pytest.mark.long
def test_two_tasks_of_a_slurm_job_make_one_run(tmp_path):
    """Trained, evaluated and reported once; what one process alone would have found."""
    command = [*TRAIN, "--distributed", "--out", "two", "--set", "select=best"]
    done = processes.run_together(command, processes.slurm(2), cwd=tmp_path)
    for process in done:
        assert process.returncode == 0, process.stderr[-2000:]
    assert "".join(process.stdout for process in done).count("report:") == 1
    assert (tmp_path / "two" / "report.html").stat().st_size > 10_000
    study = json.loads((tmp_path / "two" / "study.json").read_text())
    assert study["device"]["count"] == 2 and study["references"]

    (alone,) = processes.run_together(
        [*TRAIN, "--out", "one", "--set", "select=best"], [{}], cwd=tmp_path
    )
    assert alone.returncode == 0, alone.stderr[-2000:]

    def left(name):
        folder = tmp_path / name / "full-pcn"
        rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        result = json.loads((folder / "result.json").read_text())
        return [r["loss"] for r in rows if "loss" in r], result

    (two, two_result), (one, one_result) = left("two"), left("one")
    np.testing.assert_allclose(two[:10], one[:10], rtol=1e-6)
    assert two_result["steps"] == one_result["steps"]
    psnr = [[r["psnr_db"] for r in x["test"][-1]] for x in (two_result, one_result)]
    np.testing.assert_allclose(*psnr, rtol=1e-5)

    # Once more: finished runs are kept, on all processes.
    done = processes.run_together(command, processes.slurm(2), cwd=tmp_path)
    assert [process.returncode for process in done] == [0, 0]
    assert sum("finished before, kept" in process.stderr for process in done) == 1


@pytest.mark.long
def test_what_fails_on_the_first_process_ends_all_with_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    command = [*TRAIN, "--distributed", "--out", "file/runs"]
    done = processes.run_together(command, processes.by_hand(2), cwd=tmp_path)
    assert [process.returncode != 0 for process in done] == [True, True]
    errors = [x for x in done[0].stderr.splitlines() if x.startswith("error:")]
    assert len(errors) == 1 and "can't be written" in errors[0]
    assert "Traceback" not in done[0].stderr
