"""Files of prompts: what is written is read back, and nothing odd is taken."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_sam2.errors import FormatError, GeometryError, MedicalSam2Error, PromptError
from medical_sam2.io import save
from medical_sam2.io.coordinates import Places
from medical_sam2.io.labels import outlines
from medical_sam2.io.prompt_file import describe_prompts, load_prompts, masks_from, save_prompts
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange
from medical_sam2.volume import Volume

SHAPE = (9, 8, 7)
AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4.0, -50], [0, 0, 0, 1]])
VOLUME = Volume(np.random.default_rng(0).normal(size=SHAPE), AFFINE)
KEY_OF_OBJECTS = '{"objects": [{"label": 1, "points": [[1, 1, 1]]}]}'

places = st.tuples(*(st.floats(0, size - 1) for size in SHAPE))
points = st.builds(Point, places, st.integers(1, 3), st.booleans())


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """A rectangle on a slice of the last axis."""
    (i, j, k), wide, high = (
        draw(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 6))),
        *draw(st.tuples(st.integers(1, 4), st.integers(1, 3))),
    )
    return Box((i, j, k), (i + wide, j + high, k), draw(st.integers(1, 3)))


def written(folder: Path, content: object) -> Path:
    """A file of prompts with this content."""
    path = folder / "said.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one(**entry: Any) -> dict[str, Any]:
    """A file with one object."""
    return {"version": 1, "objects": [{"label": 1, **entry}]}


@settings(max_examples=25)
@given(said=st.lists(points | boxes(), min_size=1, max_size=6))
def test_round_trip(said: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> None:
    path, names = tmp_path_factory.mktemp("said") / "said.json", {said[0].object: "a vein"}
    save_prompts(path, said, names, VOLUME)
    read = load_prompts(path, VOLUME)
    assert read.names == names
    assert set(read.prompts) == set(said)
    assert read.labels == tuple(sorted({prompt.object for prompt in said}))


def test_masks_are_written_beside(tmp_path: Path) -> None:
    drawn = np.zeros(SHAPE, bool)
    drawn[2:5, 2:6, 3] = True
    said = [Mask(drawn, 2, axis=2), Mask(~drawn, 3)]
    save_prompts(tmp_path / "said.json", said, {}, VOLUME)
    read = load_prompts(tmp_path / "said.json", VOLUME).prompts
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(name[:7] for name in names) == ["said-1-", "said-2-", "said.js"]
    for before, after in zip(said, read, strict=True):
        assert isinstance(after, Mask)
        assert after.object == before.object
        assert (after.array_ijk == before.array_ijk).all()
    assert read[0].planes() == {2}


def test_millimetres(tmp_path: Path) -> None:
    content = {"coordinates": "mm", **one(points=[[36, 26, -38]], boxes=[[38, 28, -38, 30, 20, -38]])}
    point, box = load_prompts(written(tmp_path, content), VOLUME).prompts
    assert point == Point((2, 2, 3))
    assert box == Box((1, 1, 3), (5, 5, 3))


def test_fractions_of_voxels_are_told(tmp_path: Path) -> None:
    """Of clicks and boxes in voxels, which mostly were meant as millimetres; a place in millimetres has fractions anyway."""
    told = "fractions count within a slice alone; of slices the nearest one is taken (.5: the next)"
    content = one(
        points=[[2, 2, 3.5], [1, 1, 1]], boxes=[[1, 1.25, 3, 5, 5, 3]], scribbles=[{"places": [[1.5, 1, 3], [3, 3, 3]]}]
    )
    assert load_prompts(written(tmp_path, content), VOLUME).notes == (
        f"point at voxel (2, 2, 3.5): {told}",
        f"box at voxel (1, 1.25, 3): {told}",
    )
    assert not load_prompts(written(tmp_path, {"coordinates": "mm", **one(points=[[36.5, 26, -38]])}), VOLUME).notes


def test_corners_of_a_box_come_in_any_order() -> None:
    assert Places(VOLUME).box([5, 1, 3, 1, 4, 3], 1) == Box((1, 1, 3), (5, 4, 3))


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        ("[]", FormatError, "it holds no JSON object"),
        ("{", FormatError, "no valid JSON"),
        (KEY_OF_OBJECTS.replace("[1, 1, 1]", "[1, NaN, 1]"), FormatError, "NaN"),
        (KEY_OF_OBJECTS.replace("[1, 1, 1]", "[1, 1e999, 1]"), FormatError, "infinite"),
        (KEY_OF_OBJECTS.replace("[1, 1, 1]", f"[1, {10**400}, 1]"), FormatError, "a number of 401 digits"),
        (KEY_OF_OBJECTS.replace("[1, 1, 1]", "[1, true, 1]"), FormatError, "is not 3 numbers"),
        ({"version": 2, "objects": []}, FormatError, "newer program"),
        ({"version": 1}, FormatError, "objects is no list"),
        ({"objects": []}, PromptError, "objects is empty"),
        ({"objects": [3]}, FormatError, "an object is no JSON object"),
        ({"objets": []}, FormatError, "did you mean 'objects'?"),
        (one(point=[[1, 1, 1]]), FormatError, "unknown key 'point'; did you mean 'points'?"),
        (one(masks=[{"fil": "x"}]), FormatError, "a mask has the unknown key 'fil'; did you mean 'file'?"),
        (one(masks=[{"label": 1}]), FormatError, "a mask has no file"),
        (one(masks=[{"file": "m.nii", "axis": "x"}]), FormatError, "write i, j or k"),
        (one(masks=[{"file": "m.nii", "label": 0}]), FormatError, "the label of a mask is no label"),
        (one(masks=[{"file": "m.nii", "label": 1, "threshold": 2}]), FormatError, "a mask has a label and a threshold"),
        (one(masks=[{"file": "../m.nii"}]), FormatError, "outside the folder"),
        (one(masks=[{"file": "/etc/m.nii"}]), FormatError, "outside the folder"),
        (one(masks=[{"file": "m.nii.gz\0"}]), FormatError, "is no path"),
        (one(points=[[1, 1]]), FormatError, "an entry of points is not 3 numbers"),
        (one(points=3), FormatError, "points is no list"),
        (one(boxes=[[1, 1, 1]]), FormatError, "an entry of boxes is not 6 numbers; write i, j, k of two corners"),
        (one(points=[[1, 1, 1]], label=0), FormatError, "label '0' is no label"),
        (one(points=[[1, 1, 1]], label=True), FormatError, "is no label"),
        (one(points=[[1, 1, 1]], name="a\nb"), FormatError, "no line of text"),
        ({"coordinates": "lps", **one(points=[[1, 1, 1]])}, FormatError, "coordinates 'lps' are unknown"),
        ({"objects": [{"points": [[1, 1, 1]]}] * 2}, FormatError, "two objects have the same label"),
        (one(), PromptError, "object 1 has no prompt"),
        (one(points=[[1, 1, 9]]), PromptError, "lies outside the image of 9×8×7 voxels"),
        (one(points=[[1, 1, 7]]), PromptError, "indices go from 0 to 8×7×6: these look counted from 1"),
        (one(points=[[36, 26, -38]]), PromptError, "look like millimetres"),
        (one(scribbles=[{"places": []}]), PromptError, "places is empty"),
        (one(scribbles=[{"places": [[1, 1, 1]], "positive": 1}]), FormatError, "an entry of scribbles is not clear"),
        (one(scribbles=[{"places": [[1, 1, 1]], "width": 0}]), PromptError, "a scribble cannot be 0 wide"),
        (one(lassos=[{"places": [[1, 1, 1], [4, 4, 1]]}]), PromptError, "a lasso has 2 places; give 3 or more"),
        (one(lassos=[{"places": [[1, 1, 1]], "width": 1}]), FormatError, "unknown key 'width'"),
        (one(scribbles=[{"places": [[1, 1, 1], [1, 1, 90]]}]), PromptError, "scribble at voxel (1, 1, 90) lies outside"),
        (one(diameters=[[1, 1, 1]]), FormatError, "an entry of diameters is not 6 numbers"),
        (one(slices=[1.5, 3], points=[[1, 1, 1]]), FormatError, "are no whole numbers"),
        (one(slices=[3], points=[[1, 1, 1]]), FormatError, "write the first and the last"),
        (one(slices=[1, 3, "x"], points=[[1, 1, 1]]), FormatError, "the axis of the slices of object 1 is none"),
        (one(interpolate=1, points=[[1, 1, 1]]), FormatError, "neither true nor false"),
        (one(boxes=[[1, 1, 1, 1, 4, 1]]), PromptError, "neither a rectangle on one slice nor a box in 3D"),
    ],
)
def test_refused(content: object, kind: type[MedicalSam2Error], told: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"said\.json: ") as error:
        load_prompts(written(tmp_path, content), VOLUME)
    assert told in str(error.value)


def test_what_is_drawn_comes_back(tmp_path: Path) -> None:
    line = ((1.5, 1.0, 3.0), (4.0, 5.0, 3.0), (2.0, 6.0, 3.0))
    drawn: list[Any] = [
        Box((1, 1, 1), (4, 5, 5)),
        Box((1, 1, 1), (4, 5, 1), positive=False),
        Scribble(line, 1, True, 1.5),
        Scribble(line, 1, False),
        Lasso(line, 2),
        Lasso(line, 2, positive=False),
        Diameter(line[:2], 2),
        SliceRange(1, 5, 2),
        SliceRange(2, 4, 1, axis=1),
        ShapeInterpolation(2),
    ]
    save_prompts(tmp_path / "said.json", drawn, {1: "a"}, VOLUME)
    assert set(load_prompts(tmp_path / "said.json", VOLUME).prompts) == set(drawn)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:6, 3] = 2
    save(labels, tmp_path / "m.nii.gz", VOLUME)
    path = written(tmp_path, one(masks=[{"file": "m.nii.gz", "label": 1}]))
    with pytest.raises(PromptError, match=r"m\.nii\.gz: it has no label 1"):
        load_prompts(path, VOLUME)
    moved = Volume(VOLUME.array, VOLUME.affine + np.eye(4)[[3, 3, 3, 3]] * [[1], [1], [1], [0]])
    with pytest.raises(GeometryError, match=r"m\.nii\.gz: "):
        load_prompts(path, moved)


def test_a_link_leads_out_of_the_folder_no_more_than_a_path(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(np.ones(SHAPE, np.uint8), tmp_path / "m.nii.gz", VOLUME)
    (tmp_path / "in" / "m.nii.gz").symlink_to(tmp_path / "m.nii.gz")
    with pytest.raises(FormatError, match="outside the folder"):
        load_prompts(written(tmp_path / "in", one(masks=[{"file": "m.nii.gz"}])), VOLUME)


def test_axis_of_an_outline_is_the_one_with_the_fewest_slices() -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1:7, 3, 1:6] = array[1:7, 5, 1:6] = 1
    (mask,) = masks_from(outlines(array))
    assert mask.planes() == {1}


def test_a_name_of_two_objects_is_told(tmp_path: Path) -> None:
    """The page lets structures share one, and its files of prompts are read; but who names one of them means both."""
    entries = [{"label": label, "name": name, "points": [[label, 1, 1]]} for label, name in ((1, "x"), (4, "x"), (2, "y"))]
    said = "objects 1 and 4 are both called 'x': name them apart, or speak of them by their numbers"
    path = written(tmp_path, {"objects": entries})
    assert load_prompts(path, VOLUME).notes == (said,)
    assert describe_prompts(path)["warnings"] == [said]
    path = written(
        tmp_path, {"objects": [*entries[1:], {"label": 3, "points": [[1, 1, 1]]}, {"label": 5, "points": [[1, 1, 2]]}]}
    )
    assert load_prompts(path, VOLUME).notes == ()
