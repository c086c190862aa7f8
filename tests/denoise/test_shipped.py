"""The model that ships: it is what its card says, and it helps."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import ldct_jax
from experiments.shipped import base, in_hu, release, train
from ldct_jax import cli
from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.data.noise_units import NOISE, WORDS, in_noise_units
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.data.prepare import prepare
from ldct_jax.denoise.models import SHIPPED, find
from ldct_jax.errors import UsageError
from ldct_jax.hu import Window
from ldct_jax.metrics.quality_phantom import QualityPhantom, measure
from ldct_jax.models.slice_noise import slice_noise_hu
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.record import difference, from_record, to_record
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.initial import why_not
from tests.dicom_fixtures import anatomy, write_series

ROOT = Path(ldct_jax.__file__).parents[1]


@pytest.fixture(scope="module")
def model():
    return ldct_jax.load()


@pytest.mark.core
def test_the_default_is_the_one_of_the_card(model):
    (path,) = SHIPPED.values()
    card = path.with_suffix(".md").read_text("utf-8")
    assert find(None).path == path and model.name == path.stem == "pcn3"
    assert f"`{model.digest}`" in card
    assert path.stat().st_size < 1_000_000
    assert "Research use only" in card and "research use" in card.lower()
    # What the training promised not to look at.
    assert re.search(r"Never\s+seen: TCGA-LIHC A10W; Lung-PET-CT-Dx A0002", card)


@pytest.mark.core
def test_its_package_tells_what_was_measured():
    """The numbers for the card of a package are those of docs/results, mean over patients."""
    (path,) = SHIPPED.values()
    cases = sorted((ROOT / "docs/results/shipped/held_out_by_case").glob("*.json"))
    record = load_model(path)[3]["record"]
    told = json.loads(path.with_suffix(".json").read_text())
    measured = [json.loads(case.read_text()) for case in cases]
    # The recipe may have gone on to other data; what ships names its own.
    made = release.facts("pcn3", record, measured, told["attribution"])
    assert told == json.loads(json.dumps(made))
    assert f"\n{told['attribution']}." in path.with_suffix(".md").read_text("utf-8")
    quarter = next(
        s for s in told["scores"] if s["images"].endswith("dose 25 %") and s["method"] == "pcn3"
    )
    assert f"| {quarter['psnr_db']:.2f} |" in path.with_suffix(".md").read_text("utf-8")


@pytest.mark.core
def test_it_has_three_clones_no_final_relu_and_knows_its_range(model):
    network, variables, window, meta = load_model(next(iter(SHIPPED.values())))
    assert (network.base.n_clones, network.base.final_relu) == (3, False)
    assert (window, network.unit) == (Window(0.0, 1.0), train.UNIT)
    rule = (network.routine_hu, network.power, network.least, network.mean_px)
    assert rule == (in_hu.ROUTINE_HU, in_hu.POWER, in_hu.LEAST, in_hu.MEAN_PX)
    assert sum(np.size(x) for x in _leaves(variables)) == 83_809
    trained = model.trained_on
    assert trained.dose[0] < 0.12 and trained.dose[1] > 0.55
    inside = {"thickness_mm": 5.0, "field_of_view_mm": 400.0, "kvp": 120.0}
    assert trained.outside(kernel="STANDARD", **inside) == []
    assert "kernel D45f" in trained.outside(kernel="D45f", **inside)[0]
    assert "patients" not in meta["record"] and "A10W" not in str(meta["record"])


def test_only_training_slices_have_targets_of_their_own(tmp_path, monkeypatch):
    """Validation and held-out patients are compared with their normal dose."""
    noise = np.random.default_rng(0).normal(0, 13, (3, 64, 64))
    for i, name in enumerate(("a", "b")):
        body = np.clip(anatomy(i, 3) + noise, -1024, 3071).astype(np.int16)
        write_series(tmp_path / "in" / name, body, PatientID=name)
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    names = ["LIDC-IDRI 0001", "TCGA-LIHC A10W"]
    monkeypatch.setattr(train, "patients", lambda data: [(store, names)])
    for side, series in zip(("TRAINING", "HELD_OUT"), store.series, strict=True):
        monkeypatch.setattr(train, side, {series.full.sha256[:32]: "found by these digests"})
    monkeypatch.setattr(train, "OTHER_KERNELS", 0.0)
    mixed = dataclasses.replace(train.MIXED["smoke"], thinner_share=0.0)
    monkeypatch.setitem(train.MIXED, "smoke", mixed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = []
    monkeypatch.setattr(train, "in_noise_units", lambda p: made.append(p) or in_noise_units(p))
    pairs = train.mixed_pairs(train.SCALES["smoke"], "anything")
    same = [np.array_equal(made[0].full_hu[i], store.full(i)[0]) for i in (0, 1)]
    assert pairs.patients == tuple(names)  # slices nearer than 100 mm are left out
    assert same == [False, True]
    assert not np.array_equal(made[0].low_hu[1], made[0].full_hu[1])
    np.testing.assert_array_equal(pairs.low_hu, in_noise_units(made[0]).low_hu)


@pytest.mark.core
def test_what_ships_is_the_trained_network_in_units_of_noise():
    """The file maps HU to HU as the run's network does with the pairs it was trained on."""
    network = train.variants("smoke")["pcn3"].model
    hu = sample_noise((48, 48), 50.0, 0.8, 0)[None] + 40
    params = network.init(jax.random.key(0), hu[..., None])["params"]
    # The last layer begins at zero, where there is nothing to see.
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    record = {"model": to_record(network), "window": to_record(train.WINDOW)}
    with pytest.raises(UsageError, match="wasn't trained in units"):
        in_hu.in_hu(network, {"params": params}, {**record, "data": {"source": "phantoms"}})
    record["data"] = {"source": f"phantoms, all {WORDS}"}
    model, variables, record = in_hu.in_hu(network, {"params": params}, record)
    assert from_record(record["model"]) == model
    as_trained = model.clone(routine_hu=0.0, least=0.0, mean_px=0.0)
    free = WholeSlices(as_trained, from_record(record["window"]))
    low = np.rint(hu).astype(np.int16)
    pairs = in_noise_units(PairedSlices(low, low, ("a",), np.ones(1), np.ones(1), source=""))
    inner = WholeSlices(network, train.WINDOW)({"params": params}, pairs.low_hu)
    factor = NOISE / float(slice_noise_hu(low.astype(np.float32))[0])
    assert np.abs(inner - pairs.low_hu).max() > 5
    np.testing.assert_allclose(factor * free(variables, low), inner, atol=1.0)


