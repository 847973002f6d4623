"""What is drawn by hand, and what is done to objects afterwards, on the command line: as in Python, reported, or refused."""

import json

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.prompts import Box
from medical_sam2.segmenter import Segmenter
from medical_sam2.strokes import Diameter, Lasso, Scribble, SliceRange
from medical_sam2.tracking.finishing import FinishingSteps, finish
from medical_sam2.volume import Segmentation, SliceConfidence
from tests.cli.conftest import AFFINE, CLICK, SHAPE, SetWorkspace, Workspace, known

BOX = ("--box", "8", "6", "1", "17", "15", "4")


def test_all_kinds_are_as_in_python(workspace: Workspace) -> None:
    words = [
        *BOX,
        "--negative-box",
        "8",
        "6",
        "1",
        "17",
        "7",
        "2",
        "--slices",
        "1",
        "3",
        "--scribble=10",
        "8",
        "2",
        "14",
        "9",
        "2",
    ]
    words += ["--width", "1", "--lasso", "2:8,6,3", "12,6,3", "12,11,3", "--diameter", "3:8 14 2 16 14 2", "--preview", "p.png"]
    report = workspace.done(*words)
    image = io.load("ct.nii.gz")
    prompts = [
        Box((8, 6, 1), (17, 15, 4)),
        Box((8, 6, 1), (17, 7, 2), positive=False),
        Scribble(((10, 8, 2), (14, 9, 2)), width=1),
        Lasso(((8, 6, 3), (12, 6, 3), (12, 11, 3)), 2),
        Diameter(((8, 14, 2), (16, 14, 2)), 3),
        SliceRange(1, 3),
    ]
    expected = Segmenter(known(str(workspace.weights)), device="cpu", precision="fp32").segment_volume(image, prompts)
    assert (workspace.labels() == expected.labels).all()
    assert report["prompts"][0]["negative_boxes"] == [[8, 6, 1, 17, 7, 2]]
    assert report["prompts"][0]["slices"] == [1, 3]
    (workspace.folder / "p.json").write_text(json.dumps({"objects": [*report["prompts"]]}))
    workspace.done("--prompts", "p.json", output="again.nii.gz")
    assert (workspace.labels("again.nii.gz") == workspace.labels()).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--scribble 14 12", "--scribble needs places of three numbers, not '14 12'; give --scribble I J K ..."),
        ("--scribble 14 12 3 4", "--scribble needs places of three numbers, not '14 12 3 4'"),
        ("--lasso 4 4 3 9 9 3", "a lasso has 2 places; give 3 or more"),
        ("--diameter 4 4 3", "a diameter of object 1 has 1 ends"),
        ("--scribble 4 4 3 9 9 2", "a scribble of object 1 lies on no single slice"),
        ("--point 14 12 3 --width 2", "--width changes nothing: there is no scribble"),
        ("--point 14 12 3 --slices 4 5", "object 1 is prompted on axial slice 3, which its slices or its box leave out"),
        ("--point 14 12 3 --slices 1.5 5", "--slices: 1.5 5 are no slices"),
        (
            "--point 14 12 3 --slices 1 4 --slices 2 5",
            "object 1 has two ranges of slices, and each limits it; give one of them",
        ),
        ("--point 14 12 3 --box 8 6 1 17 15 4 --box 9 6 2 17 15 5", "object 1 has two boxes in 3D, and each limits it"),
        ("--point 14 12 3 --grow 1e9", "1e+09 mm are farther than any organ reaches; give 500 mm at most"),
        ("--point 14 12 3 --smooth 1e9", "1e+09 mm are farther than any organ reaches"),
        ("--point 14 12 3 --shrink 501", "501 mm are farther than any organ reaches"),
        ("--point 14 12 3 --grow 1_0", "--grow 1_0: '1_0' is no positive number"),
        ("--slices 1 5", "object 1 has no prompt that says where it is"),
        ("--point 14 12 3 --interpolate", "--interpolate changes nothing: nothing is outlined"),
        ("--lasso 4 4 3 9 9 3 9 4 3 --interpolate", "object 1 has no slices between outlines"),
        ("--point 14 12 3 --grow 1", "growing or shrinking by 1 mm changes nothing: voxels are 2 mm at least"),
        ("--point 14 12 3 --smooth liver=2", "--smooth liver=2: there is no object 'liver'; the objects are 1"),
        ("--point 14 12 3 --grow 3 --shrink 3", "object 1 is to grow and to shrink"),
        ("--point 14 12 3 --min-volume 0.001", "drops nothing: a voxel has 0.016 mL"),
        ("--point 14 12 3 --correct old.nii.gz --box 4 4 1 16 16 4", "a correction of object 1 takes no box in 3D"),
    ],
)
def test_refused(workspace: Workspace, words: str, said: str) -> None:
    if "--correct" in words:
        workspace.mask("old.nii.gz", [(slice(8, 16), slice(6, 14), slice(1, 5))])
    assert said in workspace.refused(*words.split())


