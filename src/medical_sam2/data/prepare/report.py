"""What was done to each case: the rows of the manifest."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medical_sam2.data.prepare.intensity import Levels
from medical_sam2.io.atomic import write_bytes


@dataclass(frozen=True)
class Dropped:
    """A mask, or an image, that is nothing to train on.

    Args:
        structure: its name; "" where all of the image is meant.
        component: 0 for the whole structure.
        share: of the slice, where it covers most.
        why: in words.
    """

    structure: str
    component: int
    share: float
    why: str


@dataclass(frozen=True)
class CaseReport:
    """What became of a case.

    Args:
        case: its identifier.
        split: "train" or "test".
        sha256: of its files.
        shape: of the image as it was.
        crop: first and last voxel (or row and column) of each axis that were kept.
        inside_mask: whether intensities were normalised inside the non-zero mask alone.
        levels: of each channel.
        arrays: numbers of the training cases that it is in.
        objects: structure → how many objects to train on: itself and its components.
        dropped: what was left out.
        notes: what readers and checks found odd.
        problem: why it could not be prepared; empty where it could.
    """

    case: str
    split: str
    sha256: Mapping[str, str]
    shape: tuple[int, ...] = ()
    crop: tuple[tuple[int, int], ...] = ()
    inside_mask: bool = False
    levels: tuple[Levels, ...] = ()
    arrays: tuple[int, ...] = ()
    objects: Mapping[str, int] | None = None
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class UnitReport:
    """A piece of work that was finished, with everything that it wrote.

    Args:
        fingerprint: of the source and settings that it was made from.
        files: relative to the output folder.
        cases: their reports.
    """

    fingerprint: str
    files: tuple[str, ...]
    cases: tuple[CaseReport, ...]


def write_json(path: Path, what: Any) -> None:
    """A JSON file, whole or not at all."""
    write_bytes(path, (json.dumps(what, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def save(path: Path, report: UnitReport) -> None:
    """Write the report of a unit: the last thing that is done for it."""
    write_json(path, asdict(report))


def load(path: Path) -> UnitReport | None:
    """A report that was saved; None where there is none that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        cases = tuple(_case(case) for case in told["cases"])
        return UnitReport(told["fingerprint"], tuple(told["files"]), cases)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _case(told: dict[str, Any]) -> CaseReport:
    typed: dict[str, Any] = {key: tuple(told[key]) for key in ("shape", "arrays", "notes")}
    typed["crop"] = tuple((low, high) for low, high in told["crop"])
    typed["levels"] = tuple(Levels(**levels) for levels in told["levels"])
    typed["dropped"] = tuple(Dropped(**dropped) for dropped in told["dropped"])
    return CaseReport(**(told | typed))
