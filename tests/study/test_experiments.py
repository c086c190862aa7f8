"""Every experiment script: what it says, its scales, its records, and the papers' protocols."""

import ast
import json
import re

import numpy as np
import pytest

from ldct_jax.data.vgg import TENSORS_SHA256
from ldct_jax.errors import UsageError
from ldct_jax.hu import ABDOMEN, CASCADE, DCSWGAN, FULL, HRNET
from ldct_jax.losses import Central, LastClone, Perceptual, Weighted, edge_incoherence, l1, mse
from ldct_jax.metrics import protocols
from ldct_jax.models import catalogue
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.vgg import BLOCKS_1_TO_4, VGGFeatures, needs_fetched
from ldct_jax.record import from_record
from ldct_jax.study.scripts import folder, load_study, names
from tests.tiny import rate_at

pytestmark = pytest.mark.core
EXPERIMENTS = (
    "cascade",
    "dcswgan",
    "dose_levels",
    "hrnet",
    "pcn_ablation",
    "pcn_backbone",
    "pcn_clones",
    "pcn_comparison",
    "pcn_converged",
    "pcn_layers",
)


def runs(name: str, scale: str = "paper"):
    return load_study(name).variants(scale)


def parameters(experiment) -> int:
    side = experiment.patches.fit(512, 512).size
    return catalogue.parameter_count(experiment.model, (1, side, side, 1))[0]


@pytest.mark.promise("lists")
def test_the_experiments_are_there():
    assert names() == list(EXPERIMENTS), "pcn.py is what six of them share, and no experiment"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_script_opens_with_what_a_reader_needs(name):
    text = ast.get_docstring(ast.parse((folder() / f"{name}.py").read_text()))
    assert "Reproduces:" in text and re.search(r"Fig|Table", text)
    assert f"make train EXP={name}" in text and "SCALE=paper" in text
    assert "Expected time:" in text and "demo" in text and "paper" in text
    assert "The paper" in text


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", ["demo", "paper", "smoke"])
def test_every_row_is_recorded_and_rebuilt(name, scale):
    study = load_study(name)
    assert study.name == name and study.scales[scale].name == scale
    assert study.scales[scale].words
    variants = study.variants(scale)
    for position, (row, experiment) in enumerate(variants.items()):
        record = json.loads(json.dumps(experiment.record()))
        assert from_record(record) == experiment, row
        assert "/root" not in json.dumps(record) and ".npz" not in json.dumps(record)
        if scale == "demo":  # data of another size must not change how much is trained
            assert experiment.steps is not None and experiment.epochs is None, row
        if experiment.starts_from is not None:
            assert experiment.starts_from in list(variants)[:position], row
    # The same window everywhere, or the rows of a table could not stand beside each other.
    assert len({experiment.window for experiment in variants.values()}) == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_demo_trainings_warm_up(name):
    """Without warm-up several rows end at their input in the first steps and never return."""
    for row, experiment in load_study(name).variants("demo").items():
        if experiment.gan is not None:
            assert experiment.starts_from is not None, f"{row} starts from a trained row"
            continue
        rates = [rate_at(experiment.optimizer, i, 1000, 100) for i in (0, 49, 60, 999)]
        assert rates[0] < 0.1 * rates[2] and rates[3] < 0.05 * rates[2], row
        assert rates[1] == pytest.approx(rates[2], rel=0.05), row


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_is_about_rows_that_are_there(name):
    study = load_study(name)
    rows = {*study.variants("paper"), *study.filters}
    fields = ("row", "than", "better", "to", "over", "best", "other", "against")
    for block in study.report:
        named = [getattr(block, f) for f in fields if hasattr(block, f)]
        for several in ("rest", "rows"):
            named += list(getattr(block, several, None) or ())
        assert set(named) <= rows, block


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_rows_of_a_table_differ(name):
    records = [json.dumps(e.record()) for e in runs(name).values()]
    assert len(set(records)) == len(records)


@pytest.mark.parametrize(
    "name", ["pcn_layers", "pcn_clones", "pcn_backbone", "pcn_comparison", "pcn_ablation"]
)
def test_pcn_protocol(name):
    scale = load_study(name).scales["paper"]
    assert (scale.repeats, scale.test_patients, scale.phantoms.patients) == (3, 1, 10)
    assert (scale.validation_patients, scale.thickness_mm) == (0, 3.0) and scale.one_reconstruction
    for row, experiment in runs(name).items():
        assert experiment.window == FULL and experiment.epochs == 60
        assert experiment.patches.batch == 128 and experiment.patches.slices_per_patient == 10
        assert experiment.patches.stride == 4 and experiment.patches.augment == "none"
        if row.startswith("MAP-NN"):
            assert experiment.patches.size == 64
            assert rate_at(experiment.optimizer, 30, 100, 10) == pytest.approx(1e-4 / 2)
        else:
            assert experiment.patches.size == 55
            assert rate_at(experiment.optimizer, 0, 100, 10) == pytest.approx(1e-4)
            assert rate_at(experiment.optimizer, 99, 100, 10) == pytest.approx(1e-5)


