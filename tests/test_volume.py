"""From files to volumes, and from masks on volumes back to the source's slices."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file

from radnode.dicom.encode.sc import windowed
from radnode.dicom.masks import mask_ml, mask_on_source
from radnode.dicom.volume import read_series
from radnode.domain.errors import GeometryError, NotDicomError, PixelsError, ResultError
from radnode.domain.study import Instance, Series
from radnode.testing import brain_mr
from radnode.testing.phantom import BLEED_HU, head_ct
from tests.results import enhanced

SHARED = Path(__file__).parents[2] / "shared" / "data"
BLEED_AT = (30.0, -8.0, 2.0)  # as in the phantom, LPS mm
UNEVEN = {"uneven": True}
IRREGULAR: list[dict[str, Any]] = [{}, {"tilt": 18.5}, {"tilt": -25.0}, UNEVEN, {"tilt": 18.5, **UNEVEN}]


def phantom(folder: Path, **how: Any) -> Series:
    (series,) = read_series(head_ct(folder, **{"size": 128, **how}))
    return series


def edit(path: Path, **attributes: Any) -> Path:
    ds = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def shared(name: str) -> list[Path]:
    if not SHARED.is_dir():
        pytest.skip("the folder of real test data is not there")
    return sorted(path for path in (SHARED / name).iterdir() if pydicom.misc.is_dicom(path))


def ball(image: sitk.Image, radius: float = 20.0) -> sitk.Image:
    """A mask of everything within `radius` mm of the bleed, on the image's grid."""
    z, y, x = (axis.ravel() for axis in np.indices(sitk.GetArrayViewFromImage(image).shape))
    frame = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    points = np.stack([x, y, z], axis=1) @ frame.T + np.array(image.GetOrigin())
    inside = np.linalg.norm(points - BLEED_AT, axis=1) <= radius
    mask = sitk.GetImageFromArray(inside.reshape(image.GetSize()[::-1]).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def ball_on(instance: Instance, radius: float = 20.0) -> np.ndarray:
    """The same ball, straight from the slice's own attributes (PS3.3 C.7.6.2.1.1)."""
    orientation = np.array(instance.get("ImageOrientationPatient"))
    dy, dx = instance.get("PixelSpacing")
    y, x = np.indices((instance.get("Rows"), instance.get("Columns")))
    points = (
        np.array(instance.get("ImagePositionPatient"))
        + x[..., None] * dx * orientation[:3]
        + y[..., None] * dy * orientation[3:]
    )
    return np.linalg.norm(points - BLEED_AT, axis=2) <= radius


def test_series_come_in_the_order_of_their_place_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    paths = head_ct(tmp_path, slices=9, size=16, localizer=True)
    random.Random(3).shuffle(paths)
    found = {series.first.text("SeriesDescription"): series for series in read_series(paths)}
    assert [each.get("InstanceNumber") for each in found["HEAD 5MM STD"]] == list(range(1, 10))
    assert len(found["LOCALIZER"]) == 2


def test_the_volume_is_in_hounsfield_units_and_patient_coordinates(tmp_path: Path) -> None:
    volume = phantom(tmp_path, bleed_ml=30).volume()
    assert volume.GetPixelID() == sitk.sitkFloat32
    assert (volume.GetSize(), volume.GetSpacing()[2]) == ((128, 128, 28), 5.0)
    assert volume[volume.TransformPhysicalPointToIndex(BLEED_AT)] == pytest.approx(BLEED_HU, abs=15)
    assert volume[0, 0, 0] == pytest.approx(-1000, abs=25)
    assert not volume.HasMetaDataKey("resampled")


@pytest.mark.parametrize("how", IRREGULAR, ids=str)
def test_tilted_and_uneven_series_keep_their_anatomy_in_place(tmp_path: Path, how: dict[str, Any]) -> None:
    volume = phantom(tmp_path, bleed_ml=40, **how).volume()
    assert volume.HasMetaDataKey("resampled") == bool(how)
    bleed = sitk.And(sitk.And(volume > 55, volume < 95), ball(volume, 27))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(bleed)
    assert shape.GetCentroid(1) == pytest.approx(BLEED_AT, abs=1.5)


@pytest.mark.parametrize("how", IRREGULAR, ids=str)
def test_a_mask_finds_its_way_back_to_every_slice(tmp_path: Path, how: dict[str, Any]) -> None:
    series = phantom(tmp_path, **how)
    wanted = np.stack([ball_on(each) for each in series])
    mask = ball(series.volume())
    for given in (mask, sitk.GetArrayFromImage(mask)):
        found = mask_on_source(series, given)
        assert found.shape == wanted.shape
        overlap = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
        assert overlap > 0.93


def test_a_mask_on_any_other_grid_finds_its_way_back_too(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    cube = sitk.Image(60, 60, 60, sitk.sitkUInt8)
    cube.SetOrigin([each - 30 for each in BLEED_AT])
    found = mask_on_source(series, ball(cube))
    wanted = np.stack([ball_on(each) for each in series])
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.93


def test_the_volume_of_a_mask_is_that_of_its_grid(tmp_path: Path) -> None:
    series = phantom(tmp_path, tilt=18.5)
    mask = ball(series.volume())
    true = 4 / 3 * np.pi * 20**3 / 1000
    assert mask_ml(mask, None) == pytest.approx(true, rel=0.05)
    assert mask_ml(sitk.GetArrayFromImage(mask) > 0, series) == pytest.approx(mask_ml(mask, None))


def test_an_array_that_lies_on_no_known_grid_is_refused(tmp_path: Path) -> None:
    series = phantom(tmp_path, slices=4, size=16)
    with pytest.raises(ResultError, match=r"\(4, 16, 15\).*\(4, 16, 16\)"):
        mask_on_source(series, np.zeros((4, 16, 15)))


def test_two_images_at_one_place_are_named(tmp_path: Path) -> None:
    paths = head_ct(tmp_path, slices=5, size=16)
    edit(paths[3], ImagePositionPatient=pydicom.dcmread(paths[2]).ImagePositionPatient)
    (series,) = read_series(paths)
    with pytest.raises(GeometryError, match="images 3 and 4 lie at the same place"):
        series.volume()


def test_a_localizer_makes_no_volume(tmp_path: Path) -> None:
    *_, scouts = read_series(head_ct(tmp_path, slices=2, size=16, localizer=True))
    with pytest.raises(GeometryError, match="not parallel"):
        scouts.volume()


def test_one_missing_slice_is_interpolated_and_said_but_a_hole_is_refused(tmp_path: Path) -> None:
    one = phantom(tmp_path / "one", size=32, missing=[9]).volume()
    assert one.GetSize()[2] == 28
    assert one.GetMetaData("resampled") == "unevenly spaced, 5.00 to 10.00 mm"
    with pytest.raises(GeometryError, match=r"a gap of 30\.0 mm after image 9"):
        phantom(tmp_path / "five", size=32, missing=range(9, 14)).volume()


def test_images_of_different_size_make_no_volume(tmp_path: Path) -> None:
    paths = head_ct(tmp_path / "a", slices=3, size=16)
    ds = pydicom.dcmread(paths[1])
    paths[1] = edit(head_ct(tmp_path / "b", slices=3, size=32)[1], SeriesInstanceUID=ds.SeriesInstanceUID)
    (series,) = read_series(paths)
    with pytest.raises(GeometryError, match="Rows is missing or differs"):
        series.volume()


@pytest.mark.parametrize(
    ("spacing", "fault"),
    [
        (None, "PixelSpacing is missing"),
        ([0, 0], r"PixelSpacing is 0.0\\0.0, not two numbers above 0"),
        ([0.5, -0.5], "not two numbers above 0"),
        ([0.5], "not two numbers above 0"),
    ],
    ids=str,
)
def test_pixels_without_a_size_make_no_volume(tmp_path: Path, spacing: list[float] | None, fault: str) -> None:
    (series,) = read_series(head_ct(tmp_path, slices=3, size=16, PixelSpacing=spacing))
    with pytest.raises(GeometryError, match=rf"(?s){fault}.*-> read single images"):
        series.volume()


def test_images_without_a_place_come_by_number_and_make_no_volume(tmp_path: Path) -> None:
    paths = [edit(path, ImagePositionPatient=None) for path in head_ct(tmp_path, slices=3, size=16)]
    (series,) = read_series(reversed(paths))
    assert [each.get("InstanceNumber") for each in series] == [1, 2, 3]
    with pytest.raises(GeometryError, match="3 images have no ImagePositionPatient"):
        series.volume()


def test_the_rescale_of_each_slice_is_its_own(tmp_path: Path) -> None:
    paths = head_ct(tmp_path, slices=3, size=16)
    edit(paths[1], RescaleSlope=2, RescaleIntercept=10)
    (series,) = read_series(paths)
    stored = series.instances[1].pixels()
    assert sitk.GetArrayFromImage(series.volume())[1] == pytest.approx(stored * 2.0 + 10)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_ct_that_does_not_say_how_to_get_hounsfield_units_makes_no_volume(tmp_path: Path, keyword: str) -> None:
    paths = head_ct(tmp_path, slices=3, size=16)
    edit(paths[1], **{keyword: None})
    with pytest.raises(PixelsError, match="has no Hounsfield units"):
        read_series(paths)[0].volume()
    for path in paths:
        edit(path, Modality="MR", **{keyword: None})
    assert read_series(paths)[0].volume().GetSize() == (16, 16, 3)


def test_values_that_do_not_end_where_they_should_are_refused(tmp_path: Path) -> None:
    (path,) = head_ct(tmp_path, slices=1, size=16)
    edit(path, HighBit=15)
    with pytest.raises(PixelsError, match="end at bit 15, not at 11"):
        read_series([path])[0].first.pixels()


def test_nifti_has_the_same_voxels_at_the_same_places_in_ras(tmp_path: Path) -> None:
    series = phantom(tmp_path, size=32, tilt=10)
    volume = series.volume()
    image = nibabel.load(series.nifti(tmp_path / "head.nii.gz"))
    index = (20, 15, 12)
    lps = np.array(volume.TransformIndexToPhysicalPoint(index))
    assert image.affine @ (*index, 1) == pytest.approx([-lps[0], -lps[1], lps[2], 1], abs=1e-3)
    assert image.dataobj[index] == pytest.approx(volume[index])


def test_a_file_that_is_no_dicom_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague")
    with pytest.raises(NotDicomError, match=r"letter\.txt"):
        read_series([path])


def test_a_header_without_uids_is_refused(tmp_path: Path) -> None:
    (path,) = head_ct(tmp_path, slices=1, size=16)
    with pytest.raises(NotDicomError, match="no StudyInstanceUID"):
        read_series([edit(path, StudyInstanceUID="")])


def test_pixels_that_are_cut_short_are_an_error_not_a_black_image(tmp_path: Path) -> None:
    (path,) = head_ct(tmp_path, slices=1, size=16)
    path.write_bytes(path.read_bytes()[:-100])
    (series,) = read_series([path])
    with pytest.raises(PixelsError, match="cannot be read"):
        series.first.pixels()


def test_values_that_are_wrong_for_their_vr_do_not_keep_a_series_from_being_read(tmp_path: Path) -> None:
    (path,) = head_ct(tmp_path, slices=1, size=16, KVP="120")
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x00120 ", b"DS\x04\x00high"))
    (series,) = read_series([path])
    assert series.first.get("KVP") == "high"
    assert series.first.get("PatientAge") == "066Y"


def test_long_values_are_left_out_of_the_attributes(tmp_path: Path) -> None:
    (path,) = head_ct(tmp_path, slices=1, size=16, DerivationDescription="a" * 1000, ImageComments="b" * 100_000)
    (series,) = read_series([path])
    assert len(series.first.text("DerivationDescription")) == 1000
    assert series.first.get("ImageComments") is None


def test_colour_and_frames_come_as_the_contract_says() -> None:
    path = Path(get_testdata_file("examples_ybr_color.dcm"))
    (series,) = read_series([path])
    assert series.first.pixels().shape == (30, 240, 320, 3)
    assert len(list(series.images())) == 1


@pytest.mark.parametrize("full", [0x00FF, 0xFF00], ids=["eight bits in each entry", "sixteen"])
def test_a_palette_is_colour_in_pixels_and_in_pictures(tmp_path: Path, full: int) -> None:
    """As ultrasound and fused PET have it: the stored values alone mean nothing."""
    image = coloured(tmp_path, red=[0, full], others=[0, full // 2])
    for shown in (image.pixels(), windowed(image, 40, 80)):
        assert (shown.shape, shown.dtype) == ((16, 16, 3), np.uint8)
        assert shown[0, :2].tolist() == [[0, 0, 0], [255, 127, 127]]


def test_a_dark_picture_of_a_palette_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    image = coloured(tmp_path, red=[0, 0x02FF, 0xFF00], others=[0, 0x00FF, 0xFF00])
    assert image.pixels()[0, :2].tolist() == [[0, 0, 0], [2, 0, 0]]
    image = coloured(tmp_path, red=[0, 0x00FF, 0xFF00], others=[0, 0x00FF, 0xFF00])
    assert image.pixels().max() == 0


def coloured(folder: Path, red: list[int], others: list[int]) -> Instance:
    """A picture of the palette's entries 0 and 1, in turn."""
    (path,) = head_ct(folder, slices=1, size=16, Modality="US")
    ds = pydicom.dcmread(path)
    for number, colour in enumerate(("Red", "Green", "Blue")):
        entries = np.array(red if colour == "Red" else others, "<u2")
        ds.add_new(0x00281101 + number, "US", [len(entries), 0, 16])
        ds.add_new(0x00281201 + number, "OW", entries.tobytes())
        assert colour in ds[0x00281101 + number].keyword
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 8, 8, 7, "PALETTE COLOR"
    ds.PixelData = bytes([0, 1] * 128)
    ds.save_as(path)
    return read_series([path])[0].first


@pytest.mark.parametrize("syntax", ["J2KI", "J2KR", "JLSL", "JLSN", "JPLL", "JPLY", "RLE"])
def test_real_images_of_every_transfer_syntax_are_decoded(syntax: str) -> None:
    seen = 0
    for path in shared("transfer-syntaxes"):
        if path.stem.endswith(syntax):
            (series,) = read_series([path])
            pixels = series.first.pixels()
            assert pixels.shape[:2] == (series.first.get("Rows"), series.first.get("Columns")), path.name
            assert pixels.std() > 0, path.name
            seen += 1
    assert seen


@pytest.mark.parametrize("name", ["CT2", "MR1"])
def test_lossless_transfer_syntaxes_of_one_real_image_agree(name: str) -> None:
    paths = [each for each in shared("transfer-syntaxes") if each.stem.split("_")[0] == name]
    lossless = [each for each in paths if each.stem.split("_")[1] in ("J2KR", "JLSL", "JPLL", "RLE")]
    first, *others = (read_series([each])[0].first.pixels() for each in lossless)
    assert others
    for each in others:
        assert np.array_equal(each, first)


def test_a_real_head_ct_with_tilt_and_uneven_slices_becomes_one_grid() -> None:
    (series,) = read_series(shared("ct-head-ge"))
    volume = series.volume()
    assert volume.GetMetaData("resampled").startswith("tilted by 18.5 degrees, unevenly spaced")
    assert volume.GetSpacing()[2] == pytest.approx(4.0, abs=0.05)
    array = sitk.GetArrayViewFromImage(volume)
    assert 30 < np.median(array[(array > 0) & (array < 80)]) < 45  # HU of brain


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("how", [{}, {"tilt": 18.5, "uneven": True}], ids=str)
def test_an_enhanced_multi_frame_image_is_the_series_its_frames_make(
    tmp_path: Path, how: dict[str, Any], shared: bool
) -> None:
    files = head_ct(tmp_path / "in", slices=9, size=48, bleed_ml=30, **how)
    (single,), (multi,) = read_series(files), read_series([enhanced(files, tmp_path / "multi.dcm", shared=shared)])
    assert (len(multi), len(multi.planes)) == (1, 9)
    assert [each.frame for each in multi.planes] == list(range(9, 0, -1))
    one, two = single.volume(), multi.volume()
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(two))
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, what)() == pytest.approx(getattr(two, what)())
    assert [each.get("SliceThickness") for each in multi.planes] == [5.0] * 9


def test_frames_with_too_few_functional_groups_are_refused(tmp_path: Path) -> None:
    path = enhanced(head_ct(tmp_path / "in", slices=3, size=16), tmp_path / "multi.dcm")
    (series,) = read_series([edit(path, NumberOfFrames=4)])
    with pytest.raises(NotDicomError, match="4 frames and functional groups for 3"):
        series.volume()


def test_a_series_that_makes_no_volume_can_be_split_into_parts_that_do(tmp_path: Path) -> None:
    paths = head_ct(tmp_path / "one", slices=4, size=16)
    uid = pydicom.dcmread(paths[0]).SeriesInstanceUID
    for echo, path in enumerate(head_ct(tmp_path / "two", slices=4, size=16)):
        paths.append(edit(path, SOPInstanceUID=f"2.25.{echo}", EchoTime=90))
    scouts = head_ct(tmp_path / "three", slices=4, size=16, localizer=True)[-2:]
    paths += [edit(path, SeriesInstanceUID=uid) for path in scouts]
    (series,) = read_series(paths)
    with pytest.raises(GeometryError, match=r"(?s)not parallel.*series\.split\(\)"):
        series.volume()
    parts = series.split()
    assert [len(part) for part in parts] == [4, 4, 1, 1]
    assert [part.volume().GetSize() for part in parts[:2]] == [(16, 16, 4)] * 2
    assert {part.first.get("EchoTime") for part in parts[:2]} == {None, 90.0}
    both = series.split("EchoTime")[0].split("ImageType")[0]
    assert len(both) == 4
    (phases,) = read_series(paths[:8])
    with pytest.raises(GeometryError, match="at the same place; they differ in EchoTime"):
        phases.volume()


def test_an_app_may_refuse_what_would_be_resampled(tmp_path: Path) -> None:
    series = phantom(tmp_path, slices=4, size=16, tilt=12)
    with pytest.raises(GeometryError, match=r"(?s)tilted by 12.0 degrees.*resample"):
        series.volume(irregular="refuse")
    with pytest.raises(GeometryError, match="irregular='guess'"):
        series.volume(irregular="guess")
    assert phantom(tmp_path / "even", slices=4, size=16).volume(irregular="refuse").GetSize() == (16, 16, 4)


def converted(series: Series, folder: Path) -> Any:
    """What dcm2niix makes of a series; it corrects a tilt in a second file."""
    from dcm2niix import bin as program

    (folder / "in").mkdir(parents=True)
    for number, instance in enumerate(series):
        shutil.copyfile(instance.path, folder / "in" / f"{number}.dcm")
    subprocess.run([program, "-b", "n", "-f", "x", "-o", folder, folder / "in"], check=True, capture_output=True)
    return nibabel.load(folder / "x.nii")


def agree(ours: Any, theirs: Any) -> None:
    """Voxels at the same places in the patient have the same values: the axes may run the other way."""
    ours, theirs = nibabel.as_closest_canonical(ours), nibabel.as_closest_canonical(theirs)
    assert ours.shape == theirs.shape
    assert ours.affine == pytest.approx(theirs.affine, abs=2e-3)
    assert np.allclose(ours.get_fdata(), theirs.get_fdata(), atol=1e-3)


@pytest.mark.parametrize("how", [{}, {"spacing": 2.5, "slices": 7}], ids=str)
def test_nifti_agrees_with_dcm2niix(tmp_path: Path, how: dict[str, Any]) -> None:
    series = phantom(tmp_path / "in", **{"slices": 5, "size": 32, **how})
    agree(nibabel.load(series.nifti(tmp_path / "ours.nii")), converted(series, tmp_path / "theirs"))


@pytest.mark.parametrize("tilt", [0.0, 14.0])
def test_nifti_of_each_contrast_of_a_brain_agrees_with_dcm2niix(tmp_path: Path, tilt: float) -> None:
    """Slices that are oblique, not sheared: in MR the table's axis has no part in them."""
    for contrast, paths in brain_mr(tmp_path / "in", slices=7, size=40, tilt=tilt).items():
        (series,) = read_series(paths)
        ours = nibabel.load(series.nifti(tmp_path / f"{contrast}.nii"))
        agree(ours, converted(series, tmp_path / contrast))


@pytest.mark.parametrize("name", ["ct-head-philips/S2010", "mr-brain-t1-t2"])
def test_nifti_of_real_series_agrees_with_dcm2niix(tmp_path: Path, name: str) -> None:
    compared = 0
    for number, whole in enumerate(read_series(shared(name))):
        series = Series(whole.instances[:12], whole.reader)  # of the MR series a slice further on is missing
        if len(series) > 1:
            series.volume(irregular="refuse")
            ours = nibabel.load(series.nifti(tmp_path / f"{number}.nii"))
            agree(ours, converted(series, tmp_path / str(number)))
            compared += 1
    assert compared
