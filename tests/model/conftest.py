"""A tiny random network: SAM 2 in everything but its size."""

import pytest
import torch
from torch import Tensor, nn

from medical_sam2.model.image_encoders import ConvPyramid, initialise_weights
from medical_sam2.model.nano import nano_configuration
from medical_sam2.model.sam2 import Sam2

SIZE = 64


def tiny(seed: int = 0, *, image_size: int = SIZE) -> Sam2:
    """A network of 64 pixels whose weights are all random, so that none of its parts is silent."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = Sam2(nano_configuration(image_size), ConvPyramid(widths=(8, 16, 16, 16, 16), depths=(1, 1, 1, 1)))
    initialise_weights(network)
    for name, parameter in network.named_parameters():
        if name.endswith("scale") or "memory_" in name or "no_" in name or "occlusion" in name:
            nn.init.normal_(parameter, std=0.3 if parameter.ndim != 2 else parameter.shape[1] ** -0.5)
    nn.init.constant_(network.mask_decoder.pred_obj_score_head.proj_out.bias, 5.0)  # the object is there
    torch.random.set_rng_state(generator)
    return network.eval()


def same(ours: Sam2, other: Sam2) -> bool:
    """Whether two networks have the same weights."""
    pairs = zip(ours.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture(scope="session")
def network() -> Sam2:
    """The tiny network; no test may change it."""
    return tiny().requires_grad_(False)


@pytest.fixture(scope="session")
def frames() -> Tensor:
    """Eight smooth frames (8, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(8, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")
