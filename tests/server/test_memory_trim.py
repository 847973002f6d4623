import sys

import pytest

from medical_sam2.server import inference_queue
from medical_sam2.server.inference_queue import limit_heaps, trim_memory


class Glibc:
    """Notes its calls, and does nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append((option, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


def everything() -> None:
    limit_heaps()
    trim_memory()


def test_the_c_library_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Glibc()
    monkeypatch.setattr(inference_queue, "_c_library", lambda: library)
    everything()
    assert library.calls == [(-8, 2), (0,)]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(inference_queue.ctypes, "CDLL", lambda name: asked.append(name) or object())
    everything()
    assert len(asked) == (2 if sys.platform.startswith("linux") else 0)
    monkeypatch.setattr(sys, "platform", "elsewhere")
    everything()
    assert len(asked) in (0, 2)
