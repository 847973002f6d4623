"""Memory attention as one function over the weights of a `Sam2VideoMemoryAttention` module.

Beside the module's own forward it takes a log-weight per key: a memory that counts c times is attended to once with
log c added to its score, which is exact; padding of ragged memories is a log-weight of −inf. Values have the rank of the
memory (64), so the softmax is applied to the memory itself and projected afterwards: softmax(QKᵀ)V = (softmax(QKᵀ)m)Wᵀ + b.

Shapes: B objects, L tokens of a frame, K tokens of memory, C channels, M channels of memory, D channels of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CHUNK = 256  # queries at a time: their scores stay in cache


def attend(module: Any, frame_BLC: Tensor, memory_BKM: Tensor, place_BKM: Tensor, bias_BK: Tensor, pointers: int) -> Tensor:
    """A frame in the light of its memories.

    Args:
        module: `Sam2VideoMemoryAttention` (its weights are used, its forward is not).
        frame_BLC: tokens of the frame with their position already added; B may be 1 where objects share the frame, and
            is shared then as far as it can be: through the first block's self-attention.
        memory_BKM: tokens of the memories, those of object pointers last.
        place_BKM: positional and temporal encoding of the memories' tokens.
        bias_BK: log-weight of each memory token, −inf where there is none.
        pointers: how many of the last tokens are object pointers, which have no place in the image.
    """
    rotation = _rotation(module, frame_BLC)
    for layer in module.layers:
        frame_BLC = frame_BLC + _self_attention(layer.self_attn, layer.layer_norm1(frame_BLC), rotation)
        query_BLC = layer.layer_norm2(frame_BLC)
        frame_BLC = frame_BLC + _cross_attention(
            layer.cross_attn_image, query_BLC, memory_BKM, place_BKM, bias_BK, rotation=rotation, pointers=pointers
        )
        frame_BLC = frame_BLC + layer.linear2(layer.activation(layer.linear1(layer.layer_norm3(frame_BLC))))
    return module.layer_norm(frame_BLC)


def _rotation(module: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = module.rotary_emb(like, module.position_ids)
    return cos[0], sin[0]


def _rotate(x_BLD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position encoding of pairs of channels (RoPE, axial in two dimensions)."""
    cos, sin = (part.to(x_BLD.dtype) for part in rotation)
    even, odd = x_BLD.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), -1).flatten(-2)
    return torch.addcmul(x_BLD * cos, turned, sin)


def _self_attention(weights: Any, x_BLC: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    query, key, value = weights.q_proj(x_BLC), weights.k_proj(x_BLC), weights.v_proj(x_BLC)
    query, key = _rotate(query, rotation), _rotate(key, rotation)
    query, key, value = (part[:, None] for part in (query, key, value))  # torch's fused kernel wants a dimension for heads
    return weights.o_proj(F.scaled_dot_product_attention(query, key, value, scale=weights.scaling)[:, 0])


def _cross_attention(
    weights: Any,
    query_BLC: Tensor,
    memory_BKM: Tensor,
    place_BKM: Tensor,
    bias_BK: Tensor,
    *,
    rotation: tuple[Tensor, Tensor],
    pointers: int,
) -> Tensor:
    query = _rotate(weights.q_proj(query_BLC), rotation) * weights.scaling
    key = weights.k_proj(memory_BKM + place_BKM)
    maps = key.shape[1] - pointers
    placed = key[:, :maps].unflatten(1, (-1, query.shape[1]))
    key = torch.cat([_rotate(placed, rotation).flatten(1, 2), key[:, maps:]], 1)
    if query.shape[0] == 1 and key.shape[0] > 1:
        query = query.expand(key.shape[0], -1, -1)
    key_transposed, bias = key.transpose(1, 2), bias_BK[:, None]
    read = []
    for part in query.split(CHUNK, dim=1):
        score = torch.baddbmm(bias, part, key_transposed)
        read.append(torch.bmm(score.softmax(-1), memory_BKM))
    return weights.o_proj(weights.v_proj(torch.cat(read, 1)))
