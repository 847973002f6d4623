"""What requests of the page have in common; pydantic holds them to it."""

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from medical_sam2.server.gestures import MOST_POINTS
from medical_sam2.server.state import Gesture, Kind
from medical_sam2.strokes import WIDEST

BYTES = "application/octet-stream"
Plane = Literal["axial", "coronal", "sagittal", "image"]
Side = Annotated[int, Query(ge=0, le=4096)]
Pair = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class StrictForm(BaseModel):
    """Nothing but the fields that are known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class VersionedForm(StrictForm):
    """A change of what the client has seen."""

    version: Annotated[int, Field(ge=0)]


class GestureForm(VersionedForm):
    """A gesture."""

    label: Annotated[int, Field(ge=1, le=255)]
    plane: Plane
    t: Annotated[int, Field(ge=0)]
    kind: Kind
    points: Annotated[list[Pair], Field(max_length=MOST_POINTS)] = []
    positive: Annotated[list[bool], Field(max_length=64)] = []
    runs: Annotated[list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(max_length=200_000)] = []
    frames: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=2)] = []
    width: Annotated[float, Field(ge=1, le=WIDEST)] = 3.0

    def gesture(self) -> Gesture:
        """As the session takes it."""
        points = tuple((float(y), float(x)) for y, x in self.points)
        where = 0, self.label, self.plane, self.t, self.kind
        return Gesture(*where, points, tuple(self.positive), tuple(self.runs), tuple(self.frames), self.width)
