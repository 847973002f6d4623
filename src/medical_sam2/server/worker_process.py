"""Decoders of image files and talks with a PACS, which may break or never end: each in a process of its own, with limits.

The server writes an order as JSON to the process and reads one line of JSON: the answer, or the problem. It is not for people.
Processes end when the server does.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, InputError, MedicalSam2Error, ResourceError, list_first, say_count
from medical_sam2.io import atomic, registry
from medical_sam2.server import AmbiguousSource, InvalidRequest, LimitReached, Refusal, pacs, refusal_for
from medical_sam2.volume import Segmentation, Volume

META = "meta.json"
MOST_FILES = 50_000  # of a folder that are looked at for a series
OUTWARD = "a link in it leads out of the folder that is served; put the file itself there"
MODULE = "medical_sam2.server.worker_process"
ENDED = "the server ends; ask again when it is back"
TOO_LONG = {
    "decode": "reading the file takes too long; it was given up",
    "outlines": "reading the file takes too long; it was given up",
    "export": "writing the file takes too long; it was given up",
    "list": "looking through the folders for the series takes too long; it was given up",
    "search": "the PACS takes too long; it was given up",
    "fetch": "the PACS takes too long; it was given up",
    "send": "the PACS takes too long; look there whether the segmentation has arrived",
}
BROKE = "the file broke its decoder, or needs more memory than is allowed; it was not opened"


@dataclass(frozen=True)
class WorkerLimits:
    """What a process may use."""

    memory_mb: int = 8_192  # of address space
    seconds: float = 120.0  # of time
    disk_mb: int = 4_096  # largest file that it may write


@dataclass(frozen=True)
class ReadingOptions:
    """How a source is read where that is not clear."""

    frame: int | None = None  # time point of a 4D image, from 0
    series: int | str | None = None  # DICOM series of a folder, from 1, or its SeriesInstanceUID
    allow_gap: bool = False  # interpolate missing slices

    def options(self) -> list[str]:
        """As options of the command line."""
        numbers = {"series": self.series, "frame": self.frame}
        return [f"--{key} {value}" for key, value in numbers.items() if value is not None] + ["--allow-gap"] * self.allow_gap


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a session come from."""

    path: Path  # file or folder
    reading: ReadingOptions  # how they are read
    within: Path | None = None  # folder that no link among them may lead out of
    study: str = ""  # of a PACS, to which the result may go back

    def order(self) -> dict[str, Any]:
        """As a process takes it."""
        return {"source": str(self.path), "within": self.within and str(self.within), "reading": asdict(self.reading)}


class WorkerProcesses:
    """Processes that run now; when the server ends, they do.

    Args:
        limits: of each.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def decode(self, source: ImageSource, target: Path) -> None:
        """Read a source and leave arrays and notes in the folder `target`, which appears whole or not at all.

        Raises:
            Refusal: it cannot be read, or not within the limits.
            AmbiguousSource: it can be read in several ways.
        """
        aside = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self.run({"do": "decode", "target": str(aside), **source.order()})
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def export(
        self,
        source: ImageSource,
        labels: NDArray[np.uint8],
        called: tuple[Mapping[int, str], Mapping[int, str]],
        target: Path,
        formats: Sequence[str] = (),
    ) -> None:
        """Write labels in the grid of their source, as `io.save` does it; `labels` pass through a file next to `target`.

        What is `called` is label → name, and label → colour ("#rrggbb").

        Raises:
            Refusal: as of `io.save`.
        """
        passed = target.with_suffix(".npy")
        np.save(passed, labels)
        order = {"do": "export", "target": str(target), "labels": str(passed), "formats": formats}
        order |= {"names": dict(called[0]), "colours": dict(called[1])}
        try:
            self.run({**order, **source.order()})
        finally:
            passed.unlink(missing_ok=True)

    # Whatever a process does, breaks or never answers ends as its answer or as one refusal in plain words.
    def run(self, order: Mapping[str, Any]) -> Any:
        """What a process answers to an order.

        Raises:
            Refusal: it cannot be done, or not within the limits.
            AmbiguousSource: the source can be read in several ways.
            LimitReached: the server ends.
        """
        sent = json.dumps({**order, "limits": asdict(self.limits)}).encode()
        with self._one() as process:
            try:
                line, _ = process.communicate(sent, self.limits.seconds)
            except subprocess.TimeoutExpired:
                raise InvalidRequest(TOO_LONG[order["do"]]) from None
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(line or b"{}")
        if problem := answer.get("problem"):
            if choices := tuple(answer.get("choices", ())):
                raise AmbiguousSource(problem, choices)
            raise Refusal(HTTPStatus(answer["status"]), problem)
        if process.returncode or "done" not in answer:
            raise InvalidRequest(BROKE)
        return answer["done"]

    @contextmanager
    def _one(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-P", "-m", MODULE]  # a module that lies where the server was started is nobody's
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._lock:
            if self._ended:
                raise LimitReached(ENDED)
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._running.discard(process)
        if self._ended:
            raise LimitReached(ENDED)

    def end(self) -> None:
        """End them all; no other begins."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()


