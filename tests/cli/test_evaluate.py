"""``ldct evaluate`` on every kind of input, and the identity returns the pixels."""

import json

import nibabel
import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.metrics.protocols import MAYO_ABDOMEN, PCN
from tests import tiny

pytestmark = pytest.mark.core


@pytest.fixture
def npy(tmp_path):
    pairs = tiny.pairs(patients=3, size=48)
    np.save(tmp_path / "low.npy", pairs.low_hu)
    np.save(tmp_path / "full.npy", pairs.full_hu.astype(np.float32))
    return pairs, tmp_path / "low.npy", tmp_path / "full.npy"


def run(low, full, *arguments):
    return cli.run(["evaluate", str(low), str(full), *arguments])


@pytest.mark.promise("evaluate")
def test_identity_scores_as_the_undenoised_row_and_numbers_carry_their_protocol(
    npy, tmp_path, capfd
):
    pairs, low, full = npy
    out = tmp_path / "scores.json"
    names = ("--protocol", "pcn", "--protocol", "mayo-abdomen")
    assert run(low, full, "--model", "identity", *names, "--json", str(out)) == 0
    record = json.loads(out.read_text())
    for protocol in (PCN, MAYO_ABDOMEN):
        scores = protocol.score(pairs.low_hu, pairs.full_hu)
        for method in ("undenoised", "identity"):
            rows = [
                r
                for r in record["slices"]
                if r["method"] == method and r["protocol"] == protocol.name
            ]
            np.testing.assert_allclose([r["psnr_db"] for r in rows], scores.psnr_db)
            np.testing.assert_allclose([r["rmse"] for r in rows], scores.rmse)
            assert {r["unit"] for r in rows} == {protocol.unit}
    text = capfd.readouterr().out
    assert "gaussian blur" in text and "protocol pcn" in text and "HU" in text


@pytest.mark.promise("evaluate")
def test_a_filter_is_what_the_library_computes(npy, tmp_path):
    from scipy.ndimage import median_filter

    pairs, low, full = npy
    out = tmp_path / "scores.json"
    assert run(low, full, "--model", "median", "--json", str(out)) == 0
    rows = [r for r in json.loads(out.read_text())["slices"] if r["method"] == "median"]
    expected = PCN.score(
        np.stack([median_filter(x.astype(np.float32), 3) for x in pairs.low_hu]), pairs.full_hu
    )
    np.testing.assert_allclose([r["psnr_db"] for r in rows], expected.psnr_db, rtol=1e-6)


def test_a_paired_store_is_named_twice(tmp_path):
    store = tmp_path / "store"
    arguments = ["--patients", "2", "--slices", "1", "--size", "64", "--pixel-mm", "6"]
    assert cli.run(["data", "phantom", str(store), *arguments]) == 0
    assert run(store, store, "--model", "gaussian") == 0


def test_parts_of_a_store_give_what_one_process_gives(tmp_path, capfd, monkeypatch):
    store, one, shared = tmp_path / "store", tmp_path / "one.json", tmp_path / "shared.json"
    arguments = ["--patients", "5", "--slices", "2", "--size", "48", "--pixel-mm", "8"]
    assert cli.run(["data", "phantom", str(store), *arguments]) == 0
    names = ("--model", "gaussian", "--protocol", "dcswgan")
    capfd.readouterr()
    assert run(store, store, *names, "--json", str(one)) == 0
    whole = capfd.readouterr().out
    for part in ("2/2", "1/2"):
        assert not shared.exists()
        assert run(store, store, *names, "--json", str(shared), "--shard", part) == 0
        said = capfd.readouterr().out
        assert ("part 2 of 2 is done" in said) == (part == "2/2")
    assert shared.read_bytes() == one.read_bytes()
    assert said.replace(str(shared), str(one)) == whole
    assert {p.name for p in tmp_path.iterdir()} == {"store", "one.json", "shared.json"}


