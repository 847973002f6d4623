"""The prompts of a command line on the images of a folder: words become clicks, boxes and outlines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medical_sam2.cli._numbers import PIXELS, parsed
from medical_sam2.cli._prompts import check_label, mask_rule, naming_pages, paged
from medical_sam2.cli._set_options import SetPromptOptions
from medical_sam2.errors import AmbiguousError, InputError, PromptError
from medical_sam2.io.image_folder import ImageFolder
from medical_sam2.io.labels import MaskRule, Outline, is_lossy, outlines, read_label_map
from medical_sam2.prompts import FramePrompt


@dataclass(frozen=True)
class SetPrompts:
    """What was said, on which images.

    Args:
        said: image → object → prompt.
        names: object → name.
        files: masks that were read.
    """

    said: Mapping[int, Mapping[int, FramePrompt]]
    names: Mapping[int, str]
    files: tuple[Path, ...]


def gathered(said: SetPromptOptions, images: ImageFolder) -> SetPrompts:
    """All prompts of the command line.

    Raises:
        PromptError: none, one that does not fit its image, or a template that is not in the folder or without a prompt.
        AmbiguousError: it is not clear which template is meant.
    """
    speaker = _Speaker(said, images, [images.index(name) for name in said.template])
    for positive, option in ((True, "point"), (False, "negative")):
        for text in getattr(said, option):
            place, label, (x, y) = speaker.parsed(option, text)
            speaker.add(place, label, FramePrompt.click(x, y, positive=positive))
    for text in said.box:
        place, label, (x, y, x2, y2) = speaker.parsed("box", text)
        speaker.add(place, label, FramePrompt.box(min(x, x2), min(y, y2), max(x, x2), max(y, y2)))
    files = speaker.masks()
    silent = [i for i in speaker.templates if i not in speaker.found]
    if not speaker.found or silent:
        name = images.entries[silent[0]].name if silent else None
        raise PromptError("there is no prompt", "give --template IMAGE with --mask, --box or --point", subject=name)
    names = speaker.names()
    labels = {label for own in speaker.found.values() for label in own}
    if unknown := sorted(names.keys() - labels):
        raise PromptError(f"a name is given to object {unknown[0]}, which has no prompt", "prompt it, or leave its name out")
    return SetPrompts(speaker.found, names, files)


@dataclass
class _Speaker:
    said: SetPromptOptions
    images: ImageFolder
    templates: list[int]
    found: dict[int, dict[int, FramePrompt]] = field(default_factory=dict)

    def add(self, place: int, label: int, prompt: FramePrompt) -> None:
        own = self.found.setdefault(place, {})
        name = self.images.entries[place].name
        own[label] = own[label].joined(prompt, label, name) if label in own else prompt

    def parsed(self, option: str, text: str) -> tuple[int, int, list[float]]:
        """Image, object and numbers of "IMAGE:LABEL:X Y"."""
        head, numbers = parsed(f"--{option}", text, PIXELS[f"--{option}"])
        image, _, label = head.rpartition(":")
        if head and not label.isdecimal():
            image, label = head, ""
        place = self.images.index(image) if image else self._only(option)
        return place, check_label(int(label)) if label else self._label(), numbers

    def masks(self) -> tuple[Path, ...]:
        """Add the outlines of all masks; their files."""
        said = self.said
        rule = mask_rule(said.mask, said.object, said.threshold, each_label=said.each_label)
        files: list[Path] = []
        for order, word in enumerate(said.mask):
            place, (file, page) = self._mask(order, word)
            for outline in self._outlines(file, page, place, rule):
                self.add(place, outline.label, FramePrompt.mask(outline.inside))
            files.append(file)
        return tuple(files)

    def names(self) -> dict[int, str]:
        named: dict[int, str] = {}
        for words in self.said.name:
            head, colon, rest = words.partition(":")
            label, name = (check_label(int(head)), rest) if colon and head.isdecimal() else (self._label(), words)
            if not name.strip() or not name.isprintable():
                raise InputError(f"{words!r} is no name", "write a line of text", subject="--name")
            named[label] = name.strip()
        return named

    def _label(self) -> int:
        return 1 if self.said.object is None else check_label(self.said.object)

    def _only(self, option: str) -> int:
        if len(self.templates) == 1:
            return self.templates[0]
        if not self.templates:
            raise PromptError(f"--{option} needs an image", f"add --template IMAGE, one of {self.images.folder}")
        choices = [f"--{option} {self.images.entries[i].name}:{PIXELS.get(f'--{option}', 'FILE')}" for i in self.templates]
        raise AmbiguousError(f"there are several templates, and --{option} names none", "say which", choices=choices)

    def _mask(self, order: int, word: str) -> tuple[int, tuple[Path, int | None]]:
        image, colon, rest = word.partition(":")
        if colon and not paged(word)[0].exists():
            return self.images.index(image), paged(rest)
        if len(self.said.mask) == len(self.templates):
            return self.templates[order], paged(word)
        return self._only("mask"), paged(word)

    def _outlines(self, file: Path, page: int | None, place: int, rule: MaskRule) -> list[Outline]:
        with naming_pages(file):
            numbers, shape = read_label_map(file, page), self.images[place].shape[:2]
            if numbers.shape != shape:
                sizes = [f"{width} × {height} pixels" for height, width in (numbers.shape, shape)]
                name = self.images.entries[place].name
                raise PromptError(f"it has {sizes[0]}, the image {name} {sizes[1]}", "give a mask of that size", subject=file)
            return outlines(numbers, rule, lossy=is_lossy(file))
