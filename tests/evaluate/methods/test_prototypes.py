"""Matching of prototypes: on features whose answer is known, and on an encoder."""

import pytest
import torch

from medical_sam2.errors import GeometryError, PromptError
from medical_sam2.evaluate.methods.own_network import Prototypes, matching_features
from medical_sam2.model.nano import nano


def two_tissues(mask: torch.Tensor, *, noise: float = 0.1) -> torch.Tensor:
    """Features that point one way inside and another outside."""
    directions = torch.eye(6)[:2]
    generator = torch.Generator().manual_seed(int(mask.sum()))
    return torch.where(mask, directions[1][:, None, None], directions[0][:, None, None]) + noise * torch.randn(
        6, *mask.shape, generator=generator
    )


def square(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[low:high, low:high] = True
    return mask


@pytest.mark.parametrize("window", [None, 2])
def test_the_object_is_found_where_it_moved(window: int | None) -> None:
    learnt = Prototypes.learnt(two_tissues(square(3, 9)), square(3, 9), window=window)
    moved = square(6, 14)
    assert ((learnt.likeness(two_tissues(moved), (16, 16)) > 0.5) == moved).float().mean() > 0.97


def test_local_prototypes_know_an_object_of_two_halves() -> None:
    """An object half like the ground turned round: its mean says nothing, its windows do."""
    features, mask = torch.zeros(3, 16, 16), square(4, 12)
    features[0] = 1
    features[:, 4:8, 4:12] = torch.tensor([0.7, 0.7, 0.0])[:, None, None]
    features[:, 8:12, 4:12] = torch.tensor([0.7, -0.7, 0.0])[:, None, None]
    local, alone = (Prototypes.learnt(features, mask, window=w).likeness(features, (16, 16)) for w in (2, None))
    assert ((local > 0.5) == mask).all()
    assert not ((alone > 0.5) == mask).all()
    assert len(Prototypes.learnt(features, mask, window=2).inside_KC) == 1 + 16


def test_the_mask_may_have_another_size() -> None:
    large = square(4, 12).repeat_interleave(4, 0).repeat_interleave(4, 1)
    one, other = (Prototypes.learnt(two_tissues(square(4, 12)), mask) for mask in (large, square(4, 12)))
    torch.testing.assert_close(one.inside_KC, other.inside_KC)


def test_an_encoder_can_be_matched_on() -> None:
    torch.manual_seed(0)
    network = nano(64).eval()
    picture = torch.rand(1, 3, 64, 64)
    picture[..., 16:40, 16:40] = picture[..., 16:40, 16:40] * 0.1
    with torch.inference_mode():
        features = matching_features(network.encode(network.normalised(picture)))
        mask = torch.zeros(64, 64, dtype=torch.bool)
        mask[16:40, 16:40] = True
        found = Prototypes.learnt(features, mask).likeness(features, (64, 64)) > 0.5
    assert features.shape[1:] == (8, 8)
    assert found[mask].float().mean() > 0.8
    assert found[~mask].float().mean() < 0.3


def test_nothing_to_compare_with_is_refused() -> None:
    for mask in (torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)):
        with pytest.raises(PromptError, match="nothing to compare"):
            Prototypes.learnt(torch.rand(4, 8, 8), mask)
    learnt = Prototypes.learnt(torch.rand(4, 16, 16), square(2, 5))
    with pytest.raises(GeometryError, match="channels"):
        learnt.likeness(torch.rand(5, 16, 16), (16, 16))


def test_what_several_templates_taught() -> None:
    parts = [Prototypes(torch.eye(3)[:1], torch.eye(3)[1:2]), Prototypes(torch.eye(3)[2:], torch.eye(3)[1:2])]
    kept, mean = (Prototypes.together(parts, mean=how) for how in (False, True))
    assert kept.inside_KC.shape == (2, 3)
    torch.testing.assert_close(mean.inside_KC, torch.tensor([[0.5**0.5, 0.0, 0.5**0.5]]))
    torch.testing.assert_close(mean.outside_KC, torch.tensor([[0.0, 1.0, 0.0]]))
