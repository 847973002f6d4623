"""Who answers, by name: the network with its banks, prototypes, networks trained for the task, other programs.

`interface` is what each of them offers; each other file is one method, or one family. What methods that somebody else wrote
raise, and what is wrong with their answers, is told as theirs (`guard_method`).

Any other program is a method, too (`Command`): it is called with files in a temporary folder, and answers with files there. Of
a volume the program gets `image.nii.gz` and `prompts.json` (the file of prompts of this package, in voxels: clicks, boxes,
outlines as label files beside it), and writes `output.nii.gz`, not 0 where the structure is, in the same grid. Of a set it
gets the folder `image` with `0000.png` and so on, `prompts.json` with `{"images": {"0003.png": {"points": [[x, y]], "box":
[x, y, x2, y2], "mask": "prompt-0003.png"}}}`, in pixels, one of the three each, and writes a folder `output` with a picture
of the same name and size for each image, not 0 where the structure is. The structure's name stands beside the prompts (`name`
of the object, `structure` of a set), for programs that take words. It finds no name and no header of a patient.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.errors import ConfigError, FormatError, InputError, MedicalSam2Error, PromptError
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.evaluate.methods.interface import Correcting, Method, MethodAnswer, MethodInputs
from medical_sam2.evaluate.methods.own_network import Prototypical, TrackingMethod, WithoutMemory
from medical_sam2.evaluate.methods.trained_networks import Tailored
from medical_sam2.intensity_window import percentile_window
from medical_sam2.io.labels import read_label_map, save_label_map
from medical_sam2.io.prompt_file import save_prompts
from medical_sam2.model.memory_bank import Fifo, Greedy, SelfSorting
from medical_sam2.plugins import find

IMAGE, PROMPTS, OUTPUT = "{image}", "{prompts}", "{output}"
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PAPER = partial(SelfSorting, pin="first")
METHODS: Mapping[str, Method] = {
    "self-sorting": TrackingMethod(PAPER),
    "all pinned": TrackingMethod(SelfSorting),
    "one view": TrackingMethod(PAPER, views="one"),
    "six views": TrackingMethod(PAPER, views="six"),
    "fifo": TrackingMethod(Fifo),
    "greedy": TrackingMethod(Greedy),
    "prompt alone": TrackingMethod(partial(SelfSorting, threshold=2.0)),
    "without memory": WithoutMemory(),
    "no sorting": TrackingMethod(partial(PAPER, threshold=0.0, sort=False, resample="none")),
    "+ threshold": TrackingMethod(partial(PAPER, sort=False, resample="none")),
    "+ dissimilarity": TrackingMethod(partial(PAPER, resample="none")),
    "+ resampling": TrackingMethod(PAPER),
    "prototypes": Prototypical(),
    "local prototypes": Prototypical(window=4),
    "dynunet": Tailored("DynUNet"),
    "unetr": Tailored("UNETR"),
    "swin-unetr": Tailored("SwinUNETR"),
    "transunet": Tailored("TransUNet"),
    "segdiff": Tailored("SegDiff", size=64),
    "ensdiff": Tailored("EnsDiff", size=64),
    "medsegdiff": Tailored("MedSegDiff", size=64),
}
"""The first prompt alone is pinned, as in the paper; "one view", "six views" are "self-sorting" whatever the
protocol's views are; "all pinned" is the bank for people who prompt, which keeps every prompt.
From "no sorting" to "+ resampling": the ladder of Table 3: the latest memories; only sure ones; dissimilar ones; weighed."""
CLASSICAL = ("copy", "registration", "random walker", "classifier", "grow cut", "geodesic")
"""Methods of `benchmarks/classical_methods.py`, which is no part of the package."""


def find_method(name: str) -> Method:
    """The method called so.

    Args:
        name: of `METHODS`; `module:attribute`; `file.py:attribute`; or `LABEL=PROGRAM {image} {prompts} {output}`.

    Raises:
        ConfigError: there is none.
    """
    if IMAGE in name:
        return Command.parsed(name.partition("=")[2] if "=" in name.partition(IMAGE)[0] else name)
    if name in CLASSICAL:
        place = f"benchmarks/classical_methods.py:{name.upper().replace(' ', '_')}"
        raise ConfigError(f"the method {name!r} left the package", f"give {place}, in a copy of the repository")
    return find(METHODS, name, what="method", interface=Method)


def is_by_user(name: str) -> bool:
    """Whether a method is somebody's own code, which this process runs; other programs run by themselves."""
    return name not in METHODS and IMAGE not in name


