"""Training a few weights beside a frozen image encoder, as two of the compared methods do, and what becomes of them.

LoRA as in SAMed (Zhang and Liu 2023, arXiv 2304.13785): updates of low rank to queries and values of the encoder's attention.
They are merged into the weights afterwards: what is written is a plain checkpoint. Adapters as in the Medical SAM Adapter, MSA
(Wu et al. 2023, arXiv 2304.12620): small layers after each attention and beside each feed-forward part. They cannot be merged;
they are written with the weights, and found by their names. In both the mask decoder is trained too, and nothing else: prompt
encoder and memory stay, as these methods have no memory.
"""

from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medical_sam2.errors import ConfigError
from medical_sam2.model.hiera import WindowAttention, add_adapters
from medical_sam2.model.sam2 import Sam2

Insertion: TypeAlias = Literal["none", "lora", "adapter"]
DECODER, INSERTED = "mask_decoder.", ("parametrizations.weight.0.", "_adapter.")


class LowRankUpdate(nn.Module):
    """Adds an update of low rank to the queries and values of a weight (3 W, C); none before it is trained."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(2, rank, columns))
        self.up = nn.Parameter(torch.zeros(2, rows // 3, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight after the update."""
        query, value = self.up @ self.down
        return weight + torch.cat([query, torch.zeros_like(query), value])


def insert_trainable(network: Sam2, kind: Insertion, rank: int) -> None:
    """Insert what is trained, and freeze the rest of the network but its mask decoder; nothing where it is "none".

    Args:
        rank: of the updates, or channels in the middle of the adapters.

    Raises:
        ConfigError: the image encoder has no attention, or adapters of another width.
    """
    if kind == "none":
        return
    if network.config.hiera is None:
        problem = "the image encoder of these weights has no attention to add to"
        raise ConfigError(problem, "start from weights of a SAM 2 network", subject="adapter")
    if kind == "lora":
        _add_updates(network, rank)
    else:
        _add_adapters(network, rank)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(DECODER) or any(part in name for part in INSERTED))


def _add_updates(network: Sam2, rank: int) -> None:
    for part in network.vision_encoder.modules():
        if isinstance(part, WindowAttention):
            parametrize.register_parametrization(part.qkv, "weight", LowRankUpdate(part.qkv.weight, rank))


def _add_adapters(network: Sam2, rank: int) -> None:
    sizes = network.config.hiera
    if sizes is None or sizes.adapters == rank:
        return  # those that it has are trained on
    if sizes.adapters:
        problem = f"the adapters of these weights have {sizes.adapters} channels, not {rank}"
        raise ConfigError(problem, "give their number", subject="rank")
    add_adapters(network.vision_encoder, rank)
    network.config = replace(network.config, hiera=replace(sizes, adapters=rank))


def merge_updates(network: Sam2) -> None:
    """Put updates of low rank into the weights: the network is a plain one again, with the same answers."""
    for part in list(network.vision_encoder.modules()):
        if isinstance(part, WindowAttention) and parametrize.is_parametrized(part.qkv):
            parametrize.remove_parametrizations(part.qkv, "weight", leave_parametrized=True)
