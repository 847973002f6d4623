"""The folder that may be opened from the page: its images by number, so that no path comes from a client."""

import os
from dataclasses import dataclass
from pathlib import Path

from medical_sam2.io.pictures import SUFFIXES as PICTURES

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".zip", ".dcm")
MOST = 500


@dataclass(frozen=True)
class Entry:
    """Something that can be opened.

    Args:
        path: of a file or a folder.
        name: as it is shown.
        kind: "volume", "set" or "folder" (one of DICOM files, or of images).
    """

    path: Path
    name: str
    kind: str


def entries(root: Path | None) -> list[Entry]:
    """What a file or folder offers, in an order that stays; links that lead out of it are left out."""
    if root is None or not root.exists():
        return []
    if root.is_file():
        return [Entry(root, root.name, _kind(root) or "volume")]
    home = root.resolve()
    found = [Entry(root, "all images of this folder", "set")] if _has_pictures(root) else []
    for item in sorted(root.iterdir(), key=lambda item: item.name)[: 4 * MOST]:
        if item.name.startswith(".") or not item.resolve().is_relative_to(home):
            continue
        if item.is_dir() and any(entry.is_file() for entry in os.scandir(item)):
            found.append(Entry(item, item.name, "folder"))
        elif item.is_file() and (kind := _kind(item)):
            found.append(Entry(item, item.name, kind))
    return found[:MOST]


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if path.suffix.lower() in PICTURES:
        return "set"
    return "volume" if name.endswith(VOLUMES) else None


def _has_pictures(root: Path) -> bool:
    return any(item.suffix.lower() in PICTURES for item in root.iterdir())
