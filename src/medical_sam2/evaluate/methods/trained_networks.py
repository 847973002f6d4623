"""Networks that learn the task: from other cases of the data set (nnU-Net's and others), or from a support set (UniverSeg).

A support set is for those who have the code and the weights of such a network:

    # mine.py; then: medsam2 evaluate --method mine.py:method …
    from universeg import universeg
    from medical_sam2.evaluate.methods.trained_networks import SupportSet

    method = SupportSet(universeg(pretrained=True))

Two architectures are put together from MONAI's parts. TransUNet (Chen et al. 2021, arXiv 2102.04306): a convolutional encoder,
a transformer on its deepest map, and a decoder with the encoder's maps beside its own. Smaller than the published one
(ResNet-50 and ViT-B/16), and not pre-trained.

Diffusion: a network learns to take the noise out of a mask while it sees the picture; asked, it begins with noise, several
times, and the masks are made one. `SegDiff` (Amit et al. 2021, arXiv 2112.00390) adds the picture's features to those of the
noisy mask; `EnsDiff` (Wolleb et al. 2022, arXiv 2112.03145) gives both as channels of one picture; both take the mean of the
masks. `MedSegDiff` (Wu et al. 2022, arXiv 2211.00611) sends the picture's features through a filter in frequency that is learnt
(its FF-Parser), and makes the masks one by STAPLE (Warfield et al. 2004); its attention between the two encodings is left out.
All sample by DDIM in few steps, where the papers take up to a thousand.

Shapes: B tasks (1), K pictures of the support set, S side of the input, N pictures, C channels, R masks of one picture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs, TrainingCases
from medical_sam2.evaluate.methods.own_network import outline_prompted
from medical_sam2.intensity_window import choose_window, percentile_window
from medical_sam2.prompts import Point
from medical_sam2.tracking.frames import to_input
from medical_sam2.tracking.plan import primary_view
from medical_sam2.volume import Volume

WIDTHS, TOKEN = (24, 48, 96, 192), 192
DENOISER = {"channels": (32, 64, 96), "attention_levels": (False, False, True), "norm_num_groups": 16, "num_head_channels": 32}
FEATURES, TIMES, SURE, ROUNDS = 16, 1000, 1e-4, 30
Condition: TypeAlias = Literal["sum", "channels", "filtered"]


class TransUNet(nn.Module):
    """Pictures (N, 3, S, S) → logits (N, 1, S, S).

    Args:
        size: S, a multiple of 16.
    """

    def __init__(self, size: int) -> None:
        from monai.networks.blocks.dynunet_block import UnetResBlock, UnetUpBlock
        from monai.networks.nets.vit import ViT

        super().__init__()
        before = (3, *WIDTHS)
        self.encoder = nn.ModuleList(UnetResBlock(2, *pair, 3, 2, "instance") for pair in zip(before, WIDTHS, strict=False))
        self.transformer = ViT(WIDTHS[-1], size // 16, 1, TOKEN, 4 * TOKEN, num_layers=6, num_heads=6, spatial_dims=2)
        self.project = nn.Conv2d(TOKEN, WIDTHS[-1], 1)
        coarse_to_fine = WIDTHS[::-1]
        self.decoder = nn.ModuleList(UnetUpBlock(2, *pair, 3, 2, 2, "instance") for pair in pairwise(coarse_to_fine))
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, pictures_N3SS: Tensor) -> Tensor:
        """The logits."""
        maps: list[Tensor] = []
        x = pictures_N3SS
        for block in self.encoder:
            x = block(x)
            maps.append(x)
        tokens = self.transformer(x)[0]
        x = self.project(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        for block, beside in zip(self.decoder, maps[-2::-1], strict=True):
            x = block(x, beside)
        return F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear", align_corners=False)


class FrequencyFilter(nn.Module):
    """Weighs the frequencies of features (N, C, S, S) by weights that are learnt; does nothing at first."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, size, size // 2 + 1))

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """The features, filtered."""
        return torch.fft.irfft2(torch.fft.rfft2(x_NCSS, norm="ortho") * self.weight, s=x_NCSS.shape[2:], norm="ortho")


