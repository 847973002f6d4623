"""What many cases leave: labels in a layout, a report of each case, one table of all objects, a sheet of the least sure ones.

A case is done when its report (`cases/NAME.json`) is there: it is written last, and names what was written before it.
"""

import csv
import io as text_io
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io, preview
from medical_sam2.batch import BatchCase, contents, hash_files
from medical_sam2.data.data_sets import DESCRIPTION, is_data_set
from medical_sam2.errors import ConfigError, InputError, MedicalSam2Error
from medical_sam2.intensity_window import Window
from medical_sam2.io import atomic
from medical_sam2.io.labels import object_boxes
from medical_sam2.io.registry import Options, read_grid
from medical_sam2.io.voxels import round_ml, volume_ml
from medical_sam2.plugins import find
from medical_sam2.tracking.finishing import FinishingChange
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

VERSION = 1
REPORTS, RESULTS, SECONDS, SHEET = "cases", "results", "seconds", "least_sure.png"
NIFTI = ".nii.gz"
CHANGED = "its labels were changed since (by hand?)"
MOST_TILES, TILE_PX, TILE_COLUMNS = 24, 260, 6
COLUMNS = ("case", "object", "name", "voxels", "volume_ml", "confidence", "template", "slices_to_look_at", "warnings", "error")


@dataclass(frozen=True)
class FoundObject:
    """One object of a case."""

    label: int  # its number
    name: str  # of the structure, "" where it has none
    voxels: int  # that it has; 0 where it was not found
    volume_ml: float | None  # its volume in mL; None where millimetres mean nothing
    # mean predicted IoU of the slices on which it was outlined and that nobody prompted, 0 where it was not found; None where
    # all were prompted
    confidence: float | None
    look_at: tuple[str, ...] = ()  # slices to look at first, such as "k37": axis of the file and index
    least_sure: tuple[str, int] | None = None  # view and slice of its least sure outline
    window: tuple[float, float] | None = None  # intensities that became black and white
    template: str = ""  # by which it was looked for, "" where it was prompted


@dataclass(frozen=True)
class CaseOutcome:
    """What came of a case."""

    case: str  # its name
    objects: tuple[FoundObject, ...] = ()  # by label
    files: tuple[str, ...] = ()  # that were written, relative to the folder of the results; the labels last
    warnings: tuple[str, ...] = ()  # one line each
    finishing: tuple[FinishingChange, ...] = ()  # what each step did to each object
    problem: str = ""  # why it failed, "" if it did not
    exit_code: int = 0  # of the command, for that: 0, 2, 3, 4 or 70
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])  # step → time that it took
    key: str = ""  # hash of settings, weights and prompts that it was made with
    image_sha256: str = ""  # of the content of its image
    labels_sha256: str = ""  # of the labels as they were written, "" where an earlier version wrote them
    modality: str | None = None  # of the image, where known
    skipped: bool = False  # whether an earlier run made it

    @property
    def surest(self) -> float:
        """Confidence of its least sure object; 1 where nothing was left to be sure of."""
        return min((each.confidence for each in self.objects if each.confidence is not None), default=1.0)


def describe_objects(volume: Volume, found: Segmentation) -> tuple[FoundObject, ...]:
    """The objects of a segmentation, those that were not found among them."""
    boxes = object_boxes(found.labels)
    labels = sorted({*boxes, *found.names, *(row.object for row in found.confidence)})
    return tuple(_describe_object(volume, found, label, label in boxes) for label in labels)


def _describe_object(volume: Volume, found: Segmentation, label: int, there: bool) -> FoundObject:
    voxels = int(np.count_nonzero(found.labels == label)) if there else 0
    rows = [row for row in found.confidence if row.object == label]
    tracked = [row for row in rows if row.area_px and not row.prompted]
    sure = found.mean_confidence(label) if tracked or there else 0.0
    least = min(tracked or [row for row in rows if row.area_px] or rows, key=lambda row: row.confidence, default=None)
    seen = found.windows.get(label)
    look = [row for row in rows if row.look_here and (there or not row.area_px)]  # not at what finishing took away
    return FoundObject(
        label,
        found.names.get(label, ""),
        voxels,
        round_ml(volume_ml(voxels, volume)),
        sure if sure is None else round(sure, 4),
        tuple(dict.fromkeys(_place(row, volume.orientation) for row in look)),
        None if least is None else (least.view, least.slice),
        None if seen is None else (float(seen.low), float(seen.high)),
    )


