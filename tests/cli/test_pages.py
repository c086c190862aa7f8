"""The pages of docs as a new user tries them: links, and every command on a user's own files."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ldct_jax import cli, record, user_script
from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.study.scripts import load_study
from tests.cli.pages import (
    DOCS,
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    called,
    check,
    commands,
    commands_and_output,
    links,
    scripts,
    text_of,
)
from tests.dicom_fixtures import anatomy, noisy, write_mayo_pair, write_series, write_slice

SIZE, PIXEL_MM = 96, 4.0


@functools.cache
def phantoms():
    """Four patients, as the demo scale's split needs, of two slices at both doses, 96 x 96."""
    spec = Phantoms(patients=4, slices=2, size=SIZE, pixel_mm=PIXEL_MM, added_sd_hu=20.0)
    return phantom_pairs(spec)


def patients(folder: Path, stacks: np.ndarray, *, slices=2, pixel_mm=PIXEL_MM) -> None:
    """A DICOM series a patient."""
    for i, name in enumerate(phantoms().patient_names):
        hu, spacing = stacks[slices * i : slices * (i + 1)], {"spacing": pixel_mm, "step": 5.0}
        write_series(folder / name, hu, SliceThickness="5", PatientID=name, **spacing)


def scans(root: Path) -> None:
    patients(root / "scans", phantoms().full_hu)


def both_doses(root: Path) -> None:
    patients(root / "scans" / "normal", phantoms().full_hu)
    patients(root / "scans" / "low", phantoms().low_hu)


def fine_scans(root: Path) -> None:
    """Pixels small enough that the noise of flat tissue, and so the dose, can be measured."""
    spec = dict(patients=4, slices=1, size=2 * SIZE, pixel_mm=PIXEL_MM / 2, added_sd_hu=35.0)
    stacks = phantom_pairs(Phantoms(**spec)).full_hu
    patients(root / "scans", stacks, slices=1, pixel_mm=PIXEL_MM / 2)


def mayo(root: Path) -> None:
    """Two reconstructions of three patients, as they are downloaded."""
    for seed, patient in enumerate(("L067", "L096", "L109")):
        for mm, tags in (("1mm", {}), ("3mm", {"SliceThickness": "3"})):
            folders = (root / "mayo" / f"{mm} B30" / f"{d}_{mm}" for d in ("full", "quarter"))
            folders = tuple(f / patient / f.name for f in folders)
            write_mayo_pair(folders, patient, seed, tags=tags)


def arrays(root: Path) -> None:
    scans(root)
    pairs = phantoms()
    (root / "arrays").mkdir()
    np.save(root / "arrays" / "low.npy", pairs.low_hu)
    np.save(root / "arrays" / "full.npy", pairs.full_hu)
    np.save(root / "arrays" / "patients.npy", np.array(pairs.patients))


def archive(root: Path) -> None:
    """What the walk-through begins with, and the run that it names."""
    for k, (name, kernel) in enumerate((("abdomen", "59"), ("chest", "B40f"))):
        tags = {"ConvolutionKernel": kernel, "SliceThickness": "8", "SeriesNumber": (5, 3)[k]}
        hu = noisy(anatomy(k, n=12), 25, k)
        write_series(root / "scans" / name, hu, step=8.0, PatientID=name, **tags)
    damaged = root / "scans" / "chest" / "010.dcm"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_slice(root / "scans" / "topogram" / "topo.dcm", anatomy(0)[0], z=0, **localizer)
    (root / "scans" / "README.txt").write_text("an archive\n")
    (root / "scans" / "report.pdf").write_bytes(b"%PDF-1.4\n")
    train = ["train", "pcn_ablation", "--scale", "smoke", "--variant", "full PCN"]
    assert cli.run([*train, "--out", "runs/pcn_ablation"]) == 0


@dataclasses.dataclass(frozen=True)
class Trial:
    """How a page is tried.

    Args:
      have: makes what its user has, in an empty folder.
      slow: beginnings of the commands that only the long test runs; "" for all.
      never: beginnings of those that no test runs from here, and why.
    """

    have: Callable[[Path], None] = lambda root: None
    slow: tuple[str, ...] = ()
    never: Mapping[str, str] = dataclasses.field(default_factory=dict)


