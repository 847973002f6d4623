"""What `medsam2 segment` can be told, in groups; each field is an option, its line in the docstring the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from medical_sam2.cli._numbers import VOXELS
from medical_sam2.io import Form
from medical_sam2.io.registry import writable

FLAG = Parameter(negative="", show_default=False)
OWN_WORDS = Parameter(negative="", allow_leading_hyphen=True)


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class Pointed:
    """What the user points at.

    Args:
        point: a voxel inside the object, counted from 0 in the order of the file; again for more; "2:I J K" is object 2.
        negative: a voxel outside of it.
        box: two opposite corners of a rectangle around it on one slice.
        mask: label file with outlines, in the image's grid (FILE#2: time point 2 of it); each label is an object, unless
            --object; black and white are one object; segments of 3D Slicer keep their names.
        threshold: what is at least this number in a mask is drawn, as one object (masks with soft edges).
        each_label: each number of a mask is an object, even where they look like soft edges.
        prompts: file of prompts (JSON), with several objects and their names.
        object: label of what the prompts of the command line mean.
        mm: coordinates of the command line are millimetres in RAS+.
    """

    point: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=VOXELS["--point"], show_default=False)] = ()
    negative: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=VOXELS["--negative"], show_default=False)] = ()
    box: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=VOXELS["--box"], show_default=False)] = ()
    mask: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = ()
    threshold: float | None = None
    each_label: Annotated[bool, FLAG] = False
    prompts: Path | None = None
    object: int | None = None
    mm: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class PromptOptions(Pointed):
    """What the user points at, and what that is called.

    Args:
        name: of the object of the command line's prompts; "2:NAME" names object 2.
        correct: earlier result that the prompts mend; what they do not touch stays.
    """

    name: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    correct: Path | None = None


@Parameter(name="*", group=Group("Reading", sort_key=4))
@dataclass(frozen=True)
class Reading:
    """How the image is read where that is not clear.

    Args:
        geometry_from: which form of a NIfTI file counts where the two contradict each other.
        frame: time point or page, from 0.
        series: DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: interpolate missing DICOM slices.
    """

    geometry_from: Form | None = None
    frame: int | None = None
    series: str | None = None
    allow_gap: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class TrackingOptions:
    """Settings of tracking and of the machine.

    Args:
        bank: memory: self-sorting, fifo, greedy, or a plug-in (module:attribute, file.py:attribute).
        whole_slices: show the network whole slices, not a region around the object that grows with it.
        window: of intensities: auto, percentile, soft, lung, bone, brain, or LOW,HIGH.
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        image_size: side of the network's input in pixels; that of the weights unless given.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        engine: what runs the image encoder: torch, or openvino (an extra), which takes less time on a processor.
        threads: of the processor.
        features: folder that keeps what the encoder saw for the next run, by content and weights.
    """

    bank: str = "self-sorting"
    whole_slices: Annotated[bool, FLAG] = False
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "auto"
    weights: str = "nano"
    image_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    threads: int | None = None
    features: Path | None = None


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class InferenceOptions(TrackingOptions):
    """The same, and what is made of several views.

    Args:
        views: one, three, six, auto, axial, coronal or sagittal.
        fusion: of the views: weighted by how sure the network was, mean, vote, or a plug-in.
        islands: keep parts of an object that hang together with no prompt of it.
        consensus: look at each object once more in 3D after tracking, if the weights can (those that ship do).
        adapt: seconds of tuning to what was outlined, before it is tracked; outlines only, undone afterwards.
    """

    views: str = "one"
    fusion: str = "weighted"
    islands: Annotated[bool, FLAG] = False
    consensus: bool = True
    adapt: float = 0.0


@Parameter(name="*", group=Group("Output", sort_key=2))
@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Args:
        output: labels, in the format that its suffix names.
        format: further format for that, a plug-in (module:attribute, file.py:attribute); again for more.
        probability: probability of the object; with several objects one file each (NAME-1 …).
        uncertainty: how much the views disagree.
        confidence: how sure the network was, slice by slice (.csv).
        preview: montage (.png, .jpg) or film (.gif).
        statistics: volume, place and intensity of each object (.csv, .json).
        report: what was done, with what and how (.json); nothing of the patient.
        overwrite: replace files that exist.
    """

    output: Annotated[Path, Parameter(alias="-o", help=f"labels: {writable()}.")]
    format: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    probability: Path | None = None
    uncertainty: Path | None = None
    confidence: Path | None = None
    preview: Path | None = None
    statistics: Path | None = None
    report: Path | None = None
    overwrite: Annotated[bool, FLAG] = False