def test_a_killed_part_is_continued_and_another_models_is_not_taken(tmp_path, capfd, monkeypatch):
    from ldct_jax.denoise import compare

    store, out = tmp_path / "store", tmp_path / "scores.json"
    arguments = ["--patients", "4", "--slices", "1", "--size", "48", "--pixel-mm", "8"]
    assert cli.run(["data", "phantom", str(store), *arguments]) == 0
    score, done = compare.score, []

    def counting(series, *rest, **options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(series.patient)
        return score(series, *rest, **options)

    monkeypatch.setattr(compare, "score", counting)

    def part(shard: str, model: str = "gaussian") -> int:
        return run(store, store, "--model", model, "--json", str(out), "--shard", shard)

    assert [part("1/2"), part("2/2")] == [0, 130]
    monkeypatch.setattr(
        compare,
        "score",
        lambda series, *rest, **options: (
            score(series, *rest, **options)
            if series.patient == "phantom-04"
            else pytest.fail("done twice")
        ),
    )
    assert part("2/2") == 0 and out.exists()
    monkeypatch.setattr(compare, "score", score)
    out.unlink()
    assert [part("1/2"), part("2/2", "median")] == [0, 0] and not out.exists()
    assert part("1/2", "median") == 0 and "median" in out.read_text()


def test_parts_need_a_store_and_a_file(npy, tmp_path, capfd):
    _, low, full = npy
    assert run(low, full, "--model", "identity", "--shard", "1/2") == 2
    assert "--json FILE" in capfd.readouterr().err
    out = str(tmp_path / "scores.json")
    assert run(low, full, "--model", "identity", "--shard", "1/2", "--json", out) == 2
    assert "make one first" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(model="nonsense"), "nonsense"),
        (dict(protocol="psnr"), "mayo-abdomen"),
        (dict(low="missing.npy"), "doesn't exist"),
        (dict(low="other.npy"), "not a pair"),
        (dict(low="text.npy"), "not a usable"),
        (dict(low="."), "two of one kind"),
    ],
)
def test_mistakes_are_one_line(npy, tmp_path, capfd, change, words):
    _, low, full = npy
    np.save(tmp_path / "other.npy", np.zeros((1, 48, 48), np.int16))
    (tmp_path / "text.npy").write_text("text")
    low = tmp_path / change["low"] if "low" in change else low
    arguments = ["--model", change.get("model", "identity")]
    arguments += ["--protocol", change.get("protocol", "pcn")]
    assert run(low, full, *arguments) in (1, 2)
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


def test_a_folder_for_the_scores_is_made_or_told_before_anything_is_scored(npy, tmp_path, capfd):
    _, low, full = npy
    new = tmp_path / "new" / "x.json"
    assert run(low, full, "--model", "identity", "--json", str(new)) == 0
    assert json.loads(new.read_text())["slices"]
    for out, words in ((new.parent, "is a folder"), (new / "x.json", "can't be written")):
        capfd.readouterr()
        assert run(low, full, "--model", "identity", "--json", str(out)) in (1, 2)
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and words in line


def nifti_pair(folder, change):
    """Low and full as NIfTI files that ``change`` (array, affine → image) makes."""
    from tests.dicom_fixtures import anatomy, noisy

    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    paths = []
    for side, sd in (("low", 40), ("full", 5)):
        hu = noisy(anatomy(0, n=3), sd, sd).transpose(2, 1, 0)[::-1, ::-1]
        paths.append(folder / f"{side}.nii.gz")
        change(hu, affine.copy()).to_filename(paths[-1])
    return paths


def tilted(hu, affine):
    affine[1, 2] = 1.6
    return nibabel.Nifti1Image(hu, affine)


def oblique(hu, affine):
    turn = np.deg2rad(2)
    affine[:2, :2] = 3 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return nibabel.Nifti1Image(hu, affine)


def qform_only(hu, affine):
    image = nibabel.Nifti1Image(hu, affine)
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    return image


@pytest.mark.parametrize(
    "change",
    [
        tilted,
        oblique,
        qform_only,
        lambda hu, affine: nibabel.Nifti2Image(hu, affine),
        lambda hu, affine: nibabel.Nifti1Image(hu.astype(np.int64), affine, dtype=np.int64),
        lambda hu, affine: nibabel.Nifti1Image(hu[..., None], affine),
    ],
)
def test_nifti_that_is_denoised_is_scored_as_it_is_cut(tmp_path, capfd, change):
    low, full = nifti_pair(tmp_path, change)
    out = tmp_path / "scores.json"
    assert run(low, full, "--model", "identity", "--json", str(out)) == 0
    rows = json.loads(out.read_text())["slices"]
    stacks = [nibabel.load(p).get_fdata().reshape(64, 64, 3) for p in (low, full)]
    expected = PCN.score(*(v[::-1, ::-1].transpose(2, 1, 0) for v in stacks)).psnr_db
    found = [row["psnr_db"] for row in rows if row["method"] == "identity"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert cli.run(["denoise", str(low), str(tmp_path / "out"), "--model", "identity"]) == 0
    assert nibabel.load(tmp_path / "out" / "low.nii.gz").shape == nibabel.load(low).shape


def saved_as(axes, path):
    """The same volume in the same place, its axes in another order and direction."""
    image = nibabel.load(path)
    own, other = nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(own, other))
    nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine).to_filename(path)


