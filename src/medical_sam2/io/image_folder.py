"""A folder of 2D images of any kind, read one by one as they are asked for."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, InputError, MedicalSam2Error, PromptError, ResourceError
from medical_sam2.io import read
from medical_sam2.io.images import page_count
from medical_sam2.io.registry import DICOM, PNG, Picture, recognise, suffixes
from medical_sam2.io.safe_open import as_stored
from medical_sam2.io.voxels import CONVERT, as_picture
from medical_sam2.plugins import suggestion


@dataclass(frozen=True)
class FolderEntry:
    """A file, or a page of one."""

    file: Path  # where it is
    page: int | None = None  # which one, from 0, of a file with several

    @property
    def name(self) -> str:
        """As a user names it: "b.png", "stack.tif#3"."""
        return self.file.name if self.page is None else f"{self.file.name}#{self.page}"

    @property
    def stem(self) -> str:
        """The same without the ending, and without what a file name cannot hold."""
        ending = _ending(self.file)
        return self.file.name.removesuffix(ending) + ("" if self.page is None else f"_{self.page:04d}")


class ImageFolder(Sequence[NDArray[np.generic]]):
    """The images of a folder, by name; the one that was read last is kept.

    Args:
        folder: where they are.
        entries: each an image.
        others: names of files that are none, and of folders (with a slash).
    """

    def __init__(self, folder: Path, entries: Sequence[FolderEntry], others: Sequence[str] = ()) -> None:
        self.folder, self.entries, self.others = folder, tuple(entries), tuple(others)
        self._last: tuple[int, Picture] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.generic]: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFolder": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.generic] | ImageFolder":
        """The pixels of an image (H, W) or (H, W, 3), or a part of the folder."""
        if isinstance(index, slice):
            return ImageFolder(self.folder, self.entries[index])
        return self.picture(index).array

    def picture(self, index: int) -> Picture:
        """An image with what its file tells; raises MedicalSam2Error, which names the file, if it cannot be used."""
        if self._last is None or self._last[0] != index:
            self._last = None
            self._last = index, _picture(self.entries[index])
        return self._last[1]

    # People name images as they see them: by name, by path, in another spelling of an accent, with or without a page.
    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The place of an image that is called so, or of the file with that path; raises PromptError if there is none."""
        names = {entry.name: place for place, entry in enumerate(self.entries)}
        word = str(value)
        if word in names:
            return names[word]
        spelled = [place for name, place in names.items() if normalize("NFC", name) == normalize("NFC", word)]
        if len(spelled) == 1:
            return spelled[0]
        name, _, page = word.rpartition("#") if "#" in word else (word, "", "")
        path = as_stored(Path(name))
        for place, entry in enumerate(self.entries):
            same = path.exists() and entry.file.samefile(path)
            if same and (page == "" if entry.page is None else str(entry.page) == page):
                return place
        if any(entry.page is not None and entry.file.name == Path(word).name for entry in self.entries):
            raise PromptError("it has several pages", f"name one of them: {Path(word).name}#0", subject=word)
        raise PromptError(f"there is no such image in {self.folder}", _near(Path(word).name, list(names)), subject=word)

    def outputs(self, folder: Path) -> list[Path]:
        """A PNG file for each image: named after it, with its whole name where two would be the same, if but on some systems.

        Raises:
            InputError: two whole names would be the same there, too.
        """
        names = [entry.stem for entry in self.entries]
        whole = [entry.name.replace("#", "_") for entry in self.entries]
        while shared := _same_files(names):
            longer = [place for place in shared if names[place] != whole[place]]
            if not longer:
                one, other = (self.entries[place].name for place in shared[:2])
                problem = f"{one} and {other} differ in nothing but capitals, or in how accents are written"
                raise InputError(
                    f"{problem}: their label maps would be one file on some systems", "rename one", subject=self.folder
                )
            for place in longer:  # whose whole name may be the short one of a third
                names[place] = whole[place]
        return [folder / f"{name}{PNG.written[0]}" for name in names]


def open_folder(folder: Path) -> ImageFolder:
    """List the images of a folder, sorted by name; each page of a TIFF and each frame of a film is one. None is read.

    Raises:
        InputError: no such folder.
        FormatError: it holds no image.
    """
    folder = as_stored(folder)
    if not folder.is_dir():
        problem, remedy = "there is no such folder", "give the folder that holds the images"
        if folder.exists():
            problem, remedy = "is a file", _instead_of(folder)
        raise InputError(problem, remedy, subject=folder)
    entries: list[FolderEntry] = []
    others: list[str] = []
    for file in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if file.is_dir():
            others.append(f"{file.name}/")
        elif _is_image(file):
            entries += _pages(file)
        else:
            others.append(file.name)
    if not entries:
        raise FormatError(
            f"it holds no image ({len(others)} other files and folders)", f"put {', '.join(_endings())} there", subject=folder
        )
    return ImageFolder(folder, entries, others)


def _instead_of(file: Path) -> str:
    """What to give where a file was given for a folder of images: a stack may be unrelated images, or a volume."""
    pages = 0
    with suppress(MedicalSam2Error):
        format = recognise(file)
        pages = page_count(file) if format is not None and format.kind == "picture" else 0
    if not pages:
        return "give the folder that holds the images; a volume is outlined with `medsam2 segment`"
    if pages == 1:
        return "give the folder that it lies in"
    each = f"give the folder that it lies in, where each of its {pages} pages is an image"
    return f"{each}; {CONVERT}, for `medsam2 segment`"


def _same_files(names: Sequence[str]) -> list[int]:
    """Places of the names that some system takes for one with another of them, those of one name one after the other."""
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        alike.setdefault(normalize("NFC", name).casefold(), []).append(place)
    return [place for places in alike.values() if len(places) > 1 for place in places]


def _picture(entry: FolderEntry) -> Picture:
    try:
        found = read(entry.file, frame=entry.page)
        return replace(as_picture(found, entry.file), frame=entry.page or 0)
    except MedicalSam2Error as error:
        raise error.about(entry.file) from None
    except MemoryError:
        raise ResourceError("the memory does not hold it", "crop it", subject=entry.file) from None


def _pages(file: Path) -> Iterator[FolderEntry]:
    """A file that cannot be counted is one image: it says what is wrong with it when it is read."""
    try:
        if recognise(file) is DICOM:
            from medical_sam2.io.dicom.headers import picture_count  # pydicom takes a while to load: not for other formats

            count = picture_count(file)
        else:
            count = page_count(file)
    except MedicalSam2Error:
        count = 1
    yield from (FolderEntry(file, page) for page in range(count)) if count > 1 else (FolderEntry(file),)


def _is_image(file: Path) -> bool:
    if _ending(file):
        return True
    try:
        return file.is_file() and recognise(file) is not None
    except MedicalSam2Error:
        return False


def _endings() -> tuple[str, ...]:
    """Of files that must be images; a file with another one is taken if its content is an image."""
    return (*sorted(suffixes("picture")), *suffixes("volume"))


def _ending(file: Path) -> str:
    name = file.name
    return next((name[-len(ending) :] for ending in _endings() if name.lower().endswith(ending)), "")


def _near(name: str, names: Sequence[str], most: int = 5) -> str:
    if len(names) <= most:
        return suggestion(name, names)
    hint = suggestion(name, names).partition("? ")
    start = f"{hint[0]}? " if hint[1] else ""
    return f"{start}the folder holds {', '.join(names[:most])} … ({len(names)} images)"
