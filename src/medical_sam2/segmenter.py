"""The public face: one prompt in, a whole volume or a whole set outlined."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.confidence import collapses
from medical_sam2.correction import corrected
from medical_sam2.errors import ConfigError, GeometryError, PromptError
from medical_sam2.frames import choose_window, percentile_window, to_frame, to_input, to_network
from medical_sam2.fusion import FUSIONS, FusionFactory, argmax_labels
from medical_sam2.model.backbone import Features
from medical_sam2.model.memory import POLICIES, Policy, PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.model.weights import load_backbone
from medical_sam2.orientations import FrameDone, OrientationTracker
from medical_sam2.planning import PLANES, Group, grouped, masks_of, views_named
from medical_sam2.plugins import find
from medical_sam2.prompts import Fixed, FramePrompt, Mask, Prompt
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

Precision = Literal["auto", "fp32", "bf16"]
TOGETHER_BYTES = 1_500_000_000  # probability volumes held at once: more objects are tracked one after another
HALF_FROM_VOXELS = 200_000_000  # volumes from this size on are summed in float16


@dataclass(frozen=True, eq=False)
class ImageMask:
    """Objects outlined on one image of a set.

    Args:
        index: of the image.
        labels: (H, W) unsigned integers, 0 is background, at the image's own size.
        confidence: object → predicted IoU in [0, 1], 0 where the object is judged absent.
    """

    index: int
    labels: NDArray[np.unsignedinteger]
    confidence: Mapping[int, float]


class Segmenter:
    """Outlines whatever was prompted.

    Args:
        network: the backbone; moved to the device and put in evaluation mode.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16", or "auto": bf16 where the device computes it fast.

    >>> from medical_sam2.model.nano import nano
    >>> volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 6)), np.diag([1.0, 1.0, 4.0, 1.0]))
    >>> from medical_sam2.prompts import Point
    >>> Segmenter(nano(64)).segment_volume(volume, [Point((10, 12, 3))], views="one").labels.shape
    (20, 24, 6)
    """

    def __init__(self, network: Sam2, *, device: str = "auto", precision: Precision = "auto") -> None:
        self.device = choose_device(device)
        self.network = network.to(self.device).eval()
        self.precision = choose_precision(precision, self.device)

    @classmethod
    def from_pretrained(
        cls, name: str = "nano", *, device: str = "auto", precision: Precision = "auto", image_size: int | None = None
    ) -> "Segmenter":
        """Load weights by name, path or hub id; `nano` is embedded in the package.

        Raises:
            WeightsError: the weights do not exist, are broken or do not fit.
        """
        return cls(load_backbone(name, image_size=image_size), device=device, precision=precision)

    @torch.inference_mode()
    def segment_volume(
        self,
        volume: Volume,
        prompts: Sequence[Prompt],
        *,
        views: str | Sequence[View] = "auto",
        bank: str | Callable[[], Policy] = "self-sorting",
        joint: bool = True,
        fusion: str | FusionFactory = "mean",
        window: str = "auto",
        earlier: NDArray[np.unsignedinteger] | None = None,
        probability: bool = False,
        uncertainty: bool = False,
        names: Mapping[int, str] | None = None,
        on_frame: Callable[[FrameDone], None] | None = None,
    ) -> Segmentation:
        """Outline every prompted object in the whole volume.

        Args:
            volume: the image.
            prompts: clicks, boxes and masks in voxel indices of the file; objects by label.
            views: "auto", "one", "three", "six", a plane, or views.
            bank: memory policy: "self-sorting", "fifo", "greedy", or what makes one.
            joint: one bank for all views, or one for each.
            fusion: "mean", "vote", "weighted", or what makes one.
            window: see `frames.choose_window`.
            earlier: (I, J, K) labels of an earlier result that the prompts correct; the rest of it stays.
            probability: whether probability maps are kept.
            uncertainty: whether the views' disagreement is kept.
            names: label → name of the structure.
            on_frame: told of each tracked frame.

        Returns:
            A segmentation in the volume's own grid; a slice outlined by the user stays as it was drawn.

        Raises:
            PromptError: a prompt lies outside, on nothing, or contradicts itself.
            ConfigError: an unknown setting.
        """
        only = PLANES[views] if isinstance(views, str) and views in PLANES else None
        groups = grouped(volume, prompts, only)
        seen = choose_window(volume, window, inside=_intensities(volume, groups))
        policy: Callable[[], Policy] = find(POLICIES, bank, what="bank")
        make: FusionFactory = find(FUSIONS, fusion, what="fusion")
        dtype = np.float16 if volume.array.size >= HALF_FROM_VOXELS else np.float32
        making = partial(make, volume.shape, volume.orientation, uncertainty=uncertainty, dtype=dtype)
        tracker = partial(OrientationTracker, self.network, self._encode, volume, seen, policy, joint, on_frame=on_frame)
        with self._autocast():
            if earlier is not None:
                return corrected(volume, groups, earlier, tracker, names or {})
            return self._tracked(volume, groups, views, tracker, making, prompts, names or {}, (probability, uncertainty))

    @torch.inference_mode()
    def segment_images(
        self,
        images: Sequence[NDArray[np.generic]],
        prompts: Mapping[int, Mapping[int, FramePrompt]],
        *,
        bank: str | Callable[[], Policy] = "self-sorting",
        order: Iterable[int] | None = None,
    ) -> Iterator[ImageMask]:
        """Outline the prompted objects in every image of an unordered set.

        Args:
            images: (H, W) or (H, W, 3) each, of any size.
            prompts: image → object → prompt, in pixels of that image; each object is prompted on each of these images.
            bank: memory policy.
            order: in which the other images are visited; as given unless told.

        Yields:
            One result for each image, the prompted ones first.

        Raises:
            PromptError: no image is prompted.
        """
        if not prompts:
            raise PromptError("no image is prompted", "outline the object on at least one image")
        labels = sorted({label for said in prompts.values() for label in said})
        size, policy = self.network.image_size, find(POLICIES, bank, what="bank")
        visited = [*prompts, *(i for i in (order or range(len(images))) if i not in prompts)]
        prompters = [
            Fixed({i: to_network(said[label], images[i].shape[:2], size) for i, said in prompts.items() if label in said})
            for label in labels
        ]

        def features(i: int) -> Features:
            picture = percentile_window(images[i]).apply(images[i])
            return self._encode(to_input(picture, size))

        with self._autocast():
            for i, prediction in track(self.network, features, visited, prompters, PolicyBank(policy)):
                probabilities = to_frame(prediction.logits_Bhw, images[i].shape[:2])
                maps = {label: p[:, :, None] for label, p in zip(labels, probabilities, strict=True)}
                confidence = prediction.confidence_B.float().tolist()
                yield ImageMask(i, argmax_labels(maps)[:, :, 0], dict(zip(labels, confidence, strict=True)))

    def _tracked(
        self,
        volume: Volume,
        groups: Sequence[Group],
        views: str | Sequence[View],
        tracker: Callable[..., OrientationTracker],
        making: Callable[..., object],
        prompts: Sequence[Prompt],
        names: Mapping[int, str],
        keep: tuple[bool, bool],
    ) -> Segmentation:
        fusions: dict = {}
        rows: list[SliceConfidence] = []
        warnings: dict[str, None] = {}
        for group in groups:
            chosen, told = views_named(views, volume, group.view)
            warnings |= dict.fromkeys(told)
            own = {label: making() for label in group.prompts}
            run = tracker(own)
            run.run(group, chosen)
            fusions |= own
            rows += run.rows
        labels = argmax_labels(fusions)
        _redraw(labels, volume, prompts)
        rows = collapses(rows)
        spread = np.max([each.uncertainty() for each in fusions.values()], axis=0) if keep[1] else None
        maps = {label: each.result() for label, each in fusions.items()} if keep[0] else {}
        missing = [f"object {label} was not found on any slice" for label in fusions if not (labels == label).any()]
        return Segmentation(labels, volume.affine, names, maps, spread, tuple(rows), (*warnings, *missing))

    def _encode(self, frame_3SS: torch.Tensor) -> Features:
        return self.network.encode(self.network.normalised(frame_3SS[None].to(self.device)))

    def _autocast(self) -> AbstractContextManager:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """The device called so; "auto" takes CUDA, then MPS, then the processor.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:N or mps") from None
    absent = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent or device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"there is no device {name!r} here", "choose auto or cpu; `medsam2 doctor` lists what there is")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32"; "auto" takes bf16 where the device computes it by itself."""
    if name not in {"auto", "fp32", "bf16"}:
        raise ConfigError(f"unknown precision {name!r}", "choose auto, fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"


def _intensities(volume: Volume, groups: Sequence[Group]) -> NDArray[np.generic]:
    """Intensities at the prompts: inside masks and boxes, around positive clicks."""
    found = []
    for group in groups:
        stack = group.view.apply(volume.array, volume.orientation)
        for said in group.prompts.values():
            found += [_at(stack[t], prompt) for t, prompt in said.items()]
    return np.concatenate(found)


def _at(frame_hw: NDArray[np.generic], prompt: FramePrompt) -> NDArray[np.generic]:
    if prompt.mask_hw is not None:
        return frame_hw[prompt.mask_hw]
    if prompt.box_xyxy is not None:
        x_low, y_low, x_high, y_high = (round(float(x)) for x in prompt.box_xyxy)
        return frame_hw[y_low : y_high + 1, x_low : x_high + 1].ravel()
    inside = [(round(float(x)), round(float(y))) for x, y in prompt.points_xy[prompt.labels == 1]]
    patches = [frame_hw[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].ravel() for x, y in inside]
    return np.concatenate(patches) if patches else np.zeros(0)


def _redraw(labels: NDArray[np.unsignedinteger], volume: Volume, prompts: Sequence[Prompt]) -> None:
    """Slices that the user outlined stay as drawn, unless clicks correct them."""
    for mask in masks_of(prompts):
        if mask.array_ijk.shape != labels.shape:
            raise GeometryError(f"the mask has shape {mask.array_ijk.shape}, the image {labels.shape}", "use the image's grid")
        axis = next(iter(mask.planes()))
        view = next(view for view in THREE_VIEWS if view.order(volume.orientation)[0] == axis)
        others = [p for p in prompts if p.object == mask.object and not isinstance(p, Mask)]
        clicked = {t for p in others for t in p.project(view, labels.shape, volume.orientation)}
        stack, drawn = view.apply(labels, volume.orientation), view.apply(mask.array_ijk, volume.orientation)
        for t in np.flatnonzero(drawn.any(axis=(1, 2))):
            if int(t) not in clicked:
                stack[t][(stack[t] == mask.object) & ~drawn[t]] = 0
                stack[t][drawn[t]] = mask.object
