"""The parts of SAM 2 give what transformers' give, to the last bit, under the same names of weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video import modeling_sam2_video as theirs

from medical_sam2.model import memory_attention
from medical_sam2.model.image_encoders import HieraEncoder
from medical_sam2.model.modules import Hiera, HieraSizes, MaskDecoder, MemoryEncoder, PromptEncoder, Sam2Config
from medical_sam2.model.sam2 import Sam2
from speed_peers import transformers_configuration

SIZE, SIDE = 64, 4
CONFIG = Sam2Config(
    SIZE,
    HieraSizes((1, 2, 3, 2), (8, 16, 32, 64), Hiera(1, (8, 4, 14, 7), (4, 7))),
    width=64,
    mask_channels=8,
    decoder_heads=4,
    decoder_hidden=96,
    iou_hidden=48,
    attention_hidden=96,
    fuser_hidden=80,
)


def peer() -> Sam2VideoConfig:
    return transformers_configuration(CONFIG)


def random(part: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return part.eval()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shared(part: nn.Module, other: nn.Module) -> None:
    """Give another module the weights of a part, which must have the same names."""
    other.load_state_dict(random(part).state_dict())
    other.eval()


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def rounded(request: pytest.FixtureRequest) -> Callable[[], torch.autocast]:
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=request.param)


def test_weights_have_the_names_that_files_have() -> None:
    with torch.device("meta"):
        ours, others = Sam2(CONFIG).state_dict(), Sam2VideoModel(peer()).state_dict()
    others.pop("shared_image_embedding.positional_embedding")
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in others.items()}


def test_an_image_encoder_begins_with_the_same_weights() -> None:
    torch.manual_seed(0)
    others = AutoModel.from_config(peer().vision_config).state_dict()
    torch.manual_seed(0)
    assert CONFIG.hiera is not None
    ours = HieraEncoder(CONFIG.hiera, CONFIG.width).state_dict()
    assert [*ours] == [*others]
    assert all(torch.equal(ours[name], others[name]) for name in ours)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, draw(3, 1, 4 * SIDE, 4 * SIDE)], ids=["points", "mask"])
def test_prompts(mask: Tensor | None) -> None:
    """A click inside and one outside, a box, and nothing."""
    ours, others = (
        PromptEncoder(CONFIG.width, CONFIG.mask_channels, SIZE),
        theirs.Sam2VideoPromptEncoder(peer().prompt_encoder_config),
    )
    shared(ours, others)
    points, labels = SIZE * draw(3, 2, 2).abs(), torch.tensor([[1, 0], [2, 3], [-1, -1]])
    sparse, dense = ours(points, labels, mask)
    other_sparse, other_dense = others(points[:, None], labels[:, None], None, mask)
    assert torch.equal(sparse, other_sparse[:, 0])
    assert torch.equal(dense, other_dense)


@torch.no_grad()
@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("least", [0.0, 0.98, 1.1], ids=["stable", "official", "unstable"])
def test_masks(objects: int, several: bool, least: float, rounded: Callable[[], torch.autocast]) -> None:
    config = peer().mask_decoder_config
    config._attn_implementation = "sdpa"
    ours, others = MaskDecoder(CONFIG), theirs.Sam2VideoMaskDecoder(config)
    shared(ours, others)
    ours.least_stability = others.dynamic_multimask_stability_thresh = least
    width, near = CONFIG.width, torch.channels_last
    seen, grid = (draw(objects, width, SIDE, SIDE, seed=seed).contiguous(memory_format=near) for seed in (1, 2))
    sparse, dense = draw(objects, 3, width, seed=3), draw(objects, width, 1, 1, seed=4).expand(-1, -1, SIDE, SIDE)
    fine = draw(objects, width // 8, 4 * SIDE, 4 * SIDE, seed=5), draw(objects, width // 4, 2 * SIDE, 2 * SIDE, seed=6)
    with rounded():
        answer = ours(seen, grid, sparse, dense, fine, several=several)
        other = others(seen, grid, sparse[:, None], dense, several, list(fine))
    assert answer[0].shape == (objects, 3 if several else 1, 4 * SIDE, 4 * SIDE)
    for one, part in zip(answer, other, strict=True):
        assert torch.equal(one, part[:, 0])


@torch.no_grad()
def test_in_training_the_single_mask_stays_however_unstable() -> None:
    ours = random(MaskDecoder(CONFIG))
    told = draw(1, 64, SIDE, SIDE), draw(1, 64, SIDE, SIDE), draw(1, 2, 64), torch.zeros(1, 64, SIDE, SIDE)
    fine = draw(1, 8, 4 * SIDE, 4 * SIDE), draw(1, 16, 2 * SIDE, 2 * SIDE)
    ours.least_stability = 1.1
    replaced = ours(*told, fine, several=False)[0]
    single = ours.train()(*told, fine, several=False)[0]
    assert not torch.equal(single, replaced)
    ours.least_stability = 0.0
    assert torch.equal(single, ours.eval()(*told, fine, several=False)[0])


@torch.no_grad()
def test_memories(rounded: Callable[[], torch.autocast]) -> None:
    ours, others = MemoryEncoder(CONFIG), theirs.Sam2VideoMemoryEncoder(peer())
    shared(ours, others)
    seen, mask = draw(2, CONFIG.width, SIDE, SIDE), 10 * draw(2, 1, SIZE, SIZE)
    with rounded():
        assert torch.equal(ours(seen, mask), others(seen, mask)[0])


def test_gradients() -> None:
    """Of parts whose activations overwrite their input where no gradients are needed."""
    ours, others = MemoryEncoder(CONFIG), theirs.Sam2VideoMemoryEncoder(peer())
    shared(ours, others)
    seen, mask = draw(2, CONFIG.width, SIDE, SIDE), 10 * draw(2, 1, SIZE, SIZE)
    ours(seen, mask).square().mean().backward()
    others(seen, mask)[0].square().mean().backward()
    for (name, one), other in zip(ours.named_parameters(), others.parameters(), strict=True):
        assert one.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5 * float(other.grad.abs().max())), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 16), (64, 64)])
def test_sine_encoding(height: int, width: int, dtype: torch.dtype) -> None:
    other = theirs.Sam2VideoPositionEmbeddingSine(32, normalize=True)(torch.Size((1, 64, height, width)), "cpu", dtype)
    assert torch.equal(memory_attention.sine_encoding(64, height, width, torch.device("cpu"), dtype), other[0])


@pytest.mark.parametrize("side", [4, 16, 64])
def test_rotary_encoding(side: int) -> None:
    config = peer()
    config.memory_attention_rope_feat_sizes = [side, side]
    positions = theirs.Sam2VideoMemoryAttention.precompute_positions(config)
    cos, sin = (part[0, :, ::2] for part in theirs.Sam2VideoVisionRotaryEmbedding(config)(positions, positions))
    found = memory_attention.rotary_encoding(CONFIG.width, side, torch.device("cpu"), torch.float32)
    assert torch.equal(found, torch.complex(cos, sin))
