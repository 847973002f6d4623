"""Many volumes in one run: cases from a folder or a table, outlined one after the other or by a cluster, each result whole.

Here is what a case is, and where its prompts come from; how all cases are outlined; and what results depend on, as hashes, and
what the label map of an image keeps of it, so that a later run sees whether what lies there was made likewise: it goes on with
it, or refuses to. `table` and `cases` say what is to be done, `run` does it, here or on a cluster, `outputs` says how it lies
there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from medical_sam2 import io
from medical_sam2.data.data_sets import stem
from medical_sam2.errors import InputError, MedicalSam2Error, PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.io import Form, label_table, registry
from medical_sam2.io.labels import AS_DRAWN, MADE_BY, MaskRule
from medical_sam2.io.prompt_file import NamedPrompts, check_limits_given_once, describe_shared_names, load_prompts, masks_from
from medical_sam2.io.safe_open import open_regular
from medical_sam2.tracking.finishing import FinishingSettings
from medical_sam2.volume import Volume

if TYPE_CHECKING:
    from medical_sam2.tracking.image_set import ImageMask

READING = ("geometry_from", "frame", "series", "allow_gap")
TRACKING = ("views", "bank", "fusion", "window", "every_slice", "islands", "consensus", "features", "priority")
WITHOUT_EFFECT = ("weights", "threads", "device", "features")
"""Settings that results do not depend on, so that a run goes on elsewhere; of weights the content counts, not the name."""


class PromptSource(Protocol):
    """Where prompts of an image come from."""

    def read(self, volume: Volume) -> NamedPrompts:
        """The prompts in an image; raises what `load_prompts` does."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What they depend on, beside the content of `files`."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that are read."""
        ...


@dataclass(frozen=True)
class TemplateFiles:
    """An annotated volume, whose objects are looked for in others."""

    image: Path  # file, or folder with a DICOM series
    mask: Path  # its labels
    rule: MaskRule = AS_DRAWN  # how their numbers are meant

    @property
    def name(self) -> str:
        """What tables call it."""
        return stem(self.image)


@dataclass(frozen=True)
class BatchCase:
    """An image with its prompts."""

    name: str  # of the case: its results are called so
    image: Path  # file, or folder with a DICOM series, that is outlined
    prompts: tuple[PromptSource, ...] = ()  # what was pointed at in it
    channels: tuple[Path, ...] = ()  # all files of the image, where it has several
    template: TemplateFiles | None = None  # whose objects are looked for, but those that are prompted

    @property
    def reads_masks(self) -> bool:
        """Whether voxels must be read to know its objects."""
        return self.template is not None or any(file.suffix.lower() != ".json" for each in self.prompts for file in each.files)

    def read_prompts(self, volume: Volume) -> NamedPrompts:
        """All prompts in the image; raises PromptError for none or two names of an object, and what the sources raise."""
        found = [source.read(volume) for source in self.prompts]
        names: dict[int, str] = {}
        for label, name in (pair for each in found for pair in each.names.items()):
            if names.setdefault(label, name) != name:
                raise PromptError(f"object {label} is called {names[label]!r} and {name!r}", "give it one name")
        prompts = tuple(prompt for each in found for prompt in each.prompts)
        check_limits_given_once(prompts)
        files = tuple(file for each in self.prompts for file in each.files)
        notes = dict.fromkeys([note for each in found for note in each.notes] + describe_shared_names(names))
        colours = {label: colour for each in found for label, colour in each.colours.items()}
        return NamedPrompts(prompts, names, files, colours, tuple(notes))

    def known_names(self, volume: Volume) -> dict[int, str]:
        """Label → name, "" where there is none, as far as prompts tell them without a mask being read."""
        names: dict[int, str] = {}
        for source in self.prompts:
            facts = source.facts()
            if all(file.suffix.lower() == ".json" for file in source.files):
                found = source.read(volume)
                names |= {label: found.names.get(label) or names.get(label, "") for label in found.labels}
            elif isinstance(facts.get("object"), int):  # a mask that a row of a table names
                names[facts["object"]] = facts["name"] or names.get(facts["object"], "")
        return names


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts (JSON)."""

    path: Path

    def read(self, volume: Volume) -> NamedPrompts:
        """Its prompts."""
        return load_prompts(self.path, volume)

    def facts(self) -> Mapping[str, Any]:
        """Nothing but its content."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """It, and the masks that it names."""
        named = _files_named(io.load_json(self.path))
        return (self.path, *(self.path.parent / file for file in named))


def _files_named(content: object) -> Iterator[str]:
    """Whatever stands under the key `file`, at any depth."""
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _files_named(value)
    if isinstance(content, dict) and isinstance(content.get("file"), str):
        yield content["file"]


@dataclass(frozen=True)
class MaskFile:
    """A mask in the grid of the image: each label is an object, as `segment --mask` takes it."""

    path: Path
    rule: MaskRule = AS_DRAWN

    def read(self, volume: Volume) -> NamedPrompts:
        """What is drawn in it."""
        found = io.load_outlines(self.path, volume, self.rule)
        names = {each.label: each.name for each in found if each.name}
        notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
        colours = {each.label: each.colour for each in found if each.colour}
        return NamedPrompts(tuple(masks_from(found)), names, (self.path,), colours, notes)

    def facts(self) -> Mapping[str, Any]:
        """How its numbers are meant."""
        return {"rule": vars(self.rule)}

    @property
    def files(self) -> tuple[Path, ...]:
        """It."""
        return (self.path,)


@dataclass(frozen=True)
class BatchSettings:
    """How all cases are outlined.

    Args:
        weights, image_size, device, precision, engine, pool_memory, threads: of the network, see `Segmenter.from_pretrained`.
        views, bank, fusion, window, every_slice, islands, consensus, features, priority: see `Segmenter.segment_volume`.
        whole_slices: show the network whole slices.
        adapt: seconds of tuning to the outlines of each case.
        geometry_from, frame, series, allow_gap: how images are read, see `medical_sam2.io.load`.
        layout: "plain", "bids", "nnunet", or a plug-in.
        suffix: of the files of labels.
        format: plug-ins that know further suffixes.
        finishing: what is done to objects once they are outlined; who is named in it need not be in every case.
    """

    weights: str = "nano"
    image_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    pool_memory: int | None = None
    threads: int | None = None
    features: Path | None = None
    views: str = "one"
    bank: str = "self-sorting"
    fusion: str = "weighted"
    window: str = "auto"
    every_slice: bool = False
    islands: bool = False
    consensus: bool = True
    priority: tuple[str, ...] = ()
    whole_slices: bool = False
    adapt: float = 0.0
    geometry_from: Form | None = None
    frame: int | None = None
    series: str | None = None
    allow_gap: bool = False
    layout: str = "plain"
    suffix: str = ".nii.gz"
    format: tuple[str, ...] = ()
    finishing: FinishingSettings = field(default_factory=FinishingSettings)

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `io.load`."""
        return {name: getattr(self, name) for name in READING}

    @property
    def tracking(self) -> dict[str, Any]:
        """Arguments of `Segmenter.segment_volume`."""
        return {**{name: getattr(self, name) for name in TRACKING}, "zoom": not self.whole_slices}


