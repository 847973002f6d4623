"""How well a network outlines cases of a data set from one prompt each: structures of volumes, or images of a set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medical_sam2.data.data_sets import Case, DataSet
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import SetTask, VolumeTask, is_boxable
from medical_sam2.evaluate.protocols import Kind
from medical_sam2.io import Picture
from medical_sam2.prompts import Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume

MOST_IMAGES = 50


@dataclass(frozen=True)
class Score:
    """One structure, prompted once."""

    case: str  # identifier; the template's where a set was prompted
    structure: str  # its name
    prompt: Kind  # "mask", "box" or "click"
    dice: float  # over all slices but the prompted one, or mean over all images but the template


def scores(
    segmenter: Segmenter,
    dataset: DataSet,
    cases: Sequence[Case],
    kinds: Sequence[Kind],
    *,
    seed: int = 0,
    views: str = "one",
    on_case: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Prompt every structure of every case; structures that lie on one slice only are left out.

    Args:
        cases: with labels. Of a set of images they are one sequence, prompted on the first that shows the structure.
        seed: decides between equally good places for a click.
        on_case: called with how many are done, and of how many.
    """
    found: list[Score] = []
    if dataset.kind == "set":
        return list(_set(segmenter, dataset, cases[:MOST_IMAGES], kinds, seed))
    for done, case in enumerate(cases, start=1):
        found += _volume(segmenter, dataset, case, kinds, seed=seed, views=views)
        if on_case is not None:
            on_case(done, len(cases))
    return found


def mean(found: Sequence[Score], kind: Kind) -> float:
    """Mean Dice of one kind of prompt; nan where there is none."""
    values = [score.dice for score in found if score.prompt == kind and np.isfinite(score.dice)]
    return float(np.mean(values)) if values else float("nan")


def _volume(
    segmenter: Segmenter, dataset: DataSet, case: Case, kinds: Sequence[Kind], *, seed: int, views: str
) -> Iterator[Score]:
    """The first channel; all structures at once, each an object."""
    loaded = dataset.load(case)
    volume, labels = loaded.images[0], loaded.labels
    if labels is None or not isinstance(volume, Volume):
        return
    tasks: dict[str, VolumeTask] = {}
    for name in dataset.structures:
        try:
            tasks[name] = VolumeTask(volume, dataset.mask(labels, name))
        except PromptError:
            continue
    for kind in kinds if tasks else ():
        rng = np.random.default_rng(seed)
        prompts = [_numbered(task.prompt(kind, rng), n) for n, task in enumerate(tasks.values(), start=1)]
        answer = segmenter.segment_volume(volume, prompts, views=views)
        for n, (name, task) in enumerate(tasks.items(), start=1):
            yield Score(case.identifier, name, kind, task.score(task.view.apply(answer.labels == n, volume.orientation)))


def _numbered(prompt: Any, number: int) -> Prompt:
    return replace(prompt, object=number)


def _set(segmenter: Segmenter, dataset: DataSet, cases: Sequence[Case], kinds: Sequence[Kind], seed: int) -> Iterator[Score]:
    # All images are loaded first: which of them can be the template depends on the structure.
    loaded = [(case, dataset.load(case)) for case in cases if case.label is not None]
    images = [one.images[0].array for _, one in loaded if isinstance(one.images[0], Picture)]
    for name in dataset.structures:
        truths = [dataset.mask(one.labels, name) for _, one in loaded if one.labels is not None]
        template = next((i for i, truth in enumerate(truths) if is_boxable(truth)), None)
        if template is None:
            continue
        task = SetTask(images, truths, template)
        for kind in kinds:
            prompt = task.prompt(kind, np.random.default_rng(seed))
            masks = {one.index: one.labels == 1 for one in segmenter.segment_images(images, {template: {1: prompt}})}
            values = [value for value in task.scores(masks).values() if np.isfinite(value)]
            yield Score(loaded[template][0].identifier, name, kind, float(np.mean(values)) if values else float("nan"))
