"""The catalogue: folders laid out as each data set is published become data sets that can be loaded and prepared."""

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.data.catalog import ENTRIES, Entry, Layout, find_entry
from medical_sam2.data.prepare import PrepareSettings, prepare
from medical_sam2.data.prepare.units import DataSource
from medical_sam2.errors import ConfigError, FormatError, InputError
from tests.data.nnunet import AFFINE, put
from tests.io.making import Series

SEGRAP = "SegRap2023_Training_Set_120cases"
FUNDUS = "Annotation-Training400/Annotation-Training400/Disc_Cup_Masks"
PUBLISHED: dict[str, list[tuple[str, ...]]] = {  # images, then labels; a case without labels ends in ""
    "kits23": [("dataset/case_00000/imaging.nii.gz", "dataset/case_00000/segmentation.nii.gz")],
    "atlas23": [("train/imagesTr/im0.nii.gz", "train/labelsTr/lb0.nii.gz")],
    "tdsc": [
        ("Train/DATA/DATA_000.nrrd", "Train/MASK/MASK_000.nrrd"),
        ("Validation/DATA/DATA_100.nrrd", "Validation/MASK/MASK_100.nrrd"),
    ],
    "wbc": [("Dataset 1/001.bmp", "Dataset 1/001.png"), ("Dataset 2/001.bmp", "Dataset 2/001.png")],
    "segrap": [
        (
            f"{SEGRAP}/segrap_0000/image.nii.gz",
            f"{SEGRAP}/segrap_0000/image_contrast.nii.gz",
            f"{SEGRAP}_OneHot_Labels/Task002/segrap_0000.nii.gz",
        )
    ],
    "segrap_organs": [
        (
            f"{SEGRAP}/segrap_0000/image.nii.gz",
            f"{SEGRAP}/segrap_0000/image_contrast.nii.gz",
            f"{SEGRAP}_OneHot_Labels/Task001/segrap_0000.nii.gz",
        )
    ],
    "crossm23": [
        (
            "crossmoda23_training/TrainingSource/crossmoda2023_etz_1_ceT1.nii.gz",
            "crossmoda23_training/TrainingSource/crossmoda2023_etz_1_Label.nii.gz",
        )
    ],
    "refuge": [
        ("REFUGE-Training400/Training400/Glaucoma/g0001.jpg", f"{FUNDUS}/Glaucoma/g0001.bmp"),
        ("REFUGE-Training400/Training400/Non-Glaucoma/n0001.jpg", f"{FUNDUS}/Non-Glaucoma/n0001.bmp"),
        ("REFUGE-Validation400/REFUGE-Validation400/V0001.jpg", "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp"),
        ("Test400/T0001.jpg", "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp"),
    ],
    "refuge2": [
        ("REFUGE2/train/images/g0001.jpg", "REFUGE2/train/mask/g0001.bmp"),
        ("REFUGE2/val/images/V0001.jpg", "REFUGE2/val/mask/V0001.bmp"),
        ("REFUGE2/test/images/T0001.jpg", "REFUGE2/test/mask/T0001.bmp"),
    ],
    "chaos_ct": [("Train_Sets/CT/1/DICOM_anon", "Train_Sets/CT/1/Ground")],
    "chaos_t1": [("Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase", "Train_Sets/MR/1/T1DUAL/Ground")],
    "chaos_t2": [("Train_Sets/MR/1/T2SPIR/DICOM_anon", "Train_Sets/MR/1/T2SPIR/Ground")],
    "pendal": [("Images/1.png", "Segmentation1/1.png"), ("Images/2.bmp", "Segmentation1/2.png")],
    "lnq23": [("train/lnq2023-train-0001-ct.nrrd", "train/lnq2023-train-0001-seg.nrrd")],
    "cas23": [("CAS2023_trainingdataset/data/001.nii.gz", "CAS2023_trainingdataset/mask/001.nii.gz")],
    "cadvidset": [("images/1.png", "masks/1.png")],
    "star": [
        ("stare-images/im0001.ppm.gz", "labels-ah/im0001.ah.ppm.gz"),
        ("stare-images/im0002.ppm", "labels-ah/im0002.ah.ppm"),
    ],
    "btcv": [
        ("RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz"),
        ("RawData/Testing/img/img0061.nii.gz", ""),
    ],
    "toothfairy": [("Dataset/P1/data.npy", "Dataset/P1/gt_alpha.npy")],
    "amos_ct": [
        ("amos22/imagesTr/amos_0001.nii.gz", "amos22/labelsTr/amos_0001.nii.gz"),
        ("amos22/imagesTs/amos_0500.nii.gz", ""),
    ],
    "amos_mr": [("amos22/imagesTr/amos_0507.nii.gz", "amos22/labelsTr/amos_0507.nii.gz")],
    "flare22": [("FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz", "FLARE22Train/labels/FLARE22_Tr_0001.nii.gz")],
    "brats21": [tuple(f"BraTS2021_00000/BraTS2021_00000_{end}.nii.gz" for end in ("t1", "t1ce", "t2", "flair", "seg"))],
    "brats23": [tuple(f"BraTS-GLI-00000-000/BraTS-GLI-00000-000-{end}.nii.gz" for end in ("t1n", "t1c", "t2w", "t2f", "seg"))],
    "acdc": [
        (f"database/{part}/patient001/patient001_frame{n}.nii.gz", f"database/{part}/patient001/patient001_frame{n}_gt.nii.gz")
        for part, n in (("training", "01"), ("testing", "12"))
    ],
    "lits": [("media/volume-0.nii", "media/segmentation-0.nii")],
    "isic18": [
        (
            "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        )
    ],
    "kvasir": [(f"Kvasir-SEG/images/{name}.jpg", f"Kvasir-SEG/masks/{name}.jpg") for name in ("cju0", "cju1")],
    "totalsegmentator": [
        ("Totalsegmentator_dataset_v201/s0000/ct.nii.gz", "Totalsegmentator_dataset_v201/s0000/segmentations")
    ],
    **{
        f"msd_{name}": [
            (f"{task}/imagesTr/{case}.nii.gz", f"{task}/labelsTr/{case}.nii.gz"),
            (f"{task}/imagesTs/{case}99.nii.gz", ""),
        ]
        for name, task, case in (
            ("brain", "Task01_BrainTumour", "BRATS_001"),
            ("heart", "Task02_Heart", "la_003"),
            ("liver", "Task03_Liver", "liver_0"),
            ("hippocampus", "Task04_Hippocampus", "hippocampus_001"),
            ("prostate", "Task05_Prostate", "prostate_00"),
            ("lung", "Task06_Lung", "lung_001"),
            ("pancreas", "Task07_Pancreas", "pancreas_001"),
            ("vessels", "Task08_HepaticVessel", "hepaticvessel_001"),
            ("spleen", "Task09_Spleen", "spleen_2"),
            ("colon", "Task10_Colon", "colon_001"),
        )
    },
}
PAPER = {"click": {"kits23", "atlas23", "tdsc", "wbc"}, "mask": {"cadvidset", "star", "btcv", "toothfairy"}}


def write(path: Path, array: NDArray[np.uint8]) -> None:
    """A file of the format that its name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in {"DICOM_anon", "InPhase"}:
        Series(AFFINE, array.astype(np.int16)).write(path)
    elif path.name == "Ground":
        path.mkdir()
        for k in range(array.shape[2]):
            Image.fromarray(array[:, :, k].T).save(path / f"liver_GT_{k:03d}.png")
    elif path.suffix == ".npy":
        np.save(path, array.transpose(2, 1, 0))
    elif ".ppm" in path.name:
        stream = BytesIO()
        Image.fromarray(array).save(stream, format="PPM")
        path.write_bytes(gzip.compress(stream.getvalue()) if path.suffix == ".gz" else stream.getvalue())
    elif path.suffix in {".bmp", ".jpg"}:
        Image.fromarray(array).save(path)
    else:
        put(path, array)


def labels_of(entry: Entry) -> NDArray[np.uint8]:
    """Every value that the files of labels hold, in cubes or squares side by side."""
    meant = sorted({0, *(value for values in entry.structures.values() for value in values)})
    back = {value: number for number, value in (entry.remap or {value: value for value in meant}).items()}
    side = int(np.ceil(np.sqrt(len(meant))))
    small = np.array([back[meant[n % len(meant)]] for n in range(side * side)], np.uint8).reshape(side, side)
    flat = np.kron(small, np.ones((-(-48 // side),) * 2, np.uint8))
    return np.repeat(flat[:, :, None], 6, axis=2) if entry.kind == "volume" else flat


def publish(folder: Path, name: str) -> Entry:
    """Make up a data set as it is published."""
    entry, labels = ENTRIES[name], labels_of(ENTRIES[name])
    rng = np.random.default_rng(0)
    for *images, label in PUBLISHED[name]:
        for path in images:
            shape = (*labels.shape, 3) if entry.kind == "set" and len(entry.channels) == 3 else labels.shape
            shape = (*shape, 2) if name in {"msd_brain", "msd_prostate"} else shape
            write(folder / path, rng.integers(1, 255, shape).astype(np.uint8))
        if label.endswith("/segmentations"):
            for structure, values in entry.structures.items():
                write(folder / label / f"{structure}.nii.gz", (labels == values[0]).astype(np.uint8))
        elif label:
            write(folder / label, labels)
    return entry


def test_every_entry_is_made_up_here_and_those_of_the_paper_have_its_prompt() -> None:
    assert set(ENTRIES) == set(PUBLISHED)
    for name, entry in ENTRIES.items():
        assert entry.prompt == next((prompt for prompt, names in PAPER.items() if name in names), "box")
        assert entry.url.startswith("https://")
    assert len(ENTRIES["btcv"].structures) == 12


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_folder_is_read(tmp_path: Path, name: str) -> None:
    entry = publish(tmp_path, name)
    found = entry.read(tmp_path)
    assert len(found.cases) == len({case.identifier for case in found.cases}) == len(PUBLISHED[name])
    assert {path for case in found.cases for path in case.images} == {
        tmp_path / path for *images, _ in PUBLISHED[name] for path in images
    }
    for case in found.cases:
        loaded = found.load(case)
        assert len(loaded.images) == (len(entry.channels) if entry.kind == "volume" else 1)
        assert (loaded.labels is None) == (case.label is None)
        if loaded.labels is not None:
            assert all(found.mask(loaded.labels, structure).any() for structure in entry.structures)
            assert (loaded.labels == 0).any()


@pytest.mark.parametrize(
    "name", ["wbc", "star", "pendal", "toothfairy", "segrap", "kvasir", "acdc", "msd_prostate", "chaos_t1"]
)
def test_a_published_folder_is_prepared(tmp_path: Path, name: str) -> None:
    entry = publish(tmp_path / "in", name)
    outcome = prepare(DataSource(tmp_path / "in", name), tmp_path / "out", PrepareSettings(size=32))
    assert (outcome.problems, outcome.cases) == ({}, len(PUBLISHED[name]))
    assert outcome.arrays == (len(entry.channels) if entry.kind == "volume" else 1)


def test_what_lies_beside_is_left_alone(tmp_path: Path) -> None:
    for name in ("amos_ct", "amos_mr", "msd_liver", "msd_spleen", "acdc"):
        publish(tmp_path, name)
    for name in ("patient001_4d", "._patient001_frame01", "._patient001_frame01_gt"):
        put(tmp_path / f"database/training/patient001/{name}.nii.gz", np.zeros((4, 4, 4), np.uint8))
    for name in ("amos_ct", "amos_mr", "msd_liver", "msd_spleen", "acdc"):
        assert len(ENTRIES[name].read(tmp_path).cases) == len(PUBLISHED[name])


def test_a_mask_for_each_structure_makes_one_label_map(tmp_path: Path) -> None:
    entry, folder = publish(tmp_path, "totalsegmentator"), tmp_path / "Totalsegmentator_dataset_v201/s0000/segmentations"
    found = entry.read(tmp_path)
    whole = found.load(found.cases[0]).labels
    np.testing.assert_array_equal(whole, labels_of(entry))
    (folder / "liver.nii.gz").unlink()
    less = found.load(found.cases[0]).labels
    assert whole is not None
    assert less is not None
    np.testing.assert_array_equal(less, np.where(found.mask(whole, "liver"), 0, whole))
    for file in folder.glob("*"):
        file.unlink()
    with pytest.raises(FormatError, match="no mask of a structure"):
        found.load(found.cases[0])


def test_the_folder_within_the_download_will_do(tmp_path: Path) -> None:
    publish(tmp_path, "kits23")
    assert len(ENTRIES["kits23"].read(tmp_path / "dataset").cases) == 1


def test_only_cases_with_dense_labels_are_taken(tmp_path: Path) -> None:
    publish(tmp_path, "toothfairy")
    write(tmp_path / "Dataset" / "P2" / "data.npy", np.ones((8, 8, 8), np.uint8))
    assert [case.identifier for case in ENTRIES["toothfairy"].read(tmp_path).cases] == ["P1"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ENTRIES["btcv"].read(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=r"BTCV is not there: no \*\*/Training/img/imgCASE\.nii\.gz or"):
        ENTRIES["btcv"].read(tmp_path)
    publish(tmp_path, "btcv")
    (tmp_path / "RawData/Training/label/label0001.nii.gz").unlink()
    with pytest.raises(FormatError, match=r"label0001\.nii\.gz is missing"):
        ENTRIES["btcv"].read(tmp_path)


def test_masks_of_other_values_are_refused(tmp_path: Path) -> None:
    entry = publish(tmp_path, "refuge")
    write(tmp_path / FUNDUS / "Glaucoma/g0001.bmp", np.full((48, 48), 77, np.uint8))
    found = entry.read(tmp_path)
    with pytest.raises(FormatError, match=r"g0001\.bmp: it holds the value 77"):
        found.load(found.cases[0])


def test_broken_files_of_odd_formats_are_refused(tmp_path: Path) -> None:
    for name, path in (("star", "stare-images/im0001.ppm.gz"), ("toothfairy", "Dataset/P1/data.npy")):
        entry = publish(tmp_path / name, name)
        whole = (tmp_path / name / path).read_bytes()
        for broken in (whole[: len(whole) // 2], b"nonsense"):
            (tmp_path / name / path).write_bytes(broken)
            found = entry.read(tmp_path / name)
            with pytest.raises(FormatError, match="download it again"):
                found.load(found.cases[0])


def test_an_entry_of_ones_own_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from medical_sam2.data.catalog import Layout, find_entry\n"
        'ENTRY = replace(find_entry("kits23"), title="Mine", layouts=(Layout(("{case}.nrrd",), "{case}_seg.nrrd"),))\n'
    )
    for name in ("a", "a_seg"):
        put(tmp_path / "in" / f"{name}.nrrd", np.repeat(np.arange(4, dtype=np.uint8)[:, None, None], 40, 1).repeat(40, 2))
    outcome = prepare(DataSource(tmp_path / "in", f"{tmp_path}/mine.py:ENTRY"), tmp_path / "out")
    assert outcome.cases == 1
    with pytest.raises(ConfigError, match="did you mean 'kits23'"):
        find_entry("kits")


def test_a_name_may_stand_twice_in_a_path(tmp_path: Path) -> None:
    layout = Layout(("{case}/{case}_image.png",), "{case}/{case}_label.png")
    entry = Entry(**{**vars(ENTRIES["pendal"]), "layouts": (layout,)})
    for path in ("a/a_image.png", "a/a_label.png", "b/c_image.png"):
        write(tmp_path / path, np.zeros((4, 4), np.uint8))
    assert [case.identifier for case in entry.read(tmp_path).cases] == ["a"]
