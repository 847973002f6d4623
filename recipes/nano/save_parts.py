"""Keep of a run the parts of the network alone that it trained, as they lie beside the weights it started from.

    python recipes/nano/save_parts.py RUN -o src/medical_sam2/weights/nano/from_ends.safetensors

The run is a folder of `medsam2 train` whose recipe names `parts`. Numbers are kept in float16.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.weights import read_config, read_weights
from medical_sam2.train.loop import RECIPE


def trained_parts(run: Path) -> dict[str, Tensor]:
    """What a run trained, name → tensor in float16; raises SystemExit where it trained all, or something beside its parts."""
    recipe = read_config(run / RECIPE)
    parts = tuple(recipe.get("parts", ()))
    if not parts:
        raise SystemExit(f"{run}: it trained all weights; name parts in its recipe")
    found, before = read_weights(run / "weights").weights, read_weights(recipe["start"]).weights
    kept = {name: tensor.to(torch.float16).contiguous() for name, tensor in found.items() if name.startswith(parts)}
    moved = [
        name for name, tensor in found.items() if name not in kept and not torch.equal(tensor.float(), before[name].float())
    ]
    if moved:
        raise SystemExit(f"{run}: {moved[0]} is none of its parts and differs from that of {recipe['start']}")
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file (.safetensors)")
    options = parser.parse_args()
    write_bytes(options.output, save(trained_parts(options.run), {"format": "pt"}))
