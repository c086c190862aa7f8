"""Every row of the table of a derived image's attributes, and the arithmetic of its pixels."""

from __future__ import annotations

import datetime
import hashlib
import re

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ldct_jax import __version__
from ldct_jax.data.acquisition import Trained
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import Options, denoise_path
from ldct_jax.dicom.derive import Processing, free_number, series_description
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.write import to_stored
from ldct_jax.errors import NumericsError
from tests.derived_fixtures import HU, IMPLICIT, OUTSIDE, plain, slice_of
from tests.dicom_fixtures import anatomy, write_series


def rewrite(path, **changes):
    """The file with attributes set, or changed by ``edit(image)``."""
    edit = changes.pop("edit", None)
    image = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    if edit:
        edit(image)
    image.save_as(path)
    return path


def derived(source, out, model="gaussian", **options):
    denoise_path(source, out, find(model), Options(**options))
    return pydicom.dcmread(out / source.name)


@pytest.fixture
def source(tmp_path):
    return slice_of(tmp_path / "in" / "a.dcm")


def code_of(item):
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


# ---- identity of the object ----------------------------------------------------------------------


@pytest.mark.promise("derived")
def test_uids_are_new_under_2_25_and_the_same_again(source, tmp_path):
    old = pydicom.dcmread(source)
    a = derived(source, tmp_path / "a")
    b = derived(source, tmp_path / "b")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert getattr(a, keyword).startswith("2.25.")
        assert getattr(a, keyword) == getattr(b, keyword) != getattr(old, keyword)
        assert len(getattr(a, keyword)) <= 64
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID
    assert a.file_meta.MediaStorageSOPClassUID == a.SOPClassUID == old.SOPClassUID
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "InstanceNumber"):
        assert getattr(a, keyword) == getattr(old, keyword)


def test_another_model_blend_or_allow_list_gives_other_uids(source, tmp_path):
    cases = ({}, {"model": "median"}, {"blend": 0.7}, {"keep": ("X",)})
    found = [derived(source, tmp_path / str(i), **case) for i, case in enumerate(cases)]
    assert len({image.SOPInstanceUID for image in found}) == 4
    assert len({image.SeriesInstanceUID for image in found}) == 4


def test_one_series_uid_for_a_series_whether_whole_or_in_part(tmp_path):
    paths = write_series(tmp_path / "in", anatomy(0))
    denoise_path(tmp_path / "in", tmp_path / "a", find("identity"))
    images = [pydicom.dcmread(tmp_path / "a" / p.name) for p in paths]
    assert len({i.SeriesInstanceUID for i in images}) == 1
    assert len({i.SOPInstanceUID for i in images}) == 6
    alone = derived(paths[2], tmp_path / "c", "identity")
    assert alone.SeriesInstanceUID == images[2].SeriesInstanceUID
    assert alone.SOPInstanceUID == images[2].SOPInstanceUID


def test_the_patient_and_the_geometry_stay(source, tmp_path):
    old, new = pydicom.dcmread(source), derived(source, tmp_path / "out")
    kept = [e for e in old if e.tag.group in (0x0010, 0x0018, 0x0020) and e.VR != "SQ"]
    kept = [e for e in kept if e.keyword not in ("SeriesInstanceUID", "SeriesNumber")]
    kept += [old[k] for k in ("PixelSpacing", "Rows", "Columns", "WindowCenter", "WindowWidth")]
    kept += [old[k] for k in ("StudyDate", "AcquisitionDate", "AcquisitionTime", "SeriesDate")]
    assert len(kept) > 25
    for element in kept:
        assert new[element.tag] == element


def test_implicit_vr_keeps_the_bytes_of_what_it_does_not_touch(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm", syntax=IMPLICIT, ReferringPhysicianName="  ")
    raw = pydicom.dcmread(source).get_item("ReferringPhysicianName").value
    assert raw == b"  "
    new = derived(source, tmp_path / "out")
    assert new.get_item("ReferringPhysicianName").value == raw
    assert new.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


# ---- what says that it is derived ----------------------------------------------------------------


@pytest.mark.promise("derived")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], ["AXIAL", "CT_SOM5 SPI"]),
        (["DERIVED", "PRIMARY", "AXIAL"], ["AXIAL"]),
        (["ORIGINAL", "PRIMARY"], ["AXIAL"]),
        (None, ["AXIAL"]),
    ],
)
def test_image_type(tmp_path, old, new):
    source = slice_of(tmp_path / "in" / "a.dcm", ImageType=old)
    assert derived(source, tmp_path / "out").ImageType == ["DERIVED", "SECONDARY", *new]


