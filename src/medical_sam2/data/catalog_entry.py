"""What is known of a published data set, and how its files are found."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medical_sam2.data.cases import Kind
from medical_sam2.data.data_sets import Case, DataSet, Split
from medical_sam2.errors import FormatError, InputError
from medical_sam2.io import Picture
from medical_sam2.volume import Volume

HOLE = "{case}"
SAFE = re.compile(r"[^\w.-]+")
WHITE: Mapping[int, int] = {value: int(value >= 128) for value in range(256)}
"""Masks that are black and white, with or without greys along their borders."""


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie, relative to the folder of the data set.

    Args:
        images: a path for each channel: `{case}` is the name of the case, the same wherever it stands; `*` any part of a name;
            `**/` any folders or none, so that it does not matter which folder of the download is given.
        label: likewise; "" where there are none.
        split: what these cases are for.
        prefix: of the cases' names, where two layouts would give the same ones.
        some: whether cases without a label are no mistake, and left out.
    """

    images: tuple[str, ...]
    label: str = ""
    split: Split = "train"
    prefix: str = ""
    some: bool = False


@dataclass(frozen=True)
class Entry:
    """A published data set.

    Args:
        title: its name.
        about: one line about it.
        url: page on which it is described and obtained.
        access: what one has to do to obtain it.
        licence: of the data; says so where nobody tells.
        citation: the paper.
        kind: "volume", or "set" for 2D images in no order.
        modality: what took the images.
        channels: what each channel shows.
        structures: name → values of the label maps.
        prompt: what the paper prompts it with (METHOD §7).
        layouts: as published; all that fit are read.
        unconfirmed: what is believed and was not seen in the data or its documentation; what a user must know. One line each.
        remap: number in the files of labels → value that is meant, where they differ.
        opener: reads a file of another format than `medical_sam2.io` knows.
    """

    title: str
    about: str
    url: str
    access: str
    licence: str
    citation: str
    kind: Kind
    modality: str
    channels: tuple[str, ...]
    structures: Mapping[str, tuple[int, ...]]
    prompt: Literal["click", "box", "mask"]
    layouts: tuple[Layout, ...]
    unconfirmed: tuple[str, ...] = ()
    remap: Mapping[int, int] | None = None
    opener: Callable[[Path], Volume | Picture] | None = None

    def read(self, folder: Path) -> DataSet:
        """The data set in a folder that was downloaded and unpacked; no image is opened.

        Raises:
            InputError: no such folder.
            FormatError: nothing lies where it should, or an image to train on has no labels.
        """
        if not folder.is_dir():
            raise InputError("there is no such folder", "give the folder that was downloaded", subject=folder)
        found = {case.images: case for layout in self.layouts for case in _cases(folder, layout)}
        cases = sorted(found.values(), key=lambda case: (case.split != "train", case.identifier))
        if not cases:
            expected = " or ".join(dict.fromkeys(layout.images[0].replace(HOLE, "CASE") for layout in self.layouts))
            raise FormatError(f"{self.title} is not there: no {expected}", "give the folder that holds these", subject=folder)
        return DataSet(
            name=self.title,
            folder=folder,
            kind=self.kind,
            channels=self.channels,
            structures=self.structures,
            cases=tuple(cases),
            modality=self.modality,
            prompt=self.prompt,
            licence=self.licence,
            remap=self.remap,
            opener=self.opener,
        )


def _cases(folder: Path, layout: Layout) -> Iterator[Case]:
    """The cases of one layout, by the files of their first channel."""
    first, *others = (_by_case(folder, template) for template in layout.images)
    labels = _by_case(folder, layout.label) if layout.label else {}
    taken = set(labels.values())
    for name, path in first.items():
        if path in taken or (layout.some and name not in labels):
            continue
        images = (
            path,
            *(_of(name, other, folder, template) for other, template in zip(others, layout.images[1:], strict=True)),
        )
        label = _of(name, labels, folder, layout.label) if layout.label else None
        yield Case(layout.prefix + SAFE.sub("_", name), images, label, layout.split)


def _by_case(folder: Path, template: str) -> dict[str, Path]:
    """Name of the case → its file, the first one where several fit."""
    pattern = _pattern(template)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(template.replace(HOLE, "*"))):
        match = pattern.fullmatch(path.relative_to(folder).as_posix())
        if match is not None:
            found.setdefault(match["case"], path)
    return found


def _pattern(template: str) -> re.Pattern[str]:
    """The template as an expression; later mentions of the case repeat the first."""
    words = {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*"}
    text = re.escape(template)
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    hole = re.escape(HOLE)
    return re.compile(text.replace(hole, "(?P<case>[^/]+)", 1).replace(hole, "(?P=case)"))


def _of(name: str, files: Mapping[str, Path], folder: Path, template: str) -> Path:
    if name not in files:
        wanted = template.replace(HOLE, name)
        raise FormatError(f"{wanted} is missing", "download the data set again, or remove the case", subject=folder)
    return files[name]
