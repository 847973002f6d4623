"""DICOM of the kinds that people report: links, missing preambles, nuclear medicine, signs, headers that claim too much."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import JPEG2000Lossless, NuclearMedicineImageStorage, RLELossless

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError
from medical_sam2.io.dicom import segmentation
from medical_sam2.io.dicom.segmentation import NEEDED
from medical_sam2.io.image_folder import open_folder
from tests.io.making import AXIAL, Series, base, enhanced, made, phantom, same, save, short


@pytest.mark.parametrize("gone", [(0,), (5,), (0, 5), (2,)])
def test_links_that_lead_nowhere_are_refused_by_name(tmp_path: Path, gone: tuple[int, ...]) -> None:
    made(tmp_path / "store")
    for k in range(6):
        link = tmp_path / "series" / f"IM{k:04d}.dcm"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "store" / link.name)
    same(io.load(tmp_path / "series"))
    for k in gone:
        (tmp_path / "store" / f"IM{k:04d}.dcm").unlink()
    with pytest.raises(InputError, match=rf"{len(gone)} of its files are links that lead nowhere \(IM000{gone[0]}.dcm"):
        io.load(tmp_path / "series")


def test_links_to_folders_are_told(tmp_path: Path) -> None:
    made(tmp_path / "series")
    made(tmp_path / "elsewhere")
    (tmp_path / "series" / "more").symlink_to(tmp_path / "elsewhere")
    volume = io.load(tmp_path / "series")
    same(volume)
    assert volume.warnings == ("1 link to folders not followed",)


def test_a_part_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    (tmp_path / "closed").mkdir()
    scandir = __import__("os").scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"closed: may not be read"):
        io.load(tmp_path)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_series_of_elements_alone_is_read(tmp_path: Path, implicit: bool, little: bool) -> None:
    """Neither preamble nor file meta information, in each way in which elements can be written."""
    for k, dataset in enumerate(Series(AXIAL, phantom()).slices()):
        dataset.file_meta = FileMetaDataset()
        dataset.PixelData = phantom()[:, :, k].T.astype("<i2" if little else ">i2").tobytes()
        dcmwrite(tmp_path / f"{k}", dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings == ()
    labels = (volume.array > 0).astype(np.uint8)
    (tmp_path / "out").mkdir()
    io.save(labels, tmp_path / "out" / "seg.dcm", volume)
    np.testing.assert_array_equal(io.load_labels(tmp_path / "out" / "seg.dcm", volume).array, labels)


@pytest.mark.parametrize("head", [bytes(600), b"\x08\x00" + bytes(598), b"\x08\x00\x05\x00\x03\x00\x00\x00abc" + bytes(600)])
def test_other_files_are_not_taken_for_elements(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(FormatError, match="format is unknown"):
        io.load(tmp_path / "x")


def nuclear(step: object = -3, *, slots: list[int] | None = None, beside: bool = False, **tags: object) -> Dataset:
    """A reconstruction whose first slice lies where the phantom's first does."""
    array = phantom() + np.int16(1000)
    slots = slots or list(range(1, 7))
    dataset = base(np.stack([array[:, :, slot - 1].T for slot in slots]), NuclearMedicineImageStorage)
    dataset.Modality, dataset.ImageType, dataset.NumberOfFrames = "NM", ["ORIGINAL", "PRIMARY", "RECON TOMO"], len(slots)
    dataset.PixelSpacing, dataset.SliceThickness, dataset.NumberOfSlices = [2.5, 2.0], 3, 6
    dataset.SliceVector = slots
    if step is not None:
        dataset.SpacingBetweenSlices = step
    place = Dataset()
    place.ImagePositionPatient, place.ImageOrientationPatient = [7, 8, 9], short([1, 0, 0, 0, 0.6, 0.8])
    dataset.DetectorInformationSequence = [place]
    if beside:
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = (
            place.ImagePositionPatient,
            place.ImageOrientationPatient,
        )
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def where(volume: io.Volume, value: int) -> NDArray[np.float64]:
    """LPS mm of the voxel with this value."""
    (index,) = np.argwhere(volume.array == value)
    return np.array([-1, -1, 1]) * (volume.affine @ [*index, 1])[:3]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("step", [3, -3, 0.5])
def test_nuclear_medicine_lies_along_the_normal_on_the_side_that_the_sign_tells(
    tmp_path: Path, step: float, beside: bool
) -> None:
    dataset = nuclear(step, beside=beside, slots=[3, 1, 2, 6, 5, 4])
    save(dataset, tmp_path / "nm.dcm")
    volume = io.load(tmp_path / "nm.dcm")
    np.testing.assert_allclose(volume.spacing_mm, (2, 2.5, abs(step)))
    array = phantom() + np.int16(1000)
    value = next(int(v) for v in array[:, :, 4].ravel() if (array == v).sum() == 1)
    ((i, j, k),) = np.argwhere(array == value)
    expected = np.array([7, 8, 9]) + i * 2 * np.array([1, 0, 0]) + j * 2.5 * np.array([0, 0.6, 0.8])
    np.testing.assert_allclose(where(volume, value), expected + k * step * np.array([0, -0.8, 0.6]), atol=1e-6)
    assert volume.warnings == ()


