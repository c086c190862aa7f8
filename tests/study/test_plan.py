"""What is settled before anything is simulated or trained: settings, splits, INIT, the dry run."""

import dataclasses
import json

import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.data.embedded import Phantoms, write_phantoms
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.store import Store
from ldct_jax.denoise.filters import Gaussian, Identity
from ldct_jax.errors import CheckpointError, DataError, NumericsError, UsageError
from ldct_jax.hu import Window
from ldct_jax.metrics.protocols import pcn
from ldct_jax.models import vgg
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.clones import ClonesNet
from ldct_jax.report import make as report
from ldct_jax.report.found import Found
from ldct_jax.study import Experiment, Request, Study, dry_run, results, run_study, scoring
from ldct_jax.study import data as study_data
from ldct_jax.study import run as study_run
from ldct_jax.study.experiment import SMOKE, scales
from ldct_jax.study.plan import chosen, make_plan
from ldct_jax.study.scripts import load_study
from ldct_jax.study.study import Measured
from ldct_jax.train import checkpoint
from ldct_jax.train.checkpoint import load_model

NET = ClonesNet(n_filters=2, n_clones=1, n_layers=4, initialization="zero_last")
TWO = {"one": Experiment(NET), "two": Experiment(NET.clone(n_filters=3))}
TINY = scales(SMOKE.but(size=64, pixel_mm=6.0))


def study(rows=None, **changes) -> Study:
    return Study("tiny", rows or {"one": TWO["one"]}, **{"scales": TINY, **changes})


