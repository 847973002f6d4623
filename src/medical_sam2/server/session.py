"""One volume or one set of images, and what was done with it. Every method may be called from any thread."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, say_count
from medical_sam2.server import Conflict, InvalidRequest, NotFound
from medical_sam2.server.editing import (
    StructureEdit,
    check_lockable,
    check_number,
    check_open,
    claim_pixels,
    describe_ball,
    describe_kept,
    describe_lost_box,
    draw_label,
    free_labels,
    give_back,
    keep_settled,
    number_for,
    overwritten_labels,
    settled_structures,
    tell_outlined_anew,
    usual_name,
)
from medical_sam2.server.gestures import answer_mask, ball_voxels, check_gesture, clicks_inside, encode_runs, frame_prompt
from medical_sam2.server.inference_queue import Cancelled, InferenceQueue, JobEvent, TrackingJob, trim_memory
from medical_sam2.server.segmentation import (
    Frame,
    LabelMaps,
    SessionImage,
    SessionResult,
    SessionVolume,
    TrackedFrame,
    check_frame,
    load_result,
    save_result,
)
from medical_sam2.server.state import (
    BY_HAND,
    MOST_NAME,
    REMEDY,
    Gesture,
    History,
    Journal,
    ResultRecord,
    State,
    Step,
    Structure,
    default_colour,
    told_of_others,
)
from medical_sam2.tracking.limits import count_taken


class Session:
    """A volume or a set of images with its history.

    Args:
        id: unguessable.
        folder: where its journal and its results are.
        image: what it is about.
        queue: where the network is asked.
    """

    def __init__(self, id: str, folder: Path, image: SessionImage, queue: InferenceQueue) -> None:
        self.id, self.folder, self.image, self.queue = id, folder, image, queue
        self._results = folder / "results"
        self._results.mkdir(exist_ok=True)
        self._journal = Journal(folder / "journal.jsonl")
        self._check_results()
        self._lock = threading.RLock()
        self._cached: tuple[int, frozenset[int], SessionResult] | None = None
        self._drawn: LabelMaps | None = None
        self.job: TrackingJob | None = None
        self.notes: tuple[str, ...] = ()  # on the last gesture

    @property
    def history(self) -> History:
        """What was done."""
        return self._journal.history

    @property
    def busy(self) -> bool:
        """Whether it is being tracked."""
        return self.job is not None and self.job.running

    def add_structure(self, version: int, name: str = "", colour: str = "") -> History:
        """A new structure."""
        with self._lock:
            state = self._expect(version)
            (label,) = free_labels(state, 1)
            name, colour = _one_line(name) or usual_name(state.names.values(), label), colour or default_colour(label)
            structure = Structure(label, name, colour, number_for(state, label))
            return self._journal.write(Step(version + 1, "add", structure))

    def change_structure(
        self, version: int, label: int, name: str = "", colour: str = "", value: int = 0, locked: bool | None = None
    ) -> History:
        """Another name, colour or number in files of a structure, or a lock; what is empty stays."""
        with self._lock:
            state = self._expect(version, idle=locked is not None)
            old, value = state.of(label), value or state.numbers[label]
            check_number(state, label, value)
            if locked and not old.locked:
                check_lockable(state)
            held = old.locked if locked is None else locked
            looks = {"name": _one_line(name) or old.name, "colour": colour or old.colour}
            new = replace(old, **looks, value=0 if value == label else value, locked=held)
            usual = usual_name([each.name for each in state.structures if each is not old], label)
            unnamed = self.history.added == label and old.name == usual
            kind = "name" if unnamed and new == replace(old, name=new.name) else "change"
            return self._write_and_redraw(Step(version + 1, kind, new))

    def edit(self, version: int, make: Callable[[SessionImage, State, SessionResult], StructureEdit]) -> tuple[str, ...]:
        """Take what is made of the image, the state and its result; returns what is to be told.

        Raises:
            MedicalSam2Error, Refusal: it cannot be made; nothing was changed.
        """
        with self._lock:
            state = self._expect(version, idle=True)
            found = make(self.image, state, self._result(state) or SessionResult(self.image.empty_labels()))
            tracked = None
            if found.result is not None:
                included = state.tracked.included if state.tracked else frozenset[int]()
                earlier = state.tracked.labels if state.tracked else frozenset[int]()
                tracked = ResultRecord(self._save(found.result), included, earlier | set(found.result.voxels))
            self._write_and_redraw(Step(version + 1, "edit", tracked=tracked, structures=found.structures))
            self._remove_unnamed()
            return found.notes

    def remove_structure(self, version: int, label: int) -> History:
        """Remove a structure and all gestures on it."""
        with self._lock:
            state = self._expect(version, idle=True)
            check_open(state, label)
            return self._write_and_redraw(Step(version + 1, "remove", state.of(label)))

    def add_gesture(self, version: int, gesture: Gesture) -> History:
        """A gesture: its frame's outline is known when this returns.

        Raises:
            MedicalSam2Error: the network cannot do anything with it; nothing was changed.
        """
        with self._lock:
            state = self._expect(version)
            check_open(state, gesture.label)
            check_frame(self.image, gesture.plane, gesture.t)
            check_gesture(gesture, self.image.frame_shape(gesture.plane, gesture.t), self.image.planes[gesture.plane])
            own = [each for each in state.with_gesture(gesture) if each.label == gesture.label]
            self.image.check_prompts(own)
            gesture = replace(gesture, id=version + 1)
            gesture = replace(gesture, answer=encode_runs(self._outline(state, gesture)))
            left = *describe_lost_box(self.image, own), *self._left_to_others(state, gesture)
            before = self._clicked_on(state, gesture)
            history = self._journal.write(Step(version + 1, "say", gesture=gesture))
            if self._drawn is not None:
                self._draw(self._drawn, gesture)
            self.notes = left if before is None else (*self._noted(state, gesture, before), *left)
            return history

    def _left_to_others(self, state: State, gesture: Gesture) -> tuple[str, ...]:
        """What others keep of an outline that is new; raises InvalidRequest if that is all of it."""
        if gesture.kind == "ball" and isinstance(self.image, SessionVolume):
            return describe_ball(state, gesture, self._labels()[0][tuple(ball_voxels(gesture, self.image.volume).T)])
        if not gesture.of_frame or not isinstance(self.image, SessionVolume):
            return ()
        frame = self.image.frame_labels(self._labels(), gesture.plane, gesture.t)
        return describe_kept(state, gesture, frame, overwritten_labels(self.image, state, self._result(state), gesture, frame))

    def _clicked_on(self, state: State, gesture: Gesture) -> Frame | None:
        """Labels (H, W) of which a click may take something, or that are locked; of a volume tracking tells what was taken."""
        if gesture.kind != "points" or (isinstance(self.image, SessionVolume) and not state.locked):
            return None
        return self.image.frame_labels(self._labels(), gesture.plane, gesture.t).copy()

    def _noted(self, state: State, gesture: Gesture, before: Frame) -> tuple[str, ...]:
        clicked = {int(before[place]) for place in clicks_inside(gesture)}
        locked = [f"{state.of(label).name} is locked there" for label in sorted(clicked & state.locked)]
        after = self.image.frame_labels(self._labels(), gesture.plane, gesture.t)
        taken = [] if isinstance(self.image, SessionVolume) else count_taken(before, after, [gesture.label], "pixel")
        return *locked, *taken

    def undo(self, version: int) -> History:
        """Back by one step."""
        with self._lock:
            self._expect(version, idle=True)
            return self._write_and_redraw(Step(version + 1, "undo"))

    def redo(self, version: int) -> History:
        """The step that was undone, again."""
        with self._lock:
            self._expect(version, idle=True)
            return self._write_and_redraw(Step(version + 1, "redo"))

    def track(self, version: int, views: str = "one") -> TrackingJob:
        """Apply all gestures to the whole volume or set, in the background."""
        with self._lock:
            state = self._expect(version, idle=True)
            if not state.fresh:
                raise InvalidRequest("there is nothing new to track; click on a structure first")
            place = self.history.place
            self.job = TrackingJob(lambda job: self._track(job, state, place, views)).start()
            return self.job

    def _track(self, job: TrackingJob, state: State, place: int, views: str) -> JobEvent:
        done, frames = 0, list[TrackedFrame]()
        with self._lock:
            before, labels, version = self._result(state), self._labels(), self.history.version
            settled = settled_structures(self.image, state)
            known = before.labels if before else ()
            shown = self.current_labels() if settled - state.locked else known  # what is locked was not pointed at
            claims = self._claims(state, version, range(len(known)))

        def on_frame(now: int, total: int, plane: str, t: int, masks: Mapping[int, NDArray[np.bool_]]) -> None:
            nonlocal done
            done = now
            frame = self.image.frame_labels(labels, plane, t)  # without the lock: whoever holds it may wait for the network
            for label, mask in masks.items():
                draw_label(frame, label, mask, {0, label})
            frames.append((plane, t, masks))
            job.report(JobEvent("frame", now, total, plane, t))
            self.queue.give_way()

        try:
            try:
                with self.queue.segmenter(urgent=False) as segmenter:
                    result = self.image.track(segmenter, state, before, views, on_frame)
                if before:
                    result = tell_outlined_anew(state, before, keep_settled(before, shown, result, settled))
            except Cancelled:
                if not (job.keep and frames):
                    raise
                reached = state.reached({label for _, _, masks in frames for label in masks})
                result = self._stopped(reached, before, frames)
                self._keep(reached, place, give_back(result, shown, claims))
                return JobEvent("done", done, done, message="; ".join(result.warnings))
            job.report(JobEvent("frame", done, done))
            self._keep(state, place, give_back(result, shown, claims))
        finally:
            with self._lock:
                self._drawn = None
            trim_memory()
        return JobEvent("done", done, done, message="; ".join(result.warnings))

    def _stopped(self, state: State, before: SessionResult | None, frames: Sequence[TrackedFrame]) -> SessionResult:
        """What was tracked before it was stopped; nobody knows how sure the network was of it."""
        labels = tuple(array.copy() for array in before.labels) if before else self.image.empty_labels()
        for gesture in state.fresh:
            self._draw(labels, gesture)
        for plane, t, masks in frames:
            for label, mask in masks.items():
                draw_label(self.image.frame_labels(labels, plane, t), label, mask, {0, label})
        new = {label for _, _, masks in frames for label in masks}
        rows = tuple(row for row in before.rows if row.object not in new) if before else ()
        count = say_count(len(frames), "slice" if isinstance(self.image, SessionVolume) else "image")
        said = f"stopped after {count}, kept as tracked; a click on one of the others goes on from there"
        return SessionResult(labels, rows, None, (*told_of_others(before.warnings if before else (), new), said))

    # The file is on the disk before the journal names it, and those that no state names any more go after.
    def _keep(self, state: State, place: int, result: SessionResult) -> None:
        number = self._save(result)
        earlier = state.tracked.labels if state.tracked else frozenset[int]()
        labels = earlier | {gesture.label for gesture in state.gestures}
        tracked = ResultRecord(number, frozenset(gesture.id for gesture in state.gestures), labels)
        with self._lock:
            begun = place if place < self.history.place else None
            self._journal.write(Step(self.history.version + 1, "track", tracked=tracked, begun=begun))
            self._remove_unnamed()
            present = frozenset(each.label for each in self.history.state.structures)
            self._cached = (number, present, result) if tracked.labels <= present else None

    def _save(self, result: SessionResult) -> int:
        number = 1 + max((int(path.stem) for path in self._results.glob("[0-9]*.npz")), default=0)
        _ = result.voxels  # counted now, not when the next click waits for it
        save_result(self._result_path(number), result)
        return number

    def _remove_unnamed(self) -> None:
        needed = {each.tracked.number for each in self.history.states if each.tracked}
        for path in self._results.glob("[0-9]*.npz"):
            if int(path.stem) not in needed:
                path.unlink()

    # A kill between a result and the step that names it leaves one; more of them, or one of a session without any step, tell
    # that steps were lost.
    def _check_results(self) -> None:
        """Refuse a journal that lacks steps.

        Raises:
            FormatError: there are results that it does not name.
        """
        named = max((each.tracked.number for each in self.history.states if each.tracked), default=0)
        later = [path for path in self._results.glob("[0-9]*.npz") if int(path.stem) > named]
        if len(later) > 1 or (later and not self.history.version):
            self._journal.close()
            raise FormatError("its journal lacks the steps of results that are there", REMEDY)

    def _result_path(self, number: int) -> Path:
        return self._results / f"{number}.npz"

    def check_frame(self, plane: str, t: int) -> None:
        """Refuse a frame that is not there.

        Raises:
            NotFound: there is no such plane, or no such frame of it.
        """
        if plane not in self.image.planes or not 0 <= t < self.image.planes[plane]:
            raise NotFound("slice")

    def see_ahead(self, plane: str, t: int) -> None:
        """Let the network see a slice of a volume and those beside it, while nobody needs it; the last one asked for counts."""
        self.check_frame(plane, t)
        image = self.image
        if isinstance(image, SessionVolume) and not self.busy:
            near = [each for each in (t, t + 1, t - 1, t + 2, t - 2) if 0 <= each < image.planes[plane]]
            said = self.history.state.gestures
            self.queue.when_idle([partial(image.see_ahead, plane=plane, t=each, gestures=said) for each in near])

    def frame_labels(self, plane: str, t: int) -> Frame:
        """Labels (H, W) of a frame, as they stand now."""
        self.check_frame(plane, t)
        with self._lock:
            return self.image.frame_labels(self._labels(), plane, t).copy()

    def uncertainty(self, plane: str, t: int) -> Frame:
        """How undecided the network was on a frame (H, W), 0 to 255.

        Raises:
            NotFound: it is not known.
        """
        self.check_frame(plane, t)
        with self._lock:
            result = self._result(self.history.state)
            if result is None or result.uncertainty is None:
                raise NotFound("map of uncertainty")
            return self.image.frame_labels(result.uncertainty, plane, t).copy()

    @contextmanager
    def hold(self) -> Iterator[History]:
        """Keep the session as it stands, while several things are read that must go together."""
        with self._lock:
            yield self.history

    def result(self) -> SessionResult:
        """The result that stands.

        Raises:
            NotFound: nothing was tracked yet.
        """
        with self._lock:
            result = self._result(self.history.state)
        if result is None:
            raise NotFound("result: nothing was tracked yet")
        return result

    def volumes_ml(self) -> Mapping[int, float]:
        """Label → its volume in the result that stands, where that means something."""
        voxel_ml = self.image.voxel_ml
        with self.hold() as history:
            result, tracked = self._result(history.state), history.state.tracked
        if result is None or tracked is None or voxel_ml is None:
            return {}
        return {label: result.voxels.get(label, 0) * voxel_ml for label in tracked.labels}

    def images_with(self) -> Mapping[int, int]:
        """Label → on how many images of a set it is, in the result that stands."""
        with self._lock:
            result = None if isinstance(self.image, SessionVolume) else self._result(self.history.state)
        return result.images if result else {}

    def current_labels(self) -> LabelMaps:
        """All labels as they stand now, outlines on single frames among them."""
        with self._lock:
            return tuple(array.copy() for array in self._labels())

    @property
    def memory_bytes(self) -> int:
        """Memory that `release_memory` would free."""
        held = list(self._drawn or ())
        if self._cached:
            held += [*self._cached[2].labels, *(self._cached[2].uncertainty or ())]
        return sum(array.nbytes for array in held)

    def release_memory(self) -> None:
        """Forget what can be read or drawn again."""
        with self._lock:
            if not self.busy:
                self._drawn = self._cached = None

    def cancel(self, *, keep: bool = False) -> None:
        """Stop tracking at the next frame, and keep what was tracked or not."""
        if self.job is not None:
            self.job.cancel(keep=keep)

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

    def _outline(self, state: State, gesture: Gesture) -> NDArray[np.bool_]:
        """What the structure is on the gesture's frame, by all gestures that no result includes and that lie there."""
        if not gesture.of_frame:
            return np.zeros((1, 1), bool)  # nothing: it changes no frame before it is tracked
        shape = self.image.frame_shape(gesture.plane, gesture.t)
        if gesture.drawn and (drawn := frame_prompt(gesture, shape).mask_hw) is not None:
            return drawn
        result = self._result(state)
        known = result is not None and gesture.label in result.voxels
        earlier = self.image.frame_labels(result.labels, gesture.plane, gesture.t) if result and known else None
        said = state.fresh if known else state.gestures
        own = [each for each in said if each.place == gesture.place and each.of_frame and not gesture.replaces(each)]
        only_regions = gesture.kind != "points" and not any(each.inside for each in [*own, gesture])
        if only_regions and (earlier is None or not (earlier == gesture.label).any()):
            return np.zeros(shape, bool)  # of what is not on this frame nothing is taken away
        with self.queue.segmenter(urgent=True) as segmenter:
            return self.image.segment_frame(segmenter, [*own, gesture], earlier)

    def _result(self, state: State) -> SessionResult | None:
        """The tracked result of a state, without structures that were removed."""
        if state.tracked is None:
            return None
        present = frozenset(each.label for each in state.structures)
        key = state.tracked.number, present
        if self._cached is None or self._cached[:2] != key:
            result = load_result(self._result_path(state.tracked.number))
            gone = state.tracked.labels - present
            self._cached = (*key, result.without(gone) if gone else result)
        return self._cached[2]

    def _labels(self) -> LabelMaps:
        if self._drawn is None:
            state = self.history.state
            result = self._result(state)
            labels = tuple(array.copy() for array in result.labels) if result else self.image.empty_labels()
            for gesture in state.fresh:
                self._draw(labels, gesture)
            self._drawn = labels
        return self._drawn

    def _draw(self, labels: LabelMaps, gesture: Gesture) -> None:
        if gesture.kind in BY_HAND:
            self.image.change_by_hand(labels, gesture)
        if not gesture.of_frame:
            return
        frame = self.image.frame_labels(labels, gesture.plane, gesture.t)
        mask = answer_mask(gesture, (frame.shape[0], frame.shape[1]))
        state = self.history.state
        taken = overwritten_labels(self.image, state, self._result(state), gesture, frame)
        draw_label(frame, gesture.label, mask, {0, gesture.label, *taken})
        if len(claims := self._claims(self.history.state, gesture.id, [gesture.t])):
            frame[:] = np.where(frame, frame, claims[0])
        for ball in self._balls_before(gesture):
            self.image.change_by_hand(labels, ball, (gesture.plane, gesture.t))

    def _claims(self, state: State, last: int, images: Iterable[int]) -> LabelMaps:
        """What edited structures of a set have by their own word on some images; none where nothing was edited."""
        result = self._result(state)
        if result is None or not state.edited or isinstance(self.image, SessionVolume):
            return ()
        return tuple(claim_pixels(self.image, state, result, t, last) for t in images)

    def _balls_before(self, gesture: Gesture) -> Iterator[Gesture]:
        """Balls that hold though the network, which does not know them, outlined the frame anew; none of another mind."""
        for each in () if gesture.drawn else self.history.state.fresh:
            if each.kind == "ball" and each.label == gesture.label and each.id < gesture.id and each.inside == gesture.inside:
                yield each

    def _write_and_redraw(self, step: Step) -> History:
        history = self._journal.write(step)
        self._drawn = None
        return history


def _one_line(name: str) -> str:
    """A name in one printable line."""
    return "".join(letter for letter in " ".join(name.split()) if letter.isprintable())[:MOST_NAME]
