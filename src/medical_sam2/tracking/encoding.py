"""What the encoder saw, kept in memory and on disk (`FeatureCache`, `FeatureStore`); OpenVINO's encoder (`CompiledEncoder`).

Features are found again by the content of the network's input, never by a name. OpenVINO (the extra `openvino`) computes the
same numbers in less time on a processor. What was converted is kept in a folder by the content of the weights, so that it
happens once for each size of input. OpenVINO's own conversion command reports its use to its makers; the front end that is
called here instead reports nothing. It is imported where it is used: it is optional, and slow to load.

Shapes: N frames, S side of the network's square input.
"""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from hashlib import blake2b, sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medical_sam2.errors import ConfigError, FeaturesNotKept, InputError, MedicalSam2Error
from medical_sam2.io import atomic
from medical_sam2.io.safe_open import as_path
from medical_sam2.model.backbone import Backbone, Features
from medical_sam2.model.memory_attention import versions
from medical_sam2.model.sam2 import Sam2

FORM = "2"
"""Of what is written to disk; another one finds nothing of this one's."""
LATEST = 16  # frames that stay however full the cache is: what was just seen is often asked for again at once
PASSES = 4  # times as many look-ups as frames are held, after which a frame that nobody asked for is the first to go


def content_key(frame_3SS: Tensor) -> bytes:
    """What tells a picture from all others; of a grey one, whose planes are one, a single plane is read."""
    grey = frame_3SS.stride(0) == 0
    plane = (frame_3SS[:1] if grey else frame_3SS).contiguous().cpu().numpy()
    return blake2b(plane.data, digest_size=16, person=b"grey" if grey else b"colour").digest()


def fingerprint(network: nn.Module, *settings: object) -> str:
    """Of a network's weights, and of settings that change what it sees."""
    digest = sha256(repr((FORM, type(network).__name__, *map(str, settings))).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureCache:
    """Features in memory, within a limit of bytes.

    When it is full, the latest few stay, and of the others what was asked for last goes first: whoever passes again and again
    over more frames than fit, one way or the other, finds most of them that fit, where the usual rule (what was asked for
    longest ago goes) would find none. What was not asked for during several such passes goes before all else.

    Args:
        limit_mb: what may be held, beside one frame however large.
    """

    def __init__(self, limit_mb: float = 384.0) -> None:
        self._limit, self._held, self._asked = limit_mb * 2**20, 0, 0
        self._features: OrderedDict[Hashable, tuple[int, Features]] = OrderedDict()
        self._lock = threading.Lock()  # a helper may see one frame while another one is looked up
        self._made_by: tuple[object, list[Tensor]] = (None, [])

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[float]]:
        return FeatureCache, (self._limit / 2**20,)  # a copy begins without any

    def of(self, weights: Iterable[Tensor], *settings: Hashable) -> "FeatureCache":
        """Itself; emptied, if other weights or settings, or these before they were changed, made what is held."""
        now = list(weights)
        stamp = (settings, versions(now))
        if stamp != self._made_by[0]:
            self._features.clear()
            self._held = 0
            self._made_by = stamp, [weight.detach() for weight in now]  # held, so that no other weight gets their address
        return self

    def get(self, key: Hashable, encode: Callable[[], Features]) -> Features:
        """Features under a key, encoded where they are not held."""
        with self._lock:
            held = self._features.get(key)
        features = encode() if held is None else held[1]
        with self._lock:
            self._asked += 1
            if self._features.pop(key, None) is None:
                self._held += _bytes(features)
            self._features[key] = self._asked, features
            while self._held > self._limit and len(self._features) > 1:
                self._held -= _bytes(self._features.pop(self._dispensable())[1])
        return features

    def _dispensable(self) -> Hashable:
        """The key of what goes next."""
        oldest = next(iter(self._features))
        if self._asked - self._features[oldest][0] > PASSES * len(self._features):
            return oldest
        return next(islice(reversed(self._features), LATEST, None), oldest)


class FeatureStore:
    """A folder of features, one file for each picture and network; when it is full, what is there stays and nothing is added.

    It is a cache: where it cannot be written, it warns once (`FeaturesNotKept`) and keeps nothing more.

    Args:
        folder: made where it is missing; its parent must exist.
        weights: see `fingerprint`.
        limit_mb: that the folder may have.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], weights: str, limit_mb: float = 20_000.0) -> None:
        self.folder, self._weights = (folder := as_path(folder)), weights
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # features tell much of the image
            self._room = limit_mb * 2**20 - sum(file.stat().st_size for file in folder.iterdir())
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise InputError(f"the folder for features cannot be made: {reason}", "give another", subject=folder) from None

    def load(self, key: bytes, device: torch.device) -> Features | None:
        """Features of a picture, see `content_key`, on a device; None where they are not there. Damaged ones are removed."""
        file = self._file(key)
        try:
            return unpack_features(load(file.read_bytes()), device)
        except OSError:  # it is encoded anew, whatever keeps it from being read
            return None
        except (SafetensorError, KeyError):
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return None

    def keep(self, key: bytes, features: Features) -> None:
        """Write the features of a picture, unless they are there."""
        file, size = self._file(key), _bytes(features)
        if size >= self._room:
            return
        try:
            if not file.exists():
                atomic.write_bytes(file, save(pack_features(features)))
                self._room -= size
        except (MedicalSam2Error, OSError) as error:
            self._room = 0.0
            reason = error.problem.partition(";")[0] if isinstance(error, MedicalSam2Error) else (error.strerror or "").lower()
            told = f"{self.folder}: no more features are kept here: {reason}; the result is the same, a next run takes longer"
            warnings.warn(told, FeaturesNotKept, stacklevel=2)

    def _file(self, key: bytes) -> Path:
        return self.folder / f"{sha256(self._weights.encode() + key).hexdigest()}.safetensors"


def _bytes(features: Features) -> int:
    return sum(part.nbytes for part in _parts(features).values())


def _parts(features: Features) -> dict[str, Tensor]:
    top, (first, second), summary = features.top_BChw, features.fine_BChw, features.summary_BC
    return {"top": top, "first": first, "second": second, "summary": summary, **features.own}


def pack_features(features: Features) -> dict[str, Tensor]:
    """The parts by name, on the processor, each with memory of its own."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _parts(features).items()}


