"""What commands share of their options: kinds of parameters, the settings of the method, and numbers written as several words.

"--point 32 30 4", "--point 32,30,4" and "--point 2:32 30 4" become one word each, and are checked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token, convert

from medical_sam2.errors import ConfigError, InputError, PromptError, read_number

FLAG = Parameter(negative="", show_default=False)
REPEATED = Parameter(negative="", show_default=False)
Json = Annotated[bool, Parameter(name="--json", negative="")]
WITH_HYPHENS = Parameter(negative="", allow_leading_hyphen=True, show_default=False)
BOXES, LINES = ("--box", "--negative-box"), ("--scribble", "--negative-scribble", "--lasso", "--negative-lasso", "--diameter")
VOXELS = (
    {"--point": "I J K", "--negative": "I J K", "--slices": "K K2"}
    | dict.fromkeys(BOXES, "I J K I2 J2 K2")
    | dict.fromkeys(LINES, "I J K ...")
)
PIXELS = {"--point": "X Y", "--negative": "X Y"} | dict.fromkeys(BOXES, "X Y X2 Y2") | dict.fromkeys(LINES, "X Y ...")
NUMBERS_OF = {"segment": VOXELS, "suggest": VOXELS, "segment-images": PIXELS}
COUNTED = {2: "two", 3: "three", 4: "four", 6: "six"}
ONE_VIEW = {"one", "axial", "coronal", "sagittal"}
SEPARATORS = re.compile(r"[\s,]+")


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class NetworkOptions:
    """Settings of the method and of the machine, for volumes and for images.

    Args:
        bank: memory: self-sorting, first-pinned (of the prompts the first alone stays whatever comes), fifo, greedy, or a
            plug-in (module:attribute, file.py:attribute).
        window: of intensities: auto, percentile, soft, lung, bone, brain, or LOW,HIGH.
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        image_size: side of the network's input in pixels; that of the weights unless given.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        engine: what runs the image encoder: torch, or openvino (an extra), which takes less time on a processor.
        pool_memory: attend to means of 2 × 2 tokens of memories, farther than so many tokens from the object's border; less
            time with SAM 2 at 1024 pixels, for answers that differ a little.
        threads: of the processor; all cores unless given. Where a second core is free, it takes parts of each frame's work.
        features: folder that keeps what the encoder saw for the next run, by content and weights.
    """

    bank: str = "self-sorting"
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "auto"
    weights: str = "nano"
    image_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    pool_memory: int | None = None
    threads: int | None = None
    features: Path | None = None


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class TrackingOptions(NetworkOptions):
    """The same, and what the network is shown of a volume.

    Args:
        whole_slices: show the network whole slices, not a region around the object that grows with it.
    """

    whole_slices: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class InferenceOptions(TrackingOptions):
    """The same, and what is made of several views.

    Args:
        views: one, three, six, auto, axial, coronal or sagittal.
        fusion: of the views: weighted by how sure the network was, mean, vote, or a plug-in.
        every_slice: track each slice; else those between two on which an object is alike are interpolated.
        islands: keep parts of an object that hang together with no prompt of it, and small ones beside a large one in a box.
        consensus: look at each object once more in 3D after tracking, if the weights can (those that ship do).
        adapt: seconds of tuning to what was outlined, before it is tracked (20 is usual, 3600 the most); outlines only, undone
            afterwards.
        overlap: keep each object whole where several claim a voxel (a tumour in a kidney), in a format that holds this.
        priority: object, by name or number, that such a voxel is given to instead of the most probable one; again for the next.
    """

    views: str = "one"
    fusion: str = "weighted"
    every_slice: Annotated[bool, FLAG] = False
    islands: Annotated[bool, FLAG] = False
    consensus: bool = True
    adapt: float = 0.0
    overlap: Annotated[bool, FLAG] = False
    priority: Annotated[tuple[str, ...], REPEATED] = ()

    def check_effects(self) -> None:
        """Refuse what another option leaves without effect; raises ConfigError."""
        if self.every_slice and self.whole_slices:
            raise ConfigError("--every-slice changes nothing: with --whole-slices each is tracked", "leave it out")
        if self.fusion in {"mean", "vote"} and self.views in ONE_VIEW:  # a plug-in may do what it likes with one
            raise ConfigError(
                "--fusion changes nothing: one view is tracked", "leave it out, or give --views three, six or auto"
            )


@Parameter(name="*", group=Group("Method", sort_key=3))
@dataclass(frozen=True)
class SetInferenceOptions(NetworkOptions):
    """Settings for a set of images.

    Args:
        bank: memory: self-sorting, first-pinned (of the templates the first alone stays whatever comes), fifo, greedy, prompted
            (nothing but the templates), or a plug-in (module:attribute).
        order: in which images are visited: given (by name), shuffled, similar (most like the bank first), or a plug-in.
        seed: of the shuffling.
        window: of grey images: auto (CT images through the window that suits what is prompted), percentile, soft, lung, bone,
            brain, or LOW,HIGH.
        features: folder that keeps what the encoder saw, by content and weights: corrections are quick.
        consensus: look at each image once more after tracking, if the weights can (those that ship do).
    """

    order: str = "given"
    seed: int = 0
    consensus: bool = True


@Parameter(name="*", group=Group("Finishing", sort_key=3))
@dataclass(frozen=True)
class FinishingOptions:
    """What is done to the prompted objects once they are outlined, in this order.

    Args:
        fill_holes: fill cavities that an object encloses.
        largest: keep the largest part of each object.
        smooth: smooth surfaces by so many millimetres; volumes stay; "liver=2" or "1=2" for one object.
        grow: let objects grow by so many millimetres, but not into each other; as for --smooth.
        shrink: let them shrink.
        min_volume: drop parts of an object below so many millilitres; as for --smooth.
    """

    fill_holes: Annotated[bool, FLAG] = False
    largest: Annotated[bool, FLAG] = False
    smooth: Annotated[tuple[str, ...], REPEATED] = ()
    grow: Annotated[tuple[str, ...], REPEATED] = ()
    shrink: Annotated[tuple[str, ...], REPEATED] = ()
    min_volume: Annotated[tuple[str, ...], REPEATED] = ()


def convert_strictly(kind: Any, tokens: Sequence[Token]) -> Any:
    """What an option means: cyclopts would round 1.5 where a whole number is wanted, and take 1_0 for 10.

    Raises:
        InputError: a number is wanted and something else was given.
    """
    if kind in (int, int | None):
        for token in tokens:
            if not re.fullmatch(r"[+-]?\d{1,18}", token.value):
                raise InputError(f"{token.value!r} is no whole number", "give one", subject=token.keyword)
    if kind in (float, float | None):
        for token in tokens:
            if _number(token.value) is None:
                raise InputError(f"{token.value!r} is no number", "give one", subject=token.keyword)
    return convert(kind, tokens)


def check_threshold(threshold: float | None, *, each_label: bool) -> None:
    """Refuse a threshold of masks that is no number, or beside the option that excludes it; raises ConfigError."""
    if threshold is not None and each_label:
        raise ConfigError("--each-label and --threshold contradict each other", "give one of them")
    if threshold is not None and not isfinite(threshold):
        raise ConfigError(f"--threshold {threshold} is not finite", "give the smallest number that is inside")


def join_numbers(words: Sequence[str]) -> list[str]:
    """The command line with the numbers of each option as one word, "--point=32 30 4".

    Raises:
        PromptError: an option has too few or too many numbers, or something that is none.
    """
    wanted = NUMBERS_OF.get(words[0], {}) if words else {}
    found: list[str] = []
    place = 0
    while place < len(words) and words[place] != "--":
        option, equals, value = words[place].partition("=")
        place += 1
        if option not in wanted:
            found.append(words[place - 1])
            continue
        taken = [value] if equals else []
        while place < len(words) and _belongs(words[place], " ".join(taken), wanted[option]):
            taken.append(words[place])
            place += 1
        text = " ".join(taken)
        parse_numbers(option, text, wanted[option])
        found.append(f"{option}={text}")
    return [*found, *words[place:]]


def parse_numbers(option: str, text: str, wanted: str) -> tuple[str, list[float]]:
    """What stands before the last colon, and the numbers after it.

    Args:
        option: that they were given with.
        text: such as "2:32 30 4".
        wanted: names of the numbers, such as "I J K"; "I J K ..." for any number of places.

    Raises:
        PromptError: they are too few, too many, no numbers or not finite.
    """
    head, parts = _split(text)
    many, repeated = _count(wanted)
    numbers = [number for part in parts if (number := _number(part)) is not None]
    enough = len(numbers) == many or (repeated and numbers and len(numbers) % many == 0)
    if not enough or len(parts) != len(numbers):
        got = f", not {text!r}" if text else ""
        amount = "places of " * repeated + COUNTED[many]
        raise PromptError(f"{option} needs {amount} numbers{got}", f"give {option} {wanted}")
    if not all(map(isfinite, numbers)):
        raise PromptError(f"{text} is not finite", "give finite numbers", subject=option)
    return head, numbers


def _belongs(word: str, taken: str, wanted: str) -> bool:
    """Whether a word goes on with the numbers: all until there are enough, then only what can be nothing but a number."""
    number = _number(_split(word)[1][0]) is not None if _split(word)[1] else False
    many, _ = _count(wanted)
    if len(_split(taken)[1]) < many:
        return number or not word.startswith("-")
    return number and ":" not in word and not Path(word).exists()


def _count(wanted: str) -> tuple[int, bool]:
    """How many numbers an option has, and whether they may be followed by as many again, and again."""
    names = wanted.removesuffix(" ...").split()
    return len(names), wanted.endswith(" ...")


def _split(text: str) -> tuple[str, list[str]]:
    head, _, numbers = text.rpartition(":")
    return head, [part for part in SEPARATORS.split(numbers) if part]


def _number(part: str) -> float | None:
    try:
        return float(read_number(part))
    except (ValueError, OverflowError):
        return None
