"""``ldct export --format package``: the card, the digests, and the way back."""

from __future__ import annotations

import dataclasses
import importlib.resources
import importlib.util
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard

import ldct_jax
from ldct_jax.cli import run as cli
from ldct_jax.denoise.models import find, load
from ldct_jax.errors import CheckpointError
from ldct_jax.export import package as package_module
from ldct_jax.export.package import SUMS, Facts, Score
from ldct_jax.metrics.protocols import PCN
from ldct_jax.models.noise_scaled import with_series_noise
from ldct_jax.models.whole_slices import WholeSlices
from ldct_jax.system.files import sha256
from tests.dicom_fixtures import anatomy, noisy
from tests.export.networks import FACTS, SCALED


@pytest.mark.promise("package")
@pytest.mark.parametrize("jax_there", [True, False])
def test_a_package_is_a_model_that_equals_the_network(package, jax_there, monkeypatch):
    if not jax_there:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = find(package)
    assert found.kind == ("stablehlo" if jax_there else "onnx") and found.name == "scaled"
    hu = np.concatenate([noisy(anatomy(0, n=1), sd, sd) for sd in (30, 45, 60)])
    known = with_series_noise(SCALED.variables, hu)
    native = WholeSlices(SCALED.model, SCALED.window)(known, np.asarray(hu, np.float32))
    assert np.abs(native - hu).max() > 1
    assert np.abs(found.open()(hu) - native).max() < 0.05


@pytest.mark.promise("package")
def test_the_card_is_one_that_hubs_read(package):
    card = ModelCard((package / "README.md").read_text())
    assert card.data.license == "apache-2.0" and card.data.library_name == "ldct_jax"
    assert card.data.pipeline_tag == "image-to-image" and "low-dose-ct" in card.data.tags
    assert card.data.training_data == "waves"
    assert card.data.training_data_attribution == "The Sea"
    values = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert values == {"psnr": 41.25, "ssim": 0.75, "rmse": 0.01}, "the network's rows alone"
    assert all(r.metric_args == {"protocol": str(PCN)} for r in card.data.eval_results)
    for told in (
        "| two patients | undenoised | 38.50 |",
        "kernels B30f",
        "cd" * 32,
        "Cite: The Sea",
    ):
        assert told in card.content
    assert "Apache License" in (package / "LICENSE").read_text()


def test_no_number_of_the_card_is_typed():
    template = importlib.resources.files("ldct_jax.export") / "templates" / "package.md.j2"
    text = re.sub(r"\{[{%].*?[}%]\}", "", template.read_text())
    numbers = re.findall(r"\S*\d\S*", text)
    words = {re.sub(r"\W", "", n) for n in numbers}
    assert words == {"float32", "sha256sum", "SHA256SUMS", "sha256"}


