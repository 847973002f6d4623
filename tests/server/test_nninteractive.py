"""nnInteractive's protocol through its own client: gestures in a row, and images of any type and spacing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Point, Prompt
from medical_sam2.server import leases
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.tracking.plan import PLANES
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.volume import Volume
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import running
from tests.server.conftest import TOKEN

FAR = (10, 0, 15)  # nothing is there, nor anywhere on its slice
KINDS = {"points", "bbox2d", "bbox3d", "scribble", "lasso"}  # upstream's `SUPPORTED_INTERACTION_KEYS`


class Drawing:
    """Somebody at a viewer that speaks the protocol.

    Args:
        client: upstream's.
        case: what they see.
    """

    def __init__(self, client: Any, case: Phantom) -> None:
        self.client, self.case = client, case
        self.asked = list[float]()  # when the network was, where that is counted
        self.show(case.volume.array)

    def show(self, image: NDArray[Any], spacing: tuple[float, ...] = (1, -1, -1)) -> None:
        """Send an image, R A S, as napari's readers turn it: S A R, with its last two axes mirrored."""
        self.client.set_image(image.T[None], {"spacing": np.array(spacing, float)})
        target = np.zeros(image.T.shape, np.uint8)
        self.target = target.T
        self.client.set_target_buffer(target)

    def click(self, voxel: tuple[float, ...] | None = None, *, inside: bool = True) -> NDArray[np.uint8]:
        """What is seen after a click."""
        self.client.add_point_interaction((voxel or self.case.voxel(1))[::-1], include_interaction=inside)
        return self.target.copy()

    def box(self, *sides: tuple[float, float], inside: bool = True) -> NDArray[np.uint8]:
        """What is seen after a box from, and before, these voxels."""
        self.client.add_bbox_interaction([list(side) for side in sides[::-1]], include_interaction=inside)
        return self.target.copy()

    def draw(self, kind: str, place: tuple[slice | int, ...], *, inside: bool = True) -> NDArray[np.uint8]:
        """What is seen after a scribble or a lasso over these voxels."""
        mask = np.zeros(self.case.volume.shape, np.uint8)
        mask[place] = 1
        getattr(self.client, f"add_{kind}_interaction")(mask.T, include_interaction=inside)
        return self.target.copy()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of this file."""
    settings = ServerSettings(tmp_path_factory.mktemp("state") / "state", token=TOKEN)
    with running(settings, InferenceQueue(segmenter)) as found:
        yield f"http://127.0.0.1:{found.port}/nninteractive"


@pytest.fixture
def drawing(url: str) -> Iterator[Drawing]:
    with nnInteractiveRemoteInferenceSession(url, api_key=TOKEN) as client:
        yield Drawing(client, phantom("RAS"))


def test_capabilities_have_upstreams_names(drawing: Drawing) -> None:
    """A viewer enables a button by its name, and looks for the channels of each kind."""
    assert {kind for kind, able in drawing.client.supported_interactions.items() if able} == KINDS
    assert set(drawing.client.channel_mapping) == KINDS | {"prev_seg"}
    pairs = [drawing.client.channel_mapping[kind] for kind in KINDS]
    assert all(len(pair) == 2 and max(pair) < drawing.client.num_interaction_channels for pair in pairs)


@pytest.mark.parametrize(
    "kind",
    ["click", "box on a slice", "box in 3D", "scribble", "lasso"],
)
def test_each_negative_gesture_takes_away_and_is_undone(drawing: Drawing, kind: str) -> None:
    before = drawing.click()
    place: tuple[slice | int, ...] = (slice(4, 6), slice(5, 7), 8)
    if kind == "click":
        after, place = drawing.click((4, 5, 8), inside=False), (4, 5, 8)
    elif kind == "box on a slice":
        after = drawing.box((4, 6), (5, 7), (8, 9), inside=False)
    elif kind == "box in 3D":
        after, place = drawing.box((4, 6), (5, 7), (7, 10), inside=False), (slice(4, 6), slice(5, 7), slice(7, 10))
    else:
        after = drawing.draw(kind, place, inside=False)
    assert before[place].all()
    assert not after[place].any()
    assert after.any()
    assert drawing.client.undo()
    assert (drawing.target == before).all()


@pytest.mark.parametrize("voxel", [FAR, (10, 0, 8), (0, 0, 15)])
def test_a_click_outside_on_nothing_changes_nothing(drawing: Drawing, voxel: tuple[int, int, int]) -> None:
    """On the slice of the first click, on another, and on one where the structure is not."""
    before = drawing.click()
    assert (drawing.click(voxel, inside=False) == before).all()
    assert (drawing.box((3, 9), (4, 10), (5, 12)) == before).all()  # found anew, from the click too
    assert drawing.client.undo()
    assert (drawing.target == before).all()


def test_a_box_in_3d_holds_through_later_clicks(drawing: Drawing) -> None:
    beyond = np.ones(drawing.case.volume.shape, bool)
    beyond[3:8, 4:10, 6:10] = False
    first = drawing.box((3, 8), (4, 10), (6, 10))
    assert first.any()
    assert not first[beyond].any()
    drawing.click((4, 5, 7))
    assert drawing.target.any()
    assert not drawing.target[beyond].any()
    drawing.click((5, 6, 11))  # beyond: the structure goes on there after all
    assert drawing.target[5, 6, 11]


def test_a_box_in_3d_after_a_click_has_it_found_anew_from_both(drawing: Drawing) -> None:
    drawing.click((4, 5, 7))
    found = drawing.box((3, 8), (4, 10), (6, 10))
    prompts = [Point((4, 5, 7)), Box((3, 4, 6), (7, 9, 9))]
    expected = segmenter().segment_volume(Volume(drawing.case.volume.array, np.eye(4)), prompts).labels
    assert (found == expected).all()


@pytest.mark.parametrize("kind", ["scribble", "lasso"])
def test_what_was_drawn_as_outside_stays_out(drawing: Drawing, kind: str) -> None:
    drawing.click()
    place = (slice(3, 6), slice(5, 7), 9)
    assert not drawing.draw(kind, place, inside=False)[place].any()
    drawing.click((6, 8, 9))
    assert drawing.target[6, 8, 9]
    assert not drawing.target[place].any()


def test_a_drawn_slice_holds_through_later_clicks(drawing: Drawing) -> None:
    lasso = (slice(4, 7), slice(5, 9), 6)
    drawing.click()
    drawn = drawing.draw("lasso", lasso)[:, :, 6]
    assert drawn.sum() == drawn[lasso[:2]].sum() == 12
    assert not drawing.click((3, 4, 7), inside=False)[3, 4, 7]
    assert drawing.click((3, 4, 7))[3, 4, 7]  # what changes beside it goes on from there
    assert (drawing.target[:, :, 6] == drawn).all()


def test_a_scribble_holds_through_later_clicks(drawing: Drawing) -> None:
    scribble = (slice(3, 8), 3, 8)
    drawing.click()
    assert drawing.draw("scribble", scribble)[scribble].all()
    drawing.click((3, 4, 8), inside=False)
    assert drawing.target[scribble].all()


def test_the_last_word_counts(drawing: Drawing) -> None:
    scribble = (slice(3, 8), 2, 8)
    drawing.draw("scribble", scribble)
    drawing.draw("scribble", scribble, inside=False)
    assert not drawing.target[scribble].any()
    drawing.client.reset_interactions()
    drawing.click()
    drawing.box((4, 6), (5, 7), (8, 9), inside=False)
    drawing.click((4, 5, 8))
    assert drawing.target[4, 5, 8]
    drawing.draw("lasso", (slice(3, 5), slice(4, 6), 8))
    drawing.draw("lasso", (slice(5, 7), slice(6, 8), 8))
    drawing.click((5, 6, 10))
    assert drawing.target[:, :, 8].sum() == 4


def test_boxes_between_voxels_and_over_the_border(drawing: Drawing) -> None:
    """As napari draws them."""
    assert (drawing.box((2.6, 8.2), (3.9, 10.4), (8.0, 9.0)) == drawing.box((3, 8), (4, 10), (8, 9))).all()
    assert drawing.box((-3.2, 40.0), (-1.0, 40.0), (8.0, 9.0)).any()
    for sides in (((99, 100), (1, 5), (1, 5)), ((5, 3), (1, 5), (1, 5))):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            drawing.box(*sides)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint8", "bool", "float16", "float64"])
def test_images_of_every_type(drawing: Drawing, dtype: str) -> None:
    grey = drawing.case.truth == 1 if dtype == "bool" else np.rint(drawing.case.volume.array * 100).astype(dtype)
    drawing.show(grey)
    image = Volume(grey.astype(np.float32), np.eye(4))
    expected = segmenter().segment_volume(image, [Point(drawing.case.voxel(1))]).labels
    assert expected[3:8, 4:10, 5:12].all()
    assert (drawing.click() == expected).all()


@pytest.mark.parametrize("spacing", [(2.0, 1.0, -1.0), (2.0, -1.0, -1.0), (-2.0, 1.0, 1.0)])
def test_a_mirrored_axis(drawing: Drawing, spacing: tuple[float, float, float]) -> None:
    drawing.show(drawing.case.volume.array, spacing)
    assert (drawing.click()[3:8, 4:10, 5:12] == 1).all()
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        drawing.show(drawing.case.volume.array, (1, 0, 1))


def test_an_initial_segmentation_is_the_beginning(drawing: Drawing) -> None:
    drawing.draw("scribble", (slice(3, 8), 2, 8))
    given = (drawing.case.truth == 2).astype(np.int64)
    drawing.client.add_initial_seg_interaction(given.T)
    after = drawing.click((10, 0, 8), inside=False)
    assert (after == given).all()
    assert drawing.client.undo()
    assert drawing.client.undo()
    assert drawing.target[3:8, 2, 8].all()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawing]:
    """A client of a server whose network needs longer for the volume than a client shall wait."""
    monkeypatch.setattr(leases, "ANSWER_S", 0.7)
    found, asked = segmenter(), list[float]()
    see = found.encode

    def encode(*arguments: Any) -> Any:
        asked.append(time.monotonic())
        time.sleep(0.15)
        return see(*arguments)

    found.encode = encode  # type: ignore[method-assign]
    with running(ServerSettings(tmp_path / "state", token=TOKEN), InferenceQueue(lambda: found)) as settings:
        url = f"http://127.0.0.1:{settings.port}/nninteractive"
        with nnInteractiveRemoteInferenceSession(url, api_key=TOKEN) as client:
            drawing = Drawing(client, phantom("RAS"))
            drawing.asked = asked
            yield drawing


def whole(case: Phantom, *prompts: Prompt, **options: Any) -> NDArray[np.uint8]:
    """What is found where nobody is in a hurry."""
    return segmenter().segment_volume(Volume(case.volume.array, np.eye(4)), prompts, **options).labels


def finished(drawing: Drawing) -> NDArray[np.uint8]:
    """What is there in the end, by asking again as the client's button does."""
    while drawing.client._apply_prediction_response(drawing.client._post_json("/predict", {})):
        pass
    return drawing.target.copy()


