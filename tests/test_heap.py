import sys

import pytest

from medical_sam2 import heap


def test_memory_is_given_back_or_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    heap.share()
    heap.reuse()
    heap.give_back()
    monkeypatch.setattr(sys, "platform", "elsewhere")
    heap.share()
    heap.give_back()
    heap.reuse()
