"""The files of the command line: options for them, checks before anything is computed, writing whole or not at all."""

import json
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Group, Parameter

from medical_sam2 import io, preview, statistics
from medical_sam2.cli import TRACEBACK, explain
from medical_sam2.cli.options import FLAG, REPEATED
from medical_sam2.errors import DEFECT, ConfigError, InputError, MedicalSam2Error
from medical_sam2.io import Form, atomic, label_table, registry
from medical_sam2.io.prompt_file import NamedPrompts
from medical_sam2.io.safe_open import as_stored, require_memory
from medical_sam2.plugins import suggestion
from medical_sam2.prompts import Prompt
from medical_sam2.volume import Segmentation, Volume

MAPS = ("probability", "uncertainty")
LIBRARY_BYTES = 750 << 20  # of addresses, as `ulimit -v` counts: torch before it computes anything
SUFFIXES: Mapping[str, Sequence[str]] = {
    "label_table": label_table.SUFFIXES,
    "confidence": (".csv",),
    "preview": (".png", ".jpg", ".jpeg", ".gif"),
    "statistics": (".csv", ".json"),
    "report": (".json",),
}


def check_memory_for_libraries() -> None:
    """Refuse to load torch where there is too little memory: a library that finds none may end the process without a word.

    Raises:
        ResourceError: there is.
    """
    if "torch" not in sys.modules:
        require_memory(LIBRARY_BYTES, "torch", what="loading it")


@Parameter(name="*", group=Group("Reading", sort_key=4))
@dataclass(frozen=True)
class Reading:
    """How the image is read where that is not clear.

    Args:
        geometry_from: which form of a NIfTI file, and of its labels, counts where the two contradict each other.
        frame: time point or page, from 0.
        series: DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: interpolate missing DICOM slices.
    """

    geometry_from: Form | None = None
    frame: int | None = None
    series: str | None = None
    allow_gap: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Output", sort_key=2))
