"""`medsam2 weights`: which networks there are, what a file of weights holds, and how to bring one into this package's form."""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from medical_sam2.model.catalogue import available

weights = App(name="weights")
Json = Annotated[bool, Parameter(name="--json", negative="")]


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
    description = _describe(name)
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


def _describe(name: str) -> dict[str, Any]:
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
