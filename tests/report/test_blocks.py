"""Blocks on made-up results: which rows count as trained, what becomes of claims, what opens."""

import numpy as np
import pytest
from scipy import stats

from ldct_jax.models.catalogue import parameter_count
from ldct_jax.report import answer, blocks
from ldct_jax.study.claims import HELD, NOT_HELD, SIGN_ONLY, UNDECIDED, UNTESTED
from ldct_jax.study.measures import Measure
from ldct_jax.study.scripts import load_study
from tests.report.made_up import found, steady

pytestmark = pytest.mark.core
GOOD = {"A": steady(35.0), "B": steady(34.0)}


def verdict(block, given) -> str:
    (claim,) = block.render(given)
    return claim.verdict


# ---- the rule "counts as trained" ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("psnr", "noise", "reason"),
    [
        (30.6, 79.0, ""),
        (30.4, 20.0, "from its input"),
        (32.3, 20.0, "from the median filter"),
        (32.6, 81.0, "of its input's noise"),
    ],
)
def test_a_row_counts_as_trained(psnr, noise, reason):
    references = {"undenoised": 30.0, "median": 32.0 if psnr > 32 else 29.0}
    given = found({"A": [psnr]}, references, noise={"A": noise})
    assert bool(given.training["A"].reason) == bool(reason)
    assert reason in given.training["A"].reason


def test_with_several_doses_the_best_one_speaks_for_a_row():
    doses = (0.5, 0.1)
    references = {"undenoised": {0.5: 40.0, 0.1: 30.0}, "gaussian": {0.5: 38.0, 0.1: 33.0}}
    good = found({"A": [{0.5: 39.0, 0.1: 33.6}]}, references, doses=doses)
    assert not good.training["A"].reason and good.training["A"].dose == 0.1
    bad = found({"A": [{0.5: 39.0, 0.1: 33.4}]}, references, doses=doses)
    assert bad.training["A"].reason


def test_an_untrained_row_makes_its_claims_untested():
    given = found(GOOD | {"B": steady(30.1)})
    (claim,) = blocks.Better("A", "B", "A beats B").render(given)
    assert claim.verdict == UNTESTED and "B ended +0.10 dB from its input" in claim.reason
    (claim,) = blocks.Better("A", "C", "A beats C").render(given)
    assert claim.reason == "C was not run"
    assert verdict(blocks.Better("A", "gaussian", "A beats a blur"), given) == HELD


# ---- claims -------------------------------------------------------------------------------------


def test_better_needs_seeds():
    assert verdict(blocks.Better("A", "B", "c"), found(GOOD)) == HELD
    assert verdict(blocks.Better("B", "A", "c"), found(GOOD)) == NOT_HELD
    assert verdict(blocks.Better("A", "B", "c"), found({k: v[:2] for k, v in GOOD.items()})) == (
        SIGN_ONLY
    )
    scattered = found(GOOD | {"B": [33.0, 36.0, 34.0]})
    assert verdict(blocks.Better("A", "B", "c"), scattered) == UNDECIDED


def test_in_all_metrics_means_all():
    given = found(GOOD)
    assert verdict(blocks.Better("A", "B", "c", metrics=blocks.ALL_METRICS), given) == HELD
    for run in given.results.of("A"):
        for row in run.result["test"][-1]:
            row["ssim"] = 0.1
    assert verdict(blocks.Better("A", "B", "c", metrics=blocks.ALL_METRICS), given) == NOT_HELD


def test_a_better_rmse_is_the_lower_one():
    (claim,) = blocks.Better("A", "B", "c", metrics=["rmse"]).render(found(GOOD))
    assert claim.verdict == HELD and claim.measured.startswith("RMSE of B minus A")


def test_only_seeds_that_both_have_are_compared():
    given = found({"A": [35.0, 35.0, 35.0], "B": [34.0]})
    (claim,) = blocks.Better("A", "B", "c").render(given)
    assert claim.verdict == SIGN_ONLY and len(claim.values) == 1


def test_second_is_below_the_best_and_above_the_rest():
    rows = {"A": steady(36.0), "B": steady(35.0), "C": steady(34.0)}
    assert verdict(blocks.Second("B", "A", ["C"], "c"), found(rows)) == HELD
    assert verdict(blocks.Second("A", "B", ["C"], "c"), found(rows)) == NOT_HELD, "it is the best"
    assert verdict(blocks.Second("C", "A", ["B"], "c"), found(rows)) == NOT_HELD
    assert verdict(blocks.Best("A", ["B", "C"], "c"), found(rows)) == HELD
    assert verdict(blocks.Best("B", ["A", "C"], "c"), found(rows)) == NOT_HELD


