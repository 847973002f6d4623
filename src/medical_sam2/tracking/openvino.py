"""The image encoder compiled by OpenVINO (the extra `openvino`): the same numbers, in less time on a processor.

What was converted is kept in a folder by the content of the weights, so that it happens once for each size of input.
OpenVINO's own conversion command tells its makers of its use; the front end that is called here instead tells nobody.

Shapes: N frames, S side of the network's square input.
"""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn

from medical_sam2.errors import ConfigError
from medical_sam2.model.backbone import Features
from medical_sam2.model.memory_attention import versions
from medical_sam2.model.sam2 import Sam2
from medical_sam2.tracking.feature_cache import fingerprint, packed, unpacked

FILE = "encoder.xml"
WRITTEN = "2"
"""Of how the encoder is computed, as far as it matters to a compiler; another one converts anew."""
APART = {"fp32": 1e-3, "bf16": 0.05}
"""How far what was compiled may be from the network, as a share of the largest value; rounding takes a hundredth in bf16."""


class CompiledEncoder:
    """What `Sam2.encode` does, on the processor.

    Args:
        network: whose encoder it is.
        precision: "fp32" or "bf16".
        folder: that keeps what was converted; `default_folder()` unless told.

    Raises:
        ConfigError: OpenVINO is not installed, or the network is not on the processor; at the first frame of each size also
            where OpenVINO computes anything else than the network does.
    """

    def __init__(self, network: Sam2, precision: str, folder: Path | None = None) -> None:
        if find_spec("openvino") is None:
            raise ConfigError("OpenVINO is not installed", "pip install 'medical-sam2[openvino]', or choose the engine torch")
        if network.device.type != "cpu":
            raise ConfigError(f"OpenVINO computes on the processor, not on {network.device}", "choose the device cpu")
        self._network, self._precision, self._folder = network, precision, folder or default_folder()
        self._compiled: dict[object, tuple[Any, list[str]]] = {}

    def __call__(self, frames_N3SS: Tensor) -> Features:
        """What the encoder sees on N frames, normalised as the weights expect them."""
        stamp = frames_N3SS.shape, versions([*self._network.parameters(), *self._network.buffers()])
        if stamp not in self._compiled:
            model = self._model(frames_N3SS)
            names = [port.any_name for port in model.outputs]  # compiled, they would have others too
            self._compiled = {stamp: (_compiled(model, self._precision), names)}
            self._check(frames_N3SS)
        compiled, names = self._compiled[stamp]
        found = compiled(frames_N3SS.float().contiguous().numpy()).to_tuple()
        parts = {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}
        return unpacked(parts, frames_N3SS.device)

    def _check(self, frames_N3SS: Tensor) -> None:
        """A compiler's mistake must not become a mask."""
        with torch.autocast("cpu", enabled=False):
            wanted, found = packed(self._network.encode(frames_N3SS)), packed(self(frames_N3SS))
        for name, part in wanted.items():
            if not (part - found[name]).abs().max() <= APART[self._precision] * part.abs().max():
                raise ConfigError("OpenVINO does not compute what this network computes", "choose the engine torch")

    def _model(self, frames_N3SS: Tensor) -> Any:
        """The encoder in OpenVINO's form, from the folder where it is there."""
        import openvino

        settings = (WRITTEN, tuple(frames_N3SS.shape), openvino.get_version(), torch.__version__)
        place = self._folder / fingerprint(self._network, *settings)
        if not place.is_dir():
            _keep(converted(self._network, frames_N3SS), place)
        return openvino.Core().read_model(place / FILE)


class _Encode(nn.Module):
    def __init__(self, network: Sam2) -> None:
        super().__init__()
        self.network, self.names = network, list[str]()

    def forward(self, frames_N3SS: Tensor) -> tuple[Tensor, ...]:
        parts = packed(self.network.encode(frames_N3SS))
        self.names[:] = parts
        return tuple(parts.values())


def converted(network: Sam2, frames_N3SS: Tensor) -> Any:
    """`Sam2.encode` for frames of this shape as an OpenVINO model, with an output for each part of the features."""
    from openvino.frontend.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module = _Encode(network).eval()
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: sizes become constants, as they should
        module(frames_N3SS.float())  # what the network keeps from the first frame on is there before it is traced
        decoder = TorchScriptPythonDecoder(module, example_input=frames_N3SS.float().clone())
        front = FrontEndManager().load_by_framework("pytorch")
        model = front.convert(front.load(decoder))  # which does not hold the decoder itself
    for port, name in zip(model.outputs, module.names, strict=True):
        port.get_tensor().set_names({name})
    return model


def default_folder() -> Path:
    """Where what was converted is kept: `medsam2/openvino` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "medsam2" / "openvino"


def _keep(model: Any, place: Path) -> None:
    """Write a model; who comes second finds it written."""
    import openvino

    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=".draft-", dir=place.parent))
    try:
        openvino.save_model(model, draft / FILE, compress_to_fp16=False)
        draft.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    finally:
        rmtree(draft, ignore_errors=True)


def _compiled(model: Any, precision: str) -> Any:
    import openvino

    told = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    return openvino.Core().compile_model(model, "CPU", told)
