"""Make a pool of training cases, out of nothing or of real images, or go on with one.

    python recipes/nano/synthesize.py -o POOL [--volumes 300] [--sets 200] [--seed 0] [--from FOLDER …]

Cases that are in the folder already stay as they are. With --from the images are real ones, cut, bent and lit anew, and the
objects are what stands out in them, so no outlines are needed; this needs SimpleITK, which the extra `train` brings. Use only
images whose licence lets you train on them.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medical_sam2.cli import explain
from medical_sam2.errors import MedicalSam2Error
from synthetic import make_case, write_pool


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pool; the exit code is 0, or that of the error that is said in one line."""
    options = parsed(arguments)
    maker = make_case
    try:
        if options.sources:
            from real import Picked, make_real_case  # SimpleITK comes with an extra

            maker = partial(make_real_case, Picked(tuple(options.sources), half=options.half, masks=not options.no_outlines))
        count = {"volumes": options.volumes, "sets": options.sets}
        settings = {"seed": options.seed, "workers": options.workers, "size": options.size, "first": options.first}
        made = 0
        for made, index in enumerate(write_pool(options.output, **count, **settings, maker=maker), start=1):
            if made % 50 == 0:
                sys.stderr.write(f"{made} cases made, the latest is {index}\n")
    except (MedicalSam2Error, ModuleNotFoundError, OSError) as error:
        message, code = explain(error)
        sys.stderr.write(f"{message}\n")
        return code
    sys.stderr.write(f"{options.output}: {made} new cases\n")
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pool")
    parser.add_argument("--volumes", type=int, default=300, help="volumes in all")
    parser.add_argument("--sets", type=int, default=200, help="sets of 2D images in all")
    parser.add_argument("--seed", type=int, default=0, help="of the pool; a case depends on it and on its index alone")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--size", type=int, default=128, help="voxels along the longest axis of a case")
    parser.add_argument("--first", type=int, default=0, help="even number of the first case: pools can lie in one folder")
    parser.add_argument(
        "--from",
        dest="sources",
        type=Path,
        nargs="+",
        default=[],
        help="nnU-Net raw data sets, folders of images, DICOM series or files that cases are made from",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="of each data set or folder only every second case (2nd, 4th … of the sorted names), so that the others can "
        "measure what was learned; a file that is named itself is used",
    )
    parser.add_argument("--no-outlines", action="store_true", help="leave out the outlines that sets of pictures come with")
    options = parser.parse_args(arguments)
    if options.first % 2:
        parser.error(f"the first case cannot be number {options.first}; give an even number")
    return options


if __name__ == "__main__":
    sys.exit(main())
