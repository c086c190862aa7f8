"""A hundred damaged files: bytes flipped, files cut short or deleted. Nothing is silently wrong."""

from __future__ import annotations

import collections
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.data.store import Store
from ldct_jax.errors import CheckpointError, DataError, LdctError
from ldct_jax.export import card
from ldct_jax.hu import FULL, Window
from ldct_jax.record import to_record
from ldct_jax.train import checkpoint
from ldct_jax.train import state as train_state
from tests import tiny
from tests.data.test_store import make_store

CHECKPOINTS, SPARE, STORES, WEIGHTS = 40, 16, 30, 30
DAMAGE = ("flip", "cut", "delete")


def damage(path: Path, how: str, rng: random.Random) -> None:
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        at = rng.randrange(len(content))
        path.write_bytes(
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        )


def cases(root: Path, where: Path, n: int, seed: int, wanted=lambda file: True):
    """(name, damage, damaged copy of ``root``) ``n`` times, over the files below ``where``."""
    rng = random.Random(seed)
    files = sorted(p.relative_to(root) for p in where.rglob("*") if p.is_file())
    files = [f for f in files if wanted(str(f))]
    for k in range(n):
        copy = root.with_name("damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        file, how = files[k % len(files)], DAMAGE[(k // len(files)) % len(DAMAGE)]
        damage(copy / file, how, rng)
        yield str(file), how, copy


def state(step: int):
    """A state whose every number depends on ``step``."""
    job = tiny.experiment()
    start = train_state.create(job.model, job.optimizer.build(10, 8), 16, step)
    return start.replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("run") / "whole"
    saved = checkpoint.Checkpoints(root / "last", tiny.record(tiny.experiment()))
    states = {step: state(step) for step in (1, 2)}
    for each in states.values():
        saved.save(each)
    saved.close()
    return root, states


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def spare(file: str) -> bool:
    """Orbax keeps dates, types, and what it merged into other files: values need some of it."""
    return "ocdbt.process" in file or file.endswith("_METADATA")


@pytest.mark.core
@pytest.mark.parametrize(
    ("n", "wanted", "always"), [(CHECKPOINTS, lambda f: not spare(f), True), (SPARE, spare, False)]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    two_checkpoints, caplog, n, wanted, always
):
    """Damage is told and passed over; where no value needed the file, every value is right."""
    root, states = two_checkpoints
    found = collections.Counter()
    for file, how, copy in cases(root, root / "last" / "2", n, 0, wanted):
        caplog.clear()
        saved = checkpoint.Checkpoints(copy / "last", tiny.record(tiny.experiment()))
        restored, _ = saved.restore_latest(states[1])
        saved.close()
        step = int(restored.step)
        assert same(restored, states[step]), (file, how)
        warnings = [r.getMessage() for r in caplog.records if "taking the one before" in r.message]
        assert len(warnings) == (step == 1), (file, how)
        assert all(len(w) < 300 and "\n" not in w for w in warnings)
        assert step == 1 or not always, (file, how)
        found["fell back" if step == 1 else "same values"] += 1
    print(dict(found))


@pytest.mark.core
def test_damage_in_both_checkpoints_is_an_error(two_checkpoints, tmp_path):
    root, states = two_checkpoints
    shutil.copytree(root, tmp_path / "run")
    for step in ("1", "2"):
        damage(tmp_path / "run" / "last" / step / "meta" / "metadata", "cut", random.Random(0))
    saved = checkpoint.Checkpoints(tmp_path / "run" / "last", tiny.record(tiny.experiment()))
    with pytest.raises(CheckpointError, match="no checkpoint in last reads back whole"):
        saved.restore_latest(states[1])
    saved.close()


@pytest.mark.core
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": to_record(tiny.MODEL.clone(n_filters=5))}, "n_filters is 4 there, 5 here"),
        ({"window": to_record(Window(-160, 240))}, "window.low is -1024"),
    ],
)
def test_a_checkpoint_of_another_model_or_window_names_what_differs(two_checkpoints, change, words):
    root, states = two_checkpoints
    saved = checkpoint.Checkpoints(root / "last", tiny.record(tiny.experiment()) | change)
    with pytest.raises(CheckpointError, match=words):
        saved.restore_latest(states[1])
    saved.close()


@pytest.mark.core
def test_a_checkpoint_of_another_version_or_optimiser_names_what_differs(
    two_checkpoints, monkeypatch
):
    root, states = two_checkpoints
    saved = checkpoint.Checkpoints(root / "last", tiny.record(tiny.experiment()))
    other = states[1].replace(ema=states[1].params)
    with pytest.raises(CheckpointError, match=r"another model or optimiser: ema/\S+ is only"):
        saved.restore_latest(other)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match=r"format 1 is not the one of this version \(2\)"):
        saved.restore_latest(states[1])
    saved.close()


@pytest.mark.core
def test_a_damaged_store_is_refused(tmp_path):
    root = tmp_path / "whole"
    rng = np.random.default_rng(0)
    patients = [(n, rng.integers(-1024, 3071, (2, 8, 8)).astype(np.int16)) for n in "ab"]
    make_store(root, patients)
    Store.open(root)
    for file, how, copy in cases(root, root, STORES, seed=1):
        with pytest.raises(DataError) as error:
            Store.open(copy)
        assert "\n" not in str(error.value), (file, how)


@pytest.mark.long
def test_damaged_weights_are_refused(tmp_path):
    """The two exported files that carry weights, and the card beside one of them."""
    pytest.importorskip("jax2onnx")
    from ldct_jax.export import artefacts, onnx_model, stablehlo
    from tests.export.networks import source_of

    source, root = source_of(tiny.MODEL, FULL), tmp_path / "whole"
    root.mkdir()
    stablehlo.export(source, root / "model.stablehlo")
    onnx_model.export(source, root / "model.onnx", size=(64, 64))
    hu = np.random.default_rng(0).normal(0, 300, (1, 64, 64)).astype(np.float32)
    names = ("model.stablehlo", "model.onnx")
    assert all(np.isfinite(artefacts.load(root / n).compute(hu)).all() for n in names)
    for file, how, copy in cases(root, root, WEIGHTS, seed=2):
        with pytest.raises(LdctError) as error:
            artefacts.load(copy / file.removesuffix(".json"))
        assert "\n" not in str(error.value), (file, how)


@pytest.mark.core
def test_a_card_with_one_letter_changed_is_refused(tmp_path):
    """Whichever letter: every byte of a card is flipped once."""
    path = tmp_path / "model.safetensors"
    record = {"model": to_record(tiny.MODEL), "window": to_record(FULL)}
    made = card.Card("x", "safetensors", "0" * 8, *record.values(), None, None, sha256="1" * 64)
    card.write_beside(made, path)
    assert card.read_beside(path) == made
    beside = card.card_path(path)
    whole = beside.read_bytes()
    for at in range(len(whole)):
        beside.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            card.read_beside(path)