def method_label(name: str) -> str:
    """What a method is called in tables.

    >>> method_label("other=python other.py {image} {prompts} {output}")
    'other'
    """
    before = name.partition(IMAGE)[0]
    return before.partition("=")[0] if before != name and "=" in before else name


def describe_method(method: Method) -> str:
    """What decides about the answers of a method, in words that change when it does.

    They are part of a study's digest: where a class of a method or a bank gets another name, no earlier run goes on.
    """
    if isinstance(method, TrackingMethod):
        return repr(method.bank()) + (f", views {method.views}" if method.views else "")
    description = repr(method) if is_dataclass(method) else type(method).__qualname__
    return ADDRESS.sub("", description)  # it differs from run to run


@dataclass(frozen=True)
class Command:
    """Another program."""

    words: tuple[str, ...]  # the command, with places for the three paths

    @classmethod
    def parsed(cls, line: str) -> "Command":
        """From a line as a shell would split it; raises ConfigError if a place is missing, or quotes do not close."""
        try:
            words = tuple(shlex.split(line))
        except ValueError as error:
            raise ConfigError(f"the command {line!r} cannot be read: {error}", "close the quotes") from None
        missing = [place for place in (IMAGE, PROMPTS, OUTPUT) if place not in line]
        if missing or not words:
            raise ConfigError(f"the command {line!r} has no {', '.join(missing)}", "say where these paths go")
        return cls(words)

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """One call."""
        with TemporaryDirectory(prefix="medsam2-") as name:
            image, listing, output = Path(name) / "image.nii.gz", Path(name) / "prompts.json", Path(name) / "output.nii.gz"
            io.save(task.volume.array, image, task.volume)
            names = {} if inputs.training is None else {1: inputs.training.structure}
            save_prompts(listing, inputs.volume_prompts or task.all_in_volume(prompts), names, task.volume)
            self._run_program(inputs, image, listing, output)
            bare = replace(task.volume, source=image)
            labels: NDArray[Any] = io.load_labels(output, bare).array
            return MethodAnswer(list(task.view.apply(labels > 0, task.volume.orientation)))

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """One call for the whole set."""
        with TemporaryDirectory(prefix="medsam2-") as name:
            image, listing, output = Path(name) / "image", Path(name) / "prompts.json", Path(name) / "output"
            image.mkdir()
            for i, array in enumerate(images):
                Image.fromarray(_as_bytes(array)).save(image / _picture_name(i))
            described = {_picture_name(i): _describe_prompt(Path(name), i, prompts) for i in sorted(prompts)}
            named = {} if inputs.training is None else {"structure": inputs.training.structure}
            listing.write_text(json.dumps({"version": 1, **named, "images": described}))
            self._run_program(inputs, image, listing, output)
            return MethodAnswer([_read_mask(output / _picture_name(i), array.shape[:2]) for i, array in enumerate(images)])

    def _run_program(self, inputs: MethodInputs, image: Path, listing: Path, output: Path) -> None:
        """Run it, and end it with all that it started when its time is over."""
        paths = {IMAGE: str(image), PROMPTS: str(listing), OUTPUT: str(output)}
        words = [_fill_word(word, paths) for word in self.words]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"{words[0]} cannot be started: {error.strerror}", "check the command") from None
        try:
            _, errors = process.communicate(timeout=inputs.limit_s)
        except subprocess.TimeoutExpired:
            raise PromptError(f"the command took more than {inputs.limit_s:g} s", "give it more: --limit") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1][:200]
            raise PromptError(f"the command ended with code {process.returncode}: {last}", "try it by hand")
        if not output.exists():
            raise FormatError("the command wrote no answer", "let it write to {output}")


def _fill_word(word: str, paths: dict[str, str]) -> str:
    for place, path in paths.items():
        word = word.replace(place, path)
    return word


def _picture_name(i: int) -> str:
    return f"{i:04d}.png"


def _as_bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.uint8)
    return np.round(255 * percentile_window(array).apply(array)).astype(np.uint8)