def never(*_, **__):
    raise AssertionError("simulated or trained before everything was checked")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One row by a Python user, in one line."""
    return run_study(study(), Request("smoke", out=tmp_path_factory.mktemp("runs") / "tiny"))


def test_a_python_user_runs_a_study_without_a_page(ran):
    found = results.load(ran)
    assert found.variants == ("one",) and not (ran / "report.html").exists()
    assert found.references == ("undenoised", "gaussian")
    (run,) = found.runs
    assert run.result["scored_step"] == run.result["steps"] == 4
    assert run.result["tissue_noise_hu"].keys() == {""}
    record = run.result["record"]
    assert record["split"]["train"] == found.study["splits"][0]["train"]
    assert "model" not in record and record["experiment"]["model"]["n_filters"] == 2


# ---- settings ----------------------------------------------------------------------------------


@pytest.mark.core
def test_settings_reach_the_scale_and_its_phantoms():
    asked = ("scale.test_slices=3", "scale.phantoms.patients=9", "scale.doses=0.5,0.1", "seed=4")
    scale, rows = chosen(study(TWO), Request("smoke", settings=asked))
    assert (scale.test_slices, scale.phantoms.patients, scale.doses) == (3, 9, (0.5, 0.1))
    assert {e.seed for e in rows.values()} == {4}
    assert "scale.test_slices=3" in scale.words
    crop, _ = chosen(study(), Request("smoke", settings=("scale.training_crop=32,40",)))
    assert crop.training_crop == (32, 40)


@pytest.mark.core
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("scale.slices=3", "test_slices, thickness_mm"),
        ("scale.phantoms.n=3", "pixel_mm"),
        ("scale.doses=half", "a number"),
        ("scale.phantoms.dose=25", "0.25 for 25 %"),
        ("scale.training_crop=3", "2 values"),
        ("optimiser.b1=3", "here are ema_decay"),
        ("select=best scale.validation_patients=0", "needs a validation patient"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_simulated(asked, words, monkeypatch):
    monkeypatch.setattr(study_data, "phantom_pairs", never)
    with pytest.raises(UsageError, match=words):
        run_study(study(), Request("smoke", settings=tuple(asked.split())))


@pytest.mark.core
def test_a_folder_of_photographs_is_for_the_rows_that_train_on_them():
    asked = Request("smoke", settings=("images.folder=photographs", "seed=3"))
    _, rows = chosen(load_study("dose_levels"), asked)
    folders = [e.images and e.images.folder for e in rows.values()]
    assert folders == ["photographs", None, None] and {e.seed for e in rows.values()} == {3}
    with pytest.raises(UsageError, match="images"):
        chosen(study(), asked)


@pytest.mark.core
def test_a_row_asked_for_before_the_one_it_starts_from_runs_after_it():
    every = load_study("dose_levels").rows("smoke")
    tuned = next(name for name, row in every.items() if row.starts_from)
    _, rows = chosen(
        load_study("dose_levels"), Request("smoke", variants=(tuned, every[tuned].starts_from))
    )
    assert list(rows) == [every[tuned].starts_from, tuned]


def test_stored_data_get_the_doses_the_rule_and_the_spectrum_of_the_scale(monkeypatch):
    asked = {}
    monkeypatch.setattr(study_data, "load_doses", lambda store, **how: asked.update(how))
    scale = load_study("dose_levels").scales["demo"]
    study_data._load(None, scale, None)
    assert asked["doses"] == scale.all_doses
    assert (asked["rule"], asked["spectrum"]) == ("paper", "mtf")


@pytest.mark.core
def test_a_network_follows_the_side_of_the_slices_where_it_trains_on_whole_ones():
    rows = load_study("hrnet").variants("demo")
    for side, levels in ((256, 8), (512, 9)):
        fitted = rows["UNet"].fit(side, side)
        assert len(fitted.model.widths) == levels and fitted.patches.size == side
        assert rows["HRNet"].fit(side, side).model == rows["HRNet"].model
    assert TWO["one"].fit(512, 512).model == TWO["one"].model
    cut = rows["UNet"].but(patches=dataclasses.replace(rows["UNet"].patches, size=64))
    assert cut.fit(256, 256).model == rows["UNet"].model


@pytest.mark.core
def test_rows_of_one_table_share_a_window():
    rows = {**TWO, "three": TWO["one"].but(window=Window(-160, 240))}
    with pytest.raises(UsageError, match="several windows"):
        chosen(study(rows), Request("smoke"))


def test_an_override_of_the_window_reaches_protocol_rows_and_units(tmp_path):
    request = Request("smoke", out=tmp_path, settings=("window.high=2000",))
    found = results.load(run_study(study(), request))
    window = Window(-1024.0, 2000.0)
    assert found.study["window"]["high"] == 2000.0
    assert found.study["protocol"] == pcn(window).name == found.runs[0].result["protocol"]
    plan = make_plan(study(), request)
    test = plan.cohort.load().of(plan.splits[0].test)
    expected = pcn(window).score(test.low_hu.astype(np.float32), test.full_hu).psnr_db
    row = found.rows("undenoised")[0]
    np.testing.assert_allclose([r["psnr_db"] for r in row], expected, rtol=1e-6)


def test_one_tested_dose_has_its_report_too(tmp_path):
    """Everything was trained, and then no row of that dose was found."""
    own = study(scales=scales(SMOKE.but(size=96, pixel_mm=4.0)))
    request = Request("smoke", out=tmp_path, settings=("scale.doses=0.1,", "steps=1"))
    folder = run_study(own, request, report=report.write)
    assert (folder / "report.html").is_file()
    scores = results.facts(folder / "one").scores
    assert "0.1 of the dose" in scores[0].images and scores[0].psnr_db > 0
    training = Found(results.load(folder)).training["one"]
    assert training.dose == 0.1 and training.noise_left is not None


@pytest.mark.core
def test_options_that_change_nothing_are_refused(tmp_path, capfd):
    with pytest.raises(UsageError, match="change nothing"):
        make_plan(study(), Request("smoke", low=LowDose(0.1)))
    own = dataclasses.replace(study(), data=never)
    with pytest.raises(UsageError, match="loads its own data"):
        make_plan(own, Request("smoke", low=LowDose(0.1)))
    write_phantoms(Phantoms(patients=3, slices=1, size=64, pixel_mm=6.0), tmp_path / "paired")
    with pytest.raises(UsageError, match="have a low dose already"):
        make_plan(study(), Request("smoke", data=tmp_path / "paired", low=LowDose(0.1)))
    for more in (["--dose", "0.5"], ["--domain", "image"], ["--kernel", "B30f"], ["--json"]):
        assert cli.run(["train", "pcn_ablation", "--scale", "smoke", *more]) == 2
        assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")


# ---- reference rows and scores -----------------------------------------------------------------


def test_reference_rows_and_scores_follow_filters_and_measure(ran, monkeypatch, capfd):
    made = []
    original = scoring.run
    monkeypatch.setattr(scoring, "run", lambda f, hu: made.append(f) or original(f, hu))
    request = Request("smoke", out=ran)

    def test_images() -> set:  # the quality phantom is filtered too
        return set(made)

    run_study(study(), request)
    assert not made, "nothing changed"
    before = results.load(ran)
    filters = {"undenoised": Identity(), "gaussian": Gaussian(2.0)}
    run_study(study(filters=filters), request)
    assert test_images() == {Gaussian(2.0)}
    after = results.load(ran)
    assert after.rows("undenoised") == before.rows("undenoised")
    assert after.rows("gaussian") != before.rows("gaussian")
    capfd.readouterr()
    run_study(study(filters=filters, measures=(measure,)), request)
    assert "scored again" in capfd.readouterr().err
    after = results.load(ran)
    assert after.numbers("one") == [{"slices": 1}] == after.numbers("undenoised")
    assert after.rows("one") == before.rows("one"), "the same network, scored again"
    run_study(study(), request)
    assert results.load(ran).numbers("one") == [{}]


def measure(tested):
    return Measured({"slices": len(tested.pairs)})


# ---- INIT --------------------------------------------------------------------------------------


def test_init_applies_where_it_fits_and_is_named(ran, tmp_path, capfd, monkeypatch):
    request = Request("smoke", out=tmp_path, init=ran / "one", settings=("steps=1",))
    reads, read = [], checkpoint.read
    monkeypatch.setattr(
        checkpoint, "read", lambda path, **like: reads.append(path) or read(path, **like)
    )
    found = results.load(run_study(study(TWO), request))
    assert sum(ran in path.parents for path in reads) == 2, "once to plan, once to start from"
    assert "INIT=one fits one; from scratch: two" in capfd.readouterr().err
    digest = load_model(ran / "one")[3]["digest"]
    assert found.study["init"]["sha256"] == digest and found.study["init"]["rows"] == ["one"]
    assert found.study["init"]["step"] == 4
    one, two = (found.of(name)[0].result["record"]["init"] for name in ("one", "two"))
    assert (one, two) == (digest, None)
    with pytest.raises(CheckpointError, match="init is"):
        run_study(study(TWO), dataclasses.replace(request, init=None))


def test_init_that_fits_nothing_or_saw_a_tested_patient_is_refused(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(study_data, "phantom_pairs", never)
    with pytest.raises(CheckpointError, match="n_filters is 2 there, 3 here"):
        make_plan(study({"two": TWO["two"]}), Request("smoke", init=ran / "one"))
    with pytest.raises(CheckpointError, match="window"):
        make_plan(study(), Request("smoke", init=ran / "one", settings=("window.low=-500",)))
    seen = results.load(ran).study["splits"][0]["train"]
    several = study(scales=scales(SMOKE.but(size=64, pixel_mm=6.0, repeats=3)))
    with pytest.raises(CheckpointError, match=f"was trained on .*{seen[0]}"):
        make_plan(several, Request("smoke", init=ran / "one"))


@pytest.mark.core
def test_a_cascade_may_start_from_its_first_stage():
    from ldct_jax.train.initial import why_not

    window = TWO["one"].window
    assert why_not(Cascade((NET, NET)), window, NET, window) == ""
    assert "another model" in why_not(NET, window, Cascade((NET, NET)), window)


# ---- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CheckpointError, NumericsError])
def test_a_failing_run_does_not_stop_the_others(kind, tmp_path, monkeypatch):
    original = study_run.train

    def train(experiment, *arguments, **options):
        if experiment.model.n_filters == 2:
            raise kind("broken")
        return original(experiment, *arguments, **options)

    monkeypatch.setattr(study_run, "train", train)
    with pytest.raises(kind if kind is NumericsError else CheckpointError, match="1 of 2 runs"):
        run_study(study(TWO), Request("smoke", out=tmp_path))
    assert results.load(tmp_path).variants == ("two",)


@pytest.mark.long
def test_images_shown_together_are_of_one_patient(tmp_path):
    """A first repeat that failed: the others' images must not be those of another patient."""
    rows = {**TWO, "three": TWO["one"].but(seed=5)}
    two = study(rows, scales=scales(SMOKE.but(size=64, pixel_mm=6.0, patients=4, repeats=2)))
    run_study(two, Request("smoke", out=tmp_path, settings=("steps=1",)))
    (tmp_path / "two" / results.RESULT).unlink()
    found = results.load(tmp_path)
    assert {run.repeat for run in found.shown.values()} == {1} and len(found.shown) == 3
    full = [run.samples["full"] for run in found.shown.values()]
    assert all(np.array_equal(full[0], other) for other in full)
    (tmp_path / "two.repeat2" / results.RESULT).unlink()
    (tmp_path / "three.repeat2" / results.RESULT).unlink()
    found = results.load(tmp_path)
    assert {run.repeat for run in found.shown.values()} == {0} and "two" not in found.shown