@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Args:
        output: labels, in the format that its suffix names.
        separate: each object in a file of its own, NAME-1 and so on; meshes of several objects (.stl, .ply) always are.
        label_table: names and colours beside the labels: .label (ITK-SNAP), .ctbl (3D Slicer), .txt (FreeSurfer), .tsv (BIDS).
        format: further format for that, a plug-in (module:attribute, file.py:attribute); again for more.
        probability: probability of the object; with several objects one file each (NAME-1 …).
        uncertainty: how much the views disagree.
        confidence: how sure the network was, slice by slice (.csv).
        preview: montage (.png, .jpg) or film (.gif).
        statistics: volume, place and intensity of each object (.csv, .json).
        report: what was done, with what and how (.json); nothing of the patient.
        overwrite: replace files that exist.
    """

    output: Annotated[Path, Parameter(alias="-o", help=f"labels: {registry.writable()}.")]
    separate: Annotated[bool, FLAG] = False
    label_table: Path | None = None
    format: Annotated[tuple[str, ...], REPEATED] = ()
    probability: Path | None = None
    uncertainty: Path | None = None
    confidence: Path | None = None
    preview: Path | None = None
    statistics: Path | None = None
    report: Path | None = None
    overwrite: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Output", sort_key=2))
@dataclass(frozen=True)
class SetOutputOptions:
    """What is written.

    Args:
        output: folder for the label maps (PNG, each of its image's size); made where it is missing.
        preview: all images with their outlines, the least sure first (.png, .jpg).
        statistics: area, place and intensity of each object on each image (.csv, .json).
        report: what was done, with what and how (.json); `medsam2 suggest` reads it.
        annotations: the same for other programs, in the folder of the label maps: coco, geojson (QuPath; one file for each
            image), label-studio, or a plug-in; again for more.
        skip_existing: go on: images stay whose label map is there, unless it was made with other settings, weights or prompts,
            which is refused.
        overwrite: replace files that exist.
    """

    output: Annotated[Path, Parameter(alias="-o")]
    preview: Path | None = None
    statistics: Path | None = None
    report: Path | None = None
    annotations: Annotated[tuple[str, ...], REPEATED] = ()
    skip_existing: Annotated[bool, FLAG] = False
    overwrite: Annotated[bool, FLAG] = False


def requested(outputs: OutputOptions) -> dict[str, Path]:
    """Option → file, of those that were requested."""
    return {option: path for option in ("output", *MAPS, *SUFFIXES) if (path := getattr(outputs, option)) is not None}


def list_outputs(outputs: OutputOptions, objects: Sequence[int], found: Segmentation | None = None) -> list[str]:
    """All files that will be written, those of single objects by their own names; once they are found, of those that were."""
    there = {None, *(objects if found is None else found.objects())}
    probable = objects if found is None else found.probability
    files = [file for label, file in _labels_files(outputs, objects).items() if label in there]
    files += [file for label, file in _probability_files(outputs, objects).items() if label in probable]
    if outputs.uncertainty is not None and (found is None or found.uncertainty is not None):
        files.append(outputs.uncertainty)
    files += [path for option, path in requested(outputs).items() if option not in ("output", *MAPS)]
    return [str(file) for file in files]


def _labels_files(outputs: OutputOptions, objects: Sequence[int]) -> dict[int | None, Path]:
    """Object → file of its labels; None → that of all of them, where they are not separated."""
    if not separated(outputs):
        return {None: outputs.output}
    return {**file_of_each(outputs.output, objects, outputs.format, numbered=outputs.separate)}


def _probability_files(outputs: OutputOptions, objects: Sequence[int]) -> dict[int, Path]:
    """Object → file of its probability."""
    return {} if outputs.probability is None else file_of_each(outputs.probability, objects, outputs.format)


def read(file: Path, reading: Reading) -> Volume:
    """The image, as it is to be read; errors name it."""
    with naming(file):
        return io.load(file, **vars(reading))


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file in errors that do not."""
    try:
        yield
    except MedicalSam2Error as error:
        raise error.about(file) from None


# All at once and before anything is read: an hour of tracking must not end with a file that cannot be written.
def check_files(inputs: Sequence[Path], corrected: Path | None, outputs: OutputOptions) -> None:
    """Refuse files that are not there, and whatever could not be written or would destroy an input but the corrected one.

    Raises:
        InputError: an unknown suffix, a folder that is missing or not writable, a file that exists, or one file for two things.
    """
    for path in inputs:
        if not as_stored(path).exists():
            raise InputError("does not exist", "check the path", subject=path)
    taken: dict[Path, str] = {}
    for option, path in requested(outputs).items():
        check_suffix(path, SUFFIXES.get(option) or registry.written("probability" if option in MAPS else None, outputs.format))
        check_inputs_kept(path, option, [other for other in inputs if other != corrected])
        twin = next((other for file, other in taken.items() if same(file, path)), None)
        if twin is not None:
            same_file = f"--{option} and --{twin} are the same file".replace("_", "-")
            raise InputError(same_file, "choose another one", subject=path)
        taken[path] = option
        check_place(path, outputs.overwrite)


def check_inputs_kept(path: Path, option: str, inputs: Sequence[Path]) -> None:
    """Refuse a file that would replace an input, or lie in a folder of slices."""
    if any(same(path, other) for other in inputs):
        raise InputError(f"--{option} would replace an input", "choose another file", subject=path)
    if any(other.is_dir() and same(path.parent, other) for other in inputs):
        raise InputError(f"--{option} would lie among the slices", "choose another folder", subject=path)


def check_further_files(outputs: OutputOptions, named: NamedPrompts, objects: Sequence[int]) -> None:
    """The same for files whose names depend on the objects, and for masks that a file of prompts names."""
    for option, path in requested(outputs).items():
        check_inputs_kept(path, option, named.files)
    further = _probability_files(outputs, named.labels)
    alone = _labels_files(outputs, objects) if separated(outputs) else {}
    for option, path in [("probability", path) for path in further.values()] + [("output", path) for path in alone.values()]:
        check_inputs_kept(path, option, named.files)
        check_place(path, outputs.overwrite)


def separated(outputs: OutputOptions) -> bool:
    """Whether each object is written to a file of its own."""
    return outputs.separate or registry.writer_of(outputs.output, outputs.format).one_object


def check_overlap(outputs: OutputOptions) -> None:
    """Refuse an output whose format holds one object at each voxel; raises ConfigError."""
    format = registry.writer_of(outputs.output, outputs.format)
    if "overlaps" not in format.carries and not separated(outputs):
        remedy = f"save to {', '.join(registry.written('overlaps', outputs.format))}, or add --separate"
        raise ConfigError(f"--overlap: {format.name} holds one object at each voxel", remedy, subject=outputs.output)


def describe_changed_names(outputs: OutputOptions, names: Mapping[int, str]) -> list[str]:
    """A line for each name that the format of the labels cannot hold as it is."""
    return registry.writer_of(outputs.output, outputs.format).describe_changed_names(names)


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, there or not."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)  # a link that leads in a circle is no error here


def file_of_each(path: Path, labels: Sequence[int], formats: Sequence[str] = (), *, numbered: bool = False) -> dict[int, Path]:
    """Label → file: the one that was named, or NAME-LABEL where there are several objects, or all are to be numbered."""
    if len(labels) == 1 and not numbered:
        return {labels[0]: path}
    suffix = _suffix(path, registry.written(plugins=formats))
    return {label: path.with_name(f"{path.name[: -len(suffix)]}-{label}{path.name[-len(suffix) :]}") for label in labels}


def check_suffix(path: Path, allowed: Sequence[str]) -> None:
    """Refuse a name with another ending."""
    if not _suffix(path, allowed):
        known = _suffix(path, (*registry.suffixes(), *registry.written()))  # of another thing, and no slip for one of these
        given, listed = known or path.suffix, ", ".join(sorted(allowed))
        remedy = suggestion(given, allowed) if given and not known else f"end its name in one of {listed}"
        raise InputError(f"nothing is written as {given or 'a file without a suffix'}", remedy, subject=path)


def _suffix(path: Path, allowed: Sequence[str]) -> str:
    name = path.name.lower()
    return max((suffix for suffix in allowed if name.endswith(suffix) and name != suffix), key=len, default="")


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or that exists and may not be replaced."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError("its folder does not exist", "create it first", subject=path)
    if path.is_dir():
        raise InputError("is a folder", "give a file name", subject=path)
    if path.is_symlink() and not path.exists():
        raise InputError("is a link that leads nowhere", "remove it, or choose another name", subject=path)
    if path.exists() and not overwrite:
        raise InputError("exists already", "choose another name, or replace it with --overwrite", subject=path)
    if not os.access(folder, os.W_OK):
        raise InputError("its folder is not writable", "choose another folder", subject=path)


Saver = Callable[[Path], Sequence[str] | None]
"""Writes a file; may return lines that say what it does not hold."""


class OutputWriter:
    """Files that are written one by one: what cannot be is noted, and costs no other.

    Args:
        notes: what files do not hold of what was outlined, filled as it goes.
        failed: file → why it could not be written, in one line; filled as it goes.
        code: exit code for that.
    """

    def __init__(self) -> None:
        self.notes, self.failed, self.code = list[str](), dict[Path, str](), 0

    def save(self, pieces: Iterable[tuple[Path, Saver]]) -> None:
        """Write further files, each whole or not at all."""
        for file, save in pieces:
            try:
                lines = save(file)
                self.notes += lines if isinstance(lines, list) else []
            except Exception as error:
                known = isinstance(error, MedicalSam2Error)
                text, code = explain(error.about(file) if known else error)
                if code == DEFECT and os.environ.get(TRACEBACK):
                    raise
                self.failed[file], self.code = text if known else f"{file}: {text}", max(code, self.code)

    def correct(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """A report whose files are those that are there, and which warns of the others."""
        missing, warnings = set(map(str, self.failed)), [*report["warnings"], *self.failed.values()]
        return {**report, "files": [file for file in report["files"] if file not in missing], "warnings": warnings}


def write(
    outputs: OutputOptions,
    volume: Volume,
    found: Segmentation,
    prompts: Sequence[Prompt],
    report: Mapping[str, Any],
    *,
    objects: Sequence[int],
) -> OutputWriter:
    """All files that were requested, as far as they can be written.

    The labels come last, so that after a run that was killed they are there only if all else is; but where there is no room
    left for them, they come first.

    Whatever stops it, an interrupt too: files that were not there before are gone again.
    """
    files, there = _labels_files(outputs, objects), {None, *found.objects()}
    labels = [*_label_savers(outputs, volume, found, {label: file for label, file in files.items() if label in there})]
    beside = [*_savers(outputs, volume, found, prompts), *_map_savers(outputs, volume, found, objects)]
    fresh = [file for file in map(Path, list_outputs(outputs, objects, found)) if not file.exists()]
    try:
        done = OutputWriter()
        done.save([*beside, *_report_saver(outputs, report, done), *labels])
        if any(file in done.failed for file, _ in labels):
            _remove(fresh)
            done = OutputWriter()
            done.save([*labels, *beside, *_report_saver(outputs, report, done)])
    except BaseException:
        _remove(fresh)
        raise
    absent = [
        f"{file.name} is not written: object {label} was not found" for label, file in files.items() if label not in there
    ]
    absent += _describe_left(outputs, {Path(file) for file in list_outputs(outputs, objects, found)})
    held = outputs.label_table is not None and outputs.label_table not in done.failed
    told = describe_changed_names(outputs, found.names)  # before anything was computed
    table = {note for note in done.notes if isinstance(note, registry.TableNote)}
    done.notes = [*absent, *(note for note in done.notes if note not in told and not (held and note in table))]
    return done


def _describe_left(outputs: OutputOptions, written: Container[Path]) -> Iterator[str]:
    """A line for each file of a single object that is there, by its name one of these, and was not written."""
    several = [outputs.output] if separated(outputs) else []
    for whole in [*several, *([] if outputs.probability is None else [outputs.probability])]:
        before, _, after = file_of_each(whole, [1], outputs.format, numbered=True)[1].name.rpartition("-1")
        for file in sorted(whole.parent.iterdir()):
            number = file.name.removeprefix(before + "-").removesuffix(after)
            if number.isdecimal() and file.name == f"{before}-{number}{after}" and file not in written:
                yield f"{file.name} is of an earlier run: remove it, or write somewhere else"


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _label_savers(
    outputs: OutputOptions, volume: Volume, found: Segmentation, files: Mapping[int | None, Path]
) -> Iterator[tuple[Path, Saver]]:
    """The files of labels with what writes them; maps of probability have files of their own."""
    whole = replace(found, probability={})
    for label, path in files.items():
        yield path, lambda file, label=label: io.save(_alone(whole, label), file, volume, formats=outputs.format)


def _map_savers(
    outputs: OutputOptions, volume: Volume, found: Segmentation, objects: Sequence[int]
) -> Iterator[tuple[Path, Saver]]:
    """The files of probability and uncertainty with what writes them."""
    files = {file: found.probability.get(label) for label, file in _probability_files(outputs, objects).items()}
    if outputs.uncertainty is not None:
        files[outputs.uncertainty] = found.uncertainty
    for path, array in files.items():
        if array is not None:
            yield path, lambda file, array=array: io.save(array, file, volume, formats=outputs.format)


# One line for each option: a table of them would need as many functions as there are branches here.
def _savers(
    outputs: OutputOptions, volume: Volume, found: Segmentation, prompts: Sequence[Prompt]
) -> Iterator[tuple[Path, Saver]]:
    """Each file beside the labels, but for maps and the report, with what writes it."""

    def table(file: Path) -> str:
        rows = statistics.measure(volume, found)
        return statistics.to_json(rows) + "\n" if file.suffix.lower() == ".json" else statistics.to_csv(rows)

    if outputs.label_table is not None:
        yield outputs.label_table, lambda file: label_table.save(found, file)
    if outputs.confidence is not None:
        yield outputs.confidence, _text(lambda _: statistics.slices_to_csv(found, volume.orientation))
    if outputs.preview is not None:
        yield outputs.preview, lambda file: preview.save(file, volume, found, prompts)
    if outputs.statistics is not None:
        yield outputs.statistics, _text(table)


def _report_saver(outputs: OutputOptions, report: Mapping[str, Any], done: OutputWriter) -> Iterator[tuple[Path, Saver]]:
    """The report, which tells what became of the files before it."""
    if outputs.report is not None:
        yield outputs.report, _text(lambda _: as_json(done.correct(report)))


def _text(make: Callable[[Path], str]) -> Saver:
    return lambda file: atomic.write_bytes(file, atomic.encode(make(file)))


def _alone(found: Segmentation, label: int | None) -> Segmentation:
    """One object of a segmentation, whole, with its label; None: all of it."""
    if label is None:
        return found
    labels = found.mask(label) * np.min_scalar_type(label).type(label)
    names, colours = ({key: each for key, each in own.items() if key == label} for own in (found.names, found.colours))
    return replace(found, labels=labels, layers=(), names=names, colours=colours)


def as_json(content: object) -> str:
    """JSON for a file."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
