import sys

import pytest

from medical_sam2 import heap


class Glibc:
    """Notes what it is told, and does nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.told.append((option, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.told.append((pad,))
        return 1


def everything() -> None:
    heap.share()
    heap.reuse()
    heap.give_back()


def test_the_c_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Glibc()
    monkeypatch.setattr(heap, "_c", lambda: library)
    everything()
    assert library.told == [(-8, 2), (-1, 256 * 2**20), (-3, 32 * 2**20), (0,)]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: asked.append(name) or object())
    everything()
    assert len(asked) == (3 if sys.platform.startswith("linux") else 0)
    monkeypatch.setattr(sys, "platform", "elsewhere")
    everything()
    assert len(asked) in (0, 3)
