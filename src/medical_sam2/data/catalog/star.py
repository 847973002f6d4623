"""STAR: the STARE set, retinal vessels in fundus photographs."""

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image

from medical_sam2.data.catalog.entry import WHITE, Entry, Layout
from medical_sam2.errors import FormatError
from medical_sam2.io import Picture
from medical_sam2.io.files import GZIP_MAGIC, open_regular

MOST_BYTES = 64 << 20


def read_ppm(path: Path) -> Picture:
    """Read a portable pixmap, gzipped or not.

    Raises:
        FormatError: it is none, or broken.
    """
    with open_regular(path) as stream:
        zipped = stream.read(2) == GZIP_MAGIC
        stream.seek(0)
        try:
            content = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if zipped else stream
            with Image.open(content, formats=("PPM",)) as image:
                if image.width * image.height > MOST_BYTES:
                    raise FormatError(f"it has {image.width} × {image.height} pixels", "check what it is", subject=path)
                return Picture(np.array(image if image.mode == "L" else image.convert("RGB")), source=path)
        except (OSError, ValueError, EOFError, SyntaxError, zlib.error):
            raise FormatError("this is no whole PPM image", "download it again", subject=path) from None


ENTRY = Entry(
    title="STARE",
    about="retinal vessels: 20 fundus photographs, outlined twice (Hoover's masks are used)",
    url="https://cecas.clemson.edu/~ahoover/stare/probing/index.html",
    access="free",
    licence="not stated on the page that was seen",
    citation="Hoover 2000, IEEE Transactions on Medical Imaging 19(3):203",
    kind="set",
    modality="fundus",
    channels=("R", "G", "B"),
    structures={"vessel": (1,)},
    prompt="mask",
    layouts=(
        Layout(("**/stare-images/{case}.ppm*",), "**/labels-ah/{case}.ah.ppm*"),
        Layout(("**/images/{case}.ppm*",), "**/masks/{case}.ah.ppm*"),
    ),
    unconfirmed=("that the paper's STAR is STARE: it cites a set of retinal vessels under that name",),
    remap=WHITE,
    opener=read_ppm,
)