@pytest.mark.promise("two-commands")
def test_pcn_rows():
    layers = runs("pcn_layers")
    assert [e.model.n_layers for e in layers.values()] == [4, 6, 8, 10, 12, 14, 16]
    assert {e.model.n_clones for e in layers.values()} == {4}
    assert [e.model.n_clones for e in runs("pcn_clones").values()] == [1, 2, 3, 4, 5]
    assert {e.model.n_layers for e in runs("pcn_clones").values()} == {10}
    counts = {row: parameters(e) for row, e in runs("pcn_backbone").items()}
    assert counts == {"CPCE": 206_545, "RED-CNN": 187_921}
    rows = runs("pcn_comparison")
    assert {row: parameters(e) for row, e in rows.items()} == {
        "DnCNN": 557_057,
        "RED-CNN": 1_848_865,
        "MAP-NN": 62_016,
        "MAP-NN, MSE": 62_016,
        "SCN": 167_185,
        "PCN": 187_921,
        "PCN, 64 filters": 333_505,
        "PCN, 80 filters": 520_561,
        "PCN, 96 filters": 749_089,
    }
    assert {e.model.n_clones for row, e in rows.items() if row.startswith("PCN")} == {3}
    assert rows["SCN"].model.n_clones == 4 and rows["SCN"].loss == LastClone(mse)
    gan = rows["MAP-NN"].gan
    assert (gan.n_critic, gan.penalty, gan.critic.flatten, gan.critic.size) == (4, 10.0, True, 64)
    assert rows["MAP-NN"].starts_from is None
    assert rows["MAP-NN"].loss == Weighted(
        (LastClone(mse), LastClone(edge_incoherence)), (50.0, 50.0)
    )
    assert rows["MAP-NN, MSE"].gan is None and rows["MAP-NN, MSE"].loss == LastClone(mse)


