"""`medsam2 evaluate`: measure a network on data sets of yours, as the paper measures."""

import json as json_format
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from medical_sam2.cli import DEFECT, network, plain
from medical_sam2.cli.options import FLAG, InferenceOptions
from medical_sam2.cli.report import Progress, print_note
from medical_sam2.errors import ConfigError, InputError
from medical_sam2.evaluate.job import Network, data_set
from medical_sam2.evaluate.methods.named import method_named
from medical_sam2.evaluate.presets import PRESETS, trimmed
from medical_sam2.evaluate.protocols import PROTOCOLS, protocol
from medical_sam2.evaluate.reporting.report import write_report
from medical_sam2.evaluate.run import run_all
from medical_sam2.evaluate.study import Done, Outcome, Study

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
        protocols: universal, one-prompt, frequency, ablation, memory, noise, or a plug-in; several, or all.
        json: print one JSON object.
        quiet: show no progress.
    """
    studies = _plan_studies(_data_sets(data), protocols, options)
    folders = [output / study.protocol.name for study in studies]
    with Progress(quiet=quiet) as progress:

        def report(done: Done) -> None:
            if done.done:
                progress.update(plain(done.what), done.done, done.total, "answers", done.share)
            elif not quiet:
                print_note(f"{done.total} answers to make")

        outcomes = run_all(studies, folders, workers=options.processes, on_done=report)
    if find_spec("matplotlib") is None:
        print_note("no figures: matplotlib is missing; pip install 'medical-sam2[evaluate]'")
    write_report(studies, outcomes, output, options.chosen)
    facts = [_describe(*each) for each in zip(studies, outcomes, folders, strict=True)]
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


def _plan_studies(data: tuple[Path, ...], names: tuple[str, ...], options: EvaluationOptions) -> list[Study]:
    """All that can be refused is refused before the first is run."""
    limits = ("cases", "images", "structures", "seeds")
    for name in (*limits, "workers", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} {value} leaves nothing", "give 1 or more")
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.processes)
    given = {name: value for name in (*limits, "image_size") if (value := getattr(options, name)) is not None}
    preset = replace(PRESETS[options.chosen], **given)
    asked = tuple(PROTOCOLS) if names == ("all",) else names
    chosen = [protocol(name, views=options.views, methods=options.methods) for name in asked]
    chosen = [replace(trimmed(each, preset), limit_s=options.limit) for each in chosen]
    for name in dict.fromkeys(method for each in chosen for method in each.methods):
        method_named(name)
    network.check_settings(InferenceOptions(views=options.views or "one", threads=threads))
    for folder in data:
        data_set(folder)
    settings = Network(options.weights, options.device, options.precision, preset.image_size, threads)
    digest = network.weights_digest(options.weights)
    return [
        Study(each, data, settings, digest, preset.cases, preset.slices, preset.images, preset.structures, draws=place == 0)
        for place, each in enumerate(chosen)
    ]


def _describe(study: Study, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """What a person reads at the end, on standard error; and the same for a program."""
    for case, reason in outcome.skipped.items():
        print_note(plain(f"left out: {case}: {reason}"))
    for case, error in outcome.failed.items():
        print_note(plain(f"failed: {case}: {error}; run it again, and report it if it stays"))
    answers = sum(not row.skipped for row in outcome.rows)
    print_note(plain(f"{folder}: {answers} rows, {outcome.fresh} answers of them new; see tables.md"))
    return {
        "protocol": study.protocol.described(),
        "sha256": study.protocol.digest,
        "output": str(folder),
        "answers": answers,
        "fresh": outcome.fresh,
        "skipped": dict(outcome.skipped),
        "failed": dict(outcome.failed),
    }
