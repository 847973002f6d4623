"""What is written in a volume's grid is read back in it: every voxel, every bit of the affine."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError, InputError
from medical_sam2.io.voxels import ONE_SLICE
from medical_sam2.volume import Segmentation, Volume
from tests.io.making import affines, oriented, volumes
from tests.strategies import CODES, seeds

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
formats = pytest.mark.parametrize("suffix", SUFFIXES)


def there_and_back(array: np.ndarray, like: Volume, suffix: str) -> Volume:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"image{suffix}")
        io.save(array, path, like)
        return io.load(path)


@formats
@given(volume=volumes())
@settings(max_examples=25)
def test_voxels_survive_and_the_second_affine_has_the_bits_of_the_first(suffix: str, volume: Volume) -> None:
    first = there_and_back(volume.array, volume, suffix)
    np.testing.assert_array_equal(first.array, volume.array)
    np.testing.assert_allclose(first.affine, volume.affine, rtol=1e-6, atol=1e-3 if "nii" in suffix else 1e-9)
    second = there_and_back(first.array, first, suffix)
    np.testing.assert_array_equal(second.array, volume.array)
    assert second.affine.tobytes() == first.affine.tobytes()
    assert set(second.warnings) <= {ONE_SLICE}


@formats
@pytest.mark.parametrize("code", CODES)
def test_every_orientation_survives(suffix: str, code: str) -> None:
    affine = oriented(code) @ np.diag([1.5, 2.0, 3.25, 1.0])
    affine[:3, 3] = -10.5, 20.25, 33
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    found = there_and_back(volume.array, volume, suffix)
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_array_equal(found.affine, affine)
    assert (found.orientation, found.spacing_mm) == (code, (1.5, 2.0, 3.25))


@formats
@given(volume=volumes(("int16",), sheared=True))
@settings(max_examples=8)
def test_a_sheared_grid_is_kept_and_told(suffix: str, volume: Volume) -> None:
    first = there_and_back(volume.array, volume, suffix)
    np.testing.assert_allclose(first.affine, volume.affine, rtol=1e-6, atol=1e-3)
    assert any("right angles" in warning for warning in first.warnings)
    assert there_and_back(first.array, first, suffix).affine.tobytes() == first.affine.tobytes()


@formats
@given(affine=affines(), seed=seeds, highest=st.sampled_from([1, 255, 256, 65535, 65536, 210_000, 2**32]))
@settings(max_examples=8)
def test_labels_take_the_smallest_unsigned_type(suffix: str, affine: np.ndarray, seed: int, highest: int) -> None:
    labels = np.random.default_rng(seed).integers(0, highest, (3, 4, 2)).astype(np.int64)
    labels[0, 0, 0], labels[-1, -1, -1] = highest, 0
    found = there_and_back(labels, Volume(labels, affine), suffix)
    assert found.array.dtype == np.min_scalar_type(highest)
    np.testing.assert_array_equal(found.array, labels)


@given(affine=affines(), kinds=st.sampled_from(["sform", "qform", "both", "none"]), wide=st.booleans())
@settings(max_examples=25)
@example(affine=np.diag([2.0, 2.0, 2.0, 1.0]), kinds="qform", wide=False)
def test_a_nifti_result_has_the_bits_of_its_source_for_nibabel_too(affine: np.ndarray, kinds: str, wide: bool) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "source.nii.gz"), Path(folder, "target.nii.gz")
        image = (nib.Nifti2Image if wide else nib.Nifti1Image)(array, affine)
        image.set_sform(affine, code=2 if kinds in ("sform", "both") else 0)
        image.set_qform(affine, code=1 if kinds in ("qform", "both") else 0)
        nib.save(image, source)
        volume = io.load(source)
        io.save(array % 3, target, volume)
        theirs, ours = nib.load(source), nib.load(target)
        assert io.load(target).affine.tobytes() == volume.affine.tobytes() == theirs.affine.tobytes() == ours.affine.tobytes()
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), array % 3)
        if kinds != "none":
            np.testing.assert_allclose(ours.get_qform(), affine, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@given(volume=volumes())
@settings(max_examples=12)
def test_itk_reads_what_is_written(suffix: str, volume: Volume) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"image{suffix}")
        io.save(volume.array, path, volume)
        image = SimpleITK.ReadImage(str(path))
        written = io.load(path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), volume.array)
    for index in [(0, 0, 0), (1, 0, 0), (0, volume.shape[1] - 1, volume.shape[2] - 1)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((written.affine @ [*index, 1])[:3], (-x, -y, z), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
@given(volume=volumes(("uint8", "int16", "float32")))
@settings(max_examples=12)
def test_what_itk_writes_is_read(suffix: str, volume: Volume) -> None:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    image.SetSpacing(volume.spacing_mm)
    image.SetDirection((lps[:3, :3] / volume.spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    with TemporaryDirectory() as folder:
        path = Path(folder, f"image{suffix}")
        SimpleITK.WriteImage(image, str(path), useCompression=suffix == ".nrrd")
        found = io.load(path)
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_allclose(found.affine, volume.affine, rtol=1e-4, atol=2e-2)


def test_a_segmentation_is_written_by_its_labels(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 3, 4), np.int16), np.eye(4))
    labels = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    io.save(Segmentation(labels, volume.affine), tmp_path / "result.nii.gz", volume)
    np.testing.assert_array_equal(io.load(tmp_path / "result.nii.gz").array, labels)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 3, 4), np.int16), np.eye(4))
    with pytest.raises(GeometryError, match="shape"):
        io.save(np.zeros((2, 3, 5)), tmp_path / "a.nii", volume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a", "a.nii.zip", "a.mhd", "a.nhdr"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="use"):
        io.save(np.zeros((2, 3, 4)), tmp_path / name, Volume(np.zeros((2, 3, 4)), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["0.8 0.7 2_5", "0.8 0.7\xa02.5", "0.8 0.7 0x2", "0.8 0.7 nan", "0.8 0.7 1e999", "0.8 0.7 ٢"])
def test_numbers_are_those_that_any_program_reads(tmp_path: Path, text: str) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
    image.SetSpacing((0.8, 0.7, 2.5))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    data = (tmp_path / "a.mha").read_bytes()
    spelled = data[data.index(b"ElementSpacing = ") + 17 :].split(b"\n")[0]
    assert io.load(tmp_path / "a.mha").spacing_mm == pytest.approx((0.8, 0.7, 2.5))
    (tmp_path / "a.mha").write_bytes(data.replace(spelled, text.encode("utf-8" if "٢" in text else "latin-1")))
    with pytest.raises(FormatError, match="ElementSpacing"):
        io.load(tmp_path / "a.mha")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("a.mha", b"Offset = ", b"offset = ", "writes Offset in another way"),
        ("a.mha", b"Offset = ", b"Offset = 9 9 9\nOffset = ", "'offset' twice"),
        ("a.mha", b"Offset = ", b"Offset\0= ", "a line that cannot be read"),
        ("a.nrrd", b"space origin: ", b"space origin: (9,9,9)\nspace origin: ", "'space origin' twice"),
        ("a.nrrd", b"space origin: ", b"space origin\0: ", "a line that cannot be read"),
        ("a.mha", b"CenterOfRotation", b"Note = 1\nNote = 2\nCenterOfRotation", None),
    ],
)
def test_fields_that_readers_understand_differently_are_refused(
    tmp_path: Path, name: str, old: bytes, new: bytes, said: str | None
) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
    image.SetOrigin((1, 2, 3))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    data = (tmp_path / name).read_bytes()
    assert old in data
    (tmp_path / name).write_bytes(data.replace(old, new))
    if said is None:
        np.testing.assert_allclose(io.load(tmp_path / name).affine[:3, 3], (-1, -2, 3))
        return
    with pytest.raises(FormatError, match=said):
        io.load(tmp_path / name)
