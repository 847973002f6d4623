"""A zip file with one image in it: every entry is checked before any is unpacked, within limits; it is named in errors.

And zip files of ours.
"""

import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error, ResourceError
from medical_sam2.io.registry import DICOM, NIFTI, Loaded, Options, Picture, read_file, recognise
from medical_sam2.io.safe_open import CHUNK, DEFLATE_RATIO, check_expansion, explain, megabytes, open_regular
from medical_sam2.volume import Volume

MOST_ENTRIES = 20_000
ARCHIVES = (".zip", ".tar", ".tgz", ".gz.gz", ".7z", ".rar", ".bz2", ".xz")
IGNORED = ("__MACOSX/", ".DS_Store", "Thumbs.db")
Places = Mapping[Path, int]
"""Each file of an unpacked zip file, and its place in the list of its entries, from 1."""


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip file of names and contents, stored as they are, without times: the same bytes for the same files."""
    data = BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def read(path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What a zip file holds: a volume or pictures.

    Raises:
        FormatError: no image, or what its reader raises.
        AmbiguousError: several.
    """
    with _unpacked(path, options.max_bytes) as places:
        return _read_only_image(places, path, options)


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


@contextmanager
def _unpacked(path: Path, max_bytes: int | None) -> Iterator[Places]:
    """With the files of a zip file in a private temporary folder, and their places in it.

    Raises:
        FormatError: unsafe, forged, encrypted or nested entries.
        ResourceError: more content than the disk or the limit allows.
    """
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive, TemporaryDirectory() as folder:
            entries = _checked_entries(archive, path)
            _check_size(entries, folder, path, max_bytes)
            numbers = {entry.filename: number for number, entry in enumerate(archive.infolist(), 1)}
            yield {_extract(archive, entry, Path(folder)): numbers[entry.filename] for entry in entries}
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError):
        raise FormatError("the zip file is damaged or truncated", "pack it again", subject=path) from None
    except OSError as error:
        raise explain(error, path) from None


def _checked_entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
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


def _check_size(entries: list[zipfile.ZipInfo], folder: str, path: Path, max_bytes: int | None) -> None:
    total = sum(entry.file_size for entry in entries)
    limit = min(shutil.disk_usage(folder).free, max_bytes or 1 << 62)
    check_expansion(total, sum(entry.compress_size for entry in entries), path)
    if total > limit:
        raise ResourceError(f"it unpacks to {megabytes(total)}, {megabytes(limit)} are allowed", "unpack it", subject=path)


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> Path:
    """Copy one entry to a file, at most as many bytes as it declares (the checksum is checked at its end)."""
    target = folder.joinpath(*_parts(entry))
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(target, "xb") as sink:
        shutil.copyfileobj(source, sink, CHUNK)
    return target
