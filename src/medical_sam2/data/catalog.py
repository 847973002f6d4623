"""Published data sets: where each is obtained, how it is laid out, and how a downloaded folder becomes a `DataSet`.

One of your own needs no edit here: it is one file with an `Entry`, named as `file.py:ENTRY` or `module:ENTRY`.
"""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image

from medical_sam2.data.catalog_entry import WHITE, Entry, Layout
from medical_sam2.errors import FormatError
from medical_sam2.io import Picture
from medical_sam2.io.safe_open import GZIP_MAGIC, open_regular, require_memory
from medical_sam2.plugins import find
from medical_sam2.volume import Volume

__all__ = ["ENTRIES", "Entry", "Layout", "find_entry"]

ATLAS23 = Entry(
    title="ATLAS23",
    about="liver and hepatocellular carcinoma, 60 contrast-enhanced MR volumes with labels",
    url="https://atlas-challenge.u-bourgogne.fr/dataset",
    access="registration (atlas-train-dataset-1.0.1.zip)",
    licence="CC BY-NC-SA 4.0",
    citation="Quinton 2023, Data 8(5):79",
    kind="volume",
    modality="MR",
    channels=("MR",),
    structures={"liver": (1, 2), "tumour": (2,)},
    prompt="click",
    layouts=(Layout(("**/imagesTr/im{case}.nii.gz",), "**/labelsTr/lb{case}.nii.gz"),),
)


BTCV = Entry(
    title="BTCV",
    about="the twelve abdominal organs of the paper, 30 portal venous CTs with labels, 20 without",
    url="https://www.synapse.org/#!Synapse:syn3193805/wiki/89480",
    access="registration on Synapse",
    licence="not stated on the page that was seen; terms of the challenge",
    citation="Landman 2015, Multi-Atlas Labeling Beyond the Cranial Vault",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={
        "spleen": (1,),
        "right_kidney": (2,),
        "left_kidney": (3,),
        "gallbladder": (4,),
        "oesophagus": (5,),
        "liver": (6,),
        "stomach": (7,),
        "aorta": (8,),
        "inferior_vena_cava": (9,),
        "portal_and_splenic_veins": (10,),
        "pancreas": (11,),
        "adrenal_glands": (12, 13),
    },
    prompt="mask",
    layouts=(
        Layout(("**/Training/img/img{case}.nii.gz",), "**/Training/label/label{case}.nii.gz"),
        Layout(("**/Testing/img/img{case}.nii.gz",), split="test"),
        Layout(("**/imagesTr/img{case}.nii.gz",), "**/labelsTr/label{case}.nii.gz"),
        Layout(("**/imagesTs/img{case}.nii.gz",), split="test"),
    ),
    unconfirmed=("that the paper's adrenal gland (AG) is both glands together",),
)


CAS23 = Entry(
    title="CAS23",
    about="cerebral arteries: 100 time-of-flight MR angiographies with labels",
    url="https://codalab.lisn.upsaclay.fr/competitions/9804",
    access="registration (CAS2023_trainingdataset)",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Chen 2023, Cerebral Artery Segmentation challenge, MICCAI 2023",
    kind="volume",
    modality="MR",
    channels=("TOF-MRA",),
    structures={"artery": (1,)},
    prompt="box",
    layouts=(Layout(("**/data/{case}.nii.gz",), "**/mask/{case}.nii.gz"),),
    unconfirmed=(
        "the headers claim voxels of 1 mm; the true spacing stands in meta.csv and is not applied: distances in mm are wrong",
    ),
)


CROSSM23 = Entry(
    title="CrossMoDA23",
    about="vestibular schwannoma within and beyond the ear canal, cochlea: 227 contrast-enhanced T1 volumes with labels",
    url="https://www.synapse.org/#!Synapse:syn51236108",
    access="registration on Synapse and with the challenge",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Wijethilake 2025, crossMoDA challenge 2021 to 2023",
    kind="volume",
    modality="MR",
    channels=("ceT1",),
    structures={"tumour": (1, 2), "intrameatal_tumour": (1,), "extrameatal_tumour": (2,), "cochlea": (3,)},
    prompt="box",
    layouts=(Layout(("**/TrainingSource/{case}_ceT1.nii.gz",), "**/TrainingSource/{case}_Label.nii.gz"),),
    unconfirmed=("the T2 volumes of TrainingTarget and of the validation set have no labels and are left out",),
)


