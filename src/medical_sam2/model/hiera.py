"""The forward pass of Hiera, SAM 2's image encoder, over the weights of transformers' module: the same numbers, less work.

A window that reaches over the border is padded behind the projection to queries, keys and values, whose answer to padding is
its bias, and cropped before the projection back; position encodings that nobody reads are not made.

Shapes: N frames, C channels, H W frame, h w feature map, V windows of a × a pixels.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.sam2 import modeling_sam2 as modules


def see(encoder: modules.Sam2VisionModel, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (N, C, h, w) of stride 4, 8 and 16 of a `Sam2VisionModel`."""
    trunk: Any = encoder.backbone
    x_NhwC = trunk.patch_embed(frames_N3HW)
    x_NhwC = x_NhwC + _places(trunk, x_NhwC.shape[1], x_NhwC.shape[2])
    stages: list[Tensor] = []
    for number, block in enumerate(trunk.blocks):
        x_NhwC = _block(block, x_NhwC)
        if number in trunk.stage_ends:
            stages.append(x_NhwC.permute(0, 3, 1, 2))
    first, second, top, *_ = _pyramid(encoder.neck, stages)
    return first, second, top


def _places(trunk: modules.Sam2HieraDetModel, height: int, width: int) -> Tensor:
    """What is added for the place of a pixel: one part for its place in the image, one for that in its window."""
    image, window = F.interpolate(trunk.pos_embed, size=(height, width), mode="bicubic"), trunk.pos_embed_window
    tiled = window.tile((1, 1, height // window.shape[2], width // window.shape[3]))
    return (image + tiled).permute(0, 2, 3, 1)


def _block(block: modules.Sam2MultiScaleBlock, x_NhwC: Tensor) -> Tensor:
    normed = block.layer_norm1(x_NhwC)
    if block.dim != block.dim_out:
        x_NhwC = _pooled(block.proj(normed), _stride(block.query_stride))
    x_NhwC = x_NhwC + _attention(block.attn, normed, block.window_size)
    return x_NhwC + block.mlp(block.layer_norm2(x_NhwC))


def _attention(weights: modules.Sam2MultiScaleAttention, x_NhwC: Tensor, side: int) -> Tensor:
    """Attention within windows of `side` pixels, within the whole image where it is 0; queries are pooled where told."""
    count, height, width, _ = x_NhwC.shape
    side_h, side_w = (side, side) if side else (height, width)
    pad_h, pad_w = -height % side_h, -width % side_w
    if pad_h or pad_w:
        padded = F.pad(F.linear(x_NhwC, weights.qkv.weight), (0, 0, 0, pad_w, 0, pad_h)) + weights.qkv.bias
        mixed_VaaC = _windows(padded, side_h, side_w)
    else:
        mixed_VaaC = weights.qkv(_windows(x_NhwC, side_h, side_w))
    stride, heads = _stride(weights.query_stride), weights.num_attention_heads
    query, key, value = mixed_VaaC.chunk(3, dim=-1)
    query, key, value = _heads(_pooled(query, stride), heads), _heads(key, heads), _heads(value, heads)
    read = F.scaled_dot_product_attention(query, key, value, scale=weights.scale).transpose(1, 2).flatten(2)
    side_h, side_w = side_h // stride, side_w // stride
    grid = (count, (height + pad_h) // stride // side_h, (width + pad_w) // stride // side_w, side_h, side_w)
    image = read.unflatten(1, (side_h, side_w)).reshape(*grid, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return weights.proj(image[:, : height // stride, : width // stride])


def _windows(x_NhwC: Tensor, side_h: int, side_w: int) -> Tensor:
    """(V, a, a, C): the image cut into windows."""
    return x_NhwC.unflatten(2, (-1, side_w)).unflatten(1, (-1, side_h)).transpose(2, 3).flatten(0, 2)


def _heads(x_VaaC: Tensor, heads: int) -> Tensor:
    """(V, heads, a·a, C / heads)."""
    return x_VaaC.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)


def _stride(told: Any) -> int:
    """Pixels of a side that become one."""
    return int(told[0]) if told else 1


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
