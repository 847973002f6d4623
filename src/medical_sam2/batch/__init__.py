"""Many volumes in one run: cases from a folder or a table, outlined one after the other or by a cluster, each result whole.

Here is what a case is, and where its prompts come from. `table` and `cases` say what is to be done, `run` does it, `outputs`
says how it lies there; `cluster` spreads it over machines.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medical_sam2 import io
from medical_sam2.data.data_sets import stem
from medical_sam2.errors import PromptError
from medical_sam2.io.labels import AS_DRAWN, MaskRule
from medical_sam2.io.prompt_file import NamedPrompts, check_limits_given_once, describe_shared_names, load_prompts, masks_from
from medical_sam2.volume import Volume


class PromptSource(Protocol):
    """Where prompts of an image come from."""

    def read(self, volume: Volume) -> NamedPrompts:
        """The prompts in an image; raises what `load_prompts` does."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What they depend on, beside the content of `files`."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that are read."""
        ...


@dataclass(frozen=True)
class TemplateFiles:
    """An annotated volume, whose objects are looked for in others."""

    image: Path  # file, or folder with a DICOM series
    mask: Path  # its labels
    rule: MaskRule = AS_DRAWN  # how their numbers are meant

    @property
    def name(self) -> str:
        """What tables call it."""
        return stem(self.image)


@dataclass(frozen=True)
class BatchCase:
    """An image with its prompts."""

    name: str  # of the case: its results are called so
    image: Path  # file, or folder with a DICOM series, that is outlined
    prompts: tuple[PromptSource, ...] = ()  # what was pointed at in it
    channels: tuple[Path, ...] = ()  # all files of the image, where it has several
    template: TemplateFiles | None = None  # whose objects are looked for, but those that are prompted

    @property
    def reads_masks(self) -> bool:
        """Whether voxels must be read to know its objects."""
        return self.template is not None or any(file.suffix.lower() != ".json" for each in self.prompts for file in each.files)

    def read_prompts(self, volume: Volume) -> NamedPrompts:
        """All prompts in the image; raises PromptError for none or two names of an object, and what the sources raise."""
        found = [source.read(volume) for source in self.prompts]
        names: dict[int, str] = {}
        for label, name in (pair for each in found for pair in each.names.items()):
            if names.setdefault(label, name) != name:
                raise PromptError(f"object {label} is called {names[label]!r} and {name!r}", "give it one name")
        prompts = tuple(prompt for each in found for prompt in each.prompts)
        check_limits_given_once(prompts)
        files = tuple(file for each in self.prompts for file in each.files)
        notes = dict.fromkeys([note for each in found for note in each.notes] + describe_shared_names(names))
        return NamedPrompts(prompts, names, files, notes=tuple(notes))

    def known_names(self, volume: Volume) -> dict[int, str]:
        """Label → name, "" where there is none, as far as prompts tell them without a mask being read."""
        names: dict[int, str] = {}
        for source in self.prompts:
            facts = source.facts()
            if all(file.suffix.lower() == ".json" for file in source.files):
                found = source.read(volume)
                names |= {label: found.names.get(label) or names.get(label, "") for label in found.labels}
            elif isinstance(facts.get("object"), int):  # a mask that a row of a table names
                names[facts["object"]] = facts["name"] or names.get(facts["object"], "")
        return names


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts (JSON)."""

    path: Path

    def read(self, volume: Volume) -> NamedPrompts:
        """Its prompts."""
        return load_prompts(self.path, volume)

    def facts(self) -> Mapping[str, Any]:
        """Nothing but its content."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """It, and the masks that it names."""
        named = _files_named(io.load_json(self.path))
        return (self.path, *(self.path.parent / file for file in named))


def _files_named(content: object) -> Iterator[str]:
    """Whatever stands under the key `file`, at any depth."""
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _files_named(value)
    if isinstance(content, dict) and isinstance(content.get("file"), str):
        yield content["file"]


@dataclass(frozen=True)
class MaskFile:
    """A mask in the grid of the image: each label is an object, as `segment --mask` takes it."""

    path: Path
    rule: MaskRule = AS_DRAWN

    def read(self, volume: Volume) -> NamedPrompts:
        """What is drawn in it."""
        found = io.load_outlines(self.path, volume, self.rule)
        names = {each.label: each.name for each in found if each.name}
        notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
        return NamedPrompts(tuple(masks_from(found)), names, (self.path,), notes=notes)

    def facts(self) -> Mapping[str, Any]:
        """How its numbers are meant."""
        return {"rule": vars(self.rule)}

    @property
    def files(self) -> tuple[Path, ...]:
        """It."""
        return (self.path,)
