"""Any other program as a method: it is called with files in a temporary folder, and answers with files there.

Of a volume the program gets `image.nii.gz` and `prompts.json` (the file of prompts of this package, in voxels: clicks, boxes,
outlines as label files beside it), and writes `output.nii.gz`, not 0 where the structure is, in the same grid. Of a set it
gets the folder `image` with `0000.png` and so on, `prompts.json` with `{"images": {"0003.png": {"points": [[x, y]], "box":
[x, y, x2, y2], "mask": "prompt-0003.png"}}}`, in pixels, one of the three each, and writes a folder `output` with a picture
of the same name and size for each image, not 0 where the structure is. It finds no name and no header of a patient.
"""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.errors import ConfigError, FormatError, PromptError
from medical_sam2.evaluate.methods.method import Asked, Found, Said
from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.intensity_window import percentile_window
from medical_sam2.io.labels import read_label_map, save_label_map
from medical_sam2.io.prompt_file import save_prompts

IMAGE, PROMPTS, OUTPUT = "{image}", "{prompts}", "{output}"


@dataclass(frozen=True)
class Command:
    """Another program.

    Args:
        words: the command, with places for the three paths.
    """

    words: tuple[str, ...]

    @classmethod
    def parsed(cls, line: str) -> "Command":
        """From a line as a shell would split it; no shell is called.

        Raises:
            ConfigError: a place is missing, or quotes do not close.
        """
        try:
            words = tuple(shlex.split(line))
        except ValueError as error:
            raise ConfigError(f"the command {line!r} cannot be read: {error}", "close the quotes") from None
        missing = [place for place in (IMAGE, PROMPTS, OUTPUT) if place not in line]
        if missing or not words:
            raise ConfigError(f"the command {line!r} has no {', '.join(missing)}", "say where these paths go")
        return cls(words)

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """One call."""
        with TemporaryDirectory(prefix="medsam2-") as name:
            image, prompts, output = Path(name) / "image.nii.gz", Path(name) / "prompts.json", Path(name) / "output.nii.gz"
            io.save(task.volume.array, image, task.volume)
            save_prompts(prompts, [task.in_volume(t, prompt) for t, prompt in sorted(said.items())], {}, task.volume)
            self._called(asked, image, prompts, output)
            bare = replace(task.volume, source=image)
            labels: NDArray[Any] = io.load_labels(output, bare).array
            return Found(list(task.view.apply(labels > 0, task.volume.orientation)))

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """One call for the whole set."""
        with TemporaryDirectory(prefix="medsam2-") as name:
            image, prompts, output = Path(name) / "image", Path(name) / "prompts.json", Path(name) / "output"
            image.mkdir()
            for i, array in enumerate(images):
                Image.fromarray(_bytes(array)).save(image / _name(i))
            told = {_name(i): _told(Path(name), i, said) for i in sorted(said)}
            prompts.write_text(json.dumps({"version": 1, "images": told}))
            self._called(asked, image, prompts, output)
            return Found([_read(output / _name(i), array.shape[:2]) for i, array in enumerate(images)])

    def _called(self, asked: Asked, image: Path, prompts: Path, output: Path) -> None:
        """Run it, and end it with all that it started when its time is over."""
        paths = {IMAGE: str(image), PROMPTS: str(prompts), OUTPUT: str(output)}
        words = [_filled(word, paths) for word in self.words]
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
            _, told = process.communicate(timeout=asked.limit_s)
        except subprocess.TimeoutExpired:
            raise PromptError(f"the command took more than {asked.limit_s:g} s", "give it more: --limit") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode:
            last = (told.strip().splitlines() or ["it said nothing"])[-1][:200]
            raise PromptError(f"the command ended with code {process.returncode}: {last}", "try it by hand")
        if not output.exists():
            raise FormatError("the command wrote no answer", "let it write to {output}")


def _filled(word: str, paths: dict[str, str]) -> str:
    for place, path in paths.items():
        word = word.replace(place, path)
    return word


def _name(i: int) -> str:
    return f"{i:04d}.png"


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.uint8)
    return np.round(255 * percentile_window(array).apply(array)).astype(np.uint8)


def _told(folder: Path, i: int, said: Said) -> dict[str, Any]:
    prompt = said[i]
    if prompt.mask_hw is not None:
        file = f"prompt-{_name(i)}"
        save_label_map(prompt.mask_hw.astype(np.uint8), folder / file)
        return {"mask": file}
    if prompt.box_xyxy is not None:
        return {"box": prompt.box_xyxy.tolist()}
    return {"points": prompt.points_xy.tolist()}


def _read(path: Path, shape_hw: tuple[int, ...]) -> MaskArray:
    if not path.is_file():
        raise FormatError(f"the command wrote no {path.name}", "let it write one picture for each image")
    found = np.not_equal(read_label_map(path), 0)
    if found.shape != shape_hw:
        raise FormatError(f"the answer {path.name} has {found.shape} pixels, the image {shape_hw}", "write its size")
    return found