def test_adding_little_is_one_sided_and_similarity_is_not():
    near = found({"A": steady(35.0), "B": steady(35.1)})
    worse = found({"A": steady(35.0), "B": steady(34.0)})
    more = found({"A": steady(35.0), "B": steady(35.5)})
    assert [verdict(blocks.AddsLittle("B", "A", "c"), g) for g in (near, worse, more)] == [
        HELD,
        HELD,
        NOT_HELD,
    ]
    assert [verdict(blocks.Similar(["A", "B"], "c"), g) for g in (near, worse, more)] == [
        HELD,
        NOT_HELD,
        NOT_HELD,
    ]


def test_a_gain_of_about_a_tenth_has_two_bounds():
    def gain(better):
        block = blocks.Gain("A", "B", "c", "ssim", 0.05, 0.15)
        return verdict(block, found({"A": steady(better), "B": steady(34.0)}))

    assert gain(1.10 * 34) == HELD
    assert gain(1.02 * 34) == NOT_HELD and gain(1.30 * 34) == NOT_HELD


def test_clone_by_clone():
    rows = {"A": [[34.0, x] for x in steady(36.0)], "B": [[33.0, x] for x in steady(35.0)]}
    assert verdict(blocks.BetterByClone("A", "B", "c"), found(rows)) == HELD
    rows["B"] = [[34.5, x] for x in steady(35.0)]
    (claim,) = blocks.BetterByClone("A", "B", "c").render(found(rows))
    assert claim.verdict == NOT_HELD and "clone 1" in claim.measured
    more = {n: [[first, 36.0]] * 3 for n, first in (("1", 33.0), ("2", 34.0), ("3", 35.0))}
    assert verdict(blocks.MoreWithClones(["1", "2", "3"], "c"), found(more)) == HELD
    assert verdict(blocks.MoreWithClones(["1", "3", "2"], "c"), found(more)) == NOT_HELD


def test_a_claim_is_asked_at_its_own_dose():
    doses = (0.5, 0.1)
    references = {"undenoised": {0.5: 40.0, 0.1: 30.0}}
    rows = {
        "A": [{0.5: a, 0.1: 35.0} for a in steady(40.0)],
        "B": [{0.5: b, 0.1: 34.0} for b in steady(41.0)],
    }
    given = found(rows, references, doses=doses)
    assert verdict(blocks.Better("A", "B", "c", dose=0.1), given) == HELD
    assert verdict(blocks.Better("A", "B", "c", dose=0.5), given) == NOT_HELD
    (claim,) = blocks.Better("A", "B", "c", dose=0.05).render(given)
    assert claim.reason == "5% of the dose was not tested"
    (claim,) = blocks.Better("A", "B", "c", dose=0.005).render(given)
    assert claim.reason == "0.5% of the dose was not tested"


def curve(values):
    return {i + 1: float(v) for i, v in enumerate(values)}


def test_reaching_earlier_counts_steps_of_a_running_mean(monkeypatch):
    given = found(GOOD)
    slow, fast = np.linspace(2.0, 1.0, 1000), np.linspace(2.0, 1.0, 1000) ** 8
    fast[40] = 0.0  # one lucky batch is not a level
    curves = {"A": curve(np.minimum(2, 0.5 + 15 * np.exp(-np.arange(1000) / 30))), "B": curve(slow)}
    monkeypatch.setattr("ldct_jax.study.results.Run.curve", lambda run, m: curves[run.variant])
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.15).render(given)
    assert claim.verdict == HELD and 0.1 < claim.number < 0.13
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.05).render(given)
    assert claim.verdict == NOT_HELD
    curves["A"] = curve(np.full(1000, 3.0))
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.15).render(given)
    assert claim.number == 1.0 and "not reached by 3 of 3" in claim.measured
    curves["A"] = curve(np.where(np.arange(1000) == 40, 0.0, 3.0))
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.15).render(given)
    assert claim.number == 1.0, "a single step reached it"


def test_a_row_needs_all_of_its_own_steps(monkeypatch):
    """Easy batches made every row reach its own last training RMSE in some 55 % of its steps."""
    given = found(GOOD)
    falling = np.linspace(2.0, 1.0, 1000) + 0.3 * np.sin(np.arange(1000) / 60)
    falling[600:650] -= 0.8
    curves = {"A": curve(falling), "B": curve(falling)}
    monkeypatch.setattr("ldct_jax.study.results.Run.curve", lambda run, m: curves[run.variant])
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.15).render(given)
    assert claim.number == 1.0 and "not reached" not in claim.measured
    curves["A"] = curve(np.where(np.arange(1000) < 900, 2.0, 0.5))
    (claim,) = blocks.ReachesEarlier("A", "B", "c", share=0.15).render(given)
    assert claim.number > 1.4 and "not reached" not in claim.measured, "slower, but there"


