"""Two real processes train as one: gloo between them, each with its share of every batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax.train import loop
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.parallel import DataParallel
from tests import tiny

# Processes that import jax and compile the training: half a minute in all.
pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent.parent

# Eight steps an epoch, then a monitor whose numbers are logged once.
WORKER = """
import sys
import jax
process, port, folder, epochs, batch = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
from pathlib import Path
from ldct_jax.train import loop
from ldct_jax.train.parallel import DataParallel
from tests import tiny

# What a clock decides must not part the processes: here one wants longer calls than the other.
loop.SECONDS_PER_CALL = (0.01, 10.0)[int(process)]
parallel = DataParallel()
assert parallel.n == 2 and parallel.processes == 2 and len(jax.local_devices()) == 1
loop.train(
    tiny.job(epochs=int(epochs)), tiny.feeder(batch=int(batch)), Path(folder), parallel=parallel,
    monitor=lambda variables: {"validation_psnr": float(abs(
        variables["params"]["clone"]["conv1"]["kernel"]).sum())},
)
"""


def two_processes(folder: Path, epochs: int, batch: int = 4) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, (i, port, folder, epochs, batch))],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for worker in workers:
            said = worker.communicate(timeout=240)[1]
            assert worker.returncode == 0, said[-2000:]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def one_process(folder: Path, epochs: int, batch: int = 4) -> None:
    loop.train(
        tiny.job(epochs=epochs),
        tiny.feeder(batch=batch),
        folder,
        parallel=DataParallel(jax.devices()[:1]),
        monitor=lambda variables: {"validation_psnr": 0.0},
    )


def rows(folder: Path) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one(tmp_path):
    two_processes(tmp_path / "two", 2)
    one_process(tmp_path / "one", 2)
    one, two = ([r for r in rows(tmp_path / n) if "loss" in r] for n in ("one", "two"))
    # Each step is logged once, by the first process.
    assert [r["step"] for r in two] == [r["step"] for r in one] == list(range(1, 17))
    assert sum("evaluation" in r for r in rows(tmp_path / "two")) == 2
    np.testing.assert_allclose(
        [r["loss"] for r in two[:10]], [r["loss"] for r in one[:10]], rtol=1e-6
    )
    np.testing.assert_allclose(two[0]["grad_norm"], one[0]["grad_norm"], rtol=1e-5)


def test_the_checkpoint_is_written_once_and_restored_on_one_process(tmp_path):
    two_processes(tmp_path, 1)
    state, meta = load_arrays(tmp_path / "checkpoints" / "last")
    assert int(state["step"]) == 8 and meta["digest"]
    written = list((tmp_path / "checkpoints" / "last" / "8" / "state").glob("ocdbt.process_*"))
    assert [p.name for p in written] == ["ocdbt.process_0"]
    one_process(tmp_path, 2)
    assert int(load_arrays(tmp_path / "checkpoints" / "last")[0]["step"]) == 16
    assert [r["step"] for r in rows(tmp_path) if "loss" in r] == list(range(1, 17))


def test_the_first_gradients_are_those_of_one_process(tmp_path):
    """From Adam's first moment after one step: m = (1 - b1) g."""
    # The whole grid is one batch, so that an epoch is one step.
    two_processes(tmp_path / "two", 1, batch=32)
    one_process(tmp_path / "one", 1, batch=32)
    one, two = (
        load_arrays(tmp_path / n / "checkpoints" / "last")[0]["opt_state"]["0"]["mu"]
        for n in ("one", "two")
    )
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (one, two))
    assert np.abs(a).max() > 0
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