# ---- data --------------------------------------------------------------------------------------


def store_of(folder, kinds) -> Store:
    """A normal-dose store; ``kinds``: (patient, thickness, kernel) of each series."""
    spec = Phantoms(patients=len(kinds), slices=2, size=64, pixel_mm=6.0)
    store = write_phantoms(spec, folder)
    series = tuple(
        dataclasses.replace(s, patient=p, slice_mm=mm, kernel=k, low=None, dose=None, low_dose=None)
        for s, (p, mm, k) in zip(store.series, kinds, strict=True)
    )
    return dataclasses.replace(store, series=series)


def test_a_patient_with_several_reconstructions_needs_a_selection(tmp_path, monkeypatch):
    kinds = [(f"p{i}", mm, k) for i in range(3) for mm, k in ((1.0, "D45"), (3.0, "B30f"))]
    store = store_of(tmp_path, kinds)
    original = study_data.open_store
    monkeypatch.setattr(study_data, "open_store", lambda _, **o: original(store, **o))
    monkeypatch.setattr(study_data, "load_pairs", never)
    strict = scales(dataclasses.replace(SMOKE, one_reconstruction=True))
    request = Request("smoke", data=tmp_path)
    with pytest.raises(DataError, match="1 mm D45, 3 mm B30f; choose with --thickness"):
        make_plan(study(scales=strict), request)
    for setting in ("scale.thickness_mm=3", "scale.kernel=b30f"):
        plan = make_plan(study(scales=strict), dataclasses.replace(request, settings=(setting,)))
        assert plan.cohort.slices == {"p0": 2, "p1": 2, "p2": 2}
    with pytest.raises(DataError, match="no series is 5 mm: choose one of 1 mm D45, 3 mm B30f"):
        make_plan(study(), dataclasses.replace(request, settings=("scale.thickness_mm=5",)))


