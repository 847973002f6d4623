"""Voxels, whatever the format: read after a text header (NRRD, MetaImage), cleaned, their grids compared, oddities named."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError, require_index, say_count
from medical_sam2.intensity_window import BLANK, in_hounsfield, is_blank, percentile_window
from medical_sam2.io.registry import Loaded, Options, Picture
from medical_sam2.io.safe_open import Content, as_stored, inflated, open_content
from medical_sam2.volume import MOST_OBJECTS, Segmentation, Volume, check_affine

MOST_HEADER = 1 << 20
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
Packing = Literal["raw", "gzip", "zlib"]
NO_PLACE = "these are frames without a place in the patient: millimetres between them mean nothing"
CONVERT = "convert a volume (confocal, µCT) to NIfTI, NRRD or MHA with its spacing"
"""What to do with a stack of pictures that is one."""


@dataclass(frozen=True)
class VoxelLayout:
    """How the voxels of a text-headed image are stored."""

    dtype: np.dtype  # of a number, with its byte order
    shape: tuple[int, int, int]  # the three dimensions
    channels: int  # numbers per voxel, fastest, 1 for grey
    frames: int  # time points, slowest
    packing: Packing  # compression of the data
    skip: int  # bytes before the voxels; -1: they are the last bytes of the file
    detached: str | None  # name of the file that holds them, None if they follow the header


def read_line(content: Content, used: int) -> str:
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


class TextHeader(dict[str, str]):
    """Fields of a text header by their names in lower case; what is wrong with one is refused with a FormatError.

    Args:
        path: of the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def refuse(self, problem: str, remedy: str = "repair the header") -> NoReturn:
        """Refuse the file."""
        raise FormatError(problem, remedy, subject=self.path)

    def put(self, name: str, value: str) -> None:
        """Keep a field; refuse a name that is none, or is there twice: readers differ in which they take."""
        if not name.isprintable() or not name.isascii():
            self.refuse("its header holds a line that cannot be read")
        if self.setdefault(name, value) is not value:
            self.refuse(f"its header tells {name[:30]!r} twice")

    def require(self, name: str, shown: str = "") -> str:
        """The text of a field that must be there."""
        if name not in self:
            self.refuse(f"its header lacks {shown or repr(name)}")
        return self[name]

    def numbers(self, text: str, name: str, count: int | None = None) -> list[float]:
        """Finite numbers of a field, `count` of them: as any program spells them, since Python takes 1_0 for ten."""
        words = re.split(r"[ \t,]+", text.strip(" \t"))
        found = [float(word) for word in words] if all(map(NUMBER.fullmatch, words)) else []
        if not found or (count is not None and len(found) != count) or not np.isfinite(found).all():
            self.refuse(f"its {name} {text[:60]!r} cannot be used")
        return found

    def sizes(self, text: str, name: str) -> list[int]:
        """Positive whole numbers of a field."""
        found = self.numbers(text, name)
        if any(size < 1 or size != int(size) or size > 2**40 for size in found):
            self.refuse(f"its {name} {text[:60]!r} is no image size")
        return [int(size) for size in found]

    def number_type(self, kind: str, name: str, types: Mapping[str, str], *, big: bool) -> np.dtype:
        """The type that is called so, with its byte order."""
        if kind not in types:
            self.refuse(f"its {name} {kind[:30]!r} cannot be read", "convert it to integers or float")
        return np.dtype(types[kind]).newbyteorder(">" if big else "<")

    def skip(self, text: str, name: str, *, packed: bool) -> int:
        """How many bytes lie before the voxels: none before packed ones, for readers differ in what they skip then."""
        skip = self.numbers(text, name, 1)[0]
        if skip != int(skip) or skip < -1 or (skip and packed):
            self.refuse(f"its {name} {skip:g} cannot be used")
        return int(skip)

    def check_data_file(self, file: str, name: str) -> None:
        """Refuse voxels in more than one file."""
        if file.upper().startswith("LIST") or "%" in file:
            self.refuse(f"its data are spread over several files ({name} LIST)", "save it as one file")


