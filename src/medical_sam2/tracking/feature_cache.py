"""What the encoder saw, kept in memory and on disk: found again by the content of the network's input, never by a name."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medical_sam2.errors import InputError
from medical_sam2.io import atomic
from medical_sam2.model.backbone import Features
from medical_sam2.model.memory_attention import versions

FORM = "2"
"""Of what is written to disk; another one finds nothing of this one's."""
LATEST = 16  # frames that stay however full the cache is: what was just seen is often asked for again at once
PASSES = 4  # times as many look-ups as frames are held, after which a frame that nobody asked for is the first to go


def content(frame_3SS: Tensor) -> bytes:
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
        self._made_by: tuple[object, list[Tensor]] = (None, [])

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
        self._asked += 1
        if key in self._features:
            features = self._features.pop(key)[1]
        else:
            features = encode()
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

    Args:
        folder: made where it is missing; its parent must exist.
        weights: see `fingerprint`.
        limit_mb: that the folder may have.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, weights: str, limit_mb: float = 20_000.0) -> None:
        self.folder, self._weights = folder, weights
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # features tell much of the image
            self._room = limit_mb * 2**20 - sum(file.stat().st_size for file in folder.iterdir())
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise InputError(f"the folder for features cannot be made: {reason}", "give another", subject=folder) from None

    def load(self, key: bytes, device: torch.device) -> Features | None:
        """Features of a picture, see `content`, on a device; None where they are not there. Damaged ones are removed."""
        file = self._file(key)
        try:
            return unpacked(load(file.read_bytes()), device)
        except OSError:  # it is encoded anew, whatever keeps it from being read
            return None
        except (SafetensorError, KeyError):
            file.unlink(missing_ok=True)
            return None

    def keep(self, key: bytes, features: Features) -> None:
        """Write the features of a picture, unless they are there."""
        file, size = self._file(key), _bytes(features)
        if size < self._room and not file.exists():
            atomic.write_bytes(file, save(packed(features)))
            self._room -= size

    def _file(self, key: bytes) -> Path:
        return self.folder / f"{sha256(self._weights.encode() + key).hexdigest()}.safetensors"


def _bytes(features: Features) -> int:
    return sum(part.nbytes for part in _parts(features).values())


def _parts(features: Features) -> dict[str, Tensor]:
    top, (first, second), summary = features.top_BChw, features.fine_BChw, features.summary_BC
    return {"top": top, "first": first, "second": second, "summary": summary, **features.own}


def packed(features: Features) -> dict[str, Tensor]:
    """The parts by name, on the processor, each with memory of its own."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _parts(features).items()}


def unpacked(tensors: dict[str, Tensor], device: torch.device) -> Features:
    """Features of `packed` parts, on a device."""
    own = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Features(own.pop("top"), (own.pop("first"), own.pop("second")), own.pop("summary"), own)
