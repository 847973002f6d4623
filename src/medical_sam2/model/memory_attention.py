"""Memory attention: its weights, and one function over them.

First the attention, then what it is given: memories as tokens, padded to the same number for each object; at the end fewer
tokens, where that is asked for.

It takes a log-weight per key: a memory that counts c times is attended to once with log c added to its score, which is
exact; padding of ragged memories is a log-weight of −inf. Values have the rank of the
memory (64), so the softmax is applied to the memory itself and projected afterwards: softmax(QKᵀ)V = (softmax(QKᵀ)m)Wᵀ + b.

Projection and rotation are linear, so that the key of a memory at a time is the key of the memory plus that of the time: the
former is computed once and lives as long as the memory, the latter is the same for all objects.

Fewer tokens: a memory says nearly the same in four neighbouring tokens that all lie inside of its object, or all outside. Their
mean counts four times (log 4 is added to its score), so that most of the keys go: of the large maps of SAM 2 at 512 and 1024
pixels that is most of the work. Answers differ a little; it is off unless asked for, and then nothing of it is called.

Shapes: B objects, L tokens of a frame, K tokens of memory, C channels, M channels of memory (memories, in tokens of maps),
D channels of a head; V batches of G heads; h w feature map; P further tokens of pointers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.modules import Attention, Sam2Config, relu

CHUNK = 256  # queries at a time: their scores stay in cache
MOST_TOKENS = 1024  # of a memory whose keys are kept: those of larger ones need much room, and little time beside their scores
INSIDE = "inside"
"""What a memory keeps of its mask for pooling, by this name (1, h, w): the share of each token that is inside the object."""
BORDER = 0.1  # difference of these shares within reach, from which a token lies at the border


class MemoryAttention(nn.Module):
    """The weights of memory attention; what is done with them is `attend`."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.width = config.width
        self.layers = nn.ModuleList(MemoryLayer(config) for _ in range(config.attention_layers))
        self.layer_norm = nn.LayerNorm(config.width)


class MemoryLayer(nn.Module):
    """One layer's: a frame attends to itself, then to memories, with one head, and is fed forward."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        width = config.width
        self.self_attn = Attention(width, width)
        self.cross_attn_image = Attention(width, width, read=config.memory_width)
        self.linear1, self.linear2 = nn.Linear(width, config.attention_hidden), nn.Linear(config.attention_hidden, width)
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(width) for _ in range(3))


class KeptKeys:
    """Keys of memories, for each layer, as long as somebody else holds the memory, and of the times; a copy of a network begins
    without any."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Memory, tuple[object, list[Tensor]]] = WeakKeyDictionary()
        self._times: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._made_by: tuple[object, list[Tensor]] = None, []

    def __reduce__(self) -> tuple[type["KeptKeys"], tuple[()]]:
        return KeptKeys, ()

    def of(
        self,
        module: Any,
        recall: Sequence[Sequence[Recalled]],
        position_KM: Tensor,
        time: Callable[[int], Tensor],
        room: int = 0,
    ) -> Iterator[Tensor] | None:
        """Keys (B, K, D) for each layer of the maps that are recalled, padded; None where none are kept.

        A layer's keys take the place of those of the layer before.

        Args:
            recall: for each object the memories whose maps are attended to.
            position_KM: encoding of where the tokens of any map lie.
            time: place → encoding (1, M) of that time, added to every token.
            room: for so many further keys, behind those of the maps.
        """
        if torch.is_grad_enabled() or len(position_KM) > MOST_TOKENS:
            return None
        rotation, stamp = _rotation(module, len(position_KM), position_KM), self._stamped(module, len(position_KM))
        self._make(module, stamp, {r.memory for memories in recall for r in memories}, position_KM, rotation)
        places = {r.place for memories in recall for r in memories if r.place is not None}
        shifts: dict[int | None, list[Tensor]] = {p: self._shift(module, p, time(p), rotation) for p in places}
        return self._layers(recall, shifts, room)

    def _stamped(self, module: Any, tokens: int) -> object:
        """What keys depend on beside their memory; where it has changed, what times add is forgotten."""
        weights = [weight for layer in module.layers for weight in layer.cross_attn_image.k_proj.parameters()]
        stamp = _stamp(weights, tokens)
        if stamp != self._made_by[0]:
            self._times.clear()
            self._made_by = stamp, [weight.detach() for weight in weights]  # held, so that no other weight gets their address
        return stamp

    def _make(self, module: Any, stamp: object, memories: Set[Memory], position_KM: Tensor, rotation: Tensor) -> None:
        missing = [memory for memory in memories if self._kept.get(memory, (None,))[0] != stamp]
        if missing:
            placed = torch.stack([memory.map_Chw.flatten(1).T for memory in missing]).to(position_KM.dtype) + position_KM
            made = [_map_keys(layer.cross_attn_image, placed, rotation) for layer in module.layers]
            for i, memory in enumerate(missing):
                self._kept[memory] = stamp, [keys[i].clone() for keys in made]

    def _shift(self, module: Any, place: int, time_1M: Tensor, rotation: Tensor) -> list[Tensor]:
        """What a time adds to the keys (L, D) of a memory, for each layer."""
        kept = self._times.get(place)
        if kept is None or not torch.equal(kept[0], time_1M):
            weights = [layer.cross_attn_image.k_proj.weight for layer in module.layers]
            made = [_rotate(F.linear(time_1M, weight).expand(len(rotation), -1), rotation) for weight in weights]
            kept = self._times[place] = time_1M.clone(), made
        return kept[1]

    def _layers(
        self, recall: Sequence[Sequence[Recalled]], shifts: Mapping[int | None, Sequence[Tensor]], room: int
    ) -> Iterator[Tensor]:
        kept = [[self._kept[r.memory][1] for r in memories] for memories in recall]
        layers = next(own for rows in kept for own in rows)
        most, (tokens, depth) = max(len(memories) for memories in recall), layers[0].shape
        keys = layers[0].new_zeros(len(recall), most * tokens + room, depth)
        for number in range(len(layers)):
            for key_KD, memories, rows in zip(keys, recall, kept, strict=True):
                for r, own, place in zip(memories, rows, key_KD.split(tokens), strict=False):
                    if r.place is None:
                        place.copy_(own[number])
                    else:
                        torch.add(own[number], shifts[r.place][number], out=place)
            yield keys


