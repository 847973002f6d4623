"""What a session holds, as values: structures, gestures, which result stands; the steps that change it, and their journal.

A step is a value too, and `after` is a pure function: the journal is a list of steps, and a session that is opened again
becomes what it was by taking them once more. Steps are on the disk before they are acknowledged, so that nothing acknowledged
is lost to a power cut or kill -9.
"""

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medical_sam2.errors import FormatError
from medical_sam2.io.atomic import sync_folder
from medical_sam2.server import InvalidRequest
from medical_sam2.volume import colour_of

Kind = Literal["points", "box", "mask", "scribble", "lasso", "diameter", "slices", "interpolate", "erase", "ball"]
LIMITING = ("slices", "interpolate")  # kinds that have a structure found anew
BY_HAND = ("erase", "ball")  # kinds that change voxels of several frames at once, and nothing else
OF_THE_WHOLE = (*LIMITING, *BY_HAND)  # kinds that say nothing of one frame
MOST_STRUCTURES, MOST_GESTURES, MOST_NAME = 64, 2_000, 80


@dataclass(frozen=True)
class Structure:
    """Something that is outlined."""

    label: int  # value in the label map, from 1
    name: str  # given by the user
    colour: str  # "#rrggbb"
    value: int = 0  # its number in files that leave the server; 0: its label
    locked: bool = False  # whether nothing changes it
    edited: bool = False  # in a set: merged, split or finished, so that it is not outlined anew from what was said


@dataclass(frozen=True)
class Gesture:
    """Clicks, or something drawn on one frame, for one structure; a box may reach over several frames."""

    id: int  # the version at which it was made
    label: int  # of the structure
    plane: str  # "axial", "coronal", "sagittal", or "image" in a set
    t: int  # frame of that plane
    kind: Kind
    points_yx: tuple[tuple[float, float], ...] = ()  # clicks, as rows and columns; corners of a box; places of a line
    positive: tuple[bool, ...] = ()  # of each click; of anything else, one: False is outside, or taken back
    runs: tuple[int, ...] = ()  # of a mask: start and length in pixels, row by row, one after the other
    frames: tuple[int, ...] = ()  # of a box in 3D, of limits, and of what is erased: the first and the last
    width: float = 3.0  # of a scribble, and of a ball, in pixels: of a ball along the finer side
    answer: tuple[int, ...] = ()  # what the network made of it, as runs: the structure on this frame from now on

    @property
    def place(self) -> tuple[int, str, int]:
        """The structure and the frame that it speaks of."""
        return self.label, self.plane, self.t

    @property
    def inside(self) -> bool:
        """Whether it says where the structure is, not only where it is not."""
        return not self.positive or any(self.positive)

    @property
    def of_frame(self) -> bool:
        """Whether it says something of its frame alone; limits, shapes between outlines, erased slices and balls do not."""
        return self.kind not in OF_THE_WHOLE

    def replaces(self, earlier: "Gesture") -> bool:
        """Whether an earlier one counts no more: a lesion has one diameter on a slice, a structure one pair of limits."""
        same = self.place == earlier.place if self.kind == "diameter" else self.label == earlier.label
        return self.kind == earlier.kind and same and self.kind in (*LIMITING, "diameter")

    @property
    def restarts(self) -> bool:
        """Whether it has its structure found anew: a box around all of it, limits, shapes between outlines."""
        return self.kind in LIMITING or (self.kind == "box" and bool(self.frames) and self.inside)

    @property
    def drawn(self) -> bool:
        """Whether it is an outline, which is taken as it is."""
        return self.kind == "mask" or (self.kind == "lasso" and self.inside)


@dataclass(frozen=True)
class ResultRecord:
    """A result that was tracked."""

    number: int  # of its file
    included: frozenset[int]  # gestures that went into it, by their ids
    labels: frozenset[int]  # structures that were tracked


