"""Tensors out of a file that anyone may have made: nothing in it is run, and no more is held in memory than the file holds."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medical_sam2.errors import WeightsError
from medical_sam2.model.catalogue import PICKLED

WRAPPERS = ("model", "state_dict", "model_state_dict")  # under which training code keeps the weights
CONFIG_BYTES = 1 << 20
NAMES_SHOWN, NAME_LENGTH = 1000, 100
SAFER = "give a .safetensors file, or a .pt file that holds tensors only"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file or a PyTorch checkpoint, mapped into memory where that is possible.

    Raises:
        WeightsError: the file is missing, of another kind, incomplete, or holds anything but tensors.
    """
    if not path.is_file():
        raise WeightsError("is no file" if path.exists() else "does not exist", "give the path of weights", subject=path)
    if path.stat().st_size == 0:
        raise WeightsError("the file is empty", "fetch it again", subject=path)
    if path.suffix == ".safetensors":
        weights = _safetensors(path)
    elif path.suffix in PICKLED:
        weights = _unwrapped(_unpickled(path), path)
    else:
        raise WeightsError(f"unknown format {path.suffix!r} of weights", SAFER, subject=path)
    _check_storage(weights, path)
    return weights


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most one megabyte.

    Raises:
        WeightsError: the file is missing, too large or no JSON object.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise WeightsError("is too large for a configuration", "give the one that belongs to the weights", subject=path)
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError("is no readable configuration", "give the one that belongs to the weights", subject=path) from error
    if not isinstance(content, dict):
        raise WeightsError("is no configuration: not a JSON object", "give the one that belongs to the weights", subject=path)
    return content


def listed(names: Iterable[str], most: int = NAMES_SHOWN) -> str:
    """Names for a message: sorted, shortened where a file makes them absurd, nothing that a terminal would obey."""
    shown = sorted("".join(c for c in name[:NAME_LENGTH] if c.isprintable()) for name in names)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"broken or incomplete ({_reason(error)})", "fetch it again", subject=path) from error


def _unpickled(path: Path) -> Any:
    """What torch reads without running code; a checkpoint of today's format is mapped, not copied."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        problem = "holds Python objects that are not weights, or is broken; none was run"
        raise WeightsError(problem, SAFER, subject=path) from error
    except Exception as error:  # a foreign file can make the reader fail in any way
        raise WeightsError(f"broken or incomplete ({_reason(error)})", "fetch it again", subject=path) from error


def _check_archive(path: Path) -> None:
    """torch stores its tensors uncompressed: a compressed one can be a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise WeightsError("a compressed archive, which PyTorch does not write", SAFER, subject=path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"broken or incomplete ({_reason(error)})", "fetch it again", subject=path) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, which training code keeps beside the state of its optimiser."""
    # each check refuses one thing that a file may hold, with a message of its own
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(x, str) for x in content):
        raise WeightsError("holds no named weights", SAFER, subject=path)
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"holds more than weights: {listed(strange)}", SAFER, subject=path)
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _check_storage(weights: Mapping[str, Tensor], path: Path) -> None:
    """A tensor may claim more elements than the file holds (a stride of 0), or a layout that is no array."""
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise WeightsError(f"{listed([name])} is no array of floating point numbers", SAFER, subject=path)
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{listed([name])} claims more numbers than the file holds", SAFER, subject=path)


def _reason(error: Exception) -> str:
    """The first line of a foreign message, kept short."""
    return listed([(str(error).splitlines() or [type(error).__name__])[0].split(". This")[0]])