def main() -> int:
    """What the process does."""
    order: dict[str, Any] = json.load(sys.stdin)
    _limit(WorkerLimits(**order["limits"]))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - decoders print what they think of broken files
    print(json.dumps(_answer(order)))  # noqa: T201
    return 0


def _answer(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"done": do(order)}
    except MemoryError:
        refusal: Refusal = InvalidRequest("the image needs more memory than is allowed; it was not opened")
    except AmbiguousError as error:
        refusal = AmbiguousSource((refusal_for(error) or InvalidRequest(BROKE)).problem, tuple(error.choices))
    except (MedicalSam2Error, Refusal, OSError) as error:
        refusal = refusal_for(error) or InvalidRequest(BROKE)
    return {"problem": refusal.problem, "status": refusal.status, "choices": getattr(refusal, "choices", ())}


def do(order: Mapping[str, Any]) -> Any:
    """What was ordered, in this process; raises MedicalSam2Error if it cannot be done."""
    own = {"decode": _decode, "outlines": _read_outlines, "export": _export, "list": _list_series}
    return own.get(order["do"], pacs.do)(order)


def _limit(limits: WorkerLimits) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on every system

        most = {
            resource.RLIMIT_AS: limits.memory_mb << 20,
            resource.RLIMIT_CPU: int(limits.seconds) + 1,
            resource.RLIMIT_FSIZE: limits.disk_mb << 20,
            resource.RLIMIT_CORE: 0,
        }
        for what, much in most.items():
            resource.setrlimit(what, (much, much))


def _decode(order: Mapping[str, Any]) -> None:
    found, target = _load(order), Path(order["target"])
    target.mkdir(mode=0o700)
    if isinstance(found, Volume):
        np.save(target / "0.npy", found.array)
        dicom = type(getattr(found, "origin", None)).__name__ == "DicomOrigin"
        about = {"kind": "volume", "modality": found.modality, "affine": found.affine.tolist(), "dicom": dicom}
        notes = {**about, "warnings": found.warnings, "missing": _missing_forms(found) if dicom else {}}
    else:
        for i, picture in enumerate(found):
            np.save(target / f"{i}.npy", picture.array)
        spacing = found[0].spacing_mm
        about = {"kind": "set", "count": len(found), "modality": found[0].modality, "spacing_mm": spacing}
        source = Path(order["source"])
        numbers = _numbered(source) if source.is_dir() else {}
        files = [numbers.get(picture.source, 1) if picture.source else 1 for picture in found]
        names = [file.name for file in numbers] if order.get("within") else []  # an upload's stay in the browser
        notes = {**about, "files": files, "names": names, "warnings": [n for p in found for n in p.warnings]}
    atomic.write_bytes(target / META, json.dumps(notes).encode())


