"""Which format a file has, by its first bytes."""

import struct
from collections.abc import Callable

HEAD = 600
"""So many bytes tell what a file is."""
DICOM_GROUPS = (b"\x02\x00", b"\x08\x00")
UNDEFINED = 0xFFFFFFFF
"""The length of a sequence that ends with a mark."""
NIFTI_SIZES = (348, 540)


def is_dicom(head: bytes) -> bool:
    """Whether these first bytes are a DICOM file's, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] in DICOM_GROUPS and head[3:4] == b"\0" and head[4:6].isalpha() and head[4:6].isupper():
        return True
    big = head[:2] == b"\0\x08" and head[4:6].isalpha() and head[4:6].isupper()
    return big or _implicit(head)


def _implicit(head: bytes) -> bool:
    """Whether elements without a type follow each other: rising numbers, groups of even number, lengths that fit."""
    places: list[tuple[int, int]] = []
    start = 0
    while start + 8 <= len(head):
        group, element, length = struct.unpack("<HHI", head[start : start + 8])
        if group % 2 or group < 8 or (places and (group, element) <= places[-1]) or (length % 2 and length != UNDEFINED):
            return False
        places.append((group, element))
        start += 8 + length
    return len(places) > 1 and places[0][0] == 8


def is_nifti(head: bytes) -> bool:
    """Whether these first (unpacked) bytes are a NIfTI or Analyze header, in either byte order."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    return len(head) >= 4 and bool(sizes & set(NIFTI_SIZES))


def begins(*magic: bytes) -> Callable[[bytes], bool]:
    """Whether first bytes begin with one of these."""
    return lambda head: head.startswith(magic)
