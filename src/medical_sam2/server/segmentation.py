"""What is outlined in a session: a volume in three planes, or a set of images; frames, labels, calls to the network.

Labels are arrays of one byte a voxel: one for a volume, in the order of its file; one for each image of a set.
Shapes: I J K voxels, T frames of a plane, H W a frame.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window, Windows, in_hounsfield, whole_range
from medical_sam2.io import Picture, atomic, voxels
from medical_sam2.prompts import FramePrompt, Mask, Prompt, intensities
from medical_sam2.server import InvalidRequest
from medical_sam2.server.gestures import ball_voxels, frame_prompt, leave_drawn, leave_to_first, volume_prompts
from medical_sam2.server.state import BY_HAND, LIMITING, Gesture, State, told_of_others
from medical_sam2.strokes import Brush
from medical_sam2.tracking.limits import hold_settled, last_words
from medical_sam2.tracking.plan import PLANES, array_axis, grouped
from medical_sam2.views import AXIS, View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

if TYPE_CHECKING:  # torch is loaded while the page is already there
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.frames import FrameDone
    from medical_sam2.tracking.image_set import ImageMask

LabelMaps: TypeAlias = tuple[NDArray[np.uint8], ...]
Frame: TypeAlias = NDArray[np.uint8]
TrackedFrame: TypeAlias = tuple[str, int, Mapping[int, NDArray[np.bool_]]]
"""(plane, t, label → mask (H, W))"""
OnFrame: TypeAlias = Callable[[int, int, str, int, Mapping[int, NDArray[np.bool_]]], None]
"""(done, total, plane, t, label → mask (H, W))"""

IMAGE = "image"  # the plane of a set
UNCERTAIN_VOXELS = 64_000_000  # up to which a map of uncertainty is kept beside the labels


@dataclass(frozen=True, eq=False)
class SessionResult:
    """What tracking found."""

    labels: LabelMaps  # of each voxel
    # how sure it was of each structure on each tracked frame; `slice` is that of the plane
    rows: tuple[SliceConfidence, ...] = ()
    uncertainty: LabelMaps | None = None  # 0 (sure) to 255 (undecided) for each voxel, where it is known
    warnings: tuple[str, ...] = ()  # for the user
    # of a set, edited structures of which others took pixels, where they did; they get these back
    beneath: LabelMaps | None = None

    @cached_property
    def voxels(self) -> Mapping[int, int]:
        """Label → how many voxels it has; labels that have none are left out."""
        counts = np.zeros(256, np.int64)
        for array in self.labels:
            for slab in array.T:  # in the order of the memory for most files
                counts += np.bincount(slab.ravel(), minlength=256)
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}

    @cached_property
    def images(self) -> Mapping[int, int]:
        """Label → on how many images of a set it is."""
        return Counter(int(label) for array in self.labels for label in np.unique(array))

    def without(self, labels: set[int] | frozenset[int]) -> "SessionResult":
        """The result with these structures erased; edited ones get back what those took of them."""
        table = np.arange(256, dtype=np.uint8)
        table[list(labels)] = 0
        rows = tuple(row for row in self.rows if row.object not in labels)
        kept, beneath = tuple(table[array] for array in self.labels), self.beneath
        if beneath:
            beneath = tuple(table[array] for array in beneath)
            kept = tuple(np.where(array, array, under) for array, under in zip(kept, beneath, strict=True))
        return replace(self, labels=kept, rows=rows, beneath=beneath)


def save_result(path: Path, result: SessionResult) -> None:
    """Write a result, whole and flushed before it is acknowledged."""
    notes = {"rows": [asdict(row) for row in result.rows], "warnings": result.warnings}
    arrays = {f"labels{i}": array for i, array in enumerate(result.labels)}
    arrays |= {f"doubt{i}": array for i, array in enumerate(result.uncertainty or ())}  # so called since the first release
    arrays |= {f"beneath{i}": array for i, array in enumerate(result.beneath or ())}
    with atomic.writing(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays)


def load_result(path: Path) -> SessionResult:
    """Read a result of ours; raises InvalidRequest if it is damaged, or not there any more."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            notes = json.loads(file["notes"].tobytes())
            count = sum(name.startswith("labels") for name in file.files)
            labels = tuple(file[f"labels{i}"] for i in range(count))
            uncertainty = tuple(file[f"doubt{i}"] for i in range(count)) if "doubt0" in file.files else None
            beneath = tuple(file[f"beneath{i}"] for i in range(count)) if "beneath0" in file.files else None
        rows = tuple(SliceConfidence(**row) for row in notes["rows"])
        return SessionResult(labels, rows, uncertainty, tuple(notes["warnings"]), beneath)
    except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile, zlib.error):
        raise InvalidRequest("the result on the disk is damaged or missing; remove the session") from None


