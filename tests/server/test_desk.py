import threading
from typing import Any

import numpy as np
import torch

from medical_sam2.model.nano import nano
from medical_sam2.prompts import Point
from medical_sam2.remembering import Remembering
from medical_sam2.segmenter import Segmenter
from medical_sam2.server.desk import Turnstile
from medical_sam2.volume import Volume
from tests.phantoms import phantom


def test_remembering_changes_no_result_and_encodes_once() -> None:
    torch.manual_seed(0)
    base = Segmenter(nano(64), device="cpu", precision="fp32")
    case = phantom()
    prompts = [Point((5, 6, 8), 1)]
    expected = base.segment_volume(case.volume, prompts, probability=True)
    again = Remembering.of(base, 100)
    count = _counted(base)
    for _ in range(2):
        found = again.segment_volume(case.volume, prompts, probability=True)
        assert (found.labels == expected.labels).all()
        assert (found.probability[1] == expected.probability[1]).all()
    first = len(count)
    again.segment_volume(case.volume, prompts)
    assert len(count) == first


def test_pictures_that_differ_are_told_apart() -> None:
    base = Segmenter(nano(64), device="cpu", precision="fp32")
    again, count = Remembering.of(base, 100), _counted(base)
    grey, colour = torch.rand(1, 64, 64).expand(3, -1, -1), torch.rand(3, 64, 64)
    for picture in (grey, colour, grey.contiguous(), colour, grey):
        again.encode(picture)
    assert len(count) == 3  # the same in three channels of their own counts as a colour


def _counted(base: Segmenter) -> list[int]:
    seen: list[int] = []
    encode: Any = base.network.encode

    def counting(frames: torch.Tensor) -> object:
        seen.append(len(frames))
        return encode(frames)

    base.network.encode = counting  # type: ignore[method-assign, assignment]
    return seen


def test_one_passes_at_a_time_and_clicks_go_first() -> None:
    turnstile, order, inside = Turnstile(), list[str](), threading.Event()
    ready = threading.Barrier(3, timeout=60)

    def pass_through(name: str, urgent: bool) -> None:
        ready.wait()
        with turnstile.passing(urgent=urgent):
            order.append(name)

    with turnstile.passing(urgent=False):
        threads = [
            threading.Thread(target=pass_through, args=("track", False)),
            threading.Thread(target=pass_through, args=("click", True)),
        ]
        for thread in threads:
            thread.start()
        ready.wait()
        while len(turnstile._waiting[0]) + len(turnstile._waiting[1]) < 2:
            inside.wait(0.001)
        turnstile.give_way()
        order.append("first again")
    for thread in threads:
        thread.join(60)
    assert order.index("click") == 0
    assert sorted(order) == ["click", "first again", "track"]


def test_volumes_of_any_layout_give_the_same() -> None:
    base = Segmenter(nano(64), device="cpu", precision="fp32")
    array = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    found = [
        base.segment_volume(Volume(np.asarray(array, order=order), np.eye(4)), [Point((4, 4, 4))]).labels for order in "CF"
    ]
    assert (found[0] == found[1]).all()
