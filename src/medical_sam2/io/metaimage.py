"""MetaImage (.mha, .mhd): https://itk.org/Wiki/ITK/MetaIO/Documentation."""

import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError
from medical_sam2.io import atomic, voxels
from medical_sam2.io.atomic import EFFORT
from medical_sam2.io.registry import Loaded, Options
from medical_sam2.io.safe_open import Content
from medical_sam2.io.voxels import from_lps
from medical_sam2.volume import Volume

TYPES = {
    "MET_CHAR": "int8",
    "MET_UCHAR": "uint8",
    "MET_SHORT": "int16",
    "MET_USHORT": "uint16",
    "MET_INT": "int32",
    "MET_UINT": "uint32",
    "MET_LONG": "int32",
    "MET_ULONG": "uint32",
    "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64",
    "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}
NAMES = {dtype: name for name, dtype in reversed(TYPES.items())}
SPELLED = {
    name.lower(): name
    for name in (
        *("NDims", "DimSize", "ElementType", "ElementDataFile", "ElementNumberOfChannels", "HeaderSize", "BinaryData"),
        *("CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "ElementSpacing", "ElementSize"),
        *("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin"),
    )
}
"""What is read, as ITK spells it."""
TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@dataclass(frozen=True)
class MetaOrigin:
    """The grid as the source spells it: unit axes (columns), spacing, and the affine that they make."""

    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]
    affine: NDArray[np.float64]


def read(path: Path, options: Options) -> Loaded:
    """Read a MetaImage file; raises as `medical_sam2.io.load` does."""
    return voxels.load_by_header(path, options, _describe)


def read_grid(path: Path, options: Options) -> Volume:
    """A volume of zeros in the grid of a file; raises as `read` does, as far as the header tells."""
    return voxels.empty_by_header(path, options, _describe)


def _describe(content: Content, _: Options, notes: list[str]) -> tuple[voxels.VoxelLayout, NDArray[np.float64], MetaOrigin]:
    fields = _fields(content)
    layout, origin = _layout(fields), _origin(fields, notes)
    return layout, origin.affine, origin


def _fields(content: Content) -> voxels.TextHeader:
    """The header, whose last line is ElementDataFile."""
    fields = voxels.TextHeader(content.path)
    while "elementdatafile" not in fields:
        name, equals, value = voxels.read_line(content, content.position).partition("=")
        if not equals:
            fields.refuse("its header ends before ElementDataFile")
        name = name.strip()
        if name != SPELLED.get(name.lower(), name):  # which ITK would pass over, and another place would be taken
            fields.refuse(f"its header writes {SPELLED[name.lower()]} in another way", "repair it")
        if name.lower() in SPELLED or not name.isprintable():  # other fields are nobody's business, and may be there twice
            fields.put(name.lower(), value.strip())
    return fields


def _required(fields: voxels.TextHeader, name: str) -> str:
    return fields.require(name.lower(), name)


def _truth(fields: voxels.TextHeader, name: str) -> bool:
    text = fields.get(name.lower(), "false").lower()
    if text not in TRUTH:
        fields.refuse(f"its {name} is neither True nor False")
    return TRUTH[text]


# Every field that changes which bytes are voxels is checked; MetaIO has two spellings of the byte order.
def _layout(fields: voxels.TextHeader) -> voxels.VoxelLayout:
    sizes = fields.sizes(_required(fields, "DimSize"), "DimSize")
    if [float(len(sizes))] != fields.numbers(_required(fields, "NDims"), "NDims") or not 2 <= len(sizes) <= 4:
        fields.refuse(f"it has {len(sizes)} dimensions", "give a volume of three dimensions")
    if fields.get("binarydata", "true").lower() not in {"true", "t", "1"}:
        fields.refuse("its voxels are written as text", "save it as binary data")
    big = _truth(fields, "BinaryDataByteOrderMSB") or _truth(fields, "ElementByteOrderMSB")
    dtype = fields.number_type(_required(fields, "ElementType").upper(), "ElementType", TYPES, big=big)
    channels = fields.sizes(fields.get("elementnumberofchannels", "1"), "ElementNumberOfChannels")[0]
    packed = _truth(fields, "CompressedData")
    skip = fields.skip(fields.get("headersize", "0"), "HeaderSize", packed=packed)
    i, j, k, frames = (*sizes, *[1] * (4 - len(sizes)))
    return voxels.VoxelLayout(dtype, (i, j, k), channels, frames, "zlib" if packed else "raw", skip, _data_file(fields))


def _data_file(fields: voxels.TextHeader) -> str | None:
    name = fields["elementdatafile"]
    if name.upper() == "LOCAL":
        return None
    fields.check_data_file(name, "ElementDataFile")
    if not name:
        fields.refuse("its ElementDataFile is empty")
    return name


def _origin(fields: voxels.TextHeader, notes: list[str]) -> MetaOrigin:
    """Axes in LPS: the first numbers of TransformMatrix are the first axis. A fourth dimension (time) is left out."""
    count = len(fields["dimsize"].split())
    matrix = _first(fields, ("transformmatrix", "rotation", "orientation"))
    offset = _first(fields, ("offset", "position", "origin"))
    spacing = _first(fields, ("elementspacing", "elementsize"))
    if matrix is None or count == 2:
        notes.append("orientation unknown (no TransformMatrix in three dimensions); assumed: axes to Left, Posterior, Superior")
    axes = np.eye(max(count, 3))
    if matrix is not None:
        axes[:count, :count] = np.reshape(fields.numbers(matrix, "TransformMatrix", count * count), (count, count)).T
    if not np.allclose(np.linalg.norm(axes, axis=0), 1, atol=1e-3):
        notes.append("its TransformMatrix does not hold unit vectors; spacing is multiplied by their lengths")
    lengths, start = np.ones(max(count, 3)), np.zeros(max(count, 3))
    if spacing is None:
        notes.append("spacing unknown; 1 mm is assumed")
    else:
        lengths[:count] = fields.numbers(spacing, "ElementSpacing", count)
    if (lengths <= 0).any():
        fields.refuse("its ElementSpacing is not positive")
    if offset is not None:
        start[:count] = fields.numbers(offset, "Offset", count)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes[:3, :3] * lengths[:3], start[:3]
    return MetaOrigin(axes[:3, :3], lengths[:3], from_lps(affine))


def _first(fields: voxels.TextHeader, names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if name in fields), None)