KITS23 = Entry(
    title="KiTS23",
    about="kidneys with their tumours and cysts, 489 abdominal CTs with labels",
    url="https://kits-challenge.org/kits23/",
    access="free: github.com/neheller/kits23 fetches the images",
    licence="CC BY-NC-SA 4.0",
    citation="Heller 2023, arXiv 2307.01984",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "tumour": (2,), "cyst": (3,)},
    prompt="click",
    layouts=(Layout(("**/{case}/imaging.nii.gz",), "**/{case}/segmentation.nii.gz"),),
    unconfirmed=("the licence, which is that of the challenge's earlier editions",),
)


LNQ23 = Entry(
    title="LNQ23",
    about="mediastinal lymph nodes: about 390 CTs with some of their nodes outlined, 20 and 100 with all",
    url="https://lnq2023.grand-challenge.org/data/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Dorent 2024, arXiv 2408.10069",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={"lymph_node": (1,)},
    prompt="box",
    layouts=(
        Layout(("**/lnq2023-train-{case}-ct.nrrd",), "**/lnq2023-train-{case}-seg.nrrd"),
        Layout(("**/lnq2023-val-{case}-ct.nrrd",), "**/lnq2023-val-{case}-seg.nrrd", "test", "val_", some=True),
        Layout(("**/lnq2023-test-{case}-ct.nrrd",), "**/lnq2023-test-{case}-seg.nrrd", "test", "test_", some=True),
    ),
    unconfirmed=(
        "in the training cases most nodes are not outlined: outside of a mask may be lymph node",
        "some training masks are said to lie on a smaller grid than their CT; such a case is refused and named",
        "names of the validation and test masks, where they are given out",
    ),
)


SEGRAP_IMAGES = (
    "**/SegRap2023_Training_Set_120cases/{case}/image.nii.gz",
    "**/SegRap2023_Training_Set_120cases/{case}/image_contrast.nii.gz",
)


SEGRAP_LABELS = "**/SegRap2023_Training_Set_120cases_OneHot_Labels"


SEGRAP = Entry(
    title="SegRap23",
    about="gross tumour volumes of nasopharyngeal carcinoma and its lymph nodes, 120 pairs of CTs without and with contrast",
    url="https://segrap2023.grand-challenge.org/dataset/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Luo 2023, arXiv 2312.09576",
    kind="volume",
    modality="CT",
    channels=("CT", "CT"),
    structures={"primary_tumour": (1,), "lymph_nodes": (2,)},
    prompt="box",
    layouts=(
        Layout(SEGRAP_IMAGES, f"{SEGRAP_LABELS}/Task002/{{case}}.nii.gz"),
        Layout(SEGRAP_IMAGES, f"{SEGRAP_LABELS}/task002/{{case}}.nii.gz", some=True),
    ),
    unconfirmed=("the paper names nasopharynx cancer, so its task is taken to be the tumour; segrap_organs has the organs",),
)


SEGRAP_ORGAN_LABELS = {
    "Brain": (1, 2, 3, 4, 5, 6, 7, 8, 9),
    "BrainStem": (2,),
    "Chiasm": (3,),
    "TemporalLobe_L": (4, 6),
    "TemporalLobe_R": (5, 7),
    "Hippocampus_L": (6, 8),
    "Hippocampus_R": (7, 9),
    "Eye_L": (10, 12),
    "Eye_R": (11, 13),
    "Lens_L": (12,),
    "Lens_R": (13,),
    "OpticNerve_L": (14,),
    "OpticNerve_R": (15,),
    "MiddleEar_L": (16, 18, 20, 24, 28, 30),
    "MiddleEar_R": (17, 19, 21, 25, 29, 31),
    "IAC_L": (18,),
    "IAC_R": (19,),
    "TympanicCavity_L": (20, 22),
    "TympanicCavity_R": (21, 23),
    "VestibulSemi_L": (24, 26),
    "VestibulSemi_R": (25, 27),
    "Cochlea_L": (28,),
    "Cochlea_R": (29,),
    "ETbone_L": (30, 32),
    "ETbone_R": (31, 33),
    "Pituitary": (34,),
    "OralCavity": (35,),
    "Mandible_L": (36,),
    "Mandible_R": (37,),
    "Submandibular_L": (38,),
    "Submandibular_R": (39,),
    "Parotid_L": (40,),
    "Parotid_R": (41,),
    "Mastoid_L": (42,),
    "Mastoid_R": (43,),
    "TMjoint_L": (44,),
    "TMjoint_R": (45,),
    "SpinalCord": (46,),
    "Esophagus": (47,),
    "Larynx": (48, 49, 50, 51),
    "Larynx_Glottic": (49,),
    "Larynx_Supraglot": (50,),
    "PharynxConst": (51, 52),
    "Thyroid": (53,),
    "Trachea": (54,),
}


