"""``ldct adapt``: what is trained on and held out, the decision, resuming, and what is refused."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import ldct_jax
from ldct_jax.cli import run as cli
from ldct_jax.data.acquisition import joined_ranges
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.store import ArrayRecord, SeriesRecord, Store
from ldct_jax.denoise.models import find
from ldct_jax.errors import DataError, UsageError
from ldct_jax.hu import Window
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.record import to_record
from ldct_jax.study import adapt as adaptation
from ldct_jax.study import held_out as judging
from ldct_jax.study.adapt import adapt, inside
from ldct_jax.study.held_out import JUDGED_AT, Score, judged, sides, usable
from ldct_jax.train import released
from ldct_jax.train import run as loop
from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.signals import Interrupted
from tests.dicom_fixtures import anatomy, noisy, write_series

BASE = ClonesNet(4, 1, 4, initialization="zero_last", final_relu=False)
N = 28


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that takes nothing away: its residual is zero before any training."""
    path = tmp_path_factory.mktemp("model") / "tiny.npz"
    variables = BASE.init(jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    record = {
        "model": to_record(NoiseScaled(BASE)),
        "window": to_record(Window(0.0, 1.0)),
        "trained_on": {"kernels": ["B"], "thickness_mm": [2.0, 5.0]},
    }
    released.write(path, {"params": {"base": variables["params"]}}, {"record": record})
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    hu = noisy(anatomy(0, N), 30, 1)
    write_series(root / "Doe_Jane", hu, step=3.0, PatientName="Doe^Jane", PatientID="D-4711")
    return root


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(adaptation, "MAX_PAIRS", 16)


STEPS = 40


@pytest.fixture(scope="module")
def adapted(scans, model, tmp_path_factory):
    """(the file, what was printed) of a command that went through."""
    out = tmp_path_factory.mktemp("out") / "m.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "MAX_PAIRS", 16)
        lines = []
        record = adapt(scans, out, model=str(model), steps=STEPS, say=lines.append)
    assert record["better"]
    return out, lines


@pytest.mark.promise("adapt")
def test_a_better_model_is_written_and_used(scans, model, adapted):
    out, lines = adapted
    assert "B30f, 1 mm: 28 slices, noise" in lines[0]
    assert lines[1] == "8 slices to train on, 8 held out"
    assert "paired over slices" in lines[2]
    assert [p.name for p in out.parent.iterdir()] == ["m.npz"]
    meta = load_arrays(out)[1]
    (told,) = meta["record"]["adapted"]
    assert told["base"]["sha256"] == find(model).open().digest and told["steps"] == STEPS
    assert told["better"] and told["score"]["high"] < 0 and told["score"]["slices"] == 8
    assert told["score"]["before"] == pytest.approx(1, abs=0.1), "the tiny one does nothing"
    assert meta["record"]["trained_on"]["kernels"] == ["B", "B30f"]
    assert meta["record"]["trained_on"]["thickness_mm"] == [1.0, 5.0]
    whole = json.dumps(meta) + "".join(lines)
    secret = ("Doe", "4711", str(out.parent), "2015", "patient-")
    assert not [word for word in secret if word in whole]
    denoise = ldct_jax.load(out)
    assert denoise.name == "NoiseScaled adapted"
    image = noisy(anatomy(3, 2), 30, 5)
    assert np.abs(denoise(image) - image).mean() > 1


@pytest.mark.long
@pytest.mark.promise("adapt")
def test_a_model_that_is_not_better_leaves_nothing(scans, model, tmp_path, monkeypatch, capsys):
    words = ["adapt", str(scans), "--out", str(tmp_path / "m.npz"), "--model", str(model)]
    worse = jax.tree.map(lambda p: p + 0.1, inside(find(model)).params)
    trained = SimpleNamespace(variables={"params": worse}, steps=1)
    monkeypatch.setattr(adaptation, "train", lambda *given, **how: trained)
    assert cli([*words, "--steps", "1", "--json"]) == 3
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert not record["better"] and record["score"]["low"] > 0
    assert "paired over slices" in said.err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(adaptation, "adapt", lambda *given, **how: record)
    assert cli(words) == 3
    assert "not better: nothing is written, NoiseScaled stays" in capsys.readouterr().out
    monkeypatch.setattr(adaptation, "adapt", lambda *given, **how: record | {"better": True})
    assert cli(words) == 0
    assert capsys.readouterr().out == f"better: {tmp_path / 'm.npz'}\n"


@pytest.mark.long
def test_an_interrupted_command_goes_on_to_the_same_bits(
    scans, model, adapted, tmp_path, monkeypatch, capsys
):
    retire, made, out = loop.Run.retire, [], tmp_path / "cut.npz"

    def stopping(self, call):
        retire(self, call)
        self.stop.number = 15

    monkeypatch.setattr(loop.Run, "retire", stopping)
    with pytest.raises(Interrupted):
        adapt(scans, out, model=str(model), steps=STEPS)
    assert [p.name for p in tmp_path.iterdir()] == [".cut.npz.adapting"]
    monkeypatch.setattr(loop.Run, "retire", retire)
    simulate = adaptation.add_mixed_dose

    def counted(store, folder, *how):
        made.append((folder / "manifest.json").exists())
        return simulate(store, folder, *how)

    monkeypatch.setattr(adaptation, "add_mixed_dose", counted)
    adapt(scans, out, model=str(model), steps=STEPS)
    assert "adapting: 640/640 patches" in capsys.readouterr().err
    assert len(made) == 3 and all(made), "nothing is simulated again"
    assert load_arrays(out)[1]["digest"] == load_arrays(adapted[0])[1]["digest"]
    assert [p.name for p in tmp_path.iterdir()] == ["cut.npz"]


@pytest.mark.core
def test_the_score_is_the_error_against_what_nobody_sees():
    """Known truth: the share of each of two estimators, and their difference."""
    rng = np.random.default_rng(0)
    x = np.full((40, 64, 64), 50.0)
    own, more = (rng.normal(0, 20, x.shape) for _ in range(2))
    low, target = x + own + more, x + own - more  # at a dose of one half
    pairs = PairedSlices(
        np.rint(low).astype(np.int16),
        np.rint(target).astype(np.int16),
        ("p",) * 40,
        np.ones(40),
        np.ones(40),
        "flat",
    )

    class Keeps:
        """Stands for a network: x and a share of the noise."""

        def clone(self, **how):
            assert how == {"routine_hu": 0.0, "least": 0.0}
            return self

    def kept(model, window):
        return lambda variables, hu: x[:1] + variables["params"]["base"] * (hu - x[:1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "WholeSlices", kept)
        score = judged(Keeps(), 0.5, 0.3, pairs)
    assert score.before == pytest.approx(0.25, abs=0.01)
    assert score.after == pytest.approx(0.09, abs=0.01)
    assert score.low < -0.16 < score.high < 0 and score.slices == 40 and JUDGED_AT == 0.5


@pytest.mark.core
def test_the_interval_decides():
    rng = np.random.default_rng(1)
    before = rng.uniform(0.1, 0.2, 12)
    noise = rng.normal(0, 0.01, 12)
    assert Score.of(before, before - 0.02 + noise).better
    assert not Score.of(before, before - 0.002 + noise).better, "within chance"
    assert not Score.of(before, before + 0.02 + noise).better
    assert not Score.of(before, before).better


def _store(*series, **changes):
    """(patient, slices, step) each; no files behind it."""

    def one(patient, n, step):
        array = ArrayRecord("a.npy", "0" * 64, (n, 64, 64))
        places = tuple(step * k for k in range(n))
        record = SeriesRecord(patient, array, None, 1.0, 1.0, step, places, noise_hu=10.0)
        return dataclasses.replace(record, **changes)

    return Store(None, "", "", tuple(one(*s) for s in series), "0")


@pytest.mark.core
def test_what_is_held_out_is_neither_trained_on_nor_near():
    store = _store(("a", 100, 1.0), ("b", 40, 4.0))
    trained, held_out = sides(store, 48)
    assert sum(map(len, trained)) == 48 and sum(map(len, held_out)) == 24
    for series, t, h in zip(store.series, trained, held_out, strict=True):
        places = np.array(series.offsets_mm)
        assert h and np.abs(places[t][:, None] - places[h]).min() > 5
    many = _store(*((f"p{i}", 1 + i % 3, 5.0) for i in range(12)), ("p1", 3, 5.0))
    trained, held_out = sides(many, 48)
    assert [bool(h) for h in held_out] == [i % 3 == 1 for i in range(12)] + [True]
    assert all(bool(t) != bool(h) for t, h in zip(trained, held_out, strict=True))


@pytest.mark.core
def test_scans_that_will_not_do():
    for store, why in (
        (_store(("a", 12, 5.0)), "12 slices leave"),
        (_store(("a", 40, 5.0), ("a", 40, 5.0)), "one series of each"),
    ):
        with pytest.raises(DataError, match=why):
            sides(store, 48)
    two = _store(("a", 40, 5.0), ("b", 40, 5.0))
    other = dataclasses.replace(two.series[1].full, shape=(40, 32, 64))
    for store, why in (
        (_store(("a", 40, 5.0), noise_hu=None), "no noise in flat soft tissue"),
        (_store(("a", 40, 5.0), noise_hu=0.2), "no noise in flat soft tissue"),
        (_store(("a", 40, 5.0), low=two.series[0].full), "two doses"),
        (
            dataclasses.replace(
                two, series=(two.series[0], dataclasses.replace(two.series[1], full=other))
            ),
            "32x64, 64x64 pixels",
        ),
    ):
        with pytest.raises(DataError, match=why):
            usable(store, 55)


def test_bad_input_is_told_at_once_and_leaves_nothing(scans, adapted, tmp_path, capsys):
    write_series(tmp_path / "few", noisy(anatomy(0, 6), 30, 1))
    folder = tmp_path / "out"
    for words, code, said in (
        ([scans, "--out", folder / "m.onnx"], 2, "name a new .npz file"),
        ([scans, "--out", adapted[0]], 2, "name a new .npz file"),
        ([scans, "--out", scans / "m.npz"], 2, "lies in SERIES"),
        ([tmp_path / "no", "--out", folder / "m.npz"], 2, "is not a folder"),
        ([scans, "--out", folder / "m.npz", "--model", "median"], 2, "units of their noise"),
        ([scans, "--out", folder / "m.npz", "--steps", "0"], 2, "--steps"),
        ([tmp_path / "few", "--out", folder / "m.npz"], 1, "6 slices leave"),
    ):
        assert cli(["adapt", *map(str, words)]) == code, words
        assert said in capsys.readouterr().err
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.core
def test_the_shipped_model_can_be_adapted_and_ranges_are_joined(tmp_path):
    base = inside(find(None))
    base.write(tmp_path / "base.npz")
    assert base.window == Window(0.0, 100.0)
    with pytest.raises(UsageError, match="units of their noise"):
        inside(find("identity"))
    one = {"kernels": ["B"], "thickness_mm": [2.0, 5.0], "kvp": None}
    both = joined_ranges(one, None, {"kernels": ["A", "B"], "thickness_mm": [8.0, 8.0]})
    assert both["kernels"] == ["A", "B"] and both["thickness_mm"] == [2.0, 8.0]
    assert both["kvp"] is None and joined_ranges(None, None) is None
