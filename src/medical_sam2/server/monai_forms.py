"""What MONAI Label's clients send beside files, and what of it is taken."""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from pydantic import AfterValidator, AliasChoices, BaseModel, TypeAdapter, ValidationError
from pydantic import Field as Limited

from medical_sam2.io import registry
from medical_sam2.prompts import Point, Prompt
from medical_sam2.server import InvalidRequest

MOST_CLICKS, MOST_SEGMENTS = 1_000, 1_000
STRUCTURE = "structure"  # the only label: clicks come as `foreground`, or under its name
TYPES = frozenset({"uint8", "int16", "uint16", "int32", "uint32"})
Place: TypeAlias = Annotated[float, Limited(allow_inf_nan=False)]
Kind = TypeVar("Kind")


def _six_or_none(numbers: list[float]) -> list[float]:
    if len(numbers) not in {0, 6}:
        raise ValueError
    return numbers


class SegmentInfo(BaseModel):
    """A segment of a label map."""

    name: Annotated[str, Limited(max_length=1_000)]
    number: Annotated[int, Limited(validation_alias=AliasChoices("id", "idx"), ge=0)]


VOXELS = TypeAdapter[list[tuple[Place, Place, Place]]](
    Annotated[list[tuple[Place, Place, Place]], Limited(max_length=MOST_CLICKS)]
)
ROI = TypeAdapter[list[float]](Annotated[list[Place], AfterValidator(_six_or_none)])
SEGMENTS = TypeAdapter[list[SegmentInfo]](Annotated[list[SegmentInfo], Limited(max_length=MOST_SEGMENTS)])
EXPECTED: Mapping[str, str] = {
    "foreground": f"a list of at most {MOST_CLICKS} voxels",
    STRUCTURE: f"a list of at most {MOST_CLICKS} voxels",
    "background": f"a list of at most {MOST_CLICKS} voxels",
    "roi": "six numbers, the first and the last voxel along each axis, or none",
    "label_info": "a list of the label map's segments, each with its name and its id",
}


@dataclass(frozen=True)
class InferenceRequest:
    """What an inference asks for."""

    clicks: Sequence[Prompt]  # inside of the structure, and outside
    roi: Sequence[float]  # first and last voxel along each axis, in any order; empty where there is none
    names: Mapping[str, int]  # of the segments of the label map that comes with it → values there
    label: str  # name of the structure, where it is told
    form: str  # suffix of the answer
    kind: str = "uint8"  # of its numbers, in NRRD
    packed: bool = True  # whether they are compressed there


def parse(params: str) -> InferenceRequest:
    """What an inference asks for; raises InvalidRequest if it is not what it should be."""
    given = _object(params)
    suffix = str(given.get("result_extension", ".nrrd"))
    form = suffix[1:] if suffix in registry.written() and not registry.writer_of(Path(f"a{suffix}")).check else "nrrd"
    sides = (("foreground", True), (STRUCTURE, True), ("background", False))
    clicks = [Point(voxel, positive=positive) for key, positive in sides for voxel in _read(VOXELS, given, key)]
    roi, info = _read(ROI, given, "roi"), _read(SEGMENTS, given, "label_info")
    label = str(given.get("selected_label_name") or given.get("label") or "")
    kind = str(given.get("result_dtype"))
    packed = given.get("result_compress") is not False
    names = {each.name: each.number for each in info}
    return InferenceRequest(clicks, roi, names, label, form, kind if kind in TYPES else "uint8", packed)


# OHIF's extension takes the bytes behind the header as numbers of the type that it asked for, whatever the header says of them.
def as_asked(nrrd: bytes, request: InferenceRequest) -> bytes:
    """A label map of bytes as NRRD, in the type that was asked for, and not compressed where that was."""
    if request.form != "nrrd" or (request.kind == "uint8" and request.packed):
        return nrrd
    head, body = nrrd.split(b"\n\n", 1)
    data = np.frombuffer(gzip.decompress(body), np.uint8).astype(f"<{np.dtype(request.kind).str[1:]}").tobytes()
    told = {b"type": request.kind, b"endian": "little", b"encoding": "gzip" if request.packed else "raw"}
    for name, value in told.items():
        head = re.sub(rb"(?m)^%s: .*$" % name, b"%s: %s" % (name, value.encode()), head)
    return head + b"\n\n" + (gzip.compress(data, mtime=0) if request.packed else data)


def _read(kind: "TypeAdapter[list[Kind]]", given: Mapping[str, Any], key: str) -> "list[Kind]":
    try:
        return kind.validate_python(given.get(key) or [])
    except ValidationError:
        raise InvalidRequest(f"{key} is not what it should be: {EXPECTED[key]}") from None


def read_segments(params: str) -> list[SegmentInfo]:
    """The segments that a label map is said to have; whatever else comes with it is not kept: it may name a person.

    Raises:
        InvalidRequest: it is not what it should be.
    """
    return _read(SEGMENTS, _object(params), "label_info")


def _object(params: str) -> Mapping[str, Any]:
    try:
        given = json.loads(params or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("params is no JSON object")
    return given
