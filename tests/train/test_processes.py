"""Two and four real processes train as one: gloo between them, each with its share of a batch."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax.data.feed.grain import GrainFeed
from ldct_jax.data.feed.patches import Patches
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.mesh import DataParallel
from tests import processes, tiny

# Processes that import jax and compile the training: half a minute for each number of them.
pytestmark = pytest.mark.long

# Batches of four: eight steps an epoch, then a monitor whose numbers are logged once. Batches of
# 32: the whole grid is one batch, so that an epoch is one step.
TRAININGS = {
    "resident": {"epochs": 2, "batch": 4},
    "grain": {"epochs": 2, "batch": 4, "grain": True},
    "one-step": {"epochs": 1, "batch": 32},
    "one-epoch": {"epochs": 1, "batch": 4},
}
WORKER = """
import json, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 1)
from ldct_jax.system import accelerator
accelerator.join()
from ldct_jax.data.feed import choose, grain
from ldct_jax.data.feed.patches import Patches
from ldct_jax.errors import LdctError
from ldct_jax.train import calls
from ldct_jax.train.mesh import DataParallel
from tests import tiny
from tests.train import test_processes as t

me, n = jax.process_index(), jax.process_count()
# What a clock decides must not part the processes: here some want longer calls than others.
calls.SECONDS_PER_CALL = (0.01, 10.0)[me % 2]
parallel = DataParallel()
assert parallel.n == parallel.processes == n == int(sys.argv[3]) > len(jax.local_devices())
assert parallel.share([me, "one"]) == [0, "one"] and parallel.share("x" * me) == ""
assert parallel.first(lambda: {"numbers": [0.1, me]}) == {"numbers": [0.1, 0]}


def fails_on_the_last():
    if me == n - 1:
        raise ValueError("here alone")


try:
    parallel.together(fails_on_the_last)
except (LdctError, ValueError) as error:
    assert isinstance(error, ValueError) == (me == n - 1), error
else:
    raise AssertionError("it must fail on all of them")
# One of them has too little memory for the slices: all feed through Grain, or none would go on.
choose.device_memory = lambda: 1 << (40 if me else 10)
patches = Patches(size=16, stride=8, batch=4, slices_per_patient=None)
chosen = choose.make_feed("auto", tiny.pairs(), patches, 3, parallel.columns(4), parallel.agree)
assert type(chosen).__name__ == "GrainFeed"
read, cut = [], grain._Cutter.__getitem__
grain._Cutter.__getitem__ = lambda self, k: read.append(k) or cut(self, k)
for name in sys.argv[2].split(","):
    t.train(Path(sys.argv[1]) / name, parallel, **t.TRAININGS[name])
    # Through Grain each process reads the patches of its own devices, and no others.
    assert len(set(read)) == (32 // n if name == "grain" else 0), len(set(read))
    read.clear()
"""


def train(folder: Path, parallel: DataParallel, *, epochs: int, batch: int, grain: bool = False):
    feeder = tiny.feeder(batch=batch)
    if grain:
        patches = Patches(size=16, stride=8, batch=batch, slices_per_patient=None)
        feeder = GrainFeed(tiny.pairs(), patches, 3, parallel.columns(batch))
    tiny.train(
        tiny.experiment(epochs=epochs),
        feeder,
        folder,
        parallel=parallel,
        monitor=lambda variables: lambda: {"validation_psnr": own_number(variables)},
    )


def own_number(variables) -> float:
    """Another one on every process, and on the others one that falls: all must use the first's."""
    value = float(abs(variables["params"]["clone"]["conv1"]["kernel"]).sum())
    return value if jax.process_index() == 0 else -value


def several(n: int, folder: Path, *names: str) -> None:
    code = ["-c", WORKER, str(folder), ",".join(names), str(n)]
    for done in processes.run_together(code, processes.by_hand(n)):
        assert done.returncode == 0, done.stderr[-2000:]


def rows(folder: Path) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    found = [(r["step"], r["loss"]) for r in rows(folder) if "loss" in r]
    # Each step is logged once, by the first process.
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The trainings by one process."""
    folder = tmp_path_factory.mktemp("one")
    for name, settings in TRAININGS.items():
        train(folder / name, DataParallel(jax.devices()[:1]), **settings)
    return folder


@pytest.fixture(scope="module", params=[2, 4], ids=lambda n: f"{n}-processes")
def many(request, tmp_path_factory) -> Path:
    """The trainings by several processes."""
    folder = tmp_path_factory.mktemp("many")
    several(request.param, folder, *TRAININGS)
    return folder


@pytest.mark.parametrize("feed", ["resident", "grain"])
def test_several_processes_train_as_one(one, many, feed):
    a, b = losses(one / feed), losses(many / feed)
    assert list(a) == list(b) == list(range(1, 17))
    np.testing.assert_allclose(list(b.values())[:10], list(a.values())[:10], rtol=1e-6)
    assert sum("evaluation" in r for r in rows(many / feed)) == 2


def test_the_first_gradients_are_those_of_one_process(one, many):
    """From Adam's first moment after one step: m = (1 - b1) g."""
    trees = (load_arrays(f / "one-step" / "checkpoints" / "last")[0] for f in (one, many))
    a, b = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(t["opt_state"]["0"]["mu"])])
        for t in trees
    )
    assert np.abs(a).max() > 0
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max(), rtol=0)


def test_the_checkpoint_is_written_once_and_restored_on_one_process(many):
    folder = many / "one-epoch"
    state, meta = load_arrays(folder / "checkpoints" / "last")
    assert int(state["step"]) == 8 and meta["digest"]
    written = list((folder / "checkpoints" / "last" / "8" / "state").glob("ocdbt.process_*"))
    assert [p.name for p in written] == ["ocdbt.process_0"]
    train(folder, DataParallel(jax.devices()[:1]), epochs=2, batch=4)
    assert int(load_arrays(folder / "checkpoints" / "last")[0]["step"]) == 16
    a, b = losses(folder), losses(many / "resident")
    assert list(a) == list(b) == list(range(1, 17))
    np.testing.assert_allclose(list(a.values())[8:], list(b.values())[8:], rtol=1e-5)


def test_a_checkpoint_of_one_process_is_restored_on_two(tmp_path, one):
    train(tmp_path / "resident", DataParallel(jax.devices()[:1]), epochs=1, batch=4)
    several(2, tmp_path, "resident")
    a, b = losses(tmp_path / "resident"), losses(one / "resident")
    assert list(a) == list(b) == list(range(1, 17))
    np.testing.assert_allclose(list(a.values())[8:], list(b.values())[8:], rtol=1e-5)