def unpack_features(tensors: dict[str, Tensor], device: torch.device) -> Features:
    """Features of `pack_features` parts, on a device."""
    own = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Features(own.pop("top"), (own.pop("first"), own.pop("second")), own.pop("summary"), own)


FILE = "encoder.xml"
ENCODER_VERSION = "2"
"""Of how the encoder is computed, as far as it matters to a compiler; another one converts anew."""
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
"""How far what was compiled may be from the network, as a share of the largest value; rounding takes a hundredth in bf16."""


class CompiledEncoder:
    """What `Sam2.encode` does, on the processor.

    Args:
        network: whose encoder it is.
        precision: "fp32" or "bf16".
        folder: that keeps what was converted; `default_folder()` unless given.

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
        self._compiled: dict[object, tuple[Any, dict[str, torch.dtype]]] = {}
        self._lock = threading.RLock()  # what was compiled answers one at a time, and two ways may be tracked at once

    def __call__(self, frames_N3SS: Tensor) -> Features:
        """What the encoder sees on N frames, normalised as the weights expect them."""
        with self._lock:
            return self._encode(frames_N3SS)

    def _encode(self, frames_N3SS: Tensor) -> Features:
        stamp = frames_N3SS.shape, versions([*self._network.parameters(), *self._network.buffers()])
        if stamp not in self._compiled:
            model = self._model(frames_N3SS)
            names = [port.any_name for port in model.outputs]  # compiled, they would have others too
            kinds = {name: part.dtype for name, part in pack_features(self._network.encode(frames_N3SS)).items()}
            self._compiled = {stamp: (_compile_model(model, self._precision), {name: kinds[name] for name in names})}
            self._check(frames_N3SS)
        compiled, kinds = self._compiled[stamp]
        found = compiled(frames_N3SS.float().contiguous().numpy()).to_tuple()
        # OpenVINO hands out float32; what the network would round is rounded, for the room and for who computes with it
        parts = {name: torch.from_numpy(part).to(kind) for (name, kind), part in zip(kinds.items(), found, strict=True)}
        return unpack_features(parts, frames_N3SS.device)

    def _check(self, frames_N3SS: Tensor) -> None:
        """A compiler's mistake must not become a mask."""
        with torch.autocast("cpu", enabled=False):
            wanted, found = pack_features(self._network.encode(frames_N3SS)), pack_features(self(frames_N3SS))
        for name, part in wanted.items():
            if not (part - found[name]).abs().max() <= TOLERANCE[self._precision] * part.abs().max():
                raise ConfigError("OpenVINO does not compute what this network computes", "choose the engine torch")

    def _model(self, frames_N3SS: Tensor) -> Any:
        """The encoder in OpenVINO's form, from the folder where it is there."""
        import openvino

        settings = (ENCODER_VERSION, tuple(frames_N3SS.shape), openvino.get_version(), torch.__version__)
        place = self._folder / fingerprint(self._network, *settings)
        if not place.is_dir():
            _save_model(convert_encoder(self._network, frames_N3SS), place)
        return openvino.Core().read_model(place / FILE)


class _Encode(nn.Module):
    def __init__(self, network: Sam2) -> None:
        super().__init__()
        self.network, self.names = network, list[str]()

    def forward(self, frames_N3SS: Tensor) -> tuple[Tensor, ...]:
        parts = pack_features(self.network.encode(frames_N3SS))
        self.names[:] = parts
        return tuple(parts.values())


def convert_encoder(network: Sam2, frames_N3SS: Tensor) -> Any:
    """`Sam2.encode` for frames of this shape as an OpenVINO model, with an output for each part of the features."""
    from openvino.frontend.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module = _Encode(network).eval()
    quietly = warnings.catch_warnings(action="ignore")  # of tracing: sizes become constants, as they should
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False), quietly:
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


def _save_model(model: Any, place: Path) -> None:
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


def _compile_model(model: Any, precision: str) -> Any:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    return openvino.Core().compile_model(model, "CPU", options)


def choose_encoder(engine: str, network: Backbone, precision: Literal["fp32", "bf16"]) -> Callable[[Tensor], Features]:
    """Frames (N, 3, S, S) in [0, 1] → what the network sees, by torch or by OpenVINO.

    Raises:
        ConfigError: there is no such engine here.
    """
    if engine not in {"torch", "openvino"}:
        raise ConfigError(f"unknown engine {engine!r}", "choose torch or openvino")
    if not isinstance(network, Sam2):
        if engine == "openvino":
            raise ConfigError("OpenVINO compiles the encoder of a SAM 2 alone", "choose the engine torch")
        return network.encode
    encode = network.encode if engine == "torch" else CompiledEncoder(network, precision)
    return lambda frames_N3SS: encode(network.normalised(frames_N3SS))
