"""The store: verified, atomic, free of pickles and foreign paths."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest

from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.data.store_writer import begin, finished, write_array
from ldct_jax.errors import DataError, LdctError
from ldct_jax.system.files import write_whole

RNG = np.random.default_rng(0)


def hu(n=3, size=8):
    return RNG.integers(-1024, 3071, (n, size, size)).astype(np.int16)


def make_store(folder, series, digest="d", paired=True):
    """A store of (patient, full) pairs; the low dose is full + 1."""
    with begin(folder, digest, needed_bytes=0) as unfinished:
        for i, (patient, full) in enumerate(series):

            def make(stem, patient=patient, full=full):
                low = write_array(folder, f"{stem}-low.npy", full + np.int16(1)) if paired else None
                return SeriesRecord(
                    patient=unfinished.label(patient),
                    full=write_array(folder, f"{stem}-full.npy", full),
                    low=low,
                    pixel_mm=0.7,
                    slice_mm=None,
                    step_mm=1.0,
                    offsets_mm=tuple(float(k) for k in range(len(full))),
                    dose=0.25 if paired else None,
                )

            unfinished.series(str(i), make)
        return unfinished.finish("test source", "cite me")


@pytest.mark.core
def test_what_goes_in_comes_out(tmp_path):
    a, b, c = hu(), hu(2), hu(4)
    made = make_store(tmp_path / "s", [("one", a), ("two", b), ("one", c)])
    store = Store.open(tmp_path / "s")
    assert store == made
    assert len(store.patients) == 2
    assert store.series[0].patient == store.series[2].patient
    pairs = store.pairs()
    np.testing.assert_array_equal(pairs.full_hu, np.concatenate([a, b, c]))
    np.testing.assert_array_equal(pairs.low_hu, pairs.full_hu + 1)
    assert pairs.patients == tuple(np.repeat([s.patient for s in store.series], [3, 2, 4]))
    assert (pairs.source, pairs.attribution, pairs.dose) == ("test source", "cite me", 0.25)
    assert pairs.pixel_mm.tolist() == [0.7] * 9 and np.isnan(pairs.slice_mm).all()
    mapped = store.full(1)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable


@pytest.mark.core
def test_one_body_under_two_labels_and_one_series_twice_are_refused(tmp_path):
    a = hu()
    with pytest.raises(DataError, match="the same images under two patients"):
        make_store(tmp_path / "s", [("one", a), ("two", a)])
    make_store(tmp_path / "t", [("one", a), ("one", a)])  # two reconstructions may be equal
    with (
        begin(tmp_path / "u", "d", needed_bytes=0) as writer,
        pytest.raises(DataError, match="twice"),
    ):
        for _ in range(2):
            writer.series("same", lambda stem: series_of(tmp_path / "u", stem))


def series_of(folder, stem):
    array = write_array(folder, f"{stem}-full.npy", hu())
    return SeriesRecord("p", array, None, 0.7, None, 1.0, (0.0, 1.0, 2.0))


@pytest.mark.core
def test_labels_differ_between_stores_and_their_key_is_gone(tmp_path):
    one = make_store(tmp_path / "1", [("CANARY", hu())])
    two = make_store(tmp_path / "2", [("CANARY", hu())])
    assert one.patients != two.patients
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == [
        "manifest.json",
        "series-0000-full.npy",
        "series-0000-low.npy",
    ]


@pytest.mark.core
def test_changed_arrays_are_found(tmp_path):
    make_store(tmp_path, [("one", hu())])
    path = tmp_path / "series-0000-low.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    Store.open(tmp_path, verify=False)
    with pytest.raises(DataError, match="SHA-256 differs"):
        Store.open(tmp_path)
    for bad in (good[:-1], b"", b"\x93NUMPY"):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="missing or damaged"):
            Store.open(tmp_path, verify=False)
    np.save(path, np.zeros((3, 8, 8), np.float32))
    with pytest.raises(DataError, match="float32, its manifest says"):
        Store.open(tmp_path, verify=False)
    np.save(path, np.array([[[{"a": 1}]]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="missing or damaged"):
        Store.open(tmp_path, verify=False)
    path.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        Store.open(tmp_path)


@pytest.mark.core
@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda m: m.update(format="zip"), "not a store's"),
        (lambda m: m.update(version=99), "version 99"),
        (lambda m: m.pop("source"), "not a store's"),
        (lambda m: m.update(series=[]), "holds no series"),
        (lambda m: m["series"][0].update(surprise=1), "not a store's"),
        (lambda m: m["series"][0]["full"].update(file="../outside.npy"), "file name"),
        (lambda m: m["series"][0]["full"].update(file="/etc/x.npy"), "file name"),
        (lambda m: m["series"][0]["full"].update(shape=[3, 8]), "shape"),
        (lambda m: m["series"][0]["low"].update(shape=[2, 8, 8]), "different shapes"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path, change, reason):
    make_store(tmp_path, [("one", hu())])
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=reason) as error:
        Store.open(tmp_path)
    assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Store.open(tmp_path)


@pytest.mark.core
def test_no_store_and_an_unfinished_one(tmp_path):
    with pytest.raises(DataError, match="is not a store"):
        Store.open(tmp_path)
    with begin(tmp_path / "s", "d", needed_bytes=0):
        pass
    with pytest.raises(DataError, match="unfinished; run the same"):
        Store.open(tmp_path / "s")


@pytest.mark.core
def test_matrix_sizes_are_not_mixed_silently(tmp_path):
    store = make_store(tmp_path, [("one", hu()), ("two", hu(2, 16))])
    with pytest.raises(DataError, match=r"several matrix sizes \(8x8, 16x16\)"):
        store.pairs()


def test_normal_dose_alone_gives_no_pairs(tmp_path):
    store = make_store(tmp_path, [("one", hu())], paired=False)
    assert not store.is_paired
    with pytest.raises(DataError, match="1 of 1 series have normal dose only"):
        store.pairs()
    with pytest.raises(DataError, match="no low dose"):
        store.low(0)


@pytest.mark.core
def test_a_store_is_never_overwritten_or_begun_elsewhere(tmp_path):
    make_store(tmp_path / "s", [("one", hu())])
    assert finished(tmp_path / "s", "d") is not None
    assert finished(tmp_path / "s", "other") is None
    with (
        pytest.raises(DataError, match="is a finished store"),
        begin(tmp_path / "s", "d", needed_bytes=0),
    ):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with (
        pytest.raises(DataError, match="is not empty"),
        begin(tmp_path / "full", "d", needed_bytes=0),
    ):
        pass
    with begin(tmp_path / "u", "d", needed_bytes=0):
        pass
    with (
        pytest.raises(DataError, match="other files or with other options"),
        begin(tmp_path / "u", "other", needed_bytes=0),
    ):
        pass


def test_two_writers_exclude_each_other(tmp_path):
    with (
        begin(tmp_path, "d", needed_bytes=0),
        pytest.raises(LdctError, match="another command is writing"),
        begin(tmp_path, "d", needed_bytes=0),
    ):
        pass


@pytest.mark.core
def test_no_space_is_one_line_and_leaves_nothing_half_written(tmp_path):
    with (
        pytest.raises(DataError, match="GB are free"),
        begin(tmp_path / "s", "d", needed_bytes=1 << 60),
    ):
        pass
    target = tmp_path / "x.npy"
    target.write_bytes(b"before")

    def full_disk(part):
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LdctError, match="is full"):
        write_whole(target, full_disk)
    assert target.read_bytes() == b"before"
    assert not list(tmp_path.glob(".*.part"))


def test_only_int16_stacks_are_stored(tmp_path):
    for bad in (np.zeros((2, 4, 4), np.float32), np.zeros((4, 4), np.int16)):
        with pytest.raises(DataError, match="int16 HU"):
            write_array(tmp_path, "a.npy", bad)
