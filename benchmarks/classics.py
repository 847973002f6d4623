"""A network beside classical methods on the same prompts: one prompt on one slice or one image, Dice on all the others.

    python benchmarks/classics.py FOLDER -o benchmarks/results [--cases 5] [--images 8] [--templates 2] [--workers 1]
    python benchmarks/classics.py FOLDER -o benchmarks/results --method nano --fresh      # the network's rows anew

FOLDER holds nnU-Net raw data sets. Of each set of volumes, CASES are drawn by the seed, and every structure is prompted on its
largest slice; of each set of pictures, IMAGES are drawn, and TEMPLATES of them are prompted in turn: by the outline, by its
box, by one click at its innermost point. Methods are those of `classical/`, and the network with
its defaults, each structure alone. OUT gets `classics.jsonl` (a row for each answer, as it comes: what is there already is not
computed again), `classics.md` and `classics.png`. A method that fails scores 0 and is named; so is, without a score, a
structure that cannot be prompted.
"""

import argparse
import json
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classical import IMAGE_METHODS, VOLUME_METHODS, outlined
from classics_report import Row, picture, report
from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.errors import MedicalSam2Error, PromptError
from medical_sam2.evaluate.cases import KINDS, Kind, SetTask, VolumeTask
from medical_sam2.intensity_window import choose_window, percentile_window
from medical_sam2.io.atomic import write_bytes
from medical_sam2.prompts import intensities
from medical_sam2.segmenter import Segmenter

NANO = "nano"
METHODS = (*VOLUME_METHODS, NANO)


@dataclass(frozen=True)
class Job:
    """One structure of a case, or of a set from one template, and what is still to be answered.

    Args:
        folder: of the data set.
        structure: its name.
        identifiers: the case; or the images of a set, the template first.
        todo: kinds of prompts with methods.
    """

    folder: Path
    structure: str
    identifiers: tuple[str, ...]
    todo: tuple[tuple[Kind, str], ...]

    def row(self, kind: str, method: str) -> Row:
        """A row with its answer still to come; as a key, what has been answered."""
        return Row(self.folder.name, self.structure, self.identifiers[0], kind, method, len(self.identifiers))


def planned(folder: Path, told: argparse.Namespace) -> Iterator[Job]:
    """All jobs: which cases, images and templates depends on the seed and the data set alone."""
    for path in sorted(each.parent for each in folder.glob("*/dataset.json")):
        if told.only and not any(part in path.name for part in told.only):
            continue
        data = read_data_set(path)
        labelled = [case.identifier for case in data.cases if case.label is not None]
        rng = np.random.default_rng([told.seed, zlib.crc32(path.name.encode())])
        drawn = [labelled[i] for i in rng.permutation(len(labelled))]
        methods = METHODS if data.kind == "volume" else (*IMAGE_METHODS, NANO)
        everything = tuple((kind, method) for kind in KINDS for method in methods)
        for structure in data.structures:
            if data.kind == "volume":
                yield from (Job(path, structure, (each,), everything) for each in drawn[: told.cases])
            else:
                images = drawn[: told.images]
                shown = islice((each for each in images if shows(data, structure, each)), told.templates)
                for each in shown:
                    others = tuple(other for other in images if other != each)
                    yield Job(path, structure, (each, *others), everything)


def shows(data: DataSet, structure: str, identifier: str) -> bool:
    """Whether a picture can be a template for a structure."""
    truth = data.mask(loaded(data, identifier)[1], structure)
    try:
        SetTask([truth], [truth], 0)
    except PromptError:
        return False
    return True


def loaded(data: DataSet, identifier: str) -> tuple[object, NDArray[np.unsignedinteger]]:
    """The first channel, or the picture, and its labels."""
    case = next(case for case in data.cases if case.identifier == identifier)
    what = data.load(case)
    if what.labels is None:
        raise MedicalSam2Error("it has no labels", subject=identifier)
    return what.images[0], what.labels


def task_of(job: Job) -> VolumeTask | SetTask:
    """What a job asks for."""
    data = read_data_set(job.folder)
    cases = [loaded(data, each) for each in job.identifiers]
    truths = [data.mask(labels, job.structure) for _, labels in cases]
    if data.kind == "volume":
        volume = cases[0][0]
        modality = volume.modality or (data.modality if data.modality == "CT" else None)
        return VolumeTask(replace(volume, modality=modality), truths[0])
    return SetTask([image.array for image, _ in cases], truths, 0)