def save(array: NDArray[Any], path: Path, like: Volume) -> None:
    """Write an array in the grid of `like`, compressed, numbers with all their digits."""
    if path.suffix.lower() == ".mhd":
        raise FormatError("a header with its data apart would be two files", "save to .mha", subject=path)
    axes, spacing = _spelled(like)
    packed, size = _pack(array)
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
        f"BinaryDataByteOrderMSB = {sys.byteorder == 'big'}\nCompressedData = True\nCompressedDataSize = {size}\n"
        f"TransformMatrix = {_format_numbers(axes.T.ravel())}\nOffset = {_format_numbers(from_lps(like.affine)[:3, 3])}\n"
        f"CenterOfRotation = 0 0 0\nElementSpacing = {_format_numbers(spacing)}\nDimSize = {' '.join(map(str, array.shape))}\n"
        f"ElementType = {NAMES[array.dtype.name]}\nElementDataFile = LOCAL\n"
    )
    with atomic.writing(path) as stream:
        stream.write(header.encode())
        for piece in packed:
            stream.write(piece)


def _spelled(like: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit axes and spacing whose product is the affine: the source's own where there are, since division rounds."""
    origin = like.origin if isinstance(like, Loaded) else None
    if isinstance(origin, MetaOrigin) and np.array_equal(origin.affine, like.affine):
        return origin.axes, origin.spacing
    columns = from_lps(like.affine)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    return columns / spacing, spacing


def _pack(array: NDArray[Any]) -> tuple[list[bytes], int]:
    packer = zlib.compressobj(EFFORT)
    pieces = [packer.compress(array[:, :, k].tobytes(order="F")) for k in range(array.shape[2])] + [packer.flush()]
    return pieces, sum(map(len, pieces))


def _format_numbers(vector: NDArray[np.float64]) -> str:
    return " ".join(repr(float(value)) for value in vector)