def _describe_prompt(folder: Path, i: int, prompts: FramePrompts) -> dict[str, Any]:
    prompt = prompts[i]
    if prompt.mask_hw is not None:
        file = f"prompt-{_picture_name(i)}"
        save_label_map(prompt.mask_hw.astype(np.uint8), folder / file)
        return {"mask": file}
    if prompt.box_xyxy is not None:
        return {"box": prompt.box_xyxy.tolist()}
    return {"points": prompt.points_xy.tolist()}


def _read_mask(path: Path, shape_hw: tuple[int, ...]) -> MaskArray:
    if not path.is_file():
        raise FormatError(f"the command wrote no {path.name}", "let it write one picture for each image")
    found = np.not_equal(read_label_map(path), 0)
    if found.shape != shape_hw:
        raise FormatError(f"the answer {path.name} has {found.shape} pixels, the image {shape_hw}", "write its size")
    return found


class MethodError(InputError):
    """Somebody's own method failed, or its answer cannot be used; once it is mended, a further run asks it again."""


@dataclass(frozen=True)
class UserMethod:
    """A method whose faults are named as its own."""

    name: str  # of it, such as `own.py:METHOD`
    method: Method  # it

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.on_volume(inputs, task, prompts), task.truth_thw)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.on_images(inputs, images, prompts), images)

    def _ask(self, call: Callable[[], MethodAnswer], frames: Sequence[NDArray[Any]] | NDArray[Any]) -> MethodAnswer:
        try:
            found = call()
        except MedicalSam2Error:
            raise  # it refuses, as ours do
        except Exception as error:  # whatever foreign code raises is its fault
            problem = f"{type(error).__name__}: {error} ({self._place(error)})"
            raise MethodError(problem, "mend it", subject=self.name) from error
        return check_answer(found, [frame.shape[:2] for frame in frames], self.name)

    def _place(self, error: Exception) -> str:
        """File and line, the deepest ones of the method's own file where the error passed through it."""
        frames = traceback.extract_tb(error.__traceback__)
        kind = self.method if isinstance(self.method, type) else type(self.method)
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        last = ([each for each in frames if each.filename == file] or frames)[-1]
        return f"{Path(last.filename).name}:{last.lineno}"


@dataclass(frozen=True)
class UserCorrecting(UserMethod):
    """The same of a method that mends its earlier answer."""

    method: Any

    def correct_volume(
        self, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: FramePrompts
    ) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.correct_volume(inputs, task, earlier_thw, prompts), task.truth_thw)


def guard_method(name: str, method: Method) -> Method:
    """Somebody's method, so that its faults are not taken for defects of this program."""
    return UserCorrecting(name, method) if isinstance(method, Correcting) else UserMethod(name, method)


def check_answer(found: MethodAnswer, shapes_hw: Sequence[tuple[int, ...]], name: str) -> MethodAnswer:
    """The answer with masks of bool, if there is one for each frame in its shape, and what is sure is told of frames.

    Raises:
        MethodError: it is something else.
    """
    if not isinstance(found, MethodAnswer):  # pyright: ignore[reportUnnecessaryIsInstance]  # foreign code answers what it likes
        raise MethodError(f"it answered with {type(found).__name__}", "answer with MethodAnswer(masks)", subject=name)
    masks = [np.asarray(mask) for mask in found.masks]
    if len(masks) != len(shapes_hw):
        problem = f"it answered {len(masks)} masks, expected {len(shapes_hw)}"
        raise MethodError(problem, "give one of each frame", subject=name)
    for t, (mask, shape) in enumerate(zip(masks, shapes_hw, strict=True)):
        if mask.shape != shape:
            problem = f"its mask of frame {t} is {_say_shape(mask.shape)}, expected {_say_shape(shape)}"
            raise MethodError(problem, "give rows × columns of the frame", subject=name)
        if mask.dtype.kind not in "biu":
            problem = f"its mask of frame {t} is of type {mask.dtype}, expected bool"
            raise MethodError(problem, "decide what is inside", subject=name)
    frames = range(len(masks))
    if not isinstance(found.sure, Mapping) or any(t not in frames for t in found.sure):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MethodError("it is sure of what are no frames", f"give frame → number, from 0 to {len(masks) - 1}", subject=name)
    return replace(found, masks=[mask != 0 for mask in masks])


def _say_shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
