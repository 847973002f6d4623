"""Images made on the spot: arrays and affines to draw from, and DICOM series with a known geometry."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from medical_sam2.views import AXIS
from medical_sam2.volume import Volume
from tests.strategies import CODES, seeds

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "uint64", "int64")
CANARY = "ZZCANARY^PHINAME"


@st.composite
def affines(draw: st.DrawFn, *, sheared: bool = False) -> NDArray[np.float64]:
    """An affine of any orientation, anisotropic, oblique or not, anywhere within 10 m."""
    affine = oriented(draw(st.sampled_from(CODES)))
    rng = np.random.default_rng(draw(seeds))
    turn = Rotation.from_euler("xyz", draw(st.sampled_from([0.0, 0.05, 0.4])) * rng.normal(size=3)).as_matrix()
    spacing = rng.uniform(0.2, 6, 3) if draw(st.booleans()) else np.array([0.5, 1.25, 3.0])
    affine[:3, :3] = turn @ affine[:3, :3] * spacing
    affine[:3, 3] = rng.uniform(-1, 1, 3) * draw(st.sampled_from([0.0, 100.0, 10_000.0]))
    if sheared:
        affine[:3, 2] += 0.3 * affine[:3, 1]
    return affine


def oriented(code: str) -> NDArray[np.float64]:
    """The affine with unit spacing whose axes run as `code` says."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(code):
        affine[AXIS[letter], column] = 1 if letter in "RAS" else -1
    return affine


@st.composite
def volumes(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES, *, sheared: bool = False) -> Volume:
    """A small volume of random voxels, never constant."""
    shape = draw(st.tuples(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5)))
    kind = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(seeds))
    array = rng.integers(0, 100, shape).astype(kind) if kind.kind != "f" else rng.normal(size=shape).astype(kind)
    array.flat[0], array.flat[-1] = 101, 102
    return Volume(array, draw(affines(sheared=sheared)))


@dataclass(frozen=True)
class Series:
    """How a DICOM series is to be made: in RAS, as it shall be read back."""

    affine: NDArray[np.float64]
    array: NDArray[np.int16]

    def write(self, folder: Path, *, names: str = "IM{:04d}.dcm", **tags: object) -> list[Dataset]:
        """One file for each slice; returns what was written. A tag given as a function is called with the slice's number."""
        made = self.slices()
        for k, dataset in enumerate(made):
            for name, value in tags.items():
                put(dataset, name, value(k) if callable(value) else value)
            save(dataset, folder / names.format(k))
        return made

    def slices(self) -> list[Dataset]:
        """The slices as data sets."""
        shared = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
        return [self._slice(k, shared) for k in range(self.array.shape[2])]

    def _slice(self, k: int, shared: dict[str, UID]) -> Dataset:
        lps = np.diag([-1.0, -1, 1, 1]) @ self.affine
        dataset = base(self.array[:, :, k].T, CTImageStorage)
        for name, value in shared.items():
            put(dataset, name, value)
        rows, columns = np.linalg.norm(lps[:3, 1]), np.linalg.norm(lps[:3, 0])
        dataset.PixelSpacing = [float(rows), float(columns)]
        dataset.ImageOrientationPatient = short([*(lps[:3, 0] / columns), *(lps[:3, 1] / rows)])
        dataset.ImagePositionPatient = short((lps @ [0, 0, k, 1])[:3])
        dataset.InstanceNumber = k + 1
        return dataset


def short(values: object) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{value:.10g}"[:16] for value in values]  # type: ignore[attr-defined]


def put(dataset: Dataset, name: str, value: object) -> None:
    """Set a tag, or remove it for None."""
    if value is None:
        delattr(dataset, name)
    else:
        setattr(dataset, name, value)


def base(frame: NDArray[np.integer], kind: UID) -> Dataset:
    """A data set with an image, a patient with a name that must not be repeated, and no geometry."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = kind, generate_uid(), "CT"
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = CANARY, "CANARY-1", "19010203", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200101", "120000", "1", "CANARY7"
    dataset.ReferringPhysicianName, dataset.SeriesNumber = CANARY, 1
    dataset.Rows, dataset.Columns = frame.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = frame.dtype.itemsize * 8, frame.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(frame.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = np.ascontiguousarray(frame).tobytes()
    return dataset


def save(dataset: Dataset, path: Path) -> None:
    """Write a file with a preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def enhanced(series: Series, order: list[int]) -> Dataset:
    """The same volume as one multi-frame object whose frames lie in the given order."""
    lps = np.diag([-1.0, -1, 1, 1]) @ series.affine
    dataset = base(np.stack([series.array[:, :, k].T for k in order]), EnhancedCTImageStorage)
    dataset.NumberOfFrames = len(order)
    single = series.slices()[0]
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = single.ImageOrientationPatient, single.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    dataset.SharedFunctionalGroupsSequence, groups = [shared], []
    for k in order:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = short((lps @ [0, 0, k, 1])[:3])
        group.PlanePositionSequence = [place]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        put(dataset, name, generate_uid())
    return dataset


def phantom(shape: tuple[int, int, int] = (5, 4, 6), seed: int = 0) -> NDArray[np.int16]:
    """Random CT numbers."""
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)


AXIAL = oriented("LPS") @ np.diag([2.0, 2.5, 3.0, 1.0])


def ascending(affine: NDArray[np.float64], array: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """The same grid with its slices along the normal (rows × columns, in LPS), as a reader sorts them."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    if np.linalg.det(lps[:3, :3]) > 0:
        return affine, array
    turned = affine.copy()
    turned[:3, 3] += turned[:3, 2] * (array.shape[2] - 1)
    turned[:3, 2] *= -1
    return turned, array[:, :, ::-1]


def made(folder: Path, array: NDArray[np.int16] | None = None, **tags: object) -> list[Dataset]:
    """A series in a folder."""
    return Series(AXIAL, phantom() if array is None else array).write(folder, **tags)  # type: ignore[arg-type]


def same(volume: Volume, affine: NDArray[np.float64] = AXIAL, array: NDArray[np.int16] | None = None) -> None:
    """Fail unless a volume is the one expected, in the order in which a reader sorts slices."""
    expected, voxels = ascending(affine, phantom() if array is None else array)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_allclose(volume.affine, expected, atol=1e-4)


EXPORTER = """
import json

from medical_sam2.io.atomic import write_bytes
from medical_sam2.io.registry import Format


def save(array, path, like, names):
    counts = {name: int((array == label).sum()) for label, name in names.items()}
    write_bytes(path, json.dumps({"shape": like.shape, "voxels": int((array > 0).sum()), "counts": counts}).encode())


COUNTS = Format("counts", (".counts",), written=(".counts",), writer=save, carries=frozenset({"names"}), media_type="text/x")
"""
"""A format of somebody else's, in a file of its own: the number of voxels."""
