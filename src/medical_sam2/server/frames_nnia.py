"""Arrays as nnInteractive's remote protocol packs them, every length checked before memory is asked for.

`NNIA`, version, codec, number of axes, length of the type's name; the name; the shape as int64; the number of chunks; for each
its length unpacked and packed (uint64) and its bytes, packed by blosc2. All numbers are little-endian.
"""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError
from medical_sam2.server.refusals import TooLarge, Unusable

MAGIC, VERSION, ZSTD = b"NNIA", 1, 1
CHUNK = 1 << 30
TYPES = frozenset({"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"})
BROKEN = "the array is broken; send it again"


def pack(array: NDArray[Any]) -> bytes:
    """An array as bytes."""
    blosc2 = _blosc2()
    array = np.ascontiguousarray(array)
    name, raw = array.dtype.name.encode(), memoryview(array.reshape(-1).view(np.uint8).data)
    parts = [struct.pack("<4sBBBB", MAGIC, VERSION, ZSTD, array.ndim, len(name)), name]
    parts += [struct.pack(f"<{array.ndim}q", *array.shape), struct.pack("<I", -(-len(raw) // CHUNK))]
    for start in range(0, len(raw), CHUNK):
        piece = raw[start : start + CHUNK]
        packed = blosc2.compress2(piece, typesize=array.itemsize, clevel=3, filters=[blosc2.Filter.NOFILTER])
        parts += [struct.pack("<QQ", len(piece), len(packed)), packed]
    return b"".join(parts)


def unpack(data: bytes, most: int) -> NDArray[Any]:
    """An array from bytes.

    Args:
        data: a whole frame.
        most: elements that it may have.

    Raises:
        Unusable: broken, or of another kind.
        TooLarge: more elements.
    """
    try:
        return _unpacked(memoryview(data), most)
    except (struct.error, ValueError, UnicodeDecodeError, RuntimeError, TypeError):
        raise Unusable(BROKEN) from None


def _unpacked(data: memoryview, most: int) -> NDArray[Any]:
    blosc2 = _blosc2()
    magic, version, _, axes, length = struct.unpack_from("<4sBBBB", data)
    name, at = bytes(data[8 : 8 + length]).decode("ascii"), 8 + length
    if magic != MAGIC or version != VERSION or name not in TYPES or not 1 <= axes <= 4:
        raise Unusable("this is no array of the protocol's first version")
    shape = struct.unpack_from(f"<{axes}q", data, at)
    if min(shape) < 1 or math.prod(shape) > most:
        raise TooLarge(f"an array may have {most} elements")
    (chunks,) = struct.unpack_from("<I", data, at + 8 * axes)
    at += 8 * axes + 4
    out, written = np.empty(math.prod(shape), name), 0
    for _ in range(chunks):
        plain, packed = struct.unpack_from("<QQ", data, at)
        source = data[at + 16 : at + 16 + packed]
        told, *_ = blosc2.get_cbuffer_sizes(source)
        if len(source) != packed or told != plain or plain % out.itemsize or written + plain > out.nbytes or not plain:
            raise Unusable(BROKEN)
        blosc2.decompress2(source, dst=out[written // out.itemsize : (written + plain) // out.itemsize])
        written, at = written + plain, at + 16 + packed
    if written != out.nbytes:
        raise Unusable(BROKEN)
    return out.reshape(shape)


def _blosc2() -> Any:
    try:
        import blosc2
    except ImportError:
        raise ConfigError("this protocol needs blosc2", "install medical-sam2[serve]") from None
    return blosc2
