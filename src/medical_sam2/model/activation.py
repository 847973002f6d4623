"""Activations that overwrite what they are given: on a processor, a new tensor takes longer than the function, since the system
has to provide its pages; a quarter of the time of a wide feed-forward network in bfloat16 went there (docs/log.md).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

OVERWRITING: Mapping[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    GELUActivation: torch.ops.aten.gelu_.default,
}


class Overwriting(nn.Module):
    """An activation whose input nobody else needs; a new tensor where gradients are wanted, which may need it.

    Args:
        activation: one of `OVERWRITING`.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.exact, self.overwrite = activation, OVERWRITING[type(activation)]

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers."""
        return self.exact(x) if torch.is_grad_enabled() else self.overwrite(x)


def overwrite(network: nn.Module) -> None:
    """Let the feed-forward parts of transformers' modules, each of which calls its `activation` on what it has just made,
    overwrite it."""
    for module in [*network.modules()]:
        activation = getattr(module, "activation", None)
        if isinstance(activation, tuple(OVERWRITING)):
            module.activation = Overwriting(activation)
