"""What may break or never end, in a process of its own, with limits: decoders of image files, and talks with a PACS.

The child prints one line of JSON: the answer, or the problem. It is not for people.
"""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error, ResourceError
from medical_sam2.io import atomic
from medical_sam2.io.pictures import SUFFIXES as PICTURES
from medical_sam2.server.processes import BROKE, Children, Limits
from medical_sam2.server.refusals import Refusal, disk_is_full, told
from medical_sam2.volume import Segmentation, Volume

META = "meta.json"
HEADERS = (".hdr", ".mhd", ".nhdr")
OUTWARD = "a link in it leads out of the folder that is served; put the file itself there"


@dataclass(frozen=True)
class Reading:
    """How a source is read where that is not clear.

    Args:
        frame: time point of a 4D image, from 0.
        series: DICOM series of a folder, from 1.
        allow_gap: interpolate missing slices.
    """

    frame: int | None = None
    series: int | None = None
    allow_gap: bool = False


def decode(source: Path, target: Path, reading: Reading, children: Children, *, within: Path | None = None) -> None:
    """Read whatever lies at `source` and leave arrays and notes in the folder `target`, which appears whole or not at all.

    Args:
        source: file or folder.
        target: folder that is not there yet.
        reading: how.
        children: who does it.
        within: folder that no link in it may lead out of.

    Raises:
        Refusal: it cannot be read, or not within the limits.
        Unclear: it can be read in several ways.
    """
    aside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    order = {"do": "decode", "source": str(source), "target": str(aside), "within": within and str(within)}
    try:
        children.run({**order, "reading": asdict(reading)})
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def export(
    source: Path,
    labels: NDArray[np.uint8],
    names: Mapping[int, str],
    target: Path,
    reading: Reading,
    children: Children,
    *,
    within: Path | None = None,
) -> None:
    """Write labels beside their own source, as `io.save` does it; `labels` pass through a file next to `target`.

    Raises:
        Refusal: as of `io.save`.
    """
    passed = target.with_suffix(".npy")
    np.save(passed, labels)
    order = {"do": "export", "source": str(source), "target": str(target), "within": within and str(within)}
    try:
        children.run({**order, "labels": str(passed), "names": dict(names), "reading": asdict(reading)})
    finally:
        passed.unlink(missing_ok=True)


def main() -> int:
    """What the child does."""
    order: dict[str, Any] = json.load(sys.stdin)
    _limit(Limits(**order["limits"]))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - decoders print what they think of broken files
    print(json.dumps(_answer(order)))  # noqa: T201
    return 0


def _answer(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"done": do(order)}
    except MedicalSam2Error as error:
        refusal = told(error)
        choices = list(error.choices) if isinstance(error, AmbiguousError) else []
        return {"problem": refusal.problem, "status": refusal.status, "choices": choices}
    except Refusal as refusal:
        return {"problem": refusal.problem, "status": refusal.status}
    except MemoryError:
        return {"problem": "the image needs more memory than is allowed; it was not opened"}
    except OSError as error:
        full = disk_is_full(error)
        return {"problem": full.problem, "status": full.status} if full else {"problem": BROKE}


def do(order: Mapping[str, Any]) -> Any:
    """What was ordered, in this process.

    Raises:
        MedicalSam2Error: it cannot be done.
    """
    if order["do"] in {"decode", "export"}:
        return _decode(order) if order["do"] == "decode" else _export(order)
    from medical_sam2.server import pacs  # slow to load, and no decoder needs it

    return pacs.do(order)


def _limit(limits: Limits) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        most = {
            resource.RLIMIT_AS: limits.memory_mb << 20,
            resource.RLIMIT_CPU: int(limits.seconds) + 1,
            resource.RLIMIT_FSIZE: limits.disk_mb << 20,
            resource.RLIMIT_CORE: 0,
        }
        for what, much in most.items():
            resource.setrlimit(what, (much, much))


def _decode(order: Mapping[str, Any]) -> None:
    found, target = _found(order), Path(order["target"])
    target.mkdir(mode=0o700)
    if isinstance(found, Volume):
        np.save(target / "0.npy", found.array)
        dicom = type(getattr(found, "origin", None)).__name__ == "DicomOrigin"
        about = {"kind": "volume", "modality": found.modality, "affine": found.affine.tolist(), "dicom": dicom}
        notes = {**about, "warnings": found.warnings}
    else:
        for i, picture in enumerate(found):
            np.save(target / f"{i}.npy", picture.array)
        spacing = found[0].spacing_mm
        about = {"kind": "set", "count": len(found), "modality": found[0].modality, "spacing_mm": spacing}
        notes = {**about, "warnings": [n for p in found for n in p.warnings]}
    atomic.write_bytes(target / META, json.dumps(notes).encode())


def _export(order: Mapping[str, Any]) -> None:
    like = _found(order)
    if not isinstance(like, Volume):
        raise FormatError("these are pictures, not a volume", "download them as a zip file")
    labels = np.load(order["labels"], allow_pickle=False)
    names = {int(label): name for label, name in order["names"].items()}
    io.save(Segmentation(labels, like.affine, names), order["target"], like)


def _found(order: Mapping[str, Any]) -> Volume | tuple[io.Picture, ...]:
    try:
        with _kept_within(order.get("within")):
            return _read(Path(order["source"]), Reading(**order["reading"]))
    except ResourceError as error:  # more than a file may ask for: the file's fault, not the server's
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, told(error).problem) from None


@contextmanager
def _kept_within(home: str | None) -> Iterator[None]:
    """Whatever a reader opens under `home` by its name lies there: no link on the way leads out.

    Asked of the interpreter, since every reader finds files of its own: of a series, of a pair, of a header.
    """
    outward, watching = list[str](), True

    def heard(event: str, given: tuple[Any, ...]) -> None:
        if not watching or event not in {"open", "os.listdir", "os.scandir"} or not isinstance(given[0], str | bytes):
            return
        path = os.path.abspath(os.fsdecode(given[0]))
        if _under(path, str(home)) and not _under(os.path.realpath(path), str(home)):
            outward.append(path)
            raise PermissionError(OUTWARD)

    if home is not None:
        sys.addaudithook(heard)
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


def _read(source: Path, reading: Reading) -> Volume | tuple[io.Picture, ...]:
    path = _main_file(source)
    if path.is_dir() and any(file.suffix.lower() in PICTURES for file in path.iterdir()):
        return io.load_pictures(path)
    return io.read(path, frame=reading.frame, series=reading.series, allow_gap=reading.allow_gap)


def _main_file(source: Path) -> Path:
    """The file that a folder stands for: the only one, or the header of a pair; else the folder itself."""
    if not source.is_dir():
        return source
    files = [file for file in source.iterdir() if file.is_file()]
    headers = [file for file in files if file.suffix.lower() in HEADERS]
    return files[0] if len(files) == 1 else headers[0] if len(headers) == 1 and len(files) == 2 else source


if __name__ == "__main__":
    sys.exit(main())
