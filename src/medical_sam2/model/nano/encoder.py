"""A small convolutional image encoder with the interface of SAM 2's: maps of stride 4, 8 and 16.

Hiera learns slowly from scratch; residual convolutions with group normalisation learn more per hour and do not depend on
the statistics of a batch, so training and use see the same function.

Shapes: N frames, C channels, H W frame, h w feature map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

GROUPS = 8


class Residual(nn.Module):
    """Two 3×3 convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x_NChw: Tensor) -> Tensor:
        """Same shape in and out."""
        inner = F.relu(self.first_norm(self.first(x_NChw)), inplace=True)
        return F.relu(x_NChw + self.second_norm(self.second(inner)), inplace=True)


def _down(width_in: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, width), nn.ReLU(inplace=True))


class ConvPyramid(nn.Module):
    """Residual stages of stride 2, 4, 8, 16, 32 and a top-down neck.

    Args:
        widths: channels of the stem and of the four stages.
        depths: residual blocks of the four stages.
        neck: channels of the maps that go out.
    """

    def __init__(
        self, widths: Sequence[int] = (24, 32, 64, 160, 256), depths: Sequence[int] = (1, 2, 4, 1), neck: int = 128
    ) -> None:
        super().__init__()
        self.stem = _down(3, widths[0])
        stages = zip(widths, widths[1:], depths, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(_down(before, width), *(Residual(width) for _ in range(depth))) for before, width, depth in stages
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths[1:])

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (N, C, h, w) of stride 4, 8 and 16."""
        _, first, second, top = self.all_maps(frames_N3HW)
        return first, second, top

    def all_maps(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps (N, C, h, w) of stride 2, 4, 8 and 16; the first is the stem's."""
        stem, maps = self.stem(frames_N3HW), []
        x = stem
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        above = self.lateral[-1](maps[-1])
        out: list[Tensor] = []
        for lateral, level in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            above = lateral(level) + F.interpolate(above, size=level.shape[-2:], mode="nearest")
            out.append(above)
        top, second, first = out
        return stem, first, second, top


def initialise_weights(module: nn.Module) -> None:
    """Draw weights as torch does: a standard deviation of 0.02, as transformers have it, leaves mask logits near zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm | nn.GroupNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.3)
