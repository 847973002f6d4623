"""The public face: one prompt in, a whole volume or a whole set outlined."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medical_sam2.errors import ConfigError, MedicalSam2Error
from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Backbone, Features
from medical_sam2.model.device import Precision, check_threads, choose_device, choose_precision, helped
from medical_sam2.model.memory_bank import POLICIES, Policy, SelfSorting
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import load_backbone, weights_file
from medical_sam2.plugins import find, suggestion
from medical_sam2.prompts import FramePrompt, Prompt
from medical_sam2.strokes import apply_settled
from medical_sam2.tracking.click_outline import OutlineJudge
from medical_sam2.tracking.confidence import SLICE_FEATURES, SLICES_FILE, describe_unsure_image, describe_unsure_prompts
from medical_sam2.tracking.consensus import Gate
from medical_sam2.tracking.correction import check_correction, correct_labels, read_request, take_out
from medical_sam2.tracking.cropping import Crop, CroppedImages, VolumePlan
from medical_sam2.tracking.encoding import FeatureCache, FeatureStore, choose_encoder, content_key, fingerprint
from medical_sam2.tracking.frames import FrameDone, FrameStack, TrackingProgress
from medical_sam2.tracking.fusion import FUSIONS, Fusion, FusionFactory
from medical_sam2.tracking.growth import load_end_network
from medical_sam2.tracking.image_set import ImageMask, ImageSetConfig, Order, check_set_prompts, choose_order, segment_set
from medical_sam2.tracking.image_viewer import GivenImages, ImageViewer, choose_set_windows, unit_vector
from medical_sam2.tracking.limits import describe_missed_clicks, describe_missed_points, describe_taken
from medical_sam2.tracking.plan import PLANES, by_window, check_named, order_objects, refuse_blank, several_named, views_allowed
from medical_sam2.tracking.set_consensus import SetConsensus
from medical_sam2.tracking.template import Template, TemplateMatch, describe_matches, search_objects
from medical_sam2.tracking.view_tracker import TrackingConfig
from medical_sam2.tracking.volume_tracker import GroupTracker, ResultOptions, VolumeTracker
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume, axis_codes

T = TypeVar("T")
VIEWS = ("auto", "one", "three", "six", *PLANES)
LOADING = ("device", "precision", "image_size", "engine", "pool_memory")
MOST_TUNING_S = 3600  # to one outline


class Segmenter:
    """Outlines whatever was prompted.

    What the encoder saw is kept, whatever asks for it: a correction, a later object or another view of the same volume does
    not encode a slice again, as long as the pixels and the weights stay the same.

    Args:
        network: any backbone; one that is a torch module is moved to the device and put in evaluation mode.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16", or "auto": bf16 where the device computes it fast.
        keep_mb: memory for what the encoder saw.
        engine: what runs the encoder: "torch", or "openvino" (an extra), which takes less time on a processor.
        pool_memory: farther than so many tokens (16 pixels of the network's input) from the border of an object, its memories
            are attended to as means of 2 × 2: less time with SAM 2's large maps, for answers that differ a little. None for
            token by token, exactly as SAM 2 does.
        gate: of the consensus that follows tracking in a volume, learnt for these weights.
        slice_judge: of how good each slice is after that consensus, learnt for these weights.
        end_network: the network with parts that learnt from ends of objects, for prompts that lie there.
        judge: of what a click means, learnt for these weights.
        set_consensus: that follows tracking in a set of images, learnt for these weights.

    >>> from medical_sam2.model.nano import nano
    >>> volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 6)), np.diag([1.0, 1.0, 4.0, 1.0]))
    >>> from medical_sam2.prompts import Point
    >>> Segmenter(nano(64)).segment_volume(volume, [Point((10, 12, 3))], views="one").labels.shape
    (20, 24, 6)
    """

    def __init__(
        self,
        network: Backbone,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        keep_mb: float = 384.0,
        engine: str = "torch",
        pool_memory: int | None = None,
        gate: Gate | None = None,
        slice_judge: Gate | None = None,
        judge: OutlineJudge | None = None,
        set_consensus: SetConsensus | None = None,
        end_network: Backbone | None = None,
    ) -> None:
        self.gate, self.slice_judge, self.judge, self.end_network = gate, slice_judge, judge, end_network
        self._weights: Path | None = None
        if set_consensus is not None:
            self.set_consensus = set_consensus
        self.device = choose_device(device)
        self.network = network
        self.precision: Literal["fp32", "bf16"] = choose_precision(precision, self.device)
        if pool_memory is not None and not isinstance(network, Sam2):
            raise ConfigError(f"{type(network).__name__} has no memory attention of SAM 2", "leave pool_memory out")
        for each in (network, end_network):
            if isinstance(each, nn.Module):
                each.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
            if pool_memory is not None and isinstance(each, Sam2):
                each.pool_memories(pool_memory)
        self.engine, self._see = engine, choose_encoder(engine, self.network, self.precision)
        self._kept, self._checked = FeatureCache(keep_mb), cast("FeatureCache | None", None)

    @classmethod
    def from_pretrained(
        cls,
        name: str = "nano",
        *,
        device: str = "auto",
        precision: Precision = "auto",
        image_size: int | None = None,
        keep_mb: float = 384.0,
        engine: str = "torch",
        pool_memory: int | None = None,
    ) -> "Segmenter":
        """Load weights by name, path or hub id, and gate and judges beside them, if any; `nano` is embedded in the package.

        Raises:
            WeightsError: the weights do not exist, are broken or do not fit.
        """
        network = load_backbone(name, image_size=image_size)
        file = weights_file(name)
        new = partial(cls, network, device=device, precision=precision, keep_mb=keep_mb, engine=engine, pool_memory=pool_memory)
        found = new(
            gate=Gate.beside(file),
            slice_judge=Gate.beside(file, SLICES_FILE, len(SLICE_FEATURES)),
            judge=OutlineJudge.beside(file),
            end_network=load_end_network(network, file),
        )
        found._weights = file
        return found

    @cached_property
    def set_consensus(self) -> SetConsensus | None:
        """That follows tracking in a set of images; read when a set asks for it, for volumes do without.

        Raises:
            WeightsError: its file is broken, or of another version.
        """
        return None if self._weights is None else SetConsensus.beside(self._weights)

    # Padding is cut off before anything else and put back after everything else; groups of one window share a tracker.
    @torch.no_grad()
    def segment_volume(  # noqa: PLR0913  each is one choice of a user, by name
        self,
        volume: Volume,
        prompts: Sequence[Prompt],
        *,
        views: str | Sequence[View] = "one",
        bank: str | Callable[[], Policy] = "self-sorting",
        joint: bool = True,
        fusion: str | FusionFactory = "weighted",
        window: str | Window = "auto",
        earlier: Segmentation | NDArray[np.unsignedinteger] | None = None,
        probability: bool = False,
        uncertainty: bool = False,
        islands: bool = False,
        consensus: bool = True,
        zoom: bool = True,
        every_slice: bool = False,
        features: str | os.PathLike[str] | None = None,
        names: Mapping[int, str] | None = None,
        overlap: bool = False,
        priority: Sequence[int | str] = (),
        plan: VolumePlan | None = None,
        on_frame: Callable[[FrameDone], None] | None = None,
    ) -> Segmentation:
        """Outline every prompted object in the whole volume.

        Args:
            volume: the image.
            prompts: clicks, boxes and masks in voxel indices of the file; objects by label.
            views: "auto", "one", "three", "six", a plane, or views.
            bank: memory policy: "self-sorting" keeps every prompt, "first-pinned" the first alone, as the paper does, and sorts
                the others; "fifo", "greedy", "prompted", or what makes one.
            joint: one bank for all views, or one for each.
            fusion: "weighted" by how sure the network was of each slice, "mean", "vote", or what makes one.
            window: see `intensity_window.choose_window`; in numbers it may be of a whole, of which this part holds one value.
            earlier: a result, or its labels (I, J, K), that the prompts correct; the rest of it stays.
            probability: whether probability maps are kept.
            uncertainty: whether the views' disagreement is kept.
            islands: whether parts of an object stay that hang together with no prompt of it.
            consensus: whether objects are looked at once more in 3D, if there is a gate; a correction does without.
            zoom: whether the network is shown a region around the object that grows with it, or always whole slices.
            every_slice: whether slices between two on which an object is alike are tracked, too, instead of interpolated; whole
                slices (`zoom=False`) always are.
            features: folder in which what the encoder saw is kept from run to run, by content and weights.
            names: label → name of the structure; unless given, those of the result that is corrected.
            overlap: whether each object is kept whole, in the result's layers, where several claim a voxel, such as a tumour
                in a kidney; its labels give that voxel to one of them all the same.
            priority: objects, by label or name, that such a voxel is given to before others, the first before the second;
                unless given, and among the others, it goes to the most probable.
            plan: of this volume, these prompts, views and earlier labels, where it was made already.
            on_frame: called with each tracked frame.

        Returns:
            A segmentation in the volume's own grid; a slice outlined by the user stays as it was drawn.

        Raises:
            PromptError: a prompt lies outside, on nothing, or contradicts itself.
            ConfigError: an unknown setting, or an earlier result whose objects overlap.
            InputError: the volume holds one value only: there is nothing to outline; or it is no Volume.
            GeometryError: the earlier result lies in another grid.
        """
        given, (prompts, earlier, names) = earlier, read_request(volume, prompts, earlier, names, window)
        idle = {"views": several_named(views), "fusion": fusion != "weighted", "islands": islands, "every_slice": every_slice}
        check_correction(earlier, prompts, overlap or priority, maps=probability or uncertainty, idle=idle)
        policy, summed = find(POLICIES, bank, what="bank"), find(FUSIONS, fusion, what="fusion")
        plan = plan.check(volume, prompts) if plan else VolumePlan.of(volume, prompts, views, earlier)
        shown, mended, tracked = (crop := plan.crop).volume, crop.labels(earlier), plan.tracking
        learnt, first = ((self.gate, self.slice_judge) if consensus else ()), order_objects(priority, tracked.labels, names)
        options = ResultOptions(summed, probability, uncertainty, islands, *learnt, overlap=overlap, priority=first)
        work = VolumeTracker(shown, tracked, options, TrackingProgress(crop.wrap_progress(on_frame)), crop.start)
        new = self._configure(features, shown, policy=policy, joint=joint, zoom=zoom, every_frame=every_slice)
        mended = self._track_windows(work, new, window, mended)
        result = replace(crop.to_whole(work.result(names, mended), earlier), colours=getattr(given, "colours", {}))
        if earlier is None and not (probability or uncertainty or overlap):
            how: dict[str, Any] = {"bank": bank, "window": window, "zoom": zoom, "features": features, "on_frame": on_frame}
            result = take_out(result, prompts, partial(self.segment_volume, volume, names=names, **how))
        return self._describe_late(replace(result, image=volume), crop.warnings, prompts, earlier)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of, in another process too: all but what runs the encoder."""
        return {name: value for name, value in vars(self).items() if name not in {"_see", "_checked"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._see, self._checked = choose_encoder(self.engine, self.network, self.precision), None

    def _configure(self, features: str | os.PathLike[str] | None, volume: Volume, **how: Any) -> "partial[TrackingConfig]":
        """What makes a configuration for a window of intensities."""
        how |= {"judge": self.judge, "end_backbone": self.end_network}
        return partial(TrackingConfig, self.network, self._encoder(features), volume, **how)

    def _describe_late(
        self,
        result: Segmentation,
        first: Iterable[str],
        prompts: Sequence[Prompt],
        earlier: NDArray[np.unsignedinteger] | None,
    ) -> Segmentation:
        """The result with all its warnings: some before its own, and those that are known once all is done."""
        late = [*describe_missed_points(result.maps, prompts), *describe_taken(earlier, result.labels, prompts)]
        if self.judge is not None and earlier is None:  # of weights without a judge nobody measured what confidence means
            late += describe_unsure_prompts(axis_codes(result.affine), result.confidence, prompts)
        return replace(result, warnings=(*first, *result.warnings, *late))

    def _track_windows(
        self,
        work: VolumeTracker,
        config: Callable[[Window], TrackingConfig],
        window: str | Window,
        mended: NDArray[np.unsignedinteger] | None,
    ) -> NDArray[np.unsignedinteger] | None:
        """Track all objects, those of one window together; labels that are corrected are answered as they are mended."""
        with self.computing():
            for seen, own in by_window(work.volume, work.plan.groups, window).items():
                tracker = GroupTracker(config(seen), work.progress, work.rows)
                work.windows |= dict.fromkeys((label for group in own for label in group.prompts), seen)
                if mended is None:
                    work.track(tracker, own)
                else:
                    mended = correct_labels(tracker, own, mended)
        return mended

    @torch.no_grad()
    def segment_by_template(
        self,
        volume: Volume,
        template: Template,
        prompts: Sequence[Prompt] = (),
        *,
        views: str | Sequence[View] = "one",
        window: str | Window = "auto",
        zoom: bool = True,
        features: str | os.PathLike[str] | None = None,
        priority: Sequence[int | str] = (),
        names: Mapping[int, str] | None = None,
        **options: Any,
    ) -> Segmentation:
        """Outline the objects of a template in another volume: found without a prompt, then tracked as from an outline.

        Args:
            volume: the image.
            template: another volume with its outlines.
            prompts: in `volume`; their objects are not looked for.
            views, window, zoom, features, priority: see `segment_volume`.
            names: label → name, of prompted objects, or in place of the template's.
            options: further ones of `segment_volume`, but `earlier`.

        Returns:
            A segmentation in the volume's own grid, with the template's names and colours. What was not found with confidence
            is left out, with a warning; `look_here` marks the slices on which objects were found, or were missed.

        Raises:
            PromptError, ConfigError, InputError: as `segment_volume`.
        """
        prompts, *_ = read_request(volume, prompts)
        refuse_blank(template.volume)
        check_named(names := names or {}, known := {each.object for each in (*template.masks, *prompts)})
        called = {**template.annotation.names, **names}
        wanted = order_objects(priority, known, called)
        with self.computing():
            matches = self._find_objects(volume, template, prompts, views, window, zoom=zoom, features=features)
        found = [match for match in matches if match.found]
        outlines = [*prompts, *(match.mask for match in found)]
        shown = {outline.object for outline in outlines}
        seen = {match.window for match in found}
        result = Segmentation(np.zeros(volume.shape, np.uint8), volume.affine, called, image=volume)
        if outlines:
            result = self.segment_volume(
                volume,
                outlines,
                views=views,
                window=seen.pop() if len(seen) == 1 and not prompts else window,
                zoom=zoom,
                features=features,
                names={label: called[label] for label in called if label in shown},
                priority=[label for label in wanted if label in shown],
                **options,
            )
        return describe_matches(replace(result, names=called, colours=template.annotation.colours), matches)

    def _find_objects(
        self,
        volume: Volume,
        template: Template,
        prompts: Sequence[Prompt],
        views: str | Sequence[View],
        window: str | Window,
        *,
        zoom: bool,
        features: str | os.PathLike[str] | None,
    ) -> list[TemplateMatch]:
        """Where the objects of a template that nobody prompted lie."""
        whole, ours = Crop.to_content(volume, ()), Crop.to_content(template.volume, template.masks)
        given, see = {prompt.object for prompt in prompts}, self._encoder(features)
        masks = [ours.cut(mask) for mask in template.masks if mask.object not in given]
        new = partial(TrackingConfig, self.network, see, policy=SelfSorting)
        matches = search_objects(new, ours.volume, masks, whole.volume, views_allowed(views), window, zoom=zoom)
        return [
            replace(match, inside_ijk=whole.embed(match.inside_ijk), slice=match.slice + whole.start[match.axis])
            for match in matches
        ]

    @torch.no_grad()
    def segment_images(
        self,
        images: Sequence[NDArray[np.generic]],
        prompts: Mapping[int, Mapping[int, FramePrompt]],
        *,
        bank: str | Callable[[], Policy] = "self-sorting",
        order: str | Order | Iterable[int] = "given",
        only: Collection[int] | None = None,
        consensus: bool = True,
        features: str | os.PathLike[str] | None = None,
        window: str | Window = "auto",
        modality: Callable[[int], str | None] = lambda _: None,
        on_error: Callable[[int, MedicalSam2Error], None] | None = None,
    ) -> Iterator[ImageMask]:
        """Outline the prompted objects in every image of an unordered set, in memory that does not grow with the set.

        Args:
            images: (H, W) or (H, W, 3) each, of any size, or (H, W, 4) with an opaque fourth; each is asked for when it is
                visited.
            prompts: image → object → prompt, in pixels of that image. An image on which an object gets nothing but clicks
                corrects what is remembered of it, once another image has shown what it is.
            bank: memory policy.
            order: in which the other images are visited: "given", "shuffled", "similar" (most like the bank first), or a
                policy of your own; or the images themselves, one after the other.
            only: the images to be outlined beside the prompted ones; all unless given.
            consensus: whether each image is looked at once more after tracking, if the weights can; not prompted ones.
            features: folder in which what the encoder saw is kept, by content and weights.
            window: see `intensity_window.choose_window`; "auto" takes one for all CT images in Hounsfield units; images in
                colour are seen by their percentiles, whatever is said.
            modality: what took an image, as a DICOM code, where known; else air and bone tell a CT.
            on_error: called with images that cannot be used, which are left out; without it their error is raised.

        Yields:
            One result for each image as it is made, the prompted ones first.

        Raises:
            PromptError: no image is prompted, or a prompt cannot work.
            InputError: an image is no array of numbers, or they are in no sequence.
        """
        policy: Callable[[], Policy] = find(POLICIES, bank, what="bank")
        check_set_prompts(prompts)
        asked, rest = choose_order(order, len(given := GivenImages(images)))
        size, seen = self.network.image_size, choose_set_windows(given, prompts, window, modality)
        cropped = CroppedImages(given, prompts)
        viewer = ImageViewer(cropped, self._encoder(features), size, on_error=on_error, windows=seen)
        visited = [*dict.fromkeys([*prompts, *(i for i in rest if only is None or i in only)])]
        agreed = self.set_consensus if consensus else None
        config = ImageSetConfig(self.network, viewer, policy, asked, self.judge, agreed)
        for found in self._stepwise(segment_set(config, cropped.prompts, visited)):
            labels = cropped.to_whole(found.index, found.labels)
            own = prompts.get(found.index, {})
            for label, prompt in own.items():
                apply_settled(labels, label, prompt)
            told = [*given.replaced.get(found.index, ()), *found.warnings, *describe_missed_clicks(labels, own)]
            told += describe_unsure_image(found.confidence, own) if self.judge is not None else []
            yield replace(found, labels=labels, window=viewer.windows.get(found.index), warnings=tuple(told))

    def _stepwise(self, steps: Iterator[T]) -> Iterator[T]:
        """The same, in this precision, which does not leak to whoever takes the results."""
        while True:
            with self.computing():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def encode(self, frame_3SS: torch.Tensor, store: FeatureStore | None = None) -> Features:
        """What the network sees on one frame (3, S, S) in [0, 1]; at once where it was seen before."""
        key = content_key(frame_3SS)

        def see() -> Features:
            stored = store and store.load(key, self.device)
            return stored or self._see(frame_3SS[None].to(self.device))

        features = (self._checked or self._keeping()).get(key, see)
        if store is not None:
            store.keep(key, features)
        return features

    @torch.no_grad()  # under `inference_mode` autocast rounds all weights again for each slice
    def slice_directions(
        self, volume: Volume, view: View, window: Window, slices: Collection[int]
    ) -> dict[int, NDArray[np.float32]]:
        """Slice, by its index along the array axis → its embedding over the length of that: likeness is the cosine of two."""
        stack = FrameStack(volume, view, window, self.network.image_size)
        frames = {index: t for t in range(stack.shape_thw[0]) if (index := stack.slice_index(t)) in slices}
        with self.computing():
            return {index: unit_vector(self.encode(stack.input(t)).summary_BC[0]) for index, t in frames.items()}

    def see_ahead(self, volume: Volume, view: View, window: Window) -> None:
        """See all slices of a volume, so that a prompt on one is answered sooner: what was seen is kept."""
        self.slice_directions(shown := Crop.to_content(volume, ()).volume, view, window, range(max(shown.shape)))

    def _keeping(self) -> FeatureCache:
        """The cache, emptied if the weights, all numbers that what the encoder sees may depend on, have changed."""
        network = self.network
        weights = [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []
        return self._kept.of(weights, self.precision)

    def _encoder(self, folder: str | os.PathLike[str] | None) -> Callable[[torch.Tensor], Features]:
        """`encode`, with a folder that keeps what was seen."""
        if folder is None:
            return self.encode
        if not isinstance(self.network, nn.Module):
            raise ConfigError("features are kept for networks of torch alone", "leave the folder for features out")
        made_by = fingerprint(self.network, self.device, self.precision, self.engine)
        return partial(self.encode, store=FeatureStore(folder, made_by))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In this precision while the context lasts, on a second core where one is free; the weights stay as they are."""
        half = torch.bfloat16 if self.precision == "bf16" else None
        autocast = torch.autocast(self.device.type, dtype=half) if half else nullcontext()
        before, self._checked = self._checked, self._keeping()
        try:
            with autocast, helped(self.device, half):
                yield
        finally:
            self._checked = before


def load_by_settings(settings: Mapping[str, Any], **more: Any) -> Segmenter:
    """The segmenter that settings tell of, by the names of the arguments of `from_pretrained`, with their number of threads.

    Raises:
        WeightsError, ConfigError: weights or device do not exist or do not fit.
    """
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    given = {name: settings[name] for name in LOADING if name in settings}
    return Segmenter.from_pretrained(settings["weights"], **given, **more)


def check_choices(*, views: str, bank: str, fusion: str, threads: int | None, adapt: float, **_: object) -> None:
    """Refuse names in settings that do not exist, before a large image is read; other settings are passed over.

    Raises:
        ConfigError: unknown views, bank or fusion, with the nearest valid name; an impossible number of threads or seconds.
    """
    if views not in VIEWS:
        raise ConfigError(f"unknown views {views!r}", suggestion(views, VIEWS))
    find(POLICIES, bank, what="bank", makes=Policy)
    find(FUSIONS, fusion, what="fusion", makes=Fusion)
    check_threads(threads)
    if not 0 <= adapt <= MOST_TUNING_S:
        raise ConfigError(f"nobody can tune for {adapt:g} seconds", f"give `adapt=0` to {MOST_TUNING_S} (20 is usual)")