def test_dcswgan_protocol():
    study, rows = load_study("dcswgan"), runs("dcswgan")
    assert study.protocol(DCSWGAN) is protocols.DCSWGAN
    scale = study.scales["paper"]
    assert scale.leave_one_out and scale.training_patients == 7 and scale.one_reconstruction
    assert scale.validation_patients == 0 and scale.phantoms.patients == 10
    places = ((512 - 80) // rows["DCSCN"].patches.stride + 1) ** 2
    per_patient = places * rows["DCSCN"].patches.slices_per_patient
    assert 7 * per_patient == pytest.approx(499_996, rel=0.002)
    for row, experiment in rows.items():
        assert experiment.window == DCSWGAN and experiment.patches.size == 80
        assert experiment.patches.batch == 128
        assert experiment.starts_from is None and experiment.epochs == 20
        rate = 1e-5 if row == "WGAN-VGG" else 1e-4  # WGAN-VGG's own code
        assert rate_at(experiment.optimizer, 5, 10, 1) == pytest.approx(rate), row
        if experiment.gan is not None:
            for adam in (experiment.optimizer, experiment.gan.optimizer):
                assert (adam.b1, adam.b2) == (0.5, 0.9), row
                assert rate_at(adam, 5, 10, 1) == pytest.approx(rate), row
    counts = {row: parameters(e) for row, e in rows.items()}
    assert counts == {"CNN-L1": 56_097, "WGAN-VGG": 55_872, "DCSCN": 25_906, "DCSWGAN": 25_906}
    for row, size in (("WGAN-VGG", 64), ("DCSWGAN", 80)):
        gan = rows[row].gan
        assert (gan.n_critic, gan.penalty, gan.critic.size) == (4, 10.0, size)
    loss = rows["WGAN-VGG"].loss
    assert isinstance(loss, Central) and loss.base.weights == (0.1,)
    assert loss.base.losses[0].features.layers == ("block5_conv3",)
    assert rows["DCSCN"].loss is l1 and rows["CNN-L1"].loss is l1
    assert rows["DCSWGAN"].loss.losses == (l1,)


def test_cascade_protocol():
    rows, scale = runs("cascade"), load_study("cascade").scales["paper"]
    assert (scale.test_patients, scale.validation_patients, scale.thickness_mm) == (2, 0, 1.0)
    assert scale.phantoms.patients == 10 and scale.one_reconstruction
    for row, experiment in rows.items():
        assert experiment.window == CASCADE
        assert (experiment.patches.size, experiment.patches.batch) == (64, 32)
        assert experiment.patches.slices_per_patient is None
        assert rate_at(experiment.optimizer, 7, 10, 1) == pytest.approx(1e-3)
        perceptual = "perceptual" in row
        assert experiment.epochs == (15 if perceptual else 10), row
        assert needs_fetched(experiment.loss) == perceptual, row
    assert parameters(rows["DRL, MSE (A)"]) == 224_961
    assert parameters(rows["CNN10, MSE"]) == 334_721
    features = rows["DRL, perceptual (B)"].loss
    assert isinstance(features, Perceptual) and features.features.layers == BLOCKS_1_TO_4
    both = rows["DRL, MSE + perceptual"].loss
    assert both.weights == (1.0, 0.1) and both.losses == (mse, features)
    first, wu = rows["cascade B, A (C)"], rows["MSE cascade A, A (D)"]
    assert first.starts_from == "DRL, perceptual (B)" and wu.starts_from == "DRL, MSE (A)"
    assert not first.model.concat and wu.model.concat and wu.model.stages[1].in_channels == 2
    third = rows["3 levels B, A, A"]
    assert third.model.stages[:2] == first.model.stages and len(third.model.stages) == 3
    for experiment in (first, wu, third):
        assert isinstance(experiment.model, Cascade)
        assert experiment.optimizer.trainable == "last_stage" and experiment.loss is mse
        assert len({id(stage) for stage in experiment.model.stages}) == len(experiment.model.stages)


def test_dose_protocol():
    study, rows = load_study("dose_levels"), runs("dose_levels")
    scale = study.scales["paper"]
    assert scale.noise_spectrum == "mtf"
    assert scale.doses == (0.75, 0.5, 0.1, 0.05) and scale.dose_rule == "paper"
    assert len(scale.training_doses) == 10
    assert (scale.training_doses[0], scale.training_doses[-1]) == (1.0, 0.01)
    assert scale.test_patients * scale.test_slices == 10
    trained = scale.phantoms.patients - scale.test_patients - scale.validation_patients
    plain, *tuned = rows.values()
    assert plain.images.sigma == 25.0 and parameters(plain) == 668_225
    assert plain.patches.augment == "noise_25"
    assert [e.optimizer.trainable for e in tuned] == ["last_conv", "all"]
    for experiment in rows.values():
        assert experiment.epochs == 150 and experiment.patches.size == 50
        assert experiment.patches.per_slice == (6600 if experiment is plain else 15)
        assert rate_at(experiment.optimizer, 9, 10, 1) == pytest.approx(1e-3)
        # σ = 25 of 255 grey levels lies among the noise of the tested doses.
        assert 12 < 25 / 255 * experiment.window.width < 120
    for experiment in tuned:
        assert experiment.images is None and experiment.patches.augment == "rotate_flip"
        assert trained * scale.phantoms.slices == 100 == trained * scale.max_slices
    assert scale.training_crop == (250, 350)
    assert set(study.filters) == {"undenoised", "median", "gaussian", "wiener"}
    protocol = study.protocol(ABDOMEN)
    assert protocol.window == ABDOMEN and protocol.crop == (250, 350)
    assert protocol.peak == protocols.DNCNN_DOSE.peak


def test_hrnet_protocol():
    study, rows = load_study("hrnet"), runs("hrnet")
    scale = study.scales["paper"]
    assert study.protocol(HRNET) is protocols.HRNET
    assert (scale.test_patients, scale.validation_patients) == (2, 0)
    assert (scale.thickness_mm, scale.kernel, scale.one_reconstruction) == (1.0, "D45f", True)
    for experiment in rows.values():
        assert experiment.steps == 100_000
        assert experiment.patches.fit(512, 512).size == 512 and experiment.patches.batch == 1
        assert experiment.patches.augment == "shift_rotate" and experiment.loss is mse
        assert experiment.window == HRNET
        at = [rate_at(experiment.optimizer, s, 100_000, 1) for s in (0, 49_999, 50_000, 75_000)]
        np.testing.assert_allclose(at, [1e-4, 1e-4, 1e-5, 1e-6], rtol=1e-5)
    assert {row: parameters(e) for row, e in rows.items()} == {
        "UNet": 30_658_849,
        "HRNet": 2_674_113,
    }
    for experiment in study.variants("demo").values():
        assert experiment.patches.size is None, "InstanceNorm: what is tested is what is trained"


def test_vgg_weights_are_named_by_their_digest():
    loss = runs("cascade", "smoke")["DRL, perceptual (B)"].loss
    assert loss.features.weights == f"sha256:{TENSORS_SHA256}"
    assert needs_fetched(Weighted((mse, loss), (1.0, 0.1)))
    assert not needs_fetched(Perceptual(VGGFeatures("mine.npz"))) and not needs_fetched(mse)


def test_without_its_weights_a_perceptual_loss_says_where_they_come_from():
    loss = runs("cascade", "smoke")["DRL, perceptual (B)"].loss
    with pytest.raises(UsageError, match="ldct data vgg"):
        loss(np.zeros((1, 16, 16, 1), np.float32), np.zeros((1, 16, 16, 1), np.float32))