@pytest.mark.core
def test_a_training_can_go_on_from_what_ships(tmp_path, monkeypatch):
    """The way back gives the network of the training: its parameters, its window, its record."""
    (shipped,) = SHIPPED.values()
    before = tmp_path / "before.npz"
    monkeypatch.setattr("sys.argv", ["base", str(shipped), str(before)])
    base.main()
    network, variables, window, meta = load_model(before)
    trained = train.variants("demo")["pcn3"].model
    assert network == trained
    assert not why_not(trained, train.WINDOW, network, window)
    again, made, record = in_hu.in_hu(network, variables, meta["record"])
    model, released, _, shipped_meta = load_model(shipped)
    assert again == model and difference(record, shipped_meta["record"]) == ""
    jax.tree.map(np.testing.assert_array_equal, made, released)
    monkeypatch.setattr("sys.argv", ["base", str(before), str(tmp_path / "again.npz")])
    with pytest.raises(UsageError, match="doesn't see images in units of their noise"):
        base.main()


@pytest.mark.promise("python")
@pytest.mark.core
def test_it_denoises_and_keeps_ct_numbers(model):
    phantom = QualityPhantom(size=128, pixel_mm=2.0, noise_hu=40.0, realisations=4)
    before, after = measure(phantom, lambda hu: hu), measure(phantom, model)
    assert after.noise_hu < 0.6 * before.noise_hu
    assert after.cnr > 1.5 * before.cnr
    for material in ("soft tissue", "fat"):
        assert abs(after.bias_hu[material] - before.bias_hu[material]) < 3


@pytest.mark.core
def test_air_and_metal_are_not_cut(model):
    hu = np.full((64, 64), -1000.0, np.float32) + sample_noise((64, 64), 30.0, 0.8, 0)
    hu[20:40, 20:40] = 6000.0
    out = model(hu)
    assert out.min() < -1024 and out[25:35, 25:35].mean() > 5000


@pytest.mark.core
def test_it_is_exported_by_its_name(model, tmp_path, capfd):
    arguments = ["export", model.name, str(tmp_path / "out"), "--format", "safetensors"]
    assert cli.run(arguments) == 0
    assert model.digest[:16] in capfd.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 300_000


def _leaves(tree):
    return [x for v in tree.values() for x in (_leaves(v) if isinstance(v, dict) else [v])]
