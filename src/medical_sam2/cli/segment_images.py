"""`medsam2 segment-images`: outline what was pointed at on one image in all images of a folder."""

import json as json_format
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medical_sam2.cli import _set_report, plain
from medical_sam2.cli._files import check_place, check_suffix, same
from medical_sam2.cli._options import FLAG
from medical_sam2.cli._set_options import SetInferenceOptions, SetOutputOptions, SetPromptOptions
from medical_sam2.cli._set_prompts import SetPrompts, gathered
from medical_sam2.errors import ConfigError, InputError, MedicalSam2Error
from medical_sam2.io import atomic
from medical_sam2.io.image_folder import ImageFolder, open_folder
from medical_sam2.io.labels import save_label_map

if TYPE_CHECKING:
    from medical_sam2.cli._sheet import Sheet
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.image_set import ImageMask

NOTHING_SAID, AS_USUAL = SetPromptOptions(), SetInferenceOptions()
FILES = {"preview": (".png", ".jpg", ".jpeg"), "statistics": (".csv", ".json"), "report": (".json",)}


def segment_images(
    folder: Path,
    /,
    *,
    outputs: SetOutputOptions,
    said: SetPromptOptions = NOTHING_SAID,
    manner: SetInferenceOptions = AS_USUAL,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
) -> int:
    """Outline one or several objects in all images of a folder, from one image on which they are pointed at.

    PNG, JPEG, TIFF, BMP, DICOM and NIfTI images of any sizes, grey or in colour. An image that cannot be read stops nothing: it
    is named at the end, and the exit code is then 2 (3 where memory was short). A further --template with a click corrects.

    Args:
        folder: with the images.
        json: print what was done as one JSON object.
        quiet: show no progress.
        dry_run: check files, prompts and weights, say what would be done, and compute nothing.
    """
    start = time.perf_counter()
    images = open_folder(folder)
    files = images.outputs(outputs.output)
    skipped = _check(images, files, outputs)
    prompts = gathered(said, images)
    _check_masks(prompts, files, outputs)
    report = _set_report.described(images, prompts, manner)
    segmenter = _network(manner)
    report |= _machine(segmenter, manner)
    if dry_run:
        _print({**report, "dry_run": True}, _foreseen(report, images, prompts, outputs, skipped), json)
        return 0
    run = _Run(images, files, prompts, outputs, set(skipped))
    for done, found in enumerate(run.results(segmenter, manner, quiet=quiet), start=1):
        run.keep(found)
        if run.bar is not None:
            run.bar.tell(images.entries[found.index].name, done, len(images) - len(skipped), "images")
    report |= {"images": run.rows, "failed": run.failed, "skipped": len(skipped)}
    report["seconds"] = round(time.perf_counter() - start, 3)
    written = run.finish(report)
    _print(report, _set_report.lines(report, written), json)
    return run.code


def _check(images: ImageFolder, files: list[Path], outputs: SetOutputOptions) -> list[int]:
    """Refuse what could not be written or would destroy something; the images whose label maps are there already."""
    folder = outputs.output
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", "give a folder for the label maps", subject=folder)
    if same(folder, images.folder):
        raise InputError("the label maps would lie among the images", "choose another folder", subject=folder)
    if not folder.exists() and not folder.parent.is_dir():
        raise InputError("its folder does not exist", "create it first", subject=folder)
    if outputs.skip_existing and outputs.overwrite:
        raise ConfigError("--skip-existing and --overwrite contradict each other", "give one of them")
    for option, suffixes in FILES.items():
        path = getattr(outputs, option)
        if path is not None:
            check_suffix(path, suffixes)
            if same(path.parent, images.folder):
                raise InputError(f"--{option} would lie among the images", "choose another folder", subject=path)
            if path.parent.exists() or not same(path.parent, folder):
                check_place(path, outputs.overwrite or outputs.skip_existing)
    there = [i for i, file in enumerate(files) if file.exists()]
    if there and not (outputs.overwrite or outputs.skip_existing):
        problem = f"{len(there)} of {len(files)} label maps exist already, {files[there[0]].name} among them"
        raise InputError(problem, "say --skip-existing or --overwrite", subject=folder)
    return there if outputs.skip_existing else []


def _check_masks(prompts: SetPrompts, files: list[Path], outputs: SetOutputOptions) -> None:
    tables = [path for option in FILES if (path := getattr(outputs, option)) is not None]
    for written in [*files, *tables]:
        if any(same(written, mask) for mask in prompts.files):
            raise InputError("would replace a mask that is read", "choose another folder for the results", subject=written)
    for place, path in enumerate(tables):
        if any(same(path, other) for other in [*files, *tables[:place]]):
            raise InputError("two results would be the same file", "choose another name", subject=path)


