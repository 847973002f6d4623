"""Small sound files of every format that is read, made here, from which the fuzzer makes mutants."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medical_sam2 import io as images
from medical_sam2.volume import Volume

SHAPE = (7, 6, 5)
AFFINE = np.array([[0.8, 0, 0, -10], [0, 0, 2.5, -20], [0, -0.7, 0, 30], [0, 0, 0, 1]])
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Seed:
    """A sound input.

    Args:
        name: of the format.
        files: relative path → content; the first is the one that is opened, unless `folder`.
        how: "read", "labels", "label map", "prompts", "folder": which reader is called.
        folder: whether the folder is opened, not a file.
    """

    name: str
    files: dict[str, bytes]
    how: str = "read"
    folder: bool = False


def phantom(dtype: str = "int16") -> NDArray:
    array = np.random.default_rng(0).integers(0, 1000, SHAPE)
    return array.astype(dtype)


def like() -> Volume:
    """The image that label maps and prompts belong to."""
    return Volume(phantom(), AFFINE)


@cache
def seeds() -> list[Seed]:
    """Those of every format."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_nifti(Path(folder)), *_itk(Path(folder)), *_dicom(), *_pictures(), *_labels(Path(folder)), *_others()]


def _stored(folder: Path, names: list[str], write: Callable[[Path], object]) -> dict[str, bytes]:
    write(folder / names[0])
    return {name: (folder / name).read_bytes() for name in names}


def _nifti(folder: Path) -> Iterator[Seed]:
    for name, kind, dtype, files in (
        ("nifti", nibabel.Nifti1Image, "int16", ["a.nii"]),
        ("nifti gz", nibabel.Nifti1Image, "float32", ["a.nii.gz"]),
        ("nifti-2", nibabel.Nifti2Image, "uint8", ["b.nii"]),
        ("nifti pair", nibabel.Nifti1Pair, "int16", ["c.img", "c.hdr"]),
    ):
        image = kind(phantom(dtype), AFFINE)
        image.set_qform(AFFINE, 1)
        image.set_sform(AFFINE, 1)
        yield Seed(name, _stored(folder, files, image.to_filename))


def _itk(folder: Path) -> Iterator[Seed]:
    image = SimpleITK.GetImageFromArray(phantom())
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    image.SetOrigin((1.5, 2.5, 3.5))
    for name, files, packed in (
        ("nrrd", ["a.nrrd"], False),
        ("nrrd gz", ["b.nrrd"], True),
        ("nhdr", ["c.nhdr", "c.raw"], False),
        ("mha", ["a.mha"], False),
        ("mha zlib", ["b.mha"], True),
        ("mhd", ["c.mhd", "c.raw"], False),
    ):

        def write(path: Path, packed: bool = packed) -> None:
            SimpleITK.WriteImage(image, str(path), packed)

        yield Seed(name, _stored(folder, files, write))


def slice_of(k: int, uids: list[str], pixels: NDArray | None = None) -> Dataset:
    frame = phantom()[:, :, k].T if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        CT,
        generate_uid(entropy_srcs=[str(k)]),
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber, dataset.SeriesNumber = "CT", "P", k + 1, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [0.7, 0.8], 2.5, 2.5
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [1.5, 2.5, 3.5 + 2.5 * k]
    dataset.Rows, dataset.Columns = frame.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * frame.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.add_new("PixelPaddingValue", "US", 999)
    dataset.PixelData = np.ascontiguousarray(frame).tobytes()
    return dataset


def _packed(dataset: Dataset, **told: bool) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, dataset, **(told or {"enforce_file_format": True}))
    return stream.getvalue()


def _dicom() -> Iterator[Seed]:
    uids = [generate_uid(entropy_srcs=[word]) for word in ("study", "series", "frame")]
    series = {f"{k}.dcm": _packed(slice_of(k, uids)) for k in range(SHAPE[2])}
    yield Seed("dicom", {"0.dcm": series["0.dcm"]})
    yield Seed("dicom series", series, folder=True)
    bare = slice_of(0, uids)
    bare.file_meta = FileMetaDataset()
    yield Seed("dicom bare", {"a": _packed(bare, implicit_vr=True, little_endian=True, enforce_file_format=False)})
    wide = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint16)
    for name, syntax in (("rle", RLELossless), ("jpeg 2000", JPEG2000Lossless), ("jpeg-ls", JPEGLSLossless)):
        dataset = slice_of(0, uids, wide)
        dataset.compress(syntax, generate_instance_uid=False)
        yield Seed(f"dicom {name}", {"a.dcm": _packed(dataset)})
    for name, syntax, stream in (
        ("jpeg", JPEGBaseline8Bit, _jpeg(wide)),
        ("jpeg lossless", JPEGLosslessSV1, _lossless_jpeg(wide)),
    ):
        dataset = slice_of(0, uids, wide.astype(np.uint8))
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR = "OB"
        yield Seed(f"dicom {name}", {"a.dcm": _packed(dataset)})
    dataset = slice_of(0, uids)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    yield Seed("dicom deflated", {"a.dcm": _packed(dataset)})
    yield Seed("dicom multi-frame", {"a.dcm": _packed(_enhanced(uids))})
    yield Seed("dicom cine", {"a.dcm": _packed(_cine(uids))})
    yield Seed("dicom nm", {"a.dcm": _packed(_nuclear(uids))})


