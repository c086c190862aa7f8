"""The scaling model: its bytes are those of the program, its table is that of the documentation."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.speed import scaling
from experiments.speed.rows import MODELS
from experiments.speed.shared import build
from ldct_jax.hu import FULL
from ldct_jax.train import state as train_state
from ldct_jax.train import steps
from ldct_jax.train.mesh import DataParallel
from tests import tiny

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "many_devices.md"


def test_the_bytes_are_those_of_the_programs_all_reduce():
    job, feeder = tiny.experiment(), tiny.feeder()
    optimizer = job.optimizer.build(10, 8)
    parallel = DataParallel(jax.devices()[:2])
    step = steps.supervised(job.model, job.loss, optimizer)
    run = parallel.compile_steps(step, feeder, FULL, "none", 4)
    state = parallel.replicate(train_state.create(job.model, optimizer, 16, 0))
    inputs = feeder.inputs(0, 0, 1, parallel.place)
    text = run.lower(state, inputs, np.int32(0), np.int32(0), np.int32(1)).as_text()
    (length,) = re.findall(r"all_reduce.*?\(tensor<(\d+)xf32>\)", text, re.DOTALL)
    assert 4 * int(length) == scaling.reduced_bytes(job.model)


def test_the_paper_network_moves_three_quarters_of_a_megabyte():
    kind, fields = MODELS["pcn"]
    assert scaling.reduced_bytes(build(kind, fields)) == 4 * (187_921 + 3)


def test_one_device_is_whole_and_more_are_less():
    machine = scaling.Machine()
    found = [scaling.efficiency(1e10, 128, 1e6, n, machine) for n in (1, 8, 64, 512)]
    assert found[0] == 1.0 and found == sorted(found, reverse=True)
    # A formula worked by hand: 2 (7/8) 1e6 / 300e9 + 2 * 3 * 10e-6.
    assert scaling.reduce_s(1e6, 8, machine) == pytest.approx(5.8333e-6 + 60e-6, rel=1e-4)


def test_the_documents_table_is_what_the_model_gives():
    assert scaling.table() in DOCUMENT.read_text()
