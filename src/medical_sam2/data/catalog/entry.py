"""What is known of a published data set, and how its files are found."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Literal

from medical_sam2.data.cases import Kind
from medical_sam2.data.dataset import Case, DataSet, Split
from medical_sam2.errors import FormatError, InputError
from medical_sam2.volume import Volume

HOLE = "{case}"
SAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie, relative to the folder of the data set.

    Args:
        images: a path for each channel, with `{case}` (once or more, the same each time) for the name of the case and `*` for
            any part of a name that does not matter.
        label: likewise; "" where there are none.
        split: what these cases are for.
    """

    images: tuple[str, ...]
    label: str = ""
    split: Split = "train"


@dataclass(frozen=True)
class Entry:
    """A published data set.

    Args:
        title: its full name.
        url: page on which it is described and obtained.
        access: what one has to do to obtain it.
        licence: of the data; "unknown" where nobody says.
        citation: the paper.
        kind: "volume", or "set" for 2D images in no order.
        modality: what took the images.
        channels: what each channel shows.
        structures: name → values of the label maps.
        prompt: what the paper prompts it with (METHOD §7).
        layouts: as published; all that fit are read.
        unconfirmed: what is believed and was not seen in the data or its documentation, one line each.
        remap: number in the files of labels → value that is meant, where they differ.
        opener: reads a file of another format than `medical_sam2.io` knows.
        ignore: value of what nobody outlined.
    """

    title: str
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
    opener: Callable[[Path], Volume] | None = None
    ignore: int | None = None

    def read(self, folder: Path) -> DataSet:
        """The data set in a folder that was downloaded and unpacked.

        Raises:
            InputError: no such folder.
            FormatError: nothing lies where it should, or an image to train on has no labels.
        """
        if not folder.is_dir():
            raise InputError("there is no such folder", "give the folder that was downloaded", subject=folder)
        cases = sorted(
            (case for layout in self.layouts for case in _cases(folder, layout)),
            key=lambda case: (case.split != "train", case.identifier),
        )
        if not cases:
            expected = " or ".join(layout.images[0].replace(HOLE, "CASE") for layout in self.layouts)
            raise FormatError(f"{self.title} is not there: no {expected}", "give the folder that holds these", subject=folder)
        return DataSet(
            name=self.title,
            folder=folder,
            kind=self.kind,
            channels=self.channels,
            structures=self.structures,
            cases=tuple(cases),
            modality=self.modality,
            ignore=self.ignore,
            prompt=self.prompt,
            licence=self.licence,
            remap=self.remap,
            opener=self.opener,
        )


def _cases(folder: Path, layout: Layout) -> Iterator[Case]:
    """The cases of one layout, by the files of their first channel."""
    first, *others = layout.images
    pattern = _pattern(first)
    for path in sorted(folder.glob(first.replace(HOLE, "*"))):
        match = pattern.fullmatch(path.relative_to(folder).as_posix())
        if match is None:
            continue
        name = match["case"]
        images = (path, *(_only(folder, other, name) for other in others))
        label = _only(folder, layout.label, name) if layout.label else None
        yield Case(SAFE.sub("_", name), images, label, layout.split)


def _pattern(template: str) -> re.Pattern[str]:
    """The template as an expression; later mentions of the case repeat the first."""
    pieces = [re.escape(piece).replace(r"\*", "[^/]*") for piece in template.split(HOLE)]
    holes = ["(?P<case>[^/]+)", *["(?P=case)"] * (len(pieces) - 2)]
    return re.compile("".join(piece + hole for piece, hole in zip(pieces, [*holes, ""], strict=True)))


def _only(folder: Path, template: str, name: str) -> Path:
    wanted = template.replace(HOLE, name)
    found = sorted(folder.glob(template.replace(HOLE, escape(name))))
    if not found:
        raise FormatError("this file is missing", "download the data set again, or remove the case", subject=folder / wanted)
    return found[0]
