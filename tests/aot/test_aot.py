"""The programs of the papers compile for GPUs and TPUs that are not here, and what they then say.

Run by ``make test-aot``, in an environment of its own (requirements/aot.sh): jax's compilers for
CUDA and TPUs work without a device. Minutes a program; nothing is timed.
"""

import importlib.util

import jax
import pytest

from tests.aot.rows import ROWS, measure
from tests.aot.targets import TARGETS

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("jax_cuda12_plugin", "libtpu"))),
        reason="the compilers for CUDA and TPUs are missing: make test-aot installs them",
    ),
]

# BatchNorms of each network: two sums forward and two back, and the one sum of the gradients.
BATCH_NORMS = {"DnCNN": 15}
MAX_GIGABYTES = {
    "PCN, H100, bfloat16": 10.3,
    "PCN, H100": 20.6,
    "DRL, H100": 4.55,
    # One read, one write and the kernels.
    "2 layers, Pallas, H100, bfloat16": 0.07,
    "4 layers, Pallas, H100, bfloat16": 0.07,
}
# Of a step, without what a call of 256 steps does once.
MAX_LAUNCHES = {"PCN, H100, bfloat16": 280, "2 layers, Pallas, H100, bfloat16": 4}


@pytest.fixture(autouse=True)
def nothing_compiled_is_kept():
    """All programs together would fill 16 GB."""
    yield
    jax.clear_caches()


@pytest.mark.promise("aot")
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_program_compiles_and_does_what_was_counted(row):
    found, target = measure(row), TARGETS[row.target]
    assert 0 < found["memory_gb"] < target.memory_gb
    assert not found["host"]
    if target.platform == "cuda":
        assert found["giant_windows"] == []
        assert found["gigabytes"] <= MAX_GIGABYTES.get(row.name, float("inf"))
        assert found["launches"] - found["once_a_call"] <= MAX_LAUNCHES.get(row.name, float("inf"))
    else:
        assert found["mega_cycles"] > 0
    if row.what == "projector" or row.is_chain:
        return
    # The layers that read the image; in bfloat16 its high and low parts stand for them.
    assert (found["highest"] > 0) == (row.dtype != "bfloat16")
    is_training = row.what not in ("whole slices", "artefact")
    several = row.target[0].isdigit()
    if is_training and several:
        assert found["all_reduces"] == 4 * BATCH_NORMS.get(row.what, 0) + 1