@pytest.mark.parametrize("axes", ["LPS", "LAI", "SPR"])
def test_nifti_of_one_place_in_two_orientations_is_a_pair(tmp_path, axes):
    low, full = nifti_pair(tmp_path, tilted)
    rows = []
    for name in ("one.json", "two.json"):
        assert run(low, full, "--model", "identity", "--json", str(tmp_path / name)) == 0
        rows.append(json.loads((tmp_path / name).read_text())["slices"])
        saved_as(axes, low)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("axes", ["RAS", "LPS"])
@pytest.mark.parametrize("axis", range(3))
def test_nifti_of_different_places_is_not_a_pair(tmp_path, capfd, axes, axis):
    low, full = nifti_pair(tmp_path, nibabel.Nifti1Image)
    image = nibabel.load(full)
    image.affine[axis, 3] += 40
    nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine).to_filename(full)
    saved_as(axes, full)
    assert run(low, full, "--model", "identity") == 1
    assert "different places" in capfd.readouterr().err


def test_values_are_not_rounded_and_network_units_are_refused(tmp_path, capfd):
    rng = np.random.default_rng(0)
    full = rng.normal(-300, 300, (1, 48, 48)).astype(np.float32)
    low = full + rng.normal(0, 0.2, full.shape).astype(np.float32)
    np.save(tmp_path / "full.npy", full)
    np.save(tmp_path / "low.npy", low)
    out = tmp_path / "scores.json"
    names = ["--model", "identity", "--protocol", "mayo-abdomen", "--json", str(out)]
    assert run(tmp_path / "low.npy", tmp_path / "full.npy", *names) == 0
    rows = json.loads(out.read_text())["slices"]
    np.testing.assert_allclose(rows[0]["rmse"], MAYO_ABDOMEN.score(low, full).rmse[0])
    np.save(tmp_path / "low.npy", (low + 1024) / 4096)
    capfd.readouterr()
    assert run(tmp_path / "low.npy", tmp_path / "full.npy", "--model", "identity") == 1
    error = capfd.readouterr().err
    assert "low.npy: " in error and "are these HU?" in error and "network units" in error


def test_two_dicom_files_are_a_pair_whatever_their_names(tmp_path, capfd):
    from tests.dicom_fixtures import anatomy, noisy, write_slice

    hu = anatomy(0, n=1)
    for low, full in (("low.dcm", "full.dcm"), ("L067_QD.IMA", "IM0001")):
        write_slice(tmp_path / low, noisy(hu, 30, 1)[0], z=0.0, SeriesInstanceUID="1.2")
        write_slice(tmp_path / full, noisy(hu, 5, 2)[0], z=0.0, SeriesInstanceUID="1.3")
        assert run(tmp_path / low, tmp_path / full, "--model", "identity") == 0
        assert "identity, all patients" in capfd.readouterr().out
    write_slice(tmp_path / "far", noisy(hu, 5, 2)[0], z=300.0, SeriesInstanceUID="1.4")
    assert run(tmp_path / "low.dcm", tmp_path / "far", "--model", "identity") == 1
    assert "position" in capfd.readouterr().err


def test_what_was_left_out_is_told_and_fails_at_the_end(tmp_path, capfd):
    """A damaged slice, slices without a partner, a series whose kernels differ."""
    from tests.dicom_fixtures import anatomy, noisy, write_series

    for side, sd, n in (("low", 30, 3), ("full", 5, 6)):
        uid = "1.2" if side == "low" else "1.3"
        paths = write_series(
            tmp_path / side / "a", noisy(anatomy(0, n=n), sd, sd), SeriesInstanceUID=f"{uid}.1"
        )
        kernel = "B70f" if side == "low" else "B30f"
        tags = {"SeriesInstanceUID": f"{uid}.2", "ConvolutionKernel": kernel}
        write_series(tmp_path / side / "b", noisy(anatomy(1, n=3), sd, sd), z0=100.0, **tags)
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    out = tmp_path / "scores.json"
    names = ["--model", "identity", "--json", str(out)]
    assert run(tmp_path / "low", tmp_path / "full", *names) == 1
    said = capfd.readouterr()
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert "2 slices" in said.out and "1 CT image left out" in said.err
    for words in ("truncated", "kernel", "partner"):
        assert any(words in line for line in warnings), (words, warnings)
    assert len(json.loads(out.read_text())["warnings"]) == len(warnings)
    assert run(tmp_path / "low", tmp_path / "full", *names, "--strict") == 1
    assert "--strict refuses it" in capfd.readouterr().err


def test_the_shipped_model_is_the_default(npy, capfd):
    from ldct_jax.denoise.models import SHIPPED

    _, low, full = npy
    assert run(low, full) == 0
    out = capfd.readouterr().out
    assert f"model {next(iter(SHIPPED))}, sha256" in out and "(of 4096 HU)" in out