Describe = Callable[[Content, Options, list[str]], tuple[VoxelLayout, NDArray[np.float64], object]]
"""What a header says: how voxels are stored, where they lie (index → RAS mm), and the reader's own notes for a writer."""


def load_by_header(path: Path, options: Options, describe: Describe) -> Loaded:
    """Read the voxels that a text header describes and make them a volume."""
    with open_content(path) as content:
        notes: list[str] = []
        layout, affine, origin = describe(content, options, notes)
        affine = _checked(affine, path)
        frame = pick_frame(layout.frames, options.frame, path)
        with _voxels(content, layout) as voxels:
            count = layout.channels * layout.shape[0] * layout.shape[1] * layout.shape[2]
            flat = read_frame(voxels, layout.dtype, count, (frame, layout.frames), options)
            left = voxels.capacity - voxels.position
            if layout.detached is not None and layout.packing == "raw" and left:  # before or after them: nobody can tell
                problem = f"its data file holds {left} bytes more than the header declares"
                raise FormatError(problem, "say in the header how many to skip, or export the image again", subject=path)
            notes += [note for note in voxels.warnings if note not in notes]
    array = _shaped(flat, layout, options, notes)
    if options.clean:
        array, odd = clean(array)
        notes += odd + size_warning(layout.shape)
    return Loaded(array, affine, source=path, warnings=(*notes, *shear_warning(affine)), origin=origin)


def empty_by_header(path: Path, options: Options, describe: Describe) -> Volume:
    """Zeros in the grid that a text header describes; raises what `load_by_header` does, as far as the header tells."""
    with open_content(path) as content:
        layout, affine, _ = describe(content, options, [])
    pick_frame(layout.frames, options.frame, path)
    return Volume(np.broadcast_to(np.zeros((), layout.dtype), layout.shape), _checked(affine, path), source=path)


