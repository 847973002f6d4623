import sys

import pytest

from medical_sam2.server import thrift


def test_memory_is_given_back_or_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    thrift.share()
    thrift.give_back()
    monkeypatch.setattr(sys, "platform", "elsewhere")
    thrift.share()
    thrift.give_back()