def test_finishing_is_recorded(workspace: Workspace) -> None:
    workspace.done("--lasso", "8,6,3,17,6,3,17,15,3,8,15,3", "--name", "liver")
    plain = io.load_labels("out.nii.gz", io.load("ct.nii.gz")).array
    words = ["--lasso", "8,6,3,17,6,3,17,15,3,8,15,3", "--name", "liver", "--grow", "liver=4", "--largest", "--fill-holes"]
    report = workspace.done(*words, output="grown.nii.gz")
    assert [(row["step"], row["setting"]) for row in report["finishing"]] == [
        ("fill_holes", True),
        ("largest", True),
        ("grow_mm", 4.0),
    ]
    found = workspace.labels("grown.nii.gz")
    assert (found > 0).sum() == report["finishing"][-1]["after"] > (plain > 0).sum()
    assert any("the outline of object 1 on slice 3 of axis k was changed by" in line for line in report["warnings"])

    expected, _ = finish(
        Segmentation(plain.astype(np.uint8), io.load("ct.nii.gz").affine), {1: FinishingSteps(True, True, grow_mm=4)}
    )
    assert (found == expected.labels).all()


def test_a_set_of_images(set_workspace: SetWorkspace) -> None:
    box = ("--template", "a.png", "--box", "20", "20", "39", "39", "--negative-box", "20", "20", "24", "39")
    report = set_workspace.done(*box, "--scribble", "28 28 34 34", "--width", "1")
    (prompt,) = report["prompts"]
    assert prompt["settled"] == {"inside": 7, "outside": 5 * 20}
    from PIL import Image

    labels = np.asarray(Image.open("out/a.png"))
    assert not labels[20:40, 20:25].any()
    assert all(labels[i, i] for i in range(28, 35))
    assert "lies outside the image" in set_workspace.refused("--template", "a.png", "--lasso", "1 1 900 1 3 3", output="b")


def test_nothing_of_an_object_that_finishing_left_empty_is_to_be_reviewed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SliceConfidence(1, "SPL", 3, 0.311, 4, look_here=True)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 2:4, 3] = 1
    found = Segmentation(labels, AFFINE, confidence=(row,))
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *_, **__: found)
    assert workspace.done(*CLICK, "--views", "one", output="a.nii.gz")["look_here"]
    report = workspace.done(*CLICK, "--views", "one", "--min-volume", "100", output="b.nii.gz")
    assert (report["objects"][0]["voxels"], report["look_here"]) == (0, [])


def test_a_dry_run_tells_between_which_slices_an_object_is_looked_for(workspace: Workspace) -> None:
    _, out, _ = workspace.run(*BOX, "--dry-run")
    assert "looked for on slices 8 to 17 of axis i, 6 to 15 of axis j, 1 to 4 of axis k alone" in out
    _, out, _ = workspace.run(*CLICK, "--dry-run")
    assert "looked for on slices" not in out


def test_a_box_in_millimetres_that_two_slices_hold_is_told(workspace: Workspace) -> None:
    told = "object 1: its box reaches from slice 3 to 4 of axis k and is one in 3D"
    for z, expected in ((-34, True), (-37, False), (-30, False)):
        report = workspace.done("--mm", "--box", "24", "18", "-38", "6", "0", str(z), "--dry-run", output=f"{-z}.nii.gz")
        assert any(line.startswith(told) for line in report["warnings"]) == expected
