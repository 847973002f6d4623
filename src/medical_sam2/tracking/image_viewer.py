"""The images of a set as the network sees them: read when they are visited, encoded once, forgotten again.

Shapes: H W image, S side of the network's square input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.errors import ConfigError, GeometryError, InputError, MedicalSam2Error
from medical_sam2.intensity_window import (
    Window,
    check_visible,
    hounsfield_window,
    in_hounsfield,
    is_blank,
    named_window,
    percentile_window,
)
from medical_sam2.io.voxels import replace_non_finite
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Instruction, Wanted
from medical_sam2.prompts import FramePrompt, intensities
from medical_sam2.tracking.click_outline import OutlineJudge, reduction
from medical_sam2.tracking.frames import Canvas, Region, object_box, region_for, to_frame, to_input, to_network
from medical_sam2.volume import check_array

OnError = Callable[[int, MedicalSam2Error], None]
MANY = 8  # an image with so many times the network's pixels along an axis is averaged first
ENOUGH = 4
Modality = Callable[[int], str | None]


def unknown_modality(_: int) -> str | None:
    """Of a picture it is not known what took it."""
    return None


@dataclass(frozen=True)
class SetWindows:
    """One window for all CT images in Hounsfield units, so that a tissue has one grey level; percentiles of each other."""

    inside: NDArray[np.generic]  # intensities that are prompted on CT images
    fixed: Window | None = None  # the window of all grey images, if a user asked for one
    percentile: bool = False  # whether CT images are no exception
    modality: Modality = unknown_modality  # of an image, as a DICOM code, where known

    def of(self, i: int, image: NDArray[np.generic]) -> Window:
        """The window of image i, (H, W) or (H, W, 3)."""
        if _grey(image):
            if self.fixed is not None:
                check_visible(self.fixed, image)
                return self.fixed
            modality = self.modality(i)
            if not self.percentile and in_hounsfield(image, modality):
                return hounsfield_window(self.inside, modality)
        return percentile_window(image)


PERCENTILES = SetWindows(np.zeros(0), percentile=True)
"""The percentiles of each image."""


class Images(Protocol):
    """The images of a set, (H, W) or (H, W, 3) each, which may be read when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> NDArray[np.generic]: ...


class GivenImages:
    """The images that somebody gave, what is none refused when it is asked for; (H, W, 4) with an opaque fourth is (H, W, 3).

    `replaced` says of each image that was asked for whether NaN and infinities were, as readers of files do it.

    Args:
        images: (H, W), (H, W, 3) or (H, W, 4) each, in a sequence.

    Raises:
        InputError: they are in none; and of each image that is no array of numbers.
    """

    def __init__(self, images: Sequence[NDArray[np.generic]]) -> None:
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            raise InputError(f"images of type {type(images).__name__} cannot be counted", "give a list, such as list(images)")
        self._images = images
        self.replaced: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> NDArray[np.generic]:
        """An image as it is looked at."""
        image = self._images[index]
        _check_image(index, image)
        image, self.replaced[index] = replace_non_finite(image)
        return image[..., :3] if _is_opaque(image) else image