def answered(job: Job, weights: str) -> list[Row]:
    """Rows of a job."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        task = task_of(job)
        return list(on_volume(job, task, weights) if isinstance(task, VolumeTask) else on_set(job, task, weights))
    except MedicalSam2Error as error:
        return [replace(job.row(kind, method), dice=None, problem=str(error)) for kind, method in job.todo]


def each_answered(todo: Sequence[Job], weights: str, workers: int) -> Iterator[list[Row]]:
    """The jobs in their order, by this process or by several."""
    job = partial(answered, weights=weights)
    if workers <= 1:
        yield from map(job, todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(job, todo)


def on_volume(job: Job, task: VolumeTask, weights: str) -> Iterator[Row]:
    """Each prompt, each method."""
    axes = task.volume.orientation
    slices, spacing = task.view.apply(task.volume.array, axes), task.view.spacing(task.volume.spacing_mm, axes)
    for kind, method in job.todo:
        prompt = task.prompt(kind, np.random.default_rng(0))
        said = task.frame_prompt(prompt)
        window = choose_window(task.volume, inside=intensities(slices[task.start], said))

        def answer(method=method, prompt=prompt, said=said, window=window) -> float:
            if method == NANO:
                return task.score(task.view.apply(network(weights).segment_volume(task.volume, [prompt]).labels > 0, axes))
            stack = window.apply(slices)
            return task.score(VOLUME_METHODS[method](stack, task.start, outlined(stack[task.start], said), spacing))

        yield timed(job.row(kind, method), answer)


def on_set(job: Job, task: SetTask, weights: str) -> Iterator[Row]:
    """Each prompt, each method: the mean over the images that are not the template."""
    pictures = [percentile_window(image).apply(image) for image in task.images]
    for kind, method in job.todo:
        said = task.prompt(kind, np.random.default_rng(0))

        def answer(method=method, said=said) -> float:
            if method == NANO:
                answers = network(weights).segment_images(task.images, {0: {1: said}})
                found = {each.index: each.labels > 0 for each in answers}
            else:
                outline = IMAGE_METHODS[method](pictures[0], outlined(pictures[0], said))
                found = {i: outline(pictures[i]) for i in range(1, len(pictures))}
            scores = np.array(list(task.scores(found).values()))
            return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

        yield timed(job.row(kind, method), answer)


def timed(row: Row, answer) -> Row:
    """The row with its answer; a method that fails scores 0."""
    began = time.perf_counter()
    try:
        dice, problem = answer(), ""
    except Exception as error:  # one that fails is named, the others go on
        dice, problem = 0.0, f"{type(error).__name__}: {error}"
    known = None if np.isnan(dice) else round(dice, 4)
    problem = problem or ("" if known is not None else "nothing to score on the others")
    return replace(row, dice=known, seconds=round(time.perf_counter() - began, 2), problem=problem)


@cache
def network(weights: str) -> Segmenter:
    return Segmenter.from_pretrained(weights)


def stored(path: Path) -> dict[Row, Row]:
    """What has been answered: key → row. A last line that was cut off counts as not there."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = Row(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        rows[row.key] = row
    return rows


def lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=5, help="volumes of each set")
    parser.add_argument("--images", type=int, default=8, help="pictures of each set")
    parser.add_argument("--templates", type=int, default=2, help="pictures that are prompted in turn")
    parser.add_argument("--seed", type=int, default=0, help="which cases, pictures and templates")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS, help="answer with these alone")
    parser.add_argument("--fresh", action="store_true", help="answer with them anew")
    parser.add_argument("--weights", default=NANO, help="name or folder of the network's weights")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    path = told.output / "classics.jsonl"
    rows = {key: row for key, row in stored(path).items() if not (told.fresh and row.method in told.method)}
    write_bytes(path, lines(list(rows.values())))
    jobs = list(planned(told.folder, told))
    if not jobs:
        print(f"{told.folder}: it holds no nnU-Net raw data sets", file=sys.stderr)
        return 2
    todo = [
        replace(job, todo=tuple((kind, m) for kind, m in job.todo if m in told.method and job.row(kind, m).key not in rows))
        for job in jobs
    ]
    todo = [job for job in todo if job.todo]
    with path.open("ab") as stream:
        for done, new in enumerate(each_answered(todo, told.weights, told.workers), start=1):
            rows |= {row.key: row for row in new}
            stream.write(lines(new))
            stream.flush()
            print(f"{done}/{len(todo)} {new[0].dataset} {new[0].structure} {sum(row.seconds for row in new):.0f} s", flush=True)
    keys = [job.row(kind, method).key for job in jobs for kind, method in job.todo]
    shown = [rows[key] for key in keys if key in rows]
    how = f"seed {told.seed}, {told.cases} volumes and {told.images} pictures of each set at most, {told.templates} templates"
    write_bytes(told.output / "classics.md", report(shown, len(keys), how).encode())
    picture(shown, told.output / "classics.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