def _network(manner: SetInferenceOptions) -> "Segmenter":
    from medical_sam2.cli._plan import network
    from medical_sam2.intensity_window import named_window
    from medical_sam2.model.memory_bank import POLICIES
    from medical_sam2.plugins import find
    from medical_sam2.tracking.image_set import ORDERS

    find(POLICIES, manner.bank, what="bank")
    find(ORDERS, manner.order, what="order")
    named_window(manner.window)
    if manner.seed != AS_USUAL.seed and manner.order != "shuffled":
        raise ConfigError("--seed changes nothing: it belongs to --order shuffled", "leave it out")
    if manner.threads is not None and manner.threads < 1:
        raise ConfigError(f"{manner.threads} threads cannot work", "give --threads 1 or more")
    return network(manner.how)


def _machine(segmenter: "Segmenter", manner: SetInferenceOptions) -> dict[str, Any]:
    from medical_sam2.cli._plan import digest

    weights = {"name": manner.weights, "image_size": segmenter.network.image_size, "sha256": digest(manner.how)}
    return {"device": str(segmenter.device), "precision": segmenter.precision, "engine": segmenter.engine, "weights": weights}


def _foreseen(
    report: dict[str, Any], images: ImageFolder, prompts: SetPrompts, outputs: SetOutputOptions, skipped: list[int]
) -> str:
    """What would be done, for people."""
    told = [f"images   {len(images)} in {images.folder}"]
    if images.others:
        told.append(f"         {len(images.others)} other files are left alone")
    for i, said in sorted(prompts.said.items()):
        told.append(f"template {images.entries[i].name}: object {', '.join(map(str, sorted(said)))}")
    weights = report["weights"]
    told += [f"weights  {weights['name']} at {weights['image_size']} px", f"device   {report['device']}"]
    told.append(f"would write {len(images) - len(skipped)} label maps to {outputs.output}")
    told += [f"would write {path}" for option in FILES if (path := getattr(outputs, option)) is not None]
    return "\n".join([*told, "nothing was computed"]) + "\n"


@dataclass
class _Run:
    """A set that is being outlined: each label map is written as soon as it is there."""

    images: ImageFolder
    files: list[Path]
    prompts: SetPrompts
    outputs: SetOutputOptions
    skipped: set[int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0
    bar: Any = None
    sheet: "Sheet | None" = None

    def results(self, segmenter: "Segmenter", manner: SetInferenceOptions, *, quiet: bool) -> Iterator["ImageMask"]:
        """What the network says of each image."""
        from medical_sam2.cli._progress import Progress
        from medical_sam2.cli._sheet import Sheet
        from medical_sam2.tracking.image_set import Shuffled

        self.sheet = Sheet() if self.outputs.preview is not None else None
        order = Shuffled(manner.seed) if manner.order == "shuffled" else manner.order
        todo = set(range(len(self.images))) - self.skipped
        with Progress(quiet=quiet) as self.bar:
            found = segmenter.segment_images(
                self.images,
                self.prompts.said,
                bank=manner.bank,
                order=order,
                only=todo,
                features=manner.features,
                window=manner.window,
                modality=lambda i: self.images.picture(i).modality,
                on_error=self.fail,
            )
            try:
                yield from found
            except MedicalSam2Error as error:
                templates = ", ".join(self.images.entries[i].name for i in sorted(self.prompts.said))
                raise error.about(templates) from None

    def keep(self, found: "ImageMask") -> None:
        """Write and note one result; a template whose label map is there stays as it is."""
        i, name = found.index, self.images.entries[found.index].name
        if i in self.skipped:
            return
        self.outputs.output.mkdir(exist_ok=True)
        save_label_map(found.labels, self.files[i])
        self.rows.append(_set_report.row(name, found, self.files[i]))
        for line in (*self.images.picture(i).warnings, *found.warnings):
            sys.stderr.write(f"warning: {plain(f'{name}: {line}')}\n")
        if self.outputs.statistics is not None:
            self.measured += _set_report.measured(name, self.images.picture(i), found, self.prompts.names)
        if self.sheet is not None:
            self.sheet.add(self.images[i], found, name)

    def fail(self, i: int, error: MedicalSam2Error) -> None:
        """Note an image that cannot be used."""
        self.failed.append(_set_report.failure(self.images.entries[i].name, error))
        self.code = max(self.code, error.exit_code)

    def finish(self, report: dict[str, Any]) -> list[Path]:
        """Write what speaks of all images, and name those that failed."""
        outputs, written = self.outputs, [self.outputs.output]
        if self.sheet is not None and outputs.preview is not None:
            self.sheet.save(outputs.preview)
            written.append(outputs.preview)
        tables = {
            outputs.statistics: lambda path: _set_report.table(self.measured, path),
            outputs.report: lambda _: _json(report),
        }
        for path, make in tables.items():
            if path is not None:
                atomic.write_bytes(path, make(path))
                written.append(path)
        for each in self.failed:
            sys.stderr.write(plain(f"failed: {each['image']}: {each['problem']}; {each['remedy']}") + "\n")
        if self.failed:
            sys.stderr.write(f"{len(self.failed)} of {len(self.images)} images could not be used; the others are done\n")
        return written


def _json(report: dict[str, Any]) -> bytes:
    return (json_format.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _print(report: dict[str, Any], text: str, json: bool) -> None:
    sys.stdout.write(json_format.dumps(report, ensure_ascii=False, allow_nan=False) + "\n" if json else text)
