"""A zip file with one image in it: unpacked within limits, read, and named in errors."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error
from medical_sam2.io.registry import DICOM, NIFTI, Loaded, Options, Picture, read_file, recognise
from medical_sam2.io.safe_open import unpack_and
from medical_sam2.volume import Volume

Places = Mapping[Path, int]
"""Each file of an unpacked zip file, and its place in the list of its entries, from 1."""


def read(path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What a zip file holds: a volume or pictures.

    Raises:
        FormatError: no image, or what its reader raises.
        AmbiguousError: several.
    """
    return unpack_and(path, options.max_bytes, lambda places: _read_only_image(places, path, options))


def _read_only_image(places: Places, path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What an unpacked zip file holds, with the zip file as its source, and without the slices' files, which are gone."""
    if not places:
        raise FormatError("the zip file is empty: it holds no files", "pack one volume", subject=path)
    with _naming_entry(path, places):
        found = read_file(_only_image(places, path), options)
    if isinstance(found, tuple):
        return tuple(replace(picture, source=path) for picture in found)
    gone = isinstance(found, Loaded) and hasattr(found.origin, "slices")
    return replace(found, source=path, **({"origin": None} if gone else {}))


# Whoever packed a study may have called its files by the patient: messages call them by their places in the zip file.
@contextmanager
def _naming_entry(path: Path, places: Places) -> Iterator[None]:
    """Tell the zip file and the number of an entry in errors, neither its name nor the temporary place it was unpacked to."""
    try:
        yield
    except MedicalSam2Error as error:
        if isinstance(error.subject, Path) and error.subject != path:
            number = places.get(error.subject)
            error.subject = path if number is None else f"{path} (entry {number})"
        named = {name: f"entry {n}" for file, n in places.items() for name in (str(file), file.name)}
        named |= {str(file.parent): "a folder" for file in places} | {str(_common_folder(places)): "the folder"}
        names_in = re.compile(
            "|".join(rf"(?<![\w.-]){re.escape(name)}(?![\w-])" for name in sorted(named, key=len, reverse=True))
        )
        error.problem, error.remedy = (names_in.sub(lambda at: named[at[0]], text) for text in (error.problem, error.remedy))
        raise error.with_traceback(None) from None


def _only_image(places: Places, path: Path) -> Path:
    """The single image of an unpacked zip file; the folder itself if it holds DICOM files."""
    formats = {file: format for file in places if (format := recognise(file)) and not _is_second_half(file, [*places])}
    if not formats:
        raise FormatError("the zip file holds no image", "pack one volume", subject=path)
    if set(formats.values()) == {DICOM}:
        return _common_folder(places)
    if len(formats) > 1:
        listed = tuple(f"entry {places[file]} ({format.name})" for file, format in [*formats.items()][:8])
        problem = f"the zip file holds {len(formats)} images"
        raise AmbiguousError(problem, "unpack it and give one", subject=path, choices=listed)
    return next(iter(formats))


def _common_folder(places: Places) -> Path:
    """The folder that all files lie in, or below."""
    return Path(os.path.commonpath([file.parent for file in places]))


def _is_second_half(file: Path, files: Sequence[Path]) -> bool:
    """Whether it is the .img of a .hdr."""
    halves = file.suffix.lower() in NIFTI.data
    return halves and any(other.suffix.lower() in NIFTI.headers and other.stem == file.stem for other in files)
