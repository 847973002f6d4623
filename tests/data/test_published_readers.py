"""Spacings that stand elsewhere are taken, masks lie where their slices lie, and what does not belong together is refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medical_sam2 import io
from medical_sam2.data.catalog import ENTRIES, read_by_table, read_slice_masks, read_tdsc, unpack_medsegbench
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import ConfigError, FormatError
from tests.data.nnunet import put
from tests.io.making import Series

TURNED = np.array([[0.0, -2, 0, 10], [0, 0, 3.0, -5], [-1.5, 0, 0, 7], [0, 0, 0, 1]])


def flat(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)


@pytest.mark.parametrize(("shape", "spacing"), [((18, 14, 8), (0.2, 0.073, 0.475674)), ((8, 14, 18), (0.475674, 0.073, 0.2))])
def test_the_published_spacing_of_tdsc_where_the_header_has_none(
    tmp_path: Path, shape: tuple[int, int, int], spacing: tuple[float, ...]
) -> None:
    for part in ("DATA", "MASK"):
        put(tmp_path / f"Train/{part}/{part}_000.nrrd", (flat(shape) > 100).astype(np.uint8), np.eye(4))
    found = ENTRIES["tdsc"].read(tmp_path)
    loaded = found.load(found.cases[0])
    assert loaded.images[0].spacing_mm == pytest.approx(spacing)  # type: ignore[union-attr]
    assert loaded.labels is not None
    assert any("that of the publication" in note for note in loaded.images[0].warnings)
    put(tmp_path / "own.nrrd", flat(shape), np.diag([0.3, 0.4, 0.5, 1]))
    assert read_tdsc(tmp_path / "own.nrrd").spacing_mm == pytest.approx((0.3, 0.4, 0.5))


def cas(folder: Path, table: str) -> Path:
    for number in ("001", "002"):
        for part in ("data", "mask"):
            put(folder / part / f"{number}.nii.gz", (flat((6, 7, 8)) > 100).astype(np.uint8), np.diag([-1.0, -1, 1, 1]))
    (folder / "data" / "._001.nii.gz").write_bytes(b"")
    if table:
        (folder / "meta.csv").write_text(table)
    return folder


def test_the_spacing_of_cas_stands_in_its_table(tmp_path: Path) -> None:
    cas(tmp_path, 'case,spacing\na,"(0.3, 0.4, 0.6)"\nb,"(0.5, 0.5, 0.8)"\n')
    found = ENTRIES["cas23"].read(tmp_path)
    volumes = [found.load(case).images[0] for case in found.cases]
    np.testing.assert_allclose([volume.spacing_mm for volume in volumes], [(0.3, 0.4, 0.6), (0.5, 0.5, 0.8)])  # type: ignore[union-attr]
    assert volumes[0].affine[0, 0] == pytest.approx(-0.3)  # type: ignore[union-attr]
    assert found.load(found.cases[1]).labels is not None


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", "tells no spacing of three numbers"),
        ("case,size\na,1\n", "tells no spacing of three numbers"),
        ('case,spacing\na,"(0.3, 0.4)"\nb,"(1, 1, 1)"\n', "tells no spacing of three numbers"),
        ('case,spacing\na,"(0.3, 0, 0.6)"\nb,"(1, 1, 1)"\n', "tells no spacing of three numbers"),
        ('case,spacing\na,"(0.3, 0.4, 0.6)"\n', "1 lines for 2 files"),
    ],
)
def test_a_table_that_tells_no_spacing_is_refused(tmp_path: Path, table: str, told: str) -> None:
    with pytest.raises(FormatError, match=told):
        read_by_table(cas(tmp_path, table) / "data" / "001.nii.gz")


@pytest.mark.parametrize("backwards", [False, True])
def test_masks_lie_where_their_slices_lie(tmp_path: Path, backwards: bool) -> None:
    array = flat((9, 7, 5)).astype(np.int16)
    series, ground = tmp_path / "DICOM_anon", tmp_path / "Ground"
    Series(TURNED, array).write(series)
    if backwards:
        files = sorted(series.iterdir())
        for n, file in enumerate(files):
            file.rename(series / f"B{len(files) - n:04d}.dcm")
    ground.mkdir()
    for n in range(5):
        k = 4 - n if backwards else n
        Image.fromarray((array[:, :, k] > 100).astype(np.uint8).T * 63).save(ground / f"IMG-{n:04d}.png")
    image, labels = io.load(series), read_slice_masks(ground)
    np.testing.assert_array_equal(labels.array == 63, np.greater(image.array, 100))
    np.testing.assert_array_equal(labels.affine, image.affine)
    next(ground.iterdir()).unlink()
    with pytest.raises(FormatError, match="4 masks for 5 files of 5 slices"):
        read_slice_masks(ground)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Series(TURNED, flat((9, 7, 1)).astype(np.int16).repeat(2, 2)).write(tmp_path / "DICOM_anon")
    (tmp_path / "Ground").mkdir()
    for n in range(2):
        Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "Ground" / f"{n}.png")
    with pytest.raises(FormatError, match="another size than its slice"):
        read_slice_masks(tmp_path / "Ground")


def pictures(colours: bool, count: int = 3) -> dict[str, np.ndarray]:
    shape = (count, 12, 10, 3) if colours else (count, 12, 10)
    rng, made = np.random.default_rng(1), dict[str, np.ndarray]()
    for part in ("train", "val", "test"):
        made[f"{part}_images"] = rng.integers(0, 255, shape).astype(np.uint8)
        made[f"{part}_label"] = rng.integers(0, 3, (count, 12, 10)).astype(np.uint8)
    return made


@pytest.mark.parametrize("colours", [False, True])
def test_a_file_of_medsegbench_becomes_a_data_set(tmp_path: Path, colours: bool) -> None:
    made = pictures(colours)
    np.savez_compressed(tmp_path / "busi_512.npz", **made)  # pyright: ignore[reportArgumentType]
    assert unpack_medsegbench(tmp_path / "busi_512.npz", tmp_path / "out", ["benign", "malignant"], modality="US") == 9
    found = read_data_set(tmp_path / "out")
    assert (found.kind, found.channels) == ("set", ("R", "G", "B") if colours else ("US",))
    assert found.structures == {"benign": (1,), "malignant": (2,)}
    assert (len(found.split("train")), len(found.split("test"))) == (3, 6)
    loaded = found.load(next(case for case in found.cases if case.identifier == "val00001"))
    np.testing.assert_array_equal(loaded.images[0].array, made["val_images"][1])
    np.testing.assert_array_equal(loaded.labels, made["val_label"][1])


def test_what_is_no_file_of_medsegbench_is_refused(tmp_path: Path) -> None:
    file, made = tmp_path / "a.npz", pictures(colours=False)
    for content, told in (
        ({**made, "val_label": made["val_label"][:2]}, "val_images are 3 pictures of 12 × 10 pixels, its val_label 2 pictures"),
        ({"train_images": made["train_images"]}, "no pictures called train_label"),
        (
            {**made, "train_images": made["train_images"].astype(np.float32)},
            "train_images are float32, not bytes; give a file of MedSegBench",
        ),
        ({**made, "train_images": made["train_images"][0, 0]}, "train_images have the shape"),
        (made, "up to 2, and 1 structure"),
    ):
        np.savez(file, **content)  # pyright: ignore[reportArgumentType]
        with pytest.raises(FormatError, match=told):
            unpack_medsegbench(file, tmp_path / "out", ["all", "other"] if "up to 2" not in told else ["all"])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FormatError, match="no NPZ file, or not all of one; download it again"):
        unpack_medsegbench(file, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "what is refused leaves nothing"


@pytest.mark.parametrize("names", [("a", "a"), ("background", "x"), ("ignore", "x"), ("", "x"), ("a\nb", "x")])
def test_names_that_would_lose_a_label_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", **pictures(colours=False))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="name"):
        unpack_medsegbench(tmp_path / "a.npz", tmp_path / "out", names)
    assert not (tmp_path / "out").exists()


def test_a_header_of_more_pictures_than_there_can_be_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1" + b"0" * 30 + b", 8, 8), }\n"
        archive.writestr("train_images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FormatError, match="no NPZ file, or not all of one"):
        unpack_medsegbench(tmp_path / "a.npz", tmp_path / "out")