def test_without_a_sign_the_thickness_is_taken_and_told(tmp_path: Path) -> None:
    save(nuclear(None), tmp_path / "nm.dcm")
    volume = io.load(tmp_path / "nm.dcm")
    assert volume.spacing_mm == pytest.approx((2, 2.5, 3))
    assert "SpacingBetweenSlices is missing" in volume.warnings[0]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"DetectorInformationSequence": []}, GeometryError, "DetectorInformationSequence"),
        ({"ImagePositionPatient": [7, 8, 10]}, GeometryError, "two different ImagePositionPatient"),
        ({"SliceVector": [1, 2, 3]}, FormatError, "SliceVector"),
        ({"SliceVector": [0, 1, 2, 3, 4, 5]}, FormatError, "SliceVector"),
        ({"SpacingBetweenSlices": 0}, GeometryError, "SpacingBetweenSlices"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO"]}, GeometryError, "ImageOrientationPatient"),
    ],
)
def test_contradictions_of_nuclear_medicine_are_refused(
    tmp_path: Path, change: dict[str, object], error: type[InputError], said: str
) -> None:
    save(nuclear(**change), tmp_path / "nm.dcm")  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        io.load(tmp_path / "nm.dcm")


def test_one_time_of_a_gated_reconstruction_must_be_chosen(tmp_path: Path) -> None:
    save(nuclear(3, slots=[1, 2, 3, 1, 2, 3], TimeSlotVector=[2, 2, 2, 1, 1, 1]), tmp_path / "nm.dcm")
    with pytest.raises(AmbiguousError, match=r"TimeSlotVector.*--frame 0"):
        io.load(tmp_path / "nm.dcm")
    volume = io.load(tmp_path / "nm.dcm", frame=0)
    assert volume.shape == (5, 4, 3)
    assert [place and place[1] for place in volume.origin.slices] == [3, 4, 5]  # type: ignore[attr-defined]


def test_no_dicom_seg_of_frames_that_do_not_say_where_they_lie(tmp_path: Path) -> None:
    save(nuclear(**dict.fromkeys(NEEDED[2:], "1.2.3")), tmp_path / "nm.dcm")
    volume = io.load(tmp_path / "nm.dcm")
    with pytest.raises(GeometryError, match="each where it lies; save to"):
        io.save((volume.array > 1000).astype(np.uint8), tmp_path / "seg.dcm", volume)


def test_a_dicom_seg_of_images_without_a_person(tmp_path: Path) -> None:
    made(tmp_path / "in", PatientName=None, PatientBirthDate=None, PatientSex=None, StudyID=None, AccessionNumber=None)
    volume = io.load(tmp_path / "in")
    labels = (volume.array > 0).astype(np.uint8)
    io.save(labels, tmp_path / "seg.dcm", volume)
    np.testing.assert_array_equal(io.load_labels(tmp_path / "seg.dcm", volume).array, labels)


def smooth(dtype: str) -> NDArray[np.integer]:
    """Values that rise over zero (seen as signed numbers), stored in a type."""
    return (np.add.outer(np.arange(40), np.arange(50)) * 30 - 1200).astype(np.int16).view(dtype)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (smooth("<i2"), None),
        (smooth("<u2"), "says that its pixels are unsigned; they look signed"),
        ((smooth("<i2") + 1300).astype(np.uint16), None),
        (((smooth("<i2").astype(int) + 1300) * 20).astype(np.uint16), None),
        (((smooth("<i2").astype(int) + 1300) * 20).astype(np.uint16).view(np.int16), "signed; they look unsigned"),
        (np.random.default_rng(0).integers(0, 65535, (40, 50)).astype(np.uint16), None),
        (np.where(smooth("<i2") > 0, 65535, 0).astype(np.uint16), None),
        (np.pad(smooth("<i2") // 4 + 350, 20, constant_values=-1).astype(np.uint16), None),
    ],
    ids=["signed", "said unsigned", "unsigned", "bright", "said signed", "noise", "a drawing", "a border"],
)
def test_a_sign_that_cannot_be_true_is_told(tmp_path: Path, frame: NDArray[np.integer], told: str | None) -> None:
    dataset = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
    dataset.Modality = "CR"
    save(dataset, tmp_path / "one.dcm")
    (picture,) = io.load_pictures(tmp_path / "one.dcm")
    assert [told in line for line in picture.warnings if told] == [True] * (told is not None)
    assert told or picture.warnings == ()
    np.testing.assert_array_equal(picture.array, frame)


def test_a_sign_that_changes_within_a_series_is_told(tmp_path: Path) -> None:
    made(tmp_path, np.abs(phantom()), PixelRepresentation=lambda k: int(k > 2))
    volume = io.load(tmp_path)
    same(volume, array=np.abs(phantom()))
    assert "PixelRepresentation differs" in volume.warnings[0]