def test_slice_by_slice():
    def slices(*psnr):
        return {"a": list(psnr)}

    rows = {"A": [slices(*[35.0] * 10)] * 3, "B": [slices(*[34.0] * 9, 36.0)] * 3}
    given = found(rows, {"undenoised": 30.0})
    (claim,) = blocks.SliceBySlice("A", "B", "c", ["rmse"], share=0.85).render(given)
    assert claim.verdict == HELD and claim.number == pytest.approx(0.9)
    assert verdict(blocks.SliceBySlice("A", "B", "c", share=0.95), given) == NOT_HELD


def test_a_measured_number_decides_or_is_undefined():
    numbers = {"A": [{"cnr": 2.0}] * 3, "B": [{"cnr": 1.0}] * 3}

    def difference(a, b):
        return None if None in (a["cnr"], b["cnr"]) else a["cnr"] - b["cnr"]

    by_key = blocks.Measured(["A", "B"], "cnr", "c", "CNR", above=0.0)
    block = blocks.Measured(["A", "B"], difference, "c", "CNR, A minus B", above=0.0)
    assert block.render(found(GOOD, numbers=numbers)) == by_key.render(found(GOOD, numbers=numbers))
    assert verdict(block, found(GOOD, numbers=numbers)) == HELD
    numbers["B"] = [{"cnr": None}] * 3
    for either in (block, by_key):
        assert verdict(either, found(GOOD, numbers=numbers)) == UNTESTED


def quality(f50, noise):
    return [{"ttf": {"low contrast": {"f50_per_mm": f50}}, "noise_hu": noise}] * 3


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict_"),
    [
        ((0.5, 10.0), (0.4, 10.0), HELD),
        ((0.5, 5.0), (0.4, 10.0), HELD),  # sharper and less noisy
        ((0.5, 15.0), (0.4, 10.0), UNTESTED),  # sharper, but noisier
        ((0.4, 10.0), (0.5, 10.0), NOT_HELD),
        ((0.4, 5.0), (0.5, 10.0), UNTESTED),
    ],
)
def test_sharpness_is_compared_at_equal_noise(ours, theirs, verdict_):
    given = found(GOOD, quality={"A": quality(*ours), "B": quality(*theirs)})
    assert verdict(blocks.Sharper("A", "B", "c"), given) == verdict_


def test_texture_is_noise_that_stays():
    assert verdict(blocks.LessSmooth("A", "B", "c"), found(GOOD, noise={"A": 30.0})) == HELD
    assert verdict(blocks.LessSmooth("B", "A", "c"), found(GOOD, noise={"A": 30.0})) == NOT_HELD


# ---- the answer ---------------------------------------------------------------------------------


def test_the_report_opens_with_who_is_first_and_what_was_trained():
    given = found({"A": steady(35.0), "B": steady(34.0), "C": steady(30.2)})
    claims = [
        *blocks.Better("A", "B", "c").render(given),
        *blocks.Better("A", "C", "c").render(given),
    ]
    text = answer.answer(given, claims)
    assert "Only 2 of 3 rows count as trained: C ended +0.20 dB from its input" in text
    assert "A has the highest PSNR, 35.00 dB: 5.00 dB above the low dose (30.00 dB)" in text
    assert "6.00 dB above the best classical filter (gaussian)" in text
    assert "B follows 1.00 dB behind; both trained rows lie within 1.00 dB" in text
    assert "Of the paper's 2 claims 1 held, 0 did not, 1 could not be tested" in text
    assert "Every claim that needs one of these rows is untested." in text
    cells = {row[0]: row[-1] for row in answer.training_table(given).rows}
    assert cells == {"A": "yes", "B": "yes", "C": "no"}
    # A study of one's own has no claims, and a smoke run trains nothing.
    given.results.study.update(reproduces="", scale={"name": "smoke"})
    text = answer.trained(given)
    assert "claim" not in text and "a few steps train nothing" in text


# ---- tests over patients ------------------------------------------------------------------------

OURS = {"a": [40.0, 42.0], "b": [39.0, 39.5], "c": [41.0, 44.0]}
THEIRS = {"a": [39.0, 40.0], "b": [39.5, 39.5], "c": [38.0, 40.0]}


def paired(rows, undenoised):
    given = found(rows, {"undenoised": undenoised})
    return {r[0]: r for t in blocks.PairedTests("net").render(given) for r in t.rows}


