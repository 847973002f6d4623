"""A table of prompts: CSV, TSV or JSON lines, one prompt a row, for many images; and what a case is.

```csv
case,image,object,name,kind,i,j,k,i2,j2,k2
anna,scans/a.nii.gz,1,liver,box,20,31,4,44,60,4
anna,scans/a.nii.gz,1,liver,negative,25,58,4
```

Rows become entries of a file of prompts and are read as such, so whatever can be written there has a row here: its kinds are
the keys of an object. Paths are relative to the table.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from medical_sam2 import io
from medical_sam2.batch.table_cells import (
    KINDS,
    MASK_COLUMNS,
    PLACES,
    coordinates_of,
    entry_content,
    is_empty,
    number_of,
    read_rows,
    whole_number,
)
from medical_sam2.data.data_sets import CHANNEL, stem
from medical_sam2.errors import FormatError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io.labels import AS_DRAWN, MaskRule
from medical_sam2.io.prompt_file import (
    LETTERS,
    NamedPrompts,
    Unit,
    check_limits_given_once,
    load_prompts,
    masks_from,
    parse_prompts,
)
from medical_sam2.io.safe_open import as_stored
from medical_sam2.plugins import suggestion
from medical_sam2.strokes import ShapeInterpolation
from medical_sam2.volume import Volume

MOST_SHOWN, LONGEST_NAME = 20, 150


class PromptSource(Protocol):
    """Where prompts of an image come from."""

    def read(self, volume: Volume) -> NamedPrompts:
        """The prompts in an image; raises what `load_prompts` does."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What they depend on, beside the content of `files`."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that are read."""
        ...


@dataclass(frozen=True)
class TemplateFiles:
    """An annotated volume, whose objects are looked for in others.

    Args:
        image: file, or folder with a DICOM series.
        mask: its labels.
        rule: how their numbers are meant.
    """

    image: Path
    mask: Path
    rule: MaskRule = AS_DRAWN

    @property
    def name(self) -> str:
        """What tables call it."""
        return stem(self.image)


@dataclass(frozen=True)
class BatchCase:
    """An image with its prompts.

    Args:
        name: of the case: its results are called so.
        image: file, or folder with a DICOM series, that is outlined.
        prompts: what was pointed at in it.
        channels: all files of the image, where it has several.
        template: whose objects are looked for, but those that are prompted.
    """

    name: str
    image: Path
    prompts: tuple[PromptSource, ...] = ()
    channels: tuple[Path, ...] = ()
    template: TemplateFiles | None = None

    @property
    def reads_masks(self) -> bool:
        """Whether voxels must be read to know its objects."""
        return self.template is not None or any(file.suffix.lower() != ".json" for each in self.prompts for file in each.files)

    def read_prompts(self, volume: Volume) -> NamedPrompts:
        """All prompts in the image.

        Raises:
            PromptError: none, or two names for an object; and what the sources raise.
        """
        found = [source.read(volume) for source in self.prompts]
        names: dict[int, str] = {}
        for label, name in (pair for each in found for pair in each.names.items()):
            if names.setdefault(label, name) != name:
                raise PromptError(f"object {label} is called {names[label]!r} and {name!r}", "give it one name")
        prompts = tuple(prompt for each in found for prompt in each.prompts)
        check_limits_given_once(prompts)
        return NamedPrompts(
            prompts,
            names,
            tuple(file for each in self.prompts for file in each.files),
        )


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts (JSON)."""

    path: Path

    def read(self, volume: Volume) -> NamedPrompts:
        """Its prompts."""
        return load_prompts(self.path, volume)

    def facts(self) -> Mapping[str, Any]:
        """Nothing but its content."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """It, and the masks that it names."""
        named = _files_named(io.load_json(self.path))
        return (self.path, *(self.path.parent / file for file in named))


def _files_named(content: object) -> Iterator[str]:
    """Whatever stands under the key `file`, at any depth."""
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _files_named(value)
    if isinstance(content, dict) and isinstance(content.get("file"), str):
        yield content["file"]


@dataclass(frozen=True)
class MaskFile:
    """A mask in the grid of the image: each label is an object, as `segment --mask` takes it."""

    path: Path
    rule: MaskRule = AS_DRAWN

    def read(self, volume: Volume) -> NamedPrompts:
        """What is drawn in it."""
        found = io.load_outlines(self.path, volume, self.rule)
        return NamedPrompts(tuple(masks_from(found)), {each.label: each.name for each in found if each.name}, (self.path,))

    def facts(self) -> Mapping[str, Any]:
        """How its numbers are meant."""
        return {"rule": vars(self.rule)}

    @property
    def files(self) -> tuple[Path, ...]:
        """It."""
        return (self.path,)


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Args:
        where: the row, as messages name it.
        object: label; None where each label of a mask is an object.
        name: of the object, "" where it has none.
        key: of an object in a file of prompts.
        content: its entry there.
        unit: of coordinates.
        rule: how the numbers of a mask are meant that no value is chosen from.
    """

    where: str
    object: int | None
    name: str
    key: str
    content: Any
    unit: Unit = "voxel"
    rule: MaskRule = AS_DRAWN

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
            if other.name and row.name and other.object == row.object and other.name != row.name:
                raise InputError(
                    f"object {row.object} is called {row.name!r} here and {other.name!r} in {_row(other)}", "choose"
                )
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
        kind = str(cells.get("kind", ""))
        if kind not in KINDS:
            remedy = suggestion(kind, KINDS) if kind else f"write one of {', '.join(dict.fromkeys(KINDS))}"
            raise InputError(f"the kind {kind!r} is unknown" if kind else "it has no kind", remedy)
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
    """The name of a case, if files can be called so.

    Raises:
        InputError: they cannot.
    """
    if len(name) > LONGEST_NAME:
        raise InputError(f"the name {name[:20]!r} … of a case has {len(name)} letters", f"give it {LONGEST_NAME} at most")
    if not name or not name.isprintable() or name.startswith((".", "-", " ")) or set(name) & set('/\\:*?"<>|'):
        raise InputError(f"no file can be called {name[:40]!r}", "name the case with letters, digits, - and _")
    return name


def _alike(name: str) -> str:
    """The same for names that are one file's on some systems."""
    return unicodedata.normalize("NFC", name).casefold()
