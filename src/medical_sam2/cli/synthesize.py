"""`medsam2 synthesize`: make a pool of synthetic training cases, or go on with one."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def synthesize(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    volumes: int = 300,
    sets: int = 200,
    seed: int = 0,
    workers: int = 1,
    size: int = 128,
) -> None:
    """Make synthetic training cases; those that are in the folder already stay as they are.

    Args:
        output: folder of the pool.
        volumes: volumes in all.
        sets: sets of 2D images in all.
        seed: of the pool; a case depends on it and on its index alone.
        workers: processes.
        size: voxels along the longest axis of a case.
    """
    from medical_sam2.data.synthetic import write_pool

    made = 0
    for made, index in enumerate(
        write_pool(output, volumes=volumes, sets=sets, seed=seed, workers=workers, size=size), start=1
    ):
        if made % 50 == 0:
            sys.stderr.write(f"{made} cases made, the latest is {index}\n")
    sys.stderr.write(f"{output}: {made} new cases\n")
