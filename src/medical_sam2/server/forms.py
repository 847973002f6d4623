"""What the page sends and gets, as pydantic models: the edge of the server; inside, these become values of our own."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medical_sam2.server.child import Reading
from medical_sam2.server.session import Session
from medical_sam2.server.state import MOST_NAME, Said, Structure

Colour = Annotated[str, Field(pattern=r"^(#[0-9a-f]{6})?$")]
Label = Annotated[int, Field(ge=1, le=255)]
Pair = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class Form(BaseModel):
    """Nothing but the fields that are known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Begin(Form):
    """A new session: from the library, from a PACS, or waiting for an upload."""

    library: Annotated[int, Field(ge=0)] | None = None


class Open(Form):
    """How the files are read."""

    frame: Annotated[int, Field(ge=0, le=100_000)] | None = None
    series: Annotated[int, Field(ge=1, le=100_000)] | None = None
    allow_gap: bool = False

    def reading(self) -> Reading:
        """As the decoder takes it."""
        return Reading(self.frame, self.series, self.allow_gap)


class Versioned(Form):
    """A change of what the client has seen."""

    version: Annotated[int, Field(ge=0)]


class Add(Versioned):
    """A new structure."""

    name: Annotated[str, Field(max_length=MOST_NAME)] = ""
    colour: Colour = ""


class Track(Versioned):
    """Carry it through."""

    views: Literal["one", "three", "six"] = "one"


class Say(Versioned):
    """A gesture."""

    label: Label
    plane: Literal["axial", "coronal", "sagittal", "image"]
    t: Annotated[int, Field(ge=0)]
    kind: Literal["points", "box", "mask"]
    points: Annotated[list[Pair], Field(max_length=64)] = []
    positive: Annotated[list[bool], Field(max_length=64)] = []
    runs: Annotated[list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(max_length=200_000)] = []

    def said(self) -> Said:
        """As the session takes it."""
        points = tuple((float(y), float(x)) for y, x in self.points)
        return Said(0, self.label, self.plane, self.t, self.kind, points, tuple(self.positive), tuple(self.runs))


class StructureOut(BaseModel):
    """A structure as it is shown."""

    label: int
    name: str
    colour: str
    ml: float | None
    said: int
    window: tuple[float, float]
    seen_as: str


class SaidOut(BaseModel):
    """A gesture as it is shown."""

    label: int
    plane: str
    t: int
    kind: str
    points: list[tuple[float, float]]
    positive: list[bool]
    fresh: bool


class StateOut(BaseModel):
    """A session as it stands."""

    version: int
    structures: list[StructureOut]
    said: list[SaidOut]
    can_undo: bool
    can_redo: bool
    fresh: int
    tracked: int
    busy: bool


def _structure(session: Session, structure: Structure, ml: float | None) -> StructureOut:
    said = [each for each in session.history.state.said if each.label == structure.label]
    seen = session.subject.seen(said)
    return StructureOut(
        label=structure.label,
        name=structure.name,
        colour=structure.colour,
        ml=ml,
        said=len(said),
        window=(seen.low, seen.high),
        seen_as=str(seen),
    )


def shown(session: Session) -> StateOut:
    """What the page is told of a session."""
    history = session.history
    state = history.state
    fresh = {said.id for said in state.fresh}
    volumes = session.volumes_ml()
    return StateOut(
        version=history.version,
        structures=[_structure(session, each, volumes.get(each.label)) for each in state.structures],
        said=[
            SaidOut(
                label=said.label,
                plane=said.plane,
                t=said.t,
                kind=said.kind,
                points=list(said.points_yx),
                positive=list(said.positive),
                fresh=said.id in fresh,
            )
            for said in state.said
        ],
        can_undo=history.can_undo,
        can_redo=history.can_redo,
        fresh=len(fresh),
        tracked=state.tracked.number if state.tracked else 0,
        busy=session.busy,
    )
