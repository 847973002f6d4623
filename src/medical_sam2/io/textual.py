"""What NRRD and MetaImage share: a text header of `key: value` lines, and voxels after it or in a file beside it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, FormatError, InputError
from medical_sam2.io import values
from medical_sam2.io.files import Content, as_stored, inflated, open_content
from medical_sam2.io.grid import shear_warning, size_warning
from medical_sam2.io.options import Loaded, Options
from medical_sam2.volume import check_affine

MOST_HEADER = 1 << 20
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
Packing = Literal["raw", "gzip", "zlib"]


@dataclass(frozen=True)
class Layout:
    """How the voxels of a text-headed image are stored.

    Args:
        dtype: of a number, with its byte order.
        shape: the three dimensions.
        channels: numbers per voxel, fastest, 1 for grey.
        frames: time points, slowest.
        packing: compression of the data.
        skip: bytes before the voxels; -1: they are the last bytes of the file.
        detached: name of the file that holds them, None if they follow the header.
    """

    dtype: np.dtype
    shape: tuple[int, int, int]
    channels: int
    frames: int
    packing: Packing
    skip: int
    detached: str | None


def line(content: Content, used: int) -> str:
    """The next header line; FormatError if the header has no end."""
    raw = content.stream.readline(MOST_HEADER)
    content.position += len(raw)
    if used + len(raw) >= MOST_HEADER:
        raise FormatError("the header does not end", "repair the file", subject=content.path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.rstrip("\r\n")


def put(fields: dict[str, str], name: str, value: str, path: Path) -> None:
    """Keep a field of a header; FormatError for a name that is none, or is there twice: readers differ in which they take."""
    if not name.isprintable() or not name.isascii():
        raise FormatError("its header holds a line that cannot be read", "repair the header", subject=path)
    if fields.setdefault(name, value) is not value:
        raise FormatError(f"its header tells {name[:30]!r} twice", "repair the header", subject=path)


def numbers(text: str, path: Path, name: str, count: int | None = None) -> list[float]:
    """Finite numbers of a field, `count` of them: as any program spells them, since Python takes 1_0 for ten."""
    words = re.split(r"[ \t,]+", text.strip(" \t"))
    found = [float(word) for word in words] if all(map(NUMBER.fullmatch, words)) else []
    if not found or (count is not None and len(found) != count) or not np.isfinite(found).all():
        raise FormatError(f"its {name} {text[:60]!r} cannot be used", "repair the header", subject=path)
    return found


def sizes(text: str, path: Path, name: str) -> list[int]:
    """Positive whole numbers of a field."""
    found = numbers(text, path, name)
    if any(size < 1 or size != int(size) or size > 2**40 for size in found):
        raise FormatError(f"its {name} {text[:60]!r} is no image size", "repair the header", subject=path)
    return [int(size) for size in found]


def load(content: Content, layout: Layout, affine: NDArray[np.float64], options: Options, notes: list[str]) -> Loaded:
    """Read the voxels that a header describes and make them a volume."""
    path = content.path
    affine = _checked(affine, path)
    frame = _pick(layout.frames, options.frame, path)
    with _voxels(content, layout) as voxels:
        count = layout.channels * layout.shape[0] * layout.shape[1] * layout.shape[2]
        size = count * layout.dtype.itemsize
        if voxels.capacity - voxels.position < size * layout.frames:
            raise voxels.truncated(voxels.position + size * layout.frames)
        voxels.skip(frame * size)
        flat = voxels.array(layout.dtype, count, max_bytes=options.max_bytes)
        voxels.skip((layout.frames - 1 - frame) * size)
        voxels.finish()
        notes += [note for note in voxels.warnings if note not in notes]
    array = _shaped(flat, layout, options, notes)
    if options.clean:
        array, odd = values.clean(array)
        notes += odd + size_warning(layout.shape)
    return Loaded(array, affine, source=path, warnings=(*notes, *shear_warning(affine)))


def _checked(affine: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    try:
        return check_affine(affine)
    except InputError as error:
        raise error.about(path) from None


def _pick(frames: int, frame: int | None, path: Path) -> int:
    if frame is None and frames > 1:
        listed = (f"--frame 0 (first) to --frame {frames - 1} (last)",)
        raise AmbiguousError(f"the image has {frames} time points (frames)", "choose one", subject=path, choices=listed)
    if not 0 <= (frame or 0) < frames:
        raise InputError(f"there is no frame {frame} among {frames}", f"use 0 to {frames - 1}", subject=path)
    return frame or 0


def _shaped(flat: NDArray[Any], layout: Layout, options: Options, notes: list[str]) -> NDArray[Any]:
    if options.layer is not None and options.layer >= layout.channels:
        raise FormatError(f"it has no layer {options.layer}, of which its header speaks", "save it again")
    if layout.channels == 1:
        return flat.reshape(layout.shape, order="F")
    if options.layer is not None:
        return np.ascontiguousarray(flat[options.layer :: layout.channels]).reshape(layout.shape, order="F")
    if layout.channels not in (3, 4) or layout.dtype.itemsize != 1:
        raise FormatError(f"each voxel holds {layout.channels} numbers", "extract one component as an image")
    colours = flat.reshape((*layout.shape[::-1], layout.channels)).transpose(2, 1, 0, 3)
    if not options.clean:
        return values.one_channel(colours)
    notes.append("a colour image; it was turned to grey")
    return values.grey(colours)


@contextmanager
def _voxels(header: Content, layout: Layout) -> Iterator[Content]:
    """Where the voxels start: after the header or in the detached file, unpacked."""
    with ExitStack() as stack:
        content = header
        if layout.detached is not None:
            content = stack.enter_context(open_content(beside(header.path, layout.detached)))
        if layout.packing == "raw":
            _skip(content, layout)
            yield content
            return
        left = max(content.capacity - content.position, 0)
        yield stack.enter_context(inflated(content, left, raw_zlib=layout.packing == "zlib"))


def _skip(content: Content, layout: Layout) -> None:
    if layout.skip >= 0:
        content.skip(layout.skip)
        return
    size = layout.dtype.itemsize * layout.channels * layout.frames * layout.shape[0] * layout.shape[1] * layout.shape[2]
    content.skip(max(content.capacity - content.position - size, 0))


def beside(path: Path, name: str) -> Path:
    """The data file that a header names, if it lies in the header's own folder.

    Raises:
        FormatError: it names a file outside the folder, which a header that was sent by somebody must not reach.
    """
    pure = name.replace("\\", "/")
    target = as_stored(path.parent / pure)
    outside = pure.startswith("/") or ":" in pure[:3] or ".." in pure.split("/") or "\0" in pure
    if outside or not target.resolve().is_relative_to(path.parent.resolve()):
        raise FormatError(
            "its data file (ElementDataFile, data file) lies outside its folder", "put both side by side", subject=path
        )
    if not target.exists():
        raise FormatError(f"its data file {name!r} is missing", "put both side by side", subject=path)
    return target
