"""NIfTI-1 and NIfTI-2, single files and pairs: the header is read with nibabel, every claim that it makes is checked here."""

import gzip
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader, data_type_codes
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, FormatError, InputError
from medical_sam2.io import atomic, nifti_forms, values
from medical_sam2.io.atomic import EFFORT
from medical_sam2.io.files import Content, open_content
from medical_sam2.io.grid import shear_warning, size_warning
from medical_sam2.io.options import Loaded, Options
from medical_sam2.volume import Volume

Header = Nifti1Header | Nifti2Header

COMPLEX = {32, 1792, 2048}
COLOUR = {128: 3, 2304: 4}
NUMBERS = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}
COUNTERPART = {".hdr": ".img", ".img": ".hdr"}


@dataclass(frozen=True)
class NiftiOrigin:
    """The header of the source and the affine that was taken from it."""

    header: Header
    affine: NDArray[np.float64]


def read(path: Path, options: Options) -> Loaded:
    """Read a NIfTI file.

    Raises:
        FormatError: broken, truncated, or of a kind that is no image of numbers.
        GeometryError: no usable affine.
        AmbiguousError: several time points, or forms that contradict each other.
    """
    with _image_files(path) as (head, image):
        header = _header(head)
        shape, frames = _shape(header, path)
        form = nifti_forms.choose(header, shape, options.geometry_from, path)
        frame = _pick(frames, options.frame, path)
        array, notes = _voxels(header, image, shape, (frame, frames), options)
        notes = [*form.warnings, *_container_notes(path, head), *notes]
    if options.clean:
        array, odd = values.clean(array)
        notes += odd + size_warning(shape)
    origin = NiftiOrigin(header, form.affine)
    return Loaded(array, form.affine, source=path, warnings=(*notes, *shear_warning(form.affine)), origin=origin)


@contextmanager
def _image_files(path: Path) -> Iterator[tuple[Content, Content]]:
    """The content that holds the header and the one that holds the voxels: the same, or those of a pair."""
    with open_content(path) as first:
        if not _paired(path):
            yield first, first
            return
        name = path.name.lower().removesuffix(".gz")
        partner = _counterpart(path)
        with _open_partner(partner, path) as second:
            yield (first, second) if name.endswith(".hdr") else (second, first)