def damaged(package, tmp_path):
    shutil.copytree(package, tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize("name", ["README.md", "model.onnx", "model.stablehlo.json"])
def test_a_changed_file_is_named(package, tmp_path, name, capsys):
    folder = damaged(package, tmp_path)
    np.save(tmp_path / "x.npy", noisy(anatomy(0, n=1), 30, 0))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    denoise = ["denoise", str(tmp_path / "x.npy"), str(tmp_path / "out"), "--model", str(folder)]
    assert cli(denoise) != 0
    told = capsys.readouterr().err
    assert f"error: {name} in {folder} changed since the export" in told
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named_and_an_edited_card_can_be_signed(package, tmp_path):
    folder = damaged(package, tmp_path)
    card = folder / "README.md"
    before = sha256(card)
    card.write_text(card.read_text() + "\nOur own remark.\n")
    sums = (folder / SUMS).read_text()
    (folder / SUMS).write_text(sums.replace(before, sha256(card)))
    load(folder)
    (folder / "LICENSE").unlink()
    with pytest.raises(CheckpointError, match="lacks LICENSE"):
        find(folder)
    (folder / SUMS).write_text("no sums")
    with pytest.raises(CheckpointError, match="SHA256SUMS is missing or damaged"):
        find(folder)
    (folder / SUMS).unlink()
    with pytest.raises(CheckpointError, match="SHA256SUMS is missing or damaged"):
        find(folder)


def test_the_command_makes_one_with_a_licence_of_ones_own(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "terms.txt").write_text("For our hospital.")
    export = ["export", str(checkpoint), str(out), "--size", "64x64", "--format"]
    assert cli([*export, "package", "--format", "onnx"]) == 2
    assert cli([*export, "onnx", "--licence", str(tmp_path / "terms.txt")]) == 2
    assert cli([*export, "package", "--licence", str(tmp_path / "none.txt")]) == 2
    assert "give a licence file" in capsys.readouterr().err
    assert not out.exists()
    assert cli([*export, "package", "--licence", str(tmp_path / "terms.txt")]) == 0
    assert "model.onnx: " in capsys.readouterr().out
    assert (out / "LICENSE").read_text() == "For our hospital."
    card = ModelCard((out / "README.md").read_text())
    assert card.data.license == "other" and card.data.eval_results is None
    assert "None: the checkpoint isn't part of a study" in card.content
    np.save(tmp_path / "x.npy", noisy(anatomy(0, n=2), 30, 0))
    denoise = ["denoise", str(tmp_path / "x.npy"), str(tmp_path / "done"), "--model", str(out)]
    assert cli(denoise) == 0
    native = load(checkpoint)(np.load(tmp_path / "x.npy"))
    assert np.abs(np.load(tmp_path / "done" / "x.npy") - native).max() < 0.05
    assert cli([*export, "package"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_files_of_the_users_own_in_the_folder_are_kept(checkpoint, tmp_path, capsys):
    for name in ("README.md", "LICENSE"):
        own = tmp_path / name / "own"
        own.mkdir(parents=True)
        (own / name).write_text("mine")
        assert cli(["export", str(checkpoint), str(own), "--format", "package"]) == 2
        assert f"{name} exists: choose another OUT folder" in capsys.readouterr().err
        assert [p.name for p in own.iterdir()] == [name] and (own / name).read_text() == "mine"


def test_exported_files_alone_are_not_called_damaged_and_a_run_stays_a_run(
    package, checkpoint, tmp_path
):
    (tmp_path / "files").mkdir()
    shutil.copy(package / "model.onnx", tmp_path / "files")
    with pytest.raises(CheckpointError, match=r"name one \(as .*model.onnx\)"):
        find(tmp_path / "files")
    run = shutil.copytree(checkpoint, tmp_path / "run")
    shutil.copy(package / "model.onnx", run)
    assert find(run).kind == "checkpoint"


def test_what_a_card_needs_is_missed_before_anything_is_exported(checkpoint, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    hub = "huggingface_hub"
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == hub else found(n, *a)
    )
    out = tmp_path / "out"
    assert cli(["export", str(checkpoint), str(out), "--format", "package"]) == 2
    assert not out.exists()


def test_the_example_has_the_size_of_the_slices():
    for height, width in ((64, 48), (20, 12)):
        image = package_module.example(height, width)
        assert image.shape == (1, height, width) and image.dtype == np.int16
        assert image.min() < -500 and image.max() > 0


def test_the_licence_is_this_packages_wherever_it_is_installed(tmp_path, monkeypatch):
    """Among installed packages some leave their own LICENSE beside this one."""
    (tmp_path / "LICENSE").write_text("of somebody else")
    monkeypatch.setattr(ldct_jax, "__file__", str(tmp_path / "ldct_jax" / "__init__.py"))
    assert "Apache License" in package_module._licence(None)


def test_facts_go_to_json_and_back():
    assert Facts.of_record(dataclasses.asdict(FACTS)) == FACTS
    assert isinstance(FACTS.scores[0], Score)
