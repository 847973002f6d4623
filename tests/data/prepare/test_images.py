"""Tasks out of label maps: whole structures, their components, and what is too small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.data.prepare.images import LabelParts, TrainingObject, count_pixels, select_objects, split_labels
from medical_sam2.errors import FormatError
from tests.data.nnunet import blob
from tests.strategies import seeds

REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "left": (1,)}


def area(parts: LabelParts, one: TrainingObject) -> np.ndarray:
    return np.isin(parts.map, one.values)


@given(seeds, st.booleans())
def test_objects_are_exactly_the_structures_and_their_components(seed: int, components: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (3, 8, 8)) * (rng.random((3, 8, 8)) < 0.4)
    found = split_labels(labels, REGIONS, components=components, least=1)
    for name, values in REGIONS.items():
        whole = [one for one in found.objects if one.structure == name and one.component == 0]
        pieces = [area(found, one) for one in found.objects if one.structure == name and one.component > 0]
        np.testing.assert_array_equal(area(found, whole[0]), np.isin(labels, values))
        if pieces:
            assert np.sum(pieces, axis=0).max() == 1  # components never overlap
            if name not in found.crumbs:
                np.testing.assert_array_equal(np.sum(pieces, axis=0), area(found, whole[0]))


def test_one_component_stays_whole_and_two_are_told_apart() -> None:
    labels = blob((4, 20, 20), {1: (slice(None), slice(2, 8), slice(2, 8)), 2: (slice(None), slice(2, 8), slice(12, 18))})
    both = split_labels(labels, {"kidney": (1, 2), "left": (1,)}, components=True, least=1)
    assert [(one.structure, one.component) for one in both.objects] == [
        ("kidney", 0),
        ("kidney", 1),
        ("kidney", 2),
        ("left", 0),
    ]
    alone = split_labels(labels, {"kidney": (1, 2)}, components=False, least=1)
    assert [(one.structure, one.component) for one in alone.objects] == [("kidney", 0)]


def test_small_masks_are_dropped_and_said_so() -> None:
    labels = blob((2, 100, 100), {1: (slice(0, 1), slice(0, 30), slice(0, 30)), 2: (slice(1, 2), slice(50, 53), slice(50, 55))})
    found = split_labels(labels, {"organ": (1, 2), "lesion": (2,)}, components=True, least=0)
    kept, dropped = select_objects(found, count_pixels(found.map), 0.00153)
    assert [(one.structure, one.component) for one in kept] == [("organ", 0)]  # its one large component is no second task
    assert [(one.structure, one.component, one.share) for one in dropped] == [("organ", 2, 0.0015), ("lesion", 0, 0.0015)]
    kept, _ = select_objects(found, count_pixels(found.map), 0.0015)
    assert len(kept) == 4


def test_what_was_not_outlined_belongs_to_no_task() -> None:
    labels = blob((1, 8, 8), {1: (slice(0, 1), slice(0, 4), slice(0, 4)), 9: (slice(0, 1), slice(5, 8), slice(5, 8))})
    found = split_labels(labels, {"organ": (1,)}, components=True, least=1)
    assert found.map.max() == 2
    assert [area(found, one).sum() for one in found.objects] == [16]


def test_dust_is_not_told_apart() -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, ::2, ::2] = 1
    found = split_labels(labels, {"dust": (1,)}, components=True, least=1)
    assert len(found.objects) == 1 + 64
    assert dict(found.crumbs) == {"dust": 32 * 32 - 64}


def test_more_structures_than_a_byte_tells_apart() -> None:
    labels = np.arange(300).reshape(1, 15, 20)
    with pytest.raises(FormatError, match="255"):
        split_labels(labels, {str(n): (n,) for n in range(1, 300)}, components=True, least=1)
