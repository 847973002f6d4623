"""What the encoder saw, kept on disk: found again by content and weights, never by path or name."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medical_sam2.errors import InputError
from medical_sam2.frames import Window
from medical_sam2.io import atomic
from medical_sam2.model.backbone import Features

FORM = "2"
"""Of what is written, and of how an image becomes network input; another one finds nothing of this one's."""


def fingerprint(network: nn.Module, *settings: object) -> str:
    """Of a network's weights, and of settings that change what it sees."""
    digest = sha256(repr((FORM, type(network).__name__, *map(str, settings))).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureStore:
    """A folder of features, one file for each image and network.

    Args:
        folder: made where it is missing; its parent must exist.
        weights: see `fingerprint`.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, weights: str) -> None:
        self.folder, self._weights = folder, weights
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # features tell much of the image
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise InputError(f"the folder for features cannot be made: {reason}", "give another", subject=folder) from None

    def get(
        self, image: NDArray[np.generic], device: torch.device, encode: Callable[[], Features], *, seen: Window | None = None
    ) -> Features:
        """Features of an image, encoded and kept where they are not there, or are damaged.

        Args:
            image: that is looked at.
            device: of the network.
            encode: makes the features.
            seen: window that it is seen through, where the image alone does not decide.
        """
        file = self.folder / f"{self._key(image, seen)}.safetensors"
        try:
            return _unpacked(load(file.read_bytes()), device)
        except (OSError, SafetensorError, KeyError):
            features = encode()
        atomic.write_bytes(file, save(_packed(features)))
        return features

    def _key(self, image: NDArray[np.generic], seen: Window | None) -> str:
        digest = sha256(f"{self._weights} {image.shape} {image.dtype.str}{'' if seen is None else f' {seen}'}".encode())
        digest.update(np.ascontiguousarray(image).view(np.uint8).data)
        return digest.hexdigest()


def _packed(features: Features) -> dict[str, Tensor]:
    first, second = features.fine_BChw
    tensors = {"top": features.top_BChw, "first": first, "second": second, "summary": features.summary_BC}
    further = {"key": features.key_BDhw, "look": features.look_BDhw, "finest": features.finest_BChw}
    tensors |= {name: tensor for name, tensor in further.items() if tensor is not None}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _unpacked(tensors: dict[str, Tensor], device: torch.device) -> Features:
    there = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Features(
        there["top"], (there["first"], there["second"]), there["summary"], *map(there.get, ("key", "look", "finest"))
    )
