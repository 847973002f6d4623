"""`medsam2 doctor`: what this machine has, and what that means for speed and for what can be done.

And `medsam2 weights`: which networks there are, what a file of weights holds, and how to bring one into this package's form.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from medical_sam2.cli import EXTRAS, installed_version
from medical_sam2.cli.options import Json
from medical_sam2.model.catalogue import available

PACKAGES = ("medical-sam2", "torch", "numpy", "scipy", "nibabel", "pydicom", "safetensors")
FEATURES = ("avx2", "avx512_bf16", "amx_bf16", "neon", "bf16")
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
GIB = 2**30
weights = App(name="weights")


@dataclass(frozen=True)
class Device:
    """A GPU that torch can use, its memory in GiB (None where it is shared with the processor)."""

    device: str
    name: str
    memory_gib: float | None


@dataclass(frozen=True)
class EmbeddedWeights:
    """A set of embedded weights."""

    name: str
    size_mb: float
    sha256: str
    problem: str | None = None


@dataclass(frozen=True)
class Extra:
    """An optional part of this package."""

    name: str
    gives: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """All that `doctor` finds."""

    python: str
    system: str
    versions: dict[str, str | None]  # package → version, None where it is absent
    processor: str
    cores: int  # those that this process may use
    features: tuple[str, ...]  # names of processor features that matter here
    fast_bf16: bool  # whether the processor computes with bfloat16 itself
    memory_gib: float  # of the machine, or of the container where that is less
    devices: tuple[Device, ...]
    weights: tuple[EmbeddedWeights, ...]
    extras: tuple[Extra, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the package from working, one line each."""
        absent = [f"{name} is not installed; run: pip install {name}" for name, found in self.versions.items() if not found]
        broken = [f"weights {found.name}: {found.problem}; install the package anew" for found in self.weights if found.problem]
        none = [] if self.weights else ["no weights are embedded; name a checkpoint, or install the package anew"]
        return (*absent, *broken, *none)


