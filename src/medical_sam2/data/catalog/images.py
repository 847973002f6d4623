"""Published sets of 2D images."""

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image

from medical_sam2.data.catalog.entry import WHITE, Entry, Layout
from medical_sam2.errors import FormatError
from medical_sam2.io import Picture
from medical_sam2.io.safe_open import GZIP_MAGIC, open_regular

CADVIDSET = Entry(
    title="CadVidSet",
    about="coronary arteries in frames of X-ray angiography videos",
    url="https://doi.org/10.1186/s12880-020-00509-9",
    access="no download is known; ask the authors of the paper",
    licence="unknown",
    citation="Wang 2020, BMC Medical Imaging 20:110",
    kind="set",
    modality="XA",
    channels=("XA",),
    structures={"coronary_artery": (1,)},
    prompt="mask",
    layouts=(Layout(("images/{case}.png",), "masks/{case}.png"),),
    unconfirmed=(
        "that the paper's data set is the one of this publication",
        "the whole layout: put the frames into images/ and their black and white masks into masks/, with the same names",
    ),
    remap=WHITE,
)


PENDAL = Entry(
    title="Pendal",
    about="mandibles: 116 panoramic radiographs, outlined by dentists (of two folders of masks the first is used)",
    url="https://data.mendeley.com/datasets/hxt48yk462/1",
    access="free",
    licence="not stated on the page that was seen",
    citation="Abdi 2015, Journal of Medical Imaging 2(4):044003",
    kind="set",
    modality="DX",
    channels=("DX",),
    structures={"mandible": (1,)},
    prompt="box",
    layouts=(Layout(("**/Images/{case}.*",), "**/Segmentation1/{case}.*"),),
    unconfirmed=(
        "the masks are taken to be white on black, and the radiographs to be stored in grey",
        "the address was not opened; the folders Images, Segmentation1 and Segmentation2 are those that users of the data name",
    ),
    remap=WHITE,
)


REFUGE = Entry(
    title="REFUGE",
    about="optic disc and cup: 400 fundus photographs to train on, 400 to validate, 400 to test",
    url="https://refuge.grand-challenge.org/",
    access="registration",
    licence="terms of the challenge: research",
    citation="Orlando 2020, Medical Image Analysis 59:101570",
    kind="set",
    modality="fundus",
    channels=("R", "G", "B"),
    structures={"disc": (1, 2), "cup": (2,)},
    prompt="box",
    layouts=(
        Layout(("**/Training400/*/{case}.jpg",), "**/Annotation-Training400/**/Disc_Cup_Masks/*/{case}.bmp"),
        Layout(("**/REFUGE-Validation400/{case}.jpg",), "**/REFUGE-Validation400-GT/**/Disc_Cup_Masks/{case}.bmp", "test"),
        Layout(("**/Test400/{case}.jpg",), "**/REFUGE-Test-GT/**/Disc_Cup_Masks/*/{case}.bmp", "test"),
    ),
    remap={255: 0, 128: 1, 0: 2},
)


MOST_PIXELS = 64 << 20


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
                if image.width * image.height > MOST_PIXELS:
                    raise FormatError(f"it has {image.width} × {image.height} pixels", "check what it is", subject=path)
                return Picture(np.array(image if image.mode == "L" else image.convert("RGB")), source=path)
        except (OSError, ValueError, EOFError, SyntaxError, zlib.error):
            raise FormatError("this is no whole PPM image", "download it again", subject=path) from None


STAR = Entry(
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


WBC = Entry(
    title="WBC",
    about="white blood cells and their nuclei: 300 images of 120 × 120 pixels, 100 of 300 × 300",
    url="https://github.com/zxaoyou/segmentation_WBC",
    access="free",
    licence="GPL-3.0",
    citation="Zheng 2018, Micron 107:55",
    kind="set",
    modality="microscopy",
    channels=("R", "G", "B"),
    structures={"cell": (1, 2), "nucleus": (2,)},
    prompt="click",
    layouts=(
        Layout(("**/Dataset 1/{case}.bmp",), "**/Dataset 1/{case}.png", prefix="1_"),
        Layout(("**/Dataset1/{case}.bmp",), "**/Dataset1/{case}.png", prefix="1_"),
        Layout(("**/Dataset 2/{case}.bmp",), "**/Dataset 2/{case}.png", prefix="2_"),
        Layout(("**/Dataset2/{case}.bmp",), "**/Dataset2/{case}.png", prefix="2_"),
    ),
    unconfirmed=("in the masks 128 is cytoplasm and 255 nucleus",),
    remap={0: 0, 128: 1, 255: 2},
)
