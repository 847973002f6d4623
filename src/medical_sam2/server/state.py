"""What a session holds, as values: structures, what was said of them, which result stands; and the steps that change it.

A step is a value too, and `after` is a pure function: the journal is a list of steps, and a session that is opened again
becomes what it was by taking them once more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from medical_sam2.server.refusals import Unusable

Kind = Literal["points", "box", "mask"]
PLANES = ("axial", "coronal", "sagittal", "image")
MOST_STRUCTURES, MOST_SAID, MOST_NAME = 64, 2_000, 80
COLOURS = ("#4cc9f0", "#f9844a", "#90be6d", "#f9c74f", "#c77dff", "#f94144", "#43aa8b", "#ff8fab")


@dataclass(frozen=True)
class Structure:
    """Something that is outlined.

    Args:
        label: value in the label map, from 1.
        name: given by the user.
        colour: "#rrggbb".
    """

    label: int
    name: str
    colour: str


@dataclass(frozen=True)
class Said:
    """One gesture.

    Args:
        id: the version at which it was made.
        label: of the structure.
        plane: "axial", "coronal", "sagittal", or "image" in a set.
        t: frame of that plane.
        kind: of gesture.
        points_yx: clicks, as rows and columns; the corners of a box.
        positive: of each click.
        runs: of a mask: start and length in pixels, row by row, one after the other.
        answer: what the network made of it, as runs: the structure on this frame from now on.
    """

    id: int
    label: int
    plane: str
    t: int
    kind: Kind
    points_yx: tuple[tuple[float, float], ...] = ()
    positive: tuple[bool, ...] = ()
    runs: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[int, str, int]:
        """The structure and the frame that it speaks of."""
        return self.label, self.plane, self.t


@dataclass(frozen=True)
class Tracked:
    """A result that was tracked.

    Args:
        number: of its file.
        heard: gestures that went into it.
        labels: structures that were tracked.
    """

    number: int
    heard: frozenset[int]
    labels: frozenset[int]


@dataclass(frozen=True)
class State:
    """What a session holds at one moment.

    Args:
        structures: in the order of their making.
        said: every gesture, in order.
        tracked: the result that stands.
    """

    structures: tuple[Structure, ...] = ()
    said: tuple[Said, ...] = ()
    tracked: Tracked | None = None

    @property
    def fresh(self) -> tuple[Said, ...]:
        """Gestures that no result has heard yet."""
        heard = self.tracked.heard if self.tracked else frozenset[int]()
        return tuple(said for said in self.said if said.id not in heard)

    @property
    def names(self) -> Mapping[int, str]:
        """Label → name."""
        return {structure.label: structure.name for structure in self.structures}

    def of(self, label: int) -> Structure:
        """The structure of a label.

        Raises:
            Unusable: there is none.
        """
        for structure in self.structures:
            if structure.label == label:
                return structure
        raise Unusable(f"there is no structure {label}; add it first")


@dataclass(frozen=True)
class Step:
    """Something that was done.

    Args:
        version: of the session afterwards.
        kind: what was done.
        structure: that was added, renamed or removed.
        said: that was said.
        tracked: that was found.
    """

    version: int
    kind: Literal["add", "change", "remove", "say", "track", "undo", "redo"]
    structure: Structure | None = None
    said: Said | None = None
    tracked: Tracked | None = None


@dataclass(frozen=True)
class History:
    """All states, and which of them stands.

    Args:
        version: how many steps were taken.
        states: oldest first.
        place: of the state that stands.
    """

    version: int = 0
    states: tuple[State, ...] = field(default=(State(),))
    place: int = 0

    @property
    def state(self) -> State:
        """The one that stands."""
        return self.states[self.place]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier one."""
        return self.place > 0

    @property
    def can_redo(self) -> bool:
        """Whether one was undone."""
        return self.place < len(self.states) - 1

    def after(self, step: Step) -> "History":
        """The history with one more step.

        Raises:
            Unusable: it cannot be taken.
        """
        if step.kind in {"undo", "redo"}:
            if not (self.can_undo if step.kind == "undo" else self.can_redo):
                raise Unusable(f"there is nothing to {step.kind}")
            return replace(self, version=step.version, place=self.place + (1 if step.kind == "redo" else -1))
        states = (*self.states[: self.place + 1], changed(self.state, step))
        return History(step.version, states, len(states) - 1)


def changed(state: State, step: Step) -> State:
    """The state after a step that is neither undo nor redo.

    Raises:
        Unusable: it cannot be taken.
    """
    if step.kind == "track":
        return replace(state, tracked=step.tracked)
    if step.kind == "say" and step.said is not None:
        state.of(step.said.label)
        if len(state.said) >= MOST_SAID:
            raise Unusable(f"more than {MOST_SAID} gestures; begin a new session")
        return replace(state, said=(*state.said, step.said))
    if step.structure is None:
        raise Unusable("the step names no structure")
    return _with_structure(state, step.kind, step.structure)


def _with_structure(state: State, kind: str, structure: Structure) -> State:
    others = tuple(each for each in state.structures if each.label != structure.label)
    if kind == "add":
        if len(others) < len(state.structures):
            raise Unusable(f"structure {structure.label} is there already")
        if len(others) >= MOST_STRUCTURES:
            raise Unusable(f"more than {MOST_STRUCTURES} structures; remove one")
        return replace(state, structures=(*state.structures, structure))
    state.of(structure.label)
    if kind == "remove":
        return replace(state, structures=others, said=tuple(said for said in state.said if said.label != structure.label))
    same = tuple(structure if each.label == structure.label else each for each in state.structures)
    return replace(state, structures=same)


def to_json(step: Step) -> dict[str, Any]:
    """A step as a line of the journal holds it."""
    line: dict[str, Any] = {"version": step.version, "kind": step.kind}
    if step.structure:
        line["structure"] = vars(step.structure)
    if step.said:
        line["said"] = vars(step.said)
    if step.tracked:
        heard = {"heard": sorted(step.tracked.heard), "labels": sorted(step.tracked.labels)}
        line["tracked"] = {"number": step.tracked.number, **heard}
    return line


def from_json(line: Mapping[str, Any]) -> Step:
    """A step from a line of the journal."""
    structure, said, tracked = line.get("structure"), line.get("said"), line.get("tracked")
    return Step(
        int(line["version"]),
        line["kind"],
        Structure(**structure) if structure else None,
        _said(said) if said else None,
        Tracked(tracked["number"], frozenset(tracked["heard"]), frozenset(tracked["labels"])) if tracked else None,
    )


def _said(line: Mapping[str, Any]) -> Said:
    points: Any = tuple((float(y), float(x)) for y, x in line["points_yx"])
    rest: dict[str, Any] = {key: tuple(line[key]) for key in ("positive", "runs", "answer")}
    return Said(**{**line, "points_yx": points, **rest})
