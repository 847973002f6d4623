"""What a second core is said to gain."""

import pytest
import torch

from benchmarks import cores
from medical_sam2.prompts import Point
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import phantom, segmenter


def test_gain_is_the_median_of_rounds_and_the_main_thread_bounds_it() -> None:
    walls = {1: (10.0, 12.0, 14.0), 2: (5.0, 8.0, 7.0)}
    rows = [
        {"threads": threads, "wall": walls[threads][turn], "processor": 9.0, "main": 9.0 / threads, "frames": 100}
        for turn in range(3)
        for threads in (1, 2)
    ]
    text = cores.report(rows, [1, 2])
    assert "1 thread(s): 10.0 s, processor 9.0 s, main 9.0 s, 100 ms a frame, 100 frames" in text
    assert "2 threads: 2.00 times as fast as 1, 2.00 at most" in text


def test_a_run_counts_its_frames_and_the_time_of_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    case, threads, seen = phantom(), torch.get_num_threads(), list[tuple[int, Point]]()
    original = type(segmenter()).segment_volume

    def watched(self: object, volume: Volume, prompts: list[Point], **options: object) -> Segmentation:
        seen.append((torch.get_num_threads(), prompts[0]))
        return original(self, volume, prompts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(segmenter()), "segment_volume", watched)
    try:
        found, row = cores.measured(segmenter(), case.volume, "one", 2)
    finally:
        torch.set_num_threads(threads)
    assert found.labels.shape == case.volume.shape
    assert row["frames"] >= 1
    assert 0 < row["main"] <= row["processor"] + 0.01
    assert row["main"] <= row["wall"] + 0.01
    middle = tuple(side // 2 for side in case.volume.shape)
    assert seen == [(2, Point(middle))]  # type: ignore[arg-type]