def test_every_row_is_tested_over_patients():
    row = paired({"net": [OURS]}, THEIRS)["low dose, undenoised"]
    ours, theirs = ([np.mean(v) for v in rows.values()] for rows in (OURS, THEIRS))
    difference = np.subtract(theirs, ours)
    assert row[-1] == 3  # patients, not six slices
    np.testing.assert_allclose(row[1], difference.mean())
    p = stats.ttest_rel(ours, theirs).pvalue
    assert row[3] == f"{p:.3f}" + " *" * bool(p < 0.05)
    low, high = (float(x) for x in row[2].split(" to "))
    assert difference.min() - 0.01 <= low < difference.mean() < high <= difference.max() + 0.01


def test_rows_meet_in_the_seeds_that_both_have():
    """A second seed of one row alone is not compared with the first of the other."""
    far = {p: [x + 10 for x in values] for p, values in OURS.items()}
    rows = paired({"net": [OURS, far], "other": [THEIRS]}, THEIRS)
    mean = np.mean([np.mean(THEIRS[p]) - np.mean(OURS[p]) for p in OURS])
    np.testing.assert_allclose(rows["other"][1], mean)
    np.testing.assert_allclose(rows["low dose, undenoised"][1], mean - 5)


def test_an_image_equal_to_its_reference_does_not_fail_the_report():
    rows = paired({"net": [{**OURS, "a": [np.inf, np.inf]}]}, THEIRS)
    assert rows["low dose, undenoised"][-1] == 2


def test_one_patient_is_no_statistic():
    assert paired({"net": [{"a": OURS["a"]}]}, {"a": THEIRS["a"]}) == {}


# ---- tables and figures -------------------------------------------------------------------------


def test_a_table_stands_beside_the_papers_numbers():
    given = found(GOOD)
    (table,) = blocks.Table("Table I: rows", {"A": (43.5, 0.96, 0.007)}).render(given)
    assert table.name == "table_i" and [c.paper for c in table.columns].count(True) == 3
    by_row = {row[0]: row for row in table.rows}
    assert by_row["A"][5:8] == [43.5, 0.96, 0.007] and by_row["B"][5:8] == [None] * 3
    assert by_row["A"][2].mean == pytest.approx(35.0) and by_row["A"][-1] == 3.0
    (plain,) = blocks.Table("Rows").render(given)
    assert not any(c.paper for c in plain.columns) and "prints no numbers" in plain.note
    assert blocks.Table("Rows", dose=0.5).render(given) == []


def test_a_table_says_which_step_it_scores_and_what_a_row_began_with():
    given = found({"A": [35.0, 36.0], "B": [34.0, 34.0]})
    assert "step" not in blocks.Table("Rows", {"A": (1, 1, 1)}).render(given)[0].note
    for run in given.results.runs:
        run.result["scored_step"] = 1500
    (table,) = blocks.Table("Rows").render(given)
    assert table.note.endswith("Training step that is scored: every row 1,500.")
    given.results.of("A")[1].result["scored_step"] = 1200
    given.results.of("B")[0].result["record"] = {"init": "0123456789abcdef" * 4}
    (table,) = blocks.Table("Rows").render(given)
    assert table.note.endswith(
        "Training step that is scored: A: 1,500 and 1,200; B: 1,500. "
        "Begun with other parameters: B from sha256 0123456789abcdef."
    )


def test_measured_numbers_and_the_papers_stand_row_by_row():
    numbers = {"A": [{"cnr": 1.0}, {"cnr": 3.0}], "B": [{"cnr": None}, {"cnr": 1.0}]}
    given = found({"A": [35.0, 35.0], "B": [34.0, 34.0]}, numbers=numbers)
    given.results.study["reference_numbers"] = {
        str(r): {"undenoised": {"cnr_normal": 0.5}, "gaussian": {}} for r in (0, 1)
    }
    measure = Measure()
    measure.heads = {"CNR": "cnr"}
    measure.further = {"normal dose": ("undenoised", "_normal")}
    measure.words = "Of a lesion."
    (table,) = blocks.Numbers("CNR", measure, {"A": (2.7,)}, note="A note.").render(given)
    assert table.note == "Of a lesion. A note."
    assert table.rows == [
        ["A", 2.0],
        ["A, the paper", 2.7],
        ["B", 1.0],  # the repeat that has it
        ["normal dose", 0.5],
    ]
    measure.heads = {"CNR": "other"}
    assert blocks.Numbers("CNR", measure, {"A": (2.7,)}).render(given) == []


