"""What the page is told of a volume, and that a volume can go once nobody holds it."""

import gc
from weakref import ref

import numpy as np
import pytest

from medical_sam2.server import looks
from medical_sam2.volume import Volume


def volume() -> Volume:
    array = np.zeros((4, 5, 6), np.int16)
    array[1, 2, 3] = 900
    return Volume(array, np.eye(4), "CT")


def test_the_extent_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = volume()
    assert looks.extent(one) == (0.0, 900.0)
    monkeypatch.setattr("medical_sam2.server.looks.float", lambda _: 1.0, raising=False)
    assert looks.extent(one) == (0.0, 900.0)
    assert looks.extent(volume()) == (1.0, 1.0)


def test_a_closed_volume_is_not_kept() -> None:
    one = volume()
    looks.extent(one)
    looks.window(one)
    gone = ref(one)
    del one
    gc.collect()
    assert gone() is None
