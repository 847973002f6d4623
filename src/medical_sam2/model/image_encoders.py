"""Image encoders: Hiera, SAM 2's own, with its neck; and a small convolutional one. Both make maps of stride 4, 8 and 16.

*Hiera* gives the numbers of the official code with less work. What a window has beyond the border is zeros, which are all the
same key and value: one of them is attended to, with the logarithm of their number added to its score, which is exact. Position
encodings that nobody reads are not made, and those that are read are stretched rows first, then columns. What goes into a
linear layer lies together in memory, as torch else repeats the weights. After Ryali et al., *Hiera* (arXiv 2306.00989), and
Bolya et al., *Window attention is bugged* (arXiv 2311.05613).

A few weights may be trained beside the frozen encoder, as two of the compared methods do. LoRA as in SAMed (Zhang and Liu 2023,
arXiv 2304.13785): updates of low rank to queries and values of its attention. They are merged into the weights afterwards: what
is written is a plain checkpoint. Adapters as in the Medical SAM Adapter, MSA (Wu et al. 2023, arXiv 2304.12620): small layers
after each attention and beside each feed-forward part. They cannot be merged; they are written with the weights, and found by
their names. In both the mask decoder is trained too, and nothing else: prompt encoder and memory stay, as these methods have no
memory.

*ConvPyramid*: Hiera learns slowly from scratch; residual convolutions with group normalisation learn more per hour and do not
depend on the statistics of a batch, so training and use see the same function.

Shapes: N frames, C channels, H W frame, h w feature map, V windows of a × b pixels, G heads, D channels of a head, L queries, K
keys.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from medical_sam2.errors import ConfigError
from medical_sam2.model.memory_attention import attend_heads, versions
from medical_sam2.model.modules import FINE_NORM, FeedForward, HieraSizes, gelu

if TYPE_CHECKING:
    from medical_sam2.model.sam2 import Sam2

SPREAD = 0.02  # of weights at first
ADAPTED = 0.5  # share of what an adapter beside a feed-forward part adds
GROUPS = 8
DECODER, INSERTED = "mask_decoder.", ("parametrizations.weight.0.", "_adapter.")
Insertion: TypeAlias = Literal["none", "lora", "adapter"]


class HieraEncoder(nn.Module):
    """The image encoder: a trunk of four stages, and a neck.

    Args:
        neck: channels of the maps that go out.
    """

    def __init__(self, sizes: HieraSizes, neck: int) -> None:
        super().__init__()
        self.backbone = HieraTrunk(sizes)
        self.neck = HieraNeck(sizes, neck)

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (N, C, h, w) of stride 4, 8 and 16."""
        return self.neck(self.backbone(frames_N3HW))