def test_a_training_curve_is_a_mean_over_runs_and_over_steps(monkeypatch):
    curves = iter([curve(np.full(600, 1.0)), curve(np.full(500, 3.0))])
    monkeypatch.setattr("ldct_jax.study.results.Run.curve", lambda run, m: next(curves))
    drawn = []
    monkeypatch.setattr("ldct_jax.report.figures.lines", lambda n, t, c, *a, **k: drawn.extend(c))
    blocks.Convergence("Fig 4", ["A"]).render(found({"A": [35.0, 35.0]}))
    (line,) = drawn
    assert len(line.x) == 60 and max(line.x) <= 500 and set(line.y) == {2.0}


def test_the_critic_counts_where_the_figure_says_so(monkeypatch):
    experiment = load_study("pcn_comparison").variants("smoke")["MAP-NN"]
    critic = parameter_count(experiment.gan.critic, (1, 24, 24, 1))[0]
    given = found({"A": [35.0], "B": [34.0]})
    for run in given.results.runs:
        run.result["record"] = {"experiment": experiment.record()}
    drawn = []
    monkeypatch.setattr("ldct_jax.report.figures.points", lambda n, t, m, *a, **k: drawn.extend(m))
    blocks.BySize("Fig 9", with_critic=["A"]).render(given)
    assert {p.label: p.x for p in drawn} == {"A, critic included": 1000 + critic, "B": 1000}


def test_bars_by_dose_mark_what_differs(monkeypatch):
    doses = (0.5, 0.1)
    rng = np.random.default_rng(0)

    def patients(mean):
        return {f"p{i}": [mean + x] for i, x in enumerate(rng.normal(0, 0.01, 5))}

    references = {"undenoised": {0.5: patients(30.0), 0.1: patients(20.0)}}
    rows = {"A": [{0.5: patients(35.0), 0.1: patients(25.0)}]}
    rows["B"] = [{0.5: patients(36.0), 0.1: rows["A"][0][0.1]}]
    drawn = {}
    monkeypatch.setattr("ldct_jax.report.figures.bars", lambda n, t, g, v, *a, **k: drawn.update(v))
    blocks.ByDose("Fig 6", "psnr_db", against="A").render(found(rows, references, doses=doses))
    assert [b.mark for b in drawn["B"]] == ["*", ""] and [b.mark for b in drawn["A"]] == ["", ""]
    assert drawn["B"][0].y == pytest.approx(36.0, abs=0.05)


def test_the_mtf_says_which_noise_it_shaped(monkeypatch):
    captions = []
    monkeypatch.setattr(
        "ldct_jax.report.figures.lines", lambda *a, caption, **k: captions.append(caption)
    )
    given = found({"A": [35.0]})
    for spectrum in ("mtf", "sqrt_f_mtf"):
        given.results.study["scale"] = {"noise_spectrum": spectrum}
        blocks.MTF("Fig 2").render(given)
    assert captions[0].endswith("the spectrum MTF².") and "f · MTF², as filtered" in captions[1]
    assert all("phantoms' kernel" in c and "DATA" in c for c in captions), "it isn't each series'"


def test_a_panel_shows_what_measure_kept_around_its_regions(monkeypatch):
    given = found({"A": [35.0], "B": [34.0]})
    regions = np.zeros((64, 64), np.int8)
    regions[40:44, 20:24] = 1
    arrays = {"lesion_full": np.zeros((64, 64)), "lesion": np.ones((64, 64)), "regions": regions}
    monkeypatch.setattr("ldct_jax.study.results.Run.samples", arrays)
    drawn = {}
    monkeypatch.setattr("ldct_jax.report.images.panels", lambda n, t, i, **k: drawn.update(i, **k))
    kept = {"normal dose": "lesion_full", "{row}, tuned": "lesion", "missing": "other"}
    blocks.Panel("Fig 5", kept=kept, regions="regions").render(given)
    assert [k for k in drawn if isinstance(drawn[k], np.ndarray) and k != "regions"] == [
        "normal dose",
        "A, tuned",
        "B, tuned",
    ]
    names = {"other_full": np.zeros((64, 64)), "other_result": np.ones((64, 64))}
    monkeypatch.setattr("ldct_jax.study.results.Run.samples", names)
    short = {}
    monkeypatch.setattr("ldct_jax.report.images.panels", lambda n, t, i, **k: short.update(i))
    blocks.Panel("Fig 7", kept="other").render(given)
    assert list(short) == ["normal dose", "A", "B"]
    top, left, height, width = drawn["zoom"]
    assert top <= 40 and left <= 20 and top + height >= 44 and left + width >= 24 and height < 32