@pytest.mark.promise("research-only")
def test_the_derivation_is_described(source, tmp_path):
    image = derived(source, tmp_path / "out", blend=0.7)
    digest = find("gaussian").open().digest
    for words in ("gaussian", __version__, digest, "0.7", "research use only"):
        assert words in image.DerivationDescription
    (item,) = image.DerivationCodeSequence
    assert code_of(item) == ("113087", "DCM", "Smoothing")


def test_the_training_of_the_model_is_named():
    text = Processing("pcn", "0" * 64, trained_on="kernels B30f, slices of 1 to 3 mm").description
    assert "trained on kernels B30f, slices of 1 to 3 mm" in text


@pytest.mark.parametrize("model", ["pcn", "m" * 2000])
def test_many_training_kernels_leave_room_for_the_blend_and_the_research_use(model):
    trained = Trained(tuple(f"Br{i}d\\3" for i in range(200)), thickness_mm=(1, 3), dose=(0.1, 0.5))
    text = Processing(model, "0" * 64, trained_on=trained.words, blend=0.7).description
    assert len(text) <= 1024
    assert text.endswith("; 0.7 of the result + 0.3 of the source; research use only")
    if model == "pcn":
        told = re.search(r"kernels (.*) and (\d+) more, slices of 1 to 3 mm, dose 10 to 50 %", text)
        assert len(told[1].split(", ")) + int(told[2]) == 200


def test_an_earlier_derivation_is_kept_behind(source, tmp_path):
    def edit(image):
        image.DerivationDescription = "averaged"
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = "113062", "DCM"
        item.CodeMeaning = "Pixel by pixel averaging"
        image.DerivationCodeSequence = Sequence([item])

    image = derived(rewrite(source, edit=edit), tmp_path / "out")
    assert image.DerivationDescription.endswith("source: averaged")
    assert [code_of(i)[0] for i in image.DerivationCodeSequence] == ["113062", "113087"]


@pytest.mark.promise("derived")
def test_the_source_image_is_named(source, tmp_path):
    old, image = pydicom.dcmread(source), derived(source, tmp_path / "out")
    (item,) = image.SourceImageSequence
    assert item.ReferencedSOPClassUID == old.SOPClassUID
    assert item.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert item.SpatialLocationsPreserved == "YES"
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert code_of(purpose)[:2] == ("121322", "DCM")


def test_our_equipment_is_appended_and_the_scanners_kept(source, tmp_path):
    def edit(image):
        item = Dataset()
        item.Manufacturer = "A workstation"
        image.ContributingEquipmentSequence = Sequence([item])

    image = derived(rewrite(source, edit=edit), tmp_path / "out")
    assert image.Manufacturer == "SIEMENS"
    first, ours = image.ContributingEquipmentSequence
    assert first.Manufacturer == "A workstation"
    (purpose,) = ours.PurposeOfReferenceCodeSequence
    assert code_of(purpose) == ("109102", "DCM", "Processing Equipment")
    assert ours.Manufacturer and ours.SoftwareVersions == __version__


def test_series_description_and_number(source, tmp_path):
    image = derived(source, tmp_path / "out")
    assert image.SeriesDescription.startswith("Abdomen 1.0 B30f [ldct_jax gaussian ")
    assert image.SeriesNumber == 1004
    long = series_description("x" * 64, Processing("m" * 80, "0" * 64))
    assert len(long) == 64 and long.endswith(" 00000000]")
    assert series_description("", Processing("m", "0" * 64)) == "[ldct_jax m 00000000]"
    assert free_number(4, {1004, 1005}) == 1006
    assert free_number(None, set()) == 1000
    assert free_number(2**31 - 1, set()) == 1000


def test_a_description_in_another_character_set(tmp_path):
    text = "Körper µ-Karte"
    source = slice_of(
        tmp_path / "in" / "a.dcm", SpecificCharacterSet="ISO_IR 192", SeriesDescription=text
    )
    image = derived(source, tmp_path / "out")
    assert image.SpecificCharacterSet == "ISO_IR 192"
    assert image.SeriesDescription.startswith(text + " [ldct_jax")


