"""What the page is told of a volume, and that a volume can go once its session is closed."""

import gc
from weakref import ref

import numpy as np

from medical_sam2.intensity_window import Window
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.views import SIX_VIEWS
from medical_sam2.volume import Segmentation, SliceConfidence, Volume


def subject() -> SessionVolume:
    array = np.zeros((4, 5, 6), np.int16)
    array[1, 2, 3] = 900
    return SessionVolume(Volume(array, np.eye(4), "CT"))


def test_the_extent_is_computed_once_for_each_volume() -> None:
    one, other = subject(), subject()
    other.volume.array[0, 0, 0] = -5
    assert one.extent == Window(0.0, 900.0)
    assert one.extent is one.extent
    assert other.extent == Window(-5.0, 900.0)


def test_a_closed_volume_is_not_kept() -> None:
    one = subject()
    assert one.extent == Window(0.0, 900.0)
    assert one.window.low < one.window.high
    gone = ref(one.volume)
    del one
    gc.collect()
    assert gone() is None


def test_a_frame_that_views_in_opposite_directions_show_has_one_row() -> None:
    """Six views see each frame twice; the review would name it twice."""
    one = subject()
    codes = [view.code for view in SIX_VIEWS if view.name == "axial"]
    rows = [
        SliceConfidence(1, codes[0], 2, 0.4, 9, source="consensus"),
        SliceConfidence(1, codes[1], 2, 0.9, 9),
        SliceConfidence(1, codes[0], 3, 0.5, 9),
        SliceConfidence(1, codes[1], 3, 0.6, 9),
        SliceConfidence(2, codes[1], 3, 0.3, 9),
    ]
    found = one._rows(Segmentation(np.zeros((4, 5, 6), np.uint8), np.eye(4), confidence=tuple(rows)))
    assert [(row.object, row.view, row.confidence) for row in found] == [
        (1, "axial", 0.4),
        (1, "axial", 0.6),
        (2, "axial", 0.3),
    ]
