"""What is shown: the right slices, the right grey values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import GeometryError
from medical_sam2.intensity_window import Window, percentile_window
from medical_sam2.preview.scene import PreviewScene
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.strokes import SliceRange
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import Segmentation, Volume
from tests.strategies import masks, shapes

Shape = tuple[int, int, int]


def scene_of(labels: np.ndarray, affine: np.ndarray | None = None, **options: object) -> PreviewScene:
    affine = np.eye(4) if affine is None else affine
    names = options.pop("names", {})
    return PreviewScene(Volume(np.zeros(labels.shape), affine), Segmentation(labels, affine, names=names), **options)


@given(st.data(), shapes)
def test_areas_extents_and_voxels_are_counted(data: st.DataObject, shape: Shape) -> None:
    labels = data.draw(masks(shape)) * np.uint8(3)
    scene = scene_of(labels, names={3: "liver", 8: "spleen"})
    assert scene.voxels == {3: np.count_nonzero(labels), 8: 0}
    for axis in range(3):
        across = tuple({0, 1, 2} - {axis})
        np.testing.assert_array_equal(scene.areas[axis], (labels != 0).sum(axis=across))
        filled = np.flatnonzero(labels.any(axis=across))
        assert scene.extent(axis) == ((filled[0], filled[-1]) if len(filled) else (0, shape[axis] - 1))


@given(st.data(), shapes)
def test_the_largest_slice_is_shown(data: st.DataObject, shape: Shape) -> None:
    labels = data.draw(masks(shape, some=True)).astype(np.uint8)
    scene = scene_of(labels)
    for view in THREE_VIEWS:
        areas = view.apply(labels, scene.axes).sum(axis=(1, 2))
        assert areas[scene.frame(view)] == areas.max()


def test_the_prompted_slice_is_shown() -> None:
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    point, box = Point((1, 6, 9)), Box((1, 1, 7), (4, 4, 7))
    scene = scene_of(labels, prompts=[point])
    assert [scene.frame(view) for view in (AXIAL, CORONAL, SAGITTAL)] == [9, 10 - 1 - 6, 9 - 1 - 1]
    assert [len(scene.prompts_on(AXIAL, t)) for t in (8, 9)] == [0, 1]
    assert scene_of(labels, prompts=[box, point]).frame(AXIAL) == 7
    assert scene_of(labels, prompts=[box]).frame(CORONAL) != 1


def test_a_correction_that_only_takes_away_is_shown() -> None:
    """What says where the object is comes first, as it does where it is segmented anew."""
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    outside, flat = Point((1, 6, 9), positive=False), Box((1, 7, 1), (4, 7, 4), positive=False)
    scene = scene_of(labels, prompts=[outside, flat])
    assert [scene.frame(view) for view in (AXIAL, CORONAL, SAGITTAL)] == [9, 10 - 1 - 6, 9 - 1 - 1]
    assert scene_of(labels, prompts=[flat]).main_view == CORONAL
    assert scene_of(labels, prompts=[outside, Point((1, 6, 8))]).frame(AXIAL) == 8
    assert scene_of(labels, prompts=[SliceRange(0, 1)]).frame(AXIAL) in range(2, 5)


def test_the_middle_is_shown_where_nothing_is() -> None:
    scene = scene_of(np.zeros((4, 5, 6), np.uint8))
    assert [scene.frame(view) for view in (AXIAL, CORONAL, SAGITTAL)] == [3, 2, 2]


@pytest.mark.parametrize(
    ("spacing", "view"), [((1, 1, 1), AXIAL), ((1, 1, 5), AXIAL), ((1, 5, 1), CORONAL), ((5, 1, 1), SAGITTAL)]
)
def test_the_plane_to_leaf_through_is_that_of_the_acquisition(spacing: tuple[float, ...], view: View) -> None:
    assert scene_of(np.zeros((4, 5, 6), np.uint8), np.diag([*spacing, 1.0])).main_view == view


def test_the_plane_to_leaf_through_is_that_of_the_prompt() -> None:
    outline = np.zeros((4, 5, 6), bool)
    outline[1:3, 2, 1:3] = True
    labels, thick = np.zeros((4, 5, 6), np.uint8), np.diag([1.0, 1.0, 5.0, 1.0])
    assert scene_of(labels, thick, prompts=[Mask(outline)]).main_view == CORONAL
    assert scene_of(labels, thick, prompts=[Point((1, 1, 1))]).main_view == AXIAL


def test_another_grid_is_refused() -> None:
    volume = Volume(np.zeros((2, 3, 4)), np.eye(4))
    with pytest.raises(GeometryError, match="shape"):
        PreviewScene(volume, Segmentation(np.zeros((2, 3, 5), np.uint8), np.eye(4)))


def test_what_is_shown_is_what_the_network_saw() -> None:
    lung, told = Window(-1250, 250), Window(3, 4)
    labels = np.zeros((2, 2, 2), np.uint8)
    volume = Volume(np.arange(8.0).reshape(2, 2, 2), np.eye(4))
    seen = Segmentation(labels, np.eye(4), windows={2: Window(0, 1), 1: lung})
    assert PreviewScene(volume, seen).grey == lung
    assert PreviewScene(volume, seen, window=told).grey == told
    assert PreviewScene(volume, Segmentation(labels, np.eye(4))).grey == percentile_window(volume.array)


def test_a_ct_that_nobody_was_asked_about_is_shown_as_its_objects_need_it() -> None:
    array = np.random.default_rng(0).choice([-1000, -700, 40, 700], (20, 20, 20), p=[0.3, 0.1, 0.55, 0.05])
    volume = Volume(array, np.eye(4), "CT")
    for value, window in ((-700, Window(-1250, 250)), (40, Window(-160, 240)), (700, Window(-500, 1300))):
        assert PreviewScene(volume, Segmentation((array == value).astype(np.uint8), np.eye(4))).grey == window


def test_what_the_network_saw_through_several_windows_is_shown_through_each() -> None:
    """Each part looks at the slices of its objects; one without a window is looked at in the first part."""
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[2:5, 2:5, 1], labels[2:5, 2:5, 5], labels[1:5, 1:5, 9], labels[0:9, 0:9, 3] = 1, 2, 3, 7
    soft, lung = Window(-160, 240, "soft tissue"), Window(-1250, 250, "lung")
    found = Segmentation(labels, np.eye(4), windows={1: soft, 2: lung, 3: soft})
    prompts = [Point((3, 3, 5), object=2), Point((3, 3, 1), object=1)]
    first, second = PreviewScene(Volume(np.zeros(labels.shape), np.eye(4)), found, prompts).split()
    assert (first.grey, first.looked_at, second.grey, second.looked_at) == (soft, {1, 3, 7}, lung, {2})
    assert [scene.frame(AXIAL) for scene in (first, second)] == [1, 5]
    assert [scene.prompted(AXIAL) for scene in (first, second)] == [[1], [5]]
    assert (first.extent(2), second.extent(2)) == ((1, 9), (5, 5))
    assert len(second.prompts_on(AXIAL, 1)) == 1, "all that was pointed at is marked"
    for one in (scene_of(labels), PreviewScene(first.volume, found, window=lung)):
        assert one.split() == [one]
    many = replace(found, windows={label: Window(0, label + 1) for label in range(1, 9)})
    assert len(PreviewScene(first.volume, many).split()) == 4
