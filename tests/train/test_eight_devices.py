"""Eight virtual devices in one process train as one device, whatever feeds them."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from ldct_jax.data.feed.grain import GrainFeed
from ldct_jax.data.feed.patches import Patches
from ldct_jax.losses import mse
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Constant
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.log import read
from ldct_jax.train.mesh import DataParallel
from tests import processes, tiny

# A process with eight devices that compiles each training several times: a minute.
pytestmark = pytest.mark.long
BATCH = 8  # four steps an epoch


def train(folder, n_devices: int, *, epochs: int, grain: bool = False, batch: int = BATCH, **job):
    """(losses, Adam's first moments) of a training on the first ``n_devices``."""
    parallel = DataParallel(jax.devices()[:n_devices])
    assert parallel.n == n_devices
    feeder = tiny.feeder(batch=batch)
    if grain:
        patches = Patches(size=16, stride=8, batch=batch, slices_per_patient=None)
        feeder = GrainFeed(tiny.pairs(), patches, 3, parallel.columns(batch))
    tiny.train(tiny.experiment(epochs=epochs, **job), feeder, folder, parallel=parallel)
    moments = load_arrays(folder / "checkpoints" / "last")[0]["opt_state"]["0"]["mu"]
    rows = [r for r in read(folder / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in rows] == list(range(1, len(rows) + 1))
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(moments)])
    return np.asarray([r["loss"] for r in rows]), flat


def compare(tmp_path) -> None:
    """What the test asserts, in a process that has eight devices."""
    assert len(jax.devices()) == 8
    networks = {
        "pcn": {},
        # BatchNorm's statistics are those of the whole batch.
        "dncnn": {
            "model": DnCNN(depth=4, n_filters=4),
            "loss": mse,
            "optimizer": Adam(Constant(1e-4)),
        },
    }
    for name, job in networks.items():
        for grain in (False, True):
            at = tmp_path / f"{name}-{grain}"
            one, eight = (train(at / f"{n}", n, epochs=3, grain=grain, **job)[0] for n in (1, 8))
            # Sums in another order: 1.1e-6 after seven steps on one make of processor.
            np.testing.assert_allclose(eight[:10], one[:10], rtol=1e-5, err_msg=f"{name} {grain}")
            # The whole grid is one batch: the moments are those of the first gradients.
            one, eight = (
                train(at / f"step-{n}", n, epochs=1, grain=grain, batch=32, **job)[1]
                for n in (1, 8)
            )
            assert np.abs(one).max() > 0
            np.testing.assert_allclose(eight, one, atol=1e-5 * np.abs(one).max(), rtol=0)
    # Checkpoints know nothing of devices: an epoch on each of 4, 1, 2 and 8.
    for epochs, n in enumerate((4, 1, 2, 8), 1):
        losses = train(tmp_path / "moving", n, epochs=epochs)[0]
    straight = train(tmp_path / "straight", 1, epochs=4)[0]
    assert len(losses) == len(straight) == 16
    np.testing.assert_allclose(losses, straight, rtol=1e-5)


def test_eight_devices_train_as_one_and_checkpoints_move_between_device_counts(tmp_path):
    code = (
        "import sys, jax; from pathlib import Path; jax.config.update('jax_num_cpu_devices', 8);"
        "from tests.train.test_eight_devices import compare; compare(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
