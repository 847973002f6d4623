"""Weights: from a name, a file, a folder or the Hugging Face hub to a network, and back to a folder.

Official checkpoints (SAM 2.0, SAM 2.1), their fine-tunes (MedSAM2, Medical SAM 2), folders of transformers' `Sam2VideoModel`
and this package's own are read. Anyone may have made a file: only tensors are ever taken out of it, nothing in it is run, no
more is held in memory than it holds, and every weight must fit.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medical_sam2.errors import AmbiguousError, ResourceError, WeightsError, tells_of_memory
from medical_sam2.model.catalogue import (
    CONFIG_FILE,
    MODEL_FILE,
    NAMED_WEIGHTS,
    PICKLED,
    NamedWeights,
    available,
    fetch,
    is_hub_id,
    trained_size,
)
from medical_sam2.model.checkpoint_format import (
    SMALLEST,
    WeightsSettings,
    check_image_size,
    from_official,
    from_transformers,
    is_official,
    listed,
    make_pyramid,
    network_configuration,
    parse_config,
)
from medical_sam2.model.image_encoders import ConvPyramid
from medical_sam2.model.modules import Sam2Config
from medical_sam2.model.nano import Nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.plugins import find

__all__ = ["LoadedWeights", "NamedWeights", "available", "load_backbone", "read_weights", "save_backbone", "weights_file"]

PLUGIN = ".py:"
VERBS = ("encode", "fuse", "decode", "memorise")
SIZES = (512, "as MedSAM2's weights"), (1024, "as SAM 2's and those of Medical SAM 2")


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """Weights that were read."""

    weights: Mapping[str, Tensor]  # under the names of `Sam2`
    settings: WeightsSettings  # what their shapes do not tell
    file: Path  # where they came from

    def configuration(self, image_size: int | None = None) -> Sam2Config:
        """The configuration of the network that they fit, for another input size where one is given.

        Raises:
            WeightsError: a weight that every SAM 2 has is missing, or the image encoder is none of the official ones.
            AmbiguousError: nothing tells the input size.
        """
        size = image_size or self.settings.image_size
        try:
            settings = self.settings
            found = network_configuration(self.weights, size or SMALLEST, encoder=settings.hiera, heads=settings.mask_heads)
        except WeightsError as error:
            raise error.about(self.file) from error
        if size is None:
            problem = "the file does not tell what size of input it was trained for, and any other spoils what it finds"
            choices = [f"--image-size {pixels} ({whose})" for pixels, whose in SIZES]
            remedy = "say it, once for all by `medsam2 weights convert` where a command does not ask"
            raise AmbiguousError(problem, remedy, subject=self.file, choices=choices)
        return found


def load_backbone(
    name_or_path: str | Path = "nano", *, image_size: int | None = None, memory_dtype: torch.dtype | None = None
) -> Sam2:
    """A network with its weights, in float32, ready to be used.

    Args:
        name_or_path: a name that `available` lists, a file (.safetensors, .pt), a folder with model.safetensors, or an id on
            the Hugging Face hub ("facebook/sam2.1-hiera-tiny"), with a file of that repository where it holds several; or
            `file.py:attribute`: what makes a network of your own (see `Backbone`), called with `image_size` or None.
        image_size: side of the network's square input in pixels, a multiple of 32; that of its training unless given.
        memory_dtype: type that memories are rounded to; the official predictor uses bfloat16.

    Raises:
        WeightsError: there are no such weights, they cannot be reached, are broken, hold anything but finite numbers, or do
            not fit: every weight that is missing or too many is named.
        AmbiguousError: a repository on the hub holds several files of weights, or no `image_size` is given and nothing tells
            what the weights were trained for: the official layout keeps none, and only published files tell it by their name.
    """
    size = check_image_size(image_size) if image_size is not None else None
    if PLUGIN in str(name_or_path):
        make: Callable[[int | None], Sam2] = find({}, str(name_or_path), what="backbone")
        made = make(size) if callable(make) else None
        if made is None or not all(callable(getattr(made, verb, None)) for verb in VERBS):
            remedy = f"give a class or a function of the image size whose result can {', '.join(VERBS)} (see Backbone)"
            raise WeightsError("it makes no network", remedy, subject=name_or_path)
        return made
    found = read_weights(name_or_path)
    try:
        return _network(found, found.configuration(size), memory_dtype)
    except WeightsError as error:
        raise error.about(found.file) from error


def read_weights(name_or_path: str | Path) -> LoadedWeights:
    """The weights, no network made of them yet.

    Raises:
        WeightsError, AmbiguousError: as for `load_backbone`.
    """
    file = weights_file(name_or_path)
    weights = read_tensors(file)
    config, size = file.with_name(CONFIG_FILE), trained_size(str(name_or_path)) or trained_size(file.name)
    if is_official(weights):
        return LoadedWeights(from_official(weights), WeightsSettings(image_size=size), file)
    try:
        settings = (
            parse_config(read_config(config))
            if config.is_file() and file.name == MODEL_FILE
            else WeightsSettings(image_size=size)
        )
    except WeightsError as error:
        raise error.about(config) from error
    return LoadedWeights(from_transformers(weights), settings, file)


def weights_file(name_or_path: str | Path) -> Path:
    """The file of weights, fetched from the hub if it must be; of a network of the user's, its Python file.

    Raises:
        WeightsError, AmbiguousError: as for `load_backbone`.
    """
    if PLUGIN in str(name_or_path):
        return Path(str(name_or_path).rpartition(":")[0])
    named = NAMED_WEIGHTS.get(str(name_or_path))
    path = _locate(str(name_or_path) if named is None else named.source, named)
    return path / MODEL_FILE if path.is_dir() else path


def save_backbone(network: Sam2, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that `load_backbone` reads: model.safetensors and config.json, each whole or not at all.

    Both are on the disk before either takes its place, so that a full disk leaves what was there. Weights are never left
    beside settings that are not theirs: those of an earlier network go first.

    Args:
        dtype: float32, bfloat16 or float16.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    settings = json.dumps(_settings(network).as_json(), indent=2) + "\n"
    contents = {CONFIG_FILE: settings.encode(), MODEL_FILE: save(weights, {"format": "pt"})}
    drafts = {name: folder / f".{name}.{os.getpid()}" for name in contents}
    try:
        for name, draft in drafts.items():
            _write(draft, contents[name])
        if not (folder / CONFIG_FILE).is_file() or (folder / CONFIG_FILE).read_bytes() != contents[CONFIG_FILE]:
            (folder / MODEL_FILE).unlink(missing_ok=True)
        for name, draft in drafts.items():
            draft.replace(folder / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


class _Undrawn(TorchFunctionMode):
    """Within it no weight is drawn: on the device "meta" torch would load its compiler for that, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


