"""DICOM pixels: transfer syntaxes, scaling, padding, damage; and objects that are no series."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import gdcm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medical_sam2 import io
from medical_sam2.errors import FormatError, InputError, ResourceError
from medical_sam2.io import dicom_streams
from tests.io.making import AXIAL, Series, base, made, phantom, same, save


def compressed(syntax: str) -> Callable[[Dataset], None]:
    def compress(dataset: Dataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False)

    return compress


def plain(syntax: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", syntax)


@pytest.mark.parametrize(
    "change",
    [
        plain(ImplicitVRLittleEndian),
        plain(DeflatedExplicitVRLittleEndian),
        compressed(RLELossless),
        compressed(JPEG2000Lossless),
        compressed(JPEGLSLossless),
    ],
)
def test_transfer_syntaxes(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    array = phantom((32, 40, 3)) % 4096
    for k, dataset in enumerate(Series(AXIAL, array).slices()):
        change(dataset)
        save(dataset, tmp_path / f"{k}.dcm")
    same(io.load(tmp_path), array=array)


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
@pytest.mark.parametrize("array", [phantom((32, 40, 3)), np.abs(phantom((32, 40, 3))) % 4096])
def test_lossless_jpeg(tmp_path: Path, kind: str, array: NDArray[np.int16]) -> None:
    """What most archives store; encoded by GDCM, and kept to the bit."""
    made(tmp_path, array)
    for path in tmp_path.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
        assert "JPEG Lossless" in dcmread(path).file_meta.TransferSyntaxUID.name
    same(io.load(tmp_path), array=array)


def test_damage_within_a_lossless_jpeg_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GDCM fills what is missing with wrong values, and tells nobody but standard error."""
    frame = np.random.default_rng(0).integers(0, 60, (32, 40)).astype(np.uint8)
    stream = lossless(frame)
    path = tmp_path / "one.dcm"
    for data, sound in ((stream, True), (stream[:-60] + stream[-2:], False)):
        dataset = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
        dataset.Modality, dataset.file_meta.TransferSyntaxUID, dataset.PixelData = "CR", JPEGLosslessSV1, encapsulate([data])
        dataset["PixelData"].VR = "OB"
        save(dataset, path)
        if sound:
            np.testing.assert_array_equal(io.load_pictures(path)[0].array, frame)
        else:
            with pytest.raises(FormatError, match="a compressed frame is damaged"):
                io.load_pictures(path)
    assert capfd.readouterr().err == ""


def test_fewer_than_eight_bits_as_lossless_jpeg_are_refused(tmp_path: Path) -> None:
    """GDCM would end the process."""
    frame = np.zeros((8, 10), np.uint8)
    dataset = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
    dataset.Modality, dataset.BitsStored, dataset.HighBit = "CR", 7, 6
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = JPEGLosslessSV1, encapsulate([lossless(frame)])
    dataset["PixelData"].VR = "OB"
    save(dataset, tmp_path / "one.dcm")
    with pytest.raises(FormatError, match="fewer than 8 bits"):
        io.read(tmp_path / "one.dcm")


def test_what_others_say_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with dicom_streams._listening(heard):
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nhello\n")
    assert (heard, capfd.readouterr().err) == (["Corrupt JPEG data: bad Huffman code\n"], "hello\n")


def lossless(frame: NDArray[np.uint8]) -> bytes:
    """A frame as lossless JPEG (process 14, first-order prediction); each difference has a code of four bits for its length."""
    rows, columns = frame.shape
    head = b"\xff\xd8\xff\xc3\0\x0b\x08" + bytes([0, rows, 0, columns]) + b"\x01\x01\x11\0"
    table = b"\xff\xc4" + bytes([0, 19 + 9, 0, 0, 0, 0, 9, *[0] * 12, *range(9)])
    values = frame.astype(int)
    before = np.column_stack([np.concatenate([[128], values[:-1, 0]]), values[:, :-1]])
    bits = ""
    for difference in (values - before).ravel():
        length = int(abs(difference)).bit_length()
        low = difference if difference > 0 else difference + (1 << length) - 1
        bits += f"{length:04b}" + (f"{low:0{length}b}" if length else "")
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + table + b"\xff\xda\0\x08\x01\x01\0\x01\0\0" + packed + b"\xff\xd9"


def jpeg(tmp_path: Path, syntax: UID, bits: int = 8) -> Path:
    """A grey JPEG in a file of 8 bits; its own header may claim more."""
    stream = BytesIO()
    frame = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    Image.fromarray(frame).save(stream, "JPEG", quality=100)
    dataset = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
    dataset.Modality, dataset.file_meta.TransferSyntaxUID = "CR", syntax
    data = bytearray(stream.getvalue())
    data[data.index(b"\xff\xc0") + 4] = bits
    dataset.PixelData = encapsulate([bytes(data)])
    dataset["PixelData"].VR = "OB"
    if bits > 8:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    save(dataset, tmp_path / "one.dcm")
    return tmp_path / "one.dcm"


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_jpeg_of_eight_bits_is_read(tmp_path: Path, syntax: UID) -> None:
    (picture,) = io.load_pictures(jpeg(tmp_path, syntax))
    assert np.abs(picture.array.astype(int) - np.add.outer(np.arange(32), np.arange(40))).max() <= 2


def test_jpeg_of_twelve_bits_has_no_decoder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"one.dcm: its pixels are JPEG of more than 8 bits.*convert it"):
        io.read(jpeg(tmp_path, JPEGExtended12Bit, 12))


