"""NRRD and NHDR (Nearly Raw Raster Data): https://teem.sourceforge.net/nrrd/format.html.

Also the segmentations that 3D Slicer makes of it (.seg.nrrd): segments in layers that may overlap, cropped to what was drawn.
"""

import gzip
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, PromptError
from medical_sam2.io import atomic, label_grid, labels, voxels
from medical_sam2.io.atomic import EFFORT
from medical_sam2.io.labels import Outline, object_boxes
from medical_sam2.io.registry import Loaded, Options
from medical_sam2.io.safe_open import Content, open_content
from medical_sam2.io.voxels import from_lps
from medical_sam2.volume import Colour, Segmentation, Volume

TYPES = {
    "int8": ("signed char", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16_t"),
    "int32": ("int", "signed int", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32_t"),
    "int64": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64_t"),
    "uint64": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64_t"),
    "float32": ("float",),
    "float64": ("double",),
}
DTYPES = {alias: name for name, aliases in TYPES.items() for alias in (name, *aliases)}
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
TIMED = {f"{space}{suffix}" for space in SPACES for suffix in ("-time", "t")}
VECTORS = {"complex", "quaternion", "2-vector", "3-vector", "4-vector", "3-gradient", "3-normal"}


def read(path: Path, options: Options) -> Loaded:
    """Read an NRRD file; raises as `medical_sam2.io.load` does."""
    return voxels.load_by_header(path, options, _describe)


def read_grid(path: Path, options: Options) -> Volume:
    """A volume of zeros in the grid of a file; raises as `read` does, as far as the header tells."""
    return voxels.empty_by_header(path, options, _describe)


def _describe(content: Content, options: Options, notes: list[str]) -> tuple[voxels.VoxelLayout, NDArray[np.float64], None]:
    fields, _ = _header(content)
    layout, spatial = _layout(fields, options)
    return layout, _affine(fields, spatial, notes), None


def key_values(path: Path) -> dict[str, str]:
    """What programs wrote into the header for themselves (`key:=value`)."""
    with open_content(path) as content:
        return _header(content)[1]


def _header(content: Content) -> tuple[voxels.TextHeader, dict[str, str]]:
    """Fields and key/value pairs up to the empty line, or to the end where the data are detached."""
    fields, pairs = voxels.TextHeader(content.path), dict[str, str]()
    if not voxels.read_line(content, 0).startswith("NRRD"):
        fields.refuse("this is no NRRD file", "check what it is")
    while text := voxels.read_line(content, content.position):
        if text.startswith("#"):
            continue
        if ":=" in text:
            key, _, own = text.partition(":=")
            pairs[key] = own
            continue
        name, colon, value = text.partition(":")
        if not colon:
            fields.refuse("its header has a line without a colon")
        fields.put(name.strip().lower(), value.strip())
    return fields, pairs


# Axes before the spatial ones are numbers of a voxel, axes after them are time points: kinds alone do not say so.
def _layout(fields: voxels.TextHeader, options: Options) -> tuple[voxels.VoxelLayout, list[int]]:
    """The storage, and which axes of the file are spatial."""
    sizes = fields.sizes(fields.require("sizes"), "sizes")
    if [float(len(sizes))] != fields.numbers(fields.require("dimension"), "dimension"):
        fields.refuse("its sizes do not fit its dimension")
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    spatial = _spatial(fields, kinds, sizes)
    inner = int(np.prod(sizes[: spatial[0]], dtype=object)) if spatial[0] else 1
    outer = int(np.prod(sizes[spatial[-1] + 1 :], dtype=object))
    if spatial != list(range(spatial[0], spatial[0] + len(spatial))) or VECTORS & set(kinds):
        fields.refuse("its axes hold vectors, not intensities", "extract one component as an image")
    if options.layer is None and spatial[0] and kinds[0] in {"list", "time", "domain"} and inner > 1 and outer == 1:
        fields.refuse(f"each voxel holds {inner} values (4 dimensions)", "extract one as a 3-dimensional image")
    i, j, k = (*(sizes[axis] for axis in spatial), *[1] * (3 - len(spatial)))
    order = fields.get("endian", "little").lower()
    if order not in {"little", "big"}:
        fields.refuse(f"its endian {order[:30]!r} is unknown")
    dtype = fields.number_type(fields.require("type").lower(), "type", DTYPES, big=order == "big")
    return voxels.VoxelLayout(dtype, (i, j, k), inner, outer, *_storage(fields)), spatial


def _spatial(fields: voxels.TextHeader, kinds: list[str], sizes: list[int]) -> list[int]:
    if "space directions" in fields:
        directions = _vectors(fields["space directions"])
        spatial = [axis for axis, text in enumerate(directions) if text != "none"]
        complete = len(directions) == len(sizes)
        if len(spatial) == 4 and _has_time(fields):  # ITK knows time as one more axis of space
            spatial.pop()
    else:
        spatial = [axis for axis, kind in enumerate(kinds) if kind in {"domain", "space", "???", "none"}][-3:]
        complete = len(kinds) == len(sizes)
    if not complete or not 2 <= len(spatial) <= 3:
        fields.refuse(f"{len(spatial)} of its {len(sizes)} dimensions are spatial", "give a volume")
    return spatial


# Whatever would make another reader take other bytes (line skip, lists, skips of packed data) is refused.
def _storage(fields: voxels.TextHeader) -> tuple[voxels.Packing, int, str | None]:
    encoding = fields.require("encoding").lower()
    if encoding not in {"raw", "gzip", "gz"}:
        fields.refuse(f"its encoding {encoding[:30]!r} cannot be read", "save it as raw or gzip")
    if fields.get("line skip", fields.get("lineskip", "0")) != "0":
        fields.refuse("it uses a line skip", "save it again without")
    skip = fields.skip(fields.get("byte skip", fields.get("byteskip", "0")), "byte skip", packed=encoding != "raw")
    name = fields.get("data file", fields.get("datafile"))
    fields.check_data_file(name or "", "data file")
    return ("raw" if encoding == "raw" else "gzip"), skip, name


# What a header leaves out is assumed as ITK does, and said; two directions are completed by their normal.
def _affine(fields: voxels.TextHeader, spatial: list[int], notes: list[str]) -> NDArray[np.float64]:
    affine = np.eye(4)
    if "space directions" not in fields:
        notes.append("orientation unknown (no space directions); assumed: axes to Left, Posterior, Superior from 0")
        words = fields.get("spacings", "").split()
        if not words:
            notes.append("spacing unknown; 1 mm is assumed")
        for row, axis in enumerate(spatial):
            affine[row, row] = fields.numbers(words[axis] if axis < len(words) else "1", "spacings", 1)[0]
        return from_lps(affine)
    signs = _signs(fields, notes)
    texts = [text for text in _vectors(fields["space directions"]) if text != "none"]
    directions = _parse_vectors(texts, fields, "space directions")
    if any(any(each[:3]) == any(each[3:]) for each in directions if len(each) == 4):
        fields.refuse("its axes lean from space into time", "save each time point as a volume")
    for column, direction in enumerate(directions[: len(spatial)]):
        affine[:3, column] = direction[:3]
    if len(spatial) == 2:
        rows, columns = (affine[:3, c] / (np.linalg.norm(affine[:3, c]) or 1) for c in (0, 1))
        affine[:3, 2] = np.cross(rows, columns)
    if "space origin" not in fields:
        notes.append("no space origin; 0 is assumed")
    else:
        affine[:3, 3] = _parse_vectors([fields["space origin"]], fields, "space origin")[0][:3]
    return np.diag([*signs, 1.0]) @ affine * _unit(fields, notes)


def _has_time(fields: voxels.TextHeader) -> bool:
    """Whether vectors have a fourth number, which is of time."""
    return fields.get("space dimension") == "4" or fields.get("space", "").lower() in TIMED


def _parse_vectors(texts: Sequence[str], fields: voxels.TextHeader, name: str) -> list[list[float]]:
    """Vectors of a field, all of three numbers, or all of four with time."""
    count = 4 if _has_time(fields) and all(text.count(",") == 3 for text in texts) else 3
    return [fields.numbers(text.strip("()"), name, count) for text in texts]


def _vectors(text: str) -> list[str]:
    return re.findall(r"\([^)]*\)|none", text.lower())


def _signs(fields: voxels.TextHeader, notes: list[str]) -> tuple[int, int, int]:
    space = fields.get("space", "").lower()
    if space in TIMED:
        space = space.removesuffix("-time") if space.endswith("-time") else space[:-1]
    if space not in SPACES:
        named = f"space {space[:30]!r}" if space else "no space is named"
        notes.append(f"orientation unknown ({named}); left-posterior-superior is assumed")
    return SPACES.get(space, (-1, -1, 1))


def _unit(fields: voxels.TextHeader, notes: list[str]) -> NDArray[np.float64]:
    """Factor to millimetres, for every entry but the last row."""
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"", "???"}
    factors = {"mm": 1.0, "millimeter": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001}
    if len(units) > 1 or not units <= set(factors):
        fields.refuse("its space units cannot be used", "give millimetres")
    factor = factors[units.pop()] if units else 1.0
    if factor != 1:
        notes.append("lengths are not stored in millimetres; they were converted")
    scale = np.ones((4, 1))
    scale[:3] = factor
    return scale


def save(array: NDArray[Any], path: Path, like: Volume) -> None:
    """Write an array in the grid of `like`, in LPS space, numbers with all their digits, gzipped."""
    _write([array], path, like, ())


def save_segments(found: Segmentation, path: Path, like: Volume) -> None:
    """Write objects as segments of 3D Slicer, in layers where they overlap; each segment has its label as its value.

    Source: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html. The whole grid of the image is
    written, not cropped. An object that has a name and no voxel is an empty segment.
    """
    layers = [layer.astype(np.result_type(*found.maps), copy=False) for layer in found.maps]
    boxes = {label: (n, box) for n, layer in enumerate(layers) for label, box in object_boxes(layer).items()}
    lines: list[str] = []
    for number, label in enumerate(sorted({*boxes, *found.names} - {0})):
        layer, box = boxes.get(label, (0, (slice(0, 0),) * 3))
        name, red_green_blue = found.names.get(label, ""), (f"{each / 255:.6f}" for each in found.colour(label))
        own = {
            "Color": " ".join(red_green_blue),
            "ColorAutoGenerated": int(label not in found.colours),
            "Extent": " ".join(f"{side.start} {side.stop - 1}" for side in box),
            "ID": f"Segment_{label}",
            "LabelValue": label,
            "Layer": layer,
            "Name": _escaped(name or UNNAMED.format(label)),
            "NameAutoGenerated": int(not name),
            "Tags": TISSUE,
        }
        lines += [f"Segment{number}_{key}:={value}" for key, value in own.items()]
    _write(layers, path, like, (*lines, *SEGMENTATION))


def segment_names(names: Mapping[int, str]) -> dict[int, str]:
    """Label → name as a segment has it: on one line."""
    return {label: " ".join(name.split()) for label, name in names.items()}


def _escaped(text: str) -> str:
    """One line, with backslashes as the format wants them."""
    return " ".join(text.replace("\\", "\\\\").split())


def _write(layers: Sequence[NDArray[Any]], path: Path, like: Volume, pairs: Iterable[str]) -> None:
    """One volume, or several whose numbers follow each other in each voxel, with what programs write for themselves."""
    array, many = layers[0], len(layers) > 1
    if path.suffix.lower() == ".nhdr":
        raise FormatError("a detached header would be two files", "save to .nrrd", subject=path)
    affine = from_lps(like.affine)
    directions = " ".join(_format_vector(affine[:3, column]) for column in range(3))
    kind = "float" if array.dtype == np.float32 else "double" if array.dtype == np.float64 else array.dtype.name
    order = "big" if sys.byteorder == "big" else "little"
    header = (
        f"NRRD0004\ntype: {kind}\ndimension: {3 + many}\nspace: left-posterior-superior\n"
        f"sizes: {f'{len(layers)} ' * many}{' '.join(map(str, array.shape))}\n"
        f"space directions: {'none ' * many}{directions}\nkinds: {'list ' * many}domain domain domain\n"
        f"endian: {order}\nencoding: gzip\nspace origin: {_format_vector(affine[:3, 3])}\n"
    )
    header += "".join(f"{pair}\n" for pair in pairs) + "\n"
    with atomic.writing(path) as stream:
        stream.write(header.encode())
        with gzip.GzipFile("", "wb", EFFORT, stream, mtime=0) as packed:
            for k in range(array.shape[2]):
                packed.write(np.stack([layer[:, :, k] for layer in layers]).tobytes(order="F"))


def _format_vector(vector: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in vector)})"


