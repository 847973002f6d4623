"""What is drawn by hand: on its voxels, shown to the network, and followed by the answer in every orientation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2 import strokes
from medical_sam2.errors import PromptError
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.simulate import draw_diameters, draw_lasso, draw_scribble
from medical_sam2.strokes import (
    Diameter,
    Lasso,
    Scribble,
    ShapeInterpolation,
    SliceRange,
    farthest_points,
    fill,
    lasso_prompt,
    stroke,
)
from medical_sam2.tracking import volume_tracker
from medical_sam2.views import AXIAL, CORONAL
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import SHAPE, Phantom, phantom, segmenter

SQUARE = ((2, 3), (6, 3), (6, 7), (2, 7))


def places(corners: Sequence[Sequence[float]], k: float = 4) -> tuple[tuple[float, float, float], ...]:
    return tuple((x, y, k) for x, y in corners)


def segment(case: Phantom, prompts: Sequence[Prompt], **options: Any) -> Segmentation:
    return segmenter().segment_volume(case.volume, prompts, **({"window": "0,1"} | options))


def slab(axis: int, first: int, last: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, last + 1) if a == axis else slice(None) for a in range(3))] = True
    return mask


def test_rows_of_an_array_are_places_too() -> None:
    rows = np.array(places(SQUARE))
    assert Lasso(rows) == Lasso(places(SQUARE))  # type: ignore[arg-type]
    assert Scribble(rows[:2]).places_ijk == places(SQUARE)[:2]  # type: ignore[arg-type]


def test_a_lasso_encloses_the_pixels_that_it_runs_through() -> None:
    expected = np.zeros((10, 9), bool)
    expected[3:8, 2:7] = True
    assert (fill(np.array(SQUARE, float), (10, 9)) == expected).all()
    half = fill(np.array([(1.6, 2.6), (6.4, 2.6), (6.4, 7.4), (1.6, 7.4)]), (10, 9))
    assert (half == expected).all()


def test_a_lasso_is_no_larger_than_its_outline() -> None:
    """A circle, drawn by hand from any place and either way."""
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = np.stack([20 + 8.3 * np.cos(turn), 17 + 8.3 * np.sin(turn)], 1)
    y, x = np.mgrid[:40, :38]
    expected = np.hypot(x - 20, y - 17) <= 8.3 * np.cos(np.pi / 90)
    found = fill(circle, (40, 38))
    assert (found & ~expected).sum() <= 4
    assert (expected & ~found).sum() == 0
    assert (fill(np.roll(circle, 31, 0)[::-1], (40, 38)) == found).all()


@pytest.mark.parametrize(("width", "rows"), [(1, [5]), (2, [5]), (3, [4, 5, 6]), (5, [3, 4, 5, 6, 7])])
def test_a_scribble_is_as_wide_as_it_is_said_to_be(width: float, rows: list[int]) -> None:
    mask = stroke(np.array([[3, 5], [9, 5.0]]), width, (12, 14))
    assert np.flatnonzero(mask[:, 6]).tolist() == rows
    assert np.flatnonzero(mask[5]).tolist() == list(range(3 - (width - 1) // 2, 10 + (width - 1) // 2))  # type: ignore[arg-type]


def test_a_line_has_no_gap() -> None:
    mask = stroke(np.array([[0, 0], [11, 4], [3, 9.0]]), 1, (10, 12))
    path = strokes._line_pixels(np.array([[0, 0], [11, 4], [3, 9.0]]))  # type: ignore[attr-defined]
    assert (np.abs(np.diff(path, axis=0)).max(axis=1) == 1).all()
    assert mask.sum() == len(np.unique(path, axis=0))


def test_clicks_of_a_scribble_lie_far_from_each_other() -> None:
    line = np.stack([np.arange(21), np.zeros(21)], 1)
    assert line[farthest_points(line, 3)][:, 0].tolist() == [10, 0, 20]
    assert len(farthest_points(line[:2], 5)) == 2  # no place twice


def test_where_a_stroke_lies() -> None:
    prompt = Scribble(places([(2, 3), (6, 3)]), positive=False)
    ((t, shown),) = prompt.project(AXIAL, (9, 10, 8)).items()
    assert (t, shown.labels.tolist()) == (4, [0])
    assert prompt.project(CORONAL, (9, 10, 8)).keys() == {6}  # a straight line lies on a slice of two axes
    assert Lasso(places(SQUARE)).project(CORONAL, (9, 10, 8)) == {}
    voxels = Lasso(places(SQUARE)).region((9, 10, 8), 2)
    mask = np.zeros((9, 10, 8), bool)
    mask[tuple(voxels.T)] = True
    expected = np.zeros_like(mask)
    expected[2:7, 3:8, 4] = True
    assert (mask == expected).all()
    stack = AXIAL.apply(mask, "LPS")
    ((t, shown),) = Lasso(places(SQUARE)).project(AXIAL, (9, 10, 8), "LPS").items()
    assert shown.mask_hw is not None
    assert (stack[t] == shown.mask_hw).all()


@pytest.mark.parametrize("code", ["RAS", "PIR", "ASL"])
def test_a_lasso_is_an_outline(code: str) -> None:
    """The same answer as to a mask of the same voxels, and the slice stays as it was drawn."""
    case = phantom(code)
    axis = code.index("S") if "S" in code else code.index("I")
    mask = case.slice_mask(1, axis)
    voxels = np.argwhere(mask)
    rest = [a for a in range(3) if a != axis]
    low, high = voxels.min(0), voxels.max(0)
    corners = []
    for one, other in ((low, low), (high, low), (high, high), (low, high)):
        corner = low.copy()
        corner[rest[0]], corner[rest[1]] = one[rest[0]], other[rest[1]]
        corners.append(tuple(map(float, corner)))
    drawn = np.zeros_like(mask)
    drawn[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    by_lasso = segment(case, [Lasso(tuple(corners))]).labels  # type: ignore[arg-type]
    by_mask = segment(case, [Mask(drawn, axis=axis)]).labels
    assert (by_lasso == by_mask).all()
    assert (by_lasso[mask.any(axis=tuple(rest)).nonzero() if axis == 0 else drawn] > 0).all()


@pytest.mark.parametrize("code", ["RAS", "LIP"])
@pytest.mark.parametrize("views", ["one", "three"])
def test_a_box_in_3d_cuts_off_what_lies_beyond(code: str, views: str) -> None:
    case = phantom(code)
    whole = np.argwhere(case.truth == 1)
    low, high = whole.min(0) + 1, whole.max(0) - 2
    expected = np.zeros_like(case.truth)
    place = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    expected[place] = case.truth[place] == 1
    found = segment(case, [Box(tuple(map(float, low)), tuple(map(float, high)))], views=views)  # type: ignore[arg-type]
    assert (found.labels == expected).all()


@pytest.mark.parametrize("code", ["RAS", "LIP"])
@pytest.mark.parametrize("views", ["one", "six"])
def test_slices_limit_tracking(code: str, views: str) -> None:
    case = phantom(code)
    axis = "ijk".index("k")
    k = int(case.voxel(1)[axis])
    box = case.prompt("box", 1, axis)
    found = segment(case, [box, SliceRange(k - 1, k + 1)], views=views)
    assert ((found.labels == 1) == ((case.truth == 1) & slab(axis, k - 1, k + 1, case.truth.shape))).all()
    primary = found.confidence[0].view[0]
    assert {row.slice for row in found.confidence if row.view[0] == primary} == {k - 1, k, k + 1}


def test_padding_does_not_move_slices() -> None:
    case = phantom()
    array = np.pad(case.volume.array, 5)
    found = segmenter().segment_volume(
        type(case.volume)(array, case.volume.affine), [Box((8, 9, 13), (13, 14, 13)), SliceRange(12, 14)], window="0,1"
    )
    assert np.flatnonzero(found.labels.any(axis=(0, 1))).tolist() == [12, 13, 14]


def test_slices_are_counted_in_the_whole_volume() -> None:
    """Slices of the padding are slices; what the file does not have is refused, and the message counts as the file does."""
    case = phantom()
    array = np.pad(case.volume.array, 5)
    volume, box, last = type(case.volume)(array, case.volume.affine), Box((8, 9, 13), (13, 14, 13)), array.shape[2] - 1
    found = segmenter().segment_volume(volume, [box, SliceRange(12, last)], window="0,1").labels
    assert not found[:, :, :12].any()
    assert found.any()
    with pytest.raises(PromptError, match=f"no slices 12 to {last + 1} of axis k; they end at {last}"):
        segmenter().segment_volume(volume, [box, SliceRange(12, last + 1)], window="0,1")


def test_scribbles_are_followed_whatever_is_found() -> None:
    """Inside of what is dark, and outside of what is bright."""
    case = phantom()
    inside = Scribble(((3, 2, 8), (7, 2, 8)), width=1)
    outside = Scribble(((3, 9, 8), (7, 9, 8)), positive=False, width=1)
    found = segment(case, [Point(case.voxel(1)), inside, outside], islands=True).labels == 1
    expected = case.truth == 1
    expected[3:8, 2, 8], expected[3:8, 9, 8] = True, False
    assert (found == expected).all()


def test_a_wide_scribble_is_whole_at_the_border_of_padding() -> None:
    case = phantom()
    padded = np.zeros((20, 20, 16), np.float32)
    padded[5:16, 3:16] = case.volume.array
    volume = Volume(padded, case.volume.affine)
    wide = Scribble(((8, 3, 8), (12, 3, 8)), width=5)
    found = segmenter().segment_volume(volume, [Point((10, 9, 8)), wide], window="0,1", islands=True).labels
    assert found[8:13, 1:6, 8].all()


def test_what_another_object_claims_stays_scribbled_on() -> None:
    """However sure the network is of the other one; where it is outlined there, or comes first, that is told."""
    case = phantom()
    line = ((3, 9, 8), (7, 9, 8))
    own: list[Prompt] = [Point((5, 6, 8), 1), Point(case.voxel(2), 2), Scribble(line, 2, width=1)]
    found = segment(case, own, islands=True)
    assert (found.labels[3:8, 9, 8] == 2).all()
    assert not any("scribbled" in line for line in found.warnings)
    found = segment(case, own, islands=True, priority=["1"])
    assert (found.labels[3:8, 9, 8] == 1).all()
    assert "object 2 lost 5 scribbled voxels to others" in found.warnings


def test_a_negative_region_in_every_orientation() -> None:
    case = phantom("PIR")
    box = np.argwhere(case.truth == 1)
    low, high = box.min(0), box.max(0)
    out = Box((low[0], low[1], low[2]), (low[0] + 1, high[1], high[2]), positive=False)
    found = segment(case, [Point(case.voxel(1)), out], islands=True).labels == 1
    assert (found == ((case.truth == 1) & ~slab(0, low[0], low[0] + 1, case.truth.shape))).all()
    flat = Lasso(((4, 5, 8), (6, 5, 8), (6, 8, 8), (4, 8, 8)), positive=False)
    plain = phantom()
    found = segment(plain, [Point(plain.voxel(2), 2), Point((3, 4, 5)), flat], islands=True).labels
    expected = plain.truth.copy()
    expected[4:7, 5:9, 8] = 0
    assert (found == expected).all()


@pytest.mark.parametrize("short", [((10, 30, 8), (38, 30, 8)), ((5, 13, 8), (5, 35, 8)), ((40, 13, 8), (40, 35, 8))])
def test_a_short_diameter_lies_across_the_long_one(short: tuple[tuple[int, int, int], ...]) -> None:
    long = ((10, 24, 8), (38, 24, 8))
    Diameter((*long, (24, 13, 8), (25, 35, 8)))
    Diameter((*long, (38, 13, 8), (38, 20, 8)))  # of a bent one, where it ends
    with pytest.raises(PromptError, match="does not lie across the long one"):
        Diameter((*long, *short))


@pytest.mark.parametrize("line", [[(3, 4)] * 3, [(3, 4), (8, 4), (6, 4)], [(1, 1), (3, 3), (5, 5), (2, 2)]])
def test_a_lasso_encloses_something(line: list[tuple[float, float]]) -> None:
    with pytest.raises(PromptError, match="a lasso encloses nothing"):
        strokes.lasso_prompt(line, (20, 20))


def test_a_diameter_shows_the_network_a_box() -> None:
    shown = Diameter(((2, 10, 4), (22, 10, 4), (12, 5, 4), (12, 15, 4))).on_image(
        [(2, 10), (22, 10), (12, 5), (12, 15)], (30, 30)
    )
    assert shown.box_xyxy is not None
    assert shown.box_xyxy.tolist() == [2, 5, 22, 15]
    case = phantom()
    found = segment(case, [Diameter(((3, 7, 8), (7, 7, 8)))])
    assert ((found.labels == 1) == (case.truth == 1)).all()


def test_a_correction_follows_scribbles_and_regions() -> None:
    case = phantom()
    earlier = (case.truth == 1).astype(np.uint8)
    out = Scribble(((3, 9, 8), (7, 9, 8)), positive=False, width=1)
    found = segment(case, [out], earlier=earlier).labels
    assert not found[3:8, 9, 8].any()
    assert found.sum() >= earlier.sum() - 5 - (case.truth == 1)[:, :, 8].sum()
    with pytest.raises(PromptError, match="takes no box in 3D"):
        segment(case, [Box((3, 4, 5), (7, 9, 10))], earlier=earlier)


K = 8
REFUSED: list[tuple[list[Prompt], str]] = [
    (
        [Scribble(places([(3, 5), (7, 5)], K)), Scribble(places([(5, 3), (5, 8)], K), positive=False)],
        "inside and as outside on one",
    ),
    ([Scribble(places([(3, 5), (7, 5)], K)), Point((5, 5, K), positive=False)], "inside and as outside on one"),
    ([Point((5, 5, K)), Lasso(places([(4, 4), (6, 4), (6, 6)], K), positive=False)], "inside and as outside on one"),
    ([Point((5, 6, K)), Box((4, 4, 6), (6, 8, 9), positive=False)], "a positive and a negative click on one place"),
    ([Point((4, 6, K)), Box((4, 4, 6), (6, 8, 9), positive=False)], "inside and outside at voxel 4 6 8"),
    ([Point((5, 6, K)), SliceRange(9, 12)], "is prompted on axial slice 8, which its slices or its box leave out"),
    ([Box((3, 4, K), (7, 9, K)), SliceRange(9, 12)], "is prompted on axial slice 8"),
    ([Box((3, 4, K), (7, 9, K)), Box((2, 3, 6), (8, 10, 9), positive=False)], "lies where other prompts say that it is not"),
    ([Diameter(places([(3, 5), (7, 5)], K)), SliceRange(9, 12)], "which its slices or its box leave out"),
    ([Point((5, 6, K)), SliceRange(20, 22)], "there are no slices 20 to 22"),
    ([Point((5, 6, K)), SliceRange(6, 900)], "there are no slices 6 to 900"),
    ([Point((5, 6, K)), Box((0, 0, 0), (4, 4, 12))], "inside and outside"),
    ([SliceRange(3, 9)], "object 1 has no prompt that says where it is"),
    ([Scribble(places([(3, 5), (7, 5)], K), positive=False)], "object 1 has no prompt that says where it is"),
    ([Scribble(places([(3, 5), (7, 50)], K))], "lies outside the image"),
    ([Lasso(places([(3, 5), (7, 5)], K))], "a lasso has 2 places"),
    (
        [Scribble(places([(3, 5), (7, 5)], K)), Scribble(places([(3, 5), (3, 9)], K), object=2)],
        "objects 1 and 2 are both scribbled",
    ),
]


@pytest.mark.parametrize(("prompts", "said"), REFUSED)
def test_contradictions_are_refused(prompts: list[Prompt], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        segment(phantom(), prompts)


def solids() -> dict[str, NDArray[np.bool_]]:
    """A ball, and a capsule along k, in a grid of 24 × 24 × 32."""
    i, j, k = np.mgrid[:24, :24, :32]
    return {
        "ball": (i - 12) ** 2 + (j - 11) ** 2 + (k - 15) ** 2 <= 8.3**2,
        "capsule": (i - 12) ** 2 + (j - 11) ** 2 + np.maximum(np.abs(k - 15) - 6, 0) ** 2 <= 6.3**2,
    }


@pytest.mark.parametrize("name", ["ball", "capsule"])
def test_kinds_of_prompts_on_solids(name: str) -> None:
    """Each touches something as bright: a box in 3D cuts it off, and is never worse at the ends than one on a slice."""
    truth = solids()[name]
    there = np.flatnonzero(truth.any(axis=(0, 1)))
    bright = truth.copy()
    bright[9:15, 9:14, there[-1] + 1 : there[-1] + 5] = True
    picture = np.where(bright, 0.8, 0.2) + np.random.default_rng(0).uniform(-0.01, 0.01, truth.shape)
    case = Phantom("RAS", Volume(picture.astype(np.float32), np.eye(4)), truth.astype(np.uint8))
    flat = np.argwhere(truth[..., 15])
    (i, j), (i2, j2) = flat.min(0).tolist(), flat.max(0).tolist()
    middle = truth[..., 15].T
    kinds: dict[str, list[Prompt]] = {
        "click": [Point((12, 11, 15))],
        "scribble": [Scribble(tuple((x, y, 15.0) for x, y in draw_scribble(middle)), width=1)],
        "lasso": [Lasso(tuple((x, y, 15.0) for x, y in draw_lasso(middle)))],
        "diameter": [Diameter(tuple((x, y, 15.0) for x, y in draw_diameters(middle)))],
        "box": [Box((i, j, 15), (i2, j2, 15))],
        "box, slices": [Box((i, j, 15), (i2, j2, 15)), SliceRange(int(there[0]), int(there[-1]))],
        "box in 3D": [Box((i, j, int(there[0])), (i2, j2, int(there[-1])))],
    }
    found = {kind: segment(case, prompts).labels > 0 for kind, prompts in kinds.items()}
    scores = {kind: dice(truth, labels) for kind, labels in found.items()}
    others = [scores[kind] for kind in ("click", "scribble", "lasso", "diameter", "box")]
    assert scores["box in 3D"] >= scores["box, slices"] > max(others), scores
    assert min(others) > 0.8, scores
    for end in (slice(0, there[0] + 3), slice(there[-1] - 2, None)):
        assert dice(truth[..., end], found["box in 3D"][..., end]) >= dice(truth[..., end], found["box"][..., end])


def bars(*outlined: int) -> tuple[Phantom, NDArray[np.bool_], list[Prompt]]:
    """A bar that grows from slice to slice in an image that shows nothing, and its outlines on some slices."""
    case = phantom()
    truth = np.zeros(SHAPE, bool)
    for k in range(4, 11):
        truth[2:9, 6 - (k - 4) // 2 : 8 + (k - 4) // 2, k] = True
    flat = replace(case, volume=replace(case.volume, array=np.random.default_rng(0).uniform(0, 1, SHAPE)))
    masks: list[Prompt] = []
    for k in outlined:
        mask = np.zeros(SHAPE, bool)
        mask[..., k] = truth[..., k]
        masks.append(Mask(mask, axis=2))
    return flat, truth, masks


def test_shapes_between_outlines_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_tracker, "BETWEEN", 1.0)
    case, truth, masks = bars(4, 10)
    found = segment(case, [*masks, ShapeInterpolation()], islands=True)
    between = slice(4, 11)
    assert (found.labels[..., between] > 0).sum() == pytest.approx(truth[..., between].sum(), rel=0.1)
    assert ((found.labels[..., between] > 0) & truth[..., between]).sum() > 0.9 * truth.sum()
    assert {row.slice for row in found.confidence if row.prompted} == {4, 10}, "what is expected is no prompt"
    without = segment(case, masks, islands=True)
    assert ((without.labels[..., between] > 0) & truth[..., between]).sum() < 0.9 * truth.sum()


def test_interpolation_without_a_gap_is_refused() -> None:
    for outlined in ((4,), (4, 5)):
        case, _, masks = bars(*outlined)
        with pytest.raises(PromptError, match="no slices between outlines"):
            segment(case, [*masks, ShapeInterpolation()])


def test_what_no_slice_holds_is_refused() -> None:
    for make in (lambda: Scribble(((1, 1, 1), (4, 5, 6))), lambda: Diameter(((1, 1, 1), (1, 1, 1))), lambda: SliceRange(5, 4)):
        with pytest.raises(PromptError):
            make()


def test_on_images() -> None:
    """Settled pixels are as drawn, on the image that they were drawn on alone."""
    picture = np.random.default_rng(0).uniform(0.19, 0.21, (40, 48)).astype(np.float32)
    picture[10:25, 12:30] = 0.8
    bright = picture > 0.5
    out = lasso_prompt([(12, 10), (15, 10), (15, 13), (12, 13)], bright.shape, positive=False)
    into = strokes.scribble_prompt([(35, 30), (40, 30)], 1, bright.shape)
    prompt = FramePrompt.click(20, 18) | out
    first, second = segmenter().segment_images([picture, picture.copy()], {0: {1: prompt}}, window="0,1")
    (plain,) = segmenter().segment_images([picture], {0: {1: FramePrompt.click(20, 18)}}, window="0,1")
    expected = plain.labels.copy()
    expected[10:14, 12:16] = 0
    assert plain.labels[10:14, 12:16].any()
    assert (first.labels == expected).all()
    assert second.labels[10:14, 12:16].any()
    (first,) = segmenter().segment_images([picture], {0: {1: FramePrompt.box(12, 10, 29, 24) | into}}, window="0,1")
    assert first.labels[30, 35:41].all()


def test_a_click_outside_on_another_slice_does_not_show_the_object() -> None:
    """A network that began with it would take anything for the object."""
    case, far = phantom("RAS"), Point((10, 0, 15), positive=False)
    click = Point(case.voxel(1))
    alone = segmenter().segment_volume(case.volume, [click])
    assert (segmenter().segment_volume(case.volume, [click, far]).labels == alone.labels).all()
    assert (segmenter().segment_volume(case.volume, [far, click]).labels == alone.labels).all()


def test_a_correction_takes_a_region_outside_that_lies_beside_the_object_on_its_own_slice() -> None:
    case = phantom("RAS")
    earlier = (case.truth == 1).astype(np.uint8)
    solid = Box((3, 4, 9), (8, 9, 15), positive=False)  # its middle slice is 12, where the object is not
    found = segmenter().segment_volume(case.volume, [solid], earlier=earlier).labels
    expected = earlier.copy()
    expected[solid.slices] = 0
    assert (found == expected).all()
    assert expected.sum() < earlier.sum()


@pytest.mark.parametrize("code", ["RAS", "PIL"])
def test_a_click_outside_within_what_is_found_on_another_slice_corrects_it(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a correction of the result would; a slice that was outlined stays as it was drawn, and other objects as they were."""
    case = phantom(code)
    click, other = Point(case.voxel(1)), Point(case.voxel(2), 2)
    before, seen = list[Any](), list[Any]()
    alone = segmenter().segment_volume(case.volume, [click, other], on_frame=before.append)
    axis = int(np.flatnonzero([letter in "SI" for letter in code])[0])
    places = np.argwhere(alone.labels == 1)
    drawn_at = round(case.voxel(1)[axis])
    i, j, k = places[places[:, axis] != drawn_at][0]
    late = Point((i, j, k), positive=False)
    found = segmenter().segment_volume(case.volume, [click, late, other], on_frame=seen.append)
    assert len(seen) > len(before)  # the correction tells its progress, and can be stopped
    expected = segmenter().segment_volume(case.volume, [late], earlier=alone.labels)
    assert (found.labels == expected.labels).all()
    assert found.labels[i, j, k] == 0
    assert ((found.labels == 2) == (alone.labels == 2)).all()
    assert not found.warnings
    mask = np.zeros_like(alone.labels, bool)
    mask[(slice(None),) * axis + (drawn_at,)] = alone.labels.take(drawn_at, axis) == 1
    monkeypatch.setattr("medical_sam2.segmenter.correct_labels", lambda tracker, groups, earlier: np.zeros_like(earlier))
    drawn = segmenter().segment_volume(case.volume, [Mask(mask, 1, axis), late])
    assert mask.any()
    assert ((drawn.labels == 1) == mask).all()
