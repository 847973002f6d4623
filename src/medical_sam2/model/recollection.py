"""Memories as tokens: what memory attention is given of what B objects remember, padded to the same number for each.

Shapes: B objects, M memories, C channels, h w feature map, D channels of a key.
"""

from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.models.sam2_video import modeling_sam2_video as modules

from medical_sam2.model.backbone import Recalled


def maps(network: Any, recall: Sequence[Sequence[Recalled]], tokens: int) -> tuple[Tensor, Tensor]:
    """Memory maps as tokens (B, M·hw, 64), and their log-weights."""
    some = next(r.memory.map_Chw for memories in recall for r in memories)
    most, like = max(len(memories) for memories in recall), network.no_memory_embedding
    features = like.new_zeros(len(recall), most, tokens, len(some))
    bias = like.new_full((len(recall), most), -torch.inf)
    for b, memories in enumerate(recall):
        if memories:
            rows = torch.stack([r.memory.map_Chw for r in memories])
            features[b, : len(memories)] = rows.to(like.dtype).flatten(2).transpose(1, 2)
            bias[b, : len(memories)] = torch.tensor([r.log_weight for r in memories])
    return features.flatten(1, 2), bias.repeat_interleave(tokens, 1)


def places(network: Any, recall: Sequence[Sequence[Recalled]], position_KM: Tensor) -> Tensor:
    """Encoding of where and when the tokens of the maps lie (B, M·hw, 64)."""
    most, blank, found = max(len(memories) for memories in recall), torch.zeros_like(position_KM), list[Tensor]()
    for memories in recall:
        encodings = [position_KM if r.place is None else position_KM + time(network, r.place) for r in memories]
        found.append(torch.cat([*encodings, *[blank] * (most - len(encodings))]))
    return torch.stack(found)


def pointers(network: Any, recall: Sequence[Sequence[Recalled]]) -> tuple[Tensor, Tensor, Tensor]:
    """Object pointers as tokens of the memory's width, each pointer cut in pieces."""
    depth, width = network.config.memory_encoder_output_channels, network.no_memory_embedding.shape[-1]
    pieces, most = width // depth, max(len(memories) for memories in recall)
    like = network.no_memory_embedding
    features, places, bias = [], [], like.new_full((len(recall), most), -torch.inf)
    blank = like.new_zeros(1, depth)
    elapsed = _elapsed(network, {r.elapsed for memories in recall for r in memories})
    for b, memories in enumerate(recall):
        rows = [r.memory.pointer_C.to(like.dtype).view(pieces, depth) for r in memories]
        features.append(torch.cat([*rows, *[blank] * (pieces * (most - len(rows)))]) if most else like.new_zeros(0, depth))
        times = [elapsed[r.elapsed] for r in memories] + [blank] * (most - len(rows))
        places.append(torch.cat(times) if most else like.new_zeros(0, depth))
        bias[b, : len(memories)] = torch.tensor([r.log_weight for r in memories])
    encoding = torch.stack(places).repeat_interleave(pieces, 1)
    return torch.stack(features), encoding, bias.repeat_interleave(pieces, 1)


def time(network: Any, place: int) -> Tensor:
    """Encoding (1, 64) of how long ago a memory is."""
    return network.memory_temporal_positional_encoding[place - 1].view(1, -1)


def position(network: Any, height: int, width: int) -> Tensor:
    """Encoding (hw, 64) of where the tokens of any map lie."""
    like = network.no_memory_embedding
    return sine(network.config.memory_encoder_output_channels, height, width, like.device, like.dtype).flatten(1).T


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # else who asks under it first makes a tensor that no gradient may pass
def sine(channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """SAM 2's encoding (C, h, w) of places, one tensor for all who ask."""
    encoding = modules.Sam2VideoPositionEmbeddingSine(num_position_features=channels // 2, normalize=True)
    return encoding(torch.Size((1, channels, height, width)), device, dtype)[0]


def _elapsed(network: Any, shares: Set[float | None]) -> dict[float | None, Tensor]:
    """The encoding (1, C) of each share of the longest time; all objects' in one product."""
    width, depth = network.no_memory_embedding.shape[-1], network.config.memory_encoder_output_channels
    blank: Tensor = network.no_memory_embedding.new_zeros(1, depth)
    known = [share for share in shares if share is not None]
    if not known or not network.config.enable_temporal_pos_encoding_for_object_pointers:
        return dict.fromkeys(shares, blank)
    sines = modules.get_1d_sine_pe(torch.tensor(known, device=network.device), width)
    encoded: Tensor = network.temporal_positional_encoding_projection_layer(sines)
    found: dict[float | None, Tensor] = {None: blank}
    found.update(zip(known, encoded.split(1), strict=True))
    return found