KEY = re.compile(r"Segment(\d+)_(ID|Name|NameAutoGenerated|Layer|LabelValue|Color)")
MOST_NAME = 200
UNNAMED = "object {}"
SEGMENTATION = (
    "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
    "Segmentation_ConversionParameters:=",
    "Segmentation_MasterRepresentation:=Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset:=0 0 0",
)
TISSUE = (
    "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue"
    "~^^~Anatomic codes - DICOM master list~^^~^^|"
)
"""What 3D Slicer says itself of a segment whose kind is not given."""


@dataclass(frozen=True)
class Segment:
    """One segment, as the header describes it."""

    layer: int  # which of the numbers of a voxel tells of it, from 0
    value: int  # that number inside of it
    name: str  # what it is called
    colour: Colour | None = None  # in which it is shown, where the header says so


def read_segments(path: Path) -> list[Segment]:
    """The segments of an NRRD file in their order; none where 3D Slicer did not write it as a segmentation.

    Raises:
        FormatError: a layer or a value that is no number.
    """
    keys: dict[int, dict[str, str]] = {}
    for key, value in key_values(path).items():
        if match := KEY.fullmatch(key):
            keys.setdefault(int(match[1]), {})[match[2]] = value.strip()
    layered = any("Layer" in own for own in keys.values())  # versions before 4.11 gave each segment a layer of its own
    return [
        Segment(
            _whole(own.get("Layer", "0" if layered else str(place)), path),
            _whole(own.get("LabelValue", "1"), path),
            _name(own),
            _colour(own.get("Color", "")),
        )
        for place, (_, own) in enumerate(sorted(keys.items()))
    ]


