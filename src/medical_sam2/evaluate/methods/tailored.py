"""Networks trained for one task: what the network that needs no training for a task is to be measured against.

They learn from the cases of the data set that are not measured, slice by slice in two dimensions, and never see a prompt. Where
a person outlined a frame, that outline is kept. The architectures are MONAI's (the extra `monai`).

Shapes: N pictures, S side of the input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.evaluate.methods.method import Asked, Found, Said, Training, slices_of
from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.frames import to_input
from medical_sam2.intensity_window import choose_window, percentile_window
from medical_sam2.planning import primary_view
from medical_sam2.prompts import Point
from medical_sam2.volume import Volume

WITHOUT = 0.3  # of the pictures in a batch are drawn from all, the others from those that show the structure
TURN, SCALE = 0.26, 0.2  # radians; share of the size: augmentation, uniform up to so much either way


@dataclass(frozen=True)
class Tailored:
    """One architecture, trained when it is first asked about a structure.

    Args:
        architecture: "DynUNet" (nnU-Net's network), "UNETR", "SwinUNETR", or a builder of a network that takes (N, 3, S, S)
            and gives logits (N, 1, S, S).
        steps: of training.
        batch: pictures in a step.
        size: S; a multiple of 32.
        rate: of AdamW, falling to 0 as a cosine.
        seed: of weights, batches and augmentation.
    """

    architecture: str | Callable[[int], nn.Module]
    steps: int = 400
    batch: int = 8
    size: int = 128
    rate: float = 1e-3
    seed: int = 0

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Slice by slice."""
        slices = choose_window(task.volume).apply(slices_of(task))
        return Found(self._answers(asked, list(slices), said))

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Image by image."""
        return Found(self._answers(asked, [percentile_window(image).apply(image) for image in images], said))

    @torch.inference_mode()
    def _answers(self, asked: Asked, pictures: Sequence[NDArray[np.float32]], said: Said) -> list[MaskArray]:
        network, masks = self._network(asked), list[MaskArray]()
        for t, picture in enumerate(pictures):
            drawn = said[t].mask_hw if t in said else None
            if drawn is None:
                logits = network(to_input(picture, self.size)[None].to(asked.segmenter.device))
                whole = F.interpolate(logits.float(), size=picture.shape[:2], mode="bilinear", align_corners=False)
                drawn = (whole[0, 0] > 0).cpu().numpy()
            masks.append(drawn)
        return masks

    def _network(self, asked: Asked) -> nn.Module:
        if asked.training is None or not asked.training.cases:
            raise PromptError("no other case is there to train on", "measure fewer cases of the data set")
        with torch.inference_mode(mode=False):
            return _trained(self, asked.training, asked.segmenter.device)


@lru_cache(maxsize=4)
def _trained(how: Tailored, training: Training, device: torch.device) -> nn.Module:
    pictures_N3SS, masks_N1SS = _examples(training, how.size)
    shows = masks_N1SS.any(dim=(1, 2, 3)).nonzero()[:, 0]
    if not len(shows):
        raise PromptError("no case to train on shows the structure", "leave it out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        build = how.architecture if callable(how.architecture) else _architecture(how.architecture)
        network = build(how.size).to(device).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=how.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.steps)
        for chosen_N in _batches(len(masks_N1SS), shows, how):
            seen_N3SS, truth_N1SS = _turned(pictures_N3SS[chosen_N], masks_N1SS[chosen_N])
            loss = dice_and_entropy(network(seen_N3SS.to(device)), truth_N1SS.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def dice_and_entropy(logits_N1SS: Tensor, truth_N1SS: Tensor) -> Tensor:
    """One minus soft Dice of the batch, plus binary cross entropy."""
    likely, truth = logits_N1SS.float().sigmoid(), truth_N1SS.float()
    overlap = (2 * (likely * truth).sum() + 1) / (likely.sum() + truth.sum() + 1)
    return 1 - overlap + F.binary_cross_entropy_with_logits(logits_N1SS.float(), truth)


def _batches(count: int, shows: Tensor, how: Tailored) -> Iterator[Tensor]:
    for _ in range(how.steps):
        with_it = shows[torch.randint(len(shows), (how.batch,))]
        yield torch.where(torch.rand(how.batch) < WITHOUT, torch.randint(count, (how.batch,)), with_it)


def _turned(pictures_N3SS: Tensor, masks_N1SS: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated, scaled and brightened at random, picture and mask alike."""
    count = len(pictures_N3SS)
    angle, scale = TURN * (2 * torch.rand(count) - 1), 1 + SCALE * (2 * torch.rand(count) - 1)
    cos, sin, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros(count)
    turn_N23 = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(count, 2, 3)
    grid = F.affine_grid(turn_N23, list(pictures_N3SS.shape), align_corners=False)
    seen = F.grid_sample(pictures_N3SS, grid, align_corners=False)
    truth = F.grid_sample(masks_N1SS.float(), grid, align_corners=False) >= 0.5
    gain, lift = 0.8 + 0.4 * torch.rand(count, 1, 1, 1), 0.2 * torch.rand(count, 1, 1, 1) - 0.1
    return (seen * gain + lift).clamp(0, 1), truth


def _examples(training: Training, size: int) -> tuple[Tensor, Tensor]:
    """All slices or images of the cases to train on, and the structure on them."""
    data = read_data_set(training.folder)
    pictures: list[Tensor] = []
    masks: list[Tensor] = []
    for case in (case for case in data.cases if case.identifier in training.cases):
        loaded = data.load(case)
        if loaded.labels is None:
            continue
        image, truth = loaded.images[0], data.mask(loaded.labels, training.structure)
        if isinstance(image, Volume):
            image = replace(image, modality="CT") if image.modality is None and data.modality == "CT" else image
            view = primary_view(image, [Point((0, 0, 0))])
            shown = list(choose_window(image).apply(view.apply(image.array, image.orientation)))
            truths = list(view.apply(truth, image.orientation))
        else:
            shown, truths = [percentile_window(image.array).apply(image.array)], [truth]
        pictures += [to_input(picture, size) for picture in shown]
        masks += [to_input(one.astype(np.float32), size)[:1] >= 0.5 for one in truths]
    return torch.stack(pictures), torch.stack(masks)


def _architecture(name: str) -> Callable[[int], nn.Module]:
    """A builder by the name of MONAI's class.

    Raises:
        ConfigError: MONAI is not installed, or there is no such architecture.
    """
    try:
        from monai.networks.nets.dynunet import DynUNet
        from monai.networks.nets.swin_unetr import SwinUNETR
        from monai.networks.nets.unetr import UNETR
    except ModuleNotFoundError:
        raise ConfigError("networks trained for a task need MONAI", "pip install 'medical-sam2[monai]'") from None
    builders: Mapping[str, Callable[[int], object]] = {
        "DynUNet": lambda size: DynUNet(2, 3, 1, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[24, 48, 96, 192, 192]),
        "UNETR": lambda size: UNETR(3, 1, size, feature_size=16, hidden_size=192, mlp_dim=768, num_heads=6, spatial_dims=2),
        "SwinUNETR": lambda size: SwinUNETR(3, 1, feature_size=24, spatial_dims=2),
    }
    if name not in builders:
        raise ConfigError(f"unknown architecture {name!r}", f"valid are {', '.join(builders)}")
    return cast("Callable[[int], nn.Module]", builders[name])
