"""The files that `medsam2 segment` reads and writes: checked before anything is computed, each written whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from medical_sam2 import io, preview, statistics
from medical_sam2.cli._options import OutputOptions, Reading
from medical_sam2.errors import InputError, MedicalSam2Error
from medical_sam2.io import atomic, registry
from medical_sam2.io.safe_open import as_stored
from medical_sam2.plugins import suggestion
from medical_sam2.prompts import Prompt
from medical_sam2.volume import Segmentation, Volume

MAPS = ("probability", "uncertainty")
SUFFIXES: Mapping[str, Sequence[str]] = {
    "confidence": (".csv",),
    "preview": (".png", ".jpg", ".jpeg", ".gif"),
    "statistics": (".csv", ".json"),
    "report": (".json",),
}


def asked(outputs: OutputOptions) -> dict[str, Path]:
    """Option → file, of those that were asked for."""
    return {option: path for option in ("output", *MAPS, *SUFFIXES) if (path := getattr(outputs, option)) is not None}


def check_inputs(inputs: Sequence[Path]) -> None:
    """Refuse a file that is not there.

    Raises:
        InputError: naming it.
    """
    for path in inputs:
        if not as_stored(path).exists():
            raise InputError("does not exist", "check the path", subject=path)


def read(file: Path, reading: Reading) -> Volume:
    """The image, as it is to be read; errors name it."""
    with blaming(file):
        return io.load(
            file,
            geometry_from=reading.geometry_from,
            frame=reading.frame,
            series=reading.series,
            allow_gap=reading.allow_gap,
        )


@contextmanager
def blaming(file: Path) -> Iterator[None]:
    """Name the file in errors that do not."""
    try:
        yield
    except MedicalSam2Error as error:
        raise error.about(file) from None


def check(outputs: OutputOptions, inputs: Sequence[Path]) -> None:
    """Refuse whatever could not be written, or would destroy an input.

    Args:
        outputs: what is to be written.
        inputs: files that are read, and never replaced.

    Raises:
        InputError: an unknown suffix, a folder that is missing or not writable, a file that exists, or one file for two things.
    """
    taken: dict[Path, str] = {}
    for option, path in asked(outputs).items():
        check_suffix(path, SUFFIXES.get(option) or registry.written("probability" if option in MAPS else None, outputs.format))
        if any(same(path, other) for other in inputs):
            raise InputError(f"--{option} would replace an input", "choose another file", subject=path)
        twin = next((other for file, other in taken.items() if same(file, path)), None)
        if twin is not None:
            raise InputError(f"--{option} and --{twin} are the same file", "choose another one", subject=path)
        taken[path] = option
        check_place(path, outputs.overwrite)


def check_each(outputs: OutputOptions, labels: Sequence[int]) -> None:
    """The same for files whose names depend on the objects."""
    if outputs.probability is not None:
        for path in of_each(outputs.probability, labels, outputs.format).values():
            check_place(path, outputs.overwrite)


def check_format(outputs: OutputOptions, volume: Volume) -> None:
    """Refuse a format that cannot be written beside these images, such as a DICOM-SEG of images that it cannot refer to."""
    registry.writer_of(outputs.output, outputs.format).check_source(volume, outputs.output)


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, there or not."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def of_each(path: Path, labels: Sequence[int], formats: Sequence[str] = ()) -> dict[int, Path]:
    """Label → file: the one that was named, or NAME-LABEL where there are several objects."""
    if len(labels) == 1:
        return {labels[0]: path}
    suffix = _suffix(path, registry.written("probability", formats))
    return {label: path.with_name(f"{path.name[: -len(suffix)]}-{label}{path.name[-len(suffix) :]}") for label in labels}


def check_suffix(path: Path, allowed: Sequence[str]) -> None:
    """Refuse a name with another ending."""
    if not _suffix(path, allowed):
        remedy = suggestion(path.suffix, allowed) if path.suffix else f"end its name in one of {', '.join(allowed)}"
        raise InputError(f"nothing is written as {path.suffix or 'a file without a suffix'}", remedy, subject=path)


def _suffix(path: Path, allowed: Sequence[str]) -> str:
    return next((suffix for suffix in allowed if path.name.lower().endswith(suffix) and path.name.lower() != suffix), "")


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or that exists and may not be replaced."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError("its folder does not exist", "create it first", subject=path)
    if path.is_dir():
        raise InputError("is a folder", "give a file name", subject=path)
    if path.exists() and not overwrite:
        raise InputError("exists already", "choose another name, or replace it with --overwrite", subject=path)
    if not os.access(folder, os.W_OK):
        raise InputError("its folder is not writable", "choose another folder", subject=path)


def write(
    outputs: OutputOptions,
    volume: Volume,
    found: Segmentation,
    prompts: Sequence[Prompt],
    report: Callable[[], dict[str, Any]],
) -> None:
    """All files that were asked for; the labels last, so that they are there only if all else is.

    Whatever stops it, an interrupt too: files that were not there before are gone again.
    """
    makers = _makers(volume, found, prompts, report, outputs.format)
    pieces = [(file, data) for option, path in asked(outputs).items() for file, data in makers[option](path)]
    fresh = [file for file, _ in pieces if not file.exists()]
    try:
        for file, save in reversed(pieces):
            save(file)
    except BaseException:
        for file in fresh:
            file.unlink(missing_ok=True)
        raise


Saver = Callable[[Path], None]
Maker = Callable[[Path], list[tuple[Path, Saver]]]


def _makers(
    volume: Volume,
    found: Segmentation,
    prompts: Sequence[Prompt],
    report: Callable[[], dict[str, Any]],
    formats: Sequence[str],
) -> Mapping[str, Maker]:
    """Option → what writes its files."""

    def table(path: Path) -> str:
        rows = statistics.measure(volume, found)
        return statistics.to_json(rows) + "\n" if path.suffix.lower() == ".json" else statistics.to_csv(rows)

    def image(what: Segmentation | NDArray[Any] | None) -> Saver:
        return lambda path: None if what is None else io.save(what, path, volume, formats=formats)

    def text(make: Callable[[Path], str]) -> Maker:
        return lambda path: [(path, lambda file: atomic.write_bytes(file, make(file).encode()))]

    return {
        "output": lambda path: [(path, image(found))],
        "probability": lambda path: [
            (file, image(found.probability[label])) for label, file in of_each(path, sorted(found.probability), formats).items()
        ],
        "uncertainty": lambda path: [(path, image(found.uncertainty))],
        "confidence": text(lambda _: statistics.slices_to_csv(found, volume.orientation)),
        "preview": lambda path: [(path, lambda file: _save_preview(file, volume, found, prompts))],
        "statistics": text(table),
        "report": text(lambda _: json.dumps(report(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    }


def _save_preview(path: Path, volume: Volume, found: Segmentation, prompts: Sequence[Prompt]) -> None:
    with TemporaryDirectory() as folder:
        draft = Path(folder) / f"preview{path.suffix}"
        preview.save(draft, volume, found, prompts)
        atomic.write_bytes(path, draft.read_bytes())
