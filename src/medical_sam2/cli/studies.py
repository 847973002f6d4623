"""What `medsam2 evaluate` does, once its options are known: it loads torch."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medical_sam2.cli import network, plain
from medical_sam2.cli.evaluate import EvaluationOptions
from medical_sam2.cli.options import InferenceOptions
from medical_sam2.cli.report import Progress, print_note
from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods import find_method
from medical_sam2.evaluate.protocols import BEYOND_PAPER, PRESETS, PROTOCOLS, find_protocol
from medical_sam2.evaluate.report import write_report
from medical_sam2.evaluate.run import run_studies
from medical_sam2.evaluate.study import EvaluationProgress, NetworkSettings, Study, StudyResult, open_data_set


def measure(
    data: tuple[Path, ...], output: Path, protocols: tuple[str, ...], options: EvaluationOptions, *, quiet: bool
) -> list[dict[str, Any]]:
    """Run the studies of the protocols and write their reports; what there is to tell of each, see `_describe`."""
    studies = choose_studies(data, protocols, options)
    folders = [output / study.protocol.name for study in studies]
    with Progress(quiet=quiet) as progress:

        def report(done: EvaluationProgress) -> None:
            if done.done:
                progress.update(plain(done.what), done.done, done.total, "answers", done.share)
            elif not quiet:
                print_note(f"{done.total} answers to make")

        outcomes = run_studies(studies, folders, workers=options.processes, on_done=report)
    if find_spec("matplotlib") is None:
        print_note("no figures: matplotlib is missing; pip install 'medical-sam2[evaluate]'")
    write_report(studies, outcomes, output, options.chosen)
    return [_describe(*each) for each in zip(studies, outcomes, folders, strict=True)]


# Hours lie behind this: names, numbers and data sets are refused before the first answer is made.
def choose_studies(data: tuple[Path, ...], names: tuple[str, ...], options: EvaluationOptions) -> list[Study]:
    """All that can be refused is refused before the first is run."""
    limits = ("cases", "images", "structures", "seeds")
    for name in (*limits, "workers", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} {value} leaves nothing", "give 1 or more")
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.processes)
    given = {name: value for name in (*limits, "image_size") if (value := getattr(options, name)) is not None}
    preset = replace(PRESETS[options.chosen], **given)
    paper = tuple(name for name in PROTOCOLS if name not in BEYOND_PAPER)
    asked = paper if names == ("all",) else names
    chosen = [find_protocol(name, preset=preset, views=options.views, methods=options.methods) for name in asked]
    chosen = [replace(each, limit_s=options.limit) for each in chosen]
    for name in dict.fromkeys(method for each in chosen for method in each.methods):
        find_method(name)
    network.check_settings(InferenceOptions(views=options.views or "one", threads=threads))
    for folder in data:
        open_data_set(folder)
    settings = NetworkSettings(options.weights, options.device, options.precision, preset.image_size, threads)
    digest = network.weights_digest(options.weights)
    return [
        Study(each, data, settings, digest, preset.cases, preset.slices, preset.images, preset.structures, draws=place == 0)
        for place, each in enumerate(chosen)
    ]


def _describe(study: Study, outcome: StudyResult, folder: Path) -> dict[str, Any]:
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
