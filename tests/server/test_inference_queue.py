import threading

import numpy as np

from medical_sam2.model.nano import nano
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.server.inference_queue import PriorityLock
from medical_sam2.volume import Volume


def test_one_passes_at_a_time_and_clicks_go_first() -> None:
    lock, order, inside = PriorityLock(), list[str](), threading.Event()
    ready = threading.Barrier(3, timeout=60)

    def pass_through(name: str, urgent: bool) -> None:
        ready.wait()
        with lock.held(urgent=urgent):
            order.append(name)

    with lock.held(urgent=False):
        threads = [
            threading.Thread(target=pass_through, args=("track", False)),
            threading.Thread(target=pass_through, args=("click", True)),
        ]
        for thread in threads:
            thread.start()
        ready.wait()
        while len(lock._waiting[0]) + len(lock._waiting[1]) < 2:
            inside.wait(0.001)
        lock.give_way()
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
