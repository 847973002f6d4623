"""What is prepared: a description that travels to other processes, where the data set is listed again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from medical_sam2.data import nnunet, plain
from medical_sam2.data.dataset import Case, DataSet

PIECE = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where the data is and how it is to be understood.

    Args:
        folder: the data set.
        layout: name in the catalogue, `module:attribute` or `file.py:attribute`; where empty, an nnU-Net raw data set or a
            folder with images and labels.
        labels: name and values of each structure, for a folder that tells none.
        modality: DICOM code of the modality, where the data does not tell or tells wrongly.
    """

    folder: Path
    layout: str = ""
    labels: tuple[tuple[str, tuple[int, ...]], ...] = ()
    modality: str | None = None

    def open(self) -> DataSet:
        """List the data set; once in each process, until `forget` is called."""
        return _opened(self)

    @staticmethod
    def forget() -> None:
        """List data sets anew: files may have changed."""
        _opened.cache_clear()


@lru_cache(maxsize=4)
def _opened(source: Source) -> DataSet:
    if source.layout:
        from medical_sam2.data.catalog import find_entry

        found = find_entry(source.layout).read(source.folder)
    elif source.folder.is_dir() and nnunet.is_data_set(source.folder):
        found = nnunet.read_data_set(source.folder)
    else:
        found = plain.read_folder(source.folder, dict(source.labels), source.modality)
    if source.modality is not None:
        channels = (source.modality,) if len(found.channels) == 1 else found.channels
        found = replace(found, modality=source.modality, channels=channels)
    return found


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a DICOM series."""
    return [path] if not path.is_dir() else sorted(inner for inner in path.rglob("*") if inner.is_file())


def stamp(case: Case) -> list[list[int | str]]:
    """Sizes and times of a case's files: what changes when they do."""
    paths = [*case.images, *([] if case.label is None else [case.label])]
    return [_stamp(file) for path in paths for file in files_of(path)]


def _stamp(file: Path) -> list[int | str]:
    try:
        state = file.stat()
    except OSError:
        return [file.name]
    return [file.name, state.st_size, state.st_mtime_ns]


def checksums(case: Case) -> Mapping[str, str]:
    """SHA-256 of each image and of the label map, over the content of all their files."""
    named = {f"image_{number:04d}": path for number, path in enumerate(case.images)}
    if case.label is not None:
        named["label"] = case.label
    return {name: _checksum(path) for name, path in named.items()}


def _checksum(path: Path) -> str:
    total = sha256()
    for file in files_of(path):
        with file.open("rb") as stream:
            while piece := stream.read(PIECE):
                total.update(piece)
    return total.hexdigest()
