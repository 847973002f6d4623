"""A set of images in a session. Shapes: H W an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window, Windows
from medical_sam2.io import Picture
from medical_sam2.prompts import FramePrompt, intensities
from medical_sam2.server.state import Said, State
from medical_sam2.server.subjects import Canvas, Found, Frame, OnFrame, frame_prompt
from medical_sam2.volume import SliceConfidence

if TYPE_CHECKING:
    from medical_sam2.imagesets import ImageMask
    from medical_sam2.segmenter import Segmenter

PLANE = "image"


@dataclass(frozen=True, eq=False)
class SetSubject:
    """A set of images.

    Args:
        pictures: in their order.
        window_name: of the intensities that the network sees; see `intensity_window.choose_window`.
    """

    pictures: Sequence[Picture]
    window_name: str = "auto"

    @property
    def planes(self) -> Mapping[str, int]:
        """The only plane, and how many images there are."""
        return {PLANE: len(self.pictures)}

    @property
    def voxel_ml(self) -> float | None:
        """Pictures have no volume."""
        return None

    def spacing(self, plane: str) -> tuple[float, float]:
        """Distance in mm between rows and between columns: of the first image, since they are shown one at a time."""
        return self.pictures[0].spacing_mm or (1.0, 1.0)

    def size(self, plane: str, t: int) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.pictures[t].shape

    def pixels(self, plane: str, t: int) -> NDArray[np.generic]:
        """An image."""
        return self.pictures[t].array

    def range(self, t: int, said: Sequence[Said]) -> Window:
        """What the network sees an image through."""
        picture, on = self.pictures[t], [one for one in said if one.t < len(self.pictures)]
        windows = Windows(picture, "percentile" if picture.colour else self.window_name, negative=False)
        return windows.of(self._pointed_at(on)) if windows.hounsfield else windows.of()

    def seen(self, said: Sequence[Said]) -> Window:
        """What the network sees the first image through."""
        return self.range(0, said)

    def _pointed_at(self, said: Sequence[Said]) -> NDArray[np.generic] | None:
        """Hounsfield units at all gestures: they decide for all CT images together."""
        inside = [
            intensities(self.pixels(PLANE, one.t), frame_prompt(one, self.size(PLANE, one.t)))
            for one in said
            if not self.pictures[one.t].colour and Windows(self.pictures[one.t], self.window_name).hounsfield
        ]
        return np.concatenate(inside) if inside else None

    def blank(self) -> Canvas:
        """A canvas with nothing on it."""
        return tuple(np.zeros(picture.shape, np.uint8) for picture in self.pictures)

    def view(self, canvas: Canvas, plane: str, t: int) -> Frame:
        """The labels of an image."""
        return canvas[t]

    def sketch(self, segmenter: "Segmenter", said: Sequence[Said], earlier: Frame | None) -> NDArray[np.bool_]:
        """What one structure is on one image; an earlier outline is taken as said, and corrected by the clicks."""
        label, _, t = said[0].place
        prompt = reduce(or_, (frame_prompt(one, self.size(PLANE, t)) for one in said))
        only_clicks = prompt.mask_hw is None and prompt.box_xyxy is None
        if only_clicks and earlier is not None and (earlier == label).any():
            prompt |= FramePrompt.mask(earlier == label)
        (found,) = self._asked(segmenter, {t: {label: prompt}}, only=())
        return found.labels == label

    def track(self, segmenter: "Segmenter", state: State, before: Found | None, views: str, on_frame: OnFrame) -> Found:
        """Everything that was said, carried through all images as `Segmenter.segment_images` does it."""
        prompts: dict[int, dict[int, FramePrompt]] = {}
        for said in state.said:
            own, prompt = prompts.setdefault(said.t, {}), frame_prompt(said, self.size(PLANE, said.t))
            own[said.label] = own[said.label] | prompt if said.label in own else prompt
        canvas, rows, warnings = list(self.blank()), list[SliceConfidence](), list[str]()
        for done, found in enumerate(self._asked(segmenter, prompts), 1):
            canvas[found.index] = found.labels.astype(np.uint8)
            for label, sure in found.confidence.items():
                told = label in prompts.get(found.index, {})
                area = int((found.labels == label).sum())
                rows.append(SliceConfidence(label, PLANE, found.index, sure, area, told, sure < 0.5 and not told))
            warnings += [f"image {found.index + 1}: {warning}" for warning in found.warnings]
            masks = {label: found.labels == label for label in found.confidence}
            on_frame(done, len(self.pictures), PLANE, found.index, masks)
        return Found(tuple(canvas), tuple(rows), None, tuple(warnings))

    def _asked(
        self, segmenter: "Segmenter", prompts: Mapping[int, Mapping[int, FramePrompt]], only: Sequence[int] | None = None
    ) -> "Iterator[ImageMask]":
        arrays = [picture.array for picture in self.pictures]
        return segmenter.segment_images(
            arrays, prompts, only=only, window=self.window_name, modality=lambda i: self.pictures[i].modality
        )
