"""Learning rates: each layer of the encoder slower than the next deeper one, and the course over a run."""

import pytest
import torch

from medical_sam2.model.modules import Sam2Config
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.config import Phase, Recipe
from medical_sam2.train.loop import compute_rate, group_parameters


def recipe(steps: int = 100, **settings: float) -> Recipe:
    return Recipe(phases=(Phase(steps=steps, frames=1, clips=1),), **settings)  # type: ignore[arg-type]


def shares(network: Sam2, run: Recipe) -> dict[str, float]:
    return {name: group["share"] for group in group_parameters(network, run) for name in group["names"]}


def hiera() -> Sam2:
    with torch.device("meta"):
        return Sam2(Sam2Config())


def test_layers_of_the_pyramid_decay_towards_the_image() -> None:
    found = shares(nano(64), recipe(encoder_rate=0.5, layer_decay=0.5))
    order = ["stem.0", "stages.0.0.0", "stages.0.1.first", "stages.1.0.0", "stages.1.2.first", "stages.3.1.first"]
    rates = [found[f"vision_encoder.{name}.weight"] for name in order]
    assert rates == sorted(set(rates))
    assert rates[-1] == 0.25
    assert found["vision_encoder.lateral.0.weight"] == 0.5
    assert found["mask_decoder.mask_tokens.weight"] == 1.0


def test_layers_of_hiera_decay_as_in_sam_2() -> None:
    found = shares(hiera(), recipe(encoder_rate=0.6, layer_decay=0.9))
    trunk = "vision_encoder.backbone"
    assert found[f"{trunk}.blocks.11.layer_norm1.weight"] == pytest.approx(0.6 * 0.9)
    assert found[f"{trunk}.blocks.0.layer_norm1.weight"] == pytest.approx(0.6 * 0.9**12)
    assert found[f"{trunk}.pos_embed"] == pytest.approx(0.6 * 0.9**13)
    assert found["vision_encoder.neck.convs.0.weight"] == 0.6


def test_every_parameter_learns_once_and_only_matrices_decay() -> None:
    network = nano(64)
    found = group_parameters(network, recipe(weight_decay=0.1))
    parameters = [p for group in found for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(network.parameters()))
    assert all((group["weight_decay"] == 0.1) == (p.ndim > 1) for group in found for p in group["params"])


def test_a_rate_warms_up_stays_and_falls_by_a_cosine() -> None:
    run = recipe(rate=1.0, warm_up=10, cool_down=0.5)
    assert compute_rate(run, 0) == pytest.approx(0.1)
    assert compute_rate(run, 30) == 1.0
    assert compute_rate(run, 75) == pytest.approx(0.5)
    assert compute_rate(run, 100) == pytest.approx(0.01)
    whole = recipe(rate=1.0, warm_up=1, cool_down=1.0)
    assert compute_rate(whole, 50) == pytest.approx(0.5)