def _checked(affine: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    try:
        return check_affine(affine)
    except InputError as error:
        raise error.about(path) from None


def pick_frame(frames: int, frame: int | None, path: Path) -> int:
    """The time point to read.

    Raises:
        AmbiguousError: several, and none is wanted.
        InputError: there is none of this number.
    """
    if frame is None and frames > 1:
        raise AmbiguousError(
            f"the image has {frames} time points (frames)",
            "choose one",
            subject=path,
            choices=(f"--frame 0 (first) to --frame {frames - 1} (last)",),
        )
    require_index("frame", frame or 0, frames, path)
    return frame or 0


def _shaped(flat: NDArray[Any], layout: VoxelLayout, options: Options, notes: list[str]) -> NDArray[Any]:
    if options.layer is not None and options.layer >= layout.channels:
        raise FormatError(f"it has no layer {options.layer}, of which its header speaks", "save it again")
    if layout.channels == 1:
        return flat.reshape(layout.shape, order="F")
    if options.layer is not None:
        return np.ascontiguousarray(flat[options.layer :: layout.channels]).reshape(layout.shape, order="F")
    if layout.channels not in (3, 4) or layout.dtype.itemsize != 1:
        raise FormatError(f"each voxel holds {layout.channels} numbers", "extract one component as an image")
    return without_colour(flat, layout.shape, layout.channels, options, notes)


def read_frame(content: Content, dtype: np.dtype, count: int, which: tuple[int, int], options: Options) -> NDArray[Any]:
    """The numbers of one time point (which, of how many) that follow; the others are passed over, and must be there."""
    frame, frames = which
    size = count * dtype.itemsize
    if content.capacity - content.position < size * frames:
        raise content.truncated(content.position + size * frames)
    content.skip(frame * size)
    flat = content.array(dtype, count, max_bytes=options.max_bytes)
    content.skip((frames - 1 - frame) * size)
    content.finish()
    return flat


def without_colour(
    flat: NDArray[Any], shape: tuple[int, int, int], channels: int, options: Options, notes: list[str]
) -> NDArray[Any]:
    """A colour volume as grey, or as the numbers of a mask, which its colours repeat."""
    colours = flat.reshape((*shape[::-1], channels)).transpose(2, 1, 0, 3)
    if not options.clean:
        return one_channel(colours)
    notes.append("a colour image; it was turned to grey")
    return grey(colours)


@contextmanager
def _voxels(header: Content, layout: VoxelLayout) -> Iterator[Content]:
    """Where the voxels start: after the header or in the detached file, unpacked."""
    with ExitStack() as stack:
        content = header
        if layout.detached is not None:
            content = stack.enter_context(open_content(data_file(header.path, layout.detached)))
            content.path = header.path  # which its user named; the other name may be a person's
        if layout.packing == "raw":
            _skip(content, layout)
            yield content
            return
        left = max(content.capacity - content.position, 0)
        yield stack.enter_context(inflated(content, left, raw_zlib=layout.packing == "zlib"))


def _skip(content: Content, layout: VoxelLayout) -> None:
    if layout.skip >= 0:
        content.skip(layout.skip)
        return
    size = layout.dtype.itemsize * layout.channels * layout.frames * layout.shape[0] * layout.shape[1] * layout.shape[2]
    content.skip(max(content.capacity - content.position - size, 0))


def data_file(path: Path, name: str) -> Path:
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
        remedy = "put the file that it names beside it"
        raise FormatError("its data file (ElementDataFile, data file) is missing", remedy, subject=path)
    return target


PIECE = 1 << 22


def rescale(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """`array * slope + intercept`, in place for floats; integers become float32, or float64 where 24 bits do not hold them."""
    if slope == 1 and intercept == 0:
        return array
    kind = array.dtype if array.dtype.kind == "f" else np.result_type(array.dtype, np.float32)
    scaled = array.astype(kind, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled *= kind.type(slope)
        scaled += kind.type(intercept)
    return scaled


def clean(array: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Replace NaN and infinities by the smallest finite value, in place, and say what is odd about the values.

    Raises:
        FormatError: no voxel is finite.
    """
    flat = array.reshape(-1, order="A") if array.flags.forc else array.reshape(-1)
    warnings = []
    if flat.dtype.kind == "f" and (bad := sum(int(np.count_nonzero(~np.isfinite(piece))) for piece in _pieces(flat))):
        warnings.append(f"{bad} of {flat.size} voxels are NaN or infinite; they count as background (the smallest value)")
        _fill(flat, bad)
    if is_blank(array):
        warnings.append(BLANK)
    return array, warnings


def replace_non_finite(array: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """The same array where all of it is finite, or nothing; else a copy that `clean` has gone over, and what it says."""
    with np.errstate(all="ignore"):
        if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):  # a sum that is too large is looked at closer
            return array, []
    if not np.isfinite(array).any():
        return array, []
    cleaned, warnings = clean(np.array(array))
    return cleaned, [line for line in warnings if line != BLANK]


def _fill(flat: NDArray[Any], bad: int) -> None:
    if bad == flat.size:
        raise FormatError("no voxel holds a finite value (all are NaN or infinite)", "export the image again")
    lowest = min(piece[np.isfinite(piece)].min(initial=np.inf) for piece in _pieces(flat))
    for piece in _pieces(flat):
        piece[~np.isfinite(piece)] = lowest


def _pieces(flat: NDArray[Any]) -> list[NDArray[Any]]:
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def grey(array_c: NDArray[Any]) -> NDArray[np.uint8]:
    """Luminance of RGB or RGBA values along the last axis (ITU-R BT.601 weights), alpha left out."""
    weighted = array_c[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(weighted).astype(np.uint8)


def one_channel(array_c: NDArray[Any]) -> NDArray[Any]:
    """The number of each pixel of a mask, which its colours repeat (alpha left out); raises FormatError if they differ."""
    if not (array_c[..., :3] == array_c[..., :1]).all():
        raise FormatError("this mask is coloured", "save it in grey, one number for each object")
    return np.ascontiguousarray(array_c[..., 0])


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest unsigned type that holds them; floats stay floats, negative integers stay signed.

    Raises:
        FormatError: a type that no image format knows.
    """
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32) if array.dtype == np.float16 else array
    if array.dtype.kind not in "iu":
        raise FormatError(f"an array of type {array.dtype} is no image", "give integers or floating-point numbers")
    if array.size and array.min() < 0:
        return array
    highest = int(array.max()) if array.size else 0
    return array.astype(np.min_scalar_type(highest), copy=False)


RIGHT_ANGLE = 1e-3
"""Cosine up to which axes count as perpendicular: scanners and float32 headers round."""


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether voxel axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLE)


def shear_warning(affine: NDArray[np.float64]) -> list[str]:
    """One line if voxel axes are not at right angles."""
    if not is_sheared(affine):
        return []
    return [
        "the voxel axes are not at right angles (sheared); the grid is kept as it is, lengths across slices are approximate"
    ]


def grid_distance(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the corners of two grids of this shape."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, size - 1.0) for size in shape))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


SAME_MM = 1e-3
"""Two grids that lie closer differ by rounding."""


def check_grid(segmentation: Segmentation, volume: Volume) -> None:
    """Refuse a segmentation in another grid than the volume's; raises GeometryError."""
    remedy = "give a segmentation of this image"
    if segmentation.labels.shape != volume.shape:
        raise GeometryError(f"the labels have shape {segmentation.labels.shape}, the image {volume.shape}", remedy)
    if (apart := grid_distance(segmentation.affine, volume.affine, volume.shape)) > SAME_MM:
        raise GeometryError(f"the labels lie up to {apart:.3g} mm away from the image's voxels", remedy)


def from_lps(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index → LPS mm to index → RAS mm, and back: signs only, so nothing is rounded."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps


def size_warning(shape: tuple[int, ...]) -> list[str]:
    """One line if there is but a single voxel."""
    return ["the image is a single voxel"] if max(shape) == 1 else []


ONE_SLICE = "it has one slice only: there is nothing to track through"
EXTREME = 1000.0  # times the usual range, beyond which a value is no intensity
SMALLEST_MM, COARSEST_MM, LARGEST_MM = 0.05, 50.0, 3000.0  # of a CT's voxel; of any voxel within slices; of the whole


def oddities(volume: Volume) -> tuple[str, ...]:
    """One line each: a single slice, intensities far from all others, voxels or an extent of no body."""
    alone = ONE_SLICE * (volume.shape.count(1) == 1)
    return tuple(line for line in (alone, _extreme(volume), _size(volume)) if line)


def _extreme(volume: Volume) -> str:
    array: NDArray[Any] = volume.array
    if array.dtype.kind != "f":
        return ""
    usual = percentile_window(array)
    room = EXTREME * (usual.high - usual.low)
    lowest, highest = float(array.min()), float(array.max())
    if lowest >= usual.low - room and highest <= usual.high + room:
        return ""
    count = int(np.count_nonzero((array < usual.low - room) | (array > usual.high + room)))
    worst = max(lowest, highest, key=abs)
    told = f"extreme values, up to {worst:g}, where others end at {usual.high:g}: they are black or white"
    return f"{say_count(count, 'voxel', 'hold')} {told}"


def _size(volume: Volume) -> str:
    spacing = volume.spacing_mm
    largest = max(size * mm for size, mm in zip(volume.shape, spacing, strict=True))
    voxel = f"its voxels are {' × '.join(f'{mm:g}' for mm in spacing)} mm"
    advice = "check the units, since volumes in mL follow from them"
    if largest > LARGEST_MM or sorted(spacing)[1] > COARSEST_MM:
        return f"{voxel}, and it spans {largest / 1000:.3g} m, which no body does: {advice}"
    if min(spacing) < SMALLEST_MM and in_hounsfield(volume.array, volume.modality):
        return f"{voxel}, which no CT of a patient has: {advice}"
    return ""


def join_labels(
    parts: Iterable[tuple[int, NDArray[np.bool_]]], shape: tuple[int, ...], path: Path, what: str
) -> NDArray[np.unsignedinteger]:
    """One label map of objects, each a label and where it is; raises FormatError if two of `what` overlap."""
    joined = np.zeros(shape, np.uint32)
    for label, inside in parts:
        refuse_overlap(int(np.count_nonzero(joined[inside])), path, what)
        joined[inside] = label
    return joined.astype(np.min_scalar_type(joined.max(initial=0)))  # type: ignore[return-value]  # unsigned, as the labels are


def refuse_overlap(overlap: int, path: Path, what: str) -> None:
    """Refuse a file in which so many voxels belong to several of `what`; raises FormatError unless there are none."""
    if overlap:
        problem = f"its {what} overlap in {overlap} voxels, and a label map holds one number for each"
        remedy = "give one of them in a file of its own (`medsam2 segment --separate` writes such), or all without overlaps"
        raise FormatError(problem, remedy, subject=path)


def check_labels(maps: Iterable[NDArray[np.generic]], path: Path) -> None:
    """Refuse integers that are labels of no object, which nobody could read back; raises FormatError."""
    for each in maps:
        lowest, highest = (int(each.min()), int(each.max())) if each.dtype.kind in "iu" else (0, 0)
        if lowest < 0 or highest > MOST_OBJECTS:
            problem = f"no object can have the label {lowest if lowest < 0 else highest}"
            raise FormatError(problem, f"number objects from 1 to {MOST_OBJECTS}; 0 is background", subject=path)


def volume_ml(voxels: int, volume: Volume) -> float | None:
    """How many millilitres so many voxels of a volume have; None where its millimetres mean nothing."""
    return None if NO_PLACE in volume.warnings else voxels * volume.voxel_mm3 / 1000


def round_ml(size_ml: float | None) -> float | None:
    """To a nanolitre; what is smaller keeps four digits, so that it is not nothing."""
    return size_ml if size_ml is None else round(size_ml, 6) if size_ml >= 1e-3 else float(f"{size_ml:.4g}")


def say_size(voxels: int, size_ml: float | None) -> str:
    """So many voxels for people: in mL, unless nobody knows them."""
    if size_ml is None:
        return say_count(voxels, "voxel")
    return f"{size_ml:.0f} mL" if size_ml >= 100 else f"{size_ml:.3g} mL"


def as_picture(found: Volume | tuple[Picture, ...], file: Path) -> Picture:
    """A single 2D image, whichever way its file stores it; a volume of one slice is seen along its third axis.

    Raises:
        GeometryError: it is a volume.
    """
    if not isinstance(found, Volume):
        return found[0]
    if 1 not in found.shape:
        slices = "×".join(map(str, found.shape))
        raise GeometryError(f"this is a volume of {slices} voxels", "outline it with `medsam2 segment`", subject=file)
    thin = thin_axis(found)
    across, down = (axis for axis in range(3) if axis != thin)
    spacing = found.spacing_mm[down], found.spacing_mm[across]
    array = np.ascontiguousarray(found.array.take(0, thin).T)
    notes = tuple(note for note in found.warnings if note != ONE_SLICE)
    grid = replace(found, array=np.broadcast_to(np.uint8(0), found.shape))
    return Picture(array, spacing, found.modality, file, warnings=notes, grid=grid)


def thin_axis(volume: Volume) -> int:
    """The last array axis of a volume of one slice along which it is one voxel thick."""
    return max(axis for axis in range(3) if volume.shape[axis] == 1)
