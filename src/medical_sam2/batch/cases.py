"""Folders of images and their prompts: what belongs together, and what of it can be checked before anything is tracked.

Three layouts of folders are known: nnU-Net's (imagesTr, imagesTs, files CASE_0000), BIDS (sub-01/[ses-1/]anat), and any tree of
volumes and folders with DICOM series.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from medical_sam2.batch import BatchCase, MaskFile, PromptFile, PromptSource, TemplateFiles
from medical_sam2.batch.table import TABLES, Check, TableRow, check_name, raise_together, read_table
from medical_sam2.data.data_sets import CHANNEL, FOLDERS, stem
from medical_sam2.errors import ConfigError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io.label_grid import read_as_image, reorient
from medical_sam2.io.labels import AS_DRAWN, MaskRule
from medical_sam2.io.prompt_file import check_limits_given_once
from medical_sam2.io.registry import DICOM, SLICER, Options, data_suffixes, read_grid, recognise, suffixes
from medical_sam2.prompts import Prompt, is_solid_box
from medical_sam2.tracking.plan import plan_tracking
from medical_sam2.views import THREE_VIEWS
from medical_sam2.volume import Volume

BESIDE = ".prompts.json"
"""Ending of a file of prompts that lies beside its image."""
ANATOMY = ("sub-*/anat", "sub-*/ses-*/anat")
MOST_PAIRS = 60


@dataclass(frozen=True)
class FoundCases:
    """What a folder, or a table, holds."""

    cases: tuple[BatchCase, ...]  # images with prompts, in order
    unprompted: tuple[str, ...] = ()  # names of images without any
    unused: tuple[Path, ...] = ()  # files of prompts that belong to no image
    notes: tuple[str, ...] = ()  # what was guessed, one line each


def find_cases(
    what: Path,
    prompts: Path | None = None,
    *,
    channel: int = 0,
    rule: MaskRule = AS_DRAWN,
    leave_out: Collection[Path] = (),
    template: TemplateFiles | None = None,
    check: Check = lambda _: [],
) -> FoundCases:
    """The cases of a table, or of a folder with images.

    Args:
        what: a table that names images, or a folder.
        prompts: of a folder: a table, or a folder with files of prompts or masks that are called as their images; unless
            given, `NAME.prompts.json` beside each image.
        channel: that is outlined, of images with several.
        rule: how the numbers of masks are meant.
        leave_out: folders within it that hold no images of this work, such as that of the results.
        template: an annotated volume, whose objects are looked for in all images but itself, prompted or not.
        check: tells what else is wrong with the other rows of a table where some cannot be used.

    Raises:
        InputError: nothing there, nothing that is prompted, or prompts of no image.
        FormatError: a table that cannot be used.
    """
    if not what.exists():
        raise InputError("does not exist", "check the path", subject=what)
    if not what.is_dir():
        if prompts is not None:
            raise InputError("the table holds the prompts already", "give a folder of images with --prompts", subject=what)
        rows = tuple(read_table(what, rule=rule, bare=template is not None, check=check))
        return _by_template(FoundCases(rows), {}, template, what)
    if prompts is not None and not prompts.exists():
        raise InputError("does not exist", "check the path", subject=prompts)
    inner = [*leave_out, *([prompts] if prompts is not None and prompts.is_dir() else [])]
    images, notes = find_images(what, channel=channel, leave_out=inner)
    if not images:
        raise InputError("there is no volume in it", "give a folder with volumes or DICOM series, or a table", subject=what)
    if prompts is not None and prompts.suffix.lower() in TABLES and not prompts.is_dir():
        rows = read_table(prompts, images, rule, check, bare=template is not None)
        prompted, unused = {case.name: case for case in rows}, list[Path]()
    else:
        prompted, unused = _pair(images, _sources_beside(images) if prompts is None else _sources_in(prompts, rule))
    if not prompted and template is None:
        remedy = f"write {BESIDE.join(('NAME', ''))} beside them, or say --prompts with a table or a folder"
        raise InputError(f"none of its {len(images)} images has prompts", remedy, subject=what)
    unprompted = tuple(name for name in images if name not in prompted)
    found = FoundCases(tuple(prompted.values()), unprompted, tuple(unused), tuple(notes))
    return _by_template(found, images, template, what)


def _by_template(found: FoundCases, images: Mapping[str, BatchCase], template: TemplateFiles | None, what: Path) -> FoundCases:
    """The same with a template for all images, also those that nobody prompted, but the template's own files."""
    if template is None:
        return found
    named = {**images, **{case.name: case for case in found.cases}}
    own = [name for name, case in named.items() if any(_same(case.image, file) for file in (template.image, template.mask))]
    cases = tuple(replace(case, template=template) for name, case in named.items() if name not in own)
    if not cases:
        raise InputError("there is no volume in it beside the template", "add those to be outlined", subject=what)
    notes = (f"of the template, and not outlined: {', '.join(own)}",) if own else ()
    return FoundCases(cases, (), found.unused, (*found.notes, *notes))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def find_images(folder: Path, *, channel: int = 0, leave_out: Collection[Path] = ()) -> tuple[dict[str, BatchCase], list[str]]:
    """The images of a folder by the names of their cases, sorted, without prompts; and what was guessed.

    Raises:
        InputError: two images of one name, or a channel that an image lacks.
    """
    raw = [part for part in (folder / images for images, _ in FOLDERS.values()) if part.is_dir()]
    anatomy = [part for pattern in ANATOMY for part in folder.glob(pattern) if part.is_dir()]
    if raw:
        found = [(stem(path), path) for part in raw for path in _volumes(part, ())]
    elif anatomy:
        found = [(stem(path), path) for part in sorted(anatomy) for path in _volumes(part, ())]
    else:
        found = [(_place(path, folder), path) for path in _volumes(folder, [os.path.realpath(part) for part in leave_out])]
    named: dict[str, dict[int, Path]] = {}
    numbered = bool(found) and all(CHANNEL.fullmatch(name) for name, _ in found)
    for name, path in found:
        parts = CHANNEL.fullmatch(name) if numbered else None
        own = named.setdefault(check_name(parts["case"] if parts else name), {})
        if (twin := own.setdefault(int(parts["channel"]) if parts else 0, path)) != path:
            raise InputError(f"{twin} and this image would both be the case {name}", "rename one of them", subject=path)
    images = {name: _of_channels(name, files, channel) for name, files in sorted(named.items())}
    several = sum(len(case.channels) > 1 for case in images.values())
    notes = [f"{several} images have several channels: channel {channel:04d} is outlined (--channel)"] if several else []
    return images, notes