def _paired(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def _counterpart(path: Path) -> Path:
    """`brain.img` of `brain.hdr` and back, with or without .gz."""
    packed = path.name.lower().endswith(".gz")
    stem = path.with_suffix("") if packed else path
    other = stem.with_suffix(COUNTERPART[stem.suffix.lower()])
    choices = [other.with_name(other.name + ".gz"), other] if packed else [other, other.with_name(other.name + ".gz")]
    return next((choice for choice in choices if choice.exists()), other)


@contextmanager
def _open_partner(partner: Path, path: Path) -> Iterator[Content]:
    try:
        opened = open_content(partner)
        content = opened.__enter__()
    except InputError as error:
        raise FormatError(
            f"its other half {partner.name} cannot be read ({error.problem})", f"put {partner.name} beside it", subject=path
        ) from None
    try:
        yield content
    except BaseException as error:
        if not opened.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        opened.__exit__(None, None, None)


def _header(content: Content) -> Header:
    start = content.read(348)
    order = "<" if int.from_bytes(start[:4], "little") in {348, 540} else ">"
    if int.from_bytes(start[:4], "little" if order == "<" else "big") == 540:
        start += content.read(540 - 348)
        kinds = {b"n+2\0\r\n\x1a\n": Nifti2Header, b"ni2\0\r\n\x1a\n": Nifti2PairHeader}
        magic = start[4:12]
    else:
        kinds = {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader}
        magic = start[344:348]
    if magic not in kinds:
        raise FormatError(
            "this is an Analyze file or a damaged NIfTI header: its magic is missing, so its orientation is unknown",
            "convert it to NIfTI with a tool that knows where it came from",
            subject=content.path,
        )
    return kinds[magic](start, endianness=order, check=False)


def _shape(header: Header, path: Path) -> tuple[tuple[int, int, int], int]:
    """The three dimensions and the number of time points."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise FormatError(f"the header declares {count} dimensions", "repair the header", subject=path)
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise FormatError(f"the header declares dimensions {sizes}: the image is empty", "repair the header", subject=path)
    i, j, k, t, *more = (*sizes, *[1] * (4 - len(sizes)))
    if any(size > 1 for size in more):
        raise FormatError(
            f"the image has {count} dimensions {sizes}: it holds vectors, not intensities",
            "extract one component as a 3-dimensional image",
            subject=path,
        )
    return (i, j, k), t


def _pick(frames: int, frame: int | None, path: Path) -> int:
    """The time point to read."""
    if frame is None and frames > 1:
        raise AmbiguousError(
            f"the image has {frames} time points (frames)",
            "choose one",
            subject=path,
            choices=(f"--frame 0 (first) to --frame {frames - 1} (last)",),
        )
    if not 0 <= (frame or 0) < frames:
        raise InputError(f"there is no frame {frame} among {frames}", f"use 0 to {frames - 1}", subject=path)
    return frame or 0


def _voxels(
    header: Header, image: Content, shape: tuple[int, int, int], which: tuple[int, int], options: Options
) -> tuple[NDArray[Any], list[str]]:
    notes: list[str] = []
    dtype, channels = _dtype(header, image.path)
    if (claimed := int(header["bitpix"])) != 8 * dtype.itemsize * channels:
        notes.append(f"bitpix says {claimed} bits, the datatype {8 * dtype.itemsize * channels}; the datatype counts")
    count = int(np.prod([int(size) for size in (*shape, channels)], dtype=object))
    _seek(header, image, notes)
    frame, frames = which
    left = image.capacity - image.position
    if left < count * dtype.itemsize * frames:
        raise image.truncated(image.position + count * dtype.itemsize * frames)
    image.skip(frame * count * dtype.itemsize)
    flat = image.array(dtype, count, max_bytes=options.max_bytes)
    image.skip((frames - 1 - frame) * count * dtype.itemsize)
    image.finish()
    if channels > 1:
        colours = flat.reshape((*shape[::-1], channels)).transpose(2, 1, 0, 3)
        if not options.clean:
            return values.one_channel(colours), notes + image.warnings
        notes.append("a colour image; it was turned to grey")
        return values.grey(colours), notes + image.warnings
    array = flat.reshape(shape, order="F")
    return _scaled(header, array, image.path, notes), notes + image.warnings


def _dtype(header: Header, path: Path) -> tuple[np.dtype, int]:
    """Type of a number and numbers per voxel."""
    code = int(header["datatype"])
    if code in COLOUR:
        return np.dtype(np.uint8), COLOUR[code]
    if code in COMPLEX:
        raise FormatError("the voxels are complex numbers", "export magnitude or phase as a real image", subject=path)
    if code not in NUMBERS:
        known = f" ({data_type_codes.label[code]})" if code in data_type_codes.value_set("code") else ""
        raise FormatError(f"datatype {code}{known} cannot be read", "convert it to integers or float32", subject=path)
    return np.dtype(cast(Any, data_type_codes.dtype[code])).newbyteorder(header.endianness), 1


def _seek(header: Header, image: Content, notes: list[str]) -> None:
    """Go to the first voxel, through the extensions, whose declared sizes are checked."""
    offset = float(header["vox_offset"])
    if not (np.isfinite(offset) and offset >= 0 and offset == int(offset)):
        raise FormatError(f"vox_offset is {offset:g}, no position in a file", "repair the header", subject=image.path)
    target = int(offset)
    single = image.position >= 348
    if single and target == 0:
        target = image.position + 4
        notes.append(f"vox_offset is 0; the voxels are taken from byte {target}")
    if single and target < image.position + 4:
        raise FormatError(f"vox_offset {target} lies inside the header", "repair the header", subject=image.path)
    if single and target >= image.position + 4 and image.read(4)[0]:
        _check_extensions(header, image, target)
    image.skip(target - image.position)


def _check_extensions(header: Header, image: Content, end: int) -> None:
    order = "little" if header.endianness == "<" else "big"
    while image.position + 8 <= end:
        size = int.from_bytes(image.read(8)[:4], order, signed=True)
        if size < 16 or size % 16 or image.position - 8 + size > end:
            raise FormatError(f"a header extension declares a size of {size} bytes", "repair the header", subject=image.path)
        image.skip(size - 8)


def _scaled(header: Header, array: NDArray[Any], path: Path, notes: list[str]) -> NDArray[Any]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isnan(slope) or (np.isnan(inter) and slope != 0):
        notes.append("the scaling (scl_slope, scl_inter) is NaN; the values are taken unscaled")
        return array
    if slope == 0:
        return array
    if np.isinf(slope) or np.isinf(inter):
        raise FormatError("the scaling (scl_slope, scl_inter) is infinite", "repair the header", subject=path)
    if slope < 0:
        notes.append(f"scl_slope is negative ({slope:g}): stored values are turned upside down")
    return values.rescale(array, slope, inter)


def _container_notes(path: Path, head: Content) -> list[str]:
    named = path.name.lower().endswith(".gz")
    if named == head.gzipped:
        return []
    return [
        "the file is gzipped although its name does not say so" if head.gzipped else "the file is not gzipped, as its name says"
    ]


def save(array: NDArray[Any], path: Path, like: Volume) -> None:
    """Write an array in the grid of `like`; with `like` from a NIfTI file, its forms are repeated bit for bit."""
    origin = like.origin if isinstance(like, Loaded) and isinstance(like.origin, NiftiOrigin) else None
    wide = isinstance(origin.header, Nifti2Header) if origin else False
    header = Nifti2Header() if wide or max(array.shape) > 32767 else Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    nifti_forms.write(header, like.affine, origin.header if origin else None)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = len(header.binaryblock) + 4, 1, 0
    with atomic.writing(path) as stream, _packed(stream, path) as out:
        out.write(header.binaryblock + bytes(4))
        for k in range(array.shape[2]):
            out.write(array[:, :, k].astype(header.get_data_dtype(), copy=False).tobytes(order="F"))


def _packed(stream: BinaryIO, path: Path) -> AbstractContextManager[Any]:
    """Gzip where the name says so, without name and time of writing inside."""
    return gzip.GzipFile("", "wb", EFFORT, stream, mtime=0) if path.name.lower().endswith(".gz") else nullcontext(stream)