def _missing_forms(volume: Volume) -> dict[str, str]:
    """Format → why it cannot be written beside this series, which may lack what the format refers to."""
    missing = dict[str, str]()
    for format in registry.OF_A_SERIES:
        try:
            format.check_source(volume, Path(f"labels{format.written[0]}"))
        except MedicalSam2Error as error:
            missing[format.name] = error.problem
    return missing


def _read_outlines(order: Mapping[str, Any]) -> dict[str, Any]:
    """Labels in the grid of their source, in a file; names and colours."""
    like = _load(order)
    if not isinstance(like, Volume):
        raise FormatError("these are pictures, not a volume", "outline them here")
    try:
        found = io.load_segmentation(_main_file(Path(order["labels"])), like)
    except AmbiguousError as error:
        raise FormatError(error.problem, "save it as a map of labels, whole numbers from 0") from None
    np.save(order["target"], found.labels)
    colours = {label: "#{:02x}{:02x}{:02x}".format(*colour) for label, colour in found.colours.items()}
    return {"names": dict(found.names), "colours": colours}


def _export(order: Mapping[str, Any]) -> None:
    like = _load(order)
    if not isinstance(like, Volume):
        raise FormatError("these are pictures, not a volume", "download them as a zip file")
    labels = np.load(order["labels"], allow_pickle=False)
    names = {int(label): name for label, name in order["names"].items()}
    parts = {int(label): bytes.fromhex(colour[1:]) for label, colour in order["colours"].items()}
    colours = {label: (red, green, blue) for label, (red, green, blue) in parts.items()}
    io.save(Segmentation(labels, like.affine, names, colours=colours), order["target"], like, formats=order["formats"])


def _list_series(order: Mapping[str, Any]) -> dict[str, str]:
    """SeriesInstanceUID → the folder that the series lies in; what leads out of the library, or is no DICOM, is passed over."""
    from pydicom import dcmread  # slow to load, and only where a viewer asks for a series

    found, home = dict[str, str](), order["within"]
    for folder in map(Path, order["folders"]):
        files = filter(Path.is_file, folder.iterdir() if str(folder) == home else folder.rglob("*"))
        for file in islice(files, MOST_FILES):
            if _under(os.path.realpath(file), home):
                with suppress(Exception):  # a file that the parser breaks on is none of a series
                    header = dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
                    found.setdefault(str(header.SeriesInstanceUID), str(folder))
    return found


def _load(order: Mapping[str, Any]) -> Volume | tuple[io.Picture, ...]:
    try:
        with _kept_within(order.get("within")):
            return _read(Path(order["source"]), ReadingOptions(**order["reading"]))
    except ResourceError as error:  # more than a file may ask for: the file's fault, not the server's
        problem = (refusal_for(error) or InvalidRequest(BROKE)).problem
        raise InvalidRequest(problem) from None


@contextmanager
def _kept_within(home: str | None) -> Iterator[None]:
    """Whatever a reader opens under `home` by its name lies there: no link on the way leads out.

    Asked of the interpreter, since every reader finds files of its own: of a series, of a pair, of a header.
    """
    outward, watching = list[str](), True

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if not watching or event not in {"open", "os.listdir", "os.scandir"} or not isinstance(given[0], str | bytes):
            return
        path = os.path.abspath(os.fsdecode(given[0]))
        if _under(path, str(home)) and not _under(os.path.realpath(path), str(home)):
            outward.append(path)
            raise PermissionError(OUTWARD)

    if home is not None:
        sys.addaudithook(watch)
    try:
        yield
    except Exception:
        if not outward:
            raise
    finally:
        watching = False
    if outward:  # a reader may have left out what it could not open
        raise FormatError(OUTWARD)


def _under(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip("/") + "/")


def _read(source: Path, reading: ReadingOptions) -> Volume | tuple[io.Picture, ...]:
    path = _main_file(source)
    if path.is_dir() and not isinstance(reading.series, str):
        return _read_folder(path, reading)
    return io.read(path, frame=reading.frame, series=reading.series, allow_gap=reading.allow_gap)