class HieraNeck(nn.Module):
    """The stages as maps of equal width; the deepest one is handed down to that above it."""

    def __init__(self, sizes: HieraSizes, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in reversed(sizes.widths))
        _draw_weights(self)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The three finest maps, finest first."""
        first, second, top, deepest = (conv(stage) for conv, stage in zip(reversed(self.convs), stages, strict=True))
        handed = F.interpolate(deepest.float(), scale_factor=2.0, mode="nearest")
        return first, second, top + handed.to(top.dtype)


class HieraTrunk(nn.Module):
    """Blocks of attention within windows, wider and coarser from stage to stage."""

    def __init__(self, sizes: HieraSizes) -> None:
        super().__init__()
        first, window = sizes.widths[0], sizes.attention.windows[0]
        self.pos_embed = nn.Parameter(torch.zeros(1, first, *sizes.places))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, first, window, window))
        self.patch_embed = nn.ModuleDict({"projection": nn.Conv2d(3, first, 7, stride=4, padding=3)})
        self.blocks, self.ends = nn.ModuleList(), [end - 1 for end in accumulate(sizes.blocks)]
        before = [(first, window), *zip(sizes.widths, sizes.attention.windows, strict=True)]  # which a first block takes over
        for stage, (width, side) in enumerate(before[1:]):
            for number in range(sizes.blocks[stage]):
                channels, own = (width, side) if number else before[stage]
                own = 0 if len(self.blocks) in sizes.attention.everywhere else own
                stride = 1 if number or not stage else 2
                self.blocks.append(HieraBlock(channels, width, sizes.attention.heads << stage, own, stride))
        _draw_weights(self)
        if sizes.adapters:
            add_adapters(self, sizes.adapters)

    def forward(self, frames_N3HW: Tensor) -> list[Tensor]:
        """What each stage makes (N, C, h, w), finest first."""
        x_NhwC = self.patch_embed["projection"](frames_N3HW).permute(0, 2, 3, 1)
        x_NhwC = x_NhwC + _kept_places(self, x_NhwC.shape[1], x_NhwC.shape[2])
        stages: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x_NhwC = block(x_NhwC)
            if number in self.ends:
                stages.append(x_NhwC.permute(0, 3, 1, 2))
        return stages


class HieraBlock(nn.Module):
    """Attention and a feed-forward part; the first block of a stage makes the map wider and coarser.

    Args:
        before: channels of what comes in.
        width: channels of what goes out.
        side: of the windows in pixels; 0 for attention in the whole image.
        stride: pixels of a side that become one.
    """

    def __init__(self, before: int, width: int, heads: int, side: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.layer_norm1 = nn.LayerNorm(before, eps=FINE_NORM)
        self.attn = WindowAttention(before, width, heads, side, stride)
        self.layer_norm2 = nn.LayerNorm(width, eps=FINE_NORM)
        self.mlp = FeedForward(width, 4 * width, width, 2, gelu)
        self.proj = nn.Linear(before, width) if before != width else None
        self.attn_adapter: FeedForward | None = None
        self.mlp_adapter: FeedForward | None = None

    def forward(self, x_NhwC: Tensor) -> Tensor:
        """The map, after the block."""
        normed = self.layer_norm1(x_NhwC)
        if self.proj is not None:
            x_NhwC = _pooled(self.proj(normed), self.stride)
        read = self.attn(normed)
        x_NhwC = x_NhwC + (read if self.attn_adapter is None else read + self.attn_adapter(read))
        normed = self.layer_norm2(x_NhwC)
        if self.mlp_adapter is not None:
            x_NhwC = x_NhwC + ADAPTED * self.mlp_adapter(normed)
        return x_NhwC + self.mlp(normed)


class WindowAttention(nn.Module):
    """Attention within windows; queries may be pooled. Arguments as of `HieraBlock`."""

    def __init__(self, before: int, width: int, heads: int, side: int, stride: int) -> None:
        super().__init__()
        self.heads, self.side, self.stride, self.scale = heads, side, stride, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(before, 3 * width), nn.Linear(width, width)

    def forward(self, x_NhwC: Tensor) -> Tensor:
        """What each pixel reads."""
        high, wide = (self.side, self.side) if self.side else x_NhwC.shape[1:3]
        bands = [
            _joined([self._windowed(part, high, wide) for part in _cut(band, 2, wide)], 2) for band in _cut(x_NhwC, 1, high)
        ]
        return self.proj(_joined(bands, 1).contiguous())

    def _windowed(self, x_NhwC: Tensor, side_h: int, side_w: int) -> Tensor:
        """What the windows of a part read, each beginning in the part; all of them have as much of it as the first."""
        count, height, width, _ = x_NhwC.shape
        high, wide = min(side_h, height), min(side_w, width)
        beyond = side_h * side_w - high * wide
        x_VKC = _windows(x_NhwC, high, wide).flatten(1, 2)
        x_VKC = F.pad(x_VKC, (0, 0, 0, 1)) if beyond else x_VKC.contiguous()
        query, key, value = self.qkv(x_VKC).chunk(3, dim=-1)
        query = _pooled(query[:, : high * wide].unflatten(1, (high, wide)), self.stride).flatten(1, 2)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        read_VLC = attend_heads(query, key, value, self.scale, _counted(key, beyond)).transpose(1, 2).flatten(2)
        image = read_VLC.unflatten(1, (high // self.stride, wide // self.stride))
        image = image.unflatten(0, (count, height // high, width // wide))
        return image.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def add_adapters(encoder: nn.Module, middle: int) -> None:
    """Adapters after the attention and beside the feed-forward part of each block, which do nothing before they are trained.

    Args:
        middle: their channels.
    """
    for block in encoder.modules():
        if isinstance(block, HieraBlock):
            width = block.mlp.proj_out.out_features
            block.attn_adapter, block.mlp_adapter = (FeedForward(width, middle, width, 2, gelu) for _ in range(2))
            for adapter in (block.attn_adapter, block.mlp_adapter):
                _draw_weights(adapter)
                nn.init.zeros_(adapter.proj_out.weight)


class LowRankUpdate(nn.Module):
    """Adds an update of low rank to the queries and values of a weight (3 W, C); none before it is trained."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(2, rank, columns))
        self.up = nn.Parameter(torch.zeros(2, rows // 3, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight after the update."""
        query, value = self.up @ self.down
        return weight + torch.cat([query, torch.zeros_like(query), value])


def insert_trainable(network: "Sam2", kind: Insertion, rank: int) -> None:
    """Insert what is trained, and freeze the rest of the network but its mask decoder; nothing where it is "none".

    Args:
        rank: of the updates, or channels in the middle of the adapters.

    Raises:
        ConfigError: the image encoder has no attention, or adapters of another width.
    """
    if kind == "none":
        return
    if network.config.hiera is None:
        problem = "the image encoder of these weights has no attention to add to"
        raise ConfigError(problem, "start from weights of a SAM 2 network", subject="adapter")
    if kind == "lora":
        _add_updates(network, rank)
    else:
        _add_adapters(network, rank)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(DECODER) or any(part in name for part in INSERTED))


def _add_updates(network: "Sam2", rank: int) -> None:
    for part in network.vision_encoder.modules():
        if isinstance(part, WindowAttention):
            parametrize.register_parametrization(part.qkv, "weight", LowRankUpdate(part.qkv.weight, rank))


def _add_adapters(network: "Sam2", rank: int) -> None:
    sizes = network.config.hiera
    if sizes is None or sizes.adapters == rank:
        return  # those that it has are trained on
    if sizes.adapters:
        problem = f"the adapters of these weights have {sizes.adapters} channels, not {rank}"
        raise ConfigError(problem, "give their number", subject="rank")
    add_adapters(network.vision_encoder, rank)
    network.config = replace(network.config, hiera=replace(sizes, adapters=rank))


def merge_updates(network: "Sam2") -> None:
    """Put updates of low rank into the weights: the network is a plain one again, with the same answers."""
    for part in list(network.vision_encoder.modules()):
        if isinstance(part, WindowAttention) and parametrize.is_parametrized(part.qkv):
            parametrize.remove_parametrizations(part.qkv, "weight", leave_parametrized=True)


def _draw_weights(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=SPREAD)
            nn.init.zeros_(layer.bias)


KEPT: WeakKeyDictionary[HieraTrunk, tuple[object, list[Tensor], Tensor]] = WeakKeyDictionary()
"""What is added for places, by encoder, with what it follows from."""


def _kept_places(trunk: HieraTrunk, height: int, width: int) -> Tensor:
    """`_places`, made once for weights and size where no gradients are needed."""
    if torch.is_grad_enabled():
        return _places(trunk, height, width)
    weights = [trunk.pos_embed, trunk.pos_embed_window]
    stamp, kept = (height, width, versions(weights)), KEPT.get(trunk)
    if kept is None or kept[0] != stamp:
        held = [weight.detach() for weight in weights]  # so that no other weight gets their address
        with torch.autocast(trunk.pos_embed.device.type, enabled=False):
            kept = KEPT[trunk] = stamp, held, _places(trunk, height, width)
    return kept[2]


def _places(trunk: HieraTrunk, height: int, width: int) -> Tensor:
    """What is added for the place of a pixel: one part for its place in the image, one for that in its window."""
    window, coarse = trunk.pos_embed_window, trunk.pos_embed
    image = _stretched(coarse.shape[2], height, coarse) @ coarse @ _stretched(coarse.shape[3], width, coarse).T
    tiled = window.tile((1, 1, height // window.shape[2], width // window.shape[3]))
    return (image + tiled).permute(0, 2, 3, 1)


def _stretched(few: int, many: int, like: Tensor) -> Tensor:
    """Weights (many, few) of bicubic interpolation along one direction."""
    unit = torch.eye(few, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None, None], size=(many, few), mode="bicubic")[0, 0]


def _cut(x_NhwC: Tensor, direction: int, side: int) -> list[Tensor]:
    """What whole windows cover, and the rest, if there is any."""
    length = x_NhwC.shape[direction]
    whole = length - length % side
    return [part for part in x_NhwC.split([whole, length - whole], direction) if part.shape[direction]]


def _joined(parts: list[Tensor], direction: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, direction)


def _counted(key_VGKD: Tensor, beyond: int) -> Tensor | None:
    """Added to the scores of each key: the last one counts for all pixels beyond the border."""
    if not beyond:
        return None
    bias_K = key_VGKD.new_zeros(key_VGKD.shape[2])
    bias_K[-1] = math.log(beyond)
    return bias_K


def _windows(x_NhwC: Tensor, side_h: int, side_w: int) -> Tensor:
    """(V, a, b, C): the image cut into windows."""
    return x_NhwC.unflatten(2, (-1, side_w)).unflatten(1, (-1, side_h)).transpose(2, 3).flatten(0, 2)


def _pooled(x_NhwC: Tensor, stride: int) -> Tensor:
    """The largest of each stride × stride pixels."""
    if stride == 1:
        return x_NhwC
    return F.max_pool2d(x_NhwC.permute(0, 3, 1, 2), stride, stride).permute(0, 2, 3, 1)


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