def _of_channels(name: str, files: Mapping[int, Path], channel: int) -> BatchCase:
    if channel not in files:
        given = ", ".join(f"{number:04d}" for number in sorted(files))
        raise InputError(
            f"case {name} has no channel {channel:04d}", f"choose one of {given}", subject=files[min(files)].parent
        )
    return BatchCase(name, files[channel], channels=tuple(files[number] for number in sorted(files)) if len(files) > 1 else ())


def _place(path: Path, folder: Path) -> str:
    """What an image is called by its place: folders and name, joined by underscores."""
    parts = path.relative_to(folder).parts
    return "_".join((*parts[:-1], stem(path)))


def _volumes(folder: Path, leave_out: Collection[str]) -> Iterator[Path]:
    """Files that are volumes, and folders of DICOM files, hidden ones and halves of images left out; sorted."""
    endings, others = suffixes("volume", headers=True), (*SLICER.suffixes, *data_suffixes())
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(place, name)) not in leave_out
        )
        files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        if any(_is_dicom(file) for file in files[:3]):
            yield Path(place)
            folders.clear()
            continue
        for file in files:
            name, unpacked = file.name.lower(), file.name.lower().removesuffix(".gz")
            if (name.endswith(endings) or unpacked.endswith(endings)) and not unpacked.endswith(others):
                yield file


def _is_dicom(file: Path) -> bool:
    with suppress(MedicalSam2Error):
        return recognise(file) is DICOM
    return False


def _sources_beside(images: Mapping[str, BatchCase]) -> dict[str, PromptSource]:
    """Files of prompts beside their images, by the names of the cases."""
    found: dict[str, PromptSource] = {}
    for name, case in images.items():
        beside = [case.image.with_name(each + BESIDE) for each in dict.fromkeys((stem(case.image), name))]
        if file := next((path for path in beside if path.is_file()), None):
            found[name] = PromptFile(file)
    return found


def _sources_in(folder: Path, rule: MaskRule) -> dict[str, PromptSource]:
    """Files of prompts and masks of a folder, by their places in it; raises InputError for none, or two of one name."""
    if not folder.is_dir():
        raise InputError(
            "this is neither a folder nor a table", f"give a folder, or one of {', '.join(TABLES)}", subject=folder
        )
    found: dict[str, PromptSource] = {}
    masks = (*suffixes("volume", headers=True), *SLICER.suffixes)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.name.lower()
        if not name.endswith((".json", *masks)) or name.endswith(tuple(data_suffixes())):
            continue
        source = PromptFile(path) if name.endswith(".json") else MaskFile(path, rule)
        own = _place(path, folder).removesuffix(".prompts").removesuffix(".seg")
        if own in found:
            raise InputError(f"{found[own].files[0].name} and this file would both prompt {own}", "remove one", subject=path)
        found[own] = source
    return found


def _pair(images: Mapping[str, BatchCase], sources: Mapping[str, PromptSource]) -> tuple[dict[str, BatchCase], list[Path]]:
    """Images with what prompts them, by the name of the case or of the file; sources of no image."""
    prompted: dict[str, BatchCase] = {}
    used = set[str]()
    for name, case in images.items():
        own = [key for key in dict.fromkeys((name, stem(case.image))) if key in sources]
        if own:
            prompted[name] = replace(case, prompts=(sources[own[0]],))
            used.add(own[0])
    return prompted, [source.files[0] for name, source in sources.items() if name not in used]


