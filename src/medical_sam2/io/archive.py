"""A zip file with exactly one image: every entry is checked before any is unpacked."""

import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeVar

from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error, ResourceError
from medical_sam2.io.files import CHUNK, DEFLATE_RATIO, check_expansion, explain, megabytes, open_regular
from medical_sam2.io.options import Options
from medical_sam2.io.registry import DICOM, Format, recognise

T = TypeVar("T")

MOST_ENTRIES = 20_000
ARCHIVES = (".zip", ".tar", ".tgz", ".gz.gz", ".7z", ".rar", ".bz2", ".xz")
IGNORED = ("__MACOSX/", ".DS_Store", "Thumbs.db")


def unpack_and(path: Path, options: Options, use: Callable[[Path], T]) -> T:
    """Unpack a zip file to a private temporary folder, call `use` on it, remove it.

    Raises:
        FormatError: unsafe, forged, encrypted or nested entries.
        ResourceError: more content than the disk or the limit allows.
    """
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive, TemporaryDirectory() as folder:
            entries = _checked(archive, path)
            _check_size(entries, folder, path, options)
            for entry in entries:
                _extract(archive, entry, Path(folder))
            return use(Path(folder))
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError):
        raise FormatError("the zip file is damaged or truncated", "pack it again", subject=path) from None
    except OSError as error:
        raise explain(error, path) from None


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The entries that hold files, all of them harmless."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise FormatError(f"the zip file holds {len(entries)} entries", "pack one study", subject=path)
    seen: set[str] = set()
    for entry in entries:
        _check_name(entry, path)
        folded = unicodedata.normalize("NFC", "/".join(_parts(entry))).casefold()
        if folded in seen:
            raise FormatError("two entries of the zip file have the same name", "pack it again", subject=path)
        seen.add(folded)
    kept = [entry for entry in entries if not _is_folder(entry) and not any(part in entry.filename for part in IGNORED)]
    for entry in kept:
        _check_entry(entry, path)
    return kept


def _check_name(entry: zipfile.ZipInfo, path: Path) -> None:
    name, parts = entry.orig_filename, _parts(entry)
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in name[:3] or not parts:
        raise FormatError(
            "the zip file has an entry with an unsafe path, which leads outside its folder", "do not trust it", subject=path
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FormatError("the zip file holds a link or a special file", "do not trust it", subject=path)


def _parts(entry: zipfile.ZipInfo) -> tuple[str, ...]:
    """Folders and name of an entry; some programs of Windows part them by backslashes."""
    return PurePosixPath(entry.orig_filename.replace("\\", "/")).parts


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.is_dir() or entry.orig_filename.endswith("\\")


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    if entry.flag_bits & 1:
        raise FormatError("the zip file is encrypted", "unpack it yourself", subject=path)
    if entry.filename.lower().endswith(ARCHIVES):
        raise FormatError("the zip file holds another archive", "unpack it yourself", subject=path)
    if entry.file_size > entry.compress_size * DEFLATE_RATIO + 64:
        raise FormatError("an entry of the zip file declares a size that it cannot have", "do not trust it", subject=path)


def _check_size(entries: list[zipfile.ZipInfo], folder: str, path: Path, options: Options) -> None:
    total = sum(entry.file_size for entry in entries)
    limit = min(shutil.disk_usage(folder).free, options.max_bytes or 1 << 62)
    check_expansion(total, sum(entry.compress_size for entry in entries), path)
    if total > limit:
        raise ResourceError(f"it unpacks to {megabytes(total)}, {megabytes(limit)} are allowed", "unpack it", subject=path)


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Copy one entry, at most as many bytes as it declares (the checksum is checked at its end)."""
    target = folder.joinpath(*_parts(entry))
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(target, "xb") as sink:
        shutil.copyfileobj(source, sink, CHUNK)


def only_image(folder: Path, path: Path) -> Path:
    """The single image of an unpacked archive; the folder itself if it holds DICOM files.

    Raises:
        FormatError: none.
        AmbiguousError: several.
    """
    kinds = {file: recognise(file) for place, _, names in os.walk(folder) for file in (Path(place, n) for n in sorted(names))}
    found = sorted(file for file, kind in kinds.items() if kind and not _second_half(file, kinds))
    if not found:
        raise FormatError("the zip file holds no image", "pack one volume", subject=path)
    if {kinds[file] for file in found} == {DICOM}:
        return folder
    if len(found) > 1:
        listed = tuple(str(file.relative_to(folder)) for file in found[:8])
        raise AmbiguousError(f"the zip file holds {len(found)} images", "unpack it and give one", subject=path, choices=listed)
    return found[0]


def _second_half(file: Path, kinds: dict[Path, Format | None]) -> bool:
    """Whether it is the .img of a .hdr."""
    return file.suffix.lower() == ".img" and any(other.suffix.lower() == ".hdr" and other.stem == file.stem for other in kinds)


@contextmanager
def blaming(path: Path, folder: Path) -> Iterator[None]:
    """Name the zip file and its entry in errors, not the temporary place that the entry was unpacked to."""
    try:
        yield
    except MedicalSam2Error as error:
        inside = isinstance(error.subject, Path) and error.subject.is_relative_to(folder)
        error.subject = f"{path} ({error.subject.relative_to(folder)})" if inside else error.subject  # type: ignore[union-attr]
        raise error.with_traceback(None) from None


def named_after(loaded: T, path: Path) -> T:
    """The same image with the archive as its source, and without the slices' files, which are gone."""
    if isinstance(loaded, tuple):
        return tuple(replace(picture, source=path) for picture in loaded)  # type: ignore[return-value]
    from medical_sam2.io.dicom import DicomOrigin

    gone = isinstance(getattr(loaded, "origin", None), DicomOrigin)
    return replace(loaded, source=path, **({"origin": None} if gone else {}))  # type: ignore[type-var]
