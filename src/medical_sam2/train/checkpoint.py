"""Checkpoints: everything that a run needs to go on bit for bit, in one safetensors file, written at once or not at all.

There are no generators to save: whatever is random in a step is drawn from (seed, step, place).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medical_sam2.errors import FormatError
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.distributed import assign, gather, local_part

NAME, FORMAT = "last.safetensors", "2"
Parts = tuple[Sam2, dict[str, Tensor], torch.optim.Optimizer]


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str]) -> None:
    """Write tensors and facts beside the target, flush, and move them there.

    Args:
        path: target; its folder exists.
        tensors: name → tensor.
        facts: name → text.
    """
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a checkpoint.

    Raises:
        FormatError: the file is no checkpoint, or incomplete.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise FormatError("no complete checkpoint", "start from an earlier one", subject=path) from error


def gather_tensors(network: Sam2, average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, their average and the optimiser's state, whole, one name each; every process asks at once."""
    tensors = {f"network.{name}": gather(value) for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": gather(value) for name, value in average.items()}
    return tensors | {f"optimizer.{name}": gather(value) for name, value in _optimizer_state(optimizer)}


def restore_run(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str], parts: Parts) -> None:
    """Undo `gathered`.

    Args:
        path: to be named in errors.
        tensors: of the checkpoint.
        facts: of the checkpoint.
        parts: network, average and optimiser of a run that has not begun.

    Raises:
        FormatError: the checkpoint is of an earlier version, or of another network.
    """
    network, average, optimizer = parts
    if facts.get("format") != FORMAT:
        raise FormatError("another version wrote this checkpoint", "begin a run that starts from its weights", subject=path)
    wanted = {f"network.{name}": value for name, value in network.state_dict().items()}
    wanted |= {f"average.{name}": value for name, value in average.items()}
    if any(name not in tensors or tensors[name].shape != value.shape for name, value in wanted.items()):
        raise FormatError("it is the checkpoint of another network", "choose another folder", subject=path)
    for name, value in wanted.items():
        assign(value, tensors[name])
    for name, parameter in _named_parameters(optimizer):
        state = {key: tensors.get(f"optimizer.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if state["step"] is None:
            continue  # it has had no gradient yet
        optimizer.state[parameter] = {
            key: _copy_to_layout(parameter, key, value) for key, value in state.items() if value is not None
        }


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _named_parameters(optimizer):
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        for key, value in state.items():
            yield f"{name}.{key}", value


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name, as `schedule.group_parameters` grouped them."""
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def _copy_to_layout(parameter: Tensor, key: str, value: Tensor) -> Tensor:
    if key == "step":
        return value.to(local_part(parameter).device)
    empty = torch.empty_like(parameter, memory_format=torch.preserve_format)
    assign(empty.detach(), value)
    return empty.detach()
