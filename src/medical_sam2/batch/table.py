"""A table of prompts: CSV, TSV or JSON lines, one prompt a row, for many images.

```csv
case,image,object,name,kind,i,j,k,i2,j2,k2
anna,scans/a.nii.gz,1,liver,box,20,31,4,44,60,4
anna,scans/a.nii.gz,1,liver,negative,25,58,4
```

Rows become entries of a file of prompts and are read as such, so whatever can be written there has a row here: its kinds are
the keys of an object. Paths are relative to the table.
"""

import csv
import io as text_io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from medical_sam2 import io
from medical_sam2.batch import BatchCase, MaskFile
from medical_sam2.data.data_sets import CHANNEL, stem
from medical_sam2.errors import FormatError, InputError, MedicalSam2Error, read_number
from medical_sam2.io.coordinates import LETTERS, Unit
from medical_sam2.io.labels import AS_DRAWN, MaskRule
from medical_sam2.io.prompt_file import OBJECT_KEYS, STROKE_KEYS, NamedPrompts, parse_prompts
from medical_sam2.io.safe_open import as_stored, open_regular
from medical_sam2.plugins import suggestion
from medical_sam2.strokes import ShapeInterpolation
from medical_sam2.volume import Volume

MOST_SHOWN, LONGEST_NAME = 20, 150
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


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    where: str  # the row, as messages name it
    object: int | None  # label; None where each label of a mask is an object
    name: str  # of the object, "" where it has none
    key: str  # of an object in a file of prompts
    content: Any  # its entry there
    unit: Unit = "voxel"  # of coordinates
    rule: MaskRule = AS_DRAWN  # how the numbers of a mask are meant that no value is chosen from

    def read(self, volume: Volume) -> NamedPrompts:
        """What it points at; errors name the row."""
        try:
            if self.object is None and self.key == "masks":
                return MaskFile(Path(self.content["file"]), self.rule).read(volume)
            label, name = 1 if self.object is None else self.object, {"name": self.name} if self.name else {}
            if self.key == "interpolate":
                return NamedPrompts((ShapeInterpolation(label),), {label: self.name} if self.name else {})
            entry = {"label": label, **name, self.key: self.content if self.key == "slices" else [self.content]}
            return parse_prompts({"coordinates": self.unit, "objects": [entry]}, volume, None)
        except MedicalSam2Error as error:
            raise at_row(error, self.where) from None

    def facts(self) -> Mapping[str, Any]:
        """All that it says, but where it stands and where its mask lies."""
        content = {**self.content, "file": ""} if isinstance(self.content, dict) else self.content
        rule = {"rule": vars(self.rule)} if self.key == "masks" else {}
        return {"object": self.object, "name": self.name, self.key: content, "unit": self.unit, **rule}

    @property
    def files(self) -> tuple[Path, ...]:
        """The mask."""
        return (Path(self.content["file"]),) if isinstance(self.content, dict) and "file" in self.content else ()


Check: TypeAlias = Callable[[Sequence[BatchCase]], Sequence[MedicalSam2Error]]
"""What is wrong with the prompts of some cases, beyond what their rows tell by themselves."""


def at_row(error: MedicalSam2Error, where: str) -> MedicalSam2Error:
    """The same error with the row at its beginning, and then the file or prompt that it speaks of."""
    if str(error.subject).startswith(where):
        return error
    error.subject = where if error.subject is None else f"{where}: {error.subject}"
    return error


def read_table(
    path: Path,
    images: Mapping[str, BatchCase] | None = None,
    rule: MaskRule = AS_DRAWN,
    check: Check = lambda _: [],
    *,
    bare: bool = False,
) -> list[BatchCase]:
    """The cases of a table, in the order in which they are first named.

    Args:
        path: .csv, .tsv, .jsonl or .ndjson.
        images: cases of a folder, by name, of which the table holds the prompts; else the table names images itself.
        rule: how the numbers of masks are meant that no row says anything of.
        bare: whether a row may name an image and no prompt.
        check: tells what else is wrong with the other rows where some cannot be used.

    Raises:
        FormatError: no table, or unknown columns.
        InputError: rows that cannot be used: one is named; several are notes of the error, one line each.
    """
    return _TableReader(path, images, rule, bare=bare).cases(check)