@dataclass(frozen=True)
class State:
    """What a session holds at one moment."""

    structures: tuple[Structure, ...] = ()  # in the order of their making
    gestures: tuple[Gesture, ...] = ()  # all of them, in order
    tracked: ResultRecord | None = None  # the result that stands

    @property
    def fresh(self) -> tuple[Gesture, ...]:
        """Gestures that no result includes yet."""
        included = self.tracked.included if self.tracked else frozenset[int]()
        return tuple(gesture for gesture in self.gestures if gesture.id not in included)

    def with_gesture(self, gesture: Gesture) -> tuple[Gesture, ...]:
        """All gestures with one more, less what it replaces."""
        return *(each for each in self.gestures if not gesture.replaces(each)), gesture

    def still_told(self, warnings: Iterable[str]) -> tuple[str, ...]:
        """Warnings of tracking, without those on structures that are gone, or of which something was said since."""
        gone = (self.tracked.labels if self.tracked else frozenset[int]()) - self.names.keys()
        changed = {gesture.label for gesture in self.fresh} | gone
        return tuple(line for line in warnings if _labels_named(line).isdisjoint(changed))

    @property
    def names(self) -> Mapping[int, str]:
        """Label → name."""
        return {structure.label: structure.name for structure in self.structures}

    @property
    def numbers(self) -> Mapping[int, int]:
        """Label → number in files that leave the server."""
        return {each.label: each.value or each.label for each in self.structures}

    @property
    def numbered_names(self) -> Mapping[int, str]:
        """Number in files that leave the server → name."""
        return {self.numbers[label]: name for label, name in self.names.items()}

    @property
    def locked(self) -> frozenset[int]:
        """Labels that nothing changes."""
        return frozenset(each.label for each in self.structures if each.locked)

    @property
    def edited(self) -> frozenset[int]:
        """Labels of a set that stay as they were edited, but on images that are pointed at."""
        return frozenset(each.label for each in self.structures if each.edited)

    @property
    def priority(self) -> tuple[int, ...]:
        """Labels in the order in which structures take what several would have; none where nobody has chosen one."""
        order = tuple(each.label for each in self.structures)
        return order if order != tuple(sorted(order)) else ()

    def reached(self, labels: Collection[int]) -> "State":
        """Less the gestures on other structures that no result includes yet: their turn did not come."""
        waiting = {gesture.id for gesture in self.fresh if gesture.label not in labels}
        return replace(self, gestures=tuple(each for each in self.gestures if each.id not in waiting))

    def of(self, label: int) -> Structure:
        """The structure of a label.

        Raises:
            InvalidRequest: there is none.
        """
        for structure in self.structures:
            if structure.label == label:
                return structure
        raise InvalidRequest(f"there is no structure {label}; add it first")


@dataclass(frozen=True)
class Step:
    """Something that was done."""

    version: int  # of the session afterwards
    kind: Literal["add", "name", "change", "remove", "say", "track", "edit", "undo", "redo"]  # what was done
    structure: Structure | None = None  # that was added, renamed or removed
    gesture: Gesture | None = None  # that was made
    tracked: ResultRecord | None = None  # the result of tracking, or of an edit that has one
    structures: tuple[Structure, ...] | None = None  # all that are there after an edit, in their order
    begun: int | None = None  # place of the state that was tracked, where more was done meanwhile
    at: int = 0  # when, in seconds since 1970; 0 where that was not written


@dataclass(frozen=True)
class History:
    """All states, and which of them stands."""

    version: int = 0  # how many steps were taken
    states: tuple[State, ...] = field(default=(State(),))  # oldest first
    place: int = 0  # of the state that stands
    changed: int = 0  # when the last step was taken, in seconds since 1970; 0 where that is not known

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

    @property
    def added(self) -> int:
        """The structure that the last step added, with the name that it was given; 0 where that did something else."""
        before = self.states[self.place - 1].structures if self.place else ()
        now = self.state.structures
        return now[-1].label if len(now) == len(before) + 1 and now[:-1] == before else 0

    def after(self, step: Step) -> "History":
        """The history with one more step; a structure that was just added is named within the step that added it.

        Raises:
            InvalidRequest: it cannot be taken.
        """
        if step.kind in {"undo", "redo"}:
            if not (self.can_undo if step.kind == "undo" else self.can_redo):
                raise InvalidRequest(f"there is nothing to {step.kind}")
            place = self.place + (1 if step.kind == "redo" else -1)
            return replace(self, version=step.version, place=place, changed=step.at)
        if step.begun is not None and not (step.kind == "track" and 0 <= step.begun < self.place):
            raise InvalidRequest("nothing was done while the step was tracked")
        if step.begun is not None:  # what was done while it was tracked comes after the result, and is taken back before it
            first, later = self.states[: step.begun + 1], self.states[step.begun + 1 : self.place + 1]
            states = (*first, *(changed(each, step) for each in (first[-1], *later)))
            return History(step.version, states, len(states) - 1, step.at)
        kept = self.states[: self.place + (step.kind != "name" or not self.added)]
        states = (*kept, changed(self.state, step))
        return History(step.version, states, len(states) - 1, step.at)


def told_of_others(warnings: Iterable[str], labels: Collection[int]) -> tuple[str, ...]:
    """Warnings that name structures, and none of these."""
    return tuple(line for line in warnings if (named := _labels_named(line)) and named.isdisjoint(labels))


def _labels_named(warning: str) -> set[int]:
    return {int(label) for label in re.findall(r"\bobject (\d+)\b", warning)}


