"""Reading and writing of image files in a process of their own, with limits: what breaks a decoder does not break the server.

The child prints one line of JSON: the problem, if there was one. It is not for people.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error
from medical_sam2.io import atomic
from medical_sam2.io.pictures import SUFFIXES as PICTURES
from medical_sam2.server.refusals import Refusal
from medical_sam2.volume import Segmentation, Volume

META = "meta.json"
HEADERS = (".hdr", ".mhd", ".nhdr")


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


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Args:
        memory_mb: of address space.
        seconds: of time.
        disk_mb: largest file that it may write.
    """

    memory_mb: int = 8_192
    seconds: float = 120.0
    disk_mb: int = 4_096


class Unclear(Refusal):
    """A source that can be read in several ways.

    Args:
        choices: one line each.
    """

    def __init__(self, problem: str, choices: tuple[str, ...]) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
        self.choices = choices


def decode(source: Path, target: Path, reading: Reading, limits: Limits) -> None:
    """Read whatever lies at `source` and leave arrays and notes in the folder `target`.

    Raises:
        Refusal: it cannot be read, or not within the limits.
        Unclear: it can be read in several ways.
    """
    _run({"do": "decode", "source": str(source), "target": str(target), "reading": asdict(reading)}, limits)


def export(
    source: Path, labels: NDArray[np.uint8], names: Mapping[int, str], target: Path, reading: Reading, limits: Limits
) -> None:
    """Write labels beside their own source, as `io.save` does it; `labels` pass through a file next to `target`.

    Raises:
        Refusal: as of `io.save`.
    """
    passed = target.with_suffix(".npy")
    np.save(passed, labels)
    order = {"do": "export", "source": str(source), "target": str(target), "labels": str(passed)}
    try:
        _run({**order, "names": dict(names), "reading": asdict(reading)}, limits)
    finally:
        passed.unlink(missing_ok=True)


def fetch(address: str, study: str, series: str, target: Path, limits: Limits) -> None:
    """Copy a series of a PACS into the folder `target`.

    Raises:
        Refusal: the PACS does not answer, or not within the limits.
    """
    _run({"do": "fetch", "address": address, "study": study, "series": series, "target": str(target)}, limits)


def _run(order: dict[str, Any], limits: Limits) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps({**order, "limits": asdict(limits)}).encode(),
            capture_output=True,
            timeout=limits.seconds,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "reading the file takes too long; it was given up") from None
    answer: dict[str, Any] = {}
    with suppress(ValueError):
        answer = json.loads(done.stdout or b"{}")
    if problem := answer.get("problem"):
        choices = tuple(answer.get("choices", ()))
        raise Unclear(problem, choices) if choices else Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
    if done.returncode or "done" not in answer:
        problem = "the file broke its decoder, or needs more memory than is allowed; it was not opened"
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, problem)


def main() -> int:
    """What the child does."""
    order: dict[str, Any] = json.load(sys.stdin)
    _limit(Limits(**order["limits"]))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - decoders print what they think of broken files
    try:
        do(order)
        print(json.dumps({"done": True}))  # noqa: T201
    except MedicalSam2Error as error:
        problem = f"{error.problem}; {error.remedy}" if error.remedy else error.problem
        choices = list(error.choices) if isinstance(error, AmbiguousError) else []
        print(json.dumps({"problem": " ".join(problem.split()), "choices": choices}))  # noqa: T201
    except Refusal as refusal:
        print(json.dumps({"problem": refusal.problem}))  # noqa: T201
    except MemoryError:
        print(json.dumps({"problem": "the image needs more memory than is allowed; it was not opened"}))  # noqa: T201
    return 0


def do(order: Mapping[str, Any]) -> None:
    """What was ordered, in this process.

    Raises:
        MedicalSam2Error: it cannot be done.
    """
    {"decode": _decode, "export": _export, "fetch": _fetch}[order["do"]](order)


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
    found, target = _read(Path(order["source"]), Reading(**order["reading"])), Path(order["target"])
    target.mkdir(exist_ok=True)
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
    like = _read(Path(order["source"]), Reading(**order["reading"]))
    if not isinstance(like, Volume):
        raise FormatError("these are pictures, not a volume", "download them as a zip file")
    labels = np.load(order["labels"], allow_pickle=False)
    names = {int(label): name for label, name in order["names"].items()}
    io.save(Segmentation(labels, like.affine, names), order["target"], like)


def _fetch(order: Mapping[str, Any]) -> None:
    from medical_sam2.server import pacs

    if not pacs.fetch(order["address"], order["study"], order["series"], Path(order["target"])):
        raise FormatError("the series has no images", "choose another one")


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