def raise_together(problems: Sequence[MedicalSam2Error], subject: Path) -> None:
    """Raise what was found: one by itself, several as notes of one error."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        problems = sorted(problems, key=_row_number)
        error = InputError(f"{len(problems)} rows or images cannot be used", "mend what is named above", subject=subject)
        for each in problems[:MOST_SHOWN]:
            error.add_note(str(each))
        if len(problems) > MOST_SHOWN:
            error.add_note(f"… and {len(problems) - MOST_SHOWN} more")
        raise error


def _row_number(problem: MedicalSam2Error) -> int:
    """The row that a problem begins with; 0 where it begins with none."""
    found = re.search(r", row (\d+)", str(problem.subject))
    return int(found[1]) if found else 0


class _TableReader:
    """Reads a table; what is wrong is collected, so that all of it is reported at once."""

    def __init__(self, path: Path, images: Mapping[str, BatchCase] | None, rule: MaskRule, *, bare: bool) -> None:
        self._path, self._images, self._rule, self._bare = path, images, rule, bare
        self._rows: dict[str, dict[str, TableRow]] = {}  # case → what is said → the row that said it
        self._files: dict[str, Path] = {}

    def cases(self, check: Check) -> list[BatchCase]:
        """The cases, if every row can be used."""
        problems: list[MedicalSam2Error] = []
        for number, cells in read_rows(self._path):
            where = f"{self._path}, row {number}"
            try:
                self._add(where, {name: value for name, value in cells.items() if not is_empty(value)})
            except MedicalSam2Error as error:
                problems.append(at_row(error, where))
        if not self._rows and not problems:
            raise FormatError("it has no rows", "write one prompt a row", subject=self._path)
        known = self._images or {name: BatchCase(name, file) for name, file in self._files.items()}
        cases = [
            BatchCase(name, known[name].image, tuple(rows.values()), known[name].channels) for name, rows in self._rows.items()
        ]
        raise_together([*problems, *check(cases)] if problems else [], self._path)
        return cases

    def _add(self, where: str, cells: Mapping[str, Any]) -> None:
        case = self._case(cells)
        if self._bare and not cells.keys() - {"case", "image"}:
            self._rows.setdefault(case, {})
            return
        row = self._row(where, cells)
        own = self._rows.setdefault(case, {})
        for other in own.values():
            if other.name and row.name and (other.object or 1) == (row.object or 1) and other.name != row.name:
                named = f"object {row.object or 1} is called {row.name!r} here and {other.name!r} in {_row(other)}"
                raise InputError(named, "choose")
        meaning = json.dumps([row.object, row.content, row.unit], sort_keys=True)
        if (twin := own.get(meaning)) is not None:
            how = "says the same as" if twin.key == row.key else f"says {row.key} of what is {twin.key} in"
            raise InputError(f"it {how} {_row(twin)}", "leave one of them out")
        own[meaning] = row

    def _case(self, cells: Mapping[str, Any]) -> str:
        """The case of a row; where there is no folder of images, its image is noted."""
        image, name = cells.get("image"), cells.get("case")
        if self._images is not None:
            return self._known_case(image, name)
        if image is None and name is not None and str(name) in self._files:
            return str(name)
        if image is None:
            raise InputError("it names no image", "fill the column image")
        path = as_stored(self._path.parent / str(image))
        if not path.exists():
            raise InputError(f"the image {image} does not exist", "correct its path")
        name = case_of(path) if name is None else check_name(str(name))
        if self._files.setdefault(name, path) != path:
            raise InputError(f"case {name} has another image above", "name them apart in the column case")
        if twin := next((other for other in self._files if other != name and _alike(other) == _alike(name)), None):
            problem = f"cases {twin} and {name} differ in nothing but capitals, or in how accents are written"
            raise InputError(problem, "rename one")
        return name

    def _known_case(self, image: Any, name: Any) -> str:
        images = self._images or {}
        wanted = str(name) if name is not None else "" if image is None else case_of(Path(str(image)))
        if not wanted:
            raise InputError("it names no case", "fill the column case")
        if wanted not in images:
            raise InputError(f"there is no image of the case {wanted}", suggestion(wanted, images))
        return wanted

    def _row(self, where: str, cells: Mapping[str, Any]) -> TableRow:
        given = str(cells.get("kind", ""))
        kind = given.lower()  # spreadsheets begin cells with capitals
        if kind not in KINDS:
            remedy = suggestion(kind, KINDS) if kind else f"write one of {', '.join(dict.fromkeys(KINDS))}"
            raise InputError(f"the kind {given!r} is unknown" if kind else "it has no kind", remedy)
        key, label = KINDS[kind], whole_number(cells.get("object"), "object")
        mask = {name: cells[name] for name in MASK_COLUMNS if name in cells}
        placed = [(group, unit) for group, unit in PLACES.items() if any(name in cells for name in group)]
        name = str(cells.get("name", ""))
        if key == "masks":
            if placed:
                raise InputError("a mask has no coordinates", "leave them out")
            return self._mask(where, label, name, mask)
        if mask:
            raise InputError(f"{next(iter(mask))} belongs to masks, and this is a {kind}", "leave it out")
        if "width" in cells and key != "scribbles":
            raise InputError(f"width belongs to scribbles, and this is a {kind}", "leave it out")
        if key == "interpolate":
            if placed:
                raise InputError("interpolate has no coordinates: it joins the outlines of its object", "leave them out")
            return TableRow(where, label, name, key, True)
        if len(placed) != 1:
            problem = "its coordinates are given twice" if placed else "it has no coordinates"
            raise InputError(problem, "fill i, j, k, or x_mm, y_mm, z_mm, once")
        group, unit = placed[0]
        return TableRow(
            where, label, name, key, entry_content(kind, key, coordinates_of(group, cells), cells, unit), cast("Unit", unit)
        )

    def _mask(self, where: str, label: int | None, name: str, mask: Mapping[str, Any]) -> TableRow:
        if "file" not in mask:
            raise InputError("a mask has no file", "fill the column file")
        path = as_stored(self._path.parent / str(mask["file"]))
        if not path.exists():
            raise InputError(f"the mask {mask['file']} does not exist", "correct its path")
        value, axis = whole_number(mask.get("value"), "value"), mask.get("axis")
        threshold = number_of(mask["threshold"], "threshold") if "threshold" in mask else self._rule.threshold
        if label is None and (value is not None or axis is not None or name):
            raise InputError("each label of the mask is an object, for none is named", "fill the column object")
        if value is not None and threshold is not None:
            raise InputError("a value and a threshold are given", "leave one out: what is exactly that, or at least that")
        if axis is not None and axis not in set(LETTERS):
            raise InputError(f"the axis {axis!r} is unknown", "write i, j or k")
        content = {"file": str(path)} | {
            key: given for key, given in (("label", value), ("threshold", threshold), ("axis", axis)) if given is not None
        }
        return TableRow(where, label, name, "masks", content, rule=MaskRule(None, threshold, self._rule.each_label))


def _row(row: TableRow) -> str:
    return row.where.rpartition(", ")[2]


def case_of(image: Path) -> str:
    """What a case is called by its image: the file's name without its suffix, and without nnU-Net's number of a channel."""
    name = stem(image)
    found = CHANNEL.fullmatch(name)
    return check_name(found["case"] if found else name)


def check_name(name: str) -> str:
    """The name of a case; raises InputError if files cannot be called so."""
    if len(name) > LONGEST_NAME:
        raise InputError(f"the name {name[:20]!r} … of a case has {len(name)} letters", f"give it {LONGEST_NAME} at most")
    if not name or not name.isprintable() or name.startswith((".", "-", " ")) or set(name) & set('/\\:*?"<>|'):
        raise InputError(f"no file can be called {name[:40]!r}", "name the case with letters, digits, - and _")
    return name


def _alike(name: str) -> str:
    """The same for names that are one file's on some systems."""
    return unicodedata.normalize("NFC", name).casefold()


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
            names = _name_columns([*content], f"{path}, row {number}")
            yield number, dict(zip(names, content.values(), strict=True))


