"""One volume or one set of images, and what was done with it. Every method may be called from any thread."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.server import results, thrift
from medical_sam2.server.desk import Desk
from medical_sam2.server.jobs import Event, Job
from medical_sam2.server.journal import Journal
from medical_sam2.server.refusals import Conflict, Missing, Unusable, explained
from medical_sam2.server.state import COLOURS, MOST_NAME, History, Said, State, Step, Structure, Tracked
from medical_sam2.server.subjects import Canvas, Found, Frame, Subject, check, packed, put, unpacked

MOST_LABEL = 255


class Session:
    """A subject with its history.

    Args:
        id: unguessable.
        folder: where its journal and its results are.
        subject: what it is about.
        desk: where the network is asked.
    """

    def __init__(self, id: str, folder: Path, subject: Subject, desk: Desk) -> None:
        self.id, self.folder, self.subject, self.desk = id, folder, subject, desk
        (folder / "results").mkdir(exist_ok=True)
        self._journal = Journal(folder / "journal.jsonl")
        self._lock = threading.RLock()
        self._standing: tuple[int, frozenset[int], Found] | None = None
        self._canvas: Canvas | None = None
        self.job: Job | None = None

    @property
    def history(self) -> History:
        """What was done."""
        return self._journal.history

    @property
    def busy(self) -> bool:
        """Whether it is being tracked."""
        return self.job is not None and self.job.running

    def add(self, version: int, name: str = "", colour: str = "") -> History:
        """A new structure."""
        with self._lock:
            state = self._expect(version)
            used = {each.label for each in state.structures} | (state.tracked.labels if state.tracked else frozenset[int]())
            label = max(used, default=0) + 1
            if label > MOST_LABEL:
                raise Unusable("the labels are used up; begin a new session")
            colour = colour or COLOURS[(label - 1) % len(COLOURS)]
            structure = Structure(label, _named(name) or f"structure {label}", colour)
            return self._journal.write(Step(version + 1, "add", structure))

    def change(self, version: int, label: int, name: str, colour: str) -> History:
        """Another name or colour of a structure; what is empty stays."""
        with self._lock:
            old = self._expect(version).of(label)
            structure = Structure(label, _named(name) or old.name, colour or old.colour)
            return self._journal.write(Step(version + 1, "change", structure))

    def remove(self, version: int, label: int) -> History:
        """A structure, and all that was said of it."""
        with self._lock:
            structure = self._expect(version, idle=True).of(label)
            return self._redrawn(self._journal.write(Step(version + 1, "remove", structure)))

    def say(self, version: int, said: Said) -> History:
        """A gesture: its frame's outline is known when this returns.

        Raises:
            MedicalSam2Error: the network cannot do anything with it; nothing was changed.
        """
        with self._lock:
            state = self._expect(version)
            state.of(said.label)
            check(said, self.subject)
            made = replace(said, id=version + 1)
            answer = self._answer(state, made)
            history = self._journal.write(Step(version + 1, "say", said=replace(made, answer=packed(answer))))
            if self._canvas is not None:
                self._draw(self._canvas, history.state.said[-1])
            return history

    def undo(self, version: int) -> History:
        """Back by one step."""
        return self._step(Step(version + 1, "undo"))

    def redo(self, version: int) -> History:
        """The step that was undone, again."""
        return self._step(Step(version + 1, "redo"))

    def _step(self, step: Step) -> History:
        with self._lock:
            self._expect(step.version - 1, idle=True)
            return self._redrawn(self._journal.write(step))

    def track(self, version: int, views: str = "one") -> Job:
        """Carry everything that was said through the whole, in the background."""
        with self._lock:
            state = self._expect(version, idle=True)
            if not state.fresh:
                raise Unusable("there is nothing new to track; click on a structure first")
            self.job = Job(lambda job: self._tracked(job, state, views), explained).start()
            return self.job

    def _tracked(self, job: Job, state: State, views: str) -> Event:
        done = 0
        with self._lock:
            before, canvas = self._result(state), self._shown()

        def on_frame(now: int, total: int, plane: str, t: int, masks: Mapping[int, NDArray[np.bool_]]) -> None:
            nonlocal done
            done = now
            frame = self.subject.view(canvas, plane, t)  # without the lock: whoever holds it may wait for the network
            for label, mask in masks.items():
                put(frame, label, mask, {0, label})
            job.tell(Event("frame", now, total, plane, t))
            self.desk.give_way()

        try:
            with self.desk.asking(urgent=False) as segmenter:
                found = self.subject.track(segmenter, state, before, views, on_frame)
            job.tell(Event("frame", done, done))
            self._keep(state, found)
        finally:
            with self._lock:
                self._canvas = None
            thrift.give_back()
        return Event("done", done, done, message="; ".join(found.warnings))

    def _keep(self, state: State, found: Found) -> None:
        number = 1 + max((int(path.stem) for path in (self.folder / "results").glob("[0-9]*.npz")), default=0)
        _ = found.voxels  # counted now, not when the next click waits for it
        results.save(self.folder / "results" / f"{number}.npz", found)
        earlier = state.tracked.labels if state.tracked else frozenset[int]()
        with self._lock:
            tracked = Tracked(number, frozenset(said.id for said in state.said), earlier | {said.label for said in state.said})
            self._journal.write(Step(self.history.version + 1, "track", tracked=tracked))
            needed = {each.tracked.number for each in self.history.states if each.tracked}
            for path in (self.folder / "results").glob("[0-9]*.npz"):
                if int(path.stem) not in needed:
                    path.unlink()
            present = frozenset(each.label for each in self.history.state.structures)
            self._standing = (number, present, found) if tracked.labels <= present else None

    def labels(self, plane: str, t: int) -> Frame:
        """Labels (H, W) of a frame, as they stand now."""
        with self._lock:
            self._check(plane, t)
            return self.subject.view(self._shown(), plane, t).copy()

    def doubt(self, plane: str, t: int) -> Frame:
        """How undecided the network was on a frame (H, W), 0 to 255.

        Raises:
            Missing: it is not known.
        """
        with self._lock:
            self._check(plane, t)
            found = self._result(self.history.state)
            if found is None or found.doubt is None:
                raise Missing("map of uncertainty")
            return self.subject.view(found.doubt, plane, t).copy()

    def found(self) -> Found:
        """The result that stands.

        Raises:
            Missing: nothing was tracked yet.
        """
        with self._lock:
            found = self._result(self.history.state)
        if found is None:
            raise Missing("result: nothing was tracked yet")
        return found

    def volumes_ml(self) -> Mapping[int, float]:
        """Label → its volume in the result that stands, where that means something."""
        voxel_ml = self.subject.voxel_ml
        with self._lock:
            found = self._result(self.history.state)
        tracked = self.history.state.tracked
        if found is None or tracked is None or voxel_ml is None:
            return {}
        return {label: found.voxels.get(label, 0) * voxel_ml for label in tracked.labels}

    def sketched(self) -> Canvas:
        """All labels as they stand now, sketches on single frames among them."""
        with self._lock:
            return tuple(array.copy() for array in self._shown())

    @property
    def held_bytes(self) -> int:
        """Memory that `rest` would free."""
        held = list(self._canvas or ())
        if self._standing:
            held += [*self._standing[2].canvas, *(self._standing[2].doubt or ())]
        return sum(array.nbytes for array in held)

    def rest(self) -> None:
        """Forget what can be read or drawn again."""
        with self._lock:
            if not self.busy:
                self._canvas = self._standing = None

    def cancel(self) -> None:
        """Stop tracking at the next frame."""
        if self.job is not None:
            self.job.cancel()

    def close(self, within_s: float | None = None) -> None:
        """Stop whatever goes on; nothing more is written, not even by what has not stopped within this time."""
        self.cancel()
        if self.job is not None:
            self.job.wait(within_s)
        with self._lock:
            self._journal.close()

    def _expect(self, version: int, *, idle: bool = False) -> State:
        """The state that stands, if that is the one that the client has seen."""
        if version != self.history.version:
            raise Conflict(
                "this session was changed from elsewhere meanwhile; nothing was changed by you: look, and do it again"
            )
        if idle and self.busy:
            raise Conflict("the session is being tracked; wait for the end, or cancel it")
        return self.history.state

    def _check(self, plane: str, t: int) -> None:
        if plane not in self.subject.planes or not 0 <= t < self.subject.planes[plane]:
            raise Missing("slice")

    def _answer(self, state: State, said: Said) -> NDArray[np.bool_]:
        """What the structure is on the gesture's frame, in the light of all that holds there."""
        if said.kind == "mask":
            return unpacked(said.runs, self.subject.size(said.plane, said.t))
        result = self._result(state)
        earlier = self.subject.view(result.canvas, said.plane, said.t) if result else None
        known = result is not None and said.label in result.voxels
        before = state.fresh if known else state.said
        own = [each for each in before if each.place == said.place]
        with self.desk.asking(urgent=True) as segmenter:
            return self.subject.sketch(segmenter, [*own, said], earlier if known else None)

    def _result(self, state: State) -> Found | None:
        """The tracked result of a state, without structures that were removed."""
        if state.tracked is None:
            return None
        present = frozenset(each.label for each in state.structures)
        key = state.tracked.number, present
        if self._standing is None or self._standing[:2] != key:
            found = results.load(self.folder / "results" / f"{state.tracked.number}.npz")
            if gone := state.tracked.labels - present:
                table = np.arange(256, dtype=np.uint8)
                table[list(gone)] = 0
                rows = tuple(row for row in found.rows if row.object in present)
                found = replace(found, canvas=tuple(table[array] for array in found.canvas), rows=rows)
            self._standing = (*key, found)
        return self._standing[2]

    def _shown(self) -> Canvas:
        if self._canvas is None:
            state = self.history.state
            found = self._result(state)
            canvas = tuple(array.copy() for array in found.canvas) if found else self.subject.blank()
            for said in {said.place: said for said in state.fresh}.values():
                self._draw(canvas, said)
            self._canvas = canvas
        return self._canvas

    def _draw(self, canvas: Canvas, said: Said) -> None:
        frame = self.subject.view(canvas, said.plane, said.t)
        mask = unpacked(said.answer, (frame.shape[0], frame.shape[1])) if said.answer else np.zeros(frame.shape, bool)
        inside = [(round(y), round(x)) for (y, x), yes in zip(said.points_yx, said.positive, strict=False) if yes]
        put(frame, said.label, mask, {0, said.label, *(int(frame[place]) for place in inside)})

    def _redrawn(self, history: History) -> History:
        self._canvas = None
        return history


def _named(name: str) -> str:
    """A name in one printable line."""
    return "".join(letter for letter in " ".join(name.split()) if letter.isprintable())[:MOST_NAME]
