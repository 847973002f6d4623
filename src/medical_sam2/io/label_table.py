"""Tables of names and colours beside a label map, as other programs write and read them.

| ending | read by | a line |
|---|---|---|
| `.label` | ITK-SNAP (label descriptions) | `1 76 201 240 1 1 1 "left kidney"` |
| `.ctbl` | 3D Slicer (color table) | `1 left_kidney 76 201 240 255` |
| `.txt` | FreeSurfer (color lookup table) | `1 left_kidney 76 201 240 0`; its last number is 0 where the colour is opaque |
| `.tsv` | BIDS (`dseg.tsv`) | `index name color` in columns |
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, MedicalSam2Error
from medical_sam2.io import atomic
from medical_sam2.io.labels import MOST_OBJECTS, NOWHERE, Outline, labels_in
from medical_sam2.io.safe_open import open_regular
from medical_sam2.volume import Colour, Segmentation

SUFFIXES = (".label", ".ctbl", ".txt", ".tsv")
MOST_BYTES = 1 << 22
SNAP = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+\d+\s+\d+\s+"(.*)"\s*')
COLOURS_OF = re.compile(r"\s*(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d+)?\s*")
OF_ONE = re.compile(r"(?<=.)-\d+$")
HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
SNAP_HEADER = """################################################
# ITK-SnAP Label Description File
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""
BEGINNINGS = {
    ".label": SNAP_HEADER + '    0     0    0    0        0  0  0    "Clear Label"\n',
    ".ctbl": "# Color table file\n# index name red green blue alpha\n0 Background 0 0 0 0\n",
    ".txt": "#No. Label Name: R G B A\n0 Unknown 0 0 0 0\n",
    ".tsv": "index\tname\tcolor\n",
}


@dataclass(frozen=True)
class LabelEntry:
    """One line of a table."""

    label: int  # number in the label map
    name: str  # what it stands for, "" where the table does not say
    colour: Colour | None = None  # in which it is shown, where the table says so


def save(found: Segmentation, path: Path) -> list[str]:
    """Write names and colours of all objects, those that were not found too, as the ending says; whole or not at all.

    Returns:
        A line that says so if blanks in names were written as underscores, since the format ends a name at a blank.
    """
    suffix = path.suffix.lower()
    labels = sorted({*found.objects(), *found.names} - {0})
    named = {label: " ".join(found.names.get(label, f"object {label}").replace('"', "'").split()) for label in labels}
    written = {label: named[label] if suffix in (".label", ".tsv") else named[label].replace(" ", "_") for label in labels}
    lines = (_line(suffix, label, name, found.colour(label)) for label, name in written.items())
    atomic.write_bytes(path, (BEGINNINGS[suffix] + "".join(lines)).encode())
    given = any(written[label] != name for label, name in found.names.items())
    return [f"{path.name} holds names with _ for blanks"] if given and suffix in (".ctbl", ".txt") else []


def _line(suffix: str, label: int, name: str, colour: Colour) -> str:
    red, green, blue = colour
    if suffix == ".label":
        return f'{label:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"\n'
    if suffix == ".tsv":
        text = io.StringIO()
        csv.writer(text, delimiter="\t", lineterminator="\n").writerow([label, name, f"#{red:02x}{green:02x}{blue:02x}"])
        return text.getvalue()
    return f"{label} {name} {red} {green} {blue} {255 if suffix == '.ctbl' else 0}\n"