def examine() -> Health:
    """Look at this machine and this installation; reads no file but the package's own, opens no connection."""
    found = capabilities()
    return Health(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={name: installed_version(name) for name in PACKAGES},
        processor=str(found.get("cpu_name") or platform.processor() or platform.machine()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(name for name in FEATURES if found.get(name)),
        fast_bf16=any(found.get(name) for name in FAST_BF16),
        memory_gib=round(memory_bytes() / GIB, 1),
        devices=tuple(devices()),
        weights=tuple(embedded(Path(str(files("medical_sam2") / "weights")))),
        extras=tuple(Extra(name, gives, missing(modules)) for name, (modules, gives) in EXTRAS.items()),
    )


def missing(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Those that cannot be imported."""
    return tuple(name for name in modules if find_spec(name) is None)


def capabilities() -> dict[str, object]:
    """What torch knows of the processor; nothing where torch is absent or older."""
    if find_spec("torch") is None:
        return {}
    import torch

    ask = getattr(torch.cpu, "get_capabilities", dict)
    return dict(ask())


def memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(machine, int(text)) if text.isdecimal() else machine


def devices() -> Iterator[Device]:
    """The GPUs that torch can use."""
    if find_spec("torch") is None:
        return
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Device(f"cuda:{index}", properties.name, round(properties.total_memory / GIB, 1))
    if torch.backends.mps.is_available():
        yield Device("mps", platform.processor(), None)


def embedded(folder: Path) -> Iterator[EmbeddedWeights]:
    """The sets of weights in a folder, each read once."""
    for path in sorted(folder.glob("*/model.safetensors")):
        content = path.read_bytes()
        yield EmbeddedWeights(
            path.parent.name, round(len(content) / 1e6, 1), hashlib.sha256(content).hexdigest(), find_problem(path)
        )


def find_problem(path: Path) -> str | None:
    """Why a file of weights cannot be read, None if it can."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return None if tensors.keys() else "the file holds no tensor"
    except SafetensorError as error:
        return f"the file is broken ({error})"


def as_json(health: Health) -> str:
    """One object, with its problems."""
    return json.dumps({**asdict(health), "problems": health.problems}, indent=2)


def as_text(health: Health) -> str:
    """Lines for a person."""
    return "\n".join(f"{topic:<11} {text}" for topic, text in facts_of(health))


# One line for each fact, whatever is absent: people paste this into reports of faults.
def facts_of(health: Health) -> Iterator[tuple[str, str]]:
    """Topic and text of each line."""
    yield "system", f"Python {health.python}, {health.system}"
    for name, found in health.versions.items():
        yield "package", f"{name} {found or 'absent'}"
    yield "processor", f"{health.processor}, {health.cores} cores, {', '.join(health.features) or 'no special features'}"
    yield (
        "bfloat16",
        "computed by the processor, so bf16 pays" if health.fast_bf16 else "emulated by the processor, so fp32 is faster",
    )
    yield "memory", f"{health.memory_gib} GiB"
    if not health.devices:
        yield "gpu", "none; the processor does the work"
    for gpu in health.devices:
        yield "gpu", f"{gpu.device} {gpu.name}, {gpu.memory_gib or 'shared'} GiB"
    for found in health.weights:
        yield "weights", f"{found.name}, {found.size_mb} MB, sha256 {found.sha256}"
    for extra in health.extras:
        state = f'absent: pip install "medical-sam2[{extra.name}]"' if extra.missing else "installed"
        yield "extra", f"{extra.name:<9} {extra.gives} ({state})"
    for text in health.problems:
        yield "PROBLEM", text


def doctor(*, one_object: Json = False) -> int:
    """Tell what this machine and this installation can do; exit code 2 if something keeps the package from working.

    Args:
        one_object: print one JSON object instead of lines for a person.
    """
    health = examine()
    print(as_json(health) if one_object else as_text(health))
    return 2 if health.problems else 0


@weights.command(name="list")
def list_(*, one_object: Json = False) -> None:
    """List the weights that have a name, and whether they are on this machine.

    Args:
        one_object: print JSON instead of a table.
    """
    rows = [{**asdict(entry), "here": entry.here} for entry in available()]
    if one_object:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        place = "here" if row["here"] else "to be fetched" if row["source"] != "embedded" else "absent"
        print(f"{row['name']:<25} {row['image_size']:>5} px  {place:<14} {row['note']}  [{row['source']}]")


@weights.command
def info(name: str, *, one_object: Json = False) -> None:
    """Describe a file of weights without building its network; names that are on the hub are fetched.

    Args:
        name: a name that `list` shows, a file, a folder or an id on the Hugging Face hub.
        one_object: print one JSON object instead of lines for a person.
    """
    description = _describe_weights(name)
    if one_object:
        print(json.dumps(description, indent=2))
        return
    for field, value in description.items():
        text = "not in the file: give --image-size" if value is None else value
        print(f"{field:<12} {' '.join(map(str, value)) if isinstance(value, tuple) else text}")


@weights.command
def convert(
    name: str,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    image_size: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Write weights of any kind that is read as a folder with model.safetensors and config.json.

    Args:
        name: a name that `list` shows, a file, a folder or an id on the Hugging Face hub.
        output: folder to write; weights that are there already are replaced.
        image_size: side of the input in pixels, a multiple of 32; that of the training unless given.
        precision: of the numbers on disk.
    """
    import torch

    from medical_sam2.model.weights import load_backbone, save_backbone  # takes seconds to load: not for `weights list`

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    save_backbone(load_backbone(name, image_size=image_size), output, dtype=dtype)
    sys.stderr.write(f"{output}: written\n")


def _describe_weights(name: str) -> dict[str, Any]:
    """What a file of weights holds; `image_size` is None where it must be given."""
    from medical_sam2.model.weights import SMALLEST, read_weights  # takes seconds to load: not for `weights list`

    found = read_weights(name)
    config = found.configuration(found.settings.image_size or SMALLEST)  # the shapes do not depend on it
    with found.file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    blocks = f" {'-'.join(map(str, config.hiera.blocks))}" if config.hiera and found.settings.encoder == "hiera" else ""
    return {
        "file": str(found.file),
        "size_mb": round(found.file.stat().st_size / 1e6, 1),
        "sha256": checksum,
        "encoder": found.settings.encoder + blocks,
        "image_size": found.settings.image_size,
        "parameters": sum(tensor.numel() for tensor in found.weights.values()),
        "precision": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.weights.values()})),
        "mean": found.settings.pixels.mean,
        "std": found.settings.pixels.std,
    }
