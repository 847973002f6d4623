"""Memory attention as one function over the weights of a `Sam2VideoMemoryAttention` module.

Beside the module's own forward it takes a log-weight per key: a memory that counts c times is attended to once with
log c added to its score, which is exact; padding of ragged memories is a log-weight of −inf. Values have the rank of the
memory (64), so the softmax is applied to the memory itself and projected afterwards: softmax(QKᵀ)V = (softmax(QKᵀ)m)Wᵀ + b.

Keys of a memory that is always attended to in the same way (whose encoding of time does not change from frame to frame) are
computed once, and live as long as the memory.

Shapes: B objects, L tokens of a frame, K tokens of memory, C channels, M channels of memory, D channels of a head.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Memory, Recalled

CHUNK = 256  # queries at a time: their scores stay in cache
MOST_TOKENS = 1024  # of a memory whose keys are kept: those of larger ones need much room, and little time beside their scores


class KeptKeys:
    """Keys of memories, for each layer, as long as somebody else holds the memory; a copy of a network begins without any."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Memory, tuple[tuple[object, ...], list[Tensor]]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["KeptKeys"], tuple[()]]:
        return KeptKeys, ()

    def of(self, module: Any, recall: Sequence[Sequence[Recalled]], place_BKM: Tensor) -> list[Tensor] | None:
        """Keys (B, K, D) for each layer of the maps that are recalled; None where they would not stay as they are.

        Args:
            module: `Sam2VideoMemoryAttention`.
            recall: for each object the memories whose maps are attended to.
            place_BKM: encoding of their tokens, padded.
        """
        tokens = place_BKM.shape[1] // max(len(memories) for memories in recall)
        steady = all(not r.place for memories in recall for r in memories)
        if torch.is_grad_enabled() or not steady or tokens > MOST_TOKENS:
            return None
        stamp = _stamp(module, tokens)
        wanted = {r.memory: (r, b, m) for b, memories in enumerate(recall) for m, r in enumerate(memories)}
        missing = [each for memory, each in wanted.items() if self._kept.get(memory, (None,))[0] != (stamp, each[0].place)]
        if missing:
            places = torch.stack([place_BKM[b, m * tokens : (m + 1) * tokens] for _, b, m in missing])
            maps = torch.stack([r.memory.map_Chw.flatten(1).T for r, _, _ in missing]).to(places.dtype)
            made = [_map_keys(layer.cross_attn_image, maps + places, _rotation(module, maps)) for layer in module.layers]
            for i, (r, _, _) in enumerate(missing):
                self._kept[r.memory] = (stamp, r.place), [keys[i].clone() for keys in made]
        return [self._layer(number, recall, tokens) for number in range(len(module.layers))]

    def _layer(self, number: int, recall: Sequence[Sequence[Recalled]], tokens: int) -> Tensor:
        """Keys of one layer, padded with zeros."""
        rows = [[self._kept[r.memory][1][number] for r in memories] for memories in recall]
        most, some = max(len(own) for own in rows), next(key for own in rows for key in own)
        blank = [some.new_zeros(tokens, some.shape[1])] if any(len(own) < most for own in rows) else []
        return torch.cat([key for own in rows for key in [*own, *blank * (most - len(own))]]).unflatten(0, (len(rows), -1))


def _stamp(module: Any, tokens: int) -> tuple[object, ...]:
    """What kept keys depend on beside their memory: the weights, where they are, the type, the size of the map."""
    weights = [weight for layer in module.layers for weight in layer.cross_attn_image.k_proj.parameters()]
    kind = weights[0].device.type
    rounded = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights[0].dtype
    return tokens, rounded, versions(weights)


def versions(weights: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """What changes whenever one of the weights does, in place or by another tensor."""
    return tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)


def attend(
    module: Any,
    frame_BLC: Tensor,
    memory_BKM: Tensor,
    place_BKM: Tensor,
    bias_BK: Tensor,
    pointers: int,
    *,
    keys: Sequence[Tensor] | None = None,
) -> Tensor:
    """A frame in the light of its memories.

    Args:
        module: `Sam2VideoMemoryAttention` (its weights are used, its forward is not).
        frame_BLC: tokens of the frame with their position already added; B may be 1 where objects share the frame, and
            is shared then as far as it can be: through the first block's self-attention.
        memory_BKM: tokens of the memories, those of object pointers last.
        place_BKM: positional and temporal encoding of the memories' tokens.
        bias_BK: log-weight of each memory token, −inf where there is none.
        pointers: how many of the last tokens are object pointers, which have no place in the image.
        keys: of all other tokens, for each layer, where they are known already.
    """
    rotation = _rotation(module, frame_BLC)
    maps = memory_BKM.shape[1] - pointers
    told_BKM = memory_BKM + place_BKM if keys is None else memory_BKM[:, maps:] + place_BKM[:, maps:]
    for number, layer in enumerate(module.layers):
        frame_BLC = frame_BLC + _self_attention(layer.self_attn, layer.layer_norm1(frame_BLC), rotation)
        query_BLC = layer.layer_norm2(frame_BLC)
        weights = layer.cross_attn_image
        known = _map_keys(weights, told_BKM[:, :maps], rotation) if keys is None else keys[number]
        key_BKD = torch.cat([known, weights.k_proj(told_BKM[:, told_BKM.shape[1] - pointers :])], 1)
        query_BLD = _rotate(weights.q_proj(query_BLC), rotation) * weights.scaling
        frame_BLC = frame_BLC + weights.o_proj(weights.v_proj(_read(query_BLD, key_BKD, memory_BKM, bias_BK)))
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


def _map_keys(weights: Any, told_BKM: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Keys (B, K, D) of whole maps, each token turned by its place in the frame."""
    key_BKD = weights.k_proj(told_BKM)
    return _rotate(key_BKD.unflatten(1, (-1, rotation[0].shape[0])), rotation).flatten(1, 2)


def _read(query_BLD: Tensor, key_BKD: Tensor, memory_BKM: Tensor, bias_BK: Tensor) -> Tensor:
    """Memory (B, L, M) as it is attended to, before it becomes values."""
    if query_BLD.shape[0] == 1 and key_BKD.shape[0] > 1:
        query_BLD = query_BLD.expand(key_BKD.shape[0], -1, -1)
    key_BDK, bias_B1K = key_BKD.transpose(1, 2), bias_BK[:, None]
    read = [torch.baddbmm(bias_B1K, part, key_BDK).softmax(-1) @ memory_BKM for part in query_BLD.split(CHUNK, dim=1)]
    return torch.cat(read, 1)