# Layers may reuse a number: then segments are numbered anew, else the numbers that 3D Slicer shows stay.
def load_segments(path: Path, like: Volume, threshold: float | None = None) -> list[Outline]:
    """What was drawn of each segment, in the grid of `like`; numbers that layers share are given anew, in their order.

    Raises:
        FormatError: a number that no segment has, or a layer that is not there.
        GeometryError: another grid, or something is drawn outside of the image.
        PromptError: nothing is drawn.
        InputError: a threshold, which its segments do not need.
    """
    labels.refuse_threshold(threshold)
    all_segments = read_segments(path)
    shared = max(Counter(segment.value for segment in all_segments).values()) > 1
    found: dict[int, Outline] = {}
    for layer in sorted({segment.layer for segment in all_segments}):
        own = {segment.value: number for number, segment in enumerate(all_segments, 1) if segment.layer == layer}
        held = read(path, Options(clean=False, layer=layer))
        part = Volume(label_grid.integers(held.array, path), held.affine, "SEG", path)
        array = label_grid.place_part(part, like).array
        drawn = {int(value) for value in np.unique(array)} - {0}
        if strange := sorted(drawn - own.keys()):
            raise FormatError(f"it holds the number {strange[0]}, which is none of its segments", "save it again", subject=path)
        for value in drawn:
            number = own[value]
            found[number] = Outline(
                number if shared else value, array == value, all_segments[number - 1].name, all_segments[number - 1].colour
            )
    if not found:
        raise PromptError(*labels.EMPTY, subject=path)
    return [found[number] for number in sorted(found)]


