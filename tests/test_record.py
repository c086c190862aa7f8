"""Records rebuild what they describe, overrides are typed, nothing foreign is constructed."""

import json
import sys

import flax.linen as nn
import jax.numpy as jnp
import pytest

from ldct_jax.data.feed.patches import Patches
from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.hu import DCSWGAN
from ldct_jax.losses import LastClone, l1, last_clone, mse
from ldct_jax.metrics import protocols
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.dncnn import DnCNN
from ldct_jax.optim import Adam, Cosine, Exponential, Piecewise
from ldct_jax.record import BARE_NAMES, difference, from_record, name_of, resolve, to_record
from ldct_jax.study.experiment import Experiment
from ldct_jax.user_script import OWN

pytestmark = pytest.mark.core

EXPERIMENTS = [
    Experiment(model=ClonesNet()),
    Experiment(
        model=ClonesNet(n_filters=8, dtype=jnp.bfloat16, transfer="image"),
        loss=last_clone(l1),
        optimizer=Adam(Piecewise((1e-3, 1e-4), (0.5,)), weight_decay=1e-4),
        patches=Patches(slices_per_patient=None, augment="dihedral"),
        window=DCSWGAN,
        ema_decay=0.999,
    ),
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_record_goes_through_json_and_rebuilds_the_experiment(experiment):
    again = from_record(json.loads(json.dumps(experiment.record())))
    assert again == experiment


def test_records_of_before_a_field_was_retired_load_where_it_had_the_value_that_is_left():
    record = {"type": "DnCNN", "depth": 5, "frozen_statistics": False}
    assert from_record(record) == DnCNN(depth=5)
    with pytest.raises(CheckpointError, match="frozen_statistics"):
        from_record(record | {"frozen_statistics": True})


@pytest.mark.parametrize("protocol", protocols.ALL, ids=lambda p: p.name)
def test_a_protocol_keeps_its_name_and_a_network_has_none(protocol):
    assert from_record(json.loads(json.dumps(to_record(protocol)))) == protocol
    assert "name" not in to_record(ClonesNet(name="clones"))


def test_overrides_reach_every_level_with_the_right_type():
    changed = EXPERIMENTS[0].with_overrides(
        [
            "epochs=3",
            "model.n_filters=16",
            "model.dtype=bfloat16",
            "model.coupled=false",
            "optimizer.schedule.rate=1e-2",
            "patches.slices_per_patient=none",
            "window.low=-160",
            "loss.base=l1",
            "ema_decay=0.99",
        ]
    )
    assert changed.epochs == 3 and changed.model.n_filters == 16
    assert changed.model.dtype == jnp.bfloat16 and changed.model.coupled is False
    assert changed.optimizer.schedule == Exponential(1e-2, to=1e-5)
    assert changed.patches.slices_per_patient is None
    assert changed.window.low == -160.0 and changed.ema_decay == 0.99
    assert changed.loss.base is l1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "key=value"),
        ("epoch=3", "ema_decay, epochs"),
        ("model.filters=3", "n_filters"),
        ("epochs=three", "whole number"),
        ("optimizer.b1=x", "a number"),
        ("model.coupled=maybe", "true or false"),
        ("model=PCN", "one of its parts"),
        ("patches.slices_per_patient=3.5", "whole number"),
        ("gan=x", "command line"),
        ("epochs.x=1", "has no parts"),
        ("loss.base=nonsense", "function"),
        ("model.dtype=float99", "bfloat16"),
    ],
)
def test_wrong_overrides_say_what_is_legal(setting, words):
    with pytest.raises(UsageError, match=words):
        EXPERIMENTS[0].with_overrides([setting])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"function": "system"}, "doesn't have"),
        ({"function": "os:system"}, "doesn't have"),
        ({"type": "subprocess:Popen", "args": "x"}, "doesn't have"),
        ({"function": "ldct_jax.data.pip_packages:subprocess.run"}, "doesn't have"),
        ({"function": "ldct_jax.__main__:main"}, "doesn't have"),
        ({"function": "ldct_jax.losses:median"}, "doesn't have"),
        ({"type": "ldct_jax.system.files:write_bytes", "path": "x"}, "can hold"),
        ({"type": "own_code:Net"}, "--code own.py"),
        ({"type": "ClonesNet", "n_cats": 3}, "n_cats"),
    ],
)
def test_a_record_names_nothing_but_what_is_allowed(record, words, monkeypatch):
    monkeypatch.delitem(sys.modules, OWN, raising=False)
    with pytest.raises(CheckpointError, match=words):
        from_record(record)


def test_every_bare_name_of_old_records_still_loads_and_is_written_in_full():
    for name in BARE_NAMES:
        assert resolve(name).__name__ == name
        assert resolve(name_of(resolve(name))) is resolve(name)
    old = {"type": "ClonesNet", "n_clones": 3}
    assert from_record(old) == ClonesNet(n_clones=3)
    assert difference(old, to_record(ClonesNet(n_clones=3))) == ""
    assert "n_clones is 3 there, 4 here" in difference(old, to_record(ClonesNet()))
    moved = {"type": "ldct_jax.networks:ClonesNet"}  # a module that isn't there any more
    assert from_record(moved) == ClonesNet()


def test_public_layers_and_functions_are_recorded_by_their_public_names():
    model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(1, (3, 3), use_bias=False)])
    record = json.loads(json.dumps(to_record(model)))
    assert record["type"] == "flax.linen:Sequential"
    assert record["layers"][1] == {"function": "jax.nn:relu"}
    again = from_record(record)
    assert difference(to_record(again), to_record(model)) == ""
    assert again.layers[2] == model.layers[2] and again.layers[1] is nn.relu


@pytest.mark.parametrize("thing", [lambda p, t: p, pytest.raises, type("Local", (), {})])
def test_what_has_no_name_to_be_found_by_is_refused_on_writing(thing):
    with pytest.raises(UsageError, match="top level of your script"):
        to_record({"loss": thing})


def test_difference_names_the_place():
    a = to_record(Experiment(model=ClonesNet()))
    b = to_record(Experiment(model=ClonesNet(n_clones=3), optimizer=Adam(Cosine())))
    assert "model.n_clones is 4 there, 3 here" in difference(a, b)
    assert difference(a, a) == ""


def test_but_reaches_the_model_and_the_experiment():
    first = EXPERIMENTS[0]
    assert (first.but(steps=7).epochs, first.but(steps=7).steps) == (None, 7)
    in_steps = first.with_overrides(["steps=500"])
    assert (in_steps.epochs, in_steps.steps) == (None, 500)
    assert from_record(in_steps.record()) == in_steps
    assert (in_steps.but(epochs=3).epochs, in_steps.but(epochs=3).steps) == (3, None)
    with pytest.raises(UsageError, match="give one of the two"):
        first.but(steps=7, epochs=2)
    with pytest.raises(UsageError, match="steps=0"):
        first.with_overrides(["steps=0"])
    changed = EXPERIMENTS[0].but(n_filters=8, epochs=2, loss=LastClone(mse))
    assert (changed.model.n_filters, changed.epochs) == (8, 2)
    assert isinstance(changed.loss, LastClone)
    with pytest.raises(TypeError):
        EXPERIMENTS[0].but(n_cats=1)
