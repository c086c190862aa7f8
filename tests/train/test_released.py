"""A released model: one file, the same function, and never silently another one."""

import json

import numpy as np
import pytest

import ldct_jax
from ldct_jax.errors import CheckpointError
from ldct_jax.train import released
from ldct_jax.train.checkpoint import load_model
from tests.tiny import experiment, feeder, train

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(experiment(epochs=1), feeder(), folder)
    return folder


def test_the_file_is_the_checkpoints_function(run, tmp_path):
    model, variables, window, meta = load_model(run)
    path = tmp_path / "small.npz"
    released.write(path, variables, {**meta, "command": "make train DATA=/home/somebody"})
    again, _, its_window, its_meta = load_model(path)
    assert (again, its_window) == (model, window)
    assert its_meta["record"] == meta["record"] and len(its_meta["digest"]) == 64
    assert b"somebody" not in path.read_bytes()
    hu = np.random.default_rng(0).normal(0, 300, (2, 40, 40)).astype(np.float32)
    np.testing.assert_array_equal(ldct_jax.load(path)(hu), ldct_jax.load(run)(hu))


def test_every_flipped_byte_that_matters_is_noticed(run, tmp_path):
    _, variables, _, meta = load_model(run)
    path = tmp_path / "small.npz"
    released.write(path, variables, meta)
    data, rng = path.read_bytes(), np.random.default_rng(1)
    good = released.read(path)
    for at in rng.choice(len(data), 60, replace=False):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            arrays, found = released.read(path)
        except CheckpointError as error:
            assert "small.npz" in str(error)
            continue
        # A date or an attribute in the archive's directory: nothing that computes.
        assert found == good[1]
        np.testing.assert_equal(arrays, good[0])
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"small\.npz"):
        released.read(path)


def test_a_changed_record_and_a_foreign_format_are_refused(run, tmp_path):
    _, variables, _, meta = load_model(run)
    path = tmp_path / "small.npz"
    released.write(path, variables, meta)
    with np.load(path) as file:
        arrays = dict(file)
    said = json.loads(arrays["meta"].tobytes())
    for change, words in (
        ({"record": {**said["record"], "window": None}}, "not what was released"),
        ({"format": 2}, "newer"),
    ):
        text = json.dumps({**said, **change}).encode()
        np.savez(path, **{**arrays, "meta": np.frombuffer(text, np.uint8)})
        with pytest.raises(CheckpointError, match=words):
            released.read(path)