class MaskDiffusion(nn.Module):
    """Asked, pictures (N, 3, S, S) → logits (N, 1, S, S) of what most sampled masks say; it learns by `loss`.

    Args:
        size: S.
        condition: how the picture is seen beside the noisy mask.
        staple: whether sampled masks are made one by STAPLE, or by their mean.
        samples: masks of a picture.
        steps: of sampling each.
        seed: of the noise of sampling.
    """

    def __init__(
        self, size: int, condition: Condition, *, staple: bool = False, samples: int = 5, steps: int = 10, seed: int = 0
    ) -> None:
        from monai.networks.blocks.dynunet_block import UnetResBlock
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
        from monai.networks.schedulers.ddim import DDIMScheduler
        from monai.networks.schedulers.ddpm import DDPMScheduler

        super().__init__()
        self.condition, self.staple, self.samples, self.seed = condition, staple, samples, seed
        whole = condition == "channels"
        self.of_picture = nn.Identity() if whole else UnetResBlock(2, 3, FEATURES, 3, 1, "instance")
        self.of_mask = nn.Identity() if whole else nn.Conv2d(1, FEATURES, 3, padding=1)
        self.filter = FrequencyFilter(FEATURES, size) if condition == "filtered" else nn.Identity()
        sizes: dict[str, Any] = DENOISER
        self.denoiser = DiffusionModelUNet(2, 4 if whole else FEATURES, 1, num_res_blocks=1, **sizes)
        self.noising, self.sampling = DDPMScheduler(TIMES), DDIMScheduler(TIMES)
        self.sampling.set_timesteps(steps)

    def loss(self, pictures_N3SS: Tensor, truth_N1SS: Tensor) -> Tensor:
        """Mean squared error of the noise, at a time that is drawn for each picture."""
        noise, times_N = torch.randn(truth_N1SS.shape), torch.randint(TIMES, (len(truth_N1SS),))
        noise, times_N = noise.to(pictures_N3SS.device), times_N.to(pictures_N3SS.device)
        noisy = self.noising.add_noise(2 * truth_N1SS.float() - 1, noise, times_N)
        return F.mse_loss(self._noise(self.filter(self.of_picture(pictures_N3SS)), noisy, times_N), noise)

    def forward(self, pictures_N3SS: Tensor) -> Tensor:
        """The logits."""
        generator = torch.Generator().manual_seed(self.seed)
        likely = torch.stack([self._fused(self._sampled(picture[None], generator)) for picture in pictures_N3SS])
        return torch.logit(likely.to(pictures_N3SS.device), SURE)

    def _noise(self, seen: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        of_mask = self.of_mask(noisy)
        return self.denoiser(torch.cat([seen, of_mask], dim=1) if self.condition == "channels" else seen + of_mask, times)

    def _sampled(self, picture_13SS: Tensor, generator: torch.Generator) -> Tensor:
        """Masks (R, 1, S, S) of a picture, in [0, 1]."""
        seen = self.filter(self.of_picture(picture_13SS)).expand(self.samples, -1, -1, -1)
        masks = torch.randn(self.samples, 1, *picture_13SS.shape[2:], generator=generator).to(picture_13SS.device)
        for time in self.sampling.timesteps:
            noise = self._noise(seen, masks, time.expand(self.samples).to(masks.device))
            masks = self.sampling.step(noise, int(time), masks)[0]
        return (masks.clamp(-1, 1) + 1) / 2

    def _fused(self, masks_R1SS: Tensor) -> Tensor:
        if not self.staple:
            return masks_R1SS.mean(dim=0)
        return torch.from_numpy(fuse_by_staple((masks_R1SS[:, 0] > 0.5).cpu().numpy())).float()[None]


def fuse_by_staple(masks_RSS: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The probability (S, S) of what several masks show, each weighed by how it agrees with all."""
    said_RP = masks_RSS.reshape(len(masks_RSS), -1).astype(np.float64)
    prior = logit(said_RP.mean().clip(SURE, 1 - SURE))
    likely_P = said_RP.mean(axis=0)
    for _ in range(ROUNDS):
        hits_R1 = _share(said_RP, likely_P)
        passes_R1 = _share(1 - said_RP, 1 - likely_P)
        told_RP = said_RP * np.log(hits_R1 / (1 - passes_R1)) + (1 - said_RP) * np.log((1 - hits_R1) / passes_R1)
        likely_P = expit(prior + told_RP.sum(axis=0))
    return likely_P.reshape(masks_RSS.shape[1:])


def _share(said_RP: NDArray[np.float64], likely_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of what is likely each mask says (R, 1), away from never and always."""
    return ((said_RP @ likely_P) / max(likely_P.sum(), SURE)).clip(SURE, 1 - SURE)[:, None]


@dataclass(frozen=True)
class SupportSet:
    """The prompted frames are the support set; every other frame is a target."""

    # (target (1, 1, S, S) in [0, 1], pictures (1, K, 1, S, S), outlines (1, K, 1, S, S)) → logits (1, 1, S, S)
    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    size: int = 128  # S
    most: int = 16  # K, at most; of more prompted frames, those at equal steps

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Slice by slice."""
        slices = list(task.window(prompts).apply(task.slices_thw))
        return self._found(slices, outline_prompted(inputs, slices, prompts))

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Image by image."""
        pictures = [percentile_window(image).apply(image) for image in images]
        return self._found(pictures, outline_prompted(inputs, images, prompts))

    @torch.inference_mode()
    def _found(self, pictures: Sequence[NDArray[np.float32]], outlines: dict[int, MaskArray]) -> MethodAnswer:
        support = [list(outlines)[i] for i in np.unique(np.linspace(0, len(outlines) - 1, self.most).round().astype(int))]
        seen_1K1SS = torch.stack([self._plane(pictures[t]) for t in support])[None]
        drawn_1K1SS = torch.stack([self._plane(outlines[t].astype(np.float32)) for t in support])[None].round()
        masks: list[MaskArray] = []
        for t, picture in enumerate(pictures):
            if t in outlines:
                masks.append(outlines[t])
                continue
            logits = self.network(self._plane(picture)[None], seen_1K1SS, drawn_1K1SS)
            whole = F.interpolate(logits.float(), size=picture.shape[:2], mode="bilinear", align_corners=False)
            masks.append((whole[0, 0] > 0).cpu().numpy())
        return MethodAnswer(masks)

    def _plane(self, picture: NDArray[np.float32]) -> Tensor:
        return to_input(picture, self.size).mean(dim=0, keepdim=True)


WITHOUT = 0.3  # of the pictures in a batch are drawn from all, the others from those that show the structure
TURN, SCALE = 0.26, 0.2  # radians; share of the size: augmentation, uniform up to so much either way


@dataclass(frozen=True)
class Tailored:
    """One architecture, trained when it is first asked about a structure."""

    # a name of `_find_architecture`, or a builder of a network that takes (N, 3, S, S) and gives logits (N, 1, S, S); with a
    # method `loss` (pictures (N, 3, S, S), truth (N, 1, S, S)) it learns by that, else by Dice and cross entropy
    architecture: str | Callable[[int], nn.Module]
    steps: int = 400  # of training
    batch: int = 8  # pictures in a step
    size: int = 128  # S; a multiple of 32
    rate: float = 1e-3  # of AdamW, falling to 0 as a cosine
    seed: int = 0  # of weights, batches and augmentation

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Slice by slice."""
        slices = choose_window(task.volume).apply(task.slices_thw)
        return MethodAnswer(self._answers(inputs, list(slices), prompts))

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Image by image."""
        return MethodAnswer(self._answers(inputs, [percentile_window(image).apply(image) for image in images], prompts))

    @torch.inference_mode()
    def _answers(self, inputs: MethodInputs, pictures: Sequence[NDArray[np.float32]], prompts: FramePrompts) -> list[MaskArray]:
        network, masks = self._network(inputs), list[MaskArray]()
        for t, picture in enumerate(pictures):
            drawn = prompts[t].mask_hw if t in prompts else None
            if drawn is None:
                logits = network(to_input(picture, self.size)[None].to(inputs.segmenter.device))
                whole = F.interpolate(logits.float(), size=picture.shape[:2], mode="bilinear", align_corners=False)
                drawn = (whole[0, 0] > 0).cpu().numpy()
            masks.append(drawn)
        return masks

    def _network(self, inputs: MethodInputs) -> nn.Module:
        if inputs.training is None or not inputs.training.cases:
            raise PromptError("no other case is there to train on", "measure fewer cases of the data set")
        with torch.inference_mode(mode=False):
            return _train_network(self, inputs.training, inputs.segmenter.device)


@lru_cache(maxsize=4)
def _train_network(how: Tailored, training: TrainingCases, device: torch.device) -> nn.Module:
    pictures_N3SS, masks_N1SS = _load_examples(training, how.size)
    shows = masks_N1SS.any(dim=(1, 2, 3)).nonzero()[:, 0]
    if not len(shows):
        raise PromptError("no case to train on shows the structure", "leave it out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        build = how.architecture if callable(how.architecture) else _find_architecture(how.architecture)
        network = build(how.size).to(device).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=how.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.steps)
        for chosen_N in _draw_batches(len(masks_N1SS), shows, how):
            seen_N3SS, truth_N1SS = _augment(pictures_N3SS[chosen_N], masks_N1SS[chosen_N])
            loss = _measure_loss(network, seen_N3SS.to(device), truth_N1SS.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _measure_loss(network: nn.Module, seen_N3SS: Tensor, truth_N1SS: Tensor) -> Tensor:
    own: Callable[[Tensor, Tensor], Tensor] | None = getattr(network, "loss", None)
    return own(seen_N3SS, truth_N1SS) if own else dice_and_entropy(network(seen_N3SS), truth_N1SS)


def dice_and_entropy(logits_N1SS: Tensor, truth_N1SS: Tensor) -> Tensor:
    """One minus soft Dice of the batch, plus binary cross entropy."""
    likely, truth = logits_N1SS.float().sigmoid(), truth_N1SS.float()
    overlap = (2 * (likely * truth).sum() + 1) / (likely.sum() + truth.sum() + 1)
    return 1 - overlap + F.binary_cross_entropy_with_logits(logits_N1SS.float(), truth)


def _draw_batches(count: int, shows: Tensor, how: Tailored) -> Iterator[Tensor]:
    for _ in range(how.steps):
        with_it = shows[torch.randint(len(shows), (how.batch,))]
        yield torch.where(torch.rand(how.batch) < WITHOUT, torch.randint(count, (how.batch,)), with_it)


def _augment(pictures_N3SS: Tensor, masks_N1SS: Tensor) -> tuple[Tensor, Tensor]:
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


def _load_examples(training: TrainingCases, size: int) -> tuple[Tensor, Tensor]:
    data = read_data_set(training.folder)
    pictures: list[Tensor] = []
    masks: list[Tensor] = []
    for case in (case for case in data.cases if case.identifier in training.cases):
        loaded = data.load(case)
        if loaded.labels is None:
            continue
        image, truth = loaded.images[0], data.mask(loaded.labels, training.structure)
        if isinstance(image, Volume):
            view = primary_view(image, [Point((0, 0, 0))])
            shown = list(choose_window(image).apply(view.apply(image.array, image.orientation)))
            truths = list(view.apply(truth, image.orientation))
        else:
            shown, truths = [percentile_window(image.array).apply(image.array)], [truth]
        pictures += [to_input(picture, size) for picture in shown]
        masks += [to_input(one.astype(np.float32), size)[:1] >= 0.5 for one in truths]
    return torch.stack(pictures), torch.stack(masks)


def _find_architecture(name: str) -> Callable[[int], nn.Module]:
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
        "TransUNet": TransUNet,
        "SegDiff": lambda size: MaskDiffusion(size, "sum"),
        "EnsDiff": lambda size: MaskDiffusion(size, "channels"),
        "MedSegDiff": lambda size: MaskDiffusion(size, "filtered", staple=True),
    }
    if name not in builders:
        raise ConfigError(f"unknown architecture {name!r}", f"valid are {', '.join(builders)}")
    return cast("Callable[[int], nn.Module]", builders[name])
