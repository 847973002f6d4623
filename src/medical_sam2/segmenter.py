"""The public face: one prompt in, a whole volume or a whole set outlined."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.correction import corrected
from medical_sam2.errors import ConfigError, GeometryError, PromptError
from medical_sam2.following import Setting
from medical_sam2.frames import Window, percentile_window, to_frame, to_input, to_network
from medical_sam2.fusion import FUSIONS, FusionFactory, argmax_labels
from medical_sam2.model.backbone import Features
from medical_sam2.model.memory import POLICIES, Policy, PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.model.weights import load_backbone
from medical_sam2.orientations import FrameDone, OrientationTracker, Progress
from medical_sam2.outcome import Kept, Outcome, by_window, labels_in
from medical_sam2.planning import grouped, redraw, views_allowed
from medical_sam2.plugins import find
from medical_sam2.prompts import Fixed, FramePrompt, Prompt
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume

T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16"]


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
        islands: bool = False,
        zoom: bool = True,
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
            islands: whether parts of an object stay that hang together with no prompt of it.
            zoom: whether the network is shown a region around the object that grows with it, or always whole slices.
            names: label → name of the structure.
            on_frame: told of each tracked frame.

        Returns:
            A segmentation in the volume's own grid; a slice outlined by the user stays as it was drawn.

        Raises:
            PromptError: a prompt lies outside, on nothing, or contradicts itself.
            ConfigError: an unknown setting.
        """
        if earlier is not None and (probability or uncertainty):
            raise ConfigError("a correction keeps no probabilities", "leave `probability` and `uncertainty` out, or `earlier`")
        known = set() if earlier is None else labels_in(earlier)
        groups = grouped(volume, prompts, views_allowed(views), known)
        policy: Callable[[], Policy] = find(POLICIES, bank, what="bank")
        make: FusionFactory = find(FUSIONS, fusion, what="fusion")
        work = Outcome(volume, groups, Kept(make, probability, uncertainty, islands), Progress(on_frame))

        def tracker(seen: Window) -> OrientationTracker:
            setting = Setting(self.network, self._encode, volume, seen, policy, joint, zoom)
            return OrientationTracker(setting, work.progress, work.rows)

        with self._autocast():
            for seen, own in by_window(volume, groups, window).items():
                if earlier is not None:
                    earlier = corrected(tracker(seen), own, earlier)
                else:
                    work.track(tracker(seen), own, views)
        return work.result(names or {}, earlier)

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
        labels = _check_images(images, prompts)
        size, policy = self.network.image_size, find(POLICIES, bank, what="bank")
        visited = dict.fromkeys([*prompts, *(range(len(images)) if order is None else order)])
        prompters = [
            Fixed({i: to_network(said[label], images[i].shape[:2], size) for i, said in prompts.items() if label in said})
            for label in labels
        ]

        def features(i: int) -> Features:
            return self._encode(to_input(percentile_window(images[i]).apply(images[i]), size))

        for i, prediction in self._stepwise(track(self.network, features, visited, prompters, PolicyBank(policy))):
            probabilities = to_frame(prediction.logits_Bhw, images[i].shape[:2])
            found = argmax_labels({label: p[None] for label, p in zip(labels, probabilities, strict=True)})
            for label, prompt in prompts.get(i, {}).items():
                redraw(found, label, {0: prompt})
            confidence = prediction.confidence_B.float().tolist()
            yield ImageMask(i, found[0], dict(zip(labels, confidence, strict=True)))

    def _stepwise(self, steps: Iterator[T]) -> Iterator[T]:
        """The same, in this precision, which does not leak to whoever takes the results."""
        while True:
            with self._autocast():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _encode(self, frame_3SS: torch.Tensor) -> Features:
        return self.network.encode(self.network.normalised(frame_3SS[None].to(self.device)))

    def _autocast(self) -> AbstractContextManager[object]:
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


def _check_images(images: Sequence[NDArray[np.generic]], prompts: Mapping[int, Mapping[int, FramePrompt]]) -> list[int]:
    """The objects' labels, if images and prompts can be used."""
    labels = sorted({label for said in prompts.values() for label in said})
    if not labels:
        raise PromptError("no image is prompted", "outline the object on at least one image")
    if labels[0] < 1:
        raise PromptError(f"object {labels[0]} is no label", "number objects from 1; 0 is background")
    for i, image in enumerate(images):
        if image.ndim not in {2, 3} or image.shape[2:] not in {(), (1,), (3,)} or 0 in image.shape:
            raise GeometryError(f"image {i} has shape {image.shape}", "give arrays (H, W) or (H, W, 3)")
    absent = [i for i in prompts if not 0 <= i < len(images)]
    if absent:
        raise PromptError(f"there is no image {absent[0]} among {len(images)}", "number images from 0")
    return labels
