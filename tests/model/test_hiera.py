"""The encoder's own forward pass gives transformers' numbers."""

import pytest
import torch
from transformers import Sam2VisionConfig, Sam2VisionModel

from medical_sam2.model.hiera import encode_hiera


def encoder(windows: list[int]) -> Sam2VisionModel:
    torch.manual_seed(0)
    config = Sam2VisionConfig(
        backbone_config={
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "blocks_per_stage": [1, 2, 3, 2],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": windows,
            "global_attention_blocks": [4, 7],
        },
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=24,
    )
    model = Sam2VisionModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("windows", [[8, 4, 14, 7], [8, 4, 16, 8], [4, 4, 2, 2]], ids=str)
@pytest.mark.parametrize("size", [64, 96, 256])
def test_equals_transformers(windows: list[int], size: int) -> None:
    """Windows that fit, that reach over the border, and that are larger than the map."""
    model, frames = encoder(windows), torch.randn(2, 3, size, size)
    with torch.no_grad():
        ours, theirs = encode_hiera(model, frames), model(frames).fpn_hidden_states
    assert len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4 * float(other.std()))


@torch.no_grad()
def test_places_are_made_anew_for_other_weights_and_sizes_and_never_rounded() -> None:
    model, frames = encoder([8, 4, 14, 7]), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encode_hiera(model, frames)
    for change in (0.0, 1.0):
        model.backbone.pos_embed.add_(change)
        for size in (64, 96):
            frames = torch.randn(1, 3, size, size)
            theirs = model(frames).fpn_hidden_states
            for mine, other in zip(encode_hiera(model, frames), theirs, strict=True):
                assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4 * float(other.std()))


def test_gradients_equal_those_of_transformers() -> None:
    model, frames = encoder([8, 4, 14, 7]), torch.randn(1, 3, 64, 64)
    gradients = []
    for maps in (encode_hiera(model, frames), model(frames).fpn_hidden_states):
        model.zero_grad()
        sum(part.square().mean() for part in maps).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name
