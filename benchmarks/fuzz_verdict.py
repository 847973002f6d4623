"""What a reader made of a mutant: a foreign exception, or a geometry that another reader does not find, is wrong."""

import os
import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from fuzz_pool import Outcome
from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, MedicalSam2Error, ResourceError
from medical_sam2.io.image_folder import open_folder
from medical_sam2.io.labels import read_label_map
from medical_sam2.io.prompt_file import load_prompts
from medical_sam2.volume import Volume

CLOSE = 1e-3
AGREED, NO_OPINION = "another reader agrees", "no other reader"
TOO_MUCH = "needs more memory than there is"
GUARDED = re.compile(r"damaged or incomplete \((\w+)\)")
Found = Volume | tuple[io.Picture, ...] | None


def judge(how: str, path: Path, likes: dict[str, Volume]) -> Outcome:
    """Read, and compare what is read with a second opinion."""
    try:
        found = _read(how, path, likes)
    except AmbiguousError as error:
        return Outcome("asked", str(error))
    except ResourceError as error:
        return Outcome("memory" if TOO_MUCH in str(error) else "refused", str(error))
    except MedicalSam2Error as error:
        said = str(error)
        one_line = "\n" not in said and len(said) < 1000
        return Outcome("refused" if one_line else "words", said)
    except Exception as error:  # what the fuzzer looks for
        return Outcome("exception", f"{type(error).__name__}: {error}")
    doubt = _compare(found, path) if how == "read" and found else NO_OPINION
    return Outcome("geometry" if doubt not in ("", NO_OPINION) else "read", doubt or AGREED)


def _read(how: str, path: Path, likes: dict[str, Volume]) -> Found:
    if how == "prompts":
        load_prompts(path, likes["labels"])
    elif how == "label map":
        read_label_map(path)
    elif how == "folder":
        folder = open_folder(path)
        for place in range(min(len(folder), 3)):
            folder.picture(place)
    elif how == "read":
        try:
            return io.read(path)
        except AmbiguousError:
            io.read(path, frame=0)
            raise
    else:
        io.load_labels(path, likes[how])
    return None


def _compare(found: Volume | tuple[io.Picture, ...], path: Path) -> str:
    """What a second reader says otherwise; "" where it agrees, NO_OPINION where it cannot read it."""
    with warnings.catch_warnings(), Silence():
        warnings.simplefilter("ignore")
        try:
            if isinstance(found, tuple):
                other = _size(path)
                mine = found[0].shape
                said = "" if other == mine else f"size {mine}, another reader says {other}"
                return NO_OPINION if other is None else said
            second = _grid(path)
        except Exception:  # a second reader may fail at what is broken: then it has no opinion
            return NO_OPINION
    if second is None:
        return NO_OPINION
    shape, affine = second
    if found.shape != shape:
        return f"shape {found.shape}, another reader says {shape}; {found.warnings}"
    scale = max(1.0, float(np.abs(affine).max()))
    off = float(np.abs(found.affine - affine).max())
    return "" if off <= CLOSE * scale else f"affine {off:g} off: {found.affine.tolist()} {affine.tolist()}; {found.warnings}"


def _size(path: Path) -> tuple[int, int] | None:
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            return page.imagelength, page.imagewidth  # type: ignore[union-attr]
    if path.suffix in (".png", ".jpeg", ".bmp"):
        with Image.open(path) as image:
            return image.height, image.width
    return None


def _grid(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]] | None:
    """Shape and affine (RAS) by nibabel, SimpleITK, or from DICOM tags alone."""
    name = path.name
    if name.endswith((".nii", ".nii.gz", ".img")):
        image = nibabel.load(path)
        units = {1: 1000.0, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1.0)  # which nibabel leaves to its callers
        return tuple([*image.shape, 1, 1][:3]), np.diag([units, units, units, 1.0]) @ image.affine  # type: ignore[attr-defined]
    if name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        return _itk(path)
    if path.is_dir() or name.endswith(".dcm"):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return _dicom([dcmread(file, force=True, stop_before_pixels=True) for file in files])
    return None


def _itk(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    count = reader.GetDimension()
    affine = np.eye(4)
    axes = np.reshape(reader.GetDirection(), (count, count)) * reader.GetSpacing()
    affine[: min(count, 3), : min(count, 3)] = axes[:3, :3]
    affine[: min(count, 3), 3] = reader.GetOrigin()[:3]
    return tuple([*reader.GetSize(), 1][:3]), np.diag([-1.0, -1, 1, 1]) @ affine


class Silence:
    """Nothing arrives at descriptor 2, which is listened to for our own reader's sake."""

    def __enter__(self) -> None:
        self.kept, self.nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(self.nowhere, 2)

    def __exit__(self, *_: object) -> None:
        os.dup2(self.kept, 2)
        os.close(self.kept)
        os.close(self.nowhere)


def _dicom(headers: list[Dataset]) -> tuple[tuple[int, ...], NDArray[np.float64]] | None:
    """From the tags, for slices of one file each, or frames with a place each."""
    places = [place for header in headers for place in _places(header)]
    if any(part is None for place in places for part in place[:3]):
        return None
    orientation, spacing, _, size = places[0]
    rows, columns = (np.array(part, float) / np.linalg.norm(part) for part in (orientation[:3], orientation[3:]))
    normal = np.cross(rows, columns)
    positions = sorted({tuple(map(float, place[2])) for place in places}, key=lambda position: float(np.dot(position, normal)))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = rows * float(spacing[1]), columns * float(spacing[0]), positions[0]
    if len(positions) == 1:
        thick = headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness") or 1
        affine[:3, 2] = normal * abs(float(thick))
    else:
        affine[:3, 2] = np.subtract(positions[-1], positions[0]) / (len(positions) - 1)
    return (int(size[0]), int(size[1]), len(positions)), np.diag([-1.0, -1, 1, 1]) @ affine


def _places(header: Dataset) -> list[tuple]:
    size = header.Columns, header.Rows
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups:
        shared = header.SharedFunctionalGroupsSequence[0]
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        return [(orientation, spacing, group.PlanePositionSequence[0].ImagePositionPatient, size) for group in groups]
    if header.get("Modality") == "NM" or int(header.get("NumberOfFrames") or 1) > 1:
        return [(None, None, None, size)]
    found = (header.get(name) for name in ("ImageOrientationPatient", "PixelSpacing", "ImagePositionPatient"))
    return [(*found, size)]
