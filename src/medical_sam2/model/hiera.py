"""The forward pass of Hiera, SAM 2's image encoder, over the weights of transformers' module: the same numbers, less work.

What a window has beyond the border is zeros, which are all the same key and value: one of them is attended to, with the
logarithm of their number added to its score, which is exact. Position encodings that nobody reads are not made, and those
that are read are stretched rows first, then columns. What goes into a linear layer lies together in memory, as torch else
repeats the weights.

Shapes: N frames, C channels, H W frame, h w feature map, V windows of a × b pixels, G heads, D channels of a head, L queries,
K keys.
"""

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.sam2 import modeling_sam2 as modules

from medical_sam2.model.memory_attention import attend_heads, versions

KEPT: WeakKeyDictionary[modules.Sam2HieraDetModel, tuple[object, list[Tensor], Tensor]] = WeakKeyDictionary()
"""What is added for places, by encoder, with what it follows from."""


def encode_hiera(encoder: modules.Sam2VisionModel, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (N, C, h, w) of stride 4, 8 and 16 of a `Sam2VisionModel`."""
    trunk: Any = encoder.backbone
    x_NhwC = trunk.patch_embed(frames_N3HW)
    x_NhwC = x_NhwC + _kept_places(trunk, x_NhwC.shape[1], x_NhwC.shape[2])
    stages: list[Tensor] = []
    for number, block in enumerate(trunk.blocks):
        x_NhwC = _block(block, x_NhwC)
        if number in trunk.stage_ends:
            stages.append(x_NhwC.permute(0, 3, 1, 2))
    first, second, top, *_ = _pyramid(encoder.neck, stages)
    return first, second, top


def _kept_places(trunk: modules.Sam2HieraDetModel, height: int, width: int) -> Tensor:
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


def _places(trunk: modules.Sam2HieraDetModel, height: int, width: int) -> Tensor:
    """What is added for the place of a pixel: one part for its place in the image, one for that in its window."""
    window, coarse = trunk.pos_embed_window, trunk.pos_embed
    image = _stretched(coarse.shape[2], height, coarse) @ coarse @ _stretched(coarse.shape[3], width, coarse).T
    tiled = window.tile((1, 1, height // window.shape[2], width // window.shape[3]))
    return (image + tiled).permute(0, 2, 3, 1)


def _stretched(few: int, many: int, like: Tensor) -> Tensor:
    """Weights (many, few) of bicubic interpolation along one direction."""
    unit = torch.eye(few, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None, None], size=(many, few), mode="bicubic")[0, 0]


def _block(block: modules.Sam2MultiScaleBlock, x_NhwC: Tensor) -> Tensor:
    normed = block.layer_norm1(x_NhwC)
    if block.dim != block.dim_out:
        x_NhwC = _pooled(block.proj(normed), _stride(block.query_stride))
    x_NhwC = x_NhwC + _attention(block.attn, normed, block.window_size)
    return x_NhwC + block.mlp(block.layer_norm2(x_NhwC))


def _attention(weights: modules.Sam2MultiScaleAttention, x_NhwC: Tensor, side: int) -> Tensor:
    """Attention within windows of `side` pixels, within the whole image where it is 0; queries may be pooled."""
    high, wide = (side, side) if side else x_NhwC.shape[1:3]
    bands = [
        _joined([_windowed(weights, part, high, wide) for part in _cut(band, 2, wide)], 2) for band in _cut(x_NhwC, 1, high)
    ]
    return weights.proj(_joined(bands, 1).contiguous())


def _cut(x_NhwC: Tensor, direction: int, side: int) -> list[Tensor]:
    """What whole windows cover, and the rest, if there is any."""
    length = x_NhwC.shape[direction]
    whole = length - length % side
    return [part for part in x_NhwC.split([whole, length - whole], direction) if part.shape[direction]]


def _joined(parts: list[Tensor], direction: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, direction)


def _windowed(weights: modules.Sam2MultiScaleAttention, x_NhwC: Tensor, side_h: int, side_w: int) -> Tensor:
    """What the windows of a part read, each beginning in the part; all of them have as much of it as the first."""
    count, height, width, _ = x_NhwC.shape
    high, wide, stride = min(side_h, height), min(side_w, width), _stride(weights.query_stride)
    beyond = side_h * side_w - high * wide
    x_VKC = _windows(x_NhwC, high, wide).flatten(1, 2)
    x_VKC = F.pad(x_VKC, (0, 0, 0, 1)) if beyond else x_VKC.contiguous()
    query, key, value = weights.qkv(x_VKC).chunk(3, dim=-1)
    query = _pooled(query[:, : high * wide].unflatten(1, (high, wide)), stride).flatten(1, 2)
    query, key, value = (_heads(part, weights.num_attention_heads) for part in (query, key, value))
    attended_VLC = attend_heads(query, key, value, weights.scale, _counted(key, beyond)).transpose(1, 2).flatten(2)
    image = attended_VLC.unflatten(1, (high // stride, wide // stride)).unflatten(0, (count, height // high, width // wide))
    return image.transpose(2, 3).flatten(3, 4).flatten(1, 2)


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


def _heads(x_VKC: Tensor, heads: int) -> Tensor:
    """(V, G, K, D)."""
    return x_VKC.unflatten(-1, (heads, -1)).transpose(1, 2)


def _stride(query_stride: Any) -> int:
    """Pixels of a side that become one."""
    return int(query_stride[0]) if query_stride else 1


def _pooled(x_NhwC: Tensor, stride: int) -> Tensor:
    """The largest of each stride × stride pixels."""
    if stride == 1:
        return x_NhwC
    return F.max_pool2d(x_NhwC.permute(0, 3, 1, 2), stride, stride).permute(0, 2, 3, 1)


def _pyramid(neck: modules.Sam2VisionNeck, stages: list[Tensor]) -> list[Tensor]:
    """One map for each stage, finest first; the deepest ones are handed down."""
    maps: list[Tensor] = []
    last, handed = len(stages) - 1, set(neck.fpn_top_down_levels or ())
    for level in range(last, -1, -1):
        map_NChw = neck.convs[last - level](stages[level])
        if level in handed and level != last:
            map_NChw = map_NChw + F.interpolate(maps[0].float(), scale_factor=2.0, mode="nearest").to(map_NChw.dtype)
        maps.insert(0, map_NChw)
    return maps