"""The files tell 54 values, nine of them overlaps of two organs; an organ is the union of its own and its overlaps."""


SEGRAP_ORGANS = replace(
    SEGRAP,
    title="SegRap23-organs",
    about="45 organs at risk of the head and neck, 120 pairs of CTs without and with contrast",
    structures=SEGRAP_ORGAN_LABELS,
    layouts=(
        Layout(SEGRAP_IMAGES, f"{SEGRAP_LABELS}/Task001/{{case}}.nii.gz"),
        Layout(SEGRAP_IMAGES, f"{SEGRAP_LABELS}/task001/{{case}}.nii.gz", some=True),
    ),
    unconfirmed=("the unions are those of a participant's evaluation code; labels were corrected once after publication",),
)


TDSC = Entry(
    title="TDSC-ABUS2023",
    about="breast tumours in 3D ultrasound: 100 volumes to train on, 30 to validate, 70 to test",
    url="https://tdsc-abus2023.grand-challenge.org/Dataset/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Luo 2025, arXiv 2501.15588",
    kind="volume",
    modality="US",
    channels=("US",),
    structures={"tumour": (1,)},
    prompt="click",
    layouts=(
        Layout(("**/Train/DATA/DATA_{case}.nrrd",), "**/Train/MASK/MASK_{case}.nrrd"),
        Layout(("**/Validation/DATA/DATA_{case}.nrrd",), "**/Validation/MASK/MASK_{case}.nrrd", "test"),
        Layout(("**/Test/DATA/DATA_{case}.nrrd",), "**/Test/MASK/MASK_{case}.nrrd", "test"),
    ),
    unconfirmed=("the NRRD headers may lack the voxel spacing: then millimetres mean nothing",),
)


SPACING_MM = 0.3


def read_array(path: Path) -> Volume:
    """Read a volume (slice, row, column) of 0.3 mm voxels; it knows no place in the patient.

    Raises:
        FormatError: no array of numbers with three axes.
        ResourceError: too large.
    """
    open_regular(path).close()
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise FormatError("this is no NumPy array of numbers", "download it again", subject=path) from None
    if not isinstance(mapped, np.memmap) or mapped.ndim != 3 or mapped.dtype.kind not in "iufb":
        raise FormatError("it holds no volume", "check what it is", subject=path)
    require_memory(mapped.nbytes, path)
    array = np.ascontiguousarray(mapped.transpose(2, 1, 0))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError("it holds values that are not finite", "download it again", subject=path)
    return Volume(array, np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0]), source=path)


TOOTHFAIRY = Entry(
    title="ToothFairy",
    about="inferior alveolar canal: 153 cone-beam CTs with dense labels (those with sparse labels alone are left out)",
    url="https://toothfairy.grand-challenge.org/",
    access="registration",
    licence="CC BY-SA",
    citation="Cipriano 2022, IEEE Access 10:11500",
    kind="volume",
    modality="CBCT",
    channels=("CBCT",),
    structures={"inferior_alveolar_canal": (1,)},
    prompt="mask",
    layouts=(Layout(("**/Dataset/{case}/data.npy",), "**/Dataset/{case}/gt_alpha.npy", some=True),),
    unconfirmed=("the axes are slice, row, column, and voxels 0.3 mm wide; the arrays do not say", "the licence"),
    opener=read_array,
)


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


ENTRIES: Mapping[str, Entry] = {
    "atlas23": ATLAS23,
    "btcv": BTCV,
    "cadvidset": CADVIDSET,
    "cas23": CAS23,
    "crossm23": CROSSM23,
    "kits23": KITS23,
    "lnq23": LNQ23,
    "pendal": PENDAL,
    "refuge": REFUGE,
    "segrap": SEGRAP,
    "segrap_organs": SEGRAP_ORGANS,
    "star": STAR,
    "tdsc": TDSC,
    "toothfairy": TOOTHFAIRY,
    "wbc": WBC,
}


def find_entry(name: str) -> Entry:
    """The entry of that name, or of a `module:attribute` or `file.py:attribute`.

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    return find(ENTRIES, name, what="data set")