def hash_weights(file: Path, beside: Sequence[str]) -> list[str]:
    """Hash of a file of weights, and of those of the small networks beside it that are there."""
    files = (file, *(file.with_name(each) for each in beside))
    return [hash_files([path]) for path in files if path.is_file()]


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in their order, and of those in folders; what is neither is passed over."""
    whole = sha256()
    for file in (each for path in paths for each in (sorted(path.iterdir()) if path.is_dir() else [path])):
        if not file.is_file():  # a device never ends
            continue
        with file.open("rb") as stream:
            whole.update(file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def hash_case(case: BatchCase, settings: str) -> str:
    """Hash of what a result depends on, beside its image; files that cannot be read fail in their turn."""
    facts = [source.facts() for source in case.prompts]
    with suppress(MedicalSam2Error, OSError):
        own, template = _with_tables([file for source in case.prompts for file in source.files]), case.template
        by = template and (vars(template.rule), hash_files(_with_tables([template.image, template.mask])))
        return hash_content([settings, facts, hash_files(own), *(by or ())])
    return ""


def _with_tables(files: Sequence[Path]) -> list[Path]:
    """Files and the label tables beside those of them that are masks: they name what is drawn."""
    masks = (file for file in files if file.is_file() and file.suffix.lower() != ".json")
    return [*files, *(table for mask in masks if (table := label_table.beside(mask)))]


def hash_content(content: object) -> str:
    """SHA-256 of what can be written as JSON."""
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def contents(case: BatchCase) -> list[Path]:
    """The files of an image, further channels and the voxels beside a header among them."""
    if case.image.is_dir():
        return sorted(path for path in case.image.iterdir() if path.is_file())
    halves = [case.image.with_suffix(suffix) for suffix in sorted(registry.data_suffixes())]
    beside = [half for half in halves if case.image.suffix.lower() in registry.header_suffixes() and half.is_file()]
    return [*(case.channels or (case.image,)), *beside]


@dataclass(frozen=True)
class RunHash:
    """What the label maps of a run depend on."""

    key: str  # hash of all of it
    parts: Mapping[str, str] = field(default_factory=dict[str, str])  # what ("settings", "prompts" …) → its own hash


@dataclass(frozen=True)
class LabelMapRecord:
    """How a label map was made, and how sure that was; nothing of the image."""

    run: RunHash  # parts are empty where an earlier version wrote it
    image: str  # hash of the image's file
    confidence: Mapping[int, float]  # object → predicted IoU
    # likeness, prompted, window: see `ImageMask`
    likeness: float
    prompted: bool
    window: Window | None


def record_text(run: RunHash, file: Path, found: "ImageMask") -> str:
    """The text that the label map of a file keeps of how it was made."""
    return json.dumps(
        {
            "version": 1,
            "key": run.key,
            "parts": {**run.parts},
            "image": hash_files([file]),
            "confidence": {str(label): sure for label, sure in found.confidence.items()},
            "likeness": found.likeness,
            "prompted": found.prompted,
            "window": None if found.window is None else vars(found.window),
        }
    )


def read_record(file: Path) -> LabelMapRecord | None:
    """How a label map was made; None where it does not tell: another program saved it, or a version that kept nothing."""
    with suppress(OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
        kept = io.parse_json(_read_text(file), file)
        seen = kept["window"]
        window = None if seen is None else Window(float(seen["low"]), float(seen["high"]), str(seen["source"]))
        confidence = {int(label): float(sure) for label, sure in kept["confidence"].items()}
        if confidence and (window is None or window.low < window.high):
            run = RunHash(str(kept["key"]), {str(part): str(own) for part, own in kept.get("parts", {}).items()})
            return LabelMapRecord(run, str(kept["image"]), confidence, float(kept["likeness"]), bool(kept["prompted"]), window)
    return None


def _read_text(file: Path) -> str:
    """Our text in a PNG, whose pixels are not unpacked for it."""
    with open_regular(file) as stream, suppress(Image.DecompressionBombError), Image.open(stream, formats=["PNG"]) as image:
        return str(image.info.get(MADE_BY, ""))
    return ""
