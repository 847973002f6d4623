"""`medsam2 evaluate`: measure a network on data sets of yours, as the paper measures."""

import json as json_format
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medical_sam2.cli import DEFECT
from medical_sam2.cli.options import FLAG
from medical_sam2.errors import InputError

DATASET = "dataset.json"


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOptions:
    """What answers, how much is measured, and on what machine.

    Args:
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        methods: other ones than the protocol's; the first is compared with the others; again for more. A name, a plug-in, or
            another program: "LABEL=PROGRAM {image} {prompts} {output}".
        views: of volumes, other than the protocol's: one, three, six, auto, axial, coronal or sagittal.
        preset: how much: full; study, an hour of two cores for some twenty data sets; quick, minutes. See the documentation.
        quick: the same as --preset quick.
        cases: volumes of each data set, spread over its list; other than the preset's.
        images: of each set of images, spread over its list; other than the preset's.
        structures: of each data set, spread over its list; other than the preset's.
        seeds: of each protocol; other than the preset's.
        limit: seconds that another program may take for one answer.
        workers: processes; as many as the processor has cores where a preset other than full is chosen, else one.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        image_size: side of the network's input in pixels; that of the preset, or of the weights, unless given.
        threads: of the processor, of each process.
    """

    weights: str = "nano"
    methods: Annotated[tuple[str, ...], Parameter(name="--method", negative="")] = ()
    views: str | None = None
    preset: Literal["full", "study", "quick"] = "full"
    quick: Annotated[bool, FLAG] = False
    cases: int | None = None
    images: int | None = None
    structures: int | None = None
    seeds: int | None = None
    limit: float = 600.0
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    image_size: int | None = None
    threads: int | None = None

    @property
    def chosen(self) -> str:
        """Name of the preset."""
        return "quick" if self.quick else self.preset

    @property
    def processes(self) -> int:
        """That work beside each other."""
        return self.workers or (1 if self.chosen == "full" else os.cpu_count() or 1)


AS_USUAL = EvaluationOptions()


def evaluate(
    *,
    data: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")],
    output: Annotated[Path, Parameter(alias="-o")],
    protocols: Annotated[tuple[str, ...], Parameter(name="--protocol", consume_multiple=True, negative="")] = ("all",),
    options: EvaluationOptions = AS_USUAL,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Measure a network by the paper's protocols; what was measured before stays, and a run that was stopped goes on.

    What cannot be measured is named, and why; that alone is no error. OUTPUT/PROTOCOL holds the description (protocol.json),
    the rows (rows.csv, rows.json), the tables (tables.md, tables.tex) and figures; OUTPUT/report.html holds all of it.

    Args:
        data: folders of nnU-Net raw data sets, or folders that hold some.
        output: folder to write.
        protocols: universal, one-prompt, frequency, ablation, memory, noise, or all of these (the paper's); prompt-kinds,
            challenge, clicks, distractors; a plug-in; several.
        json: print one JSON object.
        quiet: show no progress.
    """
    from medical_sam2.cli import experiments  # torch takes seconds to load: not for --help

    facts = experiments.measure_studies(_data_sets(data), output, protocols, options, quiet=quiet)
    if json:
        print(json_format.dumps({"studies": facts}, ensure_ascii=False))
    if any(each["failed"] for each in facts):
        return DEFECT
    return 0 if all(each["answers"] for each in facts) else InputError.exit_code


def _data_sets(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those that are given, and those that lie in a folder that is none itself."""
    found: dict[Path, None] = {}
    for folder in folders:
        inside = [] if (folder / DATASET).exists() else sorted(path.parent for path in folder.glob(f"*/{DATASET}"))
        found |= dict.fromkeys(inside or [folder])
    return tuple(found)