def test_numbers_of_other_series_are_not_taken(tmp_path):
    for name, number in (("a", 4), ("b", 1004), ("c", 4)):
        write_series(tmp_path / "in" / name, anatomy(0, n=2), SeriesNumber=number)
    localizer = slice_of(
        tmp_path / "in" / "scout.dcm",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        SeriesNumber=1005,
    )
    denoise_path(tmp_path / "in", tmp_path / "out", find("identity"))
    numbers = {
        int(pydicom.dcmread(p).SeriesNumber) for p in sorted((tmp_path / "out").rglob("*.dcm"))
    }
    assert numbers == {1006, 1007, 2004}
    assert not (tmp_path / "out" / localizer.name).exists()


def test_creation_is_now_and_acquisition_stays(source, tmp_path):
    before = datetime.datetime.now().astimezone().replace(microsecond=0)
    image = derived(source, tmp_path / "out")
    after = datetime.datetime.now().astimezone()
    for what in ("InstanceCreation", "Content"):
        text = getattr(image, what + "Date") + getattr(image, what + "Time")
        moment = datetime.datetime.strptime(text, "%Y%m%d%H%M%S.%f").astimezone()
        assert before <= moment <= after
    assert image.AcquisitionDate == "20150413"
    assert image.AcquisitionTime == "101113"


