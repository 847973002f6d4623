"""A segmenter that sees the same picture once: structures, methods, seeds and conditions of a case share what was encoded."""

from hashlib import blake2b

from torch import Tensor

from medical_sam2.frames import FeatureCache
from medical_sam2.model.backbone import Features
from medical_sam2.model.sam2 import Sam2
from medical_sam2.segmenter import Precision, Segmenter

KEEP_MB = 1500.0


class Remembering(Segmenter):
    """Keeps features by the content of the network's input, so by picture, region, window and size alike.

    Args:
        network: as of `Segmenter`.
        device: as of `Segmenter`.
        precision: as of `Segmenter`.
        keep_mb: of features that are held.
    """

    def __init__(self, network: Sam2, *, device: str = "auto", precision: Precision = "auto", keep_mb: float = KEEP_MB) -> None:
        super().__init__(network, device=device, precision=precision)
        self._kept = FeatureCache(keep_mb)

    @classmethod
    def of(cls, base: Segmenter, keep_mb: float = KEEP_MB) -> "Remembering":
        """One with the network of another."""
        return cls(base.network, device=str(base.device), precision=base.precision, keep_mb=keep_mb)

    def encode(self, frame_3SS: Tensor) -> Features:
        """What the network sees on one frame (3, S, S) in [0, 1]; at once where it was seen before."""
        return self._kept.get(content(frame_3SS), lambda: super(Remembering, self).encode(frame_3SS))


def content(frame_3SS: Tensor) -> bytes:
    """What tells a picture from all others; of a grey one, whose planes are one, a single plane is read."""
    grey = frame_3SS.stride(0) == 0
    plane = (frame_3SS[:1] if grey else frame_3SS).contiguous().numpy()
    return blake2b(plane.data, digest_size=16, person=b"grey" if grey else b"colour").digest()
