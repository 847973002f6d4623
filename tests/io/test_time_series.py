"""Several time points in one file, as ITK writes them: each is read by itself, in the grid that it would have alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError


def one() -> SimpleITK.Image:
    """A small image, turned in its plane, with spacings of its own."""
    image = SimpleITK.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.7, 1.3, 2.9))
    image.SetOrigin((-10.123456789, 20.3, -30.7))
    cosine, sine = math.cos(0.3), math.sin(0.3)
    image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_series_of_itk(suffix: str, tmp_path: Path) -> None:
    """NRRD has no word for ITK's time: all its axes are spatial there."""
    points = [one(), one() + 100]
    file, alone = tmp_path / f"series{suffix}", tmp_path / f"alone{suffix}"
    SimpleITK.WriteImage(SimpleITK.JoinSeries(points, 5.0, 2.0), str(file))
    SimpleITK.WriteImage(points[0], str(alone))
    with pytest.raises(AmbiguousError, match="the image has 2 time points"):
        io.load(file)
    for frame, point in enumerate(points):
        found = io.load(file, frame=frame)
        theirs = SimpleITK.ReadImage(str(file))[:, :, :, frame]
        np.testing.assert_array_equal(found.array, SimpleITK.GetArrayFromImage(point).transpose(2, 1, 0))
        assert found.affine.tobytes() == io.load(alone).affine.tobytes()
        for index in ((0, 0, 0), (3, 2, 1)):
            x, y, z = theirs.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose((found.affine @ [*index, 1])[:3], (-x, -y, z), rtol=0, atol=1e-12)


def test_a_single_time_point_needs_no_choice(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.JoinSeries([one()]), str(tmp_path / "a.nrrd"))
    assert io.load(tmp_path / "a.nrrd").shape == (4, 3, 2)


def test_colours_in_time(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (2, 2, 3, 4, 3)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(tmp_path / "a.nrrd"))
    still = SimpleITK.GetImageFromArray(array[1], isVector=True)
    SimpleITK.WriteImage(still, str(tmp_path / "b.nrrd"))
    np.testing.assert_array_equal(io.load(tmp_path / "a.nrrd", frame=1).array, io.load(tmp_path / "b.nrrd").array)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"(0,0,0,1)", b"(0,0,1,1)", "its axes lean from space into time"),
        (b",0,0) ", b",0,1) ", "its axes lean from space into time"),
        (b"space dimension: 4", b"space dimension: 3", "4 of its 4 dimensions are spatial"),
        (b"(0,0,0,1)", b"(0,0,1)", "space directions"),
    ],
)
def test_axes_that_are_no_time(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    file = tmp_path / "a.nrrd"
    SimpleITK.WriteImage(SimpleITK.JoinSeries([one(), one()]), str(file))
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(FormatError, match=said):
        io.load(file, frame=0)