def test_several_matrix_sizes_are_told_before_hours_of_simulation(tmp_path, monkeypatch):
    store = store_of(tmp_path, [(f"p{i}", 3.0, "") for i in range(4)])
    first, *others = store.series
    wide = dataclasses.replace(first, full=dataclasses.replace(first.full, shape=(2, 64, 80)))
    store = dataclasses.replace(store, series=(*others, wide))
    monkeypatch.setattr(study_data, "open_store", lambda *_, **__: store)
    with pytest.raises(DataError, match=r"several matrix sizes \(64x64, 64x80\)"):
        make_plan(study(), Request("smoke", data=tmp_path))


@pytest.mark.parametrize("doses", [(), (0.5, 0.1)])
@pytest.mark.parametrize("is_scanned", [False, True])
def test_a_demo_does_not_simulate_a_whole_archive_first(is_scanned, doses, tmp_path, monkeypatch):
    """404 slices took 20 minutes, of which twelve were trained on. A scanned dose stays whole."""
    store = store_of(tmp_path / "store", [(f"p{i // 2}", 3.0, "") for i in range(6)])
    if is_scanned:
        low = Store.open(tmp_path / "store").series
        store = dataclasses.replace(store, series=low)
    monkeypatch.setattr(study_data, "open_store", lambda *_, **__: store)
    monkeypatch.setattr(study_data, "_cache", lambda: tmp_path / "cache")
    for loader in ("load_pairs", "load_doses"):
        monkeypatch.setattr(study_data, loader, lambda store, **_: store)
    one = study(scales=scales(SMOKE.but(max_slices=1, doses=doses)))
    cohort = make_plan(one, Request("smoke", data=tmp_path)).cohort
    loaded = [series.full.shape[0] for series in cohort.load().series]
    assert loaded == ([2] * 6 if is_scanned and not doses else [1] * len(loaded))
    assert sum(loaded) == sum(cohort.slices.values())


