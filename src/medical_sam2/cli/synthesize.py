"""`medsam2 synthesize`: make a pool of training cases, out of nothing or of real images, or go on with one."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medical_sam2.cli._options import FLAG
from medical_sam2.errors import ConfigError


def synthesize(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    volumes: int = 300,
    sets: int = 200,
    seed: int = 0,
    workers: int = 1,
    size: int = 128,
    first: int = 0,
    sources: Annotated[tuple[Path, ...], Parameter(name="--from", negative="", consume_multiple=True)] = (),
    half: Annotated[bool, FLAG] = False,
    no_outlines: Annotated[bool, FLAG] = False,
) -> None:
    """Make synthetic training cases; those that are in the folder already stay as they are.

    With --from the images are real ones, cut, bent and lit anew, and the objects are what stands out in them, so no outlines
    are needed. Use only images whose licence lets you train on them.

    Args:
        output: folder of the pool.
        volumes: volumes in all.
        sets: sets of 2D images in all.
        seed: of the pool; a case depends on it and on its index alone.
        workers: processes.
        size: voxels along the longest axis of a case.
        first: number of the first case, an even one: pools of other numbers can lie in one folder, to be trained on together.
        sources: nnU-Net raw data sets, folders of images, DICOM series or files that cases are made from.
        half: of each data set or folder only every second case (2nd, 4th … of the sorted names), so that the others can measure
            what was learned; a file that is named itself is used.
        no_outlines: leave out the outlines that a set of pictures comes with; those of volumes are never used.
    """
    from medical_sam2.data.real import Picked, make_real_case
    from medical_sam2.data.synthetic import make_case, write_pool

    if first % 2:
        raise ConfigError(f"the first case cannot be number {first}", "give an even number", subject="first")
    picked = Picked(sources, half=half, masks=not no_outlines)
    maker = partial(make_real_case, picked) if sources else make_case
    pool = write_pool(output, volumes=volumes, sets=sets, seed=seed, workers=workers, size=size, first=first, maker=maker)
    made = 0
    for made, index in enumerate(pool, start=1):
        if made % 50 == 0:
            sys.stderr.write(f"{made} cases made, the latest is {index}\n")
    sys.stderr.write(f"{output}: {made} new cases\n")
