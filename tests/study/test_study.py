"""A study from the command to the report: numbers, restarts, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ldct_jax import cli
from ldct_jax.data.embedded import phantom_pairs
from ldct_jax.metrics.protocols import PCN
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.study import results
from ldct_jax.study.scripts import load_study
from ldct_jax.system.files import locked
from ldct_jax.train.checkpoint import load_model
from tests.tiny import rate_at

TABLES = ("table_i.json", "table_i.csv", "table_i.md")


def train(*arguments, out):
    return cli.run(["train", "pcn_ablation", "--scale", "smoke", "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rows of the ablation at the smoke scale."""
    out = tmp_path_factory.mktemp("runs") / "pcn_ablation"
    assert train("--variant", "SCN", "--variant", "full-pcn", out=out) == 0
    return out


def test_the_reports_numbers_equal_a_recomputation_from_the_checkpoint(finished):
    study = load_study("pcn_ablation")
    found = results.load(finished)
    assert found.variants == ("SCN", "full PCN")
    pairs = phantom_pairs(study.scales["smoke"].phantoms)
    test = pairs.of(found.study["splits"][0]["test"])
    table = json.loads((finished / "tables" / "table_i.json").read_text())
    rows = {row["model"]: row for row in table["rows"]}
    for run in found.runs:
        model, variables, window, _ = load_model(run.folder)
        images = WholeSlices(model, window)(variables, test.low_hu)
        scores = PCN.score(images, test.full_hu)
        ours = rows[run.variant]
        np.testing.assert_allclose(ours["PSNR [dB]"]["mean"], scores.psnr_db.mean(), rtol=1e-6)
        np.testing.assert_allclose(ours["SSIM"]["mean"], scores.ssim.mean(), rtol=1e-6)
        rmse = next(v for k, v in ours.items() if k.split(" [")[0] == "RMSE")
        np.testing.assert_allclose(rmse["mean"], scores.rmse.mean(), rtol=1e-6)
    for label, images in (
        ("low dose, undenoised", test.low_hu),
        ("Gaussian blur, σ = 1 pixel", gaussian_filter(test.low_hu.astype("f4"), (0, 1, 1))),
    ):
        expected = PCN.score(images, test.full_hu).psnr_db.mean()
        np.testing.assert_allclose(rows[label]["PSNR [dB]"]["mean"], expected, rtol=1e-9)


