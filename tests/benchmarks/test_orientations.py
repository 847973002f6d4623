"""What six orientations cost beside the session: the same frames count on both sides."""

import pytest
import torch

import speed_scene as scene
from benchmarks.orientations import Beside, Result, Spent, by_view, cube, measured, outlines, page
from medical_sam2.tracking.volume_tracker import FrameDone


def test_a_frame_with_one_of_two_objects_is_half_a_frame() -> None:
    assert by_view([("SPL", 2), ("SPL", 2), ("LIP", 1), ("LIP", 1), ("LIP", 1)], 2) == {"SPL": 2.0, "LIP": 1.5}


def test_the_session_is_counted_for_the_frames_that_were_tracked() -> None:
    peer = (Spent(0.5, 1.0), Spent(0.4, 0.6), Spent(9.0, 9.0))
    result = Result("auto (bf16)", {"SPL": 8, "LIP": 1.5}, Spent(1.0, 2.0), peer, 8)
    assert result.session == Spent(9.5 * 0.5, 9.5)
    assert result.faster == pytest.approx(4.75)
    text = page([result], "Head.")
    assert "| auto (bf16) | 9.5 | 48 | 1.0 | 2.0 | 500 | 4.8 | 9.5 | **4.75** | 4.75 |" in text
    assert "SPL 8, LIP 1.5." in text


def test_frames_of_the_session_are_not_our_time() -> None:
    beside = Beside(iter([torch.zeros(1)] * 9), every=2, sample=2)
    for t in range(7):
        beside(FrameDone(t, 7, "SPL", t, (1, 2), torch.zeros(0).numpy()))
    assert len(beside.measured) == 2
    assert beside.aside.wall_s >= sum(each.wall_s for each in beside.measured) > 0
    assert beside.views == [("SPL", 2)] * 7


def test_objects_lie_apart_on_the_middle_slice() -> None:
    volume = cube(scene.scene(32, 2, 20), 20)
    first, second = outlines(volume, 2)
    assert volume.shape == (20, 20, 20)
    assert first.planes() == {2}
    assert not (first.array_ijk & second.array_ijk).any()


def test_both_sides_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scene.SIZES, "tiny", (8, (1, 2, 7, 2)))
    monkeypatch.setattr("benchmarks.orientations.FILL", 2)
    result = measured(scene.network("tiny", 64), "fp32", side=4, objects=1, sample=2)
    assert len(result.peer) == 2
    assert set(result.frames) == {"SPL", "IPL", "PIL", "AIL", "LIP", "RIP"}
    assert result.own.wall_s > 0
