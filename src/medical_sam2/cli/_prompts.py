"""The prompts of a command line: words become points, boxes and outlines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np

from medical_sam2 import io
from medical_sam2.cli._numbers import VOXELS, parsed
from medical_sam2.cli._options import PromptOptions
from medical_sam2.errors import AmbiguousError, ConfigError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io.labels import MOST_OBJECTS, MaskRule, Outline
from medical_sam2.io.prompt_file import Named, Places, load_prompts, masks_from
from medical_sam2.prompts import Prompt
from medical_sam2.volume import Volume


def gathered(said: PromptOptions, volume: Volume, earlier: Volume | None = None) -> Named:
    """All prompts: of the file, then of the command line.

    Raises:
        PromptError: no prompt, or one that does not work.
        AmbiguousError: it is not clear which object of the earlier result is meant.
    """
    from_file = Named(()) if said.prompts is None else load_prompts(said.prompts, volume)
    speaker = _Speaker(said, Places(volume, "mm" if said.mm else "voxel"), earlier)
    prompts = (*from_file.prompts, *speaker.prompts())
    if not prompts:
        raise PromptError("there is no prompt", "give --point I J K, --box, --mask or --prompts")
    drawn = {outline.label: outline.name for outline in speaker.outlines if outline.name}
    names = {**drawn, **from_file.names, **speaker.names()}
    unknown = sorted(names.keys() - {prompt.object for prompt in prompts} - set(_labels(earlier)))
    if unknown:
        raise PromptError(f"a name is given to object {unknown[0]}, which has no prompt", "prompt it, or leave its name out")
    return Named(prompts, names)


@dataclass
class _Speaker:
    said: PromptOptions
    places: Places
    earlier: Volume | None

    def prompts(self) -> list[Prompt]:
        if self.said.object is not None:
            check_label(self.said.object)
        found: list[Prompt] = []
        for positive, option in ((True, "point"), (False, "negative")):
            for text in getattr(self.said, option):
                label, numbers = _parsed(option, text)
                found.append(self.places.point(numbers, label or self.label(), positive=positive))
        for text in self.said.box:
            label, numbers = _parsed("box", text)
            found.append(self.places.box(numbers, label or self.label()))
        return [*found, *masks_from(self.outlines)]

    @cached_property
    def outlines(self) -> list[Outline]:
        """What was drawn in the masks."""
        rule = mask_rule(self.said.mask, self.said.object, self.said.threshold, each_label=self.said.each_label)
        return [outline for word in self.said.mask for outline in self._drawn(word, rule)]

    def names(self) -> dict[int, str]:
        named: dict[int, str] = {}
        for words in self.said.name:
            label, name = _labelled(words)
            if not name.strip() or not name.isprintable():
                raise InputError(f"{words!r} is no name", "write a line of text", subject="--name")
            named[label or self.label()] = name.strip()
        return named

    def label(self) -> int:
        """The object of prompts that name none: that of --object, the one that is corrected, or 1."""
        known = _labels(self.earlier)
        if self.said.object is not None or not known:
            return self.said.object or 1
        if len(known) > 1:
            choices = [f"--object {label}" for label in known]
            raise AmbiguousError(
                f"holds {len(known)} objects", "say which is meant", subject=self.said.correct, choices=choices
            )
        return known[0]

    def _drawn(self, word: Path, rule: MaskRule) -> list[Outline]:
        file, frame = paged(str(word))
        with naming_pages(file):
            return io.load_outlines(file, self.places.volume, rule, frame=frame)


def mask_rule(masks: Sequence[object], label: int | None, threshold: float | None, *, each_label: bool) -> MaskRule:
    """How the masks of a command line are meant.

    Raises:
        ConfigError: something is said of masks that are not there, or things that exclude each other.
    """
    said = "--threshold" if threshold is not None else "--each-label" if each_label else None
    if said and not masks:
        raise ConfigError(f"{said} speaks of masks, and none was given", "give --mask, or leave it out")
    if each_label and (threshold is not None or label is not None):
        other = "--threshold" if threshold is not None else "--object"
        raise ConfigError(f"--each-label and {other} contradict each other", "give one of them")
    if threshold is not None and not isfinite(threshold):
        raise ConfigError(f"--threshold {threshold} is not finite", "give the smallest number that is inside")
    return MaskRule(label, threshold, each_label)


def paged(word: str) -> tuple[Path, int | None]:
    """A file and its page or time point: "masks.tif#2"."""
    name, mark, page = word.rpartition("#")
    if mark and page.isdecimal() and not Path(word).exists():
        return Path(name), int(page)
    return Path(word), None


@contextmanager
def naming_pages(file: Path) -> Iterator[None]:
    """Where a mask has several pages, name them as the options of masks do; name the file in errors that do not."""
    try:
        yield
    except AmbiguousError as error:
        pages = any("--frame" in choice for choice in error.choices)
        choices = (f"--mask {file}#0", f"--mask {file}#1 …") if pages else error.choices
        raise AmbiguousError(error.problem, error.remedy, subject=file, choices=choices) from None
    except MedicalSam2Error as error:
        raise error.about(file) from None


def _labels(earlier: Volume | None) -> list[int]:
    return [] if earlier is None else [int(label) for label in np.unique(earlier.array) if label]


def _parsed(option: str, text: str) -> tuple[int | None, list[float]]:
    """The object, where it is named before a colon, and the numbers."""
    label, numbers = parsed(f"--{option}", text, VOXELS[f"--{option}"])
    if label and not label.isdecimal():
        raise PromptError(f"{label!r} is no label of an object", "write 2:I J K for object 2", subject=f"--{option}")
    return check_label(int(label)) if label else None, numbers


def _labelled(word: str) -> tuple[int | None, str]:
    head, colon, rest = word.partition(":")
    return (check_label(int(head)), rest) if colon and head.isdecimal() else (None, word)


def check_label(label: int) -> int:
    """The label, if an object can have it."""
    if not 1 <= label <= MOST_OBJECTS:
        raise PromptError(f"object {label} is no label", f"number objects from 1 to {MOST_OBJECTS}; 0 is background")
    return label