def _stamp(weights: Sequence[Tensor], tokens: int) -> object:
    """The weights, where they are, the type that is computed in, the size of the map."""
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
    keys: Iterator[Tensor] | None = None,
    pooled: "PooledTokens | None" = None,
) -> Tensor:
    """A frame in the light of its memories.

    Args:
        module: the weights, a `MemoryAttention`.
        frame_BLC: tokens of the frame with their position already added; B may be 1 where objects share the frame, and
            is shared then as far as it can be: through the first block's self-attention.
        memory_BKM: tokens of the memories, those of object pointers last.
        place_BKM: positional and temporal encoding of the memories' tokens; of the pointers' alone where keys are given.
        bias_BK: log-weight of each memory token, −inf where there is none.
        pointers: how many of the last tokens are object pointers, which have no place in the image.
        keys: of all other tokens, for each layer, where they are kept already; with room for the pointers', which is filled.
        pooled: which tokens of maps are attended to as means of four, if any are; then no keys are given.
    """
    rotation = of_maps = _rotation(module, frame_BLC.shape[1], frame_BLC)
    placed_BKM = memory_BKM[:, memory_BKM.shape[1] - place_BKM.shape[1] :] + place_BKM
    if pooled is not None:
        placed_BKM, memory_BKM, bias_BK = pooled.means(placed_BKM), pooled.means(memory_BKM), pooled.log_weights(bias_BK)
        of_maps = pooled.rotations(rotation)
    maps = placed_BKM.shape[1] - pointers
    for layer in module.layers:
        frame_BLC = frame_BLC + _self_attention(layer.self_attn, layer.layer_norm1(frame_BLC), rotation)
        query_BLC = layer.layer_norm2(frame_BLC)
        weights = layer.cross_attn_image
        pointed = weights.k_proj(placed_BKM[:, maps:])
        if keys is None:
            key_BKD = torch.cat([_map_keys(weights, placed_BKM[:, :maps], of_maps), pointed], 1)
        else:
            key_BKD = next(keys)
            key_BKD[:, key_BKD.shape[1] - pointers :] = pointed
        query_BLD = _rotate(weights.q_proj(query_BLC), rotation) * weights.scaling
        memory_BKM = memory_BKM.to(query_BLD.dtype)
        frame_BLC = frame_BLC + weights.o_proj(weights.v_proj(_recalled(query_BLD, key_BKD, memory_BKM, bias_BK)))
        frame_BLC = frame_BLC + _fed_forward(layer, layer.layer_norm3(frame_BLC))
    return module.layer_norm(frame_BLC)


