"""Which device computes, and how exactly."""

from typing import Literal

import torch

from medical_sam2.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


def choose_device(name: str) -> torch.device:
    """The device called so; "auto" takes CUDA, then MPS, then the processor.

    Raises:
        ConfigError: no such device here.
    """
    # torch names devices that are not there, and refuses others only when they are used: both are told here
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:N or mps") from None
    absent = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent or device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"there is no device {name!r} here", "choose auto or cpu; `medsam2 doctor` lists what there is")
    return device


def choose_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """ "bf16" or "fp32"; "auto" takes bf16 where the device computes it by itself."""
    if name not in {"auto", "fp32", "bf16"}:
        raise ConfigError(f"unknown precision {name!r}", "choose auto, fp32 or bf16")
    if name != "auto":
        return "bf16" if name == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and _processor_computes_bf16() else "fp32"


def _processor_computes_bf16() -> bool:
    """Whether the processor has bf16, and oneDNN is not held to instructions that lack it (`ONEDNN_MAX_CPU_ISA`)."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