def nothing_to_run(page: Path) -> bool:
    return page.name in ("README.md", "developing.md", "requirements.md", "third_party.md")


TRIALS = {
    "own_dicom.md": Trial(both_doses, slow=("ldct train",)),
    "mayo_data.md": Trial(mayo, slow=("ldct train",)),
    "simulate_low_dose.md": Trial(
        fine_scans, slow=("ldct train", "ldct evaluate", "ldct data simulate scans stores/tenth")
    ),
    "why_psnrs_differ.md": Trial(),
    "adapt.md": Trial(
        never={"ldct adapt": "tests/study/test_adapt.py", "ldct denoise": "needs its result"}
    ),
    "own_network.md": Trial(arrays, slow=("",)),
    "denoise_walkthrough.md": Trial(archive, slow=("",)),
    "training.md": Trial(slow=("",)),
    "models.md": Trial(slow=("",)),
    "pacs.md": Trial(never={"ldct serve": "it doesn't end: tests/serve"}),
    "many_devices.md": Trial(
        scans,
        never={
            "make setup": "installs",
            "make train EXP=pcn_ablation ACCEL=cuda12": "needs a GPU",
            "ldct train pcn_ablation --scale paper": "several processes: test_distributed.py",
        },
    ),
}


@pytest.fixture(autouse=True)
def nothing_stays_imported(monkeypatch):
    """Each page begins as a new process does, with no script named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, user_script.OWN, raising=False)
    yield
    sys.modules.pop(user_script.OWN, None)


@pytest.mark.core
@pytest.mark.parametrize("page", [README, *DOCS], ids=str)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in links(page):
        target, _, heading = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = (page.parent / target) if target else page
        assert (ROOT / there).exists(), link
        assert not heading or heading in anchors(there), link


@pytest.mark.core
def test_the_index_names_every_page():
    named = set(links(Path("docs/README.md")))
    assert {p.name for p in PAGES} - named == {"README.md"}
    assert "docs/README.md" in links(README)


@pytest.mark.core
def test_every_page_is_tried_with_all_its_commands():
    """A new page, and one that has lost its commands, must say here how it is tried."""
    assert {p.name for p in PAGES if not nothing_to_run(p)} == set(TRIALS)
    for page in PAGES:
        found = commands(page)
        assert bool(found) != nothing_to_run(page), page
        trial = TRIALS.get(page.name, Trial())
        for beginning in (*trial.slow, *trial.never):
            assert any(c.startswith(beginning) for c in found), f"{page}: no {beginning}"


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_are_taken(page):
    for command in commands(page):
        check(command)


ONE_ROW = {"pcn_ablation": "full PCN", "pcn_backbone": "CPCE"}
"""Of the package's experiments that pages train: a row that stands for all."""


def at_smoke_scale(words: list[str]) -> list[str]:
    """The training of a few steps in place of one of hours."""
    if words[0] != "train":
        return words
    if not words[1].endswith(".py") and "--variant" not in words:
        words = [*words, "--variant", ONE_ROW[words[1]]]
    if "--dry-run" in words:
        return [*words, "--rate", "1"]
    if "--out" not in words and "smoke" not in words:
        words = [*words, "--out", f"runs/{Path(words[1]).stem}"]  # where the whole one would go
    if "--scale" in words:
        at = words.index("--scale")
        words = words[:at] + words[at + 2 :]
    return [re.sub(r"\bsteps=\d+", "steps=2", word) for word in words] + ["--scale", "smoke"]


def run_page(page: Path, root: Path, capfd, *, slow: bool) -> str:
    """Run the commands of ``page`` in ``root``, one after the other; what they printed.

    ``slow``: the slow ones too. A command fails only where the page shows its error.
    """
    trial, printed = TRIALS[page.name], ""
    trial.have(root)
    for name, script in scripts(page).items():
        (root / name).write_text(script)
    for command, output in commands_and_output(page):
        if command.startswith((*trial.never, *(() if slow else trial.slow))):
            continue
        for words in called(command):
            capfd.readouterr()
            code = cli.run(at_smoke_scale(words))
            said = capfd.readouterr()
            printed += said.out
            wanted = (1, 2) if "error: " in output else (0, 1) if "…" in output else (0,)
            assert code in wanted, f"{command}: {said.out}{said.err}"
            if error := re.search(r"^error: .*$", output, re.M):
                assert error[0] == said.err.strip().splitlines()[-1]
    return printed