@dataclass(frozen=True, eq=False)
class SessionVolume:
    """A volume."""

    volume: Volume  # in the order of its file
    window_name: str = "auto"  # of the intensities that the network sees; see `intensity_window.choose_window`

    @property
    def planes(self) -> Mapping[str, int]:
        """Plane → how many frames it has."""
        return {name: self.volume.shape[array_axis(self.volume, view)] for name, view in PLANES.items()}

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel."""
        return voxels.volume_ml(1, self.volume)

    def spacing(self, plane: str) -> tuple[float, float]:
        """Distance in mm between rows and between columns."""
        _, rows, columns = PLANES[plane].spacing(self.volume.spacing_mm, self.volume.orientation)
        return rows, columns

    def frame_shape(self, plane: str, t: int) -> tuple[int, int]:
        """Rows and columns of a frame."""
        _, rows, columns = (self.volume.shape[axis] for axis in PLANES[plane].order(self.volume.orientation))
        return rows, columns

    def pixels(self, plane: str, t: int) -> NDArray[np.generic]:
        """A frame (H, W) of intensities."""
        return PLANES[plane].apply(self.volume.array, self.volume.orientation)[t]

    def empty_labels(self) -> LabelMaps:
        """Labels with no structure."""
        return (np.zeros(self.volume.shape, np.uint8, order="F"),)  # as most files: an axial slice lies together

    def frame_labels(self, labels: LabelMaps, plane: str, t: int) -> Frame:
        """The labels (H, W) of a frame; writing on it writes on `labels`."""
        return PLANES[plane].apply(labels[0], self.volume.orientation)[t]

    def segment_frame(self, segmenter: "Segmenter", gestures: Sequence[Gesture], earlier: Frame | None) -> NDArray[np.bool_]:
        """One structure (H, W) on one slice, which is a volume of its own, seen through the window of the whole.

        Args:
            segmenter: the network.
            gestures: on that slice, of one structure.
            earlier: labels (H, W) of the slice that the gestures correct.
        """
        label, plane, t = gestures[0].place
        flat, known = self._slice(plane, t), None if earlier is None else earlier[None]
        prompts = SessionVolume(flat).prompts(replace(gesture, t=0, frames=()) for gesture in gestures)
        window = self.network_window(gestures)
        # the consensus changes nothing of prompted slices
        found = segmenter.segment_volume(flat, prompts, views=plane, window=window, earlier=known, consensus=False)
        return found.labels[0] == label

    def _slice(self, plane: str, t: int) -> Volume:
        """A slice as a volume of its own whose axes run as the plane is shown, frames first: what goes slab by slab has one."""
        view, affine = PLANES[plane], np.diag([0.0, 0.0, 0.0, 1.0])
        signs = [1 if letter in "RAS" else -1 for letter in view.code]
        mm = view.spacing(self.volume.spacing_mm, self.volume.orientation)
        affine[[AXIS[letter] for letter in view.code], [0, 1, 2]] = np.multiply(signs, mm)
        return replace(self.volume, array=self.pixels(plane, t)[None].copy(), affine=affine)

    def see_ahead(self, segmenter: "Segmenter", plane: str, t: int, gestures: Sequence[Gesture] = ()) -> None:
        """Let the network see a slice before anybody points at it, as it would see the structures of these gestures there."""
        labels = {gesture.label for gesture in gestures}
        known = [self.network_window([gesture for gesture in gestures if gesture.label == label]) for label in labels]
        for window in dict.fromkeys([self.window, *known]):
            segmenter.see_ahead(self._slice(plane, t), PLANES[plane], window)

    def check_prompts(self, gestures: Sequence[Gesture]) -> None:
        """Refuse gestures on one structure that limits, or the wish for shapes between outlines, do not go with.

        Raises:
            PromptError: it is prompted on slices beyond its limits, or has no outlines to join.
        """
        painted = gestures[-1].kind == "ball" and gestures[-1].inside
        limited = any(gesture.inside and gesture.kind in LIMITING for gesture in gestures)
        if limited and (painted or gestures[-1].kind not in BY_HAND):
            grouped(self.volume, self.prompts(gestures))

    def change_by_hand(self, labels: LabelMaps, gesture: Gesture, within: tuple[str, int] | None = None) -> None:
        """Erase a structure from a range of frames, or paint or wipe a ball of it, in place and over nothing else.

        Args:
            labels: that are changed.
            gesture: of one of the kinds that do so.
            within: plane and frame beyond which a ball changes nothing.
        """
        if gesture.kind == "erase":
            stack = PLANES[gesture.plane].apply(labels[0], self.volume.orientation)[gesture.frames[0] : gesture.frames[1] + 1]
            stack[stack == gesture.label] = 0
            return
        voxels = ball_voxels(gesture, self.volume)
        if within:
            voxels = voxels[voxels[:, array_axis(self.volume, PLANES[within[0]])] == self.slice_index(*within)]
        before, after = (0, gesture.label) if gesture.inside else (gesture.label, 0)
        there = tuple(voxels[labels[0][tuple(voxels.T)] == before].T)
        labels[0][there] = after

    # What has an outline is corrected by the gestures since; what has none, a new box in 3D or new limits is outlined anew.
    def track(
        self, segmenter: "Segmenter", state: State, before: SessionResult | None, views: str, on_frame: OnFrame
    ) -> SessionResult:
        """The result of all gestures: new structures are outlined as `Segmenter` does it, the others corrected in `before`."""
        wanted = {gesture.label for gesture in (state.fresh if before else state.gestures)}
        anew = {gesture.label for gesture in state.fresh if gesture.restarts}
        known = (wanted & set(before.voxels)) - anew if before else set[int]()
        options: dict[str, Any] = {"window": self.window_name, "on_frame": self._frame_reporter(on_frame)}
        before = before and replace(before, warnings=told_of_others(before.warnings, wanted))
        if before and (by_hand := self._only_by_hand(state, known)):
            before, known, wanted = self._changed_by_hand(before, state, by_hand), known - by_hand, wanted - by_hand
        result = before
        if before and known:
            prompts = self.prompts((gesture for gesture in state.fresh if gesture.label in known), state.priority)
            corrected = segmenter.segment_volume(self.volume, prompts, earlier=before.labels[0], **options)
            labels = corrected.labels.astype(np.uint8)
            for label in known:
                said = self.prompts(gesture for gesture in state.gestures if gesture.label == label)
                fresh = [each for each in prompts if each.object == label and not isinstance(each, Brush)]  # a ball adds itself
                hold_settled(labels, before.labels[0], said, fresh)
            result = self._corrected_result(before, replace(corrected, labels=labels))
        if new := wanted - known:
            prompts = self.prompts((gesture for gesture in state.gestures if gesture.label in new), state.priority)
            for drawn in (each.array_ijk for each in prompts if isinstance(each, Mask)) if before and result else ():
                result.labels[0][drawn & (before.labels[0] == 0)] = 0  # type: ignore[union-attr]  # corrections came first
            keep = self.volume.array.size <= UNCERTAIN_VOXELS
            first = [label for label in state.priority if label in new]
            names = {label: name for label, name in state.names.items() if label in new}
            found = segmenter.segment_volume(
                self.volume, prompts, views=views, probability=keep, names=names, priority=first, **options
            )
            uncertainty = (uncertainty_map(list(found.probability.values())),) if keep else None
            outlined = SessionResult((found.labels.astype(np.uint8),), self._rows(found), uncertainty, found.warnings)
            result = _add_structures(result, outlined, new, state.priority) if result else outlined
        return result or SessionResult(self.empty_labels())

    @staticmethod
    def _only_by_hand(state: State, known: set[int]) -> set[int]:
        """Structures of which slices were erased and balls painted, and nothing else was said: the network is not asked."""
        return known - {gesture.label for gesture in state.fresh if gesture.kind not in BY_HAND}

    def _changed_by_hand(self, before: SessionResult, state: State, by_hand: set[int]) -> SessionResult:
        labels = (before.labels[0].copy(),)
        for gesture in (each for each in state.fresh if each.label in by_hand):
            self.change_by_hand(labels, gesture)
        return replace(before, labels=labels, rows=tuple(row for row in before.rows if self.shows(labels, row)))

    def shows(self, labels: LabelMaps, row: SliceConfidence) -> bool:
        """Whether labels have a structure on the frame of a row."""
        return bool((self.frame_labels(labels, row.view, row.slice) == row.object).any())

    def _corrected_result(self, before: SessionResult, corrected: Segmentation) -> SessionResult:
        """Where labels have changed, nobody knows how sure the network is of them."""
        labels = corrected.labels
        uncertainty = before.uncertainty and (np.where(labels == before.labels[0], before.uncertainty[0], np.uint8(0)),)
        rows = {row.key: row for row in (*before.rows, *self._rows(corrected))}
        return SessionResult((labels,), tuple(rows.values()), uncertainty, (*before.warnings, *corrected.warnings))

    def _frame_reporter(self, on_frame: OnFrame) -> "Callable[[FrameDone], None]":
        """Views of tracking run as the planes are shown, or are their reverses, which share rows and columns."""

        def report(done: "FrameDone") -> None:
            plane = View(done.view).name
            masks = dict(zip(done.objects, done.masks_bhw, strict=True))
            on_frame(done.done, done.total, plane, self.frame_index(plane, done.slice), masks)

        return report

    def _rows(self, found: Segmentation) -> tuple[SliceConfidence, ...]:
        """Confidences with the plane's name and its frame in place of the view and the slice of the file.

        Views in opposite directions show the same frames of a plane: of two such rows the one that knows most stays.
        """
        known = dict[tuple[int, str, int], SliceConfidence]()
        for row in found.confidence:
            plane = View(row.view).name
            shown = replace(row, view=plane, slice=self.frame_index(plane, row.slice))
            known[shown.key] = max(
                known.get(shown.key, shown), shown, key=lambda x: (x.prompted, x.source == "consensus", x.confidence)
            )
        return tuple(known.values())

    def frame_index(self, plane: str, index: int) -> int:
        """The frame that shows a slice of the file; its own inverse, as `slice_index`."""
        return PLANES[plane].slice_index(index, self.planes[plane], self.volume.orientation)

    slice_index = frame_index

    def voxel_matrix(self, plane: str) -> list[list[float]]:
        """Rows of a matrix that takes frame, row, column and 1 to a voxel of the file."""
        view, axes, matrix = PLANES[plane], self.volume.orientation, np.zeros((3, 4))
        for place, (axis, flip) in enumerate(zip(view.order(axes), view.flipped(axes), strict=True)):
            matrix[axis, [place, 3]] = (-1, self.volume.shape[axis] - 1) if flip else (1, 0)
        return matrix.tolist()

    @cached_property
    def hounsfield(self) -> bool:
        """Whether intensities are Hounsfield units, as far as file and values tell."""
        return in_hounsfield(self.volume.array, self.volume.modality)

    def network_window(self, gestures: Sequence[Gesture]) -> Window:
        """What the network sees a structure through, by the gestures on it; without any, the window to begin with."""
        gestures = [gesture for gesture in gestures if gesture.of_frame]
        if not gestures or not self._windows.hounsfield:
            return self.window
        return self._windows.of(np.concatenate([gesture_intensities(self, gesture) for gesture in gestures]))

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.volume, self.window_name)

    @cached_property
    def window(self) -> Window:
        """The window to begin with."""
        return self._windows.of()

    @cached_property
    def extent(self) -> Window:
        """All intensities."""
        return whole_range(self.volume.array)

    def code_range(self, t: int) -> Window:
        """What a frame's codes stand for: the same for all of them."""
        return self.extent

    def display_window(self, t: int, gestures: Sequence[Gesture]) -> Window:
        """All intensities: the page has a window of its own."""
        return self.extent

    def prompts(self, gestures: Iterable[Gesture], priority: Sequence[int] = ()) -> list[Prompt]:
        """Gestures as prompts in voxels of the file; of those that contradict each other the last counts.

        Voxels that two structures were drawn on are left to the one with priority, or else to the first, as they are shown.
        """
        said = [prompt for gesture in gestures for prompt in volume_prompts(gesture, self.volume)]
        return leave_to_first(last_words(said, self.volume.shape), self.volume.shape, priority)