def _check_image(index: int, image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise InputError(f"image {index} is of type {type(image).__name__}, no array", "give np.asarray(image)")
    try:
        check_array(cast("object", image), "image", "biuf")
    except InputError as error:
        raise error.about(f"image {index}") from None


def _is_opaque(image: NDArray[np.generic]) -> bool:
    """Whether it has colours and a fourth channel, of how opaque they are, that says nothing, as in most such files."""
    opaque = {"uint8": 0xFF, "uint16": 0xFFFF}.get(image.dtype.name)
    return opaque is not None and image.ndim == 3 and image.shape[2] == 4 and bool((image[..., 3] == opaque).all())


class ImageViewer:
    """Looks at images, one after the other.

    Args:
        images: of the set; one that is read when it is asked for may raise what `errors` knows.
        encode: one image (3, S, S) in [0, 1] → features, kept as far as there is room.
        size: S.
        on_error: called with an image that cannot be used, which is then left out; without it the error is raised.
        windows: of CT images; unless given, the percentiles of each image.
    """

    def __init__(
        self,
        images: Images,
        encode: Callable[[Tensor], Features],
        size: int,
        *,
        on_error: OnError | None = None,
        windows: SetWindows = PERCENTILES,
    ) -> None:
        self.images, self.size = images, size
        self.shapes: dict[int, tuple[int, int]] = {}
        self.blank: list[int] = []
        self.windows: dict[int, Window] = {}
        self._encode, self._on_error, self._windows = encode, on_error, windows
        self._held = WeakValueDictionary[int, Features]()  # as long as the encoder keeps them, no image is read again
        self._shown: tuple[int, Tensor] | None = None
        self._summaries, self._useless = dict[int, NDArray[np.float32]](), set[int]()

    def features(self, i: int) -> Features:
        """What the encoder sees on an image; raises GeometryError if it is no image, or holds one grey value only."""
        features = self._held.get(i)
        if features is None:
            features = self._held[i] = self._encode_whole(i)
        return features

    def region_features(self, i: int, region: Region) -> Features:
        """What the encoder sees in a region of an image that it has seen as a whole."""
        return self._encode(self._input(i, self.images[i][region.rows, region.columns]))

    def picture(self, i: int, step: int) -> NDArray[np.float32]:
        """The greys (h, w) of an image that was seen, in [0, 1]: of every so many rows and columns one; means of colours."""
        shown = self.windows[i].apply(np.asarray(self.images[i][::step, ::step]))
        return np.ascontiguousarray(shown.mean(-1) if shown.ndim > 2 else shown, np.float32)

    def shown(self, i: int) -> Tensor:
        """An image as the network saw it: (3, S, S) in [0, 1]."""
        if self._shown is None or self._shown[0] != i:
            self._shown = i, self._input(i, self.images[i])
        return self._shown[1]

    def summary(self, i: int) -> NDArray[np.float32]:
        """The direction of its embedding (C,), kept for all images."""
        if i not in self._summaries:
            self._summaries[i] = unit_vector(self.features(i).summary_BC[0])
        return self._summaries[i]

    def usable(self, i: int) -> bool:
        """Whether there is something to outline; else it is reported, or noted as blank, once."""
        if i in self._useless:
            return False
        try:
            self.summary(i)
        except _BlankError:
            self.blank.append(i)
        except MedicalSam2Error as error:
            if self._on_error is None:
                raise
            self._on_error(i, error)
        else:
            return True
        self._useless.add(i)
        return False

    def _encode_whole(self, i: int) -> Features:
        image = self.images[i]
        if not is_picture(image):
            remedy = "give arrays (H, W) or (H, W, 3)" + ", such as image[..., :3]" * (image.shape[2:] == (4,))
            raise GeometryError(f"image {i} has shape {image.shape}", remedy)
        self.shapes[i] = image.shape[0], image.shape[1]
        if is_blank(image):
            raise _BlankError(f"image {i} holds one grey value only", "there is nothing to outline; prompt another one")
        if i not in self.windows:
            self.windows[i] = self._windows.of(i, image)
        self._shown = i, self._input(i, image)
        return self._encode(self._shown[1])

    def _input(self, i: int, part: NDArray[np.generic]) -> Tensor:
        return to_input(self.windows[i].apply(_reduce_huge(part, self.size)), self.size)


def is_picture(image: NDArray[np.generic]) -> bool:
    """Whether it has the shape of an image: (H, W), (H, W, 1) or (H, W, 3), and a pixel."""
    return image.ndim in {2, 3} and image.shape[2:] in {(), (1,), (3,)} and image.size > 0


def unit_vector(vector_C: Tensor) -> NDArray[np.float32]:
    """A vector over its length."""
    numbers = vector_C.float().cpu().numpy()
    return (numbers / max(float(np.linalg.norm(numbers)), 1e-12)).astype(np.float32)


class _BlankError(GeometryError):
    """All pixels are equal."""


def _reduce_huge(image: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """A huge image as means over blocks, so that no float is made of each of its pixels; others as they are."""
    for axis in (0, 1):
        length = image.shape[axis]
        if length > MANY * size:
            image = _average_blocks(image, axis, ENOUGH * size)
    return image


def _average_blocks(image: NDArray[np.generic], axis: int, parts: int) -> NDArray[np.float64]:
    edges = np.arange(parts + 1) * image.shape[axis] // parts
    cut = (slice(None),) * axis
    means = [image[(*cut, slice(low, high))].mean(axis, dtype=np.float64) for low, high in pairwise(edges)]
    return np.stack(means, axis)


def choose_set_windows(
    images: Images,
    prompts: Mapping[int, Mapping[int, FramePrompt]],
    name: str | Window = "auto",
    modality: Modality = unknown_modality,
) -> SetWindows:
    """The windows of a set: as the user says, or on CT images the one that shows what is prompted on them best.

    Args:
        images: (H, W) or (H, W, 3) each.
        prompts: image → object → prompt.
        name: see `intensity_window.choose_window`.
        modality: of an image, as a DICOM code, where known.

    Raises:
        ConfigError: no such window, or a modality that cannot be asked for.
    """
    if not callable(cast("object", modality)):
        raise ConfigError(
            f"modality {repr(modality)[:40]} is of no image", "give a function of its index, such as lambda i: 'CT'"
        )
    fixed = named_window(name)
    if fixed is not None or name != "auto":
        return SetWindows(np.zeros(0), fixed, percentile=True)
    inside = [
        values for i in prompts if 0 <= i < len(images) for values in _prompted_intensities(images[i], prompts[i], modality(i))
    ]
    return SetWindows(np.concatenate(inside) if inside else np.zeros(0), modality=modality)


def _prompted_intensities(
    image: NDArray[np.generic], prompts: Mapping[int, FramePrompt], modality: str | None
) -> Iterator[NDArray[np.float32]]:
    """Hounsfield units at the prompts of an image, as far as they fit it."""
    if _grey(image) and in_hounsfield(image, modality):
        flat = image.reshape(image.shape[:2])
        fit = (prompt for prompt in prompts.values() if prompt.mask_hw is None or prompt.mask_hw.shape == flat.shape)
        yield from (intensities(flat, prompt).astype(np.float32) for prompt in fit)


def _grey(image: NDArray[np.generic]) -> bool:
    return image.ndim in {2, 3} and image.shape[2:] in {(), (1,)} and image.size > 0


def outline_closely(
    backbone: Backbone, viewer: ImageViewer, index: int, prompt: FramePrompt, judge: OutlineJudge | None = None
) -> tuple[FramePrompt, float | None]:
    """An outline in place of clicks or a box, where the object is small enough to be looked at closely, or a judge says which.

    Returns:
        The outline and its predicted IoU; the prompt as it was, and None, where there is none.
    """
    if prompt.mask_hw is not None:
        return prompt, None
    shape_hw = viewer.shapes[index]

    def answer(region: Region | None, prompt: FramePrompt, wanted: Wanted = "every") -> FramePrediction:
        frame = viewer.features(index) if region is None else viewer.region_features(index, region)
        asked = Instruction(to_network(prompt, shape_hw, viewer.size, region), wanted=wanted)
        return backbone.decode(frame, backbone.fuse(frame, [[]]), [asked])

    def ask(region: Region | None, _: int, prompt: FramePrompt, wanted: Wanted = "rough") -> tuple[NDArray[np.bool_], float]:
        prediction = answer(region, prompt, wanted)
        return to_frame(prediction.logits_Bhw, shape_hw, region)[0] > 0.5, float(prediction.confidence_B[0])

    canvas = Canvas(shape_hw)
    if judge is not None and prompt.box_xyxy is None and prompt.labels.any():
        found = judge.outline_click(canvas, viewer.picture(index, reduction(shape_hw)), prompt, answer, in_set=True)
        return (prompt, None) if found is None else (FramePrompt.mask(found[0]), found[1])
    region = region_for(canvas, object_box(canvas, {index: prompt}, ask))
    if region is None:
        return prompt, None
    mask, sure = ask(region, index, prompt, "answer")
    return (FramePrompt.mask(mask), sure) if mask.any() else (prompt, None)
