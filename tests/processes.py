"""Several real processes on this machine that find each other, as under a launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def slurm(n: int) -> list[dict]:
    """The variables that SLURM gives to ``n`` tasks on one node, as far as jax reads them."""
    port = str(free_port())
    return [
        {
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": str(n),
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
            "JAX_COORDINATOR_PORT": port,
        }
        for i in range(n)
    ]


def by_hand(n: int) -> list[dict]:
    """What a user sets where there is no launcher."""
    address = f"localhost:{free_port()}"
    return [
        {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(n),
            "JAX_PROCESS_ID": str(i),
        }
        for i in range(n)
    ]


def run_together(
    arguments: Sequence[str], places: Sequence[Mapping[str, str]], cwd: Path | None = None
) -> list[subprocess.CompletedProcess]:
    """``python ARGUMENTS`` once with each environment, all at the same time, to the end of all."""
    common = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "ACCEL": "cpu"}
    workers = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**common, **place},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    try:
        said = [worker.communicate(timeout=200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [
        subprocess.CompletedProcess(arguments, worker.returncode, *texts)
        for worker, texts in zip(workers, said, strict=True)
    ]