def test_times_are_given_in_the_images_zone(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm", TimezoneOffsetFromUTC="+1300")
    image = derived(source, tmp_path / "out")
    text = image.ContentDate + image.ContentTime + "+1300"
    moment = datetime.datetime.strptime(text, "%Y%m%d%H%M%S.%f%z")
    now = datetime.datetime.now().astimezone()
    assert abs((now - moment).total_seconds()) < 600


# ---- what is dropped, what is kept ---------------------------------------------------------------


def add_everything(image):
    image.SmallestImagePixelValue, image.LargestImagePixelValue = 0, 4095
    image["SmallestImagePixelValue"].VR = image["LargestImagePixelValue"].VR = "US"
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    image.IconImageSequence = Sequence([icon])
    signature = Dataset()
    signature.MACIDNumber = 1
    image.DigitalSignaturesSequence = Sequence([signature])
    image.LossyImageCompression, image.LossyImageCompressionRatio = "01", "10"
    image.add_new(0x60000010, "US", 64)
    image.add_new(0x60003000, "OW", b"\1" * 512)
    image.add_new(0x60020010, "US", 64)  # an overlay in the unused bits has no data of its own
    image.private_block(0x0029, "A CREATOR", create=True).add_new(1, "LO", "secret")
    image.private_block(0x0029, "ANOTHER", create=True).add_new(1, "LO", "more")
    nested = Dataset()
    nested.CodeValue, nested.CodingSchemeDesignator, nested.CodeMeaning = "1", "DCM", "x"
    nested.private_block(0x0019, "A CREATOR", create=True).add_new(1, "LO", "nested")
    image.ProcedureCodeSequence = Sequence([nested])


def test_private_overlays_icons_and_signatures_go(source, tmp_path):
    image = derived(rewrite(source, edit=add_everything), tmp_path / "out")
    for keyword in (
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "IconImageSequence",
        "DigitalSignaturesSequence",
    ):
        assert keyword not in image
    tags = [e.tag for e in image.iterall()]
    assert not [t for t in tags if t.is_private or 0x6000 <= t.group <= 0x60FF]
    assert (image.LossyImageCompression, image.LossyImageCompressionRatio) == ("01", 10)
    assert image.ProcedureCodeSequence[0].CodeValue == "1"


def test_the_allow_list_keeps_creators_and_overlays(source, tmp_path):
    keep = ("A CREATOR", "overlays")
    image = derived(rewrite(source, edit=add_everything), tmp_path / "out", keep=keep)
    assert image.private_block(0x0029, "A CREATOR")[1].value == "secret"
    with pytest.raises(KeyError):
        image.private_block(0x0029, "ANOTHER")
    nested = image.ProcedureCodeSequence[0]
    assert nested.private_block(0x0019, "A CREATOR")[1].value == "nested"
    assert image[0x60003000].value == b"\1" * 512
    assert 0x60020010 not in image


def test_rescale_stays_and_fits_its_sixteen_characters(tmp_path):
    odd = slice_of(tmp_path / "in" / "a.dcm", RescaleSlope="001.000000E+00")
    assert derived(odd, tmp_path / "a").get_item("RescaleSlope").value.strip() == b"001.000000E+00"
    too_long = b"1.0000000000000000001 "
    path = slice_of(tmp_path / "in" / "b.dcm")
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x53\x10DS")
    value = b"DS" + len(too_long).to_bytes(2, "little") + too_long
    path.write_bytes(data[: at + 4] + value + data[at + 10 :])
    image = derived(path, tmp_path / "b")
    assert len(image.get_item("RescaleSlope").value) <= 16
    assert image.RescaleSlope == 1


def test_the_preamble_is_zeroed(source, tmp_path):
    source.write_bytes(b"MZ" + b"x" * 126 + source.read_bytes()[128:])
    derived(source, tmp_path / "out")
    assert (tmp_path / "out" / "a.dcm").read_bytes()[:132] == b"\0" * 128 + b"DICM"


def test_the_same_again_is_the_same_file_but_for_the_time(source, tmp_path):
    digests = set()
    for name in "ab":
        image = derived(source, tmp_path / name)
        for keyword in ("ContentDate", "ContentTime", "InstanceCreationTime"):
            delattr(image, keyword)
        del image.InstanceCreationDate
        image.ContributingEquipmentSequence[0].ContributionDateTime = ""
        digests.add(hashlib.sha256(repr(image).encode()).hexdigest())
    assert len(digests) == 1


# ---- pixels --------------------------------------------------------------------------------------


def header_of(tmp_path, **tags):
    return read_header(plain(**tags)(tmp_path / "x.dcm"))


def test_halves_go_to_the_even_value(tmp_path):
    header = header_of(tmp_path)
    change = np.array([[0.5, 1.5, -0.5, -1.5, 2.5, 0.49]])
    new = to_stored(np.full((1, 6), 100), change, None, header)
    assert new.values.tolist() == [[100, 102, 100, 98, 102, 100]]
    assert (new.clipped, new.moved) == (0, 0)


@pytest.mark.parametrize(
    ("tags", "least", "most"),
    [
        ({"bits": 12}, 0, 4095),
        ({"bits": 16}, 0, 65535),
        ({"bits": 12, "signed": True, "RescaleIntercept": "0"}, -2048, 2047),
        ({"bits": 16, "signed": True, "RescaleIntercept": "0"}, -32768, 32767),
    ],
)
def test_values_are_cut_to_bits_stored_and_counted(tmp_path, tags, least, most):
    # The fixture's HU don't all fit; only its header matters here.
    header = read_header(slice_of(tmp_path / "x.dcm", hu=np.clip(HU, -1000, 1000), **tags))
    change = np.array([[-1e6, 1e6, 0.0, 1.0]])
    new = to_stored(np.full((1, 4), 5), change, None, header)
    assert new.values.tolist() == [[least, most, 5, 6]]
    assert new.clipped == 2


def test_padding_is_restored_and_nothing_else_becomes_padding(tmp_path):
    header = header_of(tmp_path, padding=0, padded=OUTSIDE, hu=np.maximum(HU, -1023))
    stored = np.array([[0, 0, 3, 3, 3]])
    mask = np.array([[True, True, False, False, False]])
    change = np.array([[50.0, np.nan, -3.0, -9.0, -2.0]])
    new = to_stored(stored, change, mask, header)
    assert new.values.tolist() == [[0, 0, 1, 1, 1]]
    assert (new.clipped, new.moved) == (1, 2)


def test_values_leave_a_padding_range_by_the_nearer_end(tmp_path):
    import dataclasses

    header = dataclasses.replace(header_of(tmp_path), padding=(100, 109))
    stored = np.array([[200, 200, 200, 200, 105]])
    mask = np.array([[False] * 4 + [True]])
    change = np.array([[-100.0, -91.0, -96.0, -90.0, 7.0]])
    new = to_stored(stored, change, mask, header)
    assert new.values.tolist() == [[99, 110, 99, 110, 105]]
    assert new.moved == 3


def test_the_change_is_in_hu_and_the_slope_converts_it(tmp_path):
    header = header_of(tmp_path, RescaleSlope="-2", RescaleIntercept="3000")
    new = to_stored(np.array([[500, 500]]), np.array([[10.0, -20.0]]), None, header)
    assert new.values.tolist() == [[495, 510]]


def test_numbers_that_are_none_are_refused(tmp_path):
    for bad in (np.nan, np.inf):
        with pytest.raises(NumericsError):
            to_stored(np.array([[5]]), np.array([[bad]]), None, header_of(tmp_path))


def test_monochrome1_is_not_inverted(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    same = slice_of(tmp_path / "in" / "b.dcm")
    image, other = (derived(p, tmp_path / p.stem) for p in (source, same))
    assert image.PhotometricInterpretation == "MONOCHROME1"
    assert not np.array_equal(other.pixel_array, pydicom.dcmread(same).pixel_array)
    np.testing.assert_array_equal(image.pixel_array, other.pixel_array)