# A row that is wrong is found in a second; the same row found after a night of tracking costs a night.
def check_cases(cases: Sequence[BatchCase], options: Options, views: str, subject: Path) -> dict[str, Volume]:
    """Check prompts against the grids of their images, as far as headers tell; no voxel is decoded.

    Args:
        cases: all of them.
        options: how images are read.
        views: that are tracked.
        subject: the table or the folder, for messages.

    Returns:
        Case → a volume of zeros in the grid of its image, where the header has it. Images that cannot be read are left to
        their turn: they cost their own row, not the others'.

    Raises:
        InputError: prompts that cannot work; several are notes of the error, one line each.
    """
    grids, problems = _find_faults(cases, options, views)
    raise_together(problems, subject)
    return grids


def find_faulty_rows(cases: Sequence[BatchCase], options: Options) -> list[MedicalSam2Error]:
    """What is wrong with single rows of a table, some of whose other rows cannot be used."""
    return _find_faults(cases, options, None)[1]


def _find_faults(
    cases: Sequence[BatchCase], options: Options, views: str | None
) -> tuple[dict[str, Volume], list[MedicalSam2Error]]:
    """Grids, and what is wrong with the prompts in them; without views, with each by itself."""
    grids: dict[str, Volume] = {}
    problems: list[MedicalSam2Error] = []
    for case in cases:
        with suppress(MedicalSam2Error):
            if (grid := read_grid(case.image, options)) is not None:
                grids[case.name] = grid
        if case.name in grids:
            problems += _check_case(case, grids[case.name], views)
    return grids, problems


def _check_case(case: BatchCase, grid: Volume, views: str | None) -> list[MedicalSam2Error]:
    """What is wrong with the prompts of an image; masks are compared by their grids alone."""
    problems: list[MedicalSam2Error] = []
    checked: list[tuple[TableRow, tuple[Prompt, ...]]] = []
    for row in (source for source in case.prompts if isinstance(source, TableRow)):
        try:
            if row.key == "masks":
                _check_mask(row, grid)
            else:
                checked.append((row, row.read(grid).prompts))
        except MedicalSam2Error as error:
            problems.append(error)
    problems += _contradictions(checked, grid)
    if (
        problems
        or views is None
        or any(file for source in case.prompts if isinstance(source, MaskFile | TableRow) for file in source.files)
    ):
        return problems
    try:
        prompts = [prompt for source in case.prompts for prompt in _without_masks(source, grid)]
        if prompts:
            check_limits_given_once(prompts)
            plan_tracking(grid, prompts, views)
    except ConfigError:  # of the views: no prompt is to blame
        raise
    except MedicalSam2Error as error:
        rows = [row.where for row, _ in checked]
        return [error.about(rows[0] + f" and the other rows of {case.name}" * (len(rows) > 1) if rows else case.name)]
    return []


def _without_masks(source: PromptSource, grid: Volume) -> tuple[Prompt, ...]:
    """The prompts of a source that names no mask; none where it does."""
    if isinstance(source, PromptFile):
        return source.read(grid).prompts if len(source.files) == 1 else ()
    return source.read(grid).prompts


def _check_mask(row: TableRow, grid: Volume) -> None:
    """Refuse a mask of another grid, where its header tells it."""
    (path,) = row.files
    own = None
    with suppress(MedicalSam2Error):
        own = read_as_image(read_grid, path, Options(), grid)
    if own is not None:
        try:
            reorient(own, grid)
        except MedicalSam2Error as error:
            error.subject = f"{row.where}: {path}"
            raise


def _contradictions(rows: Sequence[tuple[TableRow, tuple[Prompt, ...]]], grid: Volume) -> list[MedicalSam2Error]:
    """Two rows of an object that cannot both be followed."""
    if len(rows) > MOST_PAIRS:  # tracking would tell the same of them, without their numbers
        return []
    problems: list[MedicalSam2Error] = []
    for (first, ones), (second, others) in combinations(rows, 2):
        pairs = [(one, other) for one in ones for other in others if one.object == other.object]
        try:
            for one, other in pairs:
                _check_together(one, other, grid)
        except PromptError as error:
            where = f"{second.where} and {first.where.rpartition(', ')[2]}"
            problems.append(PromptError(error.problem, error.remedy, subject=where))
    return problems


def _check_together(one: Prompt, other: Prompt, grid: Volume) -> None:
    if is_solid_box(one) != is_solid_box(other):  # whose rectangle gives way to what says more
        return
    for view in THREE_VIEWS:
        ours, theirs = (prompt.project(view, grid.shape, grid.orientation) for prompt in (one, other))
        for t in ours.keys() & theirs.keys():
            ours[t].joined(theirs[t], one.object, f"one {view.name} slice")