def test_a_stream_of_another_depth_is_refused(tmp_path: Path) -> None:
    dataset = dcmread(jpeg(tmp_path, JPEGBaseline8Bit))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    save(dataset, tmp_path / "one.dcm")
    with pytest.raises(FormatError, match="a compressed frame says 1 × 8 bits a pixel, the header 3 × 8"):
        io.read(tmp_path / "one.dcm")


def test_a_few_bytes_that_would_be_gigabytes_are_refused(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom((32, 40, 1))).slices()[0]
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.Rows = dataset.Columns = 60_000
    save(dataset, tmp_path / "one.dcm")
    with pytest.raises((FormatError, ResourceError), match=r"bomb|needs"):
        io.read(tmp_path / "one.dcm")


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_a_decoder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID) -> None:
    path = jpeg(tmp_path, syntax)
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(FormatError, match=r"one.dcm: its transfer syntax \(JPEG.*not installed; install medical-sam2\[dicom\]"):
        io.read(path)


@given(
    place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), syntax=st.sampled_from([RLELossless, JPEG2000Lossless])
)
@settings(max_examples=25)
def test_a_damaged_file_is_refused_or_read_never_more(place: float, value: int, syntax: str) -> None:
    dataset = Series(AXIAL, phantom((32, 40, 1))).slices()[0]
    dataset.compress(syntax, generate_instance_uid=False)
    with TemporaryDirectory() as folder:
        path = Path(folder, "one.dcm")
        save(dataset, path)
        data = bytearray(path.read_bytes())
        data[132 + int(place * (len(data) - 132))] = value
        path.write_bytes(data)
        try:
            said = str(io.read(path))
        except InputError as error:
            said = str(error)
        assert "CANARY" not in said


def test_an_unknown_transfer_syntax_is_refused(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[0]
    save(dataset, tmp_path / "one.dcm")
    path = tmp_path / "one.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"))
    with pytest.raises(FormatError, match="transfer syntax"):
        io.load(path)


def test_each_slice_has_its_own_scaling(tmp_path: Path) -> None:
    made(tmp_path, RescaleSlope=lambda k: [1, 0.25][k % 2], RescaleIntercept=lambda k: str(-k))
    expected = phantom() * np.array([1, 0.25] * 3) - np.arange(6)
    np.testing.assert_allclose(io.load(tmp_path).array, expected)


@pytest.mark.parametrize(("intercept", "kind"), [(0, np.int16), (-1024, np.int16), (-40000, np.int32)])
def test_whole_numbers_stay_whole_in_the_smallest_type(tmp_path: Path, intercept: int, kind: type) -> None:
    array = phantom() - np.int16(1500)
    made(tmp_path, array, RescaleIntercept=intercept)
    volume = io.load(tmp_path)
    assert volume.array.dtype == kind
    np.testing.assert_array_equal(volume.array, array.astype(int) + intercept)


@pytest.mark.parametrize("padding", [-2000, 30000])
def test_padding_becomes_the_smallest_real_value(tmp_path: Path, padding: int) -> None:
    array = phantom()
    lowest = array[1:].min()
    array[0] = padding
    made(tmp_path, array)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", padding)
        save(dataset, path)
    volume = io.load(tmp_path)
    assert (volume.array[0] == lowest).all()
    np.testing.assert_array_equal(volume.array[1:], array[1:])


def test_twelve_bits_are_signed(tmp_path: Path) -> None:
    array = np.clip(phantom(), -2048, 2047)
    made(tmp_path, array & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(io.load(tmp_path).array, array)


def test_objects_without_a_place_are_pictures(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)
    cine = base(frames, "1.2.840.10008.5.1.4.1.1.3.1")  # type: ignore[arg-type]
    cine.Modality, cine.NumberOfFrames, cine.PixelSpacing = "US", 3, [0.5, 0.25]
    save(cine, tmp_path / "cine.dcm")
    pictures = io.load_pictures(tmp_path / "cine.dcm")
    np.testing.assert_array_equal(np.stack([picture.array for picture in pictures]), frames)
    assert (pictures[0].spacing_mm, pictures[2].frame, pictures[0].modality) == ((0.5, 0.25), 2, "US")
    volume = io.load(tmp_path / "cine.dcm")
    np.testing.assert_array_equal(volume.array, frames.transpose(2, 1, 0))
    assert volume.spacing_mm == (0.25, 0.5, 1.0)
    assert "mean nothing" in volume.warnings[-1]


def test_monochrome1_pictures_are_turned_to_bright_is_large(tmp_path: Path) -> None:
    frame = np.arange(20, dtype=np.uint8).reshape(4, 5)
    film = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
    film.Modality, film.PhotometricInterpretation = "CR", "MONOCHROME1"
    save(film, tmp_path / "film.dcm")
    (picture,) = io.load_pictures(tmp_path / "film.dcm")
    np.testing.assert_array_equal(picture.array, 255 - frame)


def test_a_single_slice_has_a_place_and_a_thickness(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[2]
    dataset.SliceThickness = 4
    save(dataset, tmp_path / "one.dcm")
    volume = io.load(tmp_path / "one.dcm")
    np.testing.assert_array_equal(volume.array[:, :, 0], phantom()[:, :, 2])
    np.testing.assert_allclose(volume.affine[:3, 3], (AXIAL @ [0, 0, 2, 1])[:3])
    assert volume.spacing_mm == (2.0, 2.5, 4.0)