@dataclass(frozen=True, eq=False)
class SessionImageSet:
    """A set of images, with the methods of a volume: its one plane is "image", its frames are the images."""

    pictures: Sequence[Picture]  # in their order
    window_name: str = "auto"  # of the intensities that the network sees; see `intensity_window.choose_window`

    @property
    def planes(self) -> Mapping[str, int]:
        """The only plane, and how many images there are."""
        return {IMAGE: len(self.pictures)}

    @property
    def voxel_ml(self) -> float | None:
        """Pictures have no volume."""
        return None

    def spacing(self, plane: str) -> tuple[float, float]:
        """Distance in mm between rows and between columns: of the first image, since they are shown one at a time."""
        return self.pictures[0].spacing_mm or (1.0, 1.0)

    def frame_shape(self, plane: str, t: int) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.pictures[t].shape

    def pixels(self, plane: str, t: int) -> NDArray[np.generic]:
        """An image (H, W), or (H, W, 3) of colours."""
        return self.pictures[t].array

    def code_range(self, t: int) -> Window:
        """What an image's codes stand for: all of its own intensities, whatever the network sees."""
        return whole_range(self.pictures[t].array)

    def display_window(self, t: int, gestures: Sequence[Gesture]) -> Window:
        """What the network sees an image through: Hounsfield units at all gestures decide for all CT images together."""
        picture = self.pictures[t]
        windows = Windows(picture, "percentile" if picture.colour else self.window_name, negative=False)
        if not windows.hounsfield:
            return windows.of()
        inside = [gesture_intensities(self, gesture) for gesture in gestures if self._in_hounsfield_units(gesture.t)]
        return windows.of(np.concatenate(inside) if inside else None)

    def network_window(self, gestures: Sequence[Gesture]) -> Window:
        """What the network sees the first image through."""
        return self.display_window(0, gestures)

    def check_prompts(self, gestures: Sequence[Gesture]) -> None:
        """Refuse what only volumes have.

        Raises:
            InvalidRequest: limits, or shapes between outlines.
        """
        if not all(gesture.of_frame for gesture in gestures):
            raise InvalidRequest("images have no slices between which something lies")

    def _in_hounsfield_units(self, t: int) -> bool:
        if t >= len(self.pictures) or self.pictures[t].colour:
            return False
        return Windows(self.pictures[t], self.window_name).hounsfield

    def empty_labels(self) -> LabelMaps:
        """Labels with no structure."""
        return tuple(np.zeros(picture.shape, np.uint8) for picture in self.pictures)

    def change_by_hand(self, labels: LabelMaps, gesture: Gesture, within: tuple[str, int] | None = None) -> None:
        """Nothing: images have no slices."""

    def frame_labels(self, labels: LabelMaps, plane: str, t: int) -> Frame:
        """The labels of an image."""
        return labels[t]

    def segment_frame(self, segmenter: "Segmenter", gestures: Sequence[Gesture], earlier: Frame | None) -> NDArray[np.bool_]:
        """One structure on one image; an earlier outline is a prompt too, and corrected by the clicks."""
        label, _, t = gestures[0].place
        prompt = reduce(or_, (frame_prompt(gesture, self.frame_shape(IMAGE, t)) for gesture in gestures))
        only_clicks = prompt.mask_hw is None and prompt.box_xyxy is None
        if only_clicks and earlier is not None and (earlier == label).any():
            prompt |= FramePrompt.mask(earlier == label)
        (found,) = self._segment(segmenter, {t: {label: prompt}}, only=())
        return found.labels == label

    def track(
        self, segmenter: "Segmenter", state: State, before: SessionResult | None, views: str, on_frame: OnFrame
    ) -> SessionResult:
        """The result of all gestures in all images, as `Segmenter.segment_images` gives it, without settled structures."""
        prompts: dict[int, dict[int, FramePrompt]] = {}
        settled = state.locked | state.edited
        for gesture in (each for each in state.gestures if each.label not in settled):
            own = prompts.setdefault(gesture.t, {})
            others = [there for other, there in own.items() if other != gesture.label]
            prompt = leave_drawn(frame_prompt(gesture, self.frame_shape(IMAGE, gesture.t)), others)
            own[gesture.label] = own[gesture.label] | prompt if gesture.label in own else prompt
        labels, rows, warnings = list(self.empty_labels()), list[SliceConfidence](), list[str]()
        for done, found in enumerate(self._segment(segmenter, prompts) if prompts else (), 1):
            labels[found.index] = found.labels.astype(np.uint8)
            masks = {label: found.labels == label for label in found.confidence}
            for label, sure in found.confidence.items():
                prompted, area = label in prompts.get(found.index, {}), int(masks[label].sum())
                rows.append(SliceConfidence(label, IMAGE, found.index, sure, area, prompted, sure < 0.5 and not prompted))
            warnings += [f"image {found.index + 1}: {warning}" for warning in found.warnings]
            on_frame(done, len(self.pictures), IMAGE, found.index, masks)
        return SessionResult(tuple(labels), tuple(rows), None, tuple(warnings))

    def _segment(
        self, segmenter: "Segmenter", prompts: Mapping[int, Mapping[int, FramePrompt]], only: Sequence[int] | None = None
    ) -> "Iterator[ImageMask]":
        arrays = [picture.array for picture in self.pictures]
        return segmenter.segment_images(
            arrays, prompts, only=only, window=self.window_name, modality=lambda i: self.pictures[i].modality
        )


