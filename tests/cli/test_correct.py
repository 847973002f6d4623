"""`medsam2 segment --correct`: what an earlier result tells, what it may not be, and what becomes of its other objects."""

import nibabel as nib
import numpy as np

from medical_sam2 import io
from medical_sam2.volume import Segmentation
from tests.cli.conftest import AFFINE, SHAPE, Workspace
from tests.io.making import Series


def test_what_reading_tells_of_the_earlier_result_is_told(workspace: Workspace) -> None:
    earlier = workspace.mask("turned.nii.gz", [(slice(8, 18), slice(6, 16), slice(1, 5))])
    workspace.put("turned.nii.gz", earlier[::-1], AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    report = workspace.done("--correct", "turned.nii.gz", "--negative", "9", "7", "3", "--object", "1")
    assert report["warnings"].count("the labels were stored as RPS; they were turned to the image's LPS") == 1


def test_what_smoothing_gives_up_of_another_object_goes_back_to_it(workspace: Workspace) -> None:
    earlier = workspace.mask(
        "old.nii.gz", [(slice(8, 18), slice(6, 11), slice(1, 5)), (slice(8, 18), slice(11, 16), slice(1, 5))]
    )
    words = ("--correct", "old.nii.gz", "--point", "13", "13", "3", "--object", "1")
    workspace.done(*words, output="rough.nii.gz")
    taken = (workspace.labels("rough.nii.gz") == 1) & (earlier == 2)
    report = workspace.done(*words, "--smooth", "3", output="smooth.nii.gz")
    found = workspace.labels("smooth.nii.gz")
    (told,) = [line for line in report["warnings"] if "back to object" in line]
    back = int(np.count_nonzero(taken & (found == 2)))
    assert told == f"object 1 gave {back} voxels back to object 2"
    assert (found[earlier == 2] != 0).all()


def test_a_dicom_seg_whose_segments_overlap_is_not_corrected(workspace: Workspace) -> None:
    Series(AFFINE, np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.int16)).write(workspace.folder / "series")
    image, one, other = io.load("series"), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[8:18, 6:16, 1:5], other[10:14, 8:12, 2:4] = 1, 2
    io.save(Segmentation(np.maximum(one, other), image.affine, layers=(one, other)), "old.dcm", image)
    words = ("--correct", "old.dcm", "--negative", "9", "7", "3", "--object", "1")
    line = workspace.refused(*words, image="series", output="new.dcm")
    assert line.startswith("old.dcm: its segments overlap in 32 voxels, and a label map holds one number for each")


def test_finishing_means_the_prompted_objects_and_those_it_names(workspace: Workspace) -> None:
    """Crumbs of the other object stay with a bare word, since it is not corrected, and go where the word names it."""
    workspace.mask("old.nii.gz", [(slice(8, 18), slice(6, 11), slice(1, 5)), (slice(8, 18), slice(11, 16), slice(1, 5))])
    words = ("--correct", "old.nii.gz", "--point", "13", "8", "3", "--object", "1")
    report = workspace.done(*words, "--grow", "2", output="one.nii.gz")
    assert {change["object"] for change in report["finishing"]} == {1}
    report = workspace.done(*words, "--grow", "2=2", output="other.nii.gz")
    assert {change["object"] for change in report["finishing"]} == {2}
    assert "there is no object '3'; the objects are 1, 2" in workspace.refused(*words, "--grow", "3=2", output="none.nii.gz")


def test_the_form_of_the_image_counts_for_masks_and_for_what_is_corrected(workspace: Workspace) -> None:
    """Both mostly have the header of their image, whose two forms contradict each other."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[8:18, 6:16, 2] = 1
    for name, array in (("two.nii.gz", workspace.labels("ct.nii.gz")), ("m.nii.gz", drawn)):
        file = nib.Nifti1Image(array, AFFINE)  # type: ignore[attr-defined]
        file.set_sform(AFFINE * [[-1], [1], [1], [1]], 1)
        file.set_qform(AFFINE, 1)
        nib.save(file, workspace.folder / name)
    words = ("--geometry-from", "qform")
    workspace.done(*words, "--mask", "m.nii.gz", image="two.nii.gz")
    found = workspace.labels()
    assert (found & drawn).sum() > (found[:, :, 2].sum() + drawn.sum()) / 3
    workspace.done(*words, "--correct", "m.nii.gz", "--point", "12", "10", "2", image="two.nii.gz", output="new.nii.gz")
    assert workspace.labels("new.nii.gz")[12, 10, 2]
