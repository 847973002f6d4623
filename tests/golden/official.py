"""The deterministic weights behind the golden outputs: one array per official key, from the checksum of the key itself.

The outputs are those of the official SAM 2 predictor (SAM 2.1 tiny, 256 px, fp32, hole filling off) under these weights.
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent
VARIANTS = ("sam2.1_tiny", "sam2.1_small", "sam2.1_base_plus", "sam2.1_large", "sam2.0_tiny")


@cache
def keys(variant: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official state dict at 256 px."""
    return {name: tuple(shape) for name, shape in json.loads((FOLDER / "keys.json").read_text())[variant].items()}


def shapes_only(variant: str) -> dict[str, Tensor]:
    """The state dict without its numbers."""
    return {name: torch.empty(shape, device="meta") for name, shape in keys(variant).items()}


def state_dict(variant: str) -> dict[str, Tensor]:
    """The state dict with the numbers behind the golden outputs."""
    return {name: torch.from_numpy(array(name, shape)) for name, shape in keys(variant).items()}


def array(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers of one weight, the same on every machine: of a scale that keeps signals alive."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("pred_obj_score_head.layers.2.bias"):
        return np.full(shape, 5, np.float32)  # every object counts as visible
    if "positional_encoding_gaussian_matrix" in name:
        return noise
    if name.endswith("gamma"):
        return 0.5 + 0.1 * noise
    if name.endswith("weight") and is_norm(name, shape):
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    if len(shape) >= 2 and name.endswith("weight") and "embed" not in name.rsplit(".", 2)[-2]:
        return noise * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    return 0.3 * noise


def is_norm(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight belongs to a normalisation."""
    unnamed = "downscaling" in name or "mask_downsampler.encoder" in name or name.endswith("output_upscaling.1.weight")
    return "norm" in name or (unnamed and len(shape) == 1)


def frames() -> Tensor:
    """Six frames (6, 3, 256, 256), already normalised: smooth blobs that drift."""
    rng = np.random.default_rng(7)
    base, out = rng.standard_normal((3, 16, 16)).astype(np.float32), []
    for t in range(6):
        small = np.roll(base, t // 2, axis=2) + np.float32(0.05) * rng.standard_normal(base.shape).astype(np.float32)
        out.append(small.repeat(16, 1).repeat(16, 2))
    return torch.from_numpy(np.stack(out))


@cache
def outputs() -> dict[str, NDArray[np.float32]]:
    """What the official predictor answered."""
    with np.load(FOLDER / "sam2.1_tiny_256.npz") as archive:
        return {name: archive[name] for name in archive}