def test_an_answer_comes_in_time_and_the_rest_with_the_next_request(slow: Drawing) -> None:
    expected = whole(slow.case, Point(slow.case.voxel(1)))
    began = time.monotonic()
    first = slow.click()
    assert time.monotonic() - began < 2
    assert (first[:, :, 8] == expected[:, :, 8]).all()  # the slice of the click: of the first axis, as napari shows it
    assert 0 < first.sum() < expected.sum()
    assert not (first > expected).any()
    assert (finished(slow) == expected).all()
    assert slow.client.undo()
    assert not slow.target.any()


def test_a_gesture_while_the_rest_is_computed_counts_with_those_before(slow: Drawing) -> None:
    slow.click()
    slow.box((3, 8), (4, 10), (6, 10))
    expected = whole(slow.case, Point(slow.case.voxel(1)), Box((3, 4, 6), (7, 9, 9)))
    assert (finished(slow) == expected).all()


def test_undo_stops_what_is_computed(slow: Drawing) -> None:
    slow.click()
    assert slow.target.any()
    assert slow.client.undo()
    assert not slow.target.any()
    ends = time.monotonic() + 0.5  # the slice that it is at is finished
    time.sleep(1.2)
    assert slow.asked[-1] < ends
    assert slow.client._predict() is None
    assert not slow.target.any()
    slow.click((5, 6, 7))
    assert (finished(slow) == whole(slow.case, Point((5, 6, 7)))).all()


