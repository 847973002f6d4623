"""What `medsam2 segment-images` can be told, in groups; each field is an option, its line in the docstring the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from medical_sam2.cli._numbers import PIXELS
from medical_sam2.cli._options import FLAG, OWN_WORDS, InferenceOptions

AGAIN = Parameter(negative="", show_default=False)


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class SetPromptOptions:
    """What the user points at, and on which images.

    Args:
        template: an image of the folder that is prompted (stack.tif#3: a page); again for more.
        mask: label map of the template (PNG, TIFF, NIfTI; masks.tif#2: a page); each label is an object, unless --object; black
            and white, and what is opaque, are one object; one for each --template, in their order, or IMAGE:FILE.
        threshold: what is at least this number in a mask is drawn, as one object (masks with soft edges).
        each_label: each number of a mask is an object, even where they look like soft edges.
        box: two opposite corners of a rectangle around the object; with several templates "IMAGE:X Y X2 Y2".
        point: a pixel inside of it, X to the right, Y down, from 0; again for more; "2:X Y" is object 2, "IMAGE:2:X Y" is on
            that image.
        negative: a pixel outside of it.
        object: label of what the prompts of the command line mean.
        name: of that object; "2:NAME" names object 2.
    """

    template: Annotated[tuple[str, ...], AGAIN] = ()
    mask: Annotated[tuple[str, ...], AGAIN] = ()
    threshold: float | None = None
    each_label: Annotated[bool, FLAG] = False
    box: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=PIXELS["--box"], show_default=False)] = ()
    point: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=PIXELS["--point"], show_default=False)] = ()
    negative: Annotated[tuple[str, ...], OWN_WORDS, Parameter(metavar=PIXELS["--negative"], show_default=False)] = ()
    object: int | None = None
    name: Annotated[tuple[str, ...], AGAIN] = ()


@Parameter(name="*", group=Group("Output", sort_key=2))
@dataclass(frozen=True)
class SetOutputOptions:
    """What is written.

    Args:
        output: folder for the label maps (PNG, each of its image's size); made where it is missing.
        preview: all images with their outlines, the least sure first (.png, .jpg).
        statistics: area, place and intensity of each object on each image (.csv, .json).
        report: what was done, with what and how (.json); `medsam2 suggest` reads it.
        skip_existing: leave images out whose label map is there.
        overwrite: replace files that exist.
    """

    output: Annotated[Path, Parameter(alias="-o")]
    preview: Path | None = None
    statistics: Path | None = None
    report: Path | None = None
    skip_existing: Annotated[bool, FLAG] = False
    overwrite: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class SetInferenceOptions:
    """Settings of the method and of the machine.

    Args:
        bank: memory: self-sorting, fifo, greedy, prompted (nothing but the templates), or a plug-in (module:attribute).
        order: in which images are visited: given (by name), shuffled, similar (most like the bank first), or a plug-in.
        seed: of the shuffling.
        window: of intensities: auto (CT images through the window that suits what is prompted), percentile, soft, lung, bone,
            brain, or LOW,HIGH.
        features: folder that keeps what the encoder saw, by content and weights: corrections are quick.
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        image_size: side of the network's input in pixels; that of the weights unless given.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        engine: what runs the image encoder: torch, or openvino (an extra), which takes less time on a processor.
        threads: of the processor.
    """

    bank: str = "self-sorting"
    order: str = "given"
    seed: int = 0
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "auto"
    features: Path | None = None
    weights: str = "nano"
    image_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    threads: int | None = None

    @property
    def how(self) -> InferenceOptions:
        """The part that volumes have too."""
        return InferenceOptions(
            bank=self.bank,
            weights=self.weights,
            image_size=self.image_size,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            threads=self.threads,
        )
