"""Classical methods for `medsam2 evaluate`, on the same prompts as the network; they need the extra `evaluate`.

    medsam2 evaluate --data DATA -o OUT --method self-sorting --method benchmarks/classical_methods.py:GROW_CUT

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.intensity_window import percentile_window
from medical_sam2.tracking.frames import to_input

sys.path.append(str(Path(__file__).parent))  # where this file is loaded as a plug-in, its folder is not searched

from classical import IMAGE_METHODS, VOLUME_METHODS, OnImage, outlined

Floats = NDArray[np.float32]
THUMBNAIL = 32  # pixels of the side of what two pictures are compared by


@dataclass(frozen=True)
class Classical:
    """A method of `classical`, from each prompted frame to those that are nearest to it.

    Nearest are neighbours in a volume, and in a set the picture that looks most alike.

    Args:
        name: of the method.
    """

    name: str

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Each slice that shows the object answers for the slices around it; negative clicks say nothing to it."""
        prompted = sorted(t for t, prompt in prompts.items() if prompt.shows_object)
        stack = task.window(prompts).apply(task.slices_thw)
        spacing = task.view.spacing(task.volume.spacing_mm, task.volume.orientation)
        owner = np.abs(np.arange(len(stack))[:, None] - np.array(prompted)).argmin(axis=1)
        masks: list[MaskArray] = []
        for place, t in enumerate(prompted):
            own = np.flatnonzero(owner == place)
            answer = VOLUME_METHODS[self.name](stack[own], t - int(own[0]), outlined(stack[t], prompts[t]), spacing)
            masks += list(answer)
        return MethodAnswer(masks)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Each template answers for the images that look like it."""
        if self.name not in IMAGE_METHODS:
            raise PromptError(f"{self.name} outlines volumes alone", "take another method for images")
        pictures: list[Floats] = [percentile_window(image).apply(image) for image in images]
        outlines = {t: outlined(pictures[t], prompt) for t, prompt in prompts.items()}
        learnt: dict[int, OnImage] = {}
        alike = _alike(pictures)
        masks: list[MaskArray] = []
        for i, picture in enumerate(pictures):
            if i not in outlines:
                t = max(outlines, key=lambda t, i=i: alike(i, t))
                on = learnt.get(t) or learnt.setdefault(t, IMAGE_METHODS[self.name](pictures[t], outlines[t]))
                masks.append(on(picture))
            else:
                masks.append(outlines[i])
        return MethodAnswer(masks)


def _alike(pictures: Sequence[Floats]) -> Callable[[int, int], float]:
    """Correlation of small grey copies."""
    small: list[NDArray[np.float64]] = []
    for picture in pictures:
        plane = to_input(picture, THUMBNAIL).mean(0).numpy().astype(np.float64).ravel()
        plane -= plane.mean()
        small.append(plane / max(float(np.linalg.norm(plane)), 1e-9))
    return lambda i, j: float(small[i] @ small[j])


COPY = Classical("copy")
REGISTRATION = Classical("registration")
RANDOM_WALKER = Classical("random walker")
CLASSIFIER = Classical("classifier")
GROW_CUT = Classical("grow cut")
GEODESIC = Classical("geodesic")
"""For volumes alone."""