@pytest.mark.parametrize(("kind", "value", "bits"), [("US", 63536, 16), ("SS", -2000, 16), ("SS", -2000, 12)])
def test_padding_of_the_other_sign_is_found(tmp_path: Path, kind: str, value: int, bits: int) -> None:
    signed = kind == "US"
    array = np.abs(phantom()) % 1800
    array[0] = -2000
    made(
        tmp_path,
        array & np.int16((1 << min(bits, 15)) - 1) if bits < 16 else array,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
    )
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", kind, value)
        save(dataset, path)
    volume = io.load(tmp_path)
    assert (volume.array[0] == array[1:].min()).all()
    np.testing.assert_array_equal(volume.array[1:], array[1:])
    assert "PixelPaddingValue" in volume.warnings[0]


def bomb(frames: int, change: Callable[[Dataset], None]) -> bytes:
    dataset = base(np.zeros((40, 40), np.uint16), "1.2.840.10008.5.1.4.1.1.3.1")  # type: ignore[arg-type]
    dataset.Modality = "US"
    change(dataset)
    dataset.NumberOfFrames = frames
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def packed(syntax: str) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.compress(syntax, generate_instance_uid=False)


@pytest.mark.parametrize("change", [lambda _: None, packed(RLELossless), packed(JPEG2000Lossless)], ids=["raw", "rle", "jpeg"])
@pytest.mark.parametrize("read", [io.read, io.load_pictures, lambda path: open_folder(path.parent).picture(0)])
def test_frames_are_counted_by_what_the_file_can_hold(
    tmp_path: Path, change: Callable[[Dataset], None], read: Callable[[Path], object]
) -> None:
    """Before any is described: two thousand million would take all memory."""
    path = tmp_path / "bomb.dcm"
    path.write_bytes(bomb(2_000_000_000, change))
    with pytest.raises(FormatError, match=r"2000000000 frames.*NumberOfFrames"):
        read(path)


@pytest.mark.parametrize("name", ["SamplesPerPixel", "PixelPaddingValue", "NumberOfFrames", "Modality", "ImageType"])
def test_values_of_another_tag_are_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new(name, "DS", [1, 0, 0, 0, 1, 0])
        save(dataset, path)
    if name in ("Modality", "ImageType"):
        same(io.load(tmp_path))
        return
    with pytest.raises(FormatError, match=name):
        io.load(tmp_path)


def again(folder: Path, name: str, **tags: object) -> None:
    """A second file with the identifier of the third slice, changed."""
    dataset = dcmread(folder / "IM0002.dcm")
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    save(dataset, folder / name)


def test_copies_are_counted_and_left_out(tmp_path: Path) -> None:
    made(tmp_path)
    again(tmp_path, "copy.dcm")
    again(tmp_path, "other bytes.dcm", SeriesDescription="sent again")
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings == ("2 slices are there twice, in 2 further files; copies were left out",)


@pytest.mark.parametrize("tags", [{"PixelData": bytes(40)}, {"RescaleSlope": 2}])
def test_one_identifier_for_two_contents_is_refused(tmp_path: Path, tags: dict[str, object]) -> None:
    made(tmp_path)
    again(tmp_path, "edited.dcm", **tags)
    with pytest.raises(FormatError, match=r"IM0002\.dcm and edited\.dcm have the same SOPInstanceUID and .* differ; remove"):
        io.load(tmp_path)


def test_copies_of_many_frames_are_compared(tmp_path: Path) -> None:
    dataset = enhanced(Series(AXIAL, phantom()), [3, 1, 5, 0, 2, 4])
    save(dataset, tmp_path / "a.dcm")
    dataset.SeriesDescription = "sent again"
    save(dataset, tmp_path / "b.dcm")
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings == ("6 slices are there twice, in 1 further file; copies were left out",)
    dataset.PixelData = dataset.PixelData[:-1] + b"\x01"
    save(dataset, tmp_path / "b.dcm")
    with pytest.raises(FormatError, match="have the same SOPInstanceUID"):
        io.load(tmp_path)


def test_slices_that_share_an_identifier_are_told_and_have_no_dicom_seg(tmp_path: Path) -> None:
    made(tmp_path / "series", SOPInstanceUID="1.2.3")
    volume = io.load(tmp_path / "series")
    same(volume)
    told = "5 slices have the SOPInstanceUID of another one; their places and times tell them apart"
    assert volume.warnings == (told,)
    with pytest.raises(FormatError, match="series: some of its slices have the same SOPInstanceUID, so a DICOM-SEG"):
        segmentation.check(volume, tmp_path / "seg.dcm")


@pytest.mark.parametrize(
    ("name", "values"),
    [("Units", ("BQML", "CNTS")), ("Units", ("BQML", "")), ("DecayCorrection", ("START", "ADMIN")), ("SUVType", ("BW", "LBM"))],
)
def test_slices_whose_numbers_mean_different_things_are_refused(tmp_path: Path, name: str, values: tuple[str, str]) -> None:
    made(tmp_path, Modality="PT", **{name: lambda k: values[k == 4]})
    with pytest.raises(FormatError, match=f"its slices differ in {name}, so their values cannot be compared; separate them"):
        io.load(tmp_path)
    made(tmp_path, Modality="PT", **{name: lambda _: values[0]})
    same(io.load(tmp_path))