def test_a_slow_correction_is_shown_where_it_begins_until_it_is_whole(slow: Drawing) -> None:
    slow.click()
    before = finished(slow)
    after = slow.click((4, 5, 8), inside=False)
    assert (after[:, :, :8] == before[:, :, :8]).all()
    assert (after[:, :, 9:] == before[:, :, 9:]).all()
    expected = whole(slow.case, Point((4, 5, 8), positive=False), earlier=before)
    assert (finished(slow) == expected).all()


def test_frames_of_a_correction_are_not_shown_but_the_first(queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases.TrackingJob, "start", lambda job: job)
    for begun, seen in ((0, [2, 3]), (1, [2])):
        lease = leases.Lease()
        lease.begin(Volume(np.zeros((4, 5, 6), np.float32), np.eye(4)))
        lease.give(np.full((4, 5, 6), begun, np.uint8))
        lease.add(Point((1, 1, 2)))
        running = leases.Prediction(lease, queue)
        for index in (2, 3):
            view = PLANES["axial"]
            masks = np.full((1, *view.apply(lease.image()[1], "RAS").shape[1:]), not begun)
            running.draw(FrameDone(1, 6, view.code, index, (1,), masks))
        assert [k for k in range(6) if (running.labels[:, :, k] != begun).all()] == seen


def test_a_gesture_that_cannot_work_is_taken_back_though_it_was_slow(slow: Drawing) -> None:
    slow.click()
    finished(slow)
    before = slow.target.copy()
    with pytest.raises(httpx.HTTPStatusError):
        slow.click((99, 0, 0))
    assert (slow.target == before).all()
    assert slow.client.undo()
    assert not slow.target.any()