def test_the_page_scrolls_through_test_slices(finished):
    found = results.load(finished)
    test = found.study["splits"][0]["test"]
    pairs = phantom_pairs(load_study("pcn_ablation").scales["smoke"].phantoms).of(test)
    for run in found.runs:
        assert run.samples["scrolled"].shape == pairs.low_hu.shape
        np.testing.assert_array_equal(run.samples["scrolled_low"], pairs.low_hu)
        np.testing.assert_array_equal(run.samples["scrolled_full"], pairs.full_hu)
        middle = run.samples["scrolled"][len(pairs) // 2]
        np.testing.assert_array_equal(middle, run.samples["clones"][-1])


@pytest.mark.promise("by-patient")
def test_a_patient_is_on_one_side_only(finished):
    split = results.load(finished).study["splits"][0]
    sides = [set(split[side]) for side in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 3


@pytest.mark.promise("without-mayo", "train")
def test_everything_a_run_should_hold_is_there(finished):
    run = finished / "full-pcn"
    config = json.loads((run / "config.json").read_text())
    assert {"record", "versions", "device", "revision", "command"} <= set(config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert sum("evaluation" in r for r in rows) == 4
    assert list((run / "tensorboard").glob("events*"))
    page = (finished / "report.html").read_text()
    for words in ("Table I", "Fig 7", "phantom", "untested", "compile", "smoke"):
        assert words in page, words


def test_no_file_of_a_run_tells_whose_it_is_or_where_it_was(finished):
    """Neither paths, nor the user's name, nor the machine's."""
    import getpass
    import socket

    names = {getpass.getuser(), socket.gethostname()}
    # Shorter words may stand in packed numbers by chance.
    secrets = {str(finished), str(Path.cwd())} | {n for n in names if len(n) > 7}
    files = [p for p in finished.rglob("*") if p.is_file()]
    assert len(files) > 20
    for path in files:
        assert not names & set(re.split(r"[^A-Za-z0-9-]", str(path.relative_to(finished)))), path
        content = path.read_bytes()
        assert not [s for s in secrets if s.encode() in content], path


@pytest.mark.promise("report")
def test_finished_runs_are_kept_and_reports_rebuilt_byte_for_byte(finished, capfd):
    before = {name: (finished / "tables" / name).read_bytes() for name in TABLES}
    weights = (finished / "scn" / "result.json").stat().st_mtime_ns
    assert train("--variant", "SCN", out=finished) == 0
    assert "finished before, kept" in capfd.readouterr().err
    assert (finished / "scn" / "result.json").stat().st_mtime_ns == weights
    for name in TABLES:
        (finished / "tables" / name).unlink()
    assert cli.run(["report", str(finished)]) == 0
    assert {name: (finished / "tables" / name).read_bytes() for name in TABLES} == before


def test_other_settings_in_the_same_folder_are_refused(finished, capfd):
    assert train("--variant", "SCN", "--set", "steps=3", out=finished) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "steps is 4 there, 3 here" in error


def test_a_second_command_in_the_same_folder_is_refused(finished, capfd):
    with locked(finished):
        assert train(out=finished) == 1
    assert "another command is writing" in capfd.readouterr().err


def test_a_failed_variant_does_not_lose_the_others(tmp_path, capfd):
    own = tmp_path / "own.py"
    own.write_text(
        "import dataclasses\n"
        "from ldct_jax.optim import Adam, Constant\n"
        "from ldct_jax.study.scripts import load_study\n"
        "base = load_study('pcn_ablation')\n"
        "def variants(scale):\n"
        "    good = base.variants(scale)['full PCN'].but(n_clones=1)\n"
        "    bad = good.but(optimizer=Adam(Constant(1e30)), epochs=4)\n"
        "    return {'bad': bad, 'good': good}\n"
        "STUDY = dataclasses.replace(base, name='own', variants=variants)\n"
    )
    out = tmp_path / "runs"
    assert cli.run(["train", str(own), "--scale", "smoke", "--out", str(out)]) == 1
    told = capfd.readouterr().err
    assert "not finite" in told and "1 of 2 runs failed" in told.splitlines()[-1]
    assert results.load(out).variants == ("good",)
    assert (out / "report.html").exists()


@pytest.mark.core
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "pcn_ablatoin"], 2, "use one of"),
        (["train", "missing.py"], 2, "no Python script missing.py"),
        (["train", "pcn_ablation", "--set", "epoch=3"], 2, "here are"),
        (["train", "pcn_ablation", "--set", "epochs=x"], 2, "whole number"),
        (["train", "pcn_ablation", "--variant", "PCM"], 2, "full PCN"),
        (["train", "pcn_ablation", "--scale", "huge"], 2, "paper"),
        (["train", "pcn_ablation", "--init", "nowhere"], 2, "INIT"),
        (["train", "pcn_ablation", "--data", "nowhere"], 1, "nowhere"),
        (["train"], 2, "EXP"),
        (["trane"], 2, "train"),
        (["report", "nowhere"], 1, "no results"),
        (["train", "pcn_ablation", "--epochs", "3"], 2, "--epochs"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(arguments, code, words, capfd, tmp_path):
    if arguments[0] == "train" and len(arguments) > 1:
        arguments = [*arguments, "--out", str(tmp_path / "runs")]
    assert cli.run(arguments) == code
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert words in lines[0]


def test_too_few_patients_and_an_empty_folder_say_so(tmp_path, capfd, monkeypatch):
    (tmp_path / "empty").mkdir()
    arguments = ["train", "pcn_ablation", "--scale", "smoke", "--data", str(tmp_path / "empty")]
    assert cli.run([*arguments, "--out", str(tmp_path / "runs")]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")

    def never(*_):
        raise AssertionError("simulated before the split was checked")

    monkeypatch.setattr("ldct_jax.study.data.phantom_pairs", never)
    few = ("--set", "scale.phantoms.patients=2")
    assert train(*few, out=tmp_path / "two") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "2" in error and "patients" in error


@pytest.mark.promise("paired")
@pytest.mark.core
def test_the_papers_protocol_at_paper_scale():
    study = load_study("pcn_ablation")
    from ldct_jax.study.plan import chosen
    from ldct_jax.study.study import Request

    _, runs = chosen(study, Request("paper"))
    assert len(runs) == 8
    pcn = runs["full PCN"]
    assert (pcn.patches.size, pcn.patches.stride, pcn.patches.batch) == (55, 4, 128)
    assert pcn.patches.slices_per_patient == 10 and pcn.epochs == 60
    assert rate_at(pcn.optimizer, 0, 100, 10) == pytest.approx(1e-4)
    assert rate_at(pcn.optimizer, 99, 100, 10) == pytest.approx(1e-5)
    assert study.scales["paper"].repeats == 3
    wirings = {
        (e.model.transfer, e.model.coupled, e.model.residual, type(e.loss).__name__)
        for e in runs.values()
    }
    assert len(wirings) == 8


@pytest.mark.long
def test_a_profile_is_a_trace_in_the_run_folder(tmp_path):
    assert train("--variant", "SCN", "--set", "epochs=1", "--profile", out=tmp_path) == 0
    assert list((tmp_path / "scn" / "profile").rglob("*.xplane.pb"))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """A tiny file system, which only root can mount."""
    import os
    import subprocess
    import sys

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        command = [sys.executable, "-m", "ldct_jax", "train", "pcn_ablation", "--scale", "smoke"]
        command += ["--variant", "full PCN", "--set", "model.n_filters=24", "--out"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [*command, str(disk / "runs")],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=200,
        )
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and "space" in lines[-1], done.stderr[-1500:]
    assert "Traceback" not in done.stderr, done.stderr[-1500:]


@pytest.mark.long
def test_feeding_through_grain_gives_the_same_losses_bit_for_bit(finished, tmp_path):
    assert train("--variant", "SCN", "--feed", "grain", out=tmp_path) == 0
    logs = [(folder / "scn" / "metrics.jsonl").read_text() for folder in (finished, tmp_path)]
    assert logs[0] == logs[1]


@pytest.mark.promise("without-mayo", "paired")
@pytest.mark.long
def test_paired_mayo_folders_at_paper_scale_repeat_over_test_patients(tmp_path, capfd):
    """The paper's scale, three leave-one-out repeats, with everything else made tiny."""
    from tests.dicom_fixtures import write_mayo

    patients = ("L067", "L096", "L109", "L143")
    root = write_mayo(tmp_path / "mayo", patients)
    small = "model.n_filters=2 model.n_clones=2 model.n_layers=4 epochs=1 "
    small += "patches.size=24 patches.stride=20 patches.batch=16"
    out = tmp_path / "runs"
    command = ["train", "pcn_ablation", "--scale", "paper", "--data", str(root), "--set", small]
    # The fixture's slices are thinner than the paper's.
    command += ["--thickness", "1"]
    assert cli.run([*command, "--variant", "full PCN", "--out", str(out)]) == 0
    found = results.load(out)
    assert [r.repeat for r in found.runs] == [0, 1, 2]
    tested = [s["test"] for s in found.study["splits"]]
    assert len({tuple(t) for t in tested}) == 3 and all(len(t) == 1 for t in tested)
    assert found.study["data"]["patients"] == 4
    table = json.loads((out / "tables" / "table_i.json").read_text())
    pcn = next(r for r in table["rows"] if r["model"] == "full PCN")
    assert pcn["PSNR [dB]"]["n"] == 3
    # The collection's patient names stay out of everything that was written.
    for path in out.rglob("*"):
        if path.is_file():
            # Four letters may stand in an image's base64 by chance: none of these with them.
            text = re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", path.read_bytes())
            if path.suffix in (".html", ".json", ".jsonl", ".md", ".csv"):
                assert not any(name.encode() in text for name in patients), path


def test_a_package_tells_the_scores_of_its_run_and_names_no_patient(
    finished, tmp_path, monkeypatch
):
    facts = results.facts(finished / "full-pcn")
    assert results.facts(finished / "full-pcn" / "checkpoints" / "last") == facts
    monkeypatch.chdir(finished / "full-pcn")
    assert results.facts(Path()) == results.facts(Path("checkpoints/last")) == facts
    (tmp_path / "link").symlink_to(finished / "full-pcn")
    assert results.facts(tmp_path / "link") == facts
    assert facts.scores[0].method == facts.model == "ClonesNet"
    row = json.loads((finished / "full-pcn" / "result.json").read_text())["test"][-1]
    assert facts.scores[0].psnr_db == pytest.approx(np.mean([r["psnr_db"] for r in row]))
    table = json.loads((finished / "tables" / "table_i.json").read_text())
    low = next(r for r in table["rows"] if r["model"].endswith("undenoised"))
    told = next(s for s in facts.scores if s.method == "undenoised")
    assert told.psnr_db == pytest.approx(low["PSNR [dB]"]["mean"])
    assert all(s.protocol == str(PCN) for s in facts.scores)
    patients = [p for s in results.load(finished).study["splits"] for p in s["test"]]
    assert patients and not any(p in str(facts) for p in patients)
    assert results.facts(finished) == results.Facts()