def default_colour(label: int) -> str:
    """The colour of a structure that was given none, as the page writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(label))


def changed(state: State, step: Step) -> State:
    """The state after a step that is neither undo nor redo.

    Raises:
        InvalidRequest: it cannot be taken.
    """
    if step.kind == "track":
        return replace(state, tracked=step.tracked)
    if step.kind == "say" and step.gesture is not None:
        state.of(step.gesture.label)
        if len(state.gestures) >= MOST_GESTURES:
            raise InvalidRequest(f"more than {MOST_GESTURES} gestures; begin a new session")
        return replace(state, gestures=state.with_gesture(step.gesture))
    if step.kind == "edit" and step.structures is not None:
        return _edited(state, step.structures, step.tracked)
    if step.structure is None:
        raise InvalidRequest("the step names no structure")
    return _with_structure(state, step.kind, step.structure)


def _edited(state: State, structures: tuple[Structure, ...], tracked: ResultRecord | None) -> State:
    """Other structures; of those that are gone, the gestures go too."""
    labels = {each.label for each in structures}
    if len(labels) < len(structures) or len(structures) > MOST_STRUCTURES:
        raise InvalidRequest(f"more than {MOST_STRUCTURES} structures, or one twice")
    return State(structures, tuple(each for each in state.gestures if each.label in labels), tracked or state.tracked)


# The journal is replayed through here, so what it refuses tells a damaged journal from a whole one.
def _with_structure(state: State, kind: str, structure: Structure) -> State:
    others = tuple(each for each in state.structures if each.label != structure.label)
    if kind == "add":
        if len(others) < len(state.structures):
            raise InvalidRequest(f"structure {structure.label} is there already")
        if len(others) >= MOST_STRUCTURES:
            raise InvalidRequest(f"more than {MOST_STRUCTURES} structures; remove one")
        return replace(state, structures=(*state.structures, structure))
    state.of(structure.label)
    if kind == "remove":
        return replace(
            state, structures=others, gestures=tuple(gesture for gesture in state.gestures if gesture.label != structure.label)
        )
    same = tuple(structure if each.label == structure.label else each for each in state.structures)
    return replace(state, structures=same)


def to_json(step: Step) -> dict[str, Any]:
    """A step as a line of the journal holds it, under the names that the first release gave its fields."""
    line: dict[str, Any] = {"version": step.version, "kind": step.kind}
    if step.at:
        line["at"] = step.at
    if step.structure:
        line["structure"] = vars(step.structure)
    if step.structures is not None:
        line["structures"] = [vars(each) for each in step.structures]
    if step.gesture:
        line["said"] = vars(step.gesture)
    if step.tracked:
        included, labels = sorted(step.tracked.included), sorted(step.tracked.labels)
        line["tracked"] = {"number": step.tracked.number, "heard": included, "labels": labels}
    if step.begun is not None:
        line["begun"] = step.begun
    return line


def from_json(line: Mapping[str, Any]) -> Step:
    """A step from a line of the journal."""
    structure, gesture, tracked = line.get("structure"), line.get("said"), line.get("tracked")
    return Step(
        int(line["version"]),
        line["kind"],
        Structure(**structure) if structure else None,
        _gesture(gesture) if gesture else None,
        ResultRecord(tracked["number"], frozenset(tracked["heard"]), frozenset(tracked["labels"])) if tracked else None,
        tuple(Structure(**each) for each in line["structures"]) if "structures" in line else None,
        int(line["begun"]) if "begun" in line else None,
        int(line.get("at", 0)),
    )


def _gesture(line: Mapping[str, Any]) -> Gesture:
    points: Any = tuple((float(y), float(x)) for y, x in line["points_yx"])
    rest: dict[str, Any] = {key: tuple(line.get(key, ())) for key in ("positive", "runs", "frames", "answer")}
    return Gesture(**{**line, "points_yx": points, **rest})


REMEDY = "remove the session's folder"


class Journal:
    """A file of steps, one line each, flushed to the disk one by one.

    Args:
        path: of the file; what it holds already is `history`. A last line that was not finished was not acknowledged and is
            cut off.

    Raises:
        FormatError: a line in the middle is broken, is missing, or comes twice.
    """

    def __init__(self, path: Path) -> None:
        self.history = History()
        whole = 0
        for number, (step, end) in enumerate(_steps(path), 1):
            if step.version != number:
                raise FormatError(f"line {number} of the journal is that of step {step.version}", REMEDY)
            try:
                self.history, whole = self.history.after(step), end
            except InvalidRequest:
                raise FormatError(f"line {number} of the journal does not follow from those before it", REMEDY) from None
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)
        sync_folder(path.parent)

    def write(self, step: Step) -> History:
        """Take a step: it is on the disk when this returns.

        Raises:
            InvalidRequest: it cannot be taken; nothing was written.
            OSError: the disk is full; nothing was taken.
        """
        step = replace(step, at=int(time.time()))
        after = self.history.after(step)
        start = os.lseek(self._file, 0, os.SEEK_CUR)
        data = (json.dumps(to_json(step), ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise
        self.history = after
        return after

    def close(self) -> None:
        """Nothing more is written."""
        file, self._file = self._file, -1  # a number that the system gives to another file is not written to
        os.close(file)


def _steps(path: Path) -> Iterator[tuple[Step, int]]:
    """Each step, and where its line ends."""
    end = 0
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            step = from_json(json.loads(line))
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return
            raise FormatError(f"line {number} of the journal is broken", REMEDY) from None
        end += len(line)
        yield step, end
