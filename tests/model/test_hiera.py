"""The encoder's own forward pass gives transformers' numbers."""

from dataclasses import replace

import pytest
import torch
from transformers import Sam2VisionModel

from medical_sam2.model.image_encoders import HieraEncoder
from medical_sam2.model.modules import Hiera, HieraSizes, Sam2Config
from speed_peers import transformers_configuration

SIZES = HieraSizes((1, 2, 3, 2), (8, 16, 32, 64), Hiera(1, (8, 4, 14, 7), (4, 7)))
WIDTH = 24


def encoders(windows: tuple[int, ...]) -> tuple[HieraEncoder, Sam2VisionModel]:
    """Ours and transformers' with the same weights."""
    torch.manual_seed(0)
    sizes = replace(SIZES, attention=replace(SIZES.attention, windows=windows))
    ours = HieraEncoder(sizes, WIDTH).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = Sam2VisionModel(transformers_configuration(Sam2Config(hiera=sizes, width=WIDTH)).vision_config).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("windows", [(8, 4, 14, 7), (8, 4, 16, 8), (4, 4, 2, 2)], ids=str)
@pytest.mark.parametrize("size", [64, 96, 256])
def test_equals_transformers(windows: tuple[int, ...], size: int) -> None:
    """Windows that fit, that reach over the border, and that are larger than the map."""
    (model, peer), frames = encoders(windows), torch.randn(2, 3, size, size)
    with torch.no_grad():
        ours, theirs = model(frames), peer(frames).fpn_hidden_states
    assert len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4 * float(other.std()))


@torch.no_grad()
def test_places_are_made_anew_for_other_weights_and_sizes_and_never_rounded() -> None:
    (model, peer), frames = encoders((8, 4, 14, 7)), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(frames)
    for change in (0.0, 1.0):
        for each in (model, peer):
            each.backbone.pos_embed.add_(change)
        for size in (64, 96):
            frames = torch.randn(1, 3, size, size)
            theirs = peer(frames).fpn_hidden_states
            for mine, other in zip(model(frames), theirs, strict=True):
                assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4 * float(other.std()))


def test_gradients_equal_those_of_transformers() -> None:
    (model, peer), frames = encoders((8, 4, 14, 7)), torch.randn(1, 3, 64, 64)
    gradients = []
    for network, maps in ((model, model(frames)), (peer, peer(frames).fpn_hidden_states)):
        sum(part.square().mean() for part in maps).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name
