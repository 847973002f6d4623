"""The text of a table of prompts: its rows, their cells, and the numbers in them."""

import csv
import io as text_io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medical_sam2 import io
from medical_sam2.errors import FormatError, InputError, read_number
from medical_sam2.io.prompt_file import OBJECT_KEYS, STROKE_KEYS, Unit
from medical_sam2.io.safe_open import open_regular
from medical_sam2.plugins import suggestion

KINDS = {
    **{word: key for key in OBJECT_KEYS[2:] for word in (key.removesuffix("es" if key.endswith("xes") else "s"), key)},
    **{f"negative_{key.removesuffix('s')}": key for key in STROKE_KEYS},
}
"""What a row may say of its kind → key of an object in a file of prompts."""
NUMBERS = {"slices": (2,), "diameters": (6, 12), "boxes": (6,), "negative_boxes": (6,), "points": (3,), "negative": (3,)}
"""Key → how many coordinates a row of it may have; what is drawn has any number of places of three."""
PLACES: Mapping[tuple[str, ...], Unit] = {
    ("i", "j", "k", "i2", "j2", "k2"): "voxel",
    ("x", "y", "z", "x2", "y2", "z2"): "voxel",
    ("x_mm", "y_mm", "z_mm", "x2_mm", "y2_mm", "z2_mm"): "mm",
    ("coordinates",): "voxel",
    ("coordinates_mm",): "mm",
}
"""Columns of coordinates, of which a row fills one group; `coordinates` holds any number of them, with spaces between."""
MASK_COLUMNS = ("file", "value", "threshold", "axis")
COLUMNS = ("case", "image", "object", "name", "kind", *(name for group in PLACES for name in group), "width", *MASK_COLUMNS)
SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
TABLES = (*SEPARATORS, *LINES)
EMPTY = ("", "n/a")
MOST_BYTES = 1 << 28


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and cells of each row; the first line is row 1, as in a spreadsheet."""
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        remedy = f"give a folder of images, or end the name of a table in one of {', '.join(TABLES)}"
        raise FormatError("this is no table of prompts", remedy, subject=path)
    with open_regular(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise FormatError(f"it is larger than {MOST_BYTES >> 20} MB", "split it", subject=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("it is not written in UTF-8", "save it as UTF-8", subject=path) from None
    yield from _json_rows(text, path) if suffix in LINES else _cell_rows(text, SEPARATORS[suffix], path)


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            content = io.parse_json(line, f"{path}, row {number}", newest=None)
            _check_columns(content, f"{path}, row {number}")
            yield number, content


def _cell_rows(text: str, separator: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of CSV; semicolons separate where the first line has nothing else."""
    first = text.partition("\n")[0]
    if separator == "," and ";" in first and "," not in first:
        separator = ";"
    lines = csv.reader(text_io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(lines, [])]
        while names and not names[-1]:  # a comma at the end, as spreadsheets leave it
            names.pop()
        _check_columns(names, path)
        for row in lines:
            if any(cell.strip() for cell in row[len(names) :]):
                problem = f"it has {len(row)} cells, the first row {len(names)}"
                raise FormatError(problem, "put text with separators in quotes", subject=f"{path}, row {lines.line_num}")
            if any(cell.strip() for cell in row):
                yield lines.line_num, dict(zip(names, map(str.strip, row), strict=False))
    except csv.Error as error:
        raise FormatError(f"row {lines.line_num} is broken ({error})", "repair it", subject=path) from None


def _check_columns(names: Sequence[str] | Mapping[str, Any], subject: Path | str) -> None:
    for place, name in enumerate(names):
        if not name:
            raise FormatError(f"its column {place + 1} has no name", "name it, or leave it out", subject=subject)
        if name not in COLUMNS:
            raise FormatError(f"it has the unknown column {name[:40]!r}", suggestion(name, COLUMNS), subject=subject)
        if name in list(names)[:place]:
            raise FormatError(f"it has the column {name!r} twice", "leave one out", subject=subject)


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing."""
    return value is None or (isinstance(value, str) and value.strip() in EMPTY)


def entry_content(kind: str, key: str, numbers: list[Any], cells: Mapping[str, Any], unit: str) -> Any:
    """What a file of prompts says where a row says this of a kind."""
    flat = [number for each in numbers for number in (each if isinstance(each, list) else [each])]
    wanted = NUMBERS.get(key, range(3, len(flat) + 1, 3))
    if len(flat) not in wanted:
        counts = " or ".join(map(str, NUMBERS.get(key, ("three for each place",))))
        hint = f"write {counts} into the column coordinates" if key in {"slices", *STROKE_KEYS} else f"give {counts}"
        raise InputError(f"a {kind} cannot have {len(flat)} numbers", hint)
    if key == "slices" and unit == "mm":
        raise InputError("slices are counted, not measured", "write them into the column coordinates")
    if key not in STROKE_KEYS:
        return flat
    width = {"width": number_of(cells["width"], "width")} if "width" in cells else {}
    places = [flat[n : n + 3] for n in range(0, len(flat), 3)]
    return {"places": places, "positive": not kind.startswith("negative"), **width}


def coordinates_of(group: tuple[str, ...], cells: Mapping[str, Any]) -> list[Any]:
    """The numbers of a row; the first ones of its group without a gap."""
    if len(group) == 1:
        given = cells[group[0]]
        return (
            given if isinstance(given, list) else [number_of(part, group[0]) for part in str(given).replace(",", " ").split()]
        )
    filled = [name for name in group if name in cells]
    if filled not in (list(group[:3]), list(group)):
        missing = next(name for name in group if name not in cells)
        raise InputError(f"{missing} is missing", "give three numbers, or six for two corners")
    return [number_of(cells[name], name) for name in filled]


def number_of(value: Any, what: str) -> float:
    """The number in a cell.

    Raises:
        InputError: there is none.
    """
    try:
        number = float("" if isinstance(value, bool) else read_number(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} {str(value)[:20]!r} is no number", "write one, with a point before decimals") from None
    return int(number) if number.is_integer() else number


def whole_number(value: Any, what: str) -> int | None:
    """The whole number in a cell; none where it is empty.

    Raises:
        InputError: it is another number, or none.
    """
    if value is None:
        return None
    number = number_of(value, what)
    if not isinstance(number, int):
        raise InputError(f"{what} {value} is no whole number", "number from 1")
    return number
