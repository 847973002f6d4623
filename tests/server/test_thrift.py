import sys

import pytest

from medical_sam2.server import thrift


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
    thrift.share()
    thrift.give_back()


def test_the_c_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Glibc()
    monkeypatch.setattr(thrift, "_c", lambda: library)
    everything()
    assert library.told == [(-8, 2), (0,)]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(thrift.ctypes, "CDLL", lambda name: asked.append(name) or object())
    everything()
    assert len(asked) == (2 if sys.platform.startswith("linux") else 0)
    monkeypatch.setattr(sys, "platform", "elsewhere")
    everything()
    assert len(asked) in (0, 2)
