"""Checkpoints: everything that a run needs to go on bit for bit, in one safetensors file, written at once or not at all."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medical_sam2.errors import FormatError


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write tensors and facts beside the target, flush, and move them there.

    Args:
        path: target; its folder exists.
        tensors: name → tensor.
        facts: name → text.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        stream.write(save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, facts))
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


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


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors, one name each."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, row in state.items() for name, value in row.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `pack_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
