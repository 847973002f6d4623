"""`medsam2 segment`: outline what was pointed at in the whole of a volume."""

import json as json_format
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from medical_sam2 import io
from medical_sam2.cli import _files, plain
from medical_sam2.cli._options import FLAG, InferenceOptions, OutputOptions, PromptOptions, Reading
from medical_sam2.cli._prompts import gathered, paged
from medical_sam2.errors import ConfigError
from medical_sam2.io import labels
from medical_sam2.io.prompt_file import Named
from medical_sam2.volume import Segmentation, Volume

if TYPE_CHECKING:
    from medical_sam2.model.sam2 import Sam2
    from medical_sam2.segmenter import Segmenter

NOTHING_SAID, AS_USUAL, AS_IT_IS = PromptOptions(), InferenceOptions(), Reading()
OF_SEVERAL = {"three", "six", "auto"}


def segment(
    volume: Path,
    /,
    *,
    outputs: OutputOptions,
    said: PromptOptions = NOTHING_SAID,
    how: InferenceOptions = AS_USUAL,
    reading: Reading = AS_IT_IS,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
) -> None:
    """Outline one or several objects in a volume, from clicks, boxes or outlines.

    Args:
        volume: image file, folder with a DICOM series, or zip with an image.
        json: print what was done as one JSON object.
        quiet: show no progress.
        dry_run: check files, prompts, weights and memory, say what would be done, and compute nothing.
    """
    clock = _Clock()
    _check(volume, outputs, said, how)
    from medical_sam2.cli import _plan, _report  # the network's packages take a second: not for a mistyped path

    _plan.check_settings(how)
    image, earlier = _read(volume, reading, said, outputs)
    named = gathered(said, image, earlier)
    _files.check_each(outputs, named.labels)
    report = _report.described(volume, image, named, how)
    clock.lap("read")
    segmenter = None if dry_run and _plan.away(how) else _plan.network(how)
    plan = _plan.planned(image, named, how, segmenter, outputs, earlier)
    report |= _plan.described(plan, how, segmenter)
    clock.lap("weights")
    _warn([*image.warnings, *plan.warnings])
    if segmenter is None or dry_run:
        _print({**report, "dry_run": True}, _report.foreseen(report, image, plan, _files.asked(outputs)), json)
        return
    found = _found(segmenter, image, named, how, outputs=outputs, earlier=earlier, quiet=quiet)
    clock.lap("track")
    _warn(line for line in found.warnings if line not in plan.warnings)
    report |= _report.result(image, found, plan.warnings)
    _tell(report["look_here"])
    _files.write(outputs, image, found, named.prompts, lambda: {**report, "seconds": clock.laps})
    clock.lap("write")
    _print({**report, "seconds": clock.laps}, _report.lines(report, _files.asked(outputs).values()), json)


def _check(file: Path, outputs: OutputOptions, said: PromptOptions, how: InferenceOptions) -> None:
    """All about the files that can be known before the image is read: first what is read, then what is written."""
    masks = (paged(str(word))[0] for word in said.mask)
    inputs = [file, *masks, *(path for path in (said.prompts, said.correct) if path is not None)]
    _files.check_inputs(inputs)
    _files.check(outputs, [path for path in inputs if path != said.correct])
    if said.correct is None:
        return
    if outputs.probability or outputs.uncertainty:
        raise ConfigError("a correction makes no probability and no uncertainty", "leave these outputs out")
    of_several = {"--views": how.views in OF_SEVERAL, "--fusion": how.fusion != AS_USUAL.fusion, "--islands": how.islands}
    for option, given in of_several.items():
        if given:
            raise ConfigError(f"{option} changes nothing: a correction is tracked in the plane of its prompts", "leave it out")


def _read(file: Path, reading: Reading, said: PromptOptions, outputs: OutputOptions) -> tuple[Volume, Volume | None]:
    image = _files.read(file, reading)
    _files.check_format(outputs, image)
    if said.correct is None:
        return image, None
    with _files.blaming(said.correct):
        return image, io.load_labels(said.correct, image)


def _found(
    segmenter: "Segmenter",
    image: Volume,
    named: Named,
    how: InferenceOptions,
    *,
    outputs: OutputOptions,
    earlier: Volume | None,
    quiet: bool,
) -> Segmentation:
    from medical_sam2.cli._progress import Progress

    with _adapted(segmenter, image, named, how), Progress(quiet=quiet) as progress:
        return segmenter.segment_volume(
            image,
            named.prompts,
            views=how.views,
            bank=how.bank,
            fusion=how.fusion,
            window=how.window,
            earlier=None if earlier is None else labels.integers(earlier.array, None),
            probability=outputs.probability is not None,
            uncertainty=outputs.uncertainty is not None,
            islands=how.islands,
            consensus=how.consensus,
            zoom=not how.whole_slices,
            features=how.features,
            names=named.names,
            on_frame=progress,
        )


@contextmanager
def _adapted(segmenter: "Segmenter", image: Volume, named: Named, how: InferenceOptions) -> Iterator[None]:
    if how.adapt <= 0:
        yield
        return
    from medical_sam2.train.adapt import adapt_network, examples_of_volume

    network = cast("Sam2", segmenter.network)  # weights that were loaded are nothing else
    examples = examples_of_volume(network, image, named.prompts, window=how.window)
    with adapt_network(network, examples, seconds=how.adapt):
        yield


def _warn(warnings: Iterable[str]) -> None:
    for warning in dict.fromkeys(warnings):
        sys.stderr.write(f"warning: {plain(warning)}\n")


def _tell(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        sure = f"{row['confidence']:.2f}".removeprefix("0")
        sys.stderr.write(f"look here: object {row['object']}, slice {row['slice']} of axis {row['axis']} (confidence {sure})\n")


def _print(report: dict[str, Any], text: str, json: bool) -> None:
    sys.stdout.write(json_format.dumps(report, ensure_ascii=False, allow_nan=False) + "\n" if json else text)


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