def _cell_rows(text: str, separator: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of CSV; where the first line lacks the separator of such a file, semicolons, tabs or commas are taken for it."""
    first = text.partition("\n")[0]
    separator = next((each for each in (separator, *";\t,") if each in first), separator)
    lines = csv.reader(text_io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(lines, [])]
        while names and not names[-1]:  # a comma at the end, as spreadsheets leave it
            names.pop()
        names = _name_columns(names, path)
        for row in lines:
            if any(cell.strip() for cell in row[len(names) :]):
                problem = f"it has {len(row)} cells, the first row {len(names)}"
                raise FormatError(problem, "put text with separators in quotes", subject=f"{path}, row {lines.line_num}")
            if any(cell.strip() for cell in row):
                yield lines.line_num, dict(zip(names, map(str.strip, row), strict=False))
    except csv.Error as error:
        raise FormatError(f"row {lines.line_num} is broken ({error})", "repair it", subject=path) from None


def _name_columns(names: Sequence[str], subject: Path | str) -> list[str]:
    """The columns that are meant, whatever the case of their letters, if each is known and there once."""
    found: list[str] = []
    for place, name in enumerate(names):
        if not name:
            raise FormatError(f"its column {place + 1} has no name", "name it, or leave it out", subject=subject)
        if name.lower() not in COLUMNS:
            raise FormatError(f"it has the unknown column {name[:40]!r}", suggestion(name, COLUMNS), subject=subject)
        if name.lower() in found:
            raise FormatError(f"it has the column {name!r} twice", "leave one out", subject=subject)
        found.append(name.lower())
    return found


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
    """The number in a cell; raises InputError if there is none."""
    try:
        number = float("" if isinstance(value, bool) else read_number(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} {str(value)[:20]!r} is no number", "write one, with a point before decimals") from None
    return int(number) if number.is_integer() else number


def whole_number(value: Any, what: str) -> int | None:
    """The whole number in a cell; none where it is empty; raises InputError for anything else."""
    if value is None:
        return None
    number = number_of(value, what)
    if not isinstance(number, int):
        raise InputError(f"{what} {value} is no whole number", "number from 1")
    return number
