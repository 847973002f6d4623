"""`medsam2 evaluate`: measure a network on data sets of yours, as the paper measures."""

import json as json_format
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from medical_sam2.cli import DEFECT, plain
from medical_sam2.cli._options import FLAG
from medical_sam2.errors import ConfigError, InputError

if TYPE_CHECKING:
    from medical_sam2.evaluate.run import Done, Outcome, Study

QUICK_CASES, QUICK_IMAGES = 1, 6


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """What answers, how much is measured, and on what machine.

    Args:
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        methods: other ones than the protocol's; the first is compared with the others; again for more.
        views: of volumes, other than the protocol's: one, three, six, auto, axial, coronal or sagittal.
        cases: volumes of each data set, spread over its list; all unless given.
        images: of each set of images, spread over its list; all unless given.
        quick: one volume and six images of each data set, two seeds at most, three conditions at most.
        workers: processes.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        image_size: side of the network's input in pixels; that of the weights unless given.
        threads: of the processor, of each process.
    """

    weights: str = "nano"
    methods: Annotated[tuple[str, ...], Parameter(name="--method", negative="")] = ()
    views: str | None = None
    cases: int | None = None
    images: int | None = None
    quick: Annotated[bool, FLAG] = False
    workers: int = 1
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    image_size: int | None = None
    threads: int | None = None


AS_USUAL = How()


def evaluate(
    *,
    data: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")],
    protocol: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")],
    output: Annotated[Path, Parameter(alias="-o")],
    how: How = AS_USUAL,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Measure a network by the paper's protocols; what was measured before stays, and a run that was stopped goes on.

    What cannot be measured is named, and why; that alone is no error. OUTPUT/PROTOCOL holds the description (protocol.json),
    the rows (rows.csv, rows.json) and the tables (tables.md).

    Args:
        data: folders of nnU-Net raw data sets.
        protocol: universal, one-prompt, frequency, ablation, memory, noise, or a plug-in; several, or all.
        output: folder to write.
        json: print one JSON object.
        quiet: show no progress.
    """
    from medical_sam2.evaluate.run import run
    from medical_sam2.evaluate.tables import markdown
    from medical_sam2.io.atomic import write_bytes

    facts: list[dict[str, Any]] = []
    for study in _studies(data, protocol, how):
        folder = output / study.protocol.name
        outcome = _run(lambda told, study=study, folder=folder: run(study, folder, workers=how.workers, on_done=told), quiet)
        text = markdown(study.protocol, outcome.rows, outcome.skipped) + _figures(study, outcome, folder)
        write_bytes(folder / "tables.md", text.encode())
        facts.append(_told(study, outcome, folder))
    if json:
        print(json_format.dumps({"studies": facts}, ensure_ascii=False))
    if any(each["failed"] for each in facts):
        return DEFECT
    return 0 if all(each["answers"] for each in facts) else InputError.exit_code


def _studies(data: tuple[Path, ...], names: tuple[str, ...], how: How) -> "list[Study]":
    """All that can be refused is refused before the first is run."""
    from medical_sam2.cli import _options, _plan
    from medical_sam2.evaluate.answer import Network, data_set
    from medical_sam2.evaluate.methods import METHODS
    from medical_sam2.evaluate.protocols import PROTOCOLS, protocol
    from medical_sam2.evaluate.run import Study
    from medical_sam2.plugins import find

    for what, value in (
        ("--cases", how.cases),
        ("--images", how.images),
        ("--workers", how.workers),
        ("--threads", how.threads),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{what} {value} leaves nothing", "give 1 or more")
    threads = how.threads or max(1, (os.cpu_count() or 1) // how.workers)
    asked = tuple(PROTOCOLS) if names == ("all",) else names
    chosen = [protocol(name, quick=how.quick, views=how.views, methods=how.methods) for name in asked]
    for name in {method for each in chosen for method in each.methods}:
        find(METHODS, name, what="method")
    told = _options.How(weights=how.weights, views=how.views or "one", threads=threads)
    _plan.check_settings(told)
    for folder in data:
        data_set(folder)
    network = Network(how.weights, how.device, how.precision, how.image_size, threads)
    cases = how.cases or (QUICK_CASES if how.quick else None)
    images = how.images or (QUICK_IMAGES if how.quick else None)
    digest = _plan.digest(told)
    return [Study(each, data, network, digest, cases, images) for each in chosen]


def _run(start: "Any", quiet: bool) -> "Outcome":
    from medical_sam2.cli._progress import Progress

    with Progress(quiet=quiet) as progress:

        def tell(done: "Done") -> None:
            progress.tell(plain(done.what), done.done, done.total, "answers")

        return start(tell)


def _figures(study: "Study", outcome: "Outcome", folder: Path) -> str:
    """Draws them, where matplotlib is installed; their place in the tables."""
    from medical_sam2.evaluate.figures import write_figures

    try:
        drawn = write_figures(study.protocol, outcome.rows, folder)
    except ModuleNotFoundError:
        sys.stderr.write("no figures: matplotlib is missing; pip install 'medical-sam2[evaluate]'\n")
        return ""
    return "\n## Figures\n\n" + "\n".join(f"![{path.stem}]({path.name})" for path in drawn) + "\n"


def _told(study: "Study", outcome: "Outcome", folder: Path) -> dict[str, Any]:
    """What a person reads at the end, on standard error; and the same for a program."""
    for case, reason in outcome.skipped.items():
        sys.stderr.write(plain(f"left out: {case}: {reason}") + "\n")
    for case, error in outcome.failed.items():
        sys.stderr.write(plain(f"failed: {case}: {error}; run it again, and report it if it stays") + "\n")
    answers = sum(not row.skipped for row in outcome.rows)
    sys.stderr.write(plain(f"{folder}: {answers} rows, {outcome.fresh} answers of them new; see tables.md") + "\n")
    return {
        "protocol": study.protocol.described(),
        "sha256": study.protocol.digest,
        "output": str(folder),
        "answers": answers,
        "fresh": outcome.fresh,
        "skipped": dict(outcome.skipped),
        "failed": dict(outcome.failed),
    }
