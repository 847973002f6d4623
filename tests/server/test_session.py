import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import FormatError, PromptError
from medical_sam2.prompts import Point
from medical_sam2.server import Conflict, InvalidRequest, NotFound, Refusal
from medical_sam2.server import session as session_module
from medical_sam2.server.gestures import decode_runs, encode_runs
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.rendering import describe_rows, describe_state
from medical_sam2.server.session import Session
from medical_sam2.server.state import Gesture
from medical_sam2.tracking import volume_tracker
from medical_sam2.tracking.plan import PLANES
from tests.phantoms import Phantom, segmenter
from tests.server.conftest import session


def click(case: Phantom, label: int, plane: str = "axial", *, object: int = 1, positive: bool = True) -> Gesture:
    """A click on the voxel of an object, as the page would say it."""
    t, y, x = PLANES[plane].project(case.voxel(label), case.volume.shape, case.code)
    return Gesture(0, object, plane, int(t), "points", ((y, x),), (positive,))


def clicked(place: Session, case: Phantom, label: int = 1, plane: str = "axial") -> Gesture:
    """Add a structure, click on it."""
    object = len(place.history.state.structures) + 1
    place.add_structure(place.history.version)
    said = click(case, label, plane, object=object)
    place.add_gesture(place.history.version, said)
    return said


def tracked(place: Session, views: str = "one") -> None:
    """Track to the end."""
    job = place.track(place.history.version, views)
    job.wait(60)
    assert job.events[-1].kind == "done", job.events[-1]


@pytest.mark.parametrize("code", ["RAS", "LPS", "AIL", "PSR", "SLP", "IAR"])
def test_a_click_outlines_its_slice_at_once_in_every_orientation(tmp_path: Path, queue: InferenceQueue, code: str) -> None:
    place, case = session(tmp_path, queue, code)
    for plane in PLANES:
        said = clicked(place, case, plane=plane)
        whole = segmenter().segment_volume(case.volume, [Point(case.voxel(1))], views=plane)
        expected = PLANES[plane].apply(whole.labels, code)[said.t] > 0
        assert ((place.frame_labels(plane, said.t) > 0) == expected).all()
        assert expected.any()
        place.undo(place.history.version)


