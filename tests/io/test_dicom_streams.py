"""Compressed DICOM: what decodes what, damage that decoders pass over, and streams that contradict their file."""

import os
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medical_sam2 import io
from medical_sam2.errors import FormatError, ResourceError
from medical_sam2.io.dicom import pixels
from tests.io.making import AXIAL, Series, base, made, phantom, same, save


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
    complaints: list[str] = []
    with pixels._collecting_complaints(complaints):
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nhello\n")
    assert (complaints, capfd.readouterr().err) == (["Corrupt JPEG data: bad Huffman code\n"], "hello\n")


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
    with pytest.raises(
        FormatError, match=r"one.dcm: its transfer syntax \(JPEG.*not installed; pip install 'medical-sam2\[dicom\]'"
    ):
        io.read(path)
