"""Memory attention equals transformers' own module, and counts instead of repeating."""

import copy
import gc
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoMemoryAttention

from medical_sam2.model import memory_attention
from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.memory_attention import KeptKeys, MemoryAttention, attend
from medical_sam2.model.nano import nano_configuration
from speed_peers import transformers_configuration

SIDE, WIDTH, DEPTH = 4, 128, 64
TOKENS = SIDE * SIDE


@pytest.fixture(scope="module")
def module() -> MemoryAttention:
    torch.manual_seed(0)
    return MemoryAttention(nano_configuration(16 * SIDE)).double().eval().requires_grad_(False)


def peer(module: MemoryAttention) -> Sam2VideoMemoryAttention:
    """transformers' module with the same weights."""
    config = transformers_configuration(nano_configuration(16 * SIDE))
    config._attn_implementation = "sdpa"
    other = Sam2VideoMemoryAttention(config).double().eval().requires_grad_(False)
    other.load_state_dict(module.state_dict())
    return other


def draw(objects: int, maps: int, pointers: int, *, frames: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a frame, of memories, and the memories' places."""
    generator = torch.Generator().manual_seed(1)
    shapes = (frames, TOKENS, WIDTH), (objects, maps * TOKENS + pointers, DEPTH), (objects, maps * TOKENS + pointers, DEPTH)
    frame, memory, place = (torch.randn(shape, generator=generator).double() for shape in shapes)
    return frame, memory, place


@pytest.mark.parametrize(("maps", "pointers"), [(1, 0), (1, 2), (3, 6)])
def test_equals_transformers(module: MemoryAttention, maps: int, pointers: int) -> None:
    frame, memory, place = draw(1, maps, pointers)
    ours = attend(module, frame, memory, place, torch.zeros(1, memory.shape[1]).double(), pointers)
    theirs = peer(module)(
        current_vision_features=frame.transpose(0, 1),
        memory=memory.transpose(0, 1),
        memory_posision_embeddings=place.transpose(0, 1),
        num_object_pointer_tokens=pointers,
    )
    assert (ours[0] - theirs.reshape(TOKENS, WIDTH)).abs().max() < 1e-5


def test_equals_transformers_in_any_pieces(module: MemoryAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, memory, place = draw(1, 2, 4)
    bias = torch.zeros(1, memory.shape[1]).double()
    whole = attend(module, frame, memory, place, bias, 4)
    monkeypatch.setattr(memory_attention, "CHUNK", 5)
    assert torch.allclose(attend(module, frame, memory, place, bias, 4), whole, atol=1e-12)


@given(st.integers(1, 9))
def test_repeated_is_counted(module: MemoryAttention, count: int) -> None:
    frame, memory, place = draw(1, 2, 0)
    first, second = (slice(i * TOKENS, (i + 1) * TOKENS) for i in range(2))
    repeated = [torch.cat([part[:, first]] * count + [part[:, second]], 1) for part in (memory, place)]
    bias = torch.zeros(1, 2 * TOKENS).double()
    bias[:, first] = math.log(count)
    plain = attend(module, frame, *repeated, torch.zeros(1, repeated[0].shape[1]).double(), 0)
    assert (attend(module, frame, memory, place, bias, 0) - plain).abs().max() < 1e-6


def test_a_repeated_pointer_is_counted(module: MemoryAttention) -> None:
    frame, memory, place = draw(1, 1, 2)
    bias = torch.zeros(1, memory.shape[1]).double()
    bias[:, TOKENS:] = math.log(3)
    repeated = [torch.cat([part, part[:, TOKENS:], part[:, TOKENS:]], 1) for part in (memory, place)]
    plain = attend(module, frame, *repeated, torch.zeros(1, TOKENS + 6).double(), 6)
    assert (attend(module, frame, memory, place, bias, 2) - plain).abs().max() < 1e-6


def test_what_is_not_there_is_not_seen(module: MemoryAttention) -> None:
    frame, memory, place = draw(1, 2, 0)
    bias = torch.zeros(1, 2 * TOKENS).double()
    bias[:, TOKENS:] = -math.inf
    alone = attend(module, frame, memory[:, :TOKENS], place[:, :TOKENS], bias[:, :TOKENS], 0)
    assert torch.allclose(attend(module, frame, memory, place, bias, 0), alone, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 3])
def test_objects_do_not_see_each_other(module: MemoryAttention, frames: int) -> None:
    frame, memory, place = draw(3, 2, 4, frames=frames)
    bias = torch.zeros(3, memory.shape[1]).double()
    together = attend(module, frame, memory, place, bias, 4)
    for b in range(3):
        one = slice(b, b + 1)
        seen = frame if frames == 1 else frame[one]
        alone = attend(module, seen, memory[one], place[one], bias[one], 4)
        assert torch.allclose(together[one], alone, atol=1e-12)


def remembered(map_KM: Tensor) -> Memory:
    return Memory(0, True, map_KM.T.unflatten(1, (SIDE, SIDE)).clone(), torch.zeros(1), torch.zeros(1), 1.0)


def recalled(memory: Tensor, *, place: int | None = 0) -> list[list[Recalled]]:
    """Two maps of the first object, one of the second."""
    rows = [[Recalled(remembered(part), place=place) for part in own.split(TOKENS)] for own in memory]
    return [rows[0], rows[1][:1]]


def zero(_: int) -> Tensor:
    return torch.zeros(1, DEPTH).double()


def projections(module: MemoryAttention, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens were made keys of in the first layer, call by call."""
    layer, seen = module.layers[0].cross_attn_image.k_proj, list[int]()
    monkeypatch.setattr(
        layer, "forward", lambda x: seen.append(x[..., 0].numel()) or torch.nn.functional.linear(x, layer.weight, layer.bias)
    )
    return seen


@pytest.mark.parametrize("when", [None, 3])
def test_kept_keys_give_what_new_ones_give(module: MemoryAttention, when: int | None) -> None:
    frame, memory, place = draw(2, 2, 4)
    place[:, : 2 * TOKENS] = place[:1, :TOKENS].repeat(1, 2, 1)
    time = torch.zeros(1, DEPTH).double() if when is None else torch.linspace(-1, 1, DEPTH).double()[None]
    maps, bias = 2 * TOKENS, torch.zeros(2, memory.shape[1]).double()
    bias[1, TOKENS:maps] = -math.inf
    plain = attend(module, frame, memory, place, bias, 4)
    with torch.no_grad():
        keys = KeptKeys().of(module, recalled(memory[:, :maps], place=when), place[0, :TOKENS] - time, lambda _: time, 4)
        assert keys is not None
        assert (attend(module, frame, memory, place[:, maps:], bias, 4, keys=keys) - plain).abs().max() < 1e-12


@torch.no_grad()
def test_keys_of_a_memory_are_made_once(module: MemoryAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    own, kept = copy.deepcopy(module), KeptKeys()
    seen = projections(own, monkeypatch)
    _, memory, place = draw(2, 2, 0)
    recall, position = recalled(memory), place[0, :TOKENS]
    kept.of(own, recall, position, zero)
    kept.of(own, [recall[0][:1], recall[1]], position, zero)
    assert seen == [3 * TOKENS]
    kept.of(own, [[replace(r, place=3) for r in recall[0]], recall[1]], position, zero)
    assert seen == [3 * TOKENS]
    later = [[*recall[0], Recalled(remembered(memory[0, :TOKENS]), place=0)], recall[1]]
    kept.of(own, later, position, zero)
    assert seen == [3 * TOKENS, TOKENS]
    own.layers[0].cross_attn_image.k_proj.weight.mul_(2)
    kept.of(own, recall, position, zero)
    assert seen == [3 * TOKENS, TOKENS, 3 * TOKENS]


@torch.no_grad()
def test_what_a_time_adds_follows_the_weights_and_the_time(module: MemoryAttention) -> None:
    own, kept = copy.deepcopy(module), KeptKeys()
    _, memory, place = draw(2, 2, 0)
    recall = recalled(memory, place=3)
    for change, moment in ((1.0, -1.0), (2.0, -1.0), (1.0, 1.0)):
        own.layers[0].cross_attn_image.k_proj.weight.mul_(change)
        time = torch.full((1, DEPTH), moment).double()
        anew, again = (k.of(own, recall, place[0, :TOKENS], lambda _, time=time: time) for k in (KeptKeys(), kept))
        assert anew is not None
        assert again is not None
        for fresh, known in zip(anew, again, strict=True):
            assert torch.equal(fresh, known)


@torch.no_grad()
def test_keys_go_with_their_memory(module: MemoryAttention) -> None:
    kept, (_, memory, place) = KeptKeys(), draw(2, 2, 0)
    recall = recalled(memory)
    kept.of(module, recall, place[0, :TOKENS], zero)
    assert len(kept._kept) == 3
    assert len(copy.deepcopy(kept)._kept) == 0
    del recall[0][0]
    gc.collect()
    assert len(kept._kept) == 2


def test_nothing_is_kept_where_gradients_flow(module: MemoryAttention) -> None:
    _, memory, place = draw(2, 2, 0)
    assert KeptKeys().of(module, recalled(memory), place[0, :TOKENS], zero) is None
    with torch.no_grad():
        assert KeptKeys().of(module, recalled(memory), place[0, :TOKENS], zero) is not None


def test_encodings_of_places_take_gradients_whoever_asks_first() -> None:
    memory_attention.sine_encoding.cache_clear()
    with torch.inference_mode():
        assert not memory_attention.sine_encoding(8, 4, 4, torch.device("cpu"), torch.float32).is_inference()