def test_tracking_gives_what_the_segmenter_gives(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    clicked(place, case, 2)
    tracked(place)
    prompts = [Point(case.voxel(1), 1), Point(case.voxel(2), 2)]
    expected = segmenter().segment_volume(case.volume, prompts)
    assert (place.result().labels[0] == expected.labels).all()
    assert place.volumes_ml() == {1: (case.truth == 1).sum() / 1000, 2: (case.truth == 2).sum() / 1000}
    assert sum(row.prompted for row in place.result().rows) == 2
    assert place.result().uncertainty is not None


def test_a_correction_is_the_segmenters(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    tracked(place)
    before = place.result().labels[0].copy()
    place.add_gesture(place.history.version, click(case, 1))
    tracked(place)
    expected = segmenter().segment_volume(case.volume, [Point(case.voxel(1))], earlier=before)
    assert (place.result().labels[0] == expected.labels).all()


def test_a_further_structure_leaves_the_first_alone(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    tracked(place)
    clicked(place, case, 2)
    tracked(place, "three")
    assert (place.result().labels[0] == case.truth).all()


def test_undo_and_redo_go_all_the_way(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    seen = [place.current_labels()[0]]
    for step in (
        lambda: place.add_structure(place.history.version),
        lambda: place.add_gesture(place.history.version, click(case, 1)),
    ):
        step()
        seen.append(place.current_labels()[0])
    tracked(place)
    seen.append(place.current_labels()[0])
    for expected in reversed(seen[:-1]):
        place.undo(place.history.version)
        assert (place.current_labels()[0] == expected).all()
    with pytest.raises(InvalidRequest):
        place.undo(place.history.version)
    for expected in seen[1:]:
        place.redo(place.history.version)
        assert (place.current_labels()[0] == expected).all()


def test_a_new_structure_and_its_name_are_one_step(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)

    def names() -> list[str]:
        return [each.name for each in place.history.state.structures]

    place.add_structure(place.history.version)
    place.change_structure(place.history.version, 1, "liver")
    assert names() == ["liver"]
    place.change_structure(place.history.version, 1, "spleen")
    place.undo(place.history.version)
    assert names() == ["liver"], "a name that was given is changed by a step of its own"
    place.undo(place.history.version)
    assert names() == []
    place.redo(place.history.version)
    assert names() == ["liver"]
    clicked(place, case, 2)
    place.change_structure(place.history.version, 2, "kidney")
    place.undo(place.history.version)
    assert names() == ["liver", "structure 2"], "it was clicked on before"
    again, _ = session(tmp_path, queue)
    assert again.history == place.history


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    tracked(place)
    clicked(place, case, 2)
    place.undo(place.history.version)
    place.redo(place.history.version)
    journal = tmp_path / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"version":99,"kind":"sa')  # a step that was being written when the power went
    again, _ = session(tmp_path, queue)
    assert again.history == place.history
    assert (again.current_labels()[0] == place.current_labels()[0]).all()
    again.undo(again.history.version)
    third, _ = session(tmp_path, queue)
    assert third.history == again.history


def test_a_journal_that_lost_the_steps_of_results_is_refused(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    before = (tmp_path / "journal.jsonl").read_bytes()
    tracked(place)
    (tmp_path / "journal.jsonl").write_bytes(before)  # a kill between the result and its step
    again, _ = session(tmp_path, queue)
    assert again.history.state.tracked is None
    (tmp_path / "journal.jsonl").write_bytes(b"")
    with pytest.raises(FormatError, match="lacks the steps of results"):
        session(tmp_path, queue)


def test_two_tabs_cannot_overwrite_each_other(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    seen = place.history.version
    place.add_structure(seen, "mine")
    for late in (
        lambda: place.add_structure(seen, "yours"),
        lambda: place.add_gesture(seen, click(case, 1)),
        lambda: place.undo(seen),
    ):
        with pytest.raises(Conflict):
            late()
    assert list(place.history.state.names.values()) == ["mine"]


def test_tracking_can_be_cancelled_and_leaves_nothing(
    tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    before, shown = place.history, place.current_labels()[0]
    began, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        began.set()
        go_on.wait(60)

    monkeypatch.setattr(queue, "give_way", waits)
    job = place.track(before.version)
    assert began.wait(60)
    with pytest.raises(Conflict):
        place.undo(before.version)
    with pytest.raises(Conflict):
        place.track(before.version)
    assert place.frame_labels("axial", 0).shape == place.image.frame_shape("axial", 0)  # readable meanwhile
    job.cancel()
    go_on.set()
    job.wait(60)
    assert job.events[-1].kind == "cancelled"
    assert place.history == before
    assert (place.current_labels()[0] == shown).all()


def test_a_click_goes_before_the_next_tracked_frame(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path / "a", queue)
    other, _ = session(tmp_path / "b", queue)
    clicked(place, case)
    other.add_structure(0)
    job = place.track(place.history.version)
    other.add_gesture(1, click(case, 2))
    assert other.frame_labels("axial", click(case, 2).t).any()
    job.wait(60)
    assert job.events[-1].kind == "done"


def test_what_was_done_while_it_was_tracked_is_taken_back_before_the_result(
    tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    begun, done = place.history.state, threading.Event()
    monkeypatch.setattr(InferenceQueue, "give_way", lambda _: done.wait(30))
    job = place.track(place.history.version)
    place.add_structure(place.history.version)
    t = click(case, 2).t
    drawn = np.zeros(place.image.frame_shape("axial", t), bool)
    drawn[:3, :3] = True
    place.add_gesture(place.history.version, Gesture(0, 2, "axial", t, "mask", runs=encode_runs(drawn)))
    done.set()
    job.wait(60)
    states = [place.history.state]
    assert session(tmp_path, queue)[0].history == place.history
    while place.history.can_undo:
        states.append(place.undo(place.history.version).state)
    told = [(len(each.structures), len(each.gestures), each.tracked is not None, len(each.fresh)) for each in states[:4]]
    assert told == [(2, 2, True, 1), (2, 1, True, 0), (1, 1, True, 0), (1, 1, False, 1)]
    assert states[3] == begun


def test_a_failure_is_told_and_changes_nothing(tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    before = place.history

    def fails(*_: object) -> None:
        raise PromptError("it is dark", "switch on the light")

    monkeypatch.setattr(session_module, "save_result", fails)
    job = place.track(before.version)
    job.wait(60)
    assert (job.events[-1].kind, job.events[-1].message) == ("failed", "it is dark; switch on the light")
    assert place.history == before


def test_a_removed_structure_is_gone_and_comes_back_by_undo(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case, 1)
    clicked(place, case, 2)
    tracked(place)
    place.remove_structure(place.history.version, 2)
    assert set(np.unique(place.result().labels[0])) == {0, 1}
    assert 2 not in place.volumes_ml() or place.volumes_ml()[2] == 0
    place.undo(place.history.version)
    assert set(np.unique(place.result().labels[0])) == {0, 1, 2}


def test_an_outline_of_ones_own_stays_as_drawn(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    place.add_structure(0)
    t = click(case, 1).t
    drawn = np.zeros(place.image.frame_shape("axial", t), bool)
    drawn[3:6, 4:7] = True
    place.add_gesture(1, Gesture(0, 1, "axial", t, "mask", runs=encode_runs(drawn)))
    assert (place.frame_labels("axial", t) == drawn).all()
    tracked(place)
    assert (place.frame_labels("axial", t) == drawn).all()


@pytest.mark.parametrize(
    "said",
    [
        Gesture(0, 1, "image", 0, "points", ((1, 1),), (True,)),
        Gesture(0, 1, "axial", 99, "points", ((1, 1),), (True,)),
        Gesture(0, 1, "axial", 1, "points", ((1, 99),), (True,)),
        Gesture(0, 1, "axial", 1, "points", (), ()),
        Gesture(0, 1, "axial", 1, "points", ((1, 1),), ()),
        Gesture(0, 1, "axial", 1, "box", ((1, 1), (1, 1))),
        Gesture(0, 1, "axial", 1, "mask", runs=(0, 10_000)),
        Gesture(0, 1, "axial", 1, "mask", runs=(5, 5, 2, 2)),
        Gesture(0, 1, "axial", 1, "mask"),
        Gesture(0, 7, "axial", 1, "points", ((1, 1),), (True,)),
    ],
)
def test_gestures_that_cannot_be_are_refused(tmp_path: Path, queue: InferenceQueue, said: Gesture) -> None:
    place, _ = session(tmp_path, queue)
    place.add_structure(0)
    with pytest.raises(Refusal):
        place.add_gesture(1, said)
    assert place.history.version == 1


def test_results_that_nothing_leads_back_to_are_removed(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    tracked(place)
    clicked(place, case, 2)
    tracked(place)
    assert len(list((tmp_path / "results").iterdir())) == 2
    for _ in range(3):
        place.undo(place.history.version)
    clicked(place, case, 2)
    tracked(place)
    assert len(list((tmp_path / "results").iterdir())) == 2
    again, _ = session(tmp_path, queue)
    assert (again.current_labels()[0] == place.current_labels()[0]).all()


def test_only_negative_clicks_are_refused_and_nothing_is_changed(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    place.add_structure(0)
    with pytest.raises(PromptError):
        place.add_gesture(1, click(case, 1, positive=False))
    assert place.history.version == 1


def test_there_is_nothing_to_download_before_tracking(tmp_path: Path, queue: InferenceQueue) -> None:
    place, _ = session(tmp_path, queue)
    with pytest.raises(NotFound):
        place.result()
    with pytest.raises(InvalidRequest):
        place.track(0)


@pytest.mark.parametrize("read", [lambda place: describe_state(place)["tracked"], lambda place: len(describe_rows(place)) > 0])
def test_whoever_reads_while_somebody_undoes_meets_one_state_or_the_other(
    tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch, read: Callable[[Session], object]
) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    tracked(place)
    result, undoing = place.result, threading.Thread(target=lambda: place.undo(place.history.version))

    def undo_before_reading() -> object:
        if undoing.ident is None:
            undoing.start()
            undoing.join(0.3)
        return result()

    monkeypatch.setattr(place, "result", undo_before_reading)
    assert read(place)
    undoing.join(10)
    assert place.history.state.tracked is None
    assert not read(place)


def test_what_is_forgotten_is_read_again(tmp_path: Path, queue: InferenceQueue) -> None:
    place, case = session(tmp_path, queue)
    clicked(place, case)
    tracked(place)
    before = place.current_labels()[0]
    assert place.memory_bytes > 0
    place.release_memory()
    assert place.memory_bytes == 0
    assert (place.current_labels()[0] == before).all()


@given(st.lists(st.booleans(), min_size=12, max_size=12).filter(any))
def test_runs_are_the_mask(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(3, 4)
    assert (decode_runs(encode_runs(mask), (3, 4)) == mask).all()


def test_warnings_stay_as_long_as_what_they_speak_of(
    tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracked anew, said something of, removed: those of the others stay."""
    monkeypatch.setattr(volume_tracker, "remove_islands", lambda _, prompts: [f"object {each.object} lost" for each in prompts])
    place, case = session(tmp_path, queue)
    told = lambda: describe_state(place)["warnings"]  # noqa: E731
    for label in (1, 2):
        clicked(place, case, label)
    assert told() == ()
    tracked(place)
    assert told() == ("object 1 lost", "object 2 lost")
    monkeypatch.setattr(volume_tracker, "remove_islands", lambda *_: ["object 1 took 3 voxels of object 3", "too coarse"])
    clicked(place, case, 1)
    assert told() == ("object 1 lost", "object 2 lost")
    tracked(place)
    assert told() == ("object 1 lost", "object 2 lost", "object 1 took 3 voxels of object 3", "too coarse")
    place.add_gesture(place.history.version, click(case, 1))
    assert told() == ("object 2 lost", "too coarse")
    place.undo(place.history.version)
    place.remove_structure(place.history.version, 3)
    assert told() == ("object 1 lost", "object 2 lost", "too coarse")
    place.add_gesture(place.history.version, Gesture(0, 2, "axial", 0, "erase", frames=(0, 1)))
    assert told() == ("object 1 lost", "too coarse")
    tracked(place)
    assert told() == ("object 1 lost",)