def load(path: Path, like: Volume) -> tuple[Volume, list[Outline]]:
    """The same as one label map, and its objects without their voxels.

    Raises:
        FormatError: segments overlap, and so on as `load_segments`.
    """
    found = load_segments(path, like)
    parts = ((outline.label, outline.inside) for outline in found)
    joined = Volume(voxels.join_labels(parts, like.shape, path, "segments"), like.affine, "SEG", path)
    return joined, [replace(outline, inside=labels.NOWHERE) for outline in found]


def _whole(text: str, path: Path) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise FormatError(f"a segment has the number {text[:20]!r}", "save it again", subject=path)
    return int(text)


def _colour(text: str) -> Colour | None:
    """Red, green and blue from 0 to 1, as bytes; none where they are not that."""
    try:
        shares = [float(word) for word in text.split()]
    except ValueError:
        return None
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares):
        return None
    red, green, blue = (round(255 * share) for share in shares)
    return red, green, blue


def _name(own: Mapping[str, str]) -> str:
    """A name that can be shown: one line of letters; none where this package gave it for want of one."""
    text = own.get("Name", "").replace("\\\\", "\\")
    if own.get("NameAutoGenerated") == "1" and text == UNNAMED.format(own.get("LabelValue")):
        return ""
    return text if text.isprintable() and len(text) <= MOST_NAME else ""