def _read_folder(path: Path, reading: ReadingOptions) -> Volume | tuple[io.Picture, ...]:
    endings, files = registry.suffixes("picture"), _numbered(path)
    pictures = [f"file {number}" for file, number in files.items() if file.suffix.lower() in endings]
    heads = {file.with_suffix("") for file in files if file.suffix.lower() in registry.header_suffixes()}
    halves = {file for file in files if file.suffix.lower() in registry.data_suffixes() and file.with_suffix("") in heads}
    others = {file: n for file, n in files.items() if file.suffix.lower() not in endings and file not in halves}
    dicom, volumes = _images_of_files(others)
    if pictures and volumes and not dicom:
        mixed = f"volumes ({list_first(volumes)}) and pictures ({list_first(pictures)}) together"
        raise FormatError(mixed, "open one volume, or the pictures without it")
    if pictures and not dicom:
        return _read_pictures(files, endings)
    if not dicom and len(volumes) > 1:
        raise FormatError(f"each of these files is a volume: {list_first(volumes)}", "open one at a time")
    if not dicom and len(volumes) == 1:  # with what converters leave beside it, such as a .json
        main = next(file for file, number in files.items() if volumes == [f"file {number}"])
        found = io.read(main, frame=reading.frame, allow_gap=reading.allow_gap)
        left = [f"file {number}" for file, number in files.items() if file != main and file not in halves]
        if left and isinstance(found, Volume):
            return replace(found, warnings=(*found.warnings, f"left out, as no image: {list_first(left)}"))
        return found
    found = io.read(path, frame=reading.frame, series=reading.series, allow_gap=reading.allow_gap)
    beside = [*pictures, *volumes]  # a thumbnail, a report, the same series converted
    if beside and isinstance(found, Volume):
        what = say_count(len(beside), "file" if volumes else "picture", "were")
        left = f"{what} left out beside the DICOM series: {list_first(beside)}"
        return replace(found, warnings=(left, *found.warnings))  # the page shows the first two
    return found


def _numbered(folder: Path) -> dict[Path, int]:
    """File → its number, from 1: of an upload that of the page's list, where the names stay."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    return {file: number for number, file in enumerate(files, 1)}


def _images_of_files(files: Mapping[Path, int]) -> tuple[bool, list[str]]:
    """Whether one of these files is DICOM, and which of the others hold a volume each, by their numbers."""
    dicom, volumes = False, list[str]()
    for file, number in files.items():
        with suppress(InputError):
            found = registry.recognise(file)
            dicom |= found is registry.DICOM
            if found not in (None, registry.DICOM) and found.kind == "volume":
                volumes.append(f"file {number}")
    return dicom, volumes


def _read_pictures(files: Mapping[Path, int], endings: Collection[str]) -> tuple[io.Picture, ...]:
    """The pictures of these files that can be read, as `segment-images` takes them; the first tells by numbers which cannot."""
    found, left = list[io.Picture](), list[str]()
    for file, number in files.items():
        try:
            if file.suffix.lower() not in endings:
                raise FormatError("no picture")
            found += io.load_pictures(file)
        except InputError as error:
            left.append(f"file {number} ({error.problem})")
    if left and not found:
        raise FormatError(f"no image can be read: {list_first(left)}", "copy or download them again")
    if left:
        told = f"{len(left)} of {say_count(len(files), 'file')} left out: {list_first(left)}"
        found[0] = replace(found[0], warnings=(told, *found[0].warnings))
    return tuple(found)


def _main_file(source: Path) -> Path:
    """The file that a folder stands for: the only one, or the header of a pair; else the folder itself."""
    if not source.is_dir():
        return source
    files = [file for file in source.iterdir() if file.is_file()]
    headers = [file for file in files if file.suffix.lower() in registry.header_suffixes()]
    return files[0] if len(files) == 1 else headers[0] if len(headers) == 1 and len(files) == 2 else source


if __name__ == "__main__":
    sys.exit(main())
