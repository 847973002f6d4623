"""Architectures for `trained_networks`, put together from MONAI's parts: TransUNet, and conditional diffusion of masks.

TransUNet (Chen et al. 2021, arXiv 2102.04306): a convolutional encoder, a transformer on its deepest map, and a decoder with
the encoder's maps beside its own. Smaller than the published one (ResNet-50 and ViT-B/16), and not pre-trained.

Diffusion: a network learns to take the noise out of a mask while it sees the picture; asked, it begins with noise, several
times, and the masks are made one. `SegDiff` (Amit et al. 2021, arXiv 2112.00390) adds the picture's features to those of the
noisy mask; `EnsDiff` (Wolleb et al. 2022, arXiv 2112.03145) gives both as channels of one picture; both take the mean of the
masks. `MedSegDiff` (Wu et al. 2022, arXiv 2211.00611) sends the picture's features through a filter in frequency that is learnt
(its FF-Parser), and makes the masks one by STAPLE (Warfield et al. 2004); its attention between the two encodings is left out.
All sample by DDIM in few steps, where the papers take up to a thousand.

Shapes: N pictures, S side of the input, C channels, R masks of one picture.
"""

from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

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
        told = self.of_mask(noisy)
        return self.denoiser(torch.cat([seen, told], dim=1) if self.condition == "channels" else seen + told, times)

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
