"""What is drawn, as a session takes it: held through later gestures, refused where it cannot be one, read from old journals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_sam2.errors import PromptError
from medical_sam2.io import Picture
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.server import InvalidRequest
from medical_sam2.server.gestures import ball_voxels, volume_prompts
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.segmentation import SessionImageSet
from medical_sam2.server.session import Session
from medical_sam2.server.state import Gesture, Kind, from_json
from medical_sam2.strokes import Brush, Diameter, Scribble
from medical_sam2.tracking.limits import drop_contradicted, last_words
from tests.phantoms import SHAPE, phantom, segmenter
from tests.server.conftest import session

T = 8
OUT = (False,)
CLICK = Gesture(0, 1, "axial", T, "points", ((6.0, 5.0),), (True,))


def drawn(kind: Kind, *places: tuple[float, float], t: int = T, **form: Any) -> Gesture:
    return Gesture(0, 1, "axial", t, kind, places, **form)


def said(place: Session, *gestures: Gesture) -> None:
    """Say this, one after the other."""
    for gesture in gestures:
        place.add_gesture(place.history.version, gesture)


def tracked(place: Session) -> np.ndarray[Any, Any]:
    """Labels after tracking."""
    job = place.track(place.history.version)
    job.wait(60)
    assert job.events[-1].kind == "done", job.events[-1]
    return place.result().labels[0]


@pytest.fixture
def place(tmp_path: Path, queue: InferenceQueue) -> Session:
    """A session about the phantom with one structure."""
    one, _ = session(tmp_path / "s", queue, "LPS")
    one.add_structure(0)
    return one


def test_what_was_drawn_as_outside_stays_out_of_what_is_tracked_later(place: Session) -> None:
    said(place, CLICK)
    tracked(place)
    out = drawn("scribble", (5.0, 4.0), (5.0, 6.0), positive=OUT, width=1.0)
    said(place, out)
    (scribble,) = volume_prompts(out, place.image.volume)  # type: ignore[union-attr]
    assert isinstance(scribble, Scribble)
    voxels = tuple(np.array(scribble.places_ijk, int).T)
    assert not tracked(place)[voxels].any()
    said(place, drawn("points", (7.0, 5.0), positive=(True,)))
    labels = tracked(place)
    assert not labels[voxels].any()
    assert labels.any()


def test_a_box_in_3d_after_tracking_has_the_structure_found_anew(place: Session) -> None:
    said(place, CLICK)
    assert tracked(place).any()
    box = drawn("box", (3.0, 3.0), (8.0, 7.0), frames=(7, 9))
    said(place, box)
    labels = tracked(place)
    volume = place.image.volume  # type: ignore[union-attr]
    expected = segmenter().segment_volume(volume, [*volume_prompts(CLICK, volume), *volume_prompts(box, volume)]).labels
    assert expected.any()
    assert (labels == expected).all()


@pytest.mark.parametrize("kind", ["box", "scribble", "lasso"])
def test_a_region_outside_where_nothing_is_changes_nothing_and_is_kept(place: Session, kind: Kind) -> None:
    """A click there is refused: nobody can take it for a region."""
    said(place, CLICK)
    before = tracked(place).copy()
    places = ((1.0, 1.0), (3.0, 3.0), (3.0, 1.0))[: 2 if kind == "box" else 3]
    said(place, drawn(kind, *places, t=15, positive=OUT))
    assert not place.frame_labels("axial", 15).any()
    assert (tracked(place) == before).all()
    assert len(place.history.state.gestures) == 2


@pytest.mark.parametrize(
    "gesture",
    [
        drawn("box", (1.0, 1.0), (4.0, 4.0), frames=(9, 7)),
        drawn("box", (1.0, 1.0), (4.0, 4.0), frames=(7, 99)),
        drawn("box", (1.0, 1.0), (4.0, 4.0), frames=(9, 12)),
        drawn("box", (1.0, 1.0), (4.0, 4.0), frames=(7,)),
        drawn("lasso", (1.0, 1.0), (4.0, 4.0)),
        drawn("lasso", (1.2, 1.2), (1.4, 1.2), (1.4, 1.4)),
        drawn("scribble"),
        drawn("scribble", (1.0, 1.0), width=0.0),
        drawn("scribble", (1.0, 1.0), width=float("nan")),
        drawn("scribble", (1.0, 99.0)),
        drawn("diameter", (1.0, 1.0), (1.0, 1.0)),
        drawn("diameter", (1.0, 1.0), (4.0, 4.0), (2.0, 3.0)),
        drawn("diameter", (1.0, 1.0), (4.0, 4.0), positive=OUT),
        drawn("points", *[(1.0, 1.0)] * 65, positive=(True,) * 65),
        drawn("box", (1.0, 1.0), (4.0, 4.0), positive=(True, False)),
        drawn("slices"),
        drawn("slices", frames=(9, 7)),
        drawn("slices", frames=(7, 16)),
        drawn("slices", (1.0, 1.0), frames=(7, 9)),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_journal_has_it(place: Session, gesture: Gesture) -> None:
    with pytest.raises(InvalidRequest):
        said(place, gesture)
    assert place.history.version == 1


def test_limits_count_along_their_own_plane_and_hold_through_corrections(place: Session) -> None:
    """Coronal frames, though the structure was clicked on in an axial slice; files run to P as frames do."""
    said(place, CLICK, drawn("slices", frames=(7, 9)), drawn("slices", frames=(6, 8)))
    assert len(place.history.state.gestures) == 2, "later limits take the place of earlier ones"
    place.undo(place.history.version)
    place.undo(place.history.version)
    said(place, Gesture(0, 1, "coronal", 6, "slices", frames=(5, 7)))
    assert np.unique(np.nonzero(tracked(place))[1]).tolist() == [5, 6, 7]
    said(place, drawn("points", (6.0, 4.0), positive=(True,)))
    assert np.unique(np.nonzero(tracked(place))[1]).tolist() == [5, 6, 7]
    with pytest.raises(PromptError, match="leave out"):
        said(place, drawn("points", (2.0, 5.0), positive=(True,)))
    with pytest.raises(PromptError, match="no slices between outlines"):
        said(place, drawn("interpolate"))


def test_what_is_erased_stays_erased_until_it_is_pointed_at_again(place: Session) -> None:
    """The network is not asked for what is only erased; a later gesture on these slices is the last word."""
    said(place, CLICK)
    before = tracked(place).copy()
    said(place, drawn("erase", t=9, frames=(9, 15)))
    assert not place.frame_labels("axial", 10).any()
    after = tracked(place).copy()
    assert (after[..., :9] == before[..., :9]).all()
    assert not after[..., 9:].any()
    assert all(row.slice < 9 for row in place.result().rows if row.view == "axial")
    said(place, drawn("points", (7.0, 5.0), positive=(True,)))
    assert not tracked(place)[..., 9:].any()
    said(place, drawn("points", (6.0, 5.0), t=10, positive=(True,)))
    assert place.frame_labels("axial", 10).any()
    assert tracked(place)[..., 10].any()
    with pytest.raises(InvalidRequest, match="first and a last"):
        said(place, drawn("erase"))


def in_mm(
    centres: list[tuple[int, int, int]], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray[Any, Any]:
    """Voxels within so many mm of any of these, by the definition."""
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    apart = [np.linalg.norm((places - np.array(centre)) * spacing_mm, axis=-1) for centre in centres]
    return np.min(apart, axis=0) <= radius_mm + 1e-6


def test_a_ball_is_round_in_mm() -> None:
    """Slices are three times as thick as pixels are wide; coronal frames count the pixels of their finer side."""
    spacing = (1.0, 1.0, 3.0)
    volume = phantom("LPS", spacing_mm=spacing).volume
    for plane, t, places in (("axial", 8, ((6.0, 5.2), (6.0, 7.0))), ("coronal", 6, ((7.0, 5.0), (7.0, 7.4)))):
        voxels = ball_voxels(Gesture(0, 1, plane, t, "ball", places, (True,), width=8.0), volume)
        painted = np.zeros(SHAPE, bool)
        painted[tuple(voxels.T)] = True
        assert (painted == in_mm([(i, 6, 8) for i in (5, 6, 7)], 4, spacing)).all()
        assert np.unique(voxels[:, 2]).tolist() == [7, 8, 9]
    (voxel,) = ball_voxels(Gesture(0, 1, "axial", 8, "ball", ((-0.4, 10.4),), (True,), width=1.0), volume)
    assert voxel.tolist() == [10, 0, 8]


def test_a_ball_is_painted_over_slices_wiped_off_and_undone(place: Session) -> None:
    """One step of the journal; nothing is asked of the network, before tracking and after it."""
    said(place, CLICK)
    before = tracked(place).copy()
    spheres = in_mm([(9, 9, 3)], 2, (1, 1, 1)), in_mm([(4, 6, 8)], 1, (1, 1, 1))
    said(place, drawn("ball", (9.0, 9.0), t=3, positive=(True,), width=4.0))
    said(place, drawn("ball", (6.0, 4.0), positive=OUT, width=2.0))
    expected = np.where(spheres[1], 0, np.where(spheres[0], 1, before))
    (now,) = place.current_labels()
    assert (now == expected).all()
    assert (tracked(place) == expected).all()
    place.undo(place.history.version)
    place.undo(place.history.version)
    assert (place.current_labels()[0] == np.where(spheres[0], 1, before)).all()
    place.redo(place.history.version)
    again = Session(place.id, place.folder, place.image, place.queue)
    assert (again.current_labels()[0] == expected).all()
    said(place, drawn("points", (7.0, 5.0), positive=(True,)))  # the network is asked: all that holds
    after = tracked(place)
    assert (after[spheres[0] & ~spheres[1]] == 1).all()
    assert not after[spheres[1]].any()


def test_a_ball_holds_through_a_later_click_on_one_of_its_frames(place: Session) -> None:
    ball = in_mm([(9, 10, 8)], 1, (1, 1, 1))
    said(place, drawn("ball", (10.0, 9.0), positive=(True,), width=2.0))
    said(place, drawn("mask", t=T - 1, runs=(0, 1)))  # by the brush, on another of them
    said(place, CLICK)
    (now,) = place.current_labels()
    assert (now[..., T:][ball[..., T:]] == 1).all()
    assert now[5, 6, T] == 1
    assert np.argwhere(now[..., :T]).tolist() == [[0, 0, T - 1]]


def test_a_ball_leaves_what_was_drawn_on_its_frames(place: Session) -> None:
    """The network, which is asked about what was drawn since, would find all of the object on the frame drawn first."""
    said(place, drawn("mask", runs=(71, 1)))
    first = tracked(place)[..., T] == 1
    assert first.sum() == 1
    said(place, drawn("ball", (9.0, 9.0), positive=(True,), width=2.0))
    said(place, drawn("mask", t=T - 1, runs=(71, 1)))
    now = tracked(place)[..., T] == 1
    assert (now == first | in_mm([(9, 9, 8)], 1, (1, 1, 1))[..., T]).all()


def test_what_is_drawn_of_a_new_structure_is_not_taken_by_another_that_is_corrected(place: Session) -> None:
    said(place, drawn("mask", runs=(71, 1)))
    tracked(place)
    place.add_structure(place.history.version)
    said(place, replace(drawn("mask", runs=(72, 1)), label=2))
    said(place, CLICK)  # finds all that is as bright, what is drawn of the other one, too
    now = tracked(place)[..., T]
    assert (now == 1).sum() > 1
    assert (now == 2).sum() == 1


def test_a_ball_takes_nothing_from_others(place: Session) -> None:
    place.add_structure(place.history.version)
    said(place, replace(CLICK, label=2))
    others = place.current_labels()[0] == 2
    ball = in_mm([(4, 2, 8)], 3, (1, 1, 1))
    assert (ball & others).any()
    said(place, drawn("ball", (2.0, 4.0), positive=(True,), width=6.0))
    assert ((place.current_labels()[0] == 1) == (ball & ~others)).all()
    assert place.notes == (f"{(ball & others).sum()} voxels were left to structure 2, which keeps what it has",)
    y, x = (int(each) for each in np.argwhere(others[..., T].T)[0])
    with pytest.raises(InvalidRequest, match="all of it lies in structure 2, which keeps what it has"):
        said(place, drawn("ball", (float(y), float(x)), positive=(True,), width=1.0))
    with pytest.raises(InvalidRequest, match="there is nothing of it there"):
        said(place, drawn("ball", (float(y), float(x)), positive=OUT, width=1.0))
    with pytest.raises(InvalidRequest, match="1 to"):
        said(place, drawn("ball"))
    with pytest.raises(InvalidRequest, match="at least one pixel"):
        said(place, drawn("ball", (2.0, 4.0), width=0.5))


def test_a_journal_of_before_boxes_in_3d_is_read(place: Session) -> None:
    line = json.dumps({"version": 1, "kind": "say", "said": {**vars(CLICK), "kind": "box", "positive": []}})
    old = json.loads(line)
    del old["said"]["frames"], old["said"]["width"]
    gesture = from_json(old).gesture
    assert gesture == replace(CLICK, kind="box", positive=())
    assert gesture is not None
    assert gesture.inside


VOXELS = np.array([[1, 1, 2], [1, 2, 2], [5, 5, 2]])
INSIDE, OUTSIDE = Brush(VOXELS), Brush(VOXELS[:2], positive=False)
ACROSS = Diameter(((1, 1, 2), (1, 3, 2)))
FLAT, SOLID = Box((0, 0, 2), (3, 3, 2)), Box((0, 0, 1), (3, 3, 4))


def mask(*slices: int) -> Mask:
    array = np.zeros(SHAPE, bool)
    array[2:5, 2:5, list(slices)] = True
    return Mask(array, axis=2)


@pytest.mark.parametrize(
    ("earlier", "later", "left"),
    [
        (Point((1, 1, 2)), Point((1, 1, 2), positive=False), None),
        (Point((1, 1, 2)), Point((1, 2, 2), positive=False), "same"),
        (Point((1, 1, 2)), Point((1, 1, 2), 2, positive=False), "same"),
        (INSIDE, OUTSIDE, [[5, 5, 2]]),
        (OUTSIDE, INSIDE, None),
        (INSIDE, SOLID, [[1, 1, 2], [1, 2, 2]]),
        (INSIDE, Box((0, 0, 2), (3, 3, 2), positive=False), [[5, 5, 2]]),
        (SOLID, INSIDE, None),
        (SOLID, Point((1, 1, 2)), "same"),
        (SOLID, Box((0, 0, 0), (5, 5, 5)), None),
        (FLAT, Box((1, 1, 2), (2, 2, 2)), None),
        (FLAT, Box((1, 1, 3), (2, 2, 3)), "same"),
        (FLAT, mask(2), None),
        (FLAT, mask(3), "same"),
        (FLAT, Box((0, 0, 0), (9, 9, 9), positive=False), None),
        (FLAT, Box((1, 1, 1), (2, 2, 9), positive=False), "same"),
        (Box((0, 0, 0), (9, 9, 9), positive=False), Point((1, 1, 2)), None),
        (mask(2), Point((3, 3, 2), positive=False), "same"),
        (mask(2), mask(2), None),
        (mask(2), FLAT, None),
        (mask(2), Box((0, 0, 0), (9, 9, 9), positive=False), None),
        (FLAT, ACROSS, None),
        (mask(2), ACROSS, None),
        (mask(3), ACROSS, "same"),
        (SOLID, ACROSS, "same"),
        (Box((2, 0, 1), (3, 3, 4)), ACROSS, None),
        (Box((0, 0, 0), (9, 9, 9), positive=False), ACROSS, None),
        (ACROSS, FLAT, None),
        (ACROSS, Box((1, 1, 3), (2, 2, 3)), "same"),
        (ACROSS, mask(2), None),
        (ACROSS, mask(3), "same"),
        (ACROSS, Diameter(((0, 0, 2), (3, 3, 2))), None),
        (ACROSS, SOLID, "same"),
        (ACROSS, Box((2, 0, 1), (3, 3, 4)), None),
        (ACROSS, Box((0, 0, 0), (9, 9, 9), positive=False), None),
        (ACROSS, Point((1, 2, 2), positive=False), "same"),
    ],
)
def test_the_last_word(earlier: Prompt, later: Prompt, left: Any) -> None:
    rest = drop_contradicted([earlier], later, SHAPE)
    if left is None:
        assert rest == ()
    elif left == "same":
        assert rest == (earlier,)
    else:
        (brush,) = rest
        assert isinstance(brush, Brush)
        assert brush.voxels.tolist() == left


def test_an_outline_gives_up_the_slices_that_are_drawn_anew() -> None:
    (rest,) = drop_contradicted([mask(2, 3)], mask(3), SHAPE)
    assert isinstance(rest, Mask)
    assert np.flatnonzero(rest.array_ijk.any(axis=(0, 1))).tolist() == [2]


def test_last_words_are_those_that_the_network_can_follow() -> None:
    """What a command refuses as contradictory is said one after the other, and tracked."""
    case = phantom("RAS")
    voxel = case.voxel(1)
    scribble = Scribble((voxel,), width=1)
    words = last_words(
        [Point(voxel), replace(scribble, positive=False), scribble, Box((3, 4, 5), (7, 9, 11))], case.volume.shape
    )
    assert [type(word) for word in words] == [Scribble, Box]
    assert segmenter().segment_volume(case.volume, words).labels[tuple(int(i) for i in voxel)]


@pytest.mark.parametrize("kind", ["slices", "interpolate"])
def test_images_have_no_slices_to_limit_or_join(tmp_path: Path, queue: InferenceQueue, kind: Kind) -> None:
    (tmp_path / "s").mkdir()
    place = Session("0" * 32, tmp_path / "s", SessionImageSet([Picture(np.zeros((40, 60), np.uint8))] * 2), queue)
    place.add_structure(0)
    with pytest.raises(InvalidRequest, match="no slices"):
        said(place, replace(drawn(kind, t=0, frames=(0, 1)), plane="image"))


@pytest.mark.parametrize("kind", ["box", "scribble", "lasso"])
def test_what_is_not_the_structure_is_drawn_on_images_too(tmp_path: Path, queue: InferenceQueue, kind: Kind) -> None:
    picture = np.full((40, 60), 50, np.uint8)
    picture[10:24, 5:20] = 200
    (tmp_path / "s").mkdir()
    place = Session("0" * 32, tmp_path / "s", SessionImageSet([Picture(picture), Picture(picture)]), queue)
    place.add_structure(0)
    places = ((12.0, 8.0), (16.0, 12.0), (16.0, 8.0))[: 2 if kind == "box" else 3]
    for gesture in (drawn("points", (20.0, 16.0), t=0, positive=(True,)), drawn(kind, *places, t=0, positive=OUT)):
        said(place, replace(gesture, plane="image"))
    for labels in (place.frame_labels("image", 0), tracked(place)):
        assert labels[20, 16] == 1
        assert not labels[12, 8]
    place.undo(place.history.version)
    place.undo(place.history.version)
    assert place.frame_labels("image", 0)[12, 8] == 1


@pytest.mark.parametrize(
    "later",
    [
        drawn("diameter", (4.0, 5.0), (9.0, 5.0)),
        drawn("box", (3.0, 3.0), (9.0, 9.0)),
        drawn("box", (0.0, 0.0), (10.0, 10.0), frames=(2, 14)),
    ],
    ids=["diameter", "box", "box in 3D"],
)
@pytest.mark.parametrize("first", ["box", "lasso", "diameter", "tracked", "edited"])
def test_a_box_or_a_diameter_after_whatever_was_drawn_on_its_slice(place: Session, first: str, later: Gesture) -> None:
    """The last counts, or both are followed; nothing is taken that cannot be tracked."""
    corners = {"lasso": ((3.0, 3.0), (3.0, 8.0), (8.0, 8.0)), "diameter": ((3.0, 3.0), (8.0, 3.0))}
    if first in ("tracked", "edited"):
        said(place, CLICK)
        tracked(place)
    if first == "edited":
        said(place, drawn("scribble", (5.0, 4.0), (6.0, 6.0)), drawn("mask", runs=(30, 4)))
    elif first != "tracked":
        said(place, drawn(first, *corners.get(first, ((2.0, 2.0), (8.0, 8.0)))))  # type: ignore[arg-type]
    said(place, later)
    assert tracked(place).any()


def test_a_ball_beyond_the_limits_is_refused_when_it_is_painted(place: Session) -> None:
    """It was taken, and every later click and applying were refused."""
    said(place, CLICK, drawn("slices", frames=(7, 9)))
    said(place, drawn("ball", (6.0, 5.0), positive=(True,), width=2.0))
    with pytest.raises(PromptError, match="which its slices or its box leave out"):
        said(place, drawn("ball", (6.0, 5.0), positive=(True,), width=6.0))
    said(place, drawn("ball", (6.0, 5.0), positive=OUT, width=6.0), CLICK)  # what is wiped off there does no harm
    assert not tracked(place)[..., 10:].any()


def test_what_takes_a_box_in_3d_back_is_told(place: Session) -> None:
    said(place, drawn("box", (3.0, 3.0), (8.0, 7.0), frames=(7, 9)))
    said(place, CLICK)
    assert not place.notes
    said(place, drawn("points", (11.0, 9.0), positive=(True,)))
    assert place.notes[0] == "its box in 3D no longer counts, since this lies beyond it"
    said(place, drawn("points", (11.0, 8.0), positive=(True,)))
    assert not any("box in 3D" in note for note in place.notes)