def _place(row: SliceConfidence, axes: str) -> str:
    return f"{'ijk'[View(row.view).order(axes)[0]]}{row.slice}"


def save_outcome(outcome: CaseOutcome, folder: Path) -> None:
    """Write the report of a case: from now on it is done."""
    content = {
        "version": VERSION,
        **{name: value for name, value in asdict(outcome).items() if name not in ("skipped", "problem", "exit_code")},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    atomic.write_bytes(report_of(outcome.case, folder), f"{text}\n".encode())
    end_outcome(outcome.case, folder)


def load_outcome(case: str, folder: Path) -> CaseOutcome | None:
    """What an earlier run left of a case; None where it is not done: no report, a broken one, or a result that is gone."""
    path = report_of(case, folder)
    try:
        content = io.load_json(path, newest=VERSION)
        del content["version"]
        objects = [_object(each) for each in content.pop("objects")]
        lists: dict[str, Any] = {name: tuple(content.pop(name)) for name in ("files", "warnings")}
        finishing = tuple(FinishingChange(**each) for each in content.pop("finishing"))
        found = CaseOutcome(**content, **lists, objects=tuple(objects), finishing=finishing, skipped=True)
    except (InputError, KeyError, TypeError):
        return None
    return found if found.case == case and all((folder / file).exists() for file in found.files) else None


# A label map without a report may be somebody's work; where a run was killed, this tells that it is not.
def begin_outcome(case: str, folder: Path) -> None:
    """Say that the labels of a case are about to be written; an earlier report does not stand for them."""
    atomic.write_bytes(_mark_of(case, folder), b"")
    report_of(case, folder).unlink(missing_ok=True)


def is_begun(case: str, folder: Path) -> bool:
    """Whether a run was stopped while it wrote the labels of a case: those that are there are its own."""
    return _mark_of(case, folder).exists()


def end_outcome(case: str, folder: Path) -> None:
    """A case is done: its report tells all."""
    _mark_of(case, folder).unlink(missing_ok=True)


def _mark_of(case: str, folder: Path) -> Path:
    return folder / REPORTS / f".{case}.begun"


def _object(content: Mapping[str, Any]) -> FoundObject:
    lists: dict[str, Any] = {
        name: None if content[name] is None else tuple(content[name]) for name in ("look_at", "least_sure", "window")
    }
    return FoundObject(**{**content, **lists})


def report_of(case: str, folder: Path) -> Path:
    """The report of a case."""
    return folder / REPORTS / f"{case}.json"


def load_others(folder: Path, names: Collection[str]) -> tuple[CaseOutcome, ...]:
    """What earlier runs left in a folder of other cases than these, by name."""
    there = sorted(path.stem for path in (folder / REPORTS).glob("*.json"))
    found = [outcome for case in there if case not in names and (outcome := load_outcome(case, folder)) is not None]
    return tuple(measure_again(each, folder) if is_changed(each, folder) else each for each in found)


def is_changed(outcome: CaseOutcome, folder: Path) -> bool:
    """Whether the labels of a case are others than were written; where no hash of them was kept, nothing is claimed."""
    return bool(outcome.labels_sha256) and hash_files([folder / outcome.files[-1]]) != outcome.labels_sha256


def is_current(found: CaseOutcome, key: str, case: BatchCase, folder: Path) -> bool:
    """Whether a result was made with what this key stands for, of an image that is older than it or of the same content."""
    if found.key != key:
        return False
    with suppress(OSError):
        files = contents(case)
        made = report_of(case.name, folder).stat().st_mtime
        return max(file.stat().st_mtime for file in files) <= made or hash_files(files) == found.image_sha256
    return True  # the image is gone, and its result is there


def measure_again(
    outcome: CaseOutcome, folder: Path, image: Path | None = None, reading: Mapping[str, Any] | None = None
) -> CaseOutcome:
    """The same with voxels and volumes of the labels as they are now; what cannot be measured is its problem.

    Args:
        outcome: of labels that somebody changed.
        folder: of the results.
        image: that they belong to; without it the labels must tell their grid themselves.
        reading: arguments of `io.load`.
    """
    labels = folder / outcome.files[-1]
    try:
        like = read_grid(labels if image is None else image, Options(**(reading or {})))
        if like is None and image is None:
            raise InputError("they are measured beside their image alone", "name it in the table, too", subject=labels)
        like = like or io.load(image or labels, **(reading or {}))
        objects = _count_objects(outcome.objects, labels, like)
    except MedicalSam2Error as error:
        problem = f"{CHANGED}, and cannot be measured: {error.about(labels)}"
        return replace(outcome, objects=(), problem=problem, exit_code=error.exit_code)
    note = f"{CHANGED}: measured anew; confidence and slices to look at are of those that were made"
    return replace(outcome, objects=objects, warnings=(*outcome.warnings, note))


def _count_objects(known: Iterable[FoundObject], labels: Path, like: Volume) -> tuple[FoundObject, ...]:
    """Those that are known and those that somebody added, with the voxels that they have in a file of labels."""
    volume, described = io.load_named_labels(labels, like)
    array: NDArray[Any] = volume.array
    counts = {label: int(np.count_nonzero(array[box] == label)) for label, box in object_boxes(array).items()}
    own = {each.label: each for each in known}
    for each in described:
        if each.label in counts:
            own.setdefault(each.label, FoundObject(each.label, each.name, 0, 0.0, None))
    voxels = {label: counts.get(label, 0) for label in sorted(own)}
    return tuple(replace(own[label], voxels=n, volume_ml=round_ml(volume_ml(n, like))) for label, n in voxels.items())


def write_tables(outcomes: Iterable[CaseOutcome], folder: Path, part: str = "") -> None:
    """Write one row for each object and failed case, in the order given; times apart, for they differ from run to run."""
    outcomes = list(outcomes)
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    _write_table(folder / f"{RESULTS}{part}.csv", COLUMNS, rows)
    steps = list(dict.fromkeys(step for outcome in outcomes for step in outcome.seconds))
    times = [{"case": each.case, **{f"{step}_s": seconds for step, seconds in each.seconds.items()}} for each in outcomes]
    _write_table(folder / f"{SECONDS}{part}.csv", ["case", *(f"{step}_s" for step in steps)], times)


def _rows(outcome: CaseOutcome) -> list[dict[str, Any]]:
    shared = {"case": outcome.case, "warnings": " | ".join(outcome.warnings), "error": outcome.problem}
    if not outcome.objects:
        return [shared]
    return [
        {
            **shared,
            "object": each.label,
            "name": each.name,
            "voxels": each.voxels,
            "volume_ml": each.volume_ml,
            "confidence": each.confidence,
            "template": each.template,
            "slices_to_look_at": " ".join(each.look_at),
        }
        for each in outcome.objects
    ]


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = text_io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_bytes(path, text.getvalue().encode())


# Made from the results, not while they are made: the same after any number of interruptions.
def save_sheet(
    outcomes: Iterable[CaseOutcome], cases: Mapping[str, BatchCase], folder: Path, reading: Mapping[str, Any]
) -> None:
    """Write a picture of the least sure cases, each on the slice of its least sure outline; none where there is no case."""
    chosen = sorted((each for each in outcomes if each.objects and not each.problem), key=lambda each: (each.surest, each.case))
    tiles: list[tuple[NDArray[np.uint8], NDArray[np.integer], str]] = []
    for outcome in chosen[:MOST_TILES]:
        with suppress(MedicalSam2Error):  # an image that is gone since has no tile
            tiles += _tile(outcome, cases[outcome.case], folder, reading)
    if tiles:
        pictures, masks, captions = zip(*tiles, strict=True)
        sheet = preview.contact_sheet(pictures, masks, captions, columns=TILE_COLUMNS, tile_px=TILE_PX)
        with atomic.writing(folder / SHEET) as stream:
            sheet.save(stream, "PNG")


def _tile(
    outcome: CaseOutcome, case: BatchCase, folder: Path, reading: Mapping[str, Any]
) -> list[tuple[NDArray[np.uint8], NDArray[np.integer], str]]:
    """The slice of the least sure outline, its labels and a caption; nothing where nothing was tracked."""
    outlined = (each for each in outcome.objects if each.least_sure and each.window)  # not so what was not found at all
    shown = min(outlined, key=lambda each: 1.0 if each.confidence is None else each.confidence, default=None)
    if shown is None or shown.least_sure is None or shown.window is None:
        return []
    image = io.load(case.image, **reading)
    labels = io.load_labels(folder / outcome.files[-1], image).array
    view, axes = View(shown.least_sure[0]), image.orientation
    t = view.slice_index(shown.least_sure[1], image.shape[view.order(axes)[0]], axes)
    picture = Window(*shown.window).as_bytes(view.apply(image.array, axes)[t])
    return [(picture, view.apply(labels, axes)[t], f"{preview.shorten(outcome.case, 24)}  {outcome.surest:.2f}")]


class ResultLayout(Protocol):
    """How results lie in their folder."""

    def check(self, cases: Sequence[BatchCase], suffix: str) -> None:
        """Refuse cases that cannot lie so."""
        ...

    def labels(self, case: BatchCase, suffix: str) -> str:
        """The file of labels, relative to the folder of the results."""
        ...

    def add_image(self, case: BatchCase, image: Volume, folder: Path, reading: Mapping[str, Any]) -> tuple[str, ...]:
        """Put the image beside its labels, where the layout wants it; the files."""
        ...

    def describe(self, outcomes: Sequence[CaseOutcome], cases: Sequence[BatchCase]) -> Mapping[str, str]:
        """Files that speak of all cases → their content."""
        ...


class PlainLayout:
    """NAME.nii.gz, or another format."""

    def check(self, cases: Sequence[BatchCase], suffix: str) -> None:
        """Anything can lie so."""

    def labels(self, case: BatchCase, suffix: str) -> str:
        """As the case is called."""
        return f"{case.name}{suffix}"

    def add_image(self, case: BatchCase, image: Volume, folder: Path, reading: Mapping[str, Any]) -> tuple[str, ...]:
        """Images stay where they are."""
        return ()

    def describe(self, outcomes: Sequence[CaseOutcome], cases: Sequence[BatchCase]) -> Mapping[str, str]:
        """Nothing but the tables."""
        return {}


class BidsLayout(PlainLayout):
    """Derivatives of BIDS: sub-01/[ses-1/]anat/sub-01_…_dseg.nii.gz, in the space of the image that `desc` names."""

    def check(self, cases: Sequence[BatchCase], suffix: str) -> None:
        """Refuse other formats than NIfTI, and names that are told apart by what BIDS allows in none."""
        _only_nifti(suffix, "bids")
        places: dict[str, str] = {}
        for case in cases:
            if (other := places.setdefault(self.labels(case, suffix), case.name)) != case.name:
                raise InputError(f"cases {other} and {case.name} would have one name in BIDS", "rename one")

    def labels(self, case: BatchCase, suffix: str) -> str:
        """After the entities of the image's own name; other names become a subject."""
        found = re.fullmatch(
            r"(?P<entities>(?P<sub>sub-[A-Za-z0-9]+)(_[a-z]+-[A-Za-z0-9]+)*)_(?P<kind>[A-Za-z0-9]+)", case.name
        )
        if found is None:
            subject = f"sub-{re.sub('[^A-Za-z0-9]', '', case.name)}"
            return f"{subject}/anat/{subject}_dseg{suffix}"
        session = re.search("_(ses-[A-Za-z0-9]+)", found["entities"])
        place = "/".join((found["sub"], *(session.groups() if session else ()), "anat"))
        entities = re.sub("_desc-[A-Za-z0-9]+", "", found["entities"])
        return f"{place}/{entities}_desc-{found['kind']}_dseg{suffix}"

    def describe(self, outcomes: Sequence[CaseOutcome], cases: Sequence[BatchCase]) -> Mapping[str, str]:
        """What the labels mean, and who made them."""
        names = names_of_all(outcomes)
        made_by = {"Name": "medical-sam2"}
        about = {"Name": "Outlines", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [made_by]}
        table = "".join(f"{label}\t{name}\n" for label, name in {0: "background", **names}.items())
        return {
            "dataset_description.json": json.dumps(about, indent=1) + "\n",
            "dseg.tsv": f"index\tname\n{table}",
            ".bidsignore": f"{REPORTS}/\n{RESULTS}*.csv\n{SECONDS}*.csv\n{SHEET}\n",
        }


class NnunetLayout(PlainLayout):
    """A raw data set of nnU-Net, images as links, so that a network can be trained on labels once they are corrected."""

    def check(self, cases: Sequence[BatchCase], suffix: str) -> None:
        """Refuse other formats than packed NIfTI."""
        _only_nifti(suffix, "nnunet")

    def labels(self, case: BatchCase, suffix: str) -> str:
        """Under the name of the case."""
        return f"labelsTr/{case.name}{suffix}"

    def add_image(self, case: BatchCase, image: Volume, folder: Path, reading: Mapping[str, Any]) -> tuple[str, ...]:
        """Link files that are packed NIfTI already; write others as such, in the grid that labels have."""
        (folder / "imagesTr").mkdir(exist_ok=True)
        written: list[str] = []
        for number, source in enumerate(case.channels or (case.image,)):
            name = f"imagesTr/{case.name}_{number:04d}{NIFTI}"
            if source.name.endswith(NIFTI) and source.is_file():
                _link(source, folder / name)
            else:
                channel = image if source == case.image else io.load(source, **reading)
                io.save(channel.array, folder / name, channel)
            written.append(name)
        return tuple(written)

    def describe(self, outcomes: Sequence[CaseOutcome], cases: Sequence[BatchCase]) -> Mapping[str, str]:
        """The description of the data set; channels are called as those of the data set that they come from."""
        done = [each for each in outcomes if not each.problem]
        first = next((case for case in cases if done and case.name == done[0].case), None)
        if first is None:
            return {}
        count = max(1, len(first.channels))
        kinds = {each.modality for each in done}
        kind = next(iter(kinds)) if len(kinds) == 1 else None
        given = _channel_names(first)
        channels = (
            given
            if len(given) == count
            else {str(n): (kind or "unknown") if count == 1 else f"channel_{n}" for n in range(count)}
        )
        labels = {"background": 0, **{name: label for label, name in names_of_all(outcomes).items()}}
        about = {"channel_names": channels, "labels": labels, "numTraining": len(done), "file_ending": NIFTI}
        return {DESCRIPTION: json.dumps(about, indent=1, ensure_ascii=False) + "\n"}


LAYOUTS: Mapping[str, type[ResultLayout]] = {"plain": PlainLayout, "bids": BidsLayout, "nnunet": NnunetLayout}


def find_layout(name: str) -> ResultLayout:
    """How results lie; raises ConfigError if nobody knows the name."""
    return find(LAYOUTS, name, what="layout", makes=ResultLayout)()


def _only_nifti(suffix: str, layout: str) -> None:
    if suffix != NIFTI:
        raise ConfigError(f"the layout {layout} has {NIFTI} files alone", "leave --suffix out")


def _channel_names(case: BatchCase) -> dict[str, str]:
    folder = case.image.parent.parent
    named = io.load_json(folder / DESCRIPTION, newest=None).get("channel_names") if is_data_set(folder) else None
    return {str(key): str(value) for key, value in named.items()} if isinstance(named, dict) else {}


def names_of_all(outcomes: Iterable[CaseOutcome]) -> dict[int, str]:
    """Label → name in all cases; raises as `join_names` does."""
    return join_names((each.case, {found.label: found.name for found in each.objects}) for each in outcomes)


def join_names(cases: Iterable[tuple[str, Mapping[int, str]]]) -> dict[int, str]:
    """Label → name in all cases; `object_2` where none has one.

    Args:
        cases: name of a case, and label → name of its objects, "" where one has none.

    Raises:
        InputError: a label means one structure in one case and another one elsewhere, or two labels mean one.
    """
    names: dict[int, tuple[str, str]] = {}
    for case, objects in cases:
        for label, own in objects.items():
            name, before = names.get(label, ("", case))
            if name and own and name != own:
                problem = f"object {label} is called {name} in {before} and {own} in {case}"
                raise InputError(problem, "number structures alike in all cases: this layout has one list of names")
            names[label] = (name or own, before if name else case)
    found = {label: name or f"object_{label}" for label, (name, _) in sorted(names.items())}
    if twin := next((name for name in found.values() if list(found.values()).count(name) > 1), None):
        one, other, *_ = (label for label, name in found.items() if name == twin)
        raise InputError(
            f"objects {one} and {other} are both called {twin}", "name them apart: this layout has one list of names"
        )
    return found


def _link(source: Path, target: Path) -> None:
    """A link to the file, or a copy where links cannot be; whole or not at all."""
    if target.exists() and target.samefile(source):
        return
    hidden = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        hidden.symlink_to(source.resolve())
        os.replace(hidden, target)
    except OSError:
        hidden.unlink(missing_ok=True)
        with source.open("rb") as stream, atomic.writing(target) as copy:
            shutil.copyfileobj(stream, copy)
