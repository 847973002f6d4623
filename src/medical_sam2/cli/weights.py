"""`medsam2 weights`: which networks there are, what a file of weights holds, and how to bring one into this package's form."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

weights = App(name="weights")
Json = Annotated[bool, Parameter(name="--json", negative="")]


@dataclass(frozen=True)
class Description:
    """What a file of weights holds.

    Args:
        file: where they are.
        size_mb: size of the file.
        sha256: checksum of the file.
        encoder: kind of the image encoder, with its blocks per stage where it is a Hiera.
        image_size: side of the input that is used unless told, in pixels; None where it must be told.
        parameters: how many numbers.
        precision: types of the numbers.
        mean: of the normalisation that the weights expect, for each channel.
        std: likewise.
    """

    file: str
    size_mb: float
    sha256: str
    encoder: str
    image_size: int | None
    parameters: int
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@weights.command(name="list")
def list_(*, one_object: Json = False) -> None:
    """List the weights that have a name, and whether they are on this machine.

    Args:
        one_object: print JSON instead of a table.
    """
    from medical_sam2.model.catalogue import available

    rows = [{**asdict(known), "here": known.here} for known in available()]
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
    description = asdict(_describe(name))
    if one_object:
        print(json.dumps(description, indent=2))
        return
    for field, value in description.items():
        told = "not told by the file: say --image-size" if value is None else value
        print(f"{field:<12} {' '.join(map(str, value)) if isinstance(value, tuple) else told}")


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

    from medical_sam2.model.weights import load_backbone, save_backbone

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    save_backbone(load_backbone(name, image_size=image_size), output, dtype=dtype)
    sys.stderr.write(f"{output}: written\n")


def _describe(name: str) -> Description:
    import hashlib

    from medical_sam2.model.checkpoint_format import SMALLEST
    from medical_sam2.model.weights import read_weights

    found = read_weights(name)
    config = found.configuration(found.settings.image_size or SMALLEST)  # the shapes do not depend on it
    with found.file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    trunk = getattr(config.vision_config, "backbone_config", None)
    blocks = f" {'-'.join(map(str, trunk.blocks_per_stage))}" if trunk and found.settings.encoder == "hiera" else ""
    return Description(
        file=str(found.file),
        size_mb=round(found.file.stat().st_size / 1e6, 1),
        sha256=checksum,
        encoder=found.settings.encoder + blocks,
        image_size=found.settings.image_size,
        parameters=sum(tensor.numel() for tensor in found.weights.values()),
        precision=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.weights.values()})),
        mean=found.settings.pixels.mean,
        std=found.settings.pixels.std,
    )