@pytest.mark.promise("without-mayo")
def test_the_sample_trains_with_too_few_patients_and_says_so(tmp_path, monkeypatch):
    store = store_of(tmp_path / "store", [(f"sample-{i}", 3.0, "") for i in range(3)])
    original = study_data.open_store
    monkeypatch.setattr(study_data, "open_store", lambda _, **o: original(store, **o))
    monkeypatch.setattr(study_data, "_cache", lambda: tmp_path / "cache")
    four = study(scales=scales(SMOKE.but(test_patients=2, patients=4)))
    request = Request("smoke", data="sample", low=LowDose(0.25, "image"), out=tmp_path / "out")
    plan = make_plan(four, request)
    pairs = plan.cohort.load()
    (split,) = plan.splits
    assert len(split.test) == len(split.train) == len(split.validation) == 1
    assert "too few patients for this scale's split: 3" in pairs.source
    assert set(pairs.patients) == {*split.train, *split.validation, *split.test}
    with pytest.raises(DataError, match="the split needs 4"):
        make_plan(four, dataclasses.replace(request, data=str(tmp_path / "store")))


# ---- the dry run -------------------------------------------------------------------------------

# Training patients, slices, patches an epoch, steps and batch as the papers state them.
PAPERS = {
    "pcn_ablation": {
        "training patients": 9,
        "test patients": 1,
        "slices": 90,
        "patches an epoch": 1_190_250,
        "epochs": 60,
        "batch": 128,
    },
    "hrnet": {"training patients": 8, "test patients": 2, "steps": 100_000, "batch": 1},
    "cascade": {"training patients": 8, "test patients": 2, "batch": 32, "patch": 64},
    "dose_levels": {"slices": 1000, "patches an epoch": 15_000, "epochs": 150, "patch": 50},
    "dcswgan": {"training patients": 7, "splits": 10, "patch": 80},
}


@pytest.mark.promise("dry-run")
@pytest.mark.core
@pytest.mark.parametrize("name", PAPERS)
def test_the_dry_run_has_the_papers_numbers(name, monkeypatch):
    monkeypatch.setattr(study_data, "phantom_pairs", never)
    own = load_study(name)
    last = list(own.rows("paper"))[-1]
    (row,) = dry_run.rows(own, Request("paper", variants=(last,)), rate=2.0)
    assert {k: row[k] for k in PAPERS[name]} == PAPERS[name]
    assert row["validation patients"] == 0
    assert row["hours"] == pytest.approx(row["PFLOP"] / 2e-3 / 3600, rel=0.01)
    if name == "pcn_ablation":
        assert row["PFLOP"] == pytest.approx(750, rel=0.01)


def test_the_dry_run_counts_a_perceptual_loss_before_its_weights_are_fetched(tmp_path, monkeypatch):
    """`ldct train cascade --dry-run` on a fresh machine was an error about VGG's weights."""
    monkeypatch.setattr(vgg, "kept_file", lambda: tmp_path / "none.npz")
    request = Request("smoke", variants=("DRL, MSE (A)", "DRL, perceptual (B)"))
    plain, perceptual = dry_run.rows(load_study("cascade"), request, rate=2.0)
    # B's network is A's plus the addition of its input; VGG's two layers see 24x24 pixels three
    # times: forward, backward, and the target's.
    vgg_flops = 2 * 9 * (3 * 64 + 64 * 64) * 24 * 24
    per_image = perceptual["GFLOP a step"] / perceptual["batch"]
    assert per_image - plain["GFLOP a step"] / plain["batch"] == pytest.approx(
        3 * vgg_flops / 1e9, rel=0.1
    )


@pytest.mark.promise("dry-run")
def test_the_dry_run_prints_and_trains_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(study_run, "train", never)
    out = tmp_path / "out"
    command = ["train", "pcn_backbone", "--scale", "smoke", "--out", str(out), "--dry-run"]
    assert cli.run([*command, "--rate", "0.1"]) == 0
    text = capfd.readouterr().out
    for words in ("training patients: 1", "RED-CNN", "CPCE", "all 2 trainings", "as stated"):
        assert words in text
    assert cli.run([*command, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [r["variant"] for r in rows] == list(load_study("pcn_backbone").rows("smoke"))
    assert "measured" in rows[0]["rate"] and not out.exists()
