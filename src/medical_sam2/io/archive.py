"""A zip file with one image in it: unpacked within limits, read, and named in errors."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error
from medical_sam2.io.registry import DICOM, NIFTI, Loaded, Options, Picture, read_file, recognise
from medical_sam2.io.safe_open import unpack_and
from medical_sam2.volume import Volume


def read(path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What a zip file holds: a volume or pictures.

    Raises:
        FormatError: no image, or what its reader raises.
        AmbiguousError: several.
    """
    return unpack_and(path, options.max_bytes, lambda folder: _read_only_image(folder, path, options))


def _read_only_image(folder: Path, path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What an unpacked zip file holds, with the zip file as its source, and without the slices' files, which are gone."""
    with _naming_entry(path, folder):
        found = read_file(_only_image(folder, path), options)
    if isinstance(found, tuple):
        return tuple(replace(picture, source=path) for picture in found)
    gone = isinstance(found, Loaded) and hasattr(found.origin, "slices")
    return replace(found, source=path, **({"origin": None} if gone else {}))


@contextmanager
def _naming_entry(path: Path, folder: Path) -> Iterator[None]:
    """Name the zip file and its entry in errors, not the temporary place that the entry was unpacked to."""
    try:
        yield
    except MedicalSam2Error as error:
        if isinstance(error.subject, Path) and error.subject.is_relative_to(folder):
            error.subject = f"{path} ({error.subject.relative_to(folder)})"
        raise error.with_traceback(None) from None


def _only_image(folder: Path, path: Path) -> Path:
    """The single image of an unpacked zip file; the folder itself if it holds DICOM files."""
    files = [Path(place, name) for place, _, names in os.walk(folder) for name in sorted(names)]
    formats = {file: format for file in files if (format := recognise(file)) and not _is_second_half(file, files)}
    found = sorted(formats)
    if not found:
        raise FormatError("the zip file holds no image", "pack one volume", subject=path)
    if set(formats.values()) == {DICOM}:
        return folder
    if len(found) > 1:
        listed = tuple(str(file.relative_to(folder)) for file in found[:8])
        raise AmbiguousError(f"the zip file holds {len(found)} images", "unpack it and give one", subject=path, choices=listed)
    return found[0]


def _is_second_half(file: Path, files: Sequence[Path]) -> bool:
    """Whether it is the .img of a .hdr."""
    halves = file.suffix.lower() in NIFTI.data
    return halves and any(other.suffix.lower() in NIFTI.headers and other.stem == file.stem for other in files)
