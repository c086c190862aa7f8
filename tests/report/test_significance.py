"""Tests over patients in a report, and where its arrows point."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ldct_jax.metrics.protocols import PCN
from ldct_jax.report import images, significance
from ldct_jax.study.results import Results, Run

pytestmark = pytest.mark.core
OURS = {"a": [40.0, 42.0], "b": [39.0, 39.5], "c": [41.0, 44.0]}
THEIRS = {"a": [39.0, 40.0], "b": [39.5, 39.5], "c": [38.0, 40.0]}


def rows(by_patient: dict) -> list[dict]:
    return [
        {"patient": p, "psnr_db": x, "ssim": x / 50, "rmse": 1 / x, "peak": 1.0}
        for p, values in by_patient.items()
        for x in values
    ]


def study(ours: dict, theirs: dict) -> Results:
    references = {"0": {"undenoised": rows(theirs)}}
    run = Run(Path("x"), "net", 0, {"test": [rows(ours)]})
    return Results(Path("x"), {"references": references}, (run,))


def section(ours: dict, theirs: dict):
    results = study(ours, theirs)
    return significance.section(results, "net", protocol=PCN, data="made up", words={})


def test_every_row_is_tested_over_patients():
    (table,) = section(OURS, THEIRS).tables
    (row,) = table.rows
    ours, theirs = ([np.mean(v) for v in rows.values()] for rows in (OURS, THEIRS))
    difference = np.subtract(ours, theirs)
    assert row[0] == "undenoised" and row[-1] == 3  # patients, not six slices
    np.testing.assert_allclose(row[1], difference.mean())
    np.testing.assert_allclose(row[3], stats.ttest_rel(ours, theirs).pvalue)
    np.testing.assert_allclose(row[4], stats.wilcoxon(ours, theirs).pvalue)
    low, high = (float(x) for x in row[2].split(" to "))
    assert difference.min() - 0.01 <= low < difference.mean() < high <= difference.max() + 0.01


def test_rows_meet_in_the_seeds_that_both_have():
    """A second seed of one row alone is not compared with the first of the other."""
    results = study(OURS, THEIRS)
    far = {p: [x + 10 for x in values] for p, values in OURS.items()}
    references = {**results.study["references"], "1": results.study["references"]["0"]}
    runs = (
        *results.runs,
        Run(Path("x"), "net", 1, {"test": [rows(far)]}),
        Run(Path("x"), "other", 0, {"test": [rows(THEIRS)]}),
    )
    both = Results(Path("x"), {"references": references}, runs)
    found = significance.section(both, "net", protocol=PCN, data="made up", words={})
    by_label = {row[0]: row[1] for row in found.tables[0].rows}
    mean = np.mean([np.mean(OURS[p]) - np.mean(THEIRS[p]) for p in OURS])
    np.testing.assert_allclose(by_label["other"], mean)
    np.testing.assert_allclose(by_label["undenoised"], mean + 5)


def test_an_image_equal_to_its_reference_does_not_fail_the_report():
    found = section({**OURS, "a": [np.inf, np.inf]}, THEIRS)
    assert found.tables[0].rows[0][-1] == 2


def test_one_patient_is_no_statistic():
    found = section({"a": OURS["a"]}, {"a": THEIRS["a"]})
    assert not found.tables and "One test patient" in found.text


def test_arrows_point_at_structures_and_not_at_noise():
    rng = np.random.default_rng(0)
    image = rng.normal(50, 60, (128, 128))
    y, x = np.mgrid[:128, :128]
    for row, column in ((60, 45), (80, 70), (20, 20)):
        image[(y - row) ** 2 + (x - column) ** 2 <= 9] += 150
    found = images.landmarks(image, (40, 30, 64, 64))
    assert len(found) == 2
    for (row, column), expected in zip(sorted(found), ((60, 45), (80, 70)), strict=True):
        assert abs(row - expected[0]) <= 2 and abs(column - expected[1]) <= 2
    assert images.landmarks(np.full((64, 64), 40.0), (8, 8, 32, 32)) == []
