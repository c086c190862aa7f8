"""One name for data: folders, stores, the sample; cached by content."""

from __future__ import annotations

import numpy as np
import pytest

import ldct_jax.data.source as source_module
from ldct_jax.data.prepare import prepare
from ldct_jax.data.simulate import LowDose
from ldct_jax.data.source import load_pairs
from ldct_jax.errors import DataError
from tests.dicom_fixtures import anatomy, write_mayo, write_series

SPEC = LowDose(domain="image", added_sd_hu=30.0)


@pytest.mark.promise("normal-dose-only")
@pytest.mark.core
def test_normal_dose_dicom_is_prepared_and_simulated_once(tmp_path, monkeypatch):
    for k in range(2):
        write_series(tmp_path / "in" / f"{k}", anatomy(k), PatientID=f"P{k}")
    first = load_pairs(str(tmp_path / "in"), low=SPEC, cache=tmp_path / "cache")
    assert (len(first), len(first.patient_names), first.dose) == (12, 2, 0.25)
    assert "30 HU of noise added" in first.source

    def never(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(source_module, "prepare", never)
    monkeypatch.setattr("ldct_jax.data.derived.simulate", never)
    second = load_pairs(tmp_path / "in", low=SPEC, cache=tmp_path / "cache")
    np.testing.assert_array_equal(second.low_hu, first.low_hu)
    assert second.patients == first.patients
    monkeypatch.undo()
    # Another dose is another store; another file is another source.
    tenth = load_pairs(
        tmp_path / "in", low=LowDose(0.1, "image", added_sd_hu=30.0), cache=tmp_path / "cache"
    )
    assert tenth.dose == 0.1
    write_series(tmp_path / "in" / "2", anatomy(2), PatientID="P2")
    assert len(load_pairs(tmp_path / "in", low=SPEC, cache=tmp_path / "cache")) == 18
    # The same names and sizes with other pixels.
    write_series(tmp_path / "in" / "0", anatomy(9), PatientID="P0")
    changed = load_pairs(tmp_path / "in", low=SPEC, cache=tmp_path / "cache")
    np.testing.assert_array_equal(changed.full_hu[:6], anatomy(9))


@pytest.mark.promise("accounted-for")
@pytest.mark.core
def test_what_was_left_out_is_told_by_every_call(tmp_path, capsys):
    """A store from the cache was silent of the damaged slices that it lacks."""
    write_series(tmp_path / "in" / "a", anatomy(0))
    damaged = write_series(tmp_path / "in" / "b", anatomy(1), PatientID="Q")[0]
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (tmp_path / "in" / "gone.dcm").symlink_to("nowhere")
    said = []
    for _ in range(2):
        load_pairs(tmp_path / "in", low=SPEC, cache=tmp_path / "cache")
        said.append([x for x in capsys.readouterr().err.splitlines() if x.startswith("left out")])
    assert said[0] == said[1] and len(said[0]) == 2
    assert "1 CT image: truncated" in said[0][0] and "b/000.dcm" in said[0][0]
    assert "a link to nothing (gone.dcm)" in said[0][1]
    (kept,) = (tmp_path / "cache").glob("*.left_out.json")
    assert "000.dcm" not in kept.read_text()  # names may tell who it is
    # A store of before reports were kept, and a damaged report: surveyed again.
    for content in (None, "{", "[1]"):
        kept.unlink() if content is None else kept.write_text(content)
        load_pairs(tmp_path / "in", low=SPEC, cache=tmp_path / "cache")
        assert said[0] == [
            x for x in capsys.readouterr().err.splitlines() if x.startswith("left out")
        ]


@pytest.mark.core
def test_a_scanned_low_dose_is_kept(tmp_path):
    write_mayo(tmp_path / "in")
    pairs = load_pairs(tmp_path / "in", low=LowDose(0.1, "image"), cache=tmp_path / "cache")
    assert pairs.dose == 0.25 and "simulated" not in pairs.source
    assert not list((tmp_path / "cache").glob("pairs-*"))


@pytest.mark.core
def test_a_store_is_used_where_it_lies(tmp_path):
    write_mayo(tmp_path / "in")
    store, _ = prepare(tmp_path / "in", tmp_path / "store")
    pairs = load_pairs(tmp_path / "store", cache=tmp_path / "cache")
    np.testing.assert_array_equal(pairs.low_hu, store.pairs().low_hu)
    assert not (tmp_path / "cache").exists()


def test_the_noise_of_the_series_sets_the_default(tmp_path):
    noise = np.random.default_rng(0).normal(0, 12, (6, 64, 64))
    body = np.clip(anatomy(0) + noise, -1024, 3071).astype(np.int16)
    write_series(tmp_path / "in", body)
    pairs = load_pairs(tmp_path / "in", cache=tmp_path / "cache")
    from ldct_jax.data.noise_estimate import flat_noise_hu

    own = flat_noise_hu(body, 5.0)
    added = (pairs.low_hu.astype(int) - pairs.full_hu)[pairs.full_hu > -500]
    assert added.std() == pytest.approx(own * 3**0.5, rel=0.05)


@pytest.mark.core
def test_missing_and_empty_data(tmp_path):
    with pytest.raises(DataError, match="is no folder; give"):
        load_pairs(str(tmp_path / "no"), cache=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load_pairs(tmp_path / "empty", cache=tmp_path / "cache")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds no CT image"):
        load_pairs(tmp_path / "text", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