def _rotation(module: Any, tokens: int, like: Tensor) -> Tensor:
    """Of so many tokens of a square map, as exact as what is turned (L, D / 2)."""
    exact = torch.promote_types(like.dtype, torch.float32)
    return rotary_encoding(module.width, math.isqrt(tokens), like.device, exact)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # else who asks under it first makes a tensor that no gradient may pass
def rotary_encoding(channels: int, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rotary position encoding of pairs of channels (RoPE, axial in two dimensions), as complex numbers (L, D / 2)."""
    half = channels // 2
    frequencies = 1 / 10000 ** (torch.arange(0, half, 2).float() / half)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places_L2 = torch.stack([columns.flatten(), rows.flatten()], -1).to(device)
    angles = (places_L2[..., None].float() * frequencies.to(device)).flatten(1)
    return torch.complex(angles.cos().to(dtype), angles.sin().to(dtype))


def _rotate(x_BLD: Tensor, rotation: Tensor) -> Tensor:
    pairs = x_BLD.to(rotation.real.dtype).unflatten(-1, (-1, 2)).contiguous()
    return torch.view_as_real(torch.view_as_complex(pairs) * rotation).flatten(-2).to(x_BLD.dtype)


def _self_attention(weights: Any, x_BLC: Tensor, rotation: Tensor) -> Tensor:
    query, key, value = weights.q_proj(x_BLC), weights.k_proj(x_BLC), weights.v_proj(x_BLC)
    query, key, value = (part[:, None] for part in (_rotate(query, rotation), _rotate(key, rotation), value))  # one head
    return weights.o_proj(attend_heads(query, key, value, weights.scaling)[:, 0])


def _fed_forward(layer: Any, x_BLC: Tensor) -> Tensor:
    """The wide part of a layer, in pieces that stay in cache; in one where gradients are needed, or on an accelerator."""
    whole = torch.is_grad_enabled() or x_BLC.device.type != "cpu"
    pieces = (x_BLC,) if whole else x_BLC.flatten(0, 1).split(CHUNK)
    fed = [layer.linear2(relu(layer.linear1(piece))) for piece in pieces]
    return fed[0] if whole else torch.cat(fed).view_as(x_BLC)


def _map_keys(weights: Any, placed_BKM: Tensor, rotation: Tensor) -> Tensor:
    """Keys (B, K, D) of maps, each token turned by its place in the frame; rotations of a whole map, or of each token."""
    key_BKD = weights.k_proj(placed_BKM)
    if rotation.ndim == 3:
        return _rotate(key_BKD, rotation)
    return _rotate(key_BKD.unflatten(1, (-1, len(rotation))), rotation).flatten(1, 2)


def _recalled(query_BLD: Tensor, key_BKD: Tensor, memory_BKM: Tensor, bias_BK: Tensor) -> Tensor:
    """Memory (B, L, M) as it is attended to, before it becomes values."""
    if query_BLD.shape[0] == 1 and key_BKD.shape[0] > 1:
        query_BLD = query_BLD.expand(key_BKD.shape[0], -1, -1)
    key_BDK, bias_B1K = key_BKD.transpose(1, 2), bias_BK[:, None].to(query_BLD.dtype)
    with torch.autocast(query_BLD.device.type, enabled=False):  # which would take the scores to float32 and back
        if torch.is_grad_enabled() or query_BLD.device.type != "cpu":
            pieces = (torch.baddbmm(bias_B1K, part, key_BDK).softmax(-1) @ memory_BKM for part in query_BLD.split(CHUNK, dim=1))
            return torch.cat([*pieces], 1)
        rows = zip(query_BLD, key_BDK, memory_BKM, bias_B1K, strict=True)
        return torch.stack([_recalled_by_one(*row) for row in rows])  # a processor wants few scores at once


def _recalled_by_one(query_LD: Tensor, key_DK: Tensor, memory_KM: Tensor, bias_1K: Tensor) -> Tensor:
    """Memory (L, M) as one object attends to it, all scores in the same place."""
    scores, read = query_LD.new_empty(min(CHUNK, len(query_LD)), key_DK.shape[1]), list[Tensor]()
    for part in query_LD.split(CHUNK):
        own = torch.addmm(bias_1K, part, key_DK, out=scores[: len(part)])
        read.append(torch.softmax(own, -1, out=own) @ memory_KM)
    return torch.cat(read)


def attend_heads(
    query_VGLD: Tensor, key_VGKD: Tensor, value_VGKD: Tensor, scale: float, bias_K: Tensor | None = None
) -> Tensor:
    """Attention (V, G, L, D) of G heads, by what is fastest: bfloat16 gains nothing from torch's fused one on a processor.

    With a bias it is written as plain products there, since OpenVINO computes its own fused one wrong for a few pixels.
    """
    if query_VGLD.device.type == "cpu" and (query_VGLD.dtype == torch.bfloat16 or bias_K is not None):
        with torch.autocast("cpu", enabled=False):
            query, key, value = (part.flatten(0, 1) for part in (query_VGLD * scale, key_VGKD, value_VGKD))
            score = query @ key.transpose(1, 2) if bias_K is None else torch.baddbmm(bias_K, query, key.transpose(1, 2))
            return (score.softmax(-1) @ value).unflatten(0, query_VGLD.shape[:2])
    mask = None if bias_K is None else bias_K.expand(query_VGLD.shape[2], -1)
    return F.scaled_dot_product_attention(query_VGLD, key_VGKD, value_VGKD, attn_mask=mask, scale=scale)


def map_tokens(network: Any, recall: Sequence[Sequence[Recalled]], tokens: int) -> tuple[Tensor, Tensor]:
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


def map_positions(network: Any, recall: Sequence[Sequence[Recalled]], position_KM: Tensor) -> Tensor:
    """Encoding of where and when the tokens of the maps lie (B, M·hw, 64)."""
    most, blank, found = max(len(memories) for memories in recall), torch.zeros_like(position_KM), list[Tensor]()
    for memories in recall:
        encodings = [position_KM if r.place is None else position_KM + time_encoding(network, r.place) for r in memories]
        found.append(torch.cat([*encodings, *[blank] * (most - len(encodings))]))
    return torch.stack(found)


def pointer_tokens(network: Any, recall: Sequence[Sequence[Recalled]]) -> tuple[Tensor, Tensor, Tensor]:
    """Object pointers as tokens of the memory's width, each pointer cut in pieces."""
    depth, width = network.config.memory_width, network.no_memory_embedding.shape[-1]
    pieces, most = width // depth, max(len(memories) for memories in recall)
    like = network.no_memory_embedding
    features, places, bias = [], [], like.new_full((len(recall), most), -torch.inf)
    blank = like.new_zeros(1, depth)
    elapsed = _elapsed_encodings(network, {r.elapsed for memories in recall for r in memories})
    for b, memories in enumerate(recall):
        rows = [r.memory.pointer_C.to(like.dtype).view(pieces, depth) for r in memories]
        features.append(torch.cat([*rows, *[blank] * (pieces * (most - len(rows)))]) if most else like.new_zeros(0, depth))
        times = [elapsed[r.elapsed] for r in memories] + [blank] * (most - len(rows))
        places.append(torch.cat(times) if most else like.new_zeros(0, depth))
        bias[b, : len(memories)] = torch.tensor([r.log_weight for r in memories])
    encoding = torch.stack(places).repeat_interleave(pieces, 1)
    return torch.stack(features), encoding, bias.repeat_interleave(pieces, 1)


def time_encoding(network: Any, place: int) -> Tensor:
    """Encoding (1, 64) of how long ago a memory is."""
    return network.memory_temporal_positional_encoding[place - 1].view(1, -1)


def position_encoding(network: Any, height: int, width: int) -> Tensor:
    """Encoding (hw, 64) of where the tokens of any map lie."""
    like = network.no_memory_embedding
    return sine_encoding(network.config.memory_width, height, width, like.device, like.dtype).flatten(1).T


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # else who asks under it first makes a tensor that no gradient may pass
def sine_encoding(channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """SAM 2's encoding (C, h, w) of places, one tensor for all who ask: sines and cosines of row and column in turns."""
    half = channels // 2
    number = torch.arange(half, device=device).to(dtype)
    wavelengths = 10000 ** (2 * torch.div(number, 2, rounding_mode="floor") / half)
    halves = list[Tensor]()
    for count, shape in ((height, (-1, 1, 1)), (width, (1, -1, 1))):
        place = torch.arange(1, count + 1, dtype=dtype, device=device)
        turns = (place / (place[-1:] + 1e-6) * 2 * math.pi).view(shape).expand(height, width, 1) / wavelengths
        halves.append(torch.stack([turns[..., 0::2].sin(), turns[..., 1::2].cos()], -1).flatten(2))
    return torch.cat(halves, -1).permute(2, 0, 1)


def _elapsed_encodings(network: Any, shares: Set[float | None]) -> dict[float | None, Tensor]:
    """The encoding (1, C) of each share of the longest time; all objects' in one product."""
    width, depth = network.no_memory_embedding.shape[-1], network.config.memory_width
    blank: Tensor = network.no_memory_embedding.new_zeros(1, depth)
    given = [share for share in shares if share is not None]
    if not given or not network.config.times_of_pointers:
        return dict.fromkeys(shares, blank)
    half = width // 2
    number = torch.arange(half, dtype=torch.float32, device=network.device)
    turns = torch.tensor(given, device=network.device)[:, None] / 10000 ** (2 * (number // 2) / half)
    encoded: Tensor = network.temporal_positional_encoding_projection_layer(torch.cat([turns.sin(), turns.cos()], -1))
    found: dict[float | None, Tensor] = {None: blank}
    found.update(zip(given, encoded.split(1), strict=True))
    return found


def share_inside(mask_B1SS: Tensor, height: int, width: int) -> Tensor:
    """The share of each token (B, 1, h, w) that is inside the mask, which is in [0, 1]."""
    return F.adaptive_avg_pool2d((mask_B1SS > 0.5).float(), (height, width))


class PooledTokens:
    """Which tokens of the maps are attended to one by one, and which four as their mean.

    Args:
        recall: for each object the memories whose maps are attended to, at least one memory in all.
        size: h and w of a map, even.
        margin: tokens from the border up to which they are attended to one by one, from 0.
    """

    def __init__(self, recall: Sequence[Sequence[Recalled]], size: tuple[int, int], margin: int) -> None:
        self._size, self._most = size, max(len(memories) for memories in recall)
        self._single: list[Tensor] = []
        self._blocks: list[Tensor] = []
        for memories in recall:
            near = [_near_border(r.memory.own[INSIDE], margin) for r in memories]
            blocks_MHW = torch.stack([F.max_pool2d(each, 2)[0] for each in near]) if near else torch.zeros(0, 1, 1)
            single_Mhw = blocks_MHW.repeat_interleave(2, 1).repeat_interleave(2, 2)
            self._single.append(single_Mhw.flatten().nonzero()[:, 0])
            self._blocks.append((blocks_MHW.flatten() == 0).nonzero()[:, 0])
        self.count = max(len(a) + len(b) for a, b in zip(self._single, self._blocks, strict=True))

    def means(self, tokens_BKC: Tensor) -> Tensor:
        """Tokens, or means of four (B, `count` + P, C), zeros where an object has fewer; what follows the maps stays."""
        height, width = self._size
        maps = self._most * height * width
        found = tokens_BKC.new_zeros(len(tokens_BKC), self.count + tokens_BKC.shape[1] - maps, tokens_BKC.shape[2])
        found[:, self.count :] = tokens_BKC[:, maps:]
        for row_KC, own_KC, single, blocks in zip(found, tokens_BKC, self._single, self._blocks, strict=True):
            pairs = own_KC[:maps].view(self._most, height // 2, 2, width // 2, 2, -1)
            row_KC[: len(single)] = own_KC[single]
            row_KC[len(single) : len(single) + len(blocks)] = pairs.mean((2, 4)).flatten(0, 2)[blocks]
        return found

    def rotations(self, rotation_LD: Tensor) -> Tensor:
        """What turns the keys of these (B, `count`, D / 2), by the rotation of each token of a map.

        Where four keys are alike, the mean of the turned ones is their mean, turned by the mean of the rotations.
        """
        maps = rotation_LD.repeat(self._most, 1).expand(len(self._single), -1, -1)
        return torch.complex(self.means(maps.real), self.means(maps.imag))

    def log_weights(self, bias_BK: Tensor) -> Tensor:
        """Log-weights (B, `count` + P) of these, by those of the tokens, which are the same within a memory."""
        found = self.means(bias_BK[..., None].clamp(min=torch.finfo(bias_BK.dtype).min / 8))[..., 0]
        for row_K, single, blocks in zip(found, self._single, self._blocks, strict=True):
            row_K[len(single) : len(single) + len(blocks)] += math.log(4)
            row_K[len(single) + len(blocks) : self.count] = -torch.inf
        found[:, self.count :] = bias_BK[:, bias_BK.shape[1] - (found.shape[1] - self.count) :]
        return found


def _near_border(inside_1hw: Tensor, margin: int) -> Tensor:
    """1 where the share of tokens inside changes within so many tokens and one, else 0 (1, h, w)."""
    reach = 2 * (margin + 1) + 1
    most, least = (sign * F.max_pool2d(sign * inside_1hw.float(), reach, 1, reach // 2) for sign in (1, -1))
    return (most - least > BORDER).float()