def _frames(uids: list[str]) -> Dataset:
    dataset = slice_of(0, uids, np.stack([phantom()[:, :, k].T for k in range(SHAPE[2])]))
    dataset.NumberOfFrames = SHAPE[2]
    return dataset


def _enhanced(uids: list[str]) -> Dataset:
    dataset, shared, groups = _frames(uids), Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = dataset.ImageOrientationPatient, dataset.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    for k in range(SHAPE[2]):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [1.5, 2.5, 3.5 + 2.5 * k]
        group.PlanePositionSequence = [place]
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], groups
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
    return dataset


def _cine(uids: list[str]) -> Dataset:
    dataset = _frames(uids)
    dataset.Modality = "US"
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    return dataset


def _nuclear(uids: list[str]) -> Dataset:
    dataset, place = _frames(uids), Dataset()
    dataset.Modality, dataset.ImageType = "NM", ["ORIGINAL", "PRIMARY", "RECON TOMO"]
    dataset.SpacingBetweenSlices, dataset.SliceVector = -2.5, list(range(1, SHAPE[2] + 1))
    place.ImagePositionPatient, place.ImageOrientationPatient = dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.DetectorInformationSequence = [place]
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    return dataset


def _jpeg(array: NDArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def _lossless_jpeg(array: NDArray) -> bytes:
    """A frame of zeros (process 14, first-order prediction), which needs no encoder: each difference is the one-bit code 0."""
    rows, columns = array.shape
    size = bytes([rows >> 8, rows & 255, columns >> 8, columns & 255])
    head = b"\xff\xd8\xff\xc3\0\x0b\x08" + size + b"\x01\x01\x11\0" + b"\xff\xc4\0\x14\0\x01" + bytes(16)
    first = b"\xff\xda\0\x08\x01\x01\0\x01\0\0"
    return head + first + bytes(-(-rows * columns // 8)) + b"\xff\xd9"


def _pictures() -> Iterator[Seed]:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 255, (9, 11)).astype(np.uint8), rng.integers(0, 255, (9, 11, 3)).astype(np.uint8)
    deep = grey.astype(np.uint16) * 200
    for name, image in (
        ("png", Image.fromarray(grey)),
        ("png deep", Image.fromarray(deep)),
        ("png colour", Image.fromarray(colour)),
        ("png palette", Image.fromarray(colour).quantize(16)),
        ("jpeg", Image.fromarray(colour)),
        ("bmp", Image.fromarray(colour)),
        ("bmp grey", Image.fromarray(grey)),
        ("tiff", Image.fromarray(grey)),
    ):
        stream = io.BytesIO()
        image.save(stream, name.split()[0].upper())
        yield Seed(name, {f"a.{name.split()[0]}": stream.getvalue()})
    for name, array, told in (
        ("tiff deep", deep, {}),
        ("tiff deflate", deep, {"compression": "zlib", "predictor": True}),
        ("tiff colour", colour.astype(np.uint16) * 9, {"photometric": "rgb"}),
        ("tiff zlib colour", colour.astype(np.uint16) * 9, {"photometric": "rgb", "compression": "zlib"}),
        ("tiff tiled", np.tile(deep, (4, 4)), {"tile": (16, 16)}),
        ("tiff pages", np.stack([deep, deep + 1]), {"photometric": "minisblack"}),
        ("tiff imagej", np.stack([deep, deep + 1]), {"imagej": True}),
        ("tiff big", deep, {"bigtiff": True}),
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **told)
        yield Seed(name, {"a.tif": stream.getvalue()})


def _labels(folder: Path) -> Iterator[Seed]:
    labels = (phantom() // 300).astype(np.uint8)
    for name in ("labels.nii.gz", "labels.nrrd"):
        images.save(labels, folder / name, like())
        yield Seed(name, {name: (folder / name).read_bytes()}, "labels")
    stream = io.BytesIO()
    Image.fromarray(labels[:, :, 0]).save(stream, "PNG")
    yield Seed("labels.png", {"a.png": stream.getvalue()}, "label map")
    yield Seed("folder", {"a.png": stream.getvalue(), "b.png": stream.getvalue()}, "folder", folder=True)
    uids = [generate_uid(entropy_srcs=[word]) for word in ("study", "series", "frame")]
    (folder / "in").mkdir()
    for k in range(SHAPE[2]):
        (folder / "in" / f"{k}").write_bytes(_packed(slice_of(k, uids)))
    volume = images.load(folder / "in")
    images.save(labels, folder / "seg.dcm", volume)
    yield Seed("dicom seg", {"seg.dcm": (folder / "seg.dcm").read_bytes()}, "dicom seg")


def dicom_like() -> Volume:
    """The image that the DICOM segmentation belongs to."""
    affine = np.diag([-0.8, -0.7, 2.5, 1.0])
    affine[:3, 3] = -1.5, -2.5, 3.5
    return Volume(phantom(), affine)


def _others() -> Iterator[Seed]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.nii", nibabel.Nifti1Image(phantom(), AFFINE).to_bytes())
    yield Seed("zip", {"a.zip": stream.getvalue()})
    entry = {"label": 1, "name": "liver", "points": [[1, 2, 3]], "negative": [[5, 5, 4]], "boxes": [[0, 0, 1, 5, 5, 1]]}
    told = {"version": 1, "coordinates": "voxel", "objects": [entry, {"label": 2, "points": [[0.5, 1, 1]]}]}
    yield Seed("prompts", {"a.json": json.dumps(told).encode()}, "prompts")
