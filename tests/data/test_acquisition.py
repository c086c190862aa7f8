"""What a checkpoint says of its training images: the training patients' ranges, no others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.data.acquisition import Acquisition
from ldct_jax.data.embedded import Phantoms, phantom_pairs
from ldct_jax.data.pairs import concatenate
from ldct_jax.data.store import SeriesRecord, Store
from ldct_jax.data.store_writer import begin, write_array
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import Options, denoise_path
from ldct_jax.errors import DataError
from ldct_jax.study.results import load as load_results
from ldct_jax.train.checkpoint import load_model
from tests import tiny
from tests.derived_fixtures import slice_of
from tests.dicom_fixtures import anatomy, noisy

SERIES = [  # patient, kernel, slice_mm, pixel_mm, kvp
    ("a", "B30f", 1.0, 4.0, 120.0),
    ("b", "B30f", 3.0, 5.0, 100.0),
    ("c", "D45f", 2.0, 4.5, None),
    ("d", "B70f", 5.0, 7.0, 140.0),
]


def store_of(folder, *, size=64, slices=4, dose=0.25) -> Store:
    """Four patients, each scanned in another way."""
    with begin(folder, "digest", needed_bytes=0) as unfinished:
        for i, (patient, kernel, slice_mm, pixel_mm, kvp) in enumerate(SERIES):
            clean = anatomy(i, n=slices, size=size)

            def make(stem, patient=patient, clean=clean, i=i, **how):
                return SeriesRecord(
                    patient=patient,
                    full=write_array(folder, f"{stem}-full.npy", noisy(clean, 5, i)),
                    low=write_array(folder, f"{stem}-low.npy", noisy(clean, 50, i + 9)),
                    step_mm=1.0,
                    offsets_mm=tuple(float(k) for k in range(slices)),
                    dose=dose,
                    **how,
                )

            how = {"kernel": kernel, "slice_mm": slice_mm, "pixel_mm": pixel_mm, "kvp": kvp}
            unfinished.series(str(i), lambda stem, make=make, how=how: make(stem, **how))
        return unfinished.finish("four scanners", "")


@pytest.mark.core
def test_ranges_are_those_of_the_named_patients(tmp_path):
    pairs = store_of(tmp_path / "store").pairs()
    assert pairs.trained_on(["a", "c"]) == {
        "kernels": ["B30f", "D45f"],
        "thickness_mm": [1.0, 2.0],
        "field_of_view_mm": [256.0, 288.0],
        "kvp": [120.0, 120.0],
        "dose": [0.25, 0.25],
    }
    assert pairs.trained_on(["d"])["kernels"] == ["B70f"]
    assert pairs.trained_on(["c"])["kvp"] is None


@pytest.mark.core
def test_ranges_survive_choosing_and_putting_together(tmp_path):
    pairs = store_of(tmp_path / "store").pairs()
    expected = pairs.trained_on(["b", "d"])
    for same in (
        pairs.of(["d", "b"]),
        pairs.central(32, 32),  # a crop doesn't change the field of view
        pairs.sample(1, seed=0),
        concatenate([pairs.of(["b"]), pairs.of(["a", "d"])]),
    ):
        assert same.trained_on(["b", "d"]) == expected
    last = pairs.take([len(pairs) - 1])
    assert last.acquisition.kernels == ("B70f",) and last.acquisition.kvp.tolist() == [140.0]


@pytest.mark.core
def test_slices_of_which_nothing_is_known_add_nothing(tmp_path):
    pairs = store_of(tmp_path / "store", size=40).pairs()
    unknown = tiny.pairs()
    assert unknown.trained_on(["p0"]) is None
    assert concatenate([unknown, unknown]).acquisition is None
    both = concatenate([unknown, pairs])
    assert both.acquisition.kernels[: len(unknown)] == ("",) * len(unknown)
    assert both.trained_on(["p0", "d"])["kernels"] == ["B70f"]
    with pytest.raises(DataError, match="one a slice"):
        dataclasses.replace(pairs, acquisition=Acquisition.uniform(3))


@pytest.mark.core
def test_doses_are_those_that_are_trained_on():
    spec = Phantoms(patients=2, slices=1, size=64, pixel_mm=6.0)
    several = phantom_pairs(spec, (0.1, 0.5, 0.75))
    assert several.trained_on(["phantom-01"])["dose"] == [0.1, 0.75]
    one = several.trained_on(["phantom-01"], (0.1, 0.5))
    assert one["dose"] == [0.1, 0.5] and one["kernels"] == ["phantoms"]
    assert one["field_of_view_mm"] == [384.0, 384.0] and one["kvp"] is None
    # A store whose slices have a dose each says so slice by slice.
    record = SeriesRecord(
        patient="a",
        full=dataclasses.make_dataclass("Array", ["shape"])((2, 4, 4)),
        low=None,
        pixel_mm=1.0,
        slice_mm=None,
        step_mm=None,
        offsets_mm=(0.0, 1.0),
        low_dose={"slices": [{"fraction": 0.3}, {"fraction": 0.9}]},
    )
    np.testing.assert_array_equal(record.acquisition.dose, [0.3, 0.9])


def test_training_records_the_ranges_and_denoising_minds_them(tmp_path):
    store = store_of(tmp_path / "store")
    out = tmp_path / "runs"
    arguments = ["--scale", "smoke", "--variant", "SCN", "--data", str(store.folder)]
    assert cli.run(["train", "pcn_ablation", *arguments, "--out", str(out)]) == 0
    (run,) = load_results(out).runs
    split = load_results(out).study["splits"][0]
    record = load_model(run.folder)[3]["record"]
    trained_on = store.pairs().trained_on(split["train"])
    assert record["trained_on"] == trained_on
    assert trained_on != store.pairs().trained_on(store.patients)

    kernel, thickness = trained_on["kernels"][0], trained_on["thickness_mm"][0]
    pixel = trained_on["field_of_view_mm"][0] / 64
    inside = {"ConvolutionKernel": kernel, "SliceThickness": str(thickness), "spacing": pixel}
    inside["KVP"] = "" if trained_on["kvp"] is None else str(trained_on["kvp"][0])
    told: list[str] = []
    source = slice_of(tmp_path / "in" / "a.dcm", **inside)
    denoise_path(source, tmp_path / "o1", find(run.folder), Options(strict=True), warn=told.append)
    assert told == []
    source = slice_of(tmp_path / "in2" / "a.dcm", **{**inside, "ConvolutionKernel": "Bv99"})
    denoise_path(source, tmp_path / "o2", find(run.folder), warn=told.append)
    assert len(told) == 1 and f"kernel Bv99, trained on {kernel}" in told[0]