def _network(found: LoadedWeights, config: Sam2Config, memory_dtype: torch.dtype | None) -> Sam2:
    """Shapes are compared on a network that takes no memory; only then are the numbers copied."""
    weights = found.weights
    with torch.device("meta"), _Undrawn():
        pixels = found.settings.pixels
        encoder = make_pyramid(weights) if found.settings.encoder == "pyramid" else None
        if encoder is not None and any(name.startswith("carry.") for name in weights):
            network: Sam2 = Nano(config, encoder, pixels=pixels, memory_dtype=memory_dtype)
        else:
            network = Sam2(config, encoder, pixels=pixels, memory_dtype=memory_dtype)
    _check_fit(network.state_dict(), weights)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{name} holds NaN or infinite numbers", "fetch or train the weights again")
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    network.load_state_dict(copies, assign=True)
    return network.requires_grad_(True).eval()


def _check_fit(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    shapes = [
        f"{name} has shape {tuple(got[name].shape)} where the network has {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & got.keys())
        if wanted[name].shape != got[name].shape
    ]
    parts = {"missing": wanted.keys() - got.keys(), "unexpected": got.keys() - wanted.keys()}
    faults = [f"{what} {listed(names)}" for what, names in parts.items() if names] + shapes
    if faults:
        raise WeightsError("; ".join(faults), "give weights of a SAM 2 or SAM 2.1 network")


def _settings(network: Sam2) -> WeightsSettings:
    config, heads = network.config, network.config.decoder_heads
    if isinstance(network.vision_encoder, ConvPyramid):
        return WeightsSettings("pyramid", network.image_size, network.pixels, heads)
    return WeightsSettings("hiera", network.image_size, network.pixels, heads, config.hiera and config.hiera.attention)


def _locate(name: str, named: NamedWeights | None) -> Path:
    if named is not None and named.source == "embedded":
        if not named.here:
            raise WeightsError("these weights are not in this installation", "reinstall the package", subject=named.name)
        return named.folder
    path = Path(name)
    if named is None and (path.exists() or not is_hub_id(name)):
        if path.suffix or path.exists():
            return path
        problem = "there are no weights of this name, and no such file or folder"
        raise WeightsError(
            problem, f"give a path, an id on the Hugging Face hub, or one of {', '.join(NAMED_WEIGHTS)}", subject=name
        )
    return fetch(name)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


WRAPPERS = ("model", "state_dict", "model_state_dict")  # under which training code keeps the weights
CONFIG_BYTES = 1 << 20
N = TypeVar("N", bound=nn.Module)
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


def read_small_network(path: Path, build: Callable[[Mapping[str, Tensor]], N], what: str) -> N | None:
    """A network that was learnt beside the weights; None where there is no such file.

    Args:
        path: of its tensors.
        build: the network that tensors of these shapes belong to.
        what: it is, for whoever has to fit it again.

    Raises:
        WeightsError: the file is broken, or of another version.
    """
    if not path.is_file():
        return None
    remedy = f"fit {what} again (benchmarks/README.md), or remove the file to go on without"
    tensors = {name: tensor.float() for name, tensor in read_tensors(path).items()}
    if any(not tensor.isfinite().all() for tensor in tensors.values()):
        raise WeightsError("it holds NaN or infinite numbers", remedy, subject=path)
    try:
        network = build(tensors)
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError):
        raise WeightsError("it does not fit this version", remedy, subject=path) from None
    return network.eval().requires_grad_(False)


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most one megabyte; raises WeightsError if it is missing, too large or no JSON object."""
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise WeightsError("is too large for a configuration", "give the one that belongs to the weights", subject=path)
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError("is no readable configuration", "give the one that belongs to the weights", subject=path) from error
    if not isinstance(content, dict):
        raise WeightsError("is no configuration: not a JSON object", "give the one that belongs to the weights", subject=path)
    return content


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        _refuse_without_memory(error, path)
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
        _refuse_without_memory(error, path)
        raise WeightsError(f"broken or incomplete ({_reason(error)})", "fetch it again", subject=path) from error


def _refuse_without_memory(error: Exception, path: Path) -> None:
    """Sound weights that find no room are not broken."""
    if tells_of_memory(error):
        problem = f"the memory is exhausted: the weights take {path.stat().st_size / 1e6:.0f} MB"
        raise ResourceError(problem, "close other programs or lift the limit (ulimit -v)", subject=path) from error


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