def quick(page: Path) -> bool:
    trial = TRIALS.get(page.name)
    left_out = (*trial.slow, *trial.never) if trial else ("",)
    return any(not c.startswith(left_out) for c in commands(page))


@pytest.mark.parametrize("page", [p for p in PAGES if quick(p)], ids=str)
def test_the_quick_commands_of_a_page_run(page, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    printed = run_page(page, tmp_path, capfd, slow=False)
    if examine := SHOWN.get(page.name):
        examine(page, printed)


@pytest.mark.core
@pytest.mark.parametrize("name", ["least.py", "own.py"])
def test_a_network_of_the_page_on_them_can_be_recorded_and_trained(tmp_path, name):
    """What a run needs of a script, without the run; the long test trains it."""
    arrays(tmp_path)
    (tmp_path / name).write_text(scripts(Path("docs/own_network.md"))[name])
    study = load_study(str(tmp_path / name))
    for experiment in study.rows("demo").values():
        assert record.from_record(json.loads(json.dumps(experiment.record()))) == experiment
        images = np.zeros((2, 8, 8, 1), np.float32)
        assert experiment.loss(images, images).shape == (2,)
        weights = {"kernel": np.ones(3, np.float32)}
        optimizer = experiment.optimizer.build(100, 10)
        optimizer.update(weights, optimizer.init(weights), weights)
    if study.data is not None:
        pairs = study.data(study.scales["demo"], str(tmp_path / "arrays"))
        assert pairs.patient_names == phantoms().patient_names


def doses_are_as_stated(page: Path, printed: str) -> None:
    """The check that the page tells users to make passes on phantoms."""
    found = [int(n) for n in re.findall(r"measured dose (\d+)", printed)]
    assert found and found == [pytest.approx(n, rel=0.12) for n in (25, 10)[: len(found)]]


def scores_are_those_of(page: Path, printed: str) -> None:
    """The numbers of the page's table are those of its command."""
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]+) dB \| ([\d.]+) dB \|$", text_of(page), re.M)
    scored = re.findall(r"^protocol ([\w-]+):|^([\w ]+), all patients: ([\d.]+)", printed, re.M)
    name, found = "", {}
    for protocol, method, psnr_db in scored:
        name = protocol or name
        if method:
            found[name, method] = float(psnr_db)
    assert len(rows) == 6
    for name, low, blurred in rows:
        assert found[name, "undenoised"] == pytest.approx(float(low), abs=0.1), name
        assert found[name, "gaussian blur"] == pytest.approx(float(blurred), abs=0.1), name


def the_table_is_printed(page: Path, printed: str) -> None:
    def rows(text: str) -> list[list[str]]:
        return [re.split(r"  +", line.strip()) for line in text.splitlines()]

    (shown,) = (block for block in blocks(page) if "ldct models" in block)
    head, *of_page = rows(shown)[1:]
    assert head == rows(printed)[0] and len(of_page) > 15
    assert [row for row in of_page if row not in rows(printed)] == []


SHOWN = {
    "simulate_low_dose.md": doses_are_as_stated,
    "why_psnrs_differ.md": scores_are_those_of,
    "models.md": the_table_is_printed,
}
"""How what a page shows is compared with what its commands print."""


@pytest.mark.long
@pytest.mark.parametrize("page", [p for p in PAGES if p.name in TRIALS], ids=str)
def test_all_commands_of_a_page_run_at_the_smoke_scale(page, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    printed = run_page(page, tmp_path, capfd, slow=True)
    if examine := SHOWN.get(page.name):
        examine(page, printed)
    for block in re.findall(r"```python\n(import ldct_jax\n.*?)```", text_of(page), re.S):
        images = np.zeros((2, 64, 64), np.float32)
        exec(compile(block, str(page), "exec"), {"hu": images, "noisy_hu": images})
