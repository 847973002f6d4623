"""What a file is, by its first bytes; its name decides only where the content cannot."""

import struct
from pathlib import Path
from typing import Literal

from medical_sam2.errors import FormatError
from medical_sam2.io.files import GZIP_MAGIC, open_content, open_regular

Kind = Literal["nifti", "nrrd", "metaimage", "dicom", "picture", "zip"]

HEAD = 600
ZIP = b"PK\x03\x04"
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITMAP = b"BM"
DICOM_GROUPS = (b"\x02\x00", b"\x08\x00")
UNDEFINED = 0xFFFFFFFF
"""The length of a sequence that ends with a mark."""
NIFTI_MAGIC = (b"n+1\0", b"ni1\0")
HEADER_SIZES = (348, 540)
BY_NAME: dict[str, Kind] = {".img": "nifti", ".hdr": "nifti", ".mha": "metaimage", ".mhd": "metaimage"}


def recognise(path: Path) -> Kind | None:
    """The kind of a file, None if it is none that can be read.

    Raises:
        InputError: missing, unreadable, or no regular file.
        FormatError: empty, or gzip that breaks within its first bytes.
    """
    with open_regular(path) as stream:
        head = stream.read(HEAD)
    if head.startswith(GZIP_MAGIC):
        with open_content(path) as content:
            head = content.stream.read(HEAD)
        if head[257:262] == b"ustar":
            raise FormatError("this is a tar archive", "unpack it and give one image of it", subject=path)
        return "nifti" if is_nifti(head) or _name(path) == "nifti" else None
    return _kind(head) or _name(path)


def _kind(head: bytes) -> Kind | None:
    if is_dicom(head):
        return "dicom"
    if head.startswith(PICTURES) or (head.startswith(BITMAP) and head[6:10] == bytes(4)):
        return "picture"
    if head.startswith(ZIP):
        return "zip"
    if head.startswith(b"NRRD"):
        return "nrrd"
    if head.lstrip().startswith((b"ObjectType", b"NDims")):
        return "metaimage"
    return "nifti" if is_nifti(head) else None


def _name(path: Path) -> Kind | None:
    return BY_NAME.get(Path(path.name.lower().removesuffix(".gz")).suffix)


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
    return len(head) >= 4 and bool(sizes & set(HEADER_SIZES))