SessionImage: TypeAlias = SessionVolume | SessionImageSet


def gesture_intensities(image: SessionImage, gesture: Gesture) -> NDArray[np.generic]:
    """What lies under a gesture."""
    shape = image.frame_shape(gesture.plane, gesture.t)
    return intensities(image.pixels(gesture.plane, gesture.t), frame_prompt(gesture, shape))


def check_frame(image: SessionImage, plane: str, t: int) -> None:
    """Refuse another plane, or a frame that is not there; raises InvalidRequest."""
    if plane not in image.planes:
        raise InvalidRequest(f"there is no plane {plane!r} here")
    if not 0 <= t < image.planes[plane]:
        raise InvalidRequest(f"there is no slice {t} in this plane")


def uncertainty_map(probabilities: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """0 (sure) to 255 (undecided): how near the most undecided structure is to one half."""
    worst = np.zeros(probabilities[0].shape, np.uint8)
    for probability in probabilities:
        for slab, out in zip(probability, worst, strict=True):
            np.maximum(out, np.rint(255 * (1 - np.abs(2 * slab.astype(np.float32) - 1))).astype(np.uint8), out=out)
    return worst


def _add_structures(result: SessionResult, new: SessionResult, labels: set[int], priority: Sequence[int]) -> SessionResult:
    """New structures where there is nothing yet, or something that comes after them."""
    (old,), (add,) = result.labels, new.labels
    taken = (old == 0) | np.isin(old, list(labels))
    for place, label in enumerate(priority):
        if label in labels:
            taken |= (add == label) & np.isin(old, priority[place + 1 :])
    joined = np.where(taken, add, old)
    both = result.uncertainty and new.uncertainty
    uncertainty = (np.maximum(result.uncertainty[0], new.uncertainty[0]),) if both else None  # type: ignore[index]
    rows = (*(row for row in result.rows if row.object not in labels), *new.rows)
    return SessionResult((joined,), rows, uncertainty, (*result.warnings, *new.warnings))
