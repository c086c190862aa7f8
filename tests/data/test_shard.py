"""``--shard K/N`` of ``data prepare`` and ``data simulate``: N processes give what one gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ldct_jax.cli import run
from ldct_jax.data import derived, store_writer
from ldct_jax.data.prepare import prepare
from ldct_jax.data.store import STATE, Store
from ldct_jax.dicom import load
from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import LdctError
from ldct_jax.system.files import locked
from ldct_jax.system.shard import Shard
from tests.dicom_fixtures import anatomy, noisy, write_series

SIMULATE = ("--domain", "image", "--added-sd", "30")


@pytest.fixture(autouse=True)
def one_key(monkeypatch):
    """Labels of patients come from a random key; here from one that all stores share."""
    monkeypatch.setattr(store_writer.secrets, "token_bytes", lambda n: bytes(n))


def tree(root: Path) -> Path:
    """Seven series of five patients, one of which can't be stored."""
    for seed in range(7):
        hu = noisy(anatomy(seed, n=2), 10, seed) if seed != 3 else anatomy(0, n=2) * 0
        write_series(root / f"{seed}", hu, PatientID=f"P{seed % 5}")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store."""
    files = (f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


@pytest.mark.long
def test_four_processes_give_what_one_gives(tmp_path):
    """Started at once, as a job array does; the last one finishes the store."""
    source = tree(tmp_path / "in")
    # The key of the labels is the first process's; all processes find it there.
    four, one = tmp_path / "four", tmp_path / "one"
    command = [sys.executable, "-m", "ldct_jax"]

    def together(*words: str) -> list[int]:
        parts = [
            subprocess.Popen([*command, *words, "--shard", f"{k}/4"], stdout=subprocess.PIPE)
            for k in (1, 2, 3, 4)
        ]
        said = [p.communicate(timeout=600)[0].decode() for p in parts]
        assert sum("is done; the last one" in text for text in said) == 3, said
        return sorted(p.returncode for p in parts)

    codes = together("data", "prepare", str(source), str(four))
    assert codes == [0, 0, 0, 1]  # a series was left out
    assert run(["data", "prepare", str(source), str(one)]) == 1
    stores = [Store.open(folder) for folder in (four, one)]
    for a, b in zip(*(store.series for store in stores), strict=True):
        assert (a.full, a.offsets_mm, a.noise_hu, a.notes) == (
            b.full,
            b.offsets_mm,
            b.noise_hu,
            b.notes,
        )
    assert set(contents(four)) == set(contents(one)) and len(stores[0].patients) == 4
    assert together("data", "simulate", str(one), str(tmp_path / "low4"), *SIMULATE) == [0] * 4
    assert run(["data", "simulate", str(one), str(tmp_path / "low1"), *SIMULATE]) == 0
    assert contents(tmp_path / "low4") == contents(tmp_path / "low1")
    low, scores = str(tmp_path / "low1"), [tmp_path / f"scores{n}.json" for n in (4, 1)]
    evaluate = ["evaluate", low, low, "--model", "gaussian", "--json"]
    assert together(*evaluate, str(scores[0])) == [0] * 4
    assert run([*evaluate, str(scores[1])]) == 0
    assert scores[0].read_bytes() == scores[1].read_bytes()


@pytest.mark.core
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_one_after_the_other_give_the_same_bits_and_report(tmp_path, capfd, order):
    source, one, parts = tree(tmp_path / "in"), tmp_path / "one", tmp_path / "parts"
    (source / "0" / "000.dcm").write_bytes((source / "0" / "000.dcm").read_bytes()[:3000])
    assert run(["data", "prepare", str(source), str(one)]) == 1
    whole = capfd.readouterr()
    for k in order:
        code = run(["data", "prepare", str(source), str(parts), "--shard", f"{k}/3"])
        said = capfd.readouterr()
        if k == order[-1]:
            assert code == 1 and said.err.endswith(whole.err.splitlines()[-1] + "\n")
            assert said.out.replace(str(parts), str(one)) == whole.out
        else:
            assert code == 0 and f"part {k} of 3 is done" in said.out
            assert not (parts / "manifest.json").exists()
    assert contents(parts) == contents(one)
    # Any part again opens the finished store.
    assert run(["data", "prepare", str(source), str(parts), "--shard", "2/3"]) == 1
    assert capfd.readouterr().out.replace(str(parts), str(one)) == whole.out


@pytest.mark.core
def test_what_decoding_told_one_part_stands_in_the_report_of_all(tmp_path, monkeypatch):
    source, read = tree(tmp_path / "in"), load.read_stored

    def damaged(header):
        if header.path.name == "001.dcm" and header.path.parent.name in "05":
            raise Unusable(header.path, "damaged: its pixels can't be decoded")
        return read(header)

    monkeypatch.setattr(load, "read_stored", damaged)
    for k in (1, 2):
        _, survey = prepare(source, tmp_path / "parts", shard=Shard(k, 2))
    _, whole = prepare(source, tmp_path / "one")
    assert survey.left_out == whole.left_out and len(whole.left_out) == 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")


@pytest.mark.core
def test_a_part_makes_its_own_series_and_no_others(tmp_path):
    source = tree(tmp_path / "in")
    prepare(source, tmp_path / "out", shard=Shard(2, 3))
    assert sorted(f.name[:11] for f in (tmp_path / "out").glob("*.npy")) == [
        "series-0001",
        "series-0004",
    ]


@pytest.mark.core
def test_a_killed_part_of_a_simulation_is_continued(tmp_path, monkeypatch):
    source, out, one = tree(tmp_path / "in"), tmp_path / "low2", tmp_path / "low1"
    store, done, simulate = tmp_path / "store", [], derived.simulate
    prepare(source, store)

    def simulated(folder: Path, *words: str) -> int:
        return run(["data", "simulate", str(store), str(folder), *SIMULATE, *words])

    def killed(hu, *rest, **options):
        done.append(hu)
        if len(done) == 5:
            raise KeyboardInterrupt
        return simulate(hu, *rest, **options)

    assert simulated(one) == 0
    monkeypatch.setattr(derived, "simulate", killed)
    assert simulated(out, "--shard", "2/2") == 0 and len(done) == 3  # of six series
    assert sorted(f.name[:11] for f in out.glob("*-low.npy")) == [
        f"series-000{i}" for i in (1, 3, 5)
    ]
    assert simulated(out, "--shard", "1/2") == 130 and not (out / "manifest.json").exists()
    assert simulated(out, "--shard", "1/2") == 0
    assert len(done) == 7, "nothing is done twice but what was killed"
    assert contents(out) == contents(one)


@pytest.mark.core
def test_a_killed_part_is_continued(tmp_path, monkeypatch):
    source, out = tree(tmp_path / "in"), tmp_path / "out"
    assert prepare(source, out, shard=Shard(1, 2))[0] is None
    read, seen = load.read_stored, []

    def killed(header):
        seen.append(header.path.parent.name)
        if len(set(seen)) == 3:
            raise KeyboardInterrupt
        return read(header)

    monkeypatch.setattr(load, "read_stored", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, shard=Shard(2, 2))
    monkeypatch.setattr(load, "read_stored", read)
    before = {f.name: f.stat().st_mtime_ns for f in out.glob("*.npy")}
    store, _ = prepare(source, out, shard=Shard(2, 2))
    assert {f: (out / f).stat().st_mtime_ns for f in before} == before  # nothing is done twice
    prepare(source, tmp_path / "one")
    assert len(store.series) == 6 and contents(out) == contents(tmp_path / "one")
    assert not (out / STATE).exists()


@pytest.mark.core
def test_who_may_share_a_store(tmp_path, capsys):
    source, out = tree(tmp_path / "in"), tmp_path / "out"
    prepare(source, out, shard=Shard(1, 3))
    with locked(out, shared=True), pytest.raises(LdctError, match="another command"):
        prepare(source, out)
    with locked(out, shared=True):
        assert prepare(source, out, shard=Shard(2, 3))[0] is None
    with locked(out / STATE / "3-of-3"), pytest.raises(LdctError, match="another command"):
        prepare(source, out, shard=Shard(3, 3))
    # Another number of parts takes over what is there.
    assert prepare(source, out, shard=Shard(1, 2))[0] is None
    assert prepare(source, out, shard=Shard(2, 2))[0] is not None
    assert run(["data", "simulate", str(source), str(tmp_path / "low"), "--shard", "1/2"]) == 2
    assert "make one first" in capsys.readouterr().err


def test_one_body_under_two_patients_is_found_across_parts(tmp_path):
    for name in "ab":
        write_series(tmp_path / "in" / name, anatomy(0), PatientID=name)
    prepare(tmp_path / "in", tmp_path / "out", shard=Shard(1, 2))
    with pytest.raises(LdctError, match="same images under two"):
        prepare(tmp_path / "in", tmp_path / "out", shard=Shard(2, 2))
    assert json.loads((tmp_path / "out" / STATE / "begun.json").read_text())