def load(path: Path) -> dict[int, LabelEntry] | None:
    """What a table says of each label, None where the file is none; raises FormatError if it names a label twice."""
    if not path.stat().st_size:
        return None
    with open_regular(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    try:
        lines = data.decode("utf-8-sig").splitlines() if len(data) <= MOST_BYTES else []
    except UnicodeDecodeError:
        return None
    entries = _tabular(lines) if path.suffix.lower() == ".tsv" else _listed(lines)
    table: dict[int, LabelEntry] = {}
    for entry in entries or ():
        if entry.label in table:
            raise FormatError(f"it names label {entry.label} twice", "leave one of them", subject=path)
        table[entry.label] = entry
    return table or None


def _listed(lines: Iterable[str]) -> list[LabelEntry] | None:
    """Entries of ITK-SNAP, 3D Slicer or FreeSurfer; None where a line is none of them."""
    found: list[LabelEntry] = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if snap := SNAP.fullmatch(line):
            label, *colour, name = snap.groups()
        elif other := COLOURS_OF.fullmatch(line):
            label, name, *colour = other.groups()
        else:
            return None
        found.append(_entry(label, name, colour))
    return found


def _tabular(lines: list[str]) -> list[LabelEntry] | None:
    """Entries of BIDS; None without its columns."""
    rows = list(csv.DictReader(lines, delimiter="\t"))
    if not rows or not {"index", "name"} <= rows[0].keys() or not all((row["index"] or "").isdecimal() for row in rows):
        return None
    colours = [HEX.fullmatch(row.get("color") or "") for row in rows]
    return [
        _entry(row["index"], row["name"] or "", [str(int(part, 16)) for part in colour.groups()] if colour else [])
        for row, colour in zip(rows, colours, strict=True)
    ]


def _entry(label: str, name: str, colour: list[str]) -> LabelEntry:
    number = min(int(label[:9]), MOST_OBJECTS + 1)
    given = "" if name in ("n/a", f"object {number}", f"object_{number}") or not name.isprintable() else name.strip()
    if len(colour) != 3 or not all(int(part[:4]) <= 255 for part in colour):
        return LabelEntry(number, given)
    red, green, blue = (int(part) for part in colour)
    return LabelEntry(number, given, (red, green, blue))


def beside(path: Path) -> Path | None:
    """The table that lies beside a label map: mask.nii.gz and mask.label, or another of `SUFFIXES`; None if there is none.

    Of a file of one object (mask-3.nii.gz, as `segment --separate` writes it) it may be that of all of them.
    """
    stem = _stem(path)
    there = [path.with_name(name + suffix) for name in dict.fromkeys((stem, OF_ONE.sub("", stem))) for suffix in SUFFIXES]
    return next((file for file in there if file != path and file.is_file() and load(file)), None)


def _stem(path: Path) -> str:
    return re.sub(r"(\.nii)?(\.gz)?$", "", path.name) if path.name.lower().endswith((".nii", ".gz")) else path.stem


def describe(outlines: list[Outline], path: Path) -> list[Outline]:
    """The objects of a label map with the names and colours of the table beside it, if there is one."""
    file = beside(path)
    table = (load(file) if file else None) or {}
    if file and file.stem != _stem(path) and any(not _stem(path).endswith(f"-{outline.label}") for outline in outlines):
        table = {}  # another map, whose name merely ends in a number
    known = {outline.label: table.get(outline.label, LabelEntry(outline.label, "")) for outline in outlines}
    return [
        replace(outline, name=outline.name or known[outline.label].name, colour=outline.colour or known[outline.label].colour)
        for outline in outlines
    ]


# A table that an earlier run left beside its labels would name those that are written in their place.
def describe_others(path: Path, names: Mapping[int, str], array: NDArray[np.integer]) -> list[str]:
    """A line if the table beside a label map calls its objects otherwise than they are called, or cannot be read.

    Args:
        path: the label map.
        names: label → name, of those that have one.
        array: its numbers.
    """
    try:
        if (table := beside(path)) is None:
            return []
        told = describe([Outline(label, NOWHERE) for label in sorted(labels_in(array))], path)
    except MedicalSam2Error as error:
        return [f"{path.name} is not read while a table lies beside it that cannot be: {error}"]
    for outline in told:
        if outline.name and _comparable(outline.name) != _comparable(names.get(outline.label, "")):
            calls = f"{table.name}, which lies beside {path.name}, calls object {outline.label} {outline.name!r}"
            return [f"{calls}, as whoever reads these labels will: remove it, or write theirs in its place (--label-table)"]
    return []


def _comparable(name: str) -> str:
    """A name as every table holds it."""
    return "_".join(name.replace('"', "'").split())
