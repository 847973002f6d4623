"""How fast each weight learns: the image encoder by its layers, biases and scales without decay; and the course of it all."""

import math
import re
from typing import Any

from torch import nn

from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.config import Recipe

ENCODER = "vision_encoder."
HIERA = re.compile(r"vision_encoder\.backbone\.blocks\.(\d+)\.")
PYRAMID = re.compile(r"vision_encoder\.stages\.(\d+)\.(\d+)\.")
FIRST = ("vision_encoder.backbone.", "vision_encoder.stem.")  # what comes before the first block


def group_parameters(network: Sam2, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: `params`, their `names`, `share` of the recipe's rate, and `weight_decay`.

    The share of an encoder's layer i of L is encoder_rate · layer_decay^(L − i), where i = 0 is what embeds patches and
    position and the neck counts as L; all else has 1.
    """
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    layers = _count_layers(network)
    for name, parameter in network.named_parameters():
        share = recipe.encoder_rate * recipe.layer_decay ** layers[name] if name in layers else 1.0
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        key = (share, decay, parameter.ndim == 0)
        group = groups.setdefault(key, {"params": [], "names": [], "share": share, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def compute_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a cosine over the last `cool_down` of the run (all of it where that is 1)."""
    last = max(1, round(recipe.steps * recipe.cool_down))
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (recipe.steps - step) / last))
    return recipe.rate * min(1.0, (step + 1) / max(1, recipe.warm_up)) * max(fall, 0.01)


def _count_layers(network: nn.Module) -> dict[str, int]:
    """For each parameter of the image encoder, how many layers lie between it and the neck, which has 0."""
    names = [name for name, _ in network.named_parameters() if name.startswith(ENCODER)]
    places = {name: place for name in names if (place := _find_layer(name)) is not None}
    order = {place: number for number, place in enumerate(sorted(set(places.values())))}
    depth = max(order.values(), default=0) + 1
    return {name: depth - order[places[name]] if name in places else 0 for name in names}


def _find_layer(name: str) -> tuple[int, int] | None:
    """Where a parameter comes in the order of the encoder; None for its neck."""
    for pattern in (HIERA, PYRAMID):
        if found := pattern.match(name):
            numbers = [int(number) for number in found.groups()]
            return numbers[0], numbers[1] if len(numbers) > 1 else 0
    return (-1, 0) if name.startswith(FIRST) else None
